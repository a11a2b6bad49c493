//! The commands as text, for each version of Postgres. Pure.
//! Source: Postgres `src/backend/replication/repl_gram.y` and `repl_scanner.l`, `pgoutput.c` (`parse_output_parameters`).

use std::fmt::{self, Write};

use super::ReplicationError;
use crate::wire::message::Format;
use crate::wire::replication::{Lsn, ProtocolVersion, Streaming};

/// A server's version as far as features go: 15 of 15.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerMajor(pub u16);

impl ServerMajor {
    /// From what a server reports as `server_version`: digits, and then anything, as in `17beta1` or `15.4 (Debian 15.4-1)`.
    pub fn parse(reported: &str) -> Option<ServerMajor> {
        let end = reported
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(reported.len());
        reported[..end].parse().ok().map(ServerMajor)
    }

    /// An error when the server is older than this.
    pub(super) fn needs(
        self,
        since: ServerMajor,
        what: &'static str,
    ) -> Result<(), ReplicationError> {
        if self >= since {
            return Ok(());
        }
        Err(ReplicationError::Unsupported {
            what,
            since,
            found: self,
        })
    }

    /// The newest version of pgoutput's protocol that it speaks.
    fn protocol(self) -> ProtocolVersion {
        match self.0 {
            0..14 => ProtocolVersion::V1,
            14 => ProtocolVersion::V2,
            15 => ProtocolVersion::V3,
            16.. => ProtocolVersion::V4,
        }
    }
}

impl fmt::Display for ServerMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A name that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error(
        "\"{0}\" cannot be the name of a replication slot: 1 to 63 of a-z, 0-9 and _ are needed"
    )]
    Slot(String),
    #[error("\"{0}\" cannot be the name of a publication: 1 to 63 bytes without NUL are needed")]
    Publication(String),
}

/// What `NAMEDATALEN` of Postgres leaves for a name, bytes.
const LONGEST_NAME: usize = 63;

/// The name of a replication slot (`ReplicationSlotValidateName`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName(String);

impl SlotName {
    pub fn new(name: impl Into<String>) -> Result<SlotName, InvalidName> {
        let name = name.into();
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain) {
            Ok(SlotName(name))
        } else {
            Err(InvalidName::Slot(name))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a publication. Longer ones Postgres would cut off, and then find another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicationName(String);

impl PublicationName {
    pub fn new(name: impl Into<String>) -> Result<PublicationName, InvalidName> {
        let name = name.into();
        if (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('\0') {
            Ok(PublicationName(name))
        } else {
            Err(InvalidName::Publication(name))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// When a slot goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// When it is dropped. Until then it keeps the server from removing its log.
    Permanent,
    /// With its connection, or at an error on it.
    Temporary,
}

/// What becomes of the snapshot in which a slot's stream begins: it shows exactly what the stream will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Other connections can take it (`SET TRANSACTION SNAPSHOT`), until the next command here or the end of this connection.
    Export,
    Nothing,
    /// The open transaction of this connection uses it. It must be REPEATABLE READ and have done nothing yet.
    Use,
}

/// When prepared transactions are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwoPhase {
    /// When they are committed, as if they never had been prepared.
    AtCommit,
    /// When they are prepared, and later their end. Postgres 15. In a START_REPLICATION it changes the slot for good.
    AtPrepare,
}

/// Whether the server's replicas keep the slot as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    Lost,
    /// Postgres 17, with `sync_replication_slots` on the replicas.
    Kept,
}

/// A logical slot that is to be made, for pgoutput.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    pub name: SlotName,
    pub lifetime: Lifetime,
    pub snapshot: Snapshot,
    pub two_phase: TwoPhase,
    pub failover: Failover,
}

impl SlotRequest {
    /// CREATE_REPLICATION_SLOT.
    pub(super) fn text(&self, server: ServerMajor) -> Result<String, ReplicationError> {
        if self.two_phase == TwoPhase::AtPrepare {
            server.needs(ServerMajor(15), "a slot for prepared transactions")?;
        }
        if self.failover == Failover::Kept {
            server.needs(ServerMajor(17), "a slot that replicas keep")?;
        }
        let mut text = format!("CREATE_REPLICATION_SLOT {}", identifier(&self.name.0));
        if self.lifetime == Lifetime::Temporary {
            text.push_str(" TEMPORARY");
        }
        text.push_str(" LOGICAL pgoutput ");
        let (option, word) = match self.snapshot {
            Snapshot::Export => ("export", "EXPORT_SNAPSHOT"),
            Snapshot::Nothing => ("nothing", "NOEXPORT_SNAPSHOT"),
            Snapshot::Use => ("use", "USE_SNAPSHOT"),
        };
        if server < ServerMajor(15) {
            text.push_str(word);
            return Ok(text);
        }
        let _ = write!(text, "(SNAPSHOT '{option}'");
        if self.two_phase == TwoPhase::AtPrepare {
            text.push_str(", TWO_PHASE");
        }
        if self.failover == Failover::Kept {
            text.push_str(", FAILOVER");
        }
        text.push(')');
        Ok(text)
    }
}

/// What happens when a slot that is to be dropped is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenInUse {
    /// An error, SQLSTATE 55006.
    Refuse,
    Wait,
}

pub(super) fn drop_slot(name: &SlotName, in_use: WhenInUse) -> String {
    let wait = match in_use {
        WhenInUse::Refuse => "",
        WhenInUse::Wait => " WAIT",
    };
    format!("DROP_REPLICATION_SLOT {}{wait}", identifier(&name.0))
}

/// Whether logical messages are sent (`pg_logical_emit_message`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logical {
    Left,
    /// Postgres 14.
    Sent,
}

/// Whose changes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Only those that were made on this server, and not those that a replication with an origin brought. Postgres 16.
    Own,
}

/// A stream that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRequest {
    pub slot: SlotName,
    /// Where to begin; what was confirmed before is not sent again, so a place before that begins there.
    pub from: Lsn,
    /// At least one. They must exist in what the log says of each change, and not only now.
    pub publications: Vec<PublicationName>,
    pub streaming: Streaming,
    pub two_phase: TwoPhase,
    /// Of columns. In binary (Postgres 14) those are sent whose types can.
    pub format: Format,
    pub messages: Logical,
    pub origins: Origins,
}

impl StreamRequest {
    /// All that is sent when a transaction commits, as text.
    pub fn new(slot: SlotName, from: Lsn, publication: PublicationName) -> StreamRequest {
        StreamRequest {
            slot,
            from,
            publications: vec![publication],
            streaming: Streaming::Off,
            two_phase: TwoPhase::AtCommit,
            format: Format::Text,
            messages: Logical::Left,
            origins: Origins::Any,
        }
    }

    /// START_REPLICATION, and what it makes the server speak.
    pub(super) fn text(
        &self,
        server: ServerMajor,
    ) -> Result<(String, ProtocolVersion), ReplicationError> {
        let version = server.protocol();
        let mut options = vec![("proto_version", version.number().to_string())];
        let names = self.publications.iter().map(|name| identifier(&name.0));
        options.push(("publication_names", names.collect::<Vec<_>>().join(",")));
        if self.format == Format::Binary {
            server.needs(ServerMajor(14), "binary columns")?;
            options.push(("binary", "true".to_owned()));
        }
        if self.messages == Logical::Sent {
            server.needs(ServerMajor(14), "logical messages")?;
            options.push(("messages", "true".to_owned()));
        }
        match self.streaming {
            Streaming::Off => {}
            Streaming::On => {
                server.needs(ServerMajor(14), "to send transactions while they run")?;
                options.push(("streaming", "on".to_owned()));
            }
            Streaming::Parallel => {
                server.needs(ServerMajor(16), "to send transactions in parallel streams")?;
                options.push(("streaming", "parallel".to_owned()));
            }
        }
        if self.two_phase == TwoPhase::AtPrepare {
            server.needs(ServerMajor(15), "to send prepared transactions")?;
            options.push(("two_phase", "on".to_owned()));
        }
        if self.origins == Origins::Own {
            server.needs(ServerMajor(16), "to send a server's own changes only")?;
            options.push(("origin", "none".to_owned()));
        }
        let options = options
            .iter()
            .map(|(name, value)| format!("{name} {}", literal(value)));
        let text = format!(
            "START_REPLICATION SLOT {} LOGICAL {} ({})",
            identifier(&self.slot.0),
            self.from,
            options.collect::<Vec<_>>().join(", ")
        );
        Ok((text, version))
    }
}

/// A name in quotes.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in quotes. In replication commands a backslash is nothing special; in SQL neither, with `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
