//! The simple query protocol, and the function call protocol.

use std::rc::Rc;

use super::Session;
use super::channels::speaks_of_channels;
use super::control::Control;
use super::link::{Link, Phase};
use super::prepared::speaks_of_prepared;
use super::respond::{End, Fault};
use super::route::Destination;
use super::straight::Decided;
use super::transaction::{Opener, Transaction, keeps_snapshot, says_so};
use crate::backend::pipeline::{Fate, Request};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Plan, Planned, PlannedStatement};
use crate::sql::class::Class;
use crate::wire::answer::{self, Severity};
use crate::wire::frame::HEADER;
use crate::wire::message::Query;

impl Session {
    /// A Query message.
    pub(super) async fn simple(&mut self, frame: &[u8]) -> Result<(), End> {
        self.unit_begins();
        if self.opener == Opener::Unit
            && let Err(fault) = self.end_unit_block().await
        {
            return self.fail_query(&fault);
        }
        if let Err(fault) = self.end_batch().await {
            return self.fail_query(&fault);
        }
        self.unnamed = None;
        loop {
            let fault = match self.query(frame).await {
                Ok(()) => return Ok(()),
                Err(Fault::Held) => match self.pass_gate().await {
                    Ok(()) => continue,
                    Err(fault) => fault,
                },
                Err(Fault::Unplaced(placed)) => match self.record_place(&placed).await {
                    Ok(()) => continue,
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            return self.fail_query(&fault);
        }
    }

    async fn query(&mut self, frame: &[u8]) -> Result<(), Fault> {
        if let Some(Decided::Query(planned, destination)) = self.decided.take() {
            self.will_run(&planned);
            self.seek(&planned);
            self.attach(destination, Phase::Working).await?;
            self.check_last_values()?;
            self.forward_query(&planned, frame);
            return Ok(());
        }
        let text = Query::decode(&frame[HEADER..])
            .map_err(Fault::Violation)?
            .text;
        let planned = self.plan(text)?;
        if planned.statements.len() > 1
            && let Some(ours) = planned
                .statements
                .iter()
                .find(|statement| statement.is_ours())
            && planned
                .statements
                .iter()
                .filter(|statement| statement.class != Class::Empty)
                .count()
                > 1
        {
            return Err(Fault::ours_in_batch(&ours.class));
        }
        if planned.statements.len() > 1 {
            self.check_path_behind_end(&planned)?;
            if self.is_party() {
                check_controls_nothing(&planned)?;
            }
        }
        if matches!(self.transaction, Transaction::Failed(_)) && !Self::ends_transaction(&planned) {
            return Err(Fault::aborted());
        }
        if speaks_of_prepared(&planned) && !self.is_failed() {
            return self.prepared_query(&planned, text).await;
        }
        if speaks_of_channels(&planned) && self.listens_itself() && !self.is_failed() {
            return self.channels_query(&planned).await;
        }
        if planned.is_numbered() && !self.is_failed() {
            return self.query_with_numbers(&planned, text).await;
        }
        let destination = match self.destination_of_query(&planned, text) {
            Ok(destination) => destination,
            // A failed transaction says so before it says anything else.
            Err(_) if self.is_failed() => Some(Destination::Any),
            Err(fault) => return Err(fault),
        };
        self.seek(&planned);
        match destination {
            None => self.control_query(&planned, text, frame).await,
            Some(Destination::Several) => self.spread_query(&planned, text).await,
            // The server answers that the transaction is aborted.
            Some(Destination::Shard(_)) if self.is_failed() && planned.statements.len() == 1 => {
                self.forward_query(&planned, frame);
                Ok(())
            }
            Some(destination) => {
                self.will_run(&planned);
                self.attach(destination, Phase::Working).await?;
                self.check_last_values()?;
                self.forward_query(&planned, frame);
                Ok(())
            }
        }
    }

    /// The transaction has failed, as far as what has been answered tells.
    pub(super) fn is_failed(&self) -> bool {
        let answered = self
            .link
            .as_ref()
            .is_none_or(|link| !link.is_in_unit() || link.is_metadata());
        answered && self.own_status() == crate::wire::answer::TransactionStatus::Failed
    }

    pub(super) fn forward_query(&mut self, planned: &Rc<Planned>, frame: &[u8]) {
        let token = self.note(planned);
        let begins = |statement: &PlannedStatement| matches!(statement.class, Class::Begin);
        if planned.statements.len() > 1 && planned.statements.iter().any(begins) {
            // Which of its transactions is left open is not looked for.
            let says_so = says_so(&String::from_utf8_lossy(text_of(frame)));
            if says_so || keeps_snapshot(self.default_modes()) {
                self.card.keeps_snapshot.set(true);
            }
        }
        if self.is_party() {
            self.card.company.runs(text_of(frame));
        }
        if let Some(link) = &mut self.link {
            link.forget_unnamed();
            link.send(frame, Request::Query, token);
        }
        if self.tracks_commits() && self.commits(planned) {
            self.mark();
        }
    }

    /// A message of which the session can answer every statement, unless a server has to.
    async fn control_query(
        &mut self,
        planned: &Rc<Planned>,
        text: &[u8],
        frame: &[u8],
    ) -> Result<(), Fault> {
        let told: Vec<_> = planned
            .statements
            .iter()
            .filter(|statement| statement.class != Class::Empty)
            .collect();
        if told.is_empty() {
            let mut bytes = Vec::new();
            answer::empty_query_response(&mut bytes);
            return self.answer_query(bytes);
        }
        // Several statements are answered here only when they begin a transaction that no server needs to know of yet.
        let alone =
            told.len() == 1 || (self.link.is_none() && matches!(told[0].class, Class::Begin));
        if !alone {
            self.attach(Destination::Any, Phase::Working).await?;
            self.forward_query(planned, frame);
            return Ok(());
        }
        let mut bytes = Vec::new();
        for statement in told {
            let source =
                String::from_utf8_lossy(&text[Planned::range_of(statement, &self.literals)]);
            match self
                .control(&statement.class, source.trim(), &mut bytes)
                .await
            {
                Ok(Control::Answered) => {}
                Ok(Control::Forward) => {
                    self.attach(Destination::Any, Phase::Working).await?;
                    self.forward_query(planned, frame);
                    return Ok(());
                }
                Err(fault) => {
                    self.client.outbox.append(&mut bytes);
                    return Err(fault);
                }
            }
        }
        self.answer_query(bytes)
    }

    /// The whole answer to a query that no server has seen.
    pub(super) fn answer_query(&mut self, mut bytes: Vec<u8>) -> Result<(), Fault> {
        answer::ready_for_query(&mut bytes, self.own_status());
        super::add(&self.database.counters.queries, 1);
        self.answer(bytes);
        if !self.link.as_ref().is_some_and(Link::is_closing) {
            self.unit_answered();
        }
        Ok(())
    }

    /// The error and the end of a query that failed before a server had it.
    pub(super) fn fail_query(&mut self, fault: &Fault) -> Result<(), End> {
        if matches!(fault, Fault::Told) {
            // A message before it had failed, so that it is skipped.
            self.batch.skip();
            return Ok(());
        }
        self.count(fault);
        let mut error = Vec::new();
        fault.write(Severity::Error, &mut error);
        match &mut self.link {
            Some(link) => {
                link.refuse(error);
                link.sync(Fate::Forward);
            }
            None => {
                self.fail_begun();
                self.client.outbox.append(&mut error);
                let status = self.own_status();
                answer::ready_for_query(&mut self.client.outbox, status);
                self.unit_answered();
            }
        }
        Ok(())
    }

    /// A FunctionCall message: the function is not known by name, so it runs where the transaction is, or at home.
    pub(super) async fn function_call(&mut self, frame: &[u8]) -> Result<(), End> {
        self.unit_begins();
        if let Err(fault) = self.end_batch().await {
            return self.fail_query(&fault);
        }
        if matches!(self.transaction, Transaction::Failed(_)) {
            return self.fail_query(&Fault::aborted());
        }
        if asks_last_value(&frame[HEADER..]) {
            self.will_ask();
        }
        let attached = self.attach(Destination::Any, Phase::Working).await;
        match attached.and_then(|()| self.check_last_values()) {
            Ok(()) => {
                if let Some(link) = &mut self.link {
                    if !calls_large_object(&frame[HEADER..]) {
                        link.unsettle();
                    }
                    link.send(frame, Request::Function, None);
                }
                Ok(())
            }
            Err(fault) => self.fail_query(&fault),
        }
    }
}

/// What a Query message asks.
fn text_of(frame: &[u8]) -> &[u8] {
    let text = frame.get(HEADER..).unwrap_or_default();
    text.strip_suffix(b"\0").unwrap_or(text)
}

/// What all connections of a transaction must do cannot stand among statements that one of them does.
fn check_controls_nothing(planned: &Planned) -> Result<(), Fault> {
    let controls = |statement: &PlannedStatement| {
        matches!(statement.plan, Ok(Plan::Session)) && statement.class != Class::Empty
    };
    if planned.statements.iter().any(controls) {
        let message = "the transaction works on several shards, and the message has a statement for all of them among others";
        return Err(Fault::Refused(Refusal::new(
            Reason::MultiShardMessage,
            message,
        )));
    }
    Ok(())
}

/// A function of the large object API by its OID (`pg_proc.dat`); the others are not known by name.
fn calls_large_object(body: &[u8]) -> bool {
    matches!(function(body), 715 | 764 | 767 | 952..=958 | 964 | 1004 | 3170..=3172)
}

/// currval or lastval.
fn asks_last_value(body: &[u8]) -> bool {
    matches!(function(body), 1575 | 2559)
}

fn function(body: &[u8]) -> u32 {
    body.first_chunk().map_or(0, |oid| u32::from_be_bytes(*oid))
}
