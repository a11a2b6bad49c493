//! The control plane's way to a server: tokio-postgres over the same TLS as the data plane's connections.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Socket};

use crate::config::{Node, Secret};
use crate::wire::tls::{ServerEncryption, server_end_point};

/// As whom, and to which database of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    /// Its name on the server.
    pub database: String,
    /// The role on the server.
    pub user: String,
    pub password: Option<Secret>,
}

/// Why a node gave no answer.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// No connection, no login, or an error instead of the answer.
    #[error("{}", NodeError::described(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// What it said cannot be what Postgres says.
    #[error("{0}")]
    Strange(String),
}

impl NodeError {
    /// With the cause, which the error itself keeps to its `source`.
    pub fn described(error: &tokio_postgres::Error) -> String {
        match (error.as_db_error(), error.source()) {
            (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
            (None, Some(source)) => format!("{error}: {source}"),
            (None, None) => error.to_string(),
        }
    }
}

impl NodeError {
    /// Whether the server lives, and only does not let this role in: there is no way to log in, no such database, no place left.
    pub(super) fn is_no_entry(&self) -> bool {
        let NodeError::Postgres(error) = self else {
            return false;
        };
        match error.as_db_error() {
            Some(said) => {
                let code = said.code().code();
                // Class 28: authorization, 3D: no such database, 53: no resources. 42501: no privilege.
                code == "42501"
                    || ["28", "3D", "53"]
                        .iter()
                        .any(|class| code.starts_with(class))
            }
            // What tokio-postgres refuses by itself, like a password that it does not have. What the network refuses has an error of the system.
            None => error
                .source()
                .is_some_and(|source| source.downcast_ref::<io::Error>().is_none()),
        }
    }
}

/// What drives a connection until its client is dropped.
pub type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Connects and logs in. `application_name` is what the server shows for the connection. Has no time limit of its own.
pub async fn connect(
    login: &Login,
    application_name: &str,
    node: &Node,
    encryption: &ServerEncryption,
) -> Result<(Client, Driver), tokio_postgres::Error> {
    let (client, connection) = settings(login, application_name, node, encryption)
        .connect(Encryption(encryption.clone()))
        .await?;
    Ok((client, Box::pin(connection)))
}

/// To be used with an [`Encryption`] of the same `encryption`.
pub(super) fn settings(
    login: &Login,
    application_name: &str,
    node: &Node,
    encryption: &ServerEncryption,
) -> Config {
    let mut settings = Config::new();
    settings
        .host(&node.host)
        .port(node.port)
        .dbname(&login.database)
        .user(&login.user)
        .application_name(application_name)
        .ssl_mode(match encryption {
            // There is no TLS on a Unix socket, whatever the mode, as in libpq.
            _ if node.host.starts_with('/') => SslMode::Disable,
            ServerEncryption::Disable => SslMode::Disable,
            ServerEncryption::Prefer(_) => SslMode::Prefer,
            ServerEncryption::Require(_) => SslMode::Require,
        });
    if let Some(password) = &login.password {
        settings.password(&password.0);
    }
    settings
}

/// Our TLS, as tokio-postgres wants it.
#[derive(Clone)]
pub(super) struct Encryption(pub ServerEncryption);

impl MakeTlsConnect<Socket> for Encryption {
    type Stream = Encrypted;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake {
            encryption: self.0.clone(),
            host: host.to_owned(),
        })
    }
}

/// Encrypts one socket, once.
pub(super) struct Handshake {
    encryption: ServerEncryption,
    host: String,
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Encrypted;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            match self.encryption {
                ServerEncryption::Prefer(connector) | ServerEncryption::Require(connector) => {
                    connector.connect(&self.host, socket).await.map(Encrypted)
                }
                // The settings say so too, and then nobody asks for a handshake.
                ServerEncryption::Disable => Err(io::Error::other("TLS is disabled")),
            }
        })
    }
}

pub(super) struct Encrypted(tokio_rustls::client::TlsStream<Socket>);

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
