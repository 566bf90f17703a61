//! What was sorted and written to a temporary file, and how several of these are read as one.
//!
//! A run is a list of keys, ordered by generation and name, each followed by its fields in order:
//!
//! - a key: a byte (bits 0–1 its own time: 0 unknown, 1 removed, 2 held; bit 2: it hides older
//!   fields), the generation, the length of its name, the name, its time if it is held;
//! - a field: a byte (bits 0–1 as above, bit 3), the length of its name, the name, its time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::memory::Time;
use super::varint;
use crate::error::{Error, Result};

const REMOVED: u8 = 1;
const AT: u8 = 2;
const HIDES: u8 = 4;
const FIELD: u8 = 8;

/// A key can be looked up from every so many bytes of a run: half as much is read for it. Twice that
/// for each level, or marks would take more and more memory.
const MARK_BYTES: u64 = 8 << 10;

/// Of a mark's name so much is kept. Where names have more than this in common, more is read.
const MARK_NAME_BYTES: usize = 256;

/// What is read first. Most often one key is looked for, which is not far away.
const FIRST_READ_BYTES: usize = 8 << 10;

/// What is read at a time in the end, each time being twice the one before.
const READ_BYTES: usize = 64 << 10;

/// What is written at a time.
const WRITE_BYTES: usize = 256 << 10;

/// Space for a name that is kept from one to the next.
const NAME_BYTES: usize = 64 << 10;

/// A file that is complete.
pub(super) struct Run {
    file: Arc<File>,
    len: u64,
    /// Keys in it.
    pub keys: u64,
    /// How often what is in it was merged.
    pub level: u32,
    marks: Vec<Mark>,
    /// Names of the marks, one behind the other.
    mark_names: Vec<u8>,
    filter: Filter,
}

/// A place in the file where a key begins.
struct Mark {
    generation: u64,
    offset: u64,
    /// Where its name is, cut, in `mark_names`.
    name: Range<usize>,
}

impl Run {
    /// Whether anything of a key may be in it, by the hash of generation and name.
    #[inline]
    pub fn may_have(&self, hash: u64) -> bool {
        self.filter.may_have(hash)
    }

    /// Bytes of its filter.
    pub fn filter_bytes(&self) -> usize {
        self.filter.0.len() * size_of::<[u64; 8]>()
    }

    /// Reads all of it.
    pub fn read(&self) -> Result<Reader> {
        self.read_from(0)
    }

    /// Reads from the first key that is not before this one, if there is any.
    pub fn seek(&self, generation: u64, name: &[u8]) -> Result<Reader> {
        // Less when cut is less when whole, so the key is not before the last of these.
        let cut = &name[..name.len().min(MARK_NAME_BYTES)];
        let before = self.marks.partition_point(|mark| {
            (mark.generation, &self.mark_names[mark.name.clone()]) < (generation, cut)
        });
        let mark = self.marks[..before].last();
        let mut reader = self.read_from(mark.map_or(0, |mark| mark.offset))?;
        while !reader.ended && (reader.generation, &reader.key[..]) < (generation, name) {
            reader.next_key()?;
        }
        Ok(reader)
    }

    fn read_from(&self, offset: u64) -> Result<Reader> {
        let mut reader = Reader {
            file: Arc::clone(&self.file),
            len: self.len,
            offset,
            block: FIRST_READ_BYTES,
            buffer: Vec::new(),
            at: 0,
            generation: 0,
            key: Vec::new(),
            own: Time::Unknown,
            hides_fields: false,
            field: Vec::new(),
            field_time: Time::Unknown,
            ended: false,
        };
        reader.next_key()?;
        Ok(reader)
    }
}

/// Writes a run.
pub(super) struct Writer {
    out: BufWriter<Arc<File>>,
    run: Run,
    next_mark: u64,
    scratch: Vec<u8>,
}

impl Writer {
    /// Writes to a temporary file that has no name. Memory for the filter is taken for so many
    /// keys, but not above `filter_bytes`.
    pub fn create(level: u32, keys: u64, filter_bytes: usize) -> Result<Writer> {
        let file = tempfile::tempfile().map_err(|e| {
            let dir = tempfile::env::temp_dir();
            Error::io(format!("no temporary file in {}", dir.display()), e)
        })?;
        let filter = Filter::new(keys, filter_bytes);
        Ok(Writer::new(file, level, filter))
    }

    fn new(file: File, level: u32, filter: Filter) -> Writer {
        let file = Arc::new(file);
        Writer {
            out: BufWriter::with_capacity(WRITE_BYTES, Arc::clone(&file)),
            run: Run {
                file,
                len: 0,
                keys: 0,
                level,
                marks: Vec::new(),
                mark_names: Vec::new(),
                filter,
            },
            next_mark: 0,
            scratch: Vec::new(),
        }
    }

    /// Writes a key behind those before it. `hash` is that of generation and name.
    pub fn key(
        &mut self,
        hash: u64,
        generation: u64,
        name: &[u8],
        own: Time,
        hides_fields: bool,
    ) -> Result<()> {
        let run = &mut self.run;
        run.keys += 1;
        run.filter.add(hash);
        if run.len >= self.next_mark {
            self.next_mark = run.len + (MARK_BYTES << run.level.min(8));
            let start = run.mark_names.len();
            let cut = &name[..name.len().min(MARK_NAME_BYTES)];
            run.mark_names.extend_from_slice(cut);
            run.marks.push(Mark {
                generation,
                offset: run.len,
                name: start..run.mark_names.len(),
            });
        }
        self.scratch.clear();
        self.scratch.push(if hides_fields { HIDES } else { 0 });
        varint::write(generation, &mut self.scratch);
        self.finish_entry(name, own)
    }

    /// Writes a field of the last key, behind those before it.
    pub fn field(&mut self, name: &[u8], time: Time) -> Result<()> {
        self.scratch.clear();
        self.scratch.push(FIELD);
        self.finish_entry(name, time)
    }

    fn finish_entry(&mut self, name: &[u8], time: Time) -> Result<()> {
        let head = &mut self.scratch;
        varint::write(name.len() as u64, head);
        let mut len = head.len() + name.len();
        head[0] |= match time {
            Time::Unknown => 0,
            Time::Removed => REMOVED,
            Time::At(_) => AT,
        };
        self.out.write_all(head).map_err(failed)?;
        self.out.write_all(name).map_err(failed)?;
        if let Time::At(at_ms) = time {
            self.out.write_all(&at_ms.to_le_bytes()).map_err(failed)?;
            len += 8;
        }
        self.run.len += len as u64;
        Ok(())
    }

    /// Writes the rest.
    pub fn finish(mut self) -> Result<Run> {
        self.out.flush().map_err(failed)?;
        self.run.marks.shrink_to_fit();
        self.run.mark_names.shrink_to_fit();
        Ok(self.run)
    }
}

/// Reads a run, standing at a key or, after that, at a field of it.
pub(super) struct Reader {
    file: Arc<File>,
    len: u64,
    /// Where the buffer ends in the file.
    offset: u64,
    /// What is read at a time.
    block: usize,
    buffer: Vec<u8>,
    /// What is taken of the buffer.
    at: usize,
    /// The key's generation.
    pub generation: u64,
    /// The key's name.
    pub key: Vec<u8>,
    /// The key's own time.
    pub own: Time,
    /// Whether the key hides older fields.
    pub hides_fields: bool,
    /// The field's name.
    pub field: Vec<u8>,
    /// The field's time.
    pub field_time: Time,
    /// Whether there is no key any more.
    pub ended: bool,
}

impl Reader {
    /// Goes on to the next key, past all fields.
    pub fn next_key(&mut self) -> Result<()> {
        while self.next_field()? {}
        let Some(head) = self.peek()? else {
            self.ended = true;
            return Ok(());
        };
        self.at += 1;
        self.hides_fields = head & HIDES != 0;
        self.generation = self.number()?;
        let mut key = std::mem::take(&mut self.key);
        self.name(&mut key)?;
        self.key = key;
        self.own = self.time(head)?;
        Ok(())
    }

    /// Goes on to the next field of the key, if there is one.
    pub fn next_field(&mut self) -> Result<bool> {
        let Some(head) = self.peek()?.filter(|head| head & FIELD != 0) else {
            return Ok(false);
        };
        self.at += 1;
        let mut field = std::mem::take(&mut self.field);
        self.name(&mut field)?;
        self.field = field;
        self.field_time = self.time(head)?;
        Ok(true)
    }

    /// Whether nothing that is older counts for the key any more.
    pub fn hides_all(&self) -> bool {
        self.hides_fields && self.own != Time::Unknown
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        self.fill(1)?;
        Ok(self.buffer.get(self.at).copied())
    }

    /// Has so many bytes in the buffer, or all that are left.
    #[inline]
    fn fill(&mut self, wanted: usize) -> Result<()> {
        if self.buffer.len() - self.at < wanted && self.offset < self.len {
            self.read_block()?;
        }
        Ok(())
    }

    fn read_block(&mut self) -> Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let left = self.buffer.len();
        let more = (self.len - self.offset).min(self.block as u64) as usize;
        self.buffer.resize(left + more, 0);
        let read = self
            .file
            .read_exact_at(&mut self.buffer[left..], self.offset);
        read.map_err(failed)?;
        self.offset += more as u64;
        self.block = (self.block * 2).min(READ_BYTES);
        Ok(())
    }

    fn number(&mut self) -> Result<u64> {
        self.fill(varint::MAX)?;
        match varint::read(&self.buffer[self.at..]) {
            (_, 0) => Err(damaged()),
            (number, len) => {
                self.at += len;
                Ok(number)
            }
        }
    }

    fn name(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let len = self.number()?;
        if out.capacity() > NAME_BYTES {
            *out = Vec::new();
        }
        out.clear();
        let buffered = &self.buffer[self.at..];
        if let Some(name) = usize::try_from(len)
            .ok()
            .and_then(|len| buffered.get(..len))
        {
            out.extend_from_slice(name);
            self.at += name.len();
            return Ok(());
        }
        // Not by way of the buffer, which stays as small as it is.
        out.extend_from_slice(buffered);
        let rest = len - buffered.len() as u64;
        if rest > self.len - self.offset {
            return Err(damaged());
        }
        out.resize(len as usize, 0);
        let read = self
            .file
            .read_exact_at(&mut out[buffered.len()..], self.offset);
        read.map_err(failed)?;
        self.offset += rest;
        self.buffer.clear();
        self.at = 0;
        Ok(())
    }

    fn time(&mut self, head: u8) -> Result<Time> {
        if head & REMOVED != 0 {
            return Ok(Time::Removed);
        }
        if head & AT == 0 {
            return Ok(Time::Unknown);
        }
        self.fill(8)?;
        let bytes = self.buffer[self.at..].first_chunk().ok_or_else(damaged)?;
        self.at += 8;
        Ok(Time::At(i64::from_le_bytes(*bytes)))
    }
}

/// Several runs read as one, in which the newest of what is known of a key or field counts.
pub(super) struct Merge {
    /// The newest first.
    readers: Vec<Reader>,
    /// Those at a key still to come, as a heap by generation, key, and the newest.
    heap: Vec<usize>,
    /// Those at the present key, the newest first.
    same: Vec<usize>,
    /// Those of them that are at a field which counts.
    fields: Vec<usize>,
    /// Those of these that are at the present field.
    taken: Vec<usize>,
}

impl Merge {
    /// Stands in front of the first key of the readers, the newest of which is the first.
    pub fn new(readers: Vec<Reader>) -> Merge {
        let mut merge = Merge {
            heap: Vec::new(),
            same: Vec::new(),
            fields: Vec::new(),
            taken: Vec::new(),
            readers,
        };
        for at in 0..merge.readers.len() {
            merge.push(at);
        }
        merge
    }

    /// Goes on to the next key, if there is one.
    pub fn next_key(&mut self) -> Result<bool> {
        for i in 0..self.same.len() {
            let at = self.same[i];
            self.readers[at].next_key()?;
            self.push(at);
        }
        self.same.clear();
        self.fields.clear();
        self.taken.clear();
        let Some(first) = self.pop() else {
            return Ok(false);
        };
        self.same.push(first);
        while let Some(&next) = self.heap.first()
            && self.readers[next].generation == self.readers[first].generation
            && self.readers[next].key == self.readers[first].key
        {
            self.pop();
            self.same.push(next);
        }
        for &at in &self.same {
            if self.readers[at].next_field()? {
                self.fields.push(at);
            }
            if self.readers[at].hides_fields {
                break;
            }
        }
        Ok(true)
    }

    /// Generation and name of the key.
    pub fn key(&self) -> (u64, &[u8]) {
        let reader = &self.readers[self.same[0]];
        (reader.generation, &reader.key)
    }

    /// What is known of the key's own time.
    pub fn own(&self) -> Time {
        let times = self.same.iter().map(|&at| self.readers[at].own);
        let mut known = times.filter(|&time| time != Time::Unknown);
        known.next().unwrap_or(Time::Unknown)
    }

    /// Whether the key hides fields that are older than all of these runs.
    pub fn hides_fields(&self) -> bool {
        self.same.iter().any(|&at| self.readers[at].hides_fields)
    }

    /// Whether there are fields of the key to come.
    pub fn has_fields(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Goes on to the next field of the key, if there is one.
    pub fn next_field(&mut self) -> Result<Option<(&[u8], Time)>> {
        for at in self.taken.drain(..) {
            if !self.readers[at].next_field()? {
                self.fields.retain(|&other| other != at);
            }
        }
        let name = |at: usize| &self.readers[at].field;
        // Of equal ones this is the first, the newest.
        let Some(first) = self.fields.iter().copied().min_by_key(|&at| name(at)) else {
            return Ok(None);
        };
        let same = self.fields.iter().filter(|&&at| name(at) == name(first));
        self.taken.extend(same);
        let reader = &self.readers[first];
        Ok(Some((&reader.field, reader.field_time)))
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        let rank = |at: usize| {
            let reader = &self.readers[at];
            (reader.generation, &reader.key[..], at)
        };
        rank(a) < rank(b)
    }

    fn push(&mut self, at: usize) {
        if self.readers[at].ended {
            return;
        }
        let mut i = self.heap.len();
        self.heap.push(at);
        while i > 0 && self.is_before(self.heap[i], self.heap[(i - 1) / 2]) {
            self.heap.swap(i, (i - 1) / 2);
            i = (i - 1) / 2;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        if self.heap.is_empty() {
            return None;
        }
        let first = self.heap.swap_remove(0);
        let mut i = 0;
        loop {
            let (left, right) = (2 * i + 1, 2 * i + 2);
            let mut least = i;
            for child in [left, right] {
                if child < self.heap.len() && self.is_before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == i {
                return Some(first);
            }
            self.heap.swap(i, least);
            i = least;
        }
    }
}

/// Which keys a run may have something of: a Bloom filter whose bits for a key are in one cache
/// line. Nearly every command of a log clears a key, and nearly none of these is held.
struct Filter(Vec<[u64; 8]>);

/// Bits in a filter for each key: of other keys 1 in 80 seems to be there.
const KEY_BITS: u64 = 10;

impl Filter {
    fn new(keys: u64, max_bytes: usize) -> Filter {
        let lines = (keys.saturating_mul(KEY_BITS) / 512 + 1).min(max_bytes as u64 / 64);
        Filter(vec![[0; 8]; lines.max(1) as usize])
    }

    /// The line of a key, and its bits there.
    #[inline]
    fn places(&self, hash: u64) -> (usize, [(usize, u64); 6]) {
        let line = (u128::from(hash) * self.0.len() as u128) >> 64;
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = [0, 1, 2, 3, 4, 5].map(|i| {
            let bit = mixed >> (10 + 9 * i);
            ((bit >> 6 & 7) as usize, 1 << (bit & 63))
        });
        (line as usize, bits)
    }

    fn add(&mut self, hash: u64) {
        let (line, bits) = self.places(hash);
        for (word, bit) in bits {
            self.0[line][word] |= bit;
        }
    }

    #[inline]
    fn may_have(&self, hash: u64) -> bool {
        let (line, bits) = self.places(hash);
        let line = &self.0[line];
        bits.iter().all(|&(word, bit)| line[word] & bit != 0)
    }
}

#[cold]
fn failed(source: io::Error) -> Error {
    Error::io(
        "temporary file cannot be read or written (see --tmp-dir)",
        source,
    )
}

#[cold]
fn damaged() -> Error {
    failed(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T>) -> String {
        result.err().unwrap().to_string()
    }

    #[test]
    fn a_file_that_fails_is_an_error_that_names_the_flag() {
        let read_only = File::open("/dev/null").unwrap();
        let mut writer = Writer::new(read_only, 0, Filter::new(1, 0));
        writer.key(0, 1, b"k", Time::At(1), false).unwrap();
        let error = message(writer.finish());
        assert!(error.contains("(see --tmp-dir)"), "{error}");
    }

    #[test]
    fn a_file_cut_or_overwritten_is_an_error() {
        let mut writer = Writer::create(0, 1, 0).unwrap();
        writer.key(0, 1, b"key", Time::At(1), false).unwrap();
        writer.field(&[7; 100_000], Time::Removed).unwrap();
        writer.key(0, 1, b"last", Time::At(1), false).unwrap();
        let run = writer.finish().unwrap();
        let walk = |run: &Run| -> Result<u32> {
            let mut reader = run.read()?;
            let mut keys = 0;
            while !reader.ended {
                keys += 1;
                reader.next_key()?;
            }
            Ok(keys)
        };
        assert_eq!(walk(&run).unwrap(), 2);
        // The length of the first name.
        run.file.write_all_at(&[0xff; 9], 2).unwrap();
        assert!(message(walk(&run)).contains("(see --tmp-dir)"));
        run.file.set_len(run.len - 1).unwrap();
        assert!(message(walk(&run)).contains("(see --tmp-dir)"));
        run.file.set_len(0).unwrap();
        assert!(message(walk(&run)).contains("(see --tmp-dir)"));
    }

    /// Names that are alike for longer than a mark's are still found.
    #[test]
    fn every_key_is_found_and_none_beside_them() {
        for common in [0, 8, 300] {
            let name = |i: u32| [&vec![b'n'; common][..], &i.to_be_bytes()].concat();
            let mut writer = Writer::create(0, 1, 0).unwrap();
            for i in 0..3000 {
                let own = Time::At(i.into());
                writer
                    .key(0, 1 + u64::from(i / 1500), &name(i * 2), own, false)
                    .unwrap();
                writer.field(&[b'f'; 50], own).unwrap();
            }
            let run = writer.finish().unwrap();
            assert!(run.marks.len() > 3);
            for i in (0..3000).step_by(7) {
                let generation = 1 + u64::from(i / 1500);
                let reader = run.seek(generation, &name(i * 2)).unwrap();
                assert_eq!(reader.own, Time::At(i.into()));
                let reader = run.seek(generation, &name(i * 2 + 1)).unwrap();
                assert!(reader.ended == (i == 2999) && reader.own != Time::At(i.into()));
            }
            assert!(run.seek(3, b"").unwrap().ended);
            assert_eq!(run.seek(2, b"").unwrap().own, Time::At(1500));
        }
    }

    #[test]
    fn a_filter_has_what_was_added_and_little_else() {
        let mut filter = Filter::new(10_000, usize::MAX);
        let hash = |i: u64| {
            let mixed = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
        };
        (0..10_000).for_each(|i| filter.add(hash(i)));
        assert!((0..10_000).all(|i| filter.may_have(hash(i))));
        let others = (10_000..20_000)
            .filter(|&i| filter.may_have(hash(i)))
            .count();
        assert!(others < 300, "{others}");
    }
}
