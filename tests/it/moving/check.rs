//! What stands against a plan, and the tables and indexes that a new shard gets.
