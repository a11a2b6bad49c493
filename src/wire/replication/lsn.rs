//! Places in a server's write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A place in the write-ahead log, in bytes from its beginning. 0 is no place (`InvalidXLogRecPtr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    /// As Postgres writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

/// A text that is no place in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a WAL position of the form 16/B374D848")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    /// As `pg_lsn_in_internal` of Postgres: two numbers of one to eight hexadecimal digits.
    fn from_str(text: &str) -> Result<Lsn, InvalidLsn> {
        let half = |digits: &str| {
            let plain =
                (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(digits, 16).ok().filter(|_| plain)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((half(high)?, half(low)?)))
            .map(|(high, low)| Lsn(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number() {
        for (text, number) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
        assert_eq!("0a/00000001".parse(), Ok(Lsn(0xA_0000_0001)));
        for wrong in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "1/2/3",
            "+1/2",
            "1/ 2",
            "123456789/1",
            "g/1",
        ] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }
}
