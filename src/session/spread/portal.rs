//! Statements of several shards in the extended protocol: their portals are the session's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::cursor::{Cursor, Shown};
use super::kept::{Kept, Led, Rows, led};
use super::prepared::explaining;
use super::{Call, Returned, Telling};
use crate::backend::pipeline::Committed;
use crate::execution::branch::pass_on;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::Everywhere;
use crate::plan::spread::gather::Gives;
use crate::plan::{Parameters, PlannedStatement, Spread};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::route::Destination;
use crate::session::statement::{Source, Statement, StatementPlan};
use crate::sql::class::{Class, Direction, Motion, Scroll, Verb};
use crate::wire::answer;
use crate::wire::message::{Bind, Execute};

/// A portal that the session runs.
pub struct SpreadPortal {
    origin: Origin,
    /// How many savepoints the transaction had when it was bound: it ends with the last of them.
    depth: Cell<usize>,
    stage: RefCell<Stage>,
}

/// How a portal came to be.
enum Origin {
    Bound(Bound),
    /// By a Bind message of an EXECUTE.
    Executed(Box<Executed>),
    /// By DECLARE.
    Declared(Declared),
}

/// By a Bind message.
struct Bound {
    statement: Rc<Statement>,
    plan: StatementPlan,
    /// The message's body.
    bind: Box<[u8]>,
}

/// EXECUTE of a statement that several shards do.
struct Executed {
    /// The EXECUTE, and the text that it stands in.
    one: PlannedStatement,
    text: Box<[u8]>,
    /// What it executes.
    statement: Rc<Statement>,
    /// EXPLAIN and its options.
    prefix: Box<[u8]>,
    /// Of the result, as in Bind.
    formats: Vec<u16>,
}

/// A cursor.
pub struct Declared {
    /// The body of RowDescription, with the formats of its rows.
    pub columns: Vec<u8>,
    pub scroll: Scroll,
    pub place: Cell<Place>,
    /// All of its rows, where it goes back or outlives its transaction.
    pub kept: Option<Kept>,
    lasts: Cell<Lasts>,
}

/// How long a cursor is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    /// Until its transaction ends.
    Transaction,
    /// It is WITH HOLD, and its transaction has not ended.
    OnCommit,
    /// Until it is closed.
    Session,
}

/// Where a cursor stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// How many rows it has passed.
    pub passed: u64,
    pub side: Side,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// In front of its rows, or on one of them.
    #[default]
    Within,
    /// Behind the last.
    Behind,
    /// It has failed, and is not run again.
    Failed,
}

/// How far a portal is.
enum Stage {
    /// => (Open or Spent or Failed)
    Bound,
    /// Some of its rows have been given. => (Open or Spent or Failed)
    Open(Box<Cursor>, Command),
    /// All of its rows have.
    Spent(Command),
    /// It has failed, or cannot be run twice, or runs.
    Failed,
}

/// What the tag says in front of the number of rows.
type Command = Rc<str>;

/// What Execute does, as far as parts of a result go.
enum Sort {
    /// It gives rows as they are asked for.
    Query,
    /// It is done at once, and its rows, if it has any, are kept.
    Change,
    /// It gives no rows, or none that could be counted.
    Other,
    /// Its rows are given at once.
    Whole,
}

fn sort_of(call: &Call<'_>) -> Sort {
    match call.spread {
        Spread::Cursor => match &call.statement.class {
            Class::Fetch(Some(Motion {
                verb: Verb::Fetch, ..
            })) => Sort::Whole,
            _ => Sort::Other,
        },
        Spread::Declare(_) | Spread::Listed(_) => Sort::Other,
        Spread::Scatter { .. } => Sort::Query,
        Spread::Gather(gather) => match gather.gives {
            Gives::Rows => Sort::Query,
            Gives::Copy => Sort::Other,
        },
        Spread::Rows(_)
        | Spread::Write(_)
        | Spread::Once(_)
        | Spread::Move(_)
        | Spread::Delivery(_)
        | Spread::Everywhere(Everywhere::Copies) => Sort::Change,
        Spread::Everywhere(Everywhere::Definition | Everywhere::Alone)
        | Spread::CopyIn(_)
        | Spread::CopyOut(_)
        | Spread::Numbered(_)
        | Spread::Placed(_)
        | Spread::Prepared(_) => Sort::Other,
        Spread::Explain(_) => Sort::Whole,
    }
}

pub(super) fn portions_of_no_query() -> Refusal {
    let message = "a part of the rows is asked for, and the statement gives them all at once";
    Refusal::new(Reason::RowLimit, message)
}

pub(super) fn not_run_again(portal: &[u8]) -> Fault {
    Fault::Postgres {
        sqlstate: "55000",
        message: format!(
            "portal \"{}\" cannot be run",
            String::from_utf8_lossy(portal)
        ),
    }
}

impl SpreadPortal {
    pub fn new(
        body: &[u8],
        statement: &Rc<Statement>,
        plan: &StatementPlan,
        depth: usize,
    ) -> SpreadPortal {
        SpreadPortal {
            origin: Origin::Bound(Bound {
                statement: Rc::clone(statement),
                plan: plan.clone(),
                bind: Box::from(body),
            }),
            depth: Cell::new(depth),
            stage: RefCell::new(Stage::Bound),
        }
    }

    /// Of DECLARE.
    pub(super) fn declared(cursor: Cursor, scroll: Scroll, depth: usize) -> SpreadPortal {
        SpreadPortal {
            origin: Origin::Declared(Declared {
                columns: cursor.columns().to_vec(),
                scroll,
                place: Cell::default(),
                kept: None,
                lasts: Cell::new(Lasts::Transaction),
            }),
            depth: Cell::new(depth),
            stage: RefCell::new(Stage::Open(Box::new(cursor), Command::from("SELECT"))),
        }
    }

    /// Of DECLARE, with all of its rows.
    pub(super) fn kept(
        returned: Returned,
        scroll: Scroll,
        lasts: Lasts,
        depth: usize,
    ) -> SpreadPortal {
        SpreadPortal {
            origin: Origin::Declared(Declared {
                columns: returned.columns,
                scroll,
                place: Cell::default(),
                kept: Some(Kept::new(returned.rows.unwrap_or_default())),
                lasts: Cell::new(lasts),
            }),
            depth: Cell::new(depth),
            stage: RefCell::new(Stage::Failed),
        }
    }

    /// Bytes of rows that the session has for it, as long as it is there.
    pub fn kept_bytes(&self) -> usize {
        let kept = self.as_declared().and_then(|cursor| cursor.kept.as_ref());
        kept.map_or(0, Kept::size)
    }

    /// Whether it is there when its transaction, if it still has one, has ended like this.
    pub fn outlives_transaction(&self, committed: Committed) -> bool {
        let Some(cursor) = self.as_declared() else {
            return false;
        };
        if cursor.lasts.get() == Lasts::OnCommit && committed == Committed::Yes {
            cursor.lasts.set(Lasts::Session);
            self.depth.set(0);
        }
        cursor.lasts.get() == Lasts::Session
    }

    /// What FETCH needs to know; `None`: it is no cursor.
    pub fn as_declared(&self) -> Option<&Declared> {
        match &self.origin {
            Origin::Declared(declared) => Some(declared),
            Origin::Bound(_) | Origin::Executed(_) => None,
        }
    }

    /// Servers have portals for it.
    pub fn is_open(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Open(..))
    }

    /// It is run no more.
    pub fn take_cursor(&self) -> Option<Box<Cursor>> {
        match self.stage.replace(Stage::Failed) {
            Stage::Open(cursor, _) => Some(cursor),
            _ => None,
        }
    }

    /// Whether it is there when the savepoint at this place is gone back to.
    pub fn outlives(&self, savepoint: usize) -> bool {
        self.depth.get() <= savepoint
    }

    /// The savepoint at this place is no more, and what it had is its parent's.
    pub fn released(&self, savepoint: usize) {
        self.depth.set(self.depth.get().min(savepoint));
    }
}

impl Declared {
    /// Goes where `direction` leads among the rows that are kept; those that it passes.
    pub fn go(&self, kept: &Kept, direction: Direction) -> Rows {
        let Place { passed, side } = self.place.get();
        let place = match side {
            Side::Within => passed,
            Side::Behind | Side::Failed => kept.count() + 1,
        };
        let Led { place, rows } = led(direction, place, kept.count());
        self.place.set(Place {
            passed: place.min(kept.count()),
            side: match place > kept.count() {
                true => Side::Behind,
                false => Side::Within,
            },
        });
        rows
    }

    fn passed(&self, rows: u64, limit: Option<u64>) {
        let mut place = self.place.get();
        place.passed += rows;
        if limit.is_none_or(|limit| rows < limit) {
            place.side = Side::Behind;
        }
        self.place.set(place);
    }
}

impl Session {
    /// Runs it to its end, or gives as many of its rows as are asked for.
    pub(in crate::session) async fn execute_spread(
        &mut self,
        portal: &SpreadPortal,
        execute: &Execute<'_>,
    ) -> Result<(), Fault> {
        self.settle_held().await?;
        self.check_not_aborted()?;
        let limit = u64::try_from(execute.max_rows)
            .ok()
            .filter(|rows| *rows > 0);
        if let Some(cursor) = portal.as_declared()
            && cursor.place.get().side == Side::Failed
        {
            return Err(not_run_again(execute.portal));
        }
        if let Some(cursor) = portal.as_declared()
            && let Some(kept) = &cursor.kept
        {
            self.end_unit_of_others().await?;
            self.execute_kept(cursor, kept, limit);
            return Ok(());
        }
        match portal.stage.replace(Stage::Failed) {
            Stage::Failed => Err(not_run_again(execute.portal)),
            Stage::Spent(command) => {
                self.tell_tag(&format!("{command} 0"));
                portal.stage.replace(Stage::Spent(command));
                Ok(())
            }
            Stage::Open(cursor, command) => {
                self.end_unit_of_others().await?;
                self.draw_into(portal, cursor, command, limit).await
            }
            Stage::Bound => self.run_portal(portal, limit).await,
        }
    }

    /// Execute of a cursor by its name: the next of its rows.
    fn execute_kept(&mut self, cursor: &Declared, kept: &Kept, limit: Option<u64>) {
        let direction = limit.map_or(Direction::ForwardAll, |limit| {
            Direction::Forward(i64::try_from(limit).unwrap_or(i64::MAX))
        });
        let rows = cursor.go(kept, direction);
        kept.show(rows, &mut self.client.outbox);
        match limit == Some(rows.count()) {
            true => answer::portal_suspended(&mut self.client.outbox),
            false => self.tell_tag(&format!("SELECT {}", rows.count())),
        }
    }

    async fn run_portal(&mut self, portal: &SpreadPortal, limit: Option<u64>) -> Result<(), Fault> {
        let run = async |session: &mut Session, call: &Call<'_>| {
            let sort = sort_of(call);
            match (sort, limit) {
                (Sort::Whole, Some(_)) => Err(Fault::Refused(portions_of_no_query())),
                (Sort::Query, Some(_)) => {
                    let cursor = session.open_cursor(call).await?;
                    Ok(Stage::Open(Box::new(cursor), Command::from("SELECT")))
                }
                (Sort::Change, Some(_)) => {
                    let returned = RefCell::new(Returned::default());
                    let call = Call {
                        returned: Some(&returned),
                        ..*call
                    };
                    session.spread(&call).await?;
                    Ok(session.give_returned(returned.into_inner()))
                }
                (Sort::Query, None) => {
                    session.spread(call).await?;
                    Ok(Stage::Spent(Command::from("SELECT")))
                }
                _ => {
                    session.spread(call).await?;
                    Ok(Stage::Failed)
                }
            }
        };
        match self.with_call(portal, run).await? {
            Stage::Open(cursor, command) => self.draw_into(portal, cursor, command, limit).await,
            other => {
                portal.stage.replace(other);
                Ok(())
            }
        }
    }

    /// What a change has returned is given in portions; one that has returned nothing is over.
    fn give_returned(&mut self, returned: Returned) -> Stage {
        let Returned { rows, tag, .. } = returned;
        match (rows, tag.rsplit_once(' ')) {
            (Some(rows), Some((command, _))) => {
                Stage::Open(Box::new(Cursor::kept(rows)), Command::from(command))
            }
            _ => {
                self.tell_tag(&tag);
                Stage::Failed
            }
        }
    }

    async fn draw_into(
        &mut self,
        portal: &SpreadPortal,
        mut cursor: Box<Cursor>,
        command: Command,
        limit: Option<u64>,
    ) -> Result<(), Fault> {
        let given = self.give_portion(&mut cursor, limit, Shown::Yes).await?;
        if let Some(declared) = portal.as_declared() {
            declared.passed(given, limit);
        }
        // As in Postgres, who has got what was asked for is not told whether it was the last.
        if limit == Some(given) {
            answer::portal_suspended(&mut self.client.outbox);
        } else {
            self.tell_tag(&format!("{command} {given}"));
        }
        self.keep_or_close(portal, cursor, command).await
    }

    async fn keep_or_close(
        &mut self,
        portal: &SpreadPortal,
        cursor: Box<Cursor>,
        command: Command,
    ) -> Result<(), Fault> {
        let stage = if cursor.is_empty() {
            self.close_cursor(&cursor).await?;
            Stage::Spent(command)
        } else {
            Stage::Open(cursor, command)
        };
        portal.stage.replace(stage);
        Ok(())
    }

    /// Moves a cursor over up to `limit` of its next rows, or all; how many there were.
    pub(super) async fn pass_rows(
        &mut self,
        portal: &SpreadPortal,
        limit: Option<u64>,
        shown: Shown,
    ) -> Result<u64, Fault> {
        let given = match portal.stage.replace(Stage::Failed) {
            Stage::Open(mut cursor, command) => {
                let given = self.give_portion(&mut cursor, limit, shown).await?;
                self.keep_or_close(portal, cursor, command).await?;
                given
            }
            Stage::Spent(command) => {
                portal.stage.replace(Stage::Spent(command));
                0
            }
            Stage::Bound | Stage::Failed => 0,
        };
        if let Some(declared) = portal.as_declared() {
            declared.passed(given, limit);
        }
        Ok(given)
    }

    /// A portal that servers have is closed, or another takes its name.
    pub(in crate::session) async fn close_open_portal(&mut self, name: &[u8]) -> Result<(), Fault> {
        let cursor = self.batch.take_cursor(name);
        match cursor {
            Some(cursor) => self.close_cursor(&cursor).await,
            None => Ok(()),
        }
    }

    /// Tells the client of the portal's rows, in the formats that it was bound with.
    pub(in crate::session) async fn describe_spread(
        &mut self,
        portal: &SpreadPortal,
    ) -> Result<(), Fault> {
        self.settle_held().await?;
        if let Some(declared) = portal.as_declared() {
            self.check_not_aborted()?;
            self.end_unit_of_others().await?;
            pass_on(b'T', &declared.columns, &mut self.client.outbox);
            return Ok(());
        }
        self.with_call(portal, async |session: &mut Session, call: &Call<'_>| {
            session.describe_call(call).await
        })
        .await
    }

    async fn with_call<T>(
        &mut self,
        portal: &SpreadPortal,
        run: impl AsyncFnOnce(&mut Session, &Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Bound {
            statement,
            plan,
            bind,
        } = match &portal.origin {
            Origin::Bound(bound) => bound,
            Origin::Executed(executed) => return self.with_executed(executed, run).await,
            Origin::Declared(_) => return Err(Fault::no_portal(b"")),
        };
        let bind = Bind::decode(bind).map_err(Fault::Violation)?;
        let parameters = Parameters::from_bind(
            bind.formats.raw(),
            bind.parameter_count,
            bind.raw_values(),
            &statement.types,
        )
        .map_err(Fault::MalformedBind)?;
        let plan = self.plan_of(statement, plan)?;
        let spread = plan
            .planned
            .statements
            .iter()
            .find_map(|planned| Some((planned, planned.spread.as_deref()?)));
        let Some((planned, spread)) = spread else {
            let mut plans = plan.planned.statements.iter();
            let refused = plans.find_map(|planned| planned.plan.as_ref().err().cloned());
            return Err(match refused {
                Some(refusal) => Fault::Refused(refusal),
                None => Fault::no_portal(bind.portal),
            });
        };
        let formats: Vec<u16> = bind.result_formats.codes().collect();
        if matches!(spread, Spread::Prepared(_))
            && matches!(statement.source, Source::Prepare { .. })
            && let Some(execution) = self.bound_execution(statement, &bind)?
        {
            return self
                .with_execution(&execution, &formats, Telling::Rows, run)
                .await;
        }
        // Others may have been bound since, and have run.
        self.seek(&plan.planned);
        let call = Call {
            statement: planned,
            spread,
            text: statement.text(),
            literals: &plan.literals,
            types: &statement.types,
            raw_parameters: bind.raw_parameters(),
            parameters: &parameters,
            formats: &formats,
            telling: Telling::Rows,
            returned: None,
        };
        run(self, &call).await
    }

    async fn with_executed<T>(
        &mut self,
        executed: &Executed,
        run: impl AsyncFnOnce(&mut Session, &Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Executed {
            one,
            text,
            statement,
            prefix,
            formats,
        } = executed;
        match self.execution(one, text, statement, prefix).await? {
            Some(execution) => {
                self.with_execution(&execution, formats, Telling::Rows, run)
                    .await
            }
            None => Err(self.second_shard(Destination::Several)),
        }
    }

    /// The portal of an EXECUTE that several shards do; `None`: it is something else.
    pub(in crate::session) fn execution_portal(
        &mut self,
        bind: &Bind<'_>,
        statement: &Statement,
        one: &PlannedStatement,
    ) -> Result<Option<SpreadPortal>, Fault> {
        let Some(executed) = self.executed_alone(one) else {
            return Ok(None);
        };
        if matches!(statement.source, Source::Prepare { .. }) {
            return Ok(None);
        }
        let prefix = explaining(one, statement.text());
        match self.is_for_several(one, &executed, prefix) {
            Ok(false) => return Ok(None),
            // As in Postgres that is found out when it is executed.
            Ok(true) | Err(Fault::Postgres { .. }) => {}
            Err(fault) => return Err(fault),
        }
        Ok(Some(SpreadPortal {
            origin: Origin::Executed(Box::new(Executed {
                one: one.clone(),
                text: Box::from(statement.text()),
                statement: executed,
                prefix: Box::from(prefix),
                formats: bind.result_formats.codes().collect(),
            })),
            depth: Cell::new(self.savepoints.len()),
            stage: RefCell::new(Stage::Bound),
        }))
    }

    /// What was bound before rows began to move does not know of it.
    fn plan_of(
        &mut self,
        statement: &Statement,
        bound: &StatementPlan,
    ) -> Result<StatementPlan, Fault> {
        let is_old = {
            let catalog = self.database.catalog();
            catalog.is_moving() && bound.epoch != catalog.epoch
        };
        match is_old {
            true => self.plan_statement(statement),
            false => Ok(bound.clone()),
        }
    }

    /// What was held or asked before is answered, so that what comes now stands behind it.
    async fn settle_held(&mut self) -> Result<(), Fault> {
        self.check_held().await?;
        if self.link.as_ref().is_some_and(Link::is_metadata) {
            return self.leave_metadata().await;
        }
        if self.link.is_none() {
            self.batch.release(&mut self.client.outbox);
        }
        Ok(())
    }
}
