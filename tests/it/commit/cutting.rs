//! A relay between a proxy and its shards that reads their messages, and can hold, cut or still a connection at a named step of a commit.
//!
//! All that is not a step passes as it is, message by message. What was forwarded reaches the server also when the proxy has died meanwhile.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Bytes in front of a message's body.
const HEADER: usize = 5;

/// The protocol's version in a startup packet, and what stands there in a cancel request.
const VERSION_3: u32 = 3 << 16;
const CANCEL: u32 = (1234 << 16) | 5678;

/// A statement of a commit of several shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    Prepare,
    /// COMMIT on the decision shard.
    Decision,
    CommitPrepared,
}

/// A place where a connection can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The statement has left the proxy and not reached the server.
    Before(Statement),
    /// The server has done it, and its answer has not reached the proxy.
    After(Statement),
}

pub const STEPS: [(&str, Step); 6] = [
    ("before PREPARE", Step::Before(Statement::Prepare)),
    ("after PREPARE", Step::After(Statement::Prepare)),
    ("before the decision", Step::Before(Statement::Decision)),
    ("after the decision", Step::After(Statement::Decision)),
    (
        "before COMMIT PREPARED",
        Step::Before(Statement::CommitPrepared),
    ),
    (
        "after COMMIT PREPARED",
        Step::After(Statement::CommitPrepared),
    ),
];

/// What may happen to the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    Moving,
    Still,
    /// Both sides get a reset.
    Cut,
}

/// One relayed connection.
struct Connection {
    shard: usize,
    motion: watch::Sender<Motion>,
    talk: Mutex<Talk>,
}

/// What is known of where the two sides are.
#[derive(Default)]
struct Talk {
    /// The transaction has its row in `trunkline.commits` and was not prepared: its COMMIT is the decision.
    decides: bool,
    /// Forwarded and not answered.
    asked: Option<Statement>,
}

/// What the test and the connections share.
struct Board {
    armed: Mutex<Option<(Step, Sender<Held>)>>,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// By shard: whether nothing moves at all.
    frozen: Vec<watch::Sender<bool>>,
}

/// Relays to shards. Dropping it cuts everything.
pub struct Relays {
    ports: Vec<u16>,
    board: Arc<Board>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A connection that has come to the step. Dropping it leaves the connection as it is: open, and silent.
pub struct Held {
    pub shard: usize,
    connection: Arc<Connection>,
}

impl Held {
    pub fn cut(self) {
        self.connection.motion.send_replace(Motion::Cut);
    }

    /// What was held goes on its way.
    pub fn let_go(self) {
        self.connection.motion.send_replace(Motion::Moving);
    }
}

/// A shard behind its relay is silent until this is dropped.
pub struct Frozen(watch::Sender<bool>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Relays {
    /// One relay for each of these ports of servers.
    pub fn start(servers: &[u16]) -> Relays {
        let board = Arc::new(Board {
            armed: Mutex::default(),
            connections: Mutex::default(),
            frozen: servers.iter().map(|_| watch::Sender::new(false)).collect(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = channel();
        let (shared, servers) = (Arc::clone(&board), servers.to_vec());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut ports = Vec::new();
                for (shard, server) in servers.into_iter().enumerate() {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    ports.push(listener.local_addr().unwrap().port());
                    let server = SocketAddr::from(([127, 0, 0, 1], server));
                    tokio::spawn(accept(listener, server, shard, Arc::clone(&shared)));
                }
                tell.send(ports).unwrap();
                let _ = stopped.await;
            });
        });
        Relays {
            ports: told.recv().expect("the relays listen"),
            board,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where to connect instead of to the servers, in their order.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The first connection that comes to this step from now on is held, and told to the receiver. In place of what was armed before.
    pub fn arm(&self, step: Step) -> Receiver<Held> {
        let (tell, told) = channel();
        *self.board.armed.lock().unwrap() = Some((step, tell));
        told
    }

    pub fn disarm(&self) {
        *self.board.armed.lock().unwrap() = None;
    }

    /// Cuts all connections to this shard.
    pub fn cut(&self, shard: usize) {
        for connection in self.board.connections.lock().unwrap().iter() {
            if connection.shard == shard {
                connection.motion.send_replace(Motion::Cut);
            }
        }
    }

    /// Stops all bytes to and from this shard, of new connections too.
    pub fn freeze(&self, shard: usize) -> Frozen {
        self.board.frozen[shard].send_replace(true);
        Frozen(self.board.frozen[shard].clone())
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the relay panicked"
            );
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shard: usize, board: Arc<Board>) {
    loop {
        let (proxy, _) = listener.accept().await.unwrap();
        let connection = Arc::new(Connection {
            shard,
            motion: watch::Sender::new(Motion::Moving),
            talk: Mutex::default(),
        });
        let mut connections = board.connections.lock().unwrap();
        // A connection that is over is held by nobody else.
        connections.retain(|connection| Arc::strong_count(connection) > 1);
        connections.push(Arc::clone(&connection));
        drop(connections);
        tokio::spawn(relay(proxy, server, connection, Arc::clone(&board)));
    }
}

/// One connection, until both sides have ended or it is cut.
async fn relay(
    mut proxy: TcpStream,
    server: SocketAddr,
    connection: Arc<Connection>,
    board: Arc<Board>,
) {
    // Without a server the proxy is closed, which is what it would see without us.
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let mut motion = connection.motion.subscribe();
    let was_cut = {
        let (from_proxy, to_proxy) = proxy.split();
        let (from_server, to_server) = server.split();
        let [there, back] = [Direction::ToServer, Direction::ToProxy].map(|direction| Passage {
            direction,
            connection: &connection,
            board: &board,
        });
        let both = async {
            tokio::join!(
                there.pump(from_proxy, to_server),
                back.pump(from_server, to_proxy)
            )
        };
        tokio::select! {
            _ = both => false,
            _ = motion.wait_for(|motion| *motion == Motion::Cut) => true,
        }
    };
    if was_cut {
        for socket in [&proxy, &server] {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToProxy,
}

/// One direction of a connection.
struct Passage<'a> {
    direction: Direction,
    connection: &'a Arc<Connection>,
    board: &'a Board,
}

impl Passage<'_> {
    /// Moves messages until their source ends, which the other side is then told. What cannot be delivered is thrown away, so that the
    /// other side is not held up by it.
    async fn pump(&self, mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut received = Vec::new();
        let mut begun = self.direction == Direction::ToProxy;
        loop {
            let mut passed = 0;
            while let Some(length) = length_of(&received[passed..], begun) {
                let message = &received[passed..passed + length];
                if !begun {
                    let version = message[4..8].try_into().map(u32::from_be_bytes).unwrap();
                    assert!(
                        version == VERSION_3 || version == CANCEL,
                        "the relay reads plain text only"
                    );
                    begun = true;
                } else if let Some(step) = self.step(message) {
                    self.pass(&received[..passed], &mut to).await;
                    received.drain(..passed);
                    passed = 0;
                    self.hold(step);
                }
                passed += length;
            }
            self.pass(&received[..passed], &mut to).await;
            received.drain(..passed);
            match from.read_buf(&mut received).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        self.moves().await;
        let _ = to.shutdown().await;
    }

    /// Sends it on, as soon as bytes may move.
    async fn pass(&self, messages: &[u8], to: &mut (impl AsyncWriteExt + Unpin)) {
        if !messages.is_empty() {
            self.moves().await;
            let _ = to.write_all(messages).await;
        }
    }

    /// Waits until bytes may move.
    async fn moves(&self) {
        let mut frozen = self.board.frozen[self.connection.shard].subscribe();
        let mut motion = self.connection.motion.subscribe();
        // Their senders live as long as we.
        let _ = frozen.wait_for(|frozen| !*frozen).await;
        let _ = motion.wait_for(|motion| *motion == Motion::Moving).await;
    }

    /// Follows the talk. The step that the connection comes to with this message.
    fn step(&self, message: &[u8]) -> Option<Step> {
        let mut talk = self.connection.talk.lock().unwrap();
        match self.direction {
            Direction::ToServer => talk.told(message).map(Step::Before),
            Direction::ToProxy => talk.answered(message).map(Step::After),
        }
    }

    /// Stills the connection and tells the test, when the step is waited for.
    fn hold(&self, step: Step) {
        let mut armed = self.board.armed.lock().unwrap();
        if let Some((_, tell)) = armed.take_if(|(wanted, _)| *wanted == step) {
            self.connection.motion.send_replace(Motion::Still);
            // A test that waits no longer has it stand still all the same.
            let _ = tell.send(Held {
                shard: self.connection.shard,
                connection: Arc::clone(self.connection),
            });
        }
    }
}

impl Talk {
    /// A message of the proxy.
    fn told(&mut self, message: &[u8]) -> Option<Statement> {
        let text = match message[0] {
            b'Q' => &message[HEADER..],
            // The name of the statement goes first.
            b'P' => message[HEADER..].splitn(2, |byte| *byte == 0).nth(1)?,
            _ => return None,
        };
        let text = String::from_utf8_lossy(text.split(|byte| *byte == 0).next()?);
        let statement = if text.contains("PREPARE TRANSACTION '") {
            Statement::Prepare
        } else if text.contains("COMMIT PREPARED '") {
            Statement::CommitPrepared
        } else if text.trim() == "COMMIT" && self.decides {
            Statement::Decision
        } else {
            self.decides |=
                text.contains("INSERT INTO trunkline.commits") && text.contains("'commit'");
            self.decides &= !text.starts_with("ROLLBACK");
            return None;
        };
        self.decides = false;
        self.asked = Some(statement);
        Some(statement)
    }

    /// A message of the server: the statement that it has done.
    fn answered(&mut self, message: &[u8]) -> Option<Statement> {
        let asked = self.asked?;
        let done = match asked {
            Statement::Prepare => "PREPARE TRANSACTION",
            Statement::Decision => "COMMIT",
            Statement::CommitPrepared => "COMMIT PREPARED",
        };
        match message[0] {
            b'C' if message[HEADER..].strip_suffix(&[0]) == Some(done.as_bytes()) => {}
            // Answered in another way.
            b'Z' => {
                self.asked = None;
                return None;
            }
            _ => return None,
        }
        self.asked = None;
        Some(asked)
    }
}

/// The length of the first message, when all of it is there.
fn length_of(received: &[u8], begun: bool) -> Option<usize> {
    let tag = usize::from(begun);
    let length = received.get(tag..tag + 4)?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize + tag;
    (received.len() >= length).then_some(length)
}

/// The relay itself, with the statements of a commit said by hand.
mod by_hand {
    use super::{Held, Relays, STEPS, Statement, Step};
    use crate::raw::Raw;
    use crate::servers::{DEADLINE, cluster, value};
    use crate::sharded::succeeded;

    const DATABASE: &str = "relayed";

    /// Says them one after the other; the last one comes to the step. Gives how many rows are committed while it is held there, whether the
    /// transaction is prepared, and whether the client has its answer after `end`.
    fn at(step: Step, statements: &[&str], end: fn(Held)) -> (String, bool, bool) {
        let server = &cluster().shards()[0].primary;
        let relays = Relays::start(&[server.port()]);
        let mut client = Raw::connect(relays.ports()[0], "postgres", DATABASE);
        let (last, before) = statements.split_last().expect("there are some");
        let arrives = relays.arm(step);
        for statement in before {
            succeeded(statement, &client.simple(statement));
        }
        assert!(arrives.try_recv().is_err(), "held too early");
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| client.try_simple(last).is_ok());
            let held = arrives.recv_timeout(DEADLINE).expect("it is held");
            // Only this connection is.
            succeeded(
                "SELECT 1",
                &Raw::connect(relays.ports()[0], "app", DATABASE).simple("SELECT 1"),
            );
            let ask = |sql| value(server, DATABASE, sql).expect("the server answers");
            let committed = ask("SELECT count(*) FROM trunkline.commits");
            let prepared = ask("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'by hand'");
            assert!(!answer.is_finished(), "it is not held");
            end(held);
            (committed, prepared == "1", answer.join().expect("no panic"))
        })
    }

    #[test]
    fn a_connection_is_held_at_each_step() {
        let server = &cluster().shards()[0].primary;
        let run = |database: &str, sql: &str| {
            server
                .run_sql(database, sql)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        run("postgres", &format!("CREATE DATABASE {DATABASE}"));
        run(
            DATABASE,
            "CREATE SCHEMA trunkline; CREATE TABLE trunkline.commits (outcome text)",
        );
        let begin = "BEGIN; INSERT INTO trunkline.commits VALUES ('commit')";
        let (prepare, finish) = ("PREPARE TRANSACTION 'by hand'", "COMMIT PREPARED 'by hand'");
        for (name, step) in STEPS {
            let (Step::Before(statement) | Step::After(statement)) = step;
            let statements = match statement {
                Statement::Prepare => vec!["COMMIT", begin, prepare],
                Statement::Decision => vec!["COMMIT", begin, "COMMIT"],
                Statement::CommitPrepared => vec!["COMMIT", begin, prepare, finish],
            };
            let before = match statement {
                Statement::CommitPrepared => ("0", true),
                Statement::Prepare | Statement::Decision => ("0", false),
            };
            let after = match statement {
                Statement::Prepare => ("0", true),
                Statement::Decision | Statement::CommitPrepared => ("1", false),
            };
            let expected = if step == Step::Before(statement) {
                before
            } else {
                after
            };
            for (end, is_answered) in [(Held::cut as fn(Held), false), (Held::let_go, true)] {
                let (committed, prepared, answered) = at(step, &statements, end);
                assert_eq!((&*committed, prepared), expected, "{name}");
                assert_eq!(answered, is_answered, "{name}");
                if value(
                    server,
                    DATABASE,
                    "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'by hand'",
                )
                .unwrap()
                    == "1"
                {
                    run(DATABASE, "ROLLBACK PREPARED 'by hand'");
                }
                run(DATABASE, "TRUNCATE trunkline.commits");
            }
        }
    }
}
