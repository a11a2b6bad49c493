//! MERGE into a sharded table on several shards: every shard merges its own rows, by the client's own text.
//!
//! It adds up in two cases. Either ON gives the target's rows the key of a row of the source (`colocated.rs`): then a row of the source meets the
//! same rows of the target on its shard as it would among all, also when it meets none. What it inserts must have its own key, too. Or the source is
//! the same on every shard and nothing is done for its rows that meet none: then each shard changes rows of its own, as UPDATE does.

use crate::catalog::quoted_name;
use crate::plan::insert::Inserted;
use crate::plan::proof::Prover;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::scope::{Known, Meaning, Node, Origin};
use crate::plan::words::ParameterPlaces;
use crate::sql::facts::{ColumnRef, Merge, Operand, Presence, Source, Unmatched};
use crate::sql::places::{self, MergeParts, MergeSource};
use crate::sql::select::{self, Distinct, Select, SetOperation};

use super::changes::{Asked, Others, Verbatim};
use super::colocated::{Anchor, anchored_in};
use super::own_rows::{OwnKey, OwnRows, Place};
use super::write::{Write, is_row_by_row, parameter_places};

/// `None`: it is no MERGE into a sharded table.
pub fn merged(asked: &Asked<'_>) -> Option<Result<Write, Refusal>> {
    let merge = asked.facts.merge.as_ref()?;
    let target = asked.known(asked.target()?);
    let Meaning::Sharded { key, .. } = target.meaning else {
        return None;
    };
    let is_about_shards = asked.refusal.is_of_several_shards()
        || [Reason::InsertKeyNotKnown, Reason::JoinNotColocated]
            .iter()
            .any(|reason| reason.kind().id == asked.refusal.id);
    if asked.verbatim() != Verbatim::Merge || !is_about_shards {
        return Some(Err(asked.refusal.clone()));
    }
    let places = parameter_places(asked);
    let merged = Merged {
        asked,
        merge,
        target,
        key,
        places: &places,
    };
    Some(merged.on_each_shard().map(|own| Write { own, feed: None }))
}

struct Merged<'a> {
    asked: &'a Asked<'a>,
    merge: &'a Merge,
    target: Known<'a>,
    key: &'a [Box<str>],
    places: &'a ParameterPlaces,
}

fn apart(message: &str) -> Refusal {
    Refusal::new(Reason::Merge, format!("MERGE on several shards: {message}"))
}

impl<'a> Merged<'a> {
    /// Which rows a shard leaves out while some move; `None` in it: that cannot be said in the text.
    fn on_each_shard(&self) -> Result<Option<OwnRows>, Refusal> {
        let asked = self.asked;
        if asked.has_word(&["returning"]) {
            return Err(apart("it has RETURNING"));
        }
        match self.merge.unmatched {
            Unmatched::Nothing | Unmatched::Source => {}
            Unmatched::Target | Unmatched::Both => {
                return Err(apart("it has WHEN NOT MATCHED BY SOURCE"));
            }
        }
        let parts = places::merge_parts(asked.text, asked.statement.range.clone());
        let sources = self.sharded_sources();
        if sources.is_empty() {
            if self.merge.unmatched == Unmatched::Source {
                let is_not_known = Reason::InsertKeyNotKnown.kind().id == asked.refusal.id;
                return Err(if is_not_known {
                    asked.refusal.clone()
                } else {
                    apart(
                        "every shard would do what it does for rows that match none of its own, and the source has no table that is sharded like the target",
                    )
                });
            }
            asked.others(Others::SharedAlike)?;
            return Ok(parts.and_then(|parts| self.own_matched(parts)));
        }
        asked.others(Others::Sharded)?;
        let prover = Prover::new(&asked.scope, self.places)?;
        let read = parts.as_ref().and_then(|parts| self.query(parts));
        let found = sources.into_iter().find_map(|(block, relation)| {
            let anchor = anchored_in(block, relation, &asked.scope, &prover)?;
            let stays = block == 0 && !self.keeps_some()
                || is_row_by_row(asked)
                || read
                    .as_ref()
                    .is_some_and(|select| self.groups_by_key(select, block, &anchor, &prover));
            stays.then_some((block, relation, anchor))
        });
        let Some((block, relation, anchor)) = found else {
            return Err(apart(
                "ON does not join every key column of the target with the key of the source's rows",
            ));
        };
        self.inserts_keep(&anchor, &prover)?;
        Ok(match self.merge.unmatched {
            Unmatched::Nothing => parts.and_then(|parts| self.own_matched(parts)),
            _ if block == 0 => parts.and_then(|parts| self.own_source(parts, relation)),
            _ => read.and_then(|select| OwnRows::of_select(&select, &asked.scope, block, relation)),
        })
    }

    /// Whether a subquery may keep other rows of equal ones on each shard.
    fn keeps_some(&self) -> bool {
        const DISTINGUISHING: [&str; 6] =
            ["distinct", "group", "over", "union", "intersect", "except"];
        self.asked.facts.blocks.len() > 1 && self.asked.has_word(&DISTINGUISHING)
    }

    /// Sharded tables that are in each row of the source, by block and relation.
    fn sharded_sources(&self) -> Vec<(usize, usize)> {
        let scope = &self.asked.scope;
        let derived = self.merge.derived.as_ref().map(|derived| derived.block);
        let blocks = [Some(0), derived];
        let relations = blocks.into_iter().flatten().flat_map(|block| {
            let count = scope.facts.blocks[block].relations.len();
            // The first of the outermost is the target.
            (usize::from(block == 0)..count).map(move |relation| (block, relation))
        });
        relations
            .filter(|(block, relation)| {
                let is_sharded = matches!(
                    scope.known(*block, *relation).meaning,
                    Meaning::Sharded { .. }
                );
                let presence = scope.facts.blocks[*block].relations[*relation].presence;
                is_sharded && presence == Presence::Always
            })
            .collect()
    }

    /// The query that is the source.
    fn query(&self, parts: &MergeParts) -> Option<Select<'a>> {
        match &parts.source {
            MergeSource::Query(query) => select::read(self.asked.text, query.clone()),
            MergeSource::Table { .. } | MergeSource::Other => None,
        }
    }

    /// Each row of the source is made from rows of one key.
    fn groups_by_key(
        &self,
        select: &Select<'_>,
        block: usize,
        anchor: &Anchor<'a>,
        prover: &Prover<'a>,
    ) -> bool {
        const NOT: [&str; 12] = [
            "distinct",
            "limit",
            "offset",
            "fetch",
            "over",
            "window",
            "union",
            "intersect",
            "except",
            "rollup",
            "cube",
            "sets",
        ];
        let scope = &self.asked.scope;
        let kinds = &self.asked.catalog.functions;
        let mut functions = self.asked.facts.functions.iter();
        let is_plain = select.distinct == Distinct::All
            && select.set_operation == SetOperation::None
            && !self.asked.has_word(&NOT)
            && !functions.any(|function| kinds.may_return_sets(&function.name));
        let columns: Vec<ColumnRef> = select
            .group_by
            .iter()
            .filter_map(|expression| select.column(expression))
            .map(|(qualifier, column)| ColumnRef { qualifier, column })
            .collect();
        let is_key = |column: &ColumnRef, key: Node<'a>| {
            let node = scope.resolve(block, column);
            node.is_some_and(|node| scope.is_in_each_row(node) && equals(prover, node, key))
        };
        is_plain
            && anchor
                .key
                .iter()
                .all(|key| columns.iter().any(|column| is_key(column, *key)))
    }

    /// Every row that is inserted has the key of the row of the source that it is made from.
    fn inserts_keep(&self, anchor: &Anchor<'a>, prover: &Prover<'a>) -> Result<(), Refusal> {
        for insert in &self.merge.inserts {
            let inserted = Inserted {
                insert,
                target: self.target,
                key: self.key,
                scope: &self.asked.scope,
                places: self.places,
            };
            inserted.leaves_nothing_to_a_sequence()?;
            for (column, anchor) in self.key.iter().zip(&anchor.key) {
                let is_kept = match inserted.given(column)? {
                    Operand::Column(reference) => match self.asked.scope.origin(0, reference) {
                        Some(Origin::Column(node)) => {
                            inserted.is_from_source(node)
                                && inserted.stores_exactly(node, column)
                                && prover.equals(node, *anchor)
                        }
                        Some(Origin::Value(_)) | None => false,
                    },
                    _ => false,
                };
                if !is_kept {
                    return Err(apart(&format!(
                        "it inserts something else than the key of the source's row into key column \"{column}\""
                    )));
                }
            }
        }
        Ok(())
    }

    /// The target's own rows, where only such matter that meet a row of the source.
    fn own_matched(&self, parts: MergeParts) -> Option<OwnRows> {
        Some(OwnRows {
            key: OwnKey::of(&self.asked.scope, 0, 0)?,
            place: Place::Where(parts.condition),
        })
    }

    /// Those of a table that is the source.
    fn own_source(&self, parts: MergeParts, relation: usize) -> Option<OwnRows> {
        let scope = &self.asked.scope;
        let relations = &scope.facts.blocks[0].relations;
        let MergeSource::Table { name, alias } = parts.source else {
            return None;
        };
        let (Source::Table(table), 2) = (&relations[relation].source, relations.len()) else {
            return None;
        };
        let Meaning::Sharded { distribution, key } = scope.known(0, relation).meaning else {
            return None;
        };
        Some(OwnRows {
            key: OwnKey::named(distribution, &table.name, key),
            place: Place::Source {
                name,
                alias: alias.is_none().then(|| quoted_name(&table.name).into()),
            },
        })
    }
}

/// For a column that does not live as long as the statement.
fn equals<'b>(prover: &Prover<'b>, node: Node<'b>, anchor: Node<'b>) -> bool {
    prover.equals(node, anchor)
}
