//! A watch: what is below a prefix, kept up to date by a task.
//!
//! What the store tells of changes is only taken as a reason to look. What a watch shows is always a whole listing, so
//! nothing that was missed (a connection that broke, history that etcd has thrown away) leaves it behind for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::moment::Moment;
use super::{Listing, Place, Store, StoreError, etcd, file};

/// How long to wait after a look that failed.
const AGAIN: Duration = Duration::from_millis(250);

/// What is below a prefix, as it changes.
#[derive(Debug)]
pub struct Watch {
    listing: watch::Receiver<Arc<Listing>>,
    confirmed: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    pub(super) async fn start(store: Store, prefix: String) -> Result<Watch, StoreError> {
        let mut changes = match &store.place {
            Place::File(file) => Changes::File(file.changes()),
            Place::Etcd(etcd) => Changes::Etcd(etcd.changes(&prefix)),
        };
        let asked = Moment::now();
        let first = look(&store, &prefix, &mut changes).await?;
        let confirmed = Arc::new(AtomicU64::new(asked.0));
        let (sender, mut listing) = watch::channel(Arc::new(first));
        // The first one is news too.
        listing.mark_changed();
        let task = tokio::spawn(follow(
            store,
            prefix,
            changes,
            sender,
            Arc::clone(&confirmed),
        ));
        Ok(Watch {
            listing,
            confirmed,
            task,
        })
    }

    /// What is there, as far as is known now.
    pub fn current(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.borrow())
    }

    /// What is there, once it is not what was shown before; the first time at once. Nothing is lost when this is not waited for to the end.
    pub async fn changed(&mut self) -> Arc<Listing> {
        if self.listing.changed().await.is_err() {
            // The task is gone, with its runtime: nothing will ever change.
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.listing.borrow_and_update())
    }

    /// Ends when there is something that was not shown yet; it is still to be shown.
    pub async fn news(&self) {
        let mut listing = self.listing.clone();
        if listing.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// How long ago the store said that this is all. While the store answers, it is seconds; it grows while it does not.
    pub fn age(&self) -> Duration {
        Moment::now().since(Moment(self.confirmed.load(Ordering::Acquire)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What says when to look.
enum Changes {
    File(file::Changes),
    Etcd(etcd::Changes),
}

/// Lists the prefix.
async fn look(store: &Store, prefix: &str, changes: &mut Changes) -> Result<Listing, StoreError> {
    match (&store.place, changes) {
        (Place::Etcd(etcd), Changes::Etcd(changes)) => {
            let (listing, revision) = etcd.list_at(prefix).await?;
            changes.seen(revision);
            Ok(listing)
        }
        _ => store.list(prefix).await,
    }
}

async fn follow(
    store: Store,
    prefix: String,
    mut changes: Changes,
    listing: watch::Sender<Arc<Listing>>,
    confirmed: Arc<AtomicU64>,
) {
    let mut is_well = true;
    loop {
        match &mut changes {
            Changes::File(changes) => changes.wait().await,
            Changes::Etcd(changes) => changes.wait().await,
        };
        let asked = Moment::now();
        match look(&store, &prefix, &mut changes).await {
            Ok(found) => {
                if !is_well {
                    tracing::info!(prefix, "the store answers again");
                    is_well = true;
                }
                confirmed.store(asked.0, Ordering::Release);
                let is_new = **listing.borrow() != found;
                if is_new {
                    listing.send_replace(Arc::new(found));
                }
                if let Changes::Etcd(changes) = &mut changes {
                    changes.looked(is_new);
                }
            }
            Err(error) => {
                if is_well {
                    tracing::warn!(prefix, %error, "the store does not say what changes");
                    is_well = false;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
