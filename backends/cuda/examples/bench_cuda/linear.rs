//! A linear layer of bf16.

use tokenmill_backend_model::device::Device;
use tokenmill_cuda::Cuda;
use tokenmill_cuda::buffer::{Buffer, Weight};

use crate::Operation;
use crate::inputs::{Failure, Numbers, buffer, copies, weight};

pub(crate) struct Linear {
    x: Buffer,
    weights: Vec<Weight>,
    out: Buffer,
}

impl Linear {
    pub(crate) fn new(device: &mut Cuda, m: usize, n: usize, k: usize) -> Result<Self, Failure> {
        let numbers = Numbers::new();
        let weights =
            (0..copies(2 * n * k)).map(|_| weight(device, n, k, &numbers)).collect::<Result<_, _>>()?;
        Ok(Self { x: buffer(device, m, k, &numbers)?, weights, out: buffer(device, m, n, &numbers)? })
    }
}

impl Operation for Linear {
    fn run(&mut self, device: &mut Cuda, turn: usize) -> Result<(), Failure> {
        let weight = &self.weights[turn % self.weights.len()];
        Ok(device.linear(&self.x, weight, None, &mut self.out, 0)?)
    }
}
