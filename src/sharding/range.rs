//! Ranges of an ordered key: sorted, not overlapping, open ends allowed, gaps allowed (a key in a gap is refused).
//!
//! Order is that of the stored value: numbers, days and microseconds by size, uuid by its bytes, text by its UTF-8 bytes, which is the
//! "C" collation whatever the column's own collation is.

use super::key::{KeyType, KeyValue};
use super::{LocateError, MapError, ShardId, StrategyName};

/// One range and its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Inclusive; `None`: open.
    pub from: Option<KeyValue>,
    /// Exclusive; `None`: open.
    pub to: Option<KeyValue>,
    pub shard: ShardId,
}

/// Ranges in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    sorted: Box<[Range]>,
    /// The place of each sorted range in the list given, for errors.
    given: Box<[usize]>,
}

impl Ranges {
    /// The ranges in any order; errors name their places in the list given.
    pub fn new(ranges: Vec<Range>) -> Result<Ranges, Vec<MapError>> {
        let mut errors = Vec::new();
        if ranges.is_empty() {
            errors.push(MapError::NoRanges);
        }
        let (empty, mut order): (Vec<usize>, Vec<usize>) =
            (0..ranges.len()).partition(|&place| is_empty(&ranges[place]));
        errors.extend(
            empty
                .into_iter()
                .map(|range| MapError::RangeEmpty { range }),
        );
        // `None` sorts before every value, as an open beginning should.
        order.sort_by(|&a, &b| ranges[a].from.cmp(&ranges[b].from));
        errors.extend(overlaps(&ranges, &order));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut slots: Vec<Option<Range>> = ranges.into_iter().map(Some).collect();
        let sorted = order
            .iter()
            .filter_map(|&place| slots[place].take())
            .collect();
        Ok(Ranges {
            sorted,
            given: order.into(),
        })
    }

    /// The ranges, ascending.
    pub fn sorted(&self) -> &[Range] {
        &self.sorted
    }

    pub(super) fn check(&self, key: &[KeyType]) -> Vec<MapError> {
        let mut errors = super::check_one_column(StrategyName::Range, key, is_ordered);
        let Some(&key_type) = key.first() else {
            return errors;
        };
        for (range, &entry) in self.sorted.iter().zip(&self.given) {
            if [&range.from, &range.to]
                .into_iter()
                .flatten()
                .any(|bound| !key_type.holds(bound))
            {
                errors.push(MapError::ValueOfOtherType { entry, key_type });
            }
        }
        errors
    }

    /// The place of the key's range in the sorted list, and its shard.
    pub fn locate(&self, key: &KeyValue) -> Result<(usize, ShardId), LocateError> {
        let after = self
            .sorted
            .partition_point(|range| range.from.as_ref().is_none_or(|from| from <= key));
        let found = after
            .checked_sub(1)
            .filter(|&place| self.sorted[place].to.as_ref().is_none_or(|to| key < to));
        match found {
            Some(place) => Ok((place, self.sorted[place].shard)),
            None => Err(LocateError::OutsideRanges {
                key: key.to_string().into(),
            }),
        }
    }
}

fn is_ordered(key_type: KeyType) -> bool {
    match key_type {
        KeyType::SmallInt | KeyType::Integer | KeyType::BigInt => true,
        KeyType::Text | KeyType::VarChar | KeyType::Char => true,
        KeyType::Uuid | KeyType::Date | KeyType::Timestamp | KeyType::TimestampTz => true,
        KeyType::Numeric | KeyType::Bytea => false,
    }
}

fn is_empty(range: &Range) -> bool {
    matches!((&range.from, &range.to), (Some(from), Some(to)) if from >= to)
}

/// Each range that begins before one of those before it (by beginning) has ended, with the one that reaches farthest.
fn overlaps(ranges: &[Range], order: &[usize]) -> Vec<MapError> {
    let mut errors = Vec::new();
    let mut farthest: Option<usize> = None;
    for &place in order {
        let Some(before) = farthest else {
            farthest = Some(place);
            continue;
        };
        let apart = match (&ranges[before].to, &ranges[place].from) {
            (Some(end), Some(begin)) => end <= begin,
            _ => false,
        };
        if !apart {
            errors.push(MapError::RangesOverlap {
                first: before.min(place),
                second: before.max(place),
            });
        }
        let reaches_farther = match (&ranges[before].to, &ranges[place].to) {
            (Some(end), Some(other)) => other > end,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if reaches_farther {
            farthest = Some(place);
        }
    }
    errors
}
