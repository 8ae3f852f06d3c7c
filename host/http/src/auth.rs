//! The API key.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

/// The number of the key a request bears, from 1; 0 where none is asked for, `None` if it may not pass. Takes
/// the same time for every wrong key of the same length, and looks at all keys.
pub(crate) fn key(keys: &[String], headers: &HeaderMap) -> Option<u64> {
    if keys.is_empty() {
        return Some(0);
    }
    let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let (scheme, given) = given.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return None;
    }
    let mut found = 0;
    for (number, key) in (1..).zip(keys) {
        found.conditional_assign(&number, key.as_bytes().ct_eq(given.trim_ascii()));
    }
    (found > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_passes() {
        let keys = ["first".to_owned(), "second".to_owned()];
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert_eq!(key(&[], &HeaderMap::new()), Some(0));
        assert_eq!(key(&keys, &HeaderMap::new()), None);
        for (right, number) in [("Bearer first", 1), ("Bearer second", 2), ("bearer  second ", 2)] {
            assert_eq!(key(&keys, &with(right)), Some(number), "{right}");
        }
        for wrong in
            ["Bearer ", "Bearer", "first", "Basic first", "Bearer firs", "Bearer firstx", "Bearer third"]
        {
            assert_eq!(key(&keys, &with(wrong)), None, "{wrong}");
        }
    }
}
