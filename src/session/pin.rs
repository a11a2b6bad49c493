//! Why a session keeps a server connection between transactions, and how the end of the reason is seen.

use std::rc::Rc;
use std::time::Instant;

use super::Session;
use super::link::Link;
use super::respond::Fault;
use crate::config::PoolMode;
use crate::plan::refusal::{Reason, Refusal};

/// State of the session that only its server connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    TemporaryTable,
    AdvisoryLock,
    HeldCursor,
    Listen,
    /// A library stays loaded.
    Load,
    /// A setting whose name or value is not known.
    SetConfig,
}

/// One row: temporary tables, types and functions, advisory locks, cursors WITH HOLD, channels; as `t` and `f`.
const LOOK: &str = "SELECT pg_catalog.concat( \
    EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
        AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
    EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text \
        AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
    EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
    EXISTS (SELECT FROM pg_catalog.pg_listening_channels()))";

impl Pin {
    /// As SHOW CLIENTS has it.
    pub fn name(self) -> &'static str {
        match self {
            Pin::TemporaryTable => "temporary table",
            Pin::AdvisoryLock => "advisory lock",
            Pin::HeldCursor => "WITH HOLD cursor",
            Pin::Listen => "LISTEN",
            Pin::Load => "LOAD",
            Pin::SetConfig => "set_config",
        }
    }

    /// Its place in the answer to [`LOOK`]; `None`: it lasts until DISCARD ALL.
    fn place(self) -> Option<usize> {
        match self {
            Pin::TemporaryTable => Some(0),
            Pin::AdvisoryLock => Some(1),
            Pin::HeldCursor => Some(2),
            Pin::Listen => Some(3),
            Pin::Load | Pin::SetConfig => None,
        }
    }

    /// What the answer to [`LOOK`] says of it.
    fn is_over(self, answer: &str) -> bool {
        self.place()
            .is_some_and(|place| answer.as_bytes().get(place) == Some(&b'f'))
    }
}

impl Session {
    /// A pool may be configured to keep no connection for anybody.
    pub(super) fn check_pin(&self, pin: Option<Pin>) -> Result<(), Fault> {
        match pin {
            Some(pin) if self.mode == PoolMode::Strict => {
                let message = format!(
                    "the statement would keep a server connection: {}",
                    pin.name()
                );
                Err(Fault::Refused(Refusal::new(Reason::Pinned, message)))
            }
            _ => Ok(()),
        }
    }

    /// A kept connection may no longer be needed.
    pub(super) fn doubts_pins(&self) -> bool {
        self.kept.iter().any(Link::doubts_pins)
    }

    /// Asks the connections whether what they are kept for is still there; gives back those that hold nothing.
    pub(super) async fn look_at_pins(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        let worker = Rc::clone(&self.worker);
        for mut link in kept {
            if !link.doubts_pins() {
                self.kept.push(link);
                continue;
            }
            match link.ask(LOOK, &worker).await {
                Some(answer) => {
                    if link.forget_pins(|pin| pin.is_over(&answer), self.mode) {
                        self.kept.push(link);
                    } else {
                        link.give_back(&worker, Instant::now());
                    }
                }
                // It is broken: the next statement that needs it says so.
                None => self.kept.push(link),
            }
        }
        self.show_pins();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_is_over() {
        assert!(Pin::TemporaryTable.is_over("ftff") && !Pin::AdvisoryLock.is_over("ftff"));
        assert!(!Pin::Load.is_over("ffff") && !Pin::Listen.is_over(""));
    }
}
