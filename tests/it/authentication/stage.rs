//! Two servers that ask for passwords, a proxy with a file of its own that can be read again, and psql.

use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;
use trunkline::cli::local::{Cluster, Server};
use trunkline::config::{self, Problem};
use trunkline::server::{self, Handle};

use crate::servers::{own_cluster, value, wait_until};

/// The password of every role here, with what SASLprep changes.
pub const PASSWORD: &str = "I\u{ad}X p\u{e4}ss";
/// What it becomes.
pub const PREPARED: &str = "IX p\u{e4}ss";

/// On both servers, with the same verifiers:
/// `ann`, `bob`, `dan` (scram), `olga` (md5), `eve` (VALID UNTIL is over), `idle` (may not log in), `asker` (superuser).
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = own_cluster(2, 0);
        let [first, second] = [0, 1].map(|at| &cluster.shards()[at].primary);
        let mut roles = String::new();
        for role in ["ann", "bob", "dan"] {
            roles += &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}';");
        }
        roles += &format!(
            "CREATE ROLE idle PASSWORD '{PASSWORD}'; CREATE ROLE asker LOGIN SUPERUSER PASSWORD '{PASSWORD}';
             CREATE ROLE eve LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01';
             SET password_encryption = md5; CREATE ROLE olga LOGIN PASSWORD '{PREPARED}';"
        );
        first.run_sql("postgres", &roles).unwrap();
        copy_roles(first, second);
        for server in [first, second] {
            ask_for_passwords(server);
        }
        cluster
    })
}

/// Makes the second server keep what the first keeps.
pub fn copy_roles(first: &Server, second: &Server) {
    let sql = "SELECT format('CREATE ROLE %I %s %s PASSWORD %L;', rolname,
        CASE WHEN rolcanlogin THEN 'LOGIN' ELSE '' END, CASE WHEN rolsuper THEN 'SUPERUSER' ELSE '' END, rolpassword)
        FROM pg_authid WHERE rolname IN ('ann', 'bob', 'dan', 'olga', 'eve', 'idle', 'asker')";
    for row in first.run_sql("postgres", sql).unwrap() {
        second
            .run_sql("postgres", row[0].as_deref().unwrap())
            .unwrap();
    }
}

fn ask_for_passwords(server: &Server) {
    let path = server.data_folder().join("pg_hba.conf");
    let before = std::fs::read_to_string(&path).unwrap();
    let rules = format!(
        "host all olga 127.0.0.1/32 md5\nhost all ann,bob,dan,eve,idle,asker,lone 127.0.0.1/32 scram-sha-256\n{before}"
    );
    let lines: Vec<String> = rules
        .lines()
        .map(|line| format!("('{}')", line.replace('\'', "''").replace('\\', "\\\\")))
        .collect();
    let path = path.to_str().unwrap();
    let sql = format!(
        "COPY (VALUES {}) TO PROGRAM 'cat > {path}'",
        lines.join(", ")
    );
    server.run_sql("postgres", &sql).unwrap();
    server
        .run_sql("postgres", "SELECT pg_reload_conf()")
        .unwrap();
    wait_until("the server asks for passwords", || {
        let sql = "SELECT count(*) FROM pg_hba_file_rules WHERE 'ann' = ANY(user_name)";
        value(server, "postgres", sql).unwrap() == "1" && {
            let how = format!("host=127.0.0.1 port={} user=ann dbname=app", server.port());
            psql(&how, "wrong", "SELECT 1").is_err()
        }
    });
}

/// A proxy before these servers. `sections` are put before its shards.
pub struct Proxy {
    pub folder: TempDir,
    pub port: u16,
    runtime: tokio::runtime::Runtime,
    handle: Option<Handle>,
}

impl Proxy {
    /// With these files beside its configuration; names of files in `sections` mean those.
    pub fn start(files: &[(&str, &str)], sections: &str) -> Proxy {
        let folder = TempDir::new().unwrap();
        let proxy = |handle: Handle, folder, runtime| Proxy {
            folder,
            port: handle.addresses[0].port(),
            runtime,
            handle: Some(handle),
        };
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().join("trunkline.toml");
        std::fs::write(&path, configuration(sections)).unwrap();
        let mut config = config::load(&path).unwrap_or_else(|problems| panic!("{problems:#?}"));
        // A file cannot say "any port".
        config.listen.addresses = vec![([127, 0, 0, 1], 0).into()];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime
            .block_on(server::start(config, Some(path)))
            .unwrap_or_else(|error| panic!("{error}"));
        proxy(handle, folder, runtime)
    }

    /// Writes a file beside the configuration.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Reads all files again.
    pub fn reload(&self) -> Result<(), Vec<Problem>> {
        let handle = self.handle.as_ref().unwrap();
        self.runtime.block_on(handle.reload())
    }

    /// The first value of what psql gets as this user, or what it says.
    pub fn psql(&self, user: &str, password: &str, sql: &str) -> Result<String, String> {
        self.psql_with("sslmode=disable", user, password, sql)
    }

    /// Likewise, with further words in its connection string.
    pub fn psql_with(
        &self,
        how: &str,
        user: &str,
        password: &str,
        sql: &str,
    ) -> Result<String, String> {
        let port = self.port;
        let host = if how.contains("host=") {
            ""
        } else {
            "host=127.0.0.1"
        };
        psql(
            &format!("{host} port={port} dbname=app user='{user}' {how}"),
            password,
            sql,
        )
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.runtime.block_on(handle.shut_down());
        }
    }
}

fn configuration(sections: &str) -> String {
    let mut text = format!(
        "workers = 2\ndatabases = [{{ name = \"app\", default_shard = \"s1\" }}]\n{sections}\n"
    );
    if !sections.contains("[server_tls]") {
        text += "[server_tls]\nmode = \"disable\"\n";
    }
    if !sections.contains("[limits]") {
        text += "[limits]\nshutdown_timeout = \"1s\"\n";
    }
    for (at, shard) in cluster().shards().iter().enumerate() {
        let port = shard.primary.port();
        text += &format!(
            "[[shards]]\nname = \"s{}\"\nnodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n",
            at + 1
        );
    }
    text
}

/// What psql prints, or what it says instead.
pub fn psql(how: &str, password: &str, sql: &str) -> Result<String, String> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(crate::servers::cluster().installation().bin().join("psql"))
        .args(["-XqAtw", "-v", "ON_ERROR_STOP=1", "-d", how, "-c", sql])
        .env("PGPASSWORD", password)
        .env_remove("PGSSLMODE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    match status.success() {
        true => Ok(text(stdout)),
        false => Err(text(stderr)),
    }
}

/// That it said this.
#[track_caller]
pub fn said(found: &Result<String, String>, wanted: &str) {
    match found {
        Err(said) => assert!(said.contains(wanted), "{said}\nand not {wanted}"),
        Ok(found) => panic!("{found:?} and not {wanted}"),
    }
}

/// `current_user` on both servers.
pub const WHO: [&str; 2] = [
    "/* trunkline: shard=s1 */ SELECT current_user",
    "/* trunkline: shard=s2 */ SELECT current_user",
];

pub const FAILED: &str = "FATAL:  password authentication failed for user";
