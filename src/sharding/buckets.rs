//! A power-of-two number of buckets, each on one shard.

use super::{MapError, ShardId};

/// Most buckets a map may have: more would only cost memory, as none would hold a useful share of the keys.
pub const MOST_BUCKETS: u32 = 1 << 16;

/// Which shard has each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// One entry a bucket; the length is a power of two.
    shards: Box<[ShardId]>,
}

/// Buckets that were assigned to one shard: inclusive runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub shard: ShardId,
    pub runs: Vec<(u32, u32)>,
}

impl Buckets {
    /// Equal runs over these shards, in order; shard `i` of `n` begins at bucket `i * count / n`.
    pub fn even(count: u32, shards: &[ShardId]) -> Result<Buckets, Vec<MapError>> {
        let mut errors = check_count(count);
        for (second, shard) in shards.iter().enumerate() {
            if let Some(first) = shards[..second].iter().position(|earlier| earlier == shard) {
                errors.push(MapError::ShardTwice { first, second });
            }
        }
        let places = u64::try_from(shards.len()).unwrap_or(u64::MAX);
        if places == 0 {
            errors.push(MapError::NoShards);
        } else if places > u64::from(count) {
            errors.push(MapError::MoreShardsThanBuckets {
                shards: shards.len(),
                buckets: count,
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        // The largest bucket b with i * count / n <= b belongs to i = ((b + 1) * n - 1) / count.
        let shards = (0..u64::from(count))
            .map(|bucket| ((bucket + 1) * places - 1) / u64::from(count))
            .map(|place| shards[usize::try_from(place).expect("less than the number of shards")])
            .collect();
        Ok(Buckets { shards })
    }

    /// Runs written one by one: each bucket exactly once.
    pub fn assigned(count: u32, assignments: &[Assignment]) -> Result<Buckets, Vec<MapError>> {
        let mut errors = check_count(count);
        if assignments.is_empty() {
            errors.push(MapError::NoShards);
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let size = usize::try_from(count).expect("at most 2^16");
        let mut owners: Vec<Option<usize>> = vec![None; size];
        for (entry, assignment) in assignments.iter().enumerate() {
            for &(first, last) in &assignment.runs {
                if first > last {
                    errors.push(MapError::RunReversed { entry, first, last });
                } else if last >= count {
                    errors.push(MapError::BucketOutOfRange {
                        entry,
                        bucket: last,
                        buckets: count,
                    });
                } else {
                    errors.extend(claim(&mut owners, entry, first, last));
                }
            }
        }
        errors.extend(gaps(&owners));
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Buckets {
            shards: owners
                .into_iter()
                .flatten()
                .map(|entry| assignments[entry].shard)
                .collect(),
        })
    }

    /// The number of buckets.
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^16")]
    pub fn count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The shard of each bucket.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// Inclusive runs of buckets on one shard, in order of the buckets.
    pub fn runs(&self) -> Vec<(u32, u32, ShardId)> {
        let mut runs: Vec<(u32, u32, ShardId)> = Vec::new();
        for (bucket, shard) in (0..).zip(&self.shards) {
            match runs.last_mut() {
                Some((_, last, owner)) if owner == shard => *last = bucket,
                _ => runs.push((bucket, bucket, *shard)),
            }
        }
        runs
    }

    /// The bucket of a hash (`hash % count`) and its shard.
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 16 bits")]
    pub(super) fn locate(&self, hash: u64) -> (u32, ShardId) {
        let bucket = hash as usize & (self.shards.len() - 1);
        (bucket as u32, self.shards[bucket])
    }
}

fn check_count(count: u32) -> Vec<MapError> {
    if count.is_power_of_two() && count <= MOST_BUCKETS {
        Vec::new()
    } else {
        vec![MapError::BucketCount { buckets: count }]
    }
}

/// Gives the run to an entry, and reports each stretch of it that an earlier one has.
fn claim(owners: &mut [Option<usize>], entry: usize, first: u32, last: u32) -> Vec<MapError> {
    let mut errors: Vec<MapError> = Vec::new();
    for bucket in first..=last {
        let owner = &mut owners[usize::try_from(bucket).expect("checked to lie in the table")];
        match *owner {
            None => *owner = Some(entry),
            Some(earlier) => match errors.last_mut() {
                Some(MapError::BucketsTwice {
                    first_entry, to, ..
                }) if *first_entry == earlier && *to + 1 == bucket => *to = bucket,
                _ => errors.push(MapError::BucketsTwice {
                    first_entry: earlier,
                    second_entry: entry,
                    from: bucket,
                    to: bucket,
                }),
            },
        }
    }
    errors
}

/// One error for each run of buckets that nobody has.
fn gaps(owners: &[Option<usize>]) -> Vec<MapError> {
    let mut errors: Vec<MapError> = Vec::new();
    for (bucket, _) in (0..).zip(owners).filter(|(_, owner)| owner.is_none()) {
        match errors.last_mut() {
            Some(MapError::BucketsUnassigned { to, .. }) if *to + 1 == bucket => *to = bucket,
            _ => errors.push(MapError::BucketsUnassigned {
                from: bucket,
                to: bucket,
            }),
        }
    }
    errors
}
