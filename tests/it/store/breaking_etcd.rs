//! An etcd that is killed, stopped, cut off, asks who we are, or is several.

use std::io::{Read, Write};
use std::net::TcpStream as BlockingStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use trunkline::store::{Claim, Expected, Outcome, Store, StoreError, Transaction};

use super::behaviours::{increment, shown, take, text};
use super::etcd_server::EtcdServer;
use super::{configured, open, section};
use crate::tls::Authority;

/// Tries until the store answers again.
async fn answers(store: &Store) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.list("").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_that_was_killed_comes_back_with_everything() {
    let etcd = EtcdServer::start();
    let store = open(&section(&[&etcd.endpoint()], "timeout = \"20s\"\n")).await;
    let version = store.put_if("k", Expected::Absent, "1").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    watch.changed().await;

    etcd.kill();
    let began = Instant::now();
    let error = store.get("k").await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let said = error.to_string();
    assert!(
        said.contains(&format!("127.0.0.1:{} cannot be reached", etcd.port)),
        "{said}"
    );
    assert!(said.contains("see whether etcd runs there"), "{said}");
    // Nothing was sent, so nothing was done.
    let write = store
        .put_if("k", Expected::Version(version), "x")
        .await
        .unwrap_err();
    assert_eq!(write.outcome(), Outcome::NotDone, "{write}");

    etcd.launch();
    answers(&store).await;
    assert_eq!(store.get("k").await.unwrap().unwrap().version, version);
    store
        .put_if("k", Expected::Version(version), "2")
        .await
        .unwrap();
    shown(&mut watch, |all| all["k"].value == b"2").await;
}

#[tokio::test]
async fn one_that_is_stopped_is_an_error_and_ends_leases() {
    let etcd = EtcdServer::start();
    let patient = open(&section(&[&etcd.endpoint()], "timeout = \"20s\"\n")).await;
    let store = open(&section(&[&etcd.endpoint()], "timeout = \"500ms\"\n")).await;
    let version = patient.put_if("k", Expected::Absent, "1").await.unwrap();
    answers(&store).await;
    let lease = take(&patient, "driver", "me").await;
    let began = Instant::now();
    etcd.signal(Signal::SIGSTOP);

    // Its time began before it was taken.
    tokio::time::timeout(Duration::from_secs(1), lease.lost())
        .await
        .unwrap();
    assert!(!lease.is_held());
    assert!(
        began.elapsed() > Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );

    let began = Instant::now();
    let error = store.get("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Silent { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("see whether etcd runs well there"),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::NotDone);
    let write = store
        .put_if("k", Expected::Version(version), "2")
        .await
        .unwrap_err();
    assert_eq!(write.outcome(), Outcome::Unknown, "{write}");
    assert!(write.to_string().contains("may have been done"), "{write}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );

    etcd.signal(Signal::SIGCONT);
    answers(&store).await;
    // Lost is lost, even if the store has given it to nobody.
    assert!(!lease.is_held());
    // Whatever became of the write, reading tells, and one can go on from there.
    let found = patient.get("k").await.unwrap().unwrap();
    patient
        .put_if("k", Expected::Version(found.version), "3")
        .await
        .unwrap();
}

/// Between us and etcd.
struct Wire {
    port: u16,
    /// How often it was cut; connections from before are dead.
    cut: watch::Sender<usize>,
    is_whole: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
enum Cut {
    /// Both sides are told.
    Closed,
    /// Nobody is told, and nothing passes.
    Silent,
}

impl Wire {
    async fn to(port: u16, how: Cut) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Wire {
            port: listener.local_addr().unwrap().port(),
            cut: watch::Sender::new(0),
            is_whole: Arc::new(AtomicBool::new(true)),
            passed: Arc::default(),
        };
        let (cut, is_whole) = (wire.cut.clone(), Arc::clone(&wire.is_whole));
        let passed = Arc::clone(&wire.passed);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !is_whole.load(Ordering::SeqCst) {
                    continue;
                }
                passed.fetch_add(1, Ordering::SeqCst);
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
                        _ = cut.changed() => {}
                    }
                    if let Cut::Silent = how {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        wire
    }

    fn cut(&self) {
        self.is_whole.store(false, Ordering::SeqCst);
        self.cut.send_modify(|times| *times += 1);
    }

    fn mend(&self) {
        self.is_whole.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_watch_that_was_cut_off_shows_what_happened_meanwhile() {
    let etcd = EtcdServer::start();
    let near = open(&section(&[&etcd.endpoint()], "timeout = \"20s\"\n")).await;
    for how in [Cut::Closed, Cut::Silent] {
        let wire = Wire::to(etcd.port, how).await;
        let endpoint = format!("http://127.0.0.1:{}", wire.port);
        let far = open(&section(&[&endpoint], "timeout = \"500ms\"\n")).await;
        let gone = near.put_if("gone", Expected::Absent, "1").await.unwrap();
        let mut watch = far.watch("").await.unwrap();
        shown(&mut watch, |all| all.contains_key("gone")).await;

        wire.cut();
        let error = far.get("gone").await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotDone);
        near.delete_if("gone", gone).await.unwrap();
        let version = near.put_if("new", Expected::Absent, "1").await.unwrap();
        // History is gone too: there is nothing to go on from.
        let body = format!("{{\"revision\":\"{version}\"}}");
        post(etcd.port, "/v3/kv/compaction", &body, None);
        assert!(watch.current().contains_key("gone"));
        let before = watch.age();
        wire.mend();
        shown(&mut watch, |all| {
            all.contains_key("new") && !all.contains_key("gone")
        })
        .await;
        assert!(watch.age() < before + Duration::from_secs(3));
        assert!(wire.passed.load(Ordering::SeqCst) > 1);
        near.delete_if("new", version).await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_ends_for_a_holder_that_is_cut_off_before_another_has_it() {
    let etcd = EtcdServer::start();
    let near = open(&section(&[&etcd.endpoint()], "timeout = \"20s\"\n")).await;
    let wire = Wire::to(etcd.port, Cut::Silent).await;
    let endpoint = format!("http://127.0.0.1:{}", wire.port);
    let far = open(&section(&[&endpoint], "timeout = \"500ms\"\n")).await;
    let lease = take(&far, "driver", "far").await;
    let fenced = Transaction::new().under(&lease).put("phase", "late");
    wire.cut();
    let deadline = Instant::now() + Duration::from_secs(10);
    let next = loop {
        let was_held = lease.is_held();
        match near
            .lease("driver", "near", Duration::from_secs(5))
            .await
            .unwrap()
        {
            Claim::Held(next) => break next,
            Claim::Taken(_) => assert!(Instant::now() < deadline),
        }
        // Never both: it did not say yes after the other got it.
        assert!(was_held || !lease.is_held());
    };
    assert!(!lease.is_held());
    wire.mend();
    answers(&far).await;
    let refused = far.commit(fenced).await.unwrap_err();
    assert!(matches!(refused, StoreError::LeaseLost { .. }), "{refused}");
    assert_eq!(text(&near, "phase").await, None);
    assert!(next.is_held());
}

#[tokio::test]
async fn the_next_endpoint_is_asked() {
    let (etcd, dead) = (EtcdServer::start(), EtcdServer::start());
    dead.kill();
    let endpoints = [dead.endpoint(), etcd.endpoint()];
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let store = open(&section(&endpoints, "timeout = \"20s\"\n")).await;
    store.put_if("k", Expected::Absent, "1").await.unwrap();
    increment(&store, "counter", 3).await;
    let _lease = take(&store, "driver", "me").await;

    etcd.kill();
    let said = store.get("k").await.unwrap_err().to_string();
    assert!(said.contains("cannot be reached"), "{said}");
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused() {
    let (one, other) = (EtcdServer::start(), EtcdServer::start());
    let endpoints = [one.endpoint(), other.endpoint()];
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let store = open(&section(&endpoints, "timeout = \"20s\"\n")).await;
    store.put_if("k", Expected::Absent, "1").await.unwrap();
    one.kill();
    let said = store.get("k").await.unwrap_err().to_string();
    assert!(said.contains("give endpoints of one cluster"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_outlives_its_members() {
    let members = EtcdServer::start_cluster(3);
    let endpoints: Vec<String> = members.iter().map(EtcdServer::endpoint).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let section = section(&endpoints, "timeout = \"3s\"\n");
    let store = open(&section).await;
    let lease = match store
        .lease("driver", "me", Duration::from_secs(3))
        .await
        .unwrap()
    {
        Claim::Held(lease) => lease,
        Claim::Taken(by) => panic!("{by:?}"),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut counting = Vec::new();
    for _ in 0..2 {
        let (store, stop) = (open(&section).await, Arc::clone(&stop));
        counting.push(tokio::spawn(async move { count(&store, &stop).await }));
    }

    let mut known = None;
    for (number, member) in members.iter().enumerate() {
        match number {
            0 => member.kill(),
            _ => member.signal(Signal::SIGSTOP),
        }
        // The others go on, and whoever is told that the lease is held is told the truth.
        for _ in 0..5 {
            let before = lease.is_held();
            let holder = store.holder("driver").await;
            if let (true, true, Ok(holder)) = (before, lease.is_held(), &holder) {
                assert_eq!(
                    holder.as_ref().map(|holder| holder.token),
                    Some(lease.token())
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        advance(&store, &mut known).await;
        match number {
            0 => member.launch(),
            _ => member.signal(Signal::SIGCONT),
        }
        member.wait_ready();
    }
    stop.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut unknown) = (0, 0);
    for task in counting {
        let (sure, unsure) = task.await.unwrap();
        acknowledged += sure;
        unknown += unsure;
    }
    answers(&store).await;
    let count: u64 = text(&store, "counter").await.unwrap().parse().unwrap();
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&count),
        "{count}, of {acknowledged} and {unknown} in doubt"
    );
    assert!(acknowledged > 20, "{acknowledged}");
}

/// Waits until something is counted that was not at the last call.
async fn advance(store: &Store, known: &mut Option<trunkline::store::Version>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(Some(found)) = store.get("counter").await
            && known
                .replace(found.version)
                .is_some_and(|before| before < found.version)
        {
            return;
        }
        assert!(Instant::now() < deadline, "nothing is counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Adds one again and again: how often that was acknowledged, and how often nobody knows.
async fn count(store: &Store, stop: &AtomicBool) -> (u64, u64) {
    let (mut sure, mut unsure) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let Ok(found) = store.get("counter").await else {
            continue;
        };
        let count = found.as_ref().map_or(0, |found| {
            str::from_utf8(&found.value)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        let expected = Expected::from(found.map(|found| found.version));
        match store
            .put_if("counter", expected, (count + 1).to_string())
            .await
        {
            Ok(_) => sure += 1,
            Err(error) if error.outcome() == Outcome::Unknown => unsure += 1,
            Err(_) => {}
        }
    }
    (sure, unsure)
}

/// One question to etcd's gateway; its answer must be good.
fn post(port: u16, path: &str, body: &str, token: Option<&str>) -> String {
    let mut stream = BlockingStream::connect(("127.0.0.1", port)).unwrap();
    let token = token.map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n{token}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

#[tokio::test]
async fn one_that_asks_who_we_are() {
    let etcd = EtcdServer::start();
    let key = |text: &str| STANDARD.encode(text);
    let granted = format!(
        "{{\"name\":\"proxies\",\"perm\":{{\"permType\":\"READWRITE\",\"key\":\"{}\",\"range_end\":\"{}\"}}}}",
        key("/fleet/"),
        key("/fleet0")
    );
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"r"}"#),
        ("role/add", r#"{"name":"root"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("user/add", r#"{"name":"trunkline","password":"secret"}"#),
        ("role/add", r#"{"name":"proxies"}"#),
        ("role/grant", &granted),
        ("user/grant", r#"{"user":"trunkline","role":"proxies"}"#),
        ("enable", "{}"),
    ] {
        post(etcd.port, &format!("/v3/auth/{path}"), body, None);
    }
    let at = |more: &str| section(&[&etcd.endpoint()], &format!("timeout = \"20s\"\n{more}"));
    let fleet = "prefix = \"/fleet/\"\n";
    let said = open(&at(fleet))
        .await
        .get("k")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("user name is empty") && said.contains("[store] user"),
        "{said}"
    );
    let wrong = format!("{fleet}user = \"trunkline\"\npassword = \"wrong\"\n");
    let said = open(&at(&wrong))
        .await
        .get("k")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("authentication failed") && !said.contains("wrong"),
        "{said}"
    );
    let elsewhere = "prefix = \"/other/\"\nuser = \"trunkline\"\npassword = \"secret\"\n";
    let said = open(&at(elsewhere))
        .await
        .get("k")
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("permission denied"), "{said}");

    let store = open(&at(&format!(
        "{fleet}user = \"trunkline\"\npassword = \"secret\"\n"
    )))
    .await;
    let version = store.put_if("k", Expected::Absent, "1").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    let lease = take(&store, "driver", "me").await;
    store
        .commit(Transaction::new().under(&lease).put("phase", "1"))
        .await
        .unwrap();
    shown(&mut watch, |all| all.contains_key("phase")).await;
    lease.release().await;

    // It forgets whom it knows, and is told once more.
    etcd.kill();
    etcd.launch();
    answers(&store).await;
    store
        .put_if("k", Expected::Version(version), "2")
        .await
        .unwrap();
    shown(&mut watch, |all| all["k"].value == b"2").await;
    let _lease = take(&store, "driver", "me").await;
}

#[tokio::test]
async fn one_that_is_spoken_to_by_tls() {
    let (authority, other) = (Authority::new("fleet"), Authority::new("another"));
    let write = |name: &str, pem: &str| {
        let path = authority.path(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (certificate, key) = authority.issue(&["127.0.0.1", "localhost"]);
    let (certificate, key) = (write("etcd.crt", &certificate), write("etcd.key", &key));
    let (ours, our_key) = authority.issue(&["trunkline"]);
    let (ours, our_key) = (write("ours.crt", &ours), write("ours.key", &our_key));
    let mut port = 0;
    let etcd = EtcdServer::start_with(|free| {
        port = free;
        let pair = |flag: &str, value: &str| [flag.to_owned(), value.to_owned()];
        [
            pair("--cert-file", &certificate),
            pair("--key-file", &key),
            pair("--trusted-ca-file", &authority.root()),
        ]
        .concat()
        .into_iter()
        .chain([
            "--client-cert-auth".to_owned(),
            format!("listen=https://127.0.0.1:{free}"),
        ])
        .collect()
    });
    let at = |host: &str, root: &str, more: &str| {
        let endpoint = format!("https://{host}:{port}");
        section(
            &[&endpoint],
            &format!("timeout = \"20s\"\nroot_certificate = \"{root}\"\n{more}"),
        )
    };
    let pair = format!("certificate = \"{ours}\"\nkey = \"{our_key}\"\n");
    let store = open(&at("127.0.0.1", &authority.root(), &pair)).await;
    let mut watch = store.watch("").await.unwrap();
    store.put_if("k", Expected::Absent, "1").await.unwrap();
    shown(&mut watch, |all| all.contains_key("k")).await;
    // It is the same cluster.
    let plain = open(&section(&[&etcd.endpoint()], "timeout = \"20s\"\n")).await;
    assert_eq!(text(&plain, "k").await.as_deref(), Some("1"));

    let wrong = open(&at("127.0.0.1", &other.root(), &pair)).await;
    let said = wrong.get("k").await.unwrap_err().to_string();
    assert!(said.contains("TLS: invalid peer certificate"), "{said}");
    let nobody = open(&at("127.0.0.1", &authority.root(), "")).await;
    assert!(nobody.get("k").await.is_err());
    let name = open(&at("localhost", &authority.root(), &pair)).await;
    assert_eq!(text(&name, "k").await.as_deref(), Some("1"));

    // What cannot be used is told at once.
    let bad = format!("certificate = \"{our_key}\"\nkey = \"{our_key}\"\n");
    let said = Store::open(&configured(&at("127.0.0.1", &authority.root(), &bad))).await;
    assert!(matches!(said, Err(StoreError::Tls(_))), "{said:?}");
}
