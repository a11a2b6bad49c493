//! One connection to every node for each database and server user.

use std::time::Duration;

use super::commits;
use super::server::{self, Identities, Place, Server, describe};
use super::trouble::Trouble;
use crate::config::{Config, Method, Node, Password, User};
use crate::topology::connect::{Login, NodeError, connect};
use crate::wire::tls::ServerEncryption;

/// What the command's exit code says.
pub(super) enum Verdict {
    AllWell,
    SomethingWrong,
}

/// Tries all at the same time and prints the findings in the order of the file.
pub(super) fn check(config: &Config, encryption: &ServerEncryption) -> Verdict {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return Verdict::SomethingWrong;
        }
    };
    runtime.block_on(look_at_all(config, encryption))
}

async fn look_at_all(config: &Config, encryption: &ServerEncryption) -> Verdict {
    let attempts: Vec<Vec<_>> = config
        .shards
        .iter()
        .map(|shard| {
            shard
                .nodes
                .iter()
                .map(|node| attempts(config, encryption, node))
                .collect()
        })
        .collect();
    let mut known = Identities::default();
    let mut wrong = 0;
    for (shard, nodes) in config.shards.iter().zip(attempts) {
        println!("shard {}", shard.name);
        let (mut primaries, mut answered) = (Vec::new(), 0);
        for (node, logins) in shard.nodes.iter().zip(nodes) {
            let mut found = Vec::new();
            for (login, attempt) in logins {
                found.push((
                    login,
                    attempt
                        .await
                        .unwrap_or_else(|stopped| Err(Trouble::Other(stopped.to_string()))),
                ));
            }
            wrong += report(&shard.name, node, &found, &mut known);
            warn_of_connections(config, &found);
            if let Some(server) = found.iter().find_map(|(_, found)| found.as_ref().ok()) {
                answered += 1;
                if !server.in_recovery {
                    primaries.push(format!("{}:{}", node.host, node.port));
                }
            }
        }
        if let Some(fault) = server::role_fault(&primaries, answered) {
            println!("  error: {fault}");
            wrong += 1;
        }
    }
    commits::report(config, encryption).await;
    let untried = config
        .users
        .iter()
        .filter(|user| !can_be_tried(config, user))
        .count();
    if untried > 0 {
        println!("not tried: {untried} of the users, whose clients' logins open the servers");
    }
    if wrong == 0 {
        Verdict::AllWell
    } else {
        Verdict::SomethingWrong
    }
}

/// Prints what was found at one node; returns how much of it is wrong.
fn report(
    shard: &str,
    node: &Node,
    found: &[(Login, Result<Server, Trouble>)],
    known: &mut Identities,
) -> usize {
    let Node { host, port, .. } = node;
    if let Some((_, Err(trouble))) = found.first()
        && trouble.is_of_the_node()
    {
        println!("  {host}:{port}: error: {trouble}; {}", trouble.advice());
        return 1;
    }
    let mut wrong = 0;
    for (Login { database, user, .. }, found) in found {
        print!("  {host}:{port}, database {database} as {user}: ");
        match found {
            Ok(server) => {
                let role = if server.in_recovery {
                    "replica (in recovery)"
                } else {
                    "primary"
                };
                println!(
                    "PostgreSQL {}, {role}, wal_level {}",
                    server.version, server.wal_level
                );
                let faults = server::faults(server, Place { shard, database }, known);
                wrong += faults.len();
                for fault in faults {
                    println!("    error: {fault}");
                }
            }
            Err(trouble) => {
                wrong += 1;
                println!("error: {trouble}; {}", trouble.advice());
            }
        }
    }
    wrong
}

/// Pools that are seldom full may be larger than the server, so this is no mistake.
fn warn_of_connections(config: &Config, found: &[(Login, Result<Server, Trouble>)]) {
    let wanted: usize = config
        .users
        .iter()
        .flat_map(|user| {
            config
                .databases
                .iter()
                .map(|database| config.pool_of(user, database).size)
        })
        .sum();
    let most = found
        .iter()
        .find_map(|(_, found)| found.as_ref().ok())
        .map(|server| server.max_connections);
    if let Some(most) = most
        && usize::try_from(most).is_ok_and(|most| most < wanted)
    {
        println!(
            "    warning: all pools together may open {wanted} connections, but its max_connections is {most}; \
             lower pool.size, or raise max_connections"
        );
    }
}

/// Servers are shown what the clients of some users show: nobody else can log in as these.
fn can_be_tried(config: &Config, user: &User) -> bool {
    let elsewhere = config.authentication.query.is_some() && user.auth != Some(Method::Trust);
    user.server_password.is_some()
        || match user.password {
            Password::Plain(_) => true,
            Password::Md5(_) | Password::Verifier(_) => false,
            Password::Absent => !elsewhere,
        }
}

type Attempt = tokio::task::JoinHandle<Result<Server, Trouble>>;

fn attempts(config: &Config, encryption: &ServerEncryption, node: &Node) -> Vec<(Login, Attempt)> {
    let mut logins: Vec<Login> = Vec::new();
    let asker = config.authentication.query.as_ref().map(|query| Login {
        database: query
            .database
            .clone()
            .or(node.database.clone())
            .unwrap_or_else(|| {
                config
                    .databases
                    .first()
                    .map_or_else(String::new, |first| first.server_database.clone())
            }),
        user: query.user.clone(),
        password: query.password.clone(),
    });
    logins.extend(asker);
    for database in &config.databases {
        for user in config
            .users
            .iter()
            .filter(|user| can_be_tried(config, user))
        {
            let login = Login {
                database: node
                    .database
                    .clone()
                    .unwrap_or_else(|| database.server_database.clone()),
                user: user.server_user.clone(),
                password: user.server_password.clone(),
            };
            if !logins.contains(&login) {
                logins.push(login);
            }
        }
    }
    let timeout = config.pool.connect_timeout;
    logins
        .into_iter()
        .map(|login| {
            let attempt = tokio::spawn(attempt(
                node.clone(),
                login.clone(),
                encryption.clone(),
                timeout,
            ));
            (login, attempt)
        })
        .collect()
}

async fn attempt(
    node: Node,
    login: Login,
    encryption: ServerEncryption,
    timeout: Duration,
) -> Result<Server, Trouble> {
    tokio::time::timeout(timeout, ask(&node, &login, &encryption))
        .await
        .unwrap_or(Err(NodeError::Slow(timeout)))
        .map_err(Trouble::Node)
}

async fn ask(
    node: &Node,
    login: &Login,
    encryption: &ServerEncryption,
) -> Result<Server, NodeError> {
    let (client, connection) = connect(login, "trunkline check", node, encryption).await?;
    let (answer, end) = tokio::join!(describe(client), connection);
    // A connection that broke says more than the query that did not get through.
    end.and(answer).map_err(NodeError::from)
}
