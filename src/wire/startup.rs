//! A client's first packets: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//!
//! Two rules keep an attacker on the network from putting words into an encrypted session (CVE-2021-23214): every packet is
//! read with exactly its own bytes, so nothing received in the clear is left in a buffer of ours; and bytes that came with
//! a request for encryption, before it was answered, end the connection.
//! A client that begins with a TLS handshake (Postgres 17) must name the protocol `postgresql` in it (ALPN), so that it cannot be made to
//! speak to us while it means another server.
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>, Postgres `backend_startup.c`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{self, Report, Severity};
use super::handshakes::Handshakes;
use super::message::Cursor;
use super::socket::Socket;
use super::stream::Stream;
use super::tls::{self, Acceptor, ClientCertificate, ClientEncryption};

/// Longest packet before authentication, without its length word; as in Postgres.
const MAX_PACKET: usize = 10_000;
/// How Terminate begins, which has a type where the length of a first packet would stand.
const GOODBYE: [u8; 4] = *b"X\0\0\0";
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
    /// The settings, each name once with the value that counts. Those inside `options` are among them.
    pub parameters: Vec<(String, String)>,
    pub stream: Stream,
    pub tls: bool,
    /// What it has shown of itself, verified.
    pub certificate: Option<ClientCertificate>,
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
    /// Port checks and clients that dislike the answer to SSLRequest do this; not worth a line in the log. Some say Terminate first.
    #[error("the client closed the connection before it asked for anything")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("invalid length of startup packet")]
    Length,
    #[error("received unencrypted data after SSL request")]
    BytesBeforeTls,
    #[error("received unencrypted data after GSSAPI encryption request")]
    BytesBeforeGss,
    /// A TLS handshake without a request for it, where there is no TLS.
    #[error("received direct TLS connection request, and TLS is not configured")]
    NoDirectTls,
    #[error("received direct TLS connection request without ALPN protocol negotiation extension")]
    ProtocolNotNamed,
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
    )]
    Protocol { major: u16, minor: u16 },
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("invalid length of cancel request")]
    CancelKey,
    #[error("invalid byte sequence for encoding \"UTF8\" in startup packet")]
    NotUtf8,
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// In the parameter `options`, like `-c name=value`.
    #[error("invalid command-line argument for server process: {0}")]
    Option(String),
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
            // It waits for TLS, and would take words for a broken handshake.
            StartupError::NoDirectTls | StartupError::ProtocolNotNamed => None,
            // Postgres says nothing to either. Here a client that mistakes the port reads why.
            StartupError::Length | StartupError::CancelKey | StartupError::Layout => fatal("08P01"),
            StartupError::BytesBeforeTls | StartupError::BytesBeforeGss => fatal("08P01").map(|report| {
                report.detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
            }),
            StartupError::Protocol { .. } => fatal("0A000"),
            StartupError::Replication => fatal("0A000")
                .map(|report| report.hint("Connect to a server of the shard itself to replicate from it.")),
            StartupError::Option(_) => fatal("42601").map(|report| {
                report.hint("Only -c name=value and --name=value are allowed in options.")
            }),
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
pub async fn open(
    mut stream: Stream,
    encryption: &ClientEncryption,
    handshakes: &Handshakes,
) -> Result<Opening, StartupError> {
    let (mut tls_asked, mut gss_asked) = (false, false);
    if begins_with_handshake(&stream).await? {
        stream = direct_tls(stream, encryption, handshakes).await?;
        (tls_asked, gss_asked) = (true, true);
    }
    loop {
        let packet = match read_packet(&mut stream).await {
            Ok(packet) => packet,
            Err(error) => return Err(refuse(stream, error).await),
        };
        match packet {
            Packet::SslRequest if !tls_asked => {
                tls_asked = true;
                stream = answer_ssl_request(stream, encryption, handshakes).await?;
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
                return Ok(Opening::Cancel(CancelRequest {
                    process_id,
                    key,
                    stream,
                }));
            }
            Packet::Startup(packet) => {
                return begin(stream, packet, encryption)
                    .await
                    .map(Opening::Session);
            }
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
        answer::negotiate_protocol_version(
            &mut out,
            (3 << 16) | u32::from(protocol_minor),
            &packet.unrecognized,
        );
        stream.write_all(&out).await?;
        stream.flush().await?;
    }
    Ok(Startup {
        protocol_minor,
        user: packet.user,
        database: packet.database,
        parameters: packet.parameters,
        tls: stream.is_tls(),
        certificate: stream.client_certificate(),
        stream,
    })
}

/// The first byte of a TLS record that holds a handshake. A packet that began with it would be longer than any may be.
const TLS_HANDSHAKE: u8 = 0x16;

/// Whether the client speaks TLS without asking. Waits for its first byte, and leaves it where it is.
async fn begins_with_handshake(stream: &Stream) -> io::Result<bool> {
    match stream {
        Stream::Tcp(socket) => Ok(socket.peek().await? == Some(TLS_HANDSHAKE)),
        // No TLS on Unix sockets.
        Stream::Unix(_) | Stream::ServerTls(_) | Stream::ClientTls(_) => Ok(false),
    }
}

/// Encrypts the connection of a client that begins with it.
async fn direct_tls(
    stream: Stream,
    encryption: &ClientEncryption,
    handshakes: &Handshakes,
) -> Result<Stream, StartupError> {
    match (stream, encryption) {
        (
            Stream::Tcp(socket),
            ClientEncryption::Prefer(acceptor) | ClientEncryption::Require(acceptor),
        ) => {
            let encrypted = handshake(socket, acceptor, handshakes).await?;
            match tls::protocol_is_named(&encrypted) {
                true => Ok(Stream::ServerTls(Box::new(encrypted))),
                false => Err(StartupError::ProtocolNotNamed),
            }
        }
        _ => Err(StartupError::NoDirectTls),
    }
}

async fn handshake(
    socket: Socket,
    acceptor: &Acceptor,
    handshakes: &Handshakes,
) -> Result<tokio_rustls::server::TlsStream<Socket>, StartupError> {
    handshakes
        .accept(acceptor, socket)
        .await
        .map_err(StartupError::Handshake)
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
async fn answer_ssl_request(
    stream: Stream,
    encryption: &ClientEncryption,
    handshakes: &Handshakes,
) -> Result<Stream, StartupError> {
    if stream.has_unread_bytes()? {
        return Err(refuse(stream, StartupError::BytesBeforeTls).await);
    }
    match (stream, encryption) {
        (
            Stream::Tcp(mut socket),
            ClientEncryption::Prefer(acceptor) | ClientEncryption::Require(acceptor),
        ) => {
            socket.write_all(b"S").await?;
            // Whatever arrives from here on goes from the socket to rustls: it is TLS, or an error.
            let encrypted = handshake(socket, acceptor, handshakes).await?;
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
    if length == GOODBYE {
        return Err(StartupError::Closed);
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| StartupError::Length)?;
    let body_length = length
        .checked_sub(4)
        .filter(|length| (4..=MAX_PACKET).contains(length));
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
            Ok(Packet::Cancel {
                process_id: i32::from_be_bytes(*process_id),
                key: key.to_vec(),
            })
        }
        _ if code >> 16 == 3 => parse_startup((code & 0xffff) as u16, rest).map(Packet::Startup),
        _ => Err(unsupported(code)),
    }
}

fn unsupported(code: u32) -> StartupError {
    StartupError::Protocol {
        major: (code >> 16) as u16,
        minor: (code & 0xffff) as u16,
    }
}

fn parse_startup(minor: u16, pairs: &[u8]) -> Result<StartupPacket, StartupError> {
    let mut packet = StartupPacket {
        minor,
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        unrecognized: Vec::new(),
    };
    let mut options = String::new();
    let mut explicit = Vec::new();
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
            "options" => options = value,
            "replication" => check_replication(value)?,
            _ if name.starts_with("_pq_.") => packet.unrecognized.push(name),
            _ => explicit.push((name, value)),
        }
    }
    cursor.end().map_err(|_| StartupError::Layout)?;
    for (name, value) in settings_of_options(&options)?.into_iter().chain(explicit) {
        set(&mut packet.parameters, name, value);
    }
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
    match parameters
        .iter_mut()
        .find(|(known, _)| known.eq_ignore_ascii_case(&name))
    {
        Some((_, old)) => *old = value,
        None => parameters.push((name, value)),
    }
}

/// The settings in a command line for a server process (Postgres `pg_split_opts`, `process_postgres_switches`).
fn settings_of_options(options: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut settings = Vec::new();
    let mut arguments = split_options(options).into_iter();
    while let Some(argument) = arguments.next() {
        let setting = match argument.strip_prefix("--") {
            Some(setting) => Some(setting.to_owned()),
            None if argument == "-c" => arguments.next(),
            None => argument.strip_prefix("-c").map(str::to_owned),
        };
        let pair = setting
            .as_deref()
            .and_then(|setting| setting.split_once('='));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(StartupError::Option(setting.unwrap_or(argument)));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Splits at white space; a backslash takes its meaning from the next character.
fn split_options(options: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut letters = options.chars();
    while let Some(letter) = letters.next() {
        match letter {
            // What C's isspace takes for white space.
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => arguments.extend(current.take()),
            '\\' => current.get_or_insert_default().extend(letters.next()),
            other => current.get_or_insert_default().push(other),
        }
    }
    arguments.extend(current);
    arguments
}

/// Only a clear no is let through: a replication connection streams from one server, and there is no one server here.
fn check_replication(value: String) -> Result<(), StartupError> {
    match value.to_ascii_lowercase().as_str() {
        "false" | "off" | "no" | "0" => Ok(()),
        "true" | "on" | "yes" | "1" | "database" => Err(StartupError::Replication),
        _ => Err(StartupError::ReplicationValue(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SslMode;
    use crate::wire::tls::ServerEncryption;
    use crate::wire::tls::fixtures::Authority;
    use proptest::prelude::*;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    /// Nothing here waits for anything but the other side.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = (body.len() as u32 + 8).to_be_bytes().to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    fn hello() -> Vec<u8> {
        packet(3 << 16, b"user\0ann\0\0")
    }

    /// A client that sends each of `words` after it has got a byte for the one before, and then reads all there is.
    /// What `open` makes of it, and what the client read.
    async fn dialogue(
        encryption: &ClientEncryption,
        words: &[&[u8]],
    ) -> (Result<Opening, StartupError>, Vec<u8>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        // Sent before the other side looks, so that it sees all of it at once.
        client.write_all(words[0]).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        let speak = async {
            for word in &words[1..] {
                read.push(client.read_u8().await.unwrap());
                client.write_all(word).await.unwrap();
            }
        };
        let handshakes = Handshakes::here();
        let both = async {
            tokio::join!(
                open(socket.try_into().unwrap(), encryption, &handshakes),
                speak
            )
        };
        let (opening, ()) = tokio::time::timeout(PATIENCE, both)
            .await
            .expect("an answer");
        if opening.is_err() {
            client.read_to_end(&mut read).await.unwrap();
        }
        (opening, read, client)
    }

    /// The client's words end in this error, and this is what it is told before the connection ends.
    async fn refused(encryption: &ClientEncryption, words: &[&[u8]], expected: &str, told: &str) {
        let (opening, read, _) = dialogue(encryption, words).await;
        let error = opening.expect_err("it must be refused");
        assert!(format!("{error:?}").starts_with(expected), "{error:?}");
        let read = String::from_utf8_lossy(&read);
        assert!(
            read.contains("SFATAL\0VFATAL\0") && read.contains(told),
            "{read:?}"
        );
        assert!(!read.starts_with('S'), "TLS was accepted: {read:?}");
    }

    async fn session(
        encryption: &ClientEncryption,
        words: &[&[u8]],
    ) -> (Startup, Vec<u8>, TcpStream) {
        let (opening, read, client) = dialogue(encryption, words).await;
        let Ok(Opening::Session(startup)) = opening else {
            panic!("{opening:?}")
        };
        (startup, read, client)
    }

    #[tokio::test]
    async fn bytes_behind_a_request_for_encryption_are_refused() {
        let authority = Authority::new();
        let mut injected = packet(SSL_REQUEST, b"");
        injected.extend(hello());
        injected.extend(b"Q\0\0\0\x0eSELECT 1\0");
        let mut one_byte = packet(SSL_REQUEST, b"");
        one_byte.push(0x16);
        for words in [&injected, &one_byte] {
            refused(
                &authority.offered(&["localhost"]),
                &[words],
                "BytesBeforeTls",
                "08P01",
            )
            .await;
            refused(
                &ClientEncryption::Disable,
                &[words],
                "BytesBeforeTls",
                "08P01",
            )
            .await;
        }
        let mut injected = packet(GSSENC_REQUEST, b"");
        injected.extend(hello());
        refused(
            &ClientEncryption::Disable,
            &[&injected],
            "BytesBeforeGss",
            "08P01",
        )
        .await;
    }

    #[tokio::test]
    async fn words_in_the_clear_after_yes_are_no_session() {
        let encryption = Authority::new().offered(&["localhost"]);
        let (opening, read, _) =
            dialogue(&encryption, &[&packet(SSL_REQUEST, b""), &hello()]).await;
        assert!(
            matches!(opening, Err(StartupError::Handshake(_))),
            "{opening:?}"
        );
        assert_eq!(read[0], b'S');
        assert!(
            !String::from_utf8_lossy(&read).contains("FATAL"),
            "an error in the clear could be forged, so none is sent"
        );
    }

    #[tokio::test]
    async fn a_session_inside_tls() {
        let authority = Authority::new();
        let encryption = authority.offered(&["localhost"]);
        let ServerEncryption::Require(connector) = authority.trusted(SslMode::VerifyFull) else {
            panic!()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for inside in [
            hello(),
            packet(SSL_REQUEST, b""),
            packet(GSSENC_REQUEST, b""),
        ] {
            let client = async {
                let mut socket = TcpStream::connect(address).await.unwrap();
                socket.write_all(&packet(SSL_REQUEST, b"")).await.unwrap();
                assert_eq!(socket.read_u8().await.unwrap(), b'S');
                let mut tls = connector.connect("localhost", socket).await.unwrap();
                tls.write_all(&inside).await.unwrap();
                tls.flush().await.unwrap();
                tls
            };
            let server = async {
                open(
                    listener.accept().await.unwrap().0.try_into().unwrap(),
                    &encryption,
                    &Handshakes::here(),
                )
                .await
            };
            let both = async { tokio::join!(server, client) };
            let (opening, mut client) = tokio::time::timeout(PATIENCE, both)
                .await
                .expect("an answer");
            if inside == hello() {
                let Ok(Opening::Session(mut startup)) = opening else {
                    panic!("{opening:?}")
                };
                assert!(startup.tls && startup.stream.is_tls());
                startup.stream.write_all(b"x").await.unwrap();
                startup.stream.flush().await.unwrap();
                assert_eq!(client.read_u8().await.unwrap(), b'x');
            } else {
                assert!(
                    matches!(opening, Err(StartupError::Protocol { major: 1234, .. })),
                    "{opening:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn no_encryption_and_then_a_plain_session() {
        let (ssl, gss) = (packet(SSL_REQUEST, b""), packet(GSSENC_REQUEST, b""));
        for requests in [
            vec![&ssl[..]],
            vec![&gss],
            vec![&gss, &ssl],
            vec![&ssl, &gss],
        ] {
            let hello = hello();
            let mut words = requests.clone();
            words.push(&hello);
            let (startup, read, _) = session(&ClientEncryption::Disable, &words).await;
            assert!(!startup.tls);
            assert_eq!(read, vec![b'N'; requests.len()]);
        }
    }

    #[tokio::test]
    async fn no_request_is_answered_twice() {
        let (ssl, gss) = (packet(SSL_REQUEST, b""), packet(GSSENC_REQUEST, b""));
        refused(
            &ClientEncryption::Disable,
            &[&ssl, &ssl],
            "Protocol",
            "unsupported frontend protocol 1234.5679",
        )
        .await;
        refused(
            &ClientEncryption::Disable,
            &[&gss, &gss],
            "Protocol",
            "unsupported frontend protocol 1234.5680",
        )
        .await;
    }

    #[tokio::test]
    async fn required_tls_is_required_of_tcp_only() {
        let authority = Authority::new();
        let ClientEncryption::Prefer(acceptor) = authority.offered(&["localhost"]) else {
            panic!()
        };
        let required = ClientEncryption::Require(acceptor);
        refused(&required, &[&hello()], "TlsRequired", "C28000\0").await;
        refused(
            &required,
            &[&packet(GSSENC_REQUEST, b""), &hello()],
            "TlsRequired",
            "C28000\0",
        )
        .await;

        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&packet(SSL_REQUEST, b"")).await.unwrap();
        let answer = async {
            assert_eq!(ours.read_u8().await.unwrap(), b'N');
            ours.write_all(&hello()).await.unwrap();
        };
        let handshakes = Handshakes::here();
        let (opening, ()) = tokio::join!(
            open(theirs.try_into().unwrap(), &required, &handshakes),
            answer
        );
        assert!(matches!(
            opening,
            Ok(Opening::Session(Startup { tls: false, .. }))
        ));
    }

    #[tokio::test]
    async fn lengths_are_checked_before_anything_is_read() {
        let plain = ClientEncryption::Disable;
        for length in [
            0u32,
            3,
            4,
            7,
            10_005,
            0x4000_0000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ] {
            // The rest never comes; waiting for it would never end.
            refused(
                &plain,
                &[&length.to_be_bytes()],
                "Length",
                "invalid length of startup packet",
            )
            .await;
        }
        refused(&plain, &[b"GET / HTTP/1.1\r\n\r\n"], "Length", "08P01").await;
        refused(&plain, &[&packet(SSL_REQUEST, b"x")], "Length", "08P01").await;
        let mut long = b"user\0ann\0application_name\0".to_vec();
        long.resize(MAX_PACKET - 4 - 2, b' ');
        long.extend(b"\0\0");
        let (startup, ..) = session(&plain, &[&packet(3 << 16, &long)]).await;
        assert_eq!(startup.parameters[0].0, "application_name");
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_no_error_to_tell() {
        for (words, quiet) in [
            (&b""[..], true),
            (b"X\0\0\0\x04", true),
            (b"\0", false),
            (b"\0\0\0\x20\0\x03", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            client.write_all(words).await.unwrap();
            client.shutdown().await.unwrap();
            let error = open(
                listener.accept().await.unwrap().0.try_into().unwrap(),
                &ClientEncryption::Disable,
                &Handshakes::here(),
            )
            .await
            .unwrap_err();
            assert_eq!(matches!(error, StartupError::Closed), quiet, "{error:?}");
        }
    }

    #[tokio::test]
    async fn newer_protocols_are_negotiated_down() {
        let plain = ClientEncryption::Disable;
        for (asked, options, spoken, told) in [
            (0u32, &b""[..], 0, None),
            (1, b"", 1, None),
            (2, b"", 2, None),
            (3, b"", 2, Some((0x30002u32, &b""[..]))),
            (
                9999,
                b"_pq_.grease\0x\0",
                2,
                Some((0x30002, b"_pq_.grease\0")),
            ),
            (
                0,
                b"_pq_.a\0\0_pq_.b\0\0",
                0,
                Some((0x30000, b"_pq_.a\0_pq_.b\0")),
            ),
        ] {
            let body = [b"user\0ann\0", options, b"\0"].concat();
            let (mut startup, _, mut client) =
                session(&plain, &[&packet(3 << 16 | asked, &body)]).await;
            assert_eq!(startup.protocol_minor, spoken);
            assert_eq!(startup.parameters, []);
            startup.stream.shutdown().await.unwrap();
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            let expected = told.map_or(Vec::new(), |(version, names)| {
                let count = names.iter().filter(|&&byte| byte == 0).count() as u32;
                let length = 12 + names.len() as u32;
                [
                    b"v",
                    &length.to_be_bytes()[..],
                    &version.to_be_bytes(),
                    &count.to_be_bytes(),
                    names,
                ]
                .concat()
            });
            assert_eq!(read, expected, "3.{asked}");
        }
        for code in [0u32, 2 << 16, 4 << 16, 1234 << 16 | 1] {
            refused(
                &plain,
                &[&packet(code, b"user\0ann\0\0")],
                "Protocol",
                "C0A000\0",
            )
            .await;
        }
    }

    #[tokio::test]
    async fn a_cancel_request_keeps_its_connection() {
        for key in [&[1u8, 2, 3, 4][..], &[7; 32], &[7; 256]] {
            let body = [&42u32.to_be_bytes()[..], key].concat();
            let words = packet(CANCEL_REQUEST, &body);
            let (opening, read, mut client) = dialogue(&ClientEncryption::Disable, &[&words]).await;
            let Ok(Opening::Cancel(request)) = opening else {
                panic!("{opening:?}")
            };
            assert_eq!((request.process_id, &request.key[..]), (42, key));
            drop(request);
            assert_eq!((client.read(&mut [0]).await.unwrap(), read.len()), (0, 0));
        }
        for body in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01abc", &[0; 4 + 257]] {
            assert!(matches!(
                parse_packet(&packet(CANCEL_REQUEST, body)[4..]),
                Err(StartupError::CancelKey)
            ));
        }
    }

    fn parameters(body: &[u8]) -> Result<StartupPacket, StartupError> {
        match parse_packet(&packet(3 << 16, body)[4..])? {
            Packet::Startup(packet) => Ok(packet),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_are_read_strictly() {
        let packet =
            parameters(b"user\0ann\0TimeZone\0UTC\0replication\0Off\0timezone\0GMT\0\0").unwrap();
        assert_eq!(
            (packet.user.as_str(), packet.database.as_str()),
            ("ann", "ann")
        );
        assert_eq!(
            packet.parameters,
            [("TimeZone".to_owned(), "GMT".to_owned())]
        );
        assert_eq!(
            parameters(b"database\0db\0user\0ann\0\0").unwrap().database,
            "db"
        );
        assert_eq!(
            parameters(b"database\0\0user\0ann\0\0").unwrap().database,
            "ann"
        );
        for (body, expected) in [
            (&b""[..], "Layout"),
            (b"user", "Layout"),
            (b"user\0", "Layout"),
            (b"user\0ann", "Layout"),
            (b"user\0ann\0", "Layout"),
            (b"user\0ann\0\0x", "Layout"),
            (b"user\0ann\0\0\0", "Layout"),
            (b"user\0ann\0database\0\0", "Layout"),
            (b"\0", "NoUser"),
            (b"user\0\0\0", "NoUser"),
            (b"User\0ann\0\0", "NoUser"),
            (b"user\0an\xff\0\0", "NotUtf8"),
            (b"user\0ann\0\xff\0x\0\0", "NotUtf8"),
            (b"user\0ann\0replication\0database\0\0", "Replication"),
            (b"user\0ann\0replication\0on\0\0", "Replication"),
            (b"user\0ann\0replication\0maybe\0\0", "ReplicationValue"),
        ] {
            let error = parameters(body).unwrap_err();
            assert_eq!(
                format!("{error:?}").split('(').next(),
                Some(expected),
                "{body:?}"
            );
        }
    }

    #[test]
    fn settings_inside_options_count_less_than_those_beside_it() {
        let packet = parameters(
            b"user\0ann\0search_path\0b\0options\0 -c Search_Path=a -cgeqo=off\t--enable-sort=x\\ y\\\\ \0\0",
        );
        let read = packet.unwrap().parameters;
        let read: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            read,
            [
                ("Search_Path", "b"),
                ("geqo", "off"),
                ("enable_sort", "x y\\")
            ]
        );
        for options in ["-c", "-c geqo", "--geqo", "-B 5", "x", "-c =1", "-", "--"] {
            let body = format!("user\0ann\0options\0{options}\0\0");
            let error = parameters(body.as_bytes()).unwrap_err();
            assert!(
                matches!(error, StartupError::Option(_)),
                "{options}: {error:?}"
            );
        }
        assert!(
            parameters(b"user\0ann\0options\0\0\0")
                .unwrap()
                .parameters
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_reader_panic(code in prop_oneof![any::<u32>(), Just(SSL_REQUEST), Just(CANCEL_REQUEST), Just(3 << 16)],
                                            body in proptest::collection::vec(prop_oneof![1 => Just(0u8), 2 => any::<u8>()], 0..300)) {
            let _ = parse_packet(&body);
            let _ = settings_of_options(&String::from_utf8_lossy(&body));
            let _ = parse_packet(&packet(code, &body)[4..]);
        }
    }
}
