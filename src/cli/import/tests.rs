//! Golden files, and every documented option of PgBouncer.

use super::*;
use crate::{catalog, config};

const FOLDER: &str = "tests/golden/import";

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn import(file: &str, users: Option<&str>) -> Result<String, String> {
    imported(&path(file), users.map(path).as_deref()).map_err(|problems| {
        problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect()
    })
}

/// What is written is a configuration without mistakes, whose databases have sound catalogs.
fn sound(text: &str) -> config::Config {
    let file = path("trunkline.toml").display().to_string();
    let config = config::parse(text, &file, &|_| None).unwrap_or_else(|problems| {
        panic!("{problems:#?}\n{text}");
    });
    for database in &config.databases {
        catalog::build(&config, &database.name).expect("a catalog");
    }
    config
}

fn as_in(golden: &str, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path(golden), found).expect("written");
    }
    let wanted = std::fs::read_to_string(path(golden)).unwrap_or_default();
    assert!(
        found == wanted,
        "set UPDATE_GOLDEN=1 when the new {golden} is right:\n{found}"
    );
}

#[test]
fn equivalents() {
    for (file, users, golden) in [
        ("pgbouncer.ini", Some("userlist.txt"), "pgbouncer.golden"),
        ("forced.ini", Some("userlist.txt"), "forced.golden"),
        ("pgdog.toml", Some("users.toml"), "pgdog.golden"),
        ("three.toml", Some("users.toml"), "three.golden"),
    ] {
        let text = import(file, users).expect(file);
        as_in(golden, &text);
        sound(&text);
    }
}

#[test]
fn mistakes() {
    let mut found = String::new();
    for (file, users) in [
        ("missing.ini", None),
        ("mistakes.ini", None),
        ("values.ini", Some("userlist.txt")),
        ("values.ini", Some("nobody.ini")),
        ("values.ini", None),
        ("fallback.ini", Some("userlist.txt")),
        ("nobody.ini", None),
        ("loop.ini", None),
        ("mistakes.toml", None),
        ("mistakes.toml", Some("users.toml")),
        ("mistakes.toml", Some("userlist.txt")),
    ] {
        found += &format!("-- {file} {}\n", users.unwrap_or_default());
        found += &import(file, users).expect_err(file);
    }
    as_in("mistakes.golden", &found);
}

/// PgBouncer's own defaults hold where the file says nothing.
#[test]
fn defaults_are_those_of_the_other() {
    let config = sound(&import("forced.ini", Some("userlist.txt")).expect("sound"));
    assert_eq!(config.pool.mode, config::PoolMode::Session);
    assert_eq!(config.limits.max_client_connections, 100);
    assert_eq!(config.pool.checkout_timeout.as_secs(), 120);
    assert_eq!(config.pool.connect_timeout.as_secs(), 15);
}

/// `pgbouncer-options.txt` has the headings of PgBouncer's `doc/config.md`.
#[test]
fn every_documented_option_is_known() {
    let options = std::fs::read_to_string(path("pgbouncer-options.txt")).expect("the list");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pgbouncer.ini");
    let (mut taken, mut named) = (0, 0);
    for line in options
        .lines()
        .chain(["pgbouncer zzz", "databases zzz", "users zzz"])
    {
        let (section, key) = line.split_once(' ').expect("a section and a key");
        let value = match key {
            "auth_type" => "scram-sha-256",
            "auth_file" => "tests/golden/import/userlist.txt",
            "auth_query" => "SELECT $1",
            "pool_mode" => "session",
            "client_tls_sslmode" | "server_tls_sslmode" => "disable",
            _ => "7",
        };
        let (mut databases, mut users, mut peers, mut general) = ("", "", "", "");
        let option = format!("{key}='{value}'");
        let line = format!("{key}={value}");
        match section {
            "databases" => databases = &option,
            "users" => users = &option,
            "peers" => peers = &option,
            _ => general = &line,
        }
        let text = format!(
            "[databases]\napp = {databases}\n[users]\nann = {users}\n[peers]\n{}\n\
             [pgbouncer]\nauth_file = tests/golden/import/userlist.txt\n{general}\n",
            if peers.is_empty() {
                String::new()
            } else {
                format!("1 = {peers}")
            }
        );
        std::fs::write(&file, text).expect("written");
        let text = imported(&file, None).unwrap_or_else(|problems| panic!("{key}: {problems:?}"));
        let (_, lost) = text
            .split_once("\n# Without an equivalent")
            .unwrap_or((&text, ""));
        let unknown = lost.contains("not an option that is known here");
        assert_eq!(unknown, key == "zzz", "{section} {key}:\n{text}");
        match lost.contains(key) || section == "peers" {
            true => named += 1,
            false => taken += 1,
        }
    }
    assert!(taken > 30 && named > 70, "{taken} taken, {named} named");
}
