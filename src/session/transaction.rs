//! The client's transaction as the session keeps it: BEGIN reaches no server before a statement needs one.

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
    savepoints: Vec<(Box<str>, usize)>,
    snapshots: Snapshots,
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
            snapshots: Snapshots::Apart,
        };
        prologue.push(begin);
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

    /// Whether all statements of the transaction see one snapshot, as far as the words in it say so.
    pub fn keeps_snapshot(&self) -> bool {
        let words = self.text.to_ascii_lowercase();
        words.contains("repeatable") || words.contains("serializable")
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
        self.push(statement);
    }

    /// A statement's text may end in a line comment, so the `;` goes on a line of its own.
    fn push(&mut self, statement: &str) {
        self.text.push_str(statement);
        self.text.push_str("\n;");
    }

    pub fn savepoint(&mut self, name: &str, statement: &str) {
        self.push(statement);
        self.savepoints.push((Box::from(name), self.text.len()));
    }

    /// ROLLBACK TO: what came after the savepoint is undone. `false`: there is no such savepoint.
    pub fn roll_back_to(&mut self, name: &str) -> bool {
        let Some(place) = self
            .savepoints
            .iter()
            .rposition(|(savepoint, _)| **savepoint == *name)
        else {
            return false;
        };
        self.savepoints.truncate(place + 1);
        self.text.truncate(self.savepoints[place].1);
        true
    }

    /// RELEASE: the savepoint and those after it are gone, their work stays. `false`: there is no such savepoint.
    pub fn release(&mut self, name: &str, statement: &str) -> bool {
        let Some(place) = self
            .savepoints
            .iter()
            .rposition(|(savepoint, _)| **savepoint == *name)
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
}
