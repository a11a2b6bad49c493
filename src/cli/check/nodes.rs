//! One connection to every node for each database and server user, and what the server says of itself.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::config::{Config, Node, Secret, SslMode};

/// The oldest major version whose protocol and catalogs are known here.
const OLDEST_VERSION: i32 = 14;

/// What the command's exit code says.
pub(super) enum Verdict {
    AllWell,
    SomethingWrong,
}

/// One way into a node.
#[derive(Clone, PartialEq)]
struct Login {
    database: String,
    user: String,
    password: Option<Secret>,
}

/// What a server says of itself.
struct Server {
    version: String,
    major: i32,
    in_recovery: bool,
    wal_level: String,
    max_connections: i32,
    /// Equal on all nodes that replicate each other.
    system_identifier: Option<i64>,
}

/// Tries all at the same time and prints the findings in the order of the file.
pub(super) fn check(config: &Config) -> Verdict {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return Verdict::SomethingWrong;
        }
    };
    runtime.block_on(look_at_all(config))
}

async fn look_at_all(config: &Config) -> Verdict {
    match config.server_tls.mode {
        SslMode::Disable => {}
        SslMode::Prefer | SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            eprintln!(
                "warning: TLS is not tried here; nodes are asked without it, whatever server_tls.mode says"
            );
        }
    }
    let attempts: Vec<Vec<_>> = config
        .shards
        .iter()
        .map(|shard| {
            shard
                .nodes
                .iter()
                .map(|node| attempts(config, node))
                .collect()
        })
        .collect();
    let mut wrong = 0;
    for (shard, nodes) in config.shards.iter().zip(attempts) {
        println!("shard {}", shard.name);
        let mut identity = None;
        for (place, (node, logins)) in shard.nodes.iter().zip(nodes).enumerate() {
            for (login, attempt) in logins {
                let found = match attempt.await {
                    Ok(found) => found,
                    Err(stopped) => Err(Trouble::Other(stopped.to_string())),
                };
                let faults = match &found {
                    Ok(server) => faults(server, place, &mut identity, connections_wanted(config)),
                    Err(_) => vec![],
                };
                wrong += faults.len() + usize::from(found.is_err());
                println!(
                    "{}",
                    Line {
                        node,
                        login: &login,
                        found: &found
                    }
                );
                for fault in faults {
                    println!("    error: {fault}");
                }
            }
        }
    }
    if wrong == 0 {
        Verdict::AllWell
    } else {
        Verdict::SomethingWrong
    }
}

type Attempt = tokio::task::JoinHandle<Result<Server, Trouble>>;

fn attempts(config: &Config, node: &Node) -> Vec<(Login, Attempt)> {
    let mut logins: Vec<Login> = Vec::new();
    for database in &config.databases {
        for user in &config.users {
            let login = Login {
                database: node
                    .database
                    .clone()
                    .unwrap_or_else(|| database.server_database.clone()),
                user: user.server_user.clone(),
                password: user.server_password.clone(),
            };
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
    }
    let timeout = config.pool.connect_timeout;
    logins
        .into_iter()
        .map(|login| {
            let attempt = tokio::spawn(attempt(node.clone(), login.clone(), timeout));
            (login, attempt)
        })
        .collect()
}

/// The connections that all pools of a node together may open.
fn connections_wanted(config: &Config) -> usize {
    config
        .users
        .iter()
        .flat_map(|user| {
            config
                .databases
                .iter()
                .map(|database| config.pool_of(user, database).size)
        })
        .sum()
}

async fn attempt(node: Node, login: Login, timeout: Duration) -> Result<Server, Trouble> {
    tokio::time::timeout(timeout, ask(&node, &login))
        .await
        .unwrap_or(Err(Trouble::Slow(timeout)))
}

async fn ask(node: &Node, login: &Login) -> Result<Server, Trouble> {
    let mut settings = tokio_postgres::Config::new();
    settings
        .host(&node.host)
        .port(node.port)
        .dbname(&login.database)
        .user(&login.user)
        .application_name("trunkline check");
    if let Some(password) = &login.password {
        settings.password(&password.0);
    }
    let (client, connection) = settings.connect(NoTls).await?;
    let (answer, _) = tokio::join!(describe(client), connection);
    Ok(answer?)
}

/// Takes the client so that the connection ends with the answer.
async fn describe(client: Client) -> Result<Server, tokio_postgres::Error> {
    const QUERY: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, \
         pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_connections')::int";
    let row = client.query_one(QUERY, &[]).await?;
    // Some services take this function away from their users.
    let control = client
        .query_one("SELECT system_identifier FROM pg_control_system()", &[])
        .await;
    Ok(Server {
        version: row.try_get(0)?,
        major: row.try_get(1)?,
        in_recovery: row.try_get(2)?,
        wal_level: row.try_get(3)?,
        max_connections: row.try_get(4)?,
        system_identifier: control.and_then(|row| row.try_get(0)).ok(),
    })
}

/// What is wrong with a server that answered. `place` is the node's place in its shard.
fn faults(server: &Server, place: usize, identity: &mut Option<i64>, wanted: usize) -> Vec<String> {
    let mut faults = Vec::new();
    if server.major < OLDEST_VERSION {
        faults.push(format!(
            "PostgreSQL {OLDEST_VERSION} or later is needed; upgrade this server"
        ));
    }
    match (place, server.in_recovery) {
        (0, true) => faults.push(
            "the first node of a shard is taken as the primary, but this one is a replica; put the primary first"
                .to_owned(),
        ),
        (1.., false) => faults.push(
            "this node takes writes, as the first one does, so it is no replica of it; take it away or rebuild it"
                .to_owned(),
        ),
        (0, false) | (1.., true) => {}
    }
    match (*identity, server.system_identifier) {
        (Some(first), Some(own)) if first != own => faults.push(
            "its system identifier is not that of the shard's first node, so it holds other data; \
             take it away or rebuild it from the first"
                .to_owned(),
        ),
        (None, Some(own)) => *identity = Some(own),
        _ => {}
    }
    if usize::try_from(server.max_connections).is_ok_and(|most| most < wanted) {
        faults.push(format!(
            "the pools may open {wanted} connections, but its max_connections is {}; lower pool.size or raise it",
            server.max_connections
        ));
    }
    faults
}

/// Why there is no answer.
enum Trouble {
    Slow(Duration),
    Postgres(tokio_postgres::Error),
    Other(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Trouble::Postgres(error)
    }
}

impl Trouble {
    fn advice(&self) -> &'static str {
        match self {
            Trouble::Slow(_) => {
                "check the host, the port and firewalls between, or raise pool.connect_timeout"
            }
            Trouble::Other(_) => "try again",
            Trouble::Postgres(error) => match error.code() {
                Some(code) => advice_on_code(code),
                None => advice_on_connection(error),
            },
        }
    }
}

fn advice_on_code(code: &SqlState) -> &'static str {
    if *code == SqlState::INVALID_PASSWORD {
        "check the role's password on the server and server_password in the file"
    } else if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        "check that the role exists and may log in, and that pg_hba.conf on the server has a line for it"
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        "create the database on the server, or set server_database"
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        "raise max_connections on the server, or lower pool.size"
    } else if *code == SqlState::CANNOT_CONNECT_NOW {
        "wait until the server has started, and try again"
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        "grant the role CONNECT on the database"
    } else {
        "see the server's log"
    }
}

fn advice_on_connection(error: &tokio_postgres::Error) -> &'static str {
    let io = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => {
            "check that Postgres runs there, on this port, and that its listen_addresses has this address"
        }
        Some(ErrorKind::NotFound) => {
            "check that Postgres runs there and that its unix_socket_directories has this directory"
        }
        Some(ErrorKind::PermissionDenied) => {
            "give the user that runs this command access to the socket"
        }
        Some(_) => "check the host, the port and the network between",
        None if error.to_string().contains("password missing") => {
            "the server asks for a password; give server_password"
        }
        None => "check that what listens there is Postgres, and whether it asks for TLS",
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Slow(timeout) => write!(f, "no answer within {timeout:?}"),
            Trouble::Other(what) => f.write_str(what),
            Trouble::Postgres(error) => match (error.as_db_error(), error.source()) {
                (Some(said), _) => write!(f, "{} ({})", said.message(), said.code().code()),
                (None, Some(source)) => write!(f, "{source}"),
                (None, None) => write!(f, "{error}"),
            },
        }
    }
}

/// One finding as it is printed.
struct Line<'a> {
    node: &'a Node,
    login: &'a Login,
    found: &'a Result<Server, Trouble>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { host, port, .. } = self.node;
        let Login { database, user, .. } = self.login;
        write!(f, "  {host}:{port}, database {database} as {user}: ")?;
        match self.found {
            Ok(server) => {
                let role = if server.in_recovery {
                    "replica (in recovery)"
                } else {
                    "primary"
                };
                write!(
                    f,
                    "PostgreSQL {}, {role}, wal_level {}",
                    server.version, server.wal_level
                )
            }
            Err(trouble) => write!(f, "error: {trouble}; {}", trouble.advice()),
        }
    }
}
