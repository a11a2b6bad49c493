//! Which conditions of the statement can choose a table's rows before they travel.
//!
//! A condition is taken as it is written when the statement reads the table once, in a block whose FROM has inner joins only, and it is a whole conjunct of that
//! block's WHERE or of one of its ONs: a row for which it is not true then never reaches the result. Only comparisons of the table's own columns with literals
//! and parameters are taken: they raise no error that the statement would not raise, and are true of the same rows on every server. All other conditions stay
//! where they are, but those that two tables' columns are equal: when the rows of one are there, they say which of the other's can matter.

use std::ops::Range;

use crate::catalog::{Collation, Column};
use crate::sql::facts::{Facts, Source};
use crate::sql::lexer::{Kind, LiteralKind};

use super::piece::Piece;
use super::tables::{Table, Tables};

/// Types of columns that conditions may name: their operators are Postgres's own.
const PLAIN_TYPES: [u32; 15] = [
    16,   // bool
    20,   // int8
    21,   // int2
    23,   // int4
    25,   // text
    700,  // float4
    701,  // float8
    1042, // bpchar
    1043, // varchar
    1082, // date
    1083, // time
    1114, // timestamp
    1184, // timestamptz
    1700, // numeric
    2950, // uuid
];

/// Types of strings and of what they may be cast to.
const TYPE_WORDS: [&str; 17] = [
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "interval",
    "int",
    "int2",
    "int4",
    "int8",
    "integer",
    "bigint",
    "smallint",
    "numeric",
    "text",
    "varchar",
    "bpchar",
    "uuid",
];

const UNITS: [&str; 7] = ["year", "month", "day", "hour", "minute", "second", "to"];

const WORDS: [&str; 13] = [
    "and",
    "or",
    "not",
    "between",
    "symmetric",
    "in",
    "like",
    "ilike",
    "is",
    "null",
    "true",
    "false",
    "escape",
];

const COMPARISONS: [&str; 7] = ["=", "<>", "!=", "<", ">", "<=", ">="];

/// What ends a WHERE.
const CLAUSES: [&str; 12] = [
    "group",
    "having",
    "window",
    "union",
    "intersect",
    "except",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "returning",
];

/// Two columns that are equal in every row that matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Equal {
    pub column: Box<str>,
    /// The place of the other table among those that were asked about, and its column.
    pub of: usize,
    pub key: Box<str>,
    pub array: &'static str,
}

/// The type of arrays with all values of both columns, in which a search finds what the columns' own equality finds.
fn array_of(one: &Column, other: &Column) -> Option<&'static str> {
    if one.collation == Collation::Loose || other.collation == Collation::Loose {
        return None;
    }
    let kind = |column: &Column| match column.type_oid {
        20 | 21 | 23 => Some("pg_catalog.int8[]"),
        25 | 1043 => Some("pg_catalog.text[]"),
        1042 => Some("pg_catalog.bpchar[]"),
        1700 => Some("pg_catalog.numeric[]"),
        2950 => Some("pg_catalog.uuid[]"),
        _ => None,
    };
    kind(one).filter(|array| kind(other) == Some(*array))
}

/// The statement, read for conditions.
pub struct Reading<'p, 'a> {
    pub piece: &'p Piece<'a>,
    pub facts: &'p Facts,
    pub tables: &'p Tables<'p>,
}

impl Reading<'_, '_> {
    /// The name under which conditions may speak of the table.
    pub fn alias(&self, table: &Table<'_>) -> Box<str> {
        match table.aliases[..] {
            [alias] => alias.into(),
            _ => table.name.into(),
        }
    }

    /// Byte ranges of what all rows of the table that matter satisfy.
    pub fn conditions(&self, table: &Table<'_>) -> Vec<Range<usize>> {
        self.all(table).unwrap_or_default()
    }

    fn all(&self, table: &Table<'_>) -> Option<Vec<Range<usize>>> {
        let owner = self.owner(table)?;
        let conjuncts = self.conjuncts_around(table)?.into_iter();
        let usable = conjuncts.filter(|conjunct| owner.takes(conjunct.clone()));
        let bytes = usable.map(|conjunct| {
            self.piece.range(conjunct.start).start..self.piece.range(conjunct.end - 1).end
        });
        Some(bytes.collect())
    }

    /// Which columns of the table are equal to which of others in every row that matters.
    pub fn equals<'t>(&self, table: &Table<'_>, others: &[&'t Table<'t>]) -> Vec<Equal> {
        let (Some(owner), Some(conjuncts)) = (self.owner(table), self.conjuncts_around(table))
        else {
            return Vec::new();
        };
        let mut equals = Vec::new();
        for (place, other) in others.iter().enumerate() {
            let Some(other) = self.owner(other).filter(|other| {
                other.block == owner.block && !std::ptr::eq(other.table, owner.table)
            }) else {
                continue;
            };
            equals.extend(conjuncts.iter().filter_map(|conjunct| {
                let sides = |left: &Owner<'_, '_, '_>, right: &Owner<'_, '_, '_>| {
                    let (one, next) = left.named(conjunct.start, conjunct.end)?;
                    if self.piece.kind(Some(next)) != Some(Kind::Operator)
                        || self.piece.source(next) != "="
                    {
                        return None;
                    }
                    let (two, end) = right.named(next + 1, conjunct.end)?;
                    (end == conjunct.end).then(|| (one.clone(), two.clone()))
                };
                let (column, key) = sides(&owner, &other)
                    .or_else(|| sides(&other, &owner).map(|(one, two)| (two, one)))?;
                Some(Equal {
                    array: array_of(&column, &key)?,
                    column: column.name,
                    of: place,
                    key: key.name,
                })
            }));
        }
        equals
    }

    /// What speaks of the table's columns where it is read, if it is read once and under one name.
    fn owner<'r>(&'r self, table: &'r Table<'r>) -> Option<Owner<'r, 'r, 'r>> {
        let (&[(block, _)], &[alias]) = (&table.places[..], &table.aliases[..]) else {
            return None;
        };
        // Another relation of this name makes it unclear whose column is meant, and a doubt whether it is that column.
        let relations = &self.facts.blocks[block].relations;
        let named = relations
            .iter()
            .filter(|relation| *relation.alias == *alias)
            .count();
        // A sample is one of all rows.
        let samples = (0..self.piece.len()).any(|at| self.says(Some(at), &["tablesample"]));
        (self.facts.doubts.is_empty() && named == 1 && !samples).then_some(Owner {
            reading: self,
            table,
            alias,
            block,
        })
    }

    /// The conjuncts of which every one is true of each row of the table that matters.
    fn conjuncts_around(&self, table: &Table<'_>) -> Option<Vec<Range<usize>>> {
        let filters = self.filters(self.place(table)?)?.into_iter();
        let conjuncts: Option<Vec<_>> = filters.map(|filter| self.conjuncts(filter)).collect();
        Some(conjuncts?.concat())
    }

    /// A word that is no column's name behind a dot, where Postgres takes any.
    fn says(&self, at: Option<usize>, words: &[&str]) -> bool {
        let before = at.and_then(|at| at.checked_sub(1));
        self.piece.is_word(at, words) && self.piece.kind(before) != Some(Kind::Dot)
    }

    /// Where FROM names the table, as its only place.
    fn place(&self, table: &Table<'_>) -> Option<usize> {
        let piece = self.piece;
        let is_place = |at: &usize| {
            let qualified = at
                .checked_sub(1)
                .is_some_and(|dot| piece.kind(Some(dot)) == Some(Kind::Dot));
            let first = if qualified {
                at.checked_sub(2)
            } else {
                Some(*at)
            };
            let before = first.and_then(|first| first.checked_sub(1));
            piece.identifier(*at) == Some(table.name)
                && !matches!(piece.kind(Some(at + 1)), Some(Kind::Dot | Kind::OpenParen))
                && (self.says(before, &["from", "join", "using"])
                    // Behind a parenthesis it is no place that is understood, and makes any other one doubtful.
                    || matches!(piece.kind(before), Some(Kind::Comma | Kind::OpenParen)))
        };
        let mut places = (0..piece.len()).filter(is_place);
        match (places.next(), places.next()) {
            (Some(place), None) => Some(place),
            _ => None,
        }
    }

    /// The lexemes of the WHERE and of the ONs that belong to the FROM around a place, if that FROM has inner joins only.
    fn filters(&self, place: usize) -> Option<Vec<Range<usize>>> {
        let piece = self.piece;
        let from = self.list_around(place)?;
        let mut filters = Vec::new();
        // Where the last one begins.
        let mut open = None;
        let mut depth = 0_usize;
        let mut at = from + 1;
        let mut is_where = false;
        loop {
            let kind = piece.kind(Some(at));
            let word = |words: &[&str]| self.says(Some(at), words);
            let ends_block = match kind {
                None | Some(Kind::Semicolon) => true,
                Some(Kind::CloseParen | Kind::CloseBracket) => depth == 0,
                Some(Kind::Word) => depth == 0 && word(&CLAUSES),
                _ => false,
            };
            let ends_filter = ends_block
                || depth == 0
                    && !is_where
                    && (kind == Some(Kind::Comma)
                        || word(&["join", "inner", "cross", "on", "where"]));
            if ends_filter && let Some(start) = open.take() {
                filters.push(start..at);
            }
            if ends_block {
                return Some(filters);
            }
            match kind? {
                Kind::OpenParen | Kind::OpenBracket => depth += 1,
                Kind::CloseParen | Kind::CloseBracket => depth -= 1,
                Kind::Word if is_where => {}
                Kind::Word if word(&["left", "right", "full", "natural"]) => return None,
                // Not that of DELETE.
                Kind::Word
                    if word(&["using"]) && piece.kind(Some(at + 1)) == Some(Kind::OpenParen) =>
                {
                    return None;
                }
                Kind::Word if depth == 0 && word(&["on", "where"]) => {
                    is_where = word(&["where"]);
                    open = Some(at + 1);
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// The FROM that lists what stands at a place, not in parentheses of its own.
    fn list_around(&self, place: usize) -> Option<usize> {
        let piece = self.piece;
        let mut depth = 0_usize;
        for at in (0..place).rev() {
            match piece.kind(Some(at))? {
                Kind::CloseParen | Kind::CloseBracket => depth += 1,
                Kind::OpenParen | Kind::OpenBracket => depth = depth.checked_sub(1)?,
                // Not the FROM of IS DISTINCT FROM.
                Kind::Word
                    if depth == 0
                        && self.says(Some(at), &["from"])
                        && !self.says(at.checked_sub(1), &["distinct"]) =>
                {
                    return Some(at);
                }
                Kind::Word if depth == 0 && self.says(Some(at), &["select", "where"]) => {
                    return None;
                }
                _ => {}
            }
        }
        None
    }

    /// The pieces of a condition between its top-level ANDs; the whole when there is an OR.
    fn conjuncts(&self, filter: Range<usize>) -> Option<Vec<Range<usize>>> {
        let piece = self.piece;
        let mut conjuncts = Vec::new();
        let (mut depth, mut between, mut start) = (0_usize, 0_usize, filter.start);
        for at in filter.clone() {
            match piece.kind(Some(at))? {
                Kind::OpenParen | Kind::OpenBracket => depth += 1,
                Kind::CloseParen | Kind::CloseBracket => depth = depth.checked_sub(1)?,
                Kind::Word if self.says(Some(at), &["case"]) => return None,
                Kind::Word if depth > 0 => {}
                Kind::Word if self.says(Some(at), &["or"]) => return Some(vec![filter]),
                Kind::Word if self.says(Some(at), &["between"]) => between += 1,
                Kind::Word if self.says(Some(at), &["and"]) => match between {
                    0 => {
                        conjuncts.push(start..at);
                        start = at + 1;
                    }
                    _ => between -= 1,
                },
                _ => {}
            }
        }
        conjuncts.push(start..filter.end);
        conjuncts.retain(|conjunct| !conjunct.is_empty());
        Some(conjuncts)
    }
}

/// Whose columns a condition may name.
struct Owner<'r, 'p, 'a> {
    reading: &'r Reading<'p, 'a>,
    table: &'r Table<'r>,
    alias: &'r str,
    block: usize,
}

impl Owner<'_, '_, '_> {
    /// Whether a condition compares the table's columns with literals and does nothing else.
    fn takes(&self, condition: Range<usize>) -> bool {
        let mut at = condition.start;
        let mut compares = false;
        while at < condition.end {
            let Some(next) = self.element(at, &condition) else {
                return false;
            };
            compares |= self.column(at, condition.end).is_some();
            at = next;
        }
        compares
    }

    /// The end of the element that begins here; `None` for what a condition may not have.
    fn element(&self, at: usize, condition: &Range<usize>) -> Option<usize> {
        let piece = self.reading.piece;
        let next = (at + 1 < condition.end).then_some(at + 1);
        let before = (at > condition.start).then(|| at - 1);
        match piece.kind(Some(at))? {
            Kind::OpenParen | Kind::CloseParen | Kind::Comma => Some(at + 1),
            // Strings with escapes may hide words that mean the present.
            Kind::Literal(
                LiteralKind::Integer
                | LiteralKind::Number
                | LiteralKind::Text
                | LiteralKind::Dollar,
            ) => Some(at + 1),
            Kind::Param => Some(at + 1),
            Kind::Operator if COMPARISONS.contains(&piece.source(at)) => Some(at + 1),
            // Between literals; columns are not reckoned with.
            Kind::Operator if matches!(piece.source(at), "+" | "-") => {
                let left = before.is_none_or(|before| {
                    !matches!(
                        piece.kind(Some(before)),
                        Some(Kind::Quoted | Kind::CloseParen | Kind::Param)
                    ) && (piece.kind(Some(before)) != Some(Kind::Word)
                        || piece.is_word(Some(before), &WORDS)
                        || piece.is_word(Some(before), &UNITS))
                });
                (left && self.begins_literal(next)).then_some(at + 1)
            }
            Kind::Typecast => {
                let of_literal = matches!(piece.kind(before), Some(Kind::Literal(_) | Kind::Param));
                (of_literal && piece.is_word(next, &TYPE_WORDS)).then_some(at + 2)
            }
            Kind::Word | Kind::Quoted => self
                .column(at, condition.end)
                .or_else(|| piece.is_word(Some(at), &WORDS).then_some(at + 1))
                .or_else(|| {
                    let typed = piece.is_word(Some(at), &TYPE_WORDS)
                        && matches!(piece.kind(next), Some(Kind::Literal(_)));
                    typed.then_some(at + 1)
                })
                .or_else(|| {
                    let unit = piece.is_word(Some(at), &UNITS)
                        && (matches!(piece.kind(before), Some(Kind::Literal(_)))
                            || piece.is_word(before, &UNITS));
                    unit.then_some(at + 1)
                }),
            _ => None,
        }
    }

    fn begins_literal(&self, at: Option<usize>) -> bool {
        let piece = self.reading.piece;
        let literal = |at: Option<usize>| matches!(piece.kind(at), Some(Kind::Literal(_)));
        literal(at) || piece.is_word(at, &TYPE_WORDS) && literal(at.map(|at| at + 1))
    }

    /// Behind the column of the table that begins here.
    fn column(&self, at: usize, end: usize) -> Option<usize> {
        self.named(at, end).map(|(_, next)| next)
    }

    /// The column of the table that begins here, and what is behind it.
    fn named(&self, at: usize, end: usize) -> Option<(&Column, usize)> {
        let piece = self.reading.piece;
        let name = piece.identifier(at)?;
        let qualified = at + 2 < end && piece.kind(Some(at + 1)) == Some(Kind::Dot);
        let (column, next) = if qualified {
            (piece.identifier(at + 2)?, at + 3)
        } else {
            (name, at + 1)
        };
        let follows = piece.kind(Some(next));
        if matches!(
            follows,
            Some(Kind::Dot | Kind::OpenParen | Kind::OpenBracket | Kind::Typecast)
        ) {
            return None;
        }
        // `date '..'` and `interval '..'` are literals.
        if matches!(follows, Some(Kind::Literal(_)))
            || !qualified && piece.is_word(Some(at), &WORDS)
        {
            return None;
        }
        let known = self
            .table
            .columns?
            .iter()
            .find(|known| *known.name == *column)?;
        let plain = PLAIN_TYPES.contains(&known.type_oid);
        let own = if qualified {
            name == self.alias
        } else {
            self.is_ours_alone(column)
        };
        (plain && own).then_some((known, next))
    }

    /// Whether no other relation of the block has such a column.
    fn is_ours_alone(&self, column: &str) -> bool {
        let relations = &self.reading.facts.blocks[self.block].relations;
        let others = relations
            .iter()
            .enumerate()
            .filter(|(place, _)| !self.table.places.contains(&(self.block, *place)));
        others
            .into_iter()
            .all(|(place, relation)| match &relation.source {
                Source::Table(_) => {
                    let mut tables = self.reading.tables.tables.iter();
                    let other = tables.find(|table| table.places.contains(&(self.block, place)));
                    other
                        .and_then(|other| other.columns)
                        .is_some_and(|columns| columns.iter().all(|known| *known.name != *column))
                }
                // Their columns are not known; a column of two relations is an error in Postgres.
                Source::Cte(_) | Source::Derived | Source::Function => true,
            })
    }
}
