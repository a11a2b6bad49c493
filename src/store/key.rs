//! What may be a key, and the name of a lease.

use super::StoreError;

/// The longest key, in bytes.
const LONGEST: usize = 512;

/// Refuses what could not be shown, or be a key in one store and not in the other.
pub(super) fn check(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::BadKey {
            key: String::new(),
            reason: "it is empty",
        });
    }
    check_prefix(key)
}

/// As [`check`]; it may be empty.
pub(super) fn check_prefix(key: &str) -> Result<(), StoreError> {
    let reason = if key.len() > LONGEST {
        "it has more than 512 bytes"
    } else if key.chars().any(char::is_control) {
        "it holds a control character"
    } else {
        return Ok(());
    };
    Err(StoreError::BadKey {
        key: key.chars().take(64).collect(),
        reason,
    })
}

/// The name of a holder is shown to people.
pub(super) fn check_holder(holder: &str) -> Result<(), StoreError> {
    check(holder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "plans/split 2026/phase", "schl\u{fc}ssel"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a\0", "a\nb", &"x".repeat(513)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check_prefix("").is_ok());
    }
}
