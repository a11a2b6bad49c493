//! What a request changes in the session once its server has done it; undone when it has not.

use std::rc::Rc;

use hashbrown::HashMap;

use super::link::{Link, Naming};
use super::own_settings::OwnSettings;
use super::parse_scope;
use super::pin::Pin;
use super::respond::Fault;
use super::search_path;
use super::statement::Statement;
use super::transaction::{Opener, Prologue};
use super::worker::add;
use super::{Savepoint, Session};
use crate::backend::pipeline::{Committed, Fate, Reached, Telling, Token};
use crate::backend::prepared::StatementId;
use crate::backend::settings;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Plan, Planned, PlannedStatement};
use crate::sql::class::{
    Class, ConfigCall, ConfigValue, Ddl, Discard, Executes, Hold, Scope, SetValue,
};
use crate::sql::facts::Leaves;

/// Settings that belong to one transaction, whatever the scope of the SET.
const OF_THE_TRANSACTION: [&str; 3] = [
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
];

/// Remembered under a token until the server has answered.
pub enum Effect {
    /// Dealt with.
    Settled,
    /// A client's Parse, or PREPARE; its name when it has one, else the unnamed statement before it.
    Parsed {
        statement: Rc<Statement>,
        name: Option<Box<[u8]>>,
        before: Option<Rc<Statement>>,
        sent: Sent,
    },
    /// A client's Close of a statement that it had, or DEALLOCATE; the unnamed one has no name.
    Closed {
        statement: Rc<Statement>,
        name: Option<Box<[u8]>>,
    },
    /// DEALLOCATE ALL of these.
    ClosedAll(HashMap<Box<[u8]>, Rc<Statement>>),
    /// SET or RESET of a setting of ours, with what was set before.
    ShardSet(OwnSettings),
    /// A Parse of ours.
    Injected(Rc<Statement>),
    /// Somebody asked what the statement takes and returns.
    Looked {
        statement: Rc<Statement>,
        looking: Looking,
    },
    /// The client is told that this statement is what it has instead of the other, whose result is no longer what it was.
    Renewed {
        stale: Rc<Statement>,
        renewed: Rc<Statement>,
    },
    /// A Close of ours, to make room for another: its weight.
    Evicted(StatementId, usize),
    /// The statements of a simple query, or the one of an Execute.
    Statements(Rc<Planned>, Vec<Change>),
}

impl Effect {
    /// A transaction block is committed by it.
    pub(super) fn commits(&self) -> bool {
        let Effect::Statements(planned, _) = self else {
            return false;
        };
        let mut statements = planned.statements.iter();
        statements.any(|statement| matches!(statement.class, Class::Commit { .. }))
    }
}

/// Why a server is asked what a statement takes and returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looking {
    /// It has just been parsed there; by the client, when there is a name of the client's.
    Parsed(Option<Box<[u8]>>),
    /// The session waits for the answer.
    Waited,
}

/// What one statement of a message changes in the session's prepared statements when it is done.
pub enum Change {
    Prepared {
        ordinal: usize,
        name: Box<[u8]>,
        statement: Rc<Statement>,
    },
    Deallocated {
        ordinal: usize,
        name: Box<[u8]>,
        id: StatementId,
    },
}

impl Change {
    fn ordinal(&self) -> usize {
        match self {
            Change::Prepared { ordinal, .. } | Change::Deallocated { ordinal, .. } => *ordinal,
        }
    }
}

/// A Parse on its way.
pub struct Parsing {
    pub statement: Rc<Statement>,
    pub naming: Naming,
    pub name: Option<Box<[u8]>>,
    /// The unnamed statement that it takes the place of.
    pub before: Option<Rc<Statement>>,
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
                | C::SetConfig(_)
                | C::SetTransaction
                | C::SetConstraints
                | C::Reset(_)
                | C::ResetAll
                | C::Deallocate(_)
                | C::Discard(_)
                | C::Ddl(_)
        )
    }

    /// Why the connection that ran it must stay with the session.
    pub(super) fn pin(&self) -> Option<Pin> {
        match &self.class {
            Class::Ddl(Ddl::Temporary)
            | Class::Execute {
                executes: Executes::Creating(Ddl::Temporary),
                ..
            } => return Some(Pin::TemporaryTable),
            Class::Listen(_) => return Some(Pin::Listen),
            // Its query has not run.
            Class::Prepare { .. } => return None,
            Class::Declare {
                hold: Hold::With, ..
            } => return Some(Pin::HeldCursor),
            Class::Load => return Some(Pin::Load),
            Class::SetConfig(calls) if calls.iter().any(is_unread) => return Some(Pin::SetConfig),
            _ => {}
        }
        left_behind(&self.leaves)
    }

    /// It may have ended what a connection is kept for.
    fn may_unpin(&self) -> bool {
        matches!(
            self.class,
            Class::CloseCursor(_) | Class::Ddl(_) | Class::Discard(_) | Class::Unlisten(_)
        ) || self.leaves.contains(&Leaves::AdvisoryUnlock)
    }

    /// Its query does not run.
    fn is_prepare(&self) -> bool {
        matches!(self.class, Class::Prepare { .. })
    }

    /// It may have changed its connection in ways that cannot be seen.
    fn is_opaque(&self) -> bool {
        matches!(self.class, Class::Do | Class::Call | Class::Unknown)
    }
}

/// It outlives its transaction, and its value is in a form that is not read.
fn is_unread(call: &ConfigCall) -> bool {
    call.scope == Scope::Session && matches!(call.value, ConfigValue::Param(_))
}

pub(super) fn left_behind(leaves: &[Leaves]) -> Option<Pin> {
    leaves.iter().find_map(|leaves| match leaves {
        Leaves::TemporaryTable => Some(Pin::TemporaryTable),
        Leaves::AdvisoryLock => Some(Pin::AdvisoryLock),
        Leaves::Setting => Some(Pin::SetConfig),
        Leaves::AdvisoryUnlock
        | Leaves::LocalSetting
        | Leaves::LargeObject
        | Leaves::Unseen
        | Leaves::LastValue
        | Leaves::SetsSequence
        | Leaves::Notification
        | Leaves::ExportedSnapshot => None,
    })
}

/// Why Postgres prepares no transaction with such a statement, as what follows "it".
fn unpreparable(statement: &PlannedStatement) -> Option<&'static str> {
    let leaves = |what| statement.leaves.contains(&what);
    match &statement.class {
        _ if leaves(Leaves::Notification) => Some("used LISTEN or NOTIFY"),
        _ if leaves(Leaves::ExportedSnapshot) => Some("exported a snapshot"),
        Class::Ddl(Ddl::Temporary) => Some("used temporary tables"),
        Class::Listen(_) | Class::Unlisten(_) | Class::Notify => Some("used LISTEN or NOTIFY"),
        Class::Declare {
            hold: Hold::With, ..
        } => Some("declared a cursor WITH HOLD"),
        _ => None,
    }
}

impl Session {
    /// What names and constants mean may be another thing behind these statements.
    pub(super) fn changes_scope(&self, planned: &Planned) -> bool {
        let changes = |statement: &PlannedStatement| match &statement.class {
            Class::Set { name, .. } | Class::Reset(name) => parse_scope::concerns(name),
            Class::SetConfig(calls) => calls.iter().any(|call| parse_scope::concerns(&call.name)),
            Class::ResetAll | Class::Discard(Discard::All) => true,
            Class::Commit { .. } | Class::Rollback { .. } | Class::RollbackTo(_) => {
                !self.local.is_default() || parse_scope::differ(&self.settings, &self.settled)
            }
            _ => false,
        };
        !self.has_one_shard() && planned.statements.iter().any(changes)
    }

    /// Such a statement has been sent, and it is not known what has become of it.
    pub(super) fn owes_scope(&mut self) -> bool {
        let Some(mut link) = self.link.take() else {
            return false;
        };
        let owes = self.effects.iter().zip(0..).any(|(effect, token)| {
            matches!(effect, Effect::Statements(planned, _) if self.changes_scope(planned))
                && link.server().pipeline.owes(Token(token))
        });
        self.link = Some(link);
        owes
    }

    /// In a message of several statements, names behind the end of a transaction that has set `search_path`: nobody has looked for them
    /// in the path that holds then.
    pub(super) fn check_path_behind_end(&self, planned: &Planned) -> Result<(), Fault> {
        let path = "search_path";
        let is_set =
            self.local.get(path).is_some() || self.settings.get(path) != self.settled.get(path);
        if !is_set || self.has_one_shard() {
            return Ok(());
        }
        let ends = |statement: &PlannedStatement| {
            matches!(
                statement.class,
                Class::Commit { .. } | Class::Rollback { .. } | Class::RollbackTo(_)
            )
        };
        let mut behind = planned.statements.iter().skip_while(|one| !ends(one));
        if behind.all(|one| matches!(one.plan, Ok(Plan::Session))) {
            return Ok(());
        }
        let message =
            "search_path is not known here: a transaction that has set it ends in the same message";
        Err(Fault::Refused(Refusal::new(
            Reason::SettingInBatch,
            message,
        )))
    }

    /// Takes note of statements that are about to run on the current connection; the token under which their end is told.
    pub(super) fn note(&mut self, planned: &Rc<Planned>) -> Option<Token> {
        self.note_with(planned, Vec::new())
    }

    /// Likewise, for statements that change the session's prepared statements.
    pub(super) fn note_with(
        &mut self,
        planned: &Rc<Planned>,
        changes: Vec<Change>,
    ) -> Option<Token> {
        if self.taken.is_some() {
            self.takes_elsewhere(planned);
        }
        let mut matters = !changes.is_empty();
        for (place, statement) in planned.statements.iter().enumerate() {
            if let Some(link) = &mut self.link {
                link.note(statement.effect);
                if let Some(reason) = unpreparable(statement) {
                    link.cannot_prepare(reason);
                }
            }
            if matches!(statement.class, Class::Data) && statement.leaves.is_empty() {
                continue;
            }
            matters |= statement.has_effect();
            if statement.leaves.contains(&Leaves::SetsSequence) {
                self.sets_sequence();
            }
            if let Some(reason) = statement.pin() {
                self.pin(reason);
            }
            if let Some(link) = &mut self.link {
                if statement.may_unpin() {
                    link.doubt_pins();
                }
                if statement.is_opaque() {
                    link.suspect();
                } else if statement.leaves.contains(&Leaves::Unseen) && !statement.is_prepare() {
                    link.unsettle();
                }
            }
            self.note_cursor(&statement.class);
            if let Class::Execute { name, .. } = &statement.class
                && let Some(executed) = self.executed_at(place, name)
            {
                self.note_executed(&executed);
            }
        }
        matters.then(|| self.remember(Effect::Statements(Rc::clone(planned), changes)))
    }

    /// FETCH goes where the cursor was declared.
    fn note_cursor(&mut self, class: &Class) {
        match (class, &self.link) {
            (
                Class::Declare {
                    name,
                    hold: Hold::Without,
                    ..
                },
                Some(link),
            ) => {
                let depth = self.savepoints.len();
                self.batch.declared_on(name, link.shard(), depth);
            }
            (Class::CloseCursor(Some(closing)), _) => self.batch.closed_on_shard(closing),
            _ => {}
        }
    }

    /// What the statement behind EXECUTE leaves behind.
    fn note_executed(&mut self, statement: &Statement) {
        match self.plan_statement(statement) {
            Ok(plan) => self.note_run(&plan.planned),
            // It is not known what it does.
            Err(_) => {
                if let Some(link) = &mut self.link {
                    link.suspect();
                }
            }
        }
    }

    /// Likewise, of the statement of PREPARE that runs now.
    pub(super) fn note_run(&mut self, planned: &Planned) {
        for one in &planned.statements {
            if let Some(reason) = left_behind(&one.leaves) {
                self.pin(reason);
            }
            if one.leaves.contains(&Leaves::Unseen)
                && let Some(link) = &mut self.link
            {
                link.unsettle();
            }
            if one.leaves.contains(&Leaves::SetsSequence) {
                self.sets_sequence();
            }
        }
    }

    pub(super) fn remember(&mut self, effect: Effect) -> Token {
        let token = Token(
            u32::try_from(self.effects.len()).expect("a unit of work has fewer than 2^32 requests"),
        );
        self.effects.push(effect);
        token
    }

    fn pin(&mut self, pin: Pin) {
        if let Some(link) = &mut self.link {
            link.pin(pin);
        }
        self.show_pins();
    }

    /// What SHOW CLIENTS says of the connections that the session keeps.
    pub(super) fn show_pins(&mut self) {
        let mut shown = self.card.pins.borrow_mut();
        shown.clear();
        for pin in self.kept.iter().chain(&self.link).flat_map(Link::pins) {
            if !shown.contains(&pin.name()) {
                shown.push(pin.name());
            }
        }
    }

    /// The session may have made temporary tables, whose names hide others.
    pub(super) fn has_temporary_tables(&self) -> bool {
        self.kept
            .iter()
            .chain(&self.link)
            .any(|link| link.pins().contains(&Pin::TemporaryTable))
    }

    pub(super) fn done(&mut self, token: Token, ordinal: u32, committed: Committed) {
        let Some(effect) = self.effects.get_mut(token.0 as usize) else {
            return;
        };
        match effect {
            Effect::Statements(planned, changes) => {
                let planned = Rc::clone(planned);
                let changed = changes
                    .iter()
                    .position(|change| change.ordinal() == ordinal as usize)
                    .map(|place| changes.swap_remove(place));
                if let Some(change) = changed {
                    self.prepared_changed(change);
                }
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
            Effect::Renewed { stale, renewed } => {
                let (stale, renewed) = (Rc::clone(stale), Rc::clone(renewed));
                *effect = Effect::Settled;
                self.renew(&stale, &renewed);
            }
            other => *other = Effect::Settled,
        }
    }

    /// A statement of a message has changed what is prepared on the current connection.
    fn prepared_changed(&mut self, change: Change) {
        match change {
            Change::Prepared {
                name, statement, ..
            } => {
                statement.accepted.set(true);
                if let Some(link) = &mut self.link {
                    link.now_has(statement.id, statement.weight());
                }
                self.prepared.insert(name, statement);
            }
            Change::Deallocated { name, id, .. } => {
                self.prepared.remove(&name);
                if let Some(link) = &mut self.link {
                    link.forget(id);
                }
            }
        }
    }

    /// What was thought to be done was not: it failed itself, or was skipped behind an error.
    pub(super) fn dropped(&mut self, token: Token, reached: Reached) {
        let Some(effect) = self.effects.get_mut(token.0 as usize) else {
            return;
        };
        match std::mem::replace(effect, Effect::Settled) {
            Effect::Parsed {
                statement,
                name,
                before,
                sent,
            } => {
                self.not_parsed(&statement, name, before.filter(|_| reached == Reached::No));
                if sent == Sent::Yes
                    && let Some(link) = &mut self.link
                {
                    link.forget(statement.id);
                }
            }
            Effect::Closed {
                statement,
                name: Some(name),
            } => {
                self.prepared.entry(name).or_insert(statement);
            }
            Effect::Closed {
                statement,
                name: None,
            } => {
                self.unnamed.get_or_insert(statement);
            }
            Effect::ClosedAll(all) => {
                for (name, statement) in all {
                    self.prepared.entry(name).or_insert(statement);
                }
            }
            Effect::ShardSet(before) => self.own_settings = before,
            Effect::Injected(statement) => {
                if let Some(link) = &mut self.link {
                    link.forget(statement.id);
                }
            }
            Effect::Evicted(id, weight) => {
                if let Some(link) = &mut self.link {
                    link.now_has(id, weight);
                }
            }
            Effect::Looked { .. }
            | Effect::Renewed { .. }
            | Effect::Statements(..)
            | Effect::Settled => {}
        }
    }

    /// The session does not have this statement after all; of the unnamed one, the one `before` it is still there.
    fn not_parsed(
        &mut self,
        statement: &Rc<Statement>,
        name: Option<Box<[u8]>>,
        before: Option<Rc<Statement>>,
    ) {
        let is_it = |known: &Rc<Statement>| known.is_parsed_as(statement);
        match name {
            Some(name) => {
                if self.prepared.get(&name).is_some_and(is_it) {
                    self.prepared.remove(&name);
                }
            }
            None => {
                if self.unnamed.as_ref().is_some_and(is_it) {
                    self.unnamed = before;
                }
            }
        }
    }

    pub(super) fn statement_done(&mut self, class: &Class, committed: Committed) {
        self.follow_opened(class);
        match class {
            Class::Commit { .. } | Class::Rollback { .. } => self.outcome = Some(committed),
            Class::Begin => self.outcome = None,
            Class::Savepoint(name) => self.set_savepoint(name),
            Class::RollbackTo(name) => self.back_to_savepoint(name),
            Class::Release(name) => self.release_savepoint(name),
            Class::Set { scope, name, value } => self.set_done(*scope, name, value),
            Class::SetConfig(calls) => {
                for call in calls {
                    if let Some(value) = config_value(call) {
                        self.set_done(call.scope, &call.name, &value);
                    }
                }
            }
            Class::Reset(name) => self.reset_done(name),
            Class::ResetAll => {
                self.settings.reset_all();
                self.settings_changed();
                self.settings.add(&self.startup_settings);
                self.own_settings.reset_all();
            }
            Class::Deallocate(None) => {
                self.prepared.clear();
                if let Some(link) = &mut self.link {
                    link.forget_prepared();
                }
            }
            Class::Discard(Discard::All) => self.discarded_all(),
            Class::Discard(Discard::Sequences) => self.taken = None,
            Class::Ddl(Ddl::Schema) => self.schema_changed = true,
            _ => {}
        }
    }

    /// What a connection that joins the open transaction must be told of this statement.
    fn follow_opened(&mut self, class: &Class) {
        let Some(opened) = &mut self.opened else {
            return;
        };
        let follows = match class {
            Class::Savepoint(name) => {
                opened.savepoint(name, &format!("SAVEPOINT {}", identifier(name)));
                true
            }
            // The server has done it, so there is such a savepoint.
            Class::RollbackTo(name) => opened.roll_back_to(name),
            Class::Release(name) => opened.release(name, &format!("RELEASE {}", identifier(name))),
            Class::Set { scope, name, value } => append_set(opened, *scope, name, value),
            Class::SetConfig(calls) => calls.iter().all(|call| {
                let value = config_value(call);
                value.is_some_and(|value| append_set(opened, call.scope, &call.name, &value))
            }),
            Class::SetTransaction
            | Class::SetConstraints
            | Class::Reset(_)
            | Class::ResetAll
            | Class::Discard(_) => false,
            _ => true,
        };
        if !follows {
            self.opened = None;
        }
    }

    pub(super) fn set_savepoint(&mut self, name: &str) {
        self.savepoints.push(Savepoint {
            name: Box::from(name),
            settings: self.settings.clone(),
            local: self.local.clone(),
            channels: self.channels.pending(),
        });
    }

    fn savepoint(&self, name: &str) -> Option<usize> {
        self.savepoints
            .iter()
            .rposition(|savepoint| *savepoint.name == *name)
    }

    /// The settings are again what they were at the savepoint.
    pub(super) fn back_to_savepoint(&mut self, name: &str) {
        if let Some(place) = self.savepoint(name) {
            self.savepoints.truncate(place + 1);
            let savepoint = &self.savepoints[place];
            self.settings = savepoint.settings.clone();
            self.local = savepoint.local.clone();
            self.channels.back_to(savepoint.channels);
            self.batch.back_to_savepoint(place);
            self.settings_changed();
        }
    }

    pub(super) fn release_savepoint(&mut self, name: &str) {
        if let Some(place) = self.savepoint(name) {
            self.savepoints.truncate(place);
            self.batch.release_savepoint(place);
        }
    }

    /// SET has run on the current connection.
    pub(super) fn set_done(&mut self, scope: Scope, name: &str, value: &SetValue) {
        if OF_THE_TRANSACTION.contains(&name) {
            return;
        }
        if scope == Scope::Local {
            return self.set_local(name, value);
        }
        self.local.reset(name);
        match (scope, value) {
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

    /// SET LOCAL, until the transaction ends.
    fn set_local(&mut self, name: &str, value: &SetValue) {
        if !parse_scope::concerns(name) {
            return;
        }
        let value = match value {
            SetValue::Default => self.startup_settings.get(name).unwrap_or_default(),
            SetValue::Given { source, .. } => source,
        }
        .to_owned();
        self.local.set(name, &value);
        self.find_search_path();
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

    /// SET datestyle gives one half of it and leaves the other: what came of it is known from the server's report.
    pub(super) fn adopt_date_style(&mut self) {
        let may_have_set = |effect: &Effect| matches!(effect, Effect::Statements(..));
        if !self.effects.iter().any(may_have_set) || self.settings.get("datestyle").is_none() {
            return;
        }
        let settings = &self.settings;
        let reported = self.link.as_mut().and_then(|link| {
            let server = link.server();
            // After RESET the connection has its own default, which is not what this session began with.
            let has_ours = server.settings.is_same(settings);
            server
                .reported
                .get("DateStyle")
                .filter(|_| has_ours)
                .map(literal)
        });
        if let (Some(set), Some(reported)) = (self.settings.get("datestyle"), reported)
            && set != reported
        {
            self.settings.set("datestyle", &reported);
            self.settings_changed();
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
        self.taken = None;
        self.settings = super::Settings::default();
        self.prepared.clear();
        self.unlisten_all();
        self.own_settings.clear();
        self.causal.forget();
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
        self.batch.close_cursors();
        self.show_pins();
    }

    /// The server has ended the transaction: what it changed in the session stays or goes with it.
    pub(super) fn transaction_ended(&mut self) {
        self.transaction = super::Transaction::Idle;
        self.opened = None;
        self.opener = Opener::Client;
        // One connection has ended it by itself (PREPARE TRANSACTION): the others do not stay behind.
        for link in self.party.drain(..) {
            self.card.company.disband();
            link.clean_up(&self.worker);
        }
        let kept = !self.failed && self.outcome != Some(Committed::No);
        self.outcome = None;
        self.sequences_settle();
        if let Some(taken) = &mut self.taken {
            taken.transaction_ended();
        }
        self.reported_before = None;
        self.savepoints.clear();
        self.portals.clear();
        self.untold = None;
        self.batch.transaction_ended(match kept {
            true => Committed::Yes,
            false => Committed::No,
        });
        self.own_settings.transaction_ended(kept);
        self.channels_ended(kept);
        if kept {
            if !self.settled.is_same(&self.settings) {
                self.settled = self.settings.clone();
            }
            self.made_schema = false;
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
            self.made_schema = false;
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
        if !kept || !self.local.is_default() {
            self.local = super::Settings::default();
            self.find_search_path();
        }
    }

    /// A transaction that no server knew of has ended.
    pub(super) fn begun_ended(&mut self, committed: Committed) {
        self.outcome = Some(committed);
        self.failed = false;
        self.transaction_began = None;
        self.card.company.disband();
        if let (Some(before), Committed::No) = (self.reported_before.take(), committed) {
            before.tell(&self.reported, &mut self.client.outbox);
            self.reported = before;
        }
        self.transaction_ended();
    }

    /// Sends a Parse of the client on the current connection, or answers it when the connection has the statement.
    pub(super) fn send_parse(&mut self, parsing: Parsing) {
        let Parsing {
            statement,
            naming,
            name,
            before,
        } = parsing;
        let Some(link) = &mut self.link else { return };
        let known = naming == Naming::Named && link.has(&statement, naming);
        // A failed transaction accepts no Parse: the server says so, also of a statement that it has.
        let judged = known && link.status() == crate::wire::answer::TransactionStatus::Failed;
        let sent = if known { Sent::No } else { Sent::Yes };
        // The same as before, and accepted then: that it is accepted again changes nothing.
        let telling = match &before {
            Some(before) if Rc::ptr_eq(before, &statement) && statement.accepted.get() => {
                Telling::Loss
            }
            _ => Telling::Outcome,
        };
        let token = self.remember(Effect::Parsed {
            statement: Rc::clone(&statement),
            name: name.clone(),
            before,
            sent,
        });
        match sent {
            Sent::No if judged => {
                self.push_parse(&statement, Naming::Unnamed, Fate::Forward, token, telling);
            }
            Sent::No => {
                let mut bytes = Vec::with_capacity(5);
                crate::wire::answer::parse_complete(&mut bytes);
                if let Some(link) = &mut self.link {
                    link.answer_for(bytes, token);
                }
            }
            Sent::Yes => {
                self.push_parse(&statement, naming, Fate::Forward, token, telling);
                if naming == Naming::Named {
                    self.look(&statement, naming, Looking::Parsed(name));
                }
            }
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
        self.inject(statement, naming, Looking::Parsed(None));
    }

    /// Prepares a statement on the current connection; the client is not told.
    pub(super) fn inject(&mut self, statement: &Rc<Statement>, naming: Naming, looking: Looking) {
        let token = self.remember(Effect::Injected(Rc::clone(statement)));
        self.push_parse(statement, naming, Fate::Swallow, token, Telling::Outcome);
        if naming == Naming::Named || looking == Looking::Waited {
            self.look(statement, naming, looking);
        }
    }

    fn push_parse(
        &mut self,
        statement: &Rc<Statement>,
        naming: Naming,
        fate: Fate,
        token: Token,
        telling: Telling,
    ) {
        let room = self.room;
        let evicted = match (&mut self.link, naming) {
            (Some(link), Naming::Named) => link.make_room(statement, room),
            _ => Vec::new(),
        };
        self.evict(evicted);
        add(&self.database.counters.server_parses, 1);
        if let Some(link) = &mut self.link {
            link.parse(statement, naming, fate, token, telling);
        }
    }

    /// Closes what the current connection holds beyond its room.
    pub(super) fn trim(&mut self) {
        let room = self.room;
        let excess = self.link.as_mut().map(|link| link.excess(room));
        self.evict(excess.unwrap_or_default());
    }

    fn evict(&mut self, evicted: Vec<(StatementId, usize)>) {
        for (id, weight) in evicted {
            let token = self.remember(Effect::Evicted(id, weight));
            if let Some(link) = &mut self.link {
                link.close_evicted(id, token);
            }
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

/// What SET would be given for it; `None` when it is not known.
fn config_value(call: &ConfigCall) -> Option<SetValue> {
    let (source, values) = match &call.value {
        ConfigValue::Param(_) => return None,
        ConfigValue::Null => return Some(SetValue::Default),
        ConfigValue::Text(value) if *call.name == *"search_path" => {
            let schemas = search_path::parse(value, "$user");
            (search_path::as_source(&schemas), schemas)
        }
        ConfigValue::Text(value) => (literal(value), vec![value.clone()]),
    };
    Some(SetValue::Given {
        source: source.into(),
        values,
    })
}

/// Adds a SET to what a connection that joins is told. `false`: it cannot be said again.
fn append_set(opened: &mut Prologue, scope: Scope, name: &str, value: &SetValue) -> bool {
    if OF_THE_TRANSACTION.contains(&name) || name == "session_characteristics" {
        return false;
    }
    let source = match value {
        SetValue::Default => "DEFAULT",
        SetValue::Given { source, .. } => source,
    };
    let set = settings::statement(name, source);
    let set = match scope {
        Scope::Session => set,
        Scope::Local => set.replacen("SET ", "SET LOCAL ", 1),
    };
    // "SET LOCAL SESSION AUTHORIZATION" is understood too.
    opened.append(&set);
    true
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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
