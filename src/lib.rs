//! Trunkline, a sharding proxy for PostgreSQL.

pub mod admin;
pub mod backend;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod execution;
pub mod plan;
pub mod server;
pub mod session;
pub mod sharding;
pub mod sql;
pub mod topology;
pub mod wire;
