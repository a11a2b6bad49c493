//! A relay in front of a proxy that reads what clients are told. pgbench says that a client has failed, and not with which SQLSTATE.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Bytes in front of a message's body: its type and its length.
const HEADER: usize = 5;

/// An error that a client was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    pub sqlstate: String,
    pub message: String,
    pub place: Place,
}

/// Where the client was by what it had been told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    LoggingIn,
    /// A statement by itself, or the first one of a block.
    Outside,
    InBlock,
}

/// Dropping it ends the listening; connections end with their clients.
pub struct Tap {
    pub port: u16,
    told: Arc<Mutex<Vec<Told>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    pub fn start(proxy: u16) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (tell, end) = (Arc::clone(&told), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                relay(client.unwrap(), proxy, &tell);
            }
        });
        Tap {
            port,
            told,
            over,
            thread: Some(thread),
        }
    }

    /// All errors so far, with how often each was told.
    pub fn told(&self) -> BTreeMap<Told, usize> {
        let mut counts = BTreeMap::new();
        for told in self.told.lock().unwrap().iter() {
            *counts.entry(told.clone()).or_default() += 1;
        }
        counts
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It looks when somebody comes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the tap panicked"
            );
        }
    }
}

fn relay(client: TcpStream, proxy: u16, told: &Arc<Mutex<Vec<Told>>>) {
    // Without a proxy the client is closed, which is what it would see without us.
    let Ok(proxy) = TcpStream::connect(("127.0.0.1", proxy)) else {
        return;
    };
    for socket in [&client, &proxy] {
        socket.set_nodelay(true).unwrap();
    }
    let twin = |socket: &TcpStream| socket.try_clone().unwrap();
    let (from, to) = (twin(&client), twin(&proxy));
    std::thread::spawn(move || pump(from, to, |_| {}));
    let mut reader = Reader {
        bytes: Vec::new(),
        place: Place::LoggingIn,
        told: Arc::clone(told),
    };
    std::thread::spawn(move || pump(proxy, client, |bytes| reader.read(bytes)));
}

/// Until one side ends; then both do.
fn pump(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        see(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        let _ = socket.shutdown(Shutdown::Both);
    }
}

/// Of one connection. There is no TLS: all that comes from the proxy is messages.
struct Reader {
    bytes: Vec<u8>,
    place: Place,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Reader {
    fn read(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let mut rest = &self.bytes[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER>() {
            let [tag, length @ ..] = *header;
            let length = u32::from_be_bytes(length) as usize - 4;
            let Some((body, next)) = behind.split_at_checked(length) else {
                break;
            };
            match (tag, body) {
                (b'Z', [b'I']) => self.place = Place::Outside,
                (b'Z', _) => self.place = Place::InBlock,
                (b'E', _) => self.told.lock().unwrap().push(error(body, self.place)),
                _ => {}
            }
            rest = next;
        }
        self.bytes = rest.to_vec();
    }
}

/// The fields of an ErrorResponse: a letter, text and a zero each.
fn error(body: &[u8], place: Place) -> Told {
    let field = |letter: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&letter));
        found.map_or(String::new(), |field| {
            String::from_utf8_lossy(&field[1..]).into_owned()
        })
    };
    Told {
        sqlstate: field(b'C'),
        message: field(b'M'),
        place,
    }
}
