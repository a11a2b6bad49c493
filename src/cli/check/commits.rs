//! Whether the shards can take part in commits of several, and whether Trunkline could finish what a proxy leaves behind.

use std::sync::Arc;

use crate::config::{Config, CrossShardCommit, Database};
use crate::execution::commit::install::{self, Mode, Rights};
use crate::execution::commit::readiness::Readiness;
use crate::sharding::ShardId;
use crate::topology::{Topology, control_role};
use crate::wire::tls::ServerEncryption;

/// Prints a line for each database and shard, with what is to be mended. None of it keeps Trunkline from serving the rest.
pub(super) async fn report(config: &Config, encryption: &ServerEncryption) {
    let concerned = |database: &&Database| {
        config.shards.len() > 1 && config.cross_shard_commit(database) == CrossShardCommit::Atomic
    };
    let databases: Vec<&Database> = config.databases.iter().filter(concerned).collect();
    if databases.is_empty() {
        return;
    }
    println!("commits of several shards");
    let topology = Topology::new(&Arc::new(config.clone()), Arc::new(encryption.clone()));
    let topology = Arc::new(topology);
    topology.look().await;
    for database in databases {
        let found = install::readiness_of_all(&topology, &database.name, &Mode::Look).await;
        for ((shard, found), number) in config.shards.iter().zip(found).zip(0..) {
            println!(
                "  {} on {}: {}",
                database.name,
                shard.name,
                said(config, &found)
            );
            let rights = rights(&topology, config, &database.name, ShardId(number)).await;
            for warning in rights
                .iter()
                .flat_map(|rights| warnings(config, &found, rights))
            {
                println!("    warning: {warning}");
            }
        }
    }
}

/// With what to do about it.
fn said(config: &Config, found: &Readiness) -> String {
    match found {
        Readiness::NotInstalled(_) if config.transactions.install => {
            format!("{found}; it is made when Trunkline starts, or by `trunkline install`")
        }
        Readiness::NotInstalled(_) => format!("{found}; run `trunkline install`"),
        Readiness::Ready | Readiness::NoPreparedTransactions | Readiness::Unknown(_) => {
            found.to_string()
        }
    }
}

/// `None`: the shard could not be asked, which has been said.
async fn rights(
    topology: &Topology,
    config: &Config,
    database: &str,
    shard: ShardId,
) -> Option<Rights> {
    let mut roles: Vec<&str> = config.users.iter().map(|user| &*user.server_user).collect();
    roles.sort_unstable();
    roles.dedup();
    let primary = topology.primary(database, shard).await.ok()?;
    let rights = install::rights(&primary, &roles).await.ok()?;
    primary.release();
    Some(rights)
}

fn warnings(config: &Config, found: &Readiness, rights: &Rights) -> Vec<String> {
    let keeper = control_role(config);
    let mut warnings = Vec::new();
    if *found == Readiness::NotInstalled("there is no schema trunkline".to_owned())
        && !rights.may_create
    {
        warnings.push(format!(
            "role {keeper:?} may not create a schema; run `trunkline install --user` with one that may, or grant it CREATE on the database"
        ));
    }
    if *found == Readiness::Ready && !rights.may_remove {
        warnings.push(format!(
            "role {keeper:?} may not remove old rows, so the table grows; GRANT DELETE ON trunkline.commits TO {keeper:?}"
        ));
    }
    let closed = |role: &&String| {
        let has_way_in = |user: &crate::config::User| {
            user.server_user == **role && user.server_password.is_some()
        };
        !config.users.iter().any(has_way_in)
    };
    let unreachable: Vec<&str> = rights
        .out_of_reach
        .iter()
        .filter(closed)
        .map(|role| &**role)
        .collect();
    if !unreachable.is_empty() {
        warnings.push(format!(
            "role {keeper:?} is no superuser and cannot SET ROLE to {}, so it cannot finish transactions that a proxy leaves behind; \
             GRANT these roles to it, or give their users server_password",
            unreachable.join(", ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recovery_could_not_do_is_said() {
        let text = "users = [{ name = \"app\", password = \"x\" }, { name = \"other\", auth = \"md5\", password = \"md5a6ce1bb033bfeb22b60a5905660d237e\" }]\n\
            databases = [{ name = \"app\" }]\nshards = [{ name = \"s1\", nodes = [{ host = \"h1\" }] }]\n";
        let config = crate::config::parse(text, "test.toml", &|_| None).expect("sound");
        let rights = |may: bool, out_of_reach: &[&str]| Rights {
            may_create: may,
            may_remove: may,
            out_of_reach: out_of_reach.iter().map(|role| (*role).to_owned()).collect(),
        };
        let said = |found, rights| warnings(&config, &found, &rights).join("\n");
        assert_eq!(said(Readiness::Ready, rights(true, &[])), "");
        assert_eq!(
            said(Readiness::Ready, rights(true, &["app"])),
            "",
            "it has a password"
        );
        assert!(
            said(Readiness::Ready, rights(true, &["app", "other"])).contains("SET ROLE to other,")
        );
        assert!(said(Readiness::Ready, rights(false, &[])).contains("may not remove old rows"));
        let missing = Readiness::NotInstalled("there is no schema trunkline".to_owned());
        assert!(said(missing, rights(false, &[])).contains("may not create a schema"));
    }
}
