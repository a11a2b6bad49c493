use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::super::golden::{cluster, search_path};
use super::*;
use crate::catalog::replicas::{Author, Conversions, Found, Function, Replicas, Volatility};
use crate::catalog::residue::{Residue, Routine, Runs, When};
use crate::catalog::{Placement, Relation};
use crate::sharding::ShardId;
use crate::sql;

const VOLATILE: &str = "random clock_timestamp timeofday gen_random_uuid pg_sleep nextval setval currval lastval pg_notify pg_advisory_lock \
    pg_try_advisory_xact_lock set_config lo_creat lo_get pg_logical_emit_message pg_switch_wal pg_export_snapshot setseed pg_is_in_recovery \
    pg_current_wal_lsn pg_last_wal_replay_lsn pg_cancel_backend pg_relation_size query_to_xml";

const STABLE: &str = "upper now current_schema to_char generate_series unnest jsonb_build_object array_agg count sum pg_table_is_visible \
    pg_get_viewdef pg_typeof pg_size_pretty has_table_privilege row_security_active txid_current pg_current_xact_id pg_backend_pid \
    inet_server_addr version current_setting pg_current_snapshot pg_postmaster_start_time pg_my_temp_schema table_to_xml date_part";

const STABLE_OF_USERS: [(&str, &str); 5] = [
    ("discount", "SELECT amount * 0.9"),
    ("orders_of", "SELECT count(*) FROM orders"),
    ("my_pid", "SELECT pg_backend_pid()"),
    ("carts_of", "SELECT count(*) FROM carts"),
    (
        "tenant",
        "SELECT current_setting('app.tenant', true)::bigint",
    ),
];

const VOLATILE_OF_USERS: [(&str, &str); 5] = [
    (
        "touch",
        "UPDATE customers SET name = name RETURNING customer_id",
    ),
    ("app_now", "SELECT clock_timestamp()"),
    ("add_touch", "SELECT sum + touch(customer)"),
    ("closer", "SELECT touch(a) < touch(b)"),
    ("sweep", "SELECT 1"),
];

/// Relation, and what it runs or reads.
const RUNS: [(&str, &str); 12] = [
    ("order_totals", "orders"),
    ("customer_carts", "carts"),
    ("of_carts", "customer_carts"),
    ("sessions", "pg_stat_activity"),
    ("numbered", "nextval"),
    ("of_tenant", "orders"),
    ("of_server", "current_setting"),
    ("stored_totals", "order_totals"),
    ("secrets", "tenant"),
    ("traps", "nextval"),
    ("logs", "logs_2024"),
    ("logs", "logs_2025"),
];

const SYSTEM: &str = "pg_class pg_tables pg_stats pg_stat_activity pg_stat_user_tables pg_locks pg_settings pg_prepared_statements pg_cursors \
    pg_replication_slots";

/// What is read of a server with `tests/golden/replica/schema.sql`, as far as the statements need it.
fn catalog() -> Catalog {
    let mut catalog = cluster(1);
    let single = || Relation::Table {
        placement: Placement::Single(ShardId(0)),
        columns: None,
    };
    let own = RUNS.iter().map(|(relation, _)| *relation);
    for name in own.chain(["carts", "prices", "logs_2024", "logs_2025", "locked"]) {
        catalog
            .relations
            .insert(("public".into(), name.into()), single());
    }
    for name in SYSTEM.split_ascii_whitespace() {
        let name = ("pg_catalog".into(), name.into());
        catalog.relations.insert(name, Relation::System);
    }
    let tables = ("information_schema".into(), "tables".into());
    catalog.relations.insert(tables, Relation::System);
    let function = |name: &str, volatility, author| Function {
        name: name.into(),
        volatility,
        author,
    };
    let of_postgres = |names: &'static str, volatility| {
        let names = names.split_ascii_whitespace();
        names.map(move |name| function(name, volatility, Author::Postgres))
    };
    let of_users = |named: &'static [(&str, &str)], volatility| {
        let names = named.iter().map(|(name, _)| *name);
        names.map(move |name| function(name, volatility, Author::User))
    };
    let functions: Vec<Function> = of_postgres(VOLATILE, Volatility::Volatile)
        .chain(of_postgres(STABLE, Volatility::Stable))
        .chain(of_users(&STABLE_OF_USERS, Volatility::Stable))
        .chain(of_users(&VOLATILE_OF_USERS, Volatility::Volatile))
        .chain([function("touching", Volatility::Stable, Author::User)])
        .collect();
    let routine = |name: &str, text: &str| Routine {
        name: name.into(),
        language: "sql".into(),
        text: text.into(),
    };
    let bodies = STABLE_OF_USERS.iter().chain(&VOLATILE_OF_USERS);
    let mut routines: Vec<Routine> = bodies.map(|(name, text)| routine(name, text)).collect();
    routines.push(routine("touching", "add_touch - -"));
    let runs = RUNS.map(|(relation, what)| Runs {
        relation: relation.into(),
        what: what.into(),
        when: When::Used,
    });
    let system = functions
        .iter()
        .filter(|function| function.author == Author::Postgres)
        .map(|function| function.name.clone());
    catalog.residue = Arc::new(Residue::of(system.collect(), &routines, &runs));
    catalog.replicas = Arc::new(Replicas::of(Found {
        functions: &functions,
        routines: &routines,
        runs: &runs,
        unreadable: ["carts", "prices", "logs_2025", "locked"]
            .map(Box::from)
            .into(),
        operators: vec!["<~~<".into()],
        conversions: Conversions::Plain,
    }));
    catalog
}

fn nodes(text: &str, catalog: &Catalog) -> Nodes {
    // What is no statement at all goes to whoever says so.
    let Ok(statements) = sql::read(text) else {
        return Nodes::Primary;
    };
    of(text, &statements[0], catalog, &search_path(&["public"]))
}

#[test]
fn golden_verdicts() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/replica/statements.txt");
    let text = std::fs::read_to_string(path).expect("the golden file exists");
    let catalog = catalog();
    let mut wrong = String::new();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let (verdict, statement) = line.split_once('|').expect("a verdict and a statement");
        let found = match nodes(statement.trim(), &catalog) {
            Nodes::Primary => "primary",
            Nodes::Any => "any",
        };
        if found != verdict.trim() {
            wrong += &format!("{found}, not {line}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn without_definitions_nothing_is_known() {
    let mut catalog = catalog();
    assert_eq!(nodes("SELECT * FROM orders", &catalog), Nodes::Any);
    catalog.schema = SchemaState::Unread;
    assert_eq!(nodes("SELECT * FROM orders", &catalog), Nodes::Primary);
}

#[test]
fn the_administrator_knows_better_of_functions() {
    let mut catalog = catalog();
    let text = "SELECT app_now()";
    assert_eq!(nodes(text, &catalog), Nodes::Primary);
    catalog.replica_functions = Arc::new(HashSet::from(["app_now".into()]));
    assert_eq!(nodes(text, &catalog), Nodes::Any);
    assert_eq!(nodes("SELECT pg_temp.app_now()", &catalog), Nodes::Primary);
}

#[test]
fn a_message_may_run_where_all_its_statements_may() {
    let catalog = catalog();
    let of = |text: &str| {
        let statements = sql::read(text).expect("it can be read");
        super::super::plan(text, &statements, &catalog, &search_path(&["public"])).nodes()
    };
    assert_eq!(of("SELECT 1; SELECT * FROM orders"), Nodes::Any);
    assert_eq!(of("SELECT 1; SELECT pg_backend_pid()"), Nodes::Primary);
}
