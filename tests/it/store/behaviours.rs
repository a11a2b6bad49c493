//! What a store promises, whichever kind it is.

use std::time::{Duration, Instant};

use trunkline::store::{Claim, Conflict, Expected, Lease, Store, StoreError, Transaction};

use super::Site;
use super::other_process::OtherProcess;

pub const TTL: Duration = Duration::from_secs(1);
/// etcd gives no shorter leases than its election time-out allows, and looks for ended ones twice a second.
pub const HAND_OVER: Duration = Duration::from_secs(6);

/// The lease, which nobody has.
pub async fn take(store: &Store, name: &str, holder: &str) -> Lease {
    match store.lease(name, holder, TTL).await.unwrap() {
        Claim::Held(lease) => lease,
        Claim::Taken(by) => panic!("{name} is taken by {by:?}"),
    }
}

/// The lease, once nobody has it.
pub async fn take_soon(store: &Store, name: &str, holder: &str) -> Lease {
    let deadline = Instant::now() + HAND_OVER;
    loop {
        match store.lease(name, holder, TTL).await.unwrap() {
            Claim::Held(lease) => return lease,
            Claim::Taken(by) => assert!(Instant::now() < deadline, "still taken by {by:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn conflict(error: StoreError) -> Conflict {
    match error {
        StoreError::Conflict(conflict) => conflict,
        other => panic!("{other}"),
    }
}

pub async fn text(store: &Store, key: &str) -> Option<String> {
    let found = store.get(key).await.unwrap();
    found.map(|found| String::from_utf8(found.value).unwrap())
}

pub async fn writes_name_the_version_they_replace(site: &Site) {
    let store = site.open().await;
    assert_eq!(store.get("epoch").await.unwrap(), None);
    let first = store.put_if("epoch", Expected::Absent, "1").await.unwrap();
    let found = store.get("epoch").await.unwrap().unwrap();
    assert_eq!((found.value.as_slice(), found.version), (&b"1"[..], first));

    let there = store.put_if("epoch", Expected::Absent, "x").await;
    let wanted = Conflict {
        key: "epoch".to_owned(),
        found: Some(first),
    };
    assert_eq!(conflict(there.unwrap_err()), wanted);

    let second = store
        .put_if("epoch", Expected::Version(first), "2")
        .await
        .unwrap();
    assert!(second > first);
    let stale = store.put_if("epoch", Expected::Version(first), "x").await;
    assert_eq!(conflict(stale.unwrap_err()).found, Some(second));
    assert_eq!(text(&store, "epoch").await.as_deref(), Some("2"));

    // The same bytes once more are a new version.
    let third = store
        .put_if("epoch", Expected::Version(second), "2")
        .await
        .unwrap();
    assert!(third > second);

    // Another opening is the same store.
    assert_eq!(
        site.open()
            .await
            .get("epoch")
            .await
            .unwrap()
            .unwrap()
            .version,
        third
    );
}

pub async fn versions_grow_over_deletion(site: &Site) {
    let store = site.open().await;
    let first = store.put_if("k", Expected::Absent, "1").await.unwrap();
    let stale = Expected::Version(first);
    let second = store.put_if("k", stale, "2").await.unwrap();
    assert_eq!(
        conflict(store.delete_if("k", first).await.unwrap_err()).found,
        Some(second)
    );
    store.delete_if("k", second).await.unwrap();
    assert_eq!(store.get("k").await.unwrap(), None);
    assert_eq!(
        conflict(store.delete_if("k", second).await.unwrap_err()).found,
        None
    );
    let again = store.put_if("k", Expected::Absent, "1").await.unwrap();
    assert!(again > second);
    assert!(store.put_if("k", stale, "x").await.is_err());
}

pub async fn listings_are_by_prefix(site: &Site) {
    let store = site.open().await;
    for key in [
        "plans/b",
        "plans/a/phase",
        "plan",
        "plans0",
        "gates/a",
        "plans/\u{10ffff}",
    ] {
        store.put_if(key, Expected::Absent, key).await.unwrap();
    }
    let listing = store.list("plans/").await.unwrap();
    let keys: Vec<&str> = listing.keys().map(String::as_str).collect();
    assert_eq!(keys, ["plans/a/phase", "plans/b", "plans/\u{10ffff}"]);
    assert_eq!(
        listing["plans/b"],
        store.get("plans/b").await.unwrap().unwrap()
    );
    assert_eq!(store.list("").await.unwrap().len(), 6);
    assert!(store.list("nothing").await.unwrap().is_empty());

    // Leases are not keys.
    let _lease = take(&store, "plans/driver", "me").await;
    assert_eq!(store.list("").await.unwrap().len(), 6);
}

/// More than fit in one answer of etcd.
pub async fn a_listing_of_many_keys_is_whole(site: &Site) {
    let store = site.open().await;
    let all = (0..50).fold(Transaction::new(), |all, n| {
        all.put(format!("many/{n:02}"), "x")
    });
    let version = store.commit(all).await.unwrap();
    store.put_if("more", Expected::Absent, "x").await.unwrap();
    let listing = store.list("many/").await.unwrap();
    assert_eq!(listing.len(), 50);
    assert!(listing.values().all(|there| there.version == version));
}

pub async fn values_are_any_bytes(site: &Site) {
    let store = site.open().await;
    let large: Vec<u8> = (0..900_000u32).map(|n| (n * 7) as u8).collect();
    for (key, value) in [
        ("empty", vec![]),
        ("bytes", (0..=255).collect()),
        ("large", large),
    ] {
        store
            .put_if(key, Expected::Absent, value.clone())
            .await
            .unwrap();
        assert_eq!(store.get(key).await.unwrap().unwrap().value, value, "{key}");
    }
    assert_eq!(
        site.open().await.list("").await.unwrap()["bytes"]
            .value
            .len(),
        256
    );
}

pub async fn transactions_are_done_whole_or_not_at_all(site: &Site) {
    let store = site.open().await;
    let both = |phase: Expected, epoch: Expected| {
        Transaction::new()
            .expect("phase", phase)
            .expect("epoch", epoch)
            .put("phase", "cut over")
            .put("epoch", "8")
            .delete("gate")
    };
    let gate = store
        .put_if("gate", Expected::Absent, "shut")
        .await
        .unwrap();
    let first = store
        .commit(both(Expected::Absent, Expected::Absent))
        .await
        .unwrap();
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.len(), 2, "{listing:?}");
    assert!(listing.values().all(|there| there.version == first));

    // One that is not as expected is enough.
    let stale = store
        .put_if("epoch", Expected::Version(first), "9")
        .await
        .unwrap();
    let (phase, epoch) = (Expected::Version(first), Expected::Version(first));
    let error = store.commit(both(phase, epoch)).await.unwrap_err();
    assert_eq!(conflict(error).found, Some(stale));
    assert_eq!(text(&store, "epoch").await.as_deref(), Some("9"));
    assert_eq!(store.get("phase").await.unwrap().unwrap().version, first);

    // What is only compared is not written.
    let watched = Transaction::new()
        .expect("phase", Expected::Version(first))
        .expect("gate", Expected::Absent)
        .put("other", "x");
    store.commit(watched).await.unwrap();
    assert_eq!(store.get("phase").await.unwrap().unwrap().version, first);
    let gone = Transaction::new()
        .expect("gate", Expected::Version(gate))
        .put("other", "y");
    assert_eq!(conflict(store.commit(gone).await.unwrap_err()).found, None);
}

pub async fn what_no_store_could_do_is_refused(site: &Site) {
    let store = site.open().await;
    let large = store
        .put_if("k", Expected::Absent, vec![0; 1 << 20])
        .await
        .unwrap_err();
    assert!(large.to_string().contains("1048577 bytes"), "{large}");
    let error = store.get("").await.unwrap_err();
    assert!(error.to_string().contains("it is empty"), "{error}");
    assert!(store.list("a\0").await.is_err());
    assert!(store.lease("", "me", TTL).await.is_err());
}

pub async fn no_increment_is_lost(site: &Site) {
    const EACH: usize = 15;
    let (one, two) = (site.open().await, site.open().await);
    let mut others: Vec<_> = (0..2).map(|_| OtherProcess::start(site)).collect();
    for other in &mut others {
        other.tell(&format!("increment counter {EACH}"));
    }
    let tasks: Vec<_> = [&one, &one, &two, &two]
        .map(Store::clone)
        .into_iter()
        .map(|store| tokio::spawn(async move { increment(&store, "counter", EACH).await }))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for other in &mut others {
        assert_eq!(other.answer(), "done");
    }
    let wanted = (EACH * 6).to_string();
    assert_eq!(text(&one, "counter").await, Some(wanted));
}

/// Adds one, so many times. Must be called by nobody else with what it reads: the sum tells.
pub async fn increment(store: &Store, key: &str, times: usize) {
    let mut done = 0;
    while done < times {
        let found = store.get(key).await.unwrap();
        let count = found.as_ref().map_or(0, |found| {
            str::from_utf8(&found.value)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        });
        let expected = Expected::from(found.map(|found| found.version));
        match store.put_if(key, expected, (count + 1).to_string()).await {
            Ok(_) => done += 1,
            Err(StoreError::Conflict(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Waits for a state of the watch.
pub async fn shown(
    watch: &mut trunkline::store::Watch,
    what: impl Fn(&trunkline::store::Listing) -> bool,
) {
    let waiting = async { while !what(&*watch.changed().await) {} };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("the watch shows it");
}

pub async fn a_watch_shows_what_others_write(site: &Site) {
    let (store, other) = (site.open().await, site.open().await);
    let first = store
        .put_if("gates/a", Expected::Absent, "1")
        .await
        .unwrap();
    let mut watch = store.watch("gates/").await.unwrap();
    // What is there is shown at once.
    assert_eq!(watch.changed().await["gates/a"].version, first);
    assert_eq!(watch.current().len(), 1);

    let began = Instant::now();
    other
        .put_if("gates/b", Expected::Absent, "1")
        .await
        .unwrap();
    shown(&mut watch, |gates| gates.contains_key("gates/b")).await;
    // Told, and not found by looking every other second.
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );

    other.delete_if("gates/a", first).await.unwrap();
    shown(&mut watch, |gates| !gates.contains_key("gates/a")).await;

    // What is elsewhere is not shown.
    other.put_if("gate", Expected::Absent, "1").await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(watch.age() < Duration::from_secs(5), "{:?}", watch.age());
}

pub async fn a_watch_ends_at_the_last_state(site: &Site) {
    let (store, other) = (site.open().await, site.open().await);
    let mut watch = store.watch("").await.unwrap();
    let mut slow = store.watch("").await.unwrap();
    increment(&other, "counter", 40).await;
    let is_last = |all: &trunkline::store::Listing| {
        all.get("counter").is_some_and(|there| there.value == b"40")
    };
    shown(&mut watch, is_last).await;
    // One that nobody looked at shows the last state, and not those in between.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_last(&slow.current()) {
        assert!(Instant::now() < deadline, "{:?}", slow.current());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_last(&*slow.changed().await));
}

pub async fn a_lease_has_one_holder(site: &Site) {
    let (store, other) = (site.open().await, site.open().await);
    assert_eq!(store.holder("janitor").await.unwrap(), None);
    let lease = take(&store, "janitor", "proxy 1").await;
    assert!(lease.is_held());
    assert_eq!(lease.name(), "janitor");
    for store in [&store, &other] {
        let Claim::Taken(holder) = store.lease("janitor", "proxy 2", TTL).await.unwrap() else {
            panic!("two holders");
        };
        assert_eq!(
            (holder.name.as_str(), holder.token),
            ("proxy 1", lease.token())
        );
        assert_eq!(store.holder("janitor").await.unwrap(), Some(holder));
    }
    let another = take(&other, "driver", "proxy 2").await;
    assert!(another.token() > lease.token());

    // Given back, it is free at once.
    let before = lease.token();
    lease.release().await;
    let lease = take(&other, "janitor", "proxy 2").await;
    assert!(lease.token() > before);
    drop(lease);
    let lease = take_soon(&store, "janitor", "proxy 1").await;
    assert!(lease.is_held());
}

pub async fn a_lease_is_kept_alive(site: &Site) {
    let (store, other) = (site.open().await, site.open().await);
    // Longer than elsewhere, for machines that are busy.
    let ttl = TTL * 2;
    let Claim::Held(lease) = store.lease("janitor", "me", ttl).await.unwrap() else {
        panic!("it is taken");
    };
    let until = Instant::now() + ttl * 3 / 2;
    while Instant::now() < until {
        assert!(lease.is_held());
        let claim = other.lease("janitor", "another", TTL).await.unwrap();
        assert!(matches!(claim, Claim::Taken(_)), "{claim:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lost = tokio::time::timeout(Duration::from_millis(1), lease.lost()).await;
    assert!(lost.is_err());
}

pub async fn one_of_many_gets_the_lease(site: &Site) {
    let mut tasks = Vec::new();
    for n in 0..8 {
        let store = site.open().await;
        tasks.push(tokio::spawn(async move {
            store.lease("janitor", &n.to_string(), TTL).await.unwrap()
        }));
    }
    let mut held = Vec::new();
    for task in tasks {
        if let Claim::Held(lease) = task.await.unwrap() {
            held.push(lease);
        }
    }
    assert_eq!(held.len(), 1, "{held:?}");
}

pub async fn what_is_done_under_a_lease_needs_it(site: &Site) {
    let (store, other) = (site.open().await, site.open().await);
    let lease = take(&store, "driver", "one").await;
    let under = |lease: &Lease, value: &str| Transaction::new().under(lease).put("phase", value);
    store.commit(under(&lease, "one")).await.unwrap();
    // Whoever is told of it: the store knows the lease, not the connection.
    other.commit(under(&lease, "one again")).await.unwrap();

    let late = under(&lease, "too late");
    let token = lease.token();
    lease.release().await;
    for refused in [
        late.clone(),
        late.clone().expect("nothing", Expected::Absent),
    ] {
        match store.commit(refused).await.unwrap_err() {
            StoreError::LeaseLost { name, token: of } => {
                assert_eq!((name.as_str(), of), ("driver", token))
            }
            other => panic!("{other}"),
        }
    }
    let next = take(&other, "driver", "one").await;
    assert!(matches!(
        store.commit(late).await,
        Err(StoreError::LeaseLost { .. })
    ));
    assert_eq!(text(&store, "phase").await.as_deref(), Some("one again"));
    other.commit(under(&next, "two")).await.unwrap();

    // The lease and the keys, both.
    let both = under(&next, "three").expect("phase", Expected::Absent);
    assert!(matches!(
        other.commit(both).await,
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(text(&store, "phase").await.as_deref(), Some("two"));
}

pub async fn a_killed_holder_makes_way(site: &Site) {
    let store = site.open().await;
    let mut holder = OtherProcess::start(site);
    holder.tell("lease driver");
    let first: u64 = holder
        .answer()
        .strip_prefix("held ")
        .unwrap()
        .parse()
        .unwrap();
    let claim = store.lease("driver", "me", TTL).await.unwrap();
    assert!(matches!(claim, Claim::Taken(_)), "{claim:?}");
    holder.kill();
    let lease = take_soon(&store, "driver", "me").await;
    assert!(lease.token().0 > first);
    assert!(lease.is_held());
}

pub async fn a_stopped_holder_knows_that_it_lost(site: &Site) {
    let store = site.open().await;
    let mut holder = OtherProcess::start(site);
    holder.tell("lease driver");
    assert!(holder.answer().starts_with("held "));
    holder.tell("commit phase before");
    assert_eq!(holder.answer(), "committed");

    holder.stop(site);
    let lease = take_soon(&store, "driver", "me").await;
    // Orders wait for it: the first thing that it does afterwards is to look.
    holder.tell("is_held");
    holder.tell("commit phase late");
    holder.tell("lost");
    holder.go_on();
    assert_eq!(holder.answer(), "no");
    assert_eq!(holder.answer(), "lease lost");
    assert_eq!(holder.answer(), "lost");
    assert_eq!(text(&store, "phase").await.as_deref(), Some("before"));
    drop(lease);
}
