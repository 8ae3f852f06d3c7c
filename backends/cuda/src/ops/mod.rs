//! Operations: each chooses kernels, grids and arguments, and queues them.
