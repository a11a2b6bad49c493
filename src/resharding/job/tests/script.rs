//! `tests/golden/resharding/job/*.txt`: what is seen and asked for, then `----`, then the phase and the actions of one step.
//!
//! A paragraph changes what is seen; everything else stays as it was. Lines: `ask VERB ..` (as operators write it, without the plan's name) |
//! `now 5` | `map 4 old` (or `new`, `neither`) | `gate 2 closed` | `check 1 [a problem]` | `trouble why` | `wal s0` | `calm` |
//! `shard s0 open=1 publication slot guard=arriving fence=2@70 indexed strangers rows=leaving` (or `unseen`) |
//! `stream s0 > s2 copied near fence=2 verified=1/0` | `proxy p live gate=2 drained epoch=4` (or `ended`) | `again` (nothing new is seen).
//! A file begins with the plan: `plan s0 > s2, ..`. Run with UPDATE_GOLDEN=1 to write what is found.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::super::*;
use crate::resharding::language::{Statement, parse};

#[test]
fn golden_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/resharding/job");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 3);
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a script");
        let found = run(&text);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &found).expect("it can be written");
        } else {
            assert!(
                found == text,
                "{}: run with UPDATE_GOLDEN=1 and read the difference:\n{found}",
                path.display()
            );
        }
    }
}

fn run(text: &str) -> String {
    let mut found = String::new();
    let mut job = None;
    let mut seen = Observed::default();
    for paragraph in text.split("\n\n").map(|one| one.trim_matches('\n')) {
        let question = paragraph.split("\n----").next().unwrap_or_default();
        if question.is_empty() {
            continue;
        }
        writeln!(found, "{question}").unwrap();
        if !question.lines().all(|line| line.starts_with('#')) {
            found.push_str("----\n");
            let before = job.clone();
            for line in question.lines().filter(|line| !line.starts_with('#')) {
                if let Some(refused) = change(line, &mut job, &mut seen) {
                    writeln!(found, "refused: {refused}").unwrap();
                }
            }
            let (next, actions) = step(job.as_ref().expect("a plan first"), &seen);
            assert_eq!(from_json(&to_json(&next)).expect("what was written"), next);
            writeln!(found, "{next}").unwrap();
            for action in actions {
                writeln!(found, "  {action}").unwrap();
            }
            for event in events(before.as_ref().unwrap_or(&next), &next) {
                writeln!(found, "  event: {event}").unwrap();
            }
            if let Some(note) = &next.note {
                writeln!(found, "  note: {note}").unwrap();
            }
            job = Some(next);
        }
        found.push('\n');
    }
    found
}

/// One line of a paragraph; gives the refusal of a command.
fn change(line: &str, job: &mut Option<Job>, seen: &mut Observed) -> Option<String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words: Vec<&str> = rest.split(' ').collect();
    let shard = |name: &str| ShardName(name.into());
    match word {
        "plan" => {
            let routes = rest.split(", ").map(|route| {
                let (from, to) = route.split_once(" > ").expect("an arrow");
                Route {
                    from: shard(from),
                    to: shard(to),
                }
            });
            let plan = Plan {
                name: "p".into(),
                number: 7,
                database: "app".into(),
                maps: vec![],
                tables: vec!["public.t".into()],
                routes: routes.collect(),
            };
            *job = Some(Job::new(plan, MapEpoch(4)));
        }
        "ask" => {
            let text = rest.replacen(words[0], &format!("{} p", words[0]), 1);
            let Ok(Statement::Command { command, .. }) = parse(&text) else {
                panic!("{text}");
            };
            match job.as_ref().expect("a plan").command(command) {
                Ok(after) => *job = Some(after),
                Err(error) => return Some(error.to_string()),
            }
        }
        "again" => {}
        "now" => seen.now = Moment(number(rest)),
        "map" => {
            seen.map = Some(MapFact {
                epoch: MapEpoch(number(words[0])),
                side: match words[1] {
                    "old" => Some(Side::Old),
                    "new" => Some(Side::New),
                    _ => None,
                },
            });
        }
        "gate" => {
            seen.gate = Some(GateFact {
                term: term(words[0]),
                state: match words[1] {
                    "closed" => GateState::Closed,
                    _ => GateState::Open,
                },
            });
        }
        "check" => {
            seen.check = Some(CheckFact {
                round: u32::try_from(number(words[0])).unwrap(),
                problems: rest
                    .split_once(' ')
                    .map(|(_, problem)| problem.into())
                    .into_iter()
                    .collect(),
                notes: vec![],
            });
        }
        "trouble" => seen.troubles = vec![Trouble::Other(rest.into())],
        "wal" => seen.troubles = vec![Trouble::WalLimit { shard: shard(rest) }],
        "calm" => seen.troubles.clear(),
        "shard" if words[1] == "unseen" => {
            seen.shards.remove(&shard(words[0]));
        }
        "shard" => {
            seen.shards.insert(shard(words[0]), shard_fact(&words[1..]));
        }
        "stream" => {
            let stream = Route {
                from: shard(words[0]),
                to: shard(words[2]),
            };
            seen.streams.insert(stream, stream_fact(&words[3..]));
        }
        "proxy" => {
            let fact = ProxyFact {
                lease_live: words[1] == "live",
                gate: value(&words, "gate").map(term),
                drained: words.contains(&"drained"),
                epoch: MapEpoch(value(&words, "epoch").map_or(4, number)),
            };
            let proxies = seen.proxies.get_or_insert_default();
            proxies.insert(words[0].into(), fact);
        }
        other => panic!("{other} is no line of a script"),
    }
    None
}

fn shard_fact(words: &[&str]) -> ShardFact {
    let kinds = |name: &str| -> BTreeSet<MovingKeys> {
        let values = words.iter().filter_map(|word| word.split_once('='));
        values
            .filter(|(key, _)| *key == name)
            .map(|(_, kind)| match kind {
                "leaving" => MovingKeys::Leaving,
                _ => MovingKeys::Arriving,
            })
            .collect()
    };
    let open = value(words, "open").map(|text| Ledger::Open { term: term(text) });
    let closed = value(words, "closed").map(|text| Ledger::Closed { term: term(text) });
    ShardFact {
        ledger: open.or(closed).unwrap_or(Ledger::Absent),
        publication: words.contains(&"publication"),
        slot: match (words.contains(&"slot"), words.contains(&"lost")) {
            (true, _) => Slot::There { retained: 0 },
            (false, true) => Slot::Lost,
            (false, false) => Slot::Absent,
        },
        guards: kinds("guard"),
        fence: value(words, "fence").map(|text| {
            let (of, at) = text.split_once('@').expect("term@lsn");
            (term(of), Lsn(number(at)))
        }),
        indexed: words.contains(&"indexed"),
        strangers: words.contains(&"strangers"),
        rows: kinds("rows"),
    }
}

fn stream_fact(words: &[&str]) -> StreamFact {
    StreamFact {
        copied: words.contains(&"copied"),
        caught_up: words.contains(&"near"),
        fence_applied: value(words, "fence").map(term),
        verified: value(words, "verified").map(|text| {
            let (round, differences) = text.split_once('/').expect("round/differences");
            VerifyFact {
                round: u32::try_from(number(round)).unwrap(),
                differences: number(differences),
            }
        }),
    }
}

fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let mut pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn number(text: &str) -> u64 {
    text.parse().expect(text)
}

fn term(text: &str) -> Term {
    Term(u32::try_from(number(text)).unwrap())
}

#[test]
fn a_job_of_another_form_is_refused() {
    let error = from_json("{\"version\": 2, \"job\": {\"anything\": 1}}").unwrap_err();
    assert!(
        matches!(error, RecordError::Version { found: 2 }),
        "{error}"
    );
    assert!(matches!(from_json("{}"), Err(RecordError::Malformed(_))));
    assert!(matches!(
        from_json("{\"version\": 1, \"job\": {}}"),
        Err(RecordError::Malformed(_))
    ));
}
