//! A storm after a restart: five thousand clients are connected when their server crashes. All leave, come back at once, and want a statement answered.
//! Whoever is told of an error comes again. What counts is when the last one has been served, and how many connections the server had to bear.
//!
//! PgBouncer tells clients of an error as long as it knows that it could not log in to the server, and tries again every `server_login_retry` seconds: 15, if
//! nobody says anything else. It takes part with that and with one second.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use nix::sys::resource::{Resource, getrlimit};
use tokio::task::LocalSet;
use tokio_postgres::{Config, NoTls};

use super::{Bench, blocking, in_turn};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::load::Protocol;
use crate::postgres::{DATABASE, USER};
use crate::report::Measure;
use crate::subjects::{Lineup, Settings, Subject};

/// Server connections a pooler may open.
const POOL_SIZE: u32 = 20;
/// Who log in at the same time before the crash.
const AT_ONCE: usize = 100;
/// After an error, before a client comes again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long there is no server, and the time of its start.
const DOWN: Duration = Duration::from_secs(2);
/// From one count of the server's connections to the next.
const COUNT: Duration = Duration::from_millis(50);
/// For the last client to be served.
const PATIENCE: Duration = Duration::from_secs(120);
/// Beside clients: of servers, logs and the program itself.
const OTHER_FILES: u64 = 500;

pub async fn run(bench: &mut Bench) -> Result<()> {
    let clients = if bench.smoke { 500 } else { 5_000 };
    check_file_limit(clients)?;
    for round in 1..=bench.rounds.unwrap_or(if bench.smoke { 1 } else { 2 }) {
        for subject in in_turn(&bench.proxies(), round) {
            let kinds: &[_] = match subject.is_pgbouncer() {
                true => &[("retry_1s", Some(1)), ("retry_15s", None)],
                false => &[("default", None)],
            };
            for &(kind, login_retry) in kinds {
                let settings = Settings {
                    pool_size: POOL_SIZE,
                    // Those who have left count until the proxy has noticed.
                    clients: 2 * clients,
                    login_retry,
                    ..bench.settings.clone()
                };
                let local = LocalSet::new();
                let restart = restart(bench, subject, kind, &settings, clients, round);
                local.run_until(restart).await?;
            }
        }
    }
    Ok(())
}

/// Each client is a file here and in the proxy, and for a moment two: one that leaves and one that comes.
fn check_file_limit(clients: u32) -> Result<()> {
    let needed = 2 * u64::from(clients) + OTHER_FILES;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|e| Error::io("read the limit of open files", e.into()))?;
    match most < needed {
        true => Err(Error::Missing(format!(
            "{clients} clients need {needed} open files in one process, and the system allows {most}: raise the hard limit (`ulimit -Hn {needed}` as root, \
             `LimitNOFILE` of a systemd unit), or use --smoke"
        ))),
        false => Ok(()),
    }
}

/// What all clients share.
#[derive(Default)]
struct Storm {
    /// How often each error was told.
    errors: RefCell<BTreeMap<String, u32>>,
    served: Cell<u32>,
}

async fn restart(
    bench: &mut Bench,
    subject: Subject,
    kind: &'static str,
    settings: &Settings,
    clients: u32,
    round: u32,
) -> Result<()> {
    let lineup = Lineup::start(&[subject], &bench.site(settings)).await?;
    let mut config = Config::new();
    let entrant = lineup.get(subject, Protocol::Simple);
    config
        .host("127.0.0.1")
        .port(entrant.port)
        .user(USER)
        .dbname(DATABASE);
    let held = hold(&config, clients).await?;

    bench.servers[0].crash();
    let (storm, began) = (Rc::new(Storm::default()), Instant::now());
    let comers: Vec<_> = held
        .into_iter()
        .zip(1_u32..)
        .map(|(client, number)| {
            // It leaves, and is back at once.
            drop(client);
            let (config, storm) = (config.clone(), Rc::clone(&storm));
            tokio::task::spawn_local(async move { come(&config, number, &storm).await })
        })
        .collect();
    let (direct, over) = (bench.servers[0].port, Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&over);
    let counting = tokio::spawn(blocking("count connections", move || count(direct, &until)));
    tokio::time::sleep(DOWN).await;
    let binaries = bench.binaries.clone();
    bench.servers[0].recover(&binaries).await?;
    let back = Instant::now();
    let all = tokio::time::timeout(PATIENCE, join_all(comers)).await;
    let (from_crash, from_return) = (began.elapsed(), back.elapsed());
    over.store(true, Ordering::Relaxed);
    let most = counting
        .await
        .map_err(|e| Error::io("join the counting", e.into()))??;
    let (served, errors) = (storm.served.get(), storm.errors.borrow());
    for (error, count) in errors.iter() {
        eprintln!("    {count} times: {error}");
    }
    if all.is_err() || served != clients {
        return Err(Error::Wrong {
            what: format!("clients of {} that were served", subject.name()),
            found: served.to_string(),
            expected: format!("{clients} within {PATIENCE:?}"),
        });
    }
    let measure = Measure::new("storm_after_restart", kind, subject, round)
        .with("clients", f64::from(clients))
        .with("seconds_down", (back - began).as_secs_f64())
        .with("seconds_from_crash", from_crash.as_secs_f64())
        .with("seconds_from_return", from_return.as_secs_f64())
        .with("errors", f64::from(errors.values().sum::<u32>()))
        .with("server_connections", f64::from(most));
    drop(errors);
    bench.add(measure)
}

/// Clients that have had one statement answered.
async fn hold(config: &Config, clients: u32) -> Result<Vec<tokio_postgres::Client>> {
    let mut held = Vec::new();
    let numbers: Vec<u32> = (1..=clients).collect();
    for some in numbers.chunks(AT_ONCE) {
        let ask = some.iter().map(|number| ask(config, *number));
        let some = try_join_all(ask).await;
        held.extend(some.map_err(|e| Error::io("log in", std::io::Error::other(e)))?);
    }
    Ok(held)
}

/// Until it was served.
async fn come(config: &Config, number: u32, storm: &Storm) {
    while let Err(error) = ask(config, number).await {
        let said = match error.as_db_error() {
            Some(said) => format!("{} {}", said.code().code(), said.message()),
            None => error.to_string(),
        };
        *storm.errors.borrow_mut().entry(said).or_default() += 1;
        tokio::time::sleep(PAUSE).await;
    }
    storm.served.set(storm.served.get() + 1);
}

async fn ask(
    config: &Config,
    number: u32,
) -> std::result::Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::task::spawn_local(connection);
    let sql = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {number}");
    client.simple_query(&sql).await?;
    Ok(client)
}

/// The most connections of clients that the server has at a time, not this one; until `over`. There may be no server yet.
fn count(port: u16, over: &AtomicBool) -> std::io::Result<u32> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let mut most = 0;
    let mut client = None;
    loop {
        let last = over.load(Ordering::Relaxed);
        match &mut client {
            None if last => client = Some(Client::connect(port, None)?),
            None => client = Client::connect(port, None).ok(),
            Some(client) => {
                let row = client.ask(sql)?.first_row();
                let count = row.first().and_then(|value| value.as_ref()?.parse().ok());
                most = most.max(count.unwrap_or(0));
                if last {
                    return Ok(most);
                }
            }
        }
        std::thread::sleep(COUNT);
    }
}
