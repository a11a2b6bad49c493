//! What is sent to servers beside the client's text. Names come from the catalog and stand in quotes; conditions are the client's own bytes.

use std::ops::Range;

use crate::sql::lexer::{Kind, Lexer};
use crate::sql::normalise::{Literal, from_normal};

use super::{Among, Columns, CopyFormat, Fetch, View};

/// A condition with such a string stays where it is: it may mean another moment each time it is read, or (a backslash at the end of a pattern) be an
/// error that the statement would not come to.
const UNSTEADY: [&[u8]; 5] = [b"now", b"today", b"tomorrow", b"yesterday", b"\\"];

/// Which rows of a table a server is asked for.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The client's.
    pub text: &'a [u8],
    pub literals: &'a [Literal],
    /// Its parameters as SQL, by number from 1; a condition with one that is not known stays where it is.
    pub parameters: &'a [Option<Box<str>>],
    /// A condition of rows that are left out.
    pub but: Option<&'a str>,
    /// What else is true of each row that matters.
    pub also: &'a [String],
}

impl Fetch {
    /// The table that stands in, still empty: all columns with their types and collations, no constraints.
    pub fn create(&self) -> String {
        format!(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT * FROM {} WITH NO DATA",
            self.temporary(),
            self.permanent()
        )
    }

    /// What a source shard is asked.
    pub fn copy_out(&self, choice: &Choice<'_>) -> Vec<u8> {
        let mut query = b"COPY (".to_vec();
        query.extend(self.query(choice));
        query.extend(format!(") TO STDOUT (FORMAT {})", self.format.name()).into_bytes());
        query
    }

    /// The rows that a source shard sends.
    pub fn query(&self, choice: &Choice<'_>) -> Vec<u8> {
        self.select(&self.needed(), choice)
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
    pub fn insert(&self, choice: &Choice<'_>) -> Vec<u8> {
        let columns = match &self.columns {
            Columns::Unknown => "*".to_owned(),
            Columns::Named { all, .. } => list(all),
        };
        let into = match &*columns {
            "*" => String::new(),
            columns => format!(" ({columns})"),
        };
        let mut query = format!("INSERT INTO {}{into} ", self.temporary()).into_bytes();
        query.extend(self.select(&columns, choice));
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

    /// The numbers of the parameters in its conditions.
    pub fn parameters(&self, text: &[u8], literals: &[Literal]) -> Vec<u16> {
        let mut numbers = Vec::new();
        for range in &self.conditions {
            each_parameter(cut(range, text, literals), |_, number| numbers.push(number));
        }
        numbers
    }

    /// Asks the temporary table of another fetch which values a column's are among: one row with the array as SQL.
    pub fn keys(&self, among: &Among) -> String {
        let (of, key) = (self.temporary(), quoted(&among.key));
        format!(
            "SELECT pg_catalog.quote_nullable(pg_catalog.array_agg(DISTINCT {key})::{}) FROM {of} WHERE {key} IS NOT NULL",
            among.array
        )
    }

    /// The condition that a column's value is one of an array's, which is given as SQL.
    pub fn is_among(&self, among: &Among, array: &str) -> String {
        format!(
            "{}.{} OPERATOR(pg_catalog.=) ANY ({array}::{})",
            quoted(&self.alias),
            quoted(&among.column),
            among.array
        )
    }

    fn select(&self, columns: &str, choice: &Choice<'_>) -> Vec<u8> {
        let table = match choice.but {
            None => self.permanent(),
            Some(but) => format!(
                "(SELECT * FROM {} WHERE ({but}) IS NOT TRUE)",
                self.permanent()
            ),
        };
        let mut query =
            format!("SELECT {columns} FROM {table} AS {}", quoted(&self.alias)).into_bytes();
        let mut word = " WHERE (";
        let conditions = self.conditions.iter();
        let conditions = conditions.filter_map(|range| choice.condition(range));
        let also = choice.also.iter().map(|also| also.clone().into_bytes());
        for condition in conditions.chain(also) {
            query.extend_from_slice(word.as_bytes());
            query.extend(condition);
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

impl Choice<'_> {
    /// A condition with its parameters in it; `None`: it stays where it is.
    fn condition(&self, range: &Range<usize>) -> Option<Vec<u8>> {
        let said = cut(range, self.text, self.literals);
        let (mut condition, mut at, mut known) = (Vec::with_capacity(said.len()), 0, true);
        each_parameter(said, |place, number| {
            let parameter = usize::from(number).checked_sub(1);
            let parameter = parameter.and_then(|number| self.parameters.get(number)?.as_deref());
            known &= parameter.is_some();
            condition.extend_from_slice(&said[at..place.start]);
            condition.extend_from_slice(parameter.unwrap_or_default().as_bytes());
            at = place.end;
        });
        condition.extend_from_slice(&said[at..]);
        (known && !is_unsteady(&condition)).then_some(condition)
    }
}

/// Where parameters stand in a piece of SQL, and their numbers.
fn each_parameter(sql: &[u8], mut found: impl FnMut(Range<usize>, u16)) {
    let mut lexer = Lexer::new(sql);
    while let Ok(Some(lexeme)) = lexer.next() {
        let digits = std::str::from_utf8(&sql[lexeme.range()]).unwrap_or_default();
        if lexeme.kind == Kind::Param
            && let Ok(number) = digits.trim_start_matches('$').parse()
        {
            found(lexeme.range(), number);
        }
    }
}

/// Whether such words, as a condition or a parameter's value, may mean another moment each time they are read.
pub fn is_unsteady(condition: &[u8]) -> bool {
    let condition = condition.to_ascii_lowercase();
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
