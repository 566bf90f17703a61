//! RDB lengths: 6, 14, 32 or 64 bits, or the mark of a special string (FORMAT §2.1).

use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};

/// What the first byte of a length says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// A plain number.
    Len(u64),
    /// A specially encoded string; the number is its encoding.
    Special(u8),
}

/// Reads a length or the mark of a special string. Errors: `Truncated`, `BadLength`.
#[inline(always)]
pub fn length_or_special(c: &mut Cursor<'_>) -> Result<Length> {
    let first = c.u8()?;
    match first >> 6 {
        0 => Ok(Length::Len(u64::from(first))),
        1 => Ok(Length::Len(
            (u64::from(first & 0x3f) << 8) | u64::from(c.u8()?),
        )),
        2 => wide(c, first),
        _ => Ok(Length::Special(first & 0x3f)),
    }
}

#[inline(never)]
fn wide(c: &mut Cursor<'_>, first: u8) -> Result<Length> {
    match first {
        0x80 => Ok(Length::Len(u64::from(u32::from_be_bytes(c.array()?)))),
        0x81 => Ok(Length::Len(u64::from_be_bytes(c.array()?))),
        _ => {
            c.seek(c.pos() - 1);
            Err(c.error(ErrorKind::BadLength(first)))
        }
    }
}

/// Reads a plain length. A special mark, which servers would misread as a small number, is an error.
#[inline]
pub fn length(c: &mut Cursor<'_>) -> Result<u64> {
    match length_or_special(c)? {
        Length::Len(n) => Ok(n),
        Length::Special(n) => {
            c.seek(c.pos() - 1);
            Err(c.error(ErrorKind::BadLength(0xc0 | n)))
        }
    }
}

/// Reads a count of things that take at least `least` bytes each, so that a lie is found before
/// anything is done with it.
#[inline]
pub fn count(c: &mut Cursor<'_>, least: u64, what: &'static str) -> Result<u64> {
    let start = *c;
    let n = length(c)?;
    let left = c.remaining() as u64;
    if n.checked_mul(least).is_none_or(|bytes| bytes > left) {
        return Err(start.error(ErrorKind::BadCount {
            what,
            count: n,
            left,
        }));
    }
    Ok(n)
}

/// Appends a length in its shortest form.
pub fn write_length(out: &mut Vec<u8>, n: u64) {
    match n {
        0..=0x3f => out.push(n as u8),
        0x40..=0x3fff => out.extend_from_slice(&[0x40 | (n >> 8) as u8, n as u8]),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<u64> {
        length(&mut Cursor::new(bytes, 0))
    }

    #[test]
    fn each_form() {
        assert_eq!(read(&[0x3f]).unwrap(), 63);
        assert_eq!(read(&[0x41, 0x00]).unwrap(), 256);
        assert_eq!(read(&[0x80, 0, 1, 0, 0]).unwrap(), 65536);
        assert_eq!(
            read(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).unwrap(),
            u64::MAX
        );
        // Not the shortest form, but legal.
        assert_eq!(read(&[0x80, 0, 0, 0, 5]).unwrap(), 5);
    }

    #[test]
    fn lies() {
        assert!(matches!(
            read(&[0x85]).unwrap_err().kind(),
            ErrorKind::BadLength(0x85)
        ));
        assert!(matches!(
            read(&[0xc3]).unwrap_err().kind(),
            ErrorKind::BadLength(0xc3)
        ));
        assert!(matches!(
            read(&[0x80, 0, 0]).unwrap_err().kind(),
            ErrorKind::Truncated { .. }
        ));
        let mut c = Cursor::new(&[0x05, 1, 2, 3], 100);
        let error = count(&mut c, 2, "pairs").unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::BadCount {
                count: 5,
                left: 3,
                ..
            }
        ));
        assert_eq!(error.at().unwrap().offset, 100);
    }

    #[test]
    fn write_reads_back() {
        for n in [
            0,
            63,
            64,
            16383,
            16384,
            u64::from(u32::MAX),
            u64::from(u32::MAX) + 1,
            u64::MAX,
        ] {
            let mut out = Vec::new();
            write_length(&mut out, n);
            assert_eq!(read(&out).unwrap(), n);
        }
    }
}
