//! The demo's sample data, on one plain server: the statements are good SQL without a proxy, too.

use trunkline::cli::demo::sample;

use crate::servers::{own_cluster, value};

#[tokio::test]
async fn the_sample_data_is_good_sql() {
    let cluster = own_cluster(1, 0);
    let server = &cluster.shards()[0].primary;
    let connection = format!("host=127.0.0.1 port={} user=app dbname=app", server.port());
    sample::make_tables(&connection).await.unwrap();
    let statements = sample::load(&connection).await.unwrap();
    assert_eq!(
        statements as i64,
        1 + 3 * sample::CUSTOMERS + sample::EVENTS + sample::PROFILES
    );
    sample::check(&cluster).unwrap();
    let owner =
        "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(value(server, "app", owner).unwrap(), "app");

    server
        .run_sql("app", "DELETE FROM order_lines WHERE customer_id = 3")
        .unwrap();
    assert!(sample::check(&cluster).is_err());
}
