//! Prepared statements of the protocol, shared by all clients of a thread: one copy for each text with its parameter types.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use crate::backend::prepared::StatementId;
use crate::catalog::Epoch;
use crate::plan::Planned;
use crate::sql::normalise::Literal;
use crate::wire::message::Parse;

/// How many statements nobody uses any more may stay before they are swept out.
const UNUSED: usize = 1024;

/// A statement as Parse gave it.
pub struct Statement {
    pub id: StatementId,
    /// What follows the name in Parse: text, NUL, count, types.
    pub after_name: Box<[u8]>,
    /// Length of the text in `after_name`.
    pub text_length: usize,
    /// The parameters' types as declared; 0 where the server finds them.
    pub types: Box<[u32]>,
    pub plan: RefCell<Option<StatementPlan>>,
    /// Its name on servers when clients prepare it under a name.
    pub server_name: Box<[u8]>,
    /// A server has accepted it once.
    pub accepted: Cell<bool>,
}

/// The plan of a statement, and for which catalog and search path it holds.
#[derive(Clone)]
pub struct StatementPlan {
    pub epoch: Epoch,
    pub search_path: Arc<[Box<str>]>,
    pub planned: Rc<Planned>,
    pub literals: Rc<[Literal]>,
}

impl Statement {
    /// In the client's encoding.
    pub fn text(&self) -> &[u8] {
        &self.after_name[..self.text_length]
    }
}

/// All named statements of a thread, and the numbers of all.
#[derive(Default)]
pub struct Statements {
    named: HashSet<ByText>,
    next: u64,
    swept: usize,
}

/// A statement found by what follows the name in its Parse.
struct ByText(Rc<Statement>);

impl Borrow<[u8]> for ByText {
    fn borrow(&self) -> &[u8] {
        &self.0.after_name
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &ByText) -> bool {
        self.0.after_name == other.0.after_name
    }
}

impl Eq for ByText {}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.after_name.hash(state);
    }
}

impl Statements {
    /// The one copy of a named statement.
    pub fn named(&mut self, parse: &Parse<'_>) -> Rc<Statement> {
        if let Some(known) = self.named.get(parse.after_name()) {
            return Rc::clone(&known.0);
        }
        let statement = self.unnamed(parse);
        self.named.insert(ByText(Rc::clone(&statement)));
        statement
    }

    /// An unnamed statement: its client's own, not worth sharing.
    pub fn unnamed(&mut self, parse: &Parse<'_>) -> Rc<Statement> {
        self.next += 1;
        let id = StatementId(self.next);
        Rc::new(Statement {
            id,
            after_name: Box::from(parse.after_name()),
            text_length: parse.text.len(),
            types: parse.types().collect(),
            plan: RefCell::new(None),
            server_name: id.server_name().into_bytes().into_boxed_slice(),
            accepted: Cell::new(false),
        })
    }

    /// Forgets statements that no client holds, when there are many.
    pub fn sweep(&mut self) {
        if self.named.len() >= self.swept + UNUSED {
            self.named.retain(|known| Rc::strong_count(&known.0) > 1);
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
