//! What `uniffi` needs once per crate.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "uniffi's exported functions are `no_mangle`"
)]

uniffi::setup_scaffolding!("flashkit");
