//! What a commit over two shards costs: a transaction that updates a row on each of two shards, through Trunkline, beside a client that
//! makes two transactions of it, one after the other, on connections of its own to the two servers. Commits wait for the disk, as in production.
//!
//! * `atomic`, `best_effort`: BEGIN, UPDATE, UPDATE, COMMIT through Trunkline with this `cross_shard_commit`.
//! * `two_plain`: UPDATE on one server, UPDATE on the other; each commits by itself. The least that a client can do.
//! * `blocks`: BEGIN, UPDATE, COMMIT on one server, and then on the other.
//!
//! And transactions that update two rows of one shard (`one_shard_commit`), through Trunkline with both settings, which must not differ, and directly.

use std::io;
use std::time::{Duration, Instant};

use super::clients::{Chance, Outcome, Turn, Window, watch};
use super::{Cluster, Commit, Placement, Proxy, SHARDS, Table};
use crate::cases::{Bench, blocking};
use crate::client::Client;
use crate::error::Result;
use crate::postgres::Durability;
use crate::report::Measure;
use crate::subjects::Subject;

pub const ROWS: u64 = 10_000;
/// Of rows on a shard; every client has its own, so that none waits for another's.
const MOST_CLIENTS: u64 = 64;

/// On what shards a transaction's two rows are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Two,
    One,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Through(Commit),
    /// Statements that commit by themselves.
    Plain,
    /// A block on each server concerned.
    Blocks,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Through(commit) => commit.name(),
            Way::Plain => "two_plain",
            Way::Blocks => "blocks",
        }
    }
}

const SUBJECTS: [(Reach, Way); 7] = [
    (Reach::Two, Way::Through(Commit::Atomic)),
    (Reach::Two, Way::Plain),
    (Reach::Two, Way::Blocks),
    (Reach::Two, Way::Through(Commit::BestEffort)),
    (Reach::One, Way::Through(Commit::Atomic)),
    (Reach::One, Way::Through(Commit::BestEffort)),
    (Reach::One, Way::Blocks),
];

pub async fn accounts(bench: &Bench, case: &str) -> Result<Cluster> {
    let table = "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)";
    let cluster = Cluster::start(bench, case, Durability::On, table).await?;
    cluster
        .run_on_all(|shard| {
            let first = shard as u64 * ROWS;
            format!(
                "INSERT INTO accounts SELECT n, 0 FROM generate_series({first}, {}) n; ANALYZE accounts",
                first + ROWS - 1
            )
        })
        .await?;
    Ok(cluster)
}

/// Succeeds when transactions of several shards commit.
pub async fn proxy(cluster: &Cluster, commit: Commit) -> Result<Proxy> {
    let tables = [Table {
        name: "accounts",
        placement: Placement::Ranges { each: ROWS },
    }];
    let keys: Vec<String> = (0..SHARDS as u64)
        .map(|shard| (shard * ROWS).to_string())
        .collect();
    let probe = format!(
        "UPDATE accounts SET balance = balance WHERE id IN ({})",
        keys.join(", ")
    );
    cluster.proxy(&tables, commit, &probe).await
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, window) = match bench.smoke {
        true => (1, Duration::from_millis(500)),
        false => (5, bench.load.window),
    };
    let rounds = bench.rounds.unwrap_or(rounds);
    let cluster = accounts(bench, "two_shard_commit").await?;
    let atomic = proxy(&cluster, Commit::Atomic).await?;
    let best_effort = proxy(&cluster, Commit::BestEffort).await?;
    for clients in [1, 16] {
        for round in 1..=rounds {
            let mut order = SUBJECTS;
            if round % 2 == 0 {
                order.reverse();
            }
            let mut windows = Vec::new();
            for subject in order {
                let through = match subject.1 {
                    Way::Through(Commit::Atomic) => Some(&atomic),
                    Way::Through(Commit::BestEffort) => Some(&best_effort),
                    Way::Plain | Way::Blocks => None,
                };
                let ports = through.map_or_else(|| cluster.ports(), |proxy| vec![proxy.port]);
                let pid = through.map(Proxy::pid);
                let seen = blocking("run transactions", move || {
                    let turns = (0..clients).map(|client| {
                        let transfer = Transfer::new(&ports, subject, client, u64::from(round))?;
                        Ok(Box::new(transfer) as Box<dyn Turn>)
                    });
                    watch(turns.collect::<io::Result<_>>()?, Vec::new(), pid, window)
                });
                windows.push((subject, seen.await?));
            }
            for measure in measures(&windows, clients, round) {
                bench.add(measure)?;
            }
        }
    }
    // Every transfer takes from one row what it gives to another.
    cluster
        .expect_total("SELECT sum(balance) FROM accounts", 0)
        .await
}

fn measures(windows: &[((Reach, Way), Window)], clients: u64, round: u32) -> Vec<Measure> {
    let mean = |reach: Reach, way: Way| {
        let found = windows.iter().find(|(subject, _)| *subject == (reach, way));
        found.map_or(f64::NAN, |(_, window)| window.mean_ms())
    };
    let measure = |((reach, way), window): &((Reach, Way), Window)| {
        let bench = match reach {
            Reach::Two => "two_shard_commit",
            Reach::One => "one_shard_commit",
        };
        let plural = if clients == 1 { "" } else { "s" };
        let kind = format!("{}, {clients} client{plural}", way.name());
        let subject = match way {
            Way::Through(_) => Subject::TrunklineFourShards,
            Way::Plain | Way::Blocks => Subject::Direct,
        };
        let mut measure = Measure::new(bench, kind, subject, round)
            .with("clients", clients as f64)
            .with("transactions_per_second", window.per_second(Outcome::Done));
        measure = window.latencies(measure);
        if let Way::Through(_) = way {
            measure = measure.with("cpu_us_per_transaction", window.cpu_us_each());
            let took = window.mean_ms();
            measure = match reach {
                Reach::Two => measure
                    .with("latency_to_two_plain", took / mean(Reach::Two, Way::Plain))
                    .with("latency_to_blocks", took / mean(Reach::Two, Way::Blocks)),
                Reach::One => measure
                    .with("latency_to_blocks", took / mean(Reach::One, Way::Blocks))
                    .with(
                        "latency_to_best_effort",
                        took / mean(Reach::One, Way::Through(Commit::BestEffort)),
                    ),
            };
        }
        measure
    };
    windows.iter().map(measure).collect()
}

/// A client that moves money between rows of its own.
pub struct Transfer {
    /// To the proxy, or to each server.
    connections: Vec<Client>,
    reach: Reach,
    way: Way,
    client: u64,
    chance: Chance,
}

impl Transfer {
    fn new(ports: &[u16], subject: (Reach, Way), client: u64, seed: u64) -> io::Result<Transfer> {
        let connections = ports.iter().map(|&port| Client::connect(port, None));
        Ok(Transfer {
            connections: connections.collect::<io::Result<_>>()?,
            reach: subject.0,
            way: subject.1,
            client,
            chance: Chance::new(seed * 1000 + client),
        })
    }

    /// Over two shards, through a proxy.
    pub fn over_two_shards(port: u16, client: u64, seed: u64) -> io::Result<Transfer> {
        let subject = (Reach::Two, Way::Through(Commit::Atomic));
        Transfer::new(&[port], subject, client, seed)
    }

    /// Two rows of this client, the shard first.
    fn rows(&mut self) -> [(usize, u64); 2] {
        let shards = SHARDS as u64;
        let from = self.chance.below(shards);
        let to = match self.reach {
            Reach::One => from,
            Reach::Two => (from + 1 + self.chance.below(shards - 1)) % shards,
        };
        let slots = ROWS / MOST_CLIENTS;
        let slot = self.chance.below(slots);
        let other = (slot + 1 + self.chance.below(slots - 1)) % slots;
        [(from, slot), (to, other)].map(|(shard, slot)| {
            (
                shard as usize,
                shard * ROWS + slot * MOST_CLIENTS + self.client,
            )
        })
    }
}

impl Turn for Transfer {
    fn take(&mut self) -> io::Result<(Outcome, Option<Duration>)> {
        let rows = self.rows();
        let updates = [(rows[0], -1), (rows[1], 1)].map(|((shard, id), amount)| {
            let sql = format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {id}");
            (shard, sql)
        });
        let mut commit = Duration::ZERO;
        match (self.way, self.reach) {
            (Way::Plain, _) => {
                for (shard, sql) in &updates {
                    self.connections[*shard].query(sql)?;
                }
                return Ok((Outcome::Done, None));
            }
            (Way::Blocks, Reach::Two) => {
                for (shard, sql) in updates {
                    commit += block(&mut self.connections[shard], &[sql])?;
                }
            }
            (Way::Blocks, Reach::One) => {
                let connection = &mut self.connections[updates[0].0];
                commit = block(connection, &updates.map(|(_, sql)| sql))?;
            }
            (Way::Through(_), _) => {
                commit = block(&mut self.connections[0], &updates.map(|(_, sql)| sql))?;
            }
        }
        Ok((Outcome::Done, Some(commit)))
    }
}

/// Returns what the COMMIT took.
fn block(connection: &mut Client, statements: &[String]) -> io::Result<Duration> {
    connection.query("BEGIN")?;
    for sql in statements {
        connection.query(sql)?;
    }
    let began = Instant::now();
    connection.query("COMMIT")?;
    Ok(began.elapsed())
}
