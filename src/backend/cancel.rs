//! Cancelling what one server connection runs, so that the request cannot hit the connection's next client.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::connect::{self, Address, CancelKey, ConnectError, Connected, Login};
use crate::wire::answer::ErrorFields;
use crate::wire::socket::Home;
use crate::wire::stream::Peer;
use crate::wire::timers::Timers;
use crate::wire::tls::ServerEncryption;

const QUERY_CANCELED: &str = "57014";

/// Where and how connections are made.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: Address,
    pub login: Login,
    pub encryption: Arc<ServerEncryption>,
    /// Where they live.
    pub home: Home,
    pub timers: Timers,
    pub timeout: Duration,
}

impl Target {
    /// Makes a connection there.
    pub async fn connect(&self) -> Result<Connected, ConnectError> {
        let Target {
            address,
            login,
            encryption,
            home,
            timers,
            timeout,
        } = self;
        connect::connect(address, login, encryption, home, timers, *timeout).await
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        self.address == other.address
            && self.login == other.login
            && Arc::ptr_eq(&self.encryption, &other.encryption)
    }
}

/// Cancels what one connection runs.
pub struct Canceller {
    pub process_id: i32,
    secret_key: Vec<u8>,
    target: Target,
    /// The very address that answered.
    peer: Peer,
    /// Requests on their way to the server.
    under_way: Cell<usize>,
    /// A request was made since [`Canceller::forget_requested`].
    requested: Cell<bool>,
    /// What takes the place of the server's error when the request stops a statement.
    instead: RefCell<Option<Box<[u8]>>>,
    /// Who waits until there are none.
    waiting: RefCell<Option<Waker>>,
}

impl Canceller {
    pub fn new(target: Target, peer: Peer, process_id: i32, secret_key: Vec<u8>) -> Rc<Canceller> {
        Rc::new(Canceller {
            process_id,
            secret_key,
            target,
            peer,
            under_way: Cell::new(0),
            requested: Cell::new(false),
            instead: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    pub fn address(&self) -> &Address {
        &self.target.address
    }

    /// Asks the server to stop what the connection runs. The request counts as under way from this call on.
    pub fn cancel(self: &Rc<Canceller>) -> impl Future<Output = ()> + use<> {
        let canceller = Rc::clone(self);
        canceller.under_way.set(canceller.under_way.get() + 1);
        canceller.requested.set(true);
        let arrival = Arrival(canceller);
        async move {
            let canceller = &arrival.0;
            let Target {
                address,
                encryption,
                home,
                timers,
                timeout,
                ..
            } = &canceller.target;
            let Canceller {
                peer,
                process_id,
                secret_key,
                ..
            } = &**canceller;
            let passed = connect::cancel(
                address,
                peer,
                encryption,
                CancelKey {
                    process_id: *process_id,
                    secret: secret_key,
                },
                home,
                timers,
                *timeout,
            )
            .await;
            if let Err(error) = passed {
                tracing::warn!(process_id = canceller.process_id, %error, "cannot pass a cancel request on");
            }
        }
    }

    /// Likewise, without anybody who waits for it.
    pub fn cancel_meanwhile(self: &Rc<Canceller>) {
        self.target.home.spawn(self.cancel());
    }

    /// Likewise; the client is told this ErrorResponse instead of the server's.
    pub fn cancel_because(self: &Rc<Canceller>, error: Box<[u8]>) {
        *self.instead.borrow_mut() = Some(error);
        self.cancel_meanwhile();
    }

    /// What is told instead of this error, given its body.
    pub fn instead_of(&self, error: &[u8]) -> Option<Box<[u8]>> {
        let mut instead = self.instead.borrow_mut();
        instead.as_ref()?;
        let was_stopped = ErrorFields::parse(error)?.sqlstate == QUERY_CANCELED;
        if was_stopped { instead.take() } else { None }
    }

    /// Whether a request was made that may still arrive.
    pub fn was_requested(&self) -> bool {
        self.requested.get()
    }

    /// What was requested has arrived.
    pub fn forget_requested(&self) {
        self.requested.set(false);
        *self.instead.borrow_mut() = None;
    }

    /// A request is under way: the connection must not be lent to anybody else.
    pub fn is_busy(&self) -> bool {
        self.under_way.get() > 0
    }

    /// Waits until no request is under way. One waits at a time: who holds the connection.
    pub async fn rest(&self) {
        std::future::poll_fn(|cx| {
            if !self.is_busy() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A request that is no longer under way when this is dropped.
struct Arrival(Rc<Canceller>);

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        if let Some(waker) = self.0.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}
