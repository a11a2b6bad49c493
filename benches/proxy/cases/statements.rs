//! What a statement costs: pgbench with one script or another, and the CPU time, throughput and latency of each subject.

use std::path::PathBuf;

use super::{Bench, Case, in_turn};
use crate::error::{Error, Result};
use crate::load::{Pace, Protocol, Work};
use crate::report::{Record, Round};
use crate::subjects::{Entrant, Lineup, Settings, Sockets, Subject};
use crate::{Length, Mode};

/// 200 rows of about 110 bytes.
const ANSWER_22KB: &str = "\\set aid random(1, 100000 * :scale)\nSELECT a.aid, a.filler, n FROM pgbench_accounts a CROSS JOIN generate_series(1, 200) n WHERE a.aid = :aid;\n";

/// Statements in one batch. They have one key, since a batch is a transaction and a transaction stays on its shard.
const BATCH: u32 = 10;

/// Rounds of one load.
struct Plan {
    /// As in the records.
    bench: &'static str,
    work: Work,
    modes: Vec<Mode>,
    subjects: Vec<Subject>,
    sockets: Sockets,
    pool_size: u32,
    rounds: u32,
}

pub async fn run(bench: &mut Bench, case: Case, length: &Length) -> Result<()> {
    for plan in plans(bench, case, length)? {
        measure(bench, &plan, length).await?;
    }
    Ok(())
}

fn plans(bench: &Bench, case: Case, length: &Length) -> Result<Vec<Plan>> {
    let work = |protocol| Work {
        protocol,
        script: None,
        statements: 1,
        clients: length.clients,
        jobs: length.jobs,
    };
    let plan = |bench_name, work| Plan {
        bench: bench_name,
        work,
        modes: vec![Mode::Together],
        // Its clients are in four databases, and it is there to be compared with four shards.
        subjects: (bench.subjects.iter().copied())
            .filter(|&subject| {
                case == Case::PointSelect || subject != Subject::PgbouncerFourServers
            })
            .collect(),
        sockets: Sockets::Loopback,
        pool_size: bench.settings.pool_size,
        rounds: length.rounds,
    };
    let protocols = length.protocols.iter().copied();
    Ok(match case {
        Case::PointSelect => protocols
            .map(|protocol| Plan {
                modes: length.modes.clone(),
                ..plan("point_select", work(protocol))
            })
            .collect(),
        Case::Answer22kb => {
            let script = script(bench, "answer_22kb", ANSWER_22KB)?;
            let with_script = |protocol| Work {
                script: Some(script.clone()),
                ..work(protocol)
            };
            protocols
                .map(|protocol| plan("answer_22kb", with_script(protocol)))
                .collect()
        }
        Case::Pipeline => {
            let select = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
            let text = format!(
                "\\set aid random(1, 100000 * :scale)\n\\startpipeline\n{}\\endpipeline\n",
                select.repeat(BATCH as usize)
            );
            let script = script(bench, "pipeline", &text)?;
            protocols
                // A simple query cannot be in a batch.
                .filter(|&protocol| protocol != Protocol::Simple)
                .map(|protocol| {
                    let work = Work {
                        script: Some(script.clone()),
                        statements: BATCH,
                        ..work(protocol)
                    };
                    plan("pipeline", work)
                })
                .collect()
        }
        Case::UnixSockets => protocols
            .map(|protocol| {
                let mut plan = plan("unix_sockets", work(protocol));
                plan.sockets = Sockets::Unix;
                // The forwarder knows only TCP.
                plan.subjects
                    .retain(|&subject| subject != Subject::Forwarder);
                plan
            })
            .collect(),
        Case::Clients => [1, 4, 64, 256]
            .map(|clients| {
                let mut work = work(Protocol::Prepared);
                work.clients = clients;
                // Latency is of interest, so each has the machine for itself.
                Plan {
                    modes: vec![Mode::InTurn],
                    ..plan("clients", work)
                }
            })
            .into(),
        Case::Workers => {
            let mut work = work(Protocol::Simple);
            work.clients = 64;
            vec![Plan {
                modes: vec![Mode::InTurn],
                subjects: vec![Subject::Trunkline, Subject::TrunklineTwoWorkers],
                pool_size: 16,
                ..plan("workers", work)
            }]
        }
        Case::Idle
        | Case::Large
        | Case::Storm
        | Case::StormAfterRestart
        | Case::Polls
        | Case::TwoShardCommit
        | Case::AtomicRead
        | Case::ScatterAggregate
        | Case::MergeSort
        | Case::CopyFrom
        | Case::Gather
        | Case::Tpch
        | Case::MoveRows
        | Case::MoveNoticed => Vec::new(),
    })
}

fn script(bench: &Bench, name: &str, text: &str) -> Result<PathBuf> {
    let path = bench.folder.path().join(format!("{name}.sql"));
    std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    Ok(path)
}

async fn measure(bench: &mut Bench, plan: &Plan, length: &Length) -> Result<()> {
    let settings = Settings {
        sockets: plan.sockets,
        pool_size: plan.pool_size,
        clients: plan.work.clients,
        ..bench.settings.clone()
    };
    let protocol = plan.work.protocol;
    let lineup = Lineup::start(&plan.subjects, &bench.site(&settings)).await?;
    let before = bench.lookups().await?;
    let mut sent = Sent::default();
    for &subject in &plan.subjects {
        let warmed = bench
            .load
            .warm_up(&plan.work, lineup.get(subject, protocol))
            .await?;
        sent.add(subject, &warmed);
    }
    for &mode in &plan.modes {
        for number in 1..=plan.rounds {
            let order: Vec<&Entrant> = in_turn(&plan.subjects, number)
                .into_iter()
                .map(|subject| lineup.get(subject, protocol))
                .collect();
            // Each inner list is under load at the same time.
            let (groups, pace) = match mode {
                Mode::Together => (proxies_first(order), Pace::Saturated),
                Mode::Paced => (vec![order], Pace::PerSecond(length.rate)),
                Mode::InTurn => (
                    order.chunks(1).map(<[_]>::to_vec).collect(),
                    Pace::Saturated,
                ),
            };
            for group in groups {
                let runs = bench.load.measure(&plan.work, &group, pace, number).await?;
                for (entrant, run) in group.into_iter().zip(runs) {
                    sent.add(entrant.subject, &run.sent);
                    let round = Round {
                        mode,
                        bench: bench_name(plan.bench, mode),
                        protocol,
                        clients: plan.work.clients,
                        number,
                    };
                    let record =
                        Record::new(round, entrant, &run, &plan.work, &settings, &bench.binaries);
                    bench.add_record(record)?;
                }
            }
        }
    }
    // Server processes report their counters for certain only when they end.
    drop(lineup);
    bench
        .prove_spread(&before, &sent, u64::from(plan.work.statements))
        .await
}

/// Where one case has several modes, records of the others have their mode in the name.
fn bench_name(plan: &'static str, mode: Mode) -> &'static str {
    match (plan, mode) {
        ("point_select", Mode::Paced) => "point_select_paced",
        ("point_select", Mode::InTurn) => "point_select_in_turn",
        _ => plan,
    }
}

/// Transactions that went to more servers than the first.
#[derive(Default)]
struct Sent {
    /// Through the proxy that finds the shard.
    routed: u64,
    /// By clients of each server's own database.
    placed: Vec<u64>,
}

impl Sent {
    /// So many in each of the subject's databases.
    fn add(&mut self, subject: Subject, transactions: &[u64]) {
        match subject {
            Subject::TrunklineFourShards => self.routed += transactions.iter().sum::<u64>(),
            Subject::PgbouncerFourServers => {
                self.placed.resize(transactions.len(), 0);
                for (sum, count) in self.placed.iter_mut().zip(transactions) {
                    *sum += count;
                }
            }
            _ => {}
        }
    }
}

/// All proxies at once, then what needs none: there is no CPU time to measure, and it would take a third of the machine from them.
fn proxies_first(order: Vec<&Entrant>) -> Vec<Vec<&Entrant>> {
    let (direct, proxies): (Vec<_>, Vec<_>) = order
        .into_iter()
        .partition(|entrant| entrant.subject == Subject::Direct);
    let mut groups = vec![proxies, direct];
    groups.retain(|group| !group.is_empty());
    groups
}

impl Bench {
    /// The lookups in `pgbench_accounts` that each server has counted.
    async fn lookups(&self) -> Result<Vec<u64>> {
        let mut counts = Vec::new();
        for server in &self.servers {
            counts.push(server.lookups(&self.binaries).await?);
        }
        Ok(counts)
    }

    /// Every server holds all rows, so a router that always picked one shard would go unnoticed (and be cheaper): count what arrived.
    async fn prove_spread(&self, before: &[u64], sent: &Sent, statements: u64) -> Result<()> {
        if sent.routed == 0 {
            return Ok(());
        }
        let shards = self.servers.len() as u64;
        for ((shard, server), before) in self.servers.iter().enumerate().zip(before).skip(1) {
            // Even over the shards; random keys over buckets stay far inside a fifth of that.
            let fair = sent.routed * statements / shards;
            let placed = sent.placed.get(shard).copied().unwrap_or(0) * statements;
            let (least, most) = (placed + fair - fair / 5, placed + fair + fair / 5);
            server
                .wait_for_lookups(&self.binaries, before + least..=before + most)
                .await
                .map_err(|found| Error::NotSpread {
                    shard,
                    found: found.saturating_sub(*before),
                    least,
                    most,
                })?;
        }
        Ok(())
    }
}
