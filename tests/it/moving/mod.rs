//! Rows that move between real servers.

mod check;
mod deaths;
mod drive;
mod flow;
mod gates;
mod ledger;
pub mod load;
mod many;
mod operator;
mod over_shards;
mod pace;
mod references;
pub mod stage;
mod verify;
