//! A server connection in this session's hands: taking one, bringing it to the session's state, giving it back.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::card::State;
use super::extended::Held;
use super::last_values::LastValues;
use super::pin::Pin;
use super::reads::{MARK, Seeks};
use super::respond::{Fault, Loss};
use super::route::Destination;
use super::statement::{Source, Statement};
use super::transaction::{Transaction, default_modes};
use super::worker::{Worker, add};
use super::{Session, microseconds};
use crate::backend::cancel::Canceller;
use crate::backend::pipeline::{Copying, Event, Fate, Request, Telling, Token};
use crate::backend::pool::{Lending, Lent, Pool, Seat};
use crate::backend::position::Shift;
use crate::backend::prepared::{Room, StatementId};
use crate::backend::server::{Server, ServerError, Shown, Tenure};
use crate::backend::settings::{Reported, Settings};
use crate::config::{PoolMode, ReadFrom};
use crate::execution::client::Client;
use crate::execution::relay::{Broken, Reading};
use crate::plan::Effect;
use crate::plan::refusal::{Reason, Refusal};
use crate::sharding::ShardId;
use crate::wire::answer::TransactionStatus;
use crate::wire::message;

/// How many connections are tried, one after the other, when they break before anything of the client's was sent.
const TRIES: usize = 8;

/// How long a connection may take to be cleaned before it is closed instead.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// A portal that never exists: to execute it makes the server fail, and so its transaction.
const NO_PORTAL: &[u8] = b"trunkline refused the statement";

/// DISCARD ALL without the loss of prepared statements.
const SETTLE: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// Statement and portal by which PREPARE is run unseen.
const CARRIER: &[u8] = b"trunkline prepares";

/// Makes a transaction fail, without a function or an operator that somebody may have defined anew.
pub(super) const FAIL: &str = "ROLLBACK TO \"trunkline: the transaction has failed\"";

/// A connection that works for this session.
pub struct Link {
    lent: Lent,
    phase: Phase,
    keep: Keep,
    hygiene: Hygiene,
    pins: Vec<Pin>,
    /// Whether what it is kept for may have ended.
    doubt: Doubt,
    /// The most that has run in the open transaction.
    effect: Effect,
    /// What the open transaction has done that Postgres prepares no transaction with.
    unpreparable: Option<&'static str>,
    marking: Marking,
    pub last_values: LastValues,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Doubt {
    #[default]
    None,
    Some,
}

/// Whether it was asked how far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Marking {
    #[default]
    No,
    Asked,
}

/// What the connection has been used for in this unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Parse and Describe only: the session may still go to another shard, and its transaction has not begun here.
    Metadata,
    Working,
}

/// Whether the connection goes back to the pool between transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    No,
    /// It holds state of the session.
    Yes,
}

/// Whether a clean-up is needed before anybody else may have the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hygiene {
    Clean,
    /// A function ran that may have set or taken something unseen.
    Unsettled,
    /// Something ran that may have changed the connection behind our back.
    Suspect,
}

/// What [`encode_prepare`] asks for.
const PREPARE_UNSEEN: [Request; 6] = [
    Request::Close,
    Request::Parse,
    Request::Bind,
    Request::Execute,
    Request::Close,
    Request::Close,
];

/// Runs PREPARE unseen, under names that leave the client's unnamed statement and portal alone.
fn encode_prepare(text: &[u8], out: &mut Vec<u8>) {
    let no_types: &[u8] = &[0, 0, 0];
    let close = |target, out: &mut Vec<u8>| {
        message::Close {
            target,
            name: CARRIER,
        }
        .encode(out);
    };
    // An error left it there the last time.
    close(message::Target::Statement, out);
    message::encode_parse(CARRIER, &[text, no_types].concat(), out);
    message::encode_bind_empty(CARRIER, CARRIER, out);
    message::Execute {
        portal: CARRIER,
        max_rows: 0,
    }
    .encode(out);
    close(message::Target::Portal, out);
    close(message::Target::Statement, out);
}

fn encode_describe(statement: &Statement, naming: Naming, out: &mut Vec<u8>) {
    message::Describe {
        target: message::Target::Statement,
        name: naming.of(statement),
    }
    .encode(out);
}

impl Keep {
    fn tenure(self) -> Tenure {
        match self {
            Keep::No => Tenure::Transaction,
            Keep::Yes => Tenure::Session,
        }
    }

    fn of(mode: PoolMode) -> Keep {
        match mode {
            PoolMode::Session => Keep::Yes,
            PoolMode::Transaction | PoolMode::Strict => Keep::No,
        }
    }
}

impl Link {
    pub(super) fn new(mut lent: Lent, phase: Phase, mode: PoolMode) -> Link {
        lent.tenure = Keep::of(mode).tenure();
        Link {
            lent,
            phase,
            keep: Keep::of(mode),
            hygiene: Hygiene::Clean,
            pins: Vec::new(),
            doubt: Doubt::None,
            effect: Effect::Reads,
            unpreparable: None,
            marking: Marking::No,
            last_values: match mode {
                PoolMode::Session => LastValues::Own,
                PoolMode::Transaction | PoolMode::Strict => LastValues::Anybodys,
            },
        }
    }

    pub fn effect(&self) -> Effect {
        self.effect
    }

    pub fn has_written(&self) -> bool {
        self.effect == Effect::Writes
    }

    /// Something that does so much is about to run.
    pub fn note(&mut self, effect: Effect) {
        self.effect = self.effect.max(effect);
    }

    /// Why the open transaction cannot be prepared here, as far as that is known.
    pub fn unpreparable(&self) -> Option<&'static str> {
        self.unpreparable
    }

    /// From now on the open transaction cannot be prepared here. `reason` goes after "it".
    pub fn cannot_prepare(&mut self, reason: &'static str) {
        self.unpreparable.get_or_insert(reason);
    }

    pub(super) fn canceller(&self) -> &Rc<Canceller> {
        &self.lent.canceller
    }

    /// A request to stop what ran here may still be on its way.
    pub fn was_cancelled(&self) -> bool {
        self.lent.canceller.was_requested()
    }

    /// Waits for answers that are still owed, none of which is the client's, and for requests to stop what was asked.
    pub async fn come_to_rest(&mut self, worker: &Rc<Worker>) -> Result<(), ServerError> {
        self.lent.come_to_rest(&worker.scratch).await?;
        if self.lent.canceller.was_requested() {
            self.lent.canceller.rest().await;
            // One that is late hits this empty query and nothing that matters.
            let _ = self.lent.run("", &worker.scratch).await?;
            self.lent.canceller.forget_requested();
        }
        Ok(())
    }

    pub fn server(&mut self) -> &mut Server {
        &mut self.lent
    }

    pub fn shard(&self) -> ShardId {
        self.lent.shard
    }

    /// None of its pool's connections is lent again.
    pub fn evict_pool(&self) {
        self.lent.evict_pool();
    }

    /// It is to a replica, for reads.
    pub fn is_replica(&self) -> bool {
        matches!(self.lent.seat, Seat::Replica(_))
    }

    /// It can do what is sought on this shard.
    pub fn serves(&self, shard: ShardId, seeks: Seeks) -> bool {
        self.lent.shard == shard && (seeks == Seeks::Replica || !self.is_replica())
    }

    /// Asks how far the log has come, behind what was sent. The client is not read before the answer is there.
    pub fn mark(&mut self) {
        let copies = self.lent.pipeline.copying() != Copying::No;
        if self.marking == Marking::Asked || !self.has_written() || copies {
            return;
        }
        self.marking = Marking::Asked;
        self.lent.unnamed = None;
        message::encode_query(MARK.as_bytes(), self.lent.outbox());
        self.lent.pipeline.expect(Request::Query, Fate::Mark, None);
    }

    /// The mark was answered.
    pub fn unmark(&mut self) {
        self.marking = Marking::No;
        self.effect = Effect::Reads;
    }

    /// Nothing is owed, and what a mark was answered has been taken.
    pub fn has_rested(&self) -> bool {
        self.is_settled() && self.marking == Marking::No
    }

    pub fn owes_only_mark(&self) -> bool {
        self.lent.pipeline.owes_only_mark()
    }

    pub fn status(&self) -> TransactionStatus {
        self.lent.status
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    pub fn is_metadata(&self) -> bool {
        self.phase == Phase::Metadata
    }

    /// From now on it is used for more than Parse and Describe.
    pub(super) fn at_work(mut self) -> Link {
        self.phase = Phase::Working;
        self
    }

    /// It has these settings, and has reported what the client was told.
    pub(super) fn is_as(&self, settings: &Settings, reported: &Reported) -> bool {
        self.lent.settings.is_same(settings) && self.lent.reported.is_same(reported)
    }

    pub fn is_kept(&self) -> bool {
        self.keep == Keep::Yes
    }

    /// The end of the unit of work is on its way: no more of the client's messages until the server is ready.
    pub fn is_closing(&self) -> bool {
        self.lent.pipeline.is_closing()
    }

    pub fn is_copying(&self) -> bool {
        self.lent.pipeline.copying() == Copying::In
    }

    /// COPY data of the client have to wait until the server asks for them.
    pub fn expects_copy(&self) -> bool {
        self.lent.pipeline.copying() == Copying::Expected
    }

    pub fn expect_copy(&mut self) {
        self.lent.pipeline.expect_copy();
    }

    pub fn copy_ended(&mut self) {
        self.lent.pipeline.copy_ended();
    }

    pub fn is_settled(&self) -> bool {
        self.lent.is_settled()
    }

    /// Something was sent since the server was last ready.
    pub fn is_in_unit(&self) -> bool {
        self.lent.pipeline.is_in_unit()
    }

    /// It is between two units of work.
    pub fn is_clear(&self) -> bool {
        self.is_settled() && !self.is_in_unit()
    }

    pub fn is_mid_message(&self) -> bool {
        self.lent.is_mid_message()
    }

    pub fn backlog(&self) -> usize {
        self.lent.backlog()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.lent.push(bytes);
    }

    /// Sends a message of the client as it is.
    pub fn send(&mut self, frame: &[u8], request: Request, token: Option<Token>) {
        self.lent.push(frame);
        self.lent.pipeline.expect(request, Fate::Forward, token);
    }

    /// Likewise a message of a text in which names were replaced.
    pub fn send_shifted(
        &mut self,
        frame: &[u8],
        request: Request,
        token: Option<Token>,
        by: &Shift,
    ) {
        let owed = self.lent.pipeline.owed();
        self.send(frame, request, token);
        self.lent.pipeline.shift(owed, by);
    }

    pub fn answer(&mut self, bytes: Vec<u8>) {
        self.lent.pipeline.answer(bytes.into_boxed_slice(), None);
    }

    /// An answer of ours whose end the session wants to know.
    pub fn answer_for(&mut self, bytes: Vec<u8>, token: Token) {
        self.lent
            .pipeline
            .answer(bytes.into_boxed_slice(), Some(token));
    }

    /// Makes the server fail, so that its transaction fails with it, and tells the client why in our words.
    pub fn refuse(&mut self, error: Vec<u8>) {
        message::Execute {
            portal: NO_PORTAL,
            max_rows: 0,
        }
        .encode(self.lent.outbox());
        self.lent.pipeline.expect(
            Request::Execute,
            Fate::Refuse(error.into_boxed_slice()),
            None,
        );
    }

    /// Makes the server's transaction fail, without a word to the client and without waiting for it.
    pub fn fail_meanwhile(&mut self) {
        self.forget_unnamed();
        message::encode_query(FAIL.as_bytes(), self.lent.outbox());
        let nothing = Fate::Refuse(Box::default());
        self.lent.pipeline.expect(Request::Query, nothing, None);
        // What does not leave now leaves with the next that is asked there.
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        let _ = self.lent.poll_flush(&mut nobody);
    }

    pub fn sync(&mut self, fate: Fate) {
        message::encode_sync(self.lent.outbox());
        self.lent.pipeline.expect(Request::Sync, fate, None);
    }

    pub fn suspect(&mut self) {
        self.hygiene = Hygiene::Suspect;
    }

    /// Settings, locks and the like are undone before anybody else gets the connection; prepared statements stay.
    pub fn unsettle(&mut self) {
        if self.hygiene == Hygiene::Clean {
            self.hygiene = Hygiene::Unsettled;
        }
    }

    fn set_keep(&mut self, keep: Keep) {
        self.keep = keep;
        self.lent.tenure = keep.tenure();
    }

    /// It is kept, until this is over. The transaction that brought it may take it away again, so that is looked at first.
    pub fn pin(&mut self, pin: Pin) {
        self.set_keep(Keep::Yes);
        self.doubt = Doubt::Some;
        if !self.pins.contains(&pin) {
            self.pins.push(pin);
        }
    }

    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    pub fn doubt_pins(&mut self) {
        if !self.pins.is_empty() {
            self.doubt = Doubt::Some;
        }
    }

    pub fn doubts_pins(&self) -> bool {
        self.doubt == Doubt::Some
    }

    /// Asks the server for one value; `None` when that fails.
    pub async fn ask(&mut self, sql: &str, worker: &Rc<Worker>) -> Option<String> {
        let mut answer = Vec::new();
        self.doubt = Doubt::None;
        let asked = self.lent.capture(sql, &worker.scratch, &mut answer);
        asked.await.ok()?;
        super::login::first_value(&answer).map(str::to_owned)
    }

    /// Forgets the pins that are over. Whether the connection is still to be kept.
    pub fn forget_pins(&mut self, is_over: impl Fn(Pin) -> bool, mode: PoolMode) -> bool {
        self.pins.retain(|pin| !is_over(*pin));
        if self.pins.is_empty() {
            self.set_keep(Keep::of(mode));
        }
        self.keep == Keep::Yes
    }

    /// Gives back a connection that the session kept and needs no longer.
    pub fn give_back(self, worker: &Rc<Worker>, now: Instant) {
        self.release(worker, now);
    }

    /// The connection is as the session is now; for SET that has just run there.
    pub fn set_settings(&mut self, settings: &Settings) {
        self.lent.settings = settings.clone();
    }

    pub fn forget_prepared(&mut self) {
        self.lent.prepared.clear();
        self.lent.unnamed = None;
    }

    /// Whether the connection has this statement under the name it is bound by.
    pub fn has(&mut self, statement: &Statement, naming: Naming) -> bool {
        match naming {
            Naming::Named => self.lent.prepared.touch(statement.id),
            Naming::Unnamed => self.lent.unnamed == Some(statement.id),
        }
    }

    /// Sends a Parse, or what does the same for a statement that came by PREPARE: that one is never the client's own Parse.
    pub fn parse(
        &mut self,
        statement: &Statement,
        naming: Naming,
        fate: Fate,
        token: Token,
        telling: Telling,
    ) {
        let after_name = match &statement.source {
            Source::Parse { after_name, .. } => after_name,
            Source::Prepare { text, .. } => return self.prepare(text, token),
        };
        let name: &[u8] = match naming {
            Naming::Named => &statement.server_name,
            Naming::Unnamed => {
                self.lent.unnamed = Some(statement.id);
                b""
            }
        };
        message::encode_parse(name, after_name, self.lent.outbox());
        { &mut self.lent.pipeline }.expect_telling(Request::Parse, fate, Some(token), telling);
    }

    /// Makes the unit of work that is open here a transaction block.
    pub fn begin_block(&mut self) {
        encode_prepare(b"BEGIN", self.lent.outbox());
        for request in PREPARE_UNSEEN {
            self.lent.pipeline.expect(request, Fate::Swallow, None);
        }
    }

    fn prepare(&mut self, text: &[u8], token: Token) {
        encode_prepare(text, self.lent.outbox());
        for request in PREPARE_UNSEEN {
            let token = (request == Request::Execute).then_some(token);
            self.lent.pipeline.expect(request, Fate::Swallow, token);
        }
    }

    /// Asks what a statement takes and returns, for the session or for the client.
    pub fn describe(
        &mut self,
        statement: &Statement,
        naming: Naming,
        fate: Fate,
        token: Option<Token>,
    ) {
        encode_describe(statement, naming, self.lent.outbox());
        self.lent
            .pipeline
            .expect(Request::DescribeStatement, fate, token);
    }

    /// Has the server answer what it was asked so far.
    pub fn flush(&mut self) {
        message::encode_flush(self.lent.outbox());
    }

    /// Closes a stale statement and prepares it anew, ahead of what is owed already; the tokens are of that and of its description.
    pub fn ask_again(&mut self, stale: &Statement, renewed: &Statement, token: Token, look: Token) {
        self.forget(stale.id);
        self.now_has(renewed.id, renewed.weight());
        let out = self.lent.outbox();
        message::Close {
            target: message::Target::Statement,
            name: &stale.server_name,
        }
        .encode(out);
        let mut anew = vec![(Request::Close, None)];
        match &renewed.source {
            Source::Parse { after_name, .. } => {
                message::encode_parse(&renewed.server_name, after_name, out);
                anew.push((Request::Parse, Some(token)));
            }
            Source::Prepare { text, .. } => {
                encode_prepare(text, out);
                anew.extend(
                    PREPARE_UNSEEN
                        .map(|request| (request, (request == Request::Execute).then_some(token))),
                );
            }
        }
        encode_describe(renewed, Naming::Named, out);
        anew.push((Request::DescribeStatement, Some(look)));
        self.lent.pipeline.ask_again(&anew);
    }

    /// Counts a statement as prepared here; those that must be closed for it.
    pub fn make_room(&mut self, statement: &Statement, room: Room) -> Vec<(StatementId, usize)> {
        self.lent
            .prepared
            .insert(statement.id, statement.weight(), room)
    }

    /// Those that are here beyond the room.
    pub fn excess(&mut self, room: Room) -> Vec<(StatementId, usize)> {
        self.lent.prepared.excess(room)
    }

    /// Sends a Close that the client does not know of.
    pub fn close_evicted(&mut self, id: StatementId, token: Token) {
        let name = id.server_name();
        message::Close {
            target: message::Target::Statement,
            name: name.as_bytes(),
        }
        .encode(self.lent.outbox());
        self.lent
            .pipeline
            .expect(Request::Close, Fate::Swallow, Some(token));
    }

    /// Sends a Close of what may be there under a statement's name.
    pub fn close_statement(&mut self, statement: &Statement) {
        message::Close {
            target: message::Target::Statement,
            name: &statement.server_name,
        }
        .encode(self.lent.outbox());
        self.lent
            .pipeline
            .expect(Request::Close, Fate::Swallow, None);
    }

    /// The server did not prepare it after all.
    pub fn forget(&mut self, id: StatementId) {
        self.lent.prepared.remove(id);
        if self.lent.unnamed == Some(id) {
            self.lent.unnamed = None;
        }
    }

    /// The server prepared it by the client's own words, or did not close it after all.
    pub fn now_has(&mut self, id: StatementId, weight: usize) {
        // More than the room for a moment: the next new one evicts again.
        self.lent.prepared.insert(id, weight, Room::ENDLESS);
    }

    /// A simple query takes the unnamed statement with it.
    pub fn forget_unnamed(&mut self) {
        self.lent.unnamed = None;
    }

    /// What was kept for the session is gone.
    pub fn unpin(&mut self, mode: PoolMode) {
        self.set_keep(Keep::of(mode));
        self.hygiene = Hygiene::Clean;
        self.pins.clear();
        self.doubt = Doubt::None;
    }

    /// Lets the server judge statements that begin a transaction, which is to be rolled back.
    pub async fn try_out(&mut self, trial: &str, worker: &Rc<Worker>) -> Result<(), Fault> {
        run(&mut self.lent, trial, worker).await
    }

    pub async fn roll_back(&mut self, worker: &Rc<Worker>) -> Result<(), Fault> {
        if self.lent.status == TransactionStatus::Idle {
            return Ok(());
        }
        run(&mut self.lent, "ROLLBACK", worker).await
    }

    /// Gives the connection back to its pool; when a cancel request is on its way to it, after that has come to rest.
    fn release(self, worker: &Rc<Worker>, now: Instant) {
        if self.hygiene != Hygiene::Clean {
            return self.clean_up(worker);
        }
        let mut lent = self.lent;
        lent.shown = Shown::Own;
        if !lent.canceller.is_busy() {
            lent.canceller.forget_requested();
            return lent.release(now);
        }
        let home = worker.home.clone();
        let worker = Rc::clone(worker);
        home.spawn(async move {
            let rest = async {
                lent.canceller.rest().await;
                // A cancel that is late hits this empty query and nobody's statement.
                lent.run("", &worker.scratch).await
            };
            if let Ok(Ok(_)) = worker.shared.timers.timeout(CLEAN_UP, rest).await {
                lent.canceller.forget_requested();
                lent.release(Instant::now());
            }
        });
    }

    /// Gives the connection back after all that a session may have left on it is gone; closes it when that fails.
    pub fn clean_up(self, worker: &Rc<Worker>) {
        let mut lent = self.lent;
        if !lent.is_settled() || lent.pipeline.is_in_unit() {
            // Something still runs, or waits for the Sync that would commit it: it is stopped, and the connection is closed.
            let canceller = Rc::clone(&lent.canceller);
            worker.home.spawn(async move {
                canceller.cancel().await;
                drop(lent);
            });
            return;
        }
        lent.shown = Shown::Own;
        let worker = Rc::clone(worker);
        // What a transaction that is rolled back had set is known only after a full reset.
        let open = lent.status != TransactionStatus::Idle;
        let needs_discard = open || self.keep == Keep::Yes || self.hygiene == Hygiene::Suspect;
        let hygiene = self.hygiene;
        let home = worker.home.clone();
        home.spawn(async move {
            let cleaned = async {
                lent.canceller.rest().await;
                lent.canceller.forget_requested();
                if open {
                    lent.run("ROLLBACK", &worker.scratch).await?.ok();
                }
                if needs_discard {
                    let discarded = lent.run("DISCARD ALL", &worker.scratch).await?;
                    lent.settings = Settings::default();
                    lent.prepared.clear();
                    lent.unnamed = None;
                    return Ok::<bool, ServerError>(discarded.is_ok());
                }
                if hygiene == Hygiene::Unsettled {
                    let settled = lent.run(SETTLE, &worker.scratch).await?;
                    lent.settings = Settings::default();
                    return Ok(settled.is_ok());
                }
                Ok(true)
            };
            if let Ok(Ok(true)) = worker.shared.timers.timeout(CLEAN_UP, cleaned).await {
                lent.release(Instant::now());
            }
        });
    }
}

/// Under which name a client prepared a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    Named,
    Unnamed,
}

impl Naming {
    /// What servers know the statement by.
    pub fn of(self, statement: &Statement) -> &[u8] {
        match self {
            Naming::Named => &statement.server_name,
            Naming::Unnamed => b"",
        }
    }
}

impl Session {
    /// Makes sure that a connection to the destination works for this session.
    pub(super) async fn attach(
        &mut self,
        destination: Destination,
        phase: Phase,
    ) -> Result<(), Fault> {
        if let Some(link) = &mut self.link {
            let elsewhere = match destination {
                Destination::Shard(shard) => !link.serves(shard, self.reads.seeks),
                _ => !link.serves(link.shard(), self.reads.seeks),
            };
            if elsewhere
                && link.is_replica()
                && self
                    .opened
                    .as_ref()
                    .is_some_and(|opened| opened.keeps_snapshot(default_modes(&self.settled)))
            {
                return Err(on_replica());
            }
            match (link.phase, phase) {
                (Phase::Working, _) if elsewhere => self.step_aside(destination).await?,
                (Phase::Working, _) | (Phase::Metadata, Phase::Metadata) => return Ok(()),
                (Phase::Metadata, Phase::Working)
                    if !elsewhere && self.transaction == Transaction::Idle =>
                {
                    link.phase = Phase::Working;
                    return Ok(());
                }
                (Phase::Metadata, Phase::Working) => self.leave_metadata().await?,
            }
        }
        if phase == Phase::Working {
            self.take_snapshots_together().await?;
            // One of those with the snapshots: it may be to this shard, and must not be replaced by another.
            self.party.extend(self.link.take());
        }
        let shard = match destination {
            Destination::Shard(shard) => shard,
            Destination::Any => self.database.catalog().home,
            Destination::Several => return Err(self.second_shard(destination)),
        };
        if phase == Phase::Metadata {
            self.seek_definitions(shard);
        }
        if let Some(place) = self
            .party
            .iter()
            .position(|link| link.serves(shard, self.reads.seeks))
        {
            let link = self.party.swap_remove(place);
            self.link_up(link);
            self.join(&[]);
            self.send_held();
            return Ok(());
        }
        self.take_ready(shard, phase).await?;
        self.join(&[]);
        self.send_held();
        Ok(())
    }

    /// Takes a connection that is as the session wants it, and lets it work for the session. One that breaks before it has anything of the
    /// client's is replaced.
    pub(super) async fn take_ready(&mut self, shard: ShardId, phase: Phase) -> Result<(), Fault> {
        let mut tries = TRIES;
        loop {
            let link = self.take_link(shard, phase).await?;
            self.link_up(link);
            let Err(fault) = self.bring_up(phase).await else {
                return Ok(());
            };
            self.card.set_running(None);
            tries -= 1;
            // Not in a known state: closed.
            match (self.link.take(), fault) {
                (Some(mut link), Fault::Broken(loss)) if tries > 0 && !link.is_kept() => {
                    self.was_lost(&mut link, &loss.error);
                    self.pass_by(&mut link);
                }
                (_, fault) => {
                    self.fail_begun();
                    return Err(fault);
                }
            }
        }
    }

    /// From now on this connection works for the session.
    pub(super) fn link_up(&mut self, mut link: Link) {
        link.lent.shown = Shown::Own;
        self.card.set_running(Some(Rc::clone(&link.lent.canceller)));
        self.card.shard.set(Some(link.shard()));
        self.link = Some(link);
    }

    /// Takes a connection: one that this session keeps, or one of the pool.
    pub(super) async fn take_link(&mut self, shard: ShardId, phase: Phase) -> Result<Link, Fault> {
        self.check_follows()?;
        if let Some(place) = self
            .kept
            .iter()
            .position(|link| link.serves(shard, self.reads.seeks))
        {
            let mut link = self.kept.swap_remove(place);
            link.phase = phase;
            return Ok(link);
        }
        let lent = match self.granted.take() {
            Some(Ok(lent)) if lent.shard == shard => lent,
            Some(Err(error)) if !self.reads.queue_failed() => return Err(Fault::Checkout(error)),
            _ => self.lend(shard).await?,
        };
        add(&self.database.counters.assignments, 1);
        Ok(Link::new(lent, phase, self.mode))
    }

    pub(super) async fn checkout(&mut self, shard: ShardId) -> Result<Lent, Fault> {
        let pool = self.pool(shard)?;
        if let Some(lent) = pool.try_checkout(self.unit_began) {
            return Ok(lent);
        }
        self.waits(State::Waiting, Instant::now());
        let lent = pool.checkout(self.held_bytes).await;
        self.waits(State::Active, Instant::now());
        lent.map_err(Fault::Checkout)
    }

    /// Begins or ends to wait for a connection.
    pub(super) fn waits(&mut self, state: State, now: Instant) {
        if state == State::Active {
            let waited = microseconds(now - self.waiting_since);
            add(&self.database.counters.wait_microseconds, waited);
            // Statistics tell waiting and working apart, as PgBouncer's do.
            self.unit_began = now;
        }
        self.waiting_since = now;
        self.card.enter(state, now);
    }

    /// The pool of a shard; looked up once, and again after a reload has closed it.
    pub(super) fn pool(&mut self, shard: ShardId) -> Result<Rc<Pool>, Fault> {
        if let Some(Some(pool)) = self.pools.get(shard.index())
            && pool.lending() != Lending::Closed
        {
            return Ok(Rc::clone(pool));
        }
        let Some(pool) = self
            .worker
            .pool(&self.database, &self.user, shard, Seat::Primary)
        else {
            let message = format!(
                "shard {} of database \"{}\" is no longer configured",
                shard.0, self.database.name
            );
            return Err(Fault::Postgres {
                sqlstate: "57P01",
                message,
            });
        };
        if self.pools.len() <= shard.index() {
            self.pools.resize(shard.index() + 1, None);
        }
        self.pools[shard.index()] = Some(Rc::clone(&pool));
        Ok(pool)
    }

    /// Brings the connection to what the session has set, and begins its transaction there.
    pub(super) async fn bring_up(&mut self, phase: Phase) -> Result<(), Fault> {
        self.bring_settings(phase).await?;
        self.drop_last_values(phase);
        self.begin_there(phase).await?;
        self.tell_reported();
        Ok(())
    }

    pub(super) async fn bring_settings(&mut self, phase: Phase) -> Result<(), Fault> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let server = &mut link.lent;
        // What a transaction has set before any server knew of it is set inside it.
        let wanted = match (&self.transaction, phase) {
            (
                Transaction::Begun(_) | Transaction::Failed(_) | Transaction::Open,
                Phase::Working,
            ) => &self.settled,
            _ => &self.settings,
        };
        if !server.settings.is_same(wanted) {
            if let Some(sql) = server.settings.statements_to(wanted) {
                run(server, &sql, &self.worker).await?;
            }
            server.settings = wanted.clone();
        }
        server.shown = Shown::Own;
        Ok(())
    }

    /// Tells the client what the current connection reports otherwise than the client knows.
    pub(super) fn tell_reported(&mut self) {
        let Some(link) = &mut self.link else { return };
        let reported = &mut link.lent.reported;
        if !reported.is_same(&self.reported) {
            reported.tell(&self.reported, &mut self.client.outbox);
            self.reported.adopt(reported);
        }
    }

    /// What the current connection has reported meanwhile was passed on.
    pub(super) fn note_reported(&mut self) {
        if let Some(link) = &mut self.link
            && !link.lent.reported.is_same(&self.reported)
        {
            self.reported.adopt(&mut link.lent.reported);
        }
    }

    async fn begin_there(&mut self, phase: Phase) -> Result<(), Fault> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        let server = &mut link.lent;
        let prologue = match (&self.transaction, phase) {
            (Transaction::Idle, _) | (Transaction::Open, Phase::Metadata) => return Ok(()),
            // It joins the others of the transaction.
            (Transaction::Open, Phase::Working) => match self.opened.as_deref() {
                Some(prologue) => prologue,
                None => return Ok(()),
            },
            (Transaction::Begun(_), Phase::Metadata) => {
                server.shown = Shown::Begun;
                return Ok(());
            }
            (Transaction::Failed(_), Phase::Metadata) => {
                server.shown = Shown::Failed;
                return Ok(());
            }
            (Transaction::Failed(prologue), Phase::Working) => {
                match run(server, &format!("{}{FAIL}", prologue.text()), &self.worker).await {
                    Ok(()) | Err(Fault::Server(_))
                        if server.status == TransactionStatus::Failed => {}
                    Ok(()) => return Err(Fault::aborted()),
                    Err(fault) => return Err(fault),
                }
                self.opened_by_prologue();
                return Ok(());
            }
            (Transaction::Begun(prologue), Phase::Working) => prologue,
        };
        let kept = prologue.keeps_snapshot(default_modes(&self.settled));
        self.card.keeps_snapshot.set(kept);
        if prologue.cannot_fail() {
            message::encode_query(prologue.text().as_bytes(), server.outbox());
            server.unnamed = None;
            server.pipeline.expect(Request::Query, Fate::Swallow, None);
        } else {
            run(server, prologue.text(), &self.worker).await?;
        }
        server.settings = self.settings.clone();
        self.opened_by_prologue();
        Ok(())
    }

    /// A server knows of the transaction now; connections that join it later are told the same.
    fn opened_by_prologue(&mut self) {
        if let Transaction::Begun(prologue) | Transaction::Failed(prologue) =
            std::mem::replace(&mut self.transaction, Transaction::Open)
            && (!self.has_one_shard() || self.read_policy.from != ReadFrom::Primary)
        {
            self.opened = Some(Box::new(prologue));
        }
    }

    /// Ends the unit of work on a connection that was used for Parse and Describe only.
    pub(super) async fn leave_metadata(&mut self) -> Result<(), Fault> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        link.sync(Fate::Swallow);
        while self.link.as_ref().is_some_and(|link| !link.is_settled()) {
            match std::future::poll_fn(|cx| self.poll_relay(cx, Reading::Enough)).await {
                Ok(_) => {}
                Err(Broken::Server(error) | Broken::Kept(error)) => {
                    self.link = None;
                    self.card.set_running(None);
                    let words = self.last_words.take();
                    return Err(Fault::Broken(Loss {
                        words,
                        ..Loss::before(error)
                    }));
                }
                // The next step of the session finds the client gone.
                Err(Broken::Client(_)) => return Err(Fault::Told),
            }
            // Its end is not the end of the client's unit of work.
            let _ = self.settle();
        }
        self.detach_within_unit();
        if std::mem::take(&mut self.failed) {
            Err(Fault::Told)
        } else {
            Ok(())
        }
    }

    /// The same while the client's unit of work goes on.
    pub(super) fn detach_within_unit(&mut self) {
        let now = Instant::now();
        self.detach(now);
        self.card.enter(State::Active, now);
    }

    /// Gives the connection back, or keeps it when it holds state of this session.
    pub(super) fn detach(&mut self, now: Instant) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        link.effect = Effect::Reads;
        link.unpreparable = None;
        self.card.set_running(None);
        self.card.enter(State::Idle, now);
        match link.keep {
            Keep::Yes => self.kept.push(link),
            Keep::No => link.release(&self.worker, now),
        }
    }

    pub(super) fn second_shard(&self, destination: Destination) -> Fault {
        let catalog = self.database.catalog();
        let name = |shard: ShardId| {
            catalog
                .shards
                .get(shard.index())
                .map_or("?", |name| &**name)
        };
        let here = self.link.as_ref().map_or("?", |link| name(link.shard()));
        let there = match destination {
            Destination::Shard(shard) => name(shard),
            Destination::Any | Destination::Several => "?",
        };
        let message = format!(
            "this transaction works on shard \"{here}\" and this statement belongs on shard \"{there}\""
        );
        Fault::Refused(Refusal::new(Reason::MultiShardTransaction, message))
    }

    /// Listens to the connections that the session keeps while another or none works for it.
    pub(super) fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let scratch = &mut *self.worker.scratch.borrow_mut();
        let client: &mut Client = &mut self.client;
        for link in self.kept.iter_mut().chain(&mut self.party) {
            let mut events = Vec::new();
            let broken = loop {
                match link
                    .lent
                    .poll_read(cx, scratch, &mut client.outbox, &mut events)
                {
                    Poll::Pending => break None,
                    Poll::Ready(Err(error)) => break Some(Broken::Kept(error)),
                    Poll::Ready(Ok(run)) => {
                        if let Err(error) = client.poll_send(cx, &scratch[run]) {
                            break Some(Broken::Client(error));
                        }
                    }
                }
            };
            // The last words may come before the end itself.
            let words = events.into_iter().find_map(|event| match event {
                Event::Fatal(words) => Some(words),
                _ => None,
            });
            self.last_words = words.or(self.last_words.take());
            if let Some(broken) = broken {
                return Poll::Ready(broken);
            }
        }
        Poll::Pending
    }

    /// Sends what the client asked before it was known which connection it is for.
    pub(super) fn send_held(&mut self) {
        let mut waiting = self.batch.take_held();
        for held in waiting.drain(..) {
            match held {
                Held::Answer(bytes) => self.answer(bytes),
                Held::Parse(parsing) => self.send_parse(parsing),
            }
        }
        self.batch.give_back_held(waiting);
    }
}

/// A transaction that keeps one snapshot has it on a replica.
pub(super) fn on_replica() -> Fault {
    Fault::Refused(Refusal::new(
        Reason::OnReplica,
        "the transaction works on a replica, and this statement needs the primary, which would show another snapshot",
    ))
}

/// Runs statements of ours; the server's error is the client's.
pub(super) async fn run(server: &mut Server, sql: &str, worker: &Rc<Worker>) -> Result<(), Fault> {
    match server.run(sql, &worker.scratch).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(body)) => Err(Fault::Server(body)),
        Err(error) => Err(Fault::Broken(Loss::before(error))),
    }
}
