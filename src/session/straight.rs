//! The straight path: messages that meet no obstacle are dealt with here, at once and without a future. That is nearly all of them.
//!
//! An obstacle is whatever has to wait (no connection is idle, settings must be brought over, a server must judge something) or is rare.
//! Then nothing has been done yet, and the same message goes the long way (`take.rs`), which can do everything.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::card::State;
use super::channels::speaks_of_channels;
use super::extended::Begun;
use super::last_values::LastValues;
use super::link::Phase;
use super::prepared::speaks_of_prepared;
use super::reads::Seeks;
use super::respond::{End, Fault};
use super::route::Destination;
use super::transaction::{Opener, Transaction};
use super::worker::add;
use super::{Lent, Link, Reading, Session};
use crate::plan::Planned;
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::topology::view::NodePlace;
use crate::wire::answer::TransactionStatus;
use crate::wire::frame::HEADER;
use crate::wire::message::{Bind, Close, Describe, Execute, Query, Target};

/// How far the straight path led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Done,
    /// The long way must be taken with this message.
    Obstacle,
}

/// What the straight path found out of a message before it met its obstacle. The same message is taken up again next.
pub(super) enum Decided {
    Query(Rc<Planned>, Destination),
    Bind(Begun),
}

impl Session {
    /// Serves the client until there is an obstacle, or an end.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            if let Some(overstay) = self.card.take_overstay(|| self.worker.config()) {
                self.database.counters.overstayed(overstay);
                return Poll::Ready(Err(End::Overstayed(overstay)));
            }
            if self.anew.is_some()
                || self.catalog_follows.is_some()
                || self.commit_follows.is_some()
                || (!self.kept.is_empty() && self.doubts_pins())
            {
                return Poll::Ready(Ok(()));
            }
            if let Some(place) = &mut self.place {
                let Poll::Ready(granted) = place.poll(cx) else {
                    // Answers to what was asked before need not wait too.
                    return match self.client.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Err(End::Client)),
                        _ => Poll::Pending,
                    };
                };
                let answered_at = place.answered_at();
                self.place = None;
                self.waits(State::Active, answered_at);
                self.granted = Some(granted);
            }
            if !self.client.inbox.is_empty() && self.take_straight()? == Path::Obstacle {
                if self.place.is_some() {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            self.empty_mailbox()?;
            let reading = self.reading();
            match self.poll_relay(cx, reading) {
                // The server has taken what was waiting for it: there is room for more of the client's bytes.
                Poll::Pending
                    if reading == Reading::Enough && self.reading() == Reading::Wanted => {}
                turn => match ready!(turn) {
                    Ok(_) => self.settle()?,
                    Err(broken) => self.broken(broken)?,
                },
            }
        }
    }

    /// Deals with one message.
    pub(super) fn straight(&mut self, tag: u8, frame: &[u8]) -> Path {
        if matches!(tag, b'd' | b'c' | b'f') {
            self.copy_message(tag, frame);
            return Path::Done;
        }
        let is_plain = matches!(self.transaction, Transaction::Idle | Transaction::Open)
            && self.batch.goes_on()
            && !self.link.as_ref().is_some_and(Link::is_copying)
            && !self.may_be_hit();
        match tag {
            _ if !is_plain => Path::Obstacle,
            b'Q' => self.straight_query(frame).unwrap_or(Path::Obstacle),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => self.straight_extended(tag, frame),
            _ => Path::Obstacle,
        }
    }

    /// `None` is an obstacle too.
    fn straight_query(&mut self, frame: &[u8]) -> Option<Path> {
        let fresh = self.link.as_ref().is_none_or(|link| {
            !link.is_metadata() && !link.is_in_unit() && link.status() != TransactionStatus::Failed
        });
        if !fresh || self.batch.is_open() || self.batch.has_open_portal(b"") {
            return None;
        }
        let (planned, destination) = match self.decided.take() {
            Some(Decided::Query(planned, destination)) => (planned, destination),
            _ => {
                self.unit_begins();
                let text = Query::decode(&frame[HEADER..]).ok()?.text;
                let planned = self.plan(text).ok()?;
                match &planned.statements[..] {
                    [one] if matches!(one.class, Class::Data) => {}
                    [_] if !speaks_of_prepared(&planned) && !speaks_of_channels(&planned) => {}
                    _ => return None,
                }
                if self.asks_in_vain(&planned) {
                    return None;
                }
                let destination = self.destination_of_query(&planned, text).ok()??;
                self.seek(&planned);
                if destination == Destination::Several {
                    return None;
                }
                (planned, destination)
            }
        };
        if !self.attach_straight(destination) {
            self.decided = Some(Decided::Query(planned, destination));
            return None;
        }
        self.unnamed = None;
        self.batch.close_portal(b"");
        self.forward_query(&planned, frame);
        Some(Path::Done)
    }

    fn straight_extended(&mut self, tag: u8, frame: &[u8]) -> Path {
        let begins = self.link.as_ref().is_none_or(Link::is_settled) && !self.batch.is_open();
        if begins && self.decided.is_none() {
            self.unit_begins();
        }
        let body = &frame[HEADER..];
        let working = self.link.as_ref().is_some_and(|link| !link.is_metadata());
        let outcome = match tag {
            b'P' => self.parse(body),
            b'B' if self.binds_open_portal(body) => return Path::Obstacle,
            b'B' => match self.begin_bind(body) {
                Ok(Some(binding)) => {
                    let begun = &binding.begun;
                    if self.asks_in_vain(&begun.planned)
                        || !self.attach_straight(begun.destination)
                        || self.must_wait_for(begun)
                    {
                        self.decided = Some(Decided::Bind(binding.begun));
                        return Path::Obstacle;
                    }
                    self.finish_bind(&binding);
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(Fault::Held | Fault::Unplaced(_)) => return Path::Obstacle,
                Err(fault) => Err(fault),
            },
            b'D' if working => match Describe::decode(body) {
                Ok(describe)
                    if describe.target == Target::Portal
                        && !self.batch.has_portal(describe.name) =>
                {
                    self.describe_portal(describe.name, frame);
                    Ok(())
                }
                _ => return Path::Obstacle,
            },
            b'E' if working => match Execute::decode(body) {
                Ok(execute) if !self.batch.has_portal(execute.portal) => {
                    self.execute_portal(&execute, frame)
                }
                _ => return Path::Obstacle,
            },
            b'C' if self.closes_open_portal(body) => return Path::Obstacle,
            b'C' => self.close_target(body, frame),
            b'S' if working && self.opener == Opener::Client => {
                self.end_of_batch();
                Ok(())
            }
            _ => return Path::Obstacle,
        };
        if let Err(fault) = outcome {
            self.fail_batch(&fault);
        }
        Path::Done
    }

    /// Servers have portals for the one whose name is bound anew.
    fn binds_open_portal(&self, body: &[u8]) -> bool {
        self.batch.has_portals()
            && Bind::decode(body).is_ok_and(|bind| self.batch.has_open_portal(bind.portal))
    }

    /// The same of one that is closed.
    fn closes_open_portal(&self, body: &[u8]) -> bool {
        self.batch.has_portals()
            && Close::decode(body).is_ok_and(|close| {
                close.target == Target::Portal && self.batch.has_open_portal(close.name)
            })
    }

    /// Makes a connection to the destination work for this session, if there is one that needs nothing done to it.
    fn attach_straight(&mut self, destination: Destination) -> bool {
        if let Some(link) = &self.link {
            let here = match destination {
                Destination::Shard(shard) => link.serves(shard, self.reads.seeks),
                Destination::Any => link.serves(link.shard(), self.reads.seeks),
                Destination::Several => false,
            };
            return here && !link.is_metadata();
        }
        if !matches!(self.transaction, Transaction::Idle) {
            return false;
        }
        let shard = match destination {
            Destination::Shard(shard) => shard,
            Destination::Any => self.database.catalog().home,
            Destination::Several => return false,
        };
        if let Some(place) = self
            .kept
            .iter()
            .position(|link| link.serves(shard, self.reads.seeks))
        {
            let kept = &self.kept[place];
            let others = kept.last_values == LastValues::Anybodys;
            if others || !kept.is_as(&self.settings, &self.reported) {
                return false;
            }
            let link = self.kept.swap_remove(place).at_work();
            self.link_up(link);
            self.send_held();
            return true;
        }
        if let Some(granted) = self.granted.take() {
            match granted {
                Ok(lent) if self.suits(&lent) => {
                    add(&self.database.counters.assignments, 1);
                    self.link_up(Link::new(lent, Phase::Working, self.mode));
                    self.send_held();
                    return true;
                }
                other => {
                    self.granted = Some(other);
                    return false;
                }
            }
        }
        if self.reads.seeks == Seeks::Replica {
            match self.seat_now(shard) {
                Ok(None) => {}
                Ok(Some(place)) => return self.attach_replica_straight(shard, place),
                Err(()) => return false,
            }
        }
        let Some(Some(pool)) = self.pools.get(shard.index()) else {
            return false;
        };
        let Some(lent) = pool.try_checkout(self.unit_began) else {
            // Whatever speaks against a wait is said on the long way.
            if let Ok(place) = pool.enqueue(&self.waiter, self.held_bytes, self.unit_began) {
                self.place = Some(place);
                self.waits(State::Waiting, self.unit_began);
            }
            return false;
        };
        self.link_up_suiting(lent)
    }

    /// The same with a replica.
    #[inline(never)]
    fn attach_replica_straight(&mut self, shard: ShardId, place: NodePlace) -> bool {
        let Ok(lent) = self.lend_straight(shard, place) else {
            return false;
        };
        self.link_up_suiting(lent)
    }

    /// Lets the connection work for this session, unless something had to be done to it first.
    #[inline]
    fn link_up_suiting(&mut self, lent: Lent) -> bool {
        if !self.suits(&lent) {
            lent.untouched(self.unit_began);
            return false;
        }
        add(&self.database.counters.assignments, 1);
        self.link_up(Link::new(lent, Phase::Working, self.mode));
        self.send_held();
        true
    }

    /// The connection is as the session wants it, and the client knows what it reports.
    fn suits(&self, lent: &Lent) -> bool {
        lent.settings.is_same(&self.settings) && lent.reported.is_same(&self.reported)
    }
}
