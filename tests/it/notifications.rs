//! LISTEN in transaction pooling: from the commit on, over one connection for all, and without keeping one for anybody.

use crate::proxy::Proxy;
use crate::servers::{cluster, value, wait_until};
use crate::wire_client::{Wire, bind, execute, parse, run, sync};

const LISTENING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN \"%' AND datname = 'shop'";

fn start() -> Proxy {
    Proxy::start("workers = 1\n[pool]\nsize = 2\n")
}

fn heard(client: &mut Wire) -> String {
    client.read().expect("it is still there").to_string()
}

#[test]
fn listening_keeps_no_connection() {
    let proxy = start();
    let mut clients: Vec<Wire> = (0..20).map(|_| proxy.client("lone")).collect();
    for (place, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.query("LISTEN many"), "C(LISTEN) Z(I)");
        assert_eq!(
            client.query(&format!("LISTEN \"Only {place}\"")),
            "C(LISTEN) Z(I)"
        );
    }
    assert!(
        proxy.report()[0]
            .clients
            .iter()
            .all(|client| client.pins.is_empty())
    );
    let mut other = proxy.client("lone");
    assert_eq!(
        other.query("NOTIFY many, 'all'; NOTIFY \"Only 7\", 'seven'"),
        "C(NOTIFY) C(NOTIFY) Z(I)"
    );
    assert_eq!(
        other.query("SELECT pg_notify('Only 8', 'eight')"),
        "T(pg_notify:2278) D() C(SELECT 1) Z(I)"
    );
    for (place, client) in clients.iter_mut().enumerate() {
        assert_eq!(heard(client), "A(many all)");
        match place {
            7 => assert_eq!(heard(client), "A(Only 7 seven)"),
            8 => assert_eq!(heard(client), "A(Only 8 eight)"),
            _ => {}
        }
    }
    // A client hears its own, too; and who has left the channel hears nothing.
    assert_eq!(clients[0].query("UNLISTEN many"), "C(UNLISTEN) Z(I)");
    assert_eq!(clients[1].query("UNLISTEN *"), "C(UNLISTEN) Z(I)");
    assert_eq!(clients[3].query("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(clients[2].query("NOTIFY many, 'again'"), "C(NOTIFY) Z(I)");
    assert_eq!(heard(&mut clients[2]), "A(many again)");
    assert_eq!(heard(&mut clients[4]), "A(many again)");
    clients[2].query("NOTIFY \"Only 0\", 'zero'; NOTIFY \"Only 1\", 'one'");
    assert_eq!(heard(&mut clients[0]), "A(Only 0 zero)");
    for silent in [1, 3] {
        assert_eq!(
            clients[silent].query("SELECT 1"),
            "T(?column?:23) D(1) C(SELECT 1) Z(I)"
        );
    }
}

#[test]
fn from_the_commit_on() {
    let proxy = start();
    let (mut client, mut other) = (proxy.client("trusty"), proxy.client("trusty"));
    let silent = |client: &mut Wire| {
        assert_eq!(
            client.query("SELECT 1"),
            "T(?column?:23) D(1) C(SELECT 1) Z(I)"
        );
    };
    for begun in [&["BEGIN"][..], &["BEGIN", "SELECT 1"]] {
        let mut say = |texts: &[&str]| {
            for text in begun.iter().chain(texts) {
                let said = client.query(text);
                assert!(
                    !said.contains("E(") && !said.contains("A("),
                    "{text}: {said}"
                );
            }
        };
        // Undone with the transaction, or with what comes after a savepoint.
        say(&["LISTEN tx", "ROLLBACK"]);
        say(&["SAVEPOINT a", "LISTEN tx", "ROLLBACK TO a", "COMMIT"]);
        other.query("NOTIFY tx, 'nobody'");
        silent(&mut client);
        let mut say = |text: &str| client.query(text);
        for text in begun {
            say(text);
        }
        assert_eq!(say("LISTEN tx"), "C(LISTEN) Z(T)");
        assert_eq!(say("COMMIT"), "C(COMMIT) Z(I)");
        other.query("NOTIFY tx, 'late'");
        assert_eq!(heard(&mut client), "A(tx late)");
        // Not in the middle of a transaction.
        for text in begun {
            client.query(text);
        }
        client.query("UNLISTEN tx");
        other.query("NOTIFY tx, 'waits'");
        for _ in 0..3 {
            assert!(client.query("SELECT pg_sleep(0.05)").starts_with("T("));
        }
        assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(heard(&mut client), "A(tx waits)");
        client.query("UNLISTEN tx");
        // In a failed transaction it is refused.
        for text in begun {
            client.query(text);
        }
        client.query("SELECT 1/0");
        assert!(client.query("LISTEN tx").starts_with("E(ERROR 25P02 "));
        client.query("ROLLBACK");
    }
    // A NOTIFY stays in its transaction.
    client.query("LISTEN tx");
    other.query("BEGIN; NOTIFY tx, 'undone'");
    other.query("ROLLBACK");
    other.query("BEGIN; NOTIFY tx, 'done'; COMMIT");
    assert_eq!(heard(&mut client), "A(tx done)");
}

#[test]
fn by_the_extended_protocol() {
    let proxy = start();
    let mut client = proxy.client("trusty");
    assert_eq!(
        client.ask(&[run("LISTEN ext", &[]), sync()]),
        "1 2 C(LISTEN) Z(I)"
    );
    assert_eq!(
        client.ask(&[run("NOTIFY ext, 'one'", &[]), sync()]),
        "1 2 C(NOTIFY) Z(I)"
    );
    assert_eq!(heard(&mut client), "A(ext one)");
    assert_eq!(
        client.ask(&[
            parse("u", "UNLISTEN *", &[]),
            bind("", "u", &[]),
            execute("", 0),
            sync()
        ]),
        "1 2 C(UNLISTEN) Z(I)"
    );
    client.query("NOTIFY ext, 'two'");
    // Undone with the rest of its unit.
    let said = client.ask(&[
        run("SELECT 1", &[]),
        run("LISTEN ext", &[]),
        run("SELECT 1/0", &[]),
        sync(),
    ]);
    assert_eq!(
        said,
        "1 2 D(1) C(SELECT 1) 1 2 C(LISTEN) 1 E(ERROR 22012 division by zero) Z(I)"
    );
    client.query("NOTIFY ext, 'three'");
    assert_eq!(
        client.query("SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)"
    );
}

/// The connection that listens is replaced when it dies, and everybody is told that something may have been missed.
#[test]
fn a_lost_connection_is_replaced() {
    let proxy = start();
    let (mut one, mut two) = (proxy.client("trusty"), proxy.client("trusty"));
    one.query("LISTEN lost_a");
    one.query("LISTEN lost_b");
    two.query("LISTEN lost_b");
    let home = &cluster().shards()[0].primary;
    let ours = "FROM pg_stat_activity WHERE query = 'LISTEN \"lost_b\"'";
    assert_eq!(
        value(home, "shop", &format!("SELECT count(*) {ours}")).unwrap(),
        "1",
        "one listens for both"
    );
    value(
        home,
        "shop",
        &format!("SELECT pg_terminate_backend(pid) {ours}"),
    )
    .unwrap();
    let warning =
        "N(WARNING 01000 the connection that listens was lost: notifications may have been missed)";
    assert_eq!(heard(&mut one), warning);
    assert_eq!(heard(&mut two), warning);
    two.query("NOTIFY lost_a, 'x'; NOTIFY lost_b, 'y'");
    assert_eq!(heard(&mut one), "A(lost_a x)");
    assert_eq!(heard(&mut one), "A(lost_b y)");
    assert_eq!(heard(&mut two), "A(lost_b y)");
    // With the last channel it goes.
    one.query("UNLISTEN *");
    drop(two);
    wait_until("nobody listens", || {
        let left = format!("{LISTENING} AND query LIKE '%lost%'");
        value(home, "shop", &left).unwrap() == "0"
    });
}

/// Who does not read is sent away before it costs memory without end; others hear on.
#[test]
fn a_deaf_client_is_sent_away() {
    let proxy = start();
    let (mut deaf, mut keen, mut loud) = (
        proxy.client("trusty"),
        proxy.client("trusty"),
        proxy.client("trusty"),
    );
    deaf.query("LISTEN flood");
    keen.query("LISTEN flood");
    let payload = "x".repeat(7000);
    let mut sent = 0;
    wait_until("it is sent away", || {
        for _ in 0..100 {
            loud.query(&format!("SELECT pg_notify('flood', '{sent} {payload}')"));
            assert!(heard(&mut keen).starts_with(&format!("A(flood {sent} ")));
            sent += 1;
        }
        let reports = proxy.report();
        !reports[0]
            .clients
            .iter()
            .any(|client| client.process_id == deaf.process_id)
    });
}
