//! `trunkline install`: makes on every shard what commits of several shards need.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::catalog;
use crate::config::{Config, Line, Method, Password, Secret, User};
use crate::execution::commit::install::{self, Mode};
use crate::execution::commit::readiness::Readiness;
use crate::topology::{Topology, control_role};
use crate::wire::tls::ServerEncryption;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(required_unless_present = "print")]
    file: Option<PathBuf>,
    /// The role to log in as; its password is taken from PGPASSWORD. Default: the one that Trunkline looks after the servers with.
    #[arg(long, value_name = "ROLE")]
    user: Option<String>,
    /// Print the statements, for each database on each shard, and do nothing.
    #[arg(long)]
    print: bool,
}

/// Prints a line for each database and shard. Exits with 0 only when all are ready.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let Some(file) = arguments.file.as_ref().filter(|_| !arguments.print) else {
        println!("{}", install::STATEMENTS);
        return ExitCode::SUCCESS;
    };
    let config = match catalog::load(file) {
        Ok(config) => config,
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            return ExitCode::FAILURE;
        }
    };
    let encryption = match ServerEncryption::load(&config.server_tls) {
        Ok(encryption) => encryption,
        Err(error) => {
            eprintln!("server_tls: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(install_all(config, encryption, arguments.user.as_deref())),
        Err(error) => {
            eprintln!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn install_all(config: Config, encryption: ServerEncryption, user: Option<&str>) -> ExitCode {
    let keeper = control_role(&config).to_owned();
    let config = Arc::new(as_user(config, user));
    let topology = Arc::new(Topology::new(&config, Arc::new(encryption)));
    // Who of a shard's nodes is the primary.
    topology.look().await;
    let mut code = ExitCode::SUCCESS;
    for database in &config.databases {
        let mode = Mode::Install {
            keeper: Some(keeper.clone()),
        };
        let found = install::readiness_of_all(&topology, &database.name, &mode).await;
        for (shard, found) in config.shards.iter().zip(found) {
            println!("{} on {}: {found}", database.name, shard.name);
            if found != Readiness::Ready {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// The configuration with another role to look after the servers.
fn as_user(mut config: Config, user: Option<&str>) -> Config {
    if let Some(name) = user {
        let password = std::env::var("PGPASSWORD").ok();
        let auth = password.is_none().then_some(Method::Trust);
        let user = User {
            server_password: password.map(Secret),
            auth,
            ..User::named(name, Line(0), Password::Absent)
        };
        config.users.insert(0, user);
    }
    config
}
