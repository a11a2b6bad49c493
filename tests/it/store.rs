//! The control store: what both kinds promise (`behaviours.rs`), on a directory and on an etcd that is started here; what is
//! particular to each of them; and holders of leases that are killed and stopped.

mod behaviours;
mod breaking_etcd;
mod damaged_files;
pub mod etcd_server;
mod other_process;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use trunkline::config;
use trunkline::store::Store;

use etcd_server::EtcdServer;

/// A place for one store that is a test's own.
pub struct Site {
    /// The section `[store]`.
    pub section: String,
    /// Of a store of files.
    pub directory: Option<TempDir>,
}

impl Site {
    fn files() -> Site {
        let directory = TempDir::new().unwrap();
        Site {
            section: format!(
                "path = \"{}\"\ntimeout = \"20s\"\n",
                directory.path().join("state").display()
            ),
            directory: Some(directory),
        }
    }

    fn etcd() -> Site {
        static SITES: AtomicU64 = AtomicU64::new(0);
        let site = SITES.fetch_add(1, Ordering::Relaxed);
        let more = format!("prefix = \"/site {site}/\"\ntimeout = \"20s\"\n");
        Site {
            section: section(&[&shared_etcd().endpoint()], &more),
            directory: None,
        }
    }

    async fn open(&self) -> Store {
        open(&self.section).await
    }
}

/// The section for these endpoints.
fn section(endpoints: &[&str], more: &str) -> String {
    format!("kind = \"etcd\"\nendpoints = {endpoints:?}\n{more}")
}

async fn open(section: &str) -> Store {
    Store::open(&configured(section)).await.unwrap()
}

fn configured(section: &str) -> config::Store {
    let text = format!(
        "users = [{{ name = \"a\", auth = \"trust\" }}]\ndatabases = [{{ name = \"a\" }}]\n\
         shards = [{{ name = \"s1\", nodes = [{{ host = \"h\" }}] }}]\n[store]\n{section}"
    );
    config::parse(&text, "/nowhere/test.toml", &|_| None)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .store
}

/// Started once; no test stops or breaks it.
fn shared_etcd() -> &'static EtcdServer {
    static ETCD: OnceLock<EtcdServer> = OnceLock::new();
    ETCD.get_or_init(EtcdServer::start)
}

/// Each behaviour, as a test of each kind of store.
macro_rules! on_both {
    ($($behaviour:ident,)*) => {
        mod on_files {
            $(#[tokio::test]
            async fn $behaviour() {
                super::behaviours::$behaviour(&super::Site::files()).await;
            })*
        }
        mod on_etcd {
            $(#[tokio::test]
            async fn $behaviour() {
                super::behaviours::$behaviour(&super::Site::etcd()).await;
            })*
        }
    };
}

on_both! {
    writes_name_the_version_they_replace,
    versions_grow_over_deletion,
    listings_are_by_prefix,
    a_listing_of_many_keys_is_whole,
    values_are_any_bytes,
    transactions_are_done_whole_or_not_at_all,
    what_no_store_could_do_is_refused,
    no_increment_is_lost,
    a_watch_shows_what_others_write,
    a_watch_ends_at_the_last_state,
    a_lease_has_one_holder,
    a_lease_is_kept_alive,
    one_of_many_gets_the_lease,
    what_is_done_under_a_lease_needs_it,
    a_killed_holder_makes_way,
    a_stopped_holder_knows_that_it_lost,
}
