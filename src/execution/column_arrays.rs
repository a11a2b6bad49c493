//! Rows as parameters of a statement, one for each column: an array of the column's type, in its binary form (`array_recv`).
//!
//! For rows of a table that the server does not have, which has no row type of it either. The types are those that every server numbers alike, so what
//! one server says of its table's columns holds for the others. The collation of a column is written where another than its type's is meant; a column of a
//! WITH query then has it just as one of a table has. A type's modifier decides nothing about values that a column has taken already.

use crate::execution::row_array::{Rows, Unfit, literal};
use crate::plan::spread::gather::{quoted, travels_in_binary};

/// OIDs below this one are written in Postgres's sources (`FirstGenbkiObjectId`): they mean the same in every version that has them.
const FIRST_ASSIGNED_OID: u32 = 10_000;

/// What a server says of the columns that are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnArrays(Vec<Column>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: Box<str>,
    type_oid: u32,
    /// As it is written, without its schema.
    type_name: Box<str>,
    /// Likewise, when it is not the type's.
    collation: Option<Box<str>>,
}

/// Asks the table's own server for these columns. The answer is one text, a word for each in their order.
pub fn question(table: &str, columns: &[Box<str>]) -> String {
    let names: Vec<String> = columns.iter().map(|name| literal(name)).collect();
    let names = format!("ARRAY[{}]::pg_catalog.name[]", names.join(", "));
    format!(
        "SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', t.oid, t.typtype, t.typcategory, t.typarray, a.attcollation, t.typcollation, \
         CASE WHEN t.oid < {FIRST_ASSIGNED_OID} THEN pg_catalog.quote_ident(t.typname) ELSE '' END, \
         CASE WHEN c.oid < {FIRST_ASSIGNED_OID} THEN pg_catalog.quote_ident(c.collname) ELSE '' END), \
         ' ' ORDER BY pg_catalog.array_position({names}, a.attname)) \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation \
         WHERE a.attrelid = {}::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY ({names})",
        literal(table)
    )
}

impl ColumnArrays {
    /// The answer to [`question`] about these columns.
    pub fn read(answer: &str, columns: &[Box<str>]) -> Result<ColumnArrays, Unfit> {
        let words: Vec<&str> = answer.split(' ').collect();
        if words.len() != columns.len() {
            return Err(Unfit::Changed);
        }
        let columns = words.into_iter().zip(columns);
        let columns = columns.map(|(word, name)| Column::read(word, name));
        columns.collect::<Result<_, _>>().map(ColumnArrays)
    }

    /// The query of the rows; the first column's parameter has this number.
    pub fn select(&self, first: usize) -> String {
        let columns = self.0.iter().map(|column| {
            let name = quoted(&column.name);
            match &column.collation {
                Some(collation) => format!("{name} COLLATE pg_catalog.{collation} AS {name}"),
                None => name,
            }
        });
        let arrays = self.0.iter().zip(first..).map(|(column, number)| {
            format!(
                "pg_catalog.unnest(${number}::pg_catalog.{}[])",
                column.type_name
            )
        });
        let names = self.0.iter().map(|column| quoted(&column.name));
        let joined = |parts: Vec<String>| parts.join(", ");
        format!(
            "SELECT {} FROM ROWS FROM ({}) AS brought ({})",
            joined(columns.collect()),
            joined(arrays.collect()),
            joined(names.collect())
        )
    }

    /// How many parameters there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The arrays of all these rows.
    pub fn arrays(&self, rows: &[Rows<'_>]) -> Vec<Vec<u8>> {
        let count: usize = rows.iter().map(Rows::len).sum();
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let columns = self.0.iter().enumerate();
        let array = columns.map(|(place, column)| {
            // Dimensions, a flag for NULLs that nobody reads, the type; of the dimension its length and first index.
            let dimensions = usize::from(count > 0);
            let mut out = [number(dimensions), number(0), column.type_oid.to_be_bytes()].concat();
            if dimensions > 0 {
                out.extend_from_slice(&number(count));
                out.extend_from_slice(&number(1));
            }
            for value in rows.iter().flat_map(|rows| rows.values(place)) {
                match value {
                    Some(value) => {
                        out.extend_from_slice(&number(value.len()));
                        out.extend_from_slice(value);
                    }
                    None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                }
            }
            out
        });
        array.collect()
    }

    /// Bytes of the arrays of all these rows, near enough for a limit.
    pub fn size(&self, rows: &[Rows<'_>]) -> usize {
        let places = 0..self.0.len();
        let values = |place| rows.iter().flat_map(move |rows| rows.values(place));
        let sizes = places.flat_map(values);
        sizes.map(|value| 4 + value.map_or(0, <[u8]>::len)).sum()
    }
}

impl Column {
    fn read(word: &str, name: &str) -> Result<Column, Unfit> {
        let parts: Vec<&str> = word.split(':').collect();
        let [
            oid,
            kind,
            category,
            array,
            collation,
            usual,
            type_name,
            collation_name,
        ] = parts[..]
        else {
            return Err(Unfit::Changed);
        };
        let number = |word: &str| word.parse::<u32>().map_err(|_| Unfit::Changed);
        let (type_oid, array) = (number(oid)?, number(array)?);
        let (collation, usual) = (number(collation)?, number(usual)?);
        // An array of arrays is one array, and its elements are not rows.
        if category == "A" {
            return Err(Unfit::Array);
        }
        let is_plain = matches!(kind, "b" | "r" | "m") && array != 0;
        if type_oid >= FIRST_ASSIGNED_OID || !is_plain || !travels_in_binary(type_oid) {
            return Err(Unfit::Binary);
        }
        let collation = match collation == usual {
            true => None,
            false if collation < FIRST_ASSIGNED_OID => Some(collation_name.into()),
            false => return Err(Unfit::Collation),
        };
        Ok(Column {
            name: name.into(),
            type_oid,
            type_name: type_name.into(),
            collation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    }

    #[test]
    fn rows_become_an_array_for_each_column() {
        let read = ColumnArrays::read(
            "23:b:N:1007:0:0:int4: 25:b:S:1009:950:100:text:\"C\"",
            &columns(&["k", "A\"b"]),
        );
        let arrays = read.expect("they are fit");
        assert_eq!(
            arrays.select(3),
            "SELECT \"k\", \"A\"\"b\" COLLATE pg_catalog.\"C\" AS \"A\"\"b\" \
             FROM ROWS FROM (pg_catalog.unnest($3::pg_catalog.int4[]), pg_catalog.unnest($4::pg_catalog.text[])) AS brought (\"k\", \"A\"\"b\")"
        );
        let data = [
            &b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..],
            &[0, 2, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 1, b'x'],
            &[0, 2, 0, 0, 0, 4, 0, 0, 0, 8, 255, 255, 255, 255],
            &[0xff, 0xff],
        ]
        .concat();
        let rows = [Rows::read(&data).expect("they are whole")];
        let head = |oid| [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, oid, 0, 0, 0, 2, 0, 0, 0, 1];
        let numbers: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 8];
        let texts: &[u8] = &[0, 0, 0, 1, b'x', 255, 255, 255, 255];
        let expected = [[&head(23), numbers].concat(), [&head(25), texts].concat()];
        assert_eq!(arrays.arrays(&rows), expected);
        assert_eq!(arrays.arrays(&[])[1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25]);
    }

    #[test]
    fn what_columns_are_not_good_for() {
        for (answer, unfit) in [
            ("1007:b:A:0:0:0:_int4:", Unfit::Array),
            ("16400:e:E:16399:0:0::", Unfit::Binary),
            ("16400:d:N:16399:0:0::", Unfit::Binary),
            ("16400:c:C:16399:0:0::", Unfit::Binary),
            ("2205:b:N:2210:0:0:regclass:", Unfit::Binary),
            ("25:b:S:1009:16500:100:text:", Unfit::Collation),
            (
                "25:b:S:1009:100:100:text: 23:b:N:1007:0:0:int4:",
                Unfit::Changed,
            ),
            ("", Unfit::Changed),
        ] {
            assert_eq!(
                ColumnArrays::read(answer, &columns(&["a"])),
                Err(unfit),
                "{answer}"
            );
        }
    }
}
