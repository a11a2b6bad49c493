//! Rows that move between real servers.

mod check;
mod flow;
mod ledger;
mod operator;
mod verify;
