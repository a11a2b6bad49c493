//! Waking a task by a std `Waker`, from this thread or from another.
//!
//! Who wakes puts the task's alarm on a list and, if the thread sleeps in a call to the system, makes that call return. Nothing is lost between
//! the two: a thread that goes to sleep says so first and looks at the list afterwards, and who wakes does it the other way round.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use super::slots::Key;

/// The alarm of one task.
pub struct Alarm {
    task: Key,
    alarms: Arc<Alarms>,
    /// It is on the list.
    ringing: AtomicBool,
}

/// The alarms of a thread that have rung and were not yet answered: each once, so never more than there are tasks and wakers of those that
/// have ended.
pub struct Alarms {
    /// `None`: the thread answers no more.
    list: Mutex<Option<Vec<Arc<Alarm>>>>,
    /// Whether there is something on the list.
    any: AtomicBool,
    /// The thread waits in a call to the system, or is about to.
    asleep: AtomicBool,
    bell: mio::Waker,
}

impl Alarms {
    pub fn new(bell: mio::Waker) -> Arc<Alarms> {
        Arc::new(Alarms {
            list: Mutex::new(Some(Vec::new())),
            any: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell,
        })
    }

    #[inline]
    pub fn have_rung(&self) -> bool {
        // What is missed here is seen before the thread goes to sleep.
        self.any.load(Ordering::Relaxed)
    }

    /// Empties the list.
    pub fn collect(&self, mut wake: impl FnMut(Key)) {
        let mut list = self.list();
        self.any.store(false, Ordering::Relaxed);
        for alarm in list.iter_mut().flat_map(|list| list.drain(..)) {
            // Before the task runs: what happens from here on rings anew. An exchange and not a store, so that the task sees what was
            // done by those who found it ringing.
            alarm.ringing.swap(false, Ordering::AcqRel);
            wake(alarm.task);
        }
    }

    /// Nobody answers from now on.
    pub fn close(&self) {
        let rung = self.list().take();
        drop(rung);
    }

    /// Whether the thread may wait in the system: from now on it is called out of there.
    #[inline]
    pub fn go_to_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        !self.any.load(Ordering::SeqCst)
    }

    #[inline]
    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    fn list(&self) -> MutexGuard<'_, Option<Vec<Arc<Alarm>>>> {
        // A list is whole even if who held it panicked.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, alarm: Arc<Alarm>) {
        {
            let mut list = self.list();
            let Some(list) = &mut *list else { return };
            list.push(alarm);
            self.any.store(true, Ordering::SeqCst);
        }
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.bell.wake()
        {
            tracing::error!(%error, "a thread cannot be woken");
        }
    }
}

impl Alarm {
    pub fn of(task: Key, alarms: &Arc<Alarms>) -> Arc<Alarm> {
        Arc::new(Alarm {
            task,
            alarms: Arc::clone(alarms),
            ringing: AtomicBool::new(false),
        })
    }

    fn is_to_ring(&self) -> bool {
        !self.ringing.swap(true, Ordering::AcqRel)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if self.is_to_ring() {
            let alarms = Arc::clone(&self.alarms);
            alarms.ring(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_to_ring() {
            self.alarms.ring(Arc::clone(self));
        }
    }
}
