//! Sources of an UPDATE or DELETE whose rows are not where the changed rows are: they are brought to every shard, which then does the statement by itself.
//!
//! No temporary table is made: a transaction that has used one could not be prepared to commit with others. The rows of a table are one parameter, an array
//! of its row type, and a WITH query of the table's name gives them: it hides the table wherever the statement reads it, and never where it changes it.
//! A table of one shard has no row type on the others: each of its columns is a parameter, an array of the column's type.
//!
//! Each changed row is on one shard, so what is found for it is found once. A subquery that does not depend on the changed row is run by every shard, so
//! nothing in it may be left to chance or to the order of rows; unless all changed rows have one key, so that one shard's answer counts.

use crate::catalog::Placement;
use crate::plan::refusal::Refusal;
use crate::plan::spread::Edit;
use crate::plan::spread::changes::Asked;
use crate::plan::spread::colocated::ORDERLESS;
use crate::sql::lexer::Kind;

use super::columns::Uses;
use super::conditions::Reading;
use super::piece::Piece;
use super::tables::{Sources, Table, Tables};
use super::{Columns, CopyFormat, End, Fetch, Gather, Gives, InPlace, names, stand_ins};

/// What is brought, and what is replaced in the text, so that tables at these places (block and relation) can be read. What is refused here may be right
/// as it is.
pub fn feed(asked: &Asked<'_>, strangers: &[(usize, usize)]) -> Result<Gather, Refusal> {
    let refused = || asked.refusal.clone();
    let (facts, catalog) = (asked.facts, asked.catalog);
    let tables = Tables::of(facts, &[], catalog, asked.search_path).ok_or_else(refused)?;
    let whole = asked.statement.range.clone();
    let piece = Piece::read(asked.text, whole.clone()).ok_or_else(refused)?;
    if asked.has_word(&["with"]) {
        return Err(refused());
    }
    names::none_asks_for_the_table_itself(&piece, facts, &tables)?;
    let is_brought = |table: &&Table<'_>| {
        !matches!(table.placement, Placement::Reference)
            && table.places.iter().any(|place| strangers.contains(place))
    };
    let is_single = |table: &&Table<'_>| matches!(table.placement, Placement::Single(_));
    let mut singles = tables.tables.iter().filter(is_single);
    if singles.any(|table| is_a_type(&piece, table.name)) {
        return Err(refused());
    }
    let brought: Vec<&Table<'_>> = tables.tables.iter().filter(is_brought).collect();
    let stand_ins = stand_ins(&brought, &[]);
    names::are_clear(facts, &tables, &[], &stand_ins, asked.search_path)?;
    let schemas = names::qualified(&piece, facts, &stand_ins)?.into_iter();
    // The table that is changed is meant itself. Behind UPDATE it is the second word, behind DELETE FROM the third.
    let target = if piece.is_word(Some(1), &["from"]) {
        2
    } else {
        1
    };
    let edits = schemas.filter(|at| *at != target).map(|at| {
        let place = piece.range(at).start..piece.range(at + 2).start;
        Edit::replace(place, "")
    });
    let sources = Sources::new(asked.text, facts, catalog, asked.search_path);
    let reading = Reading {
        piece: &piece,
        facts,
        tables: &tables,
    };
    let uses = Uses::of([(&piece, facts)].into_iter());
    let fetches = brought.iter().map(|table| {
        // A WITH query has no primary key; whether GROUP BY goes by it turns out where it runs. So does whether the columns' types suit an array.
        let needed = uses.needed(table, &[]);
        matches!(needed, Columns::Named { .. }).then(|| Fetch {
            schema: table.schema.into(),
            table: table.name.into(),
            origin: sources.origin(table),
            format: CopyFormat::Binary,
            columns: needed,
            alias: reading.alias(table),
            conditions: reading.conditions(table),
            among: Vec::new(),
            primary_key: Vec::new(),
            index: Vec::new(),
        })
    });
    Ok(Gather {
        shard: catalog.home,
        fetches: fetches.collect::<Option<_>>().ok_or_else(refused)?,
        views: Vec::new(),
        whole,
        edits: edits.collect(),
        gives: Gives::Rows,
        in_place: InPlace::Tables,
        end: End::Commit,
    })
}

/// Whether the text may mean the row type by a table's name. Where the table is not, there is no such type.
fn is_a_type(piece: &Piece<'_>, table: &str) -> bool {
    let makes_a_type =
        |at: Option<usize>| piece.kind(at) == Some(Kind::Typecast) || piece.is_word(at, &["as"]);
    (0..piece.len()).any(|at| {
        let has_schema = at > 0 && piece.kind(Some(at - 1)) == Some(Kind::Dot);
        let before = at.checked_sub(if has_schema { 3 } else { 1 });
        piece.identifier(at) == Some(table) && before.is_some() && makes_a_type(before)
    })
}

/// Whether a subquery may choose among rows, or go by their order, which is another one on each shard. That of LIMIT has been looked at.
pub fn goes_by_order(asked: &Asked<'_>) -> bool {
    let Some(piece) = Piece::read(asked.text, asked.statement.range.clone()) else {
        return true;
    };
    let kinds = &asked.catalog.functions;
    let mut functions = asked.facts.functions.iter();
    asked.has_word(&["over", "window"])
        || functions.any(|function| {
            kinds.may_aggregate(&function.name) && !ORDERLESS.contains(&&*function.name)
        })
        || (0..piece.len()).any(|at| {
            // ARRAY(SELECT ..) is none of the functions.
            piece.is_word(Some(at), &["array"]) && piece.kind(Some(at + 1)) == Some(Kind::OpenParen)
                || piece.is_word(Some(at), &["distinct"]) && piece.is_word(Some(at + 1), &["on"])
        })
}
