//! Schemas, sequences and tables as parts.
//!
//! A table is made with its columns, defaults, CHECK constraints, the indexes that rows are found by (primary key, replica identity, and
//! what takes their place), owner, privileges, comments and row security: whoever was not let in there is not let in here at any time. Partitions are made as tables of their own and then
//! attached, so that their columns and indexes have the names they have.

use tokio_postgres::Client;

use super::{Part, SchemaError, read_parts};

/// The schemas of the tables and of their sequences; those of types and functions come with them.
pub(super) async fn schemas(source: &Client, relations: &[u32]) -> Result<Vec<Part>, SchemaError> {
    read_parts(
        source,
        &schemas_of("SELECT relnamespace FROM pg_class WHERE oid = ANY ($1)"),
        relations,
    )
    .await
}

/// The query of the parts of some schemas, by their OIDs.
pub(super) fn schemas_of(oids: &str) -> String {
    let acl = grants("SCHEMA", "quote_ident(n.nspname)", "n.nspacl", "n.nspowner");
    format!(
        "SELECT format('schema %I', n.nspname),
           format('SELECT to_regnamespace(%L) IS NOT NULL', quote_ident(n.nspname)),
           concat_ws('; ', format('CREATE SCHEMA %I', n.nspname),
             format('ALTER SCHEMA %I OWNER TO %I', n.nspname, pg_get_userbyid(n.nspowner)), {acl})
         FROM pg_namespace n WHERE n.oid IN ({oids}) AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema' ORDER BY n.oid"
    )
}

/// Statements for the privileges of an object, behind the one that sets its owner; NULL when they were never changed. Arguments are SQL expressions.
pub(super) fn grants(kind: &str, name: &str, acl: &str, owner: &str) -> String {
    format!(
        "(SELECT concat_ws('; ', format('REVOKE ALL ON {kind} %s FROM PUBLIC, %I', {name}, pg_get_userbyid({owner})),
             string_agg(format('GRANT %s ON {kind} %s TO %s%s', x.privilege_type, {name},
               CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
               CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; '))
           FROM aclexplode({acl}) x HAVING {acl} IS NOT NULL)"
    )
}

/// What numbers columns: owned by them, or used by their defaults. Identity columns bring their own.
pub(super) async fn sequences(
    source: &Client,
    relations: &[u32],
) -> Result<Vec<Part>, SchemaError> {
    let oids = "SELECT s.oid FROM pg_class s WHERE s.relkind = 'S' AND (
          EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1))
          OR EXISTS (SELECT FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid WHERE d.classid = 'pg_attrdef'::regclass
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid AND f.adrelid = ANY ($1)))";
    let of = schemas_of(&format!(
        "SELECT relnamespace FROM pg_class WHERE oid IN ({oids})"
    ));
    let mut parts = read_parts(source, &of, relations).await?;
    let name = "format('%I.%I', n.nspname, c.relname)";
    // Owner and privileges come with the table's.
    let owned = "EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'a'
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1))";
    let acl = grants("SEQUENCE", name, "c.relacl", "c.relowner");
    let query = format!(
        "SELECT 'sequence ' || {name}, format('SELECT to_regclass(%L) IS NOT NULL', {name}),
           concat_ws('; ', format('CREATE SEQUENCE %s AS %s {OPTIONS}', {name}, format_type(q.seqtypid, NULL), {VALUES}),
             {LAST}, CASE WHEN NOT {owned} THEN
               concat_ws('; ', format('ALTER SEQUENCE %s OWNER TO %I', {name}, pg_get_userbyid(c.relowner)), {acl}) END)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence q ON q.seqrelid = c.oid
         WHERE c.oid IN ({oids}) ORDER BY c.oid"
    );
    parts.extend(read_parts(source, &query, relations).await?);
    Ok(parts)
}

/// Of a sequence `q`, for format().
const OPTIONS: &str = "INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s";
const VALUES: &str = "q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END";
/// Numbers go on behind those that were given where the rows come from. Of a sequence `c` in schema `n`.
const LAST: &str = "(SELECT format('SELECT setval(%L, %s)', format('%I.%I', n.nspname, c.relname), pg_sequence_last_value(c.oid))
    WHERE pg_sequence_last_value(c.oid) IS NOT NULL)";

/// Each behind its parent.
pub(super) async fn tables(source: &Client, relations: &[u32]) -> Result<Vec<Part>, SchemaError> {
    let name = "format('%I.%I', n.nspname, c.relname)";
    let identity = format!(
        "(SELECT format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %I.%I {OPTIONS})',
             CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, sn.nspname, s.relname, {VALUES})
           FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
           JOIN pg_sequence q ON q.seqrelid = s.oid
           WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'i' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
             AND d.refobjsubid = a.attnum AND a.attidentity <> '' AND NOT (c.relispartition AND current_setting('server_version_num')::int >= 170000))"
    );
    let columns = format!(
        "SELECT string_agg(concat(quote_ident(a.attname), ' ', format_type(a.atttypid, a.atttypmod),
             CASE a.attcompression WHEN 'p' THEN ' COMPRESSION pglz' WHEN 'l' THEN ' COMPRESSION lz4' END,
             (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname) FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace
               WHERE l.oid = a.attcollation AND a.attcollation <> t.typcollation),
             CASE a.attgenerated WHEN '' THEN ' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid)
               ELSE format(' GENERATED ALWAYS AS (%s) %s', pg_get_expr(f.adbin, f.adrelid), CASE a.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END) END,
             {identity}, CASE WHEN a.attnotnull THEN ' NOT NULL' END), ', ' ORDER BY a.attnum) AS list
           FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let checks = "SELECT string_agg(format(', CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname) AS list
           FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'";
    let create = format!(
        "format('CREATE TABLE %s (%s%s)%s%s%s', {name}, columns.list, checks.list,
           CASE c.relkind WHEN 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) END,
           (SELECT format(' USING %I', m.amname) FROM pg_am m WHERE m.oid = c.relam AND m.amname <> 'heap'), options.list)"
    );
    let options = "SELECT format(' WITH (%s)', string_agg(format('%s = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ')) AS list
           FROM (SELECT unnest(c.reloptions) UNION ALL
             SELECT 'toast.' || unnest(x.reloptions) FROM pg_class x WHERE x.oid = c.reltoastrelid) AS every (o)
           HAVING count(*) > 0";
    let keys = format!(
        "SELECT string_agg(CASE WHEN k.oid IS NULL THEN pg_get_indexdef(i.indexrelid)
             ELSE format('ALTER TABLE ONLY %s ADD CONSTRAINT %I %s', {name}, k.conname, pg_get_constraintdef(k.oid)) END, '; ' ORDER BY i.indexrelid) AS list
           FROM key_index JOIN pg_index i ON i.indexrelid = key_index.oid
           LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u') WHERE i.indrelid = c.oid"
    );
    let settings = format!(
        "SELECT string_agg(setting, '; ') AS list FROM (
           SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I SET STORAGE %s', {name}, a.attname,
               CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'x' THEN 'EXTENDED' ELSE 'MAIN' END)
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> t.typstorage
           UNION ALL
           SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I SET STATISTICS %s', {name}, a.attname, a.attstattarget)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget >= 0
           UNION ALL
           SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I SET (%s)', {name}, a.attname, array_to_string(a.attoptions, ', '))
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attoptions IS NOT NULL
           UNION ALL
           SELECT format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', {name}, CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE
               'USING INDEX ' || (SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident) END)
             WHERE c.relreplident <> 'd'
           UNION ALL
           SELECT format('ALTER TABLE ONLY %s %s ROW LEVEL SECURITY', {name}, x.word)
             FROM (VALUES ('ENABLE', c.relrowsecurity), ('FORCE', c.relforcerowsecurity)) AS x (word, wanted) WHERE x.wanted
         ) AS every (setting)"
    );
    let sequences = format!(
        "SELECT string_agg(CASE d.deptype WHEN 'a' THEN format('ALTER SEQUENCE %I.%I OWNED BY %s.%I', sn.nspname, s.relname, {name}, a.attname)
             ELSE format('SELECT setval(%L, %s)', format('%I.%I', sn.nspname, s.relname), pg_sequence_last_value(s.oid)) END, '; ') AS list
           FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
           JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
           WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
             AND (d.deptype = 'a' OR d.deptype = 'i' AND pg_sequence_last_value(s.oid) IS NOT NULL AND NOT (c.relispartition AND current_setting('server_version_num')::int >= 170000))"
    );
    let comments = format!(
        "SELECT string_agg(CASE d.objsubid WHEN 0 THEN format('COMMENT ON TABLE %s IS %L', {name}, d.description)
             ELSE format('COMMENT ON COLUMN %s.%I IS %L', {name}, a.attname, d.description) END, '; ') AS list
           FROM pg_description d LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND a.attnum > 0
           WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid"
    );
    let column_grants = format!(
        "SELECT string_agg(format('GRANT %s (%I) ON TABLE %s TO %s%s', x.privilege_type, a.attname, {name},
             CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
             CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), '; ') AS list
           FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    );
    let attach = format!(
        "(SELECT format('ALTER TABLE ONLY %I.%I ATTACH PARTITION %s %s', pn.nspname, p.relname, {name}, pg_get_expr(c.relpartbound, c.oid))
           FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
           WHERE i.inhrelid = c.oid AND c.relispartition)"
    );
    let of_sequence = grants(
        "SEQUENCE",
        "format('%I.%I', sn.nspname, s.relname)",
        "s.relacl",
        "s.relowner",
    );
    let sequence_grants = format!(
        "SELECT string_agg({of_sequence}, '; ') AS list
           FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
           WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')"
    );
    let acl = grants("TABLE", name, "c.relacl", "c.relowner");
    let query = format!(
        "WITH RECURSIVE {KEY_INDEXES}
         SELECT 'table ' || {name}, format('SELECT to_regclass(%L) IS NOT NULL', {name}),
           concat_ws('; ', {create}, keys.list, settings.list, sequences.list, {attach}, comments.list,
             format('ALTER TABLE %s OWNER TO %I', {name}, pg_get_userbyid(c.relowner)), {acl}, column_grants.list, sequence_grants.list)
         FROM unnest($1::oid[]) WITH ORDINALITY AS every (oid, place) JOIN pg_class c ON c.oid = every.oid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN LATERAL ({columns}) columns ON true LEFT JOIN LATERAL ({checks}) checks ON true
           LEFT JOIN LATERAL ({options}) options ON true LEFT JOIN LATERAL ({keys}) keys ON true
           LEFT JOIN LATERAL ({settings}) settings ON true LEFT JOIN LATERAL ({sequences}) sequences ON true
           LEFT JOIN LATERAL ({comments}) comments ON true LEFT JOIN LATERAL ({column_grants}) column_grants ON true
           LEFT JOIN LATERAL ({sequence_grants}) sequence_grants ON true
         ORDER BY every.place"
    );
    read_parts(source, &query, relations).await
}

/// `key_index`: the indexes that rows are found by while they are copied, as [`crate::moving::table`] chooses them, with those of the partitions
/// that are parts of them.
const KEY_INDEXES: &str = "key_index (oid) AS (
      SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($1) AND (indisprimary OR indisreplident)
      UNION
      SELECT chosen.indexrelid FROM unnest($1::oid[]) AS r (oid), LATERAL (SELECT i.indexrelid FROM pg_index i
        WHERE i.indrelid = r.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
          AND (SELECT bool_and(k.attnotnull) FROM pg_attribute k WHERE k.attrelid = r.oid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
        ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid LIMIT 1) AS chosen
      UNION
      SELECT part.inhrelid FROM key_index JOIN pg_inherits part ON part.inhparent = key_index.oid)";
