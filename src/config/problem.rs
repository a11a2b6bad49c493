//! One mistake in a configuration file, said so that it can be put right without the manual.

use std::fmt;

use super::Line;

/// A mistake: where it is, which key, and what is allowed instead.
///
/// Shown as `trunkline.toml:12: pool.size: "many" is not a number; give a whole number from 1 to 10000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub line: Line,
    /// The path of the key, like `pool.size` or `users.alice.password`; empty when the mistake is not about one key.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file)?;
        // Line 0: the file as a whole (it cannot be read, say).
        if self.line.0 > 0 {
            write!(f, "{}:", self.line.0)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for Problem {}
