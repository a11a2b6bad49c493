//! Texts of commands, what the inbox holds, and servers that misbehave; real ones are in `tests/it/replication_stream.rs`.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::inbox::Inbox;
use super::publication::Partitions;
use super::*;
use crate::backend::connect::{Address, Login};
use crate::wire::message::Format;
use crate::wire::replication::{Message, Streaming};
use crate::wire::tls::ServerEncryption;

const PATIENCE: Duration = Duration::from_secs(20);

fn slot(name: &str) -> SlotName {
    SlotName::new(name).unwrap()
}

fn publication(name: &str) -> PublicationName {
    PublicationName::new(name).unwrap()
}

// --- Texts ---

#[test]
fn versions_as_servers_report_them() {
    for (text, major) in [
        ("15.18 (Debian 15.18-0+deb12u1)", Some(15)),
        ("17beta1", Some(17)),
        ("9.6.24", Some(9)),
        ("18", Some(18)),
        ("devel", None),
        ("", None),
    ] {
        assert_eq!(ServerMajor::parse(text), major.map(ServerMajor), "{text}");
    }
}

#[test]
fn names() {
    for wrong in ["", "Upper", "a-b", "ä", "a b", "a\"", &"x".repeat(64)] {
        assert!(SlotName::new(wrong).is_err(), "{wrong}");
    }
    assert!(SlotName::new("x".repeat(63)).is_ok());
    assert!(PublicationName::new("Any \"thing\", 'really'").is_ok());
    for wrong in ["", "a\0b", &"ä".repeat(32)] {
        assert!(PublicationName::new(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn slots_for_each_version() {
    let mut request = SlotRequest {
        name: slot("s"),
        lifetime: Lifetime::Temporary,
        snapshot: Snapshot::Export,
        two_phase: TwoPhase::AtCommit,
        failover: Failover::Lost,
    };
    let text = |request: &SlotRequest, major| request.text(ServerMajor(major));
    assert_eq!(
        text(&request, 14).unwrap(),
        "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
    );
    assert_eq!(
        text(&request, 15).unwrap(),
        "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
    );
    request.two_phase = TwoPhase::AtPrepare;
    request.lifetime = Lifetime::Permanent;
    request.snapshot = Snapshot::Use;
    assert!(matches!(
        text(&request, 14),
        Err(ReplicationError::Unsupported { .. })
    ));
    assert_eq!(
        text(&request, 15).unwrap(),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'use', TWO_PHASE)"
    );
    request.failover = Failover::Kept;
    assert_eq!(
        text(&request, 16).unwrap_err().to_string(),
        "a slot that replicas keep needs Postgres 17, and the server is Postgres 16"
    );
    assert_eq!(
        text(&request, 17).unwrap(),
        "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'use', TWO_PHASE, FAILOVER)"
    );
    assert_eq!(
        command::drop_slot(&slot("s"), WhenInUse::Wait),
        "DROP_REPLICATION_SLOT \"s\" WAIT"
    );
}

#[test]
fn streams_for_each_version() {
    let plain = StreamRequest::new(slot("s"), Lsn(0x1_0000_00AB), publication("a \"b\" 'c'"));
    let versions = [(10, 1), (13, 1), (14, 2), (15, 3), (16, 4), (18, 4)];
    for (major, number) in versions {
        let (text, version) = plain.text(ServerMajor(major)).unwrap();
        assert_eq!(version.number(), number);
        assert_eq!(
            text,
            format!(
                "START_REPLICATION SLOT \"s\" LOGICAL 1/AB \
                 (proto_version '{number}', publication_names '\"a \"\"b\"\" ''c''\"')"
            )
        );
    }
    let all = StreamRequest {
        publications: vec![publication("p"), publication("q")],
        streaming: Streaming::Parallel,
        two_phase: TwoPhase::AtPrepare,
        format: Format::Binary,
        messages: Logical::Sent,
        origins: Origins::Own,
        ..plain.clone()
    };
    let (text, _) = all.text(ServerMajor(16)).unwrap();
    assert!(
        text.ends_with(
            "(proto_version '4', publication_names '\"p\",\"q\"', binary 'true', messages 'true', \
             streaming 'parallel', two_phase 'on', origin 'none')"
        ),
        "{text}"
    );
    let needs = |change: fn(&mut StreamRequest), since: u16| {
        let mut request = plain.clone();
        change(&mut request);
        assert!(request.text(ServerMajor(since)).is_ok());
        let older = request.text(ServerMajor(since - 1));
        assert!(
            matches!(older, Err(ReplicationError::Unsupported { since: s, .. }) if s.0 == since)
        );
    };
    needs(|r| r.format = Format::Binary, 14);
    needs(|r| r.messages = Logical::Sent, 14);
    needs(|r| r.streaming = Streaming::On, 14);
    needs(|r| r.two_phase = TwoPhase::AtPrepare, 15);
    needs(|r| r.streaming = Streaming::Parallel, 16);
    needs(|r| r.origins = Origins::Own, 16);
}

#[test]
fn publications() {
    let name = publication("p\"q");
    assert_eq!(
        publication::create(&name, &[("s", "t"), ("odd \"", "x")], Partitions::Root),
        "CREATE PUBLICATION \"p\"\"q\" FOR TABLE \"s\".\"t\", \"odd \"\"\".\"x\" WITH (publish_via_partition_root = true)"
    );
    assert_eq!(
        publication::create(&name, &[], Partitions::Leaves),
        "CREATE PUBLICATION \"p\"\"q\""
    );
    assert_eq!(
        publication::drop(&name),
        "DROP PUBLICATION IF EXISTS \"p\"\"q\""
    );
}

// --- The inbox ---

/// One message of the protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

async fn read_all(inbox: &mut Inbox, mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        while let Some(frame) = inbox.take().unwrap() {
            found.push((frame.kind, inbox.body(frame.body).to_vec()));
        }
        let filled = std::future::poll_fn(|cx| inbox.poll_fill(&mut bytes, cx)).await;
        if filled.unwrap() == 0 {
            return found;
        }
    }
}

#[tokio::test]
async fn a_large_message_leaves_no_memory_behind() {
    let mut inbox = Inbox::new(1 << 30);
    let large = vec![7; 20 << 20];
    let small: Vec<u8> = (0..20_000).flat_map(|_| message(b'd', b"small")).collect();
    let stream = [message(b'd', &large), small].concat();
    let found = read_all(&mut inbox, &stream).await;
    assert_eq!((found.len(), &found[0].1), (20_001, &large));
    assert!(inbox.held() <= 1 << 20, "{}", inbox.held());
}

/// What a message announces is no reason to take the memory for it.
#[tokio::test]
async fn memory_grows_with_what_has_come() {
    let mut inbox = Inbox::new(1 << 30);
    let mut begun = message(b'd', &[]);
    begun[1..5].copy_from_slice(&(1_u32 << 29).to_be_bytes());
    begun.resize(200_000, 0);
    assert_eq!(read_all(&mut inbox, &begun).await, []);
    assert!(inbox.held() <= 512 * 1024, "{}", inbox.held());
}

#[tokio::test]
async fn impossible_lengths() {
    let of = |length: u32| {
        let mut bytes = vec![b'd'];
        bytes.extend(length.to_be_bytes());
        bytes
    };
    for (length, large) in [(0, false), (3, false), (1000, true), (u32::MAX, true)] {
        let mut inbox = Inbox::new(1000);
        let bytes = of(length);
        let mut rest = &bytes[..];
        std::future::poll_fn(|cx| inbox.poll_fill(&mut rest, cx))
            .await
            .unwrap();
        match inbox.take().unwrap_err() {
            ReplicationError::TooLarge { limit: 1000, .. } => assert!(large, "{length}"),
            ReplicationError::Protocol(_) => assert!(!large, "{length}"),
            other => panic!("{other}"),
        }
    }
    let mut inbox = Inbox::new(1000);
    assert_eq!(
        read_all(&mut inbox, &message(b'd', &[1; 995])).await.len(),
        1
    );
}

proptest! {
    /// However the bytes are cut, and however large messages are.
    #[test]
    fn messages_come_out_as_they_went_in(sizes in proptest::collection::vec(prop_oneof![8 => 0usize..300, 1 => 0usize..300_000], 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let messages: Vec<(u8, Vec<u8>)> = sizes.iter().enumerate().map(|(i, size)| (i as u8, vec![i as u8; *size])).collect();
        let stream: Vec<u8> = messages.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
        let found = runtime.block_on(read_all(&mut Inbox::new(1 << 20), &stream));
        prop_assert_eq!(found, messages);
    }
}

// --- Servers of our own ---

/// A server's end of a connection.
struct Peer(TcpStream);

impl Peer {
    async fn say(&mut self, messages: &[Vec<u8>]) {
        self.0.write_all(&messages.concat()).await.unwrap();
    }

    async fn hear(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.0.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).await.unwrap();
        (header[0], body)
    }

    /// Written, flushed, and whether an answer is wanted.
    async fn hear_status(&mut self) -> (u64, u64, bool) {
        let (kind, body) = self.hear().await;
        assert_eq!((kind, body[0], body.len()), (b'd', b'r', 34));
        let at = |from: usize| u64::from_be_bytes(body[from..from + 8].try_into().unwrap());
        assert_eq!(at(9), at(17));
        (at(1), at(9), body[33] == 1)
    }
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error(sqlstate: &str) -> Vec<u8> {
    let body = format!("SERROR\0VERROR\0C{sqlstate}\0Mno\0Hask again\0\0");
    message(b'E', body.as_bytes())
}

/// An answer of one row.
fn values(values: &[&str]) -> Vec<Vec<u8>> {
    let mut row = vec![0, values.len() as u8];
    for value in values {
        row.extend((value.len() as u32).to_be_bytes());
        row.extend(value.bytes());
    }
    vec![
        message(b'T', &[0, 0]),
        message(b'D', &row),
        message(b'C', b"SELECT 1\0"),
        ready(),
    ]
}

fn keepalive(end: u64, answer: u8) -> Vec<u8> {
    let body = [&b"k"[..], &end.to_be_bytes(), &[0; 8], &[answer]].concat();
    message(b'd', &body)
}

/// A logical message at this place, outside of any transaction.
fn change(at: u64, content: &[u8]) -> Vec<u8> {
    let place = at.to_be_bytes();
    let length = (content.len() as u32).to_be_bytes();
    let body = [
        &b"w"[..],
        &place,
        &place,
        &[0; 8],
        b"M\0",
        &place,
        b"p\0",
        &length,
        content,
    ];
    message(b'd', &body.concat())
}

/// Logs in; the server's end, and ours.
async fn connected(version: &str) -> (Peer, Result<ReplicationConnection, ReplicationError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
    };
    let login = Login {
        user: "u".into(),
        credential: None,
        database: "d".into(),
        application_name: Some("test".into()),
        parameters: vec![],
    };
    let server = async {
        let mut peer = Peer(listener.accept().await.unwrap().0);
        let length = peer.0.read_u32().await.unwrap() as usize;
        let mut startup = vec![0; length - 4];
        peer.0.read_exact(&mut startup).await.unwrap();
        let text = String::from_utf8_lossy(&startup).into_owned();
        assert!(text.contains("\0replication\0database\0"), "{text}");
        assert!(text.contains("\0search_path\0\0"), "{text}");
        peer.say(&[
            message(b'R', &[0; 4]),
            message(b'S', format!("server_version\0{version}\0").as_bytes()),
            message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]),
            ready(),
        ])
        .await;
        peer
    };
    let ours = ReplicationConnection::open(&address, &login, &ServerEncryption::Disable, PATIENCE);
    tokio::join!(server, ours)
}

/// A stream from a server with this `wal_sender_timeout` in milliseconds.
async fn streaming(timeout: &str, limits: Limits) -> (Peer, ChangeStream) {
    let (mut peer, connection) = connected("15.1").await;
    let connection = connection.unwrap();
    let request = StreamRequest {
        messages: Logical::Sent,
        ..StreamRequest::new(slot("s"), Lsn(100), publication("p"))
    };
    let server = async {
        let (_, command) = peer.hear().await;
        assert_eq!(command, b"IDENTIFY_SYSTEM\0");
        peer.say(&values(&["7", "1", "0/64", "d"])).await;
        assert_eq!(peer.hear().await.0, b'Q');
        peer.say(&values(&[timeout])).await;
        let (_, command) = peer.hear().await;
        assert!(command.starts_with(b"START_REPLICATION"));
        peer.say(&[message(b'W', &[0, 0, 0])]).await;
        peer
    };
    let (peer, stream) = tokio::join!(server, connection.start(&request, limits));
    (peer, stream.unwrap())
}

#[test]
fn everything_can_go_from_thread_to_thread() {
    fn send<T: Send>(_: impl FnOnce() -> T) {}
    fn unused<T>() -> T {
        unreachable!("only its type is asked for")
    }
    send(unused::<ReplicationError>);
    send(|| ReplicationConnection::open(unused(), unused(), unused(), PATIENCE));
    send(|| unused::<ReplicationConnection>().start(unused(), Limits::default()));
    send(|| unused::<&mut ReplicationConnection>().create_slot(unused()));
    send(|| unused::<&mut ChangeStream>().next());
    send(|| unused::<&mut ChangeStream>().during(async {}));
    send(|| unused::<ChangeStream>().finish(PATIENCE));
}

#[tokio::test]
async fn old_servers_and_errors_of_commands() {
    let (_peer, old) = connected("9.6.3").await;
    assert!(matches!(old, Err(ReplicationError::Unsupported { .. })));
    let (mut peer, connection) = connected("17.0").await;
    let mut connection = connection.unwrap();
    assert_eq!(
        (connection.server(), connection.process_id()),
        (ServerMajor(17), 9)
    );
    let server = async {
        let (_, command) = peer.hear().await;
        assert_eq!(command, b"DROP_REPLICATION_SLOT \"s\"\0");
        peer.say(&[error("42704"), ready()]).await;
        peer.hear().await;
        peer.say(&values(&["yes"])).await;
    };
    let name = slot("s");
    let ours = async {
        let error = connection
            .drop_slot(&name, WhenInUse::Refuse)
            .await
            .unwrap_err();
        assert_eq!(error.sqlstate(), Some("42704"));
        assert_eq!(
            error.to_string(),
            "ERROR: no (SQLSTATE 42704); hint: ask again"
        );
        // The connection is as good as before.
        let rows = connection.query("SELECT 'yes'").await.unwrap();
        assert_eq!(rows[0].get(0), Some("yes"));
        assert!(matches!(
            connection.query("a\0b").await,
            Err(ReplicationError::Nul)
        ));
        // Until a command is given up.
        let given_up = tokio::time::timeout(Duration::from_millis(5), connection.identify()).await;
        assert!(given_up.is_err());
        assert!(matches!(
            connection.identify().await,
            Err(ReplicationError::Abandoned)
        ));
    };
    tokio::join!(server, ours);
}

#[tokio::test]
async fn a_log_that_ends_before_the_stream_is_refused() {
    let (mut peer, connection) = connected("15.1").await;
    let request = StreamRequest::new(slot("s"), Lsn(0x65), publication("p"));
    let connection = connection.unwrap();
    let server = async {
        peer.hear().await;
        peer.say(&values(&["7", "1", "0/64", "d"])).await;
    };
    let limits = Limits::default();
    let (started, ()) = tokio::join!(connection.start(&request, limits), server);
    assert_eq!(
        started.unwrap_err().to_string(),
        "the stream was to begin at 0/65, and the server's log ends at 0/64: a part of it was lost"
    );
}

#[tokio::test]
async fn a_server_that_asks_is_answered_with_what_is_confirmed_by_then() {
    let (mut peer, mut stream) = streaming("0", Limits::default()).await;
    peer.say(&[change(150, b"x"), keepalive(200, 1)]).await;
    let Some(Event::Change {
        at: Lsn(150),
        message: Message::Message { content: b"x", .. },
        ..
    }) = stream.next().await.unwrap()
    else {
        panic!()
    };
    assert_eq!(peer.hear_status().await, (100, 0, false));
    assert!(matches!(
        stream.confirm(Lsn(151)),
        Err(ReplicationError::NeverReceived { .. })
    ));
    let keepalive = stream.next().await.unwrap();
    assert!(matches!(
        keepalive,
        Some(Event::Keepalive { end: Lsn(200), .. })
    ));
    stream.confirm(Lsn(200)).unwrap();
    stream.confirm(Lsn(150)).unwrap();
    // Its user waits for something else now.
    let answer = stream.during(peer.hear_status());
    // Without being asked it would speak after ten seconds.
    let status = tokio::time::timeout(Duration::from_secs(8), answer).await;
    assert_eq!(status.unwrap(), (200, 200, false));
}

#[tokio::test]
async fn the_server_is_kept_patient_while_the_user_is_busy() {
    let (mut peer, mut stream) = streaming("80", Limits::default()).await;
    let mut told = 0;
    let heard = stream.during(async {
        for _ in 0..5 {
            let (_, _, asks) = peer.hear_status().await;
            told += u32::from(!asks);
        }
    });
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    // Nobody reads an answer, so none is asked for.
    assert_eq!(told, 5);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_found_out() {
    let limits = Limits {
        patience: Duration::from_millis(200),
        ..Limits::default()
    };
    let (mut peer, mut stream) = streaming("80", limits).await;
    let silence = async {
        let error = stream.next().await.unwrap_err();
        assert!(matches!(error, ReplicationError::Silent(_)), "{error}");
    };
    tokio::time::timeout(PATIENCE, silence).await.unwrap();
    assert!(matches!(stream.next().await, Err(ReplicationError::Closed)));
    assert_eq!(peer.hear_status().await, (100, 0, false));
    assert_eq!(peer.hear_status().await, (100, 0, true));
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_is_read() {
    let limits = Limits {
        message: 1000,
        ..Limits::default()
    };
    let (mut peer, mut stream) = streaming("0", limits).await;
    peer.say(&[
        change(150, &[1; 900]),
        change(151, &[1; 1000])[..20].to_vec(),
    ])
    .await;
    assert!(matches!(
        stream.next().await,
        Ok(Some(Event::Change { .. }))
    ));
    assert!(matches!(
        stream.next().await,
        Err(ReplicationError::TooLarge { limit: 1000, .. })
    ));
}

#[tokio::test]
async fn a_future_that_is_dropped_loses_nothing() {
    let (mut peer, mut stream) = streaming("0", Limits::default()).await;
    let whole: Vec<u8> = (0..50)
        .flat_map(|i| change(200 + i, &[i as u8; 7]))
        .collect();
    let mut next = 0;
    // In pieces, with a future dropped behind each.
    for piece in whole.chunks(11) {
        peer.say(&[piece.to_vec()]).await;
        while let Ok(event) = tokio::time::timeout(Duration::from_millis(1), stream.next()).await {
            let Some(Event::Change { at, message, .. }) = event.unwrap() else {
                panic!()
            };
            assert_eq!(at, Lsn(200 + next));
            assert!(
                matches!(message, Message::Message { content, .. } if content == [next as u8; 7])
            );
            next += 1;
        }
    }
    while next < 50 {
        let event = stream.next().await.unwrap();
        assert!(matches!(event, Some(Event::Change { at, .. }) if at == Lsn(200 + next)));
        next += 1;
    }
}

#[tokio::test]
async fn ends_of_both_sides() {
    // Ours.
    let (mut peer, mut stream) = streaming("0", Limits::default()).await;
    peer.say(&[change(150, b"x"), change(160, b"unread")]).await;
    stream.next().await.unwrap();
    stream.confirm(Lsn(150)).unwrap();
    let server = async {
        loop {
            let (kind, body) = peer.hear().await;
            match kind {
                b'c' => break,
                _ => assert_eq!(body[0], b'r'),
            }
        }
        peer.say(&[
            change(170, b"still on its way"),
            message(b'c', &[]),
            message(b'C', b"COPY 0\0"),
            message(b'C', b"START_REPLICATION\0"),
            ready(),
        ])
        .await;
        peer.hear().await;
        peer.say(&values(&["again"])).await;
    };
    let ours = async {
        let mut connection = stream.finish(PATIENCE).await.unwrap();
        let rows = connection.query("SELECT 1").await.unwrap();
        assert_eq!(rows[0].get(0), Some("again"));
        let request = StreamRequest::new(slot("s"), Lsn(100), publication("p"));
        let twice = connection.start(&request, Limits::default()).await;
        assert!(matches!(twice, Err(ReplicationError::Spent)));
    };
    tokio::join!(server, ours);

    // The server's, at a shutdown.
    let (mut peer, mut stream) = streaming("0", Limits::default()).await;
    peer.say(&[message(b'C', b"COPY 0\0")]).await;
    drop(peer);
    assert_eq!(stream.next().await.unwrap(), None);
    assert_eq!(stream.next().await.unwrap(), None);

    // An error, and no word at all.
    let (mut peer, mut stream) = streaming("0", Limits::default()).await;
    peer.say(&[error("55000")]).await;
    assert_eq!(stream.next().await.unwrap_err().sqlstate(), Some("55000"));
    let (peer, mut stream) = streaming("0", Limits::default()).await;
    drop(peer);
    assert!(stream.next().await.is_err());
}
