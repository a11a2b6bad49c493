//! From a file's text to a [`Config`], or to every mistake in it.
//!
//! Sections are read in an order in which what is referred to (shards, databases, distributions) comes before what refers to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::section::{Entry, Section, Source};
use super::{
    Auth, ByteSize, Certificate, ClientTls, Config, Database, Limits, Line, Listen, Log, LogFormat,
    Node, Pool, PoolMode, Problem, ServerTls, Shard, SslMode, TlsLines, User, distribution, secret,
};

/// The name of the admin database, which no other database may have.
pub const ADMIN_DATABASE: &str = "trunkline";

const LONGEST_TIME: Duration = Duration::from_secs(365 * 86_400);
const MOST_CONNECTIONS: usize = 1_000_000;
const MOST_POOLED: usize = 10_000;
/// `ShardId` has 16 bits; far more than this many primaries is a mistake in the file.
const MOST_SHARDS: usize = 10_000;

/// Reads a file, with secrets from this process's environment.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read: {error}");
        vec![Problem {
            file: file.clone(),
            line: Line(0),
            key: String::new(),
            message,
        }]
    })?;
    parse(&text, &file, &|name| std::env::var(name).ok())
}

/// Reads a file's text. Relative paths in it start from the directory of `file`.
pub fn parse(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<Problem>> {
    let directory = Path::new(file)
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf);
    let source = Source::new(text, file, directory, env);
    let (document, errors) = DeTable::parse_recoverable(text);
    // A key given twice leaves the rest of the tree sound. Any other error of syntax may have swallowed keys, and what
    // would be said about them is noise.
    let sound = errors
        .iter()
        .all(|error| error.message().contains("duplicate key"));
    for error in errors {
        let line = error
            .span()
            .map_or(Line(1), |span| source.line_of(span.start));
        source.note(line, "", format!("is not TOML: {}", error.message().trim()));
    }
    let config = sound
        .then(|| whole(Section::root(&source, document.get_ref()), file))
        .flatten();
    let (problems, warnings) = source.findings();
    match config {
        Some(config) if problems.is_empty() => Ok(Config { warnings, ..config }),
        _ => Err(problems),
    }
}

/// Everything. `None` only where a mistake has been noted.
fn whole(mut root: Section<'_>, file: &str) -> Option<Config> {
    let listen = listen(root.section("listen"));
    let log = log(root.section("log"));
    let limits = limits(root.section("limits"));
    let tls_lines = TlsLines {
        listen: root.peek("listen").line_of("tls"),
        server: root.line_of("server_tls"),
    };
    let server_tls = server_tls(root.section("server_tls"));
    let workers = root
        .read("workers", |entry| entry.whole(1..=1024))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let pool = pool(root.section("pool"));

    let mut seen = Names::default();
    let shards: Vec<_> = root
        .sections("shards")
        .into_iter()
        .filter_map(|s| shard(s, &mut seen))
        .collect();
    let shard_names = seen.take();
    let databases: Vec<_> = root
        .sections("databases")
        .into_iter()
        .filter_map(|section| database(section, &mut seen, &shard_names))
        .collect();
    let database_names = seen.take();
    let users: Vec<_> = root
        .sections("users")
        .into_iter()
        .filter_map(|s| user(s, &mut seen))
        .collect();

    let declared = distribution::Declared {
        shards: shard_names,
        databases: database_names,
    };
    let (distributions, tables) = distribution::read(&mut root, &declared);

    for (key, is_empty) in [
        ("users", seen.take().is_empty()),
        ("databases", declared.databases.is_empty()),
        ("shards", declared.shards.is_empty()),
    ] {
        if is_empty && !root.has(key) {
            root.note_key(key, format!("there is none; give at least one [[{key}]]"));
        }
    }
    same_node_twice(&root, &shards, databases.len());
    doubtful(&root, &listen, &users);
    root.done();
    Some(Config {
        file: file.to_owned(),
        warnings: vec![],
        tls_lines,
        listen,
        log,
        limits,
        server_tls,
        workers,
        pool,
        users,
        databases,
        shards,
        distributions,
        tables,
    })
}

/// Names of one kind that were read so far, each with its line.
#[derive(Default)]
pub(super) struct Names(Vec<(String, Line)>);

impl Names {
    /// The name of an entry, which must not be that of another one. The entry is called by it from here on.
    pub fn read(&mut self, section: &mut Section<'_>, what: &str) -> Option<String> {
        let name = section.required("name", what, |entry| entry.name())?;
        section.call_it(&name);
        self.add(section, name.clone());
        Some(name)
    }

    /// Notes a name, and a mistake when it is known already.
    pub fn add(&mut self, section: &Section<'_>, name: String) {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, line)) => {
                section.note_key(
                    "name",
                    format!(
                        "{name:?} is used on line {} already; give another name",
                        line.0
                    ),
                );
            }
            None => self.0.push((name, section.line)),
        }
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }
}

fn address(entry: Entry<'_>) -> Option<SocketAddr> {
    const ALLOWED: &str =
        "an IP address and a port, like \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::1]:6432\"";
    let parsed = entry.text(ALLOWED)?.parse::<SocketAddr>();
    match parsed {
        Ok(address) if address.port() != 0 => Some(address),
        _ => {
            entry.wrong("an address", ALLOWED);
            None
        }
    }
}

fn listen(mut section: Section<'_>) -> Listen {
    let addresses: Vec<SocketAddr> = match section.take("addresses") {
        Some(entry) => {
            let items = entry
                .items("an array like [\"127.0.0.1:6432\"]")
                .unwrap_or_default();
            if entry.value.as_array().is_some_and(|array| array.is_empty()) {
                entry.note("is empty; give at least one address, like [\"127.0.0.1:6432\"]");
            }
            let mut addresses = Vec::new();
            for item in items {
                match address(item.clone()) {
                    Some(address) if addresses.contains(&address) => {
                        item.note(format!("{address} is given twice; take one away"));
                    }
                    Some(address) => addresses.push(address),
                    None => {}
                }
            }
            addresses
        }
        None => vec![SocketAddr::from(([127, 0, 0, 1], 6432))],
    };
    let unix_socket_directory = section.read("unix_socket_directory", |entry| {
        let path = entry.source.resolve(entry.text("the path of a directory")?);
        if !path.is_dir() {
            entry.wrong("a directory", "the path of one that exists");
            return None;
        }
        Some(path)
    });
    let http = section.read("http", |entry| {
        if entry.is_off() {
            return None;
        }
        let http = address(entry.clone())?;
        if addresses.contains(&http) {
            entry.wrong("free", "an address that is not in listen.addresses");
        }
        Some(http)
    });
    let tls = client_tls(section.section("tls"));
    section.done();
    Listen {
        addresses,
        unix_socket_directory,
        http,
        tls,
    }
}

/// A file that is there and can be read.
fn existing_file(entry: Entry<'_>) -> Option<PathBuf> {
    let path = entry.source.resolve(entry.text("the path of a PEM file")?);
    match std::fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_file() => Some(path),
        Ok(_) => {
            entry.wrong("a file", "the path of a PEM file");
            None
        }
        Err(error) => {
            entry.note(format!(
                "{:?} cannot be read ({error}); give the path of a PEM file",
                path.display().to_string()
            ));
            None
        }
    }
}

fn client_tls(mut section: Section<'_>) -> ClientTls {
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Disable,
        Prefer,
        Require,
    }
    let words = [
        ("disable", Mode::Disable),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
    ];
    let mode = match section.is_given() {
        true => section.required("mode", "\"disable\", \"prefer\" or \"require\"", |e| {
            e.choice(&words)
        }),
        false => None,
    };
    let tls = match mode {
        Some(Mode::Prefer | Mode::Require) => {
            let what = "the path of a PEM file, or set mode = \"disable\"";
            let certificate = section.required("certificate", what, existing_file);
            let key = section.required("key", what, existing_file);
            let pair = certificate
                .zip(key)
                .map(|(certificate, key)| Certificate { certificate, key });
            match pair {
                Some(pair) if mode == Some(Mode::Require) => ClientTls::Require(pair),
                Some(pair) => ClientTls::Prefer(pair),
                None => ClientTls::Disable,
            }
        }
        Some(Mode::Disable) | None => {
            section.take("certificate");
            section.take("key");
            ClientTls::Disable
        }
    };
    section.done();
    tls
}

fn server_tls(mut section: Section<'_>) -> ServerTls {
    let mode = section
        .read("mode", |entry| {
            entry.choice(&[
                ("disable", SslMode::Disable),
                ("prefer", SslMode::Prefer),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ])
        })
        .unwrap_or(SslMode::Prefer);
    let root_certificate = match mode {
        SslMode::VerifyCa | SslMode::VerifyFull => section.required(
            "root_certificate",
            "the path of a PEM file with the authorities to trust, or a mode that verifies nothing",
            existing_file,
        ),
        SslMode::Disable | SslMode::Prefer | SslMode::Require => {
            section.read("root_certificate", existing_file)
        }
    };
    section.done();
    ServerTls {
        mode,
        root_certificate,
    }
}

fn log(mut section: Section<'_>) -> Log {
    let format = section
        .read("format", |entry| {
            entry.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
        })
        .unwrap_or(LogFormat::Text);
    let filter = section.read("filter", |entry| {
        const ALLOWED: &str = "\"error\", \"warn\", \"info\", \"debug\", or one for each part, like \"info,trunkline::backend=debug\"";
        let filter = entry.text(ALLOWED)?;
        if tracing_subscriber::EnvFilter::builder().parse(filter).is_err() {
            entry.wrong("a filter", ALLOWED);
            return None;
        }
        Some(filter.to_owned())
    });
    section.done();
    Log {
        format,
        filter: filter.unwrap_or_else(|| "info".to_owned()),
    }
}

fn limits(mut section: Section<'_>) -> Limits {
    const MB: u64 = 1 << 20;
    let seconds = Duration::from_secs;
    let limits = Limits {
        max_client_connections: section
            .read("max_client_connections", |entry| {
                entry.whole(1..=MOST_CONNECTIONS)
            })
            .unwrap_or(1000),
        max_user_connections: section
            .read("max_user_connections", |entry| {
                entry.whole_or_off(1..=MOST_CONNECTIONS)
            })
            .unwrap_or(None),
        login_timeout: section
            .read("login_timeout", |entry| {
                entry.duration(seconds(1)..=seconds(3600))
            })
            .unwrap_or(seconds(60)),
        // Postgres itself takes no message of 1 GB or more.
        max_message_size: section
            .read("max_message_size", |entry| entry.size(64 << 10..=1 << 30))
            .unwrap_or(ByteSize(64 * MB)),
        plan_cache_size: section
            .read("plan_cache_size", |entry| entry.size(MB..=64 << 30))
            .unwrap_or(ByteSize(32 * MB)),
        max_prepared_statements: section
            .read("max_prepared_statements", |entry| {
                entry.whole(1..=MOST_CONNECTIONS)
            })
            .unwrap_or(5000),
        shutdown_timeout: section
            .read("shutdown_timeout", |entry| {
                entry.duration(Duration::ZERO..=LONGEST_TIME)
            })
            .unwrap_or(seconds(30)),
    };
    section.done();
    limits
}

fn pool_mode(entry: Entry<'_>) -> Option<PoolMode> {
    entry.choice(&[
        ("transaction", PoolMode::Transaction),
        ("session", PoolMode::Session),
    ])
}

fn pool(mut section: Section<'_>) -> Pool {
    let seconds = Duration::from_secs;
    let some_time = Duration::from_millis(1)..=LONGEST_TIME;
    let size = section.read("size", |entry| entry.whole(1..=MOST_POOLED));
    let pool = Pool {
        mode: section
            .read("mode", pool_mode)
            .unwrap_or(PoolMode::Transaction),
        size: size.unwrap_or(20),
        min_size: section
            .read("min_size", |entry| entry.whole(0..=MOST_POOLED))
            .unwrap_or(0),
        checkout_timeout: section
            .read("checkout_timeout", |entry| {
                entry.duration(some_time.clone())
            })
            .unwrap_or(seconds(15)),
        max_waiting: section
            .read("max_waiting", |entry| entry.whole(0..=MOST_CONNECTIONS))
            .unwrap_or(1000),
        idle_timeout: section
            .read("idle_timeout", |entry| {
                entry.duration_or_off(some_time.clone())
            })
            .unwrap_or(Some(seconds(600))),
        max_lifetime: section
            .read("max_lifetime", |entry| {
                entry.duration_or_off(some_time.clone())
            })
            .unwrap_or(Some(seconds(3600))),
        check_after_idle: section
            .read("check_after_idle", |entry| {
                entry.duration(Duration::ZERO..=LONGEST_TIME)
            })
            .unwrap_or(seconds(30)),
        connect_timeout: section
            .read("connect_timeout", |entry| entry.duration(some_time.clone()))
            .unwrap_or(seconds(5)),
    };
    if pool.connect_timeout >= pool.checkout_timeout {
        section.source.warn(
            section.line_of("connect_timeout"),
            "pool.connect_timeout",
            "is not less than pool.checkout_timeout, so clients of a server that does not answer are told of the \
             wait, not of its reason",
        );
    }
    if pool.min_size > pool.size && (size.is_some() || !section.has("size")) {
        let message = format!(
            "{} is more than pool.size, which is {}; give less",
            pool.min_size, pool.size
        );
        section.note_key("min_size", message);
    }
    section.done();
    pool
}

fn shard(mut section: Section<'_>, seen: &mut Names) -> Option<Shard> {
    let name = seen.read(&mut section, "the name of the shard, like \"shard1\"");
    if seen.0.len() > MOST_SHARDS {
        section.note(format!("is one shard too many; there may be {MOST_SHARDS}"));
    }
    let given = section.has("nodes");
    let nodes: Vec<_> = section
        .sections("nodes")
        .into_iter()
        .filter_map(node)
        .collect();
    if !given {
        section.note_key(
            "nodes",
            "is missing; give at least one [[shards.nodes]] with its host",
        );
    } else if section.is_empty_array("nodes") {
        section.note_key("nodes", "is empty; give at least one node with its host");
    }
    let line = section.line;
    section.done();
    Some(Shard {
        line,
        name: name?,
        nodes,
    })
}

fn node(mut section: Section<'_>) -> Option<Node> {
    let host = section.required("host", "a name, an address, or the directory of a Unix socket", |entry| {
        const ALLOWED: &str =
            "a name, an address, or the directory of a Unix socket; the port is a key of its own";
        let host = entry.text(ALLOWED)?;
        let address = host.parse::<std::net::IpAddr>().is_ok();
        let directory = host.starts_with('/');
        let name = !host.is_empty()
            && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_'));
        if !(address || directory || name) {
            entry.wrong("a host", ALLOWED);
            return None;
        }
        Some(host.to_owned())
    });
    let port = section.read("port", |entry| entry.whole(1..=65535));
    let port = u16::try_from(port.unwrap_or(5432)).expect("a port from 1 to 65535 has 16 bits");
    let database = section.read("database", |entry| entry.name());
    let line = section.line;
    section.done();
    Some(Node {
        line,
        host: host?,
        port,
        database,
    })
}

fn database(mut section: Section<'_>, seen: &mut Names, shards: &[String]) -> Option<Database> {
    let name = seen.read(&mut section, "the name that clients connect to");
    if name.as_deref() == Some(ADMIN_DATABASE) {
        section.note_key(
            "name",
            format!("{ADMIN_DATABASE:?} is the admin database; give another name (server_database may still be {ADMIN_DATABASE:?})"),
        );
    }
    let server_database = section.read("server_database", |entry| entry.name());
    let default_shard = section.read("default_shard", |entry| entry.reference("shard", shards));
    let sequences_per_shard = section
        .read("sequences", |entry| {
            entry.choice(&[("refused", false), ("per_shard", true)])
        })
        .unwrap_or(false);
    let pool_mode = section.read("pool_mode", pool_mode);
    let pool_size = section.read("pool_size", |entry| entry.whole(1..=MOST_POOLED));
    let line = section.line;
    section.done();
    let name = name?;
    Some(Database {
        line,
        server_database: server_database.unwrap_or_else(|| name.clone()),
        name,
        default_shard,
        sequences_per_shard,
        pool_mode,
        pool_size,
    })
}

fn user(mut section: Section<'_>, seen: &mut Names) -> Option<User> {
    let name = seen.read(&mut section, "the name that clients log in with");
    let (auth, server_password) = secret::credentials(&mut section);
    let admin = section
        .read("admin", |entry| entry.boolean())
        .unwrap_or(false);
    let server_user = section.read("server_user", |entry| entry.name());
    let pool_mode = section.read("pool_mode", pool_mode);
    let pool_size = section.read("pool_size", |entry| entry.whole(1..=MOST_POOLED));
    if let (Some(Auth::ScramVerifier(_) | Auth::Md5(_)), None) = (&auth, &server_password)
        && !section.has("server_password")
    {
        section.source.warn(
            section.line,
            &section.path,
            "the password is stored as a hash and there is no server_password, so only servers that ask for none \
             (trust, peer) let this user in",
        );
    }
    let line = section.line;
    section.done();
    let (name, auth) = (name?, auth?);
    Some(User {
        line,
        server_user: server_user.unwrap_or_else(|| name.clone()),
        name,
        auth,
        admin,
        server_password,
        pool_mode,
        pool_size,
    })
}

/// One node in two places would be counted, and written to, as two.
fn same_node_twice(root: &Section<'_>, shards: &[Shard], databases: usize) {
    let mut seen: Vec<(&Node, &str)> = Vec::new();
    for shard in shards {
        for node in &shard.nodes {
            let key = format!("shards.{}.nodes", shard.name);
            if let Some((first, other)) = seen.iter().find(|(known, _)| *known == node) {
                let message = format!(
                    "{}:{} is a node of {other} on line {} already; each node belongs to one shard, once",
                    node.host, node.port, first.line.0
                );
                root.source.note(node.line, &key, message);
            }
            if node.database.is_some() && databases > 1 {
                root.source.note(
                    node.line,
                    &key,
                    "a node can name its database only when there is one [[databases]] entry; use server_database there",
                );
            }
            seen.push((node, &shard.name));
        }
    }
}

/// What is allowed, yet probably not meant.
fn doubtful(root: &Section<'_>, listen: &Listen, users: &[User]) {
    if !users.is_empty() && !users.iter().any(|user| user.admin) {
        root.source.warn(
            users[0].line,
            "users",
            format!(
                "no user has admin = true, so nobody can use the admin database {ADMIN_DATABASE}"
            ),
        );
    }
    let reachable = listen
        .addresses
        .iter()
        .any(|address| !address.ip().is_loopback());
    for user in users
        .iter()
        .filter(|user| reachable && matches!(user.auth, Auth::Trust))
    {
        root.source.warn(
            user.line,
            &format!("users.{}.auth", user.name),
            "\"trust\" asks for no password, and listen.addresses can be reached from other machines",
        );
    }
}
