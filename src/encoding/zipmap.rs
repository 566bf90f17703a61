//! Walks a zipmap, the small hash of Redis up to 2.4 (FORMAT §4.2).

use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};

/// A zipmap borrowed from its blob; pairs are decoded as they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Zipmap<'a> {
    c: Cursor<'a>,
    announced: u8,
    seen: u64,
    done: bool,
}

impl<'a> Zipmap<'a> {
    /// Reads the header.
    pub fn parse(mut blob: Cursor<'a>) -> Result<Self> {
        if blob.remaining() < 2 {
            return Err(blob.error(ErrorKind::BadZipmap("is shorter than its header")));
        }
        let announced = blob.u8()?;
        Ok(Zipmap {
            c: blob,
            announced,
            seen: 0,
            done: false,
        })
    }

    /// Number of pairs still to come. Walks them where the header does not say.
    pub fn remaining(&self) -> Result<u64> {
        if self.announced < 254 {
            return Ok(u64::from(self.announced).saturating_sub(self.seen));
        }
        let mut walk = *self;
        let mut n = 0;
        while walk.next()?.is_some() {
            n += 1;
        }
        Ok(n)
    }

    /// The next field and value, or `None` after the last pair.
    #[allow(clippy::should_implement_trait)] // it fails, so it is no Iterator
    pub fn next(&mut self) -> Result<Option<(&'a [u8], &'a [u8])>> {
        if self.done {
            return Ok(None);
        }
        if self.c.peek() == Some(0xff) {
            self.c.u8()?;
            self.done = true;
            if !self.c.is_empty() {
                return Err(self
                    .c
                    .error(ErrorKind::BadZipmap("has its end mark before its end")));
            }
            if self.announced < 254 && self.seen != u64::from(self.announced) {
                return Err(self.c.error(ErrorKind::BadZipmap(
                    "holds another number of pairs than its header says",
                )));
            }
            return Ok(None);
        }
        let n = self.len()?;
        let field = self.bytes(n)?;
        let n = self.len()?;
        // Unused bytes behind the value, kept so that it could grow in place.
        let free = usize::from(self.c.u8()?);
        let value = self.bytes(n)?;
        self.bytes(free)?;
        self.seen += 1;
        Ok(Some((field, value)))
    }

    fn len(&mut self) -> Result<usize> {
        match self.c.u8()? {
            0xfe => Ok(self.c.u32_le()? as usize),
            0xff => {
                self.c.seek(self.c.pos() - 1);
                Err(self
                    .c
                    .error(ErrorKind::BadZipmap("has its end mark inside a pair")))
            }
            n => Ok(usize::from(n)),
        }
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        if n >= self.c.remaining() {
            return Err(self.c.error(ErrorKind::BadZipmap("pair runs past its end")));
        }
        self.c.take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(blob: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut map = Zipmap::parse(Cursor::new(blob, 0))?;
        let mut found = Vec::new();
        while let Some((field, value)) = map.next()? {
            found.push((field.to_vec(), value.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn pairs_with_padding() {
        let blob = b"\x02\x01a\x02\x03hi...\x01b\xfe\x01\x00\x00\x00\x00x\xff";
        assert_eq!(
            all(blob).unwrap(),
            [
                (b"a".to_vec(), b"hi".to_vec()),
                (b"b".to_vec(), b"x".to_vec())
            ]
        );
    }

    #[test]
    fn lies() {
        let says = |blob: &[u8]| all(blob).unwrap_err().to_string();
        assert!(says(b"\x02\x01a\x01\x00b\xff").contains("another number"));
        assert!(says(b"\x01\x09a\x01\x00b\xff").contains("runs past its end"));
        assert!(says(b"\x01\x01a\x01\x00b\xff\xff").contains("before its end"));
        assert!(says(b"\x01\x01a\xff").contains("inside a pair"));
        assert!(says(b"\x01").contains("shorter"));
        assert!(all(b"\x01\x01a\x01\x00b").is_err());
    }
}
