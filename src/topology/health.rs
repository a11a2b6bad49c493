//! What the looks at one node make of it: whether it answers, and whether it is the right one. Pure.
//!
//! What a node may do in its shard is decided of all nodes together, in `succession.rs`.

use std::fmt;
use std::time::{Instant, SystemTime};

use super::answer::{Answer, Failure, Look, Role, SystemIdentifier, Timeline};
use super::view::Stage;

/// After how many looks in a row a node changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub fall: usize,
    pub rise: usize,
}

/// A state, with the looks in a row that speak against it.
///
/// Unknown => (Up or Down or Refused), at the first look that says more than that the server lives; Up => (Down or Refused); Down => (Up or Refused); Refused => Up.
/// A refused node that does not answer stays refused: its data has not changed by that.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Unknown,
    Up { failures: usize },
    Down { answers: usize },
    Refused { answers: usize, foreign: Foreign },
}

/// A node that has data of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub own: SystemIdentifier,
    pub shard: SystemIdentifier,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its system identifier is {}, but that of the shard is {}: it holds other data",
            self.own, self.shard
        )
    }
}

/// Something to tell the administrator, once.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Up(Role),
    Down(String),
    /// It lives, and does not let us look.
    NoEntry(String),
    Refused(Foreign),
    /// It is up, as before, and is now this.
    Role(Role),
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeHealth {
    /// For people: host and port.
    pub name: Box<str>,
    state: State,
    /// The last answer, however old.
    seen: Option<Answer>,
    /// The last look.
    last: Option<Look>,
    /// When it first said that it is a primary on this timeline, in answers one after the other.
    claims: Option<Instant>,
}

impl NodeHealth {
    pub fn new(name: &str) -> Self {
        NodeHealth {
            name: Box::from(name),
            state: State::Unknown,
            seen: None,
            last: None,
            claims: None,
        }
    }

    /// By the looks at it alone.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Unknown => Stage::Unknown,
            State::Up { .. } => Stage::Up,
            State::Down { .. } => Stage::Down,
            State::Refused { .. } => Stage::Refused,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The last looks speak against its state.
    pub fn is_turning(&self) -> bool {
        match self.state {
            State::Unknown => false,
            State::Up { failures } => failures > 0,
            State::Down { answers } | State::Refused { answers, .. } => answers > 0,
        }
    }

    pub fn role(&self) -> Role {
        self.seen.as_ref().map_or(Role::Unknown, Answer::role)
    }

    pub fn timeline(&self) -> Option<Timeline> {
        self.seen.as_ref()?.timeline
    }

    pub fn seen(&self) -> Option<&Answer> {
        self.seen.as_ref()
    }

    pub fn checked(&self) -> Option<SystemTime> {
        self.last.as_ref().map(|look| look.at)
    }

    /// What is wrong with it, by the last look.
    pub fn error(&self) -> Option<String> {
        let failure = self.last.as_ref()?.answer.as_ref().err();
        let failure = failure.map(Failure::to_string);
        match (self.state, failure) {
            (State::Refused { foreign, .. }, None) => Some(foreign.to_string()),
            (State::Refused { foreign, .. }, Some(error)) => Some(format!("{foreign}; {error}")),
            (_, failure) => failure,
        }
    }

    /// The answer of the last look, if there was one and the node is in use.
    pub fn current(&self) -> Option<&Answer> {
        match (self.state, &self.last) {
            (State::Up { .. }, Some(look)) => look.answer.as_ref().ok(),
            _ => None,
        }
    }

    /// Since when it has said that it is a primary on the timeline that it has now; `None`: it says something else.
    pub fn claims_since(&self) -> Option<Instant> {
        self.claims
    }

    pub fn step(
        &mut self,
        look: Look,
        system: Option<SystemIdentifier>,
        limits: Thresholds,
    ) -> Option<Change> {
        let (role, before) = (self.role(), self.state);
        self.state = match &look.answer {
            Err(Failure::Gone(_)) => before.failed(limits),
            Err(Failure::NoEntry(_)) => before.closed(),
            Ok(answer) => match foreign(answer, system) {
                Some(foreign) => State::Refused {
                    answers: 0,
                    foreign,
                },
                None => before.answered(limits),
            },
        };
        if let Ok(answer) = &look.answer {
            self.claims = match answer.role() {
                Role::Primary if self.timeline() == answer.timeline => {
                    self.claims.or(Some(answer.answered()))
                }
                Role::Primary => Some(answer.answered()),
                Role::Replica | Role::Unknown => None,
            };
            let answer = answer.clone();
            self.seen = Some(match &self.seen {
                Some(before) => answer.after(before),
                None => answer,
            });
        }
        let change = self.change(before, role, &look);
        self.last = Some(look);
        change
    }

    fn change(&self, before: State, role: Role, look: &Look) -> Option<Change> {
        let closed = |look: &Look| matches!(look.answer, Err(Failure::NoEntry(_)));
        if let Err(Failure::NoEntry(error)) = &look.answer {
            let is_news = !self.last.as_ref().is_some_and(closed);
            return is_news.then(|| Change::NoEntry(error.clone()));
        }
        match (before, self.state) {
            (State::Up { .. }, State::Up { .. }) => {
                (role != self.role()).then(|| Change::Role(self.role()))
            }
            (_, State::Up { .. }) => Some(Change::Up(self.role())),
            (State::Down { .. }, State::Down { .. }) => None,
            (_, State::Down { .. }) => {
                let error = look.answer.as_ref().err();
                error.map(|error| Change::Down(error.to_string()))
            }
            (State::Refused { foreign: known, .. }, State::Refused { foreign, .. })
                if known == foreign =>
            {
                None
            }
            (_, State::Refused { foreign, .. }) => Some(Change::Refused(foreign)),
            (_, State::Unknown) => None,
        }
    }
}

impl State {
    fn failed(self, limits: Thresholds) -> State {
        match self {
            State::Up { failures } if failures + 1 < limits.fall => State::Up {
                failures: failures + 1,
            },
            State::Unknown | State::Up { .. } | State::Down { .. } => State::Down { answers: 0 },
            State::Refused { foreign, .. } => State::Refused {
                answers: 0,
                foreign,
            },
        }
    }

    /// It lives. What it is was said before, or is not known.
    fn closed(self) -> State {
        match self {
            State::Unknown => State::Unknown,
            State::Up { .. } => State::Up { failures: 0 },
            State::Down { .. } => State::Down { answers: 0 },
            State::Refused { foreign, .. } => State::Refused {
                answers: 0,
                foreign,
            },
        }
    }

    fn answered(self, limits: Thresholds) -> State {
        match self {
            State::Down { answers } if answers + 1 < limits.rise => State::Down {
                answers: answers + 1,
            },
            State::Refused { answers, foreign } if answers + 1 < limits.rise => State::Refused {
                answers: answers + 1,
                foreign,
            },
            State::Unknown | State::Up { .. } | State::Down { .. } | State::Refused { .. } => {
                State::Up { failures: 0 }
            }
        }
    }
}

/// A node that may not tell its system is taken at its word.
pub(super) fn foreign(answer: &Answer, system: Option<SystemIdentifier>) -> Option<Foreign> {
    let (own, shard) = (answer.system?, system?);
    (own != shard).then_some(Foreign { own, shard })
}
