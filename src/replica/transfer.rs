//! A snapshot as it comes from a source: so many bytes, or all up to a mark.

use memchr::memmem::Finder;

use crate::cursor::At;
use crate::encoding::crc64::Crc64;
use crate::error::{Error, ErrorKind, Result};

/// Bytes of the mark that ends a snapshot of unknown length.
pub const MARK_BYTES: usize = 40;

/// Bytes of magic and version.
const MAGIC_BYTES: usize = 9;

/// Finds the end of a snapshot.
#[derive(Debug)]
pub enum Transfer {
    /// So many bytes are still to come.
    Counted(u64),
    /// It ends before a mark.
    Marked {
        /// The mark.
        mark: Box<Finder<'static>>,
        /// The last bytes that came: the mark may begin among them.
        carry: Vec<u8>,
    },
}

impl Transfer {
    /// By the line that announces it, without its line end: `$123`, or `$EOF:` and the mark.
    pub fn announced(line: &[u8]) -> Option<Transfer> {
        let rest = line.strip_prefix(b"$")?;
        if let Some(mark) = rest.strip_prefix(b"EOF:") {
            return (mark.len() == MARK_BYTES).then(|| Transfer::Marked {
                mark: Box::new(Finder::new(mark).into_owned()),
                carry: Vec::new(),
            });
        }
        if rest.is_empty() || !rest.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let count: u64 = std::str::from_utf8(rest).ok()?.parse().ok()?;
        (count <= i64::MAX as u64).then_some(Transfer::Counted(count))
    }

    /// How many bytes it has, where that was announced; asked before any came.
    pub fn total(&self) -> Option<u64> {
        match self {
            Transfer::Counted(count) => Some(*count),
            Transfer::Marked { .. } => None,
        }
    }

    /// Gives those of the bytes that belong to the snapshot to `write`. Returns how many bytes are behind it, once it
    /// has ended.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<usize>> {
        let (mark, carry) = match self {
            Transfer::Counted(left) => {
                let n = (*left).min(bytes.len() as u64) as usize;
                if n > 0 {
                    write(&bytes[..n])?;
                }
                *left -= n as u64;
                return Ok((*left == 0).then_some(bytes.len() - n));
            }
            Transfer::Marked { mark, carry } => (mark, carry),
        };
        // A mark that begins in what came before.
        if !carry.is_empty() {
            let held = carry.len();
            carry.extend(&bytes[..bytes.len().min(MARK_BYTES - 1)]);
            if let Some(at) = mark.find(carry) {
                write(&carry[..at])?;
                return Ok(Some(bytes.len() - (at + MARK_BYTES - held)));
            }
            carry.truncate(held);
        }
        if let Some(at) = mark.find(bytes) {
            write(carry)?;
            write(&bytes[..at])?;
            return Ok(Some(bytes.len() - at - MARK_BYTES));
        }
        if bytes.len() >= MARK_BYTES - 1 {
            write(carry)?;
            carry.clear();
            let (sure, rest) = bytes.split_at(bytes.len() - (MARK_BYTES - 1));
            write(sure)?;
            carry.extend(rest);
        } else {
            carry.extend(bytes);
            let sure = carry.len().saturating_sub(MARK_BYTES - 1);
            write(&carry[..sure])?;
            carry.drain(..sure);
        }
        Ok(None)
    }
}

/// The checksum of a snapshot that is looked at as it comes (FORMAT §5.1).
#[derive(Debug, Default)]
pub struct Check {
    crc: Crc64,
    len: u64,
    magic: Vec<u8>,
    /// The last bytes: at the end, what the file says its checksum is.
    last: Vec<u8>,
}

impl Check {
    /// Takes the bytes that come next.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let more = MAGIC_BYTES - self.magic.len();
        self.magic.extend(bytes.iter().take(more));
        if bytes.len() >= 8 {
            let (sure, last) = bytes.split_at(bytes.len() - 8);
            self.crc.update(&self.last);
            self.crc.update(sure);
            self.last.clear();
            self.last.extend(last);
        } else {
            self.last.extend(bytes);
            let sure = self.last.len().saturating_sub(8);
            self.crc.update(&self.last[..sure]);
            self.last.drain(..sure);
        }
    }

    /// Bytes that were taken.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether none were taken.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is a snapshot and its checksum is right; files before version 5 have none, and 0 stands for none.
    /// Errors: `NotRdb`, `Checksum`.
    pub fn finish(&self) -> Result<()> {
        let version = match &self.magic[..] {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => number(digits),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => number(digits),
            _ => None,
        };
        let Some(version) = version.filter(|_| self.magic.len() == MAGIC_BYTES) else {
            let found = self.magic.escape_ascii().to_string();
            return Err(Error::new(ErrorKind::NotRdb { found }, At::file(0)));
        };
        let Ok(stored) = <[u8; 8]>::try_from(&self.last[..]) else {
            return Ok(());
        };
        let (stored, computed) = (u64::from_le_bytes(stored), self.crc.value());
        if version >= 5 && stored != 0 && stored != computed {
            let at = At::file(self.len.saturating_sub(8));
            return Err(Error::new(ErrorKind::Checksum { stored, computed }, at));
        }
        Ok(())
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8; MARK_BYTES] = b"0123456789abcdef0123456789abcdef01234567";

    fn snapshot() -> Vec<u8> {
        let mut bytes =
            b"REDIS0011\xfa\x01a\x01b0123456789abcdef0123456789abcdef0123456\xff".to_vec();
        let crc = crate::encoding::crc64::crc64(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// What is written of these pieces, and how many bytes of the last one are left.
    fn taken(transfer: &mut Transfer, pieces: &[&[u8]]) -> (Vec<u8>, Option<usize>) {
        let (mut out, mut end) = (Vec::new(), None);
        for piece in pieces {
            assert_eq!(end, None);
            end = transfer
                .take(piece, |bytes| {
                    out.extend(bytes);
                    Ok(())
                })
                .expect("nothing fails");
        }
        (out, end)
    }

    fn marked() -> Transfer {
        Transfer::announced(&[&b"$EOF:"[..], MARK].concat()).expect("a mark")
    }

    #[test]
    fn a_mark_is_found_wherever_it_is_cut() {
        let all = [&snapshot()[..], MARK].concat();
        for a in 0..all.len() {
            for b in a..all.len() {
                let (out, end) = taken(&mut marked(), &[&all[..a], &all[a..b], &all[b..]]);
                assert_eq!(end, Some(0), "{a} {b}");
                assert!(out == snapshot(), "{a} {b}");
            }
        }
        for step in 1..50 {
            let pieces: Vec<&[u8]> = all.chunks(step).collect();
            assert_eq!(taken(&mut marked(), &pieces), (snapshot(), Some(0)));
        }
    }

    #[test]
    fn what_stands_behind_the_end_is_left() {
        let all = [&snapshot()[..], MARK, b"*1\r\n$4\r\nPING\r\n"].concat();
        for cut in 0..snapshot().len() + MARK_BYTES {
            let (out, end) = taken(&mut marked(), &[&all[..cut], &all[cut..]]);
            assert_eq!((out, end), (snapshot(), Some(14)), "{cut}");
        }
        let line = format!("${}", snapshot().len());
        let mut counted = Transfer::announced(line.as_bytes()).expect("a number");
        assert_eq!(counted.total(), Some(snapshot().len() as u64));
        let all = [&snapshot()[..], b"*1"].concat();
        let (out, end) = taken(&mut counted, &[&all[..5], &all[5..]]);
        assert_eq!((out, end), (snapshot(), Some(2)));
    }

    #[test]
    fn what_announces_nothing() {
        for line in [
            &b"$"[..],
            b"$-1",
            b"$x",
            b"$EOF:abc",
            b"+OK",
            b"$99999999999999999999",
        ] {
            assert!(
                Transfer::announced(line).is_none(),
                "{}",
                line.escape_ascii()
            );
        }
    }

    #[test]
    fn checksums() {
        let good = snapshot();
        let result = |bytes: &[u8], step: usize| {
            let mut check = Check::default();
            bytes.chunks(step).for_each(|piece| check.update(piece));
            assert_eq!(check.len(), bytes.len() as u64);
            check.finish()
        };
        for step in 1..good.len() {
            result(&good, step).expect("it is right");
        }
        for at in 9..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let error = result(&bad, 7).expect_err("it is wrong");
            assert!(matches!(error.kind(), ErrorKind::Checksum { .. }), "{at}");
        }
        let mut none = good.clone();
        let len = none.len();
        none[len - 8..].fill(0);
        result(&none, 3).expect("it has none");
        let error = result(b"*1\r\n$4\r\nPING\r\n", 3).expect_err("no snapshot");
        assert!(matches!(error.kind(), ErrorKind::NotRdb { .. }));
        assert!(result(b"", 3).is_err());
        result(b"REDIS0003\xff", 3).expect("it has none");
    }
}
