//! The merge of sorted streams: one row of each shard is held, the least of them is shown.
//!
//! ```text
//!   shard 0  7 9 ..  ─┐
//!   shard 1  3 4 ..  ─┼─ heap of the rows held: 3 7 8 ─> 3 is shown, shard 1 may send its next row
//!   shard 2  8 8 ..  ─┘
//! ```
//!
//! A row is shown only while a row of every shard that has not ended is held: nothing that comes later can be less. Among equal rows
//! that of the first shard goes first. Memory of a shown row is used again for the next one of its shard: no allocation a row.

use crate::plan::spread::scatter::SortKey;

use super::key::{Encoding, Part, Purpose};
use super::row::{self, Row};
use super::{MergeError, Unsuitable, Window};
use crate::execution::columns::Column;

pub struct Sorting {
    keys: Vec<Key>,
    visible: usize,
    held: Vec<Held>,
    /// Shards whose rows are held, as a heap: each is not greater than those at twice its place and one more, or two more.
    /// While `renewed` is `Some`, the shard at the top has none.
    heap: Vec<usize>,
    renewed: Option<usize>,
    /// Shards that have not ended and hold no row.
    missing: usize,
}

/// A hidden column in the key.
struct Key {
    column: usize,
    part: Part,
}

/// What is held of a shard.
#[derive(Default)]
struct Held {
    state: State,
    /// The first bytes of the key, for a quick comparison.
    prefix: u64,
    key: Vec<u8>,
    /// Its visible values with their lengths.
    values: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    Full,
    Ended,
}

impl Sorting {
    pub fn new(
        keys: &[SortKey],
        hidden: &[Column],
        visible: usize,
        shards: usize,
    ) -> Result<Sorting, Unsuitable> {
        let keys = keys.iter().map(|key| {
            let column = hidden
                .get(key.column)
                .ok_or_else(|| Unsuitable("a shard describes too few columns".into()))?;
            Ok(Key {
                column: key.column,
                part: Part {
                    encoding: Encoding::of(column, key.text, Purpose::Order)?,
                    direction: key.direction,
                    nulls: key.nulls,
                },
            })
        });
        let keys: Vec<Key> = keys.collect::<Result<_, Unsuitable>>()?;
        // Keys are read in one pass over the row.
        if !keys.is_sorted_by(|one, next| one.column < next.column) {
            return Err(Unsuitable(
                "the keys are not in the order of the columns".into(),
            ));
        }
        Ok(Sorting {
            keys,
            visible,
            held: (0..shards).map(|_| Held::default()).collect(),
            heap: Vec::with_capacity(shards),
            renewed: None,
            missing: shards,
        })
    }

    pub fn wants(&self, shard: usize) -> bool {
        self.held[shard].state == State::Waiting
    }

    pub fn take(&mut self, shard: usize, row: Row<'_>) -> Result<(), MergeError> {
        let held = &mut self.held[shard];
        if held.state != State::Waiting {
            return Err(MergeError::Malformed("it was not asked for"));
        }
        let end = row.end_of(self.visible)?;
        held.values.clear();
        held.values.extend_from_slice(row.bytes(2..end));
        held.key.clear();
        let mut values = row.values(end);
        let mut next = 0;
        for key in &self.keys {
            while next < key.column {
                values.next()?;
                next += 1;
            }
            key.part.append(values.next()?, &mut held.key)?;
            next += 1;
        }
        held.prefix = prefix(&held.key);
        held.state = State::Full;
        self.missing -= 1;
        if self.renewed == Some(shard) {
            self.renewed = None;
            self.sink(0);
        } else {
            self.heap.push(shard);
            self.rise(self.heap.len() - 1);
        }
        Ok(())
    }

    pub fn end(&mut self, shard: usize) {
        match self.held[shard].state {
            State::Ended => return,
            State::Waiting => self.missing -= 1,
            State::Full => debug_assert!(false, "a shard ends when its last row was taken"),
        }
        self.held[shard].state = State::Ended;
        if self.renewed == Some(shard) {
            self.renewed = None;
            self.heap.swap_remove(0);
            self.sink(0);
        }
    }

    /// Shows what is certain.
    pub fn show(&mut self, window: &mut Window, out: &mut Vec<u8>) {
        while self.missing == 0 && !window.is_full() {
            let Some(&shard) = self.heap.first() else {
                return;
            };
            let held = &mut self.held[shard];
            if window.admits() {
                row::message(self.visible, &held.values, out);
            }
            held.state = State::Waiting;
            self.missing += 1;
            self.renewed = Some(shard);
        }
    }

    fn less(&self, one: usize, other: usize) -> bool {
        let (left, right) = (&self.held[one], &self.held[other]);
        left.prefix
            .cmp(&right.prefix)
            .then_with(|| left.key.cmp(&right.key))
            .then(one.cmp(&other))
            .is_lt()
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if !self.less(self.heap[place], self.heap[parent]) {
                return;
            }
            self.heap.swap(place, parent);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.heap.len() && self.less(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.heap.swap(place, least);
            place = least;
        }
    }
}

fn prefix(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(padded)
        }
    }
}
