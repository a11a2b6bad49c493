//! The merger against naive oracles.
