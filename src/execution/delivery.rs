//! Rows of one connection's COPY to several others', by their keys.
//!
//! What waits between the connections is bounded: the source is not read while a target is behind.

use std::cell::RefCell;
use std::task::{Context, Poll};

use super::branch::{Branch, Failure, broken, pass_on, poll_client};
use super::client::Client;
use super::copy::{Locate, Splitter};

/// Bytes for a target above which the source is not read.
const HIGH_WATER: usize = 256 * 1024;

/// What a target gets in one message, bytes, about.
const CHUNK: usize = 32 * 1024;

/// Moves rows until the source has sent all of its. The source has been asked to copy out, the targets have asked for data. Stops at the first
/// error; what is owed then is up to the caller. Afterwards every target has been sent its rows, and waits for the end of the data.
pub async fn deliver(
    client: &mut Client,
    source: &mut Branch<'_>,
    targets: &mut [Branch<'_>],
    scratch: &RefCell<Box<[u8]>>,
    splitter: &mut Splitter,
    locate: &Locate<'_>,
) -> Result<(), Failure> {
    std::future::poll_fn(|cx| {
        if let Err(error) = poll_client(cx, client, scratch) {
            return Poll::Ready(Err(Failure::Client(error)));
        }
        poll_deliver(cx, client, source, targets, scratch, splitter, locate)
    })
    .await
}

fn poll_deliver(
    cx: &mut Context<'_>,
    client: &mut Client,
    source: &mut Branch<'_>,
    targets: &mut [Branch<'_>],
    scratch: &RefCell<Box<[u8]>>,
    splitter: &mut Splitter,
    locate: &Locate<'_>,
) -> Poll<Result<(), Failure>> {
    loop {
        hear_targets(cx, client, targets, scratch)?;
        if targets
            .iter()
            .any(|target| target.server.backlog() >= HIGH_WATER)
        {
            return Poll::Pending;
        }
        if source.is_done() {
            splitter.finish(locate)?;
            send(splitter, targets, 1);
            return Poll::Ready(Ok(()));
        }
        let heard = match source.poll_message(cx, scratch) {
            Poll::Ready(Ok(heard)) => heard,
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(broken(targets.len(), source, error)));
            }
            Poll::Pending => {
                send(splitter, targets, 1);
                // What was just given to them must leave.
                hear_targets(cx, client, targets, scratch)?;
                return Poll::Pending;
            }
        };
        let body = source.body(&heard);
        match heard.tag {
            b'd' => splitter.feed(body, locate)?,
            b'E' => {
                let error = body.to_vec();
                return Poll::Ready(Err(Failure::Server {
                    branch: targets.len(),
                    error,
                }));
            }
            b'N' | b'A' => pass_on(heard.tag, body, &mut client.outbox),
            _ => {}
        }
        send(splitter, targets, CHUNK);
    }
}

/// A target speaks before the end of its data only to complain.
fn hear_targets(
    cx: &mut Context<'_>,
    client: &mut Client,
    targets: &mut [Branch<'_>],
    scratch: &RefCell<Box<[u8]>>,
) -> Result<(), Failure> {
    for (number, target) in targets.iter_mut().enumerate() {
        while let Poll::Ready(said) = target.poll_message(cx, scratch) {
            let heard = said.map_err(|error| broken(number, target, error))?;
            let body = target.body(&heard);
            match heard.tag {
                b'E' => {
                    let error = body.to_vec();
                    return Err(Failure::Server {
                        branch: number,
                        error,
                    });
                }
                b'N' | b'A' => pass_on(heard.tag, body, &mut client.outbox),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Puts on its way what is at least so long.
fn send(splitter: &mut Splitter, targets: &mut [Branch<'_>], least: usize) {
    for (target, output) in targets.iter_mut().zip(&mut splitter.outputs) {
        if output.len() >= least {
            pass_on(b'd', output, target.server.outbox());
            output.clear();
        }
    }
}
