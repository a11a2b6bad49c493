//! DECLARE, FETCH, MOVE and CLOSE of cursors over several shards. A cursor is a portal of the session's under the cursor's name, as in Postgres.
//!
//! One that is declared SCROLL or WITH HOLD has its rows here (`kept.rs`). Any other only goes forward, and servers have its rows: where Postgres would refuse
//! to go back, this does in its words; where it could, the statement is refused.

use std::cell::RefCell;
use std::rc::Rc;

use super::changes::MOST_KEPT;
use super::cursor::Shown;
use super::portal::{Declared as Cursor, Lasts, Place, Side, SpreadPortal, not_run_again};
use super::{Call, Returned, Telling, with_formats};
use crate::execution::branch::pass_on;
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::declared::Declared;
use crate::plan::{Creates, PlannedStatement};
use crate::session::Session;
use crate::session::respond::Fault;
use crate::session::transaction::{Opener, Transaction};
use crate::sql::class::{Class, Closing, Direction, Hold, Motion, RowFormat, Scroll, Verb};
use crate::sql::normalise::from_normal;
use crate::wire::answer;

/// What a cursor does for FETCH or MOVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Stays where it is; MOVE says so many rows.
    Stay(u64),
    /// Goes on over so many rows, and then over as many as are asked for, or all.
    Forward { skip: Skip, take: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    Rows(u64),
}

/// It would have to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Back;

/// Where a cursor goes that cannot go back: as `DoPortalRunFetch` in `pquery.c`.
fn forward(motion: &Motion, place: Place) -> Result<Move, Back> {
    let go = |skip: u64, take| Move::Forward {
        skip: match skip {
            0 => Skip::Nothing,
            rows => Skip::Rows(rows),
        },
        take,
    };
    let on_row = place.passed > 0 && place.side == Side::Within;
    match motion.direction {
        Direction::ForwardAll => Ok(go(0, None)),
        Direction::Forward(0) | Direction::Relative(0) => match (on_row, motion.verb) {
            (false, _) => Ok(Move::Stay(0)),
            (true, Verb::Move) => Ok(Move::Stay(1)),
            (true, Verb::Fetch) => Err(Back),
        },
        Direction::Forward(count) => match u64::try_from(count) {
            Ok(count) => Ok(go(0, Some(count))),
            Err(_) => Err(Back),
        },
        Direction::Relative(count) => match u64::try_from(count) {
            Ok(count) => Ok(go(count - 1, Some(1))),
            Err(_) => Err(Back),
        },
        Direction::Absolute(count) => match u64::try_from(count) {
            Err(_) => Err(Back),
            Ok(0) if place == Place::default() => Ok(Move::Stay(0)),
            Ok(0) => Err(Back),
            // It would begin anew, and need not where it has not begun.
            Ok(count) if count - 1 <= place.passed / 2 => match place == Place::default() {
                true => Ok(go(count - 1, Some(1))),
                false => Err(Back),
            },
            Ok(count) => {
                let at = place.passed + u64::from(place.side == Side::Behind);
                match count.checked_sub(at + 1) {
                    Some(between) => Ok(go(between, Some(1))),
                    None => Err(Back),
                }
            }
        },
        Direction::BackwardAll => Err(Back),
    }
}

impl Session {
    pub(super) async fn declare(
        &mut self,
        call: &Call<'_>,
        declared: &Declared,
    ) -> Result<(), Fault> {
        let Class::Declare {
            name,
            scroll,
            hold,
            rows,
            ..
        } = &call.statement.class
        else {
            return Err(Fault::Told);
        };
        let has_block = self.transaction != Transaction::Idle && self.opener == Opener::Client;
        if *hold == Hold::Without && !has_block {
            return Err(Fault::no_transaction("DECLARE CURSOR"));
        }
        if self.batch.knows_cursor(name) {
            return Err(cursor_exists(name));
        }
        let query = PlannedStatement {
            range: declared.query.clone(),
            class: Class::Data,
            plan: call.statement.plan.clone(),
            spread: None,
            over: call.statement.over.clone(),
            leaves: call.statement.leaves.clone(),
            effect: call.statement.effect,
            nodes: call.statement.nodes,
            reads: call.statement.reads,
            takes: call.statement.takes,
            creates: Creates::Other,
        };
        let formats: &[u16] = match rows {
            RowFormat::Text => &[],
            RowFormat::Binary => &[1],
        };
        let in_query = Call {
            statement: &query,
            spread: &declared.spread,
            formats,
            ..*call
        };
        let opened = match (scroll, hold) {
            (Scroll::No | Scroll::Unsaid, Hold::Without) => {
                self.open_declared(&in_query, *scroll).await
            }
            _ => {
                self.describe_declared(call).await?;
                self.keep_declared(&in_query, *scroll, *hold).await
            }
        };
        let portal = opened.map_err(|fault| {
            let start = from_normal(declared.query.start, call.literals);
            let before = String::from_utf8_lossy(call.text.get(..start).unwrap_or_default());
            in_whole_text(fault, before.chars().count())
        })?;
        self.batch.add_cursor(name, Rc::new(portal));
        self.tell_tag("DECLARE CURSOR");
        Ok(())
    }

    /// A cursor that goes forward, whose rows come when they are asked for.
    async fn open_declared(
        &mut self,
        query: &Call<'_>,
        scroll: Scroll,
    ) -> Result<SpreadPortal, Fault> {
        let query = Call {
            telling: Telling::Rows,
            ..*query
        };
        let cursor = self.open_cursor(&query).await?;
        let depth = self.savepoints.len();
        Ok(SpreadPortal::declared(cursor, scroll, depth))
    }

    /// What Postgres has against such a cursor, whatever its rows are.
    async fn describe_declared(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        self.end_unit_of_others().await?;
        let home = self.database.catalog().home;
        let mut links = self.enlist(&[home]).await?;
        let described = self
            .describe_on(&mut links[0], call.own_text(), call.types)
            .await;
        self.finish(links, described.map(|_| ())).await
    }

    /// A cursor that goes back or outlives its transaction, with all of its rows.
    async fn keep_declared(
        &mut self,
        query: &Call<'_>,
        scroll: Scroll,
        hold: Hold,
    ) -> Result<SpreadPortal, Fault> {
        if query.telling == Telling::Rows {
            // What fails later in the same unit of work takes the cursor with it.
            self.begin_own(Telling::Rows);
        }
        let lasts = match (hold, &self.transaction) {
            (Hold::Without, _) => Lasts::Transaction,
            (Hold::With, Transaction::Idle) => Lasts::Session,
            (Hold::With, _) => Lasts::OnCommit,
        };
        let returned = RefCell::new(Returned {
            room: MOST_KEPT.saturating_sub(self.batch.kept_bytes()),
            ..Returned::default()
        });
        let query = Call {
            returned: Some(&returned),
            ..*query
        };
        // By way of a box: what a statement does is not known to contain a statement.
        Box::pin(self.spread(&query)).await?;
        let depth = self.savepoints.len();
        let returned = returned.into_inner();
        Ok(SpreadPortal::kept(returned, scroll, lasts, depth))
    }

    /// FETCH, MOVE and CLOSE.
    pub(super) async fn use_cursor(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        match &call.statement.class {
            Class::Fetch(Some(motion)) => self.move_cursor(call, motion).await,
            Class::CloseCursor(Some(Closing::One(name))) => {
                self.close_open_portal(name.as_bytes()).await?;
                self.batch.close_portal(name.as_bytes());
                self.tell_tag("CLOSE CURSOR");
                Ok(())
            }
            Class::CloseCursor(Some(Closing::All)) => {
                for name in self.batch.open_portals() {
                    self.close_open_portal(&name).await?;
                }
                self.batch.close_cursors();
                self.tell_party("CLOSE ALL").await?;
                self.tell_tag("CLOSE CURSOR ALL");
                Ok(())
            }
            _ => Err(Fault::Told),
        }
    }

    async fn move_cursor(&mut self, call: &Call<'_>, motion: &Motion) -> Result<(), Fault> {
        let Some(portal) = self.batch.cursor(&motion.cursor) else {
            return Err(no_cursor(&motion.cursor));
        };
        let Some(cursor) = portal.as_declared() else {
            return Err(no_cursor(&motion.cursor));
        };
        if motion.verb == Verb::Fetch {
            self.check_formats(call, cursor)?;
        }
        let place = cursor.place.get();
        if place.side == Side::Failed {
            return Err(not_run_again(motion.cursor.as_bytes()));
        }
        let wanted = match cursor.scroll {
            Scroll::Yes => None,
            Scroll::No | Scroll::Unsaid => {
                let forward = forward(motion, place);
                Some(forward.map_err(|Back| back(cursor, motion))?)
            }
        };
        let shown = match motion.verb {
            Verb::Fetch => Shown::Yes,
            Verb::Move => Shown::No,
        };
        if motion.verb == Verb::Fetch && call.telling == Telling::Description {
            pass_on(b'T', &cursor.columns, &mut self.client.outbox);
        }
        let rows = match (wanted, &cursor.kept) {
            (None, None) => 0,
            (_, Some(kept)) => {
                let rows = cursor.go(kept, motion.direction);
                if shown == Shown::Yes {
                    kept.show(rows, &mut self.client.outbox);
                }
                rows.count()
            }
            (Some(Move::Stay(rows)), None) => rows,
            (Some(Move::Forward { skip, take }), None) => {
                if let Skip::Rows(rows) = skip {
                    self.pass_rows(&portal, Some(rows), Shown::No).await?;
                }
                match cursor.place.get().side {
                    Side::Behind | Side::Failed => 0,
                    Side::Within => self.pass_rows(&portal, take, shown).await?,
                }
            }
        };
        let command = match motion.verb {
            Verb::Fetch => "FETCH",
            Verb::Move => "MOVE",
        };
        self.tell_tag(&format!("{command} {rows}"));
        Ok(())
    }

    /// Rows are asked of shards in the formats that the cursor was declared with.
    fn check_formats(&self, call: &Call<'_>, cursor: &Cursor) -> Result<(), Fault> {
        if call.telling == Telling::Description
            || with_formats(&cursor.columns, call.formats) == cursor.columns
        {
            return Ok(());
        }
        let message = "FETCH asks for rows of several shards in another format than the cursor was declared with";
        Err(Fault::Refused(Refusal::new(Reason::Cursor, message)))
    }

    /// What a FETCH of such a cursor returns: the body of RowDescription, in text format.
    pub(in crate::session) fn columns_of_fetch(&self, class: &Class) -> Option<Vec<u8>> {
        let Class::Fetch(Some(motion)) = class else {
            return None;
        };
        let portal = self.batch.cursor(&motion.cursor)?;
        let cursor = portal.as_declared()?;
        (motion.verb == Verb::Fetch).then(|| with_formats(&cursor.columns, &[]))
    }

    /// Describe of a bound FETCH, MOVE, CLOSE.
    pub(super) async fn describe_use(&mut self, call: &Call<'_>) -> Result<(), Fault> {
        self.check_not_aborted()?;
        self.end_unit_of_others().await?;
        match self.columns_of_fetch(&call.statement.class) {
            Some(columns) => pass_on(
                b'T',
                &with_formats(&columns, call.formats),
                &mut self.client.outbox,
            ),
            None => answer::no_data(&mut self.client.outbox),
        }
        Ok(())
    }
}

fn back(cursor: &Cursor, motion: &Motion) -> Fault {
    if cursor.scroll == Scroll::No {
        let side = Side::Failed;
        cursor.place.set(Place {
            side,
            ..cursor.place.get()
        });
        return Fault::Limit {
            sqlstate: "55000",
            message: "cursor can only scan forward".to_owned(),
            hint: Some("Declare it with SCROLL option to enable backward scan."),
        };
    }
    let message = format!(
        "cursor \"{}\" is over rows of several shards and only moves forward",
        motion.cursor
    );
    Fault::Refused(Refusal::new(Reason::Cursor, message))
}

/// A server that was asked the query alone points into it: `before` characters stand in front of it.
fn in_whole_text(fault: Fault, before: usize) -> Fault {
    let Fault::Server(error) = fault else {
        return fault;
    };
    let fields = error.split_inclusive(|byte| *byte == 0);
    let moved = fields.flat_map(|field| {
        let position = field
            .strip_prefix(b"P")
            .and_then(|digits| std::str::from_utf8(digits.strip_suffix(b"\0")?).ok())
            .and_then(|digits| digits.parse::<usize>().ok());
        match position {
            Some(position) => format!("P{}\0", position + before).into_bytes(),
            None => field.to_vec(),
        }
    });
    Fault::Server(moved.collect())
}

pub(in crate::session) fn cursor_exists(name: &str) -> Fault {
    Fault::Postgres {
        sqlstate: "42P03",
        message: format!("cursor \"{name}\" already exists"),
    }
}

fn no_cursor(name: &str) -> Fault {
    Fault::Postgres {
        sqlstate: "34000",
        message: format!("cursor \"{name}\" does not exist"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(verb: Verb, direction: Direction, passed: u64, side: Side) -> Result<Move, Back> {
        let motion = Motion {
            verb,
            direction,
            cursor: "c".into(),
        };
        forward(&motion, Place { passed, side })
    }

    #[test]
    fn errors_point_into_the_whole_text() {
        let error = b"SERROR\0C42703\0P8\0Mno P9 here\0\0".to_vec();
        let Fault::Server(moved) = in_whole_text(Fault::Server(error), 21) else {
            panic!("another fault");
        };
        assert_eq!(moved, b"SERROR\0C42703\0P29\0Mno P9 here\0\0");
    }

    /// What Postgres 15 did with NO SCROLL cursors.
    #[test]
    fn only_forward() {
        use Direction::{Absolute, Forward, ForwardAll, Relative};
        let fetch = |direction, passed| moved(Verb::Fetch, direction, passed, Side::Within);
        let take = |rows, take| {
            Ok(Move::Forward {
                skip: match rows {
                    0 => Skip::Nothing,
                    rows => Skip::Rows(rows),
                },
                take,
            })
        };
        assert_eq!(fetch(ForwardAll, 3), take(0, None));
        assert_eq!(fetch(Forward(0), 0), Ok(Move::Stay(0)));
        assert_eq!(fetch(Forward(0), 2), Err(Back));
        assert_eq!(fetch(Forward(-1), 2), Err(Back));
        assert_eq!(fetch(Relative(3), 2), take(2, Some(1)));
        assert_eq!(fetch(Absolute(1), 0), take(0, Some(1)));
        assert_eq!(fetch(Absolute(1), 1), Err(Back));
        assert_eq!(fetch(Absolute(3), 1), take(1, Some(1)));
        assert_eq!(fetch(Absolute(3), 3), Err(Back));
        assert_eq!(fetch(Absolute(-1), 0), Err(Back));
        let walk = |direction, side| moved(Verb::Move, direction, 3, side);
        assert_eq!(walk(Forward(0), Side::Within), Ok(Move::Stay(1)));
        assert_eq!(walk(Forward(0), Side::Behind), Ok(Move::Stay(0)));
        assert_eq!(walk(Absolute(9), Side::Behind), take(4, Some(1)));
    }
}
