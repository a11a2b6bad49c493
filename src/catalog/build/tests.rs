use std::path::Path;

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(file: &Path) -> Config {
    let text = std::fs::read_to_string(file).expect("a file");
    let name = file.file_name().expect("a name").to_string_lossy();
    config::parse(&text, &name, &|_| Some("secret".to_owned())).expect("a sound file")
}

fn tests_file() -> Config {
    read(&Path::new(ROOT).join("config/tests.toml"))
}

#[test]
fn every_file_in_config_builds() {
    let mut built = 0;
    for file in std::fs::read_dir(Path::new(ROOT).join("config")).expect("config/") {
        let config = read(&file.expect("an entry").path());
        for database in &config.databases {
            let found = build(&config, &database.name);
            assert!(found.is_ok(), "{:#?}", found.err());
            built += 1;
        }
    }
    assert!(built >= 5, "{built} databases");
}

#[test]
fn all_mistakes_of_all_maps_at_once() {
    let config = read(&Path::new(ROOT).join("tests/golden/config/maps.toml"));
    let problems = build(&config, "app").expect_err("the maps are wrong");
    let found: String = problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect();
    let golden = Path::new(ROOT).join("tests/golden/config/maps.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).expect("written");
    }
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        found == wanted,
        "set UPDATE_GOLDEN=1 when the new messages are right:\n{found}"
    );
}

/// From a line of the file to the shard of a key, for every strategy.
#[test]
fn keys_go_where_the_file_says() {
    let config = tests_file();
    let app = build(&config, "app").expect("sound");
    let shard = |name: &str, key: &[&str]| {
        let distribution = app
            .distributions
            .iter()
            .find(|known| &*known.name == name)
            .expect(name);
        let map = &distribution.map;
        let key: Vec<KeyValue> = key
            .iter()
            .zip(map.key_types())
            .map(|(text, key_type)| key_type.parse_text(text).expect("a key"))
            .collect();
        map.locate(&key)
            .ok()
            .map(|location| app.shards[location.shard.index()].to_string())
    };
    let is = |name: &str, key: &[&str], expected: &str| {
        assert_eq!(
            shard(name, key).as_deref(),
            Some(expected),
            "{name} {key:?}"
        );
    };
    is("customers", &["42"], "s4"); // pins
    is("customers", &["-1"], "s1");
    is("sessions", &["6f9619ff-8b86-d011-b42d-00c04fc964ff"], "s3");
    is("messages", &["news", "2024-02-29 13:00:00+01"], "s3");
    is("events", &["2023-12-31"], "s1");
    is("events", &["2024-01-01"], "s2");
    is("events", &["2025-01-01"], "s3");
    is("documents", &["lz"], "s1");
    is("documents", &["m"], "s2");
    assert_eq!(shard("documents", &["zz"]), None);
    is("tenants", &["acme"], "s1");
    is("tenants", &["unheard of"], "s3");
    is("branches", &["4"], "s2");
    assert_eq!(shard("branches", &["5"]), None);
    is("profiles", &["US", "1"], "s3");
    is("profiles", &["JP", "1"], "s4");
    is("profiles", &["DE", "7"], "s2");
    let legacy = build(&config, "legacy").expect("sound");
    for (key, expected) in [(4, 0), (5, 1), (6, 0), (7, 3), (-1, 3)] {
        let found = legacy.distributions[0]
            .map
            .locate(&[KeyValue::Int(key)])
            .expect("a shard");
        assert_eq!(found.shard, ShardId(expected), "{key}");
    }
}

#[test]
fn tables_homes_and_sequences() {
    let config = tests_file();
    let app = build(&config, "app").expect("sound");
    assert_eq!(
        (app.home, app.undeclared, app.sequences),
        (ShardId(0), Undeclared::Home, Sequences::Home)
    );
    let legacy = build(&config, "legacy").expect("sound");
    assert_eq!(
        (legacy.undeclared, legacy.sequences),
        (Undeclared::Refused, Sequences::PerShard)
    );
    assert_eq!(legacy.tables.len(), 1);
    let placement = |schema: &str, name: &str| {
        let wanted = (schema.into(), name.into());
        app.tables
            .iter()
            .find(|table| table.name == wanted)
            .expect(name)
            .placement
            .clone()
    };
    assert_eq!(placement("public", "countries"), Placement::Reference);
    assert_eq!(
        placement("public", "Settings"),
        Placement::Single(ShardId(1))
    );
    let Placement::Sharded { distribution, key } = placement("web", "sessions") else {
        panic!("sharded")
    };
    assert_eq!(
        &*app.distributions[usize::from(distribution.0)].name,
        "sessions"
    );
    assert_eq!(&*key, &["id".into()]);
    assert!(build(&config, "nowhere").is_err());
}

/// Whatever line is missing, or wherever the file ends: it is refused with lines and reasons, or it builds, or it is refused then.
#[test]
fn no_damage_to_a_file_is_taken_badly() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("config/tests.toml")).expect("a file");
    let lines: Vec<&str> = text.lines().collect();
    let mut refused = 0;
    for cut in 0..lines.len() {
        let without: Vec<&str> = lines
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != cut)
            .map(|(_, line)| *line)
            .collect();
        for damaged in [without.join("\n"), lines[..cut].join("\n")] {
            let problems =
                match config::parse(&damaged, "tests.toml", &|_| Some("secret".to_owned())) {
                    Ok(config) => {
                        let built = config
                            .databases
                            .iter()
                            .map(|database| build(&config, &database.name));
                        built.filter_map(Result::err).flatten().collect()
                    }
                    Err(problems) => {
                        assert!(!problems.is_empty(), "refused without a reason:\n{damaged}");
                        problems
                    }
                };
            refused += usize::from(!problems.is_empty());
            assert!(
                problems.iter().all(|problem| problem.line.0 > 0),
                "{problems:#?}"
            );
        }
    }
    assert!(
        refused > lines.len() / 2,
        "{refused} of {}",
        2 * lines.len()
    );
}
