//! Shards with their replicas, started together and stopped together.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::LocalError;
use super::folder::{self, Folder, Lifetime, Marker};
use super::installation::Installation;
use super::server::{Server, StopMode};
use super::settings::{Access, ServerOptions};

/// Shards of a new cluster when no number is given.
const DEFAULT_SHARDS: u16 = 4;
/// Replicas of each shard of a new cluster when no number is given.
const DEFAULT_REPLICAS: u16 = 1;

/// Where the cluster's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In a new folder that is removed at the end, whatever the end is.
    Temporary,
    /// In this folder, made when missing, used again when there.
    Kept(PathBuf),
    /// In this folder, begun anew. What is there is removed only when it is a cluster of ours.
    Fresh(PathBuf),
}

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `None`: as many as the folder holds, or 4.
    pub shards: Option<u16>,
    /// Of each shard; `None`: as many as the folder holds, or 1.
    pub replicas: Option<u16>,
    pub storage: Storage,
    pub server: ServerOptions,
    /// A role, and a database of the same name that it owns, on every shard.
    pub application: String,
}

impl Default for ClusterOptions {
    /// A temporary one of four shards without replicas, where everyone is trusted, with role and database `app`.
    fn default() -> Self {
        Self {
            shards: None,
            replicas: Some(0),
            storage: Storage::Temporary,
            server: ServerOptions::default(),
            application: "app".into(),
        }
    }
}

/// Running servers. Dropping it stops them.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    marker: Marker,
    options: ClusterOptions,
    shards: Vec<LocalShard>,
    /// Last, so that the servers have stopped before a temporary folder is removed.
    folder: Arc<Folder>,
}

/// A shard's servers.
#[derive(Debug)]
pub struct LocalShard {
    /// `s1`, `s2` ...
    pub name: String,
    pub primary: Server,
    pub replicas: Vec<Server>,
}

impl LocalShard {
    /// The primary, then the replicas.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

impl Cluster {
    /// Starts a cluster and waits until every server accepts connections.
    pub fn start(options: ClusterOptions) -> Result<Self, LocalError> {
        let installation = Installation::find()?;
        let (folder, marker) = open_folder(&installation, &options)?;
        let folder = Arc::new(folder);
        let names: Vec<String> = (1..=marker.shards)
            .map(|number| format!("s{number}"))
            .collect();
        folder.has_space_for(count_missing(folder.path(), &names, marker.replicas))?;
        let mut cluster = Self {
            installation,
            marker,
            options,
            shards: Vec::new(),
            folder,
        };
        let started = in_parallel(names, |name| cluster.start_shard(name));
        // Every outcome is taken before the first error returns, so that what did start is also dropped.
        for shard in started {
            cluster.shards.push(shard?);
        }
        Ok(cluster)
    }

    /// The shards in order of their numbers.
    pub fn shards(&self) -> &[LocalShard] {
        &self.shards
    }

    /// To stop and start single servers.
    pub fn shards_mut(&mut self) -> &mut [LocalShard] {
        &mut self.shards
    }

    /// The folder with everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Name of the role and of its database on every shard.
    pub fn application(&self) -> &str {
        &self.options.application
    }

    /// That role's password; it stays the same as long as the folder lives.
    pub fn application_password(&self) -> &str {
        self.marker.application_password.as_str()
    }

    /// Starts one more server in the cluster's folder that belongs to no shard, with the same role and database, as for
    /// comparisons. It stops when dropped.
    pub fn single_server(&self, name: &str) -> Result<Server, LocalError> {
        self.folder.has_space_for(1)?;
        self.start_primary(name)
    }

    /// Stops all servers in good order.
    pub fn stop(&mut self) -> Result<(), LocalError> {
        self.stop_all(StopMode::Fast)
    }

    fn stop_all(&mut self, mode: StopMode) -> Result<(), LocalError> {
        let servers = self
            .shards
            .iter_mut()
            .flat_map(|shard| std::iter::once(&mut shard.primary).chain(&mut shard.replicas));
        in_parallel(servers, |server| server.stop(mode))
            .into_iter()
            .collect()
    }

    fn start_shard(&self, name: String) -> Result<LocalShard, LocalError> {
        let primary = self.start_primary(&name)?;
        let names = (1..=self.marker.replicas).map(|number| replica_name(&name, number));
        let replicas = in_parallel(names, |replica| {
            let mut replica = primary.replica(&replica)?;
            replica.start()?;
            Ok(replica)
        });
        let replicas = replicas.into_iter().collect::<Result<_, _>>()?;
        Ok(LocalShard {
            name,
            primary,
            replicas,
        })
    }

    fn start_primary(&self, name: &str) -> Result<Server, LocalError> {
        let mut server = Server::primary(
            &self.installation,
            &self.folder,
            name,
            &self.options.server,
            &self.marker.superuser_password,
        )?;
        server.start()?;
        self.make_application(&server)?;
        Ok(server)
    }

    /// The role and its database, when they are not there yet.
    fn make_application(&self, server: &Server) -> Result<(), LocalError> {
        let name = &self.options.application;
        let exists = server.run_sql(
            "postgres",
            &format!(
                "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = '{name}'), \
                        (SELECT count(*) FROM pg_database WHERE datname = '{name}')"
            ),
        )?;
        let missing =
            |column: usize| exists.first().and_then(|row| row[column].as_deref()) == Some("0");
        if missing(0) {
            let password = match self.options.server.access {
                Access::Trust => String::new(),
                Access::Password => format!(" PASSWORD '{}'", self.application_password()),
            };
            server.run_sql(
                "postgres",
                &format!("CREATE ROLE \"{name}\" LOGIN{password}"),
            )?;
        }
        if missing(1) {
            server.run_sql(
                "postgres",
                &format!("CREATE DATABASE \"{name}\" OWNER \"{name}\""),
            )?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mode = match self.folder.lifetime() {
            Lifetime::Kept => StopMode::Fast,
            Lifetime::Temporary => StopMode::Immediate,
        };
        if let Err(e) = self.stop_all(mode) {
            tracing::error!("{e}");
        }
    }
}

fn replica_name(shard: &str, number: u16) -> String {
    format!("{shard}-replica-{number}")
}

/// Servers of this shape that have no data yet.
fn count_missing(folder: &Path, shards: &[String], replicas: u16) -> u64 {
    let names = shards.iter().flat_map(|shard| {
        (1..=replicas)
            .map(move |n| replica_name(shard, n))
            .chain([shard.clone()])
    });
    names.filter(|name| !folder.join(name).exists()).count() as u64
}

fn open_folder(
    installation: &Installation,
    options: &ClusterOptions,
) -> Result<(Folder, Marker), LocalError> {
    let account = installation.account();
    let new = || {
        Marker::new(
            options.shards.unwrap_or(DEFAULT_SHARDS),
            options.replicas.unwrap_or(DEFAULT_REPLICAS),
        )
    };
    let path = match &options.storage {
        Storage::Temporary => {
            let marker = new();
            return Ok((Folder::temporary(account, &marker)?, marker));
        }
        Storage::Kept(path) => path,
        Storage::Fresh(path) => {
            folder::remove(path)?;
            path
        }
    };
    let (folder, marker) = Folder::kept(path, account, new)?;
    let wanted = (
        options.shards.unwrap_or(marker.shards),
        options.replicas.unwrap_or(marker.replicas),
    );
    if wanted != (marker.shards, marker.replicas) {
        let shape = |(shards, replicas)| format!("--shards {shards} --replicas {replicas}");
        return Err(LocalError::OtherShape {
            folder: folder.path().to_owned(),
            found: shape((marker.shards, marker.replicas)),
            wanted: shape(wanted),
        });
    }
    Ok((folder, marker))
}

/// Does the same for each item at once, a thread each; the results keep the items' order.
fn in_parallel<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(|| work(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
