//! Statements of several shards in the extended protocol: their portals are the session's own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::cursor::{Cursor, Shown};
use super::{Call, Returned, Telling};
use crate::execution::branch::pass_on;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::Everywhere;
use crate::plan::spread::gather::Gives;
use crate::plan::{Parameters, Spread};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::statement::{Statement, StatementPlan};
use crate::sql::class::{Class, Motion, Scroll, Verb};
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

/// A cursor.
pub struct Declared {
    /// The body of RowDescription, with the formats of its rows.
    pub columns: Vec<u8>,
    pub scroll: Scroll,
    pub place: Cell<Place>,
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
        Spread::Declare(_) => Sort::Other,
        Spread::Scatter { .. } => Sort::Query,
        Spread::Gather(gather) => match gather.gives {
            Gives::Rows => Sort::Query,
            Gives::Copy => Sort::Other,
        },
        Spread::Rows(_)
        | Spread::Write(_)
        | Spread::Move(_)
        | Spread::Delivery(_)
        | Spread::Everywhere(Everywhere::Copies) => Sort::Change,
        Spread::Everywhere(Everywhere::Definition | Everywhere::Alone)
        | Spread::CopyIn(_)
        | Spread::CopyOut(_)
        | Spread::Numbered(_)
        | Spread::Prepared => Sort::Other,
        Spread::Explain(_) => Sort::Whole,
    }
}

pub(super) fn portions_of_no_query() -> Refusal {
    let message = "a part of the rows is asked for, and the statement gives them all at once";
    Refusal::new(Reason::RowLimit, message)
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
            }),
            depth: Cell::new(depth),
            stage: RefCell::new(Stage::Open(Box::new(cursor), Command::from("SELECT"))),
        }
    }

    /// What FETCH needs to know; `None`: it is no cursor.
    pub fn as_declared(&self) -> Option<&Declared> {
        match &self.origin {
            Origin::Declared(declared) => Some(declared),
            Origin::Bound(_) => None,
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
        match portal.stage.replace(Stage::Failed) {
            Stage::Failed => Err(Fault::Postgres {
                sqlstate: "55000",
                message: format!(
                    "portal \"{}\" cannot be run",
                    String::from_utf8_lossy(execute.portal)
                ),
            }),
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
        let Returned { rows, tag } = returned;
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
        let Origin::Bound(Bound {
            statement,
            plan,
            bind,
        }) = &portal.origin
        else {
            return Err(Fault::no_portal(b""));
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
        // Others may have been bound since, and have run.
        self.seek(&plan.planned);
        let formats: Vec<u16> = bind.result_formats.codes().collect();
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
