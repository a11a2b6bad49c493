//! A bb8 pool that says at once why a connection cannot be opened: bb8 itself keeps silent until its time is over.

use std::sync::Arc;
use std::time::Duration;

use bb8::{ErrorSink, ManageConnection, Pool, PooledConnection, QueueStrategy, RunError};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::connect::NodeError;

/// Connections to one database of one node.
pub(super) struct Connections<M: ManageConnection<Error = NodeError>> {
    pool: Pool<M>,
    failure: LastFailure,
    /// What is told when nothing comes.
    patience: Duration,
}

impl<M: ManageConnection<Error = NodeError>> Connections<M>
where
    M::Connection: AsRef<Client>,
{
    /// Opens nothing yet. Needs the control plane's runtime, on which the pool's own tasks run. Nobody waits for longer than `longest`.
    pub fn new(dialer: M, most: u32, patience: Duration, longest: Duration) -> Self {
        let failure = LastFailure(watch::Sender::new(None));
        let pool = Pool::builder()
            .max_size(most)
            .queue_strategy(QueueStrategy::Lifo)
            .connection_timeout(longest)
            // The next request is the next attempt, and whether a connection lives is seen without asking over it.
            .retry_connection(false)
            .test_on_check_out(false)
            .error_sink(Box::new(failure.clone()))
            .build_unchecked(dialer);
        Connections {
            pool,
            failure,
            patience,
        }
    }

    /// A connection, or the reason why there is none.
    pub async fn get(&self) -> Result<PooledConnection<'static, M>, Arc<NodeError>> {
        let mut failures = self.failure.0.subscribe();
        loop {
            let got = tokio::select! {
                biased;
                got = self.pool.get_owned() => got,
                Ok(()) = failures.changed() => match failures.borrow_and_update().clone() {
                    Some(error) => return Err(error),
                    None => continue,
                },
            };
            match got {
                // It goes back to the pool, which sees that it is broken and forgets it.
                Ok(link) if (*link).as_ref().is_closed() => {}
                Ok(link) => {
                    self.failure.0.send_replace(None);
                    return Ok(link);
                }
                Err(RunError::TimedOut) => return Err(Arc::new(NodeError::Slow(self.patience))),
                Err(RunError::User(error)) => return Err(Arc::new(error)),
            }
        }
    }
}

/// Attempts are made on the pool's own tasks, so nobody else hears of their failures.
#[derive(Clone, Debug)]
struct LastFailure(watch::Sender<Option<Arc<NodeError>>>);

impl ErrorSink<NodeError> for LastFailure {
    fn sink(&self, error: NodeError) {
        self.0.send_replace(Some(Arc::new(error)));
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<NodeError>> {
        Box::new(self.clone())
    }
}
