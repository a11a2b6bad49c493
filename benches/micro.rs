//! The steps every statement takes before it is sent: its frame is found, its plan looked up (or made), its key read and placed.
//!
//! ```text
//! cargo bench --bench micro
//! cargo bench --bench micro -- 'plan/hit'
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use trunkline::catalog::{
    Catalog, Collation, Column, ColumnDefault, Distribution, DistributionId, Epoch, Placement,
    Relation, SchemaState, SearchPath, Sequences, Undeclared,
};
use trunkline::config::CrossShardCommit;
use trunkline::plan::{Bound, Parameters, Plan, PlanCache, Planned, Target, Values, bind};
use trunkline::sharding::buckets::Buckets;
use trunkline::sharding::hash::{Function, Hash};
use trunkline::sharding::{KeyType, ShardId, ShardMap, Strategy};
use trunkline::sql::normalise::Literal;
use trunkline::wire::frame::{self, Frame};
use trunkline::wire::replication::{
    CopyBoth, Decoder, Identity, Message, ProtocolVersion, Row, Streaming, Value,
};

/// Counts what it is asked for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

impl Counting {
    fn note(bytes: i64) {
        ALLOCATIONS.set(ALLOCATIONS.get() + u64::from(bytes > 0));
        HELD.set(HELD.get() + bytes);
    }
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain numbers of this thread, without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::note(signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Counting::note(-signed(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGE_LIMIT: usize = 64 << 20;
const CACHE_BYTES: usize = 16 << 20;
const SHARDS: u16 = 4;
/// Of `text` in `pg_type`.
const TEXT_OID: u32 = 25;

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 4711042;";
const INSERT: &str = "INSERT INTO orders (customer_id, order_id, status, total, note) VALUES (4711042, 99, 'new', 129.90, 'please leave it at the neighbour''s door')";
const MAPPED: &str = "SELECT \"orders\".\"order_id\", \"orders\".\"customer_id\", \"orders\".\"status\", \"orders\".\"total\", \"orders\".\"note\", \
     \"lines\".\"line_id\", \"lines\".\"product\", \"lines\".\"quantity\", \"lines\".\"price\" FROM \"orders\" \
     INNER JOIN \"lines\" ON (\"orders\".\"customer_id\" = \"lines\".\"customer_id\" AND \"orders\".\"order_id\" = \"lines\".\"order_id\") \
     WHERE (\"orders\".\"customer_id\" = 4711042 AND \"orders\".\"status\" IN ('new', 'paid', 'sent') AND \"orders\".\"total\" > 10) \
     ORDER BY \"orders\".\"order_id\" DESC LIMIT 21";
const PARAMETER: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

fn catalog() -> Arc<Catalog> {
    let shards: Vec<ShardId> = (0..SHARDS).map(ShardId).collect();
    let buckets = Buckets::even(4096, &shards).expect("4096 buckets suit four shards");
    let map = ShardMap::new(
        vec![KeyType::Integer],
        Strategy::Hash(Hash::new(Function::Postgres, buckets)),
        Vec::new(),
    )
    .expect("integers can be hashed");
    let column = |name: &str, type_oid| Column {
        name: name.into(),
        type_oid,
        default: ColumnDefault::Plain,
        numbers: None,
        collation: Collation::Bytes,
    };
    let table = |name: &str, key: &str, others: &[&str]| {
        let placement = Placement::Sharded {
            distribution: DistributionId(0),
            key: [key.into()].into(),
        };
        let others = others.iter().map(|name| column(name, TEXT_OID));
        let columns = std::iter::once(column(key, KeyType::Integer.oid()))
            .chain(others)
            .collect();
        (
            ("public".into(), name.into()),
            Relation::Table {
                placement,
                columns: Some(columns),
            },
        )
    };
    let relations = HashMap::from([
        table("pgbench_accounts", "aid", &["bid", "abalance", "filler"]),
        table(
            "orders",
            "customer_id",
            &["order_id", "status", "total", "note"],
        ),
        table(
            "lines",
            "customer_id",
            &["order_id", "line_id", "product", "quantity", "price"],
        ),
    ]);
    Arc::new(Catalog {
        epoch: Epoch(1),
        shards: (0..SHARDS)
            .map(|number| format!("s{number}").into())
            .collect(),
        home: ShardId(0),
        gather: None,
        placed: Default::default(),
        hearing: Default::default(),
        undeclared: Undeclared::Home,
        sequences: Sequences::Refused,
        cross_shard_commit: CrossShardCommit::Refuse,
        foreign: Default::default(),
        distributions: [Distribution {
            turning: None,
            name: "accounts".into(),
            map,
        }]
        .into(),
        relations,
        known_sequences: Default::default(),
        primary_keys: Default::default(),
        opaque_functions: Default::default(),
        functions: Default::default(),
        collation: Collation::Bytes,
        details: Default::default(),
        views: Default::default(),
        residue: Default::default(),
        replicas: Default::default(),
        replica_functions: Default::default(),
        schema: SchemaState::Read,
    })
}

fn search_path() -> SearchPath {
    SearchPath(["public".into()].into())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// The target of the one statement in a plan; a refusal would be measured instead of a plan otherwise.
fn target(planned: &Planned) -> &Target {
    match &planned.statements[..] {
        [statement] => match &statement.plan {
            Ok(Plan::Relay(target @ Target::Keys { .. })) => target,
            other => panic!("not routed by key: {other:?}"),
        },
        several => panic!("{} statements", several.len()),
    }
}

fn count_frames(buffer: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Ok(Frame::Whole { range, .. }) = frame::first(buffer, at, MESSAGE_LIMIT) {
        at = range.end;
        count += 1;
    }
    count
}

fn frames(c: &mut Criterion) {
    let bind = message(b'B', b"\0P0\0\0\0\0\x01\0\0\0\x074711042\0\0");
    let execution = [bind, message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    let cases = [
        ("query", message(b'Q', format!("{POINT}\0").as_bytes()), 1),
        ("pipeline_of_64", execution.repeat(64), 192),
    ];
    let mut group = c.benchmark_group("frames");
    for (name, buffer, count) in cases {
        assert_eq!(count_frames(&buffer), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| b.iter(|| count_frames(black_box(&buffer))));
    }
    group.finish();
}

fn plans(c: &mut Criterion) {
    let (catalog, path) = (catalog(), search_path());
    let many: Vec<String> = (0..150).map(|number| format!("'item {number}'")).collect();
    let wide = format!(
        "SELECT * FROM lines WHERE customer_id = 4711042 AND product IN ({})",
        many.join(", ")
    );
    let texts = [
        ("point", POINT),
        ("insert", INSERT),
        ("mapped", MAPPED),
        ("wide", &wide),
    ];
    let mut hits = c.benchmark_group("plan/hit");
    for (name, text) in texts {
        let mut cache = PlanCache::new(CACHE_BYTES);
        let mut literals = Vec::new();
        let mut plan = |text: &str| cache.plan(text.as_bytes(), &path, &catalog, &mut literals);
        target(&plan(text).expect("the text can be planned"));
        hits.throughput(Throughput::Bytes(text.len() as u64));
        hits.bench_function(name, |b| b.iter(|| plan(black_box(text))));
        assert_eq!(cache.counters().misses, 1, "{name} is not found");
    }
    // As pgbench sends them: the same statement, each time with another number.
    let others: Vec<String> = { 4_711_000..4_712_000 }
        .map(|number| POINT.replace("4711042", &format!("{number}")))
        .collect();
    let mut cache = PlanCache::new(CACHE_BYTES);
    let mut literals = Vec::new();
    let mut texts_in_turn = others.iter().cycle();
    hits.throughput(Throughput::Bytes(POINT.len() as u64));
    hits.bench_function("point, other numbers", |b| {
        b.iter(|| {
            let text = texts_in_turn.next().expect("it has no end");
            cache.plan(black_box(text).as_bytes(), &path, &catalog, &mut literals)
        })
    });
    assert_eq!(cache.counters().misses, 1, "a number makes another plan");
    hits.finish();
    let mut misses = c.benchmark_group("plan/miss");
    for (name, text) in texts {
        let mut literals = Vec::new();
        misses.throughput(Throughput::Bytes(text.len() as u64));
        misses.bench_function(name, |b| {
            b.iter_batched_ref(
                || PlanCache::new(CACHE_BYTES),
                |cache| cache.plan(black_box(text).as_bytes(), &path, &catalog, &mut literals),
                BatchSize::SmallInput,
            )
        });
    }
    misses.finish();
}

/// Name, plan, text, its literals, and of a Bind message the formats and values.
type Case<'a> = (
    &'a str,
    &'a Planned,
    &'a str,
    &'a [Literal],
    &'a [u8],
    &'a [u8],
);

fn keys(c: &mut Criterion) {
    let (catalog, path) = (catalog(), search_path());
    let mut cache = PlanCache::new(CACHE_BYTES);
    let mut planned = |text: &str| {
        let mut literals: Vec<Literal> = Vec::new();
        let planned = cache
            .plan(text.as_bytes(), &path, &catalog, &mut literals)
            .expect("the text can be planned");
        (planned, literals)
    };
    let (with_literal, literals) = planned(POINT);
    let (with_parameter, none) = planned(PARAMETER);
    let text_parameter = message_value(b"4711042");
    let binary_parameter = message_value(&4_711_042_i32.to_be_bytes());
    let cases: [Case<'_>; 3] = [
        ("literal", &with_literal, POINT, &literals, &[], &[]),
        (
            "text_parameter",
            &with_parameter,
            PARAMETER,
            &none,
            &[0, 0],
            &text_parameter,
        ),
        (
            "binary_parameter",
            &with_parameter,
            PARAMETER,
            &none,
            &[0, 1],
            &binary_parameter,
        ),
    ];
    let mut shards = Vec::new();
    let mut group = c.benchmark_group("key");
    for (name, planned, text, literals, formats, values) in cases {
        let target = target(planned);
        let count = u16::from(!values.is_empty());
        let place = || {
            let parameters =
                Parameters::from_bind(formats, count, values, &[]).expect("one whole parameter");
            bind(
                target,
                &catalog,
                &Values {
                    passage: Default::default(),
                    text: text.as_bytes(),
                    literals,
                    parameters: &parameters,
                },
            )
        };
        shards.push(place().expect("the key can be placed"));
        group.bench_function(name, |b| b.iter(|| black_box(place())));
    }
    group.finish();
    assert!(
        matches!(shards[..], [Bound::Shard(a), Bound::Shard(b), Bound::Shard(c)] if a == b && b == c),
        "{shards:?}"
    );
}

/// A value as a Bind message holds it.
/// Rows of a stream of changes, with each column looked at, as one whose rows go elsewhere has to.
fn changes(c: &mut Criterion) {
    let columns: [&[u8]; 6] = [
        b"4711042",
        b"99",
        b"new",
        b"129.90",
        b"2026-11-22 14:30:04.179+00",
        b"please leave it at the neighbour's door",
    ];
    let mut row = vec![0, 6];
    for column in columns {
        row.push(b't');
        row.extend((column.len() as u32).to_be_bytes());
        row.extend_from_slice(column);
    }
    let key = b"\0\x06t\0\0\0\x074711042nnnnn";
    let change = |kind: u8, old: &[u8], new: &[u8]| {
        let envelope = [
            b"w".as_slice(),
            &[1; 24],
            &[kind],
            &16_392_u32.to_be_bytes(),
        ];
        [envelope.concat().as_slice(), old, new].concat()
    };
    let new = [b"N", row.as_slice()].concat();
    let cases = [
        ("insert", change(b'I', b"", &new)),
        (
            "update",
            change(b'U', &[b"O", row.as_slice()].concat(), &new),
        ),
        (
            "delete",
            change(b'D', &[b"K", key.as_slice()].concat(), b""),
        ),
    ];
    let mut group = c.benchmark_group("replication");
    group.throughput(Throughput::Elements(1));
    for (name, body) in cases {
        let mut decoder = Decoder::new(ProtocolVersion::V3, Streaming::Off);
        decoder
            .decode(&[b"B".as_slice(), &[1; 20]].concat())
            .expect("a beginning");
        group.bench_function(name, |b| {
            b.iter(|| bytes_of_change(&mut decoder, black_box(&body)));
        });
    }
    group.finish();
}

fn bytes_of_change(decoder: &mut Decoder, body: &[u8]) -> usize {
    let Ok(CopyBoth::Data { payload, .. }) = CopyBoth::decode(body) else {
        panic!("a change was encoded");
    };
    match decoder.decode(payload).expect("a change can be read") {
        Message::Insert { row, .. } => bytes_of_row(row),
        Message::Update { old, new, .. } => {
            old.map_or(0, |old| bytes_of_row(old.row())) + bytes_of_row(new)
        }
        Message::Delete {
            old: Identity::Key(row),
            ..
        } => bytes_of_row(row),
        other => panic!("{other:?}"),
    }
}

fn bytes_of_row(row: Row<'_>) -> usize {
    let length = |value| match value {
        Value::Null | Value::Unchanged => 0,
        Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
    };
    row.values().map(length).sum()
}

fn message_value(value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("a short value");
    [&length.to_be_bytes(), value].concat()
}

/// A hit takes nothing from the allocator.
fn hits_without_allocation(_: &mut Criterion) {
    let (catalog, path) = (catalog(), search_path());
    let mut cache = PlanCache::new(CACHE_BYTES);
    let mut literals = Vec::new();
    for text in [POINT, INSERT, MAPPED, PARAMETER] {
        // The first look plans, the second is the first hit: buffers have grown to their size then.
        let mut plan = || cache.plan(text.as_bytes(), &path, &catalog, &mut literals);
        for _ in 0..2 {
            plan().expect("the text can be planned");
        }
        let before = ALLOCATIONS.get();
        for _ in 0..1000 {
            black_box(plan().expect("the text can be planned"));
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(allocations, 0, "in 1000 hits of {text}");
    }
    println!("plan/hit: no allocation");
}

/// Many distinct texts stay within the limit, and ten times as many do not take more. What counts is what the allocator was asked for,
/// not what the cache says of itself.
fn bounded_by_bytes(_: &mut Criterion) {
    let (catalog, path) = (catalog(), search_path());
    let mut literals = Vec::new();
    let before = HELD.get();
    let mut cache = PlanCache::new(CACHE_BYTES);
    let mut held_after = |cache: &mut PlanCache, texts: std::ops::Range<u32>| {
        for number in texts {
            let text =
                format!("SELECT abalance AS column_{number} FROM pgbench_accounts WHERE aid = 1");
            cache
                .plan(text.as_bytes(), &path, &catalog, &mut literals)
                .expect("the text can be planned");
        }
        HELD.get() - before
    };
    let few = held_after(&mut cache, 0..10_000);
    let many = held_after(&mut cache, 10_000..110_000);
    println!(
        "plan cache of {CACHE_BYTES} bytes: {few} bytes held after 10000 texts, {many} after 100000 more, {} entries",
        cache.counters().entries
    );
    // The table, its slots and the templates come on top of the entries.
    let limit = signed(CACHE_BYTES) * 5 / 4;
    assert!(few <= limit && many <= limit, "more than {limit}");
}

criterion_group!(
    benches,
    hits_without_allocation,
    bounded_by_bytes,
    frames,
    plans,
    keys,
    changes
);
criterion_main!(benches);
