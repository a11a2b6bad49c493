//! What the statements that change rows on several shards have in common: what stands in them besides the changed table.

use crate::catalog::{Catalog, SearchPath};
use crate::plan::functions::{Functions, home_only};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning, Scope};
use crate::sql::facts::{Access, Facts, Name, Source};
use crate::sql::{self, Statement};

/// A statement that one shard cannot do.
pub struct Asked<'a> {
    /// The whole message's.
    pub text: &'a str,
    pub statement: &'a Statement,
    pub facts: &'a Facts,
    pub scope: Scope<'a>,
    pub catalog: &'a Catalog,
    pub search_path: &'a SearchPath,
    /// Why not.
    pub refusal: &'a Refusal,
    words: Vec<Box<str>>,
}

/// What the statement itself is, by its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbatim {
    Insert,
    Update,
    Delete,
    Merge,
    /// Also a query that changes rows in its WITH.
    Other,
}

/// What other tables may be read beside the changed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Those that every shard has.
    SharedOnly,
    /// The same, and sharded tables, which the asker sees to.
    Sharded,
    /// The same, and tables of one shard, which the asker sees to.
    Brought,
    /// The same, where only one shard changes rows: it may pick any.
    BroughtForOne,
    /// Those that every shard has, likewise.
    SharedForOne,
    /// The same, and each shard must find the same rows in the same order, or their order must not matter.
    SharedAlike,
}

impl<'a> Asked<'a> {
    pub fn new(
        text: &'a str,
        statement: &'a Statement,
        facts: &'a Facts,
        catalog: &'a Catalog,
        search_path: &'a SearchPath,
        refusal: &'a Refusal,
    ) -> Asked<'a> {
        Asked {
            text,
            statement,
            facts,
            scope: Scope::new(facts, catalog, search_path),
            catalog,
            search_path,
            refusal,
            words: sql::words(&text[statement.range.clone()]).unwrap_or_default(),
        }
    }

    pub fn verbatim(&self) -> Verbatim {
        match self.words.first().map(|word| &**word) {
            Some("insert") => Verbatim::Insert,
            Some("update") => Verbatim::Update,
            Some("delete") => Verbatim::Delete,
            Some("merge") => Verbatim::Merge,
            _ => Verbatim::Other,
        }
    }

    pub fn has_word(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| words.contains(&&**word))
    }

    pub fn known(&self, name: &'a Name) -> Known<'a> {
        Known::look_up(self.catalog, self.search_path, name)
    }

    pub fn meaning(&self, name: &'a Name) -> Meaning<'a> {
        self.known(name).meaning
    }

    /// The relation that is changed, when it is the only one. The outermost block has it first.
    pub fn target(&self) -> Option<&'a Name> {
        let relations = self.facts.blocks.iter().flat_map(|block| &block.relations);
        let mut written = relations.filter(|relation| relation.access == Access::Write);
        let (first, second) = (written.next()?, written.next());
        match (&first.source, second) {
            (Source::Table(name), None)
                if std::ptr::eq(first, self.facts.blocks.first()?.relations.first()?) =>
            {
                Some(name)
            }
            _ => None,
        }
    }

    /// Whether everything else in the statement is the same on every shard.
    pub fn others(&self, others: Others) -> Result<(), Refusal> {
        let refuse = || Err(self.refusal.clone());
        let facts = self.facts;
        let is_plain = facts.doubts.is_empty() && facts.leaves.is_empty() && !facts.locking;
        if !is_plain || self.target().is_none() {
            return refuse();
        }
        for relation in self.facts.blocks.iter().flat_map(|block| &block.relations) {
            let Source::Table(name) = &relation.source else {
                continue;
            };
            let is_at_hand = match self.meaning(name) {
                Meaning::Reference => true,
                Meaning::Sharded { .. } => matches!(
                    others,
                    Others::Sharded | Others::Brought | Others::BroughtForOne
                ),
                Meaning::Single(_) => matches!(others, Others::Brought | Others::BroughtForOne),
                _ => false,
            };
            if relation.access == Access::Read && !is_at_hand {
                return refuse();
            }
        }
        // What is computed once for all rows each shard would compute for itself.
        let relations = || self.facts.blocks.iter().flat_map(|block| &block.relations);
        let once = || {
            self.facts.blocks.len() > 1
                || relations().any(|relation| matches!(relation.source, Source::Function))
        };
        let picks = || once() && self.picks_rows(others);
        let for_one = matches!(others, Others::BroughtForOne | Others::SharedForOne);
        if !for_one && picks() {
            return refuse();
        }
        self.functions()
    }

    /// Whether a query in the statement may take these rows on one shard and those on another.
    fn picks_rows(&self, others: Others) -> bool {
        const PICKING: [&str; 4] = ["limit", "offset", "fetch", "tablesample"];
        /// Which of several equal values they keep is not said.
        const DISTINGUISHING: [&str; 6] =
            ["distinct", "group", "over", "union", "intersect", "except"];
        // A subquery may be run once for all rows.
        let mut functions = self.facts.functions.iter();
        let kinds = &self.catalog.functions;
        self.has_word(&PICKING)
            || functions.any(|function| kinds.may_be_volatile(&function.name))
            || others == Others::SharedAlike && self.has_word(&DISTINGUISHING)
    }

    fn functions(&self) -> Result<(), Refusal> {
        let functions = Functions::of(self.facts, self.catalog);
        if let Some(function) = functions.opaque {
            let message = format!("function {function} may use sharded tables");
            return Err(Refusal::new(Reason::OpaqueFunction, message));
        }
        functions.no_sequence_away_from_home(self.catalog)?;
        functions
            .home
            .map_or(Ok(()), |function| Err(home_only(function)))
    }
}
