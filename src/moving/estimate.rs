//! How much a plan moves, as far as statistics tell, before anything is copied.
//!
//! Of buckets and remainders the share of a shard's keys is known, and rows are taken to be spread alike. Of other pieces the server's planner
//! is asked for the rows that it expects. So the numbers are as good as the last ANALYZE, and nothing is decided by them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::scope::{MovedTable, Scope};
use super::shards::{ShardError, Shards};
use crate::resharding::condition::{condition, quoted_name};
use crate::resharding::difference::Move;
use crate::resharding::job::{Route, ShardName};
use crate::resharding::keys::{KeySet, Keys, Values};
use crate::sharding::geo::REGION_BUCKETS;
use crate::sharding::{KeyValue, ShardId, ShardMap, Strategy};

/// The rows of one table that go one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// `schema.name`, quoted as in SQL.
    pub table: Box<str>,
    pub route: Route,
    pub rows: u64,
    /// Of the rows themselves, as they are stored now.
    pub bytes: u64,
    /// With indexes: what the receiving shard needs.
    pub bytes_with_indexes: u64,
}

/// Asks every shard that rows come from.
pub async fn estimate(shards: &Shards, scope: &Scope) -> Result<Vec<Estimate>, ShardError> {
    let mut by_source: BTreeMap<ShardName, Vec<Route>> = BTreeMap::new();
    for route in scope.routes() {
        by_source.entry(route.from.clone()).or_default().push(route);
    }
    let asking = by_source
        .iter()
        .map(|(source, routes)| of_source(shards, scope, source, routes));
    let answers = futures_util::future::try_join_all(asking).await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn of_source(
    shards: &Shards,
    scope: &Scope,
    source: &ShardName,
    routes: &[Route],
) -> Result<Vec<Estimate>, ShardError> {
    let client = shards.open(source).await?;
    let mut estimates = Vec::new();
    for table in &scope.tables {
        let Some(whole) = Whole::read(&client, table).await? else {
            continue;
        };
        for route in routes {
            if !scope.moves_by(table, route) {
                continue;
            }
            let share = share(&client, scope, table, route, &whole).await?;
            estimates.push(Estimate {
                table: table.quoted().into(),
                route: route.clone(),
                rows: part(whole.rows, share),
                bytes: part(whole.bytes, share),
                bytes_with_indexes: part(whole.bytes_with_indexes, share),
            });
        }
    }
    Ok(estimates)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an estimate, of numbers that are not negative"
)]
fn part(whole: u64, share: f64) -> u64 {
    (whole as f64 * share).round() as u64
}

/// A table as it is on a shard.
struct Whole {
    rows: u64,
    bytes: u64,
    bytes_with_indexes: u64,
}

/// Of a table with all its partitions.
const SIZES: &str = "WITH RECURSIVE tree AS (
      SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')
      UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT sum(pg_table_size(oid))::int8, sum(pg_total_relation_size(oid))::int8 FROM tree HAVING count(*) > 0";

impl Whole {
    async fn read(client: &Client, table: &MovedTable) -> Result<Option<Whole>, ShardError> {
        let names = [&*table.schema, &*table.name];
        let Some(row) = client.query_opt(SIZES, &[&names[0], &names[1]]).await? else {
            return Ok(None);
        };
        let bytes = |place: usize| u64::try_from(row.get::<_, i64>(place)).unwrap_or(0);
        Ok(Some(Whole {
            rows: expected_rows(client, table, "true").await?,
            bytes: bytes(0),
            bytes_with_indexes: bytes(1),
        }))
    }
}

/// What the planner expects.
async fn expected_rows(
    client: &Client,
    table: &MovedTable,
    condition: &str,
) -> Result<u64, ShardError> {
    let query = format!(
        "EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE {condition}",
        table.quoted()
    );
    let answer = client.simple_query(&query).await?;
    let text = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(text).ok());
    plan.as_ref()
        .and_then(|plan| plan.pointer("/0/Plan/Plan Rows")?.as_u64())
        .ok_or(ShardError::Strange("EXPLAIN does not say a number of rows"))
}

/// The part of the table's rows that go by the route, from 0 to 1.
async fn share(
    client: &Client,
    scope: &Scope,
    table: &MovedTable,
    route: &Route,
    whole: &Whole,
) -> Result<f64, ShardError> {
    let planned = &scope.distributions[table.distribution];
    let name = |shard: ShardId| &*scope.shards[shard.index()];
    let moves = planned.difference.moves.iter();
    let mut share = 0.0;
    for one in moves.filter(|one| *name(one.from) == *route.from.0 && *name(one.to) == *route.to.0)
    {
        share += match known_share(&planned.before, one) {
            Share::Exactly(share) => share,
            Share::OfRowsWith(keys, of_these) => {
                let columns: Vec<String> = table.key.iter().map(|one| quoted_name(one)).collect();
                let types = planned.before.key_types();
                let text = condition(&keys, types, &columns);
                of_these * ratio(expected_rows(client, table, &text).await?, whole.rows)
            }
        };
    }
    Ok(share.min(1.0))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

/// What is known of a move without the server.
#[derive(Debug, PartialEq)]
enum Share {
    /// Of the rows of the shard that they leave.
    Exactly(f64),
    /// Of its rows with these keys, whose number is to be asked for.
    OfRowsWith(Keys, f64),
}

fn known_share(before: &ShardMap, one: &Move) -> Share {
    let of_shard = |shards: &[ShardId]| {
        let own = shards.iter().filter(|shard| **shard == one.from).count();
        ratio(own as u64, shards.len() as u64)
    };
    let part = |moved: usize, all: u32, own: f64| match own > 0.0 {
        true => Share::Exactly(ratio(moved as u64, u64::from(all)) / own),
        false => Share::Exactly(0.0),
    };
    match (&one.keys.set, before.strategy()) {
        (KeySet::Buckets { of, runs, .. }, Strategy::Hash(hash)) => {
            part(runs.count(), *of, of_shard(hash.buckets().shards()))
        }
        (
            KeySet::Remainders {
                divisor,
                remainders,
            },
            Strategy::Modulo(modulo),
        ) => part(remainders.len(), *divisor, of_shard(modulo.shards())),
        (
            KeySet::Values {
                values,
                buckets: Some(runs),
            },
            Strategy::Geo(geo),
        ) => {
            let Values::Only(listed) = values else {
                return Share::OfRowsWith(one.keys.clone(), 1.0);
            };
            // A region's rows are spread over its shards.
            let region = geo.regions().iter().find(|region| match listed.first() {
                Some(KeyValue::Text(first)) => region.values.iter().any(|one| **one == **first),
                _ => false,
            });
            let shards = region.map_or(1, |region| region.shards.len().max(1)) as u64;
            let share = ratio(runs.count() as u64 * shards, u64::from(REGION_BUCKETS));
            let set = KeySet::Values {
                values: values.clone(),
                buckets: None,
            };
            let except = one.keys.except.clone();
            Share::OfRowsWith(Keys { set, except }, share.min(1.0))
        }
        _ => Share::OfRowsWith(one.keys.clone(), 1.0),
    }
}

/// The part of a plan's page that says how much is moved, what size the receiving shards need, and how long the copy takes at this rate (bytes in
/// a second, from each source).
pub fn page(estimates: &[Estimate], rate: u64) -> String {
    let lines: Vec<[String; 5]> = estimates.iter().map(line).collect();
    let head = ["table", "way", "rows", "size", "with indexes"].map(str::to_owned);
    let every = || std::iter::once(&head).chain(&lines);
    let width = |place: usize| {
        let widths = every().map(|line| line[place].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths = [0, 1, 2, 3, 4].map(width);
    let mut page = String::from("estimated by the servers' statistics:\n");
    for [table, way, rows, size, all] in every() {
        let _ = writeln!(
            page,
            "  {table:0$}  {way:1$}  {rows:>2$}  {size:>3$}  {all:>4$}",
            widths[0], widths[1], widths[2], widths[3], widths[4]
        );
    }
    let mut arriving: BTreeMap<&ShardName, u64> = BTreeMap::new();
    let mut leaving: BTreeMap<&ShardName, u64> = BTreeMap::new();
    for one in estimates {
        *arriving.entry(&one.route.to).or_default() += one.bytes_with_indexes;
        *leaving.entry(&one.route.from).or_default() += one.bytes;
    }
    for (shard, bytes) in arriving {
        let _ = writeln!(page, "  {shard} needs about {} on its disk", size(bytes));
    }
    if let Some(most) = leaving.values().max()
        && rate > 0
    {
        let _ = writeln!(
            page,
            "  copying takes about {} at {} in a second from each shard",
            duration(most.div_ceil(rate)),
            size(rate)
        );
    }
    page
}

fn line(one: &Estimate) -> [String; 5] {
    [
        one.table.to_string(),
        format!("{} -> {}", one.route.from, one.route.to),
        one.rows.to_string(),
        size(one.bytes),
        size(one.bytes_with_indexes),
    ]
}

/// With three digits at most before the unit.
fn size(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths = tenths.div_ceil(1000);
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, units[unit]),
        rest => format!("{}.{rest} {}", tenths / 10, units[unit]),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resharding::difference::difference;
    use crate::sharding::KeyType;
    use crate::sharding::buckets::Buckets;
    use crate::sharding::geo::{Geo, Region};
    use crate::sharding::hash::{Function, Hash};
    use crate::sharding::modulo::Modulo;

    fn shares(types: &[KeyType], before: Strategy, after: Strategy) -> Vec<Share> {
        let map = |strategy| ShardMap::new(types.to_vec(), strategy, vec![]).unwrap();
        let (before, after) = (map(before), map(after));
        let moves = difference(&before, &after).unwrap().moves;
        moves.iter().map(|one| known_share(&before, one)).collect()
    }

    fn ids(shards: &[u16]) -> Vec<ShardId> {
        shards.iter().map(|one| ShardId(*one)).collect()
    }

    #[test]
    fn shares_are_of_the_shard_that_rows_leave() {
        let hash = |shards: &[u16]| {
            let buckets = Buckets::even(16, &ids(shards)).unwrap();
            Strategy::Hash(Hash::new(Function::Postgres, buckets))
        };
        let halves = vec![Share::Exactly(0.5), Share::Exactly(0.5)];
        let bigint = [KeyType::BigInt];
        // Each shard gives up half of what it has, a quarter of all.
        assert_eq!(shares(&bigint, hash(&[0, 1]), hash(&[0, 2, 1, 3])), halves);
        let modulo = |shards: &[u16]| Strategy::Modulo(Modulo::new(&ids(shards)).unwrap());
        let found = shares(&bigint, modulo(&[0, 1]), modulo(&[0, 1, 2, 3]));
        assert_eq!(found, halves);
        let geo = |shards: &[u16]| {
            let region = Region {
                name: "eu".into(),
                values: vec!["DE".into()],
                shards: ids(shards),
            };
            Strategy::Geo(Geo::new(vec![region], None).unwrap())
        };
        let types = [KeyType::Text, KeyType::BigInt];
        let found = shares(&types, geo(&[0, 1]), geo(&[0, 2]));
        assert_eq!(found.len(), 1);
        assert!(
            matches!(&found[0], Share::OfRowsWith(keys, share) if *share == 1.0
                && matches!(&keys.set, KeySet::Values { buckets: None, .. })),
            "{found:?}"
        );
    }

    #[test]
    fn what_people_read() {
        let one = |table: &str, to: &str, rows, bytes| Estimate {
            table: table.into(),
            route: Route {
                from: ShardName("a".into()),
                to: ShardName(to.into()),
            },
            rows,
            bytes,
            bytes_with_indexes: bytes * 2,
        };
        let estimates = [
            one("\"public\".\"users\"", "b", 1_200_000, 3_400_000_000),
            one("\"public\".\"o\"", "b", 12, 999),
            one("\"public\".\"o\"", "long", 0, 0),
        ];
        let expected = "estimated by the servers' statistics:
  table             way           rows       size  with indexes
  \"public\".\"users\"  a -> b     1200000     3.4 GB        6.8 GB
  \"public\".\"o\"      a -> b          12  999 bytes          2 kB
  \"public\".\"o\"      a -> long        0    0 bytes       0 bytes
  b needs about 6.9 GB on its disk
  long needs about 0 bytes on its disk
  copying takes about 3 min at 20 MB in a second from each shard
";
        assert_eq!(page(&estimates, 20_000_000), expected);
        assert_eq!(duration(119), "119 s");
        assert_eq!(duration(7_200), "2 h 0 min");
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(1_000), "1 kB");
        assert_eq!(size(1_001), "1.1 kB");
    }
}
