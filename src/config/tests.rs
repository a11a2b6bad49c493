//! The files in `config/` and the golden file of mistakes.

use std::path::Path;

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn secrets(name: &str) -> Option<String> {
    name.ends_with("PASSWORD").then(|| "secret".to_owned())
}

fn read(file: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(file)).expect(file)
}

fn messages(text: &str) -> String {
    let problems = parse(text, "trunkline.toml", &secrets).expect_err("the file has mistakes");
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

/// A sound file, for tests that add to it.
const SOUND: &str = r#"
[[users]]
name = "app"
password = "secret"
[[databases]]
name = "app"
[[shards]]
name = "s1"
nodes = [{ host = "h" }]
"#;

#[test]
fn every_file_in_config_is_sound() {
    let mut files = 0;
    for file in std::fs::read_dir(Path::new(ROOT).join("config")).expect("config/") {
        let path = file.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        let config = parse(&text, &path.display().to_string(), &secrets);
        assert!(config.is_ok(), "{:#?}", config.err());
        files += 1;
    }
    assert!(files >= 4, "{files} files");
}

#[test]
fn all_mistakes_at_once() {
    let found = messages(&read("tests/golden/config/mistakes.toml"));
    let golden = Path::new(ROOT).join("tests/golden/config/mistakes.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).expect("written");
    }
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        found == wanted,
        "set UPDATE_GOLDEN=1 when the new messages are right:\n{found}"
    );
}

#[test]
fn a_wrong_secret_is_never_shown() {
    assert!(!messages(&read("tests/golden/config/mistakes.toml")).contains("12345678"));
    let config = parse(SOUND, "trunkline.toml", &secrets).expect("sound");
    assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    // Not even when the file is no TOML at all.
    assert!(!messages("[[users]]\nname = \"app\"\npassword = hunter2\n").contains("hunter2"));
}

/// The names after "allowed:" when a key is unknown in some section, which are all the keys of that section.
fn keys_of(section: &str) -> Vec<String> {
    let said = messages(section);
    let line = said
        .lines()
        .find(|line| line.contains("zzz: is not a key here"))
        .expect(&said);
    let (_, keys) = line.split_once("allowed: ").expect(line);
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_reference_file_has_every_key() {
    let reference = read("config/reference.toml");
    let manual = read("docs/CONFIG.md");
    let root = keys_of("zzz = 1");
    assert!(root.contains(&"tables".to_owned()), "{root:?}");
    let sections = [
        "[listen]\nzzz = 1",
        "[listen.tls]\nmode = \"require\"\nzzz = 1",
        "[log]\nzzz = 1",
        "[limits]\nzzz = 1",
        "[server_tls]\nzzz = 1",
        "[pool]\nzzz = 1",
        "[health]\nzzz = 1",
        "[transactions]\nzzz = 1",
        "[gather]\nzzz = 1",
        "[reads]\nzzz = 1",
        "[failover]\nzzz = 1",
        "[store]\nzzz = 1",
        "[store]\nkind = \"etcd\"\nzzz = 1",
        "[auth]\nzzz = 1",
        "[auth.query]\nzzz = 1",
        "[[users]]\nzzz = 1",
        "[[databases]]\nzzz = 1",
        "[[shards]]\nzzz = 1",
        "[[shards]]\nnodes = [{ zzz = 1 }]",
        "[[distributions]]\nzzz = 1",
        "[[distributions]]\npins = [{ zzz = 1 }]",
        "[[distributions]]\nstrategy = \"range\"\nranges = [{ zzz = 1 }]",
        "[[distributions]]\nstrategy = \"list\"\nvalues = [{ zzz = 1 }]",
        "[[distributions]]\nstrategy = \"geo\"\nregions = [{ zzz = 1 }]",
        "[[tables]]\nzzz = 1",
        "[[tables]]\nplacement = \"single\"\nzzz = 1",
    ];
    for key in sections.iter().flat_map(|section| keys_of(section)) {
        if ["tls", "query"].contains(&key.as_str()) {
            continue; // a section of its own
        }
        let said = reference.contains(&format!("{key} = "))
            || reference.contains(&format!("[[shards.{key}]]"));
        assert!(said, "{key} is not in config/reference.toml");
        assert!(
            manual.contains(&format!("`{key}`")),
            "{key} is not in docs/CONFIG.md"
        );
    }
}

#[test]
fn patroni_is_for_all_nodes_of_a_shard_and_promotes_alone() {
    let file = |more: &str, nodes: &[&str]| {
        let mut text = format!(
            "users = [{{ name = \"app\", auth = \"trust\" }}]\ndatabases = [{{ name = \"app\" }}]\n{more}\n[[shards]]\nname = \"s1\"\n"
        );
        for (place, patroni) in nodes.iter().enumerate() {
            text += &format!("[[shards.nodes]]\nhost = \"n{place}\"\n{patroni}\n");
        }
        text
    };
    let [http, https] =
        ["http", "https"].map(|scheme| format!("patroni = \"{scheme}://[::1]:8008/\""));
    let config = parse(&file("", &[&http, &http]), "trunkline.toml", &secrets).expect("sound");
    let url = config.shards[0].nodes[1].patroni.as_ref().expect("given");
    assert_eq!(url.to_string(), "http://[::1]:8008/primary");
    let promote = "[failover]\nmode = \"promote\"\nfence = \"none\"";
    let hook = "[failover]\nfence_url = \"https://h:1/x?y=1\"";
    let both = "[failover]\nfence_url = \"http://h:1/x\"\nfence = \"none\"";
    for (text, wanted) in [
        (
            file("", &[&http, ""]),
            "has no patroni, and another node of the shard has",
        ),
        (file(promote, &[&http]), "let one of the two do it"),
        (file("", &[&https]), "give failover.root_certificate"),
        (
            file("", &["patroni = \"10.0.0.1:8008\""]),
            "give the address of its Patroni",
        ),
        (
            file("", &["patroni = \"http://h:8008/primary\""]),
            "give the address of its Patroni",
        ),
        (file(hook, &[""]), "is https; give root_certificate"),
        (
            file(both, &[""]),
            "and so is fence_url; take one of them away",
        ),
        (
            file("[failover]\nfence_url = \"http://h/x\"", &[""]),
            "the address of a hook",
        ),
    ] {
        let said = messages(&text);
        assert!(
            said.contains(wanted) && said.lines().count() == 1,
            "{text}\n{said}"
        );
    }
}

/// What the reference file says of defaults is what is used when nothing is said.
#[test]
fn the_reference_file_shows_the_defaults() {
    let reference =
        parse(&read("config/reference.toml"), "reference.toml", &secrets).expect("sound");
    let bare = parse(SOUND, "bare.toml", &secrets).expect("sound");
    assert_eq!(
        format!("{:?}", reference.limits),
        format!("{:?}", bare.limits)
    );
    assert_eq!(format!("{:?}", reference.log), format!("{:?}", bare.log));
    assert_eq!(
        format!("{:?}", reference.server_tls),
        format!("{:?}", bare.server_tls)
    );
    let query = &reference.authentication.query;
    let text = format!("{SOUND}[auth.query]\nuser = \"auth_reader\"\npassword = \"secret\"\n");
    let shortest = parse(&text, "bare.toml", &secrets).expect("sound");
    assert_eq!(
        format!("{query:?}"),
        format!("{:?}", shortest.authentication.query)
    );
    assert_eq!(reference.pool, bare.pool);
    assert_eq!(reference.health, bare.health);
    assert_eq!(reference.transactions, bare.transactions);
    assert_eq!(reference.gather, bare.gather);
    assert_eq!(reference.reads, bare.reads);
    assert_eq!(reference.failover, bare.failover);
    assert_eq!(reference.store, bare.store);
    assert_eq!(reference.listen.addresses, bare.listen.addresses);
    assert!(matches!(bare.listen.tls, ClientTls::Disable));
    assert!(matches!(
        reference.distributions[0].strategy,
        Strategy::Hash {
            function: HashFunction::Postgres,
            buckets: 4096,
            ..
        }
    ));
}

#[test]
fn the_file_with_everything() {
    let config = parse(&read("config/tests.toml"), "tests.toml", &secrets).expect("sound");
    assert_eq!(config.workers, 2);
    assert_eq!(config.listen.http, None);
    assert_eq!(
        (config.pool.idle_timeout, config.pool.max_lifetime),
        (None, None)
    );
    assert_eq!(
        config.health,
        Health {
            interval: Duration::from_millis(250),
            timeout: Duration::from_millis(500),
            fall: 2,
            rise: 1,
            ..parse(SOUND, "bare.toml", &secrets).expect("sound").health
        }
    );
    let user = |name: &str| {
        config
            .users
            .iter()
            .find(|user| user.name == name)
            .expect(name)
    };
    assert!(matches!(user("app").password, Password::Plain(_)));
    assert!(matches!(user("verifier").password, Password::Verifier(_)));
    assert!(matches!(user("old").password, Password::Md5(_)));
    let methods = ["app", "verifier", "old", "local"].map(|name| user(name).auth);
    let [scram, md5, trust] = [Method::Scram, Method::Md5, Method::Trust].map(Some);
    assert_eq!(methods, [scram, scram, md5, trust]);
    assert_eq!(user("app").server_password, Some(Secret("app".to_owned())));
    assert_eq!(
        user("verifier").server_password,
        Some(Secret("pencil".to_owned()))
    );
    assert_eq!(user("local").server_password, None);
    let [app, legacy] = &config.databases[..] else {
        panic!("two databases")
    };
    assert_eq!(
        (
            legacy.server_database.as_str(),
            legacy.sequences,
            legacy.sequence_block
        ),
        ("legacy_production", Sequences::PerShard, 32)
    );
    // The database's word, that of [transactions].
    assert_eq!(
        config.cross_shard_commit(legacy),
        CrossShardCommit::BestEffort
    );
    assert_eq!(config.cross_shard_commit(app), CrossShardCommit::Atomic);
    // The user's word, the database's, the pool's.
    assert_eq!(config.pool_of(user("app"), legacy).size, 3);
    assert_eq!(config.pool_of(user("old"), legacy).size, 2);
    assert_eq!(config.pool_of(user("old"), app).size, 5);
    assert_eq!(config.pool_of(user("old"), legacy).mode, PoolMode::Session);
    assert_eq!(config.shards[0].nodes[1].port, 5511);
    let distribution = |name: &str| {
        config
            .distributions
            .iter()
            .find(|d| d.name == name)
            .expect(name)
    };
    assert_eq!(distribution("customers").pins[1].key, ["-1"]);
    assert_eq!(
        distribution("messages").pins[0].key,
        ["news", "2024-02-29T12:00:00Z"]
    );
    let Strategy::Hash {
        shards: BucketMap::Assigned(assigned),
        ..
    } = &distribution("sessions").strategy
    else {
        panic!("assigned buckets")
    };
    assert_eq!(assigned[0], ("s1".to_owned(), vec![(0, 3), (12, 15)]));
    let Strategy::Range(ranges) = &distribution("events").strategy else {
        panic!("ranges")
    };
    assert_eq!(
        (ranges[1].from.as_deref(), ranges[1].to.as_deref()),
        (Some("2024-01-01"), Some("2025-01-01"))
    );
    let table = |name: &str| {
        config
            .tables
            .iter()
            .find(|table| table.name == name)
            .expect(name)
    };
    assert_eq!(table("sessions").schema, "web");
    assert_eq!(table("Settings").database, "app");
    let TablePlacement::Sharded { key, .. } = &table("contracts").placement else {
        panic!("sharded")
    };
    assert_eq!(key, &["Tenant"]);
}

#[test]
fn syntax_is_reported_with_its_line() {
    assert!(messages("[pool]\nsize = \n").starts_with("trunkline.toml:2: is not TOML:"));
    // A key given twice does not hide the other mistakes.
    let twice = messages(&format!(
        "[pool]\nsize = 1\nsize = 2\nmode = \"x\"\n{SOUND}"
    ));
    assert!(
        twice.contains("trunkline.toml:3: is not TOML: duplicate key"),
        "{twice}"
    );
    assert!(twice.contains("trunkline.toml:4: pool.mode:"), "{twice}");
}

#[test]
fn a_file_that_is_not_there() {
    let problems = load(Path::new("/nowhere/trunkline.toml")).expect_err("no file");
    assert!(
        problems[0]
            .to_string()
            .starts_with("/nowhere/trunkline.toml: cannot be read: ")
    );
}

#[test]
fn secrets_and_certificates_from_files_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("password", "from file\n"),
        ("server.crt", ""),
        ("server.key", ""),
    ] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let text = SOUND.replace("\"secret\"", "{ file = \"password\" }")
        + "[listen.tls]\nmode = \"require\"\ncertificate = \"server.crt\"\nkey = \"server.key\"\n";
    let file = folder.path().join("trunkline.toml").display().to_string();
    let config = parse(&text, &file, &secrets).expect("sound");
    assert_eq!(
        config.users[0].server_password,
        Some(Secret("from file".to_owned()))
    );
    let ClientTls::Require(offer) = &config.listen.tls else {
        panic!("require")
    };
    assert_eq!(offer.certificate.key, folder.path().join("server.key"));
}

#[test]
fn doubts_are_warnings() {
    let text = SOUND.replace("password = \"secret\"", "auth = \"trust\"")
        + "[listen]\naddresses = [\"0.0.0.0:6432\"]\n";
    let config = parse(&text, "trunkline.toml", &secrets).expect("sound");
    let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("no user has admin = true"), "{said:?}");
    assert!(
        said[1].contains("users.app.auth: \"trust\" asks for no password"),
        "{said:?}"
    );
}

#[test]
fn doubtful_rules_are_warnings() {
    let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all 10.0.0.0/8 trust\n\
                 hostssl all all all password\nhost all all all password\n";
    let text = format!(
        "{SERVERS}users = [{{ name = \"app\", admin = true }}]\n[auth]\nhba_file = \"hba.conf\"\n[listen]\n"
    );
    let public = format!("{text}addresses = [\"0.0.0.0:6432\"]\n");
    let warned = |text: &str| {
        let config = beside(&[("hba.conf", rules)], text).unwrap();
        let warnings = config.warnings.iter().map(|said| said.message.clone());
        warnings.collect::<Vec<_>>().join("\n")
    };
    let said = warned(&public);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("line 3: \"trust\"") && said.contains("line 5: \"password\""),
        "{said}"
    );
    assert_eq!(warned(&text), "");
}

/// Moving an entry in the file must not look like another node, or a reload would drop its connections.
#[test]
fn a_node_is_the_same_wherever_it_stands() {
    let config = parse(SOUND, "a.toml", &secrets).expect("sound");
    let moved = parse(&format!("\n\n{SOUND}"), "a.toml", &secrets).expect("sound");
    assert_ne!(config.shards[0].line, moved.shards[0].line);
    assert_eq!(config.shards[0].nodes, moved.shards[0].nodes);
}

#[test]
fn a_connect_timeout_that_hides_its_own_error() {
    let text = format!("{SOUND}[pool]\nconnect_timeout = \"20s\"\n");
    let config = parse(&text, "trunkline.toml", &secrets).expect("sound");
    let said: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .any(|said| said.starts_with("trunkline.toml:11: pool.connect_timeout: is not less")),
        "{said:?}"
    );
}

#[test]
fn a_pool_has_a_connection_for_each_worker() {
    let sized = |size: u32| format!("workers = 3\n{SOUND}[pool]\nsize = {size}\n");
    parse(&sized(3), "trunkline.toml", &secrets).expect("sound");
    let said = messages(&sized(2));
    assert!(said.contains("pool: 2 is less than workers = 3"), "{said}");
}

#[test]
fn nothing_is_left_out_in_silence() {
    let said = messages("users = []\ndatabases = []\nshards = []\n");
    for key in ["users", "databases", "shards"] {
        assert!(
            said.contains(&format!(
                "{key}: there is none; give at least one [[{key}]]"
            )),
            "{said}"
        );
    }
    let pinned = format!(
        "{SOUND}[[distributions]]\nname = \"d\"\nkey = \"numeric\"\nstrategy = \"hash\"\nshards = [\"s1\"]\n\
         pins = [{{ key = {}, shard = \"s1\" }}]\n",
        "9".repeat(50)
    );
    assert!(messages(&pinned).contains("has too many digits"));
}

/// A folder with these files beside a configuration of this text.
fn beside(files: &[(&str, &str)], text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let file = folder.path().join("trunkline.toml").display().to_string();
    let folder = format!("{}/", folder.path().display());
    parse(text, &file, &secrets).map_err(|problems| {
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        said.join("\n").replace(&folder, "")
    })
}

const SERVERS: &str =
    "databases = [{ name = \"app\" }]\nshards = [{ name = \"s1\", nodes = [{ host = \"h\" }] }]\n";

#[test]
fn users_of_the_password_file() {
    let listed =
        "\"ann\" \"secret\"\n\"bob\" \"md5a6ce1bb033bfeb22b60a5905660d237e\"\n\"eve\" \"\"\n";
    let text = format!(
        "{SERVERS}users = [{{ name = \"bob\", admin = true, pool_size = 40 }}]\n[auth]\nusers_file = \"users.txt\"\n"
    );
    let config = beside(&[("users.txt", listed)], &text).unwrap();
    let names: Vec<_> = config.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["bob", "ann", "eve"]);
    let [bob, ann, eve] = &config.users[..] else {
        panic!()
    };
    assert!(matches!(bob.password, Password::Md5(_)) && bob.admin && bob.auth.is_none());
    assert_eq!(ann.server_password, Some(Secret("secret".into())));
    assert_eq!(eve.password, Password::Absent);
    // Alone it is enough.
    let text = format!("{SERVERS}[auth]\nusers_file = \"users.txt\"\n");
    assert_eq!(
        beside(&[("users.txt", listed)], &text).unwrap().users.len(),
        3
    );
}

#[test]
fn mistakes_in_other_files_are_told_with_their_lines() {
    let text = format!(
        "{SERVERS}users = [{{ name = \"bob\", password = \"x\", auth = \"md5\" }}, {{ name = \"dan\", pool_sise = 1 }}]\n\
         [auth]\nusers_file = \"users.txt\"\nhba_file = \"hba.conf\"\n[auth.query]\nsql = \"SELECT 1\"\nfailure_time = \"2m\"\n"
    );
    let listed = "\"bob\" \"x\"\nann\n\"SCRAM\" \"SCRAM-SHA-256$x\"\n";
    let rules = "local all all peer\nhost all all md5\n";
    let said = beside(&[("users.txt", listed), ("hba.conf", rules)], &text).unwrap_err();
    let wanted = [
        "trunkline.toml:3: users.dan.pool_sise: is not a key here",
        "trunkline.toml:7: auth.query.user: is missing",
        "trunkline.toml:8: auth.query.sql: \"SELECT 1\" is not a query for one user",
        "trunkline.toml:9: auth.query.failure_time: is more than cache_time",
        "hba.conf:1: the method \"peer\" is not supported",
        "hba.conf:2: \"md5\" is not an address",
        "users.txt:2: is not a name and a password",
    ];
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted}\n---\n{said}");
    }
    let listed = "\"bob\" \"x\"\n\"ann\" \"y\"\n\"ann\" \"z\"\n\"SCRAM\" \"SCRAM-SHA-256$x\"\n";
    let rules = "hostssl all all all cert\n";
    let said = beside(&[("users.txt", listed), ("hba.conf", rules)], &text).unwrap_err();
    let wanted = [
        "trunkline.toml:3: users.bob.auth: cannot stand beside auth.hba_file",
        "trunkline.toml:3: users.bob.password: is given on line 1 of users.txt too",
        "trunkline.toml:6: auth.hba_file: line 1 asks for a client's certificate",
        "users.txt:3: ann: is on line 2 already",
        "users.txt:4: SCRAM: is not a whole SCRAM verifier",
    ];
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted}\n---\n{said}");
    }
    assert!(!said.contains("\"z\""), "no password is shown: {said}");
}

#[test]
fn users_may_be_looked_up_only() {
    let text = format!(
        "{SERVERS}[auth.query]\nuser = \"asker\"\npassword = {{ env = \"ASKER_PASSWORD\" }}\n"
    );
    let config = parse(&text, "trunkline.toml", &secrets).unwrap();
    assert!(config.users.is_empty());
    let query = config.authentication.query.unwrap();
    assert!(query.sql.contains("rolvaliduntil"));
    assert_eq!(
        (query.cache_time, query.failure_time),
        (Duration::from_secs(60), Duration::from_secs(5))
    );
    let said = messages(&text.replace(
        "{ env = \"ASKER_PASSWORD\" }",
        "\"md5a6ce1bb033bfeb22b60a5905660d237e\"",
    ));
    assert!(said.contains("auth.query.password: is a hash"), "{said}");
    // A certificate that nobody can verify.
    let said = messages(&SOUND.replace("password = \"secret\"", "auth = \"cert\""));
    assert!(
        said.contains("users.app.auth: asks for a client's certificate"),
        "{said}"
    );
}
