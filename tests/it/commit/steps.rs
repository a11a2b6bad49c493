//! Every step of a commit over three shards meets every fault.

use std::sync::mpsc::channel;
use std::time::Instant;

use trunkline::cli::local::Cluster;

use super::cutting::{Held, Relays, STEPS, Statement, Step};
use super::{
    BOUND, PATIENCE, Proxy, Told, column, comes_true, kill_shard, ports, prepared, shards, told,
};
use crate::raw::Raw;
use crate::sharded::succeeded;

/// What happens to the connection that has come to the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is reset on both sides; what was held is lost.
    Cut,
    /// Nothing moves any more, and nobody is told.
    Still,
    /// The same until the client has its answer; then what was held arrives.
    Late,
    /// The proxy is killed with -9, and what was held is lost. Another proxy recovers.
    KillProxy,
    /// The same, and what was held arrives.
    KillProxyLate,
    /// The shard is killed with -9 and started.
    KillShard,
}

const FAULTS: [(&str, Fault); 6] = [
    ("cut", Fault::Cut),
    ("still", Fault::Still),
    ("late", Fault::Late),
    ("kill the shard", Fault::KillShard),
    ("kill the proxy", Fault::KillProxy),
    ("kill the proxy, bytes arrive", Fault::KillProxyLate),
];

/// Whether the transaction must be committed in the end. `None`: its decision is on its way, and whoever is first decides.
fn must_be_committed(step: Step, fault: Fault) -> Option<bool> {
    match (step, fault) {
        (Step::Before(Statement::Decision), Fault::Late | Fault::KillProxyLate) => None,
        (Step::Before(Statement::Prepare | Statement::Decision), _)
        | (Step::After(Statement::Prepare), _) => Some(false),
        (Step::After(Statement::Decision | Statement::CommitPrepared), _)
        | (Step::Before(Statement::CommitPrepared), _) => Some(true),
    }
}

/// A proxy that goes through relays of its own.
struct Actor {
    relays: Relays,
    proxy: Proxy,
}

impl Actor {
    fn new(servers: &[u16]) -> Actor {
        let relays = Relays::start(servers);
        let proxy = Proxy::start(relays.ports());
        Actor { relays, proxy }
    }
}

/// The first proxy commits. A second one, which recovers, runs only for faults that kill the first; then they change places.
struct Stage {
    cluster: Cluster,
    ports: Vec<u16>,
    first: Actor,
    second: Option<Actor>,
    /// By shard: keys that no case has used.
    keys: Vec<Vec<String>>,
}

impl Stage {
    fn set() -> Stage {
        let cluster = shards();
        let ports = ports(&cluster);
        let first = Actor::new(&ports);
        let mut client = connect(&first.proxy);
        let rows: Vec<String> = (0..400).map(|key| format!("({key}, 'old')")).collect();
        let insert = format!("INSERT INTO kv VALUES {}", rows.join(", "));
        succeeded(&insert, &client.simple(&insert));
        let keys = ports.iter().map(|port| column(*port, "SELECT k FROM kv"));
        Stage {
            keys: keys.collect(),
            cluster,
            ports,
            first,
            second: None,
        }
    }

    /// One transaction that writes on three shards and reads on the fourth. The error says what is wrong.
    fn play(&mut self, name: &str, step: Step, fault: Fault) -> Result<(), String> {
        self.cast(fault);
        self.first.proxy.await_service();
        let mut keys: Vec<String> = self
            .keys
            .iter_mut()
            .map(|keys| keys.pop().expect("enough keys"))
            .collect();
        let read = keys.pop().expect("four shards");
        let mut client = connect(&self.first.proxy);
        let updates = keys
            .iter()
            .map(|key| format!("UPDATE kv SET v = '{name}' WHERE k = {key}"));
        let statements = std::iter::once("BEGIN".to_owned())
            .chain(updates)
            .chain([format!("SELECT v FROM kv WHERE k = {read}")]);
        for statement in statements {
            succeeded(&statement, &client.simple(&statement));
        }
        let arrives = self.first.relays.arm(step);
        let (tell, answered) = channel();
        let committing = std::thread::spawn(move || {
            // Nobody waits for it only after the test has failed.
            let _ = tell.send(client.try_simple("COMMIT"));
        });
        let held = arrives.recv_timeout(PATIENCE);
        self.first.relays.disarm();
        let Ok(held) = held else {
            return Err(format!(
                "the commit does not come to the step; it is answered {:?}",
                answered.recv_timeout(PATIENCE)
            ));
        };
        let still = self.inflict(fault, held);
        let answer = answered.recv().expect("the client tells");
        committing.join().expect("it has told");
        let (told, words) = told(&answer, "COMMIT");
        let still = match still {
            Some(held) if fault == Fault::Late => {
                held.let_go();
                None
            }
            still => still,
        };
        let verdict = self.judge(name, step, fault, &keys, told, &words);
        if let Some(held) = still {
            held.cut();
        }
        if let (None, Some(second)) = (&self.first.proxy.child, &mut self.second) {
            // While it starts, the other one goes on.
            self.first.proxy.launch();
            std::mem::swap(&mut self.first, second);
        }
        verdict?;
        self.serves(&keys)
    }

    /// Has a second proxy when the fault needs one, and only then: else the one that committed has to recover by itself.
    fn cast(&mut self, fault: Fault) {
        match fault {
            Fault::KillProxy | Fault::KillProxyLate if self.second.is_none() => {
                self.second = Some(Actor::new(&self.ports));
            }
            Fault::KillProxy | Fault::KillProxyLate => {}
            Fault::Cut | Fault::Still | Fault::Late | Fault::KillShard => self.second = None,
        }
    }

    /// Gives the connection back that is still held.
    fn inflict(&mut self, fault: Fault, held: Held) -> Option<Held> {
        match fault {
            Fault::Cut => held.cut(),
            Fault::Still | Fault::Late => return Some(held),
            Fault::KillProxy => {
                self.first.proxy.kill();
                held.cut();
            }
            Fault::KillProxyLate => {
                self.first.proxy.kill();
                held.let_go();
            }
            Fault::KillShard => {
                let shard = held.shard;
                held.cut();
                kill_shard(&mut self.cluster, shard);
            }
        }
        None
    }

    /// Nothing is left prepared, and the transaction is where it must be and was said to be.
    fn judge(
        &self,
        name: &str,
        step: Step,
        fault: Fault,
        keys: &[String],
        told: Told,
        words: &str,
    ) -> Result<(), String> {
        let mut left = Vec::new();
        let resolved = comes_true(BOUND, || {
            left = prepared(&self.ports);
            left.is_empty()
        });
        if !resolved {
            return Err(format!("left prepared: {left:?}; told {told:?} {words}"));
        }
        let present: Vec<bool> = keys
            .iter()
            .zip(&self.ports)
            .map(|(key, port)| {
                let value = column(*port, &format!("SELECT v FROM kv WHERE k = {key}"));
                value == [name]
            })
            .collect();
        let committed = present[0];
        if present.iter().any(|present| *present != committed) {
            return Err(format!("torn: {present:?}; told {told:?} {words}"));
        }
        if must_be_committed(step, fault).is_some_and(|must| must != committed) {
            return Err(format!("committed: {committed}; told {told:?} {words}"));
        }
        match told {
            Told::Committed if !committed => Err("told that it is committed, and it is not".into()),
            Told::Failed if committed => {
                Err(format!("committed, and told that it is not: {words}"))
            }
            // Only who cannot be asked leaves it open.
            Told::Unknown if fault == Fault::Cut => {
                Err(format!("nothing is down, and told {words}"))
            }
            _ => Ok(()),
        }
    }

    /// The same keys can be written at once.
    fn serves(&self, keys: &[String]) -> Result<(), String> {
        let mut client = connect(&self.first.proxy);
        let update = format!("UPDATE kv SET v = 'after' WHERE k IN ({})", keys.join(", "));
        let answer = client.simple(&update);
        match answer.error {
            Some(error) => Err(format!("afterwards: {error:?}")),
            None => Ok(()),
        }
    }
}

fn connect(proxy: &Proxy) -> Raw {
    proxy
        .connect()
        .expect("the proxy listens")
        .unwrap_or_else(|e| panic!("{e:?}"))
}

#[test]
fn every_step_survives_every_fault() {
    let mut stage = Stage::set();
    let mut wrong = Vec::new();
    for (what, fault) in FAULTS {
        for (place, step) in STEPS {
            let name = format!("{what} {place}");
            let begun = Instant::now();
            if let Err(reason) = stage.play(&name, step, fault) {
                wrong.push(format!("{name}: {reason}"));
            }
            println!("{name}: {:.1?}", begun.elapsed());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
