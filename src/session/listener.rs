//! LISTEN for many sessions by one server connection: for each user, database and shard of a thread there is one that listens, and hands
//! what it hears to the mailboxes of those who asked for the channel.
//!
//! The connection is opened for the first channel and closed with the last one. When it dies another takes its place, listens to the same
//! channels, and every session is warned that it may have missed something. A mailbox is bounded: a client that does not take what
//! it asked for is sent away.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::card::Card;
use super::worker::{PoolKey, Worker};
use crate::backend::pool::Spec;
use crate::backend::server::{Server, ServerError};
use crate::wire::answer::{self, Report, Severity};
use crate::wire::frame::HEADER;

/// Bytes of notifications that may wait for one client.
const MAILBOX: usize = 1 << 20;

/// From one attempt to connect anew to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a server may take to answer LISTEN.
const ANSWER: Duration = Duration::from_secs(5);

/// What is to be handed to one session, as whole messages.
pub struct Mailbox {
    card: Rc<Card>,
    waiting: RefCell<VecDeque<Rc<[u8]>>>,
    bytes: Cell<usize>,
    overflown: Cell<bool>,
}

impl Mailbox {
    pub fn new(card: Rc<Card>) -> Rc<Mailbox> {
        Rc::new(Mailbox {
            card,
            waiting: RefCell::default(),
            bytes: Cell::new(0),
            overflown: Cell::new(false),
        })
    }

    fn put(&self, message: &Rc<[u8]>) {
        let bytes = self.bytes.get() + message.len();
        if bytes > MAILBOX {
            self.overflown.set(true);
        } else {
            self.bytes.set(bytes);
            self.waiting.borrow_mut().push_back(Rc::clone(message));
        }
        self.card.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.get() == 0 && !self.overflown.get()
    }

    /// More came than there was room for.
    pub fn is_overflown(&self) -> bool {
        self.overflown.get()
    }

    /// Moves what waits to the end of `out`.
    pub fn empty_into(&self, out: &mut Vec<u8>) {
        for message in self.waiting.borrow_mut().drain(..) {
            out.extend_from_slice(&message);
        }
        self.bytes.set(0);
    }
}

/// The sessions' end of one listening connection.
pub struct Listener {
    requests: mpsc::UnboundedSender<Request>,
    channels: RefCell<HashMap<Box<str>, Vec<Weak<Mailbox>>>>,
}

enum Request {
    /// Answered when the server listens, or with what it said instead.
    Listen(Box<str>, oneshot::Sender<Result<(), Refused>>),
    /// Nobody wants this channel any more, perhaps.
    Look(Box<str>),
    /// The configuration is another one.
    Follow,
}

/// Why a channel is not listened to: SQLSTATE and message.
#[derive(Debug)]
pub struct Refused(pub &'static str, pub String);

impl Listener {
    /// The listener of this pool; it is started when it is first asked for.
    pub fn of(worker: &Rc<Worker>, key: &PoolKey) -> Option<Rc<Listener>> {
        if let Some(known) = worker.listeners.borrow().get(key) {
            return Some(Rc::clone(known));
        }
        let spec = worker.spec(key)?;
        let (requests, receiver) = mpsc::unbounded_channel();
        let listener = Rc::new(Listener {
            requests,
            channels: RefCell::default(),
        });
        worker
            .listeners
            .borrow_mut()
            .insert(key.clone(), Rc::clone(&listener));
        let ear = Ear {
            worker: Rc::clone(worker),
            key: key.clone(),
            listener: Rc::clone(&listener),
            requests: receiver,
            spec,
            heard: Vec::new(),
        };
        worker.home.spawn(ear.run());
        Some(listener)
    }

    /// Makes sure that the connection listens to the channel.
    pub async fn listen(&self, channel: &str) -> Result<(), Refused> {
        let (done, listens) = oneshot::channel();
        let gone = || Refused("08006", "the connection that listens is gone".to_owned());
        self.requests
            .send(Request::Listen(Box::from(channel), done))
            .map_err(|_| gone())?;
        listens.await.map_err(|_| gone())?
    }

    /// From now on the mailbox gets what comes on this channel. It was listened to when the session asked; that connection may be
    /// gone since, so the one there is now is asked again.
    pub fn subscribe(&self, channel: &str, mailbox: &Rc<Mailbox>) {
        let mut channels = self.channels.borrow_mut();
        let subscribers = channels.entry(Box::from(channel)).or_default();
        let is_it = |known: &Weak<Mailbox>| known.as_ptr() == Rc::as_ptr(mailbox);
        if !subscribers.iter().any(is_it) {
            subscribers.push(Rc::downgrade(mailbox));
        }
        let (done, _) = oneshot::channel();
        let _ = self
            .requests
            .send(Request::Listen(Box::from(channel), done));
    }

    /// The configuration may say now that the connection is to be made elsewhere.
    pub fn follow(&self) {
        let _ = self.requests.send(Request::Follow);
    }

    pub fn unsubscribe(&self, channel: &str, mailbox: &Rc<Mailbox>) {
        if let Some(subscribers) = self.channels.borrow_mut().get_mut(channel) {
            subscribers.retain(|known| known.as_ptr() != Rc::as_ptr(mailbox));
        }
        self.look(channel);
    }

    /// Somebody wanted the channel and may not want it any more.
    pub fn look(&self, channel: &str) {
        // Without a connection nothing listens.
        let _ = self.requests.send(Request::Look(Box::from(channel)));
    }

    fn is_wanted(&self, channel: &str) -> bool {
        let channels = self.channels.borrow();
        channels
            .get(channel)
            .is_some_and(|mailboxes| mailboxes.iter().any(|known| known.strong_count() > 0))
    }

    fn deliver(&self, channel: &str, message: &Rc<[u8]>) {
        if let Some(subscribers) = self.channels.borrow_mut().get_mut(channel) {
            subscribers.retain(|known| {
                known.upgrade().is_some_and(|it| {
                    it.put(message);
                    true
                })
            });
        }
    }

    /// One message for everybody who listens to anything, once each.
    fn tell_all(&self, message: &Rc<[u8]>) {
        let mut told: Vec<*const Mailbox> = Vec::new();
        for mailbox in self.channels.borrow().values().flatten() {
            if let Some(mailbox) = mailbox.upgrade()
                && !told.contains(&Rc::as_ptr(&mailbox))
            {
                told.push(Rc::as_ptr(&mailbox));
                mailbox.put(message);
            }
        }
    }
}

/// The task that owns the connection.
struct Ear {
    worker: Rc<Worker>,
    key: PoolKey,
    listener: Rc<Listener>,
    requests: mpsc::UnboundedReceiver<Request>,
    spec: Spec,
    /// Bytes of the server that are no whole message yet.
    heard: Vec<u8>,
}

/// How the work of a connection ended.
enum Ended {
    /// No channel is left.
    Idle,
    Broken(ServerError),
}

impl Ear {
    async fn run(mut self) {
        let mut first = self.requests.recv().await;
        loop {
            let connected = self.connect().await;
            let (ended, waiting) = match connected {
                Ok(mut server) => (self.serve(&mut server, first.take()).await, None),
                Err(refused) => (Ended::Broken(ServerError::Closed), Some(refused)),
            };
            if let Some(Refused(sqlstate, message)) = waiting {
                self.refuse(first.take(), sqlstate, &message);
            }
            match ended {
                Ended::Idle => break,
                Ended::Broken(_) if !self.has_channels() && self.requests.is_empty() => break,
                Ended::Broken(error) => {
                    tracing::warn!(user = &*self.key.user, database = &*self.key.database, %error, "the connection that listens was lost");
                    let pause = std::future::pending::<()>();
                    let _ = self.worker.shared.timers.timeout(PAUSE, pause).await;
                }
            }
        }
        // Who asked meanwhile is told to ask another.
        self.worker.listeners.borrow_mut().remove(&self.key);
    }

    fn has_channels(&self) -> bool {
        let mut channels = self.listener.channels.borrow_mut();
        channels.retain(|_, mailboxes| mailboxes.iter().any(|known| known.strong_count() > 0));
        !channels.is_empty()
    }

    fn refuse(&mut self, first: Option<Request>, sqlstate: &'static str, message: &str) {
        let mut next = first;
        while let Some(request) = next.or_else(|| self.requests.try_recv().ok()) {
            if let Request::Listen(_, done) = request {
                let _ = done.send(Err(Refused(sqlstate, message.to_owned())));
            }
            next = None;
        }
    }

    /// Connects, and listens to what sessions want already.
    async fn connect(&mut self) -> Result<Server, Refused> {
        // The configuration may have changed.
        match self.worker.spec(&self.key) {
            Some(spec) => self.spec = spec,
            None => {
                return Err(Refused(
                    "57P01",
                    "the pool is no longer configured".to_owned(),
                ));
            }
        }
        let connected = self
            .spec
            .connect()
            .await
            .map_err(|error| Refused("08001", error.to_string()))?;
        let mut server = Server::new(connected, &self.spec, Rc::default(), Instant::now(), None);
        self.heard.clear();
        let again = self.has_channels();
        let channels: Vec<Box<str>> = self.listener.channels.borrow().keys().cloned().collect();
        for channel in channels {
            let lost = |error: ServerError| Refused("08006", error.to_string());
            self.say(&mut server, "LISTEN", &channel)
                .await
                .map_err(lost)?
                .ok();
        }
        if again {
            let text = "the connection that listens was lost: notifications may have been missed";
            let mut notice = Vec::new();
            answer::notice_response(&mut notice, &Report::new(Severity::Warning, "01000", text));
            self.listener.tell_all(&notice.into());
        }
        Ok(server)
    }

    async fn serve(&mut self, server: &mut Server, first: Option<Request>) -> Ended {
        let mut next = first;
        loop {
            let request = match next.take() {
                Some(request) => request,
                None => match self.wait(server).await {
                    Ok(Some(request)) => request,
                    Ok(None) => return Ended::Idle,
                    Err(error) => return Ended::Broken(error),
                },
            };
            let done = match request {
                Request::Listen(channel, done) => {
                    match self.say(server, "LISTEN", &channel).await {
                        Ok(said) => {
                            let _ = done.send(said);
                            Ok(())
                        }
                        Err(error) => {
                            let _ = done.send(Err(Refused("08006", error.to_string())));
                            Err(error)
                        }
                    }
                }
                Request::Follow => match self.worker.spec(&self.key) {
                    Some(spec) if spec.target == self.spec.target => Ok(()),
                    _ => Err(ServerError::Closed),
                },
                Request::Look(channel) if self.listener.is_wanted(&channel) => Ok(()),
                Request::Look(channel) => {
                    self.listener.channels.borrow_mut().remove(&channel);
                    self.say(server, "UNLISTEN", &channel).await.map(|_| ())
                }
            };
            if let Err(error) = done {
                return Ended::Broken(error);
            }
            if !self.has_channels() && self.requests.is_empty() && self.is_forgotten() {
                return Ended::Idle;
            }
        }
    }

    /// No session is about to subscribe: those hold the listener.
    fn is_forgotten(&self) -> bool {
        // One here, one in the worker's list.
        Rc::strong_count(&self.listener) <= 2
    }

    /// Until a session asks for something; hands out what is heard meanwhile.
    async fn wait(&mut self, server: &mut Server) -> Result<Option<Request>, ServerError> {
        let mut out = Vec::new();
        let worker = Rc::clone(&self.worker);
        std::future::poll_fn(|cx| {
            use std::task::Poll;
            if let Poll::Ready(request) = self.requests.poll_recv(cx) {
                return Poll::Ready(Ok(request));
            }
            loop {
                let mut scratch = worker.scratch.borrow_mut();
                let mut events = Vec::new();
                match server.poll_read(cx, &mut scratch, &mut out, &mut events) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(run)) => {
                        self.heard.append(&mut out);
                        self.heard.extend_from_slice(&scratch[run]);
                        self.hand_out();
                    }
                }
            }
        })
        .await
    }

    /// LISTEN or UNLISTEN.
    async fn say(
        &mut self,
        server: &mut Server,
        verb: &str,
        channel: &str,
    ) -> Result<Result<(), Refused>, ServerError> {
        let sql = format!("{verb} \"{}\"", channel.replace('"', "\"\""));
        let mut said = Vec::new();
        let worker = Rc::clone(&self.worker);
        let saying = server.capture(&sql, &worker.scratch, &mut said);
        let timed = worker.shared.timers.timeout(ANSWER, saying).await;
        timed.map_err(|_| ServerError::Timeout)??;
        self.heard.append(&mut said);
        Ok(match self.hand_out() {
            Some(message) => Err(Refused("XX000", message)),
            None => Ok(()),
        })
    }

    /// Hands out the notifications among the whole messages that were heard; gives the text of an error, if there is one.
    fn hand_out(&mut self) -> Option<String> {
        let mut error = None;
        let mut taken = 0;
        while let Some(header) = self.heard.get(taken + 1..taken + HEADER) {
            let length = u32::from_be_bytes(header.try_into().unwrap_or_default()) as usize;
            let Some(message) = self.heard.get(taken..taken + 1 + length) else {
                break;
            };
            taken += 1 + length;
            match message[0] {
                b'A' => {
                    let name = message.get(HEADER + 4..).unwrap_or_default();
                    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                    if let Ok(channel) = std::str::from_utf8(name) {
                        self.listener.deliver(channel, &message.into());
                    }
                }
                b'E' => {
                    let fields = answer::ErrorFields::parse(&message[HEADER..]);
                    error = Some(fields.map_or_else(String::new, |fields| {
                        String::from_utf8_lossy(fields.message).into_owned()
                    }));
                }
                _ => {}
            }
        }
        self.heard.drain(..taken);
        error
    }
}
