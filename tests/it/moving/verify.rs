//! Both sides compared: every difference is found, and changes on their way are none.
//!
//! There is no replication here. What the owner writes is written on the receiving shard by the test, some time later and in the same order.

mod at_rest;
mod in_motion;
mod party;
