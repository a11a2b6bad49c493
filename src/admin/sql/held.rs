//! How much a connection may leave here: pgwire keeps prepared statements and portals without a limit of its own.

use std::collections::HashSet;

use pgwire::messages::PgWireFrontendMessage;

use super::Failure;

/// Prepared statements and portals with names, together.
const MOST_HELD: usize = 256;

const STATEMENT: u8 = b'S';
const PORTAL: u8 = b'P';

/// The names in use, with what they name.
#[derive(Default)]
pub struct Held(HashSet<(u8, String)>);

impl Held {
    /// Notes what a message is about to make or to close.
    pub fn follow(&mut self, message: &PgWireFrontendMessage) -> Result<(), Failure> {
        match message {
            PgWireFrontendMessage::Parse(parse) => self.take(STATEMENT, parse.name.as_deref()),
            PgWireFrontendMessage::Bind(bind) => self.take(PORTAL, bind.portal_name.as_deref()),
            PgWireFrontendMessage::Close(close) => {
                self.0
                    .remove(&(close.target_type, close.name.clone().unwrap_or_default()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, kind: u8, name: Option<&str>) -> Result<(), Failure> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        let key = (kind, name.to_owned());
        if self.0.len() >= MOST_HELD && !self.0.contains(&key) {
            return Err(Failure::TooManyHeld(MOST_HELD));
        }
        self.0.insert(key);
        Ok(())
    }
}
