//! Whether files are whole; where not, where they break, and what can be saved of them.
//!
//! A snapshot is walked by its lengths and held against its checksum. Where that does not vouch for it, because it has
//! none or another one, every value is walked to its last byte, so that the damage is found. A log is read command by
//! command. The words are those of redis-check-rdb and redis-check-aof where these have any.

pub mod log;
pub mod repair;
pub mod resync;
pub mod salvage;
pub mod set;
pub mod snapshot;
pub mod wording;

use crate::error::Error;

/// How closely files are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of workers.
    pub threads: usize,
    /// Whether the checksum is held against the file.
    pub checksum: bool,
    /// Whether values are walked to their last byte also where the checksum vouches for them.
    pub deep: bool,
    /// Damaged keys that are listed; the others are counted.
    pub most: usize,
    /// Unix time in milliseconds that expiries are held against.
    pub now_ms: i64,
}

/// Something that is broken in a file.
#[derive(Debug)]
pub struct Fault {
    /// What, where, and in which key.
    pub error: Error,
    /// The type's byte, where it is known.
    pub type_byte: Option<u8>,
    /// What was being read.
    pub doing: wording::Doing,
}

/// What is to be said of a file in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing is missing or broken.
    Whole,
    /// A log that ends within a command or a transaction, as a server leaves it that was killed. Servers cut that off
    /// and start.
    Torn,
    /// Something is broken, or missing where something must stand.
    Damaged,
}
