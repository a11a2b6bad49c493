//! A transaction on several shards: its connections, and the statements that all of them must see.
//!
//! One connection works for the session at a time (`Session::link`); the others stand aside (`Session::party`), each settled and in the
//! client's transaction. BEGIN, what was set, and savepoints reach a connection when it joins (`Session::opened`). From the second
//! connection on, the session answers COMMIT, ROLLBACK, savepoints and SET itself, because all connections have to do them.

use std::task::Poll;
use std::time::{Duration, Instant};

use super::Session;
use super::control::Control;
use super::link::{FAIL, Link, Phase, on_replica, run};
use super::reads::Seeks;
use super::respond::Fault;
use super::route::Destination;
use super::transaction::{Opener, Prologue, Transaction, default_modes};
use crate::backend::pipeline::{Committed, Fate};
use crate::execution::relay::{Broken, Reading, Turn};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Effect, Planned};
use crate::sharding::ShardId;
use crate::sql::class::{Chain, Class};
use crate::wire::answer::{self, TransactionStatus};

/// How long a connection may take to answer what it owes before it is given up.
pub(super) const REST: Duration = Duration::from_secs(5);

impl Session {
    /// The connection that works now makes room for one to another shard, and stays in the transaction.
    pub(super) async fn step_aside(&mut self, destination: Destination) -> Result<(), Fault> {
        self.open_unit_block();
        if self.transaction != Transaction::Open || self.opened.is_none() {
            return Err(self.second_shard(destination));
        }
        self.rest().await?;
        let status = self.link.as_ref().map(Link::status);
        if self.opener == Opener::Client && status == Some(TransactionStatus::Idle) {
            // It has ended, and only a Sync would tell the session so: nothing may join it any more.
            return Err(self.second_shard(destination));
        }
        if let Some(link) = self.link.take() {
            self.card.set_running(None);
            self.party.push(link);
        }
        Ok(())
    }

    /// A unit of work of the extended protocol is one transaction, so when it comes to need another shard it becomes a block.
    pub(super) fn open_unit_block(&mut self) {
        if self.transaction != Transaction::Idle {
            return;
        }
        match &mut self.link {
            Some(link) if link.is_in_unit() => {
                link.begin_block();
                self.transaction = Transaction::Open;
                // What the unit has set, and is done; what is under way is added when it is done.
                self.opened = self.local.is_default().then(|| {
                    let mut prologue = Prologue::new("BEGIN");
                    if let Some(sets) = self.settled.statements_to(&self.settings) {
                        prologue.append(&sets);
                    }
                    Box::new(prologue)
                });
            }
            Some(_) => return,
            None => self.transaction = Transaction::Begun(Prologue::new("BEGIN")),
        }
        self.opener = Opener::Unit;
    }

    /// Ends the block of a unit of work: its Sync has come, or what ends it in its place.
    pub(super) async fn end_unit_block(&mut self) -> Result<(), Fault> {
        let rests = self.rest().await;
        let wanted = if self.batch.is_skipping() || rests.is_err() {
            Committed::No
        } else {
            Committed::Yes
        };
        self.opener = Opener::Client;
        if self.transaction == Transaction::Open {
            let mut unsaid = Vec::new();
            let ended = self.end_party(wanted, Chain::No, &mut unsaid).await?;
            return check_ended(wanted, ended);
        }
        if self.transaction != Transaction::Idle {
            self.begun_ended(wanted);
        }
        Ok(())
    }

    /// Waits until the connection that works now has answered everything. In a transaction block, so nothing is committed by it.
    pub(super) async fn rest(&mut self) -> Result<(), Fault> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if link.is_in_unit() {
            link.sync(Fate::Swallow);
        }
        while self.link.as_ref().is_some_and(|link| !link.is_settled()) {
            let turn = std::future::poll_fn(|cx| {
                let turn = self.poll_relay(cx, Reading::Enough);
                // An answer of our own that is due makes no event.
                let rests = self.link.as_ref().is_none_or(Link::is_settled);
                match turn {
                    Poll::Pending if rests => Poll::Ready(Ok(Turn::Server)),
                    turn => turn,
                }
            });
            match turn.await {
                Ok(_) => {}
                // The next step of the session finds it gone.
                Err(Broken::Server(_) | Broken::Kept(_) | Broken::Client(_)) => {
                    return Err(Fault::Told);
                }
            }
            // What it brings to light does not end the client's unit of work.
            let _ = self.settle();
        }
        if std::mem::take(&mut self.failed) {
            return Err(Fault::Told);
        }
        Ok(())
    }

    /// The open transaction has several connections.
    pub(super) fn is_party(&self) -> bool {
        !self.party.is_empty()
    }

    /// Whether a statement that needs no table is for all connections of the open transaction, those that join later among them: these get it in
    /// the client's own words, which are at hand here only.
    pub(super) fn is_shared(&self, class: &Class) -> bool {
        self.is_party()
            || self.opened.is_some()
                && self.transaction == Transaction::Open
                && matches!(
                    class,
                    Class::SetConstraints | Class::SetTransaction | Class::Reset(_)
                )
    }

    /// A connection to each of these shards that is in the session's transaction, if there is one, and as the session wants it.
    pub(super) async fn enlist(&mut self, shards: &[ShardId]) -> Result<Vec<Link>, Fault> {
        let seeks = self.reads.seeks;
        self.enlist_seeking(shards, |_| seeks).await
    }

    /// Likewise; to the primary of this shard, whatever is sought on the others.
    pub(super) async fn enlist_with_primary(
        &mut self,
        shards: &[ShardId],
        primary: ShardId,
    ) -> Result<Vec<Link>, Fault> {
        let seeks = self.reads.seeks;
        let of = |shard: ShardId| match shard == primary {
            true => Seeks::Primary,
            false => seeks,
        };
        self.enlist_seeking(shards, of).await
    }

    async fn enlist_seeking(
        &mut self,
        shards: &[ShardId],
        seeks: impl Fn(ShardId) -> Seeks,
    ) -> Result<Vec<Link>, Fault> {
        self.take_snapshots_together().await?;
        let sought = self.reads.seeks;
        let mut enlisted = Vec::with_capacity(shards.len());
        let result = self.enlist_into(shards, seeks, &mut enlisted).await;
        self.reads.seeks = sought;
        if let Err(fault) = result {
            self.dismiss(enlisted).await;
            return Err(fault);
        }
        self.join(&enlisted);
        Ok(enlisted)
    }

    async fn enlist_into(
        &mut self,
        shards: &[ShardId],
        seeks: impl Fn(ShardId) -> Seeks,
        enlisted: &mut Vec<Link>,
    ) -> Result<(), Fault> {
        if let Some(link) = self.link.take() {
            self.party.push(link);
        }
        for shard in shards {
            self.reads.seeks = seeks(*shard);
            if let Some(place) = self
                .party
                .iter()
                .position(|link| link.serves(*shard, self.reads.seeks))
            {
                enlisted.push(self.party.swap_remove(place));
                continue;
            }
            if self.transaction == Transaction::Open && self.opened.is_none() {
                return Err(self.second_shard(Destination::Shard(*shard)));
            }
            if self.keeps_snapshot_on_replica(*shard) {
                return Err(on_replica());
            }
            self.take_ready(*shard, Phase::Working).await?;
            let Some(link) = self.link.take() else {
                return Err(Fault::Told);
            };
            enlisted.push(link);
        }
        Ok(())
    }

    /// The transaction shows one snapshot of this shard, which is a replica's.
    fn keeps_snapshot_on_replica(&self, shard: ShardId) -> bool {
        let mut party = self.party.iter();
        party.any(|link| link.shard() == shard && link.is_replica())
            && self
                .opened
                .as_ref()
                .is_some_and(|opened| opened.keeps_snapshot(default_modes(&self.settled)))
    }

    /// Connections of a statement that is over go back where they came from: to the transaction, or to their pools.
    pub(super) async fn dismiss(&mut self, mut links: Vec<Link>) {
        self.card.set_running(None);
        self.card.set_also_running(Vec::new());
        self.settle_links(&mut links).await;
        let now = Instant::now();
        if self.transaction == Transaction::Open {
            self.party.extend(links);
            // The one that has failed shows the client that all have.
            let failed = self
                .party
                .iter()
                .position(|link| link.status() == TransactionStatus::Failed);
            if let Some(link) = failed
                .map(|place| self.party.swap_remove(place))
                .or_else(|| self.party.pop())
            {
                self.link_up(link);
            }
            return;
        }
        self.card.company.disband();
        for link in links {
            self.let_go(link, now);
        }
    }

    /// Gives a connection back whose transaction is over; one that is in another state is cleaned or closed.
    fn let_go(&mut self, link: Link, now: Instant) {
        if link.is_settled() && link.status() == TransactionStatus::Idle {
            self.link = Some(link);
            self.detach(now);
        } else {
            link.clean_up(&self.worker);
        }
    }

    /// Waits for what is owed to us, like the answer to BEGIN. A connection that broke, or goes on, stays unsettled.
    pub(super) async fn settle_links(&mut self, links: &mut [Link]) {
        for link in links {
            if link.is_settled() && !link.was_cancelled() {
                continue;
            }
            let rest = link.come_to_rest(&self.worker);
            let _ = self.worker.shared.timers.timeout(REST, rest).await;
        }
    }

    /// The client's transaction has failed, though none of its connections may know.
    pub(super) async fn fail_party(&mut self) {
        if self.transaction != Transaction::Open {
            self.fail_begun();
            return;
        }
        let worker = std::rc::Rc::clone(&self.worker);
        if let Some(link) = &mut self.link
            && link.status() == TransactionStatus::InTransaction
            && link.is_settled()
        {
            // Its error is what was wanted.
            let _ = run(link.server(), FAIL, &worker).await;
        }
        self.fail_others();
    }

    /// The transaction has failed on the connection that works now: the others fail too, so that it holds no locks, as on one server.
    /// Nobody waits for it here.
    pub(super) fn fail_others(&mut self) {
        for link in &mut self.party {
            if link.is_clear() && link.status() == TransactionStatus::InTransaction {
                link.fail_meanwhile();
            }
        }
    }

    /// What [`Session::fail_others`] has asked for is done.
    async fn settle_others(&mut self) {
        if self.party.iter().all(Link::is_settled) {
            return;
        }
        let mut party = std::mem::take(&mut self.party);
        self.settle_links(&mut party).await;
        self.party = party;
    }

    /// A statement that every connection of the transaction must see; appends its answer.
    pub(super) async fn in_party(
        &mut self,
        class: &Class,
        text: &str,
        out: &mut Vec<u8>,
    ) -> Result<Control, Fault> {
        self.rest().await?;
        self.settle_others().await;
        self.card.company.runs(text.as_bytes());
        match class {
            Class::Commit { chain } => {
                self.end_party(Committed::Yes, *chain, out).await?;
            }
            Class::Rollback { chain } => {
                self.end_party(Committed::No, *chain, out).await?;
            }
            Class::Begin => return Ok(Control::Forward),
            Class::RollbackTo(_) => {
                self.tell_party(text).await?;
                self.statement_done(class, Committed::No);
                answer::command_complete(out, "ROLLBACK");
            }
            Class::Savepoint(_)
            | Class::Release(_)
            | Class::Set { .. }
            | Class::Reset(_)
            | Class::SetTransaction
            | Class::SetConstraints => {
                self.check_not_aborted()?;
                self.tell_party(text).await?;
                let opened = self.opened.clone();
                self.statement_done(class, Committed::No);
                if self.opened.is_none()
                    && let Some(mut opened) = opened
                {
                    // Here the client's own words are at hand.
                    opened.append(text);
                    self.opened = Some(opened);
                }
                let settings = self.settings.clone();
                for link in &mut self.party {
                    link.set_settings(&settings);
                }
                self.tell_reported();
                let tag = match class {
                    Class::Savepoint(_) => "SAVEPOINT",
                    Class::Release(_) => "RELEASE",
                    Class::Reset(_) => "RESET",
                    Class::SetConstraints => "SET CONSTRAINTS",
                    _ => "SET",
                };
                answer::command_complete(out, tag);
            }
            _ => {
                let message = "the statement would have to run on all shards of the transaction";
                return Err(Fault::Refused(Refusal::new(
                    Reason::MultiShardTransaction,
                    message,
                )));
            }
        }
        Ok(Control::Answered)
    }

    /// Runs it on all connections; the first error ends it, and the transaction has failed.
    pub(super) async fn tell_party(&mut self, text: &str) -> Result<(), Fault> {
        let worker = std::rc::Rc::clone(&self.worker);
        let mut told = Ok(());
        for link in self.link.iter_mut().chain(&mut self.party) {
            told = run(link.server(), text, &worker).await;
            if told.is_err() {
                break;
            }
        }
        if told.is_err() {
            self.fail_party().await;
        }
        told
    }

    /// COMMIT or ROLLBACK on all connections, which then go back to their pools. Which of the two it was: a failed transaction rolls back.
    pub(super) async fn end_party(
        &mut self,
        wanted: Committed,
        chain: Chain,
        out: &mut Vec<u8>,
    ) -> Result<Committed, Fault> {
        let mut links: Vec<Link> = self.link.take().into_iter().collect();
        links.append(&mut self.party);
        // No deadlock is ended from here on: the request could hit the decision.
        self.card.company.disband();
        self.settle_links(&mut links).await;
        let failed = |link: &Link| link.status() != TransactionStatus::InTransaction;
        let fails = links.iter().any(failed);
        let begin = self.opened.as_ref().map(|opened| opened.begin().to_owned());
        let outcome = if fails { Committed::No } else { wanted };
        let ended = match outcome {
            Committed::Yes => self.commit(&mut links).await,
            Committed::No => {
                self.roll_back(&mut links).await;
                Ok(())
            }
        };
        let outcome = if ended.is_ok() {
            outcome
        } else {
            Committed::No
        };
        self.begun_ended(outcome);
        let now = Instant::now();
        if wanted == Committed::Yes {
            // Whatever became of it: it may be there.
            for link in links.iter().filter(|link| link.has_written()) {
                self.wrote(link.shard());
            }
        }
        for mut link in links {
            link.set_settings(&self.settings);
            self.let_go(link, now);
        }
        self.card.set_running(None);
        ended?;
        if chain == Chain::Yes
            && let Some(begin) = begin
        {
            self.transaction = Transaction::Begun(Prologue::new(&begin));
        }
        answer::command_complete(
            out,
            match outcome {
                Committed::Yes => "COMMIT",
                Committed::No => "ROLLBACK",
            },
        );
        Ok(outcome)
    }

    /// A unit of work that would write on a second shard could not be committed at its Sync: better it is refused here.
    pub(super) fn check_writers(
        &self,
        planned: &Planned,
        destination: Destination,
    ) -> Result<(), Fault> {
        if self.opener != Opener::Unit || planned.effect() != Effect::Writes {
            return Ok(());
        }
        let elsewhere = |link: &&Link| match destination {
            Destination::Shard(shard) => link.has_written() && link.shard() != shard,
            Destination::Any | Destination::Several => false,
        };
        let others = self.party.iter().chain(&self.link).filter(elsewhere);
        let mut writers: Vec<ShardId> = others.map(Link::shard).collect();
        if writers.is_empty() {
            return Ok(());
        }
        if let Destination::Shard(shard) = destination {
            writers.push(shard);
        }
        self.check_commit(&writers)
    }
}

/// What was answered as done must not be rolled back unsaid.
pub(super) fn check_ended(wanted: Committed, ended: Committed) -> Result<(), Fault> {
    if wanted == ended {
        return Ok(());
    }
    Err(Fault::Limit {
        sqlstate: "40000",
        message: "the transaction is rolled back: one of its connections had failed or was in no transaction".to_owned(),
        hint: Some("Run it again."),
    })
}
