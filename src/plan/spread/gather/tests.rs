use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::plan::golden::{cluster, search_path};
use crate::plan::{PlanCache, Spread};

/// The plan of one text and the literals of another of the same shape, as an execution gets them.
fn planned(first: &str, second: &str) -> (Rc<Spread>, Vec<Literal>) {
    let mut cache = PlanCache::new(1 << 20);
    let catalog = Arc::new(cluster(4));
    let mut literals = Vec::new();
    let mut found = None;
    for text in [first, second] {
        let planned = cache
            .plan(
                text.as_bytes(),
                &search_path(&["public"]),
                &catalog,
                &mut literals,
            )
            .expect("it has a plan");
        found = planned.statements[0].spread.clone();
    }
    (found.expect("it is spread"), literals)
}

const FIRST: &str = "SELECT 'a' FROM public.orders o, invoices i WHERE o.region = 'abc' AND i.amount > 5 AND o.total > 3";

fn choice<'a>(text: &'a [u8], literals: &'a [Literal]) -> Choice<'a> {
    Choice {
        text,
        literals,
        parameters: &[],
        but: None,
        also: &[],
    }
}

fn copies(second: &str) -> Vec<String> {
    let (spread, literals) = planned(FIRST, second);
    let Spread::Gather(gather) = &*spread else {
        panic!("it is not gathered: {spread:?}");
    };
    let mut texts: Vec<Vec<u8>> = gather
        .fetches
        .iter()
        .map(|fetch| fetch.copy_out(&choice(second.as_bytes(), &literals)))
        .collect();
    texts.push(gather.text(second.as_bytes(), &literals));
    texts
        .into_iter()
        .map(|text| String::from_utf8(text).expect("text"))
        .collect()
}

#[test]
fn places_are_those_of_the_text_at_hand() {
    let second = "SELECT 'longer' FROM public.orders o, invoices i WHERE o.region = 'x' AND i.amount > 123456 AND o.total > 3";
    assert_eq!(
        copies(second),
        [
            r#"COPY (SELECT "total", "region" FROM "public"."orders" AS "o" WHERE (o.region = 'x') AND (o.total > 3)) TO STDOUT (FORMAT binary)"#,
            r#"COPY (SELECT "amount" FROM "public"."invoices" AS "i" WHERE (i.amount > 123456)) TO STDOUT (FORMAT binary)"#,
            "SELECT 'longer' FROM pg_temp.orders o, invoices i WHERE o.region = 'x' AND i.amount > 123456 AND o.total > 3",
        ]
    );
}

#[test]
fn a_string_that_may_mean_the_present_chooses_no_rows() {
    let second = "SELECT '' FROM public.orders o, invoices i WHERE o.region = ' NOW' AND i.amount > 1 AND o.total > 3";
    assert_eq!(
        copies(second)[0],
        r#"COPY (SELECT "total", "region" FROM "public"."orders" AS "o" WHERE (o.total > 3)) TO STDOUT (FORMAT binary)"#
    );
}

#[test]
fn texts_beside_the_clients() {
    let fetch = Fetch {
        schema: "a\"b".into(),
        table: "T".into(),
        origin: Origin::Every,
        columns: Columns::Named {
            needed: vec!["x".into()],
            all: vec!["x".into(), "y".into()],
        },
        conditions: Vec::new(),
        alias: "t".into(),
        among: Vec::new(),
        primary_key: vec!["x".into(), "y".into()],
        index: vec!["y".into()],
        format: CopyFormat::Text,
    };
    assert_eq!(
        [
            fetch.create(),
            fetch.copy_in(),
            String::from_utf8(fetch.insert(&choice(b"", &[]))).expect("text"),
            fetch.add_primary_key().expect("it has one"),
            fetch.create_index().expect("it has one"),
            fetch.analyze(),
            fetch.drop(),
        ],
        [
            r#"CREATE TEMPORARY TABLE pg_temp."T" ON COMMIT DROP AS SELECT * FROM "a""b"."T" WITH NO DATA"#,
            r#"COPY pg_temp."T" ("x") FROM STDIN (FORMAT text)"#,
            r#"INSERT INTO pg_temp."T" ("x", "y") SELECT "x", "y" FROM "a""b"."T" AS "t""#,
            r#"ALTER TABLE pg_temp."T" ADD PRIMARY KEY ("x", "y")"#,
            r#"CREATE INDEX ON pg_temp."T" ("y")"#,
            r#"ANALYZE pg_temp."T""#,
            r#"DROP TABLE pg_temp."T""#,
        ]
    );
}

#[test]
fn what_may_have_an_effect_is_committed() {
    let end = |sql| match &*planned(sql, sql).0 {
        Spread::Gather(gather) => gather.end,
        other => panic!("it is not gathered: {other:?}"),
    };
    assert_eq!(
        end("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM orders"),
        End::Rollback
    );
    assert_eq!(
        end("SELECT dblink_exec(region) FROM orders, invoices"),
        End::Commit
    );
}
