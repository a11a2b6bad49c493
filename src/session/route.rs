//! From a message to its shard: the plan of its text, and the values it is bound with.

use std::rc::Rc;

use super::Session;
use super::prepared::speaks_of_prepared;
use super::respond::Fault;
use super::spread::declare::cursor_exists;
use super::statement::{Source, Statement, StatementPlan};
use crate::catalog::Catalog;
use crate::config::PoolMode;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{
    Bound, Creates, Parameters, Passage, Placed, Plan, Planned, PlannedStatement, Spread, Target,
    Values, bind,
};
use crate::sharding::ShardId;
use crate::sql::class::{Class, Closing};

/// Where a statement goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Every shard gives the same answer.
    Any,
    Shard(ShardId),
    /// What the statement's spread says.
    Several,
}

impl Session {
    /// The plans of a simple query's text; the literals are left in `self.literals`.
    pub(super) fn plan(&mut self, text: &[u8]) -> Result<Rc<Planned>, Fault> {
        let catalog = self.database.catalog();
        self.check_text_settings(&catalog)?;
        let only_one = catalog.shards.len() == 1;
        let doubtful = |byte: &u8| *byte == b'\\' || !byte.is_ascii();
        if only_one && !self.reported.reads_as_expected() && text.iter().any(doubtful) {
            self.literals.clear();
            return Ok(Rc::new(Planned::unread(text)));
        }
        let mut plans = self.database.plans.borrow_mut();
        match plans.plan(text, &self.search_path, &catalog, &mut self.literals) {
            // Where there is no choice nothing has to be understood.
            Err(_) if only_one => {
                self.literals.clear();
                Ok(Rc::new(Planned::unread(text)))
            }
            planned => planned.map_err(Fault::Unplannable),
        }
    }

    /// What the reading of SQL relies on; with several shards it must hold.
    fn check_text_settings(&self, catalog: &Catalog) -> Result<(), Fault> {
        if self.reported.reads_as_expected() || catalog.shards.len() == 1 {
            return Ok(());
        }
        let message = "standard_conforming_strings is off, or client_encoding is not UTF8: the statement cannot be read safely";
        Err(Fault::Refused(Refusal::new(Reason::TextSettings, message)))
    }

    /// The plan of a prepared statement of this session's scope, made once for each catalog.
    pub(super) fn plan_statement(&mut self, statement: &Statement) -> Result<StatementPlan, Fault> {
        let epoch = self.database.catalog().epoch;
        if let Some(plan) = &*statement.plan.borrow()
            && plan.epoch == epoch
        {
            return Ok(plan.clone());
        }
        let planned = self.plan(statement.text())?;
        let literals: Rc<[_]> = Rc::from(&*self.literals);
        let planned = match &statement.source {
            Source::Parse { .. } => planned,
            Source::Prepare { text, .. } => self.running_its_query(planned, text),
        };
        let plan = StatementPlan {
            epoch,
            planned,
            literals,
        };
        *statement.plan.borrow_mut() = Some(plan.clone());
        Ok(plan)
    }

    /// PREPARE by itself does nothing. Whoever has its statement runs the query in it.
    fn running_its_query(&mut self, prepare: Rc<Planned>, text: &[u8]) -> Rc<Planned> {
        let [one] = &prepare.statements[..] else {
            return prepare;
        };
        let Class::Prepare { query, .. } = &one.class else {
            return prepare;
        };
        let text = &text[query.clone()];
        let run = self.plan(text);
        let run = run.unwrap_or_else(|_| Rc::new(Planned::unread(text)));
        Rc::new(Planned {
            statements: vec![one.running(&run)],
        })
    }

    /// Where a simple query goes; `None` when the session answers all of it.
    pub(super) fn destination_of_query(
        &mut self,
        planned: &Planned,
        text: &[u8],
    ) -> Result<Option<Destination>, Fault> {
        let literals = std::mem::take(&mut self.literals);
        let values = Values {
            text,
            literals: &literals,
            parameters: &Parameters::NONE,
            passage: self.passage(),
        };
        let destination = self.destination(planned, &values);
        self.literals = literals;
        destination
    }

    /// Where statements with these values go, together; `None` when the session answers them.
    pub(super) fn destination(
        &mut self,
        planned: &Planned,
        values: &Values<'_>,
    ) -> Result<Option<Destination>, Fault> {
        let executed = if speaks_of_prepared(planned) {
            self.bounds_of_executes(planned)?
        } else {
            Vec::new()
        };
        let catalog = self.database.catalog();
        let chosen = self.own_settings.shard(&catalog).map_err(Fault::Refused)?;
        // Where keys are moving, all that is not known to concern other keys only is held back with them.
        let held = || match values.passage {
            Passage::Stopped if catalog.is_moving() => Err(Fault::Held),
            Passage::Stopped | Passage::Through => Ok(()),
        };
        let mut destination = None;
        for (place, statement) in planned.statements.iter().enumerate() {
            if self.mode == PoolMode::Strict {
                self.check_pin(statement.pin())?;
            }
            match &statement.creates {
                Creates::Schema => self.made_schema = true,
                Creates::Awaited(placed) => {
                    return Err(Fault::Unplaced(Box::new(Placed::clone(placed))));
                }
                Creates::Other => {}
            }
            if let Some(Spread::Placed(placed)) = statement.spread.as_deref() {
                let refused = |message| Refusal::new(Reason::TablePlace, message);
                several(planned, statement, refused("the table has no place yet"))?;
                if chosen.is_some() {
                    let message = "the table's comment gives it a place, and trunkline.shard or trunkline.key is set";
                    return Err(Fault::Refused(refused(message)));
                }
                if self.made_schema && !placed.passed_over.is_empty() {
                    let message = "the transaction has made a schema, and the table's name has none: write the schema in front of it";
                    return Err(Fault::Refused(refused(message)));
                }
                return Err(Fault::Unplaced(Box::new(placed.clone())));
            }
            let bound = match (&statement.plan, chosen) {
                (Ok(Plan::Session), _) => continue,
                _ if let Some(place) = self.place_of_cursor(&statement.class)? => match place {
                    Destination::Several => {
                        let message = "the cursor is over rows of several shards";
                        let refusal = Refusal::new(Reason::MultiShardMessage, message);
                        several(planned, statement, refusal)?;
                        return Ok(Some(Destination::Several));
                    }
                    Destination::Shard(shard) => Bound::Shard(shard),
                    Destination::Any => Bound::Any,
                },
                (Ok(Plan::Relay(Target::Any)), _)
                    if matches!(statement.class, Class::Execute { .. }) =>
                {
                    // Without one a server says that there is no such statement.
                    let known = executed.iter().find(|(at, _)| *at == place);
                    known.map_or(Bound::Any, |(_, bound)| *bound)
                }
                // Its parameters have no values yet.
                (Ok(Plan::Relay(target)), None)
                    if matches!(statement.class, Class::Prepare { .. }) =>
                {
                    match bind(target, &catalog, values) {
                        // A Bind of what came by PREPARE: whoever only prepares it takes any.
                        Err(refusal)
                            if refusal.is_of_several_shards()
                                && statement.spread.is_some()
                                && planned.statements.len() == 1 =>
                        {
                            held()?;
                            return Ok(Some(Destination::Several));
                        }
                        bound => bound.unwrap_or(Bound::Any),
                    }
                }
                // The shard's own sequences give what other shards' give.
                (_, Some(_)) if statement.numbered().is_some() => {
                    held()?;
                    return Ok(Some(Destination::Several));
                }
                (_, Some(shard)) => {
                    held()?;
                    Bound::Shard(shard)
                }
                (Ok(Plan::Relay(target)), None) => match bind(target, &catalog, values) {
                    Ok(bound) => bound,
                    Err(refusal) if refusal.is_of_several_shards() => {
                        several(planned, statement, refusal)?;
                        held()?;
                        return Ok(Some(Destination::Several));
                    }
                    Err(refusal) => return Err(Fault::of(refusal)),
                },
                (Err(refusal), None) => {
                    several(planned, statement, refusal.clone())?;
                    held()?;
                    return Ok(Some(Destination::Several));
                }
            };
            destination = match (destination, bound) {
                (None | Some(Destination::Any), Bound::Shard(shard)) => {
                    Some(Destination::Shard(shard))
                }
                (None, Bound::Any) => Some(Destination::Any),
                (Some(Destination::Shard(one)), Bound::Shard(other)) if one != other => {
                    let name = |shard: ShardId| {
                        catalog
                            .shards
                            .get(shard.index())
                            .map_or("?", |name| &**name)
                    };
                    let message = format!(
                        "the statements of this message belong on shards \"{}\" and \"{}\"",
                        name(one),
                        name(other)
                    );
                    return Err(Fault::Refused(Refusal::new(
                        Reason::MultiShardMessage,
                        message,
                    )));
                }
                (kept, _) => kept,
            };
        }
        Ok(destination)
    }

    /// Where the cursor of FETCH, MOVE or CLOSE is; `None`: it is not known, or it is another statement.
    fn place_of_cursor(&self, class: &Class) -> Result<Option<Destination>, Fault> {
        let of = |name: &str| match self.batch.cursor(name) {
            Some(_) => Some(Destination::Several),
            None => self.batch.shard_of_cursor(name).map(Destination::Shard),
        };
        match class {
            Class::Fetch(Some(motion)) => Ok(of(&motion.cursor)),
            Class::CloseCursor(Some(Closing::One(name))) => Ok(of(name)),
            Class::CloseCursor(Some(Closing::All)) => {
                let several = self.is_party() || !self.batch.open_portals().is_empty();
                Ok(several.then_some(Destination::Several))
            }
            Class::Declare { name, .. } if self.batch.knows_cursor(name) => {
                Err(cursor_exists(name))
            }
            _ => Ok(None),
        }
    }

    /// Statements that only end the transaction, which is all that a failed one accepts.
    pub(super) fn ends_transaction(planned: &Planned) -> bool {
        let first = planned.statements.first();
        first.is_some_and(|statement| {
            matches!(
                statement.class,
                Class::Commit { .. } | Class::Rollback { .. } | Class::RollbackTo(_)
            )
        })
    }
}

/// Whether a statement may be done on several shards: it can be, and it is alone in its message.
fn several(planned: &Planned, statement: &PlannedStatement, refusal: Refusal) -> Result<(), Fault> {
    if statement.spread.is_none() {
        return Err(Fault::Refused(refusal));
    }
    if planned
        .statements
        .iter()
        .filter(|one| one.class != Class::Empty)
        .count()
        > 1
    {
        let message =
            "a statement that several shards do together comes with others in one message";
        return Err(Fault::Refused(Refusal::new(
            Reason::MultiShardMessage,
            message,
        )));
    }
    Ok(())
}
