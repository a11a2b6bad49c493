//! One thread of the data plane: an executor of its own, commands from the control plane, and the sessions of its clients.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::StartError;
use super::login::{self, Proven};
use crate::admin;
use crate::session::latency::Counts;
use crate::session::login::{Arrival, begin};
use crate::session::report::WorkerReport;
use crate::session::shared::{Shared, Snapshot};
use crate::session::waits::{LongWait, Sentence};
use crate::session::worker::{Paused, Worker};
use crate::wire::answer::{self, Report, Severity};
use crate::wire::executor::Executor;
use crate::wire::socket::Home;
use crate::wire::startup::{self, CancelRequest, Opening, Startup};
use crate::wire::stream::Stream;

/// Time between two rounds of a worker's housekeeping.
const TICK: Duration = Duration::from_millis(250);

/// What the control plane asks of a worker.
pub enum Command {
    Serve(Socket),
    /// A new snapshot; answered when it is in force.
    Follow(Arc<Snapshot>, oneshot::Sender<()>),
    /// The same with other primaries or replicas.
    FollowView(Arc<Snapshot>),
    /// The same with other gates before moving keys; answered when they are in force.
    FollowGates(Arc<Snapshot>, oneshot::Sender<()>),
    /// How many sessions may be at work on moving keys of a database.
    Inside(Box<str>, oneshot::Sender<usize>),
    /// How long requests to a database have taken.
    Latency(Box<str>, oneshot::Sender<Counts>),
    /// Cancel what the client of this card runs; answered when its server has been told.
    Cancel(usize, oneshot::Sender<()>),
    Report(oneshot::Sender<WorkerReport>),
    /// The requests over several shards that take long.
    LongWaits(oneshot::Sender<Vec<LongWait>>),
    /// End the statement of a deadlock's victim; answered whether there was one to end.
    EndDeadlock(Sentence, oneshot::Sender<bool>),
    SetPaused(Option<Box<str>>, Paused),
    /// Whether every pool of the database (or of all) is at rest.
    IsQuiet(Option<Box<str>>, oneshot::Sender<bool>),
    /// Clients leave as soon as they are idle.
    Drain,
}

/// A client's socket on its way to its worker.
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// The control plane's end of a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    commands: mpsc::UnboundedSender<Command>,
    /// Connections it has, logged in or not.
    connections: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub fn send(&self, command: Command) {
        // A worker that is gone has ended with the process.
        let _ = self.commands.send(command);
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What the sessions of a worker may ask of the whole process.
#[derive(Clone)]
pub struct Surroundings {
    pub index: usize,
    pub count: usize,
    pub shared: Arc<Shared>,
    /// The admin database's way to the control plane.
    pub admin: admin::Access,
}

/// Starts a worker's thread. It ends when its handle is dropped and its last client is gone.
pub fn start(
    surroundings: Surroundings,
    commands: Commands,
) -> Result<std::thread::JoinHandle<()>, StartError> {
    let name = format!("worker-{}", surroundings.index);
    std::thread::Builder::new()
        .name(name)
        .spawn(move || match Executor::new() {
            Ok(executor) => {
                let timers = surroundings.shared.timers.clone();
                // For what blocks: look-ups of names, and hashes by the thousand.
                let _elsewhere = timers.enter();
                executor.run(run(surroundings, commands, Rc::clone(&executor)));
            }
            Err(error) => tracing::error!(%error, "a worker cannot start"),
        })
        .map_err(StartError::Thread)
}

/// The worker's end of its handle.
pub struct Commands {
    receiver: mpsc::UnboundedReceiver<Command>,
    connections: Arc<AtomicUsize>,
}

/// Both ends.
pub fn channel() -> (WorkerHandle, Commands) {
    let (commands, receiver) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    (
        WorkerHandle {
            commands,
            connections: Arc::clone(&connections),
        },
        Commands {
            receiver,
            connections,
        },
    )
}

async fn run(surroundings: Surroundings, mut commands: Commands, executor: Rc<Executor>) {
    let worker = Worker::new(
        surroundings.index,
        surroundings.count,
        Arc::clone(&surroundings.shared),
        Home::Executor(Rc::clone(&executor)),
    );
    let admin = Rc::new(surroundings.admin);
    let mut tick = worker.shared.timers.interval(TICK);
    loop {
        tokio::select! {
            command = commands.receiver.recv() => match command {
                Some(command) => obey(&worker, &admin, command, &commands.connections, &executor),
                None => break,
            },
            _ = tick.tick() => worker.tick(Instant::now()),
        }
    }
}

fn obey(
    worker: &Rc<Worker>,
    admin: &Rc<admin::Access>,
    command: Command,
    connections: &Arc<AtomicUsize>,
    executor: &Rc<Executor>,
) {
    match command {
        Command::Serve(socket) => {
            let connection = Connection::count(connections);
            let (worker, admin) = (Rc::clone(worker), Rc::clone(admin));
            // Those who are logged in go first.
            executor.spawn_newcomer(async move {
                match socket.into_stream(&worker.home) {
                    Ok(stream) => serve(&worker, &admin, stream, connection).await,
                    Err(error) => tracing::warn!(%error, "a new connection cannot be used"),
                }
            });
        }
        Command::Follow(snapshot, done) => {
            worker.follow(snapshot);
            let _ = done.send(());
        }
        Command::FollowView(snapshot) => worker.follow_view(snapshot),
        Command::FollowGates(snapshot, done) => {
            worker.follow_gates(snapshot);
            let _ = done.send(());
        }
        Command::Inside(database, answer) => {
            let _ = answer.send(worker.inside(&database));
        }
        Command::Latency(database, answer) => {
            let _ = answer.send(worker.latency(&database));
        }
        Command::Cancel(place, done) => {
            let cancelling = worker.cancel(place);
            executor.spawn(async move {
                cancelling.await;
                let _ = done.send(());
            });
        }
        Command::Report(answer) => {
            let _ = answer.send(WorkerReport::of(worker));
        }
        Command::LongWaits(answer) => {
            let _ = answer.send(worker.long_waits(Instant::now()));
        }
        Command::EndDeadlock(sentence, done) => {
            let _ = done.send(worker.execute(sentence));
        }
        Command::SetPaused(database, paused) => worker.set_paused(database.as_deref(), paused),
        Command::IsQuiet(database, answer) => {
            let _ = answer.send(worker.is_quiet(database.as_deref()));
        }
        Command::Drain => worker.drain(),
    }
}

impl Socket {
    fn into_stream(self, home: &Home) -> std::io::Result<Stream> {
        match self {
            Socket::Tcp(socket) => home.adopt(socket).map(Stream::Tcp),
            Socket::Unix(socket) => home.adopt(socket).map(Stream::Unix),
        }
    }
}

/// Counts a connection for as long as it lives.
struct Connection(Arc<AtomicUsize>);

impl Connection {
    fn count(connections: &Arc<AtomicUsize>) -> Connection {
        connections.fetch_add(1, Ordering::Relaxed);
        Connection(Arc::clone(connections))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection from its first byte to its last.
async fn serve(
    worker: &Rc<Worker>,
    admin: &Rc<admin::Access>,
    stream: Stream,
    connection: Connection,
) {
    if let Err(error) = stream.set_options() {
        tracing::debug!(%error, "socket options");
    }
    let snapshot = Arc::clone(&worker.snapshot());
    let deadline = tokio::time::Instant::now() + snapshot.config.limits.login_timeout;
    let peer = stream.peer();
    let handshakes = &worker.shared.handshakes;
    let opening = startup::open(stream, &snapshot.client_encryption, handshakes);
    match worker.shared.timers.timeout_at(deadline, opening).await {
        Ok(Ok(Opening::Session(startup))) => {
            session(worker, admin, startup, snapshot, deadline, connection).await
        }
        Ok(Ok(Opening::Cancel(request))) => cancel(admin, request).await,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a connection ended before it was logged in")
        }
        Err(_) => tracing::info!(%peer, "a client did not say what it wants in time"),
    }
}

async fn session(
    worker: &Rc<Worker>,
    admin: &Rc<admin::Access>,
    mut startup: Startup,
    snapshot: Arc<Snapshot>,
    deadline: tokio::time::Instant,
    connection: Connection,
) {
    let limits = &snapshot.config.limits;
    let Some(admission) = worker.shared.admit(limits.max_client_connections) else {
        return refuse(startup.stream, "53300", "sorry, too many clients already").await;
    };
    let proving = login::prove(&mut startup, &snapshot);
    let proving = worker.shared.timers.timeout_at(deadline, proving);
    let Proven { user, credential } = match proving.await {
        Ok(Ok(proven)) => proven,
        Ok(Err(error)) => {
            tracing::info!(user = startup.user, peer = %startup.stream.peer(), %error, "authentication failed");
            if let Some(sqlstate) = error.sqlstate() {
                refuse(startup.stream, sqlstate, &error.to_string()).await;
            }
            return;
        }
        Err(_) => {
            return refuse(
                startup.stream,
                "57014",
                "canceling authentication due to timeout",
            )
            .await;
        }
    };
    let Some(user_admission) = worker
        .shared
        .admit_user(&user.name, limits.max_user_connections)
    else {
        let message = format!("too many connections for role \"{}\"", user.name);
        return refuse(startup.stream, "53300", &message).await;
    };
    drop(snapshot);
    if startup.database == crate::config::ADMIN_DATABASE {
        if !user.admin {
            return refuse(
                startup.stream,
                "42501",
                "permission denied for the admin database: not an admin user",
            )
            .await;
        }
        return admin::serve(startup, admin).await;
    }
    let arrival = Arrival {
        startup,
        user,
        credential,
        admission: (admission, user_admission),
    };
    if let Some(session) = begin(worker, arrival).await {
        // A task of its own: what the login needed is not kept for the session's life.
        worker.home.spawn(async move {
            session.run().await;
            drop(connection);
        });
    }
}

async fn refuse(mut stream: Stream, sqlstate: &str, message: &str) {
    let mut out = Vec::new();
    answer::error_response(&mut out, &Report::new(Severity::Fatal, sqlstate, message));
    stream.refuse(&out).await;
}

/// A request to cancel: the client learns that it was dealt with when its connection closes.
async fn cancel(admin: &Rc<admin::Access>, mut request: CancelRequest) {
    admin.cancel(request.process_id, &request.key).await;
    // TLS has an end of its own, without which a client takes this one for an error.
    request.stream.refuse(b"").await;
}
