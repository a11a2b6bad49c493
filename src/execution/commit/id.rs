//! The names of transactions that commit on several shards.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

/// What the names of our prepared transactions begin with.
pub const PREFIX: &str = "trunkline:";

/// Digits of the parts of an id, in base 16.
const TIME: usize = 12;
const PROXY: usize = 8;
const CHANCE: usize = 16;

/// One transaction: the time of its commit in milliseconds, the proxy, chance. Ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId {
    milliseconds: u64,
    proxy: Proxy,
    chance: u64,
}

/// A running proxy; chosen by chance when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Proxy(pub u32);

/// The name of a prepared transaction, unique on its server. `trunkline:<id>:<participant>:<decision shard>`.
///
/// Postgres allows 199 bytes. A shard's name has at most 63.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gid {
    pub id: TransactionId,
    /// Counts the participants from 0: two shards may be databases of one server.
    pub participant: usize,
    pub decision_shard: Box<str>,
}

/// Why a text is not a name of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "not the name of a transaction of Trunkline: trunkline:<id>:<participant>:<decision shard>"
)]
pub struct NotOurs;

impl TransactionId {
    /// A new one.
    pub fn new(now: SystemTime, proxy: Proxy) -> TransactionId {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        TransactionId {
            // 48 bits last until the year 10889.
            milliseconds: u64::try_from(since.as_millis()).unwrap_or(0) & ((1 << 48) - 1),
            proxy,
            chance: rand::random(),
        }
    }

    /// When its commit began, by the clock of its proxy.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.milliseconds)
    }

    pub fn proxy(self) -> Proxy {
        self.proxy
    }

    /// From its text, which has one form only.
    pub fn parse(text: &str) -> Result<TransactionId, NotOurs> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().ok_or(NotOurs)?;
            let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if part.len() != digits || !part.bytes().all(lower) {
                return Err(NotOurs);
            }
            u64::from_str_radix(part, 16).map_err(|_| NotOurs)
        };
        let (milliseconds, proxy, chance) = (part(TIME)?, part(PROXY)?, part(CHANCE)?);
        if parts.next().is_some() {
            return Err(NotOurs);
        }
        Ok(TransactionId {
            milliseconds,
            proxy: Proxy(u32::try_from(proxy).map_err(|_| NotOurs)?),
            chance,
        })
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxy(proxy) = self.proxy;
        write!(
            f,
            "{:0TIME$x}-{proxy:0PROXY$x}-{:0CHANCE$x}",
            self.milliseconds, self.chance
        )
    }
}

impl Gid {
    pub fn parse(text: &str) -> Result<Gid, NotOurs> {
        let rest = text.strip_prefix(PREFIX).ok_or(NotOurs)?;
        let mut parts = rest.splitn(3, ':');
        let mut part = || parts.next().ok_or(NotOurs);
        let (id, participant, decision_shard) = (part()?, part()?, part()?);
        let gid = Gid {
            id: TransactionId::parse(id)?,
            participant: participant.parse().map_err(|_| NotOurs)?,
            decision_shard: Box::from(decision_shard),
        };
        // Another spelling of the same would be another transaction to Postgres.
        if gid.to_string() != text || decision_shard.is_empty() {
            return Err(NotOurs);
        }
        Ok(gid)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}{}:{}:{}",
            self.id, self.participant, self.decision_shard
        )
    }
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
pub fn quoted(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A name as it is, whatever is in it.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(decision_shard: &str) -> Gid {
        let now = UNIX_EPOCH + Duration::from_millis(1_234_567);
        Gid {
            id: TransactionId::new(now, Proxy(7)),
            participant: 3,
            decision_shard: Box::from(decision_shard),
        }
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        for shard in ["s1", "a:b", "it's", "é\\", &"x".repeat(63)] {
            let gid = gid(shard);
            let text = gid.to_string();
            assert!(text.len() < 200, "{text}");
            assert_eq!(Gid::parse(&text), Ok(gid));
        }
        assert_eq!(
            gid("s").id.time(),
            UNIX_EPOCH + Duration::from_millis(1_234_567)
        );
    }

    #[test]
    fn other_names_are_not_ours() {
        let ours = gid("s1").to_string();
        let others = [
            String::new(),
            "trunkline:".to_owned(),
            ours.replace(":3:", ":03:"),
            ours.replace(":3:", ":+3:"),
            ours.to_uppercase(),
            ours.replace("trunkline:", "trunkline"),
            ours.trim_end_matches("s1").to_owned(),
            ours.replacen('-', "-0", 1),
        ];
        for other in others {
            assert_eq!(Gid::parse(&other), Err(NotOurs), "{other}");
        }
    }

    #[test]
    fn string_constants_hold_any_text() {
        assert_eq!(quoted("it's"), "'it''s'");
        assert_eq!(quoted("a\\'b"), "E'a\\\\''b'");
    }
}
