//! Keys that were deleted while rows are copied: a chunk that was read before a deletion must not bring the row back. Pure.
//!
//! A chunk is read in a snapshot. A deletion that this snapshot sees has left no row in the chunk; one that it does not see is known here when it
//! has been applied, because the follower notes it first. So of a chunk those keys are left out whose deletion is noted and not visible.
//!
//! What was deleted before anyone took notes, or was forgotten for want of room, is not known. Hence the *floor*: only snapshots count in which
//! every transaction below it has ended (Postgres `pg_current_snapshot()`, `xmin`); a chunk of an older one is read again.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard};

use crate::wire::replication::Xid;

/// Most keys that are noted.
const MOST: usize = 500_000;
const UNHARMED: &str = "nothing panics while it holds the lock";

/// What transactions can be seen, as `pg_current_snapshot()` writes it: `xmin:xmax:xip,xip`. Numbers of 64 bits, with the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// Those between that had not ended, ascending.
    running: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no snapshot")]
pub struct InvalidSnapshot(Box<str>);

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Snapshot, InvalidSnapshot> {
        let parse = || {
            let mut parts = text.split(':');
            let (xmin, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
            let running = running.split(',').filter(|one| !one.is_empty());
            let running: Result<Vec<u64>, _> = running.map(str::parse).collect();
            let mut running = running.ok()?;
            running.sort_unstable();
            let snapshot = Snapshot {
                xmin: xmin.parse().ok()?,
                xmax: xmax.parse().ok()?,
                running,
            };
            (parts.next().is_none() && snapshot.xmin <= snapshot.xmax).then_some(snapshot)
        };
        parse().ok_or_else(|| InvalidSnapshot(text.into()))
    }
}

impl Snapshot {
    /// Every transaction below has ended.
    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    /// No transaction from here on has begun.
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Whether what the transaction did can be seen, if it has committed at all.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// The same of a transaction that is at most some 2 billion transactions away.
    pub fn sees_recent(&self, xid: Xid) -> bool {
        self.sees(widened(xid, self.xmax))
    }
}

/// The 64 bits of a transaction's number: those nearest to a number known to be of the same time.
fn widened(xid: Xid, near: u64) -> u64 {
    const HALF: u64 = 1 << 31;
    let same = (near & !u64::from(u32::MAX)) | u64::from(xid.0);
    if same > near.saturating_add(HALF) {
        same.saturating_sub(1 << 32)
    } else if same.saturating_add(HALF) < near {
        same + (1 << 32)
    } else {
        same
    }
}

/// A chunk that is being read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(u64);

/// The values of a row's key, as text.
pub type KeyText = Box<[Box<str>]>;

/// Whether the receiving shard has the rows of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// Some are of a later moment than others.
    #[default]
    Catching,
    Exact,
}

/// What is noted for one way.
#[derive(Debug, Default)]
pub struct Tombstones {
    pub rows: Rows,
    /// Rows that were left out because another one was in the way, and why, for people. They are to change again.
    owed: Mutex<HashMap<(usize, KeyText), Box<str>>>,
    notes: Notes,
    /// By table and key: the last transaction that deleted it.
    deleted: HashMap<(usize, KeyText), u64>,
    /// Those who copy must not wait for each other to write in it.
    chunks: Mutex<Chunks>,
    floor: u64,
    most: usize,
}

/// What is under way.
#[derive(Debug, Default)]
struct Chunks {
    /// Snapshots of chunks that are not yet there.
    open: HashMap<ChunkId, Snapshot>,
    /// Chunks whose snapshot is being taken.
    expected: usize,
    /// The greatest end of all snapshots seen, for the numbers of the stream.
    near: u64,
    next: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Notes {
    /// Nobody copies.
    #[default]
    Left,
    Taken,
}

/// What is to be done with a chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Read it again: not all that was deleted behind its snapshot is known.
    Again,
    /// These keys are left out.
    Without(Vec<&'a KeyText>),
}

impl Tombstones {
    pub fn new() -> Tombstones {
        Tombstones {
            most: MOST,
            ..Tombstones::default()
        }
    }

    /// From now on deletions are noted. `near`: any present snapshot.
    pub fn begin(&mut self, near: &Snapshot) {
        self.notes = Notes::Taken;
        let mut chunks = self.chunks();
        chunks.near = chunks.near.max(near.xmax);
        // Of somebody who copied before, and was ended.
        chunks.open.clear();
        chunks.expected = 0;
    }

    /// Chunks count from snapshots on in which everything has ended that could run in this one. Taken after [`begin`](Tombstones::begin), and
    /// after every earlier driver was kept from deleting any more.
    pub fn set_floor(&mut self, now: &Snapshot) {
        self.is_near(now);
        self.floor = self.floor.max(now.xmax);
    }

    /// Whether a chunk may be read in this snapshot.
    pub fn counts(&self, snapshot: &Snapshot) -> bool {
        snapshot.xmin >= self.floor
    }

    /// Everything is copied: nothing is noted any more.
    pub fn end(&mut self) {
        self.notes = Notes::Left;
        self.deleted = HashMap::new();
        self.chunks().open = HashMap::new();
    }

    /// Whether deletions are noted.
    pub fn are_taken(&self) -> bool {
        self.notes == Notes::Taken
    }

    /// Notes a deletion that is about to be applied.
    pub fn note(&mut self, table: usize, key: KeyText, by: Xid) {
        if self.notes == Notes::Left {
            return;
        }
        let by = widened(by, self.chunks().near);
        if self.deleted.len() >= self.most {
            let last = self.deleted.drain().map(|(_, xid)| xid).max();
            self.floor = self.floor.max(last.unwrap_or(0) + 1).max(by + 1);
            return;
        }
        self.deleted.insert((table, key), by);
    }

    /// A snapshot is about to be taken: until it is known, nothing is forgotten.
    pub fn expect(&self) {
        self.chunks().expected += 1;
    }

    /// A chunk is read in this snapshot, which was expected.
    pub fn open(&self, snapshot: Snapshot) -> ChunkId {
        let mut chunks = self.chunks();
        chunks.expected = chunks.expected.saturating_sub(1);
        chunks.near = chunks.near.max(snapshot.xmax);
        let id = ChunkId(chunks.next);
        chunks.next += 1;
        chunks.open.insert(id, snapshot);
        id
    }

    /// Judges a chunk of a table that is about to be written.
    pub fn judge(&self, chunk: ChunkId, table: usize) -> Verdict<'_> {
        let chunks = self.chunks();
        let Some(snapshot) = chunks.open.get(&chunk).filter(|one| self.counts(one)) else {
            return Verdict::Again;
        };
        let unseen = self.deleted.iter().filter(|(_, xid)| !snapshot.sees(**xid));
        let of_table = unseen.filter(|((of, _), _)| *of == table);
        Verdict::Without(of_table.map(|((_, key), _)| key).collect())
    }

    /// A chunk is there, or given up.
    pub fn close(&self, chunk: ChunkId) {
        self.chunks().open.remove(&chunk);
    }

    /// Takes note of a snapshot of now, so that numbers of 32 bits are understood.
    pub fn is_near(&self, now: &Snapshot) {
        let mut chunks = self.chunks();
        chunks.near = chunks.near.max(now.xmax);
    }

    /// Forgets what no chunk needs: those that are open see it, and those to come, whose snapshots are newer than this one.
    pub fn forget(&mut self, newest: &Snapshot) {
        self.is_near(newest);
        let chunks = self.chunks.get_mut().expect(UNHARMED);
        if chunks.expected > 0 {
            return;
        }
        let open = &chunks.open;
        self.deleted
            .retain(|_, xid| !(newest.sees(*xid) && open.values().all(|one| one.sees(*xid))));
    }

    /// Notes that a row was left out.
    pub fn owe(&self, table: usize, key: KeyText, why: Box<str>) {
        self.debts().insert((table, key), why);
    }

    /// A row was changed again.
    pub fn settle(&self, table: usize, key: KeyText) {
        self.debts().remove(&(table, key));
    }

    pub fn owes_anything(&self) -> bool {
        !self.debts().is_empty()
    }

    /// Why some row was left out that did not come again.
    pub fn owed(&self) -> Option<Box<str>> {
        self.debts().values().next().cloned()
    }

    fn debts(&self) -> MutexGuard<'_, HashMap<(usize, KeyText), Box<str>>> {
        self.owed.lock().expect(UNHARMED)
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().expect(UNHARMED)
    }

    pub fn len(&self) -> usize {
        self.deleted.len()
    }

    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    fn key(text: &str) -> KeyText {
        [Box::from(text)].into()
    }

    #[test]
    fn snapshots_say_what_they_see() {
        let seen = snapshot("100:105:100,103");
        let visible: Vec<u64> = (98..108).filter(|xid| seen.sees(*xid)).collect();
        assert_eq!(visible, [98, 99, 101, 102, 104]);
        assert_eq!(snapshot("7:7:").xmin(), 7);
        for wrong in ["", "1:2", "2:1:", "1:2:x", "1:2:3:4", "a:b:"] {
            assert!(wrong.parse::<Snapshot>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_32_bits_are_of_the_time_that_is_near() {
        let epoch = 5_u64 << 32;
        for (xid, near, wide) in [
            (10, epoch + 20, epoch + 10),
            (20, epoch + 10, epoch + 20),
            (u32::MAX, epoch + 10, epoch - 1),
            (3, epoch - 5, epoch + 3),
            (5, 3, 5),
        ] {
            assert_eq!(widened(Xid(xid), near), wide, "{xid} near {near}");
        }
    }

    #[test]
    fn a_deletion_that_a_chunk_does_not_see_is_left_out() {
        let mut tombstones = Tombstones::new();
        let epoch = 1_u64 << 32;
        let at = |xmin: u64, xmax: u64| Snapshot {
            xmin: epoch + xmin,
            xmax: epoch + xmax,
            running: vec![epoch + xmin],
        };
        tombstones.note(0, key("early"), Xid(4));
        assert!(tombstones.is_empty(), "nobody copies");
        tombstones.begin(&at(5, 8));
        tombstones.set_floor(&at(5, 8));
        assert!(!tombstones.counts(&at(7, 9)));
        assert!(tombstones.counts(&at(8, 12)));
        let first = tombstones.open(at(10, 20));
        tombstones.note(0, key("seen"), Xid(15));
        tombstones.note(0, key("running"), Xid(10));
        tombstones.note(0, key("later"), Xid(20));
        tombstones.note(1, key("later"), Xid(20));
        let found = |tombstones: &Tombstones, chunk| match tombstones.judge(chunk, 0) {
            Verdict::Again => panic!("it counts"),
            Verdict::Without(mut keys) => {
                keys.sort();
                keys.iter().map(|key| key[0].to_string()).collect()
            }
        };
        let left_out: Vec<String> = found(&tombstones, first);
        assert_eq!(left_out, ["later", "running"]);
        // Newer chunks see all, and the first still needs what it does not see.
        tombstones.forget(&at(30, 31));
        assert_eq!(tombstones.len(), 3);
        tombstones.expect();
        tombstones.close(first);
        tombstones.forget(&at(30, 31));
        assert_eq!(tombstones.len(), 3, "who knows what comes");
        let second = tombstones.open(at(25, 26));
        let left_out: Vec<String> = found(&tombstones, second);
        assert!(left_out.is_empty());
        tombstones.forget(&at(30, 31));
        assert!(tombstones.is_empty());
        assert_eq!(tombstones.judge(first, 0), Verdict::Again, "closed");
    }

    #[test]
    fn what_there_is_no_room_for_makes_chunks_be_read_again() {
        let mut tombstones = Tombstones::new();
        tombstones.most = 2;
        tombstones.begin(&snapshot("10:10:"));
        let chunk = tombstones.open(snapshot("10:10:"));
        for xid in 10..12 {
            tombstones.note(0, key(&xid.to_string()), Xid(xid));
        }
        assert!(matches!(tombstones.judge(chunk, 0), Verdict::Without(keys) if keys.len() == 2));
        tombstones.note(0, key("12"), Xid(12));
        assert_eq!(tombstones.judge(chunk, 0), Verdict::Again);
        let next = tombstones.open(snapshot("12:13:12"));
        assert_eq!(tombstones.judge(next, 0), Verdict::Again);
        let next = tombstones.open(snapshot("13:13:"));
        assert_eq!(tombstones.judge(next, 0), Verdict::Without(vec![]));
    }
}
