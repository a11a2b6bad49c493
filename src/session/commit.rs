//! COMMIT of a transaction that worked on several shards: the owner's side of `execution/commit`.
//!
//! Those that have only read end first. What one shard has written it commits plainly. What several have written they commit in three rounds,
//! each of which is one message to every shard and one answer of each: get ready, decide, finish. Until the decision everything that goes wrong rolls the
//! transaction back everywhere; after it, everything that goes wrong is mended by the control plane. In between lies the decision
//! itself: whether it was taken is found out, and the client is told.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Session;
use super::link::Link;
use super::respond::{Fault, Left, Loss};
use super::worker::Worker;
use crate::backend::server::ServerError;
use crate::config::CrossShardCommit;
use crate::execution::commit::id::{Gid, TransactionId};
use crate::execution::commit::readiness::Readiness;
use crate::execution::commit::{Outcome, Unresolved, words};
use crate::plan::Effect;
use crate::plan::refusal::{Reason, Refusal};
use crate::sharding::ShardId;
use crate::wire::answer::{ErrorFields, Severity, TransactionStatus};
use crate::wire::frame::HEADER;

/// How long a client waits to hear of a commit whose answer was lost, before it is told that nobody knows.
const LONGEST_DOUBT: Duration = Duration::from_secs(30);

/// How long a client waits for the end of its commit on shards other than the deciding one. Afterwards its next statement waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// The server's error, or why there was no answer.
enum Trouble {
    Said(Vec<u8>),
    Lost(ServerError),
    Slow,
}

type Answer = Result<(), Trouble>;

/// One commit of several shards.
struct Commit<'a> {
    id: TransactionId,
    /// Names of the shards that have written.
    names: Vec<&'a str>,
    /// The deciding one is the first.
    links: &'a mut Vec<Link>,
    /// Of all but the first.
    gids: Vec<Gid>,
}

impl Session {
    /// Commits on all connections, or rolls back on all. Those whose state is not known are left unsettled or broken.
    pub(super) async fn commit(&mut self, links: &mut Vec<Link>) -> Result<(), Fault> {
        // Readers, lockers, writers.
        links.sort_by_key(Link::effect);
        let place = |effect| links.partition_point(|link| link.effect() < effect);
        let (lockers, writers) = (place(Effect::Locks), place(Effect::Writes));
        let cross = self.database.catalog().cross_shard_commit;
        match (cross, links.len() - lockers, links.len() - writers) {
            (CrossShardCommit::Refuse, _, 2..) => {
                let shards: Vec<ShardId> = links[writers..].iter().map(Link::shard).collect();
                self.roll_back(links).await;
                self.check_commit(&shards)
            }
            // What a lock protects is not given to others before it is there.
            (CrossShardCommit::Atomic, 2.., 1..) => {
                let shards: Vec<ShardId> = links[lockers..].iter().map(Link::shard).collect();
                let mut checked = self.check_commit(&shards);
                if checked.is_ok() {
                    checked = check_preparable(&links[lockers..]);
                }
                if checked.is_err() {
                    self.roll_back(links).await;
                    return checked;
                }
                let mut parts = links.split_off(lockers);
                let done = match self.commit_readers(links).await {
                    Ok(()) => self.commit_together(&mut parts).await,
                    Err(fault) => {
                        self.roll_back(&mut parts).await;
                        Err(fault)
                    }
                };
                links.append(&mut parts);
                done
            }
            _ => {
                let mut parts = links.split_off(lockers);
                parts.rotate_left(writers - lockers);
                let done = match self.commit_readers(links).await {
                    Ok(()) => self.commit_one_by_one(&mut parts).await,
                    Err(fault) => {
                        self.roll_back(&mut parts).await;
                        Err(fault)
                    }
                };
                links.append(&mut parts);
                done
            }
        }
    }

    /// Whether these shards can commit a transaction that they all have written on.
    pub(super) fn check_commit(&self, shards: &[ShardId]) -> Result<(), Fault> {
        let refuse = |reason: String| {
            let message = format!(
                "the transaction has written on {} shards, {reason}",
                shards.len()
            );
            Err(Fault::Refused(Refusal::new(
                Reason::CrossShardCommit,
                message,
            )))
        };
        let catalog = self.database.catalog();
        match catalog.cross_shard_commit {
            CrossShardCommit::BestEffort => return Ok(()),
            CrossShardCommit::Refuse => {
                return refuse("and cross_shard_commit is \"refuse\"".to_owned());
            }
            CrossShardCommit::Atomic => {}
        }
        let snapshot = self.worker.shared.snapshot();
        let known = snapshot.readiness.get(&self.database.name);
        for shard in shards {
            let why = match known.and_then(|known| known.get(shard.index())) {
                Some(Readiness::Ready) => continue,
                Some(other) => other.to_string(),
                None => "it has not been asked yet".to_owned(),
            };
            let name = catalog.shards.get(shard.index()).map_or("?", |name| name);
            return refuse(format!("and shard \"{name}\" cannot take part: {why}"));
        }
        Ok(())
    }

    /// Of those that have only read, all at the same time. One that fails, as it may when it is serializable, leaves nothing behind.
    async fn commit_readers(&mut self, links: &mut [Link]) -> Result<(), Fault> {
        self.settle_links(links).await;
        for link in links.iter_mut() {
            link.server().queue("COMMIT");
        }
        let worker = Rc::clone(&self.worker);
        let timeout = worker.config().transactions.prepare_timeout;
        let answers = round(links.iter_mut(), &worker, timeout).await;
        match answers.into_iter().find_map(Result::err) {
            None => Ok(()),
            Some(Trouble::Said(error)) => Err(Fault::Server(error)),
            Some(Trouble::Lost(error)) => Err(Fault::Broken(Loss {
                error,
                words: None,
                left: Left::Nothing,
            })),
            Some(Trouble::Slow) => Err(Fault::Limit {
                sqlstate: "40000",
                message: format!(
                    "the transaction is rolled back: a shard that it has only read did not end it within {timeout:?}"
                ),
                hint: Some("Run the transaction again."),
            }),
        }
    }

    /// The first that fails ends it; those behind it are rolled back.
    async fn commit_one_by_one(&mut self, links: &mut [Link]) -> Result<(), Fault> {
        let worker = Rc::clone(&self.worker);
        let mut committed = Vec::new();
        for place in 0..links.len() {
            let link = &mut links[place];
            match super::link::run(link.server(), "COMMIT", &worker).await {
                Ok(()) if link.has_written() => committed.push(link.shard()),
                Ok(()) => {}
                Err(fault) => {
                    self.roll_back(&mut links[place + 1..]).await;
                    return Err(self.half_committed(&committed, fault));
                }
            }
        }
        Ok(())
    }

    /// What a client is told when a shard did not commit: that others have, if they have.
    fn half_committed(&self, committed: &[ShardId], fault: Fault) -> Fault {
        if committed.is_empty() {
            return fault;
        }
        let catalog = self.database.catalog();
        let names: Vec<&str> = committed
            .iter()
            .filter_map(|shard| catalog.shards.get(shard.index()).map(|name| &**name))
            .collect();
        let mut said = Vec::new();
        fault.write(Severity::Error, &mut said);
        let reason = said
            .get(HEADER..)
            .and_then(ErrorFields::parse)
            .map_or_else(String::new, |fields| {
                String::from_utf8_lossy(fields.message).into_owned()
            });
        Fault::Postgres {
            sqlstate: "40003",
            message: format!(
                "the transaction is committed on {} and not on the other shards: {reason}",
                names.join(", ")
            ),
        }
    }

    pub(super) async fn roll_back(&mut self, links: &mut [Link]) {
        let worker = Rc::clone(&self.worker);
        for link in links {
            if link.is_settled() && link.status() != TransactionStatus::Idle {
                // A connection that cannot be rolled back is closed, which does the same.
                let _ = super::link::run(link.server(), "ROLLBACK", &worker).await;
            }
        }
    }

    /// The commit of several shards that have written.
    async fn commit_together(&mut self, links: &mut Vec<Link>) -> Result<(), Fault> {
        let worker = Rc::clone(&self.worker);
        let catalog = Arc::clone(&self.database.catalog());
        let timeout = worker.config().transactions.prepare_timeout;
        let id = TransactionId::new(SystemTime::now(), worker.shared.proxy);
        let decision = decision(links);
        links.swap(0, decision);
        let name = |link: &Link| &*catalog.shards[link.shard().index()];
        let decision_shard: Box<str> = Box::from(name(&links[0]));
        let mut commit = Commit {
            id,
            names: links.iter().map(name).collect(),
            gids: (1..links.len())
                .map(|participant| Gid {
                    id,
                    participant,
                    decision_shard: decision_shard.clone(),
                })
                .collect(),
            links,
        };
        // A client's request to stop comes too late from here on.
        self.card.set_running(None);
        self.card.set_also_running(Vec::new());
        self.settle_links(commit.links).await;
        if !commit.links.iter().all(Link::is_settled) {
            self.roll_back(commit.links).await;
            return Err(Fault::Limit {
                sqlstate: "40000",
                message: "the transaction is rolled back: a connection of it was lost".to_owned(),
                hint: Some("Run the transaction again."),
            });
        }
        let mut ready = commit.get_ready(&worker, timeout).await;
        if ready[0].is_ok() && commit.links[0].status() != TransactionStatus::InTransaction {
            // A COMMIT of what has failed is no error to Postgres.
            ready[0] = Err(Trouble::Slow);
        }
        if ready.iter().all(Result::is_ok) {
            match commit.decide(&worker, timeout).await {
                Ok(()) => {}
                // Like a deferred constraint that does not hold.
                said @ Err(Trouble::Said(_)) => ready[0] = said,
                Err(Trouble::Lost(_) | Trouble::Slow) => return self.find_out(commit).await,
            }
        }
        if ready.iter().any(Result::is_err) {
            let unknown = commit.abort(&ready, &worker, timeout).await;
            if !unknown.is_empty() {
                let unresolved = commit.unresolved(&self.database.name, unknown);
                worker.shared.resolve(unresolved);
            }
            return Err(commit.failed(ready, timeout));
        }
        let unfinished = commit.finish(&worker, timeout).await;
        if !unfinished.is_empty() {
            let mut unresolved = commit.unresolved(&self.database.name, unfinished);
            let (finished, finishes) = oneshot::channel();
            unresolved.finished = Some(finished);
            worker.shared.resolve(unresolved);
            self.await_finish(finishes).await;
        }
        Ok(())
    }

    /// The answer to the decision was lost.
    async fn find_out(&mut self, commit: Commit<'_>) -> Result<(), Fault> {
        let gids = commit.gids.iter().cloned();
        let shards = commit.links[1..].iter().map(Link::shard);
        let prepared = shards.zip(gids).collect();
        let mut unresolved = commit.unresolved(&self.database.name, prepared);
        let (decided, decides) = oneshot::channel();
        let (finished, finishes) = oneshot::channel();
        (unresolved.decided, unresolved.finished) = (Some(decided), Some(finished));
        // It is not asked to stop: whoever gives up waiting for a synchronous standby makes a commit visible that could get lost.
        drop(commit.links.swap_remove(0));
        let shared = &self.worker.shared;
        shared.resolve(unresolved);
        match shared.timers.timeout(LONGEST_DOUBT, decides).await {
            Ok(Ok(Outcome::Committed)) => {
                self.await_finish(finishes).await;
                Ok(())
            }
            Ok(Ok(Outcome::Aborted)) => Err(Fault::Limit {
                sqlstate: "40000",
                message: "the transaction is rolled back: the connection to the shard that decides was lost during COMMIT".to_owned(),
                hint: Some("Run the transaction again."),
            }),
            Ok(Err(_)) | Err(_) => Err(Fault::Limit {
                sqlstate: "08007",
                message: format!(
                    "whether transaction {} is committed is not known: shard \"{}\" does not answer",
                    commit.id, commit.names[0]
                ),
                hint: Some("It is committed on all shards or on none. SHOW TRANSACTIONS in the admin database tells when that is known."),
            }),
        }
    }

    /// Waits a little for the end of a commit that others finish; the session's next statement waits for the rest.
    async fn await_finish(&mut self, mut finishes: oneshot::Receiver<()>) {
        let timers = &self.worker.shared.timers;
        if timers.timeout(PATIENCE, &mut finishes).await.is_err() {
            self.commit_follows = Some(finishes);
        }
    }

    /// The session's last commit must be visible to its next statement.
    pub(super) async fn follow_commit(&mut self) {
        let Some(mut follows) = self.commit_follows.take() else {
            return;
        };
        let timers = &self.worker.shared.timers;
        let limit = self.worker.config().pool.checkout_timeout;
        if timers.timeout(limit, &mut follows).await.is_err() {
            self.commit_follows = Some(follows);
        } else {
            self.wrote_somewhere();
        }
    }

    /// Before a statement reads what may lack the session's own commit.
    pub(super) fn check_follows(&self) -> Result<(), Fault> {
        match &self.commit_follows {
            None => Ok(()),
            Some(_) => Err(Fault::Limit {
                sqlstate: "57P03",
                message: "a shard of the last transaction, which is committed, cannot be reached to finish it there".to_owned(),
                hint: Some("SHOW TRANSACTIONS in the admin database tells which. Try again when it is back."),
            }),
        }
    }
}

impl Commit<'_> {
    /// The first round. The deciding shard's bytes are on their way before anybody prepares, so that whoever finds
    /// something prepared finds that shard busy with the decision, or without it.
    async fn get_ready(&mut self, worker: &Rc<Worker>, timeout: Duration) -> Vec<Answer> {
        let mut texts = vec![words::ready(self.id, &self.names, timeout)];
        let prepare = |gid| words::prepare(gid, &self.names);
        texts.extend(self.gids.iter().map(prepare));
        if let Err(error) = self.links[0].server().send(&texts[0]).await {
            let mut answers = vec![Err(Trouble::Lost(error))];
            answers.extend(self.gids.iter().map(|_| Err(Trouble::Slow)));
            return answers;
        }
        for (link, text) in self.links[1..].iter_mut().zip(&texts[1..]) {
            link.server().queue(text);
        }
        round(self.links.iter_mut(), worker, timeout).await
    }

    /// The second round.
    async fn decide(&mut self, worker: &Rc<Worker>, timeout: Duration) -> Answer {
        self.links[0].server().queue("COMMIT");
        let mut answers = round(self.links.iter_mut().take(1), worker, timeout).await;
        answers.pop().unwrap_or(Err(Trouble::Slow))
    }

    /// The third round. What is still prepared, for all that is known.
    async fn finish(&mut self, worker: &Rc<Worker>, timeout: Duration) -> Vec<(ShardId, Gid)> {
        let others = self.links[1..].iter_mut().zip(&self.gids);
        let asked = others.map(|(link, gid)| {
            link.server().queue(&words::commit_prepared(gid));
            link
        });
        let answers = round(asked, worker, timeout).await;
        let ended = self.links[1..].iter().zip(&self.gids).zip(answers);
        let unfinished = ended
            .filter(|(_, answer)| answer.is_err())
            .map(|((link, gid), _)| (link.shard(), gid.clone()))
            .collect();
        // Likewise not asked to stop.
        self.links.retain(Link::is_settled);
        unfinished
    }

    /// Undoes what the first round did. What is still prepared, for all that is known.
    async fn abort(
        &mut self,
        ready: &[Answer],
        worker: &Rc<Worker>,
        timeout: Duration,
    ) -> Vec<(ShardId, Gid)> {
        let mut asked = Vec::new();
        let mut unknown = Vec::new();
        for (place, (link, answer)) in self.links.iter_mut().zip(ready).enumerate() {
            let gid = place.checked_sub(1).map(|other| &self.gids[other]);
            match (gid, answer) {
                (Some(gid), Ok(())) => {
                    // PREPARE has kept what was SET in the transaction.
                    link.suspect();
                    link.server().queue(&words::rollback_prepared(gid));
                    asked.push(place);
                }
                (Some(gid), Err(Trouble::Lost(_) | Trouble::Slow)) => {
                    unknown.push((link.shard(), gid.clone()));
                }
                _ if link.is_settled() && link.status() != TransactionStatus::Idle => {
                    link.server().queue("ROLLBACK");
                    asked.push(place);
                }
                _ => {}
            }
        }
        let links = self.links.iter_mut().enumerate();
        let links = links.filter_map(|(place, link)| asked.contains(&place).then_some(link));
        let answers = round(links, worker, timeout).await;
        for (place, answer) in asked.into_iter().zip(answers) {
            if place > 0 && ready[place].is_ok() && answer.is_err() {
                unknown.push((self.links[place].shard(), self.gids[place - 1].clone()));
            }
        }
        unknown
    }

    fn unresolved(&self, database: &str, prepared: Vec<(ShardId, Gid)>) -> Unresolved {
        Unresolved {
            database: Box::from(database),
            id: self.id,
            decision_shard: self.links[0].shard(),
            prepared,
            decided: None,
            finished: None,
        }
    }

    /// What the client is told of a transaction that was rolled back: the first error of a server, else the first trouble.
    fn failed(&self, ready: Vec<Answer>, timeout: Duration) -> Fault {
        let names = self.names.iter();
        let mut troubles: Vec<(&str, Trouble)> = names
            .zip(ready)
            .filter_map(|(name, answer)| Some((*name, answer.err()?)))
            .collect();
        let said = |(_, trouble): &(&str, Trouble)| matches!(trouble, Trouble::Said(_));
        let place = troubles.iter().position(said).unwrap_or(0);
        match troubles.swap_remove(place) {
            (name, Trouble::Said(error)) => said_no(name, error),
            (name, Trouble::Lost(error)) => Fault::Limit {
                sqlstate: "40000",
                message: format!(
                    "the transaction is rolled back: the connection to shard \"{name}\" was lost before it was committed: {error}"
                ),
                hint: Some("Run the transaction again."),
            },
            (name, Trouble::Slow) => Fault::Limit {
                sqlstate: "40000",
                message: format!(
                    "the transaction is rolled back: shard \"{name}\" was not ready to commit it within {timeout:?}"
                ),
                hint: Some("Run the transaction again, or raise transactions.prepare_timeout."),
            },
        }
    }
}

/// A shard that could not get ready.
fn said_no(shard: &str, error: Vec<u8>) -> Fault {
    let Some(fields) = ErrorFields::parse(&error) else {
        return Fault::Server(error);
    };
    if fields.sqlstate == "0A000" {
        let message = format!(
            "shard \"{shard}\" cannot prepare the transaction: {}",
            String::from_utf8_lossy(fields.message)
        );
        return Fault::Refused(Refusal::new(Reason::CannotPrepare, message));
    }
    // The row that aborts it stands there already.
    if fields.sqlstate == "23505" && error.split(|byte| *byte == 0).any(|f| f == b"strunkline") {
        return Fault::Limit {
            sqlstate: "40001",
            message: format!(
                "the transaction is rolled back: shard \"{shard}\" took so long to get ready that it was given up"
            ),
            hint: Some("Run the transaction again."),
        };
    }
    Fault::Server(error)
}

/// Waits for the answers to what was queued, of all at the same time.
async fn round(
    links: impl Iterator<Item = &mut Link>,
    worker: &Rc<Worker>,
    timeout: Duration,
) -> Vec<Answer> {
    let timers = &worker.shared.timers;
    let answers = links.map(|link| async move {
        match timers
            .timeout(timeout, link.server().heard(&worker.scratch))
            .await
        {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(Trouble::Said(error)),
            Ok(Err(error)) => Err(Trouble::Lost(error)),
            Err(_) => Err(Trouble::Slow),
        }
    });
    join_all(answers).await
}

/// The one that decides: the one that cannot be prepared, else any, so that no shard gets all decisions.
fn decision(links: &[Link]) -> usize {
    let must = links.iter().position(|link| link.unpreparable().is_some());
    let should = || links.iter().position(|link| !link.pins().is_empty());
    must.or_else(should)
        .unwrap_or_else(|| rand::random_range(0..links.len()))
}

fn check_preparable(links: &[Link]) -> Result<(), Fault> {
    let mut reasons = links.iter().filter_map(Link::unpreparable);
    let (Some(reason), Some(_)) = (reasons.next(), reasons.next()) else {
        return Ok(());
    };
    let message =
        format!("the transaction cannot be prepared on more than one of its shards: it {reason}");
    Err(Fault::Refused(Refusal::new(Reason::CannotPrepare, message)))
}
