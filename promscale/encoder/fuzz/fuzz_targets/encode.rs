//! The encoder neither panics nor reads out of bounds, whatever a request contains.

#![no_main]

use libfuzzer_sys::fuzz_target;
use promscale_encoder::TagSets;

fuzz_target!(|request: &[u8]| {
    let _ = promscale_encoder::encode(request, &TagSets::new());
});
