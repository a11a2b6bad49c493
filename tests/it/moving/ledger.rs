//! Guards, fences and what else a plan makes on a shard.
