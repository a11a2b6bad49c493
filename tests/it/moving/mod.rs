//! Rows that move between real servers.

mod check;
mod drive;
mod flow;
mod ledger;
mod load;
mod operator;
mod over_shards;
mod references;
mod stage;
mod verify;
