//! What a server answers.
//!
//! [`find`] tells where an answer ends and of which shape it is, which is all that most answers are asked for.
//! [`parse`] takes it apart. Both know RESP3 as well, although no server speaks it before it was asked to.

use memchr::memchr;

/// An answer, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A line such as `OK`.
    Status(Vec<u8>),
    /// An error, from its code on and without the `-`.
    Error(Vec<u8>),
    /// A number; a boolean of RESP3 is 0 or 1.
    Int(i64),
    /// Bytes; doubles and big numbers of RESP3 too, as they were sent.
    Bulk(Vec<u8>),
    /// Nothing: a null of whichever type.
    Nil,
    /// Several; sets and pushes of RESP3 too, and maps with each key before its value.
    Array(Vec<Reply>),
}

impl Reply {
    /// Whether it is `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Reply::Status(text) if text == b"OK")
    }

    /// The words of an error.
    pub fn error(&self) -> Option<&[u8]> {
        match self {
            Reply::Error(words) => Some(words),
            _ => None,
        }
    }

    /// The bytes of a string, a status or an error.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Reply::Status(bytes) | Reply::Error(bytes) | Reply::Bulk(bytes) => Some(bytes),
            Reply::Int(_) | Reply::Nil | Reply::Array(_) => None,
        }
    }

    /// A string or a status as text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Reply::Status(bytes) | Reply::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            Reply::Error(_) | Reply::Int(_) | Reply::Nil | Reply::Array(_) => None,
        }
    }

    /// A number, also one that was sent as digits.
    pub fn int(&self) -> Option<i64> {
        match self {
            Reply::Int(n) => Some(*n),
            other => other.text()?.parse().ok(),
        }
    }

    /// The elements.
    pub fn array(&self) -> Option<&[Reply]> {
        match self {
            Reply::Array(items) => Some(items),
            _ => None,
        }
    }
}

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// [`Reply::Status`].
    Status,
    /// [`Reply::Error`].
    Error,
    /// [`Reply::Int`].
    Int,
    /// [`Reply::Bulk`].
    Bulk,
    /// [`Reply::Nil`].
    Nil,
    /// [`Reply::Array`] of so many elements.
    Array(usize),
    /// A push of RESP3, which answers nothing.
    Other,
}

/// A whole answer at the start of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its bytes, the last line end included.
    pub len: usize,
    /// What kind of answer it is; of a nested one, the outermost.
    pub shape: Shape,
}

/// Bytes that are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {pos} of an answer")]
pub struct BadReply {
    /// Where, from the answer's first byte.
    pub pos: usize,
    /// What is wrong there.
    pub what: Wrong,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No answer begins with this byte.
    #[error("{} where a type belongs", shown(*.0))]
    Type(u8),
    /// This does not belong in a number.
    #[error("{} where a number belongs", shown(*.0))]
    Number(u8),
    /// A number that does not fit, or a length or count below -1.
    #[error("a number out of range")]
    Range,
    /// A line or a string without its CR LF.
    #[error("{} where a line ends", shown(*.0))]
    LineEnd(u8),
    /// A line longer than [`LINE_BYTES`].
    #[error("a line without an end")]
    LongLine,
    /// Arrays in arrays, more than [`DEPTH`] of them.
    #[error("an array nested too deeply")]
    Depth,
}

fn shown(byte: u8) -> String {
    match byte {
        b' '..=b'~' => format!("'{}'", byte as char),
        _ => format!("byte 0x{byte:02x}"),
    }
}

/// A status or an error is no longer. Scripts may make long ones; without a limit a peer that never ends its line
/// would be read forever.
pub const LINE_BYTES: usize = 1 << 20;

/// Arrays stand in arrays no deeper.
pub const DEPTH: usize = 16;

/// Bytes of a number and its line end: 19 digits, a sign, CR LF, and room for zeros.
const NUMBER_BYTES: usize = 32;

/// Finds the whole answer at the start of `window`; `None` if it goes on behind it. An answer that comes in many
/// pieces is better given to a [`Finder`].
#[inline]
pub fn find(window: &[u8]) -> Result<Option<Found>, BadReply> {
    // By far the most answers are these.
    match window {
        [b'+', b'O', b'K', b'\r', b'\n', ..] => Ok(Some(Found {
            len: 5,
            shape: Shape::Status,
        })),
        [b':', b'0'..=b'9', b'\r', b'\n', ..] => Ok(Some(Found {
            len: 4,
            shape: Shape::Int,
        })),
        _ => Finder::default().next(window),
    }
}

/// Takes the answer at the start of `window` apart; `None` if it goes on behind it. Also gives its bytes.
pub fn parse(window: &[u8]) -> Result<Option<(Reply, usize)>, BadReply> {
    // Nothing is built before all of it is there: it would be thrown away.
    match find(window)? {
        Some(_) => build(window, 0),
        None => Ok(None),
    }
}

/// Finds where an answer ends that may come piece by piece: each call goes on where the last one stood.
#[derive(Debug, Clone, Default)]
pub struct Finder {
    /// Where the next part begins.
    pos: usize,
    /// Elements still to come of each array that is open.
    left: [u64; DEPTH],
    depth: usize,
    shape: Option<Shape>,
}

impl Finder {
    /// Looks at the answer that begins with `window`, which holds all bytes of it that came until now. One that is
    /// found ends it: the next call is about the next answer.
    #[inline(never)]
    pub fn next(&mut self, window: &[u8]) -> Result<Option<Found>, BadReply> {
        loop {
            let Some((part, next)) = part(window, self.pos)? else {
                return Ok(None);
            };
            let shape = self.shape.unwrap_or(part.shape());
            match part {
                Part::Items { count, .. } if count > 0 => {
                    let left = self.left.get_mut(self.depth).ok_or(BadReply {
                        pos: self.pos,
                        what: Wrong::Depth,
                    })?;
                    *left = count;
                    self.depth += 1;
                }
                _ => {
                    // It may be the last of its array, and that of the one around it.
                    while let Some(outer) = self.depth.checked_sub(1) {
                        self.left[outer] -= 1;
                        if self.left[outer] > 0 {
                            break;
                        }
                        self.depth = outer;
                    }
                    if self.depth == 0 {
                        *self = Finder::default();
                        return Ok(Some(Found { len: next, shape }));
                    }
                }
            }
            self.shape = Some(shape);
            self.pos = next;
        }
    }
}

/// The recursion goes as deep as [`find`] let it.
fn build(window: &[u8], pos: usize) -> Result<Option<(Reply, usize)>, BadReply> {
    let Some((part, mut next)) = part(window, pos)? else {
        return Ok(None);
    };
    let reply = match part {
        Part::Status(text) => Reply::Status(text.to_vec()),
        Part::Error(words) => Reply::Error(words.to_vec()),
        Part::Int(n) => Reply::Int(n),
        Part::Bulk(bytes) => Reply::Bulk(bytes.to_vec()),
        Part::Nil => Reply::Nil,
        Part::Items { count, .. } => {
            let mut items = Vec::new();
            for _ in 0..count {
                let Some((item, end)) = build(window, next)? else {
                    return Ok(None);
                };
                items.push(item);
                next = end;
            }
            Reply::Array(items)
        }
    };
    Ok(Some((reply, next)))
}

/// An answer, or the head of an array.
enum Part<'a> {
    Status(&'a [u8]),
    Error(&'a [u8]),
    Int(i64),
    Bulk(&'a [u8]),
    Nil,
    Items { count: u64, push: bool },
}

impl Part<'_> {
    fn shape(&self) -> Shape {
        match self {
            Part::Status(_) => Shape::Status,
            Part::Error(_) => Shape::Error,
            Part::Int(_) => Shape::Int,
            Part::Bulk(_) => Shape::Bulk,
            Part::Nil => Shape::Nil,
            Part::Items { push: true, .. } => Shape::Other,
            Part::Items { count, .. } => {
                Shape::Array(usize::try_from(*count).unwrap_or(usize::MAX))
            }
        }
    }
}

/// Reads the part at `pos` and tells where the next one begins.
fn part(window: &[u8], pos: usize) -> Result<Option<(Part<'_>, usize)>, BadReply> {
    let Some(&kind) = window.get(pos) else {
        return Ok(None);
    };
    let start = pos + 1;
    match kind {
        b'+' | b'-' | b',' | b'(' => {
            let Some((text, next)) = line(window, start, LINE_BYTES)? else {
                return Ok(None);
            };
            let part = match kind {
                b'+' => Part::Status(text),
                b'-' => Part::Error(text),
                _ => Part::Bulk(text),
            };
            Ok(Some((part, next)))
        }
        b':' => Ok(number(window, start)?.map(|(n, next)| (Part::Int(n), next))),
        b'$' | b'=' | b'!' => {
            let Some((n, from)) = number(window, start)? else {
                return Ok(None);
            };
            let Some(len) = length(n, start)? else {
                return Ok(Some((Part::Nil, from)));
            };
            let range = || BadReply {
                pos: start,
                what: Wrong::Range,
            };
            let len = usize::try_from(len).map_err(|_| range())?;
            let end = from.checked_add(len).ok_or_else(range)?;
            match window.get(end..) {
                None | Some([] | [b'\r']) => return Ok(None),
                Some([b'\r', b'\n', ..]) => {}
                Some([b'\r', other, ..]) => return Err(line_end(end + 1, *other)),
                Some([other, ..]) => return Err(line_end(end, *other)),
            }
            let bytes = &window[from..end];
            let part = match kind {
                b'!' => Part::Error(bytes),
                // What precedes the text tells its format: `txt:`, `mkd:`.
                b'=' if bytes.get(3) == Some(&b':') => Part::Bulk(&bytes[4..]),
                _ => Part::Bulk(bytes),
            };
            Ok(Some((part, end + 2)))
        }
        b'*' | b'%' | b'~' | b'>' => {
            let Some((n, next)) = number(window, start)? else {
                return Ok(None);
            };
            let part = match length(n, start)? {
                None => Part::Nil,
                Some(count) => Part::Items {
                    // The largest number there is, doubled, still fits.
                    count: if kind == b'%' { 2 * count } else { count },
                    push: kind == b'>',
                },
            };
            Ok(Some((part, next)))
        }
        b'_' => match line(window, start, NUMBER_BYTES)? {
            None => Ok(None),
            Some(([], next)) => Ok(Some((Part::Nil, next))),
            Some(([other, ..], _)) => Err(line_end(start, *other)),
        },
        b'#' => match line(window, start, NUMBER_BYTES)? {
            None => Ok(None),
            Some((b"t", next)) => Ok(Some((Part::Int(1), next))),
            Some((b"f", next)) => Ok(Some((Part::Int(0), next))),
            Some((text, _)) => Err(BadReply {
                pos: start,
                what: Wrong::Number(text.first().copied().unwrap_or(b'\r')),
            }),
        },
        other => Err(BadReply {
            pos,
            what: Wrong::Type(other),
        }),
    }
}

/// A length or count: -1 is a null, and nothing else below zero is anything.
fn length(n: i64, pos: usize) -> Result<Option<u64>, BadReply> {
    match n {
        -1 => Ok(None),
        n => u64::try_from(n).map(Some).map_err(|_| BadReply {
            pos,
            what: Wrong::Range,
        }),
    }
}

/// A number and where its line ends.
fn number(window: &[u8], pos: usize) -> Result<Option<(i64, usize)>, BadReply> {
    let Some((text, next)) = line(window, pos, NUMBER_BYTES)? else {
        return Ok(None);
    };
    let digits = match text {
        [b'-' | b'+', digits @ ..] => digits,
        digits => digits,
    };
    let first = pos + text.len() - digits.len();
    if digits.is_empty() {
        return Err(BadReply {
            pos: first,
            what: Wrong::Number(b'\r'),
        });
    }
    let negative = text[0] == b'-';
    let mut value = 0i64;
    for (i, &digit) in digits.iter().enumerate() {
        let bad = |what| BadReply {
            pos: first + i,
            what,
        };
        if !digit.is_ascii_digit() {
            return Err(bad(Wrong::Number(digit)));
        }
        let digit = i64::from(digit - b'0');
        // Below zero there is one number more, so negative ones are counted downwards.
        value = value
            .checked_mul(10)
            .and_then(|n| {
                if negative {
                    n.checked_sub(digit)
                } else {
                    n.checked_add(digit)
                }
            })
            .ok_or_else(|| bad(Wrong::Range))?;
    }
    Ok(Some((value, next)))
}

/// A line without its end, and where the next one begins.
fn line(window: &[u8], pos: usize, most: usize) -> Result<Option<(&[u8], usize)>, BadReply> {
    let rest = &window[pos..];
    let rest = &rest[..rest.len().min(most)];
    match memchr(b'\n', rest) {
        Some(end) => match rest[..end] {
            [.., b'\r'] => Ok(Some((&rest[..end - 1], pos + end + 1))),
            _ => Err(line_end(pos + end, b'\n')),
        },
        None if rest.len() == most => Err(BadReply {
            pos,
            what: Wrong::LongLine,
        }),
        None => Ok(None),
    }
}

#[cold]
fn line_end(pos: usize, byte: u8) -> BadReply {
    BadReply {
        pos,
        what: Wrong::LineEnd(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.into())
    }

    fn examples() -> Vec<(&'static [u8], Shape, Reply)> {
        vec![
            (b"+OK\r\n", Shape::Status, Reply::Status("OK".into())),
            (b"+\r\n", Shape::Status, Reply::Status("".into())),
            (b"-ERR no\r\n", Shape::Error, Reply::Error("ERR no".into())),
            (b":1\r\n", Shape::Int, Reply::Int(1)),
            (
                b":-9223372036854775808\r\n",
                Shape::Int,
                Reply::Int(i64::MIN),
            ),
            (
                b":9223372036854775807\r\n",
                Shape::Int,
                Reply::Int(i64::MAX),
            ),
            (b"$-1\r\n", Shape::Nil, Reply::Nil),
            (b"$0\r\n\r\n", Shape::Bulk, bulk("")),
            (b"$4\r\na\r\nb\r\n", Shape::Bulk, bulk("a\r\nb")),
            (b"*-1\r\n", Shape::Nil, Reply::Nil),
            (b"*0\r\n", Shape::Array(0), Reply::Array(vec![])),
            (
                b"*3\r\n*2\r\n:1\r\n*0\r\n$-1\r\n*1\r\n*1\r\n+x\r\n",
                Shape::Array(3),
                Reply::Array(vec![
                    Reply::Array(vec![Reply::Int(1), Reply::Array(vec![])]),
                    Reply::Nil,
                    Reply::Array(vec![Reply::Array(vec![Reply::Status("x".into())])]),
                ]),
            ),
            (b"_\r\n", Shape::Nil, Reply::Nil),
            (b"#t\r\n", Shape::Int, Reply::Int(1)),
            (b"#f\r\n", Shape::Int, Reply::Int(0)),
            (b",1.5\r\n", Shape::Bulk, bulk("1.5")),
            (
                b"(12345678901234567890\r\n",
                Shape::Bulk,
                bulk("12345678901234567890"),
            ),
            (
                b"!6\r\nERR no\r\n",
                Shape::Error,
                Reply::Error("ERR no".into()),
            ),
            (b"=5\r\ntxt:x\r\n", Shape::Bulk, bulk("x")),
            (
                b"%1\r\n+k\r\n:2\r\n",
                Shape::Array(2),
                Reply::Array(vec![Reply::Status("k".into()), Reply::Int(2)]),
            ),
            (
                b"~1\r\n:2\r\n",
                Shape::Array(1),
                Reply::Array(vec![Reply::Int(2)]),
            ),
            (
                b">1\r\n:2\r\n",
                Shape::Other,
                Reply::Array(vec![Reply::Int(2)]),
            ),
        ]
    }

    #[test]
    fn every_kind_of_answer_is_found_and_taken_apart() {
        for (bytes, shape, reply) in examples() {
            let len = bytes.len();
            // What stands behind it is another answer.
            let window = [bytes, b":7\r\n"].concat();
            assert_eq!(find(&window), Ok(Some(Found { len, shape })), "{reply:?}");
            assert_eq!(parse(&window), Ok(Some((reply, len))));
        }
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_incomplete() {
        for (bytes, shape, reply) in examples() {
            let mut finder = Finder::default();
            for cut in 0..bytes.len() {
                assert_eq!(find(&bytes[..cut]), Ok(None), "{reply:?} cut at {cut}");
                assert_eq!(parse(&bytes[..cut]), Ok(None));
                assert_eq!(finder.next(&bytes[..cut]), Ok(None));
            }
            // It came byte by byte, and then the next one is looked for from its own start.
            for _ in 0..2 {
                let len = bytes.len();
                assert_eq!(finder.next(bytes), Ok(Some(Found { len, shape })));
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused_at_its_byte() {
        for (bytes, pos, what) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], 0, Wrong::Type(b'H')),
            (b"\x15\x03\x03", 0, Wrong::Type(0x15)),
            (b"\r\n", 0, Wrong::Type(b'\r')),
            (b"|1\r\n", 0, Wrong::Type(b'|')),
            (b"+OK\n", 3, Wrong::LineEnd(b'\n')),
            (b":\r\n", 1, Wrong::Number(b'\r')),
            (b":-\r\n", 2, Wrong::Number(b'\r')),
            (b":1x\r\n", 2, Wrong::Number(b'x')),
            (b":9223372036854775808\r\n", 19, Wrong::Range),
            (b":-9223372036854775809\r\n", 20, Wrong::Range),
            (b":00000000000000000000000000000000000", 1, Wrong::LongLine),
            (b"$-2\r\n", 1, Wrong::Range),
            (b"$?\r\n", 1, Wrong::Number(b'?')),
            (b"$1\r\nab\r\n", 5, Wrong::LineEnd(b'b')),
            (b"$1\r\na\rb", 6, Wrong::LineEnd(b'b')),
            (b"$9223372036854775807\r\n", usize::MAX, Wrong::Range),
            (b"*-2\r\n", 1, Wrong::Range),
            (b"*1\r\nx", 4, Wrong::Type(b'x')),
            (b"_x\r\n", 1, Wrong::LineEnd(b'x')),
            (b"#x\r\n", 1, Wrong::Number(b'x')),
        ] {
            if pos == usize::MAX {
                // A length that no memory could hold is waited for, not reserved.
                assert_eq!(find(bytes), Ok(None));
                continue;
            }
            let bad = Err(BadReply { pos, what });
            assert_eq!(find(bytes), bad, "{bytes:?}");
            assert_eq!(parse(bytes).map(|_| None), bad);
        }
        let endless = vec![b'+'; LINE_BYTES + 1];
        let bad = BadReply {
            pos: 1,
            what: Wrong::LongLine,
        };
        assert_eq!(find(&endless), Err(bad));
    }

    #[test]
    fn a_count_is_believed_only_as_far_as_elements_come() {
        let huge = b"*9223372036854775807\r\n:1\r\n";
        assert_eq!(parse(huge), Ok(None));
        assert_eq!(parse(b"%9223372036854775807\r\n:1\r\n"), Ok(None));
        let nested = |depth: usize| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
        assert!(matches!(parse(&nested(DEPTH)), Ok(Some(_))));
        let bad = BadReply {
            pos: 4 * DEPTH,
            what: Wrong::Depth,
        };
        assert_eq!(find(&nested(DEPTH + 1)), Err(bad));
        assert_eq!(parse(&nested(1_000_000)), Err(bad));
    }

    #[test]
    fn replies_are_asked_for_what_they_hold() {
        assert!(Reply::Status("OK".into()).is_ok());
        assert!(!bulk("OK").is_ok());
        assert_eq!(bulk("12").int(), Some(12));
        assert_eq!(bulk("x").int(), None);
        assert_eq!(Reply::Error("12".into()).int(), None);
        assert_eq!(Reply::Error("ERR".into()).error(), Some(&b"ERR"[..]));
        assert_eq!(Reply::Error("ERR".into()).text(), None);
        assert_eq!(Reply::Bulk(vec![0xff]).text(), None);
        assert_eq!(
            Reply::Array(vec![Reply::Nil]).array(),
            Some(&[Reply::Nil][..])
        );
    }
}
