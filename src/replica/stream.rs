//! Where commands of a replication stream end, and what they say of database and transaction.
//!
//! The bytes come as the network cuts them. Each is looked at once, the bytes of values not at all, and what is kept of
//! a command that has not ended is its beginning and the line that was cut.

use crate::resp::parse::{Args, Broken, Found, LINE_BYTES, Parser, Wrong};

/// So much of a command's beginning is kept; those that matter here are shorter.
const HEAD_BYTES: usize = 128;

/// With so many more bytes a line that was cut is whole, or broken.
const LINE_MORE: usize = LINE_BYTES + 64;

/// A record that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A `#` line, of which a replication stream has none and a segment has ours.
    Line,
    /// `SELECT`.
    Select(u64),
    /// `MULTI`.
    Multi,
    /// `EXEC`.
    Exec,
    /// `REPLCONF GETACK`.
    GetAck,
    /// Any other command.
    Other,
}

/// Finds the ends of commands and of units: single commands, and transactions from MULTI to EXEC.
#[derive(Debug, Clone)]
pub struct Splitter {
    parser: Parser,
    /// Whether `#` lines are records.
    lines: bool,
    /// Bytes of the present record that were seen.
    seen: u64,
    /// The first of them.
    head: Vec<u8>,
    /// Those that the parser will want again.
    carry: Vec<u8>,
    in_multi: bool,
    db: u64,
}

impl Splitter {
    /// At the beginning of a unit, where `db` is selected.
    pub fn new(db: u64) -> Splitter {
        Splitter {
            parser: Parser::new(false),
            lines: false,
            seen: 0,
            head: Vec::new(),
            carry: Vec::new(),
            in_multi: false,
            db,
        }
    }

    /// For a file with `#` lines.
    pub fn with_lines(db: u64) -> Splitter {
        Splitter {
            lines: true,
            ..Splitter::new(db)
        }
    }

    /// Whether the next byte begins a unit.
    pub fn is_between_units(&self) -> bool {
        self.seen == 0 && !self.in_multi
    }

    /// The database of the next command.
    pub fn db(&self) -> u64 {
        self.db
    }

    /// Takes the bytes that come next, and tells of each record that ends in them: where, what it is, which database is
    /// selected behind it, and whether a unit ends there. Errors: they are no commands; the splitter is of no use then.
    #[inline]
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(usize, Record, u64, bool),
    ) -> Result<(), Broken> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let record = match self.seen {
                0 => match self.parser.next(rest, 0)? {
                    Found::Incomplete => {
                        self.head.clear();
                        self.head.extend(rest.iter().take(HEAD_BYTES));
                        self.seen = rest.len() as u64;
                        let wants = self.parser.wants().min(self.seen) as usize;
                        self.carry.clear();
                        self.carry.extend(&rest[wants..]);
                        return Ok(());
                    }
                    Found::Annotation { len } => {
                        at += len as usize;
                        self.line()?
                    }
                    Found::Command(shape) => {
                        let record = &rest[..shape.len as usize];
                        at += record.len();
                        let name = shape.name as usize..(shape.name + shape.name_len) as usize;
                        what(&record[name], record)
                    }
                },
                _ => match self.go_on(rest)? {
                    None => return Ok(()),
                    Some((used, record)) => {
                        at += used;
                        record
                    }
                },
            };
            match record {
                Record::Select(db) => self.db = db,
                Record::Multi => self.in_multi = true,
                Record::Exec => self.in_multi = false,
                Record::GetAck | Record::Other | Record::Line => {}
            }
            each(at, record, self.db, !self.in_multi);
        }
        Ok(())
    }

    fn line(&self) -> Result<Record, Broken> {
        match self.lines {
            true => Ok(Record::Line),
            false => Err(Broken {
                pos: 0,
                what: Wrong::Start(b'#'),
            }),
        }
    }

    /// Goes on with a record that was begun. Gives the record and how many of the bytes belong to it, if it ends.
    #[cold]
    fn go_on(&mut self, bytes: &[u8]) -> Result<Option<(usize, Record)>, Broken> {
        let before = self.seen;
        let more = HEAD_BYTES.saturating_sub(self.head.len());
        if more > 0 {
            self.head.extend(bytes.iter().take(more));
        }
        // How many of the bytes the parser is done with.
        let mut used = 0;
        loop {
            let wants = self.parser.wants();
            let found = if self.carry.is_empty() {
                let skip = wants.saturating_sub(before + used as u64);
                if skip >= (bytes.len() - used) as u64 {
                    self.seen = before + bytes.len() as u64;
                    return Ok(None);
                }
                used += skip as usize;
                let from = before + used as u64;
                let found = self.parser.next(&bytes[used..], from)?;
                if found == Found::Incomplete {
                    self.seen = before + bytes.len() as u64;
                    let wants = self.parser.wants().clamp(from, self.seen);
                    self.carry.extend(&bytes[(wants - before) as usize..]);
                    return Ok(None);
                }
                found
            } else {
                // The line that was cut, with enough behind it to be whole.
                let held = self.carry.len();
                let from = before - held as u64;
                let more = bytes.len().min(LINE_MORE);
                self.carry.extend(&bytes[..more]);
                let found = self.parser.next(&self.carry, from)?;
                if found == Found::Incomplete {
                    let wants = self.parser.wants();
                    if wants >= before {
                        self.carry.clear();
                        used = (wants - before).min(bytes.len() as u64) as usize;
                        if used < bytes.len() {
                            continue;
                        }
                    } else {
                        self.carry.drain(..(wants - from) as usize);
                        debug_assert_eq!(more, bytes.len());
                    }
                    self.seen = before + bytes.len() as u64;
                    return Ok(None);
                }
                found
            };
            let (end, record) = match found {
                Found::Annotation { len } => (len, self.line()?),
                Found::Command(shape) => {
                    let name = shape.name as usize..(shape.name + shape.name_len.min(16)) as usize;
                    let name = match shape.name_len {
                        0..=16 => self.head.get(name).unwrap_or_default(),
                        _ => &[],
                    };
                    let whole = &self.head[..self.head.len().min(shape.len as usize)];
                    (shape.len, what(name, whole))
                }
                Found::Incomplete => return Ok(None),
            };
            self.seen = 0;
            self.carry.clear();
            return Ok(Some(((end - before) as usize, record)));
        }
    }
}

/// What a command is, by its name and its first bytes.
#[inline]
fn what(name: &[u8], head: &[u8]) -> Record {
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"EXEC") => Record::Exec,
        5 if name.eq_ignore_ascii_case(b"MULTI") => Record::Multi,
        6 if name.eq_ignore_ascii_case(b"SELECT") => {
            let db = Args::of(head)
                .nth(1)
                .and_then(|db| std::str::from_utf8(db).ok()?.parse().ok());
            db.map_or(Record::Other, Record::Select)
        }
        // Not propagated, but it would end a transaction.
        7 if name.eq_ignore_ascii_case(b"DISCARD") => Record::Exec,
        8 if name.eq_ignore_ascii_case(b"REPLCONF") => {
            let word = Args::of(head).nth(1);
            match word.is_some_and(|word| word.eq_ignore_ascii_case(b"GETACK")) {
                true => Record::GetAck,
                false => Record::Other,
            }
        }
        _ => Record::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$2\r\n11\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*1\r\n$5\r\nMULTI\r\n\
        *2\r\n$4\r\nINCR\r\n$12\r\n*1\r\n$4\r\nEXEC\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$4\r\nEXEC\r\n\
        *3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n*1\r\n$4\r\nPING\r\n";

    fn ends(splitter: &mut Splitter, pieces: &[&[u8]]) -> Vec<(usize, Record, u64, bool)> {
        let (mut all, mut from) = (Vec::new(), 0);
        for piece in pieces {
            splitter
                .feed(piece, |end, record, db, unit| {
                    all.push((from + end, record, db, unit))
                })
                .expect("commands");
            from += piece.len();
        }
        all
    }

    #[test]
    fn units_and_databases() {
        let whole = ends(&mut Splitter::new(0), &[STREAM]);
        let what: Vec<(Record, u64, bool)> = whole.iter().map(|r| (r.1, r.2, r.3)).collect();
        assert_eq!(
            what,
            [
                (Record::Select(11), 11, true),
                (Record::Other, 11, true),
                (Record::Multi, 11, false),
                (Record::Other, 11, false),
                (Record::Select(0), 0, false),
                (Record::Exec, 0, true),
                (Record::GetAck, 0, true),
                (Record::Other, 0, true),
            ]
        );
        assert_eq!(whole.last().expect("it").0, STREAM.len());
    }

    #[test]
    fn cut_at_any_two_places_it_is_the_same() {
        let whole = ends(&mut Splitter::new(0), &[STREAM]);
        for a in 0..=STREAM.len() {
            for b in a..=STREAM.len() {
                let mut splitter = Splitter::new(0);
                let pieces = [&STREAM[..a], &STREAM[a..b], &STREAM[b..]];
                assert_eq!(ends(&mut splitter, &pieces), whole, "{a} {b}");
                assert!(splitter.is_between_units());
            }
        }
    }

    #[test]
    fn large_arguments_in_pieces_of_every_size() {
        let mut stream = Vec::new();
        for len in [1, 3000, 127, 5000] {
            let value = vec![b'\n'; len];
            let args: [&[u8]; 3] = [b"SET", &value[..len.min(2000)], &value];
            crate::resp::write::append_command(&mut stream, &args);
        }
        stream.extend(STREAM);
        let whole = ends(&mut Splitter::new(3), &[&stream]);
        for step in (1..40).chain([100, 1023, 1024, 1087, 1088, 2000, 4096]) {
            let pieces: Vec<&[u8]> = stream.chunks(step).collect();
            let mut splitter = Splitter::new(3);
            assert_eq!(ends(&mut splitter, &pieces), whole, "pieces of {step}");
            assert!(splitter.carry.capacity() < 4 * LINE_MORE);
        }
    }

    #[test]
    fn lines_only_where_they_are_expected() {
        let text = [&b"#MS:17\r\n"[..], STREAM, b"#MS:18\r\n"].concat();
        assert!(Splitter::new(0).feed(&text, |_, _, _, _| {}).is_err());
        for step in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(step).collect();
            let all = ends(&mut Splitter::with_lines(0), &pieces);
            assert_eq!(all[0], (8, Record::Line, 0, true));
            assert_eq!(all[9].0, text.len());
        }
        assert!(Splitter::new(0).feed(b"\n", |_, _, _, _| {}).is_err());
        let negative = Splitter::new(0).feed(b"*1\r\n$-1\r\n", |_, _, _, _| {});
        assert!(negative.is_err());
    }

    #[test]
    fn a_length_beyond_the_bytes_reserves_nothing() {
        let head = b"*2\r\n$3\r\nSET\r\n$9000000000000000000\r\n";
        let mut splitter = Splitter::new(0);
        for piece in std::iter::once(&head[..]).chain(std::iter::repeat_n(&[b'x'; 1000][..], 100)) {
            let fed = splitter.feed(piece, |end, _, _, _| panic!("nothing ends at {end}"));
            assert_eq!(fed, Ok(()));
        }
        assert!(splitter.carry.capacity() < 4096);
    }
}
