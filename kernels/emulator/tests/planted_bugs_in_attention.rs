//! Bugs planted in attention are caught: see `planted_bugs.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod planted;

use planted::{attention, is_caught, passes};

#[test]
fn attention_as_it_is_passes_every_schedule() {
    passes(&attention());
}

#[test]
fn attention_without_the_barrier_before_its_values_is_caught() {
    is_caught(&attention(), &[("sync_block(); // values are here, keys are used up", "")]);
}

#[test]
fn attention_that_overwrites_values_still_in_use_is_caught() {
    is_caught(&attention(), &[("sync_block(); // keys are here, values of the step before are used up", "")]);
}

#[test]
fn attention_that_does_not_wait_for_its_values_is_caught() {
    is_caught(
        &attention(),
        &[("cp_async_wait<0>();\n        sync_block(); // values", "sync_block(); // values")],
    );
}

#[test]
fn attention_with_a_maximum_over_half_a_warp_is_caught() {
    is_caught(
        &attention(),
        &[(
            "high = max_f32(high, shfl_xor(high, 1));",
            "if (lane() < 16) high = max_f32(high, shfl_xor(high, 1));",
        )],
    );
}

#[test]
fn attention_that_sees_one_key_of_the_future_is_caught() {
    is_caught(&attention(), &[("span = position - start;", "span = position - start + 1;")]);
}

#[test]
fn attention_that_writes_rows_beyond_its_tile_is_caught() {
    is_caught(&attention(), &[("if (first_row + row < rows) store16", "store16")]);
}

#[test]
fn attention_whose_values_are_not_transposed_is_caught() {
    is_caught(&attention(), &[("ldmatrix_x4_trans(value,", "ldmatrix_x4(value,")]);
}
