//! Keys of any type.

use super::args::{at, int, is, option};
use super::{Handler, State};
use crate::cursor::Cursor;
use crate::dataset::keyspace::Entry;
use crate::dataset::{Done, Fail, load};
use crate::encoding::crc64::crc64;
use crate::rdb::opcode;
use crate::value::{Kind, Room, Templates, TypeByte, module};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("SELECT", |s, a| {
        let db = database(a[1])?;
        s.keys.select(db);
        Ok(())
    }),
    ("DEL", del),
    ("UNLINK", del),
    ("EXPIRE", |s, a| expire(s, a, 1000, true)),
    ("PEXPIRE", |s, a| expire(s, a, 1, true)),
    ("EXPIREAT", |s, a| expire(s, a, 1000, false)),
    ("PEXPIREAT", |s, a| expire(s, a, 1, false)),
    ("PERSIST", |s, a| {
        if let Some(entry) = s.keys.get_mut(a[1]) {
            entry.expire_at_ms = None;
        }
        Ok(())
    }),
    ("RENAME", |s, a| rename(s, a[1], a[2], false)),
    ("RENAMENX", |s, a| rename(s, a[1], a[2], true)),
    ("COPY", copy),
    ("MOVE", r#move),
    ("SWAPDB", |s, a| {
        let (one, other) = (database(a[1])?, database(a[2])?);
        s.keys.swap(one, other);
        Ok(())
    }),
    ("FLUSHDB", |s, _| {
        s.keys.empty();
        Ok(())
    }),
    ("FLUSHALL", |s, _| {
        s.keys.empty_all();
        Ok(())
    }),
    ("RESTORE", restore),
    ("RESTORE-ASKING", restore),
];

/// A database. How many a server has is its setting; one that loads its own log has those that the log names.
pub(in crate::dataset) fn database(arg: &[u8]) -> Done<u64> {
    let db = u32::try_from(int(arg)?).map_err(|_| Fail::Refused)?;
    Ok(u64::from(db))
}

fn del(state: &mut State, args: &[&[u8]]) -> Done {
    for key in &args[1..] {
        state.keys.remove(key);
    }
    Ok(())
}

/// When an expiry is set, by the one that is there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Condition {
    only_new: bool,
    only_there: bool,
    greater: bool,
    less: bool,
}

impl Condition {
    pub(super) fn parse(word: &[u8]) -> Done<Option<Condition>> {
        let mut condition = Condition::default();
        Ok(condition.take(word).then_some(condition))
    }

    fn take(&mut self, word: &[u8]) -> bool {
        match () {
            () if is(word, "NX") => self.only_new = true,
            () if is(word, "XX") => self.only_there = true,
            () if is(word, "GT") => self.greater = true,
            () if is(word, "LT") => self.less = true,
            () => return false,
        }
        true
    }

    pub(super) fn holds(self, old: Option<i64>, new: i64) -> bool {
        // What does not expire, expires later than anything.
        (!self.only_new || old.is_none())
            && (!self.only_there || old.is_some())
            && (!self.greater || old.is_some_and(|old| new > old))
            && (!self.less || old.is_none_or(|old| new < old))
    }
}

fn expire(state: &mut State, args: &[&[u8]], unit_ms: i64, relative: bool) -> Done {
    let at = state.moment(int(args[2])?, unit_ms, relative)?;
    let mut condition = Condition::default();
    for word in &args[3..] {
        if !condition.take(word) {
            return Err(option(word));
        }
    }
    if let Some(entry) = state.keys.get_mut(args[1])
        && condition.holds(entry.expire_at_ms, at)
    {
        entry.expire_at_ms = Some(at);
    }
    Ok(())
}

fn rename(state: &mut State, from: &[u8], to: &[u8], only_new: bool) -> Done {
    if !state.keys.contains(from) {
        return Err(Fail::Refused);
    }
    if from == to || (only_new && state.keys.contains(to)) {
        return Ok(());
    }
    if let Some(entry) = state.keys.remove(from) {
        state.keys.put(to, entry);
    }
    Ok(())
}

/// The database that COPY names.
pub(in crate::dataset) fn copy_db(args: &[&[u8]]) -> Option<u64> {
    let place = args.iter().skip(3).position(|word| is(word, "DB"))?;
    database(args.get(3 + place + 1)?).ok()
}

fn copy(state: &mut State, args: &[&[u8]]) -> Done {
    let (from, to) = (args[1], args[2]);
    let (mut db, mut replaces) = (state.keys.db(), false);
    let mut i = 3;
    while let Some(word) = args.get(i) {
        i += 1;
        if is(word, "REPLACE") {
            replaces = true;
        } else if is(word, "DB") {
            db = database(at(args, i)?)?;
            i += 1;
        } else {
            return Err(option(word));
        }
    }
    if db == state.keys.db() && from == to {
        return Err(Fail::Refused);
    }
    let Some(entry) = state.keys.get(from).cloned() else {
        return Ok(());
    };
    let keys = state.keys.in_db(db);
    if replaces || !keys.contains_key(to) {
        keys.insert(to.into(), entry);
    }
    Ok(())
}

fn r#move(state: &mut State, args: &[&[u8]]) -> Done {
    let (key, db) = (args[1], database(args[2])?);
    if db == state.keys.db() {
        return Err(Fail::Refused);
    }
    if !state.keys.contains(key) || state.keys.in_db(db).contains_key(key) {
        return Ok(());
    }
    if let Some(entry) = state.keys.remove(key) {
        state.keys.in_db(db).insert(key.into(), entry);
    }
    Ok(())
}

fn restore(state: &mut State, args: &[&[u8]]) -> Done {
    let (key, ttl, payload) = (args[1], int(args[2])?, args[3]);
    let (mut replaces, mut absolute) = (false, false);
    let mut i = 4;
    while let Some(word) = args.get(i) {
        i += 1;
        match () {
            () if is(word, "REPLACE") => replaces = true,
            () if is(word, "ABSTTL") => absolute = true,
            () if is(word, "IDLETIME") || is(word, "FREQ") => {
                int(at(args, i)?)?;
                i += 1;
            }
            () => return Err(option(word)),
        }
    }
    if (!replaces && state.keys.contains(key)) || ttl < 0 {
        return Err(Fail::Refused);
    }
    let mut entry = payload_of(payload, state.unpack_limit)?;
    if ttl > 0 {
        entry.expire_at_ms = Some(state.moment(ttl, 1, !absolute)?);
    }
    state.keys.put(key, entry);
    Ok(())
}

/// Bytes of a payload behind its value: version and checksum.
const FOOTER: usize = 10;

/// What a payload says before its footer, and the RDB version in it. Errors: its checksum is wrong.
pub(super) fn checked(payload: &[u8]) -> Done<(&[u8], u16)> {
    let at = payload.len().checked_sub(FOOTER).ok_or(Fail::Refused)?;
    let (body, footer) = payload.split_at(at);
    let version = u16::from_le_bytes([footer[0], footer[1]]);
    let stored = &footer[2..];
    // Redis 8.10 logs payloads of its own without one.
    let same = stored == [0; 8] || stored == crc64(&payload[..at + 2]).to_le_bytes();
    match same {
        true => Ok((body, version)),
        false => Err(Fail::Refused),
    }
}

fn payload_of(payload: &[u8], unpack_limit: usize) -> Done<Entry> {
    let (body, version) = checked(payload)?;
    let broken = |error: crate::error::Error| {
        Fail::unknown(format!("its payload cannot be read: {}", error.kind()))
    };
    let valkey = version >= *crate::rdb::VALKEY.start();
    let mut c = Cursor::new(body, 0);
    let mut meta = None;
    if !valkey && c.peek() == Some(opcode::KEY_META) {
        c.u8().map_err(broken)?;
        module::skip_key_meta(&mut c).map_err(broken)?;
        meta = Some(c.slice(0, c.pos()).into());
    }
    let byte = c.u8().map_err(broken)?;
    let ty = TypeByte::from_byte(byte, valkey)
        .ok_or_else(|| Fail::unknown(format!("its payload is of the unknown type {byte}")))?;
    let mut room = Room::new(unpack_limit);
    let value = load::value(&mut c, ty, &Templates::default(), &mut room).map_err(broken)?;
    if load::is_empty(&value) && ty.kind() != Kind::Stream {
        return Err(Fail::Refused);
    }
    Ok(Entry {
        meta,
        ..Entry::new(value)
    })
}
