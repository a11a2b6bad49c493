//! COPY of a table that is on several shards: which of its values are a row's key.

use crate::catalog::{Catalog, DistributionId, SearchPath};
use crate::sharding::KeyType;
use crate::sql::Statement;
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::copy::{CopyForm, form};
use crate::sql::facts::Name;

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
        (Meaning::Reference, CopyDirection::FromClient) => Ok(Some(Copied::In(CopyIn {
            form: form()?,
            table: name.clone(),
            key: None,
        }))),
        (Meaning::Sharded { distribution, key }, CopyDirection::FromClient) => {
            let form = form()?;
            let Some(columns) = known.columns else {
                let why = format!("the columns of table \"{name}\" are not known yet");
                return Err(refused(why));
            };
            let place = |column: &str| match &form.columns {
                Some(named) => named.iter().position(|named| **named == *column),
                // Generated columns are not among a table's COPY data.
                None => columns
                    .iter()
                    .filter(|known| known.default != crate::catalog::ColumnDefault::Generated)
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
