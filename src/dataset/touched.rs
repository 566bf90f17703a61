//! Which keys the commands of a log may touch: only those of a snapshot have to be in memory.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::apply::{copy_db, database, patterns, sub};
use super::keyspace::Swaps;
use super::log::Take;
use super::value::Bytes;
use crate::command::keys::for_each_key;
use crate::command::table::lookup;
use crate::error::Result;
use crate::resp::parse::Command;

/// Names are hashed by their place and their bytes. Where two have one hash, a key too many is held in memory.
const HASHER: FixedState = FixedState::with_seed(0x6461_7461);

pub(super) fn hash(place: u64, name: &[u8]) -> u64 {
    HASHER.hash_one((place, name))
}

/// A place, and what stands before and behind the star of a pattern.
type LookedUp = (u64, Bytes, Bytes);

/// The keys that are touched. It follows databases as they are selected and swapped.
#[derive(Debug, Default)]
pub(super) struct Touched {
    hashes: HashSet<u64, FixedState>,
    /// Names that a SORT looks up.
    patterns: Vec<LookedUp>,
    pub swaps: Swaps,
    db: u64,
    /// All keys of the snapshots so far, where there are several.
    seen: HashSet<u64, FixedState>,
}

impl Touched {
    /// A key of another snapshot. One that two of them have has to be in memory: the later one counts.
    pub fn see(&mut self, place: u64, name: &[u8]) {
        let hash = hash(place, name);
        if !self.seen.insert(hash) {
            self.hashes.insert(hash);
        }
    }

    /// Whether a key has to be in memory.
    pub fn has(&self, place: u64, name: &[u8]) -> bool {
        self.hashes.contains(&hash(place, name)) || self.is_looked_up(place, name)
    }

    fn is_looked_up(&self, place: u64, name: &[u8]) -> bool {
        self.patterns.iter().any(|(at, before, behind)| {
            *at == place
                && name.len() >= before.len() + behind.len()
                && name.starts_with(before)
                && name.ends_with(behind)
        })
    }

    /// Another file begins, in database 0.
    pub fn begin_file(&mut self) {
        self.db = 0;
    }

    fn touch(&mut self, db: u64, name: &[u8]) {
        let place = self.swaps.place(db);
        self.hashes.insert(hash(place, name));
    }
}

impl Take for Touched {
    fn command(&mut self, _offset: u64, command: &Command<'_>) -> Result<()> {
        let Some(spec) = lookup(command.name()) else {
            return Ok(()); // whoever applies it says so
        };
        let db = self.db;
        let mut each = |db: u64| {
            // A command whose keys cannot be told is refused by servers.
            let _ = for_each_key(spec, command.args(), |_, key| self.touch(db, key));
        };
        match spec.name {
            "SELECT" => {
                if let Some(Ok(db)) = command.arg(1).map(database) {
                    self.db = db;
                }
            }
            "SWAPDB" => {
                let db = |n| command.arg(n).and_then(|arg| database(arg).ok());
                if let (Some(one), Some(other)) = (db(1), db(2)) {
                    self.swaps.swap(one, other);
                }
            }
            "MOVE" => {
                each(db);
                if let Some(Ok(to)) = command.arg(2).map(database) {
                    each(to);
                }
            }
            "COPY" => {
                each(db);
                let args: Vec<&[u8]> = command.args().collect();
                if let Some(to) = copy_db(&args) {
                    each(to);
                }
            }
            "SORT" => {
                each(db);
                let args: Vec<&[u8]> = command.args().collect();
                let place = self.swaps.place(db);
                for (before, behind) in patterns(&args) {
                    let pattern = (place, before.into(), behind.into());
                    if !self.patterns.contains(&pattern) {
                        self.patterns.push(pattern);
                    }
                }
            }
            // PFCOUNT writes its count down.
            _ if spec.write || spec.name == "PFCOUNT" => each(db),
            _ if !spec.subcommands.is_empty() => {
                let args: Vec<&[u8]> = command.args().take(2).collect();
                if sub(spec, &args).write {
                    each(db);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn time(&mut self, _ms: i64) {}

    fn transaction(&mut self) {}
}
