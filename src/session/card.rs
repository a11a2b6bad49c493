//! What others may know of a session: for SHOW CLIENTS and SHOW SERVERS, and for cancelling what it runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use slab::Slab;

use crate::backend::connect::{self, Target};
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
    running: RefCell<Option<Rc<Running>>>,
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

/// The server connection that works for a session.
pub struct Running {
    pub shard: ShardId,
    pub process_id: i32,
    secret_key: Vec<u8>,
    target: Target,
    /// Cancel requests on their way to this connection.
    cancelling: tokio::sync::watch::Sender<usize>,
}

impl Running {
    pub fn new(shard: ShardId, process_id: i32, secret_key: Vec<u8>, target: Target) -> Rc<Running> {
        Rc::new(Running { shard, process_id, secret_key, target, cancelling: tokio::sync::watch::Sender::new(0) })
    }

    /// Asks the server to stop what this connection runs.
    pub fn cancel(self: Rc<Running>) -> impl Future<Output = ()> {
        self.cancelling.send_modify(|count| *count += 1);
        async move {
            let done = Done(&self.cancelling);
            if let Err(error) = connect::cancel(&self.target, self.process_id, &self.secret_key).await {
                tracing::warn!(process_id = self.process_id, %error, "cannot pass a cancel request on");
            }
            drop(done);
        }
    }

    /// A cancel request is on its way: the connection must not be lent to anybody else.
    pub fn is_being_cancelled(&self) -> bool {
        *self.cancelling.borrow() > 0
    }

    /// Waits until no cancel request is on its way.
    pub async fn cancelled(&self) {
        // The sender lives as long as `self`.
        let _ = self.cancelling.subscribe().wait_for(|count| *count == 0).await;
    }
}

struct Done<'a>(&'a tokio::sync::watch::Sender<usize>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
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
        self.0.borrow().iter().map(|(_, card)| Rc::clone(card)).collect()
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

impl Card {
    pub fn running(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    pub fn set_running(&self, running: Option<Rc<Running>>) {
        *self.running.borrow_mut() = running;
    }
}
