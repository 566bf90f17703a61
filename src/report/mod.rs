//! What is in a snapshot: how many keys of which type, database, prefix and slot, how large they are in the file and in
//! memory, when they expire, and which are the largest.
//!
//! [`Report`] is what is found, ready to be shown: as a table, as JSON (its own serde form) or as a page. Names of keys
//! and prefixes are bytes; in a report they are text with the bytes that are none escaped as `\xNN`.

mod buckets;
mod collect;
pub mod html;
mod largest;
mod measure;
mod memory;
mod prefix;
mod rows;
pub mod table;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

pub use collect::Collection;
pub use rows::{COLUMNS, head};

use crate::filter::Filter;

/// What is counted and how it is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which keys are looked at.
    pub filter: Filter,
    /// Bytes that end a part of a name, each by itself.
    pub separators: Vec<u8>,
    /// The most parts of a name that make a prefix.
    pub prefix_depth: usize,
    /// Prefixes that are counted at a time, over all workers; the smallest are given up where there are more.
    pub most_prefixes: usize,
    /// Prefixes that are told, the largest.
    pub shown_prefixes: usize,
    /// How many of the largest keys are told.
    pub top: usize,
    /// What decides which is larger.
    pub by: By,
    /// Whether hashes stand in place of names.
    pub hide_keys: bool,
    /// The largest string that is unpacked in memory, in bytes.
    pub unpack_limit: usize,
}

/// What decides which of two is the larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Bytes in the file.
    Bytes,
    /// Estimated memory.
    Memory,
    /// Keys.
    Keys,
}

impl By {
    /// The number that counts.
    #[inline]
    pub fn of(self, sums: &Sums) -> u64 {
        match self {
            By::Bytes => sums.bytes,
            By::Memory => sums.memory,
            By::Keys => sums.keys,
        }
    }
}

/// A name as text from which it can be had back: a backslash is doubled, and a byte that is no part of a UTF-8
/// character, or is a control character, becomes `\x` and two hexadecimal digits. With `hide` a hash of it.
pub(crate) fn shown(name: &[u8], hide: bool) -> String {
    if hide {
        return crate::error::show_key(name, true);
    }
    // Most names stay as they are.
    if name.iter().all(|b| matches!(b, b' '..=b'~') && *b != b'\\') {
        return name.iter().map(|b| char::from(*b)).collect();
    }
    let mut text = String::with_capacity(name.len() * 2);
    let hex = |text: &mut String, byte: u8| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).expect("a digit"));
        }
    };
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                // Those of two bytes (C1) too: terminals obey them.
                c if c.is_control() => {
                    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                        text.push_str("\\x");
                        hex(&mut text, byte);
                    }
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str("\\x");
            hex(&mut text, *byte);
        }
    }
    text
}

/// The name in base64, where its text is not the name itself.
fn exact(name: &[u8], text: &str) -> Option<String> {
    (name != text.as_bytes()).then(|| STANDARD.encode(name))
}

/// All that is found in the inputs of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this form: 1.
    pub schema: u32,
    /// Name and version of the program.
    pub generator: String,
    /// When it was made, RFC 3339 in UTC.
    pub created: String,
    /// The files that were read, in order.
    pub inputs: Vec<InputFacts>,
    /// How memory is estimated.
    pub memory_model: MemoryModel,
    /// Sums over all keys.
    pub totals: Totals,
    /// By type as TYPE names it, the largest first.
    pub types: Vec<TypeRow>,
    /// By type and encoding as OBJECT ENCODING names it, the largest first.
    pub encodings: Vec<EncodingRow>,
    /// By database, ascending.
    pub dbs: Vec<DbRow>,
    /// By parts of the key's name.
    pub prefixes: Prefixes,
    /// By slot of a cluster.
    pub slots: Slots,
    /// By time to live.
    pub expiry: Expiry,
    /// By seconds since the last use, where the file carries them (LRU).
    pub idle: Option<Idle>,
    /// By access frequency, where the file carries it (LFU).
    pub freq: Option<Freq>,
    /// By bytes of the value in the file.
    pub sizes: Sizes,
    /// Keys with the largest records in the file, the largest first.
    pub largest_by_bytes: Vec<LargeKey>,
    /// Keys that take most memory, the largest first.
    pub largest_by_memory: Vec<LargeKey>,
    /// Keys with most elements, the largest first.
    pub largest_by_elements: Vec<LargeKey>,
    /// Function libraries.
    pub functions: u64,
}

/// What is counted of a set of keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Keys.
    pub keys: u64,
    /// Bytes of their whole records in the file: attributes, type, name and value.
    pub bytes: u64,
    /// Bytes that Redis 7.0 is estimated to hold for them.
    pub memory: u64,
    /// Elements, members, fields or entries; a string is one.
    pub elements: u64,
}

impl Sums {
    const ZERO: Sums = Sums {
        keys: 0,
        bytes: 0,
        memory: 0,
        elements: 0,
    };

    /// Adds others.
    #[inline]
    pub fn add(&mut self, other: &Sums) {
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.memory += other.memory;
        self.elements += other.elements;
    }
}

/// A file that was read.
#[derive(Debug, Clone, Serialize)]
pub struct InputFacts {
    /// As it was named.
    pub name: String,
    /// Bytes of the file as it stands.
    pub bytes: u64,
    /// Magic and version; empty where they could not be read.
    pub magic: String,
    /// Server that wrote it, where the file says so.
    pub server: Option<String>,
    /// Keys found in it, chosen or not.
    pub keys: u64,
    /// Bytes behind its end that are no commands.
    pub trailing_bytes: u64,
    /// Whether it holds commands of a log, perhaps behind a snapshot; they are not looked at.
    pub has_log: bool,
    /// How many commands these are.
    pub log_commands: u64,
    /// What is wrong with it; what stands before that is counted.
    pub damage: Option<String>,
}

/// How memory is estimated.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryModel {
    /// Whose memory.
    pub server: String,
    /// Largest error of a sum that was measured, in percent.
    pub error_percent: f64,
    /// What is counted and how it was measured.
    pub note: String,
}

impl MemoryModel {
    fn of_7_0() -> MemoryModel {
        MemoryModel {
            server: "Redis 7.0 (64 bit, jemalloc)".to_owned(),
            error_percent: memory::ERROR_PERCENT,
            note: "what a server with default settings allocates for the key, its value and its expiry once the file is \
                   loaded, held against used_memory of a 7.0.15 with the jemalloc of its distribution; one that was built \
                   with Redis's own takes up to a fifth less for small keys. Values of modules \
                   and of types that 7.0 does not have count as many bytes as in the file. Hash tables of databases are \
                   counted apart; buffers, replication and fragmentation are not in it."
                .to_owned(),
        }
    }
}

/// Sums over all keys.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Totals {
    /// Keys, bytes, memory and elements.
    #[serde(flatten)]
    pub sums: Sums,
    /// Keys that have an expiry.
    pub expiring: u64,
    /// Of these, keys whose time has passed.
    pub expired: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Estimated bytes of the databases' own hash tables, which belong to no key; `memory` does not have them.
    pub tables: u64,
    /// Keys that were not chosen and are counted nowhere else.
    pub filtered: u64,
    /// Keys whose name or value cannot be read. Where only the value is broken the key is counted all the same, by its
    /// bytes.
    pub broken: u64,
}

/// Keys of a type.
#[derive(Debug, Clone, Serialize)]
pub struct TypeRow {
    /// As TYPE names it; a module's own name.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys of a type and encoding.
#[derive(Debug, Clone, Serialize)]
pub struct EncodingRow {
    /// As TYPE names it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// As OBJECT ENCODING of Redis 7.0 would name it once the file is loaded.
    pub encoding: String,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys of a database.
#[derive(Debug, Clone, Serialize)]
pub struct DbRow {
    /// Its number.
    pub db: u64,
    /// Keys that have an expiry.
    pub expiring: u64,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys by parts of their names.
#[derive(Debug, Clone, Serialize)]
pub struct Prefixes {
    /// What parts end with.
    pub separator: String,
    /// Whether some prefixes were given up to keep within memory: those that are shown may have lost keys to "(other)".
    pub approximate: bool,
    /// The most keys that any prefix may be counted too low by: they are in an "(other)".
    pub lost_error: u64,
    /// The most bytes that any prefix may be counted too low by.
    pub lost_bytes: u64,
    /// All keys.
    pub root: PrefixNode,
}

/// A prefix. Its sums are those of its children and of the keys that end within it.
#[derive(Debug, Clone, Serialize)]
pub struct PrefixNode {
    /// From the name's first byte, with the separator; "(other)" for what was given up or left out among siblings.
    pub prefix: String,
    /// Sums of all keys that begin with it.
    #[serde(flatten)]
    pub sums: Sums,
    /// Longer prefixes, the largest first, "(other)" last. Keys without a further separator are in none of them.
    pub children: Vec<PrefixNode>,
}

/// What stands for the prefixes that are not shown.
pub const OTHER: &str = "(other)";

/// Keys by slot, as a cluster would spread them.
#[derive(Debug, Clone, Serialize)]
pub struct Slots {
    /// Slots that hold any key.
    pub used: u64,
    /// The largest one; none where there is no key.
    pub most: Option<SlotRow>,
    /// All slots in 64 ranges.
    pub buckets: Vec<SlotBucket>,
    /// The largest ones, the largest first.
    pub largest: Vec<SlotRow>,
}

/// Keys of a slot.
#[derive(Debug, Clone, Serialize)]
pub struct SlotRow {
    /// Its number.
    pub slot: u16,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys of a range of slots.
#[derive(Debug, Clone, Serialize)]
pub struct SlotBucket {
    /// The first slot.
    pub from: u16,
    /// The last slot.
    pub to: u16,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys by time to live.
#[derive(Debug, Clone, Serialize)]
pub struct Expiry {
    /// The moment that "expired" and "in an hour" are held against, Unix time in milliseconds.
    pub now_ms: i64,
    /// Keys without expiry.
    pub none: Sums,
    /// The others, the expired first.
    pub buckets: Vec<ExpiryBucket>,
}

/// Keys whose time to live lies in a range.
#[derive(Debug, Clone, Serialize)]
pub struct ExpiryBucket {
    /// For people.
    pub label: String,
    /// Smallest time to live; none for the expired.
    pub from_ms: Option<i64>,
    /// What the time to live is below; none for the last.
    pub to_ms: Option<i64>,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys by seconds since the last use.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// In ascending order.
    pub buckets: Vec<IdleBucket>,
}

/// Keys whose idle time lies in a range.
#[derive(Debug, Clone, Serialize)]
pub struct IdleBucket {
    /// For people.
    pub label: String,
    /// Smallest.
    pub from_secs: u64,
    /// What it is below; none for the last.
    pub to_secs: Option<u64>,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys by access frequency: the logarithmic counter of LFU.
#[derive(Debug, Clone, Serialize)]
pub struct Freq {
    /// In ascending order.
    pub buckets: Vec<FreqBucket>,
}

/// Keys whose counter lies in a range.
#[derive(Debug, Clone, Serialize)]
pub struct FreqBucket {
    /// For people.
    pub label: String,
    /// Smallest counter.
    pub from: u8,
    /// Largest counter.
    pub to: u8,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// Keys by bytes of the value in the file.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// Powers of two, ascending; from the smallest to the largest that any key has.
    pub buckets: Vec<SizeBucket>,
}

/// Keys whose value has so many bytes in the file.
#[derive(Debug, Clone, Serialize)]
pub struct SizeBucket {
    /// For people.
    pub label: String,
    /// Fewest bytes.
    pub from: u64,
    /// Most bytes.
    pub to: u64,
    /// Their sums.
    #[serde(flatten)]
    pub sums: Sums,
}

/// One of the largest keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LargeKey {
    /// Its database.
    pub db: u64,
    /// Its name; bytes that are no text are escaped as `\xNN`.
    pub key: String,
    /// Its name exactly, where the text is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// As TYPE names it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// As OBJECT ENCODING of Redis 7.0 would name it.
    pub encoding: String,
    /// Bytes of the record in the file.
    pub bytes: u64,
    /// Bytes that Redis 7.0 is estimated to hold for it.
    pub memory: u64,
    /// Elements, members, fields or entries; a string is one.
    pub elements: u64,
    /// Bytes of the largest element, member, field with its value, or entry.
    pub largest_element: u64,
    /// Unix time in milliseconds at which it expires.
    pub expires_at_ms: Option<i64>,
}
