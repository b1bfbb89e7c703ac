//! The search: libFuzzer over the one target that `TARGET` names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    let found = limpet_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("TARGET={name} is none of the targets")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
