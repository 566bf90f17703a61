//! Databases and their keys in memory.

use super::Fail;
use super::value::{Bytes, Map, Typed, Value};

/// A key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub value: Value,
    pub expire_at_ms: Option<i64>,
    /// The KEY_META record, which only modules know to read.
    pub meta: Option<Bytes>,
}

impl Entry {
    pub fn new(value: Value) -> Entry {
        Entry {
            value,
            expire_at_ms: None,
            meta: None,
        }
    }
}

/// Which database has whose keys since they were swapped. Keys stay where they are, and only numbers change: those that
/// stand in a snapshot cannot be moved. A place is called by the number that it had at first.
#[derive(Debug, Clone, Default)]
pub(super) struct Swaps(Map<u64, u64>);

impl Swaps {
    /// The place of a database's keys.
    pub fn place(&self, db: u64) -> u64 {
        self.0.get(&db).copied().unwrap_or(db)
    }

    pub fn swap(&mut self, a: u64, b: u64) {
        let (at_a, at_b) = (self.place(a), self.place(b));
        self.0.insert(a, at_b);
        self.0.insert(b, at_a);
    }

    /// The database whose keys are at a place.
    pub fn db(&self, place: u64) -> u64 {
        let found = self.0.iter().find(|(_, at)| **at == place);
        found.map_or(place, |(db, _)| *db)
    }
}

/// The keys at one place.
#[derive(Debug, Default)]
pub(super) struct Db {
    pub keys: Map<Bytes, Entry>,
    /// Snapshots before this one left nothing here: it was emptied since.
    pub emptied_before: usize,
}

/// All databases.
#[derive(Debug, Default)]
pub(super) struct Keyspace {
    dbs: Vec<(u64, Db)>,
    current: usize,
    db: u64,
    pub swaps: Swaps,
    /// Snapshots that were loaded so far.
    pub snapshots: usize,
    /// Everything was emptied before this snapshot, also places that have no keys in memory.
    pub emptied_before: usize,
}

impl Keyspace {
    /// The database that is selected.
    pub fn db(&self) -> u64 {
        self.db
    }

    pub fn select(&mut self, db: u64) {
        self.db = db;
        self.current = self.index(db);
    }

    fn index(&mut self, db: u64) -> usize {
        let place = self.swaps.place(db);
        self.index_of_place(place)
    }

    fn index_of_place(&mut self, place: u64) -> usize {
        match self.dbs.iter().position(|(at, _)| *at == place) {
            Some(i) => i,
            None => {
                self.dbs.push((place, Db::default()));
                self.dbs.len() - 1
            }
        }
    }

    pub fn swap(&mut self, a: u64, b: u64) {
        self.swaps.swap(a, b);
        self.select(self.db);
    }

    pub fn places(&self) -> impl Iterator<Item = (u64, &Db)> {
        self.dbs.iter().map(|(place, db)| (*place, db))
    }

    /// Whether what snapshot number `snapshot` has at a place is still there.
    pub fn keeps(&self, snapshot: usize, place: u64) -> bool {
        let db = self.dbs.iter().find(|(at, _)| *at == place);
        let emptied = db.map_or(0, |(_, db)| db.emptied_before);
        snapshot >= emptied.max(self.emptied_before)
    }

    pub fn at_place(&mut self, place: u64) -> &mut Db {
        let i = self.index_of_place(place);
        &mut self.dbs[i].1
    }

    fn here(&self) -> &Db {
        &self.dbs[self.current].1
    }

    fn here_mut(&mut self) -> &mut Db {
        &mut self.dbs[self.current].1
    }

    /// FLUSHDB.
    pub fn empty(&mut self) {
        let snapshots = self.snapshots;
        let db = self.here_mut();
        db.keys.clear();
        db.emptied_before = snapshots;
    }

    /// FLUSHALL.
    pub fn empty_all(&mut self) {
        self.emptied_before = self.snapshots;
        for (_, db) in &mut self.dbs {
            db.keys = Map::default();
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.here().keys.get(key)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        self.here_mut().keys.get_mut(key)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.here().keys.contains_key(key)
    }

    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.here_mut().keys.remove(key)
    }

    /// Puts a key in the place of whatever was there.
    pub fn put(&mut self, key: &[u8], entry: Entry) {
        let keys = &mut self.here_mut().keys;
        match keys.get_mut(key) {
            Some(old) => *old = entry,
            None => drop(keys.insert(key.into(), entry)),
        }
    }

    pub fn in_db(&mut self, db: u64) -> &mut Map<Bytes, Entry> {
        let i = self.index(db);
        &mut self.dbs[i].1.keys
    }

    /// The value of a key, if it is there. Errors: it is of another type.
    pub fn read<T: Typed>(&self, key: &[u8]) -> Result<Option<&T>, Fail> {
        let entry = self.get(key);
        entry
            .map(|entry| T::of(&entry.value).ok_or(Fail::Refused))
            .transpose()
    }

    /// The value of a key, to be changed.
    pub fn write<T: Typed>(&mut self, key: &[u8]) -> Result<Option<&mut T>, Fail> {
        let entry = self.get_mut(key);
        entry
            .map(|entry| T::of_mut(&mut entry.value).ok_or(Fail::Refused))
            .transpose()
    }

    /// The value of a key, which is made where it is not there.
    pub fn make<T: Typed>(&mut self, key: &[u8]) -> Result<&mut T, Fail> {
        let keys = &mut self.here_mut().keys;
        if !keys.contains_key(key) {
            keys.insert(key.into(), Entry::new(T::new().wrap()));
        }
        let entry = keys.get_mut(key).expect("it was just made");
        T::of_mut(&mut entry.value).ok_or(Fail::Refused)
    }

    /// Gives a key a value, and takes its expiry, as the commands that store do.
    pub fn store<T: Typed>(&mut self, key: &[u8], value: T) {
        if value.is_gone() {
            self.remove(key);
        } else {
            self.put(key, Entry::new(value.wrap()));
        }
    }

    /// Removes a key that has nothing left.
    pub fn tidy<T: Typed>(&mut self, key: &[u8]) {
        let value = self.get(key).and_then(|entry| T::of(&entry.value));
        if value.is_some_and(T::is_gone) {
            self.remove(key);
        }
    }
}
