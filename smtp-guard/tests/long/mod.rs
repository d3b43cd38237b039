//! How much of a test is run: all of it takes minutes, and `cargo xtask test --long` asks for that.
#![allow(unreachable_pub, reason = "it is a module of two crates")]

/// Set by `cargo xtask test --long`.
const LONG: &str = "SMTP_GUARD_LONG";

/// `whole` in the long run, else `short`.
pub fn amount<T>(short: T, whole: T) -> T {
    if std::env::var_os(LONG).is_some() { whole } else { short }
}
