//! The sections that stand once in a file: where to listen, TLS, the log, limits, the pools' defaults, health, transactions and gathering.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::entry::{MOST_POOLED, cross_shard_commit, pool_mode};
use super::section::{Entry, Section};
use super::{
    ByteSize, Certificate, CertificateDemand, ClientTls, CrossShardCommit, Gather, Health, Limits,
    Listen, Log, LogFormat, Offer, Pool, PoolMode, ServerTls, SslMode, Transactions,
};

const LONGEST_TIME: Duration = Duration::from_secs(365 * 86_400);
const MOST_CONNECTIONS: usize = 1_000_000;

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

pub(super) fn listen(mut section: Section<'_>) -> Listen {
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
pub(super) fn existing_file(entry: Entry<'_>) -> Option<PathBuf> {
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
        Require(CertificateDemand),
    }
    let words = [
        ("disable", Mode::Disable),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require(CertificateDemand::Nothing)),
        ("verify-ca", Mode::Require(CertificateDemand::Valid)),
        ("verify-full", Mode::Require(CertificateDemand::Named)),
    ];
    let wanted = "\"disable\", \"prefer\", \"require\", \"verify-ca\" or \"verify-full\"";
    let mode = match section.is_given() {
        true => section.required("mode", wanted, |e| e.choice(&words)),
        false => None,
    };
    let demand = match mode {
        Some(Mode::Require(demand)) => demand,
        Some(Mode::Prefer) => CertificateDemand::Nothing,
        Some(Mode::Disable) | None => {
            for key in ["certificate", "key", "client_authorities"] {
                section.take(key);
            }
            section.done();
            return ClientTls::Disable;
        }
    };
    let what = "the path of a PEM file, or set mode = \"disable\"";
    let certificate = section.required("certificate", what, existing_file);
    let key = section.required("key", what, existing_file);
    let client_authorities = match demand {
        CertificateDemand::Nothing => section.read("client_authorities", existing_file),
        CertificateDemand::Valid | CertificateDemand::Named => section.required(
            "client_authorities",
            "the path of a PEM file with the authorities of clients' certificates, or a mode that asks for none",
            existing_file,
        ),
    };
    section.done();
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return ClientTls::Disable;
    };
    let offer = Offer {
        certificate: Certificate { certificate, key },
        client_authorities,
        demand,
    };
    match mode {
        Some(Mode::Require(_)) => ClientTls::Require(offer),
        _ => ClientTls::Prefer(offer),
    }
}

pub(super) fn server_tls(mut section: Section<'_>) -> ServerTls {
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

pub(super) fn log(mut section: Section<'_>) -> Log {
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

pub(super) fn limits(mut section: Section<'_>) -> Limits {
    const MB: u64 = 1 << 20;
    let seconds = Duration::from_secs;
    let some_time = Duration::from_millis(1)..=LONGEST_TIME;
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
        client_idle_timeout: section
            .read("client_idle_timeout", |entry| {
                entry.duration_or_off(some_time.clone())
            })
            .unwrap_or(None),
        idle_transaction_timeout: section
            .read("idle_transaction_timeout", |entry| {
                entry.duration_or_off(some_time.clone())
            })
            .unwrap_or(None),
        query_timeout: section
            .read("query_timeout", |entry| {
                entry.duration_or_off(some_time.clone())
            })
            .unwrap_or(None),
        shutdown_timeout: section
            .read("shutdown_timeout", |entry| {
                entry.duration(Duration::ZERO..=LONGEST_TIME)
            })
            .unwrap_or(seconds(30)),
    };
    section.done();
    limits
}

pub(super) fn pool(mut section: Section<'_>) -> Pool {
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
        max_waiting_size: section
            .read("max_waiting_size", |entry| entry.size(1 << 10..=1 << 40))
            .unwrap_or(ByteSize(256 << 20)),
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
        max_prepared_statements: section
            .read("max_prepared_statements", |entry| {
                entry.whole(1..=MOST_CONNECTIONS)
            })
            .unwrap_or(500),
        max_prepared_size: section
            .read("max_prepared_size", |entry| entry.size(64 << 10..=64 << 30))
            .unwrap_or(ByteSize(8 << 20)),
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

pub(super) fn health(mut section: Section<'_>) -> Health {
    const MOST_LOOKS: usize = 100;
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let health = Health {
        interval: section
            .read("interval", |entry| {
                entry.duration(millis(100)..=seconds(3600))
            })
            .unwrap_or(seconds(2)),
        timeout: section
            .read("timeout", |entry| entry.duration(millis(10)..=seconds(60)))
            .unwrap_or(seconds(1)),
        fall: section
            .read("fall", |entry| entry.whole(1..=MOST_LOOKS))
            .unwrap_or(3),
        rise: section
            .read("rise", |entry| entry.whole(1..=MOST_LOOKS))
            .unwrap_or(2),
        eject_after: section
            .read("eject_after", |entry| entry.whole(1..=MOST_LOOKS))
            .unwrap_or(3),
        eject_time: section
            .read("eject_time", |entry| {
                entry.duration(millis(100)..=seconds(3600))
            })
            .unwrap_or(seconds(1)),
        max_eject_time: section
            .read("max_eject_time", |entry| {
                entry.duration(millis(100)..=seconds(86_400))
            })
            .unwrap_or(seconds(60)),
        slow_start: section
            .read("slow_start", |entry| {
                entry.duration_or_off(millis(100)..=seconds(3600))
            })
            .unwrap_or(Some(seconds(10)))
            .unwrap_or_default(),
    };
    section.done();
    health
}

pub(super) fn transactions(mut section: Section<'_>) -> Transactions {
    let transactions = Transactions {
        cross_shard_commit: section
            .read("cross_shard_commit", cross_shard_commit)
            .unwrap_or(CrossShardCommit::Atomic),
        install: section
            .read("install", |entry| entry.boolean())
            .unwrap_or(true),
        prepare_timeout: section
            .read("prepare_timeout", |entry| {
                entry.duration(Duration::from_millis(100)..=Duration::from_secs(3600))
            })
            .unwrap_or(Duration::from_secs(10)),
        recovery_interval: section
            .read("recovery_interval", |entry| {
                entry.duration(Duration::from_millis(100)..=Duration::from_secs(3600))
            })
            .unwrap_or(Duration::from_secs(2)),
        deadlock_timeout: section
            .read("deadlock_timeout", |entry| {
                entry.duration_or_off(Duration::from_millis(10)..=Duration::from_secs(3600))
            })
            .unwrap_or(Some(Duration::from_secs(1))),
    };
    section.done();
    transactions
}

pub(super) fn gather(mut section: Section<'_>) -> Gather {
    const MOST_ROWS: usize = 1_000_000_000_000;
    let gather = Gather {
        max_rows: section
            .read("max_rows", |entry| entry.whole(1..=MOST_ROWS))
            .unwrap_or(10_000_000),
        max_bytes: section
            .read("max_bytes", |entry| entry.size(64 << 10..=1 << 50))
            .unwrap_or(ByteSize(1 << 30)),
        timeout: section
            .read("timeout", |entry| {
                entry.duration(Duration::from_millis(1)..=LONGEST_TIME)
            })
            .unwrap_or(Duration::from_secs(300)),
    };
    section.done();
    gather
}
