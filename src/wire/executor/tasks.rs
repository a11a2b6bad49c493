//! The tasks of a thread, and the queues of those that are to run.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Waker;

use super::slots::{Key, Slots};

/// What is taken out of its place while it runs.
pub struct Body {
    pub future: Pin<Box<dyn Future<Output = ()>>>,
    pub waker: Waker,
}

/// In which queue a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    Member,
    /// Behind the others, a few in a turn.
    Newcomer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queued {
    No,
    Yes,
}

struct Task {
    /// `None` while it runs.
    body: Option<Body>,
    rank: Rank,
    queued: Queued,
}

/// Each task stands in its queue at most once, so that the queues are never longer than there are tasks.
#[derive(Default)]
pub struct Tasks {
    tasks: Slots<Task>,
    members: VecDeque<Key>,
    newcomers: VecDeque<Key>,
    admission: Admission,
}

#[derive(Default, PartialEq, Eq)]
enum Admission {
    #[default]
    Open,
    Closed,
}

impl Tasks {
    /// Puts a new task at the end of its queue; gives it back when none are admitted any more.
    pub fn admit(&mut self, rank: Rank, make: impl FnOnce(Key) -> Body) -> Option<Body> {
        let key = self.tasks.insert(|key| Task {
            body: Some(make(key)),
            rank,
            queued: Queued::No,
        });
        if self.admission == Admission::Closed {
            return self.tasks.remove(key)?.body;
        }
        self.enqueue(key);
        None
    }

    /// A task is to run, unless it has ended or is queued already.
    #[inline]
    pub fn enqueue(&mut self, key: Key) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if task.queued == Queued::Yes {
            return;
        }
        task.queued = Queued::Yes;
        match task.rank {
            Rank::Member => self.members.push_back(key),
            Rank::Newcomer => self.newcomers.push_back(key),
        }
    }

    /// Takes out the next member. From here on it can be queued again.
    #[inline]
    pub fn begin_member(&mut self) -> Option<(Key, Body)> {
        loop {
            let key = self.members.pop_front()?;
            if let Some(body) = self.begin(key) {
                return Some((key, body));
            }
        }
    }

    /// Likewise the next newcomer.
    #[inline]
    pub fn begin_newcomer(&mut self) -> Option<(Key, Body)> {
        loop {
            let key = self.newcomers.pop_front()?;
            if let Some(body) = self.begin(key) {
                return Some((key, body));
            }
        }
    }

    #[inline]
    pub fn is_anybody_queued(&self) -> bool {
        !self.members.is_empty() || !self.newcomers.is_empty()
    }

    #[inline]
    fn begin(&mut self, key: Key) -> Option<Body> {
        let task = self.tasks.get_mut(key)?;
        task.queued = Queued::No;
        task.body.take()
    }

    /// It has run, and waits.
    #[inline]
    pub fn pause(&mut self, key: Key, body: Body) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.body = Some(body);
        }
    }

    /// It has ended.
    pub fn remove(&mut self, key: Key) {
        self.tasks.remove(key);
    }

    pub fn close(&mut self) {
        self.admission = Admission::Closed;
    }

    /// Takes out one of those that are left.
    pub fn remove_any(&mut self) -> Option<(Key, Body)> {
        let key = self.tasks.any()?;
        Some((key, self.tasks.remove(key)?.body?))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }
}
