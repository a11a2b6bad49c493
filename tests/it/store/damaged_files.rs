//! The store of files: what is there and is not understood is told, and stays as it is; what is killed in the middle does no harm.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use trunkline::store::{Expected, Outcome, Store, StoreError};

use super::behaviours::{HAND_OVER, take, text};
use super::{Site, configured};

fn state(site: &Site) -> PathBuf {
    site.directory.as_ref().unwrap().path().join("state/state")
}

#[tokio::test]
async fn a_file_that_is_not_sound_stays_as_it_is() {
    let site = Site::files();
    let store = site.open().await;
    let version = store.put_if("k", Expected::Absent, "value").await.unwrap();
    let sound = fs::read(state(&site)).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() = b'x';
    let cases = [
        flipped,
        sound[..sound.len() - 3].to_vec(),
        vec![],
        b"something else\n".to_vec(),
        b"trunkline-store 2 1 0 0\n".to_vec(),
    ];
    for bad in cases {
        fs::write(state(&site), &bad).unwrap();
        let said = store.get("k").await.unwrap_err();
        assert!(matches!(said, StoreError::Damaged { .. }), "{said}");
        assert!(
            said.to_string().contains("state/state is not a sound file"),
            "{said}"
        );
        let error = store
            .put_if("k", Expected::Version(version), "x")
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), Outcome::NotDone);
        assert!(
            store
                .lease("a", "me", Duration::from_secs(1))
                .await
                .is_err()
        );
        assert!(Store::open(&configured(&site.section)).await.is_err());
        assert_eq!(fs::read(state(&site)).unwrap(), bad);
    }
    fs::write(state(&site), &sound).unwrap();
    assert_eq!(text(&store, "k").await.as_deref(), Some("value"));
}

#[tokio::test]
async fn what_goes_back_in_time_is_seen() {
    let site = Site::files();
    let store = site.open().await;
    let first = store.put_if("k", Expected::Absent, "1").await.unwrap();
    let copy = fs::read(state(&site)).unwrap();
    store
        .put_if("k", Expected::Version(first), "2")
        .await
        .unwrap();
    fs::write(state(&site), &copy).unwrap();
    let said = store.get("k").await.unwrap_err().to_string();
    assert!(said.contains("it was at revision"), "{said}");
    fs::remove_file(state(&site)).unwrap();
    let said = store.get("k").await.unwrap_err().to_string();
    assert!(said.contains("it is gone"), "{said}");
    // Nor does a write make it anew.
    assert!(store.put_if("k", Expected::Absent, "x").await.is_err());
    assert!(!state(&site).exists());

    // One that begins anew, with the copy or with nothing, is taken as it is; versions still grow.
    let anew = site.open().await;
    let version = anew.put_if("k", Expected::Absent, "3").await.unwrap();
    assert!(version > first);
}

#[tokio::test]
async fn what_a_killed_writer_left_is_no_harm() {
    let site = Site::files();
    let store = site.open().await;
    let version = store.put_if("k", Expected::Absent, "1").await.unwrap();
    // It was killed while it wrote what was to be next.
    fs::write(
        state(&site).with_file_name("state.new"),
        "trunkline-store 1 99",
    )
    .unwrap();
    let anew = site.open().await;
    assert_eq!(text(&anew, "k").await.as_deref(), Some("1"));
    anew.put_if("k", Expected::Version(version), "2")
        .await
        .unwrap();
    assert_eq!(text(&store, "k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_lock_that_is_not_given_back_is_told() {
    let site = Site::files();
    let mut configuration = configured(&site.section);
    configuration.timeout = Duration::from_millis(300);
    let store = Store::open(&configuration).await.unwrap();
    let folder = state(&site).parent().unwrap().to_owned();
    let locked = Flock::lock(
        File::open(&folder).unwrap(),
        FlockArg::LockExclusiveNonblock,
    )
    .unwrap();
    let error = store.put_if("k", Expected::Absent, "1").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotDone);
    assert!(error.to_string().contains("lslocks"), "{error}");
    // Reading needs no lock.
    assert_eq!(text(&store, "k").await, None);
    drop(locked);
    store.put_if("k", Expected::Absent, "1").await.unwrap();
}

#[tokio::test]
async fn a_lease_whose_file_is_gone_is_not_given_away() {
    let site = Site::files();
    let store = site.open().await;
    let lease = take(&store, "driver", "me").await;
    let file = state(&site).with_file_name(format!("lease.{}", lease.token()));
    fs::remove_file(&file).unwrap();
    let said = store
        .lease("driver", "another", Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(matches!(said, StoreError::Damaged { .. }), "{said}");
}

#[tokio::test]
async fn nothing_begins_anew_under_a_lease_that_lasts() {
    let site = Site::files();
    let store = site.open().await;
    let lease = take(&store, "driver", "me").await;
    let first = lease.token();
    fs::remove_file(state(&site)).unwrap();
    let said = Store::open(&configured(&site.section))
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("still lasts"), "{said}");
    // Its holder cannot renew it.
    lease.lost().await;
    let deadline = std::time::Instant::now() + HAND_OVER;
    let anew = loop {
        match Store::open(&configured(&site.section)).await {
            Ok(anew) => break anew,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(!lease.is_held());
    assert!(take(&anew, "driver", "another").await.token() > first);
}

#[tokio::test]
async fn a_lease_ends_with_the_boot_of_its_machine() {
    let site = Site::files();
    let store = site.open().await;
    let lease = take(&store, "driver", "me").await;
    let first = lease.token();
    drop(store);
    // As if it had been taken before the machine was started: the file of its end may be missing then.
    let text = fs::read_to_string(state(&site)).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = "00000000-0000-0000-0000-000000000000";
    assert_eq!(boot.trim().len(), other.len());
    let (head, body) = text.split_once('\n').unwrap();
    let body = body.replace(boot.trim(), other);
    let words: Vec<&str> = head.split(' ').collect();
    let seed = words[2].parse().unwrap();
    let sum = xxhash_rust::xxh3::xxh3_64_with_seed(body.as_bytes(), seed);
    let head = format!(
        "{} {} {} {} {sum:016x}",
        words[0], words[1], words[2], words[3]
    );
    fs::write(state(&site), format!("{head}\n{body}")).unwrap();
    let _ = fs::remove_file(state(&site).with_file_name(format!("lease.{first}")));

    let store = site.open().await;
    assert_eq!(store.holder("driver").await.unwrap(), None);
    let next = take(&store, "driver", "another").await;
    assert!(next.token() > first);
}

#[tokio::test]
async fn it_is_nobody_else_s_to_read() {
    let site = Site::files();
    let store = site.open().await;
    store.put_if("k", Expected::Absent, "1").await.unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state(&site)), 0o600);
    assert_eq!(mode(state(&site).parent().unwrap().to_owned()), 0o700);

    // A directory that cannot be made is told by its name.
    let folder = site.directory.as_ref().unwrap().path().join("file");
    fs::write(&folder, "").unwrap();
    let below = configured(&format!("path = \"{}/state\"\n", folder.display()));
    let said = Store::open(&below).await.unwrap_err().to_string();
    assert!(said.contains("cannot make the directory"), "{said}");
}
