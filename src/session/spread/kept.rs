//! The rows of a cursor that goes back, or outlives its transaction. The session has them, all of them since DECLARE: no server connection is kept for it,
//! and the transaction can still be committed on several shards. It moves as a cursor of Postgres does (`DoPortalRunFetch` in `pquery.c`).

use crate::sql::class::Direction;
use crate::wire::frame::HEADER;

/// A result with a place in it.
pub struct Kept {
    /// DataRow messages.
    rows: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
}

/// Where a motion leads, from a place between 0, in front of the first row, and one more than there are rows, behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    pub place: u64,
    pub rows: Rows,
}

/// Rows by their numbers, from 1, in the order in which the client gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    None,
    /// From the first to the second, which is not before it.
    Onward(u64, u64),
    /// From the first down to the second.
    Backward(u64, u64),
}

impl Rows {
    pub fn count(self) -> u64 {
        match self {
            Rows::None => 0,
            Rows::Onward(first, last) => last - first + 1,
            Rows::Backward(first, last) => first - last + 1,
        }
    }
}

impl Kept {
    /// Of whole DataRow messages.
    pub fn new(rows: Vec<u8>) -> Kept {
        let mut starts = Vec::new();
        let mut at = 0;
        while let Some([_, a, b, c, d]) = rows.get(at..at + HEADER) {
            starts.push(at);
            at += 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        }
        Kept { rows, starts }
    }

    pub fn count(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.rows.len() + self.starts.len() * size_of::<usize>()
    }

    /// Appends the rows.
    pub fn show(&self, rows: Rows, out: &mut Vec<u8>) {
        match rows {
            Rows::None => {}
            Rows::Onward(first, last) => out.extend_from_slice(self.between(first, last)),
            Rows::Backward(first, last) => {
                for row in (last..=first).rev() {
                    out.extend_from_slice(self.between(row, row));
                }
            }
        }
    }

    fn between(&self, first: u64, last: u64) -> &[u8] {
        let start = |row: u64| {
            let place = usize::try_from(row - 1).ok();
            place.and_then(|place| self.starts.get(place).copied())
        };
        let end = start(last + 1).unwrap_or(self.rows.len());
        start(first).map_or(&[], |start| &self.rows[start..end])
    }
}

/// Where this leads among so many rows.
pub fn led(direction: Direction, place: u64, count: u64) -> Led {
    let behind = count + 1;
    // So many on: with fewer rows than that it ends behind them.
    let onward = |from: u64, rows: u64| {
        let last = from.saturating_add(rows).min(count);
        Led {
            place: if last.checked_sub(from) == Some(rows) {
                last
            } else {
                behind
            },
            rows: match last > from {
                true => Rows::Onward(from + 1, last),
                false => Rows::None,
            },
        }
    };
    let backward = |from: u64, rows: u64| {
        let last = from.saturating_sub(rows).max(1);
        Led {
            place: from.saturating_sub(rows),
            rows: match from > 1 {
                true => Rows::Backward(from - 1, last),
                false => Rows::None,
            },
        }
    };
    let to = |place: u64| Led {
        place,
        rows: match (1..=count).contains(&place) {
            true => Rows::Onward(place, place),
            false => Rows::None,
        },
    };
    match direction {
        Direction::Forward(0) | Direction::Relative(0) => to(place),
        Direction::Forward(rows) if rows > 0 => onward(place, rows.unsigned_abs()),
        Direction::Forward(rows) => backward(place, rows.unsigned_abs()),
        Direction::ForwardAll => Led {
            place: behind,
            ..onward(place, u64::MAX)
        },
        Direction::BackwardAll => Led {
            place: 0,
            ..backward(place, u64::MAX)
        },
        Direction::Relative(rows) if rows > 0 => {
            to(place.saturating_add(rows.unsigned_abs()).min(behind))
        }
        Direction::Relative(rows) => to(place.saturating_sub(rows.unsigned_abs())),
        Direction::Absolute(row) if row >= 0 => to(row.unsigned_abs().min(behind)),
        Direction::Absolute(row) => to(behind.saturating_sub(row.unsigned_abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Postgres 15 did with a SCROLL cursor over three rows.
    #[test]
    fn as_postgres_moves() {
        use Direction::{Absolute, BackwardAll, Forward, ForwardAll, Relative};
        let moved = |direction, place| {
            let Led { place, rows } = led(direction, place, 3);
            (place, rows)
        };
        assert_eq!(moved(Forward(2), 0), (2, Rows::Onward(1, 2)));
        assert_eq!(moved(Forward(2), 2), (4, Rows::Onward(3, 3)));
        assert_eq!(moved(Forward(1), 2), (3, Rows::Onward(3, 3)));
        assert_eq!(moved(Forward(1), 3), (4, Rows::None));
        assert_eq!(moved(Forward(1), 4), (4, Rows::None));
        assert_eq!(moved(Forward(0), 2), (2, Rows::Onward(2, 2)));
        assert_eq!(moved(Forward(0), 0), (0, Rows::None));
        assert_eq!(moved(Forward(0), 4), (4, Rows::None));
        assert_eq!(moved(Forward(-1), 4), (3, Rows::Backward(3, 3)));
        assert_eq!(moved(Forward(-2), 4), (2, Rows::Backward(3, 2)));
        assert_eq!(moved(Forward(-3), 3), (0, Rows::Backward(2, 1)));
        assert_eq!(moved(Forward(-1), 1), (0, Rows::None));
        assert_eq!(moved(Forward(-1), 0), (0, Rows::None));
        assert_eq!(moved(ForwardAll, 1), (4, Rows::Onward(2, 3)));
        assert_eq!(moved(BackwardAll, 4), (0, Rows::Backward(3, 1)));
        assert_eq!(moved(Absolute(2), 4), (2, Rows::Onward(2, 2)));
        assert_eq!(moved(Absolute(9), 1), (4, Rows::None));
        assert_eq!(moved(Absolute(0), 2), (0, Rows::None));
        assert_eq!(moved(Absolute(-1), 0), (3, Rows::Onward(3, 3)));
        assert_eq!(moved(Absolute(-9), 2), (0, Rows::None));
        assert_eq!(moved(Relative(2), 1), (3, Rows::Onward(3, 3)));
        assert_eq!(moved(Relative(-1), 4), (3, Rows::Onward(3, 3)));
        assert_eq!(moved(Relative(-5), 2), (0, Rows::None));
        assert_eq!(
            led(ForwardAll, 0, 0),
            Led {
                place: 1,
                rows: Rows::None
            }
        );
        assert_eq!(
            led(BackwardAll, 1, 0),
            Led {
                place: 0,
                rows: Rows::None
            }
        );
    }

    #[test]
    fn rows_in_both_directions() {
        let row = |text: &str| {
            let mut message = vec![b'D', 0, 0, 0, 4 + text.len() as u8];
            message.extend_from_slice(text.as_bytes());
            message
        };
        let kept = Kept::new([row("a"), row("bb"), row("")].concat());
        assert_eq!(kept.count(), 3);
        let shown = |rows| {
            let mut out = Vec::new();
            kept.show(rows, &mut out);
            out
        };
        assert_eq!(shown(Rows::Onward(1, 2)), [row("a"), row("bb")].concat());
        assert_eq!(
            shown(Rows::Backward(3, 1)),
            [row(""), row("bb"), row("a")].concat()
        );
        assert!(shown(Rows::None).is_empty());
    }
}
