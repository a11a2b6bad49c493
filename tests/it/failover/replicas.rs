//! Replicas that serve reads and go: killed, stopped, hung, cut off. Clients do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::load::{Failure, Load};
use super::size;
use super::stage::{Stage, nodes_are};
use crate::commit::cutting::Relays;
use crate::raw::{Format, Parameter, Raw};
use crate::servers::wait_until;
use crate::sharded::{Sharded, succeeded};
use crate::wire_client::{Wire, bind, execute, parse, query, sync};

const CLIENTS: usize = 16;

/// The functions by which a statement tells where it runs are not let run elsewhere otherwise.
pub const READS: &str =
    "[reads]\nfrom = \"any\"\nfunctions = [\"current_setting\", \"pg_is_in_recovery\"]\n";

/// What replicas go through in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Killed,
    /// `pg_ctl stop -m fast`.
    Stopped,
    /// SIGSTOP.
    Hung,
    /// Its connections are reset.
    Reset,
    /// Nothing comes through.
    Cut,
}

#[test]
fn replicas_that_go_under_reads() {
    let mut stage = Stage::start(1, 2);
    stage.run(
        0,
        0,
        "INSERT INTO things SELECT i, i FROM generate_series(1, 100) i",
    );
    stage.level(0, &[1, 2]);
    let relays = Relays::start(&stage.ports());
    let ports = relays.ports().to_vec();
    let proxy = Sharded::start_proxy(
        "app",
        &Stage::configuration(std::slice::from_ref(&ports), READS),
    );
    let all_up = |nodes: &[super::stage::NodeLine]| nodes.iter().all(|node| node.stage == "up");
    for (trouble, place) in [
        (Trouble::Killed, 1),
        (Trouble::Stopped, 2),
        (Trouble::Hung, 1),
        (Trouble::Reset, 2),
        (Trouble::Cut, 2),
    ] {
        nodes_are(&proxy, "all nodes are up", all_up);
        let load = Load::start_reading(&proxy, CLIENTS);
        let is_away = |nodes: &[super::stage::NodeLine]| {
            let away =
                |node: &super::stage::NodeLine| node.port == ports[place] && node.stage != "up";
            nodes.iter().any(away)
        };
        let away = || nodes_are(&proxy, "it is away", is_away);
        load.reads(200);
        match trouble {
            Trouble::Killed => {
                stage.kill(0, place);
                away();
                load.reads(200);
                stage.restart(0, place);
            }
            Trouble::Stopped => {
                stage.stop(0, place);
                away();
                load.reads(200);
                stage.restart(0, place);
            }
            Trouble::Hung => {
                let frozen = stage.freeze(place);
                away();
                load.reads(200);
                drop(frozen);
            }
            Trouble::Reset => {
                for _ in 0..3 {
                    relays.cut(place);
                    load.reads(150);
                }
            }
            Trouble::Cut => {
                let frozen = relays.freeze(place);
                away();
                load.reads(200);
                drop(frozen);
            }
        }
        load.reads(200);
        let report = load.end();
        println!("{trouble:?}: {report}");
        // A client that has the first message of an answer can only be told. A relay passes messages one by one, and COPY may be ended behind its first.
        let may_be_told = |failure: &Failure| {
            in_an_answer(failure) && (trouble == Trouble::Reset || failure.is_of_copy())
        };
        assert!(
            report.failures.iter().all(may_be_told),
            "{trouble:?}: {report}"
        );
        assert!(report.failures.len() <= CLIENTS, "{trouble:?}: {report}");
        let by_replicas: usize = [1, 2]
            .iter()
            .map(|place| report.read_from(stage.port(*place)))
            .sum();
        assert!(
            by_replicas * 10 > report.reads,
            "{trouble:?}: only {by_replicas} of {} reads went to replicas",
            report.reads
        );
    }
}

/// Told honestly that the answer ended in its middle.
fn in_an_answer(failure: &Failure) -> bool {
    let said = "the server connection was lost while the statement ran: ";
    failure.sqlstate == "08006" && failure.message.starts_with(said)
}

/// How often a replica is killed. And at night.
const ROUNDS: (usize, usize) = (3, 50);

/// Whatever way a client reads: it does not notice.
#[test]
fn replicas_that_are_killed_again_and_again() {
    let mut stage = Stage::start(1, 2);
    stage.run(
        0,
        0,
        "INSERT INTO things SELECT i, i FROM generate_series(1, 100) i",
    );
    stage.level(0, &[1, 2]);
    let ports = stage.ports();
    // A replica that is lost again and again is otherwise left alone for a minute.
    let text = Stage::configuration(std::slice::from_ref(&ports), READS)
        .replace("rise = 1\n", "rise = 1\nmax_eject_time = \"1s\"\n");
    let proxy = Sharded::start_proxy("app", &text);
    nodes_are(&proxy, "all nodes are up", |nodes| {
        nodes.iter().all(|node| node.stage == "up")
    });
    let load = Load::start_reading(&proxy, CLIENTS);
    let rounds = size(ROUNDS);
    for round in 0..rounds {
        let place = round % 2 + 1;
        load.reads(100);
        stage.kill(0, place);
        let goes = |wanted: &'static str| {
            nodes_are(&proxy, wanted, |nodes| {
                let mut nodes = nodes.iter();
                nodes.any(|node| node.port == ports[place] && node.stage == wanted)
            });
        };
        goes("down");
        stage.restart(0, place);
        goes("up");
    }
    load.reads(100);
    let report = load.end();
    let by = [0, 1, 2].map(|place| report.read_from(ports[place]));
    println!("{rounds} replicas killed: {report}; by primary and replicas {by:?}");
    // COPY is sometimes told that its server went, and that nothing else happened; all others notice nothing.
    let told = |failure: &Failure| failure.is_of_copy() && in_an_answer(failure);
    assert!(report.failures.iter().all(told), "{report}");
    assert!(report.failures.len() <= rounds, "{report}");
    assert!((by[1] + by[2]) * 2 > report.reads, "{by:?}");
}

const TABLES: &str = "
[[distributions]]
name = \"d\"
strategy = \"hash\"
key = \"bigint\"
shards = [\"s1\", \"s2\"]
[[tables]]
name = \"things\"
distribution = \"d\"
key = \"id\"
";

/// Waits until the replicas of two shards have replayed what their primaries have written.
fn all_level(stage: &Stage) {
    for shard in 0..2 {
        let written = stage.value(shard, 0, "SELECT pg_current_wal_lsn()");
        let there = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        wait_until("the replica is level", || {
            stage.value(shard, 1, &there) == "t"
        });
    }
}

/// Each way of reading, on two shards with a replica each: answered by replicas, and rightly.
#[test]
fn every_way_of_reading() {
    let mut stage = Stage::start(2, 1);
    let proxy = stage.proxy(&format!("{READS}{TABLES}"));
    let mut client = Raw::connect(proxy.port, "app", "app");
    for id in 1..=20 {
        let insert = format!("INSERT INTO things VALUES ({id}, {id})");
        succeeded(&insert, &client.simple(&insert));
    }
    all_level(&stage);
    drop(client);
    let mut client = Raw::connect(proxy.port, "app", "app");
    succeeded("SET", &client.simple("SET trunkline.read = 'replica'"));
    let replicas = [stage.node(0, 1).port(), stage.node(1, 1).port()];
    let on_replica = |port: &str| replicas.iter().any(|known| known.to_string() == port);

    // A scatter. What ran last on a connection, its server shows.
    let sum = "SELECT sum(v), count(*) FROM things";
    assert_eq!(client.simple(sum).lines(), ["210 20"]);
    let asked =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'app' AND query LIKE '%sum(v)%'";
    for shard in 0..2 {
        let by = [0, 1].map(|place| stage.value(shard, place, asked));
        assert_eq!(by, ["f", "t"], "primary and replica of shard {shard}");
    }
    assert_eq!(client.extended(sum, &[], Format::Text).lines(), ["210 20"]);
    gathered(&stage, &mut client);
    // One shard, with a parameter.
    for id in 1..=20 {
        let parameter = Parameter {
            oid: 20,
            format: Format::Text,
            value: Some(id.to_string().into_bytes()),
        };
        let answer = client.extended(
            "SELECT v, current_setting('port') FROM things WHERE id = $1",
            &[parameter],
            Format::Text,
        );
        let lines = answer.lines();
        let (v, port) = lines[0].split_once(' ').expect("two columns");
        assert_eq!(v, id.to_string());
        assert!(on_replica(port), "{port}");
    }
    // A transaction that only reads, also over several shards.
    succeeded("BEGIN", &client.simple("BEGIN READ ONLY"));
    for id in 1..=20 {
        let text = format!("SELECT current_setting('port') FROM things WHERE id = {id}");
        let answer = client.simple(&text);
        succeeded(&text, &answer);
        assert!(on_replica(&answer.lines()[0]), "{answer:?}");
    }
    let answer = client.simple(sum);
    assert_eq!(answer.lines(), ["210 20"], "{answer:?}");
    succeeded("COMMIT", &client.simple("COMMIT"));
    // One that keeps its snapshot cannot go on at another node.
    let keeps = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    succeeded(keeps, &client.simple(keeps));
    assert_eq!(client.simple(sum).lines(), ["210 20"]);
    let elsewhere = client.simple(&format!("/* trunkline: read=primary */ {sum}"));
    assert_eq!(elsewhere.refusal(), Some("on_replica"), "{elsewhere:?}");
    succeeded("ROLLBACK", &client.simple("ROLLBACK"));
    // One that writes goes to the primary with all that it does, also when it reads first.
    succeeded("SET", &client.simple("SET trunkline.read = 'any'"));
    succeeded("BEGIN", &client.simple("BEGIN"));
    for text in ["SELECT pg_is_in_recovery() FROM things WHERE id = 7"; 2] {
        assert_eq!(client.simple(text).lines(), ["f"]);
        succeeded(
            "UPDATE",
            &client.simple("UPDATE things SET v = v + 0 WHERE id = 7"),
        );
    }
    succeeded("COMMIT", &client.simple("COMMIT"));
    pipelines(&proxy);
    // Statements that are prepared by name, as drivers do, first on a replica and then on the primary.
    prepared(&proxy);
    executed(&proxy, &on_replica);

    for shard in 0..2 {
        stage.kill(shard, 1);
    }
    nodes_are(&proxy, "no replica is left", |nodes| {
        let down = nodes.iter().filter(|node| node.stage == "down");
        down.count() == 2
    });
    let answer = client.simple("SELECT v FROM things WHERE id = 7");
    assert_eq!(answer.lines(), ["7"], "the primary serves");
    succeeded("SET", &client.simple("SET trunkline.read = 'replica'"));
    for text in [
        "SELECT v FROM things WHERE id = 7",
        "SELECT sum(v) FROM things",
    ] {
        let answer = client.simple(text);
        assert_eq!(answer.refusal(), Some("no_replica"), "{text}: {answer:?}");
    }
    succeeded(
        "UPDATE",
        &client.simple("UPDATE things SET v = v + 0 WHERE id = 7"),
    );
}

/// How often the replicas of both shards are killed. And at night.
const GATHERS: (usize, usize) = (2, 20);

/// A replica that goes while it sends rows to a primary is replaced by another node; nobody notices.
#[test]
fn replicas_that_are_killed_while_rows_gather() {
    let mut stage = Stage::start(2, 1);
    let ports = [0, 1].map(|shard| vec![stage.node(shard, 0).port(), stage.node(shard, 1).port()]);
    // A replica that is lost again and again is otherwise left alone for a minute.
    let text = Stage::configuration(&ports, &format!("{READS}{TABLES}"))
        .replace("rise = 1\n", "rise = 1\nmax_eject_time = \"1s\"\n");
    let proxy = Sharded::start_proxy("app", &text);
    nodes_are(&proxy, "all nodes are up", |nodes| {
        nodes.iter().all(|node| node.stage == "up")
    });
    let mut client = Raw::connect(proxy.port, "app", "app");
    for id in 1..=100 {
        let insert = format!("INSERT INTO things VALUES ({id}, {id})");
        succeeded(&insert, &client.simple(&insert));
    }
    all_level(&stage);
    for shard in 0..2 {
        // One that comes back begins here, and not with what was before.
        stage.run(shard, 0, "CHECKPOINT");
    }
    all_level(&stage);
    for shard in 0..2 {
        stage.run(shard, 1, "CHECKPOINT");
    }
    let over = AtomicBool::new(false);
    let rounds = size(GATHERS);
    let told = std::thread::scope(|scope| {
        let reader = |_: usize| {
            scope.spawn(|| {
                let mut client = Raw::connect(proxy.port, "app", "app");
                let mut told = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let median =
                        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY v) FROM things";
                    let answer = client.simple(median);
                    told.push(match &answer.error {
                        Some(error) => format!("{error:?}"),
                        None => answer.lines().concat(),
                    });
                }
                told
            })
        };
        let readers: Vec<_> = (0..4).map(reader).collect();
        for _ in 0..rounds {
            for shard in 0..2 {
                stage.kill(shard, 1);
                let port = stage.node(shard, 1).port();
                nodes_are(&proxy, "it is down", |nodes| {
                    let mut nodes = nodes.iter();
                    nodes.any(|node| node.port == port && node.stage == "down")
                });
                stage.restart(shard, 1);
                nodes_are(&proxy, "it is up again", |nodes| {
                    let mut nodes = nodes.iter();
                    nodes.any(|node| node.port == port && node.stage == "up")
                });
            }
        }
        over.store(true, Ordering::Relaxed);
        let told = readers.into_iter().map(|reader| reader.join());
        told.flat_map(|told| told.expect("it does not panic"))
            .collect::<Vec<_>>()
    });
    println!("{} queries gathered rows while replicas died", told.len());
    let wrong: Vec<_> = told.iter().filter(|told| *told != "50").collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A comment asks for a node for one statement, whatever holds for its session; which sees its own commits there as ever.
#[test]
fn a_comment_says_where_to_read() {
    let stage = Stage::start(2, 1);
    let proxy = stage.proxy(&format!(
        "[reads]\nwait = \"200ms\"\nfunctions = [\"current_setting\"]\n{TABLES}"
    ));
    let mut client = Raw::connect(proxy.port, "app", "app");
    for id in 1..=20 {
        let insert = format!("INSERT INTO things VALUES ({id}, {id})");
        succeeded(&insert, &client.simple(&insert));
    }
    let ports = |place| [0, 1].map(|shard| stage.node(shard, place).port().to_string());
    let (primaries, replicas) = (ports(0), ports(1));
    let look = "SELECT current_setting('port') FROM things WHERE id =";
    let asks = |client: &mut Raw, comment: &str, id: i32| {
        let answer = client.simple(&format!("{comment} {look} {id}"));
        succeeded(comment, &answer);
        answer.lines().concat()
    };
    for id in 1..=20 {
        let port = asks(&mut client, "/* trunkline: read=replica */", id);
        assert!(replicas.contains(&port), "{port}");
        let port = asks(&mut client, "", id);
        assert!(primaries.contains(&port), "the next one: {port}");
        let text = format!("/* trunkline: read=any */ {look} $1");
        let id = Parameter {
            oid: 20,
            format: Format::Text,
            value: Some(id.to_string().into_bytes()),
        };
        let port = client.extended(&text, &[id], Format::Text).lines().concat();
        assert!(replicas.contains(&port), "prepared: {port}");
    }
    // Of several statements in one message one wants the primary.
    let two = client.simple(&format!("/* trunkline: read=any */ {look} 1; {look} 1"));
    for port in two.lines() {
        assert!(primaries.contains(&port), "{port}");
    }
    succeeded("SET", &client.simple("SET trunkline.read = 'replica'"));
    let port = asks(&mut client, "/* trunkline: read=primary */", 1);
    assert!(primaries.contains(&port), "{port}");
    succeeded("RESET", &client.simple("RESET trunkline.read"));

    // A session that reads from replicas before these stand still.
    let address = ([127, 0, 0, 1], proxy.port).into();
    let mut wire = Wire::log_in(address, &[("user", "app"), ("database", "app")], "")
        .unwrap_or_else(|e| panic!("{e}"));
    wire.query("SET trunkline.read = 'any'");
    wire.query("PREPARE put (bigint, bigint) AS UPDATE things SET v = $2 WHERE id = $1");
    for id in 1..=5 {
        wait_until("it reads from a replica", || {
            let told = wire.query(&format!("{look} {id}"));
            replicas.iter().any(|port| told.contains(&**port))
        });
    }

    // A replica that stands still has not what a session has committed.
    for shard in 0..2 {
        stage.run(shard, 1, "SELECT pg_wal_replay_pause()");
    }
    let mut other = Raw::connect(proxy.port, "app", "app");
    succeeded(
        "UPDATE",
        &other.simple("UPDATE things SET v = 100 WHERE id = 1"),
    );
    let read = "SELECT v FROM things WHERE id = 1";
    let seen = other.simple(&format!("/* trunkline: read=any */ {read}"));
    assert_eq!(seen.lines(), ["100"], "by the primary, after a wait");
    let told = other.simple(&format!("/* trunkline: read=replica */ {read}"));
    assert_eq!(told.refusal(), Some("no_replica"), "{told:?}");
    // What a statement of PREPARE has written, by its name in either protocol, is a commit as well.
    for (id, by_bind) in [(2, true), (3, false), (4, true), (5, false)] {
        let told = match by_bind {
            true => wire.ask(&[
                bind("", "put", &[Some(&id.to_string()), Some("300")]),
                execute("", 0),
                sync(),
            ]),
            false => wire.query(&format!("EXECUTE put ({id}, 300)")),
        };
        assert!(told.contains("UPDATE 1"), "{told}");
        let told = wire.query(&format!("SELECT v FROM things WHERE id = {id}"));
        assert!(told.contains("D(300)"), "{id}: {told}");
    }
    // It is behind, and only some statements mind.
    succeeded("SET", &client.simple("SET trunkline.causal_reads = 'off'"));
    let strict = "/* trunkline: read=any max_lag=100ms */";
    wait_until("it is too far behind", || {
        primaries.contains(&asks(&mut client, strict, 1))
    });
    let port = asks(&mut client, "/* trunkline: read=any max_lag=off */", 1);
    assert!(replicas.contains(&port), "{port}");

    let told = client.simple("/* trunkline: read=replicas */ SELECT v FROM things WHERE id = 1");
    assert_eq!(told.refusal(), Some("hint_malformed"), "{told:?}");
}

/// [SELECT; INSERT] in one unit of work: it begins where reads go, and must go on where writes go.
fn pipelines(proxy: &Sharded) {
    let address = ([127, 0, 0, 1], proxy.port).into();
    let mut wire = Wire::log_in(address, &[("user", "app"), ("database", "app")], "")
        .unwrap_or_else(|e| panic!("{e}"));
    wire.query("SET trunkline.read = 'any'");
    for id in 101..111 {
        let told = wire.ask(&[
            parse(
                "",
                &format!("SELECT count(*) FROM things WHERE id = {id}"),
                &[],
            ),
            bind("", "", &[]),
            execute("", 0),
            parse("", &format!("INSERT INTO things VALUES ({id}, 1)"), &[]),
            bind("", "", &[]),
            execute("", 0),
            parse("", &format!("SELECT v FROM things WHERE id = {id}"), &[]),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(
            told, "1 2 D(0) C(SELECT 1) 1 2 C(INSERT 0 1) 1 2 D(1) C(SELECT 1) Z(I)",
            "{id}"
        );
        // The same in one simple message, and units of work behind each other.
        let told = wire.query(&format!(
            "SELECT count(*) FROM things WHERE id = {id}; DELETE FROM things WHERE id = {id}"
        ));
        assert!(
            told.ends_with("C(DELETE 1) Z(I)") && told.contains("D(1)"),
            "{told}"
        );
        let told = wire.ask(&[
            query(&format!("SELECT count(*) FROM things WHERE id = {id}")),
            query(&format!("INSERT INTO things VALUES ({id}, 2)")),
            query(&format!("SELECT v FROM things WHERE id = {id}")),
            query(&format!("DELETE FROM things WHERE id = {id}")),
        ]);
        let values: Vec<&str> = told
            .split(' ')
            .filter(|part| part.starts_with("D("))
            .collect();
        assert_eq!(values, ["D(0)", "D(2)"], "{told}");
    }
    // A write on all shards that runs behind the binding of a read.
    let told = wire.ask(&[
        parse("w", "UPDATE things SET v = v + 0", &[]),
        parse("r", "SELECT count(*) FROM things", &[]),
        bind("w", "w", &[]),
        bind("r", "r", &[]),
        execute("w", 0),
        execute("r", 0),
        sync(),
    ]);
    assert_eq!(told, "1 1 2 2 C(UPDATE 20) D(20) C(SELECT 1) Z(I)");
}

/// Rows that gather on a primary come from replicas, where there is no temporary table.
fn gathered(stage: &Stage, client: &mut Raw) {
    let median = "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY v) FROM things";
    let some = format!("{median} WHERE id IN (1, 2, 3, 4, 5)");
    assert_eq!(client.simple(median).lines(), ["10"]);
    let asked =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'app' AND query LIKE 'COPY%'";
    let mut by = [0, 1].map(|shard| [0, 1].map(|place| stage.value(shard, place, asked)));
    by.sort();
    assert_eq!(
        by,
        [["f", "f"], ["f", "t"]],
        "COPY on primaries and replicas"
    );
    // Its keys lie on both shards, which is found out late.
    assert_eq!(client.simple(&some).lines(), ["3"]);
    assert_eq!(client.extended(&some, &[], Format::Text).lines(), ["3"]);
    let copied = client.simple(&format!("COPY ({median}) TO STDOUT"));
    succeeded("COPY", &copied);
    for begin in [
        "BEGIN READ ONLY",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    ] {
        succeeded(begin, &client.simple(begin));
        let one = client.simple("SELECT pg_is_in_recovery() FROM things WHERE id = 7");
        assert_eq!(one.lines(), ["t"]);
        let answer = client.simple(median);
        assert_eq!(answer.lines(), ["10"], "{begin}: {answer:?}");
        let one = client.simple("SELECT pg_is_in_recovery() FROM things WHERE id = 7");
        assert_eq!(one.lines(), ["t"]);
        succeeded("COMMIT", &client.simple("COMMIT"));
    }
}

/// EXECUTE reads where its statement would.
fn executed(proxy: &Sharded, on_replica: &dyn Fn(&str) -> bool) {
    let mut client = Raw::connect(proxy.port, "app", "app");
    let mut run = |text: &str| {
        let answer = client.simple(text);
        succeeded(text, &answer);
        answer.lines()
    };
    run("PREPARE look (bigint) AS SELECT current_setting('port'), v FROM things WHERE id = $1");
    run("PREPARE add (bigint) AS UPDATE things SET v = v + 1 WHERE id = $1 RETURNING v");
    run("PREPARE here AS SELECT pg_is_in_recovery(), pg_backend_pid() > 0");
    run("SET trunkline.read = 'replica'");
    let port_of = |line: &str| line.split(' ').next().expect("a port").to_owned();
    for id in 1..=20 {
        let looked = run(&format!("EXECUTE look ({id})"));
        assert!(on_replica(&port_of(&looked[0])), "{looked:?}");
    }
    let twice = run("EXECUTE look (3); EXECUTE look (3)");
    assert!(
        twice.len() == 2 && twice.iter().all(|line| on_replica(&port_of(line))),
        "{twice:?}"
    );
    assert_eq!(run("EXECUTE here"), ["f t"], "only the primary can say it");
    run("BEGIN READ ONLY");
    let looked = run("EXECUTE look (5)");
    assert!(on_replica(&port_of(&looked[0])), "{looked:?}");
    run("COMMIT");
    run("BEGIN");
    let looked = run("EXECUTE look (5)");
    assert!(!on_replica(&port_of(&looked[0])), "{looked:?}");
    run("COMMIT");
    run("SET trunkline.read = 'primary'");
    let looked = run("EXECUTE look (5)");
    assert!(!on_replica(&port_of(&looked[0])), "{looked:?}");
    wait_until("a comment sends it to a replica", || {
        let looked = run("/* trunkline: read=any */ EXECUTE look (5)");
        on_replica(&port_of(&looked[0]))
    });
    run("SET trunkline.read = 'any'");
    for id in 1..=20 {
        let added = run(&format!("EXECUTE add ({id})"));
        let looked = run(&format!("EXECUTE look ({id})"));
        assert!(looked[0].ends_with(&format!(" {}", added[0])), "{looked:?}");
        run(&format!("UPDATE things SET v = id WHERE id = {id}"));
    }
}

fn prepared(proxy: &Sharded) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let client = crate::servers::connect(&proxy.connection()).await;
        client
            .batch_execute("SET trunkline.read = 'any'")
            .await
            .unwrap();
        let read = client
            .prepare("SELECT v, pg_is_in_recovery() FROM things WHERE id = $1")
            .await
            .unwrap();
        let write = client
            .prepare("UPDATE things SET v = v + 1 WHERE id = $1")
            .await
            .unwrap();
        for id in 1..=20_i64 {
            let before: i64 = client.query_one(&read, &[&id]).await.unwrap().get(0);
            assert_eq!(client.execute(&write, &[&id]).await.unwrap(), 1);
            let after: i64 = client.query_one(&read, &[&id]).await.unwrap().get(0);
            assert_eq!(after, before + 1);
            client
                .execute("UPDATE things SET v = id WHERE id = $1", &[&id])
                .await
                .unwrap();
        }
        // What the session does not wait for comes by and by.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !client
            .query_one(&read, &[&7_i64])
            .await
            .unwrap()
            .get::<_, bool>(1)
        {
            assert!(std::time::Instant::now() < deadline, "no replica serves");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}
