//! The tour: statements sent through the proxy, with the shard each went to, found in three independent ways that must
//! agree: what the rows' own servers say when asked directly (or the configuration, for ranges and regions), what
//! `SHOW ROUTE` says, and which server answered (`current_setting('port')` is part of each statement).

use tokio_postgres::error::DbError;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::configuration::{QUARTERS, REGIONS, shard_of_quarter, shards_of_region};
use super::sample::connect;
use super::{Addresses, DemoError};
use crate::cli::local::Cluster;

/// The admin database.
const ADMIN: &str = "trunkline";

/// How to reach the proxy.
#[derive(Clone, Debug)]
pub struct Access {
    port: u16,
    application: String,
    password: String,
}

impl Access {
    pub fn of(cluster: &Cluster, addresses: Addresses) -> Self {
        Self {
            port: addresses.clients.port(),
            application: cluster.application().to_owned(),
            password: cluster.application_password().to_owned(),
        }
    }

    fn connection(&self, database: &str) -> String {
        let Self {
            port,
            application,
            password,
        } = self;
        format!(
            "host=127.0.0.1 port={port} user={application} password={password} dbname={database}"
        )
    }

    /// To the application's database.
    pub fn application(&self) -> String {
        self.connection(&self.application)
    }

    /// What to type.
    pub fn psql(&self) -> String {
        format!("psql \"{}\"", self.application())
    }

    /// What to type for the admin database.
    pub fn psql_admin(&self) -> String {
        format!("psql \"{}\" -c 'SHOW SHARDS'", self.connection(ADMIN))
    }
}

/// Where a statement of the tour must go.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// This shard, by its place.
    Shard(usize),
    /// Any one shard: all give the same answer.
    AnyShard,
    /// All of them: together they have so many rows.
    EveryShard(i64),
    /// Nowhere: refused with this id.
    Refused(&'static str),
}

/// One stop of the tour.
struct Stop {
    title: &'static str,
    /// Every statement reports the port of its server in a column named `port`; one for all shards a number of rows, `rows`.
    sql: String,
    /// For `$1`, if there is one.
    parameter: Option<i64>,
    expected: Expected,
}

/// What became of a statement.
enum Outcome {
    /// Its server's port.
    Answered(u16),
    Counted(i64),
    Failed(Box<DbError>),
}

/// Shows all stops; gives the number of those that did not go where they should.
pub async fn show(cluster: &Cluster, access: &Access) -> Result<usize, DemoError> {
    let application = connect(&access.application()).await?;
    let admin = connect(&access.connection(ADMIN)).await?;
    let stops = stops(cluster)?;
    let mut wrong = 0;
    println!(
        "\nthe tour: each statement goes through the proxy on port {}\n",
        access.port
    );
    for (number, stop) in stops.iter().enumerate() {
        println!("{:>2}. {}\n    {}", number + 1, stop.title, stop.sql);
        if let Some(value) = stop.parameter {
            println!("    with $1 = {value}");
        }
        match visit(cluster, &application, &admin, stop).await? {
            Ok(found) => println!("    -> {found}"),
            Err(found) => {
                wrong += 1;
                println!("    -> WRONG: {found}");
            }
        }
    }
    wrong += usize::from(!show_transaction(cluster, &application, stops.len() + 1).await?);
    let mut all = stops.len() + 1;
    if cluster.shards().len() > 1 {
        all += 1;
        wrong += usize::from(!show_commit(cluster, &application, all).await?);
    }
    println!("\n{} of {all} went where they should", all - wrong);
    Ok(wrong)
}

/// Sends one statement. `Ok`: it went where it should, in words; `Err`: what was wrong.
async fn visit(
    cluster: &Cluster,
    application: &Client,
    admin: &Client,
    stop: &Stop,
) -> Result<Result<String, String>, DemoError> {
    // A parameter has no value for `SHOW ROUTE`, so there a literal stands for it.
    let shown = stop.parameter.map_or_else(
        || stop.sql.clone(),
        |value| stop.sql.replace("$1", &value.to_string()),
    );
    let route = route(admin, &shown).await?;
    let outcome = send(application, stop).await?;
    Ok(judge(cluster, &stop.expected, route.as_deref(), &outcome))
}

fn judge(
    cluster: &Cluster,
    expected: &Expected,
    route: Option<&str>,
    outcome: &Outcome,
) -> Result<String, String> {
    let routed = route.unwrap_or("no shard");
    match (expected, outcome) {
        (Expected::Refused(id), Outcome::Failed(error)) => {
            let said = refusal(error);
            if says(error, id) && route.is_none() {
                Ok(said)
            } else {
                Err(format!("not {id}: {said}"))
            }
        }
        (_, Outcome::Failed(error)) => Err(refusal(error)),
        (Expected::EveryShard(rows), Outcome::Counted(counted))
            if rows == counted && route.is_none() =>
        {
            Ok(format!("{rows} rows, as many as all shards have"))
        }
        (_, Outcome::Counted(counted)) => Err(format!("{counted} rows, SHOW ROUTE says {routed}")),
        (_, Outcome::Answered(port)) => {
            let found = shard_at(cluster, *port);
            let is_right = match expected {
                Expected::Shard(place) => {
                    found == Some(*place) && routed == cluster.shards()[*place].name
                }
                Expected::AnyShard => found.is_some(),
                Expected::EveryShard(_) | Expected::Refused(_) => false,
            };
            let found = found.map_or("no server of this cluster", |place| {
                cluster.shards()[place].name.as_str()
            });
            if is_right {
                return Ok(format!("{found} (the server on port {port} answered)"));
            }
            let expected = match expected {
                Expected::Shard(place) => cluster.shards()[*place].name.as_str(),
                Expected::AnyShard => "any shard",
                Expected::EveryShard(_) => "every shard",
                Expected::Refused(id) => id,
            };
            Err(format!(
                "{found} answered (port {port}), SHOW ROUTE says {routed}, and right is {expected}"
            ))
        }
    }
}

/// Whether the error carries this refusal id, in whichever field.
fn says(error: &DbError, id: &str) -> bool {
    let fields = [
        Some(error.message()),
        error.detail(),
        error.hint(),
        error.constraint(),
        error.routine(),
    ];
    fields.into_iter().flatten().any(|field| field.contains(id))
}

fn refusal(error: &DbError) -> String {
    let lines = [("DETAIL", error.detail()), ("HINT", error.hint())];
    lines
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
        .fold(
            format!("ERROR {}: {}", error.code().code(), error.message()),
            |said, (name, text)| format!("{said}\n       {name}: {text}"),
        )
}

/// The shard one of whose servers has this port.
fn shard_at(cluster: &Cluster, port: u16) -> Option<usize> {
    cluster
        .shards()
        .iter()
        .position(|shard| shard.servers().any(|server| server.port() == port))
}

async fn send(client: &Client, stop: &Stop) -> Result<Outcome, DemoError> {
    if matches!(stop.expected, Expected::EveryShard(_)) {
        let counted = client.query_one(&stop.sql, &[]).await;
        return counted
            .and_then(|row| row.try_get("rows").map(Outcome::Counted))
            .map_err(|e| DemoError::statement(&stop.sql, &e));
    }
    let answered = match stop.parameter {
        Some(value) => client
            .query_typed(&stop.sql, &[(&value, Type::INT8)])
            .await
            .map(|rows| {
                rows.first()
                    .and_then(|row| row.try_get::<_, &str>("port").ok()?.parse().ok())
            }),
        None => port_of_simple(client, &stop.sql).await,
    };
    match answered {
        Ok(Some(port)) => Ok(Outcome::Answered(port)),
        Ok(None) => Err(DemoError::Statement {
            statement: stop.sql.clone(),
            message: "no row with a port".into(),
        }),
        Err(e) => match e.as_db_error() {
            Some(error) => Ok(Outcome::Failed(Box::new(error.clone()))),
            None => Err(DemoError::statement(&stop.sql, &e)),
        },
    }
}

/// The first row's `port` of a statement sent by the simple protocol.
async fn port_of_simple(client: &Client, sql: &str) -> Result<Option<u16>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get("port").ok()??.parse().ok(),
        _ => None,
    }))
}

/// The shard that `SHOW ROUTE` names; `None` when it names none.
async fn route(admin: &Client, sql: &str) -> Result<Option<String>, DemoError> {
    let show = format!("SHOW ROUTE '{}'", sql.replace('\'', "''"));
    let messages = admin
        .simple_query(&show)
        .await
        .map_err(|e| DemoError::statement(&show, &e))?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row
            .try_get("shard")
            .ok()?
            .filter(|shard| !shard.is_empty())
            .map(str::to_owned),
        _ => None,
    }))
}

/// A transaction stays on its shard. Rolled back, so that the tour can be taken again.
async fn show_transaction(
    cluster: &Cluster,
    client: &Client,
    number: usize,
) -> Result<bool, DemoError> {
    let customer = 42;
    let home = home_of(cluster, "customers", &format!("customer_id = {customer}"))?;
    println!(
        "{number:>2}. A transaction: no server is taken before the first statement that needs one"
    );
    let statements = [
        ("BEGIN".to_owned(), None),
        (
            format!(
                "INSERT INTO orders (customer_id, order_id, status, placed_on) \
                 VALUES ({customer}, 1000, 'open', '2026-05-01') RETURNING current_setting('port') AS port"
            ),
            Some(home),
        ),
        (
            format!(
                "UPDATE orders SET status = 'paid' WHERE customer_id = {customer} AND order_id = 1000 \
                 RETURNING current_setting('port') AS port"
            ),
            Some(home),
        ),
        ("ROLLBACK".to_owned(), None),
    ];
    run_all(cluster, client, &statements).await
}

/// The last stop: a transaction that writes on two shards leaves its id on both of them.
async fn show_commit(cluster: &Cluster, client: &Client, number: usize) -> Result<bool, DemoError> {
    println!(
        "{number:>2}. A transaction over two shards: it commits on both or on neither, whoever dies meanwhile"
    );
    let update = |customer: i64| -> Result<(String, Option<usize>), DemoError> {
        let home = home_of(cluster, "customers", &format!("customer_id = {customer}"))?;
        let sql = format!(
            "UPDATE customers SET name = name WHERE customer_id = {customer} \
             RETURNING current_setting('port') AS port"
        );
        Ok((sql, Some(home)))
    };
    let first = update(42)?;
    let mut others = (1..100).map(update);
    let second = loop {
        match others.next() {
            Some(Ok((_, home))) if home == first.1 => {}
            Some(other) => break other?,
            None => {
                return Err(DemoError::Data("all customers are on one shard".to_owned()));
            }
        }
    };
    let mut on = [first.1, second.1].map(|home| home.unwrap_or_default());
    on.sort_unstable();
    let before = commits(cluster)?;
    let statements = [
        ("BEGIN".to_owned(), None),
        first,
        second,
        ("COMMIT".to_owned(), None),
    ];
    let went_right = run_all(cluster, client, &statements).await?;
    let after = commits(cluster)?;
    let grown = before.iter().zip(&after).enumerate();
    let grown: Vec<usize> = grown
        .filter(|(_, (before, after))| before != after)
        .map(|(place, _)| place)
        .collect();
    let names: Vec<&str> = grown
        .iter()
        .map(|place| cluster.shards()[*place].name.as_str())
        .collect();
    if grown == on {
        println!(
            "    -> committed together: {} have a row of it in trunkline.commits",
            names.join(" and ")
        );
    } else {
        println!("    -> WRONG: it left its row on these shards: {names:?}");
    }
    Ok(went_right && grown == on)
}

/// How many commits of several shards each shard knows of, asked directly.
fn commits(cluster: &Cluster) -> Result<Vec<Option<String>>, DemoError> {
    let mut commits = Vec::new();
    for shard in cluster.shards() {
        let count = "SELECT count(*) FROM trunkline.commits WHERE outcome = 'commit'";
        let rows = shard.primary.run_sql(cluster.application(), count)?;
        commits.push(rows.into_iter().flatten().next().flatten());
    }
    Ok(commits)
}

/// Sends statements, some of which a certain shard must answer; whether all were.
async fn run_all(
    cluster: &Cluster,
    client: &Client,
    statements: &[(String, Option<usize>)],
) -> Result<bool, DemoError> {
    let mut went_right = true;
    for (sql, expected) in statements {
        println!("    {sql}");
        let right = expected.map_or("none", |place| &cluster.shards()[place].name);
        match port_of_simple(client, sql).await {
            Ok(None) => {}
            Ok(Some(port)) if shard_at(cluster, port) == *expected => {
                println!("    -> {right} (the server on port {port} answered)");
            }
            Ok(Some(port)) => {
                went_right = false;
                println!("    -> WRONG: the server on port {port} answered, and right is {right}");
            }
            Err(e) => {
                let Some(error) = e.as_db_error() else {
                    return Err(DemoError::statement(sql, &e));
                };
                went_right = false;
                println!("    -> WRONG: {}", refusal(error));
            }
        }
    }
    Ok(went_right)
}

/// The only shard whose primary, asked directly, has such a row.
fn home_of(cluster: &Cluster, table: &str, condition: &str) -> Result<usize, DemoError> {
    let sql = format!("SELECT FROM {table} WHERE {condition} LIMIT 1");
    let mut homes = Vec::new();
    for (place, shard) in cluster.shards().iter().enumerate() {
        if !shard
            .primary
            .run_sql(cluster.application(), &sql)?
            .is_empty()
        {
            homes.push(place);
        }
    }
    match homes.as_slice() {
        [home] => Ok(*home),
        _ => Err(DemoError::Data(format!(
            "{table} where {condition} is on {} shards",
            homes.len()
        ))),
    }
}

/// Two customers that live on the same shard, the first of them being this one.
fn neighbours(cluster: &Cluster, customer: i64) -> Result<[i64; 2], DemoError> {
    let home = home_of(cluster, "customers", &format!("customer_id = {customer}"))?;
    let sql = format!("SELECT min(customer_id) FROM customers WHERE customer_id > {customer}");
    let rows = cluster.shards()[home]
        .primary
        .run_sql(cluster.application(), &sql)?;
    let other = rows
        .first()
        .and_then(|row| row.first()?.as_ref()?.parse().ok());
    let other =
        other.ok_or_else(|| DemoError::Data(format!("customer {customer} has no neighbour")))?;
    Ok([customer, other])
}

/// How many rows the shards have of a table, asked directly.
fn rows_of(cluster: &Cluster, table: &str) -> Result<i64, DemoError> {
    let sql = format!("SELECT count(*) FROM {table}");
    let mut all = 0;
    for shard in cluster.shards() {
        let rows = shard.primary.run_sql(cluster.application(), &sql)?;
        let count = rows
            .first()
            .and_then(|row| row.first()?.as_ref()?.parse::<i64>().ok());
        all += count.ok_or_else(|| DemoError::Data(format!("{table} cannot be counted")))?;
    }
    Ok(all)
}

fn stops(cluster: &Cluster) -> Result<Vec<Stop>, DemoError> {
    let number = cluster.shards().len();
    let customer = |id: i64| home_of(cluster, "customers", &format!("customer_id = {id}"));
    let stop = |title, sql: String, expected| Stop {
        title,
        sql,
        parameter: None,
        expected,
    };
    let [one, neighbour] = neighbours(cluster, 42)?;
    let last = &cluster.shards()[number - 1].name;
    let quarter = 2;
    let everywhere = Expected::EveryShard(rows_of(cluster, "customers")?);
    let mut stops = vec![
        stop(
            "One customer: the key is in the WHERE clause",
            "SELECT name, country, current_setting('port') AS port FROM customers WHERE customer_id = 42".into(),
            Expected::Shard(customer(42)?),
        ),
        Stop {
            title: "Another one, with a parameter",
            sql: "SELECT name, country, current_setting('port') AS port FROM customers WHERE customer_id = $1".into(),
            parameter: Some(4711 % super::sample::CUSTOMERS),
            expected: Expected::Shard(customer(4711 % super::sample::CUSTOMERS)?),
        },
        stop(
            "A join: customers, orders and lines of one customer are together",
            "SELECT c.name, count(*) AS lines, sum(l.quantity * l.price) AS total, current_setting('port') AS port \
             FROM customers c JOIN orders o ON o.customer_id = c.customer_id \
             JOIN order_lines l ON l.customer_id = o.customer_id AND l.order_id = o.order_id \
             WHERE c.customer_id = 7 GROUP BY c.name"
                .into(),
            Expected::Shard(customer(7)?),
        ),
        stop(
            "A join with a reference table, which is on every shard",
            "SELECT c.name, r.name AS country, current_setting('port') AS port \
             FROM customers c JOIN countries r ON r.code = c.country WHERE c.customer_id = 99"
                .into(),
            Expected::Shard(customer(99)?),
        ),
        stop(
            "Several keys that live on one shard",
            format!(
                "SELECT customer_id, status, current_setting('port') AS port \
                 FROM orders WHERE customer_id IN ({one}, {neighbour}) ORDER BY customer_id, order_id"
            ),
            Expected::Shard(customer(42)?),
        ),
        stop(
            "Ranges: the day finds the quarter",
            format!(
                "SELECT count(*) AS events, current_setting('port') AS port FROM events WHERE happened_on = '{}'",
                QUARTERS[quarter]
            ),
            Expected::Shard(shard_of_quarter(quarter, number)),
        ),
        profile(cluster, "Regions: the country finds the region, and the user a shard in it", 0)?,
        profile(cluster, "A region with one shard", 2)?,
        stop(
            "A reference table alone: any shard will do",
            "SELECT count(*) AS countries, current_setting('port') AS port FROM countries".into(),
            Expected::AnyShard,
        ),
        stop(
            "A hint names the shard",
            format!(
                "/* trunkline: shard={last} */ SELECT count(*) AS customers_here, current_setting('port') AS port \
                 FROM customers"
            ),
            Expected::Shard(number - 1),
        ),
        stop(
            "Without a key every shard counts its rows",
            "SELECT count(*) AS rows FROM customers".into(),
            everywhere,
        ),
        stop(
            "Right or refused: the row might have to move to another shard",
            "UPDATE customers SET customer_id = 43 WHERE customer_id = 42 RETURNING current_setting('port') AS port".into(),
            Expected::Refused("key_update"),
        ),
    ];
    if number == 1 {
        // One shard does all of it.
        stops.truncate(stops.len() - 2);
    }
    Ok(stops)
}

/// Somebody's profile in a region.
fn profile(cluster: &Cluster, title: &'static str, region: usize) -> Result<Stop, DemoError> {
    let (name, countries, _) = REGIONS[region];
    let country = countries[countries.len() - 1];
    let primaries = cluster.shards().iter().map(|shard| &shard.primary);
    let sql = format!("SELECT min(user_id) FROM profiles WHERE country = '{country}'");
    let mut users = Vec::new();
    for primary in primaries {
        let rows = primary.run_sql(cluster.application(), &sql)?;
        users.extend(
            rows.into_iter()
                .filter_map(|row| row.into_iter().next()??.parse::<i64>().ok()),
        );
    }
    let user = users
        .into_iter()
        .max()
        .ok_or_else(|| DemoError::Data(format!("no profile in {country}")))?;
    let condition = format!("country = '{country}' AND user_id = {user}");
    let home = home_of(cluster, "profiles", &condition)?;
    if !shards_of_region(region, cluster.shards().len()).contains(&home) {
        let home = &cluster.shards()[home].name;
        return Err(DemoError::Data(format!(
            "a profile of {country} is on {home}, which is not in {name}"
        )));
    }
    Ok(Stop {
        title,
        sql: format!(
            "SELECT display_name, current_setting('port') AS port FROM profiles WHERE {condition}"
        ),
        parameter: None,
        expected: Expected::Shard(home),
    })
}
