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
use super::records::{self, Known, PREFIX, PlacesRecord};
use super::scope::Scope;
use super::shards::Shards;
use super::tables;
use super::tasks::Tasks;
use crate::catalog;
use crate::catalog::placed::Places;
use crate::config::Config;
use crate::resharding::job::{
    Action, Job, MapEpoch, MapFact, Observed, Phase, Stage, Trouble, Turn, events, step, to_json,
};
use crate::resharding::report::Happening;
use crate::store::{Expected, Lease, Store, StoreError, Transaction, Version, Watch};
use crate::topology::Topology;

/// Between two looks while nothing is waited for by anybody.
const PACE: Duration = Duration::from_secs(1);
/// Between two looks while clients wait: for proxies, who are heard when they say something; for shards, who are not.
const EAR: Duration = Duration::from_millis(20);
const HASTE: Duration = Duration::from_millis(2);
/// After the store did not answer.
const AGAIN: Duration = Duration::from_millis(200);
/// How often progress is saved.
const SAVING: Duration = Duration::from_secs(2);
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
            // Somebody else wrote, or what was known was old.
            Err(StoreError::Conflict(conflict)) => {
                tracing::debug!(plan = &*project.plan, ?conflict, "the plan is read again");
                drive.saved = None;
            }
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

/// A step, and those behind it that need nothing new to be seen: while clients wait, they are saved together.
struct Steps {
    /// As it was, and behind each step.
    jobs: Vec<Job>,
    /// Of the last step.
    actions: Vec<Action>,
    /// Those of all steps that are records in the control store.
    records: Vec<Action>,
}

impl Steps {
    fn from(job: &Job, mut seen: Observed, known: &Known) -> Steps {
        let (mut next, mut actions) = step(job, &seen);
        let mut records = actions.clone();
        let mut jobs = vec![job.clone()];
        while jobs.last() != Some(&next) {
            jobs.push(next.clone());
            let Phase::Turning(turn) = &next.phase else {
                break;
            };
            if let Stage::Committing { epoch } = turn.stage
                && MapEpoch(known.map.epoch + 1) == epoch
            {
                // The map changes in the transaction that saves what is behind it.
                let side = Some(turn.to);
                seen.map = Some(MapFact { epoch, side });
            }
            let (further, more) = step(&next, &seen);
            if further != next {
                records.extend_from_slice(&more);
                (next, actions) = (further, more);
            }
        }
        Steps {
            jobs,
            actions,
            records,
        }
    }

    fn last(&self) -> &Job {
        self.jobs.last().expect("it begins with one")
    }

    fn changed(&self) -> bool {
        self.jobs.len() > 1
    }

    /// A fence does no harm in a turn that is not known to have come so far: it stands until the turn is done or undone.
    fn may_act_unsaved(&self) -> bool {
        matches!(
            &self.last().phase,
            Phase::Turning(Turn {
                stage: Stage::Fencing | Stage::Applying { .. },
                ..
            })
        )
    }
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
    /// As of the last look at which tables there are; with the version of those that were given a place.
    configured: (Arc<Config>, u64),
    /// Why those are not the plan's.
    other: Option<Trouble>,
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
        let places = known.map_or_else(PlacesRecord::default, |known| known.places.clone());
        let scope = scope(project, job, &places.places()).map_err(lost)?;
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
            configured: (project.topology.config(), places.epoch),
            other: None,
            scope,
            tally,
            news,
            saved: None,
            told: None,
        })
    }

    /// One step, or some.
    async fn turn(&mut self) -> Result<Next, StoreError> {
        let project = self.project;
        // What the store last told is as it was at one moment, and what is written expects that; so it need not be the last.
        let listing = match &self.saved {
            None => Arc::new(project.store.list(PREFIX).await?),
            Some(_) => self.watch.current(),
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
        seen.troubles.extend(self.other_tables(&job, &known.places));
        let steps = Steps::from(&job, seen, known);
        let scope = Arc::clone(&self.scope);
        let act = Act {
            project,
            known,
            job: steps.last(),
            scope: &scope,
        };
        let under_lease = Transaction::new().under(&project.lease);
        let changed = steps.changed();
        let happened = self.happenings(&steps.jobs);
        let saving = match changed {
            true => Some(self.saving(steps.last(), &happened, version, under_lease.clone())),
            false => None,
        };
        let records = act.write(&steps.records, saving.clone().unwrap_or(under_lease));
        let saving = records.or(saving);
        let mut done = saving.is_some();
        let save = async {
            match saving {
                Some(saving) => project.store.commit(saving).await.map(Some),
                None => Ok(None),
            }
        };
        let run = act.run(&steps.actions, &mut self.view, &mut self.tasks);
        let written = if steps.may_act_unsaved() {
            let (written, obeyed) = tokio::join!(save, run);
            done |= obeyed;
            written?
        } else {
            let written = save.await?;
            done |= run.await;
            written
        };
        self.saved = Some(match written.filter(|_| changed) {
            Some(version) => (steps.last().clone(), version),
            None => (job, version),
        });
        match changed {
            true => self.note_events(happened),
            false => self.save_untold().await?,
        }
        self.tell(steps.last()).await;
        Ok(match (done, &steps.last().phase) {
            (true, _) => Next::AtOnce,
            (false, Phase::Turning(turn)) if turn.stage == Stage::Gating => Next::Wait(EAR),
            (false, Phase::Turning(_)) => Next::Wait(HASTE),
            (false, _) => Next::Wait(PACE),
        })
    }

    /// The distributions have other tables than when the plan began: some rows would stay behind.
    fn other_tables(&mut self, job: &Job, places: &PlacesRecord) -> Option<Trouble> {
        let config = self.project.topology.config();
        let is_ending = matches!(job.phase, Phase::Ending(_));
        if Arc::ptr_eq(&config, &self.configured.0) && places.epoch == self.configured.1 {
            // As long as it is so.
            return self.other.clone().filter(|_| !is_ending);
        }
        self.configured = (config, places.epoch);
        self.other = self.differing(job, places);
        self.other.clone().filter(|_| !is_ending)
    }

    fn differing(&self, job: &Job, places: &PlacesRecord) -> Option<Trouble> {
        let why = match scope(self.project, job, &places.places()) {
            Ok(scope) if scope.tables == self.scope.tables => return None,
            Ok(_) => "the distributions that are moved have other tables than the plan: take that back and RESUME, or CANCEL".to_owned(),
            Err(why) => format!("the configuration does not fit the plan: {why}"),
        };
        Some(Trouble::Other(why.into()))
    }

    /// The job, and what happened, in a transaction.
    fn saving(
        &self,
        next: &Job,
        happened: &[Happening],
        version: Version,
        transaction: Transaction,
    ) -> Transaction {
        let key = records::plan_key(&self.project.database, &self.project.plan);
        let transaction = transaction
            .expect(key.clone(), Expected::Version(version))
            .put(key, to_json(next));
        if happened.is_empty() {
            return transaction;
        }
        let all = kept(self.events.clone(), happened.to_vec());
        let key = records::events_key(&self.project.database, &self.project.plan);
        transaction.put(key, records::encode(&all))
    }

    /// What people have not been told, and what these jobs tell, each of the one before.
    fn happenings(&self, jobs: &[Job]) -> Vec<Happening> {
        let at = records::milliseconds();
        let steps = jobs.windows(2);
        let happened = steps.flat_map(|two| events(&two[0], &two[1]));
        let happened = self.untold.iter().cloned().chain(happened);
        let happenings = happened.map(|what| Happening {
            at,
            plan: self.project.plan.clone(),
            by: self.project.proxy.clone(),
            what,
        });
        happenings.collect()
    }

    /// What happened while the job stayed as it was.
    async fn save_untold(&mut self) -> Result<(), StoreError> {
        let Some((_, version)) = self.saved.as_ref().filter(|_| !self.untold.is_empty()) else {
            return Ok(());
        };
        let Project { database, plan, .. } = self.project;
        let happened = self.happenings(&[]);
        let all = kept(self.events.clone(), happened.clone());
        let saving = Transaction::new()
            .under(&self.project.lease)
            .expect(
                records::plan_key(database, plan),
                Expected::Version(*version),
            )
            .put(records::events_key(database, plan), records::encode(&all));
        self.project.store.commit(saving).await?;
        self.note_events(happened);
        Ok(())
    }

    /// They have been saved.
    fn note_events(&mut self, happened: Vec<Happening>) {
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
fn scope(project: &Project, job: &Job, places: &Places) -> Result<Arc<Scope>, String> {
    let configured = catalog::build(&project.topology.config(), &project.database);
    let mut configured = configured.map_err(|problems| {
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        said.join("; ")
    })?;
    configured.place(places);
    if let Some(((schema, table), misfit)) = configured.misfits.first_key_value() {
        return Err(format!(
            "table {schema}.{table} was given a place: {misfit}"
        ));
    }
    let scope = tables::scope(&job.plan, project.shards.names(), &configured);
    scope.map(Arc::new).map_err(|error| error.to_string())
}
