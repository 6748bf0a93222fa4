//! Writes the Kotlin, Swift and Python sources of the bindings from the built
//! library. It lives in this crate so that the generator is of exactly the
//! version that the library was built with; `bindings/generate.sh` runs it.

fn main() {
    uniffi::uniffi_bindgen_main();
}
