//! What others may know of a session: for SHOW CLIENTS and SHOW SERVERS, and for cancelling what it runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use slab::Slab;

use crate::backend::cancel::Canceller;
use crate::sharding::ShardId;

/// The cards of one thread's sessions.
#[derive(Default)]
pub struct Cards(RefCell<Slab<Rc<Card>>>);

/// One session's card.
pub struct Card {
    pub place: Cell<usize>,
    pub process_id: Cell<i32>,
    pub user: Box<str>,
    pub database: Box<str>,
    pub address: Box<str>,
    pub tls: bool,
    pub application_name: RefCell<Box<str>>,
    pub connected_at: Instant,
    pub state: Cell<State>,
    /// When the last request began.
    pub requested_at: Cell<Instant>,
    /// Why it keeps its server connections, if it does.
    pub pins: RefCell<Vec<&'static str>>,
    /// The shard that it last worked on.
    pub shard: Cell<Option<ShardId>>,
    /// Its request has run for long enough that it is worth a look whether the client is still there.
    pub overdue: Cell<bool>,
    running: RefCell<Option<Rc<Canceller>>>,
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
}

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

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl Card {
    pub fn running(&self) -> Option<Rc<Canceller>> {
        self.running.borrow().clone()
    }

    pub fn set_running(&self, running: Option<Rc<Canceller>>) {
        *self.running.borrow_mut() = running;
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
    pub user: Box<str>,
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
            requested_at: Cell::new(now),
            pins: RefCell::default(),
            shard: Cell::new(None),
            overdue: Cell::new(false),
            running: RefCell::default(),
            waker: RefCell::default(),
        })
    }
}
