//! The admin database: an administrator's connection from the greeting to the goodbye.
//!
//! Opening, encryption and proof of identity have been done by others. pgwire's server side speaks the two query protocols from here on; it is
//! given only messages that `inbox.rs` has checked. `command.rs` is the language, `show.rs` the answers, `answer.rs` their form on the wire.

mod alter;
mod answer;
mod command;
mod held;
mod inbox;
mod show;
mod table;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::PgWireFrontendMessage;
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::codec::Framed;

use super::{Access, Gone, Request};
use crate::config::Problem;
use crate::execution::commit::by_hand::NotResolved;
use crate::resharding::language;
use crate::resharding::report::Refused;
use crate::session::shared::Snapshot;
use crate::topology::promotion::{NotSwitched, Refusal};
use crate::topology::{DrainError, Service};
use crate::wire::answer::{self as wire, TransactionStatus};
use crate::wire::startup::Startup;
use crate::wire::stream::{Peer, Stream};

use answer::{Answers, Statement};
use command::{Command, SyntaxError};

use held::Held;
use inbox::{Heard, Inbox, Unreadable, Violation};
use table::Table;

/// What drivers are told of this server. They look at the version's number to see what it can do.
const PARAMETERS: [(&str, &str); 9] = [
    (
        "server_version",
        concat!("15.0 (Trunkline ", env!("CARGO_PKG_VERSION"), ")"),
    ),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("is_superuser", "off"),
    ("default_transaction_read_only", "off"),
];

/// Bytes that the pipe between a conversation and its client holds in each direction.
const PIPE: usize = 16 * 1024;

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("database \"{0}\" does not exist")]
    UnknownDatabase(String),
    #[error("there are several databases, name one with IN: {0}")]
    WhichDatabase(String),
    #[error("the configuration has mistakes, and nothing was changed")]
    Reload(Vec<Problem>),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    NotResolved(#[from] NotResolved),
    #[error(transparent)]
    NotDrained(#[from] DrainError),
    #[error(transparent)]
    NotSwitched(#[from] NotSwitched),
    #[error(transparent)]
    Reshard(Refused),
    /// Of the control plane; nothing that an administrator does brings this about.
    #[error("the answer is not one to this statement")]
    OtherAnswer,
    #[error("a prepared statement is one command")]
    SeveralInOne,
    #[error("commands take no parameters: write the value into the command")]
    Parameters,
    #[error("bind message has {formats} result formats but query has {columns} columns")]
    ResultFormats { formats: usize, columns: usize },
    #[error(
        "too many prepared statements and portals are open on this connection; the limit is {0}"
    )]
    TooManyHeld(usize),
}

/// What a command has to say, and the word that completes it.
pub enum Outcome {
    Rows(Table, &'static str),
    Done(&'static str),
}

/// Serves an administrator until the connection or the process ends.
pub async fn serve(mut startup: Startup, access: &Access) {
    if let Err(error) = greet(&mut startup).await {
        return tracing::debug!(%error, user = startup.user, "an administrator left during the greeting");
    }
    let address = match startup.stream.peer() {
        Peer::Tcp(address) => address,
        Peer::Unix { .. } | Peer::Unknown => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
    };
    let (near, far) = tokio::io::duplex(PIPE);
    let connection = connect(far, address, startup.tls);
    let conversation = async {
        if let Err(error) = converse(connection, access).await {
            tracing::debug!(%error, user = startup.user, "an administrator's connection ended");
        }
    };
    tokio::join!(conversation, carry(&mut startup.stream, near));
}

/// pgwire wants a stream that could be sent to another thread, and a worker's sockets cannot. So it speaks into a pipe: the bytes on both
/// sides of it are carried here, until what was said into it has been told and nothing more is said.
async fn carry(stream: &mut Stream, pipe: DuplexStream) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut from_us, mut to_us) = tokio::io::split(pipe);
    let heard = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_us).await;
        // The client has gone: who speaks to it finds the end.
        let _ = to_us.shutdown().await;
        std::future::pending::<()>().await;
    };
    let told = async {
        let _ = tokio::io::copy(&mut from_us, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = heard => {}
        () = told => {}
    }
}

/// All that stands between the proof of identity and the first command.
async fn greet(startup: &mut Startup) -> std::io::Result<()> {
    let mut out = Vec::new();
    wire::authentication_ok(&mut out);
    for (name, value) in PARAMETERS {
        wire::parameter_status(&mut out, name, value);
    }
    let application = startup
        .parameters
        .iter()
        .find(|(name, _)| name == "application_name");
    wire::parameter_status(
        &mut out,
        "application_name",
        application.map_or("", |(_, value)| value),
    );
    wire::parameter_status(&mut out, "session_authorization", &startup.user);
    // No command here runs long enough to be cancelled: the key opens nothing.
    wire::backend_key_data(
        &mut out,
        rand::random_range(1..i32::MAX),
        &rand::random::<[u8; 4]>(),
    );
    wire::ready_for_query(&mut out, TransactionStatus::Idle);
    startup.stream.write_all(&out).await?;
    startup.stream.flush().await
}

type Connection = Framed<DuplexStream, PgWireMessageServerCodec<Statement>>;

async fn converse(mut connection: Connection, access: &Access) -> Result<(), Unreadable> {
    let answers = Arc::new(Answers::new(access.clone()));
    let (mut inbox, mut held) = (Inbox::default(), Held::default());
    loop {
        let filled = tokio::select! {
            filled = inbox.fill(connection.get_mut()) => filled,
            () = access.draining() => return Ok(farewell(&mut connection).await?),
        };
        let heard = match filled {
            Ok(Some(())) => inbox.take(connection.codec_mut()),
            Ok(None) => return Ok(()),
            Err(error) => Err(error),
        };
        match heard {
            Ok(Some(Heard::Message(PgWireFrontendMessage::Terminate(_))) | None) => return Ok(()),
            Ok(Some(Heard::Message(message))) => {
                tokio::select! {
                    replied = reply(message, &mut connection, &answers, &mut held) => replied?,
                    () = access.draining() => return Ok(farewell(&mut connection).await?),
                }
            }
            Ok(Some(Heard::Malformed { tag, violation })) => {
                malformed(tag, violation, &mut connection).await?
            }
            Err(error) => return Err(give_up(error, &mut connection).await),
        }
    }
}

fn connect(stream: DuplexStream, address: SocketAddr, is_secure: bool) -> Connection {
    let mut client = DefaultClient::new(address, is_secure);
    client.set_state(PgWireConnectionState::ReadyForQuery);
    Framed::new(stream, PgWireMessageServerCodec::new(client))
}

async fn reply(
    message: PgWireFrontendMessage,
    connection: &mut Connection,
    answers: &Arc<Answers>,
    held: &mut Held,
) -> std::io::Result<()> {
    let is_extended = message.is_extended_query();
    let noted = match connection.state() {
        PgWireConnectionState::ReadyForQuery => held.follow(&message).map_err(PgWireError::from),
        _ => Ok(()),
    };
    let replied = match noted {
        Ok(()) => {
            // Startup, COPY and cancel messages never come this far.
            let nothing = || Arc::new(NoopHandler);
            let (simple, extended) = (Arc::clone(answers), Arc::clone(answers));
            process_message(
                message,
                connection,
                nothing(),
                simple,
                extended,
                nothing(),
                nothing(),
            )
            .await
        }
        Err(error) => Err(error),
    };
    match replied {
        Ok(()) => Ok(()),
        Err(PgWireError::IoError(error)) => Err(error),
        Err(error) => process_error(connection, error, is_extended).await,
    }
}

/// Tells what is wrong with a message, unless an error before it has it passed over.
async fn malformed(
    tag: u8,
    violation: Violation,
    connection: &mut Connection,
) -> std::io::Result<()> {
    if matches!(connection.state(), PgWireConnectionState::AwaitingSync) {
        return Ok(());
    }
    let error = user_error("ERROR", violation.sqlstate(), violation.to_string());
    process_error(connection, error, !matches!(tag, b'Q' | b'S')).await
}

/// Tells why nothing more is read, where there is somebody to tell.
async fn give_up(error: Unreadable, connection: &mut Connection) -> Unreadable {
    if !matches!(error, Unreadable::Io(_)) {
        let told = user_error("FATAL", "08P01", error.to_string());
        if let Err(error) = process_error(connection, told, true).await {
            return error.into();
        }
    }
    error
}

/// Says that the process ends, and closes.
async fn farewell(connection: &mut Connection) -> std::io::Result<()> {
    let gone = Failure::from(Gone);
    process_error(
        connection,
        user_error("FATAL", gone.sqlstate(), gone.to_string()),
        true,
    )
    .await
}

/// Does one command.
async fn run(command: &Command, access: &Access) -> Result<Outcome, Failure> {
    match command {
        Command::Show(what) => return show::show(what, access).await.map(shown),
        Command::Reshard(statement) => {
            let table = show::reshard::answer(statement, access).await?;
            note(statement);
            return Ok(Outcome::Rows(table, command.tag()));
        }
        Command::Reload => access
            .ask(Request::Reload)
            .await?
            .map_err(Failure::Reload)?,
        Command::Pause(database) => {
            let database = known(database.as_deref(), access)?;
            access
                .ask(|answer| Request::Pause(database, answer))
                .await?;
        }
        Command::Resume(database) => {
            let database = known(database.as_deref(), access)?;
            access
                .ask(|answer| Request::Resume(database, answer))
                .await?;
        }
        Command::Resolve { id, by_hand } => {
            let (id, by_hand) = (*id, *by_hand);
            let resolved = access
                .ask(|answer| Request::Resolve {
                    id,
                    by_hand,
                    answer,
                })
                .await??;
            tracing::info!(%id, "an administrator's RESOLVE TRANSACTION was done");
            return Ok(shown(show::transactions::resolved(&resolved)));
        }
        Command::Drain(node) => access.topology.serve(node, Service::Drained)?,
        Command::Undrain(node) => access.topology.serve(node, Service::Offered)?,
        Command::Switchover { shard, node } => {
            let (shard, node) = (shard.clone(), node.clone());
            let done = access
                .ask(|answer| Request::Switchover {
                    shard,
                    node,
                    answer,
                })
                .await??;
            return Ok(shown(show::steps::steps(&done)));
        }
        Command::Place {
            table,
            place,
            database,
        } => {
            let snapshot = access.shared.snapshot();
            let database = only_database(&snapshot, database.as_deref())?.into();
            let (table, place) = (table.clone(), place.clone());
            access
                .ask(|answer| Request::Place {
                    database,
                    table,
                    place,
                    answer,
                })
                .await?
                .map_err(Failure::Reshard)?;
        }
        Command::Shutdown => access.requests.send(Request::Shutdown).map_err(|_| Gone)?,
    }
    tracing::info!(
        command = command.tag(),
        "an administrator's command was done"
    );
    Ok(Outcome::Done(command.tag()))
}

fn shown(table: Table) -> Outcome {
    Outcome::Rows(table, "SHOW")
}

/// Logs what changes a plan.
fn note(statement: &language::Statement) {
    let (plan, command) = match statement {
        language::Statement::Plan { name, .. } => (name, "PLAN".to_owned()),
        language::Statement::Command { name, command } => (name, format!("{command:?}")),
        language::Statement::Show(_)
        | language::Statement::Status(_)
        | language::Statement::Events(_) => return,
    };
    tracing::info!(plan, command, "an administrator's RESHARD was taken");
}

/// The database, if there is one of this name.
/// The database, which may be left unsaid when there is only one.
fn only_database<'a>(
    snapshot: &'a Snapshot,
    database: Option<&'a str>,
) -> Result<&'a str, Failure> {
    match (database, &snapshot.config.databases[..]) {
        (Some(name), _) if !snapshot.catalogs.contains_key(name) => {
            Err(Failure::UnknownDatabase(name.to_owned()))
        }
        (Some(name), _) => Ok(name),
        (None, [only]) => Ok(&only.name),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|database| &*database.name).collect();
            Err(Failure::WhichDatabase(names.join(", ")))
        }
    }
}

fn known(database: Option<&str>, access: &Access) -> Result<Option<Box<str>>, Failure> {
    match database {
        Some(name) if !access.shared.snapshot().catalogs.contains_key(name) => {
            Err(Failure::UnknownDatabase(name.to_owned()))
        }
        name => Ok(name.map(Box::from)),
    }
}

impl Command {
    fn tag(&self) -> &'static str {
        match self {
            Command::Show(_) => "SHOW",
            Command::Reload => "RELOAD",
            Command::Pause(_) => "PAUSE",
            Command::Resume(_) => "RESUME",
            Command::Resolve { .. } => "RESOLVE",
            Command::Drain(_) => "DRAIN",
            Command::Undrain(_) => "UNDRAIN",
            Command::Switchover { .. } => "SWITCHOVER",
            Command::Reshard(_) => "RESHARD",
            Command::Place { .. } => "ALTER TABLE",
            Command::Shutdown => "SHUTDOWN",
        }
    }
}

impl Failure {
    fn sqlstate(&self) -> &'static str {
        match self {
            Failure::Syntax(_) | Failure::SeveralInOne => "42601",
            Failure::UnknownDatabase(_) | Failure::WhichDatabase(_) => "3D000",
            Failure::Reload(_) => "F0000",
            Failure::Gone(_) => "57P01",
            Failure::Parameters | Failure::ResultFormats { .. } => "08P01",
            Failure::TooManyHeld(_) => "53400",
            Failure::Reshard(refused) => refused.sqlstate,
            Failure::OtherAnswer => "XX000",
            Failure::NotResolved(NotResolved::Unheard(_)) => "42704",
            Failure::NotResolved(_) | Failure::NotDrained(DrainError::IsPrimary { .. }) => "55000",
            Failure::NotSwitched(NotSwitched::Refused(
                Refusal::NoShard(_) | Refusal::NoNode { .. },
            )) => "42704",
            Failure::NotSwitched(NotSwitched::Refused(Refusal::Rights { .. })) => "42501",
            Failure::NotSwitched(_) => "55000",
            Failure::NotDrained(DrainError::NotAnAddress(_)) => "22023",
            Failure::NotDrained(DrainError::Unknown(_) | DrainError::Several { .. }) => "42704",
        }
    }

    /// Every mistake of a configuration, a line each.
    fn detail(&self) -> Option<String> {
        match self {
            Failure::Reload(problems) => Some(
                problems
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
            Failure::NotSwitched(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Failure::Syntax(error) => Some(error.hint()),
            Failure::Reshard(refused) => refused.hint.clone(),
            Failure::NotResolved(NotResolved::Unheard(_)) => {
                Some("SHOW TRANSACTIONS lists them.".to_owned())
            }
            Failure::NotResolved(_) => Some(
                "RESOLVE TRANSACTION without COMMIT or ROLLBACK does what is right.".to_owned(),
            ),
            Failure::UnknownDatabase(_) => Some("SHOW DATABASES lists them.".to_owned()),
            Failure::NotDrained(DrainError::IsPrimary { .. }) => Some(
                "Make another node the primary first: SWITCHOVER, or a promotion by whoever manages the servers."
                    .to_owned(),
            ),
            Failure::NotDrained(DrainError::Several { .. }) => Some(
                "Take it out of one shard in the configuration, and RELOAD.".to_owned(),
            ),
            Failure::NotDrained(_) => Some("SHOW NODES lists them.".to_owned()),
            Failure::NotSwitched(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

impl From<Failure> for PgWireError {
    fn from(failure: Failure) -> PgWireError {
        let mut info = error_info("ERROR", failure.sqlstate(), failure.to_string());
        info.detail = failure.detail();
        info.hint = failure.hint();
        if let Failure::Syntax(error) = &failure {
            info.position = error.position().map(|place| place.to_string());
        }
        PgWireError::UserError(Box::new(info))
    }
}

fn user_error(severity: &str, sqlstate: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(error_info(severity, sqlstate, message)))
}

fn error_info(severity: &str, sqlstate: &str, message: String) -> ErrorInfo {
    let mut info = ErrorInfo::new(severity.to_owned(), sqlstate.to_owned(), message);
    info.severity_nonlocalized = Some(severity.to_owned());
    info
}

/// What a client gets for one plan, as names of columns with their texts: for tests of those who read it back.
#[cfg(test)]
pub(crate) fn reshard_rows(
    status: &crate::resharding::report::PlanStatus,
) -> Vec<Vec<(&'static str, Option<String>)>> {
    use crate::resharding::report::Answer;
    use table::Cell;
    let answer = Answer::Status(vec![status.clone()]);
    let statement = language::Statement::Status(Some(status.plan.to_string()));
    let table = show::reshard::table(&statement, answer).expect("it is the answer to that");
    let shown = |cell: &Cell| match cell {
        Cell::Null => None,
        Cell::Text(text) => Some(text.clone()),
        Cell::Whole(number) => Some(number.to_string()),
        Cell::Truth(truth) => Some(truth.to_string()),
    };
    let names = || table.columns.iter().map(|column| column.name);
    let rows = table.rows.iter();
    rows.map(|row| names().zip(row.iter().map(shown)).collect())
        .collect()
}
