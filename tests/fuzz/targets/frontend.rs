//! A client's message after the login. Run: see `tests/fuzz/Cargo.toml`.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::frontend(input));
