//! The commands of a log in order: single ones, and transactions as a whole.
//!
//! A unit, which is a command or everything from MULTI to its EXEC, is given when it is whole. It lies in the reader's
//! buffer or, where it is larger than that may grow, in a temporary file that is mapped; so the largest argument does
//! not decide how much memory is needed. The log itself is read and never mapped: its server may cut it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::cursor::At;
use crate::error::{CommandName, Error, ErrorKind, KEY_SHOWN, Result};
use crate::input::{Mapped, Spool};
use crate::resp::parse::{Broken, Command, Found, Parser, Record, Wrong, time_of};

/// The buffer holds at least a few lines of the largest size: so much of a record may have to stay in it.
const LEAST_BUFFER: usize = 4 << 10;

/// Names up to this length are known when a record's end is found, also within units of any size. Those that matter
/// to a reader are shorter.
const NAME_BYTES: u64 = 16;

/// Of a unit in a temporary file so many bytes are known again, at its beginning and at the end of what was read.
const KNOWN_AGAIN: usize = 4096;

/// What comes next in a log.
#[derive(Debug)]
pub enum Event<'a> {
    /// Commands outside transactions that need no second look, as they stand.
    Plain {
        /// Their bytes.
        raw: &'a [u8],
        /// How many.
        commands: u64,
    },
    /// One command outside transactions.
    Command {
        /// Offset of its first byte.
        offset: u64,
        /// The command.
        command: Command<'a>,
    },
    /// A transaction.
    Transaction {
        /// Offset of its first byte.
        offset: u64,
        /// From MULTI to EXEC, both included, with the `#` lines between.
        raw: &'a [u8],
        /// Commands between MULTI and EXEC.
        commands: u64,
        /// Whether it ends in DISCARD: no server logs that, but what it says is clear.
        discarded: bool,
    },
    /// The time of what follows, in Unix milliseconds ([`time_of`]). Times inside transactions are the transaction's.
    Time(i64),
    /// EXEC or DISCARD without MULTI, which strict reading refuses.
    Stray,
    /// There is no more for now.
    Dry,
    /// The place or the time at which the reading was to stop.
    Until,
}

/// Where a log is to be read no further: whole units only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Units that end at or before this byte.
    Offset(u64),
    /// What stands before the first time in it that is later than this, in Unix milliseconds.
    TimeMs(i64),
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Bytes of the log.
    pub len: u64,
    /// Bytes up to the end of the last unit.
    pub whole: u64,
    /// What stands behind it.
    pub kind: TailKind,
}

/// What stands behind the last whole unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailKind {
    /// Nothing.
    Clean,
    /// A command that is not whole.
    Command,
    /// A transaction without its EXEC.
    Transaction {
        /// Whole commands in it.
        commands: u64,
    },
}

/// By what sizes a log is read. They change no outcome; tests take small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that are read at once; at least one.
    pub read_bytes: usize,
    /// Units of this size, which is at least one, and larger ones go through a temporary file.
    pub most_in_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            read_bytes: 256 << 10,
            most_in_memory: 4 << 20,
        }
    }
}

/// Reads a log.
#[derive(Debug)]
pub struct Reader {
    file: File,
    name: String,
    lenient: bool,
    until: Option<Until>,
    limits: Limits,
    /// Offset in the file of the next byte to read.
    next_read: u64,
    buffer: Vec<u8>,
    /// Where the present unit begins in the buffer.
    from: usize,
    /// Where the present record begins.
    at: usize,
    /// Bytes in use.
    filled: usize,
    parser: Parser,
    multi: Option<Multi>,
    giant: Option<Giant>,
    /// Offset of the last record that was found whole.
    last: Option<u64>,
    /// Offsets of the last SELECTs outside transactions.
    selects: VecDeque<u64>,
    /// Whether a `#TS:` was seen.
    pub timed: bool,
}

/// So many SELECTs are remembered.
const SELECTS: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Multi {
    commands: u64,
}

/// A unit on its way through a temporary file.
#[derive(Debug)]
struct Giant {
    spool: Option<Spool>,
    whole: Option<Mapped>,
    /// Offset in the file of its first byte.
    offset: u64,
    /// Bytes of it before the buffer's first.
    before: u64,
    /// Where the present record begins, from the unit's start.
    record: u64,
    /// The present record's name, where it was read in an earlier piece.
    name: Option<Vec<u8>>,
    /// The first bytes of it, and the last ones that were read.
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Reader {
    /// From the byte `from` of a log on, where a unit must begin.
    pub fn new(file: File, name: &str, from: u64, lenient: bool, until: Option<Until>) -> Reader {
        Reader {
            file,
            name: name.to_owned(),
            lenient,
            until,
            limits: Limits::default(),
            next_read: from,
            buffer: Vec::new(),
            from: 0,
            at: 0,
            filled: 0,
            parser: Parser::new(lenient),
            multi: None,
            giant: None,
            last: None,
            selects: VecDeque::new(),
            timed: false,
        }
    }

    /// The same with other sizes.
    pub fn with_limits(self, limits: Limits) -> Reader {
        Reader { limits, ..self }
    }

    /// The file that is read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether commands are read as servers' loaders read them.
    pub fn lenient(&self) -> bool {
        self.lenient
    }

    /// Offset behind the last unit that was given: everything before it was seen.
    pub fn offset(&self) -> u64 {
        match &self.giant {
            Some(giant) if giant.whole.is_none() => giant.offset,
            Some(giant) => giant.offset + giant.record,
            None => self.next_read - (self.filled - self.from) as u64,
        }
    }

    /// Offset of the next byte that will be read: a file that is shorter was cut.
    pub fn read_to(&self) -> u64 {
        self.next_read
    }

    /// Offsets of the last SELECTs outside transactions, the oldest first.
    pub fn selects(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.selects.iter().copied()
    }

    /// Reads on without giving anything yet, so that what is there can be held against the file before it is taken.
    pub fn read_ahead(&mut self) -> Result<()> {
        let in_giant = self.giant.as_ref().is_some_and(|g| g.whole.is_none());
        if !in_giant {
            self.fill()?;
        }
        Ok(())
    }

    /// Whether the file still holds what was read of a unit that is not whole. A server that is started again cuts that
    /// off, and what it appends may end behind it. Errors: `Io`.
    pub fn unfinished_is_there(&self) -> Result<bool> {
        match &self.giant {
            Some(giant) => Ok(self.holds(giant.offset, &giant.first)?
                && self.holds(self.next_read - giant.last.len() as u64, &giant.last)?),
            None => self.holds(self.offset(), &self.buffer[self.from..self.filled]),
        }
    }

    fn holds(&self, offset: u64, bytes: &[u8]) -> Result<bool> {
        let mut now = vec![0; bytes.len()];
        match self.file.read_exact_at(&mut now, offset) {
            Ok(()) => Ok(now == bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(Error::io(format!("{} cannot be read", self.name), e)),
        }
    }

    /// Forgets what was read of a unit that is not whole; it will be read again.
    pub fn forget_unfinished(&mut self) {
        self.next_read = self.offset();
        (self.from, self.at, self.filled) = (0, 0, 0);
        self.parser.reset();
        self.multi = None;
        self.giant = None;
    }

    /// The next event. `plain` says by a command's name and number of arguments whether it may go with others, unseen.
    pub fn next(&mut self, mut plain: impl FnMut(&[u8], u64) -> bool) -> Result<Event<'_>> {
        if self
            .giant
            .as_ref()
            .is_some_and(|giant| giant.whole.is_some())
        {
            self.giant = None;
        }
        if self.giant.is_some() {
            return self.giant_unit();
        }
        let limit = self.limit();
        let mut commands = 0;
        loop {
            let window = &self.buffer[self.at..self.filled];
            let found = self.parser.next(window, 0);
            let len = match found {
                Ok(Found::Command(shape)) => shape.len as usize,
                Ok(Found::Annotation { len }) => len as usize,
                Ok(Found::Incomplete) | Err(_) => 0,
            };
            let end = self.next_read - (self.filled - self.at - len) as u64;
            match found {
                Ok(Found::Command(shape)) => {
                    let raw = &window[..len];
                    let name = &raw[shape.name as usize..(shape.name + shape.name_len) as usize];
                    match &mut self.multi {
                        None if shape.canonical && plain(name, shape.argc) => {
                            self.last = Some(end - len as u64);
                            self.at += len;
                            commands += 1;
                        }
                        None if commands > 0 => {
                            return Ok(self.plain(commands));
                        }
                        None if name.eq_ignore_ascii_case(b"MULTI") => {
                            self.last = Some(end - len as u64);
                            self.multi = Some(Multi { commands: 0 });
                            self.at += len;
                        }
                        None if ends_transaction(name) => {
                            if !self.lenient {
                                return Err(self.error(end - len as u64, "EXEC without MULTI"));
                            }
                            self.last = Some(end - len as u64);
                            self.take(len);
                            return Ok(Event::Stray);
                        }
                        None => {
                            self.last = Some(end - len as u64);
                            if name.eq_ignore_ascii_case(b"SELECT") {
                                if self.selects.len() == SELECTS {
                                    self.selects.pop_front();
                                }
                                self.selects.push_back(end - len as u64);
                            }
                            let from = self.take(len);
                            let raw = &self.buffer[from..from + len];
                            return Ok(Event::Command {
                                offset: end - len as u64,
                                command: Command { raw, shape },
                            });
                        }
                        Some(multi) if ends_transaction(name) => {
                            let commands = multi.commands;
                            let discarded = name.eq_ignore_ascii_case(b"DISCARD");
                            self.multi = None;
                            self.last = Some(end - len as u64);
                            let from = self.take(len);
                            let raw = &self.buffer[from..self.at];
                            return Ok(Event::Transaction {
                                offset: end - raw.len() as u64,
                                raw,
                                commands,
                                discarded,
                            });
                        }
                        Some(_) if !self.lenient && name.eq_ignore_ascii_case(b"MULTI") => {
                            let begin = self.offset();
                            return Err(self.error(end - len as u64, &nested(begin)));
                        }
                        Some(multi) => {
                            multi.commands += 1;
                            self.last = Some(end - len as u64);
                            self.at += len;
                        }
                    }
                }
                Ok(Found::Annotation { .. }) => {
                    let time = time_of(&window[..len]);
                    self.timed |= time.is_some();
                    if self.is_over(time) {
                        self.parser.reset();
                        if commands > 0 {
                            return Ok(self.plain(commands));
                        }
                        return Ok(Event::Until);
                    }
                    if self.multi.is_some() {
                        self.at += len;
                        continue;
                    }
                    if commands > 0 {
                        return Ok(self.plain(commands));
                    }
                    self.take(len);
                    if let Some(time) = time {
                        return Ok(Event::Time(time));
                    }
                }
                Ok(Found::Incomplete) => {
                    if commands > 0 {
                        return Ok(self.plain(commands));
                    }
                    if self.next_read >= limit {
                        return Ok(Event::Until);
                    }
                    // A `#` line is short, and outside transactions a unit of its own.
                    let is_line = self.multi.is_none() && self.buffer.get(self.at) == Some(&b'#');
                    if self.filled - self.from >= self.limits.most_in_memory && !is_line {
                        self.begin_giant()?;
                        return self.giant_unit();
                    }
                    if !self.fill()? {
                        return Ok(Event::Dry);
                    }
                }
                Err(broken) => {
                    if commands > 0 {
                        return Ok(self.plain(commands));
                    }
                    return Err(self.broken(end, broken));
                }
            }
        }
    }

    /// Nothing is read from this byte on.
    fn limit(&self) -> u64 {
        match self.until {
            Some(Until::Offset(limit)) => limit,
            _ => u64::MAX,
        }
    }

    /// Commands from the unit's start to the present record, which is looked at again next time.
    fn plain(&mut self, commands: u64) -> Event<'_> {
        let from = std::mem::replace(&mut self.from, self.at);
        let raw = &self.buffer[from..self.at];
        Event::Plain { raw, commands }
    }

    /// Ends the unit behind the present record of `len` bytes; gives where it began.
    fn take(&mut self, len: usize) -> usize {
        self.at += len;
        std::mem::replace(&mut self.from, self.at)
    }

    fn is_over(&self, time: Option<i64>) -> bool {
        match (self.until, time) {
            (Some(Until::TimeMs(until)), Some(time)) => time > until,
            _ => false,
        }
    }

    /// Reads on; `false` where there is no more for now.
    fn fill(&mut self) -> Result<bool> {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.filled, 0);
            self.at -= self.from;
            self.filled -= self.from;
            self.from = 0;
        }
        let least = self.limits.read_bytes.max(LEAST_BUFFER);
        let wanted = (self.filled + least / 4).next_power_of_two().max(least);
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        self.read()
    }

    fn read(&mut self) -> Result<bool> {
        let end = self.buffer.len();
        let left = self.limit().saturating_sub(self.next_read);
        let most = left.min(self.limits.read_bytes as u64) as usize;
        let end = end.min(self.filled + most);
        loop {
            match self
                .file
                .read_at(&mut self.buffer[self.filled..end], self.next_read)
            {
                Ok(n) => {
                    self.filled += n;
                    self.next_read += n as u64;
                    return Ok(n > 0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("{} cannot be read", self.name), e)),
            }
        }
    }

    /// Moves the present unit into a temporary file.
    fn begin_giant(&mut self) -> Result<()> {
        let mut spool = Spool::create()?;
        let begun = &self.buffer[self.from..self.filled];
        spool.write(begun)?;
        let first = begun[..begun.len().min(KNOWN_AGAIN)].to_vec();
        let last = end_of(begun).to_vec();
        self.giant = Some(Giant {
            spool: Some(spool),
            whole: None,
            offset: self.next_read - (self.filled - self.from) as u64,
            before: 0,
            record: (self.at - self.from) as u64,
            name: None,
            first,
            last,
        });
        self.buffer.copy_within(self.from..self.filled, 0);
        self.filled -= self.from;
        (self.from, self.at) = (0, 0);
        Ok(())
    }

    /// Goes on with a unit in a temporary file. The buffer holds what was read of it last, and is in the file too.
    fn giant_unit(&mut self) -> Result<Event<'_>> {
        let limit = self.limit();
        loop {
            let giant = self.giant.as_mut().expect("the caller saw it");
            // The window begins at the byte that is wanted next, if that was read.
            let wanted = giant.record + self.parser.wants();
            let skip = wanted.saturating_sub(giant.before).min(self.filled as u64);
            let window = &self.buffer[skip as usize..self.filled];
            let from = (giant.before + skip).saturating_sub(giant.record);
            let found = if wanted < giant.before + self.filled as u64 {
                self.parser.next(window, from)
            } else {
                Ok(Found::Incomplete)
            };
            let record_at = giant.offset + giant.record;
            match found {
                Ok(Found::Incomplete) => {
                    if self.next_read >= limit {
                        return Ok(Event::Until);
                    }
                    // What is not used up stays at the front, and until its name is known all of a record: it may prove
                    // to be EXEC.
                    let name = self.parser.name();
                    if let (None, Some((at, len))) = (&giant.name, name) {
                        giant.name = name_in(&self.buffer[..self.filled], giant, at, len);
                    }
                    let known = giant.name.is_some() || name.is_some_and(|(_, n)| n > NAME_BYTES);
                    let keep_from = giant.record + if known { self.parser.wants() } else { 0 };
                    let used = keep_from
                        .saturating_sub(giant.before)
                        .min(self.filled as u64) as usize;
                    self.buffer.copy_within(used..self.filled, 0);
                    self.filled -= used;
                    giant.before += used as u64;
                    let had = self.filled;
                    if !self.read()? {
                        return Ok(Event::Dry);
                    }
                    let giant = self.giant.as_mut().expect("it was there above");
                    let spool = giant.spool.as_mut().expect("the unit is not whole");
                    spool.write(&self.buffer[had..self.filled])?;
                    giant.last.clear();
                    giant
                        .last
                        .extend_from_slice(end_of(&self.buffer[had..self.filled]));
                }
                Ok(Found::Command(shape)) => {
                    let end = giant.record + shape.len;
                    let name = giant.name.take().or_else(|| {
                        let buffer = &self.buffer[..self.filled];
                        name_in(buffer, giant, shape.name, shape.name_len)
                    });
                    let name = name.unwrap_or_default();
                    let begins = name.eq_ignore_ascii_case(b"MULTI");
                    if self.multi.is_none() && ends_transaction(&name) {
                        if !self.lenient {
                            return Err(self.error(record_at, "EXEC without MULTI"));
                        }
                        self.last = Some(record_at);
                        self.from = (end - giant.before) as usize;
                        self.at = self.from;
                        self.giant = None;
                        return Ok(Event::Stray);
                    }
                    let ends = match &mut self.multi {
                        None if begins => {
                            self.multi = Some(Multi { commands: 0 });
                            false
                        }
                        None => true,
                        Some(_) if ends_transaction(&name) => true,
                        Some(_) if !self.lenient && begins => {
                            let begin = giant.offset;
                            return Err(self.error(record_at, &nested(begin)));
                        }
                        Some(multi) => {
                            multi.commands += 1;
                            false
                        }
                    };
                    self.last = Some(record_at);
                    giant.record = end;
                    if ends {
                        let discarded = name.eq_ignore_ascii_case(b"DISCARD");
                        return self.giant_done(shape, discarded);
                    }
                }
                Ok(Found::Annotation { len }) => {
                    let at = (giant.record - giant.before) as usize;
                    let time = time_of(&self.buffer[at..at + len as usize]);
                    self.timed |= time.is_some();
                    giant.record += len;
                    if self.is_over(time) {
                        return Ok(Event::Until);
                    }
                }
                Err(broken) => return Err(self.broken(record_at, broken)),
            }
        }
    }

    fn giant_done(
        &mut self,
        shape: crate::resp::parse::Shape,
        discarded: bool,
    ) -> Result<Event<'_>> {
        let multi = self.multi.take();
        let giant = self.giant.as_mut().expect("it was just completed");
        let spool = giant.spool.take().expect("it was just completed");
        // What was read behind the unit is the next one's.
        let rest = (giant.record - giant.before) as usize;
        (self.from, self.at) = (rest, rest);
        giant.whole = Some(spool.into_map()?);
        let (end, offset) = (giant.record as usize, giant.offset);
        let raw = &giant.whole.as_ref().expect("it was just set").bytes()[..end];
        Ok(match multi {
            Some(multi) => Event::Transaction {
                offset,
                raw,
                commands: multi.commands,
                discarded,
            },
            None => Event::Command {
                offset,
                command: Command { raw, shape },
            },
        })
    }

    /// What stands behind the last whole unit, where [`Event::Dry`] was the end.
    pub fn tail(&self) -> Tail {
        let whole = self.offset();
        let kind = match self.multi {
            Some(multi) => TailKind::Transaction {
                commands: multi.commands,
            },
            None if whole == self.next_read => TailKind::Clean,
            None => TailKind::Command,
        };
        Tail {
            len: self.next_read,
            whole,
            kind,
        }
    }

    #[cold]
    fn error(&self, offset: u64, what: &str) -> Error {
        Error::new(
            ErrorKind::BadLog {
                what: what.to_owned(),
                before: self.last_command(),
                keeps: self.offset(),
            },
            At::file(offset),
        )
    }

    #[cold]
    fn broken(&self, record: u64, broken: Broken) -> Error {
        let offset = record + broken.pos;
        let what = match broken.what {
            Wrong::Start(0) => match self.zeros(offset) {
                Some(bytes) => format!(
                    "the last {bytes} bytes are all zero, as a power loss leaves them, and hold no command"
                ),
                None => Wrong::Start(0).to_string(),
            },
            other => other.to_string(),
        };
        self.error(offset, &what)
    }

    /// Number of bytes from `offset` to the end, if all of them are zero. Gives up on more than any server writes in
    /// a second.
    fn zeros(&self, offset: u64) -> Option<u64> {
        let mut buffer = vec![0; 64 << 10];
        let mut count = 0;
        while count < 256 << 20 {
            let n = self.file.read_at(&mut buffer, offset + count).ok()?;
            if buffer[..n].iter().any(|b| *b != 0) {
                return None;
            }
            if n == 0 {
                return Some(count);
            }
            count += n as u64;
        }
        None
    }

    /// The last whole command, for messages.
    fn last_command(&self) -> Option<CommandName> {
        let offset = self.last?;
        let mut head = [0; 512];
        let n = self.file.read_at(&mut head, offset).ok()?;
        let mut words = first_words(&head[..n]);
        Some(CommandName {
            name: words.next()?.escape_ascii().to_string(),
            key: words
                .next()
                .map(|key| key[..key.len().min(KEY_SHOWN + 1)].to_vec()),
            offset,
        })
    }
}

/// The first arguments of a command that was found whole and of which `head` is the beginning; the last one may be cut.
fn first_words(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lines = head.splitn(2, |b| *b == b'\n');
    lines.next();
    let mut rest = lines.next().unwrap_or_default();
    std::iter::from_fn(move || {
        let header_end = memchr::memchr(b'\n', rest)?;
        let header = rest[..header_end].strip_prefix(b"$")?;
        let digits = header.iter().take_while(|b| b.is_ascii_digit()).count();
        let len: usize = std::str::from_utf8(&header[..digits]).ok()?.parse().ok()?;
        rest = &rest[header_end + 1..];
        let word = &rest[..len.min(rest.len())];
        rest = rest.get(len.saturating_add(2)..).unwrap_or_default();
        Some(word)
    })
}

fn end_of(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(KNOWN_AGAIN)..]
}

fn nested(begin: u64) -> String {
    format!(
        "MULTI inside the transaction that begins at byte {begin:#x} and was never ended: an earlier repair left it"
    )
}

fn ends_transaction(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"EXEC") || name.eq_ignore_ascii_case(b"DISCARD")
}

/// The name of a giant's present record, where the buffer holds it and it is short.
fn name_in(buffer: &[u8], giant: &Giant, at: u64, len: u64) -> Option<Vec<u8>> {
    if len > NAME_BYTES {
        return None;
    }
    let at = (giant.record + at).checked_sub(giant.before)? as usize;
    buffer.get(at..at + len as usize).map(<[u8]>::to_vec)
}

/// The times and commands of a transaction that was given whole.
pub fn inside(raw: &[u8], lenient: bool) -> impl Iterator<Item = Record<'_>> {
    crate::resp::parse::Commands::new(raw, lenient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// An event that does not depend on how the log was read: plain commands one by one, as any other.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Seen {
        Command(u64, Vec<u8>),
        Transaction(u64, u64, Vec<u8>),
        Time(i64),
        Stray,
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum End {
        Dry(Tail),
        Until,
        Failed(String),
    }

    fn plain(name: &[u8], argc: u64) -> bool {
        name == b"SET" && argc == 3 || name == b"INCR"
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("a write");
        file
    }

    fn read_on(reader: &mut Reader, seen: &mut Vec<Seen>) -> End {
        loop {
            let mut at = reader.offset();
            match reader.next(plain) {
                Ok(Event::Plain { raw, commands }) => {
                    let before = seen.len();
                    for record in inside(raw, true) {
                        let Record::Command(command) = record else {
                            panic!("only commands are plain")
                        };
                        seen.push(Seen::Command(at, command.raw.to_vec()));
                        at += command.raw.len() as u64;
                    }
                    assert_eq!((seen.len() - before) as u64, commands);
                }
                Ok(Event::Command { offset, command }) => {
                    seen.push(Seen::Command(offset, command.raw.to_vec()));
                }
                Ok(Event::Transaction {
                    offset,
                    raw,
                    commands,
                    ..
                }) => seen.push(Seen::Transaction(offset, commands, raw.to_vec())),
                Ok(Event::Time(time_ms)) => seen.push(Seen::Time(time_ms / 1000)),
                Ok(Event::Stray) => seen.push(Seen::Stray),
                Ok(Event::Dry) => return End::Dry(reader.tail()),
                Ok(Event::Until) => return End::Until,
                Err(error) => return End::Failed(error.describe(false)),
            }
        }
    }

    fn read(
        bytes: &[u8],
        lenient: bool,
        until: Option<Until>,
        limits: Limits,
    ) -> (Vec<Seen>, End, u64) {
        let mut reader = Reader::new(file(bytes), "log", 0, lenient, until).with_limits(limits);
        let mut seen = Vec::new();
        let end = read_on(&mut reader, &mut seen);
        (seen, end, reader.offset())
    }

    fn limits(read_bytes: usize, most_in_memory: usize) -> Limits {
        Limits {
            read_bytes,
            most_in_memory,
        }
    }

    /// Down to single bytes, and around the lengths of what the logs below hold.
    fn every_limits() -> impl Iterator<Item = Limits> {
        let most = [1, 14, 40, 100, 300, 1000];
        (1..18)
            .chain([31, 64, 65, 200, 5000])
            .flat_map(move |read| most.map(|most| limits(read, most)))
    }

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    /// Units of every kind, small ones and ones above all limits but the usual.
    fn log() -> Vec<u8> {
        let long = [b'v'; 700];
        [
            &b"#TS:1700000000\r\n"[..],
            &command(&[b"SELECT", b"0"]),
            &command(&[b"SET", b"a", b"1"]),
            &command(&[b"INCR", b"a"]),
            &command(&[b"SET", b"b", &long]),
            &command(&[b"MULTI"]),
            &command(&[b"SET", b"c", b"3"]),
            b"#TS:1700000001\r\n",
            &command(&[b"DEL", b"c"]),
            &command(&[b"EXEC"]),
            &command(&[b"DEL", b"a"]),
            b"# a note\r\n",
            &command(&[b"multi"]),
            &command(&[b"RPUSH", b"l", &long, b"*1\r\n$4\r\nEXEC\r\n", b""]),
            &command(&[b"exec"]),
            b"#TS:1700000002\r\n",
            &command(&[b"MULTI"]),
            &command(&[b"EXEC"]),
            &command(&[b"SET", b"d", b"4"]),
        ]
        .concat()
    }

    #[test]
    fn units_are_given_whole_and_in_order() {
        let log = log();
        let (seen, end, offset) = read(&log, false, None, Limits::default());
        let tail = Tail {
            len: log.len() as u64,
            whole: log.len() as u64,
            kind: TailKind::Clean,
        };
        assert_eq!((end, offset), (End::Dry(tail), log.len() as u64));
        let kinds: Vec<String> = seen
            .iter()
            .map(|seen| match seen {
                Seen::Command(_, raw) => first_words(raw)
                    .take(2)
                    .map(|word| word.escape_ascii().to_string())
                    .collect::<Vec<_>>()
                    .join(" "),
                Seen::Transaction(_, n, _) => format!("transaction of {n}"),
                Seen::Time(at) => at.to_string(),
                Seen::Stray => "stray".to_owned(),
            })
            .collect();
        let want = [
            "1700000000",
            "SELECT 0",
            "SET a",
            "INCR a",
            "SET b",
            "transaction of 2",
            "DEL a",
            "transaction of 1",
            "1700000002",
            "transaction of 0",
            "SET d",
        ];
        assert_eq!(kinds, want);
    }

    #[test]
    fn every_limit_gives_the_same() {
        let log = log();
        for lenient in [false, true] {
            let want = read(&log, lenient, None, Limits::default());
            for limits in every_limits() {
                assert!(read(&log, lenient, None, limits) == want, "{limits:?}");
            }
        }
    }

    #[test]
    fn a_file_that_grows_byte_by_byte_gives_the_same() {
        let log = log();
        let want = read(&log, false, None, Limits::default());
        for limits in [
            Limits::default(),
            limits(1, 1),
            limits(7, 64),
            limits(64, 256),
        ] {
            let mut grown = tempfile::tempfile().expect("a file");
            let reader = grown.try_clone().expect("a second descriptor");
            let mut reader = Reader::new(reader, "log", 0, false, None).with_limits(limits);
            let mut seen = Vec::new();
            let mut end = End::Until;
            for byte in log.chunks(1) {
                grown.write_all(byte).expect("a write");
                end = read_on(&mut reader, &mut seen);
            }
            assert!((seen, end, reader.offset()) == want, "{limits:?}");
        }
    }

    #[test]
    fn what_was_read_of_an_unfinished_unit_can_be_forgotten_at_any_byte() {
        let log = log();
        let want = read(&log, false, None, Limits::default());
        for limits in [Limits::default(), limits(9, 40), limits(64, 256)] {
            for cut in 0..log.len() {
                let mut grown = file(&log[..cut]);
                let reader = grown.try_clone().expect("a second descriptor");
                let mut reader = Reader::new(reader, "log", 0, false, None).with_limits(limits);
                let mut seen = Vec::new();
                let end = read_on(&mut reader, &mut seen);
                let End::Dry(tail) = end else {
                    panic!("{end:?} at {cut}")
                };
                // The server takes back what it could not write whole, and writes it again.
                grown.set_len(tail.whole).expect("a cut");
                reader.forget_unfinished();
                assert_eq!(reader.read_to(), tail.whole);
                grown
                    .write_all_at(&log[tail.whole as usize..], tail.whole)
                    .expect("a write");
                let end = read_on(&mut reader, &mut seen);
                assert!(
                    (seen, end, reader.offset()) == want,
                    "{limits:?} cut at {cut}"
                );
                let _ = grown.flush();
            }
        }
    }

    #[test]
    fn cut_anywhere_whole_units_are_given_and_the_tail_is_told() {
        let log = log();
        let (all, ..) = read(&log, false, None, Limits::default());
        for limits in [Limits::default(), limits(5, 14), limits(64, 256)] {
            for cut in 0..log.len() {
                let (seen, end, offset) = read(&log[..cut], false, None, limits);
                assert!(seen == up_to(&all, offset), "{limits:?} cut at {cut}");
                let End::Dry(tail) = end else {
                    panic!("{end:?}")
                };
                assert_eq!((tail.len, tail.whole), (cut as u64, offset));
                assert_eq!(tail.kind == TailKind::Clean, offset == cut as u64);
            }
        }
    }

    /// What ends at or before `end`.
    fn up_to(seen: &[Seen], end: u64) -> Vec<Seen> {
        let mut at = 0;
        let mut seen = seen.to_vec();
        seen.retain(|one| {
            at = match one {
                Seen::Command(offset, raw) | Seen::Transaction(offset, _, raw) => {
                    offset + raw.len() as u64
                }
                Seen::Time(_) => at + b"#TS:1700000000\r\n".len() as u64,
                Seen::Stray => panic!("there is none in the log"),
            };
            at <= end
        });
        seen
    }

    #[test]
    fn until_a_byte_ends_behind_the_last_unit_before_it() {
        let mut log = log();
        let (all, ..) = read(&log, false, None, Limits::default());
        let len = log.len() as u64;
        // Nothing behind the byte is looked at, not even what is broken.
        log.extend_from_slice(b"broken");
        for limits in [Limits::default(), limits(5, 14), limits(64, 256)] {
            for at in 0..=len {
                let until = Some(Until::Offset(at));
                let (seen, end, _) = read(&log, false, until, limits);
                assert_eq!(end, End::Until, "{limits:?} until {at}");
                assert!(seen == up_to(&all, at), "{limits:?} until {at}");
            }
        }
        // What is not there yet may come.
        let until = Some(Until::Offset(len + 1));
        let (_, end, _) = read(&log[..len as usize], false, until, Limits::default());
        assert!(matches!(end, End::Dry(_)));
    }

    #[test]
    fn until_a_time_ends_before_the_unit_that_is_later() {
        let log = log();
        let (all, ..) = read(&log, false, None, Limits::default());
        for (seconds, last) in [(1_699_999_999, 0), (1_700_000_000, 5), (1_700_000_001, 8)] {
            for limits in every_limits() {
                for ms in [seconds * 1000, seconds * 1000 + 999] {
                    let until = Some(Until::TimeMs(ms));
                    let (seen, end, _) = read(&log, false, until, limits);
                    assert_eq!(end, End::Until);
                    assert!(seen == all[..last], "{limits:?} until {ms}");
                }
            }
        }
        let until = Some(Until::TimeMs(1_700_000_002_000));
        let (seen, end, _) = read(&log, false, until, limits(5, 14));
        assert_eq!(seen, all);
        assert!(matches!(end, End::Dry(_)));
    }

    #[test]
    fn the_end_of_a_transaction_is_seen_however_it_is_written() {
        let junk = [b' '; 200];
        let odd = [
            &b"*1"[..],
            &junk,
            b"\n$4",
            &junk,
            b"\nEXEC\r\n*2\r\n$7\r\ndiscard\r\n$100\r\n",
            &[b'x'; 100],
            b"\r\n",
        ]
        .concat();
        let log = [
            &command(&[b"MULTI"])[..],
            &command(&[b"DEL", &[b'k'; 300]]),
            &odd,
        ]
        .concat();
        let want = read(&log, true, None, Limits::default());
        assert!(matches!(
            want.0[..],
            [Seen::Transaction(0, 1, _), Seen::Stray]
        ));
        for limits in every_limits() {
            assert!(read(&log, true, None, limits) == want, "{limits:?}");
        }
    }

    #[test]
    fn errors_are_the_same_with_every_limit() {
        let begun = [&command(&[b"MULTI"])[..], &command(&[b"DEL", &[b'k'; 300]])].concat();
        let long = [b' '; 1100];
        for (lenient, end) in [
            (false, &b"*1\r\n$5\r\nMULTI\r\n"[..]),
            (false, b"*2\r\n$3\r\nDEL\r\n$3\r\nabcd\r\n"),
            (false, b"*2\r\n$3\r\nDEL\r\n#3\r\nabc\r\n"),
            (false, b"\0\0\0\0"),
            (
                true,
                &[&b"*2\r\n$3\r\nDEL\r\n$123"[..], &long, b"\n"].concat(),
            ),
            (true, &[&b"*12345"[..], &long, b"\n"].concat()),
            (true, b"*2\r\n$3\r\nDEL\r\n$-3\r\nabc\r\n"),
        ] {
            let log = [&begun[..], end].concat();
            let want = read(&log, lenient, None, Limits::default());
            assert!(matches!(want.1, End::Failed(_)), "{want:?}");
            for limits in every_limits() {
                assert!(read(&log, lenient, None, limits) == want, "{limits:?}");
            }
        }
    }
}
