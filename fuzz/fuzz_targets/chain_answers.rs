#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    flashkit_fuzz::chain_answers::run(data);
});
