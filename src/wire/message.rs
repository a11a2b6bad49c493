//! What a client says after its login: strict decoders over one exact message body, and the same messages under another name.
//!
//! A *body* is what follows the type byte and the length. The decoders borrow, check every length, count and terminator,
//! and never look past the body: a message that is routed by one reading and executed by another is how proxies are fooled.
//! Messages of [`ProtocolViolation`] are those of Postgres (`pqformat.c`, `postgres.c`), and as there they are errors of
//! severity ERROR: the connection goes on after the next Sync.

use super::answer;

/// A message that is not what its type promises. SQLSTATE 08P01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    #[error("insufficient data left in message")]
    Truncated,
    #[error("invalid string in message")]
    UnterminatedString,
    /// Something follows the last field.
    #[error("invalid message format")]
    TrailingBytes,
    /// A negative count, or a value's length below -1.
    #[error("invalid length in message")]
    NegativeLength,
    #[error("bind message has {formats} parameter formats but {parameters} parameters")]
    FormatCount { formats: usize, parameters: usize },
    #[error("unsupported format code: {0}")]
    FormatCode(i16),
    /// Of Describe or Close.
    #[error("invalid message subtype {0}")]
    Subtype(u8),
}

impl ProtocolViolation {
    pub fn sqlstate(self) -> &'static str {
        match self {
            // As Postgres: the message is well formed, its content is not.
            ProtocolViolation::FormatCode(_) => "22023",
            _ => "08P01",
        }
    }
}

/// Reads fields off the front of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Cursor { rest: body }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], ProtocolViolation> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(ProtocolViolation::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolViolation> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(ProtocolViolation::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ProtocolViolation> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn int32(&mut self) -> Result<i32, ProtocolViolation> {
        self.array().map(i32::from_be_bytes)
    }

    /// Up to a NUL, which is taken but not given.
    pub(crate) fn string(&mut self) -> Result<&'a [u8], ProtocolViolation> {
        // Most names are empty.
        if let Some((0, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(&[]);
        }
        let end = memchr::memchr(0, self.rest).ok_or(ProtocolViolation::UnterminatedString)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), ProtocolViolation> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ProtocolViolation::TrailingBytes)
        }
    }

    /// A number of elements. Read unsigned: clients send up to 65,535 parameters, and so does Postgres read it.
    fn count(&mut self) -> Result<u16, ProtocolViolation> {
        self.array().map(u16::from_be_bytes)
    }

    /// An array of 16-bit format codes, each 0 or 1.
    fn formats(&mut self) -> Result<Formats<'a>, ProtocolViolation> {
        let count = self.count()?;
        let codes = self.take(usize::from(count) * 2)?;
        for code in codes.chunks_exact(2) {
            match i16::from_be_bytes([code[0], code[1]]) {
                0 | 1 => {}
                other => return Err(ProtocolViolation::FormatCode(other)),
            }
        }
        Ok(Formats { codes })
    }
}

/// A message that has no fields: Sync, Flush, Terminate, CopyDone.
pub fn empty(body: &[u8]) -> Result<(), ProtocolViolation> {
    Cursor::new(body).end()
}

/// A simple query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// In the client's encoding, without the NUL.
    pub text: &'a [u8],
}

impl<'a> Query<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        let mut cursor = Cursor::new(body);
        let text = cursor.string()?;
        cursor.end()?;
        Ok(Query { text })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty: the unnamed statement.
    pub name: &'a [u8],
    pub text: &'a [u8],
    types: &'a [u8],
    after_name: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        let mut cursor = Cursor::new(body);
        let name = cursor.string()?;
        let after_name = cursor.rest();
        let text = cursor.string()?;
        let count = cursor.count()?;
        let types = cursor.take(usize::from(count) * 4)?;
        cursor.end()?;
        Ok(Parse {
            name,
            text,
            types,
            after_name,
        })
    }

    /// OIDs of the parameters' types, 0 where the server shall find it.
    pub fn types(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.types
            .chunks_exact(4)
            .map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
    }

    /// Everything but the name, as it came: text, NUL, count and types. What makes two Parse messages the same statement.
    pub fn after_name(&self) -> &'a [u8] {
        self.after_name
    }

    /// The whole message under another name.
    pub fn encode_as(&self, name: &[u8], out: &mut Vec<u8>) {
        encode_parse(name, self.after_name, out);
    }
}

/// A Parse from [`Parse::after_name`] of an earlier one.
pub fn encode_parse(name: &[u8], after_name: &[u8], out: &mut Vec<u8>) {
    answer::message(out, b'P', |out| {
        put_name(out, name);
        out.extend_from_slice(after_name);
    });
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// A checked array of format codes, in which one code may stand for all and none for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats<'a> {
    codes: &'a [u8],
}

impl<'a> Formats<'a> {
    /// How many codes were sent: none, one for all, or one for each.
    pub fn count(&self) -> usize {
        self.codes.len() / 2
    }

    /// The codes as they came, two bytes each.
    pub fn raw(&self) -> &'a [u8] {
        self.codes
    }

    /// The codes as numbers.
    pub fn codes(&self) -> impl Iterator<Item = u16> + use<'a> {
        let pairs = self.codes.chunks_exact(2);
        pairs.map(|code| u16::from_be_bytes([code[0], code[1]]))
    }

    /// Of value `index`, from 0.
    pub fn of(&self, index: usize) -> Format {
        let binary = match self.count() {
            0 => false,
            1 => self.codes[1] == 1,
            _ => self.codes.get(index * 2 + 1) == Some(&1),
        };
        if binary { Format::Binary } else { Format::Text }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub formats: Formats<'a>,
    pub parameter_count: u16,
    pub result_formats: Formats<'a>,
    values: &'a [u8],
    after_statement: &'a [u8],
}

impl<'a> Bind<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        let mut cursor = Cursor::new(body);
        let portal = cursor.string()?;
        let statement = cursor.string()?;
        let after_statement = cursor.rest();
        let formats = cursor.formats()?;
        let parameter_count = cursor.count()?;
        let parameters = usize::from(parameter_count);
        if formats.count() > 1 && formats.count() != parameters {
            return Err(ProtocolViolation::FormatCount {
                formats: formats.count(),
                parameters,
            });
        }
        let values_and_more = cursor.rest();
        for _ in 0..parameter_count {
            let length = cursor.int32()?;
            if length != -1 {
                cursor.take(
                    usize::try_from(length).map_err(|_| ProtocolViolation::NegativeLength)?,
                )?;
            }
        }
        let values = &values_and_more[..values_and_more.len() - cursor.rest().len()];
        let result_formats = cursor.formats()?;
        cursor.end()?;
        Ok(Bind {
            portal,
            statement,
            formats,
            parameter_count,
            result_formats,
            values,
            after_statement,
        })
    }

    /// The parameters as they came: each a length (-1 for NULL) and its bytes; all lengths were checked.
    pub fn raw_values(&self) -> &'a [u8] {
        self.values
    }

    /// What stands between the names and the result formats: formats, number and values of the parameters.
    pub fn raw_parameters(&self) -> &'a [u8] {
        let results = 2 + self.result_formats.raw().len();
        &self.after_statement[..self.after_statement.len() - results]
    }

    /// The parameters in order; `None` is NULL.
    pub fn values(&self) -> Values<'a> {
        Values {
            cursor: Cursor::new(self.values),
            left: self.parameter_count,
        }
    }

    /// One parameter, from 0; the inner `None` is NULL, the outer one says that there is no such parameter.
    pub fn value(&self, index: usize) -> Option<Option<&'a [u8]>> {
        self.values().nth(index)
    }

    /// The whole message with other names.
    pub fn encode_as(&self, portal: &[u8], statement: &[u8], out: &mut Vec<u8>) {
        answer::message(out, b'B', |out| {
            put_name(out, portal);
            put_name(out, statement);
            out.extend_from_slice(self.after_statement);
        });
    }
}

/// Goes through the parameters of a [`Bind`], whose lengths were all checked.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    cursor: Cursor<'a>,
    left: u16,
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let length = self.cursor.int32().ok()?;
        match usize::try_from(length) {
            Ok(length) => Some(Some(self.cursor.take(length).ok()?)),
            Err(_) => Some(None),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// What Describe and Close name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

impl Target {
    fn byte(self) -> u8 {
        match self {
            Target::Statement => b'S',
            Target::Portal => b'P',
        }
    }
}

/// A Describe or a Close: they differ in the type byte only.
fn decode_named(body: &[u8]) -> Result<(Target, &[u8]), ProtocolViolation> {
    let mut cursor = Cursor::new(body);
    let subtype = cursor.byte()?;
    let name = cursor.string()?;
    cursor.end()?;
    match subtype {
        b'S' => Ok((Target::Statement, name)),
        b'P' => Ok((Target::Portal, name)),
        other => Err(ProtocolViolation::Subtype(other)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Describe<'a> {
    pub target: Target,
    pub name: &'a [u8],
}

impl<'a> Describe<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        decode_named(body).map(|(target, name)| Describe { target, name })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        answer::message(out, b'D', |out| {
            out.push(self.target.byte());
            put_name(out, self.name);
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close<'a> {
    pub target: Target,
    pub name: &'a [u8],
}

impl<'a> Close<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        decode_named(body).map(|(target, name)| Close { target, name })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        answer::message(out, b'C', |out| {
            out.push(self.target.byte());
            put_name(out, self.name);
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// Zero and less: all rows.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolViolation> {
        let mut cursor = Cursor::new(body);
        let portal = cursor.string()?;
        let max_rows = cursor.int32()?;
        cursor.end()?;
        Ok(Execute { portal, max_rows })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        answer::message(out, b'E', |out| {
            put_name(out, self.portal);
            out.extend_from_slice(&self.max_rows.to_be_bytes());
        });
    }
}

/// A Query of ours. A text with a NUL inside would be cut there and end in an error, so callers pass none.
pub fn encode_query(text: &[u8], out: &mut Vec<u8>) {
    answer::message(out, b'Q', |out| put_name(out, text));
}

/// A Bind without parameters, its results as text.
pub fn encode_bind_empty(portal: &[u8], statement: &[u8], out: &mut Vec<u8>) {
    answer::message(out, b'B', |out| {
        put_name(out, portal);
        put_name(out, statement);
        out.extend_from_slice(&[0; 6]);
    });
}

pub fn encode_sync(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'S', 0, 0, 0, 4]);
}

pub fn encode_flush(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'H', 0, 0, 0, 4]);
}

pub fn encode_terminate(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'X', 0, 0, 0, 4]);
}

/// A name comes from a decoded message or from our own counter: it holds no NUL.
fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    debug_assert!(
        !name.contains(&0),
        "a NUL in a name shifts the fields behind it"
    );
    out.extend_from_slice(name);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProtocolViolation::*;
    use bytes::BytesMut;
    use postgres_protocol::{IsNull, message::frontend};
    use proptest::prelude::*;

    /// The body of the one message that `write` composes with another library.
    fn body(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut buffer = BytesMut::new();
        write(&mut buffer);
        assert_eq!(
            u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize,
            buffer.len() - 1
        );
        buffer[5..].to_vec()
    }

    fn bind_of_three() -> Vec<u8> {
        body(|out| {
            let written = frontend::bind(
                "portal",
                "statement",
                [1, 0, 1],
                [Some(&b"\0\0\0\x01"[..]), None, Some(b"")],
                |value, out| {
                    Ok(match value {
                        Some(bytes) => {
                            out.extend_from_slice(bytes);
                            IsNull::No
                        }
                        None => IsNull::Yes,
                    })
                },
                [1],
                out,
            );
            assert!(written.is_ok());
        })
    }

    #[test]
    fn messages_of_another_encoder_are_read() {
        let parse = body(|out| frontend::parse("s1", "select $1", [23, 0], out).unwrap());
        let parse = Parse::decode(&parse).unwrap();
        assert_eq!((parse.name, parse.text), (&b"s1"[..], &b"select $1"[..]));
        assert_eq!(parse.types().collect::<Vec<_>>(), [23, 0]);

        let bytes = bind_of_three();
        let bind = Bind::decode(&bytes).unwrap();
        assert_eq!(
            (bind.portal, bind.statement),
            (&b"portal"[..], &b"statement"[..])
        );
        assert_eq!(
            bind.values().collect::<Vec<_>>(),
            [Some(&b"\0\0\0\x01"[..]), None, Some(b"")]
        );
        assert_eq!((bind.value(1), bind.value(3)), (Some(None), None));
        assert_eq!(
            [0, 1, 2].map(|i| bind.formats.of(i)),
            [Format::Binary, Format::Text, Format::Binary]
        );
        assert_eq!(
            [0, 9].map(|i| bind.result_formats.of(i)),
            [Format::Binary, Format::Binary]
        );

        let execute = body(|out| frontend::execute("p", -1, out).unwrap());
        assert_eq!(
            Execute::decode(&execute),
            Ok(Execute {
                portal: b"p",
                max_rows: -1
            })
        );
        let describe = body(|out| frontend::describe(b'S', "x", out).unwrap());
        assert_eq!(
            Describe::decode(&describe),
            Ok(Describe {
                target: Target::Statement,
                name: b"x"
            })
        );
        let close = body(|out| frontend::close(b'P', "", out).unwrap());
        assert_eq!(
            Close::decode(&close),
            Ok(Close {
                target: Target::Portal,
                name: b""
            })
        );
        let query = body(|out| frontend::query("select 1", out).unwrap());
        assert_eq!(Query::decode(&query), Ok(Query { text: b"select 1" }));
        assert_eq!(empty(b""), Ok(()));
    }

    #[test]
    fn renaming_changes_the_name_only() {
        let original = body(|out| frontend::parse("s1", "select $1", [23], out).unwrap());
        let expected = body(|out| frontend::parse("longer_name", "select $1", [23], out).unwrap());
        let mut out = Vec::new();
        Parse::decode(&original)
            .unwrap()
            .encode_as(b"longer_name", &mut out);
        assert_eq!((out[0], &out[5..]), (b'P', &expected[..]));
        assert_eq!(
            u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize,
            out.len() - 1
        );

        let original = bind_of_three();
        let mut out = Vec::new();
        Bind::decode(&original)
            .unwrap()
            .encode_as(b"", b"t", &mut out);
        let (bind, before) = (
            Bind::decode(&out[5..]).unwrap(),
            Bind::decode(&original).unwrap(),
        );
        assert_eq!((bind.portal, bind.statement), (&b""[..], &b"t"[..]));
        assert_eq!(bind.after_statement, before.after_statement);
        assert!(bind.values().eq(before.values()));

        let mut out = Vec::new();
        Describe {
            target: Target::Portal,
            name: b"p",
        }
        .encode(&mut out);
        Close {
            target: Target::Statement,
            name: b"s",
        }
        .encode(&mut out);
        Execute {
            portal: b"p",
            max_rows: 5,
        }
        .encode(&mut out);
        encode_query(b"x", &mut out);
        encode_sync(&mut out);
        encode_terminate(&mut out);
        let mut expected = BytesMut::new();
        frontend::describe(b'P', "p", &mut expected).unwrap();
        frontend::close(b'S', "s", &mut expected).unwrap();
        frontend::execute("p", 5, &mut expected).unwrap();
        frontend::query("x", &mut expected).unwrap();
        frontend::sync(&mut expected);
        frontend::terminate(&mut expected);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_parameter_length_past_the_end_is_refused() {
        assert_eq!(
            Bind::decode(b"\0\0\0\0\0\x01\x7f\xff\xff\xffab\0\0"),
            Err(Truncated)
        );
        assert_eq!(Bind::decode(b"\0\0\0\0\0\x01\0\0\0\x03ab"), Err(Truncated));
        assert_eq!(
            Bind::decode(b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            Err(NegativeLength)
        );
    }

    #[test]
    fn counts_that_promise_more_than_there_is_are_refused() {
        assert_eq!(Bind::decode(b""), Err(UnterminatedString));
        assert_eq!(Bind::decode(b"\0\0\xff\xff"), Err(Truncated));
        assert_eq!(Bind::decode(b"\0\0\0\0\xff\xff"), Err(Truncated));
        assert_eq!(Bind::decode(b"\0\0\0\0\0\0"), Err(Truncated));
        assert_eq!(Bind::decode(b"\0\0\0\0\0\0\0\0x"), Err(TrailingBytes));
        assert_eq!(
            Bind::decode(b"\0\0\0\x02\0\0\0\0\0\0\0\0"),
            Err(FormatCount {
                formats: 2,
                parameters: 0
            })
        );
        assert_eq!(
            Bind::decode(b"\0\0\0\x01\0\x02\0\0\0\0"),
            Err(FormatCode(2))
        );
        assert_eq!(
            Bind::decode(b"\0\0\0\0\0\0\0\x01\x01\0"),
            Err(FormatCode(256))
        );
    }

    #[test]
    fn parse_without_terminator_or_types_is_refused() {
        assert_eq!(Parse::decode(b"name"), Err(UnterminatedString));
        assert_eq!(Parse::decode(b"name\0select 1"), Err(UnterminatedString));
        assert_eq!(Parse::decode(b"name\0select 1\0"), Err(Truncated));
        assert_eq!(
            Parse::decode(b"name\0select 1\0\0\x02\0\0\0\x17"),
            Err(Truncated)
        );
        assert_eq!(Parse::decode(b"name\0select 1\0\0\0\0"), Err(TrailingBytes));
    }

    #[test]
    fn short_execute_describe_and_close_are_refused() {
        assert_eq!(Execute::decode(b"\0"), Err(Truncated));
        assert_eq!(Execute::decode(b"p"), Err(UnterminatedString));
        assert_eq!(Execute::decode(b"\0\0\0\0\0\0"), Err(TrailingBytes));
        assert_eq!(Describe::decode(b""), Err(Truncated));
        assert_eq!(Describe::decode(b"S"), Err(UnterminatedString));
        assert_eq!(Describe::decode(b"X\0"), Err(Subtype(b'X')));
        assert_eq!(Close::decode(b"Pname"), Err(UnterminatedString));
    }

    #[test]
    fn a_text_that_goes_on_behind_its_frame_is_refused() {
        // The frame announces 8 bytes: length and four letters, no NUL among them.
        let packet = b"Q\0\0\0\x08SELECT 1; DROP TABLE x\0";
        assert_eq!(Query::decode(&packet[5..9]), Err(UnterminatedString));
        // And a text that ends before its frame does.
        assert_eq!(
            Query::decode(b"SELECT 1\0; DROP TABLE x\0"),
            Err(TrailingBytes)
        );
        assert_eq!(Query::decode(b""), Err(UnterminatedString));
        assert_eq!(empty(b"x"), Err(TrailingBytes));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Query::decode(&body), Execute::decode(&body), Describe::decode(&body), Close::decode(&body));
            if let Ok(parse) = Parse::decode(&body) {
                let _ = parse.types().count();
            }
            if let Ok(bind) = Bind::decode(&body) {
                let _ = bind.values().count();
            }
        }

        /// Small numbers and many zeros: bodies that pass the first checks.
        #[test]
        fn nearly_valid_binds_hold_what_they_promise(body in proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..4, 1 => Just(255u8)], 0..60)) {
            if let Ok(bind) = Bind::decode(&body) {
                prop_assert_eq!(bind.values().count(), usize::from(bind.parameter_count));
                for index in 0..usize::from(bind.parameter_count) {
                    let _ = (bind.formats.of(index), bind.result_formats.of(index));
                }
                let mut again = Vec::new();
                bind.encode_as(bind.portal, bind.statement, &mut again);
                prop_assert_eq!(&again[5..], &body[..]);
            }
            if let Ok(parse) = Parse::decode(&body) {
                let mut again = Vec::new();
                parse.encode_as(parse.name, &mut again);
                prop_assert_eq!(&again[5..], &body[..]);
            }
        }
    }
}
