//! A text as tokens with their places.

use std::fmt;

use super::SyntaxError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// In double quotes: a name.
    Quoted(String),
    /// In single quotes.
    Text(String),
    /// Digits, with a point among them or not.
    Number(String),
    Symbol(&'static str),
    Other(char),
}

#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub token: Token,
    /// In characters of the whole text.
    pub at: usize,
}

const SYMBOLS: [&str; 7] = ["->", ",", ";", "(", ")", "%", "-"];
/// Longer pieces are cut in messages.
const SHOWN: usize = 40;

/// `begin`: the place of the text's first character.
pub(super) fn tokens(text: &str, begin: usize) -> Result<Vec<Placed>, SyntaxError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut place = 0;
    while let Some(first) = characters.get(place).copied() {
        let rest = &characters[place..];
        let (token, length) = match first {
            _ if first.is_whitespace() => {
                place += 1;
                continue;
            }
            '-' if rest.get(1) == Some(&'-') => {
                place += run(rest, |one| one != '\n');
                continue;
            }
            '/' if rest.get(1) == Some(&'*') => match comment(rest) {
                Some(length) => {
                    place += length;
                    continue;
                }
                None => {
                    return Err(SyntaxError {
                        at: begin + place,
                        found: "a comment that is not closed".to_owned(),
                        expected: "*/ behind it".to_owned(),
                    });
                }
            },
            '\'' | '"' => match quoted(rest, first) {
                Some((inside, length)) if first == '"' => (Token::Quoted(inside), length),
                Some((inside, length)) => (Token::Text(inside), length),
                None => {
                    return Err(SyntaxError {
                        at: begin + place,
                        found: "a quote that is not closed".to_owned(),
                        expected: format!("another {first} behind it"),
                    });
                }
            },
            '0'..='9' => {
                let length = run(rest, |one| one.is_ascii_digit() || one == '.');
                (Token::Number(rest[..length].iter().collect()), length)
            }
            _ if first.is_alphabetic() || first == '_' => {
                let length = run(rest, |one| one.is_alphanumeric() || one == '_');
                (Token::Word(rest[..length].iter().collect()), length)
            }
            _ => match SYMBOLS.into_iter().find(|symbol| begins_with(rest, symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => (Token::Other(first), 1),
            },
        };
        tokens.push(Placed {
            token,
            at: begin + place,
        });
        place += length;
    }
    Ok(tokens)
}

fn run(characters: &[char], inside: impl Fn(char) -> bool) -> usize {
    characters.iter().take_while(|one| inside(**one)).count()
}

/// The length of a comment, up to the first end: they are not nested.
fn comment(characters: &[char]) -> Option<usize> {
    let inside = characters.get(2..)?;
    let end = inside.windows(2).position(|pair| pair == ['*', '/'])?;
    Some(end + 4)
}

fn begins_with(characters: &[char], symbol: &str) -> bool {
    symbol
        .chars()
        .enumerate()
        .all(|(place, one)| characters.get(place) == Some(&one))
}

/// What is between the quotes, doubled ones made single, and the length with both.
fn quoted(characters: &[char], quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut place = 1;
    loop {
        let one = *characters.get(place)?;
        if one != quote {
            inside.push(one);
            place += 1;
        } else if characters.get(place + 1) == Some(&quote) {
            inside.push(quote);
            place += 2;
        } else {
            return Some((inside, place + 1));
        }
    }
}

/// As messages name what was found.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: &str| -> String { text.chars().take(SHOWN).collect() };
        match self {
            Token::Word(text) => f.write_str(&cut(text)),
            Token::Quoted(text) => write!(f, "\"{}\"", cut(text)),
            Token::Text(text) => write!(f, "'{}'", cut(text)),
            Token::Number(text) => f.write_str(&cut(text)),
            Token::Symbol(text) => write!(f, "\"{text}\""),
            Token::Other(one) => write!(f, "\"{}\"", one.escape_debug()),
        }
    }
}
