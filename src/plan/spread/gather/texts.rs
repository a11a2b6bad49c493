//! What is sent to servers beside the client's text. Names come from the catalog and stand in quotes; conditions are the client's own bytes.

use std::ops::Range;

use crate::sql::normalise::{Literal, from_normal};

use super::{Columns, CopyFormat, Fetch, View};

/// A condition with such a string stays where it is: it may mean another moment each time it is read, or (a backslash at the end of a pattern) be an
/// error that the statement would not come to.
const UNSTEADY: [&[u8]; 5] = [b"now", b"today", b"tomorrow", b"yesterday", b"\\"];

impl Fetch {
    /// The table that stands in, still empty: all columns with their types and collations, no constraints.
    pub fn create(&self) -> String {
        format!(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT * FROM {} WITH NO DATA",
            self.temporary(),
            self.permanent()
        )
    }

    /// What a source shard is asked. `text` is the client's, with its literals; `but`: a condition of rows that are left out.
    pub fn copy_out(&self, text: &[u8], literals: &[Literal], but: Option<&str>) -> Vec<u8> {
        let mut query = b"COPY (".to_vec();
        query.extend(self.query(text, literals, but));
        query.extend(format!(") TO STDOUT (FORMAT {})", self.format.name()).into_bytes());
        query
    }

    /// The rows that a source shard sends.
    pub fn query(&self, text: &[u8], literals: &[Literal], but: Option<&str>) -> Vec<u8> {
        self.select(&self.needed(), text, literals, but)
    }

    pub fn copy_in(&self) -> String {
        let columns = match self.needed() {
            columns if columns == "*" => String::new(),
            columns => format!(" ({columns})"),
        };
        format!(
            "COPY {}{columns} FROM STDIN (FORMAT {})",
            self.temporary(),
            self.format.name()
        )
    }

    /// Fills the table with the rows of the very connection it is on. All columns: a domain may forbid that one is left out.
    pub fn insert(&self, text: &[u8], literals: &[Literal], but: Option<&str>) -> Vec<u8> {
        let columns = match &self.columns {
            Columns::Unknown => "*".to_owned(),
            Columns::Named { all, .. } => list(all),
        };
        let into = match &*columns {
            "*" => String::new(),
            columns => format!(" ({columns})"),
        };
        let mut query = format!("INSERT INTO {}{into} ", self.temporary()).into_bytes();
        query.extend(self.select(&columns, text, literals, but));
        query
    }

    /// The rows of a parameter: an array of the table's row type.
    pub fn of_row_type(&self, parameter: usize) -> String {
        let table = self.permanent();
        format!("SELECT * FROM pg_catalog.unnest(${parameter}::{table}[])")
    }

    /// The WITH query that hides the table behind the rows of another query.
    pub fn given(&self, query: &str) -> String {
        format!("{} AS ({query})", quoted(&self.table))
    }

    /// `None` when no key is needed.
    pub fn add_primary_key(&self) -> Option<String> {
        (!self.primary_key.is_empty()).then(|| {
            format!(
                "ALTER TABLE {} ADD PRIMARY KEY ({})",
                self.temporary(),
                list(&self.primary_key)
            )
        })
    }

    /// `None` when none is needed.
    pub fn create_index(&self) -> Option<String> {
        let on = self.temporary();
        (!self.index.is_empty()).then(|| format!("CREATE INDEX ON {on} ({})", list(&self.index)))
    }

    pub fn analyze(&self) -> String {
        format!("ANALYZE {}", self.temporary())
    }

    pub fn drop(&self) -> String {
        format!("DROP TABLE {}", self.temporary())
    }

    fn select(
        &self,
        columns: &str,
        text: &[u8],
        literals: &[Literal],
        but: Option<&str>,
    ) -> Vec<u8> {
        let table = match but {
            None => self.permanent(),
            Some(but) => format!(
                "(SELECT * FROM {} WHERE ({but}) IS NOT TRUE)",
                self.permanent()
            ),
        };
        let mut query =
            format!("SELECT {columns} FROM {table} AS {}", quoted(&self.alias)).into_bytes();
        let mut word = " WHERE (";
        for condition in self
            .conditions
            .iter()
            .filter(|range| !is_unsteady(range, text, literals))
        {
            query.extend_from_slice(word.as_bytes());
            query.extend_from_slice(cut(condition, text, literals));
            query.push(b')');
            word = " AND (";
        }
        query
    }

    fn needed(&self) -> String {
        match &self.columns {
            Columns::Unknown => "*".to_owned(),
            Columns::Named { needed, .. } => list(needed),
        }
    }

    fn temporary(&self) -> String {
        format!("pg_temp.{}", quoted(&self.table))
    }

    /// The table itself.
    pub fn permanent(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.table))
    }
}

impl View {
    pub fn drop(&self) -> String {
        format!("DROP VIEW pg_temp.{}", quoted(&self.name))
    }
}

impl CopyFormat {
    pub fn name(self) -> &'static str {
        match self {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        }
    }
}

fn cut<'a>(range: &Range<usize>, text: &'a [u8], literals: &[Literal]) -> &'a [u8] {
    &text[from_normal(range.start, literals)..from_normal(range.end, literals)]
}

fn is_unsteady(range: &Range<usize>, text: &[u8], literals: &[Literal]) -> bool {
    let condition = cut(range, text, literals).to_ascii_lowercase();
    UNSTEADY
        .iter()
        .any(|word| condition.windows(word.len()).any(|window| window == *word))
}

pub fn list(names: &[Box<str>]) -> String {
    names
        .iter()
        .map(|name| quoted(name))
        .collect::<Vec<_>>()
        .join(", ")
}

pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
