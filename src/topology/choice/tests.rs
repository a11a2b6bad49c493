use std::sync::Arc;

use proptest::prelude::*;

use super::super::view::Mark;
use super::*;
use crate::config::Config;

/// One shard; `nodes` are the lines of its nodes behind their hosts.
fn view(nodes: &[&str]) -> View {
    let mut text = String::from(
        "[[databases]]\nname = \"app\"\n[[users]]\nname = \"u\"\npassword = \"p\"\n[[shards]]\nname = \"s\"\n",
    );
    for (place, node) in nodes.iter().enumerate() {
        text += &format!("[[shards.nodes]]\nhost = \"node{place}\"\n{node}\n");
    }
    let config: Config = crate::config::parse(&text, "test.toml", &|_| None).expect("it is sound");
    let mut view = View::unseen(&Arc::new(config));
    for node in &mut view.shards[0].nodes {
        node.stage = Stage::Up;
    }
    view
}

fn read() -> Read<'static> {
    Read {
        shard: ShardId(0),
        from: ReadFrom::Any,
        balance: Balance::RoundRobin,
        primary: PrimaryReads::LastResort,
        zone: None,
        lag: Lag::AsConfigured,
        floor: Floor::None,
        patience: Patience::Waits,
        client: 0,
        without: NodeSet::EMPTY,
        now: Instant::now(),
    }
}

fn node(place: usize) -> Choice {
    Choice::Node(NodePlace(place))
}

fn chosen(view: &View, read: &Read<'_>) -> Choice {
    choose(view, read, &Cell::new(0), |_| 0)
}

/// How often each node is chosen, the primary as the node that it is.
fn counts(view: &View, read: &Read<'_>, times: usize) -> Vec<usize> {
    let turn = Cell::new(0);
    let mut counts = vec![0; view.shards[0].nodes.len()];
    for _ in 0..times {
        match choose(view, read, &turn, |_| 0) {
            Choice::Node(place) => counts[place.0] += 1,
            Choice::Primary => counts[view.shards[0].primary.expect("there is one").0] += 1,
            other => panic!("{other:?}"),
        }
    }
    counts
}

fn replayed(view: &View, place: usize, lsn: u64) {
    view.shards[0].nodes[place]
        .marks
        .note(Lsn(lsn), Some(0), Some(Duration::ZERO));
}

#[test]
fn replicas_have_their_turns_and_the_primary_none() {
    let view = view(&["", "", ""]);
    assert_eq!(counts(&view, &read(), 100), [0, 50, 50]);
    let with_primary = Read {
        primary: PrimaryReads::TakesPart,
        ..read()
    };
    assert_eq!(counts(&view, &with_primary, 99), [33, 33, 33]);
    let from_replicas = Read {
        from: ReadFrom::Replica,
        ..with_primary
    };
    assert_eq!(counts(&view, &from_replicas, 100), [0, 50, 50]);
    let from_primary = Read {
        from: ReadFrom::Primary,
        ..read()
    };
    assert_eq!(chosen(&view, &from_primary), Choice::Primary);
}

#[test]
fn weights_are_kept_over_long_and_short() {
    let view = view(&["weight = 5", "weight = 1", "weight = 3", "weight = 0"]);
    let read = Read {
        balance: Balance::Weighted,
        ..read()
    };
    let all = counts(&view, &read, 40_000);
    assert_eq!((all[0], all[3]), (0, 0));
    assert!((9_990..=10_010).contains(&all[1]), "{all:?}");
    // Evenly: of any eight in a row, the light one has about two.
    let turn = Cell::new(usize::MAX - 100);
    for _ in 0..1_000 {
        let light = (0..8)
            .filter(|_| choose(&view, &read, &turn, |_| 0) == node(1))
            .count();
        assert!((1..=3).contains(&light), "{light}");
    }
    let heavy_primary = Read {
        primary: PrimaryReads::TakesPart,
        ..read
    };
    let all = counts(&view, &heavy_primary, 9_000);
    assert!((4_990..=5_010).contains(&all[0]), "{all:?}");
}

#[test]
fn nothing_goes_where_there_is_no_weight() {
    let view = view(&["", "weight = 0"]);
    let mut read = Read {
        balance: Balance::Weighted,
        ..read()
    };
    assert_eq!(chosen(&view, &read), Choice::Primary);
    read.from = ReadFrom::Replica;
    assert_eq!(chosen(&view, &read), Choice::Nobody(Missing::Well));
    read.balance = Balance::RoundRobin;
    assert_eq!(chosen(&view, &read), node(1));
}

#[test]
fn the_idlest_is_chosen_and_equals_take_turns() {
    let view = view(&["", "", "", ""]);
    let read = Read {
        balance: Balance::LeastConnections,
        ..read()
    };
    let turn = Cell::new(0);
    let used = [0, 7, 3, 3];
    let mut found = [0; 4];
    for _ in 0..10 {
        match choose(&view, &read, &turn, |place| used[place.0]) {
            Choice::Node(place) => found[place.0] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(found, [0, 0, 5, 5]);
}

#[test]
fn the_nearest_zone_is_left_only_when_nobody_is_there() {
    let mut view = view(&[
        "zone = \"a\"",
        "zone = \"a\"",
        "zone = \"b\"",
        "zone = \"a\"",
        "",
    ]);
    let read = Read {
        balance: Balance::NearestZone,
        zone: Some("a"),
        ..read()
    };
    assert_eq!(counts(&view, &read, 100), [0, 50, 0, 50, 0]);
    view.shards[0].nodes[1].stage = Stage::Down;
    assert_eq!(counts(&view, &read, 100), [0, 0, 0, 100, 0]);
    view.shards[0].nodes[3].stage = Stage::Ejected;
    assert_eq!(counts(&view, &read, 100), [0, 0, 50, 0, 50]);
    let nowhere = Read { zone: None, ..read };
    assert_eq!(counts(&view, &nowhere, 100), [0, 0, 50, 0, 50]);
}

#[test]
fn backups_serve_when_no_regular_replica_can() {
    let mut view = view(&["", "", "backup = true"]);
    assert_eq!(counts(&view, &read(), 10), [0, 10, 0]);
    for stage in [
        Stage::Unknown,
        Stage::Ejected,
        Stage::Down,
        Stage::Refused,
        Stage::Fenced,
        Stage::Drained,
        Stage::Lagging,
    ] {
        view.shards[0].nodes[1].stage = stage;
        assert_eq!(chosen(&view, &read()), node(2), "{stage:?}");
    }
    view.shards[0].nodes[2].stage = Stage::Down;
    assert_eq!(chosen(&view, &read()), Choice::Primary);
    let from_replicas = Read {
        from: ReadFrom::Replica,
        ..read()
    };
    assert_eq!(chosen(&view, &from_replicas), Choice::Nobody(Missing::Well));
}

#[test]
fn a_floor_is_waited_for_and_then_the_primary_serves() {
    let view = view(&["", "", "", "backup = true"]);
    replayed(&view, 1, 99);
    replayed(&view, 2, 100);
    replayed(&view, 3, 100);
    let at = |lsn| Read {
        floor: Floor::At(Lsn(lsn)),
        ..read()
    };
    assert_eq!(counts(&view, &at(99), 10), [0, 5, 5, 0]);
    assert_eq!(counts(&view, &at(100), 10), [0, 0, 10, 0]);
    assert_eq!(chosen(&view, &at(101)), Choice::Wait);
    let tired = Read {
        patience: Patience::Over,
        ..at(101)
    };
    assert_eq!(chosen(&view, &tired), Choice::Primary);
    let from_replicas = Read {
        from: ReadFrom::Replica,
        ..tired
    };
    assert_eq!(
        chosen(&view, &from_replicas),
        Choice::Nobody(Missing::Replayed)
    );
    replayed(&view, 3, 101);
    assert_eq!(chosen(&view, &at(101)), Choice::Wait);
    assert_eq!(chosen(&view, &tired), node(3));
    let with_primary = Read {
        primary: PrimaryReads::TakesPart,
        ..at(101)
    };
    assert_eq!(chosen(&view, &with_primary), Choice::Primary);
}

#[test]
fn what_was_committed_since_needs_a_mark_that_was_asked_since() {
    let view = view(&["", ""]);
    let before = Instant::now();
    let after = before + Duration::from_millis(1);
    replayed(&view, 1, 500);
    let read = Read {
        floor: Floor::Since(after),
        ..read()
    };
    assert_eq!(chosen(&view, &read), Choice::Wait);
    let written = &view.shards[0].written;
    let mark = |lsn, asked| {
        written.note(Mark {
            lsn: Lsn(lsn),
            asked,
        })
    };
    mark(400, before);
    assert_eq!(chosen(&view, &read), Choice::Wait);
    mark(501, after);
    assert_eq!(chosen(&view, &read), Choice::Wait);
    assert_eq!(read.floor.settled(written), Floor::At(Lsn(501)));
    mark(500, after);
    assert_eq!(chosen(&view, &read), node(1));
}

#[test]
fn a_page_that_has_just_begun_has_nothing_to_replay() {
    for (floor, replayed) in [
        (0x3000028, 0x3000000),
        (0x3002018, 0x3002000),
        (0x3002030, 0x3002030),
        (0x3002028, 0x3002028),
    ] {
        let floor = Floor::At(Lsn(floor));
        assert!(floor.is_met_by(Lsn(replayed)), "{floor:?}");
        assert!(!floor.is_met_by(Lsn(replayed - 8)), "{floor:?}");
    }
}

#[test]
fn a_limit_of_its_own_takes_the_place_of_the_stage() {
    let mut view = view(&["", "", ""]);
    let behind = |view: &View, place: usize, bytes, lag: Option<u64>| {
        let lag = lag.map(Duration::from_secs);
        view.shards[0].nodes[place]
            .marks
            .note(Lsn(1), Some(bytes), lag)
    };
    behind(&view, 1, 10, Some(5));
    behind(&view, 2, 1_000, Some(60));
    view.shards[0].nodes[2].stage = Stage::Lagging;
    let within = |time: Option<u64>, bytes| Read {
        lag: Lag::Within {
            time: time.map(Duration::from_secs),
            bytes,
        },
        ..read()
    };
    assert_eq!(counts(&view, &read(), 10), [0, 10, 0]);
    assert_eq!(counts(&view, &within(Some(5), None), 10), [0, 10, 0]);
    assert_eq!(counts(&view, &within(Some(60), None), 10), [0, 5, 5]);
    assert_eq!(counts(&view, &within(Some(60), Some(999)), 10), [0, 10, 0]);
    assert_eq!(counts(&view, &within(None, None), 10), [0, 5, 5]);
    assert_eq!(chosen(&view, &within(Some(4), None)), Choice::Primary);
    behind(&view, 1, 10, None);
    assert_eq!(chosen(&view, &within(Some(5), None)), Choice::Primary);
    view.shards[0].nodes[1].stage = Stage::Ejected;
    view.shards[0].nodes[2].stage = Stage::Fenced;
    assert_eq!(chosen(&view, &within(None, None)), Choice::Primary);
}

#[test]
fn a_retry_goes_elsewhere() {
    let view = view(&["", "", ""]);
    let without = |places: &[usize]| Read {
        without: places
            .iter()
            .fold(NodeSet::EMPTY, |set, place| set.with(NodePlace(*place))),
        ..read()
    };
    assert_eq!(counts(&view, &without(&[1]), 10), [0, 0, 10]);
    assert_eq!(chosen(&view, &without(&[1, 2])), Choice::Primary);
    assert_eq!(
        chosen(&view, &without(&[0, 1, 2])),
        Choice::Nobody(Missing::Untried)
    );
}

#[test]
fn a_shard_without_replicas_or_a_primary_says_so() {
    let mut alone = view(&[""]);
    let from_replicas = Read {
        from: ReadFrom::Replica,
        ..read()
    };
    assert_eq!(
        chosen(&alone, &from_replicas),
        Choice::Nobody(Missing::Replica)
    );
    assert_eq!(chosen(&alone, &read()), Choice::Primary);
    alone.shards[0].primary = None;
    // It waits there for one.
    alone.shards[0].nodes[0].stage = Stage::Down;
    assert_eq!(chosen(&alone, &read()), Choice::Primary);
    let elsewhere = Read {
        shard: ShardId(1),
        ..read()
    };
    assert_eq!(chosen(&alone, &elsewhere), Choice::Nobody(Missing::Shard));
}

#[test]
fn clients_stay_where_they_are_when_another_node_leaves() {
    let mut view = view(&["", "", "", "", ""]);
    let place = |view: &View, client: u64| {
        let read = Read {
            balance: Balance::ClientAddress,
            client: client_hash(Some(std::net::Ipv4Addr::from_bits(client as u32).into())),
            ..read()
        };
        match choose(view, &read, &Cell::new(client as usize), |_| 0) {
            Choice::Node(place) => place.0,
            other => panic!("{other:?}"),
        }
    };
    let clients = 0x0A00_0000..0x0A00_0000 + 8_000_u64;
    let before: Vec<usize> = clients.clone().map(|client| place(&view, client)).collect();
    for node in 1..5 {
        let count = before.iter().filter(|place| **place == node).count();
        assert!((1_800..=2_200).contains(&count), "node {node}: {count}");
    }
    view.shards[0].nodes[3].stage = Stage::Down;
    let mut moved = [0; 5];
    for (client, before) in clients.zip(&before) {
        let after = place(&view, client);
        if *before == 3 {
            moved[after] += 1;
        } else {
            assert_eq!(after, *before);
        }
    }
    for to in [1, 2, 4] {
        assert!((500..=850).contains(&moved[to]), "{moved:?}");
    }
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        4 => Just(Stage::Up),
        1 => Just(Stage::Lagging),
        1 => Just(Stage::Down),
        1 => Just(Stage::Fenced),
        1 => Just(Stage::Unknown),
    ]
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::LeastConnections),
        Just(Balance::Weighted),
        Just(Balance::ClientAddress),
        Just(Balance::NearestZone),
    ]
}

proptest! {
    /// Whatever is chosen may serve the read, and nothing better was passed over.
    #[test]
    fn only_what_is_fit_is_chosen(
        stages in proptest::collection::vec((stage(), 0_u64..4), 1..8),
        primary in proptest::option::of(0_usize..8),
        balance in balance(),
        floor in 0_u64..4,
        from_replica in any::<bool>(),
        takes_part in any::<bool>(),
        waits in any::<bool>(),
        left_out in any::<u8>(),
        turn in any::<usize>(),
        client in any::<u64>(),
    ) {
        let lines: Vec<&str> = (0..stages.len())
            .map(|place| match place % 4 {
                1 => "zone = \"a\"\nweight = 2",
                3 => "backup = true\nweight = 3",
                _ => "weight = 1",
            })
            .collect();
        let mut view = view(&lines);
        for (place, (stage, lsn)) in stages.iter().enumerate() {
            view.shards[0].nodes[place].stage = *stage;
            replayed(&view, place, *lsn);
        }
        let primary = primary.filter(|place| *place < stages.len()).map(NodePlace);
        view.shards[0].primary = primary;
        let without = (0..8)
            .filter(|bit| left_out & 1 << bit != 0)
            .fold(NodeSet::EMPTY, |set, bit| set.with(NodePlace(bit)));
        let read = Read {
            from: if from_replica { ReadFrom::Replica } else { ReadFrom::Any },
            primary: if takes_part { PrimaryReads::TakesPart } else { PrimaryReads::LastResort },
            balance,
            zone: Some("a"),
            floor: Floor::At(Lsn(floor)),
            patience: if waits { Patience::Waits } else { Patience::Over },
            client,
            without,
            ..read()
        };
        let serves = |place: usize| {
            primary != Some(NodePlace(place))
                && stages[place].0 == Stage::Up
                && stages[place].1 >= floor
                && !without.contains(NodePlace(place))
        };
        let backup = |place: usize| place % 4 == 3;
        let any_regular = (0..stages.len()).any(|place| serves(place) && !backup(place));
        match choose(&view, &read, &Cell::new(turn), |place| place.0 % 3) {
            Choice::Node(place) => {
                prop_assert!(serves(place.0));
                prop_assert!(!backup(place.0) || !any_regular);
            }
            Choice::Primary => {
                prop_assert!(!from_replica);
                prop_assert!(takes_part || !(0..stages.len()).any(serves));
            }
            Choice::Wait => prop_assert!(waits && !any_regular),
            Choice::Nobody(_) => {
                prop_assert!(!(0..stages.len()).any(serves));
                prop_assert!(from_replica || primary.is_some_and(|place| without.contains(place)));
            }
        }
    }
}

/// One of three replicas came back; after a while it has a tenth, a half, and all of its part.
#[test]
fn a_node_that_came_back_begins_slowly() {
    let mut view = view(&["", "", "weight = 2", ""]);
    let now = Instant::now();
    view.shards[0].nodes[2].returned = Some(now);
    let slow_start = view.config.health.slow_start;
    let part = |balance: Balance, view: &View, share: f64| {
        let mut counts_of = [0; 4];
        for client in 0..300 {
            let read = Read {
                balance,
                now: now + slow_start.mul_f64(share),
                client: mixed(client),
                ..read()
            };
            let found = counts(view, &read, 30);
            for (all, one) in counts_of.iter_mut().zip(found) {
                *all += one;
            }
        }
        counts_of[2] as f64 / 9000.0
    };
    for (balance, whole) in [
        (Balance::RoundRobin, 1.0 / 3.0),
        (Balance::LeastConnections, 1.0 / 3.0),
        (Balance::ClientAddress, 1.0 / 3.0),
        (Balance::Weighted, 1.0 / 2.0),
    ] {
        for share in [0.1, 0.5, 1.0] {
            let found = part(balance, &view, share);
            let wanted = whole * share;
            assert!(
                (found - wanted).abs() < 0.07,
                "{balance:?} at {share}: {found} instead of {wanted}"
            );
        }
    }
    // There is no other.
    for place in [1, 3] {
        view.shards[0].nodes[place].stage = Stage::Down;
    }
    assert_eq!(part(Balance::RoundRobin, &view, 0.0), 1.0);
}
