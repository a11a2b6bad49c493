//! A message's body, after the login; the first byte is the type. Run: see `tests/fuzz/Cargo.toml`.
//! What is accepted must come out of the encoder as it went in: what is routed is what is sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::wire::answer::ErrorFields;
use trunkline::wire::message::{Bind, Close, Describe, Execute, Parse, Query, encode_query};

fuzz_target!(|message: &[u8]| {
    let Some((kind, body)) = message.split_first() else {
        return;
    };
    let mut out = Vec::new();
    match kind {
        b'Q' => {
            let Ok(query) = Query::decode(body) else {
                return;
            };
            encode_query(query.text, &mut out);
        }
        b'P' => {
            let Ok(parse) = Parse::decode(body) else {
                return;
            };
            assert_eq!(parse.types().count(), parse.types().len());
            parse.encode_as(parse.name, &mut out);
        }
        b'B' => {
            let Ok(bind) = Bind::decode(body) else { return };
            let count = usize::from(bind.parameter_count);
            assert_eq!(bind.values().count(), count);
            for index in 0..count {
                let _ = (bind.formats.of(index), bind.result_formats.of(index));
            }
            assert_eq!(bind.value(count), None);
            bind.encode_as(bind.portal, bind.statement, &mut out);
        }
        b'D' => {
            let Ok(describe) = Describe::decode(body) else {
                return;
            };
            describe.encode(&mut out);
        }
        b'C' => {
            let Ok(close) = Close::decode(body) else {
                return;
            };
            close.encode(&mut out);
        }
        b'E' => {
            let Ok(execute) = Execute::decode(body) else {
                return;
            };
            execute.encode(&mut out);
        }
        _ => {
            let _ = ErrorFields::parse(body);
            return;
        }
    }
    assert_eq!((out[0], &out[5..]), (*kind, body));
    assert_eq!(
        u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize,
        out.len() - 1
    );
});
