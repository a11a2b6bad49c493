//! What a server is told: its configuration file, written anew at each start because ports change.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The role that owns every server made here.
pub const SUPERUSER: &str = "postgres";

/// Bytes of the longest path of a Unix socket (`sun_path` holds 108 with its end).
const LONGEST_SOCKET_PATH: usize = 107;

/// How roles prove who they are to a server, on TCP and on its Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone on this machine is who they say they are: for tests only.
    Trust,
    /// SCRAM-SHA-256.
    Password,
}

/// What survives a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything that was committed.
    Durable,
    /// Nothing for sure: fsync is off. Fast; for tests and the demo.
    Volatile,
}

/// How servers are made and run.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub access: Access,
    pub durability: Durability,
    pub max_connections: u16,
    /// More lines for the configuration file, over those we write: name and value.
    pub settings: Vec<(String, String)>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            access: Access::Trust,
            durability: Durability::Volatile,
            max_connections: 200,
            settings: Vec::new(),
        }
    }
}

/// Where a replica finds its primary.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub port: u16,
    pub slot: String,
    pub password: Password,
}

/// A password; never shown by Debug.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// 32 hexadecimal digits from the system's generator.
    pub fn random() -> Self {
        Self(hexadecimal_digits())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// 32 of them, at random.
pub(super) fn hexadecimal_digits() -> String {
    rand::random::<[u8; 16]>()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The folder of a server's Unix socket: its data folder, unless the path would be too long for a socket.
pub(super) fn socket_folder(data: &Path) -> Option<&Path> {
    let longest = data.as_os_str().len() + "/.s.PGSQL.65535".len();
    (longest <= LONGEST_SOCKET_PATH).then_some(data)
}

/// The whole configuration file.
pub(super) fn configuration_file(
    data: &Path,
    port: u16,
    upstream: Option<&Upstream>,
    options: &ServerOptions,
) -> String {
    let socket_folder = socket_folder(data)
        .map(|folder| folder.display().to_string())
        .unwrap_or_default();
    let mut settings: Vec<(&str, String)> = vec![
        ("listen_addresses", "127.0.0.1".into()),
        ("port", port.to_string()),
        ("unix_socket_directories", socket_folder),
        ("max_connections", options.max_connections.to_string()),
        ("max_prepared_transactions", "100".into()),
        ("wal_level", "logical".into()),
        ("max_wal_senders", "20".into()),
        ("max_replication_slots", "20".into()),
        ("max_slot_wal_keep_size", "1GB".into()),
        ("hot_standby_feedback", "on".into()),
        ("shared_buffers", "32MB".into()),
        // In the data folder: one that is killed leaves nothing anywhere else.
        ("dynamic_shared_memory_type", "mmap".into()),
        ("password_encryption", "scram-sha-256".into()),
        ("lc_messages", "C".into()),
        ("timezone", "UTC".into()),
        ("log_timezone", "UTC".into()),
        ("log_line_prefix", "%m [%p] ".into()),
    ];
    if options.durability == Durability::Volatile {
        settings.extend(["fsync", "full_page_writes"].map(|name| (name, "off".into())));
    }
    if let Some(Upstream {
        port,
        slot,
        password,
    }) = upstream
    {
        let conninfo = format!(
            "host=127.0.0.1 port={port} user={SUPERUSER} password={}",
            password.as_str()
        );
        settings.push(("primary_conninfo", conninfo));
        settings.push(("primary_slot_name", slot.clone()));
    }
    settings.extend(
        options
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    settings
        .into_iter()
        .fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(
                text,
                "{name} = '{}'",
                value.replace('\\', "\\\\").replace('\'', "''")
            );
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_has_no_socket() {
        let longest = format!(
            "/{}",
            "x".repeat(LONGEST_SOCKET_PATH - "/.s.PGSQL.65535".len() - 1)
        );
        assert!(socket_folder(Path::new(&longest)).is_some());
        assert!(socket_folder(Path::new(&format!("{longest}x"))).is_none());
    }

    #[test]
    fn values_are_quoted_and_the_last_one_counts() {
        let options = ServerOptions {
            settings: vec![("shared_buffers".into(), "it's".into())],
            ..ServerOptions::default()
        };
        let text = configuration_file(Path::new("/d"), 5555, None, &options);
        assert!(
            text.contains("port = '5555'\n") && text.contains("fsync = 'off'\n"),
            "{text}"
        );
        assert!(text.ends_with("shared_buffers = 'it''s'\n"), "{text}");
        assert!(!text.contains("primary_conninfo"), "{text}");
    }
}
