//! A client of the wire protocol that hides nothing: it sends the bytes it is given and shows every message it gets.
//!
//! Sequences of answers become text like `1 2 C(INSERT 0 1) Z(I)`, so that what a server says and what Trunkline says can be compared.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use crate::servers::DEADLINE;

/// One message of a server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// A connection.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    pub process_id: i32,
    pub secret: Vec<u8>,
}

/// What the end of an answer is known by.
#[derive(Clone, Copy)]
pub enum Until {
    /// So many ReadyForQuery.
    Ready(usize),
    /// So many messages, ParameterStatus not counted.
    Messages(usize),
}

/// Bytes to send, and what to wait for.
pub type Step = (Vec<u8>, Until);

/// Sends the messages and waits for as many ReadyForQuery as there are Query, FunctionCall and Sync among them.
pub fn ask(messages: &[Vec<u8>]) -> Step {
    let closing = messages
        .iter()
        .filter(|message| matches!(message[0], b'Q' | b'F' | b'S'));
    (messages.concat(), Until::Ready(closing.count()))
}

/// Sends the messages and waits for so many answers.
pub fn ask_for(messages: &[Vec<u8>], answers: usize) -> Step {
    (messages.concat(), Until::Messages(answers))
}

impl Wire {
    /// Connects without a word.
    pub fn connect(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire {
            stream,
            buffer: Vec::new(),
            process_id: 0,
            secret: Vec::new(),
        }
    }

    /// Logs in; `Err` is what was said instead of ReadyForQuery.
    pub fn log_in(
        address: SocketAddr,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<Wire, Message> {
        let mut wire = Wire::connect(address);
        wire.send(&startup(3 << 16, parameters));
        wire.finish_login(parameters[0].1, password).map(|_| wire)
    }

    /// From the startup packet to ReadyForQuery; gives all that was said.
    pub fn finish_login(&mut self, user: &str, password: &str) -> Result<Vec<Message>, Message> {
        let mut scram = None;
        let mut said = Vec::new();
        loop {
            let message = self
                .read()
                .expect("the server closed the connection in the middle of a login");
            let kind = message
                .body
                .get(..4)
                .map(|kind| i32::from_be_bytes(kind.try_into().unwrap()));
            match (message.tag, kind) {
                (b'R', Some(5)) => {
                    let salt = message.body[4..8].try_into().unwrap();
                    self.send(&tagged(
                        b'p',
                        &cstring(&md5_hash(user.as_bytes(), password.as_bytes(), salt)),
                    ));
                }
                (b'R', Some(10)) => {
                    let state =
                        ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                    let first = state.message();
                    let length = i32::try_from(first.len()).unwrap().to_be_bytes();
                    self.send(&tagged(
                        b'p',
                        &[b"SCRAM-SHA-256\0", &length[..], first].concat(),
                    ));
                    scram = Some(state);
                }
                (b'R', Some(11)) => {
                    let state = scram.as_mut().unwrap();
                    state.update(&message.body[4..]).unwrap();
                    let last = state.message().to_vec();
                    self.send(&tagged(b'p', &last));
                }
                (b'R', Some(12)) => scram.as_mut().unwrap().finish(&message.body[4..]).unwrap(),
                (b'K', _) => {
                    self.process_id = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.secret = message.body[4..].to_vec();
                }
                (b'E', _) => return Err(message),
                (b'Z', _) => {
                    said.push(message);
                    return Ok(said);
                }
                _ => {}
            }
            said.push(message);
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; `None` when the server has closed the connection.
    pub fn read(&mut self) -> Option<Message> {
        loop {
            if let Some(header) = self.buffer.get(..5) {
                let end = 1 + u32::from_be_bytes(header[1..].try_into().unwrap()) as usize;
                if self.buffer.len() >= end {
                    let message = Message {
                        tag: self.buffer[0],
                        body: self.buffer[5..end].to_vec(),
                    };
                    self.buffer.drain(..end);
                    return Some(message);
                }
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no message in time: {error}"),
            }
        }
    }

    /// Reads as far as it is told; ends earlier when the connection does.
    pub fn read_until(&mut self, until: Until) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        loop {
            let reached = match until {
                Until::Ready(count) => {
                    messages
                        .iter()
                        .filter(|message| message.tag == b'Z')
                        .count()
                        >= count
                }
                Until::Messages(count) => {
                    messages
                        .iter()
                        .filter(|message| message.tag != b'S')
                        .count()
                        >= count
                }
            };
            if reached {
                return messages;
            }
            match self.read() {
                Some(message) => messages.push(message),
                None => {
                    messages.push(Message {
                        tag: b'!',
                        body: Vec::new(),
                    });
                    return messages;
                }
            }
        }
    }

    /// Sends, waits, and gives the answer as text.
    pub fn step(&mut self, (bytes, until): &Step) -> String {
        self.send(bytes);
        transcript(&self.read_until(*until))
    }

    /// The answer to a simple query, as text.
    pub fn query(&mut self, sql: &str) -> String {
        self.step(&ask(&[query(sql)]))
    }

    /// The answer to the messages, as text.
    pub fn ask(&mut self, messages: &[Vec<u8>]) -> String {
        self.step(&ask(messages))
    }

    /// The first column of the first row.
    pub fn value(&mut self, sql: &str) -> String {
        self.send(&query(sql));
        let messages = self.read_until(Until::Ready(1));
        let row = messages.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("no row for {sql}: {}", transcript(&messages)));
        row.to_string()
            .trim_start_matches("D(")
            .trim_end_matches(')')
            .split('|')
            .next()
            .unwrap()
            .to_owned()
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut messages = Vec::new();
        while let Some(message) = self.read() {
            messages.push(message);
        }
        transcript(&messages)
    }
}

/// Messages as text, without ParameterStatus: those come whenever a client gets another server connection.
pub fn transcript(messages: &[Message]) -> String {
    let shown: Vec<String> = messages
        .iter()
        .filter(|message| message.tag != b'S')
        .map(Message::to_string)
        .collect();
    shown.join(" ")
}

impl Message {
    fn field(&self, code: u8) -> String {
        let mut fields = self.body.split(|byte| *byte == 0);
        let field = fields.find(|field| field.first() == Some(&code));
        field.map_or_else(String::new, |field| {
            String::from_utf8_lossy(&field[1..]).into_owned()
        })
    }

    /// Where an error points to in the text, in characters from 1.
    pub fn position(&self) -> Option<usize> {
        self.field(b'P').parse().ok()
    }

    pub fn sqlstate(&self) -> String {
        self.field(b'C')
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = &self.body;
        let text = |bytes: &[u8]| {
            bytes
                .escape_ascii()
                .to_string()
                .replace("\\\"", "\"")
                .replace("\\'", "'")
        };
        match self.tag {
            b'T' => {
                let mut columns = Vec::new();
                let mut rest = &body[2..];
                while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                    let kind = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
                    columns.push(format!("{}:{kind}", text(&rest[..end])));
                    rest = &rest[end + 19..];
                }
                write!(f, "T({})", columns.join(" "))
            }
            b'D' => {
                let mut values = Vec::new();
                let mut rest = &body[2..];
                while !rest.is_empty() {
                    let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
                    rest = &rest[4..];
                    match usize::try_from(length) {
                        Ok(length) => {
                            values.push(text(&rest[..length]));
                            rest = &rest[length..];
                        }
                        Err(_) => values.push("null".to_owned()),
                    }
                }
                write!(f, "D({})", values.join("|"))
            }
            b't' => {
                let kinds = body[2..]
                    .chunks(4)
                    .map(|kind| u32::from_be_bytes(kind.try_into().unwrap()).to_string());
                write!(f, "t({})", kinds.collect::<Vec<_>>().join(" "))
            }
            b'C' => write!(f, "C({})", text(&body[..body.len() - 1])),
            b'd' | b'Z' => write!(f, "{}({})", char::from(self.tag), text(body)),
            b'A' => write!(
                f,
                "A({})",
                text(&body[4..])
                    .trim_end_matches("\\x00")
                    .replace("\\x00", " ")
            ),
            b'E' | b'N' => {
                let tag = char::from(self.tag);
                write!(
                    f,
                    "{tag}({} {} {})",
                    self.field(b'V'),
                    self.sqlstate(),
                    self.field(b'M')
                )
            }
            tag => write!(f, "{}", char::from(tag)),
        }
    }
}

pub fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn cstring(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// A startup packet; the first parameter is the user.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstring(name));
        body.extend(cstring(value));
    }
    body.push(0);
    packet(&body)
}

/// A packet without a type byte.
pub fn packet(body: &[u8]) -> Vec<u8> {
    [
        &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..],
        body,
    ]
    .concat()
}

/// A CancelRequest.
pub fn cancel_request(process_id: i32, secret: &[u8]) -> Vec<u8> {
    packet(
        &[
            &80_877_102_u32.to_be_bytes()[..],
            &process_id.to_be_bytes(),
            secret,
        ]
        .concat(),
    )
}

pub fn query(sql: &str) -> Vec<u8> {
    tagged(b'Q', &cstring(sql))
}

/// Parse, with the types of parameters where they are not left to the server.
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstring(name), cstring(sql)].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    body.extend(types.iter().flat_map(|kind| kind.to_be_bytes()));
    tagged(b'P', &body)
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<Option<&[u8]>> = values
        .iter()
        .map(|value| value.map(str::as_bytes))
        .collect();
    bind_as(portal, statement, &[], &values)
}

/// Bind with these format codes for its parameters, and text results.
pub fn bind_as(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
) -> Vec<u8> {
    let mut body = [cstring(portal), cstring(statement)].concat();
    body.extend(u16::try_from(formats.len()).unwrap().to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend(0_u16.to_be_bytes());
    tagged(b'B', &body)
}

pub fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    tagged(
        b'E',
        &[cstring(portal), max_rows.to_be_bytes().to_vec()].concat(),
    )
}

/// Describe of a statement (`S`) or a portal (`P`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'D', &[vec![kind], cstring(name)].concat())
}

/// Close of a statement (`S`) or a portal (`P`).
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'C', &[vec![kind], cstring(name)].concat())
}

pub fn flush() -> Vec<u8> {
    tagged(b'H', b"")
}

pub fn sync() -> Vec<u8> {
    tagged(b'S', b"")
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    tagged(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    tagged(b'c', b"")
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    tagged(b'f', &cstring(why))
}

/// A statement from Parse to Execute, unnamed, without a Sync.
pub fn run(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", values), execute("", 0)].concat()
}
