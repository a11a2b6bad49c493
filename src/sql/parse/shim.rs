//! Rewrites the tokens of what Postgres has and the parser lacks, or reads wrongly, into what it reads rightly.
//!
//! Every rule keeps or drops meaning that facts do not record; where a rule drops something that facts do record, a [`Note`] says so.
//! Dropped tokens never hold a subquery: then the statement is not read at all. Dropped calls are noted.

use super::tokens;
use crate::sql::facts::Name;
use crate::sql::names;
use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

/// The type name that stands in for COLLATE: comparing under a collation is not comparing the value.
pub(super) const COLLATED: &str = "\u{1}collate";

#[derive(Default)]
pub(super) struct Notes {
    /// WHERE CURRENT OF.
    pub(super) positioned: bool,
    /// Called in tokens that were dropped.
    pub(super) functions: Vec<Name>,
}

pub(super) struct Shimmed {
    pub(super) tokens: Vec<TokenWithSpan>,
    pub(super) notes: Notes,
}

/// Rewrites the tokens of one statement. The error names what stands where it cannot be dropped.
pub(super) fn shim(input: Vec<TokenWithSpan>) -> Result<Shimmed, &'static str> {
    let mut shim = Shim {
        out: Vec::with_capacity(input.len() + 8),
        input,
        at: 0,
        notes: Notes::default(),
        subquery_dropped: false,
    };
    while shim.at < shim.input.len() {
        if !shim.rewrite() {
            shim.copy();
        }
    }
    if shim.subquery_dropped {
        return Err("a subquery in an index expression or subscript");
    }
    Ok(Shimmed {
        tokens: shim.out,
        notes: shim.notes,
    })
}

struct Shim {
    input: Vec<TokenWithSpan>,
    at: usize,
    out: Vec<TokenWithSpan>,
    notes: Notes,
    subquery_dropped: bool,
}

impl Shim {
    /// Applies the rule that fits here, if any.
    fn rewrite(&mut self) -> bool {
        match &self.input[self.at].token {
            Token::Word(Word {
                quote_style: Some(_),
                ..
            }) => self.typed_constant() || self.subscript_assignment(),
            Token::Word(word) => {
                let rule: fn(&mut Shim) -> bool = match &*word.value.to_ascii_uppercase() {
                    "ONLY" => Shim::only,
                    "VARIADIC" => Shim::skip_one,
                    "TABLE" => Shim::table,
                    "FOR" => Shim::row_lock,
                    "EXCLUDE" => Shim::frame_exclusion,
                    "SYMMETRIC" | "ASYMMETRIC" => Shim::between_symmetric,
                    "ISNULL" => Shim::is_null,
                    "OVERRIDING" => Shim::overriding,
                    "CURRENT" => Shim::current_of,
                    "SEARCH" => Shim::search_clause,
                    "CYCLE" => Shim::cycle_clause,
                    "AS" => Shim::column_definitions,
                    "USING" => Shim::using_alias,
                    "COLLATE" => Shim::collate,
                    "ON" => Shim::conflict_target,
                    "WITH" => Shim::returning_with,
                    "DISTINCT" | "ALL" => Shim::group_by_distinct,
                    "PRECEDING" | "FOLLOWING" => Shim::frame_bound,
                    "UESCAPE" => Shim::unicode_escape,
                    "LOCAL" => Shim::target_named_local,
                    _ => return self.typed_constant() || self.subscript_assignment(),
                };
                rule(self)
            }
            Token::RParen => self.composite_wildcard(),
            _ => false,
        }
    }

    fn copy(&mut self) {
        let taken = std::mem::replace(
            &mut self.input[self.at],
            TokenWithSpan {
                token: Token::EOF,
                span: Span::empty(),
            },
        );
        self.out.push(taken);
        self.at += 1;
    }

    fn token(&self, ahead: usize) -> Option<&Token> {
        self.input.get(self.at + ahead).map(|token| &token.token)
    }

    fn sees(&self, ahead: usize, word: &str) -> bool {
        is_word(self.token(ahead), word)
    }

    fn sees_all(&self, ahead: usize, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(index, word)| self.sees(ahead + index, word))
    }

    /// Whether what was read before this is the word.
    fn behind(&self, words: &[&str]) -> bool {
        words
            .iter()
            .any(|word| is_word(self.out.last().map(|token| &token.token), word))
    }

    fn is_name(&self, ahead: usize) -> bool {
        matches!(self.token(ahead), Some(Token::Word(_)))
    }

    /// Puts a token at the place of the present one.
    fn put(&mut self, token: Token) {
        let span =
            self.input
                .get(self.at)
                .or(self.input.last())
                .map_or_else(Span::empty, |token| Span {
                    end: token.span.end,
                    ..token.span
                });
        self.out.push(TokenWithSpan { token, span });
    }

    /// Drops tokens, keeping note of calls among them.
    fn skip(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if ["select", "with", "table", "values"]
                .iter()
                .any(|word| self.sees(0, word))
                && !self.behind_dropped_return()
            {
                self.subquery_dropped = true;
            }
            if let (Some(Token::Word(word)), Some(Token::LParen)) = (self.token(0), self.token(1))
                && !matches!(
                    word.keyword,
                    Keyword::WITH
                        | Keyword::WHERE
                        | Keyword::AND
                        | Keyword::OR
                        | Keyword::NOT
                        | Keyword::IN
                )
            {
                let name = if word.quote_style.is_some() {
                    names::keep(&word.value)
                } else {
                    names::fold(&word.value)
                };
                self.notes.functions.push(Name { schema: None, name });
            }
            self.at += 1;
        }
        true
    }

    /// RETURNING WITH drops a WITH that is no subquery.
    fn behind_dropped_return(&self) -> bool {
        self.behind(&["returning"])
    }

    fn skip_one(&mut self) -> bool {
        self.skip(1)
    }

    /// How far the partner of the parenthesis at `ahead` is.
    fn partner(&self, ahead: usize) -> Option<usize> {
        let mut depth = 0usize;
        for index in ahead.. {
            match self.token(index)? {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket => depth = depth.checked_sub(1)?,
                _ => {}
            }
            if depth == 0 {
                return Some(index);
            }
        }
        None
    }

    /// How many tokens `name [. name] [, ..]` has from `ahead` on.
    fn names(&self, ahead: usize) -> usize {
        let mut length = 0;
        loop {
            if !self.is_name(ahead + length) {
                return length;
            }
            length += 1;
            if !matches!(
                self.token(ahead + length),
                Some(Token::Period | Token::Comma)
            ) {
                return length;
            }
            length += 1;
        }
    }

    /// `FROM ONLY t`, `ONLY (t)`: the tables below t matter to no fact.
    fn only(&mut self) -> bool {
        if self.behind(&["row", "rows", "first", "next"])
            || matches!(
                self.out.last().map(|token| &token.token),
                Some(Token::RParen | Token::Number(..))
            )
        {
            return false;
        }
        self.at += 1;
        if self.token(0) == Some(&Token::LParen) {
            let names = self.names(1);
            if names > 0 && self.token(1 + names) == Some(&Token::RParen) {
                self.at += 1;
                for _ in 0..names {
                    self.copy();
                }
                self.at += 1;
            }
        }
        true
    }

    /// `TABLE t` is `SELECT * FROM t`.
    fn table(&mut self) -> bool {
        if self.behind(&["into", "temp", "temporary", "unlogged"]) || !self.is_name(1) {
            return false;
        }
        for token in [
            Token::make_keyword("SELECT"),
            Token::Mul,
            Token::make_keyword("FROM"),
        ] {
            self.put(token);
        }
        self.at += 1;
        true
    }

    /// `FOR NO KEY UPDATE`, `FOR KEY SHARE`, and `OF a, b` behind any of the four.
    fn row_lock(&mut self) -> bool {
        let (strength, words) = match () {
            () if self.sees_all(1, &["no", "key", "update"]) => ("UPDATE", 4),
            () if self.sees_all(1, &["key", "share"]) => ("SHARE", 3),
            () if self.sees(1, "update") => ("UPDATE", 2),
            () if self.sees(1, "share") => ("SHARE", 2),
            () => return false,
        };
        let tables = if self.sees(words, "of") {
            1 + self.names(words + 1)
        } else {
            0
        };
        if words == 2 && tables == 0 {
            return false;
        }
        self.put(Token::make_keyword("FOR"));
        self.put(Token::make_keyword(strength));
        self.skip(words + tables)
    }

    fn frame_exclusion(&mut self) -> bool {
        if !self.behind(&["preceding", "following", "row"]) {
            return false;
        }
        match () {
            () if self.sees_all(1, &["current", "row"]) || self.sees_all(1, &["no", "others"]) => {
                self.skip(3)
            }
            () if self.sees(1, "group") || self.sees(1, "ties") => self.skip(2),
            () => false,
        }
    }

    /// `'1 day'::interval PRECEDING`: the parser takes a plain string there.
    fn frame_bound(&mut self) -> bool {
        let behind: Vec<&Token> = self
            .out
            .iter()
            .rev()
            .take(3)
            .map(|token| &token.token)
            .collect();
        if let [
            Token::Word(_),
            Token::DoubleColon,
            Token::SingleQuotedString(_),
        ] = behind[..]
        {
            self.out.truncate(self.out.len() - 2);
        }
        false
    }

    fn between_symmetric(&mut self) -> bool {
        self.behind(&["between"]) && self.skip(1)
    }

    fn is_null(&mut self) -> bool {
        if self.token(1) == Some(&Token::LParen)
            || matches!(
                self.out.last().map(|token| &token.token),
                None | Some(Token::Period)
            )
        {
            return false;
        }
        self.put(Token::make_keyword("IS"));
        self.put(Token::make_keyword("NULL"));
        self.skip(1)
    }

    fn overriding(&mut self) -> bool {
        let found = self.sees_all(1, &["system", "value"]) || self.sees_all(1, &["user", "value"]);
        found && self.skip(3)
    }

    /// `WHERE CURRENT OF c`: the row is the cursor's.
    fn current_of(&mut self) -> bool {
        if !self.behind(&["where"]) || !self.sees(1, "of") {
            return false;
        }
        self.put(Token::make_keyword("TRUE"));
        self.notes.positioned = true;
        self.skip(3)
    }

    /// `SEARCH DEPTH FIRST BY a, b SET c` behind a WITH query.
    fn search_clause(&mut self) -> bool {
        if self.out.last().map(|token| &token.token) != Some(&Token::RParen)
            || !self.sees_all(2, &["first", "by"])
        {
            return false;
        }
        let columns = self.names(4);
        self.sees(4 + columns, "set") && self.skip(4 + columns + 2)
    }

    /// `CYCLE a, b SET c [TO v DEFAULT v] USING d` behind a WITH query.
    fn cycle_clause(&mut self) -> bool {
        if self.out.last().map(|token| &token.token) != Some(&Token::RParen) {
            return false;
        }
        let columns = self.names(1);
        if columns == 0 || !self.sees(1 + columns, "set") {
            return false;
        }
        let mut length = 1 + columns + 2;
        if self.sees(length, "to") && self.sees(length + 2, "default") {
            length += 4;
        }
        self.sees(length, "using") && self.skip(length + 2)
    }

    /// `FROM f() AS (a int)`: a list of columns without an alias gets one.
    fn column_definitions(&mut self) -> bool {
        if self.out.last().map(|token| &token.token) != Some(&Token::RParen)
            || self.token(1) != Some(&Token::LParen)
            || !self.is_name(2)
        {
            return false;
        }
        if [
            "select", "with", "values", "table", "insert", "update", "delete", "merge",
        ]
        .iter()
        .any(|word| self.sees(2, word))
        {
            return false;
        }
        self.copy();
        self.put(tokens::quoted_word(COLLATED));
        true
    }

    /// `JOIN .. USING (a, b) AS j`: conditions on `j.a` are on no relation then, which proves nothing.
    fn using_alias(&mut self) -> bool {
        if self.token(1) != Some(&Token::LParen) {
            return false;
        }
        let columns = self.names(2);
        let close = 2 + columns;
        if columns == 0
            || self.token(close) != Some(&Token::RParen)
            || !self.sees(close + 1, "as")
            || !self.is_name(close + 2)
        {
            return false;
        }
        for _ in 0..=close {
            self.copy();
        }
        self.skip(2)
    }

    /// `x COLLATE "C"` binds like `x::type` and is read as a cast that nobody knows.
    fn collate(&mut self) -> bool {
        let mut length = 1;
        while self.is_name(length) && self.token(length + 1) == Some(&Token::Period) {
            length += 2;
        }
        if !self.is_name(length) {
            return false;
        }
        self.put(Token::DoubleColon);
        self.put(tokens::quoted_word(COLLATED));
        self.skip(length + 1)
    }

    /// `ON CONFLICT (target) WHERE predicate DO ..`: the target says which unique index, no fact does.
    fn conflict_target(&mut self) -> bool {
        if !self.sees(1, "conflict")
            || !(self.token(2) == Some(&Token::LParen) || self.sees_all(2, &["on", "constraint"]))
        {
            return false;
        }
        let mut index = 2;
        loop {
            match self.token(index) {
                None | Some(Token::RParen) => return false,
                Some(Token::LParen) => match self.partner(index) {
                    Some(partner) => index = partner + 1,
                    None => return false,
                },
                Some(_)
                    if self.sees(index, "do")
                        && (self.sees(index + 1, "nothing")
                            || self.sees_all(index + 1, &["update", "set"])) =>
                {
                    break;
                }
                Some(_) => index += 1,
            }
        }
        self.copy();
        self.copy();
        self.skip(index - 2)
    }

    /// `RETURNING WITH (OLD AS o)`
    fn returning_with(&mut self) -> bool {
        if !self.behind(&["returning"]) || self.token(1) != Some(&Token::LParen) {
            return false;
        }
        match self.partner(1) {
            Some(partner) => self.skip(partner + 1),
            None => false,
        }
    }

    fn group_by_distinct(&mut self) -> bool {
        let before = self
            .out
            .len()
            .checked_sub(2)
            .and_then(|index| self.out.get(index))
            .map(|token| &token.token);
        self.behind(&["by"]) && is_word(before, "group") && self.skip(1)
    }

    fn unicode_escape(&mut self) -> bool {
        let string = |token: Option<&Token>| matches!(token, Some(Token::SingleQuotedString(_)));
        if !string(self.out.last().map(|token| &token.token)) || !string(self.token(1)) {
            return false;
        }
        self.skip(2)
    }

    /// `INSERT INTO local`: a name here, though the parser knows better.
    fn target_named_local(&mut self) -> bool {
        if !self.behind(&["into"]) {
            return false;
        }
        if let Token::Word(word) = &mut self.input[self.at].token {
            word.keyword = Keyword::NoKeyword;
        }
        self.copy();
        true
    }

    /// `(composite).*` are columns of unknown number: an unknown one, and a wildcard.
    fn composite_wildcard(&mut self) -> bool {
        if self.token(1) != Some(&Token::Period) || self.token(2) != Some(&Token::Mul) {
            return false;
        }
        self.copy();
        for token in [
            Token::make_keyword("IS"),
            Token::make_keyword("NULL"),
            Token::Comma,
        ] {
            self.put(token);
        }
        self.at += 1;
        self.copy();
        true
    }

    /// `inet '1.2.3.4'` is `'1.2.3.4'::inet`, for every type name that is no key word.
    fn typed_constant(&mut self) -> bool {
        let mut length = 1;
        while self.token(length) == Some(&Token::Period) && self.is_name(length + 1) {
            length += 2;
        }
        let is_type = match self.token(length - 1) {
            Some(Token::Word(word)) => {
                word.quote_style.is_some()
                    || word.keyword == Keyword::NoKeyword
                    || word.value.eq_ignore_ascii_case("json")
            }
            _ => false,
        };
        if !is_type || !matches!(self.token(length), Some(Token::SingleQuotedString(_))) {
            return false;
        }
        let constant = self.at + length;
        self.out.push(self.input[constant].clone());
        self.put(Token::DoubleColon);
        for _ in 0..length {
            self.copy();
        }
        self.at += 1;
        true
    }

    /// `SET a[1] = 5`: the column is assigned, whichever element.
    fn subscript_assignment(&mut self) -> bool {
        let starts = self.behind(&["set"])
            || matches!(
                self.out.last().map(|token| &token.token),
                Some(Token::Comma)
            );
        let mut length = 1;
        while self.token(length) == Some(&Token::LBracket) {
            match self.partner(length) {
                Some(partner) => length = partner + 1,
                None => return false,
            }
        }
        if !starts || length == 1 || self.token(length) != Some(&Token::Eq) {
            return false;
        }
        self.copy();
        self.skip(length - 1)
    }
}

fn is_word(token: Option<&Token>, word: &str) -> bool {
    matches!(token, Some(Token::Word(found)) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}
