//! What takes long is a task, begun when it is asked for first, and dropped when it is not asked for any more. Every one of them can be dropped anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::brake::Brake;
use super::check::{Problem, examine};
use super::claim::{Claim, FlowError};
use super::copy::{CopyWay, copy};
use super::follow::{Follow, Followed, follow};
use super::ledger::OnShard;
use super::objects;
use super::pace::Pace;
use super::progress::Tally;
use super::schema::{self, Rest};
use super::scope::Scope;
use super::seam::Seam;
use super::shards::{Connection, ShardError, Shards};
use super::verify::{self, Run, Verify, VerifyError};
use crate::resharding::job::{
    CheckFact, MovingKeys, Objects, Route, ShardName, Side, Term, Throttle,
};
use crate::store::Token;

/// After a task has failed it is not begun again for so long, and for twice as long each time after, up to the longest.
const AGAIN: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(8);
/// Chunks of one way that are copied at a time.
const COPIERS: usize = 2;

/// What is to be done, and when it is another task than before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Check {
        round: u32,
    },
    Open {
        shard: ShardName,
        term: Term,
    },
    MakeSlot {
        shard: ShardName,
        name: Box<str>,
    },
    Copy {
        route: Route,
    },
    BuildIndexes {
        shard: ShardName,
    },
    Follow {
        source: ShardName,
        slot: Box<str>,
        publication: Box<str>,
        targets: BTreeSet<ShardName>,
    },
    Verify {
        stream: Route,
        owner: Side,
        round: u32,
    },
    DropSlot {
        shard: ShardName,
        name: Box<str>,
    },
    RemoveRows {
        shard: ShardName,
        keys: MovingKeys,
    },
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Check { .. } => f.write_str("CHECK"),
            Work::Open { shard, .. } => write!(f, "making tables and guards on {shard}"),
            Work::MakeSlot { shard, .. } => write!(f, "making the slot on {shard}"),
            Work::Copy { route } => write!(f, "copying {route}"),
            Work::BuildIndexes { shard } => write!(f, "building indexes on {shard}"),
            Work::Follow { source, .. } => write!(f, "following {source}"),
            Work::Verify { stream, .. } => write!(f, "comparing {stream}"),
            Work::DropSlot { shard, .. } => write!(f, "dropping the slot on {shard}"),
            Work::RemoveRows { shard, .. } => write!(f, "removing rows on {shard}"),
        }
    }
}

/// Why a task ended before its work was done.
enum Failed {
    /// It is begun again.
    Again(String),
    /// People must look at it.
    Trouble(Box<str>),
}

/// From the beginning of a task on.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pause {
    /// One that went well for long begins as if it never had.
    fn after(before: Option<Pause>, now: Instant) -> Pause {
        let length = match before {
            Some(before) if now < before.until + LONGEST => (before.length * 2).min(LONGEST),
            _ => AGAIN,
        };
        Pause {
            until: now + length,
            length,
        }
    }
}

/// What tasks have to say.
#[derive(Debug, Default)]
struct Heard {
    check: Option<CheckFact>,
    troubles: Vec<Box<str>>,
    /// Why work that is wanted did not come to its end, the last time.
    obstacles: BTreeMap<Work, Box<str>>,
}

/// The tasks of one driver.
pub struct Tasks {
    shards: Shards,
    scope: Arc<Scope>,
    tally: Arc<Tally>,
    token: Token,
    news: Arc<Notify>,
    brake: Brake,
    /// Bytes in a second that are read from each source, or removed from it; as the brake has said last.
    rate: Option<u64>,
    running: BTreeMap<Work, JoinHandle<()>>,
    /// When what fails may be begun again.
    resting: BTreeMap<Work, Pause>,
    heard: Arc<Mutex<Heard>>,
    seams: BTreeMap<Route, Arc<Seam>>,
    paces: BTreeMap<ShardName, Arc<Pace>>,
    followed: BTreeMap<ShardName, watch::Receiver<Followed>>,
}

impl Tasks {
    pub fn new(
        shards: Shards,
        scope: Arc<Scope>,
        tally: Arc<Tally>,
        token: Token,
        news: Arc<Notify>,
        brake: Brake,
    ) -> Tasks {
        Tasks {
            shards,
            scope,
            tally,
            token,
            news,
            brake,
            rate: None,
            running: BTreeMap::new(),
            resting: BTreeMap::new(),
            heard: Arc::default(),
            seams: BTreeMap::new(),
            paces: BTreeMap::new(),
            followed: BTreeMap::new(),
        }
    }

    /// Begins what is wanted and does not run, and drops what runs and is not wanted.
    pub fn want(&mut self, wanted: &BTreeSet<Work>, throttle: Throttle) {
        self.rate = self.brake.rate(throttle, Instant::now());
        for pace in self.paces.values() {
            pace.set_rate(self.rate);
        }
        self.running.retain(|work, task| {
            let kept = wanted.contains(work) && !task.is_finished();
            if !kept {
                task.abort();
            }
            kept
        });
        self.heard()
            .obstacles
            .retain(|work, _| wanted.contains(work));
        let now = Instant::now();
        self.resting.retain(|work, _| wanted.contains(work));
        for work in wanted {
            let rest = self.resting.get(work).copied();
            if !self.running.contains_key(work) && rest.is_none_or(|rest| rest.until <= now) {
                // Its next beginning, when it ends before it is seen done.
                self.resting.insert(work.clone(), Pause::after(rest, now));
                let task = self.begin(work.clone());
                self.running.insert(work.clone(), task);
            }
        }
    }

    pub fn stop_all(&mut self) {
        self.want(&BTreeSet::new(), Throttle::default());
    }

    /// What the last check has found.
    pub fn check(&self) -> Option<CheckFact> {
        self.heard().check.clone()
    }

    /// What stops the plan; told once.
    pub fn take_troubles(&self) -> Vec<Box<str>> {
        std::mem::take(&mut self.heard().troubles)
    }

    /// Whether a stream is near its end. Of one that is not followed now nothing is known.
    pub fn is_caught_up(&self, stream: &Route) -> bool {
        let follows =
            |work: &Work| matches!(work, Work::Follow { source, .. } if *source == stream.from);
        let mut running = self.running.iter();
        running.any(|(work, task)| follows(work) && !task.is_finished())
            && self.followed.get(&stream.from).is_some_and(|followed| {
                let reached = followed.borrow();
                let target = reached.targets.get(&stream.to);
                target.is_some_and(|target| target.caught_up)
            })
    }

    /// Bytes of log that a shard keeps for its slot.
    pub fn note_retained(&self, source: &ShardName, retained: u64) {
        for stream in self.seams.keys().filter(|stream| stream.from == *source) {
            self.tally
                .stream(stream, |stream| stream.retained = Some(retained));
        }
    }

    /// Why something was begun again that has not been done since; for people.
    pub fn obstacle(&self) -> Option<Box<str>> {
        self.heard().obstacles.values().next().cloned()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }

    fn seam(&mut self, route: Route) -> Arc<Seam> {
        Arc::clone(self.seams.entry(route).or_default())
    }

    fn pace(&mut self, source: &ShardName) -> Arc<Pace> {
        let pace = self.paces.entry(source.clone());
        Arc::clone(pace.or_insert_with(|| Arc::new(Pace::new(self.rate))))
    }

    fn begin(&mut self, work: Work) -> JoinHandle<()> {
        let (shards, scope, tally) = (
            self.shards.clone(),
            Arc::clone(&self.scope),
            Arc::clone(&self.tally),
        );
        let (heard, news) = (Arc::clone(&self.heard), Arc::clone(&self.news));
        let (name, undone) = (work.to_string(), work.clone());
        let token = self.token;
        let doing: std::pin::Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>> = match work {
            Work::Check { round } => {
                let heard = Arc::clone(&heard);
                Box::pin(async move {
                    let found = examine(&shards, &scope).await?;
                    let said = |list: &[Problem]| {
                        let each = list.iter().map(|problem| problem.to_string().into());
                        each.collect()
                    };
                    let fact = CheckFact {
                        round,
                        problems: said(&found.problems),
                        notes: said(&found.notes),
                    };
                    lock(&heard).check = Some(fact);
                    Ok(())
                })
            }
            Work::Open { shard, term } => Box::pin(async move {
                schema::make_missing_on(&shards, &scope, &shard).await?;
                schema::bring_references_on(&shards, &scope, &shard).await?;
                let place = Place::open(&shards, scope, shard).await?;
                Ok(place.ledger().open(term).await?)
            }),
            Work::MakeSlot { shard, name } => Box::pin(async move {
                begin_anew(&shards, &scope, &shard, token).await?;
                let mut replication = shards.open_replication(&shard).await?;
                let place = Place::open(&shards, scope, shard).await?;
                Ok(place.ledger().make_slot(&mut replication, &name).await?)
            }),
            Work::DropSlot { shard, name } => Box::pin(async move {
                let client = shards.open(&shard).await?;
                Ok(objects::drop_slot(&client, &name).await?)
            }),
            Work::Copy { route } => {
                let way = CopyWay {
                    scope,
                    token,
                    workers: COPIERS,
                    seam: self.seam(route.clone()),
                    pace: self.pace(&route.from),
                    route,
                };
                Box::pin(async move { Ok(copy(way, shards, tally).await?) })
            }
            Work::BuildIndexes { shard } => Box::pin(async move {
                match schema::build_rest_on(&shards, &scope, &shard).await? {
                    Rest::Built => {}
                    Rest::Later(why) => return Err(Failed::Again(why.into())),
                }
                let place = Place::open(&shards, scope, shard).await?;
                Ok(place.ledger().set_indexed().await?)
            }),
            Work::Follow {
                source,
                slot,
                publication,
                targets,
            } => {
                let (seen, mut followed) = watch::channel(Followed::default());
                self.followed.insert(source.clone(), followed.clone());
                let targets = targets.into_iter().map(|to| {
                    let route = Route {
                        from: source.clone(),
                        to: to.clone(),
                    };
                    (to, self.seam(route))
                });
                let task = Follow {
                    targets: targets.collect(),
                    scope,
                    source,
                    slot,
                    publication,
                    token,
                };
                let news = Arc::clone(&news);
                Box::pin(async move {
                    let tell = async {
                        let mut told = false;
                        // The sender's end is that of the work.
                        while followed.changed().await.is_ok() {
                            let caught_up = followed.borrow_and_update().is_caught_up();
                            if std::mem::replace(&mut told, caught_up) != caught_up {
                                news.notify_one();
                            }
                        }
                    };
                    let (ended, ()) = tokio::join!(follow(task, shards, tally, seen), tell);
                    Ok(ended?)
                })
            }
            Work::Verify {
                stream,
                owner,
                round,
            } => Box::pin(async move {
                let verifying = stream.to_string();
                let (_going, run) = watch::channel(Run::Going);
                let task = Verify {
                    shards,
                    scope,
                    stream,
                    owner,
                    round,
                    token: token.0.cast_signed(),
                    tally,
                    run,
                    limits: verify::Limits::default(),
                };
                let compared = verify::verify(task).await?;
                for sample in compared.samples {
                    tracing::warn!(work = verifying, %sample, "a row differs");
                }
                Ok(())
            }),
            Work::RemoveRows { shard, keys } => {
                let pace = self.pace(&shard);
                Box::pin(async move {
                    let place = Place::open(&shards, scope, shard).await?;
                    Ok(place.ledger().remove(keys, &pace, &tally).await?)
                })
            }
        };
        tokio::spawn(async move {
            match doing.await {
                Ok(()) => {}
                Err(Failed::Again(why)) => {
                    tracing::warn!(work = name, why, "is tried again");
                    let why = format!("{name} is tried again: {why}");
                    lock(&heard).obstacles.insert(undone, why.into());
                }
                Err(Failed::Trouble(why)) => lock(&heard).troubles.push(why),
            }
            news.notify_one();
        })
    }
}

/// The plan on a shard, over a connection of its own.
struct Place {
    client: Connection,
    scope: Arc<Scope>,
    shard: ShardName,
}

impl Place {
    async fn open(
        shards: &Shards,
        scope: Arc<Scope>,
        shard: ShardName,
    ) -> Result<Place, ShardError> {
        let client = shards.open(&shard).await?;
        Ok(Place {
            client,
            scope,
            shard,
        })
    }

    fn ledger(&self) -> OnShard<'_> {
        OnShard {
            client: &self.client,
            scope: &self.scope,
            shard: &self.shard,
        }
    }
}

/// A slot is about to be made. What was applied from one that was there before was of another log, as when a replica has become the primary.
async fn begin_anew(
    shards: &Shards,
    scope: &Scope,
    source: &ShardName,
    token: Token,
) -> Result<(), ShardError> {
    for route in scope.routes() {
        let receiver = match (route.from == *source, route.to == *source) {
            (true, _) => route.to,
            (_, true) => route.from,
            (false, false) => continue,
        };
        let client = shards.open(&receiver).await?;
        Claim::new(scope.number, source, &receiver, token)
            .begin_anew(&client)
            .await?;
    }
    Ok(())
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard
        .lock()
        .expect("nothing panics while it holds the lock")
}

impl From<ShardError> for Failed {
    fn from(error: ShardError) -> Failed {
        Failed::Again(error.to_string())
    }
}

impl From<FlowError> for Failed {
    fn from(error: FlowError) -> Failed {
        match error {
            FlowError::Trouble(why) => Failed::Trouble(why),
            other => Failed::Again(other.to_string()),
        }
    }
}

impl From<VerifyError> for Failed {
    fn from(error: VerifyError) -> Failed {
        match error {
            VerifyError::Shard { .. }
            | VerifyError::LeaseLost
            | VerifyError::Lagging { .. }
            | VerifyError::Undecided { .. } => Failed::Again(error.to_string()),
            other => Failed::Trouble(other.to_string().into()),
        }
    }
}

impl From<schema::SchemaError> for Failed {
    fn from(error: schema::SchemaError) -> Failed {
        match error {
            schema::SchemaError::Shard(error) => error.into(),
            schema::SchemaError::Later(why) => Failed::Again(why.into()),
            other => Failed::Trouble(other.to_string().into()),
        }
    }
}

/// What is made on a shard for following it.
pub fn follow_work(source: &ShardName, objects: &Objects, targets: BTreeSet<ShardName>) -> Work {
    Work::Follow {
        source: source.clone(),
        slot: objects.slot.clone(),
        publication: objects.publication.clone(),
        targets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_begun_again_later_each_time() {
        let begun = Instant::now();
        let mut rest = Pause::after(None, begun);
        assert_eq!(rest.until, begun + AGAIN);
        for _ in 0..10 {
            rest = Pause::after(Some(rest), rest.until);
        }
        assert_eq!(rest.length, LONGEST);
        let worked = rest.until + LONGEST;
        assert_eq!(Pause::after(Some(rest), worked).length, AGAIN);
    }
}
