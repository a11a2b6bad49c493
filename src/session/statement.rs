//! Prepared statements of the protocol, shared by all clients of a thread: one copy for each text with its parameter types.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::{Equivalent, HashSet};

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
    /// What it means besides: another Parse of the same text is the same statement only while this is the same.
    meaning: Meaning,
}

/// What decides, besides its text, which tables and types a statement speaks of when it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub definitions: Definitions,
    pub search_path: Arc<[Box<str>]>,
}

/// Counts the changes of definitions that have been seen; a statement parsed before one may mean something else after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Definitions(pub u64);

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

/// A statement found by what follows the name in its Parse, and the search path.
struct ByText(Rc<Statement>);

/// What a statement is looked up by.
struct Sought<'a> {
    after_name: &'a [u8],
    search_path: &'a [Box<str>],
}

impl ByText {
    fn sought(&self) -> Sought<'_> {
        Sought {
            after_name: &self.0.after_name,
            search_path: &self.0.meaning.search_path,
        }
    }
}

impl Hash for Sought<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Few texts are used with several search paths.
        self.after_name.hash(state);
    }
}

impl Equivalent<ByText> for Sought<'_> {
    fn equivalent(&self, known: &ByText) -> bool {
        let known = known.sought();
        self.after_name == known.after_name && self.search_path == known.search_path
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &ByText) -> bool {
        self.sought().equivalent(other)
    }
}

impl Eq for ByText {}

impl Hash for ByText {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sought().hash(state);
    }
}

impl Statements {
    /// The one copy of a named statement. Clients that hold one of an earlier meaning keep it, as they would on a server.
    pub fn shared(&mut self, parse: &Parse<'_>, meaning: &Meaning) -> Rc<Statement> {
        let sought = Sought {
            after_name: parse.after_name(),
            search_path: &meaning.search_path,
        };
        if let Some(known) = self.named.get(&sought)
            && known.0.meaning.definitions == meaning.definitions
        {
            return Rc::clone(&known.0);
        }
        let statement = self.own(parse, meaning);
        self.named.replace(ByText(Rc::clone(&statement)));
        statement
    }

    /// A client's own: an unnamed statement, which is not worth sharing, or one that means something to this client only.
    pub fn own(&mut self, parse: &Parse<'_>, meaning: &Meaning) -> Rc<Statement> {
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
            meaning: meaning.clone(),
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
