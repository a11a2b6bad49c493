//! Online resharding, its hands: rows are copied, changes followed, both sides compared, and shards guarded, fenced and cleared, as
//! `resharding/job.rs` decides.
//!
//! This room never decides what comes next, never touches a client's session, and never holds a table in memory: chunks and batches have limits.
//! All of it runs on the control plane's runtime, in the one proxy that holds the lease of the plan. What must outlive that proxy is on the
//! shards, in the same transactions as the rows (`schema trunkline`, see [`ledger`]), or in the control store ([`records`]).
//!
//! Read `driver.rs` first: it looks (`observe.rs`), asks what is next, and has it done (`act.rs`; what takes long by `tasks.rs`).
//!
//! * What it works on: [`scope`] is a plan with the shards of now, [`shards`] opens connections, [`table`] says how a table looks.
//! * On a shard: [`ledger`] gives orders, [`guard`] and `triggers.rs` refuse writes, [`objects`] are slots and publications, [`look`] says how it stands,
//!   [`remove`] takes rows away, [`check`] finds what stands against a plan, [`schema`] makes tables and indexes.
//! * Rows: [`copy`], `chunk.rs` and `sheet.rs`; changes: [`follow`], `apply.rs`, `batch.rs`; both meet in [`seam`]; [`verify`] compares.
//! * For every proxy: [`records`] of the control store, and [`overlay`], what they mean for the maps in force.

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
mod sheet;
mod statements;
pub mod table;
pub mod tables;
mod tasks;
pub mod tombstones;
mod triggers;
pub mod values;
pub mod verify;
