//! How large the KV cache becomes, and whether everything fits.

use tokenmill_backend_abi as abi;
use tokenmill_backend_model::decoder::Sizes;
use tokenmill_backend_model::device::Dtype;

use crate::fault::Fault;
use crate::load::Request;

/// What a rank says once its weights are on the device.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Bytes this rank may still use; ranks on the same device see the same memory.
    pub(crate) free: u64,
    /// Of one block, all layers.
    pub(crate) block_bytes: u64,
    /// Activations and kept logits.
    pub(crate) work_bytes: u64,
    pub(crate) weight_bytes: u64,
    pub(crate) device: String,
    pub(crate) dtype: Dtype,
    pub(crate) kv_dtype: Dtype,
}

/// Tokens that a sequence is expected to hold at once, when the caller leaves `kv_bytes` open.
const USUAL_TOKENS: usize = 512;

/// The number of KV blocks.
///
/// `kv_bytes = 0` means: one full context, or 512 tokens for each of `max_seqs`, whichever is more, but
/// at most half of what is free.
pub(crate) fn blocks(request: &Request, context: usize, ranks: &[Facts]) -> Result<usize, Fault> {
    let all_ranks: u64 = ranks.iter().map(|facts| facts.block_bytes).sum();
    let fitting = |part: fn(u64) -> u64| {
        let fits = ranks.iter().zip(&request.devices).map(|(facts, device)| {
            let sharing = request.devices.iter().filter(|other| *other == device).count() as u64;
            part((facts.free / sharing).saturating_sub(facts.work_bytes)) / facts.block_bytes.max(1)
        });
        fits.min().unwrap_or(0)
    };
    let wanted = match request.kv_bytes {
        0 => {
            let tokens = context.max(request.max_seqs * context.min(USUAL_TOKENS));
            (tokens.div_ceil(request.block_tokens) as u64).min(fitting(|free| free / 2))
        }
        bytes => {
            let blocks = bytes / all_ranks.max(1);
            if blocks > fitting(|free| free) {
                return Err(no_memory(format!("kv_bytes = {bytes} is more than the device has free")));
            }
            blocks
        }
    };
    if wanted == 0 {
        return Err(no_memory(format!(
            "no room for KV blocks of {all_ranks} bytes beside weights and max_tokens x max_rows of work space"
        )));
    }
    Ok(wanted.min(i32::MAX as u64) as usize)
}

fn no_memory(text: String) -> Fault {
    Fault::new(abi::NO_MEMORY, text)
}

/// Sizes of every rank's decoder.
pub(crate) fn sizes(request: &Request, context: usize, blocks: usize, kv_dtype: Dtype) -> Sizes {
    let per_seq = context.div_ceil(request.block_tokens);
    Sizes {
        block_tokens: request.block_tokens,
        blocks,
        kv_dtype,
        max_tokens: request.max_tokens,
        max_rows: request.max_rows,
        max_seqs: request.max_seqs,
        max_block_refs: request.max_seqs.saturating_mul(per_seq),
        slots: request.depth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kv_bytes: u64, devices: &[i32]) -> Request {
        Request {
            devices: devices.to_vec(),
            tensor_parallel: 1,
            block_tokens: 16,
            max_tokens: 64,
            max_rows: 8,
            max_seqs: 4,
            depth: 2,
            kv_bytes,
        }
    }

    fn facts(free: u64) -> Facts {
        Facts {
            free,
            block_bytes: 100,
            work_bytes: 1000,
            weight_bytes: 0,
            device: String::new(),
            dtype: Dtype::F32,
            kv_dtype: Dtype::F32,
        }
    }

    #[test]
    fn bytes_are_shared_by_all_ranks() {
        assert_eq!(blocks(&request(1000, &[0]), 64, &[facts(9999)]), Ok(10));
        assert_eq!(blocks(&request(1000, &[0, 1]), 64, &[facts(9999), facts(9999)]), Ok(5));
        let larger = Facts { block_bytes: 150, ..facts(9999) };
        assert_eq!(blocks(&request(1000, &[0, 1]), 64, &[facts(9999), larger]), Ok(4));
    }

    #[test]
    fn the_stage_with_the_least_room_decides() {
        let larger = Facts { block_bytes: 150, ..facts(21_000) };
        assert_eq!(blocks(&request(0, &[0, 1]), 8192, &[facts(21_000), larger]), Ok(66));
    }

    #[test]
    fn left_open_it_holds_the_usual_load_in_half_of_what_is_free() {
        assert_eq!(blocks(&request(0, &[0]), 8192, &[facts(1 << 30)]), Ok(8192 / 16));
        assert_eq!(blocks(&request(0, &[0]), 1024, &[facts(1 << 30)]), Ok(4 * 512 / 16));
        assert_eq!(blocks(&request(0, &[0]), 8192, &[facts(21_000)]), Ok(100));
        assert_eq!(blocks(&request(0, &[0, 0]), 8192, &[facts(22_000), facts(22_000)]), Ok(50));
    }

    #[test]
    fn too_much_is_refused() {
        for (kv_bytes, free) in [(99, 9999), (10_000, 9999), (0, 1100)] {
            let fault = blocks(&request(kv_bytes, &[0]), 64, &[facts(free)]).unwrap_err();
            assert_eq!(fault.code, abi::NO_MEMORY);
        }
    }
}
