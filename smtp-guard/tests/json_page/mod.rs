//! docs/json.md as tests read it: which fields an answer may have, and of which type each is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Time,
    Number,
    Seconds,
    Boolean,
    List,
    Object,
}

/// A row of a table: the name of a field, and its type.
struct Row {
    section: String,
    field: String,
    kind: Kind,
    is_null: bool,
}

/// The whole page.
pub(crate) struct Page(Vec<Row>);

impl Page {
    pub(crate) fn read() -> Self {
        // Within the binary: kernels are booted with nothing else in memory.
        let page = include_str!("../../../docs/json.md");
        let mut section = String::new();
        let mut rows = Vec::new();
        for line in page.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                section = heading.to_owned();
            }
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            if let ["", field, kind, _, ""] = cells.as_slice()
                && let Some(field) = field.strip_prefix('`').and_then(|field| field.strip_suffix('`'))
            {
                let (kind, is_null) = kind.strip_suffix(" or null").map_or((*kind, false), |kind| (kind, true));
                let kind = match kind {
                    "text" => Kind::Text,
                    "time" => Kind::Time,
                    "number" => Kind::Number,
                    "seconds" => Kind::Seconds,
                    "boolean" => Kind::Boolean,
                    "object" | "decision" => Kind::Object,
                    list if list.starts_with("list of ") => Kind::List,
                    other => panic!("{line}: {other} is no type"),
                };
                rows.push(Row { section: section.clone(), field: field.to_owned(), kind, is_null });
            }
        }
        let page = Self(rows);
        page.check_names();
        page
    }

    /// `answer` is what the command of `arguments` may say.
    #[track_caller]
    pub(crate) fn check_command(&self, arguments: &[&str], answer: &Value) {
        let command = match arguments {
            ["recipients", ..] => "recipients".to_owned(),
            ["explain", who, ..] if who.split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) => {
                "explain IP".to_owned()
            }
            ["explain", ..] => "explain USER".to_owned(),
            [group @ ("accounts" | "config" | "decisions" | "edge" | "fleet"), command, ..] => {
                format!("{group} {command}")
            }
            [command, ..] => (*command).to_owned(),
            [] => String::new(),
        };
        let mut headings: Vec<_> = self.0.iter().map(|row| row.section.as_str()).collect();
        headings.dedup();
        headings.retain(|heading| {
            // What they have of others.
            let more = matches!(
                (command.as_str(), *heading),
                ("top", "status" | "events" | "fleet status")
                    | ("webhook", "events")
                    | ("status", "fleet status")
                    | ("try", "explain IP")
            );
            more || heading.split(", ").any(|named| named == command)
        });
        assert!(!headings.is_empty(), "{arguments:?} is not in docs/json.md");
        self.check(&headings, answer);
    }

    /// A name has one type wherever it stands, and says so where it is a length of time.
    fn check_names(&self) {
        let mut kinds = BTreeMap::new();
        for Row { section, field, kind, .. } in &self.0 {
            let before = kinds.insert(field, kind);
            assert!(
                before.is_none_or(|before| before == kind),
                "{section}: {field} is {kind:?}, and {before:?} elsewhere"
            );
            assert_eq!(field.ends_with("_seconds"), *kind == Kind::Seconds, "{section}: {field}");
            let unit = ["_ms", "_us", "_ns", "_minutes", "_hours", "_days"].iter().any(|unit| field.ends_with(unit));
            assert!(
                !unit && field.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{section}: {field}"
            );
        }
    }

    /// `answer` has a version, and each of its fields stands in a section of `headings` or among the objects, with its type.
    #[track_caller]
    fn check(&self, headings: &[&str], answer: &Value) {
        assert_eq!(answer["version"], 2, "{headings:?}: {answer:#}");
        let Value::Object(fields) = answer else { panic!("{headings:?}: {answer:#}") };
        fields
            .iter()
            .filter(|(name, _)| *name != "version")
            .for_each(|(name, value)| self.field(headings, name, value));
    }

    #[track_caller]
    fn field(&self, headings: &[&str], name: &str, value: &Value) {
        let here =
            |row: &&Row| row.field == name && (headings.contains(&row.section.as_str()) || row.section == "Objects");
        let rows: Vec<_> = self.0.iter().filter(here).collect();
        assert!(!rows.is_empty(), "{headings:?}: {name} is not in docs/json.md");
        let fits = |row: &&Row| match (row.kind, value) {
            (_, Value::Null) => row.is_null,
            (Kind::Time, Value::String(text)) => is_time(text),
            (Kind::Text, Value::String(text)) => !is_time(text),
            (Kind::Number | Kind::Seconds, Value::Number(_))
            | (Kind::Boolean, Value::Bool(_))
            | (Kind::List, Value::Array(_))
            | (Kind::Object, Value::Object(_)) => true,
            _ => false,
        };
        assert!(rows.iter().any(fits), "{headings:?}: {name} is {value:#}");
        self.within(headings, value);
    }

    /// The fields of what `value` holds.
    #[track_caller]
    fn within(&self, headings: &[&str], value: &Value) {
        match value {
            Value::Array(elements) => elements.iter().for_each(|element| self.within(headings, element)),
            Value::Object(object) => object.iter().for_each(|(name, value)| self.field(headings, name, value)),
            _ => {}
        }
    }
}

/// `2026-11-24T11:00:00.000Z`.
fn is_time(text: &str) -> bool {
    text.len() == 24
        && text.bytes().zip(*b"0000-00-00T00:00:00.000Z").all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            shape => byte == shape,
        })
}
