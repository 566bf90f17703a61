//! True expiry times of keys and hash fields whose expiry was written later than it is.
//!
//! A log that is replayed into a live server must not let keys expire in between: a key set with a
//! time that has passed, and given a later one by the next command, would be gone before it is
//! saved. So an expiry too near is written as a later one, and its true time is held here until the
//! log's end, through every rename, copy, move and flush on the way.
//!
//! An ordered map takes what fits in its memory. What does not goes to a B-tree (redb) in an
//! unlinked temporary file, by then with the map as the buffer in front of it: it holds what is
//! newer than the file, removals included, and is merged into the file when full.
//!
//! An entry's name is the same bytes in both: generation, key, field, so encoded that their order
//! is the order of these three whatever bytes they hold (see `write_stem`). redb takes names of
//! 3 GiB; a key and a field of 512 MiB, all zeros, need half of that.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;

use foldhash::fast::RandomState;
use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};

use crate::error::{Error, Result};

/// Times to be set when a log ends, by database, key and hash field.
///
/// Every method that returns a result fails only with the temporary file. What is held is not known
/// any more then, and the run must end.
pub struct Held {
    /// `None`: removed, and the file may still have it.
    memory: BTreeMap<Box<[u8]>, Option<i64>>,
    /// What `memory` costs, in bytes.
    used: usize,
    memory_bytes: usize,
    disk: Option<Disk>,
    /// Entries belong to generations and databases only point to them: this makes FLUSHDB and
    /// SWAPDB cost the same whatever is held.
    dbs: BTreeMap<u64, Generation>,
    next_generation: u64,
    /// Flushed generations of which the file may have entries.
    dead: Vec<u64>,
    /// For names, which are looked up far more often than they are kept.
    scratch: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Generation {
    number: u64,
    /// Entries that are held.
    len: u64,
}

/// Entries are handled in chunks of about so many bytes: a hash may have any number of fields.
const CHUNK_BYTES: usize = 64 << 10;

/// A scratch larger than this is not kept.
const SCRATCH_BYTES: usize = 64 << 10;

impl Held {
    /// Uses about `memory_bytes` of memory, whatever is held: five eighths for the map, a quarter
    /// for the B-tree's cache, an eighth for the filter in front of it.
    pub fn new(memory_bytes: usize) -> Held {
        Held {
            memory: BTreeMap::new(),
            used: 0,
            memory_bytes,
            disk: None,
            dbs: BTreeMap::new(),
            next_generation: 0,
            dead: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Holds the true time of a key, or of a field of the hash there, in place of any before.
    pub fn set(&mut self, db: u64, key: &[u8], field: Option<&[u8]>, at_ms: i64) -> Result<()> {
        let mut name = std::mem::take(&mut self.scratch);
        let stem_len = write_name(self.generation(db), key, field, &mut name);
        let done = self.insert(db, &name, stem_len, at_ms);
        self.give_back(name);
        done
    }

    /// Holds nothing for this key (its fields stay) or this field: it has an expiry that was
    /// written as it is, or none.
    pub fn clear(&mut self, db: u64, key: &[u8], field: Option<&[u8]>) -> Result<()> {
        let Some(generation) = self.filled(db) else {
            return Ok(());
        };
        let mut name = std::mem::take(&mut self.scratch);
        let stem_len = write_name(generation, key, field, &mut name);
        let done = self.remove(db, &name, stem_len);
        self.give_back(name);
        done
    }

    /// Holds nothing for this key and all of its fields: it was deleted or overwritten.
    pub fn clear_key(&mut self, db: u64, key: &[u8]) -> Result<()> {
        let Some(generation) = self.filled(db) else {
            return Ok(());
        };
        let mut end = std::mem::take(&mut self.scratch);
        let stem_len = write_end(generation, key, &mut end);
        let done = self.clear_range(db, &end, stem_len, Bound::Included(&end[..stem_len]));
        self.give_back(end);
        done
    }

    /// Holds nothing for any field of this key, which is no hash any more; its own time stays.
    pub fn clear_fields(&mut self, db: u64, key: &[u8]) -> Result<()> {
        let Some(generation) = self.filled(db) else {
            return Ok(());
        };
        let mut end = std::mem::take(&mut self.scratch);
        let stem_len = write_end(generation, key, &mut end);
        let mut first = Vec::new();
        write_name(generation, key, Some(b""), &mut first);
        let done = self.clear_range(db, &end, stem_len, Bound::Included(&first));
        self.give_back(end);
        done
    }

    /// RENAME: `to` loses what was held for it and takes all of `from`, key and fields.
    pub fn rename(&mut self, db: u64, from: &[u8], to: &[u8]) -> Result<()> {
        self.transfer((db, from), (db, to), false)
    }

    /// COPY: as [`rename`](Held::rename), but `from` keeps its own.
    pub fn copy(&mut self, db: u64, from: &[u8], to_db: u64, to: &[u8]) -> Result<()> {
        self.transfer((db, from), (to_db, to), true)
    }

    /// MOVE: as [`rename`](Held::rename), to the same name in another database.
    pub fn mv(&mut self, db: u64, key: &[u8], to_db: u64) -> Result<()> {
        self.transfer((db, key), (to_db, key), false)
    }

    /// FLUSHDB.
    pub fn flush(&mut self, db: u64) {
        // A generation with nothing in it stays: so each of the dead had an entry that was paid
        // for, and their list cannot outgrow them.
        if self.filled(db).is_some()
            && let Some(generation) = self.dbs.remove(&db)
        {
            if self.is_empty() {
                self.flush_all();
            } else {
                self.dead.push(generation.number);
            }
        }
    }

    /// FLUSHALL. Gives memory and file back.
    pub fn flush_all(&mut self) {
        self.memory.clear();
        self.used = 0;
        self.disk = None;
        self.dbs.clear();
        self.dead.clear();
    }

    /// SWAPDB.
    pub fn swap(&mut self, a: u64, b: u64) {
        let (of_a, of_b) = (self.dbs.remove(&a), self.dbs.remove(&b));
        self.dbs.extend(of_a.map(|generation| (b, generation)));
        self.dbs.extend(of_b.map(|generation| (a, generation)));
    }

    /// Times that are held.
    pub fn len(&self) -> u64 {
        self.dbs.values().map(|generation| generation.len).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.dbs.values().all(|generation| generation.len == 0)
    }

    /// Calls `f` with database, key, field and time of everything, ordered by these, a key before
    /// its fields; then nothing is held. An error of `f` ends it, and all stays held.
    pub fn drain(
        &mut self,
        mut f: impl FnMut(u64, &[u8], Option<&[u8]>, i64) -> Result<()>,
    ) -> Result<()> {
        let mut key = Vec::new();
        for (&db, generation) in &self.dbs {
            if generation.len == 0 {
                continue;
            }
            let end = (generation.number + 1).to_be_bytes();
            let mut from = Bound::Included(Box::from(generation.number.to_be_bytes()));
            loop {
                let chunk = self.chunk(&from, &end, true)?;
                for (name, at_ms) in &chunk {
                    let field = read_name(name, &mut key);
                    f(db, &key, field, *at_ms)?;
                }
                let Some((last, _)) = chunk.into_iter().next_back() else {
                    break;
                };
                from = Bound::Excluded(last);
            }
        }
        self.flush_all();
        Ok(())
    }

    /// The generation of a database that something is held for.
    fn filled(&self, db: u64) -> Option<u64> {
        let generation = self.dbs.get(&db)?;
        (generation.len > 0).then_some(generation.number)
    }

    /// The generation of a database, made where it has none.
    fn generation(&mut self, db: u64) -> u64 {
        let next = &mut self.next_generation;
        let generation = self.dbs.entry(db).or_insert_with(|| {
            *next += 1;
            Generation {
                number: *next,
                len: 0,
            }
        });
        generation.number
    }

    fn count(&mut self, db: u64, add: bool) {
        if let Some(generation) = self.dbs.get_mut(&db) {
            generation.len = if add {
                generation.len + 1
            } else {
                generation.len - 1
            };
        }
    }

    fn give_back(&mut self, scratch: Vec<u8>) {
        if scratch.capacity() <= SCRATCH_BYTES {
            self.scratch = scratch;
        }
    }

    fn insert(&mut self, db: u64, name: &[u8], stem_len: usize, at_ms: i64) -> Result<()> {
        if let Some(slot) = self.memory.get_mut(name) {
            if slot.replace(at_ms).is_none() {
                self.count(db, true);
            }
            return Ok(());
        }
        if !self.on_disk(name, stem_len)? {
            self.count(db, true);
        }
        self.buffer(name, Some(at_ms))
    }

    fn remove(&mut self, db: u64, name: &[u8], stem_len: usize) -> Result<()> {
        match self.memory.get_mut(name) {
            Some(None) => return Ok(()),
            Some(slot) => {
                if may_be_on_disk(&self.disk, &name[..stem_len]) {
                    *slot = None;
                } else {
                    self.memory.remove(name);
                    self.used -= cost(name);
                }
            }
            None => {
                if !self.on_disk(name, stem_len)? {
                    return Ok(());
                }
                self.buffer(name, None)?;
            }
        }
        self.count(db, false);
        Ok(())
    }

    /// Puts a name into memory that is not there yet.
    fn buffer(&mut self, name: &[u8], at_ms: Option<i64>) -> Result<()> {
        self.memory.insert(name.into(), at_ms);
        self.used += cost(name);
        if self.used > self.memory_bytes / 8 * 5 {
            self.spill()?;
        }
        Ok(())
    }

    fn on_disk(&self, name: &[u8], stem_len: usize) -> Result<bool> {
        match &self.disk {
            Some(disk) if disk.filter.may_have(&name[..stem_len]) => disk.has(name),
            _ => Ok(false),
        }
    }

    /// Empties memory into the file.
    fn spill(&mut self) -> Result<()> {
        let live: HashSet<u64> = self.dbs.values().map(|g| g.number).collect();
        let disk = match &mut self.disk {
            Some(disk) => disk,
            none => none.insert(Disk::create(self.memory_bytes)?),
        };
        disk.merge(&mut self.memory, &live, &self.dead)?;
        self.dead.clear();
        self.used = 0;
        Ok(())
    }

    fn clear_range(
        &mut self,
        db: u64,
        end: &[u8],
        stem_len: usize,
        first: Bound<&[u8]>,
    ) -> Result<()> {
        let disk = may_be_on_disk(&self.disk, &end[..stem_len]);
        let mut from = first;
        let mut last;
        loop {
            let chunk = self.chunk(&from, end, disk)?;
            for (name, _) in &chunk {
                self.remove(db, name, stem_len)?;
            }
            last = match chunk.into_iter().next_back() {
                Some((name, _)) => name,
                None => return Ok(()),
            };
            from = Bound::Excluded(&last);
        }
    }

    fn transfer(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), keep: bool) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.clear_key(to.0, to.1)?;
        let Some(generation) = self.filled(from.0) else {
            return Ok(());
        };
        let mut end = Vec::new();
        let stem_len = write_end(generation, from.1, &mut end);
        let mut start = Bound::Included(Box::from(&end[..stem_len]));
        let mut name = Vec::new();
        loop {
            // What the chunk before spilled may have brought the key to the file.
            let disk = may_be_on_disk(&self.disk, &end[..stem_len]);
            let chunk = self.chunk(&start, &end, disk)?;
            let Some((last, _)) = chunk.last() else {
                return Ok(());
            };
            start = Bound::Excluded(last.clone());
            let to_stem_len = write_stem(self.generation(to.0), to.1, &mut name);
            for (old, at_ms) in chunk {
                name.truncate(to_stem_len);
                name.extend_from_slice(&old[stem_len..]);
                self.insert(to.0, &name, to_stem_len, at_ms)?;
                if !keep {
                    self.remove(from.0, &old, stem_len)?;
                }
            }
        }
    }

    /// The first entries from `from` up to, without it, `end`; none only where there are none.
    fn chunk(
        &self,
        from: &Bound<impl AsRef<[u8]>>,
        end: &[u8],
        disk: bool,
    ) -> Result<Vec<(Box<[u8]>, i64)>> {
        let range = (from.as_ref().map(AsRef::as_ref), Bound::Excluded(end));
        let mut memory = self.memory.range::<[u8], _>(range).peekable();
        let mut file = match &self.disk {
            Some(file) if disk => Some(file.table()?.range::<&[u8]>(range).map_err(failed)?),
            _ => None,
        };
        let mut next_of_file = || file.as_mut().and_then(Iterator::next).transpose();
        let mut stored = next_of_file().map_err(failed)?;
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while bytes < CHUNK_BYTES {
            let order = match (memory.peek(), &stored) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((newer, _)), Some((older, _))) => newer[..].cmp(older.value()),
            };
            let (name, at_ms): (Box<[u8]>, _) = match (&stored, order) {
                (Some((name, at_ms)), Ordering::Greater) => {
                    (name.value().into(), Some(at_ms.value()))
                }
                _ => match memory.next() {
                    Some((name, at_ms)) => (name.clone(), *at_ms),
                    None => break,
                },
            };
            if order != Ordering::Less {
                stored = next_of_file().map_err(failed)?;
            }
            if let Some(at_ms) = at_ms {
                bytes += name.len();
                chunk.push((name, at_ms));
            }
        }
        Ok(chunk)
    }
}

/// Bytes that an entry takes in memory: its share of a node of the map, which is half full where
/// names come in order, of the nodes above, and its name as the allocator rounds it.
fn cost(name: &[u8]) -> usize {
    96 + (name.len() + 8).next_multiple_of(16).max(32)
}

/// Writes what the names of a key and its fields begin with, and no other name does. Gives its length.
///
/// The generation goes in big-endian. In the key, 0 becomes `00 FF`; after it stands 0, which
/// ends the stem, and what follows it is 0 for the key itself, or 1 and the field as it is. As 0
/// and 1 are less than `FF`, a key stands before all that it is a prefix of.
fn write_stem(generation: u64, key: &[u8], out: &mut Vec<u8>) -> usize {
    out.clear();
    out.extend_from_slice(&generation.to_be_bytes());
    let mut parts = key.split(|&byte| byte == 0);
    out.extend_from_slice(parts.next().unwrap_or_default());
    for part in parts {
        out.extend_from_slice(&[0, 0xff]);
        out.extend_from_slice(part);
    }
    out.push(0);
    out.len()
}

/// Writes an entry's name and gives the length of its stem.
fn write_name(generation: u64, key: &[u8], field: Option<&[u8]>, out: &mut Vec<u8>) -> usize {
    let stem_len = write_stem(generation, key, out);
    match field {
        None => out.push(0),
        Some(field) => {
            out.push(1);
            out.extend_from_slice(field);
        }
    }
    stem_len
}

/// Writes what all names of a key are less than, and gives the length of its stem, where they begin.
fn write_end(generation: u64, key: &[u8], out: &mut Vec<u8>) -> usize {
    let stem_len = write_stem(generation, key, out);
    out.push(2);
    stem_len
}

/// Takes a name apart: writes the key and gives the field.
fn read_name<'a>(name: &'a [u8], key: &mut Vec<u8>) -> Option<&'a [u8]> {
    key.clear();
    let mut rest = name.get(8..).unwrap_or_default();
    while let Some(zero) = rest.iter().position(|&byte| byte == 0) {
        key.extend_from_slice(&rest[..zero]);
        match rest[zero + 1..].split_first() {
            Some((0xff, after)) => {
                key.push(0);
                rest = after;
            }
            Some((1, field)) => return Some(field),
            _ => return None,
        }
    }
    None
}

fn may_be_on_disk(disk: &Option<Disk>, stem: &[u8]) -> bool {
    disk.as_ref().is_some_and(|disk| disk.filter.may_have(stem))
}

const TABLE: TableDefinition<&[u8], i64> = TableDefinition::new("held");

/// The B-tree in the temporary file.
struct Disk {
    // Before the database: redb wants readers gone when it closes.
    /// The tree as the last merge left it.
    table: Option<ReadOnlyTable<&'static [u8], i64>>,
    database: Database,
    filter: Filter,
}

impl Disk {
    fn create(memory_bytes: usize) -> Result<Disk> {
        let file = tempfile::tempfile().map_err(|e| {
            let dir = tempfile::env::temp_dir();
            Error::io(format!("no temporary file in {}", dir.display()), e)
        })?;
        Disk::open(file, memory_bytes)
    }

    fn open(file: File, memory_bytes: usize) -> Result<Disk> {
        let database = Database::builder()
            .set_cache_size(memory_bytes / 4)
            .create_with_backend(Unsynced(file))
            .map_err(failed)?;
        Ok(Disk {
            table: None,
            database,
            filter: Filter::new(memory_bytes / 8),
        })
    }

    fn table(&self) -> Result<&ReadOnlyTable<&'static [u8], i64>> {
        self.table
            .as_ref()
            .ok_or_else(|| failed(io::Error::other("an earlier write failed")))
    }

    fn has(&self, name: &[u8]) -> Result<bool> {
        Ok(self.table()?.get(name).map_err(failed)?.is_some())
    }

    /// Takes all of `memory` that belongs to a live generation, and drops the dead ones.
    fn merge(
        &mut self,
        memory: &mut BTreeMap<Box<[u8]>, Option<i64>>,
        live: &HashSet<u64>,
        dead: &[u64],
    ) -> Result<()> {
        // An open reader would keep the pages it sees from being used again.
        self.table = None;
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(TABLE).map_err(failed)?;
            for generation in dead {
                let (from, to) = (generation.to_be_bytes(), (generation + 1).to_be_bytes());
                table
                    .retain_in::<&[u8], _>(&from[..]..&to[..], |_, _| false)
                    .map_err(failed)?;
            }
            // Taken one by one, so that memory goes down while redb's goes up.
            while let Some((name, at_ms)) = memory.pop_first() {
                if !name
                    .first_chunk()
                    .is_some_and(|generation| live.contains(&u64::from_be_bytes(*generation)))
                {
                    continue;
                }
                match at_ms {
                    Some(at_ms) => {
                        self.filter.add(&name[..stem_len(&name)]);
                        table.insert(&name[..], at_ms).map_err(failed)?;
                    }
                    None => {
                        table.remove(&name[..]).map_err(failed)?;
                    }
                }
            }
        }
        write.commit().map_err(failed)?;
        let read = self.database.begin_read().map_err(failed)?;
        self.table = Some(read.open_table(TABLE).map_err(failed)?);
        Ok(())
    }
}

/// Length of a name's stem.
fn stem_len(name: &[u8]) -> usize {
    let mut at = 8;
    while let Some(zero) = name[at..].iter().position(|&byte| byte == 0) {
        at += zero + 1;
        if name.get(at) != Some(&0xff) {
            return at;
        }
    }
    name.len()
}

#[cold]
fn failed(e: impl Into<redb::Error>) -> Error {
    let source = match e.into() {
        redb::Error::Io(e) => e,
        e => io::Error::other(e),
    };
    Error::io(
        "temporary file cannot be read or written (see --tmp-dir)",
        source,
    )
}

/// Which keys the file may have something of, as a Bloom filter over stems. Nearly every command of
/// a log clears a key, and nearly none of these keys is held: they should not cost a look into the
/// file each.
struct Filter {
    words: Vec<u64>,
    state: RandomState,
}

impl Filter {
    fn new(bytes: usize) -> Filter {
        Filter {
            words: vec![0; (bytes / 8).max(1)],
            state: RandomState::default(),
        }
    }

    /// Word and bit, twice: with a byte to a key, 1 in 20 of the others seems to be there.
    fn places(&self, stem: &[u8]) -> [(usize, u64); 2] {
        let hash = self.state.hash_one(stem);
        [hash, hash.rotate_left(32)].map(|hash| {
            let bit = hash % (self.words.len() as u64 * 64);
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn add(&mut self, stem: &[u8]) {
        for (word, bit) in self.places(stem) {
            self.words[word] |= bit;
        }
    }

    fn may_have(&self, stem: &[u8]) -> bool {
        self.places(stem)
            .iter()
            .all(|&(word, bit)| self.words[word] & bit != 0)
    }
}

/// A file that is never synced: nobody opens it after a crash. redb's `Durability::None` would
/// spare the syncs as well, but it frees hardly any page, so that the file would only grow
/// (redb issue 810).
#[derive(Debug)]
struct Unsynced(File);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use redb::ReadableTableMetadata;

    use super::*;

    type Entry = (u64, Vec<u8>, Option<Vec<u8>>);

    fn drained(held: &mut Held) -> Vec<(Entry, i64)> {
        let mut all = Vec::new();
        held.drain(|db, key, field, at| {
            all.push(((db, key.to_vec(), field.map(<[u8]>::to_vec)), at));
            Ok(())
        })
        .unwrap();
        assert!(held.is_empty() && held.disk.is_none());
        all
    }

    fn sorted(model: &HashMap<Entry, i64>) -> Vec<(Entry, i64)> {
        let mut all: Vec<_> = model.iter().map(|(k, &at)| (k.clone(), at)).collect();
        all.sort();
        all
    }

    /// Splitmix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % n as u64) as usize
        }
    }

    fn strings() -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\x01",
            b"\0\xff",
            b"\x01",
            b"a",
            b"a\0",
            b"a\0\0",
            b"a\0\x01",
            b"a\0\xff",
            b"a\x01",
            b"ab",
            b"a\xff",
            b"\xff",
            b"\xff\xff",
        ]
        .map(<[u8]>::to_vec)
        .into();
        all.push(vec![0; 3000]);
        all.push(vec![b'a'; 9000]);
        all
    }

    fn against_model(memory_bytes: usize, steps: usize, seed: u64) {
        let strings = strings();
        let mut random = Random(seed);
        let mut held = Held::new(memory_bytes);
        let mut model: HashMap<Entry, i64> = HashMap::new();
        let mut spilled = false;
        for step in 0..steps {
            let mut pick = || strings[random.below(strings.len())].clone();
            let (key, to, field) = (pick(), pick(), pick());
            let field = (random.below(3) > 0).then_some(field);
            let (db, to_db) = (random.below(3) as u64, random.below(3) as u64);
            let mut transfer = |from: (u64, &[u8]), to: (u64, &[u8]), keep: bool| {
                if from == to {
                    return;
                }
                model.retain(|(db, key, _), _| (*db, &key[..]) != to);
                let of_from: Vec<_> = model
                    .iter()
                    .filter(|((db, key, _), _)| (*db, &key[..]) == from)
                    .map(|((_, _, field), &at)| (field.clone(), at))
                    .collect();
                if !keep {
                    model.retain(|(db, key, _), _| (*db, &key[..]) != from);
                }
                for (field, at) in of_from {
                    model.insert((to.0, to.1.to_vec(), field), at);
                }
            };
            match random.below(100) {
                0..50 => {
                    let at = step as i64 - 100;
                    held.set(db, &key, field.as_deref(), at).unwrap();
                    model.insert((db, key, field), at);
                }
                50..65 => {
                    held.clear(db, &key, field.as_deref()).unwrap();
                    model.remove(&(db, key, field));
                }
                65..68 => {
                    held.clear_fields(db, &key).unwrap();
                    model.retain(|(d, k, field), _| (*d, k) != (db, &key) || field.is_none());
                }
                68..72 => {
                    held.clear_key(db, &key).unwrap();
                    model.retain(|(d, k, _), _| (*d, k) != (db, &key));
                }
                72..80 => {
                    held.rename(db, &key, &to).unwrap();
                    transfer((db, &key), (db, &to), false);
                }
                80..88 => {
                    held.copy(db, &key, to_db, &to).unwrap();
                    transfer((db, &key), (to_db, &to), true);
                }
                88..93 => {
                    held.mv(db, &key, to_db).unwrap();
                    transfer((db, &key), (to_db, &key), false);
                }
                93..97 => {
                    held.swap(db, to_db);
                    model = model
                        .into_iter()
                        .map(|((d, key, field), at)| {
                            let d = match d {
                                d if d == db => to_db,
                                d if d == to_db => db,
                                d => d,
                            };
                            ((d, key, field), at)
                        })
                        .collect();
                }
                97 => {
                    held.flush(db);
                    model.retain(|(d, ..), _| *d != db);
                }
                _ if random.below(8) == 0 => {
                    held.flush_all();
                    model.clear();
                }
                _ if random.below(8) == 0 => {
                    assert_eq!(drained(&mut held), sorted(&model), "step {step}");
                    model.clear();
                }
                _ => {}
            }
            spilled |= held.disk.is_some();
            assert_eq!(held.len(), model.len() as u64, "step {step}");
            assert_eq!(held.is_empty(), model.is_empty());
            let used: usize = held.memory.keys().map(|name| cost(name)).sum();
            assert!(held.used == used && used <= memory_bytes, "step {step}");
        }
        assert_eq!(drained(&mut held), sorted(&model));
        assert_eq!(spilled, memory_bytes < 1 << 20);
    }

    #[test]
    fn random_operations_leave_what_a_model_has() {
        against_model(0, 300, 1);
        against_model(2 << 10, 1500, 2);
        against_model(20 << 10, 4000, 3);
        against_model(1 << 30, 20_000, 4);
    }

    #[test]
    fn names_keep_the_order_of_key_and_field() {
        let strings = strings();
        let mut all = Vec::new();
        for generation in [1, 2, 255, 256] {
            for key in &strings {
                let fields = strings.iter().map(|field| Some(field.clone()));
                for field in fields.chain([None]) {
                    let mut name = Vec::new();
                    let stem = write_name(generation, key, field.as_deref(), &mut name);
                    assert_eq!(stem_len(&name), stem);
                    let mut back = Vec::new();
                    assert_eq!(read_name(&name, &mut back), field.as_deref());
                    assert_eq!(&back, key);
                    all.push(((generation, key.clone(), field), name));
                }
            }
        }
        all.sort();
        assert!(all.windows(2).all(|w| w[0].1 < w[1].1));
    }

    #[test]
    fn a_key_is_not_its_prefix() {
        for memory_bytes in [0, 1 << 20] {
            let mut held = Held::new(memory_bytes);
            for key in strings() {
                held.set(0, &key, None, 1).unwrap();
                held.set(0, &key, Some(b""), 2).unwrap();
            }
            let before = held.len();
            held.clear_key(0, b"a").unwrap();
            assert_eq!(held.len(), before - 2);
            held.clear(0, b"", None).unwrap();
            assert_eq!(held.len(), before - 3);
            held.rename(0, b"a\0", b"a").unwrap();
            assert_eq!(held.len(), before - 3);
            let all = drained(&mut held);
            assert!(!all.iter().any(|((_, key, _), _)| key == b"a\0"));
            let empty = |((_, key, _), _): &&(Entry, i64)| key.is_empty();
            assert_eq!(
                all.iter().find(empty),
                Some(&((0, Vec::new(), Some(Vec::new())), 2))
            );
        }
    }

    #[test]
    fn flushed_and_swapped_databases_do_not_come_back() {
        for memory_bytes in [0, 1 << 20] {
            let mut held = Held::new(memory_bytes);
            held.set(0, b"k", None, 1).unwrap();
            held.set(1, b"k", None, 2).unwrap();
            held.swap(0, 1);
            held.swap(1, 7);
            held.swap(3, 3);
            held.flush(0);
            held.set(0, b"other", None, 3).unwrap();
            held.flush(9);
            assert_eq!(held.len(), 2);
            assert_eq!(
                drained(&mut held),
                [
                    ((0, b"other".to_vec(), None), 3),
                    ((7, b"k".to_vec(), None), 1)
                ]
            );
        }
    }

    #[test]
    fn a_flushed_database_leaves_the_file_with_the_next_merge() {
        let mut held = Held::new(0);
        for i in 0..20_u8 {
            held.set((i % 2).into(), &[i], None, 1).unwrap();
        }
        held.flush(0);
        held.set(0, b"k", None, 2).unwrap();
        let table = held.disk.as_ref().unwrap().table().unwrap();
        assert_eq!((table.len().unwrap(), held.len()), (11, 11));
    }

    #[test]
    fn a_file_that_fails_is_an_error_that_names_the_flag() {
        let read_only = File::open("/dev/null").unwrap();
        let error = Disk::open(read_only, 0).err().unwrap().to_string();
        assert!(error.contains("(see --tmp-dir)"), "{error}");
    }

    #[test]
    fn a_large_hash_moves_in_chunks() {
        let mut held = Held::new(256 << 10);
        for i in 0..20_000_u32 {
            held.set(0, b"h", Some(&i.to_be_bytes()), i.into()).unwrap();
        }
        held.rename(0, b"h", b"g").unwrap();
        held.copy(0, b"g", 1, b"g").unwrap();
        assert_eq!(held.len(), 40_000);
        held.clear_key(0, b"g").unwrap();
        assert!(held.disk.is_some());
        let all = drained(&mut held);
        assert_eq!(all.len(), 20_000);
        for (i, ((db, key, field), at)) in all.into_iter().enumerate() {
            assert_eq!((db, &key[..], at), (1, &b"g"[..], i as i64));
            assert_eq!(field, Some((i as u32).to_be_bytes().to_vec()));
        }
    }

    #[test]
    fn keys_of_many_pages_are_held_as_others() {
        let mut held = Held::new(64 << 10);
        let key = |last: u8| [vec![0; 100 << 10], vec![last]].concat();
        for last in 0..4 {
            held.set(0, &key(last), None, last.into()).unwrap();
            held.set(0, &key(last), Some(&key(last)), last.into())
                .unwrap();
        }
        held.rename(0, &key(2), &key(1)).unwrap();
        held.clear(0, &key(3), None).unwrap();
        assert_eq!(held.len(), 5);
        let all = drained(&mut held);
        let times: Vec<_> = all.iter().map(|(_, at)| *at).collect();
        assert_eq!(times, [0, 0, 2, 2, 3]);
        assert!(all[2].0.1 == key(1) && all[3].0.2 == Some(key(2)));
    }

    #[test]
    fn many_more_entries_than_memory() {
        let mut held = Held::new(1 << 20);
        let key = |i: u64| format!("key:{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for i in 0..200_000 {
            held.set(i % 2, key(i).as_bytes(), None, i as i64).unwrap();
        }
        assert_eq!(held.len(), 200_000);
        for i in (0..200_000).step_by(10) {
            held.set(0, key(i).as_bytes(), None, -1).unwrap();
            held.clear(1, key(i + 1).as_bytes(), None).unwrap();
            held.clear_key(1, format!("none:{i}").as_bytes()).unwrap();
        }
        assert_eq!(held.len(), 180_000);
        held.flush(0);
        assert_eq!(held.len(), 80_000);
        let (mut n, mut last) = (0, Vec::new());
        held.drain(|db, key, field, at| {
            assert!(db == 1 && field.is_none() && at % 2 == 1 && key > &last[..]);
            last = key.to_vec();
            n += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((n, held.len()), (80_000, 0));
    }
}
