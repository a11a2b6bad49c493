//! The form of COPY's data: columns and options, as far as they decide where rows and values begin and end.

use super::cursor::Cursor;
use super::lexer::{Kind, Lexeme, Lexer, LiteralKind};
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
    /// FORCE_NULL: the null string is NULL in quotes, too.
    pub force_null: Forced,
    /// FORCE_NOT_NULL: the null string is a text.
    pub force_not_null: Forced,
    /// What stands in the data for a column's default.
    pub default: Option<Box<[u8]>>,
}

/// The columns that an option is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forced {
    #[default]
    None,
    All,
    These(Vec<Box<str>>),
}

/// In which spellings CSV's null string is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvNull {
    Unquoted,
    /// FORCE_NULL
    Always,
    /// FORCE_NOT_NULL
    Never,
    /// Both of them.
    Quoted,
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
    force_null: Forced,
    force_not_null: Forced,
    default: Option<Box<[u8]>>,
}

impl CopyForm {
    /// Data of all columns.
    pub fn plain(format: CopyFormat) -> CopyForm {
        CopyForm {
            columns: None,
            format,
            header: false,
            force_null: Forced::None,
            force_not_null: Forced::None,
            default: None,
        }
    }

    /// Whether an option has the column's own name.
    pub fn names(&self, column: &str) -> bool {
        let named = [&self.force_null, &self.force_not_null];
        named
            .iter()
            .any(|columns| **columns != Forced::All && columns.has(column))
    }

    /// What of a column is NULL, if the data are CSV.
    pub fn csv_null(&self, column: &str) -> CsvNull {
        match (self.force_null.has(column), self.force_not_null.has(column)) {
            (false, false) => CsvNull::Unquoted,
            (true, false) => CsvNull::Always,
            (false, true) => CsvNull::Never,
            (true, true) => CsvNull::Quoted,
        }
    }
}

impl Forced {
    fn has(&self, column: &str) -> bool {
        match self {
            Forced::None => false,
            Forced::All => true,
            Forced::These(names) => names.iter().any(|name| **name == *column),
        }
    }
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
                ("default", Some(value)) => self.default = Some(value),
                ("force_quote" | "force_null" | "force_not_null", None) => {
                    let columns = listed_columns(&mut cursor)
                        .ok_or_else(|| Box::from(format!("option {name} has no columns")))?;
                    match &*name {
                        "force_null" => self.force_null = columns,
                        "force_not_null" => self.force_not_null = columns,
                        // It does not change what a value is.
                        _ => {}
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
                "force" if cursor.take("quote") => {
                    named_columns(cursor)?;
                }
                "force" if cursor.take_all(&["not", "null"]) => {
                    self.force_not_null = named_columns(cursor)?;
                }
                "force" if cursor.take("null") => self.force_null = named_columns(cursor)?,
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
            force_null: self.force_null,
            force_not_null: self.force_not_null,
            default: self.default,
        })
    }
}

/// `*` or `(a, "B", 'c')`: in a list of options a string is a name, too.
fn listed_columns(cursor: &mut Cursor<'_>) -> Option<Forced> {
    if cursor.take_operator("*") {
        return Some(Forced::All);
    }
    let mut inside = Cursor::new(cursor.text(), cursor.parenthesised()?);
    let mut names = Vec::new();
    loop {
        let name = value(&mut inside)?;
        names.push(std::str::from_utf8(&name).ok()?.into());
        if !inside.take_kind(Kind::Comma) {
            break;
        }
    }
    inside.at_end().then_some(Forced::These(names))
}

/// `*` or `a, "B"`.
fn named_columns(cursor: &mut Cursor<'_>) -> Result<Forced, Box<str>> {
    if cursor.take_operator("*") {
        return Ok(Forced::All);
    }
    let mut names = Vec::new();
    loop {
        let name = cursor.name();
        names.push(name.ok_or_else(|| Box::from("option force has no columns"))?);
        if !cursor.take_kind(Kind::Comma) {
            return Ok(Forced::These(names));
        }
    }
}

/// The value of an option: a word or a literal. A list is left where it is.
fn value(cursor: &mut Cursor<'_>) -> Option<Box<[u8]>> {
    let lexeme = *cursor.peek()?;
    let value = match lexeme.kind {
        Kind::Word | Kind::Quoted => Box::from(cursor.name()?.as_bytes()),
        Kind::Literal(kind) => {
            if !is_its_own_text(kind, cursor.source(&lexeme)) {
                return None;
            }
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

/// Whether a constant comes to what is written, or to what its quotes hold: the server prints a number that it has read.
fn is_its_own_text(kind: LiteralKind, source: &str) -> bool {
    match kind {
        LiteralKind::Integer => source == "0" || !source.starts_with('0'),
        LiteralKind::Number => !source.contains('_'),
        LiteralKind::Radix | LiteralKind::Bits | LiteralKind::Hex | LiteralKind::National => false,
        _ => true,
    }
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
            "COPY t FROM STDIN (FORMAT csv, FORCE_NULL)",
            "COPY t FROM STDIN (FORMAT csv, FORCE_NULL (a.b))",
            "COPY t FROM STDIN (FORMAT csv, FORCE_NOT_NULL a)",
            "COPY t FROM STDIN CSV FORCE NULL (a)",
            "COPY t FROM STDIN CSV FORCE a",
            "COPY t FROM STDIN (NULL 007)",
            "COPY t FROM STDIN (DEFAULT)",
            "COPY t FROM STDIN (DEFAULT 1_000)",
            "COPY t FROM STDIN (ENCODING 'SJIS')",
            "COPY t FROM STDIN (DELIMITER 'ab')",
            "COPY t FROM STDIN (FORMAT yaml)",
        ] {
            assert!(form(unread).is_err(), "{unread}");
        }
    }

    #[test]
    fn what_is_null_or_a_default() {
        let these =
            |names: &[&str]| Forced::These(names.iter().map(|name| (*name).into()).collect());
        let read = form(
            "COPY t FROM STDIN (FORMAT csv, FORCE_NULL (a, \"B\", 'C'), FORCE_NOT_NULL *, FORCE_QUOTE (a), DEFAULT E'\\\\D', NULL 7)",
        )
        .unwrap();
        assert_eq!(read.force_null, these(&["a", "B", "C"]));
        assert_eq!(read.force_not_null, Forced::All);
        assert_eq!(read.default.as_deref(), Some(&b"\\D"[..]));
        assert_eq!(read.csv_null("B"), CsvNull::Quoted);
        assert_eq!(read.csv_null("b"), CsvNull::Never);
        let old = form("COPY t FROM STDIN CSV FORCE NOT NULL a, b FORCE NULL c FORCE QUOTE * NULL AS 'x' WHERE a > 1")
            .unwrap();
        assert_eq!(old.force_not_null, these(&["a", "b"]));
        assert_eq!(old.force_null, these(&["c"]));
        let nulls = ["a", "c", "d"].map(|column| old.csv_null(column));
        assert_eq!(nulls, [CsvNull::Never, CsvNull::Always, CsvNull::Unquoted]);
        let binary = form("COPY t FROM STDIN BINARY").unwrap();
        assert_eq!(binary, CopyForm::plain(CopyFormat::Binary));
    }
}
