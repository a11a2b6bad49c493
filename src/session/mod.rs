//! One client, from its login to its goodbye.
//!
//! The life of a statement: its message is taken from the inbox (`take.rs`; without detours in `straight.rs`), planned through the plan cache (`route.rs`), given to a
//! server connection that is brought to this session's settings first (`link.rs`), and relayed until the server is ready
//! again; then what the statement changed is remembered (`effects.rs`) and the connection goes back to its pool.
//! What needs no server is answered here (`control.rs`). `simple.rs` and `extended.rs` are the two protocols.
//!
//! This room never reads SQL itself and never decides which shard a key belongs to. Every failure is a variant in `respond.rs`.

mod anew;
pub mod card;
pub mod causal;
mod channels;
mod commit;
mod control;
mod effects;
mod extended;
pub mod gate;
mod last_values;
pub mod latency;
mod link;
pub mod listener;
pub mod login;
mod numbers;
pub mod own_settings;
pub mod parse_scope;
mod party;
mod pin;
mod placing;
mod prepared;
mod reads;
pub mod report;
pub mod respond;
mod route;
mod search_path;
mod shape;
pub mod shared;
mod simple;
mod spread;
pub mod statement;
mod straight;
mod take;
pub mod transaction;
pub mod waits;
pub mod worker;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use hashbrown::HashMap;
use tokio::sync::oneshot;

use crate::backend::pipeline::{Committed, Event, Fate, Reached, Rest, Token};
use crate::backend::pool::{CheckoutError, Lent, Place, Pool, Waiter};
use crate::backend::prepared::Room;
use crate::backend::server::ServerError;
use crate::backend::settings::{Reported, Settings};
use crate::catalog::SearchPath;
use crate::config::{PoolMode, User};
use crate::execution::client::{Client, ClientError};
use crate::execution::relay::{self, Broken, Reading, Turn};
use crate::plan;
use crate::sql::normalise::Literal;
use crate::wire::answer;
use crate::wire::answer::TransactionStatus;

use anew::{Anew, Attempts};
use card::{Card, State};
use causal::Causal;
use channels::Channels;
use effects::Effect;
use extended::{Batch, Portal};
use last_values::{Asking, Taken};
use link::Link;
use numbers::Sequences;
use own_settings::{OwnSettings, ReadPolicy};
use parse_scope::ParseScope;
use prepared::{Behind, Untold};
use reads::Reads;
use respond::{End, Fault, Left, Loss};
use shape::Difference;
use shared::{Admission, UserAdmission};
use spread::copy::SplitCopy;
use statement::Statement;
use straight::Decided;
use transaction::{Opener, Prologue, Transaction};
use worker::{Database, Presence, Worker, add};

/// Bytes on their way to a server above which no more are taken from the client.
const HIGH_WATER: usize = 64 * 1024;

/// How long a session waits for the definitions that it has changed.
const FOLLOW: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a client may take to read its last words.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// One client's session.
pub struct Session {
    worker: Rc<Worker>,
    database: Rc<Database>,
    user: Rc<User>,
    card: Rc<Card>,
    mode: PoolMode,
    client: Client,
    /// The connection that works for this client now.
    link: Option<Link>,
    /// Connections that hold state of this session and wait for its next statement on their shard.
    kept: Vec<Link>,
    /// The other connections of the open transaction.
    party: Vec<Link>,
    /// A COPY FROM STDIN whose rows go to several shards.
    copy_in: Option<Box<SplitCopy>>,
    opener: Opener,
    /// What a connection that joins the open transaction is told first; `None`: it is not known, so none can.
    opened: Option<Box<Prologue>>,
    /// Pools by shard, as far as they were used.
    pools: Vec<Option<Rc<Pool>>>,
    transaction: Transaction,
    batch: Batch,
    /// For the message that the straight path could not deal with.
    decided: Option<Decided>,
    /// A unit of work whose connection broke, on its way to another one.
    anew: Option<Box<Anew>>,
    attempts: Attempts,
    waiter: Rc<Waiter>,
    /// Its place in the queue for a connection.
    place: Option<Place>,
    /// What it has waited for.
    granted: Option<Result<Lent, CheckoutError>>,
    /// Received and sent, as far as that is in the database's counters.
    counted_bytes: (u64, u64),
    /// The current unit of work has failed on its server.
    failed: bool,
    /// The last words of a server that is going away: the body of its ErrorResponse.
    last_words: Option<Vec<u8>>,
    events: Vec<Event>,
    /// What is to be remembered when requests are done; tokens are places in it.
    effects: Vec<Effect>,
    literals: Vec<Literal>,
    settings: Settings,
    /// What the client asked for when it connected: RESET goes back to these.
    startup_settings: Settings,
    /// The settings as of the last commit.
    settled: Settings,
    savepoints: Vec<Savepoint>,
    search_path: SearchPath,
    /// What the session's statements are read under; its path is `search_path`.
    scope: Rc<ParseScope>,
    /// What this client has been told by ParameterStatus.
    reported: Reported,
    /// Likewise, before it set something in a transaction that no server knows of.
    reported_before: Option<Reported>,
    own_settings: OwnSettings,
    /// What its reads do, as of the last look at what it has set and what is configured.
    read_policy: ReadPolicy,
    /// Which configuration that was.
    configured: u64,
    reads: Reads,
    causal: Causal,
    prepared: HashMap<Box<[u8]>, Rc<Statement>>,
    /// What each EXECUTE of the message at hand means, by its place; `None`: what the session has under its name.
    resolved: Option<Vec<(usize, Rc<Statement>)>>,
    behind: Behind,
    asking: Asking,
    sequences: Sequences,
    taken: Option<Box<Taken>>,
    /// In what the statement that the session waits for differs from what the client was told.
    looked: Option<Difference>,
    /// A portal whose rows have another shape than the client knows.
    untold: Option<Box<Untold>>,
    /// What one server connection may hold.
    room: Room,
    unnamed: Option<Rc<Statement>>,
    /// Bytes of a CopyData message that are still to come from the client.
    copy_rest: usize,
    /// What the client has sent and was not dealt with when the messages at hand were taken.
    held_bytes: u64,
    max_message_size: usize,
    max_prepared_statements: usize,
    /// Whether the transaction's last COMMIT or ROLLBACK was a commit.
    outcome: Option<Committed>,
    /// The open transaction has changed tables, columns, views or functions.
    schema_changed: bool,
    /// A schema may have been made or renamed in the open transaction.
    made_schema: bool,
    /// Told when the definitions that this session has changed are known here.
    catalog_follows: Option<oneshot::Receiver<()>>,
    /// Told when the session's last commit is visible on all its shards.
    commit_follows: Option<oneshot::Receiver<()>>,
    /// Portals whose execution changes the session.
    portals: Vec<Portal>,
    /// The `search_path` of a fresh connection of this user.
    server_search_path: Option<Box<str>>,
    /// SET LOCAL, as far as it bears on the meaning of statements; an empty value is the default.
    local: Settings,
    channels: Channels,
    _admission: (Admission, UserAdmission),
    _presence: Presence,
    unit_began: Instant,
    waiting_since: Instant,
    transaction_began: Option<Instant>,
}

/// What ROLLBACK TO goes back to.
struct Savepoint {
    name: Box<str>,
    settings: Settings,
    local: Settings,
    channels: usize,
}

impl Session {
    /// Serves the client until one of the two says goodbye.
    ///
    /// From a box: a future has room for everything that is moved into it, once for each time it is moved.
    pub async fn run(mut self: Box<Self>) {
        std::future::poll_fn(|cx| {
            self.card.set_waker(cx.waker());
            Poll::Ready(())
        })
        .await;
        let end = loop {
            match std::future::poll_fn(|cx| self.advance(cx)).await {
                Ok(()) => {
                    if let Err(end) = self.long_way().await {
                        break end;
                    }
                }
                Err(end) => break end,
            }
        };
        Box::pin(self.close(end)).await;
    }

    /// Does what the straight path cannot. On the heap, so that an idle client does not pay for it.
    fn long_way(&mut self) -> Pin<Box<dyn Future<Output = Result<(), End>> + '_>> {
        Box::pin(async move {
            if let Some(anew) = self.anew.take() {
                self.begin_anew(*anew).await?;
            }
            self.follow_catalog().await;
            self.follow_commit().await;
            if self.doubts_pins() {
                self.look_at_pins().await;
            }
            self.take_messages().await
        })
    }

    /// Waits until the definitions that this session has changed are known to the planner.
    async fn follow_catalog(&mut self) {
        if let Some(follows) = self.catalog_follows.take()
            && self
                .worker
                .shared
                .timers
                .timeout(FOLLOW, follows)
                .await
                .is_err()
        {
            tracing::warn!(
                database = &*self.database.name,
                "changed definitions were not read in time"
            );
        }
    }

    /// Moves bytes until the client or the server needs attention.
    fn poll_relay(&mut self, cx: &mut Context<'_>, reading: Reading) -> Poll<Result<Turn, Broken>> {
        if self.worker.is_draining() && self.is_idle() {
            return Poll::Ready(Err(Broken::Client(ClientError::Drained)));
        }
        if !(self.kept.is_empty() && self.party.is_empty())
            && let Poll::Ready(broken) = self.poll_kept(cx)
        {
            return Poll::Ready(Err(broken));
        }
        if self.link.is_some() && self.events.capacity() == 0 {
            self.events = self.worker.room_for_events.take();
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        let server = self.link.as_mut().map(Link::server);
        relay::poll(
            cx,
            &mut self.client,
            server,
            reading,
            &mut scratch,
            &mut self.events,
        )
    }

    /// Whether more of the client's bytes are of use now.
    fn reading(&self) -> Reading {
        let Some(link) = &self.link else {
            return Reading::Wanted;
        };
        let waits = (link.is_closing() || link.expects_copy()) && !link.is_copying();
        // A client whose request is answered at once is not looked at meanwhile: it could only have gone, or sent what must wait.
        let stuck = waits && (!self.client.inbox.is_empty() || !self.card.overdue.get());
        if stuck || link.backlog() > HIGH_WATER {
            Reading::Enough
        } else {
            Reading::Wanted
        }
    }

    /// Nothing is running and no transaction is open.
    fn is_idle(&self) -> bool {
        self.link.is_none()
            && self.transaction == Transaction::Idle
            && self.client.inbox.is_empty()
            && !self.batch.is_open()
    }

    /// What ReadyForQuery says when no server says it.
    fn own_status(&self) -> TransactionStatus {
        match (&self.transaction, &self.link) {
            (Transaction::Idle, _) => TransactionStatus::Idle,
            (Transaction::Begun(_), _) => TransactionStatus::InTransaction,
            (Transaction::Failed(_), _) => TransactionStatus::Failed,
            (Transaction::Open, Some(link)) => link.status(),
            (Transaction::Open, None) => TransactionStatus::Idle,
        }
    }

    /// Remembers what the last relay brought to light.
    fn settle(&mut self) -> Result<(), End> {
        let mut events = std::mem::take(&mut self.events);
        if let [Event::Ready(status)] = events[..] {
            events.clear();
            self.hand_back(events);
            self.ready(status);
            return Ok(());
        }
        for event in events.drain(..) {
            match event {
                Event::Done {
                    token,
                    ordinal,
                    committed,
                } => self.done(token, ordinal, committed),
                Event::Dropped(token, reached) => self.dropped(token, reached),
                Event::Described {
                    token,
                    parameters,
                    columns,
                } => self.described(token, &parameters, columns.as_deref()),
                Event::Failed(rest) => self.unit_failed(rest),
                Event::Fatal(words) => self.last_words = Some(words),
                Event::Stale => self.worker.shared.definitions_changed(),
                Event::ReadOnly => self.saw_no_writes(),
                Event::Ready(status) => self.ready(status),
                Event::Marked(value, status) => self.marked(value.as_deref(), status),
                // They only wake the session.
                Event::Synced | Event::CopyIn => {}
                Event::StaleUnseen => self.ask_again(),
            }
        }
        self.hand_back(events);
        Ok(())
    }

    /// Room that was lent, and is empty again.
    fn hand_back(&self, events: Vec<Event>) {
        if events.capacity() != 0 {
            self.worker.room_for_events.set(events);
        }
    }

    /// A statement failed here. On a server connection the failure is counted when its turn comes in the pipeline.
    fn count(&self, fault: &Fault) {
        let counters = &self.database.counters;
        if matches!(fault, Fault::Refused(_)) {
            add(&counters.refusals, 1);
        }
        if self.link.is_none() {
            add(&counters.errors, 1);
        }
    }

    fn unit_failed(&mut self, rest: Rest) {
        self.failed = true;
        if rest == Rest::SkipsToSync {
            match (std::mem::take(&mut self.behind), &mut self.link) {
                (Behind::Preparation, Some(link)) => link.sync(Fate::Forward),
                _ => self.batch.skip(),
            }
        }
        add(&self.database.counters.errors, 1);
        if self.link.as_ref().is_some_and(Link::is_metadata) {
            self.fail_begun();
        }
    }

    /// A transaction that no server knows of has failed.
    fn fail_begun(&mut self) {
        self.transaction = match std::mem::take(&mut self.transaction) {
            Transaction::Begun(prologue) => Transaction::Failed(prologue),
            other => other,
        };
    }

    /// The server is ready for the next unit of work.
    fn ready(&mut self, status: TransactionStatus) {
        self.count_bytes();
        let counters = &self.database.counters;
        add(&counters.queries, 1);
        let now = Instant::now();
        let query = microseconds(now - self.unit_began);
        add(&counters.query_microseconds, query);
        counters.latency.note(query);
        let Some(link) = &self.link else { return };
        if link.is_replica() {
            add(&counters.replica_queries, 1);
        }
        if !link.is_metadata() {
            if status == TransactionStatus::Idle {
                add(&counters.transactions, 1);
                let transaction = match self.transaction_began.take() {
                    Some(began) => microseconds(now - began),
                    None => query,
                };
                add(&counters.transaction_microseconds, transaction);
                self.adopt_date_style();
                self.transaction_ended();
            } else {
                self.transaction_began.get_or_insert(self.unit_began);
                self.transaction = Transaction::Open;
            }
        }
        self.failed = false;
        self.behind = Behind::Nothing;
        if status == TransactionStatus::Idle && self.tracks_commits() {
            self.mark();
        }
        self.between_units(status, now);
    }

    /// The server may owe nothing more: then the connection can go, or the transaction waits for what is next.
    #[inline]
    fn between_units(&mut self, status: TransactionStatus, now: Instant) {
        if !self.link.as_ref().is_some_and(Link::has_rested) {
            return;
        }
        self.effects.clear();
        if status == TransactionStatus::Idle {
            self.note_reported();
            self.detach(now);
        } else {
            self.card.enter(State::IdleInTransaction, now);
        }
        if status == TransactionStatus::Failed {
            self.fail_others();
        }
    }

    /// One side of the relay broke.
    fn broken(&mut self, broken: Broken) -> Result<(), End> {
        // What was understood before it broke still counts.
        self.settle()?;
        let error = match broken {
            Broken::Client(ClientError::Drained) => return Err(End::Shutdown),
            Broken::Client(_) => return Err(End::Client),
            Broken::Kept(error) => return Err(End::ServerLost(self.loss(error))),
            Broken::Server(error) => error,
        };
        let loss = self.loss(error);
        let Some(mut link) = self.link.take() else {
            return Err(End::ServerLost(loss));
        };
        let error = &loss.error;
        self.card.set_running(None);
        self.was_lost(&mut link, error);
        if link.owes_only_mark() {
            // The client has its answer.
            self.wrote(link.shard());
            return Ok(());
        }
        // Afterwards the connection may no longer know what it owed.
        let closing = link.is_closing();
        if let Some(anew) = self.may_begin_anew(&mut link, error) {
            self.anew = Some(Box::new(anew));
            return Ok(());
        }
        if self.transaction == Transaction::Open || link.is_kept() || link.is_mid_message() {
            let told = if link.is_mid_message() {
                End::Client
            } else {
                End::ServerLost(loss)
            };
            return Err(told);
        }
        drop(link);
        let fault = match loss.error {
            ServerError::ReadOnly(words) => Fault::Server(words),
            _ => Fault::Broken(loss),
        };
        self.unit_lost(&fault, closing);
        Ok(())
    }

    /// A connection broke: what is known of what was under way.
    fn loss(&mut self, error: ServerError) -> Loss {
        Loss {
            error,
            words: self.last_words.take(),
            left: self.left(),
        }
    }

    fn left(&mut self) -> Left {
        let Some(link) = &mut self.link else {
            return match self.transaction {
                Transaction::Open => Left::RolledBack,
                _ => Left::Nothing,
            };
        };
        let (in_unit, closing, effect) = (link.is_in_unit(), link.is_closing(), link.effect());
        let unread = link.server().is_unread();
        let mut effects = self.effects.iter().zip(0..);
        let committing = effects
            .any(|(effect, token)| effect.commits() && link.server().pipeline.owes(Token(token)));
        match (committing, &self.transaction) {
            (true, _) if !unread => Left::CommitInDoubt,
            (_, Transaction::Open) => Left::RolledBack,
            (false, _) if !in_unit || effect == plan::Effect::Reads => Left::Nothing,
            // Its end was not sent, or not read.
            (..) if !closing || unread => Left::RolledBack,
            (..) => Left::StatementInDoubt,
        }
    }

    /// The unit of work at hand was not done, and its connection is gone. `closing`: the client has sent its end.
    fn unit_lost(&mut self, fault: &Fault, closing: bool) {
        for token in 0..self.effects.len() {
            self.dropped(Token(u32::try_from(token).unwrap_or(u32::MAX)), Reached::No);
        }
        self.effects.clear();
        if !self.failed {
            fault.write(answer::Severity::Error, &mut self.client.outbox);
        }
        self.failed = false;
        self.fail_begun();
        add(&self.database.counters.errors, 1);
        if closing {
            self.batch = Batch::default();
            let status = self.own_status();
            answer::ready_for_query(&mut self.client.outbox, status);
            self.unit_answered();
        } else {
            self.batch.skip();
        }
    }

    /// The last words to the client; the connections go back, cleaned.
    async fn close(mut self: Box<Self>, end: End) {
        if !matches!(end, End::Client) {
            tracing::debug!(
                user = &*self.card.user.name,
                database = &*self.card.database,
                ?end,
                "session ended"
            );
        }
        end.write(&mut self.client.outbox);
        if let Some(link) = self.link.take() {
            link.clean_up(&self.worker);
        }
        self.drop_copy();
        for link in self.kept.drain(..).chain(self.party.drain(..)) {
            link.clean_up(&self.worker);
        }
        self.unlisten_all();
        self.card.company.disband();
        self.worker.shared.dismiss(self.card.process_id.get());
        self.worker.cards.remove(self.card.place.get());
        let told = std::future::poll_fn(|cx| self.client.poll_close(cx));
        // A client that does not take its last words is not waited for.
        let timers = &self.worker.shared.timers;
        let _ = timers.timeout(FAREWELL, told).await;
        self.count_bytes();
    }

    /// Adds what went to and fro since the last time.
    fn count_bytes(&mut self) {
        let counters = &self.database.counters;
        let now = (self.client.received_bytes, self.client.sent_bytes);
        add(&counters.received_bytes, now.0 - self.counted_bytes.0);
        add(&counters.sent_bytes, now.1 - self.counted_bytes.1);
        self.counted_bytes = now;
    }

    /// Puts an answer of ours in its place after all that is still to come.
    fn answer(&mut self, bytes: Vec<u8>) {
        match &mut self.link {
            Some(link) => link.answer(bytes),
            None => self.batch.answer(bytes, &mut self.client.outbox),
        }
    }

    /// A request has been answered without a server.
    fn unit_answered(&self) {
        let state = match self.transaction {
            Transaction::Idle => State::Idle,
            _ => State::IdleInTransaction,
        };
        self.card.enter(state, self.unit_began);
    }

    /// A request begins: what SHOW CLIENTS and the statistics want to know.
    fn unit_begins(&mut self) {
        self.unit_began = Instant::now();
        self.attempts = Attempts::default();
        if !self.own_settings.is_untouched() || self.configured != self.worker.configured.get() {
            self.look_at_read_policy();
        }
        self.reads.begin();
        self.asking = Asking::No;
        self.card.begin(self.unit_began);
    }
}

fn microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
