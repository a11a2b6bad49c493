//! `trunkline check`: every mistake of a configuration file, and with `--connect` a look at every node.

mod commits;
mod nodes;
mod server;
mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::maps::{self, Ask, Maps};
use crate::catalog;
use crate::config::{Config, Problem};
use crate::wire::tls::{ClientEncryption, ServerEncryption};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    file: PathBuf,
    /// Also connect to every node, as every server user, to every database.
    #[arg(long)]
    connect: bool,
}

/// Exits with 0 only when nothing is wrong. Mistakes and warnings go to standard error.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (config, encryption) = match validated(arguments) {
        Ok(sound) => sound,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{problem}");
            }
            eprintln!("{}", counted(problems.len(), "mistake"));
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    println!("ok: {}", summary(&config));
    let ask = match arguments.connect {
        true => Ask::Network,
        false => Ask::Disk,
    };
    let maps = maps_in_force(&config, ask);
    if !arguments.connect || maps == ExitCode::FAILURE {
        return maps;
    }
    match nodes::check(&config, &encryption) {
        nodes::Verdict::AllWell => ExitCode::SUCCESS,
        nodes::Verdict::SomethingWrong => ExitCode::FAILURE,
    }
}

/// A file that reads well, whose every database makes a catalog, and whose TLS files hold what they should.
fn validated(arguments: &Arguments) -> Result<(Config, ServerEncryption), Vec<Problem>> {
    let (config, mut problems) = catalog::look(&arguments.file);
    let Some(config) = config else {
        return Err(problems);
    };
    // What its files hold is looked at where the section is sound.
    let is_sound = |section: &str| !problems.iter().any(|known| known.key.starts_with(section));
    let (listens, connects) = (is_sound("listen.tls"), is_sound("server_tls"));
    if listens && let Err(error) = ClientEncryption::load(&config.listen.tls, None) {
        problems.push(config.problem(config.tls_lines.listen, "listen.tls", error.to_string()));
    }
    let encryption = connects.then(|| ServerEncryption::load(&config.server_tls));
    if let Some(Err(error)) = &encryption {
        problems.push(config.problem(config.tls_lines.server, "server_tls", error.to_string()));
    }
    problems.sort_by_key(|problem| (problem.file != config.file, problem.line.0));
    match encryption {
        Some(Ok(encryption)) if problems.is_empty() => Ok((config, encryption)),
        _ => Err(problems),
    }
}

/// Whether the file can be served by the maps in force, as a proxy would at its start.
fn maps_in_force(config: &Config, ask: Ask) -> ExitCode {
    let overlays = match maps::read(config, ask) {
        Ok(Maps::Read(overlays)) => overlays,
        Ok(Maps::NotRead) => {
            println!("maps: those in force are in etcd, which --connect asks");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut found = ExitCode::SUCCESS;
    for (database, overlay) in &overlays {
        let Ok(mut configured) = catalog::build(config, database) else {
            continue;
        };
        match maps::put_in_force(overlay, &mut configured) {
            Ok(away) if away.is_empty() => {}
            Ok(away) => println!(
                "maps: database {database}: {}: in force is the map in the control store, not the one in this file; \
                 RESHARD PLAN ... FROM CONFIG moves the rows, until then the file's has no effect",
                away.join(", ")
            ),
            Err(error) => {
                eprintln!("database {database}: {error}");
                found = ExitCode::FAILURE;
            }
        }
    }
    found
}

fn summary(config: &Config) -> String {
    let nodes: usize = config.shards.iter().map(|shard| shard.nodes.len()).sum();
    [
        counted(config.databases.len(), "database"),
        counted(config.shards.len(), "shard"),
        counted(nodes, "node"),
        counted(config.distributions.len(), "distribution"),
        counted(config.tables.len(), "table"),
        counted(config.users.len(), "user"),
    ]
    .join(", ")
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("trunkline.toml");
        std::fs::write(&file, text).expect("written");
        std::fs::write(folder.path().join("empty.pem"), "").expect("written");
        let found = validated(&Arguments {
            file,
            connect: false,
        });
        found
            .err()
            .into_iter()
            .flatten()
            .map(|problem| problem.to_string())
            .collect()
    }

    const SOUND: &str = r#"
users = [{ name = "app", password = "secret" }]
databases = [{ name = "app" }]
shards = [{ name = "s1", nodes = [{ host = "h1" }] }]
"#;

    /// A mistake in one part of a file does not hide those of another, whoever finds them.
    #[test]
    fn mistakes_of_every_kind_are_told_at_once() {
        let wrong = r#"
users = [{ name = "app", password = "secret", admin = "yes" }]
databases = [{ name = "app" }]
shards = [{ name = "s1", nodes = [{ host = "h1" }] }, { name = "s2", nodes = [{ host = "h2", port = 0 }] }]
distributions = [
    { name = "gap", key = "bigint", strategy = "hash", shards = { s1 = "1-2000", s2 = "2001-4095" } },
    { name = "overlap", key = "bigint", strategy = "range", ranges = [{ to = 9, shard = "s1" }, { from = 5, shard = "s2" }] },
    { name = "bytes", key = "bytea", strategy = "range", ranges = [{ shard = "s1" }] },
    { name = "gone", key = "bigint", strategy = "hash", shards = ["s9"] },
]
tables = [{ name = "t", distribution = "gone", key = "id" }]
[server_tls]
mode = "verify-ca"
root_certificate = "empty.pem"
"#;
        let found = mistakes(wrong);
        let places: Vec<&str> = found
            .iter()
            .filter_map(|said| said.split("trunkline.toml:").nth(1)?.split(": ").nth(1))
            .collect();
        assert_eq!(
            places,
            [
                "users.app.admin",
                "shards.s2.nodes[0].port",
                "distributions.gap.shards",
                "distributions.overlap.ranges[1]",
                "distributions.bytes.key",
                "distributions.gone.shards[0]",
                "server_tls",
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn maps_and_certificates_are_looked_into() {
        assert_eq!(mistakes(SOUND), Vec::<String>::new());
        let wrong = format!(
            "{SOUND}distributions = [{{ name = \"d\", key = \"text\", strategy = \"hash\", shards = {{ s1 = \"1-4095\" }} }}]\n\
             [listen.tls]\nmode = \"prefer\"\ncertificate = \"empty.pem\"\nkey = \"empty.pem\"\n\
             [server_tls]\nmode = \"verify-ca\"\nroot_certificate = \"empty.pem\"\n"
        );
        let found = mistakes(&wrong);
        assert_eq!(found.len(), 3, "{found:#?}");
        for (said, wanted) in found.iter().zip([
            "trunkline.toml:5: distributions.d.shards: bucket 0 is assigned to no shard",
            "trunkline.toml:6: listen.tls: ",
            "trunkline.toml:10: server_tls: ",
        ]) {
            assert!(said.contains(wanted), "{found:#?}");
        }
        assert!(found[2].contains("holds no certificate"), "{found:#?}");
    }
}
