//! Reads that must see what was committed before, while the replica that serves them stops to replay again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::replicas::READS;
use super::size;
use super::stage::Stage;
use crate::raw::{Format, Raw};
use crate::servers::wait_until;
use crate::sharded::succeeded;

/// Commits that are looked for, of all writers together; and at night.
const TRIALS: (usize, usize) = (2000, 100_000);

const WRITERS: usize = 4;

/// How long the replica stands still, and how long it moves, at most.
const SPELL: Duration = Duration::from_millis(12);

/// What was read, and by whom.
#[derive(Default)]
struct Tally {
    reads: usize,
    by_replica: usize,
    stale: usize,
}

impl Tally {
    /// Reads this writer's row, which must be `v` at least.
    fn read(&mut self, client: &mut Raw, id: usize, v: usize) {
        let text = format!("SELECT v, pg_is_in_recovery() FROM seen WHERE id = {id}");
        let answer = match self.reads % 2 {
            0 => client.simple(&text),
            _ => client.extended(&text, &[], Format::Text),
        };
        succeeded(&text, &answer);
        let line = &answer.lines()[0];
        let (seen, replica) = line.split_once(' ').expect("two columns");
        self.reads += 1;
        self.by_replica += usize::from(replica == "t");
        self.stale += usize::from(seen.parse::<usize>().expect("a number") < v);
    }

    fn add(&mut self, other: &Tally) {
        self.reads += other.reads;
        self.by_replica += other.by_replica;
        self.stale += other.stale;
    }

    fn shown(&self, what: &str) -> String {
        let Tally {
            reads,
            by_replica,
            stale,
        } = self;
        let share = by_replica * 100 / (*reads).max(1);
        format!("{what}: {reads} reads, {share} % by the replica, {stale} stale")
    }
}

/// One writer: each commit is looked for in the same session, in one that is given its token, and in one that sees all that is committed.
fn write(port: u16, id: usize, trials: usize) -> [Tally; 3] {
    let mut tallies = <[Tally; 3]>::default();
    let [own, told, always] = &mut tallies;
    let connect = || Raw::connect(port, "app", "app");
    let (mut writer, mut reader, mut strict) = (connect(), connect(), connect());
    succeeded(
        "SET",
        &strict.simple("SET trunkline.causal_reads = 'always'"),
    );
    for v in 1..=trials {
        let update = format!("UPDATE seen SET v = {v} WHERE id = {id}");
        match v % 3 {
            0 => succeeded(&update, &writer.extended(&update, &[], Format::Text)),
            1 => succeeded(&update, &writer.simple(&update)),
            _ => {
                for text in ["BEGIN", &update, "COMMIT"] {
                    succeeded(text, &writer.simple(text));
                }
            }
        }
        own.read(&mut writer, id, v);
        if v % 2 == 0 {
            let token = writer.simple("SHOW trunkline.token");
            succeeded("SHOW trunkline.token", &token);
            let set = format!("SET trunkline.token = '{}'", token.lines()[0]);
            succeeded(&set, &reader.simple(&set));
            told.read(&mut reader, id, v);
        }
        if v % 4 == 1 {
            always.read(&mut strict, id, v);
        }
        own.read(&mut writer, id, v);
    }
    tallies
}

#[test]
fn no_read_is_stale() {
    let stage = Stage::start(1, 1);
    stage.run(
        0,
        0,
        "INSERT INTO seen SELECT i, 0 FROM generate_series(1, 10) i",
    );
    stage.level(0, &[1]);
    let proxy = stage.proxy(&format!("{READS}wait = \"20ms\"\n"));
    let (over, port) = (AtomicBool::new(false), proxy.port);
    let trials = size(TRIALS) / WRITERS;
    let tallies: Vec<[Tally; 3]> = std::thread::scope(|scope| {
        let pausing = scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(1);
            let mut replica = Raw::connect(stage.port(1), "postgres", "app");
            while !over.load(Ordering::Relaxed) {
                for text in [
                    "SELECT pg_wal_replay_pause()",
                    "SELECT pg_wal_replay_resume()",
                ] {
                    succeeded(text, &replica.simple(text));
                    std::thread::sleep(SPELL.mul_f64(random.random_range(0.0..1.0)));
                }
            }
        });
        let writers: Vec<_> = (1..=WRITERS)
            .map(|id| scope.spawn(move || write(port, id, trials)))
            .collect();
        let tallies = writers.into_iter().map(|writer| writer.join());
        let tallies: Vec<_> = tallies.collect();
        over.store(true, Ordering::Relaxed);
        pausing.join().expect("the replica answers");
        tallies
            .into_iter()
            .map(|tally| tally.expect("no panic"))
            .collect()
    });
    for (place, what) in ["the same session", "by token", "always"]
        .iter()
        .enumerate()
    {
        let mut all = Tally::default();
        for tally in &tallies {
            all.add(&tally[place]);
        }
        println!("causal reads: {}", all.shown(what));
        assert_eq!(all.stale, 0, "{}", all.shown(what));
        assert!(all.by_replica > 0, "{}: proves nothing", all.shown(what));
    }
    // Without any of it, stale reads there are.
    stage.run(0, 1, "SELECT pg_wal_replay_pause()");
    wait_until("it stands still", || {
        stage.value(0, 1, "SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
    let mut client = Raw::connect(proxy.port, "app", "app");
    succeeded("SET", &client.simple("SET trunkline.causal_reads = 'off'"));
    succeeded(
        "UPDATE",
        &client.simple("UPDATE seen SET v = 1 WHERE id = 10"),
    );
    let mut off = Tally::default();
    off.read(&mut client, 10, 1);
    println!("causal reads: {}", off.shown("off"));
    assert_eq!((off.by_replica, off.stale), (1, 1));
}
