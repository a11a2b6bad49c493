//! FETCH, MOVE and CLOSE: which cursor is meant, and where it goes.

use super::class::{Class, Closing, Direction, Motion, Verb};
use super::cursor::Cursor;
use super::lexer::Kind;

/// `None`: it is none of these.
pub(super) fn classify(mut cursor: Cursor) -> Option<Class> {
    if cursor.take("close") {
        let closing = match () {
            () if cursor.take("all") => Some(Closing::All),
            () => cursor.name().map(Closing::One),
        };
        return Some(Class::CloseCursor(closing.filter(|_| cursor.at_end())));
    }
    let verb = match () {
        () if cursor.take("fetch") => Verb::Fetch,
        () if cursor.take("move") => Verb::Move,
        () => return None,
    };
    Some(Class::Fetch(motion(verb, cursor)))
}

/// Words that may stand in front of the name are names themselves, where no other follows.
fn motion(verb: Verb, cursor: Cursor) -> Option<Motion> {
    let alone = |mut cursor: Cursor| {
        let name = cursor.name()?;
        cursor.at_end().then_some((Direction::Forward(1), name))
    };
    let (direction, name) = alone(cursor.clone()).or_else(|| with_direction(cursor))?;
    Some(Motion {
        verb,
        direction,
        cursor: name,
    })
}

fn with_direction(mut cursor: Cursor) -> Option<(Direction, Box<str>)> {
    let direction = match () {
        () if cursor.sees_any(0, &["from", "in"]) => Direction::Forward(1),
        () if cursor.take("next") => Direction::Forward(1),
        () if cursor.take("prior") => Direction::Forward(-1),
        () if cursor.take("first") => Direction::Absolute(1),
        () if cursor.take("last") => Direction::Absolute(-1),
        () if cursor.take("absolute") => Direction::Absolute(number(&mut cursor)?),
        () if cursor.take("relative") => Direction::Relative(number(&mut cursor)?),
        () if cursor.take("all") => Direction::ForwardAll,
        () if cursor.take("forward") => counted(&mut cursor, 1, Direction::ForwardAll)?,
        () if cursor.take("backward") => counted(&mut cursor, -1, Direction::BackwardAll)?,
        () => Direction::Forward(number(&mut cursor)?),
    };
    cursor.take_any(&["from", "in"]);
    let name = cursor.name()?;
    cursor.at_end().then_some((direction, name))
}

/// What may stand behind FORWARD and BACKWARD: a number, ALL, or nothing.
fn counted(cursor: &mut Cursor, sign: i64, all: Direction) -> Option<Direction> {
    if cursor.take("all") {
        return Some(all);
    }
    let is_number = matches!(cursor.kind(), Some(Kind::Literal(_) | Kind::Operator));
    let count = if is_number { number(cursor)? } else { 1 };
    Some(Direction::Forward(sign * count))
}

/// With its sign, as large as a server takes it.
fn number(cursor: &mut Cursor) -> Option<i64> {
    let negative = cursor.take_operator("-");
    if !negative {
        cursor.take_operator("+");
    }
    let lexeme = cursor
        .next()
        .filter(|lexeme| matches!(lexeme.kind, Kind::Literal(_)))?;
    let count: i32 = cursor.source(lexeme).parse().ok()?;
    Some(if negative {
        -i64::from(count)
    } else {
        i64::from(count)
    })
}
