//! Every way a statement or a connection can fail, and what the client is told: severity, SQLSTATE, message, hint.

use super::card::Overstay;
use crate::backend::connect::ConnectError;
use crate::backend::pool::CheckoutError;
use crate::backend::server::ServerError;
use crate::plan::bind::KEY_MOVING;
use crate::plan::cache::Unplannable;
use crate::plan::parameters::MalformedBind;
use crate::plan::refusal::Reason;
use crate::plan::{Placed, Refusal};
use crate::wire::answer::{self, ErrorFields, Report, Severity};
use crate::wire::frame::FrameError;
use crate::wire::message::ProtocolViolation;

/// A statement failed before, or instead of, running on a server. The connection goes on.
#[derive(Debug)]
pub enum Fault {
    Refused(Refusal),
    /// It concerns keys that are moving to another shard, and has not been let through (`gate.rs`). Nothing has been done.
    Held,
    /// It creates a table whose place is to be recorded first (`placing.rs`). Nothing has been done.
    Unplaced(Box<Placed>),
    /// Its text cannot be read.
    Unplannable(Unplannable),
    Checkout(CheckoutError),
    Violation(ProtocolViolation),
    MalformedBind(MalformedBind),
    /// The body of a server's ErrorResponse to something that Trunkline sent on the client's behalf.
    Server(Vec<u8>),
    /// The server connection broke.
    Broken(Loss),
    /// The client has been told already.
    Told,
    /// A limit of ours has been reached while a statement ran.
    Limit {
        sqlstate: &'static str,
        message: String,
        hint: Option<&'static str>,
    },
    /// A prepared statement's result is not what the client was told.
    StalePlan,
    /// What Postgres itself would say, in Postgres's words.
    Postgres {
        sqlstate: &'static str,
        message: String,
    },
}

/// A server connection that broke.
#[derive(Debug)]
pub struct Loss {
    pub error: ServerError,
    /// The server's last words: the body of its ErrorResponse.
    pub words: Option<Vec<u8>>,
    pub left: Left,
}

/// What is left of the work that was under way on a connection that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The client's statement was not sent.
    NotSent,
    /// It changes nothing.
    Nothing,
    /// It is part of a transaction that was not told to commit.
    RolledBack,
    /// A statement by itself: it is done, or it is not.
    StatementInDoubt,
    /// The server was told to commit.
    CommitInDoubt,
}

impl Left {
    fn told(self) -> &'static str {
        match self {
            Left::NotSent => "The statement was not executed.",
            Left::Nothing => "Nothing was changed.",
            Left::RolledBack => "The transaction is rolled back.",
            Left::StatementInDoubt => "Whether it took effect is not known.",
            Left::CommitInDoubt => "Whether it is committed is not known.",
        }
    }
}

/// The end of a session.
#[derive(Debug)]
pub enum End {
    /// The client said goodbye, or went away.
    Client,
    /// The process ends, and the client was idle.
    Shutdown,
    Overstayed(Overstay),
    /// The client broke the protocol.
    Frame(FrameError),
    /// The server connection broke, and with it a transaction, or state that the session had there.
    ServerLost(Loss),
    /// Another message than COPY data came in the middle of a COPY.
    CopyInterrupted(u8),
    /// The client does not take the notifications that it listens to.
    Deaf,
    /// The session cannot begin.
    Login(Fault),
}

impl Fault {
    /// Of what the planner says of a statement with its values.
    pub fn of(refusal: Refusal) -> Fault {
        match refusal.id == Reason::KeyMoving.kind().id {
            true => Fault::Held,
            false => Fault::Refused(refusal),
        }
    }

    /// Appends the ErrorResponse.
    pub fn write(&self, severity: Severity, out: &mut Vec<u8>) {
        match self {
            Fault::Held => {
                Fault::Refused(Refusal::new(Reason::KeyMoving, KEY_MOVING)).write(severity, out)
            }
            Fault::Unplaced(_) => {
                let refusal = Refusal::new(Reason::TablePlace, "the table has no place yet");
                Fault::Refused(refusal).write(severity, out);
            }
            Fault::Refused(refusal) => {
                let detail = format!("Refused by Trunkline: {}.", refusal.id);
                let mut report = Report::new(severity, refusal.sqlstate, &refusal.message)
                    .detail(&detail)
                    .hint(refusal.hint);
                if let Some(position) = refusal.position {
                    report = report.position(position + 1);
                }
                answer::error_response(out, &report);
            }
            Fault::Unplannable(error) => {
                answer::error_response(
                    out,
                    &Report::new(severity, error.sqlstate(), &error.to_string()),
                );
            }
            Fault::Checkout(failed @ CheckoutError::Connect(_, error)) => {
                connect_error(failed, error, severity, out)
            }
            Fault::Checkout(error @ CheckoutError::Timeout(_)) => {
                let message = error.to_string();
                let report = Report::new(severity, "53300", &message);
                answer::error_response(
                    out,
                    &report
                        .hint("Raise pool.size or pool.checkout_timeout, or shorten transactions."),
                );
            }
            Fault::Checkout(error @ CheckoutError::QueueFull { .. }) => {
                let message = error.to_string();
                answer::error_response(
                    out,
                    &Report::new(severity, "53300", &message)
                        .hint("Raise pool.size or pool.max_waiting."),
                );
            }
            Fault::Checkout(error @ CheckoutError::QueueHeavy { .. }) => {
                let message = error.to_string();
                answer::error_response(
                    out,
                    &Report::new(severity, "53300", &message)
                        .hint("Raise pool.size or pool.max_waiting_size."),
                );
            }
            Fault::Checkout(error @ CheckoutError::NoPrimary(..)) => {
                let message = error.to_string();
                let report = Report::new(severity, "57P03", &message);
                answer::error_response(
                    out,
                    &report.hint("The statement was not sent. SHOW NODES in the admin database tells how the nodes are."),
                );
            }
            Fault::Checkout(error @ CheckoutError::Closed) => {
                answer::error_response(out, &Report::new(severity, "57P01", &error.to_string()));
            }
            Fault::Violation(violation) => {
                answer::error_response(
                    out,
                    &Report::new(severity, violation.sqlstate(), &violation.to_string()),
                );
            }
            Fault::MalformedBind(malformed) => {
                answer::error_response(
                    out,
                    &Report::new(severity, "08P01", &malformed.to_string()),
                );
            }
            Fault::Server(body) if severity == Severity::Fatal => server_error(body, severity, out),
            Fault::Server(body) => answer::error_response_raw(out, body),
            Fault::Broken(loss) => loss.write(severity, out),
            Fault::Told => {}
            Fault::Limit {
                sqlstate,
                message,
                hint,
            } => {
                let mut report = Report::new(severity, sqlstate, message);
                report.hint = *hint;
                answer::error_response(out, &report);
            }
            Fault::StalePlan => {
                let message = "cached plan must not change result type";
                let report = Report::new(severity, "0A000", message);
                // Drivers know by the function that reports it that they may prepare the statement anew.
                answer::error_response(out, &report.routine("RevalidateCachedQuery"));
            }
            Fault::Postgres { sqlstate, message } => {
                answer::error_response(out, &Report::new(severity, sqlstate, message))
            }
        }
    }
}

/// The server's own words where it spoke, else why it could not be reached.
fn connect_error(
    failed: &CheckoutError,
    error: &ConnectError,
    severity: Severity,
    out: &mut Vec<u8>,
) {
    if let ConnectError::Server { raw, .. } = error {
        return server_error(raw, severity, out);
    }
    answer::error_response(out, &Report::new(severity, "08001", &failed.to_string()));
}

/// What a server said, with the severity that it has for this client.
fn server_error(body: &[u8], severity: Severity, out: &mut Vec<u8>) {
    let Some(fields) = ErrorFields::parse(body) else {
        return answer::error_response_raw(out, body);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (message, detail, hint) = (
        text(fields.message),
        fields.detail.map(text),
        fields.hint.map(text),
    );
    let mut report = Report::new(severity, fields.sqlstate, &message);
    report.detail = detail.as_deref();
    report.hint = hint.as_deref();
    answer::error_response(out, &report);
}

impl Loss {
    /// Of a connection on which nothing of the client's was under way.
    pub fn before(error: ServerError) -> Loss {
        Loss {
            error,
            words: None,
            left: Left::NotSent,
        }
    }

    /// What happened, and whether the client's work may have been done.
    fn write(&self, severity: Severity, out: &mut Vec<u8>) {
        let error = &self.error;
        let said = self.words.as_deref().and_then(ErrorFields::parse);
        let said = said.map(|fields| {
            let message = String::from_utf8_lossy(fields.message).into_owned();
            (fields.sqlstate.to_owned(), message)
        });
        let told = match &said {
            Some((sqlstate, said)) => {
                Some(format!("The server said: {said} (SQLSTATE {sqlstate})"))
            }
            None if self.left == Left::CommitInDoubt => Some(format!("What happened: {error}.")),
            None => None,
        };
        let (sqlstate, message) = match (self.left, severity, said) {
            (Left::CommitInDoubt, ..) => (
                Box::from("40003"),
                "the connection broke while the transaction was being committed: whether it is committed is not known".to_owned(),
            ),
            // The client's connection ends as its server connection does, in the server's own words.
            (_, Severity::Fatal, Some((sqlstate, said))) => (sqlstate.into_boxed_str(), said),
            (left, severity, _) => {
                let what = match (left, severity) {
                    (Left::NotSent, _) => "the server connection was lost before the statement was sent",
                    (Left::RolledBack, _) => "the server connection was lost, and the transaction is rolled back",
                    (Left::StatementInDoubt, _) => {
                        "the server connection was lost while the statement ran, and whether it took effect is not known"
                    }
                    (_, Severity::Fatal) => "the server connection with this session's state was lost",
                    _ => "the server connection was lost while the statement ran",
                };
                (Box::from("08006"), format!("{what}: {error}"))
            }
        };
        let mut report = Report::new(severity, &sqlstate, &message).hint(self.left.told());
        report.detail = told.as_deref();
        answer::error_response(out, &report);
    }
}

impl End {
    /// Appends what the client is told at the end, if anything.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            End::Client => {}
            End::Shutdown => {
                let message = "terminating connection due to administrator command";
                answer::error_response(out, &Report::new(Severity::Fatal, "57P01", message));
            }
            End::Overstayed(overstay) => {
                let (sqlstate, message) = match overstay {
                    Overstay::Idle => (
                        "57P05",
                        "terminating connection due to idle-session timeout",
                    ),
                    Overstay::IdleInTransaction => (
                        "25P03",
                        "terminating connection due to idle-in-transaction timeout",
                    ),
                    Overstay::Query => (
                        "57014",
                        "terminating connection: the statement ran into query_timeout and its server did not cancel it",
                    ),
                };
                answer::error_response(out, &Report::new(Severity::Fatal, sqlstate, message));
            }
            End::Frame(error) => answer::error_response(
                out,
                &Report::new(Severity::Fatal, "08P01", &error.to_string()),
            ),
            End::CopyInterrupted(tag) => {
                let message = format!(
                    "unexpected message type {:?} during COPY from stdin",
                    char::from(*tag)
                );
                answer::error_response(out, &Report::new(Severity::Fatal, "08P01", &message));
            }
            End::ServerLost(loss) => loss.write(Severity::Fatal, out),
            End::Deaf => {
                let message = "terminating connection because too many notifications wait for it";
                let report = Report::new(Severity::Fatal, "53400", message);
                answer::error_response(out, &report.hint("Read what LISTEN asked for."));
            }
            End::Login(fault) => fault.write(Severity::Fatal, out),
        }
    }
}
