//! What is tried with each input: by the fuzzers (`targets/`) and, without them, by `tests/fuzzing.rs`.

use trunkline::sql::{self, Body, normalise};
use trunkline::wire::answer::ErrorFields;
use trunkline::wire::message::{Bind, Close, Describe, Execute, Parse, Query, encode_query};
use trunkline::wire::startup::{Packet, parse_packet};

/// A client's first packet.
pub fn startup(body: &[u8]) {
    match parse_packet(body) {
        Ok(Packet::Startup(packet)) => {
            assert!(!packet.user.is_empty() && !packet.database.is_empty());
            let texts = packet
                .parameters
                .iter()
                .flat_map(|(name, value)| [name, value]);
            let texts = texts
                .chain(&packet.unrecognized)
                .chain([&packet.user, &packet.database]);
            // Nothing is made up and nothing is read twice.
            assert!(texts.map(|text| text.len()).sum::<usize>() <= 2 * body.len());
        }
        Ok(Packet::Cancel { key, .. }) => assert!((4..=256).contains(&key.len())),
        Ok(Packet::SslRequest | Packet::GssEncRequest) => assert_eq!(body.len(), 4),
        Err(_) => {}
    }
}

/// A message's body, after the login; the first byte is the type.
/// What is accepted must come out of the encoder as it went in: what is routed is what is sent.
pub fn frontend(message: &[u8]) {
    let Some((kind, body)) = message.split_first() else {
        return;
    };
    let Some(out) = encoded(*kind, body) else {
        return;
    };
    assert_eq!((out[0], &out[5..]), (*kind, body));
    assert_eq!(
        u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize,
        out.len() - 1
    );
}

/// The message anew, of what was decoded; `None` where it was refused.
fn encoded(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match kind {
        b'Q' => encode_query(Query::decode(body).ok()?.text, &mut out),
        b'P' => {
            let parse = Parse::decode(body).ok()?;
            assert_eq!(parse.types().count(), parse.types().len());
            parse.encode_as(parse.name, &mut out);
        }
        b'B' => {
            let bind = Bind::decode(body).ok()?;
            let count = usize::from(bind.parameter_count);
            assert_eq!(bind.values().count(), count);
            for index in 0..count {
                let _ = (bind.formats.of(index), bind.result_formats.of(index));
            }
            assert_eq!(bind.value(count), None);
            bind.encode_as(bind.portal, bind.statement, &mut out);
        }
        b'D' => Describe::decode(body).ok()?.encode(&mut out),
        b'C' => Close::decode(body).ok()?.encode(&mut out),
        b'E' => Execute::decode(body).ok()?.encode(&mut out),
        _ => {
            let _ = ErrorFields::parse(body);
            return None;
        }
    }
    Some(out)
}

/// The text of a query: read, and made the key of the plan cache.
pub fn statement(text: &[u8]) {
    let (mut normal, mut literals) = (Vec::new(), Vec::new());
    if normalise::normalise(text, &mut normal, &mut literals).is_ok() {
        for literal in &literals {
            let (start, end) = (literal.start as usize, literal.end as usize);
            assert!(start < end && end <= text.len());
            let _ = normalise::literal_text(text, literal);
            let mark = normalise::to_normal(start, &literals);
            assert_eq!(normalise::from_normal(mark, &literals), start);
        }
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(statements) = sql::read(text) else {
        return;
    };
    let mut read_to = 0;
    for statement in &statements {
        // In order, and whole characters.
        assert!(read_to <= statement.range.start && text.get(statement.range.clone()).is_some());
        read_to = statement.range.end;
        if let Body::Facts(facts) = &statement.body {
            for (place, block) in facts.blocks.iter().enumerate() {
                assert!(block.parent.is_none_or(|parent| parent < place));
                let relations = block.relations.iter();
                let usable = relations.flat_map(|relation| &relation.usable);
                assert!(
                    usable
                        .max()
                        .is_none_or(|most| *most < block.conjuncts.len())
                );
            }
        }
    }
}
