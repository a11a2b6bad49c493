//! Logins between Trunkline's wire room and the real thing: to a Postgres server, and from psql.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use trunkline::backend::connect::{
    Address, CancelKey, ConnectError, Connected, Login, cancel, connect,
};
use trunkline::backend::replication::{
    Event, Limits, PublicationName, ReplicationConnection, SlotName, StreamRequest,
};
use trunkline::config::{
    Certificate, CertificateDemand, ClientTls, Line, Method, Offer, Password, Secret, ServerTls,
    SslMode, User,
};
use trunkline::wire::answer::{self, TransactionStatus};
use trunkline::wire::auth::{AuthSecrets, Challenge, Credential, ProcessSecret, prove};
use trunkline::wire::handshakes::Handshakes;
use trunkline::wire::message;
use trunkline::wire::replication::{Lsn, Message};
use trunkline::wire::socket::Home;
use trunkline::wire::startup::{self, Opening};
use trunkline::wire::stream::Stream;
use trunkline::wire::timers::Timers;
use trunkline::wire::tls::{ClientEncryption, ServerEncryption};

const PATIENCE: Duration = Duration::from_secs(30);

/// The roles; each may log in by the method of its name.
const METHODS: [(&str, &str); 4] = [
    ("trust", "trust"),
    ("cleartext", "password"),
    ("md5", "md5"),
    ("scram", "scram-sha-256"),
];

/// A server of its own, stopped and removed in the end.
struct Postgres {
    directory: TempDir,
    port: u16,
    owner: Option<(u32, u32)>,
}

impl Postgres {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        // Postgres refuses to run as root.
        let owner = nix::unistd::geteuid().is_root().then(|| {
            let user = ["postgres", "nobody"]
                .iter()
                .find_map(|name| nix::unistd::User::from_name(name).unwrap())
                .expect("a user to run Postgres as");
            nix::unistd::chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
            (user.uid.as_raw(), user.gid.as_raw())
        });
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = Postgres {
            directory,
            port,
            owner,
        };
        let data = server.path("data");
        server.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"],
        );
        server.certificate("rsa:2048", "-sha256");
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = off\nwal_level = logical\nssl = on\n\
             ssl_cert_file = '{}'\nssl_key_file = '{}'\n",
            server.directory.path().display(),
            server.path("server.pem"),
            server.path("server.key"),
        );
        std::fs::write(
            server.directory.path().join("data/postgresql.auto.conf"),
            settings,
        )
        .unwrap();
        let mut rules =
            "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n".to_owned();
        for (role, method) in METHODS {
            rules += &format!("local all {role} {method}\nhost all {role} 127.0.0.1/32 {method}\n");
        }
        std::fs::write(server.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        server.run(
            "pg_ctl",
            &["-D", &data, "-w", "-l", &server.path("log"), "start"],
        );
        for (role, _) in METHODS {
            let encryption = if role == "md5" {
                "md5"
            } else {
                "scram-sha-256"
            };
            server.sql(&format!(
                "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN PASSWORD 'I\u{ad}X p\u{e4}ss'"
            ));
        }
        server
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .current_dir(self.directory.path());
        if let Some((uid, gid)) = self.owner {
            command.gid(gid).uid(uid);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self
            .command(binaries().join(program))
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    fn sql(&self, text: &str) -> String {
        let output = self
            .command(binaries().join("psql"))
            .args([
                "-X",
                "-h",
                self.directory.path().to_str().unwrap(),
                "-p",
                &self.port.to_string(),
            ])
            .args(["-U", "postgres", "-At", "-c", text])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{text}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A new certificate, signed by itself.
    fn certificate(&self, key: &str, hash: &str) {
        let mut command = self.command("openssl");
        command.args([
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            hash,
        ]);
        match key.strip_prefix("ec:") {
            Some(curve) => command.args([
                "-newkey",
                "ec",
                "-pkeyopt",
                &format!("ec_paramgen_curve:{curve}"),
            ]),
            None => command.args(["-newkey", key]),
        };
        command.args([
            "-out",
            &self.path("server.pem"),
            "-keyout",
            &self.path("server.key"),
        ]);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn over_tcp(&self) -> Address {
        Address {
            host: "127.0.0.1".into(),
            port: self.port,
        }
    }

    fn over_unix(&self) -> Address {
        Address {
            host: self.directory.path().to_str().unwrap().into(),
            port: self.port,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.path("data");
        let _ = self
            .command(binaries().join("pg_ctl"))
            .args(["-D", &data, "-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .status();
    }
}

/// The newest Postgres of a Debian or Ubuntu, or whatever is in the path.
fn binaries() -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| Path::new("").to_owned())
}

fn login(user: &str) -> Login {
    Login {
        user: user.into(),
        // Prepared by SASLprep, this is "IX päss".
        credential: Some(Credential::Password(Secret("I\u{ad}X p\u{e4}ss".into()))),
        database: "postgres".into(),
        application_name: Some("trunkline".into()),
        parameters: vec![("datestyle".into(), "German".into())],
    }
}

fn encryption(mode: SslMode) -> ServerEncryption {
    ServerEncryption::load(&ServerTls {
        mode,
        root_certificate: None,
    })
    .unwrap()
}

fn reported<'a>(connected: &'a Connected, name: &str) -> Option<&'a str> {
    connected
        .parameters
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

#[tokio::test]
async fn a_server_lets_us_in_by_every_method() {
    let server = Postgres::start();
    for (role, _) in METHODS {
        for (address, mode, tls) in [
            (server.over_unix(), SslMode::Prefer, false),
            (server.over_unix(), SslMode::Require, false),
            (server.over_tcp(), SslMode::Disable, false),
            (server.over_tcp(), SslMode::Prefer, true),
            (server.over_tcp(), SslMode::Require, true),
        ] {
            let connected = connect(
                &address,
                &login(role),
                &encryption(mode),
                &Home::Tokio,
                &Timers::here(),
                PATIENCE,
            )
            .await;
            let connected =
                connected.unwrap_or_else(|error| panic!("{role} {mode:?} {address}: {error}"));
            assert_eq!(connected.stream.is_tls(), tls);
            assert_eq!(reported(&connected, "application_name"), Some("trunkline"));
            assert_eq!(reported(&connected, "client_encoding"), Some("UTF8"));
            assert_eq!(reported(&connected, "DateStyle"), Some("German, DMY"));
            assert_eq!(connected.secret_key.len(), 4);
        }
    }
}

#[tokio::test]
async fn a_server_refuses_in_its_own_words() {
    let server = Postgres::start();
    let refused = async |login: &Login| match connect(
        &server.over_tcp(),
        login,
        &encryption(SslMode::Prefer),
        &Home::Tokio,
        &Timers::here(),
        PATIENCE,
    )
    .await
    {
        Err(ConnectError::Server { sqlstate, .. }) => sqlstate,
        other => panic!("{other:?}"),
    };
    for role in ["cleartext", "md5", "scram"] {
        let wrong = Login {
            credential: Some(Credential::Password(Secret("wrong".into()))),
            ..login(role)
        };
        assert_eq!(refused(&wrong).await, "28P01");
        let none = Login {
            credential: None,
            ..login(role)
        };
        let error = connect(
            &server.over_tcp(),
            &none,
            &encryption(SslMode::Disable),
            &Home::Tokio,
            &Timers::here(),
            PATIENCE,
        )
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::PasswordMissing(user) if user == role));
    }
    assert_eq!(
        refused(&Login {
            database: "nowhere".into(),
            ..login("scram")
        })
        .await,
        "3D000"
    );
    assert_eq!(refused(&login("nobody")).await, "28000");
    let parameters = vec![("datestyle".into(), "of yore".into())];
    assert_eq!(
        refused(&Login {
            parameters,
            ..login("scram")
        })
        .await,
        "22023"
    );
}

#[tokio::test]
async fn scram_is_bound_to_certificates_of_every_hash() {
    let server = Postgres::start();
    for (key, hash) in [
        ("rsa:2048", "-sha1"),
        ("rsa:2048", "-sha256"),
        ("rsa:2048", "-sha384"),
        ("rsa:2048", "-sha512"),
        ("ec:prime256v1", "-sha256"),
        ("ec:prime256v1", "-sha512"),
        ("ec:secp384r1", "-sha384"),
    ] {
        server.certificate(key, hash);
        let data = server.path("data");
        server.run(
            "pg_ctl",
            &["-D", &data, "-w", "-l", &server.path("log"), "restart"],
        );
        // The server offers the bound mechanism over TLS, and it is taken whenever the hash can be made.
        let connected = connect(
            &server.over_tcp(),
            &login("scram"),
            &encryption(SslMode::Require),
            &Home::Tokio,
            &Timers::here(),
            PATIENCE,
        )
        .await;
        assert!(
            connected
                .unwrap_or_else(|error| panic!("{key} {hash}: {error}"))
                .stream
                .is_tls()
        );
    }
}

/// With a login by SCRAM that is bound to the certificate, and more changes than one record of TLS holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_changes_is_encrypted() {
    let server = Postgres::start();
    server.sql("ALTER ROLE scram REPLICATION");
    server.sql("CREATE TABLE t (id int, text text)");
    server.sql("CREATE PUBLICATION p FOR ALL TABLES");
    let slot = SlotName::new("encrypted").unwrap();
    server.sql("SELECT pg_create_logical_replication_slot('encrypted', 'pgoutput')");
    server.sql("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 2000) g");
    let (address, encryption) = (server.over_tcp(), encryption(SslMode::Require));
    let stream = tokio::spawn(async move {
        let login = login("scram");
        let connection = ReplicationConnection::open(&address, &login, &encryption, PATIENCE);
        let mut connection = connection.await.unwrap();
        let encrypted = connection
            .query("SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()")
            .await
            .unwrap();
        assert_eq!(encrypted[0].get(0), Some("t"));
        let publication = PublicationName::new("p").unwrap();
        let request = StreamRequest::new(slot, Lsn(0), publication);
        let mut stream = connection.start(&request, Limits::default()).await.unwrap();
        let mut rows = 0;
        while let Some(event) = stream.next().await.unwrap() {
            match event {
                Event::Change {
                    message: Message::Insert { .. },
                    ..
                } => rows += 1,
                Event::Change {
                    message: Message::Commit { end, .. },
                    ..
                } => {
                    stream.confirm(end).unwrap();
                    break;
                }
                _ => {}
            }
        }
        stream.finish(PATIENCE).await.unwrap();
        rows
    });
    let rows = tokio::time::timeout(PATIENCE, stream).await.unwrap();
    assert_eq!(rows.unwrap(), 2000);
}

#[tokio::test]
async fn a_cancel_request_reaches_its_statement() {
    let server = Postgres::start();
    for mode in [SslMode::Disable, SslMode::Require] {
        let encryption = encryption(mode);
        let mut connected = connect(
            &server.over_tcp(),
            &login("scram"),
            &encryption,
            &Home::Tokio,
            &Timers::here(),
            PATIENCE,
        )
        .await
        .unwrap();
        let mut query = Vec::new();
        message::encode_query(b"SELECT pg_sleep(600)", &mut query);
        connected.stream.write_all(&query).await.unwrap();
        connected.stream.flush().await.unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        while server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep'") != "1" {
            assert!(std::time::Instant::now() < deadline, "the statement never began");
        }
        cancel(
            &server.over_tcp(),
            &connected.peer,
            &encryption,
            CancelKey {
                process_id: connected.process_id,
                secret: &connected.secret_key,
            },
            &Home::Tokio,
            &Timers::here(),
            PATIENCE,
        )
        .await
        .unwrap();
        let mut answered = vec![0; 1024];
        let mut length = 0;
        while !answered[..length]
            .windows(7)
            .any(|bytes| bytes == b"C57014\0")
        {
            let read =
                tokio::time::timeout(PATIENCE, connected.stream.read(&mut answered[length..]))
                    .await;
            length += read.expect("an answer").unwrap();
        }
    }
}

fn user(name: &str, method: Method, password: Password) -> User {
    User {
        auth: Some(method),
        ..User::named(name, Line(1), password)
    }
}

/// Lets one psql in, and answers its one query with nothing.
async fn serve(listener: &TcpListener, users: &[User], encryption: &ClientEncryption) {
    let secrets = AuthSecrets::new(&ProcessSecret::random(), users, encryption, None).unwrap();
    loop {
        let socket = Stream::try_from(listener.accept().await.unwrap().0).unwrap();
        let mut startup = match startup::open(socket, encryption, &Handshakes::here()).await {
            Ok(Opening::Session(startup)) => startup,
            // psql in its mode "prefer" comes again without TLS, and with a password once it knows that it needs one.
            _ => continue,
        };
        let known = users.iter().find(|user| user.name == startup.user);
        let challenge = Challenge {
            method: known.and_then(|user| user.auth).unwrap_or(Method::Scram),
            name: &startup.user,
            stored: secrets.find(&startup.user).map(|(_, stored)| stored),
            likeness: secrets.stranger(),
        };
        if prove(&mut startup.stream, challenge, &secrets)
            .await
            .is_err()
        {
            continue;
        }
        let mut out = Vec::new();
        answer::authentication_ok(&mut out);
        answer::parameter_status(&mut out, "client_encoding", "UTF8");
        answer::parameter_status(&mut out, "server_version", "15.0");
        answer::backend_key_data(&mut out, 1, &[0; 4]);
        answer::ready_for_query(&mut out, TransactionStatus::Idle);
        startup.stream.write_all(&out).await.unwrap();
        startup.stream.flush().await.unwrap();
        let mut header = [0; 5];
        startup.stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header[0], b'Q');
        out.clear();
        answer::row_description(&mut out, &["tls"]);
        answer::data_row(
            &mut out,
            &[Some(if startup.tls { "encrypted" } else { "plain" })],
        );
        answer::command_complete(&mut out, "SHOW");
        answer::ready_for_query(&mut out, TransactionStatus::Idle);
        startup.stream.write_all(&out).await.unwrap();
        startup.stream.flush().await.unwrap();
        // Until psql is done.
        let _ = startup.stream.read(&mut [0; 4096]).await;
    }
}

#[tokio::test]
async fn psql_is_let_in_by_every_method() {
    let directory = TempDir::new().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = Certificate {
        certificate: directory.path().join("server.pem"),
        key: directory.path().join("server.key"),
    };
    std::fs::write(&files.certificate, certified.cert.pem()).unwrap();
    std::fs::write(&files.key, certified.signing_key.serialize_pem()).unwrap();
    let encryption = ClientEncryption::load(
        &ClientTls::Prefer(Offer {
            certificate: files,
            client_authorities: None,
            demand: CertificateDemand::Nothing,
        }),
        None,
    )
    .unwrap();
    let users = [
        user("trust", Method::Trust, Password::Absent),
        user(
            "md5",
            Method::Md5,
            Password::Plain(Secret("IX p\u{e4}ss".into())),
        ),
        user(
            "scram",
            Method::Scram,
            Password::Plain(Secret("I\u{ad}X p\u{e4}ss".into())),
        ),
        user("other", Method::Scram, Password::Plain(Secret("x".into()))),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let psql = async |options: &str| -> Output {
        let mut command = tokio::process::Command::new(binaries().join("psql"));
        command
            .args(["-XAtw", "-c", "SHOW tls"])
            .arg(format!("host=127.0.0.1 port={port} dbname=app {options}"));
        command
            .env("PGPASSWORD", "IX p\u{e4}ss")
            .stdin(Stdio::null());
        tokio::select! {
            output = command.output() => output.unwrap(),
            () = serve(&listener, &users, &encryption) => unreachable!("it serves for ever"),
            () = tokio::time::sleep(PATIENCE) => panic!("psql hangs: {options}"),
        }
    };
    for (options, answer) in [
        ("user=trust sslmode=disable", "plain"),
        ("user=trust sslmode=require gssencmode=prefer", "encrypted"),
        ("user=md5 sslmode=disable", "plain"),
        ("user=md5 sslmode=require", "encrypted"),
        ("user=scram sslmode=disable", "plain"),
        ("user=scram sslmode=prefer", "encrypted"),
        (
            "user=scram sslmode=require channel_binding=disable",
            "encrypted",
        ),
        (
            "user=scram sslmode=require channel_binding=require",
            "encrypted",
        ),
    ] {
        let output = psql(options).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            answer,
            "{options}: {error}"
        );
    }
    let mut told = Vec::new();
    for name in ["other", "stranger"] {
        let output = psql(&format!("user={name} sslmode=require")).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains(&format!(
                "FATAL:  password authentication failed for user \"{name}\""
            )),
            "{error}"
        );
        told.push(error.replace(name, "<name>"));
    }
    assert_eq!(told[0], told[1]);
}
