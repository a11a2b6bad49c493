//! Who of a shard's nodes takes writes. Pure: no clock, no socket.
//!
//! Every promotion begins a timeline with a greater number, and the log before it is shared by the two. So of two primaries the one on the greater
//! timeline has replaced the other, whoever still believes the opposite, and what is written to the other is lost. The greatest timeline that any node of the
//! shard was ever seen on is remembered: a primary below it gets nothing, also while nobody above it answers.
//! Two primaries on one timeline are a split that promotion does not make (a copy started by hand, one server under two names). Nothing tells who is right,
//! so the one that is in use stays, and the other is out for as long as it says that it is a primary there, even when the first one goes.
//!
//! Where nodes have a Patroni, a primary is one by both words, its own and that its Patroni holds the leader's lock. A Patroni that does not answer makes no primary, and
//! takes none away, unless another one holds the lock. One that says no does, when it says so `fall` times: after its own restart it does for a moment. A node that
//! was promoted without Patroni is on the greatest timeline, and not the leader: then nobody is the primary until Patroni has confirmed its own a few times.

use std::fmt;
use std::sync::Arc;

use super::answer::{Lock, Look, Role, SystemIdentifier, Timeline};
use super::health::{Change, NodeHealth, Thresholds, foreign};
use super::view::Stage;

/// What a node may be in its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// What it says it is.
    Sound,
    /// A primary that another one has replaced.
    Superseded {
        own: Option<Timeline>,
        newest: Timeline,
    },
    /// A replica that cannot be shown to follow the newest timeline.
    Astray {
        own: Option<Timeline>,
        newest: Timeline,
    },
    /// A primary beside another one on the same timeline.
    Rival {
        other: Box<str>,
        timeline: Option<Timeline>,
    },
    /// A primary of which its Patroni does not say that it is the leader.
    Unconfirmed { said: Arc<str> },
}

/// For people.
struct Shown(Option<Timeline>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(timeline) => write!(f, "timeline {timeline}"),
            None => f.write_str("an unknown timeline"),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Sound => Ok(()),
            Standing::Superseded { own, newest } => write!(
                f,
                "it is a primary on {}, and the shard has gone on to timeline {newest}: nothing is sent to it",
                Shown(*own)
            ),
            Standing::Astray { own, newest } => {
                write!(
                    f,
                    "it follows {}, and the shard has gone on to timeline {newest}: nothing is sent to it",
                    Shown(*own)
                )?;
                match own {
                    Some(_) => Ok(()),
                    None => f.write_str(" (members of pg_monitor may see the timeline)"),
                }
            }
            Standing::Rival { other, timeline } => write!(
                f,
                "it is a primary on {}, and so is {other}: nothing is sent to it",
                Shown(*timeline)
            ),
            Standing::Unconfirmed { said } => write!(
                f,
                "it is a primary, and its Patroni does not say that it is the leader ({said}): nothing is sent to it"
            ),
        }
    }
}

/// What a node's Patroni makes of its claim to be the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    Full,
    /// Enough to stay, and too little to become it.
    Weak,
    Nothing,
}

/// Something to tell the administrator, once. A number is a node's place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    Node(usize, Change),
    Fenced(usize, Standing),
    /// It may be used again.
    Freed(usize),
    /// There is a primary, and it is another one than before.
    Primary(usize),
    /// There was one.
    NoPrimary,
    /// Its Patroni says something else than before.
    Lock(usize, Lock),
}

/// What is known of one shard's nodes.
#[derive(Clone, Debug)]
pub(super) struct ShardHealth {
    /// Of the first node that told it, and then it stays: were it to follow a node that was rebuilt empty, those with the data would be refused.
    system: Option<SystemIdentifier>,
    /// The one that the primary is on: the greatest, but for those that Patroni's leader is not on. Goes with the system.
    newest: Option<Timeline>,
    /// The greatest that any node of that system was seen on. Goes with it as well.
    greatest: Option<Timeline>,
    strays: Option<Strays>,
    history: History,
    primary: Option<usize>,
    /// How often there was another primary than before.
    pub successions: u64,
    nodes: Vec<Member>,
}

/// Timelines that were begun without Patroni: those behind its leader's, up to the greatest that was seen when it was confirmed.
#[derive(Clone, Copy, Debug)]
struct Strays {
    leader: Timeline,
    greatest: Timeline,
}

/// Whether a promotion was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum History {
    /// Nobody has looked yet.
    Unseen,
    OneTimeline,
    Promoted,
}

#[derive(Clone, Debug)]
struct Member {
    health: NodeHealth,
    standing: Standing,
    /// The timeline on which it was a primary while the one in use was.
    split: Option<Option<Timeline>>,
    lock: Lock,
    /// How often in a row its Patroni had said that it is the leader when a greater timeline was seen first.
    held_before: usize,
}

impl Member {
    fn new(name: &str) -> Member {
        Member {
            health: NodeHealth::new(name),
            standing: Standing::Sound,
            split: None,
            lock: Lock::Unasked,
            held_before: 0,
        }
    }

    /// How often in a row its Patroni has said that it is the leader.
    fn held(&self) -> usize {
        match self.lock {
            Lock::Held { times } => times,
            _ => 0,
        }
    }

    /// Takes in what its Patroni says. Gives it when it is news.
    fn hear(&mut self, lock: Lock) -> Option<Lock> {
        let same = std::mem::discriminant(&self.lock) == std::mem::discriminant(&lock);
        // That one holds a lock, and others do not, is told when it first matters.
        let begins = self.lock == Lock::Unasked && !matches!(lock, Lock::Unknown(_));
        self.lock = lock;
        if self.held() < self.held_before {
            self.held_before = 0;
        }
        (!same && !begins).then(|| self.lock.clone())
    }
}

impl ShardHealth {
    pub fn new(names: &[Box<str>]) -> Self {
        ShardHealth {
            system: None,
            newest: None,
            greatest: None,
            strays: None,
            history: History::Unseen,
            primary: None,
            successions: 0,
            nodes: names.iter().map(|name| Member::new(name)).collect(),
        }
    }

    /// The same for other nodes: at each place the one that was at the given place here, or a new one.
    ///
    /// The shard's system is kept as long as a node that is up has it. Without one it is free again, so that a shard whose
    /// servers were all replaced is taken as it is once the configuration is read again.
    pub fn rearranged(&self, names: &[Box<str>], places: &[Option<usize>]) -> Self {
        let known = |place: &Option<usize>| place.and_then(|place| self.nodes.get(place));
        let holds_it = |node: &Member| {
            node.health.is_up()
                && node
                    .health
                    .seen()
                    .is_some_and(|seen| seen.system == self.system)
        };
        let stays = places.iter().filter_map(known).any(holds_it);
        let system = self.system.filter(|_| stays);
        let nodes = names.iter().zip(places);
        ShardHealth {
            system,
            newest: self.newest.filter(|_| stays),
            greatest: self.greatest.filter(|_| stays),
            strays: self.strays.filter(|_| stays),
            history: self.history,
            primary: self
                .primary
                .and_then(|primary| places.iter().position(|place| *place == Some(primary))),
            successions: self.successions,
            nodes: nodes
                .map(|(name, place)| known(place).cloned().unwrap_or_else(|| Member::new(name)))
                .collect(),
        }
    }

    /// Takes in looks at nodes, by their places and in that order, and judges all nodes together.
    pub fn step(&mut self, looks: Vec<(usize, Look)>, limits: Thresholds) -> Vec<News> {
        let found = || {
            looks
                .iter()
                .find_map(|(_, look)| look.answer.as_ref().ok()?.system)
        };
        self.system = self.system.or_else(found);
        let before = self.newest;
        let mut risen = false;
        let mut news = Vec::new();
        for (place, mut look) in looks {
            let lock = std::mem::take(&mut look.lock);
            let heard = self.nodes[place].hear(lock);
            news.extend(heard.map(|lock| News::Lock(place, lock)));
            if let Ok(answer) = &look.answer
                && foreign(answer, self.system).is_none()
            {
                risen |= answer.timeline > self.greatest;
                self.greatest = self.greatest.max(answer.timeline);
            }
            let change = self.nodes[place].health.step(look, self.system, limits);
            news.extend(change.map(|change| News::Node(place, change)));
        }
        if risen {
            for node in &mut self.nodes {
                node.held_before = node.held();
            }
        }
        self.rule_on_strays(limits.fall);
        self.newest = self.strays.map(|strays| strays.leader).or(self.greatest);
        let promoted = before.is_some() && before != self.newest;
        self.history = match (self.history, promoted) {
            (History::Promoted, _) | (_, true) => History::Promoted,
            (History::Unseen | History::OneTimeline, false) => History::OneTimeline,
        };
        self.elect(limits.fall, &mut news);
        self.judge(limits.fall, &mut news);
        news
    }

    /// Whether the Patroni of another node says that this one is the leader.
    fn is_led_elsewhere(&self, place: usize) -> bool {
        let mut nodes = self.nodes.iter().enumerate();
        nodes.any(|(other, node)| other != place && matches!(node.lock, Lock::Held { .. }))
    }

    /// The timeline of the primary that alone is said to be the leader, `fall` times in a row since the greatest one was seen: one that was said
    /// before may be from before a change of the leader.
    fn confirmed(&self, fall: usize) -> Option<Timeline> {
        let leads = |place: &usize| {
            let node = &self.nodes[*place];
            node.held() >= node.held_before + fall && !self.is_led_elsewhere(*place)
        };
        let leader = (0..self.nodes.len()).find(leads)?;
        let answer = self.nodes[leader].health.current()?;
        (answer.role() == Role::Primary).then_some(answer.timeline)?
    }

    /// Who is on a greater timeline than the leader was promoted behind Patroni's back, until the lock says otherwise.
    fn rule_on_strays(&mut self, fall: usize) {
        if let (Some(leader), Some(greatest)) = (self.confirmed(fall), self.greatest) {
            self.strays = (leader < greatest).then_some(Strays { leader, greatest });
            return;
        }
        let leads_further = |strays: &Strays| {
            self.nodes.iter().any(|node| {
                node.held() > 0
                    && node.health.role() == Role::Primary
                    && node.health.timeline() > Some(strays.leader)
            })
        };
        let (greatest, strays) = (self.greatest, self.strays);
        self.strays =
            strays.filter(|strays| greatest == Some(strays.greatest) && !leads_further(strays));
    }

    fn backing(&self, place: usize, fall: usize) -> Backing {
        match &self.nodes[place].lock {
            Lock::Unasked | Lock::Held { .. } => Backing::Full,
            _ if self.is_led_elsewhere(place) => Backing::Nothing,
            Lock::Unknown(_) => Backing::Weak,
            Lock::NotHeld { times, .. } if *times < fall => Backing::Weak,
            Lock::NotHeld { .. } => Backing::Nothing,
        }
    }

    /// Whether the primary's Patroni speaks against it.
    pub fn is_doubted(&self) -> bool {
        let lock = self.primary.map(|place| &self.nodes[place].lock);
        matches!(lock, Some(Lock::NotHeld { .. }))
    }

    pub fn lock(&self, place: usize) -> &Lock {
        &self.nodes[place].lock
    }

    /// Where a node's Patroni and the node do not agree, or it does not answer, but for what the standing says.
    pub fn objection(&self, place: usize) -> Option<String> {
        let node = &self.nodes[place];
        match (&node.lock, &node.standing) {
            (_, Standing::Unconfirmed { .. }) => None,
            (Lock::Held { .. }, _) if node.health.role() == Role::Replica => {
                Some("its Patroni says that it is the leader, and it is in recovery".to_owned())
            }
            (Lock::NotHeld { said, .. }, _) if self.primary == Some(place) => Some(format!(
                "it is the primary, and its Patroni says that it is not the leader ({said})"
            )),
            (Lock::Unknown(why), _) => Some(format!("its Patroni does not answer ({why})")),
            _ => None,
        }
    }

    /// Whether a node is up and says that it is the primary of the newest timeline.
    fn claims(&self, place: usize) -> bool {
        let node = &self.nodes[place].health;
        node.is_up() && node.role() == Role::Primary && node.timeline() >= self.newest
    }

    fn elect(&mut self, fall: usize, news: &mut Vec<News>) {
        for node in &mut self.nodes {
            let (role, timeline) = (node.health.role(), node.health.timeline());
            node.split = node
                .split
                .filter(|split| role == Role::Primary && timeline == *split);
        }
        let before = self.primary;
        let stays =
            |place: &usize| self.claims(*place) && self.backing(*place, fall) != Backing::Nothing;
        self.primary = match before.filter(stays) {
            Some(present) => Some(present),
            None => self.only_claim(fall),
        };
        match self.primary {
            Some(place) if before != Some(place) => {
                self.successions += 1;
                news.push(News::Primary(place));
            }
            None if before.is_some() => news.push(News::NoPrimary),
            _ => {}
        }
        self.note_splits();
    }

    /// The only one who may become the primary; of several nobody may.
    fn only_claim(&self, fall: usize) -> Option<usize> {
        let places = 0..self.nodes.len();
        // The lock says who of two is right.
        let may = |node: &Member| node.split.is_none() || matches!(node.lock, Lock::Held { .. });
        let mut claims = places.filter(|place| {
            may(&self.nodes[*place])
                && self.claims(*place)
                && self.backing(*place, fall) == Backing::Full
        });
        claims.next().filter(|_| claims.next().is_none())
    }

    /// Whoever is a primary at a moment when the one in use certainly still was. A server that took over the storage of another one goes on with
    /// its timeline too, but not while that one answers.
    fn note_splits(&mut self) {
        let Some(present) = self.primary else {
            return;
        };
        let Some(asked) = self.nodes[present].health.current().map(|a| a.asked) else {
            return;
        };
        for place in 0..self.nodes.len() {
            let since = self.nodes[place].health.claims_since();
            if place != present && self.claims(place) && since.is_some_and(|since| since <= asked) {
                self.nodes[place].split = Some(self.nodes[place].health.timeline());
            }
        }
    }

    fn judge(&mut self, fall: usize, news: &mut Vec<News>) {
        for place in 0..self.nodes.len() {
            let standing = self.standing_of(place, fall);
            let node = &mut self.nodes[place];
            if node.standing != standing {
                news.push(match &standing {
                    Standing::Sound => News::Freed(place),
                    fenced => News::Fenced(place, fenced.clone()),
                });
                node.standing = standing;
            }
        }
    }

    fn standing_of(&self, place: usize, fall: usize) -> Standing {
        let node = &self.nodes[place].health;
        let own = node.timeline();
        match (node.role(), self.newest) {
            (Role::Primary, Some(newest)) if own < Some(newest) => {
                Standing::Superseded { own, newest }
            }
            (Role::Primary, _)
                if self.primary != Some(place) && self.backing(place, fall) != Backing::Full =>
            {
                Standing::Unconfirmed {
                    said: match &self.nodes[place].lock {
                        Lock::NotHeld { said, .. } | Lock::Unknown(said) => Arc::clone(said),
                        Lock::Unasked | Lock::Held { .. } => Arc::default(),
                    },
                }
            }
            (Role::Primary, _) if self.primary != Some(place) => match self.other_than(place) {
                Some(other) => Standing::Rival {
                    other,
                    timeline: own,
                },
                None => Standing::Sound,
            },
            (Role::Replica, Some(newest)) if own.is_some_and(|own| own != newest) => {
                Standing::Astray { own, newest }
            }
            // Before the first promotion there is nothing to mistake it for.
            (Role::Replica, Some(newest)) if own.is_none() && self.history == History::Promoted => {
                Standing::Astray { own, newest }
            }
            _ => Standing::Sound,
        }
    }

    /// Another node that is, or could be, the primary where this one says that it is.
    fn other_than(&self, place: usize) -> Option<Box<str>> {
        let split = self.nodes[place].split.is_some();
        if !split && !self.claims(place) {
            return None;
        }
        let places = 0..self.nodes.len();
        let mut others = places.filter(|other| *other != place && self.claims(*other));
        let other = self.primary.or_else(|| others.next());
        match other {
            Some(other) => Some(self.nodes[other].health.name.clone()),
            None => split.then(|| Box::from("the one before")),
        }
    }

    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeHealth> {
        self.nodes.iter().map(|node| &node.health)
    }

    pub fn node(&self, place: usize) -> &NodeHealth {
        &self.nodes[place].health
    }

    pub fn standing(&self, place: usize) -> &Standing {
        &self.nodes[place].standing
    }

    pub fn has_been_seen(&self) -> bool {
        self.history != History::Unseen
    }

    pub fn primary(&self) -> Option<usize> {
        self.primary
    }

    /// Who is taken for the primary unseen: the first node, while nobody has looked yet or no node lets us look and the first one lives. Were it none, it would
    /// take no writes. Where nodes have a Patroni, the one that lives and is said to be the leader.
    pub fn taken_unseen(&self) -> Option<usize> {
        if self.nodes.iter().any(|node| node.health.seen().is_some()) {
            return None;
        }
        let lives = |node: &Member| node.health.stage() == Stage::Unknown;
        if self.nodes.iter().all(|node| node.lock == Lock::Unasked) {
            return self.nodes.first().filter(|first| lives(first)).map(|_| 0);
        }
        let leads = |place: &usize| matches!(self.nodes[*place].lock, Lock::Held { .. });
        let mut leaders = (0..self.nodes.len()).filter(leads);
        let leader = leaders.next().filter(|_| leaders.next().is_none());
        leader.filter(|place| lives(&self.nodes[*place]))
    }

    /// Why there is no primary: what each node is.
    pub fn trouble(&self) -> String {
        let each = self.nodes.iter().enumerate().map(|(place, node)| {
            let health = &node.health;
            let name = &health.name;
            let said = match (&node.standing, health.error()) {
                (_, Some(error)) => format!("{name}: {error}"),
                (Standing::Sound, None) if health.is_up() => {
                    format!("{name} is a {}", health.role().as_str())
                }
                (Standing::Sound, None) => format!("{name} is {}", health.stage().as_str()),
                (fenced, None) => format!("{name}: {fenced}"),
            };
            match self.objection(place) {
                Some(objection) => format!("{said}, {objection}"),
                None => said,
            }
        });
        each.collect::<Vec<_>>().join("; ")
    }
}
