//! Why a span or a whole request is refused, in the words of otlp.py.

use std::borrow::Cow;

use crate::json::without_nul;

/// A span, its resource or its scope breaks OTLP's rules, for this reason.
pub struct Refused(pub String);

/// Why nothing of a request can be stored.
pub enum Rejected {
    /// It is not an ExportTraceServiceRequest.
    Malformed,
    /// Its rows take too much memory.
    TooLarge,
}

/// The reasons for the first refused spans of a request, and how many there are.
#[derive(Default)]
pub struct Refusals<'a> {
    pub count: usize,
    /// Each with the bytes of its span, or without them if it is not about one span only.
    pub reasons: Vec<(String, Option<&'a [u8]>)>,
}

const MAX_REASONS: usize = 10;

impl<'a> Refusals<'a> {
    pub fn add(&mut self, reason: impl FnOnce() -> String, span: Option<&'a [u8]>, count: usize) {
        self.count += count;
        if count > 0 && self.reasons.len() < MAX_REASONS {
            self.reasons.push((reason(), span));
        }
    }
}

/// A text for PostgreSQL, without NUL. `name` says in the reason of the refusal which text it is.
pub fn checked_text<'a>(text: &'a [u8], name: &str) -> Result<Cow<'a, str>, Refused> {
    std::str::from_utf8(text).map(without_nul).map_err(|error| {
        let start = error.valid_up_to();
        // Python's words for the same error.
        let reason = match (error.error_len(), text[start]) {
            (None, _) => "unexpected end of data",
            (_, 0xc2..=0xf4) => "invalid continuation byte",
            _ => "invalid start byte",
        };
        Refused(format!("{name} is not valid UTF-8: {reason} at byte {start}"))
    })
}
