//! What can be saved of a damaged snapshot: a new one with all whole keys before and behind each hole.
//!
//! Records are copied as they stand. Where one cannot be read, its lengths may still lead to the next; where not, the
//! next one is searched for ([`resync`](super::resync)). What was lost is listed, and what is kept and may not be what
//! it was is listed too.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;

use super::resync::{Broken, Clean, Step, Walker, ends_itself};
use crate::cursor::{At, Cursor};
use crate::encoding::crc64::crc64;
use crate::encoding::length::write_length;
use crate::error::{Error, ErrorKind, KeyName, Result};
use crate::pipeline::Progress;
use crate::rdb::write::Writer;
use crate::rdb::{Format, Reader, Record, key_name, opcode, type_name};
use crate::value::TypeByte;

/// What was saved, and what not.
#[derive(Debug, Default)]
pub struct Salvaged {
    /// Keys in the new file.
    pub keys: u64,
    /// Keys that are known to be lost: their names were read.
    pub lost: u64,
    /// What could not be read, in order of the file; at most as many as were asked for.
    pub holes: Vec<Hole>,
    /// Holes beside these.
    pub more_holes: u64,
    /// Bytes in holes.
    pub bytes_lost: u64,
    /// Keys that were kept and may not be what they were; at most as many as were asked for.
    pub doubts: Vec<Doubt>,
    /// Such keys beside these.
    pub more_doubts: u64,
    /// Keys that were left out because one of their name was there already.
    pub doubled: u64,
    /// Whether the file's end was found.
    pub has_end: bool,
    /// Position behind the end and its checksum, where that was found and something stands behind it.
    pub end: Option<u64>,
    /// Whether a hole stands before the first key that was kept, where libraries stand: nothing tells how many.
    pub is_head_hit: bool,
    /// Module values in the new file: only their modules know whether they are good.
    pub modules: u64,
    /// Function libraries in the new file: only their engines know that.
    pub libraries: u64,
}

/// Bytes that could not be read.
#[derive(Debug)]
pub struct Hole {
    /// The first of them.
    pub from: u64,
    /// Position behind the last.
    pub to: u64,
    /// Why.
    pub error: Error,
    /// Keys that are known to have begun there.
    pub keys: Vec<KeyName>,
    /// How the file goes on behind it.
    pub behind: Behind,
    /// The database that keys behind it are taken for.
    pub db: u64,
}

/// How a file goes on behind a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// The broken value's lengths lead to the next record: only that key is lost.
    Lengths,
    /// With a SELECTDB: the database is certain.
    Selected,
    /// With a key. A SELECTDB may have been in the hole; then it and what follows were of another database.
    Uncertain {
        /// The keys that RESIZEDB announces for the database, and those that were found, where they are more: then a
        /// SELECTDB was in the hole.
        too_many: Option<(u64, u64)>,
    },
    /// Not at all.
    End,
}

/// A key that was kept and may not be what it was.
#[derive(Debug)]
pub struct Doubt {
    /// The key.
    pub key: KeyName,
    /// Its first byte.
    pub offset: u64,
    /// Why.
    pub why: Why,
}

/// Why a key may not be what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the last one before a hole, and nothing in its value says where that ends; or it is none at all.
    Before,
    /// It is the first one behind a hole, without expiry: that may have been in the hole; or it is none at all.
    Behind,
    /// Its value has a run of zero bytes, as lost blocks of a disk leave them.
    Zeros,
    /// A key of this name stands in this database before it, and that one was kept. A SELECTDB may have been in a hole
    /// between them. Servers do not load a file with both.
    Doubled,
}

/// So many zero bytes in a row are conspicuous.
const ZEROS: usize = 512;
/// A hole of one byte over and over shows itself by this many.
const RUN: usize = 64;
/// Values may well end with so many bytes that are like those of a hole behind them.
const LIKE: usize = 8;
/// So many names are remembered, so that none stands twice in the new file: some 150 MB. In a file of more keys those
/// behind are held against these only.
const NAMES: usize = 8 << 20;
/// Records that are kept back until what follows them is known to be good.
const BACK: usize = 8;

/// Writes what can be saved of `data` to `out`. `most`: holes and doubts that are listed. Errors: of `out`, of the run,
/// and where the magic cannot be read.
pub fn salvage<W: Write>(
    data: &[u8],
    out: W,
    most: usize,
    progress: &Progress,
) -> Result<(Salvaged, W)> {
    let mut c = Cursor::new(data, 0);
    let format = Format::parse(&mut c, false)?;
    let failed = |e| Error::io("what was saved cannot be written", e);
    progress
        .total
        .fetch_add(data.len() as u64, Ordering::Relaxed);
    let mut saving = Saving {
        data,
        format,
        walker: Walker::new(data, format),
        out: Writer::new(out, format.version).map_err(failed)?,
        back: VecDeque::new(),
        progress,
        told: c.pos(),
        most,
        db: 0,
        selected: 0,
        announced: None,
        counted: 0,
        last_key: None,
        gap: None,
        is_behind: false,
        has_keys: false,
        names: HashSet::default(),
        saved: Salvaged::default(),
    };
    saving.all(c.pos())?;
    let out = saving.out.finish().map_err(failed)?;
    Ok((saving.saved, out))
}

/// A record that is kept back.
#[derive(Debug, Clone, Copy)]
struct Kept {
    start: usize,
    end: usize,
    db: u64,
    key: Option<Clean>,
}

struct Saving<'a, W: Write> {
    data: &'a [u8],
    format: Format,
    walker: Walker<'a>,
    out: Writer<W>,
    back: VecDeque<Kept>,
    progress: &'a Progress,
    /// Up to where progress was told.
    told: usize,
    most: usize,
    /// The database of the present place, and that of the last SELECTDB written.
    db: u64,
    selected: u64,
    /// Keys that RESIZEDB announced for the present database, and those that were found.
    announced: Option<u64>,
    counted: u64,
    /// The database and the name of the last key.
    last_key: Option<(u64, u64)>,
    /// The last hole behind which the database is uncertain.
    gap: Option<usize>,
    /// Whether the next record is the first one behind a hole.
    is_behind: bool,
    has_keys: bool,
    /// Hashes of the names that were written, with their databases.
    names: HashSet<u64, RandomState>,
    saved: Salvaged,
}

impl<W: Write> Saving<'_, W> {
    /// Goes through the file from its first record on.
    fn all(&mut self, first: usize) -> Result<()> {
        let mut pos = first;
        loop {
            self.progress.check_stop()?;
            self.tell(pos);
            if pos == self.data.len() {
                let error = Error::new(
                    ErrorKind::Truncated { wanted: 1, left: 0 },
                    At::file(pos as u64),
                );
                self.hole(pos, pos, error, Vec::new(), Behind::End);
                break;
            }
            let broken = match self.walker.step(pos, self.data.len(), self.db)? {
                Step::Key(key) => match self.refuse(&key)? {
                    None => {
                        self.key(key)?;
                        pos = key.end;
                        continue;
                    }
                    Some(error) => Broken {
                        error,
                        key: None,
                        value_end: None,
                    },
                },
                Step::Eof { end } => {
                    if self.walker.is_end(end) || self.is_vouched_end(end) {
                        self.saved.has_end = true;
                        let checksum = if self.format.version >= 5 { 8 } else { 0 };
                        let behind = end + checksum;
                        self.saved.end = (behind < self.data.len()).then_some(behind as u64);
                        break;
                    }
                    Broken {
                        error: Error::new(ErrorKind::EarlyEnd, At::file(pos as u64)),
                        key: None,
                        value_end: None,
                    }
                }
                Step::Broken(broken) => broken,
                Step::Select { db, end } => {
                    self.close_db();
                    self.db = db;
                    self.keep(pos, end, None)?;
                    (self.is_behind, self.gap) = (false, None);
                    pos = end;
                    continue;
                }
                Step::Hint { announced, end } => {
                    self.announced = announced.or(self.announced);
                    self.keep(pos, end, None)?;
                    pos = end;
                    continue;
                }
                Step::Other { end } => {
                    self.keep(pos, end, None)?;
                    pos = end;
                    continue;
                }
                Step::Template { id, names, end } => {
                    // Behind a key servers refuse it, and with a number that is taken.
                    if !self.has_keys && self.walker.templates.insert(id, names) {
                        self.keep(pos, end, None)?;
                        pos = end;
                        continue;
                    }
                    Broken {
                        error: Error::new(
                            ErrorKind::BadTemplate(
                                "stands behind the first key, or its id occurs twice",
                            ),
                            At::file(pos as u64),
                        ),
                        key: None,
                        value_end: Some(end),
                    }
                }
            };
            match self.go_on(pos, broken)? {
                Some(next) => pos = next,
                None => break,
            }
        }
        self.close_db();
        while let Some(kept) = self.back.pop_front() {
            self.write(kept)?;
        }
        self.tell(self.data.len());
        Ok(())
    }

    /// Whether a file ends with the EOF opcode before `end` whatever stands behind: no hole stands before it, and the
    /// checksum is that of all up to there, or has been cut. So the checksum is taken once at most.
    fn is_vouched_end(&self, end: usize) -> bool {
        if !self.saved.holes.is_empty() || self.format.version < 5 {
            return false;
        }
        match self.data[end..].first_chunk::<8>() {
            Some(stored) => {
                let stored = u64::from_le_bytes(*stored);
                stored != 0 && stored == crc64(&self.data[..end])
            }
            None => true,
        }
    }

    /// Why a record that decodes is none all the same: bytes that repeat, and zero bytes above all, decode too.
    fn refuse(&mut self, key: &Clean) -> Result<Option<Error>> {
        let at = At::file(key.start as u64);
        if self.last_key == Some((self.db, key.name)) {
            return Ok(Some(Error::new(ErrorKind::Duplicate("a key"), at)));
        }
        if self.walker.is_zeros(key) && !self.walker.leads_on(key.end)? {
            return Ok(Some(Error::new(ErrorKind::Unnamed, at)));
        }
        Ok(None)
    }

    fn key(&mut self, key: Clean) -> Result<()> {
        self.counted += 1;
        self.has_keys = true;
        self.walker.see(&key);
        self.last_key = Some((self.db, key.name));
        self.keep(key.start, key.end, Some(key))?;
        if std::mem::take(&mut self.is_behind) && !key.has_attributes {
            self.doubt(key.start, self.db, Why::Behind);
        }
        Ok(())
    }

    /// Keeps a record, and writes the one that is old enough.
    fn keep(&mut self, start: usize, end: usize, key: Option<Clean>) -> Result<()> {
        self.back.push_back(Kept {
            start,
            end,
            db: self.db,
            key,
        });
        if self.back.len() > BACK
            && let Some(oldest) = self.back.pop_front()
        {
            self.write(oldest)?;
        }
        Ok(())
    }

    fn write(&mut self, kept: Kept) -> Result<()> {
        let failed = |e| Error::io("what was saved cannot be written", e);
        let bytes = &self.data[kept.start..kept.end];
        if let Some(key) = kept.key {
            let name = self.names.hasher().hash_one((kept.db, key.name));
            let is_new = match self.names.len() < NAMES {
                true => self.names.insert(name),
                false => !self.names.contains(&name),
            };
            if !is_new {
                self.saved.doubled += 1;
                self.doubt(kept.start, kept.db, Why::Doubled);
                return Ok(());
            }
        }
        if kept.db != self.selected && bytes[0] != opcode::SELECTDB {
            // Its SELECTDB was dropped with what stood around it.
            let mut select = vec![opcode::SELECTDB];
            write_length(&mut select, kept.db);
            self.out.raw(&select).map_err(failed)?;
        }
        if kept.key.is_some() {
            self.saved.keys += 1;
            let is_module = kept.key.is_some_and(|key| key.ty == TypeByte::Module2);
            self.saved.modules += u64::from(is_module);
            if has_zeros(bytes) {
                self.doubt(kept.start, kept.db, Why::Zeros);
            }
        }
        let is_library = matches!(bytes[0], opcode::FUNCTION2 | opcode::FUNCTION_PRE_GA);
        self.saved.libraries += u64::from(is_library);
        self.selected = kept.db;
        self.out.raw(bytes).map_err(failed)
    }

    /// Finds where to go on behind what could not be read at `pos`; nowhere is `None`.
    fn go_on(&mut self, pos: usize, broken: Broken<'_>) -> Result<Option<usize>> {
        let key = broken.key.and_then(|key| {
            broken
                .error
                .key()
                .cloned()
                .or_else(|| self.name_at(key.start, self.db))
        });
        let len = self.data.len();
        if let Some(end) = broken.value_end
            && self.walker.leads_on(end)?
        {
            self.counted += u64::from(key.is_some());
            let keys = key.into_iter().collect();
            self.hole(pos, end, broken.error, keys, Behind::Lengths);
            // Its lengths may have led past the first bytes of the next one.
            self.is_behind = true;
            return Ok(Some(end));
        }
        let progress = self.progress;
        // A length that was altered makes a record swallow others, and it shows where that record ends. What it has
        // swallowed leads on beyond that place; what merely looks like a record within another one ends with it.
        // A record that says itself where it ends has swallowed nothing, nor has any before it to do with this hole.
        let back = self
            .back
            .iter()
            .rev()
            .take_while(|kept| kept.key.is_none_or(|key| !ends_itself(key.ty)))
            .last()
            .map_or(pos, |kept| kept.start + 1);
        let mut next = self
            .walker
            .find(back, pos, Some(pos), |_| progress.check_stop())?;
        if next.is_none() {
            let mut told = pos;
            next = self.walker.find(pos + 1, len, None, |bytes| {
                progress.check_stop()?;
                told += bytes;
                progress.done.fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(())
            })?;
            self.told = told.min(len).max(self.told);
        }
        let mut keys: Vec<KeyName> = key.into_iter().collect();
        let from = self.drop_touched(pos, next.unwrap_or(len), &mut keys);
        let behind = match next {
            None => Behind::End,
            Some(next) if self.data[next] == opcode::SELECTDB => Behind::Selected,
            // These stand before the first SELECTDB.
            Some(next)
                if !self.has_keys
                    && matches!(
                        self.data[next],
                        opcode::AUX | opcode::FUNCTION2 | opcode::HASH_TEMPLATE
                    ) =>
            {
                Behind::Selected
            }
            Some(_) => Behind::Uncertain { too_many: None },
        };
        if let Some(last) = self.back.back()
            && let Some(key) = last.key
            && last.end == from
            && !ends_itself(key.ty)
        {
            self.doubt(key.start, last.db, Why::Before);
        }
        self.saved.is_head_hit |=
            self.saved.keys == 0 && self.back.iter().all(|kept| kept.key.is_none());
        self.counted += keys.len() as u64;
        self.gap = matches!(behind, Behind::Uncertain { .. }).then_some(self.saved.holes.len());
        self.hole(from, next.unwrap_or(len), broken.error, keys, behind);
        self.is_behind = next.is_some();
        self.last_key = None;
        Ok(next)
    }

    /// Takes back the records before a hole that it reaches into; gives where it begins.
    fn drop_touched(&mut self, pos: usize, next: usize, keys: &mut Vec<KeyName>) -> usize {
        let mut from = pos;
        // Records that begin behind the place where it goes on, and the one around it.
        while let Some(last) = self.back.back()
            && last.end > next
        {
            from = self.drop_last(keys);
        }
        // Blocks that a disk has lost are one byte over and over: they go on to both sides of where they show.
        let run = run_around(
            self.data,
            pos,
            self.back.front().map_or(pos, |kept| kept.start),
        );
        while let Some(last) = self.back.back() {
            let begins = run.start.max(last.start);
            let inside = last.end.saturating_sub(begins);
            let name_is_hit = last.key.is_some_and(|key| key.name_end > begins);
            // A module's value ends with its first zero byte, so the hole's own first one may be that.
            let like = match last.key.is_some_and(|key| key.ty == TypeByte::Module2) {
                true => 0,
                false => LIKE,
            };
            if run.len() < RUN || last.end <= run.start || !(inside > like || name_is_hit) {
                break;
            }
            from = self.drop_last(keys);
        }
        // A value that took such blocks for elements ends somewhere behind them, where nothing fits any more. A string
        // ends where its length says, whatever it holds.
        if let Some(last) = self.back.back()
            && let Some(key) = last.key
            && last.end == from
            && !ends_itself(key.ty)
            && key.ty != TypeByte::String
            && has_zeros(&self.data[last.start..last.end])
        {
            from = self.drop_last(keys);
        }
        from
    }

    /// Takes back the last record; gives where it began.
    fn drop_last(&mut self, keys: &mut Vec<KeyName>) -> usize {
        let Some(last) = self.back.pop_back() else {
            return 0;
        };
        if last.key.is_some() {
            self.counted -= 1;
            keys.extend(self.name_at(last.start, last.db));
        }
        last.start
    }

    fn hole(&mut self, from: usize, to: usize, error: Error, keys: Vec<KeyName>, behind: Behind) {
        self.saved.bytes_lost += (to - from) as u64;
        self.saved.lost += keys.len() as u64;
        if self.saved.holes.len() >= self.most.max(1) {
            self.saved.more_holes += 1;
            return;
        }
        self.saved.holes.push(Hole {
            from: from as u64,
            to: to as u64,
            error,
            keys,
            behind,
            db: self.db,
        });
    }

    fn doubt(&mut self, start: usize, db: u64, why: Why) {
        let known = self.saved.doubts.iter().any(|d| d.offset == start as u64);
        match self.name_at(start, db) {
            Some(key) if !known && self.saved.doubts.len() < self.most => {
                self.saved.doubts.push(Doubt {
                    key,
                    offset: start as u64,
                    why,
                });
            }
            Some(_) if !known => self.saved.more_doubts += 1,
            _ => {}
        }
    }

    /// The name of the key whose record begins at `start`.
    fn name_at(&self, start: usize, db: u64) -> Option<KeyName> {
        let mut reader = Reader::new(Cursor::new(self.data, 0), self.format, start);
        match reader.next() {
            Ok(Record::Key(key)) => {
                Some(key_name(&key, db, type_name(key.ty, reader.c), self.format))
            }
            _ => None,
        }
    }

    /// At the end of a database: holds what RESIZEDB announced against what was found.
    fn close_db(&mut self) {
        if let (Some(announced), Some(gap)) = (self.announced, self.gap)
            && self.counted > announced
            && let Some(hole) = self.saved.holes.get_mut(gap)
        {
            hole.behind = Behind::Uncertain {
                too_many: Some((announced, self.counted)),
            };
        }
        (self.announced, self.counted) = (None, 0);
    }

    fn tell(&mut self, pos: usize) {
        if pos > self.told {
            let bytes = (pos - self.told) as u64;
            self.progress.done.fetch_add(bytes, Ordering::Relaxed);
            self.told = pos;
        }
    }
}

/// The bytes around `pos` that are the same as it, not before `least`.
fn run_around(data: &[u8], pos: usize, least: usize) -> std::ops::Range<usize> {
    let Some(&byte) = data.get(pos) else {
        return pos..pos;
    };
    let before = data[least..pos]
        .iter()
        .rev()
        .take_while(|b| **b == byte)
        .count();
    let behind = data[pos..].iter().take_while(|b| **b == byte).count();
    pos - before..pos + behind
}

/// Whether [`ZEROS`] zero bytes or a few more stand in a row.
fn has_zeros(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(ZEROS / 2);
    blocks.any(|block| block[0] == 0 && block.iter().all(|b| *b == 0))
}
