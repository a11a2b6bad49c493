//! Several writes that are done together, if several keys are as expected and a lease is still held.

use std::collections::BTreeMap;

use super::lease::Fence;
use super::{Lease, MOST_BYTES, MOST_KEYS, StoreError, Version, key};

/// What a key must be for a write to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// It was last written then.
    Version(Version),
}

impl Expected {
    /// Whether a key that has this version is as expected; `None`: there is no such key.
    pub(super) fn is(self, found: Option<Version>) -> bool {
        match self {
            Expected::Absent => found.is_none(),
            Expected::Version(version) => found == Some(version),
        }
    }
}

impl From<Option<Version>> for Expected {
    fn from(version: Option<Version>) -> Self {
        version.map_or(Expected::Absent, Expected::Version)
    }
}

/// What becomes of a key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Write {
    Put(Vec<u8>),
    Delete,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Write::Put(value) => write!(f, "Put({} bytes)", value.len()),
            Write::Delete => f.write_str("Delete"),
        }
    }
}

/// What to write under which conditions; done by [`super::Store::commit`].
///
/// ```no_run
/// # use trunkline::store::*;
/// # async fn advance(store: &Store, lease: &Lease, phase: &Versioned, epoch: &Versioned) -> Result<Version, StoreError> {
/// let both = Transaction::new()
///     .under(lease)
///     .expect("plans/split/phase", Expected::Version(phase.version))
///     .expect("epoch", Expected::Version(epoch.version))
///     .put("plans/split/phase", "cut over")
///     .put("epoch", "8");
/// store.commit(both).await
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub(super) fences: Vec<Fence>,
    pub(super) expected: BTreeMap<String, Expected>,
    pub(super) writes: BTreeMap<String, Write>,
    /// Named twice for the same purpose, with another word each time.
    twice: Option<String>,
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    /// Only while this lease is held: the store knows, whatever the holder's clock says. A transaction may be under several leases.
    pub fn under(mut self, lease: &Lease) -> Self {
        self.fences.push(lease.fence());
        self
    }

    /// Only if the key is so.
    pub fn expect(mut self, key: impl Into<String>, expected: Expected) -> Self {
        let key = key.into();
        match self.expected.insert(key.clone(), expected) {
            Some(before) if before != expected => self.twice = Some(key),
            _ => {}
        }
        self
    }

    pub fn put(self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.write(key.into(), Write::Put(value.into()))
    }

    /// What is not there stays so.
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.write(key.into(), Write::Delete)
    }

    fn write(mut self, key: String, write: Write) -> Self {
        if self.writes.insert(key.clone(), write).is_some() {
            self.twice = Some(key);
        }
        self
    }

    /// Refuses what one of the stores could not do, so that both take the same.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for key in self.expected.keys().chain(self.writes.keys()) {
            key::check(key)?;
        }
        if let Some(key) = &self.twice {
            return Err(StoreError::BadKey {
                key: key.clone(),
                reason: "one transaction names it twice, and says two things of it",
            });
        }
        if self.writes.is_empty() {
            return Err(StoreError::NothingToWrite);
        }
        let keys = (self.expected.len() + self.fences.len()).max(self.writes.len());
        let bytes: usize = self
            .writes
            .iter()
            .map(|(key, write)| match write {
                Write::Put(value) => key.len() + value.len(),
                Write::Delete => key.len(),
            })
            .sum();
        if keys > MOST_KEYS || bytes > MOST_BYTES {
            return Err(StoreError::TooLarge { keys, bytes });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused() {
        let refused = |transaction: Transaction| transaction.check().unwrap_err().to_string();
        assert!(refused(Transaction::new()).contains("nothing"));
        let twice = Transaction::new().put("a", "1").delete("a");
        assert!(refused(twice).contains("twice"));
        let twice = Transaction::new()
            .expect("a", Expected::Absent)
            .expect("a", Expected::Version(Version(1)))
            .put("a", "1");
        assert!(refused(twice).contains("twice"));
        let large = Transaction::new().put("a", vec![0; MOST_BYTES]);
        assert!(refused(large).contains("1048577 bytes"));
        let many = (0..=MOST_KEYS).fold(Transaction::new(), |all, n| all.put(n.to_string(), "x"));
        assert!(refused(many).contains("101 keys"));
        assert!(refused(Transaction::new().put("", "x")).contains("empty"));
    }
}
