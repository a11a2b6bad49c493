//! What can end the demo early.

use std::path::PathBuf;

use crate::cli::local::LocalError;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Local(#[from] LocalError),

    #[error("the proxy did not start: {0}")]
    Proxy(#[from] crate::server::StartError),

    #[error("{statement}\n  {message}")]
    Statement { statement: String, message: String },

    #[error("connecting to the proxy: {0}")]
    Connect(String),

    #[error("the sample data is not as it was sent: {0}")]
    Data(String),

    #[error("{wrong} of the tour's statements did not go where they should")]
    Tour { wrong: usize },

    #[error("there is no HOME to keep data in\nname a folder with --data")]
    NoHome,

    #[error("{path}: {source}", path = .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },

    #[error("starting: {0}")]
    Runtime(std::io::Error),

    #[error("a task of the demo broke: {0}")]
    Broken(String),

    /// The user asked for the end.
    #[error("interrupted")]
    Interrupted,
}

impl DemoError {
    pub(super) fn panicked(error: tokio::task::JoinError) -> Self {
        Self::Broken(error.to_string())
    }

    /// A statement that failed, in the server's words where there are any.
    pub(super) fn statement(sql: &str, error: &tokio_postgres::Error) -> Self {
        let message = match error.as_db_error() {
            Some(e) => format!("{}: {}", e.code().code(), e.message()),
            None => error.to_string(),
        };
        Self::Statement {
            statement: sql.to_owned(),
            message,
        }
    }
}
