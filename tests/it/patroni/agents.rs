//! Servers that answer `GET /primary` as Patroni documents it, and say what a test has them say.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    Leader,
    Replica,
    /// It closes the connection.
    Nothing,
    Hangs,
    /// It is something else than Patroni.
    Nonsense,
}

pub struct Agents {
    pub ports: Vec<u16>,
    agents: Vec<Arc<Mutex<Agent>>>,
}

struct Agent {
    says: Says,
    asked: usize,
    /// Connections that get no answer.
    held: Vec<TcpStream>,
}

impl Agents {
    pub fn start(says: &[Says]) -> Agents {
        let mut all = Agents {
            ports: Vec::new(),
            agents: Vec::new(),
        };
        for says in says {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            all.ports.push(listener.local_addr().unwrap().port());
            let agent = Arc::new(Mutex::new(Agent {
                says: *says,
                asked: 0,
                held: Vec::new(),
            }));
            all.agents.push(Arc::clone(&agent));
            // It ends with the process.
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    agent.lock().unwrap().answer(connection.unwrap());
                }
            });
        }
        all
    }

    pub fn say(&self, says: &[Says]) {
        for (agent, says) in self.agents.iter().zip(says) {
            let mut agent = agent.lock().unwrap();
            agent.says = *says;
            agent.held.clear();
        }
    }

    pub fn asked(&self) -> Vec<usize> {
        let agents = self.agents.iter();
        agents.map(|agent| agent.lock().unwrap().asked).collect()
    }
}

impl Agent {
    fn answer(&mut self, mut connection: TcpStream) {
        self.asked += 1;
        if self.says == Says::Hangs {
            self.held.push(connection);
            return;
        }
        let mut question = Vec::new();
        let mut bytes = [0; 1024];
        while !question.ends_with(b"\r\n\r\n") {
            match connection.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(length) => question.extend_from_slice(&bytes[..length]),
            }
        }
        let question = String::from_utf8(question).unwrap();
        assert!(
            question.starts_with("GET /primary HTTP/1.1\r\n"),
            "{question}"
        );
        let (status, role) = match self.says {
            Says::Leader => ("200 OK", "primary"),
            Says::Replica => ("503 Service Unavailable", "replica"),
            Says::Nonsense => ("404 Not Found", "nothing"),
            Says::Nothing | Says::Hangs => return,
        };
        let body = format!(
            "{{\"state\": \"running\", \"postmaster_start_time\": \"2024-08-28 19:39:26.352526+00:00\", \"role\": \"{role}\", \
             \"server_version\": 150008, \"timeline\": 1, \"patroni\": {{\"version\": \"4.0.0\", \"scope\": \"demo\", \"name\": \"p\"}}}}"
        );
        // As Patroni's server does: HTTP/1.0, no length, and the end of the connection is that of the answer.
        let answer = format!("HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}");
        let _ = connection.write_all(answer.as_bytes());
    }
}
