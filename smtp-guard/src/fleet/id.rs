//! The id of an entry of a stream.

use std::fmt;
use std::str::FromStr;

/// Milliseconds and a number; ids of a stream grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64, u64);

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, number) = text.split_once('-').ok_or(())?;
        Ok(Self(ms.parse().map_err(drop)?, number.parse().map_err(drop)?))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_text_and_ids_grow_as_numbers() {
        for text in ["0-0", "1700000000000-12"] {
            assert_eq!(text.parse::<Id>().map(|id| id.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "5", "5-", "-5", "a-b", "5-6-7"] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
        assert!("9-5".parse::<Id>() < "10-0".parse() && "9-9".parse::<Id>() < "9-10".parse());
    }
}
