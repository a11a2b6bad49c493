//! What a server is asked, and how its answer is read.
//!
//! The look itself is one prepared statement: one round trip, and no planning, as it is asked over and over.

use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::types::{FromSql, PgLsn};
use tokio_postgres::{Client, Row, SimpleQueryMessage, SimpleQueryRow, Statement};

use super::answer::{Answer, Lsn, Position, SystemIdentifier, Timeline};
use super::connect::NodeError;

/// What stays the same as long as a connection lives.
#[derive(Clone)]
pub(super) struct Server {
    version: Arc<str>,
    started: Arc<str>,
    control: Control,
    look: Statement,
}

/// What is in the server's control file.
#[derive(Clone, Copy, Debug)]
enum Control {
    Readable(SystemIdentifier),
    /// Some services take this away from their users.
    Denied,
}

/// Asked once, after the login.
pub(super) async fn describe(client: &Client) -> Result<Server, NodeError> {
    let version = row(
        client,
        "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_postmaster_start_time()",
    )
    .await?;
    const CONTROL: &str = "SELECT s.system_identifier, c.timeline_id
        FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c";
    let control = match row(client, CONTROL).await {
        Ok(row) => Control::Readable(system_identifier(&row)?),
        Err(NodeError::Postgres(error)) if error.code().is_some() => Control::Denied,
        Err(error) => return Err(error),
    };
    let look = client.prepare(&position_query(control)).await?;
    Ok(Server {
        version: text(&version, 0)?
            .ok_or_else(|| strange("no version"))?
            .into(),
        started: text(&version, 1)?
            .ok_or_else(|| strange("no time of its start"))?
            .into(),
        control,
        look,
    })
}

fn system_identifier(row: &SimpleQueryRow) -> Result<SystemIdentifier, NodeError> {
    // A bigint to SQL, and without a sign everywhere else in Postgres.
    let number = text(row, 0)?.and_then(|text| text.parse::<i64>().ok());
    number
        .map(|number| SystemIdentifier(number.cast_unsigned()))
        .ok_or_else(|| strange("no system identifier"))
}

/// The last columns, of those who may read them: the timelines of the last checkpoint, and of the log that had to be replayed for what is on the disk.
/// A replica whose role may not see the WAL receiver's has no better ones.
const CONTROL_FILE: &str = ", (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() c),
            CASE WHEN r.recovering THEN (SELECT c.min_recovery_end_timeline FROM pg_catalog.pg_control_recovery() c) END";

/// Whether it recovers is asked once, so that all columns are about the same role: a server that does not recover never does again.
fn position_query(control: Control) -> String {
    let control_file = match control {
        Control::Readable(_) => CONTROL_FILE,
        Control::Denied => ", NULL::pg_catalog.int4, NULL::pg_catalog.int4",
    };
    format!(
        "SELECT r.recovering,
            CASE WHEN NOT r.recovering THEN pg_catalog.pg_current_wal_flush_lsn() END,
            CASE WHEN NOT r.recovering THEN pg_catalog.pg_current_wal_insert_lsn() END,
            CASE WHEN NOT r.recovering
                 THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END,
            CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_receive_lsn() END,
            CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_replay_lsn() END,
            (SELECT w.received_tli FROM pg_catalog.pg_stat_wal_receiver w){control_file}
         FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering OFFSET 0) r"
    )
}

/// Asked at every look.
pub(super) async fn look(client: &Client, server: &Server) -> Result<Answer, NodeError> {
    // Before anything is sent: whatever is committed by now lies before the place that a primary tells.
    let asked = Instant::now();
    let row = client.query_one(&server.look, &[]).await?;
    let round_trip = asked.elapsed();
    let recovering: bool = column(&row, 0)?;
    let (position, timeline) = if recovering {
        let position = Position::Replica {
            received: lsn(&row, 4)?,
            replayed: lsn(&row, 5)?,
        };
        // The control file tells of a promotion late.
        let known = [number(&row, 6)?, number(&row, 7)?, number(&row, 8)?];
        (position, known.into_iter().flatten().max())
    } else {
        let place = |column| lsn(&row, column)?.ok_or_else(|| strange("no place in the log"));
        let position = Position::Primary {
            written: place(1)?,
            inserted: place(2)?,
        };
        let file: Option<&str> = column(&row, 3)?;
        (position, file.map(hexadecimal).transpose()?)
    };
    Ok(Answer {
        position,
        timeline: timeline.map(Timeline),
        system: match server.control {
            Control::Readable(identifier) => Some(identifier),
            Control::Denied => None,
        },
        version: Arc::clone(&server.version),
        started: Arc::clone(&server.started),
        asked,
        round_trip,
    })
}

async fn row(client: &Client, query: &str) -> Result<SimpleQueryRow, NodeError> {
    let messages = client.simple_query(query).await?;
    messages
        .into_iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .ok_or_else(|| strange("no row"))
}

fn strange(what: &str) -> NodeError {
    NodeError::Strange(format!(
        "the server gave an answer that Postgres does not give: {what}"
    ))
}

fn text(row: &SimpleQueryRow, column: usize) -> Result<Option<&str>, NodeError> {
    Ok(row.try_get(column)?)
}

fn hexadecimal(text: &str) -> Result<u32, NodeError> {
    u32::from_str_radix(text, 16).map_err(|_| strange(text))
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, NodeError> {
    Ok(row.try_get(column)?)
}

/// A timeline.
fn number(row: &Row, place: usize) -> Result<Option<u32>, NodeError> {
    let number: Option<i32> = column(row, place)?;
    Ok(number.map(i32::cast_unsigned))
}

fn lsn(row: &Row, place: usize) -> Result<Option<Lsn>, NodeError> {
    let place: Option<PgLsn> = column(row, place)?;
    Ok(place.map(|place| Lsn(place.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_log_read_as_they_are_written() {
        for (written, number) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B_3748),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(written.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), written);
        }
        for wrong in ["", "0", "/", "0/", "0/1/2", "0/123456789", "x/0", "+1/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }
}
