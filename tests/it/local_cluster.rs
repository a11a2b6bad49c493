//! The local cluster itself: it starts, replicates, keeps its data, explains what is wrong, and leaves nothing behind.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use trunkline::cli::local::{
    Access, Cluster, ClusterOptions, LocalError, Server, ServerOptions, StopMode, Storage,
};

use crate::servers::{cluster, own_cluster, servers, value, wait_until};

/// A folder that the servers' user can enter.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn kept(path: &Path, shards: Option<u16>) -> ClusterOptions {
    ClusterOptions {
        shards,
        storage: Storage::Kept(path.to_owned()),
        ..ClusterOptions::default()
    }
}

fn pids(cluster: &Cluster) -> Vec<u32> {
    cluster
        .shards()
        .iter()
        .flat_map(|shard| shard.servers().filter_map(Server::pid))
        .collect()
}

/// Whether the process runs; one that has ended and waits to be reaped does not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn the_shared_servers_are_separate_and_complete() {
    let identifiers: HashSet<String> = cluster()
        .shards()
        .iter()
        .map(|shard| &shard.primary)
        .chain([&servers().plain])
        .map(|server| {
            let port = value(server, "app", "SELECT current_setting('port')").unwrap();
            assert_eq!(port, server.port().to_string());
            let owner = "SELECT datdba::regrole FROM pg_database WHERE datname = 'app'";
            assert_eq!(value(server, "app", owner).unwrap(), "app");
            value(
                server,
                "app",
                "SELECT system_identifier FROM pg_control_system()",
            )
            .unwrap()
        })
        .collect();
    assert_eq!(identifiers.len(), 5);
    assert_eq!(
        cluster()
            .shards()
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["s1", "s2", "s3", "s4"]
    );
}

#[test]
fn a_replica_follows_its_primary_also_after_both_were_away() {
    let mut cluster = own_cluster(1, 1);
    let shard = &mut cluster.shards_mut()[0];
    shard
        .primary
        .run_sql("app", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
        .unwrap();
    let replica = &shard.replicas[0];
    let count =
        |replica: &Server| value(replica, "app", "SELECT count(*) FROM t").unwrap_or_default();
    wait_until("the replica has the row", || count(replica) == "1");
    assert_eq!(
        value(replica, "app", "SELECT pg_is_in_recovery()").unwrap(),
        "t"
    );

    let ports = (shard.primary.port(), shard.replicas[0].port());
    shard.replicas[0].stop(StopMode::Fast).unwrap();
    shard
        .primary
        .run_sql("app", "INSERT INTO t VALUES (2)")
        .unwrap();
    shard.primary.stop(StopMode::Kill).unwrap();
    shard.primary.start().unwrap();
    shard.replicas[0].start().unwrap();
    assert_eq!(ports, (shard.primary.port(), shard.replicas[0].port()));
    shard
        .primary
        .run_sql("app", "INSERT INTO t VALUES (3)")
        .unwrap();
    wait_until("the replica has all rows", || {
        count(&shard.replicas[0]) == "3"
    });
}

#[test]
fn dropping_a_cluster_leaves_no_process_and_no_folder() {
    let cluster = own_cluster(2, 1);
    let (pids, folder) = (pids(&cluster), cluster.folder().to_owned());
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    drop(cluster);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(!folder.exists());
}

/// The other side of [`killing_the_owner_leaves_no_process_and_no_folder`]: holds a cluster until it is killed.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn hold_a_cluster() {
    let cluster = own_cluster(1, 1);
    println!(
        "\nholding {} {:?}",
        cluster.folder().display(),
        pids(&cluster)
    );
    let _ = std::io::stdin().lines().next();
}

#[test]
fn killing_the_owner_leaves_no_process_and_no_folder() {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "local_cluster::hold_a_cluster",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let line = lines
        .find_map(|line| line.strip_prefix("holding ").map(str::to_owned))
        .unwrap();
    let (folder, pids) = line.split_once(' ').unwrap();
    let pids: Vec<u32> = pids
        .trim_matches(['[', ']'])
        .split(", ")
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert!(
        pids.len() == 2 && pids.iter().all(|pid| is_running(*pid)),
        "{line}"
    );
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the servers end", || {
        !pids.iter().any(|pid| is_running(*pid))
    });
    let folder = PathBuf::from(folder);
    wait_until("the folder is removed", || !folder.exists());
}

#[test]
fn a_kept_folder_is_used_again_and_begun_anew_only_when_asked() {
    let parent = open_folder();
    let path = parent.path().join("cluster");
    let first = Cluster::start(kept(&path, Some(1))).unwrap();
    first.shards()[0]
        .primary
        .run_sql("app", "CREATE TABLE t (n int)")
        .unwrap();
    let in_use = Cluster::start(kept(&path, None)).unwrap_err();
    assert!(matches!(in_use, LocalError::InUse { .. }), "{in_use}");
    drop(first);

    let other_shape = Cluster::start(kept(&path, Some(2))).unwrap_err();
    assert!(
        matches!(other_shape, LocalError::OtherShape { .. }),
        "{other_shape}"
    );
    let again = Cluster::start(kept(&path, None)).unwrap();
    assert_eq!(
        value(&again.shards()[0].primary, "app", "SELECT count(*) FROM t").unwrap(),
        "0"
    );
    drop(again);

    std::fs::write(path.join("s1/PG_VERSION"), "9.6\n").unwrap();
    let other_major = Cluster::start(kept(&path, None)).unwrap_err();
    assert!(
        matches!(other_major, LocalError::OtherMajor { .. }),
        "{other_major}"
    );

    let anew = ClusterOptions {
        storage: Storage::Fresh(path.clone()),
        ..kept(&path, Some(1))
    };
    let anew = Cluster::start(anew).unwrap();
    assert!(value(&anew.shards()[0].primary, "app", "SELECT count(*) FROM t").is_err());
}

#[test]
fn a_port_taken_meanwhile_is_named() {
    let mut cluster = own_cluster(1, 0);
    let primary = &mut cluster.shards_mut()[0].primary;
    let port = primary.port();
    primary.stop(StopMode::Fast).unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let busy = primary.start().unwrap_err();
    assert!(
        matches!(busy, LocalError::PortBusy { port: named } if named == port),
        "{busy}"
    );
    drop(taken);
    primary.start().unwrap();
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let settings = vec![("shared_buffers".to_owned(), "plenty".to_owned())];
    let options = ClusterOptions {
        shards: Some(1),
        server: ServerOptions {
            settings,
            ..ServerOptions::default()
        },
        ..ClusterOptions::default()
    };
    let message = Cluster::start(options).unwrap_err().to_string();
    assert!(
        message.contains("invalid value for parameter \"shared_buffers\""),
        "{message}"
    );
}

#[tokio::test]
async fn with_access_by_password_nobody_comes_in_without_it() {
    let options = ClusterOptions {
        shards: Some(1),
        replicas: Some(1),
        server: ServerOptions {
            access: Access::Password,
            ..ServerOptions::default()
        },
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).unwrap();
    let right = cluster.application_password();
    for server in cluster.shards()[0].servers() {
        for (password, let_in) in [(right, true), ("wrong", false)] {
            let connection = format!(
                "host=127.0.0.1 port={} user=app password={password} dbname=app",
                server.port()
            );
            let outcome = tokio_postgres::connect(&connection, tokio_postgres::NoTls).await;
            assert_eq!(outcome.is_ok(), let_in, "{}", server.name());
        }
    }
}

#[test]
fn a_folder_that_the_servers_cannot_enter_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root's servers run as another user.
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let refused = Cluster::start(kept(&closed.path().join("cluster"), Some(1))).unwrap_err();
    assert!(
        matches!(refused, LocalError::Unreachable { .. }),
        "{refused}"
    );
}
