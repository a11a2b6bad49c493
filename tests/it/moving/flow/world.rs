//! Three shards with a plan between them, and a driver of its streams and copies that can be ended anywhere.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;
use trunkline::backend::replication::publication::{self, Partitions};
use trunkline::backend::replication::{
    Failover, Lifetime, PublicationName, SlotName, SlotRequest, Snapshot, TwoPhase,
};
use trunkline::cli::local::Cluster;
use trunkline::config;
use trunkline::moving::claim::FlowError;
use trunkline::moving::copy::{CopyWay, copy};
use trunkline::moving::follow::{Follow, Followed, follow};
use trunkline::moving::ledger;
use trunkline::moving::pace::Pace;
use trunkline::moving::progress::Tally;
use trunkline::moving::scope::{MovedTable, Scope};
use trunkline::moving::seam::Seam;
use trunkline::moving::shards::Shards;
use trunkline::moving::verify::{Limits, Run, Verify, verify};
use trunkline::resharding::condition::quoted_name;
use trunkline::resharding::difference::difference;
use trunkline::resharding::job::{MovingKeys, Route, ShardName, Side};
use trunkline::resharding::wanted::Planned;
use trunkline::sharding::buckets::{Assignment, Buckets};
use trunkline::sharding::hash::{Function, Hash};
use trunkline::sharding::{KeyType, ShardId, ShardMap, Strategy};
use trunkline::store::Token;
use trunkline::topology::Topology;
use trunkline::wire::tls::ServerEncryption;

use crate::servers::{DEADLINE, connect, own_cluster};

/// Shards that these tests share. To make a slot waits for every transaction of a server, so they are not those of other tests.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| own_cluster(3, 0))
}

pub const NUMBER: u64 = 7;
pub const NAMES: [&str; 3] = ["s1", "s2", "s3"];

/// What moves.
pub struct Wanted<'a> {
    pub schema: &'a str,
    /// Tables with the columns of their shard keys.
    pub tables: &'a [(&'a str, &'a [&'a str])],
    pub types: &'a [KeyType],
    /// The shards of sixteen buckets, before and after.
    pub before: [u16; 16],
    pub after: [u16; 16],
}

/// One half of the first shard goes to the second.
pub const HALF: ([u16; 16], [u16; 16]) =
    ([0; 16], [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);

pub struct World {
    pub database: String,
    pub sql: Vec<Client>,
    pub shards: Shards,
    pub scope: Arc<Scope>,
    pub routes: Vec<Route>,
}

fn map(types: &[KeyType], shards: [u16; 16]) -> ShardMap {
    let mut runs: BTreeMap<u16, Vec<(u32, u32)>> = BTreeMap::new();
    for (bucket, shard) in (0..).zip(shards) {
        runs.entry(shard).or_default().push((bucket, bucket));
    }
    let assignments: Vec<_> = { runs.into_iter() }
        .map(|(shard, runs)| Assignment {
            shard: ShardId(shard),
            runs,
        })
        .collect();
    let buckets = Buckets::assigned(16, &assignments).unwrap();
    let strategy = Strategy::Hash(Hash::new(Function::Postgres, buckets));
    ShardMap::new(types.to_vec(), strategy, vec![]).unwrap()
}

pub fn name(shard: usize) -> ShardName {
    ShardName(NAMES[shard].into())
}

impl World {
    pub async fn new(database: &str, wanted: Wanted<'_>) -> World {
        let cluster = cluster();
        let mut text = format!(
            "users = [{{ name = \"postgres\", auth = \"trust\" }}]\ndatabases = [{{ name = \"{database}\" }}]\n"
        );
        let mut sql = Vec::new();
        for (shard, name) in cluster.shards().iter().zip(NAMES) {
            let server = &shard.primary;
            text += &format!(
                "[[shards]]\nname = \"{name}\"\n[[shards.nodes]]\nhost = \"127.0.0.1\"\nport = {}\n",
                server.port()
            );
            server
                .run_sql("postgres", &format!("CREATE DATABASE {database}"))
                .unwrap();
            let client = connect(&server.superuser_connection(database)).await;
            client.batch_execute(wanted.schema).await.unwrap();
            client.batch_execute(ledger::STATEMENTS).await.unwrap();
            let open = format!(
                "INSERT INTO trunkline.reshard_ledger (number, name, term) VALUES ({NUMBER}, 'p', 1)"
            );
            client.batch_execute(&open).await.unwrap();
            let tables: Vec<_> = wanted
                .tables
                .iter()
                .map(|(name, _)| ("public", *name))
                .collect();
            let publication = PublicationName::new("p").unwrap();
            let create = publication::create(&publication, &tables, Partitions::Root);
            client.batch_execute(&create).await.unwrap();
            sql.push(client);
        }
        let config = Arc::new(config::parse(&text, "test.toml", &|_| None).expect("sound"));
        let encryption = ServerEncryption::load(&config.server_tls).unwrap();
        let topology = Arc::new(Topology::new(&config, Arc::new(encryption)));
        let deadline = Instant::now() + DEADLINE;
        while !topology.primaries_up() {
            topology.look().await;
            assert!(Instant::now() < deadline, "{:?}", topology.nodes());
        }
        let (before, after) = (
            map(wanted.types, wanted.before),
            map(wanted.types, wanted.after),
        );
        let moves = difference(&before, &after).unwrap();
        let mut routes: Vec<Route> = { moves.moves.iter() }
            .map(|one| Route {
                from: name(one.from.index()),
                to: name(one.to.index()),
            })
            .collect();
        routes.dedup();
        let scope = Scope {
            number: NUMBER,
            name: "p".into(),
            references: Vec::new(),
            shards: NAMES.map(Box::from).to_vec(),
            distributions: vec![Planned {
                distribution: "d".into(),
                before,
                after,
                difference: moves,
            }],
            tables: { wanted.tables.iter() }
                .map(|(name, key)| MovedTable {
                    schema: "public".into(),
                    name: (*name).into(),
                    distribution: 0,
                    key: key.iter().map(|column| (*column).into()).collect(),
                })
                .collect(),
        };
        let world = World {
            database: database.to_owned(),
            sql,
            shards: Shards::new(topology, database),
            scope: Arc::new(scope),
            routes,
        };
        for shard in 0..NAMES.len() {
            let columns = ["id".to_owned()];
            let owned = world
                .scope
                .condition_at(
                    &world.scope.tables[0],
                    &name(shard),
                    MovingKeys::Leaving,
                    &columns,
                )
                .unwrap_or_else(|| "false".into());
            // Of the keys that move. What stays on the first shard is its as well.
            let stays = match wanted.before.contains(&1) {
                false if shard == 0 => "true",
                _ => "false",
            };
            let mine = format!(
                "CREATE FUNCTION public.mine(id bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT {stays} OR {owned} $$"
            );
            world.run(shard, &mine).await;
        }
        for shard in world.sources().into_keys() {
            let mut connection = world.shards.open_replication(&shard).await.unwrap();
            let request = SlotRequest {
                name: SlotName::new(world.slot(&shard)).unwrap(),
                lifetime: Lifetime::Permanent,
                snapshot: Snapshot::Nothing,
                two_phase: TwoPhase::AtCommit,
                failover: Failover::Lost,
            };
            connection.create_slot(&request).await.unwrap();
        }
        world
    }

    pub fn slot(&self, shard: &ShardName) -> String {
        format!("{}_{}", self.database, shard.0)
    }

    /// Every source, with the shards that receive from it, in both directions.
    fn sources(&self) -> BTreeMap<ShardName, Vec<ShardName>> {
        let mut sources: BTreeMap<ShardName, Vec<ShardName>> = BTreeMap::new();
        for route in &self.routes {
            for (from, to) in [(&route.from, &route.to), (&route.to, &route.from)] {
                let targets = sources.entry(from.clone()).or_default();
                if !targets.contains(to) {
                    targets.push(to.clone());
                }
            }
        }
        sources
    }

    pub async fn run(&self, shard: usize, sql: &str) {
        { self.sql[shard].batch_execute(sql).await }
            .unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    pub async fn value(&self, shard: usize, sql: &str) -> String {
        let rows = self.sql[shard].simple_query(sql).await.unwrap();
        { rows.iter() }
            .find_map(|row| match row {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or_default().to_owned())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    pub async fn wait_for(&self, shard: usize, sql: &str, wanted: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.value(shard, sql).await;
            if found == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{found:?}, not {wanted:?}: {sql}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A connection of its own to a shard.
    pub async fn client(&self, shard: usize) -> Client {
        connect(
            &cluster().shards()[shard]
                .primary
                .superuser_connection(&self.database),
        )
        .await
    }

    /// For the whole server.
    pub async fn set(&self, shard: usize, setting: &str, value: &str) {
        self.run(shard, &format!("ALTER SYSTEM SET {setting} = '{value}'"))
            .await;
        self.run(shard, "SELECT pg_reload_conf()").await;
        self.wait_for(shard, &format!("SHOW {setting}"), value)
            .await;
    }

    pub async fn reset(&self, shard: usize, setting: &str) {
        self.run(shard, &format!("ALTER SYSTEM RESET {setting}"))
            .await;
        self.run(shard, "SELECT pg_reload_conf()").await;
    }

    /// The same while a driver's tasks go on.
    pub async fn fence(&self, driver: &mut Driver, term: u32) {
        driver.during(self.fence_at_once(term)).await;
    }

    /// Fences every source, and waits until all that came before is applied by whoever follows.
    pub async fn fence_at_once(&self, term: u32) {
        for (source, targets) in self.sources() {
            let place = NAMES.iter().position(|name| **name == *source.0).unwrap();
            self.run(
                place,
                &format!(
                    "SELECT pg_logical_emit_message(true, 'trunkline/fence', '{NUMBER}:{term}')"
                ),
            )
            .await;
            for target in targets {
                let place = NAMES.iter().position(|name| **name == *target.0).unwrap();
                let sql = format!(
                    "SELECT fence_applied FROM trunkline.reshard_streams WHERE number = {NUMBER} AND source = '{}'",
                    source.0
                );
                self.wait_for(place, &sql, &term.to_string()).await;
            }
        }
    }

    /// Each way has the same rows on both sides, and no more than these.
    pub async fn compare(&self) -> usize {
        let mut count = 0;
        for table in &self.scope.tables {
            let columns: Vec<_> = table.key.iter().map(|name| quoted_name(name)).collect();
            for route in &self.routes {
                let condition = { self.scope.condition_of_route(table, route, &columns) }.unwrap();
                let mut sides = Vec::new();
                for shard in [&route.from, &route.to] {
                    let place = NAMES.iter().position(|name| **name == *shard.0).unwrap();
                    let sql = format!(
                        "SELECT t::text FROM {} t WHERE {condition} ORDER BY t::text COLLATE \"C\"",
                        table.quoted()
                    );
                    let rows = self.sql[place].query(&sql, &[]).await.unwrap();
                    sides.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
                }
                same(
                    &sides[0],
                    &sides[1],
                    &format!("{} {route:?}", table.quoted()),
                );
                count += sides[0].len();
            }
        }
        count
    }

    /// Ends the tasks, and gives the slots to those who come: the servers have no more than a few.
    pub async fn end(&self, driver: Driver) {
        drop(driver);
        for shard in 0..NAMES.len() {
            let drop = "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE database = current_database() AND NOT active";
            let left =
                "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
            let deadline = Instant::now() + DEADLINE;
            loop {
                self.run(shard, drop).await;
                if self.value(shard, left).await == "0" {
                    break;
                }
                assert!(Instant::now() < deadline, "a slot is still in use");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The comparison of a plan finds no difference on any way, while a driver's tasks go on.
    pub async fn verify(&self, driver: &mut Driver) {
        for route in &self.routes {
            let (_run, run) = watch::channel(Run::Going);
            let task = Verify {
                shards: self.shards.clone(),
                scope: Arc::clone(&self.scope),
                stream: route.clone(),
                owner: Side::Old,
                round: 1,
                token: i64::try_from(driver.token).unwrap(),
                tally: Arc::clone(&driver.tally),
                run,
                limits: Limits::default(),
            };
            let compared = driver.during(verify(task)).await.unwrap();
            assert_eq!(compared.differences, 0, "{compared:?}");
            assert!(compared.rows > 0, "nothing compared");
        }
    }

    pub fn seams(&self) -> BTreeMap<Route, Arc<Seam>> {
        let mut seams = BTreeMap::new();
        for (from, targets) in self.sources() {
            for to in targets {
                let from = from.clone();
                seams.insert(Route { from, to }, Arc::new(Seam::new()));
            }
        }
        seams
    }

    pub fn follow_of(
        &self,
        source: &ShardName,
        token: u64,
        seams: &BTreeMap<Route, Arc<Seam>>,
    ) -> Follow {
        let seam = |target: &ShardName| {
            let route = Route {
                from: source.clone(),
                to: target.clone(),
            };
            (target.clone(), Arc::clone(&seams[&route]))
        };
        Follow {
            scope: Arc::clone(&self.scope),
            source: source.clone(),
            slot: self.slot(source).into(),
            publication: "p".into(),
            token: Token(token),
            targets: self.sources()[source].iter().map(seam).collect(),
        }
    }

    pub fn copy_of(
        &self,
        route: &Route,
        token: u64,
        seams: &BTreeMap<Route, Arc<Seam>>,
    ) -> CopyWay {
        CopyWay {
            scope: Arc::clone(&self.scope),
            route: route.clone(),
            token: Token(token),
            workers: 2,
            seam: Arc::clone(&seams[route]),
            pace: Arc::new(Pace::new(None)),
        }
    }

    /// Follows every source.
    pub fn follow(&self, token: u64) -> Driver {
        let mut driver = Driver {
            seams: self.seams(),
            token,
            tasks: JoinSet::new(),
            tally: Arc::new(Tally::default()),
            seen: BTreeMap::new(),
            pace: Arc::new(Pace::new(None)),
            copies: 0,
        };
        for source in self.sources().into_keys() {
            let task = self.follow_of(&source, token, &driver.seams);
            let (sender, receiver) = watch::channel(Followed::default());
            driver.seen.insert(source, receiver);
            let (shards, tally) = (self.shards.clone(), Arc::clone(&driver.tally));
            driver.tasks.spawn(async move {
                follow(task, shards, tally, sender)
                    .await
                    .map(|()| "followed")
            });
        }
        driver
    }

    /// Copies every way as well.
    pub fn copy(&self, driver: &mut Driver) {
        for route in &self.routes {
            let task = CopyWay {
                pace: Arc::clone(&driver.pace),
                ..self.copy_of(route, driver.token, &driver.seams)
            };
            let (shards, tally) = (self.shards.clone(), Arc::clone(&driver.tally));
            driver.copies += 1;
            let copied = async move { copy(task, shards, tally).await.map(|()| "copied") };
            driver.tasks.spawn(copied);
        }
    }

    pub fn drive(&self, token: u64) -> Driver {
        let mut driver = self.follow(token);
        self.copy(&mut driver);
        driver
    }
}

fn same(ours: &[String], theirs: &[String], what: &str) {
    if ours == theirs {
        return;
    }
    let missing: Vec<_> = ours
        .iter()
        .filter(|row| !theirs.contains(row))
        .take(5)
        .collect();
    let more: Vec<_> = theirs
        .iter()
        .filter(|row| !ours.contains(row))
        .take(5)
        .collect();
    let short = |rows: Vec<&String>| -> Vec<String> {
        rows.iter()
            .map(|row| row.chars().take(200).collect())
            .collect()
    };
    panic!(
        "{what}: {} rows and {} rows; only here {:?}; only there {:?}",
        ours.len(),
        theirs.len(),
        short(missing),
        short(more)
    );
}

/// Tasks of one lease. Dropping it ends them where they are.
pub struct Driver {
    pub token: u64,
    pub seams: BTreeMap<Route, Arc<Seam>>,
    pub tasks: JoinSet<Result<&'static str, FlowError>>,
    pub tally: Arc<Tally>,
    pub seen: BTreeMap<ShardName, watch::Receiver<Followed>>,
    pub pace: Arc<Pace>,
    copies: usize,
}

impl Driver {
    /// Waits for something while the tasks go on; panics when one fails.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(ended) = self.tasks.join_next() => self.note(ended.unwrap()),
            }
        }
    }

    fn note(&mut self, ended: Result<&'static str, FlowError>) {
        match ended {
            Ok("copied") => self.copies -= 1,
            Ok(what) => panic!("{what} came to an end"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Until every way is copied.
    pub async fn copied(&mut self) {
        let deadline = Instant::now() + 2 * DEADLINE;
        while self.copies > 0 {
            let ended = tokio::time::timeout_at(deadline, self.tasks.join_next()).await;
            let ended = ended
                .expect("the copies end in time")
                .expect("tasks")
                .unwrap();
            self.note(ended);
        }
    }

    /// Until a task fails, and why.
    pub async fn failure(&mut self) -> FlowError {
        loop {
            let ended = tokio::time::timeout(DEADLINE, self.tasks.join_next()).await;
            match ended.expect("in time").expect("tasks").unwrap() {
                Ok("copied") => self.copies -= 1,
                Ok(what) => panic!("{what} came to an end"),
                Err(error) => return error,
            }
        }
    }
}
