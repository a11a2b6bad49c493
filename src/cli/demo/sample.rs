//! The sample tables and their data. Tables are made and rows are written through the proxy: definitions and the reference table go to
//! every shard at once, all other rows in statements that each concern one shard, many of them on their way at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

use super::DemoError;
use super::configuration::{QUARTERS, REGIONS};
use crate::cli::local::{Cluster, Server};

pub const CUSTOMERS: i64 = 1000;
pub const ORDERS_PER_CUSTOMER: i64 = 5;
pub const LINES_PER_ORDER: i64 = 2;
pub const EVENTS: i64 = 1000;
pub const PROFILES: i64 = 1000;

/// How long the proxy may take to read the servers' definitions.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked whether it has.
const POLL: Duration = Duration::from_millis(50);
/// Connections to the proxy, each with a batch of statements on its way.
const CONNECTIONS: usize = 8;

/// The tables, as they are on every shard. The keys are part of every primary key, as uniqueness across shards demands.
pub const TABLES: &str = "
DROP TABLE IF EXISTS order_lines, orders, customers, events, profiles, countries;
CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL);
CREATE TABLE customers (
    customer_id bigint PRIMARY KEY,
    name text NOT NULL,
    country text NOT NULL REFERENCES countries
);
CREATE TABLE orders (
    customer_id bigint REFERENCES customers,
    order_id bigint,
    status text NOT NULL,
    placed_on date NOT NULL,
    PRIMARY KEY (customer_id, order_id)
);
CREATE TABLE order_lines (
    customer_id bigint,
    order_id bigint,
    line integer,
    product text NOT NULL,
    quantity integer NOT NULL,
    price numeric(10, 2) NOT NULL,
    PRIMARY KEY (customer_id, order_id, line),
    FOREIGN KEY (customer_id, order_id) REFERENCES orders
);
CREATE TABLE events (
    happened_on date,
    event_id bigint,
    kind text NOT NULL,
    PRIMARY KEY (happened_on, event_id)
);
CREATE TABLE profiles (
    country text REFERENCES countries,
    user_id bigint,
    display_name text NOT NULL,
    PRIMARY KEY (country, user_id)
);
";

const COUNTRIES: [(&str, &str); 12] = [
    ("BR", "Brazil"),
    ("CA", "Canada"),
    ("DE", "Germany"),
    ("ES", "Spain"),
    ("FR", "France"),
    ("IN", "India"),
    ("IT", "Italy"),
    ("JP", "Japan"),
    ("KR", "South Korea"),
    ("MX", "Mexico"),
    ("PL", "Poland"),
    ("US", "United States"),
];

const NAMES: [&str; 10] = [
    "Ada", "Bruno", "Chiara", "Dana", "Emil", "Farah", "Goro", "Hana", "Ivo", "Juno",
];
const PRODUCTS: [&str; 6] = ["anvil", "bicycle", "compass", "drum", "easel", "flute"];
const STATUSES: [&str; 3] = ["open", "paid", "shipped"];
const KINDS: [&str; 3] = ["login", "purchase", "refund"];

/// The item of a list at this place, beginning again at its end.
fn pick<T: Copy>(list: &[T], number: i64) -> T {
    list[usize::try_from(number).expect("places are not negative") % list.len()]
}

/// A day of 2026 for an event.
fn day(number: i64) -> String {
    let quarter = pick(&QUARTERS, number);
    format!("{}-{:02}", &quarter[..7], number / 4 % 28 + 1)
}

/// Makes the tables through the proxy, owned by the application's role. Replaces what is there. Waits for a proxy that has just started.
pub async fn make_tables(proxy: &str) -> Result<(), DemoError> {
    let client = connect(proxy).await?;
    let deadline = Instant::now() + READY_TIMEOUT;
    for statement in TABLES.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        while let Err(error) = client.batch_execute(statement).await {
            // A refusal: it may not know yet that all shards can commit together.
            let is_early =
                is_starting(&error) || error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
            if !is_early || Instant::now() > deadline {
                return Err(DemoError::statement(statement, &error));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

/// The proxy has not read yet what the servers define.
fn is_starting(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::CANNOT_CONNECT_NOW)
}

/// Sends all rows to the proxy; gives the number of statements.
pub async fn load(proxy: &str) -> Result<usize, DemoError> {
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        clients.push(Arc::new(connect(proxy).await?));
    }
    let mut sent = 0;
    // In the order of the foreign keys.
    let phases = [
        vec![countries()],
        (1..=CUSTOMERS).map(Statement::Customer).collect(),
        (1..=CUSTOMERS)
            .map(orders)
            .chain(events())
            .chain(profiles())
            .collect(),
        (1..=CUSTOMERS).map(order_lines).collect(),
    ];
    for statements in phases {
        sent += statements.len();
        run_all(&clients, statements).await?;
    }
    Ok(sent)
}

/// Waits until the proxy has read from the servers what the tables look like, which it must know for an INSERT.
pub(super) async fn wait_until_known(proxy: &str) -> Result<(), DemoError> {
    let mut client = connect(proxy).await?;
    let sql = "INSERT INTO events (happened_on, event_id, kind) VALUES ('2026-01-01', 0, 'try')";
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let transaction = client
            .transaction()
            .await
            .map_err(|e| DemoError::statement("BEGIN", &e))?;
        let tried = transaction.batch_execute(sql).await;
        transaction
            .rollback()
            .await
            .map_err(|e| DemoError::statement("ROLLBACK", &e))?;
        match tried {
            Err(e) if is_starting(&e) && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            outcome => return outcome.map_err(|e| DemoError::statement(sql, &e)),
        }
    }
}

/// A client whose connection is served by a task; both end together.
pub(super) async fn connect(connection: &str) -> Result<Client, DemoError> {
    let (client, connection) = tokio_postgres::connect(connection, NoTls)
        .await
        .map_err(|e| {
            DemoError::Connect(
                e.as_db_error()
                    .map_or_else(|| e.to_string(), |e| e.message().to_owned()),
            )
        })?;
    tokio::spawn(connection);
    Ok(client)
}

enum Statement {
    /// Sent with parameters, by the extended protocol.
    Customer(i64),
    /// Sent as it is, by the simple protocol.
    Text(String),
}

impl Statement {
    async fn run(self, client: &Client) -> Result<(), DemoError> {
        match self {
            Self::Customer(id) => {
                let sql = "INSERT INTO customers (customer_id, name, country) VALUES ($1, $2, $3)";
                let name = format!("{} {id}", pick(&NAMES, id));
                let country = pick(&COUNTRIES, id).0;
                let parameters: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[
                    (&id, Type::INT8),
                    (&name, Type::TEXT),
                    (&country, Type::TEXT),
                ];
                let outcome = client.execute_typed(sql, parameters).await;
                outcome
                    .map(|_| ())
                    .map_err(|e| DemoError::statement(sql, &e))
            }
            Self::Text(sql) => client
                .batch_execute(&sql)
                .await
                .map_err(|e| DemoError::statement(&sql, &e)),
        }
    }
}

/// Deals the statements to the clients, each of which has all of its own on their way at once.
async fn run_all(clients: &[Arc<Client>], statements: Vec<Statement>) -> Result<(), DemoError> {
    let mut running = JoinSet::new();
    for (number, statement) in statements.into_iter().enumerate() {
        let client = Arc::clone(&clients[number % clients.len()]);
        running.spawn(async move { statement.run(&client).await });
    }
    while let Some(outcome) = running.join_next().await {
        outcome.map_err(DemoError::panicked)??;
    }
    Ok(())
}

/// One statement: the proxy writes a reference table on every shard, or on none.
fn countries() -> Statement {
    let rows = COUNTRIES
        .map(|(code, name)| format!("('{code}', '{name}')"))
        .join(", ");
    Statement::Text(format!("INSERT INTO countries (code, name) VALUES {rows}"))
}

/// All orders of one customer.
fn orders(customer: i64) -> Statement {
    let row = |order: i64| {
        format!(
            "({customer}, {order}, '{}', '{}')",
            pick(&STATUSES, customer + order),
            day(customer + order)
        )
    };
    let rows = (1..=ORDERS_PER_CUSTOMER)
        .map(row)
        .collect::<Vec<_>>()
        .join(", ");
    Statement::Text(format!(
        "INSERT INTO orders (customer_id, order_id, status, placed_on) VALUES {rows}"
    ))
}

/// All lines of all orders of one customer.
fn order_lines(customer: i64) -> Statement {
    let row = |order: i64, line: i64| {
        let product = pick(&PRODUCTS, customer + order + line);
        let price = (customer * 7 + order * 3 + line) % 100 + 1;
        format!(
            "({customer}, {order}, {line}, '{product}', {}, {price}.50)",
            line + 1
        )
    };
    let rows = (1..=ORDERS_PER_CUSTOMER)
        .flat_map(|order| (1..=LINES_PER_ORDER).map(move |line| row(order, line)))
        .collect::<Vec<_>>()
        .join(", ");
    Statement::Text(format!(
        "INSERT INTO order_lines (customer_id, order_id, line, product, quantity, price) VALUES {rows}"
    ))
}

fn events() -> impl Iterator<Item = Statement> {
    (1..=EVENTS).map(|id| {
        Statement::Text(format!(
            "INSERT INTO events (happened_on, event_id, kind) VALUES ('{}', {id}, '{}')",
            day(id),
            pick(&KINDS, id)
        ))
    })
}

fn profiles() -> impl Iterator<Item = Statement> {
    let countries: Vec<&str> = REGIONS
        .iter()
        .flat_map(|(_, countries, _)| countries.iter().copied())
        .collect();
    (1..=PROFILES).map(move |id| {
        Statement::Text(format!(
            "INSERT INTO profiles (country, user_id, display_name) VALUES ('{}', {id}, '{}')",
            pick(&countries, id),
            pick(&NAMES, id)
        ))
    })
}

/// Asks every shard directly: each row is on one of them, and reference tables are complete on all.
pub fn check(cluster: &Cluster) -> Result<(), DemoError> {
    let expected = [
        ("customers", CUSTOMERS),
        ("orders", CUSTOMERS * ORDERS_PER_CUSTOMER),
        (
            "order_lines",
            CUSTOMERS * ORDERS_PER_CUSTOMER * LINES_PER_ORDER,
        ),
        ("events", EVENTS),
        ("profiles", PROFILES),
        (
            "countries",
            COUNTRIES.len() as i64 * cluster.shards().len() as i64,
        ),
    ];
    for (table, rows) in expected {
        let mut counts = Vec::new();
        for shard in cluster.shards() {
            counts.push(count(&shard.primary, cluster.application(), table)?);
        }
        if counts.iter().sum::<i64>() != rows {
            return Err(DemoError::Data(format!(
                "{table} has {counts:?} rows on the shards, {rows} were sent"
            )));
        }
        if table == "customers" && counts.contains(&0) {
            return Err(DemoError::Data(format!(
                "{counts:?} customers on the shards: one has none"
            )));
        }
    }
    Ok(())
}

fn count(server: &Server, database: &str, table: &str) -> Result<i64, DemoError> {
    let rows = server.run_sql(database, &format!("SELECT count(*) FROM {table}"))?;
    let number = rows
        .first()
        .and_then(|row| row.first()?.as_ref()?.parse().ok());
    number.ok_or_else(|| DemoError::Data(format!("no count of {table} from {}", server.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_spread_over_all_quarters_and_exist() {
        let days: Vec<String> = (0..EVENTS).map(day).collect();
        for quarter in QUARTERS {
            assert!(days.iter().any(|day| day[..7] == quarter[..7]), "{quarter}");
        }
        assert!(
            days.iter()
                .all(|day| day.len() == 10 && &day[8..] >= "01" && &day[8..] <= "28")
        );
    }

    #[test]
    fn every_country_of_a_region_is_in_the_reference_table() {
        for country in REGIONS
            .iter()
            .flat_map(|(_, countries, _)| countries.iter())
        {
            assert!(
                COUNTRIES.iter().any(|(code, _)| code == country),
                "{country}"
            );
        }
    }
}
