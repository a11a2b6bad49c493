//! Tables that were given a place while the proxies ran, by a hint or an administrator: what `[[tables]]` would say of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Configured, ConfiguredTable, Distribution, DistributionId, Placement, QualifiedName,
    quoted_name,
};

/// Where a table's rows are to be, by names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A full copy on every shard.
    Reference,
    /// By these columns, in the order of the distribution's key.
    Sharded {
        distribution: Box<str>,
        key: Vec<Box<str>>,
    },
}

/// A place as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    pub place: Place,
    pub settled: Settled,
}

/// Whether the table may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    Yes,
    /// Not every proxy is known to plan by the place, and the table may be somewhere.
    No,
}

/// By schema and name.
pub type Places = BTreeMap<QualifiedName, Recorded>;

/// A place that does not fit the distributions at hand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("there is no distribution \"{0}\"")]
    Distribution(Box<str>),
    #[error("the key of distribution \"{distribution}\" has {expected} columns, {given} are given")]
    Columns {
        distribution: Box<str>,
        expected: usize,
        given: usize,
    },
    #[error("column \"{0}\" is given twice")]
    Twice(Box<str>),
}

impl Place {
    /// The same by number.
    pub fn placement(&self, distributions: &[Distribution]) -> Result<Placement, Misfit> {
        let Place::Sharded { distribution, key } = self else {
            return Ok(Placement::Reference);
        };
        let place = distributions
            .iter()
            .position(|one| one.name == *distribution);
        let id = place
            .and_then(|place| u16::try_from(place).ok())
            .ok_or_else(|| Misfit::Distribution(distribution.clone()))?;
        let expected = distributions[usize::from(id)].map.key_types().len();
        if expected != key.len() {
            return Err(Misfit::Columns {
                distribution: distribution.clone(),
                expected,
                given: key.len(),
            });
        }
        let mut columns = key.iter().enumerate();
        if let Some((_, twice)) = columns.find(|(at, column)| key[..*at].contains(column)) {
            return Err(Misfit::Twice(twice.clone()));
        }
        Ok(Placement::Sharded {
            distribution: DistributionId(id),
            key: key.as_slice().into(),
        })
    }
}

/// As the admin database takes it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Reference => f.write_str("SET REFERENCE"),
            Place::Sharded { distribution, key } => {
                let key: Vec<String> = key.iter().map(|column| quoted_name(column)).collect();
                write!(
                    f,
                    "DISTRIBUTE BY {} ({})",
                    quoted_name(distribution),
                    key.join(", ")
                )
            }
        }
    }
}

impl Configured {
    /// Adds tables that were given a place. They are where they were put: another place in the configuration has no effect. Those that do not fit
    /// its distributions are in `misfits` then.
    pub fn place(&mut self, places: &Places) {
        let settled = places
            .iter()
            .map(|(name, recorded)| (name.clone(), recorded.settled));
        self.placed = Arc::new(settled.collect());
        for (name, recorded) in places {
            self.tables.retain(|table| table.name != *name);
            match recorded.place.placement(&self.distributions) {
                Ok(placement) => self.tables.push(ConfiguredTable {
                    name: name.clone(),
                    placement,
                }),
                Err(misfit) => drop(self.misfits.insert(name.clone(), misfit)),
            }
        }
    }

    /// Tables that the configuration has in another place than the one that they were given.
    pub fn placed_otherwise(&self, places: &Places) -> Vec<QualifiedName> {
        let otherwise = self.tables.iter().filter(|table| {
            let place = places.get(&table.name);
            place.is_some_and(|recorded| {
                recorded.place.placement(&self.distributions).ok().as_ref()
                    != Some(&table.placement)
            })
        });
        otherwise.map(|table| table.name.clone()).collect()
    }
}
