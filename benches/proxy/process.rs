//! Programs that are run: to their end, or beside us until a value is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// How long a program may take to accept connections, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(20);

/// `program` in a session of its own, with the id of the process that is started.
///
/// Ctrl-C then reaches it through us, in our order. And the scheduler, which shares the processors among sessions first
/// (sched_autogroup, sched(7)), gives every proxy a share like that of each Postgres process, which are sessions too; otherwise all
/// proxies and all of the load would have one such share together and mostly wait for each other.
pub fn in_own_session(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setsid");
    command.arg(program);
    command
}

/// A program that runs beside us. Dropping it stops it, by its own process id.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Running {
    /// Starts `command`, which is [`in_own_session`]; its output goes to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path, stop: Signal) -> Result<Running> {
        let doing = |e| Error::io(format!("start {name}"), e);
        let file = File::create(log).map_err(doing)?;
        let twin = file.try_clone().map_err(doing)?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        let child = command.spawn().map_err(doing)?;
        Ok(Running {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            stop,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `probe` (a client program) succeeds; fails when the program ends or its time is over.
    pub async fn wait_until_ready(
        &mut self,
        port: u16,
        mut probe: tokio::process::Command,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match run(&mut probe).await {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                let state = if ended {
                    "ended"
                } else {
                    "did not answer in time"
                };
                let output = format!("{refused}\n{}", self.last_words());
                return Err(Error::NotReady {
                    name: self.name.clone(),
                    state,
                    port,
                    output,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_raw(
            i32::try_from(self.child.id()).expect("process ids are positive 32-bit integers"),
        );
        let deadline = Instant::now() + PATIENCE;
        // The child has not been waited for, so its id cannot belong to anybody else.
        if matches!(self.child.try_wait(), Ok(None)) && kill(pid, self.stop).is_ok() {
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Both fail only when it has already ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns its standard output.
pub async fn run(command: &mut tokio::process::Command) -> Result<String> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let output = command
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| Error::io(format!("run {program}"), e))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let output_text = text(&output.stderr) + &text(&output.stdout);
        return Err(Error::Failed {
            program,
            status: output.status.to_string(),
            output: output_text,
        });
    }
    Ok(text(&output.stdout))
}
