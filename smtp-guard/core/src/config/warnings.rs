//! Warnings about what is valid and probably not meant so: said by `check`, in the log at the start, and in `status`.

use super::Config;

impl Config {
    /// Warnings about what the file says, each a sentence with the way out.
    pub fn warnings(&self) -> Vec<String> {
        self.listen_warnings()
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
    fn a13_that_ipv4_is_missing_is_said() {
        check(&["[::]:25"], &["[::]:25"]);
        check(&["[::]:25", "0.0.0.0:25"], &[]);
        check(&["[::]:25", "[::]:587", "192.0.2.1:25"], &["[::]:587"]);
        check(&["[::]:25", "0.0.0.0:587"], &["[::]:25"]);
        check(&["0.0.0.0:25"], &[]);
        check(&["[2001:db8::1]:25"], &[]);
    }
}
