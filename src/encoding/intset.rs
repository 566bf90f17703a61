//! Walks an intset (FORMAT §4.4).

use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};

/// An intset borrowed from its blob; members are decoded as they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Intset<'a> {
    width: usize, // bytes per member: 2, 4 or 8
    members: &'a [u8],
}

impl<'a> Intset<'a> {
    /// Checks header against blob. Errors: `BadIntset` at the blob's first byte, `Truncated`.
    pub fn parse(mut blob: Cursor<'a>) -> Result<Self> {
        let start = blob;
        let (width, count) = (blob.u32_le()? as usize, blob.u32_le()? as usize);
        let members = blob.rest();
        if !matches!(width, 2 | 4 | 8) {
            return Err(start.error(ErrorKind::BadIntset(
                "its members are not 2, 4 or 8 bytes wide",
            )));
        }
        // A corrupt count can claim 4 G members: compare with it, never reserve from it.
        if width.checked_mul(count) != Some(members.len()) {
            return Err(start.error(ErrorKind::BadIntset(
                "header gives another size than its string",
            )));
        }
        Ok(Intset { width, members })
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len() / self.width
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Members in ascending order, without allocating.
    #[inline]
    pub fn iter(self) -> impl ExactSizeIterator<Item = i64> + 'a {
        let width = self.width;
        self.members.chunks_exact(width).map(move |m| match width {
            2 => i64::from(i16::from_le_bytes([m[0], m[1]])),
            4 => i64::from(i32::from_le_bytes([m[0], m[1], m[2], m[3]])),
            _ => i64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]]),
        })
    }

    /// Whether members are strictly ascending, which servers' binary search relies on.
    pub fn is_sorted(self) -> bool {
        let mut previous = None;
        self.iter()
            .all(|m| previous.replace(m).is_none_or(|p| p < m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths() {
        let two = b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0";
        let set = Intset::parse(Cursor::new(two, 0)).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [-1, 5]);
        assert!(set.is_sorted());
        let eight = b"\x08\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\x80";
        assert_eq!(
            Intset::parse(Cursor::new(eight, 0)).unwrap().iter().next(),
            Some(i64::MIN)
        );
        let four = b"\x04\0\0\0\x02\0\0\0\x05\0\0\0\x05\0\0\0";
        assert!(!Intset::parse(Cursor::new(four, 0)).unwrap().is_sorted());
    }

    #[test]
    fn lies() {
        for bad in [
            &b"\x03\0\0\0\x00\0\0\0"[..],
            b"\x02\0\0\0\xff\xff\xff\xff\0\0",
            b"\x02\0\0\0\x02\0\0\0\0\0",
        ] {
            assert!(matches!(
                Intset::parse(Cursor::new(bad, 0)).unwrap_err().kind(),
                ErrorKind::BadIntset(_)
            ));
        }
        assert!(Intset::parse(Cursor::new(b"\x02\0\0", 0)).is_err());
    }
}
