//! A plan as people read it before anything happens: what each shard has before and after, and the moves.

use std::fmt::Write as _;

use crate::sharding::hash::Function;
use crate::sharding::{ShardId, ShardMap, Strategy};

use super::keys::{KeySet, Keys, shown};
use super::wanted::Planned;

/// One paragraph for each distribution. `shards`: names by number.
pub fn show(planned: &[Planned], shards: &[Box<str>]) -> String {
    let pages: Vec<_> = planned.iter().map(|one| page(one, shards)).collect();
    pages.join("\n")
}

fn page(planned: &Planned, shards: &[Box<str>]) -> String {
    let name = |shard: ShardId| &*shards[shard.index()];
    let mut page = format!(
        "distribution {}: {}\n",
        planned.distribution,
        strategy(&planned.before)
    );
    let width = shards
        .iter()
        .map(|one| one.chars().count())
        .max()
        .unwrap_or(0);
    for line in holdings(planned, &name, width) {
        let _ = writeln!(page, "  {line}");
    }
    for one in &planned.difference.moves {
        let share = share(&one.keys).map_or(String::new(), |share| format!(" ({share})"));
        let (from, to, keys) = (name(one.from), name(one.to), &one.keys);
        let _ = writeln!(page, "  move {from} -> {to}: {keys}{share}");
    }
    for one in &planned.difference.additions {
        let (to, keys) = (name(one.to), &one.keys);
        let _ = writeln!(page, "  new on {to}, nothing to move: {keys}");
    }
    page
}

fn strategy(map: &ShardMap) -> String {
    match map.strategy() {
        Strategy::Hash(hash) => {
            let function = match hash.function() {
                Function::Postgres => "postgres",
                Function::Xxh3 => "xxh3",
            };
            format!("hash ({function}), {} buckets", hash.buckets().count())
        }
        Strategy::Modulo(modulo) => format!("modulo {}", modulo.shards().len()),
        Strategy::Range(_) => "range".to_owned(),
        Strategy::List(_) => "list".to_owned(),
        Strategy::Geo(_) => "geo".to_owned(),
    }
}

/// Buckets counted, other pieces listed when they are not on both sides.
fn holdings<'a>(
    planned: &Planned,
    name: &impl Fn(ShardId) -> &'a str,
    width: usize,
) -> Vec<String> {
    let (before, after) = (&planned.before, &planned.after);
    let mut lines = match before.strategy() {
        Strategy::Hash(_) => {
            let of = |map: &ShardMap, shard: ShardId| {
                let counts = map.buckets_per_shard();
                let found = counts.iter().find(|(one, _)| *one == shard);
                found.map_or(0, |(_, count)| *count)
            };
            let mut shards = before.shards();
            shards.extend(after.shards());
            shards.sort_unstable();
            shards.dedup();
            shards
                .into_iter()
                .map(|shard| (shard, of(before, shard), of(after, shard)))
                .filter(|(_, had, has)| had != has)
                .map(|(shard, had, has)| {
                    format!("{:width$}  {had:5} buckets -> {has:5}", name(shard))
                })
                .collect()
        }
        _ => pieces(before, after, name, width),
    };
    let pins = |map: &ShardMap, other: &ShardMap, sign: char| -> Vec<String> {
        map.pins()
            .iter()
            .filter(|pin| !other.pins().contains(pin))
            .map(|pin| format!("{sign} {:width$}  key {}", name(pin.shard), shown(&pin.key)))
            .collect()
    };
    lines.extend(pins(before, after, '-'));
    lines.extend(pins(after, before, '+'));
    lines
}

fn pieces<'a>(
    before: &ShardMap,
    after: &ShardMap,
    name: &impl Fn(ShardId) -> &'a str,
    width: usize,
) -> Vec<String> {
    let (had, has) = (before.pieces(), after.pieces());
    let line = |sign: char, piece: &crate::sharding::Piece| {
        format!("{sign} {:width$}  {}", name(piece.shard), piece.what)
    };
    let gone = had.iter().filter(|piece| !has.contains(piece));
    let new = has.iter().filter(|piece| !had.contains(piece));
    gone.map(|piece| line('-', piece))
        .chain(new.map(|piece| line('+', piece)))
        .collect()
}

/// The part of all keys, where it is known without counting.
fn share(keys: &Keys) -> Option<String> {
    let (part, whole) = match &keys.set {
        KeySet::Buckets { of, runs, .. } => (runs.count(), *of as usize),
        KeySet::Remainders {
            divisor,
            remainders,
        } => (remainders.len(), *divisor as usize),
        KeySet::Ranges(_) | KeySet::Values { .. } | KeySet::Pinned(_) => return None,
    };
    let tenths = (part * 1000 + whole / 2) / whole;
    if tenths == 0 {
        return Some("less than 0.1% of the keys".to_owned());
    }
    Some(format!("{}.{}% of the keys", tenths / 10, tenths % 10))
}
