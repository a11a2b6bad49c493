//! Places tables. A table, its partitions and the tables that inherit from it are one family: a statement on a parent reads its children,
//! so all of them are placed alike or refused together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::assemble::{Configured, Warning, plain};
use super::placed::Settled;
use super::schema::{DefinedColumn, Definition, Equality, Kind, Rules, Schema, Table};
use super::{ColumnDefault, Distribution, Placement, QualifiedName, Relation, Undeclared};
use crate::sharding::KeyType;

/// Every table of the schema with its placement, and what is wrong with those that are refused.
pub(super) fn place(
    configured: &Configured,
    schema: &Schema,
) -> (Vec<(QualifiedName, Relation)>, Vec<Warning>) {
    let stated: HashMap<&QualifiedName, &Placement> = configured
        .tables
        .iter()
        .map(|table| (&table.name, &table.placement))
        .collect();
    let mut relations = Vec::new();
    let mut warnings = Vec::new();
    for family in families(schema) {
        let verdict = verdict(&family, &stated, configured, schema);
        // One sentence is enough for who names a table; the warnings have all.
        let first: Option<Arc<str>> = match &verdict {
            Verdict::Wrong(wrong) => wrong.first().map(|warning| warning.to_string().into()),
            Verdict::Placed(_) | Verdict::Undeclared => None,
        };
        for member in &family {
            let relation = match &verdict {
                Verdict::Placed(placement) => Relation::Table {
                    placement: placement.clone(),
                    columns: plain(&member.definition.columns),
                },
                Verdict::Undeclared | Verdict::Wrong(_) => {
                    Relation::Refused(first.clone().unwrap_or_else(|| undeclared(member.name)))
                }
            };
            relations.push((member.name.clone(), relation));
        }
        if let Verdict::Wrong(wrong) = verdict {
            warnings.extend(wrong);
        }
    }
    (relations, warnings)
}

/// One table of a family.
struct Member<'a> {
    name: &'a QualifiedName,
    definition: &'a Definition,
    table: &'a Table,
}

enum Verdict {
    Placed(Placement),
    /// Not configured, and tables that are not configured are refused.
    Undeclared,
    /// At least one mistake.
    Wrong(Vec<Warning>),
}

fn undeclared((schema, name): &QualifiedName) -> Arc<str> {
    format!("table {schema}.{name} is not configured, and no default shard is set for such tables")
        .into()
}

/// Tables connected by inheritance, each family and all of them in the order of names.
fn families(schema: &Schema) -> Vec<Vec<Member<'_>>> {
    let mut members: Vec<Member<'_>> = schema.relations.iter().filter_map(member).collect();
    members.sort_by_key(|member| member.name);
    let mut relatives: HashMap<&QualifiedName, Vec<&QualifiedName>> = HashMap::new();
    for member in &members {
        for parent in &member.table.parents {
            relatives.entry(parent).or_default().push(member.name);
            relatives.entry(member.name).or_default().push(parent);
        }
    }
    let mut number: HashMap<&QualifiedName, usize> = HashMap::new();
    let mut families: Vec<Vec<Member<'_>>> = Vec::new();
    for member in members {
        let family = *number.entry(member.name).or_insert(families.len());
        if family == families.len() {
            families.push(Vec::new());
            for relative in connected(member.name, &relatives) {
                number.insert(relative, family);
            }
        }
        families[family].push(member);
    }
    families
}

fn member<'a>((name, definition): (&'a QualifiedName, &'a Definition)) -> Option<Member<'a>> {
    match &definition.kind {
        Kind::Table(table) => Some(Member {
            name,
            definition,
            table,
        }),
        Kind::View(_) | Kind::Materialised(_) => None,
    }
}

fn connected<'a>(
    first: &'a QualifiedName,
    relatives: &HashMap<&'a QualifiedName, Vec<&'a QualifiedName>>,
) -> HashSet<&'a QualifiedName> {
    let mut found = HashSet::from([first]);
    let mut open = vec![first];
    while let Some(name) = open.pop() {
        for &relative in relatives.get(name).into_iter().flatten() {
            if found.insert(relative) {
                open.push(relative);
            }
        }
    }
    found
}

fn verdict(
    family: &[Member<'_>],
    stated: &HashMap<&QualifiedName, &Placement>,
    configured: &Configured,
    schema: &Schema,
) -> Verdict {
    let misfits: Vec<Warning> = family
        .iter()
        .filter_map(|member| {
            let table = member.name.clone();
            // It was made by somebody who had not heard of it, before its place was settled.
            let unsettled = configured.placed.get(member.name) == Some(&Settled::No);
            let why = configured.misfits.get(member.name).cloned();
            match why {
                Some(why) => Some(Warning::Misfit { table, why }),
                None => unsettled.then_some(Warning::Unsettled { table }),
            }
        })
        .collect();
    if !misfits.is_empty() {
        return Verdict::Wrong(misfits);
    }
    let fallback = match configured.undeclared {
        Undeclared::Home => Some(Placement::Single(configured.home)),
        Undeclared::Refused => None,
    };
    // What is not configured says something only as a root: other members follow their parents.
    let says = |member: &Member<'_>| match stated.get(member.name) {
        Some(placement) => Some(Some((*placement).clone())),
        None if member.table.parents.is_empty() => Some(fallback.clone()),
        None => None,
    };
    let mut sayings = family
        .iter()
        .filter_map(|member| says(member).map(|placement| (member.name, placement)));
    let Some((first, placement)) = sayings.next() else {
        return Verdict::Undeclared;
    };
    let differing: Vec<Warning> = sayings
        .filter(|(_, other)| *other != placement)
        .map(|(other, _)| Warning::Family {
            table: first.clone(),
            other: other.clone(),
        })
        .collect();
    match placement {
        _ if !differing.is_empty() => Verdict::Wrong(differing),
        None => Verdict::Undeclared,
        Some(placement) => {
            let wrong: Vec<Warning> = family
                .iter()
                .flat_map(|member| check(member, &placement, configured, schema))
                .collect();
            if wrong.is_empty() {
                Verdict::Placed(placement)
            } else {
                Verdict::Wrong(wrong)
            }
        }
    }
}

/// What keeps a table from being placed so.
fn check(
    member: &Member<'_>,
    placement: &Placement,
    configured: &Configured,
    schema: &Schema,
) -> Vec<Warning> {
    let mut wrong = Vec::new();
    if member.table.rules == Rules::Some && !matches!(placement, Placement::Single(_)) {
        wrong.push(Warning::Rules {
            table: member.name.clone(),
        });
    }
    if let Placement::Sharded { distribution, key } = placement {
        let distribution = &configured.distributions[usize::from(distribution.0)];
        wrong.extend(check_key(member, distribution, key));
        let has_text = distribution
            .map
            .key_types()
            .iter()
            .any(|key_type| key_type.is_text());
        if has_text && &*schema.server_encoding != "UTF8" {
            wrong.push(Warning::Encoding {
                table: member.name.clone(),
                encoding: schema.server_encoding.clone(),
            });
        }
    }
    wrong
}

fn check_key(member: &Member<'_>, distribution: &Distribution, key: &[Box<str>]) -> Vec<Warning> {
    let mut wrong = Vec::new();
    for (column, &expected) in key.iter().zip(distribution.map.key_types()) {
        let (table, name) = (member.name.clone(), column.clone());
        match member
            .definition
            .columns
            .iter()
            .find(|defined| defined.column.name == *column)
        {
            None => wrong.push(Warning::KeyColumnMissing {
                table,
                column: name,
            }),
            Some(defined) => wrong.extend(check_column(table, name, defined, expected)),
        }
    }
    wrong
}

fn check_column(
    table: QualifiedName,
    column: Box<str>,
    defined: &DefinedColumn,
    expected: KeyType,
) -> Option<Warning> {
    let found = defined.column.type_oid;
    if KeyType::from_oid(found) != Some(expected) {
        Some(Warning::KeyColumnType {
            table,
            column,
            found,
            expected,
        })
    } else if defined.column.default == ColumnDefault::Generated {
        Some(Warning::KeyColumnGenerated { table, column })
    } else if defined.equality == Equality::Collation {
        Some(Warning::KeyColumnCollation { table, column })
    } else if rounds(expected, defined.modifier) {
        Some(Warning::KeyColumnRounds { table, column })
    } else {
        None
    }
}

/// Whether the declared precision makes a column store another key than it was given: `timestamp(3)`, `numeric(5, -2)`.
/// (`numeric(5, 2)` stores whole numbers as they are; `varchar(n)` and `char(n)` cut only blanks, which keys do not have.)
fn rounds(key_type: KeyType, modifier: i32) -> bool {
    const MICROSECONDS: i32 = 6;
    match key_type {
        _ if modifier < 0 => false,
        KeyType::Timestamp | KeyType::TimestampTz => modifier < MICROSECONDS,
        // The scale is the lowest 11 bits, signed, above the 4 that every modifier of numeric is raised by (`make_numeric_typmod`).
        KeyType::Numeric => (modifier - 4) & 0x400 != 0,
        _ => false,
    }
}
