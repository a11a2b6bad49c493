//! A client's first packet. Run: see `tests/fuzz/Cargo.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::wire::startup::{Packet, parse_packet};

fuzz_target!(|body: &[u8]| {
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
});
