//! Which shards can take part in commits of several: asked of the servers beside everything else, one database at a time each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::{Config, CrossShardCommit, Database, Node};
use crate::execution::commit::install::{self, Mode};
use crate::execution::commit::readiness::Readiness;
use crate::topology::Topology;

/// How long the start of the proxy waits for the servers' answers.
const PATIENCE: Duration = Duration::from_secs(3);

/// By the database's name and the shard's place.
pub type Known = HashMap<Box<str>, Vec<Readiness>>;

/// A shard's name and nodes: when they are others, so is the shard.
type Shard = (String, Vec<Node>);

/// The answers, and the asking.
#[derive(Default)]
pub struct Survey {
    known: Arc<Known>,
    asking: JoinSet<(Box<str>, Vec<Readiness>)>,
    asked: HashSet<Box<str>>,
    /// Whose places the answers speak of.
    shards: Vec<Shard>,
}

impl Survey {
    /// As of the last answers.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    /// Asks about every database that commits on several shards and of which that is wanted, given what is known of its shards.
    pub fn ask(&mut self, topology: &Arc<Topology>, wanted: impl Fn(&[Readiness]) -> bool) {
        let config = topology.config();
        self.follow(&config);
        for database in config
            .databases
            .iter()
            .filter(|one| concerned(&config, one))
        {
            let name: Box<str> = Box::from(&*database.name);
            let known = self.known.get(&name).map_or(&[][..], |known| known);
            if wanted(known) && self.asked.insert(name.clone()) {
                let topology = Arc::clone(topology);
                let mode = match config.transactions.install {
                    true => Mode::Install { keeper: None },
                    false => Mode::Look,
                };
                self.asking.spawn(async move {
                    let found = install::readiness_of_all(&topology, &name, &mode).await;
                    (name, found)
                });
            }
        }
    }

    /// Waits for the next answer. Gives whether anything has changed. Never returns while nothing is asked.
    pub async fn answer(&mut self) -> bool {
        loop {
            match self.asking.join_next().await {
                Some(Ok((database, found))) => {
                    self.asked.remove(&database);
                    return self.take(database, found);
                }
                // It panicked; which one is not told. Asking once more does no harm.
                Some(Err(_)) => self.asked.clear(),
                None => std::future::pending().await,
            }
        }
    }

    /// All answers that come in a bounded time.
    pub async fn first(&mut self) {
        let answers = async {
            while !self.asking.is_empty() {
                self.answer().await;
            }
        };
        // Who is late is heard later.
        let _ = tokio::time::timeout(PATIENCE, answers).await;
    }

    /// Forgets what was said of other shards, and databases that are no longer concerned.
    pub fn follow(&mut self, config: &Config) {
        let shard = |shard: &crate::config::Shard| (shard.name.clone(), shard.nodes.clone());
        let shards: Vec<Shard> = config.shards.iter().map(shard).collect();
        if self.shards != shards {
            *self = Survey {
                shards,
                ..Survey::default()
            };
            return;
        }
        let concerned = |name: &str| {
            let database = config.databases.iter().find(|one| one.name == *name);
            database.is_some_and(|database| concerned(config, database))
        };
        if self.known.keys().any(|name| !concerned(name)) {
            let mut known = Known::clone(&self.known);
            known.retain(|name, _| concerned(name));
            self.known = Arc::new(known);
        }
    }

    fn take(&mut self, database: Box<str>, found: Vec<Readiness>) -> bool {
        let before = self.known.get(&database);
        let now: Vec<Readiness> = found
            .into_iter()
            .enumerate()
            .map(|(shard, now)| judged(before.and_then(|before| before.get(shard)), now))
            .collect();
        if before == Some(&now) {
            return false;
        }
        for (place, now) in now.iter().enumerate() {
            let news = before.and_then(|before| before.get(place)) != Some(now);
            if news && *now != Readiness::Ready {
                let shard = self.shards.get(place).map_or("?", |(name, _)| name);
                tracing::warn!(%database, shard, "a shard cannot take part in commits of several: {now}");
            }
        }
        let mut known = Known::clone(&self.known);
        known.insert(database, now);
        self.known = Arc::new(known);
        true
    }
}

/// A shard that was ready and cannot be asked now is taken for what it was: a commit on it finds out by itself.
fn judged(before: Option<&Readiness>, now: Readiness) -> Readiness {
    match (before, now) {
        (Some(Readiness::Ready), Readiness::Unknown(_)) => Readiness::Ready,
        (_, now) => now,
    }
}

/// One shard commits as it always did, and nothing of ours is put on its server.
fn concerned(config: &Config, database: &Database) -> bool {
    config.shards.len() > 1 && config.cross_shard_commit(database) == CrossShardCommit::Atomic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_other_shards_is_forgotten() {
        let config = |shards: &str| {
            let text = format!(
                "users = [{{ name = \"u\", auth = \"trust\" }}]\ndatabases = [{{ name = \"app\", default_shard = \"a\" }}]\n{shards}"
            );
            crate::config::parse(&text, "test.toml", &|_| None).expect("sound")
        };
        let shard = |name: &str| {
            format!("[[shards]]\nname = \"{name}\"\nnodes = [{{ host = \"{name}\" }}]\n")
        };
        let (a, b) = (shard("a"), shard("b"));
        let mut survey = Survey::default();
        survey.follow(&config(&format!("{a}{b}")));
        survey.take(Box::from("app"), vec![Readiness::Ready; 2]);
        survey.follow(&config(&format!("{a}{b}")));
        assert_eq!(survey.known().len(), 1);
        survey.follow(&config(&format!("{b}{a}")));
        assert_eq!(survey.known().len(), 0);
        survey.take(Box::from("app"), vec![Readiness::Ready; 2]);
        survey.follow(&config(&a));
        assert_eq!(survey.known().len(), 0);
    }

    #[test]
    fn a_shard_that_goes_down_stays_as_ready_as_it_was() {
        let mut survey = Survey::default();
        let mut take = |found: &[Readiness]| {
            let changed = survey.take(Box::from("app"), found.to_vec());
            (changed, survey.known()["app"].clone())
        };
        let down = Readiness::Unknown("down".to_owned());
        let (changed, known) = take(&[Readiness::Ready, down.clone()]);
        assert!(changed);
        assert_eq!(known, [Readiness::Ready, down.clone()]);
        let (changed, _) = take(&[down.clone(), down]);
        assert!(!changed);
        let (changed, known) = take(&[Readiness::NoPreparedTransactions, Readiness::Ready]);
        assert!(changed);
        assert_eq!(known, [Readiness::NoPreparedTransactions, Readiness::Ready]);
    }
}
