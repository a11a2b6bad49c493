//! A client that shows every byte of an answer: tags, types, formats, notices and all fields of errors, which drivers hide.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::servers::DEADLINE;

/// One blocking connection to a server or a proxy that asks for no password.
pub struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    status: u8,
}

/// A parameter of an extended query.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The declared type; 0: none.
    pub oid: u32,
    pub format: Format,
    pub value: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Binary,
}

/// What came back for one message or one extended query, up to ReadyForQuery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of each result: name, type, type modifier and format of its columns.
    pub columns: Vec<Vec<(String, u32, i32, u16)>>,
    pub rows: Vec<Vec<Option<Vec<u8>>>>,
    pub tags: Vec<String>,
    pub error: Option<Message>,
    pub notices: Vec<Message>,
    /// The transaction status; 0 after the end of the connection.
    pub status: u8,
}

/// An error or a notice: its fields by their letters, without the server's source file, line and routine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub Vec<(char, String)>);

impl Message {
    pub fn field(&self, letter: char) -> &str {
        let found = self.0.iter().find(|(name, _)| *name == letter);
        found.map_or("", |(_, text)| text)
    }

    pub fn sqlstate(&self) -> &str {
        self.field('C')
    }
}

impl Answer {
    /// Each row's values, with blanks between them.
    pub fn lines(&self) -> Vec<String> {
        let text = |row: &Vec<Option<Vec<u8>>>| {
            let fields = row.iter().map(|field| match field {
                Some(field) => String::from_utf8(field.clone()).expect("text"),
                None => "NULL".to_owned(),
            });
            fields.collect::<Vec<_>>().join(" ")
        };
        self.rows.iter().map(text).collect()
    }

    /// The rows as a set: sorted.
    pub fn sorted(mut self) -> Answer {
        self.rows.sort_unstable();
        self
    }

    /// The id of Trunkline's refusal, if that is what came back.
    pub fn refusal(&self) -> Option<&str> {
        let detail = self.error.as_ref()?.field('D');
        Some(
            detail
                .strip_prefix("Refused by Trunkline: ")?
                .trim_end_matches('.'),
        )
    }

    /// For people: the values as text.
    pub fn shown(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let values = row.iter().map(|value| match value {
                Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                None => "NULL".into(),
            });
            format!("({})", values.collect::<Vec<_>>().join(", "))
        });
        let rows: Vec<String> = rows.take(12).collect();
        format!(
            "{} rows {} tags {:?} error {:?} notices {:?} status {:?} columns {:?}",
            self.rows.len(),
            rows.join(" "),
            self.tags,
            self.error,
            self.notices,
            char::from(self.status),
            self.columns
        )
    }
}

impl Answer {
    fn add(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'T' => self.columns.push(columns(body)),
            b'D' => self.rows.push(row(body)),
            b'C' => self
                .tags
                .push(String::from_utf8(body[..body.len() - 1].to_vec()).unwrap()),
            b'I' => self.tags.push("(empty)".into()),
            b'E' => self.error = Some(fields(body)),
            b'N' => self.notices.push(fields(body)),
            b'Z' => self.status = body[0],
            // Authentication, parameter status, the cancel key, and what confirms Parse, Bind and Describe; the end of a portion.
            b'R' | b'S' | b'K' | b'1' | b'2' | b'n' | b't' | b's' => {}
            // COPY TO: its data as rows of one column.
            b'd' => self.rows.push(vec![Some(body.to_vec())]),
            b'H' | b'c' => {}
            other => panic!("unexpected message {:?}", char::from(other)),
        }
    }
}

impl Raw {
    pub fn connect(port: u16, user: &str, database: &str) -> Raw {
        Raw::try_connect(port, user, database)
            .unwrap_or_else(|e| panic!("login to {database} as {user}: {e:?}"))
    }

    /// The error is what the other side says before it closes the connection.
    pub fn try_connect(port: u16, user: &str, database: &str) -> Result<Raw, Message> {
        Raw::attempt(port, user, database, DEADLINE).expect("it listens and answers in time")
    }

    /// The same where the other side may be gone, or go. An answer that takes longer than `patience` is an error.
    pub fn attempt(
        port: u16,
        user: &str,
        database: &str,
        patience: Duration,
    ) -> io::Result<Result<Raw, Message>> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut raw = Raw {
            stream,
            received: Vec::new(),
            status: 0,
        };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        for text in [
            "user",
            user,
            "database",
            database,
            "client_encoding",
            "UTF8",
            "",
        ] {
            startup.extend_from_slice(text.as_bytes());
            startup.push(0);
        }
        let length = i32::try_from(startup.len() + 4).unwrap();
        raw.stream.write_all(&length.to_be_bytes())?;
        raw.stream.write_all(&startup)?;
        Ok(match raw.try_answer()?.error {
            Some(error) => Err(error),
            None => Ok(raw),
        })
    }

    /// The transaction status that was told last.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// A simple query.
    pub fn simple(&mut self, sql: &str) -> Answer {
        self.try_simple(sql).expect("an answer comes in time")
    }

    /// The same where the other side may go.
    pub fn try_simple(&mut self, sql: &str) -> io::Result<Answer> {
        let mut out = Vec::new();
        put(&mut out, b'Q', |body| string(body, sql));
        self.stream.write_all(&out)?;
        self.try_answer()
    }

    /// Parse, Bind, Describe, Execute, Sync in one go.
    pub fn extended(&mut self, sql: &str, parameters: &[Parameter], results: Format) -> Answer {
        let mut out = begun(sql, parameters, results);
        put(&mut out, b'E', |body| {
            body.extend_from_slice(&[0, 0, 0, 0, 0])
        });
        put(&mut out, b'S', |_| {});
        self.stream.write_all(&out).unwrap();
        self.answer()
    }

    /// The same with so many rows asked for at a time.
    pub fn portions(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
        results: Format,
        rows: u8,
    ) -> Answer {
        let mut out = begun(sql, parameters, results);
        let mut answer = Answer::default();
        loop {
            put(&mut out, b'E', |body| {
                body.extend_from_slice(&[0, 0, 0, 0, rows])
            });
            put(&mut out, b'H', |_| {});
            self.stream.write_all(&std::mem::take(&mut out)).unwrap();
            let last = loop {
                let (tag, body) = self.message().expect("an answer comes in time");
                answer.add(tag, &body);
                if matches!(tag, b's' | b'C' | b'I' | b'E') {
                    break tag;
                }
            };
            if last != b's' {
                break;
            }
        }
        put(&mut out, b'S', |_| {});
        self.stream.write_all(&out).unwrap();
        let end = self.answer();
        self.status = end.status;
        answer.status = end.status;
        answer.notices.extend(end.notices);
        answer.error = answer.error.or(end.error);
        answer
    }

    /// Bytes as they are, then everything up to ReadyForQuery.
    fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer comes in time")
    }
}

/// Parse, Bind and Describe.
fn begun(sql: &str, parameters: &[Parameter], results: Format) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, b'P', |body| {
        string(body, "");
        string(body, sql);
        count(body, parameters.len());
        for parameter in parameters {
            body.extend_from_slice(&parameter.oid.to_be_bytes());
        }
    });
    put(&mut out, b'B', |body| {
        body.extend_from_slice(&[0, 0]);
        count(body, parameters.len());
        for parameter in parameters {
            count(body, parameter.format as usize);
        }
        count(body, parameters.len());
        for parameter in parameters {
            match &parameter.value {
                Some(value) => {
                    body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(value);
                }
                None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
        }
        count(body, 1);
        count(body, results as usize);
    });
    put(&mut out, b'D', |body| body.extend_from_slice(b"P\0"));
    out
}

impl Raw {
    fn try_answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (tag, body) = self.message()?;
            answer.add(tag, &body);
            match tag {
                b'E' if answer
                    .error
                    .as_ref()
                    .is_some_and(|error| error.field('V') == "FATAL") =>
                {
                    return Ok(answer);
                }
                b'Z' => {
                    self.status = body[0];
                    return Ok(answer);
                }
                _ => {}
            }
        }
    }

    fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if self.received.len() >= 5 {
                let length = u32::from_be_bytes(self.received[1..5].try_into().unwrap()) as usize;
                if self.received.len() > length {
                    let rest = self.received.split_off(length + 1);
                    let message = std::mem::replace(&mut self.received, rest);
                    return Ok((message[0], message[5..].to_vec()));
                }
            }
            let mut chunk = [0; 65_536];
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&chunk[..read]);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.stream.write_all(&[b'X', 0, 0, 0, 4]);
    }
}

fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap();
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn count(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u16::try_from(number).unwrap().to_be_bytes());
}

/// What is read of a message's body, from the front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = String::from_utf8(self.take(end).to_vec()).unwrap();
        self.take(1);
        text
    }
}

/// The tables' OIDs differ from server to server and are left out.
fn columns(body: &[u8]) -> Vec<(String, u32, i32, u16)> {
    let mut body = Body(body);
    (0..body.u16())
        .map(|_| {
            let name = body.string();
            body.take(6);
            let oid = body.i32();
            body.take(2);
            let modifier = body.i32();
            (name, oid.cast_unsigned(), modifier, body.u16())
        })
        .collect()
}

fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut body = Body(body);
    (0..body.u16())
        .map(|_| {
            let length = body.i32();
            usize::try_from(length)
                .ok()
                .map(|length| body.take(length).to_vec())
        })
        .collect()
}

fn fields(body: &[u8]) -> Message {
    let mut body = Body(body);
    let mut fields = Vec::new();
    loop {
        let letter = char::from(body.take(1)[0]);
        match letter {
            '\0' => return Message(fields),
            'F' | 'L' | 'R' => drop(body.string()),
            _ => fields.push((letter, body.string())),
        }
    }
}
