//! CUDA kernels on the CPU, and a driver library that runs them: for tests only.
