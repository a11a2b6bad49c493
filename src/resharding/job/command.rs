//! What an operator may ask of a plan, phase by phase. A command changes the saved job only; what follows from it is for [`super::step`].

use super::{
    Check, End, Job, Moment, Objects, Pace, Phase, Side, Stage, Then, Throttle, Verification,
    WayBack, Wish,
};

/// Longest pause of a turn when nothing is said.
pub const MAX_PAUSE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Check,
    Start { throttle: Throttle },
    Throttle(Throttle),
    Pause,
    Resume,
    Verify,
    Cutover { max_pause_ms: u64 },
    Rollback { max_pause_ms: u64 },
    Finish,
    Cancel,
}

impl Command {
    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Command::Check => "CHECK",
            Command::Start { .. } => "START",
            Command::Throttle(_) => "THROTTLE",
            Command::Pause => "PAUSE",
            Command::Resume => "RESUME",
            Command::Verify => "VERIFY",
            Command::Cutover { .. } => "CUTOVER",
            Command::Rollback { .. } => "ROLLBACK",
            Command::Finish => "FINISH",
            Command::Cancel => "CANCEL",
        }
    }
}

/// Why it is not done now, and what could be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the plan is {phase}: {what} is done from {from}")]
    Phase {
        what: &'static str,
        phase: &'static str,
        from: &'static str,
    },
    #[error("the plan is {phase}: it is over")]
    Over { phase: &'static str },
    #[error("the check found {problems} problem(s): see SHOW, mend them, CHECK again")]
    Problems { problems: usize },
    #[error("the plan is paused already")]
    Paused,
    #[error("the plan goes on: there is nothing to resume")]
    Going,
    #[error("the plan has stopped: {why}; mend that and RESUME, or CANCEL")]
    Stopped { why: Box<str> },
    #[error("the cutover is under way: wait for its end")]
    Turning,
    #[error("the cutover has passed the point of no return: wait for its end, then ROLLBACK")]
    NoReturn,
    #[error("the new map is in force: ROLLBACK first, or FINISH")]
    NewMap,
    #[error("there is no way back: {why}; FINISH, and plan the other way")]
    NoWayBack { why: Box<str> },
}

impl Job {
    /// The job with the command taken.
    pub fn command(&self, command: Command) -> Result<Job, CommandError> {
        if self.is_over() {
            let phase = self.phase.name();
            return Err(CommandError::Over { phase });
        }
        let mut job = self.clone();
        match command {
            Command::Check => job.ask_for_check()?,
            Command::Start { throttle } => job.start(throttle)?,
            Command::Throttle(throttle) => job.throttle = throttle,
            Command::Pause => job.pause()?,
            Command::Resume => job.resume()?,
            Command::Verify => job.ask_for_verification()?,
            Command::Cutover { max_pause_ms } => job.wish(Side::New, max_pause_ms)?,
            Command::Rollback { max_pause_ms } => job.wish(Side::Old, max_pause_ms)?,
            Command::Finish => match job.phase {
                Phase::CutOver => job.end(End::Finish),
                _ => return Err(job.not_from("FINISH", "cut over")),
            },
            Command::Cancel => job.cancel()?,
        }
        Ok(job)
    }

    fn not_from(&self, what: &'static str, from: &'static str) -> CommandError {
        CommandError::Phase {
            what,
            phase: self.phase.name(),
            from,
        }
    }

    fn ask_for_check(&mut self) -> Result<(), CommandError> {
        if !matches!(self.phase, Phase::Planned | Phase::Checked) {
            return Err(self.not_from("CHECK", "planned or checked"));
        }
        self.phase = Phase::Planned;
        self.check = Check {
            round: self.check.round + 1,
            ..Check::default()
        };
        Ok(())
    }

    fn start(&mut self, throttle: Throttle) -> Result<(), CommandError> {
        if let Pace::Stopped(why) = &self.pace {
            return Err(CommandError::Stopped { why: why.clone() });
        }
        match (&self.phase, &self.check.problems) {
            (Phase::Checked, _) => {}
            (Phase::Planned, Some(problems)) if !problems.is_empty() => {
                let problems = problems.len();
                return Err(CommandError::Problems { problems });
            }
            _ => return Err(self.not_from("START", "checked (CHECK first)")),
        }
        let number = self.plan.number;
        self.objects = self
            .shards()
            .into_iter()
            .map(|shard| {
                let objects = Objects {
                    publication: format!("trunkline_reshard_{number}").into(),
                    slot: slot_name(number, &shard.0).into(),
                    slot_seen: false,
                };
                (shard.clone(), objects)
            })
            .collect();
        self.throttle = throttle;
        self.phase = Phase::Copying;
        Ok(())
    }

    fn pause(&mut self) -> Result<(), CommandError> {
        match &self.pace {
            Pace::Paused => Err(CommandError::Paused),
            Pace::Stopped(why) => Err(CommandError::Stopped { why: why.clone() }),
            Pace::Going if matches!(self.phase, Phase::Planned | Phase::Checked) => {
                Err(self.not_from("PAUSE", "copying on"))
            }
            Pace::Going => {
                self.pace = Pace::Paused;
                Ok(())
            }
        }
    }

    fn resume(&mut self) -> Result<(), CommandError> {
        match self.pace {
            Pace::Going => Err(CommandError::Going),
            Pace::Paused | Pace::Stopped(_) => {
                self.pace = Pace::Going;
                Ok(())
            }
        }
    }

    fn ask_for_verification(&mut self) -> Result<(), CommandError> {
        match self.phase {
            // It is not green while it is looked at anew.
            Phase::Verified => self.phase = Phase::Following,
            Phase::Following | Phase::RolledBack | Phase::CutOver => {}
            _ => {
                return Err(self.not_from("VERIFY", "following, verified, cut over or rolled back"));
            }
        }
        self.wish = None;
        self.verification_round()
    }

    fn verification_round(&mut self) -> Result<(), CommandError> {
        // Rounds grow over turns too, so that a result of long ago is not taken for a new one.
        self.last_round += 1;
        self.verification = Verification {
            round: self.last_round,
            differences: None,
        };
        Ok(())
    }

    fn wish(&mut self, to: Side, max_pause_ms: u64) -> Result<(), CommandError> {
        match (&self.phase, to) {
            (Phase::Verified, Side::New) | (Phase::CutOver, Side::Old) => {}
            (Phase::Turning(_), _) => return Err(CommandError::Turning),
            (_, Side::New) => return Err(self.not_from("CUTOVER", "verified (VERIFY first)")),
            (_, Side::Old) => return Err(self.not_from("ROLLBACK", "cut over")),
        }
        if let Pace::Stopped(why) = &self.pace {
            return Err(CommandError::Stopped { why: why.clone() });
        }
        if let (WayBack::Lost(why), Side::Old) = (&self.way_back, to) {
            return Err(CommandError::NoWayBack { why: why.clone() });
        }
        self.wish = Some(Wish {
            max_pause_ms,
            not_before: Moment::default(),
            tries: 0,
        });
        Ok(())
    }

    fn cancel(&mut self) -> Result<(), CommandError> {
        match (&self.phase, self.owner) {
            (Phase::Turning(turn), Side::Old) => match (turn.can_be_undone(), &turn.stage) {
                (true, _) => self.undo("the plan was cancelled", Then::Cancel),
                (false, Stage::Undoing { why, .. }) => {
                    let why = why.clone();
                    // The term stays: what is being undone is still undone.
                    let Phase::Turning(turn) = &mut self.phase else {
                        return Ok(());
                    };
                    turn.stage = Stage::Undoing {
                        why,
                        then: Then::Cancel,
                    };
                }
                (false, Stage::Releasing) => return Err(CommandError::Turning),
                (false, _) => return Err(CommandError::NoReturn),
            },
            (Phase::Ending(End::Cancel), _) => {
                return Err(self.not_from("CANCEL", "every phase before"));
            }
            (Phase::Turning(_) | Phase::CutOver | Phase::Ending(_), _) => {
                return Err(CommandError::NewMap);
            }
            _ => {
                self.pace = Pace::Going;
                self.end(End::Cancel);
            }
        }
        Ok(())
    }
}

/// At most the 63 bytes of a name; of lower-case letters, digits and underscores, as names of slots are.
fn slot_name(number: u64, shard: &str) -> String {
    let plain: String = shard
        .chars()
        .map(|one| match one.to_ascii_lowercase() {
            plain @ ('a'..='z' | '0'..='9') => plain,
            _ => '_',
        })
        .take(30)
        .collect();
    format!("trunkline_{number}_{plain}")
}
