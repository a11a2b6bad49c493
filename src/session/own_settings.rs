//! Trunkline's own settings of a session: which shard its statements go to, what its queries over several shards see, and which nodes
//! its reads go to.
//!
//! They can be set like any other, also when a client connects (`options=-c trunkline.read=any`): RESET goes back to that. The token is no
//! setting that goes back to anything: see `causal.rs`.

use std::time::Duration;

use super::respond::Fault;
use crate::catalog::{Catalog, Epoch};
use crate::config::{CausalReads, Config, MaxLag, ReadFrom, User};
use crate::plan::hint::{Setting, from_setting};
use crate::plan::refusal::{Reason, Refusal};
use crate::sharding::ShardId;
use crate::sql::class::Scope;
use crate::topology::choice::Lag;

/// What the session has set of Trunkline's own settings.
#[derive(Clone, Default)]
pub struct OwnSettings {
    history: History,
    /// `None`: nothing was ever set. An idle client costs as little as can be.
    made: Option<Box<Choices>>,
}

#[derive(Clone, Default)]
struct Choices {
    /// `SET trunkline.shard` and `SET trunkline.key`: the shard for all statements that follow.
    chosen: Scoped<Option<Chosen>>,
    consistency: Scoped<ReadConsistency>,
    /// `None` in these: as is configured.
    from: Scoped<Option<ReadFrom>>,
    causal: Scoped<Option<CausalReads>>,
    max_lag: Scoped<Option<MaxLag>>,
}

/// Most sessions never set any, and need not look at the end of each transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum History {
    #[default]
    NeverSet,
    Set,
}

/// What a session's reads do unless it says otherwise: as the user, the database, and `[reads]` are configured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDefaults {
    pub from: ReadFrom,
    pub causal: CausalReads,
    pub max_lag: Option<Duration>,
    /// In bytes.
    pub max_lag_size: Option<u64>,
    /// What the database says; nodes are judged by what `[reads]` says.
    own_lag: Option<MaxLag>,
}

impl ReadDefaults {
    /// The lag that a replica may have where a session or a statement says so.
    pub fn within(&self, limit: MaxLag) -> Lag {
        Lag::Within {
            time: match limit {
                MaxLag::Off => None,
                MaxLag::Within(limit) => Some(limit),
            },
            bytes: self.max_lag_size,
        }
    }

    pub fn of(config: &Config, user: &User, database: &str) -> ReadDefaults {
        let mut databases = config.databases.iter();
        let database = databases.find(|known| known.name == database);
        let of_database = || database?.read_from;
        let own_lag = database.and_then(|database| database.max_lag);
        let reads = &config.reads;
        ReadDefaults {
            from: user.read_from.or_else(of_database).unwrap_or(reads.from),
            causal: reads.causal,
            max_lag: match own_lag {
                None => reads.max_lag,
                Some(MaxLag::Off) => None,
                Some(MaxLag::Within(limit)) => Some(limit),
            },
            max_lag_size: reads.max_lag_size.map(|size| size.0),
            own_lag,
        }
    }
}

/// What the session's reads do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPolicy {
    pub from: ReadFrom,
    pub causal: CausalReads,
    pub lag: Lag,
}

/// A setting's value, and those that it goes back to.
#[derive(Clone, Default)]
struct Scoped<T> {
    current: T,
    /// What the client asked for when it connected.
    startup: T,
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
}

/// What happens to a setting whatever its value is.
trait Undoable {
    fn reset(&mut self, scope: Scope);

    /// The session begins with it, or begins anew.
    fn start(&mut self);

    fn restart(&mut self);

    fn transaction_ended(&mut self, kept: bool);
}

impl<T: Clone> Undoable for Scoped<T> {
    fn reset(&mut self, scope: Scope) {
        self.set(scope, self.startup.clone());
    }

    fn start(&mut self) {
        (self.startup, self.settled, self.local) =
            (self.current.clone(), self.current.clone(), None);
    }

    fn restart(&mut self) {
        self.current = self.startup.clone();
        self.start();
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
    fn named(word: &str) -> Option<ReadConsistency> {
        [ReadConsistency::Off, ReadConsistency::Atomic]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(word))
    }

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
    Read,
    CausalReads,
    MaxLag,
    /// Not kept here: see `causal.rs`.
    Token,
}

impl OwnSetting {
    pub fn named(name: &str) -> Option<OwnSetting> {
        match name {
            "trunkline.shard" => Some(OwnSetting::Choice(ChosenBy::Shard)),
            "trunkline.key" => Some(OwnSetting::Choice(ChosenBy::Key)),
            "trunkline.read_consistency" => Some(OwnSetting::ReadConsistency),
            "trunkline.read" => Some(OwnSetting::Read),
            "trunkline.causal_reads" => Some(OwnSetting::CausalReads),
            "trunkline.max_lag" => Some(OwnSetting::MaxLag),
            "trunkline.token" => Some(OwnSetting::Token),
            _ => None,
        }
    }
}

/// Whether a name is one of Trunkline's own, known or not: no server sees it.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("trunkline.")
}

/// The setting of this name; `None`: a server may know it. A name that was mistyped has no effect on anything, so it is an error.
pub fn known(name: &str) -> Result<Option<OwnSetting>, Fault> {
    let setting = OwnSetting::named(name);
    if setting.is_none() && is_reserved(name) {
        return Err(Fault::Limit {
            sqlstate: "42704",
            message: format!("unrecognized configuration parameter \"{name}\""),
            hint: Some(
                "Trunkline's own are trunkline.shard, trunkline.key, trunkline.read, trunkline.causal_reads, trunkline.max_lag, trunkline.token and trunkline.read_consistency.",
            ),
        });
    }
    Ok(setting)
}

/// Sets what one word says; no word, or an empty one, is as RESET.
fn set_word<T: Clone>(
    scoped: &mut Scoped<T>,
    scope: Scope,
    values: &[Box<str>],
    read: impl Fn(&str) -> Option<T>,
    refused: Refused,
) -> Result<(), Fault> {
    let known = match values {
        [value] => read(value),
        _ => None,
    };
    match known {
        Some(known) => scoped.set(scope, known),
        None if is_absent(values) => scoped.reset(scope),
        None => return Err(refused.fault(&values.join(", "))),
    }
    Ok(())
}

fn is_absent(values: &[Box<str>]) -> bool {
    values.iter().all(|value| value.is_empty())
}

/// A value that is none, of this setting.
pub struct Refused {
    pub setting: &'static str,
    pub hint: &'static str,
}

impl Refused {
    pub fn fault(&self, value: &str) -> Fault {
        let Refused { setting, hint } = self;
        Fault::Limit {
            sqlstate: "22023",
            message: format!("invalid value for parameter \"{setting}\": \"{value}\""),
            hint: Some(hint),
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
        let made = &mut **self.made.get_or_insert_default();
        match setting {
            OwnSetting::ReadConsistency => set_word(
                &mut made.consistency,
                scope,
                values,
                ReadConsistency::named,
                Refused {
                    setting: "trunkline.read_consistency",
                    hint: "Available values: off, atomic.",
                },
            ),
            OwnSetting::Read => set_word(
                &mut made.from,
                scope,
                values,
                |word| ReadFrom::named(&word.to_ascii_lowercase()).map(Some),
                Refused {
                    setting: "trunkline.read",
                    hint: "Available values: primary, any, replica.",
                },
            ),
            OwnSetting::CausalReads => set_word(
                &mut made.causal,
                scope,
                values,
                |word| CausalReads::named(&word.to_ascii_lowercase()).map(Some),
                Refused {
                    setting: "trunkline.causal_reads",
                    hint: "Available values: off, session, always.",
                },
            ),
            OwnSetting::MaxLag => set_word(
                &mut made.max_lag,
                scope,
                values,
                |text| MaxLag::parse(text).map(Some),
                Refused {
                    setting: "trunkline.max_lag",
                    hint: "Give a time like '500ms' or '5s', or off.",
                },
            ),
            OwnSetting::Choice(_) if is_absent(values) => {
                made.chosen.reset(scope);
                Ok(())
            }
            OwnSetting::Choice(by) => {
                let shard = look_up(by, values, catalog).map_err(Fault::Refused)?;
                let chosen = Chosen {
                    name: by,
                    values: values.to_vec(),
                    shard,
                    epoch: catalog.epoch,
                };
                made.chosen.set(scope, Some(chosen));
                Ok(())
            }
            // The session has taken it.
            OwnSetting::Token => Ok(()),
        }
    }

    /// A setting that a client gives when it connects, as text.
    pub fn set_at_startup(
        &mut self,
        setting: OwnSetting,
        value: &str,
        catalog: &Catalog,
    ) -> Result<(), Fault> {
        let values: Vec<Box<str>> = match setting {
            OwnSetting::Choice(ChosenBy::Key) => value
                .split(',')
                .map(|part| Box::from(part.trim()))
                .collect(),
            _ => vec![Box::from(value)],
        };
        self.set(setting, &values, Scope::Session, catalog)?;
        self.each().for_each(|setting| setting.start());
        self.history = History::NeverSet;
        Ok(())
    }

    fn each(&mut self) -> impl Iterator<Item = &mut dyn Undoable> {
        self.made.iter_mut().flat_map(|made| {
            let all: [&mut dyn Undoable; 5] = [
                &mut made.chosen,
                &mut made.consistency,
                &mut made.from,
                &mut made.causal,
                &mut made.max_lag,
            ];
            all
        })
    }

    /// RESET ALL: to be undone with its transaction.
    pub fn reset_all(&mut self) {
        self.each()
            .for_each(|setting| setting.reset(Scope::Session));
    }

    /// As when the client had connected.
    pub fn clear(&mut self) {
        self.each().for_each(|setting| setting.restart());
    }

    /// Nothing was set since the session began.
    pub fn is_untouched(&self) -> bool {
        self.history == History::NeverSet
    }

    /// The application has chosen a shard.
    pub fn has_shard(&self) -> bool {
        self.chosen().is_some()
    }

    pub fn read_consistency(&self) -> ReadConsistency {
        { self.made.as_ref() }
            .map_or_else(ReadConsistency::default, |made| *made.consistency.value())
    }

    fn chosen(&self) -> Option<&Chosen> {
        self.made.as_ref()?.chosen.value().as_ref()
    }

    /// `None`, as of the next ones: as is configured.
    fn max_lag(&self) -> Option<MaxLag> {
        *self.made.as_ref()?.max_lag.value()
    }

    fn from(&self) -> Option<ReadFrom> {
        *self.made.as_ref()?.from.value()
    }

    fn causal(&self) -> Option<CausalReads> {
        *self.made.as_ref()?.causal.value()
    }

    /// What the session's reads do.
    pub fn reads(&self, defaults: &ReadDefaults) -> ReadPolicy {
        let limit = self.max_lag().or(defaults.own_lag);
        let lag = limit.map_or(Lag::AsConfigured, |limit| defaults.within(limit));
        ReadPolicy {
            from: self.from().unwrap_or(defaults.from),
            causal: self.causal().unwrap_or(defaults.causal),
            lag,
        }
    }

    pub fn transaction_ended(&mut self, kept: bool) {
        if self.history == History::NeverSet {
            return;
        }
        self.each()
            .for_each(|setting| setting.transaction_ended(kept));
    }

    /// What the application set, as it wrote it, or what holds without. The token is not known here.
    pub fn shown(&self, setting: OwnSetting, defaults: &ReadDefaults) -> String {
        match setting {
            OwnSetting::Read => self.reads(defaults).from.as_str().to_owned(),
            OwnSetting::CausalReads => self.reads(defaults).causal.as_str().to_owned(),
            OwnSetting::MaxLag => {
                let limit = match self.max_lag() {
                    None => defaults.max_lag,
                    Some(MaxLag::Off) => None,
                    Some(MaxLag::Within(limit)) => Some(limit),
                };
                limit.map_or_else(|| "off".to_owned(), written)
            }
            OwnSetting::Token => String::new(),
            OwnSetting::ReadConsistency => self.read_consistency().as_str().to_owned(),
            OwnSetting::Choice(by) => self
                .chosen()
                .filter(|chosen| chosen.name == by)
                .map_or_else(String::new, |chosen| chosen.values.join(", ")),
        }
    }

    pub fn shard(&mut self, catalog: &Catalog) -> Result<Option<ShardId>, Refusal> {
        let Some(made) = &mut self.made else {
            return Ok(None);
        };
        let Scoped { current, local, .. } = &mut made.chosen;
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

/// A time as it can be set.
fn written(limit: Duration) -> String {
    match limit.as_millis() {
        milliseconds if milliseconds.is_multiple_of(1000) => format!("{}s", milliseconds / 1000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, build};

    const CONFIG: &str = "[reads]\nfrom = \"any\"\nmax_lag = \"2s\"\n[[databases]]\nname = \"app\"\n[[databases]]\nname = \"near\"\n\
        read_from = \"primary\"\nmax_lag = \"500ms\"\n[[users]]\nname = \"u\"\npassword = \"p\"\n[[users]]\nname = \"r\"\npassword = \"p\"\nread_from = \"replica\"\n\
        [[shards]]\nname = \"s1\"\n[[shards.nodes]]\nhost = \"a\"\n";

    fn config() -> Config {
        crate::config::parse(CONFIG, "test.toml", &|_| None).expect("it is sound")
    }

    fn catalog() -> Catalog {
        let configured = build(&config(), "app").expect("it is sound");
        Catalog::assemble(configured, None, Epoch(1)).0
    }

    fn defaults() -> ReadDefaults {
        ReadDefaults::of(&config(), &config().users[0], "app")
    }

    fn set(settings: &mut OwnSettings, name: &str, value: &str, scope: Scope) -> Result<(), Fault> {
        let setting = OwnSetting::named(name).expect("it is one");
        settings.set(setting, &[Box::from(value)], scope, &catalog())
    }

    fn shown(settings: &OwnSettings) -> [String; 3] {
        [
            OwnSetting::Read,
            OwnSetting::CausalReads,
            OwnSetting::MaxLag,
        ]
        .map(|setting| settings.shown(setting, &defaults()))
    }

    #[test]
    fn a_user_comes_before_a_database_and_that_before_the_rest() {
        let config = config();
        let of =
            |user: usize, database| ReadDefaults::of(&config, &config.users[user], database).from;
        assert_eq!(of(0, "app"), ReadFrom::Any);
        assert_eq!(of(0, "near"), ReadFrom::Primary);
        assert_eq!(of(1, "near"), ReadFrom::Replica);
    }

    #[test]
    fn a_session_comes_before_its_database_and_that_before_the_rest() {
        let config = config();
        let near = ReadDefaults::of(&config, &config.users[0], "near");
        let within = |milliseconds| Lag::Within {
            time: Some(Duration::from_millis(milliseconds)),
            bytes: None,
        };
        let mut settings = OwnSettings::default();
        assert_eq!(settings.reads(&defaults()).lag, Lag::AsConfigured);
        assert_eq!(settings.reads(&near).lag, within(500));
        assert_eq!(settings.shown(OwnSetting::MaxLag, &near), "500ms");
        set(&mut settings, "trunkline.max_lag", "3s", Scope::Session).expect("it may be set");
        assert_eq!(settings.reads(&near).lag, within(3000));
        settings.clear();
        assert_eq!(settings.reads(&near).lag, within(500));
    }

    #[test]
    fn what_is_set_is_shown_and_goes_back() {
        let mut settings = OwnSettings::default();
        assert_eq!(shown(&settings), ["any", "session", "2s"]);
        for (name, value) in [
            ("trunkline.read", "Replica"),
            ("trunkline.causal_reads", "always"),
            ("trunkline.max_lag", "1500ms"),
        ] {
            set(&mut settings, name, value, Scope::Session).expect("it may be set");
        }
        assert_eq!(shown(&settings), ["replica", "always", "1500ms"]);
        let policy = settings.reads(&defaults());
        assert_eq!(policy.from, ReadFrom::Replica);
        assert_eq!(policy.causal, CausalReads::Always);
        let time = Some(Duration::from_millis(1500));
        assert_eq!(policy.lag, Lag::Within { time, bytes: None });
        settings.transaction_ended(true);
        set(&mut settings, "trunkline.read", "primary", Scope::Local).expect("it may be set");
        set(&mut settings, "trunkline.max_lag", "off", Scope::Session).expect("it may be set");
        assert_eq!(shown(&settings), ["primary", "always", "off"]);
        settings.transaction_ended(false);
        assert_eq!(shown(&settings), ["replica", "always", "1500ms"]);
        set(&mut settings, "trunkline.causal_reads", "", Scope::Session).expect("it may be set");
        assert_eq!(shown(&settings), ["replica", "session", "1500ms"]);
        settings.reset_all();
        assert_eq!(shown(&settings), ["any", "session", "2s"]);
        settings.transaction_ended(false);
        assert_eq!(shown(&settings), ["replica", "always", "1500ms"]);
        settings.clear();
        settings.transaction_ended(false);
        assert_eq!(shown(&settings), ["any", "session", "2s"]);
        assert_eq!(settings.reads(&defaults()).lag, Lag::AsConfigured);
    }

    #[test]
    fn reset_goes_back_to_what_the_client_began_with() {
        let mut settings = OwnSettings::default();
        for (name, value) in [
            ("trunkline.read", "replica"),
            ("trunkline.key", "7"),
            ("trunkline.shard", "s1"),
        ] {
            let setting = OwnSetting::named(name).expect("it is one");
            let set = settings.set_at_startup(setting, value, &catalog());
            assert_eq!(
                set.is_ok(),
                name != "trunkline.key",
                "no distribution has a key here"
            );
        }
        settings.transaction_ended(false);
        assert!(settings.has_shard());
        for back in [
            |settings: &mut OwnSettings| settings.reset_all(),
            |settings: &mut OwnSettings| settings.clear(),
            |settings: &mut OwnSettings| {
                settings
                    .set(OwnSetting::Read, &[], Scope::Session, &catalog())
                    .expect("it may be reset");
            },
        ] {
            set(&mut settings, "trunkline.read", "primary", Scope::Session).expect("it may be set");
            settings.transaction_ended(true);
            assert_eq!(shown(&settings)[0], "primary");
            back(&mut settings);
            settings.transaction_ended(true);
            assert_eq!(shown(&settings)[0], "replica");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_and_changes_nothing() {
        let mut settings = OwnSettings::default();
        for (name, value) in [
            ("trunkline.read", "secondary"),
            ("trunkline.causal_reads", "on"),
            ("trunkline.max_lag", "5"),
            ("trunkline.max_lag", "-5s"),
            ("trunkline.max_lag", "never"),
            ("trunkline.read_consistency", "some"),
        ] {
            let fault = set(&mut settings, name, value, Scope::Session);
            assert!(
                matches!(
                    fault,
                    Err(Fault::Limit {
                        sqlstate: "22023",
                        ..
                    })
                ),
                "{name} = {value}"
            );
        }
        let two = [Box::from("any"), Box::from("replica")];
        let fault = settings.set(OwnSetting::Read, &two, Scope::Session, &catalog());
        assert!(fault.is_err());
        assert_eq!(shown(&settings), ["any", "session", "2s"]);
    }
}
