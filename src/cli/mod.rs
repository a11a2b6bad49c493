//! The commands. This room builds everything and is imported by nothing but `main.rs` and the tests.
//!
//! It decides nothing about statements, and keeps no state of its own beyond a command's run.
//! Each command has its file; this one reads the command line. `local/` holds the Postgres servers on this machine that
//! the demo and the tests use.

mod check;
pub mod demo;
mod import;
mod install;
pub mod local;
mod maps;
mod open_files;
mod reshard;
mod route;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A sharding proxy for PostgreSQL: one connection string in front of many servers.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reports every mistake in a configuration file.
    Check(check::Arguments),
    /// Starts a local sharded cluster with sample data, shows a tour, and stays up to be tried.
    Demo(demo::Arguments),
    /// Prints the equivalent of a configuration of PgBouncer or PgDog.
    Import(import::Arguments),
    /// Makes on every shard what commits of several shards need.
    Install(install::Arguments),
    /// Moves data between shards while clients work: plans, through a running proxy.
    Reshard(Box<reshard::Arguments>),
    /// Runs the proxy.
    Serve(serve::Arguments),
    /// Explains where statements go, without a server.
    Route(route::Arguments),
}

/// Reads the command line and does what it says. The exit code is 2 for a wrong command line, 1 when the command failed.
pub fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
        Command::Reshard(arguments) => reshard::run(&arguments),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Route(arguments) => route::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
