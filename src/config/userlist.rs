//! Users and their passwords from a file in the format of PgBouncer's `auth_file`: `"name" "password"` on each line.
//!
//! The password is plain, `md5` and a hash, or a SCRAM verifier; the empty one stands for none. What follows it on the line is
//! passed over, as PgBouncer does.

use super::Line;

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub line: Line,
    pub name: String,
    pub password: String,
}

/// Reads a file's text; every mistake in it at once. No message shows what is on a line: it may be a password.
pub(super) fn parse(text: &str) -> Result<Vec<Listed>, Vec<(Line, &'static str)>> {
    let (mut listed, mut mistakes) = (Vec::new(), Vec::new());
    for (at, text) in text.lines().enumerate() {
        let line = Line(at + 1);
        let text = text.trim_start();
        if text.is_empty() || text.starts_with(';') {
            continue;
        }
        match pair(text) {
            Some((name, password)) => listed.push(Listed {
                line,
                name,
                password,
            }),
            None => mistakes.push((
                line,
                "is not a name and a password, each in double quotes with a blank between them",
            )),
        }
    }
    match mistakes.is_empty() {
        true => Ok(listed),
        false => Err(mistakes),
    }
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, rest) = quoted(text)?;
    let (password, _) = quoted(rest.trim_start_matches([' ', '\t']))?;
    Some((name, password))
}

/// Text in double quotes, in which two of them stand for one; and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut content = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        content.push_str(before);
        match after.strip_prefix('"') {
            Some(after) => {
                content.push('"');
                rest = after;
            }
            None => return Some((content, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_pgbouncer_reads_it() {
        let text = "; comment\n\n\"ann\" \"secret\"\n  \"b \"\"x\"\"\"\t\"md5\" trailing \"words\"\n\"none\"\"\" \"\"\r\n\"glued\"\"x\" \"y\"\n";
        let found = parse(text).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|listed| {
                (
                    listed.line.0,
                    listed.name.as_str(),
                    listed.password.as_str(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (3, "ann", "secret"),
                (4, "b \"x\"", "md5"),
                (5, "none\"", ""),
                (6, "glued\"x", "y")
            ]
        );
        let text = "ann secret\n\"ann\" secret\n\"ann\"\n\"ann\" \"secret\n\"ok\" \"fine\"\n";
        let lines: Vec<_> = parse(text)
            .unwrap_err()
            .iter()
            .map(|(line, _)| line.0)
            .collect();
        assert_eq!(lines, [1, 2, 3, 4]);
    }
}
