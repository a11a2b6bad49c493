//! How far the tasks of this driver have come, for people. Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::resharding::job::Route;
use crate::resharding::report::{Progress, StreamProgress, TableProgress};

/// Shared by the tasks of one plan.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    tables: BTreeMap<(Box<str>, Route), TableProgress>,
    streams: BTreeMap<Route, StreamProgress>,
}

impl Tally {
    /// Notes something of a table (`schema.name`, quoted as in SQL) on a way.
    pub fn table(&self, table: &str, route: &Route, note: impl FnOnce(&mut TableProgress)) {
        let mut counts = self.counts();
        let key = (Box::from(table), route.clone());
        let entry = counts.tables.entry(key).or_insert_with(|| TableProgress {
            table: table.into(),
            from: route.from.0.clone(),
            to: route.to.0.clone(),
            ..TableProgress::default()
        });
        note(entry);
    }

    /// Notes something of a stream.
    pub fn stream(&self, stream: &Route, note: impl FnOnce(&mut StreamProgress)) {
        let mut counts = self.counts();
        let entry = counts
            .streams
            .entry(stream.clone())
            .or_insert_with(|| StreamProgress {
                from: stream.from.0.clone(),
                to: stream.to.0.clone(),
                ..StreamProgress::default()
            });
        note(entry);
    }

    /// What is known, with the time in milliseconds since 1970.
    pub fn progress(&self, at: u64) -> Progress {
        let counts = self.counts();
        Progress {
            at,
            obstacle: None,
            tables: counts.tables.values().cloned().collect(),
            streams: counts.streams.values().cloned().collect(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0
            .lock()
            .expect("nothing panics while it holds the lock")
    }
}
