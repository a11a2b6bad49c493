//! What only statements that change rows on several shards, or definitions, must know of a database: read with the rest of its definitions.

use std::collections::{HashMap, HashSet};

use tokio_postgres::{Client, Error, Row};

use super::QualifiedName;

/// A condition on `t`, of `pg_trigger`: it is a user's. Those that guard moving keys refuse writes or do nothing, on each shard for itself.
const OF_USERS: &str = "NOT t.tgisinternal AND t.tgfoid NOT IN (SELECT g.oid FROM pg_proc g
    JOIN pg_namespace own ON own.oid = g.pronamespace WHERE own.nspname = 'trunkline' AND g.proname = 'reshard_guard')";

/// See the fields. Empty while the definitions have not been read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub schemas: HashSet<Box<str>>,
    /// Functions of which every one of that name, in any schema, is declared IMMUTABLE. No aggregates, whose results may depend on the
    /// order of rows, and no window functions.
    pub immutable_functions: HashSet<Box<str>>,
    /// Tables with triggers of users.
    pub triggered: HashSet<QualifiedName>,
    /// Tables that show different rows to different users (row security).
    pub secured: HashSet<QualifiedName>,
    /// Tables whose rows cannot be deleted here and inserted there instead of being updated, and why.
    pub tied: HashMap<QualifiedName, Box<str>>,
    /// What unique indexes and exclusion constraints look at: columns; `None` for an expression or a condition.
    pub distinct: HashMap<QualifiedName, HashSet<Option<Box<str>>>>,
    /// Indexes, and sequences that belong to a column: to their tables.
    pub parts: HashMap<QualifiedName, QualifiedName>,
}

/// The client's search path is pg_catalog.
pub(super) async fn read(client: &Client) -> Result<Details, Error> {
    Ok(Details {
        schemas: names(client, "SELECT nspname::text FROM pg_namespace").await?,
        immutable_functions: names(
            client,
            "SELECT proname::text FROM pg_proc GROUP BY proname
             HAVING bool_and(provolatile = 'i' AND prokind = 'f')",
        )
        .await?,
        triggered: tables(
            client,
            &format!(
                "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_trigger t
                   JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE {OF_USERS}"
            ),
        )
        .await?,
        secured: tables(
            client,
            "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relrowsecurity",
        )
        .await?,
        tied: tied(client).await?,
        distinct: distinct(client).await?,
        parts: parts(client).await?,
    })
}

async fn names(client: &Client, query: &str) -> Result<HashSet<Box<str>>, Error> {
    let rows = client.query(query, &[]).await?;
    rows.iter()
        .map(|row| Ok(row.try_get::<_, &str>(0)?.into()))
        .collect()
}

async fn tables(client: &Client, query: &str) -> Result<HashSet<QualifiedName>, Error> {
    let rows = client.query(query, &[]).await?;
    rows.iter().map(|row| qualified(row, 0)).collect()
}

/// Every table with itself and all below it, partitions and children.
const BELOW: &str = "below AS (
        SELECT c.oid AS top, c.oid AS oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
        UNION SELECT b.top, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid)";

async fn tied(client: &Client) -> Result<HashMap<QualifiedName, Box<str>>, Error> {
    let query = format!(
        "WITH RECURSIVE {BELOW}, ties (oid, why) AS (
            SELECT t.tgrelid, 'it has triggers' FROM pg_trigger t WHERE {OF_USERS}
            UNION ALL SELECT confrelid, 'a foreign key refers to it' FROM pg_constraint WHERE contype = 'f'
            UNION ALL SELECT oid, 'it has row security' FROM pg_class WHERE relrowsecurity
            UNION ALL SELECT oid, 'a part of it is a foreign table' FROM pg_class WHERE relkind = 'f'
            UNION ALL SELECT i.inhparent, 'other tables inherit from it' FROM pg_inherits i
                JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'r')
         SELECT n.nspname::text, c.relname::text, min(why) FROM below JOIN ties USING (oid)
           JOIN pg_class c ON c.oid = below.top JOIN pg_namespace n ON n.oid = c.relnamespace
         GROUP BY 1, 2"
    );
    let rows = client.query(&query, &[]).await?;
    rows.iter()
        .map(|row| Ok((qualified(row, 0)?, row.try_get::<_, &str>(2)?.into())))
        .collect()
}

async fn distinct(
    client: &Client,
) -> Result<HashMap<QualifiedName, HashSet<Option<Box<str>>>>, Error> {
    let query = format!(
        "WITH RECURSIVE {BELOW}
         SELECT DISTINCT n.nspname::text, c.relname::text, a.attname::text FROM below
           JOIN pg_index i ON i.indrelid = below.oid AND (i.indisunique OR i.indisexclusion)
           CROSS JOIN LATERAL (SELECT unnest(i.indkey::int2[]) UNION ALL SELECT 0::int2 WHERE i.indpred IS NOT NULL) AS part (attnum)
           LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attnum AND part.attnum > 0
           JOIN pg_class c ON c.oid = below.top JOIN pg_namespace n ON n.oid = c.relnamespace"
    );
    let mut distinct: HashMap<QualifiedName, HashSet<Option<Box<str>>>> = HashMap::new();
    for row in client.query(&query, &[]).await? {
        let column = row.try_get::<_, Option<&str>>(2)?.map(Box::from);
        distinct
            .entry(qualified(&row, 0)?)
            .or_default()
            .insert(column);
    }
    Ok(distinct)
}

async fn parts(client: &Client) -> Result<HashMap<QualifiedName, QualifiedName>, Error> {
    let query = "SELECT pn.nspname::text, p.relname::text, tn.nspname::text, t.relname::text FROM (
            SELECT indexrelid AS part, indrelid AS whole FROM pg_index
            UNION ALL SELECT d.objid, d.refobjid FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.objsubid = 0 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')) AS pairs
          JOIN pg_class p ON p.oid = pairs.part AND p.relkind IN ('i', 'I', 'S') JOIN pg_namespace pn ON pn.oid = p.relnamespace
          JOIN pg_class t ON t.oid = pairs.whole JOIN pg_namespace tn ON tn.oid = t.relnamespace
        WHERE pn.nspname NOT IN ('pg_catalog', 'pg_toast')";
    let rows = client.query(query, &[]).await?;
    rows.iter()
        .map(|row| Ok((qualified(row, 0)?, qualified(row, 2)?)))
        .collect()
}

fn qualified(row: &Row, column: usize) -> Result<QualifiedName, Error> {
    Ok((
        row.try_get::<_, &str>(column)?.into(),
        row.try_get::<_, &str>(column + 1)?.into(),
    ))
}
