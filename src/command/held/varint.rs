//! Numbers of seven bits a byte, the lowest first; small lengths take a byte.

/// Bytes that the largest takes.
pub(super) const MAX: usize = 10;

/// Appends a number.
pub(super) fn write(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A number that stands in front of `bytes`, and its length; 0 bytes long where none does.
#[inline]
pub(super) fn read(bytes: &[u8]) -> (u64, usize) {
    let mut n = 0;
    for (i, &byte) in bytes.iter().take(MAX).enumerate() {
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return (n, i + 1);
        }
    }
    (0, 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_written_is_read() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            super::write(n, &mut bytes);
            let len = bytes.len();
            assert_eq!(super::read(&bytes[..len - 1]).1, 0);
            bytes.push(0xff);
            assert_eq!(super::read(&bytes), (n, len));
        }
        assert_eq!(super::read(&[0x80; 20]).1, 0);
    }
}
