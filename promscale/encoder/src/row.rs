//! Rows of _promscale.span and _promscale.traces_data for COPY in binary format; copying.py describes it.

use crate::json::{Floats, KeyValue, Nesting, write_hex, write_int, write_text};
use crate::refusal::{Refused, checked_text};
use crate::tag_sets::{Matcher, TagSet};
use crate::wire::{self, Field, Fields, MAX_DEPTH, Malformed, Value};

const SPAN_COLUMNS: i16 = 17;
const TRACES_DATA_COLUMNS: i16 = 3;
/// PostgreSQL counts from 2000-01-01, OTLP from 1970-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// A count above the range of int becomes the largest int.
pub const INT4_MAX: u32 = i32::MAX as u32;
const JSONB_VERSION: u8 = 1;
const STATUS_CODES: [&[u8]; 3] = [b"unset", b"ok", b"error"];
pub const SPAN_KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];

/// An OTLP Span, of which attributes, events and links stay serialized.
#[derive(Default)]
pub struct Span<'a> {
    raw: &'a [u8],
    pub trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_span_id: &'a [u8],
    trace_state: &'a [u8],
    pub name: &'a [u8],
    kind: i32,
    pub start: u64,
    end: u64,
    dropped: [u32; 3], // attributes, events, links
    has: [bool; 3],    // the same
    status: Status<'a>,
}

#[derive(Default)]
struct Status<'a> {
    message: &'a [u8],
    code: i32,
}

#[derive(Default)]
struct Event<'a> {
    time: u64,
    name: &'a [u8],
    dropped_attributes: u32,
    has_attributes: bool,
}

#[derive(Default)]
struct Link<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    trace_state: &'a [u8],
    dropped_attributes: u32,
}

impl<'a> Span<'a> {
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut span = Span { raw, ..Span::default() };
        for field in Fields::of(raw, MAX_DEPTH) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(id)) => span.trace_id = id,
                (2, Value::Bytes(id)) => span.span_id = id,
                (3, Value::Bytes(text)) => span.trace_state = text,
                (4, Value::Bytes(id)) => span.parent_span_id = id,
                (5, Value::Bytes(text)) => span.name = text,
                (6, Value::Varint(number)) => span.kind = number as i32,
                (7, Value::Fixed64(nanos)) => span.start = nanos,
                (8, Value::Fixed64(nanos)) => span.end = nanos,
                (9, Value::Bytes(_)) => span.has[0] = true,
                (10, Value::Varint(number)) => span.dropped[0] = number as u32,
                (11, Value::Bytes(event)) => {
                    Event::parse(event)?;
                    span.has[1] = true;
                }
                (12, Value::Varint(number)) => span.dropped[1] = number as u32,
                (13, Value::Bytes(link)) => {
                    Link::parse(link)?;
                    span.has[2] = true;
                }
                (14, Value::Varint(number)) => span.dropped[2] = number as u32,
                (15, Value::Bytes(status)) => span.status.merge(status)?,
                _ => {}
            }
        }
        Ok(span)
    }

    /// Check the ids by OTLP's rules.
    pub fn check_ids(&self) -> Result<(), Refused> {
        check_id("trace_id", self.trace_id, 16)?;
        check_id("span_id", self.span_id, 8)?;
        match self.parent_span_id.len() {
            0 | 8 => Ok(()),
            length => Err(Refused(format!("parent_span_id has {length} bytes instead of 8"))),
        }
    }

    /// The index in SPAN_KINDS. OTLP: a receiver that does not know a kind treats it as unspecified.
    pub fn kind(&self) -> usize {
        usize::try_from(self.kind).ok().filter(|&kind| kind < SPAN_KINDS.len()).unwrap_or(0)
    }

    /// Append the row of a span whose ids were checked. After an error, `out` has a part of it.
    pub fn write(&self, out: &mut Vec<u8>, origin_id: i64, tag_set: Option<&TagSet>) -> Result<(), Refused> {
        out.extend_from_slice(&SPAN_COLUMNS.to_be_bytes());
        write_field(out, self.trace_id);
        write_field(out, self.span_id);
        let start_micros = (self.start / 1000) as i64;
        write_field(out, &(start_micros - POSTGRES_EPOCH_MICROS).to_be_bytes());
        let duration = (i128::from(self.end) - i128::from(self.start)) as f64 / 1e6;
        write_field(out, &duration.to_be_bytes());
        // Some senders write eight zero bytes where there is no parent.
        let has_parent = self.parent_span_id.iter().any(|&byte| byte != 0);
        write_optional(out, has_parent, self.parent_span_id);
        write_field(out, &origin_id.to_be_bytes());
        write_field(
            out,
            usize::try_from(self.status.code).ok().and_then(|code| STATUS_CODES.get(code)).unwrap_or(&STATUS_CODES[0]),
        );
        write_field(out, &((self.start % 1000) as i16).to_be_bytes());
        let has_drops = self.dropped.iter().any(|&count| count != 0);
        for count in self.dropped {
            write_optional(out, has_drops, &count.min(INT4_MAX).to_be_bytes());
        }
        for (text, name) in [(self.trace_state, "trace_state"), (self.status.message, "status.message")] {
            write_optional(out, !text.is_empty(), checked_text(text, name)?.as_bytes());
        }
        self.write_tags(out, tag_set)?;
        self.write_json(out, 1, |out| {
            write_array(out, self.raw, 11, |out, event| write_event(out, event, start_micros))
        })?;
        self.write_json(out, 2, |out| write_array(out, self.raw, 13, write_link))
    }

    /// Append the fields tag_set_id and span_tags: the tag set, if the span has each of its attributes once, and the
    /// others.
    fn write_tags(&self, out: &mut Vec<u8>, tag_set: Option<&TagSet>) -> Result<(), Refused> {
        let start = out.len();
        if let (Some(tag_set), true) = (tag_set, self.has[0]) {
            let mut matcher = tag_set.matcher();
            let mut others = 0;
            write_field(out, &tag_set.id.to_be_bytes());
            let others_at = out.len();
            self.write_json(out, 0, |out| {
                others = write_other_attributes(out, self.raw, 9, &mut matcher)?;
                Ok(())
            })?;
            if matcher.all_found() {
                if others == 0 {
                    out.truncate(others_at);
                    out.extend_from_slice(&NULL);
                }
                return Ok(());
            }
            out.truncate(start);
        }
        out.extend_from_slice(&NULL);
        self.write_json(out, 0, |out| write_attributes(out, self.raw, 9))
    }

    /// Append a field of type jsonb, or NULL if the span has nothing for it.
    fn write_json(
        &self,
        out: &mut Vec<u8>,
        part: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        if !self.has[part] {
            out.extend_from_slice(&NULL);
            return Ok(());
        }
        let start = out.len();
        out.extend_from_slice(&NULL);
        out.push(JSONB_VERSION);
        write(out)?;
        let size = (out.len() - start - NULL.len()) as i32;
        out[start..start + NULL.len()].copy_from_slice(&size.to_be_bytes());
        Ok(())
    }
}

impl<'a> Status<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        for field in Fields::of(message, MAX_DEPTH - 1) {
            match field? {
                Field { number: 2, value: Value::Bytes(text), .. } => self.message = text,
                Field { number: 3, value: Value::Varint(code), .. } => self.code = code as i32,
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> Event<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut event = Event::default();
        for field in Fields::of(message, MAX_DEPTH - 1) {
            match field? {
                Field { number: 1, value: Value::Fixed64(nanos), .. } => event.time = nanos,
                Field { number: 2, value: Value::Bytes(text), .. } => event.name = text,
                Field { number: 3, value: Value::Bytes(_), .. } => event.has_attributes = true,
                Field { number: 4, value: Value::Varint(count), .. } => event.dropped_attributes = count as u32,
                _ => {}
            }
        }
        Ok(event)
    }
}

impl<'a> Link<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut link = Link::default();
        for field in Fields::of(message, MAX_DEPTH - 1) {
            match field? {
                Field { number: 1, value: Value::Bytes(id), .. } => link.trace_id = id,
                Field { number: 2, value: Value::Bytes(id), .. } => link.span_id = id,
                Field { number: 3, value: Value::Bytes(text), .. } => link.trace_state = text,
                Field { number: 5, value: Value::Varint(count), .. } => link.dropped_attributes = count as u32,
                _ => {}
            }
        }
        Ok(link)
    }
}

/// Append a row of _promscale.traces_data: `last_start` is in nanoseconds since 1970, `data` a zstd frame.
pub fn write_traces_data(out: &mut Vec<u8>, trace_id: &[u8], last_start: u64, data: &[u8]) {
    out.extend_from_slice(&TRACES_DATA_COLUMNS.to_be_bytes());
    write_field(out, trace_id);
    write_field(out, &((last_start / 1000) as i64 - POSTGRES_EPOCH_MICROS).to_be_bytes());
    write_field(out, data);
}

const NULL: [u8; 4] = (-1_i32).to_be_bytes();

fn write_field(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as i32).to_be_bytes());
    out.extend_from_slice(value);
}

fn write_optional(out: &mut Vec<u8>, present: bool, value: &[u8]) {
    if present {
        write_field(out, value);
    } else {
        out.extend_from_slice(&NULL);
    }
}

fn check_id(name: &str, id: &[u8], length: usize) -> Result<(), Refused> {
    if id.len() != length {
        return Err(Refused(format!("{name} has {} bytes instead of {length}", id.len())));
    }
    if id.iter().all(|&byte| byte == 0) {
        return Err(Refused(format!("{name} is all zero")));
    }
    Ok(())
}

/// [microseconds since the span's start, name, {attributes}, dropped attributes] without empty values at the end.
fn write_event(out: &mut Vec<u8>, message: &[u8], start_micros: i64) -> Result<(), Refused> {
    let event = Event::parse(message).unwrap_or_default(); // Span::parse has validated it
    out.push(b'[');
    write_int(out, (event.time / 1000) as i64 - start_micros);
    out.push(b',');
    write_text(out, &checked_text(event.name, "an event's name")?);
    if event.has_attributes || event.dropped_attributes > 0 {
        out.push(b',');
        write_attributes(out, message, 3)?;
    }
    if event.dropped_attributes > 0 {
        out.push(b',');
        write_int(out, event.dropped_attributes.min(INT4_MAX).into());
    }
    out.push(b']');
    Ok(())
}

/// {"t": trace id, "s": span id, "a": {attributes}, "d": dropped attributes}, the ids in hex.
fn write_link(out: &mut Vec<u8>, message: &[u8]) -> Result<(), Refused> {
    let link = Link::parse(message).unwrap_or_default(); // Span::parse has validated it
    checked_text(link.trace_state, "a link's trace_state")?;
    out.push(b'{');
    // OpenTelemetry allows a link with invalid ids: it is stored without ids, and leads to no span.
    if link.trace_id.len() == 16 && link.span_id.len() == 8 {
        for (name, id) in [(b"\"t\":\"", link.trace_id), (b"\"s\":\"", link.span_id)] {
            out.extend_from_slice(name);
            write_hex(out, id);
            out.extend_from_slice(b"\",");
        }
    }
    out.extend_from_slice(b"\"a\":");
    write_attributes(out, message, 4)?;
    if link.dropped_attributes > 0 {
        out.extend_from_slice(b",\"d\":");
        write_int(out, link.dropped_attributes.min(INT4_MAX).into());
    }
    out.push(b'}');
    Ok(())
}

fn write_array(
    out: &mut Vec<u8>,
    message: &[u8],
    number: u32,
    write: impl Fn(&mut Vec<u8>, &[u8]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    write_list(out, [b'[', b']'], message, number, |out, item| write(out, item).map(|()| true)).map(drop)
}

/// Append the attributes in the field `number` of a message as a JSON object, in which keys may occur several times.
fn write_attributes(out: &mut Vec<u8>, message: &[u8], number: u32) -> Result<(), Refused> {
    write_list(out, [b'{', b'}'], message, number, |out, item| write_attribute(out, item).map(|_| true)).map(drop)
}

/// The same without the attributes of a tag set. Returns how many these others are.
fn write_other_attributes(
    out: &mut Vec<u8>,
    message: &[u8],
    number: u32,
    matcher: &mut Matcher,
) -> Result<usize, Refused> {
    write_list(out, [b'{', b'}'], message, number, |out, item| {
        let key_at = out.len();
        let value_at = write_attribute(out, item)?;
        Ok(!matcher.has(&out[key_at..value_at], &out[value_at..]))
    })
}

/// Append an attribute as a member of a JSON object. Returns where its value begins.
fn write_attribute(out: &mut Vec<u8>, attribute: &[u8]) -> Result<usize, Refused> {
    KeyValue::parse(attribute, Nesting::UpTo(MAX_DEPTH))
        .and_then(|member| member.write(out, Floats::for_size(attribute.len())))
        .map_err(|_| Refused("an attribute is not a valid OTLP KeyValue (invalid UTF-8 or nested too deep)".to_owned()))
}

/// Append a JSON array or object of the items for which `write` returns true. Returns how many these are.
fn write_list(
    out: &mut Vec<u8>,
    brackets: [u8; 2],
    message: &[u8],
    number: u32,
    mut write: impl FnMut(&mut Vec<u8>, &[u8]) -> Result<bool, Refused>,
) -> Result<usize, Refused> {
    let mut written = 0;
    out.push(brackets[0]);
    for item in wire::repeated(message, number) {
        let start = out.len();
        if written > 0 {
            out.push(b',');
        }
        if write(out, item)? {
            written += 1;
        } else {
            out.truncate(start);
        }
    }
    out.push(brackets[1]);
    Ok(written)
}
