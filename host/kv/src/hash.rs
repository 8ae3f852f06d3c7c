//! The hash of a block: its tokens, chained to the hash of the block before it.

/// From the hash of the block before (or a salt) and the block's tokens.
pub type Hash = fn(u64, &[u32]) -> u64;

/// Odd words without structure, as in wyhash.
const KEYS: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

/// Wide multiplications as in wyhash (github.com/wangyi-fudan/wyhash). Not cryptographic: whoever finds a
/// hash compares the tokens. The tokens' part does not depend on `parent`, so blocks overlap in the CPU.
#[inline]
pub(crate) fn chained(parent: u64, tokens: &[u32]) -> u64 {
    let mut sum = tokens.len() as u64;
    let mut key = KEYS[0];
    let (chunks, rest) = tokens.as_chunks::<4>();
    for &chunk in chunks {
        sum = sum.wrapping_add(fold(key, chunk));
        key = key.wrapping_add(KEYS[3]);
    }
    if !rest.is_empty() {
        let mut chunk = [0; 4];
        chunk[..rest.len()].copy_from_slice(rest);
        sum = sum.wrapping_add(fold(key, chunk));
    }
    multiply(parent ^ KEYS[1], sum ^ KEYS[2])
}

fn fold(key: u64, [a, b, c, d]: [u32; 4]) -> u64 {
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    multiply(word(a, b) ^ key, word(c, d) ^ KEYS[2] ^ key.rotate_left(32))
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_token_place_and_parent_counts() {
        let mut seen = HashSet::new();
        for len in [1, 2, 3, 4, 8, 16, 64] {
            for parent in 0..4 {
                assert!(seen.insert(chained(parent, &vec![0; len])));
                for place in 0..len {
                    for token in 1..50 {
                        let mut tokens = vec![0; len];
                        tokens[place] = token;
                        assert!(seen.insert(chained(parent, &tokens)), "{len} {parent} {place} {token}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_are_spread() {
        // The index takes the low bits: 4096 hashes of similar blocks in 4096 places fill about 1 - 1/e of them.
        let places: HashSet<u64> = (0..4096).map(|token| chained(7, &[token; 16]) & 4095).collect();
        assert!((2450..2750).contains(&places.len()), "{}", places.len());
    }
}
