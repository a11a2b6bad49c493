//! CREATE TABLE that gives its table a place: the control plane records it, and every proxy follows, before the statement is planned again.

use std::time::{Duration, Instant};

use super::Session;
use super::card::State;
use super::respond::Fault;
use crate::plan::Placed;
use crate::plan::refusal::{Reason, Refusal};

/// How long the other proxies may take to follow: one that is lost is waited for until its lease has ended.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked whether the client still wants it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Session {
    /// Has a table's place recorded. Afterwards the catalog has it. A transaction that is open knows nothing of it: what it makes of the table may be
    /// rolled back, the place stays.
    pub(super) async fn record_place(&mut self, placed: &Placed) -> Result<(), Fault> {
        self.check_not_aborted()?;
        let shared = &self.worker.shared;
        let mut told = shared.place(&self.database.name, &self.current_user(), placed.clone());
        let begun = Instant::now();
        self.card.called_off.set(false);
        self.card.held.set(true);
        self.waits(State::Waiting, begun);
        let done = loop {
            let looked = self.worker.shared.timers.timeout(LOOK_AGAIN, &mut told);
            match looked.await {
                Ok(Ok(Ok(()))) => break Ok(()),
                Ok(Ok(Err(why))) => break Err(self.no_place(placed, &why)),
                Ok(Err(_)) => break Err(self.no_place(placed, "the process ends")),
                Err(_) => {}
            }
            if let Err(fault) = self.is_still_wanted() {
                break Err(fault);
            }
            if begun.elapsed() >= LONGEST {
                let why = format!("not all proxies have heard of it within {LONGEST:?}");
                break Err(self.no_place(placed, &why));
            }
        };
        self.card.held.set(false);
        self.waits(State::Active, Instant::now());
        done?;
        let catalog = self.database.catalog();
        match catalog.relations.contains_key(&placed.table) {
            true => Ok(()),
            false => Err(self.no_place(placed, "its place was taken back meanwhile")),
        }
    }

    /// Nothing was created.
    fn no_place(&self, placed: &Placed, why: &str) -> Fault {
        let (schema, name) = &placed.table;
        let message = format!("table {schema}.{name} cannot be created in its place: {why}");
        Fault::Refused(Refusal::new(Reason::TablePlace, message))
    }
}
