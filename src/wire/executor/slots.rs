//! Places that are used again, and keys to them that are not: a key opens only what it was made for.

use mio::Token;
use slab::Slab;

/// A place and the generation of what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    place: u32,
    generation: u32,
}

/// Things in places.
pub struct Slots<T> {
    slab: Slab<(u32, T)>,
    /// That of the next to come. After so many that it begins anew, a key that old is held by nobody: what is queued or waited for is
    /// taken from there within the life of one socket or task.
    generation: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots {
            slab: Slab::new(),
            generation: 0,
        }
    }
}

impl<T> Slots<T> {
    /// Puts in what is made for its key.
    pub fn insert(&mut self, make: impl FnOnce(Key) -> T) -> Key {
        let entry = self.slab.vacant_entry();
        let place =
            u32::try_from(entry.key()).expect("descriptors and clients are counted in thousands");
        let key = Key {
            place,
            generation: self.generation,
        };
        self.generation = self.generation.wrapping_add(1);
        entry.insert((key.generation, make(key)));
        key
    }

    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slab.get(key.place as usize) {
            Some((generation, it)) if *generation == key.generation => Some(it),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slab.get_mut(key.place as usize) {
            Some((generation, it)) if *generation == key.generation => Some(it),
            _ => None,
        }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let (_, it) = self.slab.try_remove(key.place as usize)?;
        Some(it)
    }

    /// The key of something that is there, if anything is.
    pub fn any(&self) -> Option<Key> {
        let (place, (generation, _)) = self.slab.iter().next()?;
        Some(Key {
            place: u32::try_from(place).ok()?,
            generation: *generation,
        })
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slab.len()
    }
}

/// The number under which the system knows a source. The highest place is never in use, so neither is the highest number.
impl From<Key> for Token {
    fn from(key: Key) -> Token {
        const { assert!(usize::BITS == 64, "a token has room for a key") };
        Token((key.place as usize) << 32 | key.generation as usize)
    }
}

impl From<Token> for Key {
    fn from(token: Token) -> Key {
        Key {
            place: (token.0 >> 32) as u32,
            generation: token.0 as u32,
        }
    }
}
