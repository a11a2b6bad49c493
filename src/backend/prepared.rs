//! Which prepared statements a server connection holds: bounded, the least recently used goes first.

use std::collections::HashMap;

/// A statement's number within its worker; its name on servers is made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

impl StatementId {
    /// The name by which servers know it.
    pub fn server_name(self) -> String {
        format!("trunkline_{}", self.0)
    }
}

/// The statements one server connection holds.
#[derive(Debug, Default)]
pub struct Prepared {
    used: HashMap<StatementId, u64>,
    clock: u64,
}

impl Prepared {
    /// Whether the connection holds it; if so it counts as used now.
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.clock += 1;
        match self.used.get_mut(&id) {
            Some(used) => {
                *used = self.clock;
                true
            }
            None => false,
        }
    }

    /// Notes a new one; gives the one that must be closed for it when there are more than `limit`.
    pub fn insert(&mut self, id: StatementId, limit: usize) -> Option<StatementId> {
        self.clock += 1;
        self.used.insert(id, self.clock);
        if self.used.len() <= limit.max(1) {
            return None;
        }
        let oldest = self
            .used
            .iter()
            .min_by_key(|(_, used)| **used)
            .map(|(id, _)| *id)?;
        self.used.remove(&oldest);
        Some(oldest)
    }

    /// The connection does not hold it after all.
    pub fn remove(&mut self, id: StatementId) {
        self.used.remove(&id);
    }

    /// DISCARD ALL or DEALLOCATE ALL reached the server.
    pub fn clear(&mut self) {
        self.used.clear();
    }

    pub fn len(&self) -> usize {
        self.used.len()
    }

    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut prepared = Prepared::default();
        assert_eq!(prepared.insert(StatementId(1), 2), None);
        assert_eq!(prepared.insert(StatementId(2), 2), None);
        assert!(prepared.touch(StatementId(1)));
        assert_eq!(prepared.insert(StatementId(3), 2), Some(StatementId(2)));
        assert!(!prepared.touch(StatementId(2)));
        assert_eq!(prepared.len(), 2);
    }
}
