//! The folder of a cluster: only a folder that carries our marker is ever used again or removed, and by one process at a time.
//!
//! ```text
//! FOLDER/.trunkline-cluster   the marker: the cluster's shape and passwords, locked while in use
//! FOLDER/s1                   data of a server (s1-replica-1, ...), owned by the servers' user
//! FOLDER/s1.conf, s1.log      its configuration file and its log
//! FOLDER/s1.partial           data that is not complete; removed at the next start
//! ```

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::account::{Account, user_name};
use super::error::LocalError;
use super::settings::{Password, hexadecimal_digits};
use super::watchdog::Watchdog;

/// The file that says that a folder is ours to use and to remove.
const MARKER: &str = ".trunkline-cluster";

/// Kept free whatever is made.
const SPACE_RESERVE_MB: u64 = 200;

/// A new server's data with its first WAL segments.
const SPACE_PER_SERVER_MB: u64 = 80;

/// Whether the folder outlives the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    Kept,
    Temporary,
}

/// What the marker holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    pub shards: u16,
    pub replicas: u16,
    pub superuser_password: Password,
    pub application_password: Password,
}

impl Marker {
    pub(super) fn new(shards: u16, replicas: u16) -> Self {
        Self {
            shards,
            replicas,
            superuser_password: Password::random(),
            application_password: Password::random(),
        }
    }
}

/// A cluster's folder, locked by us.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lifetime: Lifetime,
    watchdog: Watchdog,
    /// Holds the lock.
    _marker: File,
}

impl Folder {
    /// A new folder under the system's folder for temporary files; removed when dropped or when this process dies.
    pub(super) fn temporary(account: &Account, marker: &Marker) -> Result<Self, LocalError> {
        let path = std::env::temp_dir().join(format!("trunkline-{}", &hexadecimal_digits()[..12]));
        make(&path, account)?;
        let file = write_marker(&path, marker)?;
        Self::locked(path, file, Lifetime::Temporary)
    }

    /// A folder that stays: made with `new` when it does not exist or is empty, else used as it is.
    pub(super) fn kept(
        path: &Path,
        account: &Account,
        new: impl FnOnce() -> Marker,
    ) -> Result<(Self, Marker), LocalError> {
        let path =
            std::path::absolute(path).map_err(|e| LocalError::io("find the folder", path, e))?;
        if is_absent_or_empty(&path)? {
            make(&path, account)?;
            let marker = new();
            let file = write_marker(&path, &marker)?;
            return Ok((Self::locked(path, file, Lifetime::Kept)?, marker));
        }
        let mut file = open_marker(&path)?;
        lock(&file, &path)?;
        account.can_enter(&path)?;
        let marker = read_marker(&mut file, &path.join(MARKER))?;
        Ok((Self::locked(path, file, Lifetime::Kept)?, marker))
    }

    fn locked(path: PathBuf, marker: File, lifetime: Lifetime) -> Result<Self, LocalError> {
        let watchdog = Watchdog::start(&path, lifetime)?;
        Ok(Self {
            path,
            lifetime,
            watchdog,
            _marker: marker,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub(super) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Fails when the disk cannot take this many new servers.
    pub(super) fn has_space_for(&self, servers: u64) -> Result<(), LocalError> {
        let found = statvfs(&self.path)
            .map_err(|e| LocalError::io("ask for free space", &self.path, e.into()))?;
        let free_bytes = u128::from(found.blocks_available()) * u128::from(found.fragment_size());
        let free_mb = u64::try_from(free_bytes / (1 << 20)).unwrap_or(u64::MAX);
        let needed_mb = SPACE_RESERVE_MB + servers * SPACE_PER_SERVER_MB;
        if servers > 0 && free_mb < needed_mb {
            return Err(LocalError::NoSpace {
                folder: self.path.clone(),
                free_mb,
                needed_mb,
            });
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes a cluster's folder with everything in it; nothing when there is none. Only a folder that carries our marker
/// and is not in use.
pub(super) fn remove(path: &Path) -> Result<(), LocalError> {
    if is_absent_or_empty(path)? {
        return Ok(());
    }
    let marker = open_marker(path)?;
    lock(&marker, path)?;
    std::fs::remove_dir_all(path).map_err(|e| LocalError::io("remove the folder", path, e))
}

fn is_absent_or_empty(path: &Path) -> Result<bool, LocalError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(LocalError::io("read the folder", path, e)),
    }
}

/// Makes the folder, closed to others but for the servers' user, who may enter it and no more.
fn make(path: &Path, account: &Account) -> Result<(), LocalError> {
    let is_new = !path.exists();
    std::fs::create_dir_all(path).map_err(|e| LocalError::io("make the folder", path, e))?;
    let prepared = open_to_servers(path, account);
    if prepared.is_err() && is_new {
        // Nothing is left of a folder that cannot be used.
        let _ = std::fs::remove_dir(path);
    }
    prepared
}

fn open_to_servers(path: &Path, account: &Account) -> Result<(), LocalError> {
    is_our_own(path)?;
    let mode = match account {
        Account::Own { .. } => 0o700,
        Account::Dropped { .. } => 0o711,
    };
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| LocalError::io("set the permissions", path, e))?;
    account.can_enter(path)
}

/// Another's folder is not trusted: they could put their files in the place of ours.
fn is_our_own(path: &Path) -> Result<(), LocalError> {
    let found = std::fs::symlink_metadata(path)
        .map_err(|e| LocalError::io("look at the folder", path, e))?;
    let own = Uid::effective();
    if found.uid() == own.as_raw() {
        return Ok(());
    }
    Err(LocalError::OtherOwner {
        folder: path.to_owned(),
        owner: user_name(Uid::from_raw(found.uid())),
        account: user_name(own),
    })
}

fn write_marker(folder: &Path, marker: &Marker) -> Result<File, LocalError> {
    let path = folder.join(MARKER);
    let failed = |e| LocalError::io("write the marker", &path, e);
    let text = toml::to_string(marker).expect("numbers and text are TOML");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    lock(&file, folder)?;
    let note =
        "# A local cluster made by Trunkline. This file says that the folder may be removed.\n";
    file.write_all(note.as_bytes())
        .and_then(|()| file.write_all(text.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

/// The marker of a folder that is ours.
fn open_marker(folder: &Path) -> Result<File, LocalError> {
    is_our_own(folder)?;
    let path = folder.join(MARKER);
    match File::open(&path) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(LocalError::NotOurs {
            folder: folder.to_owned(),
            marker: MARKER,
        }),
        Err(e) => Err(LocalError::io("open the marker", &path, e)),
    }
}

fn read_marker(file: &mut File, path: &Path) -> Result<Marker, LocalError> {
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|e| LocalError::io("read the marker", path, e))?;
    toml::from_str(&text).map_err(|e| LocalError::Marker {
        path: path.to_owned(),
        reason: e.message().to_owned(),
    })
}

fn lock(marker: &File, folder: &Path) -> Result<(), LocalError> {
    match marker.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(LocalError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(LocalError::io("lock the marker", folder, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Account {
        Account::Own {
            name: "me".into(),
            uid: Uid::effective(),
        }
    }

    #[test]
    fn a_kept_folder_keeps_its_marker_and_one_user() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("cluster");
        let (first, made) = Folder::kept(&path, &here(), || Marker::new(2, 1)).unwrap();
        let second = Folder::kept(&path, &here(), || unreachable!()).unwrap_err();
        assert!(matches!(second, LocalError::InUse { .. }), "{second}");
        assert!(matches!(remove(&path), Err(LocalError::InUse { .. })));
        drop(first);
        let (_again, found) = Folder::kept(&path, &here(), || unreachable!()).unwrap();
        assert_eq!(found, made);
        assert_eq!(
            std::fs::metadata(path.join(MARKER)).unwrap().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn what_has_no_marker_is_neither_used_nor_removed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("precious"), "x").unwrap();
        assert!(matches!(
            remove(root.path()),
            Err(LocalError::NotOurs { .. })
        ));
        let used = Folder::kept(root.path(), &here(), || unreachable!());
        assert!(matches!(used, Err(LocalError::NotOurs { .. })));
        assert!(root.path().join("precious").exists());
    }

    #[test]
    fn a_folder_with_a_marker_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("cluster");
        drop(Folder::kept(&path, &here(), || Marker::new(1, 0)).unwrap());
        remove(&path).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
    }

    #[test]
    fn a_disk_that_cannot_take_it_is_said_beforehand() {
        let folder = Folder::temporary(&here(), &Marker::new(1, 0)).unwrap();
        folder.has_space_for(0).unwrap();
        let message = folder.has_space_for(1 << 40).unwrap_err().to_string();
        assert!(message.contains("the disk is full"), "{message}");
    }

    #[test]
    fn a_temporary_folder_is_gone_afterwards() {
        let folder = Folder::temporary(&here(), &Marker::new(1, 0)).unwrap();
        let path = folder.path().to_owned();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
