//! What can go wrong with servers on this machine, each with what to do about it.

use std::path::PathBuf;

use super::installation::MINIMUM_MAJOR;

/// An error of the local cluster. The text says what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(
        "no Postgres server binaries found (looked in {searched})\n\
         install them, for instance: apt-get install postgresql\n\
         or name their folder: PG_BIN=/path/to/bin"
    )]
    NoInstallation { searched: String },

    #[error("PG_BIN is {bin}, but there is no {missing} in it", bin = .bin.display())]
    Incomplete { bin: PathBuf, missing: &'static str },

    #[error(
        "the newest Postgres found is {version} in {bin}, but at least {MINIMUM_MAJOR} is needed\n\
         install a newer one, or name its folder: PG_BIN=/path/to/bin",
        bin = .bin.display()
    )]
    TooOld { version: String, bin: PathBuf },

    #[error(
        "{program} could not be started: {source}\n\
         (when run as root, servers run as user {account}, who must be able to read and enter that folder)"
    )]
    Spawn {
        program: String,
        account: String,
        source: std::io::Error,
    },

    #[error("{program} failed:\n{output}")]
    Failed { program: String, output: String },

    #[error(
        "the disk is full: {folder} has {free_mb} MB free and about {needed_mb} MB are needed\n\
         free some space, or choose another folder with --data",
        folder = .folder.display()
    )]
    NoSpace {
        folder: PathBuf,
        free_mb: u64,
        needed_mb: u64,
    },

    #[error(
        "the disk became full while writing to {folder}\nfree some space, or choose another folder with --data",
        folder = .folder.display()
    )]
    DiskFull { folder: PathBuf },

    #[error(
        "port {port} on 127.0.0.1 is in use by another process\nstop it, or choose another port"
    )]
    PortBusy { port: u16 },

    #[error("no free port on 127.0.0.1 between {from} and {to}\nchoose another one with --port")]
    NoFreePort { from: u16, to: u16 },

    #[error(
        "{folder} was made by Postgres {found}, and the Postgres in use is {wanted}\n\
         set PG_BIN to the folder of Postgres {found}'s binaries, or begin anew with --fresh",
        folder = .folder.display()
    )]
    OtherMajor {
        folder: PathBuf,
        found: String,
        wanted: u32,
    },

    #[error(
        "{folder} belongs to {owner}, but must belong to {account}\n\
         run as that user, choose another folder with --data, or begin anew with --fresh",
        folder = .folder.display()
    )]
    OtherOwner {
        folder: PathBuf,
        owner: String,
        account: String,
    },

    #[error(
        "{folder} cannot be entered by user {account}, as whom the servers run (Postgres refuses to run as root)\n\
         choose a folder all of whose parents are open to that user, like --data /var/tmp/trunkline",
        folder = .folder.display()
    )]
    Unreachable { folder: PathBuf, account: String },

    #[error(
        "{folder} exists and was not made by Trunkline: it has no {marker}\n\
         choose another folder with --data; nothing was removed",
        folder = .folder.display()
    )]
    NotOurs {
        folder: PathBuf,
        marker: &'static str,
    },

    #[error(
        "{folder} holds {found}, but {wanted} were asked for\n\
         leave the numbers out to use what is there, or begin anew with --fresh",
        folder = .folder.display()
    )]
    OtherShape {
        folder: PathBuf,
        found: String,
        wanted: String,
    },

    #[error("{folder} is in use by another running cluster\nstop it, or choose another folder with --data", folder = .folder.display())]
    InUse { folder: PathBuf },

    #[error("server {name} was not ready within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        name: String,
        seconds: u64,
        log: String,
    },

    #[error("server {name} ended while it was starting; the end of its log:\n{log}")]
    Ended { name: String, log: String },

    #[error("server {name} did not stop within {seconds} s; the end of its log:\n{log}")]
    NotStopped {
        name: String,
        seconds: u64,
        log: String,
    },

    #[error("server {name} is not running")]
    NotRunning { name: String },

    #[error(
        "neither user postgres nor user nobody exists, and Postgres refuses to run as root\nrun as another user"
    )]
    NoAccount,

    #[error("{what} in {path}: {source}", path = .path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },

    #[error("{path} is not readable as a marker of a cluster: {reason}\nbegin anew with --fresh", path = .path.display())]
    Marker { path: PathBuf, reason: String },

    #[error("server {name}: {statement}: {reason}")]
    Statement {
        name: String,
        statement: String,
        reason: String,
    },
}

impl LocalError {
    /// An I/O error with its place; a full disk gets its own message.
    pub(super) fn io(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::DiskFull {
                folder: path.to_owned(),
            };
        }
        Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
