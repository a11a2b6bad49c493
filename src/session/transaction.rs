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

/// What a server must be told before the first statement of a transaction that was begun without it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prologue {
    /// Statements, each with its `;`.
    text: String,
    /// The savepoints in it, with the length of `text` after each.
    savepoints: Vec<(Box<str>, usize)>,
}

impl Prologue {
    /// From BEGIN as the client wrote it.
    pub fn new(begin: &str) -> Prologue {
        let mut prologue = Prologue { text: String::new(), savepoints: Vec::new() };
        prologue.append(begin);
        prologue
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a statement. Its text may end in a line comment, so the `;` goes on a line of its own.
    pub fn append(&mut self, statement: &str) {
        self.text.push_str(statement);
        self.text.push_str("\n;");
    }

    pub fn savepoint(&mut self, name: &str, statement: &str) {
        self.append(statement);
        self.savepoints.push((Box::from(name), self.text.len()));
    }

    /// ROLLBACK TO: what came after the savepoint is undone. `false`: there is no such savepoint.
    pub fn roll_back_to(&mut self, name: &str) -> bool {
        let Some(place) = self.savepoints.iter().rposition(|(savepoint, _)| **savepoint == *name) else {
            return false;
        };
        self.savepoints.truncate(place + 1);
        self.text.truncate(self.savepoints[place].1);
        true
    }

    /// RELEASE: the savepoint and those after it are gone, their work stays. `false`: there is no such savepoint.
    pub fn release(&mut self, name: &str, statement: &str) -> bool {
        let Some(place) = self.savepoints.iter().rposition(|(savepoint, _)| **savepoint == *name) else {
            return false;
        };
        self.savepoints.truncate(place);
        self.append(statement);
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
