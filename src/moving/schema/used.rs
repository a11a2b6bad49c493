//! Types, functions and the like that tables need: in columns, defaults, constraints, indexes, triggers, rules and policies, and in one another.
//!
//! Servers know that of everything but of the bodies of functions that are texts. There each word that is the name of a function is taken for
//! one: rather one too many. What an extension has brought comes with the extension.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Part, SchemaError, tables};

/// Something outside `pg_catalog`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    /// `type`, `function`, `collation`, `operator class`, ...
    pub kind: Box<str>,
    /// With its schema, as SQL writes it.
    pub identity: Box<str>,
    /// As `pg_get_object_address` takes it.
    pub names: Vec<String>,
    pub arguments: Vec<String>,
    /// Name and version of the extension that it is a part of.
    pub extension: Option<(Box<str>, Box<str>)>,
    /// What must be the same wherever it is; `None`: nothing more is known of it than that it is there.
    pub definition: Option<Box<str>>,
    /// The statements that make it; `None`: it is not made by us.
    pub make: Option<Box<str>>,
    schema: u32,
}

/// `part`: the relations $1 and what belongs to them; `used`: what these use.
const USED: &str = "part (classid, objid) AS (
      SELECT 'pg_class'::regclass::oid, unnest($1::oid[])
      UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = ANY ($1)
      UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = ANY ($1)
      UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = ANY ($1)
      UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND p.pronamespace IS DISTINCT FROM to_regnamespace('trunkline')
      UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = ANY ($1)
      UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class = ANY ($1)
      UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = ANY ($1)),
    used (classid, objid) AS (
      SELECT d.refclassid, d.refobjid FROM part JOIN pg_depend d USING (classid, objid) WHERE d.refobjid >= 16384
      UNION
      SELECT more.classid, more.objid FROM used, LATERAL (
        SELECT d.refclassid, d.refobjid FROM pg_depend d LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
          WHERE d.classid = used.classid AND d.objid = used.objid AND (c.oid IS NULL OR c.relkind = 'c')
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint k WHERE used.classid = 'pg_type'::regclass AND k.contypid = used.objid
        UNION ALL SELECT 'pg_proc'::regclass, f.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('sql', 'plpgsql')
          JOIN pg_proc f ON f.proname = ANY (regexp_split_to_array(lower(p.prosrc), '[^[:alnum:]_$]+')) AND f.oid >= 16384
          WHERE used.classid = 'pg_proc'::regclass AND p.oid = used.objid
        ) AS more (classid, objid) WHERE more.objid >= 16384)";

/// What is the same wherever it is. Of `u`, an object's class and number.
const DEFINITION: &str = "CASE u.classid
      WHEN 'pg_type'::regclass THEN (SELECT concat_ws(' ', t.typtype, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
          CASE WHEN t.typnotnull THEN 'NOT NULL' END, t.typdefault,
          (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
          (SELECT string_agg(pg_get_constraintdef(k.oid), ', ' ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'),
          (SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) FROM pg_attribute a
            JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c' WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
          (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid))
        FROM pg_type t WHERE t.oid = u.objid)
      WHEN 'pg_proc'::regclass THEN (SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.oid = u.objid AND p.prokind <> 'a')
      WHEN 'pg_collation'::regclass THEN (SELECT concat_ws(' ', l.collprovider, l.collisdeterministic, l.collcollate, l.collctype,
          COALESCE(to_jsonb(l) ->> 'colllocale', to_jsonb(l) ->> 'colliculocale')) FROM pg_collation l WHERE l.oid = u.objid)
    END";

/// Everything that these relations of the source use.
pub async fn read(source: &Client, relations: &[u32]) -> Result<Vec<Used>, tokio_postgres::Error> {
    let type_grants = tables::grants("TYPE", "i.identity", "t.typacl", "t.typowner");
    let function_grants = tables::grants("ROUTINE", "i.identity", "p.proacl", "p.proowner");
    let make = format!(
        "CASE u.classid
          WHEN 'pg_type'::regclass THEN (SELECT concat_ws('; ', CASE t.typtype
              WHEN 'e' THEN format('CREATE TYPE %s AS ENUM (%s)', i.identity,
                (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
              WHEN 'd' THEN format('CREATE DOMAIN %s AS %s%s%s%s%s', i.identity, format_type(t.typbasetype, t.typtypmod),
                (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname) FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace
                   JOIN pg_type b ON b.oid = t.typbasetype WHERE l.oid = t.typcollation AND t.typcollation <> b.typcollation),
                ' DEFAULT ' || pg_get_expr(t.typdefaultbin, 0), CASE WHEN t.typnotnull THEN ' NOT NULL' END,
                (SELECT string_agg(format(' CONSTRAINT %I %s', k.conname, replace(pg_get_constraintdef(k.oid), ' NOT VALID', '')), '' ORDER BY k.conname)
                   FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
              END, format('ALTER TYPE %s OWNER TO %I', i.identity, pg_get_userbyid(t.typowner)), {type_grants})
            FROM pg_type t WHERE t.oid = u.objid AND t.typtype IN ('e', 'd'))
          WHEN 'pg_proc'::regclass THEN (SELECT concat_ws('; ', rtrim(pg_get_functiondef(p.oid), E' \\n'),
              format('ALTER ROUTINE %s OWNER TO %I', i.identity, pg_get_userbyid(p.proowner)), {function_grants})
            FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('sql', 'plpgsql') WHERE p.oid = u.objid AND p.prokind <> 'a')
        END"
    );
    let query = format!(
        "WITH RECURSIVE {USED}
         SELECT i.type, i.identity, a.object_names, a.object_args, e.extname::text, e.extversion, {DEFINITION}, {make},
           COALESCE((SELECT typnamespace FROM pg_type WHERE u.classid = 'pg_type'::regclass AND oid = u.objid),
                    (SELECT pronamespace FROM pg_proc WHERE u.classid = 'pg_proc'::regclass AND oid = u.objid), 0::oid)
         FROM used u CROSS JOIN LATERAL pg_identify_object(u.classid, u.objid, 0) i
           CROSS JOIN LATERAL pg_identify_object_as_address(u.classid, u.objid, 0) a
           LEFT JOIN pg_depend x ON x.classid = u.classid AND x.objid = u.objid AND x.deptype = 'e' AND x.refclassid = 'pg_extension'::regclass
           LEFT JOIN pg_extension e ON e.oid = x.refobjid
         WHERE u.classid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_namespace'::regclass, 'pg_extension'::regclass,
             'pg_attrdef'::regclass, 'pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass)
           AND NOT EXISTS (SELECT FROM pg_type t WHERE u.classid = 'pg_type'::regclass AND t.oid = u.objid
             AND (t.typcategory = 'A' AND t.typelem <> 0
                  OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind <> 'c' AND c.oid = ANY ($1))))
         ORDER BY u.objid"
    );
    let rows = source.query(&query, &[&relations]).await?;
    Ok(rows
        .iter()
        .map(|row| Used {
            kind: row.get::<_, &str>(0).into(),
            identity: row.get::<_, &str>(1).into(),
            names: row.get(2),
            arguments: row.get(3),
            extension: row
                .get::<_, Option<&str>>(4)
                .map(|name| (name.into(), row.get::<_, &str>(5).into())),
            definition: row.get::<_, Option<&str>>(6).map(Into::into),
            make: row.get::<_, Option<&str>>(7).map(Into::into),
            schema: row.get(8),
        })
        .collect())
}

/// The definition of the same thing on another server; `None`: there is none. Outside a transaction: a server that does not have it says so by
/// an error.
pub async fn find(
    target: &Client,
    used: &Used,
) -> Result<Option<Option<String>>, tokio_postgres::Error> {
    let query = format!(
        "SELECT {DEFINITION} FROM pg_get_object_address($1, $2, $3) AS u (classid, objid, objsubid)"
    );
    let found = target
        .query_one(&query, &[&&*used.kind, &used.names, &used.arguments])
        .await;
    match found {
        Ok(row) => Ok(Some(row.get(0))),
        Err(error) if error.code().is_some_and(is_unknown) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether nothing has this name.
fn is_unknown(code: &SqlState) -> bool {
    let unknown = [
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_TABLE,
        SqlState::INVALID_SCHEMA_NAME,
    ];
    unknown.contains(code)
}

/// Those that can be made, with their schemas: older things first, which cannot need newer ones.
pub(super) async fn parts(source: &Client, relations: &[u32]) -> Result<Vec<Part>, SchemaError> {
    let used = read(source, relations).await?;
    let made: Vec<&Used> = used
        .iter()
        .filter(|one| one.extension.is_none() && one.make.is_some())
        .collect();
    let schemas: Vec<u32> = made.iter().map(|one| one.schema).collect();
    let mut parts = super::read_parts(
        source,
        &tables::schemas_of("SELECT unnest($1::oid[])"),
        &schemas,
    )
    .await?;
    for one in made {
        let find = match &*one.kind {
            "type" => "to_regtype",
            _ => "to_regprocedure",
        };
        parts.push(Part {
            what: format!("{} {}", one.kind, one.identity).into(),
            probe: format!("SELECT {find}({}) IS NOT NULL", literal(&one.identity)),
            make: one.make.as_deref().unwrap_or_default().to_owned(),
        });
    }
    Ok(parts)
}

/// With `standard_conforming_strings`, as our connections have it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
