//! Bytes as JSON: a string where they are UTF-8, `{"base64":"…"}` where not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::encoding::Element;
use crate::error::Result;
use crate::resp::write::{DoubleBuffer, Out};

/// What bytes are appended to.
pub trait Put {
    /// Appends bytes as they are.
    fn put(&mut self, bytes: &[u8]);
    /// Takes note that so much may have gathered that some can be handed on, in the middle of a line.
    fn hand_on(&mut self) -> Result<()>;
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn hand_on(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Put for Out<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.raw(bytes);
    }

    fn hand_on(&mut self) -> Result<()> {
        if self.is_full() { self.flush() } else { Ok(()) }
    }
}

/// Texts from this size on are written as base64, whatever they hold: that is read piece by piece from where it stands,
/// while a string with escapes in it has to be unescaped in memory.
pub const GIANT: usize = 1 << 20;

/// Largest integer that every reader of JSON keeps, doubles in mind: larger ones are written as strings.
pub const EXACT: u64 = 1 << 53;

/// Bytes that are turned into base64 at once: a multiple of three, so that pieces can be joined.
const PIECE: usize = 6 << 10;

/// The same for values that are no larger.
const SMALL: usize = 192;

/// Appends bytes.
#[inline]
pub fn text(out: &mut impl Put, bytes: &[u8]) -> Result<()> {
    if bytes.len() < GIANT && is_text(bytes) {
        out.put(b"\"");
        escaped(out, bytes);
        out.put(b"\"");
        return Ok(());
    }
    base64(out, bytes)
}

/// Appends an element.
#[inline]
pub fn element(out: &mut impl Put, element: Element<'_>) -> Result<()> {
    match element {
        Element::Bytes(bytes) => text(out, bytes),
        Element::Int(n) => {
            let mut digits = itoa::Buffer::new();
            out.put(b"\"");
            out.put(digits.format(n).as_bytes());
            out.put(b"\"");
            Ok(())
        }
    }
}

/// As [`text`], all of which stays where it is: for names, which stand before things that may turn out to be broken.
#[inline]
pub fn name(out: &mut impl Put, bytes: &[u8]) {
    if bytes.len() < GIANT && is_text(bytes) {
        out.put(b"\"");
        escaped(out, bytes);
        out.put(b"\"");
    } else {
        binary_name(out, bytes);
    }
}

/// As [`base64()`], all of which stays where it is.
pub fn binary_name(out: &mut impl Put, bytes: &[u8]) {
    out.put(b"{\"base64\":\"");
    out.put(STANDARD.encode(bytes).as_bytes());
    out.put(b"\"}");
}

/// Appends `{"base64":"…"}`.
pub fn base64(out: &mut impl Put, bytes: &[u8]) -> Result<()> {
    // Room for a piece is cleared first, which takes longer than to fill the little of it that most values need.
    match bytes.len() {
        0..=SMALL => base64_by::<{ SMALL / 3 * 4 }>(out, bytes),
        _ => base64_by::<{ PIECE / 3 * 4 }>(out, bytes),
    }
}

#[inline(never)]
fn base64_by<const ROOM: usize>(out: &mut impl Put, bytes: &[u8]) -> Result<()> {
    let mut encoded = [0; ROOM];
    out.put(b"{\"base64\":\"");
    for piece in bytes.chunks(ROOM / 4 * 3) {
        let n = STANDARD
            .encode_slice(piece, &mut encoded)
            .expect("a piece's room is four thirds of it");
        out.put(&encoded[..n]);
        if bytes.len() >= GIANT {
            out.hand_on()?;
        }
    }
    out.put(b"\"}");
    Ok(())
}

/// Appends an integer; as a string where doubles cannot hold it.
#[inline]
pub fn int(out: &mut impl Put, n: i64) {
    let mut digits = itoa::Buffer::new();
    number(out, digits.format(n).as_bytes(), n.unsigned_abs() <= EXACT);
}

/// As [`int`], without a sign.
#[inline]
pub fn uint(out: &mut impl Put, n: u64) {
    let mut digits = itoa::Buffer::new();
    number(out, digits.format(n).as_bytes(), n <= EXACT);
}

/// Appends a double, which is no NaN: as a number that reads back bit-equal, or as a string where JSON has none for it.
pub fn double(out: &mut impl Put, value: f64) {
    let mut buffer = DoubleBuffer::new();
    // Some readers make 0 of -0.
    let plain = value.is_finite() && (value != 0.0 || value.is_sign_positive());
    number(out, buffer.format(value), plain);
}

#[inline]
fn number(out: &mut impl Put, text: &[u8], plain: bool) {
    if plain {
        return out.put(text);
    }
    out.put(b"\"");
    out.put(text);
    out.put(b"\"");
}

/// Whether bytes are written as a string: UTF-8 that does not consist of escapes.
#[inline]
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
        && (bytes.len() < 64 || bytes.iter().filter(|b| **b < b' ').count() <= bytes.len() / 8)
}

/// Appends what stands between the quotes.
#[inline]
fn escaped(out: &mut impl Put, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(n) = special(rest) {
        out.put(&rest[..n]);
        escape(out, rest[n]);
        rest = &rest[n + 1..];
    }
    out.put(rest);
}

#[cold]
fn escape(out: &mut impl Put, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            return out.put(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
        }
    };
    out.put(&[b'\\', short]);
}

/// Position of the first byte that cannot stand in a string as it is; eight are looked at at a time.
#[inline]
fn special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let is = |byte: u8| {
            let differs = word ^ (ONES * u64::from(byte));
            differs.wrapping_sub(ONES) & !differs
        };
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        // What is set above the lowest one may be a borrow; the lowest one is true.
        let found = (control | is(b'"') | is(b'\\')) & HIGH;
        if found != 0 {
            return Some(8 * i + found.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |b: &u8| *b < b' ' || *b == b'"' || *b == b'\\';
    rest.iter()
        .position(is_special)
        .map(|n| 8 * words.len() + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        text(&mut out, bytes).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_what_another_program_reads() {
        // Every byte at every place of a word, beside others that could borrow.
        for byte in 0..128u8 {
            for at in 0..20 {
                let mut bytes = b"\x7f!#[]~ aaaaaaaaaaaaa".to_vec();
                bytes[at] = byte;
                let text = written(&bytes);
                let back: String = serde_json::from_str(&text).unwrap();
                assert_eq!(back.as_bytes(), bytes, "{text}");
            }
        }
        for text in [
            "",
            "ä€😀\u{2028}\u{feff}\u{ffff}",
            "\0\x01\x1f\x7f\"\\/\r\n\t",
        ] {
            assert_eq!(
                serde_json::from_str::<String>(&written(text.as_bytes())).unwrap(),
                text
            );
        }
    }

    #[test]
    fn other_bytes_are_tagged() {
        assert_eq!(written(b"\xff"), r#"{"base64":"/w=="}"#);
        assert_eq!(written(b"a\xc3"), r#"{"base64":"YcM="}"#);
        // UTF-8 has no lone surrogates.
        assert_eq!(written(b"\xed\xa0\x80"), r#"{"base64":"7aCA"}"#);
        assert!(written(&[1; 100]).starts_with("{"));
        assert!(written(&vec![b'x'; GIANT]).starts_with("{"));
        assert!(written(&vec![b'x'; GIANT - 1]).starts_with("\""));
    }

    #[test]
    fn numbers_that_readers_keep() {
        let shown = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            f(&mut out);
            String::from_utf8(out).unwrap()
        };
        for (n, text) in [
            (0, "0"),
            (-1 << 53, "-9007199254740992"),
            (i64::MIN, "\"-9223372036854775808\""),
        ] {
            assert_eq!(shown(&|out| int(out, n)), text);
        }
        assert_eq!(
            shown(&|out| uint(out, u64::MAX)),
            "\"18446744073709551615\""
        );
        for (n, text) in [
            (-0.0, "\"-0\""),
            (f64::INFINITY, "\"inf\""),
            (f64::NEG_INFINITY, "\"-inf\""),
            (0.1, "0.1"),
            (3.0, "3"),
        ] {
            assert_eq!(shown(&|out| double(out, n)), text);
        }
        for n in [
            5e-324,
            f64::MAX,
            f64::MIN_POSITIVE,
            1e20,
            1e-7,
            123_456_789.123_456_78,
        ] {
            let text = shown(&|out| double(out, n));
            let back: f64 = serde_json::from_str(&text).unwrap();
            assert_eq!(back.to_bits(), n.to_bits(), "{text}");
        }
    }
}
