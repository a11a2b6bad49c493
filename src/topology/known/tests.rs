//! Rounds of looks as text, with what they make of the nodes.

use std::time::SystemTime;

use super::super::answer::{Answer, Failure, Lock, Role, SystemIdentifier, Timeline};
use super::super::health::{Change, Foreign};
use super::*;

const RULES: Rules = Rules {
    thresholds: Thresholds { fall: 3, rise: 2 },
    ejection: ejection::Limits {
        after: 2,
        time: Duration::from_secs(1),
        longest: Duration::from_secs(60),
    },
    lag: lag::Limits {
        bytes: Some(1000),
        time: Some(Duration::from_secs(10)),
    },
    elsewhere: Elsewhere::Primary,
    interval: Duration::from_secs(1),
};

/// A shard of which a round of looks is taken every second.
struct Room {
    known: Known,
    now: Instant,
    rules: Rules,
}

fn names(number: usize) -> Vec<Box<str>> {
    (0..number)
        .map(|place| format!("n{place}").into())
        .collect()
}

impl Room {
    fn new(nodes: usize) -> Room {
        Room {
            known: Known::new(&names(nodes)),
            now: Instant::now(),
            rules: RULES,
        }
    }

    fn round(&mut self, answers: &str) -> Vec<Told> {
        self.now += Duration::from_secs(1);
        let each = answers.split_whitespace().enumerate();
        let looks = each
            .filter(|(_, text)| *text != "-")
            .map(|(place, text)| (place, look(text, self.now)));
        let looks = looks.collect();
        self.known.judge(looks, self.now, &self.rules)
    }

    fn serve(&mut self, place: usize, service: Service) {
        self.known.serve(place, service, self.now);
    }

    /// What part of its reads a node gets, so many seconds from now, in percent.
    fn share(&self, place: usize, later: u64) -> u64 {
        let now = self.now + Duration::from_secs(later);
        let share = self.known.share(place, now, Duration::from_secs(20));
        (share * 100.0).round() as u64
    }

    /// The stages, that of the primary with a star.
    fn shown(&self) -> String {
        let view = self.known.view(self.now);
        let each = view.nodes.iter().enumerate().map(|(place, node)| {
            let star = match view.primary == Some(NodePlace(place)) {
                true => "*",
                false => "",
            };
            format!("{star}{}", node.stage.as_str())
        });
        each.collect::<Vec<_>>().join(" ")
    }

    fn trouble(&self) -> String {
        let view = self.known.view(self.now);
        view.trouble.as_deref().unwrap_or_default().to_owned()
    }

    fn sighted(&mut self, place: usize, seen: Seen) -> Option<Duration> {
        self.known
            .sighted(NodePlace(place), &seen, self.now, 0.0, &self.rules)
    }
}

/// `P1` and `R1` are a primary and a replica of system 1, `P?` may not tell its system, `x` gives no answer, `n` lets nobody in, `-` was not asked.
/// After a slash: the bytes of log that it has. After an at sign: its timeline. After an exclamation mark: its start. After a plus: what its Patroni says, `held2` the second time in a row, `no3` the third time, or `silent`.
fn look(text: &str, asked: Instant) -> Look {
    let at = SystemTime::UNIX_EPOCH;
    let (text, lock) = text.split_once('+').unwrap_or((text, ""));
    let lock = match lock {
        "" => Lock::Unasked,
        "silent" => Lock::Unknown("silent".into()),
        said => {
            let times = said.trim_start_matches(char::is_alphabetic);
            let times = times.parse().expect("a number");
            match said.starts_with("held") {
                true => Lock::Held { times },
                false => Lock::NotHeld {
                    said: "role replica".into(),
                    times,
                },
            }
        }
    };
    let failure = match text {
        "x" => Some(Failure::Gone("gone".to_owned())),
        "n" => Some(Failure::NoEntry("no entry".to_owned())),
        _ => None,
    };
    if let Some(failure) = failure {
        let answer = Err(failure);
        return Look { at, answer, lock };
    }
    let (text, started) = text.split_once('!').unwrap_or((text, ""));
    let (text, timeline) = text.split_once('@').unwrap_or((text, "1"));
    let (text, place) = text.split_once('/').unwrap_or((text, "100"));
    let place = Lsn(place.parse().expect("bytes"));
    let (role, system) = text.split_at(1);
    let answer = Answer {
        position: match role {
            "P" => Position::Primary {
                written: place,
                inserted: place,
            },
            "R" => Position::Replica {
                received: None,
                replayed: Some(place),
            },
            other => panic!("{other}"),
        },
        timeline: (timeline != "?").then(|| Timeline(timeline.parse().expect("a timeline"))),
        system: (system != "?").then(|| SystemIdentifier(system.parse().expect("a system"))),
        started: started.into(),
        version: "15.8".into(),
        asked,
        round_trip: Duration::from_millis(1),
    };
    Look {
        at,
        answer: Ok(answer),
        lock,
    }
}

fn told(told: &Told) -> String {
    let node = |place: &usize, change: &Change| match change {
        Change::Up(role) => format!("{place} up {}", role.as_str()),
        Change::Role(role) => format!("{place} now {}", role.as_str()),
        Change::Down(error) => format!("{place} down {error}"),
        Change::NoEntry(error) => format!("{place} closed: {error}"),
        Change::Refused(Foreign { own, shard }) => format!("{place} refused {own} for {shard}"),
    };
    let standing = |place: &usize, standing: &Standing| match standing {
        Standing::Sound => panic!("that is no fence"),
        Standing::Superseded { own, newest } => {
            format!("{place} superseded {} by {newest}", own.expect("told"))
        }
        Standing::Astray { own, newest } => {
            let own = own.map_or("?".to_owned(), |own| own.to_string());
            format!("{place} astray {own} for {newest}")
        }
        Standing::Rival { other, .. } => format!("{place} rival of {other}"),
        Standing::Unconfirmed { said } => format!("{place} unconfirmed: {said}"),
    };
    match told {
        Told::News(News::Node(place, change)) => node(place, change),
        Told::News(News::Fenced(place, fenced)) => standing(place, fenced),
        Told::News(News::Freed(place)) => format!("{place} freed"),
        Told::News(News::Primary(place)) => format!("primary {place}"),
        Told::News(News::NoPrimary) => "no primary".to_owned(),
        Told::News(News::Lock(place, lock)) => match lock {
            Lock::Unasked => panic!("that is no news"),
            Lock::Held { .. } => format!("{place} leads"),
            Lock::NotHeld { .. } => format!("{place} does not lead"),
            Lock::Unknown(why) => format!("{place} {why}"),
        },
        Told::Lagging(place, _) => format!("{place} lagging"),
        Told::CaughtUp(place) => format!("{place} caught up"),
        Told::Returned(place) => format!("{place} returned"),
    }
}

/// A line is a round: `what each node answers => the stage of each, that of the primary with a star | what is told`.
fn run(script: &str) -> Room {
    let mut stage: Option<Room> = None;
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (answers, wanted) = line.split_once("=>").expect(line);
        let stage = stage.get_or_insert_with(|| Room::new(answers.split_whitespace().count()));
        let news = stage.round(answers);
        let news: Vec<_> = news.iter().map(told).collect();
        let found = format!("{} | {}", stage.shown(), news.join(", "));
        assert_eq!(found.trim(), wanted.trim(), "{line}");
    }
    stage.expect("a script has lines")
}

#[test]
fn the_first_look_decides() {
    run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         P1 R1 => *up up |");
    run("R1 P1 => up *up | 0 up replica, 1 up primary, primary 1");
    let stage = run("x R1 => down up | 0 down gone, 1 up replica");
    assert_eq!(stage.trouble(), "n0: gone; n1 is a replica");
}

#[test]
fn before_the_first_look_the_first_node_is_the_primary() {
    let stage = Room::new(2);
    assert_eq!(stage.shown(), "*unknown unknown");
    assert_eq!(stage.trouble(), "");
}

#[test]
fn a_node_falls_and_rises_by_looks_in_a_row() {
    run("P1 => *up | 0 up primary, primary 0
         x  => *up |
         x  => *up |
         P1 => *up |
         x  => *up |
         x  => *up |
         x  => down | 0 down gone, no primary
         x  => down |
         P1 => down |
         x  => down |
         P1 => down |
         P1 => *up | 0 up primary, primary 0
         x  => *up |");
}

/// Who was not asked, or has still to answer, is as it was.
#[test]
fn slow_nodes_hold_up_nobody() {
    run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         - P1@2 => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2
         x -    => fenced *up |
         x -    => fenced *up |
         x P1@2 => down *up | 0 down gone");
}

#[test]
fn a_promotion_moves_the_primary_at_once() {
    run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         x  R1 => *up up |
         x  P1@2 => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2
         x  P1@2 => down *up | 0 down gone
         R1@2 P1@2 => down *up | 0 freed
         R1@2 P1@2 => up *up | 0 up replica
         R1@2 x => up *up |");
}

/// Clients may have ways in that we have not.
#[test]
fn a_node_that_lets_nobody_look_lives() {
    let stage = run(
        "n n => *unknown unknown | 0 closed: no entry, 1 closed: no entry
         n n => *unknown unknown |
         x n => down unknown | 0 down gone
         n n => down unknown | 0 closed: no entry
         P1 R1 => down up | 1 up replica
         P1 R1 => *up up | 0 up primary, primary 0
         n R1 => *up up | 0 closed: no entry
         x R1 => *up up |
         n R1 => *up up | 0 closed: no entry
         n P1@2 => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2",
    );
    assert!(
        stage
            .known
            .error(0)
            .expect("closed")
            .ends_with("; no entry")
    );
    let stage = run("n R1 => unknown up | 0 closed: no entry, 1 up replica");
    assert_eq!(stage.trouble(), "n0: no entry; n1 is a replica");
}

#[test]
fn a_primary_that_recovers_is_none_any_more() {
    let stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         R1 R1 => up up | 0 now replica, no primary");
    assert_eq!(stage.trouble(), "n0 is a replica; n1 is a replica");
}

/// The old one came back, or never went; a replica of it follows it still.
#[test]
fn what_is_on_an_old_timeline_is_fenced() {
    let stage = run(
        "P1@3 R1@3 R1@3 => *up up up | 0 up primary, 1 up replica, 2 up replica, primary 0
         P1@3 P1@4 R1@3 => fenced *up fenced | 1 now primary, primary 1, 0 superseded 3 by 4, 2 astray 3 for 4
         P1@3 x    R1@3 => fenced *up fenced |
         P1@3 x    R1@3 => fenced *up fenced |
         P1@3 x    R1@3 => fenced down fenced | 1 down gone, no primary
         P1@3 x    R1@4 => fenced down up | 2 freed
         P1@3 P1@4 R1@4 => fenced down up |
         P1@3 P1@4 R1@4 => fenced *up up | 1 up primary, primary 1
         R1@4 P1@4 R1@4 => up *up up | 0 now replica, 0 freed",
    );
    assert_eq!(stage.known.health().successions, 3);
    let stage = run(
        "P1@3 R1@3 R1@4 => fenced fenced up | 0 up primary, 1 up replica, 2 up replica, 0 superseded 3 by 4, 1 astray 3 for 4",
    );
    assert_eq!(
        stage.trouble(),
        "n0: it is a primary on timeline 3, and the shard has gone on to timeline 4: nothing is sent to it; \
         n1: it follows timeline 3, and the shard has gone on to timeline 4: nothing is sent to it; n2 is a replica"
    );
    assert!(stage.known.error(0).expect("fenced").contains("timeline 3"));
}

/// From the first answer on, though it has still to rise.
#[test]
fn an_old_primary_that_comes_back_is_never_used() {
    run("P1 R1   => *up up | 0 up primary, 1 up replica, primary 0
         x P1@2  => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2
         x P1@2  => fenced *up |
         x P1@2  => down *up | 0 down gone
         P1 P1@2 => down *up |
         P1 P1@2 => fenced *up | 0 up primary
         P1 x    => fenced *up |
         P1 x    => fenced *up |
         P1 x    => fenced down | 1 down gone, no primary");
}

/// Once there was a promotion, a replica has to show which side it is on.
#[test]
fn a_replica_that_may_not_tell_its_timeline() {
    run("P1@2 R1@? => *up up | 0 up primary, 1 up replica, primary 0
         P1@3 R1@? => *up fenced | 1 astray ? for 3
         P1@3 R1@3 => *up up | 1 freed");
}

/// It follows nobody at the moment, and then shows what was true at its last checkpoint.
#[test]
fn a_replica_does_not_go_back_while_it_runs() {
    run("P1@1 R1@1 => *up up | 0 up primary, 1 up replica, primary 0
         P1@2 R1@2 => *up up |
         x    R1@1 => *up up |
         x    R1@? => *up up |
         x  R1@1!2 => down fenced | 0 down gone, no primary, 1 astray 1 for 2");
}

#[test]
fn who_comes_back_gets_its_share_by_and_by() {
    let mut stage =
        run("P1 R1 R1 => *up up up | 0 up primary, 1 up replica, 2 up replica, primary 0");
    // It is not that anybody was away.
    assert_eq!([1, 2].map(|place| stage.share(place, 0)), [100, 100]);
    for answers in ["P1 x R1", "P1 x R1", "P1 x R1", "P1 R1 R1"] {
        stage.round(answers);
    }
    assert_eq!(stage.shown(), "*up down up");
    stage.round("P1 R1 R1");
    assert_eq!(stage.shown(), "*up up up");
    let shares = [0, 1, 5, 10, 19, 20, 99].map(|later| stage.share(1, later));
    assert_eq!(shares, [10, 10, 25, 50, 95, 100, 100]);
    assert_eq!(stage.share(2, 0), 100);
    // A look that finds it as it was changes nothing.
    stage.round("P1 R1 R1");
    assert_eq!(stage.share(1, 9), 50);
    stage.serve(2, Service::Drained);
    stage.serve(2, Service::Offered);
    assert_eq!(stage.share(2, 4), 20);
    let away = |stage: &mut Room| stage.sighted(1, Seen::Lost);
    assert_eq!(away(&mut stage), None);
    let length = away(&mut stage).expect("ejected");
    stage.now += length;
    stage.known.judge(Vec::new(), stage.now, &stage.rules);
    assert_eq!(
        (stage.shown(), stage.share(1, 2)),
        ("*up up up".to_owned(), 10)
    );
    assert_eq!(stage.share(1, 8), 40);
}

#[test]
fn patroni_says_who_leads() {
    // Its silence makes no primary, and takes none away.
    let stage = run(
        "P1+silent R1+silent => fenced up | 0 silent, 0 up primary, 1 silent, 1 up replica, 0 unconfirmed: silent
         P1+held1 R1+no1 => *up up | 0 leads, 1 does not lead, primary 0, 0 freed
         P1+silent R1+silent => *up up | 0 silent, 1 silent
         P1+silent P1@2+silent => fenced fenced | 1 now primary, no primary, 0 superseded 1 by 2, 1 unconfirmed: silent",
    );
    assert_eq!(
        stage.trouble(),
        "n0: it is a primary on timeline 1, and the shard has gone on to timeline 2: nothing is sent to it, its Patroni does not answer (silent); \
         n1: it is a primary, and its Patroni does not say that it is the leader (silent): nothing is sent to it"
    );
    // A no is believed the third time, or at once when another one leads.
    let _ = run(
        "P1+held1 R1+no1 => *up up | 0 up primary, 1 up replica, primary 0
         P1+no1 R1+no2 => *up up | 0 does not lead
         P1+no2 R1+no3 => *up up |
         P1+held1 R1+no4 => *up up | 0 leads
         P1+no1 R1+no5 => *up up | 0 does not lead
         P1+no2 R1+no6 => *up up |
         P1+no3 R1+no7 => fenced up | no primary, 0 unconfirmed: role replica
         P1+no4 R1+held1 => fenced up | 1 leads
         P1+no5 P1@2+held2 => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2",
    );
    let _ = run("P1+held1 R1+no1 => *up up | 0 up primary, 1 up replica, primary 0
         P1+no1 R1+held1 => fenced up | 0 does not lead, 1 leads, no primary, 0 unconfirmed: role replica");
    // Two on one timeline: the lock tells who is right.
    let _ = run("P1+held1 R1+no1 => *up up | 0 up primary, 1 up replica, primary 0
         P1+held2 P1+no2 => *up fenced | 1 now primary, 1 unconfirmed: role replica
         P1+no1 P1+held1 => fenced *up | 0 does not lead, 1 leads, primary 1, 0 unconfirmed: role replica, 1 freed");
}

/// What is promoted without Patroni is on the greatest timeline, and has no lock.
#[test]
fn a_promotion_behind_the_back_of_patroni() {
    let _ = run("P1+held9 R1+no1 R1+no1 => *up up up | 0 up primary, 1 up replica, 2 up replica, primary 0
         P1+held10 P1@2+no2 R1+no2 => fenced fenced fenced | 1 now primary, no primary, 0 superseded 1 by 2, 1 unconfirmed: role replica, 2 astray 1 for 2
         P1+held11 P1@2+no3 R1+no3 => fenced fenced fenced |
         P1+held12 P1@2+no4 R1+no4 => fenced fenced fenced |
         P1+held13 P1@2+no5 R1@2+no5 => *up fenced fenced | primary 0, 0 freed, 2 astray 2 for 1
         x+silent P1@2+no6 R1@2+no6 => *up fenced fenced | 0 silent
         P1+silent P1@2+silent R1@2+no7 => *up fenced fenced | 1 silent, 1 unconfirmed: silent
         P1+no1 P1@2+held1 R1@2+no8 => fenced *up up | 0 does not lead, 1 leads, primary 1, 0 superseded 1 by 2, 1 freed, 2 freed
         P1+no2 P1@2+silent R1@2+no8 => fenced *up up | 1 silent");
    // What was said before the greater timeline was seen does not count.
    let _ = run(
        "P1+held9 R1+no1 => *up up | 0 up primary, 1 up replica, primary 0
         P1+held9 P1@2+held1 => fenced *up | 1 leads, 1 now primary, primary 1, 0 superseded 1 by 2
         P1+held9 P1@2+silent => fenced fenced | 1 silent, no primary, 1 unconfirmed: silent
         P1+no1 P1@2+silent => fenced fenced | 0 does not lead
         P1+no2 P1@2+held1 => fenced *up | 1 leads, primary 1, 1 freed",
    );
}

#[test]
fn two_primaries_on_one_timeline() {
    // The one in use stays, and the other is out, also when the first is gone.
    let stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         P1 P1 => *up fenced | 1 now primary, 1 rival of n0
         P1 P1 => *up fenced |
         x  P1 => *up fenced |
         x  P1 => *up fenced |
         x  P1 => down fenced | 0 down gone, no primary, 1 rival of the one before
         x  R1 => down up | 1 now replica, 1 freed
         x  P1 => down *up | 1 now primary, primary 1");
    assert_eq!(stage.trouble(), "");
    // Nobody was in use.
    let stage = run(
        "P1 P1 => fenced fenced | 0 up primary, 1 up primary, 0 rival of n1, 1 rival of n0
         P1 P1@2 => fenced *up | primary 1, 0 superseded 1 by 2, 1 freed",
    );
    assert_eq!(stage.trouble(), "");
    let stage =
        run("P1 P1 => fenced fenced | 0 up primary, 1 up primary, 0 rival of n1, 1 rival of n0");
    assert_eq!(
        stage.trouble(),
        "n0: it is a primary on timeline 1, and so is n1: nothing is sent to it; \
         n1: it is a primary on timeline 1, and so is n0: nothing is sent to it"
    );
}

/// A server that goes on with the storage of another one has its timeline too.
#[test]
fn who_takes_over_without_a_promotion() {
    run("P1 x  => *up down | 0 up primary, 1 down gone, primary 0
         x  P1 => *up down |
         x  P1 => *up fenced | 1 up primary, 1 rival of n0
         x  P1 => down *up | 0 down gone, primary 1, 1 freed
         P1 P1 => down *up |
         P1 P1 => fenced *up | 0 up primary, 0 rival of n1");
}

#[test]
fn another_system_is_refused() {
    run(
        "P1 P2 => *up refused | 0 up primary, 1 refused 2 for 1, primary 0
         P1 P2@9 => *up refused |
         P1 x  => *up refused |
         P1 R3 => *up refused | 1 refused 3 for 1
         P1 R1 => *up refused |
         P1 x  => *up refused |
         P1 R1 => *up refused |
         P1 R1 => *up up | 1 up replica
         P1 R2 => *up refused | 1 refused 2 for 1",
    );
}

/// The order is that of the file within a round; once known, the shard's system stays, so an empty server in the primary's place cannot
/// push out those with the data.
#[test]
fn the_system_of_a_shard_stays() {
    let stage = run("x  R1 => down up | 0 down gone, 1 up replica
         P2 R1 => refused up | 0 refused 2 for 1
         P2 x  => refused up |
         P2 x  => refused up |
         P2 x  => refused down | 1 down gone
         P1 R1 => refused down |
         P1 R1 => *up up | 0 up primary, 1 up replica, primary 0");
    assert_eq!(stage.trouble(), "");
    run("R? P2 P1 => up *up refused | 0 up replica, 1 up primary, 2 refused 1 for 2, primary 1");
}

#[test]
fn another_configuration_keeps_what_is_known() {
    let mut stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0");
    stage.serve(1, Service::Drained);
    let mut turned = Room {
        known: stage.known.rearranged(&names(3), &[None, Some(1), Some(0)]),
        ..stage
    };
    assert_eq!(turned.shown(), "unknown drained *up");
    let news = turned.round("R2 R1 P1");
    assert_eq!(
        news.iter().map(told).collect::<Vec<_>>(),
        ["0 refused 2 for 1"]
    );
    // The primary leaves.
    let known = turned.known.rearranged(&names(1), &[Some(1)]);
    let left = Room { known, ..turned };
    assert_eq!(left.shown(), "drained");
    assert_eq!(left.trouble(), "n1 is a replica");
}

/// A file that is read again does not let an old primary in while the new one is away.
#[test]
fn another_configuration_keeps_the_fence() {
    let stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         P1 P1@2 => fenced *up | 1 now primary, primary 1, 0 superseded 1 by 2
         P1 x => fenced *up |
         P1 x => fenced *up |
         P1 x => fenced down | 1 down gone, no primary");
    let known = stage.known.rearranged(&names(2), &[Some(0), Some(1)]);
    let mut stage = Room { known, ..stage };
    stage.round("P1 x");
    assert_eq!(stage.shown(), "fenced down");
}

/// All servers replaced: refused, until somebody says that it is meant.
#[test]
fn another_configuration_may_take_another_system() {
    let mut stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0
         P3 R3 => refused refused | 0 refused 3 for 1, 1 refused 3 for 1, no primary");
    stage.known = stage.known.rearranged(&names(2), &[Some(0), Some(1)]);
    stage.round("P3 R3");
    stage.round("P3 R3");
    assert_eq!(stage.shown(), "*up up");
}

#[test]
fn what_a_refused_node_says_of_itself() {
    let mut stage = Room::new(2);
    stage.round("P1 P2");
    let said = stage.known.error(1).expect("refused");
    assert_eq!(
        said,
        "its system identifier is 2, but that of the shard is 1: it holds other data"
    );
    stage.round("x x");
    assert_eq!(stage.known.error(0).as_deref(), Some("gone"));
    assert_eq!(stage.known.error(1), Some(format!("{said}; gone")));
    stage.round("P1 P2");
    assert_eq!(stage.known.error(0), None);
}

#[test]
fn bytes_of_lag_are_counted_from_the_primary_that_is_in_use() {
    // A round, and the lag of each node after it.
    let rounds = [
        ("P1/100 R1/100 R1/40", [None, Some(0), Some(60)]),
        // It answered later than the primary.
        ("P1/100 R1/120 x", [None, Some(0), None]),
        ("x R1/120 R1/120", [None, None, None]),
        // Two primaries.
        ("P1/900@1 P1/200@2 R1/150@2", [None, None, Some(50)]),
        // No lag against other data, and none of those that follow another timeline.
        ("P2/900@1 P1/200@2 R1/150@2", [None, None, Some(50)]),
        ("P2/900@1 P1/200@2 R1/150@1!2", [None, None, None]),
    ];
    let mut stage = Room::new(3);
    for (round, wanted) in rounds {
        stage.round(round);
        let found = [0, 1, 2].map(|place| stage.known.lag(place).bytes);
        assert_eq!(found, wanted, "{round}");
    }
}

#[test]
fn a_replica_that_is_late_takes_no_reads_until_it_is_close() {
    let stage = run(
        "P1/100 R1/100 => *up up | 0 up primary, 1 up replica, primary 0
         P1/100 R1/100 => *up up |
         P1/2000 R1/100 => *up lagging | 1 lagging
         P1/2000 R1/1400 => *up lagging |
         x       R1/2000 => *up lagging |
         P1/2000 R1/1500 => *up up | 1 caught up",
    );
    let marks = &stage.known.view(stage.now).nodes[1].marks;
    assert_eq!(marks.replayed(), Lsn(1500));
    assert_eq!(marks.lag_bytes(), Some(500));
    // The primary was found past it four seconds ago, and the question that found it was just sent.
    assert_eq!(marks.lag(), Some(Duration::from_millis(3001)));
}

/// By time: ten seconds after it was first found late.
#[test]
fn age_counts_from_the_first_look_that_found_more() {
    let mut stage = Room::new(2);
    let mut shown = Vec::new();
    for _ in 0..20 {
        stage.round("P1/100 R1/100");
        assert_eq!(stage.shown(), "*up up");
    }
    for _ in 0..12 {
        stage.round("P1/110 R1/109");
        shown.push(stage.shown());
    }
    assert_eq!(shown.iter().filter(|shown| *shown == "*up up").count(), 10);
    assert_eq!(shown[11], "*up lagging");
    stage.round("P1/110 R1/110");
    assert_eq!(stage.shown(), "*up up");
}

#[test]
fn marks_cover_what_was_committed_before_the_question() {
    let mut stage = Room::new(2);
    stage.round("P1/100 P1/900@2");
    let written = stage.known.view(stage.now).written.clone();
    let mark = |stage: &Room| {
        let mark = written.last().expect("looked at");
        (mark.lsn, stage.now - mark.asked)
    };
    assert_eq!(mark(&stage), (Lsn(900), Duration::ZERO));
    // Not of one that is fenced, and not of one that does not answer.
    stage.round("P1/2000 x");
    assert_eq!(mark(&stage), (Lsn(900), Duration::from_secs(1)));
    stage.round("P1/2000 P1/950@2");
    assert_eq!(mark(&stage), (Lsn(950), Duration::ZERO));
}

#[test]
fn clients_eject_replicas_and_never_the_primary() {
    let mut stage = Room::new(3);
    stage.round("P1 R1 R1");
    for _ in 0..10 {
        assert_eq!(stage.sighted(0, Seen::Lost), None);
    }
    assert_eq!(stage.shown(), "*up up up");
    assert_eq!(stage.sighted(1, Seen::Unreachable(String::new())), None);
    stage.sighted(1, Seen::Reached);
    assert_eq!(stage.sighted(1, Seen::Lost), None);
    assert_eq!(stage.sighted(1, Seen::Lost), Some(Duration::from_secs(1)));
    assert_eq!(stage.shown(), "*up ejected up");
    let back = stage.known.next_return(stage.now).expect("ejected");
    assert_eq!(back, stage.now + Duration::from_secs(1));
    // One of a configuration that has gone.
    assert_eq!(stage.sighted(7, Seen::Lost), None);
    stage.round("P1 R1 R1");
    assert_eq!(stage.shown(), "*up up up");
}

/// Reads go to a primary, if they may; else one that fails is better than none.
#[test]
fn the_last_replica_is_ejected_only_when_reads_have_somewhere_to_go() {
    let eject = |stage: &mut Room, place| {
        stage.sighted(place, Seen::Lost);
        stage.sighted(place, Seen::Lost).is_some()
    };
    let mut stage = Room::new(2);
    stage.round("P1 R1");
    assert!(eject(&mut stage, 1));
    // And it comes back when the primary goes.
    stage.round("R1 -");
    assert_eq!(stage.shown(), "up up");
    let mut stage = Room::new(3);
    stage.rules.elsewhere = Elsewhere::Nowhere;
    stage.round("P1 R1 R1");
    assert!(eject(&mut stage, 1));
    assert!(!eject(&mut stage, 2));
    assert_eq!(stage.shown(), "*up ejected up");
    for _ in 0..2 {
        stage
            .known
            .judge(vec![(2, look("x", stage.now))], stage.now, &stage.rules);
    }
    assert_eq!(stage.shown(), "*up ejected up");
    let last = vec![(2, look("x", stage.now))];
    let news = stage.known.judge(last, stage.now, &stage.rules);
    assert_eq!(
        news.iter().map(told).collect::<Vec<_>>(),
        ["2 down gone", "1 returned"]
    );
    assert_eq!(stage.shown(), "*up up down");
}

#[test]
fn a_drained_node_takes_no_reads_until_it_is_given_back_or_made_the_primary() {
    let mut stage = Room::new(2);
    stage.round("P1 R1");
    stage.serve(1, Service::Drained);
    assert_eq!(stage.shown(), "*up drained");
    stage.serve(1, Service::Offered);
    assert_eq!(stage.shown(), "*up up");
    stage.serve(1, Service::Drained);
    stage.round("P1 P1@2");
    assert_eq!(stage.shown(), "fenced *up");
    stage.round("P1@3 R1@3");
    assert_eq!(stage.shown(), "*up up");
}

#[test]
fn what_clients_see_and_what_is_wrong_has_the_shard_looked_at() {
    let mut stage = Room::new(2);
    assert_eq!(stage.known.due(&RULES, stage.now), None);
    let wait = |stage: &mut Room| {
        stage.known.begin(stage.now);
        stage.known.due(&RULES, stage.now).expect("begun") - stage.now
    };
    stage.round("P1 R1");
    assert_eq!(wait(&mut stage), Duration::from_secs(1));
    stage.sighted(0, Seen::Reached);
    assert_eq!(wait(&mut stage), Duration::from_secs(1));
    // One that fails is followed until it is down, and after that only as long as nobody else is the primary.
    for (round, wanted) in [
        ("P1 x", 100),
        ("P1 x", 100),
        ("P1 x", 1000),
        ("P1 R1", 100),
        ("P1 R1", 1000),
        ("x R1", 100),
        ("x R1", 100),
        ("x R1", 100),
        ("x R1", 100),
        ("x P1@2", 1000),
    ] {
        stage.round(round);
        assert_eq!(wait(&mut stage), Duration::from_millis(wanted), "{round}");
    }
    stage.sighted(1, Seen::ReadOnly);
    assert_eq!(wait(&mut stage), Duration::from_millis(100));
    stage.sighted(0, Seen::Awaited);
    assert_eq!(wait(&mut stage), Duration::from_millis(10));
}

#[test]
fn a_view_is_the_same_until_something_but_marks_changes() {
    let mut stage = Room::new(2);
    stage.round("P1/100 R1/100");
    let before = stage.known.view(stage.now);
    stage.round("P1/200 R1/150");
    assert!(stage.known.view(stage.now).says_the_same(&before));
    assert_eq!(before.nodes[1].marks.replayed(), Lsn(150));
    stage.round("P1/200 R1/150");
    stage.serve(1, Service::Drained);
    assert!(!stage.known.view(stage.now).says_the_same(&before));
}

#[test]
fn roles_are_what_was_last_said() {
    let stage = run("P1 R1 => *up up | 0 up primary, 1 up replica, primary 0");
    let roles: Vec<_> = stage
        .known
        .health()
        .nodes()
        .map(|node| node.role())
        .collect();
    assert_eq!(roles, [Role::Primary, Role::Replica]);
}
