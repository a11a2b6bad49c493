//! From a file's text to a [`Config`], or to every mistake in it.
//!
//! Sections are read in an order in which what is referred to (shards, databases, distributions) comes before what refers to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::entry::{self, ADMIN_DATABASE, Names};
use super::reads;
use super::section::{Section, Source};
use super::settings;
use super::{
    Authentication, Config, Database, Failover, FailoverMode, Line, Listen, Method, Node, Password,
    Pool, Problem, Rules, Scheme, Shard, StoreUse, TlsLines, User, authentication, distribution,
    store, table,
};

/// What a file says, and what is wrong with it.
pub struct Findings {
    /// What is sound; the rest is left out or has its default. `None`: the file cannot be read, or is no TOML.
    pub config: Option<Config>,
    /// In the order of their lines.
    pub problems: Vec<Problem>,
}

impl Findings {
    fn sound(self) -> Result<Config, Vec<Problem>> {
        match self.config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(self.problems),
        }
    }
}

/// Reads a file, with secrets from this process's environment.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    look(path).sound()
}

/// Likewise; with what is sound of a file that has mistakes, so that others can look for more.
pub fn look(path: &Path) -> Findings {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => findings(&text, &file, &|name| std::env::var(name).ok()),
        Err(error) => Findings {
            config: None,
            problems: vec![Problem {
                file,
                line: Line(0),
                key: String::new(),
                message: format!("cannot be read: {error}"),
            }],
        },
    }
}

/// Reads a file's text. Relative paths in it start from the directory of `file`.
pub fn parse(
    text: &str,
    file: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Vec<Problem>> {
    findings(text, file, env).sound()
}

fn findings(text: &str, file: &str, env: &dyn Fn(&str) -> Option<String>) -> Findings {
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
    let config = sound.then(|| whole(Section::root(&source, document.get_ref()), file));
    let (problems, warnings) = source.findings();
    Findings {
        config: config.map(|config| Config { warnings, ..config }),
        problems,
    }
}

/// Everything; what is wrong has been noted and is left out or has its default.
fn whole(mut root: Section<'_>, file: &str) -> Config {
    let listen = settings::listen(root.section("listen"));
    let log = settings::log(root.section("log"));
    let limits = settings::limits(root.section("limits"));
    let tls_lines = TlsLines {
        listen: root.peek("listen").line_of("tls"),
        server: root.line_of("server_tls"),
    };
    let server_tls = settings::server_tls(root.section("server_tls"));
    let workers = root
        .read("workers", |entry| entry.whole(1..=1024))
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let proxy_id = root
        .read("proxy_id", |entry| entry.whole(0..=1023))
        .and_then(|number| u16::try_from(number).ok());
    let stats_period = root
        .read("stats_period", |entry| {
            entry.duration(Duration::from_secs(1)..=Duration::from_secs(86_400))
        })
        .unwrap_or(Duration::from_secs(60));
    let pool = settings::pool(root.section("pool"));
    let health = settings::health(root.section("health"));
    let transactions = settings::transactions(root.section("transactions"));
    let gather = settings::gather(root.section("gather"));
    let reads = reads::reads(root.section("reads"));
    let failover = reads::failover(root.section("failover"));
    let store_section = root.section("store");
    let store_use = match store_section.is_given() || failover.mode == FailoverMode::Promote {
        true => StoreUse::Shared,
        false => StoreUse::Own,
    };
    let store = store::read(store_section);

    let mut seen = Names::default();
    let shards: Vec<_> = root
        .sections("shards")
        .into_iter()
        .filter_map(|s| entry::shard(s, &mut seen))
        .collect();
    let shard_names = seen.take();
    let databases: Vec<_> = root
        .sections("databases")
        .into_iter()
        .filter_map(|section| entry::database(section, &mut seen, &shard_names))
        .collect();
    let database_names = seen.take();
    let sources = authentication::read(root.section("auth"));
    let mut users: Vec<_> = root
        .sections("users")
        .into_iter()
        .filter_map(|s| entry::user(s, &mut seen, &sources))
        .collect();
    let elsewhere = sources.may_be_elsewhere;

    let declared = distribution::Declared {
        shards: shard_names,
        databases: database_names,
    };
    let (distributions, known) = distribution::read(&mut root, &declared);
    let tables = table::read(&mut root, &declared, &known);

    for (key, is_empty) in [
        ("users", seen.take().is_empty() && !elsewhere),
        ("databases", declared.databases.is_empty()),
        ("shards", declared.shards.is_empty()),
    ] {
        if is_empty && (!root.has(key) || root.is_empty_array(key)) {
            root.note_key(key, format!("there is none; give at least one [[{key}]]"));
        }
    }
    same_node_twice(&root, &shards, databases.len());
    patroni_on_all_nodes(&root, &shards, &failover);
    smaller_than_workers(&root, workers, &pool, &users, &databases);
    let authentication = authentication::users_only_listed(sources, &mut users);
    authentication::certificates_can_be_verified(&root, &listen, &authentication, &users);
    doubtful(&root, &listen, &authentication, &users);
    root.done();
    Config {
        file: file.to_owned(),
        warnings: vec![],
        tls_lines,
        listen,
        log,
        limits,
        server_tls,
        workers,
        proxy_id,
        stats_period,
        pool,
        health,
        transactions,
        gather,
        reads,
        failover,
        store,
        store_use,
        authentication,
        users,
        databases,
        shards,
        distributions,
        tables,
    }
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

/// A shard of which some nodes have nobody to say who the primary is would follow two rules. And two who promote are worse than none.
fn patroni_on_all_nodes(root: &Section<'_>, shards: &[Shard], failover: &Failover) {
    for shard in shards {
        let with = shard.nodes.iter().filter(|node| node.patroni.is_some());
        if with.clone().count() == 0 {
            continue;
        }
        let key = format!("shards.{}.nodes", shard.name);
        for node in shard.nodes.iter().filter(|node| node.patroni.is_none()) {
            let message =
                "has no patroni, and another node of the shard has; give all of them one, or none";
            root.source.note(node.line, &key, message);
        }
        if failover.mode == FailoverMode::Promote {
            let message = "failover.mode is \"promote\", and Patroni promotes the nodes of this shard; let one of the two do it";
            root.source.note(shard.line, &key, message);
        }
        let is_https = |node: &&Node| {
            let url = node.patroni.as_ref();
            url.is_some_and(|url| url.scheme == Scheme::Https)
        };
        if let (Some(node), None) = (with.clone().find(is_https), &failover.tls) {
            let message = "has a patroni of https; give failover.root_certificate, the path of a PEM file with the authorities to trust";
            root.source.note(node.line, &key, message);
        }
    }
}

/// A pool's connections are divided among the workers, and each needs one at least.
fn smaller_than_workers(
    root: &Section<'_>,
    workers: usize,
    pool: &Pool,
    users: &[User],
    databases: &[Database],
) {
    let message = |size| {
        format!("{size} is less than workers = {workers}, and each worker needs a connection")
    };
    if pool.size < workers {
        root.note_key("pool", message(pool.size));
    }
    let users = users
        .iter()
        .map(|user| ("users", &user.name, user.line, user.pool_size));
    let databases = databases
        .iter()
        .map(|known| ("databases", &known.name, known.line, known.pool_size));
    for (section, name, line, size) in users.chain(databases) {
        if let Some(size) = size.filter(|size| *size < workers) {
            root.source
                .note(line, &format!("{section}.{name}.pool_size"), message(size));
        }
    }
}

/// What is allowed, yet probably not meant.
fn doubtful(root: &Section<'_>, listen: &Listen, authentication: &Authentication, users: &[User]) {
    if !users.is_empty() && !users.iter().any(|user| user.admin) {
        root.source.warn(
            users[0].line,
            "users",
            format!(
                "no user has admin = true, so nobody can use the admin database {ADMIN_DATABASE}"
            ),
        );
    }
    let trusted = |user: &&User| user.auth == Some(Method::Trust);
    let reachable = listen
        .addresses
        .iter()
        .any(|address| !address.ip().is_loopback());
    for user in users.iter().filter(trusted).filter(|_| reachable) {
        root.source.warn(
            user.line,
            &format!("users.{}.auth", user.name),
            "\"trust\" asks for no password, and listen.addresses can be reached from other machines",
        );
    }
    for rule in authentication
        .rules
        .iter()
        .flat_map(Rules::iter)
        .filter(|_| reachable)
    {
        if let Some(said) = rule.doubt() {
            root.source.warn(
                root.peek("auth").line_of("hba_file"),
                "auth.hba_file",
                format!("line {}: {said}", rule.line.0),
            );
        }
    }
    let asks = authentication.query.as_ref();
    let known = |user: &User| user.server_password.is_some();
    // Whoever is trusted here may well be trusted by the servers too.
    let hashed = |user: &User| matches!(user.password, Password::Md5(_) | Password::Verifier(_));
    if asks.is_none_or(|query| query.password.is_none())
        && !users.iter().any(known)
        && users.iter().any(hashed)
        && !users.iter().any(|user| trusted(&user))
    {
        root.source.warn(
            users[0].line,
            "users",
            "no password is known to look after the servers with; give a user server_password, or [auth.query] its password",
        );
    }
}
