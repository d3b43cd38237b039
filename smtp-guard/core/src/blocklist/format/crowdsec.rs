//! Decisions of CrowdSec, and its JSON: alerts that hold decisions (`cscli decisions list -o json`), decisions (the local
//! API, and what can be imported), or the API's stream of new and deleted ones.
//!
//! Only bans of addresses and ranges count. Captchas, simulated decisions, those that were over, and those about users,
//! countries or AS numbers are skipped. What a stream calls deleted had been new in an earlier one: it stands in no list
//! of ours, and a new decision about the same address would still hold.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::blocklist::fault::Fault;
use crate::blocklist::list::Reading;

/// A decision's parts, as text. What isn't there is what CrowdSec would take: a ban of an address.
#[derive(Debug, Default)]
pub(super) struct Decision<'a> {
    pub(super) scope: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) value: &'a str,
    /// Time that is left: `3h50m`, or `-2m` where it is over.
    pub(super) duration: Option<&'a str>,
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
        reading.entry(line, self.value.as_bytes())
    }
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
    #[serde(default)]
    simulated: Option<bool>,
}

/// What a part of a stream is: `null` where there is nothing.
type Elements<'a> = Option<Vec<&'a RawValue>>;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Json(error.to_string()))?;
    let json = |error: serde_json::Error| Fault::Json(error.to_string());
    let mut place = Place { text, at: 0, line: 1 };
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
        Ok(Element { value: Some(value), scope, kind, duration, simulated, .. }) => {
            let (scope, kind, duration) = (scope.as_deref(), kind.as_deref(), duration.as_deref());
            let simulated = simulated.unwrap_or(false);
            Decision { scope, kind, value: &value, duration, simulated }.judge(line, reading)
        }
        _ => {
            reading.wrong(line, raw.get().as_bytes(), "no decision");
            Ok(())
        }
    }
}

/// Where in the text something stands. Asked in the order of the text.
struct Place<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Place<'_> {
    fn line_of(&mut self, raw: &RawValue) -> usize {
        let at = (raw.get().as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        if let Some(passed) = self.text.as_bytes().get(self.at..at) {
            self.line += memchr::memchr_iter(b'\n', passed).count();
            self.at = at;
        }
        self.line
    }
}
