//! SHOW CONFIG, DATABASES and USERS: what the administrator wrote, without any secret.

use std::collections::BTreeSet;

use super::super::table::{Cell, Column, Table, row, text, truth, whole};
use super::View;
use super::clock::span;
use super::pools::mode;
use crate::catalog::SchemaState;
use crate::config::{
    self, Argv, Balance, ByteSize, CertificateDemand, ClientTls, Config, CrossShardCommit,
    Database, FailoverMode, Fence, Line, LogFormat, MissingReplicas, Password, PrimaryReads,
    SslMode, User,
};
use crate::session::worker::Paused;

pub const CONFIG: &[Column] = &[
    text("key"),
    text("value"),
    text("default"),
    text("changeable"),
];

pub const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    whole("port"),
    text("database"),
    text("force_user"),
    whole("pool_size"),
    whole("min_pool_size"),
    whole("reserve_pool_size"),
    whole("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    whole("max_connections"),
    whole("current_connections"),
    whole("max_client_connections"),
    whole("current_client_connections"),
    whole("paused"),
    whole("disabled"),
    text("home_shard"),
    whole("epoch"),
    text("definitions"),
];

pub const USERS: &[Column] = &[
    text("name"),
    whole("pool_size"),
    whole("reserve_pool_size"),
    text("pool_mode"),
    whole("max_user_connections"),
    whole("current_connections"),
    whole("max_user_client_connections"),
    whole("current_client_connections"),
    text("auth"),
    truth("admin"),
    text("server_user"),
];

/// A file that says no more than it must, for the defaults.
const LEAST: &str = r#"
    [[users]]
    name = "user"
    password = "password"
    [[databases]]
    name = "database"
    [[shards]]
    name = "shard"
    nodes = [{ host = "host" }]
"#;

pub fn config(config: &Config, table: &mut Table) {
    let defaults = config::parse(LEAST, "", &|_| None);
    let defaults = defaults.as_ref().map(settings).unwrap_or_default();
    for setting in settings(config) {
        let default = defaults
            .iter()
            .find(|other| other.key == setting.key)
            .and_then(|other| other.value.clone());
        let changeable = match setting.change {
            Change::Reload => "yes",
            Change::Restart => "no",
        };
        table.push(row![setting.key, setting.value, default, changeable]);
    }
}

/// One setting of the file, outside the lists of users, databases, shards, distributions and tables.
struct Setting {
    key: &'static str,
    value: Option<String>,
    change: Change,
}

/// What puts a new value in force.
#[derive(Clone, Copy)]
enum Change {
    Reload,
    Restart,
}

fn settings(config: &Config) -> Vec<Setting> {
    let listen = &config.listen;
    let addresses: Vec<String> = listen.addresses.iter().map(ToString::to_string).collect();
    let directory = listen
        .unix_socket_directory
        .as_ref()
        .map(|directory| directory.display().to_string());
    let restart = |key, value| Setting {
        key,
        value,
        change: Change::Restart,
    };
    let mut settings = vec![
        restart("workers", Some(config.workers.to_string())),
        restart("listen.addresses", Some(addresses.join(", "))),
        restart("listen.unix_socket_directory", directory),
        restart(
            "listen.http",
            Some(
                listen
                    .http
                    .map_or_else(|| "off".to_owned(), |address| address.to_string()),
            ),
        ),
        restart("log.format", Some(log_format(config.log.format).to_owned())),
        restart("log.filter", Some(config.log.filter.clone())),
    ];
    settings.push(reload(
        "proxy_id",
        config.proxy_id.map(|number| number.to_string()),
    ));
    settings.push(reload("stats_period", span(config.stats_period)));
    settings.extend(tls(config));
    settings.extend(authentication(config));
    settings.extend(limits(config));
    settings.extend(pool(config));
    settings.extend(health(config));
    settings.extend(reads(config));
    settings.extend(failover(config));
    settings.extend(transactions(config));
    settings.extend(gather(config));
    settings
}

fn reload(key: &'static str, value: impl Into<Option<String>>) -> Setting {
    Setting {
        key,
        value: value.into(),
        change: Change::Reload,
    }
}

fn or_off(limit: Option<std::time::Duration>) -> String {
    limit.map_or_else(|| "off".to_owned(), span)
}

fn tls(config: &Config) -> [Setting; 6] {
    let (mode, offer) = match &config.listen.tls {
        ClientTls::Disable => ("disable", None),
        ClientTls::Prefer(offer) => ("prefer", Some(offer)),
        ClientTls::Require(offer) => match offer.demand {
            CertificateDemand::Nothing => ("require", Some(offer)),
            CertificateDemand::Valid => ("verify-ca", Some(offer)),
            CertificateDemand::Named => ("verify-full", Some(offer)),
        },
    };
    let server_mode = match config.server_tls.mode {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    let pair = offer.map(|offer| &offer.certificate);
    let authorities = offer.and_then(|offer| offer.client_authorities.as_ref());
    let root = config.server_tls.root_certificate.as_ref();
    [
        reload("listen.tls.mode", mode.to_owned()),
        reload(
            "listen.tls.certificate",
            pair.map(|pair| pair.certificate.display().to_string()),
        ),
        reload(
            "listen.tls.key",
            pair.map(|pair| pair.key.display().to_string()),
        ),
        reload(
            "listen.tls.client_authorities",
            authorities.map(|file| file.display().to_string()),
        ),
        reload("server_tls.mode", server_mode.to_owned()),
        reload(
            "server_tls.root_certificate",
            root.map(|file| file.display().to_string()),
        ),
    ]
}

fn limits(config: &Config) -> [Setting; 7] {
    let limits = &config.limits;
    [
        reload(
            "limits.max_client_connections",
            limits.max_client_connections.to_string(),
        ),
        reload(
            "limits.max_user_connections",
            limits.max_user_connections.map(|limit| limit.to_string()),
        ),
        reload("limits.login_timeout", span(limits.login_timeout)),
        reload("limits.max_message_size", size(limits.max_message_size)),
        reload("limits.plan_cache_size", size(limits.plan_cache_size)),
        reload(
            "limits.max_prepared_statements",
            limits.max_prepared_statements.to_string(),
        ),
        // The process takes it once, when it starts.
        Setting {
            key: "limits.shutdown_timeout",
            value: Some(span(limits.shutdown_timeout)),
            change: Change::Restart,
        },
    ]
}

fn pool(config: &Config) -> [Setting; 12] {
    let pool = &config.pool;
    let or_never =
        |time: Option<std::time::Duration>| time.map_or_else(|| "never".to_owned(), span);
    [
        reload("pool.mode", mode(pool.mode).to_owned()),
        reload("pool.size", pool.size.to_string()),
        reload("pool.min_size", pool.min_size.to_string()),
        reload("pool.checkout_timeout", span(pool.checkout_timeout)),
        reload("pool.max_waiting", pool.max_waiting.to_string()),
        reload("pool.max_waiting_size", size(pool.max_waiting_size)),
        reload("pool.idle_timeout", or_never(pool.idle_timeout)),
        reload("pool.max_lifetime", or_never(pool.max_lifetime)),
        reload("pool.check_after_idle", span(pool.check_after_idle)),
        reload("pool.connect_timeout", span(pool.connect_timeout)),
        reload(
            "pool.max_prepared_statements",
            pool.max_prepared_statements.to_string(),
        ),
        reload("pool.max_prepared_size", size(pool.max_prepared_size)),
    ]
}

fn health(config: &Config) -> [Setting; 8] {
    let health = &config.health;
    let slow_start = Some(health.slow_start).filter(|time| !time.is_zero());
    [
        reload("health.interval", span(health.interval)),
        reload("health.timeout", span(health.timeout)),
        reload("health.fall", health.fall.to_string()),
        reload("health.rise", health.rise.to_string()),
        reload("health.eject_after", health.eject_after.to_string()),
        reload("health.eject_time", span(health.eject_time)),
        reload("health.max_eject_time", span(health.max_eject_time)),
        reload("health.slow_start", or_off(slow_start)),
    ]
}

fn reads(config: &Config) -> [Setting; 9] {
    let reads = &config.reads;
    let balance = match reads.balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastConnections => "least_connections",
        Balance::Weighted => "weighted",
        Balance::ClientAddress => "client_address",
        Balance::NearestZone => "nearest_zone",
    };
    let primary = match reads.primary {
        PrimaryReads::TakesPart => "takes_part",
        PrimaryReads::LastResort => "last_resort",
    };
    let functions = Some(reads.functions.join(", ")).filter(|names| !names.is_empty());
    [
        reload("reads.from", reads.from.as_str().to_owned()),
        reload("reads.causal", reads.causal.as_str().to_owned()),
        reload("reads.wait", span(reads.wait)),
        reload("reads.balance", balance.to_owned()),
        reload("reads.primary", primary.to_owned()),
        reload("reads.max_lag", or_off(reads.max_lag)),
        reload("reads.max_lag_size", size_or_off(reads.max_lag_size)),
        reload("reads.zone", reads.zone.clone()),
        reload("reads.functions", functions),
    ]
}

fn size_or_off(limit: Option<ByteSize>) -> String {
    limit.map_or_else(|| "off".to_owned(), size)
}

fn failover(config: &Config) -> [Setting; 15] {
    let failover = &config.failover;
    let mode = match failover.mode {
        FailoverMode::Follow => "follow",
        FailoverMode::Promote => "promote",
    };
    let missing = match failover.missing_replicas {
        MissingReplicas::Wait => "wait",
        MissingReplicas::Promote => "promote",
    };
    let (command, url, fence) = match &failover.fence {
        Fence::Undecided => (None, None, None),
        Fence::Nothing => (None, None, Some("none".to_owned())),
        Fence::Command(argv) => (Some(words(argv)), None, None),
        Fence::Hook(url) => (None, Some(url.to_string()), None),
    };
    let pair = failover
        .tls
        .as_ref()
        .and_then(|tls| tls.certificate.as_ref());
    let root = failover.tls.as_ref().map(|tls| &tls.root_certificate);
    let path = |path: &std::path::PathBuf| path.display().to_string();
    [
        reload("failover.mode", mode.to_owned()),
        reload("failover.wait", span(failover.wait)),
        reload(
            "failover.switchover_timeout",
            span(failover.switchover_timeout),
        ),
        reload("failover.fence_command", command),
        reload("failover.fence_url", url),
        reload("failover.fence", fence),
        reload("failover.fence_timeout", span(failover.fence_timeout)),
        reload("failover.promote_pause", span(failover.promote_pause)),
        reload("failover.missing_replicas", missing.to_owned()),
        reload("failover.max_loss", size_or_off(failover.max_loss)),
        reload(
            "failover.rejoin_command",
            failover.rejoin_command.as_ref().map(words),
        ),
        reload("failover.rejoin_timeout", span(failover.rejoin_timeout)),
        reload("failover.root_certificate", root.map(path)),
        reload(
            "failover.certificate",
            pair.map(|pair| path(&pair.certificate)),
        ),
        reload("failover.key", pair.map(|pair| path(&pair.key))),
    ]
}

/// A program and its arguments, as they are told apart.
fn words(argv: &Argv) -> String {
    let all = std::iter::once(&argv.program).chain(&argv.arguments);
    let each: Vec<String> = all.map(|word| format!("{word:?}")).collect();
    each.join(" ")
}

fn transactions(config: &Config) -> [Setting; 5] {
    let transactions = &config.transactions;
    let commit = match transactions.cross_shard_commit {
        CrossShardCommit::Atomic => "atomic",
        CrossShardCommit::Refuse => "refuse",
        CrossShardCommit::BestEffort => "best_effort",
    };
    [
        reload("transactions.cross_shard_commit", commit.to_owned()),
        reload("transactions.install", transactions.install.to_string()),
        reload(
            "transactions.prepare_timeout",
            span(transactions.prepare_timeout),
        ),
        reload(
            "transactions.recovery_interval",
            span(transactions.recovery_interval),
        ),
        reload(
            "transactions.deadlock_timeout",
            or_off(transactions.deadlock_timeout),
        ),
    ]
}

fn gather(config: &Config) -> [Setting; 3] {
    let gather = &config.gather;
    [
        reload("gather.max_rows", gather.max_rows.to_string()),
        reload("gather.max_bytes", size(gather.max_bytes)),
        reload("gather.timeout", span(gather.timeout)),
    ]
}

fn authentication(config: &Config) -> [Setting; 8] {
    let known = &config.authentication;
    let query = known.query.as_ref();
    [
        reload("auth.users_file", known.users_file.clone()),
        reload("auth.hba_file", known.hba_file.clone()),
        reload("auth.query.user", query.map(|query| query.user.clone())),
        reload("auth.query.sql", query.map(|query| query.sql.clone())),
        reload("auth.query.timeout", query.map(|query| span(query.timeout))),
        reload(
            "auth.query.cache_time",
            query.map(|query| span(query.cache_time)),
        ),
        reload(
            "auth.query.failure_time",
            query.map(|query| span(query.failure_time)),
        ),
        reload(
            "auth.query.cache_size",
            query.map(|query| query.cache_size.to_string()),
        ),
    ]
}

fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

/// Like `64kB`, in the largest unit that loses nothing.
fn size(size: ByteSize) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")];
    let fits = |(length, _): &&(u64, &str)| size.0 > 0 && size.0.is_multiple_of(*length);
    match UNITS.iter().find(fits) {
        Some((length, unit)) => format!("{}{unit}", size.0 / length),
        None => format!("{}B", size.0),
    }
}

pub fn databases(view: &View, table: &mut Table) {
    for database in &view.config().databases {
        table.push(database_row(view, database));
    }
}

fn database_row(view: &View, database: &Database) -> Vec<Cell> {
    let config = view.config();
    let is_ours = |name: &str| *database.name == *name;
    let servers = view
        .reports
        .iter()
        .flat_map(|report| &report.pools)
        .filter(|pool| is_ours(&pool.database));
    let servers: usize = servers
        .map(|pool| pool.census.idle + pool.census.lent + pool.census.connecting)
        .sum();
    let clients = view
        .reports
        .iter()
        .flat_map(|report| &report.clients)
        .filter(|client| is_ours(&client.database));
    let counted = view.reports.iter().flat_map(|report| &report.databases);
    let paused = counted
        .filter(|counted| is_ours(&counted.name))
        .any(|counted| counted.paused == Paused::Yes);
    let catalog = view.snapshot.catalogs.get(&*database.name);
    let size = database.pool_size.unwrap_or(config.pool.size);
    row![
        &*database.name,
        Cell::Null,
        Cell::Null,
        &*database.server_database,
        Cell::Null,
        size,
        config.pool.min_size.min(size),
        Cell::Null,
        config.pool.max_lifetime.map(|time| time.as_secs()),
        database.pool_mode.map(mode),
        Cell::Null,
        Cell::Null,
        servers,
        Cell::Null,
        clients.count(),
        i32::from(paused),
        0,
        catalog.map(|catalog| &*catalog.shards[catalog.home.index()]),
        catalog.map(|catalog| catalog.epoch.0),
        catalog.map(|catalog| match catalog.schema {
            SchemaState::Read => "read",
            SchemaState::Unread => "not yet read",
        }),
    ]
}

pub fn users(view: &View, table: &mut Table) {
    for user in &view.config().users {
        table.push(user_row(view, user));
    }
    let clients = view.reports.iter().flat_map(|report| &report.clients);
    let pools = view.reports.iter().flat_map(|report| &report.pools);
    let names = clients
        .map(|client| &*client.user)
        .chain(pools.map(|pool| &*pool.user));
    let looked_up: BTreeSet<&str> = names
        .filter(|name| view.snapshot.user(name).is_none())
        .collect();
    for name in looked_up {
        table.push(user_row(
            view,
            &User::named(name, Line(0), Password::Absent),
        ));
    }
}

fn user_row(view: &View, user: &User) -> Vec<Cell> {
    let is_ours = |name: &str| *user.name == *name;
    let servers = view
        .reports
        .iter()
        .flat_map(|report| &report.pools)
        .filter(|pool| is_ours(&pool.user));
    let servers: usize = servers
        .map(|pool| pool.census.idle + pool.census.lent + pool.census.connecting)
        .sum();
    let clients = view
        .reports
        .iter()
        .flat_map(|report| &report.clients)
        .filter(|client| is_ours(&client.user));
    let auth = match (user.auth, &user.password) {
        _ if view.config().authentication.rules.is_some() => "hba",
        (Some(method), _) => method.word(),
        (None, Password::Md5(_)) => "md5",
        (None, Password::Plain(_) | Password::Verifier(_) | Password::Absent) => "scram-sha-256",
    };
    row![
        &*user.name,
        user.pool_size,
        Cell::Null,
        user.pool_mode.map(mode),
        Cell::Null,
        servers,
        view.config().limits.max_user_connections,
        clients.count(),
        auth,
        user.admin,
        &*user.server_user,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_says_no_more_than_it_must_has_every_default() {
        let defaults = config::parse(LEAST, "", &|_| None).unwrap();
        let mut table = Table::new(CONFIG);
        config(&defaults, &mut table);
        let differing = table.rows.iter().find(|cells| cells[1] != cells[2]);
        assert_eq!(differing, None);
        assert!(
            table
                .rows
                .contains(&row!["pool.mode", "transaction", "transaction", "yes"])
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let text = r#"
            [[users]]
            name = "app"
            password = "hush-hush"
            [[databases]]
            name = "app"
            [[shards]]
            name = "s1"
            nodes = [{ host = "10.0.0.1" }]
        "#;
        let config = config::parse(text, "", &|_| None).unwrap();
        let mut table = Table::new(CONFIG);
        super::config(&config, &mut table);
        assert!(!format!("{:?}", table.rows).contains("hush-hush"));
    }

    #[test]
    fn sizes_as_a_file_writes_them() {
        assert_eq!(
            [0, 10, 1 << 10, 3 << 20, 5 << 30, 1025].map(|bytes| size(ByteSize(bytes))),
            ["0B", "10B", "1kB", "3MB", "5GB", "1025B"]
        );
    }
}
