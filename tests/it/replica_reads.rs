//! What is let run on a replica runs there, and says the same as on the primary.
//!
//! The statements and verdicts of `tests/golden/replica/` against the definitions as a server has them, then every relation of the system and
//! every function of Postgres that needs no argument.

use std::path::Path;

use futures_util::TryStreamExt as _;
use tokio_postgres::{Client, SimpleQueryMessage};
use trunkline::catalog::{Catalog, Epoch, SearchPath, build, schema};
use trunkline::cli::local::Cluster;
use trunkline::plan::{Nodes, plan};
use trunkline::{config, sql};

use crate::servers::{DEADLINE, connect, own_cluster};

const CONFIG: &str = "[[databases]]\nname = \"app\"\n[[users]]\nname = \"app\"\npassword = \"x\"\n[[shards]]\nname = \"s1\"\n\
    [[shards.nodes]]\nhost = \"localhost\"\n";

/// Other each time, or on each server.
const VARYING: [&str; 6] = [
    "random()",
    "now()",
    "TABLESAMPLE",
    "ANALYZE",
    "clock_timestamp",
    "EXPLAIN",
];

/// Functions that nobody can call, or whose value is another each time.
const NOT_COMPARED: [&str; 12] = [
    "clock_timestamp",
    "gen_random_uuid",
    "now",
    "random",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "uuidv4",
    "uuidv7",
    "random_normal",
    "current_query",
    "pg_get_keywords",
];

struct Pair {
    _cluster: Cluster,
    primary: Client,
    replica: Client,
    catalog: Catalog,
}

impl Pair {
    async fn start() -> Pair {
        let cluster = own_cluster(1, 1);
        let shard = &cluster.shards()[0];
        let primary = connect(&shard.primary.superuser_connection("app")).await;
        let replica = connect(&shard.replicas[0].superuser_connection("app")).await;
        let definitions = read("schema.sql");
        primary.batch_execute(&definitions).await.unwrap();
        for client in [&primary, &replica] {
            client.batch_execute("SET app.tenant = '7'").await.unwrap();
        }
        let schema = schema::read(&primary).await.unwrap();
        let config = config::parse(CONFIG, "test.toml", &|_| None).expect("it is sound");
        let configured = build(&config, "app").expect("it is sound");
        let (catalog, warnings) = Catalog::assemble(configured, Some(&schema), Epoch(1));
        assert!(warnings.is_empty(), "{warnings:?}");
        let pair = Pair {
            _cluster: cluster,
            primary,
            replica,
            catalog,
        };
        pair.catch_up().await;
        pair
    }

    fn nodes(&self, text: &str) -> Nodes {
        let Ok(statements) = sql::read(text) else {
            return Nodes::Primary;
        };
        let path = SearchPath(["public".into()].into());
        plan(text, &statements, &self.catalog, &path).nodes()
    }

    /// Waits until the replica has replayed what the primary has written.
    async fn catch_up(&self) {
        let written = answer(&self.primary, "SELECT pg_current_wal_insert_lsn()")
            .await
            .unwrap();
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written[0]);
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while answer(&self.replica, &replayed).await.unwrap() != ["t"] {
            assert!(tokio::time::Instant::now() < deadline, "it does not replay");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The statement runs on both, and gives the same unless it varies. What maintenance changes meanwhile reaches the replica soon.
    async fn agrees(&self, statement: &str, compared: Compared) -> Result<(), String> {
        let mut tries = 5;
        loop {
            let here = answer(&self.primary, statement).await;
            let there = answer(&self.replica, statement).await;
            tries -= 1;
            match (here, there) {
                (Ok(here), Ok(there)) if compared == Compared::No || here == there => return Ok(()),
                (Ok(_), Ok(_)) if tries > 0 => self.catch_up().await,
                (Ok(here), Ok(there)) => {
                    return Err(format!("{statement}: {here:?} and {there:?}"));
                }
                (_, Err(error)) | (Err(error), _) => return Err(format!("{statement}: {error}")),
            }
        }
    }
}

/// Whether the answers must be equal.
#[derive(Clone, Copy, PartialEq)]
enum Compared {
    Yes,
    No,
}

impl Compared {
    fn unless(varies: bool) -> Compared {
        if varies { Compared::No } else { Compared::Yes }
    }
}

fn read(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/replica");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// All values, row by row.
async fn answer(client: &Client, statement: &str) -> Result<Vec<String>, String> {
    let told = |error: tokio_postgres::Error| {
        let code = error.code().map_or("", |code| code.code()).to_owned();
        format!(
            "{code} {error} {:?}",
            error.as_db_error().map(|e| e.message())
        )
    };
    if statement.starts_with("COPY") {
        let rows = client.copy_out(statement).await.map_err(told)?;
        let rows: Vec<_> = rows.try_collect().await.map_err(told)?;
        return Ok(rows.iter().map(|row| format!("{row:?}")).collect());
    }
    let text = match statement.starts_with("DECLARE") {
        true => format!("BEGIN; {statement}; FETCH ALL FROM c; COMMIT"),
        false => statement.to_owned(),
    };
    let messages = client.simple_query(&text).await.map_err(told)?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let values = rows.flat_map(|row| {
        (0..row.len())
            .map(|column| row.get(column).unwrap_or("NULL").to_owned())
            .collect::<Vec<_>>()
    });
    Ok(values.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_run_on_a_replica_means_the_same_there() {
    let pair = Pair::start().await;
    let mut wrong = statements(&pair).await;
    wrong.extend(system_relations(&pair).await);
    wrong.extend(functions(&pair).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The golden ones, whose verdicts a server's own definitions must bear out.
async fn statements(pair: &Pair) -> Vec<String> {
    let mut wrong = Vec::new();
    let golden = read("statements.txt");
    let lines = golden
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (verdict, statement) = line.split_once('|').expect("a verdict and a statement");
        let statement = statement.trim();
        let found = pair.nodes(statement);
        if (found == Nodes::Any) != (verdict.trim() == "any") {
            wrong.push(format!("{found:?}, not {line}"));
        }
        if found == Nodes::Any {
            let varies = VARYING.iter().any(|part| statement.contains(part));
            wrong.extend(pair.agrees(statement, Compared::unless(varies)).await.err());
        }
    }
    wrong
}

async fn system_relations(pair: &Pair) -> Vec<String> {
    let query = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v') ORDER BY 1";
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for relation in answer(&pair.primary, query).await.unwrap() {
        if pair.nodes(&format!("SELECT * FROM {relation}")) == Nodes::Primary {
            continue;
        }
        compared += 1;
        let rows =
            format!("SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {relation} t");
        wrong.extend(pair.agrees(&rows, Compared::Yes).await.err());
    }
    assert!(compared > 100, "only {compared} relations may be read");
    wrong
}

async fn functions(pair: &Pair) -> Vec<String> {
    let query = "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND pronargs = 0
        AND prorettype <> ALL ('{trigger,event_trigger,language_handler}'::regtype[]) ORDER BY 1";
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for name in answer(&pair.primary, query).await.unwrap() {
        let call = format!("SELECT pg_catalog.{name}()");
        if pair.nodes(&call) == Nodes::Any {
            compared += 1;
            let varies = NOT_COMPARED.contains(&name.as_str());
            wrong.extend(pair.agrees(&call, Compared::unless(varies)).await.err());
        }
    }
    assert!(compared > 10, "only {compared} functions may be called");
    wrong
}
