//! The first lines of doc comments: rustdoc's index shows them alone, so each has to say by itself what the thing is.

/// First words that need something before them, and what to begin with instead.
const FIRST: &[(&str, &str)] = &[
    ("What", "a noun: \"The reply that ...\", or a verb: \"Returns ...\", \"Finds ...\""),
    ("Who", "a noun: \"The client that ...\""),
    ("Whom", "a noun: \"The source that ...\""),
    ("Whose", "a noun: \"The owner of ...\""),
    ("That", "a noun or a verb"),
    ("It", "the name of the thing, or a verb"),
    ("They", "the name of the things"),
    ("Of", "the noun that this is of: \"The length of ...\", \"A fleet of ...\""),
    ("Likewise", "the whole phrase again"),
];

/// Faults of the Rust file `text`, each with its line: of the head of the module, and of public items.
pub(super) fn judge(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<_> = text.lines().map(str::trim_start).collect();
    let mut faults = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((marker, comment)) = ["//! ", "/// "].iter().find_map(|m| Some((*m, line.strip_prefix(m)?))) else {
            continue;
        };
        let goes_on = index
            .checked_sub(1)
            .and_then(|before| lines.get(before))
            .is_some_and(|before| before.starts_with(marker.trim_end()));
        if goes_on || marker == "/// " && !is_public(lines.get(index..).unwrap_or(&[])) {
            continue;
        }
        let word: String = comment.chars().take_while(|c| c.is_alphabetic()).collect();
        if let Some((_, instead)) = FIRST.iter().find(|(first, _)| *first == word) {
            faults.push((
                index.saturating_add(1),
                format!("{comment}\n    begins with \"{word}\": begin with {instead}"),
            ));
        }
    }
    faults
}

/// Whether the item behind the doc comment that `lines` begin with is public, in the crate at least.
fn is_public(lines: &[&str]) -> bool {
    let item = lines.iter().find(|line| !(line.starts_with("///") || line.starts_with("#[")));
    item.is_some_and(|line| line.starts_with("pub"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_judged() {
        for (text, faults) in [
            ("//! What the guard says.\n//! More.", 1),
            ("//! The words of the guard.\n//! What they mean.", 0),
            ("/// What is said.\npub(crate) fn x() {}", 1),
            ("    /// What is said.\n    #[must_use]\n    pub fn x() {}", 1),
            ("/// The words.\n/// What they mean.\npub fn x() {}", 0),
            ("/// What is said.\nfn x() {}", 0),
            ("/// Whatever is said.\npub fn x() {}", 0),
            ("// What is said.\npub fn x() {}", 0),
            ("/// It moves.\npub x: bool,", 1),
        ] {
            assert_eq!(judge(text).len(), faults, "{text}");
        }
    }
}
