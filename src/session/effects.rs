//! What a request changes in the session once its server has done it; undone when it has not.

use std::rc::Rc;

use super::Session;
use super::link::Naming;
use super::statement::Statement;
use crate::backend::pipeline::{Committed, Fate, Token};
use crate::backend::prepared::StatementId;
use crate::plan::{Planned, PlannedStatement};
use crate::sql::class::{Class, Ddl, Discard, Hold, Scope, SetValue};
use crate::sql::facts::Leaves;

/// Settings that belong to one transaction, whatever the scope of the SET.
const OF_THE_TRANSACTION: [&str; 3] = [
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
];

/// Why a session keeps its connection, where that is asked elsewhere.
const TEMPORARY_TABLE: &str = "temporary table";

/// Remembered under a token until the server has answered.
pub enum Effect {
    /// Dealt with.
    Settled,
    /// A client's Parse; its name when it has one.
    Parsed {
        statement: Rc<Statement>,
        name: Option<Box<[u8]>>,
        sent: Sent,
    },
    /// A client's Close of a statement that it had.
    Closed {
        statement: Rc<Statement>,
        name: Box<[u8]>,
    },
    /// A Parse of ours.
    Injected(Rc<Statement>),
    /// A Close of ours, to make room.
    Evicted(StatementId),
    /// The statements of a simple query, or the one of an Execute.
    Statements(Rc<Planned>),
}

/// Whether the server has seen the Parse, or had the statement already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Yes,
    No,
}

impl PlannedStatement {
    /// Something must be remembered when it is done.
    fn has_effect(&self) -> bool {
        use Class as C;
        matches!(
            self.class,
            C::Begin
                | C::Commit { .. }
                | C::Rollback { .. }
                | C::Savepoint(_)
                | C::RollbackTo(_)
                | C::Release(_)
                | C::Set { .. }
                | C::Reset(_)
                | C::ResetAll
                | C::Deallocate(_)
                | C::Discard(_)
                | C::Ddl(_)
        )
    }

    /// Why the connection that ran it must stay with the session.
    fn pin(&self) -> Option<&'static str> {
        match &self.class {
            Class::Ddl(Ddl::Temporary) => return Some(TEMPORARY_TABLE),
            Class::Listen => return Some("LISTEN"),
            Class::Prepare { .. } => return Some("PREPARE"),
            Class::Declare {
                hold: Hold::With, ..
            } => return Some("WITH HOLD cursor"),
            Class::Load => return Some("LOAD"),
            _ => {}
        }
        self.leaves.iter().find_map(|leaves| match leaves {
            Leaves::TemporaryTable => Some(TEMPORARY_TABLE),
            Leaves::AdvisoryLock => Some("advisory lock"),
            Leaves::Setting => Some("set_config"),
            Leaves::LargeObject => None,
        })
    }

    /// It may have changed its connection in ways that cannot be seen.
    fn is_opaque(&self) -> bool {
        matches!(self.class, Class::Do | Class::Call | Class::Unknown)
    }
}

impl Session {
    /// Takes note of statements that are about to run on the current connection; the token under which their end is told.
    pub(super) fn note(&mut self, planned: &Rc<Planned>) -> Option<Token> {
        let mut matters = false;
        for statement in &planned.statements {
            if statement.class == Class::Data && statement.leaves.is_empty() {
                continue;
            }
            matters |= statement.has_effect();
            if let Some(reason) = statement.pin() {
                self.pin(reason);
            }
            if statement.is_opaque()
                && let Some(link) = &mut self.link
            {
                link.suspect();
            }
        }
        matters.then(|| self.remember(Effect::Statements(Rc::clone(planned))))
    }

    pub(super) fn remember(&mut self, effect: Effect) -> Token {
        let token = Token(
            u32::try_from(self.effects.len()).expect("a unit of work has fewer than 2^32 requests"),
        );
        self.effects.push(effect);
        token
    }

    fn pin(&mut self, reason: &'static str) {
        if let Some(link) = &mut self.link {
            link.keep();
        }
        let mut pins = self.card.pins.borrow_mut();
        if !pins.contains(&reason) {
            pins.push(reason);
        }
    }

    /// The session may have made temporary tables, whose names hide others.
    pub(super) fn has_temporary_tables(&self) -> bool {
        self.card.pins.borrow().contains(&TEMPORARY_TABLE)
    }

    pub(super) fn done(&mut self, token: Token, ordinal: u32, committed: Committed) {
        let Some(effect) = self.effects.get_mut(token.0 as usize) else {
            return;
        };
        match effect {
            Effect::Statements(planned) => {
                let planned = Rc::clone(planned);
                let mut told = planned
                    .statements
                    .iter()
                    .filter(|statement| statement.class != Class::Empty);
                if let Some(statement) = told.nth(ordinal as usize) {
                    self.statement_done(&statement.class, committed);
                }
            }
            Effect::Parsed { statement, .. } => {
                statement.accepted.set(true);
                *effect = Effect::Settled;
            }
            other => *other = Effect::Settled,
        }
    }

    pub(super) fn dropped(&mut self, token: Token) {
        let Some(effect) = self.effects.get_mut(token.0 as usize) else {
            return;
        };
        match std::mem::replace(effect, Effect::Settled) {
            Effect::Parsed {
                statement,
                name,
                sent,
            } => {
                match name {
                    Some(name)
                        if self
                            .prepared
                            .get(&name)
                            .is_some_and(|known| Rc::ptr_eq(known, &statement)) =>
                    {
                        self.prepared.remove(&name);
                    }
                    // Whether the one before it is still there depends on where the error was: rather none than the wrong one.
                    None if self
                        .unnamed
                        .as_ref()
                        .is_some_and(|known| Rc::ptr_eq(known, &statement)) =>
                    {
                        self.unnamed = None
                    }
                    _ => {}
                }
                if sent == Sent::Yes
                    && let Some(link) = &mut self.link
                {
                    link.forget(statement.id);
                }
            }
            Effect::Closed { statement, name } => {
                self.prepared.entry(name).or_insert(statement);
            }
            Effect::Injected(statement) => {
                if let Some(link) = &mut self.link {
                    link.forget(statement.id);
                }
            }
            Effect::Evicted(id) => {
                if let Some(link) = &mut self.link {
                    link.still_has(id);
                }
            }
            Effect::Statements(_) | Effect::Settled => {}
        }
    }

    fn statement_done(&mut self, class: &Class, committed: Committed) {
        match class {
            Class::Commit { .. } | Class::Rollback { .. } => self.outcome = Some(committed),
            Class::Begin => self.outcome = None,
            Class::Savepoint(name) => self.savepoints.push((name.clone(), self.settings.clone())),
            Class::RollbackTo(name) => self.back_to_savepoint(name),
            Class::Release(name) => self.release_savepoint(name),
            Class::Set { scope, name, value } => self.set_done(*scope, name, value),
            Class::Reset(name) => self.reset_done(name),
            Class::ResetAll => {
                self.settings.reset_all();
                self.settings_changed();
                self.settings.add(&self.startup_settings);
            }
            Class::Deallocate(None) => {
                self.prepared.clear();
                if let Some(link) = &mut self.link {
                    link.forget_prepared();
                }
            }
            Class::Discard(Discard::All) => self.discarded_all(),
            Class::Ddl(Ddl::Schema) => self.schema_changed = true,
            _ => {}
        }
    }

    /// The settings are again what they were at the savepoint.
    pub(super) fn back_to_savepoint(&mut self, name: &str) {
        if let Some(place) = self
            .savepoints
            .iter()
            .rposition(|(savepoint, _)| **savepoint == *name)
        {
            self.savepoints.truncate(place + 1);
            self.settings = self.savepoints[place].1.clone();
            self.settings_changed();
        }
    }

    pub(super) fn release_savepoint(&mut self, name: &str) {
        if let Some(place) = self
            .savepoints
            .iter()
            .rposition(|(savepoint, _)| **savepoint == *name)
        {
            self.savepoints.truncate(place);
        }
    }

    /// SET has run on the current connection.
    pub(super) fn set_done(&mut self, scope: Scope, name: &str, value: &SetValue) {
        if OF_THE_TRANSACTION.contains(&name) {
            return;
        }
        match (scope, value) {
            (Scope::Local, SetValue::Given { values, .. }) if name == "search_path" => {
                self.set_search_path(values)
            }
            (Scope::Local, _) => {}
            (Scope::Session, SetValue::Default) => self.reset_done(name),
            (Scope::Session, SetValue::Given { source, .. })
                if name == "session_characteristics" =>
            {
                for (name, value) in characteristics(source) {
                    self.settings.set(name, &value);
                }
                self.settings_changed();
            }
            (Scope::Session, SetValue::Given { source, .. }) => {
                self.settings.set(name, source);
                if name == "session_authorization" {
                    // It takes the role along.
                    self.settings.reset("role");
                }
                if name == "application_name"
                    && let SetValue::Given { values, .. } = value
                {
                    *self.card.application_name.borrow_mut() =
                        values.first().cloned().unwrap_or_default();
                }
                self.settings_changed();
            }
        }
    }

    /// The current connection has its own default again; the session what its client began with. The difference, where there is
    /// one, is made up when the session gets its next connection.
    fn reset_done(&mut self, name: &str) {
        self.settings.reset(name);
        if name == "session_authorization" {
            self.settings.reset("role");
        }
        self.settings_changed();
        if let Some(value) = self.startup_settings.get(name) {
            let value = value.to_owned();
            self.settings.set(name, &value);
            self.find_search_path();
        }
    }

    /// The session's settings are other ones now, and the current connection has them already.
    pub(super) fn settings_changed(&mut self) {
        if let Some(link) = &mut self.link {
            link.set_settings(&self.settings);
        }
        self.find_search_path();
    }

    fn discarded_all(&mut self) {
        self.settings = super::Settings::default();
        self.prepared.clear();
        self.shard_setting.clear();
        self.settings_changed();
        self.settings = self.startup_settings.clone();
        self.find_search_path();
        let mode = self.mode;
        if let Some(link) = &mut self.link {
            link.forget_prepared();
            link.unpin(mode);
        }
        // What other connections hold for this session is discarded with it.
        for link in self.kept.drain(..) {
            link.clean_up(&self.worker);
        }
        self.card.pins.borrow_mut().clear();
    }

    /// The server has ended the transaction: what it changed in the session stays or goes with it.
    pub(super) fn transaction_ended(&mut self) {
        self.transaction = super::Transaction::Idle;
        let kept = !self.failed && self.outcome != Some(Committed::No);
        self.outcome = None;
        self.savepoints.clear();
        self.portals.clear();
        self.batch.close_portals();
        self.shard_setting.transaction_ended(kept);
        if kept {
            self.settled = self.settings.clone();
            if std::mem::take(&mut self.schema_changed) {
                let shared = &self.worker.shared;
                // With one shard there is nothing that new definitions could decide: they are read in due time.
                if self.has_one_shard() {
                    shared.definitions_changed();
                } else {
                    self.catalog_follows = Some(shared.schema_changed(&self.database.name));
                }
            }
        } else {
            self.schema_changed = false;
            if !self.settings.is_same(&self.settled) {
                self.settings = self.settled.clone();
                let failed = self.failed;
                if let Some(link) = &mut self.link {
                    link.set_settings(&self.settled);
                    if failed {
                        // Of several statements in one message some may have been committed on their own.
                        link.suspect();
                    }
                }
            }
        }
        if self.local_search_path || !kept {
            self.find_search_path();
        }
    }

    /// A transaction that no server knew of has ended.
    pub(super) fn begun_ended(&mut self, committed: Committed) {
        self.outcome = Some(committed);
        self.failed = false;
        self.transaction_ended();
    }

    /// Sends a Parse of the client on the current connection, or answers it when the connection has the statement.
    pub(super) fn send_parse(
        &mut self,
        statement: Rc<Statement>,
        naming: Naming,
        name: Option<Box<[u8]>>,
    ) {
        let Some(link) = &mut self.link else { return };
        let known = naming == Naming::Named && link.has(&statement, naming);
        // A failed transaction accepts no Parse: the server says so, also of a statement that it has.
        let judged = known && link.status() == crate::wire::answer::TransactionStatus::Failed;
        let sent = if known { Sent::No } else { Sent::Yes };
        let token = self.remember(Effect::Parsed {
            statement: Rc::clone(&statement),
            name,
            sent,
        });
        match sent {
            Sent::No if judged => {
                self.push_parse(&statement, Naming::Unnamed, Fate::Forward, token)
            }
            Sent::No => {
                let mut bytes = Vec::with_capacity(5);
                crate::wire::answer::parse_complete(&mut bytes);
                if let Some(link) = &mut self.link {
                    link.answer_for(bytes, token);
                }
            }
            Sent::Yes => self.push_parse(&statement, naming, Fate::Forward, token),
        }
    }

    /// Makes sure that the current connection has the statement; the client is not told.
    pub(super) fn ensure_parsed(&mut self, statement: &Rc<Statement>, naming: Naming) {
        if self
            .link
            .as_mut()
            .is_some_and(|link| link.has(statement, naming))
        {
            return;
        }
        let token = self.remember(Effect::Injected(Rc::clone(statement)));
        self.push_parse(statement, naming, Fate::Swallow, token);
    }

    fn push_parse(&mut self, statement: &Rc<Statement>, naming: Naming, fate: Fate, token: Token) {
        let evicted = self
            .link
            .as_mut()
            .and_then(|link| link.make_room(statement.id, naming));
        if let Some(id) = evicted {
            let token = self.remember(Effect::Evicted(id));
            if let Some(link) = &mut self.link {
                link.close_statement(id, token);
            }
        }
        if let Some(link) = &mut self.link {
            link.parse(statement, naming, fate, token);
        }
    }
}

/// The settings that SET SESSION CHARACTERISTICS AS TRANSACTION stands for.
fn characteristics(modes: &str) -> Vec<(&'static str, String)> {
    let modes = modes.to_ascii_lowercase().replace(',', " ");
    let words: Vec<&str> = modes.split_ascii_whitespace().collect();
    let mut settings = Vec::new();
    let mut rest = &words[..];
    while let [first, after @ ..] = rest {
        rest = after;
        match (*first, after) {
            ("read", [mode, after @ ..]) => {
                settings.push((
                    "default_transaction_read_only",
                    if *mode == "only" { "on" } else { "off" }.to_owned(),
                ));
                rest = after;
            }
            ("level", [first @ ("read" | "repeatable"), second, after @ ..]) => {
                settings.push((
                    "default_transaction_isolation",
                    format!("'{first} {second}'"),
                ));
                rest = after;
            }
            ("level", [level, after @ ..]) => {
                settings.push(("default_transaction_isolation", format!("'{level}'")));
                rest = after;
            }
            ("not", [_, after @ ..]) => {
                settings.push(("default_transaction_deferrable", "off".to_owned()));
                rest = after;
            }
            ("deferrable", _) => settings.push(("default_transaction_deferrable", "on".to_owned())),
            _ => {}
        }
    }
    settings
}

/// A value as a string literal. A backslash means itself: `standard_conforming_strings` is on.
pub(super) fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_characteristics_are_settings() {
        let found = characteristics("ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE");
        let expected = [
            ("default_transaction_isolation", "'repeatable read'"),
            ("default_transaction_read_only", "on"),
            ("default_transaction_deferrable", "off"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name, value.to_owned()))
        );
        assert_eq!(
            characteristics("isolation level serializable,deferrable").len(),
            2
        );
    }
}
