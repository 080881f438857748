//! OTLP's attributes and values as JSON, with the same bytes as otlp.py, which uses orjson and, for large values, json.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::wire::{self, Field, Fields, MAX_DEPTH, Malformed, Value};

/// From this size of an OTLP message on, otlp.py writes its values with json instead of orjson.
const LARGE_VALUE_BYTES: usize = 1 << 20;
/// A value whose parts are in several fields, as no sender writes it, is copied to merge them, up to this size.
const MAX_MERGED_BYTES: usize = 1 << 20;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How a number is written that has a fraction or an exponent: as orjson or as json does.
#[derive(Clone, Copy)]
pub enum Floats {
    Orjson,
    Python,
}

impl Floats {
    /// For the values of an OTLP message of this size.
    pub fn for_size(size: usize) -> Self {
        if size < LARGE_VALUE_BYTES { Floats::Orjson } else { Floats::Python }
    }
}

/// An OTLP KeyValue.
pub struct KeyValue<'a> {
    pub key: &'a str,
    pub value: Any<'a>,
}

/// An OTLP AnyValue. Arrays and maps are serialized: the ArrayValue or KeyValueList.
pub enum Any<'a> {
    Null,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    Array(Cow<'a, [u8]>),
    Map(Cow<'a, [u8]>),
}

/// How deep messages may be nested in a message that is parsed, or that all of it was validated already.
#[derive(Clone, Copy)]
pub enum Nesting {
    UpTo(u8),
    Validated,
}

impl Nesting {
    fn depth(self) -> u8 {
        match self {
            Nesting::UpTo(depth) => depth,
            Nesting::Validated => MAX_DEPTH,
        }
    }

    fn deeper(self) -> Result<Self, Malformed> {
        match self {
            Nesting::UpTo(depth) => depth.checked_sub(1).map(Nesting::UpTo).ok_or(Malformed),
            Nesting::Validated => Ok(self),
        }
    }
}

impl<'a> KeyValue<'a> {
    pub fn parse(message: &'a [u8], nesting: Nesting) -> Result<Self, Malformed> {
        let mut pair = KeyValue { key: "", value: Any::Null };
        for field in Fields::of(message, nesting.depth()) {
            match field? {
                Field { number: 1, value: Value::Bytes(text), .. } => pair.key = utf8(text)?,
                // protobuf merges a message that is in several fields.
                Field { number: 2, value: Value::Bytes(bytes), .. } => pair.value.merge(bytes, nesting.deeper()?)?,
                _ => {}
            }
        }
        Ok(pair)
    }

    /// Appends a member of a JSON object. Returns where its value begins.
    pub fn write(&self, out: &mut Vec<u8>, floats: Floats) -> Result<usize, Malformed> {
        write_text(out, self.key);
        out.push(b':');
        let value_at = out.len();
        self.value.write(out, floats)?;
        Ok(value_at)
    }
}

impl<'a> Any<'a> {
    fn parse(message: &'a [u8], nesting: Nesting) -> Result<Self, Malformed> {
        let mut value = Any::Null;
        value.merge(message, nesting)?;
        Ok(value)
    }

    /// Apply the fields of a serialized AnyValue: the last one counts, but an array is appended to an array before it.
    fn merge(&mut self, message: &'a [u8], nesting: Nesting) -> Result<(), Malformed> {
        for field in Fields::of(message, nesting.depth()) {
            let Field { number, value, .. } = field?;
            *self = match (number, value) {
                (1, Value::Bytes(text)) => Any::Text(utf8(text)?),
                (2, Value::Varint(number)) => Any::Bool(number != 0),
                (3, Value::Varint(number)) => Any::Int(number as i64),
                (4, Value::Fixed64(bits)) => Any::Double(f64::from_bits(bits)),
                (5, Value::Bytes(array)) => {
                    validate_items(array, nesting.deeper()?, |item, nesting| Any::parse(item, nesting).map(drop))?;
                    match std::mem::replace(self, Any::Null) {
                        Any::Array(before) => Any::Array(joined(before, array)?),
                        _ => Any::Array(Cow::Borrowed(array)),
                    }
                }
                (6, Value::Bytes(map)) => {
                    validate_items(map, nesting.deeper()?, |item, nesting| KeyValue::parse(item, nesting).map(drop))?;
                    match std::mem::replace(self, Any::Null) {
                        Any::Map(before) => Any::Map(joined(before, map)?),
                        _ => Any::Map(Cow::Borrowed(map)),
                    }
                }
                (7, Value::Bytes(bytes)) => Any::Bytes(bytes),
                // string_value_strindex, of profiles
                (8, Value::Varint(number)) => Any::Int((number as i32).into()),
                _ => continue,
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>, floats: Floats) -> Result<(), Malformed> {
        match self {
            Any::Null => out.extend_from_slice(b"null"),
            Any::Text(text) => write_text(out, text),
            Any::Bool(true) => out.extend_from_slice(b"true"),
            Any::Bool(false) => out.extend_from_slice(b"false"),
            Any::Int(number) => write_int(out, *number),
            Any::Double(number) => write_double(out, *number, floats),
            Any::Bytes(bytes) => {
                out.push(b'"');
                let start = out.len();
                out.resize(start + bytes.len().div_ceil(3) * 4, 0);
                let written = STANDARD.encode_slice(bytes, &mut out[start..]);
                debug_assert_eq!(written, Ok(out.len() - start));
                out.push(b'"');
            }
            Any::Array(array) => {
                out.push(b'[');
                for (index, value) in wire::repeated(array, 1).enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    Any::parse(value, Nesting::Validated)?.write(out, floats)?;
                }
                out.push(b']');
            }
            Any::Map(map) => write_object(out, map, floats)?,
        }
        Ok(())
    }
}

/// Appends the KeyValues in field 1 of a validated message as a JSON object. As in a dict of Python, a key that occurs
/// several times has its first position and its last value.
pub fn write_object(out: &mut Vec<u8>, message: &[u8], floats: Floats) -> Result<(), Malformed> {
    write_members(out, || wire::repeated(message, 1), floats)
}

/// The same for any KeyValues.
pub fn write_members<'a, I: Iterator<Item = &'a [u8]>>(
    out: &mut Vec<u8>,
    members: impl Fn() -> I,
    floats: Floats,
) -> Result<(), Malformed> {
    let mut last: HashMap<Cow<str>, &[u8]> = HashMap::new();
    for member in members() {
        let parsed = KeyValue::parse(member, Nesting::Validated)?;
        last.insert(without_nul(parsed.key), member);
    }
    out.push(b'{');
    let mut separator: &[u8] = b"";
    for member in members() {
        let key = KeyValue::parse(member, Nesting::Validated)?.key;
        if let Some(member) = last.remove(&without_nul(key)) {
            out.extend_from_slice(separator);
            separator = b",";
            write_text(out, key);
            out.push(b':');
            KeyValue::parse(member, Nesting::Validated)?.value.write(out, floats)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// Validate an ArrayValue or KeyValueList, of whose items `check` validates one.
fn validate_items(
    message: &[u8],
    nesting: Nesting,
    check: impl Fn(&[u8], Nesting) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    if let Nesting::UpTo(depth) = nesting {
        for field in Fields::of(message, depth) {
            if let Field { number: 1, value: Value::Bytes(item), .. } = field? {
                check(item, nesting.deeper()?)?;
            }
        }
    }
    Ok(())
}

/// Two serialized messages of one type as one, with the repeated fields of both.
fn joined<'a>(first: Cow<'a, [u8]>, second: &[u8]) -> Result<Cow<'a, [u8]>, Malformed> {
    if first.len() + second.len() > MAX_MERGED_BYTES {
        return Err(Malformed);
    }
    let mut both = first.into_owned();
    both.extend_from_slice(second);
    Ok(Cow::Owned(both))
}

pub fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text).map_err(|_| Malformed)
}

/// PostgreSQL cannot store NUL in a text.
pub fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Appends a JSON string, in which U+FFFD stands for NUL.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut written = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..index]);
        written = index + 1;
        match byte {
            0 => out.extend_from_slice("\u{fffd}".as_bytes()),
            8 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), HEX[usize::from(byte & 15)]]),
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Appends a whole number in decimal.
pub fn write_int(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends lower-case hexadecimal digits.
pub fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// JSON has no NaN and no infinities: they become texts, as in protobuf's JSON mapping.
fn write_double(out: &mut Vec<u8>, number: f64, floats: Floats) {
    if number.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if number.is_infinite() {
        out.extend_from_slice(if number > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else if matches!(floats, Floats::Python) && number != 0.0 && number.abs() < 1e-4 {
        // Python's repr has an exponent of at least two digits, and already below 1e-4.
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once("e-").unwrap_or((&text, ""));
        out.extend_from_slice(format!("{mantissa}e-{exponent:0>2}").as_bytes());
    } else {
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    }
}
