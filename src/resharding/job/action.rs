//! What is to be done, as it follows from the saved job and what is seen. Each action can be run twice, and late (see [`super`]).

use std::collections::BTreeSet;

use super::{
    GateState, Job, Ledger, MapEpoch, MovingKeys, Observed, Pace, Phase, Route, ShardFact,
    ShardName, Side, Slot, Stage, Term, Throttle, Turn, WayBack,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Find everything that stands against the plan.
    Check {
        round: u32,
    },
    /// Make the plan's ledger, unless there is one, open or closed; and, where rows arrive, the tables that are missing.
    Open {
        shard: ShardName,
        term: Term,
    },
    /// Needs an open ledger.
    MakePublication {
        shard: ShardName,
        name: Box<str>,
    },
    /// Needs an open ledger.
    MakeSlot {
        shard: ShardName,
        name: Box<str>,
    },
    /// Refuse writes to these keys from anyone but who replicates. Needs an open ledger.
    Guard {
        shard: ShardName,
        keys: MovingKeys,
        term: Term,
    },
    /// Copy on: chunks that the receiving shard has not noted. In the transaction of each chunk its ledger is seen to be open.
    Copy {
        route: Route,
        throttle: Throttle,
    },
    /// Build indexes and constraints. Needs an open ledger.
    BuildIndexes {
        shard: ShardName,
    },
    /// Apply changes on, fences with them. In each transaction the receiving ledger is seen to be open.
    Follow {
        stream: Route,
    },
    /// Compare both sides, and note the result on the receiving one.
    Verify {
        stream: Route,
        round: u32,
    },
    /// Close the gate. The pause bounds how long clients wait: a proxy that hears nothing for longer gives them an error that may be retried,
    /// never a way through.
    Gate {
        term: Term,
        max_pause_ms: u64,
    },
    /// In one transaction with a short `lock_timeout`: lock the tables, guard these keys, emit a fence of this term, note it. Needs an open ledger.
    Fence {
        shard: ShardName,
        keys: MovingKeys,
        term: Term,
    },
    /// End the sessions of proxies whose lease has ended.
    EndStrangers {
        shard: ShardName,
    },
    /// Change the commit record, if its epoch is still the one expected.
    Commit {
        expected: MapEpoch,
        epoch: MapEpoch,
        to: Side,
    },
    /// Accept writes to these keys again, and no order of an older term.
    Unguard {
        shard: ShardName,
        keys: MovingKeys,
        term: Term,
    },
    /// Open the gate; a proxy lets nobody through before it has the map of this epoch.
    Release {
        term: Term,
        epoch: MapEpoch,
    },
    /// Close the ledger, made if there is none.
    Close {
        shard: ShardName,
        term: Term,
    },
    DropSlot {
        shard: ShardName,
        name: Box<str>,
    },
    /// Remove a chunk of the rows with these keys, marked as replicated. Needs a closed ledger.
    RemoveRows {
        shard: ShardName,
        keys: MovingKeys,
        throttle: Throttle,
    },
    DropPublication {
        shard: ShardName,
        name: Box<str>,
    },
}

impl Job {
    pub(super) fn actions(&self, seen: &Observed) -> Vec<Action> {
        let mut actions = Vec::new();
        match &self.phase {
            Phase::Planned | Phase::Checked => {
                if self.check.round > 0 && self.check.problems.is_none() {
                    let round = self.check.round;
                    actions.push(Action::Check { round });
                }
            }
            Phase::Copying => {
                self.prepare(seen, &[Side::Old], &mut actions);
                self.guard(seen, None, &mut actions);
                self.copy(seen, &mut actions);
                self.follow(seen, &[Side::Old], &mut actions);
            }
            Phase::Following | Phase::Verified | Phase::CutOver | Phase::RolledBack => {
                self.prepare(seen, &[Side::Old, Side::New], &mut actions);
                self.guard(seen, None, &mut actions);
                match self.way_back {
                    WayBack::Open => self.follow(seen, &[Side::Old, Side::New], &mut actions),
                    WayBack::Lost(_) => self.drop_slots(seen, &mut actions),
                }
                self.verify(seen, &mut actions);
                self.open_gate(seen, &mut actions);
            }
            Phase::Turning(turn) => self.turn(turn, seen, &mut actions),
            Phase::Ending(_) => self.end_all(seen, &mut actions),
            Phase::Finished | Phase::Cancelled => {}
        }
        actions
    }

    /// Ledgers everywhere; publications and slots on these sides.
    fn prepare(&self, seen: &Observed, sides: &[Side], actions: &mut Vec<Action>) {
        if self.pace != Pace::Going {
            return;
        }
        for shard in self.shards() {
            if let Some(fact) = seen.shards.get(shard)
                && fact.ledger == Ledger::Absent
            {
                actions.push(Action::Open {
                    shard: shard.clone(),
                    term: self.term,
                });
            }
        }
        // Without a way back its slots are not made anew.
        if self.way_back != WayBack::Open {
            return;
        }
        for shard in sides.iter().flat_map(|side| self.shards_of(*side)) {
            let (Some(objects), Some(fact)) = (self.objects.get(shard), seen.shards.get(shard))
            else {
                continue;
            };
            if !is_open(fact) {
                continue;
            }
            if !fact.publication {
                actions.push(Action::MakePublication {
                    shard: shard.clone(),
                    name: objects.publication.clone(),
                });
            } else if fact.slot == Slot::Absent && !objects.slot_seen {
                actions.push(Action::MakeSlot {
                    shard: shard.clone(),
                    name: objects.slot.clone(),
                });
            }
        }
    }

    /// The side that does not own the keys is guarded, the owner is not, unless it is being fenced.
    fn guard(&self, seen: &Observed, fenced: Option<Side>, actions: &mut Vec<Action>) {
        for side in [Side::Old, Side::New] {
            let keys = side.keys();
            for shard in self.shards_of(side) {
                let Some(fact) = seen.shards.get(shard).filter(|fact| is_open(fact)) else {
                    continue;
                };
                let (shard, term) = (shard.clone(), self.term);
                let there = fact.guards.contains(&keys);
                if side != self.owner && !there {
                    actions.push(Action::Guard { shard, keys, term });
                } else if side == self.owner && fenced != Some(side) && there {
                    actions.push(Action::Unguard { shard, keys, term });
                }
            }
        }
    }

    fn copy(&self, seen: &Observed, actions: &mut Vec<Action>) {
        if self.pace != Pace::Going {
            return;
        }
        for route in &self.plan.routes {
            let copied = seen.streams.get(route).is_some_and(|fact| fact.copied);
            if self.flows(route, seen) && !copied {
                let guarded = |fact: &ShardFact| fact.guards.contains(&MovingKeys::Arriving);
                if seen.shards.get(&route.to).is_some_and(guarded) {
                    actions.push(Action::Copy {
                        route: route.clone(),
                        throttle: self.throttle,
                    });
                }
            }
        }
        for shard in self.shards_of(Side::New) {
            let mut routes = self.plan.routes.iter().filter(|route| route.to == *shard);
            let all = routes.all(|route| seen.streams.get(route).is_some_and(|fact| fact.copied));
            if all
                && seen
                    .shards
                    .get(shard)
                    .is_some_and(|fact| is_open(fact) && !fact.indexed)
            {
                actions.push(Action::BuildIndexes {
                    shard: shard.clone(),
                });
            }
        }
    }

    /// Whether changes can go this way.
    fn flows(&self, stream: &Route, seen: &Observed) -> bool {
        let slot = |fact: &ShardFact| matches!(fact.slot, Slot::There { .. });
        seen.shards.get(&stream.from).is_some_and(slot)
            && seen.shards.get(&stream.to).is_some_and(is_open)
    }

    /// The streams from the owners of these maps. Each runs always: the one that brings nothing keeps its slot from holding the log. All that share a
    /// slot run, or none of them: the slot forgets what those have that read it, and another one would miss that.
    fn follow(&self, seen: &Observed, owners: &[Side], actions: &mut Vec<Action>) {
        if matches!(self.pace, Pace::Stopped(_)) {
            return;
        }
        let mut streams: Vec<Route> = owners
            .iter()
            .flat_map(|owner| self.streams_from(*owner))
            .collect();
        streams.sort();
        streams.dedup();
        let dry: BTreeSet<ShardName> = { streams.iter() }
            .filter(|stream| !self.flows(stream, seen))
            .map(|stream| stream.from.clone())
            .collect();
        streams.retain(|stream| !dry.contains(&stream.from));
        actions.extend(streams.into_iter().map(|stream| Action::Follow { stream }));
    }

    fn verify(&self, seen: &Observed, actions: &mut Vec<Action>) {
        let round = self.verification.round;
        if self.pace != Pace::Going || round == 0 || self.verification.differences.is_some() {
            return;
        }
        for stream in self.streams_from(self.owner) {
            let found = seen.streams.get(&stream).and_then(|fact| fact.verified);
            if self.flows(&stream, seen) && found.is_none_or(|found| found.round != round) {
                actions.push(Action::Verify { stream, round });
            }
        }
    }

    /// A gate that is closed though no turn is going on was closed late.
    fn open_gate(&self, seen: &Observed, actions: &mut Vec<Action>) {
        if seen
            .gate
            .is_some_and(|gate| gate.state == GateState::Closed)
        {
            actions.push(Action::Release {
                term: self.term,
                epoch: self.epoch,
            });
        }
    }

    fn turn(&self, turn: &Turn, seen: &Observed, actions: &mut Vec<Action>) {
        let losing = turn.to.other();
        let fenced = match turn.stage {
            // A driver that died may have fenced already; that stands, or changes could come behind its place in the log.
            Stage::Gating | Stage::Fencing | Stage::Applying { .. } | Stage::Committing { .. } => {
                Some(losing)
            }
            Stage::Releasing | Stage::Undoing { .. } => None,
        };
        self.guard(seen, fenced, actions);
        self.follow(seen, &[Side::Old, Side::New], actions);
        match &turn.stage {
            Stage::Gating => actions.push(Action::Gate {
                term: self.term,
                max_pause_ms: turn.max_pause_ms,
            }),
            Stage::Fencing => self.fence(losing, seen, actions),
            Stage::Applying { .. } => {}
            Stage::Committing { epoch } => actions.push(Action::Commit {
                expected: MapEpoch(epoch.0 - 1),
                epoch: *epoch,
                to: turn.to,
            }),
            Stage::Releasing => self.release(turn.to, seen, actions),
            Stage::Undoing { .. } => self.release(losing, seen, actions),
        }
    }

    fn fence(&self, losing: Side, seen: &Observed, actions: &mut Vec<Action>) {
        let keys = losing.keys();
        for shard in self.shards_of(losing) {
            let Some(fact) = seen.shards.get(shard) else {
                continue;
            };
            if fact.strangers {
                actions.push(Action::EndStrangers {
                    shard: shard.clone(),
                });
            }
            let fenced = fact.fence.is_some_and(|(term, _)| term == self.term);
            if !fenced || !fact.guards.contains(&keys) {
                actions.push(Action::Fence {
                    shard: shard.clone(),
                    keys,
                    term: self.term,
                });
            }
        }
    }

    /// First the owner's shards accept writes and no older order, then the gate opens.
    fn release(&self, owner: Side, seen: &Observed, actions: &mut Vec<Action>) {
        for shard in self.shards_of(owner) {
            let Some(fact) = seen.shards.get(shard) else {
                continue;
            };
            let unguard = Action::Unguard {
                shard: shard.clone(),
                keys: owner.keys(),
                term: self.term,
            };
            if fact.ledger.term() < Some(self.term) && !actions.contains(&unguard) {
                actions.push(unguard);
            }
        }
        if self.is_unguarded(seen, owner) {
            actions.push(Action::Release {
                term: self.term,
                epoch: self.epoch,
            });
        }
    }

    /// One after the other: nothing can come any more; the logs are let go; the rows go; the guards go when nobody is left behind.
    fn end_all(&self, seen: &Observed, actions: &mut Vec<Action>) {
        self.open_gate(seen, actions);
        self.accept_writes(seen, actions);
        let facts: Vec<_> = self
            .objects
            .iter()
            .filter_map(|(shard, objects)| Some((shard, objects, seen.shards.get(shard)?)))
            .collect();
        let open = facts
            .iter()
            .filter(|(_, _, fact)| !matches!(fact.ledger, Ledger::Closed { .. }));
        let close: Vec<_> = open
            .map(|(shard, _, _)| Action::Close {
                shard: (*shard).clone(),
                term: self.term,
            })
            .collect();
        if !close.is_empty() || facts.len() < self.objects.len() {
            return actions.extend(close);
        }
        let before = actions.len();
        self.drop_slots(seen, actions);
        if actions.len() > before {
            return;
        }
        for (shard, objects, fact) in facts {
            if fact.publication {
                actions.push(Action::DropPublication {
                    shard: shard.clone(),
                    name: objects.publication.clone(),
                });
            }
            self.clear(shard, fact, seen, actions);
        }
    }

    /// The log is kept for nobody any more.
    fn drop_slots(&self, seen: &Observed, actions: &mut Vec<Action>) {
        for (shard, objects) in &self.objects {
            let there = |fact: &ShardFact| fact.slot != Slot::Absent;
            if seen.shards.get(shard).is_some_and(there) {
                actions.push(Action::DropSlot {
                    shard: shard.clone(),
                    name: objects.slot.clone(),
                });
            }
        }
    }

    /// The owner of the keys is not guarded, however the plan came to its end.
    fn accept_writes(&self, seen: &Observed, actions: &mut Vec<Action>) {
        let keys = self.owner.keys();
        for shard in self.shards_of(self.owner) {
            let guarded = |fact: &ShardFact| fact.guards.contains(&keys);
            if seen.shards.get(shard).is_some_and(guarded) {
                actions.push(Action::Unguard {
                    shard: shard.clone(),
                    keys,
                    term: self.term,
                });
            }
        }
    }

    /// Rows and guard on a shard that does not own the keys.
    fn clear(
        &self,
        shard: &ShardName,
        fact: &ShardFact,
        seen: &Observed,
        actions: &mut Vec<Action>,
    ) {
        let loser = self.owner.other();
        let keys = loser.keys();
        if !self.shards_of(loser).contains(shard) {
            return;
        }
        let shard = shard.clone();
        if fact.rows.contains(&keys) {
            // Only while it is seen that others own the keys.
            let owned = seen.map.is_some_and(|map| map.side == Some(self.owner));
            if self.pace == Pace::Going && owned {
                let throttle = self.throttle;
                actions.push(Action::RemoveRows {
                    shard,
                    keys,
                    throttle,
                });
            }
        } else if fact.guards.contains(&keys) {
            if fact.strangers {
                actions.push(Action::EndStrangers { shard });
            } else if self.all_have_the_map(seen) {
                let term = self.term;
                actions.push(Action::Unguard { shard, keys, term });
            }
        }
    }

    /// No proxy that works would still send moving keys to the side that does not own them.
    fn all_have_the_map(&self, seen: &Observed) -> bool {
        seen.proxies.as_ref().is_some_and(|proxies| {
            proxies
                .values()
                .all(|proxy| !proxy.lease_live || proxy.epoch >= self.epoch)
        })
    }
}

fn is_open(fact: &ShardFact) -> bool {
    matches!(fact.ledger, Ledger::Open { .. })
}
