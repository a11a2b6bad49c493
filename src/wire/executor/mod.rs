//! One thread's own runtime: tasks, and the readiness of their sockets. Workers spend their lives in it.
//!
//! A general runtime pays on every statement for what a worker has no use for: tasks that move between threads, sockets that are
//! polled from several, wheels of timers. Here a socket remembers the task that waits for it by number, and an event puts that
//! number on a queue: no lock, no atomic, no allocation. So does who waits for a neighbour on the thread (`Caller` in `socket.rs`). Everybody
//! else (channels, timers, other threads) wakes a task by a std [`Waker`], see `alarm.rs`.
//!
//! Life goes in turns. In a turn tasks run in the order in which they were woken, at most [`TURN`] of them; then some that
//! belong to newcomers, at most [`NEWCOMERS`], so that a storm of logins does not delay those who are in; then the system is
//! asked what became ready, without waiting when somebody is still to run. A task that is woken while it runs goes to the end
//! of the queue. One that finds its sockets ready again and again is sent to the end of the queue after [`READS`] reads.
//!
//! It never decides anything about what it runs, and has no timers: see `timers.rs` beside it. A task that panics ends, and nothing else
//! does. Read `tasks.rs` for the queue, `sources.rs` for readiness, and `socket.rs` beside this folder for who uses it.

mod alarm;
mod slots;
mod sources;
mod tasks;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Token};

use alarm::{Alarm, Alarms};
use slots::Key;
use sources::{Direction, Source, Sources};
use tasks::{Body, Rank, Tasks};

pub(super) use sources::{Belief, Interest};

/// Most tasks that run before the system is asked again what became ready.
const TURN: usize = 64;

/// Most newcomers' tasks that run in one turn.
const NEWCOMERS: usize = 2;

/// Most reads of one task before others have their turn; each is of at most one read buffer.
const READS: u32 = 32;

/// Most events that are taken from the system at once.
const EVENTS: usize = 256;

/// Where the system says that an alarm has rung. No source has this number: see [`Key`].
const ALARM: Token = Token(usize::MAX);

/// See the module's text.
pub struct Executor {
    poll: RefCell<mio::Poll>,
    tasks: RefCell<Tasks>,
    sources: RefCell<Sources>,
    alarms: Arc<Alarms>,
    /// The task that runs now, and what its own waker looks like; null while none runs.
    current_task: Cell<Key>,
    current_waker: Cell<*const ()>,
    /// Reads that it may still do.
    reads: Cell<u32>,
}

impl Executor {
    pub fn new() -> io::Result<Rc<Executor>> {
        let poll = mio::Poll::new()?;
        let bell = mio::Waker::new(poll.registry(), ALARM)?;
        Ok(Rc::new(Executor {
            poll: RefCell::new(poll),
            tasks: RefCell::default(),
            sources: RefCell::default(),
            alarms: Alarms::new(bell),
            current_task: Cell::default(),
            current_waker: Cell::new(std::ptr::null()),
            reads: Cell::new(0),
        }))
    }

    /// Runs this task and all that it spawns until it has ended, then drops those that have not.
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> T {
        let outcome = Rc::new(RefCell::new(None));
        let told = Rc::clone(&outcome);
        self.spawn(async move {
            let result = AssertUnwindSafe(main).catch_unwind().await;
            *told.borrow_mut() = Some(result);
        });
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let busy = self.turn();
            if let Some(result) = outcome.borrow_mut().take() {
                self.end();
                return result.unwrap_or_else(|panic| resume_unwind(panic));
            }
            self.listen(&mut events, busy);
        }
    }

    /// A new task. It runs for the first time when its turn comes, and never after [`Executor::run`] has returned.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.admit(Box::pin(future), Rank::Member);
    }

    /// A new task that has to stand back behind others.
    pub fn spawn_newcomer(&self, future: impl Future<Output = ()> + 'static) {
        self.admit(Box::pin(future), Rank::Newcomer);
    }

    fn admit(&self, future: Pin<Box<dyn Future<Output = ()>>>, rank: Rank) {
        let refused = self.tasks.borrow_mut().admit(rank, |key| Body {
            future,
            waker: Waker::from(Alarm::of(key, &self.alarms)),
        });
        // Not while the tasks are borrowed: it may be anything that is dropped here.
        drop(refused);
    }

    /// One turn of the tasks. Whether there are more to run.
    fn turn(&self) -> bool {
        for _ in 0..TURN {
            if self.alarms.have_rung() {
                self.answer_alarms();
            }
            let next = self.tasks.borrow_mut().begin_member();
            let Some((task, body)) = next else { break };
            self.step(task, body);
        }
        for _ in 0..NEWCOMERS {
            let next = self.tasks.borrow_mut().begin_newcomer();
            let Some((task, body)) = next else { break };
            self.step(task, body);
        }
        self.tasks.borrow().is_anybody_queued()
    }

    /// Lets a task run until it waits.
    #[inline]
    fn step(&self, task: Key, mut body: Body) {
        self.current_task.set(task);
        self.current_waker.set(body.waker.data());
        self.reads.set(READS);
        let mut cx = Context::from_waker(&body.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| body.future.as_mut().poll(&mut cx)));
        self.current_waker.set(std::ptr::null());
        match polled {
            Ok(Poll::Pending) => self.tasks.borrow_mut().pause(task, body),
            Ok(Poll::Ready(())) => self.bury(task, body),
            Err(panic) => {
                tracing::error!(reason = reason(&*panic), "a task has panicked");
                self.bury(task, body);
            }
        }
    }

    #[cold]
    fn bury(&self, task: Key, body: Body) {
        self.tasks.borrow_mut().remove(task);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(body))) {
            tracing::error!(
                reason = reason(&*panic),
                "what a task left behind has panicked"
            );
        }
    }

    /// Asks the system what became ready. Waits for something if nobody is to run.
    #[inline]
    fn listen(&self, events: &mut Events, busy: bool) {
        let patience = match busy || !self.alarms.go_to_sleep() {
            true => Some(Duration::ZERO),
            false => None,
        };
        let heard = self.poll.borrow_mut().poll(events, patience);
        self.alarms.wake_up();
        if let Err(error) = heard {
            return self.heard_nothing(&error);
        }
        for event in &*events {
            if event.token() != ALARM {
                self.hear(event);
            }
        }
    }

    #[inline]
    fn hear(&self, event: &Event) {
        let sources = self.sources.borrow();
        // A socket that was closed after the event was taken is none.
        let Some(source) = sources.get(Key::from(event.token())) else {
            return;
        };
        let (reader, writer) = source.hear(event);
        if source.writing.is_ready() && source.asks_for_room.take() {
            // An error: it is told more often than it has to be.
            let _ = self.tell(source, mio::Interest::READABLE);
        }
        drop(sources);
        for interest in [reader, writer] {
            self.wake(interest);
        }
    }

    #[cold]
    fn heard_nothing(&self, error: &io::Error) {
        // The descriptor is ours and the buffer is sound, so anything but a signal is a defect; a worker that spins would hide it.
        let is_signal = error.kind() == io::ErrorKind::Interrupted;
        assert!(
            is_signal,
            "the system does not say which sockets are ready: {error}"
        );
    }

    fn answer_alarms(&self) {
        let mut tasks = self.tasks.borrow_mut();
        self.alarms.collect(|task| tasks.enqueue(task));
    }

    /// Drops every task. What they spawn meanwhile is dropped at once.
    fn end(&self) {
        self.tasks.borrow_mut().close();
        self.alarms.close();
        loop {
            let left = self.tasks.borrow_mut().remove_any();
            let Some((task, body)) = left else { break };
            self.bury(task, body);
        }
    }

    /// From now on the readiness of this descriptor is known here. It must stay open until the watch has ended.
    pub(super) fn watch(
        self: &Rc<Executor>,
        descriptor: RawFd,
        belief: Belief,
    ) -> io::Result<Watch> {
        let watch = Watch {
            source: self.sources.borrow_mut().insert(descriptor, belief),
            executor: Rc::clone(self),
        };
        self.poll.borrow().registry().register(
            &mut SourceFd(&descriptor),
            watch.source.key().into(),
            mio::Interest::READABLE,
        )?;
        Ok(watch)
    }

    /// What the system is to tell of a socket from now on. What has happened already is told at once.
    #[cold]
    fn tell(&self, source: &Source, what: mio::Interest) -> io::Result<()> {
        self.poll.borrow().registry().reregister(
            &mut SourceFd(&source.descriptor),
            source.key().into(),
            what,
        )
    }

    /// Who is to be told when what is waited for here happens.
    #[inline]
    pub(super) fn interest(&self, cx: &Context<'_>) -> Interest {
        // A waker of nothing (as `Waker::noop`) points to null, and nobody runs behind it.
        if cx.waker().data() == self.current_waker.get() && !cx.waker().data().is_null() {
            // Nobody stands between the task and its socket.
            Interest::Task(self.current_task.get())
        } else {
            Interest::Waker(cx.waker().clone())
        }
    }

    /// It has happened.
    #[inline]
    pub(super) fn wake(&self, interest: Interest) {
        match interest {
            Interest::Nobody => {}
            Interest::Task(task) => self.tasks.borrow_mut().enqueue(task),
            Interest::Waker(waker) => waker.wake(),
        }
    }

    /// Whether the task that runs may read once more now; if not, it has been queued again.
    #[inline]
    fn may_read(&self, cx: &Context<'_>) -> bool {
        match self.reads.get().checked_sub(1) {
            Some(left) => {
                self.reads.set(left);
                true
            }
            None => {
                self.wake(self.interest(cx));
                false
            }
        }
    }
}

/// The readiness of one socket, as long as somebody wants to know it.
pub(super) struct Watch {
    source: Rc<Source>,
    executor: Rc<Executor>,
}

impl Watch {
    #[inline]
    pub fn reading(&self) -> &Direction {
        &self.source.reading
    }

    #[inline]
    pub fn writing(&self) -> &Direction {
        &self.source.writing
    }

    /// The task that runs is woken when there is something to read.
    #[inline]
    pub fn wait_to_read(&self, cx: &Context<'_>) {
        self.source.reading.wait(self.executor.interest(cx));
    }

    /// Likewise when there is room to write.
    pub fn wait_to_write(&self, cx: &Context<'_>) -> io::Result<()> {
        self.source.writing.wait(self.executor.interest(cx));
        match self.source.asks_for_room.replace(true) {
            true => Ok(()),
            false => self.executor.tell(
                &self.source,
                mio::Interest::READABLE | mio::Interest::WRITABLE,
            ),
        }
    }

    /// See [`Source::is_drained`].
    #[inline]
    pub fn is_drained(&self) {
        self.source.is_drained();
    }

    /// See [`Executor::may_read`].
    #[inline]
    pub fn may_read(&self, cx: &Context<'_>) -> bool {
        self.executor.may_read(cx)
    }

    /// Ends it; the executor that it was of.
    pub fn end(self) -> Rc<Executor> {
        Rc::clone(&self.executor)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error: the system has forgotten it already, or never knew it.
        let _ = self
            .executor
            .poll
            .borrow()
            .registry()
            .deregister(&mut SourceFd(&self.source.descriptor));
        self.executor.sources.borrow_mut().remove(self.source.key());
    }
}

/// What a panic has said.
fn reason(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "of no known kind",
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Executor")
    }
}
