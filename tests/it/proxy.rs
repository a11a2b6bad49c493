//! Trunkline inside this process, in front of the shared cluster, and the same tables on one server to compare it with.

use std::net::SocketAddr;
use std::sync::OnceLock;

use trunkline::config;
use trunkline::server::{self, Handle};
use trunkline::session::report::WorkerReport;

use crate::servers::{cluster, servers, wait_until};
use crate::wire_client::{Message, Step, Wire, ask};

/// The database of these tests, on every shard and on the server outside.
pub const DATABASE: &str = "shop";

/// The password of `app` towards Trunkline; the servers ask for none.
pub const PASSWORD: &str = "I\u{ad}X p\u{e4}ss";

/// Key types of the tables `by_<type>`, with a value and its binary form.
pub const KEY_TYPES: [(&str, &str, &[u8]); 12] = [
    ("smallint", "7", &[0, 7]),
    ("integer", "-70000", &[0xff, 0xfe, 0xee, 0x90]),
    ("bigint", "70000", &[0, 0, 0, 0, 0, 1, 0x11, 0x70]),
    ("text", "k\u{e9}y", &[b'k', 0xc3, 0xa9, b'y']),
    ("varchar", "var", b"var"),
    ("char(6)", "cc", b"cc"),
    (
        "uuid",
        "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        &[
            0x6f, 0x96, 0x19, 0xff, 0x8b, 0x86, 0xd0, 0x11, 0xb4, 0x2d, 0, 0xc0, 0x4f, 0xc9, 0x64,
            0xff,
        ],
    ),
    ("date", "2024-02-29", &[0, 0, 0x22, 0x79]),
    (
        "timestamp",
        "2000-01-01 00:00:01",
        &[0, 0, 0, 0, 0, 0x0f, 0x42, 0x40],
    ),
    (
        "timestamptz",
        "2000-01-01 00:00:02+00",
        &[0, 0, 0, 0, 0, 0x1e, 0x84, 0x80],
    ),
    (
        "numeric",
        "12345",
        &[0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0x09, 0x29],
    ),
    ("bytea", "\\x0102", &[1, 2]),
];

/// The name of the table with this key type, and the type in a distribution.
pub fn table_of(key_type: &str) -> (String, &str) {
    let bare = key_type.split('(').next().unwrap();
    (format!("by_{bare}"), bare)
}

const TABLES: &str = "
    CREATE TABLE customers (id bigint PRIMARY KEY, name text);
    CREATE TABLE orders (id bigint, customer_id bigint, amount numeric(10,2), PRIMARY KEY (customer_id, id));
    CREATE TABLE order_lines (customer_id bigint, order_id bigint, line int, item text);
    CREATE TABLE events (day date, what text);
    CREATE TABLE contracts (tenant text, note text);
    CREATE TABLE profiles (country text, customer_id bigint, note text);
    CREATE TABLE countries (code text PRIMARY KEY, name text);
    CREATE TABLE settings (name text PRIMARY KEY, value text);
    CREATE TABLE notes (id int PRIMARY KEY, body text);
    CREATE SCHEMA other; CREATE TABLE other.notes (id int PRIMARY KEY, body text);
    INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France');
";

fn create_tables() {
    static CREATED: OnceLock<()> = OnceLock::new();
    CREATED.get_or_init(|| {
        let mut tables = format!("SET ROLE app; {TABLES}");
        for (key_type, ..) in KEY_TYPES {
            tables += &format!(
                "CREATE TABLE {} (k {key_type} PRIMARY KEY, v int);",
                table_of(key_type).0
            );
        }
        let shards = cluster().shards().iter().map(|shard| &shard.primary);
        for server in shards.chain([&servers().plain]) {
            server
                .run_sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER app"))
                .unwrap();
            server.run_sql(DATABASE, &tables).unwrap();
        }
    });
}

const USERS: &str = "
    [[users]]
    name = \"app\"
    password = \"I\u{ad}X p\u{e4}ss\"
    [[users]]
    name = \"trusty\"
    auth = \"trust\"
    server_user = \"app\"
    [[users]]
    name = \"old\"
    auth = \"md5\"
    password = \"older\"
    server_user = \"app\"
    [[users]]
    name = \"boss\"
    auth = \"trust\"
    admin = true
    server_user = \"app\"
    # One server connection, so that what one client leaves the next one would find.
    [[users]]
    name = \"lone\"
    auth = \"trust\"
    server_user = \"app\"
    pool_size = 1
    [[users]]
    name = \"solo\"
    auth = \"trust\"
    server_user = \"app\"
    pool_mode = \"session\"
    [[users]]
    name = \"ghost\"
    auth = \"trust\"
    server_user = \"nobody_of_this_name\"
";

const PLACEMENT: &str = r#"
    [[distributions]]
    name = "customers"
    database = "shop"
    key = "bigint"
    strategy = "hash"
    shards = ["s1", "s2", "s3", "s4"]
    [[distributions]]
    name = "events"
    database = "shop"
    key = "date"
    strategy = "range"
    ranges = [{ to = 2024-01-01, shard = "s1" }, { from = 2024-01-01, to = 2025-01-01, shard = "s2" }]
    [[distributions]]
    name = "tenants"
    database = "shop"
    key = "text"
    strategy = "list"
    values = [{ values = ["acme"], shard = "s2" }]
    default = "s3"
    [[distributions]]
    name = "profiles"
    database = "shop"
    key = ["text", "bigint"]
    strategy = "geo"
    regions = [{ name = "eu", values = ["DE", "FR"], shards = ["s1", "s2"] }, { name = "us", values = ["US"], shards = ["s3"] }]
    [[tables]]
    name = "customers"
    distribution = "customers"
    key = "id"
    [[tables]]
    name = "orders"
    distribution = "customers"
    key = "customer_id"
    [[tables]]
    name = "order_lines"
    distribution = "customers"
    key = "customer_id"
    [[tables]]
    name = "events"
    distribution = "events"
    key = "day"
    [[tables]]
    name = "contracts"
    distribution = "tenants"
    key = "tenant"
    [[tables]]
    name = "profiles"
    distribution = "profiles"
    key = ["country", "customer_id"]
    [[tables]]
    name = "countries"
    database = "shop"
    placement = "reference"
    [[tables]]
    name = "settings"
    database = "shop"
    placement = "single"
    shard = "s1"
"#;

/// A configuration that begins with `head`: keys and sections of the test's own.
fn configuration(head: &str) -> String {
    let mut text = format!(
        "{head}\n[listen]\naddresses = [\"127.0.0.1:6432\"]\nhttp = \"off\"\n[server_tls]\nmode = \"disable\"\n{USERS}\n\
         [[databases]]\nname = \"{DATABASE}\"\ndefault_shard = \"s1\"\n\
         [[databases]]\nname = \"missing\"\ndefault_shard = \"s1\"\nserver_database = \"not_there\"\n"
    );
    for shard in cluster().shards() {
        let (name, port) = (&shard.name, shard.primary.port());
        text += &format!(
            "[[shards]]\nname = \"{name}\"\nnodes = [{{ host = \"127.0.0.1\", port = {port} }}]\n"
        );
    }
    // Beside what is built, and of this process only.
    text += &format!(
        "[store]\npath = \"{}/state-{}\"\n",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    text += PLACEMENT;
    for (key_type, ..) in KEY_TYPES {
        let (table, bare) = table_of(key_type);
        text += &format!(
            "[[distributions]]\nname = \"{table}\"\ndatabase = \"{DATABASE}\"\nkey = \"{bare}\"\nstrategy = \"hash\"\n\
             shards = [\"s1\", \"s2\", \"s3\", \"s4\"]\n\
             [[tables]]\nname = \"{table}\"\ndistribution = \"{table}\"\nkey = \"k\"\n"
        );
    }
    text
}

/// A running proxy. It ends when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    handle: Option<Handle>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Proxy {
    /// With keys and sections of its own, like `workers = 1` or `[pool]`. It is ready: it knows the tables.
    pub fn start(head: &str) -> Proxy {
        create_tables();
        let mut config = config::parse(&configuration(head), "tests.toml", &|_| None)
            .unwrap_or_else(|problems| {
                panic!(
                    "{}",
                    problems
                        .iter()
                        .map(|problem| format!("{problem}\n"))
                        .collect::<String>()
                )
            });
        // Any free port, which a file cannot say.
        config.listen.addresses = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.block_on(server::start(config, None)).unwrap();
        let proxy = Proxy {
            address: handle.addresses[0],
            handle: Some(handle),
            runtime: Some(runtime),
        };
        let mut client = proxy.client("boss");
        wait_until("the definitions are read", || {
            client
                .query("EXPLAIN INSERT INTO customers VALUES (1, 'x')")
                .ends_with("C(EXPLAIN) Z(I)")
        });
        proxy
    }

    /// A client of this user that need not say who it is.
    pub fn client(&self, user: &str) -> Wire {
        self.client_with(user, &[])
    }

    /// Likewise, with parameters in its startup packet.
    pub fn client_with(&self, user: &str, more: &[(&str, &str)]) -> Wire {
        self.try_client(user, more)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_client(&self, user: &str, more: &[(&str, &str)]) -> Result<Wire, Message> {
        Wire::log_in(
            self.address,
            &[&[("user", user), ("database", DATABASE)], more].concat(),
            PASSWORD,
        )
    }

    /// What the workers say of themselves.
    pub fn report(&self) -> Vec<WorkerReport> {
        let (runtime, handle) = (
            self.runtime.as_ref().unwrap(),
            self.handle.as_ref().unwrap(),
        );
        runtime.block_on(handle.report())
    }
}

impl Proxy {
    /// Ends it as SIGTERM does.
    pub fn shut_down(mut self) {
        if let (Some(handle), Some(runtime)) = (self.handle.take(), &self.runtime) {
            runtime.block_on(handle.shut_down());
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.handle.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The proxy that tests share. One worker, so that every client of a user meets the same connections.
pub fn proxy() -> &'static Proxy {
    static PROXY: OnceLock<Proxy> = OnceLock::new();
    PROXY.get_or_init(|| Proxy::start("workers = 1\n[pool]\nsize = 8\n"))
}

/// A client of the server outside the cluster, which holds the same tables.
pub fn plain() -> Wire {
    create_tables();
    let address = SocketAddr::from(([127, 0, 0, 1], servers().plain.port()));
    Wire::log_in(address, &[("user", "app"), ("database", DATABASE)], "")
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Runs the same messages against one server and through Trunkline; the answers must be the same. Gives them, a step a line.
#[track_caller]
pub fn same(script: &[Step]) -> String {
    same_as("trusty", script)
}

/// Likewise, as this user of Trunkline.
#[track_caller]
pub fn same_as(user: &str, script: &[Step]) -> String {
    let (mut direct, mut through) = (plain(), proxy().client(user));
    let mut all = Vec::new();
    for (number, step) in script.iter().enumerate() {
        let expected = direct.step(step);
        let got = through.step(step);
        assert_eq!(
            got,
            expected,
            "step {number}: Trunkline (left) and Postgres (right) after\n{}",
            all.join("\n")
        );
        all.push(expected);
    }
    all.join("\n")
}

/// Sends many messages without waiting for an answer; shows the first one that differs.
#[track_caller]
pub fn same_long(messages: &[Vec<u8>]) {
    let step = ask(messages);
    let [direct, through] = [plain(), proxy().client("trusty")].map(|mut client| {
        let mut writer = client.stream.try_clone().unwrap();
        let bytes = step.0.clone();
        // Neither side waits for the other to read.
        let sending =
            std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
        let messages = client.read_until(step.1);
        sending.join().unwrap();
        messages
            .into_iter()
            .filter(|message| message.tag != b'S')
            .collect::<Vec<_>>()
    });
    let differs = direct
        .iter()
        .zip(&through)
        .position(|(direct, through)| direct.to_string() != through.to_string());
    if let Some(place) = differs {
        let around = place.saturating_sub(5)..(place + 5).min(direct.len()).min(through.len());
        let [through, direct] = [&through, &direct].map(|messages| {
            let short =
                |message: &Message| message.to_string().chars().take(60).collect::<String>();
            messages[around.clone()]
                .iter()
                .map(short)
                .collect::<Vec<_>>()
        });
        panic!("message {place}: {through:?} through Trunkline, and {direct:?} directly");
    }
    assert_eq!(through.len(), direct.len());
}

/// The shards that hold a row for this condition.
pub fn shards_with(table: &str, condition: &str) -> Vec<String> {
    let sql = format!("SELECT count(*) FROM {table} WHERE {condition}");
    let shards = cluster().shards().iter();
    let holding = shards
        .filter(|shard| crate::servers::value(&shard.primary, DATABASE, &sql).unwrap() != "0");
    holding.map(|shard| shard.name.clone()).collect()
}

/// A key of `customers` from `from` upwards on each of the four shards, in their order. No test writes these rows, so other keys are
/// to be taken for what may collide.
pub fn keys(from: i64) -> [i64; 4] {
    let mut found: [Option<i64>; 4] = [None; 4];
    let mut client = proxy().client("trusty");
    for key in from.. {
        let port = client.value(&format!(
            "/* trunkline: key={key} distribution=customers */ SELECT current_setting('port')"
        ));
        let shard = cluster()
            .shards()
            .iter()
            .position(|shard| shard.primary.port().to_string() == port)
            .unwrap();
        found[shard].get_or_insert(key);
        if let [Some(a), Some(b), Some(c), Some(d)] = found {
            return [a, b, c, d];
        }
    }
    unreachable!("keys go on for ever")
}
