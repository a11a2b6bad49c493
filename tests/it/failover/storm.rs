//! Very many clients that all come back at the same time, to a shard that was just restarted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use super::size;
use super::stage::Stage;
use crate::servers::DEADLINE;

const CLIENTS: (usize, usize) = (1000, 5000);

/// Server connections of all workers together.
const POOL: usize = 20;

/// From one count of server connections to the next.
const COUNT: Duration = Duration::from_millis(20);

#[test]
fn a_thousand_clients_after_a_restart() {
    let clients = size(CLIENTS);
    let mut stage = Stage::start(1, 0);
    let pool =
        format!("[pool]\nsize = {POOL}\nmax_waiting = {clients}\ncheckout_timeout = \"60s\"\n");
    let proxy = stage.proxy(&pool);
    stage.run(
        0,
        0,
        "INSERT INTO things SELECT i, i FROM generate_series(1, 100) i",
    );
    stage.kill(0, 0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let connection = proxy.connection();
    let began = Instant::now();
    let storm: Vec<_> = (0..clients)
        .map(|number| {
            let connection = connection.clone();
            runtime.spawn(async move {
                let (client, connection) = tokio_postgres::connect(&connection, NoTls).await?;
                tokio::spawn(connection);
                let text = format!("SELECT v FROM things WHERE id = {}", number % 100 + 1);
                client.simple_query(&text).await.map(drop)
            })
        })
        .collect();
    stage.restart(0, 0);
    let back = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let most = std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_type = 'client backend'";
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                let count: usize = stage.value(0, 0, asked).parse().expect("a number");
                most = most.max(count);
                std::thread::sleep(COUNT);
            }
            most
        });
        let served = runtime.block_on(async {
            let all = futures_util::future::try_join_all(storm);
            tokio::time::timeout(DEADLINE, all).await
        });
        over.store(true, Ordering::Relaxed);
        let most = counting.join().expect("the server answers");
        let answers = served.expect("in time").expect("no panic");
        let errors: Vec<String> = answers
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("{error:?}"))
            .collect();
        assert!(
            errors.is_empty(),
            "{} errors, like {}",
            errors.len(),
            errors[0]
        );
        most
    });
    println!(
        "{clients} clients after a restart: all served {:?} after they began, {:?} after the shard was back, with {most} server connections at most",
        began.elapsed(),
        back.elapsed()
    );
    // And those by which the proxy looks after the shard.
    assert!(most <= POOL + 8, "{most} server connections");
    runtime.shutdown_background();
}
