//! PgDog: `pgdog.toml` and `users.toml`, as its public documentation describes them.

use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::{
    Findings, Given, Options, Page, Place, Reasons, Time, YEAR, Zero, addresses, header, node,
    read, times, workers,
};
use crate::config::{self, Line, Problem};

const SHARDS: &str = "a statement goes to one shard, or is refused";
const RESHARDING: &str = "data is not moved between shards";
const REPLICAS: &str = "replicas are watched, and do not serve reads";
const TO_SERVERS: &str =
    "nothing is set on new server connections; use ALTER ROLE or ALTER DATABASE ... SET";
const ONLY_GLOBAL: &str = "only for all databases and users at once, in [pool]";

const GENERAL: Reasons = &[
    (
        "idle_healthcheck_delay",
        "nodes are looked at from the start",
    ),
    (
        "connection_recovery client_connection_recovery rollback_timeout",
        "what a client leaves is rolled back; a connection in doubt is closed",
    ),
    ("ban_*", "nodes are not banned: see [health]"),
    (
        "shutdown_termination_timeout",
        "what is left after shutdown_timeout is ended at once",
    ),
    (
        "connect_attempts connect_attempt_delay",
        "there is one attempt",
    ),
    ("server_lifetime_jitter", "always 10 %"),
    (
        "load_balancing_strategy read_write_strategy read_write_split lsn_check_*",
        REPLICAS,
    ),
    (
        "healthcheck_port",
        "/healthz and /readyz are at listen.http",
    ),
    (
        "openmetrics_namespace",
        "names of metrics begin with trunkline_",
    ),
    (
        "passthrough_auth",
        "users have their passwords here, in auth.users_file, or on a server ([auth.query])",
    ),
    (
        "prepared_statements prepared_statements_limit",
        "prepared statements of the protocol are always followed; a server connection holds at most 500",
    ),
    ("pub_sub_*", "LISTEN keeps its server connection"),
    ("mirror_*", "statements are not mirrored"),
    ("cross_shard_disabled two_phase_commit*", SHARDS),
    (
        "dry_run expanded_explain",
        "SHOW ROUTE and trunkline route explain where a statement goes",
    ),
    (
        "query_cache_limit query_parser* regex_parser_limit system_catalogs omnisharded_sticky reload_schema_on_ddl load_schema",
        "every statement is read, with the definitions of the servers",
    ),
    ("resharding_* cutover_*", RESHARDING),
    (
        "log_connections log_disconnections log_dedup_*",
        "log.filter says what is logged",
    ),
    (
        "dns_ttl",
        "the system's resolver is asked at each connection",
    ),
    ("unique_id_*", "no ids are made"),
    (
        "tls_client_ca_certificate",
        "needs tls_certificate and tls_private_key",
    ),
    (
        "tls_client_required",
        "needs tls_certificate and tls_private_key",
    ),
];

const OF_DATABASE: Reasons = &[
    ("statement_timeout lock_timeout read_only", TO_SERVERS),
    ("min_pool_size idle_timeout server_lifetime", ONLY_GLOBAL),
    ("lb_weight", REPLICAS),
    (
        "pool_size pooler_mode",
        "is not the same for all entries of this database, or is not allowed",
    ),
    (
        "user password",
        "a role for the servers belongs to a user (server_user), and all entries must have the same one to be taken over",
    ),
];

const OF_USER: Reasons = &[
    ("statement_timeout lock_timeout", TO_SERVERS),
    ("min_pool_size idle_timeout", ONLY_GLOBAL),
    ("replication_mode", "replication connections are refused"),
    ("two_phase_commit*", SHARDS),
];

/// Sections that have no equivalent as a whole.
const SECTIONS: Reasons = &[
    ("mirroring", "statements are not mirrored"),
    ("plugins", "there are no plugins"),
    (
        "rewrite",
        "statements are never rewritten: one that moves a row or needs several shards is refused",
    ),
    (
        "sharded_schemas",
        "schemas are not sharded; name each table with placement = \"single\"",
    ),
    ("tcp", "sockets have no options here"),
    (
        "memory",
        "buffers size themselves, see limits.max_message_size",
    ),
    ("otel control", "metrics are for Prometheus, at listen.http"),
    ("replica_lag multi_tenant manual_queries", REPLICAS),
];

/// A file's sections: those that stand once have one entry.
struct Document(Vec<(String, Vec<Options>)>);

impl Document {
    fn read(path: &Path) -> Result<Document, Vec<Problem>> {
        let text = read(path).map_err(|problem| vec![problem])?;
        let file = path.display().to_string();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let place = |at: usize| Place {
            file: file.clone(),
            line: line(at),
        };
        let table = DeTable::parse(&text).map_err(|error| {
            vec![Problem {
                file: file.clone(),
                line: Line(error.span().map_or(1, |span| line(span.start))),
                key: String::new(),
                message: format!("is not TOML: {}", error.message().trim()),
            }]
        })?;
        let options = |name: &str, at: usize, table: &DeTable<'_>| Options {
            name: name.to_owned(),
            place: place(at),
            items: table
                .iter()
                .map(|(key, value)| Given {
                    place: place(key.span().start),
                    key: key.get_ref().to_string(),
                    value: plain(value),
                })
                .collect(),
        };
        let sections = table.get_ref().iter().map(|(key, value)| {
            let (name, at) = (key.get_ref().to_string(), key.span().start);
            let entries = match value.get_ref() {
                DeValue::Table(table) => vec![options(&format!("[{name}]"), at, table)],
                DeValue::Array(array) => array
                    .iter()
                    .map(|entry| match entry.get_ref() {
                        DeValue::Table(table) => {
                            options(&format!("[[{name}]]"), entry.span().start, table)
                        }
                        _ => Options {
                            name: String::new(),
                            place: place(at),
                            items: vec![Given {
                                place: place(at),
                                key: name.clone(),
                                value: plain(entry),
                            }],
                        },
                    })
                    .collect(),
                _ => vec![Options {
                    name: String::new(),
                    place: place(at),
                    items: vec![Given {
                        place: place(at),
                        key: name.clone(),
                        value: plain(value),
                    }],
                }],
            };
            (name, entries)
        });
        Ok(Document(sections.collect()))
    }

    fn take(&mut self, name: &str) -> Vec<Options> {
        match self.0.iter().position(|(known, _)| known == name) {
            Some(at) => self.0.remove(at).1,
            None => Vec::new(),
        }
    }

    fn leave(self, findings: &mut Findings) {
        for (name, entries) in self.0 {
            let place = entries
                .first()
                .map(|entry| entry.place.clone())
                .unwrap_or_default();
            let known = SECTIONS
                .iter()
                .find(|(names, _)| names.split(' ').any(|known| known == name));
            findings.lose(
                &place,
                &name,
                known.map_or("not a section that is known here", |(_, reason)| reason),
            );
        }
    }
}

fn plain(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::from(number.as_str()), Value::from),
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| Value::from(number.as_str()), Value::from),
        DeValue::Boolean(yes) => Value::from(*yes),
        DeValue::Datetime(time) => Value::from(*time),
        DeValue::Array(array) => Value::Array(array.iter().map(plain).collect()),
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), plain(value)))
                .collect(),
        ),
    }
}

pub(super) fn imported(file: &Path, users: Option<&Path>) -> Result<String, Vec<Problem>> {
    let mut findings = Findings::default();
    let mut document = Document::read(file)?;
    let start = Place {
        file: file.display().to_string(),
        line: 0,
    };
    let Some(users) = users else {
        findings.wrong(
            &start,
            "",
            "has no users; give PgDog's users.toml as the second argument",
        );
        return Err(findings.problems);
    };
    let mut of_users = Document::read(users)?;
    let mut general = document
        .take("general")
        .into_iter()
        .next()
        .unwrap_or_else(|| Options {
            name: "[general]".to_owned(),
            place: start.clone(),
            items: Vec::new(),
        });
    let default_pool = general
        .whole("default_pool_size", 1..=10_000, &mut findings)
        .unwrap_or(10);
    let clusters = clusters(document.take("databases"), &mut findings);
    let Some(clusters) = of_one_layout(clusters, &mut findings) else {
        findings.wrong(
            &start,
            "databases",
            "there is no [[databases]] entry that can be taken over",
        );
        return Err(findings.problems);
    };
    let auth = match general.take("auth_type") {
        None => "scram-sha-256",
        Some(given) => match &*given.text() {
            "scram" => "scram-sha-256",
            "md5" => "md5",
            "trust" => "trust",
            _ => {
                findings.lose(
                    &given.place,
                    "[general] auth_type",
                    "only scram, md5 and trust are known; users log in with SCRAM-SHA-256",
                );
                "scram-sha-256"
            }
        },
    };
    let users = logins(
        of_users.take("users"),
        document.take("admin"),
        auth,
        &clusters,
        &mut findings,
    );
    if users.is_empty() {
        findings.wrong(
            &start,
            "users",
            "nobody could log in: users.toml has no user with a password",
        );
    }
    let mut page = header(
        "PgDog's configuration",
        "# Relative paths start from the directory of this file.\n\n",
    );
    let sizes = clusters.iter().filter_map(|cluster| cluster.pool_size);
    let sizes = sizes
        .chain(users.iter().filter_map(|user| user.pool_size))
        .chain([default_pool]);
    let wanted = general
        .whole("workers", 0..=1024, &mut findings)
        .unwrap_or(2);
    page.line("# No more than the smallest pool has connections.");
    page.set("workers", workers(wanted, sizes));
    times(
        &mut general,
        1.0,
        &[Time {
            from: "stats_period",
            default: 15_000.0,
            to: "stats_period",
            zero: Zero::Nothing,
            allowed: 1000.0..=86_400_000.0,
        }],
        &mut page,
        &mut findings,
    );
    settings(&mut general, default_pool, &mut page, &mut findings);
    general.leave(GENERAL, &mut findings);
    for user in &users {
        user.write(&mut page);
    }
    for cluster in &clusters {
        cluster.write(&mut page);
    }
    for (number, nodes) in clusters[0].layout.iter().enumerate() {
        page.section("[[shards]]");
        page.set("name", shard(number));
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(host, port, database)| node(host, *port, database.as_deref()))
            .collect();
        page.line(&format!("nodes = [{}]", nodes.join(", ")));
    }
    tables(&mut document, &clusters, &mut page, &mut findings);
    document.leave(&mut findings);
    of_users.leave(&mut findings);
    findings.finish(page)
}

fn shard(number: usize) -> String {
    format!("shard_{number}")
}

fn settings(general: &mut Options, default_pool: i64, page: &mut Page, findings: &mut Findings) {
    page.section("[listen]");
    let host = general.take("host");
    let place = host
        .as_ref()
        .map_or_else(|| general.place.clone(), |given| given.place.clone());
    let host = host.map_or_else(|| "0.0.0.0".to_owned(), |given| given.text());
    let port = general.whole("port", 1..=65_535, findings).unwrap_or(6432);
    page.set(
        "addresses",
        addresses(&host, port, &place, "[general] host", findings),
    );
    if let Some(port) = general.whole("openmetrics_port", 1..=65_535, findings) {
        page.set("http", format!("0.0.0.0:{port}"));
    }
    tls(general, page, findings);
    page.section("[log]");
    match general.take("log_format") {
        Some(given) if !["text", "json"].contains(&&*given.text()) => {
            findings.lose(
                &given.place,
                "[general] log_format",
                "there are text and json",
            );
        }
        given => page.set(
            "format",
            given.map_or_else(|| "text".to_owned(), |given| given.text()),
        ),
    }
    match general.take("log_level") {
        Some(given) if ["error", "warn", "info", "debug"].contains(&&*given.text()) => {
            page.set("filter", given.text())
        }
        Some(given) => findings.lose(
            &given.place,
            "[general] log_level",
            "names parts of PgDog, or more than debug; see log.filter",
        ),
        None => {}
    }
    page.section("[limits]");
    let off = |from, to| Time {
        from,
        default: 0.0,
        to,
        zero: Zero::Off,
        allowed: 1.0..=YEAR,
    };
    page.line("# PgDog has no limit.");
    page.set("max_client_connections", 1_000_000);
    times(
        general,
        1.0,
        &[
            Time {
                from: "client_login_timeout",
                default: 60_000.0,
                to: "login_timeout",
                zero: Zero::Longest,
                allowed: 1000.0..=3_600_000.0,
            },
            off("client_idle_timeout", "client_idle_timeout"),
            off(
                "client_idle_in_transaction_timeout",
                "idle_transaction_timeout",
            ),
            off("query_timeout", "query_timeout"),
            Time {
                from: "shutdown_timeout",
                default: 60_000.0,
                to: "shutdown_timeout",
                zero: Zero::Nothing,
                allowed: 0.0..=YEAR,
            },
        ],
        page,
        findings,
    );
    page.section("[pool]");
    let mode = general
        .take("pooler_mode")
        .and_then(|given| pool_mode(&given, findings));
    page.set("mode", mode.unwrap_or("transaction"));
    page.set("size", default_pool);
    let least = general
        .whole("min_pool_size", 0..=10_000, findings)
        .unwrap_or(1);
    page.set("min_size", least.min(default_pool));
    page.set("max_waiting", 1_000_000);
    times(
        general,
        1.0,
        &[
            Time {
                from: "checkout_timeout",
                default: 5000.0,
                to: "checkout_timeout",
                zero: Zero::Nothing,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "idle_timeout",
                default: 60_000.0,
                to: "idle_timeout",
                zero: Zero::Nothing,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "server_lifetime",
                default: 86_400_000.0,
                to: "max_lifetime",
                zero: Zero::Nothing,
                allowed: 1.0..=YEAR,
            },
            Time {
                from: "healthcheck_interval",
                default: 30_000.0,
                to: "check_after_idle",
                zero: Zero::Nothing,
                allowed: 0.0..=YEAR,
            },
            Time {
                from: "connect_timeout",
                default: 5000.0,
                to: "connect_timeout",
                zero: Zero::Nothing,
                allowed: 1.0..=YEAR,
            },
        ],
        page,
        findings,
    );
    page.section("[health]");
    times(
        general,
        1.0,
        &[
            Time {
                from: "idle_healthcheck_interval",
                default: 30_000.0,
                to: "interval",
                zero: Zero::Nothing,
                allowed: 100.0..=3_600_000.0,
            },
            Time {
                from: "healthcheck_timeout",
                default: 5000.0,
                to: "timeout",
                zero: Zero::Nothing,
                allowed: 10.0..=60_000.0,
            },
        ],
        page,
        findings,
    );
}

fn pool_mode(given: &Given, findings: &mut Findings) -> Option<&'static str> {
    match &*given.text() {
        "session" => Some("session"),
        "transaction" => Some("transaction"),
        "statement" => {
            findings.lose(
                &given.place,
                "pooler_mode",
                "statement is transaction here: transactions of several statements are not refused",
            );
            Some("transaction")
        }
        _ => {
            findings.wrong(
                &given.place,
                "pooler_mode",
                "is not session, transaction or statement",
            );
            None
        }
    }
}

fn tls(general: &mut Options, page: &mut Page, findings: &mut Findings) {
    let given = |key: &str| general.items.iter().any(|given| given.key == key);
    if given("tls_certificate") && given("tls_private_key") {
        let required = general.yes("tls_client_required");
        let authorities = general.take("tls_client_ca_certificate");
        page.section("[listen.tls]");
        page.set(
            "mode",
            match (required, &authorities) {
                (_, Some(_)) => "verify-ca",
                (true, None) => "require",
                (false, None) => "prefer",
            },
        );
        page.set_if("certificate", general.text("tls_certificate"));
        page.set_if("key", general.text("tls_private_key"));
        if let Some(authorities) = authorities {
            page.set("client_authorities", authorities.text());
            if !required {
                findings.lose(
                    &authorities.place,
                    "[general] tls_client_ca_certificate",
                    "clients without TLS are refused then, as if tls_client_required were true",
                );
            }
        }
    }
    page.section("[server_tls]");
    let mode = general.take("tls_verify");
    let authorities = general.text("tls_server_ca_certificate");
    let word = mode
        .as_ref()
        .map_or_else(|| "prefer".to_owned(), Given::text);
    let place = mode.map_or_else(|| general.place.clone(), |given| given.place);
    match &*word {
        "none" | "disabled" => page.set("mode", "disable"),
        "prefer" => page.set("mode", "prefer"),
        "verify_ca" | "verify_full" if authorities.is_none() => findings.wrong(
            &place,
            "tls_verify",
            "needs tls_server_ca_certificate: Trunkline trusts no authorities but those it is told",
        ),
        "verify_ca" => page.set("mode", "verify-ca"),
        "verify_full" => page.set("mode", "verify-full"),
        _ => findings.wrong(
            &place,
            "tls_verify",
            "is not none, prefer, verify_ca or verify_full",
        ),
    }
    page.set_if("root_certificate", authorities);
}

/// A node's host, port, and the name of its database where nodes differ.
type Member = (String, i64, Option<String>);

/// A database of PgDog: what is at its shards.
struct Cluster {
    name: String,
    place: Place,
    server_database: String,
    pool_mode: Option<String>,
    pool_size: Option<i64>,
    role: (Option<String>, Option<String>),
    /// The nodes of each shard, the primary first.
    layout: Vec<Vec<Member>>,
}

impl Cluster {
    fn write(&self, page: &mut Page) {
        page.section("[[databases]]");
        page.set("name", self.name.as_str());
        if self.server_database != self.name {
            page.set("server_database", self.server_database.as_str());
        }
        page.set_if("pool_mode", self.pool_mode.as_deref());
        page.set_if("pool_size", self.pool_size);
    }
}

/// What all entries of a database say. What they do not agree on stays where it is, to be named.
fn agreed(entries: &mut [Options], key: &str) -> Option<String> {
    let said = |entry: &Options| {
        entry
            .items
            .iter()
            .find(|given| given.key == key)
            .map(Given::text)
    };
    let first = said(&entries[0])?;
    if !entries
        .iter()
        .all(|entry| said(entry).as_ref() == Some(&first))
    {
        return None;
    }
    for entry in entries {
        entry.take(key);
    }
    Some(first)
}

fn clusters(entries: Vec<Options>, findings: &mut Findings) -> Vec<Cluster> {
    let mut by_name: Vec<(String, Vec<Options>)> = Vec::new();
    for mut entry in entries {
        let Some(name) = entry.text("name") else {
            findings.wrong(&entry.place, "databases", "has no name");
            continue;
        };
        match by_name.iter_mut().find(|(known, _)| *known == name) {
            Some((_, entries)) => entries.push(entry),
            None => by_name.push((name, vec![entry])),
        }
    }
    by_name
        .into_iter()
        .filter_map(|(name, entries)| cluster(name, entries, findings))
        .collect()
}

fn cluster(name: String, mut entries: Vec<Options>, findings: &mut Findings) -> Option<Cluster> {
    let place = entries[0].place.clone();
    if name == config::ADMIN_DATABASE {
        findings.wrong(
            &place,
            &name,
            "is the name of Trunkline's admin database; give it another name",
        );
        return None;
    }
    let mut numbers = Vec::new();
    for entry in &mut entries {
        let database = entry.text("database_name").unwrap_or_else(|| name.clone());
        let number = entry.whole("shard", 0..=9999, findings).unwrap_or(0);
        let port = entry.whole("port", 1..=65_535, findings).unwrap_or(5432);
        let Some(host) = entry.text("host") else {
            findings.wrong(&entry.place, &name, "has no host");
            continue;
        };
        let replica = match entry.text("role").as_deref() {
            None | Some("primary" | "auto") => false,
            Some("replica") => true,
            Some(_) => {
                findings.wrong(&entry.place, "role", "is not primary, replica or auto");
                continue;
            }
        };
        numbers.push((
            usize::try_from(number).unwrap_or(0),
            replica,
            (host, port, database),
        ));
    }
    // Primaries before replicas, otherwise as they stand.
    numbers.sort_by_key(|(number, replica, _)| (*number, *replica));
    let shards = numbers.last()?.0 + 1;
    if let Some(missing) =
        (0..shards).find(|shard| !numbers.iter().any(|(number, ..)| number == shard))
    {
        findings.wrong(&place, &name, format!("has no entry for shard {missing}"));
        return None;
    }
    let first = numbers[0].2.2.clone();
    let same = numbers
        .iter()
        .all(|(_, _, (_, _, database))| *database == first);
    let mut layout = vec![Vec::new(); shards];
    for (number, _, (host, port, database)) in numbers {
        layout[number].push((host, port, (!same).then_some(database)));
    }
    let role = (
        agreed(&mut entries, "user"),
        agreed(&mut entries, "password"),
    );
    let pool_size = agreed(&mut entries, "pool_size").and_then(|size| size.parse().ok());
    let pool_mode = agreed(&mut entries, "pooler_mode").and_then(|mode| {
        let given = Given {
            place: place.clone(),
            key: "pooler_mode".to_owned(),
            value: Value::from(mode),
        };
        pool_mode(&given, findings).map(str::to_owned)
    });
    for entry in entries {
        entry.leave(OF_DATABASE, findings);
    }
    let server_database = if same { first } else { name.clone() };
    Some(Cluster {
        name,
        place,
        server_database,
        pool_mode,
        pool_size,
        role,
        layout,
    })
}

/// The databases whose shards are those of most databases: here every database is on every shard.
fn of_one_layout(clusters: Vec<Cluster>, findings: &mut Findings) -> Option<Vec<Cluster>> {
    let most = |layout: &Vec<Vec<Member>>| {
        clusters
            .iter()
            .filter(|other| other.layout == *layout)
            .count()
    };
    let layout = clusters
        .iter()
        .rev()
        .map(|cluster| &cluster.layout)
        .max_by_key(|layout| most(layout))?
        .clone();
    // A node can name its database only when there is one.
    let alone = layout
        .iter()
        .flatten()
        .any(|(_, _, database)| database.is_some());
    let mut kept: Vec<Cluster> = Vec::new();
    for cluster in clusters {
        if cluster.layout == layout && (!alone || kept.is_empty()) {
            kept.push(cluster);
        } else {
            findings.lose(&cluster.place, &format!("[[databases]] {}", cluster.name), "has other servers than most databases, and a database is on every shard; run another Trunkline for it");
        }
    }
    Some(kept)
}

struct Login {
    name: String,
    password: Option<String>,
    auth: &'static str,
    admin: bool,
    server_user: Option<String>,
    server_password: Option<String>,
    pool_mode: Option<&'static str>,
    pool_size: Option<i64>,
}

impl Login {
    fn write(&self, page: &mut Page) {
        page.section("[[users]]");
        page.set("name", self.name.as_str());
        page.set_if("password", self.password.as_deref());
        page.set("auth", self.auth);
        if self.admin {
            page.set("admin", true);
        }
        page.set_if("server_user", self.server_user.as_deref());
        page.set_if("server_password", self.server_password.as_deref());
        page.set_if("pool_mode", self.pool_mode);
        page.set_if("pool_size", self.pool_size);
    }
}

fn logins(
    entries: Vec<Options>,
    admin: Vec<Options>,
    auth: &'static str,
    clusters: &[Cluster],
    findings: &mut Findings,
) -> Vec<Login> {
    let mut logins: Vec<Login> = Vec::new();
    // What a database says goes before what its users say.
    let role = &clusters[0].role;
    let same = clusters.iter().all(|cluster| cluster.role == *role);
    for mut entry in entries {
        let Some(name) = entry.text("name") else {
            findings.wrong(&entry.place, "users", "has no name");
            continue;
        };
        entry.name = format!("user {name}");
        let database = entry.text("database").unwrap_or_default();
        if !database.is_empty() && !clusters.iter().any(|cluster| cluster.name == database) {
            findings.lose(
                &entry.place,
                &entry.name,
                &format!("is of {database}, which is not taken over"),
            );
            continue;
        }
        let password = entry.text("password");
        if password.is_none() && auth != "trust" {
            findings.lose(
                &entry.place,
                &entry.name,
                "has no password, so it is left out",
            );
            continue;
        }
        if clusters.len() > 1 {
            findings.lose(
                &entry.place,
                &format!("{} database", entry.name),
                "a user may use every database; rules (auth.hba_file) can say which",
            );
        }
        let own = (entry.text("server_user"), entry.text("server_password"));
        let login = Login {
            password,
            auth,
            admin: false,
            server_user: role.0.clone().filter(|_| same).or(own.0),
            server_password: role.1.clone().filter(|_| same).or(own.1),
            pool_mode: entry
                .take("pooler_mode")
                .and_then(|given| pool_mode(&given, findings)),
            pool_size: entry.whole("pool_size", 1..=10_000, findings),
            name,
        };
        match logins.iter().find(|known| known.name == login.name) {
            None => logins.push(login),
            Some(known) => {
                if known.password != login.password
                    || known.server_user != login.server_user
                    || known.server_password != login.server_password
                {
                    findings.lose(&entry.place, &entry.name, "stands here again with another password or role; a user has one, the first");
                }
            }
        }
        entry.leave(OF_USER, findings);
    }
    if !same {
        findings.lose(&clusters[0].place, "[[databases]] user, password", "differ between databases, so no user has them; give users server_user and server_password");
    }
    for mut section in admin {
        let name = section
            .take("user")
            .map_or_else(|| "admin".to_owned(), |given| given.text());
        let database = section.take("name");
        let place = database.map_or_else(|| section.place.clone(), |given| given.place);
        findings.lose(
            &place,
            "[admin] name",
            "the admin database is called trunkline, and its users may use the others too",
        );
        let password = section.text("password");
        match (logins.iter_mut().find(|known| known.name == name), password) {
            (Some(known), password) if password.is_none() || known.password == password => {
                known.admin = true
            }
            (Some(_), _) => findings.lose(
                &section.place,
                "[admin] user",
                "is a user with another password; give another name",
            ),
            (None, Some(password)) => logins.push(Login {
                name,
                password: Some(password),
                // PgDog asks for it whatever users do.
                auth: if auth == "trust" {
                    "scram-sha-256"
                } else {
                    auth
                },
                admin: true,
                server_user: None,
                server_password: None,
                pool_mode: None,
                pool_size: None,
            }),
            (None, None) => findings.lose(
                &section.place,
                "[admin] user",
                "has no password, so it is left out",
            ),
        }
        section.leave(&[], findings);
    }
    logins
}

/// A name as in SQL, in quotes where it needs them.
fn sql_name(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// The lines of a distribution after its name and database. Tables that have the same ones are colocated.
fn strategy(key: &str, hasher: &str, mapping: &[Value], shards: usize) -> Result<String, String> {
    let key = match key {
        "bigint" | "bigserial" => "bigint",
        "integer" | "int" | "serial" => "integer",
        "varchar" | "text" => "text",
        "uuid" => "uuid",
        other => return Err(format!("keys of type {other} have no distribution")),
    };
    let mut lines = format!("key = \"{key}\"\n");
    if mapping.is_empty() {
        if hasher != "postgres" {
            return Err(format!("the hash {hasher} is not known"));
        }
        if !shards.is_power_of_two() {
            return Err(format!(
                "hash modulo {shards} shards has no equivalent: the number of buckets is a power of two"
            ));
        }
        let names: Vec<_> = (0..shards)
            .map(|number| Value::from(shard(number)).to_string())
            .collect();
        return Ok(lines
            + &format!(
                "strategy = \"hash\"\n# One bucket for each shard, as PgDog has it: the hash modulo the number of shards.\nbuckets = {shards}\nshards = [{}]",
                names.join(", ")
            ));
    }
    let has = |rule: &Value, key: &str| rule.get(key).is_some();
    let (mut lists, mut ranges, mut default) = (Vec::new(), Vec::new(), None);
    for rule in mapping {
        let number = rule
            .get("shard")
            .and_then(Value::as_integer)
            .and_then(|number| usize::try_from(number).ok());
        let Some(number) = number.filter(|number| *number < shards) else {
            return Err("a mapping names a shard that does not exist".to_owned());
        };
        let name = Value::from(shard(number));
        if let Some(unknown) = rule.as_table().and_then(|rule| {
            rule.keys().find(|key| {
                ![
                    "values", "start", "end", "shard", "kind", "database", "column", "table",
                ]
                .contains(&key.as_str())
            })
        }) {
            return Err(format!(
                "its mapping has {unknown}, which is not known here"
            ));
        }
        match (rule.get("values"), has(rule, "start") || has(rule, "end")) {
            (Some(_), true) => return Err("a mapping has both values and a range".to_owned()),
            (Some(values), false) => {
                lists.push(format!("    {{ values = {values}, shard = {name} }},\n"))
            }
            (None, true) => {
                let end = |key: &str, to: &str| {
                    rule.get(key)
                        .map_or_else(String::new, |value| format!("{to} = {value}, "))
                };
                ranges.push(format!(
                    "    {{ {}{}shard = {name} }},\n",
                    end("start", "from"),
                    end("end", "to")
                ));
            }
            (None, false) => default = Some(name),
        }
    }
    match (lists.is_empty(), ranges.is_empty()) {
        (false, true) => {
            lines += &format!("strategy = \"list\"\nvalues = [\n{}]", lists.concat());
            if let Some(default) = default {
                lines += &format!("\ndefault = {default}");
            }
            Ok(lines)
        }
        (true, false) if default.is_none() => {
            Ok(lines + &format!("strategy = \"range\"\nranges = [\n{}]", ranges.concat()))
        }
        (true, false) => Err("ranges have no default: cover every key with ranges".to_owned()),
        (false, false) => Err("lists and ranges cannot be in one distribution".to_owned()),
        (true, true) => Err("a default alone places no key; use placement = \"single\"".to_owned()),
    }
}

fn tables(document: &mut Document, clusters: &[Cluster], page: &mut Page, findings: &mut Findings) {
    let shards = clusters[0].layout.len();
    let mut apart = document.take("sharded_mapping");
    apart.extend(document.take("sharded_mappings"));
    let mut known: Vec<(String, String, String)> = Vec::new();
    let entries = document.take("sharded_tables");
    if let Some(first) = entries.first() {
        findings.lose(
            &first.place,
            "[[sharded_tables]] data_type",
            "bigint is said of integer columns too; `key` must be the columns' own type",
        );
    }
    for mut entry in entries {
        let database = entry.text("database").unwrap_or_default();
        let name = entry.text("name").or_else(|| entry.text("table"));
        let Some(column) = entry.text("column") else {
            findings.wrong(&entry.place, "sharded_tables", "has no column");
            continue;
        };
        let what = format!(
            "[[sharded_tables]] {}.{column}",
            name.as_deref().unwrap_or("*")
        );
        if !clusters.iter().any(|cluster| cluster.name == database) {
            findings.lose(
                &entry.place,
                &what,
                &format!("is of {database:?}, which is not taken over"),
            );
            continue;
        }
        let mut mapping = match entry.take("mapping").map(|given| given.value) {
            Some(Value::Array(rules)) => rules,
            Some(_) => {
                findings.wrong(
                    &entry.place,
                    "sharded_tables",
                    "has a mapping that is not an array",
                );
                continue;
            }
            None => Vec::new(),
        };
        for rule in &apart {
            let said = |key: &str| {
                rule.items
                    .iter()
                    .find(|given| given.key == key)
                    .map(Given::text)
            };
            if said("database").as_ref() == Some(&database)
                && said("column").as_ref() == Some(&column)
                && (said("table").is_none() || said("table") == name)
            {
                mapping.push(Value::Table(
                    rule.items
                        .iter()
                        .map(|given| (given.key.clone(), given.value.clone()))
                        .collect(),
                ));
            }
        }
        let key = entry
            .text("data_type")
            .unwrap_or_else(|| "bigint".to_owned());
        let hasher = entry
            .text("hasher")
            .unwrap_or_else(|| "postgres".to_owned());
        let lines = match strategy(&key, &hasher, &mapping, shards) {
            Ok(lines) => lines,
            Err(reason) => {
                findings.lose(&entry.place, &what, &reason);
                continue;
            }
        };
        let of_database = (clusters.len() > 1).then(|| database.clone());
        let found = known
            .iter()
            .find(|(of, _, same)| *of == database && *same == lines);
        let distribution = match found {
            Some((_, name, _)) => name.clone(),
            None => {
                let times = known
                    .iter()
                    .filter(|(of, name, _)| {
                        *of == database
                            && name.trim_end_matches(|c: char| c == '_' || c.is_ascii_digit())
                                == column.trim_end_matches(|c: char| c == '_' || c.is_ascii_digit())
                    })
                    .count();
                let name = if times == 0 {
                    column.clone()
                } else {
                    format!("{column}_{}", times + 1)
                };
                page.section("[[distributions]]");
                page.set("name", name.as_str());
                page.set_if("database", of_database.clone());
                page.line(&lines);
                known.push((database, name.clone(), lines));
                name
            }
        };
        let schema = entry.take("schema");
        let Some(name) = name else {
            findings.lose(&entry.place, &what, &format!("every table with this column is meant; each one needs its [[tables]] with distribution = {distribution:?} and key = {:?}", sql_name(&column)));
            entry.leave(&[], findings);
            continue;
        };
        if schema.is_none() {
            findings.lose(
                &entry.place,
                &what,
                "is in every schema in PgDog, here in public; name others as schema.table",
            );
        }
        page.section("[[tables]]");
        let schema = schema
            .map(|given| given.text())
            .filter(|schema| schema != "public");
        page.set(
            "name",
            schema.map_or_else(String::new, |schema| format!("{}.", sql_name(&schema)))
                + &sql_name(&name),
        );
        page.set_if("database", of_database);
        page.set("distribution", distribution);
        page.set("key", sql_name(&column));
        entry.name = what;
        entry.leave(
            &[(
                "primary centroids centroids_path centroid_probes",
                "vectors have no distribution",
            )],
            findings,
        );
    }
    for mut entry in document.take("omnisharded_tables") {
        let database = entry.text("database").unwrap_or_default();
        let names = entry.take("tables").map(|given| given.value);
        if !clusters.iter().any(|cluster| cluster.name == database) {
            findings.lose(
                &entry.place,
                "[[omnisharded_tables]]",
                &format!("is of {database:?}, which is not taken over"),
            );
            continue;
        }
        for name in names
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            page.section("[[tables]]");
            page.set("name", sql_name(name));
            page.set_if("database", (clusters.len() > 1).then(|| database.clone()));
            page.set("placement", "reference");
        }
        entry.leave(
            &[(
                "sticky",
                "a statement on reference tables alone goes to any shard",
            )],
            findings,
        );
    }
    if shards > 1 {
        findings.lose(&clusters[0].place, "tables that are not named", "are on every shard in PgDog; here they are refused until they are named, those with placement = \"reference\"");
    }
}
