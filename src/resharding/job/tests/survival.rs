//! Plans in the model of a world: killed at every action, each action failing a few times, with actions done twice and late, and by schedules of chance.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use super::world::{PROXIES, Ways, World};

/// Where a plan shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Finish,
    RollBack,
    /// Back and forth, then finished.
    Again,
    Cancel,
}

/// Splits of two into four, keys that change places, and two into one.
fn all_ways() -> Vec<Ways> {
    let ways = |before: &[usize], after: &[usize]| Ways {
        before: before.to_vec(),
        after: after.to_vec(),
    };
    vec![
        ways(&[0, 0, 0, 1, 1, 1], &[0, 2, 3, 1, 3, 3]),
        ways(&[0, 0, 1, 1], &[1, 0, 0, 1]),
        ways(&[0, 1, 2], &[2, 2, 2]),
    ]
}

/// A driver that can be killed.
struct Driver {
    world: World,
    /// All that was ever done, for what comes late.
    history: Vec<Action>,
    /// The operator's next wishes, in order.
    wishes: Vec<Command>,
    /// Dies before doing this action; counted over the whole life of the plan.
    dies_at: Option<usize>,
    /// This action has no effect, nor has the same one a few times more: the lock was not had, the server was not reached.
    fails_at: Option<usize>,
    failing: Option<(Action, u32)>,
    twice: bool,
    /// Fences are written before the job is saved.
    hasty: bool,
    done: usize,
}

impl Driver {
    fn new(ways: Ways, goal: Goal) -> Driver {
        let start = Command::Start {
            throttle: Throttle::default(),
        };
        let cutover = Command::Cutover { max_pause_ms: 200 };
        let rollback = Command::Rollback { max_pause_ms: 200 };
        let mut wishes = vec![Command::Check, start];
        let (verify, finish, cancel) = (Command::Verify, Command::Finish, Command::Cancel);
        wishes.extend(match goal {
            Goal::Finish => vec![verify, cutover, finish],
            Goal::RollBack => vec![verify, cutover, rollback, cancel],
            Goal::Again => vec![verify, cutover, rollback, verify, cutover, finish],
            Goal::Cancel => vec![verify, cancel],
        });
        wishes.reverse();
        Driver {
            world: World::new(ways),
            history: vec![],
            wishes,
            dies_at: None,
            fails_at: None,
            failing: None,
            twice: false,
            hasty: false,
            done: 0,
        }
    }

    /// Read, look, step, save, do.
    fn turn(&mut self) {
        let mut job = self.world.job().clone();
        if let Some(wish) = self.wishes.last()
            && job.wish.is_none()
            && let Ok(after) = job.command(*wish)
        {
            self.wishes.pop();
            self.world.save(&after);
            job = after;
        }
        let (next, actions) = step(&job, &self.world.observe());
        let fencing = matches!(&next.phase, Phase::Turning(turn) if matches!(turn.stage, Stage::Fencing | Stage::Applying { .. }));
        let late = self.hasty && fencing;
        if next != job && !late {
            self.world.save(&next);
        }
        if self.run(actions) && late {
            self.world.save(&next);
        }
    }

    /// Whether it is still alive.
    fn run(&mut self, actions: Vec<Action>) -> bool {
        for action in actions {
            let number = self.done;
            self.done += 1;
            if self.dies_at == Some(number) {
                return false;
            }
            if self.fails(number, &action) {
                continue;
            }
            self.world.run(&action);
            if self.twice {
                self.world.run(&action);
            }
            self.history.push(action);
        }
        true
    }

    fn fails(&mut self, number: usize, action: &Action) -> bool {
        if self.fails_at == Some(number) {
            self.failing = Some((action.clone(), 3));
        }
        match &mut self.failing {
            Some((failing, times)) if failing == action && *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    /// Somebody does something, everybody is well.
    fn life(&mut self, round: usize) {
        let keys = self.world.ways.before.len();
        let proxy = round % PROXIES;
        self.world.write(proxy, round % keys, round % 7 == 3);
        self.world
            .write((proxy + 1) % PROXIES, (round + 1) % keys, false);
        if round.is_multiple_of(2) {
            (0..PROXIES).for_each(|proxy| self.world.commit(proxy));
        }
        (0..PROXIES).for_each(|proxy| self.world.look(proxy));
        let shards = self.world.ways.shards();
        self.world
            .write_directly(round % shards, (round / 2) % keys);
        self.world.now += 10;
    }

    /// Until the plan is over.
    fn run_to_the_end(&mut self) {
        for round in 0..600 {
            if self.world.job().is_over() && self.wishes.is_empty() {
                return;
            }
            self.turn();
            self.life(round);
        }
        panic!(
            "the plan has not ended: {}, {:?}\n{:#?}",
            self.world.job(),
            self.wishes,
            self.world
        );
    }

    /// As it must be in the end.
    fn judge(&mut self, goal: Goal) {
        (0..PROXIES).for_each(|proxy| self.world.commit(proxy));
        let job = self.world.job().clone();
        let (phase, side, flips) = match goal {
            Goal::Finish => (Phase::Finished, Side::New, 1),
            Goal::RollBack => (Phase::Cancelled, Side::Old, 2),
            Goal::Again => (Phase::Finished, Side::New, 3),
            Goal::Cancel => (Phase::Cancelled, Side::Old, 0),
        };
        assert_eq!(job.phase, phase, "{job}");
        assert_eq!(self.world.side(), side);
        assert_eq!(self.world.flips, flips, "flips");
        self.world.is_clean();
    }
}

const GOALS: [Goal; 4] = [Goal::Finish, Goal::RollBack, Goal::Again, Goal::Cancel];

#[test]
fn plans_end_as_they_should() {
    for ways in all_ways() {
        for goal in GOALS {
            let mut driver = Driver::new(ways.clone(), goal);
            driver.run_to_the_end();
            driver.judge(goal);
            assert_eq!(driver.world.refused, 0, "{goal:?}: clients noticed");
        }
    }
}

/// A map may get places for keys that had none: there is nothing to move, and the map changes by a turn all the same.
#[test]
fn a_plan_without_moves_ends_too() {
    for goal in GOALS {
        let ways = Ways {
            before: vec![0, 1],
            after: vec![0, 1],
        };
        let mut driver = Driver::new(ways, goal);
        driver.run_to_the_end();
        driver.judge(goal);
    }
}

#[test]
fn killed_at_every_action() {
    let lives: usize = std::thread::scope(|scope| {
        let lines = all_ways().into_iter().flat_map(|ways| {
            GOALS.map(|goal| {
                let ways = ways.clone();
                scope.spawn(move || killed_everywhere(&ways, goal))
            })
        });
        let lines: Vec<_> = lines.collect();
        lines
            .into_iter()
            .map(|line| line.join().expect("no panic"))
            .sum()
    });
    assert!(lives > 1000, "{lives}");
}

/// Two lives of the plan for each of its actions: the driver dies before it, and it alone has no effect.
fn killed_everywhere(ways: &Ways, goal: Goal) -> usize {
    let mut whole = Driver::new(ways.clone(), goal);
    whole.run_to_the_end();
    // Most actions follow a stream, each like the one before.
    let follows = |place: usize| matches!(whole.history[place], Action::Follow { .. });
    let places = (0..whole.done).filter(|place| !follows(*place) || place.is_multiple_of(7));
    for place in places {
        for fails in [false, true] {
            let mut driver = Driver::new(ways.clone(), goal);
            match fails {
                true => driver.fails_at = Some(place),
                false => driver.dies_at = Some(place),
            }
            // Half of them do everything twice.
            driver.twice = place % 2 == 0;
            driver.hasty = place % 3 == 0;
            driver.run_to_the_end();
            driver.judge(goal);
            let what = if fails { "failed" } else { "killed" };
            assert_eq!(driver.world.refused, 0, "{goal:?}, {what} at {place}");
        }
    }
    whole.done
}

/// An action of a driver that had stalled is done again, at every later moment; each once.
#[test]
fn every_action_late() {
    let ways = all_ways().remove(1);
    for goal in GOALS {
        let mut whole = Driver::new(ways.clone(), goal);
        whole.run_to_the_end();
        let mut rounds = 0;
        for behind in [1, 7, 40, 150] {
            let mut driver = Driver::new(ways.clone(), goal);
            let mut replayed = 0;
            while !(driver.world.job().is_over() && driver.wishes.is_empty()) {
                driver.turn();
                while replayed + behind < driver.history.len() {
                    let late = driver.history[replayed].clone();
                    driver.world.run(&late);
                    replayed += 1;
                }
                driver.life(rounds);
                rounds += 1;
                assert!(rounds < 4000, "{}", driver.world.job());
            }
            driver.judge(goal);
            assert_eq!(driver.world.refused, 0, "{goal:?}, {behind} actions late");
        }
    }
}

#[test]
fn a_changed_row_is_found_and_nothing_is_cut_over() {
    for ways in all_ways() {
        let key = (0..ways.before.len()).find(|key| ways.moves(*key)).unwrap();
        let mut driver = Driver::new(ways, Goal::Finish);
        let mut rounds = 0;
        while !matches!(driver.world.job().phase, Phase::Following) {
            driver.turn();
            rounds += 1;
            assert!(rounds < 300);
        }
        driver.world.corrupt(key);
        for _ in 0..50 {
            driver.turn();
        }
        let job = driver.world.job();
        assert_eq!(job.phase, Phase::Following);
        assert_eq!(job.verification.differences, Some(1));
        assert_eq!(job.note.as_deref(), Some("1 rows differ"));
        assert!(job.command(Command::Cutover { max_pause_ms: 200 }).is_err());
        assert_eq!(driver.world.flips, 0);
    }
}

/// A proxy is stopped with a transaction open; the cutover is given up until its lease ends, then it is done; the proxy comes back and
/// cannot write.
#[test]
fn a_stopped_proxy_comes_back_and_cannot_write() {
    for ways in all_ways() {
        let key = (0..ways.before.len()).find(|key| ways.moves(*key)).unwrap();
        let mut driver = Driver::new(ways, Goal::Finish);
        driver.wishes.remove(0);
        let mut rounds = 0;
        while !matches!(driver.world.job().phase, Phase::Verified) {
            driver.turn();
            rounds += 1;
            assert!(rounds < 300);
        }
        // It is connected, and stopped in the middle of a transaction.
        assert!(driver.world.write(0, key, false));
        driver.world.stop(0);
        for _ in 0..100 {
            driver.turn();
            driver.world.look(1);
            driver.world.look(2);
            driver.world.now += 20;
        }
        let job = driver.world.job();
        assert!(job.wish.is_some_and(|wish| wish.tries > 0), "{job}");
        assert_eq!(driver.world.flips, 0);
        driver.world.lease_ends(0);
        for _ in 0..300 {
            driver.turn();
            driver.world.look(1);
            driver.world.look(2);
            driver.world.now += 20;
        }
        assert_eq!(driver.world.job().phase, Phase::CutOver);
        // It believes in the old map and has no lease; every write is checked against the commit record.
        driver.world.go_on(0);
        driver.world.commit(0);
        driver.world.write(0, key, false);
        driver.world.look(0);
        assert!(driver.world.write(0, key, false), "now it can");
    }
}

#[test]
fn a_lost_slot_ends_the_plan_or_the_way_back() {
    for ways in all_ways() {
        let mut driver = Driver::new(ways.clone(), Goal::Finish);
        for round in 0.. {
            driver.turn();
            driver.life(round);
            if matches!(driver.world.job().phase, Phase::Verified) {
                break;
            }
        }
        driver.world.lose_slot(0);
        driver.wishes.clear();
        driver.run_to_the_end();
        driver.judge(Goal::Cancel);
        assert!(
            driver
                .world
                .job()
                .note
                .as_ref()
                .unwrap()
                .contains("is lost")
        );

        let mut driver = Driver::new(ways, Goal::Finish);
        driver.wishes.remove(0);
        for round in 0.. {
            driver.turn();
            driver.life(round);
            if matches!(driver.world.job().phase, Phase::CutOver) {
                break;
            }
        }
        driver.world.lose_slot(1);
        driver.turn();
        let job = driver.world.job();
        let error = job
            .command(Command::Rollback { max_pause_ms: 200 })
            .unwrap_err();
        assert!(matches!(error, CommandError::NoWayBack { .. }), "{error}");
        driver.wishes = vec![Command::Finish];
        driver.run_to_the_end();
        driver.judge(Goal::Finish);
    }
}

/// Something that happens between two turns of the driver.
#[derive(Clone, Debug)]
enum Event {
    Drive(usize),
    Write {
        proxy: usize,
        key: usize,
        delete: bool,
    },
    Commit(usize),
    Direct {
        shard: usize,
        key: usize,
    },
    Look(usize),
    LookAtMap(usize),
    LookAtGate(usize),
    Stop(usize),
    GoOn(usize),
    LeaseEnds(usize),
    Time(u64),
    /// The driver dies so many actions later.
    Die(usize),
    /// An action of the past is done again.
    Late(usize),
    /// An action so many later has no effect.
    Fail(usize),
    Blind(usize),
    StoreBlind,
    Sight,
    Ask(Command),
}

fn event() -> impl Strategy<Value = Event> {
    let proxy = 0..PROXIES;
    let commands = prop_oneof![
        Just(Command::Pause),
        Just(Command::Resume),
        Just(Command::Resume),
        Just(Command::Verify),
        Just(Command::Cutover { max_pause_ms: 50 }),
        Just(Command::Rollback { max_pause_ms: 50 }),
        Just(Command::Check),
    ];
    prop_oneof![
        20 => (1_usize..6).prop_map(Event::Drive),
        12 => (proxy.clone(), 0_usize..6, any::<bool>())
            .prop_map(|(proxy, key, delete)| Event::Write { proxy, key, delete }),
        8 => proxy.clone().prop_map(Event::Commit),
        4 => (0_usize..4, 0_usize..6).prop_map(|(shard, key)| Event::Direct { shard, key }),
        6 => proxy.clone().prop_map(Event::Look),
        2 => proxy.clone().prop_map(Event::LookAtMap),
        2 => proxy.clone().prop_map(Event::LookAtGate),
        2 => proxy.clone().prop_map(Event::Stop),
        3 => proxy.clone().prop_map(Event::GoOn),
        2 => proxy.prop_map(Event::LeaseEnds),
        4 => (1_u64..600).prop_map(Event::Time),
        3 => (0_usize..6).prop_map(Event::Die),
        6 => any::<usize>().prop_map(Event::Late),
        3 => (0_usize..6).prop_map(Event::Fail),
        1 => (0_usize..4).prop_map(Event::Blind),
        1 => Just(Event::StoreBlind),
        3 => Just(Event::Sight),
        3 => commands.prop_map(Event::Ask),
    ]
}

fn happen(driver: &mut Driver, event: &Event) {
    let keys = driver.world.ways.before.len();
    let shards = driver.world.ways.shards();
    match *event {
        Event::Drive(turns) => (0..turns).for_each(|_| driver.turn()),
        Event::Write { proxy, key, delete } => {
            driver.world.write(proxy, key % keys, delete);
        }
        Event::Commit(proxy) => driver.world.commit(proxy),
        Event::Direct { shard, key } => driver.world.write_directly(shard % shards, key % keys),
        Event::Look(proxy) => driver.world.look(proxy),
        Event::LookAtMap(proxy) => driver.world.look_at_map(proxy),
        Event::LookAtGate(proxy) => driver.world.look_at_gate(proxy),
        Event::Stop(proxy) => driver.world.stop(proxy),
        Event::GoOn(proxy) => driver.world.go_on(proxy),
        Event::LeaseEnds(proxy) => driver.world.lease_ends(proxy),
        Event::Time(passed) => driver.world.now += passed,
        Event::Die(later) => driver.dies_at = Some(driver.done + later),
        Event::Late(which) => {
            if !driver.history.is_empty() {
                let late = driver.history[which % driver.history.len()].clone();
                driver.world.run(&late);
            }
        }
        Event::Fail(later) => driver.fails_at = Some(driver.done + later),
        Event::Blind(shard) => {
            driver.world.blind.insert(shard);
        }
        Event::StoreBlind => driver.world.store_blind = true,
        Event::Sight => {
            driver.world.blind.clear();
            driver.world.store_blind = false;
        }
        Event::Ask(command) => {
            if let Ok(job) = driver.world.job().command(command) {
                driver.world.save(&job);
            }
        }
    }
}

/// Whatever happened: everybody is well again, and the plan can be brought to an end from where it is.
fn settle(driver: &mut Driver) {
    driver.world.blind.clear();
    driver.world.store_blind = false;
    driver.dies_at = None;
    (0..PROXIES).for_each(|proxy| driver.world.go_on(proxy));
    driver.wishes.clear();
    for round in 0..800 {
        let job = driver.world.job().clone();
        if job.is_over() {
            break;
        }
        let end = match job.phase {
            Phase::CutOver => Command::Finish,
            _ => Command::Cancel,
        };
        for command in [Command::Resume, end] {
            // A wish of the schedule may still be tried.
            if round > 60
                && let Ok(job) = driver.world.job().command(command)
            {
                driver.world.save(&job);
            }
        }
        driver.turn();
        driver.life(round);
    }
    (0..PROXIES).for_each(|proxy| driver.world.commit(proxy));
    assert!(
        driver.world.job().is_over(),
        "the plan has not ended: {}\n{:#?}",
        driver.world.job(),
        driver.world
    );
    driver.world.is_clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn schedules_of_chance(
        which in 0_usize..3,
        goal in proptest::sample::select(GOALS.to_vec()),
        hasty in any::<bool>(),
        events in vec(event(), 0..250),
    ) {
        let mut driver = Driver::new(all_ways().remove(which), goal);
        driver.hasty = hasty;
        let mut blind = false;
        for event in &events {
            blind |= matches!(event, Event::Blind(_) | Event::StoreBlind);
            happen(&mut driver, event);
        }
        settle(&mut driver);
        // A driver that cannot see a shard cannot keep clients from meeting its guard.
        prop_assert!(blind || driver.world.refused == 0, "clients noticed: {}", driver.world.refused);
    }
}
