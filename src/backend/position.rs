//! Where a server's error points to, in the text that the client wrote and not in the one that the server was sent.

use std::ops::Range;

use crate::wire::answer;

/// How the characters of a text that was sent lie in the one that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift(Box<[Part]>);

/// From here to the next part, in characters from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    sent: usize,
    written: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AsWritten,
    /// A name stands for another.
    Replaced,
}

impl Shift {
    /// The client's text was sent from `start` on; these places, in their order, were replaced by as many characters as given.
    pub fn new(
        text: &[u8],
        start: usize,
        replaced: impl IntoIterator<Item = (Range<usize>, usize)>,
    ) -> Shift {
        let (mut at, mut sent, mut written) = (start, 0, characters(&text[..start]));
        let mut parts = Vec::new();
        let mut part = |sent, written, kind| {
            parts.push(Part {
                sent,
                written,
                kind,
            });
        };
        part(sent, written, Kind::AsWritten);
        for (place, length) in replaced {
            let between = characters(&text[at..place.start]);
            (sent, written) = (sent + between, written + between);
            part(sent, written, Kind::Replaced);
            (sent, written) = (sent + length, written + characters(&text[place.clone()]));
            part(sent, written, Kind::AsWritten);
            at = place.end;
        }
        Shift(parts.into())
    }

    /// The place in the client's text; both from 1.
    fn written(&self, position: usize) -> usize {
        let position = position.saturating_sub(1);
        let part = self.0.iter().rfind(|part| part.sent <= position);
        1 + part.map_or(position, |part| match part.kind {
            Kind::AsWritten => part.written + (position - part.sent),
            Kind::Replaced => part.written,
        })
    }

    /// An ErrorResponse with the place that it points to put right; `None`: it points nowhere.
    pub fn error(&self, body: &[u8]) -> Option<Vec<u8>> {
        let mut fields: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
        let place = fields
            .iter()
            .position(|field| field.first() == Some(&b'P'))?;
        let position: usize = std::str::from_utf8(&fields[place][1..])
            .ok()?
            .parse()
            .ok()?;
        let written = format!("P{}", self.written(position));
        fields[place] = written.as_bytes();
        let mut out = Vec::with_capacity(body.len() + 8);
        answer::error_response_raw(&mut out, &fields.join(&0));
        Some(out)
    }
}

/// As a server counts them in UTF-8.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_behind_a_longer_name() {
        let text = "/* é */ EXECUTE pé (x), (y)".as_bytes();
        // Under a name of four characters: /* é */ EXECUTE name (x), (y)
        let shift = Shift::new(text, 0, [(17..20, 4)]);
        for (sent, written) in [(1, 1), (16, 16), (17, 17), (20, 17), (21, 19), (23, 21)] {
            assert_eq!(shift.written(sent), written, "{sent}");
        }
        // Without the comment.
        let cut = Shift::new(text, 9, [(17..20, 4)]);
        for (sent, written) in [(1, 9), (9, 17), (13, 19), (15, 21)] {
            assert_eq!(cut.written(sent), written, "{sent}");
        }
        let error = b"SERROR\0C42703\0P23\0Rx\0\0";
        let told = shift.error(error).unwrap();
        assert_eq!(&told[5..], b"SERROR\0C42703\0P21\0Rx\0\0");
        assert_eq!(shift.error(b"SERROR\0C42703\0\0"), None);
    }
}
