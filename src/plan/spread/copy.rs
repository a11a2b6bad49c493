//! COPY of a table that is on several shards: which of its values are a row's key.

use crate::catalog::{
    Catalog, Column, ColumnDefault, DistributionId, QualifiedName, SearchPath, Sequences,
    quoted_name,
};
use crate::sharding::KeyType;
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::copy::{CopyForm, CopyFormat, CsvNull, form};
use crate::sql::facts::Name;
use crate::sql::places::{self, CopiedTable};
use crate::sql::{self, Statement};

use super::everywhere;
use super::own_rows::{OwnKey, OwnRows, Place};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning};

/// COPY FROM STDIN.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyIn {
    pub form: CopyForm,
    /// For messages.
    pub table: Box<str>,
    /// `None`: every shard gets all rows.
    pub key: Option<CopyKey>,
    /// Columns that every row gets a number for, in front of its own values.
    pub numbered: Vec<NumberedColumn>,
    /// For which columns no row may have the DEFAULT marker.
    pub given: Vec<Given>,
    /// Where in the statement the list of columns begins.
    list: usize,
}

/// A column that the data leave to a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedColumn {
    pub name: Box<str>,
    pub sequence: QualifiedName,
    /// How many bytes its type has.
    pub width: usize,
}

/// A column that rows must have a value for, because no shard may take its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// In the client's row.
    pub place: usize,
    pub reason: Reason,
    /// What is wrong with a row that has none.
    pub why: Box<str>,
}

/// Where a value of a row's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueOf {
    /// At this place of the client's row.
    Row(usize, CsvNull),
    /// The number for this one of the numbered columns.
    Number(usize),
}

/// Which values of a row are its key.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyKey {
    pub distribution: DistributionId,
    /// For each column of the key its place, and its type.
    pub columns: Vec<(ValueOf, KeyType)>,
}

/// COPY TO STDOUT: all rows of all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyOut {
    pub form: CopyForm,
    /// Which rows a shard leaves out while some move; `None`: that cannot be said in the text.
    pub own: Option<OwnRows>,
}

/// What a COPY of a table on several shards does, if it is one.
pub enum Copied {
    In(CopyIn),
    Out(CopyOut),
}

/// `None`: it is no COPY of a table on several shards.
pub fn copied(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Option<Copied>, Refusal> {
    let Class::Copy(Copy {
        direction,
        source: CopySource::Table { schema, name },
    }) = &statement.class
    else {
        return Ok(None);
    };
    let named = Name {
        schema: schema.clone(),
        name: name.clone(),
    };
    let known = Known::look_up(catalog, search_path, &named);
    let refused = |why: String| Refusal::new(Reason::Copy, why);
    let form = || {
        form(&text[statement.range.clone()])
            .map_err(|why| refused(format!("COPY of table \"{name}\": {why}")))
    };
    match (known.meaning, direction) {
        (Meaning::Sharded { distribution, key }, CopyDirection::ToClient) => {
            let form = form()?;
            // COPY of a view is an error of its own.
            let is_view = catalog
                .spread_view(search_path, named.schema.as_deref(), &named.name)
                .is_some();
            let own = match is_view {
                true => None,
                false => own_rows(text, statement, &form, known).map(|place| OwnRows {
                    key: OwnKey::named(distribution, name, key),
                    place,
                }),
            };
            Ok(Some(Copied::Out(CopyOut { form, own })))
        }
        (Meaning::Reference, CopyDirection::FromClient) => {
            let form = form()?;
            let own = &text[statement.range.clone()];
            let (numbered, list) = numbered(own, &form, known, catalog);
            is_same_on_every_copy(own, &named, &form, known, &numbered, catalog)?;
            let columns = known.columns.unwrap_or_default();
            let given = given(&form, columns, |column| match column.default {
                ColumnDefault::Volatile | ColumnDefault::Sequence => Some((
                    Reason::VolatileReferenceWrite,
                    differs_by_default(column, name),
                )),
                ColumnDefault::Plain | ColumnDefault::Generated => None,
            });
            Ok(Some(Copied::In(CopyIn {
                form,
                table: name.clone(),
                key: None,
                numbered,
                given,
                list,
            })))
        }
        (Meaning::Sharded { .. }, CopyDirection::FromClient)
            if catalog
                .spread_view(search_path, named.schema.as_deref(), &named.name)
                .is_some() =>
        {
            let message = format!("rows are inserted by way of view \"{name}\" of sharded tables");
            Err(Refusal::new(Reason::ViewOverSharded, message))
        }
        (Meaning::Sharded { distribution, key }, CopyDirection::FromClient) => {
            let form = form()?;
            let Some(columns) = known.columns else {
                let why = format!("the columns of table \"{name}\" are not known yet");
                return Err(refused(why));
            };
            let own = &text[statement.range.clone()];
            let (numbered, list) = numbered(own, &form, known, catalog);
            let number = |column: &str| numbered.iter().position(|one| *one.name == *column);
            if catalog.sequences != Sequences::PerShard
                && let Some(column) = left_out(&form, columns).find(|column| {
                    column.default == ColumnDefault::Sequence && number(&column.name).is_none()
                })
            {
                let message = from_sequence(column, name);
                return Err(Refusal::new(Reason::SequenceDefault, message));
            }
            let given = given(&form, columns, |column| {
                if key.contains(&column.name) {
                    let why = format!(
                        "key column \"{}\" of \"{name}\" would get its default",
                        column.name
                    );
                    return Some((Reason::InsertKeyNotKnown, why));
                }
                let is_taken = column.default == ColumnDefault::Sequence
                    && catalog.sequences != Sequences::PerShard;
                is_taken.then(|| (Reason::SequenceDefault, from_sequence(column, name)))
            });
            let mut places = Vec::with_capacity(key.len());
            for column in key {
                let place = place(&form, columns, column);
                let place = place.map(|place| ValueOf::Row(place, form.csv_null(column)));
                let Some(place) = place.or_else(|| number(column).map(ValueOf::Number)) else {
                    let message = format!("COPY into \"{name}\" has no key column \"{column}\"");
                    return Err(Refusal::new(Reason::InsertWithoutKey, message));
                };
                let Some(key_type) = known.type_of(column, catalog) else {
                    return Err(refused(format!(
                        "key column \"{column}\" has an unknown type"
                    )));
                };
                places.push((place, key_type));
            }
            Ok(Some(Copied::In(CopyIn {
                form,
                table: name.clone(),
                key: Some(CopyKey {
                    distribution,
                    columns: places,
                }),
                numbered,
                given,
                list,
            })))
        }
        _ => Ok(None),
    }
}

/// Where a row of the data has a column's value.
fn place(form: &CopyForm, columns: &[Column], column: &str) -> Option<usize> {
    match &form.columns {
        Some(named) => named.iter().position(|named| **named == *column),
        // Generated columns are not among a table's COPY data.
        None => columns
            .iter()
            .filter(|known| known.default != ColumnDefault::Generated)
            .position(|known| *known.name == *column),
    }
}

/// The columns of the data for which `refused` has a reason against their default, if rows can have a marker for it.
fn given(
    form: &CopyForm,
    columns: &[Column],
    refused: impl Fn(&Column) -> Option<(Reason, String)>,
) -> Vec<Given> {
    let marked = columns.iter().filter(|_| form.default.is_some());
    marked
        .filter_map(|column| {
            let place = place(form, columns, &column.name)?;
            let (reason, why) = refused(column)?;
            let why = why.into();
            Some(Given { place, reason, why })
        })
        .collect()
}

fn from_sequence(column: &Column, table: &str) -> String {
    format!(
        "column \"{}\" of sharded table \"{table}\" would get its value from a sequence",
        column.name
    )
}

fn differs_by_default(column: &Column, table: &str) -> String {
    format!(
        "column \"{}\" of reference table \"{table}\" would get another value on each shard by its default",
        column.name
    )
}

/// A query in place of the table, with the columns that COPY gives: those that are named, or all that are not generated.
fn own_rows(text: &str, statement: &Statement, form: &CopyForm, known: Known<'_>) -> Option<Place> {
    let columns = known.columns?;
    let given = columns
        .iter()
        .filter(|column| column.default != ColumnDefault::Generated);
    let columns: Vec<String> = match &form.columns {
        None => given.map(|column| quoted_name(&column.name)).collect(),
        Some(named) => named
            .iter()
            .map(|name| {
                let mut given = given.clone();
                given
                    .any(|column| column.name == *name)
                    .then(|| quoted_name(name))
            })
            .collect::<Option<_>>()?,
    };
    let CopiedTable { whole, name } = places::copied_table(text, statement.range.clone())?;
    (!columns.is_empty()).then(|| Place::Table {
        whole,
        name,
        columns: columns.join(", ").into(),
    })
}

/// The columns that the data leave to sequences, as far as numbers can be written into the data; and where the list of columns begins.
fn numbered(
    statement: &str,
    form: &CopyForm,
    known: Known<'_>,
    catalog: &Catalog,
) -> (Vec<NumberedColumn>, usize) {
    let left = left_out(form, known.columns.unwrap_or_default());
    let left = left.filter(|column| column.default == ColumnDefault::Sequence);
    let columns: Option<Vec<NumberedColumn>> = left
        .map(|column| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            // A header has its name, too. An option may not name what the client's list of columns leaves out.
            let is_written =
                (!form.header || column.name.bytes().all(is_plain)) && !form.names(&column.name);
            Some(NumberedColumn {
                name: is_written.then(|| column.name.clone())?,
                sequence: column.numbers.as_ref()?.sequence.clone(),
                width: match KeyType::from_oid(column.type_oid)? {
                    KeyType::SmallInt => 2,
                    KeyType::Integer => 4,
                    KeyType::BigInt => 8,
                    _ => return None,
                },
            })
        })
        .collect();
    let list = places::first_list(statement);
    match (columns, list) {
        (Some(columns), Some(list))
            if catalog.sequences == Sequences::Home && takes_numbers(form) =>
        {
            (columns, list)
        }
        _ => (Vec::new(), 0),
    }
}

/// Whether the digits of a number mean that number.
fn takes_numbers(form: &CopyForm) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
    if let Some(default) = &form.default
        && !default.is_empty()
        && default.iter().all(is_part)
    {
        return false;
    }
    match &form.format {
        CopyFormat::Text { delimiter, null } => !is_part(delimiter) && !null.iter().all(is_part),
        CopyFormat::Csv {
            delimiter,
            quote,
            escape,
            null,
        } => {
            let special = [delimiter, quote, escape];
            !special.into_iter().any(is_part) && (null.is_empty() || !null.iter().all(is_part))
        }
        CopyFormat::Binary => true,
    }
}

impl CopyIn {
    /// The statement as shards get it.
    pub fn text(&self, statement: &[u8]) -> Vec<u8> {
        let (before, behind) = statement.split_at(self.list.min(statement.len()));
        let mut text = before.to_vec();
        for column in &self.numbered {
            let quoted = format!("\"{}\", ", column.name.replace('"', "\"\""));
            text.extend_from_slice(quoted.as_bytes());
        }
        text.extend_from_slice(behind);
        text
    }
}

/// The columns that the data have no values for.
fn left_out<'a>(form: &'a CopyForm, columns: &'a [Column]) -> impl Iterator<Item = &'a Column> {
    columns.iter().filter(|column| {
        form.columns
            .as_ref()
            .is_some_and(|named| named.iter().all(|named| *named != column.name))
    })
}

/// Every shard must store the same rows.
fn is_same_on_every_copy(
    text: &str,
    table: &Name,
    form: &CopyForm,
    known: Known<'_>,
    numbered: &[NumberedColumn],
    catalog: &Catalog,
) -> Result<(), Refusal> {
    let volatile = |why: String| Err(Refusal::new(Reason::VolatileReferenceWrite, why));
    let name = &table.name;
    let Some(columns) = known.columns else {
        return Err(Refusal::new(
            Reason::CatalogUnread,
            format!("the definition of table \"{name}\" has not been read from the servers yet"),
        ));
    };
    let differs = |column: &&Column| {
        let is_numbered = numbered.iter().any(|one| one.name == column.name);
        !is_numbered
            && matches!(
                column.default,
                ColumnDefault::Volatile | ColumnDefault::Sequence
            )
    };
    if let Some(column) = left_out(form, columns).find(differs) {
        return volatile(differs_by_default(column, name));
    }
    if everywhere::is_triggered(catalog, table) {
        return volatile(format!(
            "table \"{name}\" has triggers, which may do something else on each shard"
        ));
    }
    if sql::words(text).map_or(true, |words| words.iter().any(|word| **word == *"where")) {
        return volatile(format!(
            "WHERE may choose other rows for each copy of reference table \"{name}\""
        ));
    }
    Ok(())
}
