//! What stands against a plan in the tables of one shard.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Error};

use super::problem::Problem;
use super::server::Server;
use crate::moving::scope::{MovedTable, Scope};
use crate::moving::table::{self, Identity, Shape, TableKind};
use crate::resharding::condition::quoted_name;
use crate::resharding::job::{MovingKeys, ShardName};

/// The tables of the plan as one shard has them.
pub(super) struct Tables<'a> {
    pub server: &'a Server,
    pub shard: &'a ShardName,
    /// With their shapes, those that are there.
    pub there: Vec<(&'a MovedTable, Shape)>,
    /// With all partitions.
    pub relations: Vec<u32>,
}

impl<'a> Tables<'a> {
    /// Those of the tables that have moving keys on the shard; with what is missing or cannot be moved at all.
    pub async fn read(
        client: &Client,
        server: &'a Server,
        shard: &'a ShardName,
        scope: &'a Scope,
    ) -> Result<(Tables<'a>, Vec<Problem>), Error> {
        let mut problems = Vec::new();
        let mut there = Vec::new();
        for wanted in concerned(scope, shard) {
            match table::read(client, &wanted.schema, &wanted.name).await? {
                Some(shape) => there.push((wanted, shape)),
                None if leaves(scope, wanted, shard) => problems.push(Problem::NoTable {
                    shard: server.shard.clone(),
                    table: wanted.quoted().into(),
                }),
                // It is made.
                None => {}
            }
        }
        let roots: Vec<u32> = there.iter().map(|(_, shape)| shape.oid).collect();
        let row = client.query_one(RELATIONS, &[&roots]).await?;
        let relations = row.get::<_, Option<Vec<u32>>>(0).unwrap_or_default();
        let tables = Tables {
            server,
            shard,
            there,
            relations,
        };
        Ok((tables, problems))
    }

    /// Everything in the tables themselves.
    pub async fn problems(
        &self,
        client: &Client,
        references: &BTreeSet<String>,
    ) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        for (moved, shape) in &self.there {
            problems.extend(self.kind(client, moved, shape).await?);
            problems.extend(self.row_key(client, moved, shape).await?);
            problems.extend(self.identities(client, moved, shape).await?);
        }
        problems.extend(self.rights(client).await?);
        problems.extend(self.always(client).await?);
        problems.extend(self.foreign_keys(client, references).await?);
        Ok(problems)
    }

    async fn kind(
        &self,
        client: &Client,
        moved: &MovedTable,
        shape: &Shape,
    ) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        let (kind, way) = match shape.kind {
            TableKind::Ordinary | TableKind::Partitioned => ("", String::new()),
            TableKind::Unlogged => (
                "unlogged",
                format!("ALTER TABLE {} SET LOGGED", moved.quoted()),
            ),
            TableKind::Other => (
                "no table with rows of its own",
                "take it out of the configuration, or make a table of it".to_owned(),
            ),
        };
        if !kind.is_empty() {
            let (shard, table) = self.place(moved);
            let way = way.into();
            problems.push(Problem::Kind {
                shard,
                table,
                kind,
                way,
            });
        }
        for row in client.query(ODD_PARTS, &[&shape.oid]).await? {
            let (shard, table) = self.place(moved);
            let name: &str = row.get(0);
            problems.push(match row.get::<_, &str>(1) {
                "inherits" => Problem::Inherits {
                    shard,
                    table,
                    other: name.into(),
                },
                "foreign" => Problem::Kind {
                    shard,
                    table: name.into(),
                    kind: "a foreign table",
                    way: format!("ALTER TABLE {table} DETACH PARTITION {name}").into(),
                },
                _ => Problem::Kind {
                    shard,
                    table: name.into(),
                    kind: "unlogged",
                    way: format!("ALTER TABLE {name} SET LOGGED").into(),
                },
            });
        }
        for column in moved
            .key
            .iter()
            .filter(|column| shape.place(column).is_none())
        {
            let (shard, table) = self.place(moved);
            let column = quoted_name(column).into();
            problems.push(Problem::NoShardKey {
                shard,
                table,
                column,
            });
        }
        Ok(problems)
    }

    /// What rows are told apart and ordered by.
    async fn row_key(
        &self,
        client: &Client,
        moved: &MovedTable,
        shape: &Shape,
    ) -> Result<Vec<Problem>, Error> {
        let (shard, table) = self.place(moved);
        if shape.key.is_empty() {
            return Ok(match shape.kind {
                TableKind::Other => Vec::new(),
                _ => vec![Problem::NoKey { shard, table }],
            });
        }
        let names = key_names(shape);
        let rows = client.query(LOOSE_COLUMNS, &[&shape.oid, &names]).await?;
        Ok(rows
            .iter()
            .map(|row| Problem::KeyCollation {
                shard: shard.clone(),
                table: table.clone(),
                column: quoted_name(row.get(0)).into(),
                collation: row.get::<_, &str>(1).into(),
            })
            .collect())
    }

    /// The log must say by the old row which row it was and whether it moves; of a partitioned table each partition has its own identity.
    async fn identities(
        &self,
        client: &Client,
        moved: &MovedTable,
        shape: &Shape,
    ) -> Result<Vec<Problem>, Error> {
        if shape.kind == TableKind::Other {
            return Ok(Vec::new());
        }
        let mut needed: Vec<&str> = key_names(shape);
        let shard_key = moved.key.iter().map(|column| &**column);
        for column in shard_key.filter(|column| shape.place(column).is_some()) {
            if !needed.contains(&column) {
                needed.push(column);
            }
        }
        let mut problems = Vec::new();
        problems.extend(self.identity(&moved.quoted(), shape, &needed));
        if shape.kind == TableKind::Partitioned {
            for row in client.query(PARTITIONS, &[&shape.oid]).await? {
                let (schema, name): (&str, &str) = (row.get(0), row.get(1));
                if let Some(part) = table::read(client, schema, name).await? {
                    let quoted = format!("{}.{}", quoted_name(schema), quoted_name(name));
                    problems.extend(self.identity(&quoted, &part, &needed));
                }
            }
        }
        Ok(problems)
    }

    fn identity(&self, table: &str, shape: &Shape, needed: &[&str]) -> Option<Problem> {
        let known: Vec<&str> = match &shape.identity {
            Identity::Full => return None,
            Identity::Nothing => Vec::new(),
            Identity::Columns(places) => places
                .iter()
                .map(|place| &*shape.columns[*place].name)
                .collect(),
        };
        let missing: Vec<&str> = needed
            .iter()
            .filter(|one| !known.contains(one))
            .copied()
            .collect();
        if missing.is_empty() && !known.is_empty() {
            return None;
        }
        let missing: Vec<String> = missing.into_iter().map(quoted_name).collect();
        Some(Problem::ReplicaIdentity {
            shard: self.server.shard.clone(),
            table: table.into(),
            missing: match missing.is_empty() {
                true => "the key".into(),
                false => missing.join(", ").into(),
            },
            way: format!(
                "ALTER TABLE {table} REPLICA IDENTITY FULL, or a primary key that has these columns and REPLICA IDENTITY DEFAULT"
            )
            .into(),
        })
    }

    /// Tables that are not ours, or whose rows we would not see.
    async fn rights(&self, client: &Client) -> Result<Vec<Problem>, Error> {
        let rows = client.query(RIGHTS, &[&self.relations]).await?;
        let mut problems = Vec::new();
        for row in rows {
            let table: Box<str> = row.get::<_, &str>(0).into();
            let (shard, role) = (self.server.shard.clone(), self.server.role.clone());
            if !row.get::<_, bool>(2) {
                let owner = row.get::<_, &str>(1).into();
                let (shard, role, table) = (shard.clone(), role.clone(), table.clone());
                problems.push(Problem::NotOwner {
                    shard,
                    role,
                    table,
                    owner,
                });
            }
            if row.get::<_, bool>(3) && !self.server.bypasses_row_security {
                problems.push(Problem::RowSecurity { shard, role, table });
            }
        }
        Ok(problems)
    }

    async fn always(&self, client: &Client) -> Result<Vec<Problem>, Error> {
        let rows = client.query(ALWAYS, &[&self.relations]).await?;
        Ok(rows
            .iter()
            .map(|row| Problem::FiresAlways {
                shard: self.server.shard.clone(),
                table: row.get::<_, &str>(0).into(),
                what: row.get::<_, &str>(1).into(),
            })
            .collect())
    }

    /// Those to reference tables are looked at where the copies must be.
    async fn foreign_keys(
        &self,
        client: &Client,
        references: &BTreeSet<String>,
    ) -> Result<Vec<Problem>, Error> {
        let moved: BTreeMap<u32, &MovedTable> = self
            .there
            .iter()
            .map(|(moved, shape)| (shape.oid, *moved))
            .collect();
        let mut problems = Vec::new();
        for row in client.query(FOREIGN_KEYS, &[&self.relations]).await? {
            let (shard, name) = (self.server.shard.clone(), quoted_name(row.get(0)).into());
            let (table, other): (Box<str>, Box<str>) =
                (row.get::<_, &str>(1).into(), row.get::<_, &str>(2).into());
            let (from, to): (u32, u32) = (row.get(3), row.get(4));
            let (columns, referred): (Vec<String>, Vec<String>) = (row.get(5), row.get(6));
            match (moved.get(&from), moved.get(&to)) {
                (Some(child), Some(parent)) if child.distribution == parent.distribution => {
                    let pairs = || columns.iter().zip(&referred);
                    let along = child.key.iter().zip(&parent.key).all(|(own, theirs)| {
                        pairs().any(|(from, to)| **own == **from && **theirs == **to)
                    });
                    if !along {
                        problems.push(Problem::ForeignKeyColumns {
                            shard,
                            table,
                            name,
                            other,
                        });
                    }
                }
                (Some(_), None) if references.contains(&*other) => {}
                _ => problems.push(Problem::ForeignKey {
                    shard,
                    table,
                    name,
                    other,
                }),
            }
        }
        Ok(problems)
    }

    /// Rows with keys that arrive here, and nobody has copied yet.
    pub async fn rows(&self, client: &Client, scope: &Scope) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        for (moved, shape) in &self.there {
            if moved.key.iter().any(|column| shape.place(column).is_none()) {
                continue;
            }
            let columns: Vec<String> = moved.key.iter().map(|column| quoted_name(column)).collect();
            let Some(condition) =
                scope.condition_at(moved, self.shard, MovingKeys::Arriving, &columns)
            else {
                continue;
            };
            let query = format!(
                "SELECT EXISTS (SELECT FROM {} WHERE {condition})",
                moved.quoted()
            );
            if client.query_one(&query, &[]).await?.get(0) {
                let (shard, table) = self.place(moved);
                problems.push(Problem::RowsThere { shard, table });
            }
        }
        Ok(problems)
    }

    /// Copies of reference tables that are missing.
    pub async fn references(
        &self,
        client: &Client,
        references: &BTreeSet<String>,
    ) -> Result<Vec<Problem>, Error> {
        let names: Vec<&String> = references.iter().collect();
        let sql = "SELECT name FROM unnest($1::text[]) AS name WHERE name NOT IN (
            SELECT format('\"%s\".\"%s\"', replace(n.nspname, '\"', '\"\"'), replace(c.relname, '\"', '\"\"'))
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace) ORDER BY 1";
        let rows = client.query(sql, &[&names]).await?;
        Ok(rows
            .iter()
            .map(|row| Problem::NoReference {
                shard: self.server.shard.clone(),
                table: row.get::<_, &str>(0).into(),
            })
            .collect())
    }

    /// Columns that take their numbers from a sequence.
    pub async fn sequences(&self, client: &Client) -> Result<Vec<Problem>, Error> {
        let roots: Vec<u32> = self.there.iter().map(|(_, shape)| shape.oid).collect();
        let rows = client.query(NUMBERED, &[&roots]).await?;
        Ok(rows
            .iter()
            .map(|row| Problem::Sequence {
                table: row.get::<_, &str>(0).into(),
                column: row.get::<_, &str>(1).into(),
            })
            .collect())
    }

    pub fn find(&self, moved: &MovedTable) -> Option<&Shape> {
        self.there
            .iter()
            .find(|(one, _)| *one == moved)
            .map(|(_, shape)| shape)
    }

    fn place(&self, moved: &MovedTable) -> (Box<str>, Box<str>) {
        (self.server.shard.clone(), moved.quoted().into())
    }
}

/// The names of the columns that rows are told apart by.
pub(super) fn key_names(shape: &Shape) -> Vec<&str> {
    shape
        .key
        .iter()
        .map(|place| &*shape.columns[*place].name)
        .collect()
}

/// The tables with keys that leave or arrive at the shard.
fn concerned<'a>(scope: &'a Scope, shard: &ShardName) -> impl Iterator<Item = &'a MovedTable> {
    let routes: Vec<_> = scope
        .routes()
        .into_iter()
        .filter(|route| route.from == *shard || route.to == *shard)
        .collect();
    scope
        .tables
        .iter()
        .filter(move |table| routes.iter().any(|route| scope.moves_by(table, route)))
}

fn leaves(scope: &Scope, table: &MovedTable, shard: &ShardName) -> bool {
    scope
        .routes()
        .iter()
        .any(|route| route.from == *shard && scope.moves_by(table, route))
}

const RELATIONS: &str = "WITH RECURSIVE tree AS (
      SELECT unnest($1::oid[]) AS oid
      UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition)
    SELECT array_agg(oid) FROM tree";

/// Of a table and its partitions: inheritance that is none of partitions, and partitions that are not in the log.
const ODD_PARTS: &str = "WITH RECURSIVE tree AS (
      SELECT $1::oid AS oid
      UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition)
    SELECT i.inhrelid::regclass::text, 'inherits' FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
        JOIN pg_class p ON p.oid = i.inhrelid AND NOT p.relispartition
    UNION ALL SELECT i.inhparent::regclass::text, 'inherits' FROM tree JOIN pg_inherits i ON i.inhrelid = tree.oid
        JOIN pg_class p ON p.oid = i.inhrelid AND NOT p.relispartition
    UNION ALL SELECT p.oid::regclass::text, 'inherits' FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
        JOIN pg_class own ON own.oid = $1 AND own.relispartition WHERE i.inhrelid = $1
    UNION ALL SELECT c.oid::regclass::text, CASE WHEN c.relkind = 'f' THEN 'foreign' ELSE 'unlogged' END FROM tree JOIN pg_class c ON c.oid = tree.oid
        WHERE c.oid <> $1 AND (c.relkind = 'f' OR c.relpersistence = 'u')
    ORDER BY 2, 1";

const LOOSE_COLUMNS: &str = "SELECT a.attname::text, l.collname::text FROM pg_attribute a JOIN pg_collation l ON l.oid = a.attcollation
    WHERE a.attrelid = $1 AND a.attname = ANY ($2::text[]) AND NOT l.collisdeterministic ORDER BY a.attnum";

const PARTITIONS: &str = "WITH RECURSIVE tree AS (
      SELECT i.inhrelid AS oid FROM pg_inherits i WHERE i.inhparent = $1
      UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT n.nspname::text, c.relname::text FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relispartition ORDER BY 1, 2";

const RIGHTS: &str = "SELECT c.oid::regclass::text, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), c.relforcerowsecurity AND c.relrowsecurity
    FROM pg_class c WHERE c.oid = ANY ($1) ORDER BY 1";

const ALWAYS: &str = "SELECT t.tgrelid::regclass::text, 'TRIGGER ' || quote_ident(t.tgname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
      WHERE t.tgrelid = ANY ($1) AND t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND p.pronamespace IS DISTINCT FROM to_regnamespace('trunkline')
    UNION ALL SELECT r.ev_class::regclass::text, 'RULE ' || quote_ident(r.rulename) FROM pg_rewrite r
      WHERE r.ev_class = ANY ($1) AND r.ev_enabled IN ('A', 'R') ORDER BY 1, 2";

/// From and to these relations, each as that of its root; what partitions have of their parents is left out.
const FOREIGN_KEYS: &str = "SELECT k.conname::text, format('\"%s\".\"%s\"', replace(cn.nspname, '\"', '\"\"'), replace(c.relname, '\"', '\"\"')),
      format('\"%s\".\"%s\"', replace(pn.nspname, '\"', '\"\"'), replace(p.relname, '\"', '\"\"')), c.oid, p.oid,
      ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS n (number, place) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.number ORDER BY n.place),
      ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS n (number, place) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.number ORDER BY n.place)
    FROM pg_constraint k
      JOIN pg_class c ON c.oid = COALESCE(pg_partition_root(k.conrelid), k.conrelid) JOIN pg_namespace cn ON cn.oid = c.relnamespace
      JOIN pg_class p ON p.oid = COALESCE(pg_partition_root(k.confrelid), k.confrelid) JOIN pg_namespace pn ON pn.oid = p.relnamespace
    WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = ANY ($1) OR k.confrelid = ANY ($1)) ORDER BY 2, 1";

const NUMBERED: &str = "SELECT a.attrelid::regclass::text, quote_ident(a.attname) FROM pg_attribute a
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND (a.attidentity <> '' OR EXISTS (
      SELECT FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
        JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum)) ORDER BY 1, a.attnum";
