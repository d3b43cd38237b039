//! Which paths a Rust file names: `use` trees taken apart, `super` and `self` resolved, comments and strings left out.
//!
//! It reads tokens, not the language: enough for what is formatted by rustfmt and compiles. Names that a glob or a re-export
//! brings are not followed.

/// A path, as `crate::wire::line::Line` or `std::net::TcpStream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: String,
    /// From 1.
    pub(crate) line: usize,
    /// Inside `#[cfg(test)] mod`.
    pub(crate) test: bool,
}

/// All paths of more than one segment in `text`, the source of the module `module` (its segments below the crate).
pub(crate) fn named(module: &[String], text: &str) -> Vec<Named> {
    let tokens = tokens(text);
    let mut reader = Reader { tokens: &tokens, at: 0, module: module.to_vec(), named: Vec::new(), test: false };
    reader.items(0);
    reader.named
}

#[derive(Debug, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    module: Vec<String>,
    named: Vec<Named>,
    test: bool,
}

impl Reader<'_> {
    /// Up to the brace that closes this module.
    fn items(&mut self, outer: usize) {
        let mut depth = outer;
        let mut test_next = false;
        while let Some(text) = self.peek(0) {
            match text {
                "{" => depth += 1,
                "}" if depth == outer && outer > 0 => return,
                "}" => depth = depth.saturating_sub(1),
                "#" if self.ahead(&["#", "[", "cfg", "(", "test", ")", "]"]) => test_next = true,
                "mod" if self.peek(2) == Some("{") => {
                    let (name, test) = (self.peek(1).unwrap_or_default().to_owned(), self.test);
                    self.module.push(name);
                    self.test |= std::mem::take(&mut test_next);
                    self.at += 3;
                    self.items(depth + 1);
                    self.test = test;
                    self.module.pop();
                }
                "use" => {
                    self.at += 1;
                    self.tree(&[]);
                    test_next = false;
                    continue;
                }
                ";" => test_next = false,
                _ if is_name(text) && self.peek(1) == Some("::") && self.before() != Some("::") => {
                    self.path();
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// A `use` tree behind `prefix`, up to what ends it.
    fn tree(&mut self, prefix: &[String]) {
        let (mut path, line) = (prefix.to_vec(), self.tokens.get(self.at).map_or(0, |token| token.line));
        while let Some(text) = self.peek(0) {
            match text {
                "::" => {}
                "{" => {
                    loop {
                        self.at += 1;
                        self.tree(&path);
                        if self.peek(0) != Some(",") {
                            break;
                        }
                    }
                    // Its closing brace.
                    self.at += 1;
                    return;
                }
                "as" => self.at += 1,
                "}" | "," | ";" => break,
                name => path.push(name.to_owned()),
            }
            self.at += 1;
        }
        self.note(&path, line);
    }

    /// A path inside code.
    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut path = Vec::new();
        while let Some(text) = self.peek(0).filter(|text| is_name(text)) {
            path.push(text.to_owned());
            self.at += 1;
            if self.peek(0) != Some("::") {
                break;
            }
            self.at += 1;
        }
        self.note(&path, line);
    }

    fn note(&mut self, path: &[String], line: usize) {
        let mut whole: Vec<&str> = Vec::new();
        let mut rest = path.iter().map(String::as_str).peekable();
        match rest.peek() {
            Some(&"crate") => {}
            Some(&("self" | "super")) => {
                whole.push("crate");
                whole.extend(self.module.iter().map(String::as_str));
            }
            _ => {}
        }
        for segment in rest {
            match segment {
                "self" => {}
                // Beyond the crate's root there is nothing.
                "super" => drop(whole.pop()),
                segment => whole.push(segment),
            }
        }
        if whole.len() > 1 {
            self.named.push(Named { path: whole.join("::"), line, test: self.test });
        }
    }

    fn peek(&self, ahead: usize) -> Option<&str> {
        self.tokens.get(self.at + ahead).map(|token| token.text)
    }

    fn before(&self) -> Option<&str> {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|token| token.text)
    }

    fn ahead(&self, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(ahead, text)| self.peek(ahead) == Some(text))
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

/// Names, `::`, and single other characters; without comments, strings and characters.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = string(rest) {
            length
        } else if c == '_' || c.is_alphanumeric() {
            let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            found.push(Token { text: &rest[..length], line });
            length
        } else if rest.starts_with("::") {
            found.push(Token { text: "::", line });
            2
        } else {
            if !c.is_whitespace() {
                found.push(Token { text: &rest[..c.len_utf8()], line });
            }
            c.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    found
}

/// The length of the string or character that `rest` begins with. A lifetime is neither.
fn string(rest: &str) -> Option<usize> {
    let bare = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - bare.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = bare.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let body = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(body.find(&end).map_or(rest.len(), |at| prefix + 1 + hashes + 1 + at + end.len()));
    }
    let quote = bare.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut escaped = false;
    let mut length = 0;
    for (at, c) in bare.char_indices().skip(1) {
        length += 1;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix + at + 1),
            // `'a` without its end is a lifetime.
            _ if quote == '\'' && length > 1 && !bare.starts_with("'\\") => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, paths: &[&str]) {
        let module = ["wire", "line"].map(str::to_owned);
        let found: Vec<_> =
            named(&module, text).into_iter().filter(|named| !named.test).map(|named| named.path).collect();
        assert_eq!(found, paths, "{text}");
    }

    #[test]
    fn paths_are_resolved() {
        check("use crate::session::Session;", &["crate::session::Session"]);
        check("use crate::{a, b::{self, C as D}, e::*};", &["crate::a", "crate::b", "crate::b::C", "crate::e::*"]);
        check("use super::super::session;", &["crate::session"]);
        check("use super::reply::{Reply, super_x};", &["crate::wire::reply::Reply", "crate::wire::reply::super_x"]);
        check("use self::x::Y; use super::Z;", &["crate::wire::line::x::Y", "crate::wire::Z"]);
        check("pub(crate) fn f(a: &crate::policy::Rules) {}", &["crate::policy::Rules"]);
        check("fn f() { if x { super::super::store::open(); } }", &["crate::store::open"]);
        check("let a = Vec::<crate::relay::Pool>::new();", &["crate::relay::Pool"]);
        check(
            "mod inner { use super::super::session; use super::x; }",
            &["crate::wire::session", "crate::wire::line::x"],
        );
    }

    #[test]
    fn comments_strings_and_tests_are_left_out() {
        check("// use crate::a;\n/* crate::b::c */ let x = \"crate::d\"; let y = r#\"crate::\"e\"#;", &[]);
        check("fn f<'a>(x: &'a str) -> char { '\"' } fn g() { crate::x::y('\\'', b'\"'); }", &["crate::x::y"]);
        check("#[cfg(test)]\nmod tests { use crate::session::Session; }\nuse crate::a::B;", &["crate::a::B"]);
        check("#[cfg(test)]\nmod tests;\nmod own { use crate::session::Session; }", &["crate::session::Session"]);
    }

    #[test]
    fn lines_are_counted() {
        let text = "use a::b;\n\nuse crate::{\n    c,\n    d,\n};\n";
        let lines: Vec<_> = named(&[], text).iter().map(|named| named.line).collect();
        assert_eq!(lines, [1, 4, 5]);
    }
}
