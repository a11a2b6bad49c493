//! The hash strategies: a key's hash picks one of a power-of-two number of buckets, and the map says which shard has the bucket.
//!
//! [`postgres`] is Postgres's own hash partitioning, so that `satisfies_hash_partition(table, buckets, bucket, key...)` on a server
//! agrees with the bucket found here. Sources: `hash_bytes_extended` and `hash_bytes_uint32_extended` in `src/common/hashfn.c`, the
//! `hash...extended` functions in `src/backend/access/hash/hashfunc.c`, `hash_numeric_extended` in `numeric.c`,
//! `hash_combine64` in `hashfn.h`, `HASH_PARTITION_SEED` and `compute_partition_hash_value` in `partbounds.c`.
//! They are the same in all supported versions, for text under a deterministic collation, on little-endian servers.
//!
//! [`xxh3`] is XXH3-64 (seed 0) of a key's bytes as [`xxh3`] lists them.

use super::buckets::Buckets;
use super::key::KeyValue;
use super::{MapError, ShardId};
use crate::sharding::KeyType;

/// The seed of PARTITION BY HASH.
pub const HASH_PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;

/// Which function gives a key its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Postgres,
    Xxh3,
}

/// A hash strategy: all key types, any number of key columns.
#[derive(Clone, Debug)]
pub struct Hash {
    function: Function,
    buckets: Buckets,
}

impl Hash {
    pub fn new(function: Function, buckets: Buckets) -> Hash {
        Hash { function, buckets }
    }

    pub fn function(&self) -> Function {
        self.function
    }

    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// The key's bucket and the shard that has it.
    pub fn locate(&self, key: &[KeyValue]) -> (u32, ShardId) {
        self.buckets.locate(match self.function {
            Function::Postgres => postgres(key),
            Function::Xxh3 => xxh3(key),
        })
    }

    /// Every type has a hash: nothing to refuse.
    pub(super) fn check(&self, _key: &[KeyType]) -> Vec<MapError> {
        Vec::new()
    }
}

/// The hash of a row in PARTITION BY HASH (`compute_partition_hash_value`).
pub fn postgres(key: &[KeyValue]) -> u64 {
    key.iter().fold(0, |row, value| {
        combine(row, postgres_value(value, HASH_PARTITION_SEED))
    })
}

/// The extended hash function of the default hash operator class of the value's type.
#[inline(always)]
pub fn postgres_value(value: &KeyValue, seed: u64) -> u64 {
    match value {
        KeyValue::Int(whole) => hash_int8(*whole, seed),
        KeyValue::Timestamp(micros) => hash_int8(*micros, seed),
        KeyValue::Date(days) => hash_uint32(days.cast_unsigned(), seed),
        KeyValue::Text(text) => hash_bytes(text.as_bytes(), seed),
        KeyValue::Bytea(bytes) => hash_bytes(bytes, seed),
        KeyValue::Uuid(bytes) => hash_bytes(bytes, seed),
        KeyValue::Numeric(whole) => hash_numeric(*whole, seed),
    }
}

/// XXH3-64 with seed 0. A column's bytes are: integers 8, dates 4 (days since 2000-01-01), timestamps 8 (microseconds since 2000-01-01),
/// numeric 16 bytes, all little-endian two's complement; text in UTF-8 (`char` without trailing blanks), uuid and bytea as they are.
/// The hash of one column is the row's; several are folded, from 0, as Postgres folds its own ([`combine`]).
pub fn xxh3(key: &[KeyValue]) -> u64 {
    match key {
        [one] => xxh3_value(one),
        several => several
            .iter()
            .fold(0, |row, value| combine(row, xxh3_value(value))),
    }
}

fn xxh3_value(value: &KeyValue) -> u64 {
    use xxhash_rust::xxh3::xxh3_64;
    match value {
        KeyValue::Int(whole) => xxh3_64(&whole.to_le_bytes()),
        KeyValue::Timestamp(micros) => xxh3_64(&micros.to_le_bytes()),
        KeyValue::Date(days) => xxh3_64(&days.to_le_bytes()),
        KeyValue::Text(text) => xxh3_64(text.as_bytes()),
        KeyValue::Bytea(bytes) => xxh3_64(bytes),
        KeyValue::Uuid(bytes) => xxh3_64(bytes),
        KeyValue::Numeric(whole) => xxh3_64(&whole.to_le_bytes()),
    }
}

/// `hash_combine64`.
pub fn combine(a: u64, b: u64) -> u64 {
    a ^ b
        .wrapping_add(0x49a0_f4dd_15e5_a8e3)
        .wrapping_add(a << 54)
        .wrapping_add(a >> 7)
}

/// `hashint8extended`, which gives a value that fits int4 or int2 the hash those types give it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the two halves of the number are meant"
)]
#[inline(always)]
fn hash_int8(value: i64, seed: u64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    hash_uint32(low ^ if value >= 0 { high } else { !high }, seed)
}

/// `hash_numeric_extended` for whole numbers: neither sign nor scale count, only the digits of base 10000 without zeros at either end,
/// and the weight of the first.
fn hash_numeric(value: i128, seed: u64) -> u64 {
    // 10000^10 is larger than the largest i128.
    const DIGITS: usize = 10;
    let mut rest = value.unsigned_abs();
    if rest == 0 {
        return seed.wrapping_sub(1);
    }
    let mut bytes = [0_u8; DIGITS * 2];
    let mut first = DIGITS;
    while rest != 0 {
        first -= 1;
        bytes[first * 2..][..2].copy_from_slice(&((rest % 10_000) as u16).to_le_bytes());
        rest /= 10_000;
    }
    let weight = (DIGITS - first - 1) as u64;
    let end = bytes
        .chunks_exact(2)
        .rposition(|digit| digit != [0, 0])
        .map_or(first, |last| last + 1);
    hash_bytes(&bytes[first * 2..end * 2], seed) ^ weight
}

/// The three words of Jenkins's lookup3.
struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    /// The start for an input of `length` bytes, perturbed by the seed.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the seed are meant"
    )]
    #[inline(always)]
    fn new(length: u32, seed: u64) -> State {
        let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
        let mut state = State {
            a: start,
            b: start,
            c: start,
        };
        if seed != 0 {
            state.add((seed >> 32) as u32, seed as u32, 0);
            state.mix();
        }
        state
    }

    fn add(&mut self, a: u32, b: u32, c: u32) {
        self.a = self.a.wrapping_add(a);
        self.b = self.b.wrapping_add(b);
        self.c = self.c.wrapping_add(c);
    }

    #[inline(always)]
    fn mix(&mut self) {
        let State {
            mut a,
            mut b,
            mut c,
        } = *self;
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        *self = State { a, b, c };
    }

    fn finish(self) -> u64 {
        let State {
            mut a,
            mut b,
            mut c,
        } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        (u64::from(b) << 32) | u64::from(c)
    }
}

/// `hash_bytes_uint32_extended`. Inlined so that the start for the constant seed is computed when this is compiled.
#[inline(always)]
fn hash_uint32(value: u32, seed: u64) -> u64 {
    let mut state = State::new(4, seed);
    state.a = state.a.wrapping_add(value);
    state.finish()
}

/// `hash_bytes_extended`.
fn hash_bytes(bytes: &[u8], seed: u64) -> u64 {
    let length = u32::try_from(bytes.len())
        .expect("a value of a message that was limited to 31 bits of length");
    let mut state = State::new(length, seed);
    let word = |chunk: &[u8], at: usize| {
        u32::from_le_bytes([chunk[at], chunk[at + 1], chunk[at + 2], chunk[at + 3]])
    };
    let mut chunks = bytes.chunks_exact(12);
    for chunk in &mut chunks {
        state.add(word(chunk, 0), word(chunk, 4), word(chunk, 8));
        state.mix();
    }
    let mut last = [0; 12];
    let rest = chunks.remainder();
    // The lowest byte of the third word belongs to the length.
    let (front, back) = rest.split_at(rest.len().min(8));
    last[..front.len()].copy_from_slice(front);
    last[9..9 + back.len()].copy_from_slice(back);
    state.add(word(&last, 0), word(&last, 4), word(&last, 8));
    state.finish()
}
