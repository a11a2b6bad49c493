//! A client proves who it is: trust, md5 or SCRAM-SHA-256.
//!
//! A user that does not exist is taken through the same exchange as one that does, with a salt that stays the same from try
//! to try, and fails at the same place with the same words: who may log in cannot be found out by asking.
//! Sources: RFC 5802, RFC 7677, <https://www.postgresql.org/docs/current/sasl-authentication.html>, Postgres `auth-scram.c`.

use std::collections::{BTreeMap, HashMap};
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{
    SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password,
};
use pgwire::error::PgWireError;
use ring::hmac;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{self, Report, Severity};
use super::message::Cursor;
use super::stream::Stream;
use super::tls::ClientEncryption;
use crate::config::{Auth, Secret, User};

/// Longest message that is read before the client has proven who it is.
const MAX_MESSAGE: usize = 65_535;
/// As many as Postgres puts into a verifier.
const SALT_LENGTH: usize = 16;
/// Of SHA-256, and so of StoredKey and ServerKey.
const KEY_LENGTH: usize = 32;

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why a client is not let in. It has been told so, where it could be.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A wrong password or an unknown user; the client cannot tell which.
    #[error("password authentication failed for user \"{0}\"")]
    Failed(String),
    #[error("expected password response, got message type {0}")]
    MessageType(u8),
    #[error("invalid message length")]
    Length,
    #[error("invalid password packet size")]
    PasswordPacket,
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error("malformed SCRAM message")]
    Scram,
    /// psql does this to ask its user for the password first.
    #[error("the client closed the connection during authentication")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AuthError {
    fn report<'a>(&self, message: &'a str) -> Option<Report<'a>> {
        let sqlstate = match self {
            AuthError::Failed(_) => "28P01",
            AuthError::MessageType(_)
            | AuthError::Length
            | AuthError::PasswordPacket
            | AuthError::Mechanism
            | AuthError::Scram => "08P01",
            AuthError::Closed | AuthError::Io(_) => return None,
        };
        Some(Report::new(Severity::Fatal, sqlstate, message))
    }
}

/// The configured verifier of a user cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user \"{user}\": the SCRAM verifier must be SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, with base64 fields and keys of 32 bytes"
)]
pub struct BadVerifier {
    pub user: String,
}

/// A random secret that lasts as long as the process, so that made-up salts do not change between tries and reloads.
#[derive(Clone)]
pub struct ProcessSecret([u8; 32]);

impl ProcessSecret {
    pub fn random() -> Self {
        ProcessSecret(rand::random())
    }
}

/// What the users of one configuration are checked against. Built once per configuration.
pub struct AuthSecrets {
    key: hmac::Key,
    verifiers: HashMap<String, Verifier>,
    unknown: UnknownUser,
    /// Without and, where a certificate allows it, with channel binding.
    scram: ScramServerAuth,
    scram_plus: Option<ScramServerAuth>,
}

/// What a server keeps in `pg_authid` instead of a password.
#[derive(Clone)]
struct Verifier {
    salt: Vec<u8>,
    iterations: usize,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
}

/// How a user that does not exist is asked for its password: as most of those that do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnknownUser {
    Scram { iterations: usize },
    Md5,
}

impl AuthSecrets {
    /// Derives a verifier from each plain password (about a millisecond each), so that a login costs a few hashes only.
    pub fn new(
        secret: &ProcessSecret,
        users: &[User],
        encryption: &ClientEncryption,
    ) -> Result<Self, BadVerifier> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
        let mut verifiers = HashMap::new();
        for user in users {
            let verifier = match &user.auth {
                Auth::Trust | Auth::Md5(_) => continue,
                Auth::ScramPassword(Secret(password)) => {
                    Verifier::derive(password, made_up_salt(&key, &user.name))
                }
                Auth::ScramVerifier(Secret(text)) => {
                    Verifier::parse(text).ok_or_else(|| BadVerifier {
                        user: user.name.clone(),
                    })?
                }
            };
            verifiers.insert(user.name.clone(), verifier);
        }
        let unknown = UnknownUser::like(users, &verifiers);
        let scram_plus = encryption.certificate_pem().and_then(|pem| {
            let mut scram = ScramServerAuth::new();
            // A certificate whose signature names no hash has no channel binding; plain SCRAM is offered then.
            scram.configure_certificate(pem).ok().map(|()| scram)
        });
        Ok(AuthSecrets {
            key,
            verifiers,
            unknown,
            scram: ScramServerAuth::new(),
            scram_plus,
        })
    }

    /// The user's verifier, or one that no password opens. Made up for every name, so that both take the same time.
    fn verifier(&self, name: &str) -> Verifier {
        let iterations = match self.unknown {
            UnknownUser::Scram { iterations } => iterations,
            UnknownUser::Md5 => SCRAM_ITERATIONS,
        };
        let made_up = Verifier {
            salt: made_up_salt(&self.key, name),
            iterations,
            stored_key: rand::random::<[u8; KEY_LENGTH]>().to_vec(),
            server_key: rand::random::<[u8; KEY_LENGTH]>().to_vec(),
        };
        self.verifiers.get(name).cloned().unwrap_or(made_up)
    }
}

fn made_up_salt(key: &hmac::Key, name: &str) -> Vec<u8> {
    hmac::sign(key, name.as_bytes()).as_ref()[..SALT_LENGTH].to_vec()
}

impl UnknownUser {
    /// The most frequent iteration count, because any other would give the stranger away.
    fn like(users: &[User], verifiers: &HashMap<String, Verifier>) -> Self {
        let mut counts = BTreeMap::new();
        for verifier in verifiers.values() {
            *counts.entry(verifier.iterations).or_insert(0usize) += 1;
        }
        let md5 = users
            .iter()
            .filter(|user| matches!(user.auth, Auth::Md5(_)))
            .count();
        if md5 > verifiers.len() {
            return UnknownUser::Md5;
        }
        let most_frequent = counts.into_iter().max_by_key(|&(_, count)| count);
        UnknownUser::Scram {
            iterations: most_frequent.map_or(SCRAM_ITERATIONS, |(iterations, _)| iterations),
        }
    }
}

impl Verifier {
    /// Normalizes the password as Postgres does: SASLprep, or the bytes as they are where that fails.
    fn derive(password: &str, salt: Vec<u8>) -> Self {
        let salted = gen_salted_password(password, &salt, SCRAM_ITERATIONS);
        match ScramSecret::verifier_from_salted_password(salt, salted, SCRAM_ITERATIONS) {
            ScramSecret::Verifier {
                salt,
                iterations,
                stored_key,
                server_key,
            } => Verifier {
                salt,
                iterations,
                stored_key,
                server_key,
            },
            ScramSecret::SaltedPassword { .. } => unreachable!("it was asked for a verifier"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (iterations_and_salt, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = iterations_and_salt.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let verifier = Verifier {
            // Clients read it as a positive 32-bit number.
            iterations: iterations
                .parse::<i32>()
                .ok()
                .filter(|&count| count > 0)?
                .try_into()
                .ok()?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: STANDARD.decode(stored_key).ok()?,
            server_key: STANDARD.decode(server_key).ok()?,
        };
        let keys_fit =
            verifier.stored_key.len() == KEY_LENGTH && verifier.server_key.len() == KEY_LENGTH;
        (keys_fit && !verifier.salt.is_empty()).then_some(verifier)
    }

    fn into_secret(self) -> ScramSecret {
        ScramSecret::Verifier {
            salt: self.salt,
            iterations: self.iterations,
            stored_key: self.stored_key,
            server_key: self.server_key,
        }
    }
}

/// Lets the client prove that it is `name`; `user` is the configured user of that name, if there is one, and `secrets`
/// were built from the same configuration.
///
/// AuthenticationOk is left to the caller, who has more to send with it. On an error the client has been told; the
/// connection is of no further use. The caller bounds the time.
pub async fn authenticate(
    stream: &mut Stream,
    user: Option<&User>,
    name: &str,
    secrets: &AuthSecrets,
) -> Result<(), AuthError> {
    let outcome = match (user.map(|user| &user.auth), secrets.unknown) {
        (Some(Auth::Trust), _) => Ok(()),
        (Some(Auth::Md5(secret)), _) => md5(stream, name, Some(secret)).await,
        (None, UnknownUser::Md5) => md5(stream, name, None).await,
        (Some(Auth::ScramPassword(_) | Auth::ScramVerifier(_)), _)
        | (None, UnknownUser::Scram { .. }) => scram(stream, name, secrets).await,
    };
    if let Err(error) = &outcome {
        let message = error.to_string();
        if let Some(report) = error.report(&message) {
            let mut out = Vec::new();
            answer::error_response(&mut out, &report);
            stream.refuse(&out).await;
        }
    }
    outcome
}

async fn md5(stream: &mut Stream, name: &str, secret: Option<&Secret>) -> Result<(), AuthError> {
    let salt: [u8; 4] = rand::random();
    let mut out = Vec::new();
    answer::authentication_md5(&mut out, salt);
    send(stream, &out).await?;

    let body = read_response(stream).await?;
    let mut cursor = Cursor::new(&body);
    let answered = cursor.string().map_err(|_| AuthError::PasswordPacket)?;
    cursor.end().map_err(|_| AuthError::PasswordPacket)?;

    // For a stranger too, so that both take the same time.
    let made_up = Secret(String::new());
    let expected = md5_response(secret.unwrap_or(&made_up), name, salt);
    let equal = bool::from(expected.as_bytes().ct_eq(answered));
    if equal && secret.is_some() {
        Ok(())
    } else {
        Err(AuthError::Failed(name.to_owned()))
    }
}

/// `md5` and the hex of md5(hex of md5(password, user), salt). The secret is the password or the inner hash, as `md5` and its hex.
fn md5_response(Secret(secret): &Secret, name: &str, salt: [u8; 4]) -> String {
    match secret
        .strip_prefix("md5")
        .filter(|hex| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        Some(hex) => {
            let mut salted = hex.to_ascii_lowercase().into_bytes();
            salted.extend_from_slice(&salt);
            postgres_protocol::password::md5(&salted, "")
        }
        None => {
            postgres_protocol::authentication::md5_hash(name.as_bytes(), secret.as_bytes(), salt)
        }
    }
}

async fn scram(stream: &mut Stream, name: &str, secrets: &AuthSecrets) -> Result<(), AuthError> {
    let plus = secrets.scram_plus.as_ref().filter(|_| stream.is_tls());
    let mut out = Vec::new();
    match plus {
        Some(_) => answer::authentication_sasl(&mut out, &[SCRAM_PLUS, SCRAM]),
        None => answer::authentication_sasl(&mut out, &[SCRAM]),
    }
    send(stream, &out).await?;

    let body = read_response(stream).await?;
    let (binding, client_first) = initial_response(&body)?;
    match (binding, plus) {
        (Binding::Used, None) => return Err(AuthError::Mechanism),
        // The first letter says whether the client binds; it has to fit the mechanism it chose.
        (Binding::Used, Some(_)) if client_first.first() != Some(&b'p') => {
            return Err(AuthError::Scram);
        }
        (Binding::Unused, _) if client_first.first() == Some(&b'p') => {
            return Err(AuthError::Scram);
        }
        _ => {}
    }
    let state = plus.unwrap_or(&secrets.scram);
    let verifier = secrets.verifier(name).into_secret();
    let (server_first, state) = state
        .on_client_first_message_with_secret(client_first, verifier)
        .map_err(|_| AuthError::Scram)?;
    out.clear();
    answer::authentication_sasl_continue(&mut out, server_first.as_bytes());
    send(stream, &out).await?;

    let client_final = read_response(stream).await?;
    // Its last comparison is of SHA-256(client's key) with StoredKey. It is not constant in time, but what is hashed is
    // the proof mixed with an HMAC under StoredKey, so a client cannot steer the bytes that are compared.
    let server_final =
        state
            .on_client_final_message(&client_final)
            .map_err(|error| match error {
                PgWireError::InvalidPassword(_) => AuthError::Failed(name.to_owned()),
                _ => AuthError::Scram,
            })?;
    out.clear();
    answer::authentication_sasl_final(&mut out, server_final.as_bytes());
    send(stream, &out).await
}

/// Whether the client ties the exchange to the TLS connection it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binding {
    Used,
    Unused,
}

/// SASLInitialResponse: the mechanism's name, a length, and so many bytes.
fn initial_response(body: &[u8]) -> Result<(Binding, &[u8]), AuthError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.string().map_err(|_| AuthError::Scram)?;
    let binding = match mechanism {
        name if name == SCRAM.as_bytes() => Binding::Unused,
        name if name == SCRAM_PLUS.as_bytes() => Binding::Used,
        _ => return Err(AuthError::Mechanism),
    };
    // -1, no response yet, is allowed by SASL in general but makes no sense in SCRAM, where the client begins.
    let length = cursor
        .int32()
        .ok()
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(AuthError::Scram)?;
    let response = cursor.take(length).map_err(|_| AuthError::Scram)?;
    cursor.end().map_err(|_| AuthError::Scram)?;
    Ok((binding, response))
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), AuthError> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}

/// The body of the one message type that is allowed before authentication. Nothing is buffered before its length is known to be small.
async fn read_response(stream: &mut Stream) -> Result<Vec<u8>, AuthError> {
    let mut header = [0; 5];
    if stream.read(&mut header[..1]).await? == 0 {
        return Err(AuthError::Closed);
    }
    if header[0] != b'p' {
        return Err(AuthError::MessageType(header[0]));
    }
    stream.read_exact(&mut header[1..]).await?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let length = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .ok_or(AuthError::Length)?;
    if length > MAX_MESSAGE {
        return Err(AuthError::Length);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Line, SslMode};
    use crate::wire::startup;
    use crate::wire::tls::fixtures::Authority;
    use crate::wire::tls::{ServerEncryption, server_end_point};
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use proptest::prelude::*;
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    fn user(name: &str, auth: Auth) -> User {
        User {
            line: Line(1),
            name: name.into(),
            auth,
            admin: false,
            server_user: name.into(),
            server_password: None,
            pool_mode: None,
            pool_size: None,
        }
    }

    fn secrets(users: &[User]) -> AuthSecrets {
        AuthSecrets::new(&ProcessSecret([7; 32]), users, &ClientEncryption::Disable).unwrap()
    }

    /// Runs `authenticate` for `name` against a client; the outcome and what the client makes of it.
    async fn against<T>(
        users: &[User],
        name: &str,
        client: impl AsyncFnOnce(&mut UnixStream) -> T,
    ) -> (Result<(), AuthError>, T) {
        let secrets = secrets(users);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(theirs);
        let user = users.iter().find(|user| user.name == name);
        tokio::join!(
            authenticate(&mut stream, user, name, &secrets),
            client(&mut ours)
        )
    }

    async fn read(socket: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
        let kind = socket.read_u8().await.unwrap();
        let mut body = vec![0; socket.read_u32().await.unwrap() as usize - 4];
        socket.read_exact(&mut body).await.unwrap();
        (kind, body)
    }

    async fn say(socket: &mut (impl AsyncWrite + Unpin), body: &[u8]) {
        let mut out = Vec::new();
        answer::message(&mut out, b'p', |out| out.extend_from_slice(body));
        socket.write_all(&out).await.unwrap();
        socket.flush().await.unwrap();
    }

    fn initial(mechanism: &str, response: &[u8]) -> Vec<u8> {
        [
            mechanism.as_bytes(),
            b"\0",
            &(response.len() as u32).to_be_bytes(),
            response,
        ]
        .concat()
    }

    /// postgres-protocol's side of SCRAM: the messages it got, and whether it is sure of the server.
    async fn scram_client(
        socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
        mechanism: &str,
        password: &str,
        binding: ChannelBinding,
    ) -> (Vec<(u8, Vec<u8>)>, bool) {
        let mut got = vec![read(socket).await];
        let mut scram = ScramSha256::new(password.as_bytes(), binding);
        say(socket, &initial(mechanism, scram.message())).await;
        got.push(read(socket).await);
        if got[1].0 == b'E' {
            return (got, false);
        }
        scram.update(&got[1].1[4..]).unwrap();
        say(socket, scram.message()).await;
        got.push(read(socket).await);
        let sure = got[2].0 == b'R' && scram.finish(&got[2].1[4..]).is_ok();
        (got, sure)
    }

    async fn scram_login(auth: Auth, password: &str) -> (Result<(), AuthError>, bool) {
        let users = [user("ann", auth)];
        let client = async |socket: &mut UnixStream| {
            scram_client(socket, SCRAM, password, ChannelBinding::unsupported())
                .await
                .1
        };
        against(&users, "ann", client).await
    }

    #[tokio::test]
    async fn scram_from_a_password_and_from_a_verifier() {
        let verifier = postgres_protocol::password::scram_sha_256("p\u{e4}ss".as_bytes());
        for auth in [
            Auth::ScramPassword(Secret("p\u{e4}ss".into())),
            Auth::ScramVerifier(Secret(verifier)),
        ] {
            assert!(matches!(
                scram_login(auth.clone(), "p\u{e4}ss").await,
                (Ok(()), true)
            ));
            assert!(matches!(
                scram_login(auth, "other").await,
                (Err(AuthError::Failed(_)), false)
            ));
        }
    }

    /// Made by Postgres 15: `SET password_encryption = 'scram-sha-256'; CREATE ROLE ann PASSWORD 'secret'`.
    const VERIFIER_OF_POSTGRES: &str = "SCRAM-SHA-256$4096:TbY5TDbzt80LAPGhxJHMWg==$/cOX3zwXyF9UxYgeEseUK3e/8klBF0xdFKSOiHfvjF0=:iXNBLDExaij77VLIPwEeIzDa+XWTV6LQhEJS+BUFivw=";

    #[tokio::test]
    async fn a_verifier_that_postgres_made() {
        let auth = Auth::ScramVerifier(Secret(VERIFIER_OF_POSTGRES.into()));
        assert!(matches!(
            scram_login(auth.clone(), "secret").await,
            (Ok(()), true)
        ));
        assert!(matches!(scram_login(auth, "Secret").await, (Err(_), false)));
    }

    #[tokio::test]
    async fn passwords_are_prepared_as_postgres_does() {
        // SASLprep drops the soft hyphen, makes the Roman nine two letters, and leaves alone what it forbids.
        for (configured, typed) in [
            ("I\u{ad}X", "IX"),
            ("\u{2168}", "IX"),
            ("a\u{7}b", "a\u{7}b"),
        ] {
            let outcome = scram_login(Auth::ScramPassword(Secret(configured.into())), typed).await;
            assert!(matches!(outcome, (Ok(()), true)), "{configured:?}");
        }
    }

    #[test]
    fn only_verifiers_are_taken_for_verifiers() {
        let good = postgres_protocol::password::scram_sha_256(b"x");
        assert!(Verifier::parse(&good).is_some());
        let key = STANDARD.encode([0; 32]);
        for bad in [
            String::new(),
            "secret".into(),
            good.replace("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
            good.replace("$4096:", "$0:"),
            good.replace("$4096:", "$-1:"),
            good.replace("$4096:", "$99999999999:"),
            format!("SCRAM-SHA-256$4096:${key}:{key}"),
            format!("SCRAM-SHA-256$4096:AAAA${key}"),
            format!("SCRAM-SHA-256$4096:AAAA${key}:AAAA"),
            format!("SCRAM-SHA-256$4096:%${key}:{key}"),
        ] {
            assert!(Verifier::parse(&bad).is_none(), "{bad}");
        }
        let users = [user("ann", Auth::ScramVerifier(Secret("secret".into())))];
        let error = AuthSecrets::new(&ProcessSecret::random(), &users, &ClientEncryption::Disable)
            .err()
            .unwrap();
        assert_eq!(error.user, "ann");
    }

    /// What a client can see of a failed login, without what is random in every one.
    fn visible(got: &[(u8, Vec<u8>)], name: &str) -> Vec<(u8, usize, String)> {
        got.iter()
            .map(|(kind, body)| {
                let text = String::from_utf8_lossy(body).replace(name, "<name>");
                let text = match text.split_once(",s=") {
                    // The nonces differ; the salt is of the same length, the count is the same.
                    Some((_, salt_and_count)) => {
                        let (salt, count) = salt_and_count.split_once(',').unwrap();
                        format!("{} {count}", salt.len())
                    }
                    None => text,
                };
                (*kind, body.len(), text)
            })
            .collect()
    }

    async fn failed_scram(users: &[User], name: &str) -> Vec<(u8, Vec<u8>)> {
        let client = async |socket: &mut UnixStream| {
            let got = scram_client(socket, SCRAM, "wrong", ChannelBinding::unsupported())
                .await
                .0;
            assert_eq!(
                socket.read(&mut [0]).await.unwrap(),
                0,
                "the connection must end"
            );
            got
        };
        let (outcome, got) = against(users, name, client).await;
        assert!(matches!(outcome, Err(AuthError::Failed(failed)) if failed == name));
        got
    }

    fn salt(got: &[(u8, Vec<u8>)]) -> String {
        let text = String::from_utf8_lossy(&got[1].1);
        text.split_once(",s=")
            .unwrap()
            .1
            .split_once(',')
            .unwrap()
            .0
            .to_owned()
    }

    #[tokio::test]
    async fn a_stranger_looks_like_a_wrong_password() {
        let unusual =
            postgres_protocol::password::scram_sha_256(b"secret").replace("$4096:", "$5000:");
        let password = Auth::ScramPassword(Secret("secret".into()));
        let all = [
            vec![user("ann", password.clone())],
            vec![user("ann", Auth::ScramVerifier(Secret(unusual)))],
            vec![
                user("ann", password),
                user("md5", Auth::Md5(Secret("x".into()))),
                user("t", Auth::Trust),
            ],
        ];
        for users in all {
            let (known, stranger) = (
                failed_scram(&users, "ann").await,
                failed_scram(&users, "bob").await,
            );
            assert_eq!(visible(&known, "ann"), visible(&stranger, "bob"));
            let told = String::from_utf8_lossy(&stranger[2].1).into_owned();
            assert!(
                told.contains("C28P01\0Mpassword authentication failed for user \"bob\"\0"),
                "{told:?}"
            );
            assert_eq!(
                salt(&stranger),
                salt(&failed_scram(&users, "bob").await),
                "a salt that changes is made up"
            );
            assert_eq!(salt(&known), salt(&failed_scram(&users, "ann").await));
            assert_ne!(salt(&stranger), salt(&failed_scram(&users, "eve").await));
        }
    }

    async fn md5_login(
        users: &[User],
        name: &str,
        password: &str,
    ) -> (Result<(), AuthError>, Vec<(u8, Vec<u8>)>) {
        let client = async |socket: &mut UnixStream| {
            let mut got = vec![read(socket).await];
            let salt = got[0].1[4..].try_into().unwrap();
            let hash = postgres_protocol::authentication::md5_hash(
                name.as_bytes(),
                password.as_bytes(),
                salt,
            );
            say(socket, format!("{hash}\0").as_bytes()).await;
            let mut rest = [0; 5];
            if socket.read_exact(&mut rest).await.is_ok() {
                let mut body = Vec::new();
                socket.read_to_end(&mut body).await.unwrap();
                got.push((rest[0], body));
            }
            got
        };
        let secrets = secrets(users);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let user = users.iter().find(|user| user.name == name);
        let server = async {
            let mut stream = Stream::from(theirs);
            authenticate(&mut stream, user, name, &secrets).await
        };
        tokio::join!(server, client(&mut ours))
    }

    #[tokio::test]
    async fn md5_from_a_password_and_from_its_hash() {
        let hash = postgres_protocol::password::md5(b"secret", "ann");
        let upper = format!("md5{}", hash[3..].to_uppercase());
        for secret in ["secret", &hash, &upper] {
            let users = [user("ann", Auth::Md5(Secret(secret.into())))];
            let (outcome, got) = md5_login(&users, "ann", "secret").await;
            assert!(outcome.is_ok() && got.len() == 1, "{secret}");
            let (known, told_known) = md5_login(&users, "ann", "wrong").await;
            assert!(matches!(known, Err(AuthError::Failed(_))));
            // All users have md5 here, so a stranger is asked for it as well.
            for password in ["wrong", ""] {
                let (stranger, told_stranger) = md5_login(&users, "bob", password).await;
                assert!(matches!(stranger, Err(AuthError::Failed(_))));
                let text = |told: &[(u8, Vec<u8>)]| String::from_utf8(told[1].1.clone()).unwrap();
                assert_eq!(told_stranger[0].1[..4], told_known[0].1[..4]);
                assert_eq!(
                    text(&told_stranger).replace("bob", "ann"),
                    text(&told_known)
                );
            }
        }
    }

    #[tokio::test]
    async fn trust_says_nothing() {
        let users = [user("ann", Auth::Trust)];
        let (outcome, ()) = against(&users, "ann", async |_: &mut UnixStream| ()).await;
        outcome.unwrap();
    }

    /// What is answered to these bytes, sent in place of a password.
    async fn answered(auth: Auth, words: &[u8]) -> (AuthError, String) {
        let users = [user("ann", auth)];
        let secrets = secrets(&users);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = async {
            let mut stream = Stream::from(theirs);
            authenticate(&mut stream, Some(&users[0]), "ann", &secrets)
                .await
                .unwrap_err()
        };
        let client = async {
            read(&mut ours).await;
            ours.write_all(words).await.unwrap();
            let mut told = Vec::new();
            ours.read_to_end(&mut told).await.unwrap();
            String::from_utf8_lossy(&told).into_owned()
        };
        let both = async { tokio::join!(server, client) };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, both)
            .await
            .expect("an answer")
    }

    #[tokio::test]
    async fn nothing_but_a_small_password_message_is_read() {
        let gigabyte = [0x40, 0, 0, 0];
        let cases: [(&[u8], &str); 8] = [
            (&[b"Q", &gigabyte[..]].concat(), "MessageType"), // announced, never sent: nobody waits for it
            (b"Q\0\0\0\x0dSELECT 1\0", "MessageType"),
            (b"F", "MessageType"),
            (b"\xff", "MessageType"),
            (&[b"p", &gigabyte[..]].concat(), "Length"),
            (b"p\0\x01\0\x04", "Length"), // 65,536 bytes
            (b"p\0\0\0\x03", "Length"),
            (b"p\xff\xff\xff\xff", "Length"),
        ];
        for auth in [
            Auth::Md5(Secret("x".into())),
            Auth::ScramPassword(Secret("x".into())),
        ] {
            for (words, expected) in cases {
                let (error, told) = answered(auth.clone(), words).await;
                assert!(
                    format!("{error:?}").starts_with(expected),
                    "{words:?}: {error:?}"
                );
                assert!(told.contains("SFATAL\0VFATAL\0C08P01\0"), "{told:?}");
            }
        }
    }

    #[tokio::test]
    async fn malformed_passwords_and_responses_are_refused() {
        for (words, expected) in [
            (&b"p\0\0\0\x04"[..], "PasswordPacket"),
            (b"p\0\0\0\x07md5", "PasswordPacket"),
            (b"p\0\0\0\x09a\0b\0c", "PasswordPacket"),
            (b"p\0\0\0\x05\0", "Failed"),
        ] {
            let (error, _) = answered(Auth::Md5(Secret("x".into())), words).await;
            assert!(
                format!("{error:?}").starts_with(expected),
                "{words:?}: {error:?}"
            );
        }
        let bodies: [(&[u8], &str); 12] = [
            (b"", "Scram"),
            (b"SCRAM-SHA-256", "Scram"),
            (b"SCRAM-SHA-256\0", "Scram"),
            (b"SCRAM-SHA-256\0\xff\xff\xff\xff", "Scram"),
            (b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=a", "Scram"),
            (b"SCRAM-SHA-256\0\0\0\0\x02n,,n=,r=a", "Scram"),
            (&initial(SCRAM, b""), "Scram"),
            (&initial(SCRAM, b"p=tls-server-end-point,,n=,r=a"), "Scram"),
            (&initial(SCRAM, b"n,,n=\xff,r=a"), "Scram"),
            (&initial(SCRAM, b"n,,m=x,n=,r=a"), "Scram"),
            (
                &initial(SCRAM_PLUS, b"p=tls-server-end-point,,n=,r=a"),
                "Mechanism",
            ),
            (&initial("PLAIN", b"\0ann\0x"), "Mechanism"),
        ];
        for (body, expected) in bodies {
            let mut words = Vec::new();
            answer::message(&mut words, b'p', |out| out.extend_from_slice(body));
            let (error, told) = answered(Auth::ScramPassword(Secret("x".into())), &words).await;
            assert!(
                format!("{error:?}").starts_with(expected),
                "{body:?}: {error:?}"
            );
            assert!(told.contains("C08P01\0"));
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_to_ask_its_user_is_not_told() {
        let users = [user("ann", Auth::ScramPassword(Secret("x".into())))];
        let client = async |socket: &mut UnixStream| {
            read(socket).await;
            socket.shutdown().await.unwrap();
            socket.try_read(&mut [0]).map_err(|error| error.kind())
        };
        let (outcome, told) = against(&users, "ann", client).await;
        assert!(matches!(outcome, Err(AuthError::Closed)));
        assert_eq!(told, Err(io::ErrorKind::WouldBlock));
    }

    /// A SCRAM login over TLS; `bind` makes the binding from the hash of the server's certificate.
    async fn tls_login(
        mechanism: &str,
        bind: fn(Vec<u8>) -> ChannelBinding,
    ) -> (Result<(), AuthError>, bool) {
        let authority = Authority::new();
        let encryption = authority.offered(&["localhost"]);
        let ServerEncryption::Require(connector) = authority.trusted(SslMode::VerifyFull) else {
            panic!()
        };
        let users = [user("ann", Auth::ScramPassword(Secret("secret".into())))];
        let secrets = AuthSecrets::new(&ProcessSecret::random(), &users, &encryption).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket
                .write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])
                .await
                .unwrap();
            assert_eq!(socket.read_u8().await.unwrap(), b'S');
            let mut tls = connector.connect("localhost", socket).await.unwrap();
            tls.write_all(b"\0\0\0\x12\0\x03\0\0user\0ann\0\0")
                .await
                .unwrap();
            tls.flush().await.unwrap();
            let hash = server_end_point(&tls.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
            scram_client(&mut tls, mechanism, "secret", bind(hash))
                .await
                .1
        };
        let server = async {
            let socket = listener.accept().await.unwrap().0;
            let Ok(startup::Opening::Session(mut startup)) =
                startup::open(socket.into(), &encryption).await
            else {
                panic!()
            };
            authenticate(&mut startup.stream, Some(&users[0]), "ann", &secrets).await
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn scram_is_bound_to_the_tls_connection() {
        assert!(matches!(
            tls_login(SCRAM_PLUS, ChannelBinding::tls_server_end_point).await,
            (Ok(()), true)
        ));
        assert!(matches!(
            tls_login(SCRAM, |_| ChannelBinding::unsupported()).await,
            (Ok(()), true)
        ));
        // Another certificate's hash: somebody sits in the middle.
        let other = |_| ChannelBinding::tls_server_end_point(vec![0; 32]);
        assert!(matches!(
            tls_login(SCRAM_PLUS, other).await,
            (Err(AuthError::Scram), false)
        ));
        // "You do not offer it": somebody took it off the list.
        assert!(matches!(
            tls_login(SCRAM, |_| ChannelBinding::unrequested()).await,
            (Err(AuthError::Scram), false)
        ));
        // A mechanism and a first letter that do not fit.
        assert!(matches!(
            tls_login(SCRAM_PLUS, |_| ChannelBinding::unsupported()).await,
            (Err(AuthError::Scram), false)
        ));
        assert!(matches!(
            tls_login(SCRAM, ChannelBinding::tls_server_end_point).await,
            (Err(AuthError::Scram), false)
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_exchange_panic(first in proptest::collection::vec(any::<u8>(), 0..80), last in "[a-z=,+/A-Z0-9]{0,60}") {
            let _ = initial_response(&first);
            let _ = Verifier::parse(&String::from_utf8_lossy(&first));
            let _ = Verifier::parse(&format!("SCRAM-SHA-256${last}"));
            let made_up = secrets(&[]).verifier("x");
            let _ = ScramServerAuth::new().on_client_first_message_with_secret(&first, made_up.clone().into_secret());
            let begun = ScramServerAuth::new().on_client_first_message_with_secret(b"n,,n=,r=a", made_up.into_secret());
            let (server_first, state) = begun.unwrap();
            let _ = state.on_client_final_message(&first);
            let _ = state.on_client_final_message(last.as_bytes());
            let nonce = server_first.split(',').next().unwrap();
            let _ = state.on_client_final_message(format!("c=biws,{nonce},p={last}").as_bytes());
        }
    }
}
