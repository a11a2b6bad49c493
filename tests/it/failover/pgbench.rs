//! pgbench through a proxy, while what it works on goes: what pgbench was told, what it lost, how long it stood still.
//!
//! A row of `pgbench_history` says whose it is, and pgbench's log has a line for each transaction that it was told is done. The two are held
//! against each other one by one: what is in the log and not in the table is lost. A client of pgbench that meets an error leaves; the others go on.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use super::process::Process;
use super::replicas::READS;
use super::size;
use super::stage::{NodeLine, SLACK, Stage, nodes_of};
use super::tap::{Place, Tap};
use crate::commit::cutting::Relays;
use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::succeeded;

/// Of each pgbench; there is one for each manner. And at night.
const CLIENTS: (usize, usize) = (4, 16);

/// How long a pgbench begins transactions, seconds. Those that have begun end.
const SECONDS: (usize, usize) = (8, 25);

/// Transactions before anything happens, or half of the time. They show how slow this machine is by itself.
const FIRST: (usize, usize) = (200, 1000);

/// How long a shard stays without a primary before somebody promotes.
const PAUSE: Duration = Duration::from_millis(300);

/// The tables of pgbench, and who has inserted a row where.
const SCHEMA: &str = "
    CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int NOT NULL, filler char(88));
    CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int NOT NULL, filler char(84));
    CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int NOT NULL, filler char(84));
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22),
        pgbench int, client int, n int, port int NOT NULL DEFAULT current_setting('port')::int);
    INSERT INTO pgbench_branches SELECT i, 0 FROM generate_series(1, 16) i;
    INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, 160) i;
    INSERT INTO pgbench_accounts SELECT i, (i - 1) / 1000 + 1, 0 FROM generate_series(1, 16000) i;
";

/// pgbench's own, but for the number of the transaction. `{BEGIN}` and `{END}` are there or not; machines have other things to do as well.
const SCRIPT: &str = "\\set n :n + 1
\\set aid random(1, 16000)
\\set bid random(1, 16)
\\set tid random(1, 160)
\\set delta random(-5000, 5000)
{BEGIN}
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, pgbench, client, n)
    VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP, :pgbench, :client_id, :n);
{END}
\\sleep 5 ms
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Prepared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Each statement by itself.
    Statement,
    Block,
}

const MANNERS: [(Protocol, Unit); 4] = [
    (Protocol::Simple, Unit::Statement),
    (Protocol::Simple, Unit::Block),
    (Protocol::Prepared, Unit::Statement),
    (Protocol::Prepared, Unit::Block),
];

/// A transaction: which pgbench's, which of its clients, and the how many-th of that.
type Transaction = (usize, i32, i64);

/// A pgbench that runs.
struct Run {
    number: usize,
    manner: (Protocol, Unit),
    tap: Tap,
    child: Child,
}

/// All that run.
struct Load {
    runs: Vec<Run>,
    folder: TempDir,
}

/// Who come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// They are there when it happens.
    Present,
    /// They come when there is no primary, and have no more to do than this.
    Late { transactions: usize },
}

/// Of each of those who come late.
const LATE: usize = 5;

/// What one pgbench has to tell.
struct Outcome {
    manner: (Protocol, Unit),
    tap: Tap,
    acknowledged: BTreeSet<Transaction>,
    longest: Duration,
    /// The longest of those that ended before anything happened.
    calm: Duration,
    /// What it prints.
    said: String,
}

impl Load {
    fn start(stage: &Stage, port: u16, who: Who) -> Load {
        let folder = TempDir::new().unwrap();
        let program = stage.cluster.installation().bin().join("pgbench");
        let (first, length) = match who {
            Who::Present => (0, ["-T".into(), size(SECONDS).to_string()]),
            Who::Late { transactions } => (MANNERS.len(), ["-t".into(), transactions.to_string()]),
        };
        let start = |(number, manner): (usize, (Protocol, Unit))| {
            let (protocol, unit) = manner;
            let number = first + number;
            let (begin, end) = match unit {
                Unit::Statement => ("", ""),
                Unit::Block => ("BEGIN;", "END;"),
            };
            let script = folder.path().join(format!("{number}.sql"));
            let text = SCRIPT.replace("{BEGIN}", begin).replace("{END}", end);
            std::fs::write(&script, text).unwrap();
            let tap = Tap::start(port);
            let place = |kind| folder.path().join(format!("{number}.{kind}"));
            let output = |kind| std::fs::File::create(place(kind)).unwrap();
            let child = Command::new(&program)
                .args(["-n", "-l", "-h", "127.0.0.1", "-U", "app"])
                .args(["-p", &tap.port.to_string()])
                .args(["-c", &size(CLIENTS).to_string()])
                .args(&length)
                .args(["-D", "n=0", "-D", &format!("pgbench={number}")])
                .args([
                    "-M",
                    match protocol {
                        Protocol::Simple => "simple",
                        Protocol::Prepared => "prepared",
                    },
                ])
                .arg("--log-prefix")
                .arg(place("log"))
                .arg("-f")
                .arg(&script)
                .arg("app")
                .env("PGSSLMODE", "disable")
                .env("PGGSSENCMODE", "disable")
                .stdin(Stdio::null())
                .stdout(output("out"))
                .stderr(output("err"))
                .spawn()
                .unwrap();
            Run {
                number,
                manner,
                tap,
                child,
            }
        };
        let runs = MANNERS.into_iter().enumerate().map(start).collect();
        Load { runs, folder }
    }

    /// Waits until all of them have come to their end. Until `began` nothing has happened.
    fn end(mut self, began: SystemTime) -> Vec<Outcome> {
        let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        wait_until("pgbench ends", || {
            let mut runs = self.runs.iter_mut();
            runs.all(|run| run.child.try_wait().unwrap().is_some())
        });
        let runs = std::mem::take(&mut self.runs);
        let read = |number: usize, kind: &str| {
            std::fs::read_to_string(self.folder.path().join(format!("{number}.{kind}"))).unwrap()
        };
        let outcome = |run: Run| {
            let number = run.number;
            let log = format!("log.{}", run.child.id());
            let mut acknowledged = BTreeSet::new();
            let [mut longest, mut calm] = [Duration::ZERO; 2];
            for line in read(number, &log).lines() {
                let fields: Vec<i64> = line
                    .split(' ')
                    .map(|field| field.parse().unwrap())
                    .collect();
                acknowledged.insert((number, i32::try_from(fields[0]).unwrap(), fields[1]));
                let took = Duration::from_micros(fields[2].cast_unsigned());
                let (seconds, more) = (fields[4].cast_unsigned(), fields[5].cast_unsigned());
                longest = longest.max(took);
                if Duration::from_secs(seconds) + Duration::from_micros(more) < began {
                    calm = calm.max(took);
                }
            }
            let said = read(number, "out") + &read(number, "err");
            // With the number there should be behind it, where there is one.
            let counted = format!("actually processed: {}", acknowledged.len());
            let same = ["\n", "/"].map(|end| said.contains(&(counted.clone() + end)));
            assert_ne!(same, [false, false], "{counted}\n{said}");
            Outcome {
                manner: run.manner,
                tap: run.tap,
                acknowledged,
                longest,
                calm,
                said,
            }
        };
        runs.into_iter().map(outcome).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for run in &mut self.runs {
            let _ = run.child.kill();
            let _ = run.child.wait();
        }
    }
}

impl Outcome {
    /// How many errors it was told.
    fn errors(&self) -> usize {
        self.tap.told().values().sum()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, unit) = self.manner;
        write!(
            f,
            "    {protocol:?}, {unit:?}: {} acknowledged, {} errors, longest {:?}, before {:?}",
            self.acknowledged.len(),
            self.errors(),
            self.longest,
            self.calm
        )?;
        for (told, count) in self.tap.told() {
            let (sqlstate, place, message) = (told.sqlstate, told.place, told.message);
            write!(f, "\n        {count} {place:?}: {sqlstate} {message}")?;
        }
        Ok(())
    }
}

/// What a case did to the servers.
struct Done {
    /// The node that takes writes in the end.
    primary: usize,
    /// While no node took writes.
    outage: Duration,
    /// From the beginning of the outage until the proxy knew of the new primary.
    seen: Duration,
    /// What those may be told who came when it had happened.
    late: Errors,
}

/// What clients may be told in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errors {
    None,
    /// Once each, of a transaction that was under way.
    UnderWay,
}

/// How a transaction that was under way may end.
const LOST: [&str; 4] = ["57P01", "57P02", "08006", "40003"];

/// What is in a node's table.
fn history(stage: &Stage, place: usize) -> BTreeSet<Transaction> {
    let sql = "SELECT pgbench, client, n FROM pgbench_history";
    let rows = stage.node(0, place).run_sql("app", sql);
    let rows = rows.unwrap_or_else(|e| panic!("{e}"));
    let number = |text: &Option<String>| -> i64 {
        let text = text.as_ref().expect("not null");
        text.parse().expect("a number")
    };
    let mut found = BTreeSet::new();
    for row in &rows {
        let who = usize::try_from(number(&row[0])).expect("small");
        let client = i32::try_from(number(&row[1])).expect("small");
        let transaction = (who, client, number(&row[2]));
        assert!(found.insert(transaction), "{transaction:?} was done twice");
    }
    found
}

/// How often each client has come how far: the transactions behind the last acknowledged ones of theirs.
fn next(acknowledged: &BTreeSet<Transaction>, who: usize, client: i32) -> i64 {
    let mut own = acknowledged.range((who, client, 0)..(who, client, i64::MAX));
    own.next_back().map_or(1, |(_, _, n)| n + 1)
}

/// What of that which was acknowledged may be missing in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losses {
    Nothing,
    /// What the first primary had not sent when it died, and nothing else.
    ItsLast,
}

/// What is lost was the last that each client had from the first primary: nothing is missing in between.
fn only_the_last(stage: &Stage, done: &Done, lost: &[Transaction]) {
    let sql = format!(
        "SELECT pgbench, client, max(n) FROM pgbench_history WHERE port = {} GROUP BY 1, 2",
        stage.port(0)
    );
    let kept = stage.node(0, done.primary).run_sql("app", &sql);
    for row in kept.unwrap_or_else(|e| panic!("{e}")) {
        let number = |place: usize| -> i64 {
            let text = row[place].as_ref().expect("not null");
            text.parse().expect("a number")
        };
        let own = lost.iter().filter(|(who, client, _)| {
            i64::try_from(*who) == Ok(number(0)) && i64::from(*client) == number(1)
        });
        for (who, client, n) in own {
            assert!(
                *n > number(2),
                "{n} of {who}/{client} is lost, and {} is not",
                number(2)
            );
        }
    }
}

/// Has pgbench work while something is done to the servers, and looks at what became of its work. Gives what was acknowledged.
fn run(
    name: &str,
    stage: Stage,
    port: u16,
    allowed: Errors,
    harm: impl FnOnce(&mut Stage, &dyn Fn(&Stage)) -> Done,
) -> (Stage, Done, BTreeSet<Transaction>) {
    run_losing(name, stage, port, (allowed, Losses::Nothing), harm)
}

fn run_losing(
    name: &str,
    mut stage: Stage,
    port: u16,
    (allowed, losses): (Errors, Losses),
    harm: impl FnOnce(&mut Stage, &dyn Fn(&Stage)) -> Done,
) -> (Stage, Done, BTreeSet<Transaction>) {
    let load = Load::start(&stage, port, Who::Present);
    let (since, enough) = (Instant::now(), size(FIRST));
    let half = Duration::from_secs(size(SECONDS) as u64) / 2;
    wait_until("pgbench works", || {
        let count = "SELECT count(*) FROM pgbench_history";
        let count: usize = stage.value(0, 0, count).parse().unwrap();
        count > enough || count > 0 && since.elapsed() > half
    });
    let began = SystemTime::now();
    let late = Cell::new(None);
    let come = |stage: &Stage| {
        let transactions = LATE;
        late.set(Some(Load::start(stage, port, Who::Late { transactions })));
    };
    let done = harm(&mut stage, &come);
    let mut outcomes = load.end(began);
    let present = outcomes.len();
    outcomes.extend(late.take().map(|late| late.end(began)).unwrap_or_default());
    let there = history(&stage, done.primary);
    let longest = outcomes.iter().map(|outcome| outcome.longest).max();
    let longest = longest.expect("there are some");
    let acknowledged: BTreeSet<_> = outcomes
        .iter()
        .flat_map(|outcome| outcome.acknowledged.iter().copied())
        .collect();
    let lost: Vec<_> = acknowledged.difference(&there).copied().collect();
    println!(
        "{name}: no writes for {:?}, seen after {:?}, longest transaction {longest:?}, {} acknowledged, {} of them lost",
        done.outage,
        done.seen,
        acknowledged.len(),
        lost.len(),
    );
    for (place, outcome) in outcomes.iter().enumerate() {
        if place == present {
            println!("    and those who came then");
        }
        println!("{outcome}");
    }
    match losses {
        Losses::Nothing => assert!(lost.is_empty(), "{name}: {lost:?}"),
        Losses::ItsLast => only_the_last(&stage, &done, &lost),
    }
    // More than was acknowledged is what was under way when its client was told of an error.
    let told: usize = outcomes.iter().map(Outcome::errors).sum();
    let more: Vec<_> = there.difference(&acknowledged).collect();
    assert!(more.len() <= told, "{name}: {more:?}");
    for (who, client, n) in more {
        assert_eq!(next(&acknowledged, *who, *client), *n, "{name}: {client}");
    }
    assert!(longest <= done.outage + SLACK, "{name}");
    let port = stage.node(0, done.primary).port();
    let later = format!("SELECT count(*) FROM pgbench_history WHERE port = {port}");
    assert_ne!(stage.value(0, done.primary, &later), "0", "{name}");
    for (place, outcome) in outcomes.iter().enumerate() {
        let allowed = match place < present {
            true => allowed,
            false => done.late,
        };
        match allowed {
            Errors::None => assert_eq!(outcome.errors(), 0, "{name}: {outcome}\n{}", outcome.said),
            Errors::UnderWay => {
                assert!(outcome.errors() <= size(CLIENTS), "{name}: {outcome}");
                for told in outcome.tap.told().keys() {
                    let known = LOST.contains(&&*told.sqlstate);
                    assert!(known && told.place != Place::LoggingIn, "{name}: {told:?}");
                }
            }
        }
    }
    (stage, done, acknowledged)
}

/// A shard with two replicas and pgbench's tables.
fn stage() -> Stage {
    let stage = Stage::start(1, 2);
    let mut client = Raw::connect(stage.port(0), "app", "app");
    succeeded(SCHEMA, &client.simple(SCHEMA));
    stage.level(0, &[1, 2]);
    stage
}

fn proxy(stage: &Stage, more: &str) -> Process {
    Process::start(&Stage::configuration(&[stage.ports()], more))
}

/// Somebody notices that the primary is gone, and makes another one of the furthest replica.
fn replace(stage: &Stage, come: &dyn Fn(&Stage)) -> usize {
    std::thread::sleep(PAUSE);
    come(stage);
    let second = stage.furthest(&[1, 2]);
    stage.repoint(3 - second, second);
    stage.promote(second);
    // With the replica that it waits for.
    stage.run(0, second, "INSERT INTO seen VALUES (1, 1)");
    second
}

#[test]
fn pgbench_and_a_primary_that_is_killed() {
    let stage = stage();
    stage.commit_with_a_replica(&[0, 1, 2]);
    kill("kill -9 of the primary", stage, Losses::Nothing);
}

/// How much is lost that was acknowledged: nobody waits for a replica. It depends on the machine and the network, and is told for what it is.
#[test]
#[ignore = "measures"]
fn pgbench_and_a_primary_that_is_killed_with_asynchronous_replicas() {
    for round in 1..=size(ROUNDS) {
        let name = format!("kill -9 of the primary, asynchronous replicas, {round}");
        kill(&name, stage(), Losses::ItsLast);
    }
}

/// Of what is measured with asynchronous replicas. And at night.
const ROUNDS: (usize, usize) = (3, 10);

fn kill(name: &str, stage: Stage, losses: Losses) {
    let proxy = proxy(&stage, "");
    run_losing(
        name,
        stage,
        proxy.port,
        (Errors::UnderWay, losses),
        |stage, come| {
            let killed = Instant::now();
            stage.kill(0, 0);
            let port = stage.port(0);
            nodes_of(proxy.port, "the primary is down", |nodes| {
                is_down(nodes, port)
            });
            let primary = replace(stage, come);
            let outage = killed.elapsed();
            let (seen, _) = nodes_of(proxy.port, "the new primary is used", |nodes| {
                is_primary(nodes, stage.port(primary))
            });
            Done {
                primary,
                outage,
                seen: seen - killed,
                late: Errors::None,
            }
        },
    );
}

/// It goes on when another one has taken over, and is asked for nothing.
#[test]
fn pgbench_and_a_primary_that_hangs() {
    let stage = stage();
    stage.commit_with_a_replica(&[0, 1, 2]);
    let proxy = proxy(&stage, "");
    let old = stage.port(0);
    let (stage, done, acknowledged) = run(
        "SIGSTOP of the primary",
        stage,
        proxy.port,
        Errors::UnderWay,
        |stage, come| {
            let stopped = Instant::now();
            let frozen = stage.freeze(0);
            let primary = replace(stage, come);
            let outage = stopped.elapsed();
            let (seen, _) = nodes_of(proxy.port, "the new primary is used", |nodes| {
                is_primary(nodes, stage.port(primary))
            });
            drop(frozen);
            nodes_of(proxy.port, "the old one is fenced", |nodes| {
                is_fenced(nodes, old)
            });
            Done {
                primary,
                outage,
                seen: seen - stopped,
                // What is sent to a primary that says nothing may be done there.
                late: Errors::UnderWay,
            }
        },
    );
    only_unheard(&stage, &done, &acknowledged);
}

/// Nobody reaches the primary, which lives; another one is made, and then it is there again.
#[test]
fn pgbench_and_a_primary_that_is_cut_off() {
    let stage = stage();
    stage.commit_with_a_replica(&[0, 1, 2]);
    let relays = Relays::start(&stage.ports());
    let ports = relays.ports().to_vec();
    let proxy = Process::start(&Stage::configuration(std::slice::from_ref(&ports), ""));
    let (stage, done, acknowledged) = run(
        "a network that is cut",
        stage,
        proxy.port,
        Errors::UnderWay,
        |stage, come| {
            let cut = Instant::now();
            let frozen = relays.freeze(0);
            let primary = replace(stage, come);
            let outage = cut.elapsed();
            let (seen, _) = nodes_of(proxy.port, "the new primary is used", |nodes| {
                is_primary(nodes, ports[primary])
            });
            drop(frozen);
            nodes_of(proxy.port, "the old one is fenced", |nodes| {
                is_fenced(nodes, ports[0])
            });
            Done {
                primary,
                outage,
                seen: seen - cut,
                late: Errors::UnderWay,
            }
        },
    );
    only_unheard(&stage, &done, &acknowledged);
}

fn is_primary(nodes: &[NodeLine], port: u16) -> bool {
    nodes
        .iter()
        .any(|node| node.port == port && node.is_primary)
}

fn is_down(nodes: &[NodeLine], port: u16) -> bool {
    let mut nodes = nodes.iter();
    nodes.any(|node| node.port == port && node.stage == "down")
}

fn is_fenced(nodes: &[NodeLine], port: u16) -> bool {
    let mut nodes = nodes.iter();
    nodes.any(|node| node.port == port && node.stage == "fenced")
}

/// What the first primary has and the new one has not was acknowledged to nobody, and is no more than one transaction of each client: what was on
/// its way when the other one took over.
fn only_unheard(stage: &Stage, done: &Done, acknowledged: &BTreeSet<Transaction>) {
    // What waits for a replica there shows when it waits no longer.
    stage.configure(0, "synchronous_standby_names", "");
    let new = history(stage, done.primary);
    let old = history(stage, 0);
    let behind: Vec<_> = old.difference(&new).collect();
    println!("    on the old primary alone: {}", behind.len());
    for (who, client, n) in behind {
        assert!(!acknowledged.contains(&(*who, *client, *n)));
        assert_eq!(next(acknowledged, *who, *client), *n, "of {who}/{client}");
    }
}

/// Reads go to replicas, and one of these dies.
#[test]
fn pgbench_and_a_replica_that_is_killed() {
    let stage = stage();
    // Else hardly any read of clients that write all the time would go to a replica.
    let proxy = proxy(&stage, &format!("{READS}wait = \"200ms\"\n"));
    let port = stage.port(2);
    let (stage, ..) = run(
        "kill -9 of a replica",
        stage,
        proxy.port,
        Errors::None,
        |stage, come| {
            stage.kill(0, 2);
            come(stage);
            nodes_of(proxy.port, "it is down", |nodes| is_down(nodes, port));
            Done {
                primary: 0,
                outage: Duration::ZERO,
                seen: Duration::ZERO,
                late: Errors::None,
            }
        },
    );
    let read =
        "SELECT sum(idx_scan) > 0 FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'";
    wait_until("reads from a replica are counted", || {
        stage.value(0, 1, read) == "t"
    });
}

/// Asynchronous replicas: nothing but the switchover itself sees to it that nothing is lost.
#[test]
fn pgbench_and_a_planned_switchover() {
    let stage = stage();
    let boss = "users = [{ name = \"boss\", auth = \"trust\", admin = true, server_user = \"postgres\" }, ";
    let text = Stage::configuration(&[stage.ports()], "").replace("users = [", boss);
    let proxy = Process::start(&text);
    run(
        "SWITCHOVER",
        stage,
        proxy.port,
        Errors::None,
        |stage, come| {
            come(stage);
            let mut admin = Raw::connect(proxy.port, "app", "trunkline");
            let asked = format!("SWITCHOVER s1 TO '127.0.0.1:{}'", stage.node(0, 1).port());
            let answer = admin.simple(&asked);
            succeeded(&asked, &answer);
            for line in answer.lines() {
                println!("    {line}");
            }
            let waited = answer.lines().iter().find_map(|line| {
                let behind = line.split_once("have waited for ")?.1;
                behind.strip_suffix(" ms")?.parse().ok()
            });
            let waited = Duration::from_millis(waited.expect("it says so"));
            Done {
                primary: 1,
                outage: waited,
                seen: waited,
                late: Errors::None,
            }
        },
    );
}
