//! Whatever changes `search_path`, and however soon the next statement comes behind it: names mean what they mean on one server, or the
//! statement is refused.

use std::time::{Duration, Instant};

use crate::proxy::{Proxy, keys};
use crate::servers::wait_until;
use crate::wire_client::{Wire, query, run, sync};

/// `order_lines` in two schemas: sharded in `public`, and in one of the test's own a table of the home shard. Each row says where it is.
struct Stage {
    proxy: Proxy,
    schema: &'static str,
    keys: [i64; 4],
}

impl Stage {
    /// Keys from `first` upwards.
    fn set(schema: &'static str, first: i64) -> Stage {
        let proxy = Proxy::start("workers = 1\n");
        let keys = keys(first);
        let mut client = proxy.client("trusty");
        let home = "/* trunkline: shard=s1 */";
        client.query(&format!("CREATE SCHEMA {schema}"));
        client.query(&format!(
            "{home} CREATE TABLE {schema}.order_lines (customer_id bigint, item text)"
        ));
        for key in keys {
            for (schema, item, hint) in [(schema, "other", home), ("public", "public", "")] {
                let written = client.query(&format!(
                    "{hint} INSERT INTO {schema}.order_lines (customer_id, item) VALUES ({key}, '{item}')"
                ));
                assert!(written.contains("C(INSERT 0 1)"), "{written}");
            }
        }
        Stage {
            proxy,
            schema,
            keys,
        }
    }

    fn client(&self) -> Wire {
        self.proxy.client("trusty")
    }

    /// The last of the answers to these messages, where `FIND` looks for a row and `OTHER` is the test's schema.
    fn last(&self, key: i64, texts: &[&str]) -> String {
        let mut client = self.client();
        let find = find(key);
        let answers = texts
            .iter()
            .map(|text| client.query(&text.replace("FIND", &find).replace("OTHER", self.schema)));
        answers.last().expect("an answer")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut client = self.client();
        client.query(&format!("DROP SCHEMA {} CASCADE", self.schema));
        for key in self.keys {
            client.query(&format!(
                "DELETE FROM order_lines WHERE customer_id = {key}"
            ));
        }
    }
}

fn find(key: i64) -> String {
    format!("SELECT item FROM order_lines WHERE customer_id = {key}")
}

#[test]
fn names_are_looked_up_in_the_path_that_holds() {
    let stage = Stage::set("path_in_messages", 8_100_000);
    for key in stage.keys {
        for texts in [
            &["SET search_path = OTHER; FIND"][..],
            &["SET search_path = public; SELECT 1; SET search_path TO OTHER; FIND"],
            &["BEGIN; SET LOCAL search_path = OTHER; FIND"],
            &["SET search_path = OTHER", "FIND"],
            &[
                "BEGIN",
                "SELECT set_config('search_path', 'OTHER', true)",
                "FIND",
            ],
            &["SET search_path = OTHER; SELECT 1; COMMIT", "FIND"],
            &["SET search_path = OTHER", "BEGIN; COMMIT; FIND"],
        ] {
            let answer = stage.last(key, texts);
            assert!(answer.contains("D(other)"), "{texts:?}: {answer}");
        }
        for texts in [
            &["SET search_path = OTHER; RESET search_path; FIND"][..],
            &["SET search_path = OTHER; SET search_path = \"$user\", public; FIND"],
            &["SELECT set_config('search_path', 'OTHER', true); FIND"],
            &["BEGIN; SET LOCAL search_path = OTHER; COMMIT; FIND"],
            &["BEGIN; SET search_path = OTHER", "ROLLBACK; FIND"],
            &[
                "SET search_path = OTHER",
                "BEGIN; SET LOCAL search_path = public",
                "COMMIT; FIND",
            ],
        ] {
            let answer = stage.last(key, texts);
            assert!(
                answer.contains("E(ERROR 0A000 search_path is not known here"),
                "{texts:?}: {answer}"
            );
        }
        // Who says where they are needs no path.
        let qualified = format!(
            "SET search_path = OTHER; RESET search_path; SELECT item FROM public.order_lines WHERE customer_id = {key}"
        );
        assert!(stage.last(key, &[&qualified]).contains("D(public)"));
    }
}

#[test]
fn pipelines_learn_the_path_first() {
    let stage = Stage::set("path_in_pipelines", 8_200_000);
    for key in stage.keys {
        let find = find(key);
        let mut client = stage.client();
        let mut piped = |texts: &[&str]| {
            let texts = texts.iter().map(|text| text.replace("OTHER", stage.schema));
            let mut messages: Vec<Vec<u8>> = texts.map(|text| run(&text, &[])).collect();
            messages.push(sync());
            client.ask(&messages)
        };
        let answer = piped(&["SET search_path = OTHER", &find]);
        assert!(answer.contains("D(other)"), "{answer}");
        let answer = piped(&["RESET search_path", &find, "SET search_path = OTHER", &find]);
        assert!(answer.contains("D(public)"), "{answer}");
        assert!(stage.last(key, &["FIND"]).contains("D(public)"));
        piped(&["SET search_path = OTHER"]);
        piped(&["BEGIN", "SET LOCAL search_path = public", "SELECT 1"]);
        let answer = piped(&["COMMIT", &find]);
        assert!(
            answer.contains("E(ERROR 0A000 search_path is not known here"),
            "{answer}"
        );
        assert!(answer.ends_with("Z(I)"), "{answer}");
        // What fails changes nothing, and keeps nobody waiting.
        for wrong in [
            &["SET datestyle = 'nonsense'", &find][..],
            &["SELECT 1/0", "SET search_path = public", &find],
        ] {
            let answer = piped(wrong);
            assert_eq!(answer.matches("E(ERROR").count(), 1, "{answer}");
            assert!(
                answer.ends_with("Z(I)") && !answer.contains("D("),
                "{answer}"
            );
        }
        assert!(piped(&[&find]).contains("D(other)"));
        // Units of work that come before the answers.
        let there = format!("SET search_path = {}", stage.schema);
        let answer = client.ask(&[
            run("SET search_path = public", &[]),
            sync(),
            run(&find, &[]),
            sync(),
            query(&there),
            query(&find),
        ]);
        let places = ["D(public)", "D(other)"].map(|row| answer.find(row));
        assert!(places[0].is_some() && places[0] < places[1], "{answer}");
    }
}

/// A statement behind COMMIT, without a Sync between them, is no part of the transaction.
#[test]
fn nothing_joins_a_transaction_that_has_ended() {
    let proxy = Proxy::start("workers = 1\n");
    for key in keys(8_500_000) {
        let mut client = proxy.client("trusty");
        client.query("BEGIN");
        client.query("SELECT 1");
        let write = format!("INSERT INTO order_lines (customer_id, item) VALUES ({key}, 'behind')");
        let answer = client.ask(&[run("COMMIT", &[]), run(&write, &[]), sync()]);
        assert!(answer.ends_with("Z(I)"), "{answer}");
        let written = !answer.contains("E(ERROR 0A000 ");
        let found = format!("SELECT count(*) FROM order_lines WHERE customer_id = {key}");
        let found = proxy.client("trusty").value(&found);
        assert_eq!(found, i32::from(written).to_string(), "{answer}");
        client.query(&format!(
            "DELETE FROM order_lines WHERE customer_id = {key}"
        ));
    }
}

/// What a unit of work has set before it comes to another shard is known there, or the unit goes no further.
#[test]
fn a_setting_is_the_same_on_the_next_shard() {
    let proxy = Proxy::start("workers = 1\n");
    let shown = |client: &mut Wire, key| {
        client.value(&format!(
            "/* trunkline: key={key} distribution=customers */ SELECT current_setting('work_mem')"
        ))
    };
    let keys = keys(8_400_000);
    let usual = shown(&mut proxy.client("lone"), keys[0]);
    for key in keys {
        let mut client = proxy.client("lone");
        client.query("SET work_mem = '77kB'");
        assert_eq!(shown(&mut client, key), "77kB");
        let asked = format!(
            "/* trunkline: key={key} distribution=customers */ SELECT current_setting('work_mem')"
        );
        let answer = client.ask(&[run("SET work_mem = '99kB'", &[]), run(&asked, &[]), sync()]);
        let expected = ["D(99kB)", "E(ERROR 0A000 this transaction works on shard"];
        assert!(
            expected.iter().any(|expected| answer.contains(expected)),
            "{answer}"
        );
        let left = if answer.contains("E(") {
            "77kB"
        } else {
            "99kB"
        };
        for key in keys {
            assert_eq!(shown(&mut client, key), left);
        }
        drop(client);
        // Nobody finds it on the connections.
        let mut other = proxy.client("lone");
        for key in keys {
            assert_eq!(shown(&mut other, key), usual);
        }
    }
}

/// What `set_config` does beside other things would be known on one shard only.
#[test]
fn set_config_is_followed_or_refused() {
    let stage = Stage::set("path_by_function", 8_300_000);
    let mut client = stage.client();
    for sql in [
        "SELECT set_config('search_path', 'OTHER', false), 1",
        "SELECT set_config('search_path', 'OTHER', true), set_config(lower('ROLE'), 'app', true)",
        "SELECT set_config(lower('ROLE'), 'app', true)",
        "SELECT set_config(name, setting, false) FROM pg_settings WHERE name = 'work_mem'",
        "SELECT set_config('temp_tablespaces', '', true)",
        "SELECT set_config('trunkline.shard', 's2', false)",
    ] {
        for answer in [client.query(sql), client.ask(&[run(sql, &[]), sync()])] {
            assert!(answer.contains("E(ERROR 0A000 "), "{sql}: {answer}");
        }
    }
    let refused =
        client.query("/* trunkline: shard=s1 */ SELECT set_config('trunkline.shard', 's2', false)");
    assert!(refused.contains("E(ERROR 0A000 "), "{refused}");
    for sql in [
        "/* trunkline: shard=s1 */ SELECT set_config('work_mem', '1MB', false), 1",
        "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'",
    ] {
        let answer = client.query(sql);
        assert!(!answer.contains("E("), "{sql}: {answer}");
    }
    // What was refused has the shape of what is not.
    for key in stage.keys {
        let texts = [
            "BEGIN",
            "SELECT set_config('search_path', 'OTHER', true)",
            "FIND",
        ];
        let answer = stage.last(key, &texts);
        assert!(answer.contains("D(other)"), "{answer}");
    }
}

/// As PostgREST begins each of its transactions.
#[test]
fn several_calls_of_set_config_are_followed() {
    let stage = Stage::set("path_by_functions", 8_400_000);
    let other = stage.schema;
    let literals = format!(
        "SELECT set_config('search_path', '{other}', true) AS path, pg_catalog.set_config('request.id', 'seven', true)"
    );
    let parameters =
        "SELECT set_config('search_path', $1, true), set_config('request.id', $2, true)";
    for by_parameters in [false, true] {
        let mut client = stage.client();
        client.query("BEGIN");
        let set = match by_parameters {
            true => client.ask(&[run(parameters, &[Some(other), Some("seven")]), sync()]),
            false => client.query(&literals),
        };
        assert!(set.contains(&format!("D({other}|seven)")), "{set}");
        // The second shard hears of it when it joins.
        for key in stage.keys {
            let found = client.query(&find(key));
            assert!(found.contains("D(other)"), "{found}");
            let asked = format!(
                "SELECT current_setting('request.id') FROM public.order_lines WHERE customer_id = {key}"
            );
            let told = client.query(&asked);
            assert!(told.contains("D(seven)"), "{told}");
        }
        client.query("COMMIT");
        for key in stage.keys {
            let found = client.query(&find(key));
            assert!(
                found.contains("D(") && !found.contains("D(other)"),
                "{found}"
            );
        }
    }
}

/// Proxies that have a control store in common hear of each other's definitions.
#[test]
fn what_another_proxy_has_defined_is_known_soon() {
    let stage = Stage::set("path_elsewhere", 8_500_000);
    let other = Proxy::start("workers = 1\n");
    let mut client = other.client("trusty");
    let schema = stage.schema;
    client.query(&format!("SET search_path = {schema}, public"));
    let found = |client: &mut Wire, item: &str| {
        stage
            .keys
            .iter()
            .all(|key| client.query(&find(*key)).contains(&format!("D({item}) C(")))
    };
    assert!(found(&mut client, "other"));
    let began = Instant::now();
    stage.client().query(&format!(
        "/* trunkline: shard=s1 */ ALTER TABLE {schema}.order_lines RENAME TO hidden"
    ));
    wait_until("the rows of the next schema are found", || {
        found(&mut client, "public")
    });
    stage.client().query(&format!(
        "/* trunkline: shard=s1 */ ALTER TABLE {schema}.hidden RENAME TO order_lines"
    ));
    wait_until("those of the first are found again", || {
        found(&mut client, "other")
    });
    // Definitions are read once a minute anyway.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_mistyped_setting_of_ours_is_an_error() {
    let proxy = Proxy::start("workers = 1\n");
    let mut client = proxy.client("trusty");
    for sql in [
        "SET trunkline.shards = 's2'",
        "SET LOCAL trunkline.raed = 'any'",
        "RESET trunkline.keys",
        "SHOW trunkline.shards",
    ] {
        for answer in [client.query(sql), client.ask(&[run(sql, &[]), sync()])] {
            assert!(
                answer.contains("E(ERROR 42704 unrecognized configuration parameter"),
                "{sql}: {answer}"
            );
        }
    }
    let refused = proxy.try_client("trusty", &[("options", "-c trunkline.shards=s2")]);
    assert_eq!(
        refused.err().map(|error| error.sqlstate()),
        Some("42704".to_owned())
    );
}
