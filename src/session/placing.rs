//! CREATE TABLE that gives its table a place: the control plane records it, and every proxy follows, before the statement is planned again.

use std::time::Duration;

use super::Session;
use super::respond::Fault;
use crate::plan::Placed;
use crate::plan::refusal::{Reason, Refusal};

/// How long the other proxies may take to follow: one that is lost is waited for until its lease has ended.
const LONGEST: Duration = Duration::from_secs(60);

impl Session {
    /// Has a table's place recorded. Afterwards the catalog has it. A transaction that is open knows nothing of it: what it makes of the table may be
    /// rolled back, the place stays.
    pub(super) async fn record_place(&mut self, placed: &Placed) -> Result<(), Fault> {
        self.check_not_aborted()?;
        let shared = &self.worker.shared;
        let told = shared.place(&self.database.name, &self.current_user(), placed.clone());
        let why = match shared.timers.timeout(LONGEST, told).await {
            Ok(Ok(Ok(())))
                if self
                    .database
                    .catalog()
                    .relations
                    .contains_key(&placed.table) =>
            {
                return Ok(());
            }
            Ok(Ok(Ok(()))) => "it was taken back meanwhile".to_owned(),
            Ok(Ok(Err(why))) => why,
            Ok(Err(_)) => "the process ends".to_owned(),
            Err(_) => format!("not all proxies have followed within {LONGEST:?}"),
        };
        let (schema, name) = &placed.table;
        let message = format!("no place was recorded for table {schema}.{name}: {why}");
        Err(Fault::Refused(Refusal::new(Reason::TablePlace, message)))
    }
}
