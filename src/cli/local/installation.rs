//! Finding Postgres's binaries: the newest of those on this machine, or those in `PG_BIN`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::account::Account;
use super::error::LocalError;

/// The oldest major version we work with.
pub const MINIMUM_MAJOR: u32 = 14;

/// What every installation must have.
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_basebackup"];

/// Folders of packages: the part before and after the version.
const PACKAGE_FOLDERS: [(&str, &str, &str); 2] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
];

/// One set of server binaries and the user they run as.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    version: Version,
    account: Account,
}

/// As `postgres --version` says it; ordered by major, then the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    text: String,
}

impl Installation {
    /// The newest installation of at least [`MINIMUM_MAJOR`].
    pub fn find() -> Result<Self, LocalError> {
        let account = Account::find()?;
        let named = std::env::var_os("PG_BIN").filter(|bin| !bin.is_empty());
        if let Some(bin) = named {
            return Self::named(PathBuf::from(bin), account);
        }
        let found = candidates()
            .into_iter()
            .filter(|bin| missing_program(bin).is_none())
            .filter_map(|bin| Some((version_of(&bin).ok()?, bin)));
        Self::newest(found, account)
    }

    /// The one in `PG_BIN`: what is wrong with it is said, nothing else is looked at.
    fn named(bin: PathBuf, account: Account) -> Result<Self, LocalError> {
        if let Some(missing) = missing_program(&bin) {
            return Err(LocalError::Incomplete { bin, missing });
        }
        let version = version_of(&bin)?;
        Self {
            bin,
            version,
            account,
        }
        .new_enough()
    }

    fn newest(
        found: impl Iterator<Item = (Version, PathBuf)>,
        account: Account,
    ) -> Result<Self, LocalError> {
        match found.max() {
            Some((version, bin)) => Self {
                bin,
                version,
                account,
            }
            .new_enough(),
            None => Err(LocalError::NoInstallation {
                searched: "PATH, pg_config --bindir, /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin"
                    .into(),
            }),
        }
    }

    fn new_enough(self) -> Result<Self, LocalError> {
        if self.version.major < MINIMUM_MAJOR {
            return Err(LocalError::TooOld {
                version: self.version.text,
                bin: self.bin,
            });
        }
        Ok(self)
    }

    /// The folder of the binaries.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Like 15.
    pub fn major(&self) -> u32 {
        self.version.major
    }

    /// As the server says it, like `15.8 (Debian 15.8-0+deb12u1)`.
    pub fn version(&self) -> &str {
        &self.version.text
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// A command of this installation that will run as [`Installation::account`].
    pub(super) fn command(&self, program: &str) -> Command {
        self.account.command(&self.bin.join(program))
    }

    /// Runs a command of this installation to its end; its output is in the error when it fails.
    /// `folder` is named when the disk is full.
    pub(super) fn run(&self, mut command: Command, folder: &Path) -> Result<(), LocalError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|source| LocalError::Spawn {
                program: program.clone(),
                account: self.account.name().into(),
                source,
            })?;
        if status.success() {
            return Ok(());
        }
        let output = [stderr, stdout]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat();
        if is_disk_full(&output) {
            return Err(LocalError::DiskFull {
                folder: folder.to_owned(),
            });
        }
        Err(LocalError::Failed { program, output })
    }
}

/// Whether a tool's output or a server's log says that the disk is full.
pub(super) fn is_disk_full(output: &str) -> bool {
    output.contains("No space left on device") || output.contains("Disk quota exceeded")
}

/// Every folder that may hold binaries, symbolic links followed.
fn candidates() -> BTreeSet<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path)
        .filter_map(|folder| folder.join("initdb").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let packaged = PACKAGE_FOLDERS.into_iter().flat_map(|(root, prefix, bin)| {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries
            .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .filter_map(move |entry| entry.path().join(bin).canonicalize().ok())
    });
    on_path.chain(configured()).chain(packaged).collect()
}

fn missing_program(bin: &Path) -> Option<&'static str> {
    PROGRAMS
        .into_iter()
        .find(|program| !bin.join(program).is_file())
}

/// What `pg_config` says.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end())
        .canonicalize()
        .ok()
}

fn version_of(bin: &Path) -> Result<Version, LocalError> {
    let program = bin.join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| LocalError::Spawn {
            program: program.display().to_string(),
            account: "ourselves".into(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| LocalError::Failed {
        program: format!("{} --version", program.display()),
        output: text.into_owned(),
    })
}

/// `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)`, `... 17beta1`, `... 9.6.24`.
fn parse_version(line: &str) -> Option<Version> {
    let text = line.trim().strip_prefix("postgres (PostgreSQL) ")?;
    let digits = |s: &str| {
        s.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    };
    let major = digits(text);
    let minor = text[major.len()..]
        .strip_prefix('.')
        .map(digits)
        .unwrap_or_default();
    Some(Version {
        major: major.parse().ok()?,
        minor: minor.parse().unwrap_or(0),
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(u32, u32)> {
        parse_version(line).map(|v| (v.major, v.minor))
    }

    #[test]
    fn versions() {
        assert_eq!(
            parsed("postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n"),
            Some((15, 8))
        );
        assert_eq!(parsed("postgres (PostgreSQL) 17beta1\n"), Some((17, 0)));
        assert_eq!(parsed("postgres (PostgreSQL) 9.6.24\n"), Some((9, 6)));
        assert_eq!(parsed("pg_ctl (PostgreSQL) 15.8\n"), None);
        assert_eq!(parsed(""), None);
    }

    fn newest(versions: &[&str]) -> Result<Installation, LocalError> {
        let found = versions.iter().map(|text| {
            let version = parse_version(&format!("postgres (PostgreSQL) {text}")).unwrap();
            (version, PathBuf::from("/pg").join(text))
        });
        Installation::newest(found, Account::find().unwrap())
    }

    #[test]
    fn the_newest_is_taken_by_number() {
        let found = newest(&["9.6.24", "14.20", "99.1", "14.9"]).unwrap();
        assert_eq!(
            (found.major(), found.version(), found.bin()),
            (99, "99.1", Path::new("/pg/99.1"))
        );
        assert_eq!(newest(&["14.10", "14.9"]).unwrap().version(), "14.10");
    }

    #[test]
    fn an_old_one_is_refused_with_its_version() {
        let message = newest(&["13.4", "9.6.24"]).unwrap_err().to_string();
        assert!(
            message.contains("13.4") && message.contains("at least 14"),
            "{message}"
        );
    }

    #[test]
    fn none_and_incomplete_say_what_to_do() {
        let message = newest(&[]).unwrap_err().to_string();
        assert!(message.contains("apt-get install postgresql"), "{message}");
        let root = tempfile::tempdir().unwrap();
        let message = Installation::named(root.path().to_owned(), Account::find().unwrap())
            .unwrap_err()
            .to_string();
        assert!(message.contains("no initdb"), "{message}");
    }

    #[test]
    fn a_full_disk_is_recognised() {
        assert!(is_disk_full(
            "FATAL:  could not write to file: No space left on device"
        ));
        assert!(!is_disk_full("FATAL:  out of memory"));
    }
}
