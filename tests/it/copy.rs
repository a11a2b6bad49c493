//! COPY in both directions on one shard, through Trunkline and on one server: the same messages, the same answers.

use crate::proxy::{proxy, same, shards_with};
use crate::wire_client::{
    Step, Until, ask, ask_for, bind, copy_data, copy_done, copy_fail, execute, flush, parse, query,
    run, sync,
};

const IN: &str = "COPY notes FROM STDIN";

/// Messages that end in one ReadyForQuery, whatever they look like.
fn once(messages: &[Vec<u8>]) -> Step {
    (messages.concat(), Until::Ready(1))
}

#[test]
fn a_simple_query_copies() {
    same(&[
        ask_for(&[query(IN)], 1),
        once(&[
            copy_data(b"3001\ta\n3002\t"),
            copy_data(b"b\n"),
            copy_done(),
        ]),
        ask(&[query(
            "COPY (SELECT * FROM notes WHERE id BETWEEN 3001 AND 3009 ORDER BY id) TO STDOUT",
        )]),
        // Everything at once.
        once(&[query(IN), copy_data(b"3003\tc\n"), copy_done()]),
        once(&[query(IN), copy_fail("no more")]),
        once(&[query(IN), copy_data(b"3004\td\n"), copy_fail("no more")]),
        // An error in the middle of the data; what follows is ignored.
        ask_for(&[query(IN)], 1),
        ask_for(
            &[copy_data(b"x\ty\n"), copy_data(b"3005\ty\n"), copy_done()],
            2,
        ),
        ask(&[query(
            "SELECT count(*) FROM notes WHERE id BETWEEN 3001 AND 3009",
        )]),
        // Flush and Sync mean nothing in the middle of it.
        once(&[
            query(IN),
            flush(),
            copy_data(b"3006\tf\n"),
            sync(),
            copy_done(),
        ]),
        // More than one, and in a transaction.
        ask_for(
            &[query(
                "BEGIN; COPY notes FROM STDIN; COPY notes FROM STDIN; COMMIT",
            )],
            2,
        ),
        ask_for(&[copy_data(b"3007\tg\n"), copy_done()], 2),
        once(&[copy_data(b"3008\th\n"), copy_done()]),
        ask(&[query("BEGIN")]),
        once(&[query(IN), copy_data(b"3009\ti\n"), copy_done()]),
        once(&[query(IN), copy_data(b"3009\ttwice\n"), copy_done()]),
        ask(&[query("ROLLBACK")]),
        ask(&[query(
            "SELECT count(*) FROM notes WHERE id BETWEEN 3001 AND 3009",
        )]),
        ask(&[query("DELETE FROM notes WHERE id BETWEEN 3001 AND 3009")]),
        // Data without a COPY.
        ask(&[
            copy_data(b"x"),
            copy_done(),
            copy_fail("x"),
            query("SELECT 1"),
        ]),
        ask(&[query("COPY notes FROM STDIN WITH (no_such_option)")]),
        ask(&[query(
            "COPY notes TO STDOUT (FORMAT csv, HEADER); SELECT 1/0",
        )]),
    ]);
}

#[test]
fn an_execute_copies() {
    same(&[
        // As libpq does it: the Sync comes along, and another one at the end.
        ask_for(&[run(IN, &[]), sync()], 3),
        once(&[copy_data(b"3101\ta\n"), copy_done(), sync()]),
        // As others do it: no Sync before the end.
        ask_for(&[run(IN, &[]), flush()], 3),
        once(&[copy_data(b"3102\ta\n"), copy_done(), sync()]),
        // Everything at once, with other statements around it.
        once(&[run(IN, &[]), copy_data(b"3103\ta\n"), copy_done(), sync()]),
        once(&[
            run(IN, &[]),
            sync(),
            copy_data(b"3104\ta\n"),
            copy_done(),
            sync(),
        ]),
        once(&[
            run("SELECT 1", &[]),
            run(IN, &[]),
            copy_data(b"3105\ta\n"),
            copy_done(),
            run(IN, &[]),
            copy_data(b"3106\ta\n"),
            copy_done(),
            run("SELECT 2", &[]),
            sync(),
        ]),
        // It fails by the client's will, and by the server's.
        once(&[
            run(IN, &[]),
            copy_fail("no more"),
            run("SELECT 1", &[]),
            sync(),
        ]),
        ask_for(&[run(IN, &[]), flush()], 3),
        ask_for(&[copy_data(b"x\ty\n")], 1),
        once(&[
            copy_data(b"3107\ty\n"),
            copy_done(),
            run("SELECT 1", &[]),
            sync(),
        ]),
        ask_for(&[run(IN, &[]), sync()], 3),
        ask_for(&[copy_data(b"x\ty\n")], 1),
        once(&[copy_data(b"3107\ty\n"), copy_done(), sync()]),
        once(&[
            parse("", IN, &[]),
            bind("", "", &[]),
            bind("", "no such", &[]),
            execute("", 0),
            copy_data(b"x"),
            copy_done(),
            sync(),
        ]),
        ask(&[
            run(
                "SELECT count(*) FROM notes WHERE id BETWEEN 3101 AND 3109",
                &[],
            ),
            sync(),
        ]),
        ask(&[
            run(
                "COPY (SELECT id FROM notes WHERE id BETWEEN 3101 AND 3109 ORDER BY id) TO STDOUT",
                &[],
            ),
            run("SELECT 1", &[]),
            sync(),
        ]),
        ask(&[
            run("DELETE FROM notes WHERE id BETWEEN 3101 AND 3109", &[]),
            sync(),
        ]),
        ask(&[query("SELECT 1")]),
    ]);
}

#[test]
fn another_message_in_the_middle_of_data_ends_the_session() {
    for bytes in [query("SELECT 1"), run("SELECT 1", &[]), bind("", "", &[])] {
        let mut client = proxy().client("trusty");
        client.step(&ask_for(&[query(IN)], 1));
        client.send(&[copy_data(b"3200\tnever\n"), bytes].concat());
        let said = client.rest();
        assert!(
            said.starts_with("E(FATAL 08P01 unexpected message type"),
            "{said}"
        );
    }
    assert!(shards_with("notes", "id = 3200").is_empty());
}

#[test]
fn what_several_shards_cannot_copy_is_refused() {
    let mut client = proxy().client("trusty");
    for sql in [
        "COPY customers FROM STDIN (ENCODING 'SJIS')",
        "COPY customers FROM STDIN (NULL 007)",
        "COPY customers (name) FROM STDIN",
        "COPY customers TO '/tmp/customers'",
    ] {
        let said = client.query(sql);
        assert!(
            said.starts_with("E(ERROR 0A000 ") && said.ends_with(" Z(I)"),
            "{sql}: {said}"
        );
        let said = client.ask(&[run(sql, &[]), sync()]);
        assert!(
            said.starts_with("E(ERROR 0A000 ") && said.ends_with(" Z(I)"),
            "{sql}: {said}"
        );
    }
    let said = client.step(&once(&[
        query("/* trunkline: shard=s3 */ COPY settings FROM STDIN"),
        copy_data(b"copied\tto s3\n"),
        copy_done(),
    ]));
    assert_eq!(said, "G C(COPY 1) Z(I)");
    assert_eq!(shards_with("settings", "name = 'copied'"), ["s3"]);
}
