//! Random weights of a geometry, as a model directory that is not there.

use serde_json::{Map, json};
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::source::Source;

use crate::geometry::Geometry;
use crate::inputs::Numbers;

/// Each tensor is a file of its own.
pub(crate) struct RandomModel {
    tensors: Vec<(String, Vec<usize>)>,
    numbers: Numbers,
}

impl RandomModel {
    pub(crate) fn new(of: &Geometry) -> Self {
        Self { tensors: of.tensors(), numbers: Numbers::new() }
    }

    /// Of all tensors.
    pub(crate) fn bytes(&self) -> usize {
        self.tensors.iter().map(|(_, shape)| 2 * shape.iter().product::<usize>()).sum()
    }

    fn index(&self) -> Vec<u8> {
        let files: Map<_, _> = self
            .tensors
            .iter()
            .map(|(name, _)| (name.clone(), format!("{name}.safetensors").into()))
            .collect();
        json!({ "weight_map": files }).to_string().into_bytes()
    }

    fn file(&self, name: &str, shape: &[usize]) -> Vec<u8> {
        let count: usize = shape.iter().product();
        let tensor = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * count] });
        let header = json!({ name: tensor }).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.reserve_exact(header.len() + 2 * count);
        file.extend_from_slice(header.as_bytes());
        match shape {
            [_, cols] => file.extend(self.numbers.bytes(count, (*cols as f32).sqrt().recip())),
            _ => file.extend(std::iter::repeat_n(half::bf16::ONE.to_le_bytes(), count).flatten()),
        }
        file
    }
}

impl Source for RandomModel {
    type Bytes = Vec<u8>;

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if name == "model.safetensors.index.json" {
            return Ok(Some(self.index()));
        }
        let of = |(tensor, _): &&(String, Vec<usize>)| name.strip_suffix(".safetensors") == Some(tensor);
        Ok(self.tensors.iter().find(of).map(|(name, shape)| self.file(name, shape)))
    }
}
