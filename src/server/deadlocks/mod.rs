//! Looking for deadlocks across shards, while requests over several shards take long; asleep otherwise.
//!
//! A round: the workers say which requests take long and which server processes work for them; the shards say who waits for whom, and what other proxies
//! have noted; the workers are asked again, so that what the shards said of a process was said of that very transaction; what waits is noted for
//! the other proxies; then cycles are looked for. One whose victim is ours and that the round before has seen as well is ended.
//!
//! `shards.rs` asks and notes, `places.rs` knows which shards are one server; what it all means is decided in `execution/deadlock/`.

mod places;
mod shards;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::control::ask_all;
use super::worker::{Command, WorkerHandle};
use crate::config::Config;
use crate::execution::commit::id::TransactionId;
use crate::execution::deadlock::graph::{Cycle, Suspect, find};
use crate::execution::deadlock::table::{Note, Row};
use crate::execution::deadlock::{Audience, Seen, describe};
use crate::session::shared::Shared;
use crate::session::waits::{LongWait, Sentence};
use crate::sharding::ShardId;
use crate::topology::Topology;
use crate::wire::answer::{self, Report, Severity};

use places::Places;
use shards::{Install, Look, Shards};

/// From one round to the next, when something waits for a lock: this part of the time limit at least.
const ROUNDS: u32 = 8;

const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The search; one task owns it.
pub struct Deadlocks {
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    shards: Shards,
    /// What the last round has seen, by database.
    suspects: HashMap<Box<str>, Vec<Suspect>>,
}

/// What the requests of a database do that take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Work,
    /// At least one waits for a lock.
    Wait,
}

/// What is known of a database in one round.
struct Round<'a> {
    database: &'a str,
    places: &'a Places,
    looks: Vec<Look>,
    /// Our requests of which the shards have told.
    confirmed: Vec<LongWait>,
}

impl Deadlocks {
    pub fn new(shared: Arc<Shared>, topology: Arc<Topology>, workers: Vec<WorkerHandle>) -> Self {
        let shards = Shards::new(topology, shared.proxy);
        Deadlocks {
            shared,
            workers,
            shards,
            suspects: HashMap::new(),
        }
    }

    /// Never ends by itself.
    pub async fn run(mut self) {
        loop {
            self.shared.long_wait.notified().await;
            loop {
                let waits = self.long_waits().await;
                if waits.is_empty() {
                    break;
                }
                let pause = self.round(waits).await;
                // A request that has just become long is looked at without delay.
                let _ = tokio::time::timeout(pause, self.shared.long_wait.notified()).await;
            }
            self.suspects.clear();
            self.shards.take_notes_back().await;
        }
    }

    async fn long_waits(&self) -> Vec<LongWait> {
        let told = ask_all(&self.workers, Command::LongWaits).await;
        told.into_iter().flatten().collect()
    }

    /// Looks once at all databases concerned. Returns how long to wait for the next round.
    async fn round(&mut self, waits: Vec<LongWait>) -> Duration {
        let begun = Instant::now();
        let config = Arc::clone(&self.shared.snapshot().config);
        let mut by_database: HashMap<Box<str>, Vec<LongWait>> = HashMap::new();
        for wait in waits {
            let of_database = by_database.entry(wait.database.clone()).or_default();
            of_database.push(wait);
        }
        self.suspects
            .retain(|database, _| by_database.contains_key(database));
        let mut finding = Finding::Work;
        for (database, waits) in by_database {
            if self.look_at(&config, &database, &waits).await == Finding::Wait {
                finding = Finding::Wait;
            }
        }
        // Switched off meanwhile: then the next answer of the workers is empty.
        let timeout = config.transactions.deadlock_timeout.unwrap_or_default();
        let pause = match finding {
            Finding::Work => timeout,
            Finding::Wait if !self.suspects.is_empty() => timeout / ROUNDS,
            // It must not be the asking that keeps servers busy.
            Finding::Wait => begun.elapsed().clamp(timeout / ROUNDS, timeout),
        };
        pause.max(SHORTEST_PAUSE)
    }

    /// Looks once at a database, and ends the deadlocks that it and the round before have seen.
    async fn look_at(&mut self, config: &Config, database: &str, waits: &[LongWait]) -> Finding {
        let places = &Places::new(config);
        let with_processes = |shard| (shard, places.processes(shard, waits));
        let (ours, others): (Vec<_>, Vec<_>) = places
            .shards()
            .map(with_processes)
            .partition(|(_, pids)| !pids.is_empty());
        let mut looks = self.shards.ask(database, ours).await;
        if !looks.iter().any(|look| waits_there(look, places, waits)) {
            self.suspects.remove(database);
            return Finding::Work;
        }
        looks.extend(self.shards.ask(database, others).await);
        // What was the same before and after the shards were asked was the same when they answered.
        let now = self.long_waits().await;
        let confirmed = waits.iter().filter(|wait| now.contains(wait)).cloned();
        let round = Round {
            database,
            places,
            looks,
            confirmed: confirmed.collect(),
        };
        let install = match config.transactions.install {
            true => Install::Allowed,
            false => Install::Forbidden,
        };
        self.shards.note(database, round.notes(), install).await;
        self.judge(&round).await;
        Finding::Wait
    }

    /// Ends the cycles that were there in the round before, and remembers the others for the next.
    async fn judge(&mut self, round: &Round<'_>) {
        let seen = round.seen();
        let before = self.suspects.remove(round.database).unwrap_or_default();
        let mut ended = Vec::new();
        for cycle in before
            .iter()
            .filter_map(|suspect| suspect.found_again(&seen))
        {
            if !ended.contains(&cycle.victim) {
                self.end(round, &seen, &cycle).await;
                ended.push(cycle.victim);
            }
        }
        let mut cycles = find(&seen);
        cycles.retain(|cycle| round.is_ours(cycle.victim) && !ended.contains(&cycle.victim));
        if !cycles.is_empty() {
            let suspects = cycles.iter().map(|cycle| Suspect::new(cycle, &seen));
            self.suspects
                .insert(Box::from(round.database), suspects.collect());
        }
    }

    /// Has the victim's worker end what it waits for.
    async fn end(&self, round: &Round<'_>, seen: &[Seen], cycle: &Cycle) {
        let victim = round.request_of(cycle.victim);
        let (Some(victim), Some(wait)) = (victim, cycle.waits.first()) else {
            return;
        };
        let Some(worker) = self.workers.get(victim.request.worker) else {
            return;
        };
        let waiting = &seen[wait.waiting];
        let names = &round.places.names;
        let detail = describe(cycle, seen, names, Audience::Victim);
        let mut error = Vec::new();
        let report = Report::new(Severity::Error, "40P01", "deadlock detected").detail(&detail);
        answer::error_response(&mut error, &report);
        let address = &round.places.addresses[waiting.server];
        let sentence = Sentence {
            request: victim.request,
            process: (address.clone(), waiting.pid),
            error: error.into_boxed_slice(),
        };
        let (done, ended) = oneshot::channel();
        worker.send(Command::EndDeadlock(sentence, done));
        if ended.await == Ok(true) {
            let who = describe(cycle, seen, names, Audience::Administrator);
            tracing::warn!(
                database = round.database,
                transaction = %cycle.victim,
                "deadlock across shards, the youngest transaction is ended: {who}"
            );
        }
    }
}

impl Round<'_> {
    fn request_of(&self, id: TransactionId) -> Option<&LongWait> {
        let mut ours = self.confirmed.iter();
        ours.find(|wait| wait.request.transaction == id)
    }

    fn is_ours(&self, id: TransactionId) -> bool {
        self.request_of(id).is_some()
    }

    /// Our request that this process works for.
    fn worked_for(&self, server: usize, row: &Row) -> Option<&LongWait> {
        let address = &self.places.addresses[server];
        self.confirmed.iter().find(|wait| {
            let mut processes = wait.processes.iter();
            processes.any(|(known, pid)| known == address && *pid == row.pid)
        })
    }

    /// All that the shards said, with what is known of our own requests.
    fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for look in &self.looks {
            let Some(server) = self.places.server(look.shard) else {
                continue;
            };
            for row in &look.rows {
                let ours = self.worked_for(server, row);
                let known = ours
                    .map(|wait| (wait.request.transaction, wait.ends, &wait.statement))
                    .or(row
                        .noted
                        .as_ref()
                        .map(|noted| (noted.id, noted.ends, &noted.statement)));
                let transaction = known
                    .filter(|(_, ends, _)| row.holds(*ends))
                    .map(|(id, ..)| id);
                seen.push(Seen {
                    server,
                    pid: row.pid,
                    virtual_transaction: row.virtual_transaction.clone(),
                    blockers: row.blockers.clone(),
                    since: row.since.clone(),
                    transaction,
                    role: row.role.clone(),
                    statement: known
                        .map(|(.., statement)| statement)
                        .or(row.statement.as_ref())
                        .cloned(),
                });
            }
        }
        seen
    }

    /// What other proxies should know of our requests that wait for locks, by shard.
    fn notes(&self) -> Vec<(ShardId, Vec<Note>)> {
        let waits = |wait: &LongWait| {
            let wait = std::slice::from_ref(wait);
            let mut looks = self.looks.iter();
            looks.any(|look| waits_there(look, self.places, wait))
        };
        let waiting: Vec<&LongWait> = self.confirmed.iter().filter(|wait| waits(wait)).collect();
        let on = |look: &Look| {
            let mut notes = Vec::new();
            for wait in &waiting {
                let pids = self
                    .places
                    .processes(look.shard, std::slice::from_ref(*wait));
                let rows = look.rows.iter().filter(|row| pids.contains(&row.pid));
                notes.extend(rows.map(|row| note(wait, row)));
            }
            notes.sort_by_key(|note| (note.id, note.pid));
            (look.shard, notes)
        };
        self.looks.iter().map(on).collect()
    }
}

fn note(wait: &LongWait, row: &Row) -> Note {
    let LongWait {
        request,
        ends,
        statement,
        ..
    } = wait;
    Note {
        id: request.transaction,
        pid: row.pid,
        virtual_transaction: row.virtual_transaction.clone(),
        ends: *ends,
        statement: statement.clone(),
    }
}

/// Whether a process of these requests waits for a lock there.
fn waits_there(look: &Look, places: &Places, waits: &[LongWait]) -> bool {
    let pids = places.processes(look.shard, waits);
    let mut rows = look.rows.iter();
    rows.any(|row| pids.contains(&row.pid) && !row.blockers.is_empty())
}
