//! Statements that several shards do together, from the plan to the client's answer.
//!
//! The connections are enlisted in the order of the shards (`party.rs`), one shard describes the statement, all are asked, and an
//! audience of the execution room puts their answers together. Nothing is told to the client before it is certain that the answer can be
//! exact. Afterwards the connections go back, or stay in the client's transaction. `portal.rs` is the extended protocol's side,
//! `cursor.rs` for results that are taken in portions, `declare.rs` for cursors in SQL.

mod atomic;
mod changes;
pub mod copy;
pub mod cursor;
pub mod declare;
mod delivery;
mod explain;
mod feeding;
mod gather;
pub mod kept;
mod moves;
mod once;
pub mod portal;
pub mod prepared;
mod scatter;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::Session;
use super::last_values::unknown_last;
use super::link::Link;
use super::party::check_ended;
use super::respond::{Fault, Left, Loss};
use super::transaction::{Prologue, Transaction};
use crate::backend::pipeline::Committed;
use crate::backend::pool::Seat;
use crate::catalog::Catalog;
use crate::execution::branch::{self, Audience, Branch, Failure, Question};
use crate::execution::columns;
use crate::plan::bind::each_key;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{
    Effect, Parameters, Passage, Plan, Planned, PlannedStatement, Spread, Takes, Target, Values,
};
use crate::sharding::ShardId;
use crate::sql::class::Chain;
use crate::sql::facts::Leaves;
use crate::sql::normalise::{Literal, from_normal};
use crate::wire::answer;

/// How long shards that are not needed any more may take to fall silent before their connections are closed.
const QUIET: Duration = Duration::from_secs(5);

/// No formats and no values, as Bind has them.
const NO_PARAMETERS: &[u8] = &[0, 0, 0, 0];

/// A statement that several shards do, with its values.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub statement: &'a PlannedStatement,
    pub spread: &'a Spread,
    /// Of the whole message.
    pub text: &'a [u8],
    pub literals: &'a [Literal],
    /// The parameters' types as the client declared them.
    pub types: &'a [u32],
    /// What Bind has between the names and the result formats.
    pub raw_parameters: &'a [u8],
    pub parameters: &'a Parameters<'a>,
    /// The result formats that the client wants, as in Bind.
    pub formats: &'a [u16],
    pub telling: Telling,
    /// Where the answer is left, when it is not the client's at once.
    pub returned: Option<&'a RefCell<Returned>>,
}

/// What a statement has given.
#[derive(Default)]
pub struct Returned {
    /// DataRow messages; `None`: it returns no rows.
    pub rows: Option<Vec<u8>>,
    pub tag: String,
    /// Of a query: the body of RowDescription, with the formats of the rows.
    pub columns: Vec<u8>,
    /// How many bytes the rows of a query may take.
    pub room: usize,
    /// What was done for it, one after the other.
    pub steps: Vec<Step>,
}

/// One step of a statement, for people.
pub struct Step {
    pub what: String,
    pub rows: u64,
    /// Between servers.
    pub bytes: u64,
    pub time: Duration,
}

impl Returned {
    /// A query begins to give rows.
    fn begin(&mut self, columns: Vec<u8>) {
        self.columns = columns;
        self.rows = Some(Vec::new());
    }

    /// What `add` appends is kept, while there is room.
    fn keep(
        &mut self,
        add: impl FnOnce(&mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let rows = self.rows.get_or_insert_default();
        add(rows)?;
        if rows.len() <= self.room {
            return Ok(());
        }
        let message = format!(
            "the rows that are kept for a session would take more than {} MB",
            changes::MOST_KEPT >> 20
        );
        Err(Failure::Refused(Refusal::new(Reason::Cursor, message)))
    }
}

/// What the client is told in front of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// The simple protocol: what the columns are.
    Description,
    /// The extended protocol: it has asked by Describe, or does not want to know.
    Rows,
}

/// What a server says of a statement before it runs.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The parameters' types.
    pub types: Vec<u32>,
    /// The body of RowDescription; `None`: it returns no rows.
    pub columns: Option<Vec<u8>>,
}

impl Audience for Description {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        match tag {
            b't' => {
                let oids = body.get(2..).unwrap_or_default().chunks_exact(4);
                self.types = oids
                    .map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
                    .collect();
            }
            b'T' => self.columns = Some(body.to_vec()),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> Call<'a> {
    pub fn values(&self) -> Values<'a> {
        Values {
            text: self.text,
            literals: self.literals,
            parameters: self.parameters,
            // What may be held back was, before several shards were thought of.
            passage: Passage::Through,
        }
    }

    /// The statement's own text, as the client wrote it.
    pub fn own_text(&self) -> &'a [u8] {
        &self.text[Planned::range_of(self.statement, self.literals)]
    }

    /// The statement's text with these edits, as a shard gets it now: rows of it that another one owns are left out.
    pub fn text_on(
        &self,
        shard: ShardId,
        catalog: &Catalog,
        edits: &[Edit],
        own: Option<&OwnRows>,
    ) -> Vec<u8> {
        let edits = with_own_rows(edits, own, catalog, shard);
        let whole = self.statement.range.clone();
        edit::apply(&edits, whole, self.text, self.literals)
    }

    /// How many characters of the shards' texts are the client's, from the start; `None`: all of them.
    pub fn unedited(&self, edits: &[Edit], own: Option<&OwnRows>) -> Option<usize> {
        let first = edits.first().map(|edit| edit.range.start);
        let own = own.map(OwnRows::start);
        let first = first.into_iter().chain(own).min()?;
        let start = from_normal(self.statement.range.start, self.literals);
        let end = from_normal(first, self.literals);
        let same = String::from_utf8_lossy(self.text.get(start..end)?);
        Some(same.chars().count())
    }

    /// The shards that may have rows of the tables that the statement names.
    pub fn over(&self, catalog: &Catalog) -> Vec<ShardId> {
        match &self.statement.over {
            Some(over) => catalog.shards_of(over),
            None => all_shards(catalog),
        }
    }

    /// The shards that are concerned, in their order.
    pub fn shards(&self, catalog: &Catalog) -> Result<Vec<ShardId>, Refusal> {
        let Ok(Plan::Relay(target @ Target::Keys { also, .. })) = &self.statement.plan else {
            return Ok(self.over(catalog));
        };
        let mut shards: Vec<ShardId> = also.iter().copied().collect();
        each_key(target, catalog, &self.values(), |_, _, location| {
            shards.push(location.shard);
            Ok(())
        })?;
        shards.sort_unstable();
        shards.dedup();
        Ok(shards)
    }
}

pub use crate::plan::spread::all_shards;
use crate::plan::spread::edit::{self, Edit};
use crate::plan::spread::own_rows::{OwnRows, with_own_rows};

/// What the statement does on a connection.
fn note_on(call: &Call<'_>, link: &mut Link) {
    link.note(call.statement.effect);
    if call.statement.leaves.contains(&Leaves::Unseen) {
        link.unsettle();
    }
}

impl Session {
    /// A simple query that several shards do.
    pub(super) async fn spread_query(
        &mut self,
        planned: &Rc<Planned>,
        text: &[u8],
    ) -> Result<(), Fault> {
        let literals = std::mem::take(&mut self.literals);
        let call = planned.statements.iter().find_map(|statement| {
            Some(Call {
                statement,
                spread: statement.spread.as_deref()?,
                text,
                literals: &literals,
                types: &[],
                raw_parameters: NO_PARAMETERS,
                parameters: &Parameters::NONE,
                formats: &[],
                telling: Telling::Description,
                returned: None,
            })
        });
        let outcome = match call {
            Some(call) => self.spread(&call).await,
            None => Ok(()),
        };
        self.literals = literals;
        outcome?;
        if self.copy_in.is_some() {
            // The client's data come next.
            return Ok(());
        }
        self.answer_query(Vec::new())
    }

    /// Does the statement; its answer up to CommandComplete is the client's then.
    pub(super) async fn spread(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        self.prepare_for(call).await?;
        let own = self.begin_atomic_read(call).await?;
        let done = self.spread_now(call).await;
        self.end_own(own, done).await
    }

    /// What was asked before is answered, and what the statement does besides is taken note of.
    async fn prepare_for(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        self.check_not_aborted()?;
        self.card.company.runs(call.own_text());
        if self.link.as_ref().is_some_and(Link::is_metadata) {
            self.leave_metadata().await?;
        }
        self.end_unit_of_others().await?;
        if call.statement.leaves.contains(&Leaves::LastValue) {
            // The connections are lent to several statements each, whose values they may hold.
            return Err(unknown_last());
        }
        if call.statement.leaves.contains(&Leaves::SetsSequence) {
            self.sets_sequence();
        }
        if let Some(taken) = &mut self.taken
            && call.statement.takes == Takes::Numbers
        {
            taken.doubt();
        }
        Ok(())
    }

    /// A connection broke before the client had a word of the answer, and all that the statement does is to read.
    fn may_ask_anew(&mut self, call: &Call<'_>, produced: u64, done: &Result<(), Fault>) -> bool {
        let Err(Fault::Broken(loss)) = done else {
            return false;
        };
        // A primary's last words may mean that somebody wants the statement to end.
        let was_replica = matches!(self.reads.lost, Some(Seat::Replica(_)));
        let may = (loss.words.is_none() || was_replica)
            && self.attempts.may_go_on()
            && self.transaction == Transaction::Idle
            && call.statement.effect == Effect::Reads
            && call.statement.leaves.is_empty()
            && self.client.produced() == produced;
        if may {
            self.attempts.count();
        }
        may
    }

    async fn spread_now(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        match call.spread {
            Spread::Scatter { scatter, otherwise } => {
                let produced = self.client.produced();
                let mut done = self.scatter(call, scatter, otherwise).await;
                while self.may_ask_anew(call, produced, &done) {
                    done = self.scatter(call, scatter, otherwise).await;
                }
                done
            }
            Spread::Everywhere(everywhere) => self.do_everywhere(call, *everywhere).await,
            Spread::Rows(rows) => self.do_rows(call, rows).await,
            Spread::Write(write) => self.do_write(call, write).await,
            Spread::Move(moved) => self.do_move(call, moved).await,
            Spread::Delivery(delivery) => self.do_delivery(call, delivery).await,
            Spread::Explain(explained) => self.explain(call, explained).await,
            Spread::Listed(tables) => self.do_listed(call, tables).await,
            Spread::Once(once) => self.do_once(call, once).await,
            Spread::Declare(declared) => self.declare(call, declared).await,
            Spread::Cursor => self.use_cursor(call).await,
            Spread::CopyIn(copy) => self.begin_copy(call, copy).await,
            Spread::CopyOut(copy) => self.copy_out(call, copy).await,
            Spread::Gather(gather) => {
                let produced = self.client.produced();
                let mut done = self.gather(call, gather).await;
                while self.may_ask_anew(call, produced, &done) {
                    done = self.gather(call, gather).await;
                }
                done
            }
            // It has got what it needs before it comes here; the last one never does.
            Spread::Numbered(_) | Spread::Placed(_) | Spread::Prepared(_) => {
                match &call.statement.plan {
                    Err(refusal) => Err(Fault::Refused(refusal.clone())),
                    Ok(_) => Err(self.second_shard(super::route::Destination::Several)),
                }
            }
        }
    }

    /// Tells the client what columns the statement returns.
    pub(super) async fn describe_call(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        if matches!(call.spread, Spread::Cursor) {
            return self.describe_use(call).await;
        }
        self.check_not_aborted()?;
        self.end_unit_of_others().await?;
        let home = self.database.catalog().home;
        let describer = call.spread.describer().unwrap_or(home);
        let mut links = self.enlist(&[describer]).await?;
        let described = self
            .describe_on(&mut links[0], call.own_text(), call.types)
            .await;
        match described {
            Ok(description) => {
                self.finish(links, Ok(())).await?;
                self.tell_columns(&description, call.formats);
                Ok(())
            }
            Err(failure) => self.finish(links, Err(failure)).await,
        }
    }

    pub(super) fn tell_columns(&mut self, description: &Description, formats: &[u16]) {
        let out = &mut self.client.outbox;
        match &description.columns {
            Some(columns) => branch::pass_on(b'T', &with_formats(columns, formats), out),
            None => answer::no_data(out),
        }
    }

    /// Connections to the shards for this statement; they remember what it may do to them.
    async fn enlist_for(
        &mut self,
        call: &Call<'_>,
        shards: &[ShardId],
    ) -> Result<Vec<Link>, Fault> {
        let mut links = self.enlist(shards).await?;
        for link in &mut links {
            note_on(call, link);
        }
        Ok(links)
    }

    /// What ran before in the same unit of work is waited for.
    pub(super) async fn end_unit_of_others(&mut self) -> Result<(), Fault> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        if self.transaction != Transaction::Open {
            if link.has_written() {
                // What was done before in the same unit of work must not be committed on its own.
                self.open_unit_block();
                return self.rest().await;
            }
            return self.end_implicit_unit().await;
        }
        self.rest().await
    }

    /// Ends a unit of work that has only read, outside a transaction block, before its Sync.
    async fn end_implicit_unit(&mut self) -> Result<(), Fault> {
        self.rest().await?;
        self.detach_within_unit();
        Ok(())
    }

    /// Several connections are about to write outside a transaction block: they do it in one of their own, or in that of the unit of work.
    pub(super) fn begin_own(&mut self, telling: Telling) -> Own {
        if self.transaction != Transaction::Idle {
            return Own::No;
        }
        match telling {
            Telling::Description => {
                self.transaction = Transaction::Begun(Prologue::new("BEGIN"));
                Own::Yes
            }
            Telling::Rows => {
                self.open_unit_block();
                Own::No
            }
        }
    }

    /// Ends what [`Session::begin_own`] began.
    pub(super) async fn end_own(&mut self, own: Own, done: Result<(), Fault>) -> Result<(), Fault> {
        if own == Own::No {
            return done;
        }
        let wanted = match &done {
            Ok(()) => Committed::Yes,
            Err(_) => Committed::No,
        };
        match self.transaction {
            Transaction::Open => {
                let mut unsaid = Vec::new();
                let ended = self.end_party(wanted, Chain::No, &mut unsaid).await;
                done.and_then(|()| check_ended(wanted, ended?))
            }
            _ => {
                self.begun_ended(wanted);
                done
            }
        }
    }

    /// Asks one shard what the statement takes and gives.
    pub(super) async fn describe_on(
        &mut self,
        link: &mut Link,
        text: &[u8],
        types: &[u32],
    ) -> Result<Description, Failure> {
        let mut description = Description::default();
        let mut branch = Branch::new(link.server());
        branch.describe(text, types);
        let attended = branch::attend(
            &mut self.client,
            std::slice::from_mut(&mut branch),
            &self.worker.scratch,
            &mut description,
        )
        .await;
        if let Err(failure) = attended {
            if !matches!(failure, Failure::Broken { .. }) {
                self.silence(&mut [branch], Silence::Waits).await;
            }
            return Err(failure);
        }
        Ok(description)
    }

    /// Asks every connection its question and lets the audience hear the answers. Afterwards all connections owe nothing, or are broken.
    pub(super) async fn converse(
        &mut self,
        links: &mut [Link],
        questions: &[Question<'_>],
        audience: &mut impl Audience,
    ) -> Result<(), Failure> {
        self.show_running(links);
        let mut branches: Vec<Branch<'_>> = links
            .iter_mut()
            .map(|link| Branch::new(link.server()))
            .collect();
        for (branch, question) in branches.iter_mut().zip(questions) {
            branch.ask(question);
        }
        let attended = branch::attend(
            &mut self.client,
            &mut branches,
            &self.worker.scratch,
            audience,
        )
        .await;
        let silence = match &attended {
            // To cancel a statement would make the transaction fail.
            Ok(()) if self.transaction == Transaction::Open => Silence::Waits,
            _ => Silence::Cancels,
        };
        self.silence(&mut branches, silence).await;
        attended
    }

    /// Runs a statement of one connection once for each of these rows of parameters.
    pub(super) async fn converse_each(
        &mut self,
        link: &mut Link,
        question: &Question<'_>,
        rows: &[Vec<u8>],
        audience: &mut impl Audience,
    ) -> Result<(), Failure> {
        self.show_running(std::slice::from_mut(link));
        let mut branch = Branch::new(link.server());
        branch.ask_each(question, rows);
        let one = std::slice::from_mut(&mut branch);
        let attended = branch::attend(&mut self.client, one, &self.worker.scratch, audience).await;
        self.silence(one, Silence::Waits).await;
        attended
    }

    /// Cancel requests of the client go to all of these.
    pub(super) fn show_running(&mut self, links: &mut [Link]) {
        let running = links
            .iter_mut()
            .map(|link| Rc::clone(&link.server().canceller));
        self.card.set_also_running(running.collect());
    }

    /// Waits until nothing is owed any more.
    async fn silence(&mut self, branches: &mut [Branch<'_>], how: Silence) {
        if branches.iter().all(Branch::is_done) {
            return;
        }
        if how == Silence::Cancels {
            for branch in branches.iter().filter(|branch| !branch.is_done()) {
                branch.server.canceller.cancel_meanwhile();
            }
        }
        let quiet = branch::quiet(branches, &self.worker.scratch);
        // One that goes on is closed: it is not settled.
        let _ = self.worker.shared.timers.timeout(QUIET, quiet).await;
    }

    /// What the client is told of a failure. `links` are those of the branches.
    pub(super) fn fault_of(&self, failure: Failure) -> Fault {
        match failure {
            Failure::Server { error, .. } => Fault::Server(error),
            Failure::Broken { error, words, .. } => Fault::Broken(Loss {
                error,
                words,
                left: match self.transaction {
                    Transaction::Idle => Left::StatementInDoubt,
                    _ => Left::RolledBack,
                },
            }),
            // The next step of the session finds it gone.
            Failure::Client(_) => Fault::Told,
            Failure::Refused(refusal) => Fault::Refused(refusal),
            Failure::Ours {
                sqlstate,
                message,
                hint,
            } => Fault::Limit {
                sqlstate,
                message,
                hint,
            },
        }
    }

    /// The connections of a statement go back; when it has failed, so has the transaction.
    pub(super) async fn finish(
        &mut self,
        mut links: Vec<Link>,
        done: Result<(), Failure>,
    ) -> Result<(), Fault> {
        if let Err(Failure::Broken { branch, error, .. }) = &done
            && let Some(link) = links.get_mut(*branch)
        {
            self.was_lost(link, error);
            self.pass_by(link);
        }
        self.conclude(links, done).await
    }

    /// Likewise, when it has been told which of them broke.
    async fn conclude(
        &mut self,
        mut links: Vec<Link>,
        done: Result<(), Failure>,
    ) -> Result<(), Fault> {
        let open = self.transaction == Transaction::Open;
        self.settle_links(&mut links).await;
        if open && !links.iter().all(Link::is_settled) {
            self.lose_party(links).await;
        } else {
            self.dismiss(links).await;
            // What is refused fails the transaction when the client is told.
            if done
                .as_ref()
                .is_err_and(|failure| !matches!(failure, Failure::Refused(_)))
            {
                self.fail_party().await;
            }
        }
        done.map_err(|failure| self.fault_of(failure))
    }

    /// A transaction has lost one of its connections: what it did there is gone, so all of it has to be.
    async fn lose_party(&mut self, links: Vec<Link>) {
        self.card.set_running(None);
        self.card.set_also_running(Vec::new());
        self.card.company.disband();
        let mut begin = String::from("BEGIN");
        if let Some(opened) = self.opened.take() {
            begin = opened.begin().to_owned();
        }
        let lost = links
            .into_iter()
            .chain(self.link.take())
            .chain(std::mem::take(&mut self.party));
        for link in lost {
            link.clean_up(&self.worker);
        }
        // Without its savepoints, because none can be gone back to.
        self.transaction = Transaction::Failed(Prologue::new(&begin));
    }

    /// The last word on a change.
    pub(super) fn tell_changed(&mut self, call: &Call<'_>, tag: String) {
        match call.returned {
            Some(returned) => returned.borrow_mut().tag = tag,
            None => self.tell_tag(&tag),
        }
    }

    /// The answer of a statement without rows.
    pub(super) fn tell_tag(&mut self, tag: &str) {
        answer::command_complete(&mut self.client.outbox, tag);
    }
}

/// What leaves out rows that another shard owns, if one of these has any now.
fn needed<'a>(
    own: Option<&'a OwnRows>,
    catalog: &Catalog,
    shards: &[ShardId],
) -> Option<&'a OwnRows> {
    own.filter(|own| catalog.has_foreign_rows(own.key.distribution, shards))
}

/// A position behind the first edit is not one in the client's text: none is better than a wrong one.
fn without_moved_position(failure: Failure, same: Option<usize>) -> Failure {
    let (Failure::Server { branch, error }, Some(same)) = (&failure, same) else {
        return failure;
    };
    let fields = error.split_inclusive(|byte| *byte == 0);
    let moved = |field: &[u8]| match field {
        [b'P', digits @ .., 0] => std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse::<usize>().ok())
            .is_none_or(|position| position > same),
        _ => false,
    };
    let kept: Vec<&[u8]> = fields.filter(|field| !moved(field)).collect();
    Failure::Server {
        branch: *branch,
        error: kept.concat(),
    }
}

/// The format of a column, as Bind has them: none, one for all, or one for each.
fn format_of(formats: &[u16], column: usize) -> u16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(column).copied().unwrap_or(0),
    }
}

/// The body of a RowDescription with the formats that a Bind has chosen; one that cannot be read stays as it is.
fn with_formats(body: &[u8], formats: &[u16]) -> Vec<u8> {
    let Ok(mut described) = columns::decode(body) else {
        return body.to_vec();
    };
    for (number, column) in described.iter_mut().enumerate() {
        column.format = format_of(formats, number);
    }
    let mut out = Vec::with_capacity(body.len());
    columns::encode(&described, &mut out);
    out
}

/// Whether a statement runs in a transaction that the client has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Yes,
    No,
}

/// How branches that are not needed any more come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    Waits,
    Cancels,
}
