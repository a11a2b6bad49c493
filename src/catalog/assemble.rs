//! Configuration and definitions become one [`Catalog`](super::Catalog).

use std::sync::Arc;

use super::{Distribution, Placement, QualifiedName, Sequences, Undeclared};
use crate::sharding::ShardId;

/// The configured part of a catalog: what is known before any server was asked.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Names by [`ShardId`].
    pub shards: Arc<[Box<str>]>,
    pub home: ShardId,
    pub undeclared: Undeclared,
    pub sequences: Sequences,
    pub distributions: Arc<[Distribution]>,
    /// Each name once; every placement names an existing distribution or shard, with as many key columns as the distribution has.
    pub tables: Vec<ConfiguredTable>,
}

/// A table named by the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredTable {
    pub name: QualifiedName,
    pub placement: Placement,
}

/// Something in the configuration that the servers' definitions do not bear out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {}
