//! Deadlocks that no single server sees: transactions over several shards that wait for each other on different shards.
//!
//! Every server knows who waits for whom on it, and each proxy knows which server processes work for one transaction. Joined they are a graph
//! ([`graph`]); a cycle in it that passes from server to server by way of a transaction can only be broken from outside. Proxies tell each other what
//! they know in a table on the shards ([`table`]), with nothing else between them: each ends its own transactions, and all choose the same one.
//! A cycle is acted on when two looks, one after the other, have seen the very same waits: shards are not asked at the same moment, so that a
//! single look may join a wait with one that is already over.
//!
//! Pure: no socket, no clock. `server/deadlocks.rs` asks the shards, `session/waits.rs` knows the transactions.

pub mod graph;
pub mod table;

use std::fmt::Write as _;

use super::commit::id::TransactionId;
use graph::Cycle;

/// A server process in the middle of a transaction, as its server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of its server, by an order of the asker's.
    pub server: usize,
    pub pid: i32,
    /// Together with the process id: this transaction and no other.
    pub virtual_transaction: Box<str>,
    /// The processes that it waits for; none: it does not wait for a lock.
    pub blockers: Vec<i32>,
    /// When its wait began, by its server's clock.
    pub since: Option<Box<str>>,
    /// The transaction over several shards that it works for, and that cannot go on while this one waits.
    pub transaction: Option<TransactionId>,
    pub role: Option<Box<str>>,
    pub statement: Option<Box<str>>,
}

/// Whose statements a description shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The victim: those of its own role, as in `pg_stat_activity`.
    Victim,
    Administrator,
}

/// Says who waits for whom, a line for each, the victim first. `names` are those of the servers.
pub fn describe(cycle: &Cycle, seen: &[Seen], names: &[Box<str>], audience: Audience) -> String {
    let mut said = String::new();
    let role = cycle
        .waits
        .first()
        .and_then(|wait| seen[wait.waiting].role.as_ref());
    for wait in &cycle.waits {
        let (waiting, blocking) = (&seen[wait.waiting], &seen[wait.blocking]);
        if !said.is_empty() {
            said.push('\n');
        }
        let server = names.get(waiting.server).map_or("?", |name| name);
        // A string takes whatever is written.
        let _ = write!(
            said,
            "Process {} on shard \"{server}\" waits for process {}",
            waiting.pid, blocking.pid
        );
        let shown = audience == Audience::Administrator || waiting.role.as_ref() == role;
        match (&waiting.statement, shown) {
            (Some(statement), true) => {
                let _ = write!(said, ": {statement}");
            }
            _ => said.push('.'),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::execution::commit::id::Proxy;

    #[test]
    fn statements_of_other_roles_are_for_the_administrator() {
        let id = TransactionId::new(SystemTime::UNIX_EPOCH, Proxy(1));
        let seen = |server, pid, role: &str, statement: &str| Seen {
            server,
            pid,
            virtual_transaction: Box::from("3/7"),
            blockers: vec![20],
            since: None,
            transaction: Some(id),
            role: Some(Box::from(role)),
            statement: Some(Box::from(statement)),
        };
        let seen = [
            seen(0, 10, "app", "UPDATE a"),
            seen(1, 20, "boss", "UPDATE b"),
        ];
        let wait = |waiting, blocking| graph::Wait { waiting, blocking };
        let cycle = Cycle {
            victim: id,
            waits: vec![wait(0, 1), wait(1, 0)],
        };
        let described = |audience| describe(&cycle, &seen, &["s1".into(), "s2".into()], audience);
        assert_eq!(
            described(Audience::Victim),
            "Process 10 on shard \"s1\" waits for process 20: UPDATE a\nProcess 20 on shard \"s2\" waits for process 10."
        );
        assert!(described(Audience::Administrator).ends_with("waits for process 10: UPDATE b"));
    }
}
