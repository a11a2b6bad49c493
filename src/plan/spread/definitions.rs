//! Where a definition statement runs: on the shard of a single table, or on every shard, so that definitions are the same on all of them.
//!
//! A table goes where the configuration has it. What several shards could not keep together is refused: a unique index without the key, a
//! foreign key to rows of other shards, and what would make rows belong elsewhere without moving them.

use crate::catalog::placed::Settled;
use crate::catalog::{
    Catalog, Hearing, Placement, QualifiedName, Relation, SchemaState, SearchPath, Sequences,
    Undeclared,
};
use crate::plan::data;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning};
use crate::plan::words::Concern;
use crate::sharding::ShardId;
use crate::sql::Statement;
use crate::sql::class::{Class, Ddl};
use crate::sql::definition::{Action, Block, Constraint, Definition, What, Word, definition};
use crate::sql::facts::Name;

use super::everywhere::{self, Everywhere};
use super::listed::Listed;

/// Where a definition statement runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    One(ShardId),
    All(Everywhere),
    /// Each shard does it with those that it has.
    Each(Listed),
}

/// The statement at its range of `text`, the whole message's. `None`: it defines nothing.
pub fn place(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Result<Place, Refusal>> {
    match &statement.class {
        Class::Ddl(Ddl::Schema | Ddl::Global | Ddl::Truncate) | Class::Maintenance => {}
        _ => return None,
    }
    let Some(read) = definition(text, statement.range.clone()) else {
        return Some(Err(ddl("the statement cannot be read")));
    };
    let definitions = Definitions {
        text: &text[statement.range.clone()],
        read: &read,
        catalog,
        search_path,
    };
    Some(definitions.stays().and_then(|()| definitions.place()))
}

/// Whether the statement changes nothing that can be seen in rows or definitions.
pub fn is_upkeep(text: &str, statement: &Statement) -> bool {
    statement.class == Class::Maintenance
        || definition(text, statement.range.clone())
            .is_some_and(|definition| definition.what == What::Upkeep)
}

struct Definitions<'a> {
    text: &'a str,
    read: &'a Definition,
    catalog: &'a Catalog,
    search_path: &'a SearchPath,
}

/// Where what a statement names is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Everywhere,
    By(ShardId),
    /// By whatever else is named, else by the home shard.
    Nobody,
}

/// The schema and name that CREATE gives.
pub(super) fn created(name: &Name, catalog: &Catalog, search_path: &SearchPath) -> QualifiedName {
    let schemas = &catalog.details.schemas;
    let schema = name.schema.clone().or_else(|| {
        let mut path = search_path.0.iter();
        path.find(|schema| schemas.contains(*schema)).cloned()
    });
    (schema.unwrap_or_else(|| "public".into()), name.name.clone())
}

fn ddl(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Ddl, message)
}

impl<'a> Definitions<'a> {
    /// Tables whose rows move are the same on both sides until they have moved.
    fn stays(&self) -> Result<(), Refusal> {
        if !self.catalog.is_moving() || self.read.what == What::Upkeep {
            return Ok(());
        }
        let created = match &self.read.what {
            What::Table { name, .. } | What::TableAs(name) => Some(name),
            _ => None,
        };
        for name in self.read.relations.iter().chain(created) {
            if let Meaning::Sharded { distribution, .. } = self.meaning(name)
                && self.catalog.distributions[usize::from(distribution.0)]
                    .turning
                    .is_some()
            {
                let message = format!("rows of \"{}\" are being moved between shards", name.name);
                return Err(Refusal::new(Reason::TableMoving, message));
            }
        }
        Ok(())
    }

    fn place(&self) -> Result<Place, Refusal> {
        // Before that, no name can be told from another.
        if self.catalog.schema == SchemaState::Unread {
            let message = "the servers' definitions have not been read yet";
            return Err(Refusal::new(Reason::CatalogUnread, message));
        }
        if self.catalog.hearing == Hearing::No
            && let Some(name) = self.read.relations.iter().find(|name| {
                let meaning = self.meaning(name);
                meaning == Meaning::Unknown
            })
        {
            return Err(data::unheard(&name.name));
        }
        match &self.read.what {
            What::Server => Err(ddl(
                "the statement concerns a server rather than the database, and no shard is named",
            )),
            What::Table { name, parents, .. } => self.table(name, parents),
            What::TableAs(name) => self.table_as(name),
            What::View => self.view(),
            What::MaterialisedView => self.materialised_view(),
            What::Alter(actions) => self.alter(actions),
            What::Upkeep | What::Other => self.other(),
        }
    }

    fn on(&self, held: Held) -> Place {
        match held {
            Held::By(shard) => Place::One(shard),
            Held::Nobody => Place::One(self.catalog.home),
            Held::Everywhere => Place::All(match self.read.block {
                Block::Allowed => Everywhere::Definition,
                Block::Forbidden => Everywhere::Alone,
            }),
        }
    }

    fn meaning(&self, name: &'a Name) -> Meaning<'a> {
        let schema = name.schema.as_deref();
        if let Some(_view) = self
            .catalog
            .spread_view(self.search_path, schema, &name.name)
        {
            return Meaning::View;
        }
        Known::look_up(self.catalog, self.search_path, name).meaning
    }

    fn held(&self, meaning: Meaning<'_>) -> Held {
        match meaning {
            Meaning::Sharded { .. }
            | Meaning::Reference
            | Meaning::View
            | Meaning::Refused(_)
            | Meaning::System => Held::Everywhere,
            Meaning::Single(shard) => Held::By(shard),
            Meaning::Temporary | Meaning::Unknown | Meaning::NotATable => Held::Nobody,
        }
    }

    /// An index or sequence is where its table is; one of no known table is everywhere.
    fn part(&self, name: &Name) -> Held {
        let parts = &self.catalog.details.parts;
        let find = |schema: &str| parts.get(&(schema.into(), name.name.clone()));
        let table = match &name.schema {
            Some(schema) => find(schema),
            None => self.search_path.0.iter().find_map(|schema| find(schema)),
        };
        let relation = table.and_then(|table| self.catalog.relations.get(table));
        match relation {
            Some(Relation::Table {
                placement: Placement::Single(shard),
                ..
            }) => Held::By(*shard),
            _ => Held::Everywhere,
        }
    }

    fn other(&self) -> Result<Place, Refusal> {
        let relations = self.read.relations.iter();
        let relations = relations.map(|name| (&*name.name, self.held(self.meaning(name))));
        let parts = self.read.parts.iter();
        let parts = parts.map(|name| (&*name.name, self.part(name)));
        let all: Vec<(&str, Held)> = relations.chain(parts).collect();
        let mut known = all.iter().filter(|(_, held)| *held != Held::Nobody);
        let held = match known.next() {
            Some((first, held)) => {
                if let Some((other, _)) = known.find(|(_, other)| other != held) {
                    return self.each(&all).ok_or_else(|| {
                        let message =
                            format!("\"{first}\" and \"{other}\" are not on the same shards");
                        Refusal::new(Reason::SingleTablesApart, message)
                    });
                }
                *held
            }
            None if all.is_empty() => Held::Everywhere,
            None => Held::Nobody,
        };
        // What names no table belongs to the whole database.
        if held == Held::Everywhere {
            for name in &self.read.relations {
                self.constraints(&name.name, self.meaning(name))?;
            }
        } else if let Some(name) = self.read.relations.first() {
            self.constraints(&name.name, self.meaning(name))?;
        }
        Ok(self.on(held))
    }

    /// A list that each shard can have its part of.
    fn each(&self, all: &[(&str, Held)]) -> Option<Place> {
        let places = &self.read.places;
        let tables = places.iter().zip(all).map(|(place, (_, held))| {
            let on = match held {
                Held::Everywhere => None,
                Held::By(shard) => Some(*shard),
                Held::Nobody => Some(self.catalog.home),
            };
            (place.clone(), on)
        });
        (places.len() == all.len()).then(|| {
            Place::Each(Listed {
                tables: tables.collect(),
                block: self.read.block,
            })
        })
    }

    fn created(&self, name: &Name) -> QualifiedName {
        created(name, self.catalog, self.search_path)
    }

    /// Where a table of this name is, or will be.
    fn destined(&self, name: &QualifiedName, parents: &'a [Name]) -> Result<Meaning<'a>, Refusal> {
        if let Some(known) = self.catalog.relations.get(name) {
            return Ok(match known {
                Relation::Table { placement, .. } => match placement {
                    Placement::Sharded { distribution, key } => Meaning::Sharded {
                        distribution: *distribution,
                        key,
                    },
                    Placement::Reference => Meaning::Reference,
                    Placement::Single(shard) => Meaning::Single(*shard),
                },
                Relation::Refused(why) => Meaning::Refused(why),
                Relation::ShardedView => Meaning::View,
                Relation::System => Meaning::System,
            });
        }
        if let Some(parent) = parents.first() {
            return Ok(self.meaning(parent));
        }
        match self.catalog.undeclared {
            _ if self.catalog.hearing == Hearing::No => Err(data::unheard(&name.1)),
            Undeclared::Home => Ok(Meaning::Single(self.catalog.home)),
            Undeclared::Refused => {
                let message = format!(
                    "table {}.{} is not configured, and no default shard is set for such tables",
                    name.0, name.1
                );
                Err(Refusal::new(Reason::TableRefused, message))
            }
        }
    }

    fn table(&self, name: &'a Name, parents: &'a [Name]) -> Result<Place, Refusal> {
        let created = self.created(name);
        let meaning = self.destined(&created, parents)?;
        for parent in parents {
            if self.meaning(parent) != meaning {
                return Err(ddl(format!(
                    "tables \"{}\" and \"{}\" are placed differently, but one is a partition of the other or inherits from it",
                    name.name, parent.name
                )));
            }
        }
        self.constraints(&name.name, meaning)?;
        Ok(self.on(self.held(meaning)))
    }

    /// A table made from rows: they are where it is.
    fn table_as(&self, name: &'a Name) -> Result<Place, Refusal> {
        let destined = self.destined(&self.created(name), &[])?;
        let Meaning::Single(place) = destined else {
            return Err(ddl(format!(
                "CREATE TABLE AS would make sharded or reference table \"{}\" from a query",
                name.name
            )));
        };
        match Concern::of_text(self.text, self.catalog) {
            Concern::None => Ok(Place::One(place)),
            Concern::One(shard) if shard == place => Ok(Place::One(place)),
            Concern::One(_) | Concern::Several | Concern::Shards => Err(ddl(format!(
                "CREATE TABLE AS reads tables of other shards than table \"{}\" is on",
                name.name
            ))),
        }
    }

    fn view(&self) -> Result<Place, Refusal> {
        match Concern::of_text(self.text, self.catalog) {
            Concern::None => Ok(Place::One(self.catalog.home)),
            Concern::One(shard) => Ok(Place::One(shard)),
            Concern::Shards => Ok(self.on(Held::Everywhere)),
            Concern::Several => {
                let message = "the view reads tables that are on different shards";
                Err(Refusal::new(Reason::SingleTablesApart, message))
            }
        }
    }

    fn materialised_view(&self) -> Result<Place, Refusal> {
        match Concern::of_text(self.text, self.catalog) {
            Concern::None => Ok(Place::One(self.catalog.home)),
            Concern::One(shard) => Ok(Place::One(shard)),
            Concern::Shards | Concern::Several => Err(ddl(
                "a materialised view would store rows of tables that are on several shards",
            )),
        }
    }

    fn alter(&self, actions: &'a [Action]) -> Result<Place, Refusal> {
        if let Some(name) = self.read.relations.first() {
            let meaning = self.meaning(name);
            for action in actions {
                self.action(name, meaning, action)?;
            }
        }
        self.other()
    }

    fn action(
        &self,
        table: &'a Name,
        meaning: Meaning<'a>,
        action: &'a Action,
    ) -> Result<(), Refusal> {
        let table_name = &table.name;
        match (action, meaning) {
            (Action::Rename(name), _) => self.moves(table, None, name, meaning),
            (Action::SetSchema(schema), _) => self.moves(table, Some(schema), table_name, meaning),
            (Action::Column(column), Meaning::Sharded { key, .. }) if key.contains(column) => {
                Err(ddl(format!(
                    "column \"{column}\" is the shard key of table \"{table_name}\""
                )))
            }
            (Action::Column(_), Meaning::Reference) => self.computes_alike(table_name, &[]),
            (Action::Add { words }, Meaning::Reference) => self.computes_alike(table_name, words),
            (Action::Add { words }, Meaning::Sharded { .. }) => self.numbers(table_name, words),
            (Action::Join(other), _) => {
                let other_meaning = self.meaning(other);
                if self.held(other_meaning) == Held::Nobody || other_meaning == meaning {
                    return Ok(());
                }
                Err(ddl(format!(
                    "tables \"{table_name}\" and \"{}\" are placed differently",
                    other.name
                )))
            }
            (Action::Part, Meaning::Sharded { .. } | Meaning::Reference) => Err(ddl(format!(
                "a table that leaves \"{table_name}\" would not be known to have rows on every shard"
            ))),
            _ => Ok(()),
        }
    }

    /// A table may get a name that the configuration places where its rows are.
    fn moves(
        &self,
        table: &'a Name,
        schema: Option<&str>,
        name: &str,
        meaning: Meaning<'a>,
    ) -> Result<(), Refusal> {
        if !matches!(
            meaning,
            Meaning::Sharded { .. } | Meaning::Reference | Meaning::Single(_)
        ) {
            return Ok(());
        }
        let schema = schema.map_or_else(|| self.created(table).0, Box::from);
        let destined = (schema, name.into());
        if self.catalog.placed.get(&destined) == Some(&Settled::No) {
            let message =
                format!("the place of a table \"{name}\" is being recorded, or forgotten");
            return Err(Refusal::new(Reason::TablePlace, message));
        }
        let destined = self.destined(&destined, &[]);
        if destined.is_ok_and(|destined| destined == meaning) {
            return Ok(());
        }
        Err(ddl(format!(
            "table \"{}\" would get the name \"{name}\", which the configuration does not place where its rows are",
            table.name
        )))
    }

    /// New values of a column of a reference table must be the same on every shard.
    fn computes_alike(&self, table: &str, words: &[Word]) -> Result<(), Refusal> {
        let differs = words
            .iter()
            .any(|word| !everywhere::is_same_everywhere(word, self.catalog));
        // The expression of ALTER COLUMN .. TYPE .. USING is not looked into.
        let uses = words.is_empty()
            && crate::sql::words(self.text)
                .is_ok_and(|words| words.iter().any(|word| **word == *"using"));
        if !differs && !uses {
            return Ok(());
        }
        let message =
            format!("a column of reference table \"{table}\" would get other values on each shard");
        Err(Refusal::new(Reason::VolatileReferenceWrite, message))
    }

    /// A new column that numbers rows gives the same numbers on each shard.
    fn numbers(&self, table: &str, words: &[Word]) -> Result<(), Refusal> {
        const NUMBERING: [&str; 8] = [
            "serial",
            "serial2",
            "serial4",
            "serial8",
            "smallserial",
            "bigserial",
            "identity",
            "nextval",
        ];
        let numbers = words.iter().find(|word| NUMBERING.contains(&&*word.word));
        match (numbers, self.catalog.sequences) {
            (Some(word), Sequences::Home | Sequences::Refused) => {
                let message = format!(
                    "the rows of sharded table \"{table}\" would get the same numbers on each shard ({})",
                    word.word
                );
                Err(Refusal::new(Reason::SequenceDefault, message))
            }
            _ => Ok(()),
        }
    }

    /// Whether shards can keep the constraints each for itself.
    fn constraints(&self, table: &str, meaning: Meaning<'a>) -> Result<(), Refusal> {
        for constraint in &self.read.constraints {
            match (constraint, meaning) {
                (Constraint::Unique(columns), Meaning::Sharded { key, .. }) => {
                    if let Some(missing) = key.iter().find(|column| !columns.contains(column)) {
                        let message = format!(
                            "a unique or exclusion constraint of sharded table \"{table}\" does not contain key column \"{missing}\""
                        );
                        return Err(Refusal::new(Reason::UniqueWithoutKey, message));
                    }
                }
                (Constraint::Copied, Meaning::Sharded { .. }) => {
                    let message = format!(
                        "sharded table \"{table}\" would get the unique indexes of another table"
                    );
                    return Err(Refusal::new(Reason::UniqueWithoutKey, message));
                }
                (
                    Constraint::Foreign {
                        columns,
                        table: referenced_table,
                        referenced,
                    },
                    _,
                ) => self.foreign(
                    table,
                    meaning,
                    columns,
                    referenced_table,
                    referenced.as_deref(),
                )?,
                _ => {}
            }
        }
        Ok(())
    }

    fn foreign(
        &self,
        table: &str,
        meaning: Meaning<'a>,
        columns: &[Box<str>],
        referenced_table: &'a Name,
        referenced: Option<&[Box<str>]>,
    ) -> Result<(), Refusal> {
        let is_self = *referenced_table.name == *table && referenced_table.schema.is_none();
        let target = if is_self {
            meaning
        } else {
            self.meaning(referenced_table)
        };
        let name = &referenced_table.name;
        let apart = |why: String| Err(Refusal::new(Reason::ForeignKeyApart, why));
        match (meaning, target) {
            (Meaning::Sharded { .. } | Meaning::Single(_), Meaning::Reference)
            | (Meaning::Reference, Meaning::Reference) => Ok(()),
            (Meaning::Single(one), Meaning::Single(other)) if one == other => Ok(()),
            // The home shard knows whether there is such a table.
            (Meaning::Single(shard), Meaning::Unknown) if shard == self.catalog.home => Ok(()),
            (
                Meaning::Sharded { distribution, key },
                Meaning::Sharded {
                    distribution: other,
                    key: other_key,
                },
            ) if distribution == other => {
                let primary_key = || self.primary_key(referenced_table, is_self);
                let Some(referenced) = referenced.map(<[_]>::to_vec).or_else(primary_key) else {
                    return apart(format!(
                        "which columns of table \"{name}\" the foreign key of table \"{table}\" means is not known: list them"
                    ));
                };
                let leads = |own: &str, others: &str| {
                    let place = columns.iter().position(|column| **column == *own);
                    place.is_some_and(|place| {
                        referenced
                            .get(place)
                            .is_some_and(|column| **column == *others)
                    })
                };
                if key
                    .iter()
                    .zip(other_key)
                    .all(|(own, others)| leads(own, others))
                {
                    return Ok(());
                }
                apart(format!(
                    "the foreign key of table \"{table}\" does not lead from its shard key to that of table \"{name}\""
                ))
            }
            (Meaning::Sharded { .. } | Meaning::Reference | Meaning::Single(_), _) => {
                apart(format!(
                    "the foreign key of table \"{table}\" refers to table \"{name}\", whose rows may be on other shards"
                ))
            }
            // Of what is refused or not known, the servers judge.
            _ => Ok(()),
        }
    }

    fn primary_key(&self, table: &Name, is_self: bool) -> Option<Vec<Box<str>>> {
        if is_self {
            // It is among the constraints that are made here, or there is none.
            return self
                .read
                .constraints
                .iter()
                .find_map(|constraint| match constraint {
                    Constraint::Unique(columns) => Some(columns.clone()),
                    _ => None,
                });
        }
        let keys = &self.catalog.primary_keys;
        let find = |schema: &str| keys.get(&(schema.into(), table.name.clone()));
        let key = match &table.schema {
            Some(schema) => find(schema),
            None => self.search_path.0.iter().find_map(|schema| find(schema)),
        };
        key.map(|columns| columns.to_vec())
    }
}
