//! ldk-node in this process.
