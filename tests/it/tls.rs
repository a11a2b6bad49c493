//! TLS on both sides: psql to the proxy in libpq's modes, and the proxy to a server in the same modes.

use std::path::Path;
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use trunkline::cli::local::Server;

use crate::raw::{Message, Raw};
use crate::servers::{cluster, own_cluster, wait_until};
use crate::sharded::{Sharded, configuration};

/// An authority; its certificate and those it gives out are files in a folder of its own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        std::fs::write(
            folder.path().join("root.pem"),
            params.self_signed(&key).unwrap().pem(),
        )
        .unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    pub fn root(&self) -> String {
        self.path("root.pem")
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A certificate for these names and its key, PEM.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_to("a server", names)
    }

    /// Likewise, with this common name.
    pub fn issue_to(&self, common_name: &str, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }
}

fn psql(port: u16, database: &str, how: &str, sql: &str) -> Output {
    let connection = format!("port={port} user=app dbname={database} {how}");
    Command::new(cluster().installation().bin().join("psql"))
        .args(["-XqAt", "-d", &connection, "-c", sql])
        .env_remove("PGSSLMODE")
        .output()
        .unwrap()
}

/// Whether the connection came about and was encrypted; else what psql said.
fn encrypted(port: u16, database: &str, how: &str) -> Result<bool, String> {
    let found = psql(port, database, how, "\\conninfo");
    if !found.status.success() {
        return Err(String::from_utf8(found.stderr).unwrap());
    }
    Ok(String::from_utf8(found.stdout).unwrap().contains("SSL"))
}

#[test]
fn clients_choose_and_verify() {
    let (authority, other) = (Authority::new("one authority"), Authority::new("another"));
    let (certificate, key) = authority.issue(&["localhost"]);
    std::fs::write(authority.path("server.pem"), certificate).unwrap();
    std::fs::write(authority.path("server.key"), key).unwrap();
    let proxy = |mode: &str| {
        let tls = format!(
            "[listen.tls]\nmode = \"{mode}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            authority.path("server.pem"),
            authority.path("server.key")
        );
        Sharded::launch("app", &configuration("app", &tls))
    };
    let (root, wrong) = (authority.root(), other.root());

    let prefers = proxy("prefer");
    for (how, expected) in [
        ("host=127.0.0.1 sslmode=disable".to_owned(), Ok(false)),
        ("host=127.0.0.1 sslmode=allow".to_owned(), Ok(false)),
        ("host=127.0.0.1 sslmode=prefer".to_owned(), Ok(true)),
        ("host=127.0.0.1 sslmode=require".to_owned(), Ok(true)),
        (
            format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={root}"),
            Ok(true),
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={root}"),
            Ok(true),
        ),
        (
            "host=localhost sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(),
            Ok(true),
        ),
        (
            format!("host=127.0.0.1 sslmode=verify-full sslrootcert={root}"),
            Err("does not match host name"),
        ),
        (
            format!("host=localhost sslmode=verify-full sslrootcert={wrong}"),
            Err("certificate verify failed"),
        ),
        (
            format!("host=localhost sslmode=verify-ca sslrootcert={wrong}"),
            Err("certificate verify failed"),
        ),
    ] {
        match (encrypted(prefers.port, "app", &how), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{how}"),
            (Err(said), Err(expected)) => assert!(said.contains(expected), "{how}: {said}"),
            (found, expected) => panic!("{how}: {found:?}, expected {expected:?}"),
        }
    }

    let requires = proxy("require");
    let refused = encrypted(requires.port, "app", "host=127.0.0.1 sslmode=disable").unwrap_err();
    assert!(
        refused.contains("FATAL:  connection requires TLS"),
        "{refused}"
    );
    assert_eq!(
        encrypted(requires.port, "app", "host=127.0.0.1 sslmode=require"),
        Ok(true)
    );
    // More than a TLS record, both ways.
    let long = "x".repeat(100_000);
    let found = psql(
        requires.port,
        "app",
        "host=127.0.0.1 sslmode=require",
        &format!("SELECT '{long}'"),
    );
    assert_eq!(String::from_utf8(found.stdout).unwrap().trim_end(), long);

    let without = Sharded::launch("app", &configuration("app", ""));
    assert_eq!(
        encrypted(without.port, "app", "host=127.0.0.1 sslmode=prefer"),
        Ok(false)
    );
    let refused = encrypted(without.port, "app", "host=127.0.0.1 sslmode=require").unwrap_err();
    assert!(refused.contains("server does not support SSL"), "{refused}");
}

/// Switches TLS on with a certificate for these names.
pub fn switch_on(server: &Server, authority: &Authority, names: &[&str]) {
    let (certificate, key) = authority.issue(names);
    let folder = server.data_folder();
    // The server writes the files itself, so that they are its account's.
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let path = path.to_str().unwrap();
        let lines: Vec<String> = text.lines().map(|line| format!("('{line}')")).collect();
        let sql = format!(
            "COPY (VALUES {}) TO PROGRAM 'umask 077; cat > {path}'",
            lines.join(", ")
        );
        server.run_sql("postgres", &sql).unwrap();
    };
    write("server.crt", &certificate);
    write("server.key", &key);
    server
        .run_sql("postgres", "ALTER SYSTEM SET ssl = on")
        .unwrap();
    server
        .run_sql("postgres", "SELECT pg_reload_conf()")
        .unwrap();
    wait_until("the server has TLS", || {
        let rows = server.run_sql("postgres", "SHOW ssl").unwrap();
        rows[0][0].as_deref() == Some("on") && serves(server, Path::new(&authority.root()))
    });
}

/// Whether the certificate at work is one of the authority's.
fn serves(server: &Server, root: &Path) -> bool {
    let how = format!(
        "host=127.0.0.1 sslmode=verify-ca sslrootcert={}",
        root.display()
    );
    psql(server.port(), "app", &how, "SELECT 1")
        .status
        .success()
}

#[test]
fn servers_are_verified_as_configured() {
    let cluster = own_cluster(1, 0);
    let server = &cluster.shards()[0].primary;
    let (authority, other) = (Authority::new("one authority"), Authority::new("another"));
    // What a client sees through a proxy that connects to the server by this name, in this mode.
    let through = |host: &str, mode: &str, root: Option<&Authority>| {
        let root = root.map_or_else(String::new, |root| {
            format!("root_certificate = \"{}\"\n", root.root())
        });
        let text = format!(
            "users = [{{ name = \"app\", auth = \"trust\" }}]\ndatabases = [{{ name = \"app\" }}]\nworkers = 1\n\
             [server_tls]\nmode = \"{mode}\"\n{root}\
             [[shards]]\nname = \"s1\"\nnodes = [{{ host = \"{host}\", port = {} }}]\n",
            server.port()
        );
        let proxy = Sharded::launch("app", &text);
        let says = |error: Message| format!("{}: {}", error.sqlstate(), error.field('M'));
        let mut client = Raw::try_connect(proxy.port, "app", "app").map_err(says)?;
        let answer = client.simple("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
        match answer.error {
            Some(error) => Err(says(error)),
            None => Ok(answer.rows[0][0].as_deref() == Some(b"t")),
        }
    };
    // Without TLS on the server.
    assert_eq!(through("127.0.0.1", "prefer", None), Ok(false));
    let refused = through("127.0.0.1", "require", None).unwrap_err();
    assert!(refused.contains("TLS"), "{refused}");

    switch_on(server, &authority, &["localhost"]);
    assert_eq!(through("127.0.0.1", "disable", None), Ok(false));
    assert_eq!(through("127.0.0.1", "prefer", None), Ok(true));
    assert_eq!(through("127.0.0.1", "require", None), Ok(true));
    assert_eq!(
        through("127.0.0.1", "verify-ca", Some(&authority)),
        Ok(true)
    );
    assert_eq!(
        through("localhost", "verify-full", Some(&authority)),
        Ok(true)
    );
    for (host, mode, root, wanted) in [
        ("127.0.0.1", "verify-full", &authority, "127.0.0.1"),
        ("127.0.0.1", "verify-ca", &other, "certificate"),
        ("localhost", "verify-full", &other, "certificate"),
    ] {
        let refused = through(host, mode, Some(root)).unwrap_err();
        println!("{mode} at {host}: {refused}");
        assert!(
            refused.starts_with("08001: ") && refused.contains(wanted),
            "{refused}"
        );
    }
}
