//! What each shard knows of plans, in its own database: schema `trunkline`.

/// Made where a plan begins. Can be run again.
///
/// `reshard_ledger` is written by orders only (open, guard, fence, unguard, close), never while rows are copied or followed: the guard triggers
/// read it. `reshard_streams` has, on the receiving shard, how far each source has come; `driver` is the token of the lease of the proxy that may
/// write. `reshard_chunks` has for each part of a table's keys (behind `position` as it began, up to and with `until`) how far its rows are there.
pub const STATEMENTS: &str = "CREATE SCHEMA IF NOT EXISTS trunkline;
CREATE TABLE IF NOT EXISTS trunkline.reshard_ledger (
    number bigint PRIMARY KEY,
    name text NOT NULL,
    term bigint NOT NULL,
    closed boolean NOT NULL DEFAULT false,
    guarded text[] NOT NULL DEFAULT '{}',
    fence_term bigint,
    fence_lsn pg_lsn,
    indexed boolean NOT NULL DEFAULT false
);
CREATE TABLE IF NOT EXISTS trunkline.reshard_streams (
    number bigint NOT NULL,
    source text NOT NULL,
    driver bigint NOT NULL,
    applied pg_lsn NOT NULL DEFAULT '0/0',
    copied boolean NOT NULL DEFAULT false,
    fence_applied bigint,
    verified_round bigint,
    differences bigint,
    PRIMARY KEY (number, source)
);
CREATE TABLE IF NOT EXISTS trunkline.reshard_chunks (
    number bigint NOT NULL,
    source text NOT NULL,
    relation text NOT NULL,
    part integer NOT NULL,
    position text[],
    until text[],
    row_count bigint NOT NULL,
    done boolean NOT NULL DEFAULT false,
    PRIMARY KEY (number, source, relation, part)
);";
