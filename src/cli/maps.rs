//! The maps that are in force: those of the configuration, until plans have moved keys; from then on those in the control store.

use crate::catalog::Configured;
use crate::config::{Config, StorePlace};
use crate::moving::overlay::{Overlay, Overlays, overlays};
use crate::moving::records;
use crate::store::Store;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A directory on this machine, where there is one.
    Disk,
    /// etcd, too.
    Network,
}

/// What is known of them.
#[derive(Debug)]
pub(super) enum Maps {
    /// They are elsewhere, and nobody was asked.
    NotRead,
    /// By database. None: that of the configuration.
    Read(Overlays),
}

/// Reads the control store; makes none. The error is one for people.
pub(super) fn read(config: &Config, ask: Ask) -> Result<Maps, String> {
    match (&config.store.place, ask) {
        (StorePlace::File(path), _) if !path.exists() => return Ok(Maps::Read(Overlays::new())),
        (StorePlace::Etcd(_), Ask::Disk) => return Ok(Maps::NotRead),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no thread to read the control store: {error}"))?;
    let read = async {
        let store = Store::open(&config.store)
            .await
            .map_err(|e| e.to_string())?;
        let listing = store
            .list(records::PREFIX)
            .await
            .map_err(|e| e.to_string())?;
        let databases = records::read(&listing).map_err(|e| e.to_string())?;
        Ok(Maps::Read(overlays(&databases)))
    };
    let read: Result<Maps, String> = runtime.block_on(read);
    read.map_err(|error| {
        format!("the maps in force cannot be read from the control store: {error}")
    })
}

/// Puts the maps in force in the place of the configuration's, and adds tables that were given a place; names the distributions where they are others.
pub(super) fn put_in_force(
    overlay: &Overlay,
    configured: &mut Configured,
) -> Result<Vec<Box<str>>, String> {
    let away = overlay.away_from(&configured.distributions, &configured.shards);
    let distributions = overlay
        .distributions(&configured.distributions, &configured.shards)
        .map_err(|error| format!("the map in force does not fit: {error}"))?;
    configured.foreign = Overlay::foreign(&distributions)
        .map_err(|error| format!("the map in force does not fit: {error}"))?;
    configured.distributions = distributions;
    configured.place(&overlay.places);
    if let Some(((schema, table), misfit)) = configured.misfits.first_key_value() {
        return Err(format!(
            "table {schema}.{table} was given a place that does not fit: {misfit}"
        ));
    }
    Ok(away)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::config;
    use crate::moving::records::{MapRecord, encode, map_key};
    use crate::resharding::record::StoredMap;
    use crate::store::Expected;

    /// Every key on one of two shards, the control store beside the file.
    fn file(owner: &str, kind: &str) -> String {
        format!(
            r#"
users = [{{ name = "app", password = "secret" }}]
databases = [{{ name = "app" }}]
shards = [{{ name = "s1", nodes = [{{ host = "h1" }}] }}, {{ name = "s2", nodes = [{{ host = "h2" }}] }}]
distributions = [{{ name = "d", key = "bigint", strategy = "hash", shards = ["{owner}"] }}]
tables = [{{ name = "t", distribution = "d", key = "id" }}]
[store]
{kind}
"#
        )
    }

    fn parsed(text: &str, folder: &std::path::Path) -> Config {
        let name = folder.join("trunkline.toml").display().to_string();
        config::parse(text, &name, &|_| None).expect("sound")
    }

    fn write(config: &Config, map: StoredMap) {
        let record = MapRecord {
            epoch: 1,
            distributions: [(Box::from("d"), map)].into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let store = Store::open(&config.store).await.expect("opened");
            let key = map_key("app");
            let written = store.put_if(&key, Expected::Absent, encode(&record));
            written.await.expect("written");
        });
    }

    #[test]
    fn what_plans_have_moved_is_read_from_the_store_on_this_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = parsed(&file("s1", "path = \"state\""), folder.path());
        let mut configured = catalog::build(&config, "app").expect("sound");
        let Ok(Maps::Read(nothing)) = read(&config, Ask::Disk) else {
            panic!("no store is no error");
        };
        assert!(nothing.is_empty());
        assert!(!folder.path().join("state").exists(), "none is made");

        let moved = parsed(&file("s2", "path = \"state\""), folder.path());
        let moved = catalog::build(&moved, "app").expect("sound");
        let map = StoredMap::of(&moved.distributions[0].map, &moved.shards);
        write(&config, map);
        let Ok(Maps::Read(overlays)) = read(&config, Ask::Disk) else {
            panic!("it is there now");
        };
        let away = put_in_force(&overlays["app"], &mut configured).expect("fits");
        assert_eq!(away, [Box::from("d")]);
        assert_eq!(
            configured.distributions[0].map.shards(),
            moved.distributions[0].map.shards()
        );
    }

    #[test]
    fn etcd_is_asked_only_when_that_is_wanted() {
        let etcd = "kind = \"etcd\"\nendpoints = [\"http://127.0.0.1:1\"]\ntimeout = \"100ms\"";
        let config = parsed(&file("s1", etcd), std::path::Path::new("/nowhere"));
        assert!(matches!(read(&config, Ask::Disk), Ok(Maps::NotRead)));
        let error = read(&config, Ask::Network).expect_err("nobody is there");
        assert!(error.contains("control store"), "{error}");
    }
}
