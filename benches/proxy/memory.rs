//! The memory a process has in RAM, from `/proc`.

use crate::error::{Error, Result};

/// Resident now, bytes.
pub fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most that was resident since the process began or [`forget_peak`], bytes.
pub fn peak(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// Sets the peak to what is resident now (proc(5), clear_refs).
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").map_err(|e| Error::io(format!("write {path}"), e))
}

fn status(pid: u32, label: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(format!("read {path}"), e))?;
    text.lines()
        .find_map(|line| {
            let kilobytes = line.strip_prefix(label)?.split_whitespace().next()?;
            Some(kilobytes.parse::<u64>().ok()? * 1024)
        })
        .ok_or_else(|| Error::Missing(format!("{path} has no {label}")))
}
