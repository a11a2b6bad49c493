//! The form of COPY's data: columns and options, as far as they decide where rows and values begin and end.

use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme, Lexer};
use super::normalise::{Literal, literal_text};
use super::split;

/// What `COPY table ... FROM STDIN` or `TO STDOUT` says of its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyForm {
    /// `None`: all of the table's, in its order.
    pub columns: Option<Vec<Box<str>>>,
    pub format: CopyFormat,
    /// The first line is not a row.
    pub header: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text {
        delimiter: u8,
        null: Box<[u8]>,
    },
    Csv {
        delimiter: u8,
        quote: u8,
        escape: u8,
        null: Box<[u8]>,
    },
    Binary,
}

/// What was read of the options so far.
#[derive(Default)]
struct Options {
    format: Option<Box<str>>,
    header: bool,
    delimiter: Option<Box<[u8]>>,
    quote: Option<Box<[u8]>>,
    escape: Option<Box<[u8]>>,
    null: Option<Box<[u8]>>,
}

/// Reads the form of a COPY of a table; the sentence says what of it is not understood.
pub fn form(statement: &str) -> Result<CopyForm, Box<str>> {
    let mut lexer = Lexer::new(statement.as_bytes());
    let mut lexemes: Vec<Lexeme> = Vec::new();
    while let Some(lexeme) = lexer.next().map_err(|error| Box::from(error.what))? {
        if !split::is_comment(&lexeme) && lexeme.kind != Kind::Semicolon {
            lexemes.push(lexeme);
        }
    }
    let mut cursor = Cursor::new(statement, &lexemes);
    let not_read = || Box::from("the COPY statement has a form that is not read");
    cursor.take("copy");
    let mut options = Options::default();
    if cursor.sees(0, "binary") && !cursor.sees_any(1, &["from", "to"]) {
        cursor.next();
        options.format = Some("binary".into());
    }
    cursor.name().ok_or_else(not_read)?;
    while cursor.take_kind(Kind::Dot) {
        cursor.name().ok_or_else(not_read)?;
    }
    let mut columns = None;
    if cursor.kind() == Some(Kind::OpenParen) {
        let inside = cursor.parenthesised().ok_or_else(not_read)?;
        let mut names = Cursor::new(statement, inside);
        let mut found = Vec::new();
        while !names.at_end() {
            found.push(names.name().ok_or_else(not_read)?);
            names.take_kind(Kind::Comma);
        }
        columns = Some(found);
    }
    if !cursor.take_any(&["from", "to"]) || !cursor.take_any(&["stdin", "stdout"]) {
        return Err(not_read());
    }
    cursor.take("with");
    if cursor.kind() == Some(Kind::OpenParen) {
        let inside = cursor.parenthesised().ok_or_else(not_read)?;
        options.listed(Cursor::new(statement, inside))?;
    } else {
        options.old(&mut cursor)?;
    }
    if !cursor.at_end() && !cursor.sees(0, "where") {
        return Err(not_read());
    }
    options.form(columns)
}

impl Options {
    /// `(FORMAT csv, HEADER, DELIMITER ';')`
    fn listed(&mut self, mut cursor: Cursor<'_>) -> Result<(), Box<str>> {
        while !cursor.at_end() {
            let name = cursor
                .name()
                .ok_or_else(|| Box::from("an option has no name"))?;
            let value = value(&mut cursor);
            match (&*name, value) {
                ("format", Some(value)) => self.format = Some(lower(&value)),
                ("header", None) => self.header = true,
                ("header", Some(value)) => match &*lower(&value) {
                    "true" | "on" | "1" | "match" => self.header = true,
                    "false" | "off" | "0" => self.header = false,
                    _ => return Err("HEADER has a value that is not read".into()),
                },
                ("delimiter", Some(value)) => self.delimiter = Some(value),
                ("quote", Some(value)) => self.quote = Some(value),
                ("escape", Some(value)) => self.escape = Some(value),
                ("null", Some(value)) => self.null = Some(value),
                ("encoding", Some(value)) => utf8_only(&value)?,
                // They do not change where values begin and end, nor which a row's key is.
                ("freeze" | "on_error" | "log_verbosity" | "reject_limit", _) => {}
                ("force_quote", _) => {
                    if cursor.kind() == Some(Kind::OpenParen) {
                        cursor.parenthesised();
                    } else {
                        cursor.take_operator("*");
                    }
                }
                (other, _) => return Err(format!("option {other} is not read").into()),
            }
            if !cursor.take_kind(Kind::Comma) && !cursor.at_end() {
                return Err("the options have a form that is not read".into());
            }
        }
        Ok(())
    }

    /// `DELIMITER AS ';' CSV HEADER`, as before Postgres 9.0.
    fn old(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Box<str>> {
        while !cursor.at_end() && !cursor.sees(0, "where") {
            let name = cursor
                .name()
                .ok_or_else(|| Box::from("the options have a form that is not read"))?;
            match &*name {
                "binary" => self.format = Some("binary".into()),
                "csv" => self.format = Some("csv".into()),
                "header" => self.header = true,
                "freeze" => {}
                "delimiter" | "delimiters" | "null" | "quote" | "escape" | "encoding" => {
                    cursor.take("as");
                    let value = value(cursor)
                        .ok_or_else(|| Box::from(format!("option {name} has no value")))?;
                    match &*name {
                        "null" => self.null = Some(value),
                        "quote" => self.quote = Some(value),
                        "escape" => self.escape = Some(value),
                        "encoding" => utf8_only(&value)?,
                        _ => self.delimiter = Some(value),
                    }
                }
                other => return Err(format!("option {other} is not read").into()),
            }
        }
        Ok(())
    }

    fn form(self, columns: Option<Vec<Box<str>>>) -> Result<CopyForm, Box<str>> {
        let one = |value: Option<Box<[u8]>>, default: u8| match value.as_deref() {
            None => Ok(default),
            Some([byte]) => Ok(*byte),
            Some(_) => Err(Box::<str>::from(
                "DELIMITER, QUOTE and ESCAPE are single one-byte characters",
            )),
        };
        let format = match self.format.as_deref() {
            None | Some("text") => CopyFormat::Text {
                delimiter: one(self.delimiter, b'\t')?,
                null: self.null.unwrap_or_else(|| Box::from(*b"\\N")),
            },
            Some("csv") => {
                let quote = one(self.quote, b'"')?;
                CopyFormat::Csv {
                    delimiter: one(self.delimiter, b',')?,
                    quote,
                    escape: one(self.escape, quote)?,
                    null: self.null.unwrap_or_default(),
                }
            }
            Some("binary") => CopyFormat::Binary,
            Some(other) => return Err(format!("format {other} is not known").into()),
        };
        Ok(CopyForm {
            columns,
            format,
            header: self.header,
        })
    }
}

/// The value of an option: a word or a literal. A list is left where it is.
fn value(cursor: &mut Cursor<'_>) -> Option<Box<[u8]>> {
    let lexeme = *cursor.peek()?;
    let value = match lexeme.kind {
        Kind::Word | Kind::Quoted => Box::from(cursor.name()?.as_bytes()),
        Kind::Literal(kind) => {
            let literal = Literal {
                start: lexeme.start,
                end: lexeme.end,
                kind,
            };
            let value = literal_text(cursor.text().as_bytes(), &literal).ok()?;
            let value = Box::from(value.as_bytes());
            cursor.next();
            value
        }
        _ => return None,
    };
    Some(value)
}

fn lower(value: &[u8]) -> Box<str> {
    String::from_utf8_lossy(value).to_ascii_lowercase().into()
}

fn utf8_only(value: &[u8]) -> Result<(), Box<str>> {
    match &*lower(value) {
        "utf8" | "utf-8" | "unicode" => Ok(()),
        other => Err(format!("encoding {other} is not read, only UTF8").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let text = CopyFormat::Text {
            delimiter: b'\t',
            null: Box::from(*b"\\N"),
        };
        let plain = form("COPY public.t FROM STDIN").unwrap();
        assert_eq!(plain.format, text);
        assert_eq!((plain.columns, plain.header), (None, false));
        let csv = form("copy t (a, \"B\") from stdin with (format 'csv', header, delimiter E'\\t', null 'x', freeze true) where a > 1")
            .unwrap();
        assert_eq!(csv.columns, Some(vec!["a".into(), "B".into()]));
        assert!(csv.header);
        let expected = CopyFormat::Csv {
            delimiter: b'\t',
            quote: b'"',
            escape: b'"',
            null: Box::from(*b"x"),
        };
        assert_eq!(csv.format, expected);
        let old = form("COPY t TO STDOUT DELIMITER AS '|' CSV HEADER QUOTE ''''").unwrap();
        let expected = CopyFormat::Csv {
            delimiter: b'|',
            quote: b'\'',
            escape: b'\'',
            null: Box::from(*b""),
        };
        assert_eq!((old.format, old.header), (expected, true));
        for binary in [
            "COPY BINARY t FROM STDIN",
            "COPY t FROM STDIN BINARY",
            "COPY t FROM STDIN (FORMAT BINARY)",
        ] {
            assert_eq!(form(binary).unwrap().format, CopyFormat::Binary, "{binary}");
        }
        for unread in [
            "COPY t FROM STDIN (FORMAT csv, FORCE_NULL (a))",
            "COPY t FROM STDIN (ENCODING 'SJIS')",
            "COPY t FROM STDIN (DELIMITER 'ab')",
            "COPY t FROM STDIN (FORMAT yaml)",
            "COPY t FROM STDIN (DEFAULT 'd')",
        ] {
            assert!(form(unread).is_err(), "{unread}");
        }
    }
}
