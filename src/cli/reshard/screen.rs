//! Lines that stay, and below them a page that is drawn anew.

use std::io::{self, IsTerminal, Write};

/// A terminal, or a file or pipe, where nothing can be drawn twice.
pub enum Screen {
    Terminal {
        /// Lines of the page that stands there.
        drawn: usize,
    },
    Plain {
        /// What was said last.
        said: String,
    },
}

impl Screen {
    pub fn new() -> Screen {
        match io::stdout().is_terminal() {
            true => Screen::Terminal { drawn: 0 },
            false => Screen::Plain {
                said: String::new(),
            },
        }
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Screen::Terminal { .. })
    }

    /// A line that stays.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if let Screen::Terminal { drawn } = self {
            write!(out, "{}", over(*drawn))?;
            *drawn = 0;
        }
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// The page in place of the one before; where that cannot be, a line when it says something new.
    pub fn draw(&mut self, page: &str, line: impl FnOnce() -> String) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Screen::Terminal { drawn } => {
                // Lines are cut at the right side, because one that is broken would be two.
                writeln!(out, "{}\x1b[?7l{page}\x1b[?7h", over(*drawn))?;
                *drawn = page.lines().count();
            }
            Screen::Plain { said } => {
                let line = line();
                if line != *said {
                    writeln!(out, "{line}")?;
                    *said = line;
                }
            }
        }
        out.flush()
    }
}

/// To the beginning of a page of so many lines, with nothing behind it.
fn over(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\x1b[J"),
    }
}
