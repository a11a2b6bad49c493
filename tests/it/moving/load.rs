//! Clients that write all the time, each its own keys, so that each knows exactly what must be there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Statement};

use super::stage::connect;

/// What the tables of this load are made by.
pub const SCHEMA: &str = "CREATE TABLE item (id bigint NOT NULL, sub int NOT NULL, v bigint NOT NULL, body text, PRIMARY KEY (id, sub));
    CREATE INDEX item_v ON item (v);
    CREATE TABLE note (id bigint NOT NULL, at int NOT NULL, words text NOT NULL, PRIMARY KEY (id, at));";

/// `KEYS` ids of each client.
const KEYS: i64 = 40;

/// Rows by id and sub: the value, and the length of the text.
pub type Rows = BTreeMap<(i64, i32), (i64, usize)>;

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Worked>>,
}

/// What errors are to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errors {
    /// A client that is told of one ends.
    Unexpected,
    /// Servers die: a client looks what has become of its unit of work, and goes on.
    Borne,
}

/// What a unit of work makes of the rows that it may touch.
struct Intent {
    ids: Vec<i64>,
    before: Rows,
    after: Rows,
}

/// What one client, or all of them, have done.
#[derive(Default)]
pub struct Worked {
    pub rows: Rows,
    pub errors: Vec<String>,
    /// Errors that were borne, by SQLSTATE and message.
    pub borne: BTreeMap<String, usize>,
    pub waits: Vec<(Instant, Duration)>,
}

impl Load {
    /// `clients` over these proxies.
    pub fn start(ports: &[u16], clients: i64) -> Load {
        Load::begin(ports, clients, Errors::Unexpected)
    }

    /// The same, while servers of shards are killed.
    pub fn start_among_deaths(ports: &[u16], clients: i64) -> Load {
        Load::begin(ports, clients, Errors::Borne)
    }

    fn begin(ports: &[u16], clients: i64, errors: Errors) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let clients = (0..clients).map(|place| {
            let port = ports[usize::try_from(place).unwrap() % ports.len()];
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut writer = Writer::new(port, place).await;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if let Err(error) = writer.step().await {
                        if errors == Errors::Borne {
                            writer.find_out(&error).await;
                            continue;
                        }
                        let said = match error.as_db_error() {
                            Some(said) => format!("{} {}", said.code().code(), said.message()),
                            None => format!("{error:?}"),
                        };
                        writer.worked.errors.push(said);
                        break;
                    }
                    writer.worked.waits.push((began, began.elapsed()));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                writer.worked
            })
        });
        Load {
            clients: clients.collect(),
            stop,
            done,
        }
    }

    /// Waits for so many more units of work.
    pub async fn progress(&self, more: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        while self.done.load(Ordering::Relaxed) < wanted
            && !self.clients.iter().any(JoinHandle::is_finished)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Lets everyone come to an end.
    pub async fn end(self) -> Worked {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Worked::default();
        for client in self.clients {
            let worked = client.await.unwrap();
            all.rows.extend(worked.rows);
            all.errors.extend(worked.errors);
            for (error, times) in worked.borne {
                *all.borne.entry(error).or_default() += times;
            }
            all.waits.extend(worked.waits);
        }
        all
    }
}

impl Worked {
    /// How long units of work took, in words.
    pub fn told(&self) -> String {
        let mut waits: Vec<Duration> = self.waits.iter().map(|(_, took)| *took).collect();
        waits.sort_unstable();
        let at = |part: usize| {
            waits
                .get(waits.len() * part / 1000)
                .copied()
                .unwrap_or_default()
        };
        format!(
            "{} units of work: median {:?}, 99 % {:?}, 99.9 % {:?}, longest {:?}",
            waits.len(),
            at(500),
            at(990),
            at(999),
            waits.last().copied().unwrap_or_default()
        )
    }
}

struct Writer {
    port: u16,
    client: Client,
    bump: Statement,
    place: i64,
    random: SmallRng,
    worked: Worked,
    /// Of the unit of work under way.
    intent: Option<Intent>,
}

/// How long a shard may be away.
const AWAY: Duration = Duration::from_secs(90);

/// Until a proxy knows the tables.
pub async fn wait_for_definitions(port: u16) {
    let client = connect(port, "app", "app").await.unwrap();
    // Nobody can say so before.
    while let Err(error) = client
        .simple_query("SELECT 1 FROM no_table_has_this_name")
        .await
    {
        if error.code().is_some_and(|code| code.code() == "42P01") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

type Done = Result<(), tokio_postgres::Error>;

const BUMP: &str = "UPDATE item SET v = v + $2 WHERE id = $1 AND sub = $3";

impl Writer {
    async fn new(port: u16, place: i64) -> Writer {
        wait_for_definitions(port).await;
        let client = connect(port, "app", "app").await.unwrap();
        let bump = client.prepare(BUMP).await.unwrap();
        Writer {
            port,
            intent: None,
            client,
            bump,
            place,
            random: SmallRng::seed_from_u64(place.cast_unsigned() + 7),
            worked: Worked::default(),
        }
    }

    fn key(&mut self) -> (i64, i32) {
        let id = self.place * 1000 + self.random.random_range(0..KEYS);
        (id, self.random.random_range(0..4))
    }

    /// One unit of work, and what it must leave.
    async fn step(&mut self) -> Done {
        let key @ (id, sub) = self.key();
        match self.random.random_range(0..9) {
            0 | 1 => self.put(key, 20).await,
            2 => {
                // Out of line, and not touched by the updates of `v`.
                self.put(key, 9000).await
            }
            3 | 4 => {
                self.intend(&[id], |rows| add(rows, key, 7));
                let bumped = self
                    .client
                    .execute(&self.bump, &[&id, &7_i64, &sub])
                    .await?;
                assert_eq!(bumped == 1, self.worked.rows.contains_key(&key));
                self.settle();
                Ok(())
            }
            5 => {
                self.intend(&[id], |rows| _ = rows.remove(&key));
                let gone = "DELETE FROM item WHERE id = $1 AND sub = $2";
                let gone = self.client.execute(gone, &[&id, &sub]).await?;
                assert_eq!(gone == 1, self.worked.rows.contains_key(&key));
                self.settle();
                Ok(())
            }
            6 => self.both().await,
            7 => self.read(id).await,
            _ => self.rekey(key).await,
        }
    }

    async fn put(&mut self, (id, sub): (i64, i32), length: usize) -> Done {
        let v = self.random.random_range(0..1_000_000);
        let body: String = (0..length)
            .map(|_| char::from(self.random.random_range(b'a'..=b'z')))
            .collect();
        self.intend(&[id], |rows| _ = rows.insert((id, sub), (v, length)));
        let put = "INSERT INTO item VALUES ($1, $2, $3, $4) ON CONFLICT (id, sub) DO UPDATE SET v = excluded.v, body = excluded.body";
        self.client.execute(put, &[&id, &sub, &v, &body]).await?;
        self.settle();
        Ok(())
    }

    /// A transaction over two ids, which may be on two shards.
    async fn both(&mut self) -> Done {
        let (one, other) = (self.key(), self.key());
        let stays = self.random.random_range(0..4) > 0;
        self.intend(&[one.0, other.0], |rows| {
            if stays {
                add(rows, one, 1);
                add(rows, other, 1);
            }
        });
        let transaction = self.client.transaction().await?;
        for (id, sub) in [one, other] {
            transaction
                .execute(&self.bump, &[&id, &1_i64, &sub])
                .await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match stays {
            true => transaction.commit().await?,
            false => transaction.rollback().await?,
        }
        self.settle();
        Ok(())
    }

    /// What was written must be seen.
    async fn read(&mut self, id: i64) -> Done {
        let rows = self
            .client
            .query("SELECT sub, v FROM item WHERE id = $1 ORDER BY sub", &[&id])
            .await?;
        let found: Vec<(i32, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let expected = self.worked.rows.range((id, i32::MIN)..=(id, i32::MAX));
        let expected: Vec<_> = expected.map(|((_, sub), (v, _))| (*sub, *v)).collect();
        assert_eq!(found, expected, "of id {id}");
        Ok(())
    }

    /// Another key of the same shard key.
    async fn rekey(&mut self, (id, sub): (i64, i32)) -> Done {
        let to = sub + 10 + self.random.random_range(0..3);
        if self.worked.rows.contains_key(&(id, to)) {
            return Ok(());
        }
        self.intend(&[id], |rows| {
            if let Some(row) = rows.remove(&(id, sub)) {
                rows.insert((id, to), row);
            }
        });
        let moved = "UPDATE item SET sub = $3 WHERE id = $1 AND sub = $2";
        self.client.execute(moved, &[&id, &sub, &to]).await?;
        self.settle();
        Ok(())
    }

    /// What the unit of work that follows makes of the rows of these ids.
    fn intend(&mut self, ids: &[i64], change: impl FnOnce(&mut Rows)) {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let rows =
            { ids.iter() }.flat_map(|id| self.worked.rows.range((*id, i32::MIN)..=(*id, i32::MAX)));
        let before: Rows = rows.map(|(key, row)| (*key, *row)).collect();
        let mut after = before.clone();
        change(&mut after);
        self.intent = Some(Intent { ids, before, after });
    }

    /// It was done.
    fn settle(&mut self) {
        if let Some(intent) = self.intent.take() {
            self.is_now(&intent.before, intent.after);
        }
    }

    fn is_now(&mut self, before: &Rows, after: Rows) {
        for key in before.keys() {
            self.worked.rows.remove(key);
        }
        self.worked.rows.extend(after);
    }

    /// What has become of a unit of work that ended with an error: all of it was done or nothing, and nothing unless the client was told that it is not known.
    async fn find_out(&mut self, error: &tokio_postgres::Error) {
        let (told, in_doubt) = match error.as_db_error() {
            Some(said) => (
                format!("{} {}", said.code().code(), said.message()),
                said.message().contains("is not known"),
            ),
            None => (format!("none {error}"), true),
        };
        let intent = self.intent.take();
        let ids = intent
            .as_ref()
            .map_or(Vec::new(), |intent| intent.ids.clone());
        let deadline = Instant::now() + AWAY;
        let found = loop {
            match self.look(&ids).await {
                Ok(found) => break found,
                Err(why) => assert!(Instant::now() < deadline, "after {told}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if let Some(Intent { before, after, .. }) = intent {
            assert!(
                found == before || in_doubt && found == after,
                "{told}\nbefore {before:?}\nafter {after:?}\nfound {found:?}"
            );
            self.is_now(&before, found);
        }
        *self.worked.borne.entry(told).or_default() += 1;
    }

    /// The rows of these ids, over a new connection. Waits for a transaction that is prepared.
    async fn look(&mut self, ids: &[i64]) -> Result<Rows, String> {
        let client = connect(self.port, "app", "app").await?;
        let mut found = Rows::new();
        for id in ids {
            let query = "SELECT sub, v, length(body) FROM item WHERE id = $1 FOR UPDATE";
            let rows = client.query(query, &[id]).await;
            for row in rows.map_err(|error| error.to_string())? {
                let length = usize::try_from(row.get::<_, i32>(2)).unwrap();
                found.insert((*id, row.get(0)), (row.get(1), length));
            }
        }
        self.bump = { client.prepare(BUMP).await }.map_err(|error| error.to_string())?;
        self.client = client;
        Ok(found)
    }
}

fn add(rows: &mut Rows, key: (i64, i32), more: i64) {
    if let Some(row) = rows.get_mut(&key) {
        row.0 += more;
    }
}
