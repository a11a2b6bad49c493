//! `currval` and `lastval` give what this client has taken from a sequence, and never what another has.
//!
//! A server connection keeps the last value of each sequence, whoever has it now. A unit of work that asks for one begins with DISCARD
//! SEQUENCES: then it sees what it has taken itself, or gets Postgres's error that nothing was taken. In a transaction that is known too late
//! for that, so once a database is seen to ask, DISCARD SEQUENCES goes in front of every transaction block, and of the first statement for which a
//! connection is used again that the session keeps. Where it is too late already the statement is refused.

use super::Session;
use super::link::{Link, Phase};
use super::respond::Fault;
use super::transaction::Transaction;
use crate::backend::pipeline::{Fate, Request};
use crate::catalog::QualifiedName;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Planned, Takes};
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
    /// Of sequences of which a server knows better than the session.
    OfServer,
}

/// The numbers that Trunkline has taken for this session's statements, the last of each sequence. No server knows of them.
#[derive(Debug, Default)]
pub struct Taken {
    of: Vec<(QualifiedName, LastValue)>,
    /// Of any.
    last: Option<LastValue>,
    /// Counts the session's transactions.
    transaction: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastValue {
    value: i64,
    certainty: Certainty,
    transaction: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Certain,
    /// A server may have taken another one since, or which of several was the last is not known.
    Doubtful,
}

/// Who knows what was taken last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Here(i64),
    AtServer,
    Nowhere,
}

impl Taken {
    /// As many as are remembered; of others nobody knows, which a server says, too.
    const MOST: usize = 256;

    pub fn take(&mut self, sequence: &QualifiedName, value: i64) {
        let taken = LastValue {
            value,
            certainty: Certainty::Certain,
            transaction: self.transaction,
        };
        self.last = Some(taken);
        match self.of.iter_mut().find(|(name, _)| name == sequence) {
            Some((_, known)) => *known = taken,
            None => {
                if self.of.len() == Taken::MOST {
                    self.of.remove(0);
                }
                self.of.push((sequence.clone(), taken));
            }
        }
    }

    /// A server may have taken numbers from any sequence.
    pub fn doubt(&mut self) {
        let all = self.of.iter_mut().map(|(_, known)| known);
        for known in all.chain(&mut self.last) {
            known.certainty = Certainty::Doubtful;
        }
    }

    pub fn doubt_last(&mut self) {
        if let Some(last) = &mut self.last {
            last.certainty = Certainty::Doubtful;
        }
    }

    pub fn transaction_ended(&mut self) {
        self.transaction += 1;
    }

    /// `None`: the last of all.
    fn known(&self, sequence: Option<&QualifiedName>, memory: Memory) -> Known {
        let known = match sequence {
            Some(sequence) => self.of.iter().find(|(name, _)| name == sequence),
            None => None,
        };
        let known = match sequence {
            Some(_) => known.map(|(_, known)| known),
            None => self.last.as_ref(),
        };
        match known {
            None => Known::AtServer,
            Some(known) if known.certainty == Certainty::Certain => Known::Here(known.value),
            // A connection that has been lent since knows of none, or of one that was taken later.
            Some(known) if known.transaction < self.transaction && memory == Memory::Lent => {
                Known::AtServer
            }
            Some(_) => Known::Nowhere,
        }
    }

    /// Whether a server that is asked may give a number that was taken before one of these.
    fn may_mislead(&self, memory: Memory) -> bool {
        let mut all = self.of.iter().map(|(_, known)| known).chain(&self.last);
        all.any(|known| {
            known.certainty == Certainty::Certain
                || known.transaction == self.transaction
                || memory == Memory::Kept
        })
    }
}

/// How long the session's connections remember what was taken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// To the end of the transaction.
    Lent,
    Kept,
}

impl Session {
    /// Who knows the last number of this sequence, or of any.
    pub(super) fn knows_last(&self, sequence: Option<&QualifiedName>) -> Known {
        let memory = self.memory();
        match &self.taken {
            Some(taken) => taken.known(sequence, memory),
            None => Known::AtServer,
        }
    }

    fn memory(&self) -> Memory {
        let mut links = self.kept.iter().chain(&self.link).chain(&self.party);
        if links.any(Link::is_kept) {
            Memory::Kept
        } else {
            Memory::Lent
        }
    }

    /// A server is about to run these.
    pub(super) fn takes_elsewhere(&mut self, planned: &Planned) {
        let mut statements = planned.statements.iter();
        if let Some(taken) = &mut self.taken
            && statements.any(|one| one.takes == Takes::Numbers)
        {
            taken.doubt();
        }
    }

    /// The statements at hand ask for what only a server knows.
    pub(super) fn asks_server(&mut self) {
        self.asking = Asking::OfServer;
    }

    /// Whether a server that is asked might give an older number than Trunkline has taken since.
    fn misleads(&self) -> bool {
        let memory = self.memory();
        let taken = self.taken.as_deref();
        taken.is_some_and(|taken| taken.may_mislead(memory))
    }

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
        match std::mem::take(&mut self.asking) {
            Asking::No => return Ok(()),
            // The statement does not tell of which sequence.
            Asking::Yes if self.misleads() => return Err(unknown_last()),
            Asking::Yes | Asking::OfServer => {}
        }
        if self.link.as_ref().is_none_or(own) {
            return Ok(());
        }
        let message = "the connection may hold another client's values of sequences";
        Err(Fault::Refused(Refusal::new(Reason::LastValue, message)))
    }

    /// Whether the statements need more than the straight path can do.
    pub(super) fn asks_in_vain(&mut self, planned: &Planned) -> bool {
        let own = |link: &Link| link.last_values == LastValues::Own;
        self.asks(planned) && (self.taken.is_some() || !self.link.as_ref().is_some_and(own))
    }

    /// The current connection has just been attached, and its transaction has not begun there: drops others' values when this unit of work, or a later one
    /// on a connection that is kept, may ask for its own.
    pub(super) fn drop_last_values(&mut self, phase: Phase) {
        let catalog = self.database.catalog();
        let expected = self.database.asks_last_values.get() || catalog.residue.anything_asks();
        let block = matches!(self.transaction, Transaction::Begun(_)) && phase == Phase::Working;
        let asking = self.asking != Asking::No;
        let Some(link) = &mut self.link else { return };
        let wanted = asking || expected && block || link.is_kept();
        if link.last_values == LastValues::Own || !wanted {
            return;
        }
        let server = link.server();
        message::encode_query(b"DISCARD SEQUENCES", server.outbox());
        server.unnamed = None;
        server.pipeline.expect(Request::Query, Fate::Swallow, None);
        link.last_values = LastValues::Own;
    }
}

pub fn unknown_last() -> Fault {
    let message = "which number was taken last is not known: some were taken by Trunkline for rows of sharded tables, and some by a server, or the statement does not tell of which sequence";
    Fault::Refused(Refusal::new(Reason::LastValue, message))
}
