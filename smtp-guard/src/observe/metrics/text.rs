//! The two text formats: OpenMetrics for whoever asks for it, the classic one of Prometheus for everybody else.

use std::fmt::Write as _;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`, which all collectors read.
    Classic,
    /// OpenMetrics 1.0.
    Open,
}

impl Format {
    /// The media type, as the answer names it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that the values of `Accept` ask for. OpenMetrics has to be named; where the classic format is named as well,
    /// the greater `q` decides, and the same `q` is for OpenMetrics. Wildcards ask for nothing in particular.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut classic) = (0, 0);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut readable) = (1000, true);
            for parameter in parts {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                let value = value.trim().trim_matches('"');
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = permille(value),
                    "version" => readable = matches!(value, "1.0.0" | "0.0.1"),
                    _ => {}
                }
            }
            if kind.eq_ignore_ascii_case("application/openmetrics-text") && readable {
                open = open.max(quality);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                classic = classic.max(quality);
            }
        }
        if open > 0 && open >= classic { Self::Open } else { Self::Classic }
    }
}

/// A `q` (RFC 9110 12.4.2) in thousandths; one that is none asks for nothing.
fn permille(text: &str) -> u32 {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => (value * 1000.0) as u32,
        _ => 0,
    }
}

/// `open`, an exposition in OpenMetrics, in the classic format: there a counter's family is named as its samples are, and
/// nothing marks the end.
pub(super) fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1024);
    let mut help = "";
    for line in open.lines() {
        if let Some(about) = line.strip_prefix("# HELP ") {
            help = about.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|about| about.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            // Writing to a String can't fail.
            _ = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &[&str], expected: Format) {
        assert_eq!(Format::accepted(accept.iter().copied()), expected, "{accept:?}");
    }

    #[test]
    fn openmetrics_is_for_whoever_asks_for_it() {
        use Format::{Classic, Open};
        check(&[], Classic);
        check(&[""], Classic);
        check(&["*/*"], Classic);
        check(&["text/html,application/xhtml+xml,*/*;q=0.8"], Classic);
        check(&["text/plain;version=0.0.4"], Classic);
        check(&["application/openmetrics-text"], Open);
        check(&["Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"], Open);
        check(&["text/plain", "application/openmetrics-text"], Open);
        check(&["application/openmetrics-text;q=0"], Classic);
        check(&["application/openmetrics-text;q=0.000"], Classic);
        check(&["application/openmetrics-text;q=x"], Classic);
        check(&["application/openmetrics-text;q=7"], Classic);
        check(&["application/openmetrics-text;version=2.0.0"], Classic);
        check(&["application/openmetrics-text;q=0.3,text/plain;q=0.5"], Classic);
        check(&["application/openmetrics-text; q=\"0.5\" , text/plain;q=0.3"], Open);
        // Prometheus 2.42 and 3.0.
        check(
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            Open,
        );
        check(
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ],
            Open,
        );
    }

    #[test]
    fn a_family_has_the_name_of_its_samples() {
        let open = "# HELP a_b Things.\n# TYPE a_b counter\na_b_total{x=\"#\"} 1\n# HELP c Now.\n# TYPE c gauge\n# UNIT c s\nc 2\n# EOF\n";
        let expected = "# HELP a_b_total Things.\n# TYPE a_b_total counter\na_b_total{x=\"#\"} 1\n# HELP c Now.\n# TYPE c gauge\nc 2\n";
        assert_eq!(classic(open), expected);
    }
}
