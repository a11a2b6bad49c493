//! The job as it is stored: JSON with the number of its form.

use serde::{Deserialize, Serialize};

use super::Job;

/// Grows when an older program could not read what is written.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the plan was written in form {found}, and this program knows form {VERSION}")]
    Version { found: u32 },
    #[error("the plan cannot be read: {0}")]
    Malformed(serde_json::Error),
}

#[derive(Deserialize)]
struct Form {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Record<J> {
    version: u32,
    job: J,
}

pub fn to_json(job: &Job) -> String {
    let record = Record {
        version: VERSION,
        job,
    };
    serde_json::to_string(&record).expect("names, numbers and lists become JSON")
}

/// The job that [`to_json`] has written.
pub fn from_json(text: &str) -> Result<Job, RecordError> {
    let Form { version } = serde_json::from_str(text).map_err(RecordError::Malformed)?;
    if version != VERSION {
        return Err(RecordError::Version { found: version });
    }
    let record: Record<Job> = serde_json::from_str(text).map_err(RecordError::Malformed)?;
    Ok(record.job)
}
