//! LZF, the compression of strings inside RDB files and RESTORE payloads (FORMAT §2.3).
//!
//! A block is a row of tokens without header or end marker: literal runs of 1–32 bytes, and matches
//! that repeat 3–264 bytes from at most 8192 bytes back. All Redis versions write the same form.
//!
//! Real values give short tokens (literals of 4 bytes, matches of 9), so the time goes into
//! branches that the processor cannot predict, not into bytes. The decoder therefore has few of
//! them: a step is a literal run (perhaps of no bytes) and the match behind it, each copied as
//! whole chunks, of which only the announced bytes count and the rest is overwritten by the next
//! step. That takes spare room behind the output, [`SLACK`], and behind the input, for which the
//! last bytes are moved to a padded buffer. What is wrong with a broken block is found by a second,
//! slow walk. Figures: `benches/encoding.rs`, `lzf`.

/// Spare room behind the output, in bytes, on which [`decompress`] scribbles.
pub const SLACK: usize = 64;

/// The bytes a step reads at most: a literal run of 32 with its control byte, and four bytes of a
/// match, of which three at most are its own (they are loaded as one word).
const STEP: usize = 1 + 32 + 4;

/// The size of the chunks in which matches are copied.
const CHUNK: usize = 16;

/// The most bytes one step appends: the longest literal run and the longest match.
const STEP_OUTPUT: usize = 32 + 264;

/// How far back a match may reach.
const MAX_DISTANCE: usize = 8192;

/// How much [`decompress_pieces`] gathers before it hands a piece over.
const PIECE: usize = 32 << 10;

/// What is wrong with a compressed block, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why} at byte {at} of the block")]
pub struct Broken {
    /// The offset in the block of the token that is wrong, or the size of the block if its end came
    /// too early.
    pub at: usize,
    /// What is wrong there.
    pub why: Why,
}

/// The ways in which a compressed block can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// A literal run announces more bytes than the block has left.
    #[error("literal run runs past the end")]
    LiteralPastEnd,
    /// A match lacks its length or distance byte.
    #[error("match is cut off by the end")]
    MatchPastEnd,
    /// A match refers to bytes before the first one.
    #[error("distance reaches before the start of the output")]
    DistanceTooFar,
    /// The tokens give more bytes than the length that stands before the block.
    #[error("output is longer than announced")]
    OutputTooLong,
    /// The tokens give fewer bytes than the length that stands before the block.
    #[error("output is shorter than announced")]
    OutputTooShort,
}

/// The most bytes that a block of `compressed` bytes can honestly give (FORMAT §2.3).
///
/// An announced length above it is a lie, and must be refused before memory is taken for it.
pub const fn max_len(compressed: usize) -> u64 {
    // A match of three bytes gives 264, which is 88 for each.
    (compressed as u64).saturating_mul(88).saturating_add(264)
}

/// Decompresses `input` into `out[..len]`, and scribbles on the [`SLACK`] bytes behind.
///
/// # Errors
///
/// [`Broken`], if the block is not exactly `len` bytes compressed. What `out` holds then means
/// nothing.
///
/// # Panics
///
/// If `out` is shorter than `len + SLACK`.
pub fn decompress(input: &[u8], out: &mut [u8], len: usize) -> Result<(), Broken> {
    let out = &mut out[..len + SLACK];
    let mut at = Position::default();
    if run_body(input, out, len, &mut at) && run_tail(input, out, len, &mut at) && at.output == len
    {
        Ok(())
    } else {
        Err(diagnose(input, len as u64))
    }
}

/// Decompresses a block that gives `len` bytes within some tens of KiB of memory, and hands the
/// output to `write` piece by piece, in order. It is for values too large to stand in memory as a
/// whole.
///
/// # Errors
///
/// [`Broken`], if the block is not exactly `len` bytes compressed; pieces may have been written by
/// then, but never more than `len` bytes. Whatever `write` returns ends the walk.
pub fn decompress_pieces<E: From<Broken>>(
    input: &[u8],
    len: u64,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    const LIMIT: usize = MAX_DISTANCE + PIECE;
    let mut window = vec![0; LIMIT + STEP_OUTPUT + SLACK];
    let mut at = Position::default();
    let mut written = 0; // the bytes of the window that were handed over; they stay for matches to refer to
    let mut left = len;
    loop {
        let whole = run_body(input, &mut window, LIMIT, &mut at)
            && run_tail(input, &mut window, LIMIT, &mut at);
        let piece = &window[written..at.output];
        if !whole || piece.len() as u64 > left {
            return Err(diagnose(input, len).into());
        }
        left -= piece.len() as u64;
        if !piece.is_empty() {
            write(piece)?;
        }
        if at.input == input.len() {
            break;
        }
        window.copy_within(at.output - MAX_DISTANCE..at.output, 0);
        at.output = MAX_DISTANCE;
        written = MAX_DISTANCE;
    }
    if left > 0 {
        return Err(diagnose(input, len).into());
    }
    Ok(())
}

/// How far the decoder has come in the block and in the output.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    input: usize,
    output: usize,
}

/// Takes steps while a whole one is left in the input and the output is not above `limit`. Answers
/// whether all was well.
fn run_body(input: &[u8], out: &mut [u8], limit: usize, at: &mut Position) -> bool {
    let mut now = *at;
    let mut well = true;
    while let Some(bytes) = input[now.input..].first_chunk::<STEP>() {
        if now.output > limit {
            break;
        }
        if !step(bytes, out, &mut now) {
            well = false;
            break;
        }
    }
    *at = now;
    well
}

/// Takes the steps that are left when less than a whole one is, through a buffer with zeros behind.
/// Answers whether all was well.
fn run_tail(input: &[u8], out: &mut [u8], limit: usize, at: &mut Position) -> bool {
    let rest = &input[at.input..];
    if rest.len() >= STEP {
        // The body stopped at the limit of the output.
        return true;
    }
    let mut padded = [0; 2 * STEP];
    padded[..rest.len()].copy_from_slice(rest);
    let mut now = Position {
        input: 0,
        output: at.output,
    };
    while now.input < rest.len() && now.output <= limit {
        let Some(bytes) = padded[now.input..].first_chunk::<STEP>() else {
            return false;
        };
        if !step(bytes, out, &mut now) {
            return false;
        }
    }
    at.input += now.input;
    at.output = now.output;
    // The padding is a literal to the decoder, so it can be stepped into, but then the block was
    // cut off.
    now.input <= rest.len()
}

/// Copies a literal run, if there is one, and the match behind it, if there is one.
/// Answers whether the match refers to known bytes and fits.
#[inline(always)]
fn step(bytes: &[u8; STEP], out: &mut [u8], at: &mut Position) -> bool {
    let control = bytes[0] as usize;
    // Whether a literal run comes first is a coin toss, so it is not asked: a run of no bytes is
    // copied too.
    let literal = if control < 32 { control + 1 } else { 0 };
    let skip = if control < 32 { control + 2 } else { 0 };
    let mut output = at.output;
    copy_in::<16>(&bytes[1..17], &mut out[output..]);
    if literal > 16 {
        copy_in::<16>(&bytes[17..33], &mut out[output + 16..]);
    }
    output += literal;

    let word = u32::from_le_bytes([
        bytes[skip],
        bytes[skip + 1],
        bytes[skip + 2],
        bytes[skip + 3],
    ]) as usize;
    let control = word & 0xff;
    if control < 32 {
        // Another literal run, or the end.
        at.input += skip;
        at.output = output;
        return true;
    }
    // A length of 7 continues in a byte that stands before the distance.
    let long = control >= 0xe0;
    let len = if long {
        9 + (word >> 8 & 0xff)
    } else {
        (control >> 5) + 2
    };
    let low = if long {
        word >> 16 & 0xff
    } else {
        word >> 8 & 0xff
    };
    at.input += skip + if long { 3 } else { 2 };
    let distance = ((control & 0x1f) << 8) + low + 1;
    at.output = output + len;
    let Some(from) = output.checked_sub(distance) else {
        return false;
    };
    if distance >= CHUNK && len <= CHUNK {
        copy_chunk(out, from, output);
        true
    } else {
        copy_match(out, from, output, len)
    }
}

/// Copies a match that is long or overlaps itself. Answers whether it fits.
fn copy_match(out: &mut [u8], from: usize, mut to: usize, len: usize) -> bool {
    let end = to + len;
    if end + CHUNK > out.len() {
        return false;
    }
    // A match nearer than a chunk repeats a pattern. A chunk copied from it is right as far as the
    // pattern is known; then the pattern is known twice as far.
    while to - from < CHUNK && to < end {
        let distance = to - from;
        copy_chunk(out, from, to);
        to += distance;
    }
    let distance = to - from;
    while to < end {
        copy_chunk(out, to - distance, to);
        to += CHUNK;
    }
    true
}

#[inline(always)]
fn copy_chunk(out: &mut [u8], from: usize, to: usize) {
    let mut chunk = [0; CHUNK];
    chunk.copy_from_slice(&out[from..from + CHUNK]);
    out[to..to + CHUNK].copy_from_slice(&chunk);
}

#[inline(always)]
fn copy_in<const N: usize>(from: &[u8], to: &mut [u8]) {
    to[..N].copy_from_slice(&from[..N]);
}

/// Walks a block that was found broken token by token, and says what is wrong with it.
#[cold]
fn diagnose(input: &[u8], len: u64) -> Broken {
    let mut output = 0;
    let mut at = 0;
    while at < input.len() {
        let token = &input[at..];
        let control = token[0] as usize;
        let (taken, given, why) = if control < 32 {
            (control + 2, control + 1, Why::LiteralPastEnd)
        } else if control < 0xe0 {
            (2, (control >> 5) + 2, Why::MatchPastEnd)
        } else {
            (
                3,
                9 + token.get(1).copied().unwrap_or(0) as usize,
                Why::MatchPastEnd,
            )
        };
        if taken > token.len() {
            return Broken { at, why };
        }
        if control >= 32 && (control & 0x1f) as u64 * 256 + token[taken - 1] as u64 >= output {
            return Broken {
                at,
                why: Why::DistanceTooFar,
            };
        }
        output += given as u64;
        if output > len {
            return Broken {
                at,
                why: Why::OutputTooLong,
            };
        }
        at += taken;
    }
    Broken {
        at,
        why: Why::OutputTooShort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decompresses in both ways, which must agree, into a buffer filled with what must not matter.
    fn both(input: &[u8], len: usize) -> Result<Vec<u8>, Broken> {
        let mut out = vec![0xAA; len + SLACK + 3];
        let whole = decompress(input, &mut out, len).map(|()| out[..len].to_vec());
        assert_eq!(out[len + SLACK..], [0xAA; 3], "wrote behind the slack");

        let mut pieces = Vec::new();
        let outcome = decompress_pieces(input, len as u64, |piece| {
            assert!(!piece.is_empty());
            pieces.extend_from_slice(piece);
            Ok::<(), Broken>(())
        });
        assert!(pieces.len() <= len);
        assert_eq!(outcome.map(|()| pieces), whole);
        whole
    }

    #[track_caller]
    fn broken(input: &[u8], len: usize, at: usize, why: Why) {
        assert_eq!(both(input, len), Err(Broken { at, why }));
    }

    /// The decoder as FORMAT §2.3 words it, byte by byte. It judges what the `lzf` crate does not
    /// compress to.
    fn by_the_page(input: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut bytes = input.iter().map(|&byte| byte as usize);
        let mut out = Vec::new();
        while let Some(control) = bytes.next() {
            if control < 32 {
                for _ in 0..=control {
                    out.push(bytes.next()? as u8);
                }
            } else {
                let mut len = control >> 5;
                if len == 7 {
                    len += bytes.next()?;
                }
                let distance = ((control & 31) << 8) + bytes.next()? + 1;
                for _ in 0..len + 2 {
                    out.push(*out.get(out.len().checked_sub(distance)?)?);
                }
            }
        }
        (out.len() == len).then_some(out)
    }

    /// Numbers that look random and are the same in every run (xorshift).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % sides
        }

        /// Text of words, which compresses in about the way of real values.
        fn text(&mut self, len: usize) -> Vec<u8> {
            let words = 2 + self.roll(60);
            let mut text = Vec::new();
            while text.len() < len {
                let word = self.roll(words);
                text.extend(
                    (0..1 + word % 11).map(|letter| b'a' + (word * 7 + letter * 5) as u8 % 26),
                );
                if self.roll(3) == 0 {
                    text.extend_from_slice(self.roll(100_000).to_string().as_bytes());
                }
                if self.roll(40) == 0 {
                    let run = self.roll(700);
                    text.extend(std::iter::repeat_n(b'=', run));
                }
            }
            text.truncate(len);
            text
        }

        /// A whole block of tokens that no compressor would choose, and what it gives.
        fn block(&mut self, tokens: usize) -> (Vec<u8>, usize) {
            let (mut block, mut len) = (Vec::new(), 0);
            for _ in 0..tokens {
                if len == 0 || self.roll(3) == 0 {
                    let run = 1 + self.roll(32);
                    block.push(run as u8 - 1);
                    block.extend((0..run).map(|_| self.roll(256) as u8));
                    len += run;
                } else {
                    let reach = len.min([4, 20, 40, MAX_DISTANCE][self.roll(4)]);
                    let distance = self.roll(reach);
                    let long = self.roll(3) == 0;
                    let extra = self.roll(256);
                    let short = 1 + self.roll(6);
                    block.push((if long { 7 } else { short } as u8) << 5 | (distance >> 8) as u8);
                    if long {
                        block.push(extra as u8);
                    }
                    block.push(distance as u8);
                    len += if long { 9 + extra } else { short + 2 };
                }
            }
            (block, len)
        }
    }

    #[test]
    fn decompresses_the_example_of_the_format_page() {
        let block = [
            0x01, 0x79, 0x79, // a literal of 2: yy
            0xE0, 0x25, 0x00, // a match of 7 + 37 + 2 bytes, one byte back
            0x01, 0x79, 0x79, // a literal of 2
        ];
        assert_eq!(both(&block, 50), Ok(vec![b'y'; 50]));
    }

    #[test]
    fn nothing_is_a_block_of_nothing() {
        assert_eq!(both(&[], 0), Ok(Vec::new()));
    }

    #[test]
    fn matches_may_overlap_themselves() {
        for distance in 1..=40 {
            for len in 3..=264 {
                let seed = (0..40).collect::<Vec<u8>>();
                let mut block = [&[31][..], &seed[..32], &[7], &seed[32..]].concat();
                if len < 9 {
                    block.push((len as u8 - 2) << 5);
                } else {
                    block.extend([0xE0, (len - 9) as u8]);
                }
                block.push(distance as u8 - 1);
                let expected = (0..40 + len).map(|i| {
                    if i < 40 {
                        i
                    } else {
                        40 - distance + (i - 40) % distance
                    }
                });
                let expected = expected.map(|byte| byte as u8).collect();
                assert_eq!(
                    both(&block, 40 + len),
                    Ok(expected),
                    "distance {distance}, length {len}"
                );
            }
        }
    }

    #[test]
    fn reaches_as_far_back_as_the_form_can_say() {
        let mut block = Vec::new();
        let text = Dice(7).text(MAX_DISTANCE);
        for run in text.chunks(32) {
            block.push(31);
            block.extend_from_slice(run);
        }
        block.extend([0x3F, 0xFF]); // a match of 3 bytes, 8192 back: the first three
        let expected = [&text[..], &text[..3]].concat();
        assert_eq!(both(&block, MAX_DISTANCE + 3), Ok(expected));

        // One byte less before it, and it reaches too far.
        block[0] = 30;
        block.remove(1);
        broken(&block, MAX_DISTANCE + 2, 256 * 33 - 1, Why::DistanceTooFar);
    }

    #[test]
    fn a_literal_past_the_end_is_refused() {
        broken(&[0x00], 1, 0, Why::LiteralPastEnd);
        broken(&[0x02, b'a', b'b'], 3, 0, Why::LiteralPastEnd);
        broken(&[0x00, b'a', 0x1F, b'b'], 33, 2, Why::LiteralPastEnd);
    }

    #[test]
    fn a_match_without_its_operands_is_refused() {
        broken(&[0x00, b'a', 0x20], 4, 2, Why::MatchPastEnd);
        broken(&[0x00, b'a', 0xE0], 10, 2, Why::MatchPastEnd);
        broken(&[0x00, b'a', 0xE0, 0x00], 10, 2, Why::MatchPastEnd);
    }

    #[test]
    fn a_distance_before_the_start_is_refused() {
        broken(&[0x20, 0x00], 3, 0, Why::DistanceTooFar);
        broken(&[0x00, b'a', 0x20, 0x01], 4, 2, Why::DistanceTooFar);
        broken(&[0x00, b'a', 0xFF, 0x00, 0xFF], 10, 2, Why::DistanceTooFar);
    }

    #[test]
    fn a_wrong_announced_length_is_refused() {
        let block = [0x01, b'a', b'b', 0xE0, 0xFF, 0x00, 0x00, b'c'];
        assert_eq!(both(&block, 267).map(|out| out.len()), Ok(267));
        broken(&block, 0, 0, Why::OutputTooLong);
        broken(&block, 1, 0, Why::OutputTooLong);
        broken(&block, 2, 3, Why::OutputTooLong);
        broken(&block, 265, 3, Why::OutputTooLong);
        broken(&block, 266, 6, Why::OutputTooLong);
        broken(&block, 268, 8, Why::OutputTooShort);
        broken(&block, 100_000, 8, Why::OutputTooShort);
        broken(&[], 1, 0, Why::OutputTooShort);
    }

    #[test]
    fn agrees_with_the_lzf_crate() {
        let mut dice = Dice(0x1234_5678_9ABC_DEF1);
        for round in 0..3000 {
            let len = 1 + dice.roll(if round % 100 == 0 { 200_000 } else { 3000 });
            let text = dice.text(len);
            let Ok(block) = lzf::compress(&text) else {
                continue; // it did not get shorter
            };
            assert!(text.len() as u64 <= max_len(block.len()));
            assert_eq!(both(&block, text.len()).as_deref(), Ok(&text[..]));
            assert!(both(&block, text.len() - 1).is_err());
            assert!(both(&block, text.len() + 1).is_err());
        }
    }

    #[test]
    fn agrees_with_the_format_page_on_unusual_blocks() {
        let mut dice = Dice(0x0BAD_5EED);
        for round in 0..3000 {
            let tokens = dice.roll(if round % 100 == 0 { 3000 } else { 60 });
            let (block, len) = dice.block(tokens);
            let out = both(&block, len);
            assert_eq!(out.as_deref().ok(), by_the_page(&block, len).as_deref());
            assert!(out.is_ok());
        }
    }

    #[test]
    fn mutated_blocks_are_judged_as_the_format_page_does() {
        let mut dice = Dice(0xDEAD_BEEF);
        for _ in 0..20_000 {
            let tokens = 1 + dice.roll(30);
            let (mut block, mut len) = dice.block(tokens);
            for _ in 0..1 + dice.roll(3) {
                let at = dice.roll(block.len());
                match dice.roll(5) {
                    0 => block[at] = dice.roll(256) as u8,
                    1 => block[at] ^= 1 << dice.roll(8),
                    2 => block.truncate(at.max(1)),
                    3 => block.insert(at, dice.roll(256) as u8),
                    _ => len = (len + dice.roll(5)).saturating_sub(2),
                }
            }
            let out = both(&block, len);
            assert_eq!(out.as_deref().ok(), by_the_page(&block, len).as_deref());
            if let Err(broken) = out {
                assert!(broken.at <= block.len());
            }
        }
    }

    #[test]
    fn a_writer_that_fails_ends_the_walk() {
        #[derive(Debug, PartialEq)]
        struct Full;
        impl From<Broken> for Full {
            fn from(_: Broken) -> Self {
                panic!("the block is whole");
            }
        }
        let text = Dice(3).text(300_000);
        let block = lzf::compress(&text).unwrap();
        let mut pieces = 0;
        let outcome = decompress_pieces(&block, text.len() as u64, |_| {
            pieces += 1;
            if pieces == 2 { Err(Full) } else { Ok(()) }
        });
        assert_eq!((outcome, pieces), (Err(Full), 2));
    }

    #[test]
    fn the_bound_on_the_length_holds_and_does_not_overflow() {
        assert_eq!(max_len(0), 264);
        assert_eq!(max_len(9), 88 * 9 + 264);
        assert_eq!(max_len(usize::MAX), u64::MAX);
    }
}
