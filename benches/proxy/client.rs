//! A client that keeps nothing: to hold ten thousand of it, to log in as often, and to take answers larger than memory.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::postgres::{DATABASE, USER};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const PROTOCOL_3_0: u32 = 196_608;
/// After which a proxy is taken to have forgotten us.
const PATIENCE: Duration = Duration::from_secs(60);

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A client that is logged in and has nothing running.
pub struct Client(Stream);

/// Where in a message the reading stands.
#[derive(Default)]
struct Scan {
    header: [u8; 5],
    seen: usize,
    rest: usize,
    /// The body of the last message, as far as it may matter.
    body: Vec<u8>,
}

impl Client {
    /// Logs in over loopback TCP, with TLS when there is a configuration for it.
    pub fn connect(port: u16, tls: Option<&Arc<ClientConfig>>) -> io::Result<Client> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                socket.write_all(&SSL_REQUEST)?;
                let mut answer = [0];
                socket.read_exact(&mut answer)?;
                if answer != *b"S" {
                    return Err(io::Error::other("no TLS here"));
                }
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let session =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let mut client = Client(stream);
        let mut startup = PROTOCOL_3_0.to_be_bytes().to_vec();
        for text in ["user", USER, "database", DATABASE, ""] {
            startup.extend_from_slice(text.as_bytes());
            startup.push(0);
        }
        let length = u32::try_from(startup.len() + 4).expect("a short message");
        client.write(&[&length.to_be_bytes()[..], &startup].concat())?;
        client.until(b'Z')?;
        Ok(client)
    }

    /// Runs a simple query and returns the size of its answer, bytes.
    pub fn query(&mut self, sql: &str) -> io::Result<u64> {
        self.write(&message(b'Q', &[sql.as_bytes(), b"\0"].concat()))?;
        self.until(b'Z')
    }

    /// Sends `line` so many times to a COPY ... FROM STDIN.
    pub fn copy_in(&mut self, sql: &str, line: &[u8], times: usize) -> io::Result<()> {
        self.write(&message(b'Q', &[sql.as_bytes(), b"\0"].concat()))?;
        self.until(b'G')?;
        let data = message(b'd', line);
        let at_once = (64 * 1024 / data.len()).max(1);
        let (block, mut left) = (data.repeat(at_once), times);
        while left > 0 {
            let now = left.min(at_once);
            self.write(&block[..now * data.len()])?;
            left -= now;
        }
        self.write(&message(b'c', b""))?;
        self.until(b'Z').map(|_| ())
    }

    /// Says goodbye.
    pub fn leave(mut self) -> io::Result<()> {
        self.write(&message(b'X', b""))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Reads up to the end of the first message of this type. A server's error is ours.
    fn until(&mut self, tag: u8) -> io::Result<u64> {
        let (mut scan, mut read) = (Scan::default(), 0);
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = match &mut self.0 {
                Stream::Plain(socket) => socket.read(&mut buffer)?,
                Stream::Tls(stream) => stream.read(&mut buffer)?,
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read += count as u64;
            if scan.push(&buffer[..count], tag)? {
                return Ok(read);
            }
        }
    }
}

impl Scan {
    /// Returns whether the end of a message of this type was in these bytes.
    fn push(&mut self, mut bytes: &[u8], tag: u8) -> io::Result<bool> {
        loop {
            if self.seen < 5 {
                let take = bytes.len().min(5 - self.seen);
                self.header[self.seen..self.seen + take].copy_from_slice(&bytes[..take]);
                (self.seen, bytes) = (self.seen + take, &bytes[take..]);
                if self.seen < 5 {
                    return Ok(false);
                }
                let [_, length @ ..] = self.header;
                self.rest = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.body.clear();
            }
            let take = bytes.len().min(self.rest);
            if self.header[0] == b'E' {
                self.body.extend_from_slice(&bytes[..take]);
            }
            (self.rest, bytes) = (self.rest - take, &bytes[take..]);
            if self.rest > 0 {
                return Ok(false);
            }
            self.seen = 0;
            match self.header[0] {
                b'E' => {
                    return Err(io::Error::other(
                        String::from_utf8_lossy(&self.body).replace('\0', " "),
                    ));
                }
                found if found == tag => return Ok(true),
                _ => {}
            }
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages are below 4 GB");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}
