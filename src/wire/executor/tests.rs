//! On real sockets. Whatever is lost shows as a test that does not end, which [`within`] turns into one that fails.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::wire::socket::{Caller, Home, Socket};
use crate::wire::timers::Timers;

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on an executor of its own.
fn within<T: 'static, F: Future<Output = T> + 'static>(test: impl FnOnce(Rc<Executor>) -> F) -> T {
    let executor = Executor::new().unwrap();
    let timers = Timers::start().unwrap();
    let test = test(Rc::clone(&executor));
    executor.run(async move { timers.timeout(PATIENCE, test).await.expect("it ends") })
}

fn home(executor: &Rc<Executor>) -> Home {
    Home::Executor(Rc::clone(executor))
}

/// Ours, and the other end, which blocks.
fn tcp(executor: &Rc<Executor>) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = home(executor).adopt(listener.accept().unwrap().0).unwrap();
    (ours, theirs)
}

fn unix(executor: &Rc<Executor>) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (home(executor).adopt(ours).unwrap(), theirs)
}

/// Lets others run once.
async fn step_back() {
    let mut first = true;
    std::future::poll_fn(|cx| match std::mem::take(&mut first) {
        true => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

#[test]
fn tasks_run_in_turn_and_one_that_is_woken_while_it_runs_goes_to_the_end() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&order);
    within(|executor| async move {
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel::<()>();
        for name in 0..3 {
            let (noted, done) = (Rc::clone(&noted), done.clone());
            executor.spawn(async move {
                for round in 0..3 {
                    noted.borrow_mut().push((round, name));
                    step_back().await;
                }
                drop(done);
            });
        }
        drop(done);
        assert_eq!(ended.recv().await, None);
    });
    let in_turn: Vec<_> = (0..3)
        .flat_map(|round| (0..3).map(move |name| (round, name)))
        .collect();
    assert_eq!(*order.borrow(), in_turn);
}

#[test]
fn other_threads_wake_tasks_and_no_wake_is_lost() {
    within(|_| async {
        let (ask, asked) = mpsc::channel::<oneshot::Sender<u32>>();
        let thread = thread::spawn(move || {
            for (number, answer) in asked.into_iter().enumerate() {
                // Now and then late enough that the executor sleeps, mostly while it is about to.
                if number % 64 == 0 {
                    thread::yield_now();
                }
                answer.send(number as u32).unwrap();
            }
        });
        for number in 0..50_000 {
            let (answer, answered) = oneshot::channel();
            ask.send(answer).unwrap();
            assert_eq!(answered.await, Ok(number));
        }
        drop(ask);
        thread.join().unwrap();
    });
}

/// Waits until somebody has woken the caller that it leaves there.
async fn called(home: &Home, door: &RefCell<Option<Caller>>) {
    let mut first = true;
    std::future::poll_fn(|cx| match std::mem::take(&mut first) {
        true => {
            *door.borrow_mut() = Some(home.caller(cx));
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

#[test]
fn callers_are_woken_by_their_neighbours() {
    within(|executor| async move {
        let home = home(&executor);
        let door = Rc::new(RefCell::new(None));
        let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let (there, at_home) = (Rc::clone(&door), home.clone());
        let told = done.clone();
        executor.spawn(async move {
            called(&at_home, &there).await;
            told.send("a task").unwrap();
            // Here its waker is not the task's own.
            let mut inside: FuturesUnordered<_> = [called(&at_home, &there)].into_iter().collect();
            inside.next().await;
            told.send("inside of a task").unwrap();
        });
        let mut kept = Vec::new();
        for expected in ["a task", "inside of a task"] {
            while door.borrow().is_none() {
                step_back().await;
            }
            door.take().expect("it is there").wake();
            assert_eq!(ended.recv().await, Some(expected));
        }
        // One that has ended before it is woken, and whose place another has.
        for _ in 0..2 {
            let (there, at_home) = (Rc::clone(&door), home.clone());
            let told = done.clone();
            executor.spawn(async move {
                std::future::poll_fn(|cx| {
                    *there.borrow_mut() = Some(at_home.caller(cx));
                    Poll::Ready(())
                })
                .await;
                told.send("ended").unwrap();
            });
            assert_eq!(ended.recv().await, Some("ended"));
            kept.extend(door.take());
            step_back().await;
        }
        let runs = Rc::new(Cell::new(0));
        let counted = Rc::clone(&runs);
        executor.spawn(std::future::poll_fn(move |_| {
            counted.set(counted.get() + 1);
            Poll::Pending
        }));
        step_back().await;
        for caller in kept {
            caller.wake();
            step_back().await;
        }
        assert_eq!(runs.get(), 1);
    });
}

#[test]
fn a_panic_ends_its_task_only() {
    struct PanicsAtItsEnd;
    impl Drop for PanicsAtItsEnd {
        fn drop(&mut self) {
            panic!("on purpose, at the end");
        }
    }
    let tasks = within(|executor| async move {
        let (one, told) = oneshot::channel::<()>();
        executor.spawn(async move {
            let _one = one;
            step_back().await;
            panic!("on purpose");
        });
        assert!(told.await.is_err(), "what it held is dropped");
        executor.spawn(async {
            let _late = PanicsAtItsEnd;
        });
        let (two, told) = oneshot::channel();
        executor.spawn(async move { two.send(2).unwrap() });
        assert_eq!(told.await, Ok(2));
        executor.tasks.borrow().len()
    });
    assert_eq!(tasks, 1, "the test itself is left");
}

#[test]
fn what_is_left_at_the_end_is_dropped_and_what_that_spawns_too() {
    struct Spawns(Rc<Executor>, Rc<Cell<u32>>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            let told = Told(Rc::clone(&self.1));
            self.0.spawn(async move {
                let _told = told;
                panic!("it never runs");
            });
        }
    }
    struct Told(Rc<Cell<u32>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 10);
        }
    }
    let executor = Executor::new().unwrap();
    let dropped = Rc::new(Cell::new(0));
    let spawns = Spawns(Rc::clone(&executor), Rc::clone(&dropped));
    executor.spawn(async move {
        let _spawns = spawns;
        std::future::pending::<()>().await;
    });
    executor.run(step_back());
    assert_eq!(dropped.get(), 11);
    assert_eq!(Rc::strong_count(&executor), 1);
}

#[test]
fn a_key_opens_only_what_it_was_made_for() {
    let mut slots = slots::Slots::default();
    let first = slots.insert(|_| 'a');
    assert_eq!(slots.remove(first), Some('a'));
    let second = slots.insert(|_| 'b');
    assert_ne!(first, second);
    assert_eq!(slots.get(first), None);
    assert_eq!(slots.remove(first), None);
    assert_eq!(slots.get(second), Some(&'b'));
    assert_eq!(Key::from(Token::from(second)), second);
}

#[test]
fn an_event_of_a_closed_socket_does_not_reach_the_next_in_its_place() {
    within(|executor| async move {
        let (ours, mut theirs) = tcp(&executor);
        theirs.write_all(b"x").unwrap();
        // The system has told, and nobody has looked at it.
        let mut events = Events::with_capacity(8);
        executor.poll.borrow_mut().poll(&mut events, None).unwrap();
        let told = events.iter().next().unwrap().token();
        drop(ours);
        let (ours, _theirs) = tcp(&executor);
        assert!(
            executor.sources.borrow().get(Key::from(told)).is_none(),
            "the place is the same, the key is not"
        );
        drop(ours);
    });
}

#[test]
fn bytes_and_the_end_that_came_together_are_both_read() {
    within(|executor| async move {
        for round in 0..100 {
            let (mut ours, mut theirs) = tcp(&executor);
            if round % 2 == 0 {
                // The first attempt finds nothing, so that what follows is told by the system.
                let mut nothing = [0; 8];
                let found = futures_util::poll!(Box::pin(ours.read(&mut nothing)));
                assert!(found.is_pending());
            }
            theirs.write_all(b"last words").unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
            let mut read = Vec::new();
            ours.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"last words");
            // The other half is still open.
            ours.write_all(b"heard").await.unwrap();
            ours.shutdown().await.unwrap();
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"heard");
        }
    });
}

#[test]
fn a_reset_is_told_to_who_reads_and_to_who_writes() {
    within(|executor| async move {
        let (mut ours, theirs) = tcp(&executor);
        ours.write_all(b"unread").await.unwrap();
        // Closed with unread bytes, a socket is reset.
        drop(theirs);
        let error = ours.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (mut ours, theirs) = tcp(&executor);
        let mut sent = 0;
        let full = loop {
            let room = vec![0; 1 << 16];
            match futures_util::poll!(Box::pin(ours.write(&room))) {
                Poll::Ready(written) => sent += written.unwrap(),
                Poll::Pending => break sent,
            }
        };
        assert!(full > 0);
        drop(theirs);
        let error = loop {
            match ours.write(&[0; 8]).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ));
    });
}

#[test]
fn who_waits_for_room_is_woken_by_a_reader() {
    within(|executor| async move {
        for _ in 0..3 {
            let (mut ours, mut theirs) = tcp(&executor);
            let reader = thread::spawn(move || {
                let mut read = Vec::new();
                theirs.read_to_end(&mut read).unwrap();
                read.len()
            });
            let much = vec![7; 8 << 20];
            ours.write_all(&much).await.unwrap();
            drop(ours);
            assert_eq!(reader.join().unwrap(), much.len());
        }
    });
}

#[test]
fn room_is_told_only_to_who_waits_for_it() {
    within(|executor| async move {
        let (mut ours, mut theirs) = unix(&executor);
        let heard = || {
            let mut events = Events::with_capacity(EVENTS);
            let mut poll = executor.poll.borrow_mut();
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            events.iter().count()
        };
        let mut taken = [0; 4096];
        for _ in 0..2 {
            ours.write_all(b"x").await.unwrap();
            theirs.read_exact(&mut taken[..1]).unwrap();
            assert_eq!(heard(), 0);

            let much = vec![7; 8 << 20];
            let reader = thread::spawn(move || {
                let mut left = 8 << 20;
                while left > 0 {
                    left -= theirs.read(&mut taken).unwrap();
                }
                theirs
            });
            ours.write_all(&much).await.unwrap();
            theirs = reader.join().unwrap();
            // What was asked for last has been answered; then it is as before.
            step_back().await;
            heard();
        }
    });
}

#[test]
fn a_socket_that_is_dropped_in_the_middle_of_a_turn() {
    within(|executor| async move {
        let (one, mut theirs) = unix(&executor);
        let (mut two, mut they_too) = unix(&executor);
        let one = Rc::new(RefCell::new(Some(one)));
        let (seen, told) = oneshot::channel();
        let (closing, mut closed) = oneshot::channel::<()>();
        let reading = Rc::clone(&one);
        executor.spawn(async move {
            let outcome = std::future::poll_fn(|cx| match &mut *reading.borrow_mut() {
                _ if Pin::new(&mut closed).poll(cx).is_ready() => Poll::Ready("gone"),
                Some(socket) => {
                    let mut byte = [0];
                    let mut buffer = tokio::io::ReadBuf::new(&mut byte);
                    let read = tokio::io::AsyncRead::poll_read(Pin::new(socket), cx, &mut buffer);
                    read.map(|_| "read")
                }
                None => Poll::Ready("gone"),
            })
            .await;
            seen.send(outcome).unwrap();
        });
        step_back().await;
        // Both become ready at once, and the first who runs closes the other's socket.
        they_too.write_all(b"y").unwrap();
        theirs.write_all(b"x").unwrap();
        let mut byte = [0];
        two.read_exact(&mut byte).await.unwrap();
        drop(one.borrow_mut().take());
        drop(closing);
        let (third, _theirs) = unix(&executor);
        assert!(matches!(told.await, Ok("gone" | "read")));
        drop(third);
        // With a byte unread it is reset, else it ends.
        assert!(!matches!(theirs.read(&mut byte), Ok(1)), "it was closed");
    });
}

#[test]
fn a_socket_that_is_always_ready_does_not_keep_others_waiting() {
    within(|executor| async move {
        let (mut ours, mut theirs) = unix(&executor);
        let writer = thread::spawn(move || while theirs.write_all(&[0; 4096]).is_ok() {});
        let others = Rc::new(Cell::new(0));
        let counted = Rc::clone(&others);
        executor.spawn(async move {
            loop {
                counted.set(counted.get() + 1);
                step_back().await;
            }
        });
        let (most, others) = (Rc::new(Cell::new(0)), Rc::clone(&others));
        let mut reads = 0;
        let mut before = 0;
        let mut room = vec![0; 64];
        for _ in 0..10_000 {
            // A future of its own each time, and yet all in one poll of this task as long as there are bytes.
            ours.read_exact(&mut room).await.unwrap();
            match others.get() == before {
                true => reads += 1,
                false => (reads, before) = (1, others.get()),
            }
            most.set(most.get().max(reads));
        }
        assert!(most.get() <= READS + 1, "{}", most.get());
        drop(ours);
        writer.join().unwrap();
    });
}

#[test]
fn newcomers_stand_back() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&order);
    within(|executor| async move {
        for _ in 0..100 {
            let noted = Rc::clone(&noted);
            executor.spawn_newcomer(async move {
                noted.borrow_mut().push('n');
                step_back().await;
                noted.borrow_mut().push('n');
            });
        }
        for _ in 0..TURN + 5 {
            let noted = Rc::clone(&noted);
            executor.spawn(async move {
                for _ in 0..20 {
                    noted.borrow_mut().push('m');
                    step_back().await;
                }
            });
        }
        while executor.tasks.borrow().len() > 1 {
            step_back().await;
        }
    });
    let order: String = order.borrow().iter().collect();
    assert_eq!(order.matches('n').count(), 200);
    let busy = &order[..order.rfind('m').unwrap()];
    let longest = busy.split('m').map(str::len).max();
    assert_eq!(longest, Some(NEWCOMERS), "{order}");
    // And yet some come in every turn.
    assert!(
        busy.split('n').all(|others| others.len() <= TURN),
        "{order}"
    );
}

#[test]
fn connecting() {
    within(|executor| async move {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ours = home(&executor).connect_tcp(address).await.unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"x").await.unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        theirs.write_all(b"y").unwrap();
        assert_eq!(ours.peek().await.unwrap(), Some(b'y'));
        assert_eq!(ours.read_u8().await.unwrap(), b'y');
        drop(theirs);
        assert_eq!(ours.peek().await.unwrap(), None);
        drop(listener);
        let refused = home(&executor).connect_tcp(address).await;
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        let nowhere = std::path::Path::new("/nowhere/.s.PGSQL.1");
        assert!(home(&executor).connect_unix(nowhere).await.is_err());
    });
}

/// What stands between a task and its sockets has wakers of its own.
#[test]
fn sockets_inside_of_another_executor() {
    within(|executor| async move {
        let (mut reading, mut writers) = (FuturesUnordered::new(), Vec::new());
        for _ in 0..10 {
            let (mut ours, theirs) = unix(&executor);
            writers.push(theirs);
            reading.push(async move { ours.read_u8().await.unwrap() });
        }
        let writing = thread::spawn(move || {
            for (number, writer) in writers.iter_mut().enumerate().rev() {
                writer.write_all(&[number as u8]).unwrap();
            }
            writers
        });
        let mut read = Vec::new();
        while let Some(byte) = reading.next().await {
            read.push(byte);
        }
        read.sort_unstable();
        assert_eq!(read, (0..10).collect::<Vec<u8>>());
        writing.join().unwrap();
    });
}

/// Many sockets that are written and read in random pieces, by tasks and by threads, while others wake tasks and sockets come and go.
#[test]
fn under_stress_nothing_is_lost() {
    const SOCKETS: u64 = 48;
    const BYTES: usize = 200_000;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    within(move |executor| async move {
        let mut ends = Vec::new();
        let mut threads = Vec::new();
        for number in 0..SOCKETS {
            let mut dice = StdRng::seed_from_u64(seed ^ number);
            let (done, ended) = oneshot::channel();
            ends.push(ended);
            if number % 2 == 0 {
                let (ours, theirs) = tcp(&executor);
                threads.push(thread::spawn(move || echo(theirs, seed ^ !number)));
                executor.spawn(async move { done.send(talk(ours, &mut dice).await).unwrap() });
            } else {
                let (ours, theirs) = unix(&executor);
                threads.push(thread::spawn(move || echo(theirs, seed ^ !number)));
                executor.spawn_newcomer(async move {
                    done.send(talk(ours, &mut dice).await).unwrap();
                });
            }
        }
        for ended in ends {
            assert_eq!(ended.await, Ok(BYTES));
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(executor.tasks.borrow().len(), 1);
    });

    /// Gives back what it reads, in other pieces.
    fn echo(mut socket: impl Read + Write, seed: u64) {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut room = vec![0; 20_000];
        loop {
            let length = dice.random_range(1..room.len());
            match socket.read(&mut room[..length]).unwrap() {
                0 => return,
                read => {
                    let (first, second) = room[..read].split_at(dice.random_range(0..=read));
                    socket.write_all(first).unwrap();
                    if dice.random_ratio(1, 8) {
                        thread::yield_now();
                    }
                    socket.write_all(second).unwrap();
                }
            }
        }
    }

    /// Writes and reads at the same time; how many bytes came back as they were.
    async fn talk(mut socket: Socket, dice: &mut StdRng) -> usize {
        let mut said = vec![0; BYTES];
        dice.fill_bytes(&mut said);
        let (mut sent, mut heard) = (0, Vec::new());
        let mut room = vec![0; 10_000];
        while heard.len() < BYTES {
            let end = BYTES.min(sent + dice.random_range(1..30_000));
            let length = dice.random_range(1..room.len());
            if dice.random_ratio(1, 20) {
                step_back().await;
            }
            std::future::poll_fn(|cx| {
                use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
                let mut moved = false;
                if sent < end
                    && let Poll::Ready(written) =
                        Pin::new(&mut socket).poll_write(cx, &said[sent..end])
                {
                    sent += written.unwrap();
                    moved = true;
                }
                let mut buffer = ReadBuf::new(&mut room[..length]);
                if let Poll::Ready(read) = Pin::new(&mut socket).poll_read(cx, &mut buffer) {
                    read.unwrap();
                    heard.extend_from_slice(buffer.filled());
                    moved = true;
                }
                match moved {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
        assert!(heard == said, "what came back is not what was said");
        heard.len()
    }
}
