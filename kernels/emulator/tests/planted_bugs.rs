//! Bugs planted in the real kernels are caught: by a wrong result, or by what the emulator tells.
//!
//! A mutant is a kernel's text with one change. It runs under each schedule; one that sees it is enough. The text
//! without a change must pass all of them, so that a test which always fails is not taken for a good one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod planted;

use planted::{gemm, is_caught, norm, passes};

#[test]
fn the_kernels_as_they_are_pass_every_schedule() {
    passes(&gemm());
    passes(&norm());
}

#[test]
fn a_product_without_a_barrier_in_its_main_loop_is_caught() {
    is_caught(
        &gemm(),
        &[("                sync_block();\n                write = read;", "                write = read;")],
    );
}

#[test]
fn a_product_that_waits_for_one_group_of_copies_too_few_is_caught() {
    is_caught(&gemm(), &[("cp_async_wait<Tile::stages - 2>();", "cp_async_wait<Tile::stages - 1>();")]);
}

#[test]
fn a_product_that_reads_fragments_at_a_wrong_row_is_caught() {
    is_caught(&gemm(), &[("(lane() & 7) + (lane() >> 4) * 8;", "(lane() & 7) + (lane() >> 4) * 4;")]);
}

#[test]
fn a_product_that_reads_a_piece_where_it_was_not_written_is_caught() {
    is_caught(&gemm(), &[("swizzle<Tile>(w_row, lane() >> 3 & 1)", "(lane() >> 3 & 1) << 4")]);
}

#[test]
fn a_product_that_multiplies_beyond_the_end_of_its_rows_is_caught() {
    is_caught(&gemm(), &[("const bool valid = source.at < k;", "const bool valid = true;")]);
}

#[test]
fn a_product_that_stores_rows_it_does_not_have_is_caught() {
    is_caught(&gemm(), &[("if (m >= to.m_end || n >= to.n_end) {", "if (n >= to.n_end) {")]);
}

#[test]
fn a_product_with_a_barrier_that_half_of_each_warp_meets_is_caught() {
    is_caught(&gemm(), &[("    sync_block(); // the stages are read", "    if (lane() < 16) sync_block();")]);
}

#[test]
fn a_product_whose_rows_are_read_before_the_warp_wrote_them_is_caught() {
    is_caught(
        &gemm(),
        &[(
            "        sync_warp();\n#pragma unroll\n        for (u32 row",
            "#pragma unroll\n        for (u32 row",
        )],
    );
}

#[test]
fn a_norm_whose_warps_do_not_wait_for_one_another_is_caught() {
    is_caught(
        &norm(),
        &[(
            "    sync_block();\n    return warp_sum(lane() < block_threads() / 32 ? room[lane()] : V(0));",
            "    return warp_sum(lane() < block_threads() / 32 ? room[lane()] : V(0));",
        )],
    );
}

#[test]
fn a_norm_that_leaves_a_step_out_of_its_sum_is_caught() {
    is_caught(
        &norm(),
        &[(
            "for (u32 step = 16; step > 0; step /= 2) v += shfl_xor",
            "for (u32 step = 8; step > 0; step /= 2) v += shfl_xor",
        )],
    );
}
