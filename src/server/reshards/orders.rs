//! What operators ask for: statements about plans become records in the control store, and records become answers.

use std::collections::HashMap;

use super::Reshards;
use crate::catalog::{Catalog, Configured};
use crate::moving::estimate;
use crate::moving::records::{self, Known, PlacesRecord};
use crate::moving::shards::Shards;
use crate::moving::tables::{moved_tables, scope};
use crate::resharding::condition::quoted_name;
use crate::resharding::job::{Command, Job, MapEpoch, Pace, Phase, Plan, to_json};
use crate::resharding::language::{Statement, Wanted};
use crate::resharding::record::StoredMap;
use crate::resharding::report::{Answer, Happening, PlanStatus, Progress, Refused};
use crate::resharding::show::show;
use crate::resharding::wanted::{self, WantedError, by_changes, by_configuration};
use crate::session::shared::Snapshot;
use crate::store::{Expected, Store, StoreError, Transaction};

/// How often a record that others write meanwhile is tried.
const MOST_TRIES: u32 = 10;

/// Bytes in a second that estimates of time are made with.
const ESTIMATED_RATE: u64 = 50 << 20;

pub(super) type Databases = HashMap<Box<str>, Configured>;

impl Reshards {
    /// Does what one statement asks for. Once the plan's record is written, whoever drives it does the rest.
    pub async fn execute(
        &self,
        statement: Statement,
        snapshot: &Snapshot,
        configured: &Databases,
    ) -> Result<Answer, Refused> {
        let store = self.control_store.open().await.map_err(no_store)?;
        match statement {
            Statement::Plan {
                name,
                wanted,
                database,
            } => {
                let database = one_database(database.as_deref(), configured)?;
                let catalog = &snapshot.catalogs[database];
                self.plan(
                    &store,
                    &name,
                    &wanted,
                    database,
                    catalog,
                    &configured[database],
                )
                .await
            }
            Statement::Show(name) => self.show(&store, &name, configured).await,
            Statement::Status(name) => self.status(&store, name.as_deref()).await,
            Statement::Events(name) => self.events(&store, name.as_deref()).await,
            Statement::Command { name, command } => self.command(&store, &name, command).await,
        }
    }

    async fn plan(
        &self,
        store: &Store,
        name: &str,
        wanted: &Wanted,
        database: &str,
        catalog: &Catalog,
        configured: &Configured,
    ) -> Result<Answer, Refused> {
        let known = self.known(store).await?;
        let before = known.get(database);
        let old = before.and_then(|known| known.plans.get(name));
        if old.is_some_and(|job| !job.is_over()) || is_elsewhere(&known, database, name) {
            return Err(refused(
                "42710",
                format!("there is a plan {name} already"),
                "Choose another name, or CANCEL that one first.",
            ));
        }
        let in_force = catalog.distributions.iter();
        let in_force: Vec<_> = in_force
            .map(|one| wanted::Known {
                name: &one.name,
                map: &one.map,
            })
            .collect();
        let planned = match wanted {
            Wanted::Changes(changes) => by_changes(changes, &in_force, &catalog.shards),
            Wanted::Config { distribution } => {
                let written = configured.distributions.iter();
                let written: Vec<_> = written
                    .map(|one| wanted::Known {
                        name: &one.name,
                        map: &one.map,
                    })
                    .collect();
                by_configuration(&written, distribution.as_deref(), &in_force)
            }
        };
        let planned = planned.map_err(|error| unwanted(&error))?;
        let tables = moved_tables(&planned, configured);
        let quoted = tables.iter().map(|table| table.quoted().into()).collect();
        let number = records::milliseconds();
        let plan = Plan::new(name, number, database, &planned, quoted, &catalog.shards);
        if plan.routes.is_empty() {
            return Err(refused(
                "55000",
                "keys get a place that had none, and no row has to move".to_owned(),
                "Write that map into the configuration and RELOAD.",
            ));
        }
        let mut page = show(&planned, &catalog.shards);
        let epoch = before.map_or(0, |known| known.map.epoch);
        let job = Job::new(plan, MapEpoch(epoch));
        let expected = before.and_then(|known| known.versions.get(name).copied());
        let key = records::plan_key(database, name);
        // The plan has these tables: whoever gives another one a place meanwhile sees the plan.
        let tables = records::places_key(database);
        let places = before.map_or_else(PlacesRecord::default, |known| known.places.clone());
        let places_version = before.and_then(|known| known.places_version);
        let transaction = Transaction::new()
            .expect(tables.clone(), Expected::from(places_version))
            .put(tables, records::encode(&places))
            .expect(key.clone(), Expected::from(expected))
            .put(key, to_json(&job))
            .put(
                records::events_key(database, name),
                records::encode(&[self.happening(name, "planned")]),
            );
        store.commit(transaction).await.map_err(not_written)?;
        page.push_str(&self.estimated(&job, configured).await);
        Ok(Answer::Page(page))
    }

    fn happening(&self, plan: &str, what: &str) -> Happening {
        Happening {
            at: records::milliseconds(),
            plan: plan.into(),
            by: self.name().into(),
            what: what.into(),
        }
    }

    /// Rows, bytes and time, or why they are not known.
    async fn estimated(&self, job: &Job, configured: &Configured) -> String {
        let shards = Shards::new(std::sync::Arc::clone(&self.topology), &job.plan.database);
        let scope = match scope(&job.plan, shards.names(), configured) {
            Ok(scope) => scope,
            Err(error) => return format!("\nnothing can be estimated: {error}\n"),
        };
        match estimate::estimate(&shards, &scope).await {
            Ok(estimates) => format!("\n{}", estimate::page(&estimates, ESTIMATED_RATE)),
            Err(error) => format!("\nnothing can be estimated: {error}\n"),
        }
    }

    async fn show(
        &self,
        store: &Store,
        name: &str,
        configured: &Databases,
    ) -> Result<Answer, Refused> {
        let known = self.known(store).await?;
        let (database, job) = find(&known, name)?;
        let Some(configured) = configured.get(database) else {
            return Err(no_plan(name));
        };
        let mut page = match job.plan.planned(&configured.shards) {
            Ok(planned) => show(&planned, &configured.shards),
            Err(error) => format!("the plan does not fit the configuration: {error}\n"),
        };
        page.push_str(&format!("\nphase: {job}\n"));
        if let Some(note) = &job.note {
            page.push_str(&format!("note: {note}\n"));
        }
        match &job.check.problems {
            Some(problems) if !problems.is_empty() => {
                page.push_str("\nwhat stands against it:\n");
                for problem in problems {
                    page.push_str(&format!("  * {problem}\n"));
                }
            }
            _ => {}
        }
        if !job.check.notes.is_empty() {
            page.push_str("\ngood to know:\n");
            for note in &job.check.notes {
                page.push_str(&format!("  * {note}\n"));
            }
        }
        if !job.is_over() {
            page.push_str(&self.estimated(job, configured).await);
        }
        Ok(Answer::Page(page))
    }

    async fn status(&self, store: &Store, only: Option<&str>) -> Result<Answer, Refused> {
        let known = self.known(store).await?;
        if let Some(name) = only {
            find(&known, name)?;
        }
        let mut statuses = Vec::new();
        for (database, known) in &known {
            let wanted = |name: &str| only.is_none_or(|only| only == name);
            for (name, job) in known.plans.iter().filter(|(name, _)| wanted(name)) {
                statuses.push(self.status_of(store, database, name, job).await?);
            }
            for (name, error) in known.unreadable.iter().filter(|(name, _)| wanted(name)) {
                statuses.push(PlanStatus {
                    plan: name.clone(),
                    database: database.clone(),
                    phase: "unreadable".into(),
                    note: Some(error.as_str().into()),
                    ..PlanStatus::default()
                });
            }
        }
        Ok(Answer::Status(statuses))
    }

    async fn status_of(
        &self,
        store: &Store,
        database: &str,
        name: &str,
        job: &Job,
    ) -> Result<PlanStatus, Refused> {
        let saved = store.get(&records::progress_key(database, name)).await;
        let saved = saved.map_err(no_store)?;
        let saved = saved.and_then(|saved| serde_json::from_slice::<Progress>(&saved.value).ok());
        let driver = store.holder(&records::driver_lease(database, name)).await;
        Ok(PlanStatus {
            plan: name.into(),
            database: database.into(),
            phase: phase_of(job),
            pace: match &job.pace {
                Pace::Going => "going".into(),
                Pace::Paused => "paused".into(),
                Pace::Stopped(why) => format!("stopped: {why}").into(),
            },
            note: job.note.clone().or_else(|| {
                let saved = saved.as_ref().filter(|_| !job.is_over());
                saved.and_then(|saved| saved.obstacle.clone())
            }),
            problems: job.check.problems.clone().unwrap_or_default(),
            notes: job.check.notes.clone(),
            driver: driver
                .map_err(no_store)?
                .map(|holder| holder.name.into_boxed_str()),
            differences: job.verification.differences,
            progress: saved.unwrap_or_default(),
        })
    }

    async fn events(&self, store: &Store, only: Option<&str>) -> Result<Answer, Refused> {
        let known = self.known(store).await?;
        if let Some(name) = only {
            find(&known, name)?;
        }
        let mut events: Vec<Happening> = Vec::new();
        for (database, known) in &known {
            let wanted = |name: &str| only.is_none_or(|only| only == name);
            for name in known.plans.keys().filter(|name| wanted(name)) {
                let saved = store.get(&records::events_key(database, name)).await;
                let saved = saved.map_err(no_store)?;
                let saved = saved.and_then(|saved| serde_json::from_slice(&saved.value).ok());
                events.extend::<Vec<Happening>>(saved.unwrap_or_default());
            }
        }
        events.sort_by_key(|event| event.at);
        Ok(Answer::Events(events))
    }

    async fn command(
        &self,
        store: &Store,
        name: &str,
        command: Command,
    ) -> Result<Answer, Refused> {
        for _ in 0..MOST_TRIES {
            let known = self.known(store).await?;
            let (database, job) = find(&known, name)?;
            let known = &known[database];
            let next = job.command(command).map_err(|error| Refused {
                sqlstate: "55000",
                message: error.to_string(),
                hint: None,
            })?;
            let key = records::plan_key(database, name);
            let mut transaction = Transaction::new()
                .expect(key.clone(), Expected::Version(known.versions[name]))
                .put(key, to_json(&next));
            if matches!(command, Command::Start { .. }) {
                transaction = starting(transaction, database, job, known)?;
            }
            let key = records::events_key(database, name);
            let before = store.get(&key).await.map_err(no_store)?;
            let expected = before.as_ref().map(|before| before.version);
            let mut events: Vec<Happening> = before
                .and_then(|before| serde_json::from_slice(&before.value).ok())
                .unwrap_or_default();
            events.push(self.happening(name, &format!("{} was asked for", command.name())));
            transaction = transaction
                .expect(key.clone(), Expected::from(expected))
                .put(key, records::encode(&events));
            match store.commit(transaction).await {
                Ok(_) => {
                    return Ok(Answer::Taken {
                        plan: name.into(),
                        phase: phase_of(&next),
                    });
                }
                // The driver has written in between.
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(not_written(error)),
            }
        }
        Err(refused(
            "40001",
            "the plan changes all the time".to_owned(),
            "Try again.",
        ))
    }

    /// What the store holds now.
    pub(super) async fn known(&self, store: &Store) -> Result<records::Databases, Refused> {
        let listing = store.list(records::PREFIX).await.map_err(no_store)?;
        records::read(&listing).map_err(|error| Refused {
            sqlstate: "XX001",
            message: error.to_string(),
            hint: Some("A newer Trunkline may have written it.".to_owned()),
        })
    }
}

/// A plan starts: no other one moves the same distributions, and the maps that it begins with are written down, so that nobody changes them behind its back.
fn starting(
    transaction: Transaction,
    database: &str,
    job: &Job,
    known: &Known,
) -> Result<Transaction, Refused> {
    for other in known.plans.values() {
        let moves = |name: &str| {
            other
                .plan
                .maps
                .iter()
                .any(|change| *change.distribution == *name)
        };
        let started = !other.is_over() && !matches!(other.phase, Phase::Planned | Phase::Checked);
        let mut own = job.plan.maps.iter().map(|change| &change.distribution);
        if other.plan.name != job.plan.name
            && started
            && let Some(both) = own.find(|name| moves(name))
        {
            return Err(refused(
                "55006",
                format!("the plan {} moves rows of {both} already", other.plan.name),
                "FINISH or CANCEL it first.",
            ));
        }
    }
    let mut map = known.map.clone();
    for change in &job.plan.maps {
        let in_force: &StoredMap = map
            .distributions
            .entry(change.distribution.clone())
            .or_insert_with(|| change.before.clone());
        if *in_force != change.before {
            return Err(refused(
                "55000",
                format!(
                    "the map of {} is not the one that the plan begins with any more",
                    change.distribution
                ),
                "CANCEL the plan, and make it anew.",
            ));
        }
    }
    if map == known.map {
        return Ok(transaction);
    }
    let key = records::map_key(database);
    Ok(transaction
        .expect(key.clone(), Expected::from(known.map_version))
        .put(key, records::encode(&map)))
}

fn phase_of(job: &Job) -> Box<str> {
    match &job.phase {
        Phase::Turning(turn) => format!("{}: {}", job.phase.name(), turn.stage.name()).into(),
        phase => phase.name().into(),
    }
}

pub(super) fn one_database<'a>(
    name: Option<&str>,
    configured: &'a Databases,
) -> Result<&'a str, Refused> {
    let mut names: Vec<&str> = configured.keys().map(|name| &**name).collect();
    names.sort_unstable();
    match name {
        Some(name) => names
            .into_iter()
            .find(|known| *known == name)
            .ok_or_else(|| {
                refused(
                    "3D000",
                    format!("there is no database {name}"),
                    "SHOW DATABASES lists them.",
                )
            }),
        None => match names[..] {
            [one] => Ok(one),
            _ => Err(refused(
                "42601",
                format!("there are several databases: {}", names.join(", ")),
                "Say which: ... IN database.",
            )),
        },
    }
}

/// The plan of this name, in whatever database.
fn find<'a>(known: &'a records::Databases, name: &str) -> Result<(&'a str, &'a Job), Refused> {
    let mut each = known.iter();
    each.find_map(|(database, known)| Some((&**database, known.plans.get(name)?)))
        .ok_or_else(|| no_plan(name))
}

fn is_elsewhere(known: &records::Databases, database: &str, name: &str) -> bool {
    let mut others = known.iter().filter(|(other, _)| &***other != database);
    others.any(|(_, known)| known.plans.contains_key(name))
}

fn no_plan(name: &str) -> Refused {
    refused(
        "42704",
        format!("there is no plan {}", quoted_name(name)),
        "SHOW RESHARDS lists them.",
    )
}

pub(super) fn refused(sqlstate: &'static str, message: String, hint: &str) -> Refused {
    Refused {
        sqlstate,
        message,
        hint: Some(hint.to_owned()),
    }
}

pub(super) fn no_store(error: StoreError) -> Refused {
    refused(
        "58000",
        format!("the control store does not answer: {error}"),
        "Nothing was changed.",
    )
}

pub(super) fn not_written(error: StoreError) -> Refused {
    refused(
        "58000",
        format!("the control store: {error}"),
        "RESHARD STATUS tells whether it was done.",
    )
}

fn unwanted(error: &WantedError) -> Refused {
    Refused {
        sqlstate: "22023",
        message: error.to_string(),
        hint: None,
    }
}
