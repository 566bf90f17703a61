//! Bounds-checked reading of a slice that always knows its offset in the file.

use crate::error::{Error, ErrorKind, Result};

/// Where a byte stands: its offset in the file and, for bytes that were unpacked from a compressed
/// string, how far inside the unpacked bytes. Offsets are counted in the uncompressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct At {
    /// Byte offset in the file; of the compressed string's first byte where `inside` is set.
    pub offset: u64,
    /// Offset inside the unpacked bytes of that string.
    pub inside: Option<u64>,
}

impl At {
    /// A place in the file itself.
    pub const fn file(offset: u64) -> At {
        At {
            offset,
            inside: None,
        }
    }
}

/// A position in a slice. Every read either advances past whole bytes or fails and names its place.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    data: &'a [u8],
    pos: usize,
    base: u64,
    unpacked: bool,
}

impl<'a> Cursor<'a> {
    /// Over bytes that stand in the file at `base`.
    pub fn new(data: &'a [u8], base: u64) -> Self {
        Cursor {
            data,
            pos: 0,
            base,
            unpacked: false,
        }
    }

    /// Over bytes that were unpacked from the compressed string at `base`.
    pub fn unpacked(data: &'a [u8], base: u64) -> Self {
        Cursor {
            data,
            pos: 0,
            base,
            unpacked: true,
        }
    }

    /// The place of the next byte.
    pub fn at(&self) -> At {
        self.at_pos(self.pos)
    }

    fn at_pos(&self, pos: usize) -> At {
        if self.unpacked {
            At {
                offset: self.base,
                inside: Some(pos as u64),
            }
        } else {
            At::file(self.base + pos as u64)
        }
    }

    /// Position from the start of the slice.
    #[inline]
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Moves to `pos`, which must have been read before.
    #[inline]
    pub fn seek(&mut self, pos: usize) {
        debug_assert!(pos <= self.data.len());
        self.pos = pos.min(self.data.len());
    }

    /// Bytes not yet read.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.data.len() - self.pos
    }

    /// Whether everything was read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pos >= self.data.len()
    }

    /// The next byte, not consumed.
    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.data.get(self.pos).copied()
    }

    /// All bytes not yet read; consumes them.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.data[self.pos..];
        self.pos = self.data.len();
        rest
    }

    /// All bytes, read or not.
    #[inline]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The bytes between two positions that were read before.
    pub fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        &self.data[from..to]
    }

    /// A cursor over the next `n` bytes only, with the same offsets.
    pub fn window(&mut self, n: u64) -> Result<Cursor<'a>> {
        let base = self.base + self.pos as u64;
        let (unpacked, from) = (self.unpacked, self.pos);
        let data = self.take_len(n)?;
        if unpacked {
            // Keep counting from the start of the unpacked bytes.
            Ok(Cursor {
                data: &self.data[..from + data.len()],
                pos: from,
                base: self.base,
                unpacked,
            })
        } else {
            Ok(Cursor {
                data,
                pos: 0,
                base,
                unpacked,
            })
        }
    }

    /// An error of this kind at the next byte.
    #[cold]
    pub fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, self.at())
    }

    #[cold]
    fn truncated(&self, wanted: u64) -> Error {
        Error::new(
            ErrorKind::Truncated {
                wanted,
                left: self.remaining() as u64,
            },
            self.at(),
        )
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        match self.data.get(self.pos) {
            Some(&b) => {
                self.pos += 1;
                Ok(b)
            }
            None => Err(self.truncated(1)),
        }
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self
            .data
            .get(self.pos..)
            .and_then(|rest| rest.first_chunk::<N>())
        {
            Some(bytes) => {
                self.pos += N;
                Ok(*bytes)
            }
            None => Err(self.truncated(N as u64)),
        }
    }

    /// The next `n` bytes, borrowed.
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.remaining() {
            return Err(self.truncated(n as u64));
        }
        let bytes = &self.data[self.pos..self.pos + n];
        self.pos += n;
        Ok(bytes)
    }

    /// As [`take`](Self::take), for a length from the file that may not even fit a `usize`.
    #[inline]
    pub fn take_len(&mut self, n: u64) -> Result<&'a [u8]> {
        if n > self.remaining() as u64 {
            return Err(self.truncated(n));
        }
        self.take(n as usize)
    }

    /// Passes over `n` bytes.
    #[inline]
    pub fn skip(&mut self, n: u64) -> Result<()> {
        if n > self.remaining() as u64 {
            return Err(self.truncated(n));
        }
        self.pos += n as usize;
        Ok(())
    }

    /// Little-endian integers.
    #[inline]
    pub fn u16_le(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }
    /// Little-endian, 32 bits.
    #[inline]
    pub fn u32_le(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
    /// Little-endian, 64 bits, signed.
    #[inline]
    pub fn i64_le(&mut self) -> Result<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
