//! `[[distributions]]`: what is sharded and how.
//!
//! Here a strategy is only read. Whether its parts fit together (and the key's types) is for `catalog::build` to say.

use super::entry::Names;
use super::section::{Entry, Section};
use super::{
    BucketMap, Distribution, HashFunction, ListEntry, Pin, Range, Region, Strategy, value,
};

/// As many columns as a partition key of Postgres may have.
const MOST_KEY_COLUMNS: usize = 32;
const MOST_BUCKETS: usize = 1 << 16;

/// What the file declares elsewhere.
pub(super) struct Declared {
    pub shards: Vec<String>,
    pub databases: Vec<String>,
}

impl Declared {
    pub fn shard(&self, entry: Entry<'_>) -> Option<String> {
        entry.reference("shard", &self.shards)
    }

    /// The database of an entry that may leave it out when there is only one.
    pub fn database(&self, section: &mut Section<'_>) -> Option<String> {
        if let Some(entry) = section.take("database") {
            return entry.reference("database", &self.databases);
        }
        match self.databases.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            [_, ..] => {
                let known: Vec<_> = self.databases.iter().map(String::as_str).collect();
                section.note_key(
                    "database",
                    format!("is missing; give one of {}", value::listed(&known)),
                );
                None
            }
        }
    }
}

/// A distribution that a table may refer to, sound or not.
pub(super) struct Known {
    pub name: String,
    pub database: Option<String>,
    /// `None`: its key is wrong, which has been noted.
    pub columns: Option<usize>,
}

/// The distributions that are sound, and all that tables may refer to.
pub(super) fn read(root: &mut Section<'_>, declared: &Declared) -> (Vec<Distribution>, Vec<Known>) {
    let mut known = Vec::new();
    let distributions = root
        .sections("distributions")
        .into_iter()
        .filter_map(|section| distribution(section, declared, &mut known))
        .collect();
    (distributions, known)
}

#[derive(Clone, Copy)]
enum StrategyName {
    Hash,
    Range,
    List,
    Geo,
}

fn distribution(
    mut section: Section<'_>,
    declared: &Declared,
    known: &mut Vec<Known>,
) -> Option<Distribution> {
    let name = section.required("name", "the name of the distribution", |entry| entry.name());
    if let Some(name) = &name {
        section.call_it(name);
    }
    let database = declared.database(&mut section);
    let twice = known
        .iter()
        .any(|k| Some(&k.name) == name.as_ref() && k.database == database);
    if twice && name.is_some() {
        section.note_key(
            "name",
            "is the name of another distribution of this database; give another name",
        );
    }
    let key_entry = section.take("key");
    let key_line = key_entry.as_ref().map_or(section.line, |entry| entry.line);
    let key = match key_entry {
        Some(entry) => key_types(&entry),
        None => {
            section.note_key(
                "key",
                "is missing; give the type of the key, like \"bigint\" or [\"text\", \"bigint\"]",
            );
            None
        }
    };
    if let Some(name) = name.clone() {
        known.push(Known {
            name,
            database: database.clone(),
            columns: key.as_ref().map(Vec::len),
        });
    }
    let words = [
        ("hash", StrategyName::Hash),
        ("range", StrategyName::Range),
        ("list", StrategyName::List),
        ("geo", StrategyName::Geo),
    ];
    let what = "\"hash\", \"range\", \"list\" or \"geo\"";
    let strategy = section.required("strategy", what, |entry| entry.choice(&words));
    let map_key = match strategy {
        Some(StrategyName::Hash) | None => "shards",
        Some(StrategyName::Range) => "ranges",
        Some(StrategyName::List) => "values",
        Some(StrategyName::Geo) => "regions",
    };
    let map_line = section.line_of(map_key);
    let strategy = match strategy {
        Some(StrategyName::Hash) => hash(&mut section, declared),
        Some(StrategyName::Range) => ranges(&mut section, declared),
        Some(StrategyName::List) => list(&mut section, declared),
        Some(StrategyName::Geo) => geo(&mut section, declared),
        None => {
            // Without the strategy there is no telling which of these belong.
            for key in [
                "function", "buckets", "shards", "ranges", "values", "regions", "default",
            ] {
                section.take(key);
            }
            None
        }
    };
    let columns = key.as_ref().map(Vec::len);
    let pins = section
        .sections("pins")
        .into_iter()
        .filter_map(|s| pin(s, declared, columns))
        .collect();
    let line = section.line;
    section.done();
    Some(Distribution {
        line,
        key_line,
        map_line,
        name: name?,
        database: database?,
        key: key?,
        strategy: strategy?,
        pins,
    })
}

fn key_types(entry: &Entry<'_>) -> Option<Vec<String>> {
    const ALLOWED: &str =
        "the type of the key, like \"bigint\", or an array of them for several columns";
    let items = entry.one_or_more();
    if items.is_empty() || items.len() > MOST_KEY_COLUMNS {
        entry.note(format!(
            "has {} columns; give 1 to {MOST_KEY_COLUMNS}",
            items.len()
        ));
        return None;
    }
    items
        .iter()
        .map(|item| item.text(ALLOWED).map(str::to_owned))
        .collect()
}

fn hash(section: &mut Section<'_>, declared: &Declared) -> Option<Strategy> {
    let function = section
        .read("function", |entry| {
            entry.choice(&[
                ("postgres", HashFunction::Postgres),
                ("xxh3", HashFunction::Xxh3),
                ("modulo", HashFunction::Modulo),
            ])
        })
        .unwrap_or(HashFunction::Postgres);
    let what = "the shards, like [\"s1\", \"s2\"] for even parts or { s1 = \"0-2047\", s2 = \"2048-4095\" }";
    if function == HashFunction::Modulo {
        if section.has("buckets") {
            section.take("buckets");
            section.note_key(
                "buckets",
                "has no meaning with \"modulo\"; take it away: the number of shards is the divisor",
            );
        }
        let shards = section.required("shards", what, |entry| {
            if entry.value.is_table() {
                entry.wrong(
                    "an array",
                    "the shards in the order of the remainder, like [\"s0\", \"s1\"]",
                );
                return None;
            }
            shard_names(&entry, declared)
        })?;
        let buckets = u32::try_from(shards.len()).ok()?;
        return Some(Strategy::Hash {
            function,
            buckets,
            shards: BucketMap::Even(shards),
        });
    }
    let buckets = match section.take("buckets") {
        Some(entry) => buckets(&entry),
        None => Some(4096),
    };
    let shards = section.required("shards", what, |entry| {
        bucket_map(&entry, declared, buckets)
    });
    Some(Strategy::Hash {
        function,
        buckets: buckets?,
        shards: shards?,
    })
}

fn buckets(entry: &Entry<'_>) -> Option<u32> {
    let number = entry.whole(1..=MOST_BUCKETS)?;
    if !number.is_power_of_two() {
        entry.wrong(
            "a power of two",
            &format!(
                "{} or {}",
                number.next_power_of_two() / 2,
                number.next_power_of_two()
            ),
        );
        return None;
    }
    u32::try_from(number).ok()
}

fn bucket_map(entry: &Entry<'_>, declared: &Declared, buckets: Option<u32>) -> Option<BucketMap> {
    if !entry.value.is_table() {
        let shards = shard_names(entry, declared)?;
        for (at, shard) in shards.iter().enumerate() {
            if shards[..at].contains(shard) {
                entry.note(format!(
                    "names {shard:?} twice; write {{ {shard} = \"0-1023\", ... }} for uneven parts"
                ));
                return None;
            }
        }
        if let Some(buckets) = buckets
            && shards.len() > buckets as usize
        {
            entry.note(format!(
                "names {} shards for {buckets} buckets; set buckets to {} or more",
                shards.len(),
                shards.len().next_power_of_two()
            ));
            return None;
        }
        return Some(BucketMap::Even(shards));
    }
    let section = entry.section()?;
    let mut assigned = Vec::new();
    let mut sound = true;
    for (shard, ranges) in section.named_entries() {
        let known: Vec<_> = declared.shards.iter().map(String::as_str).collect();
        if !known.contains(&shard) {
            ranges.note(format!(
                "{shard:?} is not the name of a shard; there are {}",
                value::listed(&known)
            ));
            sound = false;
        }
        const ALLOWED: &str = "buckets like \"0-1023\" or \"0-1023,2048-4095\"";
        match ranges.value.as_str().and_then(value::bucket_ranges) {
            Some(buckets) => assigned.push((shard.to_owned(), buckets)),
            None => {
                ranges.wrong("a list of bucket ranges", ALLOWED);
                sound = false;
            }
        }
    }
    if assigned.is_empty() && sound {
        entry.note("is empty; give at least one shard");
        return None;
    }
    sound.then_some(BucketMap::Assigned(assigned))
}

/// An array of at least one shard.
fn shard_names(entry: &Entry<'_>, declared: &Declared) -> Option<Vec<String>> {
    let items = entry.items("the names of shards, like [\"s1\", \"s2\"]")?;
    if items.is_empty() {
        entry.note("is empty; give at least one shard");
        return None;
    }
    all(items.into_iter().map(|item| declared.shard(item)))
}

/// Every value, or `None` after all of them were tried (so that each mistake was noted).
pub(super) fn all<T>(values: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let values: Vec<_> = values.collect();
    values.into_iter().collect()
}

fn ranges(section: &mut Section<'_>, declared: &Declared) -> Option<Strategy> {
    let ranges = parts(
        section,
        "ranges",
        "ranges like [{ to = 1000, shard = \"s1\" }, { from = 1000, shard = \"s2\" }]",
    )?;
    let ranges = all(ranges.into_iter().map(|mut range| {
        let from = bound(&mut range, "from");
        let to = bound(&mut range, "to");
        let shard = range.required("shard", "the name of a shard", |entry| {
            declared.shard(entry)
        });
        let line = range.line;
        range.done();
        Some(Range {
            line,
            from: from?,
            to: to?,
            shard: shard?,
        })
    }));
    ranges.map(Strategy::Range)
}

/// An end of a range: `None` when it is wrong, `Some(None)` when it is open.
fn bound(range: &mut Section<'_>, key: &'static str) -> Option<Option<String>> {
    match range.take(key) {
        Some(entry) => entry.key_value().map(Some),
        None => Some(None),
    }
}

/// An array of tables that must be there and hold something.
fn parts<'a>(section: &mut Section<'a>, key: &'static str, what: &str) -> Option<Vec<Section<'a>>> {
    if !section.has(key) || section.is_empty_array(key) {
        section.take(key);
        section.note_key(key, format!("is missing or empty; give {what}"));
        return None;
    }
    Some(section.sections(key))
}

fn default_shard(section: &mut Section<'_>, declared: &Declared) -> Option<Option<String>> {
    match section.take("default") {
        Some(entry) => declared.shard(entry).map(Some),
        None => Some(None),
    }
}

fn list(section: &mut Section<'_>, declared: &Declared) -> Option<Strategy> {
    let values = parts(
        section,
        "values",
        "values like [{ values = [\"acme\"], shard = \"s1\" }]",
    );
    let default = default_shard(section, declared);
    let values = all(values?.into_iter().map(|mut part| {
        let values = part.required("values", "an array of keys", |entry| key_values(&entry));
        let shard = part.required("shard", "the name of a shard", |entry| {
            declared.shard(entry)
        });
        let line = part.line;
        part.done();
        Some(ListEntry {
            line,
            values: values?,
            shard: shard?,
        })
    }));
    Some(Strategy::List {
        values: values?,
        default: default?,
    })
}

fn geo(section: &mut Section<'_>, declared: &Declared) -> Option<Strategy> {
    let what = "regions like [{ name = \"eu\", values = [\"DE\", \"FR\"], shards = [\"eu1\"] }]";
    let regions = parts(section, "regions", what);
    let default = match section.take("default") {
        Some(entry) => entry.name().map(Some),
        None => Some(None),
    };
    let mut seen = Names::default();
    let regions = all(regions?.into_iter().map(|mut part| {
        let name = seen.read(&mut part, "the name of the region");
        // The default region may do without: it has what no other one names.
        let values = match part.take("values") {
            Some(entry) => key_values(&entry),
            None => Some(vec![]),
        };
        let shards = part.required("shards", "the shards of the region", |entry| {
            shard_names(&entry, declared)
        });
        let line = part.line;
        part.done();
        Some(Region {
            line,
            name: name?,
            values: values?,
            shards: shards?,
        })
    }))?;
    let default = default?;
    if let Some(default) = &default
        && !regions.iter().any(|region| region.name == *default)
    {
        let names: Vec<_> = regions.iter().map(|region| region.name.as_str()).collect();
        section.note_key(
            "default",
            format!(
                "{default:?} is not the name of a region; there are {}",
                value::listed(&names)
            ),
        );
        return None;
    }
    Some(Strategy::Geo { regions, default })
}

fn key_values(entry: &Entry<'_>) -> Option<Vec<String>> {
    let items = entry.items("an array of keys")?;
    if items.is_empty() {
        entry.note("is empty; give at least one key");
        return None;
    }
    all(items.iter().map(Entry::key_value))
}

fn pin(mut section: Section<'_>, declared: &Declared, columns: Option<usize>) -> Option<Pin> {
    let key = section.required("key", "a key, like 42 or [\"DE\", 7]", |entry| {
        let values = all(entry.one_or_more().iter().map(Entry::key_value))?;
        match columns {
            Some(columns) if values.len() != columns => {
                entry.note(format!(
                    "has {}; give {columns}, one for each column of the key",
                    count(values.len(), "value")
                ));
                None
            }
            Some(_) | None => Some(values),
        }
    });
    let shard = section.required("shard", "the name of a shard", |entry| {
        declared.shard(entry)
    });
    let line = section.line;
    section.done();
    Some(Pin {
        line,
        key: key?,
        shard: shard?,
    })
}

pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
