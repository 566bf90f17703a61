//! Streams in memory: entries, groups, and the rules by which the commands of streams change them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::value::Bytes;
use crate::value::stream::Id;

/// Nobody knows how many entries the group has read.
pub(super) const READ_UNKNOWN: i64 = -1;

/// A stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Stream {
    /// Fields and values, one after the other.
    pub entries: BTreeMap<Id, Vec<Bytes>>,
    pub last: Id,
    pub max_deleted: Id,
    pub entries_added: u64,
    pub groups: BTreeMap<Bytes, Group>,
    pub idmp: Option<Idmp>,
}

/// A consumer group.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub last: Id,
    pub entries_read: i64,
    pub pending: BTreeMap<Id, Pending>,
    pub consumers: BTreeSet<Bytes>,
    /// Ids that were released by XNACK, in the order in which they are given out again.
    pub released: VecDeque<Id>,
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// `None` where it was released.
    pub consumer: Option<Bytes>,
    pub time_ms: i64,
    pub count: u64,
}

/// What is known of idempotent producers.
#[derive(Debug, Clone)]
pub(super) struct Idmp {
    pub duration_secs: u64,
    pub max_size: u64,
    /// Producers with their records, in the order in which they came.
    pub producers: Vec<(Bytes, Vec<(Bytes, Id)>)>,
    pub added: u64,
    pub duplicates: u64,
}

impl Default for Idmp {
    fn default() -> Idmp {
        Idmp {
            duration_secs: 100,
            max_size: 100,
            producers: Vec::new(),
            added: 0,
            duplicates: 0,
        }
    }
}

impl Idmp {
    /// Remembers the record of a producer; the oldest one makes room.
    pub fn record(&mut self, producer: &[u8], record: &[u8], id: Id) {
        let known = self.producers.iter().position(|(p, _)| **p == *producer);
        let i = known.unwrap_or_else(|| {
            self.producers.push((producer.into(), Vec::new()));
            self.producers.len() - 1
        });
        let records = &mut self.producers[i].1;
        if records.iter().any(|(known, _)| **known == *record) {
            return;
        }
        if records.len() as u64 >= self.max_size {
            records.remove(0);
        }
        records.push((record.into(), id));
        self.added += 1;
    }
}

/// What becomes of the places in groups where an entry that is deleted is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refs {
    /// They stay.
    Keep,
    /// They go too.
    Delete,
    /// The entry stays until all groups have read and acknowledged it.
    Acked,
}

impl Stream {
    /// Whether a group still has to read the entry or to acknowledge it.
    fn is_referenced(&self, id: Id) -> bool {
        let mut groups = self.groups.values();
        groups.any(|group| group.last < id || group.pending.contains_key(&id))
    }

    /// Deletes an entry; `false` where it is not there or has to stay.
    fn delete(&mut self, id: Id, refs: Refs) -> bool {
        if !self.entries.contains_key(&id) || (refs == Refs::Acked && self.is_referenced(id)) {
            return false;
        }
        self.entries.remove(&id);
        if refs == Refs::Delete {
            for group in self.groups.values_mut() {
                group.forget(id);
            }
        }
        true
    }

    /// XDEL and its like.
    pub fn remove(&mut self, id: Id, refs: Refs) {
        if self.delete(id, refs) {
            self.max_deleted = self.max_deleted.max(id);
        }
    }

    /// Trims to so many entries.
    pub fn trim_len(&mut self, most: u64, refs: Refs) {
        let mut over = (self.entries.len() as u64).saturating_sub(most);
        if over == 0 {
            return;
        }
        let ids: Vec<Id> = self.entries.keys().copied().collect();
        for id in ids {
            if over == 0 {
                break;
            }
            over -= u64::from(self.delete(id, refs));
        }
    }

    /// Trims what is before an id.
    pub fn trim_before(&mut self, least: Id, refs: Refs) {
        let ids: Vec<Id> = self.entries.range(..least).map(|(id, _)| *id).collect();
        for id in ids {
            self.delete(id, refs);
        }
    }

    /// Id of the first entry; 0-0 where there is none.
    pub fn first(&self) -> Id {
        self.entries.keys().next().copied().unwrap_or(Id::ZERO)
    }
}

impl Group {
    /// Takes an id out of what is pending.
    pub fn forget(&mut self, id: Id) -> bool {
        let found = self.pending.remove(&id);
        if found.as_ref().is_some_and(|p| p.consumer.is_none()) {
            self.released.retain(|released| *released != id);
        }
        found.is_some()
    }
}
