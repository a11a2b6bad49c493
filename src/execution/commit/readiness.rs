//! Whether a shard can take part in a commit of several shards.

use std::fmt;

/// As last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// `max_prepared_transactions` is 0.
    NoPreparedTransactions,
    /// There is no `trunkline.commits`, and the reason why it was not made.
    NotInstalled(String),
    /// The server could not be asked.
    Unknown(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Readiness::Ready => f.write_str("it is ready"),
            Readiness::NoPreparedTransactions => f.write_str(
                "its max_prepared_transactions is 0; set it to at least max_connections and restart the server",
            ),
            Readiness::NotInstalled(reason) => write!(f, "trunkline.commits is not installed: {reason}"),
            Readiness::Unknown(reason) => write!(f, "it could not be asked: {reason}"),
        }
    }
}
