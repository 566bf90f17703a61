//! Byte forms: lengths, strings, packed containers, checksums. They know nothing of files, keys or
//! types.

pub mod crc64;
pub mod intset;
pub mod length;
pub mod listpack;
pub mod lzf;
pub mod string;
pub mod ziplist;
pub mod zipmap;

/// One element of a value: bytes as they stand, or an integer that stands for its decimal text. It
/// becomes text once, when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element<'a> {
    /// Bytes, any.
    Bytes(&'a [u8]),
    /// An integer, to be written as canonical decimal.
    Int(i64),
}

impl<'a> Element<'a> {
    /// The bytes a client would see; integers are printed into `buffer`.
    pub fn as_bytes<'b>(self, buffer: &'b mut itoa::Buffer) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Element::Bytes(bytes) => bytes,
            Element::Int(n) => buffer.format(n).as_bytes(),
        }
    }

    /// Number of bytes of the text form.
    #[inline]
    pub fn len(self) -> usize {
        match self {
            Element::Bytes(bytes) => bytes.len(),
            Element::Int(n) => decimal_len(n),
        }
    }

    /// Whether the text form has no bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Number of characters of an integer's decimal text.
#[inline]
pub fn decimal_len(n: i64) -> usize {
    n.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1 + usize::from(n < 0)
}
