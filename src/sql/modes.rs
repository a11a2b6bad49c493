//! What BEGIN, START TRANSACTION and SET TRANSACTION say of their transaction.

use super::lexer::{Lexeme, Lexer};
use super::{names, split};

/// What is said so far; `None`: nothing, so the defaults hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    pub access: Option<Access>,
    pub isolation: Option<Isolation>,
    pub deferral: Option<Deferral>,
    pub clarity: Clarity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferral {
    Deferrable,
    NotDeferrable,
}

/// Whether all that was said is understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clarity {
    #[default]
    Clear,
    Unclear,
}

impl Modes {
    const UNCLEAR: Modes = Modes {
        access: None,
        isolation: None,
        deferral: None,
        clarity: Clarity::Unclear,
    };

    pub fn is_read_only(self) -> bool {
        self.access == Some(Access::ReadOnly)
    }

    /// These, where `later` says nothing else.
    pub fn then(self, later: Modes) -> Modes {
        Modes {
            access: later.access.or(self.access),
            isolation: later.isolation.or(self.isolation),
            deferral: later.deferral.or(self.deferral),
            clarity: match (self.clarity, later.clarity) {
                (Clarity::Clear, Clarity::Clear) => Clarity::Clear,
                _ => Clarity::Unclear,
            },
        }
    }

    /// What one statement says of the transaction that it begins, or that it stands in.
    pub fn of(statement: &str) -> Modes {
        let Some(words) = words(statement) else {
            return Modes::UNCLEAR;
        };
        let words: Vec<&str> = words.iter().map(|word| &**word).collect();
        match words[..] {
            ["begin", "work" | "transaction", ref modes @ ..]
            | ["begin", ref modes @ ..]
            | ["start", "transaction", ref modes @ ..]
            | ["set", "local" | "session", "transaction", ref modes @ ..]
            | ["set", "transaction", ref modes @ ..] => list(modes),
            // Settings of the transaction under their own names.
            _ if words.iter().any(|word| word.starts_with("transaction_")) => Modes::UNCLEAR,
            _ => Modes::default(),
        }
    }
}

/// The words of a statement; what is no word is an empty one.
fn words(statement: &str) -> Option<Vec<Box<str>>> {
    let mut lexer = Lexer::new(statement.as_bytes());
    let mut words = Vec::new();
    while let Some(lexeme) = lexer.next().ok()? {
        if !split::is_comment(&lexeme) {
            words.push(word(statement, &lexeme));
        }
    }
    Some(words)
}

fn word(text: &str, lexeme: &Lexeme) -> Box<str> {
    match &text[lexeme.range()] {
        "," => ",".into(),
        _ => names::identifier(text, lexeme).unwrap_or_default(),
    }
}

fn list(words: &[&str]) -> Modes {
    let mut modes = Modes::default();
    let mut rest = words;
    while !rest.is_empty() {
        rest = match rest {
            [",", rest @ ..] => rest,
            ["read", "only", rest @ ..] => {
                modes.access = Some(Access::ReadOnly);
                rest
            }
            ["read", "write", rest @ ..] => {
                modes.access = Some(Access::ReadWrite);
                rest
            }
            ["deferrable", rest @ ..] => {
                modes.deferral = Some(Deferral::Deferrable);
                rest
            }
            ["not", "deferrable", rest @ ..] => {
                modes.deferral = Some(Deferral::NotDeferrable);
                rest
            }
            ["isolation", "level", rest @ ..] => {
                let (isolation, rest) = match rest {
                    ["serializable", rest @ ..] => (Isolation::Serializable, rest),
                    ["repeatable", "read", rest @ ..] => (Isolation::RepeatableRead, rest),
                    ["read", "committed", rest @ ..] => (Isolation::ReadCommitted, rest),
                    ["read", "uncommitted", rest @ ..] => (Isolation::ReadUncommitted, rest),
                    _ => return Modes::UNCLEAR,
                };
                modes.isolation = Some(isolation);
                rest
            }
            _ => return Modes::UNCLEAR,
        };
    }
    modes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_from_words_only() {
        let read_only = Modes {
            access: Some(Access::ReadOnly),
            ..Modes::default()
        };
        for text in [
            "BEGIN READ ONLY",
            "begin work read only",
            "BEGIN TRANSACTION\n READ -- WRITE\n ONLY",
            "START TRANSACTION READ WRITE, READ ONLY",
            "SET TRANSACTION READ ONLY",
            "SET LOCAL TRANSACTION READ ONLY",
        ] {
            assert_eq!(Modes::of(text), read_only, "{text}");
        }
        for text in [
            "BEGIN /* READ ONLY */",
            "BEGIN -- READ ONLY",
            "SAVEPOINT a",
            "SET LOCAL app.mode = 'read only'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET LOCAL default_transaction_read_only = on",
        ] {
            assert_eq!(Modes::of(text), Modes::default(), "{text}");
        }
        for text in [
            "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'",
            "SET LOCAL transaction_read_only = off",
            "SET \"transaction_isolation\" = 'serializable'",
            "BEGIN 'READ ONLY'",
            "BEGIN ISOLATION LEVEL SNAPSHOT",
            "BEGIN READ 'x",
        ] {
            assert_eq!(Modes::of(text), Modes::UNCLEAR, "{text}");
        }
        let all = Modes {
            access: Some(Access::ReadOnly),
            isolation: Some(Isolation::RepeatableRead),
            deferral: Some(Deferral::NotDeferrable),
            clarity: Clarity::Clear,
        };
        let text = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY, NOT DEFERRABLE";
        assert_eq!(Modes::of(text), all);
        let later = Modes::of("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(
            all.then(later),
            Modes {
                isolation: Some(Isolation::Serializable),
                ..all
            }
        );
    }
}
