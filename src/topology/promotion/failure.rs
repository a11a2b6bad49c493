//! Why a switchover did not come to its end, and what that has left behind.

use super::check::Refusal;
use super::steps::Step;

/// What became of what had been done so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Everything is as it was.
    Yes,
    /// With the reason; it is tried again until it is.
    NotYet(String),
    /// The node may have been told to be the primary, so it will be: that is tried until it is.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSwitched {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the control store cannot be used: {0}")]
    Store(String),
    #[error("a switchover or promotion of this shard is under way, by {0}")]
    UnderWay(String),
    #[error("{node} cannot be asked: {reason}")]
    Unreachable { node: String, reason: String },
    #[error("the switchover failed at the step \"{}\": {reason}", .step.as_str())]
    Failed {
        step: Step,
        reason: String,
        undone: Undone,
    },
}

impl NotSwitched {
    /// What is so now, for people.
    pub fn detail(&self) -> Option<String> {
        match self {
            NotSwitched::Failed { undone, .. } => Some(match undone {
                Undone::Yes => "Everything is as it was before.".to_owned(),
                Undone::NotYet(reason) => {
                    format!("It is not undone yet, and that is tried again: {reason}.")
                }
                Undone::Never => {
                    "The node may have been told to be the primary. That is brought to its end as soon as the node can be asked."
                        .to_owned()
                }
            }),
            _ => None,
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            NotSwitched::Refused(refusal) => Some(refusal.hint()),
            NotSwitched::Failed {
                step: Step::Quiet, ..
            } => Some(
                "End those transactions, or give them more time with failover.switchover_timeout.",
            ),
            NotSwitched::Failed { .. } | NotSwitched::Unreachable { .. } => {
                Some("SHOW NODES says how the nodes are.")
            }
            NotSwitched::Store(_) | NotSwitched::UnderWay(_) => None,
        }
    }
}
