//! A primary that is killed, and one that is stopped: another one is promoted, and clients see no more of it than that it takes a while.

use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::load::{Load, ledger, only_what_was_under_way};
use super::process::Process;
use super::stage::{SLACK, Stage, children, nodes_are, nodes_of};
use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::succeeded;

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

/// A server that dies while it waits for the next message has not read what is on its way: that is asked of the next one, and a COMMIT is not in doubt.
#[test]
fn what_a_dying_server_did_not_read_was_not_done() {
    let mut stage = Stage::start(1, 0);
    let proxy = stage.proxy("");
    let mut alone = Raw::connect(proxy.port, "app", "app");
    let mut block = Raw::connect(proxy.port, "app", "app");
    for n in 0..3 {
        // Its connection stays, so that both statements are on their way to this very server.
        succeeded("SELECT", &alone.simple("SELECT v FROM seen"));
        let begun = block.simple(&format!("BEGIN; INSERT INTO seen VALUES (10{n}, 0)"));
        succeeded("a block", &begun);
        let postmaster = stage.node(0, 0).pid().expect("it runs");
        let processes = children(postmaster);
        let frozen = stage.freeze(0);
        let insert = format!("INSERT INTO seen VALUES ({n}, 0)");
        let (inserted, committed) = std::thread::scope(|scope| {
            let inserted = scope.spawn(|| alone.simple(&insert));
            let committed = scope.spawn(|| block.simple("COMMIT"));
            std::thread::sleep(Duration::from_millis(100));
            stage.kill(0, 0);
            drop(frozen);
            wait_until("its processes have ended", || {
                let is_there =
                    |process: &u32| kill(Pid::from_raw(process.cast_signed()), None).is_ok();
                !processes.iter().any(is_there)
            });
            stage.restart(0, 0);
            (inserted.join(), committed.join())
        });
        succeeded("an INSERT by itself", &inserted.expect("no panic"));
        let found = |id: i32| {
            let asked = format!("SELECT count(*) FROM seen WHERE id = {id}");
            stage.value(0, 0, &asked)
        };
        assert_eq!(found(n), "1");
        // The connection with the block is gone. A process that saw the message first has done it.
        let told = committed.expect("no panic");
        match &told.error {
            None => assert_eq!(found(100 + n), "1"),
            Some(error) => {
                assert_eq!(error.sqlstate(), "57P01", "{}", told.shown());
                assert_eq!(found(100 + n), "0");
                block = Raw::connect(proxy.port, "app", "app");
            }
        }
    }
}

/// What servers say to those who log in is asked of the home shard first.
#[test]
fn who_works_elsewhere_may_log_in_while_the_home_shard_stands_still() {
    let stage = Stage::start(2, 0);
    let nodes = [0, 1].map(|shard| vec![stage.node(shard, 0).port()]);
    let text = Stage::configuration(&nodes, "");
    let proxy = Process::start(&text);
    let frozen = stage.freeze(0);
    for when in ["not known yet", "known"] {
        let began = Instant::now();
        let mut client = Raw::connect(proxy.port, "app", "app");
        let read = "/* trunkline: shard=s2 */ SELECT count(*) FROM things";
        succeeded(read, &client.simple(read));
        let took = began.elapsed();
        println!("{when}: {took:?}");
        assert!(took < SLACK, "{when}: {took:?}");
        nodes_of(proxy.port, "it is known", |nodes| {
            nodes.iter().any(|node| node.stage == "down")
        });
        // What was learned is forgotten.
        proxy.reload(&text);
    }
    drop(frozen);
}
