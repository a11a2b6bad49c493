//! What one table is asked, as SQL. Pure.
//!
//! Columns go by name, in the order of the owner: the other side may have them in another one. Keys travel as `text[]`, one text for each
//! column, and are made values of the column's type where they are compared.

use crate::moving::table::Shape;
use crate::resharding::condition::quoted_name;

/// A row's key, each column as text.
pub(super) type Key = Vec<String>;

/// Rows by their keys: behind `after`, up to and with `upto`. Without a bound it is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) after: Option<Key>,
    pub(super) upto: Option<Key>,
}

/// Whether rows that are read stay as they are until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    No,
    Shared,
}

/// The questions to one table; the same for both sides.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    table: String,
    /// Expression and type of each key column.
    key: Vec<(String, Box<str>)>,
    /// The whole row as one text, in which no two rows that differ are alike.
    row: String,
    /// Which rows are compared.
    condition: String,
}

impl Texts {
    /// `condition` speaks of the columns as [`column`] gives them.
    pub(super) fn new(table: &str, shape: &Shape, condition: String) -> Texts {
        let key = shape.key.iter().map(|place| &shape.columns[*place]);
        let columns: Vec<_> = shape.columns.iter().map(|one| column(&one.name)).collect();
        Texts {
            table: table.to_owned(),
            key: key
                .map(|one| (column(&one.name), one.type_name.clone()))
                .collect(),
            // Compared by bytes: the hash of a text hangs on its collation.
            row: format!("ROW({})::text COLLATE \"C\"", columns.join(", ")),
            condition,
        }
    }

    /// The key of the row that has this many (`bigint`, the last parameter) rows of the table before it in the span, whether they are compared
    /// or not: so the index alone answers.
    pub(super) fn bound(&self, span: &Span) -> String {
        let (within, next) = self.within(span);
        format!(
            "SELECT {key} FROM {table} AS t WHERE {within} ORDER BY {order} OFFSET ${next}::bigint LIMIT 1",
            key = self.key_texts(),
            table = self.table,
            order = self.order(),
        )
    }

    /// How many rows the span has, and two sums over them in which their order is no matter.
    pub(super) fn digest(&self, span: &Span) -> String {
        let (within, _) = self.within(span);
        // OFFSET keeps the planner from making the row's text twice.
        format!(
            "SELECT count(*), sum(hashtextextended(r, 0))::text, sum(hashtextextended(r, 1))::text
               FROM (SELECT {row} AS r FROM {table} AS t WHERE {within} AND {condition} OFFSET 0) AS rows",
            row = self.row,
            table = self.table,
            condition = self.condition,
        )
    }

    /// The key and two hashes of each row of the span, but no more rows than the last parameter (`bigint`) says.
    pub(super) fn rows(&self, span: &Span) -> String {
        let (within, next) = self.within(span);
        format!(
            "SELECT k, hashtextextended(r, 0), hashtextextended(r, 1)
               FROM (SELECT {key} AS k, {row} AS r FROM {table} AS t WHERE {within} AND {condition}
                     LIMIT ${next}::bigint OFFSET 0) AS rows",
            key = self.key_texts(),
            row = self.row,
            table = self.table,
            condition = self.condition,
        )
    }

    /// The rows of the given keys, one parameter (`text[]`) for each key column: the key's place in them, what tells this version of the row from
    /// any other, and a digest that two rows share only when they are alike.
    pub(super) fn found(&self, hold: Hold) -> String {
        let places = 1..=self.key.len();
        let arrays: Vec<_> = places.clone().map(|n| format!("${n}::text[]")).collect();
        let names: Vec<_> = places.map(|n| format!("k{n}")).collect();
        let joined = self.key.iter().zip(&names);
        let joined: Vec<_> = joined
            .map(|((expression, of), name)| format!("{expression} = s.{name}::{of}"))
            .collect();
        // Everyone locks in the order of the key, or waits no longer than the lock's limit.
        let end = match hold {
            Hold::No => String::new(),
            Hold::Shared => format!(" ORDER BY {} FOR SHARE OF t", self.order()),
        };
        format!(
            "SELECT s.place, t.tableoid::text || ' ' || t.xmin::text || ' ' || t.ctid::text,
                    sha256(convert_to({row}, getdatabaseencoding()))
               FROM unnest({arrays}) WITH ORDINALITY AS s({names}, place) JOIN {table} AS t ON {joined}
              WHERE {condition}{end}",
            row = self.row,
            arrays = arrays.join(", "),
            names = names.join(", "),
            table = self.table,
            joined = joined.join(" AND "),
            condition = self.condition,
        )
    }

    /// `(id, "Name")`, for people.
    pub(super) fn key_names(shape: &Shape) -> String {
        let names = shape.key.iter().map(|place| &*shape.columns[*place].name);
        format!("({})", names.collect::<Vec<_>>().join(", "))
    }

    fn key_texts(&self) -> String {
        let texts: Vec<_> = self
            .key
            .iter()
            .map(|(one, _)| format!("{one}::text"))
            .collect();
        format!("ARRAY[{}]", texts.join(", "))
    }

    fn order(&self) -> String {
        let columns: Vec<_> = self.key.iter().map(|(one, _)| one.as_str()).collect();
        columns.join(", ")
    }

    /// The condition of a span, and the number of the first parameter that it does not use.
    fn within(&self, span: &Span) -> (String, usize) {
        let mut next = 1;
        let mut parts = Vec::new();
        for (operator, bound) in [(">", &span.after), ("<=", &span.upto)] {
            if bound.is_some() {
                parts.push(format!(
                    "({}) {operator} ({})",
                    self.order(),
                    self.values(next)
                ));
                next += 1;
            }
        }
        if parts.is_empty() {
            parts.push("true".to_owned());
        }
        (parts.join(" AND "), next)
    }

    /// A key in a parameter, as values of the key's types.
    fn values(&self, parameter: usize) -> String {
        let values = self.key.iter().enumerate();
        let values: Vec<_> = values
            .map(|(place, (_, of))| format!("(${parameter}::text[])[{}]::{of}", place + 1))
            .collect();
        values.join(", ")
    }
}

/// A column of the table that is asked.
pub(super) fn column(name: &str) -> String {
    format!("t.{}", quoted_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moving::table::{Column, Identity, TableKind};

    fn texts() -> Texts {
        let column = |name: &str, type_name: &str| Column {
            name: name.into(),
            type_name: type_name.into(),
            not_null: true,
            generated: false,
        };
        let shape = Shape {
            oid: 1,
            columns: vec![column("b\"", "text"), column("a", "integer")],
            key: vec![1, 0],
            identity: Identity::Full,
            kind: TableKind::Ordinary,
        };
        Texts::new("\"s\".\"t\"", &shape, "(c)".to_owned())
    }

    #[test]
    fn parameters_are_counted_from_the_bounds_that_are_there() {
        let key = || Some(vec!["1".to_owned(), "x".to_owned()]);
        let whole = texts().bound(&Span::default());
        assert!(
            whole.contains("WHERE true ORDER BY t.\"a\", t.\"b\"\"\" OFFSET $1::bigint"),
            "{whole}"
        );
        let upto = texts().rows(&Span {
            after: None,
            upto: key(),
        });
        assert!(upto.contains("(t.\"a\", t.\"b\"\"\") <= (($1::text[])[1]::integer, ($1::text[])[2]::text) AND (c)"), "{upto}");
        assert!(upto.contains("LIMIT $2::bigint"), "{upto}");
        let both = texts().digest(&Span {
            after: key(),
            upto: key(),
        });
        assert!(both.contains("> (($1::text[])[1]"), "{both}");
        assert!(both.contains("<= (($2::text[])[1]"), "{both}");
    }

    #[test]
    fn rows_are_held_only_where_it_is_said() {
        assert!(!texts().found(Hold::No).contains("FOR SHARE"));
        let held = texts().found(Hold::Shared);
        assert!(
            held.ends_with("ORDER BY t.\"a\", t.\"b\"\"\" FOR SHARE OF t"),
            "{held}"
        );
        assert!(
            held.contains("t.\"a\" = s.k1::integer AND t.\"b\"\"\" = s.k2::text"),
            "{held}"
        );
    }
}
