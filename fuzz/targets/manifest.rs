#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (ip2p_tests::fuzz::target("manifest").run)(data));
