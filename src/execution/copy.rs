//! COPY FROM STDIN split by key: which shard gets which row of the client's data.
//!
//! The splitter finds the ends of rows and the values of the key columns, by Postgres's own rules (`src/backend/commands/copyfromparse.c`),
//! and passes every row on as it came. What a row means beyond its key is for the shard to judge.

use std::borrow::Cow;
use std::collections::VecDeque;

use memchr::{memchr, memchr_iter};

use super::branch::Failure;
use crate::plan::refusal::Refusal;
use crate::plan::spread::copy::{Given, NumberedColumn, ValueOf};
use crate::sharding::{KeyType, KeyValue};
use crate::sql::copy::{CopyForm, CopyFormat, CsvNull};

/// The longest row; Postgres's own limit for a value is the same.
const LONGEST_ROW: usize = 1 << 30;

/// What binary data begin with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The first 19 bytes: signature, flags, length of what follows.
const BINARY_HEADER: usize = 19;

/// Which branches get a row.
pub type Locate<'a> = dyn Fn(&[KeyValue]) -> Result<usize, String> + 'a;

/// Splits COPY data.
pub struct Splitter {
    form: CopyForm,
    table: Box<str>,
    /// For each column of the key its place, its type, and the distribution's type. Empty: every branch gets all rows.
    key: Vec<(ValueOf, KeyType, KeyType)>,
    /// For each column that is numbered the numbers of the rows to come.
    pub numbers: Vec<Numbers>,
    /// Columns that no row leaves to their defaults.
    pub given: Vec<Given>,
    stage: Stage,
    /// Rows seen, the header line included.
    line: u64,
    /// The beginning of a row whose end has not come yet.
    pending: Vec<u8>,
    /// What is for each branch.
    pub outputs: Vec<Vec<u8>>,
    values: Vec<KeyValue>,
}

/// What stands in front of each row, in a column of its own.
pub struct Numbers {
    pub column: NumberedColumn,
    pub left: VecDeque<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    /// The end marker was seen: what follows is ignored.
    Ended,
}

impl Splitter {
    pub fn new(
        form: CopyForm,
        table: Box<str>,
        key: Vec<(ValueOf, KeyType, KeyType)>,
        branches: usize,
    ) -> Splitter {
        let stage = if form.header || form.format == CopyFormat::Binary {
            Stage::Header
        } else {
            Stage::Rows
        };
        Splitter {
            form,
            table,
            key,
            numbers: Vec::new(),
            given: Vec::new(),
            stage,
            line: 0,
            pending: Vec::new(),
            outputs: vec![Vec::new(); branches],
            values: Vec::new(),
        }
    }

    /// Every row gets a number for each of these columns.
    pub fn number_rows(&mut self, columns: &[NumberedColumn]) {
        let numbers = columns.iter().map(|column| Numbers {
            column: column.clone(),
            left: VecDeque::new(),
        });
        self.numbers = numbers.collect();
    }

    /// No row can be passed on before it has more numbers.
    pub fn needs_numbers(&self) -> bool {
        self.numbers.iter().any(|numbers| numbers.left.is_empty())
    }

    /// Takes the next bytes of the data. Where numbers are missing it keeps them, and goes on when it is fed again, if with nothing.
    pub fn feed(&mut self, bytes: &[u8], locate: &Locate<'_>) -> Result<(), Failure> {
        if self.key.is_empty() && self.numbers.is_empty() && self.given.is_empty() {
            self.push_all(bytes);
            return Ok(());
        }
        if self.pending.is_empty() {
            let taken = self.rows(bytes, locate)?;
            self.pending.extend_from_slice(&bytes[taken..]);
        } else {
            // Only whole rows leave, so what is looked through again is one row.
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(bytes);
            let taken = self.rows(&pending, locate)?;
            pending.drain(..taken);
            self.pending = pending;
        }
        if self.pending.len() > LONGEST_ROW {
            return Err(self.complaint("54000", "the row is longer than 1 GB"));
        }
        Ok(())
    }

    /// The data have ended; the last row need not have an end of its own. Where numbers are missing it is to be called again.
    pub fn finish(&mut self, locate: &Locate<'_>) -> Result<(), Failure> {
        if self.pending.is_empty() || self.stage == Stage::Ended {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let taken = self.rows(&pending, locate)?;
        pending.drain(..taken);
        if !pending.is_empty() && self.stage != Stage::Ended && !self.needs_numbers() {
            if self.form.format == CopyFormat::Binary {
                return Err(self.complaint("22P04", "unexpected EOF in COPY data"));
            }
            let before: Vec<usize> = self.outputs.iter().map(Vec::len).collect();
            pending.push(b'\n');
            let taken = self.rows(&pending, locate)?;
            if taken < pending.len() {
                return Err(self.complaint("22P04", "unterminated CSV quoted field"));
            }
            // Other lines may end in another way, and this one in none.
            for (output, before) in self.outputs.iter_mut().zip(before) {
                if output.len() > before {
                    output.pop();
                }
            }
            pending.clear();
        }
        self.pending = pending;
        Ok(())
    }

    /// Some of the data have not been passed on.
    pub fn is_behind(&self) -> bool {
        !self.pending.is_empty() && self.stage != Stage::Ended
    }

    /// One row, with its numbers in front, for one branch or for all.
    fn push_row(&mut self, row: &[u8], branch: Option<usize>) {
        let outputs = match branch {
            Some(branch) => std::slice::from_mut(&mut self.outputs[branch]),
            None => &mut self.outputs[..],
        };
        let delimiter = match &self.form.format {
            CopyFormat::Text { delimiter, .. } | CopyFormat::Csv { delimiter, .. } => *delimiter,
            CopyFormat::Binary => 0,
        };
        for output in outputs {
            for numbers in &self.numbers {
                if let Some(number) = numbers.left.front() {
                    output.extend_from_slice(number.to_string().as_bytes());
                    output.push(delimiter);
                }
            }
            output.extend_from_slice(row);
        }
        for numbers in &mut self.numbers {
            numbers.left.pop_front();
        }
    }

    /// The header of text and CSV, with the names of the numbered columns.
    fn push_header(&mut self, row: &[u8]) {
        let mut header = Vec::new();
        for numbers in &self.numbers {
            header.extend_from_slice(numbers.column.name.as_bytes());
            if let CopyFormat::Text { delimiter, .. } | CopyFormat::Csv { delimiter, .. } =
                &self.form.format
            {
                header.push(*delimiter);
            }
        }
        header.extend_from_slice(row);
        self.push_all(&header);
    }

    /// A tuple of binary data, likewise.
    fn push_tuple(&mut self, tuple: &[u8], branch: Option<usize>) -> Result<(), Failure> {
        if self.numbers.is_empty() {
            self.push_row(tuple, branch);
            return Ok(());
        }
        let own = tuple
            .first_chunk()
            .map_or(0, |count| i16::from_be_bytes(*count));
        let more = i16::try_from(self.numbers.len()).unwrap_or(i16::MAX);
        let mut numbered = own.saturating_add(more).to_be_bytes().to_vec();
        for numbers in &self.numbers {
            let number = numbers.left.front().copied().unwrap_or_default();
            let Some(bytes) = of_width(number, numbers.column.width) else {
                let why = format!(
                    "{number} is out of range for column {}",
                    numbers.column.name
                );
                return Err(self.complaint("22003", &why));
            };
            let length = u32::try_from(bytes.len()).expect("8 bytes at most");
            numbered.extend_from_slice(&length.to_be_bytes());
            numbered.extend_from_slice(&bytes);
        }
        for numbers in &mut self.numbers {
            numbers.left.pop_front();
        }
        numbered.extend_from_slice(tuple.get(2..).unwrap_or_default());
        match branch {
            Some(branch) => self.outputs[branch].extend_from_slice(&numbered),
            None => self.push_all(&numbered),
        }
        Ok(())
    }

    fn push_all(&mut self, bytes: &[u8]) {
        for output in &mut self.outputs {
            output.extend_from_slice(bytes);
        }
    }

    /// Deals with whole rows; how many bytes they are.
    fn rows(&mut self, bytes: &[u8], locate: &Locate<'_>) -> Result<usize, Failure> {
        let mut at = 0;
        while self.stage != Stage::Ended {
            let rest = &bytes[at..];
            if self.stage == Stage::Rows && self.needs_numbers() {
                return Ok(at);
            }
            let length = match (&self.form.format, self.stage) {
                (CopyFormat::Binary, Stage::Header) => self.binary_header(rest)?,
                (CopyFormat::Binary, _) => self.tuple(rest, locate)?,
                _ => self.line(rest, locate)?,
            };
            match length {
                Some(length) => at += length,
                None => return Ok(at),
            }
        }
        Ok(bytes.len())
    }

    /// One line of text or CSV; `None`: its end has not come yet.
    fn line(&mut self, bytes: &[u8], locate: &Locate<'_>) -> Result<Option<usize>, Failure> {
        let end = match &self.form.format {
            CopyFormat::Csv { quote, escape, .. } => csv_line(bytes, *quote, *escape),
            _ => text_line(bytes),
        };
        let Some(end) = end else { return Ok(None) };
        self.line += 1;
        let (row, line) = (&bytes[..=end], &bytes[..end]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.stage == Stage::Header {
            self.stage = Stage::Rows;
            self.push_header(row);
            return Ok(Some(row.len()));
        }
        if line == b"\\." {
            self.stage = Stage::Ended;
            return Ok(Some(row.len()));
        }
        self.check_given(line)?;
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        let found = self.key_of_line(line, &mut values);
        let branch = found.and_then(|()| self.branch(&values, locate));
        self.values = values;
        let branch = branch.map_err(|why| self.complaint("22P04", &why))?;
        self.push_row(row, branch);
        Ok(Some(row.len()))
    }

    /// `None`: all of them.
    fn branch(&self, key: &[KeyValue], locate: &Locate<'_>) -> Result<Option<usize>, String> {
        match self.key.is_empty() {
            true => Ok(None),
            false => locate(key).map(Some),
        }
    }

    /// The number that the row to come has for a column of the key.
    fn number(&self, place: usize, key_type: KeyType) -> Result<KeyValue, String> {
        let numbers = self.numbers.get(place);
        let number = numbers.and_then(|numbers| numbers.left.front());
        let number = *number.ok_or("a number is missing")?;
        let value = KeyValue::Int(number);
        let converted = key_type.convert(value, KeyType::BigInt);
        converted.map_err(|error| error.to_string())
    }

    /// Refuses a row that leaves to its default what it has to give. Lines that cannot be read are complained of by others.
    fn check_given(&self, line: &[u8]) -> Result<(), Failure> {
        let Some(marker) = self.form.default.as_deref() else {
            return Ok(());
        };
        for given in &self.given {
            let raw = match &self.form.format {
                CopyFormat::Csv {
                    delimiter,
                    quote,
                    escape,
                    ..
                } => {
                    csv_field(line, given.place, *delimiter, *quote, *escape).map(|field| field.raw)
                }
                CopyFormat::Text { delimiter, .. } => text_field(line, given.place, *delimiter),
                CopyFormat::Binary => return Ok(()),
            };
            if raw.is_ok_and(|raw| raw == marker) {
                let message = format!("COPY {}, line {}: {}", self.table, self.line, given.why);
                return Err(Failure::Refused(Refusal::new(given.reason, message)));
            }
        }
        Ok(())
    }

    fn key_of_line(&self, line: &[u8], values: &mut Vec<KeyValue>) -> Result<(), String> {
        for (value_of, column_type, key_type) in &self.key {
            let (place, spelling) = match value_of {
                ValueOf::Row(place, spelling) => (*place, *spelling),
                ValueOf::Number(place) => {
                    values.push(self.number(*place, *key_type)?);
                    continue;
                }
            };
            let value = match &self.form.format {
                CopyFormat::Csv {
                    delimiter,
                    quote,
                    escape,
                    null,
                } => {
                    let field = csv_field(line, place, *delimiter, *quote, *escape)?;
                    field.value(null, spelling)
                }
                CopyFormat::Text { delimiter, null } => {
                    let raw = text_field(line, place, *delimiter)?;
                    (raw != &**null).then(|| unescaped(raw))
                }
                CopyFormat::Binary => None,
            };
            let value = value.ok_or("a key column is NULL")?;
            let value = std::str::from_utf8(&value).map_err(|_| "a key is not valid UTF-8")?;
            let parsed = column_type
                .parse_text(value)
                .and_then(|parsed| key_type.convert(parsed, *column_type));
            values.push(parsed.map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    fn binary_header(&mut self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let Some(header) = bytes.get(..BINARY_HEADER) else {
            return Ok(None);
        };
        if !header.starts_with(SIGNATURE) {
            return Err(self.complaint("22P04", "COPY file signature not recognized"));
        }
        if header[11..15] != [0; 4] {
            return Err(self.complaint("22P04", "unrecognized critical flags in COPY file header"));
        }
        let extension = u32::from_be_bytes([header[15], header[16], header[17], header[18]]);
        let whole = BINARY_HEADER + extension as usize;
        let Some(header) = bytes.get(..whole) else {
            return Ok(None);
        };
        self.stage = Stage::Rows;
        self.push_all(header);
        Ok(Some(whole))
    }

    /// One tuple of binary data, or the trailer.
    fn tuple(&mut self, bytes: &[u8], locate: &Locate<'_>) -> Result<Option<usize>, Failure> {
        let Some(count) = bytes.first_chunk() else {
            return Ok(None);
        };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.stage = Stage::Ended;
            self.push_all(&bytes[..2]);
            return Ok(Some(bytes.len()));
        }
        let mut fields: [Option<&[u8]>; 64] = [None; 64];
        let mut at = 2;
        for number in 0..usize::try_from(count).unwrap_or(0) {
            let Some(length) = bytes[at..].first_chunk() else {
                return Ok(None);
            };
            at += 4;
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                continue;
            };
            let Some(value) = bytes.get(at..at + length) else {
                return Ok(None);
            };
            at += length;
            // A row's key is among its first columns nearly always; else it is looked for again.
            if let Some(field) = fields.get_mut(number) {
                *field = Some(value);
            }
        }
        self.line += 1;
        let tuple = &bytes[..at];
        let mut values = std::mem::take(&mut self.values);
        values.clear();
        let mut located = Ok(());
        for (value_of, column_type, key_type) in &self.key {
            let place = match value_of {
                ValueOf::Row(place, _) => place,
                ValueOf::Number(place) => {
                    located = self
                        .number(*place, *key_type)
                        .map(|value| values.push(value));
                    continue;
                }
            };
            let value = fields
                .get(*place)
                .copied()
                .unwrap_or_else(|| field(tuple, *place));
            located = value
                .ok_or_else(|| "a key column is NULL".to_owned())
                .and_then(|value| {
                    let parsed = column_type.parse_binary(value);
                    parsed
                        .and_then(|parsed| key_type.convert(parsed, *column_type))
                        .map_err(|error| error.to_string())
                })
                .map(|value| values.push(value));
            if located.is_err() {
                break;
            }
        }
        let branch = located.and_then(|()| self.branch(&values, locate));
        self.values = values;
        let branch = branch.map_err(|why| self.complaint("22P04", &why))?;
        self.push_tuple(tuple, branch)?;
        Ok(Some(at))
    }

    fn complaint(&self, sqlstate: &'static str, why: &str) -> Failure {
        Failure::Ours {
            sqlstate,
            message: format!("COPY {}, line {}: {why}", self.table, self.line),
            hint: None,
        }
    }
}

/// A number as a type of so many bytes has it, if it can have it.
fn of_width(number: i64, width: usize) -> Option<Vec<u8>> {
    match width {
        2 => Some(i16::try_from(number).ok()?.to_be_bytes().to_vec()),
        4 => Some(i32::try_from(number).ok()?.to_be_bytes().to_vec()),
        _ => Some(number.to_be_bytes().to_vec()),
    }
}

/// A field of a whole binary tuple; `None`: NULL or missing.
fn field(tuple: &[u8], place: usize) -> Option<&[u8]> {
    let mut at = 2;
    for _ in 0..place {
        let length = i32::from_be_bytes(*tuple.get(at..)?.first_chunk()?);
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    let length = i32::from_be_bytes(*tuple.get(at..)?.first_chunk()?);
    tuple.get(at + 4..at + 4 + usize::try_from(length).ok()?)
}

/// Where a line of text format ends: at a newline that no backslash stands before.
fn text_line(bytes: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', bytes).find(|end| !is_escaped(bytes, *end))
}

/// Whether an odd number of backslashes stands before a byte.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    let slashes = bytes[..at].iter().rev().take_while(|byte| **byte == b'\\');
    slashes.count() % 2 == 1
}

/// Where a line of CSV ends: at a newline outside of quotes.
fn csv_line(bytes: &[u8], quote: u8, escape: u8) -> Option<usize> {
    let first = memchr(b'\n', bytes)?;
    if memchr(quote, &bytes[..first]).is_none() {
        return Some(first);
    }
    // Where both are the same a doubled quote closes and opens again, which comes to the same.
    let escape = (escape != quote).then_some(escape);
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in bytes.iter().enumerate() {
        if quoted && Some(*byte) == escape {
            escaped = !escaped;
        }
        if *byte == quote && !escaped {
            quoted = !quoted;
        }
        if Some(*byte) != escape {
            escaped = false;
        }
        if *byte == b'\n' && !quoted {
            return Some(at);
        }
    }
    None
}

/// A field of a line in text format, by its place, as it is written.
fn text_field(line: &[u8], place: usize, delimiter: u8) -> Result<&[u8], String> {
    if memchr(b'\r', line).is_some_and(|at| !is_escaped(line, at)) {
        return Err("literal carriage return found in data".into());
    }
    let mut start = 0;
    let mut ends = memchr_iter(delimiter, line).filter(|end| !is_escaped(line, *end));
    for _ in 0..place {
        start = ends.next().ok_or("missing data for a key column")? + 1;
    }
    Ok(&line[start..ends.next().unwrap_or(line.len())])
}

/// Backslash sequences resolved, as `CopyReadAttributesText` does.
fn unescaped(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut value = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        at += 1;
        if *byte != b'\\' {
            value.push(*byte);
            continue;
        }
        let Some(next) = raw.get(at) else {
            value.push(b'\\');
            break;
        };
        at += 1;
        match next {
            b'b' => value.push(8),
            b'f' => value.push(12),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'v' => value.push(11),
            b'0'..=b'7' => {
                let mut code = u32::from(next - b'0');
                for _ in 0..2 {
                    match raw.get(at) {
                        Some(digit @ b'0'..=b'7') => {
                            code = code * 8 + u32::from(digit - b'0');
                            at += 1;
                        }
                        _ => break,
                    }
                }
                value.push((code & 0xff) as u8);
            }
            b'x' => {
                let mut code = None;
                for _ in 0..2 {
                    match raw
                        .get(at)
                        .and_then(|digit| char::from(*digit).to_digit(16))
                    {
                        Some(digit) => {
                            code = Some(code.unwrap_or(0) * 16 + digit);
                            at += 1;
                        }
                        None => break,
                    }
                }
                value.push(code.map_or(b'x', |code| (code & 0xff) as u8));
            }
            other => value.push(*other),
        }
    }
    Cow::Owned(value)
}

/// A field of a CSV line.
struct CsvField<'a> {
    /// As it is written.
    raw: &'a [u8],
    /// Without its quotes.
    text: Cow<'a, [u8]>,
    is_quoted: bool,
}

impl<'a> CsvField<'a> {
    /// `None` is NULL. As `NextCopyFrom` does.
    fn value(self, null: &[u8], spelling: CsvNull) -> Option<Cow<'a, [u8]>> {
        let is_null = *self.text == *null
            && match spelling {
                CsvNull::Unquoted => !self.is_quoted,
                CsvNull::Quoted => self.is_quoted,
                CsvNull::Always => true,
                CsvNull::Never => false,
            };
        (!is_null).then_some(self.text)
    }
}

/// A field of a CSV line, by its place. As `CopyReadAttributesCSV` does.
fn csv_field(
    line: &[u8],
    place: usize,
    delimiter: u8,
    quote: u8,
    escape: u8,
) -> Result<CsvField<'_>, String> {
    if memchr(quote, line).is_none() {
        if memchr(b'\r', line).is_some() {
            return Err("unquoted carriage return found in data".into());
        }
        let mut start = 0;
        let mut ends = memchr_iter(delimiter, line);
        for _ in 0..place {
            start = ends.next().ok_or("missing data for a key column")? + 1;
        }
        let raw = &line[start..ends.next().unwrap_or(line.len())];
        return Ok(CsvField {
            raw,
            text: Cow::Borrowed(raw),
            is_quoted: false,
        });
    }
    let mut at = 0;
    for number in 0.. {
        let start = at;
        let mut value = Vec::new();
        let (mut quoted, mut had_quotes) = (false, false);
        let ended = loop {
            let Some(byte) = line.get(at) else { break true };
            at += 1;
            if quoted {
                // The escape is looked at first, because it may be the quote.
                if *byte == escape
                    && let Some(next) = line.get(at)
                    && (*next == escape || *next == quote)
                {
                    value.push(*next);
                    at += 1;
                } else if *byte == quote {
                    quoted = false;
                } else {
                    value.push(*byte);
                }
            } else if *byte == delimiter {
                break false;
            } else if *byte == quote {
                (quoted, had_quotes) = (true, true);
            } else if *byte == b'\r' {
                return Err("unquoted carriage return found in data".into());
            } else {
                value.push(*byte);
            }
        };
        if number == place {
            let raw = &line[start..if ended { at } else { at - 1 }];
            return Ok(CsvField {
                raw,
                text: Cow::Owned(value),
                is_quoted: had_quotes,
            });
        }
        if ended {
            break;
        }
    }
    Err("missing data for a key column".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> CopyFormat {
        CopyFormat::Text {
            delimiter: b'\t',
            null: Box::from(*b"\\N"),
        }
    }

    fn csv() -> CopyFormat {
        CopyFormat::Csv {
            delimiter: b',',
            quote: b'"',
            escape: b'"',
            null: Box::default(),
        }
    }

    /// Splits data in pieces of `step` bytes; the key is the column at `place`.
    fn split(
        format: CopyFormat,
        header: bool,
        place: usize,
        key_type: KeyType,
        data: &[u8],
        step: usize,
    ) -> Result<Vec<Vec<u8>>, String> {
        let form = CopyForm {
            header,
            ..CopyForm::plain(format)
        };
        let key = vec![(ValueOf::Row(place, CsvNull::Unquoted), key_type, key_type)];
        let mut splitter = Splitter::new(form, "t".into(), key, 2);
        let locate = |key: &[KeyValue]| match &key[0] {
            KeyValue::Int(number) => Ok(usize::from(number % 2 != 0)),
            KeyValue::Text(text) => Ok(usize::from(text.len() % 2 != 0)),
            other => Err(format!("{other:?}")),
        };
        let message = |failure| match failure {
            Failure::Ours { message, .. } => message,
            other => format!("{other:?}"),
        };
        for piece in data.chunks(step) {
            splitter.feed(piece, &locate).map_err(message)?;
        }
        splitter.finish(&locate).map_err(message)?;
        Ok(splitter.outputs)
    }

    #[test]
    fn rows_go_by_their_key_however_the_data_are_cut() {
        let data = b"a\\\tb\t1\nx\\\ny\t2\nlast\t3";
        let expected = [b"x\\\ny\t2\n".to_vec(), b"a\\\tb\t1\nlast\t3".to_vec()];
        for step in 1..data.len() {
            let found = split(text(), false, 1, KeyType::Integer, data, step).unwrap();
            assert_eq!(found, expected, "{step}");
        }
        let data = b"k,v\n1,\"a\nb\"\n\"2\",\"say \"\"hi\"\"\"\r\n3,\n";
        let expected = [
            b"k,v\n\"2\",\"say \"\"hi\"\"\"\r\n".to_vec(),
            b"k,v\n1,\"a\nb\"\n3,\n".to_vec(),
        ];
        for step in 1..data.len() {
            let found = split(csv(), true, 0, KeyType::Integer, data, step).unwrap();
            assert_eq!(found, expected, "{step}");
        }
    }

    #[test]
    fn binary_tuples_go_by_their_key() {
        let mut data = [SIGNATURE, &[0; 8]].concat();
        let header = data.clone();
        let tuple = |key: i32| {
            let value = [&4_i32.to_be_bytes()[..], &key.to_be_bytes()].concat();
            [&2_i16.to_be_bytes()[..], &(-1_i32).to_be_bytes(), &value].concat()
        };
        for key in 1..=3 {
            data.extend(tuple(key));
        }
        data.extend((-1_i16).to_be_bytes());
        let end = (-1_i16).to_be_bytes();
        let even = [&header[..], &tuple(2), &end].concat();
        let odd = [&header[..], &tuple(1), &tuple(3), &end].concat();
        for step in 1..data.len() {
            let found = split(CopyFormat::Binary, false, 1, KeyType::Integer, &data, step);
            assert_eq!(found.unwrap(), [even.clone(), odd.clone()], "{step}");
        }
    }

    #[test]
    fn what_is_null_in_csv() {
        let read = |row: &[u8], null: &[u8], spelling: CsvNull| {
            let field = csv_field(row, 1, b',', b'"', b'"').unwrap();
            let value = field.value(null, spelling);
            value.map(|value| String::from_utf8(value.into_owned()).unwrap())
        };
        let both = |rows: [&[u8]; 2], null: &[u8], spelling: CsvNull| {
            rows.map(|row| read(row, null, spelling).is_none())
        };
        let rows = [&b"1,x"[..], b"1,\"x\""];
        assert_eq!(both(rows, b"x", CsvNull::Unquoted), [true, false]);
        assert_eq!(both(rows, b"x", CsvNull::Quoted), [false, true]);
        assert_eq!(both(rows, b"x", CsvNull::Always), [true, true]);
        assert_eq!(read(rows[0], b"x", CsvNull::Never).as_deref(), Some("x"));
    }

    #[test]
    fn values_are_read_as_postgres_reads_them() {
        let keys = |format: CopyFormat, data: &[u8]| {
            split(format, false, 0, KeyType::Text, data, 1000)
                .map(|found| found.iter().map(|rows| rows.len()).collect::<Vec<usize>>())
        };
        // `\x41\102\n` is three bytes; an escaped delimiter is one.
        assert_eq!(keys(text(), b"\\x41\\102\\n\t1\n").unwrap(), [0, 13]);
        assert_eq!(keys(text(), b"\\\t\t1\n").unwrap(), [0, 5]);
        assert_eq!(keys(csv(), b"\"a,b\",1\n").unwrap(), [0, 8]);
        assert_eq!(
            keys(csv(), b"\"\",1\n").unwrap(),
            [5, 0],
            "an empty text is no NULL"
        );
        for (format, data, why) in [
            (text(), &b"\\N\t1\n"[..], "NULL"),
            (csv(), b",1\n", "NULL"),
            (text(), b"a\rb\t1\n", "carriage return"),
            (csv(), b"a\rb,1\n", "carriage return"),
            (csv(), b"\"a,1\n", "unterminated"),
        ] {
            let error = keys(format, data).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(keys(text(), b"ab\t1\n\\.\nignored\t2\n").unwrap(), [5, 0]);
    }
}
