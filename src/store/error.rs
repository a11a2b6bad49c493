//! What goes wrong with a store, and whether what was asked for may have been done.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::lease::Token;
use super::{MOST_BYTES, MOST_KEYS, Version};

/// Whether a write that ended in an error was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not, and will not be.
    NotDone,
    /// It may have been, or may still be: read again before writing again.
    Unknown,
}

/// A key that is not as a write expected it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub key: String,
    /// The version it has; `None`: there is no such key.
    pub found: Option<Version>,
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is not as expected: {}", .0.key, found(&.0.found))]
    Conflict(Conflict),
    /// The lease's time is over, or somebody else holds it.
    #[error("the lease {name} (token {token}) is not held any more")]
    LeaseLost { name: String, token: Token },
    #[error("{key:?} cannot be used as a key of the store: {reason}")]
    BadKey { key: String, reason: &'static str },
    #[error("a transaction of the store with nothing to write")]
    NothingToWrite,
    #[error(
        "a transaction of {keys} keys and {bytes} bytes; the store takes {MOST_KEYS} keys and {MOST_BYTES} bytes"
    )]
    TooLarge { keys: usize, bytes: usize },
    /// `hint` says what to do.
    #[error("the store at {place} did not answer within {after:?}{}; {hint}", doubt(.outcome))]
    Silent {
        place: String,
        after: Duration,
        outcome: Outcome,
        hint: &'static str,
    },
    /// The last endpoint that was tried, and what it came to there.
    #[error("the store at {place} cannot be reached: {reason}{}; {hint}", doubt(.outcome))]
    Unreachable {
        place: String,
        reason: String,
        outcome: Outcome,
        hint: &'static str,
    },
    /// It answered with an error.
    #[error("the store at {place} refused: {reason}{}; {hint}", doubt(.outcome))]
    Refused {
        place: String,
        reason: String,
        outcome: Outcome,
        hint: &'static str,
    },
    /// It answered with what makes no sense.
    #[error("the store at {place} gave an answer that is not understood: {reason}{}", doubt(.outcome))]
    Nonsense {
        place: String,
        reason: String,
        outcome: Outcome,
    },
    /// What is there cannot be used. Nothing was written over it.
    #[error("{} is not a sound file of the store: {reason}; {hint}", path.display())]
    Damaged {
        path: PathBuf,
        reason: String,
        hint: &'static str,
    },
    #[error("cannot {verb} {}: {source}{}", path.display(), doubt(.outcome))]
    Disk {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
        outcome: Outcome,
    },
    #[error("{} {reason}; {hint}", path.display())]
    Unsuitable {
        path: PathBuf,
        reason: String,
        hint: &'static str,
    },
    /// What the configuration names for TLS cannot be used.
    #[error("TLS to the store cannot be set up: {0}")]
    Tls(String),
}

impl StoreError {
    /// Whether what was asked for may have been done all the same.
    pub fn outcome(&self) -> Outcome {
        match self {
            StoreError::Silent { outcome, .. }
            | StoreError::Unreachable { outcome, .. }
            | StoreError::Refused { outcome, .. }
            | StoreError::Nonsense { outcome, .. }
            | StoreError::Disk { outcome, .. } => *outcome,
            StoreError::Conflict(_)
            | StoreError::LeaseLost { .. }
            | StoreError::BadKey { .. }
            | StoreError::NothingToWrite
            | StoreError::TooLarge { .. }
            | StoreError::Damaged { .. }
            | StoreError::Unsuitable { .. }
            | StoreError::Tls(_) => Outcome::NotDone,
        }
    }
}

fn found(version: &Option<Version>) -> String {
    match version {
        Some(version) => format!("it has version {version}"),
        None => "it does not exist".to_owned(),
    }
}

fn doubt(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::NotDone => "",
        Outcome::Unknown => " (what was asked for may have been done)",
    }
}
