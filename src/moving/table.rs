//! How a table looks on a server.

use tokio_postgres::Client;

use crate::resharding::condition::quoted_name;

/// A table as a server defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    pub oid: u32,
    /// In the order of `attnum`, dropped ones left out.
    pub columns: Vec<Column>,
    /// The places in `columns` of the key by which rows are found and ordered: the primary key, else the index of the replica identity, else a unique
    /// index of columns that cannot be NULL. Empty: there is none.
    pub key: Vec<usize>,
    pub identity: Identity,
    pub kind: TableKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Box<str>,
    /// As SQL writes the type, with its schema where it has one besides `pg_catalog`.
    pub type_name: Box<str>,
    pub not_null: bool,
    /// Computed from the row by the server; never written by us.
    pub generated: bool,
}

/// What the log says of the old row of an UPDATE or DELETE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// These columns.
    Columns(Vec<usize>),
    Full,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    Ordinary,
    /// Has no rows of its own; its partitions have.
    Partitioned,
    /// Its changes are not logged.
    Unlogged,
    /// A foreign table, a view, ...: nothing that can be moved.
    Other,
}

impl Shape {
    /// The columns that are written, in order: all but generated ones.
    pub fn written(&self) -> impl Iterator<Item = (usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .filter(|(_, column)| !column.generated)
    }

    /// The place of a column.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| *column.name == *name)
    }
}

const SHAPE: &str = "SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relreplident::text,
    (SELECT i.indkey::int2[] FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND (SELECT pg_catalog.bool_and(k.attnotnull) FROM pg_catalog.pg_attribute k
              WHERE k.attrelid = c.oid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
      ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid LIMIT 1) AS key,
    (SELECT i.indnkeyatts FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND (SELECT pg_catalog.bool_and(k.attnotnull) FROM pg_catalog.pg_attribute k
              WHERE k.attrelid = c.oid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
      ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid LIMIT 1)::int4 AS width,
    (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) AS identity
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2";

const COLUMNS: &str = "SELECT a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> ''
    FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// Reads how a table looks; `None`: there is none of this name. Types are written as `search_path = pg_catalog` needs them.
pub async fn read(
    client: &Client,
    schema: &str,
    name: &str,
) -> Result<Option<Shape>, tokio_postgres::Error> {
    let Some(row) = client.query_opt(SHAPE, &[&schema, &name]).await? else {
        return Ok(None);
    };
    let oid: u32 = row.get(0);
    let kind = match (row.get::<_, &str>(1), row.get::<_, &str>(2)) {
        ("r", "p") => TableKind::Ordinary,
        ("p", "p") => TableKind::Partitioned,
        ("r" | "p", _) => TableKind::Unlogged,
        _ => TableKind::Other,
    };
    let rows = client.query(COLUMNS, &[&oid]).await?;
    let numbers: Vec<i16> = rows.iter().map(|row| row.get(0)).collect();
    let columns = rows
        .iter()
        .map(|row| Column {
            name: row.get::<_, &str>(1).into(),
            type_name: row.get::<_, &str>(2).into(),
            not_null: row.get(3),
            generated: row.get(4),
        })
        .collect();
    let places = |found: Vec<i16>| -> Vec<usize> {
        let place = |number: &i16| numbers.iter().position(|one| one == number);
        found.iter().filter_map(place).collect()
    };
    let mut key: Vec<i16> = row.get::<_, Option<Vec<i16>>>(4).unwrap_or_default();
    let width = row.get::<_, Option<i32>>(5).unwrap_or(0);
    key.truncate(usize::try_from(width).unwrap_or(0));
    let identity = match row.get::<_, &str>(3) {
        "f" => Identity::Full,
        "n" => Identity::Nothing,
        _ => match row.get::<_, Option<Vec<i16>>>(6) {
            Some(found) => Identity::Columns(places(found)),
            None => Identity::Nothing,
        },
    };
    Ok(Some(Shape {
        oid,
        columns,
        key: places(key),
        identity,
        kind,
    }))
}

/// Names in quotes, with commas between.
pub fn names<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    let names: Vec<_> = columns
        .into_iter()
        .map(|column| quoted_name(&column.name))
        .collect();
    names.join(", ")
}
