//! Transactions that a proxy left behind, made by hand: each finds its end, whoever of several proxies is first.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use trunkline::cli::local::{Cluster, ClusterOptions, Server, ServerOptions, StopMode};
use trunkline::config;
use trunkline::execution::commit::id::Gid;
use trunkline::execution::commit::recovery::Recovery;
use trunkline::execution::commit::{Outcome, Unresolved, removal};
use trunkline::sharding::ShardId;
use trunkline::topology::Topology;
use trunkline::wire::tls::ServerEncryption;

use crate::raw::{Answer, Raw};
use crate::servers::{cluster, own_cluster, value, wait_until};
use crate::sharded::Sharded;

/// A database of its own on the shards of a cluster, and ids of its own.
struct Stage<'a> {
    database: String,
    cluster: &'a Cluster,
    made: AtomicU64,
}

impl<'a> Stage<'a> {
    /// Owned by `app`, with a table `kv` that everyone may use.
    fn new(database: &str, cluster: &'a Cluster) -> Stage<'a> {
        for shard in cluster.shards() {
            let server = &shard.primary;
            server
                .run_sql("postgres", &format!("CREATE DATABASE {database} OWNER app"))
                .unwrap();
            let table = "CREATE TABLE kv (k text PRIMARY KEY); GRANT ALL ON kv TO PUBLIC";
            server.run_sql(database, table).unwrap();
        }
        Stage {
            database: database.to_owned(),
            cluster,
            made: AtomicU64::new(0),
        }
    }

    fn configuration(&self, more: &str) -> String {
        self.configuration_as(&["app"], more)
    }

    /// User `app` is the first of these roles on the servers, and so is the control plane.
    fn configuration_as(&self, roles: &[&str], more: &str) -> String {
        let user = |(number, role): (usize, &&str)| {
            let name = match number {
                0 => "app".to_owned(),
                _ => format!("user{number}"),
            };
            format!(
                "{{ name = \"{name}\", auth = \"trust\", admin = true, server_user = '{role}' }}"
            )
        };
        let users: Vec<String> = roles.iter().enumerate().map(user).collect();
        let mut text = format!(
            "workers = 1\nusers = [{}]\n\
             databases = [{{ name = \"{}\", default_shard = \"s1\" }}]\n\
             [limits]\nshutdown_timeout = \"1s\"\n[pool]\nconnect_timeout = \"2s\"\n\
             [transactions]\nrecovery_interval = \"100ms\"\n{more}\n",
            users.join(", "),
            self.database
        );
        for shard in self.cluster.shards() {
            let (name, port) = (&shard.name, shard.primary.port());
            text += &format!(
                "[[shards]]\nname = \"{name}\"\nnodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n"
            );
        }
        text
    }

    fn proxy(&self) -> Sharded {
        Sharded::launch(&self.database, &self.configuration(""))
    }

    fn server(&self, shard: usize) -> &'a Server {
        &self.cluster.shards()[shard].primary
    }

    /// A role's connection to a shard.
    fn connect(&self, shard: usize, role: &str) -> Raw {
        Raw::connect(self.server(shard).port(), role, &self.database)
    }

    fn value(&self, shard: usize, sql: &str) -> String {
        value(self.server(shard), &self.database, sql).unwrap()
    }

    /// A new transaction's id. Its time is long ago.
    fn id(&self) -> String {
        // Names are unique on a server, whatever the database.
        let sum = |sum: u32, byte: u8| sum.wrapping_mul(31).wrapping_add(u32::from(byte));
        let proxy = self.database.bytes().fold(7, sum);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("0190aabbccdd-{proxy:08x}-{number:016x}")
    }

    /// Prepares a transaction's part, with the row that every part has, under the role.
    fn prepare(&self, shard: usize, role: &str, id: &str, decision_shard: &str) {
        let mut owner = self.connect(shard, role);
        run(&mut owner, "BEGIN");
        run(&mut owner, &format!("INSERT INTO kv VALUES ('{id}')"));
        run(&mut owner, &row(id, "commit"));
        run(
            &mut owner,
            &format!("PREPARE TRANSACTION 'trunkline:{id}:{shard}:{decision_shard}'"),
        );
    }

    fn is_prepared(&self, shard: usize, id: &str) -> bool {
        let count =
            format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'trunkline:{id}:%'");
        self.value(shard, &count) == "1"
    }

    /// Whether the part's row is there.
    fn is_committed(&self, shard: usize, id: &str) -> bool {
        assert!(!self.is_prepared(shard, id), "not finished");
        self.value(shard, &format!("SELECT count(*) FROM kv WHERE k = '{id}'")) == "1"
    }

    fn outcome(&self, shard: usize, id: &str) -> String {
        self.value(
            shard,
            &format!("SELECT outcome FROM trunkline.commits WHERE id = '{id}'"),
        )
    }

    fn wait_finished(&self, shard: usize, id: &str) {
        wait_until("the transaction is finished", || {
            !self.is_prepared(shard, id)
        });
    }

    fn wait_installed(&self) {
        for shard in 0..self.cluster.shards().len() {
            wait_until("the table is there", || {
                self.value(shard, "SELECT to_regclass('trunkline.commits') IS NOT NULL") == "t"
            });
        }
    }
}

fn row(id: &str, outcome: &str) -> String {
    format!(
        "INSERT INTO trunkline.commits (id, outcome, shards) VALUES ('{id}', '{outcome}', '{{s1,s2}}')"
    )
}

fn run(client: &mut Raw, sql: &str) -> Answer {
    let answer = client.simple(sql);
    assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
    answer
}

fn admin(proxy: &Sharded) -> Raw {
    Raw::connect(proxy.port, "app", "trunkline")
}

/// The cells of each row, with `-` for NULL.
fn cells(answer: &Answer) -> Vec<Vec<String>> {
    let cell = |cell: &Option<Vec<u8>>| match cell {
        Some(cell) => String::from_utf8(cell.clone()).unwrap(),
        None => "-".to_owned(),
    };
    let row = |row: &Vec<_>| row.iter().map(cell).collect();
    answer.rows.iter().map(row).collect()
}

/// Of SHOW TRANSACTIONS: shard, state, outcome and reason of a transaction, where it is shown.
fn shown(proxy: &Sharded, id: &str) -> Vec<[String; 4]> {
    let all = cells(&run(&mut admin(proxy), "SHOW TRANSACTIONS"));
    let of_id = all.into_iter().filter(|row| row[10].contains(id));
    of_id
        .map(|row| [&row[1], &row[3], &row[4], &row[9]].map(String::clone))
        .collect()
}

/// Waits for something to be shown of a transaction on its one shard.
fn wait_shown(proxy: &Sharded, id: &str, wanted: impl Fn(&[String; 4]) -> bool) {
    let mut last = Vec::new();
    let deadline = std::time::Instant::now() + crate::servers::DEADLINE;
    while std::time::Instant::now() < deadline {
        last = shown(proxy, id);
        if last.len() == 1 && wanted(&last[0]) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{last:?}");
}

#[test]
fn orphans_end_as_their_decision_shard_says() {
    let stage = Stage::new("recovery_orphans", cluster());
    let proxies = [stage.proxy(), stage.proxy()];
    stage.wait_installed();
    // More of each kind than one, so that the two proxies meet.
    let ids = || (0..8).map(|_| stage.id()).collect::<Vec<_>>();
    let (decided, undecided, aborted, seen) = (ids(), ids(), ids(), ids());
    let mut s1 = stage.connect(0, "app");
    for id in &decided {
        run(&mut s1, &row(id, "commit"));
    }
    for id in &aborted {
        run(&mut s1, &row(id, "abort"));
    }
    // The decision shard has lost these, and another has committed already.
    let mut s3 = stage.connect(2, "app");
    for id in &seen {
        run(&mut s3, &row(id, "commit"));
    }
    for id in decided
        .iter()
        .chain(&undecided)
        .chain(&aborted)
        .chain(&seen)
    {
        stage.prepare(1, "app", id, "s1");
    }
    for id in &decided {
        stage.wait_finished(1, id);
        assert!(stage.is_committed(1, id));
    }
    for id in &undecided {
        stage.wait_finished(1, id);
        assert!(!stage.is_committed(1, id));
        assert_eq!(stage.outcome(0, id), "abort");
    }
    for id in &aborted {
        stage.wait_finished(1, id);
        assert!(!stage.is_committed(1, id));
    }
    for id in &seen {
        stage.wait_finished(1, id);
        assert!(stage.is_committed(1, id));
    }
    // A late decision loses.
    let late = s1.simple(&row(&undecided[0], "commit"));
    assert_eq!(late.error.expect("it is decided").sqlstate(), "23505");
    drop(proxies);
}

#[test]
fn an_owner_who_is_there_decides() {
    let stage = Stage::new("recovery_owner", cluster());
    let proxy = stage.proxy();
    stage.wait_installed();
    let (kept, left) = (stage.id(), stage.id());
    let mut owners = [stage.connect(0, "app"), stage.connect(0, "app")];
    for (owner, id) in owners.iter_mut().zip([&kept, &left]) {
        run(owner, "BEGIN");
        run(owner, &row(id, "commit"));
        stage.prepare(1, "app", id, "s1");
    }
    for id in [&kept, &left] {
        // Old enough for somebody else, who has asked by now.
        wait_until("recovery has waited for the owner", || {
            let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'trunkline' \
                AND query LIKE 'INSERT INTO trunkline.commits%'";
            stage.value(0, waits) == "t"
        });
        wait_shown(&proxy, id, |shown| shown[1] == "prepared");
        let mut admin = admin(&proxy);
        let asked = run(&mut admin, &format!("RESOLVE TRANSACTION {id}"));
        assert_eq!(
            cells(&asked)[0][1..],
            ["s2", "-", "its owner may still decide"]
        );
        let forced = admin.simple(&format!("RESOLVE TRANSACTION {id} ROLLBACK"));
        assert_eq!(forced.error.expect("refused").sqlstate(), "55000");
        assert!(stage.is_prepared(1, id));
    }
    let [mut keeps, leaves] = owners;
    drop(leaves);
    stage.wait_finished(1, &left);
    assert!(!stage.is_committed(1, &left));
    assert!(stage.is_prepared(1, &kept));
    run(&mut keeps, "COMMIT");
    stage.wait_finished(1, &kept);
    assert!(stage.is_committed(1, &kept));
}

/// Roles that the control plane cannot be, unless it has their way in.
#[test]
fn a_transaction_is_finished_as_its_owner() {
    let cluster = cluster();
    for shard in cluster.shards() {
        let roles = "CREATE ROLE keeper LOGIN; CREATE ROLE member LOGIN; GRANT member TO keeper; \
            CREATE ROLE \"Odd \"\"one\" LOGIN; CREATE ROLE stranger LOGIN";
        shard.primary.run_sql("postgres", roles).unwrap();
    }
    let stage = Stage::new("recovery_owners", cluster);
    for shard in 0..4 {
        let server = stage.server(shard);
        server
            .run_sql(
                &stage.database,
                "GRANT CREATE ON DATABASE recovery_owners TO keeper",
            )
            .unwrap();
    }
    let configuration = stage.configuration_as(&["keeper", "Odd \"one"], "");
    let proxy = Sharded::launch(&stage.database, &configuration);
    stage.wait_installed();
    let [by_member, by_odd, by_stranger] = [stage.id(), stage.id(), stage.id()];
    stage.prepare(1, "member", &by_member, "s1");
    stage.prepare(1, "Odd \"one", &by_odd, "s1");
    stage.prepare(1, "stranger", &by_stranger, "s1");
    stage.wait_finished(1, &by_member);
    stage.wait_finished(1, &by_odd);
    wait_shown(&proxy, &by_stranger, |[shard, state, outcome, reason]| {
        shard == "s2"
            && state == "in doubt"
            && outcome == "abort"
            && reason.contains("permission denied")
    });
    let resolve = format!("RESOLVE TRANSACTION {by_stranger}");
    let resolved = cells(&run(&mut admin(&proxy), &resolve));
    assert_eq!(resolved[0][..3], ["recovery_owners", "s2", "abort"]);
    assert!(resolved[0][3].contains("permission denied"), "{resolved:?}");
    // Somebody who may does it by hand.
    let gid = format!("trunkline:{by_stranger}:1:s1");
    let by_hand = format!("ROLLBACK PREPARED '{gid}'");
    stage.server(1).run_sql(&stage.database, &by_hand).unwrap();
    wait_until("it is no longer shown", || {
        shown(&proxy, &by_stranger).is_empty()
    });
    let resolved = cells(&run(&mut admin(&proxy), &resolve));
    assert_eq!(
        resolved,
        [[
            "recovery_owners",
            "s1",
            "abort",
            "nothing of it is prepared"
        ]]
    );
}

#[test]
fn what_nobody_can_know_is_left_to_an_administrator() {
    let stage = Stage::new("recovery_lost", cluster());
    let proxy = stage.proxy();
    stage.wait_installed();
    let [committed, rolled_back, elsewhere] = [stage.id(), stage.id(), stage.id()];
    for id in [&committed, &rolled_back, &elsewhere] {
        stage.prepare(1, "app", id, "gone");
        wait_shown(&proxy, id, |[_, state, _, reason]| {
            state == "in doubt"
                && reason == "its decision shard \"gone\" is not in the configuration"
        });
    }
    let mut admin = admin(&proxy);
    let resolve = |id: &str, word: &str| format!("RESOLVE TRANSACTION {id} {word}");
    let asked = run(&mut admin, &resolve(&committed, ""));
    assert_eq!(
        cells(&asked)[0][1..],
        [
            "s2",
            "-",
            "its decision shard \"gone\" is not in the configuration"
        ]
    );
    run(&mut admin, &resolve(&committed, "COMMIT"));
    assert!(stage.is_committed(1, &committed));
    run(&mut admin, &resolve(&rolled_back, "ROLLBACK"));
    assert!(!stage.is_committed(1, &rolled_back));
    // A shard that has committed its part knows better than the administrator, and is believed at once.
    run(&mut stage.connect(3, "app"), &row(&elsewhere, "commit"));
    stage.wait_finished(1, &elsewhere);
    assert!(stage.is_committed(1, &elsewhere));
    let nobody = admin.simple("RESOLVE TRANSACTION 0190aabbccdd-ffffffff-0000000000000000");
    assert_eq!(nobody.error.expect("unheard of").sqlstate(), "42704");
    // A name that only begins like ours is shown and left alone.
    let mut other = stage.connect(2, "app");
    run(&mut other, "BEGIN");
    run(&mut other, "INSERT INTO kv VALUES ('x')");
    run(&mut other, "PREPARE TRANSACTION 'trunkline:recovery_lost'");
    wait_shown(
        &proxy,
        "trunkline:recovery_lost",
        |[_, state, _, reason]| {
            state == "in doubt" && reason.starts_with("not the name of a transaction of Trunkline")
        },
    );
    run(&mut other, "ROLLBACK PREPARED 'trunkline:recovery_lost'");
}

#[test]
fn shards_that_are_away_are_waited_for() {
    let mut cluster = own_cluster(2, 0);
    let (database, id, other) = (
        "recovery_down",
        "0190aabbccdd-00000001-0000000000000001",
        "0190aabbccdd-00000001-0000000000000002",
    );
    let proxy = {
        let stage = Stage::new(database, &cluster);
        let proxy = stage.proxy();
        stage.wait_installed();
        proxy
    };
    // The decision shard stops before it is asked.
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    let stage = Stage {
        database: database.to_owned(),
        cluster: &cluster,
        made: AtomicU64::new(0),
    };
    stage.prepare(1, "app", id, "s1");
    wait_shown(&proxy, id, |[_, state, outcome, reason]| {
        state == "in doubt"
            && outcome == "-"
            && reason.starts_with("its decision shard \"s1\" cannot be asked: ")
    });
    // The participant stops, too: it is still shown.
    cluster.shards_mut()[1]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    wait_shown(&proxy, id, |shown| {
        shown[3].starts_with("the shard cannot be asked: ")
    });
    cluster.shards_mut()[0].primary.start().unwrap();
    cluster.shards_mut()[1].primary.start().unwrap();
    let stage = Stage {
        database: database.to_owned(),
        cluster: &cluster,
        made: AtomicU64::new(0),
    };
    stage.wait_finished(1, id);
    assert!(!stage.is_committed(1, id));
    assert_eq!(stage.outcome(0, id), "abort");
    // An administrator may decide while the decision shard is down.
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Fast)
        .unwrap();
    let stage = Stage {
        database: database.to_owned(),
        cluster: &cluster,
        made: AtomicU64::new(0),
    };
    stage.prepare(1, "app", other, "s1");
    let by_hand = format!("RESOLVE TRANSACTION {other} COMMIT");
    let resolved = cells(&run(&mut admin(&proxy), &by_hand));
    assert_eq!(resolved[0][1], "s1", "{resolved:?}");
    assert!(
        resolved[0][3].starts_with("the shard cannot be asked: "),
        "{resolved:?}"
    );
    assert_eq!(resolved[1][1..], ["s2", "commit", "finished"]);
    assert!(stage.is_committed(1, other));
}

fn topology(configuration: &str) -> Arc<Topology> {
    let config = Arc::new(config::parse(configuration, "test.toml", &|_| None).expect("sound"));
    let encryption = ServerEncryption::load(&config.server_tls).unwrap();
    Arc::new(Topology::new(&config, Arc::new(encryption)))
}

/// What a session has lost sight of: a transaction of shard 0 that may be prepared on shard 1.
fn unresolved(
    database: &str,
    id: &str,
) -> (
    Unresolved,
    oneshot::Receiver<Outcome>,
    oneshot::Receiver<()>,
) {
    let gid = Gid::parse(&format!("trunkline:{id}:1:s1")).unwrap();
    let (decided, decides) = oneshot::channel();
    let (finished, finishes) = oneshot::channel();
    let unresolved = Unresolved {
        database: Box::from(database),
        id: gid.id,
        decision_shard: ShardId(0),
        prepared: vec![(ShardId(1), gid)],
        decided: Some(decided),
        finished: Some(finished),
    };
    (unresolved, decides, finishes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_as_soon_as_it_is_certain() {
    let mut cluster = own_cluster(2, 0);
    let database = "recovery_asked";
    let stage = Stage::new(database, &cluster);
    // Only what sessions ask for is done in time here.
    let slow = stage
        .configuration("prepare_timeout = \"1s\"")
        .replace("\"100ms\"", "\"1h\"");
    {
        let _installs = stage.proxy();
        stage.wait_installed();
    }
    let recovery = Arc::new(Recovery::new(topology(&slow)));
    let (ask, asked) = mpsc::unbounded_channel();
    let running = tokio::spawn(Arc::clone(&recovery).run(asked));

    let [undecided, committed, nothing, away] = [stage.id(), stage.id(), stage.id(), stage.id()];
    run(&mut stage.connect(0, "app"), &row(&committed, "commit"));
    run(&mut stage.connect(0, "app"), &row(&away, "commit"));
    for id in [&undecided, &committed, &away] {
        stage.prepare(1, "app", id, "s1");
    }
    for (id, outcome) in [
        (&undecided, Outcome::Aborted),
        (&committed, Outcome::Committed),
        (&nothing, Outcome::Aborted),
    ] {
        let (unresolved, decides, finishes) = unresolved(database, id);
        ask.send(unresolved).unwrap();
        assert_eq!(decides.await, Ok(outcome));
        assert_eq!(finishes.await, Ok(()));
        assert_eq!(stage.is_committed(1, id), id == &committed);
    }
    // The decision is told while the other shard is away.
    cluster.shards_mut()[1]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    let (lost, decides, mut finishes) = unresolved(database, &away);
    ask.send(lost).unwrap();
    assert_eq!(decides.await, Ok(Outcome::Committed));
    wait_until("it is shown", || {
        let ledger = recovery.ledger();
        ledger
            .places()
            .any(|(_, entries)| entries.iter().any(|entry| entry.gid.contains(&away)))
    });
    assert!(finishes.try_recv().is_err());
    cluster.shards_mut()[1].primary.start().unwrap();
    assert_eq!(finishes.await, Ok(()));
    // Without the decision shard nothing is told, and not for ever.
    cluster.shards_mut()[0]
        .primary
        .stop(StopMode::Kill)
        .unwrap();
    let (lost, decides, _finishes) = unresolved(database, &away.replace("0190", "0191"));
    ask.send(lost).unwrap();
    assert!(decides.await.is_err());
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_when_nothing_can_need_them() {
    let stage = Stage::new("recovery_removal", cluster());
    let keeping = stage.configuration("");
    {
        let _installs = stage.proxy();
        stage.wait_installed();
    }
    let mut s1 = stage.connect(0, "app");
    let mut old = |outcome: &str, shards: &str, age: &str| {
        let id = stage.id();
        let row = format!(
            "INSERT INTO trunkline.commits VALUES ('{id}', '{outcome}', '{shards}', now() - interval '{age}')"
        );
        run(&mut s1, &row);
        id
    };
    let goes = [
        old("commit", "{s1,s2}", "61 minutes"),
        old("abort", "{}", "25 hours"),
    ];
    let needed = old("commit", "{s1,s2}", "2 hours");
    let stays = [
        old("commit", "{s1,s2}", "59 minutes"),
        old("abort", "{}", "23 hours"),
        old("commit", "{s1,gone}", "2 hours"),
    ];
    stage.prepare(1, "app", &needed, "s1");
    let topology = topology(&keeping);
    removal::remove_old(&topology).await;
    for id in &goes {
        assert_eq!(stage.outcome(0, id), "", "{id}");
    }
    for id in stays.iter().chain([&needed]) {
        assert_ne!(stage.outcome(0, id), "", "{id}");
    }
    let finish = format!("COMMIT PREPARED 'trunkline:{needed}:1:s1'");
    run(&mut stage.connect(1, "app"), &finish);
    removal::remove_old(&topology).await;
    assert_eq!(stage.outcome(0, &needed), "");
}

fn trunkline(arguments: &[&str], file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_remove("PGPASSWORD").args(arguments).arg(file);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file with this configuration, in a folder that goes with it.
fn file(configuration: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trunkline.toml");
    std::fs::write(&path, configuration).unwrap();
    (folder, path)
}

const DISTRIBUTED: &str = "[[distributions]]\nname = \"d\"\nstrategy = \"hash\"\nkey = [\"text\"]\nshards = [\"s1\", \"s2\"]\n\
    [[tables]]\nname = \"kv\"\ndistribution = \"d\"\nkey = [\"k\"]\n";

/// A transaction that writes on all shards; the error of its COMMIT.
fn commit_on_all(proxy: &Sharded, from: usize) -> Option<String> {
    let mut client = proxy.client();
    run(&mut client, "BEGIN");
    for key in from..from + 20 {
        run(&mut client, &format!("INSERT INTO kv VALUES ('{key}')"));
    }
    let answer = client.simple("COMMIT");
    answer.error.map(|error| error.field('M').to_owned())
}

#[test]
fn installing_takes_rights_and_can_be_done_by_somebody_else() {
    let cluster = own_cluster(2, 0);
    let stage = Stage::new("recovery_install", &cluster);
    for shard in 0..2 {
        let close =
            "ALTER DATABASE recovery_install OWNER TO postgres; ALTER TABLE kv OWNER TO app";
        stage.server(shard).run_sql(&stage.database, close).unwrap();
    }
    let configuration = stage.configuration("") + DISTRIBUTED;
    let (_folder, file) = file(&configuration);
    let denied = "trunkline.commits is not installed: permission denied for database recovery_install (42501)";
    let tried = trunkline(&["install"], &file);
    assert_eq!(tried.status.code(), Some(1));
    assert_eq!(said(&tried).matches(denied).count(), 2, "{}", said(&tried));
    let checked = trunkline(&["check", "--connect"], &file);
    assert_eq!(checked.status.code(), Some(0));
    assert_eq!(
        said(&checked)
            .matches("there is no schema trunkline; ")
            .count(),
        2,
        "{}",
        said(&checked)
    );
    assert_eq!(said(&checked).matches("may not create a schema").count(), 2);

    // Without it one shard commits as ever, and several do not.
    let proxy = Sharded::start_proxy(&stage.database, &configuration);
    let refused = commit_on_all(&proxy, 0).expect("refused");
    assert!(refused.contains(denied), "{refused}");
    assert_eq!(stage.value(0, "SELECT count(*) FROM kv"), "0");
    run(&mut proxy.client(), "INSERT INTO kv VALUES ('one')");
    drop(proxy);

    // Several at once, as a role that may.
    let installing: Vec<_> = (0..4)
        .map(|_| {
            let file = file.clone();
            std::thread::spawn(move || trunkline(&["install", "--user", "postgres"], &file))
        })
        .collect();
    for installed in installing {
        let installed = installed.join().unwrap();
        assert_eq!(installed.status.code(), Some(0), "{}", said(&installed));
        assert_eq!(said(&installed).matches(": it is ready").count(), 2);
    }
    let checked = said(&trunkline(&["check", "--connect"], &file));
    assert!(
        checked.contains("recovery_install on s2: it is ready"),
        "{checked}"
    );
    assert!(!checked.contains("may not remove old rows"), "{checked}");
    let proxy = Sharded::start_proxy(&stage.database, &configuration);
    assert_eq!(commit_on_all(&proxy, 0), None);
    assert_eq!(
        stage.value(0, "SELECT count(*) FROM trunkline.commits"),
        "1"
    );

    // Clients have nothing to do with the table, unless they say where.
    let mut client = proxy.client();
    assert!(
        client
            .simple("SELECT * FROM trunkline.commits")
            .error
            .is_some()
    );
    assert!(
        client
            .simple("INSERT INTO trunkline.commits VALUES ('x', 'commit', '{}')")
            .error
            .is_some()
    );
    let there = run(
        &mut client,
        "/* trunkline: shard=s2 */ SELECT outcome FROM trunkline.commits",
    );
    assert_eq!(cells(&there), [["commit"]]);

    // Another table of the name is not taken for ours.
    let other =
        "DROP TABLE trunkline.commits; CREATE TABLE trunkline.commits (id text PRIMARY KEY)";
    stage.server(1).run_sql(&stage.database, other).unwrap();
    let checked = said(&trunkline(&["check", "--connect"], &file));
    assert!(checked.contains("on s2: trunkline.commits is not installed: trunkline.commits is not the table that Trunkline makes"), "{checked}");
}

#[test]
fn a_server_without_prepared_transactions_says_so() {
    let options = ClusterOptions {
        shards: Some(2),
        replicas: Some(0),
        server: ServerOptions {
            settings: vec![("max_prepared_transactions".to_owned(), "0".to_owned())],
            ..ServerOptions::default()
        },
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
    let stage = Stage::new("recovery_zero", &cluster);
    for shard in 0..2 {
        let own = "ALTER TABLE kv OWNER TO app";
        stage.server(shard).run_sql(&stage.database, own).unwrap();
    }
    let configuration = stage.configuration("") + DISTRIBUTED;
    let (_folder, file) = file(&configuration);
    let reason = "its max_prepared_transactions is 0";
    let installed = trunkline(&["install"], &file);
    assert_eq!(installed.status.code(), Some(1));
    assert_eq!(
        said(&installed).matches(reason).count(),
        2,
        "{}",
        said(&installed)
    );
    let checked = said(&trunkline(&["check", "--connect"], &file));
    assert_eq!(checked.matches(reason).count(), 2, "{checked}");
    let proxy = Sharded::start_proxy(&stage.database, &configuration);
    let refused = commit_on_all(&proxy, 0).expect("refused");
    assert!(refused.contains(reason), "{refused}");
}

/// The first node of a shard is a standby: nothing is decided by what it shows.
#[test]
fn a_standby_in_the_primary_s_place_is_an_error() {
    let cluster = own_cluster(2, 1);
    let stage = Stage::new("recovery_standby", &cluster);
    let standby = cluster.shards()[0].replicas[0].port();
    let primary = stage.server(0).port();
    let good = stage.configuration("");
    let wrong = good.replace(&format!("port = {primary}"), &format!("port = {standby}"));
    assert_ne!(good, wrong);
    {
        let _installs = Sharded::launch(&stage.database, &good);
        stage.wait_installed();
    }
    let (_folder, file) = file(&wrong);
    let checked = said(&trunkline(&["check", "--connect"], &file));
    assert!(checked.contains("shard s1 has no primary"), "{checked}");
    let id = stage.id();
    stage.prepare(1, "app", &id, "s1");
    let proxy = Sharded::launch(&stage.database, &wrong);
    wait_shown(&proxy, &id, |[_, state, outcome, reason]| {
        state == "in doubt" && outcome == "-" && reason.contains("shard s1 has no primary")
    });
    drop(proxy);
    let _right = Sharded::launch(&stage.database, &good);
    stage.wait_finished(1, &id);
    assert!(!stage.is_committed(1, &id));
}
