//! `currval` and `lastval` give what this client has taken from a sequence, and never what another has.
//!
//! A server connection keeps the last value of each sequence, whoever has it now. A unit of work that asks for one begins with DISCARD
//! SEQUENCES: then it sees what it has taken itself, or gets Postgres's error that nothing was taken. In a transaction that is known too late
//! for that, so once a database is seen to ask, every transaction block begins so. Where it is too late already the statement is refused.

use super::Session;
use super::link::{Link, Phase};
use super::respond::Fault;
use crate::backend::pipeline::{Fate, Request};
use crate::plan::Planned;
use crate::plan::refusal::{Reason, Refusal};
use crate::sql::class::Class;
use crate::sql::facts::Leaves;
use crate::wire::message;

/// Whose values of sequences a connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastValues {
    /// Perhaps another client's.
    Anybodys,
    /// This session's, of the current unit of work or of the time that the connection has been kept.
    Own,
}

/// Whether the statement at hand asks for last values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    #[default]
    No,
    Yes,
}

impl Session {
    /// Whether statements ask for a sequence's last value.
    fn asks(&mut self, planned: &Planned) -> bool {
        for (place, one) in planned.statements.iter().enumerate() {
            if one.leaves.contains(&Leaves::LastValue) {
                return true;
            }
            if let Class::Execute { name, .. } = &one.class
                && let Some(executed) = self.executed_at(place, name)
                && let Ok(plan) = self.plan_statement(&executed)
                && plan
                    .planned
                    .statements
                    .iter()
                    .any(|one| one.leaves.contains(&Leaves::LastValue))
            {
                return true;
            }
        }
        false
    }

    /// To be called in front of an attachment for these statements.
    pub(super) fn will_run(&mut self, planned: &Planned) {
        if self.asks(planned) {
            self.will_ask();
        }
    }

    pub(super) fn will_ask(&mut self) {
        self.asking = Asking::Yes;
        self.database.asks_last_values.set(true);
    }

    /// To be called behind it.
    pub(super) fn check_last_values(&mut self) -> Result<(), Fault> {
        let own = |link: &Link| link.last_values == LastValues::Own;
        if std::mem::take(&mut self.asking) == Asking::No || self.link.as_ref().is_none_or(own) {
            return Ok(());
        }
        let message = "the connection may hold another client's values of sequences";
        Err(Fault::Refused(Refusal::new(Reason::LastValue, message)))
    }

    /// Whether the statements need more than the straight path can do.
    pub(super) fn asks_in_vain(&mut self, planned: &Planned) -> bool {
        let own = |link: &Link| link.last_values == LastValues::Own;
        self.asks(planned) && !self.link.as_ref().is_some_and(own)
    }

    /// The current connection has just been attached: drops others' values when this unit of work may ask for its own.
    pub(super) fn drop_last_values(&mut self, phase: Phase, block: Block) {
        let catalog = self.database.catalog();
        let expected = self.database.asks_last_values.get() || catalog.residue.anything_asks();
        let block = block == Block::Begun && phase == Phase::Working;
        let asking = self.asking == Asking::Yes;
        let Some(link) = &mut self.link else { return };
        if link.last_values == LastValues::Own || !(asking || expected && (block || link.is_kept()))
        {
            return;
        }
        let server = link.server();
        message::encode_query(b"DISCARD SEQUENCES", server.outbox());
        server.unnamed = None;
        server.pipeline.expect(Request::Query, Fate::Swallow, None);
        link.last_values = LastValues::Own;
    }
}

/// Whether the connection was attached for a transaction block that begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    None,
    Begun,
}
