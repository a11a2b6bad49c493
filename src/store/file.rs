//! The store of one machine: a directory. It needs nothing else, and several processes may use it at once.
//!
//! * `state` is all keys and all leases, at one revision. A change writes all of it anew beside it, makes sure that it is on disk,
//!   and renames it, so that it has happened whole or not at all, whatever is killed when.
//! * Changes are made one at a time: under the lock of the directory (`flock`), which ends with its process. A process that is stopped
//!   in the middle of one keeps the others waiting, until they give up with an error; nothing can be done twice or lost.
//! * `lease.<token>` says when a lease ends, by a clock that all processes of the machine share. It is written with every renewal,
//!   without waiting for the disk: no lease outlives the machine's boot.
//!
//! What is there and cannot be understood is an error, and is never written over. Read `disk.rs` for the order of steps.

mod disk;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::disk::{Disk, Locked};
use self::state::{Record, State};
use super::lease::{Fence, Grant, Holder, Renewal, Tie, Token};
use super::moment::Moment;
use super::{Listing, Outcome, StoreError, Transaction, Version, Versioned};

/// How often a watch looks for what other processes changed; changes of this process are seen at once.
const LOOK: Duration = Duration::from_millis(50);

/// A store in a directory.
#[derive(Clone, Debug)]
pub(super) struct FileStore {
    disk: Arc<Disk>,
    timeout: Duration,
    /// Told after each change that is made here.
    changed: watch::Sender<()>,
}

impl FileStore {
    pub async fn open(path: &Path, timeout: Duration) -> Result<FileStore, StoreError> {
        let place = path.to_owned();
        let opening = move |wait| Disk::open(&place, wait);
        let disk = bounded(path, timeout, Outcome::NotDone, opening).await?;
        Ok(FileStore {
            disk: Arc::new(disk),
            timeout,
            changed: watch::Sender::new(()),
        })
    }

    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let state = self.read().await?;
        Ok(state.keys.get(key).cloned())
    }

    pub async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let state = self.read().await?;
        Ok(state
            .keys
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, there)| (key.clone(), there.clone()))
            .collect())
    }

    async fn read(&self) -> Result<Arc<State>, StoreError> {
        let disk = Arc::clone(&self.disk);
        let reading = move |_| disk.read();
        bounded(self.disk.path(), self.timeout, Outcome::NotDone, reading).await
    }

    pub async fn commit(&self, transaction: Transaction) -> Result<Version, StoreError> {
        let version = self
            .change(move |locked, state, boot| {
                for fence in &transaction.fences {
                    if !is_held(locked, &state, boot, fence)? {
                        return Err(StoreError::LeaseLost {
                            name: fence.name.clone(),
                            token: fence.token,
                        });
                    }
                }
                if let Some(conflict) = state.conflict(&transaction) {
                    return Err(StoreError::Conflict(conflict));
                }
                let next = state.after(transaction);
                let version = Version(next.revision);
                locked.write(next)?;
                Ok(version)
            })
            .await?;
        self.changed.send_replace(());
        Ok(version)
    }

    /// The grant, or who holds the lease.
    pub async fn take(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<Grant, Holder>, StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.change(move |locked, state, boot| {
            if let Some(holder) = held_by(locked, &state, boot, &name)? {
                return Ok(Err(holder));
            }
            let asked = Moment::now();
            let mut next = State::clone(&state);
            next.revision += 1;
            let token = Token(next.revision);
            let record = Record {
                token,
                holder,
                boot: boot.to_owned(),
            };
            next.leases.insert(name.clone(), record);
            // First, so that a lease of this boot always has one.
            locked.set_end(token, asked.after(ttl))?;
            locked.write(next.clone())?;
            locked.tidy(&next);
            Ok(Ok(Grant {
                name,
                token,
                ttl,
                asked,
                tie: Tie::File,
            }))
        })
        .await
    }

    pub async fn holder(&self, name: &str) -> Result<Option<Holder>, StoreError> {
        let name = name.to_owned();
        self.change(move |locked, state, boot| held_by(locked, &state, boot, &name))
            .await
    }

    pub async fn renew(&self, grant: &Grant) -> Result<Renewal, StoreError> {
        let (fence, ttl) = (grant.fence(), grant.ttl);
        self.change(move |locked, state, boot| {
            if !is_held(locked, &state, boot, &fence)? {
                return Ok(Renewal::Gone);
            }
            locked.set_end(fence.token, Moment::now().after(ttl))?;
            Ok(Renewal::Renewed)
        })
        .await
    }

    /// Whoever has it now keeps it.
    pub async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        let fence = grant.fence();
        self.change(move |locked, state, _| {
            let record = state.leases.get(&fence.name);
            if record.is_some_and(|record| record.token == fence.token) {
                let mut next = State::clone(&state);
                next.revision += 1;
                next.leases.remove(&fence.name);
                locked.write(next.clone())?;
                locked.tidy(&next);
            }
            Ok(())
        })
        .await
    }

    /// Does something while nobody else changes the state.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Locked<'_>, Arc<State>, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = Arc::clone(&self.disk);
        let changing = move |wait| {
            let locked = disk.lock(wait)?;
            change(&locked, locked.read()?, disk.boot())
        };
        bounded(self.disk.path(), self.timeout, Outcome::Unknown, changing).await
    }

    pub fn changes(&self) -> Changes {
        Changes {
            here: self.changed.subscribe(),
        }
    }
}

/// When to look again.
pub(super) struct Changes {
    here: watch::Receiver<()>,
}

impl Changes {
    /// Ends when something may have changed. Nothing is lost when it is not waited for to the end.
    pub async fn wait(&mut self) {
        let _ = tokio::time::timeout(LOOK, self.here.changed()).await;
    }
}

/// Runs what blocks beside the runtime, and gives up on it after the time-out. What it waits for itself may take most of that.
async fn bounded<T: Send + 'static>(
    path: &Path,
    timeout: Duration,
    outcome: Outcome,
    run: impl FnOnce(Duration) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let running = tokio::task::spawn_blocking(move || run(timeout * 4 / 5));
    let place = || path.display().to_string();
    match tokio::time::timeout(timeout, running).await {
        Ok(Ok(result)) => result,
        // It panicked, or the runtime ends.
        Ok(Err(error)) => Err(StoreError::Nonsense {
            place: place(),
            reason: error.to_string(),
            outcome,
        }),
        Err(_) => Err(StoreError::Silent {
            place: place(),
            after: timeout,
            outcome,
            hint: "see whether the disk is well; [store] timeout is how long it may take",
        }),
    }
}

fn held_by(
    locked: &Locked<'_>,
    state: &State,
    boot: &str,
    name: &str,
) -> Result<Option<Holder>, StoreError> {
    let Some(record) = state.leases.get(name) else {
        return Ok(None);
    };
    // All that ran before the machine's boot is gone.
    if record.boot != boot || locked.end_of(record.token)? <= Moment::now() {
        return Ok(None);
    }
    Ok(Some(Holder {
        name: record.holder.clone(),
        token: record.token,
    }))
}

fn is_held(
    locked: &Locked<'_>,
    state: &State,
    boot: &str,
    fence: &Fence,
) -> Result<bool, StoreError> {
    let holder = held_by(locked, state, boot, &fence.name)?;
    Ok(holder.is_some_and(|holder| holder.token == fence.token))
}
