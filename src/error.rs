//! One error: what is wrong, at which byte, in which key.

use std::fmt;

use crate::cursor::At;
use crate::encoding::lzf::Why;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with an input, where, and in which key. One word wide.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    at: Option<At>,
    key: Option<KeyName>,
}

/// The key an error or a rejection belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    /// Database number as it stands in the file.
    pub db: u64,
    /// The key's bytes, cut at 64.
    pub key: Vec<u8>,
    /// Its type as the TYPE command would name it.
    pub type_name: String,
    /// RDB version of the file; none in a log.
    pub rdb_version: Option<u16>,
}

/// A command of a log that stands at a known place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandName {
    /// Its name, escaped.
    pub name: String,
    /// Its first argument, cut at 64 bytes: in most commands the key.
    pub key: Option<Vec<u8>>,
    /// Offset of its first byte.
    pub offset: u64,
}

/// Keys longer than this are cut in messages.
pub const KEY_SHOWN: usize = 64;

/// What is wrong. The section numbers are those of `src/rdb/format.md` (FORMAT).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file ends in the middle of something.
    #[error("file ends early: {wanted} more bytes were needed and {left} are left")]
    Truncated {
        /// Bytes that the record still needed.
        wanted: u64,
        /// Bytes that were there.
        left: u64,
    },
    /// Neither `REDIS` nor `VALKEY` at the start (FORMAT §1.2).
    #[error("not an RDB file: it begins with {found:?}")]
    NotRdb {
        /// The first bytes, escaped.
        found: String,
    },
    /// The magic's version is none that is known (FORMAT §1.3).
    #[error(
        "unknown RDB version {magic:?}; known are REDIS0001 to REDIS0015 and VALKEY080 to VALKEY081"
    )]
    UnknownVersion {
        /// The nine bytes of magic and version, escaped.
        magic: String,
    },
    /// A streaming-compressed snapshot (FORMAT §1.5).
    #[error(
        "the file is wrapped in Valkey's VKCS compression, which is not read here; save it with that compression off"
    )]
    Vkcs,
    /// A record that begins with a byte no known version uses (FORMAT §3.1, §4.0).
    #[error("unknown {} {byte} (0x{byte:02x}) in a file of version {version}{}", if *.byte >= 242 { "opcode" } else { "type" }, after_key(.after))]
    UnknownType {
        /// The byte.
        byte: u8,
        /// The file's magic and version.
        version: String,
        /// The last key before it, escaped.
        after: Option<String>,
    },
    /// A module value of the pre-release layout without opcodes (type 6).
    #[error(
        "module value of a pre-release of Redis 4.0 (type 6): its length is not recorded anywhere"
    )]
    ModulePreGa,
    /// The UPDATE opcode belongs to a replication stream (FORMAT §3.1).
    #[error(
        "opcode 242 (UPDATE) stands only in a Valkey replication stream, not in a snapshot file"
    )]
    UpdateOpcode,
    /// A length byte that the format reserves (FORMAT §2.1).
    #[error("invalid length byte 0x{0:02x}")]
    BadLength(u8),
    /// A string encoding that is not known (FORMAT §2.2).
    #[error("invalid string encoding 0x{0:02x}")]
    BadString(u8),
    /// More elements are announced than bytes are left (FORMAT §7.1).
    #[error("{count} {what} are announced and only {left} bytes are left")]
    BadCount {
        /// What is counted.
        what: &'static str,
        /// The announced number.
        count: u64,
        /// Bytes left.
        left: u64,
    },
    /// A compressed string that does not unpack (FORMAT §2.3).
    #[error("compressed string is broken {at} bytes into it: {why}")]
    BadLzf {
        /// Byte of the compressed block.
        at: usize,
        /// What is wrong.
        why: Why,
    },
    /// The announced size is more than LZF can give (FORMAT §2.3).
    #[error(
        "compressed string of {packed} bytes claims to unpack to {len}, more than the format can give"
    )]
    LzfTooLong {
        /// Compressed bytes.
        packed: u64,
        /// Announced bytes.
        len: u64,
    },
    /// Intset header and size disagree, or members out of order (FORMAT §4.4).
    #[error("intset is broken: {0}")]
    BadIntset(&'static str),
    /// Listpack (FORMAT §4.6).
    #[error("listpack {0}")]
    BadListpack(&'static str),
    /// Ziplist (FORMAT §4.3).
    #[error("ziplist {0}")]
    BadZiplist(&'static str),
    /// Zipmap (FORMAT §4.2).
    #[error("zipmap {0}")]
    BadZipmap(&'static str),
    /// A quicklist node with a container number other than 1 or 2 (FORMAT §4.5).
    #[error("quicklist node has unknown container {0}")]
    BadContainer(u64),
    /// A score that is not a number (FORMAT §2.4).
    #[error("score {0}")]
    BadScore(&'static str),
    /// An odd number of elements where pairs (or triples) belong.
    #[error("{0} elements where {1} belong together")]
    OddElements(u64, u8),
    /// Field expiry outside what the format stores (FORMAT §4.7, §4.8).
    #[error("field expiry {0} is outside the range that servers store")]
    BadFieldExpiry(i64),
    /// Stream (FORMAT §4.9).
    #[error("stream {0}")]
    BadStream(&'static str),
    /// Module value or module aux field (FORMAT §4.10).
    #[error("module value has unknown item opcode {0}")]
    BadModuleItem(u64),
    /// MODULE_AUX without its `when` (FORMAT §4.10).
    #[error("module aux field {0}")]
    BadModuleAux(&'static str),
    /// Array (FORMAT §4.11).
    #[error("array {0}")]
    BadArray(&'static str),
    /// Hash template (FORMAT §4.11b).
    #[error("hash template {0}")]
    BadTemplate(&'static str),
    /// Key metadata (FORMAT §3.4).
    #[error("key metadata {0}")]
    BadKeyMeta(&'static str),
    /// The same member twice; servers refuse it, in packed values under deep check only.
    #[error("{0} occurs twice")]
    Duplicate(&'static str),
    /// A type that came later than the file's version (FORMAT §1.4).
    #[error(
        "type {byte} came with RDB version {since}, which the file, of version {version}, cannot hold"
    )]
    TypeSince {
        /// The type's byte.
        byte: u8,
        /// The version that brought it.
        since: u16,
        /// The file's version.
        version: u16,
    },
    /// A value without elements: servers remove such keys and never save them.
    #[error("no element is in it, and servers never save such a key")]
    Empty,
    /// An expiry, an idle time or a frequency that belongs to no key (FORMAT §3.2).
    #[error("an expiry or a hint stands before no key")]
    Loose,
    /// The EOF opcode where the file goes on.
    #[error("the file ends here by its opcode, and goes on")]
    EarlyEnd,
    /// Bytes behind a snapshot that are neither commands nor what ends a transfer.
    #[error(
        "{0} bytes that are neither commands nor the mark of a replication transfer stand behind the snapshot's end"
    )]
    Trailing(u64),
    /// A key without a name among bytes that are no records.
    #[error("a key without a name, and what follows it is no record")]
    Unnamed,
    /// Packed sorted set out of order.
    #[error("packed sorted set is not ordered by score")]
    Unordered,
    /// The checksum does not match (FORMAT §5.1).
    #[error("checksum does not match: the file says {stored:016x}, its bytes give {computed:016x}")]
    Checksum {
        /// As stored after the EOF opcode.
        stored: u64,
        /// As computed.
        computed: u64,
    },
    /// A gzip or zstd file that does not unpack.
    #[error("{what} data is broken or ends early: {why}")]
    Packed {
        /// The compression.
        what: &'static str,
        /// Its decoder's words.
        why: String,
    },
    /// The file is no RDB, but of another kind this version does not read.
    #[error("{0}")]
    OtherKind(&'static str),
    /// Function library of a pre-release that cannot be carried over.
    #[error("function library {0}")]
    BadFunction(&'static str),
    /// The file was rewritten in place while it was mapped.
    #[error(
        "the file was changed while it was read, so what was written cannot be trusted; try again, or with --no-mmap"
    )]
    Changed,
    /// The run was asked to stop.
    #[error("stopped")]
    Stopped,
    /// A local file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A log that is broken between commands that are whole (AOF §7).
    #[error("{what}")]
    BadLog {
        /// What is wrong.
        what: String,
        /// The last whole command.
        before: Option<CommandName>,
        /// Bytes up to the end of the last command outside transactions.
        keeps: u64,
    },
    /// A log that ends in the middle of something, where that was to be an error.
    #[error("the log ends within {what}")]
    TornLog {
        /// A command or a transaction.
        what: &'static str,
        /// Bytes up to the end of the last command outside transactions.
        keeps: u64,
    },
    /// A command of a log that cannot be written for the destination.
    #[error("{command} cannot be written")]
    Command {
        /// Its name.
        command: String,
        /// Why.
        why: String,
    },
    /// A command of a log that only the server could carry out that was there.
    #[error("what {command} did cannot be told")]
    UnknownEffect {
        /// Its name.
        command: String,
        /// Why.
        why: String,
    },
    /// The log that was followed, or that a checkpoint speaks of, cannot be followed any further.
    #[error("{0}")]
    LogGone(String),
    /// Keys of several databases for a destination that has one.
    #[error("{0}")]
    Databases(String),
    /// A line of an AOF manifest that a server would not load, or that leads elsewhere.
    #[error("manifest line {line}: {what}")]
    BadManifest {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and what was found.
        what: String,
    },
    /// A directory that was given as an AOF holds no manifest.
    #[error("{dir} holds no *.manifest: {}", if found.is_empty() { "it is empty".to_owned() } else { format!("it holds {}", listed(found)) })]
    NoManifest {
        /// The directory.
        dir: String,
        /// What it holds instead.
        found: Vec<String>,
    },
    /// A directory that was given as an AOF holds the manifests of several.
    #[error("{dir} holds several manifests: {}", listed(names))]
    SeveralManifests {
        /// The directory.
        dir: String,
        /// The manifests in it.
        names: Vec<String>,
    },
    /// A file that a manifest lists and that is not there; servers refuse to start then.
    #[error("the manifest lists {name}, which is not there")]
    MissingPart {
        /// Its name.
        name: String,
    },
    /// A line of JSON lines that is none.
    #[error("line {line}: {what}")]
    BadLine {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it, and in which field.
        what: String,
    },
    /// A log without times that was to be read up to a time.
    #[error(
        "the log has no #TS lines (aof-timestamp-enabled was off), so where it reached that time cannot be told"
    )]
    NoTimes,
    /// A base that was written after the time up to which its log was to be read.
    #[error("its base was written later than the time up to which it is to be read")]
    BaseTooNew,
    /// A file that a manifest lists and that must not be opened.
    #[error("the manifest lists {name}, {why}")]
    BadPart {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A checkpoint file that cannot be gone on from.
    #[error("{path} is no checkpoint to go on from: {why}")]
    BadCheckpoint {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A server that cannot be reached or does not answer as one.
    #[error("{server}: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened, and what can be done about it.
        why: String,
    },
    /// A server that refused the login.
    #[error("{server}: {why}")]
    Login {
        /// Its address.
        server: String,
        /// What it said, and what can be done about it.
        why: String,
    },
    /// A destination that answers and must not be loaded, or not in the way that was asked for.
    #[error("{0}")]
    Unfit(String),
    /// A file of a spool that another run holds.
    #[error("{path} is in use by another run: name other files with --rdb and --aof")]
    SpoolInUse {
        /// The file.
        path: String,
    },
    /// A file that stands where the spool would be.
    #[error("{path} is there and was not made by this run: --force replaces it")]
    SpoolForeign {
        /// The file.
        path: String,
    },
    /// A spool that cannot be gone on with.
    #[error("{path} {why}: --force starts over")]
    SpoolDamaged {
        /// The file in which it shows.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Keys that the destination holds already.
    #[error("{server}: {}", if keys.len() == 1 { "a key is there already" } else { "at least one of these keys is there already" })]
    Exists {
        /// Its address.
        server: String,
        /// The key, or those of the command that was refused.
        keys: Vec<Vec<u8>>,
        /// Their database.
        db: u64,
    },
    /// A command whose answer was lost and that cannot be sent again.
    #[error("{server}: {why}")]
    Lost {
        /// Its address.
        server: String,
        /// What happened, and what can be done.
        why: String,
    },
    /// A payload of a version that the destination does not read.
    #[error("{server}: RESTORE was refused: {reply}")]
    PayloadVersion {
        /// Its address.
        server: String,
        /// The key.
        key: Vec<u8>,
        /// Its database.
        db: u64,
        /// The server's words.
        reply: String,
    },
    /// A command that the destination refused.
    #[error("{server}: {command} was refused: {reply}")]
    Refused {
        /// Its address.
        server: String,
        /// The command's name.
        command: String,
        /// Its key.
        key: Vec<u8>,
        /// Its database.
        db: u64,
        /// The server's words.
        reply: String,
    },
}

/// Names one after the other, as many as a line of a terminal can show.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn after_key(key: &Option<String>) -> String {
    match key {
        Some(key) => format!(", after key {key}"),
        None => ", before any key".to_owned(),
    }
}

impl Error {
    /// An error at a place.
    #[cold]
    pub fn new(kind: ErrorKind, at: At) -> Self {
        Error(Box::new(Inner {
            kind,
            at: Some(at),
            key: None,
        }))
    }

    /// An error that belongs to no byte.
    #[cold]
    pub fn plain(kind: ErrorKind) -> Self {
        Error(Box::new(Inner {
            kind,
            at: None,
            key: None,
        }))
    }

    /// A failure of the local system while doing `what`.
    #[cold]
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Error::plain(ErrorKind::Io {
            what: what.into(),
            source,
        })
    }

    /// A destination that is not fit.
    #[cold]
    pub fn unfit(why: impl Into<String>) -> Self {
        Error::plain(ErrorKind::Unfit(why.into()))
    }

    /// A server that cannot be reached.
    #[cold]
    pub fn unreachable(server: impl Into<String>, why: impl Into<String>) -> Self {
        Error::plain(ErrorKind::Unreachable {
            server: server.into(),
            why: why.into(),
        })
    }

    /// Adds the key, unless a deeper caller knew it already.
    #[cold]
    #[must_use]
    pub fn in_key(mut self, name: impl FnOnce() -> KeyName) -> Self {
        if self.0.key.is_none() && !matches!(self.0.kind, ErrorKind::Stopped | ErrorKind::Io { .. })
        {
            self.0.key = Some(name());
        }
        self
    }

    /// What is wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Where.
    pub fn at(&self) -> Option<At> {
        self.0.at
    }

    /// In which key.
    pub fn key(&self) -> Option<&KeyName> {
        self.0.key.as_ref()
    }

    /// The sentence, with keys shown or hashed.
    pub fn describe(&self, hide_keys: bool) -> String {
        use fmt::Write;
        let mut text = self.0.kind.to_string();
        if let Some(at) = self.0.at {
            let _ = write!(text, " at byte {:#x}", at.offset);
            if let Some(inside) = at.inside {
                let _ = write!(text, " +{inside} inside");
            }
        }
        if let Some(name) = &self.0.key {
            let shown = show_key(&name.key, hide_keys);
            let _ = write!(text, ", key {shown} in db {} ({}", name.db, name.type_name);
            match name.rdb_version {
                Some(version) => drop(write!(text, ", RDB version {version})")),
                None => text.push(')'),
            }
        }
        match &self.0.kind {
            ErrorKind::BadLog { before, keeps, .. } => {
                if let Some(before) = before {
                    let key = before.key.as_deref().map(|key| show_key(key, hide_keys));
                    let _ = write!(
                        text,
                        "; the last whole command is {} {} at byte {:#x}",
                        before.name,
                        key.unwrap_or_default(),
                        before.offset
                    );
                }
                let _ = write!(text, "; a repair would keep the first {keeps} bytes");
            }
            ErrorKind::TornLog { keeps, .. } => {
                let _ = write!(text, "; a repair would keep the first {keeps} bytes");
            }
            ErrorKind::Command { why, .. } | ErrorKind::UnknownEffect { why, .. } => {
                let _ = write!(text, ": {why}");
            }
            ErrorKind::Exists { keys, db, .. } => {
                let shown: Vec<String> = keys.iter().map(|key| show_key(key, hide_keys)).collect();
                let _ = write!(text, ": {} in db {db}", shown.join(", "));
            }
            ErrorKind::PayloadVersion { key, db, .. } | ErrorKind::Refused { key, db, .. }
                if !key.is_empty() =>
            {
                let _ = write!(text, ", key {} in db {db}", show_key(key, hide_keys));
            }
            _ => {}
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(false))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            ErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A key as messages show it: quoted, escaped, cut at 64 bytes; or, with `hide`, a hash of it that
/// lets two lines about one key be matched without showing the key.
pub fn show_key(key: &[u8], hide: bool) -> String {
    if hide {
        return format!("#{:016x}", crate::encoding::crc64::crc64(key));
    }
    let mut text = String::from("\"");
    for &b in key.iter().take(KEY_SHOWN) {
        match b {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(b as char),
            _ => text.push_str(&format!("\\x{b:02x}")),
        }
    }
    text.push('"');
    if key.len() > KEY_SHOWN {
        text.push('…');
    }
    text
}
