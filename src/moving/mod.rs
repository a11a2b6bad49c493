//! Online resharding, its hands: rows are copied, changes followed, both sides compared, and shards guarded, fenced and cleared, as
//! `resharding/job.rs` decides.
//!
//! This room never decides what comes next, never touches a client's session, and never holds a table in memory: chunks and batches have limits.
//! All of it runs on the control plane's runtime, in the one proxy that holds the lease of the plan. What must outlive that proxy is on the
//! shards, in the same transactions as the rows (`schema trunkline`, see [`ledger`]), or in the control store ([`records`]).
//!
//! [`scope`] is a plan with the shards of now: which table moves which keys. [`shards`] opens connections, [`table`] says how a table looks.

pub mod ledger;
pub mod pace;
pub mod progress;
pub mod scope;
pub mod shards;
pub mod table;
pub mod verify;
