//! As which user of this machine the servers run: ourselves, or another one when we are root (Postgres refuses root).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use super::error::LocalError;

/// The user as whom servers and their tools run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// The user who runs us.
    Own { name: String, uid: Uid },
    /// We are root: another user, without privileges.
    Dropped { name: String, uid: Uid, gid: Gid },
}

impl Account {
    /// Our own user; for root `postgres`, else `nobody`.
    pub fn find() -> Result<Self, LocalError> {
        let uid = Uid::effective();
        if !uid.is_root() {
            return Ok(Self::Own {
                name: user_name(uid),
                uid,
            });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .filter(|user| !user.uid.is_root())
            .map(|user| Self::Dropped {
                name: user.name,
                uid: user.uid,
                gid: user.gid,
            })
            .ok_or(LocalError::NoAccount)
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Own { name, .. } | Self::Dropped { name, .. } => name,
        }
    }

    pub fn uid(&self) -> Uid {
        match self {
            Self::Own { uid, .. } | Self::Dropped { uid, .. } => *uid,
        }
    }

    /// A command that will run as this user, in `/`, with nothing of our environment that could change what Postgres
    /// does (PGDATA, PGPORT, LANG ...) and with messages in English, which we read.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        if let Self::Dropped { uid, gid, .. } = self {
            // The standard library drops root's supplementary groups when it sets another user.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Gives a file or folder that we made to this user.
    pub(super) fn give(&self, path: &Path) -> Result<(), LocalError> {
        let Self::Dropped { uid, gid, .. } = self else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .map_err(|e| LocalError::io("change the owner", path, e))
    }

    /// Fails unless this user can enter the folder (its parents may be closed, like `/root`).
    pub(super) fn can_enter(&self, folder: &Path) -> Result<(), LocalError> {
        let entered = self
            .command(Path::new("/bin/sh"))
            .args(["-c", "cd \"$1\"", "sh"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|source| LocalError::Spawn {
                program: "/bin/sh".into(),
                account: self.name().into(),
                source,
            })?;
        if entered.success() {
            return Ok(());
        }
        Err(LocalError::Unreachable {
            folder: folder.to_owned(),
            account: self.name().into(),
        })
    }
}

/// A user's name, or its number when it has none.
pub(super) fn user_name(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}
