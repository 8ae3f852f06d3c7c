//! Device images of the kernels in this folder, embedded if `cargo xtask kernels` made them.
#![forbid(unsafe_code)]
