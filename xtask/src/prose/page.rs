//! A page of Markdown as the checks need it: sentences with their lines, links, anchors, code.

use std::collections::{BTreeMap, BTreeSet};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The parts of a page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) sentences: Vec<Sentence>,
    /// Targets of links and images, each with its line.
    pub(crate) links: Vec<(usize, String)>,
    /// Names that `#name` may lead to, as GitHub makes them of headings.
    pub(crate) anchors: BTreeSet<String>,
    /// Code within sentences, each piece with its line.
    pub(crate) words: Vec<(usize, String)>,
    pub(crate) blocks: Vec<Code>,
}

/// A sentence, or what stands for one in a heading or a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    /// With single spaces; a piece of code keeps its backticks, and counts as one word.
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prose,
    Cell,
    Heading,
}

/// A block of code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// The line of its first line of code.
    pub(crate) line: usize,
    /// Its language; may be empty.
    pub(crate) language: String,
    pub(crate) text: String,
}

/// A space within code, so that a piece of code is one word.
const SPACE: char = '\u{a0}';

impl Page {
    /// Reads the Markdown `text`.
    pub(crate) fn read(text: &str) -> Self {
        let starts: Vec<_> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(offset, _)| offset.saturating_add(1))).collect();
        let line_of = |offset: usize| starts.partition_point(|start| *start <= offset);
        let (mut page, mut open, mut names) = (Self::default(), Open::default(), BTreeMap::new());
        let mut block = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = line_of(range.start);
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let (language, fence) = match kind {
                        CodeBlockKind::Fenced(language) => (language.to_string(), 1),
                        CodeBlockKind::Indented => (String::new(), 0),
                    };
                    block = Some(Code { line: line.saturating_add(fence), language, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((line, dest_url.to_string()));
                }
                Event::Start(Tag::Paragraph | Tag::Item) => page.close(&mut open, Kind::Prose),
                Event::Start(Tag::TableCell) => page.close(&mut open, Kind::Cell),
                Event::Start(Tag::Heading { .. }) => page.close(&mut open, Kind::Heading),
                Event::End(TagEnd::Heading(_)) => {
                    let name = anchor(&open.text);
                    let before = names.entry(name.clone()).and_modify(|count| *count += 1).or_insert(0);
                    page.anchors.insert(if *before == 0 { name } else { format!("{name}-{before}") });
                    page.close(&mut open, Kind::Prose);
                }
                Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell) => page.close(&mut open, Kind::Prose),
                Event::Text(part) => match &mut block {
                    Some(code) => code.text.push_str(&part),
                    None => open.add(line, &part),
                },
                Event::Code(part) => {
                    open.add(line, &format!("`{}`", part.replace(' ', &SPACE.to_string())));
                    page.words.push((line, part.to_string()));
                }
                Event::SoftBreak | Event::HardBreak => open.add(line, " "),
                _ => {}
            }
        }
        page
    }

    /// Takes the sentences of what was open; what follows is a `next`.
    fn close(&mut self, open: &mut Open, next: Kind) {
        let Open { kind, text, lines } = std::mem::replace(open, Open { kind: next, ..Open::default() });
        for (start, sentence) in split(&text) {
            let line = lines.iter().take_while(|(offset, _)| *offset <= start).last().map_or(0, |(_, line)| *line);
            let words: Vec<_> = sentence.split_ascii_whitespace().collect();
            if !words.is_empty() {
                self.sentences.push(Sentence { line, kind, text: words.join(" ").replace(SPACE, " ") });
            }
        }
    }
}

impl Sentence {
    /// The number of words; a piece of code is one.
    pub(crate) fn words(&self) -> usize {
        let mut code = false;
        let outside = |c: char| {
            code ^= c == '`';
            if code && c == ' ' { SPACE } else { c }
        };
        self.text.chars().map(outside).collect::<String>().split_ascii_whitespace().count()
    }
}

/// Text that is being gathered, and where its lines begin.
struct Open {
    kind: Kind,
    text: String,
    lines: Vec<(usize, usize)>,
}

impl Default for Open {
    fn default() -> Self {
        Self { kind: Kind::Prose, text: String::new(), lines: Vec::new() }
    }
}

impl Open {
    fn add(&mut self, line: usize, part: &str) {
        self.lines.push((self.text.len(), line));
        self.text.push_str(part);
    }
}

/// The sentences of `text`, each with its first byte. A mark ends one where a space or nothing follows.
fn split(text: &str) -> Vec<(usize, &str)> {
    let (mut sentences, mut start) = (Vec::new(), 0);
    for (offset, mark) in text.char_indices().filter(|(_, c)| matches!(c, '.' | '!' | '?')) {
        let after = offset.saturating_add(mark.len_utf8());
        let (before, rest) = (text.get(start..offset).unwrap_or(""), text.get(after..).unwrap_or(""));
        let closed = rest.trim_start_matches([')', '"', '*']);
        let shortened = ["e.g", "i.e", ".."].iter().any(|end| before.ends_with(end));
        if shortened || !(closed.is_empty() || closed.starts_with(|c: char| c.is_ascii_whitespace())) {
            continue;
        }
        let end = text.len().saturating_sub(closed.len());
        sentences.push((start, text.get(start..end).unwrap_or("")));
        start = end;
    }
    sentences.push((start, text.get(start..).unwrap_or("")));
    let sentences = sentences.into_iter();
    sentences.map(|(at, text)| (at.saturating_add(text.len() - text.trim_start().len()), text)).collect()
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '\u{a0}'));
    kept.flat_map(char::to_lowercase).map(|c| if matches!(c, ' ' | '\u{a0}') { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, sentences: &[(usize, Kind, &str)]) {
        let page = Page::read(text);
        let found: Vec<_> = page.sentences.iter().map(|found| (found.line, found.kind, found.text.as_str())).collect();
        assert_eq!(found, sentences, "{text}");
    }

    #[test]
    fn sentences_are_found_with_their_lines() {
        use Kind::{Cell, Heading, Prose};
        check("One. Two\nlines.\nThree", &[(1, Prose, "One."), (1, Prose, "Two lines."), (3, Prose, "Three")]);
        check("# A head\ntext", &[(1, Heading, "A head"), (2, Prose, "text")]);
        check("- one\n- two. three\n", &[(1, Prose, "one"), (2, Prose, "two."), (2, Prose, "three")]);
        check("- one\n\n- two\n", &[(1, Prose, "one"), (3, Prose, "two")]);
        check("| a | b |\n|---|---|\n| c | d. |\n", &[(1, Cell, "a"), (1, Cell, "b"), (3, Cell, "c"), (3, Cell, "d.")]);
        check(
            "`a. b` is 1.5 e.g. this ... there (and so.) Next",
            &[(1, Prose, "`a. b` is 1.5 e.g. this ... there (and so.)"), (1, Prose, "Next")],
        );
        check("See [a page](x.md). *Then!*", &[(1, Prose, "See a page."), (1, Prose, "Then!")]);
        check("```\nno. prose\n```\n", &[]);
        assert_eq!(Page::read("`a b c` counts once").sentences[0].words(), 3);
    }

    #[test]
    fn links_anchors_and_code_are_found() {
        let page =
            Page::read("# Who exists\n## TLS, `a b`\n# Who exists\n[x](a.md#b)\n![y](z.png)\n\n```toml\nk = 1\n```\n");
        assert_eq!(page.links, [(4, "a.md#b".to_owned()), (5, "z.png".to_owned())]);
        let anchors: Vec<_> = page.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["tls-a-b", "who-exists", "who-exists-1"]);
        assert_eq!(page.words, [(2, "a b".to_owned())]);
        assert_eq!(page.blocks, [Code { line: 8, language: "toml".into(), text: "k = 1\n".into() }]);
    }
}
