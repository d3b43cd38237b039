//! Rules of what a part must not know, checked: dependencies run one way and in no circle, unsafe code stays inside its fence, files stay
//! short.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::paths::named;

/// In files below `place`, no line and no path may contain one of `words`.
struct Rule {
    place: &'static str,
    words: &'static [&'static str],
    reason: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        place: "smtp-guard/core/src/",
        words: &[
            "tokio",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "std::process",
            "std::env",
            "Instant::now",
            "tracing::",
        ],
        reason: "the pure crate is given facts and time, and returns what is to be done",
    },
    Rule {
        place: "smtp-guard/core/src/wire/",
        words: &[
            "crate::session",
            "crate::policy",
            "crate::config",
            "crate::facts",
            "crate::ledger",
            "crate::gate",
            "crate::marks",
            "crate::rates",
        ],
        reason: "wire turns bytes into tokens and knows nothing else",
    },
    Rule {
        place: "smtp-guard/core/src/config/",
        words: &["crate::session", "crate::policy", "crate::ledger", "crate::gate", "crate::marks", "crate::rates"],
        reason: "the configuration is read by all and reads none",
    },
    Rule {
        place: "smtp-guard/core/src/policy/",
        words: &["crate::session", "crate::ledger", "crate::gate", "crate::marks", "crate::rates"],
        reason: "policy decides from facts and rules",
    },
    Rule {
        place: "smtp-guard/core/src/session/",
        words: &["crate::ledger", "crate::gate", "crate::marks", "crate::rates"],
        reason: "a session reports what it hears, and knows nobody who counts",
    },
    Rule {
        place: "smtp-guard/core/src/ledger/",
        words: &["crate::session", "crate::policy", "crate::wire", "crate::facts"],
        reason: "the ledger hears reports; it knows no session",
    },
    Rule {
        place: "smtp-guard/core/src/facts/",
        words: &["crate::session", "crate::policy", "crate::ledger", "crate::gate"],
        reason: "facts are found out, not decided upon",
    },
    Rule {
        place: "smtp-guard/core/src/fleet/",
        words: &[
            "crate::session",
            "crate::policy",
            "crate::wire",
            "crate::ledger",
            "crate::gate",
            "crate::marks",
            "crate::rates",
            "crate::config",
            "redis",
        ],
        reason: "a fleet shares reports and decisions; it knows neither SMTP, nor who counts, nor what carries its messages",
    },
    Rule {
        place: "smtp-guard/core/src/blocklist/",
        words: &["crate::session", "crate::policy", "crate::ledger", "crate::gate", "crate::wire"],
        reason: "a list is read and looked into; who follows files and who drops packets is elsewhere",
    },
    Rule {
        place: "smtp-guard/core/src/blocklist/format/",
        words: &["std::io", "crate::config", "serde_json::Value"],
        reason: "formats are bytes in, entries out",
    },
    Rule {
        place: "smtp-guard/src/facts/",
        words: &["crate::session", "crate::relay", "crate::feedback", "crate::edge", "crate::store", "crate::cli"],
        reason: "facts are found out, not decided upon",
    },
    Rule {
        place: "smtp-guard/src/facts/dns/breaker.rs",
        words: &["hickory", "tokio", "Instant::now", "tracing"],
        reason: "the breaker is pure; time is passed in",
    },
    Rule {
        place: "smtp-guard/src/facts/dns/shares.rs",
        words: &["hickory", "tokio", "Instant::now", "tracing"],
        reason: "who has a place is decided by time that is passed in",
    },
    Rule {
        place: "smtp-guard/src/facts/dns/memory.rs",
        words: &["hickory", "tokio", "Instant::now", "tracing"],
        reason: "the memory is told the time",
    },
    Rule {
        place: "smtp-guard/src/facts/dns/names.rs",
        words: &["hickory", "tokio"],
        reason: "names are judged before any resolver sees them",
    },
    Rule {
        place: "smtp-guard/src/facts/dns/zone.rs",
        words: &["hickory", "tokio"],
        reason: "a list's replies are judged without I/O",
    },
    Rule {
        place: "smtp-guard/src/events/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::store",
            "crate::observe",
            "crate::cli",
            "tracing::",
            "clock::now",
            "clock::wall",
        ],
        reason: "the bus knows neither who tells nor who hears",
    },
    Rule {
        place: "smtp-guard/src/webhook/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::store",
            "crate::observe",
            "crate::fleet",
            "crate::cli",
        ],
        reason: "the webhook sends events, and knows neither who tells them nor what they mean",
    },
    Rule {
        place: "smtp-guard/src/fleet/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::policy",
            "crate::wire",
            "crate::store",
            "crate::observe",
            "crate::cli",
        ],
        reason: "the fleet carries reports and decisions; it knows neither SMTP, nor the kernel, nor who counts",
    },
    Rule {
        place: "smtp-guard/src/observe/",
        words: &["crate::feedback"],
        reason: "what is observed is a decision, not who makes it",
    },
    Rule {
        place: "smtp-guard/src/feedback/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::cli",
            "crate::wire",
            "crate::observe::admin",
            "crate::observe::metrics",
            "crate::fleet",
            "crate::store::sqlite",
            "Sqlite",
            "rusqlite",
        ],
        reason: "feedback hears reports and makes bans; it knows no session, and no kind of store",
    },
    Rule {
        place: "smtp-guard/src/edge/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::policy",
            "crate::wire",
            "crate::store",
            "crate::cli",
            "crate::observe",
            "tokio",
        ],
        reason: "edge is the kernel boundary and knows neither SMTP nor the ledger",
    },
    Rule {
        place: "smtp-guard/src/store/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::edge",
            "crate::policy",
            "crate::wire",
            "crate::cli",
            "crate::feedback",
        ],
        reason: "the store keeps decisions and enforces none",
    },
    Rule {
        place: "smtp-guard/src/relay/",
        words: &["crate::cli", "crate::store", "crate::observe::admin"],
        reason: "the command line puts the parts together, not the other way round",
    },
    Rule {
        place: "smtp-guard/src/observe/drops/",
        words: &["tokio", "Instant::now", "WallTime::now"],
        reason: "samples are counted without I/O; time is passed in",
    },
    Rule {
        place: "smtp-guard/src/observe/page/snapshot.rs",
        words: &["tokio", "maud", "clock::now", "clock::both", "clock::wall"],
        reason: "a moment is made of what is passed in",
    },
    Rule {
        place: "smtp-guard/src/observe/page/view.rs",
        words: &["tokio", "axum", "clock::now", "clock::both", "clock::wall"],
        reason: "the page is written of snapshots alone",
    },
    Rule {
        place: "smtp-guard/src/observe/page/feed.rs",
        words: &["maud", "axum"],
        reason: "the feed hands on what is written, and knows neither HTML nor HTTP",
    },
    Rule {
        place: "smtp-guard/src/cli/top/model.rs",
        words: &["ratatui", "tokio", "Instant::now", "WallTime::now"],
        reason: "rows are made of snapshots alone",
    },
    Rule {
        place: "smtp-guard/src/cli/top/state.rs",
        words: &["tokio", "Instant::now", "WallTime::now"],
        reason: "the view's state is told keys, answers and the time",
    },
    Rule {
        place: "smtp-guard/src/cli/top/screen.rs",
        words: &["crossterm", "tokio", "Instant::now", "WallTime::now"],
        reason: "the screen is drawn from the state, on any terminal",
    },
    Rule {
        place: "smtp-guard-ebpf/src/parse.rs",
        words: &["maps", "decide", "aya"],
        reason: "parse knows no maps and no verdicts",
    },
    Rule {
        place: "tests/src/stress/ends.rs",
        words: &["tokio", "socket2", "std::net"],
        reason: "the ends of the stress run are one table for client and server, without I/O",
    },
    Rule {
        place: "smtp-guard/benches/flood/search.rs",
        words: &["crate::", "std::fs", "Instant", "Command"],
        reason: "the search is given numbers and measures nothing",
    },
    Rule { place: "smtp-guard-ebpf/src/decide.rs", words: &["frame", "aya", "u8]"], reason: "decide knows no bytes" },
];

/// The only files that may allow unsafe code.
const FENCE: &[&str] = &[
    "smtp-guard-ebpf/src/main.rs",
    "smtp-guard-ebpf/src/bench.rs",
    "smtp-guard-ebpf/src/ctx.rs",
    "smtp-guard-ebpf/src/maps.rs",
    "smtp-guard-ebpf/src/conns.rs",
    "smtp-guard/src/edge/sys.rs",
    "smtp-guard/src/memory.rs",
];

/// Crates whose parts, their folders and files, may not know each other in a circle.
const NO_CIRCLES: [&str; 2] = ["smtp-guard/src/", "smtp-guard/core/src/"];

/// Lines of a Rust file without its tests. Length is a symptom: beyond this, ask whether it is still one idea.
const LONGEST: usize = 800;

/// Checks all Rust files below `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let (mut faults, mut parts) = (Vec::new(), Parts::default());
    for file in rust_files(root) {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        let text = fs::read_to_string(&file)?;
        faults.extend(judge(&name, &text));
        parts.add(&name, &text);
    }
    faults.extend(parts.circles());
    if !faults.is_empty() {
        bail!("the structure is broken:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// What is wrong with the file `name`.
fn judge(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > LONGEST {
        faults.push(format!("{name}: {lines} lines, more than {LONGEST}: is it one idea?"));
    }
    // Prose may name what code may not.
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let lines = code.clone().map(|(index, line)| (index + 1, line.to_owned()));
    // As it is written, and what a path stands for.
    let paths = named(&module(name), text).into_iter().map(|named| (named.line, named.path));
    let said: Vec<_> = lines.chain(paths).collect();
    for rule in RULES.iter().filter(|rule| name.starts_with(rule.place) && !is_test(name)) {
        let found: BTreeSet<_> = said
            .iter()
            .filter_map(|(line, said)| Some((line, rule.words.iter().find(|word| said.contains(**word))?)))
            .collect();
        faults.extend(found.into_iter().map(|(line, word)| format!("{name}:{line}: {word}: {}", rule.reason)));
    }
    for (index, line) in code {
        if line.contains("allow(unsafe_code") && !FENCE.contains(&name) && !name.starts_with("xtask/") {
            faults.push(format!("{name}:{}: unsafe code belongs into the fenced files only", index + 1));
        }
    }
    faults
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.ends_with("/property.rs") || name.contains("/tests/")
}

/// The module that a file is, by its segments below the crate's root. (A test that is a crate has none to speak of.)
fn module(name: &str) -> Vec<String> {
    let Some((_, file)) = name.split_once("/src/") else { return Vec::new() };
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let mut segments: Vec<_> = path.split('/').map(str::to_owned).collect();
    if segments.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        segments.pop();
    }
    segments
}

/// Which part of a crate names which, and where for the first time.
#[derive(Default)]
struct Parts(BTreeMap<String, BTreeMap<String, String>>);

impl Parts {
    /// Adds what the file `name` names, its tests excepted.
    fn add(&mut self, name: &str, text: &str) {
        let module = module(name);
        let Some(place) = NO_CIRCLES.into_iter().find(|place| name.starts_with(place) && !is_test(name)) else {
            return;
        };
        let Some(part) = module.first().map(|part| format!("{place}{part}")) else { return };
        for named in named(&module, text).into_iter().filter(|named| !named.test) {
            let mut segments = named.path.split("::");
            if let (Some("crate"), Some(other)) = (segments.next(), segments.next())
                && let other = format!("{place}{other}")
                && other != part
            {
                let place = || format!("{name}:{}: {}", named.line, named.path);
                self.0.entry(part.clone()).or_default().entry(other).or_insert_with(place);
            }
        }
    }

    /// Each pair of parts that know each other, directly or by others.
    fn circles(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (part, others) in &self.0 {
            for (other, place) in others {
                if self.reaches(other, part) {
                    faults.push(format!("{part} and {other} know each other: {place}"));
                }
            }
        }
        faults
    }

    fn reaches(&self, from: &str, to: &str) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(part) = next.pop() {
            if part == to {
                return true;
            }
            if seen.insert(part) {
                next.extend(self.0.get(part).into_iter().flatten().map(|(other, _)| other.as_str()));
            }
        }
        false
    }
}

/// The Rust files of the workspace.
pub(crate) fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<_> =
        ["smtp-guard", "smtp-guard-ebpf", "xtask", "tests", "fuzz"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    /// A file that no `mod` names is never compiled, and nobody says so.
    #[test]
    fn every_file_of_the_tests_of_the_whole_is_a_module_of_theirs() {
        let folder = root().join("tests/tests");
        let main = fs::read_to_string(folder.join("whole/main.rs")).unwrap();
        for file in rust_files(&root()).iter().filter(|file| file.parent() == Some(&folder.join("whole"))) {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(name == "main" || main.contains(&format!("\nmod {name};\n")), "main.rs has no `mod {name};`");
        }
        let own = fs::read_dir(&folder).unwrap().flatten().filter(|entry| entry.path().is_file());
        let own: Vec<_> = own.map(|entry| entry.file_name()).collect();
        // It goes into machines that have nothing else.
        assert_eq!(
            own,
            ["whole_loop.rs"],
            "a file of tests/tests is a binary of its own: move it to tests/tests/whole"
        );
    }

    #[test]
    fn circles_are_found() {
        let circles = |files: &[(&str, &str)]| {
            let mut parts = Parts::default();
            files.iter().for_each(|(name, text)| parts.add(&format!("smtp-guard/src/{name}"), text));
            parts.circles().len()
        };
        let store = ("store/mod.rs", "use crate::{decision::Decision, feedback};");
        let feedback = ("feedback/keeper.rs", "use super::super::store::Store;");
        assert_eq!(circles(&[store]), 0);
        assert_eq!(circles(&[store, feedback]), 2, "each says where");
        assert_eq!(
            circles(&[store, ("feedback/tests.rs", "use crate::store::Store;")]),
            0,
            "tests know what they like"
        );
        let there = [("a.rs", "use crate::b;"), ("b.rs", "use crate::c::d;"), ("c/d.rs", "use crate::a::x;")];
        assert_eq!(circles(&there), 3, "by a third");
    }

    #[test]
    fn faults_are_found_and_prose_is_not() {
        for (name, text, faults) in [
            ("smtp-guard/core/src/wire/line.rs", "use crate::session::Session;", 1),
            ("smtp-guard/core/src/wire/line.rs", "// see crate::session", 0),
            ("smtp-guard/core/src/wire/line.rs", "use crate::{addr, session};", 1),
            ("smtp-guard/core/src/wire/line.rs", "use crate::{\n    addr,\n    session::{Session, Input},\n};", 1),
            ("smtp-guard/core/src/wire/line.rs", "use super::super::session::Session;", 1),
            ("smtp-guard/core/src/wire/mod.rs", "use super::session::Session;", 1),
            ("smtp-guard/core/src/wire/line.rs", "use super::reply::Reply;", 0),
            ("smtp-guard/core/src/wire/line.rs", "use std::{io, net::TcpStream};", 1),
            ("smtp-guard/core/src/session/mod.rs", "let now = Instant::now();", 1),
            ("smtp-guard/src/edge/load.rs", "#![allow(unsafe_code)]", 1),
            ("smtp-guard/src/edge/sys.rs", "#![allow(unsafe_code)]", 0),
            ("smtp-guard/src/relay/drive.rs", "let now = Instant::now();", 0),
        ] {
            assert_eq!(judge(name, text).len(), faults, "{name}: {text}");
        }
        assert_eq!(judge("tests/src/lib.rs", &"\n".repeat(LONGEST + 1)).len(), 1);
    }
}
