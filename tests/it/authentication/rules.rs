//! Rules in the format of `pg_hba.conf`.

use super::stage::{FAILED, PASSWORD, PREPARED, Proxy, WHO, said};

#[test]
fn the_rules_say_how_users_log_in() {
    let rules = "local all ann trust\n\
                 local all all scram-sha-256\n\
                 host all olga 127.0.0.0/8 md5\n\
                 host all bob 127.0.0.1 255.255.255.255 password\n\
                 host trunkline all all reject\n\
                 host app ann 10.0.0.0/8 trust\n\
                 host app ann,dan all scram-sha-256\n\
                 hostssl all all all trust\n";
    let sections = format!(
        "users = [{{ name = \"ann\", password = \"{PASSWORD}\" }}]\n[listen]\nunix_socket_directory = \".\"\n\
         [auth]\nhba_file = \"pg_hba.conf\"\n[auth.query]\nuser = \"asker\"\npassword = \"{PASSWORD}\"\n"
    );
    let proxy = Proxy::start(&[("pg_hba.conf", rules)], &sections);
    for user in ["ann", "bob", "olga"] {
        for sql in WHO {
            assert_eq!(
                proxy.psql(user, PREPARED, sql).as_deref(),
                Ok(user),
                "{sql}"
            );
        }
        said(&proxy.psql(user, "wrong", "SELECT 1"), FAILED);
    }
    let socket = format!("host={}", proxy.folder.path().display());
    assert_eq!(
        proxy.psql_with(&socket, "ann", "", WHO[0]).as_deref(),
        Ok("ann")
    );
    assert_eq!(
        proxy.psql_with(&socket, "bob", PREPARED, WHO[1]).as_deref(),
        Ok("bob")
    );
    said(&proxy.psql_with(&socket, "bob", "wrong", WHO[1]), FAILED);

    let nobody = "no pg_hba.conf entry for host \"127.0.0.1\", user \"asker\", database \"app\", no encryption";
    said(&proxy.psql("asker", PASSWORD, "SELECT 1"), nobody);
    said(
        &proxy.psql_with(
            "sslmode=disable dbname=trunkline",
            "ann",
            PREPARED,
            "SHOW VERSION",
        ),
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"ann\", database \"trunkline\", no encryption",
    );

    proxy.write(
        "pg_hba.conf",
        "host all all all peer\nhost all all all md5\n",
    );
    let problems = proxy.reload().unwrap_err();
    let told = problems[0].to_string();
    assert!(
        told.contains("pg_hba.conf:1: the method \"peer\" is not supported"),
        "{told}"
    );
    assert!(proxy.psql("ann", PREPARED, "SELECT 1").is_ok());
    proxy.write("pg_hba.conf", "host all all all reject\n");
    proxy.reload().unwrap();
    said(
        &proxy.psql("ann", PREPARED, "SELECT 1"),
        "pg_hba.conf rejects connection",
    );
}
