//! Which prepared statements a server connection holds: bounded in number and bytes, the least recently used goes first.

use std::collections::HashMap;

/// A statement's number within its worker; its name on servers is made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

/// What the names of our statements on servers begin with; a client's own may not.
pub const NAME: &str = "trunkline_";

impl StatementId {
    /// The name by which servers know it.
    pub fn server_name(self) -> String {
        format!("{NAME}{}", self.0)
    }
}

/// How much one server connection may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub statements: usize,
    pub bytes: usize,
}

impl Room {
    /// For what is there already.
    pub const ENDLESS: Room = Room {
        statements: usize::MAX,
        bytes: usize::MAX,
    };
}

/// The statements one server connection holds.
#[derive(Debug, Default)]
pub struct Prepared {
    held: HashMap<StatementId, Held>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    used: u64,
    bytes: usize,
}

impl Prepared {
    /// Whether the connection holds it; if so it counts as used now.
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.clock += 1;
        match self.held.get_mut(&id) {
            Some(held) => {
                held.used = self.clock;
                true
            }
            None => false,
        }
    }

    /// Notes a new one of this weight; gives those that must be closed for it. The new one itself stays, whatever its size.
    pub fn insert(
        &mut self,
        id: StatementId,
        bytes: usize,
        room: Room,
    ) -> Vec<(StatementId, usize)> {
        self.clock += 1;
        self.remove(id);
        self.bytes += bytes;
        let used = self.clock;
        self.held.insert(id, Held { used, bytes });
        self.excess(room)
    }

    /// Takes out those beyond `room`, the least recently used first; the last one stays, whatever its size.
    pub fn excess(&mut self, room: Room) -> Vec<(StatementId, usize)> {
        let mut evicted = Vec::new();
        while self.held.len() > 1 && (self.held.len() > room.statements || self.bytes > room.bytes)
        {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.used);
            let Some((id, bytes)) = oldest.map(|(id, held)| (*id, held.bytes)) else {
                break;
            };
            self.remove(id);
            evicted.push((id, bytes));
        }
        evicted
    }

    /// The connection does not hold it after all.
    pub fn remove(&mut self, id: StatementId) {
        if let Some(held) = self.held.remove(&id) {
            self.bytes -= held.bytes;
        }
    }

    /// DISCARD ALL or DEALLOCATE ALL reached the server.
    pub fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The weight of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(evicted: Vec<(StatementId, usize)>) -> Vec<u64> {
        evicted.into_iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut prepared = Prepared::default();
        let room = Room {
            statements: 2,
            bytes: usize::MAX,
        };
        assert_eq!(ids(prepared.insert(StatementId(1), 10, room)), [0_u64; 0]);
        assert_eq!(ids(prepared.insert(StatementId(2), 10, room)), [0_u64; 0]);
        assert!(prepared.touch(StatementId(1)));
        assert_eq!(ids(prepared.insert(StatementId(3), 10, room)), [2]);
        assert!(!prepared.touch(StatementId(2)));
        assert_eq!(prepared.len(), 2);
    }

    #[test]
    fn a_large_one_takes_the_place_of_several() {
        let mut prepared = Prepared::default();
        let room = Room {
            statements: 9,
            bytes: 100,
        };
        for id in 1..=4 {
            assert_eq!(ids(prepared.insert(StatementId(id), 25, room)), [0_u64; 0]);
        }
        assert!(prepared.touch(StatementId(1)));
        assert_eq!(ids(prepared.insert(StatementId(5), 60, room)), [2, 3, 4]);
        assert_eq!(prepared.bytes(), 85);
        assert_eq!(ids(prepared.insert(StatementId(6), 1000, room)), [1, 5]);
        assert_eq!((prepared.len(), prepared.bytes()), (1, 1000));
        prepared.remove(StatementId(6));
        assert_eq!((prepared.len(), prepared.bytes()), (0, 0));
    }
}
