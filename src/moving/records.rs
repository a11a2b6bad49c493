//! What the control store holds of plans, as JSON.
//!
//! | key | what |
//! | --- | --- |
//! | `reshard/DATABASE/map` | [`MapRecord`]: the commit record, the maps in force |
//! | `reshard/DATABASE/tables` | [`PlacesRecord`]: tables that were given a place while proxies ran |
//! | `reshard/DATABASE/plans/PLAN` | the plan's job (`resharding/job/record.rs`) |
//! | `reshard/DATABASE/gates/PLAN` | [`GateRecord`] |
//! | `reshard/DATABASE/proxies/PROXY` | [`ProxyRecord`]: what a proxy says of gates; it counts while the proxy has its lease |
//! | `resharded/DATABASE/PLAN/progress`, `.../events` | for people, and nobody waits for them |
//!
//! Leases: `resharding/DATABASE/PLAN` is the driver's, `moving/PROXY` says that a proxy is alive.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::catalog::QualifiedName;
use crate::catalog::placed::{Places, Recorded};
use crate::resharding::job::{GateState, Job, MapEpoch, Side, Term, from_json};
use crate::resharding::record::StoredMap;
use crate::store::{Listing, Version};

/// Below it is what every proxy watches.
pub const PREFIX: &str = "reshard/";

/// The maps in force, of the distributions that a plan was ever started for; of any other it is the configuration's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRecord {
    pub epoch: u64,
    pub distributions: BTreeMap<Box<str>, StoredMap>,
}

/// Where tables belong that no configuration has to name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacesRecord {
    /// Greater with each change.
    pub epoch: u64,
    pub tables: Vec<PlacedTable>,
}

/// A table that was given a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedTable {
    pub schema: Box<str>,
    pub name: Box<str>,
    #[serde(flatten)]
    pub recorded: Recorded,
}

impl PlacesRecord {
    pub fn places(&self) -> Places {
        let each = self.tables.iter();
        each.map(|table| (table.of(), table.recorded.clone()))
            .collect()
    }

    pub fn find(&self, name: &QualifiedName) -> Option<&Recorded> {
        let mut each = self.tables.iter();
        let found = each.find(|table| table.schema == name.0 && table.name == name.1);
        found.map(|table| &table.recorded)
    }

    /// The next version, with another place of a table, or (`None`) with none.
    pub fn with(&self, name: &QualifiedName, recorded: Option<Recorded>) -> PlacesRecord {
        let others = self.tables.iter().filter(|table| table.of() != *name);
        let own = recorded.map(|recorded| PlacedTable {
            schema: name.0.clone(),
            name: name.1.clone(),
            recorded,
        });
        PlacesRecord {
            epoch: self.epoch + 1,
            tables: others.cloned().chain(own).collect(),
        }
    }
}

impl PlacedTable {
    fn of(&self) -> QualifiedName {
        (self.schema.clone(), self.name.clone())
    }
}

/// What stands before a plan's moving keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Of the plan.
    pub number: u64,
    /// The greatest term that was obeyed.
    pub term: Term,
    pub closed: bool,
    /// Nobody is let through with a map older than this.
    pub epoch: MapEpoch,
}

impl GateRecord {
    pub fn state(&self) -> GateState {
        match self.closed {
            true => GateState::Closed,
            false => GateState::Open,
        }
    }
}

/// What one proxy says of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// Of the maps that it has in force.
    pub epoch: u64,
    /// Of the places of tables that it has in force.
    #[serde(default)]
    pub places: u64,
    /// The gates that it keeps closed, by plan.
    pub gates: BTreeMap<Box<str>, Kept>,
}

/// A gate that a proxy keeps closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub number: u64,
    pub term: Term,
    /// Nobody is at work behind it.
    pub drained: bool,
}

/// All that is known of one database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub map: MapRecord,
    pub map_version: Option<Version>,
    pub places: PlacesRecord,
    pub places_version: Option<Version>,
    pub plans: BTreeMap<Box<str>, Job>,
    pub versions: BTreeMap<Box<str>, Version>,
    pub gates: BTreeMap<Box<str>, GateRecord>,
    pub gate_versions: BTreeMap<Box<str>, Version>,
    pub proxies: BTreeMap<Box<str>, ProxyRecord>,
    /// Plans that cannot be read, and why: a newer program may have written them.
    pub unreadable: BTreeMap<Box<str>, String>,
}

/// By the database's name.
pub type Databases = BTreeMap<Box<str>, Known>;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the record {key} in the control store cannot be read: {error}")]
pub struct Unreadable {
    pub key: String,
    #[source]
    pub error: serde_json::Error,
}

/// What is below [`PREFIX`]. A map or gate that cannot be read is an error: to go on without it could be to serve by a wrong map.
pub fn read(listing: &Listing) -> Result<Databases, Unreadable> {
    let mut databases = Databases::new();
    for (key, record) in listing {
        let mut parts = key.strip_prefix(PREFIX).unwrap_or(key).split('/');
        let (Some(database), Some(kind)) = (parts.next(), parts.next()) else {
            continue;
        };
        let name: Box<str> = unescaped(parts.next().unwrap_or_default()).into();
        let known = databases.entry(unescaped(database).into()).or_default();
        match kind {
            "map" => {
                known.map = decode(key, &record.value)?;
                known.map_version = Some(record.version);
            }
            "tables" => {
                known.places = decode(key, &record.value)?;
                known.places_version = Some(record.version);
            }
            "gates" => {
                let gate = decode(key, &record.value)?;
                known.gate_versions.insert(name.clone(), record.version);
                known.gates.insert(name, gate);
            }
            "proxies" => drop(known.proxies.insert(name, decode(key, &record.value)?)),
            "plans" => match from_json(&String::from_utf8_lossy(&record.value)) {
                Ok(job) => {
                    known.versions.insert(name.clone(), record.version);
                    known.plans.insert(name, job);
                }
                Err(error) => drop(known.unreadable.insert(name, error.to_string())),
            },
            _ => {}
        }
    }
    Ok(databases)
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|error| Unreadable {
        key: key.to_owned(),
        error,
    })
}

pub fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plain data with text keys is always JSON")
}

impl Known {
    /// Which of a plan's maps are in force; `None`: neither. The configuration's maps are those that the plan began with, while there is no record.
    pub fn side(&self, job: &Job) -> Option<Side> {
        let mut sides = job.plan.maps.iter().map(|change| {
            match self.map.distributions.get(&change.distribution) {
                Some(map) if *map == change.after => Some(Side::New),
                Some(map) if *map == change.before => Some(Side::Old),
                None => Some(Side::Old),
                Some(_) => None,
            }
        });
        let first = sides.next()??;
        sides.all(|side| side == Some(first)).then_some(first)
    }
}

/// Since 1970, as records have times.
pub fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

pub fn map_key(database: &str) -> String {
    format!("{PREFIX}{}/map", escaped(database))
}

pub fn places_key(database: &str) -> String {
    format!("{PREFIX}{}/tables", escaped(database))
}

pub fn plan_key(database: &str, plan: &str) -> String {
    format!("{PREFIX}{}/plans/{}", escaped(database), escaped(plan))
}

pub fn gate_key(database: &str, plan: &str) -> String {
    format!("{PREFIX}{}/gates/{}", escaped(database), escaped(plan))
}

pub fn proxy_key(database: &str, proxy: &str) -> String {
    format!("{PREFIX}{}/proxies/{}", escaped(database), escaped(proxy))
}

pub fn progress_key(database: &str, plan: &str) -> String {
    format!("resharded/{}/{}/progress", escaped(database), escaped(plan))
}

pub fn events_key(database: &str, plan: &str) -> String {
    format!("resharded/{}/{}/events", escaped(database), escaped(plan))
}

/// The lease of whoever drives a plan.
pub fn driver_lease(database: &str, plan: &str) -> String {
    format!("resharding/{}/{}", escaped(database), escaped(plan))
}

/// The lease of a proxy that is alive.
pub fn proxy_lease(proxy: &str) -> String {
    format!("moving/{}", escaped(proxy))
}

/// A name as a part of a key.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for one in name.chars() {
        match one {
            '%' => text.push_str("%25"),
            '/' => text.push_str("%2f"),
            one if one.is_control() => text.push_str(&format!("%{:02x}", u32::from(one))),
            one => text.push(one),
        }
    }
    text
}

fn unescaped(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut name = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                name.push(char::from(code));
                name.push_str(&piece[2..]);
            }
            None => {
                name.push('%');
                name.push_str(piece);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_were_written() {
        use crate::catalog::placed::{Place, Settled};
        let name = |name: &str| (Box::from("public"), Box::from(name));
        let recorded = |place, settled| Some(Recorded { place, settled });
        let sharded = Place::Sharded {
            distribution: "d".into(),
            key: vec!["Ä".into(), "id".into()],
        };
        let record = PlacesRecord::default()
            .with(&name("a"), recorded(Place::Reference, Settled::No))
            .with(&name("b"), recorded(sharded.clone(), Settled::No))
            .with(&name("b"), recorded(sharded, Settled::Yes));
        let read: PlacesRecord = decode("k", &encode(&record)).expect("our own");
        assert_eq!(read, record);
        assert_eq!((read.epoch, read.places().len()), (3, 2));
        assert_eq!(read.find(&name("a")).expect("there").settled, Settled::No);
        let left = read.with(&name("b"), None);
        assert_eq!((left.find(&name("b")), left.tables.len()), (None, 1));
    }

    #[test]
    fn names_in_keys() {
        for name in ["app", "a/b", "50%", "%2f", "\u{e4}\n/", ""] {
            let part = escaped(name);
            assert!(!part.contains('/') && !part.contains('\n'), "{part}");
            assert_eq!(unescaped(&part), name);
        }
    }
}
