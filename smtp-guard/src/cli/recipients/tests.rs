use super::*;

#[test]
fn keys_of_files_are_read() {
    let text = "# x\nroot: admin\npostmaster:root\n\"quoted name\": x\na@b.example  c\n  goes on\n\n:include:/x\nlist:\n  a,\n  b\n";
    assert_eq!(keys(text), ["root", "postmaster", "quoted name", "a@b.example", "list"]);
    assert_eq!(names("root:x:0\n\nalice:x:1\n").collect::<Vec<_>>(), ["root", "alice"]);
}

/// The table of `example.org`, to whom `users` are added.
#[track_caller]
fn check(users: &[&str], all: Option<&str>, expected: &str) {
    let mut export = Export::new("a test".to_owned());
    export.domains.insert("example.org".to_owned(), Served::default());
    users.iter().for_each(|user| export.add(user, "Example.org."));
    export.add("somebody", "example.com");
    all.iter().for_each(|why| export.take_all("example.org", why));
    crate::cli::output::check_documented("recipients", &export);
    let text = export.text();
    let (head, lines) = text.split_once('\n').unwrap();
    assert!(head.starts_with("# Recipients of a test"));
    assert_eq!(lines, expected);
    let table = crate::facts::recipients::KnownRecipients::read(text.as_bytes(), 0).unwrap();
    assert!(table.lookup("postmaster@example.org"));
}

#[test]
fn the_table_takes_in_doubt() {
    check(&["Bob", "alice"], None, "alice@example.org\nbob@example.org\npostmaster@example.org\n");
    check(&["postmaster"], None, "postmaster@example.org\n");
    check(&["a b", "x@y", ""], None, "postmaster@example.org\n");
    check(&["alice"], Some("nobody\nknows"), "@example.org # nobody knows\n");
}

#[test]
fn only_what_is_wanted() {
    let export = || {
        let mut export = Export::new("a test".to_owned());
        for domain in ["a.example", "b.example"] {
            export.domains.insert(domain.to_owned(), Served::default());
        }
        export
    };
    let only = |domains: &[&str]| export().only(&domains.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>());
    assert_eq!(only(&[]).unwrap().domains.len(), 2);
    assert_eq!(only(&["B.example"]).unwrap().domains.keys().collect::<Vec<_>>(), ["b.example"]);
    assert!(only(&["c.example"]).unwrap_err().to_string().contains("doesn't serve the domain c.example"));
    assert!(only(&["?"]).is_err());
}
