//! The clauses of the outermost SELECT of a statement, by their places in the text.
//!
//! Works on lexemes, not on a syntax tree, so that what it finds can be cut out of the client's own bytes. Nearly all words that begin a clause are
//! reserved in Postgres: outside of parentheses such a word is the keyword, except behind AS and behind a dot, and in the few phrases that
//! contain one (`IS DISTINCT FROM`, `WITHIN GROUP`). What is not surely understood is `None`: a SELECT in parentheses, VALUES, TABLE, INTO.

use std::cell::OnceCell;
use std::ops::Range;

use super::lexer::{Kind, Lexeme, Lexer, LiteralKind};
use super::normalise::Numbering;
use super::{names, split};

/// Lexemes of the statement, by their number in [`Select::lexemes`].
pub type Span = Range<usize>;

/// The outermost SELECT of one statement.
#[derive(Debug)]
pub struct Select<'a> {
    text: &'a str,
    /// Of the statement, without comments.
    lexemes: Vec<Lexeme>,
    /// For each parenthesis or bracket that opens, the number of the one that closes it; its own number for all others.
    closes: Vec<usize>,
    /// Literals of the message before this statement.
    first_slot: usize,
    slots: OnceCell<Vec<usize>>,
    /// The WITH queries, the keyword included.
    pub with: Option<Span>,
    pub distinct: Distinct,
    pub items: Vec<Item>,
    /// What stands behind FROM.
    pub from: Option<Span>,
    /// The condition of WHERE.
    pub selection: Option<Span>,
    pub group_by: Vec<Span>,
    /// The condition of HAVING.
    pub having: Option<Having>,
    pub windows: Vec<Window>,
    pub set_operation: SetOperation,
    pub order_by: Vec<OrderItem>,
    pub limit: Option<Count>,
    pub offset: Option<Count>,
    /// FOR UPDATE and its like, the keyword included.
    pub locking: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinct {
    All,
    Rows,
    On,
}

/// Whether UNION, INTERSECT or EXCEPT follows. All that is found before it is of the first branch, ORDER BY and what follows is of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOperation {
    None,
    Some,
}

/// One item of the select list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// With its label.
    pub span: Span,
    pub shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `*`, `t.*`, `(expression).*`
    Star,
    /// An expression, with the label that it was given.
    Expression(Span, Option<Box<str>>),
    /// An expression or one with a label.
    Unclear,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Having {
    /// The keyword included.
    pub clause: Span,
    pub condition: Span,
}

/// `name AS (definition)`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub name: Box<str>,
    /// The parentheses included.
    pub definition: Span,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderItem {
    pub expression: Span,
    pub direction: Direction,
    /// As Postgres takes it when nothing is said.
    pub nulls: Nulls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    First,
    Last,
}

/// LIMIT, OFFSET or FETCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The keyword included, and all words behind the number.
    pub clause: Span,
    /// The number as it is written; empty where it is left out.
    pub written: Span,
    pub number: Number,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Number {
    /// ALL or NULL.
    None,
    /// FETCH FIRST ROW ONLY.
    One,
    /// The literal with this number in the message, decimal digits.
    Literal(usize),
    Param(u16),
    /// Any other expression.
    Unknown,
    /// With TIES.
    Ties,
}

/// A call of a function by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
    /// From the name (with its schema) to the closing parenthesis, FILTER, WITHIN GROUP and OVER included.
    pub span: Span,
    /// What stands in the parentheses.
    pub arguments: Span,
    pub filter: Option<Span>,
    pub role: Role,
}

/// What stands behind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Plain,
    /// WITHIN GROUP (..)
    OrderedSet,
    /// OVER name
    Named(Box<str>),
    /// OVER (..), the parentheses included.
    Over(Span),
}

/// Reads the statement at `range` of a message's text.
pub fn read(text: &str, range: Range<usize>) -> Option<Select<'_>> {
    let mut lexer = Lexer::new(text.as_bytes());
    let mut numbering = Numbering::new();
    let mut lexemes = Vec::new();
    let mut first_slot = 0;
    while let Some(lexeme) = lexer.next().ok()? {
        let literal = numbering.literal(text.as_bytes(), &lexeme);
        if (lexeme.start as usize) < range.start {
            first_slot += usize::from(literal.is_some());
        } else if lexeme.end as usize <= range.end && !split::is_comment(&lexeme) {
            lexemes.push(lexeme);
        }
    }
    let closes = closes(&lexemes)?;
    let mut select = Select {
        text,
        lexemes,
        closes,
        first_slot,
        slots: OnceCell::new(),
        with: None,
        distinct: Distinct::All,
        items: Vec::new(),
        from: None,
        selection: None,
        group_by: Vec::new(),
        having: None,
        windows: Vec::new(),
        set_operation: SetOperation::None,
        order_by: Vec::new(),
        limit: None,
        offset: None,
        locking: None,
    };
    select.clauses()?;
    Some(select)
}

fn closes(lexemes: &[Lexeme]) -> Option<Vec<usize>> {
    let mut closes: Vec<usize> = (0..lexemes.len()).collect();
    let mut open = Vec::new();
    for (number, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::OpenParen | Kind::OpenBracket => open.push((number, lexeme.kind)),
            Kind::CloseParen | Kind::CloseBracket => {
                let (opened, kind) = open.pop()?;
                if (kind == Kind::OpenParen) != (lexeme.kind == Kind::CloseParen) {
                    return None;
                }
                closes[opened] = number;
            }
            Kind::Semicolon | Kind::Stray => return None,
            _ => {}
        }
    }
    open.is_empty().then_some(closes)
}

/// The clauses, in the order in which they may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Clause {
    List,
    From,
    Where,
    GroupBy,
    Having,
    Window,
    SetOperation,
    OrderBy,
    /// In any order among themselves, each once.
    Limit,
    Offset,
    Fetch,
    For,
}

/// Words behind which a word or name is part of an expression.
const CONNECTS: [&str; 33] = [
    "and",
    "or",
    "not",
    "is",
    "in",
    "like",
    "ilike",
    "similar",
    "to",
    "between",
    "symmetric",
    "asymmetric",
    "collate",
    "zone",
    "at",
    "escape",
    "any",
    "all",
    "some",
    "distinct",
    "from",
    "operator",
    "when",
    "then",
    "else",
    "case",
    "over",
    "variadic",
    "overlaps",
    "exists",
    "array",
    "row",
    "unique",
];

/// Words that may end an expression and may be a label.
const TRAILS: [&str; 22] = [
    "precision",
    "zone",
    "varying",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "document",
    "json",
    "normalized",
    "unknown",
    "null",
    "true",
    "false",
    "isnull",
    "notnull",
    "local",
    "object",
    "scalar",
    "end",
];

impl<'a> Select<'a> {
    /// The bytes of a span in the message's text.
    pub fn bytes(&self, span: &Span) -> Range<usize> {
        let first = &self.lexemes[span.start];
        let last = &self.lexemes[span.end - 1];
        first.start as usize..last.end as usize
    }

    /// Whether a lexeme is this word, in lower case and not in quotes.
    pub fn is(&self, number: usize, word: &str) -> bool {
        self.lexemes.get(number).is_some_and(|lexeme| {
            lexeme.kind == Kind::Word && self.source(number).eq_ignore_ascii_case(word)
        })
    }

    pub fn kind(&self, number: usize) -> Option<Kind> {
        self.lexemes.get(number).map(|lexeme| lexeme.kind)
    }

    pub fn source(&self, number: usize) -> &'a str {
        &self.text[self.lexemes[number].range()]
    }

    /// The identifier or keyword that a lexeme is, folded.
    pub fn name(&self, number: usize) -> Option<Box<str>> {
        names::identifier(self.text, self.lexemes.get(number)?)
    }

    pub fn whole(&self) -> Span {
        0..self.lexemes.len()
    }

    /// The closing partner of a parenthesis or bracket.
    pub fn close(&self, open: usize) -> usize {
        self.closes[open]
    }

    /// The number in the message of the literal that a lexeme is.
    pub fn slot(&self, number: usize) -> Option<usize> {
        let slots = self.slots.get_or_init(|| {
            let literals = self.lexemes.iter().enumerate();
            literals
                .filter(|(_, lexeme)| matches!(lexeme.kind, Kind::Literal(_)))
                .map(|(number, _)| number)
                .collect()
        });
        slots
            .binary_search(&number)
            .ok()
            .map(|place| self.first_slot + place)
    }

    pub fn has_literal(&self, span: &Span) -> bool {
        self.lexemes[span.clone()]
            .iter()
            .any(|lexeme| matches!(lexeme.kind, Kind::Literal(_)))
    }

    /// Whether two expressions are the same word for word.
    pub fn same(&self, one: &Span, other: &Span) -> bool {
        one.len() == other.len()
            && one.clone().zip(other.clone()).all(|(one, other)| {
                let (left, right) = (self.source(one), self.source(other));
                match (self.kind(one), self.kind(other)) {
                    (Some(Kind::Word), Some(Kind::Word)) => left.eq_ignore_ascii_case(right),
                    (left_kind, right_kind) => left_kind == right_kind && left == right,
                }
            })
    }

    /// An expression without parentheses around the whole of it.
    pub fn bare(&self, span: &Span) -> Span {
        let mut span = span.clone();
        while span.len() > 2
            && self.kind(span.start) == Some(Kind::OpenParen)
            && self.close(span.start) == span.end - 1
        {
            span = span.start + 1..span.end - 1;
        }
        span
    }

    /// A column as it is written: qualifier and name.
    pub fn column(&self, span: &Span) -> Option<(Option<Box<str>>, Box<str>)> {
        let span = self.bare(span);
        let name = |number: usize| {
            matches!(self.kind(number), Some(Kind::Word | Kind::Quoted))
                .then(|| self.name(number))
                .flatten()
        };
        // [schema.][table.]column
        let dots = (span.start + 1..span.end).step_by(2);
        if span.len() % 2 == 0
            || span.len() > 5
            || !dots.clone().all(|dot| self.kind(dot) == Some(Kind::Dot))
        {
            return None;
        }
        let column = name(span.end - 1)?;
        let qualifier = if span.len() > 1 {
            Some(name(span.end - 3)?)
        } else {
            None
        };
        Some((qualifier, column))
    }

    /// Calls in a span, those in arguments included, those in subqueries not.
    pub fn calls(&self, span: &Span) -> Vec<Call> {
        let mut found = Vec::new();
        let mut at = span.start;
        while at < span.end {
            if self.kind(at) == Some(Kind::OpenParen) && self.is_query(at + 1) {
                at = self.close(at) + 1;
                continue;
            }
            if self.kind(at + 1) == Some(Kind::OpenParen)
                && at + 1 < span.end
                && let Some(name) = self.name(at)
            {
                found.push(self.call(at, name));
            }
            at += 1;
        }
        found
    }

    /// Whether a subquery stands in a span.
    pub fn has_query(&self, span: &Span) -> bool {
        span.clone()
            .any(|at| self.kind(at) == Some(Kind::OpenParen) && self.is_query(at + 1))
    }

    /// Whether a query begins here, behind a parenthesis.
    pub fn is_query(&self, at: usize) -> bool {
        ["select", "with", "values", "table"]
            .iter()
            .any(|word| self.is(at, word))
    }

    fn call(&self, at: usize, name: Box<str>) -> Call {
        let mut start = at;
        let mut schema = None;
        if at >= 2 && self.kind(at - 1) == Some(Kind::Dot) {
            schema = self.name(at - 2);
            start = at - 2;
        }
        let open = at + 1;
        let close = self.close(open);
        let mut end = close + 1;
        let mut filter = None;
        let mut role = Role::Plain;
        let opens = |at: usize| self.kind(at) == Some(Kind::OpenParen);
        if self.is(end, "within") && self.is(end + 1, "group") && opens(end + 2) {
            role = Role::OrderedSet;
            end = self.close(end + 2) + 1;
        }
        if self.is(end, "filter") && opens(end + 1) {
            let closing = self.close(end + 1);
            filter = Some(end + 2..closing);
            end = closing + 1;
        }
        if self.is(end, "over") {
            if opens(end + 1) {
                let closing = self.close(end + 1);
                role = Role::Over(end + 1..closing + 1);
                end = closing + 1;
            } else if let Some(window) = self.name(end + 1) {
                role = Role::Named(window);
                end += 2;
            }
        }
        Call {
            schema,
            name,
            span: start..end,
            arguments: open + 1..close,
            filter,
            role,
        }
    }

    /// The pieces between commas that stand in no parentheses.
    pub fn pieces(&self, span: &Span) -> Option<Vec<Span>> {
        let mut pieces = Vec::new();
        let mut start = span.start;
        let mut at = span.start;
        while at < span.end {
            if self.kind(at) == Some(Kind::Comma) {
                pieces.push(start..at);
                start = at + 1;
            }
            at = self.closes[at] + 1;
        }
        pieces.push(start..span.end);
        pieces
            .iter()
            .all(|piece| !piece.is_empty())
            .then_some(pieces)
    }

    /// The first place of a word in a span, outside of parentheses.
    pub fn find(&self, span: &Span, word: &str) -> Option<usize> {
        let mut at = span.start;
        while at < span.end {
            if self.is(at, word) {
                return Some(at);
            }
            at = self.closes[at] + 1;
        }
        None
    }

    /// Whether a place in a span stands in none of its parentheses.
    pub fn is_outside(&self, place: usize, span: &Span) -> bool {
        let mut at = span.start;
        while at < place {
            at = self.closes[at] + 1;
        }
        at == place
    }

    fn clauses(&mut self) -> Option<()> {
        let mut at = self.with_queries()?;
        if !self.is(at, "select") {
            return None;
        }
        at += 1;
        if self.is(at, "all") {
            at += 1;
        } else if self.is(at, "distinct") {
            at += 1;
            self.distinct = Distinct::Rows;
            if self.is(at, "on") && self.kind(at + 1) == Some(Kind::OpenParen) {
                self.distinct = Distinct::On;
                at = self.close(at + 1) + 1;
            }
        }
        let mut clause = Clause::List;
        let mut keyword = at;
        let mut start = at;
        let mut seen = Vec::new();
        loop {
            if clause == Clause::SetOperation {
                // The other branches hold clauses of their own.
                self.set_operation = SetOperation::Some;
                return Some(());
            }
            let (next, end) = self.next_clause(start, clause)?;
            self.clause(clause, keyword, start..end)?;
            let Some((next, length)) = next else {
                return Some(());
            };
            let is_tail = clause >= Clause::Limit;
            if !(clause < next || is_tail && next >= Clause::Limit) || seen.contains(&next) {
                return None;
            }
            seen.push(next);
            clause = next;
            keyword = end;
            start = end + length;
        }
    }

    /// Steps over WITH; the number of the lexeme behind it.
    fn with_queries(&mut self) -> Option<usize> {
        if !self.is(0, "with") {
            return Some(0);
        }
        let mut at = 1 + usize::from(self.is(1, "recursive"));
        loop {
            self.name(at)?;
            at += 1;
            if self.kind(at) == Some(Kind::OpenParen) {
                at = self.close(at) + 1;
            }
            if !self.is(at, "as") {
                return None;
            }
            at += 1;
            at += usize::from(self.is(at, "not"));
            at += usize::from(self.is(at, "materialized"));
            if self.kind(at) != Some(Kind::OpenParen) {
                return None;
            }
            at = self.close(at) + 1;
            if self.kind(at) == Some(Kind::Comma) {
                at += 1;
                continue;
            }
            self.with = Some(0..at);
            return Some(at);
        }
    }

    /// The next keyword of a clause from `at` on, with its length, and its place (or the end).
    fn next_clause(&self, start: usize, clause: Clause) -> Option<Next> {
        let mut at = start;
        while at < self.lexemes.len() {
            let labelled = at > start
                && (self.kind(at - 1) == Some(Kind::Dot)
                    || self.is(at - 1, "as") && matches!(clause, Clause::List | Clause::From));
            if !labelled && self.kind(at) == Some(Kind::Word) {
                match self.keyword(at, start) {
                    Keyword::Clause(next, length) => return Some((Some((next, length)), at)),
                    Keyword::Foreign => return None,
                    Keyword::Phrase(length) => {
                        at += length;
                        continue;
                    }
                    Keyword::None => {}
                }
            }
            at = self.closes[at] + 1;
        }
        Some((None, at))
    }

    fn keyword(&self, at: usize, start: usize) -> Keyword {
        let source = self.source(at);
        let before = |word: &str| at > start && self.is(at - 1, word);
        let word = source.to_ascii_lowercase();
        match &*word {
            // IS [NOT] DISTINCT FROM
            "distinct" if (before("is") || before("not")) && self.is(at + 1, "from") => {
                Keyword::Phrase(2)
            }
            "within" if self.is(at + 1, "group") => Keyword::Phrase(2),
            "rows" if self.is(at + 1, "from") => Keyword::Phrase(2),
            "from" => Keyword::Clause(Clause::From, 1),
            "where" => Keyword::Clause(Clause::Where, 1),
            "group" if self.is(at + 1, "by") => Keyword::Clause(Clause::GroupBy, 2),
            "having" => Keyword::Clause(Clause::Having, 1),
            "window" => Keyword::Clause(Clause::Window, 1),
            "union" | "intersect" | "except" => Keyword::Clause(Clause::SetOperation, 1),
            "order" if self.is(at + 1, "by") => Keyword::Clause(Clause::OrderBy, 2),
            "limit" => Keyword::Clause(Clause::Limit, 1),
            "offset" => Keyword::Clause(Clause::Offset, 1),
            "fetch" => Keyword::Clause(Clause::Fetch, 1),
            "for" => Keyword::Clause(Clause::For, 1),
            "into" | "group" | "order" | "select" => Keyword::Foreign,
            _ => Keyword::None,
        }
    }

    fn clause(&mut self, clause: Clause, keyword: usize, span: Span) -> Option<()> {
        if span.is_empty() && clause != Clause::List {
            return None;
        }
        let with_keyword = keyword..span.end;
        match clause {
            Clause::List => {
                if !span.is_empty() {
                    let pieces = self.pieces(&span)?;
                    self.items = pieces.into_iter().map(|piece| self.item(piece)).collect();
                }
            }
            Clause::From => self.from = Some(span),
            Clause::Where => self.selection = Some(span),
            Clause::GroupBy => self.group_by = self.pieces(&span)?,
            Clause::Having => {
                self.having = Some(Having {
                    clause: with_keyword,
                    condition: span,
                });
            }
            Clause::Window => {
                for piece in self.pieces(&span)? {
                    let definition = piece.start + 2;
                    if piece.len() < 4
                        || !self.is(piece.start + 1, "as")
                        || self.kind(definition) != Some(Kind::OpenParen)
                        || self.close(definition) != piece.end - 1
                    {
                        return None;
                    }
                    self.windows.push(Window {
                        name: self.name(piece.start)?,
                        definition: definition..piece.end,
                    });
                }
            }
            Clause::SetOperation => {}
            Clause::OrderBy => {
                for piece in self.pieces(&span)? {
                    self.order_by.push(self.order_item(piece)?);
                }
            }
            Clause::Limit => {
                if self.limit.is_some() {
                    return None;
                }
                self.pieces(&span)?.len().eq(&1).then_some(())?;
                self.limit = Some(Count {
                    clause: with_keyword,
                    number: self.number(&span),
                    written: span,
                });
            }
            Clause::Offset => {
                let mut number = span.clone();
                if span.len() > 1 && (self.is(span.end - 1, "row") || self.is(span.end - 1, "rows"))
                {
                    number.end -= 1;
                }
                self.offset = Some(Count {
                    clause: with_keyword,
                    number: self.number(&number),
                    written: number,
                });
            }
            Clause::Fetch => {
                if self.limit.is_some() {
                    return None;
                }
                let (written, number) = self.fetch(&span)?;
                self.limit = Some(Count {
                    clause: with_keyword,
                    written,
                    number,
                });
            }
            Clause::For => self.locking = Some(with_keyword),
        }
        Some(())
    }

    /// `{FIRST | NEXT} [count] {ROW | ROWS} {ONLY | WITH TIES}`
    fn fetch(&self, span: &Span) -> Option<(Span, Number)> {
        if !self.is(span.start, "first") && !self.is(span.start, "next") {
            return None;
        }
        let (words, ties) = if self.is(span.end - 1, "only") {
            (1, false)
        } else if self.is(span.end - 1, "ties") && self.is(span.end - 2, "with") {
            (2, true)
        } else {
            return None;
        };
        let rows = span.end.checked_sub(words + 1)?;
        if rows <= span.start || !(self.is(rows, "row") || self.is(rows, "rows")) {
            return None;
        }
        let written = span.start + 1..rows;
        let number = if ties {
            Number::Ties
        } else if written.is_empty() {
            Number::One
        } else {
            self.number(&written)
        };
        Some((written, number))
    }

    fn number(&self, span: &Span) -> Number {
        let mut span = self.bare(span);
        // A cast to a type that every count fits.
        if span.len() == 3 && self.kind(span.start + 1) == Some(Kind::Typecast) {
            let whole = ["bigint", "int8", "integer", "int", "int4"];
            if whole.iter().any(|word| self.is(span.end - 1, word)) {
                span = span.start..span.start + 1;
            }
        }
        if span.len() != 1 {
            return Number::Unknown;
        }
        let source = self.source(span.start);
        match self.lexemes[span.start].kind {
            Kind::Word
                if source.eq_ignore_ascii_case("all") || source.eq_ignore_ascii_case("null") =>
            {
                Number::None
            }
            Kind::Literal(LiteralKind::Integer) => self
                .slot(span.start)
                .map_or(Number::Unknown, Number::Literal),
            Kind::Param => source[1..].parse().map_or(Number::Unknown, Number::Param),
            _ => Number::Unknown,
        }
    }

    fn order_item(&self, mut span: Span) -> Option<OrderItem> {
        if self.find(&span, "using").is_some() {
            return None;
        }
        let mut nulls = None;
        if span.len() > 2 && self.is(span.end - 2, "nulls") {
            if self.is(span.end - 1, "first") {
                nulls = Some(Nulls::First);
            } else if self.is(span.end - 1, "last") {
                nulls = Some(Nulls::Last);
            }
            if nulls.is_some() {
                span.end -= 2;
            }
        }
        let mut direction = Direction::Ascending;
        if span.len() > 1 {
            if self.is(span.end - 1, "desc") {
                direction = Direction::Descending;
                span.end -= 1;
            } else if self.is(span.end - 1, "asc") {
                span.end -= 1;
            }
        }
        Some(OrderItem {
            expression: span,
            direction,
            nulls: nulls.unwrap_or(match direction {
                Direction::Ascending => Nulls::Last,
                Direction::Descending => Nulls::First,
            }),
        })
    }

    fn item(&self, span: Span) -> Item {
        let last = span.end - 1;
        let is_star = self.kind(last) == Some(Kind::Operator) && self.source(last) == "*";
        if is_star && (span.len() == 1 || self.kind(last - 1) == Some(Kind::Dot)) {
            return Item {
                span,
                shape: Shape::Star,
            };
        }
        let shape = self.labelled(&span);
        Item { span, shape }
    }

    fn labelled(&self, span: &Span) -> Shape {
        let last = span.end - 1;
        let whole = || Shape::Expression(span.clone(), None);
        if span.len() > 2
            && self.is(last - 1, "as")
            && let Some(label) = self.name(last)
        {
            return Shape::Expression(span.start..last - 1, Some(label));
        }
        if self.find(span, "as").is_some() && span.len() > 1 {
            return Shape::Unclear;
        }
        if span.len() == 1 || !matches!(self.kind(last), Some(Kind::Word | Kind::Quoted)) {
            return whole();
        }
        let connects = match self.kind(last - 1) {
            Some(
                Kind::Operator
                | Kind::Typecast
                | Kind::Dot
                | Kind::Colon
                | Kind::ColonEquals
                | Kind::DotDot,
            ) => true,
            Some(Kind::Word) => CONNECTS.iter().any(|word| self.is(last - 1, word)),
            _ => false,
        };
        let trails = TRAILS.iter().any(|word| self.is(last, word));
        match (connects, trails) {
            (true, _) => whole(),
            // CASE .. END, behind what cannot be but an expression.
            (false, true)
                if self.is(last, "end") && self.is(span.start, "case") && self.ends_case(span) =>
            {
                whole()
            }
            (false, true) => Shape::Unclear,
            (false, false) => match self.name(last) {
                Some(label) => Shape::Expression(span.start..last, Some(label)),
                None => Shape::Unclear,
            },
        }
    }

    /// Whether the last END closes the CASE that a span begins with.
    fn ends_case(&self, span: &Span) -> bool {
        let mut depth = 0_usize;
        let mut at = span.start;
        while at < span.end {
            let behind_dot = at > span.start && self.kind(at - 1) == Some(Kind::Dot);
            if !behind_dot && self.is(at, "case") {
                depth += 1;
            } else if !behind_dot && self.is(at, "end") {
                depth = match depth.checked_sub(1) {
                    Some(depth) => depth,
                    None => return false,
                };
                if depth == 0 {
                    return at == span.end - 1;
                }
            }
            at = self.closes[at] + 1;
        }
        false
    }
}

/// The clause that comes next with the length of its keyword, if one does, and its place (or the end).
type Next = (Option<(Clause, usize)>, usize);

enum Keyword {
    Clause(Clause, usize),
    /// Part of a phrase of so many words.
    Phrase(usize),
    /// What is not read.
    Foreign,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(select: &Select<'_>, span: &Span) -> String {
        if span.is_empty() {
            return String::new();
        }
        select.text[select.bytes(span)].to_owned()
    }

    /// All clauses on one line, in the order of the grammar.
    fn show(sql: &str) -> String {
        let Some(select) = read(sql, 0..sql.len()) else {
            return "not read".to_owned();
        };
        let shown = |span: &Span| text(&select, span);
        let all = |spans: &[Span]| spans.iter().map(shown).collect::<Vec<_>>().join(" | ");
        let mut out = Vec::new();
        if let Some(with) = &select.with {
            out.push(format!("with {}", shown(with)));
        }
        if select.distinct != Distinct::All {
            out.push(format!("{:?}", select.distinct).to_lowercase());
        }
        let items = select.items.iter().map(|item| match &item.shape {
            Shape::Star => format!("*{}", shown(&item.span)),
            Shape::Expression(expression, None) => shown(expression),
            Shape::Expression(expression, Some(label)) => {
                format!("{} -> {label}", shown(expression))
            }
            Shape::Unclear => format!("?{}", shown(&item.span)),
        });
        out.push(items.collect::<Vec<_>>().join(" | "));
        let from = select
            .from
            .iter()
            .map(|from| format!("from {}", shown(from)));
        out.extend(from);
        out.extend(
            select
                .selection
                .iter()
                .map(|span| format!("where {}", shown(span))),
        );
        if !select.group_by.is_empty() {
            out.push(format!("group {}", all(&select.group_by)));
        }
        out.extend(
            select
                .having
                .iter()
                .map(|having| format!("having {}", shown(&having.condition))),
        );
        for window in &select.windows {
            out.push(format!(
                "window {} {}",
                window.name,
                shown(&window.definition)
            ));
        }
        if select.set_operation == SetOperation::Some {
            out.push("and more".to_owned());
        }
        for item in &select.order_by {
            let direction = match item.direction {
                Direction::Ascending => "asc",
                Direction::Descending => "desc",
            };
            let nulls = match item.nulls {
                Nulls::First => "first",
                Nulls::Last => "last",
            };
            out.push(format!(
                "order {} {direction} {nulls}",
                shown(&item.expression)
            ));
        }
        for (what, count) in [("limit", &select.limit), ("offset", &select.offset)] {
            out.extend(
                count
                    .iter()
                    .map(|count| format!("{what} {:?}", count.number)),
            );
        }
        out.extend(select.locking.iter().map(shown));
        out.join("; ")
    }

    #[test]
    fn clauses_are_found() {
        let cases = [
            (
                "SELECT a, b FROM t WHERE c GROUP BY d, e HAVING f ORDER BY g DESC, h NULLS FIRST LIMIT 1 OFFSET 2 FOR UPDATE",
                "a | b; from t; where c; group d | e; having f; order g desc first; order h asc first; limit Literal(0); offset Literal(1); FOR UPDATE",
            ),
            ("select 1", "1"),
            ("SELECT FROM t", "; from t"),
            ("SELECT DISTINCT a FROM t", "rows; a; from t"),
            ("SELECT DISTINCT ON (a, b) c FROM t", "on; c; from t"),
            ("SELECT ALL a FROM t", "a; from t"),
            (
                "WITH x AS (SELECT 1 FROM y), z (a) AS NOT MATERIALIZED (SELECT 2) SELECT a FROM x",
                "with WITH x AS (SELECT 1 FROM y), z (a) AS NOT MATERIALIZED (SELECT 2); a; from x",
            ),
            (
                "WITH RECURSIVE x AS (SELECT 1) SELECT a FROM x",
                "with WITH RECURSIVE x AS (SELECT 1); a; from x",
            ),
            (
                "SELECT a FROM t WINDOW w AS (PARTITION BY a), v AS (w ORDER BY b)",
                "a; from t; window w (PARTITION BY a); window v (w ORDER BY b)",
            ),
            (
                "SELECT a FROM t UNION ALL SELECT b FROM u ORDER BY 1",
                "a; from t; and more",
            ),
            (
                "SELECT a FROM t EXCEPT (SELECT b FROM u)",
                "a; from t; and more",
            ),
            (
                "SELECT a FROM t FOR UPDATE LIMIT 3",
                "a; from t; limit Literal(0); FOR UPDATE",
            ),
            (
                "SELECT a FROM t OFFSET 3 ROWS FETCH FIRST 2 ROWS ONLY",
                "a; from t; limit Literal(1); offset Literal(0)",
            ),
            (
                "SELECT a FROM t FETCH NEXT ROW ONLY",
                "a; from t; limit One",
            ),
            (
                "SELECT a FROM t FETCH FIRST 2 ROWS WITH TIES",
                "a; from t; limit Ties",
            ),
            (
                "SELECT a FROM t LIMIT ALL OFFSET NULL",
                "a; from t; limit None; offset None",
            ),
            (
                "SELECT 'x' FROM t LIMIT $2::bigint OFFSET ($1)",
                "'x'; from t; limit Param(2); offset Param(1)",
            ),
            (
                "SELECT a FROM t LIMIT 1 + 1 OFFSET '2'",
                "a; from t; limit Unknown; offset Unknown",
            ),
            (
                "SELECT a FROM t LIMIT 2::smallint",
                "a; from t; limit Unknown",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(show(sql), expected, "{sql}");
        }
    }

    #[test]
    fn keywords_in_other_places_begin_no_clause() {
        let cases = [
            (
                "SELECT a IS DISTINCT FROM b, c IS NOT DISTINCT FROM d FROM t",
                "a IS DISTINCT FROM b | c IS NOT DISTINCT FROM d; from t",
            ),
            (
                "SELECT a AS from, b AS where FROM t",
                "a -> from | b -> where; from t",
            ),
            ("SELECT t.from, t.order FROM t", "t.from | t.order; from t"),
            (
                "SELECT \"from\", \"ORDER\" FROM t",
                "\"from\" | \"ORDER\"; from t",
            ),
            (
                "SELECT extract(year FROM a), substring(b FROM 1 FOR 2) FROM t",
                "extract(year FROM a) | substring(b FROM 1 FOR 2); from t",
            ),
            (
                "SELECT mode() WITHIN GROUP (ORDER BY a) FROM t",
                "mode() WITHIN GROUP (ORDER BY a); from t",
            ),
            (
                "SELECT sum(a) FILTER (WHERE b) OVER (ORDER BY c) FROM t",
                "sum(a) FILTER (WHERE b) OVER (ORDER BY c); from t",
            ),
            (
                "SELECT (SELECT a FROM u ORDER BY b LIMIT 1) FROM t",
                "(SELECT a FROM u ORDER BY b LIMIT 1); from t",
            ),
            (
                "SELECT a FROM t WHERE b = 'ORDER BY c' -- LIMIT 3\n",
                "a; from t; where b = 'ORDER BY c'",
            ),
            ("SELECT a[1:2] FROM t", "a[1:2]; from t"),
            (
                "SELECT a FROM ROWS FROM (f(), g()) x",
                "a; from ROWS FROM (f(), g()) x",
            ),
            (
                "SELECT a FROM t AS x (b, c) JOIN u USING (d)",
                "a; from t AS x (b, c) JOIN u USING (d)",
            ),
        ];
        for (sql, expected) in cases {
            assert_eq!(show(sql), expected, "{sql}");
        }
    }

    #[test]
    fn labels_are_told_from_expressions() {
        let cases = [
            ("a b", "a -> b"),
            ("a AS \"B c\"", "a -> B c"),
            ("t.a b", "t.a -> b"),
            ("f(a) b", "f(a) -> b"),
            ("a::int b", "a::int -> b"),
            ("a + b", "a + b"),
            ("a AND b", "a AND b"),
            ("NOT b", "NOT b"),
            ("a IS NULL", "a IS NULL"),
            ("a COLLATE \"C\"", "a COLLATE \"C\""),
            ("a COLLATE \"C\" b", "a COLLATE \"C\" -> b"),
            ("a AT TIME ZONE b", "a AT TIME ZONE b"),
            ("a::double precision", "?a::double precision"),
            ("interval '1' day", "?interval '1' day"),
            ("date '2020-01-01'", "date '2020-01-01'"),
            (
                "CASE WHEN a THEN b ELSE c END",
                "CASE WHEN a THEN b ELSE c END",
            ),
            ("CASE WHEN a THEN b END d", "CASE WHEN a THEN b END -> d"),
            (
                "CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END",
                "CASE WHEN a THEN CASE b WHEN 1 THEN 2 END END",
            ),
            ("a END", "?a END"),
            ("sum(a) OVER w", "sum(a) OVER w"),
            ("sum(a) OVER w b", "sum(a) OVER w -> b"),
            (
                "sum(a) OVER (ORDER BY b) c",
                "sum(a) OVER (ORDER BY b) -> c",
            ),
            ("a[1] b", "a[1] -> b"),
            ("$1 b", "$1 -> b"),
            ("'x' b", "'x' -> b"),
            ("*", "**"),
            ("t.*", "*t.*"),
            ("(t).*", "*(t).*"),
            ("2 * 3", "2 * 3"),
            ("count(*)", "count(*)"),
            ("true", "true"),
            ("a.b.c", "a.b.c"),
            ("(a AS b)", "(a AS b)"),
        ];
        for (item, expected) in cases {
            assert_eq!(
                show(&format!("SELECT {item} FROM t")),
                format!("{expected}; from t"),
                "{item}"
            );
        }
    }

    #[test]
    fn what_is_not_surely_understood_is_not_read() {
        let cases = [
            "(SELECT 1)",
            "VALUES (1)",
            "TABLE t",
            "INSERT INTO t SELECT 1",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "WITH x AS (SELECT 1) SEARCH DEPTH FIRST BY a SET b SELECT 1",
            "SELECT a INTO b FROM t",
            "SELECT a FROM t ORDER BY b USING <",
            "SELECT a FROM t WHERE b FROM c",
            "SELECT a FROM t LIMIT 1 LIMIT 2",
            "SELECT a FROM t LIMIT 1 FETCH FIRST ROW ONLY",
            "SELECT a FROM t ORDER BY b WHERE c",
            "SELECT a, FROM t",
            "SELECT a FROM t LIMIT 1, 2",
            "SELECT a FROM t WHERE",
            "SELECT a FROM t ORDER b",
            "SELECT (a FROM t",
            "SELECT a) FROM t",
            "SELECT [a) FROM t",
        ];
        for sql in cases {
            assert_eq!(show(sql), "not read", "{sql}");
        }
    }

    #[test]
    fn a_statement_is_read_at_its_place_in_the_message() {
        let sql = "SELECT 'a', 'b'; /* hint */ SELECT c, 'd' FROM t LIMIT 5";
        let start = sql.find("/*").expect("a comment");
        let select = read(sql, start..sql.len()).expect("a SELECT");
        assert_eq!(text(&select, &select.items[1].span), "'d'");
        assert_eq!(
            select.limit.map(|limit| limit.number),
            Some(Number::Literal(3))
        );
    }

    #[test]
    fn calls_are_found_with_what_belongs_to_them() {
        let sql = "SELECT pg_catalog.sum(f(a)) FILTER (WHERE g(b)) OVER (ORDER BY h(c)), (SELECT i(d)), \"Count\"(e), mode() WITHIN GROUP (ORDER BY j), k(l) OVER w FROM t";
        let select = read(sql, 0..sql.len()).expect("a SELECT");
        let calls = select.calls(&select.whole());
        let shown: Vec<String> = calls
            .iter()
            .map(|call| format!("{} {}", call.name, text(&select, &call.span)))
            .collect();
        assert_eq!(
            shown[..4],
            [
                "sum pg_catalog.sum(f(a)) FILTER (WHERE g(b)) OVER (ORDER BY h(c))",
                "f f(a)",
                "filter FILTER (WHERE g(b)) OVER (ORDER BY h(c))",
                "g g(b)",
            ]
        );
        let role = |name: &str| {
            calls
                .iter()
                .find(|call| *call.name == *name)
                .map(|call| call.role.clone())
        };
        assert!(matches!(role("sum"), Some(Role::Over(_))));
        assert_eq!(role("i"), None);
        assert_eq!(role("Count"), Some(Role::Plain));
        assert_eq!(role("mode"), Some(Role::OrderedSet));
        assert_eq!(role("k"), Some(Role::Named("w".into())));
        assert_eq!(calls[0].schema.as_deref(), Some("pg_catalog"));
    }
}
