//! Identifiers as Postgres reads them: ASCII lower case unless quoted, cut at 63 bytes.

use super::lexer::{Kind, Lexeme};

/// `NAMEDATALEN - 1` of every server that was not built specially.
const LONGEST_NAME: usize = 63;

/// An unquoted identifier: folded and cut.
pub(super) fn fold(word: &str) -> Box<str> {
    let mut folded = cut(word).to_owned();
    folded.make_ascii_lowercase();
    folded.into_boxed_str()
}

/// A name that stood in quotes, given without them and with doubled quotes resolved.
pub(super) fn keep(name: &str) -> Box<str> {
    cut(name).into()
}

/// The identifier that a lexeme is, if it is one.
pub(super) fn identifier(text: &str, lexeme: &Lexeme) -> Option<Box<str>> {
    let source = &text[lexeme.range()];
    match lexeme.kind {
        Kind::Word => Some(fold(source)),
        Kind::Quoted => Some(keep(&unquote(source))),
        // `read()` refuses texts in which such a name has escapes.
        Kind::UnicodeQuoted => Some(keep(&unquote(&source[2..]))),
        _ => None,
    }
}

/// The content of `"name"`.
pub(super) fn unquote(source: &str) -> String {
    source[1..source.len() - 1].replace("\"\"", "\"")
}

/// As `pg_mbcliplen` does: never inside a character.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(LONGEST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ascii_is_folded() {
        assert_eq!(&*fold("ÄbC"), "Äbc");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(fold(&"x".repeat(64)).len(), 63);
        assert_eq!(fold(&"é".repeat(40)).len(), 62);
    }
}
