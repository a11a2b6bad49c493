//! SHOW CLIENTS and SHOW SERVERS: connections, one a row.

use super::super::table::{Cell, Column, Table, row, text, whole};
use super::View;
use super::clock::{moment, seconds_and_rest};
use crate::admin::shard_name;
use crate::session::card::State;
use crate::session::report::{ClientReport, PoolReport, WorkerReport};

pub const CLIENTS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    whole("port"),
    text("local_addr"),
    whole("local_port"),
    text("connect_time"),
    text("request_time"),
    whole("wait"),
    whole("wait_us"),
    whole("close_needed"),
    text("ptr"),
    text("link"),
    whole("remote_pid"),
    text("tls"),
    text("application_name"),
    whole("prepared_statements"),
    whole("id"),
    text("shard"),
    whole("worker"),
    text("pin"),
];

pub const SERVERS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    whole("port"),
    text("local_addr"),
    whole("local_port"),
    text("connect_time"),
    text("request_time"),
    whole("wait"),
    whole("wait_us"),
    whole("close_needed"),
    text("ptr"),
    text("link"),
    whole("remote_pid"),
    text("tls"),
    text("application_name"),
    whole("prepared_statements"),
    whole("id"),
    text("shard"),
    whole("worker"),
];

pub fn clients(view: &View, table: &mut Table) {
    for report in &view.reports {
        for client in &report.clients {
            table.push(client_row(view, report.worker, client));
        }
    }
}

fn client_row(view: &View, worker: usize, client: &ClientReport) -> Vec<Cell> {
    let peer = Peer::read(&client.address);
    let waits = client.state == State::Waiting;
    let (wait, wait_us) = if waits {
        seconds_and_rest(client.requested)
    } else {
        (0, 0)
    };
    row![
        "C",
        &*client.user,
        &*client.database,
        "none",
        state(client.state),
        peer.address,
        peer.port,
        Cell::Null,
        Cell::Null,
        moment(view.now, client.connected),
        moment(view.now, client.requested),
        wait,
        wait_us,
        0,
        client_pointer(client),
        link(worker, client),
        peer.process_id,
        if client.tls { "TLS" } else { "" },
        &*client.application_name,
        Cell::Null,
        client.process_id,
        client.shard.map(|shard| shard_name(view.config(), shard)),
        worker,
        (!client.pins.is_empty()).then(|| client.pins.join(", ")),
    ]
}

fn state(state: State) -> &'static str {
    match state {
        // In PgBouncer's words: linked to a server.
        State::Active | State::IdleInTransaction => "active",
        State::Waiting => "waiting",
        State::Idle => "idle",
    }
}

fn client_pointer(client: &ClientReport) -> String {
    format!("C{}", client.process_id)
}

/// Process ids of different servers can be the same, so the pool is part of the name.
fn server_pointer(worker: usize, shard: u16, process_id: i32) -> String {
    format!("S{worker}.{shard}.{process_id}")
}

fn link(worker: usize, client: &ClientReport) -> Option<String> {
    Some(server_pointer(
        worker,
        client.shard?.0,
        client.server_process_id?,
    ))
}

/// Who is at the other end, from the words of [`crate::wire::stream::Peer`].
struct Peer {
    address: String,
    port: Option<u16>,
    process_id: Option<i32>,
}

impl Peer {
    fn read(text: &str) -> Peer {
        if let Some(rest) = text.strip_prefix("unix") {
            let number = rest
                .strip_prefix("(pid ")
                .and_then(|rest| rest.strip_suffix(')'));
            let process_id = number.and_then(|number| number.parse().ok());
            return Peer {
                address: "unix".to_owned(),
                port: None,
                process_id,
            };
        }
        let (address, port) = host_and_port(text);
        Peer {
            address,
            port,
            process_id: None,
        }
    }
}

fn host_and_port(text: &str) -> (String, Option<u16>) {
    match text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
    {
        Some((host, port)) => (host.trim_matches(['[', ']']).to_owned(), Some(port)),
        None => (text.to_owned(), None),
    }
}

pub fn servers(view: &View, table: &mut Table) {
    for report in &view.reports {
        for pool in &report.pools {
            pool_rows(view, report, pool, table);
        }
    }
}

/// What a row says of one connection; the rest is the same for its pool.
struct ServerRow<'a> {
    state: &'static str,
    connect_time: Option<String>,
    request_time: Option<String>,
    process_id: Option<i32>,
    client: Option<&'a ClientReport>,
    prepared: Option<usize>,
}

impl ServerRow<'_> {
    /// One of which nothing else is known.
    fn new(state: &'static str) -> Self {
        ServerRow {
            state,
            connect_time: None,
            request_time: None,
            process_id: None,
            client: None,
            prepared: None,
        }
    }
}

fn pool_rows(view: &View, report: &WorkerReport, pool: &PoolReport, table: &mut Table) {
    let serves = |client: &&ClientReport| {
        client.shard == Some(pool.shard)
            && client.user == pool.user
            && client.database == pool.database
    };
    let mut push =
        |server: ServerRow<'_>| table.push(server_row(view, report.worker, pool, server));
    let mut linked = 0;
    for client in report.clients.iter().filter(serves) {
        linked += 1;
        let request_time = Some(moment(view.now, client.requested));
        push(ServerRow {
            request_time,
            process_id: client.server_process_id,
            client: Some(client),
            ..ServerRow::new("active")
        });
    }
    // Kept by sessions between two statements, or being tried before they are lent: of these only the number is known.
    for _ in linked..pool.census.lent {
        push(ServerRow::new("active"));
    }
    for _ in 0..pool.census.connecting {
        push(ServerRow::new("new"));
    }
    for idle in &pool.idle {
        push(ServerRow {
            state: "idle",
            connect_time: Some(moment(
                view.now,
                report.at.saturating_duration_since(idle.connected_at),
            )),
            request_time: Some(moment(
                view.now,
                report.at.saturating_duration_since(idle.used_at),
            )),
            process_id: Some(idle.process_id),
            client: None,
            prepared: Some(idle.prepared),
        });
    }
}

fn server_row(view: &View, worker: usize, pool: &PoolReport, server: ServerRow<'_>) -> Vec<Cell> {
    let (address, port) = host_and_port(&pool.address);
    row![
        "S",
        &*pool.user,
        &*pool.database,
        "none",
        server.state,
        address,
        port,
        Cell::Null,
        Cell::Null,
        server.connect_time,
        server.request_time,
        0,
        0,
        0,
        server
            .process_id
            .map(|process_id| server_pointer(worker, pool.shard.0, process_id)),
        server.client.map(client_pointer),
        server.process_id,
        Cell::Null,
        server.client.map(|client| &*client.application_name),
        server.prepared,
        server.process_id,
        shard_name(view.config(), pool.shard),
        worker,
    ]
}

#[cfg(test)]
mod tests {
    use super::Peer;

    #[test]
    fn peers_are_read_back() {
        let read = |text: &str| {
            let peer = Peer::read(text);
            (peer.address, peer.port, peer.process_id)
        };
        assert_eq!(
            read("10.0.0.1:5000"),
            ("10.0.0.1".to_owned(), Some(5000), None)
        );
        assert_eq!(read("[::1]:5000"), ("::1".to_owned(), Some(5000), None));
        assert_eq!(read("unix(pid 77)"), ("unix".to_owned(), None, Some(77)));
        assert_eq!(read("unix"), ("unix".to_owned(), None, None));
        assert_eq!(read("unknown"), ("unknown".to_owned(), None, None));
    }
}
