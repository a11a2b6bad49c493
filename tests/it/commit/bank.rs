//! Accounts on four shards, and clients that move money between them over two proxies, while something fails in every round.
//!
//! Nothing of a transfer may be lost or made: each leaves an entry with its number beside each account that it changes, so that after a round every
//! shard's rows can be held against what the clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{RngExt, SeedableRng};
use trunkline::cli::local::{Cluster, Server};

use super::cutting::{Relays, STEPS, Step};
use super::{BOUND, PATIENCE, Proxy, Told, comes_true, kill_shard, ports, prepared, shards, told};
use crate::raw::{Answer, Raw};
use crate::sharded::succeeded;

const ACCOUNTS: i32 = 32;

/// Of each account, at first.
const BALANCE: i64 = 1000;

const CLIENTS: usize = 8;

/// What a client waits after something failed.
const REST: Duration = Duration::from_millis(20);

/// Transfers that must succeed through each proxy after a fault, before the next round.
const PROGRESS: usize = 4;

/// Rounds, and those when `TRUNKLINE_NIGHTLY` is set.
const ROUNDS: (u32, u32) = (30, 500);

/// How long a fault lasts that passes by itself.
const SPELL: Duration = Duration::from_millis(700);

/// What sums over all accounts promise to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sums {
    /// A transfer may be seen on one shard and not on another.
    Torn,
    /// Each is exact, or fails.
    Atomic,
}

impl Sums {
    fn of(place: usize) -> Sums {
        if place < 2 { Sums::Torn } else { Sums::Atomic }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillProxy(usize),
    KillShard(usize),
    /// SIGSTOP, and SIGCONT after a while.
    StopShard(usize),
    /// All connections of a proxy to a shard are reset.
    Cut(usize, usize),
    /// No byte passes between a proxy and a shard for a while.
    Freeze(usize, usize),
    /// The next connection of the proxy that comes to the step is reset there.
    CutAt(usize, Step),
    /// It stands still there for a while.
    LateAt(usize, Step),
    /// The proxy is killed when one has come there; what was held still arrives.
    KillProxyAt(usize, Step),
    /// The shard is.
    KillShardAt(usize, Step),
}

impl Fault {
    fn any(random: &mut SmallRng) -> Fault {
        let (proxy, shard) = (random.random_range(0..2), random.random_range(0..4));
        let (_, step) = *STEPS.choose(random).expect("there are some");
        match random.random_range(0..9) {
            0 => Fault::KillProxy(proxy),
            1 => Fault::KillShard(shard),
            2 => Fault::StopShard(shard),
            3 => Fault::Cut(proxy, shard),
            4 => Fault::Freeze(proxy, shard),
            5 => Fault::CutAt(proxy, step),
            6 => Fault::LateAt(proxy, step),
            7 => Fault::KillProxyAt(proxy, step),
            _ => Fault::KillShardAt(proxy, step),
        }
    }
}

/// A transfer, or several at once: what each account gains, which is 0 in sum.
struct Transfer {
    number: i64,
    gains: BTreeMap<i32, i64>,
    told: Told,
    words: String,
}

/// What clients and conductor share.
struct Counter {
    proxies: [u16; 2],
    /// By shard.
    accounts: Vec<Vec<i32>>,
    /// Clients are inside during one transaction; who audits is alone there.
    door: RwLock<()>,
    closed: AtomicBool,
    /// Since the last audit.
    ledger: Mutex<Vec<Transfer>>,
    /// Through each proxy.
    committed: [AtomicUsize; 2],
    sums: AtomicUsize,
    /// What reads have shown that must not be.
    wrong: Mutex<Vec<String>>,
}

/// Whether a connection may be used again.
enum Done {
    Well,
    Badly,
}

impl Counter {
    /// One client, until the counter closes.
    fn serve(&self, place: usize, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(place as u64));
        // Every proxy always has clients.
        let proxy = self.proxies[place % 2];
        let sums = Sums::of(place);
        let mut connection = None;
        let mut number = i64::try_from(place).expect("small") * 1_000_000_000;
        loop {
            let _inside = self.door.read().expect("nobody panics inside");
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut client) = connection.take().or_else(|| connect(proxy, sums)) else {
                std::thread::sleep(REST);
                continue;
            };
            let done = if random.random_ratio(1, 5) {
                self.sum(&mut client, sums)
            } else {
                number += 1;
                let done = self.transfer(&mut client, number, &mut random);
                if let Done::Well = done {
                    self.committed[place % 2].fetch_add(1, Ordering::Relaxed);
                }
                done
            };
            match done {
                Done::Well => connection = Some(client),
                Done::Badly => std::thread::sleep(REST),
            }
        }
    }

    fn committed(&self) -> [usize; 2] {
        [0, 1].map(|proxy: usize| self.committed[proxy].load(Ordering::Relaxed))
    }

    fn sum(&self, client: &mut Raw, sums: Sums) -> Done {
        match client.try_simple("SELECT sum(balance) FROM accounts") {
            Ok(answer) if answer.error.is_none() => {
                let sum = answer.rows[0][0].as_deref().expect("there are accounts");
                let sum = std::str::from_utf8(sum).expect("text");
                if sums == Sums::Atomic && sum != total().to_string() {
                    let torn = format!("an atomic sum is {sum} and not {}", total());
                    self.wrong.lock().expect("nobody panics").push(torn);
                }
                self.sums.fetch_add(1, Ordering::Relaxed);
                Done::Well
            }
            Ok(_) | Err(_) => Done::Badly,
        }
    }

    fn transfer(&self, client: &mut Raw, number: i64, random: &mut SmallRng) -> Done {
        // Of different shards mostly: those of one shard have nothing to agree upon.
        let shards = *[1, 2, 2, 2, 3, 4].choose(random).expect("some");
        let mut gains = BTreeMap::new();
        for accounts in self.accounts.iter().sample(random, shards) {
            let each = if shards == 1 { 2 } else { 1 };
            for account in accounts.iter().sample(random, each) {
                gains.insert(*account, random.random_range(-50..50));
            }
        }
        let surplus: i64 = gains.values().sum();
        *gains.values_mut().next().expect("at least one") -= surplus;
        let (told, words) = attempt(client, number, &gains, random);
        // One shard's own commit is a matter between it and the client.
        let is_lost = words.contains("\"08") || words.contains("\"57");
        let told = match told {
            Told::Failed if shards == 1 && is_lost => Told::Unknown,
            told => told,
        };
        let transfer = Transfer {
            number,
            gains,
            told,
            words,
        };
        self.ledger.lock().expect("nobody panics").push(transfer);
        match told {
            Told::Committed => Done::Well,
            Told::Failed | Told::Unknown => Done::Badly,
        }
    }
}

fn connect(proxy: u16, sums: Sums) -> Option<Raw> {
    let mut client = Raw::attempt(proxy, "app", "app", PATIENCE).ok()?.ok()?;
    if sums == Sums::Atomic {
        let atomic = "SET trunkline.read_consistency = 'atomic'";
        succeeded(atomic, &client.try_simple(atomic).ok()?);
    }
    Some(client)
}

/// What the client is told in the end.
fn attempt(
    client: &mut Raw,
    number: i64,
    gains: &BTreeMap<i32, i64>,
    random: &mut SmallRng,
) -> (Told, String) {
    let entries: Vec<String> = gains
        .iter()
        .map(|(account, gain)| format!("({account}, {number}, {gain})"))
        .collect();
    let insert = format!(
        "INSERT INTO entries (account, transfer, amount) VALUES {}",
        entries.join(", ")
    );
    let mut statements = vec!["BEGIN".to_owned()];
    if random.random() {
        // Always in this order, or they would wait for each other.
        statements.extend(gains.iter().map(|(account, gain)| {
            format!("UPDATE accounts SET balance = balance + {gain} WHERE id = {account}")
        }));
    } else {
        let cases: String = gains
            .iter()
            .map(|(account, gain)| format!(" WHEN {account} THEN {gain}"))
            .collect();
        let ids: Vec<String> = gains.keys().map(i32::to_string).collect();
        statements.push(format!(
            "UPDATE accounts SET balance = balance + CASE id{cases} END WHERE id IN ({})",
            ids.join(", ")
        ));
    }
    statements.push(insert);
    for statement in &statements {
        // Whatever happens before COMMIT is said, nothing is committed.
        match client.try_simple(statement) {
            Err(error) => return (Told::Failed, error.to_string()),
            Ok(Answer {
                error: Some(error), ..
            }) => return (Told::Failed, format!("{error:?}")),
            Ok(_) => {}
        }
    }
    told(&client.try_simple("COMMIT"), "COMMIT")
}

fn total() -> i64 {
    i64::from(ACCOUNTS) * BALANCE
}

/// Who makes things fail, and then counts.
struct Conductor {
    cluster: Cluster,
    ports: Vec<u16>,
    relays: [Relays; 2],
    proxies: [Proxy; 2],
    /// What the entries that were audited and removed add up to.
    audited: BTreeMap<i32, i64>,
}

impl Conductor {
    fn new() -> Conductor {
        let cluster = shards();
        let ports = ports(&cluster);
        let relays = [(); 2].map(|()| Relays::start(&ports));
        let proxies = [0, 1].map(|place: usize| Proxy::start(relays[place].ports()));
        let mut client = proxies[0].connect().expect("it serves").expect("it trusts");
        for account in 0..ACCOUNTS {
            let insert = format!("INSERT INTO accounts VALUES ({account}, {BALANCE})");
            succeeded(&insert, &client.simple(&insert));
        }
        Conductor {
            cluster,
            ports,
            relays,
            proxies,
            audited: (0..ACCOUNTS).map(|account| (account, 0)).collect(),
        }
    }

    /// Returns when everything is up again.
    fn inflict(&mut self, fault: Fault) {
        match fault {
            Fault::KillProxy(proxy) => {
                self.proxies[proxy].kill();
                self.proxies[proxy].launch();
            }
            Fault::KillShard(shard) => kill_shard(&mut self.cluster, shard),
            Fault::StopShard(shard) => {
                let _stopped = Stopped::all_of(&self.cluster.shards()[shard].primary);
                std::thread::sleep(SPELL);
            }
            Fault::Cut(proxy, shard) => self.relays[proxy].cut(shard),
            Fault::Freeze(proxy, shard) => {
                let _frozen = self.relays[proxy].freeze(shard);
                std::thread::sleep(SPELL);
            }
            Fault::CutAt(proxy, step)
            | Fault::LateAt(proxy, step)
            | Fault::KillProxyAt(proxy, step)
            | Fault::KillShardAt(proxy, step) => {
                let arrives = self.relays[proxy].arm(step);
                let held = arrives.recv_timeout(PATIENCE).expect("somebody commits");
                match fault {
                    Fault::LateAt(..) => {
                        std::thread::sleep(SPELL);
                        held.let_go();
                    }
                    Fault::KillProxyAt(..) => {
                        self.proxies[proxy].kill();
                        held.let_go();
                        self.proxies[proxy].launch();
                    }
                    Fault::KillShardAt(..) => {
                        let shard = held.shard;
                        held.cut();
                        kill_shard(&mut self.cluster, shard);
                    }
                    _ => held.cut(),
                }
            }
        }
    }

    /// Nobody is at the counter.
    fn audit(&mut self, ledger: &[Transfer]) -> Result<(), String> {
        let mut left = Vec::new();
        let resolved = comes_true(BOUND, || {
            left = prepared(&self.ports);
            left.is_empty()
        });
        if !resolved {
            return Err(format!("left prepared: {left:?}"));
        }
        let mut wrong = Vec::new();
        let mut found: BTreeMap<i64, BTreeSet<i32>> = BTreeMap::new();
        let mut sum = 0;
        for (place, port) in self.ports.iter().enumerate() {
            let mut shard = Raw::connect(*port, "postgres", "app");
            for row in numbers(&mut shard, "SELECT transfer, account, amount FROM entries") {
                let account = i32::try_from(row[1]).expect("an account");
                found.entry(row[0]).or_default().insert(account);
                *self.audited.get_mut(&account).expect("an account") += row[2];
            }
            for row in numbers(&mut shard, "SELECT id, balance FROM accounts") {
                sum += row[1];
                let gained = self.audited[&i32::try_from(row[0]).expect("an account")];
                if row[1] != BALANCE + gained {
                    wrong.push(format!(
                        "account {} on s{}: {} and entries of {gained}",
                        row[0],
                        place + 1,
                        row[1]
                    ));
                }
            }
            // What is left of them is in `audited`. None is locked: those who inserted have committed.
            let forget = "DELETE FROM entries";
            succeeded(forget, &shard.simple(forget));
        }
        if sum != total() {
            wrong.push(format!("the sum is {sum} and not {}", total()));
        }
        for transfer in ledger {
            let there = found.remove(&transfer.number).unwrap_or_default();
            let wanted: BTreeSet<i32> = transfer.gains.keys().copied().collect();
            let is_right = match transfer.told {
                Told::Committed => there == wanted,
                Told::Failed => there.is_empty(),
                Told::Unknown => there.is_empty() || there == wanted,
            };
            if !is_right {
                wrong.push(format!(
                    "transfer {} of {wanted:?} is there for {there:?}; told {:?} {}",
                    transfer.number, transfer.told, transfer.words
                ));
            }
        }
        if !found.is_empty() {
            wrong.push(format!("transfers that came later: {found:?}"));
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n"))
        }
    }
}

fn numbers(shard: &mut Raw, sql: &str) -> Vec<Vec<i64>> {
    let answer = shard.simple(sql);
    succeeded(sql, &answer);
    let number = |value: &Option<Vec<u8>>| {
        let text = std::str::from_utf8(value.as_deref().expect("not NULL")).expect("text");
        text.parse().expect("a number")
    };
    answer
        .rows
        .iter()
        .map(|row| row.iter().map(number).collect())
        .collect()
}

/// A server none of whose processes runs, until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn all_of(server: &Server) -> Stopped {
        let postmaster = server.pid().expect("it runs");
        let mut stopped = Stopped(Vec::new());
        // First the one that makes the others.
        stopped.stop(postmaster);
        for process in std::fs::read_dir("/proc")
            .expect("there are processes")
            .flatten()
        {
            let Some(pid) = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // Behind the name in parentheses: the state, and the parent.
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1));
            if parent == Some(&postmaster.to_string()) {
                stopped.stop(pid);
            }
        }
        stopped
    }

    fn stop(&mut self, pid: u32) {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        // It may have ended meanwhile.
        if kill(pid, Signal::SIGSTOP).is_ok() {
            self.0.push(pid);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[test]
fn the_bank_loses_and_makes_nothing() {
    let nightly = std::env::var_os("TRUNKLINE_NIGHTLY").is_some();
    let rounds = if nightly { ROUNDS.1 } else { ROUNDS.0 };
    let seed = match std::env::var("TRUNKLINE_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) if nightly => rand::random(),
        Err(_) => 5,
    };
    println!("TRUNKLINE_SEED={seed}");
    let mut conductor = Conductor::new();
    let accounts = conductor.ports.iter().map(|port| {
        let ids = super::column(*port, "SELECT id FROM accounts ORDER BY id");
        ids.iter().map(|id| id.parse().expect("a number")).collect()
    });
    let counter = Counter {
        proxies: [0, 1].map(|place: usize| conductor.proxies[place].port),
        accounts: accounts.collect(),
        door: RwLock::default(),
        closed: AtomicBool::new(false),
        ledger: Mutex::default(),
        committed: [const { AtomicUsize::new(0) }; 2],
        sums: AtomicUsize::new(0),
        wrong: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let counter = &counter;
            scope.spawn(move || counter.serve(client, seed));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(&mut conductor, &counter, rounds, seed);
        }));
        // Else the clients would go on for ever.
        counter.closed.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let (committed, sums) = (counter.committed(), counter.sums.load(Ordering::Relaxed));
    println!("{committed:?} transfers committed, {sums} sums read");
    assert!(sums > 0);
}

fn run(conductor: &mut Conductor, counter: &Counter, rounds: u32, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    for round in 0..rounds {
        let fault = Fault::any(&mut random);
        println!("round {round}: {fault:?}");
        let begun = Instant::now();
        conductor.inflict(fault);
        let inflicted = begun.elapsed();
        let before = counter.committed();
        let goes_on = comes_true(PATIENCE, || {
            let now = counter.committed();
            (0..2).all(|proxy| now[proxy] >= before[proxy] + PROGRESS)
        });
        assert!(
            goes_on,
            "round {round}, {fault:?}: too little is committed through a proxy: {before:?}, then {:?}",
            counter.committed()
        );
        let progressed = begun.elapsed();
        let alone = counter.door.write().expect("nobody panics inside");
        let shut = begun.elapsed();
        let ledger = std::mem::take(&mut *counter.ledger.lock().expect("nobody panics"));
        let mut audited = conductor.audit(&ledger);
        let torn = std::mem::take(&mut *counter.wrong.lock().expect("nobody panics"));
        if !torn.is_empty() {
            audited = Err(format!(
                "{}\n{}",
                torn.join("\n"),
                audited.err().unwrap_or_default()
            ));
        }
        drop(alone);
        if let Err(wrong) = audited {
            panic!("round {round} of seed {seed}, {fault:?}:\n{wrong}");
        }
        let count = |told| {
            ledger
                .iter()
                .filter(|transfer| transfer.told == told)
                .count()
        };
        println!(
            "    {} committed, {} failed, {} unknown; fault {inflicted:?}, progress {progressed:?}, shut {shut:?}, audit {:?}",
            count(Told::Committed),
            count(Told::Failed),
            count(Told::Unknown),
            begun.elapsed()
        );
    }
}
