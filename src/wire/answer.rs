//! Messages that Trunkline itself says to a client, appended to a buffer; and a look into a server's ErrorResponse.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-message-formats.html>. Written by hand and not with pgwire's
//! structs because those want owned strings, and most of these are said once per statement.

use super::message::Cursor;

/// The newest protocol that is spoken, 3.2, as the wire writes it.
pub const NEWEST_PROTOCOL: u32 = 0x0003_0002;

/// The type of text columns, `text`.
const TEXT_OID: u32 = 25;

/// Of a report that Trunkline makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the connection goes on.
    Error,
    /// The connection ends.
    Fatal,
    Warning,
    Notice,
    Info,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Info => "INFO",
        }
    }
}

/// The content of an ErrorResponse or NoticeResponse of ours.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub severity: Severity,
    /// Five characters.
    pub sqlstate: &'a str,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    /// In characters of the statement's text, from 1.
    pub position: Option<usize>,
    /// The function of Postgres's that would have reported it.
    pub routine: &'a str,
}

impl<'a> Report<'a> {
    pub fn new(severity: Severity, sqlstate: &'a str, message: &'a str) -> Self {
        Report {
            severity,
            sqlstate,
            message,
            detail: None,
            hint: None,
            position: None,
            routine: "report",
        }
    }

    pub fn detail(mut self, detail: &'a str) -> Self {
        self.detail = Some(detail);
        self
    }

    pub fn hint(mut self, hint: &'a str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub fn routine(mut self, routine: &'a str) -> Self {
        self.routine = routine;
        self
    }

    pub fn position(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }
}

/// What ReadyForQuery tells about the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    pub fn byte(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }

    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::InTransaction),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }
}

/// Appends one message: the type, a length that is filled in afterwards, and what `body` writes.
pub(crate) fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length =
        u32::try_from(out.len() - start).expect("a message we compose stays far below 4 GB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a NUL-terminated string. A NUL inside would end it early and shift every later field, so it is left out.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().filter(|&byte| byte != 0));
    out.push(0);
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = i16::try_from(count).expect("an answer of ours has a few columns");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let length = i32::try_from(length).expect("a value of ours stays far below 2 GB");
    out.extend_from_slice(&length.to_be_bytes());
}

fn report(out: &mut Vec<u8>, kind: u8, report: &Report<'_>) {
    message(out, kind, |out| {
        let mut field = |code: u8, text: &str| {
            out.push(code);
            put_string(out, text);
        };
        field(b'S', report.severity.name());
        field(b'V', report.severity.name());
        field(b'C', report.sqlstate);
        field(b'M', report.message);
        if let Some(detail) = report.detail {
            field(b'D', detail);
        }
        if let Some(hint) = report.hint {
            field(b'H', hint);
        }
        if let Some(position) = report.position {
            field(b'P', &position.to_string());
        }
        // Where it was reported: Postgres always says so, and some clients rely on it.
        field(b'F', "trunkline");
        field(b'L', "0");
        field(b'R', report.routine);
        out.push(0);
    });
}

pub fn error_response(out: &mut Vec<u8>, error: &Report<'_>) {
    report(out, b'E', error);
}

/// A server's ErrorResponse given on, its body as it came.
pub fn error_response_raw(out: &mut Vec<u8>, body: &[u8]) {
    message(out, b'E', |out| out.extend_from_slice(body));
}

pub fn notice_response(out: &mut Vec<u8>, notice: &Report<'_>) {
    report(out, b'N', notice);
}

fn authentication(out: &mut Vec<u8>, code: i32, data: &[u8]) {
    message(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, &[]);
}

pub fn authentication_cleartext_password(out: &mut Vec<u8>) {
    authentication(out, 3, &[]);
}

pub fn authentication_md5(out: &mut Vec<u8>, salt: [u8; 4]) {
    authentication(out, 5, &salt);
}

pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    let mut list = Vec::new();
    for mechanism in mechanisms {
        put_string(&mut list, mechanism);
    }
    list.push(0);
    authentication(out, 10, &list);
}

pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 11, data);
}

pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    authentication(out, 12, data);
}

pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        put_string(out, name);
        put_string(out, value);
    });
}

/// `key`: 4 bytes up to protocol 3.1, 4 to 256 from 3.2 on.
pub fn backend_key_data(out: &mut Vec<u8>, process_id: i32, key: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&process_id.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// `protocol` in full (`0x0003_0002`): the documentation speaks of a minor version, but every server sends, and libpq reads, the whole number.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, protocol: u32, unrecognized: &[String]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&protocol.to_be_bytes());
        put_length(out, unrecognized.len());
        for name in unrecognized {
            put_string(out, name);
        }
    });
}

pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, status.byte()]);
}

pub fn command_complete(out: &mut Vec<u8>, tag: &str) {
    message(out, b'C', |out| put_string(out, tag));
}

pub fn parse_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'1', 0, 0, 0, 4]);
}

pub fn bind_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'2', 0, 0, 0, 4]);
}

pub fn close_complete(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'3', 0, 0, 0, 4]);
}

pub fn portal_suspended(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b's', 0, 0, 0, 4]);
}

pub fn empty_query_response(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'I', 0, 0, 0, 4]);
}

pub fn no_data(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'n', 0, 0, 0, 4]);
}

/// No parameters.
pub fn parameter_description_empty(out: &mut Vec<u8>) {
    out.extend_from_slice(&[b't', 0, 0, 0, 6, 0, 0]);
}

/// Columns of type text in text format, as SHOW answers.
pub fn row_description(out: &mut Vec<u8>, columns: &[&str]) {
    message(out, b'T', |out| {
        put_count(out, columns.len());
        for name in columns {
            put_string(out, name);
            out.extend_from_slice(&0u32.to_be_bytes()); // of no table
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&TEXT_OID.to_be_bytes());
            out.extend_from_slice(&(-1i16).to_be_bytes()); // of variable size
            out.extend_from_slice(&(-1i32).to_be_bytes()); // no type modifier
            out.extend_from_slice(&0u16.to_be_bytes()); // text format
        }
    });
}

pub fn data_row(out: &mut Vec<u8>, values: &[Option<&str>]) {
    message(out, b'D', |out| {
        put_count(out, values.len());
        for value in values {
            match value {
                Some(text) => {
                    put_length(out, text.len());
                    out.extend_from_slice(text.as_bytes());
                }
                None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            }
        }
    });
}

/// The fields of a server's ErrorResponse or NoticeResponse that matter to us, borrowed from its body.
///
/// Bytes and not text: before a server knows the client's encoding it answers in its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// Never translated when the server sends field `V` (all since 9.6).
    pub severity: &'a [u8],
    pub sqlstate: &'a str,
    pub message: &'a [u8],
    pub detail: Option<&'a [u8]>,
    pub hint: Option<&'a [u8]>,
    pub position: Option<&'a [u8]>,
    /// The function of the server's that reports it.
    pub routine: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// `None` when `body` (without type and length) is not such a message.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut fields = ErrorFields {
            severity: b"",
            sqlstate: "XX000",
            message: b"",
            detail: None,
            hint: None,
            position: None,
            routine: b"",
        };
        let mut translated = None;
        let mut cursor = Cursor::new(body);
        loop {
            let code = cursor.byte().ok()?;
            if code == 0 {
                break;
            }
            let text = cursor.string().ok()?;
            match code {
                b'S' => translated = Some(text),
                b'V' => fields.severity = text,
                b'C' => {
                    fields.sqlstate = std::str::from_utf8(text)
                        .ok()
                        .filter(|code| code.len() == 5 && code.is_ascii())?
                }
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                b'P' => fields.position = Some(text),
                b'R' => fields.routine = text,
                _ => {}
            }
        }
        cursor.end().ok()?;
        if fields.severity.is_empty() {
            fields.severity = translated?;
        }
        Some(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pgwire::messages::{DecodeContext, PgWireBackendMessage, ProtocolVersion};
    use proptest::prelude::*;

    /// An independent decoder's view of what we wrote.
    fn decoded(bytes: &[u8]) -> Vec<PgWireBackendMessage> {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = false;
        let mut buffer = BytesMut::from(bytes);
        let mut messages = Vec::new();
        while !buffer.is_empty() {
            messages.push(
                PgWireBackendMessage::decode(&mut buffer, &context)
                    .unwrap()
                    .expect("a whole message"),
            );
        }
        messages
    }

    #[test]
    fn every_answer_is_read_back_by_another_decoder() {
        let mut out = Vec::new();
        let error = Report::new(Severity::Fatal, "0A000", "no\0 way")
            .detail("d")
            .hint("h")
            .position(7);
        error_response(&mut out, &error);
        notice_response(&mut out, &Report::new(Severity::Warning, "01000", "mind"));
        authentication_ok(&mut out);
        authentication_md5(&mut out, [1, 2, 3, 4]);
        authentication_sasl(&mut out, &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        authentication_sasl_continue(&mut out, b"r=1");
        authentication_sasl_final(&mut out, b"v=1");
        parameter_status(&mut out, "TimeZone", "UTC");
        backend_key_data(&mut out, 7, &[1, 2, 3, 4]);
        backend_key_data(&mut out, 7, &[9; 32]);
        negotiate_protocol_version(&mut out, NEWEST_PROTOCOL, &["_pq_.x".into()]);
        ready_for_query(&mut out, TransactionStatus::Failed);
        command_complete(&mut out, "SHOW");
        parse_complete(&mut out);
        bind_complete(&mut out);
        close_complete(&mut out);
        empty_query_response(&mut out);
        no_data(&mut out);
        parameter_description_empty(&mut out);
        row_description(&mut out, &["a", "b"]);
        data_row(&mut out, &[Some("x"), None]);
        let messages = decoded(&out);
        assert_eq!(messages.len(), 21);
        let PgWireBackendMessage::ErrorResponse(error) = &messages[0] else {
            panic!()
        };
        let expected = [
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', "0A000"),
            (b'M', "no way"),
            (b'D', "d"),
            (b'H', "h"),
            (b'P', "7"),
            (b'F', "trunkline"),
            (b'L', "0"),
            (b'R', "report"),
        ];
        assert_eq!(
            error.fields,
            expected.map(|(code, text)| (code, text.to_owned()))
        );
        let PgWireBackendMessage::RowDescription(rows) = &messages[19] else {
            panic!("{:?}", messages[19])
        };
        assert_eq!(
            rows.fields
                .iter()
                .map(|field| field.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(
            matches!(&messages[20], PgWireBackendMessage::DataRow(row) if row.field_count == 2)
        );
        assert!(
            matches!(&messages[10], PgWireBackendMessage::NegotiateProtocolVersion(v) if v.newest_minor_protocol == 196610 && v.unsupported_options == ["_pq_.x"])
        );
    }

    #[test]
    fn an_error_is_parsed_into_its_fields() {
        let mut out = Vec::new();
        error_response(
            &mut out,
            &Report::new(Severity::Error, "42P01", "gone").hint("look"),
        );
        let fields = ErrorFields::parse(&out[5..]).unwrap();
        assert_eq!(
            (fields.severity, fields.sqlstate, fields.message),
            (&b"ERROR"[..], "42P01", &b"gone"[..])
        );
        assert_eq!((fields.detail, fields.hint), (None, Some(&b"look"[..])));
        assert_eq!(ErrorFields::parse(&out[5..out.len() - 1]), None);
        assert_eq!(
            ErrorFields::parse(b"SFEHLER\0C42P01\0Mx\0\0")
                .unwrap()
                .severity,
            b"FEHLER"
        );
        for broken in [
            &b""[..],
            b"S",
            b"SERROR",
            b"SERROR\0",
            b"SERROR\0\0x",
            b"SERROR\0Cabc\0\0",
            b"\0",
        ] {
            assert_eq!(ErrorFields::parse(broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ErrorFields::parse(&body);
        }
    }
}
