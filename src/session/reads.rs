//! Where the reads of a session go: to a replica that may serve them, or to the primary.
//!
//! A read seeks a replica when its plan says that it means the same there, and nothing around it wants the primary: the session is
//! outside a transaction, or in one that only reads. Which replica, says `topology/choice.rs`. What the session has committed must be seen
//! there: behind each commit its server is asked, in the same write, how far the log has come, and no replica that has not replayed that
//! serves the session's next read on that shard (`causal.rs`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Session;
use super::card::State;
use super::link::Link;
use super::own_settings::{OwnSettings, ReadConsistency, ReadDefaults, ReadPolicy};
use super::respond::{Fault, Loss};
use super::transaction::{Transaction, default_modes};
use crate::backend::pool::{CheckoutError, Lending, Lent, Pool, Seat};
use crate::config::{CausalReads, PoolMode, ReadFrom};
use crate::plan::refusal::{Reason, Refusal};
use crate::plan::spread::{Spread, all_shards};
use crate::plan::{Nodes, Planned};
use crate::sharding::ShardId;
use crate::sql::class::Class;
use crate::topology::Lsn;
use crate::topology::choice::{self, Choice, Floor, NodeSet, Patience, Read};
use crate::topology::view::{NodePlace, Seen, Sighting};
use crate::wire::answer::TransactionStatus;

/// How often a read that waits for a replica looks whether it has come far enough.
const LOOK: Duration = Duration::from_millis(5);

/// What the mark behind a commit asks. All that was committed before lies in front of it.
pub(super) const MARK: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn()";

/// What the statement at hand runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seeks {
    #[default]
    Primary,
    /// Or the primary where no replica may serve it.
    Replica,
}

/// What a session keeps for its reads.
pub struct Reads {
    pub seeks: Seeks,
    /// What holds for the statement at hand, where it seeks a replica.
    policy: ReadPolicy,
    /// A statement of the session's has asked for replicas by a comment: there may be another one, so its commits are followed.
    hinted: bool,
    /// Nodes that have failed the statement at hand.
    without: NodeSet,
    /// What the connection was for that the statement at hand has lost last.
    pub lost: Option<Seat>,
    /// What was committed on this shard before the statement at hand, for a read that must see all of it: it stays where it is while the log goes on.
    all_before: Option<(ShardId, Floor)>,
    /// The replica in whose queue the session waits.
    asked: Option<NodePlace>,
    turn: Cell<usize>,
    /// A hash of the client's address.
    client: u64,
    /// Replicas' pools, as far as they were used.
    pools: Vec<(ShardId, NodePlace, Rc<Pool>)>,
}

impl Reads {
    pub fn new(client: u64, policy: ReadPolicy) -> Reads {
        Reads {
            seeks: Seeks::Primary,
            policy,
            hinted: false,
            without: NodeSet::EMPTY,
            lost: None,
            all_before: None,
            asked: None,
            // Else all sessions would begin at the same node.
            turn: Cell::new(rand::random_range(0..1 << 16)),
            client,
            pools: Vec::new(),
        }
    }

    /// The next statement seeks nothing yet, and has failed nowhere.
    pub fn begin(&mut self) {
        self.seeks = Seeks::Primary;
        self.without = NodeSet::EMPTY;
        self.all_before = None;
    }

    pub fn has_failed(&mut self, place: NodePlace) {
        self.without = self.without.with(place);
    }

    /// The queue that the session waits in has failed it.
    pub fn queue_failed(&mut self) -> bool {
        let asked = self.asked.take();
        asked.inspect(|place| self.has_failed(*place)).is_some()
    }
}

impl ReadPolicy {
    /// What holds for a session.
    pub fn of(set: &OwnSettings, defaults: &ReadDefaults, mode: PoolMode) -> ReadPolicy {
        let mut policy = set.reads(defaults);
        if mode == PoolMode::Session {
            // It keeps its connection, which may have anything of the session's.
            policy.from = ReadFrom::Primary;
        }
        policy
    }
}

impl Session {
    /// What the session has set, or what is configured, may be otherwise than before.
    #[cold]
    pub(super) fn look_at_read_policy(&mut self) {
        let tracked = self.tracks_commits();
        self.configured = self.worker.configured.get();
        self.read_policy = ReadPolicy::of(&self.own_settings, &self.read_defaults(), self.mode);
        if self.tracks_commits() && !tracked {
            let names = Arc::clone(&self.database.catalog().shards);
            self.causal.wrote_unseen(Instant::now(), &names);
        }
    }

    /// The session, or a comment in these statements, lets reads go to replicas.
    #[inline]
    pub(super) fn lets_reads_go(&self, planned: &Planned) -> bool {
        let mut hints = planned.statements.iter().map(|one| one.reads.from);
        self.read_policy.from != ReadFrom::Primary
            || hints.any(|from| from.is_some_and(|from| from != ReadFrom::Primary))
    }

    /// Decides whether what is about to run seeks a replica.
    #[inline]
    pub(super) fn seek(&mut self, planned: &Planned) {
        self.reads.seeks = if self.lets_reads_go(planned) {
            self.sought(planned)
        } else {
            Seeks::Primary
        };
    }

    /// What holds for these statements, which go to one place together: what the comment of each asks for, or what its session does.
    fn policy_for(&self, planned: &Planned) -> ReadPolicy {
        let session = self.read_policy;
        if self.mode == PoolMode::Session {
            // It keeps its connection, which may have anything of the session's.
            return session;
        }
        let wants = |from| {
            let mut statements = planned.statements.iter();
            statements.any(|one| one.reads.from.unwrap_or(session.from) == from)
        };
        let from = match () {
            () if wants(ReadFrom::Primary) => ReadFrom::Primary,
            () if wants(ReadFrom::Replica) => ReadFrom::Replica,
            () => ReadFrom::Any,
        };
        // Of several the first that is given.
        let limit = planned.statements.iter().find_map(|one| one.reads.max_lag);
        let lag = limit.map_or(session.lag, |limit| self.read_defaults().within(limit));
        ReadPolicy {
            from,
            lag,
            ..session
        }
    }

    fn sought(&mut self, planned: &Planned) -> Seeks {
        self.reads.policy = self.policy_for(planned);
        if self.reads.policy.from == ReadFrom::Primary {
            return Seeks::Primary;
        }
        if self.read_policy.from == ReadFrom::Primary && !self.reads.hinted {
            self.reads.hinted = true;
            if self.tracks_commits() {
                let names = Arc::clone(&self.database.catalog().shards);
                self.causal.wrote_unseen(Instant::now(), &names);
            }
        }
        let free = self.own_settings.read_consistency() == ReadConsistency::Off
            && match &self.transaction {
                // It goes on where it is; what cannot run there joins on the primary.
                Transaction::Open => self.link.as_ref().is_some_and(Link::is_replica),
                other => other.suits_replica(default_modes(&self.settled)),
            };
        let suits = free
            && planned.statements.iter().all(|statement| {
                statement.nodes == Nodes::Any
                    && (statement.plan.is_ok()
                        || matches!(
                            statement.spread.as_deref(),
                            Some(Spread::Scatter { .. } | Spread::CopyOut(_) | Spread::Gather(_))
                        ))
            });
        if suits {
            Seeks::Replica
        } else {
            Seeks::Primary
        }
    }

    /// What is asked of definitions only goes to the primary, which has them first, as long as there is one.
    pub(super) fn seek_definitions(&mut self, shard: ShardId) {
        let snapshot = self.worker.snapshot();
        let leaderless = snapshot
            .view
            .shard(shard)
            .is_some_and(|view| view.primary.is_none());
        self.reads.policy = self.read_policy;
        self.reads.seeks = if leaderless && self.read_policy.from != ReadFrom::Primary {
            Seeks::Replica
        } else {
            Seeks::Primary
        };
    }

    fn choose(&mut self, shard: ShardId, patience: Patience) -> Choice {
        let names = Arc::clone(&self.database.catalog().shards);
        let snapshot = self.worker.snapshot();
        let Some(view) = snapshot.view.shard(shard) else {
            return Choice::Primary;
        };
        let policy = self.reads.policy;
        let floor = match policy.causal {
            CausalReads::Off => Floor::None,
            CausalReads::Session => self.causal.floor(shard, &names, &view.written),
            CausalReads::Always => {
                let began = Floor::Since(self.unit_began);
                let known = self.reads.all_before.filter(|(of, _)| *of == shard);
                let floor = known.map_or(began, |(_, floor)| floor);
                let floor = floor.settled(&view.written);
                self.reads.all_before = Some((shard, floor));
                floor
            }
        };
        let configured = &snapshot.config.reads;
        let read = Read {
            shard,
            from: policy.from,
            balance: configured.balance,
            primary: configured.primary,
            zone: configured.zone.as_deref(),
            lag: policy.lag,
            floor,
            patience,
            client: self.reads.client,
            without: self.reads.without,
            now: self.unit_began,
        };
        let pools = &self.reads.pools;
        let in_use = |place| {
            let known = pools
                .iter()
                .find(|(at, node, _)| *at == shard && *node == place);
            known.map_or(0, |(.., pool)| pool.in_use())
        };
        choice::choose(&snapshot.view, &read, &self.reads.turn, in_use)
    }

    /// The replica that the statement at hand is to run on, when that is clear without a wait; `None` is the primary. `Err`: it is not clear.
    pub(super) fn seat_now(&mut self, shard: ShardId) -> Result<Option<NodePlace>, ()> {
        if self.reads.seeks == Seeks::Primary {
            return Ok(None);
        }
        match self.choose(shard, Patience::Waits) {
            Choice::Node(place) => Ok(Some(place)),
            Choice::Primary => Ok(None),
            Choice::Wait | Choice::Nobody(_) => Err(()),
        }
    }

    /// Likewise, with a wait for a replica that has replayed what must be seen.
    async fn seat(&mut self, shard: ShardId) -> Result<Option<NodePlace>, Fault> {
        if self.reads.seeks == Seeks::Primary {
            return Ok(None);
        }
        let until = self.unit_began + self.worker.snapshot().config.reads.wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let patience = if left.is_zero() {
                Patience::Over
            } else {
                Patience::Waits
            };
            match self.choose(shard, patience) {
                Choice::Node(place) => return Ok(Some(place)),
                Choice::Primary => return Ok(None),
                Choice::Wait => {
                    self.worker.shared.sighted(Sighting {
                        shard,
                        node: NodePlace(0),
                        seen: Seen::Awaited,
                    });
                    let never = std::future::pending::<()>();
                    let timers = &self.worker.shared.timers;
                    let _ = timers.timeout(LOOK.min(left), never).await;
                }
                Choice::Nobody(missing) => {
                    return Err(Fault::Refused(Refusal::new(
                        Reason::NoReplica,
                        format!("the read has to run on a replica, and {missing}"),
                    )));
                }
            }
        }
    }

    /// A connection for the statement at hand, to a replica where it seeks one. One that cannot be reached is passed by.
    pub(super) async fn lend(&mut self, shard: ShardId) -> Result<Lent, Fault> {
        loop {
            let Some(place) = self.seat(shard).await? else {
                return self.checkout(shard).await;
            };
            let Some(pool) = self.replica_pool(shard, place) else {
                self.reads.has_failed(place);
                continue;
            };
            if let Some(lent) = pool.try_checkout(self.unit_began) {
                return Ok(lent);
            }
            self.waits(State::Waiting, Instant::now());
            let lent = pool.checkout(self.held_bytes).await;
            self.waits(State::Active, Instant::now());
            match lent {
                Ok(lent) => return Ok(lent),
                Err(CheckoutError::Connect(..) | CheckoutError::Closed) => {
                    self.reads.has_failed(place);
                }
                Err(error) => return Err(Fault::Checkout(error)),
            }
        }
    }

    /// The pool of a replica; looked up once, and again after it was closed.
    pub(super) fn replica_pool(&mut self, shard: ShardId, place: NodePlace) -> Option<Rc<Pool>> {
        let pools = &mut self.reads.pools;
        let known = pools
            .iter()
            .position(|(at, node, _)| *at == shard && *node == place);
        if let Some(at) = known {
            if pools[at].2.lending() != Lending::Closed {
                return Some(Rc::clone(&pools[at].2));
            }
            pools.swap_remove(at);
        }
        let seat = Seat::Replica(place.0);
        let pool = self.worker.pool(&self.database, &self.user, shard, seat)?;
        self.reads.pools.push((shard, place, Rc::clone(&pool)));
        Some(pool)
    }

    /// A connection of the replica, or a place in the queue for one, without a wait. `Err`: neither.
    pub(super) fn lend_straight(&mut self, shard: ShardId, place: NodePlace) -> Result<Lent, ()> {
        let pool = self.replica_pool(shard, place).ok_or(())?;
        if let Some(lent) = pool.try_checkout(self.unit_began) {
            return Ok(lent);
        }
        if let Ok(queued) = pool.enqueue(&self.waiter, self.held_bytes, self.unit_began) {
            self.place = Some(queued);
            self.reads.asked = Some(place);
            self.waits(State::Waiting, self.unit_began);
        }
        Err(())
    }

    /// Whether a commit is the end of this message, as far as that is plain.
    pub(super) fn commits(&self, planned: &Planned) -> bool {
        match &planned.statements[..] {
            [one] => match one.class {
                Class::Data => matches!(self.transaction, Transaction::Idle),
                Class::Commit { .. } => true,
                // Behind COPY FROM STDIN nothing may come but data.
                _ => false,
            },
            _ => false,
        }
    }

    /// What was sent last ends in a commit: how far the log has come then is asked behind it.
    pub(super) fn mark(&mut self) {
        if let Some(link) = &mut self.link {
            link.mark();
        }
    }

    /// The answer to a mark.
    pub(super) fn marked(&mut self, value: Option<&[u8]>, status: TransactionStatus) {
        let Some(link) = &mut self.link else { return };
        let shard = link.shard();
        link.unmark();
        let lsn = value.and_then(|text| std::str::from_utf8(text).ok()?.parse::<Lsn>().ok());
        let names = Arc::clone(&self.database.catalog().shards);
        match lsn {
            Some(lsn) => self.causal.wrote(shard, lsn, &names),
            None => self.causal.wrote_unknown(shard, Instant::now(), &names),
        }
        self.between_units(status, Instant::now());
    }

    /// What the session commits must be seen by its reads on replicas.
    #[inline]
    pub(super) fn tracks_commits(&self) -> bool {
        (self.read_policy.from != ReadFrom::Primary || self.reads.hinted)
            && self.read_policy.causal == CausalReads::Session
    }

    /// Asks the primaries how far they have come where the session's token does not know yet: everywhere, when its commits were not followed.
    pub(super) async fn settle_floors(&mut self) -> Result<(), Fault> {
        if self.transaction != Transaction::Idle || self.link.is_some() {
            return Err(Fault::Postgres {
                sqlstate: "25001",
                message: "SHOW trunkline.token cannot run inside a transaction block".to_owned(),
            });
        }
        let names = Arc::clone(&self.database.catalog().shards);
        let shards = if self.tracks_commits() {
            self.causal.unsettled(&names).collect()
        } else {
            all_shards(&self.database.catalog())
        };
        for shard in shards {
            let mut lent = self.checkout(shard).await?;
            let mut answer = Vec::new();
            lent.capture(MARK, &self.worker.scratch, &mut answer)
                .await
                .map_err(|error| Fault::Broken(Loss::before(error)))?;
            let lsn = super::login::first_value(&answer).and_then(|text| text.parse().ok());
            if let Some(lsn) = lsn {
                self.causal.wrote(shard, lsn, &names);
            }
            lent.release(Instant::now());
        }
        Ok(())
    }

    /// The session's last commit, which was on its way, is there now, on whichever shards it was.
    pub(super) fn wrote_somewhere(&mut self) {
        let shards = all_shards(&self.database.catalog());
        for shard in shards {
            self.wrote(shard);
        }
    }

    /// The session has committed on this shard; where in the log that is will be known later.
    pub(super) fn wrote(&mut self, shard: ShardId) {
        if !self.tracks_commits() {
            return;
        }
        let names = Arc::clone(&self.database.catalog().shards);
        self.causal.wrote_unknown(shard, Instant::now(), &names);
    }
}
