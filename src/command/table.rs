//! What is known of every command of Redis up to 8.10 and Valkey up to 9.1: where its keys are, which argument is
//! an expiry, which servers have it, whether a twemproxy forwards it.
//!
//! The rows are data: `table.csv`, and `rows.rs` made from it, both written by `tests/make-command-table` from what
//! real servers tell.

use super::rows::ROWS;

/// A command, or a subcommand such as `XGROUP CREATE`.
#[derive(Debug, PartialEq, Eq)]
pub struct Spec {
    /// In upper case; subcommands as `XGROUP|CREATE`.
    pub name: &'static str,
    /// What it works on.
    pub group: Group,
    /// How many arguments it takes, the name among them; `-n` is n or more. For a command with subcommands it is the
    /// least any of them takes. Where servers differ it is the one that takes more.
    pub arity: i16,
    /// Whether servers count it among the writing commands. Scripts, functions and the parents of subcommands are
    /// not, whatever they may do.
    pub write: bool,
    /// Where its keys are. Indexes count from the (parent) command's name, which is 0, also for subcommands.
    pub keys: Keys,
    /// Where it says when something expires.
    pub expiry: Expiry,
    /// The first Redis that has it.
    pub redis: Option<(u16, u16, u16)>,
    /// The first Valkey that has it; 7.2 for all that Valkey began with.
    pub valkey: Option<(u16, u16, u16)>,
    /// The least and the most arguments, the name among them, with which nutcracker 0.5.0 forwards it or answers
    /// itself; `u32::MAX` is no limit. With any other number, or where this is `None`, it closes the connection. MSET
    /// needs an odd number besides.
    pub proxy: Option<(u32, u32)>,
    /// Empty for most.
    pub subcommands: &'static [Spec],
}

/// What a command works on: values of a type, keys whatever they hold, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Strings, bitmaps and HyperLogLogs.
    String,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets and geographic indexes.
    ZSet,
    /// Hashes.
    Hash,
    /// Streams.
    Stream,
    /// Arrays (Redis 8.8).
    Array,
    /// Vector sets (Redis 8.0).
    VectorSet,
    /// Keys of any type.
    Generic,
    /// Scripts, transactions, connections, channels, the server itself.
    Other,
}

impl Group {
    /// The type as TYPE names it; `None` for commands that fit every type.
    pub fn type_name(self) -> Option<&'static str> {
        Some(match self {
            Group::String => "string",
            Group::List => "list",
            Group::Set => "set",
            Group::ZSet => "zset",
            Group::Hash => "hash",
            Group::Stream => "stream",
            Group::Array => "array",
            Group::VectorSet => "vectorset",
            Group::Generic | Group::Other => return None,
        })
    }
}

/// Where the keys of a command are. Indexes are of argv: the name is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It has none.
    None,
    /// From `first` to `last`, each `step`th argument.
    Range {
        /// Index of the first key.
        first: u8,
        /// Index of the last; -1 is the last argument, -2 the one before.
        last: i8,
        /// 2 where a value follows each key.
        step: u8,
    },
    /// A number says how many follow it.
    Count {
        /// Index of the number.
        at: u8,
        /// 2 where a value follows each key.
        step: u8,
        /// The smallest number that is valid: scripts may have no keys.
        least: u8,
        /// Whether the argument before the number is a key too, the one that is written.
        destination: bool,
    },
    /// The key at 1, and the last one named by STORE among the options of SORT.
    Sort,
    /// The key at 1, and the last one named by STORE or STOREDIST among the options.
    GeoStore {
        /// Index of the first argument that may be an option.
        options: u8,
    },
    /// The first half of what follows STREAMS.
    Streams,
    /// MIGRATE: the key at 3 or, where it is empty, what follows KEYS.
    Migrate,
}

/// One key, at 1: by far the most commands.
pub(super) const KEY: Keys = Keys::Range {
    first: 1,
    last: 1,
    step: 1,
};

/// Which argument says when a key, or a field of it, expires. Numbers are indexes of argv: the name is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// None does.
    None,
    /// Seconds from now.
    Secs(u8),
    /// Milliseconds from now.
    Millis(u8),
    /// Unix time in seconds.
    UnixSecs(u8),
    /// Unix time in milliseconds.
    UnixMillis(u8),
    /// From this index on `EX secs`, `PX ms`, `EXAT unix-secs`, `PXAT unix-ms`, `KEEPTTL` or `PERSIST` may stand, in
    /// any letter case, between other options. Some of those bring arguments that may look like any of these words:
    /// IFEQ, IFNE, IFDEQ, IFDNE, BYFLOAT, BYINT, LBOUND and UBOUND one; FIELDS a number and as many fields (HGETEX) or
    /// fields and values (HSETEX). Redis takes options behind the fields too.
    Options(u8),
    /// As `Options`, and they begin behind the pairs of key and value that the number at this index counts.
    OptionsAfterPairs(u8),
    /// RESTORE: milliseconds at 2, 0 for none; from now or, with ABSTTL among the options from 4 on, as Unix time.
    Restore,
}

/// All commands, sorted by name.
pub fn commands() -> &'static [Spec] {
    ROWS
}

/// Finds a command by its name, in any letter case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let ends = Ends::of(name);
    let mut slot = ends.slot();
    loop {
        let (row, found) = INDEX[slot];
        // 0 is a free slot: the search ends there, and there are more free slots than taken ones.
        let spec = &ROWS[usize::from(row).checked_sub(1)?];
        if found.is(ends) && (name.len() <= 16 || spec.name.as_bytes().eq_ignore_ascii_case(name)) {
            return Some(spec);
        }
        slot = (slot + 1) % SLOTS;
    }
}

impl Spec {
    /// Finds a subcommand by its own name, in any letter case.
    pub fn sub(&self, arg: &[u8]) -> Option<&'static Spec> {
        let own = self.name.len() + 1; // "XGROUP|"
        self.subcommands
            .iter()
            .find(|sub| sub.name.as_bytes()[own..].eq_ignore_ascii_case(arg))
    }
}

/// Places of the index; a power of two, more than twice the commands.
const SLOTS: usize = 1024;

/// The index of names by open addressing: a row's number plus one, or 0 where nothing is, and its name's ends. It is
/// built by the compiler.
static INDEX: [(u16, Ends); SLOTS] = {
    let mut index = [(0, Ends::of(b"")); SLOTS];
    let mut row = 0;
    assert!(ROWS.len() * 2 < SLOTS);
    while row < ROWS.len() {
        let ends = Ends::of(ROWS[row].name.as_bytes());
        let mut slot = ends.slot();
        while index[slot].0 != 0 {
            slot = (slot + 1) % SLOTS;
        }
        row += 1;
        index[slot] = (row as u16, ends);
    }
    index
};

/// The first and the last bytes of a name in upper case, and its length: all of a name of 2 to 16 bytes. Names are
/// hashed and compared in these words: with loops over bytes a lookup takes 20 ns and not 13, names being mixed.
#[derive(Clone, Copy)]
struct Ends {
    first: u64,
    last: u64,
    len: u32,
}

impl Ends {
    #[inline]
    const fn of(name: &[u8]) -> Self {
        // The two overlap, and chunks are as large as the name allows.
        let (first, last) =
            if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
                (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
            } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
                (
                    u32::from_le_bytes(*first) as u64,
                    u32::from_le_bytes(*last) as u64,
                )
            } else if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
                (
                    u16::from_le_bytes(*first) as u64,
                    u16::from_le_bytes(*last) as u64,
                )
            } else {
                (0, 0) // no command has a name of one letter
            };
        Ends {
            first: upper(first),
            last: upper(last),
            // A length that is cut belongs to a name that is compared in full.
            len: name.len() as u32,
        }
    }

    #[inline]
    fn is(self, other: Ends) -> bool {
        self.first == other.first && self.last == other.last && self.len == other.len
    }

    /// Where the search for the name begins.
    #[inline]
    const fn slot(self) -> usize {
        let sum = self.first ^ self.last.rotate_left(29) ^ self.len as u64;
        // Fibonacci hashing: the upper bits of the product depend on all of the sum's.
        (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
    }
}

/// Eight bytes in upper case. Additions to seven bits carry into the eighth, never into the next byte.
#[inline]
const fn upper(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = bytes & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'a' as u64);
    let past_z = low + ONES * (0x7f - b'z' as u64);
    let is_lower = (from_a ^ past_z) & !bytes & (ONES * 0x80);
    bytes ^ (is_lower >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = include_str!("table.csv");

    /// A row as the CSV has it.
    fn text(spec: &Spec) -> Vec<String> {
        let group = spec.group.type_name().unwrap_or(match spec.group {
            Group::Generic => "generic",
            _ => "other",
        });
        let by = |step: u8| match step {
            1 => String::new(),
            n => format!("/{n}"),
        };
        let keys = match spec.keys {
            Keys::None => String::new(),
            Keys::Range { first, last, step } if last == first as i8 => {
                format!("{first}{}", by(step))
            }
            Keys::Range { first, last, step } => format!("{first}..{last}{}", by(step)),
            Keys::Count {
                at,
                step,
                least,
                destination,
            } => format!(
                "{}count{}:{at}{}",
                if destination { "1+" } else { "" },
                if least == 0 { "-or-0" } else { "" },
                by(step)
            ),
            Keys::Sort => "sort".to_owned(),
            Keys::GeoStore { options } => format!("geo-store:{options}"),
            Keys::Streams => "streams".to_owned(),
            Keys::Migrate => "migrate".to_owned(),
        };
        let expiry = match spec.expiry {
            Expiry::None => String::new(),
            Expiry::Secs(n) => format!("secs:{n}"),
            Expiry::Millis(n) => format!("millis:{n}"),
            Expiry::UnixSecs(n) => format!("unix-secs:{n}"),
            Expiry::UnixMillis(n) => format!("unix-millis:{n}"),
            Expiry::Options(n) => format!("options:{n}"),
            Expiry::OptionsAfterPairs(n) => format!("options-after-pairs:{n}"),
            Expiry::Restore => "restore".to_owned(),
        };
        let version = |version: Option<(u16, u16, u16)>| {
            version.map_or(String::new(), |(major, minor, patch)| {
                format!("{major}.{minor}.{patch}")
            })
        };
        let proxy = match spec.proxy {
            None => String::new(),
            Some((least, u32::MAX)) => format!("{least}..*"),
            Some((least, most)) => format!("{least}..{most}"),
        };
        vec![
            spec.name.to_owned(),
            group.to_owned(),
            spec.arity.to_string(),
            if spec.write { "yes" } else { "no" }.to_owned(),
            keys,
            expiry,
            version(spec.redis),
            version(spec.valkey),
            proxy,
        ]
    }

    #[test]
    fn rows_are_those_of_the_csv() {
        let mut csv = csv::Reader::from_reader(CSV.as_bytes());
        let columns = "name group arity write keys expiry redis valkey proxy";
        assert_eq!(
            csv.headers().unwrap().iter().collect::<Vec<_>>().join(" "),
            columns
        );
        let csv: Vec<Vec<String>> = csv
            .records()
            .map(|row| row.unwrap().iter().map(str::to_owned).collect())
            .collect();
        let mut rows: Vec<Vec<String>> = commands()
            .iter()
            .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
            .map(text)
            .collect();
        rows.sort();
        assert_eq!(rows.len(), csv.len());
        for (row, csv) in rows.iter().zip(&csv) {
            assert_eq!(row, csv);
        }
    }

    #[test]
    fn rows_are_sorted_and_sound() {
        assert!(commands().windows(2).all(|two| two[0].name < two[1].name));
        for spec in commands() {
            assert!(spec.redis.is_some() || spec.valkey.is_some());
            for sub in spec.subcommands {
                let (parent, own) = sub.name.split_once('|').unwrap();
                assert_eq!(parent, spec.name);
                assert!(sub.subcommands.is_empty());
                assert_eq!(spec.sub(own.to_lowercase().as_bytes()), Some(sub));
            }
        }
    }

    #[test]
    fn every_name_is_found_in_any_case() {
        for spec in commands() {
            let lower = spec.name.to_lowercase();
            let mixed: String = lower
                .char_indices()
                .map(|(i, c)| {
                    if i % 2 == 0 {
                        c.to_ascii_uppercase()
                    } else {
                        c
                    }
                })
                .collect();
            for name in [spec.name, &lower, &mixed] {
                assert!(std::ptr::eq(lookup(name.as_bytes()).unwrap(), spec));
            }
        }
        // "_" and DEL, "[" and "{" differ in bit 5 only, as the two cases of a letter do.
        for name in [
            "",
            "G",
            "GETT",
            "NOSUCHCOMMAND",
            "XGROUP|CREATE",
            "EVAL\x7fRO",
            "SORT\x7fRO",
        ] {
            assert_eq!(lookup(name.as_bytes()), None, "{name}");
        }
        assert_eq!(lookup(&[b'A'; 1 << 20]), None);
        assert_eq!(lookup(&[0xff; 4]), None);
    }

    #[test]
    fn nothing_else_is_found() {
        for spec in commands() {
            for i in 0..spec.name.len() {
                let mut name = spec.name.as_bytes().to_vec();
                for byte in 0..=u8::MAX {
                    name[i] = byte;
                    if let Some(found) = lookup(&name) {
                        assert!(found.name.as_bytes().eq_ignore_ascii_case(&name));
                    }
                }
            }
        }
    }

    #[test]
    fn subcommands_are_found_in_any_case() {
        let group = lookup(b"xgroup").unwrap();
        assert_eq!(group.sub(b"Create").unwrap().name, "XGROUP|CREATE");
        assert_eq!(group.sub(b"CREAT"), None);
        assert_eq!(group.sub(b""), None);
        assert_eq!(lookup(b"GET").unwrap().sub(b"GET"), None);
    }

    #[test]
    fn searches_are_short() {
        // A lookup is meant to cost a few nanoseconds: almost all names stand where their search begins.
        let steps = |spec: &Spec| {
            let row = commands()
                .iter()
                .position(|other| std::ptr::eq(other, spec))
                .unwrap() as u16
                + 1;
            let start = Ends::of(spec.name.as_bytes()).slot();
            (0..SLOTS)
                .find(|step| INDEX[(start + step) % SLOTS].0 == row)
                .unwrap()
        };
        let all: Vec<usize> = commands().iter().map(steps).collect();
        assert!(all.iter().max() <= Some(&8), "{:?}", all.iter().max());
        assert!(all.iter().sum::<usize>() * 2 < all.len());
    }

    #[test]
    fn what_old_files_hold_is_there() {
        for name in [
            "SUBSTR",
            "GEORADIUS",
            "GEORADIUSBYMEMBER",
            "RPOPLPUSH",
            "BRPOPLPUSH",
            "GETSET",
            "HMSET",
            "SETNX",
            "SETEX",
            "PSETEX",
            "RENAMENX",
            "MOVE",
            "SWAPDB",
            "RESTORE-ASKING",
            "XSETID",
            "PFSELFTEST",
            "PFDEBUG",
            "SCRIPT",
            "EVAL",
            "SELECT",
            "MULTI",
            "EXEC",
            "PUBLISH",
            "PING",
            "REPLCONF",
            "GCRASETVALUE",
        ] {
            assert!(lookup(name.as_bytes()).is_some(), "{name}");
        }
    }
}
