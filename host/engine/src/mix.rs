//! Seeds from seeds.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of splitmix64 (Steele, Lea, Flood 2014; Vigna's constants) over both.
pub(crate) fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed.wrapping_add(value.wrapping_mul(GOLDEN)).wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of the row that decides the token at `position`: a function of the branch and the position
/// alone, so the same request gives the same tokens in any batch. The device hashes it.
pub(crate) fn row_seed(branch: u64, position: u32) -> u64 {
    branch.wrapping_add(u64::from(position).wrapping_mul(GOLDEN))
}

/// The seed of the position after the one that `seed` is for.
pub(crate) fn next_seed(seed: u64) -> u64 {
    seed.wrapping_add(GOLDEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_positions_follow_each_other() {
        let branch = mix(3, 4);
        for position in 0..100 {
            assert_eq!(next_seed(row_seed(branch, position)), row_seed(branch, position + 1));
        }
    }
}
