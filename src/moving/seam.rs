//! Where the chunks and the stream of one way meet.
//!
//! One for each stream of a driver, shared by its follower and by whoever copies that way. It must not outlive the driver's lease: what an earlier
//! driver deleted is not noted in it.

use tokio::sync::{RwLock, watch};

use crate::wire::replication::Lsn;

use super::tombstones::Tombstones;

/// See above.
#[derive(Debug)]
pub struct Seam {
    /// Fair. Whoever applies has it alone, whoever inserts a chunk shares it, each for the whole of a transaction on the receiving shard.
    pub(super) tombstones: RwLock<Tombstones>,
    /// How far the stream has been applied.
    applied: watch::Sender<Lsn>,
}

impl Default for Seam {
    fn default() -> Seam {
        Seam::new()
    }
}

impl Seam {
    pub fn new() -> Seam {
        Seam {
            tombstones: RwLock::new(Tombstones::new()),
            applied: watch::Sender::new(Lsn(0)),
        }
    }

    /// Every transaction of the source that ended at or before it is on the receiving shard; 0 as long as nobody has followed.
    pub fn applied(&self) -> Lsn {
        *self.applied.borrow()
    }

    /// Waits until it is applied as far. For ever, when nobody follows.
    pub async fn until_applied(&self, place: Lsn) {
        let mut applied = self.applied.subscribe();
        // The sender is `self`, so it lives.
        let _ = applied.wait_for(|applied| *applied >= place).await;
    }

    pub(super) fn note_applied(&self, place: Lsn) {
        self.applied
            .send_if_modified(|applied| std::mem::replace(applied, place) != place);
    }
}
