//! Cancel requests: they reach the statement they are meant for, and no other.

use std::io::Read;

use crate::proxy::{DATABASE, Proxy, proxy};
use crate::servers::{cluster, value, wait_until};
use crate::wire_client::{Until, Wire, cancel_request, query, run, startup, sync, transcript};

/// Sends the request and waits until it was dealt with.
fn cancel(proxy: &Proxy, process_id: i32, secret: &[u8]) {
    let mut wire = Wire::connect(proxy.address);
    wire.send(&cancel_request(process_id, secret));
    assert_eq!(wire.stream.read(&mut [0; 1]).unwrap(), 0);
}

fn sleeping(mark: u32) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600), {mark}%' AND wait_event = 'PgSleep'"
    );
    value(&cluster().shards()[0].primary, DATABASE, &sql).unwrap() == "1"
}

const CANCELED: &str = "E(ERROR 57014 canceling statement due to user request)";

#[test]
fn a_running_statement_is_cancelled() {
    let proxy = proxy();
    let mut client = proxy.client("trusty");
    let (process_id, secret) = (client.process_id, client.secret.clone());
    for (mark, bytes, end) in [
        (61, query("SELECT pg_sleep(600), 61"), "Z(I)"),
        (
            62,
            [run("SELECT pg_sleep(600), 62", &[]), sync()].concat(),
            "Z(I)",
        ),
        (63, query("BEGIN; SELECT pg_sleep(600), 63"), "Z(E)"),
    ] {
        client.send(&bytes);
        // The query of a message of several statements is all of it.
        match mark {
            63 => {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'BEGIN; SELECT pg_sleep(600), 63%' AND wait_event = 'PgSleep'";
                wait_until("it runs", || {
                    value(&cluster().shards()[0].primary, DATABASE, sql).unwrap() == "1"
                });
            }
            mark => wait_until("it runs", || sleeping(mark)),
        }
        // A wrong key does nothing.
        cancel(proxy, process_id, &[0; 4]);
        cancel(proxy, process_id.wrapping_add(1), &secret);
        cancel(proxy, process_id, &secret[..3].repeat(2));
        assert!(mark == 63 || sleeping(mark));
        cancel(proxy, process_id, &secret);
        let said = transcript(&client.read_until(Until::Ready(1)));
        assert!(said.ends_with(&format!("{CANCELED} {end}")), "{said}");
    }
    assert_eq!(
        client.query("ROLLBACK; SELECT 1"),
        "C(ROLLBACK) T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
}

#[test]
fn a_long_secret_cancels_too() {
    let proxy = proxy();
    let mut client = Wire::connect(proxy.address);
    client.send(&startup(
        (3 << 16) | 2,
        &[("user", "trusty"), ("database", DATABASE)],
    ));
    client.finish_login("trusty", "").unwrap();
    assert_eq!(client.secret.len(), 32);
    client.send(&query("SELECT pg_sleep(600), 64"));
    wait_until("it runs", || sleeping(64));
    cancel(proxy, client.process_id, &client.secret[..4]);
    assert!(sleeping(64));
    cancel(proxy, client.process_id, &client.secret.clone());
    assert_eq!(
        transcript(&client.read_until(Until::Ready(1)))
            .split(' ')
            .next_back(),
        Some("Z(I)")
    );
    assert_eq!(
        client.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
}

/// With one server connection, a cancel request that is late would hit somebody else's statement.
#[test]
fn nobody_else_is_hit() {
    let proxy = Proxy::start("workers = 1\n[pool]\nsize = 1\n");
    let mut victim = proxy.client("trusty");
    let mut bystander = proxy.client("trusty");
    let (address, process_id, secret) = (proxy.address, victim.process_id, victim.secret.clone());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut wire = Wire::connect(address);
                wire.send(&cancel_request(process_id, &secret));
                let _ = wire.stream.read(&mut [0; 1]);
            }
        });
        for round in 0..150 {
            victim.send(&query("SELECT pg_sleep(0.001)"));
            let said = bystander.query("SELECT pg_sleep(0.002), 1");
            if said != "T(pg_sleep:2278 ?column?:23) D(|1) C(SELECT 1) Z(I)" {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
                panic!("round {round}: {said}");
            }
            let said = transcript(&victim.read_until(Until::Ready(1)));
            assert!(said.ends_with(" Z(I)"), "{said}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // An idle client's next statement is not hit by a request that came before it.
    for _ in 0..20 {
        cancel(&proxy, process_id, &victim.secret.clone());
        assert_eq!(
            victim.query("SELECT 1"),
            "T(?column?:23) D(1) C(SELECT 1) Z(I)"
        );
    }
}
