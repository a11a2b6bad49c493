//! COPY of a table that is on several shards: which of its values are a row's key.

use crate::catalog::{Catalog, Column, ColumnDefault, DistributionId, SearchPath, Sequences};
use crate::sharding::KeyType;
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::copy::{CopyForm, form};
use crate::sql::facts::Name;
use crate::sql::{self, Statement};

use super::everywhere;
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
}

/// Which values of a row are its key.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyKey {
    pub distribution: DistributionId,
    /// For each column of the key its place in a row, and its type.
    pub columns: Vec<(usize, KeyType)>,
}

/// COPY TO STDOUT: all rows of all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyOut {
    pub form: CopyForm,
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
        (Meaning::Sharded { .. }, CopyDirection::ToClient) => {
            Ok(Some(Copied::Out(CopyOut { form: form()? })))
        }
        (Meaning::Reference, CopyDirection::FromClient) => {
            let form = form()?;
            is_same_on_every_copy(
                &text[statement.range.clone()],
                &named,
                &form,
                known,
                catalog,
            )?;
            Ok(Some(Copied::In(CopyIn {
                form,
                table: name.clone(),
                key: None,
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
            if catalog.sequences == Sequences::Refused
                && let Some(column) = left_out(&form, columns)
                    .find(|column| column.default == ColumnDefault::Sequence)
            {
                let message = format!(
                    "column \"{}\" of sharded table \"{name}\" would get its value from a sequence",
                    column.name
                );
                return Err(Refusal::new(Reason::SequenceDefault, message));
            }
            let place = |column: &str| match &form.columns {
                Some(named) => named.iter().position(|named| **named == *column),
                // Generated columns are not among a table's COPY data.
                None => columns
                    .iter()
                    .filter(|known| known.default != ColumnDefault::Generated)
                    .position(|known| *known.name == *column),
            };
            let mut places = Vec::with_capacity(key.len());
            for column in key {
                let Some(place) = place(column) else {
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
            })))
        }
        _ => Ok(None),
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
        matches!(
            column.default,
            ColumnDefault::Volatile | ColumnDefault::Sequence
        )
    };
    if let Some(column) = left_out(form, columns).find(differs) {
        return volatile(format!(
            "column \"{}\" of reference table \"{name}\" would get another value on each shard by its default",
            column.name
        ));
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
