//! A client's first packets: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//!
//! Two rules keep an attacker on the network from putting words into an encrypted session (CVE-2021-23214): every packet is
//! read with exactly its own bytes, so nothing received in the clear is left in a buffer of ours; and bytes that came with
//! a request for encryption, before it was answered, end the connection.
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>, Postgres `backend_startup.c`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{self, Report, Severity};
use super::message::Cursor;
use super::stream::Stream;
use super::tls::ClientEncryption;

/// Longest packet before authentication, without its length word; as in Postgres.
const MAX_PACKET: usize = 10_000;
/// Longest and shortest key of a CancelRequest, in bytes.
const CANCEL_KEY: std::ops::RangeInclusive<usize> = 4..=256;

const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;

const NEWEST_MINOR: u16 = (answer::NEWEST_PROTOCOL & 0xffff) as u16;

/// What a new connection is for.
#[derive(Debug)]
pub enum Opening {
    Session(Startup),
    Cancel(CancelRequest),
}

/// A client that wants a session. Who it is has not been proven yet.
#[derive(Debug)]
pub struct Startup {
    /// 0 to 2: what is spoken from here on. A client that asked for more has been told.
    pub protocol_minor: u16,
    pub user: String,
    pub database: String,
    /// The other parameters (settings, `application_name`, `options`) in order of arrival, each name once.
    pub parameters: Vec<(String, String)>,
    pub stream: Stream,
    pub tls: bool,
}

/// A client that wants a statement of another connection cancelled.
#[derive(Debug)]
pub struct CancelRequest {
    pub process_id: i32,
    /// 4 to 256 bytes. Compare it in constant time.
    pub key: Vec<u8>,
    /// Nothing is ever said on it. Closing it tells the client that the request has been dealt with.
    pub stream: Stream,
}

/// Why a connection ended before its session began. Wherever the client could be told, it has been.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// Port checks and clients that dislike the answer to SSLRequest do this; not worth a line in the log.
    #[error("the client closed the connection before it sent anything")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("invalid length of startup packet")]
    Length,
    #[error("received unencrypted data after SSL request")]
    BytesBeforeTls,
    #[error("received unencrypted data after GSSAPI encryption request")]
    BytesBeforeGss,
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Protocol { major: u16, minor: u16 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("invalid length of cancel request")]
    CancelKey,
    #[error("invalid byte sequence for encoding \"UTF8\" in startup packet")]
    NotUtf8,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("replication connections are not supported")]
    Replication,
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    ReplicationValue(String),
    #[error("connection requires TLS")]
    TlsRequired,
}

impl StartupError {
    /// What the client is told; nothing when there is nobody to tell.
    fn report<'a>(&self, message: &'a str) -> Option<Report<'a>> {
        let fatal = |sqlstate| Some(Report::new(Severity::Fatal, sqlstate, message));
        match self {
            StartupError::Closed | StartupError::Io(_) | StartupError::Handshake(_) => None,
            // Postgres says nothing to either. Here a client that mistakes the port reads why.
            StartupError::Length | StartupError::CancelKey | StartupError::Layout => fatal("08P01"),
            StartupError::BytesBeforeTls | StartupError::BytesBeforeGss => fatal("08P01").map(|report| {
                report.detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
            }),
            StartupError::Protocol { .. } => fatal("0A000"),
            StartupError::Replication => fatal("0A000")
                .map(|report| report.hint("Connect to a server of the shard itself to replicate from it.")),
            StartupError::NotUtf8 => fatal("22021"),
            StartupError::NoUser => fatal("28000"),
            StartupError::ReplicationValue(_) => fatal("22023")
                .map(|report| report.hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
            StartupError::TlsRequired => {
                fatal("28000").map(|report| report.hint("Connect with sslmode=require or a stricter one."))
            }
        }
    }
}

/// Reads a new connection up to the point where its purpose is known; encrypts it when the client asks for that.
///
/// The caller bounds the time. On an error the client has been told, and the connection is closed.
pub async fn open(mut stream: Stream, encryption: &ClientEncryption) -> Result<Opening, StartupError> {
    let (mut tls_asked, mut gss_asked) = (false, false);
    loop {
        let packet = match read_packet(&mut stream).await {
            Ok(packet) => packet,
            Err(error) => return Err(refuse(stream, error).await),
        };
        match packet {
            Packet::SslRequest if !tls_asked => {
                tls_asked = true;
                stream = answer_ssl_request(stream, encryption).await?;
                // A second layer inside the first makes no sense.
                gss_asked |= stream.is_tls();
            }
            Packet::GssEncRequest if !gss_asked => {
                gss_asked = true;
                stream = answer_gss_request(stream).await?;
            }
            // Asked again, a request is nothing but a strange protocol version; Postgres sees it so too.
            Packet::SslRequest => return Err(refuse(stream, unsupported(SSL_REQUEST)).await),
            Packet::GssEncRequest => return Err(refuse(stream, unsupported(GSSENC_REQUEST)).await),
            Packet::Cancel { process_id, key } => {
                return Ok(Opening::Cancel(CancelRequest { process_id, key, stream }));
            }
            Packet::Startup(packet) => return begin(stream, packet, encryption).await.map(Opening::Session),
        }
    }
}

/// Checks what only the connection knows and tells the client of what it asked for in vain.
async fn begin(
    mut stream: Stream,
    packet: StartupPacket,
    encryption: &ClientEncryption,
) -> Result<Startup, StartupError> {
    // As with pg_hba.conf's `hostssl`, a Unix socket needs no encryption.
    let plain_tcp = matches!(stream, Stream::Tcp(_));
    if plain_tcp && matches!(encryption, ClientEncryption::Require(_)) {
        return Err(refuse(stream, StartupError::TlsRequired).await);
    }
    let protocol_minor = packet.minor.min(NEWEST_MINOR);
    if packet.minor > NEWEST_MINOR || !packet.unrecognized.is_empty() {
        let mut out = Vec::new();
        answer::negotiate_protocol_version(&mut out, (3 << 16) | u32::from(protocol_minor), &packet.unrecognized);
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
    Ok(Startup {
        protocol_minor,
        user: packet.user,
        database: packet.database,
        parameters: packet.parameters,
        tls: stream.is_tls(),
        stream,
    })
}

/// Tells the client why, as far as it can be told, and closes.
async fn refuse(mut stream: Stream, error: StartupError) -> StartupError {
    let message = error.to_string();
    if let Some(report) = error.report(&message) {
        let mut out = Vec::new();
        answer::error_response(&mut out, &report);
        stream.refuse(&out).await;
    }
    error
}

/// Says yes or no to SSLRequest, and after a yes does the handshake.
async fn answer_ssl_request(stream: Stream, encryption: &ClientEncryption) -> Result<Stream, StartupError> {
    if stream.has_unread_bytes()? {
        return Err(refuse(stream, StartupError::BytesBeforeTls).await);
    }
    match (stream, encryption) {
        (Stream::Tcp(mut socket), ClientEncryption::Prefer(acceptor) | ClientEncryption::Require(acceptor)) => {
            socket.write_all(b"S").await?;
            // Whatever arrives from here on goes from the socket to rustls: it is TLS, or an error.
            let encrypted = acceptor.accept(socket).await.map_err(StartupError::Handshake)?;
            Ok(Stream::ServerTls(Box::new(encrypted)))
        }
        // Nobody can listen in on a Unix socket; Postgres does not encrypt there either.
        (mut stream, _) => {
            stream.write_all(b"N").await?;
            Ok(stream)
        }
    }
}

/// There is no GSSAPI encryption here.
async fn answer_gss_request(mut stream: Stream) -> Result<Stream, StartupError> {
    if stream.has_unread_bytes()? {
        return Err(refuse(stream, StartupError::BytesBeforeGss).await);
    }
    stream.write_all(b"N").await?;
    Ok(stream)
}

/// Reads one packet, exactly its bytes.
async fn read_packet(stream: &mut Stream) -> Result<Packet, StartupError> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Err(StartupError::Closed);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| StartupError::Length)?;
    let body_length = length.checked_sub(4).filter(|length| (4..=MAX_PACKET).contains(length));
    let mut body = vec![0; body_length.ok_or(StartupError::Length)?];
    stream.read_exact(&mut body).await?;
    parse_packet(&body)
}

/// A first packet, without its length word.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    SslRequest,
    GssEncRequest,
    Cancel { process_id: i32, key: Vec<u8> },
    Startup(StartupPacket),
}

/// The content of a StartupMessage.
#[derive(Debug, PartialEq, Eq)]
pub struct StartupPacket {
    /// As asked for; may be newer than what is spoken here.
    pub minor: u16,
    pub user: String,
    pub database: String,
    pub parameters: Vec<(String, String)>,
    /// Names of protocol options (`_pq_.`), none of which is known.
    pub unrecognized: Vec<String>,
}

/// `body`: the packet without its length word.
pub fn parse_packet(body: &[u8]) -> Result<Packet, StartupError> {
    let (code, rest) = body.split_first_chunk().ok_or(StartupError::Length)?;
    let code = u32::from_be_bytes(*code);
    match code {
        SSL_REQUEST | GSSENC_REQUEST if !rest.is_empty() => Err(StartupError::Length),
        SSL_REQUEST => Ok(Packet::SslRequest),
        GSSENC_REQUEST => Ok(Packet::GssEncRequest),
        CANCEL_REQUEST => {
            let (process_id, key) = rest.split_first_chunk().ok_or(StartupError::CancelKey)?;
            if !CANCEL_KEY.contains(&key.len()) {
                return Err(StartupError::CancelKey);
            }
            Ok(Packet::Cancel { process_id: i32::from_be_bytes(*process_id), key: key.to_vec() })
        }
        _ if code >> 16 == 3 => parse_startup((code & 0xffff) as u16, rest).map(Packet::Startup),
        _ => Err(unsupported(code)),
    }
}

fn unsupported(code: u32) -> StartupError {
    StartupError::Protocol { major: (code >> 16) as u16, minor: (code & 0xffff) as u16 }
}

fn parse_startup(minor: u16, pairs: &[u8]) -> Result<StartupPacket, StartupError> {
    let mut packet = StartupPacket {
        minor,
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        unrecognized: Vec::new(),
    };
    let mut cursor = Cursor::new(pairs);
    let text = |cursor: &mut Cursor<'_>| {
        let bytes = cursor.string().map_err(|_| StartupError::Layout)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| StartupError::NotUtf8)
    };
    loop {
        let name = text(&mut cursor)?;
        if name.is_empty() {
            break;
        }
        let value = text(&mut cursor)?;
        match name.as_str() {
            "user" => packet.user = value,
            "database" => packet.database = value,
            "replication" => check_replication(value)?,
            _ if name.starts_with("_pq_.") => packet.unrecognized.push(name),
            _ => set(&mut packet.parameters, name, value),
        }
    }
    cursor.end().map_err(|_| StartupError::Layout)?;
    if packet.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if packet.database.is_empty() {
        packet.database.clone_from(&packet.user);
    }
    Ok(packet)
}

/// Names of settings have no case, and the last value given counts.
fn set(parameters: &mut Vec<(String, String)>, name: String, value: String) {
    match parameters.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
        Some((_, old)) => *old = value,
        None => parameters.push((name, value)),
    }
}

/// Only a clear no is let through: a replication connection streams from one server, and there is no one server here.
fn check_replication(value: String) -> Result<(), StartupError> {
    match value.to_ascii_lowercase().as_str() {
        "false" | "off" | "no" | "0" => Ok(()),
        "true" | "on" | "yes" | "1" | "database" => Err(StartupError::Replication),
        _ => Err(StartupError::ReplicationValue(value)),
    }
}
