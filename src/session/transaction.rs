//! The client's transaction as the session keeps it: BEGIN reaches no server before a statement needs one.

use crate::backend::settings::Settings;
use crate::sql::modes::{Access, Clarity, Deferral, Isolation, Modes};

/// Where the client stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Transaction {
    /// Outside a transaction block. => Begun
    #[default]
    Idle,
    /// BEGIN was answered, no server knows of it yet. => (Idle or Failed or Open)
    Begun(Prologue),
    /// An error before any server knew of the transaction. => (Idle or Begun)
    Failed(Prologue),
    /// A server has it; the server's status counts. => Idle
    Open,
}

/// Whose the transaction block on servers is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opener {
    /// The client's BEGIN.
    #[default]
    Client,
    /// A unit of work of the extended protocol that came to need several shards: its Sync ends the block.
    Unit,
}

/// What a server must be told before the first statement of a transaction that was begun without it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prologue {
    /// Statements, each with its `;`.
    text: String,
    /// Length of the first, which is BEGIN.
    begin: usize,
    /// Whether a server may have something against it.
    judgement: Judgement,
    /// The savepoints in it, with the length of `text` after each.
    savepoints: Vec<Savepoint>,
    modes: Modes,
    snapshots: Snapshots,
}

#[derive(Clone, Debug, PartialEq)]
struct Savepoint {
    name: Box<str>,
    /// Length of the text with it.
    end: usize,
    modes: Modes,
}

impl Transaction {
    /// Whether what comes next may run on a streaming replica, as far as the transaction goes: there is none, or one that only reads and that no
    /// server knows of. A replica knows no SERIALIZABLE. `defaults` are those of the session, see [`default_modes`].
    pub fn suits_replica(&self, defaults: Modes) -> bool {
        match self {
            Transaction::Idle => runs_on_replica(defaults),
            Transaction::Begun(prologue) => {
                let modes = defaults.then(prologue.modes);
                modes.access == Some(Access::ReadOnly) && runs_on_replica(modes)
            }
            Transaction::Failed(_) | Transaction::Open => false,
        }
    }
}

impl Prologue {
    /// Whether the client itself has said that the transaction writes nothing.
    pub fn is_read_only(&self, defaults: Modes) -> bool {
        defaults.then(self.modes).is_read_only()
    }
}

fn runs_on_replica(modes: Modes) -> bool {
    modes.isolation != Some(Isolation::Serializable)
        && modes.deferral != Some(Deferral::Deferrable)
        && modes.clarity == Clarity::Clear
}

/// What a session's settings say of its transactions. Those that a server has for the role or the database are not known here.
pub fn default_modes(settings: &Settings) -> Modes {
    let mut modes = Modes::default();
    if settings.is_default() {
        return modes;
    }
    let value = |name| settings.get(name).map(plain);
    if let Some(isolation) = value("default_transaction_isolation") {
        match &*isolation {
            "read uncommitted" => modes.isolation = Some(Isolation::ReadUncommitted),
            "read committed" => modes.isolation = Some(Isolation::ReadCommitted),
            "repeatable read" => modes.isolation = Some(Isolation::RepeatableRead),
            "serializable" => modes.isolation = Some(Isolation::Serializable),
            _ => modes.clarity = Clarity::Unclear,
        }
    }
    if let Some(read_only) = value("default_transaction_read_only") {
        match switch(&read_only) {
            Some(Switch::On) => modes.access = Some(Access::ReadOnly),
            Some(Switch::Off) => modes.access = Some(Access::ReadWrite),
            None => modes.clarity = Clarity::Unclear,
        }
    }
    if let Some(deferrable) = value("default_transaction_deferrable") {
        match switch(&deferrable) {
            Some(Switch::On) => modes.deferral = Some(Deferral::Deferrable),
            Some(Switch::Off) => modes.deferral = Some(Deferral::NotDeferrable),
            None => modes.clarity = Clarity::Unclear,
        }
    }
    modes
}

/// Whether all statements of a transaction of these modes see one snapshot.
pub fn keeps_snapshot(modes: Modes) -> bool {
    matches!(
        modes.isolation,
        Some(Isolation::RepeatableRead | Isolation::Serializable)
    )
}

/// Whether a text has the words for it, wherever they stand.
pub fn says_so(text: &str) -> bool {
    let words = text.to_ascii_lowercase();
    words.contains("repeatable") || words.contains("serializable")
}

/// A setting's value without its quotes.
fn plain(source: &str) -> String {
    source.trim().trim_matches(['\'', '"']).to_ascii_lowercase()
}

enum Switch {
    On,
    Off,
}

/// The spellings in full; a server takes their beginnings, too.
fn switch(word: &str) -> Option<Switch> {
    match word {
        "on" | "true" | "yes" | "1" => Some(Switch::On),
        "off" | "false" | "no" | "0" => Some(Switch::Off),
        _ => None,
    }
}

/// How the shards' snapshots of a transaction were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshots {
    /// Each when its shard was first asked.
    #[default]
    Apart,
    /// All before the first statement, so that they go together.
    Together,
}

/// Whether a server may refuse a prologue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    CannotFail,
    MayFail,
}

impl Prologue {
    /// From BEGIN as the client wrote it.
    pub fn new(begin: &str) -> Prologue {
        let words: Vec<String> = begin
            .split_ascii_whitespace()
            .map(str::to_ascii_lowercase)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let plain = matches!(
            words[..],
            ["begin"] | ["begin", "work" | "transaction"] | ["start", "transaction"]
        );
        let judgement = if plain {
            Judgement::CannotFail
        } else {
            Judgement::MayFail
        };
        let mut prologue = Prologue {
            text: String::new(),
            begin: begin.len(),
            judgement,
            savepoints: Vec::new(),
            modes: Modes::default(),
            snapshots: Snapshots::Apart,
        };
        prologue.push(begin);
        if !plain {
            prologue.modes = Modes::of(begin);
        }
        prologue
    }

    /// BEGIN as the client wrote it.
    pub fn begin(&self) -> &str {
        &self.text[..self.begin]
    }

    /// No server can refuse it, so that what follows may be sent without waiting for its answer.
    pub fn cannot_fail(&self) -> bool {
        self.judgement == Judgement::CannotFail
    }

    /// Whether all statements of the transaction see one snapshot, as far as its words and the session's settings say so (`defaults`, see
    /// [`default_modes`]; what cannot be read may say it).
    pub fn keeps_snapshot(&self, defaults: Modes) -> bool {
        let modes = defaults.then(self.modes);
        let unread = defaults.clarity == Clarity::Unclear && modes.isolation.is_none();
        unread || keeps_snapshot(modes) || says_so(&self.text)
    }

    pub fn snapshots(&self) -> Snapshots {
        self.snapshots
    }

    pub fn taken_together(mut self) -> Prologue {
        self.snapshots = Snapshots::Together;
        self
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a statement that a server may refuse.
    pub fn append(&mut self, statement: &str) {
        self.judgement = Judgement::MayFail;
        self.modes = self.modes.then(Modes::of(statement));
        self.push(statement);
    }

    /// A statement's text may end in a line comment, so the `;` goes on a line of its own.
    fn push(&mut self, statement: &str) {
        self.text.push_str(statement);
        self.text.push_str("\n;");
    }

    pub fn savepoint(&mut self, name: &str, statement: &str) {
        self.push(statement);
        self.savepoints.push(Savepoint {
            name: Box::from(name),
            end: self.text.len(),
            modes: self.modes,
        });
    }

    /// ROLLBACK TO: what came after the savepoint is undone. `false`: there is no such savepoint.
    pub fn roll_back_to(&mut self, name: &str) -> bool {
        let Some(place) = self
            .savepoints
            .iter()
            .rposition(|savepoint| *savepoint.name == *name)
        else {
            return false;
        };
        self.savepoints.truncate(place + 1);
        self.text.truncate(self.savepoints[place].end);
        self.modes = self.savepoints[place].modes;
        true
    }

    /// RELEASE: the savepoint and those after it are gone, their work stays. `false`: there is no such savepoint.
    pub fn release(&mut self, name: &str, statement: &str) -> bool {
        let Some(place) = self
            .savepoints
            .iter()
            .rposition(|savepoint| *savepoint.name == *name)
        else {
            return false;
        };
        self.savepoints.truncate(place);
        self.push(statement);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_to_a_savepoint_undoes_what_came_after_it() {
        let mut prologue = Prologue::new("BEGIN");
        prologue.savepoint("a", "SAVEPOINT a");
        prologue.append("SET LOCAL x = 1");
        prologue.savepoint("b", "SAVEPOINT b");
        assert!(prologue.roll_back_to("a"));
        assert_eq!(prologue.text(), "BEGIN\n;SAVEPOINT a\n;");
        assert!(!prologue.roll_back_to("b"));
        assert!(prologue.release("a", "RELEASE a"));
        assert!(!prologue.release("a", "RELEASE a"));
        assert_eq!(prologue.text(), "BEGIN\n;SAVEPOINT a\n;RELEASE a\n;");
    }
    fn suits(statements: &[&str], settings: &[(&str, &str)]) -> bool {
        let mut set = Settings::default();
        for (name, value) in settings {
            set.set(name, value);
        }
        let transaction = match statements {
            [] => Transaction::Idle,
            [begin, others @ ..] => {
                let mut prologue = Prologue::new(begin);
                for other in others {
                    prologue.append(other);
                }
                Transaction::Begun(prologue)
            }
        };
        transaction.suits_replica(default_modes(&set))
    }

    #[test]
    fn only_reading_transactions_suit_a_replica() {
        const READ_ONLY: (&str, &str) = ("default_transaction_read_only", "'on'");
        assert!(suits(&[], &[]));
        assert!(suits(&[], &[("work_mem", "'1MB'"), READ_ONLY]));
        assert!(!suits(&["BEGIN"], &[("work_mem", "'1MB'")]));
        assert!(suits(&["BEGIN"], &[READ_ONLY]));
        assert!(!suits(&["BEGIN READ WRITE"], &[READ_ONLY]));
        assert!(suits(&["BEGIN READ ONLY"], &[]));
        assert!(suits(&["BEGIN", "SET TRANSACTION READ ONLY"], &[]));
        assert!(!suits(
            &["BEGIN READ ONLY", "SET TRANSACTION READ WRITE"],
            &[]
        ));
        assert!(!suits(
            &["BEGIN READ ONLY", "SET transaction_read_only = off"],
            &[]
        ));
        assert!(suits(
            &["BEGIN READ ONLY", "SET LOCAL work_mem = '1MB'"],
            &[]
        ));
        assert!(suits(
            &["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"],
            &[]
        ));
        assert!(!suits(
            &["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"],
            &[]
        ));
        assert!(!suits(&["BEGIN READ ONLY DEFERRABLE"], &[]));
        assert!(!suits(
            &["BEGIN READ ONLY", "SET TRANSACTION SNAPSHOT '1'"],
            &[]
        ));
        for value in ["serializable", "'Serializable'", "$$serializable$$"] {
            let isolation = ("default_transaction_isolation", value);
            assert!(!suits(&[], &[isolation]), "{value}");
            assert!(!suits(&["BEGIN READ ONLY"], &[isolation]), "{value}");
        }
        let weaker = ["BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"];
        assert!(suits(
            &weaker,
            &[("default_transaction_isolation", "serializable")]
        ));
        assert!(!suits(
            &["BEGIN"],
            &[("default_transaction_read_only", "t")]
        ));
        let failed = Transaction::Failed(Prologue::new("BEGIN READ ONLY"));
        assert!(!failed.suits_replica(Modes::default()));
        assert!(!Transaction::Open.suits_replica(Modes::default()));
    }

    #[test]
    fn modes_go_back_with_their_savepoint() {
        let mut prologue = Prologue::new("BEGIN READ ONLY");
        prologue.savepoint("a", "SAVEPOINT a");
        prologue.append("SET TRANSACTION READ WRITE");
        let suits = |prologue: &Prologue| {
            Transaction::Begun(prologue.clone()).suits_replica(Modes::default())
        };
        assert!(!suits(&prologue));
        assert!(prologue.roll_back_to("a"));
        assert!(suits(&prologue));
    }

    #[test]
    fn snapshots_are_kept_by_words_and_by_settings() {
        let keeps = |begin: &str, isolation: Option<&str>| {
            let mut set = Settings::default();
            if let Some(isolation) = isolation {
                set.set("default_transaction_isolation", isolation);
            }
            Prologue::new(begin).keeps_snapshot(default_modes(&set))
        };
        assert!(!keeps("BEGIN", None));
        assert!(keeps("BEGIN ISOLATION LEVEL REPEATABLE READ", None));
        for kept in ["'repeatable read'", "\"Repeatable Read\"", "serializable"] {
            assert!(keeps("BEGIN", Some(kept)), "{kept}");
            assert!(keeps("BEGIN READ ONLY", Some(kept)), "{kept}");
            assert!(!keeps("BEGIN ISOLATION LEVEL READ COMMITTED", Some(kept)));
        }
        assert!(!keeps("BEGIN", Some("'read committed'")));
        // It may be one of them.
        assert!(keeps("BEGIN", Some("$$serializable$$")));
    }
}
