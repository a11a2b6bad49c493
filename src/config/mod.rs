//! The configuration: plain validated data. `load.rs` reads TOML and reports every mistake with its line at once.
//!
//! This room never opens a socket and knows no strategy's arithmetic: overlapping ranges and the like are found by `catalog::build`.
//! Read `load.rs` for what a file may say and its defaults, `section.rs` for how every mistake is found at once.

mod authentication;
mod distribution;
mod entry;
mod load;
mod problem;
mod reads;
mod rules;
mod secret;
mod section;
mod settings;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod url;
mod userlist;
mod value;

pub use entry::ADMIN_DATABASE;
pub use load::{Findings, load, look, parse};
pub use problem::Problem;
pub use reads::{
    Argv, Balance, CausalReads, Failover, FailoverMode, Fence, MaxLag, MissingReplicas,
    PrimaryReads, ReadFrom, Reads,
};
pub use rules::{Asking, Method, Origin, Rule, Rules};
pub use value::{duration, sql_name};

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A whole configuration file, validated as far as this room can.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file's name, as messages show it.
    pub file: String,
    /// What is allowed, yet probably not meant.
    pub warnings: Vec<Problem>,
    pub tls_lines: TlsLines,
    pub listen: Listen,
    pub log: Log,
    pub limits: Limits,
    /// TLS towards the shards' servers.
    pub server_tls: ServerTls,
    /// Number of worker threads of the data plane.
    pub workers: usize,
    /// What tells this process's unique ids from those of others.
    pub proxy_id: Option<u16>,
    /// What averages of SHOW STATS are about: so much time, again and again.
    pub stats_period: Duration,
    /// Defaults for every pool.
    pub pool: Pool,
    pub health: Health,
    pub transactions: Transactions,
    pub gather: Gather,
    pub reads: Reads,
    pub failover: Failover,
    pub store: Store,
    pub store_use: StoreUse,
    pub authentication: Authentication,
    /// Those of this file, then those that only the password file names.
    pub users: Vec<User>,
    pub databases: Vec<Database>,
    pub shards: Vec<Shard>,
    pub distributions: Vec<Distribution>,
    pub tables: Vec<Table>,
}

impl Config {
    /// The settings of the pool for a user and a database: what the user says goes before what the database says,
    /// and that before `[pool]`.
    pub fn pool_of(&self, user: &User, database: &Database) -> Pool {
        let size = user
            .pool_size
            .or(database.pool_size)
            .unwrap_or(self.pool.size);
        Pool {
            mode: user
                .pool_mode
                .or(database.pool_mode)
                .unwrap_or(self.pool.mode),
            size,
            min_size: self.pool.min_size.min(size),
            ..self.pool.clone()
        }
    }

    /// How a transaction of this database that wrote on several shards commits.
    pub fn cross_shard_commit(&self, database: &Database) -> CrossShardCommit {
        database
            .cross_shard_commit
            .unwrap_or(self.transactions.cross_shard_commit)
    }

    /// A mistake found after reading, at a line of this file.
    pub fn problem(
        &self,
        line: Line,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Problem {
        Problem {
            file: self.file.clone(),
            line,
            key: key.into(),
            message: message.into(),
        }
    }
}

/// The line of the file (from 1) where an entry begins, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Line(pub usize);

/// Where the TLS sections are, for messages about what is in their files.
#[derive(Clone, Copy, Debug)]
pub struct TlsLines {
    pub listen: Line,
    pub server: Line,
}

/// A number of bytes, written `"64kB"`, `"1MB"`, `"1GB"` as in Postgres (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

#[derive(Clone, Debug)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// The directory of the Unix socket `.s.PGSQL.<port of the first address>`.
    pub unix_socket_directory: Option<PathBuf>,
    /// Metrics and health.
    pub http: Option<SocketAddr>,
    pub tls: ClientTls,
}

/// TLS towards clients.
#[derive(Clone, Debug)]
pub enum ClientTls {
    Disable,
    Prefer(Offer),
    Require(Offer),
}

/// What clients see of us, and what we want to see of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub certificate: Certificate,
    /// PEM; the authorities of clients' certificates. Without it no client is asked for one.
    pub client_authorities: Option<PathBuf>,
    /// Of every client that comes over TLS.
    pub demand: CertificateDemand,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What a client's certificate must be. One that is shown is always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateDemand {
    /// It may be missing.
    Nothing,
    /// There must be one.
    Valid,
    /// There must be one, and its common name must be the user's name.
    Named,
}

/// As libpq's sslmode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub mode: SslMode,
    /// PEM; needed by verify-ca and verify-full.
    pub root_certificate: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, like `info` or `trunkline=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub max_client_connections: usize,
    /// Per user; `None`: no limit of its own.
    pub max_user_connections: Option<usize>,
    /// From accept to the end of authentication.
    pub login_timeout: Duration,
    /// The largest single message a client may send.
    pub max_message_size: ByteSize,
    /// Bytes of plan cache per worker.
    pub plan_cache_size: ByteSize,
    /// Prepared statements one client may hold.
    pub max_prepared_statements: usize,
    /// How long a client may be idle outside a transaction; `None`: for ever.
    pub client_idle_timeout: Option<Duration>,
    /// How long a client may be idle inside a transaction; `None`: for ever.
    pub idle_transaction_timeout: Option<Duration>,
    /// How long a statement may run; `None`: for ever.
    pub query_timeout: Option<Duration>,
    /// How long SIGTERM waits for open transactions.
    pub shutdown_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    /// As transaction, and what would keep a connection between transactions is refused.
    Strict,
    Session,
}

/// Settings of one pool: the connections of one user and database to one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub mode: PoolMode,
    /// Most connections, all workers together.
    pub size: usize,
    /// Kept open even when idle.
    pub min_size: usize,
    /// How long a client waits for a connection.
    pub checkout_timeout: Duration,
    /// Most clients that wait.
    pub max_waiting: usize,
    /// Most bytes of what they have sent and nobody has dealt with.
    pub max_waiting_size: ByteSize,
    /// An idle connection is closed after this; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A connection is closed after this, give or take 10 %; `None`: never.
    pub max_lifetime: Option<Duration>,
    /// A connection idle for longer is tried before it is lent.
    pub check_after_idle: Duration,
    pub connect_timeout: Duration,
    /// Most prepared statements on one connection; the least recently used is closed for a new one.
    pub max_prepared_statements: usize,
    /// Most bytes of prepared statements on one connection: of their texts, and 4 KB for each.
    pub max_prepared_size: ByteSize,
}

/// How nodes are watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// From one look at a shard's nodes to the next.
    pub interval: Duration,
    /// A node that takes longer for one answer, connecting included, has not answered.
    pub timeout: Duration,
    /// A node that is up goes down after so many looks without an answer, one after the other.
    pub fall: usize,
    /// A node that is down or refused comes up after so many good answers, one after the other.
    pub rise: usize,
    /// A replica takes no reads after so many failures in a row of connections that clients use.
    pub eject_after: usize,
    /// For so long, give or take 10 %; twice as long each time it happens again soon.
    pub eject_time: Duration,
    pub max_eject_time: Duration,
    /// A replica that has come back gets its part of the reads by and by over this time.
    pub slow_start: Duration,
}

/// What transactions may do that work on several shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transactions {
    pub cross_shard_commit: CrossShardCommit,
    /// Whether `trunkline.commits` is made on shards that lack it.
    pub install: bool,
    /// How long shards may take to prepare a commit, before it is given up.
    pub prepare_timeout: Duration,
    /// How often shards are asked for prepared transactions whose owner is gone.
    pub recovery_interval: Duration,
    /// How long a statement of a transaction on several shards runs before it is looked for deadlocks; `None`: never.
    pub deadlock_timeout: Option<Duration>,
}

/// How much of tables may travel to one shard for a query. Past it the query ends in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Rows of one query.
    pub max_rows: usize,
    /// Their bytes on the way.
    pub max_bytes: ByteSize,
    /// How long they may take, before the query itself begins.
    pub timeout: Duration,
}

/// Where proxies keep what they agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub place: StorePlace,
    /// How long it may take for one answer.
    pub timeout: Duration,
    /// How long a lease lasts after its holder's end.
    pub lease_ttl: Duration,
}

/// Whether other proxies are looked for in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreUse {
    /// The configuration has a section `[store]`, or something that needs one: this proxy says there that it is alive.
    Shared,
    /// It is opened when it is needed; this proxy takes itself for the only one.
    Own,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// A directory of this machine, for the processes on it.
    File(PathBuf),
    Etcd(Etcd),
}

/// An etcd cluster, version 3.4 or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Of its members; all speak either HTTP or HTTPS.
    pub endpoints: Vec<Endpoint>,
    /// What all keys begin with. It ends with a slash.
    pub prefix: String,
    pub login: Option<EtcdLogin>,
    /// `None`: HTTP.
    pub tls: Option<HttpTls>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; an IPv6 one without its brackets.
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLogin {
    pub user: String,
    pub password: Secret,
}

/// What a call goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub scheme: Scheme,
    pub endpoint: Endpoint,
    /// With its question mark and what follows; it begins with a slash.
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let Endpoint { host, port } = &self.endpoint;
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}{}", self.path),
            false => write!(f, "{scheme}://{host}:{port}{}", self.path),
        }
    }
}

/// TLS towards servers that speak HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTls {
    /// PEM; the authorities of the servers' certificates.
    pub root_certificate: PathBuf,
    /// What is shown to servers that ask for a certificate.
    pub certificate: Option<Certificate>,
}

/// How a transaction that wrote on several shards commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossShardCommit {
    /// On all shards or on none.
    Atomic,
    /// It does not.
    Refuse,
    /// Shard by shard. What goes wrong in between leaves the transaction half committed, and the client is told.
    BestEffort,
}

/// Who may log in besides `[[users]]`, and how.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// The password file and the file of the rules, as messages show them.
    pub users_file: Option<String>,
    pub hba_file: Option<String>,
    /// How users log in; without rules each user says it.
    pub rules: Option<Rules>,
    /// Where users are looked up that have no password here.
    pub query: Option<AuthQuery>,
}

/// How a server is asked for a user's password.
#[derive(Clone, Debug)]
pub struct AuthQuery {
    /// The role that asks, and its password.
    pub user: String,
    pub password: Option<Secret>,
    /// Its name on the servers; `None`: that of the first database.
    pub database: Option<String>,
    /// Takes the name as its parameter; gives one row of name and password, or none.
    pub sql: String,
    /// From the login on that asks to the answer.
    pub timeout: Duration,
    /// How long what is known of a user is good for.
    pub cache_time: Duration,
    /// The same, when there is no such user or the last proof was wrong.
    pub failure_time: Duration,
    /// Most users remembered; and as many names that are nobody's.
    pub cache_size: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub line: Line,
    pub name: String,
    pub password: Password,
    /// How a client proves to be this user where no rules say it; `None`: as suits what is stored.
    pub auth: Option<Method>,
    /// May use the admin database `trunkline`.
    pub admin: bool,
    /// The role and password used on servers.
    pub server_user: String,
    pub server_password: Option<Secret>,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<usize>,
    /// Before that of `[reads]`.
    pub read_from: Option<ReadFrom>,
}

impl User {
    /// A user of whom nothing but the name is configured.
    pub fn named(name: &str, line: Line, password: Password) -> User {
        User {
            line,
            name: name.to_owned(),
            password,
            auth: None,
            admin: false,
            server_user: name.to_owned(),
            server_password: None,
            pool_mode: None,
            pool_size: None,
            read_from: None,
        }
    }
}

/// What is stored of a user's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// Nothing: a server is asked for it where there is an [`AuthQuery`].
    Absent,
    Plain(Secret),
    /// `md5` and 32 hexadecimal digits.
    Md5(Secret),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    Verifier(Secret),
}

/// A secret's text; never shown by Debug.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Clone, Debug)]
pub struct Database {
    pub line: Line,
    pub name: String,
    /// Its name on the servers, unless a node says otherwise.
    pub server_database: String,
    /// Name of the shard that is home to sequences and to tables not named here.
    pub default_shard: Option<String>,
    /// Name of the shard to which rows are brought for a query, whatever its tables are.
    pub gather_shard: Option<String>,
    pub sequences: Sequences,
    /// How many numbers are taken from a sequence at a time.
    pub sequence_block: u32,
    /// Before that of `[transactions]`.
    pub cross_shard_commit: Option<CrossShardCommit>,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<usize>,
    /// Before that of `[reads]`.
    pub read_from: Option<ReadFrom>,
    /// Likewise.
    pub max_lag: Option<MaxLag>,
}

/// What gives the rows of sharded tables their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    /// The home shard's sequence, for all shards.
    Home,
    /// Each shard's own: the administrator made them disjoint.
    PerShard,
    /// Nothing: they have to be given.
    Refused,
}

#[derive(Clone, Debug)]
pub struct Shard {
    pub line: Line,
    pub name: String,
    /// Which one is the primary is found out; until then it is taken to be the first.
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
pub struct Node {
    /// Not part of what a node is: it stays the same node when its entry moves in the file.
    pub line: Line,
    /// A name, an address, or a directory of a Unix socket (begins with `/`).
    pub host: String,
    pub port: u16,
    pub database: Option<String>,
    /// Its part of the reads, for [`Balance::Weighted`]; 0: none.
    pub weight: u32,
    pub zone: Option<String>,
    pub duty: Duty,
    /// Where the Patroni that looks after it answers; `None`: nobody but the node itself says whether it is the primary.
    pub patroni: Option<Url>,
}

/// When a node takes reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Regular,
    /// Only when no regular node can, the primary aside.
    Backup,
}

impl Node {
    fn identity(&self) -> (&str, u16, Option<&str>) {
        (&self.host, self.port, self.database.as_deref())
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

#[derive(Clone, Debug)]
pub struct Distribution {
    pub line: Line,
    /// Where `key` is.
    pub key_line: Line,
    /// Where the strategy's own part is: `shards`, `ranges`, `values` or `regions`.
    pub map_line: Line,
    pub name: String,
    /// Name of its database.
    pub database: String,
    /// Type names of the key columns, in order.
    pub key: Vec<String>,
    pub strategy: Strategy,
    pub pins: Vec<Pin>,
}

#[derive(Clone, Debug)]
pub enum Strategy {
    Hash {
        function: HashFunction,
        buckets: u32,
        shards: BucketMap,
    },
    Range(Vec<Range>),
    List {
        values: Vec<ListEntry>,
        default: Option<String>,
    },
    Geo {
        regions: Vec<Region>,
        default: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFunction {
    Postgres,
    Xxh3,
    /// `key % n` as an application did it before; the shards' order counts.
    Modulo,
}

#[derive(Clone, Debug)]
pub enum BucketMap {
    /// Buckets in equal runs over these shards, in order.
    Even(Vec<String>),
    /// Shard name and its inclusive bucket ranges.
    Assigned(Vec<(String, Vec<(u32, u32)>)>),
}

#[derive(Clone, Debug)]
pub struct Range {
    pub line: Line,
    /// Inclusive; `None`: open.
    pub from: Option<String>,
    /// Exclusive; `None`: open.
    pub to: Option<String>,
    pub shard: String,
}

#[derive(Clone, Debug)]
pub struct ListEntry {
    pub line: Line,
    pub values: Vec<String>,
    pub shard: String,
}

#[derive(Clone, Debug)]
pub struct Region {
    pub line: Line,
    pub name: String,
    pub values: Vec<String>,
    /// More than one: the second key column is hashed among them.
    pub shards: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Pin {
    pub line: Line,
    /// One value for each key column.
    pub key: Vec<String>,
    pub shard: String,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub line: Line,
    /// `public` unless written `schema.name`.
    pub schema: String,
    pub name: String,
    pub database: String,
    pub placement: TablePlacement,
}

#[derive(Clone, Debug)]
pub enum TablePlacement {
    Sharded {
        distribution: String,
        key: Vec<String>,
    },
    Reference,
    Single {
        shard: String,
    },
}
