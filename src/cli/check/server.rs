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
    /// From 0; the first is taken as the primary.
    pub node: usize,
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
    match (place.node, server.in_recovery) {
        (0, true) => faults.push(
            "the first node of a shard is taken as the primary, but this one is a replica; put the primary first"
                .to_owned(),
        ),
        (1.., false) => faults.push(
            "this node takes writes, as the first one does, so it is no replica of it; take it away or rebuild it"
                .to_owned(),
        ),
        (0, false) | (1.., true) => {}
    }
    faults.extend(
        server
            .system_identifier
            .and_then(|own| known.contradiction(own, place)),
    );
    faults
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
                 take it away or rebuild it from the first"
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
        let place = |shard, node, database| Place {
            shard,
            node,
            database,
        };
        assert!(faults(&server(false, 1), place("s1", 0, "app"), &mut known).is_empty());
        assert!(faults(&server(false, 1), place("s1", 0, "other"), &mut known).is_empty());
        assert!(faults(&server(true, 1), place("s1", 1, "app"), &mut known).is_empty());
        // Two shards on one server, each in a database of its own.
        assert!(faults(&server(false, 1), place("s2", 0, "app2"), &mut known).is_empty());
        let twice = faults(&server(false, 1), place("s3", 0, "app"), &mut known);
        assert!(twice[0].contains("the data of shard s1"), "{twice:?}");
        let stranger = faults(&server(true, 2), place("s1", 2, "app"), &mut known);
        assert!(stranger[0].contains("holds other data"), "{stranger:?}");
    }

    #[test]
    fn roles_and_versions() {
        let place = |node| Place {
            shard: "s1",
            node,
            database: "app",
        };
        let said = |server: &Server, node| {
            faults(server, place(node), &mut Identities::default()).join("; ")
        };
        assert!(said(&server(true, 1), 0).contains("put the primary first"));
        assert!(said(&server(false, 1), 1).contains("takes writes"));
        assert!(
            said(
                &Server {
                    major: 13,
                    ..server(false, 1)
                },
                0
            )
            .contains("upgrade")
        );
    }
}
