//! Strings.

use super::args::{at, count, int, is, option};
use super::{Handler, State};
use crate::dataset::keyspace::Entry;
use crate::dataset::value::Value;
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("SET", set),
    ("SETEX", |s, a| set_until(s, a, b"EX")),
    ("PSETEX", |s, a| set_until(s, a, b"PX")),
    ("SETNX", |s, a| {
        if !s.keys.contains(a[1]) {
            put(s, a[1], a[2], None);
        }
        Ok(())
    }),
    ("GETSET", |s, a| {
        s.keys.read::<Vec<u8>>(a[1])?;
        put(s, a[1], a[2], None);
        Ok(())
    }),
    ("GETDEL", |s, a| {
        if s.keys.read::<Vec<u8>>(a[1])?.is_some() {
            s.keys.remove(a[1]);
        }
        Ok(())
    }),
    ("GETEX", getex),
    ("MSET", |s, a| mset(s, a, false)),
    ("MSETNX", |s, a| mset(s, a, true)),
    ("MSETEX", msetex),
    ("APPEND", |s, a| {
        let grown = s.keys.read::<Vec<u8>>(a[1])?.map_or(0, Vec::len) + a[2].len();
        within_limit(grown)?;
        s.keys.make::<Vec<u8>>(a[1])?.extend_from_slice(a[2]);
        Ok(())
    }),
    ("SETRANGE", setrange),
    ("INCR", |s, a| add(s, a[1], 1)),
    ("DECR", |s, a| add(s, a[1], -1)),
    ("INCRBY", |s, a| add(s, a[1], int(a[2])?)),
    ("DECRBY", |s, a| {
        let by = int(a[2])?.checked_neg().ok_or(Fail::Refused)?;
        add(s, a[1], by)
    }),
    ("DELEX", delex),
    ("DELIFEQ", |s, a| {
        if s.keys.read::<Vec<u8>>(a[1])?.is_some_and(|v| *v == a[2]) {
            s.keys.remove(a[1]);
        }
        Ok(())
    }),
];

/// The longest string of a server of default settings. One that takes longer ones has them in its log; nobody has a
/// string of gigabytes, and a broken argument shall not ask for the memory.
const MOST_BYTES: usize = 512 << 20;

/// Errors: a string grows beyond what servers take by default.
pub(super) fn within_limit(len: usize) -> Done {
    match len > MOST_BYTES {
        true => Err(Fail::unknown("it makes a string of over 512 MiB")),
        false => Ok(()),
    }
}

fn put(state: &mut State, key: &[u8], value: &[u8], expire_at_ms: Option<i64>) {
    if let Some(entry) = state.keys.get_mut(key) {
        entry.expire_at_ms = expire_at_ms;
        entry.meta = None;
        // Its room serves again.
        if let Value::String(text) = &mut entry.value {
            text.clear();
            text.extend_from_slice(value);
        } else {
            entry.value = Value::String(value.to_vec());
        }
        return;
    }
    let entry = Entry {
        expire_at_ms,
        ..Entry::new(Value::String(value.to_vec()))
    };
    state.keys.put(key, entry);
}

/// A condition on a string's value, as an option word and what follows it.
enum Compared<'a> {
    Equal(&'a [u8]),
    Differs(&'a [u8]),
    /// By a digest. Servers do not log what changed nothing, so it was met.
    Met,
}

impl<'a> Compared<'a> {
    fn parse(word: &[u8], value: Option<&&'a [u8]>) -> Done<Option<Compared<'a>>> {
        let value = || value.copied().ok_or(Fail::Refused);
        Ok(Some(match () {
            () if is(word, "IFEQ") => Compared::Equal(value()?),
            () if is(word, "IFNE") => Compared::Differs(value()?),
            () if is(word, "IFDEQ") || is(word, "IFDNE") => {
                value()?;
                Compared::Met
            }
            () => return Ok(None),
        }))
    }

    fn holds(&self, value: Option<&Vec<u8>>) -> bool {
        match (self, value) {
            (Compared::Equal(want), value) => value.is_some_and(|value| value == want),
            (Compared::Differs(want), value) => value.is_none_or(|value| value != want),
            (Compared::Met, _) => true,
        }
    }
}

fn set(state: &mut State, args: &[&[u8]]) -> Done {
    let (key, value) = (args[1], args[2]);
    let (mut only_if, mut keeps, mut gets) = (None, false, false);
    let (mut expire_at_ms, mut compared) = (None, None);
    let mut i = 3;
    while let Some(word) = args.get(i) {
        let next = args.get(i + 1);
        i += 1;
        if is(word, "NX") || is(word, "XX") {
            only_if = Some(is(word, "XX"));
        } else if is(word, "KEEPTTL") {
            keeps = true;
        } else if is(word, "GET") {
            gets = true;
        } else if let Some(at) = state.until(word, next)? {
            expire_at_ms = Some(at);
            i += 1;
        } else if let Some(condition) = Compared::parse(word, next)? {
            compared = Some(condition);
            i += 1;
        } else {
            return Err(option(word));
        }
    }
    if gets || compared.is_some() {
        let old = state.keys.read::<Vec<u8>>(key)?;
        if compared.is_some_and(|condition| !condition.holds(old)) {
            return Ok(());
        }
    }
    let there = state.keys.get(key);
    if only_if.is_some_and(|wanted| wanted != there.is_some()) {
        return Ok(());
    }
    if keeps {
        expire_at_ms = there.and_then(|entry| entry.expire_at_ms);
    }
    put(state, key, value, expire_at_ms);
    Ok(())
}

fn set_until(state: &mut State, args: &[&[u8]], unit: &[u8]) -> Done {
    let at = state.until(unit, args.get(2))?;
    put(state, args[1], args[3], at);
    Ok(())
}

fn getex(state: &mut State, args: &[&[u8]]) -> Done {
    let expire_at_ms = match args.get(2) {
        None => return Ok(()),
        Some(word) if is(word, "PERSIST") => None,
        Some(word) => Some(
            state
                .until(word, args.get(3))?
                .ok_or_else(|| option(word))?,
        ),
    };
    if state.keys.read::<Vec<u8>>(args[1])?.is_some()
        && let Some(entry) = state.keys.get_mut(args[1])
    {
        entry.expire_at_ms = expire_at_ms;
    }
    Ok(())
}

fn mset(state: &mut State, args: &[&[u8]], only_new: bool) -> Done {
    let pairs = args[1..].chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Fail::Refused);
    }
    if only_new && pairs.clone().any(|pair| state.keys.contains(pair[0])) {
        return Ok(());
    }
    for pair in pairs {
        put(state, pair[0], pair[1], None);
    }
    Ok(())
}

fn msetex(state: &mut State, args: &[&[u8]]) -> Done {
    let n = count(args[1])?;
    let end = n.checked_mul(2).and_then(|n| n.checked_add(2));
    let end = end.filter(|end| n > 0 && *end <= args.len());
    let pairs = &args[2..end.ok_or(Fail::Refused)?];
    let (mut only_if, mut keeps, mut expire_at_ms) = (None, false, None);
    let mut i = 2 + pairs.len();
    while let Some(word) = args.get(i) {
        i += 1;
        if is(word, "NX") || is(word, "XX") {
            only_if = Some(is(word, "XX"));
        } else if is(word, "KEEPTTL") {
            keeps = true;
        } else if let Some(at) = state.until(word, args.get(i))? {
            expire_at_ms = Some(at);
            i += 1;
        } else {
            return Err(option(word));
        }
    }
    let mut keys = pairs.iter().step_by(2);
    if only_if.is_some_and(|wanted| keys.any(|key| state.keys.contains(key) != wanted)) {
        return Ok(());
    }
    for pair in pairs.chunks_exact(2) {
        let kept = match keeps {
            true => state.keys.get(pair[0]).and_then(|entry| entry.expire_at_ms),
            false => expire_at_ms,
        };
        put(state, pair[0], pair[1], kept);
    }
    Ok(())
}

fn setrange(state: &mut State, args: &[&[u8]]) -> Done {
    let (from, piece) = (count(args[2])?, args[3]);
    state.keys.read::<Vec<u8>>(args[1])?;
    if piece.is_empty() {
        return Ok(());
    }
    let end = from.saturating_add(piece.len());
    within_limit(end)?;
    let text = state.keys.make::<Vec<u8>>(args[1])?;
    if text.len() < end {
        text.resize(end, 0);
    }
    text[from..end].copy_from_slice(piece);
    Ok(())
}

fn add(state: &mut State, key: &[u8], by: i64) -> Done {
    let old = state.keys.read::<Vec<u8>>(key)?;
    let old = old.map_or(Ok(0), |text| int(text))?;
    let new = old.checked_add(by).ok_or(Fail::Refused)?;
    let text = state.keys.make::<Vec<u8>>(key)?;
    text.clear();
    text.extend_from_slice(itoa::Buffer::new().format(new).as_bytes());
    Ok(())
}

fn delex(state: &mut State, args: &[&[u8]]) -> Done {
    let Some(word) = args.get(2) else {
        state.keys.remove(args[1]);
        return Ok(());
    };
    let condition = Compared::parse(word, args.get(3))?.ok_or_else(|| option(word))?;
    at(args, 3)?;
    let old = state.keys.read::<Vec<u8>>(args[1])?;
    if old.is_some() && condition.holds(old) {
        state.keys.remove(args[1]);
    }
    Ok(())
}
