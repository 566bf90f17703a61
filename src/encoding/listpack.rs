//! Walks a listpack, and packs one (FORMAT §4.6).

use super::Element;
use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};

/// A listpack borrowed from its blob; entries are decoded as they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Listpack<'a> {
    c: Cursor<'a>,
    end: usize,
    announced: u16,
    seen: u64,
    /// Which forms of the back length were met at the sizes where servers up to 8.6 and from 8.8 on
    /// differ: each finds the other's form corrupt.
    pub boundary: Boundary,
}

/// Forms of the back length seen at the boundary sizes (FORMAT §4.6, boundary quirk).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Boundary {
    /// The longer form, written by Redis up to 8.6 and every Valkey.
    pub long: bool,
    /// The shorter form, written by Redis from 8.8 on.
    pub short: bool,
}

impl Boundary {
    /// Whether any entry has a boundary size.
    pub fn any(self) -> bool {
        self.long || self.short
    }
}

impl<'a> Listpack<'a> {
    /// Checks the header against the blob.
    #[inline]
    pub fn parse(mut blob: Cursor<'a>) -> Result<Self> {
        let start = blob;
        let from = blob.pos();
        let size = blob.remaining();
        if size < 7 {
            return Err(start.error(ErrorKind::BadListpack("is shorter than its header")));
        }
        let total = blob.u32_le()?;
        let announced = blob.u16_le()?;
        if total as usize != size {
            return Err(start.error(ErrorKind::BadListpack(
                "header gives another size than its string",
            )));
        }
        let end = from + size - 1;
        if blob.slice(end, end + 1) != [0xff] {
            return Err(start.error(ErrorKind::BadListpack("does not end with its end mark")));
        }
        Ok(Listpack {
            c: blob,
            end,
            announced,
            seen: 0,
            boundary: Boundary::default(),
        })
    }

    /// Number of entries that the header announces; `None` where it says "count them".
    pub fn announced(&self) -> Option<u64> {
        (self.announced != u16::MAX).then_some(u64::from(self.announced))
    }

    /// Number of entries still to come. Walks them where the header does not say.
    pub fn remaining(&self) -> Result<u64> {
        match self.announced() {
            // A count that lies is found by the walk that follows.
            Some(n) => Ok(n.saturating_sub(self.seen)),
            None => {
                let mut walk = *self;
                let mut n = 0;
                while walk.next()?.is_some() {
                    n += 1;
                }
                Ok(n)
            }
        }
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
        let element = if first < 0x80 {
            Element::Int(i64::from(first))
        } else if first < 0xc0 {
            Element::Bytes(self.bytes(usize::from(first & 0x3f))?)
        } else {
            self.wide(first)?
        };
        let size = self.c.pos() - start;
        if size < 128 && self.c.pos() < self.end {
            // By far the most common: one byte of back length.
            if self.c.u8()? as usize != size {
                self.c.seek(start);
                return Err(self.broken("entry's back length is wrong"));
            }
        } else {
            self.back_length(start, size)?;
        }
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

    /// The next entry, which must be an integer (or the text of one).
    pub fn expect_int(&mut self) -> Result<i64> {
        match self.expect()? {
            Element::Int(n) => Ok(n),
            Element::Bytes(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| self.broken("has text where an integer belongs")),
        }
    }

    #[inline(never)]
    fn wide(&mut self, first: u8) -> Result<Element<'a>> {
        Ok(match first {
            0xc0..=0xdf => {
                let u = (i64::from(first & 0x1f) << 8) | i64::from(self.c.u8()?);
                Element::Int(if u >= 4096 { u - 8192 } else { u })
            }
            0xe0..=0xef => {
                let n = (usize::from(first & 0x0f) << 8) | usize::from(self.c.u8()?);
                Element::Bytes(self.bytes(n)?)
            }
            0xf0 => {
                let n = self.c.u32_le()? as usize;
                Element::Bytes(self.bytes(n)?)
            }
            0xf1 => Element::Int(i64::from(i16::from_le_bytes(self.c.array()?))),
            0xf2 => {
                let [a, b, c] = self.c.array()?;
                Element::Int(i64::from(i32::from_le_bytes([0, a, b, c]) >> 8))
            }
            0xf3 => Element::Int(i64::from(i32::from_le_bytes(self.c.array()?))),
            0xf4 => Element::Int(self.c.i64_le()?),
            _ => {
                self.c.seek(self.c.pos() - 1);
                return Err(if first == 0xff {
                    self.broken("has its end mark before its end")
                } else {
                    self.broken("entry has an invalid encoding")
                });
            }
        })
    }

    #[inline]
    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.end.saturating_sub(self.c.pos()) {
            return Err(self.broken("entry runs past its end"));
        }
        self.c.take(n)
    }

    /// Reads and checks the back length of an entry of `size` bytes.
    #[inline(never)]
    fn back_length(&mut self, start: usize, size: usize) -> Result<()> {
        let bits = usize::BITS - size.leading_zeros();
        let short = (bits as usize).div_ceil(7).max(1);
        // At the three boundary sizes servers up to 8.6 write one byte more, which then is 00.
        let at_boundary = matches!(size, 16_383 | 2_097_151 | 268_435_455);
        let long_form = at_boundary && self.c.peek() == Some(0);
        let width = short + usize::from(long_form);
        if width > self.end.saturating_sub(self.c.pos()) {
            self.c.seek(start);
            return Err(self.broken("entry runs past its end"));
        }
        if at_boundary {
            self.boundary.long |= long_form;
            self.boundary.short |= !long_form;
        }
        for i in (0..width).rev() {
            let group = ((size as u64) >> (7 * i)) as u8 & 0x7f;
            let expected = if i == width - 1 { group } else { group | 0x80 };
            if self.c.u8()? != expected {
                self.c.seek(start);
                return Err(self.broken("entry's back length is wrong"));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.c.pos() != self.end {
            return Err(self.broken("entry runs past its end"));
        }
        if self.announced != u16::MAX && self.seen != u64::from(self.announced) {
            return Err(self.broken("holds another number of entries than its header says"));
        }
        Ok(())
    }

    #[cold]
    fn broken(&self, what: &'static str) -> crate::error::Error {
        self.c.error(ErrorKind::BadListpack(what))
    }
}

/// A listpack that is being packed. It may be used again after [`clear`](Self::clear).
#[derive(Debug, Clone)]
pub struct Packer {
    blob: Vec<u8>,
    count: u64,
    /// Which form of the back length is written at the boundary sizes: the shorter one is for servers from 8.8 on.
    short_boundary: bool,
}

/// Total size and number of entries.
const HEADER: usize = 6;

impl Packer {
    /// An empty one. `short_boundary`: as Redis 8.8 and later write (FORMAT §4.6, boundary quirk).
    pub fn new(short_boundary: bool) -> Packer {
        Packer {
            blob: vec![0; HEADER],
            count: 0,
            short_boundary,
        }
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.blob.truncate(HEADER);
        self.count = 0;
    }

    /// Bytes of the entries so far.
    pub fn len(&self) -> usize {
        self.blob.len() - HEADER
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends text, as an integer where it is the canonical form of one, as servers do.
    pub fn push(&mut self, text: &[u8]) {
        if let Some(n) = canonical_int(text) {
            return self.push_int(n);
        }
        let start = self.blob.len();
        match text.len() {
            n @ 0..=0x3f => self.blob.push(0x80 | n as u8),
            n @ 0x40..=0xfff => self
                .blob
                .extend_from_slice(&[0xe0 | (n >> 8) as u8, n as u8]),
            n => {
                self.blob.push(0xf0);
                self.blob.extend_from_slice(&(n as u32).to_le_bytes());
            }
        }
        self.blob.extend_from_slice(text);
        self.close(start);
    }

    /// Appends an integer in its shortest form.
    pub fn push_int(&mut self, n: i64) {
        let start = self.blob.len();
        let le = n.to_le_bytes();
        match n {
            0..=127 => self.blob.push(n as u8),
            -4096..=4095 => {
                let u = (n & 0x1fff) as u16;
                self.blob
                    .extend_from_slice(&[0xc0 | (u >> 8) as u8, u as u8]);
            }
            -0x8000..=0x7fff => self.wide_int(0xf1, &le[..2]),
            -0x80_0000..=0x7f_ffff => self.wide_int(0xf2, &le[..3]),
            -0x8000_0000..=0x7fff_ffff => self.wide_int(0xf3, &le[..4]),
            _ => self.wide_int(0xf4, &le),
        }
        self.close(start);
    }

    fn wide_int(&mut self, encoding: u8, le: &[u8]) {
        self.blob.push(encoding);
        self.blob.extend_from_slice(le);
    }

    /// Appends the entries of another.
    pub fn append(&mut self, other: &Packer) {
        self.blob.extend_from_slice(&other.blob[HEADER..]);
        self.count += other.count;
    }

    /// The blob, with header and end mark. More may be appended afterwards.
    pub fn finish(&mut self) -> Blob<'_> {
        let total = (self.blob.len() + 1) as u32;
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        self.blob[..4].copy_from_slice(&total.to_le_bytes());
        self.blob[4..HEADER].copy_from_slice(&count.to_le_bytes());
        self.blob.push(0xff);
        Blob(&mut self.blob)
    }

    /// Writes the back length of the entry that begins at `start`.
    fn close(&mut self, start: usize) {
        let size = self.blob.len() - start;
        let bits = (usize::BITS - size.leading_zeros()) as usize;
        let at_boundary = matches!(size, 16_383 | 2_097_151 | 268_435_455);
        let width = bits.div_ceil(7).max(1) + usize::from(at_boundary && !self.short_boundary);
        for i in (0..width).rev() {
            let group = ((size as u64) >> (7 * i)) as u8 & 0x7f;
            self.blob
                .push(if i == width - 1 { group } else { group | 0x80 });
        }
        self.count += 1;
    }
}

/// A packed listpack; the packer can be filled further when it is gone.
#[derive(Debug)]
pub struct Blob<'a>(&'a mut Vec<u8>);

impl std::ops::Deref for Blob<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for Blob<'_> {
    fn drop(&mut self) {
        self.0.pop();
    }
}

/// The integer whose canonical decimal text this is: such text and the integer are the same to every client.
pub fn canonical_int(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let negative = digits.len() < text.len();
    match digits {
        [b'0'] if !negative => Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(count: u16, entries: &[u8]) -> Vec<u8> {
        let mut blob = ((entries.len() + 7) as u32).to_le_bytes().to_vec();
        blob.extend_from_slice(&count.to_le_bytes());
        blob.extend_from_slice(entries);
        blob.push(0xff);
        blob
    }

    fn all(blob: &[u8]) -> Result<Vec<String>> {
        let mut lp = Listpack::parse(Cursor::new(blob, 1000))?;
        let mut found = Vec::new();
        while let Some(element) = lp.next()? {
            let mut buffer = itoa::Buffer::new();
            found.push(String::from_utf8_lossy(element.as_bytes(&mut buffer)).into_owned());
        }
        Ok(found)
    }

    #[test]
    fn each_encoding() {
        let entries = [
            &[0x7f, 1][..],                        // 127
            &[0x82, b'h', b'i', 3],                // string of two
            &[0xdf, 0xff, 2],                      // 13 bit: -1
            &[0xcf, 0xff, 2],                      // 13 bit: 4095
            &[0xe0, 0x01, b'x', 3],                // 12-bit string
            &[0xf0, 1, 0, 0, 0, b'y', 6],          // 32-bit string
            &[0xf1, 0x00, 0x80, 3],                // i16
            &[0xf2, 0xff, 0xff, 0xff, 4],          // i24: -1
            &[0xf3, 0, 0, 0, 0x80, 5],             // i32
            &[0xf4, 0, 0, 0, 0, 0, 0, 0, 0x80, 9], // i64
        ]
        .concat();
        assert_eq!(
            all(&pack(10, &entries)).unwrap(),
            [
                "127",
                "hi",
                "-1",
                "4095",
                "x",
                "y",
                "-32768",
                "-1",
                "-2147483648",
                "-9223372036854775808"
            ]
        );
        assert_eq!(all(&pack(u16::MAX, &entries)).unwrap().len(), 10);
    }

    #[test]
    fn what_is_packed_is_walked() {
        let ints = [
            0, 127, 128, -1, 4095, 4096, -4096, -4097, 32767, -32768, 32768,
        ];
        let wide = [
            8_388_607,
            -8_388_608,
            8_388_608,
            i64::from(i32::MIN),
            1 << 31,
            i64::MAX,
            i64::MIN,
        ];
        let mut texts: Vec<Vec<u8>> = ints
            .iter()
            .chain(&wide)
            .map(|n| n.to_string().into_bytes())
            .collect();
        for len in [0, 1, 63, 64, 4095, 4096, 16_378, 16_379, 70_000] {
            texts.push(vec![b'x'; len]);
        }
        // Not canonical, so they stay text.
        for text in ["-0", "00", "+1", "01", "9223372036854775808", "-", "1 "] {
            texts.push(text.into());
        }
        for short in [false, true] {
            let mut packer = Packer::new(short);
            for _ in 0..2 {
                packer.clear();
                texts.iter().for_each(|text| packer.push(text));
                let bytes = packer.finish().to_vec();
                let mut lp = Listpack::parse(Cursor::new(&bytes, 0)).unwrap();
                assert_eq!(lp.announced(), Some(texts.len() as u64));
                let mut buffer = itoa::Buffer::new();
                for (i, text) in texts.iter().enumerate() {
                    let element = lp.next().unwrap().unwrap();
                    assert_eq!(
                        matches!(element, Element::Int(_)),
                        i < ints.len() + wide.len()
                    );
                    assert_eq!(element.as_bytes(&mut buffer), text);
                }
                assert_eq!(lp.next().unwrap(), None);
                assert_eq!(
                    lp.boundary,
                    Boundary {
                        long: !short,
                        short
                    }
                );
            }
        }
        // As a server packed it (FORMAT §4.7, the triples of its example).
        let mut packer = Packer::new(false);
        for text in ["f2", "v2", "1900000000000", "f1", "v1", "0"] {
            packer.push(text.as_bytes());
        }
        let server = b"\x23\0\0\0\x06\0\x82f2\x03\x82v2\x03\xf4\0\x38\xd3\x60\xba\x01\0\0\x09\x82f1\x03\x82v1\x03\0\x01\xff";
        assert_eq!(*packer.finish(), server[..]);
    }

    #[test]
    fn both_forms_of_the_boundary_back_length() {
        // 16,378 bytes with a 5-byte head: 16,383 in all.
        for (tail, long) in [(&[0x00, 0xff, 0xff][..], true), (&[0x7f, 0xff], false)] {
            let mut entry = vec![0xf0];
            entry.extend_from_slice(&16_378u32.to_le_bytes());
            entry.extend_from_slice(&[b'a'; 16_378]);
            entry.extend_from_slice(tail);
            entry.extend_from_slice(&[5, 1]);
            let blob = pack(2, &entry);
            let mut lp = Listpack::parse(Cursor::new(&blob, 0)).unwrap();
            assert_eq!(lp.next().unwrap().unwrap().len(), 16_378);
            assert_eq!(lp.next().unwrap(), Some(Element::Int(5)));
            assert_eq!(lp.next().unwrap(), None);
            assert_eq!(lp.boundary, Boundary { long, short: !long });
        }
    }

    #[test]
    fn lies() {
        let good = pack(2, &[5, 1, 0x82, b'h', b'i', 3]);
        assert_eq!(all(&good).unwrap(), ["5", "hi"]);
        let says = |blob: &[u8]| all(blob).unwrap_err().to_string();
        assert!(says(&pack(3, &[5, 1, 5, 1])).contains("another number of entries"));
        assert!(says(&pack(1, &[0xbf, b'h', b'i', 3])).contains("runs past its end at byte 0x3ef"));
        assert!(says(&pack(1, &[5, 2])).contains("back length is wrong at byte 0x3ee"));
        assert!(says(&pack(1, &[0xf7, 1])).contains("invalid encoding"));
        assert!(says(&pack(1, &[0xff, 5, 1])).contains("end mark before its end"));
        let mut short = good.clone();
        short[0] -= 1;
        assert!(says(&short).contains("another size"));
        let mut unended = good.clone();
        *unended.last_mut().unwrap() = 0;
        assert!(says(&unended).contains("end mark"));
        assert!(says(&[0; 3]).contains("shorter than its header"));
    }
}
