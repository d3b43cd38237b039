//! What a part must not know, checked: dependencies run one way, unsafe code stays inside its fence, files stay short.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

/// In files below `place`, no line may contain one of `words`.
struct Rule {
    place: &'static str,
    words: &'static [&'static str],
    reason: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        place: "smtp-guard/src/wire/",
        words: &[
            "crate::session",
            "crate::policy",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::config",
            "crate::observe",
            "crate::facts",
            "crate::store",
            "crate::cli",
            "tokio",
            "std::net::Tcp",
            "Instant::now",
        ],
        reason: "wire turns bytes into tokens and knows nothing else",
    },
    Rule {
        place: "smtp-guard/src/policy/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::store",
            "crate::cli",
            "crate::observe",
            "tokio",
            "std::net::Tcp",
            "Instant::now",
        ],
        reason: "policy decides from facts and rules, without I/O",
    },
    Rule {
        place: "smtp-guard/src/session/",
        words: &[
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::store",
            "crate::cli",
            "crate::observe::log",
            "crate::observe::admin",
            "tokio",
            "std::net::Tcp",
            "Instant::now",
        ],
        reason: "the session is a state machine without I/O; time is passed in",
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
        place: "smtp-guard/src/facts/recipients/",
        words: &["tokio", "Instant::now", "tracing", "crate::policy"],
        reason: "what is known of recipients is told the time, and who looks at files beside the sessions is the relay",
    },
    Rule {
        place: "smtp-guard/src/blocklist/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::policy",
            "crate::store",
            "crate::cli",
            "crate::wire",
            "tokio",
            "Instant::now",
        ],
        reason: "a list is read and looked into; who follows files and who drops packets is elsewhere",
    },
    Rule {
        place: "smtp-guard/src/blocklist/format/",
        words: &["std::fs", "std::io", "crate::config", "crate::observe", "tracing", "serde_json::Value"],
        reason: "formats are bytes in, entries out",
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
        ],
        reason: "feedback hears reports and makes bans; it knows no session",
    },
    Rule {
        place: "smtp-guard/src/feedback/ledger.rs",
        words: &["crate::edge", "crate::store", "tokio", "Instant::now", "tracing"],
        reason: "the ledger is pure; time is passed in",
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
        place: "smtp-guard/src/config/",
        words: &[
            "crate::session",
            "crate::relay",
            "crate::feedback",
            "crate::edge",
            "crate::store",
            "crate::cli",
            "crate::policy",
        ],
        reason: "the configuration is read by all and reads none",
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
];

/// Lines of a Rust file without its tests. Length is a symptom: beyond this, ask whether it is still one idea.
const LONGEST: usize = 800;

/// Checks all Rust files below `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for file in rust_files(root) {
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        faults.extend(judge(&name, &fs::read_to_string(&file)?));
    }
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
    for (index, line) in code {
        for rule in RULES.iter().filter(|rule| name.starts_with(rule.place) && !is_test(name)) {
            if let Some(word) = rule.words.iter().find(|word| line.contains(**word)) {
                faults.push(format!("{name}:{}: {word}: {}", index + 1, rule.reason));
            }
        }
        if line.contains("allow(unsafe_code") && !FENCE.contains(&name) && !name.starts_with("xtask/") {
            faults.push(format!("{name}:{}: unsafe code belongs into the fenced files only", index + 1));
        }
    }
    faults
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs")
}

/// The Rust files of the workspace.
pub(crate) fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<_> =
        ["smtp-guard", "smtp-guard-ebpf", "xtask", "tests"].map(|folder| root.join(folder)).into();
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
    fn faults_are_found_and_prose_is_not() {
        for (name, text, faults) in [
            ("smtp-guard/src/wire/line.rs", "use crate::session::Session;", 1),
            ("smtp-guard/src/wire/line.rs", "// see crate::session", 0),
            ("smtp-guard/src/session/mod.rs", "let now = Instant::now();", 1),
            ("smtp-guard/src/edge/load.rs", "#![allow(unsafe_code)]", 1),
            ("smtp-guard/src/edge/sys.rs", "#![allow(unsafe_code)]", 0),
            ("smtp-guard/src/relay/drive.rs", "let now = Instant::now();", 0),
        ] {
            assert_eq!(judge(name, text).len(), faults, "{name}: {text}");
        }
        assert_eq!(judge("tests/src/lib.rs", &"\n".repeat(LONGEST + 1)).len(), 1);
    }
}
