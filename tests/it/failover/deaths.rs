//! A primary that is killed, and one that is stopped: another one is promoted, and clients see no more of it than that it takes a while.

use std::time::{Duration, Instant};

use super::load::{Load, ledger, only_what_was_under_way};
use super::stage::{SLACK, Stage, nodes_are};

const CLIENTS: usize = 16;

/// How long a shard stays without a primary before somebody promotes.
const PAUSE: Duration = Duration::from_millis(300);

#[test]
fn a_primary_is_killed_and_one_is_stopped() {
    let mut stage = Stage::start(1, 2);
    stage.commit_with_a_replica(&[0, 1, 2]);
    let proxy = stage.proxy("");

    let load = Load::start(&proxy, CLIENTS);
    load.progress(200);
    let killed = Instant::now();
    stage.kill(0, 0);
    std::thread::sleep(PAUSE);
    let second = stage.furthest(&[1, 2]);
    let third = 3 - second;
    stage.repoint(third, second);
    stage.promote(second);
    // With the replica that it waits for.
    stage.run(0, second, "INSERT INTO seen VALUES (1, 1)");
    let outage = killed.elapsed();
    let port = stage.port(second);
    let (seen, _) = nodes_are(&proxy, "the new primary is seen", |nodes| {
        nodes
            .iter()
            .any(|node| node.port == port && node.is_primary)
    });
    load.progress(200);
    let report = load.end();
    println!(
        "kill -9 of the primary: one that takes writes again after {outage:?}, seen after {:?}; {report}",
        seen - killed
    );
    only_what_was_under_way(&report, CLIENTS, "kill -9");
    report.agrees_with(&stage, second);
    assert!(report.longest <= outage + SLACK, "{report}");

    // The one that took over hangs.
    stage.run(0, second, "TRUNCATE ledger, totals");
    stage.level(second, &[third]);
    let load = Load::start(&proxy, CLIENTS);
    load.progress(200);
    stage.configure(third, "synchronous_standby_names", "");
    let stopped = Instant::now();
    let frozen = stage.freeze(second);
    std::thread::sleep(PAUSE);
    stage.promote(third);
    let outage = stopped.elapsed();
    let (seen, _) = nodes_are(&proxy, "the third is seen", |nodes| {
        nodes
            .iter()
            .any(|node| node.port == stage.port(third) && node.is_primary)
    });
    load.progress(200);
    // It comes back, and believes to be the primary still.
    drop(frozen);
    let (_, nodes) = nodes_are(&proxy, "the old one is fenced", |nodes| {
        nodes
            .iter()
            .any(|node| node.port == port && node.stage == "fenced")
    });
    let old = nodes
        .iter()
        .find(|node| node.port == port)
        .expect("it is there");
    assert!(old.error.contains("nothing is sent to it"), "{old:?}");
    load.progress(200);
    let report = load.end();
    println!(
        "SIGSTOP of the primary: another one after {outage:?}, seen after {:?}; {report}",
        seen - stopped
    );
    only_what_was_under_way(&report, CLIENTS, "SIGSTOP");
    report.agrees_with(&stage, third);
    assert!(report.longest <= outage + SLACK, "{report}");
    // What was on its way to the old one may have arrived there, and nothing else has.
    stage.configure(second, "synchronous_standby_names", "");
    let new = ledger(&stage, third);
    for place in ledger(&stage, second).difference(&new) {
        assert!(
            !report.committed.contains(place),
            "{place:?} was acknowledged"
        );
        let mut failures = report.failures.iter();
        let failed = failures.any(|failure| (failure.client, failure.n) == *place);
        assert!(failed, "{place:?} was sent to a primary that was replaced");
    }
}
