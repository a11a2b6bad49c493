//! What stands against a plan, asked of every shard before anything is done: the full list, each with the way out.
//!
//! Nothing is changed, but that servers get the functions that tell moving keys where they bring none ([`crate::resharding::hashes`]). What a server cannot be asked without an extension (free space on its disk) is left to the operator, who is told the
//! size by [`super::estimate`]. [`problem`] is the list of all that can be found; [`server`] asks a server for itself, [`tables`] for its tables,
//! [`differences`] compares two.

mod differences;
mod problem;
mod server;
mod tables;

pub use problem::{Problem, Weight};

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use self::differences::Side;
use self::server::Server;
use self::tables::Tables;
use super::ledger;
use super::scope::Scope;
use super::shards::{Connection, ShardError, Shards};
use crate::catalog::QualifiedName;
use crate::config::Sequences;
use crate::resharding::condition::quoted_name;
use crate::resharding::job::ShardName;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The plan cannot begin.
    pub problems: Vec<Problem>,
    /// Good to know; nothing stands against the plan.
    pub notes: Vec<Problem>,
}

/// Everything that stands against the plan, on every shard of it, and what is only good to know. A shard that cannot be asked is one more problem.
pub async fn examine(shards: &Shards, scope: &Scope) -> Result<Findings, ShardError> {
    let declared = Declared::of(shards, scope);
    let names: Vec<ShardName> = scope.shards_of_routes().into_iter().collect();
    let mut found = Vec::new();
    let mut asked: BTreeMap<&ShardName, Asked> = BTreeMap::new();
    let asking = names.iter().map(|shard| ask(shards, shard));
    for (shard, answer) in names.iter().zip(join_all(asking).await) {
        match answer {
            Ok((one, problems)) => {
                found.extend(problems);
                if one.server.is_known() {
                    asked.insert(shard, one);
                }
            }
            Err(error) => found.push(not_asked(shard, &error)),
        }
    }
    let servers: Vec<&Server> = asked.values().map(|one| &one.server).collect();
    found.extend(server::places(&servers));
    let mut known: BTreeMap<&ShardName, (&Asked, Tables<'_>)> = BTreeMap::new();
    let looking = asked
        .iter()
        .map(|(shard, one)| look(shard, one, scope, &declared));
    for ((shard, one), answer) in asked.iter().zip(join_all(looking).await) {
        match answer {
            Ok((tables, problems)) => {
                found.extend(problems);
                known.insert(shard, (one, tables));
            }
            Err(error) => found.push(not_asked(shard, &error)),
        }
    }
    let side = |shard: &ShardName| {
        let (one, tables) = known.get(shard)?;
        let client = &*one.connection;
        Some(Side { client, tables })
    };
    let routes = scope.routes();
    let comparing = routes.iter().map(|route| async {
        match (side(&route.from), side(&route.to)) {
            (Some(from), Some(to)) => differences::between(from, to, scope, route)
                .await
                .unwrap_or_else(|error| vec![not_asked(&route.to, &error)]),
            _ => Vec::new(),
        }
    });
    found.extend(join_all(comparing).await.into_iter().flatten());
    Ok(sorted(found))
}

fn sorted(found: Vec<Problem>) -> Findings {
    let mut findings = Findings::default();
    for problem in found {
        let list = match problem.weight() {
            Weight::Refuses => &mut findings.problems,
            Weight::Noted => &mut findings.notes,
        };
        // Two sources say the same of what both use.
        if !list.contains(&problem) {
            list.push(problem);
        }
    }
    findings
}

fn not_asked(shard: &ShardName, error: &ShardError) -> Problem {
    Problem::NotAsked {
        shard: shard.0.clone(),
        why: error.to_string().into(),
    }
}

/// What is declared of tables that do not move.
struct Declared {
    /// Reference tables, as SQL names them.
    references: BTreeSet<String>,
    sequences: Option<Sequences>,
}

impl Declared {
    fn of(shards: &Shards, scope: &Scope) -> Declared {
        let config = shards.config();
        let mut databases = config.databases.iter();
        let database = databases.find(|one| one.name == shards.database());
        let quoted = |(schema, name): &QualifiedName| {
            format!("{}.{}", quoted_name(schema), quoted_name(name))
        };
        Declared {
            references: scope.references.iter().map(quoted).collect(),
            sequences: database.map(|one| one.sequences),
        }
    }
}

/// A shard that answered.
struct Asked {
    connection: Connection,
    server: Server,
}

async fn ask(shards: &Shards, shard: &ShardName) -> Result<(Asked, Vec<Problem>), ShardError> {
    let connection = shards.open(shard).await?;
    let (server, problems) = server::ask(&connection, &shard.0).await?;
    Ok((Asked { connection, server }, problems))
}

async fn look<'a>(
    shard: &'a ShardName,
    asked: &'a Asked,
    scope: &'a Scope,
    declared: &Declared,
) -> Result<(Tables<'a>, Vec<Problem>), ShardError> {
    let client = &asked.connection;
    if asked.server.may_make_schema {
        ledger::make_functions(client, scope).await?;
    }
    let (tables, mut found) = Tables::read(client, &asked.server, shard, scope).await?;
    found.extend(server::leftovers(client, &shard.0, scope, &tables.relations).await?);
    found.extend(tables.problems(client, &declared.references).await?);
    if scope.routes().iter().any(|route| route.to == *shard) {
        found.extend(tables.references(client, &declared.references).await?);
        if asked.server.may_make_schema || !scope.calls_our_functions() {
            found.extend(tables.rows(client, scope).await?);
        }
    }
    if declared.sequences == Some(Sequences::PerShard) {
        found.extend(tables.sequences(client).await?);
    }
    Ok((tables, found))
}
