//! What a request's headers say about who asks and how urgent it is: the key, and what llm-d's gateway adds.
//!
//! A value that does not fit is ignored: these headers advise the scheduler, no answer depends on them.

use hyper::HeaderMap;
use std::time::{Duration, Instant};

const FAIRNESS: &str = "x-llm-d-inference-fairness-id";
const FIRST_TOKEN: &str = "x-llm-d-slo-ttft-ms";
/// Shown to policies under these names: the engine has no use of its own for them.
const SHOWN: [&str; 2] = ["x-llm-d-inference-objective", "x-llm-d-slo-tpot-ms"];
const LONGEST: usize = 256;
const A_DAY: f64 = 86_400_000.0;

pub(crate) struct Caller {
    pub(crate) arrived: Instant,
    /// 0: nobody in particular.
    pub(crate) tenant: u64,
    /// After `arrived`.
    first_token: Option<Duration>,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Caller {
    /// `key`: the number of the API key, where keys tell callers apart. It decides the tenant then, as the
    /// fairness id is whatever the caller writes.
    pub(crate) fn read(headers: &HeaderMap, key: Option<u64>, arrived: Instant) -> Self {
        let text = |name: &str| {
            let value = headers.get(name)?.to_str().ok()?.trim();
            (1..=LONGEST).contains(&value.len()).then_some(value)
        };
        let fairness = || text(FAIRNESS).map_or(0, |id| fnv1a(id.as_bytes()));
        let first_token = text(FIRST_TOKEN)
            .and_then(|value| value.parse::<f64>().ok())
            .filter(|ms| *ms > 0.0 && *ms <= A_DAY)
            .map(|ms| Duration::from_secs_f64(ms / 1e3));
        let shown = SHOWN.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?.to_owned())));
        Self { arrived, tenant: key.unwrap_or_else(fairness), first_token, attributes: shown.collect() }
    }

    /// When the first token is due, on a clock that was 0 at `start`.
    pub(crate) fn deadline_us(&self, start: Instant) -> Option<u64> {
        let due = self.arrived.saturating_duration_since(start) + self.first_token?;
        Some(due.as_micros() as u64)
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the same across restarts and servers.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    /// Values of the reference implementation (draft-eastlake-fnv, appendix C).
    #[test]
    fn fnv1a_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_gateway_says_who_and_how_soon() {
        let start = Instant::now();
        let arrived = start + Duration::from_secs(2);
        let all = headers(&[(FAIRNESS, b"foobar"), (FIRST_TOKEN, b"250.5"), (SHOWN[0], b"batch")]);
        let caller = Caller::read(&all, None, arrived);
        assert_eq!(caller.tenant, 0x8594_4171_f739_67e8);
        assert_eq!(caller.deadline_us(start), Some(2_250_500));
        assert_eq!(caller.attributes, [(SHOWN[0].to_owned(), "batch".to_owned())]);
        assert_eq!(Caller::read(&all, Some(3), arrived).tenant, 3);
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        let start = Instant::now();
        for value in ["", "soon", "-1", "0", "NaN", "inf", "1e300", &"9".repeat(300)] {
            let caller = Caller::read(&headers(&[(FIRST_TOKEN, value.as_bytes())]), None, start);
            assert_eq!(caller.deadline_us(start), None, "{value}");
        }
        for value in [&b""[..], b"\xff\xfe", &[b'a'; 257]] {
            let caller = Caller::read(&headers(&[(FAIRNESS, value), (SHOWN[1], value)]), None, start);
            assert_eq!((caller.tenant, caller.attributes.len()), (0, 0));
        }
    }
}
