//! Who waits for whom, over all servers: cycles, and who has to go.

use std::collections::{HashMap, VecDeque};

use super::Seen;
use crate::execution::commit::id::TransactionId;

/// A process waits for another of the same server; both are places in what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    pub waiting: usize,
    pub blocking: usize,
}

/// Transactions that all wait for each other. From each wait's end to the next one's beginning there is nothing, or a transaction that both processes work for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The youngest of its transactions over several shards.
    pub victim: TransactionId,
    /// The first is a wait of the victim's.
    pub waits: Vec<Wait>,
}

/// The cycles that no server sees alone: for each transaction that is the youngest in one the shortest of these.
///
/// Whoever sees the same finds the same. A cycle of processes of one server is that server's business, and is left to it.
pub fn find(seen: &[Seen]) -> Vec<Cycle> {
    let mut order: Vec<usize> = (0..seen.len()).collect();
    order.sort_by_key(|place| (seen[*place].server, seen[*place].pid));
    let processes = processes(seen, &order);
    let waits = without_local_cycles(waits_of(seen, &processes));
    let mut nodes: HashMap<TransactionId, Vec<usize>> = HashMap::new();
    for place in order {
        if let Some(id) = seen[place].transaction {
            nodes.entry(id).or_default().push(place);
        }
    }
    let mut ids: Vec<TransactionId> = nodes.keys().copied().collect();
    ids.sort_unstable();
    let graph = Graph { seen, waits, nodes };
    ids.into_iter()
        .filter_map(|id| graph.cycle_of(id))
        .collect()
}

/// Where each process is; of one that was seen twice the place where its transaction is known.
fn processes(seen: &[Seen], order: &[usize]) -> HashMap<(usize, i32), usize> {
    let mut processes = HashMap::new();
    for &place in order {
        let one = &seen[place];
        let known = processes.entry((one.server, one.pid)).or_insert(place);
        if seen[*known].transaction.is_none() && one.transaction.is_some() {
            *known = place;
        }
    }
    processes
}

/// For each place those it waits for. Who was not seen waits for nobody, and is in no cycle.
fn waits_of(seen: &[Seen], processes: &HashMap<(usize, i32), usize>) -> Vec<Vec<usize>> {
    let of = |(place, one): (usize, &Seen)| {
        if processes.get(&(one.server, one.pid)) != Some(&place) {
            return Vec::new();
        }
        let blockers = one.blockers.iter();
        let mut waits: Vec<usize> = blockers
            .filter_map(|pid| processes.get(&(one.server, *pid)).copied())
            .filter(|blocking| *blocking != place)
            .collect();
        waits.sort_by_key(|blocking| seen[*blocking].pid);
        waits.dedup();
        waits
    };
    seen.iter().enumerate().map(of).collect()
}

/// Takes away the waits inside strongly connected parts: their server resolves these, and what is left shows itself then.
fn without_local_cycles(mut waits: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let parts = parts(&waits);
    for (waiting, blocking) in waits.iter_mut().enumerate() {
        blocking.retain(|blocking| parts[*blocking] != parts[waiting]);
    }
    waits
}

/// The number of each place's strongly connected part (Kosaraju's algorithm).
fn parts(waits: &[Vec<usize>]) -> Vec<usize> {
    const NONE: usize = usize::MAX;
    let mut finished = Vec::with_capacity(waits.len());
    let mut visited = vec![false; waits.len()];
    for start in 0..waits.len() {
        // How many of its waits were followed already.
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut visited[start], true) {
            continue;
        }
        while let Some((place, followed)) = path.last_mut() {
            match waits[*place].get(*followed) {
                Some(&next) => {
                    *followed += 1;
                    if !std::mem::replace(&mut visited[next], true) {
                        path.push((next, 0));
                    }
                }
                None => {
                    finished.push(*place);
                    path.pop();
                }
            }
        }
    }
    let mut back: Vec<Vec<usize>> = vec![Vec::new(); waits.len()];
    for (waiting, blocking) in waits.iter().enumerate() {
        for &blocking in blocking {
            back[blocking].push(waiting);
        }
    }
    let mut parts = vec![NONE; waits.len()];
    for (number, &start) in finished.iter().rev().enumerate() {
        let mut rest = vec![start];
        while let Some(place) = rest.pop() {
            if parts[place] == NONE {
                parts[place] = number;
                rest.extend(&back[place]);
            }
        }
    }
    parts
}

struct Graph<'a> {
    seen: &'a [Seen],
    waits: Vec<Vec<usize>>,
    /// The processes of each transaction over several shards.
    nodes: HashMap<TransactionId, Vec<usize>>,
}

impl Graph<'_> {
    /// A shortest cycle through this transaction in which no other is younger.
    ///
    /// The waits of processes alone have no cycle any more, so each that is found passes through a transaction from one process to another.
    fn cycle_of(&self, victim: TransactionId) -> Option<Cycle> {
        // By what wait each node was reached; a node is known by the first of its processes.
        let mut reached: HashMap<usize, Wait> = HashMap::new();
        let home = self.node(self.nodes.get(&victim)?.first().copied()?);
        let mut rest = VecDeque::from([home]);
        while let Some(node) = rest.pop_front() {
            for wait in self.waits_from(node) {
                let blocking = self.node(wait.blocking);
                let is_younger = |id: TransactionId| id > victim;
                if self.seen[wait.blocking].transaction.is_some_and(is_younger)
                    || reached.contains_key(&blocking)
                {
                    continue;
                }
                reached.insert(blocking, wait);
                if blocking == home {
                    return Some(self.cycle(victim, home, &reached));
                }
                rest.push_back(blocking);
            }
        }
        None
    }

    /// The process that stands for all of its transaction.
    fn node(&self, place: usize) -> usize {
        let all = self.seen[place]
            .transaction
            .and_then(|id| self.nodes.get(&id)?.first());
        all.copied().unwrap_or(place)
    }

    fn waits_from(&self, node: usize) -> impl Iterator<Item = Wait> + '_ {
        let all = self.seen[node]
            .transaction
            .and_then(|id| self.nodes.get(&id));
        let alone = if all.is_none() { Some(node) } else { None };
        let processes = all.into_iter().flatten().copied().chain(alone);
        processes.flat_map(|waiting| {
            self.waits[waiting]
                .iter()
                .map(move |&blocking| Wait { waiting, blocking })
        })
    }

    /// Back from home to home.
    fn cycle(&self, victim: TransactionId, home: usize, reached: &HashMap<usize, Wait>) -> Cycle {
        let mut waits = Vec::new();
        let mut node = home;
        while let Some(wait) = reached.get(&node) {
            waits.push(*wait);
            node = self.node(wait.waiting);
            if node == home {
                break;
            }
        }
        waits.reverse();
        Cycle { victim, waits }
    }
}

/// A cycle by what makes each of its waits this one and no other, to be found again in a later look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    pub victim: TransactionId,
    waits: Vec<(Seen, Seen)>,
}

impl Suspect {
    pub fn new(cycle: &Cycle, seen: &[Seen]) -> Suspect {
        let waits = cycle.waits.iter();
        let waits = waits.map(|wait| (seen[wait.waiting].clone(), seen[wait.blocking].clone()));
        Suspect {
            victim: cycle.victim,
            waits: waits.collect(),
        }
    }

    /// The same cycle, if each of its waits is still the same. Then there was a moment between the two looks at which all of them waited.
    pub fn found_again(&self, seen: &[Seen]) -> Option<Cycle> {
        let place = |before: &Seen| {
            seen.iter().position(|now| {
                (now.server, now.pid, now.transaction)
                    == (before.server, before.pid, before.transaction)
                    && now.virtual_transaction == before.virtual_transaction
            })
        };
        let again = |(waiting, blocking): &(Seen, Seen)| {
            let wait = Wait {
                waiting: place(waiting)?,
                blocking: place(blocking)?,
            };
            let now = &seen[wait.waiting];
            (now.since == waiting.since && now.blockers.contains(&blocking.pid)).then_some(wait)
        };
        let waits: Option<Vec<Wait>> = self.waits.iter().map(again).collect();
        Some(Cycle {
            victim: self.victim,
            waits: waits?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::execution::commit::id::Proxy;

    /// The transaction that began so many milliseconds after all.
    fn id(began: u64) -> TransactionId {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(began);
        // The chance in it is not what orders these.
        let id = TransactionId::new(now, Proxy(1)).to_string();
        let fixed = format!("{}-{:016x}", &id[..21], 0);
        TransactionId::parse(&fixed).unwrap()
    }

    fn process(server: usize, pid: i32, transaction: Option<u64>, blockers: &[i32]) -> Seen {
        Seen {
            server,
            pid,
            virtual_transaction: format!("{pid}/1").into(),
            blockers: blockers.to_vec(),
            since: (!blockers.is_empty()).then(|| "now".into()),
            transaction: transaction.map(id),
            role: None,
            statement: None,
        }
    }

    fn victims(seen: &[Seen]) -> Vec<TransactionId> {
        find(seen).iter().map(|cycle| cycle.victim).collect()
    }

    #[test]
    fn opposite_orders_on_two_servers() {
        let seen = [
            process(0, 10, Some(1), &[]),
            process(0, 20, Some(2), &[10]),
            process(1, 11, Some(1), &[21]),
            process(1, 21, Some(2), &[]),
        ];
        let found = find(&seen);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].victim, id(2));
        let wait = |waiting, blocking| Wait { waiting, blocking };
        assert_eq!(found[0].waits, [wait(1, 0), wait(2, 3)]);
    }

    #[test]
    fn through_a_process_that_is_nobodys() {
        // 2 waits for 30 on the first server, which waits for 1, which waits for 2 on the second.
        let seen = [
            process(0, 10, Some(1), &[]),
            process(0, 20, Some(2), &[30]),
            process(0, 30, None, &[10]),
            process(1, 11, Some(1), &[21]),
            process(1, 21, Some(2), &[]),
        ];
        assert_eq!(victims(&seen), [id(2)]);
    }

    #[test]
    fn a_cycle_on_one_server_is_its_own_business() {
        let seen = [
            process(0, 10, Some(1), &[20]),
            process(0, 20, Some(2), &[10]),
            process(1, 11, Some(1), &[]),
            process(1, 21, Some(2), &[]),
        ];
        assert_eq!(victims(&seen), []);
        let alone = [process(0, 1, None, &[2]), process(0, 2, None, &[1])];
        assert_eq!(victims(&alone), []);
    }

    #[test]
    fn a_queue_is_no_cycle() {
        let seen = [
            process(0, 10, Some(1), &[]),
            process(0, 20, Some(2), &[10]),
            process(0, 30, Some(3), &[10, 20]),
            process(1, 11, Some(1), &[]),
            process(1, 21, Some(2), &[11]),
        ];
        assert_eq!(victims(&seen), []);
    }

    #[test]
    fn what_changes_between_two_looks_is_not_acted_on() {
        let seen = vec![
            process(0, 10, Some(1), &[]),
            process(0, 20, Some(2), &[10]),
            process(1, 11, Some(1), &[21]),
            process(1, 21, Some(2), &[]),
        ];
        let cycle = &find(&seen)[0];
        let suspect = Suspect::new(cycle, &seen);
        assert_eq!(suspect.found_again(&seen).as_ref(), Some(cycle));
        let mut turned = seen.clone();
        turned.reverse();
        assert!(suspect.found_again(&turned).is_some());
        let changed = |change: fn(&mut Vec<Seen>)| {
            let mut later = seen.clone();
            change(&mut later);
            suspect.found_again(&later)
        };
        assert_eq!(changed(|later| later[1].since = Some("later".into())), None);
        assert_eq!(changed(|later| later[1].blockers.clear()), None);
        assert_eq!(
            changed(|later| later[0].virtual_transaction = "10/2".into()),
            None
        );
        assert_eq!(changed(|later| later[3].transaction = None), None);
        assert_eq!(changed(|later| drop(later.pop())), None);
    }

    /// Processes on a few servers, and which of three transactions they work for.
    fn looks() -> impl Strategy<Value = Vec<Seen>> {
        let one = (
            0..3_usize,
            0..5_i32,
            prop::option::of(1..4_u64),
            prop::collection::vec(0..5_i32, 0..3),
        );
        prop::collection::vec(one, 0..9).prop_map(|all| {
            let mut taken = BTreeSet::new();
            all.into_iter()
                .filter(|(server, pid, ..)| taken.insert((*server, *pid)))
                .map(|(server, pid, transaction, blockers)| {
                    process(server, pid, transaction, &blockers)
                })
                .collect()
        })
    }

    /// The same by trying out everything: the youngest of each cycle.
    fn expected(seen: &[Seen]) -> BTreeSet<TransactionId> {
        let count = seen.len();
        let waits = |one: usize, other: usize| {
            one != other
                && seen[one].server == seen[other].server
                && seen[one].blockers.contains(&seen[other].pid)
        };
        let mut reaches: Vec<Vec<bool>> = (0..count)
            .map(|one| (0..count).map(|other| waits(one, other)).collect())
            .collect();
        for by in 0..count {
            for one in 0..count {
                for other in 0..count {
                    reaches[one][other] |= reaches[one][by] && reaches[by][other];
                }
            }
        }
        let left = |one: usize, other: usize| waits(one, other) && !reaches[other][one];
        let same = |one: usize, other: usize| {
            one == other
                || (seen[one].transaction.is_some()
                    && seen[one].transaction == seen[other].transaction)
        };
        let node = |place: usize| (0..count).find(|other| same(place, *other)).unwrap();
        let mut found = BTreeSet::new();
        let mut paths: Vec<Vec<usize>> = (0..count)
            .filter(|place| node(*place) == *place)
            .map(|start| vec![start])
            .collect();
        while let Some(path) = paths.pop() {
            let last = path[path.len() - 1];
            for one in (0..count).filter(|one| node(*one) == last) {
                for other in (0..count).filter(|other| left(one, *other)) {
                    let next = node(other);
                    if next == path[0] {
                        found.extend(
                            path.iter()
                                .filter_map(|place| seen[*place].transaction)
                                .max(),
                        );
                    } else if !path.contains(&next) {
                        paths.push([&path[..], &[next]].concat());
                    }
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn the_youngest_of_every_cycle_is_found_and_nobody_else(seen in looks()) {
            let found = find(&seen);
            let victims: BTreeSet<_> = found.iter().map(|cycle| cycle.victim).collect();
            prop_assert_eq!(&victims, &expected(&seen));
            for cycle in &found {
                let mut ends = cycle.waits.iter().cycle().skip(1);
                for wait in &cycle.waits {
                    let (waiting, blocking) = (&seen[wait.waiting], &seen[wait.blocking]);
                    prop_assert_eq!(waiting.server, blocking.server);
                    prop_assert!(waiting.blockers.contains(&blocking.pid));
                    let next = &seen[ends.next().unwrap().waiting];
                    prop_assert!(
                        next == blocking
                            || (next.transaction.is_some() && next.transaction == blocking.transaction)
                    );
                }
                prop_assert_eq!(seen[cycle.waits[0].waiting].transaction, Some(cycle.victim));
            }
        }

        #[test]
        fn the_order_in_which_it_was_seen_does_not_matter(seen in looks(), turn in 0..9_usize) {
            let mut turned = seen.clone();
            turned.rotate_left(turn.min(seen.len()));
            let named = |seen: &[Seen]| -> Vec<Vec<(usize, i32, i32)>> {
                let names = |cycle: &Cycle| {
                    let name = |wait: &Wait| (seen[wait.waiting].server, seen[wait.waiting].pid, seen[wait.blocking].pid);
                    cycle.waits.iter().map(name).collect()
                };
                find(seen).iter().map(names).collect()
            };
            prop_assert_eq!(named(&seen), named(&turned));
        }
    }
}
