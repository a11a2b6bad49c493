//! A proxy inside this process, in front of databases of a test's own on the shared cluster.

use std::thread::JoinHandle;

use tokio::sync::oneshot;
use trunkline::cli::local::Server;
use trunkline::config::{self, Config};
use trunkline::server;

use crate::raw::{Answer, Raw};
use crate::servers::{servers, wait_until};

/// Database `name` on each shard and on the plain server, and a running proxy that shards it. Everyone is trusted.
pub struct Sharded {
    pub database: String,
    pub port: u16,
    pub config: Config,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sharded {
    /// Runs `schema` as `app` in the new databases. `distributions` are the `[[distributions]]` and `[[tables]]` of the configuration.
    pub fn start(database: &str, schema: &str, distributions: &str) -> Sharded {
        Sharded::start_with(database, schema, &configuration(database, distributions))
    }

    /// The same with a whole configuration.
    pub fn start_with(database: &str, schema: &str, configuration: &str) -> Sharded {
        std::thread::scope(|scope| {
            for server in all_servers() {
                scope.spawn(|| {
                    let create = format!("CREATE DATABASE {database} OWNER app");
                    server
                        .run_sql("postgres", &create)
                        .unwrap_or_else(|e| panic!("{e}"));
                    let mut client = Raw::connect(server.port(), "app", database);
                    succeeded(schema, &client.simple(schema));
                });
            }
        });
        Sharded::start_proxy(database, configuration)
    }

    /// A proxy for databases that exist, ready to plan.
    pub fn start_proxy(database: &str, text: &str) -> Sharded {
        let sharded = Sharded::launch(database, text);
        let mut client = sharded.client();
        // Nobody can say so before the definitions have been read.
        wait_until("the tables' definitions are read", || {
            let unknown = client.simple("SELECT 1 FROM no_table_has_this_name");
            unknown
                .error
                .is_some_and(|error| error.sqlstate() == "42P01")
        });
        sharded
    }

    /// A proxy that listens; whatever becomes of its servers.
    pub fn launch(database: &str, text: &str) -> Sharded {
        let mut config =
            config::parse(text, "test.toml", &|_| None).unwrap_or_else(|e| panic!("{e:#?}"));
        // A file cannot say "any port".
        config.listen.addresses = vec![([127, 0, 0, 1], 0).into()];
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let started = config.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let handle = server::start(started, None)
                    .await
                    .unwrap_or_else(|e| panic!("{e}"));
                tell.send(handle.addresses[0].port()).unwrap();
                let _ = stopped.await;
                handle.shut_down().await;
            });
        });
        let port = told.recv().expect("the proxy starts");
        Sharded {
            database: database.into(),
            port,
            config,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A connection to the proxy.
    pub fn client(&self) -> Raw {
        Raw::connect(self.port, "app", &self.database)
    }

    /// A connection string for drivers.
    pub fn connection(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=app dbname={}",
            self.port, self.database
        )
    }

    /// The same for the plain server.
    pub fn plain_connection(&self) -> String {
        let port = servers().plain.port();
        format!(
            "host=127.0.0.1 port={port} user=app dbname={}",
            self.database
        )
    }

    /// Direct connections to the shards, in order.
    pub fn shards(&self) -> Vec<Raw> {
        let shards = servers().cluster.shards().iter();
        let shards = shards.take(self.config.shards.len());
        shards
            .map(|shard| Raw::connect(shard.primary.port(), "app", &self.database))
            .collect()
    }

    /// A direct connection to the plain server.
    pub fn plain(&self) -> Raw {
        Raw::connect(servers().plain.port(), "app", &self.database)
    }
}

impl Drop for Sharded {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the proxy panicked"
            );
        }
    }
}

/// A configuration for the shared cluster with one trusted user.
pub fn configuration(database: &str, distributions: &str) -> String {
    configuration_of(servers().cluster.shards().len(), database, distributions)
}

/// The same for the first so many of its shards.
pub fn configuration_of(shards: usize, database: &str, distributions: &str) -> String {
    let mut text = format!(
        "workers = 2\nusers = [{{ name = \"app\", auth = \"trust\", admin = true }}]\n\
         databases = [{{ name = \"{database}\", default_shard = \"s1\" }}]\n\
         [limits]\nshutdown_timeout = \"1s\"\n"
    );
    for shard in servers().cluster.shards().iter().take(shards) {
        let (name, port) = (&shard.name, shard.primary.port());
        text += &format!(
            "[[shards]]\nname = \"{name}\"\nnodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n"
        );
    }
    text + distributions
}

/// The shards' servers, then the plain one.
pub fn all_servers() -> impl Iterator<Item = &'static Server> {
    let shards = servers()
        .cluster
        .shards()
        .iter()
        .map(|shard| &shard.primary);
    shards.chain([&servers().plain])
}

/// Panics unless it did.
pub fn succeeded(sql: &str, answer: &Answer) {
    assert!(answer.error.is_none(), "{sql}: {:?}", answer.error);
}
