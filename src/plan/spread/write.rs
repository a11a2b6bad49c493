//! UPDATE, DELETE and INSERT ... SELECT of sharded tables on several shards: every shard changes its own rows, by the client's own text.
//!
//! That adds up when whether a row is changed, and to what, depends on nothing but the row, what every shard has, and rows with the row's own
//! key (`colocated.rs`). Rows of other tables, sharded ones and those of one shard, are brought to every shard, where the statement is an UPDATE or DELETE (`gather/feed.rs`). A row that is
//! inserted must have the key of the rows that it is made from.

use crate::catalog::{Catalog, DistributionId};
use crate::plan::bind::each_key;
use crate::plan::data::proven_keys;
use crate::plan::insert::Inserted;
use crate::plan::proof::{Prover, exact_equality};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::Meaning;
use crate::plan::words::ParameterPlaces;
use crate::plan::{Arity, KeySet, KeyTuple, Target, Typing, Values};
use crate::sharding::ShardId;
use crate::sql::facts::{InsertSource, Operand, Presence};
use crate::sql::places::{self, Chosen};
use crate::sql::select;

use super::changes::{Asked, Others, Verbatim};
use super::colocated::{anchored_in, strangers};
use super::gather::{self, Gather};
use super::own_rows::{OwnKey, OwnRows, Place};

/// The client's text goes to every shard concerned; counts add up, and so do the rows of RETURNING.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Which rows a shard leaves out while some move; `None`: that cannot be said in the text.
    pub own: Option<OwnRows>,
    /// Tables whose rows are brought to the shards first.
    pub feed: Option<Box<Feed>>,
}

/// What a change needs of other shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    /// What is brought, and the client's text as it is then.
    pub brings: Gather,
    /// The shards that change rows.
    distribution: DistributionId,
    /// The one shard that has all tables of the statement, if not every shard has them: those of one shard are among the brought ones.
    pub describer: Option<ShardId>,
    /// The keys of all changed rows, where they are known: always a `Target::Keys`.
    keys: Option<Target>,
}

impl Feed {
    /// The shards that may have rows to change, in their order.
    pub fn shards(&self, catalog: &Catalog, values: &Values<'_>) -> Vec<ShardId> {
        let mut shards = Vec::new();
        let found = self.keys.as_ref().map(|keys| {
            each_key(keys, catalog, values, |_, _, location| {
                shards.push(location.shard);
                Ok(())
            })
        });
        if !matches!(found, Some(Ok(()))) || shards.is_empty() {
            shards = catalog.shards_of(&[self.distribution]);
        }
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

impl Write {
    pub(super) fn describe(&self, text: &str, catalog: &Catalog) -> String {
        let goes = "goes    to every shard that its keys leave, each changes its own rows";
        let mut lines = vec![goes.to_owned()];
        if let Some(feed) = &self.feed {
            lines.extend(feed.brings.describe_fetches(text, catalog));
        }
        lines.join("\n")
    }

    pub(super) fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        if let Some(own) = &mut self.own {
            own.move_places(to);
        }
        if let Some(feed) = &mut self.feed {
            feed.brings.move_places(to);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let feed = self.feed.as_deref();
        self.own.as_ref().map_or(0, OwnRows::bytes)
            + feed.map_or(0, |feed| size_of::<Feed>() + feed.brings.bytes())
    }
}

/// `None`: it is no such statement.
pub fn write(asked: &Asked<'_>) -> Option<Result<Write, Refusal>> {
    if !matches!(asked.verbatim(), Verbatim::Update | Verbatim::Delete)
        || !asked.facts.inserts.is_empty()
    {
        return None;
    }
    match asked.meaning(asked.target()?) {
        Meaning::Sharded { .. } => {}
        _ => return None,
    }
    // Anything else that is wrong with it does not get better on several shards.
    let is_apart = asked.refusal.id == Reason::JoinNotColocated.kind().id;
    if !asked.refusal.is_of_several_shards() && !is_apart {
        return Some(Err(asked.refusal.clone()));
    }
    Some(changed(asked))
}

fn changed(asked: &Asked<'_>) -> Result<Write, Refusal> {
    let places = parameter_places(asked);
    let prover = Prover::new(&asked.scope, &places)?;
    let keys = changed_keys(asked, &places)?;
    let others = match &keys[..] {
        [one] if one.0.iter().all(|value| value.arity == Arity::One) => Others::BroughtForOne,
        _ => Others::Brought,
    };
    asked.others(others)?;
    if others != Others::BroughtForOne && gather::goes_by_order(asked) {
        return Err(asked.refusal.clone());
    }
    let Some((_, mut strangers)) = strangers(0, 0, &asked.scope, &prover) else {
        return Err(asked.refusal.clone());
    };
    strangers.extend(places_of(asked, |meaning| {
        matches!(meaning, Meaning::Single(_))
    }));
    let feed = match strangers[..] {
        [] => None,
        _ => Some(Box::new(feed(asked, &strangers, keys)?)),
    };
    Ok(Write {
        own: chosen_rows(asked),
        feed,
    })
}

/// The keys of all rows that are changed; none: they are not known.
fn changed_keys(asked: &Asked<'_>, places: &ParameterPlaces) -> Result<Vec<KeyTuple>, Refusal> {
    let Meaning::Sharded { key, .. } = asked.scope.known(0, 0).meaning else {
        return Ok(Vec::new());
    };
    let mut prover = Prover::new(&asked.scope, places)?;
    let keys = proven_keys(&mut prover, (0, 0), key)?;
    Ok(keys.unwrap_or_default())
}

fn feed(
    asked: &Asked<'_>,
    strangers: &[(usize, usize)],
    keys: Vec<KeyTuple>,
) -> Result<Feed, Refusal> {
    let Meaning::Sharded { distribution, .. } = asked.scope.known(0, 0).meaning else {
        return Err(asked.refusal.clone());
    };
    let describer = describer(asked)?;
    let mut operands = keys.iter().flat_map(|tuple| &tuple.0);
    let are_certain = operands.all(|key| key.typing == Typing::Certain);
    Ok(Feed {
        brings: gather::feed(asked, strangers)?,
        distribution,
        describer,
        keys: (are_certain && !keys.is_empty()).then(|| {
            gather::keys_of(KeySet {
                distribution,
                tuples: keys,
            })
        }),
    })
}

/// Where the statement has relations of such a meaning: block and relation.
fn places_of<'a>(
    asked: &'a Asked<'a>,
    is_meant: impl Fn(Meaning<'a>) -> bool,
) -> Vec<(usize, usize)> {
    let blocks = asked.facts.blocks.iter().enumerate();
    let all = blocks
        .flat_map(|(block, content)| (0..content.relations.len()).map(move |place| (block, place)));
    all.filter(|(block, place)| is_meant(asked.scope.known(*block, *place).meaning))
        .collect()
}

/// The shard of the single tables, which has to have all others, too: it alone can say what the statement takes and gives.
fn describer(asked: &Asked<'_>) -> Result<Option<ShardId>, Refusal> {
    let meanings = || {
        let places = places_of(asked, |_| true).into_iter();
        places.map(|(block, place)| asked.scope.known(block, place).meaning)
    };
    let mut singles = meanings().filter_map(|meaning| match meaning {
        Meaning::Single(shard) => Some(shard),
        _ => None,
    });
    let Some(shard) = singles.next() else {
        return Ok(None);
    };
    let apart = |why: &str| {
        let shard = &asked.catalog.shards[shard.index()];
        let message = format!("the statement reads a table of shard {shard} alone, {why}");
        Err(Refusal::new(Reason::SingleTablesApart, message))
    };
    if singles.any(|other| other != shard) {
        return apart("and one of another shard alone");
    }
    let has_it = |meaning: Meaning<'_>| match meaning {
        Meaning::Sharded { distribution, .. } => {
            asked.catalog.shards_of(&[distribution]).contains(&shard)
        }
        _ => true,
    };
    match meanings().all(has_it) {
        true => Ok(Some(shard)),
        false => apart("and a sharded table that has no rows there"),
    }
}

/// Of the table that is changed.
fn chosen_rows(asked: &Asked<'_>) -> Option<OwnRows> {
    let key = OwnKey::of(&asked.scope, 0, 0)?;
    let place = match places::chosen(asked.text, asked.statement.range.clone())? {
        Chosen::Where(condition) => Place::Where(condition),
        Chosen::All(end) => Place::Behind(end),
    };
    Some(OwnRows { key, place })
}

/// INSERT ... SELECT; `None`: it is none into a sharded table.
pub fn insert_select(asked: &Asked<'_>) -> Option<Result<Write, Refusal>> {
    let [insert] = &asked.facts.inserts[..] else {
        return None;
    };
    let InsertSource::Select(block) = insert.source else {
        return None;
    };
    let known = asked.known(&insert.table);
    let Meaning::Sharded { key, .. } = known.meaning else {
        return None;
    };
    let is_about_shards = asked.refusal.is_of_several_shards()
        || [Reason::InsertKeyNotKnown, Reason::JoinNotColocated]
            .iter()
            .any(|reason| reason.kind().id == asked.refusal.id);
    if asked.verbatim() != Verbatim::Insert || !is_about_shards {
        return Some(Err(asked.refusal.clone()));
    }
    let places = parameter_places(asked);
    let inserted = Inserted {
        insert,
        target: known,
        key,
        scope: &asked.scope,
        places: &places,
    };
    Some(stays(asked, &inserted, block).map(|source| Write {
        own: block.and_then(|block| read_rows(asked, block, source)),
        feed: None,
    }))
}

/// Of the relation whose rows the inserted ones are made from.
fn read_rows(asked: &Asked<'_>, block: usize, source: usize) -> Option<OwnRows> {
    let query = places::inserted_query(asked.text, asked.statement.range.clone())?;
    let select = select::read(asked.text, query)?;
    OwnRows::of_select(&select, &asked.scope, block, source)
}

/// The relation of the query whose key each row that is inserted has. `block` is that of the query.
fn stays<'a>(
    asked: &'a Asked<'a>,
    inserted: &Inserted<'a>,
    block: Option<usize>,
) -> Result<usize, Refusal> {
    asked.others(Others::Sharded)?;
    inserted.leaves_nothing_to_a_sequence()?;
    let apart = || {
        let message = format!(
            "the rows that are inserted into \"{}\" are not proven to have the shard key of the rows they are made from",
            inserted.insert.table.name
        );
        Refusal::new(Reason::InsertSelectNotColocated, message)
    };
    let block = block.filter(|_| is_row_by_row(asked)).ok_or_else(apart)?;
    let content = &asked.facts.blocks[block];
    let mut columns = Vec::with_capacity(inserted.key.len());
    for column in inserted.key {
        let Some(Operand::Column(reference)) = content.output.get(inserted.place(column)?) else {
            return Err(apart());
        };
        let node = asked.scope.resolve(block, reference).ok_or_else(apart)?;
        let stored = inserted.column_type(column)?;
        if !asked
            .scope
            .type_of(node)
            .is_some_and(|read| exact_equality(read, stored))
        {
            return Err(apart());
        }
        columns.push(node);
    }
    let prover = Prover::new(&asked.scope, inserted.places)?;
    let is_source = |relation: usize| {
        is_of_distribution(asked.scope.known(block, relation).meaning, inserted)
            && anchored_in(block, relation, &asked.scope, &prover).is_some_and(|anchor| {
                let pairs = columns.iter().zip(&anchor.key);
                anchor.key.len() == columns.len() && { pairs }
                    .all(|(column, anchor)| prover.equals(*column, *anchor))
            })
    };
    let mut relations = 0..content.relations.len();
    let found = relations.find(|relation| {
        content.relations[*relation].presence == Presence::Always && is_source(*relation)
    });
    found.ok_or_else(apart)
}

fn is_of_distribution(source: Meaning<'_>, inserted: &Inserted<'_>) -> bool {
    match (source, inserted.target.meaning) {
        (
            Meaning::Sharded { distribution, .. },
            Meaning::Sharded {
                distribution: other,
                ..
            },
        ) => distribution == other,
        _ => false,
    }
}

/// Every row of the query is made from one row of its joins.
pub(super) fn is_row_by_row(asked: &Asked<'_>) -> bool {
    const NOT: [&str; 11] = [
        "group",
        "having",
        "distinct",
        "limit",
        "offset",
        "fetch",
        "over",
        "window",
        "union",
        "intersect",
        "except",
    ];
    let kinds = &asked.catalog.functions;
    let mut functions = asked.facts.functions.iter();
    !asked.has_word(&NOT)
        && !functions.any(|function| {
            kinds.may_aggregate(&function.name) || kinds.may_return_sets(&function.name)
        })
}

pub(super) fn parameter_places(asked: &Asked<'_>) -> ParameterPlaces {
    let inserts = asked.facts.inserts.iter();
    let targets: Vec<_> = inserts.map(|insert| asked.known(&insert.table)).collect();
    let text = &asked.text[asked.statement.range.clone()];
    ParameterPlaces::of(text, &asked.scope, &targets)
}
