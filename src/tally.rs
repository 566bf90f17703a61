//! Counts of a run: what was read, what became of it, and what the chosen form could not carry.

use std::collections::BTreeMap;

/// Counts of one task or of a whole run. Of every key read exactly one fate is counted:
/// `read = written + filtered + expired + rejected + existing`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Keys in the file.
    pub read: u64,
    /// Keys written.
    pub written: u64,
    /// Keys that were not chosen, and keys without any element, which servers leave out too.
    pub filtered: u64,
    /// Keys whose time has passed.
    pub expired: u64,
    /// Keys that could not be written: listed with their reasons.
    pub rejected: u64,
    /// Keys that a destination held already and that were left as they were.
    pub existing: u64,
    /// Keys written as RESTORE.
    pub as_restore: u64,
    /// Function libraries and scripts written.
    pub libraries: u64,
    /// Function libraries read that could not be written.
    pub libraries_rejected: u64,
    /// Commands written.
    pub commands: u64,
    /// Commands of logs, by what became of them.
    pub log: LogTally,
    /// Expiries that were held back until the end of a log and then written.
    pub settled: u64,
    /// What could not be carried, and how often.
    pub limits: BTreeMap<Limit, u64>,
}

/// Counts of a log's commands. Of every command exactly one fate is counted: `read = written + filtered + rejected`.
/// SELECT, MULTI and EXEC are not counted: they say where and how the others apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogTally {
    /// Commands in the log.
    pub read: u64,
    /// Commands written, as they stand or in other words.
    pub written: u64,
    /// Commands that were not chosen, or change nothing.
    pub filtered: u64,
    /// Commands that could not be written: listed with their reasons.
    pub rejected: u64,
    /// Transactions among them.
    pub transactions: u64,
}

impl LogTally {
    /// Whether every command read has exactly one fate.
    pub fn adds_up(&self) -> bool {
        self.read == self.written + self.filtered + self.rejected
    }
}

/// Something that a file holds and the chosen form does not carry; the key itself arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Keys without any element.
    EmptyKeys,
    /// Hash fields whose time has passed.
    ExpiredFields,
    /// LRU idle times, which only RESTORE sets.
    IdleTimes,
    /// LFU counters, which only RESTORE sets.
    Frequencies,
    /// Module metadata of keys, which only RESTORE carries.
    KeyMeta,
    /// Seen and active times of stream consumers.
    ConsumerTimes,
    /// Active times of stream consumers, which RESTORE carries from 7.2 on.
    ActiveTimes,
    /// Consumers without pending entries, before 6.2.
    IdleConsumers,
    /// Idempotence settings and records, before 8.6.2.
    Idmp,
    /// Idempotence records whose entry is gone.
    IdmpDeleted,
    /// Counts of duplicates that a stream turned away.
    IdmpDuplicates,
    /// Entries-added and max-deleted-id of streams, entries-read of groups, before 7.0.
    StreamCounters,
    /// Cached scripts that the dialect cannot load.
    Scripts,
    /// Values that have no commands and went as RESTORE into a file of commands.
    AsRestore,
    /// Values whose payload the destination would misread and that went as commands.
    AsCommands,
    /// Data of modules that belongs to no key.
    ModuleAux,
    /// Commands whose effect depends on when and where they run.
    Verbatim,
}

impl Limit {
    /// A name for machines.
    pub fn name(self) -> &'static str {
        match self {
            Limit::EmptyKeys => "empty_keys",
            Limit::ExpiredFields => "expired_fields",
            Limit::IdleTimes => "idle_times",
            Limit::Frequencies => "frequencies",
            Limit::KeyMeta => "key_metadata",
            Limit::ConsumerTimes => "consumer_times",
            Limit::ActiveTimes => "active_times",
            Limit::IdleConsumers => "idle_consumers",
            Limit::Idmp => "idmp",
            Limit::IdmpDeleted => "idmp_deleted",
            Limit::IdmpDuplicates => "idmp_duplicates",
            Limit::StreamCounters => "stream_counters",
            Limit::Scripts => "scripts",
            Limit::AsRestore => "as_restore",
            Limit::AsCommands => "as_commands",
            Limit::ModuleAux => "module_aux",
            Limit::Verbatim => "verbatim",
        }
    }

    /// A sentence for people that follows the count.
    pub fn sentence(self) -> &'static str {
        match self {
            Limit::EmptyKeys => {
                "keys without any element were left out, as servers do when they load the file"
            }
            Limit::ExpiredFields => {
                "hash fields whose time has passed were left out (--expired keep keeps them)"
            }
            Limit::IdleTimes => {
                "keys carry an idle time (LRU), which commands cannot set: --mode restore does"
            }
            Limit::Frequencies => {
                "keys carry an access frequency (LFU), which commands cannot set: --mode restore does"
            }
            Limit::KeyMeta => {
                "keys carry module metadata, which commands cannot set: --mode restore does, for Redis 8.6 on"
            }
            Limit::ConsumerTimes => {
                "stream consumers lose their seen and active times, which no command sets: --mode restore keeps them"
            }
            Limit::ActiveTimes => "stream consumers lose their active times, which need Redis 7.2",
            Limit::IdleConsumers => {
                "stream consumers without pending entries were left out: they need Redis 6.2"
            }
            Limit::Idmp => {
                "streams lose their idempotence settings and records, which need Redis 8.6.2"
            }
            Limit::IdmpDeleted => {
                "idempotence records of deleted stream entries were left out: --mode restore keeps them"
            }
            Limit::IdmpDuplicates => {
                "streams lose their count of duplicates turned away, which no command sets: --mode restore keeps it"
            }
            Limit::StreamCounters => {
                "streams lose entries-added, max-deleted-id and entries-read, which need Redis 7.0"
            }
            Limit::Scripts => "cached scripts were left out: this dialect has no SCRIPT LOAD",
            Limit::AsRestore => {
                "values have no commands in this dialect (modules, or types that a proxy does not forward) and were written as RESTORE"
            }
            Limit::AsCommands => {
                "values hold an entry of a size that servers before and after 8.8 store differently and were written as commands"
            }
            Limit::Verbatim => {
                "commands depend on when and where they run (scripts, SPOP, XADD *) and were written as they stand"
            }
            Limit::ModuleAux => {
                "module data fields that belong to no key were left out: no command carries them"
            }
        }
    }
}

impl Tally {
    /// Counts something that is not carried.
    #[inline]
    pub fn limit(&mut self, limit: Limit, n: u64) {
        if n > 0 {
            *self.limits.entry(limit).or_default() += n;
        }
    }

    /// Adds another task's counts.
    pub fn add(&mut self, other: &Tally) {
        self.read += other.read;
        self.written += other.written;
        self.filtered += other.filtered;
        self.expired += other.expired;
        self.rejected += other.rejected;
        self.existing += other.existing;
        self.as_restore += other.as_restore;
        self.libraries += other.libraries;
        self.libraries_rejected += other.libraries_rejected;
        self.commands += other.commands;
        self.log.read += other.log.read;
        self.log.written += other.log.written;
        self.log.filtered += other.log.filtered;
        self.log.rejected += other.log.rejected;
        self.log.transactions += other.log.transactions;
        self.settled += other.settled;
        for (limit, n) in &other.limits {
            self.limit(*limit, *n);
        }
    }

    /// Whether every key read has exactly one fate.
    pub fn adds_up(&self) -> bool {
        self.read == self.written + self.filtered + self.expired + self.rejected + self.existing
            && self.log.adds_up()
    }
}

/// A key that could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Database in the file; none for what belongs to no database.
    pub db: Option<u64>,
    /// The key, cut at 4 KiB; or the name of a function library.
    pub key: Vec<u8>,
    /// As TYPE names it.
    pub type_name: String,
    /// The command that would have been needed.
    pub command: String,
    /// Why it could not be written.
    pub error: String,
}

impl Reject {
    /// Keys are kept up to this many bytes.
    pub const KEY_BYTES: usize = 4 << 10;
}
