//! Transactions that append their number to lists on several shards and read lists, over three proxies while commits are cut, and a checker
//! that says from what they saw and were told whether all of it can have happened.
//!
//! The method is Elle's (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", 2020): a list shows the order in which
//! it was written. What is demanded is what Trunkline promises at READ COMMITTED, and of reads with `read_consistency = 'atomic'`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use rand::{RngExt, SeedableRng};

use super::cutting::{Relays, STEPS};
use super::{BOUND, PATIENCE, Proxy, Told, column, comes_true, ports, prepared, shards, told};
use crate::raw::Raw;
use crate::sharded::succeeded;

type List = i32;

/// The number of a transaction, which is what it appends.
type Number = i64;

/// A list as it was read.
#[derive(Clone, Debug)]
struct Seen {
    list: List,
    elements: Vec<Number>,
}

/// Whether several lists were read at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    One,
    Each,
}

/// One transaction. It reads first, then appends.
#[derive(Clone, Debug)]
struct Transaction {
    /// Those of a session follow each other, in the order of the history.
    session: usize,
    number: Number,
    moment: Moment,
    seen: Vec<Seen>,
    appends: BTreeSet<List>,
    told: Told,
}

#[derive(Clone, Debug, Default)]
struct History {
    transactions: Vec<Transaction>,
    /// What the lists are in the end.
    lists: BTreeMap<List, Vec<Number>>,
}

/// What cannot have happened, and did.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Anomaly {
    /// Committed, and not in a list.
    Lost { number: Number, list: List },
    /// Failed, or never begun, and in a list or seen there.
    NotCommitted { number: Number, list: List },
    /// Nobody knows whether it is committed, and it is in a list and not in another.
    Torn { number: Number, without: List },
    /// More than once in a list.
    Repeated { number: Number, list: List },
    /// What was read is no beginning of what the list is in the end.
    Unread { reader: Number, list: List },
    /// A session no longer sees what it has seen or committed.
    Stale { reader: Number, list: List },
    /// A read of one moment saw it in a list and not in another.
    TornRead {
        reader: Number,
        number: Number,
        without: List,
    },
    /// None of them can have been the first.
    Cycle(Vec<Number>),
}

impl History {
    fn check(&self) -> BTreeSet<Anomaly> {
        let mut found = BTreeSet::new();
        let by_number: BTreeMap<Number, &Transaction> = self
            .transactions
            .iter()
            .map(|transaction| (transaction.number, transaction))
            .collect();
        for (list, elements) in &self.lists {
            check_list(*list, elements, &by_number, &mut found);
        }
        for transaction in &self.transactions {
            self.check_end(transaction, &mut found);
            self.check_reads(transaction, &by_number, &mut found);
        }
        self.check_sessions(&mut found);
        found.extend(self.cycle());
        found
    }

    fn has(&self, list: List, number: Number) -> bool {
        let elements = self.lists.get(&list);
        elements.is_some_and(|elements| elements.contains(&number))
    }

    /// All or nothing.
    fn check_end(&self, transaction: &Transaction, found: &mut BTreeSet<Anomaly>) {
        let number = transaction.number;
        let (there, missing): (Vec<List>, Vec<List>) = transaction
            .appends
            .iter()
            .partition(|list| self.has(**list, number));
        match transaction.told {
            Told::Committed => {
                found.extend(missing.iter().map(|list| Anomaly::Lost {
                    number,
                    list: *list,
                }));
            }
            Told::Unknown if !there.is_empty() => {
                let torn = |without: &List| Anomaly::Torn {
                    number,
                    without: *without,
                };
                found.extend(missing.iter().map(torn));
            }
            // Those that are there are found by looking at the lists.
            Told::Unknown | Told::Failed => {}
        }
    }

    fn check_reads(
        &self,
        transaction: &Transaction,
        by_number: &BTreeMap<Number, &Transaction>,
        found: &mut BTreeSet<Anomaly>,
    ) {
        let reader = transaction.number;
        for Seen { list, elements } in &transaction.seen {
            check_list(*list, elements, by_number, found);
            let whole = self.lists.get(list).map_or(&[][..], |whole| whole);
            if !whole.starts_with(elements) {
                found.insert(Anomaly::Unread {
                    reader,
                    list: *list,
                });
            }
        }
        if transaction.moment == Moment::Each {
            return;
        }
        let numbers = transaction.seen.iter().flat_map(|seen| &seen.elements);
        for number in numbers.collect::<BTreeSet<_>>() {
            let Some(writer) = by_number.get(number) else {
                continue;
            };
            let lacks = |seen: &&Seen| {
                writer.appends.contains(&seen.list) && !seen.elements.contains(number)
            };
            let torn = transaction.seen.iter().filter(lacks);
            found.extend(torn.map(|seen| Anomaly::TornRead {
                reader,
                number: *number,
                without: seen.list,
            }));
        }
    }

    /// A session sees its own commits, and never less than before.
    fn check_sessions(&self, found: &mut BTreeSet<Anomaly>) {
        let mut known: BTreeMap<(usize, List), BTreeSet<Number>> = BTreeMap::new();
        for transaction in &self.transactions {
            for Seen { list, elements } in &transaction.seen {
                let known = known.entry((transaction.session, *list)).or_default();
                let seen: BTreeSet<Number> = elements.iter().copied().collect();
                if !known.is_subset(&seen) {
                    found.insert(Anomaly::Stale {
                        reader: transaction.number,
                        list: *list,
                    });
                }
                known.extend(seen);
            }
            if transaction.told == Told::Committed {
                for list in &transaction.appends {
                    let known = known.entry((transaction.session, *list)).or_default();
                    known.insert(transaction.number);
                }
            }
        }
    }

    /// Whoever appends behind another, or sees what it appended, begins its commit later: a row is locked until it is committed. So this order
    /// holds over all shards, and has a beginning.
    fn cycle(&self) -> Option<Anomaly> {
        let mut later: BTreeMap<Number, BTreeSet<Number>> = BTreeMap::new();
        let mut earlier: BTreeMap<Number, usize> = BTreeMap::new();
        let behind = self.lists.values().flat_map(|elements| elements.windows(2));
        let mut edges: Vec<(Number, Number)> = behind.map(|pair| (pair[0], pair[1])).collect();
        for transaction in &self.transactions {
            let last = transaction
                .seen
                .iter()
                .filter_map(|seen| seen.elements.last());
            edges.extend(last.map(|last| (*last, transaction.number)));
        }
        for (before, after) in edges {
            earlier.entry(before).or_default();
            if later.entry(before).or_default().insert(after) {
                *earlier.entry(after).or_default() += 1;
            }
        }
        let none = |(number, count): (&Number, &usize)| (*count == 0).then_some(*number);
        let mut first: Vec<Number> = earlier.iter().filter_map(none).collect();
        while let Some(number) = first.pop() {
            earlier.remove(&number);
            for after in later.remove(&number).unwrap_or_default() {
                let count = earlier.get_mut(&after).expect("it has an earlier one");
                *count -= 1;
                if *count == 0 {
                    first.push(after);
                }
            }
        }
        (!earlier.is_empty()).then(|| Anomaly::Cycle(earlier.into_keys().collect()))
    }
}

/// What stands there was appended there, once, by somebody who did not fail.
fn check_list(
    list: List,
    elements: &[Number],
    by_number: &BTreeMap<Number, &Transaction>,
    found: &mut BTreeSet<Anomaly>,
) {
    let mut met = BTreeSet::new();
    for number in elements {
        if !met.insert(number) {
            found.insert(Anomaly::Repeated {
                number: *number,
                list,
            });
        }
        let writer = by_number.get(number);
        if !writer.is_some_and(|it| it.told != Told::Failed && it.appends.contains(&list)) {
            found.insert(Anomaly::NotCommitted {
                number: *number,
                list,
            });
        }
    }
}

/// The checker, with histories that are broken by hand.
mod by_hand {
    use super::*;

    fn transaction(number: Number, appends: &[List], seen: &[(List, &[Number])]) -> Transaction {
        let seen = seen.iter().map(|(list, elements)| Seen {
            list: *list,
            elements: elements.to_vec(),
        });
        Transaction {
            session: 0,
            number,
            moment: Moment::Each,
            seen: seen.collect(),
            appends: appends.iter().copied().collect(),
            told: Told::Committed,
        }
    }

    fn history(transactions: &[Transaction], lists: &[(List, &[Number])]) -> History {
        History {
            transactions: transactions.to_vec(),
            lists: lists
                .iter()
                .map(|(list, elements)| (*list, elements.to_vec()))
                .collect(),
        }
    }

    fn finds(history: &History, anomalies: &[Anomaly]) {
        assert_eq!(
            history.check(),
            anomalies.iter().cloned().collect(),
            "{history:#?}"
        );
    }

    /// Two that append to both lists, and two that read.
    fn sound() -> History {
        let mut atomic = transaction(4, &[], &[(1, &[1, 2]), (2, &[1, 2])]);
        atomic.moment = Moment::One;
        let all = [
            transaction(1, &[1, 2], &[(1, &[])]),
            transaction(2, &[1, 2], &[(2, &[1])]),
            transaction(3, &[], &[(1, &[1, 2])]),
            atomic,
        ];
        history(&all, &[(1, &[1, 2]), (2, &[1, 2])])
    }

    #[test]
    fn a_sound_history_is_sound() {
        finds(&sound(), &[]);
        // One reads between two others' parts, each at a moment of its own.
        let mut between = sound();
        between.transactions[3] = transaction(4, &[], &[(1, &[1, 2]), (2, &[1])]);
        between.transactions[3].session = 1;
        finds(&between, &[]);
        // What nobody knows of is there, or is not.
        let mut unknown = sound();
        unknown.transactions[1].told = Told::Unknown;
        finds(&unknown, &[]);
        let mut gone = history(&[transaction(1, &[1, 2], &[])], &[(1, &[]), (2, &[])]);
        gone.transactions[0].told = Told::Unknown;
        finds(&gone, &[]);
        gone.transactions[0].told = Told::Failed;
        finds(&gone, &[]);
    }

    #[test]
    fn lost_updates_are_found() {
        let lost = history(&[transaction(1, &[1, 2], &[])], &[(1, &[1]), (2, &[])]);
        finds(&lost, &[Anomaly::Lost { number: 1, list: 2 }]);
    }

    #[test]
    fn half_transactions_are_found() {
        let mut torn = history(&[transaction(1, &[1, 2], &[])], &[(1, &[1]), (2, &[])]);
        torn.transactions[0].told = Told::Unknown;
        finds(
            &torn,
            &[Anomaly::Torn {
                number: 1,
                without: 2,
            }],
        );
    }

    #[test]
    fn what_failed_is_found() {
        let mut failed = history(&[transaction(1, &[1], &[])], &[(1, &[1])]);
        failed.transactions[0].told = Told::Failed;
        finds(&failed, &[Anomaly::NotCommitted { number: 1, list: 1 }]);
        // Seen only: it was rolled back later.
        let reader = transaction(2, &[], &[(1, &[1])]);
        failed.transactions.push(Transaction {
            session: 1,
            ..reader
        });
        failed.lists.insert(1, Vec::new());
        let unread = Anomaly::Unread { reader: 2, list: 1 };
        finds(
            &failed,
            &[Anomaly::NotCommitted { number: 1, list: 1 }, unread],
        );
    }

    #[test]
    fn what_nobody_wrote_and_what_is_there_twice_is_found() {
        let made = history(&[transaction(1, &[1], &[])], &[(1, &[1, 7]), (2, &[1])]);
        finds(
            &made,
            &[
                Anomaly::NotCommitted { number: 7, list: 1 },
                Anomaly::NotCommitted { number: 1, list: 2 },
            ],
        );
        let twice = history(&[transaction(1, &[1], &[])], &[(1, &[1, 1])]);
        let found = twice.check();
        assert!(
            found.contains(&Anomaly::Repeated { number: 1, list: 1 }),
            "{found:?}"
        );
    }

    #[test]
    fn reads_of_another_past_are_found() {
        let mut other = sound();
        other.transactions[2] = transaction(3, &[], &[(1, &[2])]);
        other.transactions[2].session = 1;
        finds(&other, &[Anomaly::Unread { reader: 3, list: 1 }]);
    }

    #[test]
    fn sessions_that_forget_are_found() {
        let mut stale = sound();
        stale.transactions[2] = transaction(3, &[], &[(1, &[1])]);
        finds(&stale, &[Anomaly::Stale { reader: 3, list: 1 }]);
        // Of another session it would be fine.
        stale.transactions[2].session = 1;
        finds(&stale, &[]);
    }

    #[test]
    fn torn_reads_are_found() {
        let mut torn = sound();
        torn.transactions[3].seen[1].elements.pop();
        torn.transactions[3].session = 1;
        finds(
            &torn,
            &[Anomaly::TornRead {
                reader: 4,
                number: 2,
                without: 2,
            }],
        );
    }

    #[test]
    fn orders_that_contradict_each_other_are_found() {
        let both = [transaction(1, &[1, 2], &[]), transaction(2, &[1, 2], &[])];
        let crossed = history(&both, &[(1, &[1, 2]), (2, &[2, 1])]);
        finds(&crossed, &[Anomaly::Cycle(vec![1, 2])]);
        // Each has seen the other.
        let mut seeing = [
            transaction(1, &[1], &[(2, &[2])]),
            transaction(2, &[2], &[(1, &[1])]),
        ];
        seeing[1].session = 1;
        finds(
            &history(&seeing, &[(1, &[1]), (2, &[2])]),
            &[Anomaly::Cycle(vec![1, 2])],
        );
    }
}

/// Two on each shard.
const LISTS: usize = 8;

const CLIENTS: usize = 9;

/// Rounds, and those when `TRUNKLINE_NIGHTLY` is set.
const ROUNDS: (u32, u32) = (12, 200);

/// Transactions that are committed between faults.
const PROGRESS: usize = 20;

/// What a client waits after something failed.
const REST: Duration = Duration::from_millis(20);

/// What clients share.
struct Work {
    lists: Vec<List>,
    closed: AtomicBool,
    /// In the order of each session.
    done: Mutex<Vec<Transaction>>,
    committed: AtomicUsize,
    sessions: AtomicUsize,
}

impl Work {
    fn work(&self, place: usize, proxy: u16, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_add(place as u64));
        let mut connection: Option<(Raw, usize)> = None;
        let mut number = Number::try_from(place + 1).expect("small") * 1_000_000_000;
        while !self.closed.load(Ordering::Relaxed) {
            let Some((mut client, session)) = connection.take().or_else(|| self.connect(proxy))
            else {
                std::thread::sleep(REST);
                continue;
            };
            number += 1;
            let done = self.one(&mut client, session, number, &mut random);
            if done.told == Told::Committed {
                self.committed.fetch_add(1, Ordering::Relaxed);
                connection = Some((client, session));
            } else {
                std::thread::sleep(REST);
            }
            self.done.lock().expect("nobody panics").push(done);
        }
    }

    fn connect(&self, proxy: u16) -> Option<(Raw, usize)> {
        let mut client = Raw::attempt(proxy, "app", "app", PATIENCE).ok()?.ok()?;
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let atomic = "SET trunkline.read_consistency = 'atomic'";
        succeeded(atomic, &client.try_simple(atomic).ok()?);
        Some((client, session))
    }

    /// One transaction, put together at random.
    fn one(
        &self,
        client: &mut Raw,
        session: usize,
        number: Number,
        random: &mut SmallRng,
    ) -> Transaction {
        let mut done = Transaction {
            session,
            number,
            moment: Moment::Each,
            seen: Vec::new(),
            appends: BTreeSet::new(),
            told: Told::Failed,
        };
        let mut some = |count| {
            let mut lists: Vec<List> = self.lists.iter().copied().sample(random, count);
            lists.shuffle(random);
            lists
        };
        let (reads, appends) = (some(2), some(3));
        match random.random_range(0..4) {
            // One statement over several shards; it is a transaction by itself.
            0 => {
                done.moment = Moment::One;
                if read(client, &reads, &mut done.seen) {
                    done.told = Told::Committed;
                }
            }
            // A snapshot of all shards, for several statements.
            1 => {
                done.moment = Moment::One;
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ";
                if run(client, begin)
                    && reads
                        .iter()
                        .all(|list| read(client, &[*list], &mut done.seen))
                {
                    done.told = told(&client.try_simple("COMMIT"), "COMMIT").0;
                }
            }
            _ => {
                let count = random.random_range(1..=appends.len());
                done.appends = appends[..count].iter().copied().collect();
                if run(client, "BEGIN")
                    && reads
                        .iter()
                        .all(|list| read(client, &[*list], &mut done.seen))
                    && append(client, number, &done.appends, random)
                {
                    done.told = told(&client.try_simple("COMMIT"), "COMMIT").0;
                }
            }
        }
        done
    }
}

fn run(client: &mut Raw, sql: &str) -> bool {
    client
        .try_simple(sql)
        .is_ok_and(|answer| answer.error.is_none())
}

fn named(lists: impl IntoIterator<Item = List>) -> String {
    let lists: Vec<String> = lists.into_iter().map(|list| list.to_string()).collect();
    lists.join(", ")
}

/// By one statement.
fn read(client: &mut Raw, lists: &[List], seen: &mut Vec<Seen>) -> bool {
    let lists = named(lists.iter().copied());
    let sql = format!("SELECT id, elements FROM lists WHERE id IN ({lists})");
    match client.try_simple(&sql) {
        Ok(answer) if answer.error.is_none() => {
            for row in &answer.rows {
                let text = |place: usize| {
                    let value = row[place].as_deref().expect("not NULL");
                    std::str::from_utf8(value).expect("text")
                };
                seen.push(Seen {
                    list: text(0).parse().expect("a number"),
                    elements: elements(text(1)),
                });
            }
            true
        }
        Ok(_) | Err(_) => false,
    }
}

/// An array as Postgres writes it.
fn elements(text: &str) -> Vec<Number> {
    let inside = text.trim_matches(['{', '}']);
    let numbers = inside.split(',').filter(|number| !number.is_empty());
    numbers
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// By one statement, or one for each list. Those in the same order seldom wait for each other in a circle.
fn append(client: &mut Raw, number: Number, lists: &BTreeSet<List>, random: &mut SmallRng) -> bool {
    let update = |lists: String| {
        format!("UPDATE lists SET elements = elements || {number}::bigint WHERE id IN ({lists})")
    };
    if random.random() {
        return run(client, &update(named(lists.iter().copied())));
    }
    lists
        .iter()
        .all(|list| run(client, &update(list.to_string())))
}

/// What happens to a proxy whose connection has come to a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Kill,
}

#[test]
fn what_clients_see_can_have_happened() {
    let nightly = std::env::var_os("TRUNKLINE_NIGHTLY").is_some();
    let rounds = if nightly { ROUNDS.1 } else { ROUNDS.0 };
    let seed = match std::env::var("TRUNKLINE_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) if nightly => rand::random(),
        Err(_) => 5,
    };
    println!("TRUNKLINE_SEED={seed}");
    let cluster = shards();
    let ports = ports(&cluster);
    let relays = [(); 3].map(|()| Relays::start(&ports));
    let mut proxies = [0, 1, 2].map(|place: usize| Proxy::start(relays[place].ports()));
    let mut client = proxies[0].connect().expect("it serves").expect("it trusts");
    for list in 0..100 {
        let insert = format!("INSERT INTO lists VALUES ({list}, '{{}}')");
        succeeded(&insert, &client.simple(&insert));
    }
    let two = "SELECT id FROM lists ORDER BY id LIMIT 2";
    let lists = ports.iter().flat_map(|port| column(*port, two));
    let work = Work {
        lists: lists.map(|list| list.parse().expect("a number")).collect(),
        closed: AtomicBool::new(false),
        done: Mutex::default(),
        committed: AtomicUsize::new(0),
        sessions: AtomicUsize::new(0),
    };
    assert_eq!(work.lists.len(), LISTS);
    let mut random = SmallRng::seed_from_u64(seed);
    let addresses = proxies.each_ref().map(|proxy| proxy.port);
    std::thread::scope(|scope| {
        for place in 0..CLIENTS {
            let work = &work;
            scope.spawn(move || work.work(place, addresses[place % 3], seed));
        }
        let mut goes_on = true;
        for round in 0..rounds {
            let proxy = random.random_range(0..3);
            let (place, step) = *STEPS.choose(&mut random).expect("there are some");
            let fault = *[Fault::Cut, Fault::Kill].choose(&mut random).expect("two");
            println!("round {round}: {fault:?} proxy {proxy} {place}");
            let before = work.committed.load(Ordering::Relaxed);
            let held = relays[proxy].arm(step).recv_timeout(PATIENCE);
            if let (Fault::Kill, true) = (fault, held.is_ok()) {
                proxies[proxy].kill();
                proxies[proxy].launch();
            }
            goes_on = held.is_ok_and(|held| {
                held.cut();
                comes_true(PATIENCE, || {
                    work.committed.load(Ordering::Relaxed) >= before + PROGRESS
                })
            });
            if !goes_on {
                break;
            }
        }
        // Else the clients would go on for ever.
        work.closed.store(true, Ordering::Relaxed);
        assert!(goes_on, "nothing is committed any more");
    });
    assert!(
        comes_true(BOUND, || prepared(&ports).is_empty()),
        "left: {:?}",
        prepared(&ports)
    );
    let mut history = History {
        transactions: work.done.into_inner().expect("nobody panics"),
        lists: BTreeMap::new(),
    };
    for port in &ports {
        for row in column(*port, "SELECT id || ' ' || elements::text FROM lists") {
            let (list, text) = row.split_once(' ').expect("two columns");
            history
                .lists
                .insert(list.parse().expect("a number"), elements(text));
        }
    }
    let count = |told| {
        history
            .transactions
            .iter()
            .filter(|one| one.told == told)
            .count()
    };
    println!(
        "{} committed, {} failed, {} unknown",
        count(Told::Committed),
        count(Told::Failed),
        count(Told::Unknown)
    );
    let anomalies = history.check();
    let said = format!("{anomalies:?}");
    let words: BTreeSet<&str> = said.split(|c: char| !c.is_ascii_digit()).collect();
    let concerned = history
        .transactions
        .iter()
        .filter(|one| words.contains(&*one.number.to_string()));
    let concerned: Vec<String> = concerned.map(|one| format!("{one:?}")).collect();
    assert!(
        anomalies.is_empty(),
        "seed {seed}: {said}\n{}",
        concerned.join("\n")
    );
}
