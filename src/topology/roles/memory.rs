//! What is remembered of users that a server was asked for, and who waits for an answer.
//!
//! Names that are nobody's have a store of their own, so that guessing names does not push anybody out. A name whose last proof
//! failed is forgotten as soon as one that is nobody's: asking again takes as long for both.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{LEFT_ALONE, MOST_ASKED, RoleError};
use crate::config::AuthQuery;
use crate::wire::auth::{Likeness, Stored};

/// What is stored of a user's password; `None`: nobody has that name.
pub type Answer = Result<Option<Arc<Stored>>, RoleError>;

/// See the module's text.
pub(super) struct Memory {
    users: Store<Arc<Stored>>,
    strangers: Store<()>,
    failure_time: Duration,
    flights: HashMap<Box<str>, Vec<oneshot::Sender<Answer>>>,
    /// The server could not be asked then.
    failed: Option<(Instant, RoleError)>,
    likeness: Option<Likeness>,
}

/// What to do to get an answer.
pub(super) enum Ask {
    Known(Answer),
    /// Somebody else is on the way.
    Wait(oneshot::Receiver<Answer>),
    /// Go, and tell [`Memory::land`] what came of it.
    Fetch(oneshot::Receiver<Answer>),
}

impl Memory {
    pub fn new(query: &AuthQuery) -> Memory {
        Memory {
            users: Store::new(query.cache_size, query.cache_time),
            strangers: Store::new(query.cache_size, query.failure_time),
            failure_time: query.failure_time,
            flights: HashMap::new(),
            failed: None,
            likeness: None,
        }
    }

    pub fn ask(&mut self, name: &str, now: Instant) -> Ask {
        if let Some(stored) = self.users.get(name, now) {
            return Ask::Known(Ok(Some(Arc::clone(stored))));
        }
        if self.strangers.get(name, now).is_some() {
            return Ask::Known(Ok(None));
        }
        let (answer, answered) = oneshot::channel();
        if let Some(waiting) = self.flights.get_mut(name) {
            // Those who have gone are not kept.
            waiting.retain(|waiting| !waiting.is_closed());
            waiting.push(answer);
            return Ask::Wait(answered);
        }
        if let Some((at, error)) = &self.failed
            && now.saturating_duration_since(*at) < LEFT_ALONE
        {
            return Ask::Known(Err(error.clone()));
        }
        if self.flights.len() >= MOST_ASKED {
            return Ask::Known(Err(RoleError::TooMany));
        }
        self.flights.insert(Box::from(name), vec![answer]);
        Ask::Fetch(answered)
    }

    /// The answer has come: it is remembered, and told to all who wait.
    pub fn land(&mut self, name: &str, answer: Answer, now: Instant) {
        match &answer {
            Ok(Some(stored)) => {
                self.failed = None;
                self.likeness = stored.likeness().or(self.likeness);
                self.users.put(name, Arc::clone(stored), now);
            }
            Ok(None) => {
                self.failed = None;
                self.strangers.put(name, (), now);
            }
            Err(error) => self.failed = Some((now, error.clone())),
        }
        for waiting in self.flights.remove(name).into_iter().flatten() {
            // Who waited may have gone.
            let _ = waiting.send(answer.clone());
        }
    }

    /// See [`super::Roles::doubt`].
    pub fn doubt(&mut self, name: &str) {
        self.users.shorten(name, self.failure_time);
    }

    /// Users remembered.
    pub fn known(&self) -> usize {
        self.users.entries.len()
    }

    pub fn likeness(&self) -> Option<Likeness> {
        self.likeness
    }
}

/// Values by name, for a time, and not more than so many.
struct Store<T> {
    entries: HashMap<Box<str>, Entry<T>>,
    /// The oldest first. What was put anew or forgotten stands here still.
    order: VecDeque<(Instant, Box<str>)>,
    most: usize,
    time: Duration,
}

struct Entry<T> {
    value: T,
    since: Instant,
    time: Duration,
}

impl<T> Store<T> {
    fn new(most: usize, time: Duration) -> Self {
        Store {
            entries: HashMap::new(),
            order: VecDeque::new(),
            most,
            time,
        }
    }

    fn get(&self, name: &str, now: Instant) -> Option<&T> {
        let entry = self.entries.get(name)?;
        (now.saturating_duration_since(entry.since) < entry.time).then_some(&entry.value)
    }

    fn put(&mut self, name: &str, value: T, now: Instant) {
        let time = self.time;
        while let Some((since, old)) = self.order.front() {
            let expired = now.saturating_duration_since(*since) >= time;
            if !expired && self.order.len() < self.most {
                break;
            }
            if self
                .entries
                .get(old)
                .is_some_and(|entry| entry.since == *since)
            {
                self.entries.remove(old);
            }
            self.order.pop_front();
        }
        self.order.push_back((now, Box::from(name)));
        let entry = Entry {
            value,
            since: now,
            time,
        };
        self.entries.insert(Box::from(name), entry);
    }

    fn shorten(&mut self, name: &str, time: Duration) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.time = entry.time.min(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Password, Secret};
    use crate::wire::auth::ProcessSecret;

    const SECOND: Duration = Duration::from_secs(1);

    fn memory(most: usize) -> Memory {
        Memory::new(&AuthQuery {
            user: "asker".into(),
            password: None,
            database: None,
            sql: String::new(),
            timeout: SECOND,
            cache_time: SECOND * 60,
            failure_time: SECOND * 5,
            cache_size: most,
        })
    }

    fn hash() -> Arc<Stored> {
        let hash = Password::Md5(Secret("md5a6ce1bb033bfeb22b60a5905660d237e".into()));
        Arc::new(Stored::new(&ProcessSecret::random(), "ann", &hash).unwrap())
    }

    /// Whether the name has to be asked for.
    fn is_news(memory: &mut Memory, name: &str, now: Instant) -> bool {
        match memory.ask(name, now) {
            Ask::Known(_) => false,
            Ask::Wait(_) => panic!("nobody has landed"),
            Ask::Fetch(_) => {
                memory.flights.remove(name);
                true
            }
        }
    }

    #[test]
    fn users_are_remembered_longer_than_strangers_and_doubts() {
        let (mut memory, begun) = (memory(10), Instant::now());
        memory.land("ann", Ok(Some(hash())), begun);
        memory.land("eve", Ok(None), begun);
        assert_eq!(memory.likeness(), Some(Likeness::Md5));
        for (name, after, news) in [
            ("ann", 4, false),
            ("eve", 4, false),
            ("eve", 5, true),
            ("ann", 59, false),
            ("ann", 60, true),
        ] {
            assert_eq!(
                is_news(&mut memory, name, begun + SECOND * after),
                news,
                "{name} {after}"
            );
        }
        memory.doubt("ann");
        memory.doubt("nobody");
        assert!(!is_news(&mut memory, "ann", begun + SECOND * 4));
        assert!(is_news(&mut memory, "ann", begun + SECOND * 5));
    }

    #[test]
    fn a_name_is_asked_for_once_at_a_time() {
        let (mut memory, now) = (memory(10), Instant::now());
        let Ask::Fetch(mut first) = memory.ask("ann", now) else {
            panic!()
        };
        let mut others = Vec::new();
        for _ in 0..3 {
            let Ask::Wait(other) = memory.ask("ann", now) else {
                panic!()
            };
            others.push(other);
        }
        assert!(matches!(memory.ask("bob", now), Ask::Fetch(_)));
        memory.land("ann", Ok(Some(hash())), now);
        assert!(matches!(first.try_recv(), Ok(Ok(Some(_)))));
        assert!(
            others
                .iter_mut()
                .all(|other| matches!(other.try_recv(), Ok(Ok(Some(_)))))
        );
    }

    #[test]
    fn there_is_a_limit_to_everything() {
        let (mut memory, now) = (memory(3), Instant::now());
        memory.land("ann", Ok(Some(hash())), now);
        for guess in 0..100 {
            memory.land(&guess.to_string(), Ok(None), now);
        }
        assert_eq!(
            (memory.strangers.entries.len(), memory.strangers.order.len()),
            (3, 3)
        );
        assert!(
            !is_news(&mut memory, "ann", now),
            "guessing pushes nobody out"
        );
        assert!(is_news(&mut memory, "96", now) && !is_news(&mut memory, "97", now));
        // The same name again and again, too.
        for _ in 0..100 {
            memory.land("ann", Ok(Some(hash())), now);
        }
        assert_eq!(
            (memory.users.entries.len(), memory.users.order.len()),
            (1, 3)
        );
        let mut kept = Vec::new();
        for name in 0..MOST_ASKED {
            kept.push(memory.ask(&format!("n{name}"), now));
        }
        assert!(matches!(
            memory.ask("one more", now),
            Ask::Known(Err(RoleError::TooMany))
        ));
    }

    #[test]
    fn a_server_that_cannot_be_asked_is_left_alone_for_a_moment() {
        let (mut memory, now) = (memory(3), Instant::now());
        memory.land("ann", Err(RoleError::Slow(SECOND)), now);
        assert!(matches!(
            memory.ask("bob", now),
            Ask::Known(Err(RoleError::Slow(_)))
        ));
        assert!(is_news(&mut memory, "bob", now + LEFT_ALONE));
        memory.land("bob", Ok(None), now);
        assert!(is_news(&mut memory, "ann", now));
    }
}
