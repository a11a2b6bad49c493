//! The store of a fleet: an etcd cluster, version 3.4 or later, by the JSON gateway that each of its members has.
//!
//! Below the configured prefix are `keys/` with what callers keep, and `leases/` with one key for each lease that is held: its value
//! says who holds it, and it ends with the etcd lease that it is attached to. A key's version is its `mod_revision`, a
//! lease's token the `create_revision` of its key. All reads are linearizable, which etcd does unless told otherwise.
//!
//! Read `gateway.rs` for which endpoint is asked, and what is asked again.

mod gateway;
mod messages;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use self::gateway::{Gateway, Repeat};
use self::messages::{
    Granted, Header, KeepAlive, KeyValue, Nothing, Ranged, Streamed, Transacted, WatchTold,
};
use super::lease::{Fence, Grant, Holder, Renewal, Tie, Token};
use super::moment::Moment;
use super::transaction::{Expected, Write};
use super::{Conflict, Listing, Outcome, StoreError, Transaction, Version, Versioned};
use crate::config;
use crate::http::Lines;

/// Keys in one answer of a listing. With the most bytes each, that is half of what an answer may have.
const PAGE: usize = 16;
/// A watch looks at least so often, whatever it is told or not told.
const LOOK: Duration = Duration::from_secs(2);
/// How long it waits before it asks again to be told of changes.
const AGAIN: Duration = Duration::from_millis(250);

/// A store in an etcd cluster.
#[derive(Clone, Debug)]
pub(super) struct Etcd {
    gateway: Arc<Gateway>,
    prefix: Arc<str>,
}

impl Etcd {
    pub fn new(config: &config::Etcd, timeout: Duration) -> Result<Etcd, StoreError> {
        Ok(Etcd {
            gateway: Arc::new(Gateway::new(config, timeout)?),
            prefix: config.prefix.as_str().into(),
        })
    }

    fn key(&self, key: &str) -> String {
        format!("{}keys/{key}", self.prefix)
    }

    fn lease_key(&self, name: &str) -> String {
        format!("{}leases/{name}", self.prefix)
    }

    /// One key, and what the answer says of the cluster.
    async fn read(&self, key: &str) -> Result<(Option<KeyValue>, Header), StoreError> {
        let question = json!({ "key": encode(key) });
        let ranged: Ranged = self
            .gateway
            .ask("/v3/kv/range", &question, Repeat::Safe)
            .await?;
        Ok((ranged.kvs.into_iter().next(), ranged.header))
    }

    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let (found, _) = self.read(&self.key(key)).await?;
        found.map(|found| self.versioned(&found)).transpose()
    }

    fn versioned(&self, found: &KeyValue) -> Result<Versioned, StoreError> {
        Ok(Versioned {
            value: self.decode(&found.value)?,
            version: Version(found.mod_revision),
        })
    }

    fn decode(&self, text: &str) -> Result<Vec<u8>, StoreError> {
        STANDARD
            .decode(text)
            .map_err(|error| self.nonsense(format!("bad base64: {error}"), Outcome::NotDone))
    }

    fn nonsense(&self, reason: String, outcome: Outcome) -> StoreError {
        StoreError::Nonsense {
            place: self.gateway.place(),
            reason,
            outcome,
        }
    }

    pub async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(self.list_at(prefix).await?.0)
    }

    /// And the revision at which it was so.
    pub async fn list_at(&self, prefix: &str) -> Result<(Listing, u64), StoreError> {
        loop {
            match self.list_once(prefix).await {
                // The revision of the first page was thrown away before the last one was read. That is rare, and needs time.
                Err(StoreError::Refused { reason, .. }) if reason.contains("been compacted") => {}
                other => return other,
            }
        }
    }

    async fn list_once(&self, prefix: &str) -> Result<(Listing, u64), StoreError> {
        let begin = self.key(prefix);
        let end = end_of(&begin);
        let cut = self.key("").len();
        let mut listing = Listing::new();
        let (mut from, mut at) = (begin.into_bytes(), 0);
        loop {
            let question = json!({
                "key": STANDARD.encode(&from), "range_end": STANDARD.encode(&end),
                "limit": PAGE.to_string(), "revision": at.to_string(),
            });
            let page: Ranged = self
                .gateway
                .ask("/v3/kv/range", &question, Repeat::Safe)
                .await?;
            if at == 0 {
                at = page.header.revision;
            }
            for found in &page.kvs {
                from = self.decode(&found.key)?;
                let key = from.get(cut..).and_then(|key| str::from_utf8(key).ok());
                let key = key.ok_or_else(|| {
                    self.nonsense("a key that is no text".to_owned(), Outcome::NotDone)
                })?;
                listing.insert(key.to_owned(), self.versioned(found)?);
            }
            if !page.more || page.kvs.is_empty() {
                return Ok((listing, at));
            }
            // The first key that is greater than the last one.
            from.push(0);
        }
    }

    pub async fn commit(&self, transaction: &Transaction) -> Result<Version, StoreError> {
        let read =
            |key: &str| json!({ "request_range": { "key": encode(key), "keys_only": true } });
        let (mut compare, mut failure) = (Vec::new(), Vec::new());
        for fence in &transaction.fences {
            let key = self.lease_key(&fence.name);
            compare.push(created_at(&key, fence.token.0));
            failure.push(read(&key));
        }
        for (key, expected) in &transaction.expected {
            let key = self.key(key);
            compare.push(match expected {
                Expected::Absent => created_at(&key, 0),
                Expected::Version(version) => json!({
                    "target": "MOD", "result": "EQUAL", "key": encode(&key),
                    "mod_revision": version.0.to_string(),
                }),
            });
            failure.push(read(&key));
        }
        let write = |(key, write): (&String, &Write)| {
            let key = encode(&self.key(key));
            match write {
                Write::Put(value) => {
                    json!({ "request_put": { "key": key, "value": STANDARD.encode(value) } })
                }
                Write::Delete => json!({ "request_delete_range": { "key": key } }),
            }
        };
        let success: Vec<Value> = transaction.writes.iter().map(write).collect();
        let question = json!({ "compare": compare, "success": success, "failure": failure });
        let done: Transacted = self
            .gateway
            .ask("/v3/kv/txn", &question, Repeat::Never)
            .await?;
        match done.succeeded {
            true => Ok(Version(done.header.revision)),
            false => Err(self.why_not(transaction, &done)),
        }
    }

    /// What was not as the transaction expects, from what it read instead of writing.
    fn why_not(&self, transaction: &Transaction, done: &Transacted) -> StoreError {
        let mut found = done.responses.iter().map(|response| {
            let ranged = response.response_range.as_ref();
            ranged.and_then(|ranged| ranged.kvs.first())
        });
        for Fence { name, token } in &transaction.fences {
            let there = found.next().flatten();
            if there.is_none_or(|there| there.create_revision != token.0) {
                let name = name.clone();
                return StoreError::LeaseLost {
                    name,
                    token: *token,
                };
            }
        }
        for (key, expected) in &transaction.expected {
            let there = found.next().flatten();
            let version = there.map(|there| Version(there.mod_revision));
            if !expected.is(version) {
                return StoreError::Conflict(Conflict {
                    key: key.clone(),
                    found: version,
                });
            }
        }
        let reason = "it did not do a transaction, and everything is as the transaction expects";
        self.nonsense(reason.to_owned(), Outcome::NotDone)
    }

    fn holder_of(&self, found: &KeyValue) -> Result<Holder, StoreError> {
        let name = self.decode(&found.value)?;
        Ok(Holder {
            name: String::from_utf8_lossy(&name).into_owned(),
            token: Token(found.create_revision),
        })
    }

    pub async fn holder(&self, name: &str) -> Result<Option<Holder>, StoreError> {
        let (found, _) = self.read(&self.lease_key(name)).await?;
        found.map(|found| self.holder_of(&found)).transpose()
    }

    /// The grant, or who holds the lease.
    pub async fn take(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<Grant, Holder>, StoreError> {
        // Mostly it is taken, and no lease needs to be made to see that.
        if let Some(holder) = self.holder(name).await? {
            return Ok(Err(holder));
        }
        let asked = Moment::now();
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let question = json!({ "TTL": seconds.max(1).to_string() });
        // One that is made twice ends by itself.
        let granted: Granted = self
            .gateway
            .ask("/v3/lease/grant", &question, Repeat::Safe)
            .await?;
        let attached = self.attach(name, holder, granted.id).await;
        if !matches!(attached, Ok(Ok(_))) {
            // With it goes the key, should that have been written all the same. Without an answer it ends by itself.
            let _ = self.revoke(granted.id).await;
        }
        let grant = |token| Grant {
            name: name.to_owned(),
            token,
            ttl: Duration::from_secs(granted.ttl),
            asked,
            tie: Tie::Etcd(granted.id),
        };
        attached.map(|taken| taken.map(grant))
    }

    /// Writes a lease's key if there is none: its token, or who was first.
    async fn attach(
        &self,
        name: &str,
        holder: &str,
        id: i64,
    ) -> Result<Result<Token, Holder>, StoreError> {
        let key = self.lease_key(name);
        let question = json!({
            "compare": [created_at(&key, 0)],
            "success": [{ "request_put": {
                "key": encode(&key), "value": encode(holder), "lease": id.to_string(),
            } }],
            "failure": [{ "request_range": { "key": encode(&key) } }],
        });
        let done: Transacted = self
            .gateway
            .ask("/v3/kv/txn", &question, Repeat::Never)
            .await?;
        if done.succeeded {
            return Ok(Ok(Token(done.header.revision)));
        }
        let there = done
            .responses
            .iter()
            .find_map(|response| response.response_range.as_ref()?.kvs.first());
        match there {
            Some(there) => Ok(Err(self.holder_of(there)?)),
            None => Err(self.nonsense(
                "a lease is taken, and there is no holder".to_owned(),
                Outcome::Unknown,
            )),
        }
    }

    /// Keeps a lease alive, and makes sure that this is so.
    ///
    /// The leader alone counts the time of leases. A member that was cut off or stopped may take itself for the leader and answer, while the real
    /// one lets the lease end. So the key is read afterwards, which only the real leader can grant; and it counts only when
    /// both answers are of one term: then the leader of that term was the leader all the while.
    pub async fn renew(&self, grant: &Grant) -> Result<Renewal, StoreError> {
        let Tie::Etcd(id) = grant.tie else {
            return Ok(Renewal::Gone);
        };
        let question = json!({ "ID": id.to_string() });
        let kept: Streamed<KeepAlive> = self
            .gateway
            .ask("/v3/lease/keepalive", &question, Repeat::Safe)
            .await?;
        let kept = match (kept.result, kept.error) {
            (Some(kept), None) => kept,
            (_, error) => {
                let reason = error.map_or_else(|| "no result".to_owned(), |error| error.message);
                return Err(self.nonsense(reason, Outcome::NotDone));
            }
        };
        // etcd says so of a lease that is not there.
        if kept.ttl == 0 {
            return Ok(Renewal::Gone);
        }
        let (found, header) = self.read(&self.lease_key(&grant.name)).await?;
        if found.is_none_or(|found| found.create_revision != grant.token.0) {
            return Ok(Renewal::Gone);
        }
        if header.raft_term != kept.header.raft_term {
            let reason = "another member became the leader while a lease was renewed";
            return Err(self.nonsense(reason.to_owned(), Outcome::Unknown));
        }
        Ok(Renewal::Renewed)
    }

    pub async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        match grant.tie {
            Tie::Etcd(id) => self.revoke(id).await,
            Tie::File => Ok(()),
        }
    }

    async fn revoke(&self, id: i64) -> Result<(), StoreError> {
        let question = json!({ "ID": id.to_string() });
        let revoked: Result<Nothing, _> = self
            .gateway
            .ask("/v3/lease/revoke", &question, Repeat::Safe)
            .await;
        match revoked {
            Err(StoreError::Refused { reason, .. }) if reason.contains("lease not found") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub fn changes(&self, prefix: &str) -> Changes {
        Changes {
            etcd: self.clone(),
            begin: self.key(prefix),
            seen: 0,
            lines: None,
            reason: Reason::Time,
        }
    }
}

/// What tells of changes below a prefix.
pub(super) struct Changes {
    etcd: Etcd,
    begin: String,
    /// The revision up to which changes are known.
    seen: u64,
    lines: Option<Lines>,
    reason: Reason,
}

/// Why it was time to look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Told,
    Time,
}

impl Changes {
    /// What was seen needs not be told.
    pub fn seen(&mut self, revision: u64) {
        self.seen = revision;
    }

    /// Ends when something may have changed, and sometimes for no reason.
    pub async fn wait(&mut self) {
        self.reason = match tokio::time::timeout(LOOK, self.told()).await {
            Ok(()) => Reason::Told,
            Err(_) => Reason::Time,
        };
    }

    /// Whether there was something new to see.
    pub fn looked(&mut self, is_new: bool) {
        // It should have been told: the member is cut off from the others, or the connection is dead.
        if is_new && self.reason == Reason::Time {
            self.lines = None;
        }
    }

    /// Ends when a change is told of that was not seen.
    async fn told(&mut self) {
        loop {
            let Some(lines) = &mut self.lines else {
                self.lines = self.open().await;
                if self.lines.is_none() {
                    tokio::time::sleep(AGAIN).await;
                }
                continue;
            };
            let told = match lines.next().await {
                Ok(Some(line)) => serde_json::from_slice::<Streamed<WatchTold>>(&line).ok(),
                Ok(None) | Err(_) => None,
            };
            match told.and_then(|told| told.result) {
                Some(told) if told.canceled => break,
                Some(told) if !told.events.is_empty() && told.header.revision > self.seen => return,
                Some(_) => {}
                None => break,
            }
        }
        // What happened until there is another one is seen by looking; not at once, as the next one may end as soon.
        self.lines = None;
        tokio::time::sleep(AGAIN).await;
    }

    async fn open(&self) -> Option<Lines> {
        let question = json!({ "create_request": {
            "key": encode(&self.begin), "range_end": STANDARD.encode(end_of(&self.begin)),
            "start_revision": (self.seen + 1).to_string(),
        } });
        match self.etcd.gateway.listen("/v3/watch", &question).await {
            Ok(lines) => Some(lines),
            Err(error) => {
                tracing::debug!(prefix = self.begin, %error, "the store does not tell of changes");
                None
            }
        }
    }
}

fn encode(text: &str) -> String {
    STANDARD.encode(text)
}

/// The comparison that holds if the key was made at this revision; 0: if it is not there.
fn created_at(key: &str, revision: u64) -> Value {
    json!({
        "target": "CREATE", "result": "EQUAL", "key": encode(key),
        "create_revision": revision.to_string(),
    })
}

/// The first key behind all that begin with the prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No byte of UTF-8 is 255, and no prefix is empty: all begin with that of the configuration.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(end_of("/trunkline/"), b"/trunkline0");
        assert_eq!(end_of("\u{10ffff}"), b"\xf4\x8f\xbf\xc0");
    }
}
