//! The keys of the rows that an INSERT stores.

use crate::catalog::{ColumnDefault, SchemaState, Sequences};
use crate::sharding::KeyType;
use crate::sql::facts::{Insert, InsertSource, Operand};

use super::proof::{Proof, Prover, exact_equality, key_operand};
use super::refusal::{Reason, Refusal};
use super::scope::{Known, Node, Origin, Scope};
use super::words::ParameterPlaces;
use super::{Arity, KeyOperand, KeyTuple};

/// One INSERT into a sharded table.
pub struct Inserted<'a> {
    pub insert: &'a Insert,
    pub target: Known<'a>,
    pub key: &'a [Box<str>],
    pub scope: &'a Scope<'a>,
    pub places: &'a ParameterPlaces,
}

impl<'a> Inserted<'a> {
    /// The key of every row: one tuple a row of VALUES; for INSERT ... SELECT all keys that its rows can have.
    pub fn keys(&self, prover: &mut Prover<'a>) -> Result<Vec<KeyTuple>, Refusal> {
        self.leaves_nothing_to_a_sequence()?;
        let places = self
            .key
            .iter()
            .map(|column| self.place(column))
            .collect::<Result<Vec<_>, _>>()?;
        match &self.insert.source {
            InsertSource::DefaultValues => Err(self.without_key(&self.key[0])),
            InsertSource::Values(rows) => rows.iter().map(|row| self.row(row, &places)).collect(),
            InsertSource::Select(block) => {
                let columns = places
                    .iter()
                    .zip(self.key)
                    .map(|(place, column)| self.selected(*block, *place, column, prover));
                super::data::combinations(columns.collect::<Result<Vec<_>, _>>()?)
            }
        }
    }

    /// The keys that the row can have which an action of MERGE stores: its values may be columns of the source.
    pub fn merged_keys(&self, prover: &mut Prover<'a>) -> Result<Vec<KeyTuple>, Refusal> {
        self.leaves_nothing_to_a_sequence()?;
        let columns = self.key.iter().map(|column| {
            let reference = match self.given(column)? {
                Operand::Column(reference) => reference,
                operand => return Ok(vec![self.value(operand, column)?]),
            };
            match self.scope.origin(0, reference) {
                Some(Origin::Value(operand)) => Ok(vec![self.value(operand, column)?]),
                Some(Origin::Column(node)) if self.is_from_source(node) => {
                    self.read(node, column, prover)
                }
                _ => Err(self.not_known(column)),
            }
        });
        super::data::combinations(columns.collect::<Result<_, _>>()?)
    }

    /// What the first row has for a column.
    pub fn given(&self, column: &str) -> Result<&'a Operand, Refusal> {
        let place = self.place(column)?;
        let insert: &'a Insert = self.insert;
        let row = match &insert.source {
            InsertSource::Values(rows) => rows.first(),
            InsertSource::Select(_) | InsertSource::DefaultValues => None,
        };
        row.and_then(|row| row.get(place))
            .ok_or_else(|| self.without_key(column))
    }

    /// Whether a column that an action of MERGE names is the source's, and never NULL for want of a partner.
    pub fn is_from_source(&self, node: Node<'_>) -> bool {
        let is_target = matches!(
            node,
            Node::Column {
                block: 0,
                relation: 0,
                ..
            }
        );
        !is_target && self.scope.is_in_each_row(node)
    }

    /// Where the column's value stands in a row.
    pub fn place(&self, column: &str) -> Result<usize, Refusal> {
        if let Some(columns) = &self.insert.columns {
            return columns
                .iter()
                .position(|listed| **listed == *column)
                .ok_or_else(|| self.without_key(column));
        }
        let Some(columns) = self.target.columns else {
            let message = format!(
                "the columns of table \"{}\" are not known yet; list them in the INSERT",
                self.insert.table.name
            );
            return Err(Refusal::new(Reason::CatalogUnread, message));
        };
        columns
            .iter()
            .position(|known| *known.name == *column)
            .ok_or_else(|| self.without_key(column))
    }

    fn row(&self, row: &[Operand], places: &[usize]) -> Result<KeyTuple, Refusal> {
        let operands = places
            .iter()
            .zip(self.key)
            .map(|(place, column)| match row.get(*place) {
                Some(operand) => self.value(operand, column),
                None => Err(self.without_key(column)),
            });
        Ok(KeyTuple(operands.collect::<Result<_, _>>()?))
    }

    fn value(&self, operand: &Operand, column: &str) -> Result<KeyOperand, Refusal> {
        if *operand == Operand::Null {
            let message = format!(
                "key column \"{column}\" of sharded table \"{}\" would be NULL",
                self.insert.table.name
            );
            return Err(Refusal::new(Reason::NullKey, message));
        }
        key_operand(operand, self.column_type(column)?, Arity::One, self.places)
            .ok_or_else(|| self.not_known(column))
    }

    /// The values of a key column that come out of the query of INSERT ... SELECT.
    fn selected(
        &self,
        block: Option<usize>,
        place: usize,
        column: &str,
        prover: &mut Prover<'a>,
    ) -> Result<Vec<KeyOperand>, Refusal> {
        let block = block.ok_or_else(|| self.not_known(column))?;
        let scope: &'a Scope<'a> = self.scope;
        match scope.facts.blocks[block].output.get(place) {
            Some(Operand::Column(reference)) => {
                let node = scope
                    .resolve(block, reference)
                    .ok_or_else(|| self.not_known(column))?;
                self.read(node, column, prover)
            }
            Some(operand) => Ok(vec![self.value(operand, column)?]),
            None => Err(self.not_known(column)),
        }
    }

    /// The values that a column has that is stored as a key column.
    fn read(
        &self,
        node: Node<'a>,
        column: &str,
        prover: &mut Prover<'a>,
    ) -> Result<Vec<KeyOperand>, Refusal> {
        match prover.column(node) {
            Proof::Values(values) if self.stores_exactly(node, column) => Ok(values),
            _ => Err(self.not_known(column)),
        }
    }

    /// Whether a key column stores what another column has as it is.
    pub fn stores_exactly(&self, node: Node<'_>, column: &str) -> bool {
        self.scope.type_of(node).is_some_and(|source| {
            self.column_type(column)
                .is_ok_and(|to| exact_equality(source, to))
        })
    }

    pub fn column_type(&self, column: &str) -> Result<KeyType, Refusal> {
        self.target
            .type_of(column, self.scope.catalog)
            .ok_or_else(|| self.not_known(column))
    }

    /// A shard's own sequence would give this row a number that another shard gives too.
    pub fn leaves_nothing_to_a_sequence(&self) -> Result<(), Refusal> {
        if self.scope.catalog.sequences == Sequences::PerShard {
            return Ok(());
        }
        let Some(columns) = self.target.columns else {
            return match self.scope.catalog.schema {
                SchemaState::Read => Ok(()),
                SchemaState::Unread => {
                    let message = format!(
                        "the definition of table \"{}\" has not been read from the servers yet",
                        self.insert.table.name
                    );
                    Err(Refusal::new(Reason::CatalogUnread, message))
                }
            };
        };
        let from_sequence = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.default == ColumnDefault::Sequence);
        for (own_place, column) in from_sequence {
            let place = match &self.insert.columns {
                Some(listed) => listed.iter().position(|listed| *listed == column.name),
                None => Some(own_place),
            };
            if !place.is_some_and(|place| self.gives_value(place)) {
                let message = format!(
                    "column \"{}\" of sharded table \"{}\" would get its value from a sequence",
                    column.name, self.insert.table.name
                );
                return Err(Refusal::new(Reason::SequenceDefault, message));
            }
        }
        Ok(())
    }

    /// Whether every row has something other than DEFAULT at this place.
    fn gives_value(&self, place: usize) -> bool {
        match &self.insert.source {
            InsertSource::DefaultValues => false,
            InsertSource::Values(rows) => rows.iter().all(|row| {
                row.get(place)
                    .is_some_and(|operand| *operand != Operand::Default)
            }),
            // With a column list a query must have as many columns as the list.
            InsertSource::Select(_) if self.insert.columns.is_some() => true,
            InsertSource::Select(block) => {
                block.is_some_and(|block| place < self.scope.facts.blocks[block].output.len())
            }
        }
    }

    fn without_key(&self, column: &str) -> Refusal {
        let message = format!(
            "the INSERT gives no value for key column \"{column}\" of sharded table \"{}\"",
            self.insert.table.name
        );
        Refusal::new(Reason::InsertWithoutKey, message)
    }

    fn not_known(&self, column: &str) -> Refusal {
        let message = format!(
            "the value for key column \"{column}\" of sharded table \"{}\" is neither a literal nor a parameter",
            self.insert.table.name
        );
        Refusal::new(Reason::InsertKeyNotKnown, message)
    }
}
