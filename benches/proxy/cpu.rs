//! The CPU time a process has used.

use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// User and system time of all threads of a process so far, ended ones included, in nanoseconds: the process's own CPU clock
/// (clock_getcpuclockid(3)). The ticks of `/proc/PID/stat` are too coarse for runs of a few seconds.
pub fn used(pid: u32) -> Result<Duration> {
    let failed =
        |e: nix::Error| Error::io(format!("read the CPU clock of process {pid}"), e.into());
    let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are positive 32-bit integers"));
    let clock = clock_getcpuclockid(pid).map_err(failed)?;
    Ok(clock_gettime(clock).map_err(failed)?.into())
}
