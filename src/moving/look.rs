//! What a driver sees of a plan on one shard, in one round trip: it looks every few milliseconds during a cutover.

use std::collections::BTreeSet;

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::resharding::job::{
    Ledger, Lsn, MovingKeys, Objects, ShardFact, ShardName, Slot, Term, VerifyFact,
};

use super::guard;
use super::ledger::{self, OnShard};
use super::shards::ShardError;
use super::triggers;

/// Whether the guards of an open ledger are looked for table by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Triggers {
    #[default]
    Looked,
    /// The ledger's word is enough: clients wait, and who guards or fences looks for himself.
    Believed,
}

/// What is looked for besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Kinds of keys that the shard loses: whether anyone has an open transaction that wrote them ([`ShardFact::strangers`]).
    pub strangers: BTreeSet<MovingKeys>,
    /// Kinds of keys whose rows are to go ([`ShardFact::rows`]). They are there until [`super::remove`] has found none.
    pub rows: BTreeSet<MovingKeys>,
    pub triggers: Triggers,
}

/// How far a source has come on the receiving shard, as that has written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRow {
    pub copied: bool,
    pub applied: Lsn,
    pub fence_applied: Option<Term>,
    pub verified: Option<VerifyFact>,
}

impl OnShard<'_> {
    /// A kind of keys is guarded when the ledger says so and the triggers are on every moved table that is there. Once the ledger is closed it
    /// is so while any trigger of the kind is left, so that none is forgotten.
    pub async fn look(
        &self,
        objects: &Objects,
        asked: &Asked,
    ) -> Result<(ShardFact, Vec<(ShardName, StreamRow)>), ShardError> {
        let number = self.scope.number;
        let wanted = match asked.triggers {
            Triggers::Looked => triggers::wanted(self.scope, self.shard),
            Triggers::Believed => Vec::new(),
        };
        let here = self.objects_text(objects, asked);
        let text = format!(
            "{}; SELECT source, copied, applied - '0/0'::pg_catalog.pg_lsn, fence_applied, verified_round, differences
                FROM trunkline.reshard_streams WHERE number = {number} ORDER BY source; {here}",
            ledger_text(number, &triggers::missing_query(number, &wanted))
        );
        let mut found = match answers(self.client.simple_query(&text).await) {
            Ok(found) => found,
            // No plan was ever here.
            Err(ShardError::Postgres(error))
                if error
                    .code()
                    .is_some_and(|code| matches!(code.code(), "42P01" | "3F000")) =>
            {
                let mut found = answers(self.client.simple_query(&here).await)?;
                found.splice(0..0, [Vec::new(), Vec::new()]);
                found
            }
            Err(error) => return Err(error),
        };
        let (Some(here), Some(streams), Some(ledger)) = (found.pop(), found.pop(), found.pop())
        else {
            return Err(ShardError::Strange("an answer without a part of it"));
        };
        let streams = streams.iter().map(stream).collect::<Result<_, _>>()?;
        let here = here.first().ok_or(ShardError::Strange("no row of a row"))?;
        let fact = fact(ledger.first(), here, asked)?;
        Ok((fact, streams))
    }

    /// Of publication, slot and strangers, one row. Needs nothing of the plan's to be there.
    fn objects_text(&self, objects: &Objects, asked: &Asked) -> String {
        let strangers: Vec<String> = asked
            .strangers
            .iter()
            .map(|keys| format!("EXISTS ({})", ledger::writers(self.scope.number, *keys)))
            .collect();
        let strangers = match strangers.is_empty() {
            true => "false".to_owned(),
            false => strangers.join(" OR "),
        };
        format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {publication}), s.slot_name IS NOT NULL,
                s.wal_status, s.confirmed_flush_lsn IS NOT NULL,
                greatest(pg_catalog.pg_current_wal_lsn() - s.restart_lsn, 0), {strangers}
             FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_replication_slots s
                ON s.slot_name = {slot} AND s.database = pg_catalog.current_database()",
            publication = ledger::text(&objects.publication),
            slot = ledger::text(&objects.slot),
        )
    }
}

/// One row if there is a ledger. What its triggers are is looked for only as far as it matters.
fn ledger_text(number: u64, missing: &str) -> String {
    let names: Vec<String> = [MovingKeys::Leaving, MovingKeys::Arriving]
        .into_iter()
        .flat_map(|keys| {
            guard::names(number, keys).map(|name| format!("('{name}', '{}')", guard::word(keys)))
        })
        .collect();
    format!(
        "SELECT l.term, l.closed, pg_catalog.array_to_string(l.guarded, ','), l.fence_term, l.fence_lsn - '0/0'::pg_catalog.pg_lsn, l.indexed,
            pg_catalog.array_to_string(l.cleared, ','),
            CASE WHEN l.closed
                THEN (SELECT pg_catalog.string_agg(DISTINCT left_over.kind, ',') FROM (VALUES {}) AS left_over (name, kind)
                    JOIN pg_catalog.pg_trigger g ON g.tgname = left_over.name)
                ELSE (SELECT pg_catalog.string_agg(DISTINCT missing.kind, ',') FROM ({missing}) AS missing (schema_name, table_name, kind, event, relation, name, state))
            END
         FROM trunkline.reshard_ledger l WHERE l.number = {number} AND (l.ready OR l.closed)",
        names.join(", ")
    )
}

/// The rows of each statement.
fn answers(
    said: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>,
) -> Result<Vec<Vec<SimpleQueryRow>>, ShardError> {
    let (mut all, mut rows) = (Vec::new(), Vec::new());
    for message in said? {
        match message {
            SimpleQueryMessage::Row(row) => rows.push(row),
            SimpleQueryMessage::CommandComplete(_) => all.push(std::mem::take(&mut rows)),
            _ => {}
        }
    }
    Ok(all)
}

fn fact(
    row: Option<&SimpleQueryRow>,
    here: &SimpleQueryRow,
    asked: &Asked,
) -> Result<ShardFact, ShardError> {
    let mut fact = ShardFact {
        ledger: Ledger::Absent,
        publication: truth(here, 0),
        slot: Slot::Absent,
        guards: BTreeSet::new(),
        fence: None,
        indexed: false,
        strangers: truth(here, 5),
        rows: asked.rows.clone(),
    };
    if let Some(row) = row {
        let term = term(row, 0)?.ok_or(ShardError::Strange("a ledger without a term"))?;
        let of_triggers = kinds(row.get(7))?;
        let guarded = kinds(row.get(2))?;
        if truth(row, 1) {
            fact.ledger = Ledger::Closed { term };
            fact.guards = guarded.union(&of_triggers).copied().collect();
        } else {
            fact.ledger = Ledger::Open { term };
            fact.guards = guarded.difference(&of_triggers).copied().collect();
        }
        fact.fence = match (self::term(row, 3)?, number(row, 4)?) {
            (Some(term), Some(place)) => Some((term, Lsn(place))),
            _ => None,
        };
        fact.indexed = truth(row, 5);
        let cleared = kinds(row.get(6))?;
        fact.rows.retain(|keys| !cleared.contains(keys));
    }
    fact.slot = slot(here, fact.ledger)?;
    Ok(fact)
}

fn slot(here: &SimpleQueryRow, ledger: Ledger) -> Result<Slot, ShardError> {
    let complete = truth(here, 3);
    Ok(match (truth(here, 1), here.get(2)) {
        (false, _) => Slot::Absent,
        // While it is being made nothing can be read of it; whoever drops it must know of it all the same.
        (true, _) if !complete && !matches!(ledger, Ledger::Closed { .. }) => Slot::Absent,
        (true, Some("lost")) => Slot::Lost,
        (true, _) => Slot::There {
            retained: number(here, 4)?.unwrap_or(0),
        },
    })
}

fn stream(row: &SimpleQueryRow) -> Result<(ShardName, StreamRow), ShardError> {
    let source = row
        .get(0)
        .ok_or(ShardError::Strange("a stream of nobody"))?;
    let verified = match (number(row, 4)?, number(row, 5)?) {
        (Some(round), Some(differences)) => Some(VerifyFact {
            round: u32::try_from(round)
                .map_err(|_| ShardError::Strange("a round that cannot be"))?,
            differences,
        }),
        _ => None,
    };
    let stream = StreamRow {
        copied: truth(row, 1),
        applied: Lsn(number(row, 2)?.unwrap_or(0)),
        fence_applied: term(row, 3)?,
        verified,
    };
    Ok((ShardName(source.into()), stream))
}

fn truth(row: &SimpleQueryRow, column: usize) -> bool {
    row.get(column) == Some("t")
}

fn number(row: &SimpleQueryRow, column: usize) -> Result<Option<u64>, ShardError> {
    let parsed = row.get(column).map(str::parse).transpose();
    parsed.map_err(|_| ShardError::Strange("a number that is none"))
}

fn term(row: &SimpleQueryRow, column: usize) -> Result<Option<Term>, ShardError> {
    let number = number(row, column)?.map(u32::try_from).transpose();
    let number = number.map_err(|_| ShardError::Strange("a term that cannot be"))?;
    Ok(number.map(Term))
}

fn kinds(list: Option<&str>) -> Result<BTreeSet<MovingKeys>, ShardError> {
    let words = list.unwrap_or_default().split(',');
    words
        .filter(|word| !word.is_empty())
        .map(ledger::keys_of)
        .collect()
}
