//! The directory: what is locked, written, and made sure of, in which order. All of it blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{self, FsType};

use super::state::State;
use crate::store::lease::Token;
use crate::store::moment::Moment;
use crate::store::{Outcome, StoreError};

const STATE: &str = "state";
const STATE_NEW: &str = "state.new";
const BEAT_NEW: &str = "lease.new";
/// The most bytes of the state file: all of it is written with every change.
const LARGEST: usize = 64 << 20;
const BEAT_MAGIC: &str = "trunkline-lease 1";

/// File systems that several machines share, and whose locks or clocks cannot be relied on (`statfs(2)`, linux/magic.h).
const SHARED: [(i64, &str); 9] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x5346_414f, "AFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
];

/// The directory of a store.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    /// The boot of this machine.
    boot: String,
    /// The newest state that was read or written here.
    newest: Mutex<Option<Newest>>,
}

#[derive(Debug)]
struct Newest {
    first_line: Vec<u8>,
    stamp: Stamp,
    state: Arc<State>,
}

/// What changes when a file is replaced, or written by somebody who is not us.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(found: &fs::Metadata) -> Stamp {
        Stamp {
            inode: found.ino(),
            length: found.len(),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec(),
        }
    }
}

/// The directory, while nobody else changes what is in it.
pub(super) struct Locked<'a> {
    disk: &'a Disk,
    directory: Flock<File>,
}

fn failed(verb: &'static str, path: &Path, source: io::Error, outcome: Outcome) -> StoreError {
    StoreError::Disk {
        verb,
        path: path.to_owned(),
        source,
        outcome,
    }
}

impl Disk {
    /// Makes the directory, and the first state in it, if they are missing.
    pub fn open(path: &Path, wait: Duration) -> Result<Disk, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| failed("make the directory", path, source, Outcome::NotDone))?;
        let kind = statfs::statfs(path)
            .map_err(|errno| failed("look at", path, errno.into(), Outcome::NotDone))?
            .filesystem_type();
        if let Some((_, name)) = SHARED.iter().find(|(magic, _)| FsType(*magic as _) == kind) {
            return Err(StoreError::Unsuitable {
                path: path.to_owned(),
                reason: format!("is on a file system that machines share ({name})"),
                hint: "give a directory of this machine, or kind = \"etcd\" for proxies on several machines",
            });
        }
        let source = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(source)
            .map_err(|error| failed("read", source, error, Outcome::NotDone))?;
        let disk = Disk {
            path: path.to_owned(),
            boot: boot.trim().to_owned(),
            newest: Mutex::default(),
        };
        let locked = disk.lock(wait)?;
        if !disk.at(STATE).exists() {
            locked.refuse_lasting()?;
            // Revisions begin with the time, so that versions and tokens go on growing even if the directory was removed.
            // No change takes less than a microsecond, so none was as far as this.
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let microseconds = now.map_or(0, |now| now.as_micros());
            locked.write(State {
                revision: u64::try_from(microseconds).unwrap_or(0),
                ..State::default()
            })?;
        }
        locked.read()?;
        drop(locked);
        Ok(disk)
    }

    pub fn boot(&self) -> &str {
        &self.boot
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Waits until no other process or thread has the directory locked. A lock ends with its process.
    pub fn lock(&self, wait: Duration) -> Result<Locked<'_>, StoreError> {
        let until = Moment::now().after(wait);
        let mut pause = Duration::from_millis(1);
        loop {
            let directory = File::open(&self.path)
                .map_err(|source| failed("open", &self.path, source, Outcome::NotDone))?;
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(directory) if self.is_still(&directory) => {
                    return Ok(Locked {
                        disk: self,
                        directory,
                    });
                }
                // Another directory has taken its place.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => {}
                Err((_, errno)) => {
                    return Err(failed("lock", &self.path, errno.into(), Outcome::NotDone));
                }
            }
            if Moment::now() >= until {
                return Err(StoreError::Silent {
                    place: self.path.display().to_string(),
                    after: wait,
                    outcome: Outcome::NotDone,
                    hint: "another process keeps it locked; lslocks shows which, and whether it is stopped",
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(16));
        }
    }

    fn is_still(&self, directory: &File) -> bool {
        let identity =
            |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
        let there = identity(fs::metadata(&self.path));
        there.is_some() && there == identity(directory.metadata())
    }

    /// The state as it is now. No lock is needed: the file is only ever replaced as a whole.
    pub fn read(&self) -> Result<Arc<State>, StoreError> {
        let path = self.at(STATE);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let damaged = |reason: String, hint| StoreError::Damaged {
            path: path.clone(),
            reason,
            hint,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = "put it back, or restart all that use it to begin anew";
                return Err(damaged("it is gone".to_owned(), hint));
            }
            Err(error) => return Err(failed("read", &path, error, Outcome::NotDone)),
        };
        let unread = |error| failed("read", &path, error, Outcome::NotDone);
        let stamp = Stamp::of(&file.metadata().map_err(unread)?);
        // The first line alone would do, but for hands that change the rest.
        if let Some(known) = &*newest
            && known.stamp == stamp
            && begins_with(&file, &known.first_line).map_err(unread)?
        {
            return Ok(Arc::clone(&known.state));
        }
        let hint = "restore it from a copy, or move it away to begin anew";
        let (first_line, state) = load(file, &path, &damaged, hint)?;
        if let Some(known) = &*newest
            && known.first_line != first_line
            && known.state.revision >= state.revision
        {
            let reason = format!(
                "it was at revision {} and now is at {}, with other content",
                known.state.revision, state.revision
            );
            return Err(damaged(reason, "restart all that use it if that was meant"));
        }
        // Its writer may not have come to that, and what others were shown must not be gone after a crash.
        self.make_sure(Outcome::NotDone)?;
        let state = Arc::new(state);
        *newest = Some(Newest {
            first_line,
            stamp,
            state: Arc::clone(&state),
        });
        Ok(state)
    }

    /// What was renamed in the directory outlives a crash of the machine.
    fn make_sure(&self, outcome: Outcome) -> Result<(), StoreError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("make sure of", &self.path, source, outcome))
    }

    /// Writes a file that replaces another one at once.
    fn replace(
        &self,
        new: &str,
        name: &str,
        content: &[u8],
        survives: Survives,
    ) -> Result<(), StoreError> {
        let (new, path) = (self.at(new), self.at(name));
        let written = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(content)?;
            match survives {
                Survives::Process => Ok(()),
                Survives::Machine => file.sync_all(),
            }
        };
        written().map_err(|source| failed("write", &new, source, Outcome::NotDone))?;
        fs::rename(&new, &path).map_err(|source| failed("replace", &path, source, Outcome::NotDone))
    }
}

/// What a write outlives.
#[derive(Clone, Copy)]
enum Survives {
    Process,
    Machine,
}

fn begins_with(file: &File, line: &[u8]) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut start = vec![0; line.len()];
    let mut read = 0;
    while read < start.len() {
        match file.read_at(&mut start[read..], read as u64)? {
            0 => return Ok(false),
            more => read += more,
        }
    }
    Ok(start == line)
}

/// With its end.
fn first_line(content: &[u8]) -> &[u8] {
    content
        .split_inclusive(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default()
}

/// The first line, and the state.
fn load(
    file: File,
    path: &Path,
    damaged: &dyn Fn(String, &'static str) -> StoreError,
    hint: &'static str,
) -> Result<(Vec<u8>, State), StoreError> {
    use std::io::Read;
    let mut content = Vec::new();
    file.take(LARGEST as u64 + 1)
        .read_to_end(&mut content)
        .map_err(|error| failed("read", path, error, Outcome::NotDone))?;
    if content.len() > LARGEST {
        let reason = format!("it is larger than {LARGEST} bytes");
        return Err(damaged(reason, "remove what fills it, or use etcd"));
    }
    let state = State::decode(&content).map_err(|reason| damaged(reason, hint))?;
    content.truncate(first_line(&content).len());
    Ok((content, state))
}

impl Locked<'_> {
    pub fn read(&self) -> Result<Arc<State>, StoreError> {
        self.disk.read()
    }

    /// Replaces the state. Without an error it outlives every crash.
    pub fn write(&self, state: State) -> Result<(), StoreError> {
        let content = state.encode();
        if content.len() > LARGEST {
            return Err(StoreError::Refused {
                place: self.disk.path.display().to_string(),
                reason: format!("its file would have more than {LARGEST} bytes"),
                outcome: Outcome::NotDone,
                hint: "remove what is not needed, or use etcd",
            });
        }
        self.disk
            .replace(STATE_NEW, STATE, &content, Survives::Machine)?;
        // `directory` is what was locked, so it is the one to make sure of.
        self.directory
            .sync_all()
            .map_err(|source| failed("make sure of", &self.disk.path, source, Outcome::Unknown))?;
        let stamp = fs::metadata(self.disk.at(STATE));
        let mut newest = self
            .disk
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Without a stamp it will be read.
        if let Ok(found) = stamp {
            *newest = Some(Newest {
                first_line: first_line(&content).to_vec(),
                stamp: Stamp::of(&found),
                state: Arc::new(state),
            });
        }
        Ok(())
    }

    /// When a lease of this boot ends.
    ///
    /// Its file cannot be missing or torn: processes that die do not tear it, and another boot does not ask for it.
    pub fn end_of(&self, token: Token) -> Result<Moment, StoreError> {
        let path = self.disk.at(&beat(token));
        let damaged = |reason: &str| StoreError::Damaged {
            path: path.clone(),
            reason: reason.to_owned(),
            hint: "put it back, or restart the machine: no lease outlives that",
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it is gone"));
            }
            Err(error) => return Err(failed("read", &path, error, Outcome::NotDone)),
        };
        let until = || {
            let words = text.strip_suffix('\n')?.strip_prefix(BEAT_MAGIC)?;
            let (boot, until) = words.strip_prefix(' ')?.split_once(' ')?;
            (boot == self.disk.boot).then_some(())?;
            until.parse().ok().map(Moment)
        };
        until().ok_or_else(|| damaged("it does not say when the lease ends"))
    }

    /// Writes when a lease ends.
    pub fn set_end(&self, token: Token, until: Moment) -> Result<(), StoreError> {
        let text = format!("{BEAT_MAGIC} {} {}\n", self.disk.boot, until.0);
        self.disk
            .replace(BEAT_NEW, &beat(token), text.as_bytes(), Survives::Process)
    }

    /// Refuses to begin anew while somebody may still hold a lease of what was there.
    fn refuse_lasting(&self) -> Result<(), StoreError> {
        for (token, _) in self.ends()? {
            if self.end_of(token).is_ok_and(|end| end > Moment::now()) {
                return Err(StoreError::Damaged {
                    path: self.disk.at(STATE),
                    reason: format!("it is gone, and its lease {token} still lasts"),
                    hint: "put it back, or stop all that use it, and begin anew once the lease has ended",
                });
            }
        }
        Ok(())
    }

    /// The leases that have files which say when they end.
    fn ends(&self) -> Result<Vec<(Token, PathBuf)>, StoreError> {
        let unread = |source| failed("read", &self.disk.path, source, Outcome::NotDone);
        let mut ends = Vec::new();
        for entry in fs::read_dir(&self.disk.path).map_err(unread)? {
            let path = entry.map_err(unread)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let token = name.and_then(|name| name.strip_prefix("lease.")?.parse().ok());
            ends.extend(token.map(|token| (Token(token), path)));
        }
        Ok(ends)
    }

    /// Removes what says when leases end that are over. It takes no harm from a file that stays.
    pub fn tidy(&self, state: &State) {
        for (token, path) in self.ends().unwrap_or_default() {
            if !state.leases.values().any(|record| record.token == token) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn beat(token: Token) -> String {
    format!("lease.{token}")
}
