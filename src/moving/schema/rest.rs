//! What is built behind the copy, while the tables are written: indexes, constraints, triggers, rules, policies, statistics.
//!
//! An index is built concurrently. What a crash leaves of that is an index that is not valid: it is dropped and built again. Where nobody but the plan
//! writes the table, and it is not large, the changes wait instead: that takes half the time. A unique constraint takes its index over. A foreign key is
//! made without a look at the rows and validated then. Every other part is one statement, there or not. Indexes of a partitioned table come from those
//! of its partitions, which are built before.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::{Building, Part, Rest, SchemaError, is_there, is_unsatisfied, read_parts, run};

/// Of a table whose writer waits while an index is built.
const MOST_BYTES: i64 = 2 << 30;
/// How long it waits for somebody else.
const LOCK_WAIT: &str = "2s";

/// Who writes a table while its index is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Nobody,
    MayWait,
    MayNotWait,
}

pub(super) async fn build(
    source: &Client,
    target: &Client,
    relations: &[u32],
    building: Building<'_>,
) -> Result<Rest, SchemaError> {
    for index in read_indexes(source, relations).await? {
        let others = match building {
            Building::AtOnce => Others::Nobody,
            Building::Beside { plan_only } => {
                match plan_only.contains(&index.relation) && is_small(target, &index.table).await? {
                    true => Others::MayWait,
                    false => Others::MayNotWait,
                }
            }
        };
        build_index(target, &index, others).await?;
    }
    make_all(target, &read_parts(source, CONSTRAINTS, relations).await?).await?;
    let later = foreign_keys(source, target, relations).await?;
    for query in [STATISTICS, POLICIES, TRIGGERS, RULES, COMMENTS] {
        make_all(target, &read_parts(source, query, relations).await?).await?;
    }
    if let Some(why) = later {
        return Ok(Rest::Later(why));
    }
    for analyze in read_parts(source, ANALYZE, relations).await? {
        run(target, &analyze).await?;
    }
    Ok(Rest::Built)
}

/// Whether changes may wait until an index of the table is built: some seconds.
async fn is_small(target: &Client, table: &str) -> Result<bool, SchemaError> {
    let query = "SELECT pg_relation_size(to_regclass($1)) <= $2";
    let row = target.query_one(query, &[&table, &MOST_BYTES]).await?;
    Ok(row.get::<_, Option<bool>>(0) == Some(true))
}

/// Why a foreign key is not there and valid yet.
async fn foreign_keys(
    source: &Client,
    target: &Client,
    relations: &[u32],
) -> Result<Option<Box<str>>, SchemaError> {
    let mut later = None;
    let mut missing = BTreeSet::new();
    for query in [FOREIGN_KEYS, VALIDATIONS] {
        for part in read_parts(source, query, relations).await? {
            if missing.contains(&part.what) || is_there(target, &part).await? {
                continue;
            }
            match run(target, &part).await {
                Err(error) if is_unsatisfied(&error) => {
                    later = Some(error.to_string().into());
                    missing.insert(part.what);
                }
                done => done?,
            }
        }
    }
    Ok(later)
}

async fn make_all(target: &Client, parts: &[Part]) -> Result<(), SchemaError> {
    for part in parts {
        if !is_there(target, part).await? {
            run(target, part).await?;
        }
    }
    Ok(())
}

/// An index of a table with rows of its own, or of a partitioned one.
struct Index {
    what: Box<str>,
    /// The table on the source.
    relation: u32,
    /// `schema.name`, quoted.
    name: String,
    /// Of the table.
    table: String,
    /// Without and with the constraint that it belongs to.
    make: String,
    constraint: Option<Constraint>,
    partitioned: bool,
}

struct Constraint {
    /// Quoted.
    name: String,
    /// Takes the index over.
    using: String,
    /// Makes it where its index cannot be made before.
    whole: String,
}

/// Those of partitions first, so that those of their parents find them.
const INDEXES: &str = "SELECT format('%I.%I', xn.nspname, x.relname), format('%I.%I', n.nspname, c.relname),
      format('INDEX %s%I ON ', CASE c.relkind WHEN 'p' THEN '' ELSE 'CONCURRENTLY ' END, x.relname)
        || regexp_replace(substr(pg_get_indexdef(i.indexrelid), length(format('CREATE %sINDEX %I ON ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname)) + 1), '^ONLY ', ''),
      i.indisunique, quote_ident(k.conname),
      CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END || format(' USING INDEX %I', x.relname)
        || CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END,
      pg_get_constraintdef(k.oid), c.relkind = 'p', c.oid
    FROM unnest($1::oid[]) WITH ORDINALITY AS every (oid, place) JOIN pg_class c ON c.oid = every.oid JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace xn ON xn.oid = x.relnamespace
      LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
    WHERE i.indisvalid AND k.contype IS DISTINCT FROM 'x'
    ORDER BY every.place DESC, i.indexrelid";

async fn read_indexes(source: &Client, relations: &[u32]) -> Result<Vec<Index>, SchemaError> {
    let rows = source.query(INDEXES, &[&relations]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let (name, table): (String, String) = (row.get(0), row.get(1));
            let unique = if row.get(3) { "UNIQUE " } else { "" };
            let constraint = row
                .get::<_, Option<String>>(4)
                .map(|constraint| Constraint {
                    using: format!(
                        "ALTER TABLE {table} ADD CONSTRAINT {constraint} {}",
                        row.get::<_, &str>(5)
                    ),
                    whole: format!(
                        "ALTER TABLE {table} ADD CONSTRAINT {constraint} {}",
                        row.get::<_, &str>(6)
                    ),
                    name: constraint,
                });
            Index {
                what: format!("index {name}").into(),
                make: format!("CREATE {unique}{}", row.get::<_, &str>(2)),
                partitioned: row.get(7),
                relation: row.get(8),
                name,
                table,
                constraint,
            }
        })
        .collect())
}

async fn build_index(target: &Client, index: &Index, others: Others) -> Result<(), SchemaError> {
    let state = |query: String| async move {
        let row = target.query_opt(&query, &[]).await?;
        Ok::<Option<bool>, SchemaError>(row.map(|row| row.get(0)))
    };
    let valid = || {
        state(format!(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass({})",
            literal(&index.name)
        ))
    };
    let part = |make: String| Part {
        what: index.what.clone(),
        probe: String::new(),
        make,
    };
    if let Some(constraint) = &index.constraint {
        let there = state(format!(
            "SELECT true FROM pg_constraint WHERE conrelid = to_regclass({}) AND quote_ident(conname) = {}",
            literal(&index.table),
            literal(&constraint.name)
        ));
        if there.await?.is_some() {
            return Ok(());
        }
        if index.partitioned {
            return run(target, &part(constraint.whole.clone())).await;
        }
    }
    if index.partitioned {
        return match valid().await? {
            Some(_) => Ok(()),
            None => run(target, &part(index.make.clone())).await,
        };
    }
    if valid().await? == Some(false) {
        run(
            target,
            &part(format!("DROP INDEX CONCURRENTLY {}", index.name)),
        )
        .await?;
    }
    if valid().await?.is_none() {
        let at_once = index.make.replacen("INDEX CONCURRENTLY ", "INDEX ", 1);
        match others {
            Others::Nobody => run(target, &part(at_once)).await?,
            Others::MayNotWait => run(target, &part(index.make.clone())).await?,
            Others::MayWait => {
                let brief = format!("SET LOCAL lock_timeout = '{LOCK_WAIT}'; {at_once}");
                match run(target, &part(brief)).await {
                    // Somebody has written the table all the same, and goes on.
                    Err(SchemaError::Refused { error, .. })
                        if error.sqlstate() == Some("55P03") =>
                    {
                        run(target, &part(index.make.clone())).await?;
                    }
                    done => done?,
                }
            }
        }
    }
    match &index.constraint {
        Some(constraint) => run(target, &part(constraint.using.clone())).await,
        None => Ok(()),
    }
}

/// Exclusion constraints, which cannot be built concurrently: who writes to the table waits.
const CONSTRAINTS: &str = "SELECT format('constraint %I on %I.%I', k.conname, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L)', format('%I.%I', n.nspname, c.relname), k.conname),
      format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.conrelid = ANY ($1) AND k.contype = 'x' AND k.conparentid = 0 ORDER BY k.oid";

/// Of a partitioned table, servers before 18 want them validated at once.
const FOREIGN_KEYS: &str = "SELECT format('foreign key %I of %I.%I', k.conname, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L)', format('%I.%I', n.nspname, c.relname), k.conname),
      format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s%s', n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid),
        CASE WHEN c.relkind <> 'p' AND k.convalidated THEN ' NOT VALID' ELSE '' END)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.conrelid = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0 ORDER BY k.oid";

const VALIDATIONS: &str = "SELECT format('foreign key %I of %I.%I', k.conname, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L AND convalidated)', format('%I.%I', n.nspname, c.relname), k.conname),
      format('ALTER TABLE %I.%I VALIDATE CONSTRAINT %I', n.nspname, c.relname, k.conname)
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.conrelid = ANY ($1) AND k.contype = 'f' AND k.conparentid = 0 AND k.convalidated ORDER BY k.oid";

const STATISTICS: &str = "SELECT format('statistics %I.%I', n.nspname, s.stxname),
      format('SELECT EXISTS (SELECT FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE n.nspname = %L AND s.stxname = %L)', n.nspname, s.stxname),
      pg_get_statisticsobjdef(s.oid)
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = ANY ($1) ORDER BY s.oid";

const POLICIES: &str = "SELECT format('policy %I on %I.%I', p.polname, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass(%L) AND polname = %L)', format('%I.%I', n.nspname, c.relname), p.polname),
      concat(format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s', p.polname, n.nspname, c.relname,
          CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
          CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
          (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(p.polroles) r)),
        ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.polrelid = ANY ($1) ORDER BY p.oid";

/// Without those of plans, which belong to a shard, and those that partitions have of their parents.
const TRIGGERS: &str = "SELECT format('trigger %I on %I.%I', t.tgname, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%L) AND tgname = %L)', format('%I.%I', n.nspname, c.relname), t.tgname),
      concat_ws('; ', pg_get_triggerdef(t.oid), CASE t.tgenabled WHEN 'O' THEN NULL ELSE
        format('ALTER TABLE %I.%I %s TRIGGER %I', n.nspname, c.relname,
          CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, t.tgname) END)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_proc f ON f.oid = t.tgfoid
    WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgparentid = 0 AND f.pronamespace IS DISTINCT FROM to_regnamespace('trunkline') ORDER BY t.oid";

const RULES: &str = "SELECT format('rule %I on %I.%I', r.rulename, n.nspname, c.relname),
      format('SELECT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = to_regclass(%L) AND rulename = %L)', format('%I.%I', n.nspname, c.relname), r.rulename),
      concat_ws('; ', rtrim(pg_get_ruledef(r.oid), ';'), CASE r.ev_enabled WHEN 'O' THEN NULL ELSE
        format('ALTER TABLE %I.%I %s RULE %I', n.nspname, c.relname,
          CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, r.rulename) END)
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.ev_class = ANY ($1) ORDER BY r.oid";

/// On indexes, constraints and triggers; none is put over another.
const COMMENTS: &str = "SELECT 'comment on ' || o.label,
      format('SELECT %s', o.probe), format('COMMENT ON %s IS %L', o.label, d.description)
    FROM pg_description d JOIN (
      SELECT 'pg_class'::regclass::oid AS classid, x.oid, format('INDEX %I.%I', n.nspname, x.relname) AS label,
          format('COALESCE(obj_description(to_regclass(%L), ''pg_class'') IS NOT NULL, true)', format('%I.%I', n.nspname, x.relname)) AS probe
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_namespace n ON n.oid = x.relnamespace WHERE i.indrelid = ANY ($1)
      UNION ALL
      SELECT 'pg_constraint'::regclass, k.oid, format('CONSTRAINT %I ON %I.%I', k.conname, n.nspname, c.relname),
          format('EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L AND obj_description(oid, ''pg_constraint'') IS NOT NULL)',
            format('%I.%I', n.nspname, c.relname), k.conname)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE k.conrelid = ANY ($1)
      UNION ALL
      SELECT 'pg_trigger'::regclass, t.oid, format('TRIGGER %I ON %I.%I', t.tgname, n.nspname, c.relname),
          format('EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%L) AND tgname = %L AND obj_description(oid, ''pg_trigger'') IS NOT NULL)',
            format('%I.%I', n.nspname, c.relname), t.tgname)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgparentid = 0
    ) AS o ON d.classoid = o.classid AND d.objoid = o.oid AND d.objsubid = 0 ORDER BY o.label";

/// So that statements are planned well as soon as they come.
const ANALYZE: &str = "SELECT format('statistics of %I.%I', n.nspname, c.relname), 'SELECT false', format('ANALYZE %I.%I', n.nspname, c.relname)
    FROM unnest($1::oid[]) WITH ORDINALITY AS every (oid, place) JOIN pg_class c ON c.oid = every.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT c.relispartition ORDER BY every.place";

/// With `standard_conforming_strings`, as our connections have it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
