//! `ALTER TABLE`: where the rows of a table belong that is not there yet. Pure.

use super::command::{Command, SyntaxError, Token, done, name};
use crate::catalog::placed::Place;

/// What stands behind `ALTER`.
pub(super) fn alter(tokens: &[Token]) -> Result<Command, SyntaxError> {
    let mut rest = Rest(tokens);
    rest.word("TABLE")?;
    let first = rest.name("the table's name")?;
    let table = match rest.takes('.') {
        true => (first, rest.name("the table's name behind its schema")?),
        false => ("public".into(), first),
    };
    let what = "DISTRIBUTE BY, SET REFERENCE or RESET";
    let place = match rest.next(what)?.keyword().as_deref() {
        Some("DISTRIBUTE") => {
            rest.word("BY")?;
            let distribution = rest.name("the name of a distribution")?;
            Some(Place::Sharded {
                distribution,
                key: rest.columns()?,
            })
        }
        Some("SET") => {
            rest.word("REFERENCE")?;
            Some(Place::Reference)
        }
        Some("RESET") => None,
        _ => return Err(rest.unexpected(tokens)),
    };
    let database = match rest.0.first() {
        None => None,
        Some(_) => {
            rest.word("IN")?;
            let named = name(rest.0)?;
            rest.0 = &[];
            Some(named.ok_or_else(|| missing("a database's name after IN"))?)
        }
    };
    done(
        rest.0,
        Command::Place {
            table,
            place,
            database,
        },
    )
}

fn missing(expected: &'static str) -> SyntaxError {
    SyntaxError::Missing {
        after: "ALTER TABLE",
        expected,
    }
}

/// What has not been read.
struct Rest<'a>(&'a [Token]);

impl<'a> Rest<'a> {
    fn next(&mut self, expected: &'static str) -> Result<&'a Token, SyntaxError> {
        let (first, rest) = self.0.split_first().ok_or_else(|| missing(expected))?;
        self.0 = rest;
        Ok(first)
    }

    /// Of the token that was read last.
    fn unexpected(&self, all: &[Token]) -> SyntaxError {
        let read = all.len() - self.0.len();
        SyntaxError::Unexpected {
            found: all[read - 1].shown(),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        let found = self.next(word)?;
        match found.keyword().as_deref() == Some(word) {
            true => Ok(()),
            false => Err(SyntaxError::Unexpected {
                found: found.shown(),
            }),
        }
    }

    fn name(&mut self, expected: &'static str) -> Result<Box<str>, SyntaxError> {
        match self.next(expected)? {
            Token::Word(word) => Ok(word.to_ascii_lowercase().into()),
            Token::Quoted(name) => Ok(name.as_str().into()),
            other => Err(SyntaxError::Unexpected {
                found: other.shown(),
            }),
        }
    }

    fn takes(&mut self, mark: char) -> bool {
        let found = self.0.first() == Some(&Token::Other(mark));
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn columns(&mut self) -> Result<Vec<Box<str>>, SyntaxError> {
        let expected = "the key's columns in parentheses, like (customer_id),";
        let mut columns = Vec::new();
        let mut mark = '(';
        loop {
            match self.next(expected)? {
                Token::Other(found) if *found == mark => {}
                Token::Other(')') if mark == ',' => return Ok(columns),
                other => {
                    return Err(SyntaxError::Unexpected {
                        found: other.shown(),
                    });
                }
            }
            columns.push(self.name(expected)?);
            mark = ',';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::*;

    fn placed(text: &str) -> Result<Vec<Command>, String> {
        parse(text).map_err(|error| error.to_string())
    }

    fn command(
        schema: &str,
        table: &str,
        place: Option<Place>,
        database: Option<&str>,
    ) -> Result<Vec<Command>, String> {
        Ok(vec![Command::Place {
            table: (schema.into(), table.into()),
            place,
            database: database.map(str::to_owned),
        }])
    }

    fn sharded(distribution: &str, key: &[&str]) -> Option<Place> {
        Some(Place::Sharded {
            distribution: distribution.into(),
            key: key.iter().map(|column| Box::from(*column)).collect(),
        })
    }

    #[test]
    fn places() {
        assert_eq!(
            placed("ALTER TABLE Orders DISTRIBUTE BY d (Customer_Id);"),
            command("public", "orders", sharded("d", &["customer_id"]), None)
        );
        assert_eq!(
            placed("alter table s.\"Orders\" distribute by \"D\" (a, \"B\") in app"),
            command("s", "Orders", sharded("D", &["a", "B"]), Some("app"))
        );
        assert_eq!(
            placed("ALTER TABLE t SET REFERENCE"),
            command("public", "t", Some(Place::Reference), None)
        );
        assert_eq!(
            placed("ALTER TABLE t RESET IN \"App\""),
            command("public", "t", None, Some("App"))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("ALTER", "ALTER TABLE ends too early: TABLE is missing"),
            ("ALTER ROLE x", "ROLE is not understood at its place"),
            (
                "ALTER TABLE t",
                "ALTER TABLE ends too early: DISTRIBUTE BY, SET REFERENCE or RESET is missing",
            ),
            (
                "ALTER TABLE t ADD COLUMN x int",
                "ADD is not understood at its place",
            ),
            (
                "ALTER TABLE t DISTRIBUTE BY d",
                "ALTER TABLE ends too early: the key's columns in parentheses, like (customer_id), is missing",
            ),
            (
                "ALTER TABLE t DISTRIBUTE BY d ()",
                "\")\" is not understood at its place",
            ),
            (
                "ALTER TABLE t DISTRIBUTE BY d (a b)",
                "B is not understood at its place",
            ),
            (
                "ALTER TABLE t RESET app",
                "APP is not understood at its place",
            ),
            (
                "ALTER TABLE t RESET IN",
                "ALTER TABLE ends too early: a database's name after IN is missing",
            ),
        ] {
            assert_eq!(placed(text), Err(why.to_owned()), "{text}");
        }
    }
}
