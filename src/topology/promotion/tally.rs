//! How often primaries were made, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Switched,
    /// A switchover that was refused or undone.
    NotSwitched,
    Promoted,
    /// An attempt to promote a replica that came to nothing.
    NotPromoted,
}

/// Since the start of the process.
#[derive(Debug, Default)]
pub struct Tally([AtomicU64; 4]);

impl Tally {
    pub fn add(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}
