//! `[[tables]]`: where each table's rows are.

use super::distribution::{Declared, Known, all, count};
use super::section::{Entry, Section};
use super::{Line, Table, TablePlacement, value};

/// The tables that are sound.
pub(super) fn read(root: &mut Section<'_>, declared: &Declared, known: &[Known]) -> Vec<Table> {
    let mut seen = Vec::new();
    root.sections("tables")
        .into_iter()
        .filter_map(|section| table(section, declared, known, &mut seen))
        .collect()
}

#[derive(Clone, Copy)]
enum PlacementName {
    Reference,
    Single,
}

/// Database, schema and name of a table, and its line.
type SeenTable = ((String, String, String), Line);

fn table(
    mut section: Section<'_>,
    declared: &Declared,
    known: &[Known],
    seen: &mut Vec<SeenTable>,
) -> Option<Table> {
    let what = "the table, like \"orders\" or \"sales.orders\"";
    let name = section.required("name", what, |entry| table_name(&entry));
    if let Some(entry) = section.take("name")
        && let Some(written) = entry.value.as_str()
    {
        section.call_it(written);
    }
    let (database, placement) = match section.has("distribution") {
        true => sharded(&mut section, declared, known),
        false => (
            declared.database(&mut section),
            unsharded(&mut section, declared),
        ),
    };
    if let (Some((schema, name)), Some(database)) = (&name, &database) {
        let table = (database.clone(), schema.clone(), name.clone());
        match seen.iter().find(|(known, _)| *known == table) {
            Some((_, line)) => {
                let message = format!(
                    "{schema}.{name} is placed on line {} already; take one of them away",
                    line.0
                );
                section.note_key("name", message);
            }
            None => seen.push((table, section.line)),
        }
    }
    let line = section.line;
    section.done();
    let (schema, name) = name?;
    Some(Table {
        line,
        schema,
        name,
        database: database?,
        placement: placement?,
    })
}

/// Schema and name; what is not quoted is folded to lower case, as in SQL.
fn table_name(entry: &Entry<'_>) -> Option<(String, String)> {
    const ALLOWED: &str = "a name as in SQL, like \"orders\", \"sales.orders\" or '\"Mixed Case\"'";
    let parts = value::sql_name(entry.text(ALLOWED)?);
    match parts.as_deref() {
        Some([name]) => Some(("public".to_owned(), name.clone())),
        Some([schema, name]) => Some((schema.clone(), name.clone())),
        _ => {
            entry.wrong("the name of a table", ALLOWED);
            None
        }
    }
}

fn sharded(
    section: &mut Section<'_>,
    declared: &Declared,
    known: &[Known],
) -> (Option<String>, Option<TablePlacement>) {
    if section.take("placement").is_some() {
        section.note_key(
            "placement",
            "cannot stand beside distribution; take one of them away",
        );
    }
    let database = section.read("database", |entry| {
        entry.reference("database", &declared.databases)
    });
    let distribution = section.read("distribution", |entry| {
        let of_database: Vec<_> = known
            .iter()
            .filter(|k| database.is_none() || k.database == database)
            .collect();
        let names: Vec<_> = of_database.iter().map(|k| k.name.clone()).collect();
        let name = entry.reference("distribution", &names)?;
        let mut found = of_database.into_iter().filter(|k| k.name == name);
        let (first, second) = (found.next()?, found.next());
        if second.is_some() {
            entry.note(format!(
                "{name:?} is a distribution of several databases; give database too"
            ));
            return None;
        }
        Some(first)
    });
    let key = match section.take("key") {
        Some(entry) => key_columns(&entry, distribution),
        None => {
            section.note_key(
                "key",
                "is missing; give the columns that hold the key, like \"customer_id\"",
            );
            None
        }
    };
    let placement = distribution
        .zip(key)
        .map(|(known, key)| TablePlacement::Sharded {
            distribution: known.name.clone(),
            key,
        });
    (
        distribution.and_then(|known| known.database.clone()),
        placement,
    )
}

fn key_columns(entry: &Entry<'_>, distribution: Option<&Known>) -> Option<Vec<String>> {
    let items = entry.one_or_more();
    let key = all(items.iter().map(|item| {
        const ALLOWED: &str = "a column's name as in SQL, like \"customer_id\" or '\"Mixed Case\"'";
        match value::sql_name(item.text(ALLOWED)?).as_deref() {
            Some([column]) => Some(column.clone()),
            _ => {
                item.wrong("a column", ALLOWED);
                None
            }
        }
    }))?;
    if let Some(column) = key
        .iter()
        .enumerate()
        .find_map(|(at, c)| key[..at].contains(c).then_some(c))
    {
        entry.note(format!("names {column:?} twice; give each column once"));
        return None;
    }
    match distribution {
        Some(Known {
            name,
            columns: Some(columns),
            ..
        }) if *columns != key.len() => {
            entry.note(format!(
                "has {}; give {columns}, as the key of distribution {name:?} has",
                count(key.len(), "column")
            ));
            None
        }
        _ => Some(key),
    }
}

fn unsharded(section: &mut Section<'_>, declared: &Declared) -> Option<TablePlacement> {
    section.take("distribution");
    let words = [
        ("reference", PlacementName::Reference),
        ("single", PlacementName::Single),
    ];
    let placement = match section.take("placement") {
        Some(entry) => entry.choice(&words),
        None => {
            section.note("has no place; give distribution and key, or placement = \"reference\" or \"single\"");
            section.take("key");
            None
        }
    };
    match placement {
        Some(PlacementName::Reference) => Some(TablePlacement::Reference),
        Some(PlacementName::Single) => section
            .required(
                "shard",
                "the name of the shard that holds the table",
                |entry| declared.shard(entry),
            )
            .map(|shard| TablePlacement::Single { shard }),
        None => {
            section.take("shard");
            None
        }
    }
}
