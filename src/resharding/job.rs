//! The life of a plan: one pure function from what is saved and what is seen to what is saved next and what is done.
//!
//! ```text
//! planned ─ checked ─ copying ─ following ─ verified ═ turning ═ cut over ─ ending ─ finished
//!                                   ↑          ↑          ║         ║
//!                                   └── rolled back ══════╩═════════╝
//!            (cancel, while the old shards have the keys) ──────────── ending ─ cancelled
//! ```
//!
//! Whoever drives a plan repeats: read the job, look at the world ([`Observed`]), [`step`], save the job by compare-and-swap, run the actions.
//! The job is saved before the actions run. Actions are not remembered: what is not seen done is asked for again. So any driver can die
//! anywhere, and the next one goes on.
//!
//! What that rests on, and what whoever runs actions must keep:
//!
//! * **Every action can be run twice, and late.** A driver may stall between two actions and go on when another has taken over. Hence what
//!   guards, gates and fences carries the job's *term*, which grows; each shard (in its *ledger*, a row of the plan in its own database,
//!   locked by the action's transaction) and the gate keep the greatest they have seen, and refuse a smaller one. What needs the ledger to
//!   be open finds it closed once the plan is ending, and a closed ledger is never opened again. A commit names the epoch it expects.
//! * **Who does not own the moving keys is guarded**, from before the first row is copied to the end: its tables refuse writes to these keys
//!   from anyone who does not replicate. A turn guards the owner too, and the guard of the other goes only when the map has changed. So no
//!   two shards accept writes to one key, whatever proxies believe.
//! * **A slot exists before the first row is copied from its shard**, and the slots of the way back before a turn.
//! * **A turn is given up or done.** Up to the commit it is undone when it takes longer than the pause allowed; behind the commit, nothing is.
//! * **A proxy looks at the gate before it serves**, and at the gate before the map; it answers nobody once its lease has ended.
//! * Streams skip what was itself replicated (its origin says so), so both directions may run at once.

mod action;
mod command;
mod event;
mod observed;
mod record;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::sharding::ShardId;

use super::difference::difference;
use super::record::{Change, StoredError, StoredMap};
use super::wanted::Planned;

pub use action::Action;
pub use command::{Command, CommandError, MAX_PAUSE_MS};
pub use event::events;
pub use observed::{
    CheckFact, GateFact, GateState, Ledger, MapFact, Observed, ProxyFact, ShardFact, Slot,
    StreamFact, Trouble, VerifyFact,
};
pub use record::{RecordError, from_json, to_json};

/// A shard by its name: its number changes with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardName(pub Box<str>);

/// A place in a server's write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// Milliseconds by the driver's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// A version of the map in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapEpoch(pub u64);

/// The age of orders given to shards and proxies: an older one than has been obeyed is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u32);

/// Which of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// The map before the plan: moving keys are on the shards they come from.
    Old,
    /// The map that the plan makes.
    New,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Old => Side::New,
            Side::New => Side::Old,
        }
    }

    /// The moving keys that a shard has under this map.
    pub fn keys(self) -> MovingKeys {
        match self {
            Side::Old => MovingKeys::Leaving,
            Side::New => MovingKeys::Arriving,
        }
    }
}

/// Which of the moving keys of a shard. A shard may have both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MovingKeys {
    /// Of the moves from this shard.
    Leaving,
    /// Of the moves to this shard.
    Arriving,
}

/// Rows that go from one shard to another: the moves between two shards, of all distributions, and the stream that follows them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    pub from: ShardName,
    pub to: ShardName,
}

impl Route {
    fn back(&self) -> Route {
        Route {
            from: self.to.clone(),
            to: self.from.clone(),
        }
    }
}

/// What a plan moves; it never changes. The maps themselves are stored beside the job ([`super::record`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub name: Box<str>,
    /// Tells this plan from others that had its name.
    pub number: u64,
    pub database: Box<str>,
    /// The maps before and after, of each distribution that changes.
    pub maps: Vec<Change>,
    /// `schema.table`, quoted as in SQL, every table of these distributions.
    pub tables: Vec<Box<str>>,
    /// Each pair of shards with a move between them, once.
    pub routes: BTreeSet<Route>,
}

impl Plan {
    /// `shards`: names by number; `tables`: all of the distributions that change.
    pub fn new(
        name: &str,
        number: u64,
        database: &str,
        planned: &[Planned],
        tables: Vec<Box<str>>,
        shards: &[Box<str>],
    ) -> Plan {
        let name_of = |shard: ShardId| ShardName(shards[shard.index()].clone());
        let moves = planned.iter().flat_map(|one| &one.difference.moves);
        Plan {
            name: name.into(),
            number,
            database: database.into(),
            maps: planned
                .iter()
                .map(|one| Change {
                    distribution: one.distribution.clone(),
                    before: StoredMap::of(&one.before, shards),
                    after: StoredMap::of(&one.after, shards),
                })
                .collect(),
            tables,
            routes: moves
                .map(|one| Route {
                    from: name_of(one.from),
                    to: name_of(one.to),
                })
                .collect(),
        }
    }

    /// The maps and moves again, with the shards' numbers of now.
    pub fn planned(&self, shards: &[Box<str>]) -> Result<Vec<Planned>, StoredError> {
        let planned = self.maps.iter().map(|change| {
            let (before, after) = (change.before.map(shards)?, change.after.map(shards)?);
            let difference = difference(&before, &after).map_err(StoredError::Unmovable)?;
            Ok(Planned {
                distribution: change.distribution.clone(),
                before,
                after,
                difference,
            })
        });
        planned.collect()
    }
}

/// What is made on a shard for the plan. It is noted here before it is made, so that nothing is made that nobody knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    pub publication: Box<str>,
    pub slot: Box<str>,
    /// Whether the slot has been seen: then its absence is a loss.
    pub slot_seen: bool,
}

/// How fast rows may be copied and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Bytes in a second, from each source.
    pub rate: Option<u64>,
    /// Copying slows down while clients' statements take longer than this many microseconds (99th percentile).
    pub latency_us: Option<u64>,
}

/// Whether the plan goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    Going,
    /// By an operator. Changes are still followed, so that no log piles up.
    Paused,
    /// By itself; nothing is copied, applied or compared until RESUME.
    Stopped(Box<str>),
}

/// The whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub plan: Plan,
    pub phase: Phase,
    pub pace: Pace,
    pub throttle: Throttle,
    /// The map in force.
    pub owner: Side,
    pub epoch: MapEpoch,
    pub term: Term,
    /// By shard, from START on.
    pub objects: BTreeMap<ShardName, Objects>,
    pub check: Check,
    pub verification: Verification,
    /// The greatest round of a verification that was ever asked for.
    pub last_round: u32,
    /// A turn that an operator asked for, and that is tried until it is done or was tried too often.
    pub wish: Option<Wish>,
    pub way_back: WayBack,
    /// What was last given up or ended by itself, and why; for people.
    pub note: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Planned,
    Checked,
    /// Rows are copied, and their changes followed.
    Copying,
    /// All rows are there; changes are followed.
    Following,
    /// Both sides were compared and found the same.
    Verified,
    Turning(Turn),
    /// The new map is in force; the old shards follow. FINISH or ROLLBACK.
    CutOver,
    /// The old map is in force again; the new shards follow. VERIFY and CUTOVER, or CANCEL.
    RolledBack,
    /// Everything of the plan is taken away, and the rows on the side that does not own them.
    Ending(End),
    Finished,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Finish,
    Cancel,
}

/// The map changes, in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub to: Side,
    /// When the gate was asked for.
    pub since: Moment,
    pub max_pause_ms: u64,
    pub stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// On every proxy, new transactions on moving keys wait, and open ones end.
    Gating,
    /// On each shard that loses keys: lock, guard, fence.
    Fencing,
    /// Until the shards that get the keys have applied what came before the fences.
    Applying { fences: BTreeMap<ShardName, Lsn> },
    /// The map changes to this epoch: the point of no return.
    Committing { epoch: MapEpoch },
    /// The shards that got the keys accept writes, then the gate opens.
    Releasing,
    /// The shards that were to lose keys accept writes again, then the gate opens.
    Undoing { why: Box<str>, then: Then },
}

/// What follows a turn that was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// As it was, and again later.
    Again,
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub max_pause_ms: u64,
    pub not_before: Moment,
    /// How often it was given up.
    pub tries: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Grows with every CHECK; 0: never asked for.
    pub round: u32,
    /// Found in this round; `None`: not known yet.
    pub problems: Option<Vec<Box<str>>>,
    /// What is good to know, found in this round.
    #[serde(default)]
    pub notes: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// 0: not asked for since the last turn.
    pub round: u32,
    /// Rows that differ, found in this round; `None`: not known yet.
    pub differences: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WayBack {
    Open,
    /// The stream of the way back has been lost; why.
    Lost(Box<str>),
}

/// A turn is given up for good after so many tries.
const MOST_TRIES: u32 = 20;
/// Between tries, for each that failed.
const WAIT_MS: u64 = 500;
const LONGEST_WAIT_MS: u64 = 10_000;

/// What is saved next, and what is then done.
pub fn step(job: &Job, seen: &Observed) -> (Job, Vec<Action>) {
    if seen.map.is_some_and(|map| map.epoch < job.epoch) {
        // Read before what is already known: it says nothing.
        return (job.clone(), Vec::new());
    }
    let next = job.advanced(seen);
    let actions = next.actions(seen);
    (next, actions)
}

impl Job {
    /// A plan that nothing has been done for.
    pub fn new(plan: Plan, epoch: MapEpoch) -> Job {
        Job {
            plan,
            phase: Phase::Planned,
            pace: Pace::Going,
            throttle: Throttle::default(),
            owner: Side::Old,
            epoch,
            term: Term(1),
            objects: BTreeMap::new(),
            check: Check::default(),
            verification: Verification::default(),
            last_round: 0,
            wish: None,
            way_back: WayBack::Open,
            note: None,
        }
    }

    /// Neither anything is left to do, nor can anything be asked for.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Cancelled)
    }

    /// The shards that have moving keys under a map.
    pub fn shards_of(&self, side: Side) -> BTreeSet<&ShardName> {
        let routes = self.plan.routes.iter();
        match side {
            Side::Old => routes.map(|route| &route.from).collect(),
            Side::New => routes.map(|route| &route.to).collect(),
        }
    }

    /// All shards of the plan.
    fn shards(&self) -> BTreeSet<&ShardName> {
        let mut shards = self.shards_of(Side::Old);
        shards.append(&mut self.shards_of(Side::New));
        shards
    }

    /// The streams that bring changes from the owner of this map to the other side.
    fn streams_from(&self, owner: Side) -> BTreeSet<Route> {
        let routes = self.plan.routes.iter();
        match owner {
            Side::Old => routes.cloned().collect(),
            Side::New => routes.map(Route::back).collect(),
        }
    }

    fn advanced(&self, seen: &Observed) -> Job {
        let mut job = self.clone();
        if job.is_over() {
            return job;
        }
        if let Some(map) = seen.map {
            job.epoch = map.epoch;
        }
        job.note_slots(seen);
        job.forget_idle_slots(seen);
        if let Some(loss) = job.loss(seen) {
            job.lose_stream(&loss);
        }
        if let Some(why) = job.trouble(seen)
            && matches!(job.pace, Pace::Going | Pace::Paused)
        {
            job.pace = Pace::Stopped(why);
        }
        job.move_on(seen);
        job
    }

    fn note_slots(&mut self, seen: &Observed) {
        for (shard, objects) in &mut self.objects {
            let there = |fact: &ShardFact| matches!(fact.slot, Slot::There { .. });
            objects.slot_seen |= seen.shards.get(shard).is_some_and(there);
        }
    }

    /// A shard that owns no moving keys has nothing to say, so its slot can be made anew where it is gone: a replica that was promoted has none (before
    /// Postgres 17). Once a commit is asked for it may be the owner.
    fn forget_idle_slots(&mut self, seen: &Observed) {
        let settled = match &self.phase {
            Phase::Following | Phase::Verified | Phase::CutOver | Phase::RolledBack => true,
            Phase::Turning(turn) => turn.can_be_undone(),
            _ => false,
        };
        if !settled || self.way_back != WayBack::Open {
            return;
        }
        let owners: BTreeSet<ShardName> = self.shards_of(self.owner).into_iter().cloned().collect();
        let mut gone = None;
        for (shard, objects) in &mut self.objects {
            let absent = |fact: &ShardFact| fact.slot == Slot::Absent;
            if objects.slot_seen
                && !owners.contains(shard)
                && seen.shards.get(shard).is_some_and(absent)
            {
                objects.slot_seen = false;
                gone = Some(format!("the slot on {shard} is made anew"));
            }
        }
        if let Some(why) = gone {
            self.undo(&why, Then::Again);
        }
    }

    /// Why a stream cannot go on from where it was: changes are missing, or soon would be.
    fn loss(&self, seen: &Observed) -> Option<Box<str>> {
        let running = match &self.phase {
            Phase::Copying
            | Phase::Following
            | Phase::Verified
            | Phase::CutOver
            | Phase::RolledBack => true,
            // At its end it is found soon enough.
            Phase::Turning(turn) => turn.can_be_undone(),
            _ => false,
        };
        if !running || self.way_back != WayBack::Open {
            return None;
        }
        let too_long = seen.troubles.iter().find_map(|trouble| match trouble {
            Trouble::WalLimit { shard } => Some(format!(
                "the log kept for its slot on {} has reached its limit",
                shard.0
            )),
            Trouble::Other(_) => None,
        });
        let gone = self.objects.iter().find_map(|(shard, objects)| {
            let slot = seen.shards.get(shard)?.slot;
            let lost = slot == Slot::Lost || (objects.slot_seen && slot == Slot::Absent);
            lost.then(|| format!("its slot {} on {} is lost", objects.slot, shard.0))
        });
        too_long.or(gone).map(Into::into)
    }

    /// While the old shards have the keys nothing is lost by beginning again; afterwards there is no way back any more.
    fn lose_stream(&mut self, why: &str) {
        match (&self.phase, self.owner) {
            (Phase::Turning(_), Side::Old) => {
                self.undo(&with_way_out(why), Then::Cancel);
            }
            (_, Side::Old) => {
                self.note = Some(with_way_out(why).into());
                self.end(End::Cancel);
            }
            (_, Side::New) => {
                self.way_back = WayBack::Lost(why.into());
                self.wish = None;
                self.undo(why, Then::Again);
            }
        }
    }

    fn trouble(&self, seen: &Observed) -> Option<Box<str>> {
        if seen.map.is_some_and(|map| map.side.is_none()) {
            return Some(
                "the map in force is neither the one this plan began with nor the one it makes"
                    .into(),
            );
        }
        seen.troubles.iter().find_map(|trouble| match trouble {
            Trouble::Other(why) => Some(why.clone()),
            Trouble::WalLimit { .. } => None,
        })
    }

    fn move_on(&mut self, seen: &Observed) {
        match &self.phase {
            Phase::Planned | Phase::Checked => self.take_check(seen),
            Phase::Copying => {
                if self.is_copied(seen) {
                    self.phase = Phase::Following;
                }
            }
            Phase::Following | Phase::RolledBack => {
                self.take_verification(seen);
                if self.verification.round > 0 && self.verification.differences == Some(0) {
                    self.phase = Phase::Verified;
                    self.note = None;
                }
            }
            Phase::Verified => self.begin_turn(Side::New, seen),
            Phase::CutOver => {
                self.take_verification(seen);
                self.begin_turn(Side::Old, seen);
            }
            Phase::Turning(turn) => self.turn_on(&turn.clone(), seen),
            Phase::Ending(end) => {
                if self.is_ended(seen) {
                    self.phase = match end {
                        End::Finish => Phase::Finished,
                        End::Cancel => Phase::Cancelled,
                    };
                }
            }
            Phase::Finished | Phase::Cancelled => {}
        }
    }

    fn take_check(&mut self, seen: &Observed) {
        let Some(found) = &seen.check else { return };
        if self.check.round == 0 || found.round != self.check.round || self.check.problems.is_some()
        {
            return;
        }
        self.check.problems = Some(found.problems.clone());
        self.check.notes = found.notes.clone();
        self.phase = match found.problems.is_empty() {
            true => Phase::Checked,
            false => Phase::Planned,
        };
    }

    fn is_copied(&self, seen: &Observed) -> bool {
        let routes = self.plan.routes.iter();
        let mut copied = routes.map(|route| seen.streams.get(route).is_some_and(|s| s.copied));
        let built = |shard: &&ShardName| seen.shards.get(*shard).is_some_and(|fact| fact.indexed);
        copied.all(|copied| copied) && self.shards_of(Side::New).iter().all(built)
    }

    /// The result of the round that was asked for, when every stream has one.
    fn take_verification(&mut self, seen: &Observed) {
        if self.verification.round == 0 || self.verification.differences.is_some() {
            return;
        }
        let mut sum = 0;
        for stream in self.streams_from(self.owner) {
            let found = seen.streams.get(&stream).and_then(|fact| fact.verified);
            match found.filter(|found| found.round == self.verification.round) {
                Some(found) => sum += found.differences,
                None => return,
            }
        }
        self.verification.differences = Some(sum);
        if sum > 0 {
            self.note = Some(format!("{sum} rows differ").into());
        }
    }

    /// A turn begins only when nothing is known that would make it wait.
    fn begin_turn(&mut self, to: Side, seen: &Observed) {
        let Some(wish) = self.wish else { return };
        let in_force = seen.map.is_some_and(|map| map.side == Some(self.owner));
        let slots = self.objects.keys().all(|shard| {
            seen.shards
                .get(shard)
                .is_some_and(|fact| matches!(fact.slot, Slot::There { .. }))
        });
        let close = self
            .streams_from(self.owner)
            .iter()
            .all(|stream| seen.streams.get(stream).is_some_and(|s| s.caught_up));
        if seen.now < wish.not_before
            || self.pace != Pace::Going
            || !in_force
            || !slots
            || !close
            || seen.proxies.is_none()
        {
            return;
        }
        self.term = Term(self.term.0 + 1);
        self.phase = Phase::Turning(Turn {
            to,
            since: seen.now,
            max_pause_ms: wish.max_pause_ms,
            stage: Stage::Gating,
        });
    }

    fn turn_on(&mut self, turn: &Turn, seen: &Observed) {
        let losing = self.shards_of(turn.to.other());
        let stage = match &turn.stage {
            Stage::Gating => self.is_gated(seen).then_some(Stage::Fencing),
            Stage::Fencing => self
                .fences(&losing, turn.to.other().keys(), seen)
                .map(|fences| Stage::Applying { fences }),
            Stage::Applying { .. } => {
                let applied = |stream: &Route| {
                    let fact = seen.streams.get(stream);
                    fact.is_some_and(|fact| fact.fence_applied == Some(self.term))
                };
                let all = self.streams_from(turn.to.other()).iter().all(applied);
                all.then_some(Stage::Committing {
                    epoch: MapEpoch(self.epoch.0 + 1),
                })
            }
            Stage::Committing { epoch } => {
                match seen
                    .map
                    .filter(|map| map.epoch >= *epoch)
                    .map(|map| map.side)
                {
                    Some(Some(side)) if side == turn.to => {
                        self.owner = turn.to;
                        self.term = Term(self.term.0 + 1);
                        Some(Stage::Releasing)
                    }
                    // The epoch was taken by another change, so this commit can never be done.
                    Some(_) => return self.undo("the map was changed meanwhile", Then::Again),
                    None => None,
                }
            }
            Stage::Releasing => {
                if self.is_released(seen, turn.to) {
                    self.wish = None;
                    self.note = None;
                    self.phase = match turn.to {
                        Side::New => Phase::CutOver,
                        Side::Old => Phase::RolledBack,
                    };
                    self.verification = Verification::default();
                }
                return;
            }
            Stage::Undoing { why, then } => {
                if self.is_released(seen, turn.to.other()) {
                    self.undone(turn, why, *then, seen.now);
                }
                return;
            }
        };
        match stage {
            Some(stage) => {
                self.phase = Phase::Turning(Turn {
                    stage,
                    ..turn.clone()
                })
            }
            None if !turn.can_be_undone() => {}
            None if self.pace != Pace::Going => self.undo("the plan was paused", Then::Again),
            None if seen.now.0.saturating_sub(turn.since.0) > turn.max_pause_ms => {
                let why = match &turn.stage {
                    Stage::Gating => "transactions on moving keys did not end in time",
                    Stage::Fencing => "the tables could not be locked in time",
                    _ => "the other shards did not catch up in time",
                };
                self.undo(why, Then::Again);
            }
            None => {}
        }
    }

    /// Every proxy that may still send anything waits with moving keys.
    fn is_gated(&self, seen: &Observed) -> bool {
        let closed = GateFact {
            term: self.term,
            state: GateState::Closed,
        };
        let gated = |proxy: &ProxyFact| {
            !proxy.lease_live || (proxy.gate == Some(self.term) && proxy.drained)
        };
        seen.gate == Some(closed)
            && seen
                .proxies
                .as_ref()
                .is_some_and(|proxies| proxies.values().all(gated))
    }

    /// The fences of this term, once they are on every losing shard and nobody left behind is connected there.
    fn fences(
        &self,
        losing: &BTreeSet<&ShardName>,
        keys: MovingKeys,
        seen: &Observed,
    ) -> Option<BTreeMap<ShardName, Lsn>> {
        losing
            .iter()
            .map(|shard| {
                let fact = seen.shards.get(*shard)?;
                let (term, lsn) = fact.fence?;
                let stands = term == self.term && fact.guards.contains(&keys) && !fact.strangers;
                stands.then(|| ((*shard).clone(), lsn))
            })
            .collect()
    }

    /// The owner's shards accept writes (as far as they can be seen: one that cannot be reached keeps nobody waiting), and the gate is open.
    fn is_released(&self, seen: &Observed, owner: Side) -> bool {
        let open = GateFact {
            term: self.term,
            state: GateState::Open,
        };
        self.is_unguarded(seen, owner) && seen.gate == Some(open)
    }

    fn is_unguarded(&self, seen: &Observed, owner: Side) -> bool {
        self.shards_of(owner).iter().all(|shard| {
            let Some(fact) = seen.shards.get(*shard) else {
                return true;
            };
            fact.ledger.term() >= Some(self.term) && !fact.guards.contains(&owner.keys())
        })
    }

    /// Of a turn; in any other phase there is nothing to undo.
    fn undo(&mut self, why: &str, then: Then) {
        let Phase::Turning(turn) = &mut self.phase else {
            return;
        };
        self.term = Term(self.term.0 + 1);
        turn.stage = Stage::Undoing {
            why: why.into(),
            then,
        };
    }

    fn undone(&mut self, turn: &Turn, why: &str, then: Then, now: Moment) {
        self.note = Some(why.into());
        self.phase = match turn.to {
            Side::New => Phase::Verified,
            Side::Old => Phase::CutOver,
        };
        if then == Then::Cancel {
            return self.end(End::Cancel);
        }
        self.wish = self.wish.and_then(|wish| {
            let tries = wish.tries + 1;
            let wait = (WAIT_MS * u64::from(tries)).min(LONGEST_WAIT_MS);
            (tries < MOST_TRIES).then_some(Wish {
                tries,
                not_before: Moment(now.0 + wait),
                ..wish
            })
        });
    }

    fn end(&mut self, end: End) {
        self.term = Term(self.term.0 + 1);
        self.wish = None;
        // Where nothing was made nothing is left.
        self.phase = match (self.objects.is_empty(), end) {
            (false, end) => Phase::Ending(end),
            (true, End::Finish) => Phase::Finished,
            (true, End::Cancel) => Phase::Cancelled,
        };
    }

    fn is_ended(&self, seen: &Observed) -> bool {
        let gate_open = seen.gate.is_none_or(|gate| gate.state == GateState::Open);
        let clean = |shard: &ShardName| {
            seen.shards.get(shard).is_some_and(|fact| {
                matches!(fact.ledger, Ledger::Closed { .. })
                    && fact.slot == Slot::Absent
                    && !fact.publication
                    && fact.guards.is_empty()
            })
        };
        let loser = self.owner.other();
        let removed = |shard: &&ShardName| {
            let fact = seen.shards.get(*shard);
            fact.is_some_and(|fact| !fact.rows.contains(&loser.keys()))
        };
        gate_open && self.objects.keys().all(clean) && self.shards_of(loser).iter().all(removed)
    }
}

/// Of a plan that ends by itself while the old shards have the keys.
fn with_way_out(why: &str) -> String {
    format!(
        "{why}; the old shards have all rows, and the plan can be made anew when it is cancelled"
    )
}

impl Turn {
    /// The commit has not been asked for.
    pub fn can_be_undone(&self) -> bool {
        matches!(
            self.stage,
            Stage::Gating | Stage::Fencing | Stage::Applying { .. }
        )
    }
}

#[cfg(test)]
mod tests;
