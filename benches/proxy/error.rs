//! Why a bench could not be run.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("{0}")]
    Missing(String),
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        program: String,
        status: String,
        output: String,
    },
    #[error("{name} {state} (port {port}):\n{output}")]
    NotReady {
        name: String,
        state: &'static str,
        port: u16,
        output: String,
    },
    #[error("cannot make sense of pgbench's {what}:\n{output}")]
    Pgbench { what: &'static str, output: String },
    #[error(
        "statements were not spread over the shards: shard {shard} saw {found} lookups, {least} to {most} were expected"
    )]
    NotSpread {
        shard: usize,
        found: u64,
        least: u64,
        most: u64,
    },
    #[error("wrong result of {what}: {found}, expected {expected}")]
    Wrong {
        what: String,
        found: String,
        expected: String,
    },
    #[error("stopped by a signal")]
    Stopped,
}

impl Error {
    /// `doing` completes the sentence "cannot ...".
    pub fn io(doing: impl Into<String>, source: io::Error) -> Error {
        Error::Io {
            doing: doing.into(),
            source,
        }
    }
}
