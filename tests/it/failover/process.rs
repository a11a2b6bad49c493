//! A proxy that is a process of its own, as in production: the program that cargo has built, or the one that `TRUNKLINE_PROGRAM` names, to measure
//! another build.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::stage::nodes_of;
use crate::raw::Raw;
use crate::servers::wait_until;
use crate::sharded::succeeded;

/// Where [`super::stage::Stage::configuration`] listens.
const PLACE: &str = "127.0.0.1:6432";

/// It is killed when dropped.
pub struct Process {
    pub port: u16,
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Ready when all nodes are up.
    pub fn start(configuration: &str) -> Process {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("trunkline.toml");
        let text = configuration.replace(PLACE, &format!("127.0.0.1:{port}"));
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let program = std::env::var_os("TRUNKLINE_PROGRAM");
        let child = Command::new(program.unwrap_or(env!("CARGO_BIN_EXE_trunkline").into()))
            .arg("serve")
            .arg(&file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Process {
            port,
            child,
            folder,
        };
        wait_until("the proxy listens", || {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", process.log());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        nodes_of(port, "all nodes are seen", |nodes| {
            nodes
                .iter()
                .all(|node| node.stage == "up" && !node.role.is_empty())
        });
        process
    }

    /// Has it read another configuration.
    pub fn reload(&self, configuration: &str) {
        let text = configuration.replace(PLACE, &format!("127.0.0.1:{}", self.port));
        std::fs::write(self.folder.path().join("trunkline.toml"), text).unwrap();
        let mut admin = Raw::connect(self.port, "app", "trunkline");
        succeeded("RELOAD", &admin.simple("RELOAD"));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
