//! Online resharding, its pure heart: what moves from shard to shard, and what is done next.
//!
//! This room never opens a connection, waits or asks for the time: it is handed maps, texts and observations, and answers with moves,
//! conditions and actions. It does not know sessions; both meet at the catalog.
//!
//! [`language`] reads what an operator writes, [`wanted`] makes of it the map that shall be, [`difference`] the moves between two maps
//! ([`layout`] proves them), [`mod@show`] the page that people read before anything happens. [`keys`] says which keys a move has,
//! [`condition`] says it to a server, by functions of [`hashes`] where servers have none. [`record`] stores maps. [`job`] is the life of a plan, and the one to read next: one function from
//! what is known to what is done.

pub mod condition;
pub mod difference;
pub mod hashes;
pub mod job;
pub mod keys;
pub mod language;
pub mod layout;
pub mod record;
pub mod report;
pub mod show;
pub mod wanted;
