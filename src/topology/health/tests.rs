//! Rounds of looks as text, with what they make of the nodes.

use super::*;

const LIMITS: Thresholds = Thresholds { fall: 3, rise: 2 };

/// `P1` and `R1` are a primary and a replica of system 1, `P?` may not tell its system, `x` gives no answer.
/// After a slash: the bytes of log that it has. After an at sign: its timeline.
fn look(text: &str) -> Look {
    let at = SystemTime::UNIX_EPOCH;
    if text == "x" {
        let answer = Err("gone".to_owned());
        return Look { at, answer };
    }
    let (text, timeline) = text.split_once('@').unwrap_or((text, "1"));
    let (text, place) = text.split_once('/').unwrap_or((text, "100"));
    let place = Lsn(place.parse().expect("bytes"));
    let (role, system) = text.split_at(1);
    let answer = Answer {
        position: match role {
            "P" => Position::Primary { written: place },
            "R" => Position::Replica {
                received: None,
                replayed: Some(place),
            },
            other => panic!("{other}"),
        },
        timeline: Some(Timeline(timeline.parse().expect("a timeline"))),
        system: (system != "?").then(|| SystemIdentifier(system.parse().expect("a system"))),
        version: "15.8".to_owned(),
        round_trip: Duration::from_millis(1),
    };
    Look {
        at,
        answer: Ok(answer),
    }
}

fn change((place, change): &(usize, Change)) -> String {
    match change {
        Change::Up(role) => format!("{place} up {}", role.as_str()),
        Change::Role(role) => format!("{place} now {}", role.as_str()),
        Change::Down(error) => format!("{place} down {error}"),
        Change::Refused(Foreign { own, shard }) => format!("{place} refused {own} for {shard}"),
    }
}

/// A line is a round: `what each node answers => the state of each, a plus when the shard has a primary that is up | changes`.
fn run(script: &str) {
    let mut shard: Option<ShardHealth> = None;
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (answers, wanted) = line.split_once("=>").expect(line);
        let looks: Vec<_> = answers.split_whitespace().map(look).collect();
        let shard = shard.get_or_insert_with(|| ShardHealth::new(looks.len()));
        let changes = shard.step(looks, LIMITS);
        let states: Vec<_> = shard.nodes().iter().map(|n| n.state().as_str()).collect();
        let plus = if shard.has_primary_up() { "+ " } else { "" };
        let changes: Vec<_> = changes.iter().map(change).collect();
        let found = format!("{} {plus}| {}", states.join(" "), changes.join(", "));
        assert_eq!(found.trim(), wanted.trim(), "{line}");
    }
}

#[test]
fn the_first_look_decides() {
    run("P1 R1 => up up + | 0 up primary, 1 up replica
         P1 R1 => up up + |");
    run("x R1 => down up | 0 down gone, 1 up replica");
}

#[test]
fn a_node_falls_and_rises_by_looks_in_a_row() {
    run("P1 => up + | 0 up primary
         x  => up + |
         x  => up + |
         P1 => up + |
         x  => up + |
         x  => up + |
         x  => down | 0 down gone
         x  => down |
         P1 => down |
         x  => down |
         P1 => down |
         P1 => up + | 0 up primary
         x  => up + |");
}

#[test]
fn a_promotion_is_told_once() {
    run("P1 R1 => up up + | 0 up primary, 1 up replica
         x  R1 => up up + |
         x  P1@2 => up up + | 1 now primary
         x  P1@2 => down up + | 0 down gone
         R1@2 P1@2 => down up + |
         R1@2 P1@2 => up up + | 0 up replica
         R1@2 x => up up + |");
}

#[test]
fn another_system_is_refused() {
    run("P1 P2 => up refused + | 0 up primary, 1 refused 2 for 1
         P1 P2 => up refused + |
         P1 x  => up refused + |
         P1 R3 => up refused + | 1 refused 3 for 1
         P1 R1 => up refused + |
         P1 x  => up refused + |
         P1 R1 => up refused + |
         P1 R1 => up up + | 1 up replica
         P1 R2 => up refused + | 1 refused 2 for 1");
}

/// The order is that of the file within a round; once known, the shard's system stays, so an empty server in the primary's place cannot
/// push out those with the data.
#[test]
fn the_system_of_a_shard_stays() {
    run("x  R1 => down up | 0 down gone, 1 up replica
         P2 R1 => refused up | 0 refused 2 for 1
         P2 x  => refused up |
         P2 x  => refused up |
         P2 x  => refused down | 1 down gone
         P1 R1 => refused down |
         P1 R1 => up up + | 0 up primary, 1 up replica");
    run("R? P2 P1 => up up refused + | 0 up replica, 1 up primary, 2 refused 1 for 2");
}

#[test]
fn another_configuration_keeps_what_is_known() {
    let mut shard = ShardHealth::new(2);
    shard.step(vec![look("P1"), look("R1")], LIMITS);
    let mut turned = shard.rearranged(&[None, Some(0)]);
    let states: Vec<_> = turned.nodes().iter().map(NodeHealth::state).collect();
    assert_eq!(states, [NodeState::Unknown, NodeState::Up]);
    assert!(turned.has_primary_up());
    let changes = turned.step(vec![look("R2"), look("P1")], LIMITS);
    assert_eq!(
        changes.iter().map(change).collect::<Vec<_>>(),
        ["0 refused 2 for 1"]
    );
    // All servers replaced: refused, until somebody says that it is meant.
    let changes = shard.step(vec![look("P3"), look("R3")], LIMITS);
    assert_eq!(changes.len(), 2);
    assert!(!shard.has_primary_up());
    let mut again = shard.rearranged(&[Some(0), Some(1)]);
    again.step(vec![look("P3"), look("R3")], LIMITS);
    again.step(vec![look("P3"), look("R3")], LIMITS);
    assert!(again.has_primary_up());
}

#[test]
fn what_a_refused_node_says_of_itself() {
    let mut shard = ShardHealth::new(2);
    shard.step(vec![look("P1"), look("P2")], LIMITS);
    let said = shard.nodes()[1].error().expect("refused");
    assert_eq!(
        said,
        "its system identifier is 2, but that of the shard is 1: it holds other data"
    );
    shard.step(vec![look("x"), look("x")], LIMITS);
    assert_eq!(shard.nodes()[0].error().as_deref(), Some("gone"));
    assert_eq!(shard.nodes()[1].error(), Some(format!("{said}; gone")));
    shard.step(vec![look("P1"), look("P2")], LIMITS);
    assert_eq!(shard.nodes()[0].error(), None);
}

#[test]
fn lag_is_counted_from_a_primary_that_answers_now() {
    // A round, and the lag of each node after it.
    let rounds = [
        ("P1/100 R1/100 R1/40", [None, Some(0), Some(60)]),
        // It answered later than the primary.
        ("P1/100 R1/120 x", [None, Some(0), None]),
        ("x R1/120 R1/120", [None, None, None]),
        // Two primaries: that of the higher timeline counts.
        ("P1/900@1 P1/200@2 R1/150", [None, None, Some(50)]),
        // No lag against other data.
        ("P2/900@1 P1/200@2 R1/150", [None, None, Some(50)]),
        ("P1/500 R2/100 R1/500", [None, None, None]),
    ];
    let mut shard = ShardHealth::new(3);
    for (round, wanted) in rounds {
        shard.step(round.split_whitespace().map(look).collect(), LIMITS);
        assert_eq!([0, 1, 2].map(|place| shard.lag(place)), wanted, "{round}");
    }
}
