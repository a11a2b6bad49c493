//! Which nodes reads go to, and what happens when a shard loses its primary.

use std::time::Duration;

use super::section::{Entry, Section};
use super::url;
use super::{ByteSize, HttpTls, Scheme, Url};

const LONGEST: Duration = Duration::from_secs(3600);
const SHORTEST_LAG: Duration = Duration::from_millis(1);
const MOST_FUNCTIONS: usize = 1000;

/// `[reads]`: what reads that may go to replicas do.
#[derive(Clone, Debug, PartialEq)]
pub struct Reads {
    /// Where they go, unless the user, the database or the session says otherwise.
    pub from: ReadFrom,
    pub causal: CausalReads,
    /// How long a read waits for a replica that has replayed what it must see; then it goes to the primary.
    pub wait: Duration,
    pub balance: Balance,
    /// Whether the primary takes part in the balance, or is the last resort.
    pub primary: PrimaryReads,
    /// A replica that is further behind takes no reads; `None`: however far.
    pub max_lag: Option<Duration>,
    pub max_lag_size: Option<ByteSize>,
    /// Where this proxy is, for `Balance::NearestZone`.
    pub zone: Option<String>,
    /// Names of volatile functions that may run on replicas all the same.
    pub functions: Vec<String>,
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    #[default]
    Primary,
    /// A replica, or the primary where none may serve it.
    Any,
    /// A replica, or an error.
    Replica,
}

impl ReadFrom {
    pub fn as_str(self) -> &'static str {
        match self {
            ReadFrom::Primary => "primary",
            ReadFrom::Any => "any",
            ReadFrom::Replica => "replica",
        }
    }

    pub fn named(word: &str) -> Option<ReadFrom> {
        [ReadFrom::Primary, ReadFrom::Any, ReadFrom::Replica]
            .into_iter()
            .find(|from| from.as_str() == word)
    }
}

/// How far behind a replica may be that serves a session, or a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLag {
    Off,
    Within(Duration),
}

impl MaxLag {
    pub fn parse(text: &str) -> Option<MaxLag> {
        if text.eq_ignore_ascii_case("off") {
            return Some(MaxLag::Off);
        }
        super::duration(text).map(MaxLag::Within)
    }
}

/// What a read on a replica must see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CausalReads {
    /// Whatever the replica has.
    Off,
    /// What the same session has committed, and what its token says.
    #[default]
    Session,
    /// All that was committed before it began.
    Always,
}

impl CausalReads {
    pub fn as_str(self) -> &'static str {
        match self {
            CausalReads::Off => "off",
            CausalReads::Session => "session",
            CausalReads::Always => "always",
        }
    }

    pub fn named(word: &str) -> Option<CausalReads> {
        [CausalReads::Off, CausalReads::Session, CausalReads::Always]
            .into_iter()
            .find(|causal| causal.as_str() == word)
    }
}

/// How reads are divided among the nodes that may take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    RoundRobin,
    /// The one with the fewest connections in use.
    LeastConnections,
    /// In proportion to `weight`.
    Weighted,
    /// By the client's address: the same client, the same node.
    ClientAddress,
    /// Round robin within the proxy's own zone; the others when nobody is left there.
    NearestZone,
}

/// What part the primary has in reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryReads {
    TakesPart,
    LastResort,
}

/// `[failover]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failover {
    pub mode: FailoverMode,
    /// How long a statement that was not sent waits for a shard to have a primary.
    pub wait: Duration,
    /// How long a switchover waits for open transactions, and again for the node that shall be the primary.
    pub switchover_timeout: Duration,
    pub fence: Fence,
    /// How long the fence command may take.
    pub fence_timeout: Duration,
    /// From one attempt to promote a replica of a shard to the next.
    pub promote_pause: Duration,
    pub missing_replicas: MissingReplicas,
    /// A replica that lacks more than this of what its primary was last seen to have written is not promoted; `None`: however much.
    pub max_loss: Option<ByteSize>,
    /// Run after a switchover, to make a standby of the old primary.
    pub rejoin_command: Option<Argv>,
    pub rejoin_timeout: Duration,
    /// For calls to Patroni and to the hook that fences, where they are https.
    pub tls: Option<HttpTls>,
}

/// A program and its arguments; no shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv {
    pub program: String,
    pub arguments: Vec<String>,
}

/// What makes sure that an old primary takes no more writes before another one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Nobody has said: nothing is promoted.
    Undecided,
    /// Nothing does, and that was said.
    Nothing,
    Command(Argv),
    /// It is told by a POST.
    Hook(Url),
}

/// What a promotion does when a replica cannot be asked how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingReplicas {
    /// It may be the one that has everything.
    Wait,
    Promote,
}

/// Who makes a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverMode {
    /// Somebody else; it is found.
    Follow,
    /// Trunkline, when the primary is down for as long as `[health]` says.
    Promote,
}

pub(super) fn read_from(entry: Entry<'_>) -> Option<ReadFrom> {
    entry.choice(&[
        ("primary", ReadFrom::Primary),
        ("any", ReadFrom::Any),
        ("replica", ReadFrom::Replica),
    ])
}

/// Of a database.
pub(super) fn max_lag(entry: Entry<'_>) -> Option<MaxLag> {
    let limit = entry.duration_or_off(SHORTEST_LAG..=LONGEST)?;
    Some(limit.map_or(MaxLag::Off, MaxLag::Within))
}

fn functions(entry: &Entry<'_>) -> Option<Vec<String>> {
    let items = entry.items("an array of function names, like [\"app_now\"]")?;
    if items.len() > MOST_FUNCTIONS {
        entry.note(format!("has more than {MOST_FUNCTIONS} names"));
    }
    items.iter().map(Entry::name).collect()
}

pub(super) fn reads(mut section: Section<'_>) -> Reads {
    let reads = Reads {
        from: section.read("from", read_from).unwrap_or_default(),
        causal: section
            .read("causal", |entry| {
                entry.choice(&[
                    ("off", CausalReads::Off),
                    ("session", CausalReads::Session),
                    ("always", CausalReads::Always),
                ])
            })
            .unwrap_or_default(),
        wait: section
            .read("wait", |entry| entry.duration(Duration::ZERO..=LONGEST))
            .unwrap_or_default(),
        balance: section
            .read("balance", |entry| {
                entry.choice(&[
                    ("round_robin", Balance::RoundRobin),
                    ("least_connections", Balance::LeastConnections),
                    ("weighted", Balance::Weighted),
                    ("client_address", Balance::ClientAddress),
                    ("nearest_zone", Balance::NearestZone),
                ])
            })
            .unwrap_or(Balance::RoundRobin),
        primary: section
            .read("primary", |entry| {
                entry.choice(&[
                    ("takes_part", PrimaryReads::TakesPart),
                    ("last_resort", PrimaryReads::LastResort),
                ])
            })
            .unwrap_or(PrimaryReads::LastResort),
        max_lag: section
            .read("max_lag", |entry| {
                entry.duration_or_off(SHORTEST_LAG..=LONGEST)
            })
            .unwrap_or(Some(Duration::from_secs(30))),
        max_lag_size: section
            .read("max_lag_size", |entry| {
                if entry.is_off() {
                    return Some(None);
                }
                entry.size(1..=1 << 50).map(Some)
            })
            .unwrap_or(None),
        zone: section.read("zone", |entry| entry.name()),
        functions: section
            .read("functions", |entry| functions(&entry))
            .unwrap_or_default(),
    };
    section.done();
    reads
}

fn argv(entry: Entry<'_>) -> Option<Argv> {
    const WANTED: &str =
        "an array of a program and its arguments, like [\"/usr/local/bin/fence\", \"--now\"]";
    let items = entry.items(WANTED)?;
    let words: Option<Vec<String>> = items
        .iter()
        .map(|item| Some(item.text(WANTED)?.to_owned()))
        .collect();
    let mut words = words?.into_iter();
    let program = words.next().filter(|program| !program.is_empty());
    if program.is_none() {
        entry.wrong("a command", WANTED);
    }
    Some(Argv {
        program: program?,
        arguments: words.collect(),
    })
}

fn fence(section: &mut Section<'_>) -> Fence {
    let command = section.read("fence_command", argv);
    let hook = section.read("fence_url", |entry| {
        url::read(
            &entry,
            "the address of a hook, like \"http://10.0.0.9:8080/fence\"",
        )
    });
    let nothing = section.read("fence", |entry| entry.choice(&[("none", Fence::Nothing)]));
    let given: Vec<&str> = ["fence_command", "fence_url", "fence"]
        .into_iter()
        .filter(|key| section.has(key))
        .collect();
    if let [.., one, other] = given[..] {
        let message = format!("is given, and so is {one}; take one of them away");
        section.note_key(other, message);
    }
    command
        .map(Fence::Command)
        .or(hook.map(Fence::Hook))
        .or(nothing)
        .unwrap_or(Fence::Undecided)
}

fn https_needs_a_root(section: &Section<'_>, key: &str, url: &Url, tls: Option<&HttpTls>) {
    if url.scheme == Scheme::Https && tls.is_none() {
        section.note_key(
            key,
            "is https; give root_certificate, the path of a PEM file with the authorities to trust",
        );
    }
}

pub(super) fn failover(mut section: Section<'_>) -> Failover {
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    let failover = Failover {
        mode: section
            .read("mode", |entry| {
                entry.choice(&[
                    ("follow", FailoverMode::Follow),
                    ("promote", FailoverMode::Promote),
                ])
            })
            .unwrap_or(FailoverMode::Follow),
        wait: section
            .read("wait", |entry| entry.duration(Duration::ZERO..=LONGEST))
            .unwrap_or(seconds(10)),
        switchover_timeout: section
            .read("switchover_timeout", |entry| {
                entry.duration(millis(100)..=LONGEST)
            })
            .unwrap_or(seconds(5)),
        fence: fence(&mut section),
        fence_timeout: section
            .read("fence_timeout", |entry| {
                entry.duration(millis(100)..=LONGEST)
            })
            .unwrap_or(seconds(10)),
        promote_pause: section
            .read("promote_pause", |entry| {
                entry.duration(seconds(1)..=seconds(86_400))
            })
            .unwrap_or(seconds(60)),
        missing_replicas: section
            .read("missing_replicas", |entry| {
                entry.choice(&[
                    ("wait", MissingReplicas::Wait),
                    ("promote", MissingReplicas::Promote),
                ])
            })
            .unwrap_or(MissingReplicas::Wait),
        max_loss: section
            .read("max_loss", |entry| {
                if entry.is_off() {
                    return Some(None);
                }
                entry.size(1..=1 << 50).map(Some)
            })
            .unwrap_or(None),
        rejoin_command: section.read("rejoin_command", argv),
        rejoin_timeout: section
            .read("rejoin_timeout", |entry| {
                entry.duration(seconds(1)..=seconds(86_400))
            })
            .unwrap_or(seconds(600)),
        tls: url::tls(&mut section),
    };
    if let Fence::Hook(hook) = &failover.fence {
        https_needs_a_root(&section, "fence_url", hook, failover.tls.as_ref());
    }
    if failover.mode == FailoverMode::Promote && failover.fence == Fence::Undecided {
        section.note_key(
            "mode",
            "is \"promote\", which needs a fence_command or a fence_url that keeps the old primary from taking writes, or fence = \"none\" for doing without",
        );
    }
    section.done();
    failover
}
