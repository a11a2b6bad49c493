//! From a validated configuration to the configured part of a catalog: names become ids, texts become typed keys, and what does not fit
//! together (ranges that overlap, buckets on no shard, a type that a strategy cannot use) is reported with its line.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::Path;

use super::{
    Configured, ConfiguredTable, Distribution, DistributionId, Placement, Sequences, Undeclared,
};
use crate::config::{self, Config, Line, Problem, TablePlacement};
use crate::sharding::buckets::{Assignment, Buckets};
use crate::sharding::geo::{self, Geo};
use crate::sharding::hash::{Function, Hash};
use crate::sharding::list::{self, List};
use crate::sharding::modulo::Modulo;
use crate::sharding::pin;
use crate::sharding::range::{self, Ranges};
use crate::sharding::{KeyType, KeyValue, MapError, ShardId, ShardMap, Strategy};

/// Reads a configuration file: every mistake in it at once, those of its maps too.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let (config, problems) = look(path);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Likewise, with what is sound of it.
pub fn look(path: &Path) -> (Option<Config>, Vec<Problem>) {
    let config::Findings {
        config,
        mut problems,
    } = config::look(path);
    if let Some(config) = &config {
        let shards = Shards { config };
        let distributions = config.distributions.iter();
        let wrong = distributions.filter_map(|one| distribution(&shards, one).err());
        problems.extend(wrong.flatten());
        // Those in other files come last.
        problems.sort_by_key(|problem| (problem.file != config.file, problem.line.0));
    }
    (config, problems)
}

/// The configured part of the catalog of one database, or every mistake in what concerns that database.
///
/// A database that the configuration does not have gives a problem, too.
pub fn build(config: &Config, database: &str) -> Result<Configured, Vec<Problem>> {
    let Some(declared) = config.databases.iter().find(|known| known.name == database) else {
        return Err(vec![config.problem(
            Line(0),
            "databases",
            format!("there is no database {database:?}"),
        )]);
    };
    let shards = Shards { config };
    let mut problems = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut distributions = Vec::new();
    for configured in config
        .distributions
        .iter()
        .filter(|d| d.database == database)
    {
        // Its place is taken even if it is wrong, so that ids stay those of the names.
        names.push(&configured.name);
        match distribution(&shards, configured) {
            Ok(sound) => distributions.push(sound),
            Err(found) => problems.extend(found),
        }
    }
    let mut tables = Vec::new();
    for table in config
        .tables
        .iter()
        .filter(|table| table.database == database)
    {
        match placement(&shards, &names, table) {
            Ok(placement) => tables.push(ConfiguredTable {
                name: (table.schema.as_str().into(), table.name.as_str().into()),
                placement,
            }),
            Err(problem) => problems.push(problem),
        }
    }
    let home = match &declared.default_shard {
        Some(name) => shards
            .id(name, declared.line, "default_shard")
            .map_err(|problem| problems.push(problem))
            .ok(),
        None => Some(ShardId(0)),
    };
    let gather = declared.gather_shard.as_ref().and_then(|name| {
        shards
            .id(name, declared.line, "gather_shard")
            .map_err(|problem| problems.push(problem))
            .ok()
    });
    match home {
        Some(home) if problems.is_empty() => Ok(Configured {
            shards: config
                .shards
                .iter()
                .map(|shard| shard.name.as_str().into())
                .collect(),
            home,
            gather,
            // With one shard there is only one place where a table can be.
            undeclared: match declared.default_shard.is_some() || config.shards.len() == 1 {
                true => Undeclared::Home,
                false => Undeclared::Refused,
            },
            sequences: match declared.sequences {
                config::Sequences::Home => Sequences::Home,
                config::Sequences::PerShard => Sequences::PerShard,
                config::Sequences::Refused => Sequences::Refused,
            },
            cross_shard_commit: config.cross_shard_commit(declared),
            replica_functions: replica_functions(config).into(),
            distributions: distributions.into(),
            foreign: super::Foreign::default(),
            tables,
            placed: Default::default(),
            misfits: Default::default(),
        }),
        _ => {
            problems.sort_by_key(|problem| problem.line.0);
            Err(problems)
        }
    }
}

fn replica_functions(config: &Config) -> HashSet<Box<str>> {
    let names = config.reads.functions.iter();
    names.map(|name| Box::from(name.as_str())).collect()
}

/// The names of shards and their ids.
struct Shards<'a> {
    config: &'a Config,
}

impl Shards<'_> {
    fn id(&self, name: &str, line: Line, key: &str) -> Result<ShardId, Problem> {
        self.config
            .shards
            .iter()
            .position(|shard| shard.name == name)
            .and_then(|place| u16::try_from(place).ok())
            .map(ShardId)
            .ok_or_else(|| {
                self.config
                    .problem(line, key, format!("{name:?} is not the name of a shard"))
            })
    }

    fn ids(&self, names: &[String], line: Line, key: &str) -> Result<Vec<ShardId>, Vec<Problem>> {
        all(names
            .iter()
            .map(|name| self.id(name, line, key).map_err(|problem| vec![problem])))
    }
}

/// All values, or all that is wrong with any of them.
fn all<T>(results: impl Iterator<Item = Result<T, Vec<Problem>>>) -> Result<Vec<T>, Vec<Problem>> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for result in results {
        match result {
            Ok(value) => values.push(value),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(values)
    } else {
        Err(problems)
    }
}

fn placement(
    shards: &Shards<'_>,
    distributions: &[&str],
    table: &config::Table,
) -> Result<Placement, Problem> {
    let path = format!("tables.{}", table.name);
    match &table.placement {
        TablePlacement::Reference => Ok(Placement::Reference),
        TablePlacement::Single { shard } => shards
            .id(shard, table.line, &format!("{path}.shard"))
            .map(Placement::Single),
        TablePlacement::Sharded { distribution, key } => {
            let place = distributions.iter().position(|name| name == distribution);
            let id = place
                .and_then(|place| u16::try_from(place).ok())
                .ok_or_else(|| {
                    let message =
                        format!("{distribution:?} is not a distribution of this database");
                    shards
                        .config
                        .problem(table.line, format!("{path}.distribution"), message)
                })?;
            let key = key.iter().map(|column| column.as_str().into()).collect();
            Ok(Placement::Sharded {
                distribution: DistributionId(id),
                key,
            })
        }
    }
}

/// One distribution being made.
struct Draft<'a> {
    shards: &'a Shards<'a>,
    configured: &'a config::Distribution,
    key: Vec<KeyType>,
}

fn distribution(
    shards: &Shards<'_>,
    configured: &config::Distribution,
) -> Result<Distribution, Vec<Problem>> {
    let draft = Draft {
        shards,
        configured,
        key: key_types(shards.config, configured)?,
    };
    // Both are tried before either stops, so that the mistakes of one do not hide those of the other.
    let (strategy, pins) = (draft.strategy(), draft.pins());
    let (strategy, pins) = match (strategy, pins) {
        (Ok(strategy), Ok(pins)) => (strategy, pins),
        (strategy, pins) => {
            return Err(strategy
                .err()
                .into_iter()
                .chain(pins.err())
                .flatten()
                .collect());
        }
    };
    match ShardMap::new(draft.key.clone(), strategy, pins) {
        Ok(map) => Ok(Distribution {
            turning: None,
            name: configured.name.as_str().into(),
            map,
        }),
        Err(errors) => Err(draft.problems(errors)),
    }
}

fn key_types(
    config: &Config,
    configured: &config::Distribution,
) -> Result<Vec<KeyType>, Vec<Problem>> {
    all(configured.key.iter().map(|name| {
        KeyType::parse_name(name).ok_or_else(|| {
            let allowed: Vec<_> = KeyType::ALL.iter().map(|known| known.name()).collect();
            let message = format!(
                "{name:?} is not a type that a key may have; give one of {}",
                allowed.join(", ")
            );
            vec![config.problem(
                configured.key_line,
                format!("distributions.{}.key", configured.name),
                message,
            )]
        })
    }))
}

impl Draft<'_> {
    fn path(&self, key: &str) -> String {
        format!("distributions.{}.{key}", self.configured.name)
    }

    fn problem(&self, line: Line, key: &str, message: impl Into<String>) -> Problem {
        self.shards.config.problem(line, self.path(key), message)
    }

    fn shard(&self, name: &str, line: Line, key: &str) -> Result<ShardId, Vec<Problem>> {
        self.shards
            .id(name, line, &self.path(key))
            .map_err(|problem| vec![problem])
    }

    /// A value of one key column; one that is not written as the column's type is a mistake.
    fn value(
        &self,
        column: usize,
        text: &str,
        line: Line,
        key: &str,
    ) -> Result<KeyValue, Vec<Problem>> {
        let Some(key_type) = self.key.get(column) else {
            let message = format!(
                "{text:?} is for column {} of the key, which has {}",
                column + 1,
                self.key.len()
            );
            return Err(vec![self.problem(line, key, message)]);
        };
        key_type
            .parse_text(text)
            .map_err(|error| vec![self.problem(line, key, error.to_string())])
    }

    fn strategy(&self) -> Result<Strategy, Vec<Problem>> {
        match &self.configured.strategy {
            config::Strategy::Hash {
                function,
                buckets,
                shards,
            } => self.hash(*function, *buckets, shards),
            config::Strategy::Range(ranges) => self.ranges(ranges),
            config::Strategy::List { values, default } => self.list(values, default.as_deref()),
            config::Strategy::Geo { regions, default } => self.geo(regions, default.as_deref()),
        }
    }

    fn hash(
        &self,
        function: config::HashFunction,
        count: u32,
        map: &config::BucketMap,
    ) -> Result<Strategy, Vec<Problem>> {
        let line = self.configured.map_line;
        let function = match (function, map) {
            (config::HashFunction::Postgres, _) => Function::Postgres,
            (config::HashFunction::Xxh3, _) => Function::Xxh3,
            (config::HashFunction::Modulo, config::BucketMap::Even(names)) => {
                let shards = self.shards.ids(names, line, &self.path("shards"))?;
                return Modulo::new(&shards)
                    .map(Strategy::Modulo)
                    .map_err(|errors| self.problems(errors));
            }
            (config::HashFunction::Modulo, config::BucketMap::Assigned(_)) => {
                return Err(vec![self.problem(
                    line,
                    "shards",
                    "must be an array with \"modulo\"",
                )]);
            }
        };
        let buckets = match map {
            config::BucketMap::Even(names) => {
                Buckets::even(count, &self.shards.ids(names, line, &self.path("shards"))?)
            }
            config::BucketMap::Assigned(assigned) => {
                let assignments = all(assigned.iter().map(|(name, runs)| {
                    Ok(Assignment {
                        shard: self.shard(name, line, "shards")?,
                        runs: runs.clone(),
                    })
                }))?;
                Buckets::assigned(count, &assignments)
            }
        };
        buckets
            .map(|buckets| Strategy::Hash(Hash::new(function, buckets)))
            .map_err(|errors| self.problems(errors))
    }

    fn ranges(&self, configured: &[config::Range]) -> Result<Strategy, Vec<Problem>> {
        let ranges = all(configured.iter().enumerate().map(|(place, range)| {
            let path = format!("ranges[{place}]");
            let bound = |text: &Option<String>, end: &str| {
                text.as_deref()
                    .map(|text| self.value(0, text, range.line, &format!("{path}.{end}")))
                    .transpose()
            };
            let shard = self.shard(&range.shard, range.line, &format!("{path}.shard"));
            match (bound(&range.from, "from"), bound(&range.to, "to"), shard) {
                (Ok(from), Ok(to), Ok(shard)) => Ok(range::Range { from, to, shard }),
                (from, to, shard) => Err([from.err(), to.err(), shard.err()]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect()),
            }
        }))?;
        Ranges::new(ranges)
            .map(Strategy::Range)
            .map_err(|errors| self.problems(errors))
    }

    fn list(
        &self,
        configured: &[config::ListEntry],
        default: Option<&str>,
    ) -> Result<Strategy, Vec<Problem>> {
        let entries = all(configured.iter().enumerate().map(|(place, entry)| {
            let path = format!("values[{place}]");
            let values = all(entry
                .values
                .iter()
                .map(|text| self.value(0, text, entry.line, &path)))?;
            Ok(list::Entry {
                values,
                shard: self.shard(&entry.shard, entry.line, &path)?,
            })
        }))?;
        let default = default
            .map(|name| self.shard(name, self.configured.line, "default"))
            .transpose()?;
        List::new(entries, default)
            .map(Strategy::List)
            .map_err(|errors| self.problems(errors))
    }

    fn geo(
        &self,
        configured: &[config::Region],
        default: Option<&str>,
    ) -> Result<Strategy, Vec<Problem>> {
        let regions = all(configured.iter().map(|region| {
            let path = format!("regions.{}", region.name);
            let values = all(region
                .values
                .iter()
                .map(|text| self.place(text, region.line, &path)));
            let shards = self
                .shards
                .ids(&region.shards, region.line, &self.path(&path));
            match (values, shards) {
                (Ok(values), Ok(shards)) => Ok(geo::Region {
                    name: region.name.as_str().into(),
                    values,
                    shards,
                }),
                (values, shards) => Err(values
                    .err()
                    .into_iter()
                    .chain(shards.err())
                    .flatten()
                    .collect()),
            }
        }))?;
        let default = match default {
            Some(name) => Some(
                configured
                    .iter()
                    .position(|region| region.name == name)
                    .ok_or_else(|| {
                        vec![self.problem(
                            self.configured.line,
                            "default",
                            format!("{name:?} is not the name of a region"),
                        )]
                    })?,
            ),
            None => None,
        };
        Geo::new(regions, default)
            .map(Strategy::Geo)
            .map_err(|errors| self.problems(errors))
    }

    /// A value of the first key column as it is stored. (That this is no text type is for the map to say.)
    fn place(&self, text: &str, line: Line, key: &str) -> Result<Box<str>, Vec<Problem>> {
        match self.key.first() {
            Some(key_type) if key_type.is_text() => match self.value(0, text, line, key)? {
                KeyValue::Text(text) => Ok(text),
                _ => Ok(text.into()),
            },
            Some(_) | None => Ok(text.into()),
        }
    }

    fn pins(&self) -> Result<Vec<pin::Pin>, Vec<Problem>> {
        all(self.configured.pins.iter().enumerate().map(|(place, pin)| {
            let path = format!("pins[{place}]");
            let key = all(pin
                .key
                .iter()
                .enumerate()
                .map(|(column, text)| self.value(column, text, pin.line, &path)))?;
            Ok(pin::Pin {
                key,
                shard: self.shard(&pin.shard, pin.line, &path)?,
            })
        }))
    }

    fn problems(&self, errors: Vec<MapError>) -> Vec<Problem> {
        errors
            .into_iter()
            .map(|error| self.at_its_place(error))
            .collect()
    }

    /// Where in the file a mistake of the map is. Places in the map are those of the configured lists.
    fn at_its_place(&self, error: MapError) -> Problem {
        let map_line = self.configured.map_line;
        let message = error.to_string();
        match error {
            MapError::NoKey | MapError::KeyColumns { .. } | MapError::TypeUnusable { .. } => {
                self.problem(self.configured.key_line, "key", message)
            }
            MapError::BucketCount { .. } => self.problem(self.configured.line, "buckets", message),
            MapError::NoShards
            | MapError::ShardTwice { .. }
            | MapError::MoreShardsThanBuckets { .. }
            | MapError::BucketsUnassigned { .. } => self.problem(map_line, "shards", message),
            MapError::RunReversed { entry, .. } | MapError::BucketOutOfRange { entry, .. } => self
                .problem(
                    map_line,
                    &format!("shards.{}", self.assigned(entry)),
                    message,
                ),
            MapError::BucketsTwice {
                first_entry,
                second_entry,
                ..
            } => {
                let [first, second] = [self.assigned(first_entry), self.assigned(second_entry)];
                self.problem(
                    map_line,
                    "shards",
                    format!("{message}: to {first} and to {second}"),
                )
            }
            MapError::NoRanges => self.problem(map_line, "ranges", message),
            MapError::RangeEmpty { range } => self.entry(range, message),
            MapError::RangesOverlap { first, second } => {
                let line = self.entry_line(first);
                self.entry(
                    second,
                    format!("overlaps ranges[{first}] on line {}", line.0),
                )
            }
            MapError::NoValues => self.problem(map_line, "values", message),
            MapError::ValueOfOtherType { entry, .. } | MapError::EntryWithoutValues { entry } => {
                self.entry(entry, message)
            }
            MapError::ValueTwice { first, second, .. } => {
                let line = self.entry_line(first);
                self.entry(
                    second,
                    format!("{message}, the first time on line {}", line.0),
                )
            }
            MapError::NoRegions | MapError::UnknownDefaultRegion => {
                self.problem(map_line, "regions", message)
            }
            MapError::RegionTwice { second, .. } => self.entry(second, message),
            MapError::RegionNeedsSecondColumn { region } | MapError::InRegion { region, .. } => {
                self.entry(region, message)
            }
            MapError::PinColumns { pin, .. } | MapError::PinOfOtherType { pin, .. } => {
                self.pin(pin, message)
            }
            MapError::PinTwice { first, second } => {
                let line = self
                    .configured
                    .pins
                    .get(first)
                    .map_or(self.configured.line, |pin| pin.line);
                self.pin(
                    second,
                    format!("{message}, the first time on line {}", line.0),
                )
            }
        }
    }

    fn assigned(&self, entry: usize) -> &str {
        match &self.configured.strategy {
            config::Strategy::Hash {
                shards: config::BucketMap::Assigned(assigned),
                ..
            } => assigned.get(entry).map_or("", |(name, _)| name),
            _ => "",
        }
    }

    /// The line of an element of `ranges`, `values` or `regions`.
    fn entry_line(&self, entry: usize) -> Line {
        let line = match &self.configured.strategy {
            config::Strategy::Hash { .. } => None,
            config::Strategy::Range(ranges) => ranges.get(entry).map(|range| range.line),
            config::Strategy::List { values, .. } => values.get(entry).map(|entry| entry.line),
            config::Strategy::Geo { regions, .. } => regions.get(entry).map(|region| region.line),
        };
        line.unwrap_or(self.configured.map_line)
    }

    /// A mistake in an element of `ranges`, `values` or `regions`.
    fn entry(&self, entry: usize, message: String) -> Problem {
        let path = match &self.configured.strategy {
            config::Strategy::Hash { .. } => "shards".to_owned(),
            config::Strategy::Range(_) => format!("ranges[{entry}]"),
            config::Strategy::List { .. } => format!("values[{entry}]"),
            config::Strategy::Geo { regions, .. } => {
                regions.get(entry).map_or("regions".to_owned(), |region| {
                    format!("regions.{}", region.name)
                })
            }
        };
        self.problem(self.entry_line(entry), &path, message)
    }

    fn pin(&self, pin: usize, message: String) -> Problem {
        let line = self
            .configured
            .pins
            .get(pin)
            .map_or(self.configured.line, |pin| pin.line);
        self.problem(line, &format!("pins[{pin}]"), message)
    }
}
