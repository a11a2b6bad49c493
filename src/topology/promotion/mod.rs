//! Making a node the primary: what must hold before, in which order it is done, what each server is told, and how it is undone.
//!
//! Nothing here decides by itself that there shall be another primary: the server room does, which holds the leases and drives this.
//!
//! The pure parts: `steps.rs` is the order of a switchover, and what an end in the middle of it asks for; `check.rs` says when there may be one;
//! `candidate.rs` picks whom to promote when the primary is gone; `conninfo.rs` points a standby elsewhere; `gate.rs` hides a primary.
//! `visit.rs` speaks to the servers.

mod candidate;
mod check;
mod conninfo;
mod failure;
mod gate;
mod steps;
mod tally;
mod visit;

pub use candidate::{Candidate, NotChosen, Wanted, choose};
pub use check::{Refusal, may_switch};
pub use failure::{NotSwitched, Undone};
pub use gate::Gate;
pub use steps::{Done, Phase, Remedy, Step};
pub use tally::{Outcome, Tally};
pub use visit::{Override, PrimaryFacts, ReplicaFacts, Repointed, Visit};
