//! Walks a ziplist, the listpack's elder (FORMAT §4.3).

use super::Element;
use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};

/// A ziplist borrowed from its blob; entries are decoded as they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ziplist<'a> {
    c: Cursor<'a>,
    from: usize,
    end: usize,
    tail: usize,
    announced: u16,
    seen: u64,
    previous: usize, // size of the entry before
}

impl<'a> Ziplist<'a> {
    /// Checks the header against the blob.
    #[inline]
    pub fn parse(mut blob: Cursor<'a>) -> Result<Self> {
        let start = blob;
        let from = blob.pos();
        let size = blob.remaining();
        if size < 11 {
            return Err(start.error(ErrorKind::BadZiplist("is shorter than its header")));
        }
        let (total, tail, announced) = (blob.u32_le()?, blob.u32_le()?, blob.u16_le()?);
        if total as usize != size {
            return Err(start.error(ErrorKind::BadZiplist(
                "header gives another size than its string",
            )));
        }
        let end = from + size - 1;
        if blob.slice(end, end + 1) != [0xff] {
            return Err(start.error(ErrorKind::BadZiplist("does not end with its end mark")));
        }
        Ok(Ziplist {
            c: blob,
            from,
            end,
            tail: tail as usize,
            announced,
            seen: 0,
            previous: 0,
        })
    }

    /// Number of entries still to come. Walks them where the header does not say.
    pub fn remaining(&self) -> Result<u64> {
        if self.announced != u16::MAX {
            return Ok(u64::from(self.announced).saturating_sub(self.seen));
        }
        let mut walk = *self;
        let mut n = 0;
        while walk.next()?.is_some() {
            n += 1;
        }
        Ok(n)
    }

    /// Where the next entry stands, for errors.
    pub fn cursor(&self) -> &Cursor<'a> {
        &self.c
    }

    /// The next entry, or `None` after the last one.
    #[allow(clippy::should_implement_trait)] // it fails, so it is no Iterator
    #[inline(always)]
    pub fn next(&mut self) -> Result<Option<Element<'a>>> {
        let start = self.c.pos();
        if start >= self.end {
            return self.finish().map(|()| None);
        }
        let first = self.c.u8()?;
        let previous = match first {
            // The five-byte form may stand for small sizes too: left over from cascade updates.
            0xfe => self.c.u32_le()? as usize,
            0xff => {
                self.c.seek(start);
                return Err(self.broken("has its end mark before its end"));
            }
            n => usize::from(n),
        };
        if previous != self.previous {
            self.c.seek(start);
            return Err(self.broken("entry's previous length is wrong"));
        }
        let encoding = self.c.u8()?;
        let element = match encoding {
            0x00..=0x3f => Element::Bytes(self.bytes(usize::from(encoding))?),
            0x40..=0x7f => {
                let n = (usize::from(encoding & 0x3f) << 8) | usize::from(self.c.u8()?);
                Element::Bytes(self.bytes(n)?)
            }
            0x80..=0xbf => {
                let n = u32::from_be_bytes(self.c.array()?) as usize;
                Element::Bytes(self.bytes(n)?)
            }
            0xc0 => Element::Int(i64::from(i16::from_le_bytes(self.c.array()?))),
            0xd0 => Element::Int(i64::from(i32::from_le_bytes(self.c.array()?))),
            0xe0 => Element::Int(self.c.i64_le()?),
            0xf0 => {
                let [a, b, c] = self.c.array()?;
                Element::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
            }
            0xfe => Element::Int(i64::from(self.c.u8()? as i8)),
            0xf1..=0xfd => Element::Int(i64::from(encoding & 0x0f) - 1),
            _ => {
                self.c.seek(self.c.pos() - 1);
                return Err(self.broken("entry has an invalid encoding"));
            }
        };
        if self.c.pos() > self.end {
            self.c.seek(start);
            return Err(self.broken("entry runs past its end"));
        }
        self.previous = self.c.pos() - start;
        self.seen += 1;
        Ok(Some(element))
    }

    /// The next entry; its absence is an error.
    #[inline(always)]
    pub fn expect(&mut self) -> Result<Element<'a>> {
        match self.next()? {
            Some(element) => Ok(element),
            None => Err(self.broken("ends before its last element")),
        }
    }

    #[inline]
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.end.saturating_sub(self.c.pos()) {
            return Err(self.broken("entry runs past its end"));
        }
        self.c.take(n)
    }

    fn finish(&mut self) -> Result<()> {
        if self.c.pos() != self.end {
            return Err(self.broken("entry runs past its end"));
        }
        if self.announced != u16::MAX && self.seen != u64::from(self.announced) {
            return Err(self.broken("holds another number of entries than its header says"));
        }
        // The tail points at the last entry, or behind the header where there is none.
        let last = if self.seen == 0 {
            10
        } else {
            self.end - self.from - self.previous
        };
        if self.tail != last {
            return Err(self.broken("header points past its last entry"));
        }
        Ok(())
    }

    #[cold]
    fn broken(&self, what: &'static str) -> crate::error::Error {
        self.c.error(ErrorKind::BadZiplist(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(count: u16, entries: &[&[u8]]) -> Vec<u8> {
        let body = entries.concat();
        let tail = 10 + body.len() - entries.last().map_or(0, |e| e.len());
        let mut blob = ((body.len() + 11) as u32).to_le_bytes().to_vec();
        blob.extend_from_slice(&(tail as u32).to_le_bytes());
        blob.extend_from_slice(&count.to_le_bytes());
        blob.extend_from_slice(&body);
        blob.push(0xff);
        blob
    }

    fn all(blob: &[u8]) -> Result<Vec<String>> {
        let mut zl = Ziplist::parse(Cursor::new(blob, 0))?;
        let mut found = Vec::new();
        while let Some(element) = zl.next()? {
            let mut buffer = itoa::Buffer::new();
            found.push(String::from_utf8_lossy(element.as_bytes(&mut buffer)).into_owned());
        }
        Ok(found)
    }

    #[test]
    fn each_encoding() {
        let blob = pack(
            9,
            &[
                &[0, 0x02, b'h', b'i'],                // 6-bit string
                &[4, 0x40, 0x01, b'x'],                // 14-bit string, big-endian
                &[4, 0x80, 0, 0, 0, 1, b'y'],          // 32-bit string, big-endian
                &[7, 0xc0, 0x00, 0x80],                // i16
                &[4, 0xd0, 0, 0, 0, 0x80],             // i32
                &[6, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80], // i64
                &[10, 0xf0, 0xff, 0xff, 0xff],         // i24
                &[5, 0xfe, 0xff],                      // i8
                &[0xfe, 3, 0, 0, 0, 0xfd],             // immediate 12, long form of prevlen
            ],
        );
        assert_eq!(
            all(&blob).unwrap(),
            [
                "hi",
                "x",
                "y",
                "-32768",
                "-2147483648",
                "-9223372036854775808",
                "-1",
                "-1",
                "12"
            ]
        );
        assert_eq!(all(&pack(0, &[])).unwrap().len(), 0);
    }

    #[test]
    fn lies() {
        let says = |blob: &[u8]| all(blob).unwrap_err().to_string();
        assert!(says(&pack(2, &[&[0, 0xf2]])).contains("another number of entries"));
        assert!(says(&pack(1, &[&[1, 0xf2]])).contains("previous length is wrong at byte 0xa"));
        assert!(says(&pack(1, &[&[0, 0x05, b'h']])).contains("runs past its end"));
        assert!(says(&pack(1, &[&[0, 0xc1, 0, 0]])).contains("invalid encoding"));
        let mut tail = pack(2, &[&[0, 0xf2], &[2, 0xf3]]);
        tail[4] = 10;
        assert!(says(&tail).contains("points past"));
        assert!(says(&[0; 4]).contains("shorter"));
    }
}
