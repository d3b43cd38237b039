//! Warnings about what is valid and probably not meant so: said by `check`, in the log at the start, and in `status`.

use super::Config;

impl Config {
    /// Warnings about what the file says, each a sentence with the way out.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.listen_warnings();
        warnings.extend(self.webhook_warning());
        warnings
    }

    /// Events name clients, and users who are held.
    fn webhook_warning(&self) -> Option<String> {
        let webhook = self.events.webhook.as_ref()?;
        (!webhook.is_secure() && !webhook.is_loopback()).then(|| {
            format!(
                "events.webhook {} sends addresses and names of users in clear text: use https, unless the network between is yours",
                webhook.place()
            )
        })
    }

    /// `[::]:25` takes no IPv4 here: sockets are bound to one family each.
    fn listen_warnings(&self) -> Vec<String> {
        let lonely = self.listen.iter().map(|listen| listen.address).filter(|address| {
            let has_v4 =
                self.listen.iter().any(|other| other.address.is_ipv4() && other.address.port() == address.port());
            address.is_ipv6() && address.ip().is_unspecified() && !has_v4
        });
        let warning = |address: std::net::SocketAddr| {
            let port = address.port();
            format!(
                "listen.address {address} takes IPv6 only, and nothing takes IPv4 on port {port}: \
                 add [[listen]] with address = \"0.0.0.0:{port}\""
            )
        };
        lonely.map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NetSet;
    use crate::config::{Listen, Role};

    /// The warnings where it listens on `addresses`, by their first words.
    #[track_caller]
    fn check(addresses: &[&str], expected: &[&str]) {
        let mut config = Config::builtin();
        let listen =
            |address: &&str| Listen { address: address.parse().unwrap(), role: Role::Mx, balancers: NetSet::default() };
        config.listen = addresses.iter().map(listen).collect();
        let warnings = config.warnings();
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(&format!("listen.address {expected} takes IPv6 only")), "{warning}");
        }
    }

    #[test]
    fn clear_text_beyond_this_host_is_warned_of() {
        for (url, warns) in [
            ("https://ops.example.org/h", false),
            ("http://127.0.0.1:8080/h", false),
            ("http://[::1]/h", false),
            ("http://localhost/h", false),
            ("http://10.0.0.5/h?token=secret", true),
            ("http://ops.example.org/h?token=secret", true),
        ] {
            let mut config = Config::builtin();
            config.events.webhook = Some(url.parse().unwrap());
            let warnings = config.warnings();
            assert_eq!(warnings.len(), usize::from(warns), "{url}: {warnings:?}");
            assert!(warnings.iter().all(|w| w.contains("use https") && !w.contains("secret")), "{warnings:?}");
        }
    }

    #[test]
    fn a13_that_ipv4_is_missing_is_said() {
        check(&["[::]:25"], &["[::]:25"]);
        check(&["[::]:25", "0.0.0.0:25"], &[]);
        check(&["[::]:25", "[::]:587", "192.0.2.1:25"], &["[::]:587"]);
        check(&["[::]:25", "0.0.0.0:587"], &["[::]:25"]);
        check(&["0.0.0.0:25"], &[]);
        check(&["[2001:db8::1]:25"], &[]);
    }
}
