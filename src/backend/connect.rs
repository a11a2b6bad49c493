//! Opening one connection to a server, up to its first ReadyForQuery; and cancelling a statement on one.
//!
//! Nothing a server says is trusted more than a client: its messages are bounded in size and number, a login that skips the
//! proof of its own identity is refused, and bytes that come before TLS is up end the attempt (CVE-2021-23222).
//! Sources: <https://www.postgresql.org/docs/current/protocol-flow.html>, libpq `fe-connect.c` and `fe-auth.c`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::lookup_host;

use crate::config::Secret;
use crate::wire::answer::{self, ErrorFields, TransactionStatus};
use crate::wire::auth::{Binding, Credential, Prover, ProverError, md5_response};
use crate::wire::message::Cursor;
use crate::wire::socket::{Home, Socket, TokioSocket};
use crate::wire::stream::{Peer, Stream, Transport};
use crate::wire::timers::Timers;
use crate::wire::tls::{self, Connector, ServerEncryption};

/// Longest message of a login. The largest that servers send are errors and settings of a few kB.
const MAX_MESSAGE: usize = 64 * 1024;
/// Most messages of a login: some fifteen settings, and notices.
const MAX_MESSAGES: usize = 1000;
/// Longest cancel key of protocol 3.2; 3.0 sends 4 bytes.
const MAX_CANCEL_KEY: usize = 256;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const CANCEL_REQUEST: [u8; 4] = [0x04, 0xd2, 0x16, 0x2e];
const PROTOCOL_3_0: [u8; 4] = [0, 3, 0, 0];

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, an IP address, or the directory of a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// As whom, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub credential: Option<Credential>,
    pub database: String,
    /// None where clients work: who gives no name sees the one that the server is configured with.
    pub application_name: Option<String>,
    /// Further parameters of the startup packet. `client_encoding` is UTF8 and not among them.
    pub parameters: Vec<(String, String)>,
}

/// A connection that is logged in, idle and in no transaction.
#[derive(Debug)]
pub struct Connected<S = Socket> {
    pub stream: Stream<S>,
    /// The very address that answered: a name may stand for several servers, and a cancel request is for this one.
    pub peer: Peer,
    /// What the server reported, each name once with its last value.
    pub parameters: Vec<(String, String)>,
    pub process_id: i32,
    /// Empty when the server sent none (some poolers): its statements cannot be cancelled.
    pub secret_key: Vec<u8>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server's own refusal.
    #[error("{}", describe(raw))]
    Server {
        /// The body of its ErrorResponse, to be given to the client as it is.
        raw: Vec<u8>,
        sqlstate: String,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The handshake or a certificate failed.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the server does not support TLS, and the configuration requires it")]
    TlsUnsupported,
    #[error("the server asks for a password, and none is configured for user \"{0}\"")]
    PasswordMissing(String),
    /// What is stored, or was learned from a client's login, is not enough for what the server asks.
    #[error(
        "the server asks for {asked}, and of the password of user \"{user}\" only {known} is known"
    )]
    CredentialUnfit {
        asked: &'static str,
        user: String,
        known: &'static str,
    },
    /// A login with the keys that a client's login has shown went wrong.
    #[error("SCRAM authentication with the client's keys failed for user \"{user}\": {error}")]
    Keys { user: String, error: ProverError },
    #[error("the server asks for {0} authentication, which is not supported")]
    Authentication(&'static str),
    /// It could not prove that it knows the password, or the exchange went wrong.
    #[error("SCRAM authentication failed: {0}")]
    Scram(#[source] io::Error),
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// It was taken for the primary.
    #[error("the server is a standby, which takes no writes")]
    Standby,
}

impl ConnectError {
    /// Whether it says that the node is away, so that it may be back, or another one in its place, before long.
    pub fn is_of_the_node(&self) -> bool {
        match self {
            // Starting up, shutting down, and the like; or it has been told to go.
            ConnectError::Server { sqlstate, .. } => {
                matches!(&**sqlstate, "57P01" | "57P02" | "57P03")
            }
            ConnectError::Io(_) | ConnectError::Timeout(_) | ConnectError::Standby => true,
            ConnectError::Tls(_)
            | ConnectError::TlsUnsupported
            | ConnectError::PasswordMissing(_)
            | ConnectError::CredentialUnfit { .. }
            | ConnectError::Keys { .. }
            | ConnectError::Authentication(_)
            | ConnectError::Scram(_)
            | ConnectError::Protocol(_) => false,
        }
    }
}

fn describe(raw: &[u8]) -> String {
    match ErrorFields::parse(raw) {
        Some(fields) => {
            let (severity, message) = (
                String::from_utf8_lossy(fields.severity),
                String::from_utf8_lossy(fields.message),
            );
            format!("{severity}: {message} (SQLSTATE {})", fields.sqlstate)
        }
        None => "the server refused the connection".to_owned(),
    }
}

/// Where the sockets of connections come from.
pub trait Dial {
    type Socket: Transport;

    fn tcp(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Socket>>;

    fn unix(&self, path: &Path) -> impl Future<Output = io::Result<Self::Socket>>;
}

/// They stay on their thread.
impl Dial for Home {
    type Socket = Socket;

    async fn tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        self.connect_tcp(address).await
    }

    async fn unix(&self, path: &Path) -> io::Result<Socket> {
        self.connect_unix(path).await
    }
}

/// They are used by tasks of the tokio runtime at hand, on any of its threads.
#[derive(Clone, Copy, Debug)]
pub struct AnyThread;

impl Dial for AnyThread {
    type Socket = TokioSocket;

    async fn tcp(&self, address: SocketAddr) -> io::Result<TokioSocket> {
        TokioSocket::connect_tcp(address).await
    }

    async fn unix(&self, path: &Path) -> io::Result<TokioSocket> {
        TokioSocket::connect_unix(path).await
    }
}

/// Connects and logs in, all within `timeout`. The connection lives at `home`.
pub async fn connect<D: Dial>(
    address: &Address,
    login: &Login,
    encryption: &ServerEncryption,
    home: &D,
    timers: &Timers,
    timeout: Duration,
) -> Result<Connected<D::Socket>, ConnectError> {
    let attempt = async {
        let mut stream = open(address, None, encryption, home).await?;
        send(&mut stream, &startup_packet(login)).await?;
        log_in(stream, login).await
    };
    timers
        .timeout(timeout, attempt)
        .await
        .unwrap_or(Err(ConnectError::Timeout(timeout)))
}

/// What a server knows a connection by.
#[derive(Clone, Copy, Debug)]
pub struct CancelKey<'a> {
    pub process_id: i32,
    pub secret: &'a [u8],
}

/// Asks the server at `peer` to cancel what a connection to it is doing, and returns when the server has dealt with the
/// request. Whether there was something to cancel is not told.
///
/// `address`, `peer` and `key` are those of the connection.
pub async fn cancel(
    address: &Address,
    peer: &Peer,
    encryption: &ServerEncryption,
    key: CancelKey<'_>,
    home: &Home,
    timers: &Timers,
    timeout: Duration,
) -> Result<(), ConnectError> {
    let CancelKey { process_id, secret } = key;
    if !(4..=MAX_CANCEL_KEY).contains(&secret.len()) {
        return Err(ConnectError::Protocol("no usable cancel key"));
    }
    let mut packet = Vec::with_capacity(12 + secret.len());
    let length = u32::try_from(12 + secret.len()).expect("a key of at most 256 bytes");
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&CANCEL_REQUEST);
    packet.extend_from_slice(&process_id.to_be_bytes());
    packet.extend_from_slice(secret);
    let attempt = async {
        let mut stream = open(address, Some(peer), encryption, home).await?;
        send(&mut stream, &packet).await?;
        // The server closes without a word when it has sent its signal. A reset says the same, and so does TLS cut short.
        let mut nothing = [0; 64];
        while matches!(stream.read(&mut nothing).await, Ok(read) if read > 0) {}
        Ok(())
    };
    timers
        .timeout(timeout, attempt)
        .await
        .unwrap_or(Err(ConnectError::Timeout(timeout)))
}

/// A socket to the server, to one certain `peer` if given, encrypted as configured.
async fn open<D: Dial>(
    address: &Address,
    peer: Option<&Peer>,
    encryption: &ServerEncryption,
    home: &D,
) -> Result<Stream<D::Socket>, ConnectError> {
    if address.host.starts_with('/') {
        // Postgres does not encrypt Unix sockets, and libpq does not ask.
        let path = Path::new(&address.host).join(format!(".s.PGSQL.{}", address.port));
        return Ok(Stream::Unix(home.unix(&path).await?));
    }
    let stream = Stream::Tcp(match peer {
        Some(Peer::Tcp(resolved)) => home.tcp(*resolved).await?,
        _ => connect_tcp(address, home).await?,
    });
    stream.set_options()?;
    match (stream, encryption) {
        (stream, ServerEncryption::Disable) => Ok(stream),
        (stream, ServerEncryption::Prefer(connector)) => {
            match request_tls(stream, &address.host, connector).await? {
                TlsAnswer::Encrypted(stream) | TlsAnswer::Refused(stream) => Ok(stream),
            }
        }
        (stream, ServerEncryption::Require(connector)) => {
            match request_tls(stream, &address.host, connector).await? {
                TlsAnswer::Encrypted(stream) => Ok(stream),
                TlsAnswer::Refused(_) => Err(ConnectError::TlsUnsupported),
            }
        }
    }
}

/// Tries the addresses of a name one after the other; the last failure counts.
async fn connect_tcp<D: Dial>(address: &Address, home: &D) -> io::Result<D::Socket> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for resolved in lookup_host((address.host.as_str(), address.port)).await? {
        match home.tcp(resolved).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

enum TlsAnswer<S> {
    Encrypted(Stream<S>),
    /// Still as it was, in the clear.
    Refused(Stream<S>),
}

async fn request_tls<S: Transport>(
    mut stream: Stream<S>,
    host: &str,
    connector: &Connector,
) -> Result<TlsAnswer<S>, ConnectError> {
    stream.write_all(&SSL_REQUEST).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    // The server speaks next after our ClientHello or our startup packet. Bytes that are here already come from somebody else.
    if stream.has_unread_bytes()? {
        return Err(ConnectError::Protocol(
            "bytes arrived in the clear behind the answer to SSLRequest",
        ));
    }
    match (answer[0], stream) {
        (b'S', Stream::Tcp(socket)) => {
            let encrypted = connector
                .connect(host, socket)
                .await
                .map_err(ConnectError::Tls)?;
            Ok(TlsAnswer::Encrypted(Stream::ClientTls(Box::new(encrypted))))
        }
        (b'N', stream) => Ok(TlsAnswer::Refused(stream)),
        // An ErrorResponse, from a server that cannot even fork. It is not shown to anybody: no one vouches for it (CVE-2024-10977).
        _ => Err(ConnectError::Protocol(
            "neither S nor N came as the answer to SSLRequest",
        )),
    }
}

fn startup_packet(login: &Login) -> Vec<u8> {
    let fixed = [
        ("user", login.user.as_str()),
        ("database", login.database.as_str()),
        ("client_encoding", "UTF8"),
    ];
    let mut packet = vec![0; 4];
    packet.extend_from_slice(&PROTOCOL_3_0);
    let further = login
        .parameters
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let named = login
        .application_name
        .as_deref()
        .map(|name| ("application_name", name));
    for (name, value) in fixed.into_iter().chain(named).chain(further) {
        // An empty name would end the list early.
        if !name.is_empty() {
            answer::put_string(&mut packet, name);
            answer::put_string(&mut packet, value);
        }
    }
    packet.push(0);
    let length = u32::try_from(packet.len()).expect("names and settings stay far below 4 GB");
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Where the login stands. Unasked => (Scram or Answered or LoggedIn); Scram => (Scram or Answered); Answered => LoggedIn.
enum Proof {
    /// Nothing has been asked. A server that trusts us says AuthenticationOk at once.
    Unasked,
    /// A SCRAM exchange is under way. AuthenticationOk now would skip the server's own proof.
    Scram(Box<Scram>),
    /// All that was asked has been answered, and after SCRAM the server has proven that it knows the password.
    Answered,
    /// AuthenticationOk has come.
    LoggedIn,
}

/// The exchange: from a password, or from the keys that a client's login has shown.
enum Scram {
    Password(ScramSha256),
    Keys(Prover),
}

/// From the startup packet to ReadyForQuery.
async fn log_in<S: Transport>(
    mut stream: Stream<S>,
    login: &Login,
) -> Result<Connected<S>, ConnectError> {
    let mut proof = Proof::Unasked;
    let mut parameters = Vec::new();
    let mut key = None;
    for _ in 0..MAX_MESSAGES {
        let (kind, body) = read_message(&mut stream).await?;
        match (kind, &proof) {
            (b'E', _) => return Err(refusal(body)),
            (b'N', _) => {}
            (b'R', Proof::Unasked | Proof::Scram(_) | Proof::Answered) => {
                proof = authenticate(&mut stream, login, proof, &body).await?;
            }
            (b'S', Proof::LoggedIn) => report(&mut parameters, &body)?,
            (b'K', Proof::LoggedIn) => key = Some(backend_key(&body)?),
            (b'Z', Proof::LoggedIn) => {
                if body != [TransactionStatus::Idle.byte()] {
                    return Err(ConnectError::Protocol("a new connection is not idle"));
                }
                let (process_id, secret_key) = key.unwrap_or_default();
                return Ok(Connected {
                    peer: stream.peer(),
                    stream,
                    parameters,
                    process_id,
                    secret_key,
                });
            }
            _ => {
                return Err(ConnectError::Protocol(
                    "a message that has no place in a login",
                ));
            }
        }
    }
    Err(ConnectError::Protocol("a login that does not end"))
}

/// Answers one Authentication request.
async fn authenticate<S: Transport>(
    stream: &mut Stream<S>,
    login: &Login,
    proof: Proof,
    body: &[u8],
) -> Result<Proof, ConnectError> {
    let mut cursor = Cursor::new(body);
    let code = cursor
        .int32()
        .map_err(|_| ConnectError::Protocol("an Authentication message without code"))?;
    let data = cursor.rest();
    match (code, proof) {
        (0, Proof::Unasked | Proof::Answered) => Ok(Proof::LoggedIn),
        (0, _) => Err(ConnectError::Protocol(
            "AuthenticationOk before the server proved who it is",
        )),
        (3, Proof::Unasked) => {
            let Credential::Password(Secret(password)) = credential(login)? else {
                return Err(unfit(login, "the password itself"));
            };
            send_password(stream, password.as_bytes()).await?;
            Ok(Proof::Answered)
        }
        (5, Proof::Unasked) => {
            let salt = data
                .try_into()
                .map_err(|_| ConnectError::Protocol("an md5 salt that has not 4 bytes"))?;
            let (Credential::Password(secret) | Credential::Md5(secret)) = credential(login)?
            else {
                return Err(unfit(login, "md5"));
            };
            let hash = md5_response(secret, &login.user, salt);
            send_password(stream, hash.as_bytes()).await?;
            Ok(Proof::Answered)
        }
        (10, Proof::Unasked) => begin_scram(stream, login, data).await,
        (11, Proof::Scram(scram)) => continue_scram(stream, login, scram, data).await,
        (12, Proof::Scram(mut scram)) => {
            match &mut *scram {
                Scram::Password(scram) => scram.finish(data).map_err(ConnectError::Scram)?,
                Scram::Keys(prover) => prover.finish(data).map_err(|error| keys(login, error))?,
            }
            Ok(Proof::Answered)
        }
        (2, _) => Err(ConnectError::Authentication("Kerberos V5")),
        (6, _) => Err(ConnectError::Authentication("SCM credentials")),
        (7 | 8, _) => Err(ConnectError::Authentication("GSSAPI")),
        (9, _) => Err(ConnectError::Authentication("SSPI")),
        _ => Err(ConnectError::Protocol(
            "an Authentication message out of turn",
        )),
    }
}

fn credential(login: &Login) -> Result<&Credential, ConnectError> {
    let missing = || ConnectError::PasswordMissing(login.user.clone());
    login.credential.as_ref().ok_or_else(missing)
}

fn unfit(login: &Login, asked: &'static str) -> ConnectError {
    ConnectError::CredentialUnfit {
        asked,
        user: login.user.clone(),
        known: match login.credential {
            Some(Credential::Md5(_)) => "its md5 hash",
            Some(Credential::Scram(_)) => "what SCRAM-SHA-256 needs",
            Some(Credential::Password(_)) | None => "nothing",
        },
    }
}

fn keys(login: &Login, error: ProverError) -> ConnectError {
    ConnectError::Keys {
        user: login.user.clone(),
        error,
    }
}

async fn send_password<S: Transport>(
    stream: &mut Stream<S>,
    password: &[u8],
) -> Result<(), ConnectError> {
    let mut out = Vec::new();
    answer::message(&mut out, b'p', |out| {
        out.extend_from_slice(password);
        out.push(0);
    });
    send(stream, &out).await
}

/// `offered`: NUL-terminated names of mechanisms and a NUL. The one that is bound to the TLS connection is taken if it can be.
async fn begin_scram<S: Transport>(
    stream: &mut Stream<S>,
    login: &Login,
    offered: &[u8],
) -> Result<Proof, ConnectError> {
    let (mut plain, mut plus) = (false, false);
    let mut cursor = Cursor::new(offered);
    loop {
        match cursor
            .string()
            .map_err(|_| ConnectError::Protocol("a list of SASL mechanisms without end"))?
        {
            b"" => break,
            name => {
                plain |= name == SCRAM_SHA_256.as_bytes();
                plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
            }
        }
    }
    let end_point = server_end_point(stream);
    let (mechanism, binding) = match (end_point, plus, plain) {
        (Some(hash), true, _) => (SCRAM_SHA_256_PLUS, Binding::EndPoint(hash)),
        // We could bind and the server does not offer it. Said inside the proof, so that a server which did offer it,
        // through somebody in the middle who took it off the list, notices.
        (Some(_), false, true) => (SCRAM_SHA_256, Binding::NotOffered),
        (None, _, true) => (SCRAM_SHA_256, Binding::Impossible),
        _ => {
            return Err(ConnectError::Authentication(
                "a SASL mechanism other than SCRAM-SHA-256",
            ));
        }
    };
    let scram = match credential(login)? {
        Credential::Password(Secret(password)) => {
            let binding = match binding {
                Binding::EndPoint(hash) => ChannelBinding::tls_server_end_point(hash),
                Binding::NotOffered => ChannelBinding::unrequested(),
                Binding::Impossible => ChannelBinding::unsupported(),
            };
            Scram::Password(ScramSha256::new(password.as_bytes(), binding))
        }
        Credential::Scram(keys) => Scram::Keys(Prover::new(keys.clone(), binding)),
        Credential::Md5(_) => return Err(unfit(login, "SCRAM-SHA-256")),
    };
    let first = match &scram {
        Scram::Password(scram) => scram.message().to_vec(),
        Scram::Keys(prover) => prover.first().into_bytes(),
    };
    let mut out = Vec::new();
    answer::message(&mut out, b'p', |out| {
        answer::put_string(out, mechanism);
        let length = i32::try_from(first.len()).expect("a nonce and a header");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&first);
    });
    send(stream, &out).await?;
    Ok(Proof::Scram(Box::new(scram)))
}

fn server_end_point<S>(stream: &Stream<S>) -> Option<Vec<u8>> {
    match stream {
        Stream::ClientTls(encrypted) => encrypted
            .get_ref()
            .1
            .peer_certificates()?
            .first()
            .and_then(tls::server_end_point),
        _ => None,
    }
}

async fn continue_scram<S: Transport>(
    stream: &mut Stream<S>,
    login: &Login,
    scram: Box<Scram>,
    server_first: &[u8],
) -> Result<Proof, ConnectError> {
    let (scram, last) = match *scram {
        Scram::Password(mut scram) => {
            let server_first = server_first.to_vec();
            // Thousands of hashes on purpose. Other connections live on this thread.
            let hashing = move || scram.update(&server_first).map(|()| scram);
            let scram = tokio::task::spawn_blocking(hashing)
                .await
                .map_err(io::Error::other)?
                .map_err(ConnectError::Scram)?;
            let last = scram.message().to_vec();
            (Scram::Password(scram), last)
        }
        Scram::Keys(mut prover) => {
            let last = prover
                .last(server_first)
                .map_err(|error| keys(login, error))?;
            (Scram::Keys(prover), last.into_bytes())
        }
    };
    let mut out = Vec::new();
    answer::message(&mut out, b'p', |out| out.extend_from_slice(&last));
    send(stream, &out).await?;
    Ok(Proof::Scram(Box::new(scram)))
}

fn report(parameters: &mut Vec<(String, String)>, body: &[u8]) -> Result<(), ConnectError> {
    let broken = ConnectError::Protocol("a ParameterStatus that cannot be read");
    let mut cursor = Cursor::new(body);
    let (Ok(name), Ok(value), Ok(())) = (cursor.string(), cursor.string(), cursor.end()) else {
        return Err(broken);
    };
    let (Ok(name), Ok(value)) = (
        String::from_utf8(name.to_vec()),
        String::from_utf8(value.to_vec()),
    ) else {
        return Err(broken);
    };
    match parameters.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => parameters.push((name, value)),
    }
    Ok(())
}

fn backend_key(body: &[u8]) -> Result<(i32, Vec<u8>), ConnectError> {
    match body.split_first_chunk() {
        Some((process_id, key)) if (4..=MAX_CANCEL_KEY).contains(&key.len()) => {
            Ok((i32::from_be_bytes(*process_id), key.to_vec()))
        }
        _ => Err(ConnectError::Protocol(
            "a BackendKeyData that cannot be read",
        )),
    }
}

fn refusal(raw: Vec<u8>) -> ConnectError {
    match ErrorFields::parse(&raw) {
        Some(fields) => {
            let sqlstate = fields.sqlstate.to_owned();
            ConnectError::Server { raw, sqlstate }
        }
        None => ConnectError::Protocol("an ErrorResponse that cannot be read"),
    }
}

async fn send<S: Transport>(stream: &mut Stream<S>, bytes: &[u8]) -> Result<(), ConnectError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

/// One message, exactly its bytes: what the server says after ReadyForQuery is for whoever uses the connection.
async fn read_message<S: Transport>(stream: &mut Stream<S>) -> Result<(u8, Vec<u8>), ConnectError> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let length = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4));
    let Some(length) = length.filter(|&length| length <= MAX_MESSAGE) else {
        return Err(ConnectError::Protocol(
            "a message of a length that no login has",
        ));
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((header[0], body))
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::{SslMode, User};
    use crate::wire::auth::fixtures::{self, Auth, authenticate as check_client};
    use crate::wire::auth::{AuthSecrets, ProcessSecret};
    use crate::wire::handshakes::Handshakes;
    use crate::wire::startup::{self, Opening};
    use crate::wire::tls::fixtures::Authority;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn login() -> Login {
        Login {
            user: "ann".into(),
            credential: Some(Credential::Password(Secret("secret".into()))),
            database: "app".into(),
            application_name: Some("trunkline".into()),
            parameters: vec![("search_path".into(), "a,b".into())],
        }
    }

    /// Runs `connect` against a server that is played by `play`.
    async fn against<F: Future<Output = TcpStream>>(
        encryption: &ServerEncryption,
        play: impl FnOnce(TcpStream) -> F,
    ) -> Result<Connected, ConnectError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
        };
        let server = async { play(listener.accept().await.unwrap().0).await };
        let login = login();
        let timers = Timers::here();
        let (connected, _still_open) = tokio::join!(
            connect(
                &address,
                &login,
                encryption,
                &Home::Tokio,
                &timers,
                PATIENCE
            ),
            server
        );
        connected
    }

    /// Reads the startup packet and says `words`.
    async fn after_startup(mut socket: TcpStream, words: &[u8]) -> TcpStream {
        let length = socket.read_u32().await.unwrap();
        let mut packet = vec![0; length as usize - 4];
        socket.read_exact(&mut packet).await.unwrap();
        socket.write_all(words).await.unwrap();
        socket
    }

    async fn said(words: &[u8]) -> Result<Connected, ConnectError> {
        against(&ServerEncryption::Disable, |socket| {
            after_startup(socket, words)
        })
        .await
    }

    fn accepted() -> Vec<u8> {
        let mut out = Vec::new();
        answer::authentication_ok(&mut out);
        answer::parameter_status(&mut out, "TimeZone", "UTC");
        answer::parameter_status(&mut out, "TimeZone", "GMT");
        answer::backend_key_data(&mut out, 42, &[1, 2, 3, 4]);
        answer::ready_for_query(&mut out, TransactionStatus::Idle);
        out
    }

    #[tokio::test]
    async fn a_trusting_server() {
        let mut words = accepted();
        // Said after the login, so it is not ours to take.
        answer::parameter_status(&mut words, "in_hot_standby", "off");
        let mut connected = said(&words).await.unwrap();
        assert_eq!(
            connected.parameters,
            [("TimeZone".to_owned(), "GMT".to_owned())]
        );
        assert_eq!(
            (connected.process_id, &connected.secret_key[..]),
            (42, &[1, 2, 3, 4][..])
        );
        assert_eq!(connected.stream.read_u8().await.unwrap(), b'S');
    }

    #[test]
    fn the_startup_packet_is_what_a_server_expects() {
        let packet = startup_packet(&login());
        let startup::Packet::Startup(read) = startup::parse_packet(&packet[4..]).unwrap() else {
            panic!()
        };
        assert_eq!(
            (read.minor, read.user.as_str(), read.database.as_str()),
            (0, "ann", "app")
        );
        let names: Vec<_> = read
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("client_encoding", "UTF8"),
                ("application_name", "trunkline"),
                ("search_path", "a,b")
            ]
        );
    }

    #[tokio::test]
    async fn the_servers_own_error_is_kept_whole() {
        let mut words = Vec::new();
        let report = answer::Report::new(
            answer::Severity::Fatal,
            "53300",
            "sorry, too many clients already",
        );
        answer::error_response(&mut words, &report);
        let error = said(&words).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "FATAL: sorry, too many clients already (SQLSTATE 53300)"
        );
        let ConnectError::Server { raw, sqlstate } = error else {
            panic!()
        };
        assert_eq!((&raw[..], sqlstate.as_str()), (&words[5..], "53300"));
    }

    #[tokio::test]
    async fn a_server_that_breaks_the_protocol_is_left() {
        let mut skips_its_proof = Vec::new();
        answer::authentication_sasl(&mut skips_its_proof, &["SCRAM-SHA-256"]);
        skips_its_proof.extend(accepted());
        let mut asks_twice = Vec::new();
        answer::authentication_md5(&mut asks_twice, [1; 4]);
        answer::authentication_md5(&mut asks_twice, [1; 4]);
        let mut never_ends = Vec::new();
        for _ in 0..=MAX_MESSAGES {
            answer::notice_response(
                &mut never_ends,
                &answer::Report::new(answer::Severity::Notice, "00000", "x"),
            );
        }
        let mut in_transaction = Vec::new();
        answer::authentication_ok(&mut in_transaction);
        answer::ready_for_query(&mut in_transaction, TransactionStatus::InTransaction);
        let cases: [&[u8]; 13] = [
            &skips_its_proof,
            &asks_twice,
            &never_ends,
            &in_transaction,
            b"Z\0\0\0\x05I",            // ready without a login
            b"S\0\0\0\x08a\0b\0",       // a setting before it
            b"R\0\0\0\x04",             // no code
            b"R\0\0\0\x03",             // shorter than its own length word
            b"R\x40\0\0\0",             // 1 GB
            b"R\0\0\0\x0a\0\0\0\x05ab", // md5 with a salt of 2 bytes
            b"R\0\0\0\x08\0\0\0\x0c",   // SASLFinal out of nowhere
            b"E\0\0\0\x06SE",           // an error cut short
            b"R\0\0\0\x09\0\0\0\x0aS",  // mechanisms without end
        ];
        for words in cases {
            let error = said(words).await.unwrap_err();
            assert!(
                matches!(error, ConnectError::Protocol(_)),
                "{words:?}: {error}"
            );
        }
        let error = said(b"R\0\0\0\x08\0\0\0\x07").await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Authentication("GSSAPI")),
            "{error}"
        );
        let error = said(b"R\0\0\0\x0f\0\0\0\x0aOTHER\0\0").await.unwrap_err();
        assert!(matches!(error, ConnectError::Authentication(_)), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_falls_silent_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
        };
        let error = connect(
            &address,
            &login(),
            &ServerEncryption::Disable,
            &Home::Tokio,
            &Timers::here(),
            Duration::from_millis(50),
        )
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
    }

    /// Answers SSLRequest with `words` and then lets the client in.
    async fn after_ssl_request(mut socket: TcpStream, words: &[u8]) -> TcpStream {
        let mut request = [0; 8];
        socket.read_exact(&mut request).await.unwrap();
        assert_eq!(request, SSL_REQUEST);
        socket.write_all(words).await.unwrap();
        if words == b"N" {
            let mut rest = [0; 1];
            if socket.peek(&mut rest).await.unwrap() > 0 {
                socket = after_startup(socket, &accepted()).await;
            }
        }
        socket
    }

    #[tokio::test]
    async fn bytes_before_tls_end_the_attempt() {
        let authority = Authority::new();
        for mode in [SslMode::Prefer, SslMode::Require] {
            let encryption = authority.trusted(mode);
            let mut forged = b"S".to_vec();
            forged.extend(accepted());
            for words in [&forged[..], b"NE", b"E\0\0\0\x04"] {
                let error = against(&encryption, |socket| after_ssl_request(socket, words))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(error, ConnectError::Protocol(_)),
                    "{mode:?} {words:?}: {error}"
                );
            }
        }
        assert!(
            against(&authority.trusted(SslMode::Prefer), |socket| {
                after_ssl_request(socket, b"N")
            })
            .await
            .is_ok()
        );
        let error = against(&authority.trusted(SslMode::Require), |socket| {
            after_ssl_request(socket, b"N")
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::TlsUnsupported), "{error}");
    }

    fn user(auth: Auth) -> User {
        fixtures::user("ann", auth)
    }

    /// Our own side towards clients plays the server.
    async fn against_ourselves(
        auth: Auth,
        authority: &Authority,
        mode: SslMode,
    ) -> Result<bool, ConnectError> {
        let users = [user(auth)];
        let encryption = authority.offered(&["localhost", "127.0.0.1"]);
        let secrets =
            AuthSecrets::new(&ProcessSecret::random(), &users, &encryption, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
        };
        let server = async {
            let socket = listener.accept().await.unwrap().0;
            let Ok(Opening::Session(mut startup)) =
                startup::open(socket.try_into().unwrap(), &encryption, &Handshakes::here()).await
            else {
                panic!()
            };
            if check_client(
                &mut startup.stream,
                Some(&users[0]),
                &startup.user,
                &secrets,
            )
            .await
            .is_ok()
            {
                startup.stream.write_all(&accepted()).await.unwrap();
                startup.stream.flush().await.unwrap();
            }
            startup.stream
        };
        let (login, trusted) = (login(), authority.trusted(mode));
        let timers = Timers::here();
        let (connected, _still_open) = tokio::join!(
            connect(&address, &login, &trusted, &Home::Tokio, &timers, PATIENCE),
            server
        );
        connected.map(|connected| connected.stream.is_tls())
    }

    #[tokio::test]
    async fn every_password_method_in_the_clear_and_with_channel_binding() {
        let authority = Authority::new();
        for mode in [
            SslMode::Disable,
            SslMode::Prefer,
            SslMode::Require,
            SslMode::VerifyCa,
            SslMode::VerifyFull,
        ] {
            for auth in [
                Auth::Trust,
                Auth::Md5(Secret("secret".into())),
                Auth::ScramPassword(Secret("secret".into())),
                Auth::ScramVerifier(Secret(postgres_protocol::password::scram_sha_256(
                    b"secret",
                ))),
            ] {
                let tls = against_ourselves(auth.clone(), &authority, mode).await;
                assert_eq!(tls.unwrap(), mode != SslMode::Disable, "{auth:?} {mode:?}");
            }
            for auth in [
                Auth::Md5(Secret("other".into())),
                Auth::ScramPassword(Secret("other".into())),
            ] {
                let error = against_ourselves(auth, &authority, mode).await.unwrap_err();
                let ConnectError::Server { sqlstate, .. } = error else {
                    panic!("{error}")
                };
                assert_eq!(sqlstate, "28P01");
            }
        }
    }

    #[tokio::test]
    async fn a_cancel_request_is_sent_and_its_end_awaited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = async {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(Opening::Cancel(request)) = startup::open(
                socket.try_into().unwrap(),
                &crate::wire::tls::ClientEncryption::Disable,
                &Handshakes::here(),
            )
            .await
            else {
                panic!()
            };
            (request.process_id, request.key.clone())
        };
        // A name that leads nowhere: the peer counts.
        let elsewhere = Address {
            host: "nowhere.invalid".into(),
            port: 1,
        };
        let key = [9; 32];
        let peer = Peer::Tcp(listener.local_addr().unwrap());
        let plain = ServerEncryption::Disable;
        let timers = Timers::here();
        let (sent, received) = tokio::join!(
            cancel(
                &elsewhere,
                &peer,
                &plain,
                CancelKey {
                    process_id: 77,
                    secret: &key,
                },
                &Home::Tokio,
                &timers,
                PATIENCE
            ),
            server
        );
        sent.unwrap();
        assert_eq!(received, (77, vec![9; 32]));
        let error = cancel(
            &elsewhere,
            &peer,
            &plain,
            CancelKey {
                process_id: 77,
                secret: &[],
            },
            &Home::Tokio,
            &Timers::here(),
            PATIENCE,
        )
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(_)));
    }
}
