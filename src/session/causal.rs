//! What a session's reads must see of what was written before them: a floor for each shard, and the token that carries floors to another
//! connection.
//!
//! A floor only rises. One that is higher than needed costs a wait or a turn of the primary, never an answer; so what a rolled back
//! transaction has raised stays where it is.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use crate::sharding::ShardId;
use crate::topology::Lsn;
use crate::topology::choice::Floor;
use crate::topology::view::{Marks, Written};

/// The shards' names by their ids, as the catalog has them.
pub type ShardNames = Arc<[Box<str>]>;

/// A session's floors. Most sessions have none: that is one comparison and no memory.
#[derive(Debug, Default)]
pub struct Causal {
    /// By shard; empty as long as there is none.
    floors: Vec<Floor>,
    /// Whose the floors are: with another configuration an id may mean another shard.
    names: Option<ShardNames>,
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("it is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    #[error("it is not of version {VERSION}")]
    Version,
    #[error(
        "\"{SEPARATOR}\" does not follow a shard's name, or no place in a write-ahead log follows it"
    )]
    Entry,
}

/// Bytes. A thousand shards with the longest names have shorter ones.
const LONGEST_TOKEN: usize = 256 * 1024;

/// What a token begins with. `1:s1@0/3000060,s2@0/3000148`
const VERSION: &str = "1:";
const SEPARATOR: char = '@';

impl Causal {
    /// Nothing was written, and no token given.
    pub fn is_empty(&self) -> bool {
        self.floors.is_empty()
    }

    /// The session's commit on this shard lies before this place in the log: what was committed earlier does so, too.
    pub fn wrote(&mut self, shard: ShardId, at: Lsn, names: &ShardNames) {
        let floor = self.entry(shard, names);
        *floor = match *floor {
            // Of another timeline, perhaps, which had come further.
            Floor::At(known) => Floor::At(known.max(at)),
            Floor::None | Floor::Since(_) => Floor::At(at),
        };
    }

    /// The session has committed something on this shard by this instant; where in the log is not known. Instants come in their order,
    /// and none before what [`Causal::wrote`] has told.
    pub fn wrote_unknown(&mut self, shard: ShardId, by: Instant, names: &ShardNames) {
        let floor = self.entry(shard, names);
        *floor = match *floor {
            Floor::Since(known) => Floor::Since(known.max(by)),
            Floor::None | Floor::At(_) => Floor::Since(by),
        };
    }

    /// The session may have committed anything anywhere by this instant.
    pub fn wrote_unseen(&mut self, by: Instant, names: &ShardNames) {
        self.raise_all(names, by);
    }

    /// What a read on this shard must see. A place that has become known is remembered.
    pub fn floor(&mut self, shard: ShardId, names: &ShardNames, written: &Written) -> Floor {
        if self.floors.is_empty() {
            return Floor::None;
        }
        self.follow(names);
        let Some(floor) = self.floors.get_mut(shard.index()) else {
            return Floor::None;
        };
        *floor = floor.settled(written);
        *floor
    }

    /// Whether a replica with these marks shows what a read on this shard must see.
    pub fn is_satisfied(
        &mut self,
        shard: ShardId,
        names: &ShardNames,
        marks: &Marks,
        written: &Written,
    ) -> bool {
        self.floor(shard, names, written)
            .is_met_by(marks.replayed())
    }

    /// The shards whose floors have no place in the log yet. A token needs it: [`Causal::wrote`] with what the primary says now.
    pub fn unsettled(&mut self, names: &ShardNames) -> impl Iterator<Item = ShardId> {
        self.follow(names);
        let floors = self.floors.iter().enumerate();
        floors.filter_map(|(place, floor)| {
            let shard = u16::try_from(place).ok().map(ShardId);
            shard.filter(|_| matches!(floor, Floor::Since(_)))
        })
    }

    /// The floors as a text for [`Causal::adopt`], here or elsewhere; empty without any. `Err`: this shard is among the unsettled ones.
    pub fn token(&mut self, names: &ShardNames) -> Result<String, ShardId> {
        if let Some(shard) = self.unsettled(names).next() {
            return Err(shard);
        }
        let mut token = String::new();
        for (floor, name) in self.floors.iter().zip(names.iter()) {
            if let Floor::At(lsn) = floor {
                token.push_str(if token.is_empty() { VERSION } else { "," });
                escape(name, &mut token);
                write!(token, "{SEPARATOR}{lsn}").expect("writing to a string cannot fail");
            }
        }
        Ok(token)
    }

    /// Raises the floors to those of a token. An empty one has none.
    ///
    /// A shard that is not known here is one that this proxy does not have any more, or not yet: its rows are somewhere else, so every
    /// shard has to show what was committed before now.
    pub fn adopt(&mut self, token: &str, names: &ShardNames, now: Instant) -> Result<(), BadToken> {
        if token.is_empty() {
            return Ok(());
        }
        if token.len() > LONGEST_TOKEN {
            return Err(BadToken::TooLong);
        }
        let entries = token.strip_prefix(VERSION).ok_or(BadToken::Version)?;
        let entries = || entries.split(',').map(entry);
        // All or nothing.
        entries().try_for_each(|entry| entry.map(|_| ()))?;
        for (name, lsn) in entries().filter_map(Result::ok) {
            let place = names.iter().position(|known| **known == *name);
            match place.and_then(|place| u16::try_from(place).ok()) {
                Some(place) => self.raise(ShardId(place), lsn, names, now),
                None => self.raise_all(names, now),
            }
        }
        Ok(())
    }

    /// As in a new session.
    pub fn forget(&mut self) {
        *self = Causal::default();
    }

    fn raise(&mut self, shard: ShardId, lsn: Lsn, names: &ShardNames, now: Instant) {
        let floor = self.entry(shard, names);
        *floor = match *floor {
            Floor::None => Floor::At(lsn),
            Floor::At(known) => Floor::At(known.max(lsn)),
            // Whoever gave the token had committed by now.
            Floor::Since(_) => Floor::Since(now),
        };
    }

    fn raise_all(&mut self, names: &ShardNames, now: Instant) {
        self.follow(names);
        self.names = Some(Arc::clone(names));
        self.floors = vec![Floor::Since(now); names.len()];
    }

    fn entry(&mut self, shard: ShardId, names: &ShardNames) -> &mut Floor {
        self.follow(names);
        self.names.get_or_insert_with(|| Arc::clone(names));
        let length = names.len().max(shard.index() + 1);
        if self.floors.len() < length {
            self.floors.resize(length, Floor::None);
        }
        &mut self.floors[shard.index()]
    }

    /// Finds the floors' places among the shards as they are now.
    fn follow(&mut self, names: &ShardNames) {
        let Some(known) = &self.names else {
            return;
        };
        if Arc::ptr_eq(known, names) {
            return;
        }
        if known == names {
            self.names = Some(Arc::clone(names));
            return;
        }
        let known = std::mem::take(self);
        let known_names = known.names.iter().flat_map(|names| names.iter());
        let mut is_gone = false;
        for (name, floor) in known_names.zip(&known.floors) {
            if *floor == Floor::None {
                continue;
            }
            match names.iter().position(|name_now| name_now == name) {
                Some(place) => {
                    let floors = &mut self.floors;
                    floors.resize(names.len(), Floor::None);
                    floors[place] = *floor;
                }
                None => is_gone = true,
            }
        }
        self.names = Some(Arc::clone(names));
        if is_gone {
            self.raise_all(names, Instant::now());
        }
    }
}

/// A shard's name and its place in the log.
fn entry(text: &str) -> Result<(String, Lsn), BadToken> {
    let (name, lsn) = text.rsplit_once(SEPARATOR).ok_or(BadToken::Entry)?;
    let name = unescape(name).filter(|name| !name.is_empty());
    let lsn = lsn.parse().ok();
    name.zip(lsn).ok_or(BadToken::Entry)
}

/// Letters, digits and `_-.` stand for themselves; every other byte is a `%` with two hexadecimal digits.
fn escape(name: &str, out: &mut String) {
    for byte in name.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match *first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
                rest = after;
            }
            byte if is_plain(byte) => bytes.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::topology::view::Mark;

    fn names(names: &[&str]) -> ShardNames {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    fn marks(replayed: u64) -> Marks {
        let marks = Marks::default();
        marks.note(Lsn(replayed), None, None);
        marks
    }

    const ONE: ShardId = ShardId(0);
    const TWO: ShardId = ShardId(1);

    #[test]
    fn a_session_that_wrote_nothing_needs_nothing() {
        let names = names(&["s1", "s2"]);
        let mut causal = Causal::default();
        assert!(causal.is_empty());
        assert_eq!(causal.floor(ONE, &names, &Written::default()), Floor::None);
        assert!(causal.is_satisfied(TWO, &names, &marks(0), &Written::default()));
        assert_eq!(causal.token(&names), Ok(String::new()));
        assert_eq!(causal.floors.capacity(), 0);
    }

    #[test]
    fn a_commit_is_seen_by_replicas_that_have_replayed_it() {
        let names = names(&["s1", "s2"]);
        let written = Written::default();
        let mut causal = Causal::default();
        causal.wrote(TWO, Lsn(100), &names);
        assert!(!causal.is_satisfied(TWO, &names, &marks(99), &written));
        assert!(causal.is_satisfied(TWO, &names, &marks(100), &written));
        assert!(causal.is_satisfied(ONE, &names, &marks(0), &written));
        causal.wrote(TWO, Lsn(50), &names);
        assert!(!causal.is_satisfied(TWO, &names, &marks(99), &written));
    }

    #[test]
    fn a_place_that_is_not_known_is_found_by_a_later_mark_and_kept() {
        let names = names(&["s1"]);
        let written = Written::default();
        let committed = Instant::now();
        let later = committed + Duration::from_millis(5);
        let mut causal = Causal::default();
        causal.wrote(ONE, Lsn(10), &names);
        causal.wrote_unknown(ONE, committed, &names);
        assert!(!causal.is_satisfied(ONE, &names, &marks(u64::MAX), &written));
        assert_eq!(causal.unsettled(&names).collect::<Vec<_>>(), [ONE]);
        assert_eq!(causal.token(&names), Err(ONE));
        let mark = |lsn, asked| Mark {
            lsn: Lsn(lsn),
            asked,
        };
        written.note(mark(15, committed - Duration::from_nanos(1)));
        assert!(!causal.is_satisfied(ONE, &names, &marks(u64::MAX), &written));
        written.note(mark(20, later));
        assert!(!causal.is_satisfied(ONE, &names, &marks(19), &written));
        // The first such mark counts, however far the log goes on.
        written.note(mark(1_000, later + later.elapsed()));
        assert!(causal.is_satisfied(ONE, &names, &marks(20), &written));
        assert_eq!(causal.unsettled(&names).count(), 0);
        // A place that is known later covers what was not.
        causal.wrote_unknown(ONE, later, &names);
        causal.wrote(ONE, Lsn(2_000), &names);
        assert_eq!(causal.token(&names).as_deref(), Ok("1:s1@0/7D0"));
    }

    #[test]
    fn a_token_carries_the_floors_to_another_session() {
        let names = names(&["s1", "odd @,%ü", "s3"]);
        let mut one = Causal::default();
        one.wrote(ONE, Lsn(0x16_B374_D848), &names);
        one.wrote(TWO, Lsn(7), &names);
        let token = one.token(&names).expect("all places are known");
        assert_eq!(token, "1:s1@16/B374D848,odd%20%40%2C%25%C3%BC@0/7");
        let mut other = Causal::default();
        other.wrote(ONE, Lsn(3), &names);
        other.wrote(ShardId(2), Lsn(5), &names);
        assert_eq!(other.adopt(&token, &names, Instant::now()), Ok(()));
        assert_eq!(
            other.floors,
            [
                Floor::At(Lsn(0x16_B374_D848)),
                Floor::At(Lsn(7)),
                Floor::At(Lsn(5))
            ]
        );
        // It lowers nothing.
        assert_eq!(other.adopt("1:s1@0/1", &names, Instant::now()), Ok(()));
        assert_eq!(other.adopt("", &names, Instant::now()), Ok(()));
        assert_eq!(other.floors[0], Floor::At(Lsn(0x16_B374_D848)));
    }

    #[test]
    fn a_token_covers_what_had_no_place_yet() {
        let names = names(&["s1"]);
        let committed = Instant::now();
        let adopted = committed + Duration::from_secs(1);
        let mut causal = Causal::default();
        causal.wrote_unknown(ONE, committed, &names);
        assert_eq!(causal.adopt("1:s1@0/64", &names, adopted), Ok(()));
        assert_eq!(causal.floors, [Floor::Since(adopted)]);
    }

    #[test]
    fn what_is_no_token_changes_nothing() {
        let names = names(&["s1", "s2"]);
        for (wrong, why) in [
            ("s1@0/1", BadToken::Version),
            ("2:s1@0/1", BadToken::Version),
            ("1:", BadToken::Entry),
            ("1:s1", BadToken::Entry),
            ("1:s1@", BadToken::Entry),
            ("1:@0/1", BadToken::Entry),
            ("1:s1@0/1,", BadToken::Entry),
            ("1:s1@0/1,s2@x", BadToken::Entry),
            ("1:s1@0/1;s2@0/1", BadToken::Entry),
            ("1:s%@0/1", BadToken::Entry),
            ("1:s%+1@0/1", BadToken::Entry),
            ("1:s%FF@0/1", BadToken::Entry),
            ("1:s 1@0/1", BadToken::Entry),
        ] {
            let mut causal = Causal::default();
            assert_eq!(
                causal.adopt(wrong, &names, Instant::now()),
                Err(why),
                "{wrong}"
            );
            assert!(causal.is_empty(), "{wrong}");
        }
        let long = "1:".to_owned() + &"s1@0/1,".repeat(100_000);
        let adopted = Causal::default().adopt(&long, &names, Instant::now());
        assert_eq!(adopted, Err(BadToken::TooLong));
    }

    #[test]
    fn of_a_shard_that_is_not_known_everything_is_asked() {
        let names = names(&["s1", "s2"]);
        let now = Instant::now();
        let mut causal = Causal::default();
        assert_eq!(causal.adopt("1:s9@0/1,s2@0/5", &names, now), Ok(()));
        assert_eq!(causal.floors, [Floor::Since(now); 2]);
    }

    #[test]
    fn what_was_not_followed_is_asked_of_every_shard() {
        let names = names(&["s1", "s2"]);
        let now = Instant::now();
        let mut causal = Causal::default();
        causal.wrote(TWO, Lsn(5), &names);
        causal.wrote_unseen(now, &names);
        assert_eq!(causal.floors, [Floor::Since(now); 2]);
    }

    #[test]
    fn floors_stay_with_their_shards_when_the_configuration_changes() {
        let before = names(&["s1", "s2", "s3"]);
        let mut causal = Causal::default();
        causal.wrote(TWO, Lsn(5), &before);
        let after = names(&["new", "s3", "s2"]);
        assert_eq!(
            causal.floor(ShardId(2), &after, &Written::default()),
            Floor::At(Lsn(5))
        );
        assert_eq!(causal.floor(TWO, &after, &Written::default()), Floor::None);
        let without = names(&["new", "s3"]);
        for shard in [ONE, TWO] {
            let floor = causal.floor(shard, &without, &Written::default());
            assert!(matches!(floor, Floor::Since(_)), "{floor:?}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back_as_they_went(
            shards in proptest::collection::hash_set("\\PC{1,12}", 1..6),
            floors in proptest::collection::vec(proptest::option::of(any::<u64>()), 6),
        ) {
            let names: ShardNames = shards.iter().map(|name| Box::from(name.as_str())).collect();
            let mut one = Causal::default();
            for (place, floor) in floors.iter().take(names.len()).enumerate() {
                if let Some(lsn) = floor {
                    one.wrote(ShardId(place as u16), Lsn(*lsn), &names);
                }
            }
            let token = one.token(&names).expect("all places are known");
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
            let mut other = Causal::default();
            prop_assert_eq!(other.adopt(&token, &names, Instant::now()), Ok(()));
            prop_assert_eq!(&other.floors, &one.floors);
        }

        #[test]
        fn no_text_is_too_strange(token in "(1:)?(\\PC|[%@,/0-9A-F]){0,40}") {
            let names = names(&["s1", "s2"]);
            let _ = Causal::default().adopt(&token, &names, Instant::now());
        }
    }
}
