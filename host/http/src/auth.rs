//! The API key.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::{Choice, ConstantTimeEq as _};

/// Whether a request may pass: no key is set, or it bears one of them. Takes the same time for every wrong
/// key of the same length, and looks at all keys.
pub(crate) fn allows(keys: &[String], headers: &HeaderMap) -> bool {
    if keys.is_empty() {
        return true;
    }
    let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let Some((scheme, given)) = given.split_at_checked(7) else { return false };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return false;
    }
    let equal = |found: Choice, key: &String| found | key.as_bytes().ct_eq(given.trim_ascii());
    keys.iter().fold(Choice::from(0), equal).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_passes() {
        let keys = ["first".to_owned(), "second".to_owned()];
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        assert!(allows(&[], &HeaderMap::new()));
        assert!(!allows(&keys, &HeaderMap::new()));
        for right in ["Bearer first", "Bearer second", "bearer  second "] {
            assert!(allows(&keys, &with(right)), "{right}");
        }
        for wrong in
            ["Bearer ", "Bearer", "first", "Basic first", "Bearer firs", "Bearer firstx", "Bearer third"]
        {
            assert!(!allows(&keys, &with(wrong)), "{wrong}");
        }
    }
}
