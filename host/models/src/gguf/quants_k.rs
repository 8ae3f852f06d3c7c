//! The "K" formats: blocks of 256 numbers whose sub-blocks have small integer scales of their own.
use super::dequantize::half;

/// Scale and minimum of sub-block `j` (0 to 7), six bits each, packed into 12 bytes (`get_scale_min_k4`).
fn scale_min(j: usize, s: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales, 128 bytes of nibbles.
pub(super) fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin, scales) = (half(block), half(&block[2..]), &block[4..16]);
    for (i, q) in block[16..144].chunks_exact(32).enumerate() {
        let (s0, m0) = scale_min(2 * i, scales);
        let (s1, m1) = scale_min(2 * i + 1, scales);
        let (d0, m0, d1, m1) = (d * s0, dmin * m0, d * s1, dmin * m1);
        out.extend(q.iter().map(|&b| d0 * f32::from(b & 15) - m0));
        out.extend(q.iter().map(|&b| d1 * f32::from(b >> 4) - m1));
    }
}

/// As `q4_k` with 32 bytes of fifth bits before the nibbles.
pub(super) fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin, scales, high) = (half(block), half(&block[2..]), &block[4..16], &block[16..48]);
    for (i, q) in block[48..176].chunks_exact(32).enumerate() {
        for (shift, sub) in [(0, 2 * i), (4, 2 * i + 1)] {
            let (s, m) = scale_min(sub, scales);
            let (d, m) = (d * s, dmin * m);
            let fifth = |h: u8| (h >> sub & 1) << 4;
            out.extend(q.iter().zip(high).map(|(&b, &h)| d * f32::from((b >> shift & 15) | fifth(h)) - m));
        }
    }
}

/// 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d.
pub(super) fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let d = half(&block[208..]);
    for part in 0..2 {
        let (low, high) = (&block[64 * part..][..64], &block[128 + 32 * part..][..32]);
        let scales = &block[192 + 8 * part..][..8];
        for quarter in 0..4 {
            let nibbles = &low[32 * (quarter % 2)..][..32];
            for (l, (&b, &h)) in nibbles.iter().zip(high).enumerate() {
                let nibble = if quarter < 2 { b & 15 } else { b >> 4 };
                let q = i32::from(nibble | (h >> (2 * quarter) & 3) << 4) - 32;
                let scale = f32::from(scales[2 * quarter + l / 16] as i8);
                out.push(d * scale * q as f32);
            }
        }
    }
}
