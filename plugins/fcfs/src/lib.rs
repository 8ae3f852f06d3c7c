//! First come, first served: the built-in scheduler as a component, to start from and to measure with.
//!
//! Every decoding sequence gets its token; prompts share the rest in order of arrival, each at most half of
//! what is left while others wait behind it. Chunked prefill beside decoding is Sarathi-Serve's
//! (arXiv 2403.02310).
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

pub use tokenmill_policy::Fcfs;

tokenmill_guest::export_scheduler!(Fcfs);

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmill_plugin_traffic::{Arrival, Traffic};

    #[test]
    fn everyone_is_served_in_order_of_arrival() {
        let mut traffic = Traffic::new(64, 2);
        let requests: Vec<u64> = (0..20).map(|_| traffic.arrive(Arrival::default())).collect();
        let mut started: Vec<u64> = Vec::new();
        while traffic.unfinished() > 0 {
            traffic.step(&mut Fcfs::default());
            started.extend(requests.iter().filter(|&&id| traffic.generated(id) == Some(1)));
        }
        assert_eq!(started, requests);
    }
}
