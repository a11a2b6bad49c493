//! Trunkline, a sharding proxy for PostgreSQL.
pub mod catalog;
pub mod cli;
pub mod config;
pub mod plan;
pub mod sharding;
pub mod sql;
pub mod wire;
