use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Configured, ConfiguredTable, Warning};
use crate::catalog::schema::{
    Barrier, DefinedColumn, Definition, Equality, Functions, Kind, Rights, Rules, Schema, Storage,
    Table, View,
};
use crate::catalog::{
    Catalog, Collation, Column, ColumnDefault, Distribution, DistributionId, Epoch, Placement,
    QualifiedName, Relation, Resolved, SchemaState, SearchPath, Sequences, Undeclared,
};
use crate::config::CrossShardCommit;
use crate::sharding::buckets::Buckets;
use crate::sharding::hash::{Function, Hash};
use crate::sharding::{KeyType, ShardId, ShardMap, Strategy};

const HOME: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

fn name(name: &str) -> QualifiedName {
    let (schema, name) = name.split_once('.').unwrap_or(("public", name));
    (schema.into(), name.into())
}

fn distribution(key: KeyType) -> Distribution {
    let buckets = Buckets::even(16, &[HOME, OTHER]).unwrap();
    let strategy = Strategy::Hash(Hash::new(Function::Postgres, buckets));
    Distribution {
        turning: None,
        name: key.name().into(),
        map: ShardMap::new(vec![key], strategy, Vec::new()).unwrap(),
    }
}

/// In the distribution of this place, by the column `id`.
fn sharded(distribution: u16) -> Placement {
    Placement::Sharded {
        distribution: DistributionId(distribution),
        key: Arc::new(["id".into()]),
    }
}

/// Distribution 0 has a bigint key, 1 text, 2 timestamp, 3 numeric.
fn configured(undeclared: Undeclared, tables: &[(&str, Placement)]) -> Configured {
    Configured {
        shards: Arc::new(["a".into(), "b".into()]),
        home: HOME,
        gather: None,
        undeclared,
        sequences: Sequences::Refused,
        cross_shard_commit: CrossShardCommit::Refuse,
        replica_functions: Default::default(),
        placed: Default::default(),
        misfits: Default::default(),
        foreign: Default::default(),
        distributions: [
            KeyType::BigInt,
            KeyType::Text,
            KeyType::Timestamp,
            KeyType::Numeric,
        ]
        .map(distribution)
        .into(),
        tables: tables
            .iter()
            .map(|(table, placement)| ConfiguredTable {
                name: name(table),
                placement: placement.clone(),
            })
            .collect(),
    }
}

fn column(column: &str, key_type: KeyType) -> DefinedColumn {
    let column = Column {
        name: column.into(),
        type_oid: key_type.oid(),
        default: ColumnDefault::Plain,
        numbers: None,
        collation: Collation::Bytes,
    };
    DefinedColumn {
        column,
        modifier: -1,
        equality: Equality::Bytes,
    }
}

fn table(columns: Vec<DefinedColumn>, parents: &[&str]) -> Definition {
    let parents = parents.iter().map(|parent| name(parent)).collect();
    let kind = Kind::Table(Table {
        storage: Storage::Ordinary,
        parents,
        rules: Rules::None,
    });
    Definition {
        kind,
        columns,
        primary_key: Vec::new(),
    }
}

fn ids() -> Definition {
    table(vec![column("id", KeyType::BigInt)], &[])
}

fn child(parents: &[&str]) -> Definition {
    table(vec![column("id", KeyType::BigInt)], parents)
}

fn view(relations: &[&str], functions: Functions) -> View {
    View {
        relations: relations.iter().map(|relation| name(relation)).collect(),
        functions,
        query: "".into(),
        rules: Rules::None,
        rights: Rights::Owner,
        barrier: Barrier::None,
    }
}

fn reading(relations: &[&str]) -> Definition {
    Definition {
        kind: Kind::View(view(relations, Functions::Known)),
        columns: Vec::new(),
        primary_key: Vec::new(),
    }
}

fn stored(relations: &[&str]) -> Definition {
    Definition {
        kind: Kind::Materialised(view(relations, Functions::Known)),
        columns: Vec::new(),
        primary_key: Vec::new(),
    }
}

fn schema(relations: Vec<(&str, Definition)>) -> Schema {
    Schema {
        server_encoding: "UTF8".into(),
        relations: relations
            .into_iter()
            .map(|(relation, definition)| (name(relation), definition))
            .collect(),
        system_relations: HashSet::from([
            name("pg_catalog.pg_class"),
            name("information_schema.tables"),
        ]),
        opaque_functions: HashSet::new(),
        functions: Default::default(),
        sequences: Default::default(),
        collation: Collation::Language,
        residue: Default::default(),
        replicas: Default::default(),
        details: Default::default(),
    }
}

fn assemble(configured: Configured, schema: &Schema) -> (Catalog, Vec<Warning>) {
    Catalog::assemble(configured, Some(schema), Epoch(1))
}

/// The placements of tables; other relations by what they are.
fn shown(catalog: &Catalog) -> HashMap<&str, String> {
    let relations = catalog
        .relations
        .iter()
        .filter(|(_, relation)| **relation != Relation::System);
    relations
        .map(|((_, name), relation)| (&**name, show(relation)))
        .collect()
}

fn show(relation: &Relation) -> String {
    match relation {
        Relation::Table {
            placement: Placement::Sharded { distribution, .. },
            ..
        } => format!("sharded {}", distribution.0),
        Relation::Table {
            placement: Placement::Reference,
            ..
        } => "reference".into(),
        Relation::Table {
            placement: Placement::Single(shard),
            ..
        } => format!("single {}", shard.0),
        Relation::ShardedView => "sharded view".into(),
        Relation::Refused(why) => format!("refused: {why}"),
        Relation::System => "system".into(),
    }
}

#[test]
fn without_definitions_only_configured_tables_are_known() {
    let (catalog, warnings) = Catalog::assemble(
        configured(Undeclared::Home, &[("t", sharded(0))]),
        None,
        Epoch(3),
    );
    assert_eq!(catalog.schema, SchemaState::Unread);
    assert_eq!(
        catalog.relations,
        HashMap::from([(
            name("t"),
            Relation::Table {
                placement: sharded(0),
                columns: None
            }
        )])
    );
    assert_eq!((catalog.epoch, warnings), (Epoch(3), Vec::new()));
}

#[test]
fn tables_get_their_columns_and_undeclared_ones_their_place() {
    let schema = schema(vec![("t", ids()), ("app.u", ids())]);
    let (catalog, warnings) = assemble(configured(Undeclared::Home, &[("t", sharded(0))]), &schema);
    assert_eq!(warnings, []);
    assert_eq!(
        shown(&catalog),
        HashMap::from([("t", "sharded 0".into()), ("u", "single 0".into())])
    );
    let Relation::Table {
        columns: Some(columns),
        ..
    } = &catalog.relations[&name("t")]
    else {
        panic!("no columns")
    };
    assert_eq!(&*columns[0].name, "id");
    let (catalog, warnings) = assemble(
        configured(Undeclared::Refused, &[("t", sharded(0))]),
        &schema,
    );
    assert_eq!(warnings, []);
    assert_eq!(
        shown(&catalog)["u"],
        "refused: table app.u is not configured, and no default shard is set for such tables"
    );
}

#[test]
fn configured_names_that_are_no_tables_are_reported() {
    let schema = schema(vec![("v", reading(&["t"])), ("t", ids())]);
    let tables = [
        ("gone", sharded(0)),
        ("v", Placement::Reference),
        ("t", sharded(0)),
    ];
    let (catalog, warnings) = assemble(configured(Undeclared::Home, &tables), &schema);
    assert_eq!(
        warnings,
        [
            Warning::View { table: name("v") },
            Warning::Missing {
                table: name("gone")
            }
        ]
    );
    assert_eq!(shown(&catalog)["gone"], "sharded 0");
    assert_eq!(shown(&catalog)["v"], "sharded view");
}

#[test]
fn a_family_is_placed_like_its_root() {
    let schema = schema(vec![
        ("root", ids()),
        ("part", child(&["root"])),
        ("leaf", child(&["part"])),
        ("lone", ids()),
        ("lone_part", child(&["lone"])),
    ]);
    let (catalog, warnings) = assemble(
        configured(
            Undeclared::Home,
            &[("root", sharded(0)), ("leaf", sharded(0))],
        ),
        &schema,
    );
    assert_eq!(warnings, []);
    let shown = shown(&catalog);
    assert_eq!(
        [&*shown["root"], &*shown["part"], &*shown["leaf"]],
        ["sharded 0"; 3]
    );
    assert_eq!([&*shown["lone"], &*shown["lone_part"]], ["single 0"; 2]);
}

#[test]
fn a_family_that_is_not_of_one_mind_is_refused() {
    let tables = || {
        schema(vec![
            ("root", ids()),
            ("part", child(&["root"])),
            ("other", ids()),
        ])
    };
    let expected = [Warning::Family {
        table: name("part"),
        other: name("root"),
    }];
    for stated in [
        &[("part", sharded(0))][..],
        &[("part", Placement::Reference), ("root", sharded(0))],
    ] {
        for undeclared in [Undeclared::Home, Undeclared::Refused] {
            let (catalog, warnings) = assemble(configured(undeclared, stated), &tables());
            assert_eq!(warnings, expected);
            let shown = shown(&catalog);
            assert!(
                shown["root"].starts_with(
                    "refused: tables public.part and public.root are placed differently"
                ),
                "{shown:?}"
            );
            assert_eq!(shown["root"], shown["part"]);
        }
    }
    // A child of two parents holds them together.
    let schema = schema(vec![("a", ids()), ("b", ids()), ("c", child(&["a", "b"]))]);
    let (catalog, warnings) = assemble(configured(Undeclared::Home, &[("a", sharded(0))]), &schema);
    assert_eq!(
        warnings,
        [Warning::Family {
            table: name("a"),
            other: name("b")
        }]
    );
    assert!(shown(&catalog)["c"].starts_with("refused"));
}

#[test]
fn a_key_that_cannot_be_trusted_is_refused() {
    let generated = |mut column: DefinedColumn| {
        column.column.default = ColumnDefault::Generated;
        column
    };
    let modified = |key_type, modifier| DefinedColumn {
        modifier,
        ..column("id", key_type)
    };
    let collated = DefinedColumn {
        equality: Equality::Collation,
        ..column("id", KeyType::Text)
    };
    let numeric = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
    let (table_name, key) = (name("t"), Box::<str>::from("id"));
    let rounds = Warning::KeyColumnRounds {
        table: table_name.clone(),
        column: key.clone(),
    };
    let wrong = |found: u32, expected| Warning::KeyColumnType {
        table: name("t"),
        column: "id".into(),
        found,
        expected,
    };
    let cases = [
        (0, column("id", KeyType::BigInt), None),
        (
            0,
            column("other", KeyType::BigInt),
            Some(Warning::KeyColumnMissing {
                table: table_name.clone(),
                column: key.clone(),
            }),
        ),
        (
            0,
            column("id", KeyType::Integer),
            Some(wrong(23, KeyType::BigInt)),
        ),
        (
            1,
            column("id", KeyType::VarChar),
            Some(wrong(1043, KeyType::Text)),
        ),
        (
            0,
            generated(column("id", KeyType::BigInt)),
            Some(Warning::KeyColumnGenerated {
                table: table_name.clone(),
                column: key.clone(),
            }),
        ),
        (
            1,
            collated,
            Some(Warning::KeyColumnCollation {
                table: table_name.clone(),
                column: key.clone(),
            }),
        ),
        (2, modified(KeyType::Timestamp, 6), None),
        (2, modified(KeyType::Timestamp, 3), Some(rounds.clone())),
        (3, modified(KeyType::Numeric, numeric(10, 2)), None),
        (3, modified(KeyType::Numeric, numeric(10, -2)), Some(rounds)),
    ];
    for (distribution, column, warning) in cases {
        let schema = schema(vec![("t", table(vec![column], &[]))]);
        let (catalog, warnings) = assemble(
            configured(Undeclared::Home, &[("t", sharded(distribution))]),
            &schema,
        );
        let expected = match &warning {
            Some(warning) => format!("refused: {warning}"),
            None => format!("sharded {distribution}"),
        };
        assert_eq!(shown(&catalog)["t"], expected);
        assert_eq!(warnings, Vec::from_iter(warning));
    }
}

#[test]
fn text_keys_need_utf8() {
    let mut schema = schema(vec![
        ("t", table(vec![column("id", KeyType::Text)], &[])),
        ("u", ids()),
    ]);
    schema.server_encoding = "LATIN1".into();
    let (catalog, warnings) = assemble(
        configured(Undeclared::Home, &[("t", sharded(1)), ("u", sharded(0))]),
        &schema,
    );
    assert_eq!(
        warnings,
        [Warning::Encoding {
            table: name("t"),
            encoding: "LATIN1".into()
        }]
    );
    assert!(shown(&catalog)["t"].starts_with("refused"));
    assert_eq!(shown(&catalog)["u"], "sharded 0");
}

#[test]
fn rules_are_refused_where_they_could_send_rows_elsewhere() {
    let ruled = || {
        let mut definition = ids();
        definition.kind = Kind::Table(Table {
            storage: Storage::Ordinary,
            parents: Vec::new(),
            rules: Rules::Some,
        });
        definition
    };
    let schema = schema(vec![("s", ruled()), ("r", ruled()), ("h", ruled())]);
    let (catalog, warnings) = assemble(
        configured(
            Undeclared::Home,
            &[("s", sharded(0)), ("r", Placement::Reference)],
        ),
        &schema,
    );
    assert_eq!(
        warnings,
        [
            Warning::Rules { table: name("r") },
            Warning::Rules { table: name("s") }
        ]
    );
    assert_eq!(shown(&catalog)["h"], "single 0");
}

#[test]
fn views_are_placed_by_what_they_read() {
    let opaque = Definition {
        kind: Kind::View(view(&["home"], Functions::Opaque)),
        columns: Vec::new(),
        primary_key: Vec::new(),
    };
    let schema = schema(vec![
        ("sharded", ids()),
        ("reference", ids()),
        ("home", ids()),
        ("other", ids()),
        ("broken", table(Vec::new(), &[])),
        ("none", reading(&[])),
        ("of_reference", reading(&["reference"])),
        ("of_home", reading(&["reference", "home"])),
        ("of_other", reading(&["other"])),
        ("of_both", reading(&["home", "other"])),
        ("of_sharded", reading(&["reference", "sharded"])),
        ("of_view", reading(&["home", "of_sharded"])),
        ("of_broken", reading(&["of_sharded", "broken"])),
        ("of_opaque", opaque),
        ("of_gone", reading(&["gone"])),
        ("circle_1", reading(&["circle_2"])),
        ("circle_2", reading(&["circle_1"])),
        ("stored_reference", stored(&["reference"])),
        ("stored_home", stored(&["home"])),
        ("of_stored", reading(&["stored_reference"])),
    ]);
    let tables = [
        ("sharded", sharded(0)),
        ("broken", sharded(0)),
        ("reference", Placement::Reference),
        ("other", Placement::Single(OTHER)),
    ];
    let (catalog, _) = assemble(configured(Undeclared::Home, &tables), &schema);
    let shown = shown(&catalog);
    let expected = [
        ("none", "single 0"),
        ("of_reference", "reference"),
        ("of_home", "single 0"),
        ("of_other", "single 1"),
        ("of_both", "sharded view"),
        ("of_sharded", "sharded view"),
        ("of_view", "sharded view"),
        ("of_opaque", "sharded view"),
        ("of_gone", "sharded view"),
        ("circle_1", "sharded view"),
        ("circle_2", "sharded view"),
        ("stored_reference", "sharded view"),
        ("stored_home", "single 0"),
        ("of_stored", "sharded view"),
        (
            "of_broken",
            "refused: view public.of_broken: table public.broken has no column \"id\", which is configured as its shard key",
        ),
    ];
    for (view, placed) in expected {
        assert_eq!(shown[view], placed, "{view}");
    }
}

fn path(schemas: &[&str]) -> SearchPath {
    SearchPath(schemas.iter().map(|schema| (*schema).into()).collect())
}

/// The schema a name is found in.
fn found<'a>(
    catalog: &'a Catalog,
    path: &'a SearchPath,
    schema: Option<&'a str>,
    name: &str,
) -> Option<&'a str> {
    match catalog.resolve(path, schema, name) {
        Resolved::Found { schema, .. } => Some(schema),
        Resolved::Temporary => Some("temporary"),
        Resolved::Unknown => None,
    }
}

#[test]
fn names_are_found_along_the_path() {
    let schema = schema(vec![
        ("a.t", ids()),
        ("b.t", ids()),
        ("b.pg_class", ids()),
        ("a.tables", ids()),
        ("pg_temporary.t", ids()),
    ]);
    let (catalog, _) = assemble(configured(Undeclared::Home, &[]), &schema);
    let find = |schemas: &[&str], schema, name: &str| {
        found(&catalog, &path(schemas), schema, name).map(str::to_owned)
    };
    let at = |schema: &str| Some(schema.to_owned());
    assert_eq!(find(&["missing", "b", "a"], None, "t"), at("b"));
    assert_eq!(find(&["a"], Some("b"), "t"), at("b"));
    assert_eq!(find(&["a"], None, "u"), None);
    assert_eq!(find(&[], None, "t"), None);
    assert_eq!(find(&["a"], Some("b"), "u"), None);
    // pg_catalog comes first, unless the path says where.
    assert_eq!(find(&["b"], None, "pg_class"), at("pg_catalog"));
    assert_eq!(find(&["b", "pg_catalog"], None, "pg_class"), at("b"));
    assert_eq!(find(&["a"], None, "tables"), at("a"));
    assert_eq!(
        find(&["information_schema", "a"], None, "tables"),
        at("information_schema")
    );
    assert_eq!(
        find(&["a"], Some("pg_catalog"), "pg_class"),
        at("pg_catalog")
    );
    assert_eq!(find(&["a"], Some("pg_temp"), "t"), at("temporary"));
    assert_eq!(find(&["a"], Some("pg_temp_12"), "t"), at("temporary"));
    assert_eq!(find(&["pg_temp", "a"], None, "t"), at("a"));
}

#[test]
fn system_names_are_known_before_definitions_are_read() {
    let (catalog, _) = Catalog::assemble(
        configured(Undeclared::Home, &[("t", sharded(0))]),
        None,
        Epoch(1),
    );
    let path = path(&["public"]);
    assert_eq!(
        catalog.resolve(&path, None, "pg_type"),
        Resolved::Found {
            schema: "pg_catalog",
            relation: &Relation::System
        }
    );
    assert_eq!(found(&catalog, &path, None, "t"), Some("public"));
    assert_eq!(catalog.resolve(&path, None, "u"), Resolved::Unknown);
}
