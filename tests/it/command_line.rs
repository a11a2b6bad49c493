//! The program as people run it: what it prints, its exit codes, and how it takes signals.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::raw::Raw;
use crate::servers::{DEADLINE, wait_until};
use crate::sharded::configuration;
use crate::wire_client::{Until, Wire, ask_for, copy_data, copy_done, query};

const SHARDED: &str = r#"
[[distributions]]
name = "tenants"
key = "bigint"
strategy = "hash"
shards = ["s1", "s2", "s3", "s4"]

[[tables]]
name = "items"
distribution = "tenants"
key = "tenant"
"#;

fn trunkline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    trunkline()
        .args(arguments)
        .env("APP_PASSWORD", "secret")
        .output()
        .unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn repository(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(path)
        .to_str()
        .unwrap()
        .to_owned()
}

/// A configuration file in a folder of the test's own.
struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> File {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("trunkline.toml");
        std::fs::write(&path, text).unwrap();
        File {
            _folder: folder,
            path,
        }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A configuration for the shared cluster that listens on this port.
fn listening(port: u16, more: &str) -> String {
    configuration(
        "app",
        &format!("[listen]\naddresses = [\"127.0.0.1:{port}\"]\n{SHARDED}{more}"),
    )
    .replace("shutdown_timeout = \"1s\"", "shutdown_timeout = \"30s\"")
}

#[test]
fn a_wrong_command_line_is_explained() {
    for arguments in [
        &[][..],
        &["serv"],
        &["check"],
        &["route"],
        &["check", "--conect", "x"],
    ] {
        let found = run(arguments);
        assert_eq!(code(&found), Some(2), "{arguments:?}");
        assert!(
            stderr(&found).contains("Usage: trunkline"),
            "{arguments:?}: {}",
            stderr(&found)
        );
    }
    let help = run(&["--help"]);
    assert_eq!(code(&help), Some(0));
    for command in ["serve", "check", "demo", "route"] {
        assert!(stdout(&help).contains(command), "{}", stdout(&help));
    }
    assert_eq!(
        stdout(&run(&["--version"])),
        format!("trunkline {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn check_tells_good_files_from_bad_ones() {
    let good = run(&["check", &repository("config/minimal.toml")]);
    assert_eq!(code(&good), Some(0));
    assert!(
        stderr(&good).contains("warning: ") && stderr(&good).contains("no user has admin = true"),
        "{}",
        stderr(&good)
    );
    assert_eq!(
        stdout(&good),
        "ok: 1 database, 2 shards, 2 nodes, 1 distribution, 1 table, 1 user\n"
    );

    let bad = run(&["check", &repository("tests/golden/config/mistakes.toml")]);
    assert_eq!(code(&bad), Some(1));
    let said = stderr(&bad);
    let mistakes = said.lines().count() - 1;
    assert!(
        mistakes > 10 && said.ends_with(&format!("{mistakes} mistakes\n")),
        "{said}"
    );
    assert!(
        said.lines()
            .take(mistakes)
            .all(|line| line.contains("mistakes.toml:")),
        "{said}"
    );

    let missing = run(&["check", "/nowhere/trunkline.toml"]);
    assert_eq!(code(&missing), Some(1));
    assert!(
        stderr(&missing).contains("/nowhere/trunkline.toml")
            && stderr(&missing).contains("No such file"),
        "{}",
        stderr(&missing)
    );

    let without = trunkline()
        .args(["check", &repository("config/minimal.toml")])
        .env_remove("APP_PASSWORD")
        .output()
        .unwrap();
    assert_eq!(code(&without), Some(1));
    assert!(
        stderr(&without).contains("APP_PASSWORD"),
        "{}",
        stderr(&without)
    );
    let broken = File::new("[[users\nname = 1");
    let found = run(&["check", broken.name()]);
    assert_eq!(code(&found), Some(1));
    assert!(
        stderr(&found).contains("trunkline.toml:1: "),
        "{}",
        stderr(&found)
    );
}

#[test]
fn check_connects_to_every_node() {
    let file = File::new(&listening(6432, ""));
    let found = run(&["check", "--connect", file.name()]);
    assert_eq!(
        code(&found),
        Some(0),
        "{}{}",
        stdout(&found),
        stderr(&found)
    );
    assert_eq!(
        stdout(&found)
            .matches("database app as app: PostgreSQL ")
            .count(),
        4,
        "{}",
        stdout(&found)
    );

    let nobody = free_port();
    let text = listening(6432, "").replacen(
        "port = ",
        &format!("port = {nobody} }}, {{ host = \"127.0.0.1\", port = "),
        1,
    );
    file.write(&text);
    let found = run(&["check", "--connect", file.name()]);
    assert_eq!(code(&found), Some(1));
    let said = stdout(&found);
    assert!(
        said.contains(&format!("127.0.0.1:{nobody}: error: "))
            && said.contains("check that Postgres runs there"),
        "{said}"
    );
}

#[test]
fn route_explains() {
    let file = repository("config/minimal.toml");
    let found = run(&[
        "route",
        "--config",
        &file,
        "SELECT * FROM orders WHERE customer_id = 42",
    ]);
    assert_eq!(code(&found), Some(0), "{}", stderr(&found));
    let said = stdout(&found);
    for part in [
        "table   orders  sharded by customer_id in distribution customers",
        "key     customers 42: bucket ",
        "goes    to shard s",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let found = run(&[
        "route",
        "--config",
        &file,
        "UPDATE orders SET customer_id = 1",
    ]);
    assert_eq!(code(&found), Some(1));
    assert!(
        stdout(&found).contains("refused key_update (0A000)\nreason  ")
            && stdout(&found).contains("\nhint    ")
    );
    let found = run(&["route", "--config", &file, "SELECT 'unterminated"]);
    assert_eq!(code(&found), Some(1));
    assert!(stderr(&found).contains("42601"), "{}", stderr(&found));
    assert_eq!(
        code(&run(&[
            "route",
            "--config",
            &file,
            "--database",
            "nothing",
            "SELECT 1"
        ])),
        Some(1)
    );
}

/// `trunkline serve` as a process of its own; killed at the end of a test that fails.
struct Serving {
    child: Child,
    log: Receiver<String>,
}

impl Serving {
    fn start(file: &File) -> Serving {
        Serving::watch(trunkline().args(["serve", file.name()]))
    }

    fn watch(command: &mut Command) -> Serving {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (tell, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .for_each(|line| drop(tell.send(line)))
        });
        Serving { child, log }
    }

    /// Waits for a line with these words, and gives it.
    fn says(&self, words: &str) -> String {
        let (mut heard, begun) = (String::new(), Instant::now());
        while let Some(left) = DEADLINE.checked_sub(begun.elapsed()) {
            let Ok(line) = self.log.recv_timeout(left) else {
                break;
            };
            if line.contains(words) {
                return line;
            }
            heard += &format!("{line}\n");
        }
        panic!("it did not say {words:?}, but:\n{heard}");
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who is the last to come would be turned away: that is said before anybody comes.
#[test]
fn serve_warns_of_too_few_files() {
    let file = File::new(&listening(free_port(), ""));
    let program = trunkline().get_program().to_owned();
    let mut shell = Command::new("sh");
    let serving = Serving::watch(
        shell
            .args(["-c", "ulimit -n 300; exec \"$0\" serve \"$1\""])
            .arg(program)
            .arg(file.name())
            .env_remove("RUST_LOG"),
    );
    let said = serving.says("the limit on open files");
    assert!(said.contains("is 300; 1000 clients"), "{said}");
    serving.says("listening");
}

#[test]
fn serve_reads_its_configuration_again() {
    let port = free_port();
    let file = File::new(&listening(port, ""));
    let serving = Serving::start(&file);
    serving.says("listening");
    let mut client = Raw::connect(port, "app", "app");
    assert_eq!(client.simple("SELECT 1").error, None);

    // Nothing changes when the new file is bad, and it is said why.
    file.write("nonsense = 1");
    serving.signal(Signal::SIGHUP);
    serving.says("nonsense");
    assert_eq!(
        Raw::connect(port, "app", "app").simple("SELECT 1").error,
        None
    );

    file.write(&listening(port, "").replace(
        "users = [",
        "users = [{ name = \"second\", auth = \"trust\", server_user = \"app\" }, ",
    ));
    serving.signal(Signal::SIGHUP);
    serving.says("the configuration was read again");
    let mut second = Raw::connect(port, "second", "app");
    assert_eq!(
        second.simple("SELECT current_user").rows,
        [[Some(b"app".to_vec())]]
    );
    // Who was there stays.
    assert_eq!(client.simple("SELECT 1").error, None);
}

#[test]
fn serve_lets_transactions_finish() {
    let port = free_port();
    let file = File::new(&listening(port, ""));
    let mut serving = Serving::start(&file);
    serving.says("listening");
    let mut client = Raw::connect(port, "app", "app");
    assert_eq!(client.simple("BEGIN").error, None);
    assert_eq!(client.simple("SELECT 1").status, b'T');
    serving.signal(Signal::SIGTERM);
    serving.says("shutting down");
    // Nobody new is let in, and the open transaction goes on to its end.
    wait_until("the port is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    assert_eq!(client.simple("SELECT 2").rows, [[Some(b"2".to_vec())]]);
    assert!(serving.child.try_wait().unwrap().is_none());
    assert_eq!(client.simple("COMMIT").tags, ["COMMIT"]);
    assert_eq!(serving.ended().code(), Some(0));
}

#[test]
fn serve_says_what_keeps_it_from_starting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = File::new(&listening(port, ""));
    let mut serving = Serving::start(&file);
    let said = serving.says("cannot listen");
    assert!(
        said.contains(&format!(
            "cannot listen on 127.0.0.1:{port}: Address already in use"
        )),
        "{said}"
    );
    assert_eq!(serving.ended().code(), Some(1));

    file.write(&listening(
        port,
        "[[tables]]\nname = \"x\"\ndistribution = \"none\"\nkey = \"k\"\n",
    ));
    let found = run(&["serve", file.name()]);
    assert_eq!(code(&found), Some(1));
    assert!(
        stderr(&found).contains("trunkline.toml:") && stderr(&found).contains("none"),
        "{}",
        stderr(&found)
    );
}

/// Resident memory of a process, bytes.
fn resident(child: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// 50 MB each way, with messages up to 1 MB, in the memory of a few buffers. In a process of its own, because other tests take memory too.
#[test]
fn much_data_streams() {
    const CHUNK: usize = 1 << 20;
    let port = free_port();
    let file = File::new(&listening(port, ""));
    let serving = Serving::start(&file);
    serving.says("listening");
    let address = ([127, 0, 0, 1], port).into();
    let user = [("user", "app"), ("database", "app")];
    let mut client = Wire::log_in(address, &user, "").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        client.query("/* trunkline: shard=s1 */ CREATE TABLE heap (line text)"),
        "C(CREATE TABLE) Z(I)"
    );
    let mut line = vec![b'x'; CHUNK - 1];
    line.push(b'\n');
    let message = copy_data(&line);
    client.step(&ask_for(&[query("COPY heap FROM STDIN")], 1));
    let before = resident(&serving.child);
    let mut most = 0;
    for _ in 0..50 {
        client.stream.write_all(&message).unwrap();
        most = most.max(resident(&serving.child));
    }
    client.send(&copy_done());
    let said: String = client
        .read_until(Until::Ready(1))
        .iter()
        .map(|message| message.to_string())
        .collect();
    assert_eq!(said, "C(COPY 50)Z(I)");
    client.send(&query("COPY heap TO STDOUT"));
    let mut received = 0;
    while let Some(message) = client.read() {
        received += message.body.len();
        most = most.max(resident(&serving.child));
        if message.tag == b'Z' {
            break;
        }
    }
    assert!(received > 50 * CHUNK, "{received}");
    assert!(most.saturating_sub(before) < 8 << 20, "{before} {most}");
    client.query("/* trunkline: shard=s1 */ DROP TABLE heap");
}
