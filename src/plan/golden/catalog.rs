//! The cluster that golden cases are planned against: four shards s1 to s4, home s1.
//!
//! | table | placement |
//! | --- | --- |
//! | customers, orders, order_lines, invoices | sharded by hash of customer_id (bigint); customer 777 is pinned to s4 |
//! | notes | the same, with an integer column client |
//! | events | sharded by range of day (date): before 2024, 2024, 2025; nothing later |
//! | profiles | sharded by geo of country, user_id: DE and FR on s1 and s2, US on s3 |
//! | readings | sharded by hash of tenant_id (integer), device (text) |
//! | documents, pages, tags | sharded by hash of a uuid, a text, a character |
//! | countries, currencies, units, rates | reference; units.added has a default of the clock, rates a trigger |
//! | settings, app.customers | single on s1 |
//! | audit | single on s3 |
//! | order_totals, legacy | a materialised view of sharded tables; a table that is refused |
//! | `VIEWS` | what their queries make of them; hushed rules writes |

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::details::Details;
use crate::catalog::functions::FunctionKinds;
use crate::catalog::schema::{Barrier, Rights};
use crate::catalog::{
    Catalog, Collation, Column, ColumnDefault, Distribution, DistributionId, Epoch, Given,
    KeyCondition, Numbers, Placement, QualifiedName, Relation, SchemaState, SearchPath, Sequences,
    SpreadView, Undeclared, Writes,
};
use crate::config::CrossShardCommit;
use crate::plan::views;
use crate::sharding::buckets::Buckets;
use crate::sharding::geo::{Geo, Region};
use crate::sharding::hash::{Function, Hash};
use crate::sharding::pin::Pin;
use crate::sharding::range::{Range, Ranges};
use crate::sharding::{KeyType, KeyValue, ShardId, ShardMap, Strategy};

pub fn search_path(schemas: &[&str]) -> SearchPath {
    SearchPath(schemas.iter().map(|schema| Box::from(*schema)).collect())
}

/// The cluster, with fewer shards if wanted (then everything is on the first).
pub fn cluster(shards: u16) -> Catalog {
    let shard = |number: u16| ShardId(if number <= shards { number - 1 } else { 0 });
    let sharded = |distribution: u16, key: &[&str]| Placement::Sharded {
        distribution: DistributionId(distribution),
        key: key.iter().map(|column| Box::from(*column)).collect(),
    };
    let customers = || sharded(0, &["customer_id"]);
    let tables = [
        table(
            "public.customers",
            customers(),
            &[
                "customer_id bigint",
                "name text",
                "email text",
                "country text",
            ],
        ),
        table(
            "public.orders",
            customers(),
            &[
                "order_id bigint",
                "customer_id bigint",
                "total numeric",
                "placed_at timestamptz",
                "region text",
            ],
        ),
        table(
            "public.order_lines",
            customers(),
            &[
                "customer_id bigint",
                "order_id bigint",
                "line integer",
                "quantity integer",
                "weight double",
            ],
        ),
        table(
            "public.invoices",
            customers(),
            &[
                "invoice_id bigint sequence",
                "customer_id bigint",
                "amount numeric",
            ],
        ),
        table(
            "public.tickets",
            sharded(0, &["ticket_id"]),
            &["ticket_id bigint serial", "title text"],
        ),
        table(
            "public.parcels",
            customers(),
            &[
                "parcel_id integer always",
                "customer_id bigint",
                "label text",
                "batch bigint serial",
            ],
        ),
        table(
            "public.visits",
            sharded(0, &["visit_id"]),
            &["visit_id bigint identity", "place text"],
        ),
        table(
            "public.colours",
            Placement::Reference,
            &["colour_id integer serial", "name text"],
        ),
        table(
            "public.notes",
            sharded(0, &["client"]),
            &["client integer", "note text"],
        ),
        table(
            "public.events",
            sharded(1, &["day"]),
            &["day date", "kind text", "happened timestamp"],
        ),
        table(
            "public.profiles",
            sharded(2, &["country", "user_id"]),
            &["country text", "user_id bigint", "bio text"],
        ),
        table(
            "public.readings",
            sharded(3, &["tenant_id", "device"]),
            &["tenant_id integer", "device text", "value double"],
        ),
        table(
            "public.documents",
            sharded(4, &["document_id"]),
            &["document_id uuid", "title text"],
        ),
        table(
            "public.pages",
            sharded(5, &["slug"]),
            &["slug text", "body text", "code char"],
        ),
        table(
            "public.tags",
            sharded(6, &["tag"]),
            &["tag char", "label text"],
        ),
        table(
            "public.countries",
            Placement::Reference,
            &["code text", "name text"],
        ),
        table(
            "public.currencies",
            Placement::Reference,
            &["code text", "rate numeric"],
        ),
        table(
            "public.units",
            Placement::Reference,
            &[
                "unit_id integer",
                "symbol text",
                "added timestamptz volatile",
            ],
        ),
        table(
            "public.rates",
            Placement::Reference,
            &["rate_id integer", "rate numeric"],
        ),
        table(
            "public.settings",
            Placement::Single(shard(1)),
            &["setting_id bigint sequence", "name text", "value text"],
        ),
        table(
            "public.audit",
            Placement::Single(shard(3)),
            &["entry text", "customer_id bigint"],
        ),
        table(
            "app.customers",
            Placement::Single(shard(1)),
            &["customer_id bigint", "name text"],
        ),
        (name("pg_catalog.pg_class"), Relation::System),
        (name("public.order_totals"), Relation::ShardedView),
        (
            name("public.legacy"),
            Relation::Refused(
                "table \"legacy\" has no primary key that holds its shard key".into(),
            ),
        ),
    ];
    let mut catalog = Catalog {
        epoch: Epoch(1),
        shards: (1..=shards)
            .map(|number| format!("s{number}").into())
            .collect(),
        home: ShardId(0),
        gather: None,
        undeclared: Undeclared::Home,
        sequences: Sequences::Home,
        cross_shard_commit: CrossShardCommit::Refuse,
        foreign: Default::default(),
        distributions: distributions(shards, shard),
        relations: HashMap::from(tables),
        views: HashMap::new(),
        known_sequences: Arc::new(HashSet::from([
            name("public.tickets_ticket_id_seq"),
            name("public.numbers"),
        ])),
        primary_keys: primary_keys(),
        opaque_functions: HashSet::from(["monthly_report".into()]),
        functions: Arc::new(FunctionKinds {
            own_aggregates: HashSet::from(["weighted".into(), "median".into()]),
            windows: HashSet::from(["row_number".into(), "rank".into(), "lag".into()]),
            ..FunctionKinds::default()
        }),
        collation: Collation::Language,
        residue: Default::default(),
        placed: Default::default(),
        hearing: Default::default(),
        replicas: Default::default(),
        replica_functions: Default::default(),
        details: details(),
        schema: SchemaState::Read,
    };
    for view in VIEWS {
        add(view, &mut catalog);
    }
    views::place(&mut catalog);
    catalog
}

/// Name, columns, what it reads, and its query as a server prints it.
type Defined = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static str,
);

const VIEWS: [Defined; 12] = [
    (
        "public.big_orders",
        &["id bigint", "customer bigint", "total numeric"],
        &["public.orders"],
        " SELECT o.order_id AS id,\n    o.customer_id AS customer,\n    o.total\n   FROM public.orders o\n  WHERE o.total > 100::numeric;",
    ),
    (
        "public.orders_of",
        &["customer bigint", "orders bigint", "name text"],
        &["public.orders", "public.customers"],
        " SELECT c.customer_id AS customer,\n    count(*) AS orders,\n    c.name\n   FROM public.customers c\n     JOIN public.orders USING (customer_id)\n  GROUP BY c.customer_id, c.name;",
    ),
    (
        "public.big_here",
        &["customer bigint", "total numeric", "country text"],
        &["public.big_orders", "public.countries"],
        " SELECT b.customer,\n    b.total,\n    countries.name AS country\n   FROM public.big_orders b\n     CROSS JOIN public.countries;",
    ),
    (
        "public.big_twice",
        &["customer bigint", "again bigint"],
        &["public.big_orders"],
        " SELECT big_orders.customer,\n    big_orders.customer AS again\n   FROM public.big_orders;",
    ),
    (
        "public.hushed",
        &["customer_id bigint", "total numeric"],
        &["public.orders"],
        " SELECT orders.customer_id,\n    orders.total\n   FROM public.orders;",
    ),
    (
        "public.region_totals",
        &["region text", "total numeric"],
        &["public.orders"],
        " SELECT orders.region,\n    sum(orders.total) AS total\n   FROM public.orders\n  GROUP BY orders.region;",
    ),
    (
        "app.regions",
        &["region text", "biggest numeric", "name text"],
        &[
            "public.region_totals",
            "public.big_orders",
            "public.settings",
        ],
        " SELECT r.region,\n    ( SELECT max(big_orders.total) AS max\n           FROM public.big_orders) AS biggest,\n    settings.name\n   FROM public.region_totals r,\n    public.settings;",
    ),
    (
        "public.names",
        &["name text"],
        &["public.customers"],
        " SELECT customers.name\n   FROM public.customers;",
    ),
    (
        "public.newest",
        &["customer_id bigint", "order_id bigint"],
        &["public.orders"],
        " SELECT orders.customer_id,\n    orders.order_id\n   FROM public.orders\n  ORDER BY orders.placed_at DESC\n LIMIT 10;",
    ),
    (
        "public.placed",
        &["name text", "place text"],
        &["public.customers"],
        " SELECT customers.name,\n    customers.ctid AS place\n   FROM public.customers;",
    ),
    (
        "public.own_pages",
        &["title text"],
        &["public.pages"],
        " SELECT pages.title\n   FROM public.pages;",
    ),
    (
        "public.numbered",
        &["customer_id bigint", "number bigint"],
        &["public.customers"],
        " SELECT customers.customer_id,\n    nextval('numbers'::regclass) AS number\n   FROM public.customers;",
    ),
];

/// As if the servers had the view.
fn add((view, columns, reads, query): Defined, catalog: &mut Catalog) {
    let (view, relation) = table(view, Placement::Reference, columns);
    let Relation::Table {
        columns: Some(columns),
        ..
    } = relation
    else {
        return;
    };
    let spread = SpreadView {
        query: query.into(),
        reads: reads.iter().map(|read| name(read)).collect(),
        columns,
        rights: Rights::Owner,
        barrier: Barrier::None,
        writes: match &*view.1 {
            "hushed" => Writes::Elsewhere,
            _ => Writes::AsToTable,
        },
    };
    catalog
        .relations
        .insert(view.clone(), Relation::ShardedView);
    catalog.views.insert(view, spread);
}

/// As in a database whose collation is "C".
pub fn order_by_bytes(catalog: &mut Catalog) {
    catalog.collation = Collation::Bytes;
    for relation in catalog.relations.values_mut() {
        if let Relation::Table {
            columns: Some(columns),
            ..
        } = relation
        {
            *columns = columns
                .iter()
                .cloned()
                .map(|column| Column {
                    collation: Collation::Bytes,
                    ..column
                })
                .collect();
        }
    }
}

fn details() -> Arc<Details> {
    Arc::new(Details {
        schemas: HashSet::from(["public".into(), "app".into(), "pg_catalog".into()]),
        immutable_functions: HashSet::from(["lower".into(), "upper".into(), "abs".into()]),
        triggered: HashSet::from([name("public.rates")]),
        secured: HashSet::from([name("public.pages")]),
        tied: HashMap::from([(name("public.events"), "it has triggers".into())]),
        distinct: HashMap::from([
            (
                name("public.orders"),
                HashSet::from(["customer_id", "order_id"].map(|column| Some(column.into()))),
            ),
            (name("public.notes"), HashSet::from([None])),
        ]),
        parts: HashMap::from([
            (name("public.orders_total"), name("public.orders")),
            (name("public.audit_entry"), name("public.audit")),
            (
                name("public.settings_setting_id_seq"),
                name("public.settings"),
            ),
        ]),
    })
}

fn primary_keys() -> HashMap<QualifiedName, Arc<[Box<str>]>> {
    let keys: [(&str, &[&str]); 5] = [
        ("public.countries", &["code"]),
        ("public.customers", &["customer_id"]),
        ("public.orders", &["customer_id", "order_id"]),
        ("public.invoices", &["invoice_id"]),
        ("public.audit", &["entry"]),
    ];
    keys.iter()
        .map(|(table, columns)| {
            (
                name(table),
                columns.iter().map(|column| Box::from(*column)).collect(),
            )
        })
        .collect()
}

/// As before the servers' definitions were read.
pub fn forget_columns(catalog: &mut Catalog) {
    catalog
        .relations
        .retain(|_, relation| matches!(relation, Relation::Table { .. }));
    let views = std::mem::take(&mut catalog.views);
    catalog
        .relations
        .retain(|name, _| !views.contains_key(name));
    for relation in catalog.relations.values_mut() {
        if let Relation::Table { columns, .. } = relation {
            *columns = None;
        }
    }
}

fn name(qualified: &str) -> QualifiedName {
    let (schema, name) = qualified.split_once('.').expect("schema.name");
    (schema.into(), name.into())
}

fn table(qualified: &str, placement: Placement, columns: &[&str]) -> (QualifiedName, Relation) {
    let column = |text: &&str| {
        let mut words = text.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (name, type_name) = (next(), next());
        let kind = next();
        let default = match kind {
            "sequence" | "serial" | "identity" | "always" => ColumnDefault::Sequence,
            "volatile" => ColumnDefault::Volatile,
            _ => ColumnDefault::Plain,
        };
        let type_oid = if type_name == "double" {
            701
        } else {
            KeyType::parse_name(type_name).expect("a type's name").oid()
        };
        let given = match kind {
            "serial" => Some(Given::Freely),
            "identity" => Some(Given::AsIdentity),
            "always" => Some(Given::Overriding),
            _ => None,
        };
        let numbers = given.map(|given| {
            Arc::new(Numbers {
                sequence: self::name(&format!("{qualified}_{name}_seq")),
                given,
            })
        });
        Column {
            name: name.into(),
            type_oid,
            default,
            numbers,
            collation: if matches!(type_name, "text" | "char") {
                Collation::Language
            } else {
                Collation::Bytes
            },
        }
    };
    (
        name(qualified),
        Relation::Table {
            placement,
            columns: Some(columns.iter().map(column).collect()),
        },
    )
}

fn distributions(shards: u16, shard: impl Fn(u16) -> ShardId) -> Arc<[Distribution]> {
    // The home shard comes last, so that key 5 and its like are not at home by chance.
    let all: Vec<ShardId> = (1..shards).chain([0]).map(ShardId).collect();
    let hash = || {
        Strategy::Hash(Hash::new(
            Function::Postgres,
            Buckets::even(4096, &all).expect("enough buckets"),
        ))
    };
    let map = |key: &[KeyType], strategy, pins| {
        ShardMap::new(key.to_vec(), strategy, pins).expect("a map without mistakes")
    };
    let day = |text: &str| Some(KeyType::Date.parse_text(text).expect("a date"));
    let ranges = vec![
        Range {
            from: None,
            to: day("2024-01-01"),
            shard: shard(1),
        },
        Range {
            from: day("2024-01-01"),
            to: day("2025-01-01"),
            shard: shard(2),
        },
        Range {
            from: day("2025-01-01"),
            to: day("2026-01-01"),
            shard: shard(3),
        },
    ];
    let europe = if shards == 1 {
        vec![shard(1)]
    } else {
        vec![shard(1), shard(2)]
    };
    let regions = vec![
        Region {
            name: "europe".into(),
            values: vec!["DE".into(), "FR".into()],
            shards: europe,
        },
        Region {
            name: "america".into(),
            values: vec!["US".into()],
            shards: vec![shard(3)],
        },
    ];
    let pin = Pin {
        key: vec![KeyValue::Int(777)],
        shard: shard(4),
    };
    let distribution = |name: &str, map| Distribution {
        turning: None,
        name: name.into(),
        map,
    };
    Arc::new([
        distribution("customers", map(&[KeyType::BigInt], hash(), vec![pin])),
        distribution(
            "events",
            map(
                &[KeyType::Date],
                Strategy::Range(Ranges::new(ranges).expect("sound ranges")),
                Vec::new(),
            ),
        ),
        distribution(
            "profiles",
            map(
                &[KeyType::Text, KeyType::BigInt],
                Strategy::Geo(Geo::new(regions, None).expect("sound regions")),
                Vec::new(),
            ),
        ),
        distribution(
            "readings",
            map(&[KeyType::Integer, KeyType::Text], hash(), Vec::new()),
        ),
        distribution("documents", map(&[KeyType::Uuid], hash(), Vec::new())),
        distribution("pages", map(&[KeyType::Text], hash(), Vec::new())),
        distribution("tags", map(&[KeyType::Char], hash(), Vec::new())),
    ])
}

/// s2 has rows of all distributions that another shard owns.
pub fn move_rows(catalog: &mut Catalog) {
    let distributions = (0..).zip(&*catalog.distributions);
    let foreign = distributions.map(|(place, distribution)| {
        let columns = KeyCondition::columns(distribution.map.key_types().len());
        let moved = KeyCondition::read(&format!("moved({})", columns.join(", ")));
        (DistributionId(place), vec![(ShardId(1), moved)])
    });
    catalog.foreign = Arc::new(foreign.collect());
}
