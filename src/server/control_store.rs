//! The control store of this process, opened when it is needed first, and this process's name in it.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{OnceCell, watch};

use crate::config::{self, Config, StorePlace, StoreUse};
use crate::store::{Store, StoreError};

/// Between two attempts to open a store that cannot be.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct ControlStore {
    configured: config::Store,
    store_use: StoreUse,
    store: OnceCell<Store>,
    opened: watch::Sender<bool>,
    /// This process, in the store.
    name: String,
}

impl ControlStore {
    pub fn new(config: &Config) -> ControlStore {
        let id = config
            .proxy_id
            .map(|id| format!("{id}-"))
            .unwrap_or_default();
        let name = format!("{id}{}-{:08x}", std::process::id(), rand::random::<u32>());
        ControlStore {
            configured: config.store.clone(),
            store_use: config.store_use,
            store: OnceCell::new(),
            opened: watch::Sender::new(false),
            name,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether other proxies are looked for there.
    pub fn is_shared(&self) -> bool {
        self.store_use == StoreUse::Shared
    }

    /// A store that nobody has made yet holds nothing.
    pub fn may_hold_something(&self) -> bool {
        self.is_shared()
            || match &self.configured.place {
                StorePlace::File(path) => Path::new(path).exists(),
                StorePlace::Etcd(_) => true,
            }
    }

    /// The store; made if there is none.
    pub async fn open(&self) -> Result<Store, StoreError> {
        let opened = self
            .store
            .get_or_try_init(|| Store::open(&self.configured))
            .await?;
        self.opened.send_replace(true);
        Ok(opened.clone())
    }

    /// The store, once it may hold something, and can be opened.
    pub async fn used(&self) -> Store {
        if !self.may_hold_something() {
            // The sender is ours.
            let _ = self.opened.subscribe().wait_for(|opened| *opened).await;
        }
        loop {
            match self.open().await {
                Ok(store) => return store,
                Err(error) => tracing::error!(%error, "the control store cannot be opened"),
            }
            tokio::time::sleep(OPEN_AGAIN).await;
        }
    }
}
