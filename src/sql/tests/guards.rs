//! What must not take the process down, whatever its size.

use crate::sql::{Body, SqlError, read};

/// Runs on the stack that a worker thread has.
fn on_small_stack(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(test)
        .expect("a thread")
        .join()
        .expect("it lives");
}

fn too_complex(text: String) {
    on_small_stack(move || {
        let error = read(&text).map(|_| ()).expect_err("refused");
        assert_eq!(error.sqlstate(), "54001", "{error}");
    });
}

fn facts(text: String) {
    on_small_stack(move || {
        let read = read(&text).expect("read");
        assert!(matches!(read[0].body, Body::Facts(_)), "{:?}", &text[..60]);
    });
}

/// The longest chain that passes the guard, and one that does not.
fn chain(head: &str, link: &str, lexemes_per_link: usize) {
    facts(format!("{head}{}", link.repeat(9_900 / lexemes_per_link)));
    too_complex(format!("{head}{}", link.repeat(100_000)));
}

#[test]
fn sums() {
    chain("SELECT 1", "+1", 2);
}

#[test]
fn alternatives() {
    chain("SELECT 1 FROM t WHERE a=1", " OR a=1", 4);
}

#[test]
fn conjunctions() {
    chain("SELECT 1 FROM t WHERE a=1", " AND a=1", 4);
}

#[test]
fn set_operations() {
    chain("SELECT 1", " UNION ALL SELECT 1", 4);
}

#[test]
fn set_operations_with_commas() {
    facts(format!("SELECT 1,2{}", " UNION SELECT 1,2".repeat(4_900)));
    too_complex(format!("SELECT 1,2{}", " UNION SELECT 1,2".repeat(100_000)));
}

#[test]
fn concatenated_arrays() {
    chain("SELECT a", "||ARRAY[1,2]", 4);
}

#[test]
fn subscripts() {
    chain("SELECT a", "[1]", 2);
}

#[test]
fn casts() {
    chain("SELECT a", "::int", 2);
}

#[test]
fn fields() {
    too_complex(format!("SELECT a{}", ".b".repeat(100_000)));
}

#[test]
fn nesting_ends_in_an_error() {
    too_complex(format!(
        "SELECT {}1{}",
        "(".repeat(100_000),
        ")".repeat(100_000)
    ));
    too_complex(format!("SELECT 1 WHERE {}a", "NOT ".repeat(100_000)));
    too_complex(format!(
        "SELECT {}1{}",
        "f(".repeat(5_000),
        ")".repeat(5_000)
    ));
    too_complex(format!("SELECT {}1{}", "- ".repeat(100_000), ""));
}

#[test]
fn joins_that_nest() {
    let joins = |count: usize| {
        format!(
            "SELECT * FROM a{}{}",
            " JOIN b".repeat(count),
            " ON true".repeat(count)
        )
    };
    facts(joins(100));
    too_complex(joins(101));
    facts(format!("SELECT * FROM a{}", " JOIN b ON true".repeat(250)));
}

#[test]
fn modest_nesting_is_read() {
    facts(format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100)));
    facts(format!(
        "SELECT {}1{}",
        "(SELECT ".repeat(30),
        ")".repeat(30)
    ));
}

/// At its limit the parser gives several messages; none of them may end the process.
#[test]
fn deep_nesting_of_all_kinds_is_survived() {
    let nested =
        |open: &str, close: &str| format!("SELECT {}1{}", open.repeat(3_000), close.repeat(3_000));
    for text in [
        nested("CASE WHEN a THEN ", " END"),
        nested("NOT (", ")"),
        nested("(SELECT ", ")"),
        nested("ARRAY[", "]"),
        nested("a IN (", ")"),
        nested("EXISTS (SELECT ", ")"),
        nested("CAST(", " AS int)"),
        format!("SELECT * FROM {}a{}", "(".repeat(3_000), ")".repeat(3_000)),
        format!(
            "SELECT * FROM {}a{}",
            "(SELECT * FROM ".repeat(3_000),
            ") b".repeat(3_000)
        ),
        format!("{}SELECT 1{}", "(".repeat(3_000), ")".repeat(3_000)),
        format!(
            "{}SELECT 1{}",
            "WITH a AS (".repeat(3_000),
            ") SELECT 1".repeat(3_000)
        ),
        format!(
            "SELECT * FROM a{}{}",
            " JOIN b".repeat(2_000),
            " ON true".repeat(2_000)
        ),
    ] {
        on_small_stack(move || {
            read(&text).ok();
        });
    }
}

#[test]
fn long_lists_pass() {
    facts(format!(
        "SELECT 1 FROM t WHERE a IN (1{})",
        ",1".repeat(100_000)
    ));
    facts(format!(
        "INSERT INTO t VALUES (1,'a'){}",
        ",(1,'a')".repeat(20_000)
    ));
}

#[test]
fn what_is_too_long_to_parse_is_shown_by_its_words() {
    on_small_stack(|| {
        let read =
            read(&format!("INSERT INTO t VALUES ('{}')", "x".repeat(5 << 20))).expect("read");
        let Body::Unparsed { words, .. } = &read[0].body else {
            panic!("parsed");
        };
        assert_eq!(words.join(" "), "insert into t values");
    });
}

#[test]
fn errors_have_a_state_and_a_place() {
    assert_eq!(
        read("SELECT 1; SELECT 'a")
            .expect_err("unterminated")
            .position(),
        17
    );
    assert_eq!(
        read("SELECT 'a").expect_err("unterminated").sqlstate(),
        "42601"
    );
    assert!(matches!(
        read("SELECT U&\"a\""),
        Err(SqlError::Unsupported { position: 7, .. })
    ));
}
