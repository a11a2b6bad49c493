//! A Django project of many tenants (`tests/python/django_tenants.py`): on four shards it finds what it finds on one Postgres.

use crate::drivers::python;
use crate::servers::servers;
use crate::sharded::Sharded;

const TENANTS: &str = r#"
[[distributions]]
name = "tenants"
key = "bigint"
strategy = "hash"
shards = ["s1", "s2", "s3", "s4"]

[[tables]]
name = "tenants_country"
placement = "reference"

[[tables]]
name = "tenants_audit"
placement = "single"
shard = "s3"
"#;

/// Tables of the tenants, and the column that says whose a row is.
const TABLES: [(&str, &str); 7] = [
    ("tenant", "id"),
    ("member", "tenant_id"),
    ("project", "tenant_id"),
    ("tag", "tenant_id"),
    ("task", "tenant_id"),
    ("tagging", "tenant_id"),
    ("comment", "tenant_id"),
];

#[test]
fn a_project_of_many_tenants_finds_the_same_on_four_shards() {
    let mut tables = TENANTS.to_owned();
    for (table, key) in TABLES {
        tables += &format!(
            "[[tables]]\nname = \"tenants_{table}\"\ndistribution = \"tenants\"\nkey = \"{key}\"\n"
        );
    }
    let sharded = Sharded::start("django_tenants", "", &tables);
    let run = |port: u16| python("django_tenants.py", &[&port.to_string(), &sharded.database]);
    let (plain, sharded) = std::thread::scope(|scope| {
        let plain = scope.spawn(|| run(servers().plain.port()));
        let sharded = run(sharded.port);
        (plain.join().unwrap(), sharded)
    });
    assert!(plain.lines().count() > 60, "{plain}");
    for (plain, sharded) in plain.lines().zip(sharded.lines()) {
        assert_eq!(plain, sharded);
    }
    assert_eq!(plain.lines().count(), sharded.lines().count());
}
