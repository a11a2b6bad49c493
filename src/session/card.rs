//! What others may know of a session: for SHOW CLIENTS and SHOW SERVERS, and for cancelling what it runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use super::waits::Company;
use crate::backend::cancel::Canceller;
use crate::config::{Config, Limits, User};
use crate::plan::Passage;
use crate::sharding::ShardId;

/// The cards of one thread's sessions.
#[derive(Default)]
pub struct Cards(RefCell<Slab<Rc<Card>>>);

/// One session's card.
pub struct Card {
    pub place: Cell<usize>,
    pub process_id: Cell<i32>,
    pub user: Rc<User>,
    pub database: Box<str>,
    pub address: Box<str>,
    pub tls: bool,
    pub application_name: RefCell<Box<str>>,
    pub connected_at: Instant,
    pub state: Cell<State>,
    /// Whether its unit of work has been let through to keys that are moving; of one that is idle it says nothing.
    pub passage: Cell<Passage>,
    /// It waits for the gate before them.
    pub held: Cell<bool>,
    /// Its client wants no more of what waits there; read by the session.
    pub called_off: Cell<bool>,
    /// Its open transaction keeps the snapshots that it has taken: what it sees of one shard is older than what it would see of another.
    pub keeps_snapshot: Cell<bool>,
    /// When it came into this state.
    since: Cell<Instant>,
    /// It has run into this time limit; read by the session.
    overstayed: Cell<Option<Overstay>>,
    /// Its statement has been cancelled for having run too long.
    cut_short: Cell<bool>,
    /// When the last request began.
    pub requested_at: Cell<Instant>,
    /// Why it keeps its server connections, if it does.
    pub pins: RefCell<Vec<&'static str>>,
    /// The shard that it last worked on.
    pub shard: Cell<Option<ShardId>>,
    /// Its request has run for long enough that it is worth a look whether the client is still there.
    pub overdue: Cell<bool>,
    running: RefCell<Option<Rc<Canceller>>>,
    /// The others of a statement that runs on several shards.
    also_running: RefCell<Vec<Rc<Canceller>>>,
    /// The connections of its transaction, when that works on several shards.
    pub company: Company,
    waker: RefCell<Option<Waker>>,
}

/// What a session is doing, in PgBouncer's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Linked to a server, or idle outside a transaction.
    Active,
    /// Waits for a server connection.
    Waiting,
    Idle,
    /// In a transaction, and it is the client's turn.
    IdleInTransaction,
}

/// A time limit that a session has run into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overstay {
    Idle,
    IdleInTransaction,
    /// And its server did not heed the cancel request.
    Query,
}

/// How long a cancelled statement may go on.
const HEED: Duration = Duration::from_secs(5);

impl Cards {
    pub fn insert(&self, card: Rc<Card>) -> usize {
        let place = self.0.borrow_mut().insert(Rc::clone(&card));
        card.place.set(place);
        place
    }

    pub fn remove(&self, place: usize) {
        self.0.borrow_mut().try_remove(place);
    }

    pub fn get(&self, place: usize) -> Option<Rc<Card>> {
        self.0.borrow().get(place).cloned()
    }

    pub fn all(&self) -> Vec<Rc<Card>> {
        self.0
            .borrow()
            .iter()
            .map(|(_, card)| Rc::clone(card))
            .collect()
    }

    /// Wakes the sessions whose request has run since before `began`, once, to look at their clients.
    pub fn wake_overdue(&self, began: Instant) {
        for (_, card) in &*self.0.borrow() {
            let running = card.state.get() == State::Active && card.requested_at.get() < began;
            if running && !card.overdue.replace(true) {
                card.wake();
            }
        }
    }

    /// Sessions that have run into one of their time limits: those whose statement runs too long, to be cancelled; the others are woken
    /// to end.
    pub fn overstaying(&self, now: Instant, limits: &Limits) -> Vec<Rc<Card>> {
        let mut running = Vec::new();
        for (_, card) in &*self.0.borrow() {
            if let Some(overstay) = card.overstay(now, limits) {
                card.overstayed.set(Some(overstay));
                card.wake();
            } else if card.is_past(State::Active, limits.query_timeout, now)
                && !card.cut_short.replace(true)
            {
                running.push(Rc::clone(card));
            }
        }
        running
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl Card {
    /// A new state from `now` on.
    pub fn enter(&self, state: State, now: Instant) {
        self.state.set(state);
        self.since.set(now);
    }

    /// A request begins.
    pub fn begin(&self, now: Instant) {
        if self.state.get() == State::Idle {
            self.passage.set(Passage::Stopped);
            self.keeps_snapshot.set(false);
        }
        self.requested_at.set(now);
        self.enter(State::Active, now);
        self.overdue.set(false);
        self.cut_short.set(false);
    }

    /// It may be at work on keys that are moving.
    pub fn is_inside(&self) -> bool {
        self.passage.get() == Passage::Through && self.state.get() != State::Idle
    }

    /// It may have been at work on keys before they were known to move.
    pub fn let_through(&self) {
        if self.state.get() != State::Idle && !self.held.get() {
            self.passage.set(Passage::Through);
        }
    }

    /// The time limit that the session has run into, if it has not moved since that was found.
    pub fn take_overstay(&self, limits: impl FnOnce() -> Arc<Config>) -> Option<Overstay> {
        let found = self.overstayed.take()?;
        self.overstay(Instant::now(), &limits().limits)
            .filter(|overstay| *overstay == found)
    }

    fn overstay(&self, now: Instant, limits: &Limits) -> Option<Overstay> {
        let unheeded = limits.query_timeout.map(|timeout| timeout + HEED);
        [
            (State::Idle, limits.client_idle_timeout, Overstay::Idle),
            (
                State::IdleInTransaction,
                limits.idle_transaction_timeout,
                Overstay::IdleInTransaction,
            ),
            (State::Active, unheeded, Overstay::Query),
        ]
        .into_iter()
        .find(|(state, limit, _)| self.is_past(*state, *limit, now))
        .map(|(_, _, overstay)| overstay)
    }

    pub(super) fn is_past(&self, state: State, limit: Option<Duration>, now: Instant) -> bool {
        self.state.get() == state
            && limit.is_some_and(|limit| now.saturating_duration_since(self.since.get()) >= limit)
    }

    pub fn running(&self) -> Option<Rc<Canceller>> {
        self.running.borrow().clone()
    }

    pub fn set_running(&self, running: Option<Rc<Canceller>>) {
        *self.running.borrow_mut() = running;
    }

    /// All that work for it now.
    pub fn all_running(&self) -> Vec<Rc<Canceller>> {
        let also = self.also_running.borrow();
        self.running
            .borrow()
            .iter()
            .chain(&*also)
            .cloned()
            .collect()
    }

    pub fn set_also_running(&self, also: Vec<Rc<Canceller>>) {
        *self.also_running.borrow_mut() = also;
    }

    /// How the session is woken when it waits for its client.
    pub fn set_waker(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }

    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Who a session is, for its card.
pub struct Identity {
    pub user: Rc<User>,
    pub database: Box<str>,
    pub address: Box<str>,
    pub tls: bool,
}

impl Card {
    pub fn new(identity: Identity, now: Instant) -> Rc<Card> {
        let Identity {
            user,
            database,
            address,
            tls,
        } = identity;
        Rc::new(Card {
            place: Cell::new(0),
            process_id: Cell::new(0),
            user,
            database,
            address,
            tls,
            application_name: RefCell::default(),
            connected_at: now,
            state: Cell::new(State::Idle),
            passage: Cell::default(),
            held: Cell::default(),
            called_off: Cell::default(),
            keeps_snapshot: Cell::default(),
            since: Cell::new(now),
            overstayed: Cell::new(None),
            cut_short: Cell::new(false),
            requested_at: Cell::new(now),
            pins: RefCell::default(),
            shard: Cell::new(None),
            overdue: Cell::new(false),
            running: RefCell::default(),
            also_running: RefCell::default(),
            company: Company::default(),
            waker: RefCell::default(),
        })
    }
}
