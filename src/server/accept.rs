//! Accepting: one task a listener; each new socket goes to the worker with the fewest connections.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use super::StartError;
use super::worker::{Command, Socket, WorkerHandle};

/// Connections beyond the configured number that may be open at once before they are logged in: they get a proper answer.
const BEYOND: usize = 1000;

/// Connections that the system may hold until they are accepted. Where there is no room it says nothing, and the client's system tries again after 1, 3, 7, 15 seconds: a
/// storm of clients with the usual 128 takes that long, with next to nothing to do. The system has a limit of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// How long accepting pauses when the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets that the proxy listens on.
pub struct Listeners {
    pub tcp: Vec<TcpListener>,
    pub unix: Option<(UnixListener, SocketFile)>,
}

/// The file of a Unix socket; removed when it is dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Opens every configured socket.
    pub async fn open(listen: &crate::config::Listen) -> Result<Listeners, StartError> {
        let mut tcp = Vec::new();
        for address in &listen.addresses {
            let fail = |error| StartError::Listen {
                address: address.to_string(),
                error,
            };
            tcp.push(open_tcp(*address).map_err(fail)?);
        }
        let unix = match &listen.unix_socket_directory {
            Some(directory) => {
                let port = tcp
                    .first()
                    .and_then(|listener| listener.local_addr().ok())
                    .map_or(6432, |address| address.port());
                Some(open_unix(&directory.join(format!(".s.PGSQL.{port}"))).await?)
            }
            None => None,
        };
        Ok(Listeners { tcp, unix })
    }
}

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Those of a process that has just ended do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket file that nobody answers on is left over from a process that was killed, and is replaced.
async fn open_unix(path: &Path) -> Result<(UnixListener, SocketFile), StartError> {
    let fail = |error| StartError::Listen {
        address: path.display().to_string(),
        error,
    };
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(fail(io::Error::from(io::ErrorKind::AddrInUse)));
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    let listener = UnixSocket::new_stream()
        .and_then(|socket| {
            socket.bind(path)?;
            socket.listen(BACKLOG)
        })
        .map_err(fail)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).map_err(fail)?;
    Ok((listener, SocketFile(path.to_owned())))
}

/// Accepts on a TCP socket for ever.
pub async fn tcp(listener: TcpListener, workers: Vec<WorkerHandle>, limit: usize) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => match socket.into_std() {
                Ok(socket) => hand_over(Socket::Tcp(socket), &workers, limit),
                Err(error) => tracing::warn!(%error, "a new connection cannot be used"),
            },
            Err(error) => pause(error).await,
        }
    }
}

/// Accepts on a Unix socket for ever.
pub async fn unix(
    listener: UnixListener,
    _file: SocketFile,
    workers: Vec<WorkerHandle>,
    limit: usize,
) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => match socket.into_std() {
                Ok(socket) => hand_over(Socket::Unix(socket), &workers, limit),
                Err(error) => tracing::warn!(%error, "a new connection cannot be used"),
            },
            Err(error) => pause(error).await,
        }
    }
}

async fn pause(error: io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(PAUSE).await;
}

fn hand_over(socket: Socket, workers: &[WorkerHandle], limit: usize) {
    let connections: usize = workers.iter().map(WorkerHandle::connections).sum();
    if connections >= limit + BEYOND {
        tracing::warn!(
            connections,
            "too many connections: a new one is closed unheard"
        );
        return;
    }
    if let Some(worker) = workers.iter().min_by_key(|worker| worker.connections()) {
        worker.send(Command::Serve(socket));
    }
}
