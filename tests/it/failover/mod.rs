//! Replicas and failover under load, on real servers: primaries die, hang, are cut off and doubled; replicas go and lag. What clients see of it is
//! counted and held against what the servers have in the end.
//!
//! `stage.rs` makes the servers, `load.rs` the clients; `pgbench.rs` has pgbench for clients. The figures are printed; the limits in the tests are generous, for a busy machine.
//! `TRUNKLINE_NIGHTLY` makes it more of everything.

mod causal;
mod deaths;
mod load;
mod pgbench;
mod process;
mod reload;
mod replicas;
mod splits;
pub mod stage;
mod storm;
mod tap;

/// The second, when `TRUNKLINE_NIGHTLY` is set.
fn size(sizes: (usize, usize)) -> usize {
    match std::env::var_os("TRUNKLINE_NIGHTLY") {
        Some(_) => sizes.1,
        None => sizes.0,
    }
}
