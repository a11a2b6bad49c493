//! INSERT into a reference table whose values are not the same wherever they are computed (the clock, chance, such defaults): the default shard stores
//! the rows, and all other shards get them as they were stored.

use std::mem::size_of;

use crate::catalog::{ColumnDefault, Resolved, quoted_name};
use crate::sql::lexer::Kind;
use crate::sql::places;

use super::changes::{Asked, Others, Verbatim};
use super::everywhere::is_triggered;
use super::gather::Piece;

/// How the rows are called where they are stored again.
const ROWS: &str = "\"trunkline rows\"";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// With its schema, quoted as in SQL.
    pub table: String,
    /// What the statement calls it, likewise.
    alias: String,
    /// All that are stored, not computed from the row.
    pub columns: Vec<Box<str>>,
    /// What stands between the client's text and the columns.
    joint: &'static str,
}

/// `None`: it is another statement, or the same cannot be done for it. That its table is a reference table has been found.
pub fn once(asked: &Asked<'_>) -> Option<Once> {
    let target = asked.target()?;
    let known = asked.known(target);
    // A conflict may be with another row on each shard, and a trigger may do something else.
    let is_plain = asked.verbatim() == Verbatim::Insert
        && !asked.has_word(&["conflict"])
        && !is_triggered(asked.catalog, target)
        && asked.others(Others::SharedForOne).is_ok();
    if !is_plain {
        return None;
    }
    let written = target.schema.as_deref();
    let resolved = asked
        .catalog
        .resolve(asked.search_path, written, &target.name);
    let Resolved::Found { schema, .. } = resolved else {
        return None;
    };
    let piece = Piece::read(asked.text, asked.statement.range.clone())?;
    let behind_name = match piece.kind(Some(3)) {
        Some(Kind::Dot) => 5,
        _ => 3,
    };
    let alias = match piece.is_word(Some(behind_name), &["as"]) {
        true => piece.identifier(behind_name + 1)?,
        false => &target.name,
    };
    // What may not be seen could not be returned; a query of WITH could change rows.
    let qualified = (schema.into(), target.name.clone());
    let queries = (0..piece.len())
        .any(|at| piece.is_word(Some(at), &["with"]) && !piece.is_word(Some(at + 1), &["time"]));
    if queries || asked.catalog.details.secured.contains(&qualified) {
        return None;
    }
    let returns = places::returns(asked.text, asked.statement.range.clone())?;
    // Of numbers from sequences the session has to know.
    let columns = known.columns?;
    if columns
        .iter()
        .any(|column| column.default == ColumnDefault::Sequence)
    {
        return None;
    }
    let stored = columns.iter();
    let stored = stored.filter(|column| column.default != ColumnDefault::Generated);
    Some(Once {
        table: format!("{}.{}", quoted_name(schema), quoted_name(&target.name)),
        alias: quoted_name(alias),
        columns: stored.map(|column| column.name.clone()).collect(),
        joint: if returns { "\n, " } else { "\nRETURNING " },
    })
}

impl Once {
    /// The client's text, which also returns what was stored, behind all else.
    pub fn storing(&self, text: &[u8]) -> Vec<u8> {
        let alias = &self.alias;
        let columns = self.columns.iter();
        let columns: Vec<String> = columns
            .map(|name| format!("{alias}.{}", quoted_name(name)))
            .collect();
        [text, self.joint.as_bytes(), columns.join(", ").as_bytes()].concat()
    }

    /// What stores the same rows again: they are its parameter.
    pub fn repeating(&self) -> String {
        let columns = self.columns.iter().map(|name| quoted_name(name));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let table = &self.table;
        format!(
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_catalog.unnest($1::{table}[]) AS {ROWS}"
        )
    }

    pub(super) fn describe(&self) -> String {
        "goes    once to the default shard; every other one gets the rows as they are stored there"
            .to_owned()
    }

    pub(super) fn bytes(&self) -> usize {
        let columns = self.columns.iter();
        let columns: usize = columns.map(|name| name.len() + size_of::<Box<str>>()).sum();
        size_of::<Once>() + self.table.len() + self.alias.len() + columns
    }
}
