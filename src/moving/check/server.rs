//! What stands against a plan on a server: its settings, the rights of our role, and what is there from before.

use tokio_postgres::Client;

use super::problem::Problem;
use crate::moving::scope::Scope;

/// The first version that we know how to ask.
const FIRST_VERSION: i32 = 140_000;
/// A slot that keeps less than this is noted.
const LITTLE_MEGABYTES: i64 = 1024;
/// What runs longer than this holds up the making of a slot.
const LONG_MINUTES: i64 = 5;

/// A server as all that follows needs it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub shard: Box<str>,
    pub version: i32,
    pub system: i64,
    pub encoding: Box<str>,
    pub role: Box<str>,
    /// Nothing is refused to it.
    pub superuser: bool,
    pub bypasses_row_security: bool,
    /// Our role may make the schema `trunkline`, and what a plan needs in it.
    pub may_make_schema: bool,
    slots: Places,
    senders: Places,
}

/// How many there can be and are.
#[derive(Clone, Copy, Debug)]
struct Places {
    most: i64,
    used: i64,
}

impl Server {
    /// Whether the rest can be asked at all.
    pub fn is_known(&self) -> bool {
        self.version >= FIRST_VERSION
    }
}

const SERVER: &str = "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
      (SELECT system_identifier FROM pg_control_system()), current_setting('server_encoding'), current_user::text, r.rolsuper, r.rolreplication,
      r.rolsuper OR r.rolbypassrls, current_setting('wal_level'), current_setting('max_replication_slots')::int8,
      (SELECT count(*) FROM pg_replication_slots), current_setting('max_wal_senders')::int8, (SELECT count(*) FROM pg_stat_get_wal_senders()),
      (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), current_database()::text,
      has_database_privilege(current_database(), 'CREATE'),
      to_regnamespace('trunkline') IS NULL OR has_schema_privilege(to_regnamespace('trunkline')::oid, 'CREATE')
    FROM pg_roles r WHERE r.rolname = current_user";

/// The server, and what stands against the plan in its settings and our rights.
pub(super) async fn ask(
    client: &Client,
    shard: &str,
) -> Result<(Server, Vec<Problem>), tokio_postgres::Error> {
    let row = client.query_one(SERVER, &[]).await?;
    let name = || Box::<str>::from(shard);
    let text = |place: usize| -> Box<str> { row.get::<_, &str>(place).into() };
    let places = |place: usize| Places {
        most: row.get(place),
        used: row.get(place + 1),
    };
    let server = Server {
        shard: name(),
        version: row.get(0),
        system: row.get(2),
        encoding: text(3),
        role: text(4),
        superuser: row.get(5),
        bypasses_row_security: row.get(7),
        may_make_schema: row.get::<_, bool>(15) && row.get::<_, bool>(16),
        slots: places(9),
        senders: places(11),
    };
    let mut problems = Vec::new();
    if !server.is_known() {
        let (shard, version) = (name(), text(1));
        return Ok((server, vec![Problem::Version { shard, version }]));
    }
    let (shard, role) = (name(), text(4));
    if row.get::<_, &str>(8) != "logical" {
        let (shard, level) = (name(), text(8));
        problems.push(Problem::WalLevel { shard, level });
    }
    let megabytes: i64 = row.get(13);
    if (0..LITTLE_MEGABYTES).contains(&megabytes) {
        let shard = name();
        problems.push(Problem::SlotLimit { shard, megabytes });
    }
    if !server.superuser && !row.get::<_, bool>(6) {
        let (shard, role) = (name(), role.clone());
        problems.push(Problem::NoReplication { shard, role });
    }
    if !row.get::<_, bool>(15) {
        problems.push(Problem::NoCreate {
            shard: name(),
            role: role.clone(),
            database: text(14),
        });
    }
    if !row.get::<_, bool>(16) {
        problems.push(Problem::NoSchemaCreate {
            shard: name(),
            role: role.clone(),
            schema: "trunkline".into(),
        });
    }
    if !may_act_as_replica(client, &server).await? {
        problems.push(Problem::NoReplicaRole { shard, role });
    }
    Ok((server, problems))
}

async fn may_act_as_replica(
    client: &Client,
    server: &Server,
) -> Result<bool, tokio_postgres::Error> {
    if server.superuser || server.version < 150_000 {
        return Ok(server.superuser);
    }
    let sql = "SELECT has_parameter_privilege('session_replication_role', 'SET')";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// One slot and one sender for each shard, for the way there or the way back. Several shards may be databases of one server.
pub(super) fn places(servers: &[&Server]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (place, server) in servers.iter().enumerate() {
        let same = |other: &&&Server| other.system == server.system;
        if servers[..place].iter().any(|other| same(&other)) {
            continue;
        }
        let needed = i64::try_from(servers.iter().filter(same).count()).unwrap_or(i64::MAX);
        let lacks = |places: Places| places.most - places.used < needed;
        let shard = server.shard.clone();
        if lacks(server.slots) {
            let Places { most, used } = server.slots;
            let shard = shard.clone();
            problems.push(Problem::Slots {
                shard,
                most,
                used,
                needed,
            });
        }
        if lacks(server.senders) {
            let Places { most, used } = server.senders;
            problems.push(Problem::Senders {
                shard,
                most,
                used,
                needed,
            });
        }
    }
    problems
}

/// What is there from before: transactions, and objects of this and other plans.
pub(super) async fn leftovers(
    client: &Client,
    shard: &str,
    scope: &Scope,
    relations: &[u32],
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    let name = || Box::<str>::from(shard);
    let prepared =
        "SELECT gid, (extract(epoch FROM now() - prepared) / 60)::int8 FROM pg_prepared_xacts
        WHERE prepared < now() - $1 * interval '1 minute' ORDER BY prepared";
    let long = "SELECT pid, (extract(epoch FROM now() - xact_start) / 60)::int8 FROM pg_stat_activity
        WHERE xact_start < now() - $1 * interval '1 minute' AND backend_xid IS NOT NULL ORDER BY xact_start";
    #[expect(clippy::cast_precision_loss, reason = "a few minutes")]
    let minutes = LONG_MINUTES as f64;
    for row in client.query(prepared, &[&minutes]).await? {
        problems.push(Problem::OldPrepared {
            shard: name(),
            gid: row.get::<_, &str>(0).into(),
            minutes: row.get(1),
        });
    }
    for row in client.query(long, &[&minutes]).await? {
        problems.push(Problem::LongTransaction {
            shard: name(),
            pid: row.get(0),
            minutes: row.get(1),
        });
    }
    let publication = format!("trunkline_reshard_{}", scope.number);
    let slots = format!("trunkline_{}_", scope.number);
    let found = client
        .query(
            "SELECT pubname::text, true FROM pg_publication WHERE pubname = $1
             UNION ALL SELECT slot_name::text, false FROM pg_replication_slots WHERE starts_with(slot_name::text, $2) AND database = current_database()",
            &[&publication, &slots],
        )
        .await?;
    for row in found {
        let (shard, name) = (name(), row.get::<_, &str>(0).into());
        problems.push(match row.get(1) {
            true => Problem::PublicationThere { shard, name },
            false => Problem::SlotThere { shard, name },
        });
    }
    problems.extend(other_plans(client, shard, scope, relations).await?);
    Ok(problems)
}

/// Plans that are not over and have guards on these tables, or have none anywhere: they may be about to make them.
const OTHER_PLANS: &str = "SELECT l.number, l.name FROM trunkline.reshard_ledger l WHERE NOT l.closed AND l.number <> $1 AND (
      EXISTS (SELECT FROM guards g WHERE g.number = l.number::text AND g.tgrelid = ANY ($2))
      OR NOT EXISTS (SELECT FROM guards g WHERE g.number = l.number::text)) ORDER BY l.number";
const GUARDS: &str = "guards AS (SELECT t.tgrelid, split_part(encode(t.tgargs, 'escape'), '\\000', 1) AS number
      FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.pronamespace = to_regnamespace('trunkline') AND NOT t.tgisinternal)";

async fn other_plans(
    client: &Client,
    shard: &str,
    scope: &Scope,
    relations: &[u32],
) -> Result<Vec<Problem>, tokio_postgres::Error> {
    let there = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'reshard_ledger' AND relnamespace = to_regnamespace('trunkline'))";
    if !client.query_one(there, &[]).await?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let number = i64::try_from(scope.number).unwrap_or(i64::MAX);
    let query = format!("WITH {GUARDS} {OTHER_PLANS}");
    let rows = client.query(&query, &[&number, &relations]).await?;
    Ok(rows
        .iter()
        .map(|row| Problem::OtherPlan {
            shard: shard.into(),
            number: row.get(0),
            plan: row.get::<_, &str>(1).into(),
        })
        .collect())
}
