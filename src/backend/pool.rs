//! The pool: the connections of one user and database to one shard, on one worker.
//!
//! ```text
//!            connect            check out             release, clean
//!  (nothing) ───────▶ idle ──────────────▶ lent ───────────────────▶ idle, or handed to the first who waits
//!                      │                    │
//!                      ▼ idle too long,     ▼ dropped: dirty, broken
//!                      too old, pool closed   (closed, its place is free)
//! ```
//!
//! A pool of a shard's primary moves with it to another node, and those who wait go along. When its node cannot be reached, or nobody is
//! known who is the primary, they wait for a while; connections are tried one at a time then, and twice as many after each that was made.
//!
//! Who waits is served in the order of arrival: a connection that comes back is handed to the first in the queue before
//! a newcomer can see it. All of a pool lives on one thread; its size is this worker's share of the configured size.
//! A [`Lent`] connection that is dropped without [`Lent::release`] is closed: dirty until proven clean.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::cancel::Target;
use super::connect::{Address, ConnectError, Connected};
use super::server::Server;
use crate::config;
use crate::sharding::ShardId;
use crate::wire::answer::TransactionStatus;
use crate::wire::socket::Caller;

/// A connection that was used this lately is lent without a look at its socket: what is found there would be as old.
const USED_JUST_NOW: Duration = Duration::from_millis(2);

/// How many connections one pool opens at the same time.
const CONNECTING_AT_ONCE: usize = 8;

/// From one failed attempt to connect to the next, doubled each time up to the second, while somebody waits.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// Why no connection was lent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The server's own words, or why it could not be reached.
    #[error("cannot connect to the server at {0}: {1}")]
    Connect(Address, Rc<ConnectError>),
    #[error("no server connection became free within {0:?}")]
    Timeout(Duration),
    #[error(
        "{waiting} clients are already waiting for one of the {size} server connections of this pool"
    )]
    QueueFull { waiting: usize, size: usize },
    #[error(
        "{waiting} clients wait for one of the {size} server connections of this pool with {held} bytes of statements, and {more} bytes more would be above the limit of {limit}"
    )]
    QueueHeavy {
        waiting: usize,
        size: usize,
        held: u64,
        more: u64,
        limit: u64,
    },
    /// Nobody was found who is the primary.
    #[error("the shard has had no primary for {0:?}: {1}")]
    NoPrimary(Duration, Rc<str>),
    #[error("the pool is closed")]
    Closed,
}

/// What a pool's connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seat {
    /// The shard's primary, whichever node it is.
    Primary,
    /// Reads on the node at this place.
    Replica(usize),
}

/// Where and how a pool connects.
#[derive(Clone, Debug)]
pub struct Spec {
    pub shard: ShardId,
    pub seat: Seat,
    /// The node's place in its shard.
    pub node: usize,
    pub target: Target,
    /// How long clients wait for a node that cannot be reached, or for a primary.
    pub patience: Duration,
    pub settings: config::Pool,
    /// This worker's share of the pool's size; at least 1.
    pub share: usize,
}

impl Spec {
    /// Makes a connection there. A standby is no primary, whoever said so.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        let connected = self.target.connect().await?;
        // Reported since Postgres 14; before, the first statement that writes tells.
        let standby = |(name, value): &(String, String)| name == "in_hot_standby" && value == "on";
        if self.seat == Seat::Primary && connected.parameters.iter().any(standby) {
            return Err(ConnectError::Standby);
        }
        Ok(connected)
    }
}

/// Whether a pool lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lending {
    Open,
    /// New checkouts wait.
    Paused,
    /// New checkouts fail; connections are closed as they come back.
    Closed,
    /// There is no primary: checkouts wait until there is one.
    Leaderless,
}

/// What becomes of connections that are lent when a pool moves to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// They are closed as they come back.
    Later,
    /// Nothing more is sent on them, and nobody waits for their answers.
    AtOnce,
}

/// What a pool has seen of its node.
#[derive(Clone, Debug)]
pub enum Spotted {
    Reached,
    Unreachable(Rc<ConnectError>),
}

/// Told by a pool: the node's place, and what was seen.
pub type Witness = Box<dyn Fn(usize, Spotted)>;

/// See the module's text.
pub struct Pool {
    state: RefCell<State>,
    witness: Witness,
}

struct State {
    spec: Rc<Spec>,
    lending: Lending,
    /// When connections began to be made to another place or in another way; older ones are closed as they come back.
    moved_at: Option<Instant>,
    /// The most recently used is last, and is lent first.
    #[expect(
        clippy::vec_box,
        reason = "a connection changes hands twice a statement: its address moves, it does not"
    )]
    idle: Vec<Box<Server>>,
    waiting: Queue,
    /// Idle, lent and connecting.
    open: usize,
    connecting: usize,
    /// How many connections may be made at the same time.
    at_once: usize,
    trouble: Option<Trouble>,
    /// Set when nothing more may be sent on the connections that were made so far.
    severed: Rc<Cell<bool>>,
    /// What is known of the reason while it lends nothing for want of a primary.
    why_leaderless: Rc<str>,
}

/// The last attempt to connect has failed.
struct Trouble {
    error: CheckoutError,
    wait: Duration,
    next_attempt: Instant,
}

/// What a pool gives a client that waits. A client has one and uses it again and again.
pub struct Waiter {
    /// When it began to wait; once it is answered, when it was.
    since: Cell<Instant>,
    /// Of what its client has sent and nobody has dealt with.
    bytes: Cell<u64>,
    slot: RefCell<Slot>,
}

/// Who waits, the first in front, and the bytes that they hold.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Rc<Waiter>>,
    bytes: u64,
}

impl Queue {
    fn push(&mut self, waiter: Rc<Waiter>) {
        self.bytes += waiter.bytes.get();
        self.waiters.push_back(waiter);
    }

    fn pop(&mut self) -> Option<Rc<Waiter>> {
        let waiter = self.waiters.pop_front()?;
        self.bytes -= waiter.bytes.get();
        Some(waiter)
    }

    /// Whoever it was is gone.
    fn leave(&mut self, waiter: &Rc<Waiter>) {
        let at = self
            .waiters
            .iter()
            .position(|waiting| Rc::ptr_eq(waiting, waiter));
        if let Some(at) = at {
            self.waiters.remove(at);
            self.bytes -= waiter.bytes.get();
        }
    }
}

enum Slot {
    /// (Given or Failed or Abandoned)
    Waiting(Option<Caller>),
    Given(Box<Server>),
    Failed(CheckoutError),
    /// The client no longer waits, or has taken what it was given.
    Abandoned,
}

/// The state of a pool for SHOW POOLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub idle: usize,
    pub lent: usize,
    pub connecting: usize,
    pub waiting: usize,
    /// How long the first in the queue has waited.
    pub longest_wait: Duration,
}

/// What SHOW SERVERS tells of an idle connection.
#[derive(Clone, Debug)]
pub struct IdleServer {
    pub process_id: i32,
    pub connected_at: Instant,
    pub used_at: Instant,
    pub prepared: usize,
}

impl Pool {
    pub fn new(spec: Spec, witness: Witness) -> Rc<Pool> {
        let state = State {
            spec: Rc::new(spec),
            lending: Lending::Open,
            moved_at: None,
            idle: Vec::new(),
            waiting: Queue::default(),
            open: 0,
            connecting: 0,
            at_once: CONNECTING_AT_ONCE,
            trouble: None,
            severed: Rc::default(),
            why_leaderless: Rc::from(""),
        };
        Rc::new(Pool {
            state: RefCell::new(state),
            witness,
        })
    }

    pub fn spec(&self) -> Rc<Spec> {
        Rc::clone(&self.state.borrow().spec)
    }

    /// Lends a connection, in the order of arrival. Who waits for it holds so many bytes that nobody has dealt with.
    pub async fn checkout(self: &Rc<Pool>, bytes: u64) -> Result<Lent, CheckoutError> {
        loop {
            let taken = self.take_idle()?;
            let server = match taken {
                Some(server) => server,
                None => return self.wait(bytes).await,
            };
            let mut lent = Lent {
                server: Some(server),
                pool: Rc::clone(self),
            };
            let check_after = self.state.borrow().spec.settings.check_after_idle;
            let idle_for = lent.used_at.elapsed();
            if idle_for < check_after {
                if lent.poke() {
                    return Ok(lent);
                }
            } else if lent.answers().await {
                return Ok(lent);
            }
            // Dropped here: it died while it was idle; the next one is tried.
        }
    }

    /// Lends a connection if one is at hand that was used lately: the common case, without a wait.
    pub fn try_checkout(self: &Rc<Pool>, now: Instant) -> Option<Lent> {
        let check_after = self.state.borrow().spec.settings.check_after_idle;
        loop {
            let server = self.take_idle().ok()??;
            let mut lent = Lent {
                server: Some(server),
                pool: Rc::clone(self),
            };
            let unused = now.saturating_duration_since(lent.used_at);
            if unused >= check_after {
                lent.untouched(now);
                return None;
            }
            if unused < USED_JUST_NOW || lent.poke() {
                return Some(lent);
            }
        }
    }

    /// An idle connection if nobody waits before us.
    fn take_idle(&self) -> Result<Option<Box<Server>>, CheckoutError> {
        let mut state = self.state.borrow_mut();
        match state.lending {
            Lending::Closed => return Err(CheckoutError::Closed),
            Lending::Paused | Lending::Leaderless => return Ok(None),
            Lending::Open => {}
        }
        if state.waiting.waiters.is_empty() {
            Ok(state.idle.pop())
        } else {
            Ok(None)
        }
    }

    async fn wait(self: &Rc<Pool>, bytes: u64) -> Result<Lent, CheckoutError> {
        let now = Instant::now();
        let mut place = self.enqueue(&Waiter::new(now), bytes, now)?;
        std::future::poll_fn(|cx| place.poll(cx)).await
    }

    /// Takes a place at the end of the queue, for a connection when [`Pool::try_checkout`] has none. A waiter waits in one place at a time.
    pub fn enqueue(
        self: &Rc<Pool>,
        waiter: &Rc<Waiter>,
        bytes: u64,
        now: Instant,
    ) -> Result<Place, CheckoutError> {
        {
            let mut state = self.state.borrow_mut();
            if state.lending == Lending::Closed {
                return Err(CheckoutError::Closed);
            }
            let settings = &state.spec.settings;
            let (limit, most_bytes) = (settings.max_waiting, settings.max_waiting_size.0);
            if state.waiting.waiters.len() >= limit {
                return Err(CheckoutError::QueueFull {
                    waiting: state.waiting.waiters.len(),
                    size: state.spec.share,
                });
            }
            // What is larger than the limit by itself may wait alone.
            let (held, more) = (state.waiting.bytes, bytes);
            if held > 0 && held + more > most_bytes {
                return Err(CheckoutError::QueueHeavy {
                    waiting: state.waiting.waiters.len(),
                    size: state.spec.share,
                    held,
                    more,
                    limit: most_bytes,
                });
            }
            waiter.since.set(now);
            waiter.bytes.set(bytes);
            *waiter.slot.borrow_mut() = Slot::Waiting(None);
            state.waiting.push(Rc::clone(waiter));
        }
        self.connect_as_needed();
        Ok(Place {
            pool: Rc::clone(self),
            waiter: Rc::clone(waiter),
            queued: true,
        })
    }

    /// Opens connections for those who wait, as far as the size allows.
    fn connect_as_needed(self: &Rc<Pool>) {
        let mut state = self.state.borrow_mut();
        if state.open >= state.spec.share || state.lending != Lending::Open {
            return;
        }
        if let Some(trouble) = &state.trouble
            && Instant::now() < trouble.next_attempt
        {
            return;
        }
        let at_once = state.at_once;
        let wanted = state.waiting.waiters.len().max(
            state
                .spec
                .settings
                .min_size
                .saturating_sub(state.open - state.connecting),
        );
        while state.connecting < wanted.min(at_once) && state.open < state.spec.share {
            state.connecting += 1;
            state.open += 1;
            let (pool, spec) = (Rc::clone(self), Rc::clone(&state.spec));
            let severed = Rc::clone(&state.severed);
            let home = spec.target.home.clone();
            home.spawn(async move {
                let mut attempt = Attempt {
                    pool: &pool,
                    spec: &spec,
                    result: None,
                };
                attempt.result = Some(spec.connect().await.map(|connected| {
                    let now = Instant::now();
                    let lifetime = spec.settings.max_lifetime;
                    let expires_at = lifetime.map(|lifetime| now + jittered(lifetime));
                    Server::new(connected, &spec, severed, now, expires_at)
                }));
            });
        }
    }

    fn connected(self: &Rc<Pool>, spec: &Spec, result: Option<Result<Server, ConnectError>>) {
        let mut state = self.state.borrow_mut();
        state.connecting -= 1;
        let outdated = state.spec.target != spec.target;
        match result {
            // To where connections were made before.
            Some(_) if outdated => {
                state.open -= 1;
                drop(state);
                drop(result);
            }
            Some(Ok(server)) => {
                state.trouble = None;
                state.at_once = (state.at_once * 2).min(CONNECTING_AT_ONCE);
                drop(state);
                (self.witness)(spec.node, Spotted::Reached);
                self.put(Box::new(server), Instant::now());
            }
            Some(Err(error)) => {
                state.open -= 1;
                drop(state);
                self.not_connected(spec, error);
            }
            // The attempt was cut off with its runtime.
            None => {
                state.open -= 1;
                drop(state);
            }
        }
        self.connect_as_needed();
    }

    /// An attempt to connect has failed. Who waits is told, unless it is the node that is away and may come back, or be replaced, in time.
    fn not_connected(self: &Rc<Pool>, spec: &Spec, error: ConnectError) {
        let (address, error) = (spec.target.address.clone(), Rc::new(error));
        let away = error.is_of_the_node();
        let failed = CheckoutError::Connect(address.clone(), Rc::clone(&error));
        let now = Instant::now();
        let mut told = VecDeque::new();
        {
            let mut state = self.state.borrow_mut();
            let before = state.trouble.take();
            if before.is_none() || !away {
                tracing::warn!(%address, %error, "cannot connect to the server");
            }
            state.at_once = 1;
            if state.open == state.connecting && !(away && spec.patience > Duration::ZERO) {
                told = std::mem::take(&mut state.waiting).waiters;
            } else {
                let wait = before.map_or(FIRST_RETRY, |before| (before.wait * 2).min(LAST_RETRY));
                let pause = jittered(wait);
                state.trouble = Some(Trouble {
                    error: failed.clone(),
                    wait,
                    next_attempt: now + pause,
                });
                self.try_again_in(pause, spec);
            }
        }
        for waiter in told {
            waiter.resolve(Slot::Failed(failed.clone()), now);
        }
        if away {
            (self.witness)(spec.node, Spotted::Unreachable(error));
        }
    }

    fn try_again_in(self: &Rc<Pool>, wait: Duration, spec: &Spec) {
        let (pool, timers) = (Rc::downgrade(self), spec.target.timers.clone());
        spec.target.home.clone().spawn(async move {
            let _ = timers.timeout(wait, std::future::pending::<()>()).await;
            if let Some(pool) = pool.upgrade() {
                pool.connect_as_needed();
            }
        });
    }

    /// Takes a clean connection: hands it to the first who waits, keeps it, or closes it when it is past its time.
    fn put(self: &Rc<Pool>, server: Box<Server>, now: Instant) {
        let mut state = self.state.borrow_mut();
        let expired = server.expires_at.is_some_and(|at| at <= now);
        let outdated = state.moved_at.is_some_and(|at| server.connected_at <= at);
        if expired || outdated || state.lending == Lending::Closed || state.open > state.spec.share
        {
            state.open -= 1;
            drop(state);
            drop(server);
            self.connect_as_needed();
            return;
        }
        if state.lending == Lending::Open {
            let mut server = server;
            while let Some(waiter) = state.waiting.pop() {
                match waiter.give(server, now) {
                    Ok(()) => return,
                    Err(back) => server = back,
                }
            }
            state.idle.push(server);
        } else {
            state.idle.push(server);
        }
    }

    /// A lent connection was closed instead of released.
    fn lost(self: &Rc<Pool>) {
        self.state.borrow_mut().open -= 1;
        self.connect_as_needed();
    }

    /// The housekeeping of a pool, some times a second: waits that took too long, idle connections past their time.
    pub fn tick(self: &Rc<Pool>, now: Instant) {
        let mut expired = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let spec = Rc::clone(&state.spec);
            let (timeout, error) = match (&state.trouble, state.lending) {
                (_, Lending::Leaderless) => (spec.patience, None),
                // One that is lent may come back.
                (Some(trouble), _) if state.open == state.connecting => {
                    (spec.patience, Some(trouble.error.clone()))
                }
                _ => {
                    let timeout = spec.settings.checkout_timeout;
                    (timeout, Some(CheckoutError::Timeout(timeout)))
                }
            };
            let error = error.unwrap_or_else(|| {
                CheckoutError::NoPrimary(timeout, Rc::clone(&state.why_leaderless))
            });
            while state
                .waiting
                .waiters
                .front()
                .is_some_and(|waiter| now.duration_since(waiter.since.get()) >= timeout)
            {
                if let Some(waiter) = state.waiting.pop() {
                    waiter.resolve(Slot::Failed(error.clone()), now);
                }
            }
            let mut at = 0;
            while at < state.idle.len() {
                let server = &mut state.idle[at];
                let too_old = server.expires_at.is_some_and(|at| at <= now);
                let unused = spec
                    .settings
                    .idle_timeout
                    .is_some_and(|limit| now.duration_since(server.used_at) >= limit);
                let gone = !server.poke();
                if gone || too_old || (unused && state.open > spec.settings.min_size) {
                    expired.push(state.idle.remove(at));
                    state.open -= 1;
                } else {
                    at += 1;
                }
            }
        }
        drop(expired);
        self.connect_as_needed();
    }

    /// Whether it has a connection, makes one, or somebody waits for one.
    pub fn is_in_use(&self) -> bool {
        let state = self.state.borrow();
        state.open > 0 || !state.waiting.waiters.is_empty()
    }

    /// New settings: from now on; what is open beyond the new size is closed as it comes back. `away` is for those that are open to another place.
    pub fn reconfigure(self: &Rc<Pool>, spec: Spec, away: Away) {
        let mut closed = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            if state.spec.target != spec.target {
                state.moved_at = Some(Instant::now());
                state.trouble = None;
                if state.spec.target.address != spec.target.address {
                    // As many as there are would all come at once to a server that has just begun.
                    state.at_once = 1;
                }
                if away == Away::AtOnce {
                    std::mem::take(&mut state.severed).set(true);
                }
                closed.append(&mut state.idle);
                state.open -= closed.len();
            }
            while state.open > spec.share && !state.idle.is_empty() {
                closed.push(state.idle.remove(0));
                state.open -= 1;
            }
            state.spec = Rc::new(spec);
        }
        drop(closed);
        self.connect_as_needed();
    }

    pub fn set_lending(self: &Rc<Pool>, lending: Lending) {
        let now = Instant::now();
        let mut closed = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            state.lending = lending;
            match lending {
                Lending::Paused | Lending::Leaderless => return,
                Lending::Closed => {
                    closed.append(&mut state.idle);
                    state.open -= closed.len();
                    for waiter in std::mem::take(&mut state.waiting).waiters {
                        waiter.resolve(Slot::Failed(CheckoutError::Closed), now);
                    }
                }
                Lending::Open => {
                    let state = &mut *state;
                    // A waiter is taken only together with a connection for it.
                    while let Some(server) = state.idle.pop() {
                        let Some(waiter) = state.waiting.pop() else {
                            state.idle.push(server);
                            break;
                        };
                        if let Err(back) = waiter.give(server, now) {
                            state.idle.push(back);
                        }
                    }
                }
            }
        }
        drop(closed);
        self.connect_as_needed();
    }

    /// There is no primary for this reason: nothing is lent until [`Pool::set_lending`].
    pub fn lose_primary(self: &Rc<Pool>, why: &str) {
        self.state.borrow_mut().why_leaderless = Rc::from(why);
        self.set_lending(Lending::Leaderless);
    }

    /// The connections that were made so far are not lent again.
    pub fn evict(&self) {
        let mut state = self.state.borrow_mut();
        state.moved_at = Some(Instant::now());
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        drop(state);
        drop(idle);
    }

    /// Nothing more is sent on the connections that were made so far, and they are not lent again.
    pub fn sever(&self) {
        std::mem::take(&mut self.state.borrow_mut().severed).set(true);
        self.evict();
    }

    pub fn lending(&self) -> Lending {
        self.state.borrow().lending
    }

    /// Nothing is lent or connecting.
    pub fn is_at_rest(&self) -> bool {
        let state = self.state.borrow();
        state.open == state.idle.len()
    }

    /// Connections that clients have.
    pub fn in_use(&self) -> usize {
        let state = self.state.borrow();
        state.open - state.idle.len() - state.connecting
    }

    pub fn census(&self, now: Instant) -> Census {
        let state = self.state.borrow();
        Census {
            idle: state.idle.len(),
            lent: state.open - state.idle.len() - state.connecting,
            connecting: state.connecting,
            waiting: state.waiting.waiters.len(),
            longest_wait: state
                .waiting
                .waiters
                .front()
                .map_or(Duration::ZERO, |waiter| {
                    now.duration_since(waiter.since.get())
                }),
        }
    }

    pub fn idle_servers(&self) -> Vec<IdleServer> {
        let state = self.state.borrow();
        let told = |server: &Server| IdleServer {
            process_id: server.canceller.process_id,
            connected_at: server.connected_at,
            used_at: server.used_at,
            prepared: server.prepared.len(),
        };
        state.idle.iter().map(|server| told(server)).collect()
    }
}

impl Waiter {
    pub fn new(now: Instant) -> Rc<Waiter> {
        Rc::new(Waiter {
            since: Cell::new(now),
            bytes: Cell::new(0),
            slot: RefCell::new(Slot::Abandoned),
        })
    }

    fn resolve(&self, outcome: Slot, now: Instant) {
        let before = std::mem::replace(&mut *self.slot.borrow_mut(), outcome);
        self.since.set(now);
        if let Slot::Waiting(Some(caller)) = before {
            caller.wake();
        }
    }

    /// Gives a connection unless the client is gone.
    fn give(&self, server: Box<Server>, now: Instant) -> Result<(), Box<Server>> {
        if matches!(*self.slot.borrow(), Slot::Abandoned) {
            return Err(server);
        }
        self.resolve(Slot::Given(server), now);
        Ok(())
    }
}

/// A place in the queue. When it is dropped early, a connection that it was already given goes on to the next.
pub struct Place {
    pool: Rc<Pool>,
    waiter: Rc<Waiter>,
    /// It has not been answered yet.
    queued: bool,
}

impl Place {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Lent, CheckoutError>> {
        let mut slot = self.waiter.slot.borrow_mut();
        match std::mem::replace(&mut *slot, Slot::Abandoned) {
            Slot::Given(server) => {
                self.queued = false;
                Poll::Ready(Ok(Lent {
                    server: Some(server),
                    pool: Rc::clone(&self.pool),
                }))
            }
            Slot::Failed(error) => {
                self.queued = false;
                Poll::Ready(Err(error))
            }
            Slot::Waiting(_) => {
                let state = self.pool.state.borrow();
                *slot = Slot::Waiting(Some(state.spec.target.home.caller(cx)));
                Poll::Pending
            }
            Slot::Abandoned => Poll::Pending,
        }
    }

    /// When it was answered.
    pub fn answered_at(&self) -> Instant {
        self.waiter.since.get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.queued {
            return;
        }
        let slot = std::mem::replace(&mut *self.waiter.slot.borrow_mut(), Slot::Abandoned);
        if let Slot::Given(server) = slot {
            self.pool.put(server, Instant::now());
        }
        let mut state = self.pool.state.borrow_mut();
        state.waiting.leave(&self.waiter);
    }
}

/// An attempt to connect; its end is told to the pool even when the task is cut off.
struct Attempt<'a> {
    pool: &'a Rc<Pool>,
    spec: &'a Spec,
    result: Option<Result<Server, ConnectError>>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.pool.connected(self.spec, self.result.take());
    }
}

/// A connection in a client's hands. Dropping it closes it.
pub struct Lent {
    server: Option<Box<Server>>,
    pool: Rc<Pool>,
}

impl Lent {
    /// Gives the connection back. It is kept only when nothing is owed on it and no transaction is open, not even one that only
    /// waits for its Sync.
    pub fn release(mut self, now: Instant) {
        let clean = self.is_settled()
            && !self.pipeline.is_in_unit()
            && self.status == TransactionStatus::Idle;
        if let Some(mut server) = self.server.take_if(|_| clean) {
            server.used_at = now;
            self.pool.put(server, now);
        }
    }

    /// Gives back a connection that nothing was done with: its idle time goes on.
    pub fn untouched(mut self, now: Instant) {
        if let Some(server) = self.server.take() {
            self.pool.put(server, now);
        }
    }

    /// None of its pool's other connections is lent again either.
    pub fn evict_pool(&self) {
        self.pool.evict();
    }

    /// Asks the server for a sign of life.
    async fn answers(&mut self) -> bool {
        let scratch = RefCell::new(vec![0; 4096].into_boxed_slice());
        let spec = self.pool.spec();
        let timeout = spec.settings.connect_timeout;
        let answer = self.run("", &scratch);
        matches!(
            spec.target.timers.timeout(timeout, answer).await,
            Ok(Ok(Ok(())))
        )
    }
}

impl Deref for Lent {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server
            .as_ref()
            .expect("only release and drop take the server")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Server {
        self.server
            .as_mut()
            .expect("only release and drop take the server")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.server.take().is_some() {
            self.pool.lost();
        }
    }
}

/// Give or take 10 %, so that connections opened together do not end together.
fn jittered(lifetime: Duration) -> Duration {
    lifetime.mul_f64(rand::random_range(0.9..1.1))
}
