//! On which server a statement can be parsed before its values are known: all its tables have to be there.

use super::spread::Spread;
use super::spread::delivery::Destination;
use super::spread::gather::{Gather, Origin};
use super::{Plan, PlannedStatement, Target};
use crate::sharding::ShardId;

/// The servers that have all tables of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkable {
    /// As far as is known, every one.
    Anywhere,
    Shard(ShardId),
    /// Single tables of several shards.
    Nowhere,
}

impl PlannedStatement {
    /// Where it can be parsed and described.
    pub fn checkable(&self) -> Checkable {
        match (&self.plan, &self.spread) {
            (
                Ok(
                    Plan::Relay(Target::Shard(shard))
                    | Plan::Relay(Target::Keys {
                        also: Some(shard), ..
                    }),
                ),
                _,
            ) => Checkable::Shard(*shard),
            (Err(_), Some(spread)) => spread.checkable(),
            _ => Checkable::Anywhere,
        }
    }
}

impl Spread {
    /// The one shard that has all tables of a change, where others that take part have not.
    pub fn describer(&self) -> Option<ShardId> {
        match self {
            Spread::Write(write) => write.feed.as_ref().and_then(|feed| feed.describer),
            Spread::Explain(explained) => explained.spread.describer(),
            _ => None,
        }
    }

    /// Where the statement can be parsed and described.
    pub fn checkable(&self) -> Checkable {
        match self {
            Spread::Prepared(checkable) => *checkable,
            Spread::Gather(gather) => gather.checkable(),
            Spread::Delivery(delivery) => match (&delivery.to, delivery.gather.checkable()) {
                (Destination::Shard(to), Checkable::Shard(from)) if *to != from => {
                    Checkable::Nowhere
                }
                (_, gathered) => gathered,
            },
            Spread::Declare(declared) => declared.spread.checkable(),
            Spread::Explain(explained) => explained.spread.checkable(),
            _ => self
                .describer()
                .map_or(Checkable::Anywhere, Checkable::Shard),
        }
    }
}

impl Gather {
    /// Its shard has what is read in place.
    fn checkable(&self) -> Checkable {
        let away = |origin: &Origin| matches!(origin, Origin::One(shard) if *shard != self.shard);
        if self.fetches.iter().any(|fetch| away(&fetch.origin)) {
            Checkable::Nowhere
        } else {
            Checkable::Shard(self.shard)
        }
    }
}
