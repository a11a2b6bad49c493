//! SHOW TRANSACTIONS and RESOLVE TRANSACTION: what shards have prepared, and what became of it.

use super::super::table::{Cell, Column, Table, row, text, whole};
use super::clock;
use crate::execution::commit::by_hand::{Done, Resolved};
use crate::execution::commit::ledger::{Ledger, State};

pub const TRANSACTIONS: &[Column] = &[
    text("database"),
    text("shard"),
    text("transaction"),
    text("state"),
    text("outcome"),
    text("decision_shard"),
    text("owner"),
    text("prepared_at"),
    whole("age_seconds"),
    text("reason"),
    text("gid"),
];

pub const RESOLVED: &[Column] = &[
    text("database"),
    text("shard"),
    text("outcome"),
    text("result"),
];

pub fn transactions(ledger: &Ledger, table: &mut Table) {
    for (place, entries) in ledger.places() {
        for entry in entries {
            let (outcome, reason) = match &entry.state {
                State::Prepared => (None, None),
                State::InDoubt { outcome, reason } => (*outcome, Some(&**reason)),
            };
            table.push(row![
                &*place.database,
                &*place.shard,
                entry.id().map(|id| id.to_string()),
                entry.state.as_str(),
                outcome.map(|outcome| outcome.as_str()),
                entry.name.as_ref().map(|name| &*name.decision_shard),
                entry.owner.as_deref(),
                clock::moment(entry.prepared, std::time::Duration::ZERO),
                entry.age().as_secs(),
                reason,
                &*entry.gid,
            ]);
        }
    }
}

pub fn resolved(resolved: &[Resolved]) -> Table {
    let mut table = Table::new(RESOLVED);
    for Resolved {
        place,
        outcome,
        result,
    } in resolved
    {
        let result: Cell = match result {
            Done::Finished => "finished".into(),
            Done::FinishedBefore => "finished by somebody else".into(),
            Done::Recorded => "nothing of it is prepared".into(),
            Done::Left(reason) => reason.as_str().into(),
        };
        let outcome = outcome.map(|outcome| outcome.as_str());
        table.push(row![&*place.database, &*place.shard, outcome, result]);
    }
    table
}
