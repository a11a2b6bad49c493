//! A process besides that of the tests, to hold leases in, to kill and to stop: this binary once more, running one "test" that does as it is told.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trunkline::store::{Lease, StoreError, Transaction};

use super::behaviours::{increment, take_soon};
use super::{Site, open};
use crate::servers::wait_until;

const SECTION: &str = "TRUNKLINE_TEST_STORE";
/// What the test harness writes has no such beginning.
const MARK: &str = ">> ";

/// Ends when it is dropped, or its standard input ends with us.
pub struct OtherProcess {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OtherProcess {
    /// With the site's store open.
    pub fn start(site: &Site) -> OtherProcess {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::other_process::does_as_it_is_told",
                "--ignored",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(SECTION, &site.section)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut started = OtherProcess {
            process,
            orders,
            answers,
        };
        assert_eq!(started.answer(), "ready");
        started
    }

    pub fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(answer) = line.trim_end().strip_prefix(MARK) {
                return answer.to_owned();
            }
        }
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    /// Stops it where it does not have the directory locked: that would keep us waiting, which is another test.
    pub fn stop(&self, site: &Site) {
        let stat = format!("/proc/{}/stat", self.process.id());
        wait_until("it is stopped, with nothing locked", || {
            self.signal(Signal::SIGSTOP);
            wait_until("it is stopped", || {
                let stat = std::fs::read_to_string(&stat).unwrap();
                stat.rsplit(") ").next().unwrap().starts_with('T')
            });
            let is_free = site.directory.as_ref().is_none_or(|directory| {
                let state = File::open(directory.path().join("state")).unwrap();
                Flock::lock(state, FlockArg::LockExclusiveNonblock).is_ok()
            });
            if !is_free {
                self.signal(Signal::SIGCONT);
            }
            is_free
        });
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Not a test: what an [`OtherProcess`] runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by other tests, in a process of its own"]
async fn does_as_it_is_told() {
    let Ok(section) = std::env::var(SECTION) else {
        return;
    };
    let store = open(&section).await;
    let say = |answer: &str| println!("\n{MARK}{answer}");
    let mut held: Option<Lease> = None;
    say("ready");
    let orders = std::io::stdin().lines();
    for order in orders {
        let order = order.unwrap();
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            ["increment", key, times] => {
                increment(&store, key, times.parse().unwrap()).await;
                say("done");
            }
            ["lease", name] => {
                let lease = take_soon(&store, name, "another process").await;
                say(&format!("held {}", lease.token()));
                held = Some(lease);
            }
            ["is_held"] => {
                let is_held = held.as_ref().unwrap().is_held();
                say(if is_held { "yes" } else { "no" });
            }
            ["commit", key, value] => {
                let under = Transaction::new()
                    .under(held.as_ref().unwrap())
                    .put(key, value);
                match store.commit(under).await {
                    Ok(_) => say("committed"),
                    Err(StoreError::LeaseLost { .. }) => say("lease lost"),
                    Err(other) => say(&other.to_string()),
                }
            }
            ["lost"] => {
                let lost = held.as_ref().unwrap().lost();
                let lost = tokio::time::timeout(Duration::from_secs(10), lost).await;
                say(if lost.is_ok() { "lost" } else { "not lost" });
            }
            _ => panic!("{order}"),
        }
    }
}
