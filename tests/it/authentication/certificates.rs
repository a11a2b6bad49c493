//! TLS towards clients: certificates that name users, new files without a restart, TLS from the first byte, resumed sessions.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::stage::{PASSWORD, PREPARED, Proxy, WHO, cluster, said};
use crate::servers::DEADLINE;
use crate::tls::{Authority, switch_on};
use crate::wire_client::startup;

/// Files for a server: a certificate of `authority` for localhost, and the authority of clients.
pub fn files<'a>(issued: &'a (String, String), clients: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("server.crt", &issued.0),
        ("server.key", &issued.1),
        ("clients.crt", clients),
    ]
}

pub const TLS: &str = "[listen.tls]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n";

pub fn users(auth: &str) -> String {
    format!(
        "users = [{{ name = \"ann\", {auth} server_password = \"{PASSWORD}\", admin = true }},
            {{ name = \"bob\", {auth} server_password = \"{PASSWORD}\" }}]\n"
    )
}

/// A client's certificate, as words of psql's connection string.
pub fn identity(authority: &Authority, common_name: &str) -> String {
    let (certificate, key) = authority.issue_to(common_name, &[]);
    let path = |kind: &str| authority.path(&format!("{common_name}.{kind}"));
    std::fs::write(path("crt"), certificate).unwrap();
    std::fs::write(path("key"), key).unwrap();
    // libpq takes no key that others may read.
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path("key"), mode).unwrap();
    format!("sslcert={} sslkey={}", path("crt"), path("key"))
}

#[test]
fn certificates_name_users() {
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let issued = authority.issue(&["localhost"]);
    let root = std::fs::read_to_string(authority.root()).unwrap();
    let (ann, stranger) = (identity(&authority, "ann"), identity(&other, "ann"));
    let nobody = "sslcert=/nowhere sslkey=/nowhere";
    let asked = format!("{TLS}client_authorities = \"clients.crt\"\n");
    let proxy = |sections: &str, more: &[(&str, &str)]| {
        Proxy::start(&[&files(&issued, &root)[..], more].concat(), sections)
    };
    let try_as = |proxy: &Proxy, user: &str, identity: &str, sslmode: &str| {
        let how = format!("sslmode={sslmode} {identity}");
        proxy.psql_with(&how, user, PREPARED, WHO[1])
    };
    let missing = "FATAL:  connection requires a valid client certificate";
    let another = "FATAL:  certificate authentication failed for user \"bob\"";

    // Each user says it, or a rule does, or the whole section.
    let by_user = proxy(
        &(users("auth = \"cert\",") + &asked + "mode = \"prefer\"\n"),
        &[],
    );
    let rules = "hostssl all all all cert\nhost all bob all scram-sha-256\n";
    let sections = users("") + "[auth]\nhba_file = \"hba.conf\"\n" + &asked + "mode = \"prefer\"\n";
    let by_rule = proxy(&sections, &[("hba.conf", rules)]);
    for proxy in [&by_user, &by_rule] {
        assert_eq!(try_as(proxy, "ann", &ann, "require").as_deref(), Ok("ann"));
        said(&try_as(proxy, "ann", nobody, "require"), missing);
        said(&try_as(proxy, "bob", &ann, "require"), another);
        // It is verified by TLS itself.
        said(&try_as(proxy, "ann", &stranger, "require"), "alert");
    }
    said(&try_as(&by_user, "ann", &ann, "disable"), missing);
    said(
        &try_as(&by_rule, "ann", &ann, "disable"),
        "no pg_hba.conf entry",
    );

    let password = format!("password = \"{PASSWORD}\",");
    let by_section = |mode: &str| {
        proxy(
            &(users(&password) + &asked + &format!("mode = \"{mode}\"\n")),
            &[],
        )
    };
    let valid = by_section("verify-ca");
    assert_eq!(try_as(&valid, "ann", &ann, "require").as_deref(), Ok("ann"));
    assert_eq!(try_as(&valid, "bob", &ann, "require").as_deref(), Ok("bob"));
    said(&try_as(&valid, "bob", nobody, "require"), missing);
    said(
        &try_as(&valid, "bob", &ann, "disable"),
        "connection requires TLS",
    );
    said(
        &valid.psql_with(
            &format!("sslmode=require {ann}"),
            "ann",
            "wrong",
            "SELECT 1",
        ),
        "password",
    );
    let named = by_section("verify-full");
    assert_eq!(try_as(&named, "ann", &ann, "require").as_deref(), Ok("ann"));
    said(&try_as(&named, "bob", &ann, "require"), another);
    let optional = by_section("require");
    assert_eq!(
        try_as(&optional, "bob", nobody, "require").as_deref(),
        Ok("bob")
    );
    said(&try_as(&optional, "bob", &stranger, "require"), "alert");
}

#[test]
fn new_certificates_need_no_restart() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (one, two) = (first.issue(&["localhost"]), second.issue(&["localhost"]));
    let sections = users(&format!("password = \"{PASSWORD}\",")) + TLS + "mode = \"require\"\n";
    let proxy = Proxy::start(&files(&one, ""), &sections);
    let with = |authority: &Authority| {
        let how = format!(
            "host=localhost sslmode=verify-full channel_binding=require sslrootcert={}",
            authority.root()
        );
        proxy.psql_with(&how, "ann", PREPARED, WHO[0])
    };
    assert_eq!(with(&first).as_deref(), Ok("ann"));
    said(&with(&second), "certificate verify failed");
    let mut open = Tls::connect(&proxy, &config(&first, &[])).unwrap();
    // Half of a change is a mistake, and changes nothing.
    proxy.write("server.crt", &two.0);
    let told = proxy.reload().unwrap_err()[0].to_string();
    assert!(told.contains("cannot be used together"), "{told}");
    assert_eq!(with(&first).as_deref(), Ok("ann"));
    proxy.write("server.key", &two.1);
    proxy.reload().unwrap();
    assert_eq!(with(&second).as_deref(), Ok("ann"));
    said(&with(&first), "certificate verify failed");
    // Who was connected goes on.
    open.ask_in("ann");
}

/// A connection over TLS, in front of the startup packet.
struct Tls(StreamOwned<ClientConnection, TcpStream>);

pub fn config(authority: &Authority, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority.root()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

impl Tls {
    /// After a request for it.
    fn connect(proxy: &Proxy, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
        let mut socket = socket(proxy);
        socket.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
        assert_eq!(answer, *b"S");
        Tls::over(socket, config)
    }

    /// From the first byte on.
    fn directly(proxy: &Proxy, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
        Tls::over(socket(proxy), config)
    }

    fn over(socket: TcpStream, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Tls(stream))
    }

    fn kind(&self) -> HandshakeKind {
        self.0.conn.handshake_kind().unwrap()
    }

    /// Begins a login, and checks what it is answered with.
    fn ask_in(&mut self, user: &str) {
        self.0
            .write_all(&startup(3 << 16, &[("user", user), ("database", "app")]))
            .unwrap();
        let mut answer = [0; 9];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!((answer[0], answer[8]), (b'R', 10), "SASL is asked for");
    }
}

fn socket(proxy: &Proxy) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

pub const POSTGRESQL: &[u8] = b"postgresql";

#[test]
fn tls_from_the_first_byte() {
    let authority = Authority::new("an authority");
    let issued = authority.issue(&["localhost"]);
    let password = users(&format!("password = \"{PASSWORD}\","));
    let sections = password.clone() + TLS + "mode = \"require\"\n";
    let proxy = Proxy::start(&files(&issued, ""), &sections);
    let (named, unnamed) = (config(&authority, &[POSTGRESQL]), config(&authority, &[]));
    Tls::directly(&proxy, &named).unwrap().ask_in("ann");
    Tls::directly(&proxy, &config(&authority, &[b"h2", POSTGRESQL]))
        .unwrap()
        .ask_in("ann");
    // The name is wanted from those who did not ask, and must be right from those who give one.
    let mut refused = Tls::directly(&proxy, &unnamed).unwrap();
    let hello = startup(3 << 16, &[("user", "ann")]);
    let heard = refused.0.write_all(&hello).and_then(|()| {
        refused.0.flush()?;
        refused.0.read(&mut [0; 100])
    });
    assert!(!matches!(heard, Ok(read) if read > 0), "{heard:?}");
    let other = config(&authority, &[b"http/1.1"]);
    assert!(Tls::directly(&proxy, &other).is_err() && Tls::connect(&proxy, &other).is_err());
    Tls::connect(&proxy, &unnamed).unwrap().ask_in("ann");
    Tls::connect(&proxy, &named).unwrap().ask_in("ann");
    // It is not asked for again inside.
    let mut again = Tls::directly(&proxy, &named).unwrap();
    again
        .0
        .write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])
        .unwrap();
    let mut told = Vec::new();
    let _ = again.0.read_to_end(&mut told);
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("unsupported frontend protocol 1234.5679"),
        "{told}"
    );

    let without = Proxy::start(&[], &password);
    assert!(Tls::directly(&without, &named).is_err());
}

#[test]
fn sessions_are_resumed_until_a_certificate_changes() {
    let authority = Authority::new("an authority");
    let (one, two) = (
        authority.issue(&["localhost"]),
        authority.issue(&["localhost"]),
    );
    let root = std::fs::read_to_string(authority.root()).unwrap();
    let sections = users(&format!("password = \"{PASSWORD}\",")) + TLS + "mode = \"prefer\"\n";
    let proxy = Proxy::start(&files(&one, &root), &sections);
    let client = config(&authority, &[POSTGRESQL]);
    let kind = || {
        let mut tls = Tls::connect(&proxy, &client).unwrap();
        // The ticket comes behind the handshake.
        tls.ask_in("ann");
        tls.kind()
    };
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
    // Nothing in the files has changed.
    proxy.reload().unwrap();
    assert_eq!(kind(), HandshakeKind::Resumed);
    // A resumed session would show the certificate that it began with.
    proxy.write("server.crt", &two.0);
    proxy.write("server.key", &two.1);
    proxy.reload().unwrap();
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
    // Where clients' certificates are verified, they are each time.
    let asked = std::fs::read_to_string(proxy.path("trunkline.toml"))
        .unwrap()
        .replace(
            "[listen.tls]\n",
            "[listen.tls]\nclient_authorities = \"clients.crt\"\n",
        );
    proxy.write("trunkline.toml", &asked);
    proxy.reload().unwrap();
    assert_eq!([kind(), kind()], [HandshakeKind::Full; 2]);
}

#[test]
fn channel_binding_on_both_sides() {
    let authority = Authority::new("an authority");
    let issued = authority.issue(&["localhost"]);
    let sections = users(&format!("password = \"{PASSWORD}\",")) + TLS + "mode = \"prefer\"\n";
    let proxy = Proxy::start(&files(&issued, ""), &sections);
    let how = |binding: &str| format!("sslmode=require channel_binding={binding}");
    for binding in ["require", "prefer", "disable"] {
        assert_eq!(
            proxy
                .psql_with(&how(binding), "ann", PREPARED, WHO[0])
                .as_deref(),
            Ok("ann")
        );
    }
    said(
        &proxy.psql_with(
            "sslmode=disable channel_binding=require",
            "ann",
            PREPARED,
            WHO[0],
        ),
        "channel binding required",
    );
    // A client's keys, at a server that offers the binding: a wrong one would be refused.
    switch_on(&cluster().shards()[0].primary, &authority, &["localhost"]);
    let sections = format!(
        "[server_tls]\nmode = \"require\"\n[auth.query]\nuser = \"asker\"\npassword = \"{PASSWORD}\"\n"
    );
    let proxy = Proxy::start(&[], &sections);
    let encrypted = "/* trunkline: shard=s1 */ SELECT current_user || ' ' || ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(
        proxy.psql("bob", PREPARED, encrypted).as_deref(),
        Ok("bob true")
    );
}
