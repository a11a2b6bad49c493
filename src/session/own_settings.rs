//! Trunkline's own settings of a session: which shard its statements go to, and what its queries over several shards see.

use super::respond::Fault;
use crate::catalog::{Catalog, Epoch};
use crate::plan::hint::{Setting, from_setting};
use crate::plan::refusal::{Reason, Refusal};
use crate::sharding::ShardId;
use crate::sql::class::Scope;

/// What the session has set of Trunkline's own settings.
#[derive(Clone, Default)]
pub struct OwnSettings {
    history: History,
    /// `SET trunkline.shard` and `SET trunkline.key`: the shard for all statements that follow.
    chosen: Scoped<Option<Chosen>>,
    reads: Scoped<ReadConsistency>,
}

/// Most sessions never set any, and need not look at the end of each transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum History {
    #[default]
    NeverSet,
    Set,
}

/// A setting's value, and those that it goes back to.
#[derive(Clone, Default)]
struct Scoped<T> {
    current: T,
    /// As of the last commit.
    settled: T,
    /// SET LOCAL: to the end of the transaction.
    local: Option<T>,
}

impl<T: Clone> Scoped<T> {
    fn set(&mut self, scope: Scope, value: T) {
        match scope {
            Scope::Session => (self.current, self.local) = (value, None),
            Scope::Local => self.local = Some(value),
        }
    }

    fn value(&self) -> &T {
        self.local.as_ref().unwrap_or(&self.current)
    }

    fn transaction_ended(&mut self, kept: bool) {
        self.local = None;
        if kept {
            self.settled = self.current.clone();
        } else {
            self.current = self.settled.clone();
        }
    }
}

/// What a query over several shards sees of commits of several shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadConsistency {
    /// Perhaps one shard's part and not yet another's.
    #[default]
    Off,
    /// Each commit on all shards or on none.
    Atomic,
}

impl ReadConsistency {
    fn as_str(self) -> &'static str {
        match self {
            ReadConsistency::Off => "off",
            ReadConsistency::Atomic => "atomic",
        }
    }
}

/// A shard that the application chose.
#[derive(Clone)]
pub struct Chosen {
    pub name: ChosenBy,
    pub values: Vec<Box<str>>,
    shard: ShardId,
    epoch: Epoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    Shard,
    Key,
}

/// A setting that no server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnSetting {
    Choice(ChosenBy),
    ReadConsistency,
}

impl OwnSetting {
    pub fn named(name: &str) -> Option<OwnSetting> {
        match name {
            "trunkline.shard" => Some(OwnSetting::Choice(ChosenBy::Shard)),
            "trunkline.key" => Some(OwnSetting::Choice(ChosenBy::Key)),
            "trunkline.read_consistency" => Some(OwnSetting::ReadConsistency),
            _ => None,
        }
    }
}

fn look_up(by: ChosenBy, values: &[Box<str>], catalog: &Catalog) -> Result<ShardId, Refusal> {
    match (by, values) {
        (ChosenBy::Shard, [name]) => from_setting(Setting::Shard(name), catalog),
        (ChosenBy::Shard, _) => Err(Refusal::new(
            Reason::UnknownShard,
            "trunkline.shard takes one shard's name",
        )),
        (ChosenBy::Key, values) => from_setting(Setting::Key(values), catalog),
    }
}

impl OwnSettings {
    /// SET; without a value, as RESET, the default.
    pub fn set(
        &mut self,
        setting: OwnSetting,
        values: &[Box<str>],
        scope: Scope,
        catalog: &Catalog,
    ) -> Result<(), Fault> {
        self.history = History::Set;
        let absent = values.iter().all(|value| value.is_empty());
        match setting {
            OwnSetting::ReadConsistency => {
                let given = values.first().map_or("", |value| &**value);
                let known = [ReadConsistency::Off, ReadConsistency::Atomic]
                    .into_iter()
                    .find(|known| known.as_str().eq_ignore_ascii_case(given));
                match known {
                    Some(known) if values.len() == 1 => self.reads.set(scope, known),
                    None if absent => self.reads.set(scope, ReadConsistency::default()),
                    _ => return Err(not_a_consistency(values)),
                }
            }
            OwnSetting::Choice(_) if absent => self.chosen.set(scope, None),
            OwnSetting::Choice(by) => {
                let shard = look_up(by, values, catalog).map_err(Fault::Refused)?;
                let chosen = Chosen {
                    name: by,
                    values: values.to_vec(),
                    shard,
                    epoch: catalog.epoch,
                };
                self.chosen.set(scope, Some(chosen));
            }
        }
        Ok(())
    }

    pub fn clear(&mut self) {
        *self = OwnSettings::default();
    }

    /// The application has chosen a shard.
    pub fn has_shard(&self) -> bool {
        self.chosen.value().is_some()
    }

    pub fn read_consistency(&self) -> ReadConsistency {
        *self.reads.value()
    }

    pub fn transaction_ended(&mut self, kept: bool) {
        if self.history == History::NeverSet {
            return;
        }
        self.chosen.transaction_ended(kept);
        self.reads.transaction_ended(kept);
    }

    /// What the application set, as it wrote it.
    pub fn shown(&self, setting: OwnSetting) -> String {
        match setting {
            OwnSetting::ReadConsistency => self.read_consistency().as_str().to_owned(),
            OwnSetting::Choice(by) => {
                let chosen = self.chosen.value().as_ref();
                chosen
                    .filter(|chosen| chosen.name == by)
                    .map_or_else(String::new, |chosen| chosen.values.join(", "))
            }
        }
    }

    pub fn shard(&mut self, catalog: &Catalog) -> Result<Option<ShardId>, Refusal> {
        let Scoped { current, local, .. } = &mut self.chosen;
        let Some(chosen) = local.as_mut().unwrap_or(current) else {
            return Ok(None);
        };
        if chosen.epoch != catalog.epoch {
            chosen.shard = look_up(chosen.name, &chosen.values, catalog)?;
            chosen.epoch = catalog.epoch;
        }
        Ok(Some(chosen.shard))
    }
}

fn not_a_consistency(values: &[Box<str>]) -> Fault {
    Fault::Limit {
        sqlstate: "22023",
        message: format!(
            "invalid value for parameter \"trunkline.read_consistency\": \"{}\"",
            values.join(", ")
        ),
        hint: Some("Available values: off, atomic."),
    }
}
