//! Hashes, and the expiries of their fields.

use super::args::{at, count, int, is, option};
use super::generic::Condition;
use super::{Handler, State};
use crate::dataset::value::{Field, Hash};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("HSET", hset),
    ("HMSET", hset),
    ("HSETNX", |s, a| {
        let hash = s.keys.make::<Hash>(a[1])?;
        if !hash.contains_key(a[2]) {
            put(hash, a[2], a[3], None);
        }
        Ok(())
    }),
    ("HDEL", |s, a| {
        if let Some(hash) = s.keys.write::<Hash>(a[1])? {
            for field in &a[2..] {
                hash.remove(*field);
            }
            s.keys.tidy::<Hash>(a[1]);
        }
        Ok(())
    }),
    ("HINCRBY", hincrby),
    ("HSETEX", hsetex),
    ("HGETEX", hgetex),
    ("HGETDEL", |s, a| {
        let (fields, _) = fields(a, 2, 1)?;
        if let Some(hash) = s.keys.write::<Hash>(a[1])? {
            for field in fields {
                hash.remove(*field);
            }
            s.keys.tidy::<Hash>(a[1]);
        }
        Ok(())
    }),
    ("HPERSIST", |s, a| {
        let (fields, _) = fields(a, 2, 1)?;
        if let Some(hash) = s.keys.write::<Hash>(a[1])? {
            for field in fields {
                if let Some(field) = hash.get_mut(*field) {
                    field.expire_at_ms = None;
                }
            }
        }
        Ok(())
    }),
    ("HEXPIRE", |s, a| hexpire(s, a, 1000, true)),
    ("HPEXPIRE", |s, a| hexpire(s, a, 1, true)),
    ("HEXPIREAT", |s, a| hexpire(s, a, 1000, false)),
    ("HPEXPIREAT", |s, a| hexpire(s, a, 1, false)),
];

fn put(hash: &mut Hash, name: &[u8], value: &[u8], expire_at_ms: Option<i64>) {
    let field = Field {
        value: value.into(),
        expire_at_ms,
    };
    match hash.get_mut(name) {
        Some(old) => *old = field,
        None => drop(hash.insert(name.into(), field)),
    }
}

fn hset(state: &mut State, args: &[&[u8]]) -> Done {
    let pairs = args[2..].chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Fail::Refused);
    }
    let hash = state.keys.make::<Hash>(args[1])?;
    for pair in pairs {
        put(hash, pair[0], pair[1], None);
    }
    Ok(())
}

fn hincrby(state: &mut State, args: &[&[u8]]) -> Done {
    let by = int(args[3])?;
    let old = state
        .keys
        .read::<Hash>(args[1])?
        .and_then(|hash| hash.get(args[2]));
    let old_value = old.map_or(Ok(0), |field| int(&field.value))?;
    let expire_at_ms = old.and_then(|field| field.expire_at_ms);
    let new = old_value.checked_add(by).ok_or(Fail::Refused)?;
    let hash = state.keys.make::<Hash>(args[1])?;
    let mut digits = itoa::Buffer::new();
    put(hash, args[2], digits.format(new).as_bytes(), expire_at_ms);
    Ok(())
}

/// What follows FIELDS and its number, if that word is at `place`: fields of `step` arguments each, and the place behind
/// them.
fn fields<'s, 'a>(
    args: &'s [&'a [u8]],
    place: usize,
    step: usize,
) -> Done<(&'s [&'a [u8]], usize)> {
    let word = at(args, place)?;
    if !is(word, "FIELDS") {
        return Err(option(word));
    }
    let n = count(at(args, place + 1)?)?;
    let end = n.checked_mul(step).and_then(|n| n.checked_add(place + 2));
    let end = end.filter(|end| n > 0 && *end <= args.len());
    let end = end.ok_or(Fail::Refused)?;
    Ok((&args[place + 2..end], end))
}

fn hsetex(state: &mut State, args: &[&[u8]]) -> Done {
    let (mut only_if, mut only_key_if, mut keeps) = (None, None, false);
    let (mut expire_at_ms, mut pairs) = (None, &[][..]);
    let mut i = 2;
    while let Some(word) = args.get(i) {
        i += 1;
        if is(word, "FNX") || is(word, "FXX") {
            only_if = Some(is(word, "FXX"));
        } else if is(word, "NX") || is(word, "XX") {
            only_key_if = Some(is(word, "XX"));
        } else if is(word, "KEEPTTL") {
            keeps = true;
        } else if let Some(at) = state.until(word, args.get(i))? {
            expire_at_ms = Some(at);
            i += 1;
        } else {
            (pairs, i) = fields(args, i - 1, 2)?;
        }
    }
    if pairs.is_empty() {
        return Err(Fail::Refused);
    }
    let hash = state.keys.read::<Hash>(args[1])?;
    let there = |field: &&[u8]| hash.is_some_and(|hash| hash.contains_key(*field));
    let mut names = pairs.iter().step_by(2);
    if only_if.is_some_and(|wanted| names.any(|name| there(name) != wanted))
        || only_key_if.is_some_and(|wanted| hash.is_some() != wanted)
    {
        return Ok(());
    }
    let hash = state.keys.make::<Hash>(args[1])?;
    for pair in pairs.chunks_exact(2) {
        let kept = match keeps {
            true => hash.get(pair[0]).and_then(|field| field.expire_at_ms),
            false => expire_at_ms,
        };
        put(hash, pair[0], pair[1], kept);
    }
    Ok(())
}

fn hgetex(state: &mut State, args: &[&[u8]]) -> Done {
    let (mut change, mut names) = (None, &[][..]);
    let mut i = 2;
    while let Some(word) = args.get(i) {
        i += 1;
        if is(word, "PERSIST") {
            change = Some(None);
        } else if let Some(at) = state.until(word, args.get(i))? {
            change = Some(Some(at));
            i += 1;
        } else {
            (names, i) = fields(args, i - 1, 1)?;
        }
    }
    let Some(expire_at_ms) = change else {
        return Ok(());
    };
    if let Some(hash) = state.keys.write::<Hash>(args[1])? {
        for name in names {
            if let Some(field) = hash.get_mut(*name) {
                field.expire_at_ms = expire_at_ms;
            }
        }
    }
    Ok(())
}

fn hexpire(state: &mut State, args: &[&[u8]], unit_ms: i64, relative: bool) -> Done {
    let at = state.moment(int(args[2])?, unit_ms, relative)?;
    let condition = Condition::parse(args[3])?;
    let place = 3 + usize::from(condition.is_some());
    let (names, end) = fields(args, place, 1)?;
    if let Some(more) = args.get(end) {
        return Err(option(more));
    }
    if let Some(hash) = state.keys.write::<Hash>(args[1])? {
        for name in names {
            if let Some(field) = hash.get_mut(*name)
                && condition.is_none_or(|condition| condition.holds(field.expire_at_ms, at))
            {
                field.expire_at_ms = Some(at);
            }
        }
    }
    Ok(())
}
