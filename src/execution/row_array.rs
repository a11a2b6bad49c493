//! Rows as one parameter of a statement: an array of a table's row type, in its binary form (`array_recv`, `record_recv`).
//!
//! The bytes of the values are those of a binary COPY of the columns that are given; all other columns of the row are NULL.

use crate::plan::spread::gather::travels_in_binary;

/// OIDs of types below this one are the same on every server (`FirstNormalObjectId`).
const FIRST_OWN_OID: u32 = 16_384;

/// What COPY's binary data begin with: signature and flags; the length of an extension follows.
const BEFORE_EXTENSION: usize = 15;

/// The row type as a server numbers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowType {
    oid: u32,
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Column {
    type_oid: u32,
    /// Its place among the values of a row.
    given: Option<usize>,
}

/// Asks a server for the row type of a table; `columns` are those that values are given for. The answer is one text.
pub fn question(table: &str, columns: &[Box<str>]) -> String {
    let names: Vec<String> = columns.iter().map(|name| literal(name)).collect();
    format!(
        "SELECT c.reltype::text || pg_catalog.string_agg(' ' || pg_catalog.concat_ws(':', a.atttypid, \
         coalesce(pg_catalog.array_position(ARRAY[{}]::pg_catalog.name[], a.attname), 0), \
         t.typtype, b.oid, b.typtype, b.typelem), '' ORDER BY a.attnum) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
         WHERE c.oid = {}::pg_catalog.regclass GROUP BY c.reltype",
        names.join(", "),
        literal(table)
    )
}

/// It means the same whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What a row type is not good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The table is another one than was thought.
    Changed,
    /// Values of a column mean another thing on another server.
    Binary,
    /// A column that is left out has a domain, which may not be NULL.
    Domain,
    /// A column's values are arrays.
    Array,
    /// A column has a collation that other servers may not have.
    Collation,
}

impl Unfit {
    /// Why, for people. `domain`: which column it is that has one.
    pub fn why(self, domain: &'static str) -> &'static str {
        match self {
            Unfit::Changed => "its definition is another one than was read",
            Unfit::Binary => "values of its columns' types mean another thing on another server",
            Unfit::Domain => domain,
            Unfit::Array => "a column of it has arrays",
            Unfit::Collation => "a column of it has a collation of its own",
        }
    }
}

impl RowType {
    /// The answer to [`question`] about so many columns.
    pub fn read(answer: &str, count: usize) -> Result<RowType, Unfit> {
        let mut words = answer.split(' ');
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u32>().ok());
        let oid = number(words.next()).ok_or(Unfit::Changed)?;
        let mut columns = Vec::new();
        let mut found = 0;
        for word in words {
            let mut parts = word.split(':');
            let type_oid = number(parts.next()).ok_or(Unfit::Changed)?;
            let place = number(parts.next()).ok_or(Unfit::Changed)?;
            let kind = parts.next().ok_or(Unfit::Changed)?;
            let base = number(parts.next()).ok_or(Unfit::Changed)?;
            let base_kind = parts.next().ok_or(Unfit::Changed)?;
            let element = number(parts.next()).ok_or(Unfit::Changed)?;
            let given = (place as usize).checked_sub(1);
            match given {
                None if kind == "d" => return Err(Unfit::Domain),
                None => {}
                Some(_) => {
                    // Enums are their labels; base types of extensions have no numbers of a server in them.
                    let is_own = matches!((base_kind, element), ("e", _) | ("b", 0));
                    let is_same = match base < FIRST_OWN_OID {
                        true => travels_in_binary(base),
                        false => is_own,
                    };
                    if !is_same {
                        return Err(Unfit::Binary);
                    }
                    found += 1;
                }
            }
            columns.push(Column { type_oid, given });
        }
        match found == count {
            true => Ok(RowType { oid, columns }),
            false => Err(Unfit::Changed),
        }
    }

    /// Bytes of the array of all these rows, near enough for a limit.
    pub fn array_size(&self, rows: &[Rows<'_>]) -> usize {
        let rows = rows.iter().flat_map(|rows| &rows.0);
        let sizes = rows.map(|row| {
            let values: usize = row.iter().flatten().map(|value| value.len()).sum();
            8 + 8 * self.columns.len() + values
        });
        sizes.sum()
    }

    /// The array of all these rows.
    pub fn array(&self, rows: &[Rows<'_>]) -> Vec<u8> {
        let count: usize = rows.iter().map(Rows::len).sum();
        let mut out = Vec::new();
        let number = |out: &mut Vec<u8>, number: usize| {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            out.extend_from_slice(&number.to_be_bytes());
        };
        let dimensions = usize::from(count > 0);
        number(&mut out, dimensions);
        number(&mut out, 0);
        out.extend_from_slice(&self.oid.to_be_bytes());
        if dimensions > 0 {
            number(&mut out, count);
            number(&mut out, 1);
        }
        for row in rows.iter().flat_map(|rows| &rows.0) {
            let start = out.len();
            number(&mut out, 0);
            number(&mut out, self.columns.len());
            for column in &self.columns {
                out.extend_from_slice(&column.type_oid.to_be_bytes());
                let value = column.given.and_then(|place| row.get(place));
                match value {
                    Some(Some(value)) => {
                        number(&mut out, value.len());
                        out.extend_from_slice(value);
                    }
                    _ => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                }
            }
            let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        out
    }
}

/// Rows of the data of a binary COPY.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows<'a>(Vec<Vec<Option<&'a [u8]>>>);

impl<'a> Rows<'a> {
    /// `None`: it is none, or not whole. No data at all are no rows.
    pub fn read(data: &'a [u8]) -> Option<Rows<'a>> {
        let mut rows = Vec::new();
        if data.is_empty() {
            return Some(Rows(rows));
        }
        let mut rest = data.get(BEFORE_EXTENSION..)?;
        let extension = u32::from_be_bytes(take::<4>(&mut rest)?);
        rest = rest.get(extension as usize..)?;
        while !rest.is_empty() {
            // A negative number is the end.
            let Ok(count) = usize::try_from(i16::from_be_bytes(take::<2>(&mut rest)?)) else {
                break;
            };
            let mut row = Vec::with_capacity(count);
            for _ in 0..count {
                row.push(value(&mut rest)?);
            }
            rows.push(row);
        }
        Some(Rows(rows))
    }

    /// Of DataRow messages' bodies the values behind the first ones, and beside them the bodies with these first ones only.
    pub fn behind(bodies: &'a [Vec<u8>], first: usize) -> Option<(Vec<Vec<u8>>, Rows<'a>)> {
        let mut shown = Vec::with_capacity(bodies.len());
        let mut rows = Vec::with_capacity(bodies.len());
        for body in bodies {
            let mut rest = &body[..];
            let count = usize::from(u16::from_be_bytes(take::<2>(&mut rest)?));
            let mut seen = u16::try_from(first).ok()?.to_be_bytes().to_vec();
            let mut row = Vec::with_capacity(count.checked_sub(first)?);
            for place in 0..count {
                let before = rest;
                let value = value(&mut rest)?;
                match place < first {
                    true => seen.extend_from_slice(&before[..before.len() - rest.len()]),
                    false => row.push(value),
                }
            }
            shown.push(seen);
            rows.push(row);
        }
        Some((shown, Rows(rows)))
    }

    /// The values of a column.
    pub fn values(&self, place: usize) -> impl Iterator<Item = Option<&'a [u8]>> {
        let rows = self.0.iter();
        rows.map(move |row| row.get(place).copied().flatten())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The value that begins here, with its length in front; `None` in it is NULL.
fn value<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = i32::from_be_bytes(take::<4>(rest)?);
    let Ok(length) = usize::try_from(length) else {
        return Some(None);
    };
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(Some(value))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

/// What Bind has of parameters, with one more behind them, in its binary form.
pub fn with_parameter(raw: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let mut rest = raw;
    let formats = usize::from(u16::from_be_bytes(take::<2>(&mut rest)?));
    let (formats, mut values) = rest.split_at_checked(2 * formats)?;
    let count = u16::from_be_bytes(take::<2>(&mut values)?);
    let more = count.checked_add(1)?;
    let mut out = Vec::with_capacity(raw.len() + value.len() + 16);
    out.extend_from_slice(&more.to_be_bytes());
    for place in 0..usize::from(count) {
        // None is text, one is for all.
        let format = match formats.len() {
            0 => &[0, 0],
            2 => formats,
            _ => formats.get(2 * place..2 * place + 2)?,
        };
        out.extend_from_slice(format);
    }
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&more.to_be_bytes());
    out.extend_from_slice(values);
    out.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
    out.extend_from_slice(value);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
        for row in rows {
            out.extend_from_slice(&i16::try_from(row.len()).expect("few").to_be_bytes());
            for value in *row {
                let length = value.map_or(-1, |value| i32::try_from(value.len()).expect("few"));
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(value.unwrap_or_default());
            }
        }
        out.extend_from_slice(&[0xff, 0xff]);
        out
    }

    #[test]
    fn rows_become_an_array_of_the_row_type() {
        let row_type =
            RowType::read("900 23:2:b:23:b:0 25:0:b:25:b:0 25:1:b:25:b:0", 2).expect("it is fit");
        let data = data(&[&[Some(b"ab"), None]]);
        let rows = Rows::read(&data).expect("they are whole");
        let parts: [&[u8]; 8] = [
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 132],
            // One, from 1 on; its length and number of columns.
            &[0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0, 30, 0, 0, 0, 3],
            &[0, 0, 0, 23, 255, 255, 255, 255],
            &[0, 0, 0, 25, 255, 255, 255, 255],
            &[0, 0, 0, 25, 0, 0, 0, 2],
            b"ab",
            &[],
        ];
        assert_eq!(row_type.array(&[rows]), parts.concat());
        let none = Rows::read(&[]).expect("no data");
        assert_eq!(
            row_type.array(&[none]),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 132]
        );
        assert_eq!(Rows::read(&data[..data.len() - 4]), None);
    }

    #[test]
    fn what_a_row_type_is_not_good_for() {
        let read = |answer: &str| RowType::read(answer, 1).map(|_| ());
        for (answer, fit) in [
            ("900 16400:1:e:16400:e:0", Ok(())),
            ("900 16400:1:b:16400:b:0", Ok(())),
            ("900 16400:1:d:23:b:0", Ok(())),
            ("900 1007:1:b:1007:b:23", Ok(())),
            // An array of an own type, a composite one, regclass.
            ("900 16400:1:b:16400:b:16399", Err(Unfit::Binary)),
            ("900 16400:1:c:16400:c:0", Err(Unfit::Binary)),
            ("900 2205:1:b:2205:b:0", Err(Unfit::Binary)),
            ("900 23:1:b:23:b:0 16400:0:d:23:b:0", Err(Unfit::Domain)),
            ("900 23:0:b:23:b:0", Err(Unfit::Changed)),
            ("", Err(Unfit::Changed)),
        ] {
            assert_eq!(read(answer), fit, "{answer}");
        }
    }

    #[test]
    fn a_parameter_stands_behind_the_others() {
        let behind = |raw: &[u8]| with_parameter(raw, b"xy");
        let own: &[u8] = &[0, 0, 0, 2, b'x', b'y'];
        let no_parameters: &[u8] = &[0, 0, 0, 0];
        assert_eq!(
            behind(no_parameters),
            Some([&[0, 1, 0, 1, 0, 1], own].concat())
        );
        let value: &[u8] = &[0, 0, 0, 1, b'v'];
        let null: &[u8] = &[255, 255, 255, 255];
        for (formats, expected) in [
            (&[0, 0][..], [0, 3, 0, 0, 0, 0, 0, 1, 0, 3]),
            (&[0, 1, 0, 1], [0, 3, 0, 1, 0, 1, 0, 1, 0, 3]),
            (&[0, 2, 0, 1, 0, 0], [0, 3, 0, 1, 0, 0, 0, 1, 0, 3]),
        ] {
            let raw = [formats, &[0, 2], value, null].concat();
            let all = [&expected[..], value, null, own].concat();
            assert_eq!(behind(&raw), Some(all), "{formats:?}");
        }
        assert_eq!(behind(&[0, 0, 255, 255]), None);
    }
}
