//! Where a statement on data goes: from its facts and the catalog to a [`Target`].

use std::collections::HashSet;

use crate::catalog::{
    Catalog, ColumnDefault, DistributionId, Given, Hearing, SchemaState, SearchPath, Sequences,
    Writes,
};
use crate::sharding::ShardId;
use crate::sql;
use crate::sql::facts::{Access, Doubt, Facts, Name, Relation, Source};

use super::functions::{Functions, home_only};
use super::insert::Inserted;
use super::proof::{Proof, Prover};
use super::refusal::{Reason, Refusal};
use super::scope::{Known, Meaning, Node, Scope};
use super::words::{Concern, ParameterPlaces};
use super::{KeyOperand, KeySet, KeyTuple, Target, Verb};

/// The most keys that the lists of a statement's key columns may combine to.
const MOST_KEYS: usize = 65_536;

/// A shard that holds what shards do not share: reference rows are locked there. Any fixed one will do; it must be the same for all.
const LOCKING_SHARD: ShardId = ShardId(0);

/// Which shard holds all rows that matter to the statement. The cluster has more than one shard.
pub fn target(
    text: &str,
    facts: &Facts,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<Target, Refusal> {
    let scope = Scope::new(facts, catalog, search_path);
    let inserted: Vec<_> = facts
        .inserts
        .iter()
        .map(|insert| Known::look_up(catalog, search_path, &insert.table))
        .collect();
    let tables = Tables::of(&scope, &inserted);
    tables.are_known(catalog)?;
    tables.no_doubts(text, facts, catalog)?;
    views_only_as_tables(facts, catalog, search_path)?;
    no_forbidden_writes(text, facts, catalog, search_path, &tables)?;

    let places = ParameterPlaces::of(text, &scope, &inserted);
    let mut prover = Prover::new(&scope, &places)?;
    let mut sets = Sets::default();
    relations(&scope, &mut prover, &mut sets)?;
    for (insert, target) in facts.inserts.iter().zip(&inserted) {
        if let Meaning::Sharded { distribution, key } = target.meaning {
            let inserted = Inserted {
                insert,
                target: *target,
                key,
                scope: &scope,
                places: &places,
            };
            sets.add(distribution, inserted.keys(&mut prover)?);
        }
    }
    if let Some(merge) = &facts.merge
        && let Meaning::Sharded { distribution, key } = scope.known(0, 0).meaning
    {
        for insert in &merge.inserts {
            let inserted = Inserted {
                insert,
                target: scope.known(0, 0),
                key,
                scope: &scope,
                places: &places,
            };
            sets.add(distribution, inserted.merged_keys(&mut prover)?);
        }
    }
    let functions = Functions::of(facts, catalog);
    tables.shard(
        sets.sets,
        verb(facts, &scope, &tables),
        functions,
        facts.locking,
        catalog,
    )
}

/// The distribution that all sharded tables of the statement share; what a key in a hint means.
pub fn distribution(
    facts: &Facts,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<DistributionId> {
    let scope = Scope::new(facts, catalog, search_path);
    let inserted: Vec<_> = facts
        .inserts
        .iter()
        .map(|insert| Known::look_up(catalog, search_path, &insert.table))
        .collect();
    let mut distributions = Tables::of(&scope, &inserted).sharded;
    distributions.dedup();
    if let [only] = distributions[..] {
        Some(only)
    } else {
        None
    }
}

/// What a statement asks of the system's catalogs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Catalogs {
    /// What every shard has alike.
    #[default]
    Alike,
    /// Which tables there are: the home shard has those that the configuration does not name, other shards do not.
    Tables,
    /// Types by their numbers, which are those of the server that has told them.
    Types,
}

/// Those that say which tables there are, and of what they are made.
const OF_TABLES: [&str; 14] = [
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_depend",
    "pg_description",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_sequence",
    "pg_sequences",
    "pg_tables",
    "pg_trigger",
    "pg_views",
];

impl Catalogs {
    fn add(&mut self, name: &Name) {
        if &*name.name == "pg_range" {
            *self = Catalogs::Types;
        } else if *self == Catalogs::Alike
            && (OF_TABLES.contains(&&*name.name)
                || name.schema.as_deref() == Some("information_schema"))
        {
            *self = Catalogs::Tables;
        }
    }
}

/// All tables of a statement, by what they are.
#[derive(Default)]
struct Tables<'a> {
    sharded: Vec<DistributionId>,
    reference: Vec<&'a str>,
    single: Vec<(&'a str, ShardId)>,
    view: Vec<&'a str>,
    refused: Vec<&'a str>,
    temporary: Vec<&'a str>,
    unknown: Vec<&'a str>,
    catalogs: Catalogs,
}

impl<'a> Tables<'a> {
    fn of(scope: &Scope<'a>, inserted: &[Known<'a>]) -> Tables<'a> {
        let mut tables = Tables::default();
        for (block, content) in scope.facts.blocks.iter().enumerate() {
            for (relation, content) in content.relations.iter().enumerate() {
                if let Source::Table(name) = &content.source {
                    tables.add(name, scope.known(block, relation));
                }
            }
        }
        scope
            .facts
            .inserts
            .iter()
            .zip(inserted)
            .for_each(|(insert, known)| tables.add(&insert.table, *known));
        tables
    }

    fn add(&mut self, name: &'a Name, known: Known<'a>) {
        if known.meaning == Meaning::System {
            self.catalogs.add(name);
        }
        let name = &*name.name;
        match known.meaning {
            Meaning::Sharded { distribution, .. } => self.sharded.push(distribution),
            Meaning::Reference => self.reference.push(name),
            Meaning::Single(shard) => self.single.push((name, shard)),
            Meaning::View => self.view.push(name),
            Meaning::Refused(why) => self.refused.push(why),
            Meaning::Temporary => self.temporary.push(name),
            Meaning::Unknown => self.unknown.push(name),
            Meaning::System | Meaning::NotATable => {}
        }
    }

    /// Whether tables are concerned that are on several shards.
    fn spread(&self) -> bool {
        !self.sharded.is_empty() || !self.reference.is_empty()
    }

    fn are_known(&self, catalog: &Catalog) -> Result<(), Refusal> {
        if let Some(view) = self.view.first() {
            return Err(Refusal::new(
                Reason::ViewOverSharded,
                format!("view \"{view}\" reads sharded or reference tables"),
            ));
        }
        if let Some(why) = self.refused.first() {
            return Err(Refusal::new(Reason::TableRefused, *why));
        }
        let Some(name) = self.unknown.first() else {
            return Ok(());
        };
        unknown_is_for_home_to_judge(name, catalog)?;
        if self.spread() {
            let message = format!(
                "relation \"{name}\" is not known, and the statement also names sharded or reference tables"
            );
            return Err(Refusal::new(Reason::UnknownTable, message));
        }
        Ok(())
    }

    fn no_doubts(&self, text: &str, facts: &Facts, catalog: &Catalog) -> Result<(), Refusal> {
        for doubt in &facts.doubts {
            match doubt {
                Doubt::Merge if self.spread() => {
                    return Err(Refusal::new(
                        Reason::Merge,
                        "MERGE in WITH, with a sharded or reference table",
                    ));
                }
                Doubt::Natural if !self.sharded.is_empty() => {
                    return Err(Refusal::new(
                        Reason::NaturalJoin,
                        "NATURAL JOIN with a sharded table",
                    ));
                }
                Doubt::SelectInto if self.spread() => {
                    return Err(Refusal::new(
                        Reason::SelectInto,
                        "SELECT INTO from a sharded or reference table",
                    ));
                }
                // What was not read may name anything; its text does not lie.
                Doubt::Unread(what)
                    if self.spread() || Concern::of_text(text, catalog) == Concern::Shards =>
                {
                    let message = format!(
                        "cannot tell on which shard the statement runs: {what} is not understood"
                    );
                    return Err(Refusal::new(Reason::UnreadSyntax, message));
                }
                Doubt::Merge | Doubt::Natural | Doubt::SelectInto | Doubt::Unread(_) => {}
            }
        }
        Ok(())
    }

    /// The target, when keys, single tables and functions are known.
    fn shard(
        &self,
        sets: Vec<KeySet>,
        verb: Verb,
        functions: Functions<'_>,
        locking: bool,
        catalog: &Catalog,
    ) -> Result<Target, Refusal> {
        // A key tells where the statement's own rows are, not what a function looks up by itself.
        if let Some(function) = functions.opaque {
            let message = format!("function {function} may use sharded tables");
            return Err(Refusal::new(Reason::OpaqueFunction, message));
        }
        let single = self.one_single()?;
        if locking
            && !self.reference.is_empty()
            && (!sets.is_empty() || single.is_some_and(|single| single != LOCKING_SHARD))
        {
            let message = format!(
                "a locking query reads reference table \"{}\" together with tables of other shards",
                self.reference[0]
            );
            return Err(Refusal::new(Reason::ReferenceLock, message));
        }
        if !sets.is_empty() {
            functions.no_sequence_away_from_home(catalog)?;
            let also = match (single, functions.home) {
                (Some(single), Some(function)) if single != catalog.home => {
                    return Err(home_only(function));
                }
                (_, Some(_)) => Some(catalog.home),
                (single, None) => single,
            };
            return Ok(Target::Keys { sets, also, verb });
        }
        let locked = (locking && !self.reference.is_empty()).then_some(LOCKING_SHARD);
        let unknown =
            (!self.unknown.is_empty() || !self.temporary.is_empty()).then_some(catalog.home);
        let Some(shard) = single.or(locked).or(unknown) else {
            let at_home = functions.home.is_some()
                || functions.sequence.is_some()
                || self.catalogs == Catalogs::Tables;
            return Ok(if at_home {
                Target::Shard(catalog.home)
            } else {
                Target::Any
            });
        };
        if let Some(elsewhere) = unknown.filter(|home| *home != shard) {
            let name = self
                .unknown
                .first()
                .or(self.temporary.first())
                .copied()
                .unwrap_or_default();
            let home = &catalog.shards[elsewhere.index()];
            let message = format!(
                "relation \"{name}\" is taken to be on shard {home}, another table of the statement is not"
            );
            return Err(Refusal::new(Reason::SingleTablesApart, message));
        }
        if shard != catalog.home {
            functions.no_sequence_away_from_home(catalog)?;
            if let Some(function) = functions.home {
                return Err(home_only(function));
            }
        }
        Ok(Target::Shard(shard))
    }

    /// The shard of the single tables.
    fn one_single(&self) -> Result<Option<ShardId>, Refusal> {
        let Some((first, shard)) = self.single.first() else {
            return Ok(None);
        };
        match self.single.iter().find(|(_, other)| other != shard) {
            None => Ok(Some(*shard)),
            Some((other, _)) => {
                let message = format!("tables \"{first}\" and \"{other}\" are on different shards");
                Err(Refusal::new(Reason::SingleTablesApart, message))
            }
        }
    }
}

/// The home shard may know a table that the catalog does not: a temporary one, or one that was made a moment ago. But while definitions
/// have not been read, an unknown name may be a view of sharded tables.
/// Another proxy may have been told where the table belongs.
pub fn unheard(name: &str) -> Refusal {
    let message = format!(
        "table \"{name}\" is not known, and this proxy has lost the control store, by which it would hear where the table belongs"
    );
    Refusal::new(Reason::TableUnheard, message)
}

pub fn unknown_is_for_home_to_judge(name: &str, catalog: &Catalog) -> Result<(), Refusal> {
    match (catalog.schema, catalog.hearing) {
        (SchemaState::Read, Hearing::Yes) => Ok(()),
        (SchemaState::Read, Hearing::No) => Err(unheard(name)),
        (SchemaState::Unread, _) => {
            let message = format!(
                "table \"{name}\" is not configured, and the servers' definitions have not been read yet"
            );
            Err(Refusal::new(Reason::CatalogUnread, message))
        }
    }
}

/// Proves, for each sharded relation of each block, the keys of the rows that matter.
fn relations<'a>(
    scope: &'a Scope<'a>,
    prover: &mut Prover<'a>,
    sets: &mut Sets,
) -> Result<(), Refusal> {
    for (block, content) in scope.facts.blocks.iter().enumerate() {
        let mut proven = 0;
        let mut unproven = None;
        for relation in 0..content.relations.len() {
            let Meaning::Sharded { distribution, key } = scope.known(block, relation).meaning
            else {
                continue;
            };
            if stores_only(scope.facts, &content.relations[relation]) {
                continue;
            }
            let columns = key.iter().map(|column| {
                match prover.column(Node::Column {
                    block,
                    relation,
                    column,
                }) {
                    Proof::Values(values) => Ok(values),
                    Proof::Null => Err(Missing::Null(column)),
                    Proof::Nothing => Err(Missing::Value(column)),
                }
            });
            match columns.collect::<Result<Vec<_>, _>>() {
                Ok(columns) => {
                    sets.add(distribution, combinations(columns)?);
                    proven += 1;
                }
                Err(missing) => _ = unproven.get_or_insert((relation, missing)),
            }
        }
        if let Some((relation, missing)) = unproven {
            return Err(unproven_relation(scope, block, relation, missing, proven));
        }
    }
    Ok(())
}

/// Whether a relation is the target of an INSERT, whose keys are those of its rows. Facts do not tell such a target from that of a DELETE,
/// but when the statement writes to the table as often as it inserts into it, every write is an INSERT.
pub fn stores_only(facts: &Facts, relation: &Relation) -> bool {
    let Source::Table(name) = &relation.source else {
        return false;
    };
    let written = facts.blocks.iter().flat_map(|block| &block.relations);
    let written = written
        .filter(|other| other.access == Access::Write && other.source == relation.source)
        .count();
    relation.access == Access::Write
        && written
            == facts
                .inserts
                .iter()
                .filter(|insert| insert.table == *name)
                .count()
}

/// Why a key column of a relation is not known.
enum Missing<'a> {
    Null(&'a str),
    Value(&'a str),
}

fn unproven_relation(
    scope: &Scope<'_>,
    block: usize,
    relation: usize,
    missing: Missing<'_>,
    proven_beside: usize,
) -> Refusal {
    let content = &scope.facts.blocks[block].relations[relation];
    let name = &content.alias;
    let column = match missing {
        Missing::Null(column) => {
            return Refusal::new(
                Reason::NullKey,
                format!(
                    "key column \"{column}\" of \"{name}\" is compared with NULL, which is never true"
                ),
            );
        }
        Missing::Value(column) => column,
    };
    let (reason, what) = match content.access {
        _ if proven_beside > 0 => (Reason::JoinNotColocated, "the join does not keep"),
        Access::Write if scope.facts.merge.is_some() => (Reason::Merge, "the MERGE does not keep"),
        Access::Read => (Reason::MultiShardSelect, "the query does not keep"),
        Access::Write if is_assigned(scope, &content.source) => {
            (Reason::MultiShardUpdate, "the UPDATE does not keep")
        }
        Access::Write => (Reason::MultiShardDelete, "the DELETE does not keep"),
    };
    let message = format!(
        "{what} sharded table \"{name}\" on one shard: no condition gives key column \"{column}\" a known value"
    );
    Refusal::new(reason, message)
}

fn is_assigned(scope: &Scope<'_>, source: &Source) -> bool {
    matches!(source, Source::Table(name) if scope.facts.assignments.iter().any(|assignment| assignment.table == *name))
}

/// What the columns of a relation's key are proven to be, in all combinations. `Ok(None)`: of one of them that is not known.
pub fn proven_keys<'a>(
    prover: &mut Prover<'a>,
    (block, relation): (usize, usize),
    key: &'a [Box<str>],
) -> Result<Option<Vec<KeyTuple>>, Refusal> {
    let values = key.iter().map(|column| {
        let node = Node::Column {
            block,
            relation,
            column,
        };
        match prover.column(node) {
            Proof::Values(values) => Some(values),
            Proof::Null | Proof::Nothing => None,
        }
    });
    let values: Option<Vec<_>> = values.collect();
    values.map(combinations).transpose()
}

/// Every combination of one value for each key column.
pub fn combinations(columns: Vec<Vec<KeyOperand>>) -> Result<Vec<KeyTuple>, Refusal> {
    let count = columns
        .iter()
        .try_fold(1_usize, |count, values| count.checked_mul(values.len()));
    if count.is_none_or(|count| count > MOST_KEYS) {
        return Err(Refusal::new(
            Reason::TooManyKeys,
            format!("the key columns' values combine to more than {MOST_KEYS} keys"),
        ));
    }
    let mut tuples = vec![Vec::with_capacity(columns.len())];
    for values in columns {
        tuples = tuples
            .iter()
            .flat_map(|tuple| {
                values
                    .iter()
                    .map(move |value| [&tuple[..], std::slice::from_ref(value)].concat())
            })
            .collect();
    }
    Ok(tuples.into_iter().map(KeyTuple).collect())
}

/// Key tuples by distribution, each once.
#[derive(Default)]
struct Sets {
    sets: Vec<KeySet>,
    present: HashSet<(u16, KeyTuple)>,
}

impl Sets {
    fn add(&mut self, distribution: DistributionId, tuples: Vec<KeyTuple>) {
        let place = self
            .sets
            .iter()
            .position(|set| set.distribution == distribution)
            .unwrap_or_else(|| {
                self.sets.push(KeySet {
                    distribution,
                    tuples: Vec::new(),
                });
                self.sets.len() - 1
            });
        let fresh = tuples
            .into_iter()
            .filter(|tuple| self.present.insert((distribution.0, tuple.clone())));
        self.sets[place].tuples.extend(fresh);
    }
}

/// Views that stand for sharded tables are written and locked only when that comes to the same on the one table they read. INSERT never: it
/// fills the columns that the view leaves out.
fn views_only_as_tables(
    facts: &Facts,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<(), Refusal> {
    if catalog.views.is_empty() {
        return Ok(());
    }
    let view = |name: &Name| catalog.spread_view(search_path, name.schema.as_deref(), &name.name);
    let refused = |what: &str, name: &Name| {
        Err(Refusal::new(
            Reason::ViewOverSharded,
            format!("{what} view \"{}\" of sharded tables", name.name),
        ))
    };
    if let Some(insert) = facts
        .inserts
        .iter()
        .find(|insert| view(&insert.table).is_some())
    {
        return refused("rows are inserted by way of", &insert.table);
    }
    for relation in facts.blocks.iter().flat_map(|block| &block.relations) {
        let Source::Table(name) = &relation.source else {
            continue;
        };
        if facts.merge.is_some() && relation.access == Access::Write && view(name).is_some() {
            return refused("rows are merged by way of", name);
        }
        let changed = match relation.access {
            Access::Write => "rows are changed by way of",
            Access::Read if facts.locking => "rows are locked by way of",
            Access::Read => continue,
        };
        if view(name).is_some_and(|view| view.writes == Writes::Elsewhere) {
            return refused(changed, name);
        }
    }
    Ok(())
}

/// No write to a reference table, no assignment to a key column, no DEFAULT from a sequence.
fn no_forbidden_writes(
    text: &str,
    facts: &Facts,
    catalog: &Catalog,
    search_path: &SearchPath,
    tables: &Tables<'_>,
) -> Result<(), Refusal> {
    let targets = facts.inserts.iter().map(|insert| &insert.table);
    let written = facts
        .blocks
        .iter()
        .flat_map(|block| &block.relations)
        .filter(|relation| relation.access == Access::Write);
    let written = written.filter_map(|relation| match &relation.source {
        Source::Table(name) => Some(name),
        Source::Cte(_) | Source::Derived | Source::Function => None,
    });
    if !tables.reference.is_empty()
        && let Some(name) = targets
            .chain(written)
            .find(|name| Known::look_up(catalog, search_path, name).meaning == Meaning::Reference)
    {
        return Err(Refusal::new(
            Reason::ReferenceWrite,
            format!(
                "table \"{}\" is a reference table: every shard has a copy",
                name.name
            ),
        ));
    }
    not_overridden(text, facts, catalog, search_path)?;
    for assignment in &facts.assignments {
        let known = Known::look_up(catalog, search_path, &assignment.table);
        let Meaning::Sharded { key, .. } = known.meaning else {
            continue;
        };
        let table = &assignment.table.name;
        if let Some(column) = assignment
            .columns
            .iter()
            .find(|column| key.contains(column))
        {
            let message =
                format!("key column \"{column}\" of sharded table \"{table}\" is assigned");
            return Err(Refusal::new(Reason::KeyUpdate, message));
        }
        let from_sequence = |name: &str| {
            let column = known
                .columns
                .into_iter()
                .flatten()
                .find(|column| *column.name == *name);
            column.is_some_and(|column| column.default == ColumnDefault::Sequence)
        };
        // Facts do not tell what is assigned: a DEFAULT anywhere may be this column's.
        if catalog.sequences != Sequences::PerShard
            && sql::words(text).is_ok_and(|words| words.iter().any(|word| **word == *"default"))
            && let Some(column) = assignment
                .columns
                .iter()
                .find(|column| from_sequence(column))
        {
            let message = format!(
                "column \"{column}\" of sharded table \"{table}\" may get its value from a sequence"
            );
            return Err(Refusal::new(Reason::SequenceDefault, message));
        }
    }
    Ok(())
}

/// With OVERRIDING USER VALUE the values that are given for identity columns are not those that are stored.
fn not_overridden(
    text: &str,
    facts: &Facts,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Result<(), Refusal> {
    let words = sql::words(text).unwrap_or_default();
    let has = |wanted: &str| words.iter().any(|word| **word == *wanted);
    let merged = facts.merge.iter().flat_map(|merge| &merge.inserts);
    let mut inserts = facts.inserts.iter().chain(merged).peekable();
    if inserts.peek().is_none() || !(has("overriding") && has("user")) {
        return Ok(());
    }
    for insert in inserts {
        let known = Known::look_up(catalog, search_path, &insert.table);
        let Meaning::Sharded { key, .. } = known.meaning else {
            continue;
        };
        let is_given = |name: &str| {
            let listed = insert.columns.as_ref();
            listed.is_none_or(|listed| listed.iter().any(|column| **column == *name))
        };
        let matters = |name: &str| {
            catalog.sequences != Sequences::PerShard || key.iter().any(|key| **key == *name)
        };
        let mut columns = known.columns.into_iter().flatten();
        let overridden = columns.find(|column| {
            let numbers = column.numbers.as_ref();
            numbers.is_some_and(|numbers| numbers.given != Given::Freely)
                && is_given(&column.name)
                && matters(&column.name)
        });
        if let Some(column) = overridden {
            let message = format!(
                "OVERRIDING USER VALUE: column \"{}\" of sharded table \"{}\" would get its value from a sequence",
                column.name, insert.table.name
            );
            return Err(Refusal::new(Reason::SequenceDefault, message));
        }
    }
    Ok(())
}

/// What a statement does to sharded rows, for the refusal at bind time.
fn verb(facts: &Facts, scope: &Scope<'_>, tables: &Tables<'_>) -> Verb {
    if tables.sharded.is_empty() {
        return Verb::Select;
    }
    if facts.merge.is_some() {
        return Verb::Merge;
    }
    let mut verb = if facts.inserts.is_empty() {
        Verb::Select
    } else {
        Verb::Insert
    };
    for relation in facts.blocks.iter().flat_map(|block| &block.relations) {
        if relation.access == Access::Write && verb != Verb::Insert {
            verb = if is_assigned(scope, &relation.source) {
                Verb::Update
            } else {
                Verb::Delete
            };
        }
    }
    verb
}
