//! Lists of tables in statements (LOCK, TRUNCATE, DROP, GRANT, VACUUM ...): each name with its place in the text.

use std::ops::Range;

use super::cursor::Cursor;
use super::definition::table;
use super::facts::Name;
use super::lexer::Kind;
use super::places::lexemes;

/// A name, and the place of it with all that belongs to it (ONLY, `*`, columns).
pub type Listed = (Name, Range<usize>);

/// The tables of the LOCK at this range of a message's text; `None`: it cannot be read.
pub fn locked(text: &str, range: Range<usize>) -> Option<Vec<Listed>> {
    let lexemes = lexemes(text, range)?;
    let mut cursor = Cursor::new(text, &lexemes);
    cursor.take("lock").then_some(())?;
    cursor.take("table");
    let tables = names(&mut cursor)?;
    let ends = cursor.at_end() || cursor.sees(0, "in") || cursor.sees(0, "nowait");
    ends.then_some(tables)
}

/// Names between commas.
pub(super) fn names(cursor: &mut Cursor) -> Option<Vec<Listed>> {
    let mut names = vec![name(cursor)?];
    while cursor.take_kind(Kind::Comma) {
        names.push(name(cursor)?);
    }
    Some(names)
}

/// `[ONLY] [schema.]name [*] [(column, ...)]`, or ONLY with the name in parentheses.
fn name(cursor: &mut Cursor) -> Option<Listed> {
    let from = cursor.lexemes();
    cursor.take("only");
    let in_parentheses = cursor.take_kind(Kind::OpenParen);
    let name = table(cursor)?;
    if in_parentheses {
        cursor.take_kind(Kind::CloseParen).then_some(())?;
    }
    cursor.take_operator("*");
    if cursor.kind() == Some(Kind::OpenParen) {
        cursor.parenthesised()?;
    }
    let taken = from.len() - cursor.lexemes().len();
    let place = from[0].range().start..from[taken - 1].range().end;
    Some((name, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_with_their_places() {
        let read = |text: &str| -> Option<Vec<String>> {
            let tables = locked(text, 0..text.len())?.into_iter();
            let tables = tables.map(|(Name { schema, name }, range)| {
                format!("{:?} {name}: {}", schema.as_deref(), &text[range])
            });
            Some(tables.collect())
        };
        assert_eq!(
            read("LOCK TABLE a, ONLY s.\"B c\" *, ONLY (c) IN ACCESS SHARE MODE NOWAIT").unwrap(),
            [
                "None a: a",
                "Some(\"s\") B c: ONLY s.\"B c\" *",
                "None c: ONLY (c)"
            ]
        );
        assert_eq!(read("lock only"), None);
        assert_eq!(read("LOCK a nowait").unwrap(), ["None a: a"]);
        assert_eq!(read("LOCK TABLE a b"), None);
        assert_eq!(read("LOCK TABLE"), None);
    }
}
