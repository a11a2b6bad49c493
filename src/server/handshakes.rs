//! The thread that computes clients' TLS handshakes.

use tokio::sync::oneshot;

use super::StartError;
use crate::wire::handshakes::Handshakes;

/// The thread ends when this is dropped.
pub struct Thread {
    _end: oneshot::Sender<()>,
}

/// Starts the thread.
pub fn start() -> Result<(Handshakes, Thread), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(StartError::Thread)?;
    let handshakes = Handshakes::on(runtime.handle().clone());
    let (end, ended) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("handshakes".to_owned())
        .spawn(move || {
            // Nothing is sent: it ends when the sender is gone.
            let _ = runtime.block_on(ended);
        })
        .map_err(StartError::Thread)?;
    Ok((handshakes, Thread { _end: end }))
}
