//! A model of everything a plan touches: shards with rows, logs, slots and guards; the store; proxies with clients; people with psql.
//!
//! It does what real servers would do with an action, and no more: it keeps the promises written in [`super::super`] (terms, ledgers, epochs),
//! and watches what must never happen. Time, schedules and faults are the tests'.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;

pub const PROXIES: usize = 3;

/// Where each key is before and after.
#[derive(Clone, Debug)]
pub struct Ways {
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

impl Ways {
    pub fn moves(&self, key: usize) -> bool {
        self.before[key] != self.after[key]
    }

    fn owner(&self, key: usize, side: Side) -> usize {
        match side {
            Side::Old => self.before[key],
            Side::New => self.after[key],
        }
    }

    /// The moving keys of a shard.
    fn has(&self, shard: usize, keys: MovingKeys, key: usize) -> bool {
        self.moves(key)
            && match keys {
                MovingKeys::Leaving => self.before[key] == shard,
                MovingKeys::Arriving => self.after[key] == shard,
            }
    }

    pub fn shards(&self) -> usize {
        1 + self.before.iter().chain(&self.after).max().unwrap()
    }

    pub fn plan(&self) -> Plan {
        let routes = (0..self.before.len()).filter(|key| self.moves(*key));
        Plan {
            name: "split".into(),
            number: 7,
            database: "app".into(),
            maps: vec![],
            tables: vec!["public.t".into()],
            routes: routes
                .map(|key| Route {
                    from: name(self.before[key]),
                    to: name(self.after[key]),
                })
                .collect(),
        }
    }
}

pub fn name(shard: usize) -> ShardName {
    ShardName(format!("s{shard}").into())
}

fn number(shard: &ShardName) -> usize {
    shard.0[1..].parse().unwrap()
}

#[derive(Clone, Debug)]
enum Entry {
    Write {
        key: usize,
        value: Option<u64>,
        replicated: bool,
    },
    Fence(Term),
}

#[derive(Clone, Debug)]
struct Shard {
    rows: BTreeMap<usize, u64>,
    log: Vec<Entry>,
    ledger: Ledger,
    publication: bool,
    /// Where in the log the slot began.
    slot: Option<usize>,
    slot_lost: bool,
    guards: BTreeSet<MovingKeys>,
    fence: Option<(Term, Lsn)>,
    indexed: bool,
    /// By the shard a stream comes from.
    streams: BTreeMap<usize, Progress>,
}

#[derive(Clone, Debug)]
struct Progress {
    applied: usize,
    copied: BTreeSet<usize>,
    fence: Option<Term>,
    verified: Option<VerifyFact>,
}

#[derive(Clone, Debug)]
pub struct Proxy {
    pub running: bool,
    pub lease: bool,
    map: (MapEpoch, Side),
    gate: Option<Gate>,
    connected: BTreeSet<usize>,
    open: Vec<(usize, usize, Option<u64>)>,
}

#[derive(Clone, Copy, Debug)]
struct Gate {
    term: Term,
    state: GateState,
    epoch: MapEpoch,
}

#[derive(Clone, Debug)]
pub struct World {
    pub ways: Ways,
    shards: Vec<Shard>,
    /// The saved job, as it is read again.
    saved: Job,
    map: (MapEpoch, Side),
    gate: Option<Gate>,
    pub proxies: Vec<Proxy>,
    check: Option<CheckFact>,
    /// Acknowledged to somebody.
    truth: BTreeMap<usize, u64>,
    next_value: u64,
    pub now: u64,
    pub blind: BTreeSet<usize>,
    pub store_blind: bool,
    /// Statements through proxies with a lease that a guard refused.
    pub refused: u32,
    pub flips: u32,
    pub troubles: Vec<Trouble>,
    greatest_epoch: MapEpoch,
    greatest_term: Term,
}

impl World {
    pub fn new(ways: Ways) -> World {
        let empty = Shard {
            rows: BTreeMap::new(),
            log: vec![],
            ledger: Ledger::Absent,
            publication: false,
            slot: None,
            slot_lost: false,
            guards: BTreeSet::new(),
            fence: None,
            indexed: false,
            streams: BTreeMap::new(),
        };
        let mut shards = vec![empty; ways.shards()];
        let mut truth = BTreeMap::new();
        for (key, shard) in ways.before.iter().enumerate() {
            let value = key as u64 + 1;
            shards[*shard].rows.insert(key, value);
            truth.insert(key, value);
        }
        let map = (MapEpoch(4), Side::Old);
        let proxy = Proxy {
            running: true,
            lease: true,
            map,
            gate: None,
            connected: BTreeSet::new(),
            open: vec![],
        };
        World {
            saved: Job::new(ways.plan(), map.0),
            ways,
            shards,
            map,
            gate: None,
            proxies: vec![proxy; PROXIES],
            check: None,
            truth,
            next_value: 100,
            now: 0,
            blind: BTreeSet::new(),
            store_blind: false,
            refused: 0,
            flips: 0,
            troubles: vec![],
            greatest_epoch: map.0,
            greatest_term: Term(0),
        }
    }

    pub fn job(&self) -> &Job {
        &self.saved
    }

    pub fn save(&mut self, job: &Job) {
        assert!(job.epoch >= self.greatest_epoch, "the epoch went back");
        assert!(job.term >= self.greatest_term, "the term went back");
        self.greatest_epoch = job.epoch;
        self.greatest_term = job.term;
        self.saved = from_json(&to_json(job)).expect("what was saved can be read");
        assert_eq!(self.saved, *job);
    }

    // What clients do.

    /// A statement of a client: true when it was done.
    pub fn write(&mut self, proxy: usize, key: usize, delete: bool) -> bool {
        let value = (!delete).then_some(self.next_value);
        self.next_value += 1;
        let moving = self.ways.moves(key);
        let shard = self.ways.owner(key, self.proxies[proxy].map.1);
        let busy = self.proxies.iter().enumerate().any(|(other, one)| {
            other != proxy && one.open.iter().any(|(s, k, _)| (*s, *k) == (shard, key))
        });
        let ways = self.ways.clone();
        let one = &mut self.proxies[proxy];
        if !one.running || busy {
            return false;
        }
        let inside = one.open.iter().any(|(_, key, _)| ways.moves(*key));
        let closed = one.gate.is_some_and(|gate| gate.state == GateState::Closed);
        if moving && closed && !inside {
            return false;
        }
        if !one.connected.contains(&shard) {
            // To connect it must have a lease, and who gets a new one looks at the store.
            if !one.lease {
                self.look(proxy);
                return false;
            }
            one.connected.insert(shard);
        }
        if self.is_guarded(shard, key) {
            let one = &mut self.proxies[proxy];
            one.open.clear();
            self.refused += u32::from(one.lease);
            return false;
        }
        self.accept(shard, key);
        self.proxies[proxy].open.push((shard, key, value));
        true
    }

    pub fn commit(&mut self, proxy: usize) {
        if !self.proxies[proxy].running {
            return;
        }
        for (shard, key, value) in std::mem::take(&mut self.proxies[proxy].open) {
            self.store_row(shard, key, value, false);
            match value {
                Some(value) => self.truth.insert(key, value),
                None => self.truth.remove(&key),
            };
        }
    }

    /// Somebody with psql on the shard, who does not ask Trunkline.
    pub fn write_directly(&mut self, shard: usize, key: usize) {
        let owner = self.ways.owner(key, self.map.1);
        let guarded = self.is_guarded(shard, key);
        let busy = self
            .proxies
            .iter()
            .any(|one| one.open.iter().any(|(s, k, _)| (*s, *k) == (shard, key)));
        if guarded || busy || owner != shard {
            // A row on the wrong shard must be impossible while the plan lives.
            let alive = matches!(
                self.job().phase,
                Phase::Following
                    | Phase::Verified
                    | Phase::Turning(_)
                    | Phase::CutOver
                    | Phase::RolledBack
            );
            let concerned = self.ways.moves(key)
                && (self.ways.before[key] == shard || self.ways.after[key] == shard);
            assert!(
                guarded || busy || !alive || !concerned,
                "key {key} could be written on {shard}, which does not own it"
            );
            return;
        }
        self.accept(shard, key);
        let value = self.next_value;
        self.next_value += 1;
        self.store_row(shard, key, Some(value), false);
        self.truth.insert(key, value);
    }

    /// The heart of it: whoever accepts a write must own the key by the commit record.
    fn accept(&self, shard: usize, key: usize) {
        assert_eq!(
            shard,
            self.ways.owner(key, self.map.1),
            "key {key} was written on a shard that does not own it"
        );
    }

    fn is_guarded(&self, shard: usize, key: usize) -> bool {
        let mut guards = self.shards[shard].guards.iter();
        guards.any(|keys| self.ways.has(shard, *keys, key))
    }

    fn store_row(&mut self, shard: usize, key: usize, value: Option<u64>, replicated: bool) {
        let shard = &mut self.shards[shard];
        match value {
            Some(value) => shard.rows.insert(key, value),
            None => shard.rows.remove(&key),
        };
        shard.log.push(Entry::Write {
            key,
            value,
            replicated,
        });
    }

    // What proxies do.

    /// A proxy looks at the store: the gate first, then the map, as it must.
    pub fn look(&mut self, proxy: usize) {
        self.look_at_gate(proxy);
        self.look_at_map(proxy);
    }

    pub fn look_at_map(&mut self, proxy: usize) {
        let map = self.map;
        let one = &mut self.proxies[proxy];
        if one.running {
            one.map = map;
            one.lease = true;
        }
    }

    pub fn look_at_gate(&mut self, proxy: usize) {
        let gate = self.gate;
        let one = &mut self.proxies[proxy];
        match gate {
            // It opens only for those who have the map.
            Some(gate) if gate.state == GateState::Open && gate.epoch > one.map.0 => {}
            _ if !one.running => {}
            gate => one.gate = gate,
        }
    }

    pub fn stop(&mut self, proxy: usize) {
        self.proxies[proxy].running = false;
    }

    pub fn go_on(&mut self, proxy: usize) {
        self.proxies[proxy].running = true;
    }

    /// The lease of a stopped proxy ends.
    pub fn lease_ends(&mut self, proxy: usize) {
        if !self.proxies[proxy].running {
            self.proxies[proxy].lease = false;
        }
    }

    /// A row of the copy is changed by hand, past the guard.
    pub fn corrupt(&mut self, key: usize) {
        let shard = self.ways.owner(key, self.map.1.other());
        self.shards[shard].rows.insert(key, 1_000_000);
    }

    pub fn lose_slot(&mut self, shard: usize) {
        self.shards[shard].slot_lost = self.shards[shard].slot.is_some();
    }

    // What the driver sees.

    pub fn observe(&self) -> Observed {
        let store = |seen: Option<_>| seen.filter(|_| !self.store_blind);
        let seen = |shard: &usize| !self.blind.contains(shard);
        let shards = (0..self.shards.len()).filter(seen);
        let mut streams = BTreeMap::new();
        for to in (0..self.shards.len()).filter(seen) {
            for (from, progress) in &self.shards[to].streams {
                let route = Route {
                    from: name(*from),
                    to: name(to),
                };
                streams.insert(route, self.stream_fact(*from, to, progress));
            }
        }
        Observed {
            now: Moment(self.now),
            map: store(Some(MapFact {
                epoch: self.map.0,
                side: Some(self.map.1),
            })),
            gate: self
                .gate
                .filter(|_| !self.store_blind)
                .map(|gate| GateFact {
                    term: gate.term,
                    state: gate.state,
                }),
            shards: shards
                .map(|shard| (name(shard), self.shard_fact(shard)))
                .collect(),
            streams,
            proxies: (!self.store_blind).then(|| {
                let proxies = self.proxies.iter().enumerate();
                proxies
                    .map(|(place, proxy)| (format!("p{place}").into(), self.proxy_fact(proxy)))
                    .collect()
            }),
            check: self.check.clone(),
            troubles: self.troubles.clone(),
        }
    }

    fn proxy_fact(&self, proxy: &Proxy) -> ProxyFact {
        ProxyFact {
            lease_live: proxy.lease,
            gate: proxy
                .gate
                .filter(|gate| gate.state == GateState::Closed)
                .map(|gate| gate.term),
            drained: !proxy.open.iter().any(|(_, key, _)| self.ways.moves(*key)),
            epoch: proxy.map.0,
        }
    }

    fn shard_fact(&self, shard: usize) -> ShardFact {
        let known = &self.shards[shard];
        let has = |keys: &MovingKeys| {
            let mut rows = known.rows.keys();
            rows.any(|key| self.ways.has(shard, *keys, *key))
        };
        ShardFact {
            ledger: known.ledger,
            publication: known.publication,
            slot: match known.slot {
                Some(_) if known.slot_lost => Slot::Lost,
                Some(_) => Slot::There { retained: 0 },
                None => Slot::Absent,
            },
            guards: known.guards.clone(),
            fence: known.fence,
            indexed: known.indexed,
            strangers: self
                .proxies
                .iter()
                .any(|proxy| !proxy.lease && proxy.connected.contains(&shard)),
            rows: [MovingKeys::Leaving, MovingKeys::Arriving]
                .into_iter()
                .filter(has)
                .collect(),
        }
    }

    fn stream_fact(&self, from: usize, to: usize, progress: &Progress) -> StreamFact {
        let copied = (0..self.ways.before.len())
            .filter(|key| self.ways.before[*key] == from && self.ways.after[*key] == to)
            .all(|key| progress.copied.contains(&key));
        StreamFact {
            copied,
            caught_up: self.shards[from].log.len() - progress.applied < 10,
            fence_applied: progress.fence,
            verified: progress.verified,
        }
    }

    // What actions do.

    pub fn run(&mut self, action: &Action) {
        match action.clone() {
            Action::Check { round } => {
                self.check = Some(CheckFact {
                    round,
                    problems: vec![],
                    notes: vec![],
                });
            }
            Action::Open { shard, term } => {
                let shard = &mut self.shards[number(&shard)];
                if shard.ledger == Ledger::Absent {
                    shard.ledger = Ledger::Open { term };
                }
            }
            Action::MakePublication { shard, .. } => {
                let shard = &mut self.shards[number(&shard)];
                shard.publication |= is_open(shard);
            }
            Action::MakeSlot { shard, .. } => {
                let shard = &mut self.shards[number(&shard)];
                if is_open(shard) && shard.slot.is_none() {
                    shard.slot = Some(shard.log.len());
                }
            }
            Action::Guard { shard, keys, term } => {
                let place = number(&shard);
                if self.is_free(place) && is_open(&self.shards[place]) && self.obeys(place, term) {
                    self.shards[place].guards.insert(keys);
                }
            }
            Action::Unguard { shard, keys, term } => {
                let place = number(&shard);
                if self.obeys(place, term) {
                    self.shards[place].guards.remove(&keys);
                }
            }
            Action::Fence { shard, keys, term } => self.fence(number(&shard), keys, term),
            Action::Copy { route, .. } => self.copy(number(&route.from), number(&route.to)),
            Action::BuildIndexes { shard } => {
                let shard = &mut self.shards[number(&shard)];
                shard.indexed |= is_open(shard);
            }
            Action::Follow { stream } => self.follow(number(&stream.from), number(&stream.to)),
            Action::Verify { stream, round } => {
                self.verify(number(&stream.from), number(&stream.to), round);
            }
            Action::Gate { term, .. } => {
                if self.gate.is_none_or(|gate| term > gate.term) {
                    self.gate = Some(Gate {
                        term,
                        state: GateState::Closed,
                        epoch: self.map.0,
                    });
                }
            }
            Action::Release { term, epoch } => {
                if self.gate.is_none_or(|gate| term >= gate.term) {
                    let state = GateState::Open;
                    self.gate = Some(Gate { term, state, epoch });
                }
            }
            Action::EndStrangers { shard } => {
                let shard = number(&shard);
                for proxy in self.proxies.iter_mut().filter(|proxy| !proxy.lease) {
                    if proxy.connected.remove(&shard) {
                        // One part of a transaction is gone, so all of it is.
                        if proxy.open.iter().any(|(at, _, _)| *at == shard) {
                            proxy.open.clear();
                        }
                    }
                }
            }
            Action::Commit {
                expected,
                epoch,
                to,
            } => self.flip(expected, epoch, to),
            Action::Close { shard, term } => {
                self.shards[number(&shard)].ledger = Ledger::Closed { term };
            }
            Action::DropSlot { shard, .. } => {
                self.shards[number(&shard)].slot = None;
            }
            Action::DropPublication { shard, .. } => {
                self.shards[number(&shard)].publication = false;
            }
            Action::RemoveRows { shard, keys, .. } => self.remove_rows(number(&shard), keys),
        }
    }

    /// Whether its tables can be locked.
    fn is_free(&self, shard: usize) -> bool {
        let writes = |proxy: &Proxy| proxy.open.iter().any(|(at, _, _)| *at == shard);
        !self.proxies.iter().any(writes)
    }

    /// Notes the term, unless a greater one was noted.
    fn obeys(&mut self, shard: usize, term: Term) -> bool {
        match &mut self.shards[shard].ledger {
            Ledger::Open { term: greatest } | Ledger::Closed { term: greatest } => {
                let obeys = term >= *greatest;
                *greatest = term.max(*greatest);
                obeys
            }
            Ledger::Absent => false,
        }
    }

    fn fence(&mut self, shard: usize, keys: MovingKeys, term: Term) {
        if !self.is_free(shard) || !is_open(&self.shards[shard]) || !self.obeys(shard, term) {
            return;
        }
        let shard = &mut self.shards[shard];
        shard.guards.insert(keys);
        shard.log.push(Entry::Fence(term));
        shard.fence = Some((term, Lsn(shard.log.len() as u64)));
    }

    /// The stream's place on the receiving shard, when both ends are there.
    fn progress(&mut self, from: usize, to: usize) -> Option<&mut Progress> {
        let slot = self.shards[from]
            .slot
            .filter(|_| !self.shards[from].slot_lost)?;
        if !is_open(&self.shards[to]) {
            return None;
        }
        let streams = &mut self.shards[to].streams;
        Some(streams.entry(from).or_insert(Progress {
            applied: slot,
            copied: BTreeSet::new(),
            fence: None,
            verified: None,
        }))
    }

    /// One chunk: the next key that was not copied.
    fn copy(&mut self, from: usize, to: usize) {
        let ways = self.ways.clone();
        let Some(progress) = self.progress(from, to) else {
            return;
        };
        let next = (0..ways.before.len())
            .filter(|key| ways.before[*key] == from && ways.after[*key] == to)
            .find(|key| !progress.copied.contains(key));
        let Some(key) = next else { return };
        progress.copied.insert(key);
        if let Some(value) = self.shards[from].rows.get(&key).copied() {
            self.store_row(to, key, Some(value), true);
        }
    }

    /// A few changes; in a turn one, so that it has to wait for the fence.
    fn follow(&mut self, from: usize, to: usize) {
        let turning = matches!(self.job().phase, Phase::Turning(_));
        for _ in 0..if turning { 1 } else { 4 } {
            let entry = {
                let Some(progress) = self.progress(from, to) else {
                    return;
                };
                let place = progress.applied;
                let Some(entry) = self.shards[from].log.get(place).cloned() else {
                    return;
                };
                entry
            };
            let ours = |key: usize| {
                let (before, after) = (self.ways.before[key], self.ways.after[key]);
                (before, after) == (from, to) || (before, after) == (to, from)
            };
            let mut fence = None;
            match entry {
                Entry::Write {
                    key,
                    value,
                    replicated: false,
                } if ours(key) => self.store_row(to, key, value, true),
                Entry::Write { .. } => {}
                Entry::Fence(term) => fence = Some(term),
            }
            let progress = self.progress(from, to).expect("it was there");
            progress.applied += 1;
            progress.fence = fence.or(progress.fence);
        }
    }

    /// Both sides at one place of the stream.
    fn verify(&mut self, from: usize, to: usize, round: u32) {
        let Some(progress) = self.progress(from, to) else {
            return;
        };
        let applied = progress.applied;
        let mut theirs = self.shards[to].rows.clone();
        for entry in &self.shards[from].log[applied..] {
            if let Entry::Write {
                key,
                value,
                replicated: false,
            } = entry
            {
                match value {
                    Some(value) => theirs.insert(*key, *value),
                    None => theirs.remove(key),
                };
            }
        }
        let differences = (0..self.ways.before.len())
            .filter(|key| {
                let (before, after) = (self.ways.before[*key], self.ways.after[*key]);
                let owned = self.ways.owner(*key, self.map.1) == from;
                owned && before != after && (before == to || after == to)
            })
            .filter(|key| theirs.get(key) != self.shards[from].rows.get(key))
            .count() as u64;
        let progress = self.progress(from, to).expect("it was there");
        progress.verified = Some(VerifyFact { round, differences });
    }

    /// The commit record changes: everything that was promised must be true now.
    fn flip(&mut self, expected: MapEpoch, epoch: MapEpoch, to: Side) {
        if self.map.0 != expected {
            return;
        }
        let Phase::Turning(turn) = &self.job().phase else {
            panic!("a commit outside a turn");
        };
        assert_eq!(turn.to, to);
        assert!(epoch > self.map.0);
        for key in (0..self.ways.before.len()).filter(|key| self.ways.moves(*key)) {
            let (loses, gets) = (self.ways.owner(key, to.other()), self.ways.owner(key, to));
            assert!(
                self.is_guarded(loses, key),
                "key {key} is not guarded on {loses}"
            );
            assert_eq!(
                self.shards[gets].rows.get(&key),
                self.truth.get(&key),
                "key {key} at the commit"
            );
            let mut open = self.proxies.iter().flat_map(|proxy| &proxy.open);
            assert!(
                !open.any(|(_, written, _)| *written == key),
                "key {key} is being written"
            );
        }
        self.map = (epoch, to);
        self.flips += 1;
    }

    fn remove_rows(&mut self, shard: usize, keys: MovingKeys) {
        if !matches!(self.shards[shard].ledger, Ledger::Closed { .. }) {
            return;
        }
        let gone: Vec<usize> = self.shards[shard]
            .rows
            .keys()
            .copied()
            .filter(|key| self.ways.has(shard, keys, *key))
            .take(2)
            .collect();
        for key in gone {
            assert_ne!(
                self.ways.owner(key, self.map.1),
                shard,
                "key {key} would be removed from its owner"
            );
            self.store_row(shard, key, None, true);
        }
    }

    // What must be true in the end.

    pub fn is_clean(&self) {
        for (place, shard) in self.shards.iter().enumerate() {
            assert!(shard.slot.is_none(), "a slot is left on {place}");
            assert!(!shard.publication, "a publication is left on {place}");
            assert!(shard.guards.is_empty(), "a guard is left on {place}");
            assert!(
                !is_open(shard),
                "the ledger of {place} is open: things could be made"
            );
        }
        let closed = |gate: Gate| gate.state == GateState::Closed;
        assert!(!self.gate.is_some_and(closed), "the gate is closed");
        let mut found = BTreeMap::new();
        for (place, shard) in self.shards.iter().enumerate() {
            for (key, value) in &shard.rows {
                assert_eq!(place, self.ways.owner(*key, self.map.1), "key {key}");
                found.insert(*key, *value);
            }
        }
        assert_eq!(found, self.truth, "rows lost or made");
    }

    pub fn side(&self) -> Side {
        self.map.1
    }
}

fn is_open(shard: &Shard) -> bool {
    matches!(shard.ledger, Ledger::Open { .. })
}
