//! `primary_conninfo` with another server in it; all else stays as it was. Pure.
//!
//! Both forms of libpq are understood: words with values, and a URI. See "Connection Strings" in the manual of libpq.

/// The same connection to another server; `None` where the text is not understood.
pub fn pointed_to(conninfo: &str, host: &str, port: u16) -> Option<String> {
    if conninfo.starts_with("postgresql://") || conninfo.starts_with("postgres://") {
        return uri(conninfo, host, port);
    }
    let kept = words(conninfo)?
        .into_iter()
        .filter(|(word, _)| !["host", "hostaddr", "port"].contains(&word.as_str()));
    let mut text = format!("host={} port={port}", quoted(host));
    for (word, value) in kept {
        text += &format!(" {word}={}", quoted(&value));
    }
    Some(text)
}

fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{escaped}'")
}

/// Of `word = value` pairs; a value may be in single quotes, and a backslash takes the next character as it is.
fn words(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = rest.split_once('=')?;
        let word = word.trim_end();
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if word.is_empty() || !word.bytes().all(is_word) {
            return None;
        }
        let after = after.trim_start();
        let (value, after) = value(after)?;
        found.push((word.to_owned(), value));
        rest = after.trim_start();
    }
    Some(found)
}

fn value(text: &str) -> Option<(String, &str)> {
    let is_quoted = text.starts_with('\'');
    let body = &text[usize::from(is_quoted)..];
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if is_quoted => return Some((value, &body[at + 1..])),
            other if !is_quoted && other.is_whitespace() => return Some((value, &body[at..])),
            other => value.push(other),
        }
    }
    (!is_quoted).then_some((value, ""))
}

fn uri(text: &str, host: &str, port: u16) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // In the query it would outrank what stands before.
    let in_query = ["host=", "hostaddr=", "port="];
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    if query
        .split('&')
        .any(|pair| in_query.iter().any(|word| pair.starts_with(word)))
    {
        return None;
    }
    let user = authority
        .rsplit_once('@')
        .map_or(String::new(), |(user, _)| format!("{user}@"));
    let host = match host {
        socket if socket.starts_with('/') => socket.replace('/', "%2F"),
        address if address.contains(':') => format!("[{address}]"),
        name => name.to_owned(),
    };
    Some(format!("{scheme}://{user}{host}:{port}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::pointed_to;

    #[test]
    fn only_the_server_changes() {
        for (before, wanted) in [
            ("", Some("host='db2' port=5433")),
            (
                "host=db1 port=5432 user=repl password=x",
                Some("host='db2' port=5433 user='repl' password='x'"),
            ),
            ("user = 'the ''s", None),
            (
                r"user=repl password='it\'s \\ here' host='db1,db0' hostaddr=10.0.0.1 sslmode=require",
                Some(
                    r"host='db2' port=5433 user='repl' password='it\'s \\ here' sslmode='require'",
                ),
            ),
            (
                "postgresql://repl:x@db1:5432,db0:5432/replication?sslmode=require",
                Some("postgresql://repl:x@db2:5433/replication?sslmode=require"),
            ),
            ("postgres://db1", Some("postgres://db2:5433")),
            ("postgres:///?host=/tmp", None),
            ("nonsense", None),
        ] {
            assert_eq!(
                pointed_to(before, "db2", 5433).as_deref(),
                wanted,
                "{before}"
            );
        }
        assert_eq!(
            pointed_to("postgres://db1", "::1", 1).as_deref(),
            Some("postgres://[::1]:1")
        );
    }
}
