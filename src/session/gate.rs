//! Statements on keys that are moving to another shard: they are let through, or wait while the map changes.
//!
//! While a plan moves keys, the catalog knows both maps, and what concerns keys on which they differ comes here, on the long way; nothing else does. As long
//! as the gate is open, the unit of work is marked on the session's card and goes on as the map in force says. When the gate is closed, units that are marked
//! come to their end, and the others wait here for the map that comes. So whoever closed the gate knows from the cards when nobody is inside.

use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::card::State;
use super::respond::Fault;
use super::transaction::default_modes;
use crate::plan::Passage;
use crate::sql::modes::Modes;

/// How often it is looked whether this proxy is known to be alive again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What stands before the moving keys of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    #[default]
    Open,
    /// New units of work wait.
    Closed,
}

impl Session {
    /// What the session's settings say of the transaction that is begun next, or was.
    pub(super) fn default_modes(&self) -> Modes {
        default_modes(&self.settled)
    }

    /// Whether the unit of work at hand may use moving keys. What was let through by a proxy that has been taken for dead since then asks anew: the
    /// keys may have moved without it.
    pub(super) fn passage(&self) -> Passage {
        match self.card.passage.get() {
            Passage::Through if self.worker.is_known_alive(&self.database.name) => Passage::Through,
            Passage::Through | Passage::Stopped => Passage::Stopped,
        }
    }

    /// Lets the unit of work through, or waits until there is something else to be found out about it. Nothing of it has been done yet.
    pub(super) async fn pass_gate(&mut self) -> Result<(), Fault> {
        let limit = self.worker.config().failover.wait;
        let deadline = Instant::now() + limit;
        let mut waited = false;
        self.card.called_off.set(false);
        let passed = loop {
            if !self.database.catalog().is_moving() {
                break Ok(());
            }
            // Marked before this is looked at, so that what changes from now on is heard of.
            let mut changes = self.worker.gate_changes();
            if self.worker.gate(&self.database.name) == Gate::Open {
                self.card.passage.set(Passage::Through);
                break Ok(());
            }
            if !waited {
                waited = true;
                self.card.held.set(true);
                self.waits(State::Waiting, std::time::Instant::now());
            }
            let now = Instant::now();
            if now >= deadline {
                break Err(Fault::Held);
            }
            if let Err(fault) = self.is_still_wanted() {
                break Err(fault);
            }
            let rest = LOOK_AGAIN.min(deadline - now);
            let timers = &self.worker.shared.timers;
            // Its end is as good as a change: everything is looked at again.
            let _ = timers.timeout(rest, changes.changed()).await;
        };
        if waited {
            self.card.held.set(false);
            self.waits(State::Active, std::time::Instant::now());
        }
        passed
    }

    /// Of what waits with nothing of it done: neither its client nor `query_timeout` has called it off.
    pub(super) fn is_still_wanted(&self) -> Result<(), Fault> {
        let limit = self.worker.config().limits.query_timeout;
        let until_cut = limit.map(|limit| self.card.requested_at.get() + limit);
        if self.card.called_off.take() {
            return Err(cancelled("canceling statement due to user request"));
        }
        if until_cut.is_some_and(|until| std::time::Instant::now() >= until) {
            super::add(&self.database.counters.query_timeouts, 1);
            return Err(cancelled("canceling statement due to query_timeout"));
        }
        Ok(())
    }
}

/// Nothing of it was done.
fn cancelled(message: &str) -> Fault {
    Fault::Postgres {
        sqlstate: "57014",
        message: message.to_owned(),
    }
}
