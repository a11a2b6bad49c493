//! All that is known of a shard, and the view that follows from it. Pure: the clock and the dice are the caller's.
//!
//! Looks say who is the primary (`succession.rs`) and how far the replicas are behind (`lag.rs`); clients' connections eject replicas (`ejection.rs`) and
//! make looks more frequent (`pace.rs`); administrators take nodes out. Of each node the one [`Stage`] is made here, in that order of importance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Look, Lsn, Position};
use super::drain::Service;
use super::ejection::{self, Ejection};
use super::health::Thresholds;
use super::lag::{self, Lag, Pursuit};
use super::pace::{Pace, Trouble};
use super::succession::{News, ShardHealth, Standing};
use super::view::{Mark, Marks, NodePlace, NodeView, Seen, ShardView, Stage, Written};

/// What the configuration says of all this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub thresholds: Thresholds,
    pub ejection: ejection::Limits,
    pub lag: lag::Limits,
    pub elsewhere: Elsewhere,
    pub interval: Duration,
}

/// Where reads may go that no replica takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Primary,
    /// Somebody reads from replicas only.
    Nowhere,
}

/// Something to tell the administrator, once. A number is a node's place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    News(News),
    Lagging(usize, Lag),
    CaughtUp(usize),
    /// There are no others.
    Returned(usize),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Known {
    health: ShardHealth,
    nodes: Vec<Kept>,
    history: lag::Written,
    written: Arc<Written>,
    pace: Pace,
}

/// Of one node, beside its health.
#[derive(Clone, Debug, Default)]
struct Kept {
    ejection: Ejection,
    lag: Lag,
    pursuit: Pursuit,
    service: Service,
    marks: Arc<Marks>,
    presence: Presence,
}

/// Whether a node serves, and since when again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    /// As it did when it was first seen; or nobody has seen it.
    #[default]
    Steady,
    Away,
    Returned(Instant),
}

impl Presence {
    fn next(self, stage: Stage, now: Instant) -> Presence {
        match (stage, self) {
            (Stage::Down | Stage::Refused | Stage::Fenced | Stage::Ejected | Stage::Drained, _) => {
                Presence::Away
            }
            (Stage::Up | Stage::Lagging, Presence::Away) => Presence::Returned(now),
            // One that lags has its caches and connections.
            (Stage::Unknown | Stage::Up | Stage::Lagging, same) => same,
        }
    }
}

impl Known {
    pub fn new(names: &[Box<str>]) -> Known {
        Known {
            health: ShardHealth::new(names),
            nodes: names.iter().map(|_| Kept::default()).collect(),
            history: lag::Written::default(),
            written: Arc::default(),
            pace: Pace::default(),
        }
    }

    /// The same for other nodes: at each place the one that was at the given place here, or a new one.
    pub fn rearranged(&self, names: &[Box<str>], places: &[Option<usize>]) -> Known {
        let known = |place: &Option<usize>| place.and_then(|place| self.nodes.get(place));
        Known {
            health: self.health.rearranged(names, places),
            nodes: places
                .iter()
                .map(|place| known(place).cloned().unwrap_or_default())
                .collect(),
            history: self.history.clone(),
            written: Arc::clone(&self.written),
            pace: Pace::default(),
        }
    }

    /// A look at the shard begins.
    pub fn begin(&mut self, now: Instant) {
        self.pace.begin(now);
    }

    /// Takes in looks at nodes, by their places and in that order.
    pub fn judge(&mut self, looks: Vec<(usize, Look)>, now: Instant, rules: &Rules) -> Vec<Told> {
        let mut told = Vec::new();
        if !looks.is_empty() {
            let before = self.health.primary();
            let answered: Vec<usize> = looks
                .iter()
                .filter(|(_, look)| look.answer.is_ok())
                .map(|(place, _)| *place)
                .collect();
            let news = self.health.step(looks, rules.thresholds);
            told.extend(news.into_iter().map(Told::News));
            if self.health.primary() != before {
                self.history.forget();
            }
            self.note_written(&answered);
            self.pursue(&answered, rules, &mut told);
        }
        if let Some(primary) = self.health.primary() {
            self.nodes[primary].service = Service::Offered;
        }
        self.take_back(now, rules, &mut told);
        let turning = self.health.is_doubted() || self.health.nodes().any(|node| node.is_turning());
        let trouble = match self.health.primary() {
            Some(_) if !turning => Trouble::None,
            // To knock more often does not help.
            None if self.health.taken_unseen().is_some() => Trouble::None,
            _ => Trouble::Some,
        };
        self.pace.judged(trouble, now);
        self.note_presence(now);
        told
    }

    fn note_presence(&mut self, now: Instant) {
        for place in 0..self.nodes.len() {
            let stage = self.stage(place, now);
            let node = &mut self.nodes[place];
            node.presence = node.presence.next(stage, now);
        }
    }

    /// What the primary has just said of its log.
    fn note_written(&mut self, answered: &[usize]) {
        let Some(primary) = self.health.primary() else {
            return;
        };
        let answer = self.health.node(primary).current();
        let Some(answer) = answer.filter(|_| answered.contains(&primary)) else {
            return;
        };
        if let Position::Primary { written, inserted } = answer.position {
            let asked = answer.asked;
            self.written.note(Mark {
                lsn: inserted,
                asked,
            });
            let slowest = (0..self.nodes.len()).filter_map(|place| self.replayed(place));
            self.history.note(asked, written, inserted, slowest.min());
        }
    }

    /// How far a replica has come, by its last look.
    fn replayed(&self, place: usize) -> Option<Lsn> {
        match self.health.node(place).current()?.position {
            Position::Replica { replayed, .. } => Some(replayed.unwrap_or(Lsn(0))),
            Position::Primary { .. } => None,
        }
    }

    /// How far replicas are behind, as of their last looks.
    fn pursue(&mut self, answered: &[usize], rules: &Rules, told: &mut Vec<Told>) {
        let primary = self.health.primary();
        let is_told = primary.is_some_and(|place| self.health.node(place).current().is_some());
        for place in 0..self.nodes.len() {
            let replayed = self.replayed(place);
            let sound = *self.health.standing(place) == Standing::Sound;
            let answer = self.health.node(place).current();
            let lag = match (replayed, answer) {
                (Some(replayed), Some(answer)) if is_told && sound => {
                    self.history.lag(replayed, answer.answered())
                }
                _ => Lag::default(),
            };
            let node = &mut self.nodes[place];
            node.lag = lag;
            if let Some(replayed) = replayed.filter(|_| is_told || answered.contains(&place)) {
                node.marks.note(replayed, lag.bytes, lag.time);
            }
            let pursuit = match replayed {
                Some(_) => node.pursuit.next(lag, rules.lag),
                None => node.pursuit,
            };
            match (node.pursuit, pursuit) {
                (Pursuit::Close, Pursuit::Lagging) => told.push(Told::Lagging(place, lag)),
                (Pursuit::Lagging, Pursuit::Close) => told.push(Told::CaughtUp(place)),
                _ => {}
            }
            node.pursuit = pursuit;
        }
    }

    /// Whether reads have a place to go when this replica takes none.
    fn has_elsewhere(&self, place: usize, now: Instant, rules: &Rules) -> bool {
        let primary = self.health.primary();
        let mut others = (0..self.nodes.len()).filter(|other| *other != place);
        let serves = |other: usize| primary != Some(other) && self.stage(other, now) == Stage::Up;
        (primary.is_some() && rules.elsewhere == Elsewhere::Primary) || others.any(serves)
    }

    /// Ends ejections when reads have nowhere else to go.
    fn take_back(&mut self, now: Instant, rules: &Rules, told: &mut Vec<Told>) {
        for place in 0..self.nodes.len() {
            if self.stage(place, now) == Stage::Ejected && !self.has_elsewhere(place, now, rules) {
                self.nodes[place].ejection.end(now);
                told.push(Told::Returned(place));
            }
        }
    }

    /// A client's connection has seen something of a node. Gives for how long the node is ejected when it now is.
    pub fn sighted(
        &mut self,
        place: NodePlace,
        seen: &Seen,
        now: Instant,
        dice: f64,
        rules: &Rules,
    ) -> Option<Duration> {
        let place = place.0;
        if place >= self.nodes.len() {
            // It is of a configuration that has gone.
            return None;
        }
        match seen {
            Seen::Reached => self.nodes[place].ejection.reached(),
            Seen::ReadOnly => self.pace.doubt(now),
            Seen::Awaited => self.pace.awaited(now),
            Seen::Unreachable(_) | Seen::Lost => {
                self.pace.hurry(now);
                let serves = matches!(self.stage(place, now), Stage::Up | Stage::Lagging);
                let is_primary = self.health.primary() == Some(place);
                if serves && !is_primary && self.has_elsewhere(place, now, rules) {
                    let ejected = self.nodes[place].ejection.failed(rules.ejection, now, dice);
                    self.note_presence(now);
                    return ejected;
                }
            }
        }
        None
    }

    pub fn serve(&mut self, place: usize, service: Service, now: Instant) {
        self.nodes[place].service = service;
        self.note_presence(now);
    }

    /// How much of its part of the reads a node gets, up to 1.
    pub fn share(&self, place: usize, now: Instant, slow_start: Duration) -> f64 {
        self.node_view(place, now).share(now, slow_start)
    }

    /// When the next look at the shard is due; `None`: at once. `origin`: see [`Pace::due`].
    pub fn due(&self, rules: &Rules, origin: Instant) -> Option<Instant> {
        self.pace.due(rules.interval, origin)
    }

    /// When an ejection ends.
    pub fn next_return(&self, now: Instant) -> Option<Instant> {
        let left = self.nodes.iter().filter_map(|node| node.ejection.left(now));
        left.min().map(|left| now + left)
    }

    pub fn health(&self) -> &ShardHealth {
        &self.health
    }

    pub fn lag(&self, place: usize) -> Lag {
        self.nodes[place].lag
    }

    pub fn ejection(&self, place: usize) -> &Ejection {
        &self.nodes[place].ejection
    }

    pub fn stage(&self, place: usize, now: Instant) -> Stage {
        let node = &self.nodes[place];
        let by_looks = self.health.node(place).stage();
        if by_looks != Stage::Up {
            by_looks
        } else if *self.health.standing(place) != Standing::Sound {
            Stage::Fenced
        } else if self.health.primary() == Some(place) {
            Stage::Up
        } else if node.service == Service::Drained {
            Stage::Drained
        } else if node.ejection.left(now).is_some() {
            Stage::Ejected
        } else if node.pursuit == Pursuit::Lagging {
            Stage::Lagging
        } else {
            Stage::Up
        }
    }

    /// What is wrong with a node, or was when it was last looked at.
    pub fn error(&self, place: usize) -> Option<String> {
        let standing = match self.health.standing(place) {
            Standing::Sound => None,
            fenced => Some(fenced.to_string()),
        };
        let error = self.health.node(place).error();
        let objection = self.health.objection(place);
        let all: Vec<String> = [standing, error, objection].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    pub fn view(&self, now: Instant) -> ShardView {
        let primary = self.health.taken_unseen().or(self.health.primary());
        let primary = primary.map(NodePlace);
        ShardView {
            primary,
            trouble: match primary {
                Some(_) => None,
                None => Some(self.health.trouble().into()),
            },
            nodes: (0..self.nodes.len())
                .map(|place| self.node_view(place, now))
                .collect(),
            written: Arc::clone(&self.written),
        }
    }

    fn node_view(&self, place: usize, now: Instant) -> NodeView {
        let node = &self.nodes[place];
        NodeView {
            stage: self.stage(place, now),
            marks: Arc::clone(&node.marks),
            returned: match node.presence {
                Presence::Returned(at) => Some(at),
                Presence::Steady | Presence::Away => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
