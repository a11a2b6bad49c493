//! A client that keeps nothing: to hold ten thousand of it, to log in as often, and to take answers larger than memory.

use std::io::{self, BufReader, BufWriter, Read, Write};
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
/// Bytes of data in a message, as psql has them.
const COPY_MESSAGE: usize = 8 * 1024;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A client that is logged in and has nothing running.
pub struct Client(Stream);

/// What came for a query.
#[derive(Debug, Default)]
pub struct Answer {
    /// On the wire.
    pub bytes: u64,
    pub rows: u64,
    /// The body of the first row's message, as far as it is kept.
    first: Vec<u8>,
}

/// Of the first row, bytes.
const KEPT: usize = 1024;

impl Answer {
    /// The values of the first row; `None` for what is NULL or was too long to be kept.
    pub fn first_row(&self) -> Vec<Option<String>> {
        let mut values = Vec::new();
        let mut rest = self.first.get(2..).unwrap_or_default();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let value = usize::try_from(i32::from_be_bytes(*length)).ok();
            let taken = value.and_then(|length| after.split_at_checked(length));
            values.push(taken.map(|(text, _)| String::from_utf8_lossy(text).into_owned()));
            rest = taken.map_or(after, |(_, next)| next);
        }
        values
    }
}

/// An error that the other side reported.
#[derive(Debug, thiserror::Error)]
#[error("{sqlstate}: {message}")]
pub struct Reported {
    pub sqlstate: String,
    message: String,
}

impl Reported {
    /// The one in an error of a [`Client`].
    pub fn of(error: &io::Error) -> Option<&Reported> {
        error.get_ref()?.downcast_ref()
    }

    /// The fields of an ErrorResponse: a letter, text and a zero each.
    fn read(body: &[u8]) -> Reported {
        let field = |letter: u8| {
            let mut fields = body.split(|&byte| byte == 0);
            let found = fields.find(|field| field.first() == Some(&letter));
            found.map_or(String::new(), |field| {
                String::from_utf8_lossy(&field[1..]).into_owned()
            })
        };
        let detail = [b'M', b'D', b'H'].map(field);
        Reported {
            sqlstate: field(b'C'),
            message: detail.join(" ").trim().to_owned(),
        }
    }
}

/// Where in a message the reading stands.
#[derive(Default)]
struct Scan {
    header: [u8; 5],
    seen: usize,
    rest: usize,
    /// The body of the last message, as far as it may matter.
    body: Vec<u8>,
    /// What the other side has complained about. It is ours when the other side is ready for more, or gone.
    error: Option<Reported>,
    answer: Answer,
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
        self.ask(sql).map(|answer| answer.bytes)
    }

    /// Runs a simple query. After an error that is [`Reported`] the client can go on.
    pub fn ask(&mut self, sql: &str) -> io::Result<Answer> {
        self.start(sql)?;
        self.until(b'Z')
    }

    fn start(&mut self, sql: &str) -> io::Result<()> {
        self.write(&message(b'Q', &[sql.as_bytes(), b"\0"].concat()))
    }

    /// Sends `line` so many times to a COPY ... FROM STDIN.
    pub fn copy_in(&mut self, sql: &str, line: &[u8], times: usize) -> io::Result<()> {
        self.start(sql)?;
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

    /// Sends `block` so many times to a COPY ... FROM STDIN, in messages of the size that psql's have: rows begin and end anywhere.
    pub fn copy_block(&mut self, sql: &str, block: &[u8], times: usize) -> io::Result<()> {
        self.start(sql)?;
        self.until(b'G')?;
        let messages: Vec<u8> = block
            .chunks(COPY_MESSAGE)
            .flat_map(|chunk| message(b'd', chunk))
            .collect();
        for _ in 0..times {
            for part in messages.chunks(64 * 1024) {
                self.write(part)?;
            }
        }
        self.write(&message(b'c', b""))?;
        self.until(b'Z').map(|_| ())
    }

    /// `COPY ... TO STDOUT` here into `COPY ... FROM STDIN` at another client; returns the bytes of data.
    pub fn pipe(&mut self, out: &str, into: &mut Client, sql: &str) -> io::Result<u64> {
        into.start(sql)?;
        into.until(b'G')?;
        self.start(out)?;
        let mut moved = 0;
        {
            let mut source = BufReader::with_capacity(64 * 1024, &mut self.0);
            let mut target = BufWriter::with_capacity(64 * 1024, &mut into.0);
            let mut frame = Vec::new();
            loop {
                frame.resize(5, 0);
                source.read_exact(&mut frame)?;
                let length = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
                frame.resize(length + 1, 0);
                source.read_exact(&mut frame[5..])?;
                match frame[0] {
                    b'd' => {
                        moved += (length - 4) as u64;
                        target.write_all(&frame)?;
                    }
                    b'E' => return Err(io::Error::other(Reported::read(&frame[5..]))),
                    b'Z' => break,
                    _ => {}
                }
            }
            target.write_all(&message(b'c', b""))?;
            target.flush()?;
        }
        into.until(b'Z')?;
        Ok(moved)
    }

    /// Says goodbye.
    pub fn leave(mut self) -> io::Result<()> {
        self.write(&message(b'X', b""))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads up to the end of the first message of this type. The other side's error is ours.
    fn until(&mut self, tag: u8) -> io::Result<Answer> {
        let mut scan = Scan::default();
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = self.0.read(&mut buffer)?;
            if count == 0 {
                return Err(scan
                    .error
                    .map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other));
            }
            scan.answer.bytes += count as u64;
            if scan.push(&buffer[..count], tag) {
                return scan
                    .error
                    .map_or(Ok(scan.answer), |e| Err(io::Error::other(e)));
            }
        }
    }
}

impl Scan {
    /// Returns whether the end of a message of this type was in these bytes, or after an error that of ReadyForQuery.
    fn push(&mut self, mut bytes: &[u8], tag: u8) -> bool {
        loop {
            if self.seen < 5 {
                let take = bytes.len().min(5 - self.seen);
                self.header[self.seen..self.seen + take].copy_from_slice(&bytes[..take]);
                (self.seen, bytes) = (self.seen + take, &bytes[take..]);
                if self.seen < 5 {
                    return false;
                }
                let [_, length @ ..] = self.header;
                self.rest = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.body.clear();
            }
            let take = bytes.len().min(self.rest);
            match self.header[0] {
                b'E' => self.body.extend_from_slice(&bytes[..take]),
                b'D' if self.answer.rows == 0 => {
                    let room = KEPT.saturating_sub(self.answer.first.len());
                    self.answer
                        .first
                        .extend_from_slice(&bytes[..take.min(room)]);
                }
                _ => {}
            }
            (self.rest, bytes) = (self.rest - take, &bytes[take..]);
            if self.rest > 0 {
                return false;
            }
            self.seen = 0;
            match self.header[0] {
                b'E' => self.error = Some(Reported::read(&self.body)),
                b'D' => self.answer.rows += 1,
                _ => {}
            }
            let ready = self.error.is_some() && self.header[0] == b'Z';
            if ready || self.header[0] == tag {
                return true;
            }
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages are below 4 GB");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}
