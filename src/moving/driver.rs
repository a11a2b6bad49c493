//! Who drives a plan: reads the job, looks at the world, asks `step` what is next, saves that, and has it done; again and again.
//!
//! A driver holds the plan's lease. What it writes into the control store it writes under the lease, what it writes on shards with the lease's token or
//! the job's term, so that one that has lost the lease without knowing does no harm. It can be killed anywhere: the next one reads the job and goes on.
//!
//! `observe.rs` sees the world, `act.rs` runs actions; what takes long is a task of its own (`tasks.rs`), and is asked for again and again until it is seen done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::act::Act;
use super::brake::Brake;
use super::observe::View;
use super::progress::Tally;
use super::records::{self, PREFIX};
use super::scope::Scope;
use super::shards::Shards;
use super::tables::moved_tables;
use super::tasks::Tasks;
use crate::catalog;
use crate::config::Config;
use crate::resharding::job::{Job, Phase, Trouble, events, step, to_json};
use crate::resharding::report::Happening;
use crate::store::{Expected, Lease, Store, StoreError, Transaction, Version, Watch};
use crate::topology::Topology;

/// Between two looks while nothing is waited for by anybody.
const PACE: Duration = Duration::from_millis(300);
/// Between two looks while clients wait.
const HASTE: Duration = Duration::from_millis(2);
/// After the store did not answer.
const AGAIN: Duration = Duration::from_millis(200);
/// How often progress is saved.
const SAVING: Duration = Duration::from_secs(1);
/// Events that are kept.
const MOST_EVENTS: usize = 200;

/// What is driven, and with what.
pub struct Project {
    pub store: Store,
    /// Of [`records::driver_lease`].
    pub lease: Lease,
    pub shards: Shards,
    pub topology: Arc<Topology>,
    /// How long requests of clients take: the 99th percentile of the last second, in microseconds.
    pub latency: watch::Receiver<Option<u64>>,
    pub database: Box<str>,
    pub plan: Box<str>,
    /// This process, in the store.
    pub proxy: Box<str>,
}

/// Why a plan is not driven any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left to do.
    Over,
    /// Somebody else may drive it.
    Lost(String),
}

/// Drives a plan to its end, or until the lease is lost.
pub async fn drive(project: Project) -> Ended {
    let lost = async {
        project.lease.lost().await;
        Ended::Lost("the lease was lost".to_owned())
    };
    tokio::select! {
        ended = go(&project) => ended,
        ended = lost => ended,
    }
}

async fn go(project: &Project) -> Ended {
    let watch = loop {
        match project.store.watch(PREFIX).await {
            Ok(watch) => break watch,
            Err(error) => {
                tracing::warn!(%error, "the plan cannot be driven: the control store does not answer")
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    let mut drive = match Drive::begin(project, watch).await {
        Ok(drive) => drive,
        Err(ended) => return ended,
    };
    loop {
        match drive.turn().await {
            Ok(Next::Over) => return Ended::Over,
            Ok(Next::AtOnce) => {}
            Ok(Next::Wait(longest)) => drive.wait(longest).await,
            Err(error) => {
                tracing::warn!(plan = &*project.plan, %error, "the plan waits for the control store");
                drive.saved = None;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// When to look again.
enum Next {
    AtOnce,
    /// When something is heard, or after this time.
    Wait(Duration),
    Over,
}

struct Drive<'a> {
    project: &'a Project,
    watch: Watch,
    scope: Arc<Scope>,
    tally: Arc<Tally>,
    view: View,
    tasks: Tasks,
    /// Told by tasks when there is something to be seen.
    news: Arc<Notify>,
    /// The job as it was last written by us; `None`: it is not known whether that was done.
    saved: Option<(Job, Version)>,
    /// All that are kept, as they are stored.
    events: Vec<Happening>,
    /// What happened though the job is as it was, and is not saved yet.
    untold: Vec<Box<str>>,
    /// As of the last look at which tables there are.
    configured: Arc<Config>,
    /// When progress was last saved.
    told: Option<tokio::time::Instant>,
}

impl<'a> Drive<'a> {
    async fn begin(project: &'a Project, watch: Watch) -> Result<Drive<'a>, Ended> {
        let lost = |why: String| Ended::Lost(why);
        let listing = watch.current();
        let databases = records::read(&listing).map_err(|error| lost(error.to_string()))?;
        let known = databases.get(&project.database);
        let job = known.and_then(|known| known.plans.get(&project.plan));
        let job = job.ok_or_else(|| lost("there is no such plan any more".to_owned()))?;
        let scope = scope(project, job).map_err(lost)?;
        let events = saved_events(project).await;
        let events = events.map_err(|error| lost(error.to_string()))?;
        let news = Arc::new(Notify::new());
        let tally = Arc::new(Tally::default());
        Ok(Drive {
            project,
            watch,
            view: View::new(project.shards.clone()),
            tasks: Tasks::new(
                project.shards.clone(),
                Arc::clone(&scope),
                Arc::clone(&tally),
                project.lease.token(),
                Arc::clone(&news),
                Brake::new(project.latency.clone()),
            ),
            events,
            untold: Vec::new(),
            configured: project.topology.config(),
            scope,
            tally,
            news,
            saved: None,
            told: None,
        })
    }

    /// One step.
    async fn turn(&mut self) -> Result<Next, StoreError> {
        let project = self.project;
        let turning = |job: &Job| matches!(job.phase, Phase::Turning(_));
        // Where clients wait, the store is asked; else what it last told is good enough.
        let fresh = self.saved.as_ref().is_none_or(|(job, _)| turning(job));
        let listing = match fresh {
            true => Arc::new(project.store.list(PREFIX).await?),
            false => self.watch.current(),
        };
        let databases = match records::read(&listing) {
            Ok(databases) => databases,
            Err(error) => {
                tracing::error!(%error, "the plan cannot be driven");
                return Ok(Next::Wait(PACE));
            }
        };
        let Some(known) = databases.get(&project.database) else {
            return Ok(Next::Over);
        };
        let (Some(job), Some(version)) = (
            known.plans.get(&project.plan),
            known.versions.get(&project.plan),
        ) else {
            return Ok(Next::Over);
        };
        let own = self.saved.as_ref();
        if own.is_none_or(|(_, own)| own < version) {
            // Somebody's word, which has its event.
            self.events = saved_events(project).await?;
        }
        let (job, version) = match &self.saved {
            // What the watch shows may be older than what was written.
            Some((saved, own)) if own >= version => (saved.clone(), *own),
            _ => (job.clone(), *version),
        };
        if job.is_over() {
            self.tasks.stop_all();
            self.tell(&job).await;
            return Ok(Next::Over);
        }
        let view = &mut self.view;
        let mut seen = view
            .at(project, known, &job, &self.scope, &mut self.tasks)
            .await;
        self.untold.extend(self.view.take_news());
        seen.troubles.extend(self.other_tables(&job));
        let (next, actions) = step(&job, &seen);
        let changed = next != job;
        let scope = Arc::clone(&self.scope);
        let act = Act {
            project,
            known,
            job: &next,
            scope: &scope,
        };
        let under_lease = || Transaction::new().under(&project.lease);
        let mut done = changed;
        if changed {
            let saving = self.saving(&job, &next, version, under_lease());
            let saving = act.write(&actions, saving.clone()).unwrap_or(saving);
            let version = project.store.commit(saving).await?;
            self.note_events(&job, &next);
            self.saved = Some((next.clone(), version));
        } else {
            self.saved = Some((job, version));
            if let Some(writing) = act.write(&actions, under_lease()) {
                project.store.commit(writing).await?;
                done = true;
            }
            self.save_untold().await?;
        }
        done |= act.run(actions, &mut self.view, &mut self.tasks).await;
        self.tell(&next).await;
        Ok(match (done, turning(&next)) {
            (true, _) => Next::AtOnce,
            (false, true) => Next::Wait(HASTE),
            (false, false) => Next::Wait(PACE),
        })
    }

    /// The distributions have other tables than when the plan began: some rows would stay behind.
    fn other_tables(&mut self, job: &Job) -> Option<Trouble> {
        let config = self.project.topology.config();
        if Arc::ptr_eq(&config, &self.configured) {
            return None;
        }
        self.configured = config;
        let why = match scope(self.project, job) {
            Ok(scope) if scope.tables == self.scope.tables => return None,
            Ok(_) => "the configuration has other tables in the distributions that are moved: take that back and RESUME, or CANCEL".to_owned(),
            Err(why) => format!("the configuration does not fit the plan: {why}"),
        };
        Some(Trouble::Other(why.into()))
    }

    /// The job, and what happened, in a transaction.
    fn saving(
        &self,
        before: &Job,
        next: &Job,
        version: Version,
        transaction: Transaction,
    ) -> Transaction {
        let key = records::plan_key(&self.project.database, &self.project.plan);
        let transaction = transaction
            .expect(key.clone(), Expected::Version(version))
            .put(key, to_json(next));
        let happened = self.happenings(before, next);
        if happened.is_empty() {
            return transaction;
        }
        let all = kept(self.events.clone(), happened);
        let key = records::events_key(&self.project.database, &self.project.plan);
        transaction.put(key, records::encode(&all))
    }

    fn happenings(&self, before: &Job, next: &Job) -> Vec<Happening> {
        let happened = [self.untold.clone(), events(before, next)].concat();
        let at = records::milliseconds();
        let happenings = happened.into_iter().map(|what| Happening {
            at,
            plan: self.project.plan.clone(),
            by: self.project.proxy.clone(),
            what,
        });
        happenings.collect()
    }

    /// What happened while the job stayed as it was.
    async fn save_untold(&mut self) -> Result<(), StoreError> {
        let Some((job, version)) = self.saved.clone().filter(|_| !self.untold.is_empty()) else {
            return Ok(());
        };
        let Project { database, plan, .. } = self.project;
        let all = kept(self.events.clone(), self.happenings(&job, &job));
        let saving = Transaction::new()
            .under(&self.project.lease)
            .expect(
                records::plan_key(database, plan),
                Expected::Version(version),
            )
            .put(records::events_key(database, plan), records::encode(&all));
        self.project.store.commit(saving).await?;
        self.note_events(&job, &job);
        Ok(())
    }

    /// They have been saved.
    fn note_events(&mut self, before: &Job, next: &Job) {
        let happened = self.happenings(before, next);
        self.untold.clear();
        for happening in &happened {
            let what = &*happening.what;
            tracing::info!(
                plan = &*self.project.plan,
                database = &*self.project.database,
                "{what}"
            );
        }
        self.events = kept(std::mem::take(&mut self.events), happened);
    }

    /// Saves how far it has come, for people.
    async fn tell(&mut self, job: &Job) {
        let due = self.told.is_none_or(|told| told.elapsed() >= SAVING);
        if !(due || job.is_over()) || matches!(job.phase, Phase::Turning(_)) {
            return;
        }
        self.told = Some(tokio::time::Instant::now());
        let key = records::progress_key(&self.project.database, &self.project.plan);
        let mut progress = self.tally.progress(records::milliseconds());
        progress.obstacle = self.view.obstacle().or_else(|| self.tasks.obstacle());
        let saving = Transaction::new()
            .under(&self.project.lease)
            .put(key, records::encode(&progress));
        if let Err(error) = self.project.store.commit(saving).await {
            tracing::debug!(%error, "progress is not saved");
        }
    }

    /// Until something is heard.
    async fn wait(&mut self, longest: Duration) {
        tokio::select! {
            () = self.watch.news() => drop(self.watch.changed().await),
            () = self.news.notified() => {}
            () = tokio::time::sleep(longest) => {}
        }
    }
}

/// The last of all events.
fn kept(mut events: Vec<Happening>, more: Vec<Happening>) -> Vec<Happening> {
    events.extend(more);
    let surplus = events.len().saturating_sub(MOST_EVENTS);
    events.drain(..surplus);
    events
}

async fn saved_events(project: &Project) -> Result<Vec<Happening>, StoreError> {
    let key = records::events_key(&project.database, &project.plan);
    let saved = project.store.get(&key).await?;
    let events = saved.and_then(|saved| serde_json::from_slice(&saved.value).ok());
    Ok(events.unwrap_or_default())
}

/// What the plan moves, with the tables that are configured now.
fn scope(project: &Project, job: &Job) -> Result<Arc<Scope>, String> {
    let configured = catalog::build(&project.topology.config(), &project.database);
    let configured = configured.map_err(|problems| {
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        said.join("; ")
    })?;
    let shards = project.shards.names();
    let planned = job
        .plan
        .planned(&shards)
        .map_err(|error| error.to_string())?;
    let tables = moved_tables(&planned, &configured);
    let scope = Scope::new(&job.plan, shards, tables).map_err(|error| error.to_string())?;
    Ok(Arc::new(scope))
}
