//! Statements of several shards in the extended protocol: their portals are the session's own.

use std::rc::Rc;

use super::{Call, Telling};
use crate::plan::Parameters;
use crate::plan::refusal::{Reason, Refusal};
use crate::session::Session;
use crate::session::link::Link;
use crate::session::respond::Fault;
use crate::session::statement::{Statement, StatementPlan};
use crate::wire::message::{Bind, Execute};

/// A bound statement.
pub struct SpreadPortal {
    statement: Rc<Statement>,
    plan: StatementPlan,
    /// The body of its Bind message.
    bind: Box<[u8]>,
}

impl SpreadPortal {
    pub fn new(body: &[u8], statement: &Rc<Statement>, plan: &StatementPlan) -> SpreadPortal {
        SpreadPortal {
            statement: Rc::clone(statement),
            plan: plan.clone(),
            bind: Box::from(body),
        }
    }
}

impl Session {
    /// Runs it to its end.
    pub(in crate::session) async fn execute_spread(
        &mut self,
        portal: &SpreadPortal,
        execute: &Execute<'_>,
    ) -> Result<(), Fault> {
        if execute.max_rows > 0 {
            let message = "a part of the rows is asked for, and several shards give them";
            return Err(Fault::Refused(Refusal::new(Reason::RowLimit, message)));
        }
        self.settle_held().await?;
        self.with_call(portal, async |session, call| session.spread(call).await)
            .await
    }

    /// Tells the client of the portal's rows, in the formats that it was bound with.
    pub(in crate::session) async fn describe_spread(
        &mut self,
        portal: &SpreadPortal,
    ) -> Result<(), Fault> {
        self.settle_held().await?;
        self.with_call(portal, async |session, call| {
            session.describe_call(call).await
        })
        .await
    }

    async fn with_call(
        &mut self,
        portal: &SpreadPortal,
        run: impl AsyncFnOnce(&mut Session, &Call<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let SpreadPortal {
            statement,
            plan,
            bind,
        } = portal;
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
