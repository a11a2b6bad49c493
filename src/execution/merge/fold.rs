//! Groups whose parts come from several shards: counted, added and compared group by group; shown when all shards have ended.
//!
//! A group is found by the encoding of its key (`key.rs`). Where values are equal but not the same (numeric 1.0 and 1.00), the first one
//! seen stands for the group, as in Postgres. Groups are held in memory up to a limit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroU64;

use crate::plan::spread::scatter::{
    Adding, Average, Compared, Comparison, Fold, Kept, Shown, Side, SortKey, Text,
};

use super::key::{Encoding, Part, Purpose};
use super::numeric::Numeric;
use super::row::{self, Row};
use super::{MOST_GROUPS, MergeError, Unsuitable, Window};
use crate::execution::columns::Column;

/// What a group costs beside its values: its place in the map and in the list.
const GROUP: usize = 128;

const BINARY: u16 = 1;

pub struct Folding {
    columns: Vec<Kind>,
    /// How the visible ones are shown to the client.
    formats: Vec<u16>,
    having: Vec<Condition>,
    order: Vec<(usize, Part)>,
    groups: Vec<Box<[Value]>>,
    by_key: HashMap<Box<[u8]>, usize>,
    /// The key of the row at hand.
    key: Vec<u8>,
    /// A value's encoding, when it is compared.
    compared: Vec<u8>,
    /// Places of the columns that the row at hand won.
    won: Vec<usize>,
    bytes: usize,
    open: Vec<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Open,
    Ended,
}

/// What is done with a column of the shards' rows.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Part of the group's key; kept as it was in the first row.
    Group(Part),
    /// Kept as it was in the first row.
    First,
    Add(Number, Adding),
    /// The quotient of two other columns, found when all parts are there.
    Average {
        sum: usize,
        count: usize,
    },
    /// Kept while its encoding is on that side of all others'.
    Extreme(Part, Side),
    /// Kept with the winner of another column.
    Won(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Bigint,
    Numeric,
    /// `bigint`, added as `numeric`.
    Whole,
    Bool,
}

/// A condition on two columns of a group.
#[derive(Clone, Copy, Debug)]
struct Condition {
    left: (usize, Encoding),
    comparison: Comparison,
    right: (usize, Encoding),
}

/// The least or greatest value so far.
#[derive(Clone, Debug)]
struct Winner {
    /// Its encoding.
    key: Box<[u8]>,
    value: Box<[u8]>,
}

/// A column's value in a group.
#[derive(Clone, Debug)]
enum Value {
    Kept(Option<Box<[u8]>>),
    Bigint(Option<i64>),
    Numeric(Option<Numeric>),
    Bool(Option<bool>),
    Extreme(Option<Winner>),
}

impl Folding {
    pub fn new(
        fold: &Fold,
        columns: &[Column],
        formats: &[u16],
        shards: usize,
    ) -> Result<Folding, Unsuitable> {
        let visible = formats.len();
        let kinds = match fold {
            Fold::Distinct { text, .. } => {
                let keep = columns[..visible].iter().map(|_| Ok(Kind::First));
                let keys = columns[visible..].iter().map(|column| group(column, *text));
                keep.chain(keys).collect::<Result<Vec<_>, _>>()?
            }
            Fold::Groups {
                shown,
                kept,
                having: _,
                order: _,
            } => {
                if shown.len() != visible || kept.len() != columns.len() - visible {
                    return Err(Unsuitable(
                        "a shard describes another number of columns".into(),
                    ));
                }
                let shown = shown
                    .iter()
                    .zip(columns)
                    .map(|(shown, column)| match shown {
                        Shown::First => Ok(Kind::First),
                        Shown::Add(adding) => add(column, *adding),
                        Shown::Average(average) => quotient(column, *average, visible),
                        Shown::Won(hidden) => Ok(Kind::Won(visible + hidden)),
                    });
                let kept = kept
                    .iter()
                    .zip(&columns[visible..])
                    .map(|(kept, column)| match kept {
                        Kept::Group(text) => group(column, *text),
                        Kept::First => Ok(Kind::First),
                        Kept::Add(adding) => add(column, *adding),
                        Kept::Average(average) => quotient(column, *average, visible),
                        Kept::Extreme(side, text) => Ok(Kind::Extreme(
                            Part::equal(Encoding::of(column, *text, Purpose::Order)?),
                            *side,
                        )),
                    });
                shown.chain(kept).collect::<Result<Vec<_>, _>>()?
            }
        };
        let order = fold.order().iter().map(|key: &SortKey| {
            let place = visible + key.column;
            let column = columns
                .get(place)
                .ok_or_else(|| Unsuitable("a shard describes too few columns".into()))?;
            let part = Part {
                encoding: Encoding::of(column, key.text, Purpose::Order)?,
                direction: key.direction,
                nulls: key.nulls,
            };
            Ok((place, part))
        });
        let condition = |compared: &Compared| {
            let side = |place: usize| {
                let column = columns
                    .get(visible + place)
                    .ok_or_else(|| Unsuitable("a shard describes too few columns".into()))?;
                // Texts would have to be known to be compared by their bytes, on both sides.
                let encoding = Encoding::of(column, Text::Unknown, Purpose::Order)?;
                Ok((visible + place, encoding))
            };
            let (left, right) = (side(compared.left)?, side(compared.right)?);
            if left.1 != right.1 && !(left.1.is_exact_number() && right.1.is_exact_number()) {
                return Err(Unsuitable(
                    "HAVING compares values of different types".into(),
                ));
            }
            Ok(Condition {
                left,
                comparison: compared.comparison,
                right,
            })
        };
        let having = match fold {
            Fold::Groups { having, .. } => having.iter().map(condition).collect(),
            Fold::Distinct { .. } => Ok(Vec::new()),
        };
        Ok(Folding {
            having: having?,
            order: order.collect::<Result<_, Unsuitable>>()?,
            columns: kinds,
            formats: formats.to_vec(),
            groups: Vec::new(),
            by_key: HashMap::new(),
            key: Vec::new(),
            compared: Vec::new(),
            won: Vec::new(),
            bytes: 0,
            open: vec![Stream::Open; shards],
        })
    }

    /// Sums come in binary, whatever the client wants.
    pub fn ask_for(&self, formats: &mut [u16]) {
        for (format, kind) in formats.iter_mut().zip(&self.columns) {
            if matches!(kind, Kind::Add(..)) {
                *format = BINARY;
            }
        }
    }

    pub fn take(&mut self, row: Row<'_>) -> Result<(), MergeError> {
        self.key.clear();
        let mut values = row.values(2);
        for kind in &self.columns {
            let value = values.next()?;
            if let Kind::Group(part) = kind {
                part.append(value, &mut self.key)?;
            }
        }
        match self.by_key.get(&self.key[..]) {
            Some(&group) => self.meet(group, row),
            None => self.begin(row),
        }
    }

    /// The first row of a group.
    fn begin(&mut self, row: Row<'_>) -> Result<(), MergeError> {
        let mut values = row.values(2);
        let mut group = Vec::with_capacity(self.columns.len());
        let mut bytes = GROUP + self.key.len();
        for kind in &self.columns {
            let value = values.next()?;
            bytes += size_of::<Value>() + value.map_or(0, <[u8]>::len);
            group.push(match kind {
                Kind::Group(_) | Kind::First | Kind::Won(_) => Value::Kept(value.map(Box::from)),
                Kind::Add(number, _) => read(*number, value)?,
                Kind::Average { .. } => Value::Numeric(None),
                Kind::Extreme(part, _) => {
                    let first = match value {
                        None => None,
                        Some(value) => {
                            let mut encoded = Vec::new();
                            part.append(Some(value), &mut encoded)?;
                            bytes += encoded.len();
                            Some(Winner {
                                key: encoded.into_boxed_slice(),
                                value: Box::from(value),
                            })
                        }
                    };
                    Value::Extreme(first)
                }
            });
        }
        self.grow(bytes)?;
        self.by_key
            .insert(self.key.clone().into_boxed_slice(), self.groups.len());
        self.groups.push(group.into_boxed_slice());
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), MergeError> {
        self.bytes += bytes;
        if self.bytes > MOST_GROUPS {
            return Err(MergeError::TooManyGroups);
        }
        Ok(())
    }

    /// A further row of a group. Hidden columns decide before the visible ones that follow them are kept.
    fn meet(&mut self, group: usize, row: Row<'_>) -> Result<(), MergeError> {
        let mut values = row.values(2);
        let mut grown = 0;
        // Visible columns come first: those that go with a winner are kept in a second pass.
        self.won.clear();
        for (place, kind) in self.columns.iter().enumerate() {
            let value = values.next()?;
            let so_far = &mut self.groups[group][place];
            match (kind, so_far) {
                (Kind::Add(number, adding), so_far) => so_far.add(*number, *adding, value)?,
                (Kind::Extreme(part, side), Value::Extreme(so_far)) => {
                    let Some(value) = value else { continue };
                    self.compared.clear();
                    part.append(Some(value), &mut self.compared)?;
                    let wins = so_far.as_ref().is_none_or(|best| match side {
                        Side::Least => self.compared[..] < best.key[..],
                        Side::Greatest => self.compared[..] > best.key[..],
                    });
                    if wins {
                        grown += self.compared.len() + value.len();
                        *so_far = Some(Winner {
                            key: self.compared[..].into(),
                            value: value.into(),
                        });
                        self.won.push(place);
                    }
                }
                _ => {}
            }
        }
        if !self.won.is_empty() {
            let mut values = row.values(2);
            for (kind, so_far) in self.columns.iter().zip(&mut self.groups[group]) {
                let value = values.next()?;
                if let Kind::Won(hidden) = kind
                    && self.won.contains(hidden)
                {
                    grown += value.map_or(0, <[u8]>::len);
                    *so_far = Value::Kept(value.map(Box::from));
                }
            }
        }
        // What a winner takes the place of is not subtracted: a limit, not an account. Wins are rare in the long run.
        self.grow(grown)
    }

    /// After the last shard's end, all groups in their order.
    pub fn end(
        &mut self,
        shard: usize,
        window: &mut Window,
        out: &mut Vec<u8>,
    ) -> Result<(), MergeError> {
        if std::mem::replace(&mut self.open[shard], Stream::Ended) == Stream::Ended
            || self.open.contains(&Stream::Open)
        {
            return Ok(());
        }
        self.by_key = HashMap::new();
        let mut groups = std::mem::take(&mut self.groups);
        for (place, kind) in self.columns.iter().enumerate() {
            if let Kind::Average { sum, count } = kind {
                for group in &mut groups {
                    group[place] = average(&group[*sum], &group[*count]);
                }
            }
        }
        if !self.having.is_empty() {
            let mut kept = Vec::with_capacity(groups.len());
            for group in groups {
                if self.is_had(&group)? {
                    kept.push(group);
                }
            }
            groups = kept;
        }
        if !self.order.is_empty() {
            let keyed = groups.into_iter().map(|group| {
                let mut key = Vec::new();
                for (place, part) in &self.order {
                    group[*place].append_key(part, &mut key)?;
                }
                Ok((key, group))
            });
            let mut keyed = keyed.collect::<Result<Vec<_>, MergeError>>()?;
            keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
            groups = keyed.into_iter().map(|(_, group)| group).collect();
        }
        let mut values = Vec::new();
        for group in groups {
            if window.is_full() {
                break;
            }
            if !window.admits() {
                continue;
            }
            values.clear();
            for (value, format) in group.iter().zip(&self.formats) {
                value.show(*format, &mut values);
            }
            row::message(self.formats.len(), &values, out);
        }
        Ok(())
    }
}

impl Folding {
    /// Whether a group meets all conditions.
    fn is_had(&self, group: &[Value]) -> Result<bool, MergeError> {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for condition in &self.having {
            let key = |(place, encoding): (usize, Encoding), out: &mut Vec<u8>| {
                out.clear();
                match group[place].binary() {
                    Some(value) => encoding.append_alike(&value, out).map(|()| true),
                    None => Ok(false),
                }
            };
            let is_known = key(condition.left, &mut left)? && key(condition.right, &mut right)?;
            if !is_known || !condition.comparison.holds(left.cmp(&right)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn group(column: &Column, text: Text) -> Result<Kind, Unsuitable> {
    Encoding::of(column, text, Purpose::Equality).map(|encoding| Kind::Group(Part::equal(encoding)))
}

fn add(column: &Column, adding: Adding) -> Result<Kind, Unsuitable> {
    let number = match (adding, column.type_oid) {
        (Adding::Sum, 20) => Number::Bigint,
        (Adding::Whole, 20) => Number::Whole,
        (Adding::Sum | Adding::Whole, 1700) => Number::Numeric,
        (Adding::And | Adding::Or, 16) => Number::Bool,
        (_, oid) => {
            return Err(Unsuitable(format!(
                "sums of the type with OID {oid} depend on the order of their parts, or are not known"
            )));
        }
    };
    Ok(Kind::Add(number, adding))
}

fn quotient(column: &Column, average: Average, visible: usize) -> Result<Kind, Unsuitable> {
    match column.type_oid {
        1700 => Ok(Kind::Average {
            sum: visible + average.sum,
            count: visible + average.count,
        }),
        oid => Err(Unsuitable(format!(
            "averages of the type with OID {oid} depend on the order of their parts, or are not known"
        ))),
    }
}

/// NULL for a group without values.
fn average(sum: &Value, count: &Value) -> Value {
    let (Value::Numeric(Some(sum)), Value::Bigint(Some(count))) = (sum, count) else {
        return Value::Numeric(None);
    };
    let count = u64::try_from(*count).ok().and_then(NonZeroU64::new);
    Value::Numeric(count.map(|count| sum.divide(count)))
}

fn read(number: Number, value: Option<&[u8]>) -> Result<Value, MergeError> {
    const MALFORMED: MergeError = MergeError::Malformed("a sum of another length than its type's");
    let bigint = |value: &[u8]| -> Result<i64, MergeError> {
        let bytes = value.try_into().map_err(|_| MALFORMED)?;
        Ok(i64::from_be_bytes(bytes))
    };
    Ok(match number {
        Number::Bigint => Value::Bigint(value.map(bigint).transpose()?),
        Number::Whole => Value::Numeric(value.map(bigint).transpose()?.map(Numeric::of_integer)),
        Number::Numeric => Value::Numeric(value.map(Numeric::read).transpose()?),
        Number::Bool => Value::Bool(match value {
            Some([value]) => Some(*value != 0),
            Some(_) => return Err(MALFORMED),
            None => None,
        }),
    })
}

impl Value {
    /// NULL is what the sum of no rows is: it adds nothing.
    fn add(
        &mut self,
        number: Number,
        adding: Adding,
        value: Option<&[u8]>,
    ) -> Result<(), MergeError> {
        match (self, read(number, value)?) {
            (Value::Bigint(sum), Value::Bigint(Some(value))) => {
                *sum = Some(match *sum {
                    Some(sum) => sum.checked_add(value).ok_or(MergeError::BigintOutOfRange)?,
                    None => value,
                });
            }
            (Value::Numeric(sum), Value::Numeric(Some(value))) => {
                *sum = Some(match sum.take() {
                    Some(sum) => sum.add(&value)?,
                    None => value,
                });
            }
            (Value::Bool(all), Value::Bool(Some(value))) => {
                *all = Some(match (*all, adding) {
                    (Some(all), Adding::Or) => all || value,
                    (Some(all), Adding::And | Adding::Sum | Adding::Whole) => all && value,
                    (None, _) => value,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn append_key(&self, part: &Part, key: &mut Vec<u8>) -> Result<(), MergeError> {
        part.append(self.binary().as_deref(), key)
    }

    /// A hidden column's value in its binary format; `None` is NULL.
    fn binary(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Value::Kept(value) => value.as_deref().map(Cow::Borrowed),
            Value::Extreme(won) => won.as_ref().map(|won| Cow::Borrowed(&*won.value)),
            Value::Bigint(sum) => sum.map(|sum| Cow::Owned(sum.to_be_bytes().to_vec())),
            Value::Numeric(sum) => sum.as_ref().map(|sum| {
                let mut raw = Vec::new();
                sum.append_binary(&mut raw);
                Cow::Owned(raw)
            }),
            Value::Bool(all) => all.map(|all| Cow::Owned(vec![u8::from(all)])),
        }
    }

    /// Appends it with its length. What was kept is in the client's format already.
    fn show(&self, format: u16, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 4]);
        match (self, format) {
            (Value::Kept(Some(value)), _) | (Value::Extreme(Some(Winner { value, .. })), _) => {
                out.extend_from_slice(value)
            }
            (Value::Bigint(Some(sum)), BINARY) => out.extend(sum.to_be_bytes()),
            (Value::Bigint(Some(sum)), _) => out.extend_from_slice(sum.to_string().as_bytes()),
            (Value::Numeric(Some(sum)), BINARY) => sum.append_binary(out),
            (Value::Numeric(Some(sum)), _) => sum.append_text(out),
            (Value::Bool(Some(all)), BINARY) => out.push(u8::from(*all)),
            (Value::Bool(Some(all)), _) => out.push(if *all { b't' } else { b'f' }),
            (
                Value::Kept(None)
                | Value::Extreme(None)
                | Value::Bigint(None)
                | Value::Numeric(None)
                | Value::Bool(None),
                _,
            ) => {
                out[start..].copy_from_slice(&(-1_i32).to_be_bytes());
                return;
            }
        }
        let length = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
