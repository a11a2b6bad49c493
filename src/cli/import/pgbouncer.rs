//! PgBouncer: `pgbouncer.ini` and the file of users. See its `doc/config.md`.

use std::path::{Path, PathBuf};

use toml::Value;

use super::{
    Findings, Given, Options, Page, Place, Reasons, Time, YEAR, Zero, addresses, header, node,
    read, times, workers,
};
use crate::config::{self, Password, Problem, User};

const LOGS: &str = "Trunkline logs to standard error, see [log]";
const CIPHERS: &str = "rustls decides: TLS 1.2 and 1.3 with safe ciphers only";
const CERTIFICATE_FOR_SERVERS: &str = "servers are not shown a client certificate";
const SYSTEM: &str = "left to what starts the process, such as systemd";
const DNS: &str = "the system's resolver is asked at each connection";
const SOCKETS: &str = "sockets have no options here";
const PEERS: &str = "there are no peers: one process uses all processors";
const PER_POOL: &str = "pools have pool_size only, for each user, database and node";
const NOT_LOGGED_APART: &str = "log.filter says what is logged";
const ADMIN: &str = "the admin database is for users with admin = true; it is called trunkline";
const ONLY_GLOBAL: &str =
    "only for all databases and users at once, in [limits], [pool] or [auth.query]";
const TO_SERVERS: &str =
    "nothing is set on new server connections; use ALTER ROLE or ALTER DATABASE ... SET";
const FOREVER: &str = "there is nothing to free: pools are small when nobody uses them";

const GENERAL: Reasons = &[
    ("logfile syslog syslog_ident syslog_facility", LOGS),
    (
        "log_connections log_disconnections log_pooler_errors log_stats",
        NOT_LOGGED_APART,
    ),
    ("pidfile user service_name job_name conffile", SYSTEM),
    (
        "unix_socket_mode unix_socket_group",
        "the socket is open to all; guard it with its directory's mode",
    ),
    (
        "reserve_pool_size reserve_pool_timeout max_db_connections max_db_client_connections max_user_connections",
        PER_POOL,
    ),
    (
        "server_round_robin",
        "the connection used last is lent first",
    ),
    (
        "track_extra_parameters ignore_startup_parameters",
        "every parameter of a client follows it; none need be named",
    ),
    ("peer_id", PEERS),
    ("disable_pqexec", "the simple protocol is always allowed"),
    (
        "application_name_add_host",
        "application_name is the client's own; SHOW CLIENTS has its address",
    ),
    (
        "max_prepared_statements",
        "prepared statements are always followed; a server connection holds at most 500",
    ),
    (
        "scram_iterations",
        "no SCRAM verifier is made from it: those of the file keep their own, plain passwords have 4096",
    ),
    ("auth_ident_file", "there are no user name maps"),
    ("auth_ldap_options", "LDAP is not supported"),
    ("auth_hba_file", "counts only with auth_type = hba"),
    ("auth_query auth_dbname", "counts only with auth_user"),
    (
        "stats_users",
        "there is no read-only admin; give admin = true, or read /metrics",
    ),
    (
        "server_reset_query server_reset_query_always",
        "what a session leaves is always reset (DISCARD ALL), and what it set follows the client",
    ),
    (
        "server_check_query",
        "the check is Trunkline's own and cannot be taken away",
    ),
    (
        "server_fast_close",
        "old connections close when they are given back",
    ),
    (
        "server_login_retry",
        "waiting clients are told when a connection fails; the nodes are watched, see [health]",
    ),
    ("autodb_idle_timeout", "there is no fallback database"),
    ("pool_idle_timeout", FOREVER),
    (
        "dns_max_ttl dns_nxdomain_ttl dns_zone_check_period resolv_conf",
        DNS,
    ),
    (
        "query_wait_notify login_notify_message",
        "no notices are sent",
    ),
    (
        "client_tls_protocols client_tls_ciphers client_tls13_ciphers client_tls_ecdhcurve client_tls_dheparams",
        CIPHERS,
    ),
    (
        "server_tls_protocols server_tls_ciphers server_tls13_ciphers",
        CIPHERS,
    ),
    (
        "server_tls_key_file server_tls_cert_file",
        CERTIFICATE_FOR_SERVERS,
    ),
    (
        "client_tls_key_file client_tls_cert_file client_tls_ca_file",
        "not needed with this client_tls_sslmode",
    ),
    (
        "transaction_timeout",
        "idle_transaction_timeout and query_timeout are the limits there are",
    ),
    ("cancel_wait_timeout", "a cancel request does not wait"),
    ("suspend_timeout", "there is no SUSPEND"),
    ("pkt_buf sbuf_loopcnt", "buffers size themselves"),
    ("listen_backlog so_reuseport tcp_*", SOCKETS),
];

const OF_DATABASE: Reasons = &[
    (
        "auth_user auth_query auth_dbname query_wait_timeout server_lifetime",
        ONLY_GLOBAL,
    ),
    (
        "min_pool_size reserve_pool_size reserve_pool max_db_connections max_db_client_connections",
        PER_POOL,
    ),
    ("load_balance_hosts", "statements go to the primary"),
    (
        "connect_query client_encoding datestyle timezone application_name",
        TO_SERVERS,
    ),
    (
        "user password",
        "a role for the servers belongs to a user (server_user), and all databases must have the same one to be taken over",
    ),
];

const OF_USER: Reasons = &[
    ("reserve_pool_size max_user_connections", PER_POOL),
    (
        "query_timeout query_wait_timeout idle_transaction_timeout transaction_timeout client_idle_timeout max_user_client_connections",
        ONLY_GLOBAL,
    ),
];

/// The sections of the file and of those it includes.
#[derive(Default)]
struct Ini {
    pgbouncer: Options,
    databases: Vec<Options>,
    users: Vec<Options>,
    /// The section that is being read: a file that is included goes on in it, and leaves its own behind.
    section: String,
}

pub(super) fn imported(file: &Path, userlist: Option<&Path>) -> Result<String, Vec<Problem>> {
    let mut findings = Findings::default();
    let mut ini = Ini::default();
    ini.pgbouncer.place = Place {
        file: file.display().to_string(),
        line: 1,
    };
    ini.read(file, &mut Vec::new(), &mut findings);
    if !findings.problems.is_empty() {
        return Err(findings.problems);
    }
    let Ini {
        mut pgbouncer,
        databases,
        users,
        ..
    } = ini;
    let place = pgbouncer.place.clone();
    let auth_file = pgbouncer.text("auth_file").filter(|path| !path.is_empty());
    let path = userlist
        .map(Path::to_path_buf)
        .or_else(|| auth_file.as_ref().map(PathBuf::from));
    let listed = match &path {
        Some(path) => listed(path)?,
        None => Vec::new(),
    };
    let users_file = auth_file.or_else(|| path.map(|path| path.display().to_string()));

    let mut page = header(
        "PgBouncer's configuration",
        "# Relative paths start from the directory of this file, in PgBouncer from where it was started.\n\n",
    );
    let default_pool = pgbouncer
        .whole("default_pool_size", 1..=10_000, &mut findings)
        .unwrap_or(20);
    let socket_directory = pgbouncer.take("unix_socket_dir");
    let socket_directory = directory(socket_directory, &mut findings);
    let Databases { converted, server } =
        databases_of_one_server(databases, socket_directory.as_deref(), &mut findings)
            .ok_or_else(|| std::mem::take(&mut findings.problems))?;
    let mut users = Users::new(users, &mut findings);
    let sizes = converted.iter().filter_map(|database| database.pool_size);
    let sizes = sizes
        .chain(users.0.iter().filter_map(|user| user.pool_size))
        .chain([default_pool]);
    page.line("# PgBouncer has one. No more than the smallest pool has connections.");
    page.set("workers", workers(4, sizes));
    times(
        &mut pgbouncer,
        1000.0,
        &[Time {
            from: "stats_period",
            default: 60_000.0,
            to: "stats_period",
            zero: Zero::Nothing,
            allowed: 1000.0..=86_400_000.0,
        }],
        &mut page,
        &mut findings,
    );
    listen(
        &mut pgbouncer,
        socket_directory.as_deref(),
        &mut page,
        &mut findings,
    );
    limits(&mut pgbouncer, &mut page, &mut findings);
    server_tls(&mut pgbouncer, &mut page, &mut findings);
    pool(&mut pgbouncer, default_pool, &mut page, &mut findings);
    let auth = authentication(
        &mut pgbouncer,
        users_file.as_deref(),
        &listed,
        &converted,
        &mut page,
        &mut findings,
    );
    users.complete(&mut pgbouncer, &auth, &listed, &converted, &mut findings);
    if users.0.is_empty() && listed.is_empty() && !auth.others {
        findings.wrong(&place, "auth_file", "nobody could log in: give auth_file (or the file as the second argument), auth_user or auth_hba_file");
    }
    users.write(&mut page);
    for database in &converted {
        page.section("[[databases]]");
        page.set("name", database.name.as_str());
        if database.server_database != database.name {
            page.set("server_database", database.server_database.as_str());
        }
        page.set_if("pool_mode", database.pool_mode);
        page.set_if("pool_size", database.pool_size);
    }
    page.section("[[shards]]");
    page.set("name", "s1");
    let nodes: Vec<_> = server
        .0
        .iter()
        .map(|host| node(host, server.1, None))
        .collect();
    page.line(&format!("nodes = [{}]", nodes.join(", ")));
    pgbouncer.leave(GENERAL, &mut findings);
    findings.finish(page)
}

impl Ini {
    /// Reads a file; `open` are those that are being read, each of which includes the next.
    fn read(&mut self, file: &Path, open: &mut Vec<PathBuf>, findings: &mut Findings) {
        let mut place = Place {
            file: file.display().to_string(),
            line: 0,
        };
        if open.iter().any(|known| known == file) {
            findings.wrong(&place, "%include", "includes itself");
            return;
        }
        let text = match read(file) {
            Ok(text) => text,
            Err(problem) => {
                findings.problems.push(problem);
                return;
            }
        };
        open.push(file.to_path_buf());
        for (at, line) in text.lines().enumerate() {
            place.line = at + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(other) = line.strip_prefix("%include") {
                let other = Path::new(other.trim());
                // As PgBouncer does, from where it was started; else from beside the file.
                let beside = file
                    .parent()
                    .map_or_else(PathBuf::new, Path::to_path_buf)
                    .join(other);
                self.read(if other.exists() { other } else { &beside }, open, findings);
            } else if let Some(name) = line.strip_prefix('[') {
                match name.strip_suffix(']') {
                    Some(name) => name.clone_into(&mut self.section),
                    None => findings.wrong(&place, "", "is not a section: ] is missing"),
                }
                if self.section == "pgbouncer" {
                    self.pgbouncer.place = place.clone();
                }
            } else {
                match key_and_value(line) {
                    Some((key, value)) => self.add(key, value, &place, findings),
                    None => findings.wrong(&place, "", "is not an option: key = value"),
                }
            }
        }
        open.pop();
    }

    fn add(&mut self, key: String, value: &str, place: &Place, findings: &mut Findings) {
        let entries = match &*self.section {
            "pgbouncer" => {
                let value = Value::from(value);
                self.pgbouncer.items.push(Given {
                    place: place.clone(),
                    key,
                    value,
                });
                return;
            }
            "databases" => &mut self.databases,
            "users" => &mut self.users,
            "peers" => return findings.lose(place, &format!("[peers] {key}"), PEERS),
            "" => return findings.wrong(place, &key, "stands before any section"),
            other => {
                return findings.lose(
                    place,
                    &format!("[{other}] {key}"),
                    "not a section that is known here",
                );
            }
        };
        let Some(items) = pairs(value, place) else {
            findings.wrong(
                place,
                &key,
                "is not a list of key=value (values with blanks in single quotes)",
            );
            return;
        };
        // The last one counts.
        entries.retain(|entry| entry.name != key);
        entries.push(Options {
            name: key,
            place: place.clone(),
            items,
        });
    }
}

/// `key = value`, in which the key may be in double quotes.
fn key_and_value(line: &str) -> Option<(String, &str)> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(rest) => {
            let mut key = String::new();
            let mut rest = rest;
            loop {
                let (before, after) = rest.split_once('"')?;
                key.push_str(before);
                match after.strip_prefix('"') {
                    Some(after) => {
                        key.push('"');
                        rest = after;
                    }
                    None => break (key, after.trim_start().strip_prefix('=')?),
                }
            }
        }
        None => {
            let (key, rest) = line.split_once('=')?;
            (key.trim().to_owned(), rest)
        }
    };
    (!key.is_empty()).then(|| (key, rest.trim()))
}

/// `key=value key='a ''quoted'' value'`.
fn pairs(text: &str, place: &Place) -> Option<Vec<Given>> {
    let mut items = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let mut value = String::new();
        if let Some(mut quoted) = after.strip_prefix('\'') {
            loop {
                let (before, after) = quoted.split_once('\'')?;
                value.push_str(before);
                match after.strip_prefix('\'') {
                    Some(after) => {
                        value.push('\'');
                        quoted = after;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            if rest.starts_with(|next: char| !next.is_whitespace()) {
                return None;
            }
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            value.push_str(&after[..end]);
            rest = &after[end..];
        }
        let key = key.trim().to_owned();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return None;
        }
        items.push(Given {
            place: place.clone(),
            key,
            value: Value::from(value),
        });
        rest = rest.trim_start();
    }
    Some(items)
}

/// The users of the password file, read by the same code that will read it later.
fn listed(path: &Path) -> Result<Vec<User>, Vec<Problem>> {
    read(path).map_err(|problem| {
        vec![Problem {
            message: format!(
                "{}; give PgBouncer's auth_file as the second argument",
                problem.message
            ),
            ..problem
        }]
    })?;
    let file = Value::from(path.display().to_string());
    let text = format!(
        "auth = {{ users_file = {file} }}\ndatabases = [{{ name = \"d\" }}]\nshards = [{{ name = \"s\", nodes = [{{ host = \"h\" }}] }}]\n\
         workers = 1\n"
    );
    Ok(config::parse(&text, "", &|_| None)?.users)
}

fn directory(given: Option<Given>, findings: &mut Findings) -> Option<String> {
    let Some(given) = given else {
        return Some("/tmp".to_owned());
    };
    let path = given.text();
    if path.starts_with('@') {
        findings.lose(
            &given.place,
            "unix_socket_dir",
            "sockets in the abstract namespace are not supported",
        );
        return None;
    }
    (!path.is_empty()).then_some(path)
}

struct Database {
    name: String,
    server_database: String,
    pool_mode: Option<&'static str>,
    pool_size: Option<i64>,
    user: Option<String>,
    password: Option<String>,
    rest: Options,
}

/// Hosts (the first is taken as the primary) and their port.
type Server = (Vec<String>, i64);

struct Databases {
    converted: Vec<Database>,
    server: Server,
}

/// The databases of the server that most of them are on. `None`: there is none, which was noted.
fn databases_of_one_server(
    entries: Vec<Options>,
    sockets: Option<&str>,
    findings: &mut Findings,
) -> Option<Databases> {
    let mut found: Vec<(Server, Database)> = Vec::new();
    let mut fallback = None;
    for mut entry in entries {
        if entry.name == "*" {
            findings.lose(
                &entry.place,
                "[databases] *",
                "there is no fallback database; each one needs its [[databases]] entry",
            );
            fallback = Some(entry.place);
            continue;
        }
        let name = std::mem::take(&mut entry.name);
        if name == config::ADMIN_DATABASE {
            findings.wrong(&entry.place, &name, "is the name of Trunkline's admin database; give the entry another name (dbname may stay)");
            continue;
        }
        let hosts = entry.text("host").filter(|hosts| !hosts.is_empty());
        let hosts = hosts.unwrap_or_else(|| sockets.unwrap_or("/tmp").to_owned());
        let hosts: Vec<String> = hosts
            .split(',')
            .map(|host| host.trim().to_owned())
            .collect();
        if hosts.len() > 1 {
            findings.lose(&entry.place, &format!("[databases] {name} host"), "not in turns: the first is taken as the primary and gets all statements, the others as its replicas");
        }
        if hosts
            .iter()
            .any(|host| host.starts_with('@') || host.is_empty())
        {
            findings.wrong(
                &entry.place,
                &name,
                "has a host that is a socket in the abstract namespace, or empty",
            );
            continue;
        }
        let port = entry.whole("port", 1..=65_535, findings).unwrap_or(5432);
        entry.name = format!("[databases] {name}");
        let database = Database {
            server_database: entry.text("dbname").unwrap_or_else(|| name.clone()),
            pool_mode: entry
                .take("pool_mode")
                .and_then(|given| pool_mode(&given, findings)),
            pool_size: entry.whole("pool_size", 1..=10_000, findings),
            user: entry.text("user"),
            password: entry.text("password"),
            rest: entry,
            name,
        };
        found.push(((hosts, port), database));
    }
    let most = |server: &Server| found.iter().filter(|(other, _)| other == server).count();
    // The first of those that most are on.
    let Some(server) = found
        .iter()
        .rev()
        .map(|(server, _)| server)
        .max_by_key(|server| most(server))
        .cloned()
    else {
        let place = fallback.unwrap_or_default();
        findings.wrong(
            &place,
            "databases",
            "names no database; give each one its line, like `app = host=10.0.0.1`",
        );
        return None;
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(other, _)| *other == server);
    for ((hosts, port), database) in elsewhere {
        let reason = format!(
            "is on {}:{port}, most databases are on {}:{}, and a database is on every shard; run another Trunkline for it",
            hosts.join(","),
            server.0.join(","),
            server.1
        );
        findings.lose(
            &database.rest.place,
            &format!("[databases] {}", database.name),
            &reason,
        );
    }
    let mut converted: Vec<Database> = here.into_iter().map(|(_, database)| database).collect();
    let same = converted
        .iter()
        .all(|d| d.user == converted[0].user && d.password == converted[0].password);
    for database in &mut converted {
        let mut rest = std::mem::take(&mut database.rest);
        for (key, value) in [
            ("user", &mut database.user),
            ("password", &mut database.password),
        ] {
            if let Some(value) = value.take_if(|_| !same) {
                rest.items.push(Given {
                    place: rest.place.clone(),
                    key: key.to_owned(),
                    value: Value::from(value),
                });
            }
        }
        rest.leave(OF_DATABASE, findings);
    }
    Some(Databases { converted, server })
}

fn pool_mode(given: &Given, findings: &mut Findings) -> Option<&'static str> {
    match &*given.text() {
        "session" => Some("session"),
        "transaction" => Some("transaction"),
        "statement" => {
            findings.lose(
                &given.place,
                "pool_mode",
                "statement is transaction here: transactions of several statements are not refused",
            );
            Some("transaction")
        }
        _ => {
            findings.wrong(
                &given.place,
                "pool_mode",
                "is not session, transaction or statement",
            );
            None
        }
    }
}

fn listen(options: &mut Options, sockets: Option<&str>, page: &mut Page, findings: &mut Findings) {
    page.section("[listen]");
    let port = options
        .whole("listen_port", 1..=65_535, findings)
        .unwrap_or(6432);
    let given = options.take("listen_addr");
    let place = given
        .as_ref()
        .map_or_else(|| options.place.clone(), |given| given.place.clone());
    let hosts = given.map(|given| given.text()).unwrap_or_default();
    page.set(
        "addresses",
        addresses(&hosts, port, &place, "listen_addr", findings),
    );
    page.set_if("unix_socket_directory", sockets);
    let Some(given) = options.take("client_tls_sslmode") else {
        return;
    };
    let certificates = options
        .items
        .iter()
        .any(|given| given.key == "auth_type" && matches!(&*given.text(), "cert" | "hba"));
    // As in PgBouncer, verify-full looks at no name.
    let (mode, authorities) = match &*given.text() {
        "disable" => return,
        "allow" | "prefer" => ("prefer", certificates),
        "require" => ("require", certificates),
        "verify-ca" | "verify-full" => ("verify-ca", true),
        _ => {
            return findings.wrong(
                &given.place,
                "client_tls_sslmode",
                "is not disable, allow, prefer, require, verify-ca or verify-full",
            );
        }
    };
    page.section("[listen.tls]");
    page.set("mode", mode);
    for (from, to) in [
        ("client_tls_cert_file", "certificate"),
        ("client_tls_key_file", "key"),
    ] {
        match options.text(from) {
            Some(path) => page.set(to, path),
            None => findings.wrong(&given.place, "client_tls_sslmode", format!("needs {from}")),
        }
    }
    if authorities {
        match options.text("client_tls_ca_file") {
            Some(path) => page.set("client_authorities", path),
            None if mode == "verify-ca" => findings.wrong(
                &given.place,
                "client_tls_sslmode",
                "needs client_tls_ca_file",
            ),
            None => {}
        }
    }
}

fn limits(options: &mut Options, page: &mut Page, findings: &mut Findings) {
    page.section("[limits]");
    let clients = options
        .whole("max_client_conn", 1..=1_000_000, findings)
        .unwrap_or(100);
    page.set("max_client_connections", clients);
    match options.whole("max_user_client_connections", 0..=1_000_000, findings) {
        None | Some(0) => {}
        Some(most) => page.set("max_user_connections", most),
    }
    let largest = options
        .take("max_packet_size")
        .and_then(|given| given.number())
        .unwrap_or(f64::MAX);
    // Postgres itself takes no message of 1 GB.
    let largest = largest.clamp(65_536.0, 1_073_741_824.0);
    page.set(
        "max_message_size",
        match largest == 1_073_741_824.0 {
            true => "1GB".to_owned(),
            false => format!("{largest:.0}B"),
        },
    );
    times(
        options,
        1000.0,
        &[
            Time {
                from: "client_login_timeout",
                default: 60_000.0,
                to: "login_timeout",
                zero: Zero::Longest,
                allowed: 1000.0..=3_600_000.0,
            },
            Time {
                from: "client_idle_timeout",
                default: 0.0,
                to: "client_idle_timeout",
                zero: Zero::Off,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "idle_transaction_timeout",
                default: 0.0,
                to: "idle_transaction_timeout",
                zero: Zero::Off,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "query_timeout",
                default: 0.0,
                to: "query_timeout",
                zero: Zero::Off,
                allowed: 1.0..=YEAR,
            },
        ],
        page,
        findings,
    );
    if options
        .take("verbose")
        .is_some_and(|given| given.number().is_some_and(|much| much > 0.0))
    {
        page.section("[log]");
        page.set("filter", "debug");
    }
}

fn server_tls(options: &mut Options, page: &mut Page, findings: &mut Findings) {
    page.section("[server_tls]");
    let given = options.take("server_tls_sslmode");
    let mode = given
        .as_ref()
        .map_or_else(|| "prefer".to_owned(), Given::text);
    let place = given.map_or_else(|| options.place.clone(), |given| given.place);
    let authorities = options.text("server_tls_ca_file");
    match &*mode {
        "verify-ca" | "verify-full" if authorities.is_none() => {
            findings.wrong(&place, "server_tls_sslmode", "needs server_tls_ca_file")
        }
        "disable" | "prefer" | "require" | "verify-ca" | "verify-full" => page.set("mode", mode),
        "allow" => {
            findings.lose(
                &place,
                "server_tls_sslmode",
                "allow is prefer here: TLS where the server has it",
            );
            page.set("mode", "prefer");
        }
        _ => findings.wrong(
            &place,
            "server_tls_sslmode",
            "is not disable, allow, prefer, require, verify-ca or verify-full",
        ),
    }
    page.set_if("root_certificate", authorities);
}

fn pool(options: &mut Options, size: i64, page: &mut Page, findings: &mut Findings) {
    page.section("[pool]");
    let mode = match options.take("pool_mode") {
        Some(given) => pool_mode(&given, findings),
        None => Some("session"),
    };
    page.set_if("mode", mode);
    page.set("size", size);
    let least = options
        .whole("min_pool_size", 0..=10_000, findings)
        .unwrap_or(0);
    page.set("min_size", least.min(size));
    page.line("# Whoever is connected may wait.");
    page.set("max_waiting", 1_000_000);
    times(
        options,
        1000.0,
        &[
            Time {
                from: "query_wait_timeout",
                default: 120_000.0,
                to: "checkout_timeout",
                zero: Zero::Longest,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "server_idle_timeout",
                default: 600_000.0,
                to: "idle_timeout",
                zero: Zero::Off,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "server_lifetime",
                default: 3_600_000.0,
                to: "max_lifetime",
                zero: Zero::Nothing,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "server_check_delay",
                default: 30_000.0,
                to: "check_after_idle",
                zero: Zero::Nothing,
                allowed: 0.0..=YEAR,
            },
            Time {
                from: "server_connect_timeout",
                default: 15_000.0,
                to: "connect_timeout",
                zero: Zero::Longest,
                allowed: 1.0..=YEAR,
            },
        ],
        page,
        findings,
    );
}

/// How users log in.
struct Authentication {
    /// The `auth` of each user, where it is not what suits the stored password.
    each: Option<&'static str>,
    /// Users may log in that are not in the file.
    others: bool,
}

fn authentication(
    options: &mut Options,
    users_file: Option<&str>,
    listed: &[User],
    databases: &[Database],
    page: &mut Page,
    findings: &mut Findings,
) -> Authentication {
    let given = options.take("auth_type");
    let kind = given.as_ref().map_or_else(|| "md5".to_owned(), Given::text);
    let place = given.map_or_else(|| options.place.clone(), |given| given.place);
    page.section("[auth]");
    page.set_if("users_file", users_file);
    let mut auth = Authentication {
        each: None,
        others: false,
    };
    match &*kind {
        "scram-sha-256" => {}
        "md5" => {
            if listed.iter().any(|user| matches!(user.password, Password::Plain(_))) {
                findings.lose(&place, "auth_type", "users with a plain password log in with SCRAM-SHA-256, not md5; give those whose driver cannot auth = \"md5\"");
            }
        }
        "trust" => auth.each = Some("trust"),
        "cert" => auth.each = Some("cert"),
        "hba" => match options.text("auth_hba_file") {
            Some(path) => {
                page.set("hba_file", path);
                auth.others = true;
            }
            None => findings.wrong(&place, "auth_type", "hba needs auth_hba_file"),
        },
        "plain" => findings.lose(&place, "auth_type", "passwords are not asked for in clear text, but with SCRAM or md5; rules (auth.hba_file) with the method password do"),
        "any" | "pam" | "ldap" => findings.lose(&place, "auth_type", &format!("{kind} is not supported; users log in with their passwords")),
        _ => findings.wrong(&place, "auth_type", "is not a method of PgBouncer"),
    }
    let Some(user) = options
        .take("auth_user")
        .filter(|given| !given.text().is_empty())
    else {
        return auth;
    };
    auth.others = true;
    page.section("[auth.query]");
    page.set("user", user.text());
    match listed.iter().find(|known| known.name == user.text()).map(|known| &known.password) {
        Some(Password::Plain(password)) => page.set("password", password.0.as_str()),
        Some(Password::Md5(_) | Password::Verifier(_)) => findings.lose(&user.place, "auth_user", "its password is stored as a hash; give auth.query.password in plain text unless the server trusts it"),
        Some(Password::Absent) | None => {}
    }
    if let Some(given) = options.take("auth_dbname") {
        let name = given.text();
        let known = databases.iter().find(|database| database.name == name);
        page.set(
            "database",
            known
                .map_or(&name, |database| &database.server_database)
                .as_str(),
        );
    } else if databases.len() > 1 {
        findings.lose(&user.place, "auth_user", "the first database is asked, not each one for its own clients; auth.query.database names another");
    }
    if let Some(given) = options.take("auth_query") {
        page.line(
            "# Names are looked up in pg_catalog only: a function of your own needs its schema.",
        );
        match given.text().contains("$1") {
            true => page.set("sql", given.text()),
            false => findings.wrong(&given.place, "auth_query", "has no $1 for the user's name"),
        }
    }
    auth
}

/// An entry of `[[users]]`.
struct Entry {
    name: String,
    auth: Option<&'static str>,
    admin: bool,
    server_user: Option<String>,
    server_password: Option<String>,
    pool_mode: Option<&'static str>,
    pool_size: Option<i64>,
    place: Place,
}

struct Users(Vec<Entry>);

impl Users {
    fn new(sections: Vec<Options>, findings: &mut Findings) -> Users {
        let mut users = Users(Vec::new());
        for mut section in sections {
            let place = section.place.clone();
            let mode = section
                .take("pool_mode")
                .and_then(|given| pool_mode(&given, findings));
            let size = section.whole("pool_size", 1..=10_000, findings);
            let name = std::mem::take(&mut section.name);
            section.name = format!("[users] {name}");
            section.leave(OF_USER, findings);
            let entry = users.entry(&name, &place);
            (entry.pool_mode, entry.pool_size) = (mode, size);
        }
        users
    }

    fn entry(&mut self, name: &str, place: &Place) -> &mut Entry {
        let at = self
            .0
            .iter()
            .position(|entry| entry.name == name)
            .unwrap_or_else(|| {
                self.0.push(Entry {
                    name: name.to_owned(),
                    auth: None,
                    admin: false,
                    server_user: None,
                    server_password: None,
                    pool_mode: None,
                    pool_size: None,
                    place: place.clone(),
                });
                self.0.len() - 1
            });
        &mut self.0[at]
    }

    /// Admins, methods, and the role for the servers.
    fn complete(
        &mut self,
        options: &mut Options,
        auth: &Authentication,
        listed: &[User],
        databases: &[Database],
        findings: &mut Findings,
    ) {
        if let Some(given) = options.take("admin_users") {
            for name in given
                .text()
                .split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
            {
                self.entry(name, &given.place).admin = true;
            }
            findings.lose(&given.place, "admin_users", ADMIN);
        }
        let role = databases
            .first()
            .map(|database| (database.user.clone(), database.password.clone()));
        let (server_user, server_password) = role.unwrap_or_default();
        if auth.each.is_some() || server_user.is_some() {
            for user in listed {
                self.entry(&user.name, &options.place);
            }
        }
        self.0.retain(|entry| {
            let known = auth.others || listed.iter().any(|user| user.name == entry.name);
            if !known {
                findings.lose(
                    &entry.place,
                    &format!("user {}", entry.name),
                    "has no password: it is not in auth_file, and there is no auth_user",
                );
            }
            known
        });
        if server_user.is_some() && auth.others {
            findings.lose(
                &options.place,
                "[databases] user",
                "users that are not in auth_file use their own names on the servers",
            );
        }
        for entry in &mut self.0 {
            entry.auth = auth.each;
            entry.server_user.clone_from(&server_user);
            entry.server_password.clone_from(&server_password);
        }
        if let (Some(role), None) = (&server_user, &server_password) {
            match listed
                .iter()
                .find(|user| user.name == *role)
                .map(|user| &user.password)
            {
                Some(Password::Plain(password)) => {
                    for entry in &mut self.0 {
                        entry.server_password = Some(password.0.clone());
                    }
                }
                _ => findings.lose(
                    &options.place,
                    "[databases] user",
                    "its password is not in auth_file in plain text; give server_password",
                ),
            }
        }
    }

    fn write(&self, page: &mut Page) {
        for entry in &self.0 {
            page.section("[[users]]");
            page.set("name", entry.name.as_str());
            page.set_if("auth", entry.auth);
            if entry.admin {
                page.set("admin", true);
            }
            page.set_if("server_user", entry.server_user.as_deref());
            page.set_if("server_password", entry.server_password.as_deref());
            page.set_if("pool_mode", entry.pool_mode);
            page.set_if("pool_size", entry.pool_size);
        }
    }
}
