//! Every method against clients of other people's making.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::fixtures::{Auth, authenticate, user};
use super::scram::initial_response;
use super::*;
use crate::config::{Password, SslMode, User};
use crate::wire::handshakes::Handshakes;
use crate::wire::startup;
use crate::wire::tls::fixtures::Authority;
use crate::wire::tls::{ClientEncryption, ServerEncryption, server_end_point};

const SCRAM: &str = "SCRAM-SHA-256";
const SCRAM_PLUS: &str = "SCRAM-SHA-256-PLUS";

fn secrets(users: &[User]) -> AuthSecrets {
    AuthSecrets::new(
        &ProcessSecret::fixed(),
        users,
        &ClientEncryption::Disable,
        None,
    )
    .unwrap()
}

/// Runs `authenticate` for `name` against a client; the outcome and what the client makes of it.
async fn against<T>(
    users: &[User],
    name: &str,
    client: impl AsyncFnOnce(&mut UnixStream) -> T,
) -> (Result<(), AuthError>, T) {
    let secrets = secrets(users);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::try_from(theirs).unwrap();
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
    let error = AuthSecrets::new(
        &ProcessSecret::random(),
        &users,
        &ClientEncryption::Disable,
        None,
    )
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
    let unusual = postgres_protocol::password::scram_sha_256(b"secret").replace("$4096:", "$5000:");
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
        let hash =
            postgres_protocol::authentication::md5_hash(name.as_bytes(), password.as_bytes(), salt);
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
        let mut stream = Stream::try_from(theirs).unwrap();
        authenticate(&mut stream, user, name, &secrets).await
    };
    tokio::join!(server, client(&mut ours))
}

#[tokio::test]
async fn md5_from_a_password_and_from_its_hash() {
    let hash = postgres_protocol::password::md5(b"secret", "ann");
    for secret in ["secret", &hash] {
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
        let mut stream = Stream::try_from(theirs).unwrap();
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
    let secrets = AuthSecrets::new(&ProcessSecret::random(), &users, &encryption, None).unwrap();
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
            startup::open(socket.try_into().unwrap(), &encryption, &Handshakes::here()).await
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

/// What a login of ann has shown, when this is stored of her password.
async fn shown(stored: &Password, method: Method, password: &str) -> Option<Credential> {
    let user = User {
        auth: Some(method),
        ..User::named("ann", crate::config::Line(1), stored.clone())
    };
    let secrets = secrets(&[user]);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut stream = Stream::try_from(theirs).unwrap();
    let challenge = Challenge {
        method,
        name: "ann",
        stored: secrets.find("ann").map(|(_, stored)| stored),
        likeness: secrets.stranger(),
    };
    let client = async {
        match method {
            Method::Cleartext => {
                assert_eq!(read(&mut ours).await, (b'R', vec![0, 0, 0, 3]));
                say(&mut ours, format!("{password}\0").as_bytes()).await;
            }
            _ => {
                let unbound = ChannelBinding::unsupported();
                scram_client(&mut ours, SCRAM, password, unbound).await;
            }
        }
    };
    let (proven, ()) = tokio::join!(prove(&mut stream, challenge, &secrets), client);
    proven.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn a_login_shows_what_another_login_needs() {
    let verifier = Password::of(VERIFIER_OF_POSTGRES);
    let Some(Credential::Scram(keys)) = shown(&verifier, Method::Scram, "secret").await else {
        panic!("no keys")
    };
    // The same keys, at somebody who keeps the same verifier.
    let held = Verifier::parse(VERIFIER_OF_POSTGRES).unwrap();
    let begin = |prover: &Prover, held: &Verifier| {
        ScramServerAuth::new()
            .on_client_first_message_with_secret(
                prover.first().as_bytes(),
                held.clone().into_secret(),
            )
            .unwrap()
    };
    let mut prover = Prover::new(keys.clone(), Binding::Impossible);
    let (first, state) = begin(&prover, &held);
    let last = prover.last(first.as_bytes()).unwrap();
    let end = state.on_client_final_message(last.as_bytes()).unwrap();
    assert_eq!(prover.finish(end.as_bytes()), Ok(()));
    // One that only pretends to know it, or says no, or keeps another.
    assert_eq!(prover.finish(b"v=AAAA"), Err(ProverError::Signature));
    assert_eq!(
        prover.finish(b"e=other-error"),
        Err(ProverError::Refused("other-error".into()))
    );
    assert_eq!(
        Prover::new(keys.clone(), Binding::Impossible).finish(end.as_bytes()),
        Err(ProverError::Malformed)
    );
    let other = Verifier::derive("secret", b"another salt".to_vec());
    let mut prover = Prover::new(keys.clone(), Binding::Impossible);
    let (first, _) = begin(&prover, &other);
    assert_eq!(
        prover.last(first.as_bytes()),
        Err(ProverError::OtherVerifier)
    );
    let nonce = format!("r=x{}", &first[2..]);
    assert_eq!(prover.last(nonce.as_bytes()), Err(ProverError::Nonce));
    for malformed in ["", "r=", "r=a,s=b", "e=x", "r=a,s=%,i=1"] {
        assert!(prover.last(malformed.as_bytes()).is_err());
    }
}

#[tokio::test]
async fn the_password_itself_opens_whatever_is_stored() {
    let hash = postgres_protocol::password::md5(b"secret", "ann");
    for stored in ["secret", &hash, VERIFIER_OF_POSTGRES] {
        let shown = shown(&Password::of(stored), Method::Cleartext, "secret").await;
        assert_eq!(shown, Some(Credential::Password(Secret("secret".into()))));
    }
    for (stored, typed, said) in [
        ("secret", "Secret", "password authentication failed"),
        (&hash[..], "Secret", "password authentication failed"),
        (&hash[..], &hash[..], "password authentication failed"),
        (
            VERIFIER_OF_POSTGRES,
            "Secret",
            "password authentication failed",
        ),
        ("", "secret", "password authentication failed"),
        ("secret", "", "empty password returned by client"),
    ] {
        let mut user = user("ann", Auth::Trust);
        (user.password, user.auth) = (Password::of(stored), Some(Method::Cleartext));
        let users = [user];
        let client = async |socket: &mut UnixStream| {
            read(socket).await;
            say(socket, format!("{typed}\0").as_bytes()).await;
            String::from_utf8_lossy(&read(socket).await.1).into_owned()
        };
        let (outcome, told) = against(&users, "ann", client).await;
        assert!(
            outcome.is_err() && told.contains(said),
            "{stored} {typed}: {told}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_done_with_what_is_stored_fails_as_a_wrong_password() {
    let hash = postgres_protocol::password::md5(b"secret", "ann");
    for stored in ["", &hash] {
        let mut ann = user("ann", Auth::Trust);
        (ann.password, ann.auth) = (Password::of(stored), Some(Method::Scram));
        let other = user("bob", Auth::ScramPassword(Secret("x".into())));
        let users = [ann, other];
        let (known, wrong) = (
            failed_scram(&users, "ann").await,
            failed_scram(&users, "bob").await,
        );
        assert_eq!(visible(&known, "ann"), visible(&wrong, "bob"));
    }
}

#[test]
fn a_password_is_hashed_once_for_all_configurations() {
    let secret = ProcessSecret::random();
    let users = |password: &str| [user("ann", Auth::ScramPassword(Secret(password.into())))];
    let encryption = ClientEncryption::Disable;
    let first = AuthSecrets::new(&secret, &users("a"), &encryption, None).unwrap();
    // Another process secret would make another salt, had it been asked.
    let other = ProcessSecret::random();
    let verifier = |secrets: &AuthSecrets| secrets.find("ann").unwrap().1.verifier().cloned();
    let same = AuthSecrets::new(&other, &users("a"), &encryption, Some(&first)).unwrap();
    assert!(verifier(&first) == verifier(&same));
    let changed = AuthSecrets::new(&other, &users("b"), &encryption, Some(&first)).unwrap();
    assert!(verifier(&first) != verifier(&changed));
}

proptest! {
    #[test]
    fn no_bytes_make_the_exchange_panic(first in proptest::collection::vec(any::<u8>(), 0..80), last in "[a-z=,+/A-Z0-9]{0,60}") {
        let _ = initial_response(&first);
        let keys = Verifier::parse(VERIFIER_OF_POSTGRES).unwrap().keys_of(&[0; 32], "");
        assert!(keys.is_none(), "a proof that is none");
        let _ = Verifier::parse(&String::from_utf8_lossy(&first));
        let _ = Verifier::parse(&format!("SCRAM-SHA-256${last}"));
        let made_up = secrets(&[]).made_up("x", Likeness::Scram { iterations: 4096 });
        let _ = ScramServerAuth::new().on_client_first_message_with_secret(&first, made_up.clone().into_secret());
        let begun = ScramServerAuth::new().on_client_first_message_with_secret(b"n,,n=,r=a", made_up.into_secret());
        let (server_first, state) = begun.unwrap();
        let _ = state.on_client_final_message(&first);
        let _ = state.on_client_final_message(last.as_bytes());
        let nonce = server_first.split(',').next().unwrap();
        let _ = state.on_client_final_message(format!("c=biws,{nonce},p={last}").as_bytes());
    }
}
