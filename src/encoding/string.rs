//! RDB strings: raw, integer-coded or LZF (FORMAT §2.2).

use super::length::{Length, length, length_or_special};
use super::{Element, lzf};
use crate::cursor::{At, Cursor};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Mapped;

/// A string as it stands in the file, not yet unpacked.
#[derive(Debug, Clone, Copy)]
pub enum Str<'a> {
    /// The bytes themselves.
    Raw(&'a [u8]),
    /// An integer that stands for its decimal text.
    Int(i64),
    /// LZF.
    Lzf {
        /// The compressed bytes.
        packed: &'a [u8],
        /// Size when unpacked; already held against what LZF can give.
        len: u64,
        /// Where the compressed bytes stand.
        at: At,
    },
}

/// Reads the head of a string and passes over its bytes. Errors: `Truncated`, `BadString`, `LzfTooLong`.
#[inline(always)]
pub fn string<'a>(c: &mut Cursor<'a>) -> Result<Str<'a>> {
    match length_or_special(c)? {
        Length::Len(n) => Ok(Str::Raw(c.take_len(n)?)),
        Length::Special(encoding) => special(c, encoding),
    }
}

#[inline(never)]
fn special<'a>(c: &mut Cursor<'a>, encoding: u8) -> Result<Str<'a>> {
    match encoding {
        0 => Ok(Str::Int(i64::from(c.u8()? as i8))),
        1 => Ok(Str::Int(i64::from(i16::from_le_bytes(c.array()?)))),
        2 => Ok(Str::Int(i64::from(i32::from_le_bytes(c.array()?)))),
        3 => {
            let start = *c;
            let (packed_len, len) = (length(c)?, length(c)?);
            let at = c.at();
            let packed = c.take_len(packed_len)?;
            if len > lzf::max_len(packed.len()) {
                return Err(start.error(ErrorKind::LzfTooLong {
                    packed: packed_len,
                    len,
                }));
            }
            Ok(Str::Lzf { packed, len, at })
        }
        other => {
            c.seek(c.pos() - 1);
            Err(c.error(ErrorKind::BadString(0xc0 | other)))
        }
    }
}

/// Passes over a string without looking at its bytes.
#[inline(always)]
pub fn skip_string(c: &mut Cursor<'_>) -> Result<()> {
    match length_or_special(c)? {
        Length::Len(n) => c.skip(n),
        Length::Special(encoding) => special(c, encoding).map(drop),
    }
}

/// Room for unpacked strings that a worker keeps from one to the next.
///
/// What is too large to be unpacked in memory goes to an unlinked temporary file that is mapped, so
/// that no string's size decides how much memory a run takes.
#[derive(Debug)]
pub struct Scratch {
    buffer: Vec<u8>,
    spill: Option<Mapped>,
    limit: usize,
}

impl Scratch {
    /// `limit`: the largest string that is unpacked in memory, in bytes.
    pub fn new(limit: usize) -> Self {
        Scratch {
            buffer: Vec::new(),
            spill: None,
            limit,
        }
    }

    /// Unpacks an LZF string; the result lives until the next call.
    pub fn unpack(&mut self, packed: &[u8], len: u64, at: At) -> Result<&[u8]> {
        let broken = |b: lzf::Broken| {
            Error::new(
                ErrorKind::BadLzf {
                    at: b.at,
                    why: b.why,
                },
                at,
            )
        };
        self.spill = None;
        if len > self.limit as u64 {
            let mut spill = crate::input::Spool::create()?;
            lzf::decompress_pieces(packed, len, |piece| {
                spill.write(piece).map_err(UnpackError::Io)
            })
            .map_err(|e| match e {
                UnpackError::Broken(b) => broken(b),
                UnpackError::Io(e) => e,
            })?;
            return Ok(self.spill.insert(spill.into_map()?).bytes());
        }
        let len = len as usize;
        if self.buffer.len() < len + lzf::SLACK {
            self.buffer
                .resize((len + lzf::SLACK).next_power_of_two(), 0);
        }
        lzf::decompress(packed, &mut self.buffer, len).map_err(broken)?;
        Ok(&self.buffer[..len])
    }
}

enum UnpackError {
    Broken(lzf::Broken),
    Io(Error),
}

impl From<lzf::Broken> for UnpackError {
    fn from(broken: lzf::Broken) -> Self {
        UnpackError::Broken(broken)
    }
}

impl<'a> Str<'a> {
    /// The string's element, unpacked into `scratch` where it is compressed.
    #[inline(always)]
    pub fn load<'s>(self, scratch: &'s mut Scratch) -> Result<Element<'s>>
    where
        'a: 's,
    {
        match self {
            Str::Raw(bytes) => Ok(Element::Bytes(bytes)),
            Str::Int(n) => Ok(Element::Int(n)),
            Str::Lzf { packed, len, at } => scratch.unpack(packed, len, at).map(Element::Bytes),
        }
    }

    /// Number of bytes of the unpacked text.
    #[inline]
    pub fn len(self) -> u64 {
        match self {
            Str::Raw(bytes) => bytes.len() as u64,
            Str::Int(n) => super::decimal_len(n) as u64,
            Str::Lzf { len, .. } => len,
        }
    }

    /// Whether the unpacked text is empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Reads a string that holds a packed structure and gives a cursor over its bytes.
#[inline]
pub fn blob<'a: 's, 's>(c: &mut Cursor<'a>, scratch: &'s mut Scratch) -> Result<Cursor<'s>> {
    let start = *c;
    let at = c.at();
    match length_or_special(c)? {
        Length::Len(n) => c.window(n),
        Length::Special(encoding) => match special(c, encoding)? {
            Str::Lzf {
                packed,
                len,
                at: inner,
            } => Ok(Cursor::unpacked(
                scratch.unpack(packed, len, inner)?,
                at.offset,
            )),
            _ => Err(start.error(ErrorKind::BadString(0xc0 | encoding))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut c = Cursor::new(bytes, 0);
        let mut scratch = Scratch::new(1 << 20);
        let mut buffer = itoa::Buffer::new();
        Ok(string(&mut c)?
            .load(&mut scratch)?
            .as_bytes(&mut buffer)
            .to_vec())
    }

    #[test]
    fn each_form() {
        assert_eq!(text(b"\x03abc").unwrap(), b"abc");
        assert_eq!(text(b"\xc0\xff").unwrap(), b"-1");
        assert_eq!(text(b"\xc1\x00\x80").unwrap(), b"-32768");
        assert_eq!(text(b"\xc2\xff\xff\xff\x7f").unwrap(), b"2147483647");
        // The worked example of FORMAT §2.3: fifty times y.
        assert_eq!(
            text(b"\xc3\x09\x32\x01yy\xe0\x25\x00\x01yy").unwrap(),
            vec![b'y'; 50]
        );
    }

    #[test]
    fn a_string_over_the_limit_unpacks_through_a_file() {
        let mut c = Cursor::new(b"\xc3\x09\x32\x01yy\xe0\x25\x00\x01yy", 0);
        let mut scratch = Scratch::new(10);
        let Element::Bytes(bytes) = string(&mut c).unwrap().load(&mut scratch).unwrap() else {
            panic!()
        };
        assert_eq!(bytes, vec![b'y'; 50]);
    }

    #[test]
    fn lies() {
        assert!(matches!(
            text(b"\xc4").unwrap_err().kind(),
            ErrorKind::BadString(0xc4)
        ));
        assert!(matches!(
            text(b"\x05abc").unwrap_err().kind(),
            ErrorKind::Truncated { wanted: 5, left: 3 }
        ));
        // One byte cannot give a gigabyte.
        assert!(matches!(
            text(b"\xc3\x01\x80\x40\x00\x00\x00\x00")
                .unwrap_err()
                .kind(),
            ErrorKind::LzfTooLong { .. }
        ));
    }
}
