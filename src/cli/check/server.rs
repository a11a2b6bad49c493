//! What a server says of itself, and what of that does not go with the configuration.

use tokio_postgres::Client;

/// The oldest major version whose protocol and catalogs are known here.
const OLDEST_VERSION: i32 = 14;

/// What a server says of itself.
pub(super) struct Server {
    pub version: String,
    pub major: i32,
    pub in_recovery: bool,
    pub wal_level: String,
    pub max_connections: i32,
    /// Equal on all nodes that replicate each other, different on all others; `None` where the role may not know.
    pub system_identifier: Option<i64>,
}

/// Takes the client so that the connection ends with the answer.
pub(super) async fn describe(client: Client) -> Result<Server, tokio_postgres::Error> {
    const QUERY: &str = "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, \
         pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_connections')::int";
    let row = client.query_one(QUERY, &[]).await?;
    // Some services take this function away from their users.
    let control = client
        .query_one("SELECT system_identifier FROM pg_control_system()", &[])
        .await;
    Ok(Server {
        version: row.try_get(0)?,
        major: row.try_get(1)?,
        in_recovery: row.try_get(2)?,
        wal_level: row.try_get(3)?,
        max_connections: row.try_get(4)?,
        system_identifier: control.and_then(|row| row.try_get(0)).ok(),
    })
}

/// Where a server stands in the configuration.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub shard: &'a str,
    pub database: &'a str,
}

/// The data found so far: system identifier and database, and the shard that has it.
#[derive(Default)]
pub(super) struct Identities(Vec<(i64, String, String)>);

/// What is wrong with a server that answered.
pub(super) fn faults(server: &Server, place: Place<'_>, known: &mut Identities) -> Vec<String> {
    let mut faults = Vec::new();
    if server.major < OLDEST_VERSION {
        faults.push(format!(
            "PostgreSQL {OLDEST_VERSION} or later is needed; upgrade this server"
        ));
    }
    faults.extend(
        server
            .system_identifier
            .and_then(|own| known.contradiction(own, place)),
    );
    faults
}

/// What is wrong with the roles of a shard's nodes: those that take writes, of so many that answered.
pub(super) fn role_fault(primaries: &[String], answered: usize) -> Option<String> {
    match primaries {
        [] if answered > 0 => {
            Some("none of the nodes that answer takes writes: all are replicas".to_owned())
        }
        [] | [_] => None,
        several => Some(format!(
            "several nodes take writes: {}; Trunkline uses the one on the newest timeline, and none when that is the same",
            several.join(", ")
        )),
    }
}

impl Identities {
    /// Nodes of one shard hold the same data, nodes of different shards never do.
    fn contradiction(&mut self, own: i64, place: Place<'_>) -> Option<String> {
        let Place {
            shard, database, ..
        } = place;
        let other_shard = self
            .0
            .iter()
            .find(|(id, db, of)| *id == own && db == database && of != shard);
        let other_data = self.0.iter().find(|(id, _, of)| of == shard && *id != own);
        let said = match (other_shard, other_data) {
            (Some((_, _, other)), _) => Some(format!(
                "this is the data of shard {other} (same system identifier and database), so every row would be there twice; \
                 give each shard a server or a database of its own"
            )),
            (None, Some(_)) => Some(
                "its system identifier is not that of the shard's first node, so it holds other data; \
                 take it away or rebuild it from the primary"
                    .to_owned(),
            ),
            (None, None) => None,
        };
        self.0.push((own, database.to_owned(), shard.to_owned()));
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(in_recovery: bool, system_identifier: i64) -> Server {
        Server {
            version: "15.4".to_owned(),
            major: 15,
            in_recovery,
            wal_level: "replica".to_owned(),
            max_connections: 100,
            system_identifier: Some(system_identifier),
        }
    }

    #[test]
    fn a_shard_is_one_system_and_no_other_shard_is() {
        let mut known = Identities::default();
        let place = |shard, database| Place { shard, database };
        assert!(faults(&server(false, 1), place("s1", "app"), &mut known).is_empty());
        assert!(faults(&server(false, 1), place("s1", "other"), &mut known).is_empty());
        assert!(faults(&server(true, 1), place("s1", "app"), &mut known).is_empty());
        // Two shards on one server, each in a database of its own.
        assert!(faults(&server(false, 1), place("s2", "app2"), &mut known).is_empty());
        let twice = faults(&server(false, 1), place("s3", "app"), &mut known);
        assert!(twice[0].contains("the data of shard s1"), "{twice:?}");
        let stranger = faults(&server(true, 2), place("s1", "app"), &mut known);
        assert!(stranger[0].contains("holds other data"), "{stranger:?}");
    }

    #[test]
    fn roles_and_versions() {
        let place = || Place {
            shard: "s1",
            database: "app",
        };
        let said = |server: &Server| faults(server, place(), &mut Identities::default()).join("; ");
        assert_eq!(said(&server(true, 1)), "");
        let nodes = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(role_fault(&[], 0), None);
        assert_eq!(role_fault(&nodes(&["a:1"]), 3), None);
        assert!(
            role_fault(&[], 2)
                .expect("a fault")
                .contains("all are replicas")
        );
        let several = role_fault(&nodes(&["a:1", "b:2"]), 2).expect("a fault");
        assert!(several.contains("a:1, b:2"), "{several}");
        assert!(
            said(&Server {
                major: 13,
                ..server(false, 1)
            })
            .contains("upgrade")
        );
    }
}
