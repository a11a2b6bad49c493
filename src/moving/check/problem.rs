//! What can stand against a plan, each with where it is and the way out.

/// Whether a plan can begin in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Refuses,
    Noted,
}

/// Its text says what, where, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {}

impl Problem {
    /// Stable: programs may match on it.
    pub fn id(&self) -> &'static str {
        match *self {}
    }

    pub fn weight(&self) -> Weight {
        match *self {}
    }
}
