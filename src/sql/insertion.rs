//! The parts of an INSERT's text: its list of columns, its rows and their values, and calls that stand for one number.
//!
//! Only what has the plain form of Postgres's grammar is read; for all else the answer is that it is not known. What is meant is told by
//! facts, these are the places where it stands.

use std::ops::Range;

use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme};
use super::names::identifier;
use super::normalise::{Literal, literal_text};
use super::places::lexemes;

/// `INSERT INTO t (a, b) OVERRIDING .. VALUES (..), (..)`, or DEFAULT VALUES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insertion {
    pub columns: ColumnList,
    pub overriding: Option<Overriding>,
    pub rows: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnList {
    /// It could stand behind this place.
    None { at: usize },
    /// Where its last name and the list itself end.
    Given { names_end: usize, end: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overriding {
    System,
    User,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// DEFAULT VALUES stands there.
    Default(Range<usize>),
    Values(Vec<Row>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub values: Vec<Value>,
    /// Where its last value ends.
    pub end: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub range: Range<usize>,
    /// What it is, when it is nothing else.
    pub call: Option<Call>,
}

/// A call that gives a number which does not depend on rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `nextval('name')`
    Next(SequenceName),
    /// `currval('name')`
    Current(SequenceName),
    /// `currval(pg_get_serial_sequence('table', 'column'))`
    CurrentOf(SequenceName, Box<str>),
    /// `lastval()`
    Last,
    /// `trunkline.unique_id()`
    UniqueId,
}

/// As `regclass` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceName {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
}

impl SequenceName {
    fn read(name: &str) -> Option<SequenceName> {
        let lexemes = lexemes(name, 0..name.len())?;
        let mut cursor = Cursor::new(name, &lexemes);
        let first = cursor.name()?;
        let second = cursor.take_kind(Kind::Dot).then(|| cursor.name());
        if !cursor.at_end() {
            return None;
        }
        Some(match second {
            Some(second) => SequenceName {
                schema: Some(first),
                name: second?,
            },
            None => SequenceName {
                schema: None,
                name: first,
            },
        })
    }
}

/// The INSERT at `range` of a text.
pub fn insertion(text: &str, range: Range<usize>) -> Option<Insertion> {
    let lexemes = lexemes(text, range)?;
    let mut cursor = Cursor::new(text, &lexemes);
    if !cursor.take_all(&["insert", "into"]) {
        return None;
    }
    let mut at = name(&mut cursor)?;
    while cursor.take_kind(Kind::Dot) {
        at = name(&mut cursor)?;
    }
    if cursor.take("as") {
        at = name(&mut cursor)?;
    }
    let columns = match cursor.kind() {
        Some(Kind::OpenParen) => {
            let from_here = cursor.lexemes();
            let inside = cursor.parenthesised()?;
            // A query in parentheses may stand there too.
            let plain = |lexeme: &Lexeme| {
                matches!(lexeme.kind, Kind::Comma) || identifier(text, lexeme).is_some()
            };
            if !inside.iter().all(plain) {
                return None;
            }
            ColumnList::Given {
                names_end: inside.last()?.end as usize,
                end: from_here.get(inside.len() + 1)?.end as usize,
            }
        }
        _ => ColumnList::None { at },
    };
    let overriding = if cursor.take_all(&["overriding", "system", "value"]) {
        Some(Overriding::System)
    } else if cursor.take_all(&["overriding", "user", "value"]) {
        Some(Overriding::User)
    } else {
        None
    };
    let rows = if cursor.sees(0, "default") && cursor.sees(1, "values") {
        let first = cursor.next()?;
        let last = cursor.next()?;
        Rows::Default(first.start as usize..last.end as usize)
    } else if cursor.take("values") {
        let mut rows = Vec::new();
        loop {
            rows.push(row(text, &mut cursor)?);
            if !cursor.take_kind(Kind::Comma) {
                break;
            }
        }
        Rows::Values(rows)
    } else {
        return None;
    };
    Some(Insertion {
        columns,
        overriding,
        rows,
    })
}

/// Takes a name; where it ends.
fn name(cursor: &mut Cursor<'_>) -> Option<usize> {
    let end = cursor.peek()?.end as usize;
    cursor.name()?;
    Some(end)
}

fn row(text: &str, cursor: &mut Cursor<'_>) -> Option<Row> {
    let inside = cursor.parenthesised()?;
    let end = inside.last()?.end as usize;
    let mut values = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (place, lexeme) in inside.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.checked_sub(1)?,
            Kind::Comma if depth == 0 => {
                values.push(value(text, &inside[start..place])?);
                start = place + 1;
            }
            _ => {}
        }
    }
    values.push(value(text, &inside[start..])?);
    Some(Row { values, end })
}

fn value(text: &str, lexemes: &[Lexeme]) -> Option<Value> {
    let (first, last) = (lexemes.first()?, lexemes.last()?);
    Some(Value {
        range: first.start as usize..last.end as usize,
        call: call(text, lexemes),
    })
}

/// The call that these lexemes are, all of them.
fn call(text: &str, lexemes: &[Lexeme]) -> Option<Call> {
    let mut cursor = Cursor::new(text, lexemes);
    let call = take_call(&mut cursor)?;
    cursor.at_end().then_some(call)
}

/// Every such call in the statement at `range`, and where it stands.
pub fn calls(text: &str, range: Range<usize>) -> Option<Vec<(Range<usize>, Call)>> {
    let lexemes = lexemes(text, range)?;
    let mut found = Vec::new();
    for place in 0..lexemes.len() {
        let is_part = place > 0 && lexemes[place - 1].kind == Kind::Dot;
        let mut cursor = Cursor::new(text, &lexemes[place..]);
        if is_part {
            continue;
        }
        if let Some(call) = take_call(&mut cursor) {
            let length = lexemes.len() - place - cursor.lexemes().len();
            let end = lexemes[place + length - 1].end as usize;
            found.push((lexemes[place].start as usize..end, call));
        }
    }
    Some(found)
}

fn take_call(cursor: &mut Cursor<'_>) -> Option<Call> {
    let mut function = cursor.name()?;
    let mut schema = None;
    if cursor.take_kind(Kind::Dot) {
        schema = Some(std::mem::replace(&mut function, cursor.name()?));
    }
    let arguments = cursor.parenthesised()?;
    match (schema.as_deref(), &*function, arguments) {
        (Some("trunkline"), "unique_id", []) => Some(Call::UniqueId),
        (None | Some("pg_catalog"), "lastval", []) => Some(Call::Last),
        (None | Some("pg_catalog"), "nextval", name) => {
            Some(Call::Next(sequence(cursor.text(), name)?))
        }
        (None | Some("pg_catalog"), "currval", name) => sequence(cursor.text(), name)
            .map(Call::Current)
            .or_else(|| serial(cursor.text(), name)),
        _ => None,
    }
}

/// `pg_get_serial_sequence('table', 'column')`
fn serial(text: &str, argument: &[Lexeme]) -> Option<Call> {
    let mut cursor = Cursor::new(text, argument);
    if !cursor.take("pg_get_serial_sequence") {
        return None;
    }
    let inside = cursor.parenthesised()?;
    let ([table, comma, column], true) = (inside, cursor.at_end()) else {
        return None;
    };
    let literal = |lexeme: &Lexeme| literal_text(text.as_bytes(), &Literal::of(lexeme)?).ok();
    if comma.kind != Kind::Comma {
        return None;
    }
    let table = SequenceName::read(&literal(table)?)?;
    Some(Call::CurrentOf(table, literal(column)?.into()))
}

/// `'name'` or `'name'::regclass`
fn sequence(text: &str, argument: &[Lexeme]) -> Option<SequenceName> {
    let (first, cast) = argument.split_first()?;
    match cast {
        [] => {}
        [colons, of_type] if colons.kind == Kind::Typecast => {
            if identifier(text, of_type).as_deref() != Some("regclass") {
                return None;
            }
        }
        _ => return None,
    }
    let literal = Literal::of(first)?;
    let name = literal_text(text.as_bytes(), &literal).ok()?;
    SequenceName::read(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read<'a> = (ColumnList, Option<Overriding>, Vec<Vec<&'a str>>);

    fn read(text: &str) -> Option<Read<'_>> {
        let insertion = insertion(text, 0..text.len())?;
        let rows = match &insertion.rows {
            Rows::Default(range) => vec![vec![&text[range.clone()]]],
            Rows::Values(rows) => {
                let values = |row: &Row| {
                    let values = row.values.iter();
                    values.map(|value| &text[value.range.clone()]).collect()
                };
                rows.iter().map(values).collect()
            }
        };
        Some((insertion.columns, insertion.overriding, rows))
    }

    #[test]
    fn an_insert_is_taken_apart() {
        let text = "/* ) */ INSERT INTO s.\"T\" AS x (a, b /* ) */) VALUES (1, f(2, (3))), (DEFAULT,'),(')";
        let (columns, overriding, rows) = read(text).expect("it is plain");
        let ColumnList::Given { names_end, end } = columns else {
            panic!("it has a list");
        };
        assert_eq!(
            (&text[names_end - 3..names_end], &text[end - 3..end]),
            (", b", "*/)")
        );
        assert_eq!(overriding, None);
        assert_eq!(rows, [["1", "f(2, (3))"], ["DEFAULT", "'),('"]]);
        let text =
            "insert into t overriding user value values (array[1, 2], $1) on conflict do nothing";
        let at = ColumnList::None { at: 13 };
        let row = vec![vec!["array[1, 2]", "$1"]];
        assert_eq!(read(text), Some((at, Some(Overriding::User), row)));
        let (_, overriding, rows) =
            read("INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES (1)").expect("it is plain");
        assert_eq!(
            (overriding, rows),
            (Some(Overriding::System), vec![vec!["1"]])
        );
        let rows = vec![vec!["DEFAULT VALUES"]];
        assert_eq!(
            read("INSERT INTO t DEFAULT VALUES RETURNING x"),
            Some((at, None, rows))
        );
    }

    #[test]
    fn other_forms_are_not_known() {
        for text in [
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (SELECT 1)",
            "INSERT INTO t (a.b) VALUES (1)",
            "INSERT INTO t (a[1]) VALUES (1)",
            "WITH x AS (SELECT 1) INSERT INTO t VALUES (1)",
            "INSERT INTO t VALUES ()",
            "INSERT INTO t VALUES (1,)",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn calls_that_give_numbers() {
        let found = |text: &str| {
            let calls = calls(text, 0..text.len()).expect("it is read");
            let calls = calls.into_iter();
            calls
                .map(|(range, call)| (text[range].to_owned(), call))
                .collect::<Vec<_>>()
        };
        let name = |schema: Option<&str>, name: &str| SequenceName {
            schema: schema.map(Box::from),
            name: name.into(),
        };
        assert_eq!(
            found("SELECT nextval('S'), pg_catalog.currval('a.\"B\"'::regclass) + 1, lastval()"),
            [
                ("nextval('S')".to_owned(), Call::Next(name(None, "s"))),
                (
                    "pg_catalog.currval('a.\"B\"'::regclass)".to_owned(),
                    Call::Current(name(Some("a"), "B"))
                ),
                ("lastval()".to_owned(), Call::Last),
            ]
        );
        assert_eq!(
            found("SELECT currval(pg_get_serial_sequence('T', 'Id'))"),
            [(
                "currval(pg_get_serial_sequence('T', 'Id'))".to_owned(),
                Call::CurrentOf(name(None, "t"), "Id".into())
            )]
        );
        assert_eq!(
            found("SELECT trunkline . unique_id ( )"),
            [("trunkline . unique_id ( )".to_owned(), Call::UniqueId)]
        );
        for text in [
            "SELECT nextval($1)",
            "SELECT own.nextval('s')",
            "SELECT nextval('a.b.c')",
            "SELECT nextval('s' || 't')",
            "SELECT unique_id()",
            "SELECT other.trunkline.unique_id()",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
