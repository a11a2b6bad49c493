//! From a changed row to the shard that receives it. Pure.

use crate::resharding::condition::quoted_name;
use crate::sharding::{KeyError, ShardId};
use crate::wire::replication::{KeyPart, OwnedRelation};

use super::scope::{MovedTable, Scope};
use super::table::{Identity, Shape};
use super::values::{Field, Values};

/// A moved table as a stream sends its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The place in [`Scope::tables`].
    pub table: usize,
    /// As SQL names it.
    pub name: Box<str>,
    pub columns: Vec<Sent>,
    /// The places in `columns` of a key that no two rows of a shard have.
    pub key: Vec<usize>,
    /// What rows are found by: the key, and the columns of the shard key that it lacks, because two shards may have rows of one key.
    pub found_by: Vec<usize>,
    /// Those of the shard key, in its own order.
    pub shard_key: Vec<usize>,
}

/// A column of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub name: Box<str>,
    /// As the source writes it.
    pub type_name: Box<str>,
}

/// Why the rows of a table cannot be followed or copied; for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "{table} has nothing by which its rows can be found: give it a primary key, or REPLICA IDENTITY USING INDEX"
    )]
    NoKey { table: Box<str> },
    #[error(
        "the log does not say which key a removed row of {table} had: its replica identity lacks {column}; give it a primary key with this column, or REPLICA IDENTITY FULL"
    )]
    Identity { table: Box<str>, column: Box<str> },
    #[error("{table} has no column {column} any more")]
    NoColumn { table: Box<str>, column: Box<str> },
    #[error("a row of {table} has a key that has no place: {error}")]
    Key {
        table: Box<str>,
        #[source]
        error: KeyError,
    },
    #[error("a row of {table} has no value for {column}, which is a part of its key")]
    NoValue { table: Box<str>, column: Box<str> },
}

/// The places in `shape.columns` of what rows are found by: its key, as long as the log says it of removed rows, else what the log says.
pub fn row_key(table: &MovedTable, shape: &Shape) -> Result<Vec<usize>, PlaceError> {
    let no_key = || PlaceError::NoKey {
        table: table.quoted().into(),
    };
    let key = match &shape.identity {
        Identity::Full => shape.key.clone(),
        Identity::Columns(identity) => {
            let said = |place: &usize| identity.contains(place);
            match !shape.key.is_empty() && shape.key.iter().all(said) {
                true => shape.key.clone(),
                false => identity.clone(),
            }
        }
        Identity::Nothing => Vec::new(),
    };
    match key.is_empty() {
        true => Err(no_key()),
        false => Ok(key),
    }
}

impl Layout {
    /// A table as it is copied: all columns that are written.
    pub fn of_shape(scope: &Scope, table: usize, shape: &Shape) -> Result<Layout, PlaceError> {
        let moved = &scope.tables[table];
        let name: Box<str> = moved.quoted().into();
        let columns: Vec<Sent> = { shape.written() }
            .map(|(_, column)| Sent {
                name: column.name.clone(),
                type_name: column.type_name.clone(),
            })
            .collect();
        let place = |wanted: &str| {
            { columns.iter() }
                .position(|column| *column.name == *wanted)
                .ok_or_else(|| PlaceError::NoColumn {
                    table: name.clone(),
                    column: quoted_name(wanted).into(),
                })
        };
        let key = row_key(moved, shape)?;
        let key: Result<Vec<usize>, _> = { key.iter() }
            .map(|one| place(&shape.columns[*one].name))
            .collect();
        let shard_key: Result<Vec<usize>, _> =
            { moved.key.iter() }.map(|column| place(column)).collect();
        Ok(Layout::found_by(
            table,
            name.clone(),
            columns,
            key?,
            shard_key?,
        ))
    }

    fn found_by(
        table: usize,
        name: Box<str>,
        columns: Vec<Sent>,
        key: Vec<usize>,
        shard_key: Vec<usize>,
    ) -> Layout {
        let lacking = shard_key.iter().filter(|place| !key.contains(place));
        let found_by = key.iter().chain(lacking).copied().collect();
        Layout {
            table,
            name,
            columns,
            key,
            found_by,
            shard_key,
        }
    }

    /// `shape`: of the source. `type_names`: of the relation's columns, as the source writes them.
    pub fn new(
        scope: &Scope,
        table: usize,
        shape: &Shape,
        relation: &OwnedRelation,
        type_names: Vec<Box<str>>,
    ) -> Result<Layout, PlaceError> {
        let moved = &scope.tables[table];
        let name: Box<str> = moved.quoted().into();
        let place = |column: &str| {
            let found = relation.columns.iter().position(|one| one.name == column);
            let known = |place: usize| match relation.columns[place].key {
                KeyPart::Key => Ok(place),
                KeyPart::Other => Err(PlaceError::Identity {
                    table: name.clone(),
                    column: quoted_name(column).into(),
                }),
            };
            found.map_or_else(
                || {
                    Err(PlaceError::NoColumn {
                        table: name.clone(),
                        column: quoted_name(column).into(),
                    })
                },
                known,
            )
        };
        let key = row_key(moved, shape)?;
        let key: Result<_, _> = { key.iter() }
            .map(|one| place(&shape.columns[*one].name))
            .collect();
        let key: Vec<usize> = key?;
        let shard_key: Result<_, _> = moved.key.iter().map(|column| place(column)).collect();
        let shard_key: Vec<usize> = shard_key?;
        let columns = { relation.columns.iter().zip(type_names) }
            .map(|(column, type_name)| Sent {
                name: column.name.as_str().into(),
                type_name,
            })
            .collect();
        Ok(Layout::found_by(
            table,
            name.clone(),
            columns,
            key,
            shard_key,
        ))
    }

    /// Whether two shards may have rows of one key.
    pub fn key_may_repeat(&self) -> bool {
        self.found_by.len() > self.key.len()
    }

    /// What rows are found by, of a row.
    pub fn key_of(&self, fields: &[Field<'_>]) -> Result<Values, PlaceError> {
        let mut key = Vec::with_capacity(self.found_by.len());
        for place in &self.found_by {
            match fields[*place] {
                Field::Text(text) => key.push(Field::Text(text)),
                Field::Null | Field::Unchanged => return Err(self.no_value(*place)),
            }
        }
        Ok(Values::of(&key))
    }

    /// The shard at the other end of the way that a row goes, in either direction, for rows of this source; `None`: it does not move, or is not this source's.
    pub fn other_end(
        &self,
        scope: &Scope,
        source: ShardId,
        fields: &[Field<'_>],
    ) -> Result<Option<ShardId>, PlaceError> {
        let moved = &scope.tables[self.table];
        let mut key = Vec::with_capacity(self.shard_key.len());
        for (place, key_type) in self.shard_key.iter().zip(scope.key_types(moved)) {
            match fields[*place] {
                // No shard has it.
                Field::Null => return Ok(None),
                Field::Unchanged => return Err(self.no_value(*place)),
                Field::Text(text) => {
                    key.push(key_type.parse_text(text).map_err(|error| PlaceError::Key {
                        table: self.name.clone(),
                        error,
                    })?);
                }
            }
        }
        let moves = &scope.distributions[moved.distribution].difference;
        Ok(moves
            .move_of(&key)
            .and_then(|one| match (one.from == source, one.to == source) {
                (true, _) => Some(one.to),
                (_, true) => Some(one.from),
                _ => None,
            }))
    }

    fn no_value(&self, place: usize) -> PlaceError {
        PlaceError::NoValue {
            table: self.name.clone(),
            column: quoted_name(&self.columns[place].name).into(),
        }
    }
}
