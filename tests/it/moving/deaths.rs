//! Shards that die while their rows move: killed and started again, frozen, or replaced by a replica.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;

use super::drive::{HASHED, compare};
use super::load::{Load, Rows, SCHEMA, Worked};
use super::stage::{PATIENCE, Setting, Stage, connect};

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The proxy that drives the plan.
    Driver,
    Source,
    Target,
}

/// What an operator does, and what the plan comes to by it.
const COURSE: [(&str, &str); 7] = [
    ("START", "following"),
    ("VERIFY", "verified"),
    ("CUTOVER", "cut over"),
    ("ROLLBACK", "rolled back"),
    ("VERIFY", "verified"),
    ("CUTOVER", "cut over"),
    ("FINISH", "finished"),
];

/// In this part of the course, at this step.
type Death = (usize, &'static str, Victim);

/// Rows of one shard go to two others, and come back.
struct Change {
    words: &'static str,
    sources: &'static [usize],
    targets: &'static [usize],
}

const CHANGES: [Change; 2] = [
    Change {
        words: "s1 -> s1 40%, s3 30%, s4 30%",
        sources: &[0],
        targets: &[2, 3],
    },
    Change {
        words: "s3 -> s1; s4 -> s1",
        sources: &[2, 3],
        targets: &[0],
    },
];

/// What a client may be told when a server that works for it dies. `none`: its connection ended without a word.
const HONEST: [&str; 8] = [
    "57P01", "57P02", "57P03", "08006", "40000", "40001", "40003", "none",
];

struct Party {
    stage: Stage,
    load: Load,
    plans: usize,
}

impl Party {
    async fn start() -> Party {
        let setting = Setting {
            shards: 4,
            proxies: 3,
            distributions: HASHED,
            schema: SCHEMA,
            populated: 2,
        };
        let stage = Stage::start_with(&setting, 0, QUICK).await;
        let load = load(&stage).await;
        Party {
            stage,
            load,
            plans: 0,
        }
    }

    /// One plan from its beginning to its end.
    async fn go(&mut self, deaths: &[Death]) {
        let change = &CHANGES[self.plans % 2];
        self.plans += 1;
        let plan = format!("plan{}", self.plans);
        let stage = &mut self.stage;
        stage
            .order(&format!("RESHARD PLAN {plan} AS '{}'", change.words))
            .await;
        stage.order(&format!("RESHARD CHECK {plan}")).await;
        stage.reaches(&plan, "checked").await;
        for (part, (command, phase)) in COURSE.iter().enumerate() {
            let death = deaths.iter().find(|(at, ..)| *at == part);
            let mut doomed = None;
            if let Some((_, step, victim)) = death {
                let of = |shards: &[usize]| Doomed::Shard(shards[self.plans / 2 % shards.len()]);
                let who = match victim {
                    Victim::Driver => Doomed::Proxy(driver(stage, &plan).await),
                    Victim::Source => of(change.sources),
                    Victim::Target => of(change.targets),
                };
                let process = match who {
                    Doomed::Proxy(place) => stage.proxies[place].process(),
                    Doomed::Shard(place) => stage.shard(place).pid().unwrap(),
                };
                let killed = stage.signal_at(process, Signal::SIGKILL, &plan, step);
                doomed = Some((who, killed.await));
            }
            let pause = match *command {
                "CUTOVER" | "ROLLBACK" => " MAX PAUSE 2 s",
                _ => "",
            };
            stage
                .order(&format!("RESHARD {command} {plan}{pause}"))
                .await;
            reaches(stage, &plan, phase, doomed).await;
            self.load.progress(50).await;
        }
    }

    async fn end(self) {
        let worked = ended(&self.stage, self.load).await;
        compare(&self.stage, &[0, 1, 2, 3], &worked.rows);
    }
}

/// So that a server that is back is soon known to be.
const QUICK: &str = "[health]\ninterval = \"200ms\"\nrise = 1\n";

async fn load(stage: &Stage) -> Load {
    let ports: Vec<u16> = stage.proxies.iter().map(|proxy| proxy.port).collect();
    let load = Load::start_among_deaths(&ports, 9);
    load.progress(200).await;
    load
}

/// The clients leave; nothing was told to them but what may be.
async fn ended(stage: &Stage, load: Load) -> Worked {
    let worked = load.end().await;
    println!("{}\n{:#?}", worked.told(), worked.borne);
    assert!(worked.errors.is_empty(), "{:?}", worked.errors);
    for told in worked.borne.keys() {
        let code = told.split(' ').next().unwrap();
        assert!(HONEST.contains(&code), "{told}\n{}", stage.logs());
    }
    for (place, _) in stage.cluster.shards().iter().enumerate() {
        let left = "SELECT count(*) FROM pg_prepared_xacts";
        crate::servers::wait_until("all transactions are finished", || {
            crate::servers::value(stage.shard(place), "app", left).unwrap() == "0"
        });
    }
    worked
}

enum Doomed {
    Proxy(usize),
    Shard(usize),
}

/// The proxy that drives the plan.
async fn driver(stage: &Stage, plan: &str) -> usize {
    loop {
        let status = stage.status(plan).await;
        let found = stage.proxies.iter().position(|proxy| {
            let name = format!("{}-", proxy.process());
            status["driver"].starts_with(&name)
        });
        if let Some(found) = found {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a phase; who is killed on the way is started again.
async fn reaches(
    stage: &mut Stage,
    plan: &str,
    phase: &str,
    mut doomed: Option<(Doomed, JoinHandle<bool>)>,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some((who, killed)) = doomed.take_if(|(_, killed)| killed.is_finished())
            && killed.await.unwrap()
        {
            // For so long it is away.
            tokio::time::sleep(Duration::from_millis(700)).await;
            match who {
                Doomed::Proxy(place) => stage.restart_proxy(place),
                Doomed::Shard(place) => stage.revive(place),
            }
        }
        let status = stage.status(plan).await;
        if status["phase"] == phase && doomed.is_none() {
            return;
        }
        if status["phase"] == phase
            && let Some((_, killed)) = &doomed
            && !killed.is_finished()
        {
            // It came there so fast that nobody saw it.
            killed.abort();
            doomed = None;
        }
        let stopped = status["pace"].starts_with("stopped");
        if stopped || status["phase"] == "cancelled" || Instant::now() > deadline {
            let events = stage.admin(0, "SHOW RESHARD EVENTS").await;
            panic!(
                "{plan} does not become {phase}: {status:?}\n{events:#?}\n{}",
                stage.logs()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_may_be_killed_anywhere() {
    let mut party = Party::start().await;
    let deaths: &[&[Death]] = &[
        &[
            (0, "copying", Victim::Target),
            (1, "verifying", Victim::Source),
            (2, "fencing", Victim::Source),
            (3, "releasing", Victim::Target),
            (5, "applying", Victim::Target),
            (6, "finishing", Victim::Source),
        ],
        &[
            (0, "copying", Victim::Source),
            (2, "gating", Victim::Source),
            (3, "fencing", Victim::Target),
            (5, "releasing", Victim::Target),
        ],
    ];
    for deaths in deaths {
        party.go(deaths).await;
    }
    let nightly = std::env::var_os("TRUNKLINE_NIGHTLY").is_some();
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..if nightly { 100 } else { 0 } {
        let deaths = random_deaths(&mut random);
        println!("{deaths:?}");
        party.go(&deaths).await;
    }
    party.end().await;
}

/// One in about every second part of the course.
fn random_deaths(random: &mut SmallRng) -> Vec<Death> {
    const TURN: [&str; 4] = ["gating", "fencing", "applying", "releasing"];
    let mut deaths = Vec::new();
    for (part, (command, _)) in COURSE.iter().enumerate() {
        if random.random_range(0..2) == 0 {
            continue;
        }
        let step = match *command {
            "START" => "copying",
            "VERIFY" => "verifying",
            "FINISH" => "finishing",
            _ => TURN[random.random_range(0..TURN.len())],
        };
        let victim = [Victim::Driver, Victim::Source, Victim::Target][random.random_range(0..3)];
        deaths.push((part, step, victim));
    }
    deaths
}

/// Rows with ids from here on are nobody's but this module's.
const BULK: i64 = 1_000_000;
const BULK_ROWS: i64 = 40_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_where_it_was() {
    let mut party = Party::start().await;
    let stage = &mut party.stage;
    let client = connect(stage.proxies[0].port, "app", "app").await.unwrap();
    let words = "w".repeat(100);
    for first in (BULK..BULK + BULK_ROWS).step_by(1000) {
        let rows: Vec<String> = (first..first + 1000)
            .map(|id| format!("({id}, 0, {id}, '{words}')"))
            .collect();
        let insert = format!("INSERT INTO item VALUES {}", rows.join(", "));
        client.batch_execute(&insert).await.unwrap();
    }
    stage.order("RESHARD PLAN p AS 's1 -> s3'").await;
    stage.order("RESHARD CHECK p").await;
    stage.reaches("p", "checked").await;
    stage.order("RESHARD START p THROTTLE 300 kB").await;
    let mut noted = 0;
    for victim in [2, 0] {
        let least = noted + 2000;
        let deadline = Instant::now() + PATIENCE;
        while noted < least {
            noted = copied(stage).max(noted);
            assert!(Instant::now() < deadline, "{noted} rows: {}", stage.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage.kill_shard(victim);
        let waits = format!("waits for shard s{}", victim + 1);
        let deadline = Instant::now() + PATIENCE;
        while !stage.status("p").await["note"].starts_with(&waits) {
            assert!(Instant::now() < deadline, "{:?}", stage.status("p").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stage.revive(victim);
        let now = copied(stage);
        assert!(now >= noted, "{noted} rows were there, and {now} are");
        let status = stage.status("p").await;
        assert_eq!(status["phase"], "copying", "it was too fast");
    }
    stage.order("RESHARD THROTTLE p NONE").await;
    stage.reaches("p", "following").await;
    let whole = copied(stage);
    stage.order("RESHARD VERIFY p").await;
    stage.reaches("p", "verified").await;
    let status = stage.status("p").await;
    println!(
        "{whole} rows in chunks that were kept, {}",
        status["copied_rows"]
    );
    let events = stage.order("RESHARD EVENTS p").await;
    let told: Vec<&str> = events.iter().map(|event| &*event[3]).collect();
    let times = |what: &str| told.iter().filter(|one| **one == what).count();
    let once = ["START was asked for", "following"].map(times);
    assert_eq!(once, [1, 1], "{told:?}");
    assert_eq!(times("shard s3 answers again"), 1, "{told:?}");
    stage.order("RESHARD CUTOVER p MAX PAUSE 2 s").await;
    stage.reaches("p", "cut over").await;
    stage.order("RESHARD FINISH p").await;
    stage.reaches("p", "finished").await;
    let mut worked = ended(&party.stage, party.load).await;
    let length = words.len();
    let bulk = (BULK..BULK + BULK_ROWS).map(|id| ((id, 0), (id, length)));
    worked.rows.extend(bulk.collect::<Rows>());
    compare(&party.stage, &[0, 1, 2], &worked.rows);
}

/// Rows in chunks that are done.
fn copied(stage: &Stage) -> i64 {
    let sum = "SELECT coalesce(sum(row_count), 0) FROM trunkline.reshard_chunks";
    let sum = crate::servers::value(stage.shard(2), "app", sum);
    // There is no such table before the copy begins.
    sum.ok().and_then(|sum| sum.parse().ok()).unwrap_or(0)
}

/// Has a server that was stopped go on, at the latest when the test fails: what is stopped does not notice that its postmaster has died.
struct Thaw(u32);

impl Drop for Thaw {
    fn drop(&mut self) {
        super::stage::signal_all(self.0, Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_stands_still_holds_nobody_up_for_long() {
    let party = Party::start().await;
    let stage = &party.stage;
    stage.order("RESHARD PLAN p AS 's1 -> s3; s2 -> s4'").await;
    stage.verified("p").await;
    let frozen = stage.shard(0).pid().unwrap();
    let thaw = Thaw(frozen);
    let stopped = stage
        .signal_at(frozen, Signal::SIGSTOP, "p", "gating")
        .await;
    stage.order("RESHARD CUTOVER p MAX PAUSE 500 ms").await;
    assert!(stopped.await.unwrap());
    // Rows of the other shard, which moves as well.
    let ids = stage
        .shard(1)
        .run_sql("app", "SELECT DISTINCT id FROM item LIMIT 5");
    let client = connect(stage.proxies[0].port, "app", "app").await.unwrap();
    let began = Instant::now();
    for row in ids.unwrap() {
        let id = row[0].clone().unwrap();
        let read = format!("SELECT v FROM item WHERE id = {id}");
        let answer = client.simple_query(&read).await;
        answer.unwrap_or_else(|error| panic!("after {:?}: {error:?}", began.elapsed()));
    }
    let waited = began.elapsed();
    println!("waited for {waited:?}");
    assert!(waited < Duration::from_secs(12), "{waited:?}");
    let deadline = Instant::now() + PATIENCE;
    // The shard may have stopped too late for the turn to be given up.
    let turn_is_over = async || {
        let events = stage.order("RESHARD EVENTS p").await;
        let mut told = events.iter().map(|event| &event[3]);
        told.any(|told| told.contains("is given up: ") || told.starts_with("cut over"))
    };
    while !turn_is_over().await {
        assert!(Instant::now() < deadline, "{}", stage.logs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(thaw);
    stage.reaches("p", "cut over").await;
    stage.order("RESHARD FINISH p").await;
    stage.reaches("p", "finished").await;
    party.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_the_place_of_a_shard() {
    let setting = Setting {
        shards: 3,
        proxies: 2,
        distributions: HASHED,
        schema: SCHEMA,
        populated: 2,
    };
    let mut stage = Stage::start_with(&setting, 1, QUICK).await;
    for shard in [1, 2] {
        stage.commit_with_the_replica(shard);
    }
    let load = load(&stage).await;
    // Of a receiving shard: what is there is there, and the slot of the way back has nothing to say yet.
    stage
        .order("RESHARD PLAN target AS 's1 -> s1 50%, s3 50%'")
        .await;
    stage.order("RESHARD CHECK target").await;
    stage.reaches("target", "checked").await;
    stage.order("RESHARD START target").await;
    stage.reaches("target", "following").await;
    load.progress(100).await;
    stage.fail_over(2);
    load.progress(100).await;
    stage.order("RESHARD VERIFY target").await;
    stage.reaches("target", "verified").await;
    for (command, phase) in [
        ("CUTOVER", "cut over"),
        ("ROLLBACK", "rolled back"),
        ("VERIFY", "verified"),
        ("CUTOVER", "cut over"),
        ("FINISH", "finished"),
    ] {
        stage.order(&format!("RESHARD {command} target")).await;
        stage.reaches("target", phase).await;
        load.progress(50).await;
    }
    // Of a shard that keys leave: its slot is gone, so the plan ends and says why; the same one can be made again.
    let change = "AS 's2 -> s2 50%, s1 50%'";
    stage.order(&format!("RESHARD PLAN source {change}")).await;
    stage.verified("source").await;
    load.progress(50).await;
    stage.fail_over(1);
    let deadline = Instant::now() + PATIENCE;
    while stage.status("source").await["phase"] != "cancelled" {
        assert!(Instant::now() < deadline, "{}", stage.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let note = stage.status("source").await["note"].clone();
    assert!(
        note.contains("on s2 is lost") && note.contains("can be made anew"),
        "{note}"
    );
    let events = stage.order("RESHARD EVENTS source").await;
    let said = format!("cancelling: {note}");
    assert!(events.iter().any(|event| event[3] == said), "{events:?}");
    load.progress(50).await;
    stage.order(&format!("RESHARD PLAN source {change}")).await;
    stage.verified("source").await;
    stage.order("RESHARD CUTOVER source").await;
    stage.reaches("source", "cut over").await;
    stage.order("RESHARD FINISH source").await;
    stage.reaches("source", "finished").await;
    let worked = ended(&stage, load).await;
    compare(&stage, &[0, 1, 2], &worked.rows);
}
