//! Places in a statement's text that facts do not tell: where the rows of an INSERT stand.

use std::ops::Range;

use super::lexer::{Kind, Lexeme, Lexer};
use super::split::is_comment;

/// The rows of `INSERT .. VALUES (..), (..)` at `range` of a text, each from its opening parenthesis to behind the closing one. `None` when
/// there are not `count` of them.
pub fn value_rows(text: &str, range: Range<usize>, count: usize) -> Option<Vec<Range<usize>>> {
    let lexemes = lexemes(text, range)?;
    let mut depth = 0_usize;
    let mut found = None;
    for (place, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen => depth += 1,
            Kind::CloseParen => depth = depth.checked_sub(1)?,
            // A table or column may have this name too: only the list that counts right is taken.
            Kind::Word if depth == 0 && text[lexeme.range()].eq_ignore_ascii_case("values") => {
                let rows = rows(&lexemes[place + 1..])?;
                if rows.len() == count {
                    found = Some(rows);
                }
            }
            _ => {}
        }
    }
    found
}

/// Where the inside of the first parentheses of a statement begins.
pub fn first_list(statement: &str) -> Option<usize> {
    let lexemes = lexemes(statement, 0..statement.len())?;
    let open = lexemes
        .iter()
        .find(|lexeme| lexeme.kind == Kind::OpenParen)?;
    Some(open.end as usize)
}

/// The parenthesised groups from here on, as long as commas stand between them.
fn rows(lexemes: &[Lexeme]) -> Option<Vec<Range<usize>>> {
    let mut rows = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (place, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen => {
                if depth == 0 {
                    start = lexeme.start as usize;
                }
                depth += 1;
            }
            Kind::CloseParen => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    rows.push(start..lexeme.end as usize);
                    if lexemes.get(place + 1).map(|next| next.kind) != Some(Kind::Comma) {
                        return Some(rows);
                    }
                }
            }
            Kind::Comma => {}
            _ if depth == 0 => return Some(rows),
            _ => {}
        }
    }
    Some(rows)
}

/// Those of one statement, without comments.
pub(super) fn lexemes(text: &str, range: Range<usize>) -> Option<Vec<Lexeme>> {
    let piece = text.get(range.clone())?;
    let offset = u32::try_from(range.start).ok()?;
    let mut lexer = Lexer::new(piece.as_bytes());
    let mut lexemes = Vec::new();
    while let Some(mut lexeme) = lexer.next().ok()? {
        lexeme.start += offset;
        lexeme.end += offset;
        if !is_comment(&lexeme) {
            lexemes.push(lexeme);
        }
    }
    Some(lexemes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, count: usize) -> Option<Vec<&str>> {
        let rows = value_rows(text, 0..text.len(), count)?;
        Some(rows.into_iter().map(|row| &text[row]).collect())
    }

    #[test]
    fn rows_are_the_groups_behind_values() {
        assert_eq!(
            rows(
                "INSERT INTO t (a, b) VALUES (1, 'x),('), /* , (9) */ (f(2, (3)), $1) ON CONFLICT (a) DO NOTHING",
                2
            ),
            Some(vec!["(1, 'x),(')", "(f(2, (3)), $1)"])
        );
        assert_eq!(
            rows(
                "INSERT INTO values (a) VALUES (1),(2) RETURNING (a), (b)",
                2
            ),
            Some(vec!["(1)", "(2)"])
        );
        assert_eq!(
            rows("INSERT INTO t VALUES (1) , (2) -- (3)", 2),
            Some(vec!["(1)", "(2)"])
        );
    }

    #[test]
    fn another_number_of_rows_is_no_answer() {
        assert_eq!(rows("INSERT INTO t VALUES (1), (2)", 3), None);
        assert_eq!(rows("INSERT INTO t SELECT 1", 2), None);
    }
}
