//! Online resharding, its hands: rows are copied, changes followed, both sides compared, and shards guarded, fenced and cleared, as
//! `resharding/job.rs` decides.
//!
//! This room never decides what comes next, never touches a client's session, and never holds a table in memory: chunks and batches have limits.
//! All of it runs on the control plane's runtime, in the one proxy that holds the lease of the plan. What must outlive that proxy is on the
//! shards, in the same transactions as the rows (`schema trunkline`, see [`ledger`]), or in the control store ([`records`]).
//!
//! [`scope`] is a plan with the shards of now: which table moves which keys. [`shards`] opens connections, [`table`] says how a table looks.
//! [`check`] finds what stands against a plan, [`estimate`] how much it moves, [`schema`] makes the tables of new shards.

mod act;
mod apply;
pub mod batch;
mod brake;
pub mod check;
mod chunk;
pub mod claim;
pub mod copy;
pub mod driver;
pub mod estimate;
pub mod follow;
pub mod guard;
pub mod ledger;
pub mod look;
pub mod objects;
mod observe;
pub mod overlay;
pub mod pace;
pub mod place;
pub mod progress;
pub mod records;
pub mod remove;
pub mod schema;
pub mod scope;
pub mod seam;
pub mod shards;
mod statements;
pub mod table;
pub mod tables;
mod tasks;
pub mod tombstones;
mod triggers;
pub mod values;
pub mod verify;
