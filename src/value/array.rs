//! Arrays of Redis 8.8: type 28. FORMAT §4.11.

use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::length;
use crate::encoding::string::{Scratch, skip_string, string};
use crate::error::{ErrorKind, Result};

/// An element: text and integers as they stand, or a double.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Bytes or an integer.
    Element(Element<'a>),
    /// Printed by the shortest text that reads back.
    Double(f64),
}

/// Pushes index and element of the next `items` items; indices must ascend.
pub fn for_each(
    c: &mut Cursor<'_>,
    items: u64,
    scratch: &mut Scratch,
    mut f: impl FnMut(u64, Value<'_>) -> Result<()>,
) -> Result<()> {
    let mut previous = None;
    for _ in 0..items {
        let at = *c;
        let index = length(c)?;
        if index == u64::MAX || previous.is_some_and(|p| p >= index) {
            return Err(at.error(ErrorKind::BadArray("has its elements out of order")));
        }
        previous = Some(index);
        match length(c)? {
            STRING | SHORT => {
                let text = string(c)?.load(scratch)?;
                f(index, Value::Element(text))?;
            }
            INTEGER => f(index, Value::Element(Element::Int(c.i64_le()?)))?,
            DOUBLE => f(index, Value::Double(f64::from_le_bytes(c.array()?)))?,
            _ => return Err(at.error(ErrorKind::BadArray("element has an unknown tag"))),
        }
    }
    Ok(())
}

/// The text that a client sees for a double: the shortest digits that read back, never with an exponent, always
/// with a point. Servers store a text as a double only where it has this form, so the text is what it was.
pub fn double_text(value: f64) -> String {
    let mut text = value.to_string();
    if value.is_finite() && !text.contains('.') {
        text.push_str(".0");
    }
    text
}

/// Passes over one element.
pub(super) fn skip_element(c: &mut Cursor<'_>) -> Result<()> {
    let at = *c;
    length(c)?;
    match length(c)? {
        STRING | SHORT => skip_string(c),
        INTEGER | DOUBLE => c.skip(8),
        _ => Err(at.error(ErrorKind::BadArray("element has an unknown tag"))),
    }
}

const STRING: u64 = 0;
const INTEGER: u64 = 1;
const DOUBLE: u64 = 2;
/// Written by the server for strings that fit a pointer.
const SHORT: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_the_server_prints_them() {
        // Each was stored as a double by Redis 8.10 and read back as this text.
        for text in [
            "-0.0",
            "3.0",
            "7000000.0",
            "123456789.125",
            "12345678901234002000000.0",
            "0.0012345678901234001",
        ] {
            assert_eq!(double_text(text.parse().unwrap()), text);
        }
    }
}
