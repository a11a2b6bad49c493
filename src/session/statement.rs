//! Prepared statements, shared by all clients of a thread: one copy for each text with its parameter types and what it is read under.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::ops::Range;
use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::parse_scope::ParseScope;
use super::shape::{Difference, Shape};
use crate::backend::prepared::StatementId;
use crate::catalog::Epoch;
use crate::plan::Planned;
use crate::plan::parameters::oid_of;
use crate::sql::class::Class;
use crate::sql::normalise::Literal;
use crate::wire::message::Parse;

/// How many statements nobody uses any more may stay before they are swept out.
const UNUSED: usize = 1024;

/// What a prepared statement takes on a server beside its text, bytes: the least that is kept of a parsed and planned statement.
const OVERHEAD: usize = 4096;

/// A statement as Parse or PREPARE gave it.
pub struct Statement {
    pub id: StatementId,
    pub source: Source,
    /// The parameters' types as declared; 0 where the server finds them.
    pub types: Box<[u32]>,
    /// What it was read under.
    pub scope: Rc<ParseScope>,
    pub plan: RefCell<Option<StatementPlan>>,
    /// The same with parameters of ours for the numbers that it needs.
    pub with_numbers: RefCell<Option<(Epoch, Rc<Statement>)>>,
    /// Its name on servers when clients prepare it under a name.
    pub server_name: Box<[u8]>,
    /// A server has accepted it once.
    pub accepted: Cell<bool>,
    /// As of when it was parsed.
    definitions: Definitions,
    /// What clients know it to take and return, once a server has described it.
    shape: RefCell<Option<Shape>>,
}

/// What decides, besides its text, which tables and types a statement speaks of when it is parsed.
#[derive(Clone, Debug)]
pub struct Meaning {
    pub definitions: Definitions,
    pub scope: Rc<ParseScope>,
}

/// Counts the changes of definitions that have been seen; a statement parsed before one may mean something else after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Definitions(pub u64);

/// How a server is given the statement.
pub enum Source {
    /// By Parse: what follows the name in it: text, NUL, count, types.
    Parse {
        after_name: Box<[u8]>,
        text_length: usize,
    },
    /// By PREPARE, with the name that it has on servers.
    Prepare { text: Box<[u8]>, name: Range<usize> },
}

impl Source {
    /// What is the same for equal statements: the parts in front of the name and behind it.
    fn parts(&self) -> (Option<&[u8]>, &[u8]) {
        match self {
            Source::Parse { after_name, .. } => (None, after_name),
            Source::Prepare { text, name } => (Some(&text[..name.start]), &text[name.end..]),
        }
    }
}

/// The plan of a statement, and for which catalog it holds.
#[derive(Clone)]
pub struct StatementPlan {
    pub epoch: Epoch,
    pub planned: Rc<Planned>,
    pub literals: Rc<[Literal]>,
}

impl Statement {
    /// In the client's encoding.
    pub fn text(&self) -> &[u8] {
        match &self.source {
            Source::Parse {
                after_name,
                text_length,
            } => &after_name[..*text_length],
            Source::Prepare { text, .. } => text,
        }
    }

    /// What it counts for on a server connection, bytes.
    pub fn weight(&self) -> usize {
        self.text().len() + OVERHEAD
    }

    /// A server has described it.
    pub fn has_shape(&self) -> bool {
        self.shape.borrow().is_some()
    }

    /// Takes note of what a server says of it: the first time that is what it is, afterwards the difference is given.
    pub fn described(&self, shape: Shape) -> Difference {
        let known = &mut *self.shape.borrow_mut();
        match known {
            Some(known) => known.difference(&shape),
            None => {
                *known = Some(shape);
                Difference::None
            }
        }
    }

    /// It is parsed anew: nobody was told anything of it yet.
    pub fn forget_shape(&self) {
        *self.shape.borrow_mut() = None;
    }

    /// A client who knows `other` may be given this one.
    fn has_shape_of(&self, other: &Statement) -> bool {
        match &*other.shape.borrow() {
            Some(shape) => self.described(shape.clone()) == Difference::None,
            None => true,
        }
    }

    /// It returns what clients know `other` to return, and takes so many parameters of a type more.
    pub fn has_shape_beside(&self, other: &Statement, more: usize, of_type: u32) {
        let known = &mut *self.shape.borrow_mut();
        if known.is_none() {
            let shape = other.shape.borrow();
            *known = shape.as_ref().map(|shape| shape.taking(more, of_type));
        }
    }

    /// Its result is one that Postgres watches for changes: a utility statement's is not.
    pub fn is_watched(&self) -> bool {
        let utility = |plan: &StatementPlan| {
            let mut classes = plan.planned.statements.iter().map(|one| &one.class);
            classes.all(|class| !matches!(class, Class::Data | Class::Unknown))
        };
        match &self.source {
            Source::Prepare { .. } => true,
            Source::Parse { .. } => !self.plan.borrow().as_ref().is_some_and(utility),
        }
    }

    /// It is what this Parse gives under this scope.
    pub fn is_same(&self, parse: &Parse<'_>, scope: &Rc<ParseScope>) -> bool {
        self.source.parts() == (None, parse.after_name()) && Rc::ptr_eq(&self.scope, scope)
    }
}

/// PREPARE as a client wrote it: one statement's text, and where the name stands in it.
pub struct Prepare<'a> {
    pub text: &'a [u8],
    pub name: Range<usize>,
    pub types: &'a [Box<str>],
}

/// All named statements of a thread, and the numbers of all.
#[derive(Default)]
pub struct Statements {
    named: HashTable<Rc<Statement>>,
    hasher: DefaultHashBuilder,
    next: u64,
    swept: usize,
}

type Parts<'a> = (Option<&'a [u8]>, &'a [u8]);

impl Statements {
    fn hash(hasher: &DefaultHashBuilder, parts: Parts<'_>, scope: &Rc<ParseScope>) -> u64 {
        hasher.hash_one((parts, Rc::as_ptr(scope)))
    }

    /// Clients that hold a statement of earlier definitions keep it, as they would on a server; others do not get it.
    fn find(&self, parts: Parts<'_>, meaning: &Meaning) -> Option<Rc<Statement>> {
        let hash = Self::hash(&self.hasher, parts, &meaning.scope);
        let same = |known: &Rc<Statement>| {
            Rc::ptr_eq(&known.scope, &meaning.scope) && known.source.parts() == parts
        };
        let known = self.named.find(hash, same)?;
        (known.definitions == meaning.definitions).then(|| Rc::clone(known))
    }

    /// It takes the place of one of earlier definitions.
    fn insert(&mut self, statement: &Rc<Statement>) {
        let hasher = &self.hasher;
        let hash = |known: &Rc<Statement>| Self::hash(hasher, known.source.parts(), &known.scope);
        let same = |known: &Rc<Statement>| {
            Rc::ptr_eq(&known.scope, &statement.scope)
                && known.source.parts() == statement.source.parts()
        };
        if let Ok(found) = self.named.find_entry(hash(statement), same) {
            found.remove();
        }
        self.named
            .insert_unique(hash(statement), Rc::clone(statement), hash);
    }

    /// The one copy of a named statement.
    pub fn shared(&mut self, parse: &Parse<'_>, meaning: &Meaning) -> Rc<Statement> {
        if let Some(known) = self.find((None, parse.after_name()), meaning) {
            return known;
        }
        let statement = self.own(parse, meaning);
        self.insert(&statement);
        statement
    }

    /// A client's own: an unnamed statement, which is not worth sharing, or one that means something to this client only.
    pub fn own(&mut self, parse: &Parse<'_>, meaning: &Meaning) -> Rc<Statement> {
        let source = Source::Parse {
            after_name: Box::from(parse.after_name()),
            text_length: parse.text.len(),
        };
        self.make(source, parse.types().collect(), meaning)
    }

    /// The one copy of a statement of PREPARE.
    pub fn prepared(&mut self, prepare: &Prepare<'_>, meaning: &Meaning) -> Rc<Statement> {
        let Prepare { text, name, .. } = prepare;
        if let Some(known) = self.find((Some(&text[..name.start]), &text[name.end..]), meaning) {
            return known;
        }
        let statement = self.own_prepared(prepare, meaning);
        self.insert(&statement);
        statement
    }

    /// A statement of PREPARE that nobody else will get.
    pub fn own_prepared(&mut self, prepare: &Prepare<'_>, meaning: &Meaning) -> Rc<Statement> {
        let types = prepare.types.iter().map(|name| oid_of(name)).collect();
        let source = Source::Prepare {
            text: Box::from(prepare.text),
            name: prepare.name.clone(),
        };
        self.make(source, types, meaning)
    }

    /// The statement as it is read under another scope, for a client that knows what it returns.
    pub fn under(&mut self, statement: &Rc<Statement>, meaning: &Meaning) -> Rc<Statement> {
        match self.find(statement.source.parts(), meaning) {
            Some(known) if known.has_shape_of(statement) => known,
            Some(_) => {
                // What others know it to return is something else.
                let renewed = self.renewed(statement, meaning);
                *renewed.shape.borrow_mut() = statement.shape.borrow().clone();
                renewed
            }
            None => {
                let renewed = self.anew(statement, meaning);
                *renewed.shape.borrow_mut() = statement.shape.borrow().clone();
                renewed
            }
        }
    }

    /// The statement as it is prepared now, by a client that is told again what it returns.
    pub fn anew(&mut self, statement: &Rc<Statement>, meaning: &Meaning) -> Rc<Statement> {
        let renewed = self.renewed(statement, meaning);
        self.insert(&renewed);
        renewed
    }

    /// A statement with another name at this place of its text, for one use.
    pub fn renamed(
        &mut self,
        statement: &Statement,
        place: &Range<usize>,
        name: &[u8],
    ) -> Rc<Statement> {
        let text = statement.text();
        let text = [&text[..place.start], name, &text[place.end..]].concat();
        let text_length = text.len();
        // No types: EXECUTE has no parameters of its own.
        let after_name = [&text[..], &[0, 0, 0]].concat().into_boxed_slice();
        let source = Source::Parse {
            after_name,
            text_length,
        };
        let meaning = Meaning {
            definitions: statement.definitions,
            scope: Rc::clone(&statement.scope),
        };
        self.make(source, Box::default(), &meaning)
    }

    /// A statement that servers hold with a result that it no longer has: who prepares it anew gets another.
    pub fn retire(&mut self, statement: &Rc<Statement>) {
        let hash = Self::hash(&self.hasher, statement.source.parts(), &statement.scope);
        if let Ok(found) = self
            .named
            .find_entry(hash, |known| Rc::ptr_eq(known, statement))
        {
            found.remove();
        }
    }

    fn renewed(&mut self, statement: &Statement, meaning: &Meaning) -> Rc<Statement> {
        let source = match &statement.source {
            Source::Parse {
                after_name,
                text_length,
            } => Source::Parse {
                after_name: after_name.clone(),
                text_length: *text_length,
            },
            Source::Prepare { text, name } => Source::Prepare {
                text: text.clone(),
                name: name.clone(),
            },
        };
        self.make(source, statement.types.clone(), meaning)
    }

    fn make(&mut self, source: Source, types: Box<[u32]>, meaning: &Meaning) -> Rc<Statement> {
        self.next += 1;
        let id = StatementId(self.next);
        let server_name = id.server_name().into_bytes().into_boxed_slice();
        let source = match source {
            Source::Prepare { text, name } => {
                let renamed = [&text[..name.start], &server_name, &text[name.end..]].concat();
                Source::Prepare {
                    text: renamed.into(),
                    name: name.start..name.start + server_name.len(),
                }
            }
            parse => parse,
        };
        Rc::new(Statement {
            id,
            source,
            types,
            scope: Rc::clone(&meaning.scope),
            plan: RefCell::new(None),
            with_numbers: RefCell::new(None),
            server_name,
            accepted: Cell::new(false),
            definitions: meaning.definitions,
            shape: RefCell::new(None),
        })
    }

    /// Forgets statements that no client holds, when there are many.
    pub fn sweep(&mut self) {
        if self.named.len() >= self.swept + UNUSED {
            self.named.retain(|known| Rc::strong_count(known) > 1);
            self.swept = self.named.len();
        }
        self.swept = self.swept.min(self.named.len());
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}
