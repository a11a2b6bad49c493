//! The floor: bytes from one socket to another, one server connection for each client, one thread, bare epoll, nothing parsed.
//!
//! No proxy between two TCP sockets can use less than this, so the distance to it is what a proxy itself costs.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::error::{Error, Result};

const LISTENER: u64 = u64::MAX;

/// One end of a pair, and what it could not yet take of the other end's bytes.
struct End {
    socket: TcpStream,
    unsent: Vec<u8>,
}

/// `ends[0]` is the client, `ends[1]` the server; the token of an end is twice its pair's place, plus its place in the pair.
struct Pair {
    ends: [End; 2],
}

struct Forwarder {
    epoll: Epoll,
    target: SocketAddr,
    pairs: Vec<Option<Pair>>,
    buffer: Box<[u8]>,
}

/// Forwards until the process is stopped.
pub fn serve(listen: SocketAddr, target: SocketAddr) -> Result<()> {
    serve_io(listen, target).map_err(|e| Error::io(format!("forward {listen} to {target}"), e))
}

fn serve_io(listen: SocketAddr, target: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut forwarder = Forwarder {
        epoll,
        target,
        pairs: Vec::new(),
        buffer: vec![0; 64 * 1024].into(),
    };
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let ready = match forwarder.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for event in &events[..ready] {
            if event.data() == LISTENER {
                forwarder.accept(&listener)?;
            } else {
                forwarder.turn(event.data(), event.events());
            }
        }
    }
}

impl Forwarder {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        let server = TcpStream::connect(self.target)?;
        let place = self
            .pairs
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.pairs.len());
        if place == self.pairs.len() {
            self.pairs.push(None);
        }
        let end = |socket: TcpStream, token: u64| -> io::Result<End> {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            self.epoll
                .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            Ok(End {
                socket,
                unsent: Vec::new(),
            })
        };
        let token = place as u64 * 2;
        self.pairs[place] = Some(Pair {
            ends: [end(client, token)?, end(server, token + 1)?],
        });
        Ok(())
    }

    /// One event of one end. An event may be older than its pair (the place was freed and taken again in this batch): sockets do not
    /// block, so it then does nothing.
    fn turn(&mut self, token: u64, flags: EpollFlags) {
        let (place, side) = (token as usize / 2, token as usize % 2);
        let Some(pair) = &mut self.pairs[place] else {
            return;
        };
        let done = if flags.contains(EpollFlags::EPOLLOUT) {
            drain(&self.epoll, pair, place, side)
        } else {
            forward(&self.epoll, pair, place, side, &mut self.buffer)
        };
        // Either end gone, in whatever way, ends both: closing the sockets takes them out of the epoll set.
        if done.is_err() {
            self.pairs[place] = None;
        }
    }
}

/// One read from `side`, one write to the other end. What does not fit is kept and `side` is not read again until it has gone.
fn forward(
    epoll: &Epoll,
    pair: &mut Pair,
    place: usize,
    side: usize,
    buffer: &mut [u8],
) -> io::Result<()> {
    let read = match pair.ends[side].socket.read(buffer) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(read) => read,
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(e) => return Err(e),
    };
    let other = &mut pair.ends[1 - side];
    let sent = sent_now(&mut other.socket, &buffer[..read])?;
    if sent < read {
        other.unsent.extend_from_slice(&buffer[sent..read]);
        watch(epoll, pair, place)?;
    }
    Ok(())
}

fn drain(epoll: &Epoll, pair: &mut Pair, place: usize, side: usize) -> io::Result<()> {
    let end = &mut pair.ends[side];
    let sent = sent_now(&mut end.socket, &end.unsent)?;
    end.unsent.drain(..sent);
    if end.unsent.is_empty() {
        watch(epoll, pair, place)?;
    }
    Ok(())
}

fn sent_now(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Registers each end for what it waits for now: to write what it owes, to read unless the other end owes.
fn watch(epoll: &Epoll, pair: &Pair, place: usize) -> io::Result<()> {
    for side in 0..2 {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLOUT, !pair.ends[side].unsent.is_empty());
        flags.set(EpollFlags::EPOLLIN, pair.ends[1 - side].unsent.is_empty());
        let token = (place * 2 + side) as u64;
        epoll.modify(&pair.ends[side].socket, &mut EpollEvent::new(flags, token))?;
    }
    Ok(())
}
