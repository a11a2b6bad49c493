//! Users that no file of the proxy names, and users of the password file.

use std::collections::BTreeSet;

use super::stage::{FAILED, PASSWORD, PREPARED, Proxy, WHO, cluster, said};
use crate::servers::{value, wait_until};
use crate::wire_client::Wire;

fn asking(more: &str) -> String {
    format!("[auth.query]\nuser = \"asker\"\npassword = \"{PASSWORD}\"\n{more}\n")
}

const ADMIN: &str = "users = [{ name = \"bob\", admin = true }]\n";

#[test]
fn whoever_is_in_pg_authid_may_log_in() {
    let proxy = Proxy::start(&[], &(ADMIN.to_owned() + &asking("")));
    for user in ["ann", "bob", "olga"] {
        for sql in WHO {
            // The client's own login opens the servers: no file has these passwords.
            assert_eq!(
                proxy.psql(user, PREPARED, sql).as_deref(),
                Ok(user),
                "{sql}"
            );
        }
    }
    // A password that is past its date, a role that may not log in, a wrong password, and nobody at all: all the same.
    let refused: BTreeSet<String> = [
        ("eve", PREPARED),
        ("idle", PREPARED),
        ("ann", "wrong"),
        ("nobody there", PREPARED),
    ]
    .map(|(user, password)| {
        let refused = proxy.psql(user, password, "SELECT 1").unwrap_err();
        let refused = refused.replace(&format!("\"{user}\""), "<user>");
        refused.split_once("FATAL").unwrap().1.to_owned()
    })
    .into();
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        [":  password authentication failed for user <user>"]
    );
    // The admin database is for users that are configured, wherever their passwords are.
    let how = "sslmode=disable dbname=trunkline";
    let users = proxy.psql_with(how, "bob", PREPARED, "SHOW USERS").unwrap();
    assert!(users.contains("olga|") && users.contains("ann|"), "{users}");
    said(
        &proxy.psql_with(how, "bob", "wrong", "SHOW VERSION"),
        FAILED,
    );
    said(
        &proxy.psql_with(how, "ann", PREPARED, "SHOW VERSION"),
        "permission denied for the admin database",
    );
}

#[test]
fn a_name_is_asked_for_once_and_only_in_pg_catalog() {
    let server = &cluster().shards()[0].primary;
    server
        .run_sql(
            "app",
            "CREATE SCHEMA asking; CREATE TABLE asking.asked (name text, path text, at timestamptz DEFAULT clock_timestamp());
             GRANT ALL ON SCHEMA asking TO PUBLIC;
             CREATE FUNCTION asking.lookup(who name, OUT rolname name, OUT password text) LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO asking.asked VALUES (who, current_setting('search_path'));
                PERFORM pg_catalog.pg_sleep(0.3);
                SELECT a.rolname, a.rolpassword INTO rolname, password FROM pg_catalog.pg_authid a WHERE a.rolname = who;
             END $$",
        )
        .unwrap();
    // Where somebody set it for the role, it is not heeded.
    server
        .run_sql(
            "app",
            "ALTER ROLE asker SET search_path = asking, pg_catalog",
        )
        .unwrap();
    let proxy = Proxy::start(
        &[],
        &asking(
            "sql = \"SELECT * FROM asking.lookup($1) WHERE rolname IS NOT NULL\"\nfailure_time = \"4s\"",
        ),
    );
    let asked = |name: &str| {
        let sql = format!("SELECT count(*) FROM asking.asked WHERE name = '{name}'");
        value(server, "app", &sql).unwrap()
    };
    let log_in = |user: &str, password: &str| {
        let address = ([127, 0, 0, 1], proxy.port).into();
        Wire::log_in(address, &[("user", user), ("database", "app")], password)
    };
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert!(log_in("ann", PREPARED).is_ok()));
            scope.spawn(|| assert!(log_in("stranger", PREPARED).is_err()));
        }
    });
    assert_eq!((asked("ann"), asked("stranger")), ("1".into(), "1".into()));
    assert!(log_in("ann", PREPARED).is_ok());
    assert_eq!(asked("ann"), "1", "it is remembered");
    let paths = value(server, "app", "SELECT DISTINCT path FROM asking.asked").unwrap();
    assert_eq!(paths, "pg_catalog, pg_temp");
    // After a wrong password both are forgotten at the same time.
    assert!(log_in("ann", "wrong").is_err());
    for name in ["ann", "stranger"] {
        wait_until("both are asked for again", || {
            let _ = log_in(name, "wrong");
            asked(name) == "2"
        });
    }
}

#[test]
fn a_changed_password_is_found_out() {
    let proxy = Proxy::start(&[], &asking("cache_time = \"1h\"\nfailure_time = \"1ms\""));
    assert_eq!(proxy.psql("dan", PREPARED, WHO[1]).as_deref(), Ok("dan"));
    let [first, second] = [0, 1].map(|at| &cluster().shards()[at].primary);
    first
        .run_sql("postgres", "ALTER ROLE dan PASSWORD 'another'")
        .unwrap();
    let verifier = value(
        first,
        "postgres",
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'dan'",
    );
    // A session that has no server connection yet, of the old password.
    second
        .run_sql(
            "postgres",
            &format!("ALTER ROLE dan PASSWORD '{}'", verifier.unwrap()),
        )
        .unwrap();
    said(&proxy.psql("dan", "another", "SELECT 1"), FAILED);
    wait_until("the new password is known", || {
        proxy.psql("dan", "another", WHO[0]).is_ok()
    });
    // The servers are shown the new keys from now on.
    for server in [first, second] {
        let of_dan = "FROM pg_stat_activity WHERE usename = 'dan'";
        let sql = format!("SELECT pg_terminate_backend(pid) {of_dan}");
        server.run_sql("postgres", &sql).unwrap();
        wait_until("dan has no connection", || {
            value(server, "postgres", &format!("SELECT count(*) {of_dan}")).unwrap() == "0"
        });
    }
    for sql in WHO {
        assert_eq!(proxy.psql("dan", "another", sql).as_deref(), Ok("dan"));
    }
    said(&proxy.psql("dan", PREPARED, "SELECT 1"), FAILED);
}

#[test]
fn servers_that_keep_another_verifier_are_named() {
    // Each server makes a salt of its own.
    let sql = format!("CREATE ROLE lone LOGIN PASSWORD '{PASSWORD}'");
    for shard in cluster().shards() {
        shard.primary.run_sql("postgres", &sql).unwrap();
    }
    let proxy = Proxy::start(&[], &asking(""));
    assert_eq!(proxy.psql("lone", PREPARED, WHO[0]).as_deref(), Ok("lone"));
    said(
        &proxy.psql("lone", PREPARED, WHO[1]),
        "the server keeps another verifier than the one the client logged in with",
    );
}

#[test]
fn without_an_answer_nobody_is_let_in() {
    let sections = format!(
        "users = [{{ name = \"ann\", password = \"{PASSWORD}\" }}]\n[auth.query]\nuser = \"asker\"\npassword = \"wrong\"\n"
    );
    let proxy = Proxy::start(&[], &sections);
    said(
        &proxy.psql("bob", PREPARED, "SELECT 1"),
        "FATAL:  the password of user \"bob\" cannot be looked up",
    );
    assert_eq!(proxy.psql("ann", PREPARED, WHO[0]).as_deref(), Ok("ann"));
    let sections = asking("sql = \"SELECT 'else', rolpassword FROM pg_authid WHERE rolname = $1\"");
    let proxy = Proxy::start(&[], &sections);
    said(
        &proxy.psql("bob", PREPARED, "SELECT 1"),
        "cannot be looked up",
    );
    let sections = asking("timeout = \"200ms\"\nsql = \"SELECT $1, pg_sleep(600)::text\"");
    let proxy = Proxy::start(&[], &sections);
    said(
        &proxy.psql("bob", PREPARED, "SELECT 1"),
        "cannot be looked up",
    );
}

#[test]
fn the_password_file_is_read_again() {
    let server = &cluster().shards()[0].primary;
    let stored = |role: &str| {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        value(server, "postgres", &sql).unwrap()
    };
    let listed = |name: &str, password: &str| format!("\"{name}\" \"{password}\"\n");
    let file = [
        listed("ann", &stored("ann")),
        listed("olga", &stored("olga")),
        listed("bob", PASSWORD),
    ]
    .concat();
    let sections =
        "users = [{ name = \"ann\", admin = true }]\n[auth]\nusers_file = \"userlist.txt\"\n";
    let proxy = Proxy::start(&[("userlist.txt", &file)], sections);
    for user in ["ann", "olga", "bob"] {
        for sql in WHO {
            assert_eq!(proxy.psql(user, PREPARED, sql).as_deref(), Ok(user));
        }
        said(&proxy.psql(user, "wrong", "SELECT 1"), FAILED);
    }
    said(&proxy.psql("asker", PASSWORD, "SELECT 1"), FAILED);
    let admin =
        |sql: &str| proxy.psql_with("sslmode=disable dbname=trunkline", "ann", PREPARED, sql);
    assert!(admin("SHOW USERS").unwrap().contains("olga"));

    proxy.write(
        "userlist.txt",
        &(listed("ann", &stored("ann")) + &listed("asker", &stored("asker"))),
    );
    admin("RELOAD").unwrap();
    for sql in WHO {
        assert_eq!(proxy.psql("asker", PREPARED, sql).as_deref(), Ok("asker"));
    }
    said(&proxy.psql("bob", PREPARED, "SELECT 1"), FAILED);
    // A mistake changes nothing.
    proxy.write("userlist.txt", "\"ann\" \"x\"\n\"ann\" \"y\"\n");
    let refused = admin("RELOAD");
    said(&refused, "userlist.txt:2: ann: is on line 1 already");
    assert_eq!(
        proxy.psql("asker", PREPARED, WHO[0]).as_deref(),
        Ok("asker")
    );
}
