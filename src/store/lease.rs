//! Leases: one holder of a name at a time, by the holder's own clock too.
//!
//! The store gives a lease to somebody else no sooner than `ttl` after it was asked for, or asked to be renewed, the last time with
//! success. The holder counts from a moment before it sent that question, so its time ends first; a tenth of `ttl` is left out
//! besides, for clocks that run at different speeds and for what the holder does right after it has asked [`Lease::is_held`].
//! The clock goes on while the process is stopped or the machine sleeps, so the first look afterwards says no. Once it has said no it
//! never says yes again: to be the holder again is another lease, with a greater token.
//!
//! What no clock can help against is a process that is stopped between its look and what it does next. For that there are
//! [`super::Transaction::under`] and [`Lease::token`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::Store;
use super::moment::Moment;

/// Leases are renewed three times within their time.
pub(super) const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// A number that grows from each holder of a lease to the next, and from lease to lease of one store: the fencing token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Who holds a lease, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub token: Token,
}

/// What came of asking for a lease.
#[derive(Debug)]
pub enum Claim {
    Held(Lease),
    /// Somebody else has it, or we have it ourselves by another [`Lease`].
    Taken(Holder),
}

/// What a transaction must find of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub name: String,
    pub token: Token,
}

/// A lease as the store gave it.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub name: String,
    pub token: Token,
    /// At least what was asked for.
    pub ttl: Duration,
    /// A moment before the store began to count.
    pub asked: Moment,
    pub tie: Tie,
}

impl Grant {
    pub fn fence(&self) -> Fence {
        Fence {
            name: self.name.clone(),
            token: self.token,
        }
    }

    /// The end of what a question at this moment gives.
    fn end_from(&self, asked: Moment) -> Moment {
        asked.after(self.ttl - self.ttl / 10)
    }
}

/// By what the store knows the lease, besides name and token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    File,
    /// The id of etcd's own lease, to which the key is attached.
    Etcd(i64),
}

/// What came of renewing a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    Renewed,
    /// Somebody else may have it.
    Gone,
}

/// A lease that we hold, or held. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    grant: Grant,
    standing: Arc<Standing>,
    /// Dropped: the keeper gives the lease back.
    stop: Option<oneshot::Sender<()>>,
    keeper: Option<tokio::task::JoinHandle<()>>,
}

/// How it stands with the lease, shared with the task that keeps it alive.
#[derive(Debug)]
struct Standing {
    /// The moment until which it is held; 0: it was lost or given back.
    until: AtomicU64,
    lost: watch::Sender<bool>,
}

impl Standing {
    fn is_held(&self) -> bool {
        let held = Moment::now() < Moment(self.until.load(Ordering::Acquire));
        if !held {
            self.lose();
        }
        held
    }

    fn lose(&self) {
        self.until.store(0, Ordering::Release);
        self.lost.send_replace(true);
    }

    /// Unless it has been lost before.
    fn extend(&self, until: Moment) {
        if self.is_held() {
            // Fails when it was lost in between; then it stays so.
            let _ = self
                .until
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
                    (before != 0).then_some(before.max(until.0))
                });
        }
    }
}

impl Lease {
    pub(super) fn start(store: Store, grant: Grant) -> Lease {
        let standing = Arc::new(Standing {
            until: AtomicU64::new(grant.end_from(grant.asked).0),
            lost: watch::Sender::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let keeper = tokio::spawn(keep(store, grant.clone(), Arc::clone(&standing), stopped));
        Lease {
            grant,
            standing,
            stop: Some(stop),
            keeper: Some(keeper),
        }
    }

    pub fn name(&self) -> &str {
        &self.grant.name
    }

    /// Greater than that of every holder before.
    pub fn token(&self) -> Token {
        self.grant.token
    }

    /// Whether nobody else can have it. Ask again after every wait.
    pub fn is_held(&self) -> bool {
        self.standing.is_held()
    }

    /// From now on it is not held, here; others can have it when its time is over.
    pub fn give_up(&self) {
        self.standing.lose();
    }

    /// Ends when the lease is lost.
    pub async fn lost(&self) {
        let mut lost = self.standing.lost.subscribe();
        while self.standing.is_held() {
            let until = Moment(self.standing.until.load(Ordering::Acquire));
            // Its end is looked for here, and not left to the keeper, which may be waiting for the store.
            let rest = until.since(Moment::now()) + Duration::from_millis(1);
            let _ = timeout(rest, lost.wait_for(|lost| *lost)).await;
        }
    }

    /// Gives it back and waits until the store was told, or did not answer: then others can have it when its time is over.
    pub async fn release(mut self) {
        self.standing.lose();
        self.stop = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.await;
        }
    }

    pub(super) fn fence(&self) -> Fence {
        self.grant.fence()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.standing.lose();
        // `stop` is dropped next, which the keeper notices.
    }
}

/// Renews the lease until it is lost, or dropped and given back.
async fn keep(
    store: Store,
    grant: Grant,
    standing: Arc<Standing>,
    mut stopped: oneshot::Receiver<()>,
) {
    let beat = grant.ttl / 3;
    // After a failure there is time for some more attempts.
    let again = grant.ttl / 10;
    let mut pause = beat;
    while standing.is_held() {
        let renewal = async {
            tokio::time::sleep(pause).await;
            // A process that was stopped has lost it, even if the store did not notice yet.
            if !standing.is_held() {
                return None;
            }
            let asked = Moment::now();
            Some((asked, timeout(beat, store.renew(&grant)).await))
        };
        let answer = tokio::select! {
            _ = &mut stopped => break,
            answer = renewal => answer,
        };
        pause = match answer {
            None => break,
            Some((asked, Ok(Ok(Renewal::Renewed)))) => {
                standing.extend(grant.end_from(asked));
                beat
            }
            Some((_, Ok(Ok(Renewal::Gone)))) => {
                tracing::warn!(
                    lease = grant.name,
                    token = grant.token.0,
                    "a lease was lost"
                );
                standing.lose();
                return;
            }
            Some((_, Ok(Err(error)))) => {
                tracing::warn!(lease = grant.name, %error, "a lease was not renewed");
                again
            }
            Some((_, Err(_))) => {
                tracing::warn!(lease = grant.name, after = ?beat, "a lease was not renewed in time");
                again
            }
        };
    }
    standing.lose();
    if let Err(error) = store.release(&grant).await {
        tracing::warn!(lease = grant.name, %error, "a lease was not given back; it ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(until: Moment) -> Standing {
        Standing {
            until: AtomicU64::new(until.0),
            lost: watch::Sender::new(false),
        }
    }

    #[test]
    fn what_was_lost_stays_lost() {
        let standing = standing(Moment(1));
        // Its time is over, and an answer that comes now is too late.
        let far = Moment::now().after(Duration::from_secs(60));
        standing.extend(far);
        assert!(!standing.is_held());
        assert!(*standing.lost.borrow());
    }

    #[test]
    fn it_is_extended_and_never_shortened() {
        let now = Moment::now();
        let standing = standing(now.after(Duration::from_secs(60)));
        standing.extend(now.after(Duration::from_secs(90)));
        standing.extend(now.after(Duration::from_secs(30)));
        let until = Moment(standing.until.load(Ordering::Acquire));
        assert_eq!(until, now.after(Duration::from_secs(90)));
    }

    #[test]
    fn the_holder_s_time_ends_first() {
        let grant = Grant {
            name: "a".to_owned(),
            token: Token(1),
            ttl: Duration::from_secs(10),
            asked: Moment(0),
            tie: Tie::File,
        };
        assert_eq!(grant.end_from(Moment(0)), Moment(9_000_000_000));
    }
}
