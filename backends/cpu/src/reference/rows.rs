//! Operations on one row at a time.

use tokenmill_backend_model::device::Activation;

/// `x / sqrt(mean(x²) + eps) * weight` (arXiv 1910.07467).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
    for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
        *o = (f64::from(v) * scale * f64::from(w)) as f32;
    }
}

/// `out[n] = Σ x[k] * weight[n][k] + bias[n]`; `weight` is `[out, x.len()]` row-major.
pub fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    for (n, (o, row)) in out.iter_mut().zip(weight.chunks_exact(x.len())).enumerate() {
        let sum: f64 = x.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        *o = (sum + bias.map_or(0.0, |b| f64::from(b[n]))) as f32;
    }
}

/// Rotates pairs `(i, i + half)` of one head; the rest of the head stays.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    for i in 0..half {
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos[i] - b * sin[i];
        head[i + half] = b * cos[i] + a * sin[i];
    }
}

/// The gate of a gated MLP; the formulas stand at [`Activation`].
pub fn activate(x: f32, how: Activation) -> f32 {
    let x = f64::from(x);
    let y = match how {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    };
    y as f32
}

/// `cap * tanh(x / cap)`.
pub fn softcap(x: f32, cap: f32) -> f32 {
    (f64::from(cap) * (f64::from(x) / f64::from(cap)).tanh()) as f32
}

/// The error function: its Maclaurin series where that cancels little, else Laplace's continued fraction of 1 - erf.
fn erf(x: f64) -> f64 {
    let sqrt_pi = std::f64::consts::PI.sqrt();
    let a = x.abs();
    if a > 2.0 {
        let fraction = (1..100).rev().fold(a, |k, n| a + f64::from(n) / 2.0 / k);
        return x.signum() * (1.0 - (-a * a).exp() / sqrt_pi / fraction);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    2.0 / sqrt_pi * sum
}
