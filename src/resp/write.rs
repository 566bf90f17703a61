//! Appends RESP commands to blocks and hands full blocks on.
//!
//! A block is a buffer that stays initialised from one use to the next, so that short pieces are stored
//! with fixed-size copies and a position instead of being pushed. Large values are never copied: a piece of
//! the mapped input goes on as it is.

use bytes::Bytes;

use crate::encoding::{Element, decimal_len};
use crate::error::Result;

/// What is handed on: a filled buffer, or a piece of the input.
#[derive(Debug)]
pub enum Block {
    /// The first `used` bytes of a buffer, which may be filled again afterwards.
    Owned {
        /// The buffer.
        buffer: Vec<u8>,
        /// Bytes in use.
        used: usize,
    },
    /// Bytes of the mapped input.
    Shared(Bytes),
}

impl Block {
    /// The bytes to write.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Block::Owned { buffer, used } => &buffer[..*used],
            Block::Shared(bytes) => bytes,
        }
    }
}

/// Takes full blocks and gives buffers to fill.
pub trait Blocks {
    /// Hands a block on; blocks while too many are waiting. `db`: the database that must be selected
    /// before the first key of the task. Errors: the run is over.
    fn hand_on(&mut self, block: Block, db: Option<u64>) -> Result<()>;
    /// An initialised buffer of at least a block's size.
    fn buffer(&mut self) -> Vec<u8>;
    /// Takes back a buffer that was not needed.
    fn recycle(&mut self, _buffer: Vec<u8>) {}
}

/// A place in the present block.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    pos: usize,
    commands: u64,
}

/// Appends a command to bytes that are no block.
pub fn append_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    let mut digits = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(digits.format(args.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for arg in args {
        append_bulk(out, arg);
    }
}

/// Appends a bulk string to bytes that are no block.
pub fn append_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut digits = itoa::Buffer::new();
    out.push(b'$');
    out.extend_from_slice(digits.format(bytes.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Values from this size on are not copied together with others.
pub const LARGE: usize = 64 << 10;

/// Appends commands.
pub struct Out<'a> {
    buffer: Vec<u8>,
    pos: usize,
    /// Position behind the last command that was ended.
    whole: usize,
    block_bytes: usize,
    input: Bytes,
    blocks: &'a mut dyn Blocks,
    /// Commands ended so far.
    pub commands: u64,
    /// Whether bytes were handed on since this was last set to `false`.
    pub handed_on: bool,
    /// Database that must be selected before the first key; the SELECT itself is the writer's, who
    /// knows which one came last.
    pub first_db: Option<u64>,
}

/// `$n\r\n` for every n that takes three digits at most, and its length.
static HEADS: [([u8; 8], u8); 1000] = heads();

const fn heads() -> [([u8; 8], u8); 1000] {
    let mut table = [([0; 8], 0); 1000];
    let mut n = 0;
    while n < 1000 {
        let mut head = [b'$', 0, 0, 0, 0, 0, 0, 0];
        let mut len = 1;
        if n >= 100 {
            head[len] = b'0' + (n / 100) as u8;
            len += 1;
        }
        if n >= 10 {
            head[len] = b'0' + (n / 10 % 10) as u8;
            len += 1;
        }
        head[len] = b'0' + (n % 10) as u8;
        head[len + 1] = b'\r';
        head[len + 2] = b'\n';
        table[n] = (head, len as u8 + 3);
        n += 1;
    }
    table
}

/// Copies short strings, by far the most, without a call: two stores that overlap in the middle.
#[inline(always)]
fn copy(to: &mut [u8], from: &[u8]) {
    #[inline(always)]
    fn ends<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(a), Some(b)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            let (a, b) = (*a, *b);
            if let Some(to) = to.first_chunk_mut::<N>() {
                *to = a;
            }
            if let Some(to) = to.last_chunk_mut::<N>() {
                *to = b;
            }
        }
    }
    match from.len() {
        0 => {}
        1 => to[0] = from[0],
        2..=3 => ends::<2>(to, from),
        4..=7 => ends::<4>(to, from),
        8..=15 => ends::<8>(to, from),
        16..=32 => ends::<16>(to, from),
        33..=64 => ends::<32>(to, from),
        _ => to.copy_from_slice(from),
    }
}

impl<'a> Out<'a> {
    /// `input`: the mapped bytes, of which large pieces are handed on uncopied.
    pub fn new(block_bytes: usize, input: Bytes, blocks: &'a mut dyn Blocks) -> Self {
        let buffer = blocks.buffer();
        Out {
            buffer,
            pos: 0,
            whole: 0,
            block_bytes,
            input,
            blocks,
            commands: 0,
            handed_on: false,
            first_db: None,
        }
    }

    /// Position in the present block.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// The present place, to come back to.
    pub fn mark(&self) -> Mark {
        Mark {
            pos: self.pos,
            commands: self.commands,
        }
    }

    /// Takes back what was appended since `mark`, which must have been taken since `handed_on` was last set to
    /// `false`; `false` where some of it was handed on already.
    pub fn take_back(&mut self, mark: Mark) -> bool {
        if !self.handed_on {
            self.pos = mark.pos;
            self.whole = mark.pos;
            self.commands = mark.commands;
        }
        !self.handed_on
    }

    /// Takes back a command that was begun and not ended.
    pub fn drop_unfinished(&mut self) {
        self.pos = self.whole;
    }

    /// Bytes of the present block from `from` on.
    pub fn since(&self, from: usize) -> &[u8] {
        &self.buffer[from..self.pos]
    }

    #[inline(always)]
    fn room(&mut self, n: usize) {
        if self.buffer.len() - self.pos < n {
            self.grow(n);
        }
    }

    #[cold]
    fn grow(&mut self, n: usize) {
        self.buffer.resize((self.pos + n).next_power_of_two(), 0);
    }

    /// Appends bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.room(bytes.len());
        copy(&mut self.buffer[self.pos..self.pos + bytes.len()], bytes);
        self.pos += bytes.len();
    }

    /// Appends `*n\r\n`.
    #[inline]
    pub fn array(&mut self, n: u64) {
        self.head(b'*', n);
    }

    #[inline]
    fn head(&mut self, mark: u8, n: u64) {
        self.room(32);
        let to = &mut self.buffer[self.pos..self.pos + 32];
        if n < 1000 {
            let (head, len) = HEADS[n as usize];
            to[..8].copy_from_slice(&head);
            to[0] = mark;
            self.pos += usize::from(len);
        } else {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(n).as_bytes();
            to[0] = mark;
            to[1..1 + digits.len()].copy_from_slice(digits);
            to[1 + digits.len()..3 + digits.len()].copy_from_slice(b"\r\n");
            self.pos += 3 + digits.len();
        }
    }

    /// Appends a bulk string that is known to be short.
    #[inline(always)]
    pub fn bulk(&mut self, bytes: &[u8]) {
        let n = bytes.len();
        if n >= 1000 {
            return self.bulk_long(bytes);
        }
        // One check of the room, then stores whose places are known to be inside it.
        self.room(n + 16);
        let to = &mut self.buffer[self.pos..self.pos + n + 16];
        let (head, head_len) = HEADS[n];
        let head_len = usize::from(head_len);
        to[..8].copy_from_slice(&head);
        copy(&mut to[head_len..head_len + n], bytes);
        to[head_len + n..head_len + n + 2].copy_from_slice(b"\r\n");
        self.pos += head_len + n + 2;
    }

    #[inline(never)]
    fn bulk_long(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as u64);
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// Writes SET of a key and a value that are known to be short.
    #[inline]
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.room(13);
        self.buffer[self.pos..self.pos + 13].copy_from_slice(b"*3\r\n$3\r\nSET\r\n");
        self.pos += 13;
        self.bulk(key);
        self.bulk(value);
        self.end()
    }

    /// Appends an integer as a bulk string.
    #[inline(always)]
    pub fn bulk_int(&mut self, n: i64) {
        self.room(32);
        let to = &mut self.buffer[self.pos..self.pos + 32];
        if (0..1000).contains(&n) {
            // The table's `$n\r\n` is also the integer's text and line end, behind its first byte.
            let (text, len) = HEADS[n as usize];
            let digits = len - 3;
            to[3..11].copy_from_slice(&text);
            to[..4].copy_from_slice(&[b'$', b'0' + digits, b'\r', b'\n']);
            self.pos += 6 + usize::from(digits);
        } else {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(n).as_bytes();
            let (head, head_len) = HEADS[digits.len()];
            let end = usize::from(head_len) + digits.len();
            to[..8].copy_from_slice(&head);
            copy(&mut to[usize::from(head_len)..end], digits);
            to[end..end + 2].copy_from_slice(b"\r\n");
            self.pos += end + 2;
        }
    }

    /// Appends an element as a bulk string that is known to be short.
    #[inline]
    pub fn bulk_element(&mut self, element: Element<'_>) {
        match element {
            Element::Bytes(bytes) => self.bulk(bytes),
            Element::Int(n) => self.bulk_int(n),
        }
    }

    /// Appends a double as a bulk string that reads back bit-equal.
    #[inline]
    pub fn bulk_double(&mut self, value: f64) {
        let mut buffer = DoubleBuffer::new();
        self.bulk(buffer.format(value));
    }

    /// Appends a bulk string of any size. Must not be used inside what is patched later.
    #[inline(always)]
    pub fn bulk_any(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() < LARGE {
            self.bulk(bytes);
            return Ok(());
        }
        self.head(b'$', bytes.len() as u64);
        self.large(bytes)?;
        self.raw(b"\r\n");
        Ok(())
    }

    /// Appends an element of any size.
    #[inline(always)]
    pub fn bulk_element_any(&mut self, element: Element<'_>) -> Result<()> {
        match element {
            Element::Bytes(bytes) => self.bulk_any(bytes),
            Element::Int(n) => {
                self.bulk_int(n);
                Ok(())
            }
        }
    }

    /// Appends `$n\r\n` alone; the n bytes and the line end are the caller's.
    pub fn bulk_head(&mut self, n: u64) {
        self.head(b'$', n);
    }

    /// Appends bytes of any size as they are, uncopied where they are part of the input.
    pub fn large(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() < LARGE {
            self.raw(bytes);
            return Ok(());
        }
        let (inside, of) = (bytes.as_ptr_range(), self.input.as_ptr_range());
        if of.start <= inside.start && inside.end <= of.end {
            let shared = self.input.slice_ref(bytes);
            self.flush()?;
            self.handed_on = true;
            return self.blocks.hand_on(Block::Shared(shared), self.first_db);
        }
        for piece in bytes.chunks(self.block_bytes) {
            self.raw(piece);
            if self.pos >= self.block_bytes {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends a command; a full block is handed on.
    #[inline]
    pub fn end(&mut self) -> Result<()> {
        self.end_in_block();
        if self.pos >= self.block_bytes {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Ends a command that must stay in the present block for now.
    #[inline]
    pub fn end_in_block(&mut self) {
        self.commands += 1;
        self.whole = self.pos;
    }

    /// Appends a line that is no command: where in a log the commands behind it stand, and which database and time that
    /// has there. For who takes the blocks apart again.
    pub fn place(&mut self, offset: u64, db: u64, time_ms: Option<i64>) {
        let mut digits = itoa::Buffer::new();
        self.raw(b"#AT:");
        self.raw(digits.format(offset).as_bytes());
        self.raw(b":");
        self.raw(digits.format(db).as_bytes());
        if let Some(time_ms) = time_ms {
            self.raw(b":");
            self.raw(digits.format(time_ms).as_bytes());
        }
        self.raw(b"\r\n");
        self.whole = self.pos;
    }

    /// Appends the line by which a log tells the time, in Unix seconds.
    pub fn annotation(&mut self, secs: i64) {
        let mut digits = itoa::Buffer::new();
        self.raw(b"#TS:");
        self.raw(digits.format(secs).as_bytes());
        self.raw(b"\r\n");
        self.whole = self.pos;
    }

    /// Whether the present block has its size.
    pub fn is_full(&self) -> bool {
        self.pos >= self.block_bytes
    }

    /// Hands the present block on.
    pub fn flush(&mut self) -> Result<()> {
        if self.pos == 0 {
            return Ok(());
        }
        let next = self.blocks.buffer();
        let buffer = std::mem::replace(&mut self.buffer, next);
        let used = std::mem::take(&mut self.pos);
        self.whole = 0;
        self.handed_on = true;
        self.blocks
            .hand_on(Block::Owned { buffer, used }, self.first_db)
    }

    /// Gives the buffer back; for the end of a task.
    pub fn recycle(mut self) {
        self.blocks.recycle(std::mem::take(&mut self.buffer));
    }

    /// Writes a command of arguments that are at hand.
    pub fn command(&mut self, args: &[&[u8]]) -> Result<()> {
        self.array(args.len() as u64);
        for arg in args {
            self.bulk_any(arg)?;
        }
        self.end()
    }

    /// Puts `*argc\r\n` at `start`, where `reserved` digits were left for it.
    fn patch_array(&mut self, start: usize, reserved: usize, argc: u64) {
        let digits = decimal_len(argc as i64);
        if digits < reserved {
            // Fewer arguments came than were expected.
            let moved = reserved - digits;
            self.buffer
                .copy_within(start + 1 + reserved..self.pos, start + 1 + digits);
            self.pos -= moved;
        }
        let mut text = itoa::Buffer::new();
        self.buffer[start + 1..start + 1 + digits].copy_from_slice(text.format(argc).as_bytes());
    }
}

/// Commands of one verb and key that take many elements: cut by number and by bytes.
pub struct Chunks<'k> {
    verb: &'static str,
    key: &'k [u8],
    per_element: u64,
    max_elements: u64,
    max_bytes: usize,
    expected: u64,
    start: usize,
    reserved: usize,
    elements: u64,
    /// Elements written in all.
    pub total: u64,
}

impl<'k> Chunks<'k> {
    /// `per_element`: arguments that make up an element: 1 for RPUSH, 2 for HSET. `expected`: number of
    /// elements to come, as far as it is known.
    pub fn new(
        verb: &'static str,
        key: &'k [u8],
        per_element: u64,
        limits: (u64, usize),
        expected: u64,
    ) -> Self {
        let (max_elements, max_bytes) = limits;
        Chunks {
            verb,
            key,
            per_element,
            max_elements,
            max_bytes,
            expected,
            start: 0,
            reserved: 0,
            elements: 0,
            total: 0,
        }
    }

    /// Appends an element, whose `size` bytes decide how it is written, by `write`, which must append
    /// exactly the element's arguments with the short forms, or by `write_any`, with those of any size.
    #[inline(always)]
    pub fn push(
        &mut self,
        out: &mut Out<'_>,
        size: usize,
        write: impl FnOnce(&mut Out<'_>) -> Result<()>,
    ) -> Result<()> {
        let alone = size >= LARGE || size >= self.max_bytes || self.key.len() >= LARGE;
        if alone {
            self.close(out)?;
            out.array(2 + self.per_element);
            out.bulk(self.verb.as_bytes());
            out.bulk_any(self.key)?;
            write(out)?;
            self.total += 1;
            return out.end();
        }
        if self.elements == 0 {
            self.begin(out);
        }
        write(out)?;
        self.elements += 1;
        self.total += 1;
        if self.elements == self.max_elements || out.pos - self.start >= self.max_bytes {
            self.close(out)?;
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut Out<'_>) {
        self.start = out.pos;
        let left = self.expected.saturating_sub(self.total);
        let elements = if left == 0 {
            self.max_elements
        } else {
            left.min(self.max_elements)
        };
        let argc = 2 + elements * self.per_element;
        self.reserved = decimal_len(argc as i64);
        out.array(argc);
        out.bulk(self.verb.as_bytes());
        out.bulk(self.key);
    }

    /// Ends the command that is open, if one is.
    #[inline]
    pub fn close(&mut self, out: &mut Out<'_>) -> Result<()> {
        if self.elements == 0 {
            return Ok(());
        }
        out.patch_array(
            self.start,
            self.reserved,
            2 + self.elements * self.per_element,
        );
        self.elements = 0;
        out.end()
    }
}

/// Prints doubles so that they read back bit-equal, in the shortest text, the way Redis writes them:
/// 3.0 is `3`, infinities are `inf` and `-inf`.
pub struct DoubleBuffer {
    digits: itoa::Buffer,
    text: zmij::Buffer,
}

impl DoubleBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        DoubleBuffer {
            digits: itoa::Buffer::new(),
            text: zmij::Buffer::new(),
        }
    }

    /// The text of a number that is not NaN.
    #[inline]
    pub fn format(&mut self, value: f64) -> &[u8] {
        // Integers of this size are exact, and far quicker to print as such.
        const EXACT: f64 = (1u64 << 52) as f64;
        let whole = value as i64;
        if whole as f64 == value && value.abs() < EXACT && (whole != 0 || value.is_sign_positive())
        {
            return self.digits.format(whole).as_bytes();
        }
        if value.is_infinite() {
            return if value > 0.0 { b"inf" } else { b"-inf" };
        }
        let text = self.text.format_finite(value);
        text.strip_suffix(".0").unwrap_or(text).as_bytes()
    }
}

impl Default for DoubleBuffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Collect(Vec<Vec<u8>>);

    impl Blocks for Collect {
        fn hand_on(&mut self, block: Block, _: Option<u64>) -> Result<()> {
            self.0.push(block.bytes().to_vec());
            Ok(())
        }
        fn buffer(&mut self) -> Vec<u8> {
            vec![0; 64]
        }
    }

    fn written(block_bytes: usize, f: impl FnOnce(&mut Out<'_>)) -> String {
        let mut blocks = Collect::default();
        let mut out = Out::new(block_bytes, Bytes::new(), &mut blocks);
        f(&mut out);
        out.flush().unwrap();
        drop(out);
        String::from_utf8(blocks.0.concat()).unwrap()
    }

    #[test]
    fn bulks() {
        let text = written(1 << 20, |out| {
            out.array(3);
            out.bulk(b"");
            out.bulk(&[b'x'; 1000]);
            for n in [0, 7, 42, 999, 1000, -1, i64::MIN] {
                out.bulk_int(n);
            }
        });
        let long = "x".repeat(1000);
        assert_eq!(
            text,
            format!(
                "*3\r\n$0\r\n\r\n$1000\r\n{long}\r\n$1\r\n0\r\n$1\r\n7\r\n$2\r\n42\r\n$3\r\n999\r\n$4\r\n1000\r\n$2\r\n-1\r\n$20\r\n-9223372036854775808\r\n"
            )
        );
    }

    #[test]
    fn doubles_read_back() {
        let mut buffer = DoubleBuffer::new();
        for (value, text) in [
            (3.0, "3"),
            (-0.0, "-0"),
            (0.0, "0"),
            (0.1, "0.1"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (1e17, "100000000000000000"),
        ] {
            let printed = buffer.format(value);
            if value.is_finite() {
                let back: f64 = std::str::from_utf8(printed).unwrap().parse().unwrap();
                assert_eq!(back.to_bits(), value.to_bits());
            }
            if value != 1e17 {
                assert_eq!(printed, text.as_bytes());
            }
        }
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let value = f64::from_bits(state);
            if value.is_finite() {
                let back: f64 = std::str::from_utf8(buffer.format(value))
                    .unwrap()
                    .parse()
                    .unwrap();
                assert_eq!(back.to_bits(), value.to_bits());
            }
        }
    }

    #[test]
    fn chunks_by_number_and_bytes() {
        let push = |expected: u64, limits, n: usize| {
            written(1 << 20, |out| {
                let mut chunks = Chunks::new("SADD", b"k", 1, limits, expected);
                for _ in 0..n {
                    chunks
                        .push(out, 1, |out| {
                            out.bulk(b"m");
                            Ok(())
                        })
                        .unwrap();
                }
                chunks.close(out).unwrap();
            })
        };
        let command = |n: usize| {
            format!(
                "*{}\r\n$4\r\nSADD\r\n$1\r\nk\r\n{}",
                n + 2,
                "$1\r\nm\r\n".repeat(n)
            )
        };
        assert_eq!(push(5, (3, 1000), 5), command(3) + &command(2));
        assert_eq!(push(0, (500, 1000), 2), command(2));
        // Expected more, so fewer digits are needed than were left.
        assert_eq!(push(2000, (2000, 1 << 20), 3), command(3));
        assert_eq!(push(5, (500, 30), 4), command(2) + &command(2));
    }

    #[test]
    fn large_values_stand_alone_and_whole() {
        let large = vec![b'v'; LARGE + 5];
        let text = written(100, |out| {
            let mut chunks = Chunks::new("RPUSH", b"k", 1, (10, 1 << 20), 3);
            for value in [&b"a"[..], &large, b"b"] {
                chunks
                    .push(out, value.len(), |out| out.bulk_any(value))
                    .unwrap();
            }
            chunks.close(out).unwrap();
        });
        let one = |v: &str| format!("*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n${}\r\n{v}\r\n", v.len());
        assert_eq!(
            text,
            one("a") + &one(std::str::from_utf8(&large).unwrap()) + &one("b")
        );
    }
}
