//! Time limits on threads whose own executor has no timers: who keeps a wheel of timers looks at the clock and at the wheel
//! each time it waits, which for a worker is twice a statement. What blocks is done by the same runtime's threads.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{EnterGuard, Handle, Runtime};
use tokio::time::{Instant, Interval, MissedTickBehavior, Timeout};

/// The timers of another runtime. What they wake runs where it was polled.
#[derive(Clone)]
pub struct Timers {
    runtime: Handle,
    /// To be polled after its runtime is gone makes a timer panic, so who has timers keeps their thread.
    _thread: Option<Arc<Thread>>,
}

/// A thread that does nothing but watch timers.
struct Thread(Option<Runtime>);

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Timers {
    /// Those of a thread of their own, which lives as long as anybody has them.
    pub fn start() -> io::Result<Timers> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("timers")
            .enable_time()
            .build()?;
        Ok(Timers {
            runtime: runtime.handle().clone(),
            _thread: Some(Arc::new(Thread(Some(runtime)))),
        })
    }

    /// Those of the runtime that this is called on, which must have some and outlive what they are used for.
    pub fn here() -> Timers {
        Timers {
            runtime: Handle::current(),
            _thread: None,
        }
    }

    /// Lets this thread give what blocks to that runtime's threads, as long as the guard lives.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Cuts a future off after a time.
    pub fn timeout<F: Future>(&self, after: Duration, future: F) -> Timeout<F> {
        let _there = self.runtime.enter();
        tokio::time::timeout(after, future)
    }

    /// Cuts a future off at a time.
    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F> {
        let _there = self.runtime.enter();
        tokio::time::timeout_at(deadline, future)
    }

    /// Ticks from now on; one that comes late moves those after it.
    pub fn interval(&self, period: Duration) -> Interval {
        let _there = self.runtime.enter();
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timers")
    }
}
