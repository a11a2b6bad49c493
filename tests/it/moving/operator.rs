//! What operators say of plans, and what they are told: the admin database and the command line.

mod stand_in;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::proxy::{DATABASE, Proxy, proxy};
use crate::raw::{Format, Raw};
use crate::servers::cluster;
use stand_in::{Reply, StandIn};

fn admin() -> Raw {
    Raw::connect(proxy().address.port(), "boss", "trunkline")
}

#[test]
fn a_mistake_has_its_place_and_the_way_out() {
    let mut admin = admin();
    let text = "SHOW VERSION; RESHARD CUTOVER split MAX PAUSE 200 minutes";
    for answer in [admin.simple(text), admin.simple(text)] {
        assert_eq!(answer.tags, Vec::<String>::new());
        let error = answer.error.unwrap();
        assert_eq!(error.sqlstate(), "42601");
        assert_eq!(
            error.field('M'),
            "RESHARD is not understood: minutes, where MS or S was expected"
        );
        assert_eq!(
            error.field('P'),
            (text.find("minutes").unwrap() + 1).to_string()
        );
        assert_eq!(
            error.field('H'),
            "Like this: RESHARD CUTOVER plan [MAX PAUSE 200 ms]."
        );
    }
    let error = admin
        .extended("RESHARD PLAN p DRAIN", &[], Format::Text)
        .error
        .unwrap();
    assert_eq!((error.sqlstate(), error.field('P')), ("42601", "21"));
    // The connection goes on.
    assert_eq!(admin.simple("SHOW VERSION").tags, ["SHOW 1"]);
}

#[test]
fn a_refusal_is_an_error() {
    let mut admin = admin();
    for statement in [
        "RESHARD SHOW no_such_plan",
        "RESHARD STATUS no_such_plan",
        "RESHARD CHECK no_such_plan",
        "RESHARD CUTOVER no_such_plan MAX PAUSE 1 s",
    ] {
        let error = admin.simple(statement).error.unwrap();
        assert_eq!(error.field('S'), "ERROR", "{statement}");
        let sqlstate = error.sqlstate();
        assert!(
            matches!(sqlstate, "0A000" | "42704"),
            "{statement}: {error:?}"
        );
    }
}

/// Programs that prepare are told the columns before anything is asked of a plan.
#[test]
fn columns_are_told_before_the_answer() {
    let mut admin = admin();
    let mut names = |statement: &str| {
        let answer = admin.extended(statement, &[], Format::Text);
        let columns = &answer.columns[0];
        let names = columns.iter().map(|(name, ..)| &**name);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("RESHARD SHOW p"), "page");
    assert_eq!(names("RESHARD PAUSE p"), "plan phase");
    assert_eq!(names("RESHARD EVENTS"), "at plan by what");
    assert_eq!(names("SHOW RESHARD EVENTS p"), "at plan by what");
    assert!(names("RESHARD STATUS p").starts_with("plan database item table from_shard"));
    let all = names("SHOW RESHARDS");
    assert!(all.starts_with("plan database phase pace"), "{all}");
    assert_eq!(names("RESHARD STATUS"), all);
}

#[test]
fn help_lists_the_statements() {
    let lines = admin().simple("SHOW HELP").lines();
    for statement in ["SHOW RESHARDS", "RESHARD PLAN plan AS", "RESHARD CUTOVER"] {
        let listed = lines.iter().any(|line| line.starts_with(statement));
        assert!(listed, "{statement}: {lines:#?}");
    }
}

#[test]
fn only_administrators_may() {
    let port = proxy().address.port();
    let error = Raw::try_connect(port, "trusty", "trunkline").err().unwrap();
    assert_eq!(error.sqlstate(), "42501");
    // To a database it is a statement like any other.
    let mut client = Raw::connect(port, "trusty", DATABASE);
    let error = client.simple("RESHARD STATUS").error.unwrap();
    assert_eq!(error.sqlstate(), "42601");
}

/// `trunkline reshard` with nothing of this process's environment that speaks of servers.
fn reshard(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    for name in [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGPASSWORD",
        "PGPASSFILE",
        "PGSSLMODE",
        "PGSSLROOTCERT",
        "HOME",
    ] {
        command.env_remove(name);
    }
    command
        .arg("reshard")
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn at(port: u16, user: &str, words: &[&str]) -> Said {
    let port = port.to_string();
    let to = ["--host", "127.0.0.1", "-p", &port, "-U", user];
    said(reshard(&[words, &to[..]].concat(), &[]))
}

#[test]
fn a_command_line_that_is_not_understood() {
    let found = said(reshard(&["plan", "p", "as", "a -> b 50%"], &[]));
    assert_eq!(found.code, Some(2));
    assert_eq!(
        found.err,
        "plan p as 'a -> b 50%'\n                ^ at character 17: parts of 50%, where a sum of 100% was expected\n"
    );
    let found = said(reshard(
        &["plan", "p", "move", "values", "acme", "to", "b"],
        &[],
    ));
    assert_eq!(found.code, Some(2));
    assert!(
        found.err.contains("hint: the shell takes quotes away"),
        "{found:?}"
    );
    for (words, wanted) in [
        (&["status", "--wait"][..], "--wait is for check"),
        (&["pause", "p", "--wait"], "--wait is for check"),
        (
            &["status", "--watch"],
            "--watch is for status with the name",
        ),
        (
            &["check", "p", "--watch"],
            "--watch is for status with the name",
        ),
        (&["status", "p", "--wait", "--watch"], "cannot be used with"),
        (&[], "required"),
        (&["status", "--sslmode", "some"], "verify-full"),
    ] {
        let found = said(reshard(words, &[]));
        assert_eq!(found.code, Some(2), "{words:?}: {found:?}");
        assert!(found.err.contains(wanted), "{words:?}: {found:?}");
    }
    let help = said(reshard(&["--help"], &[]));
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("cutover NAME"), "{help:?}");
}

#[test]
fn who_cannot_come_in_is_told_why() {
    let port = proxy().address.port();
    let found = at(port, "boss", &["status", "no_such_plan"]);
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.err.starts_with("error: "), "{found:?}");

    let found = at(port, "trusty", &["status"]);
    assert_eq!(found.code, Some(1));
    assert!(found.err.contains("not an admin user (42501)"), "{found:?}");
    assert!(
        found.err.contains("hint: Give the user admin = true"),
        "{found:?}"
    );

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().port();
    drop(free);
    let found = at(nobody, "boss", &["status"]);
    assert_eq!(found.code, Some(1));
    let wanted = format!("error: Trunkline cannot be reached at 127.0.0.1:{nobody}: ");
    assert!(found.err.starts_with(&wanted), "{found:?}");
    assert!(found.err.contains("Connection refused"), "{found:?}");
    assert!(found.err.contains("hint: Is it running there"), "{found:?}");

    let postgres = cluster().shards()[0].primary.port();
    let found = at(postgres, "app", &["status"]);
    assert_eq!(found.code, Some(1));
    assert!(
        found
            .err
            .contains("A Postgres server seems to listen there"),
        "{found:?}"
    );
}

#[test]
fn passwords_come_from_where_psql_takes_them() {
    let proxy = Proxy::start(
        "workers = 1\n[[users]]\nname = \"chief\"\npassword = \"pass:word\"\nadmin = true\nserver_user = \"app\"\n",
    );
    let port = proxy.address.port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    // Whoever is let in is told something of plans.
    let comes_in = |arguments: &[&str], environment: &[(&str, &str)]| {
        let found = said(reshard(
            &[&["show", "no_such_plan"], arguments].concat(),
            environment,
        ));
        assert_eq!(found.code, Some(1), "{found:?}");
        match found.err.contains("password") {
            true => Err(found.err),
            false => Ok(()),
        }
    };
    let to = ["--host", "127.0.0.1", "-p", &port, "-U", "chief"];
    let asked = comes_in(&to, &[]).unwrap_err();
    assert!(asked.contains("asks for the password of chief"), "{asked}");
    let wrong = comes_in(&to, &[("PGPASSWORD", "wrong")]).unwrap_err();
    assert!(
        wrong.contains("28P01") && wrong.contains("hint: "),
        "{wrong}"
    );
    comes_in(&to, &[("PGPASSWORD", "pass:word")]).unwrap();

    let line = format!("127.0.0.1:{port}:trunkline:chief:pass\\:word\n");
    let passwords = file(".pgpass", &line);
    comes_in(&to, &[("PGPASSFILE", passwords.to_str().unwrap())]).unwrap();
    comes_in(&to, &[("HOME", folder.path().to_str().unwrap())]).unwrap();
    let environment = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", "chief"),
        ("PGPASSWORD", "pass:word"),
    ];
    comes_in(&[], &environment).unwrap();

    let text = format!(
        "users = [{{ name = \"app\", password = \"x\" }}, {{ name = \"chief\", password = \"pass:word\", admin = true }}]\n\
         databases = [{{ name = \"app\" }}]\nshards = [{{ name = \"s1\", nodes = [{{ host = \"h1\" }}] }}]\n\
         [listen]\naddresses = [\"0.0.0.0:{port}\"]\n"
    );
    let config = file("trunkline.toml", &text);
    let config = ["--config", config.to_str().unwrap()];
    comes_in(&config, &[("PGPORT", "1")]).unwrap();
    let found = said(reshard(&["status", "--config", "/nowhere.toml"], &[]));
    assert_eq!(found.code, Some(1));
    assert!(found.err.contains("/nowhere.toml: "), "{found:?}");
}

const DETAILS: &str = "plan database item table from_shard to_shard state copied_rows estimated_rows copied_bytes lag_bytes differences detail as_of";

/// Rows of RESHARD STATUS p: a plan in this phase, and one table.
fn status(phase: &str, pace: &str, copied: u64, second: u64, more: &[&str]) -> Reply {
    let state = if copied == 1000 { "copied" } else { "copying" };
    let mut rows = vec![
        format!("p|shop|plan|-|-|-|{phase}|-|-|-|-|-|-|2026-01-01 00:00:{second:02}.000 UTC"),
        format!("p|shop|pace|-|-|-|{pace}|-|-|-|-|-|-|-"),
        "p|shop|driver|-|-|-|-|-|-|-|-|-|proxy-1|-".to_owned(),
        format!(
            "p|shop|table|public.t|a|b|{state}|{copied}|1000|{}|-|-|-|-",
            copied * 100
        ),
        "p|shop|stream|-|a|b|-|-|-|-|2048|-|-|-".to_owned(),
    ];
    rows.extend(more.iter().map(|row| (*row).to_owned()));
    Reply::rows(DETAILS, &rows.iter().map(|row| &**row).collect::<Vec<_>>())
}

fn events(what: &[&str]) -> Reply {
    let rows: Vec<String> = what
        .iter()
        .enumerate()
        .map(|(place, what)| format!("2026-01-01 00:00:0{place}.000 UTC|p|proxy-1|{what}"))
        .collect();
    Reply::rows(
        "at plan by what",
        &rows.iter().map(|row| &**row).collect::<Vec<_>>(),
    )
}

fn taken(phase: &str) -> Reply {
    Reply::rows("plan phase", &[&format!("p|{phase}")])
}

#[test]
fn a_plan_is_watched_to_its_end() {
    let proxy = StandIn::start(vec![
        (
            "RESHARD STATUS \"p\"",
            status("copying", "going", 250, 1, &[]),
        ),
        (
            "RESHARD STATUS \"p\"",
            status("copying", "going", 500, 2, &[]),
        ),
        (
            "RESHARD STATUS \"p\"",
            status("cut over", "going", 1000, 3, &[]),
        ),
    ]);
    let found = at(proxy.port, "boss", &["status", "p", "--watch"]);
    proxy.done();
    assert_eq!((found.code, &*found.err), (Some(0), ""));
    assert_eq!(
        found.out,
        "p in shop: copying, driven by proxy-1; 250 of about 1,000 rows copied; lag 2.0 kB\n\
         p in shop: copying, driven by proxy-1; 500 of about 1,000 rows copied; lag 2.0 kB\n\
         p in shop: cut over, driven by proxy-1; 1,000 rows copied; lag 2.0 kB\n"
    );
}

#[test]
fn a_check_is_waited_for() {
    let problem = "p|shop|problem|-|-|-|-|-|-|-|-|-|public.t has no key|-";
    let proxy = StandIn::start(vec![
        ("RESHARD EVENTS \"p\"", events(&["planned"])),
        ("RESHARD check p", taken("planned")),
        ("RESHARD EVENTS \"p\"", events(&["planned"])),
        (
            "RESHARD STATUS \"p\"",
            status("planned", "going", 0, 1, &[]),
        ),
        ("RESHARD EVENTS \"p\"", events(&["planned", "checked"])),
        (
            "RESHARD STATUS \"p\"",
            status("planned", "going", 0, 1, &[problem]),
        ),
    ]);
    let found = at(proxy.port, "boss", &["check", "p", "--wait"]);
    proxy.done();
    assert_eq!(found.code, Some(1));
    assert_eq!(
        found.out,
        "p: planned\n2026-01-01 00:00:01.000 UTC  p: checked (proxy-1)\n"
    );
    assert_eq!(
        found.err,
        "error: a problem stands against it:\n  public.t has no key\n"
    );
}

/// Neither a proxy that is away for a moment nor a cutover that is tried again ends the waiting; a stop does.
#[test]
fn a_wait_outlives_the_proxy() {
    let given_up = "cutting over is given up: transactions on moving keys did not end in time";
    let proxy = StandIn::start(vec![
        (
            "RESHARD EVENTS \"p\"",
            events(&["tried too often; CUTOVER tries again"]),
        ),
        ("RESHARD cutover p max pause 200 ms", taken("verified")),
        ("RESHARD EVENTS \"p\"", Reply::Goes),
        (
            "RESHARD EVENTS \"p\"",
            events(&["tried too often; CUTOVER tries again", given_up]),
        ),
        (
            "RESHARD STATUS \"p\"",
            status("verified", "going", 1000, 1, &[]),
        ),
        (
            "RESHARD EVENTS \"p\"",
            events(&["tried too often; CUTOVER tries again", given_up, "cut over"]),
        ),
        (
            "RESHARD STATUS \"p\"",
            status("cut over", "going", 1000, 2, &[]),
        ),
    ]);
    let words = ["cutover", "p", "max", "pause", "200", "ms", "--wait"];
    let found = at(proxy.port, "boss", &words);
    proxy.done();
    assert_eq!((found.code, &*found.err), (Some(0), ""), "{found:?}");
    let lines: Vec<&str> = found.out.lines().collect();
    assert!(
        matches!(&lines[..], ["p: verified", lost, first, second, "p: cut over"]
            if lost.ends_with("; it is tried again") && first.contains(given_up) && second.contains("p: cut over (proxy-1)")),
        "{found:?}"
    );

    let proxy = StandIn::start(vec![
        ("RESHARD EVENTS \"p\"", events(&[])),
        ("RESHARD start p", taken("copying")),
        ("RESHARD EVENTS \"p\"", events(&[])),
        (
            "RESHARD STATUS \"p\"",
            status("copying", "stopped", 5, 1, &[]),
        ),
    ]);
    let found = at(proxy.port, "boss", &["start", "p", "--wait"]);
    proxy.done();
    assert_eq!(found.code, Some(1));
    assert_eq!(
        found.err,
        "error: the plan has stopped; mend that and RESUME, or CANCEL\n"
    );
}

#[test]
fn answers_are_shown_and_refusals_explained() {
    let refusal = Reply::Refused {
        sqlstate: "55000",
        message: "the plan is copying: CUTOVER is done from verified (VERIFY first)",
        hint: "RESHARD STATUS says how far it is.",
    };
    let plans = "plan database phase pace copied_rows percent lag_bytes retained_bytes driver note";
    let proxy = StandIn::start(vec![
        (
            "RESHARD plan p as 'a -> a 50%, b 50%'",
            Reply::rows("page", &["distribution d: hash", "  move a -> b"]),
        ),
        ("RESHARD cutover p", refusal),
        (
            "RESHARD status",
            Reply::rows(plans, &["p|shop|copying|going|1234567|42|2048|-|proxy-1|-"]),
        ),
        ("RESHARD status", Reply::rows(plans, &[])),
        ("RESHARD events", events(&["planned"])),
        ("RESHARD status p", status("copying", "going", 250, 1, &[])),
    ]);
    let ask = |words: &[&str]| at(proxy.port, "boss", words);
    let found = ask(&["plan", "p", "as", "a -> a 50%, b 50%"]);
    assert_eq!(found.out, "distribution d: hash\n  move a -> b\n");
    let found = ask(&["cutover", "p"]);
    assert_eq!(found.code, Some(1));
    assert_eq!(
        found.err,
        "error: the plan is copying: CUTOVER is done from verified (VERIFY first) (55000)\n\
         hint: RESHARD STATUS says how far it is.\n"
    );
    assert_eq!(
        ask(&["status"]).out,
        "plan  database  phase    pace   rows       percent  lag     log kept  driver   note\n\
         p     shop      copying  going  1,234,567  42%      2.0 kB            proxy-1\n"
    );
    assert_eq!(ask(&["status"]).out, "there are no plans\n");
    assert_eq!(
        ask(&["events"]).out,
        "2026-01-01 00:00:00.000 UTC  p: planned (proxy-1)\n"
    );
    assert_eq!(
        ask(&["status", "p"]).out,
        "p in shop: copying, driven by proxy-1\n  \
         [#######.......................]  25% 250 of about 1,000 rows copied, 24 kB\n  \
         public.t  a -> b  [#####...............]  25% 250 of about 1,000 rows copied, 24 kB\n  \
         a -> b: 0 changes applied, lag 2.0 kB\n"
    );
    proxy.done();
}
