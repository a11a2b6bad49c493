//! Passwords from a file as psql reads it: `host:port:database:user:password`, a line each; `*` is anything, a backslash takes the next
//! character as it is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Whose password is looked for.
pub struct Wanted<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub user: &'a str,
}

/// PGPASSFILE, else `.pgpass` in the home directory.
pub fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PGPASSFILE") {
        return Some(PathBuf::from(path));
    }
    std::env::home_dir().map(|home| home.join(".pgpass"))
}

/// The password of the first line that fits. Nothing from a file that others may read: libpq does not look into such a one either.
pub fn password(path: &Path, wanted: &Wanted<'_>) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        eprintln!(
            "warning: {} is not read, because others may read it: chmod 600",
            path.display()
        );
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| fits(line, wanted))
}

fn fits(line: &str, wanted: &Wanted<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let port = wanted.port.to_string();
    let mut rest = line;
    for value in [wanted.host, &port, wanted.database, wanted.user] {
        let (field, behind) = field(rest)?;
        // An asterisk with a backslash is one; written so, only a whole field of it is anything.
        let is_any = rest.starts_with("*:");
        if !is_any && field != value {
            return None;
        }
        rest = behind;
    }
    Some(plain(rest))
}

/// What stands before the next colon, and what behind it.
fn field(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    for (place, one) in text.char_indices() {
        match one {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((plain(&text[..place]), &text[place + 1..])),
            _ => {}
        }
    }
    None
}

/// Without the backslashes that take the next character as it is.
fn plain(text: &str) -> String {
    let mut characters = text.chars();
    let mut plain = String::new();
    while let Some(one) = characters.next() {
        match one {
            '\\' => plain.extend(characters.next()),
            one => plain.push(one),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted {
        host: "db",
        port: 6432,
        database: "trunkline",
        user: "boss",
    };

    fn found(line: &str) -> Option<String> {
        fits(line, &WANTED)
    }

    #[test]
    fn the_fields_of_a_line() {
        let secret = || Some("se:cret\\".to_owned());
        assert_eq!(found("db:6432:trunkline:boss:se\\:cret\\\\"), secret());
        assert_eq!(found("*:*:*:*:se:cret\\\\"), secret());
        assert_eq!(found("d\\b:6432:*:boss:"), Some(String::new()));
        for line in [
            "",
            "#db:6432:trunkline:boss:x",
            "other:6432:trunkline:boss:x",
            "db:6433:trunkline:boss:x",
            "db:6432:shop:boss:x",
            "db:6432:trunkline:app:x",
            "\\*:6432:trunkline:boss:x",
            "db:6432:trunkline:boss",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_has_no_secrets() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pass");
        let text = "# a comment\nelse:*:*:*:no\n*:6432:*:boss:yes\n*:*:*:*:later\n";
        std::fs::write(&path, text).expect("written");
        let with = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            password(&path, &WANTED)
        };
        assert_eq!(with(0o600), Some("yes".to_owned()));
        assert_eq!(with(0o640), None);
        assert_eq!(password(&folder.path().join("none"), &WANTED), None);
        assert_eq!(password(folder.path(), &WANTED), None);
    }
}
