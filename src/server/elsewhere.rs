//! Definitions that clients of other proxies have changed. Who changes some says so in the control store, and the others read them again.
//!
//! Until a proxy has heard of it, some milliseconds later, it plans by what it knows, as it does for a minute at most after a change that was made past all proxies.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::control_store::ControlStore;
use crate::store::{Listing, Store, StoreError, Transaction};

/// Behind it comes the database's name; the value is the proxy that has changed it last.
const PREFIX: &str = "definitions/";

/// Between two attempts to follow the store.
const AGAIN: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct Elsewhere {
    control_store: Arc<ControlStore>,
    /// Databases whose definitions are to be read again.
    heard: mpsc::UnboundedSender<Box<str>>,
}

impl Elsewhere {
    pub fn new(
        control_store: Arc<ControlStore>,
        heard: mpsc::UnboundedSender<Box<str>>,
    ) -> Arc<Elsewhere> {
        Arc::new(Elsewhere {
            control_store,
            heard,
        })
    }

    /// Follows the others. Ends at once when there are none, else never.
    pub async fn run(self: Arc<Self>) {
        if !self.control_store.is_shared() {
            return;
        }
        let store = self.control_store.used().await;
        while let Err(error) = self.follow(&store).await {
            tracing::warn!(%error, "definitions that other proxies change are not followed");
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow(&self, store: &Store) -> Result<(), StoreError> {
        let mut watch = store.watch(PREFIX).await?;
        // What was changed while nobody followed is news as well.
        let mut known = Arc::<Listing>::default();
        loop {
            let listing = watch.changed().await;
            for (key, told) in &*listing {
                let is_new = known
                    .get(key)
                    .is_none_or(|before| before.version != told.version);
                let is_own = told.value == self.control_store.name().as_bytes();
                if let Some(database) = key.strip_prefix(PREFIX)
                    && is_new
                    && !is_own
                {
                    // Nobody receives it only while the process ends.
                    let _ = self.heard.send(Box::from(database));
                }
            }
            known = listing;
        }
    }

    /// A client has changed definitions here: the others are told.
    pub fn tell(self: &Arc<Self>, database: &str) {
        if !self.control_store.is_shared() {
            return;
        }
        let (this, key) = (Arc::clone(self), format!("{PREFIX}{database}"));
        tokio::spawn(async move {
            let told = async {
                let store = this.control_store.open().await?;
                store
                    .commit(Transaction::new().put(key, this.control_store.name()))
                    .await
            };
            if let Err(error) = told.await {
                tracing::warn!(%error, "other proxies are not told of changed definitions, and find them within a minute");
            }
        });
    }
}
