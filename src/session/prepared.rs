//! PREPARE, EXECUTE and DEALLOCATE in SQL: names are the session's, statements are shared, and servers know them by names of ours.
//!
//! A message that speaks of prepared statements is sent with their names replaced. What a server has to hold first is prepared in
//! the same write, unseen by the client. In session pooling with one shard a server's names are its client's own, so only the names that came
//! by way of Parse are replaced.

use std::ops::Range;
use std::rc::Rc;

use super::Session;
use super::effects::{Change, Effect, Looking, Sent, left_behind};
use super::link::{Link, Naming, Phase};
use super::respond::Fault;
use super::route::Destination;
use super::shape::{Difference, Shape};
use super::spread::prepared::Executed;
use super::statement::{Meaning, Prepare, Statement, StatementPlan};
use super::transaction::Transaction;
use crate::backend::again;
use crate::backend::pipeline::{Fate, Request, Token};
use crate::backend::position::Shift;
use crate::backend::prepared::NAME;
use crate::config::PoolMode;
use crate::execution::relay::{Broken, Reading};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{
    Bound, Checkable, Parameters, Plan, Planned, PlannedStatement, Target, Values, bind,
};
use crate::sharding::ShardId;
use crate::sql::class::{Argument, Class, Discard, Executes, Named};
use crate::wire::answer;
use crate::wire::message;

/// A query of the client's whose server may have to prepare something for it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    #[default]
    Nothing,
    /// When that fails the query is skipped, and the server waits for a Sync that the client will not send.
    Preparation,
}

/// A message under the names that servers know.
struct Rewritten {
    text: Vec<u8>,
    shift: Shift,
    /// What the server must hold first.
    needed: Vec<Rc<Statement>>,
    changes: Vec<Change>,
    /// What each EXECUTE means, by its place.
    resolved: Vec<(usize, Rc<Statement>)>,
}

/// A portal that was bound to a statement whose result is not what the client knows: it must be described before it is executed.
pub struct Untold {
    pub portal: Box<[u8]>,
    pub stale: Rc<Statement>,
    pub renewed: Rc<Statement>,
}

/// Which statement of a message: among all, and among those that are answered.
#[derive(Clone, Copy)]
struct At {
    place: usize,
    ordinal: usize,
}

/// A message on its way to be a [`Rewritten`].
#[derive(Default)]
struct Renaming {
    /// Names in the order of the text, and what stands for them.
    edits: Vec<(Range<usize>, Rc<Statement>)>,
    /// What the message itself prepares and deallocates, the last word on a name last.
    names: Vec<(Box<str>, Option<Rc<Statement>>)>,
    session_names: SessionNames,
    needed: Vec<Rc<Statement>>,
    changes: Vec<Change>,
    resolved: Vec<(usize, Rc<Statement>)>,
}

/// Whether the names that the session had before the message still count.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum SessionNames {
    #[default]
    Count,
    Forgotten,
}

impl Renaming {
    fn find(&self, session: &Session, name: &str) -> Option<Rc<Statement>> {
        let own = self.names.iter().rev().find(|(known, _)| **known == *name);
        match (own, self.session_names) {
            (Some((_, statement)), _) => statement.clone(),
            (None, SessionNames::Forgotten) => None,
            (None, SessionNames::Count) => session.named(name),
        }
    }

    fn prepare(&mut self, at: At, name: &Named, statement: Rc<Statement>) {
        self.edits.push((name.range.clone(), Rc::clone(&statement)));
        self.names
            .push((name.name.clone(), Some(Rc::clone(&statement))));
        self.changes.push(Change::Prepared {
            ordinal: at.ordinal,
            name: Box::from(name.name.as_bytes()),
            statement,
        });
    }

    /// EXECUTE or DEALLOCATE.
    fn use_of(
        &mut self,
        at: At,
        planned: &PlannedStatement,
        name: &Named,
        statement: Rc<Statement>,
    ) {
        let is_it = |known: &Option<Rc<Statement>>| {
            known.as_ref().is_some_and(|known| known.id == statement.id)
        };
        if !self.names.iter().any(|(_, known)| is_it(known)) {
            self.needed.push(Rc::clone(&statement));
        }
        if matches!(planned.class, Class::Deallocate(_)) {
            self.names.push((name.name.clone(), None));
            self.changes.push(Change::Deallocated {
                ordinal: at.ordinal,
                name: Box::from(name.name.as_bytes()),
                id: statement.id,
            });
        } else {
            self.resolved.push((at.place, Rc::clone(&statement)));
        }
        self.edits.push((name.range.clone(), statement));
    }

    fn forget_all(&mut self) {
        self.names.clear();
        self.session_names = SessionNames::Forgotten;
    }

    fn finish(self, text: &[u8]) -> Rewritten {
        let replaced = self
            .edits
            .iter()
            .map(|(range, statement)| (range.clone(), statement.server_name.len()));
        let shift = Shift::new(text, 0, replaced);
        let mut rewritten = Vec::with_capacity(text.len() + 16 * self.edits.len());
        let mut copied = 0;
        for (range, statement) in self.edits {
            rewritten.extend_from_slice(&text[copied..range.start]);
            rewritten.extend_from_slice(&statement.server_name);
            copied = range.end;
        }
        rewritten.extend_from_slice(&text[copied..]);
        Rewritten {
            text: rewritten,
            shift,
            needed: self.needed,
            changes: self.changes,
            resolved: self.resolved,
        }
    }
}

/// Whether a message needs its names replaced.
pub fn speaks_of_prepared(planned: &Planned) -> bool {
    planned.statements.iter().any(|statement| {
        matches!(
            statement.class,
            Class::Prepare { .. } | Class::Execute { .. } | Class::Deallocate(_)
        )
    })
}

impl Fault {
    pub(super) fn statement_exists(name: &[u8]) -> Fault {
        Fault::Postgres {
            sqlstate: "42P05",
            message: format!(
                "prepared statement \"{}\" already exists",
                String::from_utf8_lossy(name)
            ),
        }
    }

    pub(super) fn execute(message: &str) -> Fault {
        Fault::Refused(Refusal::new(Reason::Execute, message))
    }

    pub(super) fn no_statement(name: &[u8]) -> Fault {
        Fault::Postgres {
            sqlstate: "26000",
            message: format!(
                "prepared statement \"{}\" does not exist",
                String::from_utf8_lossy(name)
            ),
        }
    }
}

impl Session {
    /// PREPARE's names are the session's, not its server's. Of several servers none knows what the others prepared.
    pub(super) fn owns_names(&self) -> bool {
        self.mode != PoolMode::Session || !self.has_one_shard()
    }

    /// The statement that EXECUTE means at this place of the message at hand.
    pub(super) fn executed_at(&self, place: usize, named: &Named) -> Option<Rc<Statement>> {
        match &self.resolved {
            None => self.named(&named.name),
            Some(resolved) => resolved
                .iter()
                .find(|(at, _)| *at == place)
                .map(|(_, statement)| Rc::clone(statement)),
        }
    }

    fn named(&self, name: &str) -> Option<Rc<Statement>> {
        let known = self.prepared.get(name.as_bytes())?;
        Some(self.in_scope(Rc::clone(known)))
    }

    /// The statement as this session's settings have it read.
    pub(super) fn in_scope(&self, statement: Rc<Statement>) -> Rc<Statement> {
        if Rc::ptr_eq(&statement.scope, &self.scope) {
            return statement;
        }
        let mut statements = self.worker.statements.borrow_mut();
        statements.under(&statement, &self.meaning())
    }

    /// Where each EXECUTE of a message goes, by its place; those without a statement are left out.
    pub(super) fn bounds_of_executes(
        &mut self,
        planned: &Planned,
    ) -> Result<Vec<(usize, Bound)>, Fault> {
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        let chosen = self.own_settings.shard(&catalog).map_err(Fault::Refused)?;
        let mut bounds = Vec::new();
        for (place, one) in planned.statements.iter().enumerate() {
            let Class::Execute {
                name, arguments, ..
            } = &one.class
            else {
                continue;
            };
            let Some(statement) = self.executed_at(place, name) else {
                continue;
            };
            self.check_executed_statement(&statement)?;
            // A hint, or the only shard, has decided already.
            if matches!(one.plan, Ok(Plan::Relay(Target::Any))) {
                let bound = self.bound_of_execute(&statement, arguments, chosen)?;
                bounds.push((place, bound));
            }
        }
        Ok(bounds)
    }

    /// Whether EXECUTE may run it: what changes the session otherwise would not be seen.
    fn check_executed_statement(&mut self, statement: &Statement) -> Result<(), Fault> {
        let plan = self.plan_statement(statement)?;
        for one in &plan.planned.statements {
            if !matches!(
                one.class,
                Class::Data | Class::Prepare { .. } | Class::Empty
            ) {
                return Err(Fault::execute(
                    "EXECUTE of a statement that neither reads nor writes rows",
                ));
            }
            self.check_pin(left_behind(&one.leaves))?;
        }
        Ok(())
    }

    /// Where EXECUTE goes: where its statement goes with these arguments.
    fn bound_of_execute(
        &mut self,
        statement: &Statement,
        arguments: &[Argument],
        chosen: Option<ShardId>,
    ) -> Result<Bound, Fault> {
        let StatementPlan {
            planned, literals, ..
        } = self.plan_statement(statement)?;
        let [one] = &planned.statements[..] else {
            return Ok(Bound::Any);
        };
        let target = match (&one.plan, chosen) {
            (_, Some(shard)) => return Ok(Bound::Shard(shard)),
            (Ok(Plan::Relay(target)), None) => target,
            (Ok(Plan::Session), None) => return Ok(Bound::Any),
            (Err(refusal), None) => return Err(Fault::Refused(refusal.clone())),
        };
        let values = Values {
            text: statement.text(),
            literals: &literals,
            parameters: &Parameters::written(arguments, &statement.types),
            passage: self.passage(),
        };
        let catalog = std::sync::Arc::clone(&self.database.catalog());
        match bind(target, &catalog, &values) {
            Err(refusal)
                if refusal.id == Reason::ParameterMissing.kind().id
                    && arguments.contains(&Argument::Unknown) =>
            {
                Err(Fault::execute(
                    "an argument of EXECUTE that decides the shard is not a literal",
                ))
            }
            bound => bound.map_err(Fault::of),
        }
    }

    /// A simple query that speaks of prepared statements.
    pub(super) async fn prepared_query(
        &mut self,
        planned: &Rc<Planned>,
        text: &[u8],
    ) -> Result<(), Fault> {
        let done = self.prepare_and_run(planned, text).await;
        self.resolved = None;
        done
    }

    async fn prepare_and_run(&mut self, planned: &Rc<Planned>, text: &[u8]) -> Result<(), Fault> {
        for one in &planned.statements {
            self.check_arguments(one, text)?;
        }
        let mut told = planned
            .statements
            .iter()
            .filter(|statement| statement.class != Class::Empty);
        let alone = match (told.next(), told.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
        if let Some(one) = alone
            && let Some(tag) = self.answer_alone(one, text)?
        {
            let mut bytes = Vec::new();
            answer::command_complete(&mut bytes, tag);
            return self.answer_query(bytes);
        }
        if let Some(one) = alone
            && self.execute_on_several(one, text).await? == Executed::Yes
        {
            return Ok(());
        }
        let rewritten = self.rewrite(planned, text, alone.is_some())?;
        let planned = &self.as_executed(planned)?;
        let destination = match self.destination_of_query(planned, text)? {
            // Any server can say whether it can be prepared that has its tables.
            Some(Destination::Several) => match alone {
                Some(one) if matches!(one.class, Class::Prepare { .. }) => {
                    Some(match one.checkable() {
                        Checkable::Shard(shard) => Destination::Shard(shard),
                        Checkable::Anywhere | Checkable::Nowhere => Destination::Any,
                    })
                }
                _ => Some(Destination::Several),
            },
            destination => destination,
        };
        let phase = match alone.map(|one| &one.class) {
            Some(Class::Prepare { .. }) if self.owns_names() => Phase::Metadata,
            _ => Phase::Working,
        };
        let destination = match destination {
            Some(Destination::Shard(_)) if phase == Phase::Metadata && self.link.is_some() => {
                Destination::Any
            }
            destination => destination.unwrap_or(Destination::Any),
        };
        self.will_run(planned);
        self.seek(planned);
        self.attach(destination, phase).await?;
        if phase == Phase::Metadata
            && let Some(one) = alone
            && let Some(tag) = self.answer_alone(one, text)?
        {
            // Another client's was accepted while this one waited, perhaps on this very connection.
            if self.link.as_ref().is_some_and(Link::is_metadata) {
                self.leave_metadata().await?;
            }
            let mut bytes = Vec::new();
            answer::command_complete(&mut bytes, tag);
            return self.answer_query(bytes);
        }
        self.check_last_values()?;
        match self.hold_all(&rewritten.needed).await {
            Ok(()) => self.send_rewritten(planned, rewritten),
            // The error is the answer, but for its end.
            Err(Fault::Told) => {
                if std::mem::take(&mut self.behind) == Behind::Preparation
                    && let Some(link) = &mut self.link
                {
                    link.sync(Fate::Forward);
                }
            }
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// The message with each EXECUTE doing what it executes, where that may be done on a replica.
    fn as_executed(&mut self, planned: &Rc<Planned>) -> Result<Rc<Planned>, Fault> {
        if !self.lets_reads_go(planned) {
            return Ok(Rc::clone(planned));
        }
        // Those of the message, which is still to be bound.
        let literals = std::mem::take(&mut self.literals);
        let statements = self.executing(planned);
        self.literals = literals;
        Ok(Rc::new(Planned {
            statements: statements?,
        }))
    }

    fn executing(&mut self, planned: &Planned) -> Result<Vec<PlannedStatement>, Fault> {
        let mut statements = planned.statements.clone();
        for (place, one) in statements.iter_mut().enumerate() {
            if let Class::Execute {
                name,
                executes: Executes::Plainly,
                ..
            } = &one.class
                && let Some(statement) = self.executed_at(place, name)
            {
                *one = one.running(&self.plan_statement(&statement)?.planned);
            }
        }
        Ok(statements)
    }

    /// Makes sure of what the statements of a query execute.
    async fn hold_all(&mut self, needed: &[Rc<Statement>]) -> Result<(), Fault> {
        let unit_before = self.link.as_ref().is_some_and(|link| link.is_in_unit());
        for statement in needed {
            let effects = self.effects.len();
            let waits =
                self.must_look(statement, Naming::Named) || self.waits_for_replica(statement);
            if !unit_before && waits {
                self.behind = Behind::Preparation;
            }
            if waits && self.hold_now(statement, Naming::Named).await? != Difference::None {
                return Err(Fault::StalePlan);
            }
            self.ensure_parsed(statement, Naming::Named);
            if !statement.has_shape() && self.effects.len() == effects {
                // PREPARE has brought it here: this is the first that is heard of its result.
                self.look(statement, Naming::Named, Looking::Parsed(None));
            }
            if !unit_before && self.effects.len() > effects {
                self.behind = Behind::Preparation;
            }
        }
        Ok(())
    }

    fn send_rewritten(&mut self, planned: &Rc<Planned>, rewritten: Rewritten) {
        let unit_before = self.link.as_ref().is_some_and(|link| link.is_in_unit());
        let effects = self.effects.len();
        self.trim();
        if !unit_before && self.effects.len() > effects {
            self.behind = Behind::Preparation;
        }
        let token = self.note_with(planned, rewritten.changes);
        let mut frame = Vec::with_capacity(rewritten.text.len() + 6);
        message::encode_query(&rewritten.text, &mut frame);
        if let Some(link) = &mut self.link {
            link.forget_unnamed();
            link.send_shifted(&frame, Request::Query, token, &rewritten.shift);
        }
    }

    /// What a statement that stands alone needs no server for: the tag of its answer.
    fn answer_alone(
        &mut self,
        planned: &PlannedStatement,
        text: &[u8],
    ) -> Result<Option<&'static str>, Fault> {
        match &planned.class {
            Class::Deallocate(None) if self.owns_names() => {
                self.prepared.clear();
                Ok(Some("DEALLOCATE ALL"))
            }
            Class::Deallocate(Some(name)) => {
                let known = self.prepared.remove(name.name.as_bytes());
                Ok(known.map(|_| "DEALLOCATE"))
            }
            Class::Prepare { name, .. } if self.owns_names() => {
                self.check_name(name.name.as_bytes())?;
                let statement = self.shared_statement(planned, text);
                if !statement.accepted.get() || planned.plan.is_err() && planned.spread.is_none() {
                    return Ok(None);
                }
                self.prepared
                    .insert(Box::from(name.name.as_bytes()), statement);
                Ok(Some("PREPARE"))
            }
            _ => Ok(None),
        }
    }

    /// The one copy of the statement of this PREPARE.
    fn shared_statement(&self, planned: &PlannedStatement, text: &[u8]) -> Rc<Statement> {
        let mut statements = self.worker.statements.borrow_mut();
        let prepare = prepare_of(planned, text, &self.literals);
        if self.sees_own_definitions() {
            statements.own_prepared(&prepare, &self.meaning())
        } else {
            statements.prepared(&prepare, &self.meaning())
        }
    }

    fn rewrite(&mut self, planned: &Planned, text: &[u8], alone: bool) -> Result<Rewritten, Fault> {
        let mut renaming = Renaming::default();
        let mut ordinal = 0;
        for (place, one) in planned.statements.iter().enumerate() {
            let at = At { place, ordinal };
            match &one.class {
                Class::Empty => continue,
                Class::Prepare { name, .. } if self.owns_names() => {
                    if renaming.find(self, &name.name).is_some() {
                        return Err(Fault::statement_exists(name.name.as_bytes()));
                    }
                    self.check_number()?;
                    // What others share may be on the server already, and then PREPARE would fail.
                    let statement = if alone {
                        self.shared_statement(one, text)
                    } else {
                        let prepare = prepare_of(one, text, &self.literals);
                        let mut statements = self.worker.statements.borrow_mut();
                        statements.own_prepared(&prepare, &self.meaning())
                    };
                    renaming.prepare(at, name, statement);
                }
                Class::Execute { name, .. } | Class::Deallocate(Some(name)) => {
                    match renaming.find(self, &name.name) {
                        Some(statement) => renaming.use_of(at, one, name, statement),
                        // A server says that there is none, unless it is another client's.
                        None if name.name.starts_with(NAME) && self.owns_names() => {
                            return Err(Fault::no_statement(name.name.as_bytes()));
                        }
                        None => {}
                    }
                }
                Class::Deallocate(None) | Class::Discard(Discard::All) => renaming.forget_all(),
                _ => {}
            }
            ordinal += 1;
        }
        let rewritten = renaming.finish(text);
        self.resolved = Some(rewritten.resolved.clone());
        Ok(rewritten)
    }

    /// PREPARE in the extended protocol.
    pub(super) async fn execute_prepare(
        &mut self,
        statement: &Statement,
        plan: &StatementPlan,
    ) -> Result<(), Fault> {
        let Some(one) = plan.planned.statements.first() else {
            return Ok(());
        };
        let Class::Prepare { name, .. } = &one.class else {
            return Ok(());
        };
        self.check_not_aborted()?;
        let name: Box<[u8]> = Box::from(name.name.as_bytes());
        self.check_name(&name)?;
        let prepare = prepare_of(one, statement.text(), &plan.literals);
        let start = Planned::range_of(one, &plan.literals).start;
        let place = start + prepare.name.start..start + prepare.name.end;
        let shared = {
            let mut statements = self.worker.statements.borrow_mut();
            if self.sees_own_definitions() {
                statements.own_prepared(&prepare, &self.meaning())
            } else {
                statements.prepared(&prepare, &self.meaning())
            }
        };
        if !shared.accepted.get() {
            let replaced = [(place, shared.server_name.len())];
            let shift = Shift::new(statement.text(), start, replaced);
            let destination = self.describing(&plan.planned);
            self.attach(destination, Phase::Metadata).await?;
            let owed = self.owed();
            self.ensure_parsed(&shared, Naming::Named);
            if let Some(link) = &mut self.link {
                link.server().pipeline.shift(owed, &shift);
            }
        }
        self.prepared.insert(name.clone(), Rc::clone(&shared));
        let effect = Effect::Parsed {
            statement: shared,
            name: Some(name),
            before: None,
            sent: Sent::No,
        };
        self.answer_with("PREPARE", effect);
        Ok(())
    }

    /// DEALLOCATE in the extended protocol, of a name that the session has, or of all.
    pub(super) fn execute_deallocate(&mut self, name: Option<&Named>) -> Result<(), Fault> {
        self.check_not_aborted()?;
        match name {
            None => {
                let all = std::mem::take(&mut self.prepared);
                self.answer_with("DEALLOCATE ALL", Effect::ClosedAll(all));
            }
            Some(name) => {
                let name = name.name.as_bytes();
                let statement = self
                    .prepared
                    .remove(name)
                    .ok_or_else(|| Fault::no_statement(name))?;
                let effect = Effect::Closed {
                    statement,
                    name: Some(Box::from(name)),
                };
                self.answer_with("DEALLOCATE", effect);
            }
        }
        Ok(())
    }

    /// A tag in its place among a server's answers; when an error comes before it, the effect is undone.
    fn answer_with(&mut self, tag: &str, effect: Effect) {
        let mut bytes = Vec::new();
        answer::command_complete(&mut bytes, tag);
        self.answer_undoable(bytes, effect);
    }

    pub(super) fn answer_undoable(&mut self, bytes: Vec<u8>, effect: Effect) {
        if self.link.is_none() {
            return self.answer(bytes);
        }
        let token = self.remember(effect);
        if let Some(link) = &mut self.link {
            link.answer_for(bytes, token);
        }
    }
}

impl Session {
    /// A prepared statement's result is no longer what it was: the unit of work is sent once more with the statement made anew.
    /// When that cannot be done it fails again, and the client hears of it.
    pub(super) fn ask_again(&mut self) {
        let Some(link) = &mut self.link else { return };
        self.worker.shared.definitions_changed();
        let sent = link.server().last_sent().to_vec();
        let name = again::first_use(&sent).unwrap_or_default();
        let stale = self
            .prepared
            .values()
            .find(|known| *known.server_name == *name);
        let Some(stale) = stale.map(Rc::clone) else {
            return link.push(&again::renamed(&sent, name, name));
        };
        let renewed = self.renewed(&stale);
        self.renew(&stale, &renewed);
        let token = self.remember(Effect::Injected(Rc::clone(&renewed)));
        let look = self.remember(Effect::Looked {
            statement: Rc::clone(&renewed),
            looking: Looking::Parsed(None),
        });
        if let Some(link) = &mut self.link {
            link.ask_again(&stale, &renewed, token, look);
            link.push(&again::renamed(
                &sent,
                &stale.server_name,
                &renewed.server_name,
            ));
        }
    }

    /// The statement as whoever prepares it now gets it.
    pub(super) fn renewed(&self, stale: &Rc<Statement>) -> Rc<Statement> {
        let mut statements = self.worker.statements.borrow_mut();
        statements.retire(stale);
        statements.anew(stale, &self.meaning())
    }

    /// The client has this one instead of the other.
    pub(super) fn renew(&mut self, stale: &Rc<Statement>, renewed: &Rc<Statement>) {
        let known = self.prepared.values_mut().chain(&mut self.unnamed);
        for statement in known.filter(|known| Rc::ptr_eq(known, stale)) {
            *statement = Rc::clone(renewed);
        }
    }
}

impl Session {
    /// The current connection has not the statement, and what the client knows of it must be found to hold there.
    pub(super) fn must_look(&mut self, statement: &Statement, naming: Naming) -> bool {
        let here = |link: &mut Link| link.has(statement, naming);
        statement.has_shape() && !self.link.as_mut().is_some_and(here)
    }

    /// Makes sure that the current connection has the statement, if need be with a wait for its description there: nothing may run
    /// before that is known to be what the client was told.
    pub(super) async fn hold(
        &mut self,
        statement: &Rc<Statement>,
        naming: Naming,
    ) -> Result<Difference, Fault> {
        if !self.must_look(statement, naming) {
            return Ok(Difference::None);
        }
        self.hold_now(statement, naming).await
    }

    /// A replica may go while a query runs there. Another one is asked the same when nothing but the query was sent.
    fn waits_for_replica(&mut self, statement: &Statement) -> bool {
        self.link
            .as_mut()
            .is_some_and(|link| link.is_replica() && !link.has(statement, Naming::Named))
    }

    async fn hold_now(
        &mut self,
        statement: &Rc<Statement>,
        naming: Naming,
    ) -> Result<Difference, Fault> {
        self.looked = None;
        let first = self.effects.len();
        let is_fresh = self.transaction == Transaction::Idle
            && self.link.as_ref().is_some_and(|link| !link.is_in_unit());
        // One of another result may be there under this name.
        self.close_at_server(statement, naming);
        self.inject(statement, naming, Looking::Waited);
        let token = self.effects.len() - 1;
        if let Some(link) = &mut self.link {
            link.flush();
        }
        while matches!(self.effects.get(token), Some(Effect::Looked { .. })) {
            match std::future::poll_fn(|cx| self.poll_relay(cx, Reading::Enough)).await {
                Ok(_) => {}
                Err(Broken::Server(error)) if is_fresh && self.attempts.may_go_on() => {
                    self.attach_anew(&error, first).await?;
                    return Box::pin(self.hold(statement, naming)).await;
                }
                // The next step of the session finds the same.
                Err(_) => return Err(Fault::Told),
            }
            let _ = self.settle();
        }
        if is_fresh && let Some(link) = &mut self.link {
            link.server().begins();
        }
        // Without an answer the client has been told why.
        let difference = self.looked.take().ok_or(Fault::Told)?;
        if difference != Difference::None {
            self.not_as_told(statement);
            self.close_at_server(statement, naming);
        }
        Ok(difference)
    }

    fn owed(&mut self) -> usize {
        let owed = |link: &mut Link| link.server().pipeline.owed();
        self.link.as_mut().map_or(0, owed)
    }

    fn close_at_server(&mut self, statement: &Statement, naming: Naming) {
        if let (Naming::Named, Some(link)) = (naming, &mut self.link) {
            link.close_statement(statement);
        }
    }

    /// Asks what a statement takes and returns.
    pub(super) fn look(&mut self, statement: &Rc<Statement>, naming: Naming, looking: Looking) {
        if looking != Looking::Waited && !statement.is_watched() {
            return;
        }
        let token = self.remember(Effect::Looked {
            statement: Rc::clone(statement),
            looking,
        });
        if let Some(link) = &mut self.link {
            link.describe(statement, naming, Fate::Swallow, Some(token));
        }
    }

    /// A server has described a statement.
    pub(super) fn described(&mut self, token: Token, parameters: &[u8], columns: Option<&[u8]>) {
        let (Some(Effect::Looked { statement, looking }), Some(link)) =
            (self.effects.get(token.0 as usize), &self.link)
        else {
            return;
        };
        // One that is too long is not compared.
        let difference = Shape::read(link.shard(), parameters, columns)
            .map_or(Difference::None, |shape| statement.described(shape));
        let (statement, looking) = (Rc::clone(statement), looking.clone());
        match looking {
            Looking::Waited => self.looked = Some(difference),
            Looking::Parsed(_) if difference == Difference::None => {}
            Looking::Parsed(name) => {
                self.not_as_told(&statement);
                // The client who has just parsed it has been told nothing else.
                if let Some(known) = name.and_then(|name| self.prepared.get_mut(&name))
                    && Rc::ptr_eq(known, &statement)
                {
                    let mut statements = self.worker.statements.borrow_mut();
                    let meaning = Meaning {
                        definitions: self.worker.shared.definitions(),
                        scope: Rc::clone(&self.scope),
                    };
                    *known = statements.anew(&statement, &meaning);
                    known.accepted.set(true);
                }
            }
        }
    }

    /// The current connection has it with another result than clients know: nobody may take it for the same.
    fn not_as_told(&mut self, statement: &Rc<Statement>) {
        self.worker.shared.definitions_changed();
        self.worker.statements.borrow_mut().retire(statement);
        if let Some(link) = &mut self.link {
            link.forget(statement.id);
        }
    }
}

/// PREPARE in the message's text, with the place of its name.
fn prepare_of<'a>(
    planned: &'a PlannedStatement,
    text: &'a [u8],
    literals: &[crate::sql::normalise::Literal],
) -> Prepare<'a> {
    let whole = Planned::range_of(planned, literals);
    let (name, types) = match &planned.class {
        Class::Prepare { name, types, .. } => (name.range.clone(), &types[..]),
        _ => (whole.start..whole.start, &[][..]),
    };
    Prepare {
        text: &text[whole.clone()],
        name: name.start - whole.start..name.end - whole.start,
        types,
    }
}
