//! What Trunkline computes or reads by itself agrees with a server.

use crate::servers::own_database;
use crate::{hash_agreement, schema_reading};

#[tokio::test]
async fn hashes_are_the_servers() {
    hash_agreement::agrees(&own_database("hash_agreement").await).await;
}

#[tokio::test]
async fn definitions_are_read_as_they_are() {
    schema_reading::reads(&own_database("schema_reading").await).await;
}
