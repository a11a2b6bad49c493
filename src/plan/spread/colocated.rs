//! Why every row of a SELECT's joins depends on rows of one key only, all on one shard.
//!
//! One sharded relation of the outermost block that is in each row of its joins is the *anchor*. Suppose that its key is some x: when every
//! other sharded relation, in whatever block, is then proven to have the key x in all rows that matter (`proof.rs`), the rows of the joins
//! with x are found on the shard of x, and all rows are those of all shards together.
//!
//! What has no key must be the same wherever it runs: reference tables are, and subqueries over them as long as nothing in them is left to
//! chance (LIMIT, the order of an aggregate, a volatile function). What differs from server to server is not scattered.

use crate::catalog::{DistributionId, SchemaState};
use crate::plan::data::stores_only;
use crate::plan::functions::Functions;
use crate::plan::proof::Prover;
use crate::plan::scope::{Meaning, Node, Scope};
use crate::sql::facts::{Access, Presence};
use crate::sql::lexer::Kind;
use crate::sql::select::{Select, Span};

/// The relation whose key all others share.
pub struct Anchor<'a> {
    /// Its key columns.
    pub key: Vec<Node<'a>>,
}

/// Columns that tell where a row is stored, and types whose values are another server's numbers of things.
const OF_ONE_SERVER: [&str; 18] = [
    "ctid",
    "xmin",
    "xmax",
    "cmin",
    "cmax",
    "tableoid",
    "tablesample",
    "regclass",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regtype",
    "regrole",
    "regnamespace",
    "regcollation",
    "regconfig",
    "regdictionary",
];

/// Functions that tell what differs from server to server, beside those that begin with `pg_`, `txid_` or `inet_`.
const ABOUT_A_SERVER: [&str; 8] = [
    "version",
    "current_database",
    "current_catalog",
    "current_schema",
    "current_schemas",
    "current_setting",
    "to_regclass",
    "timeofday",
];

const PLAIN_DESPITE_THEIR_NAME: [&str; 4] =
    ["pg_typeof", "pg_column_size", "pg_sleep", "pg_size_pretty"];

/// Aggregates whose result does not depend on the order of rows.
pub(super) const ORDERLESS: [&str; 12] = [
    "count", "sum", "min", "max", "avg", "bool_and", "bool_or", "every", "bit_and", "bit_or",
    "bit_xor", "grouping",
];

/// The anchor, when all of the statement hangs on it.
pub fn anchor<'a>(
    select: &Select<'_>,
    scope: &'a Scope<'a>,
    prover: &Prover<'a>,
) -> Option<Anchor<'a>> {
    reads_only(scope)?;
    is_the_same_everywhere(select, scope)?;
    let relations = scope.facts.blocks.first()?.relations.iter().enumerate();
    relations
        .filter(|(_, relation)| relation.presence == Presence::Always)
        .find_map(|(relation, _)| anchored(relation, scope, prover))
}

/// Only reads, of sharded and reference tables, and calls of nothing that belongs to a place.
fn reads_only(scope: &Scope<'_>) -> Option<()> {
    let facts = scope.facts;
    let functions = Functions::of(facts, scope.catalog);
    if !facts.inserts.is_empty()
        || !facts.assignments.is_empty()
        || !facts.doubts.is_empty()
        || !facts.leaves.is_empty()
        || functions.opaque.is_some()
        || functions.sequence.is_some()
        || functions.home.is_some()
    {
        return None;
    }
    for (block, content) in facts.blocks.iter().enumerate() {
        for (relation, content) in content.relations.iter().enumerate() {
            let is_shared = match scope.known(block, relation).meaning {
                Meaning::Sharded { .. } | Meaning::NotATable => true,
                // It would be locked on one of its copies only, or on all.
                Meaning::Reference => !facts.locking,
                _ => false,
            };
            if content.access != Access::Read || !is_shared {
                return None;
            }
        }
    }
    Some(())
}

/// Nothing in it differs from server to server, or from one run to the next where Postgres runs it once.
fn is_the_same_everywhere(select: &Select<'_>, scope: &Scope<'_>) -> Option<()> {
    let kinds = &scope.catalog.functions;
    for function in &scope.facts.functions {
        let name = &*function.name;
        let of_a_server = ["pg_", "txid_", "inet_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && !PLAIN_DESPITE_THEIR_NAME.contains(&name);
        if of_a_server
            || ABOUT_A_SERVER.contains(&name)
            || kinds.may_be_volatile(name) && scope.facts.blocks.len() > 1
        {
            return None;
        }
        // Any name may be an aggregate's or a volatile function's.
        if scope.catalog.schema == SchemaState::Unread && !kinds.may_aggregate(name) {
            return None;
        }
    }
    let whole = select.whole();
    let of_one_server = |word: &str| OF_ONE_SERVER.contains(&word);
    if whole
        .clone()
        .any(|at| select.name(at).is_some_and(|word| of_one_server(&word)))
    {
        return None;
    }
    let without_key = scope.facts.blocks.iter().enumerate().skip(1);
    let mut without_key = without_key.filter(|(block, content)| {
        let sharded = (0..content.relations.len()).any(|relation| {
            matches!(
                scope.known(*block, relation).meaning,
                Meaning::Sharded { .. }
            )
        });
        !sharded && !content.relations.is_empty()
    });
    if without_key.next().is_some() && leaves_to_chance(select, &whole, scope) {
        return None;
    }
    Some(())
}

/// Whether a subquery may choose among rows, or go by their order.
fn leaves_to_chance(select: &Select<'_>, whole: &Span, scope: &Scope<'_>) -> bool {
    let mut at = whole.start;
    while at < whole.end {
        if select.kind(at) != Some(Kind::OpenParen) || !select.is_query(at + 1) {
            at += 1;
            continue;
        }
        let close = select.close(at);
        for inside in at + 1..close {
            let chooses = ["limit", "offset", "fetch", "over"]
                .iter()
                .any(|word| select.is(inside, word))
                || select.is(inside, "on") && select.is(inside - 1, "distinct");
            let orders = select.kind(inside + 1) == Some(Kind::OpenParen)
                && select.name(inside).is_some_and(|name| {
                    scope.catalog.functions.may_aggregate(&name) && !ORDERLESS.contains(&&*name)
                });
            if chooses || orders {
                return true;
            }
        }
        at = close + 1;
    }
    false
}

/// Whether all other sharded relations, but those that INSERT only stores into, have the key of this one of the outermost block.
fn anchored<'a>(relation: usize, scope: &'a Scope<'a>, prover: &Prover<'a>) -> Option<Anchor<'a>> {
    anchored_in(0, relation, scope, prover)
}

/// Likewise, of a relation of any block.
pub(super) fn anchored_in<'a>(
    block: usize,
    relation: usize,
    scope: &'a Scope<'a>,
    prover: &Prover<'a>,
) -> Option<Anchor<'a>> {
    let (anchor, strangers) = strangers(block, relation, scope, prover)?;
    strangers.is_empty().then_some(anchor)
}

/// A sharded relation, with the places (block and relation) of those that are not proven to have its key.
pub(super) fn strangers<'a>(
    block: usize,
    relation: usize,
    scope: &'a Scope<'a>,
    prover: &Prover<'a>,
) -> Option<(Anchor<'a>, Vec<(usize, usize)>)> {
    let (distribution, columns) = sharded(scope, block, relation)?;
    let key = nodes(block, relation, columns);
    let mut strangers = Vec::new();
    for (block, content) in scope.facts.blocks.iter().enumerate() {
        for other in 0..content.relations.len() {
            let Some((theirs, columns)) = sharded(scope, block, other) else {
                continue;
            };
            if stores_only(scope.facts, &content.relations[other]) {
                continue;
            }
            let has_key = || {
                nodes(block, other, columns)
                    .iter()
                    .zip(&key)
                    .all(|(column, anchor)| prover.equals(*column, *anchor))
            };
            if theirs != distribution || !has_key() {
                strangers.push((block, other));
            }
        }
    }
    Some((Anchor { key }, strangers))
}

fn sharded<'a>(
    scope: &Scope<'a>,
    block: usize,
    relation: usize,
) -> Option<(DistributionId, &'a [Box<str>])> {
    match scope.known(block, relation).meaning {
        Meaning::Sharded { distribution, key } => Some((distribution, key)),
        _ => None,
    }
}

fn nodes(block: usize, relation: usize, columns: &[Box<str>]) -> Vec<Node<'_>> {
    columns
        .iter()
        .map(|column| Node::Column {
            block,
            relation,
            column,
        })
        .collect()
}
