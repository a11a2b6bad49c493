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

/// What one client, or all of them, have done.
#[derive(Default)]
pub struct Worked {
    pub rows: Rows,
    pub errors: Vec<String>,
    pub waits: Vec<(Instant, Duration)>,
}

impl Load {
    /// `clients` over these proxies.
    pub fn start(ports: &[u16], clients: i64) -> Load {
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
    client: Client,
    bump: Statement,
    place: i64,
    random: SmallRng,
    worked: Worked,
}

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

impl Writer {
    async fn new(port: u16, place: i64) -> Writer {
        wait_for_definitions(port).await;
        let client = connect(port, "app", "app").await.unwrap();
        let bump = client
            .prepare("UPDATE item SET v = v + $2 WHERE id = $1 AND sub = $3")
            .await
            .unwrap();
        Writer {
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
                let bumped = self
                    .client
                    .execute(&self.bump, &[&id, &7_i64, &sub])
                    .await?;
                assert_eq!(bumped == 1, self.worked.rows.contains_key(&key));
                if let Some(row) = self.worked.rows.get_mut(&key) {
                    row.0 += 7;
                }
                Ok(())
            }
            5 => {
                let gone = "DELETE FROM item WHERE id = $1 AND sub = $2";
                let gone = self.client.execute(gone, &[&id, &sub]).await?;
                assert_eq!(gone == 1, self.worked.rows.remove(&key).is_some());
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
        let put = "INSERT INTO item VALUES ($1, $2, $3, $4) ON CONFLICT (id, sub) DO UPDATE SET v = excluded.v, body = excluded.body";
        self.client.execute(put, &[&id, &sub, &v, &body]).await?;
        self.worked.rows.insert((id, sub), (v, length));
        Ok(())
    }

    /// A transaction over two ids, which may be on two shards.
    async fn both(&mut self) -> Done {
        let (one, other) = (self.key(), self.key());
        let transaction = self.client.transaction().await?;
        for (id, sub) in [one, other] {
            transaction
                .execute(&self.bump, &[&id, &1_i64, &sub])
                .await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.random.random_range(0..4) == 0 {
            return transaction.rollback().await;
        }
        transaction.commit().await?;
        for key in [one, other] {
            if let Some(row) = self.worked.rows.get_mut(&key) {
                row.0 += 1;
            }
        }
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
        let moved = "UPDATE item SET sub = $3 WHERE id = $1 AND sub = $2";
        self.client.execute(moved, &[&id, &sub, &to]).await?;
        if let Some(row) = self.worked.rows.remove(&(id, sub)) {
            self.worked.rows.insert((id, to), row);
        }
        Ok(())
    }
}
