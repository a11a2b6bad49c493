//! Places in a statement's text that facts do not tell: where the rows of an INSERT stand, and the parts of an UPDATE or MERGE.

mod merge;

pub use merge::{MergeParts, MergeSource, merge_parts};

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

/// The parts of an UPDATE of one table, as they stand in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateParts {
    /// With its schema, if that is written.
    pub name: Range<usize>,
    pub alias: Option<Range<usize>>,
    /// Columns, folded, with what they get.
    pub assigned: Vec<(Box<str>, Range<usize>)>,
    pub condition: Option<Range<usize>>,
    pub returning: Option<Range<usize>>,
}

/// `None` for forms that are not this plain: WITH, ONLY, FROM, several columns at once, a part of a column, DEFAULT, WHERE CURRENT OF.
pub fn update_parts(text: &str, range: Range<usize>) -> Option<UpdateParts> {
    let lexemes = lexemes(text, range)?;
    let is = |at: usize, word: &str| {
        lexemes.get(at).is_some_and(|lexeme| {
            lexeme.kind == Kind::Word && text[lexeme.range()].eq_ignore_ascii_case(word)
        })
    };
    let name_at = |at: usize| super::identifier(text, lexemes.get(at)?);
    let span = |from: usize, to: usize| -> Option<Range<usize>> {
        let (first, last) = (lexemes.get(from)?, lexemes.get(to.checked_sub(1)?)?);
        (from < to).then(|| first.range().start..last.range().end)
    };
    if !is(0, "update") || is(1, "only") && !is(2, "set") {
        return None;
    }
    let mut at = 1;
    name_at(at)?;
    while lexemes.get(at + 1)?.kind == Kind::Dot {
        at += 2;
        name_at(at)?;
    }
    at += 1;
    let name = span(1, at)?;
    let mut alias = None;
    if !is(at, "set") {
        at += usize::from(is(at, "as"));
        name_at(at)?;
        alias = span(at, at + 1);
        at += 1;
    }
    if !is(at, "set") {
        return None;
    }
    let mut assigned = Vec::new();
    loop {
        let column = name_at(at + 1)?;
        let equals = lexemes.get(at + 2)?;
        if &text[equals.range()] != "=" || is(at + 3, "default") {
            return None;
        }
        let end = end_of_expression(text, &lexemes, at + 3)?;
        assigned.push((column, span(at + 3, end)?));
        at = end;
        if lexemes.get(at).map(|lexeme| lexeme.kind) != Some(Kind::Comma) {
            break;
        }
    }
    let mut condition = None;
    if is(at, "where") {
        if is(at + 1, "current") && is(at + 2, "of") {
            return None;
        }
        let end = end_of_expression(text, &lexemes, at + 1)?;
        condition = Some(span(at + 1, end)?);
        at = end;
    }
    let mut returning = None;
    if is(at, "returning") {
        returning = Some(span(at + 1, lexemes.len())?);
        at = lexemes.len();
    }
    (at == lexemes.len()).then_some(UpdateParts {
        name,
        alias,
        assigned,
        condition,
        returning,
    })
}

/// The parts of an INSERT of a query's rows, as they stand in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertParts {
    /// The table, with its schema and alias if they are written.
    pub table: Range<usize>,
    /// OVERRIDING SYSTEM VALUE.
    pub overriding: Option<Range<usize>>,
    pub query: Range<usize>,
    /// ON CONFLICT and RETURNING, to the end.
    pub tail: Option<Range<usize>>,
}

/// Whether the statement at `range` of a text has a RETURNING of its own; `None`: it cannot be read.
pub fn returns(text: &str, range: Range<usize>) -> Option<bool> {
    let lexemes = lexemes(text, range)?;
    Some(outside(text, &lexemes)?.returning(0).is_some())
}

/// `None` for forms that are not this plain: WITH in front, OVERRIDING USER VALUE, a query that does not begin with SELECT, WITH or TABLE.
pub fn insert_parts(text: &str, range: Range<usize>) -> Option<InsertParts> {
    let lexemes = lexemes(text, range)?;
    let outside = outside(text, &lexemes)?;
    let is = |at: usize, word: &str| outside.is(at, word);
    let kind = |at: usize| lexemes.get(at).map(|lexeme| lexeme.kind);
    if !is(0, "insert") || !is(1, "into") {
        return None;
    }
    let mut at = 2;
    super::identifier(text, lexemes.get(at)?)?;
    while kind(at + 1) == Some(Kind::Dot) {
        at += 2;
        super::identifier(text, lexemes.get(at)?)?;
    }
    if is(at + 1, "as") {
        at += 2;
        super::identifier(text, lexemes.get(at)?)?;
    }
    let table = lexemes[2].range().start..lexemes[at].range().end;
    at += 1;
    let begins = |at: usize| ["select", "with", "table"].iter().any(|word| is(at, word));
    if kind(at) == Some(Kind::OpenParen) {
        // A query in parentheses may stand there too: it has no names alone.
        while kind(at)? != Kind::CloseParen {
            at += 1;
        }
        at += 1;
    }
    let mut overriding = None;
    if is(at, "overriding") && is(at + 1, "system") && is(at + 2, "value") {
        overriding = Some(lexemes[at].range().start..lexemes[at + 2].range().end);
        at += 3;
    }
    if !begins(at) {
        return None;
    }
    let last = lexemes.last()?.range().end;
    let tail = outside.insert_tail(at);
    let query_end = match tail {
        Some(tail) => lexemes[tail - 1].range().end,
        None => last,
    };
    Some(InsertParts {
        table,
        overriding,
        query: lexemes[at].range().start..query_end,
        tail: tail.map(|tail| lexemes[tail].range().start..last),
    })
}

/// Where the rows of an UPDATE or DELETE are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// By this condition.
    Where(Range<usize>),
    /// There is none; WHERE would stand behind this place.
    All(usize),
}

/// `None`: WITH in front, WHERE CURRENT OF.
pub fn chosen(text: &str, range: Range<usize>) -> Option<Chosen> {
    let lexemes = lexemes(text, range)?;
    let outside = outside(text, &lexemes)?;
    if !outside.is(0, "update") && !outside.is(0, "delete") {
        return None;
    }
    let returning = outside.find(0, "returning");
    let last = returning.unwrap_or(lexemes.len()).checked_sub(1)?;
    // In RETURNING it is a name, behind AS.
    let found = outside.find(0, "where").filter(|at| *at < last);
    Some(match found {
        None => Chosen::All(lexemes[last].range().end),
        Some(at) if outside.is(at + 1, "current") && outside.is(at + 2, "of") => return None,
        Some(at) => Chosen::Where(lexemes[at + 1].range().start..lexemes[last].range().end),
    })
}

/// The query of an INSERT, without what stands behind it. `None`: WITH in front, OVERRIDING, a query in parentheses, one that begins with another
/// word than SELECT or WITH.
pub fn inserted_query(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let lexemes = lexemes(text, range)?;
    let outside = outside(text, &lexemes)?;
    if !outside.is(0, "insert") || !outside.is(1, "into") {
        return None;
    }
    let begins = |word: &str| outside.find(2, word);
    let start = [begins("select"), begins("with")]
        .into_iter()
        .flatten()
        .min()?;
    // OVERRIDING and VALUES stand between, or an alias: only a list of columns and a name may.
    if outside.find(2, "overriding").is_some_and(|at| at < start) {
        return None;
    }
    let returning = outside.find(start, "returning").unwrap_or(lexemes.len());
    // DO is reserved, so it tells ON CONFLICT from a condition of a column that is called so.
    let action = outside.find(start, "do").filter(|at| *at < returning);
    let end = match action {
        None => returning,
        Some(action) => (start..action)
            .rev()
            .find(|at| outside.is(*at, "on") && outside.is(at + 1, "conflict"))?,
    };
    Some(lexemes[start].range().start..lexemes[end.checked_sub(1)?].range().end)
}

/// The table of a COPY, as it stands in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedTable {
    /// With its list of columns.
    pub whole: Range<usize>,
    /// With its schema, if that is written.
    pub name: Range<usize>,
}

/// `None`: BINARY in front, which goes with no query.
pub fn copied_table(text: &str, range: Range<usize>) -> Option<CopiedTable> {
    let lexemes = lexemes(text, range)?;
    let outside = outside(text, &lexemes)?;
    let kind = |at: usize| lexemes.get(at).map(|lexeme| lexeme.kind);
    let mut at = 1;
    super::identifier(text, lexemes.get(at)?)?;
    while kind(at + 1) == Some(Kind::Dot) {
        at += 2;
        super::identifier(text, lexemes.get(at)?)?;
    }
    let start = lexemes[1].range().start;
    let name = start..lexemes[at].range().end;
    at += 1;
    if kind(at) == Some(Kind::OpenParen) {
        at += lexemes[at..]
            .iter()
            .position(|lexeme| lexeme.kind == Kind::CloseParen)?;
        at += 1;
    }
    let whole = start..lexemes[at - 1].range().end;
    (outside.is(0, "copy") && outside.is(at, "to")).then_some(CopiedTable { whole, name })
}

/// The lexemes of a statement that stand in no parentheses or brackets.
struct Outside<'a> {
    text: &'a str,
    lexemes: &'a [Lexeme],
    is_outside: Vec<bool>,
}

fn outside<'a>(text: &'a str, lexemes: &'a [Lexeme]) -> Option<Outside<'a>> {
    let mut depth = 0_usize;
    let mut is_outside = Vec::with_capacity(lexemes.len());
    for lexeme in lexemes {
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => {
                is_outside.push(depth == 0);
                depth += 1;
            }
            Kind::CloseParen | Kind::CloseBracket => {
                depth = depth.checked_sub(1)?;
                is_outside.push(depth == 0);
            }
            _ => is_outside.push(depth == 0),
        }
    }
    Some(Outside {
        text,
        lexemes,
        is_outside,
    })
}

impl Outside<'_> {
    fn is(&self, at: usize, word: &str) -> bool {
        self.lexemes.get(at).is_some_and(|lexeme| {
            self.is_outside[at]
                && lexeme.kind == Kind::Word
                && self.text[lexeme.range()].eq_ignore_ascii_case(word)
        })
    }

    /// The first place of a reserved word from here on: where it is the word, not a column behind a dot.
    fn find(&self, from: usize, word: &str) -> Option<usize> {
        let is_column = |at: usize| at > 0 && self.lexemes[at - 1].kind == Kind::Dot;
        (from..self.lexemes.len()).find(|at| self.is(*at, word) && !is_column(*at))
    }

    /// Whether the lexeme here, which is not the first, is a name whatever it is otherwise.
    fn is_name(&self, at: usize) -> bool {
        self.lexemes[at - 1].kind == Kind::Dot || self.is(at - 1, "as")
    }

    /// RETURNING, behind the lexeme at this place.
    fn returning(&self, from: usize) -> Option<usize> {
        let mut behind = from + 1..self.lexemes.len();
        behind.find(|at| self.is(*at, "returning") && !self.is_name(*at))
    }

    /// Where the query of an INSERT has ended, which begins here, and ON CONFLICT or RETURNING follows.
    fn insert_tail(&self, from: usize) -> Option<usize> {
        let is_name = |at: usize| self.is_name(at);
        let mut behind = from + 1..self.lexemes.len();
        let returning = self.returning(from);
        // A join may be ON a column of that name, but no DO follows then.
        let action = behind.find(|at| {
            let acts = self.is(at + 1, "nothing") || self.is(at + 1, "update");
            self.is(*at, "do") && acts && !is_name(*at)
        });
        let conflict = action.and_then(|action| {
            let is_it = |at: &usize| self.is(*at, "on") && self.is(at + 1, "conflict");
            (from + 1..action).rev().find(is_it)
        });
        conflict.or(returning)
    }
}

/// Where an expression ends that begins here: before a comma or the next clause of an UPDATE.
fn end_of_expression(text: &str, lexemes: &[Lexeme], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, lexeme) in lexemes.iter().enumerate().skip(start) {
        let word = |at: usize| match lexemes[at].kind {
            Kind::Word => text[lexemes[at].range()].to_ascii_lowercase(),
            _ => String::new(),
        };
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => depth += 1,
            Kind::CloseParen | Kind::CloseBracket => depth = depth.checked_sub(1)?,
            Kind::Comma if depth == 0 => return Some(at),
            // IS DISTINCT FROM
            Kind::Word if depth == 0 && word(at) == "from" && word(at - 1) == "distinct" => {}
            Kind::Word
                if depth == 0 && ["from", "where", "returning"].contains(&word(at).as_str()) =>
            {
                return Some(at);
            }
            _ => {}
        }
    }
    Some(lexemes.len())
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
    fn an_update_has_parts() {
        let text = "UPDATE a.\"T\" AS x SET k = $1, b = CASE WHEN c IS DISTINCT FROM 2 THEN f(1, 2) END /* , */ \
            WHERE x.c = ANY (ARRAY[1, 2]) AND extract(year FROM d) = 3 RETURNING k, b";
        let parts = update_parts(text, 0..text.len()).expect("it is plain");
        let of = |range: &Range<usize>| &text[range.clone()];
        assert_eq!(
            (of(&parts.name), parts.alias.as_ref().map(of)),
            ("a.\"T\"", Some("x"))
        );
        let assigned = parts.assigned.iter();
        assert_eq!(
            assigned
                .map(|(column, value)| (&**column, of(value)))
                .collect::<Vec<_>>(),
            [
                ("k", "$1"),
                ("b", "CASE WHEN c IS DISTINCT FROM 2 THEN f(1, 2) END")
            ]
        );
        assert_eq!(
            parts.condition.as_ref().map(of),
            Some("x.c = ANY (ARRAY[1, 2]) AND extract(year FROM d) = 3")
        );
        assert_eq!(parts.returning.as_ref().map(of), Some("k, b"));
    }

    #[test]
    fn what_is_not_plain_has_no_parts() {
        for text in [
            "UPDATE ONLY t SET a = 1",
            "UPDATE t * SET a = 1",
            "UPDATE t SET (a, b) = (1, 2)",
            "UPDATE t SET a[1] = 2",
            "UPDATE t SET a.b = 2",
            "UPDATE t SET a = DEFAULT",
            "UPDATE t SET a = 1 FROM u",
            "UPDATE t SET a = 1 WHERE CURRENT OF c",
            "WITH x AS (SELECT 1) UPDATE t SET a = 1",
        ] {
            assert_eq!(update_parts(text, 0..text.len()), None, "{text}");
        }
    }

    #[test]
    fn an_insert_of_a_query_has_parts() {
        let parts = |text: &str| {
            let parts = insert_parts(text, 0..text.len())?;
            let of = |range: Range<usize>| text[range].to_owned();
            let last = parts.overriding.into_iter().chain(parts.tail).map(of);
            let last: Vec<String> = last.collect();
            Some((of(parts.table), of(parts.query), last.join("; ")))
        };
        let of = |table: &str, query: &str, tail: &str| {
            Some((table.to_owned(), query.to_owned(), tail.to_owned()))
        };
        assert_eq!(
            parts("INSERT INTO a.b AS c (d, e) SELECT 1, (2) FROM f JOIN g ON conflict = 1 -- h"),
            of(
                "a.b AS c",
                "SELECT 1, (2) FROM f JOIN g ON conflict = 1",
                ""
            )
        );
        assert_eq!(
            parts("INSERT INTO a SELECT 1 FROM f JOIN g ON conflict (1) ON CONFLICT DO NOTHING"),
            of(
                "a",
                "SELECT 1 FROM f JOIN g ON conflict (1)",
                "ON CONFLICT DO NOTHING"
            )
        );
        assert_eq!(parts("INSERT INTO a TABLE b"), of("a", "TABLE b", ""));
        assert_eq!(
            parts("INSERT INTO a SELECT 1 AS returning, b.do RETURNING c -- d"),
            of("a", "SELECT 1 AS returning, b.do", "RETURNING c")
        );
        let tail = "ON CONFLICT ON CONSTRAINT c DO UPDATE SET d = 1 WHERE true RETURNING *";
        assert_eq!(
            parts(&format!(
                "INSERT INTO a (b) OVERRIDING SYSTEM VALUE SELECT 1 {tail}"
            )),
            of("a", "SELECT 1", &format!("OVERRIDING SYSTEM VALUE; {tail}"))
        );
        for text in [
            "WITH x AS (SELECT 1) INSERT INTO a SELECT * FROM x",
            "INSERT INTO a (b) VALUES (1)",
            "INSERT INTO a (SELECT 1)",
            "INSERT INTO a (SELECT 1) RETURNING b",
            "INSERT INTO a OVERRIDING USER VALUE SELECT 1",
        ] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn rows_are_chosen_by_the_outermost_where() {
        let found = |text: &str| match chosen(text, 0..text.len()) {
            Some(Chosen::Where(range)) => format!("where {}", &text[range]),
            Some(Chosen::All(at)) => format!("all {}", &text[..at]),
            None => "none".to_owned(),
        };
        let cases = [
            (
                "UPDATE t SET a = (SELECT 1 WHERE b) -- WHERE",
                "all UPDATE t SET a = (SELECT 1 WHERE b)",
            ),
            (
                "update only t * as x set a = x.where, b = array[1] from u where /* c */ a = 1 or b = 2 -- d\nreturning a as where",
                "where a = 1 or b = 2",
            ),
            (
                "DELETE FROM t USING u WHERE t.\"where\" = $1",
                "where t.\"where\" = $1",
            ),
            ("DELETE FROM t RETURNING a AS where, b", "all DELETE FROM t"),
            ("DELETE FROM t", "all DELETE FROM t"),
            ("DELETE FROM t WHERE CURRENT OF c", "none"),
            ("WITH x AS (SELECT 1) DELETE FROM t WHERE a", "none"),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn a_query_that_is_inserted_ends_before_what_is_done_with_its_rows() {
        let found =
            |text: &str| inserted_query(text, 0..text.len()).map(|range| text[range].to_owned());
        let cases = [
            (
                "INSERT INTO t AS x (a, \"select\") SELECT b, c FROM u JOIN v ON conflict = 1 ON CONFLICT (a) WHERE a > 1 DO UPDATE SET a = 2 RETURNING a",
                Some("SELECT b, c FROM u JOIN v ON conflict = 1"),
            ),
            (
                "INSERT INTO t SELECT 1 FROM u RETURNING a",
                Some("SELECT 1 FROM u"),
            ),
            (
                "INSERT INTO t WITH w AS (SELECT 1) SELECT 2 FROM u;",
                Some("WITH w AS (SELECT 1) SELECT 2 FROM u"),
            ),
            ("INSERT INTO t OVERRIDING USER VALUE SELECT 1", None),
            ("INSERT INTO t (SELECT 1)", None),
            ("INSERT INTO t TABLE u", None),
            ("WITH w AS (SELECT 1) INSERT INTO t SELECT 1", None),
        ];
        for (text, expected) in cases {
            let text = text.trim_end_matches(';');
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_table_of_a_copy_has_its_columns() {
        let found = |text: &str| {
            let table = copied_table(text, 0..text.len())?;
            Some((text[table.whole].to_owned(), text[table.name].to_owned()))
        };
        let of = |whole: &str, name: &str| Some((whole.to_owned(), name.to_owned()));
        assert_eq!(
            found("copy s.\"T\" (a, b) to stdout (format csv)"),
            of("s.\"T\" (a, b)", "s.\"T\"")
        );
        assert_eq!(found("COPY t TO STDOUT WITH BINARY"), of("t", "t"));
        assert_eq!(found("COPY BINARY t TO STDOUT"), None);
        assert_eq!(found("COPY t FROM STDIN"), None);
        assert_eq!(found("COPY (SELECT 1) TO STDOUT"), None);
    }

    #[test]
    fn another_number_of_rows_is_no_answer() {
        assert_eq!(rows("INSERT INTO t VALUES (1), (2)", 3), None);
        assert_eq!(rows("INSERT INTO t SELECT 1", 2), None);
    }
}
