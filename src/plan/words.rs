//! What can be told from a statement's words alone: whether it can concern a table at all, and where its parameters stand.

use std::collections::{HashMap, HashSet};

use crate::catalog::{Catalog, Placement, Relation};
use crate::sharding::{KeyType, ShardId};
use crate::sql::facts::{Cast, Conjunct, Insert, InsertSource, Operand, Source};
use crate::sql::{self};

use super::functions::{is_bound_to_home, is_opaque};
use super::scope::{Known, Scope};
use super::{Arity, Typing};

/// What a statement that cannot be read may concern, by the names in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// A sharded, reference or refused table, a view of such, or a function that may read any.
    Shards,
    /// Only single tables, all on this shard, and nothing that belongs to another.
    One(ShardId),
    /// What belongs to different shards.
    Several,
    /// No known name.
    None,
}

impl Concern {
    /// `words` are all identifiers of the statement, folded.
    pub fn of_words(words: &[Box<str>], catalog: &Catalog) -> Concern {
        if words.iter().any(|word| is_opaque(word, catalog)) {
            return Concern::Shards;
        }
        let words: HashSet<&str> = words.iter().map(|word| &**word).collect();
        let mut concern = Concern::None;
        for (_, relation) in catalog
            .relations
            .iter()
            .filter(|((_, name), _)| words.contains(&**name))
        {
            concern = match (relation, concern) {
                (Relation::System, _) => concern,
                (
                    Relation::Table {
                        placement: Placement::Single(shard),
                        ..
                    },
                    Concern::None,
                ) => Concern::One(*shard),
                (
                    Relation::Table {
                        placement: Placement::Single(shard),
                        ..
                    },
                    Concern::One(other),
                ) if *shard == other => concern,
                (
                    Relation::Table {
                        placement: Placement::Single(_),
                        ..
                    },
                    _,
                ) => Concern::Several,
                (Relation::Table { .. } | Relation::ShardedView | Relation::Refused(_), _) => {
                    return Concern::Shards;
                }
            };
        }
        match concern {
            Concern::One(shard)
                if shard != catalog.home && words.iter().any(|word| is_bound_to_home(word)) =>
            {
                Concern::Several
            }
            concern => concern,
        }
    }

    /// The same for a statement whose identifiers nobody listed.
    pub fn of_text(text: &str, catalog: &Catalog) -> Concern {
        // A text whose names cannot be told may name anything.
        sql::words(text).map_or(Concern::Shards, |words| Concern::of_words(&words, catalog))
    }
}

/// Where the parameters of a statement stand. Postgres takes an undeclared parameter's type from the first place it reads; only when all
/// places would give it the same type is that type certain.
pub struct ParameterPlaces {
    /// Every `$n` in the text, wherever it stands.
    written: HashMap<u16, usize>,
    /// Those that are compared with, inserted into or cast to a known type.
    typed: HashMap<(u16, KeyType, Arity), usize>,
}

impl ParameterPlaces {
    pub fn of(text: &str, scope: &Scope<'_>, targets: &[Known<'_>]) -> ParameterPlaces {
        let mut places = ParameterPlaces {
            written: written(text),
            typed: HashMap::new(),
        };
        if places.written.is_empty() {
            return places;
        }
        for (block, content) in scope.facts.blocks.iter().enumerate() {
            for conjunct in &content.conjuncts {
                let (column, operands, arity) = match conjunct {
                    Conjunct::Equal(column, operand) => {
                        (column, std::slice::from_ref(operand), Arity::One)
                    }
                    Conjunct::AnyOf(column, operand) => {
                        (column, std::slice::from_ref(operand), Arity::Array)
                    }
                    Conjunct::In(column, operands) => (column, &operands[..], Arity::One),
                    Conjunct::Same(..) | Conjunct::Using { .. } => continue,
                };
                let column_type = scope
                    .resolve(block, column)
                    .and_then(|node| scope.type_of(node));
                operands
                    .iter()
                    .for_each(|operand| places.add(operand, column_type, arity));
            }
        }
        if scope.facts.inserts.is_empty() && !scope.facts.assignments.is_empty() {
            places.assigned(scope);
        }
        for (insert, target) in scope.facts.inserts.iter().zip(targets) {
            places.inserted(insert, target, scope.catalog);
        }
        for insert in scope.facts.merge.iter().flat_map(|merge| &merge.inserts) {
            places.inserted(insert, &scope.known(0, 0), scope.catalog);
        }
        places
    }

    /// What INSERT ... VALUES, or an action of MERGE, gives the columns of its target.
    fn inserted(&mut self, insert: &Insert, target: &Known<'_>, catalog: &Catalog) {
        let InsertSource::Values(rows) = &insert.source else {
            return;
        };
        let column_type = |place: usize| match &insert.columns {
            Some(columns) => target.type_of(columns.get(place)?, catalog),
            None => target.type_of(&target.columns?.get(place)?.name, catalog),
        };
        let types: Vec<_> = (0..rows.first().map_or(0, Vec::len))
            .map(column_type)
            .collect();
        for (operand, column_type) in rows.iter().flat_map(|row| row.iter().zip(&types)) {
            self.add(operand, *column_type, Arity::One);
        }
    }

    /// What UPDATE, or the one such action of MERGE, gives columns of its target, the outermost block's first relation.
    fn assigned(&mut self, scope: &Scope<'_>) {
        let [assignment] = &scope.facts.assignments[..] else {
            return;
        };
        let block = scope.facts.blocks.first();
        let target = block.and_then(|block| block.relations.first());
        if !target.is_some_and(
            |target| matches!(&target.source, Source::Table(name) if *name == assignment.table),
        ) {
            return;
        }
        let target = scope.known(0, 0);
        for (column, value) in assignment.columns.iter().zip(&assignment.values) {
            self.add(value, target.type_of(column, scope.catalog), Arity::One);
        }
    }

    fn add(&mut self, operand: &Operand, column_type: Option<KeyType>, arity: Arity) {
        if let Operand::Param { number, cast } = operand
            && let Some(given) = given_type(cast.as_ref(), column_type, arity)
        {
            *self.typed.entry((*number, given, arity)).or_default() += 1;
        }
    }

    /// Whether `$number`, undeclared, has the type that one of its places gives it.
    pub fn typing(
        &self,
        number: u16,
        cast: Option<&Cast>,
        column_type: KeyType,
        arity: Arity,
    ) -> Typing {
        let typed = given_type(cast, Some(column_type), arity)
            .and_then(|given| self.typed.get(&(number, given, arity)));
        // One place is this one, whether or not it was counted.
        let typed = typed.copied().unwrap_or(1);
        if self.written.get(&number).copied().unwrap_or(0) <= typed {
            Typing::Certain
        } else {
            Typing::Doubtful
        }
    }
}

/// The type that a place gives to an undeclared parameter. Postgres compares varchar as text.
fn given_type(cast: Option<&Cast>, column_type: Option<KeyType>, arity: Arity) -> Option<KeyType> {
    let given = match cast {
        Some(cast) => super::proof::cast_type(cast, arity)?,
        None => column_type?,
    };
    Some(if given == KeyType::VarChar {
        KeyType::Text
    } else {
        given
    })
}

/// Counts every `$n`, also those in strings and comments: too many only makes a type doubtful.
fn written(text: &str) -> HashMap<u16, usize> {
    let mut written = HashMap::new();
    for piece in text.split('$').skip(1) {
        let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if let Ok(number) = piece[..digits].parse::<u16>() {
            *written.entry(number).or_default() += 1;
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_counted_wherever_they_stand() {
        assert_eq!(
            written("$1 + $12 = $1 '$2' $x$ $"),
            HashMap::from([(1, 2), (12, 1), (2, 1)])
        );
    }
}
