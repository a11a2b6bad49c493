//! Transactions over several shards that take long: which server processes work for them, so that the control plane can look for deadlocks.
//!
//! Nothing here is done for a session that works on one shard. One that comes to have several connections in a transaction, or in a statement, is
//! put on its thread's list; the thread looks over the list a few times a second, and tells the control plane when a request of one of them has run for
//! longer than `deadlock_timeout`. Ending a deadlock is a cancel request whose error is told in other words ([`Canceller::cancel_because`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use super::Session;
use super::card::{Card, State};
use super::link::Link;
use super::party::REST;
use super::respond::End;
use super::transaction::Transaction;
use super::worker::{Worker, add};
use crate::backend::cancel::Canceller;
use crate::backend::connect::Address;
use crate::backend::server::ServerError;
use crate::execution::commit::id::{Proxy, TransactionId};
use crate::execution::deadlock::table::Ends;

/// Bytes of a statement's text that are kept.
const MOST_TEXT: usize = 1024;

/// The connections of one transaction over several shards, or of one statement outside a block; on its session's card.
#[derive(Default)]
pub struct Company {
    joined: RefCell<Option<Joined>>,
    /// What it runs, or has run last.
    statement: RefCell<Vec<u8>>,
    /// The request of which the control plane was told.
    told: Cell<Option<Instant>>,
    listing: Cell<Listing>,
}

struct Joined {
    connections: Vec<Rc<Canceller>>,
    ends: Ends,
    began: Instant,
    /// Given when somebody asks for it.
    id: Option<TransactionId>,
}

/// Whether a card is on its thread's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listing {
    #[default]
    No,
    Yes,
}

/// The cards of a thread whose sessions have company; those that have it no more leave when they are next looked over.
#[derive(Default)]
pub struct Several(RefCell<Vec<Rc<Card>>>);

/// A request over several shards that has run for long. As long as it is told the same again it is the same request of the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongWait {
    pub request: Request,
    pub database: Box<str>,
    pub ends: Ends,
    pub statement: Box<str>,
    /// The server processes that work for it, by their servers.
    pub processes: Vec<(Address, i32)>,
}

/// One request of one session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub worker: usize,
    pub card: usize,
    pub transaction: TransactionId,
    pub began: Instant,
}

/// A deadlock's victim, and what its client is told.
#[derive(Debug)]
pub struct Sentence {
    pub request: Request,
    /// The process that waits.
    pub process: (Address, i32),
    /// A whole ErrorResponse.
    pub error: Box<[u8]>,
}

impl Company {
    fn join<'a>(
        &self,
        connections: impl Iterator<Item = &'a Rc<Canceller>>,
        ends: Ends,
        began: Instant,
    ) {
        let mut joined = self.joined.borrow_mut();
        let joined = joined.get_or_insert_with(|| Joined {
            connections: Vec::new(),
            ends,
            began,
            id: None,
        });
        joined.ends = ends;
        for connection in connections {
            let known = joined.connections.iter();
            if !known.clone().any(|known| Rc::ptr_eq(known, connection)) {
                joined.connections.push(Rc::clone(connection));
            }
        }
    }

    /// A connection works for it no longer.
    pub(super) fn leave(&self, connection: &Rc<Canceller>) {
        if let Some(joined) = &mut *self.joined.borrow_mut() {
            let left = |known: &Rc<Canceller>| !Rc::ptr_eq(known, connection);
            joined.connections.retain(left);
        }
    }

    /// The transaction is over, or the statement.
    pub(super) fn disband(&self) {
        *self.joined.borrow_mut() = None;
    }

    /// What runs now.
    pub(super) fn runs(&self, text: &[u8]) {
        let mut statement = self.statement.borrow_mut();
        statement.clear();
        statement.extend_from_slice(&text[..text.len().min(MOST_TEXT)]);
    }

    fn exists(&self) -> bool {
        self.joined.borrow().is_some()
    }
}

impl Card {
    fn is_long(&self, timeout: Duration, now: Instant) -> bool {
        self.company.exists() && self.is_past(State::Active, Some(timeout), now)
    }

    fn long_wait(&self, worker: usize, proxy: Proxy, now: Instant) -> Option<LongWait> {
        let mut joined = self.company.joined.borrow_mut();
        let joined = joined.as_mut()?;
        let age = now.saturating_duration_since(joined.began);
        let new = || TransactionId::new(SystemTime::now() - age, proxy);
        let statement = self.company.statement.borrow();
        let processes = joined.connections.iter();
        Some(LongWait {
            request: Request {
                worker,
                card: self.place.get(),
                transaction: *joined.id.get_or_insert_with(new),
                began: self.requested_at.get(),
            },
            database: self.database.clone(),
            ends: joined.ends,
            statement: String::from_utf8_lossy(&statement).into(),
            processes: processes
                .map(|canceller| (canceller.address().clone(), canceller.process_id))
                .collect(),
        })
    }
}

impl Several {
    fn list(&self, card: &Rc<Card>) {
        if card.company.listing.replace(Listing::Yes) == Listing::No {
            self.0.borrow_mut().push(Rc::clone(card));
        }
    }

    /// Whether the control plane should hear of a request that has become long since the last look.
    pub fn has_news(&self, timeout: Duration, now: Instant) -> bool {
        let mut news = false;
        self.0.borrow_mut().retain(|card| {
            if !card.company.exists() {
                card.company.listing.set(Listing::No);
                return false;
            }
            if card.is_long(timeout, now) {
                let began = Some(card.requested_at.get());
                news |= card.company.told.replace(began) != began;
            }
            true
        });
        news
    }
}

impl Worker {
    /// The requests over several shards that have run for longer than `deadlock_timeout`.
    pub fn long_waits(&self, now: Instant) -> Vec<LongWait> {
        let Some(timeout) = self.config().transactions.deadlock_timeout else {
            return Vec::new();
        };
        let several = self.several.0.borrow();
        let long = several.iter().filter(|card| card.is_long(timeout, now));
        long.filter_map(|card| card.long_wait(self.index, self.shared.proxy, now))
            .collect()
    }

    /// Ends the statement of a deadlock's victim; `false`: it is over by itself.
    pub fn execute(&self, sentence: Sentence) -> bool {
        let Sentence {
            request,
            process: (address, process_id),
            error,
        } = sentence;
        let Some(card) = self.cards.get(request.card) else {
            return false;
        };
        let same = card.state.get() == State::Active && card.requested_at.get() == request.began;
        let joined = card.company.joined.borrow();
        let joined = joined
            .as_ref()
            .filter(|joined| same && joined.id == Some(request.transaction));
        let waiting = joined.and_then(|joined| {
            let mut connections = joined.connections.iter();
            connections.find(|one| one.process_id == process_id && *one.address() == address)
        });
        let Some(canceller) = waiting else {
            return false;
        };
        canceller.cancel_because(error);
        if let Some(database) = self.database(&card.database) {
            add(&database.counters.deadlocks, 1);
        }
        true
    }
}

impl Session {
    /// The connections that work for the session now are in the same transaction, or statement, when there are several.
    pub(super) fn join(&self, enlisted: &[Link]) {
        let all = enlisted.iter().chain(&self.party).chain(&self.link);
        // What runs on replicas waits for nobody's locks, and their processes have numbers of their own.
        let all = all.filter(|link| !link.is_replica());
        if all.clone().count() < 2 && !self.card.company.exists() {
            return;
        }
        let ends = match self.transaction {
            Transaction::Open => Ends::Together,
            _ => Ends::Apart,
        };
        let began = self.transaction_began.unwrap_or(self.unit_began);
        self.card
            .company
            .join(all.map(Link::canceller), ends, began);
        self.worker.several.list(&self.card);
    }

    /// A statement of a transaction over several shards was ended from outside, and the request to do so may still be on its way:
    /// nothing else must be sent before it has arrived.
    #[inline]
    pub(super) fn may_be_hit(&self) -> bool {
        !self.party.is_empty()
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.is_clear() && link.was_cancelled())
    }

    /// Waits for cancel requests to statements that are over.
    pub(super) async fn let_cancels_arrive(&mut self) -> Result<(), End> {
        let rests = |link: &&mut Link| link.is_clear() && link.was_cancelled();
        let links = self.link.iter_mut().chain(&mut self.party);
        for link in links.filter(rests) {
            let rest = link.come_to_rest(&self.worker);
            // One that does not come to rest is in no known state, and with it the transaction.
            match self.worker.shared.timers.timeout(REST, rest).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(End::ServerLost(self.loss(error))),
                Err(_) => return Err(End::ServerLost(self.loss(ServerError::Timeout))),
            }
        }
        Ok(())
    }
}
