//! Gather: the statement's own text runs on one Postgres, over temporary tables of the same names that hold the rows of the tables it reads.
//!
//! A temporary table hides the permanent one of its name, so the text needs no change but for names with a schema, and every meaning stays
//! Postgres's own: collations, numerics, windows, outer joins. What could tell the temporary table from the real one is refused.
//!
//! `tables.rs` finds what is fetched and from where, `columns.rs` which columns, `conditions.rs` which rows; `names.rs` sees to it that every name means
//! the temporary table; `views.rs` makes views over temporary tables; `texts.rs` writes what is sent beside the client's text. `columns.rs` and
//! `conditions.rs` only make the transfer smaller.

mod columns;
mod conditions;
mod feed;
mod names;
mod piece;
mod tables;
mod texts;
mod views;

use std::ops::Range;

use crate::catalog::{Catalog, SearchPath};
use crate::plan::functions::{Functions, home_only};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::{KeySet, Target, Verb};
use crate::sharding::ShardId;
use crate::sql::class::{Class, Copy, CopyDirection, CopySource};
use crate::sql::facts::{Access, Doubt, Facts};
use crate::sql::normalise::Literal;
use crate::sql::{Body, Statement};

use super::edit::{self, Edit};
pub use columns::travels_in_binary;
pub use feed::{feed, goes_by_order};
use names::StandIn;
pub(super) use piece::Piece;
use tables::{Table, Tables};
pub use texts::{Choice, is_unsteady, quoted};
use views::Seen;

/// A query that one shard does over rows of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    /// Where it runs.
    pub shard: ShardId,
    /// Each table once: first those of which few rows may travel, in the order in which the statement names them.
    pub fetches: Vec<Fetch>,
    /// Views that are made anew once the tables are there, in this order.
    pub views: Vec<View>,
    /// The statement's bytes in the text, and what is replaced in them where it runs.
    pub whole: Range<usize>,
    pub edits: Vec<Edit>,
    pub gives: Gives,
    pub in_place: InPlace,
    pub end: End,
}

/// A table whose rows are brought to the gathering shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    pub schema: Box<str>,
    pub table: Box<str>,
    pub origin: Origin,
    pub columns: Columns,
    /// Byte ranges of conditions in the statement, all of which every row that matters satisfies.
    pub conditions: Vec<Range<usize>>,
    /// Columns whose values are among those of tables that are fetched before.
    pub among: Vec<Among>,
    /// The name that the conditions call the table by.
    pub alias: Box<str>,
    /// The columns of the primary key that the temporary table needs; mostly none.
    pub primary_key: Vec<Box<str>>,
    /// Those of an index, by which subqueries may look rows up again and again: of a primary key all of whose columns travel anyway.
    pub index: Vec<Box<str>>,
    pub format: CopyFormat,
}

/// A column that is equal to one of a table that is fetched before, in every row that matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Among {
    pub column: Box<str>,
    /// The other's place among the fetches, and its column.
    pub of: usize,
    pub key: Box<str>,
    /// The type of arrays that hold values of both.
    pub array: &'static str,
}

/// A view over the temporary tables.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub schema: Box<str>,
    pub name: Box<str>,
    pub create: Box<str>,
}

/// The shards that have the rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    Every,
    One(ShardId),
    /// Those of these keys, always a `Target::Keys`. When its values cannot be read, every shard.
    Keys(Target),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Columns {
    /// All, and their names are not known.
    Unknown,
    /// These of all those that the table has, at least one.
    Named {
        needed: Vec<Box<str>>,
        all: Vec<Box<str>>,
    },
}

/// How rows travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Binary,
    /// For types whose binary form has numbers that differ between servers.
    Text,
}

/// Whether the statement also reads tables where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    Nothing,
    Tables,
}

/// How the transaction ends that was begun for the statement alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing that outlives it was done.
    Rollback,
    /// A function may have done something.
    Commit,
}

/// Functions that change nothing, whatever their arguments; of others this is not asked.
const WITHOUT_EFFECT: [&str; 67] = [
    "abs",
    "age",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bool_and",
    "bool_or",
    "btrim",
    "ceil",
    "ceiling",
    "char_length",
    "coalesce",
    "concat",
    "corr",
    "count",
    "cume_dist",
    "current_date",
    "current_timestamp",
    "current_user",
    "date_part",
    "date_trunc",
    "dense_rank",
    "every",
    "exists",
    "first_value",
    "floor",
    "generate_series",
    "greatest",
    "grouping",
    "json_agg",
    "jsonb_agg",
    "lag",
    "last_value",
    "lead",
    "least",
    "left",
    "length",
    "lower",
    "max",
    "min",
    "mode",
    "now",
    "nth_value",
    "ntile",
    "nullif",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "random",
    "rank",
    "regr_slope",
    "replace",
    "right",
    "round",
    "row_number",
    "row_to_json",
    "split_part",
    "stddev",
    "string_agg",
    "substr",
    "substring",
    "sum",
    "to_char",
    "unnest",
    "upper",
    "variance",
];

/// What the text that runs over the rows gives the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    Rows,
    /// The data of a COPY.
    Copy,
}

/// A query in a text, which the statement around it hands on.
pub struct Query<'a> {
    pub text: &'a str,
    /// The statement's bytes, and those of the query in it.
    pub whole: Range<usize>,
    pub query: Range<usize>,
    pub facts: &'a Facts,
    pub needs: Needs,
}

/// Whether there is a reason to gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only that rows are elsewhere.
    Rows,
    /// Another than that.
    Anyway,
}

/// How the statement is gathered. `refusal` is why it is not done on one shard, and is given back when this does not help.
pub fn gather(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: Refusal,
) -> Result<Gather, Refusal> {
    let (None, Body::Facts(facts)) = (&statement.hint, &statement.body) else {
        return Err(refusal);
    };
    let (gives, query_range) = match &statement.class {
        Class::Data => (Gives::Rows, statement.range.clone()),
        Class::Copy(Copy {
            direction: CopyDirection::ToClient,
            source: CopySource::Query(query),
        }) => (Gives::Copy, query.clone()),
        _ => return Err(refusal),
    };
    if !only_reads(facts) {
        return Err(refusal);
    }
    let asked = Query {
        text,
        whole: statement.range.clone(),
        query: query_range,
        facts,
        needs: Needs::Rows,
    };
    let gather = query(asked, catalog, search_path, refusal)?;
    Ok(Gather { gives, ..gather })
}

/// How a query is gathered that only reads, whatever is done with its rows.
pub fn query(
    asked: Query<'_>,
    catalog: &Catalog,
    search_path: &SearchPath,
    refusal: Refusal,
) -> Result<Gather, Refusal> {
    let Query {
        text,
        whole,
        query,
        facts,
        needs,
    } = asked;
    if goes_too_far(&refusal) {
        return Err(refusal);
    }
    let views = views::seen(facts, catalog, search_path)?;
    let Some(tables) = Tables::of(facts, &views, catalog, search_path) else {
        return Err(refusal);
    };
    let functions = Functions::of(facts, catalog);
    if let Some(function) = functions.opaque {
        let message = format!("function {function} may use sharded tables");
        return Err(Refusal::new(Reason::OpaqueFunction, message));
    }
    if let Some(function) = functions.home {
        return Err(home_only(function));
    }
    let shard = match functions.sequence {
        Some(_) => catalog.home,
        None => tables.shard(catalog),
    };
    let Some(piece) = Piece::read(text, query) else {
        return Err(refusal);
    };
    names::none_asks_for_the_table_itself(&piece, facts, &tables)?;
    let fetched = tables.fetched(shard);
    if fetched.is_empty() && needs == Needs::Rows {
        return Err(refusal);
    }
    let stand_ins = stand_ins(&fetched, &views);
    names::are_clear(facts, &tables, &views, &stand_ins, search_path)?;
    let edits = names::edits(&piece, facts, &stand_ins)?;
    let made = views.iter().map(|view| view.made(&tables, &stand_ins));
    let made = made.collect::<Result<_, _>>()?;
    let sources = tables::Sources::new(text, facts, catalog, search_path);
    let reading = conditions::Reading {
        piece: &piece,
        facts,
        tables: &tables,
    };
    let of_views = || views.iter().map(|view| (&view.piece, &*view.facts));
    let by_views = columns::Uses::of(of_views());
    let by_all = columns::Uses::of([(&piece, facts)].into_iter().chain(of_views()));
    let fetch = |table: &Table<'_>| {
        let uses = match table.places[..] {
            [] => &by_views,
            _ => &by_all,
        };
        let primary_key = uses.primary_key(table, catalog);
        let needed = uses.needed(table, primary_key);
        let index = match primary_key {
            [] if facts.blocks.len() > 1 => columns::key_among(table, &needed, catalog),
            _ => &[],
        };
        Fetch {
            schema: table.schema.into(),
            table: table.name.into(),
            origin: sources.origin(table),
            format: columns::format(table, &needed),
            columns: needed,
            alias: reading.alias(table),
            conditions: reading.conditions(table),
            among: Vec::new(),
            primary_key: primary_key.to_vec(),
            index: index.to_vec(),
        }
    };
    let fetches = fetched.iter().map(|table| fetch(table)).collect();
    let fetches = in_order(fetches, &fetched, &reading);
    Ok(Gather {
        shard,
        fetches,
        views: made,
        whole,
        edits,
        gives: Gives::Rows,
        in_place: tables.in_place(shard),
        end: end([facts]
            .into_iter()
            .chain(views.iter().map(|view| &*view.facts))),
    })
}

/// The fetches so that those come first of which few rows may travel: by conditions, by keys, and by columns that are equal to those of tables before them.
fn in_order(
    fetches: Vec<Fetch>,
    tables: &[&Table<'_>],
    reading: &conditions::Reading<'_, '_>,
) -> Vec<Fetch> {
    let is_chosen =
        |fetch: &Fetch| !fetch.conditions.is_empty() || matches!(fetch.origin, Origin::Keys(_));
    // By their places among the tables.
    let mut order: Vec<usize> = Vec::new();
    let mut among: Vec<Vec<Among>> = vec![Vec::new(); fetches.len()];
    let equals: Vec<Vec<conditions::Equal>> = match fetches.iter().any(is_chosen) {
        true => tables
            .iter()
            .map(|table| reading.equals(table, tables))
            .collect(),
        false => vec![Vec::new(); fetches.len()],
    };
    loop {
        let left = || (0..fetches.len()).filter(|place| !order.contains(place));
        let is_next = |place: &usize| {
            let mut equals = equals[*place].iter();
            is_chosen(&fetches[*place]) || equals.any(|equal| order.contains(&equal.of))
        };
        let Some(next) = left()
            .find(|place| is_chosen(&fetches[*place]))
            .or_else(|| left().find(is_next))
        else {
            break;
        };
        among[next] = (equals[next].iter())
            .filter_map(|equal| {
                Some(Among {
                    column: equal.column.clone(),
                    of: order.iter().position(|earlier| *earlier == equal.of)?,
                    key: equal.key.clone(),
                    array: equal.array,
                })
            })
            .collect();
        order.push(next);
    }
    let rest: Vec<usize> = (0..fetches.len())
        .filter(|place| !order.contains(place))
        .collect();
    order.extend(rest);
    let mut fetches: Vec<Option<Fetch>> = fetches.into_iter().map(Some).collect();
    let each = order.into_iter().filter_map(|place| {
        let fetch = fetches[place].take()?;
        Some(Fetch {
            among: std::mem::take(&mut among[place]),
            ..fetch
        })
    });
    each.collect()
}

/// What hides permanent relations while the statement runs.
fn stand_ins<'a>(fetched: &[&Table<'a>], views: &[Seen<'a>]) -> Vec<StandIn<'a>> {
    let tables = fetched.iter().map(|table| StandIn {
        schema: table.schema,
        name: table.name,
    });
    let views = views.iter().map(|view| StandIn {
        schema: &view.name.0,
        name: &view.name.1,
    });
    tables.chain(views).collect()
}

/// Whether the statement writes nothing, locks nothing and leaves nothing behind.
fn only_reads(facts: &Facts) -> bool {
    let mut relations = facts.blocks.iter().flat_map(|block| &block.relations);
    leaves_nothing(facts)
        && facts.inserts.is_empty()
        && relations.all(|relation| relation.access == Access::Read)
}

/// Whether the statement, besides what it writes, locks nothing and leaves nothing behind.
pub fn leaves_nothing(facts: &Facts) -> bool {
    let is_read = |doubt: &Doubt| match doubt {
        Doubt::Natural => true,
        Doubt::Unread(what) => Doubt::NAMES.contains(&&**what),
        Doubt::Merge | Doubt::SelectInto => false,
    };
    !facts.locking
        && facts.leaves.is_empty()
        && facts.doubts.iter().all(is_read)
        // A setting for the rest of the transaction is wanted on all its shards.
        && !facts.functions.iter().any(|function| &*function.name == "set_config")
}

/// Limits stay limits.
fn goes_too_far(refusal: &Refusal) -> bool {
    [Reason::TooComplex, Reason::TooManyKeys]
        .iter()
        .any(|reason| reason.kind().id == refusal.id)
}

fn end<'a>(run: impl Iterator<Item = &'a Facts>) -> End {
    let is_known = |name: &str| WITHOUT_EFFECT.contains(&name);
    let mut functions = run.flat_map(|facts| &facts.functions);
    if functions.all(|function| function.schema.is_none() && is_known(&function.name)) {
        End::Rollback
    } else {
        End::Commit
    }
}

impl Gather {
    /// The client's text as it runs where the rows are gathered. `literals` are those of `text`.
    pub fn text(&self, text: &[u8], literals: &[Literal]) -> Vec<u8> {
        edit::apply(&self.edits, self.whole.clone(), text, literals)
    }

    /// What stands in front of a statement for which the rows are given by these queries, one for each table.
    pub fn given(&self, queries: &[String]) -> String {
        let fetches = self.fetches.iter().zip(queries);
        let given: Vec<String> = fetches.map(|(fetch, query)| fetch.given(query)).collect();
        format!("WITH {} ", given.join(", "))
    }

    /// The tables, what of them is fetched, and the text that runs if it is not the client's: a line each, after a label.
    pub fn describe(&self, text: &str, catalog: &Catalog) -> String {
        let shard = |shard: ShardId| &catalog.shards[shard.index()];
        let mut lines = vec![format!("goes    gathered on shard {}", shard(self.shard))];
        lines.extend(self.describe_fetches(text, catalog));
        for view in &self.views {
            lines.push(format!("view    {}.{}", view.schema, view.name));
        }
        if !self.edits.is_empty() {
            let runs = self.text(text.as_bytes(), &[]);
            lines.push(format!("runs    {}", String::from_utf8_lossy(&runs)));
        }
        lines.join("\n")
    }

    /// The tables and what of them is fetched: a line each, after a label.
    pub fn describe_fetches(&self, text: &str, catalog: &Catalog) -> Vec<String> {
        let shard = |shard: ShardId| &catalog.shards[shard.index()];
        let mut lines = Vec::new();
        for fetch in &self.fetches {
            let columns = match &fetch.columns {
                Columns::Unknown => "all columns".to_owned(),
                Columns::Named { needed, .. } => needed.join(", "),
            };
            let mut line = format!("fetch   {}.{} ({columns})", fetch.schema, fetch.table);
            match &fetch.origin {
                Origin::Every => {}
                Origin::One(from) => line.push_str(&format!(" from {}", shard(*from))),
                Origin::Keys(_) => line.push_str(" from the shards of its keys"),
            }
            let conditions: Vec<&str> = fetch
                .conditions
                .iter()
                .map(|range| &text[range.clone()])
                .collect();
            if !conditions.is_empty() {
                line.push_str(&format!(" where {}", conditions.join(" and ")));
            }
            for among in &fetch.among {
                let of = &self.fetches[among.of];
                line.push_str(&format!(
                    ", {} among {}.{} ({})",
                    among.column, of.schema, of.table, among.key
                ));
            }
            if !fetch.primary_key.is_empty() {
                line.push_str(&format!(", primary key ({})", fetch.primary_key.join(", ")));
            }
            if !fetch.index.is_empty() {
                line.push_str(&format!(", index ({})", fetch.index.join(", ")));
            }
            if fetch.format == CopyFormat::Text {
                line.push_str(", as text");
            }
            lines.push(line);
        }
        lines
    }

    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        let move_range = |range: &mut Range<usize>| *range = to(range.start)..to(range.end);
        move_range(&mut self.whole);
        self.edits
            .iter_mut()
            .for_each(|edit| move_range(&mut edit.range));
        let conditions = self
            .fetches
            .iter_mut()
            .flat_map(|fetch| &mut fetch.conditions);
        conditions.for_each(move_range);
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        /// A box's own, and what an allocator adds.
        const NAME: usize = 48;
        let fetch = |fetch: &Fetch| {
            let columns = match &fetch.columns {
                Columns::Unknown => 0,
                Columns::Named { needed, all } => needed.len() + all.len(),
            };
            let keys = match &fetch.origin {
                Origin::Keys(Target::Keys { sets, .. }) => {
                    sets.iter().map(|set| set.tuples.len() * 128).sum()
                }
                _ => 0,
            };
            size_of::<Fetch>()
                + (columns + fetch.primary_key.len() + fetch.index.len() + 3) * NAME
                + fetch.among.len() * (size_of::<Among>() + 2 * NAME)
                + fetch.conditions.len() * size_of::<Range<usize>>()
                + keys
        };
        let view = |view: &View| size_of::<View>() + view.create.len() + 2 * NAME;
        self.edits.len() * (size_of::<Edit>() + NAME)
            + self.views.iter().map(view).sum::<usize>()
            + self.fetches.iter().map(fetch).sum::<usize>()
    }
}

/// A target for the shards of a table's keys.
pub(super) fn keys_of(set: KeySet) -> Target {
    Target::Keys {
        sets: vec![set],
        also: None,
        verb: Verb::Select,
    }
}

#[cfg(test)]
mod tests;
