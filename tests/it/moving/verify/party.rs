//! Two shards, the tables that move between them, and who carries changes from one to the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;
use trunkline::config;
use trunkline::moving::ledger;
use trunkline::moving::progress::Tally;
use trunkline::moving::scope::{MovedTable, Scope};
use trunkline::moving::shards::Shards;
use trunkline::moving::verify::{Compared, Limits, Run, Verify, VerifyError, verify};
use trunkline::resharding::difference::difference;
use trunkline::resharding::job::{Route, ShardName, Side};
use trunkline::resharding::wanted::Planned;
use trunkline::sharding::range::{Range, Ranges};
use trunkline::sharding::{KeyType, KeyValue, ShardId, ShardMap, Strategy};
use trunkline::topology::Topology;
use trunkline::wire::tls::ServerEncryption;

use crate::servers::{cluster, connect};

pub const NUMBER: i64 = 7;
pub const TOKEN: i64 = 3;

/// Tenants from 100 to before 2000 move from s1 to s2. Those below stay on s1, those behind were on s2 before.
pub struct Party {
    pub owner: Client,
    pub receiver: Client,
    pub limits: Limits,
    pub tally: Arc<Tally>,
    shards: Shards,
    scope: Arc<Scope>,
}

impl Party {
    /// In databases of this name; `tables` are those of the plan.
    pub async fn new(name: &str, tables: &[&str]) -> Party {
        let mut text = format!(
            "users = [{{ name = \"app\", auth = \"trust\" }}]\ndatabases = [{{ name = \"{name}\" }}]\n"
        );
        let mut clients = Vec::new();
        for (place, shard) in cluster().shards()[..2].iter().enumerate() {
            let server = &shard.primary;
            server
                .run_sql("postgres", &format!("CREATE DATABASE {name} OWNER app"))
                .unwrap();
            text += &format!(
                "[[shards]]\nname = \"s{}\"\n[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {}\n",
                place + 1,
                server.port()
            );
            let way = format!(
                "host=127.0.0.1 port={} user=app dbname={name}",
                server.port()
            );
            let client = connect(&way).await;
            client.batch_execute(ledger::STATEMENTS).await.unwrap();
            clients.push(client);
        }
        let config = Arc::new(config::parse(&text, "test.toml", &|_| None).expect("sound"));
        let encryption = ServerEncryption::load(&config.server_tls).unwrap();
        let topology = Arc::new(Topology::new(&config, Arc::new(encryption)));
        topology.look().await;
        let [owner, receiver] = clients.try_into().map_err(|_| "two").unwrap();
        let party = Party {
            owner,
            receiver,
            limits: Limits {
                chunk_rows: 100,
                ..Limits::default()
            },
            tally: Arc::default(),
            shards: Shards::new(topology, name),
            scope: Arc::new(scope(tables)),
        };
        for client in [&party.owner, &party.receiver] {
            let streams = format!(
                "INSERT INTO trunkline.reshard_streams (number, source, driver)
                 SELECT {NUMBER}, source, {TOKEN} FROM unnest(ARRAY['s1', 's2']) AS source"
            );
            client.batch_execute(&streams).await.unwrap();
        }
        party
    }

    pub async fn both(&self, sql: &str) {
        for client in [&self.owner, &self.receiver] {
            client
                .batch_execute(sql)
                .await
                .unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }

    pub async fn verify(&self) -> Result<Compared, VerifyError> {
        let (_run, receiver) = watch::channel(Run::Going);
        verify(self.task(receiver)).await
    }

    pub fn task(&self, run: watch::Receiver<Run>) -> Verify {
        Verify {
            shards: self.shards.clone(),
            scope: Arc::clone(&self.scope),
            stream: route("s1", "s2"),
            owner: Side::Old,
            round: 5,
            token: TOKEN,
            tally: Arc::clone(&self.tally),
            run,
            limits: self.limits.clone(),
        }
    }

    /// What the receiving shard has noted: the round and the differences.
    pub async fn noted(&self) -> (Option<i64>, Option<i64>) {
        let text = "SELECT verified_round, differences FROM trunkline.reshard_streams WHERE number = $1 AND source = 's1'";
        let row = self.receiver.query_one(text, &[&NUMBER]).await.unwrap();
        (row.get(0), row.get(1))
    }
}

pub fn route(from: &str, to: &str) -> Route {
    Route {
        from: ShardName(from.into()),
        to: ShardName(to.into()),
    }
}

fn scope(tables: &[&str]) -> Scope {
    let map = |bound: i64| {
        let range = |from: Option<i64>, to: Option<i64>, shard| Range {
            from: from.map(KeyValue::Int),
            to: to.map(KeyValue::Int),
            shard: ShardId(shard),
        };
        let ranges = vec![range(None, Some(bound), 0), range(Some(bound), None, 1)];
        let strategy = Strategy::Range(Ranges::new(ranges).unwrap());
        ShardMap::new(vec![KeyType::BigInt], strategy, vec![]).unwrap()
    };
    let (before, after) = (map(2000), map(100));
    let moved = |name: &&str| MovedTable {
        schema: "public".into(),
        name: (*name).into(),
        distribution: 0,
        key: vec!["tenant".into()],
    };
    Scope {
        number: NUMBER as u64,
        name: "p".into(),
        shards: vec!["s1".into(), "s2".into()],
        distributions: vec![Planned {
            distribution: "d".into(),
            difference: difference(&before, &after).unwrap(),
            before,
            after,
        }],
        tables: tables.iter().map(moved).collect(),
        references: Vec::new(),
    }
}

/// Writes on one side, and on the other a while later, in the same order.
pub struct Carrier {
    owner: Mutex<Client>,
    /// Held while a change is committed and put into the queue, and while it is found out how far that is.
    order: Arc<Mutex<()>>,
    queue: mpsc::Sender<(Instant, Step)>,
    lag: Duration,
    tasks: [JoinHandle<()>; 2],
}

enum Step {
    Write(String),
    /// All that the owner had committed is on the other side.
    Applied(PgLsn),
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Carrier {
    /// Its connections are its own. `stream`: from which side to which.
    pub async fn start(party: &Party, lag: Duration) -> Carrier {
        Carrier::between(&party.owner, &party.receiver, "s1", lag).await
    }

    pub async fn between(from: &Client, to: &Client, source: &str, lag: Duration) -> Carrier {
        let (owner, receiver, clock) =
            (another(from).await, another(to).await, another(from).await);
        let (queue, mut steps) = mpsc::channel(100);
        let source = source.to_owned();
        let applier = tokio::spawn(async move {
            while let Some((due, step)) = steps.recv().await {
                tokio::time::sleep_until(due).await;
                match step {
                    Step::Write(sql) => {
                        let done = receiver.batch_execute(&sql).await;
                        done.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                    }
                    Step::Applied(place) => {
                        let text =
                            "UPDATE trunkline.reshard_streams SET applied = $1 WHERE source = $2";
                        receiver.execute(text, &[&place, &source]).await.unwrap();
                    }
                }
            }
        });
        let order = Arc::new(Mutex::new(()));
        let (commits, steps) = (Arc::clone(&order), queue.clone());
        let ticks = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            loop {
                interval.tick().await;
                let _order = commits.lock().await;
                let row = clock.query_one("SELECT pg_current_wal_insert_lsn()", &[]);
                let place = row.await.unwrap().get(0);
                let step = (Instant::now() + lag, Step::Applied(place));
                steps.send(step).await.unwrap();
            }
        });
        Carrier {
            owner: Mutex::new(owner),
            order,
            queue,
            lag,
            tasks: [applier, ticks],
        }
    }

    /// Writes on the owner now.
    pub async fn write(&self, sql: String) {
        let owner = self.owner.lock().await;
        let begun = owner.batch_execute(&format!("BEGIN; {sql}")).await;
        begun.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let _order = self.order.lock().await;
        owner.batch_execute("COMMIT").await.unwrap();
        let due = Instant::now() + self.lag;
        self.queue.send((due, Step::Write(sql))).await.unwrap();
    }
}

/// Another connection to the same database.
pub async fn another(client: &Client) -> Client {
    let row = client
        .query_one(
            "SELECT current_database()::text, current_setting('port')",
            &[],
        )
        .await
        .unwrap();
    let (database, port): (String, String) = (row.get(0), row.get(1));
    connect(&format!(
        "host=127.0.0.1 port={port} user=app dbname={database}"
    ))
    .await
}
