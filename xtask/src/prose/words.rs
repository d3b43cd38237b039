//! The rules for a sentence: its length, and turns of phrase that make a reader stop.

use super::page::{Kind, Sentence};

/// Words of a sentence; more than this can't be read at once.
const LONGEST: usize = 40;
/// Words of a sentence in a table, where its column already says a part.
const LONGEST_IN_TABLE: usize = 50;

/// Where words count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Anywhere,
    /// At the start of a sentence that is no question and no heading.
    Start,
    /// At the end of a sentence.
    End,
}

use Place::{Anywhere, End, Start};

/// Words, where they count, and what to write instead.
const PATTERNS: &[(&str, Place, &str)] = &[
    ("who", Start, "name the subject: \"A client that ...\", \"An attacker who ...\""),
    ("whoever", Start, "name the subject: \"Anyone who ...\", \"A client that ...\""),
    ("whom", Start, "name the subject: \"A client that ...\", \"The host that ...\""),
    ("what", Start, "name the thing: \"The settings that ...\", \"Packets that ...\""),
    ("of it", End, "say whose: \"its ...\", or name the thing again"),
    ("and says so", Anywhere, "say what is reported: \"and logs which ...\", \"and names ...\""),
    ("and say so", Anywhere, "say what is reported: \"and log which ...\", \"and name ...\""),
    ("says so", End, "say what is reported: \"names the ...\""),
    ("say so", End, "say what is reported: \"name the ...\""),
    ("say so too", Anywhere, "say what is shown: \"show the same\""),
    ("told apart by", Anywhere, "\"recognised by\""),
    ("has it by", Anywhere, "\"matches entry ...\""),
    ("have it by", Anywhere, "\"match entry ...\""),
    ("anew", Anywhere, "\"again\""),
    ("what they miss", Anywhere, "\"missing ...\", \"whatever is missing\""),
    ("that they miss", Anywhere, "\"missing ...\""),
    ("nothing else does", Anywhere, "\"only ... does\""),
    ("play along", Anywhere, "\"rejects the configured method\""),
    ("plays along", Anywhere, "\"accepts the configured method\""),
    ("of late", Anywhere, "\"recently\""),
    ("in neither plane", Anywhere, "\"neither in the kernel nor by the proxy\""),
    ("shall", Anywhere, "\"must\", \"should\" or \"will\""),
    ("kernel filter", Anywhere, "\"kernel plane\": one word for one thing (ARCHITECTURE.md, Glossary)"),
    ("user space plane", Anywhere, "\"proxy\": one word for one thing (ARCHITECTURE.md, Glossary)"),
    ("filtering daemon", Anywhere, "\"guard\": one word for one thing (ARCHITECTURE.md, Glossary)"),
];

/// The faults of `sentence`, each with what to write instead.
pub(super) fn judge(sentence: &Sentence) -> Vec<String> {
    let mut faults = Vec::new();
    let (words, most) = (sentence.words(), if sentence.kind == Kind::Cell { LONGEST_IN_TABLE } else { LONGEST });
    if words > most {
        faults.push(format!("{words} words, more than {most}: make two sentences or a list"));
    }
    faults.extend(patterns(sentence));
    faults
}

fn patterns(sentence: &Sentence) -> impl Iterator<Item = String> {
    // Only words count, each between single spaces. Code is none.
    let mut code = false;
    let outside = |c: char| {
        code ^= c == '`';
        if code || !(c.is_alphanumeric() || matches!(c, '\'' | '-')) { ' ' } else { c }
    };
    let plain: String = sentence.text.to_lowercase().chars().map(outside).collect();
    let plain = format!(" {} ", plain.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
    let begins = sentence.kind == Kind::Prose && !sentence.text.ends_with('?') && !sentence.text.starts_with('`');
    PATTERNS.iter().filter_map(move |(words, place, instead)| {
        let words_alone = format!(" {words} ");
        let found = match place {
            Anywhere => plain.contains(&words_alone),
            Start => begins && plain.starts_with(&words_alone),
            End => plain.ends_with(&words_alone) && sentence.text.ends_with('.'),
        };
        found.then(|| format!("\"{words}\": write {instead}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, kind: Kind, faults: usize) {
        let sentence = Sentence { line: 1, kind, text: text.to_owned() };
        assert_eq!(judge(&sentence).len(), faults, "{text}: {:?}", judge(&sentence));
    }

    #[test]
    fn sentences_are_judged() {
        for (text, faults) in [
            ("Who asks for nine names an hour is not banned.", 1),
            ("Who is banned?", 0),
            ("An attacker who asks for nine names an hour is not banned.", 0),
            ("What is listed is dropped.", 1),
            ("The key `what` is read.", 0),
            ("It is refused, and the log says so.", 1),
            ("It says so often that nobody listens.", 0),
            ("The file is read anew.", 1),
            ("The renewed file is read.", 0),
            ("Look at the head of it.", 1),
            ("Most of it is read.", 0),
            ("The kernel filter is loaded.", 1),
            ("The key `kernel filter` is read.", 0),
        ] {
            check(text, Kind::Prose, faults);
        }
        check("Who exists", Kind::Heading, 0);
        check("what is counted", Kind::Cell, 0);
    }

    #[test]
    fn long_sentences_are_found() {
        let words = |count| "word ".repeat(count).trim().to_owned();
        check(&words(LONGEST), Kind::Prose, 0);
        check(&words(LONGEST + 1), Kind::Prose, 1);
        check(&words(LONGEST_IN_TABLE), Kind::Cell, 0);
        check(&words(LONGEST_IN_TABLE + 1), Kind::Cell, 1);
    }
}
