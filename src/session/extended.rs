//! The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync.
//!
//! A Parse says nothing about a shard, so it waits (is *held*) until a Bind shows where the statement goes, or until the client
//! wants an answer; then any shard may check it. Statements have one name on servers for all clients. What the session
//! answers itself takes its place among the server's answers.

use std::rc::Rc;

use super::Session;
use super::control::{Control, is_ours};
use super::effects::{Effect, Looking, Parsing};
use super::link::{Link, Naming, Phase};
use super::own_settings::OwnSetting;
use super::prepared::Untold;
use super::respond::{End, Fault};
use super::route::Destination;
use super::shape::Difference;
use super::spread::cursor::Cursor;
use super::spread::declare::cursor_exists;
use super::spread::portal::SpreadPortal;
use super::statement::{Meaning, Source, Statement};
use super::straight::Decided;
use super::transaction::{Opener, Transaction};
use super::worker::add;
use crate::backend::pipeline::{Committed, Fate, Request, Token};
use crate::backend::position::Shift;
use crate::backend::prepared::NAME;
use crate::execution::branch::pass_on;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{Checkable, Creates, Parameters, Passage, Planned, PlannedStatement, Values};
use crate::sharding::ShardId;
use crate::sql::class::{Class, Closing, ConfigCall, ConfigValue, CopyDirection};
use crate::sql::normalise::Literal;
use crate::wire::answer::{self, Severity};
use crate::wire::frame::HEADER;
use crate::wire::message::{Bind, Close, Describe, Execute, Parse, Target};

/// The messages since the last Sync, as far as no server has them.
#[derive(Default)]
pub struct Batch {
    held: Vec<Held>,
    reading: Reading,
    /// Portals that the session answers itself, by name.
    portals: Vec<(Box<[u8]>, OwnPortal)>,
    /// How many results were taken in portions.
    cursors: u64,
    /// Cursors that one shard has, until the end of the transaction.
    declared: Vec<OnOneShard>,
}

/// A cursor as one shard has it.
struct OnOneShard {
    name: Box<str>,
    shard: ShardId,
    /// How many savepoints the transaction had.
    depth: usize,
}

/// What a portal that the session answers does.
#[derive(Clone)]
pub enum OwnPortal {
    /// What needs no table.
    Control(Rc<Statement>),
    /// What several shards do.
    Spread(Rc<SpreadPortal>),
}

/// What waits for a connection.
pub enum Held {
    Parse(Parsing),
    Answer(Vec<u8>),
}

/// Whether messages are dealt with, or ignored up to the next Sync because one has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    On,
    /// Something under way changes what names mean: it has to be known before the next message is dealt with.
    Learning,
    /// The current connection's server may lack the tables of a Parse: before the next message one to this shard takes its place.
    Elsewhere(ShardId),
    Skipping,
}

impl Batch {
    pub fn is_open(&self) -> bool {
        !self.held.is_empty() || self.reading == Reading::Skipping
    }

    /// What comes up to the next Sync is ignored, queries too.
    pub fn is_skipping(&self) -> bool {
        self.reading == Reading::Skipping
    }

    /// Messages are dealt with as they come.
    pub fn goes_on(&self) -> bool {
        self.reading == Reading::On
    }

    /// The rest up to Sync is ignored.
    pub fn skip(&mut self) {
        self.held.clear();
        self.reading = Reading::Skipping;
    }

    /// An answer of ours while no connection works for the session.
    pub fn answer(&mut self, bytes: Vec<u8>, out: &mut Vec<u8>) {
        if self.held.is_empty() {
            out.extend_from_slice(&bytes);
        } else {
            self.held.push(Held::Answer(bytes));
        }
    }

    pub fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// The emptied list, to be filled again.
    pub fn give_back_held(&mut self, emptied: Vec<Held>) {
        self.held = emptied;
    }

    /// A statement among those that wait must be seen by a server before the client can be answered.
    fn needs_server(&self) -> bool {
        self.held
            .iter()
            .any(|held| matches!(held, Held::Parse(parsing) if !parsing.statement.accepted.get()))
    }

    /// The answers that wait, where every statement is known to be good.
    pub(super) fn release(&mut self, out: &mut Vec<u8>) {
        for held in self.held.drain(..) {
            match held {
                Held::Answer(bytes) => out.extend_from_slice(&bytes),
                Held::Parse(_) => answer::parse_complete(out),
            }
        }
    }

    fn portal(&self, name: &[u8]) -> Option<OwnPortal> {
        self.portals
            .iter()
            .find(|(portal, _)| **portal == *name)
            .map(|(_, own)| own.clone())
    }

    /// Portals end with their transaction, but for cursors WITH HOLD of one that is committed.
    pub fn transaction_ended(&mut self, committed: Committed) {
        self.retain_portals(committed);
        self.declared.clear();
    }

    fn retain_portals(&mut self, committed: Committed) {
        if self.portals.is_empty() {
            return;
        }
        self.portals.retain(|(_, own)| match own {
            OwnPortal::Spread(portal) => portal.outlives_transaction(committed),
            OwnPortal::Control(_) => false,
        });
    }

    /// CLOSE ALL.
    pub(super) fn close_cursors(&mut self) {
        self.portals.clear();
        self.declared.clear();
    }

    /// Bytes of rows that are kept for cursors.
    pub(super) fn kept_bytes(&self) -> usize {
        let portals = self.spread_portals();
        portals.map(|(_, portal)| portal.kept_bytes()).sum()
    }

    /// The session answers for this portal.
    pub fn has_portal(&self, name: &[u8]) -> bool {
        self.portals.iter().any(|(portal, _)| **portal == *name)
    }

    pub(super) fn close_portal(&mut self, name: &[u8]) -> bool {
        let before = self.portals.len();
        self.portals.retain(|(portal, _)| **portal != *name);
        self.portals.len() < before
    }

    fn spread_portals(&self) -> impl Iterator<Item = (&[u8], &SpreadPortal)> {
        self.portals.iter().filter_map(|(name, own)| match own {
            OwnPortal::Spread(portal) => Some((&**name, &**portal)),
            OwnPortal::Control(_) => None,
        })
    }

    pub(super) fn has_portals(&self) -> bool {
        !self.portals.is_empty()
    }

    /// Servers have portals for the one of this name, so that whoever closes it has to tell them.
    pub(super) fn has_open_portal(&self, name: &[u8]) -> bool {
        self.spread_portals()
            .any(|(known, portal)| *known == *name && portal.is_open())
    }

    /// A cursor over several shards.
    pub(super) fn cursor(&self, name: &str) -> Option<Rc<SpreadPortal>> {
        self.portals.iter().find_map(|(known, own)| match own {
            OwnPortal::Spread(portal)
                if **known == *name.as_bytes() && portal.as_declared().is_some() =>
            {
                Some(Rc::clone(portal))
            }
            _ => None,
        })
    }

    pub(super) fn add_cursor(&mut self, name: &str, portal: Rc<SpreadPortal>) {
        let own = OwnPortal::Spread(portal);
        self.portals.push((Box::from(name.as_bytes()), own));
    }

    /// A cursor, or a portal, which is the same, has this name.
    pub(super) fn knows_cursor(&self, name: &str) -> bool {
        self.has_portal(name.as_bytes()) || self.shard_of_cursor(name).is_some()
    }

    /// Where a cursor was declared that one shard has.
    pub(super) fn shard_of_cursor(&self, name: &str) -> Option<ShardId> {
        let declared = self.declared.iter().rev();
        let mut found = declared.filter(|cursor| *cursor.name == *name);
        found.next().map(|cursor| cursor.shard)
    }

    pub(super) fn declared_on(&mut self, name: &str, shard: ShardId, depth: usize) {
        self.declared.push(OnOneShard {
            name: Box::from(name),
            shard,
            depth,
        });
    }

    /// It is closed where it was declared.
    pub(super) fn closed_on_shard(&mut self, closing: &Closing) {
        match closing {
            Closing::All => self.close_cursors(),
            Closing::One(name) => self.declared.retain(|cursor| cursor.name != *name),
        }
    }

    pub(super) fn open_portals(&self) -> Vec<Box<[u8]>> {
        let open = self.spread_portals().filter(|(_, portal)| portal.is_open());
        open.map(|(name, _)| Box::from(name)).collect()
    }

    /// What servers have for this portal, which is run no more.
    pub(super) fn take_cursor(&mut self, name: &[u8]) -> Option<Box<Cursor>> {
        self.spread_portals()
            .find(|(known, _)| **known == *name)
            .and_then(|(_, portal)| portal.take_cursor())
    }

    /// A number for portals on servers.
    pub(super) fn next_cursor(&mut self) -> u64 {
        self.cursors += 1;
        self.cursors
    }

    /// Portals end with the savepoint behind which they were bound.
    pub(super) fn back_to_savepoint(&mut self, place: usize) {
        self.declared.retain(|cursor| cursor.depth <= place);
        self.portals.retain(|(_, own)| match own {
            OwnPortal::Spread(portal) => portal.outlives(place),
            OwnPortal::Control(_) => true,
        });
    }

    pub(super) fn release_savepoint(&mut self, place: usize) {
        for cursor in &mut self.declared {
            cursor.depth = cursor.depth.min(place);
        }
        self.spread_portals()
            .for_each(|(_, portal)| portal.released(place));
    }
}

/// A portal on the current connection whose execution changes the session.
pub struct Portal {
    name: Box<[u8]>,
    planned: Rc<Planned>,
    /// It was bound to a text in which a name was replaced.
    shift: Option<Shift>,
}

/// Who knows the last values that a statement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedOf {
    Unknown,
    Server,
}

/// A Bind whose destination is known.
pub struct Binding<'a> {
    bind: Bind<'a>,
    pub begun: Begun,
}

/// What was found out about a Bind.
pub struct Begun {
    statement: Rc<Statement>,
    naming: Naming,
    pub planned: Rc<Planned>,
    pub destination: Destination,
}

impl Session {
    /// One message of the extended protocol.
    pub(super) async fn extended(&mut self, tag: u8, frame: &[u8]) -> Result<(), End> {
        if self.link.as_ref().is_some_and(|link| link.is_copying()) {
            // A server that reads COPY data ignores Flush and Sync, so they are not sent.
            return if matches!(tag, b'H' | b'S') {
                Ok(())
            } else {
                Err(End::CopyInterrupted(tag))
            };
        }
        if self.batch.is_skipping() && tag != b'S' {
            return Ok(());
        }
        if self.batch.reading == Reading::Learning
            && tag != b'S'
            && let Err(fault) = self.learn_scope().await
        {
            self.fail_batch(&fault);
            return Ok(());
        }
        if let Err(fault) = self.go_elsewhere().await {
            self.fail_batch(&fault);
            if tag != b'S' {
                return Ok(());
            }
        }
        if self.link.as_ref().is_none_or(Link::is_settled) && !self.batch.is_open() {
            self.unit_begins();
        }
        let body = &frame[HEADER..];
        let outcome = match tag {
            b'P' => self.parse(body),
            b'B' => self.bind_through(body).await,
            b'D' => self.describe(body, frame).await,
            b'E' => self.execute(body, frame).await,
            b'C' => self.close_through(body, frame).await,
            b'H' => self.flush(frame).await,
            _ => self.sync().await,
        };
        if let Err(fault) = outcome {
            self.fail_batch(&fault);
            if tag == b'S' {
                // The Sync itself could not be done: it still ends the batch.
                return self.sync().await.map_err(End::Login);
            }
        }
        Ok(())
    }

    pub(super) fn fail_batch(&mut self, fault: &Fault) {
        self.count(fault);
        let mut error = Vec::new();
        match fault {
            // A failed transaction says so before it says anything else.
            Fault::Refused(_) if self.is_failed() => {
                Fault::aborted().write(Severity::Error, &mut error)
            }
            fault => fault.write(Severity::Error, &mut error),
        }
        match &mut self.link {
            Some(link) if !error.is_empty() => link.refuse(error),
            Some(_) => {}
            None => {
                self.batch.release(&mut self.client.outbox);
                self.client.outbox.append(&mut error);
                self.fail_begun();
            }
        }
        self.batch.skip();
    }

    pub(super) fn parse(&mut self, body: &[u8]) -> Result<(), Fault> {
        let parse = Parse::decode(body).map_err(Fault::Violation)?;
        add(&self.database.counters.client_parses, 1);
        let mut before = None;
        let (statement, naming, name) = if parse.name.is_empty() {
            before = self.unnamed.take();
            let meaning = self.meaning();
            let same = before
                .as_ref()
                .filter(|statement| statement.is_same(&parse, &self.scope));
            let statement = match same {
                Some(same) => {
                    same.forget_shape();
                    Rc::clone(same)
                }
                None => self.worker.statements.borrow_mut().own(&parse, &meaning),
            };
            (statement, Naming::Unnamed, None::<Box<[u8]>>)
        } else {
            let meaning = self.meaning();
            let mut statements = self.worker.statements.borrow_mut();
            let statement = if self.sees_own_definitions() {
                statements.own(&parse, &meaning)
            } else {
                statements.shared(&parse, &meaning)
            };
            (statement, Naming::Named, Some(Box::from(parse.name)))
        };
        let plan = self.plan_statement(&statement)?;
        if self.is_failed()
            && !Self::ends_transaction(&plan.planned)
            && !Self::is_nothing(&plan.planned)
        {
            return Err(Fault::aborted());
        }
        self.check_planned(&plan.planned)?;
        match &name {
            Some(name) => {
                self.check_name(name)?;
                self.prepared.insert(name.clone(), Rc::clone(&statement));
            }
            None => self.unnamed = Some(Rc::clone(&statement)),
        }
        if plan
            .planned
            .statements
            .first()
            .is_some_and(PlannedStatement::is_ours)
        {
            // No server knows these settings.
            self.answer(parse_complete());
            return Ok(());
        }
        let parsing = Parsing {
            statement: self.statement_for_servers(&statement, naming, &plan)?,
            naming,
            name,
            before,
        };
        if self.link.is_none() {
            self.batch.held.push(Held::Parse(parsing));
        } else if self.has_one_shard() {
            self.send_parse(parsing);
        } else {
            self.send_parse_where_it_belongs(parsing, &plan.planned);
        }
        Ok(())
    }

    fn send_parse_where_it_belongs(&mut self, parsing: Parsing, planned: &Planned) {
        let here = self.link.as_ref().map(Link::shard);
        match self.checkable(planned) {
            Checkable::Nowhere => self.answer(parse_complete()),
            Checkable::Shard(shard) if here != Some(shard) => {
                self.batch.reading = Reading::Elsewhere(shard);
                self.batch.held.push(Held::Parse(parsing));
            }
            Checkable::Shard(_) | Checkable::Anywhere => self.send_parse(parsing),
        }
    }

    /// Which servers have all that a statement names; where a shard is named, that one will have to.
    fn checkable(&self, planned: &Planned) -> Checkable {
        match planned.statements.first() {
            Some(statement) if !self.own_settings.has_shard() => statement.checkable(),
            _ => Checkable::Anywhere,
        }
    }

    /// Brings a Parse to a server that has its tables.
    async fn go_elsewhere(&mut self) -> Result<(), Fault> {
        let Reading::Elsewhere(shard) = self.batch.reading else {
            return Ok(());
        };
        self.batch.reading = Reading::On;
        self.attach(Destination::Shard(shard), Phase::Working).await
    }

    /// What a text means here and now.
    pub(super) fn meaning(&self) -> Meaning {
        Meaning {
            definitions: self.worker.shared.definitions(),
            scope: Rc::clone(&self.scope),
        }
    }

    /// Tables or types of this session's own: nobody else's statements are parsed with them.
    pub(super) fn sees_own_definitions(&self) -> bool {
        self.schema_changed || self.has_temporary_tables()
    }

    /// What is refused whatever the values are is refused at once.
    fn check_planned(&self, planned: &Planned) -> Result<(), Fault> {
        if planned
            .statements
            .iter()
            .filter(|statement| statement.class != Class::Empty)
            .count()
            > 1
        {
            let message = "cannot insert multiple commands into a prepared statement".to_owned();
            return Err(Fault::Postgres {
                sqlstate: "42601",
                message,
            });
        }
        match planned.statements.first() {
            Some(PlannedStatement {
                plan: Err(refusal),
                spread: None,
                ..
            }) if !self.own_settings.has_shard() => Err(Fault::Refused(refusal.clone())),
            _ => Ok(()),
        }
    }

    /// Likewise, under this name.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<(), Fault> {
        if self.prepared.contains_key(name) {
            return Err(Fault::statement_exists(name));
        }
        self.check_number()
    }

    /// Whether a client may prepare one more statement.
    pub(super) fn check_number(&self) -> Result<(), Fault> {
        let limit = self.max_prepared_statements;
        if self.prepared.len() >= limit {
            let message = format!(
                "this client already has {limit} prepared statements (limits.max_prepared_statements)"
            );
            return Err(Fault::Postgres {
                sqlstate: "53400",
                message,
            });
        }
        Ok(())
    }

    /// White space and comments.
    fn is_nothing(planned: &Planned) -> bool {
        planned
            .statements
            .iter()
            .all(|statement| statement.class == Class::Empty)
    }

    fn statement(&mut self, name: &[u8]) -> Result<(Rc<Statement>, Naming), Fault> {
        if name.is_empty() {
            let unnamed = self.unnamed.clone().ok_or_else(|| Fault::Postgres {
                sqlstate: "26000",
                message: "unnamed prepared statement does not exist".to_owned(),
            })?;
            return Ok((unnamed, Naming::Unnamed));
        }
        let known = self
            .prepared
            .get(name)
            .ok_or_else(|| Fault::no_statement(name))?;
        if Rc::ptr_eq(&known.scope, &self.scope) {
            return Ok((Rc::clone(known), Naming::Named));
        }
        let known = self.in_scope(Rc::clone(known));
        self.prepared.insert(Box::from(name), Rc::clone(&known));
        Ok((known, Naming::Named))
    }

    /// A Bind, when it is let through to the keys that it concerns.
    async fn bind_through(&mut self, body: &[u8]) -> Result<(), Fault> {
        let portal = Bind::decode(body).map_err(Fault::Violation)?.portal;
        if self.batch.has_open_portal(portal) {
            self.close_open_portal(portal).await?;
        }
        loop {
            match self.bind(body).await {
                Err(Fault::Held) => self.pass_gate().await?,
                Err(Fault::Unplaced(placed)) => self.record_place(&placed).await?,
                done => return done,
            }
        }
    }

    async fn bind(&mut self, body: &[u8]) -> Result<(), Fault> {
        let mut begun = self.begin_bind(body)?;
        let mut asked_of = AskedOf::Unknown;
        let numbered;
        if let Some(binding) = &mut begun
            && binding.begun.destination == Destination::Several
        {
            let (bind, statement) = (&binding.bind, &binding.begun.statement);
            let naming = binding.begun.naming;
            match self.bind_with_numbers(bind, statement, naming).await? {
                Some(given) => {
                    numbered = given;
                    let bind = Bind::decode(&numbered.body).map_err(Fault::Violation)?;
                    let statement = Rc::clone(&numbered.statement);
                    begun = self.begin_bind_of(bind, &numbered.body, statement, naming, None)?;
                }
                None => {
                    binding.begun.destination = self.bind_as_it_is(binding)?;
                    asked_of = AskedOf::Server;
                }
            }
        }
        if let Some(mut binding) = begun {
            let Begun {
                planned,
                destination,
                ..
            } = &binding.begun;
            self.will_run(planned);
            if asked_of == AskedOf::Server {
                self.asks_server();
            }
            self.attach(*destination, Phase::Working).await?;
            self.check_writers(planned, *destination)?;
            self.check_last_values()?;
            self.hold_for(&mut binding).await?;
            self.finish_bind(&binding);
        }
        Ok(())
    }

    /// Where a statement goes whose last values its server knows.
    fn bind_as_it_is(&mut self, binding: &Binding<'_>) -> Result<Destination, Fault> {
        let statement = &binding.begun.statement;
        let plan = self.plan_statement(statement)?;
        self.destination_of_bind(
            &binding.bind,
            statement,
            &plan.literals,
            &plan.planned.as_it_is(),
        )
    }

    /// Where a Bind's values take a statement.
    fn destination_of_bind(
        &mut self,
        bind: &Bind<'_>,
        statement: &Statement,
        literals: &[Literal],
        planned: &Planned,
    ) -> Result<Destination, Fault> {
        let parameters = Parameters::from_bind(
            bind.formats.raw(),
            bind.parameter_count,
            bind.raw_values(),
            &statement.types,
        )
        .map_err(Fault::MalformedBind)?;
        let values = Values {
            text: statement.text(),
            literals,
            parameters: &parameters,
            passage: self.passage(),
        };
        let destination = self.destination(planned, &values)?;
        Ok(destination.unwrap_or(Destination::Any))
    }

    /// Finds out where a Bind goes; `None` when the session has answered it. To several shards goes only what needs numbers first.
    pub(super) fn begin_bind<'a>(&mut self, body: &'a [u8]) -> Result<Option<Binding<'a>>, Fault> {
        let bind = Bind::decode(body).map_err(Fault::Violation)?;
        let mut decided = None;
        if let Some(Decided::Bind(begun)) = self.decided.take() {
            // It has waited for a connection and for nothing else, and nothing has changed meanwhile.
            let epoch = self.database.catalog().epoch;
            let plan = begun.statement.plan.borrow();
            let stands = plan.as_ref().is_some_and(|plan| plan.epoch == epoch)
                && Rc::ptr_eq(&begun.statement.scope, &self.scope);
            drop(plan);
            if stands && matches!(self.granted, Some(Ok(_))) {
                self.seek(&begun.planned);
                return Ok(Some(Binding { bind, begun }));
            }
            decided = Some(begun.destination);
        }
        let (statement, naming) = self.statement(bind.statement)?;
        self.begin_bind_of(bind, body, statement, naming, decided)
    }

    /// Likewise, of this statement; `decided`: where it goes is known.
    fn begin_bind_of<'a>(
        &mut self,
        bind: Bind<'a>,
        body: &'a [u8],
        statement: Rc<Statement>,
        naming: Naming,
        decided: Option<Destination>,
    ) -> Result<Option<Binding<'a>>, Fault> {
        let plan = self.plan_statement(&statement)?;
        if matches!(self.transaction, Transaction::Failed(_))
            && !Self::ends_transaction(&plan.planned)
        {
            return Err(Fault::aborted());
        }
        if !bind.portal.is_empty() && self.batch.has_portal(bind.portal) {
            let name = String::from_utf8_lossy(bind.portal);
            return Err(cursor_exists(&name));
        }
        self.batch.close_portal(bind.portal);
        self.untold.take_if(|untold| *untold.portal == *bind.portal);
        if self.answers(class_of(&statement, &plan.planned)) {
            if self.is_failed() && !Self::ends_transaction(&plan.planned) {
                return Err(Fault::aborted());
            }
            let own = OwnPortal::Control(statement);
            self.batch.portals.push((Box::from(bind.portal), own));
            let mut bytes = Vec::with_capacity(5);
            answer::bind_complete(&mut bytes);
            self.answer(bytes);
            return Ok(None);
        }
        if let Some(one) = plan.planned.statements.first()
            && matches!(one.class, Class::Execute { .. })
            && let Some(portal) = self.bind_execute(&bind, &statement, one)?
        {
            let own = OwnPortal::Spread(Rc::new(portal));
            self.batch.portals.push((Box::from(bind.portal), own));
            let mut bytes = Vec::with_capacity(5);
            answer::bind_complete(&mut bytes);
            self.answer(bytes);
            return Ok(None);
        }
        let destination = match decided {
            Some(destination) => destination,
            None => self.destination_of_bind(&bind, &statement, &plan.literals, &plan.planned)?,
        };
        self.check_writers(&plan.planned, destination)?;
        self.seek(&plan.planned);
        // What needs numbers goes the long way, where it gets them.
        if destination == Destination::Several && !plan.planned.is_numbered() {
            let own = SpreadPortal::new(body, &statement, &plan, self.savepoints.len());
            let own = OwnPortal::Spread(Rc::new(own));
            self.batch.portals.push((Box::from(bind.portal), own));
            let mut bytes = Vec::with_capacity(5);
            answer::bind_complete(&mut bytes);
            self.answer(bytes);
            return Ok(None);
        }
        let begun = Begun {
            statement,
            naming,
            planned: plan.planned,
            destination,
        };
        Ok(Some(Binding { bind, begun }))
    }

    /// Sends a Bind on the current connection.
    pub(super) fn finish_bind(&mut self, binding: &Binding<'_>) {
        let Binding { bind, begun } = binding;
        let Begun {
            statement,
            naming,
            planned,
            ..
        } = begun;
        let renamed = self.as_servers_know(statement, planned);
        let (statement, naming, shift) = match &renamed {
            Some((renamed, shift)) => (renamed, &Naming::Unnamed, Some(shift)),
            None => (statement, naming, None),
        };
        self.ensure_parsed(statement, *naming);
        match with_value(planned, bind, &statement.types) {
            Some(known) => self.note_portal(bind.portal, &Rc::new(known), None),
            None => self.note_portal(bind.portal, planned, shift.cloned()),
        }
        let effect = planned.effect();
        if self.is_party() {
            self.card.company.runs(statement.text());
        }
        if self.taken.is_some() {
            self.takes_elsewhere(planned);
        }
        if let Some(link) = &mut self.link {
            add(&self.database.counters.binds, 1);
            link.note(effect);
            let name = naming.of(statement);
            bind.encode_as(bind.portal, name, link.server().outbox());
            link.server()
                .pipeline
                .expect(Request::Bind, Fate::Forward, None);
        }
    }

    /// Whether what a Bind needs must be looked at first, which takes a while.
    pub(super) fn must_wait_for(&mut self, begun: &Begun) -> bool {
        match self.executed_by(&begun.planned) {
            Some(executed) => self.must_look(&executed, Naming::Named),
            None => self.must_look(&begun.statement, begun.naming),
        }
    }

    /// Makes sure of what a Bind needs. A client that does not know the result as it is now must be told before it gets rows.
    async fn hold_for(&mut self, binding: &mut Binding<'_>) -> Result<(), Fault> {
        let Binding { bind, begun } = binding;
        if let Some(executed) = self.executed_by(&begun.planned) {
            return match self.hold(&executed, Naming::Named).await? {
                Difference::None => Ok(()),
                _ => Err(Fault::StalePlan),
            };
        }
        match self.hold(&begun.statement, begun.naming).await? {
            Difference::None => Ok(()),
            // The values are of the types that the client was told.
            Difference::Parameters => Err(Fault::StalePlan),
            Difference::Result => {
                let renewed = self.renewed(&begun.statement);
                self.untold = Some(Box::new(Untold {
                    portal: Box::from(bind.portal),
                    stale: std::mem::replace(&mut begun.statement, Rc::clone(&renewed)),
                    renewed,
                }));
                Ok(())
            }
        }
    }

    /// What an EXECUTE executes.
    fn executed_by(&self, planned: &Planned) -> Option<Rc<Statement>> {
        match &planned.statements.first()?.class {
            Class::Execute { name, .. } => self.executed_at(0, name),
            _ => None,
        }
    }

    /// EXECUTE under the name that servers know; what it executes is made sure of. `None`: the statement as it is.
    fn as_servers_know(
        &mut self,
        statement: &Statement,
        planned: &Planned,
    ) -> Option<(Rc<Statement>, Shift)> {
        let Class::Execute { name, .. } = &planned.statements.first()?.class else {
            return None;
        };
        let executed = self.executed_at(0, name)?;
        self.ensure_parsed(&executed, Naming::Named);
        let mut statements = self.worker.statements.borrow_mut();
        let renamed = statements.renamed(statement, &name.range, &executed.server_name);
        let replaced = [(name.range.clone(), executed.server_name.len())];
        Some((renamed, Shift::new(statement.text(), 0, replaced)))
    }

    /// A Bind of EXECUTE; `None`: it goes to one server.
    fn bind_execute(
        &mut self,
        bind: &Bind<'_>,
        statement: &Statement,
        one: &PlannedStatement,
    ) -> Result<Option<SpreadPortal>, Fault> {
        self.check_executed(one)?;
        self.check_arguments(one, statement.text())?;
        self.execution_portal(bind, statement, one)
    }

    /// Nobody executes another client's statement by the name that servers know.
    fn check_executed(&self, one: &PlannedStatement) -> Result<(), Fault> {
        match &one.class {
            Class::Execute { name, .. }
                if name.name.starts_with(NAME)
                    && self.owns_names()
                    && self.executed_at(0, name).is_none() =>
            {
                Err(Fault::no_statement(name.name.as_bytes()))
            }
            _ => Ok(()),
        }
    }

    /// Remembers a portal whose execution changes the session.
    fn note_portal(&mut self, portal: &[u8], planned: &Rc<Planned>, shift: Option<Shift>) {
        if !self.portals.is_empty() {
            self.portals.retain(|known| *known.name != *portal);
        }
        let plain = planned
            .statements
            .iter()
            .all(|statement| matches!(statement.class, Class::Data) && statement.leaves.is_empty());
        if !plain {
            self.portals.push(Portal {
                name: Box::from(portal),
                planned: Rc::clone(planned),
                shift,
            });
        }
    }

    async fn describe(&mut self, body: &[u8], frame: &[u8]) -> Result<(), Fault> {
        let describe = Describe::decode(body).map_err(Fault::Violation)?;
        match describe.target {
            Target::Portal => {
                let own = self.batch.portal(describe.name);
                if let Some(OwnPortal::Spread(portal)) = &own {
                    return self.describe_spread(portal).await;
                }
                if let Some(OwnPortal::Control(statement)) = own {
                    let mut bytes = Vec::new();
                    self.describe_own(&statement, &mut bytes)?;
                    self.answer(bytes);
                    return Ok(());
                }
                self.attach(Destination::Any, Phase::Working).await?;
                self.describe_portal(describe.name, frame);
            }
            Target::Statement => {
                let (statement, naming) = self.statement(describe.name)?;
                let plan = self.plan_statement(&statement)?;
                if let Some(columns) = self.columns_of_fetch(class_of(&statement, &plan.planned)) {
                    let mut bytes = Vec::new();
                    answer::parameter_description_empty(&mut bytes);
                    pass_on(b'T', &columns, &mut bytes);
                    self.answer(bytes);
                    return Ok(());
                }
                if self.answers(class_of(&statement, &plan.planned)) {
                    let mut bytes = Vec::new();
                    answer::parameter_description_empty(&mut bytes);
                    self.describe_own(&statement, &mut bytes)?;
                    self.answer(bytes);
                    return Ok(());
                }
                // A failed transaction describes nothing that returns rows; a server that does not know of it would.
                if matches!(self.transaction, Transaction::Failed(_)) {
                    return Err(Fault::aborted());
                }
                let statement = self.statement_for_servers(&statement, naming, &plan)?;
                let destination = self.describing(&plan.planned);
                self.will_run(&plan.planned);
                // What is described in a transaction may be its own.
                let phase = match &self.link {
                    Some(link) if !link.is_metadata() => Phase::Working,
                    _ => Phase::Metadata,
                };
                self.attach(destination, phase).await?;
                if let Some(one) = plan.planned.statements.first() {
                    self.check_executed(one)?;
                }
                if let Some(executed) = self.executed_by(&plan.planned)
                    && self.hold(&executed, Naming::Named).await? != Difference::None
                {
                    return Err(Fault::StalePlan);
                }
                let renamed = self.as_servers_know(&statement, &plan.planned);
                let (statement, naming, token) = match renamed {
                    Some((renamed, _)) => (renamed, Naming::Unnamed, None),
                    None => self.hold_to_describe(statement, naming).await?,
                };
                self.ensure_parsed(&statement, naming);
                if let Some(link) = &mut self.link {
                    link.describe(&statement, naming, Fate::Forward, token);
                }
            }
        }
        Ok(())
    }

    /// What is described to the client, and what is to be remembered of it.
    async fn hold_to_describe(
        &mut self,
        statement: Rc<Statement>,
        naming: Naming,
    ) -> Result<(Rc<Statement>, Naming, Option<Token>), Fault> {
        if self.hold(&statement, naming).await? != Difference::None {
            let renewed = self.renewed(&statement);
            let effect = Effect::Renewed {
                stale: statement,
                renewed: Rc::clone(&renewed),
            };
            // Named or not, that it is described is seen by its own token.
            self.ensure_parsed(&renewed, naming);
            return Ok((renewed, naming, Some(self.remember(effect))));
        }
        // What a named one returns was asked when it was parsed.
        let to_remember = naming == Naming::Unnamed && !statement.has_shape();
        let token = (to_remember && statement.is_watched()).then(|| {
            self.remember(Effect::Looked {
                statement: Rc::clone(&statement),
                looking: Looking::Parsed(None),
            })
        });
        Ok((statement, naming, token))
    }

    pub(super) fn describe_portal(&mut self, name: &[u8], frame: &[u8]) {
        let told = self.untold.take_if(|untold| *untold.portal == *name);
        let token = told.map(|told| {
            let Untold { stale, renewed, .. } = *told;
            self.remember(Effect::Renewed { stale, renewed })
        });
        if let Some(link) = &mut self.link {
            link.send(frame, Request::DescribePortal, token);
        }
    }

    /// Where a statement is described: where it is known to go, else anywhere.
    pub(super) fn describing(&mut self, planned: &Planned) -> Destination {
        if self.link.is_some() {
            return match self.has_one_shard() {
                true => Destination::Any,
                false => self.describing_elsewhere(planned),
            };
        }
        let unbound = Values {
            text: b"",
            literals: &[],
            parameters: &Parameters::NONE,
            passage: Passage::Stopped,
        };
        match self.destination(planned, &unbound) {
            Ok(Some(destination @ (Destination::Any | Destination::Shard(_)))) => destination,
            _ => self.describing_elsewhere(planned),
        }
    }

    /// The same while a connection works: where the tables are.
    fn describing_elsewhere(&self, planned: &Planned) -> Destination {
        match self.checkable(planned) {
            Checkable::Shard(shard) => Destination::Shard(shard),
            Checkable::Anywhere | Checkable::Nowhere => Destination::Any,
        }
    }

    /// The description of what a statement that the session answers returns.
    fn describe_own(&mut self, statement: &Statement, out: &mut Vec<u8>) -> Result<(), Fault> {
        let plan = self.plan_statement(statement)?;
        match plan
            .planned
            .statements
            .first()
            .map(|planned| &planned.class)
        {
            Some(Class::Show(name)) => answer::row_description(out, &[name]),
            _ => answer::no_data(out),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8], frame: &[u8]) -> Result<(), Fault> {
        let execute = Execute::decode(body).map_err(Fault::Violation)?;
        match self.batch.portal(execute.portal) {
            Some(OwnPortal::Control(statement)) => return self.execute_own(&statement).await,
            Some(OwnPortal::Spread(portal)) => return self.execute_spread(&portal, &execute).await,
            None => {}
        }
        if matches!(self.transaction, Transaction::Failed(_)) {
            // No server knows of this transaction, so there is no portal in it.
            return Err(Fault::no_portal(execute.portal));
        }
        self.attach(Destination::Any, Phase::Working).await?;
        self.execute_portal(&execute, frame)
    }

    /// Sends an Execute on the current connection.
    pub(super) fn execute_portal(
        &mut self,
        execute: &Execute<'_>,
        frame: &[u8],
    ) -> Result<(), Fault> {
        if let Some(untold) = &self.untold
            && *untold.portal == *execute.portal
        {
            return Err(Fault::StalePlan);
        }
        let portal = self
            .portals
            .iter()
            .find(|known| *known.name == *execute.portal);
        let planned = portal.map(|portal| Rc::clone(&portal.planned));
        let shift = portal.and_then(|portal| portal.shift.clone());
        let copies = planned
            .as_ref()
            .and_then(|planned| planned.statements.first())
            .is_some_and(is_copy_from_client);
        if let Some(planned) = &planned
            && let [one] = &planned.statements[..]
            && matches!(one.class, Class::Prepare { .. })
        {
            // A statement that came by PREPARE runs; PREPARE itself is answered by the session.
            self.note_run(planned);
        }
        if let Some(planned) = &planned
            && self.changes_scope(planned)
        {
            self.batch.reading = Reading::Learning;
        }
        let token = planned.and_then(|planned| self.note(&planned));
        if let Some(link) = &mut self.link {
            match shift {
                Some(shift) => link.send_shifted(frame, Request::Execute, token, &shift),
                None => link.send(frame, Request::Execute, token),
            }
            if copies {
                link.expect_copy();
            }
        }
        Ok(())
    }

    /// Waits until it is known what has become of the statements that change what names mean.
    async fn learn_scope(&mut self) -> Result<(), Fault> {
        if let Some(link) = &mut self.link {
            link.flush();
        }
        while !self.failed && self.owes_scope() {
            let turn = std::future::poll_fn(|cx| self.poll_relay(cx, super::Reading::Enough));
            if turn.await.is_err() {
                // The next step of the session finds the same.
                return Err(Fault::Told);
            }
            let _ = self.settle();
        }
        if self.failed {
            return Err(Fault::Told);
        }
        if self.transaction == Transaction::Open
            && self.opener == Opener::Client
            && self.outcome.is_some()
        {
            let message = "search_path is not known here: a transaction that has set something ends in front of it, without a Sync between them";
            return Err(Fault::Refused(Refusal::new(
                Reason::SettingInBatch,
                message,
            )));
        }
        self.batch.reading = Reading::On;
        Ok(())
    }

    async fn execute_own(&mut self, statement: &Rc<Statement>) -> Result<(), Fault> {
        if self.link.as_ref().is_some_and(Link::is_metadata) {
            // That connection knows nothing of the client's transaction and would speak of its own.
            self.leave_metadata().await?;
        }
        let plan = self.plan_statement(statement)?;
        let mut bytes = Vec::new();
        if let Some(planned) = plan.planned.statements.first() {
            match &planned.class {
                Class::Prepare { .. } => return self.execute_prepare(statement, &plan).await,
                Class::Deallocate(name) => return self.execute_deallocate(name.as_ref()),
                Class::Listen(_) | Class::Unlisten(_) => {
                    self.change_channels(planned, &mut bytes).await?;
                    self.answer(bytes);
                    return Ok(());
                }
                _ => {}
            }
            let own_settings = is_ours(&planned.class).then(|| self.own_settings.clone());
            if let Class::Show(name) = &planned.class
                && let Some(setting) = OwnSetting::named(name)
            {
                self.show_setting(setting, &mut bytes).await?;
            } else {
                let text = String::from_utf8_lossy(
                    &statement.text()[Planned::range_of(planned, &plan.literals)],
                )
                .into_owned();
                if self
                    .control(&planned.class, text.trim(), &mut bytes)
                    .await?
                    == Control::Forward
                {
                    // The session's state changed between Bind and Execute, so that a server would have to have the portal.
                    let message =
                        "the portal was bound in another state of the transaction".to_owned();
                    return Err(Fault::Postgres {
                        sqlstate: "34000",
                        message,
                    });
                }
            }
            if let Some(before) = own_settings {
                self.answer_undoable(bytes, Effect::ShardSet(before));
                return Ok(());
            }
        }
        self.answer(bytes);
        Ok(())
    }

    /// A Close, of which servers are told when it concerns what they have.
    async fn close_through(&mut self, body: &[u8], frame: &[u8]) -> Result<(), Fault> {
        let close = Close::decode(body).map_err(Fault::Violation)?;
        if close.target == Target::Portal && self.batch.has_open_portal(close.name) {
            self.close_open_portal(close.name).await?;
        }
        self.close_target(body, frame)
    }

    pub(super) fn close_target(&mut self, body: &[u8], frame: &[u8]) -> Result<(), Fault> {
        let close = Close::decode(body).map_err(Fault::Violation)?;
        let ours = match close.target {
            Target::Statement => {
                let named = !close.name.is_empty();
                let closed = match named {
                    true => self.prepared.remove(close.name),
                    false => self.unnamed.take(),
                };
                if let Some(statement) = closed {
                    let mut bytes = Vec::with_capacity(5);
                    answer::close_complete(&mut bytes);
                    // A server may have failed on a message before the Close, which then never happened.
                    let name = named.then(|| Box::from(close.name));
                    self.answer_undoable(bytes, Effect::Closed { statement, name });
                    return Ok(());
                }
                true
            }
            Target::Portal => self.batch.close_portal(close.name) || self.link.is_none(),
        };
        if ours {
            let mut bytes = Vec::with_capacity(5);
            answer::close_complete(&mut bytes);
            self.answer(bytes);
        } else if let Some(link) = &mut self.link {
            link.send(frame, Request::Close, None);
        }
        Ok(())
    }

    async fn flush(&mut self, frame: &[u8]) -> Result<(), Fault> {
        self.check_held().await?;
        match &mut self.link {
            Some(link) => link.push(frame),
            None => self.batch.release(&mut self.client.outbox),
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Fault> {
        if self.batch.reading == Reading::On {
            self.check_held().await?;
        }
        if self.opener == Opener::Unit {
            self.end_unit_block().await?;
        }
        self.end_of_batch();
        Ok(())
    }

    /// A Sync, when no statement waits to be judged.
    pub(super) fn end_of_batch(&mut self) {
        self.batch.reading = Reading::On;
        let own_status = self.own_status();
        let commits = self.tracks_commits() && self.transaction == Transaction::Idle;
        match &mut self.link {
            Some(link) => {
                link.sync(Fate::Forward);
                if commits {
                    link.mark();
                }
            }
            None => {
                self.batch.release(&mut self.client.outbox);
                answer::ready_for_query(&mut self.client.outbox, own_status);
                self.unit_answered();
            }
        }
        if self.transaction == Transaction::Idle {
            // What a transaction has left is left.
            self.batch.retain_portals(Committed::No);
        }
    }

    /// A Query or FunctionCall comes without a Sync before it: what was held is dealt with first.
    pub(super) async fn end_batch(&mut self) -> Result<(), Fault> {
        if self.batch.reading == Reading::Learning {
            // What has failed is told already.
            let _ = self.learn_scope().await;
            self.batch.reading = Reading::On;
        }
        self.go_elsewhere().await?;
        if self.batch.is_open() {
            self.check_held().await?;
            self.batch.release(&mut self.client.outbox);
            self.batch.reading = Reading::On;
        }
        // No Sync will come for what was only described.
        if self.link.as_ref().is_some_and(Link::is_metadata) {
            self.leave_metadata().await?;
        }
        // As in Postgres, a query takes the unnamed portal with it and leaves the others.
        if self.batch.has_open_portal(b"") {
            self.close_open_portal(b"").await?;
        }
        self.batch.close_portal(b"");
        Ok(())
    }

    /// Where the statements that wait can be checked. What no shard can check counts as accepted.
    fn checking_held(&mut self) -> Result<Destination, Fault> {
        let mut destination = Destination::Any;
        let mut held = self.batch.take_held();
        for one in &mut held {
            let Held::Parse(parsing) = &*one else {
                continue;
            };
            let statement = Rc::clone(&parsing.statement);
            let plan = self.plan_statement(&statement)?;
            match self.checkable(&plan.planned) {
                Checkable::Nowhere => *one = Held::Answer(parse_complete()),
                Checkable::Shard(shard) => destination = Destination::Shard(shard),
                Checkable::Anywhere => {}
            }
        }
        self.batch.give_back_held(held);
        Ok(destination)
    }

    /// Lets a server check the statements that wait, when it has not accepted them before.
    pub(super) async fn check_held(&mut self) -> Result<(), Fault> {
        if self.link.is_none() && self.batch.needs_server() {
            let destination = match self.has_one_shard() {
                true => Destination::Any,
                false => self.checking_held()?,
            };
            self.attach(destination, Phase::Metadata).await?;
        }
        Ok(())
    }
}

/// The answer to a Parse that no server has seen.
fn parse_complete() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5);
    answer::parse_complete(&mut bytes);
    bytes
}

/// Calls of set_config with the values that they are bound with; `None`: it is something else, or a value is not text.
fn with_value(planned: &Planned, bind: &Bind<'_>, types: &[u32]) -> Option<Planned> {
    /// `text`, `varchar`, `unknown`: the same bytes in either format.
    const TEXTS: [u32; 4] = [0, 25, 705, 1043];
    let [one] = &planned.statements[..] else {
        return None;
    };
    let Class::SetConfig(calls) = &one.class else {
        return None;
    };
    let given = |value: &ConfigValue| -> Option<ConfigValue> {
        let ConfigValue::Param(number) = value else {
            return Some(value.clone());
        };
        let place = usize::from(number.checked_sub(1)?);
        if !TEXTS.contains(types.get(place).unwrap_or(&0)) {
            return None;
        }
        Some(match bind.value(place)? {
            Some(value) => ConfigValue::Text(std::str::from_utf8(value).ok()?.into()),
            None => ConfigValue::Null,
        })
    };
    let calls = calls.iter().map(|call| {
        Some(ConfigCall {
            value: given(&call.value)?,
            ..call.clone()
        })
    });
    let calls = calls.collect::<Option<_>>()?;
    Some(Planned {
        statements: vec![PlannedStatement {
            over: None,
            range: one.range.clone(),
            class: Class::SetConfig(calls),
            plan: one.plan.clone(),
            spread: None,
            leaves: one.leaves.clone(),
            effect: one.effect,
            nodes: one.nodes,
            reads: one.reads,
            takes: one.takes,
            creates: Creates::Other,
        }],
    })
}

/// What binding the statement runs: of one that came by PREPARE its query.
fn class_of<'a>(statement: &Statement, planned: &'a Planned) -> &'a Class {
    match (&statement.source, planned.statements.first()) {
        (_, None) => &Class::Empty,
        (Source::Prepare { .. }, Some(_)) => &Class::Data,
        (Source::Parse { .. }, Some(one)) => &one.class,
    }
}

fn is_copy_from_client(statement: &PlannedStatement) -> bool {
    matches!(&statement.class, Class::Copy(copy) if copy.direction == CopyDirection::FromClient)
}
