//! What will be done for a statement: facts and catalog in, [`Plan`] or [`Refusal`] out. Pure; cached by text, search path and epoch.
//!
//! This room never connects to anything and never evaluates SQL. It decides once per shape of text; `bind.rs` finds the shard for given
//! values. The promise: a statement goes to a shard only when every row that can matter to its result is proven to be there.
//!
//! Read `planner.rs` for the cascade, `scope.rs` and `proof.rs` for why a statement lives on one shard, `refusal.rs` for what is
//! refused and why, `cache.rs`, `template.rs` and `bind.rs` for the hot path.

mod array;
pub mod bind;
pub mod cache;
mod checking;
mod classes;
mod data;
mod effect;
pub mod explain;
pub mod functions;
pub mod hint;
mod insert;
pub mod parameters;
mod planner;
mod proof;
pub mod refusal;
mod replica;
mod scope;
mod settings;
pub mod spread;
mod takes;
mod template;
pub mod views;
mod words;

#[cfg(test)]
mod golden;

use std::ops::Range;
use std::rc::Rc;

use crate::catalog::DistributionId;
use crate::sharding::{KeyType, ShardId};
use crate::sql::ReadHint;
use crate::sql::class::Class;
use crate::sql::facts::{Leaves, Operand};

pub use bind::{Bound, Passage, Values, bind};
pub use cache::PlanCache;
pub use checking::Checkable;
pub use parameters::Parameters;
pub use planner::plan;
pub use refusal::Refusal;
pub use spread::{Numbered, Placed, Spread};

/// The plans of one message's text.
#[derive(Debug)]
pub struct Planned {
    pub statements: Vec<PlannedStatement>,
}

#[derive(Clone, Debug)]
pub struct PlannedStatement {
    /// Its bytes in the text. Of a message with a single data statement these are the bytes in the first text of its shape: such a message is
    /// sent whole, so nobody cuts it (see `cache.rs`).
    pub range: Range<usize>,
    pub class: Class,
    pub plan: Result<Plan, Refusal>,
    /// How it is done when one shard is not enough, if it can be: because its plan is a refusal, or its keys turn out to lie on several.
    pub spread: Option<Rc<Spread>>,
    /// The distributions whose shards that concerns; `None`: every shard.
    pub over: Option<Rc<[DistributionId]>>,
    pub leaves: Vec<Leaves>,
    pub effect: Effect,
    pub nodes: Nodes,
    /// Which of them its comment asks for.
    pub reads: ReadHint,
    pub takes: Takes,
    pub creates: Creates,
}

/// What a statement creates, as far as it matters to where tables belong.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Creates {
    #[default]
    Other,
    Schema,
    /// A table whose place is recorded, and which has to wait until every proxy has heard of it.
    Awaited(Rc<Placed>),
}

/// Which nodes of a shard a statement may run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nodes {
    #[default]
    Primary,
    /// A streaming replica that has the same data gives the same answer.
    Any,
}

/// What a statement may take from sequences on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Nothing,
    Numbers,
}

/// What a statement does to what its transaction's commit makes last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing, for certain: if the commit were lost, nobody could tell.
    #[default]
    Reads,
    /// Nothing, yet it keeps others from doing something until the commit.
    Locks,
    Writes,
}

impl PlannedStatement {
    /// The same where it runs these statements: it does what they do, and where they may run.
    pub fn running(&self, run: &Planned) -> PlannedStatement {
        PlannedStatement {
            effect: run.effect(),
            nodes: run.nodes(),
            takes: run.takes(),
            ..self.clone()
        }
    }

    /// What numbers it needs before it can be planned, if it needs any.
    pub fn numbered(&self) -> Option<&Numbered> {
        match self.spread.as_deref() {
            Some(Spread::Numbered(numbered)) => Some(numbered),
            _ => None,
        }
    }
}

impl Planned {
    /// The most that a statement in it does.
    pub fn effect(&self) -> Effect {
        let effects = self.statements.iter().map(|statement| statement.effect);
        effects.max().unwrap_or_default()
    }

    /// The nodes on which every statement in it may run.
    pub fn nodes(&self) -> Nodes {
        let mut statements = self.statements.iter();
        if statements.all(|statement| statement.nodes == Nodes::Any) {
            Nodes::Any
        } else {
            Nodes::Primary
        }
    }

    /// What the statements in it may take from sequences.
    pub fn takes(&self) -> Takes {
        let mut statements = self.statements.iter();
        if statements.any(|statement| statement.takes == Takes::Numbers) {
            Takes::Numbers
        } else {
            Takes::Nothing
        }
    }

    /// The same without numbers, for servers that know the last values which it asks for.
    pub fn as_it_is(&self) -> Planned {
        let statements = self.statements.iter().map(|one| {
            let (plan, spread) = match one.numbered() {
                Some(numbered) => (numbered.otherwise.clone(), None),
                None => (one.plan.clone(), one.spread.clone()),
            };
            PlannedStatement {
                range: one.range.clone(),
                class: one.class.clone(),
                plan,
                spread,
                over: one.over.clone(),
                leaves: one.leaves.clone(),
                effect: one.effect,
                nodes: one.nodes,
                reads: one.reads,
                takes: one.takes,
                creates: one.creates.clone(),
            }
        });
        Planned {
            statements: statements.collect(),
        }
    }

    /// Something in it needs numbers.
    pub fn is_numbered(&self) -> bool {
        let mut statements = self.statements.iter();
        statements.any(|statement| statement.numbered().is_some())
    }

    /// For a text that cannot be read: the only shard judges it. It may do anything to the connection.
    pub fn unread(text: &[u8]) -> Planned {
        Planned {
            statements: vec![PlannedStatement {
                range: 0..text.len(),
                class: Class::Unknown,
                plan: Ok(Plan::Relay(Target::Shard(ShardId(0)))),
                spread: None,
                over: None,
                leaves: Vec::new(),
                effect: Effect::Writes,
                nodes: Nodes::Primary,
                reads: ReadHint::default(),
                takes: Takes::Numbers,
                creates: Creates::Other,
            }],
        }
    }
}

/// What will be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// The session answers or remembers; no table is concerned (transaction control, SET, hints ...).
    Session,
    /// The statement goes unchanged to one shard.
    Relay(Target),
}

/// Which shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Every shard gives the same answer (system tables, reference tables): the open transaction's, else the home shard.
    Any,
    Shard(ShardId),
    /// Found from values at bind time; all keys of all sets must live on one shard, and that must be `also` when it is given
    /// (a single table is read in the same statement).
    Keys {
        sets: Vec<KeySet>,
        also: Option<ShardId>,
        verb: Verb,
    },
}

/// Keys of one distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySet {
    pub distribution: DistributionId,
    pub tuples: Vec<KeyTuple>,
}

/// One value (or, with an array operand, one list of values) for each key column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyTuple(pub Vec<KeyOperand>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyOperand {
    /// `Literal` or `Param`, nothing else.
    pub operand: Operand,
    /// The type of the column that the operand meets; what Postgres takes an untyped literal or parameter for.
    pub column_type: KeyType,
    pub arity: Arity,
    pub typing: Typing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arity {
    One,
    /// The operand is an array; each element is a key.
    Array,
}

/// Whether a parameter whose type the client did not declare has the column's (or its cast's) type for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Typing {
    /// Every place where the parameter stands gives it this type.
    Certain,
    /// It stands elsewhere too, and Postgres may have taken its type from there.
    Doubtful,
}

/// What the statement does to sharded rows: which refusal says that its keys lie on several shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
}
