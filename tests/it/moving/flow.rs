//! Chunks that are copied while their rows change.
