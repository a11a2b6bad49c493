//! A tiny shell process that outlives us for a moment: when our end of its pipe closes, however we died, it stops the
//! servers we started and removes what was temporary.
//!
//! Preferred over a parent-death signal: that one fires when the *thread* that started a server ends, and is gone when
//! the child changes its user.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use super::error::LocalError;
use super::folder::Lifetime;

/// `$1`: the signal for the servers; `$2`: what to remove afterwards, or nothing.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
signal=$1 folder=$2 pids=' ' tries=100
while read -r verb pid; do
    case $verb in
        watch) pids="$pids$pid " ;;
        forget) pids="${pids%% $pid *} ${pids#* $pid }" ;;
        done) exit 0 ;;
    esac
done
for pid in $pids; do kill -s "$signal" "$pid"; done
for pid in $pids; do
    while [ $tries -gt 0 ] && kill -0 "$pid"; do tries=$((tries - 1)); sleep 0.1; done
    kill -s KILL "$pid"
done
if [ -n "$folder" ]; then rm -rf -- "$folder"; fi
"#;

#[derive(Debug)]
pub(super) struct Watchdog {
    process: Child,
    orders: Mutex<ChildStdin>,
}

impl Watchdog {
    /// For servers whose files are all in `folder`.
    pub(super) fn start(folder: &Path, lifetime: Lifetime) -> Result<Self, LocalError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "trunkline-watchdog"]);
        match lifetime {
            // An orderly stop, because the data will be used again; no care for what is removed at once.
            Lifetime::Kept => command.arg("INT").arg(""),
            Lifetime::Temporary => command.arg("QUIT").arg(folder),
        };
        let spawned = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let mut process = spawned.map_err(|e| LocalError::io("start a watchdog", folder, e))?;
        let orders = process
            .stdin
            .take()
            .expect("its standard input was asked to be a pipe");
        Ok(Self {
            process,
            orders: Mutex::new(orders),
        })
    }

    /// From now on this process ends with us.
    pub(super) fn watch(&self, pid: u32) -> std::io::Result<()> {
        self.order(&format!("watch {pid}\n"))
    }

    /// This process has ended and its number may be another's.
    pub(super) fn forget(&self, pid: u32) -> std::io::Result<()> {
        self.order(&format!("forget {pid}\n"))
    }

    fn order(&self, line: &str) -> std::io::Result<()> {
        let mut orders = self
            .orders
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        orders.write_all(line.as_bytes())
    }
}

impl Drop for Watchdog {
    /// In good order there is nothing left to do for it. A watchdog that someone ended cannot be told, only reaped.
    fn drop(&mut self) {
        if self.order("done\n").is_ok() {
            let _ = self.process.wait();
        } else {
            let _ = self.process.try_wait();
        }
    }
}
