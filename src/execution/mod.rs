//! Running a plan: the relay between one client and one server connection, and what several servers do together.
//!
//! `relay.rs` is for one shard; `branch.rs` for several at once, `merge/` for one result out of their rows, `portions.rs` where a client takes it in
//! portions, `gather.rs` for rows that go
//! from some to another, `copy.rs` for rows that come from the client, `row_array.rs` and `column_arrays.rs` for rows that are parameters. `commit/` is the commit of several shards,
//! `deadlock/` finds those that wait for each other on different shards.
//!
//! This room never decides where a statement goes and never reads SQL.

pub mod branch;
pub mod client;
pub mod column_arrays;
pub mod columns;
pub mod commit;
pub mod copy;
pub mod deadlock;
pub mod delivery;
pub mod gather;
pub mod merge;
pub mod portions;
pub mod relay;
pub mod row_array;
