//! Sets of moving keys against a server: for every strategy and key type, the condition finds the very keys that are in the set, and a guard
//! trigger made of it refuses these and no others.

use tokio_postgres::Client;
use trunkline::resharding::condition::{condition, quoted_name};
use trunkline::resharding::hashes;
use trunkline::resharding::keys::{KeySet, Keys, Runs, Span, Values};
use trunkline::sharding::hash::Function;
use trunkline::sharding::{KeyType, KeyValue};

use crate::hash_agreement::{Random, texts};
use crate::servers::own_database;

#[tokio::test]
async fn conditions_find_the_keys_of_their_sets() {
    let client = own_database("reshard_conditions").await;
    // No setting of a session may matter.
    client
        .batch_execute(
            "SET datestyle = 'SQL, DMY'; SET timezone = 'Australia/Eucla'; SET standard_conforming_strings = off;
             SET search_path = pg_catalog, pg_temp; SET escape_string_warning = off",
        )
        .await
        .unwrap();
    let make = format!(
        "SET search_path = pg_catalog; CREATE SCHEMA trunkline; {}; SET search_path = pg_catalog, pg_temp",
        hashes::FUNCTIONS
    );
    client.batch_execute(&make).await.unwrap();
    let mut random = Random(11);
    for key_type in KeyType::ALL {
        let types = [key_type];
        let rows = Rows::of(&client, &types, &mut random).await;
        rows.judge(hashed(64, Function::Postgres, &mut random))
            .await;
        rows.judge(hashed(1 << 16, Function::Postgres, &mut random))
            .await;
        rows.judge(hashed(256, Function::Xxh3, &mut random)).await;
        let some: Vec<KeyValue> = rows
            .keys
            .iter()
            .step_by(7)
            .map(|key| key[0].clone())
            .collect();
        let values = |values| KeySet::Values {
            values,
            buckets: None,
        };
        rows.judge(values(Values::Only(some.clone()))).await;
        rows.judge(values(Values::AllBut(some.clone()))).await;
        rows.judge(values(Values::AllBut(vec![]))).await;
        if key_type.is_integer() {
            rows.judge(KeySet::Remainders {
                divisor: 7,
                remainders: vec![0, 1, 4],
            })
            .await;
        }
        if !matches!(key_type, KeyType::Numeric | KeyType::Bytea) {
            let mut bounds = some;
            bounds.sort();
            bounds.dedup();
            let at = |place: usize| Some(bounds[place * (bounds.len() - 1) / 9].clone());
            let span = |from, to| Span { from, to };
            rows.judge(KeySet::Ranges(vec![
                span(None, at(1)),
                span(at(3), at(5)),
                span(at(8), None),
            ]))
            .await;
            rows.judge(KeySet::Ranges(vec![span(None, None)])).await;
        }
    }
    use KeyType::*;
    for types in [
        &[BigInt, Text][..],
        &[Text, Uuid, Date],
        &[TimestampTz, Char, Bytea, Numeric, SmallInt],
        // More than a bigint has the bits for.
        &[
            TimestampTz,
            Char,
            Bytea,
            Numeric,
            SmallInt,
            BigInt,
            Text,
            Uuid,
            Date,
        ],
    ] {
        let rows = Rows::of(&client, types, &mut random).await;
        rows.judge(hashed(4096, Function::Postgres, &mut random))
            .await;
        rows.judge(hashed(64, Function::Xxh3, &mut random)).await;
        let pinned = rows.keys.iter().step_by(5).map(|key| key.clone().into());
        rows.judge(KeySet::Pinned(pinned.collect())).await;
    }
    places(&client, &mut random).await;
    guard(&client).await;
}

/// A region among shards: the first column by name, the second by its hash.
async fn places(client: &Client, random: &mut Random) {
    let rows = Rows::of(client, &[KeyType::VarChar, KeyType::BigInt], random).await;
    let values: Vec<KeyValue> = rows
        .keys
        .iter()
        .step_by(3)
        .map(|key| key[0].clone())
        .collect();
    for values in [Values::Only(values.clone()), Values::AllBut(values)] {
        let buckets = Some(Runs::of(1024..3000));
        rows.judge(KeySet::Values { values, buckets }).await;
    }
}

/// XXH3 is another function for each of some ranges of lengths, and goes through long texts in stripes and blocks.
#[tokio::test]
async fn servers_compute_xxh3_of_any_length() {
    let client = own_database("reshard_xxh3").await;
    let make = format!(
        "SET search_path = pg_catalog; CREATE SCHEMA trunkline; {}",
        hashes::FUNCTIONS
    );
    client.batch_execute(&make).await.unwrap();
    let mut random = Random(5);
    let mut bytes = || random.below(256).to_le_bytes()[0];
    let lengths = (0..=260)
        .chain((261..=3100).step_by(61))
        .chain([1023, 1024, 1025, 2048, 2049, 3073]);
    let values: Vec<Vec<u8>> = lengths
        .map(|length| { 0..length }.map(|_| bytes()).collect())
        .collect();
    let query = "SELECT trunkline.xxh3(v) FROM unnest($1::bytea[]) WITH ORDINALITY AS given (v, place) ORDER BY place";
    let rows = client.query(query, &[&values]).await.unwrap();
    assert_eq!(rows.len(), values.len());
    for (row, value) in rows.iter().zip(&values) {
        let theirs = row.get::<_, i64>(0).cast_unsigned();
        let ours = xxhash_rust::xxh3::xxh3_64(value);
        assert_eq!(theirs, ours, "of {} bytes", value.len());
    }
}

/// About half of the buckets, in runs and alone.
fn hashed(of: u32, function: Function, random: &mut Random) -> KeySet {
    let half = of / 4..of / 2;
    let scattered = (of / 2..of).filter(|_| random.below(of.into()) < 16);
    KeySet::Buckets {
        function,
        of,
        runs: Runs::of(half.chain(scattered.collect::<Vec<_>>())),
    }
}

/// Keys of some types in a table.
struct Rows<'a> {
    client: &'a Client,
    types: &'a [KeyType],
    table: String,
    columns: Vec<String>,
    keys: Vec<Vec<KeyValue>>,
}

impl<'a> Rows<'a> {
    async fn of(client: &'a Client, types: &'a [KeyType], random: &mut Random) -> Rows<'a> {
        let texts: Vec<Vec<String>> = types
            .iter()
            .map(|key_type| texts(*key_type, random).into_iter().take(600).collect())
            .collect();
        let parsed = |row: usize| -> Vec<KeyValue> {
            let columns = types.iter().zip(&texts);
            columns
                .map(|(key_type, texts)| key_type.parse_text(&texts[row]).unwrap())
                .collect()
        };
        let keys = (0..texts[0].len()).map(parsed).collect();
        let table = format!("keys_{}", random.below(u64::MAX));
        let join = |each: &dyn Fn(usize) -> String| {
            (0..types.len()).map(each).collect::<Vec<_>>().join(", ")
        };
        let name = |place: usize| match types[place] {
            // Without a length: a length of its own would cut.
            KeyType::Char => "bpchar",
            other => other.name(),
        };
        let columns = join(&|place| format!("\"k {place}\" {}", name(place)));
        client
            .batch_execute(&format!(
                "CREATE TEMP TABLE {table} (place int8, {columns})"
            ))
            .await
            .unwrap();
        let insert = format!(
            "INSERT INTO pg_temp.{table} SELECT place, {} FROM unnest({}) WITH ORDINALITY AS given ({}, place)",
            join(&|place| format!("v{place}::{}", name(place))),
            join(&|place| format!("${}::text[]", place + 1)),
            join(&|place| format!("v{place}")),
        );
        let parameters: Vec<_> = texts
            .iter()
            .map(|column| column as &(dyn tokio_postgres::types::ToSql + Sync))
            .collect();
        client.execute(&insert, &parameters).await.unwrap();
        Rows {
            client,
            types,
            table,
            columns: (0..types.len())
                .map(|place| quoted_name(&format!("k {place}")))
                .collect(),
            keys,
        }
    }

    /// The set alone, and without some keys of it.
    async fn judge(&self, set: KeySet) {
        let inside = self.keys.iter().filter(|key| set.contains(key));
        let except = inside.step_by(3).map(|key| key.clone().into()).collect();
        for except in [vec![], except] {
            let keys = Keys {
                set: set.clone(),
                except,
            };
            let condition = condition(&keys, self.types, &self.columns);
            let query = format!(
                "SELECT ({condition}) FROM pg_temp.{} ORDER BY place",
                self.table
            );
            let rows = self
                .client
                .query(&query, &[])
                .await
                .unwrap_or_else(|error| panic!("{query}\n{error:?}"));
            let mut found = 0;
            for (row, key) in rows.iter().zip(&self.keys) {
                let theirs: bool = row.get(0);
                assert_eq!(theirs, keys.contain(key), "{key:?} in {keys}\n{condition}");
                found += usize::from(theirs);
            }
            assert_eq!(rows.len(), self.keys.len());
            assert!(found > 0, "{keys} has none of the keys");
        }
    }
}

/// What a guard does, on a plain server: writes to moving keys are refused from anyone but who replicates.
async fn guard(client: &Client) {
    let keys = Keys {
        set: KeySet::Buckets {
            function: Function::Postgres,
            of: 16,
            runs: Runs::of(0..8),
        },
        except: vec![vec![KeyValue::Int(3)].into()],
    };
    let on = |row: &str| condition(&keys, &[KeyType::BigInt], &[format!("{row}.id")]);
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE guarded (id int8 PRIMARY KEY, v int4);
             INSERT INTO pg_temp.guarded SELECT id, 0 FROM generate_series(1, 200) AS id;
             CREATE FUNCTION pg_temp.guard() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $guard$
             BEGIN
               IF TG_OP <> 'INSERT' AND ({}) OR TG_OP <> 'DELETE' AND ({}) THEN
                 RAISE EXCEPTION 'moving';
               END IF;
               RETURN COALESCE(NEW, OLD);
             END $guard$;
             CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON pg_temp.guarded
               FOR EACH ROW EXECUTE FUNCTION pg_temp.guard()",
            on("OLD"),
            on("NEW")
        ))
        .await
        .unwrap();
    let mut refused = 0;
    for id in 1..=200_i64 {
        let moving = keys.contain(&[KeyValue::Int(id)]);
        for statement in [
            format!("UPDATE pg_temp.guarded SET v = 1 WHERE id = {id}"),
            format!("DELETE FROM pg_temp.guarded WHERE id = {id}"),
            format!("INSERT INTO pg_temp.guarded VALUES ({id}, 2) ON CONFLICT DO NOTHING"),
        ] {
            let done = client.batch_execute(&statement).await;
            assert_eq!(done.is_err(), moving, "{statement}");
        }
        refused += i32::from(moving);
    }
    assert!((50..150).contains(&refused), "{refused} keys of 200");
    client
        .batch_execute("SET session_replication_role = replica; UPDATE pg_temp.guarded SET v = 3; RESET session_replication_role")
        .await
        .expect("who applies replicated rows is not guarded against");
}
