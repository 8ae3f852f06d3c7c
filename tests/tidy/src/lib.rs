//! The shape of the repository, as tests: see `tests/`.
