//! Two primaries at a time, and a primary that nobody can reach: what is written goes to the right one, and no more than what was under way fails.

use std::time::{Duration, Instant, SystemTime};

use super::load::{Load, only_what_was_under_way};
use super::stage::{SLACK, Stage, nodes_are};
use crate::commit::cutting::Relays;
use crate::raw::{Answer, Message, Raw};
use crate::servers::wait_until;
use crate::sharded::{Sharded, succeeded};

const CLIENTS: usize = 16;

/// How long nobody can reach the primary.
const OUTAGE: Duration = Duration::from_millis(4000);

/// From the moment when a proxy says that it has another primary: statements that were sent before that may still begin.
const UNDER_WAY: Duration = Duration::from_secs(1);

fn since_epoch() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is later")
}

/// Rows that this node took after this moment.
fn rows_since(stage: &Stage, place: usize, moment: Duration) -> String {
    let asked = format!(
        "SELECT count(*) FROM ledger WHERE port = {} AND at > to_timestamp({})",
        stage.port(place),
        moment.as_secs_f64()
    );
    stage.value(0, place, &asked)
}

#[test]
fn a_network_that_is_cut_and_primaries_at_the_same_time() {
    let stage = Stage::start(1, 2);
    let relays = Relays::start(&stage.ports());
    let ports = relays.ports().to_vec();
    let proxy = Sharded::start_proxy(
        "app",
        &Stage::configuration(std::slice::from_ref(&ports), ""),
    );
    let first = |stage: &'static str| {
        let ports = ports.clone();
        move |nodes: &[super::stage::NodeLine]| {
            nodes
                .iter()
                .any(|node| node.port == ports[0] && node.stage == stage)
        }
    };

    let load = Load::start(&proxy, CLIENTS);
    load.progress(200);
    let cut = Instant::now();
    let frozen = relays.freeze(0);
    nodes_are(&proxy, "the primary is down", first("down"));
    let noticed = cut.elapsed();
    std::thread::sleep(OUTAGE.saturating_sub(noticed));
    drop(frozen);
    let outage = cut.elapsed();
    nodes_are(&proxy, "the primary is up", first("up"));
    load.progress(200);
    let report = load.end();
    println!("nobody reaches the primary for {outage:?}, noticed after {noticed:?}; {report}");
    only_what_was_under_way(&report, CLIENTS, "cut off");
    report.agrees_with(&stage, 0);
    assert!(report.longest <= outage + SLACK, "{report}");

    // Somebody makes another primary while the first one lives.
    stage.run(0, 0, "TRUNCATE ledger, totals");
    stage.level(0, &[1, 2]);
    let load = Load::start(&proxy, CLIENTS);
    load.progress(200);
    stage.promote(1);
    let promoted = since_epoch();
    let (_, nodes) = nodes_are(
        &proxy,
        "the new one is used, and the old one fenced",
        |nodes| {
            let is = |place: usize, wanted: &dyn Fn(&super::stage::NodeLine) -> bool| {
                nodes
                    .iter()
                    .any(|node| node.port == ports[place] && wanted(node))
            };
            is(1, &|node| node.is_primary) && is(0, &|node| node.stage == "fenced")
        },
    );
    let seen = since_epoch();
    let old = nodes
        .iter()
        .find(|node| node.port == ports[0])
        .expect("it is there");
    assert!(old.error.contains("nothing is sent to it"), "{old:?}");
    load.progress(200);
    // And a third one, on the same timeline as the second.
    stage.promote(2);
    nodes_are(&proxy, "the third one is fenced", |nodes| {
        let mut nodes = nodes.iter();
        nodes.any(|node| {
            node.port == ports[2] && node.stage == "fenced" && node.error.contains("so is")
        })
    });
    load.progress(200);
    let report = load.end();
    let between = rows_since(&stage, 0, promoted);
    println!(
        "two primaries: seen {:?} after the promotion, {between} rows written to the old one until then; {report}",
        seen.saturating_sub(promoted)
    );
    // What was sent to the old one before may begin there after: of each client one statement at most, and no more by and by.
    let behind = format!(
        "SELECT count(*), coalesce(max(each), 0) FROM (SELECT count(*) AS each FROM ledger WHERE port = {} AND at > to_timestamp({}) \
         GROUP BY client) t",
        stage.port(0),
        seen.as_secs_f64()
    );
    let each = stage.node(0, 0).run_sql("app", &behind);
    let each = each.unwrap_or_else(|e| panic!("{e}"));
    let [clients, most] = [0, 1].map(|column| each[0][column].clone().expect("not null"));
    println!("    {clients} of them after the new one was seen");
    assert!(matches!(&*most, "0" | "1"), "sent to the old primary");
    assert_eq!(
        rows_since(&stage, 0, seen + UNDER_WAY),
        "0",
        "sent to the old primary"
    );
    assert_eq!(
        rows_since(&stage, 2, Duration::ZERO),
        "0",
        "sent to the third"
    );
    only_what_was_under_way(&report, CLIENTS, "two primaries");
    // What the old one took after the promotion is lost, as it must be; nothing else is.
    let lost = report.lost(&stage, 1);
    let behind = rows_since(&stage, 0, promoted.saturating_sub(Duration::from_secs(5)));
    assert!(lost.len() <= behind.parse().expect("a number"), "{lost:?}");
}

/// Nobody looks for a long time but for what a client's statement has met.
#[test]
fn a_primary_that_takes_no_writes_any_more_is_left_at_once() {
    let stage = Stage::start(1, 1);
    let text = Stage::configuration(&[stage.ports()], "")
        .replace("interval = \"100ms\"", "interval = \"30s\"");
    let proxy = Sharded::start_proxy("app", &text);
    nodes_are(&proxy, "both are seen", |nodes| {
        nodes.iter().all(|node| node.stage == "up")
    });
    let mut client = Raw::connect(proxy.port, "app", "app");
    let write = |n: i32| format!("INSERT INTO ledger (client, n) VALUES (1, {n})");
    succeeded("INSERT", &client.simple(&write(0)));
    stage.promote(1);
    stage.configure(0, "default_transaction_read_only", "on");
    let began = Instant::now();
    let mut refused = 0;
    for n in 1.. {
        let answer = client.simple(&write(n));
        let Some(error) = answer.error else { break };
        assert_eq!(error.sqlstate(), "25006", "{error:?}");
        refused += 1;
        assert!(began.elapsed() < SLACK, "it is used still");
    }
    println!(
        "25006: {refused} statements refused, for {:?}",
        began.elapsed()
    );
    let there = stage.value(0, 1, "SELECT count(*) FROM ledger WHERE n > 0");
    assert_eq!(there, "1");
}

fn sqlstate(answer: &Answer) -> &str {
    answer.error.as_ref().map_or("", Message::sqlstate)
}

/// The first statement of a block is lost with its connection, and nobody comes who could take it.
#[test]
fn a_block_that_cannot_be_begun_anew_has_failed() {
    let stage = Stage::start(1, 0);
    let relays = Relays::start(&stage.ports());
    let more = "[failover]\nwait = \"300ms\"\n[pool]\nconnect_timeout = \"500ms\"\n";
    let configuration = Stage::configuration(&[relays.ports().to_vec()], more);
    let proxy = Sharded::start_proxy("app", &configuration);
    let mut client = proxy.client();
    // A connection is idle from here on.
    succeeded("SELECT 1", &client.simple("SELECT 1"));
    client.simple("BEGIN");
    let frozen = relays.freeze(0);
    let mut client = std::thread::scope(|scope| {
        let asking = scope.spawn(move || {
            let answer = client.simple("INSERT INTO ledger (client, n) VALUES (1, 1)");
            (client, answer)
        });
        let mut admin = Raw::connect(proxy.port, "app", "trunkline");
        wait_until("the statement is with a server", || {
            let pools = admin.simple("SHOW POOLS");
            let mut names = pools.columns[0].iter();
            let place = names.position(|(name, ..)| name == "sv_active");
            let place = place.expect("PgBouncer has it too");
            let lent = |row: &Vec<Option<Vec<u8>>>| row[place].as_deref() == Some(b"1");
            pools.rows.iter().any(lent)
        });
        relays.cut(0);
        let (client, answer) = asking.join().expect("it is answered");
        assert!(matches!(sqlstate(&answer), "57P03" | "08001"), "{answer:?}");
        assert_eq!(client.status(), b'E');
        client
    });
    drop(frozen);
    assert_eq!(sqlstate(&client.simple("SELECT 1")), "25P02");
    client.simple("ROLLBACK");
    assert_eq!(client.status(), b'I');
    wait_until("the shard is back", || {
        client
            .simple("INSERT INTO ledger (client, n) VALUES (1, 2)")
            .error
            .is_none()
    });
    assert_eq!(
        stage.value(0, 0, "SELECT string_agg(n::text, ',') FROM ledger"),
        "2"
    );
}
