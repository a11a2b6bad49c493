//! tokio-postgres over the same TLS as the data plane's server connections.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, NoTls};

use super::trouble::Trouble;
use crate::config::Node;
use crate::wire::tls::{Connector, ServerEncryption, server_end_point};

/// What drives a connection until its client is dropped.
type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Connects and logs in. `settings` has the user, the password and the database.
pub(super) async fn connect(
    mut settings: Config,
    node: &Node,
    encryption: &ServerEncryption,
) -> Result<(Client, Driver), Trouble> {
    if node.host.starts_with('/') {
        // There is no TLS on a Unix socket, whatever the mode, as in libpq.
        let path = format!("{}/.s.PGSQL.{}", node.host, node.port);
        let socket = UnixStream::connect(path)
            .await
            .map_err(Trouble::Unreachable)?;
        let (client, connection) = settings
            .ssl_mode(SslMode::Disable)
            .connect_raw(socket, NoTls)
            .await?;
        return Ok((client, Box::pin(connection)));
    }
    let socket = TcpStream::connect((node.host.as_str(), node.port))
        .await
        .map_err(Trouble::Unreachable)?;
    let (mode, connector) = match encryption {
        ServerEncryption::Disable => (SslMode::Disable, None),
        ServerEncryption::Prefer(connector) => (SslMode::Prefer, Some(connector)),
        ServerEncryption::Require(connector) => (SslMode::Require, Some(connector)),
    };
    settings.ssl_mode(mode);
    match connector {
        None => {
            let (client, connection) = settings.connect_raw(socket, NoTls).await?;
            Ok((client, Box::pin(connection)))
        }
        Some(connector) => {
            let encrypt = Encrypt {
                connector: connector.clone(),
                host: node.host.clone(),
            };
            let (client, connection) = settings.connect_raw(socket, encrypt).await?;
            Ok((client, Box::pin(connection)))
        }
    }
}

/// Encrypts one socket, once.
struct Encrypt {
    connector: Connector,
    host: String,
}

impl TlsConnect<TcpStream> for Encrypt {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: TcpStream) -> Self::Future {
        Box::pin(async move {
            self.connector
                .connect(&self.host, socket)
                .await
                .map(Encrypted)
        })
    }
}

struct Encrypted(tokio_rustls::client::TlsStream<TcpStream>);

impl TlsStream for Encrypted {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        certificates
            .and_then(|chain| chain.first())
            .and_then(server_end_point)
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
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
