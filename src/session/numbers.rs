//! Numbers that Trunkline takes from sequences of the home shard, for statements that would otherwise take them from a shard's own.
//!
//! They are taken in blocks, as a server does it with CACHE, and outside of the client's transaction, in which a number is lost as well when it
//! is rolled back. Every user has blocks of its own, because every user needs its own permission. A statement gets its numbers as
//! literals, or as parameters of ours when it is a prepared one; what comes of it is planned and run like any other.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Session;
use super::effects::literal;
use super::last_values::{Known, unknown_last};
use super::link::{Link, Naming, Phase, run};
use super::reads::Seeks;
use super::respond::{Fault, Loss};
use super::route::Destination;
use super::statement::{Definitions, Statement, StatementPlan};
use crate::backend::pipeline::Request;
use crate::backend::pool::Lent;
use crate::backend::position::Shift;
use crate::catalog::{Epoch, QualifiedName};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::numbered::{self, Number, Written};
use crate::plan::{Numbered, Planned};
use crate::sharding::ShardId;
use crate::wire::frame::HEADER;
use crate::wire::message::{self, Bind, Parse};

/// Numbers that a thread keeps of one database, at most. What is taken beyond that is lost.
const MOST_KEPT: usize = 1 << 20;

/// Of the type that sequences give.
const BIGINT: u32 = 20;

/// Numbers that were taken and not used yet, by user and sequence.
#[derive(Default)]
pub struct Stock {
    blocks: HashMap<Box<str>, HashMap<QualifiedName, VecDeque<i64>>>,
    kept: usize,
    as_of: Option<AsOf>,
}

/// What may have set a sequence to another number since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    pub definitions: Definitions,
    pub resets: u64,
}

impl Stock {
    /// So many numbers, if they are all there.
    fn take(
        &mut self,
        user: &str,
        sequence: &QualifiedName,
        count: usize,
        now: AsOf,
    ) -> Option<Vec<i64>> {
        self.keep_up(now);
        let block = self.blocks.get_mut(user)?.get_mut(sequence)?;
        if block.len() < count {
            return None;
        }
        self.kept -= count;
        Some(block.drain(..count).collect())
    }

    fn put(&mut self, user: &str, sequence: &QualifiedName, numbers: &[i64], as_of: AsOf) {
        self.keep_up(as_of);
        let numbers = &numbers[..numbers.len().min(MOST_KEPT - self.kept)];
        if numbers.is_empty() {
            return;
        }
        self.kept += numbers.len();
        let of_user = self.blocks.entry(Box::from(user)).or_default();
        let block = of_user.entry(sequence.clone()).or_default();
        block.extend(numbers);
    }

    /// In front of the others.
    fn put_back(
        &mut self,
        user: &str,
        sequence: &QualifiedName,
        numbers: VecDeque<i64>,
        as_of: AsOf,
    ) {
        let kept = self.take_all(user, sequence);
        self.put(user, sequence, &Vec::from(numbers), as_of);
        self.put(user, sequence, &kept, as_of);
    }

    fn take_all(&mut self, user: &str, sequence: &QualifiedName) -> Vec<i64> {
        let of_user = self.blocks.get_mut(user);
        let block = of_user.and_then(|of_user| of_user.remove(sequence));
        let numbers = Vec::from(block.unwrap_or_default());
        self.kept -= numbers.len();
        numbers
    }

    fn keep_up(&mut self, now: AsOf) {
        if self.as_of != Some(now) {
            *self = Stock {
                as_of: Some(now),
                ..Stock::default()
            };
        }
    }
}

/// Whether the open transaction may have set a sequence to another number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sequences {
    #[default]
    AsOthersSeeThem,
    Set,
}

/// A Bind of a statement with its numbers.
pub struct NumberedBind {
    pub body: Vec<u8>,
    pub statement: Rc<Statement>,
}

impl Session {
    /// A simple query whose statements need numbers.
    pub(super) async fn query_with_numbers(
        &mut self,
        planned: &Rc<Planned>,
        text: &[u8],
    ) -> Result<(), Fault> {
        let literals = self.literals.clone();
        let needed = planned.statements.iter().filter_map(|one| one.numbered());
        let needed: Vec<&Numbered> = needed.collect();
        let wanted: Vec<Number> = needed
            .iter()
            .flat_map(|numbered| numbered.numbers.iter().cloned())
            .collect();
        let Some(numbers) = self.draw(&wanted).await? else {
            return self.query_as_it_is(planned, text).await;
        };
        let written = Written::Literals(&numbers);
        let (given, replaced) = numbered::write(&needed, written, text, &literals);
        let shift = Shift::new(text, 0, replaced);
        let text = given;
        let planned = self.plan(&text)?;
        check_has_numbers(&planned)?;
        match self.destination_of_query(&planned, &text)? {
            Some(Destination::Several) => self.spread_query(&planned, &text).await,
            destination => {
                self.will_run(&planned);
                self.attach(destination.unwrap_or(Destination::Any), Phase::Working)
                    .await?;
                self.check_last_values()?;
                let mut frame = Vec::with_capacity(text.len() + 6);
                message::encode_query(&text, &mut frame);
                let token = self.note(&planned);
                if let Some(link) = &mut self.link {
                    link.forget_unnamed();
                    link.send_shifted(&frame, Request::Query, token, &shift);
                }
                Ok(())
            }
        }
    }

    /// A simple query that asks for last values which its server knows.
    async fn query_as_it_is(&mut self, planned: &Rc<Planned>, text: &[u8]) -> Result<(), Fault> {
        let destination = self.destination_of_query(&planned.as_it_is(), text)?;
        self.will_run(planned);
        self.asks_server();
        self.attach(destination.unwrap_or(Destination::Any), Phase::Working)
            .await?;
        self.check_last_values()?;
        let mut frame = Vec::with_capacity(text.len() + 6);
        message::encode_query(text, &mut frame);
        self.forward_query(planned, &frame);
        Ok(())
    }

    /// A Bind of a statement that needs numbers, with them; `None`: its server has them.
    pub(super) async fn bind_with_numbers(
        &mut self,
        bind: &Bind<'_>,
        statement: &Rc<Statement>,
        naming: Naming,
    ) -> Result<Option<NumberedBind>, Fault> {
        self.check_not_aborted()?;
        let plan = self.plan_statement(statement)?;
        let mut statements = plan.planned.statements.iter();
        let Some(numbered) = statements.find_map(|one| one.numbered()) else {
            return Err(self.second_shard(Destination::Several));
        };
        let parameters = own_parameters(numbered, statement);
        if bind.parameter_count != parameters {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {parameters}",
                bind.parameter_count,
                String::from_utf8_lossy(bind.statement)
            );
            return Err(Fault::Postgres {
                sqlstate: "08P01",
                message,
            });
        }
        let given = self.statement_with_numbers(statement, naming, numbered, plan.epoch)?;
        let given_plan = self.plan_statement(&given)?;
        check_has_numbers(&given_plan.planned)?;
        let Some(numbers) = self.draw(&numbered.numbers).await? else {
            return Ok(None);
        };
        Ok(Some(NumberedBind {
            body: encode_bind(bind, &numbers)?,
            statement: given,
        }))
    }

    /// The statement with parameters in the places of numbers; made once for each catalog.
    fn statement_with_numbers(
        &self,
        statement: &Rc<Statement>,
        naming: Naming,
        numbered: &Numbered,
        epoch: Epoch,
    ) -> Result<Rc<Statement>, Fault> {
        if let Some((as_of, given)) = &*statement.with_numbers.borrow()
            && *as_of == epoch
        {
            return Ok(Rc::clone(given));
        }
        let literals = statement.plan.borrow();
        let literals = literals.as_ref().map_or(&[][..], |plan| &plan.literals);
        let own = own_parameters(numbered, statement);
        let count = usize::from(own) + numbered.numbers.len();
        let count = u16::try_from(count).map_err(|_| too_many_parameters(count))?;
        let written = Written::Parameters(own.saturating_add(1));
        let (text, _) = numbered::write(&[numbered], written, statement.text(), literals);
        let types = (0..usize::from(count)).map(|place| match place < usize::from(own) {
            true => statement.types.get(place).copied().unwrap_or(0),
            false => BIGINT,
        });
        let given = self.statement_of(&text, types.collect(), naming)?;
        let described = statement.for_servers.borrow();
        let described = described.as_ref().unwrap_or(statement);
        given.has_shape_beside(described, numbered.numbers.len(), BIGINT);
        *statement.with_numbers.borrow_mut() = Some((epoch, Rc::clone(&given)));
        Ok(given)
    }

    /// What a server is given to parse and describe in the place of a statement with functions that it does not have.
    pub(super) fn statement_for_servers(
        &self,
        statement: &Rc<Statement>,
        naming: Naming,
        plan: &StatementPlan,
    ) -> Result<Rc<Statement>, Fault> {
        let mut statements = plan.planned.statements.iter();
        let Some(numbered) = statements.find_map(|one| one.numbered()) else {
            return Ok(Rc::clone(statement));
        };
        if !numbered.numbers.contains(&Number::UniqueId) {
            return Ok(Rc::clone(statement));
        }
        if let Some(known) = &*statement.for_servers.borrow() {
            return Ok(Rc::clone(known));
        }
        // It takes and returns the same.
        let zeros = vec![0; numbered.numbers.len()];
        let written = Written::Literals(&zeros);
        let (text, _) = numbered::write(&[numbered], written, statement.text(), &plan.literals);
        let given = self.statement_of(&text, statement.types.to_vec(), naming)?;
        *statement.for_servers.borrow_mut() = Some(Rc::clone(&given));
        Ok(given)
    }

    fn statement_of(
        &self,
        text: &[u8],
        types: Vec<u32>,
        naming: Naming,
    ) -> Result<Rc<Statement>, Fault> {
        let count = u16::try_from(types.len()).map_err(|_| too_many_parameters(types.len()))?;
        let mut body = vec![0];
        body.extend_from_slice(text);
        body.push(0);
        body.extend_from_slice(&count.to_be_bytes());
        for declared in types {
            body.extend_from_slice(&declared.to_be_bytes());
        }
        let parse = Parse::decode(&body).map_err(Fault::Violation)?;
        let mut statements = self.worker.statements.borrow_mut();
        Ok(
            if naming == Naming::Unnamed || self.sees_own_definitions() {
                statements.own(&parse, &self.meaning())
            } else {
                statements.shared(&parse, &self.meaning())
            },
        )
    }

    /// A statement that is about to run sets a sequence to another number.
    pub(super) fn sets_sequence(&mut self) {
        self.sequences = Sequences::Set;
        self.worker.shared.sequences_were_reset();
    }

    /// The transaction has ended: what it set holds for everybody, or never did.
    pub(super) fn sequences_settle(&mut self) {
        if std::mem::take(&mut self.sequences) == Sequences::Set {
            self.worker.shared.sequences_were_reset();
        }
    }

    /// These numbers, in their order; `None`: a server knows the last values that are asked for.
    async fn draw(&mut self, wanted: &[Number]) -> Result<Option<Vec<i64>>, Fault> {
        let Some(last) = self.last_of(wanted)? else {
            return Ok(None);
        };
        let mut drawn: Vec<(&QualifiedName, VecDeque<i64>)> = Vec::new();
        for number in wanted {
            if let Number::Next(sequence) = number
                && !drawn.iter().any(|(name, _)| *name == sequence)
            {
                let count = wanted.iter().filter(|other| *other == number).count();
                let numbers = self.take_numbers(sequence, count).await?;
                drawn.push((sequence, numbers.into()));
            }
        }
        self.remember_taken(&drawn);
        let mut last = last.into_iter();
        let mut numbers = Vec::with_capacity(wanted.len());
        for number in wanted {
            let next = match number {
                Number::Next(sequence) => {
                    let mut drawn = drawn.iter_mut();
                    let block = drawn.find(|(name, _)| *name == sequence);
                    block.and_then(|(_, block)| block.pop_front())
                }
                Number::Current(_) | Number::Last => last.next(),
                Number::UniqueId => Some(self.unique_id()?),
            };
            numbers.push(next.expect("as many were taken as are wanted"));
        }
        Ok(Some(numbers))
    }

    /// The last values that are wanted; `None`: a server knows them.
    fn last_of(&self, wanted: &[Number]) -> Result<Option<Vec<i64>>, Fault> {
        let (mut here, mut there) = (Vec::new(), 0);
        for number in wanted {
            let known = match number {
                Number::Current(sequence) => {
                    // Which of them comes first is for a server to say.
                    if wanted.contains(&Number::Next(sequence.clone())) {
                        return Err(unknown_last());
                    }
                    self.knows_last(Some(sequence))
                }
                Number::Last if wanted.iter().any(|one| matches!(one, Number::Next(_))) => {
                    return Err(unknown_last());
                }
                Number::Last => self.knows_last(None),
                Number::Next(_) | Number::UniqueId => continue,
            };
            match known {
                Known::Here(value) => here.push(value),
                Known::AtServer => there += 1,
                Known::Nowhere => return Err(unknown_last()),
            }
        }
        match (here.len(), there) {
            (_, 0) => Ok(Some(here)),
            (0, there) if there == wanted.len() => Ok(None),
            _ => Err(unknown_last()),
        }
    }

    fn unique_id(&self) -> Result<i64, Fault> {
        let Some(proxy) = self.worker.config().proxy_id else {
            let message = "trunkline.unique_id() needs a proxy_id in the configuration";
            return Err(Fault::Refused(Refusal::new(Reason::UniqueId, message)));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_millis());
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        unique_id(&self.worker.shared.last_unique_id, now, proxy).ok_or_else(|| {
            let message = "the clock says that it is 2093, up to which there are unique ids";
            Fault::Refused(Refusal::new(Reason::UniqueId, message))
        })
    }

    /// What currval and lastval give from now on.
    fn remember_taken(&mut self, drawn: &[(&QualifiedName, VecDeque<i64>)]) {
        if drawn.is_empty() {
            return;
        }
        let taken = self.taken.get_or_insert_default();
        for (sequence, numbers) in drawn {
            if let Some(number) = numbers.back() {
                taken.take(sequence, *number);
            }
        }
        if drawn.len() > 1 {
            // In which order they are taken for a row is for a server to say.
            taken.doubt_last();
        }
    }

    /// The sequence's next numbers.
    pub(super) async fn take_numbers(
        &mut self,
        sequence: &QualifiedName,
        count: usize,
    ) -> Result<Vec<i64>, Fault> {
        if self.has_changed_sequences() {
            // Others may not see what it has set, or have to wait for its end.
            self.end_unit_of_others().await?;
            self.worker.shared.sequences_were_reset();
            let numbers = self.ask_home(sequence, count, On::OwnConnection).await?;
            return exactly(numbers, count, sequence);
        }
        let as_of = self.numbers_as_of();
        let database = Rc::clone(&self.database);
        let user = Rc::clone(&self.user);
        let kept = database
            .numbers
            .borrow_mut()
            .take(&user.name, sequence, count, as_of);
        if let Some(numbers) = kept {
            return Ok(numbers);
        }
        let block = self.sequence_block();
        let block = count.max(block);
        let numbers = self.ask_home(sequence, block, On::AnyConnection);
        let mut numbers = exactly(numbers.await?, block, sequence)?;
        let left = numbers.split_off(count);
        let mut stock = database.numbers.borrow_mut();
        // What was set meanwhile holds for the numbers that are kept, too.
        if self.numbers_as_of() == as_of {
            stock.put(&user.name, sequence, &left, as_of);
        }
        Ok(numbers)
    }

    /// Numbers that are not needed after all.
    pub(super) fn give_back_numbers(
        &mut self,
        sequence: &QualifiedName,
        numbers: VecDeque<i64>,
        as_of: AsOf,
    ) {
        if self.numbers_as_of() == as_of {
            let mut stock = self.database.numbers.borrow_mut();
            stock.put_back(&self.user.name, sequence, numbers, as_of);
        }
    }

    /// The open transaction may have made sequences or set them to other numbers.
    pub(super) fn has_changed_sequences(&self) -> bool {
        self.sequences == Sequences::Set || self.schema_changed
    }

    pub(super) fn numbers_as_of(&self) -> AsOf {
        let shared = &self.worker.shared;
        AsOf {
            definitions: shared.definitions(),
            resets: shared.sequence_resets(),
        }
    }

    fn sequence_block(&self) -> usize {
        let config = self.worker.config();
        let mut databases = config.databases.iter();
        let database = databases.find(|known| *known.name == *self.database.name);
        database.map_or(1, |database| database.sequence_block as usize)
    }

    /// So many numbers of the home shard's sequence. They are taken beside the client's transaction; on its own connection only where the
    /// pool has no other at once, because to wait for one while holding one could be to wait for oneself.
    async fn ask_home(
        &mut self,
        sequence: &QualifiedName,
        count: usize,
        on: On,
    ) -> Result<Vec<i64>, Fault> {
        let (schema, name) = sequence;
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let name = format!("{}.{}", quoted(schema), quoted(name));
        // What was taken here must not be seen by currval and lastval.
        let sql = format!(
            "SELECT pg_catalog.nextval({}::pg_catalog.regclass) FROM pg_catalog.generate_series(1, {count}); DISCARD SEQUENCES",
            literal(&name)
        );
        let home = self.database.catalog().home;
        let free = match on {
            On::OwnConnection if self.has_connection_to(home) => None,
            On::OwnConnection | On::AnyConnection => self.pool(home)?.try_checkout(Instant::now()),
        };
        if free.is_none() && self.has_connection_to(home) {
            self.end_unit_of_others().await?;
        }
        let mut answer = Vec::new();
        let own = self.link.iter_mut().chain(&mut self.party);
        let mut own = own.chain(&mut self.kept);
        if free.is_none()
            && let Some(link) = own.find(|link| link.serves(home, Seeks::Primary))
        {
            let asked = link
                .server()
                .capture(&sql, &self.worker.scratch, &mut answer);
            asked
                .await
                .map_err(|error| Fault::Broken(Loss::before(error)))?;
            return numbers_of(&answer);
        }
        let lent = match free {
            Some(lent) => lent,
            None => self.checkout(home).await?,
        };
        match self.ask_beside(lent, &sql).await {
            // One that was idle may have gone unseen. What it gave is lost, as numbers may be.
            Err(Fault::Broken(..)) => {
                let lent = self.checkout(home).await?;
                self.ask_beside(lent, &sql).await
            }
            asked => asked,
        }
    }

    /// On a connection of the pool.
    async fn ask_beside(&mut self, lent: Lent, sql: &str) -> Result<Vec<i64>, Fault> {
        let mut answer = Vec::new();
        let worker = Rc::clone(&self.worker);
        let mut link = Link::new(lent, Phase::Working, self.mode);
        let server = link.server();
        if !server.settings.is_same(&self.settings) {
            if let Some(sql) = server.settings.statements_to(&self.settings) {
                run(server, &sql, &worker).await?;
            }
            server.settings = self.settings.clone();
        }
        // The client may cancel it.
        self.card
            .set_also_running(vec![Rc::clone(&server.canceller)]);
        let asked = server.capture(sql, &worker.scratch, &mut answer).await;
        self.card.set_also_running(Vec::new());
        asked.map_err(|error| Fault::Broken(Loss::before(error)))?;
        link.give_back(&worker, Instant::now());
        numbers_of(&answer)
    }

    fn has_connection_to(&self, shard: ShardId) -> bool {
        let mut links = self.link.iter().chain(&self.party).chain(&self.kept);
        links.any(|link| link.serves(shard, Seeks::Primary))
    }
}

/// Which connection is asked for numbers, if there is a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    AnyConnection,
    OwnConnection,
}

fn exactly(numbers: Vec<i64>, count: usize, (_, name): &QualifiedName) -> Result<Vec<i64>, Fault> {
    if numbers.len() == count {
        return Ok(numbers);
    }
    let message = format!(
        "sequence \"{name}\" gave {} numbers of {count}",
        numbers.len()
    );
    Err(Fault::Postgres {
        sqlstate: "XX000",
        message,
    })
}

/// The parameters that the client has to bind.
fn own_parameters(numbered: &Numbered, statement: &Statement) -> u16 {
    let declared = u16::try_from(statement.types.len()).unwrap_or(u16::MAX);
    numbered.parameters.max(declared)
}

/// A statement that has its numbers needs no others: what it needs would be taken without an end.
fn check_has_numbers(planned: &Planned) -> Result<(), Fault> {
    if !planned.is_numbered() {
        return Ok(());
    }
    let message = "the statement would take numbers from a sequence of its shard";
    Err(Fault::Refused(Refusal::new(
        Reason::SequenceDefault,
        message,
    )))
}

fn too_many_parameters(count: usize) -> Fault {
    Fault::Postgres {
        sqlstate: "54000",
        message: format!("the statement would have {count} parameters with those for its numbers"),
    }
}

/// The Bind message with numbers behind the client's parameters.
fn encode_bind(bind: &Bind<'_>, numbers: &[i64]) -> Result<Vec<u8>, Fault> {
    let count = usize::from(bind.parameter_count) + numbers.len();
    let count = u16::try_from(count).map_err(|_| too_many_parameters(count))?;
    let formats: Vec<u16> = bind.formats.codes().collect();
    let binary = matches!(formats[..], [1]);
    let mut body = Vec::with_capacity(64 + bind.raw_values().len() + 24 * numbers.len());
    for name in [bind.portal, b""] {
        body.extend_from_slice(name);
        body.push(0);
    }
    let more = match formats[..] {
        [] | [_] => 0,
        _ => numbers.len(),
    };
    let format_count = u16::try_from(formats.len() + more).unwrap_or(count);
    body.extend_from_slice(&format_count.to_be_bytes());
    for format in formats.iter().copied().chain(std::iter::repeat_n(0, more)) {
        body.extend_from_slice(&format.to_be_bytes());
    }
    body.extend_from_slice(&count.to_be_bytes());
    body.extend_from_slice(bind.raw_values());
    for number in numbers {
        if binary {
            body.extend_from_slice(&8_i32.to_be_bytes());
            body.extend_from_slice(&number.to_be_bytes());
        } else {
            let text = number.to_string();
            let length = u32::try_from(text.len()).expect("a number has at most 20 digits");
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
    }
    let results = u16::try_from(bind.result_formats.count()).expect("it was read as 16 bits");
    body.extend_from_slice(&results.to_be_bytes());
    body.extend_from_slice(bind.result_formats.raw());
    Ok(body)
}

/// The first column of a server's rows, or its error.
fn numbers_of(answer: &[u8]) -> Result<Vec<i64>, Fault> {
    let mut numbers = Vec::new();
    let mut rest = answer;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (body, behind) = after.split_at(length.saturating_sub(4).min(after.len()));
        match header[0] {
            b'E' => return Err(Fault::Server(body.to_vec())),
            b'D' => numbers.extend(number_in(body)),
            _ => {}
        }
        rest = behind;
    }
    Ok(numbers)
}

/// A row's first column: behind the number of columns and its length.
fn number_in(row: &[u8]) -> Option<i64> {
    std::str::from_utf8(row.get(6..)?).ok()?.parse().ok()
}

/// Identifiers of one proxy: 41 bits of milliseconds since 2024, 10 bits of the proxy, 12 bits of a counter.
pub fn unique_id(last: &AtomicU64, milliseconds: u64, proxy: u16) -> Option<i64> {
    const SINCE: u64 = 1_704_067_200_000;
    const COUNTER: u32 = 12;
    const PROXY: u32 = 10;
    let now = milliseconds.saturating_sub(SINCE) << COUNTER;
    // A counter that is used up runs into the next millisecond, and a clock that goes back is not followed.
    let next = |last: u64| now.max(last + 1);
    let last = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(next(last))
    });
    let own = next(last.unwrap_or_default());
    let (time, count) = (own >> COUNTER, own & ((1 << COUNTER) - 1));
    let id = (((time << PROXY) | u64::from(proxy)) << COUNTER) | count;
    i64::try_from(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_gives_all_or_nothing_and_forgets_what_was_set_anew() {
        let name = |name: &str| (Box::from("public"), Box::from(name));
        let now = AsOf {
            definitions: Definitions::default(),
            resets: 0,
        };
        let mut stock = Stock::default();
        stock.put("one", &name("s"), &[1, 2, 3], now);
        assert_eq!(stock.take("two", &name("s"), 1, now), None);
        assert_eq!(stock.take("one", &name("t"), 1, now), None);
        assert_eq!(stock.take("one", &name("s"), 4, now), None);
        assert_eq!(stock.take("one", &name("s"), 2, now), Some(vec![1, 2]));
        let later = AsOf { resets: 1, ..now };
        assert_eq!(stock.take("one", &name("s"), 1, later), None);
        assert_eq!(stock.kept, 0);
    }

    #[test]
    fn unique_ids_are_unique_and_in_order() {
        let (one, two) = (AtomicU64::new(0), AtomicU64::new(0));
        let now = 1_800_000_000_000;
        let mut ids = Vec::new();
        for (last, proxy) in [(&one, 3), (&two, 1023)] {
            let mut own = Vec::new();
            for step in 0..20_000 {
                // The clock stands still, and goes back.
                let clock = if step < 15_000 { now } else { now - 5 };
                own.push(unique_id(last, clock, proxy).expect("it is not that late"));
            }
            assert!(own.is_sorted_by(|one, other| one < other));
            ids.extend(own);
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 40_000);
        let later = unique_id(&one, now + 1000, 0).expect("it is not that late");
        assert!(ids.iter().all(|id| *id < later && *id > 0));
        assert_eq!(unique_id(&one, 5_000_000_000_000, 0), None);
    }

    #[test]
    fn a_bind_gets_numbers_in_its_own_format() {
        let bound = |formats: &[u16], values: &[&[u8]]| {
            let mut body = vec![0, 0];
            let number = |count: usize| u16::try_from(count).expect("few").to_be_bytes();
            body.extend_from_slice(&number(formats.len()));
            formats
                .iter()
                .for_each(|format| body.extend_from_slice(&format.to_be_bytes()));
            body.extend_from_slice(&number(values.len()));
            for value in values {
                let length = u32::try_from(value.len()).expect("short");
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(value);
            }
            body.extend_from_slice(&[0, 1, 0, 1]);
            let bind = Bind::decode(&body).expect("made well");
            let given = encode_bind(&bind, &[-7]).expect("few parameters");
            let bind = Bind::decode(&given).expect("a Bind");
            assert_eq!(bind.result_formats.raw(), [0, 1]);
            let values = bind.values().map(|value| value.expect("no NULL").to_vec());
            (bind.formats.raw().to_vec(), values.collect::<Vec<_>>())
        };
        assert_eq!(bound(&[], &[]), (vec![], vec![b"-7".to_vec()]));
        let binary = (-7_i64).to_be_bytes().to_vec();
        assert_eq!(
            bound(&[1], &[b"a", b"b"]),
            (vec![0, 1], vec![b"a".to_vec(), b"b".to_vec(), binary])
        );
        assert_eq!(
            bound(&[0, 1], &[b"a", b"b"]),
            (
                vec![0, 0, 0, 1, 0, 0],
                vec![b"a".to_vec(), b"b".to_vec(), b"-7".to_vec()]
            )
        );
    }
}
