//! What goes past a limit or breaks the protocol gets its error, and never ends the process.

use std::io::{Read, Write};
use std::net::TcpStream;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::proxy::{DATABASE, PASSWORD, Proxy, proxy};
use crate::servers::{DEADLINE, wait_until};
use crate::wire_client::{Wire, copy_data, packet, parse, query, run, startup, sync, tagged};

const ALIVE: &str = "T(?column?:23) D(1) C(SELECT 1) Z(I)";

/// What is said to these bytes on a new connection, up to its end.
fn said_to(proxy: &Proxy, bytes: &[u8]) -> String {
    let mut wire = Wire::connect(proxy.address);
    wire.send(bytes);
    wire.rest()
}

#[test]
fn everybody_logs_in_by_their_method() {
    let proxy = proxy();
    for (user, password) in [("app", PASSWORD), ("old", "older"), ("trusty", "")] {
        let mut client = Wire::log_in(
            proxy.address,
            &[("user", user), ("database", DATABASE)],
            password,
        )
        .unwrap();
        assert_eq!(client.query("SELECT 1"), ALIVE);
    }
    let said: Vec<String> = [
        ("app", "wrong"),
        ("nobody_there", "wrong"),
        ("old", "wrong"),
    ]
    .map(|(user, password)| {
        let refused = Wire::log_in(
            proxy.address,
            &[("user", user), ("database", DATABASE)],
            password,
        )
        .err()
        .unwrap();
        refused.to_string().replace(user, "<user>")
    })
    .into();
    assert_eq!(
        said,
        vec!["E(FATAL 28P01 password authentication failed for user \"<user>\")"; 3]
    );
}

#[test]
fn large_and_unknown_messages_end_the_session() {
    let proxy = Proxy::start("workers = 1\n[limits]\nmax_message_size = \"64kB\"\n");
    let mut header = vec![b'Q'];
    header.extend(100_000_u32.to_be_bytes());
    for bytes in [
        header.clone(),
        vec![b'Q', 0, 0, 0, 3],
        vec![b'S', 0x7f, 0xff, 0xff, 0xff],
        vec![b'E', 0, 0, 0x40, 0],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 16],
    ] {
        let mut client = proxy.client("trusty");
        client.query("BEGIN");
        client.query("SELECT 1");
        client.send(&bytes);
        let said = client.rest();
        assert!(
            said.starts_with("E(FATAL 08P01 invalid ") && said.matches("E(").count() == 1,
            "{bytes:?}: {said}"
        );
    }
    // As large as is allowed.
    let mut client = proxy.client("trusty");
    let text = format!("SELECT length('{}')", "x".repeat(65_000));
    assert_eq!(
        client.query(&text),
        "T(length:23) D(65000) C(SELECT 1) Z(I)"
    );
    // Messages that are whole and wrong inside are errors that the session survives.
    for bytes in [
        tagged(b'Q', b"SELECT 1"),
        tagged(b'Q', b"SELECT 1\0SELECT 2\0"),
        [tagged(b'P', b""), sync()].concat(),
        [tagged(b'P', b"\0SELECT 1\0\0\x05"), sync()].concat(),
        [tagged(b'B', b"\0\0\0\0\0\x01\0\0\0\xff"), sync()].concat(),
        [tagged(b'E', b"\0"), sync()].concat(),
        [tagged(b'D', b"X\0"), sync()].concat(),
        [tagged(b'C', b""), sync()].concat(),
        tagged(b'Q', b"SELECT '\xff'\0"),
    ] {
        client.send(&bytes);
        let said = client.read().unwrap().to_string();
        assert!(said.starts_with("E(ERROR "), "{bytes:?}: {said}");
        assert_eq!(client.read().unwrap().to_string(), "Z(I)", "{bytes:?}");
    }
    assert_eq!(client.query("SELECT 1"), ALIVE);
}

#[test]
fn startup_packets() {
    let proxy = proxy();
    let long = "x".repeat(11_000);
    let large = startup(3 << 16, &[("user", "trusty"), ("application_name", &long)]);
    for (bytes, expected) in [
        (large, "E(FATAL 08P01 "),
        (vec![0, 0, 0, 4], "E(FATAL 08P01 "),
        (vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0], "E(FATAL 08P01 "),
        (startup(2 << 16, &[("user", "trusty")]), "E(FATAL 0A000 "),
        (startup(3 << 16, &[("database", "shop")]), "E(FATAL 28000 "),
        (
            packet(&[0, 3, 0, 0, b'u', b's', b'e', b'r']),
            "E(FATAL 08P01 ",
        ),
        (b"GET / HTTP/1.0\r\n\r\n".to_vec(), "E(FATAL 08P01 "),
        (
            startup(3 << 16, &[("user", "trusty"), ("replication", "true")]),
            "E(FATAL 0A000 ",
        ),
    ] {
        let said = said_to(proxy, &bytes);
        assert!(
            said.starts_with(expected),
            "{}: {said}",
            bytes[..bytes.len().min(20)].escape_ascii()
        );
    }
    // A version and an option of the future are negotiated down.
    let mut wire = Wire::connect(proxy.address);
    wire.send(&startup(
        (3 << 16) | 9,
        &[
            ("user", "trusty"),
            ("database", DATABASE),
            ("_pq_.novelty", "on"),
        ],
    ));
    let said = wire.finish_login("trusty", "").unwrap();
    assert_eq!(said[0].tag, b'v');
    assert!(
        said[0].body.ends_with(b"\0\0\0\x01_pq_.novelty\0"),
        "{:?}",
        said[0].body
    );
    assert_eq!(wire.query("SELECT 1"), ALIVE);
}

#[test]
fn bytes_before_tls_are_never_used() {
    let directory = tempfile::tempdir().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        directory.path().join("server.pem"),
        directory.path().join("server.key"),
    );
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let proxy = Proxy::start(&format!(
        "workers = 1\n[listen.tls]\nmode = \"prefer\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    ));
    let ssl_request = packet(&80_877_103_u32.to_be_bytes());
    let hello = startup(3 << 16, &[("user", "trusty"), ("database", DATABASE)]);
    for request in [ssl_request.clone(), packet(&80_877_104_u32.to_be_bytes())] {
        let mut socket = TcpStream::connect(proxy.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
            .write_all(&[&request[..], &hello, &query("SELECT 1")].concat())
            .unwrap();
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("received unencrypted data after") && !said.contains("SELECT"),
            "{said}"
        );
    }
    // Asked for properly, it is there.
    let mut socket = TcpStream::connect(proxy.address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(&ssl_request).unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");
}

#[test]
fn too_many_clients() {
    let proxy = Proxy::start(
        "workers = 1\n[limits]\nmax_client_connections = 4\nmax_user_connections = 2\n",
    );
    // The client that looked whether the proxy is ready may not have gone yet.
    wait_until("it has gone", || {
        proxy
            .report()
            .iter()
            .all(|worker| worker.clients.is_empty())
    });
    let [one, _two] = [(); 2].map(|()| proxy.client("trusty"));
    let refused = proxy.try_client("trusty", &[]).err().unwrap().to_string();
    assert_eq!(
        refused,
        "E(FATAL 53300 too many connections for role \"trusty\")"
    );
    let _others = [(); 2].map(|()| proxy.client("app"));
    let refused = proxy.try_client("lone", &[]).err().unwrap().to_string();
    assert_eq!(refused, "E(FATAL 53300 sorry, too many clients already)");
    drop(one);
    wait_until("there is room again", || {
        proxy.try_client("trusty", &[]).is_ok()
    });
}

/// Not after shutdown_timeout, which is for open transactions.
#[test]
fn an_idle_client_is_sent_away_when_the_process_ends() {
    let proxy = Proxy::start("workers = 1\n[limits]\nshutdown_timeout = \"1h\"\n");
    let mut idle = proxy.client("trusty");
    proxy.shut_down();
    assert_eq!(
        idle.rest(),
        "E(FATAL 57P01 terminating connection due to administrator command)"
    );
}

#[test]
fn who_takes_too_long_to_log_in_is_sent_away() {
    let proxy = Proxy::start("workers = 1\n[limits]\nlogin_timeout = \"1s\"\n");
    let mut silent = Wire::connect(proxy.address);
    let mut slow = Wire::connect(proxy.address);
    slow.send(&startup(
        3 << 16,
        &[("user", "app"), ("database", DATABASE)],
    ));
    assert_eq!(slow.read().unwrap().tag, b'R');
    assert_eq!(
        slow.rest(),
        "E(FATAL 57014 canceling authentication due to timeout)"
    );
    assert_eq!(silent.rest(), "");
}

/// Before the login and after it, with types that exist and types that do not: nothing ends the process, or the sessions of others.
#[test]
fn garbage() {
    let proxy = Proxy::start("workers = 1\n[limits]\nmax_message_size = \"64kB\"\n");
    let mut witness = proxy.client("trusty");
    let mut random = SmallRng::seed_from_u64(20_261_122);
    let real: Vec<Vec<u8>> = vec![
        query("SELECT 1"),
        query("BEGIN; SELECT * FROM customers WHERE id = 7"),
        parse("s", "SELECT $1::int", &[]),
        run("SELECT name FROM customers WHERE id = $1", &[Some("7")]),
        copy_data(b"xyz"),
        query("COPY notes FROM STDIN"),
        sync(),
    ];
    let mut packets = 0;
    while packets < 2000 {
        let logged_in = random.random_bool(0.7);
        let mut wire = if logged_in {
            proxy.client("boss")
        } else {
            Wire::connect(proxy.address)
        };
        for _ in 0..random.random_range(1..30) {
            packets += 1;
            let mut bytes = match random.random_range(0..3) {
                0 => real[random.random_range(0..real.len())].clone(),
                1 => {
                    let length = random.random_range(0..60);
                    let body: Vec<u8> = (0..length).map(|_| random.random()).collect();
                    let tags = b"QPBDECHSFXdcfpQPBDECHS\0!zR";
                    tagged(tags[random.random_range(0..tags.len())], &body)
                }
                _ => (0..random.random_range(1..60))
                    .map(|_| random.random())
                    .collect(),
            };
            // A real message with a byte changed is the nastiest.
            if random.random_bool(0.5) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            if wire.stream.write_all(&bytes).is_err() {
                break;
            }
        }
        if random.random_bool(0.1) {
            assert_eq!(witness.query("SELECT 1"), ALIVE);
        }
    }
    assert_eq!(witness.query("SELECT 1"), ALIVE);
    assert_eq!(proxy.client("trusty").query("SELECT 1"), ALIVE);
}

/// Each time limit ends what it is for and nothing else; the server connection is free again, rolled back.
#[test]
fn time_limits() {
    let limits = "client_idle_timeout = \"600ms\"\nidle_transaction_timeout = \"300ms\"\nquery_timeout = \"400ms\"\n";
    let proxy = Proxy::start(&format!(
        "workers = 1\n[pool]\nsize = 1\n[limits]\n{limits}"
    ));
    let in_transaction = "E(FATAL 25P03 terminating connection due to idle-in-transaction timeout)";
    for begun in [
        "SELECT 1",
        "BEGIN; SELECT pg_advisory_xact_lock(4711)",
        "BEGIN",
        "BEGIN; SELECT nothing",
    ] {
        let mut client = proxy.client("trusty");
        client.query(begun);
        let expected = match begun {
            "SELECT 1" => "E(FATAL 57P05 terminating connection due to idle-session timeout)",
            _ => in_transaction,
        };
        assert_eq!(client.rest(), expected, "{begun}");
    }
    // The pool's one connection is nobody's, and what was locked on it is free.
    let mut client = proxy.client("trusty");
    assert_eq!(
        client.query("SELECT 1 FROM pg_locks WHERE objid = 4711"),
        "T(?column?:23) C(SELECT 0) Z(I)"
    );
    // A statement that takes too long fails; its transaction and its client go on.
    let cancelled = "E(ERROR 57014 canceling statement due to user request)";
    assert_eq!(
        client.query("SELECT pg_sleep(30)"),
        format!("T(pg_sleep:2278) {cancelled} Z(I)")
    );
    client.query("BEGIN");
    assert_eq!(
        client.query("SELECT pg_sleep(30)"),
        format!("T(pg_sleep:2278) {cancelled} Z(E)")
    );
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.query("SELECT 1"), ALIVE);
    // What is refused is not taken for a statement that runs: the client is idle then.
    client.query("SELECT 1 FROM orders");
    assert_eq!(
        client.rest(),
        "E(FATAL 57P05 terminating connection due to idle-session timeout)"
    );
}
