//! Plans that nobody drives are driven from here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Reshards;
use crate::moving::driver::{Ended, Project, drive};
use crate::moving::records;
use crate::moving::shards::Shards;
use crate::server::control::ask_all;
use crate::server::worker::Command;
use crate::session::latency::Counts;
use crate::store::{Claim, Store};

/// Between two looks for a plan that somebody has left.
const LOOK: Duration = Duration::from_millis(500);

impl Reshards {
    /// Drives what nobody else drives, for as long as the process runs.
    pub(super) async fn drive_all(&self, store: &Store) {
        let mut databases = self.databases.subscribe();
        // Dropped with this future: whoever is at work then stops.
        let mut driven: BTreeMap<(Box<str>, Box<str>), Driven> = BTreeMap::new();
        loop {
            driven.retain(|_, driven| !driven.0.is_finished());
            let known = Arc::clone(&databases.borrow_and_update());
            for (database, known) in known.iter() {
                let open = known.plans.iter().filter(|(_, job)| !job.is_over());
                for (plan, _) in open {
                    let key = (database.clone(), plan.clone());
                    if driven.contains_key(&key) {
                        continue;
                    }
                    let name = records::driver_lease(database, plan);
                    match store.lease(&name, self.name(), store.lease_ttl()).await {
                        Ok(Claim::Held(lease)) => {
                            let project = Project {
                                store: store.clone(),
                                lease,
                                shards: Shards::new(Arc::clone(&self.topology), database),
                                topology: Arc::clone(&self.topology),
                                latency: self.latency(database),
                                database: database.clone(),
                                plan: plan.clone(),
                                proxy: self.name().into(),
                            };
                            let task = tokio::spawn(async move {
                                let (database, plan) =
                                    (project.database.clone(), project.plan.clone());
                                match drive(project).await {
                                    Ended::Over => {}
                                    Ended::Lost(why) => {
                                        tracing::warn!(
                                            database = &*database,
                                            plan = &*plan,
                                            why,
                                            "a plan is not driven from here any more"
                                        );
                                    }
                                }
                            });
                            driven.insert(key, Driven(task));
                        }
                        Ok(Claim::Taken(_)) => {}
                        Err(error) => {
                            tracing::warn!(plan = &**plan, %error, "the plan cannot be driven")
                        }
                    }
                }
            }
            tokio::select! {
                _ = databases.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// How often clients' waits are looked at.
const LATENCY: Duration = Duration::from_secs(1);
/// Fewer requests in that time say nothing.
const FEWEST: u64 = 20;

impl Reshards {
    /// How long the requests of this process's clients take: the 99th percentile of the last second in microseconds, for as long as somebody looks.
    fn latency(&self, database: &str) -> watch::Receiver<Option<u64>> {
        let (found, seen) = watch::channel(None);
        let (workers, database) = (self.workers.clone(), Box::<str>::from(database));
        tokio::spawn(async move {
            let mut before = Counts::default();
            while !found.is_closed() {
                tokio::time::sleep(LATENCY).await;
                let counts = ask_all(&workers, |answer| {
                    Command::Latency(database.clone(), answer)
                });
                let mut now = Counts::default();
                for counts in counts.await {
                    now.add(&counts);
                }
                let last = now.since(&before);
                found.send_replace(last.percentile(99).filter(|_| last.total() >= FEWEST));
                before = now;
            }
        });
        seen
    }
}

/// A plan that a task of this process drives.
struct Driven(JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}
