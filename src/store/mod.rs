//! The control store: what a fleet of proxies agrees on. Bytes by key, with compare-and-swap, leases and watches.
//!
//! It holds what must outlive a proxy and is not in the shards' own transactions: plans and their phases, the epoch of the shard
//! map, gates, and who does what (leases). It is asked by the control plane only, some times a second, and never by a statement.
//!
//! * A key has a [`Version`] which only grows, also over deletion. Every write names the version it replaces
//!   ([`Store::put_if`], [`Store::delete_if`]), or several do at once ([`Store::commit`]): then all of them are done or none.
//! * A [`Lease`] has one holder at a time. [`Lease::is_held`] says no before the store could give it to somebody else; what
//!   still must not happen after that moment is done in a [`Transaction`] under the lease, which the store refuses once the
//!   lease is somebody else's (fencing), or shows the lease's [`Token`], which grows from holder to holder.
//! * A [`Watch`] shows what is below a prefix now. It may skip states in between, and never stays behind the last one.
//!
//! It never guesses: a store that does not answer within the time-out is an error which says whether what was asked for may have
//! been done ([`StoreError::outcome`]), and nothing that may have been done is tried again by itself. It never knows what the bytes mean.
//!
//! `file.rs` is one directory of one machine, and needs nothing else. `etcd.rs` is an etcd cluster, for proxies on several machines.
//! Read `lease.rs` for why a holder's own clock can be relied on, and `file.rs` for what survives what.

mod error;
mod etcd;
mod file;
mod key;
mod lease;
mod moment;
mod transaction;
mod watch;

pub use error::{Conflict, Outcome, StoreError};
pub use lease::{Claim, Holder, Lease, Token};
pub use transaction::{Expected, Transaction};
pub use watch::Watch;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config;
use etcd::Etcd;
use file::FileStore;
use lease::{Grant, Renewal, SHORTEST_TTL};

/// The most bytes that one write may bring, keys and values together; etcd takes 1.5 MB unless told otherwise.
pub const MOST_BYTES: usize = 1 << 20;
/// The most keys that one [`Transaction`] may name; etcd takes 128 unless told otherwise.
pub const MOST_KEYS: usize = 100;

/// The version of a key: the store's revision when the key was last written. Later writes, of any key, have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    pub value: Vec<u8>,
    pub version: Version,
}

/// Keys and what is under them.
pub type Listing = BTreeMap<String, Versioned>;

/// The control store. Cheap to clone; clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    place: Place,
    timeout: Duration,
    lease_ttl: Duration,
}

#[derive(Clone, Debug)]
enum Place {
    File(FileStore),
    Etcd(Etcd),
}

impl Store {
    /// Opens the store that is configured. A directory is made if it is missing; etcd is not asked anything yet.
    pub async fn open(config: &config::Store) -> Result<Store, StoreError> {
        let place = match &config.place {
            config::StorePlace::File(path) => {
                Place::File(FileStore::open(path, config.timeout).await?)
            }
            config::StorePlace::Etcd(etcd) => Place::Etcd(Etcd::new(etcd, config.timeout)?),
        };
        Ok(Store {
            place,
            timeout: config.timeout,
            lease_ttl: config.lease_ttl,
        })
    }

    /// How long leases last that nobody keeps alive, as configured.
    pub fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    /// How long the store may take for one answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What is under a key; `None`: nothing. As all reading here, it sees every write that was acknowledged before.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        key::check(key)?;
        match &self.place {
            Place::File(file) => file.get(key).await,
            Place::Etcd(etcd) => etcd.get(key).await,
        }
    }

    /// All keys that begin with the prefix, as they were at one moment. The empty prefix begins every key.
    pub async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        key::check_prefix(prefix)?;
        match &self.place {
            Place::File(file) => file.list(prefix).await,
            Place::Etcd(etcd) => etcd.list(prefix).await,
        }
    }

    /// Writes a key if it is as expected, else [`StoreError::Conflict`].
    pub async fn put_if(
        &self,
        key: &str,
        expected: Expected,
        value: impl Into<Vec<u8>>,
    ) -> Result<Version, StoreError> {
        self.commit(Transaction::new().expect(key, expected).put(key, value))
            .await
    }

    /// Deletes a key if it has this version, else [`StoreError::Conflict`].
    pub async fn delete_if(&self, key: &str, version: Version) -> Result<(), StoreError> {
        let expected = Expected::Version(version);
        self.commit(Transaction::new().expect(key, expected).delete(key))
            .await?;
        Ok(())
    }

    /// Does all of the transaction's writes if everything is as it expects, else none of them. The version is that of every
    /// key that was written.
    ///
    /// [`StoreError::Conflict`]: a key is not as expected. [`StoreError::LeaseLost`]: the lease is not this holder's any more.
    pub async fn commit(&self, transaction: Transaction) -> Result<Version, StoreError> {
        transaction.check()?;
        match &self.place {
            Place::File(file) => file.commit(transaction).await,
            Place::Etcd(etcd) => etcd.commit(&transaction).await,
        }
    }

    /// What is below a prefix, now and as it changes. It goes on until the [`Watch`] is dropped.
    ///
    /// Call it within a runtime, on which a task keeps the watch up to date.
    pub async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        key::check_prefix(prefix)?;
        Watch::start(self.clone(), prefix.to_owned()).await
    }

    /// Takes a lease if nobody holds it. `holder` says who we are, to whoever looks; it need not be unique. A task of the current
    /// runtime keeps the lease alive until it is dropped.
    ///
    /// `ttl` is how long the lease lasts after its holder's end, and is rounded up to what the store can do (a second; etcd: whole
    /// seconds, and not less than one and a half of its election time-outs).
    pub async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Claim, StoreError> {
        key::check(name)?;
        key::check_holder(holder)?;
        let ttl = ttl.max(SHORTEST_TTL);
        let taken = match &self.place {
            Place::File(file) => file.take(name, holder, ttl).await?,
            Place::Etcd(etcd) => etcd.take(name, holder, ttl).await?,
        };
        Ok(match taken {
            Ok(grant) => Claim::Held(Lease::start(self.clone(), grant)),
            Err(holder) => Claim::Taken(holder),
        })
    }

    /// Who holds a lease; `None`: nobody.
    pub async fn holder(&self, name: &str) -> Result<Option<Holder>, StoreError> {
        key::check(name)?;
        match &self.place {
            Place::File(file) => file.holder(name).await,
            Place::Etcd(etcd) => etcd.holder(name).await,
        }
    }

    async fn renew(&self, grant: &Grant) -> Result<Renewal, StoreError> {
        match &self.place {
            Place::File(file) => file.renew(grant).await,
            Place::Etcd(etcd) => etcd.renew(grant).await,
        }
    }

    async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        match &self.place {
            Place::File(file) => file.release(grant).await,
            Place::Etcd(etcd) => etcd.release(grant).await,
        }
    }
}
