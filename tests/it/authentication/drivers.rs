//! Drivers that encrypt and prove in their own ways: tokio-postgres with rustls, and Python's psycopg (libpq 17 or later) and asyncpg.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ring::digest;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::config::{ChannelBinding as Wanted, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::certificates::{POSTGRESQL, TLS, config, files, identity, users};
use super::stage::{PASSWORD, Proxy};
use crate::drivers::python;
use crate::tls::Authority;

fn proxy(authority: &Authority) -> Proxy {
    let issued = authority.issue(&["localhost"]);
    let root = std::fs::read_to_string(authority.root()).unwrap();
    let rules = "hostssl app ann all cert\nhostssl app bob all scram-sha-256\nhostnossl app bob all password\n";
    let sections = users(&format!("password = \"{PASSWORD}\","))
        + "[auth]\nhba_file = \"hba.conf\"\n"
        + TLS
        + "mode = \"prefer\"\nclient_authorities = \"clients.crt\"\n";
    let files = files(&issued, &root);
    Proxy::start(&[&files[..], &[("hba.conf", rules)]].concat(), &sections)
}

#[test]
fn python_drivers() {
    let authority = Authority::new("an authority");
    let proxy = proxy(&authority);
    python(
        "login.py",
        &[
            &proxy.port.to_string(),
            &authority.root(),
            &identity(&authority, "ann"),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres_with_rustls() {
    let authority = Authority::new("an authority");
    let proxy = tokio::task::block_in_place(|| proxy(&authority));
    let client = config(&authority, &[POSTGRESQL]);
    for negotiation in [SslNegotiation::Postgres, SslNegotiation::Direct] {
        for _ in 0..2 {
            let (client, connection) = tokio_postgres::Config::new()
                .host("localhost")
                .port(proxy.port)
                .user("bob")
                .password(PASSWORD)
                .dbname("app")
                .ssl_mode(SslMode::Require)
                .ssl_negotiation(negotiation)
                .channel_binding(Wanted::Require)
                .connect(Encryption(Arc::clone(&client)))
                .await
                .unwrap_or_else(|error| panic!("{negotiation:?}: {error:?}"));
            tokio::spawn(connection);
            let row = client.query_one("SELECT $1::int + 1", &[&1]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 2);
        }
    }
    tokio::task::block_in_place(|| drop(proxy));
}

/// rustls as tokio-postgres wants it.
#[derive(Clone)]
struct Encryption(Arc<ClientConfig>);

impl MakeTlsConnect<Socket> for Encryption {
    type Stream = Encrypted;
    type TlsConnect = Self;
    type Error = io::Error;

    fn make_tls_connect(&mut self, _host: &str) -> io::Result<Self> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Encryption {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let name = "localhost".try_into().unwrap();
            let connected = TlsConnector::from(self.0).connect(name, socket).await?;
            Ok(Encrypted(connected))
        })
    }
}

struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificates of these tests are signed with SHA-256.
        let chain = self.0.get_ref().1.peer_certificates().unwrap();
        let hash = digest::digest(&digest::SHA256, &chain[0]);
        ChannelBinding::tls_server_end_point(hash.as_ref().to_vec())
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
