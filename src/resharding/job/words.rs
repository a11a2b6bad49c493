//! Jobs and actions as people read them.

use std::fmt;

use super::{Action, End, Job, MovingKeys, Pace, Phase, Route, ShardName, Side, Stage};

impl Phase {
    /// One or two words, the same that operators know.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Planned => "planned",
            Phase::Checked => "checked",
            Phase::Copying => "copying",
            Phase::Following => "following",
            Phase::Verified => "verified",
            Phase::Turning(turn) => match turn.to {
                Side::New => "cutting over",
                Side::Old => "rolling back",
            },
            Phase::CutOver => "cut over",
            Phase::RolledBack => "rolled back",
            Phase::Ending(End::Finish) => "finishing",
            Phase::Ending(End::Cancel) => "cancelling",
            Phase::Finished => "finished",
            Phase::Cancelled => "cancelled",
        }
    }
}

impl Stage {
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Gating => "gating",
            Stage::Fencing => "fencing",
            Stage::Applying { .. } => "applying",
            Stage::Committing { .. } => "committing",
            Stage::Releasing => "releasing",
            Stage::Undoing { .. } => "undoing",
        }
    }
}

/// One line: the phase, and what else there is to say.
impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phase.name())?;
        if let Phase::Turning(turn) = &self.phase {
            write!(f, ": {}", turn.stage.name())?;
            if let Stage::Undoing { why, .. } = &turn.stage {
                write!(f, ", because {why}")?;
            }
        }
        match &self.pace {
            Pace::Going => {}
            Pace::Paused => f.write_str(", paused")?,
            Pace::Stopped(why) => write!(f, ", stopped: {why}")?,
        }
        if let Some(wish) = &self.wish
            && wish.tries > 0
        {
            write!(f, ", given up {} times", wish.tries)?;
        }
        write!(f, " (epoch {}, term {})", self.epoch.0, self.term.0)
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

impl fmt::Display for MovingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MovingKeys::Leaving => "leaving",
            MovingKeys::Arriving => "arriving",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Check { round } => write!(f, "check, round {round}"),
            Action::Open { shard, term } => write!(f, "open {shard}, term {}", term.0),
            Action::MakePublication { shard, name } => {
                write!(f, "make publication {name} on {shard}")
            }
            Action::MakeSlot { shard, name } => write!(f, "make slot {name} on {shard}"),
            Action::Guard { shard, keys, term } => {
                write!(f, "guard keys {keys} on {shard}, term {}", term.0)
            }
            Action::Copy { route, .. } => write!(f, "copy {route}"),
            Action::BuildIndexes { shard } => write!(f, "build indexes on {shard}"),
            Action::Follow { stream } => write!(f, "follow {stream}"),
            Action::Verify { stream, round } => write!(f, "verify {stream}, round {round}"),
            Action::Gate { term, max_pause_ms } => {
                write!(f, "gate, term {}, at most {max_pause_ms} ms", term.0)
            }
            Action::Fence { shard, keys, term } => {
                write!(f, "fence keys {keys} on {shard}, term {}", term.0)
            }
            Action::EndStrangers { shard } => write!(f, "end strangers on {shard}"),
            Action::Commit {
                expected,
                epoch,
                to,
            } => {
                let map = match to {
                    Side::Old => "old",
                    Side::New => "new",
                };
                write!(
                    f,
                    "commit the {map} map, epoch {} -> {}",
                    expected.0, epoch.0
                )
            }
            Action::Unguard { shard, keys, term } => {
                write!(f, "unguard keys {keys} on {shard}, term {}", term.0)
            }
            Action::Release { term, epoch } => {
                write!(f, "release, term {}, epoch {}", term.0, epoch.0)
            }
            Action::Close { shard, term } => write!(f, "close {shard}, term {}", term.0),
            Action::DropSlot { shard, name } => write!(f, "drop slot {name} on {shard}"),
            Action::RemoveRows { shard, keys, .. } => {
                write!(f, "remove rows of keys {keys} on {shard}")
            }
            Action::DropPublication { shard, name } => {
                write!(f, "drop publication {name} on {shard}")
            }
        }
    }
}
