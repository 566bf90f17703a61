//! What is held in memory: a hash table of keys, each with a list of its fields if it has any.
//!
//! Names lie one behind the other in one buffer, entries in vectors that only grow; tables and
//! lists hold their places there. What is removed stays as garbage until all of it goes at once,
//! so that nothing has to be taken out of a table or a list.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;

use super::varint;

/// What is known of the time of a key or of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// Nothing: what is older decides.
    Unknown,
    /// None is held, whatever is older.
    Removed,
    /// This one is, in Unix milliseconds.
    At(i64),
}

impl Time {
    /// Whether one is held.
    pub fn is_held(self) -> bool {
        matches!(self, Time::At(_))
    }
}

/// No place in a vector.
const NONE: u32 = u32::MAX;

/// A key.
pub(super) struct Key {
    /// The generation it belongs to.
    pub generation: u64,
    /// Its own time.
    pub own: Time,
    /// Whether what is older of its fields counts no more.
    pub hides_fields: bool,
    /// Its fields, in `lists`.
    list: u32,
    /// Where its name is.
    name: usize,
}

struct List {
    /// The field that was added last.
    head: u32,
    /// Times that are held.
    held: u64,
}

struct Field {
    key: u32,
    /// The one added before it.
    next: u32,
    time: Time,
    name: usize,
}

/// Keys and fields in memory.
pub(super) struct Memory {
    /// The length of each, then its bytes.
    names: Vec<u8>,
    keys: Vec<Key>,
    lists: Vec<List>,
    fields: Vec<Field>,
    key_slots: Slots,
    field_slots: Slots,
    state: RandomState,
}

impl Memory {
    /// Empty, with hardly any memory.
    pub fn new() -> Memory {
        Memory {
            names: Vec::new(),
            keys: Vec::new(),
            lists: Vec::new(),
            fields: Vec::new(),
            key_slots: Slots(Vec::new(), 0),
            field_slots: Slots(Vec::new(), 0),
            state: RandomState::default(),
        }
    }

    /// Whether there is not even garbage.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Bytes in use, with those that it takes to sort it.
    pub fn used(&self) -> usize {
        self.names.len()
            + self.keys.len() * (size_of::<Key>() + size_of::<Item>())
            + self.fields.len() * (size_of::<Field>() + size_of::<Item>())
            + self.lists.len() * size_of::<List>()
            + (self.key_slots.0.len() + self.field_slots.0.len()) * size_of::<u64>()
    }

    /// Whether another key and field have a place that a `u32` can say.
    pub fn has_places(&self) -> bool {
        self.keys.len().max(self.fields.len()) < NONE as usize - 2
    }

    /// Forgets everything. Keeps what was allocated, unless it is more than `memory_bytes`.
    pub fn clear(&mut self, memory_bytes: usize) {
        if self.names.capacity() > memory_bytes {
            self.names = Vec::new();
        }
        self.names.clear();
        self.keys.clear();
        self.lists.clear();
        self.fields.clear();
        self.key_slots.clear();
        self.field_slots.clear();
    }

    /// The key at this place.
    pub fn key(&self, at: u32) -> &Key {
        &self.keys[at as usize]
    }

    /// The key at this place, to be changed.
    pub fn key_mut(&mut self, at: u32) -> &mut Key {
        &mut self.keys[at as usize]
    }

    /// The name of the key at this place.
    pub fn key_name(&self, at: u32) -> &[u8] {
        self.name(self.key(at).name)
    }

    /// The name of the field at this place.
    pub fn field_name(&self, at: u32) -> &[u8] {
        self.name(self.fields[at as usize].name)
    }

    /// The time of the field at this place.
    pub fn field_time(&self, at: u32) -> Time {
        self.fields[at as usize].time
    }

    /// The place of a key, `hash` being that of generation and name.
    #[inline]
    pub fn find(&self, hash: u64, generation: u64, name: &[u8]) -> Option<u32> {
        self.key_slots.find(hash, |at| {
            let key = &self.keys[at as usize];
            key.generation == generation && self.name(key.name) == name
        })
    }

    /// Adds a key that is not there, nothing being known of it.
    pub fn add(&mut self, hash: u64, generation: u64, name: &[u8]) -> u32 {
        let at = self.keys.len() as u32;
        let name = self.add_name(name);
        self.keys.push(Key {
            generation,
            own: Time::Unknown,
            hides_fields: false,
            list: NONE,
            name,
        });
        self.key_slots.add(hash, at);
        at
    }

    /// The place of a field.
    pub fn find_field(&self, key: u32, name: &[u8]) -> Option<u32> {
        if self.key(key).list == NONE {
            return None;
        }
        self.field_slots.find(self.hash_field(key, name), |at| {
            let field = &self.fields[at as usize];
            field.key == key && self.name(field.name) == name
        })
    }

    /// Adds a field that is not there, nothing being known of it.
    pub fn add_field(&mut self, key: u32, name: &[u8]) -> u32 {
        let at = self.fields.len() as u32;
        let hash = self.hash_field(key, name);
        let name = self.add_name(name);
        let list = &mut self.keys[key as usize].list;
        if *list == NONE {
            *list = self.lists.len() as u32;
            self.lists.push(List {
                head: NONE,
                held: 0,
            });
        }
        let next = std::mem::replace(&mut self.lists[*list as usize].head, at);
        self.fields.push(Field {
            key,
            next,
            time: Time::Unknown,
            name,
        });
        self.field_slots.add(hash, at);
        at
    }

    /// Sets the time of a field and gives what it was.
    pub fn set_field(&mut self, at: u32, time: Time) -> Time {
        let field = &mut self.fields[at as usize];
        let before = std::mem::replace(&mut field.time, time);
        let held = &mut self.lists[self.keys[field.key as usize].list as usize].held;
        *held -= u64::from(before.is_held());
        *held += u64::from(time.is_held());
        before
    }

    /// Forgets the fields of a key at no cost for each. Gives its new place, and how many times of
    /// fields were held.
    pub fn drop_fields(&mut self, hash: u64, at: u32) -> (u32, u64) {
        let key = &mut self.keys[at as usize];
        if key.list == NONE {
            return (at, 0);
        }
        // The fields belong to the old place, where no name leads any more.
        let held = self.lists[key.list as usize].held;
        let moved = Key { list: NONE, ..*key };
        *key = Key {
            own: Time::Unknown,
            hides_fields: false,
            list: NONE,
            ..*key
        };
        let new = self.keys.len() as u32;
        self.keys.push(moved);
        self.key_slots.replace(hash, at, new);
        (new, held)
    }

    /// The places of a key's fields of which something is known, the newest first.
    pub fn fields(&self, key: u32) -> impl Iterator<Item = u32> + '_ {
        let list = self.lists.get(self.key(key).list as usize);
        let mut next = list.map_or(NONE, |list| list.head);
        std::iter::from_fn(move || {
            while let Some(field) = self.fields.get(next as usize) {
                let at = std::mem::replace(&mut next, field.next);
                if field.time != Time::Unknown {
                    return Some(at);
                }
            }
            None
        })
    }

    /// Whether something is known of a key or of any field of it.
    fn is_known(&self, at: u32) -> bool {
        let key = self.key(at);
        key.own != Time::Unknown || key.hides_fields || self.fields(at).next().is_some()
    }

    /// Whether more than half is garbage, or of generations that are not `live`.
    pub fn is_mostly_garbage(&self, live: impl Fn(u64) -> bool) -> bool {
        let known: usize = (0..self.keys.len() as u32)
            .filter(|&at| live(self.key(at).generation) && self.is_known(at))
            .map(|at| 1 + self.fields(at).count())
            .sum();
        known < (self.keys.len() + self.fields.len()) / 2
    }

    /// Takes the garbage out.
    pub fn compact(&mut self, live: impl Fn(u64) -> bool, hash: impl Fn(u64, &[u8]) -> u64) {
        let mut kept = Memory::new();
        for at in 0..self.keys.len() as u32 {
            let key = self.key(at);
            if !live(key.generation) || !self.is_known(at) {
                continue;
            }
            let name = self.key_name(at);
            let new = kept.add(hash(key.generation, name), key.generation, name);
            kept.key_mut(new).own = key.own;
            kept.key_mut(new).hides_fields = key.hides_fields;
            for field in self.fields(at) {
                let new = kept.add_field(new, self.field_name(field));
                kept.set_field(new, self.field_time(field));
            }
        }
        *self = kept;
    }

    /// The keys of `live` generations of which something is known, ordered by generation and name.
    pub fn sorted(&self, live: impl Fn(u64) -> bool) -> Vec<Item> {
        let mut items: Vec<Item> = (0..self.keys.len() as u32)
            .filter(|&at| live(self.key(at).generation) && self.is_known(at))
            .map(|at| Item {
                chunk: self.key(at).generation,
                left: 0,
                at,
            })
            .collect();
        items.sort_unstable_by_key(|item| item.chunk);
        for group in items.chunk_by_mut(|a, b| a.chunk == b.chunk) {
            sort(group, 0, &|at| self.key_name(at));
        }
        items
    }

    /// Writes the places of a key's fields of which something is known, ordered by name.
    pub fn sorted_fields(&self, key: u32, out: &mut Vec<Item>) {
        out.clear();
        out.extend(self.fields(key).map(|at| Item {
            chunk: 0,
            left: 0,
            at,
        }));
        sort(out, 0, &|at| self.field_name(at));
    }

    fn hash_field(&self, key: u32, name: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(key);
        hasher.write(name);
        hasher.finish()
    }

    fn add_name(&mut self, name: &[u8]) -> usize {
        let at = self.names.len();
        varint::write(name.len() as u64, &mut self.names);
        self.names.extend_from_slice(name);
        at
    }

    fn name(&self, at: usize) -> &[u8] {
        let (len, len_bytes) = varint::read(&self.names[at..]);
        &self.names[at + len_bytes..][..len as usize]
    }
}

/// An open hash table of places: the lower half of the hash, and the place plus one. How many
/// there are, too.
struct Slots(Vec<u64>, usize);

impl Slots {
    fn clear(&mut self) {
        self.0.fill(0);
        self.1 = 0;
    }

    #[inline]
    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        let mask = self.0.len() - 1;
        let mut slot = hash as u32 as usize & mask;
        // Never full, so there is an end.
        loop {
            match self.0[slot] {
                0 => return None,
                found if (found >> 32) as u32 == hash as u32 && is_it(found as u32 - 1) => {
                    return Some(found as u32 - 1);
                }
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn add(&mut self, hash: u64, at: u32) {
        if (self.1 + 1) * 4 > self.0.len() * 3 {
            let larger = vec![0; (self.0.len() * 2).max(16)];
            for slot in std::mem::replace(&mut self.0, larger) {
                if slot != 0 {
                    self.place(slot);
                }
            }
        }
        self.1 += 1;
        self.place(value(hash, at));
    }

    fn place(&mut self, value: u64) {
        let mask = self.0.len() - 1;
        let mut slot = (value >> 32) as usize & mask;
        while self.0[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.0[slot] = value;
    }

    /// What stands for one place then stands for another.
    fn replace(&mut self, hash: u64, old: u32, new: u32) {
        let (old, new) = (value(hash, old), value(hash, new));
        let mask = self.0.len() - 1;
        let mut slot = hash as u32 as usize & mask;
        while self.0[slot] != 0 {
            if self.0[slot] == old {
                self.0[slot] = new;
                return;
            }
            slot = (slot + 1) & mask;
        }
    }
}

fn value(hash: u64, at: u32) -> u64 {
    hash << 32 | u64::from(at + 1)
}

/// A place, while it is sorted by the name there.
pub(super) struct Item {
    /// Eight bytes of the name, big-endian, filled up with zeros.
    chunk: u64,
    /// Bytes of the name from this chunk on, or `MORE`.
    left: u32,
    /// The place.
    pub at: u32,
}

/// The name does not end in this chunk.
const MORE: u32 = 9;

/// Groups up to this length are sorted by comparing whole names.
const FEW: usize = 16;

/// So are those that have so many bytes in common: the call stack is not without end.
const DEEP: usize = 1024;

/// Sorts by names that have `depth` bytes in common, or are shorter and the same.
///
/// Chunk by chunk, because a comparison of two names would wait for memory twice, and this way each
/// chunk of a name is fetched once.
fn sort<'a>(items: &mut [Item], depth: usize, name: &impl Fn(u32) -> &'a [u8]) {
    if items.len() <= FEW || depth > DEEP {
        items.sort_unstable_by(|a, b| name(a.at).cmp(name(b.at)));
        return;
    }
    for item in &mut *items {
        let rest = name(item.at).get(depth..).unwrap_or_default();
        item.chunk = match rest.first_chunk() {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => {
                let mut bytes = [0; 8];
                bytes[..rest.len()].copy_from_slice(rest);
                u64::from_be_bytes(bytes)
            }
        };
        item.left = rest.len().min(MORE as usize) as u32;
    }
    items.sort_unstable_by_key(|item| (item.chunk, item.left));
    for group in items.chunk_by_mut(|a, b| (a.chunk, a.left) == (b.chunk, b.left)) {
        if group.len() > 1 && group[0].left == MORE {
            sort(group, depth + 8, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_as_bytes_are() {
        let mut names: Vec<Vec<u8>> = Vec::new();
        // Alike for less than a chunk, for some chunks, and for too many of them.
        for common in [0, 3, 8, 21, 2000] {
            for i in 0..60_u8 {
                for len in [0, 1, 5, 7, 8, 9, 16] {
                    let end = vec![i / 20 * i; len];
                    names.push([&vec![b'n'; common][..], &end].concat());
                    names.push([&vec![b'n'; common][..], &end, &[0, 0]].concat());
                }
            }
        }
        names.sort();
        names.dedup();
        let mut memory = Memory::new();
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|i| i * 7919 % 1009);
        for &i in &order {
            // Two generations, and a key with all names as fields.
            for generation in [2, 1, 300] {
                let hash = if generation == 300 { 0 } else { i as u64 };
                let name = &names[if generation == 300 { 0 } else { i }];
                let found = memory.find(hash, generation, name);
                let at = found.unwrap_or_else(|| memory.add(hash, generation, name));
                memory.key_mut(at).own = Time::At(0);
                if generation == 300 {
                    assert!(memory.find_field(at, &names[i]).is_none());
                    let field = memory.add_field(at, &names[i]);
                    memory.set_field(field, Time::At(1));
                    assert_eq!(memory.find_field(at, &names[i]), Some(field));
                }
            }
        }
        let items = memory.sorted(|_| true);
        let n = names.len();
        for (generation, items) in [(1, &items[..n]), (2, &items[n..2 * n])] {
            for (item, name) in items.iter().zip(&names) {
                assert_eq!(memory.key(item.at).generation, generation);
                assert!(memory.key_name(item.at) == name);
            }
        }
        let mut fields = Vec::new();
        memory.sorted_fields(items[2 * n].at, &mut fields);
        assert_eq!(fields.len(), n);
        for (item, name) in fields.iter().zip(&names) {
            assert!(memory.field_name(item.at) == name);
        }
    }
}
