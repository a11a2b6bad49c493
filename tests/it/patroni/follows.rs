//! Trunkline in front of a real Patroni cluster, while it changes its leader.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::cluster::PatroniCluster;
use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::{Sharded, succeeded};

fn proxy(cluster: &PatroniCluster) -> Sharded {
    let mut text = String::from(
        "users = [{ name = \"postgres\", auth = \"trust\", admin = true }]\n\
         databases = [{ name = \"postgres\" }]\n[listen]\naddresses = [\"127.0.0.1:6432\"]\nhttp = \"off\"\n\
         [server_tls]\nmode = \"disable\"\n[limits]\nshutdown_timeout = \"1s\"\n\
         [health]\ninterval = \"200ms\"\ntimeout = \"1s\"\nrise = 1\n[failover]\nwait = \"60s\"\n\
         [[shards]]\nname = \"s1\"\n",
    );
    for node in &cluster.nodes {
        let _ = writeln!(
            text,
            "[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {}\npatroni = \"http://127.0.0.1:{}\"",
            node.port, node.api
        );
    }
    Sharded::launch("postgres", &text)
}

/// The place of the primary in SHOW NODES, and what Patroni says of each node.
fn nodes(admin: &mut Raw) -> (Option<usize>, Vec<String>) {
    let answer = admin.simple("SHOW NODES");
    succeeded("SHOW NODES", &answer);
    let column = |name: &str| {
        let mut columns = answer.columns[0].iter();
        columns.position(|(column, ..)| column == name).expect(name)
    };
    let (primary, patroni) = (column("primary"), column("patroni"));
    let text = |row: &Vec<Option<Vec<u8>>>, place: usize| {
        String::from_utf8_lossy(row[place].as_deref().unwrap_or_default()).into_owned()
    };
    let mut rows = answer.rows.iter();
    let found = rows.position(|row| text(row, primary) == "t");
    (
        found,
        answer.rows.iter().map(|row| text(row, patroni)).collect(),
    )
}

/// Writes until it is told to end; gives how many rows were acknowledged, the longest wait, and what went wrong.
struct Writer {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<(i64, Duration, Vec<String>)>,
}

impl Writer {
    fn start(port: u16) -> Writer {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut client = Raw::connect(port, "postgres", "postgres");
            let (mut acknowledged, mut longest, mut errors) = (0, Duration::ZERO, Vec::new());
            for id in 0_i64.. {
                if told.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                let answer = client.simple(&format!("INSERT INTO written VALUES ({id})"));
                longest = longest.max(began.elapsed());
                match answer.error {
                    None => acknowledged += 1,
                    Some(error) => errors.push(error.sqlstate().to_owned()),
                }
            }
            (acknowledged, longest, errors)
        });
        Writer { stop, thread }
    }

    fn end(self) -> (i64, Duration, Vec<String>) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn rows(client: &mut Raw) -> i64 {
    let answer = client.simple("SELECT count(*) FROM written");
    succeeded("count", &answer);
    let count = answer.rows[0][0].as_deref().unwrap();
    std::str::from_utf8(count).unwrap().parse().unwrap()
}

#[test]
fn a_real_patroni_is_followed() {
    let mut cluster = PatroniCluster::start(3);
    let first = cluster.leader().unwrap();
    let proxy = proxy(&cluster);
    let mut admin = Raw::connect(proxy.port, "postgres", "trunkline");
    wait_until("the leader is the primary", || {
        nodes(&mut admin).0 == Some(first)
    });
    let mut wanted = vec!["not leader".to_owned(); 3];
    wanted[first] = "leader".to_owned();
    wait_until("each Patroni is heard", || nodes(&mut admin).1 == wanted);
    let mut client = Raw::connect(proxy.port, "postgres", "postgres");
    succeeded("create", &client.simple("CREATE TABLE written (id bigint)"));

    let writer = Writer::start(proxy.port);
    let second = (0..3).find(|place| *place != first).unwrap();
    let name = |place: usize| cluster.nodes[place].name.clone();
    // A synchronous standby alone may be the next one; the cluster says which that is.
    let order = format!("{{\"leader\": \"{}\"}}", name(first));
    wait_until("Patroni switches over", || {
        cluster.call(second, "POST", "/switchover", &order) == Some(200)
            || cluster.leader().is_some_and(|leader| leader != first)
    });
    wait_until("there is another leader", || {
        cluster.leader().is_some_and(|leader| leader != first)
    });
    let second = cluster.leader().unwrap();
    wait_until("it is followed", || nodes(&mut admin).0 == Some(second));
    wait_until("the new one takes writes", || {
        client
            .simple("INSERT INTO written VALUES (-1)")
            .error
            .is_none()
    });
    let (acknowledged, longest, errors) = writer.end();
    println!("a switchover by Patroni: {acknowledged} rows, {longest:?} at most, {errors:?}");
    assert!(
        rows(&mut client) > acknowledged,
        "acknowledged rows are missing"
    );

    if std::env::var_os("TRUNKLINE_NIGHTLY").is_none() {
        return;
    }
    // Its lease has to end first: 20 seconds.
    let before = rows(&mut client);
    let writer = Writer::start(proxy.port);
    cluster.kill(second);
    wait_until("there is a third leader", || {
        cluster.leader().is_some_and(|leader| leader != second)
    });
    wait_until("it takes writes", || {
        client
            .simple("INSERT INTO written VALUES (-2)")
            .error
            .is_none()
    });
    let (acknowledged, longest, errors) = writer.end();
    println!("kill -9 of a leader: {acknowledged} rows, {longest:?} at most, {errors:?}");
    assert!(
        rows(&mut client) > before + acknowledged,
        "acknowledged rows are missing"
    );
}
