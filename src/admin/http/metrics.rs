//! `/metrics`: what the workers, the topology and the configuration say at one moment, in the OpenMetrics text format.
//!
//! `plans.rs` has those of plans that move data. Nothing is counted here. Totals are those of the workers, added up, so they restart from 0 with the process only.

mod plans;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::admin::{shard_name, totals};
use crate::backend::pool::Lending;
use crate::catalog::SchemaState;
use crate::config::Config;
use crate::execution::commit::ledger::{Entry, Ledger, State as CommitState};
use crate::execution::commit::readiness::Readiness;
use crate::resharding::report::PlanStatus;
use crate::session::card::State;
use crate::session::report::{DatabaseReport, PoolReport, WorkerReport};
use crate::session::shared::Snapshot;
use crate::topology::promotion::Outcome;
use crate::topology::view::Stage;
use crate::topology::{NodeStatus, Role, Roles, Topology};

/// Every metric. `clients`: connected in all, logged in to the admin database ones included.
pub fn text(
    snapshot: &Snapshot,
    reports: &[WorkerReport],
    topology: &Topology,
    transactions: &Ledger,
    resharding: &[PlanStatus],
    clients: usize,
) -> Result<String, fmt::Error> {
    let registry = Registry::with_prefix("trunkline");
    let mut families = general(snapshot, reports, clients);
    families.extend(by_database(snapshot, reports));
    families.extend(by_pool(&snapshot.config, reports));
    families.extend(by_node(&topology.nodes()));
    families.push(successions(topology));
    families.extend(promotions(topology));
    families.extend(prepared(snapshot, transactions));
    families.extend(plans::families(resharding));
    families.extend(snapshot.roles.as_deref().into_iter().flat_map(looked_up));
    encoded(registry, families)
}

fn encoded(mut registry: Registry, families: Vec<Family>) -> Result<String, fmt::Error> {
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Metrics of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    samples: Samples,
}

/// By labels; no two with the same.
#[derive(Debug)]
enum Samples {
    Numbers(Vec<(Labels, f64)>),
    Histograms(Vec<(Labels, Histogram)>),
}

#[derive(Debug)]
struct Histogram {
    sum: f64,
    /// The longest of each bucket, and how many are in it alone.
    buckets: Vec<(f64, u64)>,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Samples {
    fn is_empty(&self) -> bool {
        match self {
            Samples::Numbers(samples) => samples.is_empty(),
            Samples::Histograms(samples) => samples.is_empty(),
        }
    }
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
            match &family.samples {
                Samples::Numbers(samples) => {
                    for (labels, value) in samples {
                        if labels.is_empty() {
                            family.write(&mut metric, *value)?;
                        } else {
                            family.write(&mut metric.encode_family(labels)?, *value)?;
                        }
                    }
                }
                Samples::Histograms(samples) => {
                    for (labels, Histogram { sum, buckets }) in samples {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        metric
                            .encode_family(labels)?
                            .encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Family {
    fn write(&self, metric: &mut MetricEncoder<'_>, value: f64) -> Result<(), fmt::Error> {
        match self.kind {
            Kind::Counter => metric.encode_counter::<NoLabelSet, f64, f64>(&value, None),
            Kind::Gauge | Kind::Histogram => metric.encode_gauge(&value),
        }
    }

    fn gauge(name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) -> Family {
        Family {
            name,
            help,
            unit: None,
            kind: Kind::Gauge,
            samples: Samples::Numbers(samples),
        }
    }

    fn counter(name: &'static str, help: &'static str, samples: Vec<(Labels, f64)>) -> Family {
        Family {
            name,
            help,
            unit: None,
            kind: Kind::Counter,
            samples: Samples::Numbers(samples),
        }
    }

    fn histogram(
        name: &'static str,
        help: &'static str,
        samples: Vec<(Labels, Histogram)>,
    ) -> Family {
        Family {
            name,
            help,
            unit: None,
            kind: Kind::Histogram,
            samples: Samples::Histograms(samples),
        }
    }

    fn of(self, unit: Unit) -> Family {
        Family {
            unit: Some(unit),
            ..self
        }
    }
}

/// A count as OpenMetrics has it; exact up to 2^53.
fn count(value: usize) -> f64 {
    value as f64
}

fn total(value: u64) -> f64 {
    value as f64
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn seconds(microseconds: u64) -> f64 {
    Duration::from_micros(microseconds).as_secs_f64()
}

fn general(snapshot: &Snapshot, reports: &[WorkerReport], clients: usize) -> Vec<Family> {
    let mut states: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for client in reports.iter().flat_map(|report| &report.clients) {
        let state = match client.state {
            State::Active => "active",
            State::IdleInTransaction => "idle_in_transaction",
            State::Waiting => "waiting",
            State::Idle => "idle",
        };
        *states
            .entry((&client.database, &client.user, state))
            .or_default() += 1;
    }
    let labelled = states.into_iter().map(|((database, user, state), number)| {
        (
            vec![
                ("database", database.to_owned()),
                ("user", user.to_owned()),
                ("state", state.to_owned()),
            ],
            count(number),
        )
    });
    let pinned = reports
        .iter()
        .flat_map(|report| &report.clients)
        .filter(|client| !client.pins.is_empty())
        .count();
    let prepared: usize = reports
        .iter()
        .map(|report| report.prepared_statements)
        .sum();
    let limit = snapshot.config.limits.max_client_connections;
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    vec![
        Family::gauge(
            "build",
            "The version of this program, as a label.",
            vec![(version, 1.0)],
        ),
        Family::gauge(
            "workers",
            "Threads that serve clients.",
            vec![(vec![], count(reports.len()))],
        ),
        Family::gauge(
            "client_connections",
            "Clients that are logged in, administrators included.",
            vec![(vec![], count(clients))],
        ),
        Family::gauge(
            "client_connections_limit",
            "Most clients that may be connected.",
            vec![(vec![], count(limit))],
        ),
        Family::gauge(
            "clients",
            "Clients by what they are doing.",
            labelled.collect(),
        ),
        Family::gauge(
            "pinned_clients",
            "Clients that keep their server connections between transactions.",
            vec![(vec![], count(pinned))],
        ),
        Family::gauge(
            "prepared_statements",
            "Prepared statements held for clients.",
            vec![(vec![], count(prepared))],
        ),
    ]
}

fn looked_up(roles: &Roles) -> [Family; 3] {
    let census = roles.census();
    [
        Family::counter(
            "user_lookups",
            "Users that a server was asked for.",
            vec![(vec![], total(census.asked))],
        ),
        Family::counter(
            "user_lookups_failed",
            "Users that a server was asked for in vain: it gave no answer, or an error.",
            vec![(vec![], total(census.failed))],
        ),
        Family::gauge(
            "users_looked_up",
            "Users of whom an answer is remembered.",
            vec![(vec![], count(census.known))],
        ),
    ]
}

fn by_database(snapshot: &Snapshot, reports: &[WorkerReport]) -> Vec<Family> {
    let databases: Vec<&DatabaseReport> = reports
        .iter()
        .flat_map(|report| &report.databases)
        .collect();
    let sum = |value: &dyn Fn(&DatabaseReport) -> f64| {
        let mut sums: BTreeMap<&str, f64> = snapshot
            .config
            .databases
            .iter()
            .map(|database| (&*database.name, 0.0))
            .collect();
        for database in &databases {
            *sums.entry(&database.name).or_default() += value(database);
        }
        sums.into_iter()
            .map(|(name, sum)| (vec![("database", name.to_owned())], sum))
            .collect::<Vec<_>>()
    };
    let known = snapshot.catalogs.iter().collect::<BTreeMap<_, _>>();
    let read = known.iter().map(|(name, catalog)| {
        (
            vec![("database", name.to_string())],
            truth(catalog.schema == SchemaState::Read),
        )
    });
    let epochs = known
        .iter()
        .map(|(name, catalog)| (vec![("database", name.to_string())], total(catalog.epoch.0)));
    vec![
        Family::counter(
            "transactions",
            "Transactions that ended.",
            sum(&|d| total(d.transactions)),
        ),
        Family::counter(
            "queries",
            "Requests that were done: a simple query message, or what stands before a Sync.",
            sum(&|d| total(d.queries)),
        ),
        Family::counter(
            "replica_queries",
            "Those of them that replicas answered.",
            sum(&|d| total(d.replica_queries)),
        ),
        Family::counter(
            "errors",
            "Errors that clients were told.",
            sum(&|d| total(d.errors)),
        ),
        Family::counter(
            "refusals",
            "Statements that were refused because they do not live on one shard.",
            sum(&|d| total(d.refusals)),
        ),
        Family::counter(
            "client_idle_timeouts",
            "Clients sent away because they were idle for too long.",
            sum(&|d| total(d.client_idle_timeouts)),
        ),
        Family::counter(
            "idle_transaction_timeouts",
            "Clients sent away because they were idle in a transaction for too long.",
            sum(&|d| total(d.idle_transaction_timeouts)),
        ),
        Family::counter(
            "query_timeouts",
            "Statements cancelled because they ran for too long.",
            sum(&|d| total(d.query_timeouts)),
        ),
        Family::counter(
            "deadlocks",
            "Statements ended because they were in a deadlock across shards.",
            sum(&|d| total(d.deadlocks)),
        ),
        Family::counter(
            "received",
            "Received from clients.",
            sum(&|d| total(d.received_bytes)),
        )
        .of(Unit::Bytes),
        Family::counter("sent", "Sent to clients.", sum(&|d| total(d.sent_bytes))).of(Unit::Bytes),
        Family::counter(
            "transaction_time",
            "Time in transactions.",
            sum(&|d| seconds(d.transaction_microseconds)),
        )
        .of(Unit::Seconds),
        Family::counter(
            "query_time",
            "Time from a request to its answer.",
            sum(&|d| seconds(d.query_microseconds)),
        )
        .of(Unit::Seconds),
        Family::histogram(
            "query_duration",
            "How long requests took, from being sent to a server to the whole answer.",
            durations(snapshot, reports),
        )
        .of(Unit::Seconds),
        Family::counter(
            "wait_time",
            "Time that clients waited for a server connection.",
            sum(&|d| seconds(d.wait_microseconds)),
        )
        .of(Unit::Seconds),
        Family::counter(
            "server_assignments",
            "Server connections that were lent to clients.",
            sum(&|d| total(d.assignments)),
        ),
        Family::counter(
            "logins",
            "Clients that have logged in.",
            sum(&|d| total(d.logins)),
        ),
        Family::counter(
            "client_parses",
            "Statements that clients prepared.",
            sum(&|d| total(d.client_parses)),
        ),
        Family::counter(
            "server_parses",
            "Statements that were prepared on servers for that.",
            sum(&|d| total(d.server_parses)),
        ),
        Family::counter(
            "binds",
            "Prepared statements that were bound to values.",
            sum(&|d| total(d.binds)),
        ),
        Family::counter(
            "plan_cache_hits",
            "Statements whose plan was known.",
            sum(&|d| total(d.plan_cache.hits)),
        ),
        Family::counter(
            "plan_cache_misses",
            "Statements that had to be planned.",
            sum(&|d| total(d.plan_cache.misses)),
        ),
        Family::counter(
            "plan_cache_evictions",
            "Plans that made room for others.",
            sum(&|d| total(d.plan_cache.evictions)),
        ),
        Family::gauge(
            "plan_cache_entries",
            "Plans that are known.",
            sum(&|d| count(d.plan_cache.entries)),
        ),
        Family::gauge(
            "plan_cache_size",
            "Memory of the plans that are known.",
            sum(&|d| count(d.plan_cache.bytes)),
        )
        .of(Unit::Bytes),
        Family::gauge(
            "definitions_read",
            "1 when the servers' definitions of the database are known.",
            read.collect(),
        ),
        Family::gauge(
            "catalog_epoch",
            "The version of the database's catalog.",
            epochs.collect(),
        ),
    ]
}

/// Shorter and longer times are not told apart, in microseconds: each bucket is a series for Prometheus to keep.
const BUCKETS: Range<u64> = 20..100_000_000;

/// Of every database, in buckets that grow twofold.
fn durations(snapshot: &Snapshot, reports: &[WorkerReport]) -> Vec<(Labels, Histogram)> {
    let databases = totals::by_database(&snapshot.config, reports);
    let each = databases.into_iter().map(|(name, totals)| {
        let (mut shorter, mut longer) = (0, 0);
        let mut buckets = Vec::new();
        for (longest, count) in totals.latency.doublings() {
            match longest {
                Some(longest) if longest < BUCKETS.start => shorter += count,
                Some(longest) if longest < BUCKETS.end => {
                    buckets.push((seconds(longest), std::mem::take(&mut shorter) + count));
                }
                _ => longer += count,
            }
        }
        buckets.push((f64::INFINITY, longer));
        let histogram = Histogram {
            sum: seconds(totals.query_microseconds),
            buckets,
        };
        (vec![("database", name.into_string())], histogram)
    });
    each.collect()
}

fn by_pool(config: &Config, reports: &[WorkerReport]) -> Vec<Family> {
    let mut servers: BTreeMap<(Labels, &str), f64> = BTreeMap::new();
    let mut waiting: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut longest: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut sizes: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut paused: BTreeMap<Labels, f64> = BTreeMap::new();
    for pool in reports.iter().flat_map(|report| &report.pools) {
        let labels = pool_labels(config, pool);
        let census = pool.census;
        for (state, number) in [
            ("active", census.lent),
            ("idle", census.idle),
            ("connecting", census.connecting),
        ] {
            *servers.entry((labels.clone(), state)).or_default() += count(number);
        }
        *waiting.entry(labels.clone()).or_default() += count(census.waiting);
        // Of all workers together, also of one whose pool nobody has used yet.
        sizes
            .entry(labels.clone())
            .or_insert_with(|| count(configured_size(config, pool)));
        let wait = longest.entry(labels.clone()).or_default();
        *wait = wait.max(census.longest_wait.as_secs_f64());
        let is_paused = paused.entry(labels).or_default();
        *is_paused = is_paused.max(truth(pool.lending == Lending::Paused));
    }
    let with_state = |((mut labels, state), number): ((Labels, &'static str), f64)| {
        labels.push(("state", state.to_owned()));
        (labels, number)
    };
    let listed = |samples: BTreeMap<Labels, f64>| samples.into_iter().collect::<Vec<_>>();
    vec![
        Family::gauge(
            "server_connections",
            "Connections to servers.",
            servers.into_iter().map(with_state).collect(),
        ),
        Family::gauge(
            "pool_waiting_clients",
            "Clients that wait for a server connection.",
            listed(waiting),
        ),
        Family::gauge(
            "pool_longest_wait",
            "How long the first in the queue has waited.",
            listed(longest),
        )
        .of(Unit::Seconds),
        Family::gauge(
            "pool_size_limit",
            "Most connections of the pool.",
            listed(sizes),
        ),
        Family::gauge(
            "pool_paused",
            "1 while the pool lends nothing.",
            listed(paused),
        ),
    ]
}

fn pool_labels(config: &Config, pool: &PoolReport) -> Labels {
    vec![
        ("database", pool.database.to_string()),
        ("user", pool.user.to_string()),
        ("shard", shard_name(config, pool.shard)),
    ]
}

fn configured_size(config: &Config, pool: &PoolReport) -> usize {
    let user = config.users.iter().find(|user| *user.name == *pool.user);
    let database = config
        .databases
        .iter()
        .find(|database| *database.name == *pool.database);
    user.zip(database).map_or(pool.size, |(user, database)| {
        config.pool_of(user, database).size
    })
}

fn by_node(nodes: &[NodeStatus]) -> Vec<Family> {
    let each = |value: &dyn Fn(&NodeStatus) -> Option<f64>| {
        // The same server may stand in the configuration twice, with different databases.
        let samples = nodes
            .iter()
            .filter_map(|node| Some((node_labels(node), value(node)?)));
        samples
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    vec![
        Family::gauge(
            "node_up",
            "1 while the node answers and belongs to its shard.",
            each(&|n| Some(truth(answers(n.stage)))),
        ),
        Family::gauge(
            "node_stage",
            "1 for the stage in which the node is, as SHOW NODES has it.",
            stages(nodes),
        ),
        Family::gauge(
            "node_primary",
            "1 when the node says that it is a primary, by its last answer.",
            each(&|n| (n.role != Role::Unknown).then_some(truth(n.role == Role::Primary))),
        ),
        Family::gauge(
            "node_in_use_as_primary",
            "1 for the node that takes the writes of its shard.",
            each(&|n| Some(truth(n.is_primary))),
        ),
        Family::gauge(
            "node_fenced",
            "1 while the node is fenced: a primary that another one has replaced, or a replica of such a one.",
            each(&|n| Some(truth(n.stage == Stage::Fenced))),
        ),
        Family::gauge(
            "node_timeline",
            "The timeline of the node's log, by its last answer.",
            each(&|n| n.timeline.map(|timeline| f64::from(timeline.0))),
        ),
        Family::gauge(
            "node_replication_lag",
            "What a replica has still to replay.",
            each(&|n| n.lag.map(total)),
        )
        .of(Unit::Bytes),
        Family::gauge(
            "node_replication_lag_time",
            "How long ago it was found that a replica has something still to replay.",
            each(&|n| n.lag_time.map(|time| time.as_secs_f64())),
        )
        .of(Unit::Seconds),
        Family::counter(
            "node_ejections",
            "How often the node was ejected because clients' connections to it failed.",
            each(&|n| Some(total(n.ejections))),
        ),
        Family::gauge(
            "node_round_trip",
            "How long the last answer took.",
            each(&|n| n.round_trip.map(|time| time.as_secs_f64())),
        )
        .of(Unit::Seconds),
    ]
}

/// Whether a node in this stage answers, and has the shard's data.
fn answers(stage: Stage) -> bool {
    match stage {
        Stage::Unknown | Stage::Down | Stage::Refused => false,
        Stage::Up | Stage::Ejected | Stage::Fenced | Stage::Drained | Stage::Lagging => true,
    }
}

/// Only the one that it has, so that there are not eight series for each node.
fn stages(nodes: &[NodeStatus]) -> Vec<(Labels, f64)> {
    let each = nodes.iter().map(|node| {
        let mut labels = node_labels(node);
        labels.push(("stage", node.stage.as_str().to_owned()));
        (labels, 1.0)
    });
    each.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// How often another node became the primary.
fn successions(topology: &Topology) -> Family {
    let each = topology.successions().into_iter();
    Family::counter(
        "shard_primary_changes",
        "How often another node became the primary of the shard; the first one counts.",
        each.map(|(shard, number)| (vec![("shard", shard)], total(number)))
            .collect(),
    )
}

/// Primaries that were made from here.
fn promotions(topology: &Topology) -> [Family; 2] {
    let tally = topology.promotions();
    let counted = |pairs: [(&str, Outcome); 2]| {
        let each = pairs
            .map(|(word, outcome)| (vec![("outcome", word.to_owned())], total(tally.of(outcome))));
        each.into_iter().collect()
    };
    [
        Family::counter(
            "switchovers",
            "Switchovers that this proxy was asked for.",
            counted([
                ("done", Outcome::Switched),
                ("failed", Outcome::NotSwitched),
            ]),
        ),
        Family::counter(
            "promotions",
            "Replicas that this proxy has promoted because their primary was lost, and reasons why it has not.",
            counted([
                ("done", Outcome::Promoted),
                ("failed", Outcome::NotPromoted),
            ]),
        ),
    ]
}

/// Commits of several shards: which shards can, and what is left of those that nobody has finished.
fn prepared(snapshot: &Snapshot, ledger: &Ledger) -> Vec<Family> {
    let each = |value: &dyn Fn(&[Entry]) -> f64| {
        let labelled = ledger.places().map(|(place, entries)| {
            let labels = vec![
                ("database", place.database.to_string()),
                ("shard", place.shard.to_string()),
            ];
            (labels, value(entries))
        });
        labelled.collect::<Vec<_>>()
    };
    let in_doubt = |entry: &&Entry| matches!(entry.state, CommitState::InDoubt { .. });
    let oldest = |entries: &[Entry]| entries.iter().map(Entry::age).max().unwrap_or_default();
    let resolved = ledger
        .resolved()
        .iter()
        .map(|((database, outcome), number)| {
            let labels = vec![
                ("database", database.to_string()),
                ("outcome", (*outcome).to_owned()),
            ];
            (labels, total(*number))
        });
    let mut ready = Vec::new();
    for (database, shards) in snapshot.readiness.iter().collect::<BTreeMap<_, _>>() {
        for (shard, readiness) in snapshot.config.shards.iter().zip(shards) {
            let labels = vec![
                ("database", database.to_string()),
                ("shard", shard.name.clone()),
            ];
            ready.push((labels, truth(*readiness == Readiness::Ready)));
        }
    }
    vec![
        Family::gauge(
            "commit_ready",
            "1 when the shard can take part in commits of several shards.",
            ready,
        ),
        Family::gauge(
            "prepared_transactions",
            "Transactions of Trunkline that the shard has prepared, by the last look.",
            each(&|entries| count(entries.len())),
        ),
        Family::gauge(
            "in_doubt_transactions",
            "Those of them that cannot be finished now. SHOW TRANSACTIONS says why.",
            each(&|entries| count(entries.iter().filter(in_doubt).count())),
        ),
        Family::gauge(
            "oldest_prepared_transaction",
            "How long ago the oldest of them was prepared.",
            each(&|entries| oldest(entries).as_secs_f64()),
        )
        .of(Unit::Seconds),
        Family::counter(
            "prepared_transactions_resolved",
            "Prepared transactions that were finished for an owner who did not.",
            resolved.collect(),
        ),
    ]
}

fn node_labels(node: &NodeStatus) -> Labels {
    vec![
        ("shard", node.shard.clone()),
        ("host", node.host.clone()),
        ("port", node.port.to_string()),
    ]
}
