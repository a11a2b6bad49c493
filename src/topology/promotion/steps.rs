//! The order of a switchover, and what an end in the middle asks for. Pure.
//!
//! Before a step whose end in the middle would ask for something else, the phase is written into the control store. Whoever finds it there when the
//! one who wrote it is gone does what [`Phase::remedy`] says, as the one who wrote it does itself when a step fails.
//! The only point of no return is [`Phase::Promoting`]: from then on nobody can know whether the node has been told, so it is made the primary.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One step; each may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as it must be.
    Check,
    /// The pools of every proxy lend nothing of the primary.
    Gate,
    /// What was lent comes back, and transactions of others end.
    Quiet,
    /// The primary takes no more writes, from nobody.
    Fence,
    /// The node has replayed all that was ever written.
    CatchUp,
    Promote,
    /// The proxies send statements to it.
    Open,
    /// The other replicas follow it.
    Repoint,
    /// The old primary becomes a standby.
    Rejoin,
}

/// What is known in the store of a switchover under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Proxies hold back statements; the servers have not been told anything.
    Gated,
    /// The primary may have been told to take no writes.
    Fencing,
    /// The node may have been told to be the primary.
    Promoting,
    /// It is being undone, and must not go on.
    Undoing,
}

/// What has to be done when it went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing was changed.
    Nothing,
    /// The gate is taken away.
    Ungate,
    /// The old primary takes writes again, then the gate is taken away.
    Unfence,
    /// The node is made the primary, by whoever comes next.
    Finish,
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub step: Step,
    /// Host and port of whom it concerned.
    pub node: String,
    pub took: Duration,
    /// For people.
    pub detail: String,
}

impl Step {
    pub const FIRST: Step = Step::Check;

    pub fn next(self) -> Option<Step> {
        match self {
            Step::Check => Some(Step::Gate),
            Step::Gate => Some(Step::Quiet),
            Step::Quiet => Some(Step::Fence),
            Step::Fence => Some(Step::CatchUp),
            Step::CatchUp => Some(Step::Promote),
            Step::Promote => Some(Step::Open),
            Step::Open => Some(Step::Repoint),
            Step::Repoint => Some(Step::Rejoin),
            Step::Rejoin => None,
        }
    }

    /// What must be in the store before it begins. `None`: nothing yet, or nothing any more.
    pub fn phase(self) -> Option<Phase> {
        match self {
            Step::Check => None,
            Step::Gate | Step::Quiet => Some(Phase::Gated),
            Step::Fence | Step::CatchUp => Some(Phase::Fencing),
            Step::Promote | Step::Open => Some(Phase::Promoting),
            Step::Repoint | Step::Rejoin => None,
        }
    }

    /// What its failure asks for.
    pub fn remedy(self) -> Remedy {
        self.phase().map_or(Remedy::Nothing, Phase::remedy)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Step::Check => "check",
            Step::Gate => "gate",
            Step::Quiet => "quiet",
            Step::Fence => "fence",
            Step::CatchUp => "catch up",
            Step::Promote => "promote",
            Step::Open => "open",
            Step::Repoint => "repoint",
            Step::Rejoin => "rejoin",
        }
    }
}

impl Phase {
    pub fn remedy(self) -> Remedy {
        match self {
            Phase::Gated => Remedy::Ungate,
            Phase::Fencing | Phase::Undoing => Remedy::Unfence,
            Phase::Promoting => Remedy::Finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order, what is in the store before each step, and what its failure asks for.
    #[test]
    fn the_order_and_its_undoing() {
        let mut said = String::new();
        let mut step = Some(Step::FIRST);
        while let Some(now) = step {
            said += &format!("{}: {:?} {:?}\n", now.as_str(), now.phase(), now.remedy());
            step = now.next();
        }
        let wanted = "check: None Nothing
gate: Some(Gated) Ungate
quiet: Some(Gated) Ungate
fence: Some(Fencing) Unfence
catch up: Some(Fencing) Unfence
promote: Some(Promoting) Finish
open: Some(Promoting) Finish
repoint: None Nothing
rejoin: None Nothing
";
        assert_eq!(said, wanted);
        assert_eq!(Phase::Undoing.remedy(), Remedy::Unfence);
    }
}
