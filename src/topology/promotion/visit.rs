//! A visit to one server: what is asked and changed there when a primary is made. The only place where this room changes a server.
//!
//! Every question has a time limit, and everything that is changed may be changed again without harm.

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::conninfo;
use crate::config;
use crate::topology::answer::{Answer, Lsn, Timeline};
use crate::topology::connect::{self, Login, NodeError};
use crate::topology::node::APPLICATION_NAME;
use crate::topology::position;
use crate::wire::tls::ServerEncryption;

/// None of what is done may hang on what roles and databases set for themselves.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp; SET default_transaction_read_only = off;
    SET default_transaction_isolation = 'read committed'; SET synchronous_commit = local; SET standard_conforming_strings = on;
    SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET client_min_messages = error";

/// Between two looks at whether something has happened.
const POLL: Duration = Duration::from_millis(5);

/// The setting by which a server takes no writes.
const READ_ONLY: &str = "default_transaction_read_only";

/// The first Postgres whose standbys follow another primary without a restart.
const POINTED_WHILE_RUNNING: u32 = 130_000;

/// A connection for one purpose. It ends when it is dropped.
pub struct Visit {
    client: Client,
    driver: AbortHandle,
    /// How long an answer may take.
    limit: Duration,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a primary says before a switchover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryFacts {
    pub recovering: bool,
    pub timeline: Option<Timeline>,
    pub written: Lsn,
    /// What our role may not do, in words.
    pub missing_rights: Vec<String>,
    /// Whether it takes no writes unless told so.
    pub read_only: bool,
    /// What `postgresql.auto.conf` says of that.
    pub configured: Option<String>,
    /// Roles and databases that say something else.
    pub overrides: Vec<Override>,
}

/// A setting that a role or database has for itself, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override(pub String);

/// What a node says that may be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFacts {
    pub recovering: bool,
    pub timeline: Option<Timeline>,
    pub received: Lsn,
    pub replayed: Lsn,
    /// How long ago it heard from the server that it follows; `None`: it is not connected to it, or our role may not know.
    pub heard: Option<Duration>,
    pub may_promote: bool,
    pub replay_paused: bool,
}

/// What became of a standby that was to follow another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repointed {
    Yes,
    /// It is not a standby.
    NotStandby,
    /// With the reason.
    No(String),
}

impl Visit {
    pub(in crate::topology) async fn begin(
        login: &Login,
        node: &config::Node,
        encryption: &ServerEncryption,
        limit: Duration,
    ) -> Result<Visit, NodeError> {
        let begun = async {
            let (client, driver) =
                connect::connect(login, APPLICATION_NAME, node, encryption).await?;
            let driver = tokio::spawn(driver).abort_handle();
            let visit = Visit {
                client,
                driver,
                limit,
            };
            visit.client.batch_execute(SETTINGS).await?;
            Ok(visit)
        };
        timeout(limit, begun)
            .await
            .unwrap_or(Err(NodeError::Slow(limit)))
    }

    async fn rows(&self, sql: &str) -> Result<Vec<SimpleQueryRow>, NodeError> {
        let asked = self.client.simple_query(sql);
        let messages = timeout(self.limit, asked)
            .await
            .map_err(|_| NodeError::Slow(self.limit))??;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    async fn row(&self, sql: &str) -> Result<SimpleQueryRow, NodeError> {
        let rows = self.rows(sql).await?;
        rows.into_iter()
            .next()
            .ok_or_else(|| NodeError::Strange("the server gives no row".to_owned()))
    }

    async fn text(&self, sql: &str) -> Result<Option<String>, NodeError> {
        let row = self.row(sql).await?;
        Ok(row.try_get(0)?.map(str::to_owned))
    }

    async fn truth(&self, sql: &str) -> Result<bool, NodeError> {
        Ok(self.text(sql).await?.as_deref() == Some("t"))
    }

    async fn lsn(&self, sql: &str) -> Result<Lsn, NodeError> {
        let text = self.text(sql).await?.unwrap_or_default();
        text.parse().map_err(|_| {
            NodeError::Strange(format!("the server gives {text:?} for a place in the log"))
        })
    }

    async fn answer(&self) -> Result<Answer, NodeError> {
        let looked = async {
            let server = position::describe(&self.client).await?;
            position::look(&self.client, &server).await
        };
        timeout(self.limit, looked)
            .await
            .unwrap_or(Err(NodeError::Slow(self.limit)))
    }

    async fn version(&self) -> Result<u32, NodeError> {
        let text = self
            .text("SELECT pg_catalog.current_setting('server_version_num')")
            .await?;
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| NodeError::Strange("the server does not say its version".to_owned()))
    }

    pub async fn is_recovering(&self) -> Result<bool, NodeError> {
        self.truth("SELECT pg_catalog.pg_is_in_recovery()").await
    }

    /// What a switchover needs to know of the primary.
    pub async fn primary_facts(&self) -> Result<PrimaryFacts, NodeError> {
        let answer = self.answer().await?;
        let missing_rights = self.missing_rights().await?;
        let read_only =
            format!("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = '{READ_ONLY}'");
        let read_only = self.text(&read_only).await?.as_deref() == Some("on");
        let configured = match missing_rights.is_empty() {
            true => self.configured().await?,
            false => None,
        };
        let overrides = format!(
            "SELECT pg_catalog.concat_ws(' ', 'role ' || r.rolname, 'database ' || d.datname) FROM pg_catalog.pg_db_role_setting s
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
             WHERE EXISTS (SELECT FROM pg_catalog.unnest(s.setconfig) c WHERE c LIKE '{READ_ONLY}=%')"
        );
        let overrides = self.rows(&overrides).await?;
        let named = |row: &SimpleQueryRow| Some(Override(row.try_get(0).ok()??.to_owned()));
        Ok(PrimaryFacts {
            recovering: answer.role() != crate::topology::Role::Primary,
            timeline: answer.timeline,
            written: match answer.position {
                crate::topology::answer::Position::Primary { inserted, .. } => inserted,
                crate::topology::answer::Position::Replica { .. } => Lsn(0),
            },
            missing_rights,
            read_only,
            configured,
            overrides: overrides.iter().filter_map(named).collect(),
        })
    }

    /// The value that ALTER SYSTEM has given.
    async fn configured(&self) -> Result<Option<String>, NodeError> {
        let rows = self
            .rows(&format!(
                "SELECT setting FROM pg_catalog.pg_file_settings
                 WHERE name = '{READ_ONLY}' AND sourcefile LIKE '%postgresql.auto.conf' ORDER BY seqno DESC LIMIT 1"
            ))
            .await?;
        let setting = rows.first().map(|row| row.try_get(0)).transpose()?;
        Ok(setting.flatten().map(str::to_owned))
    }

    /// What a role that is no superuser needs on a primary.
    async fn missing_rights(&self) -> Result<Vec<String>, NodeError> {
        const SUPERUSER: &str =
            "SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";
        if self.truth(SUPERUSER).await? {
            return Ok(Vec::new());
        }
        let alter = format!("ALTER SYSTEM on {READ_ONLY}");
        let mut asked = vec![
            (
                "pg_has_role('pg_signal_backend', 'USAGE')",
                "membership in pg_signal_backend",
            ),
            (
                "pg_has_role('pg_read_all_stats', 'USAGE')",
                "membership in pg_read_all_stats",
            ),
            (
                "has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE')",
                "EXECUTE on pg_reload_conf()",
            ),
            (
                "has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')
                 AND has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')",
                "EXECUTE on pg_show_all_file_settings() and SELECT on pg_file_settings",
            ),
        ];
        let mut missing = Vec::new();
        match self.version().await? {
            // Before, only superusers could.
            ..150_000 => missing.push("superuser".to_owned()),
            _ => asked.push((
                "has_parameter_privilege('default_transaction_read_only', 'ALTER SYSTEM')",
                &alter,
            )),
        }
        for (question, right) in asked {
            if !self.truth(&format!("SELECT {question}")).await? {
                missing.push(right.to_owned());
            }
        }
        Ok(missing)
    }

    pub async fn replica_facts(&self) -> Result<ReplicaFacts, NodeError> {
        let answer = self.answer().await?;
        let (received, replayed) = match answer.position {
            crate::topology::answer::Position::Replica { received, replayed } => {
                let replayed = replayed.unwrap_or(Lsn(0));
                // What came out of an archive was not received.
                (received.unwrap_or(Lsn(0)).max(replayed), replayed)
            }
            crate::topology::answer::Position::Primary { written, .. } => (written, written),
        };
        let recovering = answer.role() == crate::topology::Role::Replica;
        const HEARD: &str = "SELECT pg_catalog.round(1000 * EXTRACT(EPOCH FROM
            pg_catalog.clock_timestamp() - w.last_msg_receipt_time))::bigint
            FROM pg_catalog.pg_stat_wal_receiver w WHERE w.status = 'streaming'";
        let heard = self.rows(HEARD).await?;
        let heard = heard
            .first()
            .and_then(|row| row.try_get(0).ok()??.parse::<i64>().ok());
        const MAY: &str = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'EXECUTE')";
        let replay_paused = match recovering {
            true => {
                self.truth("SELECT pg_catalog.pg_is_wal_replay_paused()")
                    .await?
            }
            false => false,
        };
        Ok(ReplicaFacts {
            recovering,
            timeline: answer.timeline.max(self.timeline_of_log().await?),
            received,
            replayed,
            heard: heard.map(|millis| Duration::from_millis(millis.max(0).unsigned_abs())),
            may_promote: self.truth(MAY).await?,
            replay_paused,
        })
    }

    /// The timeline of the newest log that is there. A standby that has lost its primary shows no other trace of the timeline that it follows until it has
    /// written down where it would begin again. `None` where our role may not look.
    async fn timeline_of_log(&self) -> Result<Option<Timeline>, NodeError> {
        const SEGMENTS: &str = "SELECT pg_catalog.max(pg_catalog.substr(w.name, 1, 8)) FROM pg_catalog.pg_ls_waldir() w
            WHERE w.name ~ '^[0-9A-F]{24}$'";
        match self.text(SEGMENTS).await {
            Ok(name) => Ok(name
                .and_then(|name| u32::from_str_radix(&name, 16).ok())
                .map(Timeline)),
            Err(NodeError::Postgres(error)) if error.code().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who else is in a transaction: one text for each, for people.
    pub async fn busy(&self) -> Result<Vec<String>, NodeError> {
        const BUSY: &str = "SELECT pg_catalog.format('process %s of %s (%s, %s, for %s s)', a.pid, a.usename,
                a.application_name, a.state, pg_catalog.round(EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - a.xact_start)))
            FROM pg_catalog.pg_stat_activity a
            WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
              AND a.state <> 'idle' AND a.xact_start IS NOT NULL";
        let rows = self.rows(BUSY).await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some(row.try_get(0).ok()??.to_owned()))
            .collect())
    }

    /// From now on nobody writes here: transactions are read-only unless they say otherwise, and whoever is connected is sent away.
    /// Gives a place in the log that covers everything that was ever committed.
    pub async fn stop_writes(&self, deadline: Instant) -> Result<Lsn, NodeError> {
        self.rows(&format!("ALTER SYSTEM SET {READ_ONLY} = on"))
            .await?;
        self.rows("SELECT pg_catalog.pg_reload_conf()").await?;
        let in_force = format!(
            "SELECT reset_val = 'on' FROM pg_catalog.pg_settings WHERE name = '{READ_ONLY}'"
        );
        while !self.truth(&in_force).await? {
            self.pause(
                deadline,
                "it does not take up the setting that stops writes",
            )
            .await?;
        }
        // Those who came before may have set it for themselves. Who comes now finds it on.
        let before = self
            .text("SELECT pg_catalog.clock_timestamp()::text")
            .await?
            .unwrap_or_default();
        let others = format!(
            "FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend'
             AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_start <= '{before}'"
        );
        self.rows(&format!(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) {others}"
        ))
        .await?;
        while !self
            .truth(&format!("SELECT pg_catalog.count(*) = 0 {others}"))
            .await?
        {
            self.pause(deadline, "sessions that were sent away are still there")
                .await?;
        }
        // Its commit waits for the disk, and so for all that stands before it, also what was committed without that wait.
        self.rows("SELECT pg_catalog.pg_logical_emit_message(true, 'trunkline', 'switchover')")
            .await?;
        self.lsn("SELECT pg_catalog.pg_current_wal_flush_lsn()")
            .await
    }

    /// Undoes [`Visit::stop_writes`]; `configured` is what ALTER SYSTEM had said before. Says whether there was anything to undo.
    pub async fn allow_writes(
        &self,
        configured: Option<&str>,
        deadline: Instant,
    ) -> Result<bool, NodeError> {
        if self.configured().await?.as_deref() == configured {
            return Ok(false);
        }
        match configured {
            Some(value) => {
                let value = literal(value);
                self.rows(&format!("ALTER SYSTEM SET {READ_ONLY} = {value}"))
                    .await?
            }
            None => {
                self.rows(&format!("ALTER SYSTEM RESET {READ_ONLY}"))
                    .await?
            }
        };
        self.rows("SELECT pg_catalog.pg_reload_conf()").await?;
        let in_force = format!(
            "SELECT reset_val = 'off' FROM pg_catalog.pg_settings WHERE name = '{READ_ONLY}'"
        );
        while !self.truth(&in_force).await? {
            self.pause(
                deadline,
                "it does not take up the setting that allows writes",
            )
            .await?;
        }
        Ok(true)
    }

    /// Waits until everything up to this place is replayed here.
    pub async fn replayed(&self, place: Lsn, deadline: Instant) -> Result<(), NodeError> {
        loop {
            let now = self
                .lsn("SELECT COALESCE(pg_catalog.pg_last_wal_replay_lsn(), '0/0')")
                .await?;
            if now >= place {
                return Ok(());
            }
            let behind = place.0 - now.0;
            self.pause(deadline, &format!("it has still to replay {behind} bytes"))
                .await?;
        }
    }

    /// Makes it the primary, and waits until it is. Nothing happens when it is already.
    pub async fn promote(&self, deadline: Instant) -> Result<(), NodeError> {
        if self.is_recovering().await? {
            let told = self.rows("SELECT pg_catalog.pg_promote(false)").await;
            // It may have become one in between.
            if let Err(error) = told
                && self.is_recovering().await?
            {
                return Err(error);
            }
        }
        while self.is_recovering().await? {
            self.pause(
                deadline,
                "it was told to be the primary, and is still a standby",
            )
            .await?;
        }
        Ok(())
    }

    /// Where a slot of this name is missing, makes it.
    pub async fn make_slot(&self, name: &str) -> Result<(), NodeError> {
        let name = literal(name);
        self.rows(&format!(
            "SELECT pg_catalog.pg_create_physical_replication_slot({name}, true)
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = {name})"
        ))
        .await?;
        Ok(())
    }

    /// Has a standby follow another server, as whom and how it followed the one before.
    pub async fn follow(
        &self,
        primary: &Visit,
        host: &str,
        port: u16,
    ) -> Result<Repointed, NodeError> {
        if !self.is_recovering().await? {
            return Ok(Repointed::NotStandby);
        }
        if self.version().await? < POINTED_WHILE_RUNNING {
            let why = "a standby of Postgres 12 must be restarted for that";
            return Ok(Repointed::No(why.to_owned()));
        }
        let before = self
            .text("SELECT pg_catalog.current_setting('primary_conninfo')")
            .await?;
        let Some(conninfo) = conninfo::pointed_to(&before.unwrap_or_default(), host, port) else {
            return Ok(Repointed::No(
                "its primary_conninfo is not understood".to_owned(),
            ));
        };
        let slot = self
            .text("SELECT pg_catalog.current_setting('primary_slot_name')")
            .await?;
        if let Some(slot) = slot.filter(|slot| !slot.is_empty()) {
            primary.make_slot(&slot).await?;
        }
        let conninfo = literal(&conninfo);
        self.rows(&format!("ALTER SYSTEM SET primary_conninfo = {conninfo}"))
            .await?;
        self.rows("SELECT pg_catalog.pg_reload_conf()").await?;
        Ok(Repointed::Yes)
    }

    async fn pause(&self, deadline: Instant, what: &str) -> Result<(), NodeError> {
        if Instant::now() >= deadline {
            return Err(NodeError::Strange(format!("not in time: {what}")));
        }
        sleep(POLL).await;
        Ok(())
    }
}

/// A string constant, with `standard_conforming_strings`.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
