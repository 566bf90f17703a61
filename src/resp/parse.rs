//! Commands of RESP as files hold them: arrays of bulk strings, and the `#` lines of append-only files.
//!
//! [`Parser`] finds where a record ends. It may be given a record piece by piece and goes on where it stood, so that
//! each byte is looked at once; a value's bytes are passed over, not looked at. [`Command`] then gives the arguments
//! of a record that was found whole.

use memchr::memchr;

/// What stands at a place where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A whole command.
    Command(Shape),
    /// A whole line that begins with `#`, its line end included.
    Annotation {
        /// Bytes of the line.
        len: u64,
    },
    /// The record goes on behind the bytes that are there.
    Incomplete,
}

/// Measures of a command that was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes from `*` to the last line end.
    pub len: u64,
    /// Arguments, the name included; at least one.
    pub argc: u64,
    /// Position of the name's first byte.
    pub name: u64,
    /// Bytes of the name.
    pub name_len: u64,
    /// Whether it stands as a server would write it. Only lenient reading gives `false`; such a command has to be
    /// written anew before anything but a file loader may see it.
    pub canonical: bool,
}

/// Why something is no record, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// Bytes behind the record's start.
    pub pos: u64,
    /// What is wrong.
    pub what: Wrong,
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Neither a command nor a `#` line.
    #[error("a command begins with '*', and here stands {}", shown(*.0))]
    Start(u8),
    /// No `$` where an argument begins.
    #[error("an argument begins with '$', and here stands {}", shown(*.0))]
    Argument(u8),
    /// A count or a length that is no decimal number.
    #[error("a number was expected, and here stands {}", shown(*.0))]
    Number(u8),
    /// A command without arguments.
    #[error("a command of {0} arguments")]
    Argc(i64),
    /// A length below zero.
    #[error("an argument of {0} bytes")]
    Length(i64),
    /// A number beyond what any file holds.
    #[error("a number with too many digits")]
    TooLong,
    /// A line that does not end as it should.
    #[error("the line does not end in CR LF")]
    LineEnd,
    /// An argument that is not followed by a line end: its length is wrong, or bytes are missing.
    #[error("the argument does not end in CR LF")]
    ArgumentEnd,
}

fn shown(byte: u8) -> String {
    match byte {
        b' '..=b'~' => format!("'{}'", byte as char),
        _ => format!("byte 0x{byte:02x}"),
    }
}

/// Header and annotation lines are no longer, line end included: servers read them into a buffer of this size.
pub const LINE_BYTES: usize = 1023;

/// Arguments of a command: more than this no server of any version takes.
const MOST_ARGS: u64 = i32::MAX as u64;
/// Bytes of an argument.
const MOST_BYTES: u64 = i64::MAX as u64 - 2;

/// Finds the end of records.
#[derive(Debug, Clone, Default)]
pub struct Parser {
    /// Take what servers' loaders take: see [`Parser::new`].
    lenient: bool,
    /// Where to go on, from the record's start.
    pos: u64,
    /// Arguments that are still to come, once the count was read.
    left: u64,
    /// An argument's bytes were passed over, its line end comes next.
    in_argument: bool,
    shape: Option<Shape>,
}

/// The outcome of reading `123\r\n`.
enum Line {
    Number {
        value: i64,
        next: usize,
        canonical: bool,
    },
    Incomplete,
    Broken(usize, Wrong),
}

/// Reads a number and its line end at `pos`.
#[inline(always)]
fn number(window: &[u8], pos: usize, lenient: bool) -> Line {
    let rest = &window[pos..];
    // By far the most are lengths of one to three digits.
    if let [a @ b'1'..=b'9', b'\r', b'\n', ..] = rest {
        let (value, next) = (i64::from(a - b'0'), pos + 3);
        return Line::Number {
            value,
            next,
            canonical: true,
        };
    }
    if let [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] = rest {
        let value = i64::from(a - b'0') * 10 + i64::from(b - b'0');
        return Line::Number {
            value,
            next: pos + 4,
            canonical: true,
        };
    }
    if let [
        a @ b'1'..=b'9',
        b @ b'0'..=b'9',
        c @ b'0'..=b'9',
        b'\r',
        b'\n',
        ..,
    ] = rest
    {
        let value = i64::from(a - b'0') * 100 + i64::from(b - b'0') * 10 + i64::from(c - b'0');
        return Line::Number {
            value,
            next: pos + 5,
            canonical: true,
        };
    }
    any_number(window, pos, lenient)
}

#[inline(never)]
fn any_number(window: &[u8], pos: usize, lenient: bool) -> Line {
    let rest = &window[pos..];
    let negative = rest.first() == Some(&b'-');
    let digits = rest[usize::from(negative)..]
        .iter()
        .take_while(|b| b.is_ascii_digit())
        .count();
    let end = usize::from(negative) + digits;
    if digits > 19 {
        return Line::Broken(pos, Wrong::TooLong);
    }
    let text = &rest[usize::from(negative)..end];
    let value = text
        .iter()
        .try_fold(0i64, |n, b| {
            n.checked_mul(10)?.checked_add(i64::from(b - b'0'))
        })
        .map(|n| if negative { -n } else { n });
    let Some(value) = value else {
        return Line::Broken(pos, Wrong::TooLong);
    };
    let plain = (text.len() == 1 || text.first() != Some(&b'0')) && !negative;
    match rest.get(end..) {
        Some([b'\r', b'\n', ..]) if digits > 0 && (plain || negative || lenient) => Line::Number {
            value,
            next: pos + end + 2,
            canonical: plain,
        },
        Some([] | [b'\r']) | None => Line::Incomplete,
        Some([first, ..]) if !lenient => match first {
            b'\r' | b'\n' if digits > 0 && !plain => Line::Broken(pos, Wrong::Number(b'0')),
            b'\r' | b'\n' if digits > 0 => Line::Broken(pos + end, Wrong::LineEnd),
            _ => Line::Broken(pos + end, Wrong::Number(*first)),
        },
        // The loader reads a line and takes of it what is a number.
        Some(junk) => match memchr(b'\n', &junk[..junk.len().min(LINE_BYTES)]) {
            Some(line_end) => Line::Number {
                value,
                next: pos + end + line_end + 1,
                canonical: false,
            },
            None if junk.len() >= LINE_BYTES => Line::Broken(pos + end, Wrong::LineEnd),
            None => Line::Incomplete,
        },
    }
}

impl Parser {
    /// With `lenient`, what servers' loaders take although no server writes it: header lines that end in LF alone or
    /// carry something behind the number, and any two bytes behind an argument.
    pub fn new(lenient: bool) -> Parser {
        Parser {
            lenient,
            ..Parser::default()
        }
    }

    /// How far into the record the next byte that has to be looked at stands; beyond what was given where an argument
    /// is longer.
    pub fn wants(&self) -> u64 {
        self.pos
    }

    /// Where the name of the record that was begun stands, from its start, and its length; `None` until that was read.
    pub fn name(&self) -> Option<(u64, u64)> {
        self.shape
            .filter(|shape| shape.name > 0)
            .map(|shape| (shape.name, shape.name_len))
    }

    /// Whether a record was begun.
    pub fn is_inside(&self) -> bool {
        self.pos > 0
    }

    /// Goes on with the record of which `window` holds the bytes from `from` on, counted from its start. A record that
    /// is found ends it: the next call is about the next one.
    ///
    /// The window must begin at or before [`wants`](Self::wants), or wholly before it.
    #[inline]
    pub fn next(&mut self, window: &[u8], from: u64) -> Result<Found, Broken> {
        let mut shape = match self.shape {
            Some(shape) => shape,
            None => {
                debug_assert_eq!(from, 0);
                match window.first() {
                    None => return Ok(Found::Incomplete),
                    Some(b'*') => {}
                    Some(b'#') => return self.annotation(window),
                    Some(&other) => {
                        return Err(Broken {
                            pos: 0,
                            what: Wrong::Start(other),
                        });
                    }
                }
                match number(window, 1, self.lenient) {
                    Line::Number {
                        value,
                        next,
                        canonical,
                    } => {
                        if value < 1 || value as u64 > MOST_ARGS {
                            return Err(Broken {
                                pos: 0,
                                what: Wrong::Argc(value),
                            });
                        }
                        self.pos = next as u64;
                        self.left = value as u64;
                        Shape {
                            len: 0,
                            argc: value as u64,
                            name: 0,
                            name_len: 0,
                            canonical,
                        }
                    }
                    Line::Incomplete => return Ok(Found::Incomplete),
                    Line::Broken(pos, what) => {
                        return Err(Broken {
                            pos: pos as u64,
                            what,
                        });
                    }
                }
            }
        };
        let mut left = self.left;
        let mut in_argument = self.in_argument;
        if self.pos < from || self.pos - from > window.len() as u64 {
            self.shape = Some(shape);
            return Ok(Found::Incomplete);
        }
        let mut pos = (self.pos - from) as usize;
        let stop = |this: &mut Self, pos: usize, left: u64, in_argument: bool, shape: Shape| {
            this.pos = from + pos as u64;
            this.left = left;
            this.in_argument = in_argument;
            this.shape = Some(shape);
        };
        loop {
            if in_argument {
                match window.get(pos..pos + 2) {
                    Some(b"\r\n") => {}
                    Some(_) if self.lenient => shape.canonical = false,
                    Some(_) => {
                        return Err(Broken {
                            pos: from + pos as u64,
                            what: Wrong::ArgumentEnd,
                        });
                    }
                    None => {
                        // One byte may be there already; what it says counts.
                        if !self.lenient && window.get(pos).is_some_and(|b| *b != b'\r') {
                            return Err(Broken {
                                pos: from + pos as u64,
                                what: Wrong::ArgumentEnd,
                            });
                        }
                        stop(self, pos, left, true, shape);
                        return Ok(Found::Incomplete);
                    }
                }
                pos += 2;
                left -= 1;
                if left == 0 {
                    shape.len = from + pos as u64;
                    self.reset();
                    return Ok(Found::Command(shape));
                }
            }
            match window.get(pos) {
                Some(b'$') => {}
                Some(&other) => {
                    return Err(Broken {
                        pos: from + pos as u64,
                        what: Wrong::Argument(other),
                    });
                }
                None => {
                    stop(self, pos, left, false, shape);
                    return Ok(Found::Incomplete);
                }
            }
            match number(window, pos + 1, self.lenient) {
                Line::Number {
                    value,
                    next,
                    canonical,
                } => {
                    if value < 0 || value as u64 > MOST_BYTES {
                        return Err(Broken {
                            pos: from + pos as u64,
                            what: Wrong::Length(value),
                        });
                    }
                    shape.canonical &= canonical;
                    if left == shape.argc {
                        shape.name = from + next as u64;
                        shape.name_len = value as u64;
                    }
                    in_argument = true;
                    let end = from + next as u64 + value as u64;
                    if end - from > window.len() as u64 {
                        self.pos = end;
                        self.left = left;
                        self.in_argument = true;
                        self.shape = Some(shape);
                        return Ok(Found::Incomplete);
                    }
                    pos = next + value as usize;
                }
                Line::Incomplete => {
                    stop(self, pos, left, false, shape);
                    return Ok(Found::Incomplete);
                }
                Line::Broken(pos, what) => {
                    return Err(Broken {
                        pos: from + pos as u64,
                        what,
                    });
                }
            }
        }
    }

    fn annotation(&mut self, window: &[u8]) -> Result<Found, Broken> {
        match memchr(b'\n', &window[..window.len().min(LINE_BYTES)]) {
            Some(end) => {
                self.reset();
                Ok(Found::Annotation {
                    len: end as u64 + 1,
                })
            }
            None if window.len() >= LINE_BYTES => Err(Broken {
                pos: 0,
                what: Wrong::LineEnd,
            }),
            None => Ok(Found::Incomplete),
        }
    }

    /// Forgets the record that was begun.
    pub fn reset(&mut self) {
        self.pos = 0;
        self.left = 0;
        self.in_argument = false;
        self.shape = None;
    }
}

/// A whole command.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// Its bytes.
    pub raw: &'a [u8],
    /// Its measures.
    pub shape: Shape,
}

impl<'a> Command<'a> {
    /// Its name, as it stands.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        &self.raw[self.shape.name as usize..(self.shape.name + self.shape.name_len) as usize]
    }

    /// Number of arguments, the name included.
    #[inline]
    pub fn argc(&self) -> u64 {
        self.shape.argc
    }

    /// Its arguments, the name first.
    #[inline]
    pub fn args(&self) -> Args<'a> {
        // Behind the name's `$` line stands the name; its header is the second line.
        let first = memchr(b'\n', self.raw).map_or(self.raw.len(), |end| end + 1);
        Args {
            rest: &self.raw[first..],
            left: self.shape.argc,
        }
    }

    /// One argument; the name is number 0.
    pub fn arg(&self, n: usize) -> Option<&'a [u8]> {
        self.args().nth(n)
    }
}

/// Arguments of a command that was found whole.
#[derive(Debug, Clone)]
pub struct Args<'a> {
    rest: &'a [u8],
    left: u64,
}

impl<'a> Args<'a> {
    /// The arguments of a command that is known to be one, of which the first bytes are at hand: those that are whole.
    #[inline]
    pub fn of(head: &'a [u8]) -> Args<'a> {
        if !head.is_empty()
            && let Line::Number { value, next, .. } = number(head, 1, true)
        {
            let (rest, left) = (&head[next..], value.max(0) as u64);
            return Args { rest, left };
        }
        Args { rest: &[], left: 0 }
    }

    /// How many are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 || self.rest.is_empty() {
            return None;
        }
        // The parser went over these bytes: whatever is not a number here cannot be, unless they end.
        let Line::Number { value, next, .. } = number(self.rest, 1, true) else {
            return None;
        };
        let (arg, rest) = self.rest.get(next..)?.split_at_checked(value as usize)?;
        self.rest = rest.get(2..)?;
        self.left -= 1;
        Some(arg)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Args<'_> {}

/// The records of bytes that hold nothing else, such as those of a transaction that was found whole.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    rest: &'a [u8],
    parser: Parser,
}

impl<'a> Commands<'a> {
    /// Over `bytes`, which a parser with the same `lenient` went over already.
    pub fn new(bytes: &'a [u8], lenient: bool) -> Commands<'a> {
        Commands {
            rest: bytes,
            parser: Parser::new(lenient),
        }
    }
}

/// A record that was found whole.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// A command.
    Command(Command<'a>),
    /// A `#` line.
    Annotation(&'a [u8]),
}

impl<'a> Iterator for Commands<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let found = self.parser.next(self.rest, 0).ok()?;
        let len = match found {
            Found::Command(shape) => shape.len,
            Found::Annotation { len } => len,
            Found::Incomplete => return None,
        };
        let (raw, rest) = self.rest.split_at(len as usize);
        self.rest = rest;
        Some(match found {
            Found::Command(shape) => Record::Command(Command { raw, shape }),
            _ => Record::Annotation(raw),
        })
    }
}

/// The time that a line tells, in Unix milliseconds: `#TS:` and seconds, as servers write it, or `#MS:` and milliseconds,
/// as a live migration writes down when it received what follows.
pub fn time_of(line: &[u8]) -> Option<i64> {
    let (unit_ms, rest) = match line.strip_prefix(b"#TS:") {
        Some(rest) => (1000, rest),
        None => (1, line.strip_prefix(b"#MS:")?),
    };
    let digits = rest
        .strip_suffix(b"\n")
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))?;
    let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(number.saturating_mul(unit_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All records of `bytes`, given in pieces of `step` bytes, and what ended the reading.
    fn read(bytes: &[u8], step: usize, lenient: bool) -> (Vec<(u64, Found)>, Option<Broken>, u64) {
        let mut parser = Parser::new(lenient);
        let (mut found, mut start, mut have) = (Vec::new(), 0usize, 0usize);
        loop {
            match parser.next(&bytes[start..have], 0) {
                Ok(Found::Incomplete) if have == bytes.len() => {
                    return (found, None, start as u64);
                }
                Ok(Found::Incomplete) => have = (have + step).min(bytes.len()),
                Ok(record) => {
                    found.push((start as u64, record));
                    start += match record {
                        Found::Command(shape) => shape.len as usize,
                        Found::Annotation { len } => len as usize,
                        Found::Incomplete => unreachable!("handled above"),
                    };
                }
                Err(broken) => return (found, Some(broken), start as u64),
            }
        }
    }

    const LOG: &[u8] = b"#TS:1700000000\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nset\r\n$0\r\n\r\n$12\r\n*3\r\n$3\r\nSET\r\r\n\
        *1\r\n$4\r\nPING\r\n*4\r\n$5\r\nRPUSH\r\n$100\r\n0123456789012345678901234567890123456789012345678901234567890123456789\
012345678901234567890123456789\r\n$1\r\n\n\r\n$2\r\n\r\n\r\n";

    #[test]
    fn arguments_are_found_by_their_lengths() {
        let (found, broken, end) = read(LOG, LOG.len(), false);
        assert_eq!((broken, end), (None, LOG.len() as u64));
        let commands: Vec<Vec<&[u8]>> = found
            .iter()
            .filter_map(|(start, found)| match found {
                Found::Command(shape) => Some(Command {
                    raw: &LOG[*start as usize..(*start + shape.len) as usize],
                    shape: *shape,
                }),
                _ => None,
            })
            .map(|command| {
                let args: Vec<&[u8]> = command.args().collect();
                assert_eq!(args[0], command.name());
                assert_eq!(args.len() as u64, command.argc());
                assert!(command.shape.canonical);
                args
            })
            .collect();
        assert_eq!(commands[0], [&b"SELECT"[..], b"0"]);
        assert_eq!(commands[1], [&b"set"[..], b"", b"*3\r\n$3\r\nSET\r"]);
        assert_eq!(commands[2], [&b"PING"[..]]);
        assert_eq!(commands[3][1].len(), 100);
        assert_eq!(commands[3][2..], [&b"\n"[..], b"\r\n"]);
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        for lenient in [false, true] {
            let whole = read(LOG, LOG.len(), lenient);
            for step in 1..LOG.len() {
                assert_eq!(read(LOG, step, lenient), whole, "pieces of {step}");
            }
        }
    }

    /// As a reader does with what is too large for its buffer: pieces that do not begin at the record's start.
    #[test]
    fn pieces_without_what_came_before_give_the_same() {
        let record = &LOG[LOG.len() - 138..];
        let mut whole = Parser::new(false);
        let Ok(Found::Command(want)) = whole.next(record, 0) else {
            panic!("a command")
        };
        assert_eq!(want.len as usize, record.len());
        for first in 1..record.len() {
            for second in first..record.len() {
                let mut parser = Parser::new(false);
                let mut got = parser.next(&record[..first], 0);
                for (from, to) in [(first, second), (second, record.len())] {
                    if got == Ok(Found::Incomplete) {
                        // What was not used up comes again with the next piece.
                        let from = (parser.wants() as usize).min(from);
                        got = parser.next(&record[from..to], from as u64);
                    }
                }
                assert_eq!(got, Ok(Found::Command(want)), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn cut_anywhere_it_is_incomplete_and_nothing_else() {
        let (all, _, _) = read(LOG, LOG.len(), false);
        for cut in 0..LOG.len() {
            let (found, broken, end) = read(&LOG[..cut], 7, false);
            assert_eq!(broken, None);
            let whole = all.iter().filter(|(start, _)| *start < end).count();
            assert_eq!(found, all[..whole]);
            assert!(end as usize <= cut);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (bytes, pos, what) in [
            (&b"x"[..], 0, Wrong::Start(b'x')),
            (b"\0\0\0", 0, Wrong::Start(0)),
            (b"\n*1\r\n", 0, Wrong::Start(b'\n')),
            (b"*0\r\n", 0, Wrong::Argc(0)),
            (b"*-1\r\n", 0, Wrong::Argc(-1)),
            (b"*x\r\n", 1, Wrong::Number(b'x')),
            (b"*1x\r\n", 2, Wrong::Number(b'x')),
            (b"*01\r\n", 1, Wrong::Number(b'0')),
            (b"* 1\r\n", 1, Wrong::Number(b' ')),
            (b"*+1\r\n", 1, Wrong::Number(b'+')),
            (b"*1\n$4\r\nPING\r\n", 2, Wrong::LineEnd),
            (b"*1\rx", 2, Wrong::LineEnd),
            (b"*1\r\n4\r\nPING\r\n", 4, Wrong::Argument(b'4')),
            (b"*1\r\n$-1\r\n", 4, Wrong::Length(-1)),
            (b"*1\r\n$5\r\nPING\r\n*", 13, Wrong::ArgumentEnd),
            (b"*1\r\n$3\r\nPING\r\n", 11, Wrong::ArgumentEnd),
            (b"*1\r\n$99999999999999999999\r\n", 5, Wrong::TooLong),
            (b"*9999999999\r\n", 0, Wrong::Argc(9_999_999_999)),
        ] {
            for step in [1, 2, 100] {
                let (_, broken, _) = read(bytes, step, false);
                assert_eq!(
                    broken,
                    Some(Broken { pos, what }),
                    "{:?} in pieces of {step}",
                    bytes.escape_ascii().to_string()
                );
            }
        }
        let endless = [b'#'; 2000];
        assert!(read(&endless, 5, false).1.is_some());
        let endless = [&b"*"[..], &[b'1'; 2000]].concat();
        assert!(read(&endless, 5, false).1.is_some());
    }

    #[test]
    fn lenient_as_the_loaders_of_servers() {
        let odd = b"*2\n$3 junk\r\nGETxy$01\r\nk\r\n";
        for step in [1, 3, 100] {
            let (found, broken, end) = read(odd, step, true);
            assert_eq!((broken, end), (None, odd.len() as u64));
            let [(_, Found::Command(shape))] = found[..] else {
                panic!("{found:?}")
            };
            assert!(!shape.canonical);
            let args: Vec<&[u8]> = Command { raw: odd, shape }.args().collect();
            assert_eq!(args, [&b"GET"[..], b"k"]);
        }
        // A line may be as long as it may, and no longer, in whatever pieces it comes.
        for junk in 1000..1030 {
            let line = [&b"*12345"[..], &vec![b' '; junk], b"\n"].concat();
            let whole = read(&line, line.len(), true);
            for step in [1, 7, line.len() - 1] {
                assert_eq!(
                    read(&line, step, true),
                    whole,
                    "{junk} bytes, pieces of {step}"
                );
            }
        }
        // What no loader takes is broken all the same.
        for bytes in [&b"*0\r\n"[..], b"*1\r\n$-1\r\n", b"x", b"*1\r\nx"] {
            assert!(read(bytes, 9, true).1.is_some(), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_beyond_the_bytes_is_waited_for_and_not_reserved() {
        let mut parser = Parser::new(false);
        let head = b"*2\r\n$3\r\nSET\r\n$9000000000000000000\r\n";
        assert_eq!(parser.next(head, 0), Ok(Found::Incomplete));
        assert_eq!(
            parser.wants(),
            head.len() as u64 + 9_000_000_000_000_000_000
        );
    }

    #[test]
    fn lines_tell_times_in_seconds_or_milliseconds() {
        assert_eq!(time_of(b"#TS:1700000000\r\n"), Some(1_700_000_000_000));
        assert_eq!(time_of(b"#MS:1700000000123\r\n"), Some(1_700_000_000_123));
        assert_eq!(time_of(b"#MS:1700000000123"), None);
        assert_eq!(time_of(b"#redis-migration offset=1\r\n"), None);
    }
}
