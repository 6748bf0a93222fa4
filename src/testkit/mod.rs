//! Tools for tests and examples; nothing here is for production.

pub mod chain;
