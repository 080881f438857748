//! The wire format of protobuf, with the same limits as the library `upb`, which Python's protobuf uses.
//!
//! Source: https://protobuf.dev/programming-guides/encoding/

/// The bytes are not a protobuf message.
#[derive(Debug, PartialEq)]
pub struct Malformed;

/// How deep messages and groups may be nested in a message.
pub const MAX_DEPTH: u8 = 100;

#[derive(Clone, Copy)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A fixed32 or a group, which no message of OTLP's traces uses.
    Other,
}

#[derive(Clone, Copy)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// The field's bytes, tag included.
    pub raw: &'a [u8],
}

/// Iterates over the fields of a serialized message.
pub struct Fields<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl<'a> Fields<'a> {
    /// `depth`: how deep groups may be nested in the message.
    pub fn of(message: &'a [u8], depth: u8) -> Self {
        Fields { rest: message, depth }
    }

    fn read(&mut self) -> Result<Field<'a>, Malformed> {
        let start = self.rest;
        let tag = self.varint(5, u32::MAX.into())?;
        let number = (tag >> 3) as u32;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(10, u64::MAX)?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let size = self.varint(5, i32::MAX as u64)?;
                Value::Bytes(self.take(size as usize)?)
            }
            3 => {
                self.skip_group(number)?;
                Value::Other
            }
            5 => {
                self.take(4)?;
                Value::Other
            }
            _ => return Err(Malformed),
        };
        let raw = &start[..start.len() - self.rest.len()];
        Ok(Field { number, value, raw })
    }

    /// Skips fields up to the end of the group with this number.
    fn skip_group(&mut self, number: u32) -> Result<(), Malformed> {
        let depth = self.depth;
        self.depth = depth.checked_sub(1).ok_or(Malformed)?;
        let end = u64::from(number) << 3 | 4;
        loop {
            let before = self.rest;
            let tag = self.varint(5, u32::MAX.into())?;
            if tag == end {
                self.depth = depth;
                return Ok(());
            }
            self.rest = before;
            self.read()?;
        }
    }

    fn varint(&mut self, max_bytes: usize, max: u64) -> Result<u64, Malformed> {
        let mut number = 0;
        for (index, byte) in self.rest.iter().enumerate().take(max_bytes) {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return if number <= max { Ok(number) } else { Err(Malformed) };
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array(&mut self) -> Result<[u8; 8], Malformed> {
        self.take(8)?.try_into().map_err(|_| Malformed)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| match self.read() {
            // upb refuses the number 0, but not in groups, which it skips.
            Ok(Field { number: 0, .. }) => Err(Malformed),
            field => field,
        })
    }
}

/// The values of a repeated field of type bytes or of a message type, in a message that was validated.
pub fn repeated(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    Fields::of(message, MAX_DEPTH).filter_map(move |field| match field {
        Ok(Field { number: n, value: Value::Bytes(value), .. }) if n == number => Some(value),
        _ => None,
    })
}

/// Appends a field of type bytes or of a message type.
pub fn write_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    write_head(out, number, value.len());
    out.extend_from_slice(value);
}

/// Appends the tag and the length of a field of type bytes or of a message type, whose `size` bytes are to follow.
pub fn write_head(out: &mut Vec<u8>, number: u32, size: usize) {
    write_varint(out, u64::from(number) << 3 | 2);
    write_varint(out, size as u64);
}

/// The size of a field of type bytes or of a message type with a number below 16.
pub fn size_of_bytes(size: usize) -> usize {
    let mut total = size + 2;
    let mut length = size >> 7;
    while length > 0 {
        total += 1;
        length >>= 7;
    }
    total
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
