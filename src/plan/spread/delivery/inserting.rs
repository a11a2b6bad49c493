//! The INSERT by which rows that were brought are stored when COPY would not do the same: with ON CONFLICT or RETURNING, and where row security is.
//!
//! A shard gets all of its rows in one statement, as one parameter behind the client's: an array of the table's row type. So rows that meet each
//! other are found as in Postgres, and no row is written into a text.

use std::ops::Range;

use crate::catalog::quoted_name;
use crate::plan::spread::changes::Asked;
use crate::sql;
use crate::sql::normalise::{Literal, from_normal};
use crate::sql::places::InsertParts;

/// How the rows are called in the statement.
const ROWS: &str = "\"trunkline rows\"";

/// Words of what reads other rows than the table's own, and of numbers that each shard would count for itself.
const FARTHER: [&str; 8] = [
    "select", "with", "table", "values", "nextval", "setval", "currval", "lastval",
];

/// What is kept of the client's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Inserting {
    /// The table with its schema and alias.
    table: Range<usize>,
    overriding: Option<Range<usize>>,
    /// ON CONFLICT and RETURNING.
    tail: Option<Range<usize>>,
}

impl Inserting {
    /// `Err`: why it cannot be said to shards.
    pub(super) fn of(asked: &Asked<'_>, parts: &InsertParts) -> Result<Inserting, &'static str> {
        if let Some(tail) = parts.tail.clone() {
            let words = sql::words(&asked.text[tail]).unwrap_or_default();
            if words.iter().any(|word| FARTHER.contains(&&**word)) {
                return Err("ON CONFLICT or RETURNING has a subquery, or asks a sequence");
            }
        }
        Ok(Inserting {
            table: parts.table.clone(),
            overriding: parts.overriding.clone(),
            tail: parts.tail.clone(),
        })
    }

    /// The statement for a shard. `columns` are those that rows are given for, `parameter` is the number of the one that has the rows; `numbered`: numbers are
    /// given for columns that the client has left out.
    pub(super) fn text(
        &self,
        row_type: &str,
        columns: &[&str],
        parameter: usize,
        (text, literals): (&[u8], &[Literal]),
        numbered: bool,
    ) -> Vec<u8> {
        let names: Vec<String> = columns.iter().map(|name| quoted_name(name)).collect();
        let values: Vec<String> = names.iter().map(|name| format!("{ROWS}.{name}")).collect();
        let copy = |range: &Range<usize>| {
            &text[from_normal(range.start, literals)..from_normal(range.end, literals)]
        };
        let mut out = b"INSERT INTO ".to_vec();
        out.extend_from_slice(copy(&self.table));
        out.extend_from_slice(format!(" ({}) ", names.join(", ")).as_bytes());
        if let Some(overriding) = &self.overriding {
            out.extend_from_slice(copy(overriding));
            out.push(b' ');
        } else if numbered {
            out.extend_from_slice(b"OVERRIDING SYSTEM VALUE ");
        }
        let from = format!(
            "SELECT {} FROM pg_catalog.unnest(${parameter}::{row_type}[]) AS {ROWS}",
            values.join(", ")
        );
        out.extend_from_slice(from.as_bytes());
        if let Some(tail) = &self.tail {
            out.push(b' ');
            out.extend_from_slice(copy(tail));
        }
        out
    }

    pub(super) fn describe(&self, text: &str) -> String {
        match &self.tail {
            Some(tail) => format!("there   {}", &text[tail.clone()]),
            None => "there   row by row, as its row security allows".to_owned(),
        }
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        let places = [
            Some(&mut self.table),
            self.overriding.as_mut(),
            self.tail.as_mut(),
        ];
        for place in places.into_iter().flatten() {
            *place = to(place.start)..to(place.end);
        }
    }
}
