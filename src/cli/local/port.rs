//! Free ports on 127.0.0.1. Nobody can hold a port for a process to come, so whoever uses one tries again when it is taken.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use super::error::LocalError;

/// A port that was free a moment ago, chosen by the system.
pub(super) fn any_free_port() -> Result<u16, LocalError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| LocalError::io("find a free port", Path::new("127.0.0.1"), e))
}

/// The first of up to `tries` ports from `from` that was free a moment ago.
pub fn first_free_port(from: u16, tries: u16) -> Result<u16, LocalError> {
    let to = from.saturating_add(tries.saturating_sub(1));
    for port in from..=to {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(e) if matches!(e.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied) => {}
            Err(e) => return Err(LocalError::io("bind a port", Path::new("127.0.0.1"), e)),
        }
    }
    if from == to {
        Err(LocalError::PortBusy { port: from })
    } else {
        Err(LocalError::NoFreePort { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_passed_over_or_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let busy = listener.local_addr().unwrap().port();
        let message = first_free_port(busy, 1).unwrap_err().to_string();
        assert!(message.contains(&busy.to_string()), "{message}");
        assert_ne!(first_free_port(busy, 50).unwrap(), busy);
    }
}
