//! `trunkline check`: every mistake of a configuration file, and with `--connect` a look at every node.

mod nodes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::catalog;
use crate::config::{self, Config, Problem};

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
    let config = match validated(arguments) {
        Ok(config) => config,
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
    if !arguments.connect {
        return ExitCode::SUCCESS;
    }
    match nodes::check(&config) {
        nodes::Verdict::AllWell => ExitCode::SUCCESS,
        nodes::Verdict::SomethingWrong => ExitCode::FAILURE,
    }
}

/// A file that reads well and whose every database makes a catalog.
fn validated(arguments: &Arguments) -> Result<Config, Vec<Problem>> {
    let config = config::load(&arguments.file)?;
    let mut problems: Vec<Problem> = config
        .databases
        .iter()
        .filter_map(|database| catalog::build(&config, &database.name).err())
        .flatten()
        .collect();
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort_by_key(|problem| problem.line.0);
    Err(problems)
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
