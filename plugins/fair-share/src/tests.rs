use std::sync::Arc;

use tokenmill_plugin_traffic::{Arrival, Traffic};
use tokenmill_policy::{Fcfs, Silent};

use super::*;

fn arrival(tenant: u64) -> Arrival {
    Arrival { tenant, ..Arrival::default() }
}

/// Weighted tokens, as the counters have them.
fn cost(traffic: &Traffic, tenant: u64) -> u64 {
    let served = traffic.served(tenant);
    served.input + 2 * served.output
}

/// What two tenants got that always have requests waiting. The first sends ten times
/// as many.
fn flood(policy: &mut dyn Scheduler) -> (u64, u64) {
    let mut traffic = Traffic::new(64, 8);
    for step in 0..3000 {
        for i in 1..6 {
            traffic.arrive(Arrival { prefix: 8 * step + i, ..arrival(1) });
        }
        if step % 2 == 0 {
            traffic.arrive(Arrival { prompt: 96, output: 10, prefix: 8 * step, ..arrival(2) });
        }
        traffic.step(policy);
    }
    (cost(&traffic, 1), cost(&traffic, 2))
}

#[test]
fn a_flood_of_one_tenant_does_not_take_the_share_of_another() {
    let (one, other) = flood(&mut FairShare::default());
    // The paper's bound (theorem 4.4): twice what a batch can hold, as output.
    let bound = 2 * 2 * 8 * (96 + 10);
    assert!(one.abs_diff(other) <= bound, "{one} and {other}");
    assert!(one > 20 * bound, "too short a run to tell: {one}");
    let (one, other) = flood(&mut Fcfs::default());
    assert!(one > 4 * other, "{one} and {other} of first come, first served");
}

#[test]
fn idling_saves_nothing_up() {
    let mut traffic = Traffic::new(64, 4);
    let mut policy = FairShare::default();
    let mut run = |traffic: &mut Traffic, tenants: &[u64], steps: u32| {
        for _ in 0..steps {
            for &tenant in tenants {
                traffic.arrive(arrival(tenant));
            }
            traffic.step(&mut policy);
        }
    };
    run(&mut traffic, &[1, 3], 300);
    let before = (cost(&traffic, 1), cost(&traffic, 2));
    run(&mut traffic, &[1, 2, 3], 300);
    let (one, two) = (cost(&traffic, 1) - before.0, cost(&traffic, 2) - before.1);
    assert!(one.abs_diff(two) <= 2 * 2 * 4 * (64 + 16), "{one} and {two}");
}

#[test]
fn a_clipped_order_is_not_charged() {
    let mut traffic = Traffic::new(64, 2);
    let mut policy = FairShare::default();
    traffic.arrive(arrival(1));
    traffic.arrive(arrival(2));
    for _ in 0..50 {
        // Asked, but never applied.
        traffic.plan(&mut policy);
    }
    assert_eq!(policy.tenants.counters(), [(1, 0), (2, 0)]);
    traffic.step(&mut policy);
    traffic.plan(&mut policy);
    assert_eq!(policy.tenants.counters(), [(1, 64 + 2), (2, 0)]);
}

#[test]
fn counters_that_mean_nothing_any_more_are_forgotten() {
    let mut traffic = Traffic::new(640, 64);
    let mut policy = FairShare::default();
    for tenant in 0..2000 {
        traffic.arrive(Arrival { prompt: 32, output: 1, ..arrival(tenant) });
        traffic.arrive(Arrival { prompt: 32, output: 1, ..arrival(9999) });
        traffic.step(&mut policy);
    }
    assert!(policy.tenants.counters().len() < 200, "{}", policy.tenants.counters().len());
}

#[test]
fn one_tenant_is_served_in_order_of_arrival() {
    let mut traffic = Traffic::new(100, 8);
    for prompt in [80, 30, 10] {
        traffic.arrive(Arrival { prompt, ..arrival(7) });
    }
    assert_eq!(traffic.plan(&mut FairShare::default()), [(0, 80), (1, 20)]);
}

#[test]
fn weights_count() {
    let mut policy = FairShare::default();
    let host = Arc::new(Silent::default());
    policy.configure(r#"{"input_weight": 3, "output_weight": 5}"#, host.clone()).unwrap();
    let mut traffic = Traffic::new(64, 8);
    traffic.arrive(arrival(1));
    traffic.step(&mut policy);
    traffic.plan(&mut policy);
    assert_eq!(policy.tenants.counters(), [(1, 3 * 64 + 5)]);
    assert!(policy.configure(r#"{"input_weight": 0, "output_weight": 0}"#, host.clone()).is_err());
    assert!(policy.configure(r#"{"input_weight": -1}"#, host).is_err());
}
