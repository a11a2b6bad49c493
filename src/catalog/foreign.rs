//! Rows that a shard has though another one owns them, while a plan moves keys: said by their keys, as conditions in SQL.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Catalog, DistributionId, Placement, Relation};
use crate::sharding::ShardId;

/// The keys of a distribution whose rows are on a shard and belong to another one.
pub type Foreign = Arc<HashMap<DistributionId, Vec<(ShardId, KeyCondition)>>>;

/// A condition on the columns of a key, whatever these are called where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCondition(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// The n-th column of the key.
    Column(usize),
}

impl KeyCondition {
    /// What stands for columns in the text that [`KeyCondition::read`] reads.
    pub fn columns(count: usize) -> Vec<String> {
        (0..count).map(|column| format!("\0{column}\0")).collect()
    }

    /// From a text about [`KeyCondition::columns`].
    pub fn read(text: &str) -> KeyCondition {
        // SQL has no such byte, so every second piece is a column.
        let pieces = text.split('\0').enumerate();
        let pieces = pieces.map(|(place, piece)| match piece.parse() {
            Ok(column) if place % 2 == 1 => Piece::Column(column),
            _ => Piece::Text(piece.into()),
        });
        KeyCondition(pieces.collect())
    }

    /// About these columns, each as SQL names it.
    pub fn on(&self, columns: &[String]) -> String {
        let pieces = self.0.iter();
        let pieces = pieces.map(|piece| match piece {
            Piece::Text(text) => &**text,
            Piece::Column(column) => columns[*column].as_str(),
        });
        pieces.collect()
    }
}

impl Catalog {
    /// The keys of a distribution that a shard has rows of and another one owns.
    pub fn foreign_keys(
        &self,
        distribution: DistributionId,
        shard: ShardId,
    ) -> Option<&KeyCondition> {
        let keys = self.foreign.get(&distribution)?;
        let found = keys.iter().find(|(one, _)| *one == shard);
        found.map(|(_, condition)| condition)
    }

    /// The rows of a table that a shard has and another one owns.
    pub fn foreign_rows(&self, schema: &str, table: &str, shard: ShardId) -> Option<String> {
        if self.foreign.is_empty() {
            return None;
        }
        let relation = self.relations.get(&(schema.into(), table.into()))?;
        let Relation::Table {
            placement: Placement::Sharded { distribution, key },
            ..
        } = relation
        else {
            return None;
        };
        let columns: Vec<String> = key.iter().map(|column| quoted_name(column)).collect();
        let condition = self.foreign_keys(*distribution, shard)?;
        Some(condition.on(&columns))
    }

    /// Whether one of these shards has rows of the distribution that another one owns.
    pub fn has_foreign_rows(&self, distribution: DistributionId, shards: &[ShardId]) -> bool {
        let keys = self.foreign.get(&distribution);
        keys.is_some_and(|keys| keys.iter().any(|(shard, _)| shards.contains(shard)))
    }
}

/// A name as SQL quotes it.
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_about_any_columns() {
        let columns = KeyCondition::columns(2);
        let text = format!(
            "{} = 'it''s 0' OR hash({}, {}) > 1",
            columns[1], columns[0], columns[1]
        );
        let condition = KeyCondition::read(&text);
        let on = condition.on(&["t.\"a\"".into(), "t.\"b\"".into()]);
        assert_eq!(on, "t.\"b\" = 'it''s 0' OR hash(t.\"a\", t.\"b\") > 1");
    }
}
