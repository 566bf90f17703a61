//! Keys that were written and that a new snapshot of the source no longer has.
//!
//! When a source demands a full resync in the middle of a run, its new snapshot is loaded over the old data. What was
//! deleted at the source in between would stay at the destination for good, for no DEL of it ever comes. So the names
//! of all keys that were written are kept in a log beside the spool, and those that the new snapshot does not have are
//! deleted once it is loaded.
//!
//! Both sides may have any number of keys. Of each only a hash of 128 bits is compared, sorted in runs that a temporary
//! file holds; the names stay in the log, which is mapped. The hash is SipHash with keys of this process, so that
//! nobody can choose names that collide.
//!
//! Function libraries are as keys of a database of their own: those that were written are in the log by their names,
//! and those that the new snapshot does not have are deleted.
//!
//! What is not seen: keys that a script writes without declaring them, and commands that no known server has.

use std::cmp::Reverse;
use std::collections::binary_heap::{BinaryHeap, PeekMut};
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::aof::read::{Event, Reader as LogReader, inside};
use crate::command::encode::{RENAME_BYTES, Settings};
use crate::command::keys::for_each_key;
use crate::command::table::lookup;
use crate::command::target::{Dialect, Feature};
use crate::cursor::Cursor;
use crate::encoding::crc64::Crc64;
use crate::encoding::length::{length, write_length};
use crate::encoding::string::{Scratch, string};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Mapped;
use crate::pipeline::{Progress, Stream};
use crate::rdb::{Format, Function, Reader, Record, opcode};
use crate::resp::parse::{Command, Record as LogRecord};
use crate::resp::write::{Block, Blocks, Out};
use crate::sink::Sink;
use crate::value::{Kind, Templates, TypeByte, skip};

/// The first line of a key log.
const HEADER: &[u8] = b"redis-migration key log 1\n";

/// Before each frame: the length of what follows and the complement of its CRC-64, both little-endian. The CRC-64 of
/// zeros is zero, and zeros are what a crash may leave.
const FRAME_HEAD: usize = 16;

/// Entries are gathered into frames of this size. A larger one has a frame of its own.
const FRAME_BYTES: usize = 64 << 10;

/// Hashes of names that were logged lately: 8 MiB.
const RECENT: usize = 1 << 20;

/// So many databases may take part in SWAPDB. Servers have sixteen by default.
const MOST_SWAPPED: usize = 4096;

/// Types in the order of their numbers in the log, from 1 on.
const TYPES: [&str; 8] = [
    "string",
    "list",
    "set",
    "zset",
    "hash",
    "stream",
    "array",
    "vectorset",
];

/// In an entry's first byte: the key was in a snapshot.
const OF_SNAPSHOT: u8 = 0x40;
/// An entry's first byte: SWAPDB.
const SWAP: u8 = 0x80;
/// An entry's first byte: a function library.
const LIBRARY: u8 = 0x81;

/// An entry's first byte: a key that is not ours, by its database and name at the destination.
const OTHERS: u8 = 0x82;
/// The first byte of a frame's first entry: what stands before the frame is forgotten.
const CLEARED: u8 = 0x83;

/// Where function libraries are compared, behind all keys. Servers count their databases in 31 bits.
const LIBRARIES: u64 = u64::MAX;

/// Version and checksum behind the libraries of FUNCTION DUMP.
const FOOTER_BYTES: usize = 10;

/// How much memory a comparison takes. It changes no outcome.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes for the hashes that are sorted at once.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 32 << 20,
        }
    }
}

/// Whether a key of a snapshot was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was.
    Yes,
    /// It was not.
    No,
    /// It was not, and nothing behind it.
    NoMore,
}

/// Tells by database and name whether a key was written. It is asked in the order of the snapshot.
pub type Behind<'a> = dyn FnMut(u64, &[u8]) -> Written + 'a;

/// The names of all keys that were written, in a file that is only appended to.
///
/// It is a header line and frames of entries, each with its length and checksum, so that what a crash tore off, or left
/// as zeros, is noticed and ignored. A name that is written again and again is seldom logged twice: a table remembers
/// the last million hashes.
#[derive(Debug)]
pub struct KeyLog {
    file: File,
    path: PathBuf,
    /// Where the first frame is that was not forgotten.
    begin: u64,
    /// Where the next frame goes.
    end: u64,
    frame: Vec<u8>,
    /// Empty until something is added.
    recent: Vec<u64>,
    hash: RandomState,
    swaps: Swaps,
    /// How many swaps were added: what was logged before one is logged again behind it.
    swapped: u64,
}

/// One entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry<'a> {
    Key { db: u64, seen: Seen, key: &'a [u8] },
    Library(&'a [u8]),
    Others(u64, &'a [u8]),
    Swap(u64, u64),
    Cleared,
}

/// How a key came into the log: its type, or 0 where that is not known, and [`OF_SNAPSHOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen(u8);

impl Seen {
    fn in_snapshot(ty: TypeByte) -> Seen {
        let name = match ty.kind() {
            // A module's type has a name of its own.
            Kind::Module => "",
            kind => kind.name(),
        };
        Seen(Seen::number(name) | OF_SNAPSHOT)
    }

    fn in_log(type_name: Option<&str>) -> Seen {
        Seen(type_name.map_or(0, Seen::number))
    }

    fn number(name: &str) -> u8 {
        // There are eight.
        TYPES
            .iter()
            .position(|known| *known == name)
            .map_or(0, |i| i as u8 + 1)
    }

    fn of_snapshot(self) -> bool {
        self.0 & OF_SNAPSHOT != 0
    }

    fn type_name(self) -> Option<&'static str> {
        let number = usize::from(self.0 & !OF_SNAPSHOT);
        TYPES.get(number.checked_sub(1)?).copied()
    }
}

/// Databases that were swapped. After SWAPDB a key that was logged before is in another one, and whether the
/// destination has come so far is not known: such a key counts for each database it may have been in.
#[derive(Debug, Default)]
struct Swaps {
    /// Databases between which keys were swapped, however indirectly, and where in the log that was the last time.
    classes: Vec<(Vec<u64>, u64)>,
}

impl Swaps {
    fn add(&mut self, a: u64, b: u64, place: u64) {
        let mut members = vec![a, b];
        self.classes.retain_mut(|(others, _)| {
            let meets = others.contains(&a) || others.contains(&b);
            if meets {
                members.append(others);
            }
            !meets
        });
        members.sort_unstable();
        members.dedup();
        self.classes.push((members, place));
    }

    fn databases(&self) -> usize {
        self.classes.iter().map(|(members, _)| members.len()).sum()
    }

    /// The databases in which a key may be that was logged in `db` at `place`.
    fn for_each(&self, db: u64, place: u64, mut f: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let class = self
            .classes
            .iter()
            .find(|(members, last)| *last > place && members.binary_search(&db).is_ok());
        match class {
            Some((members, _)) => members.iter().try_for_each(|db| f(*db)),
            None => f(db),
        }
    }
}

impl KeyLog {
    /// Opens the log, or begins it. What is torn at its end is cut off. It is locked: two runs never share one.
    ///
    /// Errors: `Io`, also where the file is another one or in use.
    pub fn open(path: &Path) -> Result<KeyLog> {
        let failed = |what: &str, e| Error::io(format!("{} {what}", path.display()), e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| failed("cannot be opened", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "another run uses it; give this one other file names";
                return Err(failed(
                    "cannot be opened",
                    io::Error::new(io::ErrorKind::WouldBlock, why),
                ));
            }
            Err(TryLockError::Error(e)) => return Err(failed("cannot be locked", e)),
        }
        let mut log = KeyLog {
            file,
            path: path.to_owned(),
            begin: HEADER.len() as u64,
            end: HEADER.len() as u64,
            frame: Vec::new(),
            recent: Vec::new(),
            hash: RandomState::new(),
            swaps: Swaps::default(),
            swapped: 0,
        };
        let map = log.map()?;
        let bytes = map.bytes();
        if !bytes.starts_with(HEADER) {
            // A crash may have left less than the first line.
            if !HEADER.starts_with(bytes) {
                let why = "it does not begin as a key log; move it away, or give this run other file names";
                return Err(failed(
                    "cannot be gone on with",
                    io::Error::new(io::ErrorKind::InvalidData, why),
                ));
            }
            drop(map);
            log.clear()?;
            return Ok(log);
        }
        let mut end = HEADER.len();
        while let Some(frame) = frame_at(bytes, end) {
            for (place, entry) in entries(bytes, frame.clone()) {
                match entry {
                    Entry::Swap(a, b) => log.swaps.add(a, b, place),
                    Entry::Cleared => {
                        log.swaps = Swaps::default();
                        log.begin = end as u64;
                    }
                    Entry::Key { .. } | Entry::Library(_) | Entry::Others(..) => {}
                }
            }
            end = frame.end;
        }
        log.end = end as u64;
        drop(map);
        log.file
            .set_len(log.end)
            .map_err(|e| failed("cannot be cut to what is whole", e))?;
        Ok(log)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.end == HEADER.len() as u64 && self.frame.is_empty()
    }

    /// Forgets everything but the keys of others. That is right once a new snapshot is loaded and [`write_removals`] has
    /// ended and was acknowledged: what the destination holds then is in that snapshot.
    pub fn clear(&mut self) -> Result<()> {
        let mut others = vec![CLEARED];
        write_length(&mut others, 0);
        write_length(&mut others, 0);
        let none = others.len();
        {
            let map = self.map()?;
            let bytes = &map.bytes()[..map.bytes().len().min(self.end as usize)];
            let mut pos = self.begin as usize;
            while let Some(frame) = frame_at(bytes, pos) {
                pos = frame.end;
                for (_, entry) in entries(bytes, frame) {
                    if let Entry::Others(db, name) = entry {
                        others.push(OTHERS);
                        write_length(&mut others, db);
                        write_length(&mut others, name.len() as u64);
                        others.extend_from_slice(name);
                    }
                }
            }
        }
        self.frame.clear();
        self.recent = Vec::new();
        self.swaps = Swaps::default();
        if others.len() > none {
            // They were refused one by one, and are few. In one frame they are there, or what was before is.
            let begin = self.end;
            self.frame = others;
            self.sync()?;
            self.begin = begin;
            return Ok(());
        }
        // In this order it is a key log at every moment.
        self.file
            .write_all_at(HEADER, 0)
            .and_then(|()| self.file.set_len(HEADER.len() as u64))
            .map_err(|e| self.cannot_write(e))?;
        self.begin = HEADER.len() as u64;
        self.end = self.begin;
        Ok(())
    }

    /// Brings to disk what was added.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|e| self.cannot_write(e))
    }

    /// Adds all keys and function libraries of a snapshot. Where it is broken, what stands before counts. Returns how
    /// many keys it has.
    pub fn add_snapshot(&mut self, rdb: &[u8]) -> Result<u64> {
        self.add_snapshot_before(rdb, u64::MAX, None)
    }

    /// As [`KeyLog::add_snapshot`], of what stands before a byte, and of what `behind` says of what stands behind it.
    /// Without that nothing behind it was written; with it libraries were, for they stand before all keys.
    pub fn add_snapshot_before(
        &mut self,
        rdb: &[u8],
        end: u64,
        mut behind: Option<&mut Behind<'_>>,
    ) -> Result<u64> {
        let mut keys = 0;
        let broken = for_each_name_of(rdb, true, |place, named| {
            let is_behind = place >= end;
            let written = match (&named, &mut behind) {
                (Named::Key(db, key, _), Some(behind)) if is_behind => behind(*db, key),
                (_, None) if is_behind => Written::NoMore,
                _ => Written::Yes,
            };
            match (written, named) {
                (Written::Yes, Named::Key(db, key, ty)) => {
                    keys += 1;
                    self.add(db, Seen::in_snapshot(ty), key)?;
                }
                (Written::Yes, Named::Library(name)) => self.append(LIBRARY, 0, name)?,
                (Written::No, _) => {}
                (Written::NoMore, _) => return Ok(false),
            }
            Ok(true)
        })?;
        // Whoever loads it reports what is wrong with it.
        drop(broken);
        self.flush()?;
        Ok(keys)
    }

    /// Notes that a key belongs to others, by its database and name at the destination: it is never deleted.
    pub fn add_others(&mut self, db: u64, name: &[u8]) -> Result<()> {
        self.append(OTHERS, db, name)?;
        self.flush()
    }

    /// Adds the keys of all commands of an append-only file that may have written them. The file begins in database 0,
    /// as each part of a log does. Where it is broken or torn, what stands before counts.
    ///
    /// Errors: `Io`.
    pub fn add_log(&mut self, path: &Path) -> Result<()> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| Error::io(format!("{name} cannot be read"), e))?;
        let mut reader = LogReader::new(file, &name, 0, true, None);
        let mut db = 0;
        loop {
            match reader.next(|_, _| false) {
                Ok(Event::Command { command, .. }) => self.add_command(&command, &mut db)?,
                Ok(Event::Transaction { raw, discarded, .. }) => {
                    for record in inside(raw, true) {
                        if let LogRecord::Command(command) = record
                            && !discarded
                        {
                            self.add_command(&command, &mut db)?;
                        }
                    }
                }
                Ok(Event::Plain { .. } | Event::Time(_) | Event::Stray) => {}
                Ok(Event::Dry | Event::Until) => break,
                Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => return Err(error),
                // The sender came no further either.
                Err(_) => break,
            }
        }
        self.flush()
    }

    fn add_command(&mut self, command: &Command<'_>, db: &mut u64) -> Result<()> {
        let Some(spec) = lookup(command.name()) else {
            return Ok(());
        };
        let number =
            |n: usize| -> Option<u64> { std::str::from_utf8(command.arg(n)?).ok()?.parse().ok() };
        match spec.name {
            "SELECT" => *db = number(1).unwrap_or(*db),
            // They make no key.
            "DEL" | "UNLINK" | "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" | "PERSIST"
            | "TOUCH" => {}
            "FUNCTION" => self.add_libraries(command)?,
            "SWAPDB" => {
                if let (Some(a), Some(b)) = (number(1), number(2))
                    && a != b
                {
                    self.swap(a, b)?;
                }
            }
            "MOVE" => {
                if let (Some(key), Some(to)) = (command.arg(1), number(2)) {
                    self.add(to, Seen::in_log(None), key)?;
                }
            }
            "RENAME" | "RENAMENX" => {
                if let Some(key) = command.arg(2) {
                    self.add(*db, Seen::in_log(None), key)?;
                }
            }
            "COPY" => {
                let words = || command.args().skip(3);
                let place = words().position(|word| word.eq_ignore_ascii_case(b"DB"));
                let to = place.and_then(|i| number(i + 4)).unwrap_or(*db);
                if let Some(key) = command.arg(2) {
                    self.add(to, Seen::in_log(None), key)?;
                }
            }
            _ => {
                let spec = match spec.subcommands {
                    [] => spec,
                    _ => command.arg(1).and_then(|arg| spec.sub(arg)).unwrap_or(spec),
                };
                let script = matches!(spec.name, "EVAL" | "EVALSHA" | "FCALL");
                if !spec.write && !script {
                    return Ok(());
                }
                let seen = Seen::in_log(spec.group.type_name());
                let mut added = Ok(());
                // A command whose keys cannot be told is one that servers refuse.
                let _ = for_each_key(spec, command.args(), |_, key| {
                    if added.is_ok() {
                        added = self.add(*db, seen, key);
                    }
                });
                added?;
            }
        }
        Ok(())
    }

    /// Adds what FUNCTION LOAD or FUNCTION RESTORE bring.
    fn add_libraries(&mut self, command: &Command<'_>) -> Result<()> {
        let is = |word: &[u8]| {
            command
                .arg(1)
                .is_some_and(|arg| arg.eq_ignore_ascii_case(word))
        };
        if is(b"LOAD") {
            // REPLACE may stand before the code.
            let name = command.args().skip(2).last().and_then(library_name);
            return name.map_or(Ok(()), |name| self.append(LIBRARY, 0, name));
        }
        let Some(payload) = command.arg(2).filter(|_| is(b"RESTORE")) else {
            return Ok(());
        };
        let body = &payload[..payload.len().saturating_sub(FOOTER_BYTES)];
        let (mut c, mut scratch) = (Cursor::new(body, 0), Scratch::new(1 << 20));
        while let Ok(opcode::FUNCTION2) = c.u8() {
            // What cannot be read no server takes.
            let Ok(code) = string(&mut c) else { break };
            match code.load(&mut scratch) {
                Ok(code) => {
                    if let Some(name) = library_name(code.as_bytes(&mut itoa::Buffer::new())) {
                        self.append(LIBRARY, 0, name)?;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Notes that two databases were swapped.
    fn swap(&mut self, a: u64, b: u64) -> Result<()> {
        let place = self.end + (FRAME_HEAD + self.frame.len()) as u64;
        self.swaps.add(a, b, place);
        if self.swaps.databases() > MOST_SWAPPED {
            return Err(Error::plain(ErrorKind::BadLog {
                what: format!("SWAPDB of more than {MOST_SWAPPED} databases"),
                before: None,
                keeps: 0,
            }));
        }
        // A name that comes again is in another database now.
        self.swapped += 1;
        self.frame.push(SWAP);
        write_length(&mut self.frame, a);
        write_length(&mut self.frame, b);
        self.flush_full()
    }

    fn add(&mut self, db: u64, seen: Seen, key: &[u8]) -> Result<()> {
        self.append(seen.0, db, key)
    }

    fn append(&mut self, first: u8, db: u64, key: &[u8]) -> Result<()> {
        if self.recent.is_empty() {
            self.recent = vec![0; RECENT];
        }
        // 0 marks a free place.
        let hash = self.hash.hash_one((self.swapped, db, first, key)) | 1;
        let place = (hash >> (64 - RECENT.trailing_zeros())) as usize;
        if self.recent[place] == hash {
            return Ok(());
        }
        if key.len() >= FRAME_BYTES {
            self.flush()?;
        }
        self.frame.push(first);
        write_length(&mut self.frame, db);
        write_length(&mut self.frame, key.len() as u64);
        let written = match key.len() < FRAME_BYTES {
            true => {
                self.frame.extend_from_slice(key);
                self.flush_full()
            }
            // A name of any size goes by without a copy.
            false => self.write_frame(key).inspect_err(|_| self.frame.clear()),
        };
        // What could not be written is not known: it may come again.
        if written.is_ok() {
            self.recent[place] = hash;
        }
        written
    }

    fn flush_full(&mut self) -> Result<()> {
        match self.frame.len() >= FRAME_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self.frame.is_empty() {
            true => Ok(()),
            false => self.write_frame(&[]),
        }
    }

    /// Writes what was gathered, and `behind` it, as one frame. Where that fails the next one takes its place.
    fn write_frame(&mut self, behind: &[u8]) -> Result<()> {
        let mut crc = Crc64::new();
        crc.update(&self.frame);
        crc.update(behind);
        let len = (self.frame.len() + behind.len()) as u64;
        let mut head = [0; FRAME_HEAD];
        head[..8].copy_from_slice(&len.to_le_bytes());
        head[8..].copy_from_slice(&(!crc.value()).to_le_bytes());
        let mut place = self.end;
        for piece in [&head[..], &self.frame, behind] {
            self.file
                .write_all_at(piece, place)
                .map_err(|e| self.cannot_write(e))?;
            place += piece.len() as u64;
        }
        self.end = place;
        self.frame.clear();
        Ok(())
    }

    fn cannot_write(&self, e: io::Error) -> Error {
        Error::io(format!("{} cannot be written", self.path.display()), e)
    }

    /// The file is only appended to while it is mapped.
    fn map(&self) -> Result<Mapped> {
        Mapped::map(&self.file)
            .map_err(|e| Error::io(format!("{} cannot be mapped", self.path.display()), e))
    }
}

/// The frame at `pos`, if it is whole.
fn frame_at(bytes: &[u8], pos: usize) -> Option<std::ops::Range<usize>> {
    let head = bytes.get(pos..pos.checked_add(FRAME_HEAD)?)?;
    let (len, crc) = head.split_first_chunk::<8>()?;
    let from = pos + FRAME_HEAD;
    let end = from.checked_add(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let body = bytes.get(from..end)?;
    let mut sum = Crc64::new();
    sum.update(body);
    (crc == (!sum.value()).to_le_bytes()).then_some(from..end)
}

/// The entries between two places, with their own.
fn entries(bytes: &[u8], within: std::ops::Range<usize>) -> impl Iterator<Item = (u64, Entry<'_>)> {
    let mut c = Cursor::new(&bytes[..within.end.min(bytes.len())], 0);
    c.seek(within.start.min(within.end));
    std::iter::from_fn(move || {
        let place = c.pos() as u64;
        // The checksum was right, so what cannot be read is nothing that was ever written.
        entry(&mut c).ok().map(|entry| (place, entry))
    })
}

fn entry<'a>(c: &mut Cursor<'a>) -> Result<Entry<'a>> {
    let first = c.u8()?;
    let number = length(c)?;
    let other = length(c)?;
    match first {
        SWAP => return Ok(Entry::Swap(number, other)),
        CLEARED => return Ok(Entry::Cleared),
        _ => {}
    }
    let name = c.take_len(other)?;
    Ok(match first {
        LIBRARY => Entry::Library(name),
        OTHERS => Entry::Others(number, name),
        _ => Entry::Key {
            db: number,
            seen: Seen(first),
            key: name,
        },
    })
}

/// The name that the first line of a library gives, as `#!lua name=mylib` does. A name is letters, digits and
/// underscores, so quotes belong to the line.
fn library_name(code: &[u8]) -> Option<&[u8]> {
    let line = code
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let quote = |byte: &u8| matches!(byte, b'"' | b'\'');
    let words = line.split(|byte| byte.is_ascii_whitespace() || quote(byte));
    let mut words = words.filter(|word| !word.is_empty()).skip(1);
    let word = words.find(|word| {
        word.get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"name="))
    })?;
    match &word[5..] {
        b"" => words.next(),
        name => Some(name),
    }
}

/// What a snapshot has by name.
enum Named<'a> {
    /// A key with its database.
    Key(u64, &'a [u8], TypeByte),
    /// A function library.
    Library(&'a [u8]),
}

/// Gives every key and library of a snapshot to `f`, with the byte at which its record begins, until that says that it
/// wants no more. Where the file is broken, what is wrong with it is returned. `broken_names`: what has a name that cannot
/// be read is passed over.
fn for_each_name_of(
    data: &[u8],
    broken_names: bool,
    mut f: impl FnMut(u64, Named<'_>) -> Result<bool>,
) -> Result<Option<Error>> {
    let file = Cursor::new(data, 0);
    let mut c = file;
    let format = match Format::parse(&mut c, true) {
        Ok(format) => format,
        Err(error) => return Ok(Some(error)),
    };
    let mut reader = Reader::new(file, format, c.pos());
    let mut scratch = Scratch::new(1 << 20);
    let mut cuts = Vec::new();
    let mut templates = Templates::default();
    let mut db = 0;
    loop {
        let place = reader.c.pos() as u64;
        let record = match reader.next() {
            Ok(record) => record,
            Err(error) => return Ok(Some(error)),
        };
        let key = match record {
            Record::Key(key) => key,
            Record::Select(n) => {
                db = n;
                continue;
            }
            Record::Template { id, names } => {
                templates.insert(id, names);
                continue;
            }
            Record::Function(function) => {
                let (text, is_code) = match function {
                    Function::Library(code) => (code, true),
                    Function::PreGa { name, .. } => (name, false),
                };
                let mut digits = itoa::Buffer::new();
                match text.load(&mut scratch) {
                    Ok(text) => {
                        let text = text.as_bytes(&mut digits);
                        let name = if is_code {
                            library_name(text)
                        } else {
                            Some(text)
                        };
                        if let Some(name) = name
                            && !f(place, Named::Library(name))?
                        {
                            return Ok(None);
                        }
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => {
                        return Err(error);
                    }
                    Err(_) if broken_names => {}
                    Err(error) => return Ok(Some(error)),
                }
                continue;
            }
            Record::Eof => return Ok(None),
            _ => continue,
        };
        if let Err(error) = skip(&mut reader.c, key.ty, &templates, &mut cuts) {
            return Ok(Some(error));
        }
        cuts.clear();
        match key.key.load(&mut scratch) {
            Ok(name) => {
                let mut digits = itoa::Buffer::new();
                if !f(place, Named::Key(db, name.as_bytes(&mut digits), key.ty))? {
                    return Ok(None);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => return Err(error),
            Err(_) if broken_names => {}
            Err(error) => return Ok(Some(error)),
        }
    }
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Keys.
    pub keys: u64,
    /// Function libraries.
    pub libraries: u64,
}

/// Deletes at the destination, with DEL, the keys of the log that the snapshot does not have, ordered by database, and
/// with FUNCTION DELETE the libraries. To be written behind the new snapshot, before its log. Nothing is deleted before
/// the snapshot was read to its end.
///
/// What counts is the name at the destination: where several keys of the source become one there, it is deleted only if
/// none of them is in the snapshot. A key is deleted only if a run with these settings wrote it:
///
/// - Database and name pass the filter, and the destination takes its database and its name.
/// - With a choice by type, the log must have seen it with a type that passes. Commands that fit every type (RENAME,
///   RESTORE) pass, as they do where logs are written. The type of a module's key is not known.
/// - With a choice by size or time to live, keys that were only ever in a snapshot are left alone: whether they were
///   chosen cannot be told any more. Those that commands wrote are deleted, since commands are not chosen by these.
///
/// A key of the new snapshot protects its name at the destination if database and name pass the filter, also where its
/// type, its size or its expiry keeps it from being loaded.
pub fn write_removals(
    log: &KeyLog,
    snapshot: &[u8],
    settings: &Settings,
    stream: &mut Stream,
    sink: &mut dyn Sink,
    progress: &Progress,
) -> Result<Removed> {
    write(log, Some(snapshot), settings, stream, sink, progress)
}

/// Deletes at the destination every key and library that the log has, as [`write_removals`] does: for destinations that
/// hold the keys of others too, and cannot be emptied.
pub fn write_all(
    log: &KeyLog,
    settings: &Settings,
    stream: &mut Stream,
    sink: &mut dyn Sink,
    progress: &Progress,
) -> Result<Removed> {
    write(log, None, settings, stream, sink, progress)
}

/// Bytes that are written at once.
const BLOCK_BYTES: usize = 256 << 10;

fn write(
    log: &KeyLog,
    snapshot: Option<&[u8]>,
    settings: &Settings,
    stream: &mut Stream,
    sink: &mut dyn Sink,
    progress: &Progress,
) -> Result<Removed> {
    let bytes = Bytes::from_owner(log.map()?);
    let mut blocks = Straight { sink, progress };
    let mut out = Out::new(BLOCK_BYTES, bytes.clone(), &mut blocks);
    let single = settings.target.dialect.single_db();
    let mut digits = itoa::Buffer::new();
    let limits = Limits::default();
    let mut removed = Removed::default();
    compare(
        log,
        &bytes,
        snapshot,
        limits,
        settings,
        progress,
        |db, name| {
            progress.commands.fetch_add(1, Relaxed);
            if db == LIBRARIES {
                removed.libraries += 1;
                return out.command(&[b"FUNCTION", b"DELETE", name]);
            }
            removed.keys += 1;
            if !single && stream.db != Some(db) {
                out.command(&[b"SELECT", digits.format(db).as_bytes()])?;
                stream.db = Some(db);
            }
            out.command(&[b"DEL", name])
        },
    )?;
    out.flush()?;
    Ok(removed)
}

/// Blocks that go to the sink at once: there is seldom much to delete.
struct Straight<'a> {
    sink: &'a mut dyn Sink,
    progress: &'a Progress,
}

impl Blocks for Straight<'_> {
    fn hand_on(&mut self, block: Block, _db: Option<u64>) -> Result<()> {
        self.sink.write(std::slice::from_ref(&block))?;
        let len = block.bytes().len() as u64;
        self.progress.bytes_out.fetch_add(len, Relaxed);
        Ok(())
    }

    fn buffer(&mut self) -> Vec<u8> {
        vec![0; BLOCK_BYTES + BLOCK_BYTES / 4]
    }
}

/// What a key is at the destination, by which it is compared.
struct Aim<'s>(&'s Settings);

impl Aim<'_> {
    /// Database and name; `None` for keys that do not matter. `seen` is `None` for those of the new snapshot.
    fn at<'k>(
        &self,
        db: u64,
        key: &'k [u8],
        seen: Option<Seen>,
        room: &'k mut Vec<u8>,
    ) -> Option<(u64, &'k [u8])> {
        if db == LIBRARIES {
            // No server has a database of this number.
            return None;
        }
        let settings = self.0;
        let (filter, transform) = (&settings.filter, &settings.transform);
        let type_name = seen.and_then(Seen::type_name);
        if !filter.chooses(db, key, type_name) {
            return None;
        }
        if seen.is_some_and(Seen::of_snapshot) {
            let by_type = filter.types.is_some() || !filter.not_types.is_empty();
            if filter.size.is_some() || filter.ttl.is_some() || (by_type && type_name.is_none()) {
                return None;
            }
        }
        let to = transform.db(db);
        if settings.target.dialect.single_db() && to != 0 {
            return None;
        }
        let name = match transform.renames() {
            true if key.len() > RENAME_BYTES => return None,
            true => {
                transform.rename(key, room);
                room
            }
            false => key,
        };
        let too_long = |limit| name.len() > limit;
        if settings.target.key_limit().is_some_and(too_long) {
            return None;
        }
        Some((to, name))
    }

    /// Whether function libraries matter: whether they were written.
    fn has_libraries(&self) -> bool {
        let target = &self.0.target;
        !self.0.no_functions
            && target.dialect != Dialect::Twemproxy
            && target.has(Feature::Functions)
    }
}

/// Hashes of names that nobody can foresee.
#[derive(Debug, Default)]
pub(super) struct NameHash(RandomState, RandomState);

impl NameHash {
    /// Two names have the same one by a chance that need not be reckoned with.
    pub(super) fn of(&self, name: &[u8]) -> u128 {
        u128::from(self.0.hash_one(name)) << 64 | u128::from(self.1.hash_one(name))
    }
}

/// A key of either side: where it is compared, and its place in the log, or 0 for a key of the new snapshot. So those
/// come first among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) db: u64,
    pub(super) hash: u128,
    pub(super) place: u64,
}

impl Mark {
    const BYTES: usize = 32;

    fn is_same_key(&self, other: &Mark) -> bool {
        (self.db, self.hash) == (other.db, other.hash)
    }

    fn to_bytes(self) -> [u8; Mark::BYTES] {
        let mut bytes = [0; Mark::BYTES];
        bytes[..8].copy_from_slice(&self.db.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.hash.to_le_bytes());
        bytes[24..].copy_from_slice(&self.place.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Mark::BYTES]) -> Mark {
        let number = |at: usize| {
            let part = bytes[at..].first_chunk();
            u64::from_le_bytes(*part.expect("there are 32 bytes, and 24 is the last place"))
        };
        Mark {
            db: number(0),
            hash: u128::from(number(8)) | u128::from(number(16)) << 64,
            place: number(24),
        }
    }
}

/// The names that the log has and the snapshot has not, each once.
fn compare(
    log: &KeyLog,
    bytes: &[u8],
    snapshot: Option<&[u8]>,
    limits: Limits,
    settings: &Settings,
    progress: &Progress,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let names = NameHash::default();
    let mut room = Vec::new();
    let mut sorter = Sorter::new(limits);
    let aim = Aim(settings);
    let has_libraries = aim.has_libraries();
    if let Some(snapshot) = snapshot {
        let broken = for_each_name_of(snapshot, false, |_, named| {
            progress.check_stop()?;
            let at = match named {
                Named::Key(db, key, _) => aim.at(db, key, None, &mut room),
                Named::Library(name) => has_libraries.then_some((LIBRARIES, name)),
            };
            if let Some((db, name)) = at {
                sorter.add(Mark {
                    db,
                    hash: names.of(name),
                    place: 0,
                })?;
            }
            Ok(true)
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
    }
    let end = usize::try_from(log.end).unwrap_or(usize::MAX);
    let whole = &bytes[..bytes.len().min(end)];
    let mut pos = log.begin as usize;
    while let Some(frame) = frame_at(whole, pos) {
        pos = frame.end;
        for (place, entry) in entries(whole, frame) {
            progress.check_stop()?;
            let (db, seen, key) = match entry {
                Entry::Key { db, seen, key } => (db, seen, key),
                Entry::Library(name) if has_libraries => {
                    sorter.add(Mark {
                        db: LIBRARIES,
                        hash: names.of(name),
                        place,
                    })?;
                    continue;
                }
                Entry::Others(db, name) => {
                    // As a key of the new snapshot, it comes before its equals.
                    sorter.add(Mark {
                        db,
                        hash: names.of(name),
                        place: 0,
                    })?;
                    continue;
                }
                Entry::Library(_) | Entry::Swap(..) | Entry::Cleared => continue,
            };
            log.swaps.for_each(db, place, |db| {
                match aim.at(db, key, Some(seen), &mut room) {
                    Some((db, name)) => sorter.add(Mark {
                        db,
                        hash: names.of(name),
                        place,
                    }),
                    None => Ok(()),
                }
            })?;
        }
    }
    if pos < whole.len() {
        // What was whole when it was opened, or was written since, is not any more.
        let why = io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "it is damaged at byte {pos:#x}, and which keys were written is not known any more"
            ),
        );
        return Err(Error::io(
            format!("{} cannot be read", log.path.display()),
            why,
        ));
    }
    let mut sorted = sorter.finish()?;
    while let Some(mark) = sorted.next()? {
        progress.check_stop()?;
        if mark.place == 0 {
            continue;
        }
        let mut c = Cursor::new(whole, 0);
        c.seek(mark.place as usize);
        let name = match entry(&mut c)? {
            Entry::Key { key, .. } if settings.transform.renames() => {
                settings.transform.rename(key, &mut room);
                &room
            }
            Entry::Key { key: name, .. } | Entry::Library(name) => name,
            Entry::Others(..) | Entry::Swap(..) | Entry::Cleared => continue,
        };
        each(mark.db, name)?;
    }
    Ok(())
}

/// Sorts any number of marks: in memory or, where they are more than that holds, by runs in a temporary file.
pub(super) struct Sorter {
    most: usize,
    held: Vec<Mark>,
    file: Option<File>,
    runs: Vec<Run>,
}

/// A run that is being read: places in the file, and what was read of it.
struct Run {
    next: u64,
    end: u64,
    read: Vec<u8>,
    taken: usize,
}

fn spool_failed(e: io::Error) -> Error {
    Error::io(
        "a temporary file cannot be written or read (see --tmp-dir)",
        e,
    )
}

impl Sorter {
    /// An empty one.
    pub(super) fn new(limits: Limits) -> Sorter {
        Sorter {
            most: (limits.memory_bytes / Mark::BYTES).max(2),
            held: Vec::new(),
            file: None,
            runs: Vec::new(),
        }
    }

    /// Adds one, in any order.
    pub(super) fn add(&mut self, mark: Mark) -> Result<()> {
        self.held.push(mark);
        if self.held.len() < self.most {
            return Ok(());
        }
        self.sort();
        // Where most of it were repeats there is room again.
        match self.held.len() > self.most / 2 {
            true => self.spill(),
            false => Ok(()),
        }
    }

    fn sort(&mut self) {
        self.held.sort_unstable();
        self.held.dedup_by(|one, before| one.is_same_key(before));
    }

    /// Writes what is held, which is sorted, behind the other runs.
    fn spill(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile().map_err(spool_failed)?);
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let start = self.runs.last().map_or(0, |run| run.end);
        let mut end = start;
        let mut piece = Vec::with_capacity(FRAME_BYTES);
        for marks in self.held.chunks(FRAME_BYTES / Mark::BYTES) {
            piece.clear();
            marks
                .iter()
                .for_each(|mark| piece.extend_from_slice(&mark.to_bytes()));
            file.write_all_at(&piece, end).map_err(spool_failed)?;
            end += piece.len() as u64;
        }
        self.held.clear();
        self.runs.push(Run {
            next: start,
            end,
            read: Vec::new(),
            taken: 0,
        });
        Ok(())
    }

    /// Ends the adding: all marks come in order now, of several for one key at least the first.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        self.sort();
        let mut sorted = Sorted {
            held: Vec::new().into_iter(),
            file: None,
            runs: Vec::new(),
            heap: BinaryHeap::new(),
            at_once: 0,
            last: None,
        };
        if self.runs.is_empty() {
            sorted.held = self.held.into_iter();
            return Ok(sorted);
        }
        self.spill()?;
        // The memory is the runs' from here on.
        drop(self.held);
        let marks = (self.most / self.runs.len()).clamp(1, FRAME_BYTES / Mark::BYTES);
        sorted.at_once = marks * Mark::BYTES;
        if let Some(file) = &self.file {
            for (i, run) in self.runs.iter_mut().enumerate() {
                if let Some(mark) = run.next(file, sorted.at_once)? {
                    sorted.heap.push(Reverse((mark, i)));
                }
            }
        }
        (sorted.file, sorted.runs) = (self.file, self.runs);
        Ok(sorted)
    }
}

/// Marks in order, the first of each key.
pub(super) struct Sorted {
    held: std::vec::IntoIter<Mark>,
    file: Option<File>,
    runs: Vec<Run>,
    heap: BinaryHeap<Reverse<(Mark, usize)>>,
    at_once: usize,
    last: Option<Mark>,
}

impl Sorted {
    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<Mark>> {
        loop {
            let mark = match self.held.next() {
                Some(mark) => Some(mark),
                None => self.merge()?,
            };
            let Some(mark) = mark else {
                return Ok(None);
            };
            if !self.last.is_some_and(|last| last.is_same_key(&mark)) {
                self.last = Some(mark);
                return Ok(Some(mark));
            }
        }
    }

    fn merge(&mut self) -> Result<Option<Mark>> {
        let (Some(file), Some(mut top)) = (&self.file, self.heap.peek_mut()) else {
            return Ok(None);
        };
        let Reverse((mark, i)) = *top;
        match self.runs[i].next(file, self.at_once)? {
            Some(next) => *top = Reverse((next, i)),
            None => drop(PeekMut::pop(top)),
        }
        Ok(Some(mark))
    }
}

impl Run {
    fn next(&mut self, file: &File, at_once: usize) -> Result<Option<Mark>> {
        if self.taken == self.read.len() {
            let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            self.read.resize(left.min(at_once), 0);
            file.read_exact_at(&mut self.read, self.next)
                .map_err(spool_failed)?;
            self.next += self.read.len() as u64;
            self.taken = 0;
        }
        let mark = self.read[self.taken..].first_chunk().map(Mark::from_bytes);
        self.taken += if mark.is_some() { Mark::BYTES } else { 0 };
        Ok(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::target::{Dialect, Target};
    use crate::filter::{Filter, Ttl, patterns};
    use crate::resp::write::append_command;
    use crate::transform::Transform;
    use std::collections::{BTreeMap, HashSet};
    use tempfile::TempDir;

    type Keys = HashSet<(u64, Vec<u8>)>;

    const TINY: Limits = Limits { memory_bytes: 1 };

    fn new_log() -> (TempDir, KeyLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = KeyLog::open(&dir.path().join("a.keys")).unwrap();
        (dir, log)
    }

    /// A snapshot of strings.
    fn rdb<'k>(keys: impl IntoIterator<Item = (u64, &'k [u8])>) -> Vec<u8> {
        let mut file = b"REDIS0004".to_vec();
        for (db, key) in keys {
            file.push(0xfe);
            write_length(&mut file, db);
            file.push(0);
            write_length(&mut file, key.len() as u64);
            file.extend_from_slice(key);
            file.extend_from_slice(b"\x01v");
        }
        file.push(0xff);
        file
    }

    fn none() -> Vec<u8> {
        rdb([])
    }

    /// A log file of command lines.
    fn aof(dir: &TempDir, lines: &str) -> PathBuf {
        let mut bytes = Vec::new();
        for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            append_command(&mut bytes, &args);
        }
        let path = dir.path().join("a.aof");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn gone_with(log: &KeyLog, snapshot: &[u8], limits: Limits) -> Keys {
        let mut keys = Keys::new();
        let mut db_before = 0;
        compared(log, snapshot, limits, |db, key| {
            assert!(db >= db_before);
            db_before = db;
            assert!(keys.insert((db, key.to_vec())), "{db} {key:?} twice");
            Ok(())
        })
        .unwrap();
        keys
    }

    /// Compares the names that keys have at the source.
    fn compared(
        log: &KeyLog,
        snapshot: &[u8],
        limits: Limits,
        each: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let settings = Settings {
            no_functions: true,
            ..Settings::default()
        };
        let map = log.map()?;
        let progress = Progress::default();
        compare(
            log,
            map.bytes(),
            Some(snapshot),
            limits,
            &settings,
            &progress,
            each,
        )
    }

    /// As `0:a 1:b`.
    fn gone(log: &KeyLog, snapshot: &[u8]) -> String {
        let keys = gone_with(log, snapshot, Limits::default());
        assert_eq!(gone_with(log, snapshot, TINY), keys);
        let mut shown: Vec<String> = keys
            .iter()
            .map(|(db, key)| format!("{db}:{}", key.escape_ascii()))
            .collect();
        shown.sort();
        shown.join(" ")
    }

    fn after(lines: &str) -> String {
        let (dir, mut log) = new_log();
        log.add_log(&aof(&dir, lines)).unwrap();
        gone(&log, &none())
    }

    #[test]
    fn keys_of_commands() {
        assert_eq!(
            after(
                "SET a 1
                 get b
                 SELECT 3
                 mset c 1 d 2
                 DEL e
                 RENAME f g
                 MOVE h 7
                 COPY i j
                 COPY i k REPLACE DB 5
                 XGROUP CREATE l g 0 MKSTREAM
                 EVAL script 2 m n o
                 ZUNIONSTORE p 1 q
                 EXPIRE r 5
                 NOSUCHCOMMAND s
                 FLUSHALL
                 SET
                 PING"
            ),
            "0:a 3:c 3:d 3:g 3:j 3:l 3:m 3:n 3:p 3:q 5:k 7:h"
        );
        assert_eq!(
            after(
                "MULTI
                 SET a 1
                 SELECT 2
                 SET b 1
                 EXEC
                 SET c 1
                 MULTI
                 SET d 1"
            ),
            "0:a 2:b 2:c"
        );
    }

    #[test]
    fn swapped_databases_count_both() {
        assert_eq!(
            after(
                "SET a 1
                 SWAPDB 0 1
                 SET a 1
                 SET b 1
                 SELECT 4
                 SET c 1"
            ),
            "0:a 0:b 1:a 4:c"
        );
        assert_eq!(
            after(
                "SET a 1
                 SWAPDB 0 1
                 SET b 1
                 SWAPDB 1 2
                 SWAPDB 5 6
                 SELECT 2
                 SET c 1
                 SELECT 5
                 SET d 1
                 SWAPDB 7 7"
            ),
            "0:a 0:b 1:a 1:b 2:a 2:b 2:c 5:d"
        );
        // They are known again from the file.
        let (dir, mut log) = new_log();
        log.add_log(&aof(&dir, "SET a 1\nSWAPDB 0 9")).unwrap();
        let path = log.path().to_owned();
        drop(log);
        assert_eq!(gone(&KeyLog::open(&path).unwrap(), &none()), "0:a 9:a");
        let mut log = KeyLog::open(&path).unwrap();
        let many: String = (0..5000)
            .map(|n| format!("SWAPDB {n} {}\n", n + 1))
            .collect();
        let error = log.add_log(&aof(&dir, &many)).unwrap_err();
        assert!(error.to_string().contains("SWAPDB of more"), "{error}");
    }

    #[test]
    fn against_a_set() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..12 {
            let mut key = |most: u64| {
                let n = random(most);
                let name = match n % 50 {
                    0 => "x".repeat(n as usize * 100),
                    _ => format!("key:{n}"),
                };
                (random(3), name.into_bytes())
            };
            let (dir, mut log) = new_log();
            let mut written = Keys::new();
            let most = 1 + 100 * round;
            for _ in 0..3 {
                let old: Keys = (0..most).map(|_| key(most)).collect();
                let file = rdb(old.iter().map(|(db, key)| (*db, &key[..])));
                assert_eq!(log.add_snapshot(&file).unwrap(), old.len() as u64);
                written.extend(old);
                let mut bytes = Vec::new();
                for _ in 0..most {
                    let (db, name) = key(most * 2);
                    append_command(&mut bytes, &[b"SELECT", db.to_string().as_bytes()]);
                    append_command(&mut bytes, &[b"APPEND", &name, b"v"]);
                    written.insert((db, name));
                }
                let path = dir.path().join("a.aof");
                std::fs::write(&path, bytes).unwrap();
                log.add_log(&path).unwrap();
                let path = log.path().to_owned();
                drop(log);
                log = KeyLog::open(&path).unwrap();
            }
            let new: Keys = (0..most).map(|_| key(most * 2)).collect();
            let file = rdb(new.iter().map(|(db, key)| (*db, &key[..])));
            let expected: Keys = written.difference(&new).cloned().collect();
            for memory_bytes in [1, 100, 1000, 20_000, 32 << 20] {
                assert_eq!(gone_with(&log, &file, Limits { memory_bytes }), expected);
            }
        }
    }

    #[test]
    fn hot_keys_are_logged_once() {
        let (dir, mut log) = new_log();
        let path = aof(&dir, &"INCR a\nEXPIRE a 10\n".repeat(1000));
        log.add_log(&path).unwrap();
        log.add_log(&path).unwrap();
        assert!(std::fs::metadata(log.path()).unwrap().len() < 100);
        assert_eq!(gone(&log, &none()), "0:a");
        log.clear().unwrap();
        assert!(log.is_empty());
        assert_eq!(gone(&log, &none()), "");
        log.add_log(&path).unwrap();
        assert_eq!(gone(&log, &none()), "0:a");
    }

    #[test]
    fn what_is_torn_is_ignored() {
        let (dir, mut log) = new_log();
        let path = log.path().to_owned();
        let mut ends = vec![log.end];
        for i in 0..4 {
            log.add_log(&aof(&dir, &format!("SET key{i} 1\nSET other{i} 1")))
                .unwrap();
            ends.push(log.end);
        }
        log.sync().unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..=whole.len() {
            for tail in [0, 40] {
                let mut bytes = whole[..len].to_vec();
                if len >= HEADER.len() {
                    bytes.resize(len + tail, 0);
                }
                std::fs::write(&path, &bytes).unwrap();
                let mut log = KeyLog::open(&path).unwrap();
                let frames = ends.iter().filter(|end| **end <= len as u64).count();
                let frames = frames.saturating_sub(1);
                let keys = gone_with(&log, &none(), TINY).len();
                assert_eq!(keys, 2 * frames, "{len} {tail}");
                // And it goes on behind it.
                log.add_log(&aof(&dir, "SET more 1")).unwrap();
                drop(log);
                let log = KeyLog::open(&path).unwrap();
                assert_eq!(gone_with(&log, &none(), TINY).len(), keys + 1);
            }
        }
        let mut bytes = whole.clone();
        bytes[ends[1] as usize + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(
            gone(&KeyLog::open(&path).unwrap(), &none()),
            "0:key0 0:other0"
        );
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.keys");
        std::fs::write(&path, "something else").unwrap();
        let error = KeyLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("does not begin as a key log"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"something else");
        std::fs::remove_file(&path).unwrap();
        let log = KeyLog::open(&path).unwrap();
        let error = KeyLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        drop(log);
        KeyLog::open(&path).unwrap();
    }

    #[test]
    fn a_log_that_is_damaged_under_way_is_no_log() {
        let (dir, mut log) = new_log();
        log.add_log(&aof(&dir, "SET a 1")).unwrap();
        log.file.write_all_at(b"x", log.end - 1).unwrap();
        let error = compared(&log, &none(), TINY, |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn broken_snapshots_count_as_far_as_they_go_but_only_the_old_ones() {
        let (_dir, mut log) = new_log();
        let whole = rdb([(0, &b"a"[..]), (0, b"b"), (0, b"c")]);
        // Within the value of c.
        let torn = &whole[..whole.len() - 2];
        assert_eq!(log.add_snapshot(torn).unwrap(), 2);
        log.add_snapshot(b"no snapshot at all").unwrap();
        assert_eq!(gone(&log, &none()), "0:a 0:b");
        for len in 0..whole.len() {
            let result = compared(&log, &whole[..len], TINY, |_, _| panic!("nothing is known"));
            assert!(result.is_err(), "{len}");
        }
        assert_eq!(gone(&log, &whole), "");
    }

    #[test]
    fn snapshots_of_every_kind() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/rdb");
        let mut files = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "rdb") {
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            let mut keys = Keys::new();
            let broken = for_each_name_of(&bytes, false, |_, named| {
                if let Named::Key(db, key, _) = named {
                    keys.insert((db, key.to_vec()));
                }
                Ok(true)
            });
            assert!(broken.unwrap().is_none(), "{}", path.display());
            let (_dir, mut log) = new_log();
            assert_eq!(log.add_snapshot(&bytes).unwrap(), keys.len() as u64);
            assert_eq!(gone_with(&log, &bytes, TINY), Keys::new());
            assert_eq!(gone_with(&log, &none(), TINY), keys);
            // Cut anywhere it is no reason to panic.
            for len in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
                log.add_snapshot(&bytes[..len]).unwrap();
            }
        }
        assert!(files > 10);
    }

    fn written(log: &KeyLog, snapshot: Option<&[u8]>, settings: &Settings) -> String {
        let (mut out, mut stream) = (Vec::new(), Stream { db: Some(0) });
        let progress = Progress::default();
        let n = match snapshot {
            Some(rdb) => write_removals(log, rdb, settings, &mut stream, &mut out, &progress),
            None => write_all(log, settings, &mut stream, &mut out, &progress),
        }
        .unwrap();
        let n = n.keys + n.libraries;
        assert_eq!(progress.commands.load(Relaxed), n);
        assert_eq!(progress.bytes_out.load(Relaxed), out.len() as u64);
        let mut lines: Vec<String> = Vec::new();
        let mut db = "0".to_owned();
        for record in crate::resp::parse::Commands::new(&out, false) {
            let LogRecord::Command(command) = record else {
                panic!("{record:?}")
            };
            let arg = String::from_utf8(command.arg(1).unwrap().to_vec()).unwrap();
            match command.name() {
                b"SELECT" => db = arg,
                b"DEL" => lines.push(format!("{db}:{arg}")),
                b"FUNCTION" => {
                    let name = command.arg(2).unwrap();
                    lines.push(format!("{arg}:{}", name.escape_ascii()));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(stream.db.unwrap().to_string(), db);
        assert_eq!(lines.len() as u64, n);
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn names_at_the_destination_decide() {
        let (dir, mut log) = new_log();
        log.add_snapshot(&rdb([
            (0, &b"a:1"[..]),
            (0, b"a:2"),
            (1, b"b:1"),
            (2, b"z"),
        ]))
        .unwrap();
        log.add_log(&aof(&dir, "SET a:3 1\nSELECT 1\nSET b:2 1"))
            .unwrap();
        let new = rdb([(1, &b"b:1"[..]), (5, b"b:3")]);
        let plain = Settings::default();
        assert_eq!(
            written(&log, Some(&new), &plain),
            "0:a:1 0:a:2 0:a:3 1:b:2 2:z"
        );
        assert_eq!(
            written(&log, None, &plain),
            "0:a:1 0:a:2 0:a:3 1:b:1 1:b:2 2:z"
        );
        let folded = Settings {
            transform: Transform {
                rename_prefix: vec![(b"a:".to_vec(), b"b:".to_vec())],
                db_map: BTreeMap::from([(1, 0), (5, 0)]),
                ..Transform::default()
            },
            ..Settings::default()
        };
        // b:1 is there under another name, b:3 too, b:2 was two keys.
        assert_eq!(written(&log, Some(&new), &folded), "0:b:2 2:z");
        assert_eq!(written(&log, None, &folded), "0:b:1 0:b:2 0:b:3 2:z");
        let chosen = Settings {
            filter: Filter {
                dbs: Some(vec![0, 1]),
                not_keys: patterns(&["b:3".to_owned(), "*2".to_owned()], &[]).unwrap(),
                ..Filter::default()
            },
            ..folded.clone()
        };
        assert_eq!(written(&log, Some(&new), &chosen), "0:b:3");
        let proxy = Settings {
            target: Target {
                dialect: Dialect::Twemproxy,
                key_bytes: Some(3),
                ..Target::default()
            },
            ..folded
        };
        assert_eq!(written(&log, Some(&new), &proxy), "0:b:2");
        let short = Settings {
            target: Target {
                key_bytes: Some(2),
                ..proxy.target
            },
            ..proxy
        };
        assert_eq!(written(&log, Some(&new), &short), "");
    }

    #[test]
    fn names_of_libraries() {
        for (code, name) in [
            ("#!lua name=mylib\nredis.register_function()", "mylib"),
            ("#!LUA  NAME=my_lib \r\n", "my_lib"),
            ("#!lua name=\"mylib\"", "mylib"),
            ("#!lua 'name=mylib'\nname=other", "mylib"),
            ("#!lua other name=7", "7"),
        ] {
            assert_eq!(
                library_name(code.as_bytes()),
                Some(name.as_bytes()),
                "{code}"
            );
        }
        for code in [
            "",
            "lua name=x",
            "#!lua",
            "#!name=x",
            "#!lua\nname=x",
            "#!lua name=",
        ] {
            assert_eq!(library_name(code.as_bytes()), None, "{code}");
        }
    }

    /// A snapshot of libraries, with a key behind them.
    fn with_libraries(names: &[&str]) -> Vec<u8> {
        let mut file = b"REDIS0010".to_vec();
        for name in names {
            let code = format!("#!lua name={name}\n");
            file.extend_from_slice(&[opcode::FUNCTION2, code.len() as u8]);
            file.extend_from_slice(code.as_bytes());
        }
        file.extend_from_slice(b"\xfe\x00\x00\x01k\x01v\xff");
        file.extend_from_slice(&[0; 8]);
        file
    }

    #[test]
    fn libraries_go_where_functions_are_written() {
        let (dir, mut log) = new_log();
        log.add_snapshot(&with_libraries(&["a", "b"])).unwrap();
        let mut bytes = Vec::new();
        let mut add = |args: &[&[u8]]| append_command(&mut bytes, args);
        add(&[b"function", b"load", b"replace", b"#!lua name=c\n"]);
        add(&[b"FUNCTION", b"LOAD", b"#!lua name=d\n"]);
        add(&[b"FUNCTION", b"LOAD", b"no library"]);
        add(&[b"FUNCTION", b"DELETE", b"e"]);
        add(&[b"FUNCTION", b"FLUSH"]);
        let mut payload = with_libraries(&["f", "g"])[9..].to_vec();
        payload.truncate(2 * 15);
        payload.extend_from_slice(&[0; FOOTER_BYTES]);
        add(&[b"FUNCTION", b"RESTORE", &payload, b"FLUSH"]);
        add(&[b"FUNCTION", b"RESTORE", b"short"]);
        let path = dir.path().join("a.aof");
        std::fs::write(&path, bytes).unwrap();
        log.add_log(&path).unwrap();
        let path = log.path().to_owned();
        drop(log);
        let log = KeyLog::open(&path).unwrap();
        let new = with_libraries(&["b", "g"]);
        let plain = Settings::default();
        assert_eq!(
            written(&log, Some(&new), &plain),
            "DELETE:a DELETE:c DELETE:d DELETE:f"
        );
        assert_eq!(
            written(&log, None, &plain),
            "0:k DELETE:a DELETE:b DELETE:c DELETE:d DELETE:f DELETE:g"
        );
        // Names of keys are changed, those of libraries are not.
        let renamed = Settings {
            transform: Transform {
                rename_prefix: vec![(Vec::new(), b"a".to_vec())],
                ..Transform::default()
            },
            ..Settings::default()
        };
        assert!(written(&log, None, &renamed).starts_with("0:ak DELETE:a DELETE:b"));
        let without = Settings {
            no_functions: true,
            ..Settings::default()
        };
        let proxy = Settings {
            target: Target {
                dialect: Dialect::Twemproxy,
                ..Target::default()
            },
            ..Settings::default()
        };
        let old = Settings {
            target: Target {
                version: "6.2".parse().ok(),
                ..Target::default()
            },
            ..Settings::default()
        };
        for settings in [&without, &proxy, &old] {
            assert_eq!(written(&log, None, settings), "0:k");
        }
        // They are no keys.
        assert_eq!(gone(&log, &none()), "0:k");
    }

    #[test]
    fn what_was_not_sent_and_what_belongs_to_others_stays() {
        let (dir, mut log) = new_log();
        let file = rdb([(0, &b"a"[..]), (0, b"b"), (1, b"c"), (1, b"d")]);
        // Each has a SELECTDB of two bytes and a record of five.
        for (end, keys) in [(0, 0), (9, 0), (12, 1), (18, 1), (19, 2), (file.len(), 4)] {
            log.clear().unwrap();
            assert_eq!(
                log.add_snapshot_before(&file, end as u64, None).unwrap(),
                keys,
                "{end}"
            );
        }
        // Behind what is acknowledged each key is asked about, until one says that none is left.
        log.clear().unwrap();
        let mut asked = Vec::new();
        let mut behind = |db: u64, key: &[u8]| {
            asked.push((db, key.to_vec()));
            match key {
                b"b" => Written::No,
                b"c" => Written::Yes,
                _ => Written::NoMore,
            }
        };
        let keys = log.add_snapshot_before(&file, 12, Some(&mut behind));
        assert_eq!(keys.unwrap(), 2);
        assert_eq!(
            asked,
            [(0, b"b".to_vec()), (1, b"c".to_vec()), (1, b"d".to_vec())]
        );
        let unchanged = Settings::default();
        assert_eq!(written(&log, None, &unchanged), "0:a 1:c");
        log.clear().unwrap();
        log.add_snapshot(&file).unwrap();
        log.add_log(&aof(&dir, "SET e 1")).unwrap();
        // They are named as the destination has them.
        let settings = Settings {
            transform: Transform {
                rename_prefix: vec![(Vec::new(), b"x:".to_vec())],
                db_map: BTreeMap::from([(1, 5)]),
                ..Transform::default()
            },
            ..Settings::default()
        };
        log.add_others(5, b"x:c").unwrap();
        log.add_others(0, b"x:d").unwrap();
        log.add_others(0, b"x:e").unwrap();
        let path = log.path().to_owned();
        drop(log);
        let log = KeyLog::open(&path).unwrap();
        assert_eq!(written(&log, None, &settings), "0:x:a 0:x:b 5:x:d");
        assert_eq!(
            written(&log, Some(&rdb([(0, &b"b"[..])])), &settings),
            "0:x:a 5:x:d"
        );
        // Where all else is forgotten they are not, however often, and a crash leaves the one or the other.
        let mut log = log;
        let before = std::fs::read(&path).unwrap();
        for _ in 0..2 {
            log.clear().unwrap();
            assert_eq!(written(&log, None, &settings), "");
        }
        log.add_snapshot(&file).unwrap();
        assert_eq!(written(&log, None, &settings), "0:x:a 0:x:b 5:x:d");
        drop(log);
        let mut log = KeyLog::open(&path).unwrap();
        assert_eq!(written(&log, None, &settings), "0:x:a 0:x:b 5:x:d");
        log.clear().unwrap();
        let after = std::fs::read(&path).unwrap();
        drop(log);
        for len in before.len()..after.len() {
            std::fs::write(&path, &after[..len]).unwrap();
            let mut log = KeyLog::open(&path).unwrap();
            log.add_snapshot(&file).unwrap();
            assert!(!written(&log, None, &settings).contains("5:x:c"), "{len}");
        }
    }

    #[test]
    fn choices_by_type_size_and_time() {
        let (dir, mut log) = new_log();
        log.add_snapshot(&rdb([(0, &b"s"[..]), (0, b"both")]))
            .unwrap();
        log.add_log(&aof(
            &dir,
            "RPUSH l 1\nSADD both 1\nRENAME x renamed\nHSET h f v",
        ))
        .unwrap();
        let with = |filter: Filter| Settings {
            filter,
            ..Settings::default()
        };
        let new = none();
        let lists = with(Filter {
            types: Some(vec!["list".into()]),
            ..Filter::default()
        });
        assert_eq!(written(&log, Some(&new), &lists), "0:l 0:renamed");
        let no_sets = with(Filter {
            not_types: vec!["set".into()],
            ..Filter::default()
        });
        assert_eq!(
            written(&log, Some(&new), &no_sets),
            "0:both 0:h 0:l 0:renamed 0:s"
        );
        for filter in [
            Filter {
                size: Some((0, 10)),
                ..Filter::default()
            },
            Filter {
                ttl: Some(Ttl::None),
                ..Filter::default()
            },
        ] {
            assert_eq!(
                written(&log, Some(&new), &with(filter)),
                "0:both 0:h 0:l 0:renamed"
            );
        }
    }

    #[test]
    fn large_names_and_a_wish_to_stop() {
        let (dir, mut log) = new_log();
        let large = "k".repeat(3 * FRAME_BYTES);
        log.add_log(&aof(&dir, &format!("SET a 1\nSET {large} 1\nSET b 1")))
            .unwrap();
        let path = log.path().to_owned();
        drop(log);
        let log = KeyLog::open(&path).unwrap();
        let expected = format!("0:a 0:b 0:{large}");
        assert_eq!(written(&log, None, &Settings::default()), expected);
        let progress = Progress::default();
        progress.stop.store(true, Relaxed);
        let (mut out, mut stream) = (Vec::new(), Stream::default());
        let error =
            write_all(&log, &Settings::default(), &mut stream, &mut out, &progress).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Stopped));
    }
}
