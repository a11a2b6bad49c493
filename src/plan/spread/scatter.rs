//! Scatter: SELECTs whose shards' answers add up to the whole, and what adding them up takes.
//!
//! Every shard runs the client's own text with edits: columns that the merge compares are appended to the select list (*hidden* columns,
//! asked for in binary), and LIMIT is widened to what the first rows of the whole may need of one shard.

use std::mem::size_of;
use std::ops::Range;

use crate::catalog::{Catalog, DistributionId, SearchPath};
use crate::plan::bind::Values;
use crate::plan::proof::Prover;
use crate::plan::scope::{Meaning, Node, Scope};
use crate::plan::words::ParameterPlaces;
use crate::sql::class::Class;
use crate::sql::facts::Operand;
use crate::sql::lexer::Kind;
use crate::sql::select::{self, SetOperation};
use crate::sql::{self, Body, Statement};

use super::Edit;
use super::colocated;
use super::gather::Piece;
use super::outermost::Outermost;
use super::own_rows::OwnRows;

pub use super::counts::{CountError, CountOperand, Counts};
pub use crate::sql::select::{Direction, Nulls};

/// Queries of a UNION ALL that are looked at.
const MOST_PARTS: usize = 64;

/// A SELECT on several shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// From the client's text to the shards'.
    pub edits: Vec<Edit>,
    /// Which rows a shard leaves out while some move; `None`: that cannot be said in the text.
    pub own: Option<OwnRows>,
    pub merge: Merge,
    pub hidden: Hidden,
    /// `None`: no LIMIT, or none that limits.
    pub limit: Option<CountOperand>,
    pub offset: Option<CountOperand>,
    /// Its rows are locked: in a transaction, shard after shard, and none that are not shown.
    pub locks: bool,
}

/// The columns of the shards' text that the client does not see; they are the last ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    Columns(usize),
    /// As many as the client sees: the same columns once more.
    Again,
}

/// How the shards' rows become one result.
#[derive(Clone, Debug, PartialEq)]
pub enum Merge {
    /// In any order.
    Concat,
    /// Each shard's rows are in this order, and so is the whole. Keys are in the order of their columns.
    Sort(Vec<SortKey>),
    Fold(Fold),
}

/// One key of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// Its place among the hidden columns.
    pub column: usize,
    pub direction: Direction,
    pub nulls: Nulls,
    pub text: Text,
}

/// How values are compared if they turn out to be text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// By their bytes.
    C,
    /// In an order that only a server knows; equal when their bytes are.
    Deterministic,
    Unknown,
}

/// Rows of all shards that belong together become one.
#[derive(Clone, Debug, PartialEq)]
pub enum Fold {
    /// DISTINCT: rows whose hidden columns are equal are one row.
    Distinct { text: Text, order: Vec<SortKey> },
    /// Groups: rows with equal keys are parts of one group.
    Groups {
        shown: Vec<Shown>,
        kept: Vec<Kept>,
        /// All of them are true of a group that is shown.
        having: Vec<Compared>,
        order: Vec<SortKey>,
    },
}

/// A condition on a whole group; NULL on either side is not true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Places among the hidden columns.
    pub left: usize,
    pub comparison: Comparison,
    pub right: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Comparison::Equal => ordering.is_eq(),
            Comparison::NotEqual => ordering.is_ne(),
            Comparison::Less => ordering.is_lt(),
            Comparison::LessOrEqual => ordering.is_le(),
            Comparison::Greater => ordering.is_gt(),
            Comparison::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// What becomes of a visible column of a group's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is the same in all parts.
    First,
    Add(Adding),
    Average(Average),
    /// It goes with the part that wins in this hidden column.
    Won(usize),
}

/// What becomes of a hidden column of a group's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Part of the key.
    Group(Text),
    /// The same in all parts.
    First,
    Add(Adding),
    Average(Average),
    Extreme(Side, Text),
}

/// `avg` of numbers: the places among the hidden columns of what it is the quotient of. The parts' own averages tell its type only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Average {
    pub sum: usize,
    pub count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adding {
    /// `count` and `sum`.
    Sum,
    /// The sum of an average, which outgrows no type.
    Whole,
    And,
    Or,
}

/// `min` and `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Least,
    Greatest,
}

/// A statement as a scatter, if its shards' rows surely add up.
pub fn scatter(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Scatter> {
    let (Class::Data, Body::Facts(facts)) = (&statement.class, &statement.body) else {
        return None;
    };
    let select = select::read(text, statement.range.clone())?;
    if select.set_operation != SetOperation::None {
        return united(text, statement, catalog, search_path);
    }
    let scope = Scope::new(facts, catalog, search_path);
    let places = ParameterPlaces::of(&text[statement.range.clone()], &scope, &[]);
    let prover = Prover::new(&scope, &places).ok()?;
    let anchor = colocated::anchor(&select, &scope, &prover)?;
    let own = match anchor.key.first() {
        Some(&Node::Column {
            block: 0, relation, ..
        }) => OwnRows::of_select(&select, &scope, 0, relation),
        _ => None,
    };
    let scatter = Outermost::new(&select, &scope, &prover, &anchor).scatter()?;
    Some(Scatter { own, ..scatter })
}

/// UNION ALL of queries whose rows are each those of all shards together, so that the whole's are.
fn united(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Scatter> {
    // Which rows each of them leaves out is not said.
    if !catalog.foreign.is_empty() {
        return None;
    }
    let parts = parts(text, statement.range.clone())?;
    let are_concatenated = parts.into_iter().all(|part| {
        let part = &text[part];
        let read = sql::read(part).unwrap_or_default();
        let [query] = &read[..] else {
            return false;
        };
        scatter(part, query, catalog, search_path).is_some_and(|found| {
            found.merge == Merge::Concat
                && found.edits.is_empty()
                && (found.limit, found.offset, found.locks) == (None, None, false)
        })
    });
    are_concatenated.then(|| Scatter {
        edits: Vec::new(),
        own: None,
        merge: Merge::Concat,
        hidden: Hidden::Columns(0),
        limit: None,
        offset: None,
        locks: false,
    })
}

/// The bytes of the queries between UNION ALLs; `None` when there is more than that, or in front of it.
fn parts(text: &str, range: Range<usize>) -> Option<Vec<Range<usize>>> {
    const OTHERS: [&str; 8] = [
        "intersect",
        "except",
        "order",
        "limit",
        "offset",
        "fetch",
        "for",
        "with",
    ];
    let piece = Piece::read(text, range.clone())?;
    let (mut parts, mut depth, mut start, mut at) = (Vec::new(), 0_usize, range.start, 0);
    while let Some(kind) = piece.kind(Some(at)) {
        match kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.checked_sub(1)?,
            Kind::Semicolon => return None,
            Kind::Word if depth == 0 && piece.is_word(Some(at), &OTHERS) => return None,
            Kind::Word if depth == 0 && piece.is_word(Some(at), &["union"]) => {
                if !piece.is_word(Some(at + 1), &["all"]) {
                    return None;
                }
                parts.push(start..piece.range(at).start);
                at += 1;
                start = piece.range(at).end;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(start..range.end);
    (parts.len() <= MOST_PARTS).then_some(parts)
}

/// A query whose rows are those of all shards together, each with the key of the rows that it is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyed {
    pub distribution: DistributionId,
    /// For each column of the key in turn, the places in the select list that have it, at least one.
    pub places: Vec<Vec<usize>>,
    /// Whether each row is a row of one table.
    pub made_from: MadeFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadeFrom {
    /// The statement's only relation.
    OneTable,
    More,
}

/// Whether all shards' rows of a query can stand for a table that is sharded by some of its columns.
pub fn keyed(
    text: &str,
    statement: &Statement,
    catalog: &Catalog,
    search_path: &SearchPath,
) -> Option<Keyed> {
    let found = scatter(text, statement, catalog, search_path)?;
    let Body::Facts(facts) = &statement.body else {
        return None;
    };
    let is_plain = found.merge == Merge::Concat
        && (found.limit, found.offset) == (None, None)
        && !facts.locking
        && !facts
            .functions
            .iter()
            .any(|function| catalog.functions.may_be_volatile(&function.name));
    if !is_plain {
        return None;
    }
    let select = select::read(text, statement.range.clone())?;
    if select.set_operation != SetOperation::None {
        return None;
    }
    let scope = Scope::new(facts, catalog, search_path);
    let places = ParameterPlaces::of(&text[statement.range.clone()], &scope, &[]);
    let prover = Prover::new(&scope, &places).ok()?;
    let anchor = colocated::anchor(&select, &scope, &prover)?;
    let block = facts.blocks.first()?;
    let has = |key: Node<'_>, operand: &Operand| {
        let Operand::Column(reference) = operand else {
            return false;
        };
        let node = scope.resolve(0, reference);
        node.is_some_and(|node| {
            scope.type_of(node) == scope.type_of(key) && prover.equals(node, key)
        })
    };
    let places_of = |key: Node<'_>| {
        let output = block.output.iter().enumerate();
        let having = output.filter(|(_, operand)| has(key, operand));
        let places: Vec<usize> = having.map(|(place, _)| place).collect();
        (!places.is_empty()).then_some(places)
    };
    let Node::Column { relation, .. } = *anchor.key.first()? else {
        return None;
    };
    let Meaning::Sharded { distribution, .. } = scope.known(0, relation).meaning else {
        return None;
    };
    Some(Keyed {
        distribution,
        places: anchor
            .key
            .iter()
            .map(|key| places_of(*key))
            .collect::<Option<_>>()?,
        made_from: match (&facts.blocks[..], &block.relations[..]) {
            ([_], [_]) => MadeFrom::OneTable,
            _ => MadeFrom::More,
        },
    })
}

impl Scatter {
    /// The numbers of LIMIT and OFFSET; NULL is none of them. OFFSET is judged first, as Postgres does.
    pub fn counts(&self, values: &Values<'_>) -> Result<Counts, CountError> {
        let value = |operand: Option<CountOperand>| match operand {
            Some(operand) => super::counts::count(operand, values),
            None => Ok(None),
        };
        let (offset, limit) = (value(self.offset)?, value(self.limit)?);
        Ok(Counts {
            offset: u64::try_from(offset.unwrap_or(0)).map_err(|_| CountError::NegativeOffset)?,
            limit: limit
                .map(|limit| u64::try_from(limit).map_err(|_| CountError::NegativeLimit))
                .transpose()?,
        })
    }

    /// What is done with the shards' rows, for people.
    pub fn describe(&self) -> String {
        let merged = match &self.merge {
            _ if self.locks => ", locked shard after shard",
            Merge::Concat => " as they come",
            Merge::Sort(_) => " merged in order",
            Merge::Fold(_) => ", groups added up",
        };
        let limited = match (self.limit, self.offset) {
            (None, None) => "",
            _ => ", limited",
        };
        format!("rows of all shards{merged}{limited}")
    }

    pub fn move_places(&mut self, to: &dyn Fn(usize) -> usize) {
        for edit in &mut self.edits {
            edit.move_places(to);
        }
        if let Some(own) = &mut self.own {
            own.move_places(to);
        }
    }

    /// Its size in memory beyond itself, near enough for a limit.
    pub fn bytes(&self) -> usize {
        let edits: usize = self
            .edits
            .iter()
            .map(|edit| size_of::<Edit>() + edit.bytes())
            .sum();
        let merge = match &self.merge {
            Merge::Concat => 0,
            Merge::Sort(keys) => size_of_val(&keys[..]),
            Merge::Fold(fold) => {
                let columns = match fold {
                    Fold::Distinct { .. } => 0,
                    Fold::Groups {
                        shown,
                        kept,
                        having,
                        order: _,
                    } => {
                        size_of_val(&shown[..]) + size_of_val(&kept[..]) + size_of_val(&having[..])
                    }
                };
                columns + size_of_val(fold.order())
            }
        };
        let own = self.own.as_ref().map_or(0, OwnRows::bytes);
        edits + own + merge
    }
}

impl Fold {
    /// The order of the groups; empty when it does not matter.
    pub fn order(&self) -> &[SortKey] {
        match self {
            Fold::Distinct { order, .. } | Fold::Groups { order, .. } => order,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::plan::golden::{cluster, search_path};
    use crate::plan::parameters::Parameters;
    use crate::plan::spread::{Spread, edit};
    use crate::plan::{PlanCache, Planned};
    use crate::sql::normalise::Literal;

    /// The shards' text and the counts of each text in turn, as one worker finds them.
    fn in_turn(texts: &[&str]) -> Vec<(String, Result<Counts, CountError>)> {
        let mut cache = PlanCache::new(1 << 20);
        let catalog = Arc::new(cluster(4));
        let mut literals = Vec::new();
        let each = texts.iter().map(|text| {
            let planned = cache
                .plan(
                    text.as_bytes(),
                    &search_path(&["public"]),
                    &catalog,
                    &mut literals,
                )
                .expect("it has a plan");
            asked(&planned, text, &literals, &Parameters::NONE)
        });
        each.collect()
    }

    fn asked(
        planned: &Rc<Planned>,
        text: &str,
        literals: &[Literal],
        parameters: &Parameters<'_>,
    ) -> (String, Result<Counts, CountError>) {
        let statement = &planned.statements[0];
        let Some(Spread::Scatter { scatter, .. }) = statement.spread.as_deref() else {
            panic!("{statement:?}");
        };
        let values = Values {
            text: text.as_bytes(),
            literals,
            parameters,
            passage: crate::plan::Passage::Through,
        };
        let whole = statement.range.clone();
        let asked = edit::apply(&scatter.edits, whole, text.as_bytes(), literals);
        (
            String::from_utf8(asked).expect("made of texts"),
            scatter.counts(&values),
        )
    }

    #[test]
    fn places_and_counts_are_those_of_the_text_at_hand() {
        let found = in_turn(&[
            "SELECT 'a', order_id FROM orders WHERE region = 'x' ORDER BY total LIMIT 1 OFFSET 2",
            "SELECT 'abc', order_id FROM orders WHERE region = 'another' ORDER BY total LIMIT 111 OFFSET 22",
        ]);
        assert_eq!(
            found[1].0,
            "SELECT 'abc', order_id, (total) AS \"trunkline 1\" FROM orders WHERE region = 'another' ORDER BY total \
             LIMIT least((111)::bigint::numeric + coalesce((22)::bigint::numeric, 0), 9223372036854775807)::bigint OFFSET 0"
        );
        let counts = Counts {
            limit: Some(111),
            offset: 22,
        };
        assert_eq!(found[1].1, Ok(counts));
    }

    #[test]
    fn what_goes_by_literals_is_not_taken_from_another_text() {
        let found = in_turn(&[
            "SELECT order_id, total FROM orders ORDER BY 1",
            "SELECT order_id, total FROM orders ORDER BY 2",
        ]);
        assert!(found[0].0.contains("(order_id) AS"), "{}", found[0].0);
        assert!(found[1].0.contains("(total) AS"), "{}", found[1].0);
        let found = in_turn(&[
            "SELECT date_trunc('day', placed_at), count(*) FROM orders GROUP BY date_trunc('day', placed_at)",
            "SELECT date_trunc('month', placed_at), count(*) FROM orders GROUP BY date_trunc('month', placed_at)",
        ]);
        assert!(found[1].0.contains("(date_trunc('month', placed_at)) AS"));
    }

    #[test]
    fn counts_are_judged_as_postgres_does() {
        let text = "SELECT order_id FROM orders LIMIT $1 OFFSET $2";
        let mut literals = Vec::new();
        let planned = PlanCache::new(1 << 20)
            .plan(
                text.as_bytes(),
                &search_path(&["public"]),
                &Arc::new(cluster(4)),
                &mut literals,
            )
            .expect("it has a plan");
        let counts = |limit: Option<&[u8]>, offset: Option<&[u8]>, format: u8, declared: &[u32]| {
            let mut raw = Vec::new();
            for value in [limit, offset] {
                match value {
                    Some(value) => {
                        raw.extend((value.len() as i32).to_be_bytes());
                        raw.extend(value);
                    }
                    None => raw.extend((-1_i32).to_be_bytes()),
                }
            }
            let formats = [0, format];
            let parameters =
                Parameters::from_bind(&formats, 2, &raw, declared).expect("well formed");
            asked(&planned, text, &literals, &parameters).1
        };
        let of = |limit, offset| Ok(Counts { limit, offset });
        assert_eq!(counts(Some(b"5"), Some(b"3"), 0, &[]), of(Some(5), 3));
        assert_eq!(counts(Some(b" 5 "), None, 0, &[20]), of(Some(5), 0));
        assert_eq!(counts(None, Some(b"3"), 0, &[]), of(None, 3));
        let (five, three) = (5_i64.to_be_bytes(), 3_i64.to_be_bytes());
        assert_eq!(counts(Some(&five), Some(&three), 1, &[]), of(Some(5), 3));
        let three = 3_i16.to_be_bytes();
        assert_eq!(
            counts(Some(&five), Some(&three), 1, &[20, 21]),
            of(Some(5), 3)
        );
        let state = |result: Result<Counts, CountError>| result.map_err(|error| error.sqlstate());
        assert_eq!(state(counts(Some(b"-1"), None, 0, &[])), Err("2201W"));
        assert_eq!(
            state(counts(Some(b"-1"), Some(b"-1"), 0, &[])),
            Err("2201X")
        );
        assert_eq!(state(counts(Some(b"x"), None, 0, &[])), Err("22P02"));
        assert_eq!(state(counts(Some(b"5"), None, 0, &[1700])), Err("0A000"));
    }
}
