//! The administrator's programs: one that fences an old primary, one that makes a standby of it.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::config::Argv;

const POLL: Duration = Duration::from_millis(10);

/// Whom it concerns.
#[derive(Clone, Debug)]
pub struct Concern {
    pub shard: String,
    pub old: String,
    pub new: String,
}

/// Runs a program to its end; anything but exit status 0 is an error, and so is taking longer than the limit. What it says goes to our standard error.
pub async fn run(argv: &Argv, concern: &Concern, limit: Duration) -> Result<(), String> {
    let mut command = Command::new(&argv.program);
    command
        .args(&argv.arguments)
        .env("TRUNKLINE_SHARD", &concern.shard)
        .env("TRUNKLINE_OLD_PRIMARY", &concern.old)
        .env("TRUNKLINE_NEW_PRIMARY", &concern.new)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // With it, what it has started can be ended too.
        .process_group(0);
    let program = argv.program.clone();
    let ended = tokio::task::spawn_blocking(move || wait(command, limit)).await;
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(format!("{program} {reason}")),
        Err(_) => Err(format!("{program} was not run: the process ends")),
    }
}

fn wait(mut command: Command, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("ended with {status}")),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                // It has not been waited for, so the number is still its own.
                let group = Pid::from_raw(child.id().cast_signed());
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                return Err(format!("did not end within {limit:?}"));
            }
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Argv {
        Argv {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        }
    }

    #[tokio::test]
    async fn what_a_program_is_told_and_what_counts_as_done() {
        let concern = Concern {
            shard: "s1".to_owned(),
            old: "a:1".to_owned(),
            new: "b:2".to_owned(),
        };
        let told = r#"test "$TRUNKLINE_SHARD $TRUNKLINE_OLD_PRIMARY $TRUNKLINE_NEW_PRIMARY" = "s1 a:1 b:2""#;
        let limit = Duration::from_secs(10);
        assert_eq!(run(&shell(told), &concern, limit).await, Ok(()));
        let failed = run(&shell("exit 3"), &concern, limit).await.unwrap_err();
        assert!(failed.contains("exit status: 3"), "{failed}");
        let slow = run(&shell("sleep 60"), &concern, Duration::from_millis(50)).await;
        assert_eq!(slow.unwrap_err(), "/bin/sh did not end within 50ms");
        let nothing = Argv {
            program: "/nowhere".to_owned(),
            arguments: vec![],
        };
        let missing = run(&nothing, &concern, limit).await.unwrap_err();
        assert!(missing.contains("cannot be started"), "{missing}");
    }
}
