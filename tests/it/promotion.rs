//! Who makes a primary: switchovers while clients work, switchovers that end in the middle, and promotions of replicas when a primary is lost.
//!
//! The proxies are processes of their own here, as they must be to be killed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use trunkline::cli::local::{Cluster, Server, StopMode};
use trunkline::config;
use trunkline::store::{Expected, Store};

use crate::servers::{DEADLINE, own_cluster, value, wait_until};
use crate::store::etcd_server::EtcdServer;

/// A proxy in front of one shard. It is killed when dropped.
struct Program {
    child: Child,
    port: u16,
    folder: Arc<TempDir>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn servers(cluster: &Cluster) -> Vec<&Server> {
    cluster.shards()[0].servers().collect()
}

fn file_store(folder: &TempDir) -> String {
    let path = folder.path().join("state");
    format!(
        "[store]\npath = \"{}\"\nlease_ttl = \"2s\"\n",
        path.display()
    )
}

impl Program {
    /// `failover` goes into that section; `store` is a whole one.
    fn start(cluster: &Cluster, folder: &Arc<TempDir>, failover: &str, store: &str) -> Program {
        let port = free_port();
        let nodes: Vec<_> = servers(cluster)
            .iter()
            .map(|server| format!("{{ host = \"127.0.0.1\", port = {} }}", server.port()))
            .collect();
        let text = format!(
            "workers = 2\n[listen]\naddresses = [\"127.0.0.1:{port}\"]\nhttp = \"off\"\n[server_tls]\nmode = \"disable\"\n{store}\
             [health]\ninterval = \"200ms\"\ntimeout = \"500ms\"\nfall = 2\nrise = 1\n[failover]\nwait = \"30s\"\n{failover}\n\
             [[users]]\nname = \"boss\"\nauth = \"trust\"\nadmin = true\nserver_user = \"postgres\"\n\
             [[users]]\nname = \"app\"\nauth = \"trust\"\n[[databases]]\nname = \"app\"\n\
             [[shards]]\nname = \"s1\"\nnodes = [{}]\n",
            nodes.join(", ")
        );
        let file = folder.path().join(format!("{port}.toml"));
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.path().join(format!("{port}.log"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_trunkline"))
            .arg("serve")
            .arg(&file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut program = Program {
            child,
            port,
            folder: Arc::clone(folder),
        };
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the proxy accepts", || {
            assert!(
                program.child.try_wait().unwrap().is_none(),
                "{}",
                program.log()
            );
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
        program
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{}.log", self.port))).unwrap()
    }

    async fn client(&self, user: &str, database: &str) -> Client {
        let connection = format!(
            "host=127.0.0.1 port={} user={user} dbname={database}",
            self.port
        );
        let (client, connection) = tokio_postgres::connect(&connection, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn admin(&self) -> Client {
        self.client("boss", "trunkline").await
    }

    /// Waits until every node is seen to be well.
    async fn ready(&self, nodes: usize) {
        let admin = self.admin().await;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let rows = rows(&admin, "SHOW NODES").await.unwrap();
            let up = rows
                .iter()
                .filter(|row| row.iter().any(|cell| cell == "up"))
                .count();
            if up == nodes {
                return;
            }
            assert!(Instant::now() < deadline, "{rows:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let cell = |column| row.get(column).unwrap_or_default().to_owned();
            Some((0..row.len()).map(cell).collect())
        }
        _ => None,
    };
    let messages = client.simple_query(sql).await?;
    Ok(messages.into_iter().filter_map(row).collect())
}

/// What the server said, with detail and hint.
fn said(error: &tokio_postgres::Error) -> String {
    let error = error.as_db_error().expect("an error of the server");
    format!(
        "{} {}|{}|{}",
        error.code().code(),
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    )
}

fn switchover(to: &Server) -> String {
    format!("SWITCHOVER s1 TO '127.0.0.1:{}'", to.port())
}

fn is_primary(server: &Server) -> bool {
    value(server, "app", "SELECT pg_is_in_recovery()").unwrap() == "f"
}

fn takes_writes(server: &Server) -> bool {
    value(server, "app", "SHOW default_transaction_read_only").unwrap() == "off"
}

fn make_table(cluster: &Cluster) {
    let sql =
        "CREATE TABLE t (client int, n int, PRIMARY KEY (client, n)); ALTER TABLE t OWNER TO app";
    servers(cluster)[0].run_sql("app", sql).unwrap();
}

/// What clients have seen while they worked.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: usize,
    errors: Vec<String>,
    longest: Duration,
}

/// Inserts row after row until told to stop.
async fn work(client: Client, number: usize, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let insert = format!("INSERT INTO t VALUES ({number}, {n})");
        let begun = Instant::now();
        let done = match number % 2 {
            0 => client.simple_query(&insert).await.map(drop),
            _ => block(&client, &insert).await,
        };
        seen.longest = seen.longest.max(begun.elapsed());
        n += 1;
        match done {
            Ok(()) => seen.acknowledged += 1,
            Err(error) => {
                seen.errors.push(format!("{error:?}"));
                let _ = client.simple_query("ROLLBACK").await;
                if client.is_closed() {
                    break;
                }
            }
        }
    }
    seen
}

async fn block(client: &Client, insert: &str) -> Result<(), tokio_postgres::Error> {
    client.simple_query("BEGIN").await?;
    client.simple_query(insert).await?;
    client
        .simple_query("SELECT count(*) FROM t WHERE n = 0")
        .await?;
    client.simple_query("COMMIT").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_clients_do_not_notice() {
    let cluster = own_cluster(1, 2);
    make_table(&cluster);
    let folder = Arc::new(TempDir::new().unwrap());
    let program = Program::start(&cluster, &folder, "", "");
    program.ready(3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..16 {
        let client = program.client("app", "app").await;
        clients.push(tokio::spawn(work(client, number, Arc::clone(&stop))));
    }
    let servers = servers(&cluster);
    let (old, new, other) = (servers[0], servers[1], servers[2]);
    wait_until("clients have written", || {
        value(old, "app", "SELECT count(*) > 100 FROM t").unwrap() == "t"
    });
    let admin = program.admin().await;
    let steps = rows(&admin, &switchover(new)).await.unwrap();
    let names: Vec<_> = steps.iter().map(|row| &*row[0]).collect();
    assert_eq!(
        names,
        [
            "check", "gate", "quiet", "fence", "catch up", "promote", "open", "repoint", "rejoin"
        ],
        "{steps:?}"
    );
    let written = value(new, "app", "SELECT count(*) FROM t").unwrap();
    wait_until("clients write to the new primary", || {
        value(new, "app", "SELECT count(*) FROM t").unwrap() != written
    });
    // Both replicas follow it, and the old primary is out.
    wait_until("the other replica follows", || {
        value(new, "app", "SELECT count(*) FROM pg_stat_replication").unwrap() == "1"
    });
    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut longest) = (0, Duration::ZERO);
    for client in clients {
        let seen = client.await.unwrap();
        assert!(seen.errors.is_empty(), "{:?}", seen.errors);
        acknowledged += seen.acknowledged;
        longest = longest.max(seen.longest);
    }
    eprintln!("the longest wait of a client was {longest:?}; {steps:?}");
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    let kept = value(new, "app", "SELECT count(*) FROM t").unwrap();
    assert_eq!(kept, acknowledged.to_string());
    assert!(is_primary(new) && !takes_writes(old));
    wait_until("the other replica has everything", || {
        value(other, "app", "SELECT count(*) FROM t").unwrap() == kept
    });
    let nodes = rows(&admin, "SHOW NODES").await.unwrap();
    assert!(nodes[0].iter().any(|cell| cell == "fenced"), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_cannot_be() {
    let cluster = own_cluster(1, 1);
    make_table(&cluster);
    let folder = Arc::new(TempDir::new().unwrap());
    let program = Program::start(&cluster, &folder, "switchover_timeout = \"500ms\"", "");
    program.ready(2).await;
    let servers = servers(&cluster);
    let (old, new) = (servers[0], servers[1]);
    let admin = program.admin().await;
    let refused = async |sql: &str| said(&rows(&admin, sql).await.unwrap_err());
    let nowhere = refused("SWITCHOVER s9 TO '127.0.0.1:1'").await;
    assert!(
        nowhere.starts_with("42704 there is no shard s9|"),
        "{nowhere}"
    );
    let nobody = refused("SWITCHOVER s1 TO '127.0.0.1:1'").await;
    assert!(
        nobody.contains("shard s1 has no node 127.0.0.1:1"),
        "{nobody}"
    );
    let itself = refused(&switchover(old)).await;
    assert!(itself.contains("is the primary already"), "{itself}");

    // A transaction that stays open.
    let holder = program.client("app", "app").await;
    holder
        .simple_query("BEGIN; INSERT INTO t VALUES (1, 1)")
        .await
        .unwrap();
    let busy = refused(&switchover(new)).await;
    assert!(
        busy.contains(
            "step \"quiet\": not quiet within 500ms: 1 connections are lent to app in app"
        ),
        "{busy}"
    );
    assert!(busy.contains("Everything is as it was before."), "{busy}");
    holder.simple_query("COMMIT").await.unwrap();
    // One past the proxy.
    let (direct, connection) = tokio_postgres::connect(&old.superuser_connection("app"), NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    direct.simple_query("BEGIN; SELECT 1").await.unwrap();
    let busy = refused(&switchover(new)).await;
    assert!(
        busy.contains("of postgres") && busy.contains("idle in transaction"),
        "{busy}"
    );
    direct.simple_query("COMMIT").await.unwrap();
    assert!(is_primary(old) && takes_writes(old) && !is_primary(new));
    holder
        .simple_query("INSERT INTO t VALUES (2, 2)")
        .await
        .unwrap();

    // A replica that does not replay, which shows only when the primary is fenced already.
    let startup = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
    let startup = Pid::from_raw(value(new, "app", startup).unwrap().parse().unwrap());
    kill(startup, Signal::SIGSTOP).unwrap();
    let late = refused(&switchover(new)).await;
    kill(startup, Signal::SIGCONT).unwrap();
    assert!(
        late.contains("step \"catch up\": not in time: it has still to replay"),
        "{late}"
    );
    assert!(late.contains("Everything is as it was before."), "{late}");
    assert!(is_primary(old) && takes_writes(old) && !is_primary(new));
    holder
        .simple_query("INSERT INTO t VALUES (3, 3)")
        .await
        .unwrap();

    new.run_sql("app", "SELECT pg_wal_replay_pause()").unwrap();
    let paused = refused(&switchover(new)).await;
    assert!(
        paused.contains("the replay on") && paused.contains("pg_wal_replay_resume"),
        "{paused}"
    );
    new.run_sql("app", "SELECT pg_wal_replay_resume()").unwrap();
    old.run_sql(
        "app",
        "ALTER ROLE app SET default_transaction_read_only = off",
    )
    .unwrap();
    let overridden = refused(&switchover(new)).await;
    assert!(
        overridden.contains("for role app, which would go on writing"),
        "{overridden}"
    );
    old.run_sql("app", "ALTER ROLE app RESET default_transaction_read_only")
        .unwrap();
    rows(&admin, &switchover(new)).await.unwrap();
    holder
        .simple_query("INSERT INTO t VALUES (4, 4)")
        .await
        .unwrap();
    assert!(is_primary(new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_in_the_middle() {
    let cluster = own_cluster(1, 1);
    make_table(&cluster);
    let folder = Arc::new(TempDir::new().unwrap());
    let store = file_store(&folder);
    let servers = servers(&cluster);
    let (old, new) = (servers[0], servers[1]);
    #[expect(
        clippy::async_yields_async,
        reason = "it is awaited after the program was killed"
    )]
    let begin = async |program: &Program| {
        let admin = program.admin().await;
        let sql = switchover(new);
        tokio::spawn(async move { admin.simple_query(&sql).await.map(drop) })
    };

    // While it waits for a transaction.
    let mut program = Program::start(&cluster, &folder, "switchover_timeout = \"1m\"", &store);
    program.ready(2).await;
    let holder = program.client("app", "app").await;
    holder
        .simple_query("BEGIN; INSERT INTO t VALUES (1, 1)")
        .await
        .unwrap();
    let asked = begin(&program).await;
    wait_until("it waits", || program.log().contains("step=\"quiet\""));
    program.kill();
    assert!(asked.await.unwrap().is_err());

    // While the primary is fenced and the replica does not replay.
    let mut program = Program::start(&cluster, &folder, "switchover_timeout = \"1m\"", &store);
    wait_until("it was undone", || {
        program.log().contains("the switchover was undone")
    });
    program.ready(2).await;
    let client = program.client("app", "app").await;
    client
        .simple_query("INSERT INTO t VALUES (2, 2)")
        .await
        .unwrap();
    let startup = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
    let startup = Pid::from_raw(value(new, "app", startup).unwrap().parse().unwrap());
    kill(startup, Signal::SIGSTOP).unwrap();
    let asked = begin(&program).await;
    wait_until("it waits", || program.log().contains("step=\"catch up\""));
    assert!(!takes_writes(old));
    program.kill();
    kill(startup, Signal::SIGCONT).unwrap();
    assert!(asked.await.unwrap().is_err());
    let mut program = Program::start(&cluster, &folder, "", &store);
    wait_until("it was undone", || {
        program.log().contains("the switchover was undone")
    });
    assert!(takes_writes(old) && is_primary(old) && !is_primary(new));
    let client = program.client("app", "app").await;
    client
        .simple_query("INSERT INTO t VALUES (3, 3)")
        .await
        .unwrap();
    program.kill();

    // When the replica may have been told: as the killed one would have left it.
    old.run_sql("app", "ALTER SYSTEM SET default_transaction_read_only = on")
        .unwrap();
    old.run_sql("app", "SELECT pg_reload_conf()").unwrap();
    let place =
        |server: &Server| format!("{{\"host\": \"127.0.0.1\", \"port\": {}}}", server.port());
    let record = format!(
        "{{\"id\": \"x\", \"shard\": \"s1\", \"old\": {}, \"new\": {}, \"phase\": \"promoting\", \"configured\": null, \"by\": \"x\"}}",
        place(old),
        place(new)
    );
    open(&folder, &store)
        .await
        .put_if("switchovers/s1", Expected::Absent, record)
        .await
        .unwrap();
    let program = Program::start(&cluster, &folder, "", &store);
    wait_until("it was ended", || {
        program
            .log()
            .contains("the switchover was brought to its end")
    });
    assert!(is_primary(new) && !takes_writes(old));
    let client = program.client("app", "app").await;
    client
        .simple_query("INSERT INTO t VALUES (4, 4)")
        .await
        .unwrap();
    assert_eq!(
        value(
            new,
            "app",
            "SELECT string_agg(n::text, ',' ORDER BY n) FROM t"
        )
        .unwrap(),
        "2,3,4"
    );
    assert!(
        open(&folder, &store)
            .await
            .get("switchovers/s1")
            .await
            .unwrap()
            .is_none()
    );
}

/// The store of a proxy, from outside.
async fn open(folder: &TempDir, section: &str) -> Store {
    let file = folder.path().join("x.toml").display().to_string();
    let text = format!("{section}{SOUND}");
    let config = config::parse(&text, &file, &|_| None).expect("sound");
    Store::open(&config.store).await.unwrap()
}

const SOUND: &str = "[[users]]\nname = \"u\"\nauth = \"trust\"\n[[databases]]\nname = \"app\"\n[[shards]]\nname = \"s1\"\nnodes = [{ host = \"h\" }]\n";

/// What a promotion needs; the fence writes down what it was told.
fn promoting(folder: &TempDir, fence: &str) -> String {
    let script = folder.path().join("fence.sh");
    let said = folder.path().join("fenced");
    let text = format!(
        "#!/bin/sh\necho \"$TRUNKLINE_SHARD $TRUNKLINE_OLD_PRIMARY $TRUNKLINE_NEW_PRIMARY\" >> {}\n{fence}\n",
        said.display()
    );
    std::fs::write(&script, text).unwrap();
    format!(
        "mode = \"promote\"\nfence_command = [\"/bin/sh\", \"{}\"]\npromote_pause = \"2s\"",
        script.display()
    )
}

fn fenced(folder: &TempDir) -> Vec<String> {
    let said = std::fs::read_to_string(folder.path().join("fenced")).unwrap_or_default();
    said.lines().map(str::to_owned).collect()
}

/// Rows of the table, once it is there.
fn count(server: &Server) -> String {
    value(server, "app", "SELECT count(*) FROM t").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_primary_is_replaced_once_it_is_fenced() {
    let mut cluster = own_cluster(1, 2);
    make_table(&cluster);
    let folder = Arc::new(TempDir::new().unwrap());
    let failing = folder.path().join("failing");
    std::fs::write(&failing, "").unwrap();
    let fence = format!("test ! -e {}", failing.display());
    let store = file_store(&folder);
    let program = Program::start(&cluster, &folder, &promoting(&folder, &fence), &store);
    program.ready(3).await;
    let client = program.client("app", "app").await;
    client
        .simple_query("INSERT INTO t VALUES (1, 1)")
        .await
        .unwrap();
    let ports: Vec<_> = servers(&cluster)
        .iter()
        .map(|server| server.port())
        .collect();
    // The second replica has more.
    let behind = &cluster.shards()[0].replicas[0];
    wait_until("both have it", || {
        servers(&cluster).iter().all(|server| count(server) == "1")
    });
    let receiver = value(behind, "app", "SELECT pid FROM pg_stat_wal_receiver").unwrap();
    let receiver = Pid::from_raw(receiver.parse().unwrap());
    kill(receiver, Signal::SIGSTOP).unwrap();
    client
        .simple_query("INSERT INTO t VALUES (2, 2)")
        .await
        .unwrap();
    wait_until("the other one has it", || {
        count(&cluster.shards()[0].replicas[1]) == "2"
    });
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Kill)
        .unwrap();

    // The fence fails: nobody is promoted.
    wait_until("the fence has failed", || {
        program.log().contains("could not be fenced")
    });
    let replicas = &cluster.shards()[0].replicas;
    assert!(!is_primary(&replicas[0]) && !is_primary(&replicas[1]));
    let told = format!("s1 127.0.0.1:{} 127.0.0.1:{}", ports[0], ports[2]);
    assert_eq!(fenced(&folder)[0], told);
    std::fs::remove_file(&failing).unwrap();
    // It waits for a primary meanwhile.
    client
        .simple_query("INSERT INTO t VALUES (3, 3)")
        .await
        .unwrap();
    assert!(is_primary(&replicas[1]) && !is_primary(&replicas[0]));
    assert!(fenced(&folder).len() >= 2);
    kill(receiver, Signal::SIGCONT).unwrap();
    wait_until("the other replica follows the new primary", || {
        value(
            &replicas[0],
            "app",
            "SELECT string_agg(n::text, ',' ORDER BY n) FROM t",
        )
        .unwrap()
            == "1,2,3"
    });
}

/// Answers each POST with the next of these statuses; gives the port and what was posted.
fn hook(statuses: &[u16]) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let (all, statuses) = (Arc::clone(&told), statuses.to_vec());
    std::thread::spawn(move || {
        for status in statuses {
            let (mut connection, _) = listener.accept().unwrap();
            let mut question = String::new();
            while !question.ends_with('}') {
                let mut bytes = [0; 1024];
                let length = connection.read(&mut bytes).unwrap();
                question += std::str::from_utf8(&bytes[..length]).unwrap();
            }
            let (head, body) = question.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("POST /fence?key=1 HTTP/1.1\r\n"), "{head}");
            all.lock().unwrap().push(body.to_owned());
            let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: 4\r\n\r\nsaid");
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    (port, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_fences_a_lost_primary() {
    let mut cluster = own_cluster(1, 1);
    make_table(&cluster);
    let folder = Arc::new(TempDir::new().unwrap());
    let (port, told) = hook(&[500, 204]);
    let failover = format!(
        "mode = \"promote\"\nfence_url = \"http://127.0.0.1:{port}/fence?key=1\"\npromote_pause = \"2s\""
    );
    let program = Program::start(&cluster, &folder, &failover, &file_store(&folder));
    program.ready(2).await;
    let client = program.client("app", "app").await;
    client
        .simple_query("INSERT INTO t VALUES (1, 1)")
        .await
        .unwrap();
    wait_until("both have it", || {
        servers(&cluster).iter().all(|server| count(server) == "1")
    });
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    wait_until("the hook refuses", || {
        let refused =
            format!("could not be fenced: http://127.0.0.1:{port}/fence?key=1 answered 500: said");
        program.log().contains(&refused)
    });
    assert!(!is_primary(&cluster.shards()[0].replicas[0]));
    // It waits for a primary meanwhile.
    client
        .simple_query("INSERT INTO t VALUES (2, 2)")
        .await
        .unwrap();
    assert!(is_primary(&cluster.shards()[0].replicas[0]));
    let [old, new] = [0, 1].map(|place| servers(&cluster)[place].port());
    let wanted = format!(
        "{{\"new_primary\":\"127.0.0.1:{new}\",\"old_primary\":\"127.0.0.1:{old}\",\"shard\":\"s1\"}}"
    );
    assert_eq!(*told.lock().unwrap(), [wanted.clone(), wanted]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_of_one_store_do_it_once() {
    let mut cluster = own_cluster(1, 2);
    make_table(&cluster);
    let etcd = EtcdServer::start();
    let store = format!(
        "[store]\nkind = \"etcd\"\nendpoints = [\"{}\"]\nlease_ttl = \"2s\"\n",
        etcd.endpoint()
    );
    let folder = Arc::new(TempDir::new().unwrap());
    let failover = promoting(&folder, "exit 0");
    let programs = [(); 2].map(|()| Program::start(&cluster, &folder, &failover, &store));
    let mut clients = Vec::new();
    for program in &programs {
        program.ready(3).await;
        clients.push(program.client("app", "app").await);
    }
    // Both hold their clients back: one has a transaction open, which the other one waits for.
    let ports: Vec<_> = servers(&cluster)
        .iter()
        .map(|server| server.port())
        .collect();
    clients[1]
        .simple_query("BEGIN; INSERT INTO t VALUES (0, 0)")
        .await
        .unwrap();
    let admin = programs[0].admin().await;
    let (sql, ended) = (
        switchover(servers(&cluster)[1]),
        Arc::new(AtomicBool::new(false)),
    );
    let asked = {
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            let steps = rows(&admin, &sql).await;
            ended.store(true, Ordering::Relaxed);
            steps
        })
    };
    wait_until("the first waits", || {
        programs[0].log().contains("step=\"quiet\"")
    });
    assert!(!ended.load(Ordering::Relaxed));
    clients[1].simple_query("COMMIT").await.unwrap();
    asked.await.unwrap().unwrap();
    for (number, client) in clients.iter().enumerate() {
        client
            .simple_query(&format!("INSERT INTO t VALUES (1, {number})"))
            .await
            .unwrap();
    }
    let replica = &cluster.shards()[0].replicas[0];
    assert_eq!(
        value(replica, "app", "SELECT count(*) FROM t").unwrap(),
        "3"
    );
    // Now that one is lost too. The old primary is no candidate; the other replica follows, and is.
    wait_until("the other replica follows", || {
        count(&cluster.shards()[0].replicas[1]) == "3"
    });
    cluster.shards_mut()[0].replicas[0]
        .stop(StopMode::Kill)
        .unwrap();
    for (number, client) in clients.iter().enumerate() {
        let insert = format!("INSERT INTO t VALUES (2, {number}) ON CONFLICT DO NOTHING");
        // What was under way when it was killed may fail; nothing else does.
        while let Err(error) = client.simple_query(&insert).await {
            let error = said(&error);
            assert!(
                error.starts_with("08006") || error.starts_with("57P01"),
                "{error}"
            );
        }
    }
    let last = &cluster.shards()[0].replicas[1];
    assert!(is_primary(last));
    assert_eq!(value(last, "app", "SELECT count(*) FROM t").unwrap(), "5");
    assert_eq!(
        fenced(&folder),
        [format!("s1 127.0.0.1:{} 127.0.0.1:{}", ports[1], ports[2])]
    );
    // Clients go on when the new primary is found, which may be before whoever promoted it says so.
    let promoted = || {
        let logs = programs.iter().map(|program| program.log());
        logs.filter(|log| log.contains("a replica was promoted"))
            .count()
    };
    wait_until("somebody says so", || promoted() > 0);
    assert_eq!(promoted(), 1);
}
