//! The pools of server connections: their size, the turns of those who wait, and that nobody finds another's remains.

use std::collections::HashSet;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use trunkline::backend::cancel::Target;
use trunkline::backend::connect::{Address, Login};
use trunkline::backend::pool::{Lending, Pool, Seat, Spec};
use trunkline::config::{self, ServerTls, SslMode};
use trunkline::sharding::ShardId;
use trunkline::wire::socket::Home;
use trunkline::wire::timers::Timers;
use trunkline::wire::tls::ServerEncryption;

use crate::proxy::{DATABASE, Proxy, keys, plain};
use crate::servers::{cluster, value, wait_until};
use crate::wire_client::{
    Until, Wire, ask_for, bind, copy_data, execute, flush, parse, query, run, sync,
};

/// One connection for everybody.
fn narrow() -> Proxy {
    Proxy::start("workers = 1\n[pool]\nsize = 1\n")
}

const PROCESS: &str = "SELECT pg_backend_pid()";

/// Runs SQL on the home shard past the proxy.
fn at_home(sql: &str) -> String {
    value(&cluster().shards()[0].primary, DATABASE, sql).unwrap()
}

fn wait_until_running(query: &str) -> String {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '{query}%' AND state = 'active' AND wait_event = 'PgSleep'"
    );
    wait_until("the statement runs", || !at_home(&sql).is_empty());
    at_home(&sql)
}

#[test]
fn a_pool_keeps_to_its_size() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 2\n");
    let address = proxy.address;
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = proxy.client("trusty");
            std::thread::spawn(move || {
                (0..30)
                    .map(|_| client.value(PROCESS))
                    .collect::<HashSet<_>>()
            })
        })
        .collect();
    let used: HashSet<String> = clients
        .into_iter()
        .flat_map(|client| client.join().unwrap())
        .collect();
    assert_eq!(used.len(), 2, "{used:?}");
    assert_eq!(address, proxy.address);
}

#[test]
fn who_waits_too_long_or_behind_too_many_is_told() {
    let proxy = Proxy::start(
        "workers = 1\n[pool]\nsize = 1\nmax_waiting = 1\nconnect_timeout = \"300ms\"\ncheckout_timeout = \"500ms\"\n",
    );
    let [mut holder, mut waiting, mut late] = [(); 3].map(|()| proxy.client("trusty"));
    assert_eq!(holder.query("BEGIN"), "C(BEGIN) Z(T)");
    holder.query("SELECT 1");
    waiting.send(&query("SELECT 1"));
    wait_until("a client waits", || {
        proxy
            .report()
            .iter()
            .flat_map(|worker| &worker.pools)
            .any(|pool| pool.census.waiting == 1)
    });
    assert_eq!(
        late.query("SELECT 1"),
        "E(ERROR 53300 1 clients are already waiting for one of the 1 server connections of this pool) Z(I)"
    );
    let said = waiting.read_until(Until::Ready(1));
    assert_eq!(
        said[0].to_string(),
        "E(ERROR 53300 no server connection became free within 500ms)"
    );
    assert_eq!(said[1].to_string(), "Z(I)");
    // In a transaction that no server knows of, it is an error like any other.
    assert_eq!(late.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(
        late.query("SELECT 1"),
        "E(ERROR 53300 no server connection became free within 500ms) Z(E)"
    );
    assert_eq!(late.query("COMMIT"), "C(ROLLBACK) Z(I)");
    let said = late.ask(&[run("SELECT 1", &[]), sync()]);
    assert_eq!(
        said,
        "1 E(ERROR 53300 no server connection became free within 500ms) Z(I)"
    );
    holder.query("COMMIT");
    for client in [&mut waiting, &mut late] {
        assert_eq!(
            client.query("SELECT 1"),
            "T(?column?:23) D(1) C(SELECT 1) Z(I)"
        );
    }
}

#[test]
fn those_who_wait_are_bounded_by_what_they_hold() {
    let proxy = Proxy::start(
        "workers = 1\n[pool]\nsize = 1\nmax_waiting_size = \"1kB\"\ncheckout_timeout = \"60s\"\n",
    );
    let [mut holder, mut large, mut late, mut small] = [(); 4].map(|()| proxy.client("trusty"));
    assert_eq!(holder.query("BEGIN"), "C(BEGIN) Z(T)");
    holder.query("SELECT 1");
    let waiting = |count: usize| {
        wait_until("they wait", || {
            let report = proxy.report();
            let mut pools = report.iter().flat_map(|worker| &worker.pools);
            pools.any(|pool| pool.census.waiting == count)
        });
    };
    // The message's own head and end are six bytes.
    let text = |bytes: usize| format!("SELECT 1 --{}", "x".repeat(bytes - 6 - 11));
    // It is larger than the limit, and alone.
    large.send(&query(&text(2000)));
    waiting(1);
    assert_eq!(
        late.query(&text(500)),
        "E(ERROR 53300 1 clients wait for one of the 1 server connections of this pool with 2000 bytes of statements, \
         and 500 bytes more would be above the limit of 1024) Z(I)"
    );
    holder.query("COMMIT");
    large.read_until(Until::Ready(1));
    // What nobody waits with any more is not counted.
    assert_eq!(holder.query("BEGIN"), "C(BEGIN) Z(T)");
    holder.query("SELECT 1");
    large.send(&query(&text(500)));
    waiting(1);
    small.send(&query(&text(500)));
    waiting(2);
    let refused = late.query(&text(100));
    assert!(
        refused.contains("2 clients wait") && refused.contains("with 1000 bytes"),
        "{refused}"
    );
    holder.query("COMMIT");
    for client in [&mut large, &mut small] {
        client.read_until(Until::Ready(1));
    }
    assert_eq!(
        late.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
}

/// As a block of a primary that was made a replica is told; its other connections are no better.
#[test]
fn a_block_that_may_not_write_gives_up_the_idle_connections() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 2\n");
    let [mut writer, mut other] = [(); 2].map(|()| proxy.client("trusty"));
    let write = "CREATE TABLE nothing (id int)";
    // The client's own wish says nothing of the server.
    assert_eq!(writer.query("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    writer.query("SELECT 1");
    let before = other.query("SELECT pg_backend_pid()");
    let told = writer.query(write);
    assert!(told.contains("E(ERROR 25006 "), "{told}");
    assert_eq!(other.query("SELECT pg_backend_pid()"), before);
    writer.query("ROLLBACK");

    writer.query("BEGIN");
    let hidden = "/* trunkline: shard=s1 */ DO $$ BEGIN PERFORM set_config('transaction_read_only', 'on', true); END $$";
    assert_eq!(writer.query(hidden), "C(DO) Z(T)");
    let before = other.query("SELECT pg_backend_pid()");
    assert_eq!(other.query("SELECT pg_backend_pid()"), before);
    let told = writer.query(write);
    assert!(told.contains("E(ERROR 25006 "), "{told}");
    assert_ne!(other.query("SELECT pg_backend_pid()"), before);
    assert_eq!(writer.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

#[test]
fn the_servers_own_error_reaches_the_client() {
    let proxy = narrow();
    let refused = proxy.try_client("ghost", &[]).err().unwrap().to_string();
    assert_eq!(
        refused,
        "E(FATAL 28000 role \"nobody_of_this_name\" does not exist)"
    );
    let refused = Wire::log_in(
        proxy.address,
        &[("user", "trusty"), ("database", "missing")],
        "",
    )
    .err()
    .unwrap()
    .to_string();
    assert_eq!(
        refused,
        "E(FATAL 3D000 database \"not_there\" does not exist)"
    );
    let refused = Wire::log_in(
        proxy.address,
        &[("user", "trusty"), ("database", "unheard_of")],
        "",
    )
    .err()
    .unwrap()
    .to_string();
    assert_eq!(
        refused,
        "E(FATAL 3D000 database \"unheard_of\" does not exist)"
    );
}

/// Counted in turns, not in time: every statement takes the next number, so the gap between two numbers of a client is how many
/// others had their turn meanwhile.
#[test]
fn clients_that_do_not_wait_for_answers_take_turns() {
    const CLIENTS: usize = 6;
    const STATEMENTS: usize = 150;
    let proxy = narrow();
    at_home("SET ROLE app; CREATE SEQUENCE turns");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = proxy.client("trusty");
            std::thread::spawn(move || {
                client.send(
                    &[&query("SELECT nextval('turns')")[..]]
                        .repeat(STATEMENTS)
                        .concat(),
                );
                let said = client.read_until(Until::Ready(STATEMENTS));
                let rows = said
                    .iter()
                    .filter(|message| message.tag == b'D')
                    .map(|message| message.to_string());
                rows.map(|row| row.trim_matches(['D', '(', ')']).parse().unwrap())
                    .collect::<Vec<usize>>()
            })
        })
        .collect();
    let turns: Vec<Vec<usize>> = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .collect();
    assert!(turns.iter().all(|turns| turns.len() == STATEMENTS));
    // While all were there.
    let from = turns.iter().map(|turns| turns[0]).max().unwrap();
    let to = turns
        .iter()
        .map(|turns| turns[STATEMENTS - 1])
        .min()
        .unwrap();
    let gaps = turns
        .iter()
        .flat_map(|turns| turns.windows(2))
        .filter(|pair| pair[0] >= from && pair[1] <= to);
    let longest = gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    assert!(
        longest <= 3 * CLIENTS,
        "one client waited for {longest} turns of others: {turns:?}"
    );
}

/// `lone` may have one connection, everybody else two. Who floods the proxy takes only what is its own.
#[test]
fn every_user_has_its_own_connections_and_the_first_to_come_is_served_first() {
    const WAITING: usize = 8;
    const ONE: &str = "T(?column?:23) D(1) C(SELECT 1) Z(T)";
    let proxy = Proxy::start(&format!(
        "workers = 1\n[pool]\nsize = 2\nmax_waiting = {WAITING}\ncheckout_timeout = \"60s\"\n"
    ));
    let waiting = |count: usize| {
        wait_until("they wait", || {
            let report = proxy.report();
            let pools = report.iter().flat_map(|worker| &worker.pools);
            pools.map(|pool| pool.census.waiting).sum::<usize>() == count
        });
    };
    let mut holder = proxy.client("lone");
    assert_eq!(holder.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(holder.query("SELECT 1"), ONE);
    let mut queue = Vec::new();
    for number in 1..=WAITING {
        let mut client = proxy.client("lone");
        client.send(&query("SELECT clock_timestamp()"));
        waiting(number);
        queue.push(client);
    }
    let refused = proxy.client("lone").query("SELECT 1");
    assert_eq!(
        refused,
        "E(ERROR 53300 8 clients are already waiting for one of the 1 server connections of this pool) Z(I)"
    );
    let mut others = [(); 2].map(|()| proxy.client("trusty"));
    for other in &mut others {
        assert_eq!(other.query("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(other.query("SELECT 1"), ONE, "it waits for nobody");
    }
    let mut third = proxy.client("trusty");
    third.send(&query("SELECT 1"));
    waiting(WAITING + 1);
    holder.query("COMMIT");
    let served: Vec<String> = queue
        .iter_mut()
        .map(|client| {
            let said = client.read_until(Until::Ready(1));
            let row = said.iter().find(|message| message.tag == b'D');
            row.expect("a row").to_string()
        })
        .collect();
    assert!(served.is_sorted(), "{served:?}");
    waiting(1);
    others[0].query("COMMIT");
    third.read_until(Until::Ready(1));
}

/// Both wait to be the first to prepare it, and then the connection has it already.
#[test]
fn the_same_is_prepared_by_two_who_wait_for_a_connection() {
    let proxy = narrow();
    let [mut holder, mut one, mut other] = [(); 3].map(|()| proxy.client("trusty"));
    assert_eq!(holder.query("BEGIN"), "C(BEGIN) Z(T)");
    holder.query("SELECT 1");
    for (number, client) in [&mut one, &mut other].into_iter().enumerate() {
        client.send(&query("PREPARE seven AS SELECT 7"));
        wait_until("it waits", || {
            let report = proxy.report();
            let pools = report.iter().flat_map(|worker| &worker.pools);
            pools.map(|pool| pool.census.waiting).sum::<usize>() == number + 1
        });
    }
    holder.query("COMMIT");
    for client in [&mut one, &mut other] {
        let said = client.read_until(Until::Ready(1));
        assert_eq!(said[0].to_string(), "C(PREPARE)");
    }
    for client in [&mut one, &mut other] {
        assert_eq!(
            client.query("EXECUTE seven"),
            "T(?column?:23) D(7) C(SELECT 1) Z(I)"
        );
    }
}

#[test]
fn a_connection_past_its_time_is_replaced() {
    for settings in ["max_lifetime = \"200ms\"", "idle_timeout = \"200ms\""] {
        let proxy = Proxy::start(&format!("workers = 1\n[pool]\nsize = 1\n{settings}\n"));
        let mut client = proxy.client("trusty");
        let first = client.value(PROCESS);
        wait_until("it is gone", || {
            at_home(&format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {first}"
            )) == "0"
        });
        assert_ne!(client.value(PROCESS), first);
    }
}

/// What a client does before it goes away.
type Leave = Box<dyn Fn(&mut Wire)>;

/// Whatever a client was doing when it went away: the next one, on the same server or a new connection to it, finds nothing of it.
#[test]
fn nobody_finds_what_a_killed_client_left() {
    let proxy = narrow();
    let insert = "INSERT INTO notes VALUES (5000, 'left behind')";
    let rows = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)";
    let leave: [(&str, Leave); 11] = [
        (
            "in a transaction",
            Box::new(move |client| {
                client.query("BEGIN");
                client.query(insert);
            }),
        ),
        (
            "in a failed transaction",
            Box::new(move |client| {
                client.query("BEGIN");
                client.query("SET work_mem = '99kB'");
                client.query(insert);
                client.query("SELECT 1/0");
            }),
        ),
        (
            "in the middle of a result",
            Box::new(move |client| {
                client.step(&ask_for(&[query(rows)], 3));
            }),
        ),
        (
            "in the middle of a result in a transaction",
            Box::new(move |client| {
                client.query("BEGIN");
                client.query(insert);
                client.step(&ask_for(&[query(rows)], 3));
            }),
        ),
        (
            "sending COPY data",
            Box::new(|client| {
                client.step(&ask_for(&[query("COPY notes FROM STDIN")], 1));
                client.send(&copy_data(b"5000\tleft behind\n"));
            }),
        ),
        (
            "in the middle of a CopyData message",
            Box::new(|client| {
                client.step(&ask_for(&[query("COPY notes FROM STDIN")], 1));
                client.send(&copy_data(&[b'x'; 5000])[..3000]);
            }),
        ),
        (
            "reading COPY data",
            Box::new(|client| {
                client.step(&ask_for(
                    &[query(
                        "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO STDOUT",
                    )],
                    3,
                ));
            }),
        ),
        (
            "before the Sync",
            Box::new(move |client| {
                client.step(&ask_for(&[run(insert, &[]), flush()], 3));
            }),
        ),
        (
            "behind an error before the Sync",
            Box::new(move |client| {
                client.step(&ask_for(
                    &[run(insert, &[]), run("SELECT 1/0", &[]), flush()],
                    5,
                ));
            }),
        ),
        (
            "with a suspended portal",
            Box::new(move |client| {
                client.step(&ask_for(
                    &[
                        parse("", rows, &[]),
                        bind("", "", &[]),
                        execute("", 2),
                        flush(),
                    ],
                    5,
                ));
            }),
        ),
        (
            "while its statement runs",
            Box::new(|client| {
                client.send(&query("SELECT pg_sleep(600), 'killed client'"));
                wait_until_running("SELECT pg_sleep(600), ''killed client''");
            }),
        ),
    ];
    for (what, leave) in leave {
        let mut client = proxy.client("trusty");
        leave(&mut client);
        drop(client);
        let mut next = proxy.client("trusty");
        assert_eq!(
            next.query("SELECT count(*) FROM notes WHERE id = 5000"),
            "T(count:20) D(0) C(SELECT 1) Z(I)",
            "{what}"
        );
        assert_eq!(
            next.value("SELECT pg_current_xact_id_if_assigned()"),
            "null",
            "{what}"
        );
        assert_eq!(next.value("SHOW work_mem"), "4MB", "{what}");
        assert_eq!(
            next.query("BEGIN; ROLLBACK"),
            "C(BEGIN) C(ROLLBACK) Z(I)",
            "{what}"
        );
    }
    // Nothing of it is still running, or holds a lock.
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%killed client%' AND query NOT LIKE '%pg_stat%' AND state = 'active'";
    wait_until("the killed client's statement is stopped", || {
        at_home(idle) == "0"
    });
}

/// A client says goodbye while its statement's answer is on the way.
#[test]
fn goodbye_in_the_middle() {
    let proxy = narrow();
    for _ in 0..20 {
        let mut client = proxy.client("trusty");
        client.send(
            &[
                query("SELECT generate_series(1, 1000)"),
                vec![b'X', 0, 0, 0, 4],
            ]
            .concat(),
        );
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            proxy.client("trusty").query("SELECT 7"),
            "T(?column?:23) D(7) C(SELECT 1) Z(I)"
        );
    }
}

#[test]
fn a_server_that_goes_away_outside_a_transaction() {
    let proxy = narrow();
    let mut client = proxy.client("trusty");
    let kill = |what: &str| {
        let process = wait_until_running(what);
        at_home(&format!("SELECT pg_terminate_backend({process})"));
    };
    let lost = "E(ERROR 08006 the server connection was lost while the statement ran: the server closed the connection)";
    client.send(&query("SELECT pg_sleep(600), 1"));
    kill("SELECT pg_sleep(600), 1");
    let said = client.read_until(Until::Ready(1));
    assert!(
        crate::wire_client::transcript(&said).ends_with(&format!("{lost} Z(I)")),
        "{said:?}"
    );
    assert_eq!(
        client.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
    // With and without a Sync, and with more behind it.
    client.send(
        &[
            parse("kept", "SELECT pg_sleep(600), 2", &[]),
            bind("", "kept", &[]),
            execute("", 0),
            sync(),
            query("SELECT 1"),
        ]
        .concat(),
    );
    kill("SELECT pg_sleep(600), 2");
    let said = client.read_until(Until::Ready(2));
    let said = crate::wire_client::transcript(&said);
    assert!(
        said.ends_with(&format!("{lost} Z(I) T(?column?:23) D(1) C(SELECT 1) Z(I)")),
        "{said}"
    );
    client.send(&[bind("", "kept", &[]), execute("", 0), flush()].concat());
    kill("SELECT pg_sleep(600), 2");
    let said = crate::wire_client::transcript(&client.read_until(Until::Messages(1)));
    assert!(said == lost || said == "2", "{said}");
    if said == "2" {
        assert_eq!(client.read().unwrap().to_string(), lost);
    }
    assert_eq!(client.ask(&[run("SELECT 1", &[]), sync()]), "Z(I)");
    assert_eq!(
        client.ask(&[run("SELECT 1", &[]), sync()]),
        "1 2 D(1) C(SELECT 1) Z(I)"
    );
}

#[test]
fn a_server_that_goes_away_inside_a_transaction() {
    let proxy = narrow();
    for running in [true, false] {
        let mut client = proxy.client("trusty");
        client.query("BEGIN");
        client.query("INSERT INTO notes VALUES (5100, 'lost')");
        let process = client.value(PROCESS);
        if running {
            client.send(&query("SELECT pg_sleep(600), 3"));
            wait_until_running("SELECT pg_sleep(600), 3");
        }
        at_home(&format!("SELECT pg_terminate_backend({process})"));
        let said = client.rest();
        let lost = "E(FATAL 57P01 terminating connection due to administrator command)";
        assert!(said.ends_with(lost), "{said}");
    }
    // A connection with what cannot be made again is as good as a transaction.
    let mut client = proxy.client("trusty");
    client.query("CREATE TEMP TABLE t (x int)");
    let process = client.value(PROCESS);
    at_home(&format!("SELECT pg_terminate_backend({process})"));
    let said = client.rest();
    assert!(said.starts_with("E(FATAL 57P01 "), "{said}");
    assert_eq!(
        proxy
            .client("trusty")
            .value("SELECT count(*) FROM notes WHERE id = 5100"),
        "0"
    );
}

/// Connections to one shard do not stand in the way of those to another.
#[test]
fn shards_have_pools_of_their_own() {
    let proxy = narrow();
    let keys = keys(5_200_000);
    let mut clients = Vec::new();
    for key in keys {
        let mut client = proxy.client("trusty");
        client.query("BEGIN");
        assert_eq!(
            client.query(&format!("SELECT count(*) FROM customers WHERE id = {key}")),
            "T(count:20) D(0) C(SELECT 1) Z(T)"
        );
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)");
    }
}

#[test]
fn pause_and_resume() {
    let proxy = narrow();
    let mut admin = Wire::log_in(
        proxy.address,
        &[("user", "boss"), ("database", "trunkline")],
        "",
    )
    .unwrap();
    let mut working = proxy.client("trusty");
    working.query("BEGIN");
    working.query("SELECT 1");
    // It is answered when the last transaction has ended, which goes on as long as it likes.
    admin.send(&query(&format!("PAUSE {DATABASE}")));
    let mut clients: Vec<Wire> = (0..3).map(|_| proxy.client("trusty")).collect();
    for client in &mut clients {
        client.send(&query("SELECT 1"));
    }
    let waiting = || {
        proxy
            .report()
            .iter()
            .flat_map(|worker| &worker.pools)
            .map(|pool| pool.census.waiting)
            .sum::<usize>()
    };
    wait_until("the clients wait", || waiting() == 3);
    assert_eq!(
        working.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(T)"
    );
    assert_eq!(working.query("COMMIT"), "C(COMMIT) Z(I)");
    let said = crate::wire_client::transcript(&admin.read_until(Until::Ready(1)));
    assert_eq!(said, "C(PAUSE) Z(I)");
    assert_eq!(waiting(), 3);
    assert_eq!(admin.query(&format!("RESUME {DATABASE}")), "C(RESUME) Z(I)");
    for client in &mut clients {
        assert_eq!(
            crate::wire_client::transcript(&client.read_until(Until::Ready(1))),
            "T(?column?:23) D(1) C(SELECT 1) Z(I)"
        );
    }
}

/// A pool that is paused lends again to all who waited, more of them than it has connections, and loses none of these.
#[test]
fn a_pool_goes_on_after_a_pause() {
    let settings = config::parse(
        include_str!("../../config/minimal.toml"),
        "minimal.toml",
        &|_| Some("x".into()),
    )
    .unwrap()
    .pool;
    let encryption = ServerEncryption::load(&ServerTls {
        mode: SslMode::Disable,
        root_certificate: None,
    })
    .unwrap();
    plain();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let timers = runtime.block_on(async { Timers::here() });
    let target = Target {
        address: Address {
            host: "127.0.0.1".into(),
            port: cluster().shards()[0].primary.port(),
        },
        login: Login {
            user: "app".into(),
            credential: None,
            database: "app".into(),
            application_name: Some("paused".into()),
            parameters: Vec::new(),
        },
        encryption: Arc::new(encryption),
        home: Home::Tokio,
        timers,
        timeout: Duration::from_secs(10),
    };
    let spec = Spec {
        shard: ShardId(0),
        seat: Seat::Primary,
        node: 0,
        target,
        patience: Duration::ZERO,
        settings,
        share: 2,
    };
    let pool = Pool::new(spec, Box::new(|_, _| ()));
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let [one, two] = [
            pool.checkout(0).await.unwrap(),
            pool.checkout(0).await.unwrap(),
        ];
        one.release(std::time::Instant::now());
        two.release(std::time::Instant::now());
        for waiting in [0, 1, 2, 5] {
            pool.set_lending(Lending::Paused);
            assert!(pool.try_checkout(std::time::Instant::now()).is_none());
            let clients: Vec<_> = (0..waiting)
                .map(|_| {
                    let pool = Rc::clone(&pool);
                    tokio::task::spawn_local(async move {
                        pool.checkout(0)
                            .await
                            .map(|lent| lent.release(std::time::Instant::now()))
                    })
                })
                .collect();
            while pool.census(std::time::Instant::now()).waiting < waiting {
                tokio::task::yield_now().await;
            }
            pool.set_lending(Lending::Open);
            for client in clients {
                tokio::time::timeout(Duration::from_secs(20), client)
                    .await
                    .expect("a turn for everybody")
                    .unwrap()
                    .unwrap();
            }
            let census = pool.census(std::time::Instant::now());
            assert_eq!(
                (census.idle, census.lent, census.connecting, census.waiting),
                (2, 0, 0, 0),
                "{waiting}"
            );
            assert!(pool.is_at_rest());
        }
    });
}
