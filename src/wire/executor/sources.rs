//! What is believed of the readiness of sockets, and who waits for it.
//!
//! The system tells a change once (edge-triggered). So a socket is believed to be ready until a call says that it is not, and is not
//! asked again before the system has told of the next change. A belief that is wrong costs one call.
//!
//! That there is something to read is always told; that there is room to write, only while somebody waits for it. A Unix socket would
//! tell it of each piece that its peer has taken, and wake the thread for nothing.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::Waker;

use mio::event::Event;

use super::slots::{Key, Slots};

/// Who is woken.
#[derive(Default)]
pub enum Interest {
    #[default]
    Nobody,
    /// The task itself: the common case.
    Task(Key),
    /// Whoever stands between the task and the socket, or somebody outside.
    Waker(Waker),
}

/// What is believed of a socket that nothing has been heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It may be tried at once.
    Ready,
    /// It is being connected.
    Unready,
}

/// One direction of a socket.
#[derive(Default)]
pub struct Direction {
    ready: Cell<bool>,
    waiting: Cell<Interest>,
}

impl Direction {
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// The last call said so.
    #[inline]
    pub fn is_exhausted(&self) {
        self.ready.set(false);
    }

    /// The last to ask is the one who is told.
    #[inline]
    pub fn wait(&self, interest: Interest) {
        self.waiting.set(interest);
    }

    #[inline]
    fn now_ready(&self) -> Interest {
        self.ready.set(true);
        self.waiting.take()
    }
}

/// One socket.
pub struct Source {
    key: Key,
    pub descriptor: RawFd,
    /// The system is to tell of room to write as well.
    pub asks_for_room: Cell<bool>,
    pub reading: Direction,
    pub writing: Direction,
    /// The other side has said its last word, or the socket is broken: no change will be told after what was told already.
    ended: Cell<bool>,
}

impl Source {
    pub fn key(&self) -> Key {
        self.key
    }

    /// Less came than there was room for, so nothing is left; what comes later is told. The end was told already and is yet to be read.
    #[inline]
    pub fn is_drained(&self) {
        if !self.ended.get() {
            self.reading.is_exhausted();
        }
    }

    /// Notes what the system tells; those who waited for it.
    #[inline]
    pub fn hear(&self, event: &Event) -> (Interest, Interest) {
        let broken = event.is_error();
        let ended = event.is_read_closed() || broken;
        if ended {
            self.ended.set(true);
        }
        let reader = match ended || event.is_readable() {
            true => self.reading.now_ready(),
            false => Interest::Nobody,
        };
        let writer = match broken || event.is_writable() || event.is_write_closed() {
            true => self.writing.now_ready(),
            false => Interest::Nobody,
        };
        (reader, writer)
    }
}

/// The sockets of a thread.
#[derive(Default)]
pub struct Sources(Slots<Rc<Source>>);

impl Sources {
    pub fn insert(&mut self, descriptor: RawFd, belief: Belief) -> Rc<Source> {
        let direction = || Direction {
            ready: Cell::new(belief == Belief::Ready),
            waiting: Cell::default(),
        };
        let mut made = None;
        self.0.insert(|key| {
            let source = Rc::new(Source {
                key,
                descriptor,
                asks_for_room: Cell::new(false),
                reading: direction(),
                writing: direction(),
                ended: Cell::new(false),
            });
            made = Some(Rc::clone(&source));
            source
        });
        made.expect("what is inserted is made once")
    }

    #[inline]
    pub fn get(&self, key: Key) -> Option<&Source> {
        self.0.get(key).map(|source| &**source)
    }

    pub fn remove(&mut self, key: Key) {
        self.0.remove(key);
    }
}
