//! What commands do, as a server does it that loads a log: nothing expires meanwhile, and what it refuses changes
//! nothing.

mod args;
mod array;
mod bits;
mod function;
mod generic;
mod geo;
mod hash;
mod hll;
mod list;
mod set;
mod sort;
mod stream;
mod string;
mod zset;
mod zstore;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::keyspace::Keyspace;
use super::value::{Bytes, Map};
use super::{Done, Fail};
use crate::command::table::{Spec, lookup};

pub(super) use function::name as library_name;
pub(super) use generic::{copy_db, database};
pub(super) use sort::patterns;

/// The data set while commands are applied to it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub keys: Keyspace,
    pub functions: BTreeMap<Bytes, Bytes>,
    /// The time that the log told last, in Unix milliseconds.
    pub time_ms: Option<i64>,
    /// The time that relative expiries count from where the log tells none.
    pub clock_ms: Option<i64>,
    /// What differs between servers.
    pub rules: Rules,
    /// Largest string that is unpacked in memory.
    pub unpack_limit: usize,
}

/// In what the servers differ that write logs: only what was seen to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// XGROUP takes no more entries for read than were added. Redis 7.0 and Valkey 9.1 do; Redis 8.10 does not, and does
    /// not load what they let through.
    pub caps_entries_read: bool,
    /// XSETID looks at the highest id that was deleted before. Redis 7.0 does not; Redis 8.10 and Valkey 9.1 do.
    pub keeps_above_deleted: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            caps_entries_read: false,
            keeps_above_deleted: true,
        }
    }
}

impl Rules {
    /// Those of the server that wrote a snapshot, as the snapshot names it. Between the releases that were tried, the
    /// next one is taken that looked at these rules at all.
    pub fn of(server: &str) -> Rules {
        let Some(version) = server.strip_prefix("Redis ") else {
            return Rules::default();
        };
        let mut parts = version.split('.');
        let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
        let version = (number().unwrap_or(0), number().unwrap_or(0));
        Rules {
            caps_entries_read: version >= (8, 8),
            keeps_above_deleted: version >= (7, 2),
        }
    }
}

type Handler = fn(&mut State, &[&[u8]]) -> Done;

impl State {
    /// Applies a command.
    pub fn apply(&mut self, args: &[&[u8]]) -> Done {
        let Some(name) = args.first() else {
            return Ok(());
        };
        let Some(spec) = lookup(name) else {
            return Err(Fail::unknown(
                "no command of Redis or Valkey by that name is known here; a module may have one",
            ));
        };
        let spec = sub(spec, args);
        let Some(handler) = HANDLERS.get(spec.name) else {
            return match UNKNOWABLE.iter().find(|(name, _)| *name == spec.name) {
                Some((_, why)) => Err(Fail::unknown(*why)),
                // It reads, or does nothing to the data set.
                None => Ok(()),
            };
        };
        let fits = match spec.arity {
            arity @ 0.. => args.len() == arity as usize,
            arity => args.len() >= usize::from(arity.unsigned_abs()),
        };
        match fits {
            true => handler(self, args),
            false => Err(Fail::Refused),
        }
    }

    /// The time that relative expiries count from.
    fn now_ms(&self) -> Done<i64> {
        self.time_ms.or(self.clock_ms).ok_or_else(|| {
            Fail::unknown(
                "it expires something a while after a moment that the log does not tell (it has no #TS lines); \
                 --log-time TIME says when it was written",
            )
        })
    }

    /// The time that an option word gives with its number: EX, PX, EXAT or PXAT; `None` for any other word.
    fn until(&self, word: &[u8], number: Option<&&[u8]>) -> Done<Option<i64>> {
        let (unit_ms, relative) = match () {
            () if args::is(word, "EX") => (1000, true),
            () if args::is(word, "PX") => (1, true),
            () if args::is(word, "EXAT") => (1000, false),
            () if args::is(word, "PXAT") => (1, false),
            () => return Ok(None),
        };
        let number = args::int(number.ok_or(Fail::Refused)?)?;
        if number <= 0 {
            return Err(Fail::Refused);
        }
        self.moment(number, unit_ms, relative).map(Some)
    }

    fn moment(&self, number: i64, unit_ms: i64, relative: bool) -> Done<i64> {
        let ms = number.checked_mul(unit_ms).ok_or(Fail::Refused)?;
        match relative {
            true => ms.checked_add(self.now_ms()?).ok_or(Fail::Refused),
            false => Ok(ms),
        }
    }
}

/// The subcommand of a command that has some, or the command itself.
pub(super) fn sub(spec: &'static Spec, args: &[&[u8]]) -> &'static Spec {
    if spec.subcommands.is_empty() {
        return spec;
    }
    let found = args.get(1).and_then(|arg| spec.sub(arg));
    found.unwrap_or(spec)
}

/// What only the server knew that ran it, by the command's name.
const UNKNOWABLE: &[(&str, &str)] = &[
    ("EVAL", SCRIPT),
    ("EVALSHA", SCRIPT),
    ("FCALL", SCRIPT),
    ("INCRBYFLOAT", LONG_DOUBLE),
    ("HINCRBYFLOAT", LONG_DOUBLE),
    (
        "INCREX",
        "servers log the outcome as SET; what INCREX does is not known here",
    ),
    (
        "XREADGROUP",
        "the time of the delivery is not in it; servers log XCLAIM and XGROUP SETID in its place",
    ),
    (
        "XAUTOCLAIM",
        "which entries it claimed, and when, is not in it; servers log XCLAIM in its place",
    ),
    ("HIMPORT|SET", "servers log RESTORE in its place"),
    ("MIGRATE", "servers log DEL in its place"),
    ("PFDEBUG", "it is a tool for developers of servers"),
    (
        "GCRASETVALUE",
        "no release of a server has it: its value's form is not known here",
    ),
    ("VADD", VECTORS),
    ("VREM", VECTORS),
    ("VSETATTR", VECTORS),
    ("CLUSTER|FLUSHSLOT", SLOTS),
    ("TRIMSLOTS", SLOTS),
];

const SCRIPT: &str = "a script decides what it does, and only a server can run it; a log of effects comes from servers \
                      from 7.0 on, or from a rewrite of the log";
const LONG_DOUBLE: &str = "its server computes with 80 bits, and logs the outcome in its place";
const VECTORS: &str = "vector sets are linked by chance";
const SLOTS: &str =
    "it empties slots of a cluster, which is not done here; a rewrite of the log leaves it out";

static HANDLERS: LazyLock<Map<&'static str, Handler>> = LazyLock::new(|| {
    let groups = [
        string::HANDLERS,
        bits::HANDLERS,
        hll::HANDLERS,
        list::HANDLERS,
        set::HANDLERS,
        zset::HANDLERS,
        zstore::HANDLERS,
        geo::HANDLERS,
        hash::HANDLERS,
        stream::HANDLERS,
        array::HANDLERS,
        generic::HANDLERS,
        sort::HANDLERS,
        function::HANDLERS,
    ];
    groups.into_iter().flatten().copied().collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::commands;

    #[test]
    fn every_command_that_writes_is_decided_on() {
        let subs = commands().iter().flat_map(|spec| spec.subcommands);
        for spec in commands().iter().chain(subs).filter(|spec| spec.write) {
            let refused = UNKNOWABLE.iter().any(|(name, _)| *name == spec.name);
            assert!(
                HANDLERS.contains_key(spec.name) != refused,
                "{} has to be one of both",
                spec.name
            );
        }
    }

    #[test]
    fn every_name_is_one_of_the_table() {
        for name in HANDLERS
            .keys()
            .chain(UNKNOWABLE.iter().map(|(name, _)| name))
        {
            let parent = name.split('|').next().expect("a first part");
            let spec = lookup(parent.as_bytes()).unwrap_or_else(|| panic!("{name}"));
            let known = spec.name == *name || spec.subcommands.iter().any(|s| s.name == *name);
            assert!(known, "{name}");
        }
    }
}
