//! CREATE TABLE whose comment says where the table's rows belong. The place is recorded before the table is there, so that nobody ever takes it for a table
//! of one shard; then the statement is planned anew, as if the configuration had the table.

use crate::catalog::placed::{Place, Settled};
use crate::catalog::{Catalog, Placement, QualifiedName, Relation, SearchPath, quoted_name};
use crate::config::sql_name;
use crate::plan::hint;
use crate::plan::refusal::{Reason, Refusal};
use crate::sharding::KeyType;
use crate::sql::class::{Class, Ddl};
use crate::sql::definition::{Created, What, definition};
use crate::sql::facts::Name;
use crate::sql::{Hint, Statement};

use super::definitions::created;

/// A table and the place that it is to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub table: QualifiedName,
    pub place: Place,
    /// Schemas of the search path that would have it if they were there, which is not known.
    pub passed_over: Vec<Box<str>>,
}

/// What a CREATE TABLE with such a comment needs.
#[derive(Debug)]
pub enum Declared {
    /// Nothing: the table has this place.
    Already,
    /// In this catalog it has the place; the statement is sound if it is sound there.
    Wanted(Placed, Box<Catalog>),
}

/// `None`: the statement creates no table, or its comment gives none a place.
pub fn declared(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Result<Declared, Refusal>> {
    let hint = statement.hint.as_ref()?;
    if !matches!(hint, Hint::Key { .. } | Hint::Reference)
        || statement.class != Class::Ddl(Ddl::Schema)
    {
        return None;
    }
    let definition = definition(text, statement.range.clone())?;
    let (name, parents, columns) = match &definition.what {
        What::Table {
            name,
            parents,
            columns,
        } => (name, parents.as_slice(), columns.as_deref()),
        _ => return None,
    };
    let table = created(name, catalog, search_path);
    let passed_over = match passed_over(name, &table, search_path) {
        Ok(schemas) => schemas,
        Err(refusal) => return Some(Err(refusal)),
    };
    let wanted = place(hint, catalog).and_then(|place| {
        let placement = place
            .placement(&catalog.distributions)
            .map_err(|misfit| Refusal::new(Reason::HintKey, misfit.to_string()))?;
        fits(&placement, columns, catalog)?;
        Ok((place, placement))
    });
    let (place, placement) = match wanted {
        Ok(wanted) => wanted,
        Err(refusal) => return Some(Err(refusal)),
    };
    match catalog.relations.get(&table) {
        Some(Relation::Table {
            placement: known, ..
        }) if *known == placement => Some(Ok(Declared::Already)),
        // A partition is where its parent is; the plan says so.
        None if parents.is_empty() => {
            let mut there = catalog.clone();
            there.relations.insert(
                table.clone(),
                Relation::Table {
                    placement,
                    columns: None,
                },
            );
            Some(Ok(Declared::Wanted(
                Placed {
                    table,
                    place,
                    passed_over,
                },
                Box::new(there),
            )))
        }
        known => {
            let (schema, name) = (quoted_name(&table.0), quoted_name(&table.1));
            let message = match known {
                Some(_) => {
                    format!("{schema}.{name} has another place already than its comment says")
                }
                None => format!(
                    "table {schema}.{name} belongs where its parent is, and its comment gives it a place of its own"
                ),
            };
            Some(Err(Refusal::new(Reason::TablePlace, message)))
        }
    }
}

/// The schemas in front of the one in which a table is made whose name has none.
fn passed_over(
    name: &Name,
    table: &QualifiedName,
    search_path: &SearchPath,
) -> Result<Vec<Box<str>>, Refusal> {
    let mut path = search_path.0.iter();
    match path.position(|schema| *schema == table.0) {
        _ if name.schema.is_some() => Ok(Vec::new()),
        Some(place) => Ok(search_path.0[..place].to_vec()),
        None => Err(Refusal::new(
            Reason::TablePlace,
            "no schema of search_path is known: write the schema in front of the table's name",
        )),
    }
}

/// A table that is created, and has a place that not every proxy may have heard of.
pub fn awaited(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Placed> {
    if catalog.placed.is_empty() || statement.class != Class::Ddl(Ddl::Schema) {
        return None;
    }
    let definition = definition(text, statement.range.clone())?;
    let What::Table { name, .. } = &definition.what else {
        return None;
    };
    let table = created(name, catalog, search_path);
    if catalog.placed.get(&table) != Some(&Settled::No) {
        return None;
    }
    let Relation::Table { placement, .. } = catalog.relations.get(&table)? else {
        return None;
    };
    let place = match placement {
        Placement::Sharded { distribution, key } => Place::Sharded {
            distribution: catalog.distributions[usize::from(distribution.0)]
                .name
                .clone(),
            key: key.to_vec(),
        },
        Placement::Reference | Placement::Single(_) => Place::Reference,
    };
    Some(Placed {
        table,
        place,
        passed_over: Vec::new(),
    })
}

fn place(hint: &Hint, catalog: &Catalog) -> Result<Place, Refusal> {
    let Hint::Key {
        distribution,
        values,
    } = hint
    else {
        return Ok(Place::Reference);
    };
    let id = match distribution {
        Some(name) => hint::distribution_named(name, catalog)?,
        None => hint::only_distribution(catalog)?,
    };
    let column = |value: &str| match sql_name(value).as_deref() {
        Some([name]) => Ok(name.as_str().into()),
        _ => {
            let message = format!("{value} is not the name of a column");
            Err(Refusal::new(Reason::HintKey, message))
        }
    };
    Ok(Place::Sharded {
        distribution: catalog.distributions[usize::from(id.0)].name.clone(),
        key: values
            .iter()
            .map(|value| column(value))
            .collect::<Result<_, _>>()?,
    })
}

/// Whether the columns that are written have the key. A type that is not known here is looked at when the table is there.
fn fits(
    placement: &Placement,
    columns: Option<&[Created]>,
    catalog: &Catalog,
) -> Result<(), Refusal> {
    let (Placement::Sharded { distribution, key }, Some(columns)) = (placement, columns) else {
        return Ok(());
    };
    let distribution = &catalog.distributions[usize::from(distribution.0)];
    for (name, expected) in key.iter().zip(distribution.map.key_types()) {
        let Some(column) = columns.iter().find(|column| column.name == *name) else {
            let message =
                format!("the table has no column \"{name}\", which its comment names as its key");
            return Err(Refusal::new(Reason::HintKey, message));
        };
        if let Some(found) = key_type(column)
            && found != *expected
        {
            let message = format!(
                "column \"{name}\" has type {}, the key of distribution \"{}\" has {}",
                found.name(),
                distribution.name,
                expected.name()
            );
            return Err(Refusal::new(Reason::HintKey, message));
        }
    }
    Ok(())
}

/// The column's type, of as many words as make one: `timestamp with time zone` is not `timestamp`.
fn key_type(column: &Created) -> Option<KeyType> {
    let words: Vec<&str> = column.words.iter().map(|word| &*word.word).collect();
    match words.first().copied() {
        Some("smallserial" | "serial2") => return Some(KeyType::SmallInt),
        Some("serial" | "serial4") => return Some(KeyType::Integer),
        Some("bigserial" | "serial8") => return Some(KeyType::BigInt),
        _ => {}
    }
    let longest = words.len().min(4);
    let mut lengths = (1..=longest).rev();
    lengths.find_map(|length| KeyType::parse_name(&words[..length].join(" ")))
}

impl Placed {
    pub fn describe(&self) -> String {
        let (schema, name) = &self.table;
        format!(
            "places  {}.{}: {}, and is planned anew",
            quoted_name(schema),
            quoted_name(name),
            self.place
        )
    }

    pub fn bytes(&self) -> usize {
        let key = match &self.place {
            Place::Reference => 0,
            Place::Sharded { distribution, key } => {
                distribution.len() + key.iter().map(|column| column.len() + 16).sum::<usize>()
            }
        };
        let passed_over = self.passed_over.iter().map(|schema| schema.len() + 16);
        self.table.0.len() + self.table.1.len() + key + passed_over.sum::<usize>()
    }
}
