//! Decisions of CrowdSec, and its JSON. It has alerts that hold decisions (`cscli decisions list -o json`), decisions (the
//! local API, and what can be imported), or the API's stream of new and deleted ones.
//!
//! Only bans of addresses and ranges count. Captchas, simulated decisions, those that were over, and those about users,
//! countries or AS numbers are skipped. What a stream calls deleted had been new in an earlier one. It stands in no list of
//! ours, and a new decision about the same address would still hold.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::blocklist::fault::Fault;
use crate::blocklist::list::{Left, Reading};

/// A decision's parts, as text. What isn't there is what CrowdSec would take: a ban of an address.
#[derive(Debug, Default)]
pub(super) struct Decision<'a> {
    pub(super) scope: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) value: &'a str,
    /// Time that is left: `3h50m`, or `-2m` where it is over.
    pub(super) duration: Option<&'a str>,
    /// The end, as RFC 3339 has it, where there is no duration.
    pub(super) until: Option<&'a str>,
    pub(super) simulated: bool,
}

impl Decision<'_> {
    pub(super) fn judge(&self, line: usize, reading: &mut Reading<'_>) -> Result<(), Fault> {
        let is = |text: Option<&str>, words: &[&str]| match text {
            None | Some("") => true,
            Some(text) => words.iter().any(|word| word.eq_ignore_ascii_case(text)),
        };
        let over = self.duration.is_some_and(|duration| duration.starts_with('-'));
        if self.simulated || over || !is(self.kind, &["ban"]) || !is(self.scope, &["ip", "range"]) {
            reading.skip();
            return Ok(());
        }
        match self.left(reading) {
            Ok(Left::For(Duration::ZERO)) => reading.skip(),
            Ok(left) => {
                reading.say(left, None);
                return reading.entry(line, self.value.as_bytes());
            }
            Err(why) => reading.wrong(line, self.value.as_bytes(), why),
        }
        Ok(())
    }

    /// The time that is left, where anybody asks.
    fn left(&self, reading: &Reading<'_>) -> Result<Left, &'static str> {
        let said = |text: Option<&'_ str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        match (reading.now(), said(self.duration), said(self.until)) {
            (None, ..) | (Some(_), None, None) => Ok(Left::Unsaid),
            (Some(_), Some(duration), _) => {
                go_duration(&duration).map(Left::For).ok_or("its duration can't be read: 3h50m is one")
            }
            (Some(now), None, Some(until)) => {
                let until: jiff::Timestamp = until.parse().map_err(|_| "its end can't be read")?;
                let ms = until.as_millisecond().saturating_sub(now.as_ms());
                Ok(Left::For(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
            }
        }
    }
}

/// A duration as Go writes it: `3h50m12.5s`, `350ms`. What is over is zero.
fn go_duration(text: &str) -> Option<Duration> {
    if text.starts_with('-') {
        return Some(Duration::ZERO);
    }
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units =
            [("ms", 1e-3), ("us", 1e-6), ("\u{b5}s", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        // CrowdSec takes days as well.
        let (unit, factor) = units.into_iter().chain([("d", 86_400.0)]).find(|(unit, _)| rest.starts_with(unit))?;
        seconds += amount * factor;
        rest = &rest[unit.len()..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// An alert or a decision.
#[derive(Deserialize)]
struct Element<'a> {
    #[serde(borrow, default)]
    decisions: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    duration: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    until: Option<Cow<'a, str>>,
    #[serde(default)]
    simulated: Option<bool>,
}

/// A part of a stream: `null` where there is nothing.
type Elements<'a> = Option<Vec<&'a RawValue>>;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Json(error.to_string()))?;
    let json = |error: serde_json::Error| Fault::Json(error.to_string());
    let mut place = Place::new(text);
    if text.trim_start().starts_with('{') {
        let parts: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text).map_err(json)?;
        let part = |name| parts.get(name).map(|raw| serde_json::from_str::<Elements<'_>>(raw.get())).transpose();
        let (new, deleted) = (part("new").map_err(json)?, part("deleted").map_err(json)?);
        if new.is_none() && deleted.is_none() {
            return Err(Fault::Unrecognised);
        }
        deleted.iter().flatten().flatten().for_each(|_| reading.skip());
        return new.iter().flatten().flatten().try_for_each(|raw| element(raw, false, &mut place, reading));
    }
    let elements: Elements<'_> = serde_json::from_str(text).map_err(json)?;
    elements.iter().flatten().try_for_each(|raw| element(raw, false, &mut place, reading))
}

/// Reads an element; `within`: of an alert, which has no alerts in it.
fn element(raw: &RawValue, within: bool, place: &mut Place<'_>, reading: &mut Reading<'_>) -> Result<(), Fault> {
    let line = place.line_of(raw);
    let element = serde_json::from_str::<Element<'_>>(raw.get());
    match element {
        Ok(Element { decisions: Some(decisions), .. }) if !within => {
            decisions.into_iter().try_for_each(|raw| self::element(raw, true, place, reading))
        }
        Ok(Element { value: Some(value), scope, kind, duration, until, simulated, .. }) => {
            let (scope, kind, duration) = (scope.as_deref(), kind.as_deref(), duration.as_deref());
            let (until, simulated) = (until.as_deref(), simulated.unwrap_or(false));
            Decision { scope, kind, value: &value, duration, until, simulated }.judge(line, reading)
        }
        _ => {
            reading.wrong(line, raw.get().as_bytes(), "no decision");
            Ok(())
        }
    }
}

/// The place in the text where something stands. Asked in the order of the text.
pub(super) struct Place<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Place<'a> {
    /// At the beginning.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1 }
    }

    pub(super) fn line_of(&mut self, raw: &RawValue) -> usize {
        let at = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        if let Some(passed) = self.text.as_bytes().get(self.at..at) {
            self.line += memchr::memchr_iter(b'\n', passed).count();
            self.at = at;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read() {
        for (text, ms) in [
            ("3h50m", Some(13_800_000)),
            ("3h59m58.5s", Some(14_398_500)),
            ("350ms", Some(350)),
            ("87600h0m0s", Some(315_360_000_000)),
            ("7d", Some(604_800_000)),
            ("-2m", Some(0)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("4", None),
            ("h", None),
            ("4x", None),
            ("4h3", None),
            ("1.2.3h", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text).map(|length| length.as_millis()), ms, "{text}");
        }
    }
}
