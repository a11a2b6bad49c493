//! Why all rows of a relation that can matter to a statement have certain values in a column.
//!
//! The conjuncts that are usable for a relation hold together for every row of it that can matter. So the columns that they make equal
//! to one of its columns, step by step, have that column's value, and a constant on any of them is a constant on all. A step is taken
//! only between types whose equality is exact and transitive: `bigint = numeric` is, anything with a float is not, and neither is
//! `text = char(n)`, which looks away from trailing blanks on one side only.
//!
//! A step may lead to a column of an outer block (a correlated subquery). There the outer relation's own usable conjuncts continue the
//! chain: an outer row that does not meet them does not matter, so what the subquery finds for it does not either. Likewise a step may lead from
//! a column of the subquery that MERGE reads from to what that is inside: each of its rows meets the conjuncts that are usable there.

use std::collections::{HashMap, HashSet};
use std::slice;

use crate::sharding::KeyType;
use crate::sql::facts::{Cast, ColumnRef, Conjunct, Operand};

use super::refusal::{Reason, Refusal};
use super::scope::{Node, Origin, Scope};
use super::words::ParameterPlaces;
use super::{Arity, KeyOperand, Typing};

/// The most work (relations of a block times its conjuncts) that is done for a statement.
const LIMIT: usize = 4_000_000;

/// What is known of a column's values.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// One of these.
    Values(Vec<KeyOperand>),
    /// It is compared with NULL, which is never true.
    Null,
    Nothing,
}

/// A conjunct with its names resolved.
enum Fact<'a> {
    /// The column is one of these.
    Values(Node<'a>, Vec<KeyOperand>),
    Null(Node<'a>),
    /// These columns are equal, each with each of the other list.
    Equal(Vec<Node<'a>>, Vec<Node<'a>>),
    Nothing,
}

/// Proves values for the relations of one statement.
pub struct Prover<'a> {
    scope: &'a Scope<'a>,
    /// By block and conjunct.
    facts: Vec<Vec<Fact<'a>>>,
    proven: HashMap<Node<'a>, Proof>,
}

impl<'a> Prover<'a> {
    pub fn new(scope: &'a Scope<'a>, places: &ParameterPlaces) -> Result<Prover<'a>, Refusal> {
        let work: usize = scope
            .facts
            .blocks
            .iter()
            .map(|block| block.relations.len().saturating_mul(block.conjuncts.len()))
            .sum();
        if work > LIMIT {
            let message = "the statement has too many tables and conditions to find its shard";
            return Err(Refusal::new(Reason::TooComplex, message));
        }
        let facts = scope
            .facts
            .blocks
            .iter()
            .enumerate()
            .map(|(block, content)| {
                content
                    .conjuncts
                    .iter()
                    .map(|conjunct| Fact::resolve(conjunct, block, scope, places))
                    .collect()
            });
        Ok(Prover {
            scope,
            facts: facts.collect(),
            proven: HashMap::new(),
        })
    }

    /// The values that a relation's column can have in rows that matter.
    pub fn column(&mut self, node: Node<'a>) -> Proof {
        if let Some(known) = self.proven.get(&node) {
            return known.clone();
        }
        let proof = self.search(node);
        self.proven.insert(node, proof.clone());
        proof
    }

    /// Whether a relation's column has, in all rows that matter, the value that `anchor`, a column of a relation of the outermost block
    /// that is in each of its rows, has in the row that they matter to.
    ///
    /// As if `anchor = x` were one more condition of the outermost WHERE, for an x that nobody knows: usable for every relation there.
    pub fn equals(&self, start: Node<'a>, anchor: Node<'a>) -> bool {
        if start == anchor {
            return true;
        }
        let Node::Column {
            block,
            relation,
            column,
        } = start
        else {
            return self.is_merged_from(start, anchor);
        };
        let Some(start_type) = self.scope.type_of(start) else {
            return false;
        };
        let usable = &self.scope.facts.blocks[block].relations[relation].usable;
        let links = Links::of(usable.iter().map(|conjunct| &self.facts[block][*conjunct]));
        let mut seen = HashSet::from([start]);
        let mut open = vec![start];
        if self.scope.takes_part(block, relation, column) {
            let merged = Node::Merged { block, column };
            seen.insert(merged);
            open.push(merged);
        }
        while let Some(node) = open.pop() {
            if !self
                .scope
                .type_of(node)
                .is_some_and(|reached| exact_equality(start_type, reached))
            {
                continue;
            }
            if node == anchor || self.is_merged_from(node, anchor) {
                return true;
            }
            // Of an outer block, or of the query that MERGE reads from, which sees no other: this ends.
            if node.block() != block && self.equals(node, anchor) {
                return true;
            }
            open.extend(links.equal(node).filter(|next| seen.insert(*next)));
        }
        false
    }

    /// Whether a column is the one that USING merged from `anchor` and others.
    fn is_merged_from(&self, node: Node<'a>, anchor: Node<'a>) -> bool {
        match (node, anchor) {
            (
                Node::Merged { block, column },
                Node::Column {
                    block: anchored,
                    relation,
                    column: merged,
                },
            ) => {
                block == anchored
                    && column == merged
                    && self.scope.takes_part(block, relation, column)
            }
            _ => false,
        }
    }

    fn search(&mut self, start: Node<'a>) -> Proof {
        let Node::Column {
            block,
            relation,
            column,
        } = start
        else {
            return Proof::Nothing;
        };
        let Some(start_type) = self.scope.type_of(start) else {
            return Proof::Nothing;
        };
        let usable = &self.scope.facts.blocks[block].relations[relation].usable;
        let links = Links::of(usable.iter().map(|conjunct| &self.facts[block][*conjunct]));

        let mut seen = HashSet::from([start]);
        let mut open = vec![start];
        // In the rows where this relation takes part, a column merged by USING has this relation's value.
        if self.scope.takes_part(block, relation, column) {
            let merged = Node::Merged { block, column };
            seen.insert(merged);
            open.push(merged);
        }
        let mut found = Proof::Nothing;
        let mut outer = Vec::new();
        while let Some(node) = open.pop() {
            if !self
                .scope
                .type_of(node)
                .is_some_and(|reached| exact_equality(start_type, reached))
            {
                continue;
            }
            found = found.or(links.proof(node));
            if node.block() != block {
                outer.push(node);
            }
            for next in links.equal(node) {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        drop(links);
        // Of an outer block, or of the query that MERGE reads from, which sees no other: this ends.
        outer
            .into_iter()
            .fold(found, |found, node| found.or(self.column(node)))
    }
}

impl Proof {
    /// The stronger of two: fewer values first, because each of them alone is enough.
    fn or(self, other: Proof) -> Proof {
        match (self, other) {
            (Proof::Values(one), Proof::Values(other)) => Proof::Values(
                if (other.len(), arrays(&other)) < (one.len(), arrays(&one)) {
                    other
                } else {
                    one
                },
            ),
            (Proof::Values(one), _) | (_, Proof::Values(one)) => Proof::Values(one),
            (Proof::Null, _) | (_, Proof::Null) => Proof::Null,
            (Proof::Nothing, Proof::Nothing) => Proof::Nothing,
        }
    }
}

fn arrays(values: &[KeyOperand]) -> usize {
    values
        .iter()
        .filter(|value| value.arity == Arity::Array)
        .count()
}

impl Node<'_> {
    pub fn block(&self) -> usize {
        match self {
            Node::Column { block, .. } | Node::Merged { block, .. } => *block,
        }
    }
}

/// The usable facts of one relation, by column.
struct Links<'f, 'a> {
    equal: HashMap<Node<'a>, Vec<Node<'a>>>,
    values: HashMap<Node<'a>, Vec<&'f Fact<'a>>>,
}

impl<'f, 'a> Links<'f, 'a> {
    fn of(facts: impl Iterator<Item = &'f Fact<'a>>) -> Links<'f, 'a> {
        let mut links = Links {
            equal: HashMap::new(),
            values: HashMap::new(),
        };
        for fact in facts {
            match fact {
                Fact::Values(node, _) | Fact::Null(node) => {
                    links.values.entry(*node).or_default().push(fact)
                }
                Fact::Equal(left, right) => {
                    for (left, right) in left
                        .iter()
                        .flat_map(|left| right.iter().map(move |right| (*left, *right)))
                    {
                        links.equal.entry(left).or_default().push(right);
                        links.equal.entry(right).or_default().push(left);
                    }
                }
                Fact::Nothing => {}
            }
        }
        links
    }

    fn equal(&self, node: Node<'a>) -> impl Iterator<Item = Node<'a>> {
        self.equal.get(&node).into_iter().flatten().copied()
    }

    fn proof(&self, node: Node<'a>) -> Proof {
        let facts = self.values.get(&node).into_iter().flatten();
        facts.fold(Proof::Nothing, |found, fact| match fact {
            Fact::Values(_, values) => found.or(Proof::Values(values.clone())),
            Fact::Null(_) => found.or(Proof::Null),
            Fact::Equal(..) | Fact::Nothing => found,
        })
    }
}

impl<'a> Fact<'a> {
    fn resolve(
        conjunct: &'a Conjunct,
        block: usize,
        scope: &'a Scope<'a>,
        places: &ParameterPlaces,
    ) -> Fact<'a> {
        let one_of = |column: &'a ColumnRef, operands: &[Operand], arity| match scope
            .origin(block, column)
        {
            Some(Origin::Column(node)) => Fact::one_of(node, operands, arity, scope, places),
            Some(Origin::Value(_)) | None => Fact::Nothing,
        };
        match conjunct {
            Conjunct::Equal(column, Operand::Column(other)) | Conjunct::Same(column, other) => {
                match (scope.origin(block, column), scope.origin(block, other)) {
                    (Some(Origin::Column(one)), Some(Origin::Column(other))) => {
                        Fact::Equal(vec![one], vec![other])
                    }
                    (Some(Origin::Column(node)), Some(Origin::Value(value)))
                    | (Some(Origin::Value(value)), Some(Origin::Column(node))) => {
                        Fact::one_of(node, slice::from_ref(value), Arity::One, scope, places)
                    }
                    _ => Fact::Nothing,
                }
            }
            Conjunct::Using {
                column,
                left,
                right,
            } => Fact::Equal(
                scope.side(block, left, column).collect(),
                scope.side(block, right, column).collect(),
            ),
            Conjunct::Equal(column, operand) => {
                one_of(column, slice::from_ref(operand), Arity::One)
            }
            Conjunct::AnyOf(column, operand) => {
                one_of(column, slice::from_ref(operand), Arity::Array)
            }
            Conjunct::In(column, operands) => one_of(column, operands, Arity::One),
        }
    }

    /// `column` is one of `operands`; an element that is NULL is never equal and may be left out.
    fn one_of(
        node: Node<'a>,
        operands: &[Operand],
        arity: Arity,
        scope: &Scope<'a>,
        places: &ParameterPlaces,
    ) -> Fact<'a> {
        let Some(column_type) = scope.type_of(node) else {
            return Fact::Nothing;
        };
        let mut values = Vec::with_capacity(operands.len());
        for operand in operands.iter().filter(|operand| **operand != Operand::Null) {
            match key_operand(operand, column_type, arity, places) {
                Some(value) => values.push(value),
                None => return Fact::Nothing,
            }
        }
        if values.is_empty() {
            Fact::Null(node)
        } else {
            Fact::Values(node, values)
        }
    }
}

/// A literal or parameter that meets a column; `None` for anything whose value or type is not known exactly.
pub fn key_operand(
    operand: &Operand,
    column_type: KeyType,
    arity: Arity,
    places: &ParameterPlaces,
) -> Option<KeyOperand> {
    let (cast, typing) = match operand {
        Operand::Literal { cast, .. } => (cast, Typing::Certain),
        Operand::Param { number, cast } => (
            cast,
            places.typing(*number, cast.as_ref(), column_type, arity),
        ),
        Operand::Null | Operand::Default | Operand::Column(_) | Operand::Unknown => return None,
    };
    if let Some(cast) = cast {
        cast_type(cast, arity)?;
    }
    Some(KeyOperand {
        operand: operand.clone(),
        column_type,
        arity,
        typing,
    })
}

/// The type that a cast names, when it is one that a key may have (or an array of one).
pub fn cast_type(cast: &Cast, arity: Arity) -> Option<KeyType> {
    let element = match arity {
        Arity::One => &cast.0,
        Arity::Array => cast.0.strip_suffix("[]")?,
    };
    Some(match element {
        "int2" => KeyType::SmallInt,
        "int4" => KeyType::Integer,
        "int8" => KeyType::BigInt,
        "text" => KeyType::Text,
        "varchar" => KeyType::VarChar,
        "bpchar" => KeyType::Char,
        "uuid" => KeyType::Uuid,
        "date" => KeyType::Date,
        "timestamp" => KeyType::Timestamp,
        "timestamptz" => KeyType::TimestampTz,
        "numeric" => KeyType::Numeric,
        "bytea" => KeyType::Bytea,
        _ => return None,
    })
}

/// Whether `=` between columns of these types is exact, so that equal columns have one key.
pub fn exact_equality(one: KeyType, other: KeyType) -> bool {
    let exact_number = |key_type: KeyType| key_type.is_integer() || key_type == KeyType::Numeric;
    let plain_text = |key_type| matches!(key_type, KeyType::Text | KeyType::VarChar);
    one == other || exact_number(one) && exact_number(other) || plain_text(one) && plain_text(other)
}
