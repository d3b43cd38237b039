//! Recipients of Postfix: its own tools say which maps there are and what is in them.
//!
//! The classes of domains and who exists in each are those of Postfix' ADDRESS_CLASS_README; the first class that has a domain
//! counts. Aliases and canonical maps apply to all classes.

use std::collections::BTreeMap;
use std::path::Path;

use super::host::Host;
use super::{Export, domain_key, keys, names};

/// Parameters that postconf is asked for.
const PARAMETERS: [&str; 16] = [
    "alias_maps",
    "canonical_maps",
    "local_recipient_maps",
    "luser_relay",
    "mydestination",
    "mydomain",
    "myhostname",
    "recipient_canonical_maps",
    "recipient_delimiter",
    "relay_domains",
    "relay_recipient_maps",
    "virtual_alias_domains",
    "virtual_alias_maps",
    "virtual_mailbox_domains",
    "virtual_mailbox_maps",
    "mail_version",
];

/// Why a map can't be asked for all that it has.
const UNLISTABLE: &str = "its entries can't be listed";

/// All recipients of the Postfix on `host`.
pub(super) fn export(host: &Host, directory: Option<&Path>, ignored: &[String]) -> anyhow::Result<Export> {
    let settings = settings(host, directory)?;
    let postfix = Postfix { host, settings, ignored };
    let mut export = Export::new(format!("Postfix on {}", host.name()));
    let mut classes = BTreeMap::new();
    for (class, parameter) in [
        (Class::Local, "mydestination"),
        (Class::Alias, "virtual_alias_domains"),
        (Class::Mailbox, "virtual_mailbox_domains"),
        (Class::Relay, "relay_domains"),
    ] {
        for domain in postfix.domains(parameter, &mut export) {
            classes.entry(domain.clone()).or_insert(class);
            export.domains.entry(domain).or_default();
        }
    }
    let of = |class: Class| -> Vec<String> {
        classes.iter().filter(|(_, found)| **found == class).map(|(domain, _)| domain.clone()).collect()
    };
    let local = of(Class::Local);
    postfix.local(&local, &mut export);
    postfix.addresses("virtual_mailbox_maps", &of(Class::Mailbox), &[], true, &mut export);
    postfix.addresses("relay_recipient_maps", &of(Class::Relay), &[], true, &mut export);
    let all: Vec<_> = classes.keys().cloned().collect();
    for parameter in ["virtual_alias_maps", "recipient_canonical_maps", "canonical_maps"] {
        postfix.addresses(parameter, &all, &local, false, &mut export);
    }
    if postfix.value("recipient_delimiter").contains(|c| c != '+') {
        let why =
            format!("recipient_delimiter is {:?}, and the guard knows of + only", postfix.value("recipient_delimiter"));
        all.iter().for_each(|domain| export.take_all(domain, &why));
    }
    Ok(export)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Local,
    Alias,
    Mailbox,
    Relay,
}

/// The values of [`PARAMETERS`], with all `$names` replaced.
fn settings(host: &Host, directory: Option<&Path>) -> anyhow::Result<BTreeMap<String, String>> {
    let directory = directory.map(|directory| directory.to_string_lossy().into_owned());
    let mut words = vec!["postconf"];
    if let Some(directory) = &directory {
        words.extend(["-c", directory]);
    }
    words.push("-x");
    words.extend(PARAMETERS);
    let text = host.run(&words)?;
    let setting =
        |line: &str| line.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    Ok(text.lines().filter_map(setting).collect())
}

/// The content of a map.
enum Found {
    Keys(Vec<String>),
    /// Whatever it is asked for.
    Anything,
    /// Nobody knows; why.
    Unknown(String),
}

struct Postfix<'a> {
    host: &'a Host,
    settings: BTreeMap<String, String>,
    ignored: &'a [String],
}

impl Postfix<'_> {
    fn value(&self, parameter: &str) -> &str {
        self.settings.get(parameter).map(String::as_str).unwrap_or_default()
    }

    /// The domains that `parameter` lists.
    fn domains(&self, parameter: &str, export: &mut Export) -> Vec<String> {
        let mut found = Vec::new();
        let mut excluded = Vec::new();
        let mut items = words(self.value(parameter));
        let mut depth = 0;
        while let Some(item) = items.pop() {
            let (item, out) = match item.strip_prefix('!') {
                Some(item) => (item.to_owned(), true),
                None => (item, false),
            };
            let (list, listed) = if item.starts_with('/') {
                match self.host.read(Path::new(&item)) {
                    Ok(text) if depth < 16 => {
                        depth += 1;
                        items.extend(text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(words));
                        continue;
                    }
                    _ => {
                        export.note(format!("{parameter}: {item} can't be read: name its domains by --domain"));
                        continue;
                    }
                }
            } else if item.contains(':') {
                match self.map(&item) {
                    Found::Keys(keys) => (keys, true),
                    Found::Anything => continue,
                    Found::Unknown(why) => {
                        export.note(format!("{parameter}: domains of {item} are left out, as {why}: list them in main.cf, or add them to the table"));
                        continue;
                    }
                }
            } else {
                (vec![item], false)
            };
            for name in list {
                let is_domain = !listed || !name.contains('@') && name.contains('.');
                match domain_key(&name).filter(|_| is_domain && !name.starts_with(['.', '[', '*'])) {
                    Some(domain) if out => excluded.push(domain),
                    // Nobody sends there from outside.
                    Some(domain) if domain == "localhost" || domain.starts_with("localhost.") => {}
                    Some(domain) => found.push(domain),
                    None if listed => {}
                    None => export.note(format!("{parameter}: {name} is not a single domain and is left out")),
                }
            }
        }
        found.retain(|domain| !excluded.contains(domain));
        found
    }

    /// The maps of `parameter` that say who exists.
    fn maps(&self, parameter: &str) -> Vec<String> {
        let is_wanted = |map: &String| !self.ignored.iter().any(|ignored| plain(ignored) == plain(map));
        words(self.value(parameter)).into_iter().filter(is_wanted).collect()
    }

    /// Local users: every name is one in each of `domains`.
    fn local(&self, domains: &[String], export: &mut Export) {
        let mut all = |why: &str| domains.iter().for_each(|domain| export.take_all(domain, why));
        if !self.value("luser_relay").is_empty() {
            all("luser_relay takes mail to unknown users");
        }
        let maps = self.maps("local_recipient_maps");
        if maps.is_empty() {
            all("local_recipient_maps is empty");
        }
        for map in maps {
            match self.map(&map) {
                Found::Keys(keys) => {
                    for key in keys {
                        match key.split_once('@') {
                            Some(("", domain)) => export.take_all(domain, &format!("{map} has @{domain}")),
                            Some((user, domain)) => export.add(user, domain),
                            None => domains.iter().for_each(|domain| export.add(&key, domain)),
                        }
                    }
                }
                Found::Anything => {
                    domains.iter().for_each(|domain| export.take_all(domain, &format!("{map} has everybody")))
                }
                Found::Unknown(why) => {
                    domains.iter().for_each(|domain| export.take_all(domain, &format!("{map}: {why}")))
                }
            }
        }
    }

    /// Maps of whole addresses. Bare names are users of `local`. `must`: where there is no map, everybody exists.
    fn addresses(&self, parameter: &str, domains: &[String], local: &[String], must: bool, export: &mut Export) {
        let maps = self.maps(parameter);
        if maps.is_empty() && must {
            domains.iter().for_each(|domain| export.take_all(domain, &format!("{parameter} is empty")));
        }
        for map in maps {
            match self.map(&map) {
                Found::Keys(keys) => {
                    for key in keys {
                        match key.rsplit_once('@') {
                            Some(("", domain)) => export.take_all(domain, &format!("{map} has @{domain}")),
                            Some((user, domain)) => export.add(user, domain),
                            // Such a key says that the domain is one of aliases.
                            None if key.contains('.') && export.domains.contains_key(&key.to_lowercase()) => {}
                            None => local.iter().for_each(|domain| export.add(&key, domain)),
                        }
                    }
                }
                Found::Anything => {
                    domains.iter().for_each(|domain| export.take_all(domain, &format!("{map} has everybody")))
                }
                Found::Unknown(why) => domains.iter().for_each(|domain| {
                    export.take_all(
                        domain,
                        &format!("{map}: {why}; if it says nothing of recipients: --ignore-map {map}"),
                    );
                }),
            }
        }
    }

    /// Reads `map`, `type:name`.
    fn map(&self, map: &str) -> Found {
        let map = plain(map);
        let Some((kind, name)) = map.split_once(':') else {
            // Without a type it is one of Postfix' default type.
            return Found::Unknown(String::from("it has no type"));
        };
        match kind {
            "hash" | "btree" | "lmdb" | "dbm" | "sdbm" => match self.host.run(&["postmap", "-s", map]) {
                Ok(text) => Found::Keys(text.lines().filter_map(listed_key).collect()),
                // Its source is what it is made of.
                Err(error) => self.source(name).unwrap_or_else(|| Found::Unknown(format!("{UNLISTABLE}: {error:#}"))),
            },
            "texthash" | "cdb" => self.source(name).unwrap_or_else(|| Found::Unknown(format!("{name} can't be read"))),
            "inline" => Found::Keys(inline(name)),
            "unix" if name.starts_with("passwd") => self.database("passwd"),
            "unix" if name.starts_with("group") => self.database("group"),
            "static" => Found::Anything,
            "fail" => Found::Keys(Vec::new()),
            _ => Found::Unknown(UNLISTABLE.to_owned()),
        }
    }

    fn source(&self, name: &str) -> Option<Found> {
        self.host.read(Path::new(name)).ok().map(|text| Found::Keys(keys(&text)))
    }

    fn database(&self, name: &str) -> Found {
        match self.host.run(&["getent", name]) {
            Ok(text) => Found::Keys(names(&text).map(str::to_owned).collect()),
            Err(error) => Found::Unknown(format!("{error:#}")),
        }
    }
}

/// Without the proxy in front of it.
fn plain(map: &str) -> &str {
    let map = map.trim();
    map.strip_prefix("proxy:").or_else(|| map.strip_prefix("proxywrite:")).unwrap_or(map)
}

/// The key of a line of `postmap -s`: `key<tab>value`.
fn listed_key(line: &str) -> Option<String> {
    let key = line.split('\t').next()?.trim_end_matches('\0').trim();
    // The databases' own entry.
    (!key.is_empty() && key != "@@MISS@@" && key != "YP_LAST_MODIFIED" && key != "YP_MASTER_NAME")
        .then(|| key.to_owned())
}

/// The keys of `{ { key = value }, key = value }`.
fn inline(text: &str) -> Vec<String> {
    let inside = text.trim().trim_start_matches('{').trim_end_matches('}');
    inside
        .split([',', '{', '}'])
        .filter_map(|part| part.split_once('='))
        .map(|(key, _)| key.trim().to_owned())
        .collect()
}

/// Words between commas and white space; what stands in braces is a part of its word.
fn words(text: &str) -> Vec<String> {
    let (mut found, mut word, mut depth) = (Vec::new(), String::new(), 0);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth <= 0 && (c == ',' || c.is_whitespace()) {
            found.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        } else {
            word.push(c);
        }
    }
    found.extend(Some(word).filter(|word| !word.is_empty()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_postfix_does() {
        assert_eq!(words("a, b\tc,,d"), ["a", "b", "c", "d"]);
        assert_eq!(words("hash:/a, inline:{ x=1, y=2 } z"), ["hash:/a", "inline:{ x=1, y=2 }", "z"]);
        assert_eq!(inline("{ a@b = c, { d@e = f g } }"), ["a@b", "d@e"]);
        assert_eq!(plain("proxy:unix:passwd.byname"), "unix:passwd.byname");
        assert_eq!(listed_key("a@b\tc d").as_deref(), Some("a@b"));
        assert_eq!(listed_key("\t"), None);
    }
}
