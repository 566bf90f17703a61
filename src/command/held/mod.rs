//! True expiry times of keys and hash fields whose expiry was written later than it is.
//!
//! A log that is replayed into a live server must not let keys expire in between: a key set with a
//! time that has passed, and given a later one by the next command, would be gone before it is
//! saved. So an expiry too near is written as a later one, and its true time is held here until the
//! log's end, through every rename, copy, move and flush on the way.
//!
//! A hash table takes what fits in its memory. When it is full, it is sorted and written to an
//! unlinked temporary file, a run; every so many runs are merged into one. Nothing is read for what
//! is set or cleared: that a key or field was removed is held like a time, as long as a run may
//! have something of it, and that all fields of a key were, by one mark. Of what several have,
//! the newest counts. Only a rename, copy or move looks into runs, for the one key.

mod memory;
mod run;
mod varint;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use self::memory::{Memory, Time};
use self::run::{Merge, Run, Writer};
use crate::error::Result;

/// Times to be set when a log ends, by database, key and hash field.
///
/// Every method that returns a result fails only with the temporary files. What is held is not known
/// any more then, and the run must end.
pub struct Held {
    memory: Memory,
    memory_bytes: usize,
    /// What does not fit in memory, the oldest first.
    runs: Vec<Run>,
    /// Entries belong to generations and databases only point to them: this makes FLUSHDB and
    /// SWAPDB cost the same whatever is held.
    dbs: BTreeMap<u64, Generation>,
    next_generation: u64,
    state: RandomState,
}

#[derive(Clone, Copy)]
struct Generation {
    number: u64,
    /// Times that are held in memory.
    held: u64,
    /// Whether runs may have something of it.
    spilled: bool,
}

/// So many runs become one.
const MERGED_RUNS: usize = 16;

/// A key with more than this, names and times, is written to a run before it is copied from there.
const COPY_BYTES: usize = 64 << 10;

/// Keys that are looked at before they are written.
const BATCH: usize = 64;

/// All that is held of a key.
#[derive(Default)]
struct All {
    own: Option<i64>,
    fields: Vec<(Vec<u8>, i64)>,
}

impl Held {
    /// Uses about `memory_bytes` of memory, whatever is held: five eighths for what is newest, a
    /// quarter for filters that tell what runs do not have, an eighth for finding places in runs
    /// and for what is being read and written.
    pub fn new(memory_bytes: usize) -> Held {
        Held {
            memory: Memory::new(),
            memory_bytes,
            runs: Vec::new(),
            dbs: BTreeMap::new(),
            next_generation: 0,
            state: RandomState::default(),
        }
    }

    /// Holds the true time of a key, or of a field of the hash there, in place of any before.
    pub fn set(&mut self, db: u64, key: &[u8], field: Option<&[u8]>, at_ms: i64) -> Result<()> {
        let generation = self.generation(db).number;
        let at = self.place(generation, key);
        let before = match field {
            None => std::mem::replace(&mut self.memory.key_mut(at).own, Time::At(at_ms)),
            Some(field) => {
                let at = match self.memory.find_field(at, field) {
                    Some(at) => at,
                    None => self.memory.add_field(at, field),
                };
                self.memory.set_field(at, Time::At(at_ms))
            }
        };
        self.generation(db).held += u64::from(!before.is_held());
        self.make_room()
    }

    /// Holds nothing for this key (its fields stay) or this field: it has an expiry that was
    /// written as it is, or none.
    pub fn clear(&mut self, db: u64, key: &[u8], field: Option<&[u8]>) -> Result<()> {
        let Some(generation) = self.filled(db) else {
            return Ok(());
        };
        let (found, in_runs) = self.find(generation, key);
        if found.is_none() && !in_runs {
            return Ok(());
        }
        let removed = if in_runs {
            Time::Removed
        } else {
            Time::Unknown
        };
        let before = match field {
            None => {
                let at = self.place(generation.number, key);
                std::mem::replace(&mut self.memory.key_mut(at).own, removed)
            }
            Some(field) => match found.and_then(|at| self.memory.find_field(at, field)) {
                Some(at) => self.memory.set_field(at, removed),
                None if !in_runs || found.is_some_and(|at| self.memory.key(at).hides_fields) => {
                    return Ok(());
                }
                None => {
                    let at = self.place(generation.number, key);
                    let at = self.memory.add_field(at, field);
                    self.memory.set_field(at, removed)
                }
            },
        };
        self.generation(db).held -= u64::from(before.is_held());
        self.make_room()
    }

    /// Holds nothing for this key and all of its fields: it was deleted or overwritten.
    pub fn clear_key(&mut self, db: u64, key: &[u8]) -> Result<()> {
        self.clear_all(db, key, true)
    }

    /// Holds nothing for any field of this key, which is no hash any more; its own time stays.
    pub fn clear_fields(&mut self, db: u64, key: &[u8]) -> Result<()> {
        self.clear_all(db, key, false)
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
        if self.filled(db).is_some() {
            self.dbs.remove(&db);
            if self.is_empty() {
                self.flush_all();
            }
        }
    }

    /// FLUSHALL. Gives memory and files back.
    pub fn flush_all(&mut self) {
        self.memory = Memory::new();
        self.runs.clear();
        self.dbs.clear();
    }

    /// SWAPDB.
    pub fn swap(&mut self, a: u64, b: u64) {
        let (of_a, of_b) = (self.dbs.remove(&a), self.dbs.remove(&b));
        self.dbs.extend(of_a.map(|generation| (b, generation)));
        self.dbs.extend(of_b.map(|generation| (a, generation)));
    }

    /// Whether surely no time is held. Where one of a database had to go to a file, it is not said
    /// again before that database is flushed: nobody looks whether all there were removed.
    pub fn is_empty(&self) -> bool {
        self.dbs.values().all(|generation| !generation.is_filled())
    }

    /// Calls `f` with database, key, field and time of everything, ordered by these, a key before
    /// its fields; then nothing is held. An error of `f` ends it, and all stays held.
    pub fn drain(
        &mut self,
        mut f: impl FnMut(u64, &[u8], Option<&[u8]>, i64) -> Result<()>,
    ) -> Result<()> {
        if self.runs.is_empty() {
            self.each_of_memory(&mut f)?;
        } else {
            self.write_run()?;
            // For the readers.
            self.memory = Memory::new();
            self.each_of_runs(&mut f)?;
        }
        self.flush_all();
        Ok(())
    }

    /// The generation of a database that something may be held for.
    fn filled(&self, db: u64) -> Option<Generation> {
        let generation = self.dbs.get(&db).copied();
        generation.filter(Generation::is_filled)
    }

    /// The generation of a database, made where it has none.
    fn generation(&mut self, db: u64) -> &mut Generation {
        let next = &mut self.next_generation;
        self.dbs.entry(db).or_insert_with(|| {
            *next += 1;
            Generation {
                number: *next,
                held: 0,
                spilled: false,
            }
        })
    }

    /// The generations that databases have.
    fn live(&self) -> HashSet<u64, RandomState> {
        self.dbs.values().map(|g| g.number).collect()
    }

    /// Where a key is in memory, and whether runs may have something of it.
    fn find(&self, generation: Generation, key: &[u8]) -> (Option<u32>, bool) {
        let hash = hash(&self.state, generation.number, key);
        let found = self.memory.find(hash, generation.number, key);
        let in_runs = generation.spilled && self.runs.iter().any(|run| run.may_have(hash));
        (found, in_runs)
    }

    /// The place of a key in memory, made where it has none.
    fn place(&mut self, generation: u64, key: &[u8]) -> u32 {
        let hash = hash(&self.state, generation, key);
        match self.memory.find(hash, generation, key) {
            Some(at) => at,
            None => self.memory.add(hash, generation, key),
        }
    }

    fn clear_all(&mut self, db: u64, key: &[u8], own: bool) -> Result<()> {
        let Some(generation) = self.filled(db) else {
            return Ok(());
        };
        let (found, in_runs) = self.find(generation, key);
        if found.is_none() && !in_runs {
            return Ok(());
        }
        let at = self.place(generation.number, key);
        let hash = hash(&self.state, generation.number, key);
        let (at, mut removed) = self.memory.drop_fields(hash, at);
        let entry = self.memory.key_mut(at);
        entry.hides_fields = in_runs;
        if own {
            removed += u64::from(entry.own.is_held());
            entry.own = if in_runs {
                Time::Removed
            } else {
                Time::Unknown
            };
        }
        self.generation(db).held -= removed;
        self.make_room()
    }

    fn transfer(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), keep: bool) -> Result<()> {
        if from == to {
            return Ok(());
        }
        self.clear_key(to.0, to.1)?;
        let Some(generation) = self.filled(from.0) else {
            return Ok(());
        };
        match self.all_of(generation, from.1)? {
            Some(all) => {
                if all.own.is_none() && all.fields.is_empty() {
                    return Ok(());
                }
                if let Some(at_ms) = all.own {
                    self.set(to.0, to.1, None, at_ms)?;
                }
                for (field, at_ms) in all.fields {
                    self.set(to.0, to.1, Some(&field), at_ms)?;
                }
            }
            None => {
                self.spill()?;
                // These stay as they are, whatever becomes of the runs in the meantime.
                let mut merge = self.look(generation.number, from.1)?;
                merge.next_key()?;
                if let Time::At(at_ms) = merge.own() {
                    self.set(to.0, to.1, None, at_ms)?;
                }
                while let Some((field, time)) = merge.next_field()? {
                    if let Time::At(at_ms) = time {
                        self.set(to.0, to.1, Some(field), at_ms)?;
                    }
                }
            }
        }
        if keep {
            return Ok(());
        }
        self.clear_key(from.0, from.1)
    }

    /// All that is held of a key, unless it is more than `COPY_BYTES`.
    fn all_of(&self, generation: Generation, key: &[u8]) -> Result<Option<All>> {
        let (found, in_runs) = self.find(generation, key);
        let mut all = All::default();
        let mut removed = Vec::new();
        let mut bytes = 0;
        let mut own = Time::Unknown;
        let mut hides_fields = false;
        if let Some(at) = found {
            own = self.memory.key(at).own;
            hides_fields = self.memory.key(at).hides_fields;
            for field in self.memory.fields(at) {
                let name = self.memory.field_name(field);
                bytes += name.len() + size_of::<(Vec<u8>, i64)>();
                if bytes > COPY_BYTES {
                    return Ok(None);
                }
                match self.memory.field_time(field) {
                    Time::At(at_ms) => all.fields.push((name.to_vec(), at_ms)),
                    _ => removed.push(name.to_vec()),
                }
            }
        }
        if in_runs && !(hides_fields && own != Time::Unknown) {
            let mut merge = self.look(generation.number, key)?;
            if merge.next_key()? {
                if own == Time::Unknown {
                    own = merge.own();
                }
                let mut newer: Vec<_> = all.fields.iter().map(|(name, _)| name.clone()).collect();
                newer.append(&mut removed);
                newer.sort_unstable();
                while !hides_fields && let Some((field, time)) = merge.next_field()? {
                    let is_newer = |name: &Vec<u8>| name[..].cmp(field);
                    if let Time::At(at_ms) = time
                        && newer.binary_search_by(is_newer).is_err()
                    {
                        bytes += field.len() + size_of::<(Vec<u8>, i64)>();
                        if bytes > COPY_BYTES {
                            return Ok(None);
                        }
                        all.fields.push((field.to_vec(), at_ms));
                    }
                }
            }
        }
        if let Time::At(at_ms) = own {
            all.own = Some(at_ms);
        }
        Ok(Some(all))
    }

    /// Stands in front of what the runs have of a key, and nothing else.
    fn look(&self, generation: u64, key: &[u8]) -> Result<Merge> {
        let hash = hash(&self.state, generation, key);
        let mut readers = Vec::new();
        for run in self.runs.iter().rev().filter(|run| run.may_have(hash)) {
            let reader = run.seek(generation, key)?;
            if !reader.ended && reader.generation == generation && reader.key == key {
                readers.push(reader);
                // What hides all that is older makes it needless to look there.
                if readers.last().is_some_and(run::Reader::hides_all) {
                    break;
                }
            }
        }
        Ok(Merge::new(readers))
    }

    /// Makes memory that is full empty again, or half so.
    fn make_room(&mut self) -> Result<()> {
        let limit = self.memory_bytes / 8 * 5;
        if self.memory.used() <= limit && self.memory.has_places() {
            return Ok(());
        }
        let live = self.live();
        let live = |number| live.contains(&number);
        if self.memory.is_mostly_garbage(live) {
            self.memory
                .compact(live, |number, key| hash(&self.state, number, key));
            if self.memory.used() <= limit / 4 * 3 {
                return Ok(());
            }
        }
        self.spill()
    }

    /// Writes memory to a run, and merges runs if they are many then.
    fn spill(&mut self) -> Result<()> {
        self.write_run()?;
        self.merge()
    }

    fn write_run(&mut self) -> Result<()> {
        if self.memory.is_empty() {
            return Ok(());
        }
        let live = self.live();
        let keys = self.memory.sorted(|number| live.contains(&number));
        if !keys.is_empty() {
            let mut writer = Writer::create(0, keys.len() as u64, self.filter_bytes())?;
            let (mut named, mut fields) = (Vec::with_capacity(BATCH), Vec::new());
            for batch in keys.chunks(BATCH) {
                // Several at once, so that they wait for memory together.
                named.clear();
                named.extend(batch.iter().map(|item| {
                    let key = self.memory.key(item.at);
                    (item.at, key, self.memory.key_name(item.at))
                }));
                for &(at, key, name) in &named {
                    let hash = hash(&self.state, key.generation, name);
                    writer.key(hash, key.generation, name, key.own, key.hides_fields)?;
                    self.memory.sorted_fields(at, &mut fields);
                    for field in &fields {
                        let time = self.memory.field_time(field.at);
                        writer.field(self.memory.field_name(field.at), time)?;
                    }
                }
            }
            self.runs.push(writer.finish()?);
        }
        self.memory.clear(self.memory_bytes);
        for generation in self.dbs.values_mut() {
            // What was removed is in memory only where an earlier run had something.
            generation.spilled |= generation.held > 0;
            generation.held = 0;
        }
        Ok(())
    }

    /// Merges runs where there are enough of one level.
    fn merge(&mut self) -> Result<()> {
        let live = self.live();
        while let Some(last) = self.runs.last() {
            let level = last.level;
            let same = self.runs.iter().rev().take_while(|run| run.level == level);
            let same = same.count();
            if same < MERGED_RUNS {
                break;
            }
            let old = self.runs.split_off(self.runs.len() - same);
            let keys = old.iter().map(|run| run.keys).sum();
            let readers: Result<Vec<_>> = old.iter().rev().map(Run::read).collect();
            let mut merge = Merge::new(readers?);
            // For the new filter.
            drop(old);
            let mut writer = Writer::create(level + 1, keys, self.filter_bytes())?;
            let is_oldest = self.runs.is_empty();
            while merge.next_key()? {
                let (number, key) = merge.key();
                if !live.contains(&number) {
                    continue;
                }
                let hash = hash(&self.state, number, key);
                if !is_oldest {
                    writer.key(hash, number, key, merge.own(), merge.hides_fields())?;
                    while let Some((field, time)) = merge.next_field()? {
                        writer.field(field, time)?;
                    }
                    continue;
                }
                // There is nothing older, so what was removed need not be remembered.
                let key = key.to_vec();
                let mut written = false;
                if merge.own().is_held() {
                    writer.key(hash, number, &key, merge.own(), false)?;
                    written = true;
                }
                while let Some((field, time)) = merge.next_field()? {
                    if time.is_held() {
                        if !written {
                            writer.key(hash, number, &key, Time::Unknown, false)?;
                            written = true;
                        }
                        writer.field(field, time)?;
                    }
                }
            }
            let run = writer.finish()?;
            if run.keys > 0 {
                self.runs.push(run);
            }
        }
        Ok(())
    }

    /// What a new filter may take: half of what others left, so that there is always some.
    fn filter_bytes(&self) -> usize {
        let taken: usize = self.runs.iter().map(Run::filter_bytes).sum();
        (self.memory_bytes / 4).saturating_sub(taken) / 2
    }

    fn each_of_memory(
        &self,
        f: &mut impl FnMut(u64, &[u8], Option<&[u8]>, i64) -> Result<()>,
    ) -> Result<()> {
        let live = self.live();
        let keys = self.memory.sorted(|number| live.contains(&number));
        let number = |item: &memory::Item| self.memory.key(item.at).generation;
        let mut fields = Vec::new();
        for (&db, generation) in &self.dbs {
            let first = keys.partition_point(|item| number(item) < generation.number);
            let of_db = keys[first..]
                .iter()
                .take_while(|item| number(item) == generation.number);
            for item in of_db {
                let key = self.memory.key_name(item.at);
                if let Time::At(at_ms) = self.memory.key(item.at).own {
                    f(db, key, None, at_ms)?;
                }
                self.memory.sorted_fields(item.at, &mut fields);
                for field in &fields {
                    if let Time::At(at_ms) = self.memory.field_time(field.at) {
                        f(db, key, Some(self.memory.field_name(field.at)), at_ms)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn each_of_runs(
        &self,
        f: &mut impl FnMut(u64, &[u8], Option<&[u8]>, i64) -> Result<()>,
    ) -> Result<()> {
        let mut key = Vec::new();
        for (&db, generation) in &self.dbs {
            let runs = self.runs.iter().rev();
            let readers: Result<Vec<_>> =
                runs.map(|run| run.seek(generation.number, b"")).collect();
            let mut merge = Merge::new(readers?);
            while merge.next_key()? && merge.key().0 == generation.number {
                if let Time::At(at_ms) = merge.own() {
                    f(db, merge.key().1, None, at_ms)?;
                }
                if merge.has_fields() {
                    key.clear();
                    key.extend_from_slice(merge.key().1);
                }
                while let Some((field, time)) = merge.next_field()? {
                    if let Time::At(at_ms) = time {
                        f(db, &key, Some(field), at_ms)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Generation {
    fn is_filled(&self) -> bool {
        self.held > 0 || self.spilled
    }
}

fn hash(state: &RandomState, generation: u64, key: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u64(generation);
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    type Entry = (u64, Vec<u8>, Option<Vec<u8>>);

    fn drained(held: &mut Held) -> Vec<(Entry, i64)> {
        let mut all = Vec::new();
        held.drain(|db, key, field, at| {
            all.push(((db, key.to_vec(), field.map(<[u8]>::to_vec)), at));
            Ok(())
        })
        .unwrap();
        assert!(held.is_empty() && held.runs.is_empty());
        all
    }

    fn sorted(model: &HashMap<Entry, i64>) -> Vec<(Entry, i64)> {
        let mut all: Vec<_> = model.iter().map(|(k, &at)| (k.clone(), at)).collect();
        all.sort();
        all
    }

    /// How many times are held, by the walk of `drain`.
    fn count(held: &mut Held) -> usize {
        let mut count = 0;
        let mut f = |_, _: &[u8], _: Option<&[u8]>, _| {
            count += 1;
            Ok(())
        };
        if held.runs.is_empty() {
            held.each_of_memory(&mut f).unwrap();
        } else {
            held.write_run().unwrap();
            held.each_of_runs(&mut f).unwrap();
        }
        count
    }

    /// All that is held, wherever it is, by looking for each key.
    fn all_of(held: &Held) -> Vec<(Entry, i64)> {
        let mut found: HashMap<Entry, i64> = HashMap::new();
        for key in strings() {
            for db in 0..3 {
                found.extend(of_key(held, db, &key));
            }
        }
        sorted(&found)
    }

    /// What is held of a key, through what a rename would take.
    fn of_key(held: &Held, db: u64, key: &[u8]) -> Vec<(Entry, i64)> {
        let Some(generation) = held.filled(db) else {
            return Vec::new();
        };
        let all = held.all_of(generation, key).unwrap().unwrap();
        let own = all.own.map(|at| (None, at));
        let fields = all.fields.into_iter().map(|(field, at)| (Some(field), at));
        let found = own.into_iter().chain(fields);
        let mut found: Vec<_> = found
            .map(|(field, at)| ((db, key.to_vec(), field), at))
            .collect();
        found.sort();
        found
    }

    fn of_model(model: &HashMap<Entry, i64>, db: u64, key: &[u8]) -> Vec<(Entry, i64)> {
        let mut all = sorted(model);
        all.retain(|((of_db, of_key, _), _)| (*of_db, &of_key[..]) == (db, key));
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
        let (mut spilled, mut levels) = (false, 0);
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
            spilled |= !held.runs.is_empty();
            levels = levels.max(held.runs.first().map_or(0, |run| run.level));
            // Nothing else may look empty; after a run was written, more may look filled.
            assert!(!held.is_empty() || model.is_empty(), "step {step}");
            if held.runs.is_empty() {
                assert_eq!(held.is_empty(), model.is_empty(), "step {step}");
            }
            let used = held.memory.used();
            assert!(
                used <= memory_bytes || held.memory.is_empty(),
                "step {step}"
            );
            let (db, key) = (
                random.below(3) as u64,
                &strings[random.below(strings.len())],
            );
            assert_eq!(
                of_key(&held, db, key),
                of_model(&model, db, key),
                "step {step}"
            );
            if step % 100 == 0 {
                assert_eq!(all_of(&held), sorted(&model), "step {step}");
            }
        }
        assert_eq!(drained(&mut held), sorted(&model));
        assert_eq!(spilled, memory_bytes < 1 << 20);
        assert!(levels > 0 || memory_bytes > 4 << 10);
    }

    #[test]
    fn random_operations_leave_what_a_model_has() {
        against_model(0, 300, 1);
        against_model(2 << 10, 1500, 2);
        against_model(20 << 10, 4000, 3);
        against_model(1 << 30, 20_000, 4);
    }

    #[test]
    fn a_key_is_not_its_prefix() {
        for memory_bytes in [0, 1 << 20] {
            let mut held = Held::new(memory_bytes);
            for key in strings() {
                held.set(0, &key, None, 1).unwrap();
                held.set(0, &key, Some(b""), 2).unwrap();
            }
            let before = count(&mut held);
            held.clear_key(0, b"a").unwrap();
            assert_eq!(count(&mut held), before - 2);
            held.clear(0, b"", None).unwrap();
            assert_eq!(count(&mut held), before - 3);
            held.rename(0, b"a\0", b"a").unwrap();
            assert_eq!(count(&mut held), before - 3);
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
            assert_eq!(count(&mut held), 2);
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
    fn flushed_and_removed_leave_the_file_with_the_next_merge() {
        let mut held = Held::new(0);
        held.set(1, b"kept", None, 1).unwrap();
        held.set(1, b"hash", Some(b"f"), 1).unwrap();
        held.set(1, b"hash", Some(b"g"), 1).unwrap();
        for i in 0..10_u8 {
            held.set(0, &[i], None, 1).unwrap();
        }
        held.flush(0);
        held.set(0, b"k", None, 2).unwrap();
        assert_eq!(held.runs.len(), 14);
        held.clear_fields(1, b"hash").unwrap();
        held.clear(0, b"k", None).unwrap();
        let runs: Vec<_> = held.runs.iter().map(|run| (run.level, run.keys)).collect();
        assert_eq!(runs, [(1, 1)]);
        assert_eq!(drained(&mut held), [((1, b"kept".to_vec(), None), 1)]);
    }

    #[test]
    fn the_last_flush_gives_files_back() {
        let mut held = Held::new(0);
        held.set(0, b"a", None, 1).unwrap();
        held.set(5, b"b", None, 1).unwrap();
        held.clear(5, b"b", None).unwrap();
        held.flush(0);
        assert!(!held.is_empty() && !held.runs.is_empty());
        held.flush(5);
        assert!(held.is_empty() && held.runs.is_empty());
    }

    #[test]
    fn short_lives_need_no_file() {
        let mut held = Held::new(64 << 10);
        held.set(0, b"stays", Some(b"f"), 1).unwrap();
        for i in 0..10_000_u32 {
            let key = i.to_be_bytes();
            held.set(0, &key, None, 1).unwrap();
            held.set(0, &key, Some(b"f"), 1).unwrap();
            held.set(0, b"stays", Some(&key), 1).unwrap();
            held.clear(0, b"stays", Some(&key)).unwrap();
            held.clear_key(0, &key).unwrap();
        }
        assert!(held.runs.is_empty());
        assert_eq!(drained(&mut held).len(), 1);
    }

    #[test]
    fn an_error_of_the_receiver_leaves_all_as_it_was() {
        for memory_bytes in [0, 1 << 20] {
            let mut held = Held::new(memory_bytes);
            for i in 0..40_u8 {
                held.set(0, &[i], None, 1).unwrap();
            }
            let mut left = 7;
            let result = held.drain(|_, _, _, _| {
                left -= 1;
                match left {
                    0 => Err(crate::error::Error::io(
                        "full",
                        std::io::ErrorKind::Other.into(),
                    )),
                    _ => Ok(()),
                }
            });
            assert!(result.is_err());
            assert_eq!(drained(&mut held).len(), 40);
        }
    }

    #[test]
    fn a_large_hash_moves_in_chunks() {
        let mut held = Held::new(256 << 10);
        for i in 0..20_000_u32 {
            held.set(0, b"h", Some(&i.to_be_bytes()), i.into()).unwrap();
        }
        held.rename(0, b"h", b"g").unwrap();
        held.copy(0, b"g", 1, b"g").unwrap();
        assert_eq!(count(&mut held), 40_000);
        held.clear_key(0, b"g").unwrap();
        assert!(!held.runs.is_empty());
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
        assert_eq!(count(&mut held), 5);
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
        assert_eq!(count(&mut held), 200_000);
        for i in (0..200_000).step_by(10) {
            held.set(0, key(i).as_bytes(), None, -1).unwrap();
            held.clear(1, key(i + 1).as_bytes(), None).unwrap();
            held.clear_key(1, format!("none:{i}").as_bytes()).unwrap();
        }
        assert_eq!(count(&mut held), 180_000);
        held.flush(0);
        assert_eq!(count(&mut held), 80_000);
        let (mut n, mut last) = (0, Vec::new());
        held.drain(|db, key, field, at| {
            assert!(db == 1 && field.is_none() && at % 2 == 1 && key > &last[..]);
            last = key.to_vec();
            n += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!((n, count(&mut held)), (80_000, 0));
    }
}
