//! Recipients of Exim: candidates, each verified by Exim itself.
//!
//! Candidates come from the users of the host and from the files that the routers look up. Exim then says of each whether
//! it would be delivered (`exim -bv`), so the routers need not be understood here.

use std::collections::BTreeSet;
use std::path::Path;

use super::host::Host;
use super::{Export, domain_key, keys, names};

/// Addresses in one call.
const BATCH: usize = 200;
/// Look-ups whose keys can't be listed.
const UNLISTABLE: [&str; 14] = [
    "mysql",
    "pgsql",
    "ldap",
    "ldapdn",
    "ldapm",
    "redis",
    "sqlite",
    "ibase",
    "oracle",
    "nis",
    "nisplus",
    "passwd,ret",
    "dnsdb",
    "spf",
];

/// All recipients of the Exim on `host`, of `wanted` domains or of those that its lists name.
pub(super) fn export(host: &Host, file: Option<&Path>, exim: &str, wanted: &[String]) -> anyhow::Result<Export> {
    let exim = Exim { host, exim, file: file.map(|file| file.to_string_lossy().into_owned()) };
    let config = host.run(&exim.words(&["-bP", "config"]))?;
    let mut export = Export::new(format!("Exim on {}", host.name()));
    let domains: BTreeSet<_> = match wanted {
        [] => exim.domains(&config, &mut export)?,
        wanted => wanted.iter().filter_map(|domain| domain_key(domain)).collect(),
    };
    let routers = config.split("\nbegin routers").nth(1).unwrap_or(&config);
    let routers = routers.split("\nbegin ").next().unwrap_or_default();
    let unlistable = UNLISTABLE.iter().find(|kind| looks_up(routers, kind));
    let users = host.run(&["getent", "passwd"]).unwrap_or_default();
    for domain in domains {
        export.domains.entry(domain.clone()).or_default();
        if let Some(kind) = unlistable {
            export.take_all(&domain, &format!("a router looks users up by {kind}, and its entries can't be listed"));
            continue;
        }
        if exim.verifies(&format!("{}@{domain}", crate::relay::nobody()))? {
            export.take_all(&domain, "Exim takes an address that nobody has");
            continue;
        }
        let mut candidates: BTreeSet<String> = names(&users).map(str::to_owned).collect();
        candidates.extend(["postmaster", "abuse", "hostmaster", "webmaster"].map(str::to_owned));
        for path in files(routers, &domain) {
            match host.read(Path::new(&path)) {
                Ok(text) => candidates.extend(keys(&text)),
                Err(error) => export.note(format!("{domain}: {path}, which a router looks up, is left out: {error:#}")),
            }
        }
        candidates.extend(local_parts(routers));
        let addresses: Vec<_> = candidates
            .iter()
            .filter_map(|key| match key.split_once('@') {
                None if !key.contains(['*', '^', '!', '/', '$']) => Some(format!("{key}@{domain}")),
                Some((_, of)) if of.eq_ignore_ascii_case(&domain) => Some(key.clone()),
                _ => None,
            })
            .filter(|address| !address.contains(char::is_whitespace))
            .collect();
        for address in exim.existing(&addresses)? {
            if let Some((user, _)) = address.rsplit_once('@') {
                export.add(user, &domain);
            }
        }
    }
    Ok(export)
}

struct Exim<'a> {
    host: &'a Host,
    exim: &'a str,
    file: Option<String>,
}

impl Exim<'_> {
    fn words<'w>(&'w self, more: &[&'w str]) -> Vec<&'w str> {
        let mut words = vec![self.exim];
        if let Some(file) = &self.file {
            words.extend(["-C", file]);
        }
        words.extend(more);
        words
    }

    /// Domains that the named lists and the conditions of routers name.
    fn domains(&self, config: &str, export: &mut Export) -> anyhow::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for line in config.replace("\\\n", " ").lines() {
            let line = line.trim();
            let list = match line.strip_prefix("domainlist") {
                Some(list) => list.split_once('='),
                None => line
                    .strip_prefix("domains")
                    .filter(|rest| rest.trim_start().starts_with('='))
                    .and_then(|rest| rest.split_once('=')),
            };
            let Some((_, list)) = list else { continue };
            for item in list.split(':').map(str::trim).filter(|item| !item.is_empty()) {
                if item == "@" {
                    let name = self.host.run(&self.words(&["-bP", "primary_hostname"]))?;
                    found.extend(name.split_once('=').and_then(|(_, name)| domain_key(name.trim())));
                } else if let Some(path) = item.strip_prefix("dsearch;") {
                    let names = self.host.run(&["ls", "--", path]).unwrap_or_default();
                    found.extend(names.lines().filter_map(domain_key));
                } else if let Some((kind, path)) = item.split_once(';').filter(|(kind, _)| kind.contains("lsearch")) {
                    match self.host.read(Path::new(path)) {
                        Ok(text) => found.extend(keys(&text).iter().filter_map(|key| domain_key(key))),
                        Err(error) => export.note(format!("domains of {kind};{path} are left out: {error:#}")),
                    }
                } else if item.starts_with(['!', '+', '*', '^', '$', '<']) || item.contains(';') {
                    if !item.starts_with(['!', '+']) {
                        export.note(format!(
                            "{item} is not a single domain and is left out: name its domains by --domain"
                        ));
                    }
                } else if let Some(domain) =
                    domain_key(item).filter(|domain| domain != "localhost" && domain.contains('.'))
                {
                    found.insert(domain);
                }
            }
        }
        Ok(found)
    }

    /// Those of `addresses` that Exim doesn't refuse for good.
    fn existing(&self, addresses: &[String]) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for batch in addresses.chunks(BATCH) {
            let mut more = vec!["-bv"];
            more.extend(batch.iter().map(String::as_str));
            // It ends with an error where one of them doesn't exist.
            let (text, _, complaint) = self.host.attempt(&self.words(&more))?;
            if !text.contains(" verified")
                && !text.contains(" failed to verify")
                && !text.contains("cannot be resolved")
            {
                anyhow::bail!("{} -bv: {}", self.exim, complaint.trim());
            }
            let failed: BTreeSet<_> = text
                .lines()
                .filter_map(|line| line.split_once(" failed to verify"))
                .map(|(address, _)| address.trim())
                .collect();
            found.extend(batch.iter().filter(|address| !failed.contains(address.as_str())).cloned());
        }
        Ok(found)
    }

    fn verifies(&self, address: &str) -> anyhow::Result<bool> {
        Ok(!self.existing(&[address.to_owned()])?.is_empty())
    }
}

/// Whether a look-up of `kind` stands in `routers`: `${lookup mysql{...` or `mysql;...`.
fn looks_up(routers: &str, kind: &str) -> bool {
    routers.contains(&format!("{kind};"))
        || routers.split("lookup").skip(1).any(|rest| {
            rest.split('{').take(3).any(|part| {
                part.trim() == kind
                    || part.trim().ends_with(&format!("}} {kind}"))
                    || part.trim().ends_with(&format!("}}{kind}"))
            })
        })
}

/// The files that routers look `domain`'s users up in: `lsearch{/etc/aliases}`, `lsearch;/etc/users`.
fn files(routers: &str, domain: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in routers.match_indices("lsearch") {
        let rest = routers[at + "lsearch".len()..]
            .trim_start_matches(|c: char| c.is_alphanumeric() || c == ',' || c == '=' || c == '*' || c == '@');
        let (path, end): (_, &[char]) = match rest.chars().next() {
            Some('{') => (&rest[1..], &['}', '\n']),
            Some(';') => (&rest[1..], &[' ', ':', '\n', '\t']),
            _ => continue,
        };
        // `${domain}` has a brace of its own.
        let path = path.replace("${domain}", "$domain").replace("${domain_data}", "$domain");
        let path = path.split(end).next().unwrap_or_default().trim();
        let path = path.replace("$domain_data", domain).replace("$domain", domain);
        if path.starts_with('/') && !path.contains('$') {
            found.insert(path);
        }
    }
    found
}

/// The names that `local_parts = a : b` gives.
fn local_parts(routers: &str) -> Vec<String> {
    let list = |line: &str| {
        let rest = line.trim().strip_prefix("local_parts")?.trim_start().strip_prefix('=')?.to_owned();
        Some(rest.split(':').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect::<Vec<_>>())
    };
    routers.replace("\\\n", " ").lines().filter_map(list).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_routers_are_found() {
        let routers = "aliases:\n  data = ${lookup{$local_part}lsearch{/etc/aliases}}\n\
                       virtual:\n  data = ${lookup {$local_part} lsearch*{/etc/exim4/virtual/$domain_data}}\n\
                       users:\n  local_parts = lsearch;/etc/users\n  local_parts = alice : \\\n    bob\n";
        assert_eq!(
            files(routers, "example.org").into_iter().collect::<Vec<_>>(),
            ["/etc/aliases", "/etc/exim4/virtual/example.org", "/etc/users"]
        );
        assert_eq!(local_parts(routers), ["lsearch;/etc/users", "alice", "bob"]);
        for kind in UNLISTABLE {
            assert!(!looks_up(routers, kind), "{kind}");
        }
        for routers in
            ["data = ${lookup mysql{SELECT x}}", "data = ${lookup {$local_part} nis {aliases}}", "local_parts = ldap;x"]
        {
            assert!(UNLISTABLE.iter().any(|kind| looks_up(routers, kind)), "{routers}");
        }
    }
}
