//! CRC-64/REDIS, the checksum of RDB files and of RESTORE payloads (FORMAT §5.1).
//!
//! Redis has written it at the end of its files since RDB 5. The work is done by `crc-fast` with
//! carry-less multiplication, which is ten times faster than tables, so that checking costs next to
//! nothing.

use crc_fast::CrcAlgorithm::Crc64Redis;

/// A checksum that grows as bytes arrive.
#[derive(Debug, Clone)]
pub struct Crc64(crc_fast::Digest);

impl Crc64 {
    /// The checksum of no bytes.
    pub fn new() -> Self {
        Crc64(crc_fast::Digest::new(Crc64Redis))
    }

    /// Appends bytes. How they are cut into pieces does not matter to the value, but tiny pieces
    /// are slow.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far. Files and payloads store it as a little-endian `u64`.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

/// The checksum of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Redis, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_check_value() {
        assert_eq!(crc64(b"123456789"), 0xE9C6_D914_C4B8_D9CA);
    }

    #[test]
    fn starts_at_zero() {
        assert_eq!(crc64(b""), 0);
        assert_eq!(Crc64::new().value(), 0);
        // Leading zeros leave it there, since the initial value is zero too.
        assert_eq!(crc64(&[0; 100]), 0);
    }

    #[test]
    fn agrees_with_the_crc64_crate_at_every_length_and_cut() {
        let bytes: Vec<u8> = (0..1024u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for len in 0..=bytes.len() {
            let bytes = &bytes[..len];
            let expected = crc64::crc64(0, bytes);
            assert_eq!(crc64(bytes), expected, "{len} bytes");
            // Every cut of short inputs, and some of long ones.
            for cut in (0..=len).step_by(1 + len / 64) {
                let mut crc = Crc64::new();
                crc.update(&bytes[..cut]);
                assert_eq!(crc.value(), crc64::crc64(0, &bytes[..cut]));
                crc.update(&bytes[cut..]);
                assert_eq!(crc.value(), expected, "{len} bytes, cut at {cut}");
            }
        }
    }

    #[test]
    fn agrees_with_the_crc64_crate_on_a_row_of_tiny_pieces() {
        let bytes: Vec<u8> = (0..100_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let mut crc = Crc64::new();
        let (mut rest, mut size) = (&bytes[..], 0);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(size % 300));
            crc.update(piece);
            (rest, size) = (behind, size + 7);
        }
        assert_eq!(crc.value(), crc64::crc64(0, &bytes));
        assert_eq!(crc64(&bytes), crc64::crc64(0, &bytes));
    }
}
