//! What the records of plans mean for the maps that this proxy serves by. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::records::{Databases, Known};
use crate::catalog::placed::Places;
use crate::catalog::{Distribution, DistributionId, Foreign, KeyCondition};
use crate::resharding::condition::condition;
use crate::resharding::difference::difference;
use crate::resharding::job::{Job, MapEpoch, Phase, Term};
use crate::resharding::record::{StoredError, StoredMap};
use crate::sharding::ShardId;

/// Of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    pub epoch: MapEpoch,
    /// Tables that were given a place, and the version of them all.
    pub places: Places,
    pub places_epoch: u64,
    /// Instead of the configuration's.
    maps: BTreeMap<Box<str>, StoredMap>,
    /// Of plans that move keys: by distribution, the map that is not in force.
    turning: BTreeMap<Box<str>, StoredMap>,
    /// The numbers of these plans.
    pub plans: BTreeSet<u64>,
    /// Gates that are closed, by plan.
    pub closed: BTreeMap<Box<str>, Closed>,
}

/// A gate that is to be kept closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub number: u64,
    pub term: Term,
}

/// By the database's name.
pub type Overlays = BTreeMap<Box<str>, Overlay>;

pub fn overlays(databases: &Databases) -> Overlays {
    let each = databases.iter();
    each.map(|(name, known)| (name.clone(), Overlay::of(known)))
        .collect()
}

impl Overlay {
    fn of(known: &Known) -> Overlay {
        let mut overlay = Overlay {
            epoch: MapEpoch(known.map.epoch),
            maps: known.map.distributions.clone(),
            places: known.places.places(),
            places_epoch: known.places.epoch,
            ..Overlay::default()
        };
        for job in known.plans.values().filter(|job| moves_keys(job)) {
            overlay.plans.insert(job.plan.number);
            for change in &job.plan.maps {
                let in_force = overlay.maps.get(&change.distribution);
                let other = match in_force {
                    Some(map) if *map == change.after => &change.before,
                    _ => &change.after,
                };
                let other = other.clone();
                overlay.turning.insert(change.distribution.clone(), other);
            }
        }
        for (name, gate) in &known.gates {
            // With an older map than it was opened with, it is still closed.
            if gate.closed || gate.epoch > overlay.epoch {
                let closed = Closed {
                    number: gate.number,
                    term: gate.term,
                };
                overlay.closed.insert(name.clone(), closed);
            }
        }
        overlay
    }

    /// Whether another one leads to other maps.
    pub fn has_other_maps(&self, other: &Overlay) -> bool {
        self.maps != other.maps || self.turning != other.turning || self.plans != other.plans
    }

    /// The distributions that are served, made of the configured ones. `shards`: names by number.
    pub fn distributions(
        &self,
        configured: &[Distribution],
        shards: &[Box<str>],
    ) -> Result<Arc<[Distribution]>, StoredError> {
        let served = configured.iter().map(|one| {
            let map = match self.maps.get(&one.name) {
                Some(stored) => stored.map(shards)?,
                None => one.map.clone(),
            };
            let turning = self.turning.get(&one.name);
            let turning = turning.map(|stored| stored.map(shards)).transpose()?;
            Ok(Distribution {
                name: one.name.clone(),
                map,
                turning: turning.map(Arc::new),
            })
        });
        served.collect()
    }

    /// The keys whose rows are on a shard though another one owns them.
    pub fn foreign(served: &[Distribution]) -> Result<Foreign, StoredError> {
        let mut foreign = HashMap::new();
        for (place, distribution) in (0..).zip(served) {
            let Some(other) = &distribution.turning else {
                continue;
            };
            let moved = difference(other, &distribution.map).map_err(StoredError::Unmovable)?;
            let types = distribution.map.key_types();
            let columns = KeyCondition::columns(types.len());
            let mut of_shards: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
            for one in &moved.moves {
                let said = format!("({})", condition(&one.keys, types, &columns));
                of_shards.entry(one.from).or_default().push(said);
            }
            let of_shards = of_shards.into_iter();
            let keys =
                of_shards.map(|(shard, said)| (shard, KeyCondition::read(&said.join(" OR "))));
            foreign.insert(DistributionId(place), keys.collect());
        }
        Ok(Arc::new(foreign))
    }

    /// Distributions whose map in the configuration is not the one in force.
    pub fn away_from(&self, configured: &[Distribution], shards: &[Box<str>]) -> Vec<Box<str>> {
        let other = |one: &&Distribution| {
            let stored = self.maps.get(&one.name);
            stored.is_some_and(|stored| *stored != StoredMap::of(&one.map, shards))
        };
        let away = configured.iter().filter(other);
        away.map(|one| one.name.clone()).collect()
    }
}

/// From its start to its end: as long as rows are removed, a shard has some that another one owns.
fn moves_keys(job: &Job) -> bool {
    match job.phase {
        Phase::Copying
        | Phase::Following
        | Phase::Verified
        | Phase::Turning(_)
        | Phase::CutOver
        | Phase::RolledBack
        | Phase::Ending(_) => true,
        Phase::Planned | Phase::Checked | Phase::Finished | Phase::Cancelled => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resharding::job::{End, Plan};
    use crate::resharding::record::Change;
    use crate::sharding::range::{Range, Ranges};
    use crate::sharding::{KeyType, KeyValue, ShardMap, Strategy};

    const SHARDS: [&str; 2] = ["s1", "s2"];

    /// Keys below 500 are on the first shard.
    fn map(others: u16) -> ShardMap {
        let range = |from: Option<i64>, to: Option<i64>, shard| Range {
            from: from.map(KeyValue::Int),
            to: to.map(KeyValue::Int),
            shard: ShardId(shard),
        };
        let ranges = vec![range(None, Some(500), 0), range(Some(500), None, others)];
        let ranges = Ranges::new(ranges).expect("sound ranges");
        ShardMap::new(vec![KeyType::BigInt], Strategy::Range(ranges), Vec::new())
            .expect("a sound map")
    }

    /// On which shards rows are that another one owns.
    fn foreign(phase: Phase, in_force: &ShardMap) -> Vec<(ShardId, String)> {
        let shards: Vec<Box<str>> = SHARDS.iter().map(|name| Box::from(*name)).collect();
        let stored = |map: &ShardMap| StoredMap::of(map, &shards);
        let change = Change {
            distribution: "items".into(),
            before: stored(&map(0)),
            after: stored(&map(1)),
        };
        let plan = Plan {
            name: "p".into(),
            number: 1,
            database: "app".into(),
            maps: vec![change],
            tables: Vec::new(),
            routes: BTreeSet::new(),
        };
        let mut known = Known::default();
        known
            .map
            .distributions
            .insert("items".into(), stored(in_force));
        let job = Job {
            phase,
            ..Job::new(plan, MapEpoch(1))
        };
        known.plans.insert("p".into(), job);
        let configured = [Distribution {
            name: "items".into(),
            map: map(0),
            turning: None,
        }];
        let served = Overlay::of(&known)
            .distributions(&configured, &shards)
            .expect("maps that are stored are read");
        let foreign = Overlay::foreign(&served).expect("maps that differ in what moves");
        let keys = foreign.values().flatten();
        keys.map(|(shard, keys)| (*shard, keys.on(&["id".into()])))
            .collect()
    }

    #[test]
    fn rows_of_others_are_known_until_they_are_removed() {
        let on = |shard: u16| vec![(ShardId(shard), "((id >= '500'::int8))".to_owned())];
        let (before, after) = (map(0), map(1));
        assert_eq!(foreign(Phase::Checked, &before), []);
        assert_eq!(foreign(Phase::Copying, &before), on(1));
        assert_eq!(foreign(Phase::CutOver, &after), on(0));
        assert_eq!(foreign(Phase::RolledBack, &before), on(1));
        assert_eq!(foreign(Phase::Ending(End::Finish), &after), on(0));
        assert_eq!(foreign(Phase::Ending(End::Cancel), &before), on(1));
        assert_eq!(foreign(Phase::Finished, &after), []);
    }
}
