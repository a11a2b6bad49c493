//! What was last seen of prepared transactions on every shard, for administrators. Pure but for the clock of an age.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::Outcome;
use super::id::{Gid, TransactionId};
use super::statements::Prepared;

/// A database on a shard, by names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub database: Box<str>,
    pub shard: Box<str>,
}

/// A prepared transaction that was still there after the last look.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub gid: String,
    /// As its name says it; `None`: the name is not one of ours, though it begins like one.
    pub name: Option<Gid>,
    pub owner: Option<String>,
    /// By the server's clock.
    pub prepared: SystemTime,
    /// By ours.
    since: Instant,
    pub state: State,
}

/// What is the matter with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its owner works on it, as far as anybody can tell.
    Prepared,
    /// It has to wait, and for what. `outcome`: already known, but the shard could not be told.
    InDoubt {
        outcome: Option<Outcome>,
        reason: String,
    },
}

impl State {
    pub fn as_str(&self) -> &'static str {
        match self {
            State::Prepared => "prepared",
            State::InDoubt { .. } => "in doubt",
        }
    }
}

impl Entry {
    pub fn new(prepared: Prepared, state: State) -> Entry {
        let now = Instant::now();
        Entry {
            name: Gid::parse(&prepared.gid).ok(),
            gid: prepared.gid,
            owner: prepared.owner,
            prepared: prepared.at,
            since: now.checked_sub(prepared.age).unwrap_or(now),
            state,
        }
    }

    /// Of a transaction that nobody has seen prepared yet.
    fn unseen(gid: &Gid, reason: String) -> Entry {
        let at = gid.id.time();
        let prepared = Prepared {
            gid: gid.to_string(),
            owner: None,
            at,
            age: at.elapsed().unwrap_or_default(),
        };
        let outcome = None;
        Entry::new(prepared, State::InDoubt { outcome, reason })
    }

    pub fn id(&self) -> Option<TransactionId> {
        self.name.as_ref().map(|name| name.id)
    }

    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Every place with what was last seen there.
#[derive(Debug, Default)]
pub struct Ledger {
    places: BTreeMap<Place, Vec<Entry>>,
    resolved: BTreeMap<(Box<str>, &'static str), u64>,
}

impl Ledger {
    /// Takes in a look at a place: all that is prepared there. Gives what is new to be told: entries that are in doubt for another reason than before.
    pub fn look(&mut self, place: Place, entries: Vec<Entry>) -> Vec<Entry> {
        let before = self.places.insert(place.clone(), entries);
        let before = before.unwrap_or_default();
        let is_news = |entry: &&Entry| {
            let known = before.iter().find(|known| known.gid == entry.gid);
            matches!(entry.state, State::InDoubt { .. })
                && known.is_none_or(|known| known.state != entry.state)
        };
        self.places[&place]
            .iter()
            .filter(is_news)
            .cloned()
            .collect()
    }

    /// A place that cannot be asked. What was prepared there still is.
    pub fn unreachable(&mut self, place: Place, error: &str) -> Vec<Entry> {
        let mut entries = self.places.get(&place).cloned().unwrap_or_default();
        for entry in &mut entries {
            let outcome = match entry.state {
                State::InDoubt { outcome, .. } => outcome,
                State::Prepared => None,
            };
            let reason = format!("the shard cannot be asked: {error}");
            entry.state = State::InDoubt { outcome, reason };
        }
        self.look(place, entries)
    }

    /// Something may be prepared at a place that cannot be asked.
    pub fn suspect(&mut self, place: Place, gid: &Gid, error: &str) {
        let entries = self.places.entry(place).or_default();
        if !entries.iter().any(|known| known.name.as_ref() == Some(gid)) {
            entries.push(Entry::unseen(
                gid,
                format!("the shard cannot be asked: {error}"),
            ));
        }
    }

    /// A prepared transaction is there no more, and it was recovery who finished it.
    pub fn finished(&mut self, place: &Place, gid: &str, outcome: Outcome) {
        if let Some(entries) = self.places.get_mut(place) {
            entries.retain(|known| known.gid != gid);
        }
        let key = (place.database.clone(), outcome.as_str());
        *self.resolved.entry(key).or_default() += 1;
    }

    /// Forgets places that are no longer configured.
    pub fn keep(&mut self, configured: impl Fn(&Place) -> bool) {
        self.places.retain(|place, _| configured(place));
    }

    pub fn places(&self) -> impl Iterator<Item = (&Place, &[Entry])> {
        self.places
            .iter()
            .map(|(place, entries)| (place, &**entries))
    }

    /// Prepared transactions that recovery has finished, by database and outcome.
    pub fn resolved(&self) -> &BTreeMap<(Box<str>, &'static str), u64> {
        &self.resolved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::commit::id::Proxy;

    fn place(shard: &str) -> Place {
        Place {
            database: Box::from("app"),
            shard: Box::from(shard),
        }
    }

    fn entry(gid: &str, state: State) -> Entry {
        let prepared = Prepared {
            gid: gid.to_owned(),
            owner: None,
            at: SystemTime::now(),
            age: Duration::from_secs(5),
        };
        Entry::new(prepared, state)
    }

    fn doubt(reason: &str) -> State {
        State::InDoubt {
            outcome: None,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_reason_is_told_once() {
        let mut ledger = Ledger::default();
        let told =
            |ledger: &mut Ledger, state| ledger.look(place("s1"), vec![entry("a", state)]).len();
        assert_eq!(told(&mut ledger, State::Prepared), 0);
        assert_eq!(told(&mut ledger, doubt("down")), 1);
        assert_eq!(told(&mut ledger, doubt("down")), 0);
        assert_eq!(told(&mut ledger, doubt("away")), 1);
        assert_eq!(told(&mut ledger, State::Prepared), 0);
        assert_eq!(told(&mut ledger, doubt("down")), 1);
    }

    #[test]
    fn what_was_prepared_on_a_shard_that_went_down_is_still_shown() {
        let mut ledger = Ledger::default();
        ledger.look(place("s1"), vec![entry("a", State::Prepared)]);
        assert_eq!(ledger.unreachable(place("s1"), "gone").len(), 1);
        assert_eq!(ledger.unreachable(place("s1"), "gone").len(), 0);
        let (_, entries) = ledger.places().next().expect("the place");
        assert_eq!(entries[0].state, doubt("the shard cannot be asked: gone"));
        assert!(entries[0].age() >= Duration::from_secs(5));
        ledger.finished(&place("s1"), "a", Outcome::Aborted);
        assert_eq!(ledger.places().next().expect("the place").1, []);
        assert_eq!(ledger.resolved()[&(Box::from("app"), "abort")], 1);
        ledger.keep(|place| &*place.shard != "s1");
        assert_eq!(ledger.places().count(), 0);
    }

    #[test]
    fn a_suspicion_stands_until_the_next_look() {
        let gid = Gid {
            id: TransactionId::new(SystemTime::now(), Proxy(1)),
            participant: 0,
            decision_shard: Box::from("s2"),
        };
        let mut ledger = Ledger::default();
        ledger.suspect(place("s1"), &gid, "gone");
        ledger.suspect(place("s1"), &gid, "gone");
        let (_, entries) = ledger.places().next().expect("the place");
        assert_eq!((entries.len(), entries[0].id()), (1, Some(gid.id)));
        ledger.look(place("s1"), Vec::new());
        assert_eq!(ledger.places().next().expect("the place").1, []);
    }
}
