//! A stand-in for a proxy's admin database: it expects statements in an order, and says what it was told to say.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use crate::servers::DEADLINE;

/// What is said to a statement.
pub enum Reply {
    Rows {
        columns: Vec<String>,
        rows: Vec<Vec<Option<String>>>,
    },
    Refused {
        sqlstate: &'static str,
        message: &'static str,
        hint: &'static str,
    },
    /// The connection is closed without a word.
    Goes,
}

impl Reply {
    /// Columns between blanks; values between bars, of which `-` is NULL.
    pub fn rows(columns: &str, rows: &[&str]) -> Reply {
        let values = |row: &&str| {
            let values = row.split('|');
            values
                .map(|value| (value != "-").then(|| value.to_owned()))
                .collect()
        };
        Reply::Rows {
            columns: columns.split(' ').map(str::to_owned).collect(),
            rows: rows.iter().map(values).collect(),
        }
    }
}

pub struct StandIn {
    pub port: u16,
    thread: JoinHandle<()>,
}

impl StandIn {
    /// Connections are served one after the other, until all of it is said.
    pub fn start(script: Vec<(&'static str, Reply)>) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut script = script.into_iter();
            while script.len() > 0 {
                let (stream, _) = listener.accept().unwrap();
                serve(stream, &mut script);
            }
        });
        StandIn { port, thread }
    }

    /// All of it was asked, and nothing else.
    pub fn done(self) {
        self.thread.join().unwrap();
    }
}

fn serve(mut stream: TcpStream, script: &mut impl Iterator<Item = (&'static str, Reply)>) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // An SSLRequest comes first, and is declined.
    while startup(&mut stream) == 80_877_103 {
        stream.write_all(b"N").unwrap();
    }
    let hello = [message(b'R', &[0, 0, 0, 0]), message(b'Z', b"I")].concat();
    stream.write_all(&hello).unwrap();
    while let Some((tag, body)) = read(&mut stream) {
        if tag != b'Q' {
            return;
        }
        let text = String::from_utf8(body[..body.len() - 1].to_vec()).unwrap();
        let (expected, reply) = script
            .next()
            .unwrap_or_else(|| panic!("{text:?} is asked too"));
        assert_eq!(text, expected);
        match reply {
            Reply::Rows { columns, rows } => stream.write_all(&table(&columns, &rows)).unwrap(),
            Reply::Refused {
                sqlstate,
                message,
                hint,
            } => stream.write_all(&refusal(sqlstate, message, hint)).unwrap(),
            Reply::Goes => return,
        }
    }
}

/// Reads one packet without a tag; gives its code.
fn startup(stream: &mut TcpStream) -> i32 {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap() - 4];
    stream.read_exact(&mut body).unwrap();
    i32::from_be_bytes(body[..4].try_into().unwrap())
}

fn read(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let length = i32::from_be_bytes(head[1..].try_into().unwrap());
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn table(columns: &[String], rows: &[Vec<Option<String>>]) -> Vec<u8> {
    let count = |number: usize| i16::try_from(number).unwrap().to_be_bytes();
    let mut fields = count(columns.len()).to_vec();
    for name in columns {
        fields.extend(name.as_bytes());
        // Text, of no table.
        fields.extend([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0,
        ]);
    }
    let mut out = message(b'T', &fields);
    for row in rows {
        assert_eq!(row.len(), columns.len(), "{row:?}");
        let mut body = count(row.len()).to_vec();
        for value in row {
            match value {
                Some(value) => {
                    body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend(value.as_bytes());
                }
                None => body.extend((-1_i32).to_be_bytes()),
            }
        }
        out.extend(message(b'D', &body));
    }
    [out, message(b'C', b"RESHARD 1\0"), message(b'Z', b"I")].concat()
}

fn refusal(sqlstate: &str, text: &str, hint: &str) -> Vec<u8> {
    let body = format!("SERROR\0VERROR\0C{sqlstate}\0M{text}\0H{hint}\0\0");
    [message(b'E', body.as_bytes()), message(b'Z', b"I")].concat()
}
