//! Rows of several shards that a client takes in portions: what the shards are asked for next, and what waits for the client.
//!
//! Sans-io, beside [`Portion`], which hears the shards. Each shard keeps a portal of its own and is asked for a number of its rows at a time, so that
//! between two portions no connection is in the middle of an answer and other statements may use it. What is asked for and cannot be shown yet waits
//! here: for a merge in an order at most [`MOST_WAITING`] bytes, for a concatenation nothing. Groups that were added up wait whole; `merge` bounds them.

use std::collections::VecDeque;

use super::branch::{Audience, Failure};
use super::merge::{Merger, Pace};
use crate::wire::frame::HEADER;

/// How many rows of a shard are asked for at first, when their size is not known.
const FIRST: u64 = 16;

/// How much more a shard may be asked for than the last time.
const GROWTH: u64 = 4;

/// How many bytes of rows a shard is asked for at once, as far as the widest row that it has sent tells.
const CHUNK: u64 = 256 << 10;

/// The most bytes of rows that may wait for rows of other shards.
const MOST_WAITING: usize = 64 << 20;

/// Rows given away, above which their memory is given back.
const SPENT: usize = 64 << 10;

/// How the shards' rows become the client's.
enum Course {
    Merged(Box<Merger>),
    /// Those of one shard, as they are.
    AsTheyCome,
}

/// In what order shards are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As it suits the course.
    Any,
    /// The next one when the one before it has no more rows, for no more than are shown: what it gives it locks, and who locks on several shards
    /// does so in their order.
    Fixed,
}

/// Where a shard is with its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may have more.
    Open,
    /// It has sent its last row; what waits has not been looked at.
    Sent,
    Ended,
}

/// What is known of one shard's rows.
struct Source {
    stage: Stage,
    /// Bodies of DataRow.
    waiting: VecDeque<Box<[u8]>>,
    /// Of the widest row so far, bytes.
    widest: u64,
    /// For how many it was asked last.
    asked: u64,
}

/// All rows of one result, and how far the client is with them.
pub struct Portions {
    course: Course,
    order: Order,
    sources: Vec<Source>,
    /// DataRow messages for the client, from `at` on not yet given.
    ready: Vec<u8>,
    at: usize,
    waiting_bytes: usize,
}

/// How many rows a shard is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The shard's place among those of the result.
    pub source: usize,
    /// As in Execute: 0 is all.
    pub max_rows: i32,
}

impl Portions {
    fn new(course: Course, sources: usize, order: Order) -> Portions {
        let source = |_| Source {
            stage: Stage::Open,
            waiting: VecDeque::new(),
            widest: 1,
            asked: 0,
        };
        Portions {
            course,
            order,
            sources: (0..sources).map(source).collect(),
            ready: Vec::new(),
            at: 0,
            waiting_bytes: 0,
        }
    }

    pub fn merged(merger: Merger, shards: usize, order: Order) -> Portions {
        Portions::new(Course::Merged(Box::new(merger)), shards, order)
    }

    /// The rows of one shard, as they are.
    pub fn of_one() -> Portions {
        Portions::new(Course::AsTheyCome, 1, Order::Any)
    }

    /// What is there already: DataRow messages.
    pub fn kept(rows: Vec<u8>) -> Portions {
        let mut kept = Portions::new(Course::AsTheyCome, 0, Order::Any);
        kept.ready = rows;
        kept
    }

    /// No row is left to be asked for.
    fn is_exhausted(&self) -> bool {
        let satisfied = matches!(&self.course, Course::Merged(merger) if merger.is_satisfied());
        satisfied
            || self
                .sources
                .iter()
                .all(|source| source.stage == Stage::Ended)
    }

    /// No row is left to be given.
    pub fn is_empty(&self) -> bool {
        self.at == self.ready.len() && self.is_exhausted()
    }

    /// What the shards are asked, so that the client gets `left` rows, or all; nothing when no more are needed or none are left.
    fn asks(&self, left: Option<u64>) -> Vec<Ask> {
        if left == Some(0) || self.is_exhausted() {
            return Vec::new();
        }
        let (pace, limit) = match &self.course {
            Course::Merged(merger) => (merger.pace(), merger.left()),
            Course::AsTheyCome => (Pace::OneByOne, None),
        };
        let sources = self.sources.iter().enumerate();
        let open = sources.filter(|(_, source)| source.stage == Stage::Open);
        if self.order == Order::Fixed {
            let needed = left.into_iter().chain(limit).min();
            let needed = needed.filter(|_| pace == Pace::OneByOne);
            let ask = |(source, _)| Ask {
                source,
                max_rows: needed.map_or(0, at_most),
            };
            return open.take(1).map(ask).collect();
        }
        let Some(left) = left.filter(|_| pace != Pace::Whole) else {
            let whole = |(source, _)| Ask {
                source,
                max_rows: 0,
            };
            return open.map(whole).collect();
        };
        if pace == Pace::OneByOne {
            let ask = |(source, _)| Ask {
                source,
                max_rows: at_most(left),
            };
            return open.take(1).map(ask).collect();
        }
        let needed = open.filter(|(place, source)| source.waiting.is_empty() && self.wants(*place));
        let ask = |(place, source): (usize, &Source)| Ask {
            source: place,
            max_rows: at_most(source.chunk().min(left.saturating_add(1))),
        };
        needed.map(ask).collect()
    }

    fn wants(&self, source: usize) -> bool {
        match &self.course {
            Course::Merged(merger) => merger.wants(source),
            Course::AsTheyCome => true,
        }
    }

    fn heard_row(&mut self, place: usize, body: &[u8]) -> Result<(), Failure> {
        let source = &mut self.sources[place];
        source.widest = source.widest.max(body.len() as u64);
        let Course::Merged(merger) = &mut self.course else {
            super::branch::pass_on(b'D', body, &mut self.ready);
            return Ok(());
        };
        if source.waiting.is_empty() && merger.wants(place) {
            merger.row(place, body, &mut self.ready)?;
            return self.go_on();
        }
        self.waiting_bytes += body.len();
        if self.waiting_bytes > MOST_WAITING {
            return Err(Failure::Ours {
                sqlstate: "53400",
                message: format!(
                    "more than {} MB of rows wait for rows of other shards, so that they are in order",
                    MOST_WAITING >> 20
                ),
                hint: Some("Ask for fewer rows at a time, or for narrower ones."),
            });
        }
        source.waiting.push_back(Box::from(body));
        Ok(())
    }

    fn heard_end(&mut self, place: usize) -> Result<(), Failure> {
        self.sources[place].stage = Stage::Sent;
        self.go_on()
    }

    /// Gives the merger what waits, as long as it wants it.
    fn go_on(&mut self) -> Result<(), Failure> {
        let merger = match &mut self.course {
            Course::Merged(merger) => merger,
            Course::AsTheyCome => {
                let sent = self.sources.iter_mut();
                sent.filter(|source| source.stage == Stage::Sent)
                    .for_each(|source| source.stage = Stage::Ended);
                return Ok(());
            }
        };
        let mut moved = true;
        while moved {
            moved = false;
            for (place, source) in self.sources.iter_mut().enumerate() {
                while !source.waiting.is_empty() && merger.wants(place) {
                    let Some(row) = source.waiting.pop_front() else {
                        break;
                    };
                    self.waiting_bytes -= row.len();
                    merger.row(place, &row, &mut self.ready)?;
                    moved = true;
                }
                // Not while its last row is held.
                if source.stage == Stage::Sent && source.waiting.is_empty() && merger.wants(place) {
                    source.stage = Stage::Ended;
                    merger.ended(place, &mut self.ready)?;
                    moved = true;
                }
            }
        }
        Ok(())
    }

    /// Gives up to `left` rows, or drops them; how many.
    fn give(&mut self, left: Option<u64>, out: Option<&mut Vec<u8>>) -> u64 {
        let from = self.at;
        let mut given = 0;
        while left.is_none_or(|left| given < left)
            && let Some(length) = message_length(&self.ready[self.at..])
        {
            self.at += length;
            given += 1;
        }
        if let Some(out) = out {
            out.extend_from_slice(&self.ready[from..self.at]);
        }
        if self.at == self.ready.len() {
            self.ready.clear();
            self.ready.shrink_to(SPENT);
            self.at = 0;
        } else if self.at >= SPENT.max(self.ready.len() / 2) {
            self.ready.drain(..self.at);
            self.at = 0;
        }
        given
    }
}

impl Source {
    /// How many rows are asked for next.
    fn chunk(&self) -> u64 {
        match self.asked {
            0 => FIRST,
            asked => (CHUNK / self.widest).clamp(1, asked.saturating_mul(GROWTH)),
        }
    }
}

fn at_most(rows: u64) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}

/// With its head; `None`: there is no more.
fn message_length(messages: &[u8]) -> Option<usize> {
    match messages {
        [_, a, b, c, d, ..] => Some(HEADER - 4 + u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        _ => None,
    }
}

/// One portion on its way to the client.
pub struct Portion<'a> {
    rows: &'a mut Portions,
    /// How many rows the client still gets of it; `None`: all that there are.
    left: Option<u64>,
    given: u64,
    fate: RowFate,
}

/// What becomes of the rows of a portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowFate {
    Given,
    /// They are only counted.
    Dropped,
}

impl<'a> Portion<'a> {
    /// With the rows that wait for the client already. `None`: nobody gets them.
    pub fn begin(
        rows: &'a mut Portions,
        limit: Option<u64>,
        out: Option<&mut Vec<u8>>,
    ) -> Portion<'a> {
        let fate = match &out {
            Some(_) => RowFate::Given,
            None => RowFate::Dropped,
        };
        let given = rows.give(limit, out);
        Portion {
            rows,
            left: limit.map(|limit| limit - given),
            given,
            fate,
        }
    }

    /// What the shards are asked next; nothing: it is whole.
    pub fn asks(&mut self) -> Vec<Ask> {
        let asks = self.rows.asks(self.left);
        for ask in &asks {
            self.rows.sources[ask.source].asked = u64::try_from(ask.max_rows).unwrap_or(0).max(1);
        }
        asks
    }

    /// How many rows the client has got.
    pub fn given(&self) -> u64 {
        self.given
    }

    fn give(&mut self, out: &mut Vec<u8>) {
        let out = match self.fate {
            RowFate::Given => Some(out),
            RowFate::Dropped => None,
        };
        let given = self.rows.give(self.left, out);
        self.given += given;
        if let Some(left) = &mut self.left {
            *left -= given;
        }
    }
}

impl Audience for Portion<'_> {
    fn wants(&self, branch: usize) -> bool {
        let source = &self.rows.sources[branch];
        // When all is asked for, rows stay on the way until their turn has come.
        self.left.is_some()
            || self.rows.order == Order::Fixed
            || source.stage != Stage::Open
            || source.waiting.is_empty() && self.rows.wants(branch)
    }

    fn hear(
        &mut self,
        branch: usize,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match tag {
            b'D' => self.rows.heard_row(branch, body)?,
            b'C' => self.rows.heard_end(branch)?,
            _ => return Ok(()),
        }
        self.give(out);
        Ok(())
    }

    fn is_satisfied(&self) -> bool {
        matches!(&self.rows.course, Course::Merged(merger) if merger.is_satisfied())
    }
}

/// Hears a cursor being declared and read into a portal, of which the first row comes at once.
pub struct Opening<'a> {
    rows: &'a mut Portions,
    declared: Declared,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Declared {
    NotYet,
    Yes,
}

impl<'a> Opening<'a> {
    pub fn new(rows: &'a mut Portions) -> Opening<'a> {
        Opening {
            rows,
            declared: Declared::NotYet,
        }
    }
}

impl Audience for Opening<'_> {
    fn hear(&mut self, _: usize, tag: u8, body: &[u8], _: &mut Vec<u8>) -> Result<(), Failure> {
        match (tag, self.declared) {
            (b'C', Declared::NotYet) => {
                self.declared = Declared::Yes;
                Ok(())
            }
            (b'C', Declared::Yes) => self.rows.heard_end(0),
            (b'D', _) => self.rows.heard_row(0, body),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::columns::Column;
    use crate::plan::spread::scatter::{
        Counts, Direction, Hidden, Merge, Nulls, Scatter, SortKey, Text,
    };

    const INT4: u32 = 23;

    fn portions(merge: Merge, limit: Option<u64>, shards: usize) -> Portions {
        counted(merge, (limit, 0), shards, Order::Any)
    }

    fn counted(
        merge: Merge,
        (limit, offset): (Option<u64>, u64),
        shards: usize,
        order: Order,
    ) -> Portions {
        let column = Column {
            name: Box::default(),
            table: 0,
            attribute: 0,
            type_oid: INT4,
            type_size: 4,
            modifier: -1,
            format: 0,
        };
        let scatter = Scatter {
            edits: Vec::new(),
            merge,
            hidden: Hidden::Columns(1),
            limit: None,
            offset: None,
            own: None,
            locks: order == Order::Fixed,
        };
        let counts = Counts { limit, offset };
        let columns = [column.clone(), column];
        let merger = Merger::new(&scatter, &columns, &[1], counts, shards).expect("it suits");
        Portions::merged(merger, shards, order)
    }

    fn sorted() -> Merge {
        Merge::Sort(vec![SortKey {
            column: 0,
            direction: Direction::Ascending,
            nulls: Nulls::Last,
            text: Text::C,
        }])
    }

    /// A number, and the same as the key.
    fn row(number: i32) -> Vec<u8> {
        let value = [4_i32.to_be_bytes(), number.to_be_bytes()].concat();
        [&[0, 2], &value[..], &value[..]].concat()
    }

    fn numbers(out: &[u8]) -> Vec<i32> {
        // Tag, length, count, the value's length, the value.
        let rows = out.chunks_exact(15);
        assert!(rows.remainder().is_empty());
        rows.map(|row| i32::from_be_bytes(row[11..].try_into().expect("four bytes")))
            .collect()
    }

    /// Shards with these rows, and how many each has given.
    struct Shards<'a>(&'a [Vec<i32>], Vec<usize>);

    impl Shards<'_> {
        /// One portion; its rows, and the most rows that a shard was asked for.
        fn portion(&mut self, rows: &mut Portions, limit: Option<u64>) -> (Vec<i32>, i32) {
            let (mut out, mut most) = (Vec::new(), 0);
            let mut portion = Portion::begin(rows, limit, Some(&mut out));
            loop {
                let asks = portion.asks();
                if asks.is_empty() {
                    break;
                }
                most = asks.iter().map(|ask| ask.max_rows).fold(most, i32::max);
                let mut open: Vec<(Ask, usize)> = asks.into_iter().map(|ask| (ask, 0)).collect();
                while !open.is_empty() && !portion.is_satisfied() {
                    let before = open.len();
                    let mut moved = false;
                    open.retain_mut(|(ask, given)| {
                        while portion.wants(ask.source) {
                            moved = true;
                            let at = &mut self.1[ask.source];
                            if ask.max_rows > 0 && *given == ask.max_rows as usize {
                                return false;
                            }
                            let Some(number) = self.0[ask.source].get(*at) else {
                                portion
                                    .hear(ask.source, b'C', b"SELECT 1\0", &mut out)
                                    .expect("it ends");
                                return false;
                            };
                            *at += 1;
                            *given += 1;
                            portion
                                .hear(ask.source, b'D', &row(*number), &mut out)
                                .expect("a row");
                        }
                        true
                    });
                    assert!(moved || open.len() < before, "nobody is listened to");
                }
            }
            assert_eq!(numbers(&out).len() as u64, portion.given());
            (numbers(&out), most)
        }
    }

    #[test]
    fn portions_of_any_size_are_the_whole_in_its_order() {
        let rows: Vec<Vec<i32>> = vec![
            (0..300).map(|number| number * 3).collect(),
            vec![],
            (400..420).collect(),
            (0..500).collect(),
        ];
        let mut whole = rows.concat();
        whole.sort_unstable();
        for sizes in [
            &[Some(1), Some(2), Some(7), None][..],
            &[Some(100)],
            &[None],
            &[Some(820), None],
            &[Some(10_000)],
        ] {
            let mut portions = portions(sorted(), None, rows.len());
            let mut shards = Shards(&rows, vec![0; rows.len()]);
            let mut found = Vec::new();
            for size in sizes.iter().cycle() {
                let (portion, most) = shards.portion(&mut portions, *size);
                if let Some(size) = size {
                    assert!(portion.len() as u64 <= *size);
                    assert!(most as u64 <= size + 1, "{most} rows for {size}");
                }
                let ended = size.is_none_or(|size| (portion.len() as u64) < size);
                found.extend(portion);
                if ended {
                    break;
                }
            }
            assert_eq!(found, whole, "{sizes:?}");
            assert!(portions.is_empty());
            assert!(shards.portion(&mut portions, Some(5)).0.is_empty());
        }
    }

    #[test]
    fn rows_in_any_order_come_from_one_shard_after_the_other_and_none_waits() {
        let rows: Vec<Vec<i32>> = vec![vec![1, 2, 3], vec![4], vec![5, 6]];
        let mut portions = portions(Merge::Concat, Some(5), rows.len());
        let mut shards = Shards(&rows, vec![0; rows.len()]);
        assert_eq!(shards.portion(&mut portions, Some(2)).0, [1, 2]);
        assert_eq!(shards.1, [2, 0, 0]);
        assert_eq!(shards.portion(&mut portions, Some(2)).0, [3, 4]);
        assert_eq!(shards.portion(&mut portions, Some(2)).0, [5]);
        assert!(portions.is_empty(), "LIMIT is reached");
    }

    #[test]
    fn who_locks_asks_shard_after_shard_for_no_more_than_is_shown() {
        let rows: Vec<Vec<i32>> = vec![vec![1, 2, 3], vec![4], vec![5, 6, 7]];
        for size in [None, Some(4), Some(100)] {
            let mut portions = counted(Merge::Concat, (Some(4), 1), rows.len(), Order::Fixed);
            let mut shards = Shards(&rows, vec![0; rows.len()]);
            assert_eq!(shards.portion(&mut portions, size).0, [2, 3, 4, 5]);
            assert_eq!(shards.1, [3, 1, 1]);
        }
        let mut portions = counted(sorted(), (None, 0), rows.len(), Order::Fixed);
        let mut shards = Shards(&rows, vec![0; rows.len()]);
        let mut portion = Portion::begin(&mut portions, Some(2), None);
        let asks = portion.asks();
        assert_eq!(asks.len(), 1);
        assert_eq!((asks[0].source, asks[0].max_rows), (0, 0));
        assert_eq!(shards.portion(&mut portions, Some(2)).0, [1, 2]);
        assert_eq!(shards.1, [3, 1, 3], "all are locked before one is shown");
        assert_eq!(shards.portion(&mut portions, None).0, [3, 4, 5, 6, 7]);
    }

    #[test]
    fn what_waits_has_a_limit() {
        let mut portions = portions(sorted(), None, 2);
        let mut out = Vec::new();
        let mut portion = Portion::begin(&mut portions, Some(10), Some(&mut out));
        assert_eq!(portion.asks().len(), 2);
        let length = 33_i32 << 20;
        let wide = vec![0; length as usize];
        let row = [&[0, 2], &length.to_be_bytes()[..], &wide, &row(1)[2..10]].concat();
        let mut hear = || portion.hear(0, b'D', &row, &mut out);
        // The first is compared, and others wait.
        assert!(hear().is_ok());
        assert!(hear().is_ok());
        let refused = hear();
        assert!(
            matches!(
                refused,
                Err(Failure::Ours {
                    sqlstate: "53400",
                    ..
                })
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn rows_that_nobody_gets_are_counted() {
        let mut kept = Vec::new();
        for number in 0..4 {
            super::super::branch::pass_on(b'D', &row(number), &mut kept);
        }
        let mut portions = Portions::kept(kept);
        assert_eq!(Portion::begin(&mut portions, Some(3), None).given(), 3);
        assert!(!portions.is_empty());
        assert_eq!(Portion::begin(&mut portions, Some(3), None).given(), 1);
        assert!(portions.is_empty());
    }
}
