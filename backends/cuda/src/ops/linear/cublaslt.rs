//! cuBLASLt for layers of many rows, where the user has installed it; it is never shipped.
//!
//! It is column-major: row-major `[rows, cols]` is its `[cols, rows]`, so it is asked for `outᵀ = weight · xᵀ`. Sums are f32.
//! Its choice for a shape is asked for once and kept, failures too: those layers stay with our own kernels.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use tokenmill_backend_model::device::Dtype;
use tokenmill_backend_model::error::Error;

use super::plan::{Layer, SMALL_ROWS};
use crate::buffer::{Buffer, Weight};
use crate::gpu::Gpu;
use crate::memory::Memory;

/// What NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Fewer rows are bound by bandwidth, where our own kernels are as fast.
const FEWEST_ROWS: u32 = SMALL_ROWS + 1;
/// Outputs begin at a multiple of this, so that every algorithm may be chosen.
const ALIGNMENT: u64 = 256;

/// The library, opened.
pub(super) struct Cublaslt {
    handle: sys::cublasLtHandle_t,
    workspace: Memory,
    products: RefCell<HashMap<Shape, Option<Product>>>,
}

// SAFETY: handles that any thread may use, one at a time.
unsafe impl Send for Cublaslt {}

/// What an algorithm is chosen for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    /// Bits of bf16 and f16 mean different things, so their names are part of it.
    dtype: &'static str,
    out: &'static str,
    m: u32,
    n: u32,
    k: u32,
    stride: usize,
}

impl Cublaslt {
    /// None if there is no library.
    pub(super) fn open(gpu: &Gpu) -> Result<Option<Self>, Error> {
        // SAFETY: opens a library by its usual names. cudarc panics later if it is not there.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let workspace = gpu.alloc(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(|e| failed("opening", &e))?;
        Ok(Some(Self { handle, workspace, products: RefCell::default() }))
    }

    /// Queues `out[:, column..] = x · weightᵀ`; false if that is not for this library.
    pub(super) fn multiply(
        &self,
        gpu: &Gpu,
        layer: &Layer,
        x: &Buffer,
        weight: &Weight,
        out: &Buffer,
        column: usize,
    ) -> Result<bool, Error> {
        let to = out.ptr() + (column * out.dtype.size()) as u64;
        if layer.m < FEWEST_ROWS || layer.dtype == Dtype::F32 || !to.is_multiple_of(ALIGNMENT) {
            return Ok(false);
        }
        let Layer { dtype, m, n, k } = *layer;
        let shape = Shape { dtype: dtype.name(), out: out.dtype.name(), m, n, k, stride: out.cols };
        let products = &mut *self.products.borrow_mut();
        let product = products.entry(shape).or_insert_with(|| self.choose(layer, out.dtype, out.cols).ok());
        let Some(product) = product else { return Ok(false) };
        let (one, zero) = (1f32, 0f32);
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: descriptors are alive; the buffers hold what they describe, as `check` saw; the stream is alive.
        unsafe {
            result::matmul(
                self.handle,
                product.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(weight.memory.ptr()),
                product.weight.0,
                pointer(x.ptr()),
                product.x.0,
                pointer(to),
                product.out.0,
                pointer(to),
                product.out.0,
                &raw const product.algorithm,
                pointer(self.workspace.ptr()),
                WORKSPACE_BYTES,
                gpu.context().stream().cast(),
            )
        }
        .map_err(|e| failed("multiplying", &e))?;
        Ok(true)
    }

    /// Asks for the fastest algorithm of a shape.
    fn choose(&self, layer: &Layer, out: Dtype, stride: usize) -> Result<Product, CublasError> {
        let (m, n, k) = (u64::from(layer.m), u64::from(layer.n), u64::from(layer.k));
        let description = Description::new()?;
        let weight = Layout::new(layer.dtype, k, n, layer.k as usize)?;
        let x = Layout::new(layer.dtype, k, m, layer.k as usize)?;
        let out = Layout::new(out, n, m, stride)?;
        let preference = Preference::new()?;
        // SAFETY: all of them are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                self.handle,
                description.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                preference.0,
            )
        }?;
        Ok(Product { description, weight, x, out, algorithm: found.algo })
    }
}

impl Drop for Cublaslt {
    fn drop(&mut self) {
        // SAFETY: made in `open`. What it queued was waited for by whoever dropped the buffers.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A multiplication, described, and how it is done.
struct Product {
    description: Description,
    weight: Layout,
    x: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: Dtype, rows: u64, cols: u64, stride: usize) -> Result<Self, CublasError> {
        let kind = match dtype {
            Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Dtype::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
        };
        result::create_matrix_layout(kind, rows, cols, stride as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// The first factor transposed, sums in f32.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self, CublasError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let new = Self(result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?);
        let transposed = 1i32; // CUBLAS_OP_T
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is an i32, which is copied.
        unsafe {
            result::set_matmul_desc_attribute(new.0, attribute, (&raw const transposed).cast(), 4)?;
        }
        Ok(new)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// With our workspace.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Self, CublasError> {
        let new = Self(result::create_matmul_pref()?);
        let bytes = WORKSPACE_BYTES;
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the attribute is a size_t, which is copied.
        unsafe {
            let size = size_of_val(&bytes);
            result::set_matmul_pref_attribute(new.0, attribute, (&raw const bytes).cast(), size)?;
        }
        Ok(new)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

fn failed(what: &str, error: &CublasError) -> Error {
    Error::Lost(format!("cuBLASLt, {what}: {error:?}"))
}
