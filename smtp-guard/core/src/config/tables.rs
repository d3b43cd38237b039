//! The macro behind the table of keys ([`super::keys`]): of each row it makes everything that a key needs.
//!
//! ```text
//! table Limits("limits", Once, "For each source ...") {
//!     connections: u32 = key(Number(1, MILLION), "20", "Connections of one source at once."),
//!     ...
//! }
//! ```
//!
//! | of the row | comes |
//! |---|---|
//! | `connections: u32` | a field of `Limits`, which `config show` writes; one of `Raw<Limits>`, which serde reads |
//! | the type `u32` | how the value is read, held against the row, and shown ([`super::value::Value`]) |
//! | `by a_function`, at the end | that function instead, for a key with a rule of its own |
//! | `key(...)` | the [`Key`](super::keys::Key): range, default, reference, packaged file, and whether a reload changes it |
//! | `holding { ... }` | tables within this one, each a `Value` of its own |
//!
//! An `entry` is a table of which there may be several, or none. Its valid struct is written by hand, beside what is checked of
//! it; so its rows have the types of [`super::raw`].

macro_rules! tables {
    ($(
        $(#[$about:meta])*
        $form:ident $name:ident($table:literal, $shown:ident, $heading:literal)
        $(holding { $($held:ident: $inner:ty),* $(,)? })? {
            $($key:ident: $type:ty = key($kind:expr, $default:literal, $doc:literal)
                $(.$flag:ident($($why:literal)?))* $(by $by:path)?),* $(,)?
        }
    )+) => {
        $($crate::config::tables::$form! {
            $(#[$about])*
            $name($table) { $($key: $type, $doc $(, $by)?;)* } { $($($held: $inner;)*)? }
        })+

        /// All of it, in the order of the packaged file.
        pub const TABLES: &[Table] = &[$(Table {
            name: $table,
            shown: Shown::$shown,
            doc: $heading,
            keys: &[$(key(stringify!($key), $kind, $default, $doc)$(.$flag($($why)?))*),*],
        }),+];
    };
}

/// The valid struct, what is read of it, and the way from one to the other.
macro_rules! table {
    (
        $(#[$about:meta])*
        $name:ident($table:literal) { $($key:ident: $type:ty, $doc:literal $(, $by:path)?;)* } { $($held:ident: $inner:ty;)* }
    ) => {
        $(#[$about])*
        #[allow(rustdoc::broken_intra_doc_links, reason = "the sentences are the operator's: [[dnsbl]] is a table of the file")]
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $(#[doc = $doc] #[serde(serialize_with = "crate::config::value::show")] pub $key: $type,)*
            $(#[serde(serialize_with = "crate::config::value::show")] pub $held: $inner,)*
        }

        const _: () = {
            use $crate::config::judge::Judge;
            use $crate::config::value::{Raw as RawOf, Value};

            #[derive(Debug, Default, serde::Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub(in crate::config) struct Raw {
                $(pub(in crate::config) $key: RawOf<$type>,)*
                $(pub(in crate::config) $held: RawOf<$inner>,)*
            }

            impl Value for $name {
                type Raw = Raw;

                fn judge(_: &str, raw: &Raw, judge: &mut Judge) -> Self {
                    Self {
                        $($key: $crate::config::tables::judged!($type $(, $by)?)(
                            $crate::config::tables::whole!($table, $key), &raw.$key, judge,
                        ),)*
                        $($held: <$inner as Value>::judge($crate::config::tables::whole!($table, $held), &raw.$held, judge),)*
                    }
                }

                fn show<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                    serde::Serialize::serialize(self, out)
                }

                fn keep_fixed(&mut self, running: &Self) {
                    $(if needs_restart($crate::config::tables::whole!($table, $key)).is_some() {
                        self.$key.clone_from(&running.$key);
                    })*
                    $(self.$held.keep_fixed(&running.$held);)*
                }
            }

            impl Default for $name {
                /// Values that no file names.
                fn default() -> Self {
                    Self::judge($table, &Raw::default(), &mut Judge::default())
                }
            }
        };
    };
}

/// The raw form of an entry.
macro_rules! entry {
    (
        $(#[$about:meta])*
        $name:ident($table:literal) { $($key:ident: $raw:ty, $doc:literal;)* } { $($held:ident: $inner:ty;)* }
    ) => {
        const _: () = {
            $(#[$about])*
            #[derive(Debug, Default, serde::Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub(in crate::config) struct Raw {
                $(#[doc = $doc] pub(in crate::config) $key: $raw,)*
                $(pub(in crate::config) $held: $inner,)*
            }

            impl $crate::config::value::Entry for $name {
                type Raw = Raw;
            }
        };
    };
}

/// The maker of a valid value: its type, or a function of its own.
macro_rules! judged {
    ($type:ty) => {
        <$type as Value>::judge
    };
    ($type:ty, $by:path) => {
        $by
    };
}

/// The whole name of a key: `limits.connections`, or `drain`.
macro_rules! whole {
    ($table:literal, $key:ident) => {
        concat!($table, ".", stringify!($key)).trim_start_matches('.')
    };
}

pub(super) use {entry, judged, table, tables, whole};
