//! `trunkline route`: where a statement goes, from the configuration and the maps in force, without a server.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::maps::{self, Ask, Maps};
use crate::catalog::{self, Catalog, Epoch, SchemaState, SearchPath};
use crate::config::{self, Problem};
use crate::plan::explain::{Explanation, explain};
use crate::plan::refusal::Refusal;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// One or more statements.
    #[arg(value_name = "SQL")]
    sql: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "trunkline.toml")]
    config: PathBuf,
    /// The database, when the file has several.
    #[arg(long)]
    database: Option<String>,
    /// Where names without a schema are looked up.
    #[arg(long, value_delimiter = ',', default_value = "public")]
    search_path: Vec<String>,
    /// Read the maps in force from the control store in etcd, too. One on this machine is always read.
    #[arg(long)]
    connect: bool,
}

/// What is not known without a server, and how such a statement is explained.
const NOTE: &str = "\
note    no server was asked: tables it does not name are taken to be on the home shard, and views,
        functions, columns and sequences of the servers are not considered. SHOW ROUTE on a running Trunkline knows them.";

/// Exits with 0 when every statement has a place, with 1 when one is refused or something is wrong.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (catalog, maps) = match configured(arguments) {
        Ok(known) => known,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
            return ExitCode::FAILURE;
        }
    };
    let search_path = SearchPath(
        arguments
            .search_path
            .iter()
            .map(|schema| Box::from(schema.trim()))
            .collect::<Arc<[_]>>(),
    );
    match explain(&arguments.sql, &catalog, &search_path, None) {
        Ok(explanations) => show(&explanations, &maps),
        Err(error) => {
            let refusal = Refusal::from(&error);
            eprintln!("{} ({})", refusal.message, refusal.sqlstate);
            ExitCode::FAILURE
        }
    }
}

fn show(explanations: &[Explanation], maps: &Served) -> ExitCode {
    for explanation in explanations {
        println!("{}\n{explanation}", explanation.statement.trim());
    }
    match maps {
        Served::Configured => {}
        Served::InForce(names) => println!(
            "maps    {} as plans have left it: read from the control store, the configuration's map is another",
            names.join(", ")
        ),
        Served::Unknown => println!(
            "maps    those of the configuration: the control store in etcd was not read. Where plans have moved keys, --connect tells."
        ),
    }
    println!("{NOTE}");
    if explanations.iter().any(Explanation::is_refused) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// By which maps.
enum Served {
    Configured,
    /// These distributions have another one.
    InForce(Vec<String>),
    Unknown,
}

/// The catalog that the configuration and the maps in force make, as if the servers' definitions had nothing to add.
fn configured(arguments: &Arguments) -> Result<(Catalog, Served), Vec<String>> {
    let shown =
        |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let file = arguments.config.display().to_string();
    let (config, ask) = if arguments.connect {
        (
            catalog::load(&arguments.config).map_err(shown)?,
            Ask::Network,
        )
    } else {
        let text = std::fs::read_to_string(&arguments.config)
            .map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
        // No server is asked, so no secret is needed.
        let secret = |_: &str| Some("not needed".to_owned());
        let config = config::parse(&text, &file, &secret).map_err(shown)?;
        (config, Ask::Disk)
    };
    let database = match (&arguments.database, &config.databases[..]) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.name.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|database| &*database.name).collect();
            return Err(vec![format!(
                "the file has several databases, name one with --database: {}",
                names.join(", ")
            )]);
        }
    };
    let mut configured = catalog::build(&config, &database).map_err(shown)?;
    let served = match maps::read(&config, ask).map_err(|error| vec![error])? {
        Maps::NotRead => Served::Unknown,
        Maps::Read(overlays) => match overlays.get(&*database) {
            None => Served::Configured,
            Some(overlay) => {
                let away = maps::put_in_force(overlay, &mut configured);
                let away = away.map_err(|error| vec![format!("{file}: {error}")])?;
                match away.is_empty() {
                    true => Served::Configured,
                    false => Served::InForce(away.into_iter().map(String::from).collect()),
                }
            }
        },
    };
    let (mut catalog, _) = Catalog::assemble(configured, None, Epoch(0));
    catalog.schema = SchemaState::Read;
    Ok((catalog, served))
}
