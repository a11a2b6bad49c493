//! What a server defines: tables, columns, views and functions of one database, as plain data.
//!
//! Everything is read in one transaction, so that it belongs together. Temporary relations are left out: they are a session's own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::{Client, Error, Row};

use super::details::{self, Details};
use super::functions::FunctionKinds;
use super::replicas::{
    Author, Conversions, Found, Function, Replicas, Volatility, without_own_settings,
};
use super::residue::{Residue, Routine, Runs, When};
use super::{Collation, Column, ColumnDefault, Given, Numbers, QualifiedName};

/// The definitions of one database on one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// As `SHOW server_encoding` names it.
    pub server_encoding: Box<str>,
    pub relations: HashMap<QualifiedName, Definition>,
    /// The relations of `pg_catalog` and `information_schema`.
    pub system_relations: HashSet<QualifiedName>,
    /// Names of functions, procedures and aggregates whose body Postgres or a C library does not bring; with the name in lower case, too.
    pub opaque_functions: HashSet<Box<str>>,
    pub functions: Arc<FunctionKinds>,
    pub sequences: Arc<HashSet<QualifiedName>>,
    /// The database's.
    pub collation: Collation,
    pub residue: Arc<Residue>,
    pub replicas: Arc<Replicas>,
    pub details: Arc<Details>,
}

/// One table or view outside `pg_catalog` and `information_schema`.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    pub kind: Kind,
    /// In the order of `attnum`, dropped ones left out.
    pub columns: Vec<DefinedColumn>,
    /// The column names of the primary key, in its order; empty without one.
    pub primary_key: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Table(Table),
    View(View),
    /// A materialised view: its rows are stored, and as old as its last refresh.
    Materialised(View),
}

/// An ordinary, partitioned or foreign table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub storage: Storage,
    /// Tables this one is a partition of or inherits from, directly.
    pub parents: Vec<QualifiedName>,
    pub rules: Rules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Ordinary,
    Partitioned,
    Foreign,
}

/// Whether `CREATE RULE` rewrites statements on the table into others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    None,
    Some,
}

/// What a view reads, directly.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Tables and views outside the system's schemas.
    pub relations: Vec<QualifiedName>,
    /// Whether it calls one of the opaque functions, which may read anything.
    pub functions: Functions,
    /// Its query as a server prints it: every relation outside `pg_catalog` has its schema before it. Empty for a materialised view.
    pub query: Box<str>,
    /// Whether writing to it does something else than to write to what it reads.
    pub rules: Rules,
    pub rights: Rights,
    pub barrier: Barrier,
}

/// In whose name a view reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Owner,
    /// `security_invoker`
    Caller,
}

/// Whether conditions on a view may see rows that it leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    None,
    /// `security_barrier`
    Security,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    Known,
    Opaque,
}

/// A column with what only the checks of a key need.
#[derive(Clone, Debug, PartialEq)]
pub struct DefinedColumn {
    pub column: Column,
    /// `atttypmod` (or the domain's `typtypmod`): -1 without.
    pub modifier: i32,
    pub equality: Equality,
}

/// What equal means for the column's collation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// Equal bytes; also for types without a collation.
    Bytes,
    /// A non-deterministic collation: different bytes may be equal.
    Collation,
}

/// Reads the definitions of the database the client is connected to. The client must not be in a transaction.
pub async fn read(client: &Client) -> Result<Schema, Error> {
    // All names below mean those of pg_catalog, whatever the role's search path is.
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp",
        )
        .await?;
    let read = read_all(client).await;
    // Nothing was written; where the connection is broken, `read` says so already.
    let end = client.batch_execute("ROLLBACK").await;
    read.and_then(|schema| end.map(|()| schema))
}

async fn read_all(client: &Client) -> Result<Schema, Error> {
    let encoding = client
        .query_one("SELECT current_setting('server_encoding')", &[])
        .await?;
    let names = names(client).await?;
    let encoding: Box<str> = text(&encoding, 0)?;
    let collation = default_collation(client).await?;
    let numbers = numbers(client).await?;
    let mut columns = columns(client, collation, &numbers).await?;
    // Clients get texts as UTF-8, whose bytes may be in another order.
    let recoded = |collation: Collation| match &*encoding {
        "UTF8" => collation,
        _ => collation.max(Collation::Language),
    };
    for defined in columns.values_mut().flatten() {
        defined.column.collation = recoded(defined.column.collation);
    }
    let mut primary_keys = primary_keys(client).await?;
    let (residue, replicas) = unseen(client).await?;
    let mut kinds = kinds(client, &names).await?;
    let relations = names
        .into_iter()
        .filter_map(|(oid, name)| {
            let columns = columns.remove(&oid).unwrap_or_default();
            let primary_key = primary_keys.remove(&oid).unwrap_or_default();
            kinds.remove(&oid).map(|kind| {
                (
                    name,
                    Definition {
                        kind,
                        columns,
                        primary_key,
                    },
                )
            })
        })
        .collect();
    Ok(Schema {
        collation: recoded(collation),
        server_encoding: encoding,
        relations,
        system_relations: system_relations(client).await?,
        opaque_functions: opaque_functions(client).await?,
        functions: Arc::new(function_kinds(client).await?),
        sequences: Arc::new(sequences(client).await?),
        residue: Arc::new(residue),
        replicas: Arc::new(replicas),
        details: Arc::new(details::read(client).await?),
    })
}

/// Permanent relations outside the system's schemas; a fragment of FROM and WHERE for the queries below. What is in schema `trunkline` is our own.
const RELATIONS: &str = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'trunkline')";

/// Functions whose body may read tables or take numbers from sequences: written here, in a language that can, and not declared to do without.
/// The functions of extensions are left out, as are all in C. Temporary functions belong to a session, which must call them as `pg_temp.name`.
const OPAQUE: &str = "SELECT p.oid FROM pg_proc p
      JOIN pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_language l ON l.oid = p.prolang
    WHERE l.lanname NOT IN ('c', 'internal') AND p.provolatile <> 'i' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_temp_'
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')";

async fn names(client: &Client) -> Result<HashMap<u32, QualifiedName>, Error> {
    let rows = client
        .query(
            &format!("SELECT c.oid, n.nspname::text, c.relname::text FROM {RELATIONS}"),
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, (text(row, 1)?, text(row, 2)?))))
        .collect()
}

/// The kind of each relation, with what it is made from.
async fn kinds(
    client: &Client,
    names: &HashMap<u32, QualifiedName>,
) -> Result<HashMap<u32, Kind>, Error> {
    let parents = pairs(
        client,
        "SELECT inhrelid, inhparent FROM pg_inherits ORDER BY inhrelid, inhseqno",
        names,
    )
    .await?;
    let reads = "SELECT DISTINCT r.ev_class, d.refobjid FROM pg_rewrite r
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
        WHERE d.refobjid <> r.ev_class";
    let reads = pairs(client, reads, names).await?;
    let query = format!(
        "SELECT c.oid, c.relkind::text,
            EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1'),
            EXISTS (SELECT FROM pg_rewrite r
                    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
                    LEFT JOIN pg_aggregate a ON a.aggfnoid = d.refobjid
                    WHERE r.ev_class = c.oid
                      AND (d.refobjid IN ({OPAQUE}) OR a.aggtransfn IN ({OPAQUE}) OR a.aggfinalfn IN ({OPAQUE}))),
            CASE WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END,
            {}, {}
        FROM {RELATIONS}",
        view_option("security_invoker"),
        view_option("security_barrier"),
    );
    let mut kinds = HashMap::new();
    for row in client.query(&query, &[]).await? {
        let oid: u32 = row.try_get(0)?;
        let table = |storage, rules| {
            let parents = parents.get(&oid).cloned().unwrap_or_default();
            Kind::Table(Table {
                storage,
                parents,
                rules,
            })
        };
        let rules = if row.try_get(2)? {
            Rules::Some
        } else {
            Rules::None
        };
        let functions = if row.try_get(3)? {
            Functions::Opaque
        } else {
            Functions::Known
        };
        let query = row.try_get::<_, Option<&str>>(4)?.unwrap_or_default();
        let (as_caller, is_barrier): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
        let view = || View {
            relations: reads.get(&oid).cloned().unwrap_or_default(),
            functions,
            query: query.into(),
            rules,
            rights: if as_caller {
                Rights::Caller
            } else {
                Rights::Owner
            },
            barrier: if is_barrier {
                Barrier::Security
            } else {
                Barrier::None
            },
        };
        let kind = match row.try_get::<_, &str>(1)? {
            "v" => Kind::View(view()),
            "m" => Kind::Materialised(view()),
            "p" => table(Storage::Partitioned, rules),
            "f" => table(Storage::Foreign, rules),
            _ => table(Storage::Ordinary, rules),
        };
        kinds.insert(oid, kind);
    }
    Ok(kinds)
}

/// Whether an option of a view is on.
fn view_option(name: &str) -> String {
    format!(
        "c.relkind = 'v' AND coalesce((SELECT option_value::bool FROM pg_options_to_table(c.reloptions) WHERE option_name = '{name}'), false)"
    )
}

/// Groups rows of (relation, other relation) by the first; relations without a name here (the system's, temporary ones) are left out.
async fn pairs(
    client: &Client,
    query: &str,
    names: &HashMap<u32, QualifiedName>,
) -> Result<HashMap<u32, Vec<QualifiedName>>, Error> {
    let mut groups: HashMap<u32, Vec<QualifiedName>> = HashMap::new();
    for row in client.query(query, &[]).await? {
        if let Some(name) = names.get(&row.try_get::<_, u32>(1)?) {
            groups
                .entry(row.try_get(0)?)
                .or_default()
                .push(name.clone());
        }
    }
    Ok(groups)
}

/// `nextval`, `currval`, `setval` (two) and `lastval` in an expression tree.
const SEQUENCE_CALL: &str = ":funcid (1574|1575|1576|1765|2559) ";

/// Whether an expression tree has another value at another time or in another session: its functions and operators say so, or it has nodes
/// that do (CURRENT_TIMESTAMP and its like, conversions by way of text).
fn is_volatile(tree: &str) -> String {
    format!(
        "({tree} ~ '[{{](SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO) ' OR EXISTS (
            SELECT FROM regexp_matches({tree}, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS called (oid)
              JOIN pg_proc p ON p.oid = called.oid[1]::oid WHERE p.provolatile <> 'i'))"
    )
}

/// Whether a row of `pg_collation` or `pg_database` orders texts by their bytes, of its provider and its LC_COLLATE.
fn orders_by_bytes(provider: Option<&str>, collate: Option<&str>) -> bool {
    match provider.unwrap_or("c") {
        "c" => matches!(collate, Some("C" | "POSIX")),
        // The builtin provider's locales differ in what is a letter, not in the order.
        "b" => true,
        _ => false,
    }
}

async fn default_collation(client: &Client) -> Result<Collation, Error> {
    // Servers before 15 know one provider.
    let query = "SELECT to_jsonb(d) ->> 'datlocprovider', to_jsonb(d) ->> 'datcollate' FROM pg_database d WHERE datname = current_database()";
    let row = client.query_one(query, &[]).await?;
    Ok(if orders_by_bytes(row.try_get(0)?, row.try_get(1)?) {
        Collation::Bytes
    } else {
        Collation::Language
    })
}

async fn columns(
    client: &Client,
    default_collation: Collation,
    numbers: &HashMap<(u32, i16), Arc<Numbers>>,
) -> Result<HashMap<u32, Vec<DefinedColumn>>, Error> {
    let domains = domains(client).await?;
    let query = format!(
        "SELECT c.oid, a.attname::text, a.atttypid, a.atttypmod, a.attidentity <> '', a.attgenerated <> '', def.oid IS NOT NULL,
            def.adbin::text ~ '{SEQUENCE_CALL}' OR EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_attrdef'::regclass AND d.objid = def.oid
                   AND d.refclassid = 'pg_proc'::regclass AND d.refobjid IN ({OPAQUE})),
            coalesce(coll.collisdeterministic, true), coll.oid, coll.collprovider::text, coll.collcollate::text, {}, a.attnum
         FROM pg_attribute a
           LEFT JOIN pg_attrdef def ON def.adrelid = a.attrelid AND def.adnum = a.attnum
           LEFT JOIN pg_collation coll ON coll.oid = a.attcollation
           JOIN (SELECT c.oid FROM {RELATIONS}) c ON c.oid = a.attrelid
         WHERE a.attnum > 0 AND NOT a.attisdropped
         ORDER BY c.oid, a.attnum",
        is_volatile("def.adbin::text")
    );
    let mut columns: HashMap<u32, Vec<DefinedColumn>> = HashMap::new();
    for row in client.query(&query, &[]).await? {
        let relation: u32 = row.try_get(0)?;
        let mut defined = column(&row, &domains, default_collation)?;
        defined.column.numbers = numbers.get(&(relation, row.try_get(13)?)).cloned();
        columns.entry(relation).or_default().push(defined);
    }
    Ok(columns)
}

/// Columns, by relation and `attnum`, that take the next number of one sequence and do nothing else with it: serial, identity, and what is written
/// like a serial's default.
async fn numbers(client: &Client) -> Result<HashMap<(u32, i16), Arc<Numbers>>, Error> {
    let query = format!(
        "SELECT def.adrelid, def.adnum, n.nspname::text, s.relname::text, ''
         FROM pg_attrdef def
           JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = def.oid AND d.refclassid = 'pg_class'::regclass
           JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' AND s.relpersistence <> 't'
           JOIN pg_namespace n ON n.oid = s.relnamespace
         WHERE CASE WHEN def.adbin::text ~ '{SEQUENCE_CALL}'
           THEN pg_get_expr(def.adbin, def.adrelid) = format('nextval(%L::regclass)', s.oid::regclass::text) END
         UNION ALL
         SELECT a.attrelid, a.attnum, n.nspname::text, s.relname::text, a.attidentity::text
         FROM pg_attribute a
           JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
             AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i'
           JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' AND s.relpersistence <> 't'
           JOIN pg_namespace n ON n.oid = s.relnamespace
         WHERE a.attidentity <> ''"
    );
    let mut numbers = HashMap::new();
    for row in client.query(&query, &[]).await? {
        let given = match row.try_get::<_, &str>(4)? {
            "a" => Given::Overriding,
            "d" => Given::AsIdentity,
            _ => Given::Freely,
        };
        let sequence = (text(&row, 2)?, text(&row, 3)?);
        let numbered = Arc::new(Numbers { sequence, given });
        numbers.insert((row.try_get(0)?, row.try_get(1)?), numbered);
    }
    Ok(numbers)
}

async fn sequences(client: &Client) -> Result<HashSet<QualifiedName>, Error> {
    let query = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND c.relpersistence <> 't'";
    let rows = client.query(query, &[]).await?;
    let names = rows.iter().map(|row| Ok((text(row, 0)?, text(row, 1)?)));
    names.collect()
}

/// `DEFAULT_COLLATION_OID`: the database's.
const DEFAULT_COLLATION: u32 = 100;

fn column(
    row: &Row,
    domains: &HashMap<u32, Domain>,
    default_collation: Collation,
) -> Result<DefinedColumn, Error> {
    let (identity, generated, has_default): (bool, bool, bool) =
        (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
    let takes_number: Option<bool> = row.try_get(7)?;
    let volatile: Option<bool> = row.try_get(12)?;
    let (mut type_oid, mut modifier): (u32, i32) = (row.try_get(2)?, row.try_get(3)?);
    let mut domain_default = None;
    while let Some(domain) = domains.get(&type_oid) {
        domain_default = domain_default.or(domain.default);
        type_oid = domain.base;
        modifier = domain.modifier;
    }
    let default = if generated {
        ColumnDefault::Generated
    } else if identity || takes_number == Some(true) {
        ColumnDefault::Sequence
    } else if volatile == Some(true) {
        ColumnDefault::Volatile
    } else if has_default {
        ColumnDefault::Plain
    } else {
        domain_default.unwrap_or(ColumnDefault::Plain)
    };
    let equality = if row.try_get(8)? {
        Equality::Bytes
    } else {
        Equality::Collation
    };
    let collation = match row.try_get::<_, Option<u32>>(9)? {
        None => Collation::Bytes,
        Some(DEFAULT_COLLATION) => default_collation,
        Some(_) if equality == Equality::Collation => Collation::Loose,
        Some(_) if orders_by_bytes(row.try_get(10)?, row.try_get(11)?) => Collation::Bytes,
        Some(_) => Collation::Language,
    };
    Ok(DefinedColumn {
        column: Column {
            name: text(row, 1)?,
            type_oid,
            default,
            numbers: None,
            collation,
        },
        modifier,
        equality,
    })
}

/// A domain over another type.
struct Domain {
    base: u32,
    modifier: i32,
    default: Option<ColumnDefault>,
}

async fn domains(client: &Client) -> Result<HashMap<u32, Domain>, Error> {
    let query = format!(
        "SELECT t.oid, t.typbasetype, t.typtypmod, t.typdefault IS NOT NULL,
            t.typdefaultbin::text ~ '{SEQUENCE_CALL}' OR EXISTS (
                SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid
                   AND d.refclassid = 'pg_proc'::regclass AND d.refobjid IN ({OPAQUE})), {}
         FROM pg_type t WHERE t.typtype = 'd'",
        is_volatile("t.typdefaultbin::text")
    );
    let mut domains = HashMap::new();
    for row in client.query(&query, &[]).await? {
        let has_default: bool = row.try_get(3)?;
        let (takes_number, volatile): (Option<bool>, Option<bool>) =
            (row.try_get(4)?, row.try_get(5)?);
        let default = match (has_default, takes_number, volatile) {
            (false, ..) => None,
            (true, Some(true), _) => Some(ColumnDefault::Sequence),
            (true, _, Some(true)) => Some(ColumnDefault::Volatile),
            (true, ..) => Some(ColumnDefault::Plain),
        };
        domains.insert(
            row.try_get(0)?,
            Domain {
                base: row.try_get(1)?,
                modifier: row.try_get(2)?,
                default,
            },
        );
    }
    Ok(domains)
}

async fn primary_keys(client: &Client) -> Result<HashMap<u32, Vec<Box<str>>>, Error> {
    let query = "SELECT i.indrelid, a.attname::text FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS part (attnum, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attnum
        WHERE i.indisprimary AND i.indimmediate AND part.place <= i.indnkeyatts ORDER BY i.indrelid, part.place";
    let mut keys: HashMap<u32, Vec<Box<str>>> = HashMap::new();
    for row in client.query(query, &[]).await? {
        keys.entry(row.try_get(0)?)
            .or_default()
            .push(text(&row, 1)?);
    }
    Ok(keys)
}

async fn system_relations(client: &Client) -> Result<HashSet<QualifiedName>, Error> {
    let query = "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'p', 'f', 'v', 'm')";
    client
        .query(query, &[])
        .await?
        .iter()
        .map(|row| Ok((text(row, 0)?, text(row, 1)?)))
        .collect()
}

async fn opaque_functions(client: &Client) -> Result<HashSet<Box<str>>, Error> {
    let query = format!(
        "WITH opaque AS ({OPAQUE}), named AS (
            SELECT p.proname::text AS name FROM pg_proc p WHERE p.oid IN (SELECT oid FROM opaque)
            UNION SELECT p.proname::text FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
            WHERE a.aggtransfn IN (SELECT oid FROM opaque) OR a.aggfinalfn IN (SELECT oid FROM opaque))
         SELECT name FROM named UNION SELECT lower(name) FROM named"
    );
    client
        .query(&query, &[])
        .await?
        .iter()
        .map(|row| text(row, 0))
        .collect()
}

async fn function_kinds(client: &Client) -> Result<FunctionKinds, Error> {
    let query = "SELECT p.proname::text, n.nspname = 'pg_catalog', p.prokind::text, p.provolatile = 'v', p.proretset
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prokind IN ('a', 'w') OR p.provolatile = 'v' OR p.proretset";
    let mut kinds = FunctionKinds::default();
    for row in client.query(query, &[]).await? {
        let name = text(&row, 0)?;
        match (row.try_get::<_, &str>(2)?, row.try_get(1)?) {
            ("a", true) => _ = kinds.aggregates.insert(name.clone()),
            ("a", false) => _ = kinds.own_aggregates.insert(name.clone()),
            ("w", _) => _ = kinds.windows.insert(name.clone()),
            _ => {}
        }
        if row.try_get(4)? {
            kinds.set_returning.insert(name.clone());
        }
        if row.try_get(3)? {
            kinds.volatile.insert(name);
        }
    }
    Ok(kinds)
}

/// Bodies that can be read, and which relation runs which function or touches which other relation.
async fn unseen(client: &Client) -> Result<(Residue, Replicas), Error> {
    let system =
        "SELECT DISTINCT p.proname::text FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
            JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE (l.lanname IN ('c', 'internal') OR n.nspname IN ('pg_catalog', 'information_schema'))
            AND (p.prokind <> 'a' OR n.nspname = 'pg_catalog')";
    // The guard of moving keys leaves nothing behind, whatever users call their functions.
    let routines = "SELECT p.proname::text, l.lanname::text, p.prosrc FROM pg_proc p
            JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE l.lanname NOT IN ('c', 'internal') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
            AND NOT (n.nspname = 'trunkline' AND p.proname = 'reshard_guard')
        UNION ALL SELECT p.proname::text, 'sql',
            concat_ws(' ', a.aggtransfn::oid::regproc, a.aggfinalfn::oid::regproc, a.aggmtransfn::oid::regproc)
        FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname <> 'pg_catalog'";
    let runs = "WITH objects AS (
            SELECT 'pg_trigger'::regclass AS class, oid, tgrelid AS relation, true AS written FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT 'pg_rewrite'::regclass, oid, ev_class, false FROM pg_rewrite
            UNION ALL SELECT 'pg_policy'::regclass, oid, polrelid, false FROM pg_policy
            UNION ALL SELECT 'pg_attrdef'::regclass, oid, adrelid, true FROM pg_attrdef
            UNION ALL SELECT 'pg_constraint'::regclass, oid, conrelid, true FROM pg_constraint WHERE conrelid <> 0)
        SELECT c.relname::text, p.proname::text, o.written FROM objects o
            JOIN pg_depend d ON d.classid = o.class AND d.objid = o.oid AND d.refclassid = 'pg_proc'::regclass
            JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_class c ON c.oid = o.relation
        UNION SELECT c.relname::text, r.relname::text, false FROM pg_rewrite w
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
            JOIN pg_class r ON r.oid = d.refobjid JOIN pg_class c ON c.oid = w.ev_class
            WHERE r.oid <> c.oid AND c.relnamespace <> 'pg_catalog'::regnamespace AND c.relnamespace <> 'information_schema'::regnamespace
        UNION SELECT parent.relname::text, child.relname::text, true FROM pg_inherits i
            JOIN pg_class parent ON parent.oid = i.inhparent JOIN pg_class child ON child.oid = i.inhrelid
        UNION SELECT target.relname::text, source.relname::text, true FROM pg_constraint k
            JOIN pg_class target ON target.oid = k.confrelid JOIN pg_class source ON source.oid = k.conrelid
            WHERE k.contype = 'f'
        UNION SELECT c.relname::text, 'currval', x.written FROM (
            SELECT adrelid, true, adbin::text FROM pg_attrdef
            UNION ALL SELECT tgrelid, true, tgqual::text FROM pg_trigger
            UNION ALL SELECT ev_class, false, ev_action::text FROM pg_rewrite
            UNION ALL SELECT polrelid, false, concat(polqual, polwithcheck) FROM pg_policy) AS x (relation, written, tree)
            JOIN pg_class c ON c.oid = x.relation
            WHERE c.relnamespace <> 'pg_catalog'::regnamespace AND c.relnamespace <> 'information_schema'::regnamespace
                AND x.tree ~ ':funcid (1575|2559) '";
    let system = client.query(system, &[]).await?;
    let system = system.iter().map(|row| text(row, 0));
    let system: HashSet<Box<str>> = system.collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for row in client.query(routines, &[]).await? {
        found.push(Routine {
            name: text(&row, 0)?,
            language: text(&row, 1)?,
            text: text(&row, 2)?,
        });
    }
    let mut run = Vec::new();
    for row in client.query(runs, &[]).await? {
        let when = if row.try_get(2)? {
            When::Written
        } else {
            When::Used
        };
        run.push(Runs {
            relation: text(&row, 0)?,
            what: text(&row, 1)?,
            when,
        });
    }
    let residue = Residue::of(system, &found, &run);
    Ok((residue, replicas(client, &found, run).await?))
}

/// What views and policies call and read by their expression trees: a pinned function or relation, one of Postgres's own, is in no `pg_depend`.
const TREES: &str = "(SELECT c.relname::text, w.ev_action::text, CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END
        FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class
        WHERE c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    UNION ALL SELECT c.relname::text, concat(p.polqual, p.polwithcheck),
            concat(pg_get_expr(p.polqual, p.polrelid), ' ', pg_get_expr(p.polwithcheck, p.polrelid))
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid) AS t (relation, tree, text)";

/// `current_setting`, of two forms.
const CURRENT_SETTING: &str = "2077, 3294";

async fn replicas(
    client: &Client,
    routines: &[Routine],
    mut runs: Vec<Runs>,
) -> Result<Replicas, Error> {
    let query = "SELECT DISTINCT p.proname::text, p.provolatile = 'v',
            CASE WHEN n.nspname IN ('pg_catalog', 'information_schema') THEN 's' WHEN l.lanname IN ('c', 'internal') THEN 'c' ELSE 'u' END
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang";
    let mut functions = Vec::new();
    for row in client.query(query, &[]).await? {
        functions.push(Function {
            name: text(&row, 0)?,
            volatility: match row.try_get(1)? {
                true => Volatility::Volatile,
                false => Volatility::Stable,
            },
            author: match row.try_get::<_, &str>(2)? {
                "s" => Author::Postgres,
                "c" => Author::Library,
                _ => Author::User,
            },
        });
    }
    let query = format!(
        "SELECT t.relation, p.proname::text, NULL FROM {TREES},
            regexp_matches(t.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS called (oid)
            JOIN pg_proc p ON p.oid = called.oid[1]::oid WHERE p.oid NOT IN ({CURRENT_SETTING})
        UNION SELECT t.relation, c.relname::text, NULL FROM {TREES}, regexp_matches(t.tree, ':relid ([0-9]+)', 'g') AS named (oid)
            JOIN pg_class c ON c.oid = named.oid[1]::oid WHERE c.relname <> t.relation
        UNION SELECT parent.relname::text, child.relname::text, NULL FROM pg_inherits i
            JOIN pg_class parent ON parent.oid = i.inhparent JOIN pg_class child ON child.oid = i.inhrelid
        UNION SELECT t.relation, 'current_setting', t.text FROM {TREES},
            regexp_matches(t.tree, ':funcid ([0-9]+)', 'g') AS called (oid) WHERE called.oid[1]::oid IN ({CURRENT_SETTING})"
    );
    for row in client.query(&query, &[]).await? {
        let asks = row.try_get::<_, Option<&str>>(2)?;
        if asks.is_some_and(|text| !without_own_settings(text).contains("current_setting")) {
            continue;
        }
        runs.push(Runs {
            relation: text(&row, 0)?,
            what: text(&row, 1)?,
            when: When::Used,
        });
    }
    let unreadable = "SELECT relname::text FROM pg_class WHERE relpersistence = 'u' OR relkind = 'f'
        UNION SELECT c.relname::text FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class WHERE w.ev_action::text ~ '[{]ROWMARKCLAUSE '";
    let operators = "SELECT DISTINCT o.oprname::text FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE p.provolatile = 'v'";
    let conversions = "SELECT EXISTS (SELECT FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc WHERE p.provolatile = 'v')
            OR EXISTS (SELECT FROM pg_type t JOIN pg_proc p ON p.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend)
                WHERE p.provolatile = 'v' AND p.pronamespace <> 'pg_catalog'::regnamespace)
            OR EXISTS (SELECT FROM pg_constraint k, regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) ([0-9]+)', 'g') AS called (oid)
                JOIN pg_proc p ON p.oid = called.oid[1]::oid WHERE k.contypid <> 0 AND p.provolatile = 'v')";
    let names = |rows: Vec<Row>| {
        let names = rows.into_iter().map(|row| text(&row, 0));
        names.collect::<Result<Vec<_>, _>>()
    };
    let unreadable = names(client.query(unreadable, &[]).await?)?;
    let operators = names(client.query(operators, &[]).await?)?;
    let conversions = match client.query_one(conversions, &[]).await?.try_get(0)? {
        true => Conversions::Volatile,
        false => Conversions::Plain,
    };
    Ok(Replicas::of(Found {
        functions: &functions,
        routines,
        runs: &runs,
        unreadable: unreadable.into_iter().collect(),
        operators,
        conversions,
    }))
}

fn text(row: &Row, column: usize) -> Result<Box<str>, Error> {
    row.try_get::<_, &str>(column).map(Box::from)
}
