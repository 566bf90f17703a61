//! Arrays of Redis 8.8.

use super::args::at;
use super::{Handler, State};
use crate::dataset::value::Array;
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("ARSET", |s, a| {
        let from = index(a[2])?;
        let items = a[3..].iter().enumerate().map(|(i, value)| {
            let place = from
                .checked_add(i as u64)
                .filter(|place| *place != u64::MAX);
            Ok((place.ok_or(Fail::Refused)?, *value))
        });
        set(s, a[1], items.collect::<Done<_>>()?)
    }),
    ("ARMSET", |s, a| {
        let pairs = a[2..].chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(Fail::Refused);
        }
        let items = pairs.map(|pair| Ok((index(pair[0])?, pair[1])));
        set(s, a[1], items.collect::<Done<_>>()?)
    }),
    ("ARINSERT", |s, a| {
        let mut next = s.keys.read::<Array>(a[1])?.map_or(Ok(0), next_of)?;
        let mut items = Vec::new();
        for value in &a[2..] {
            if next == u64::MAX {
                return Err(Fail::Refused);
            }
            items.push((next, *value));
            next += 1;
        }
        set(s, a[1], items)?;
        s.keys.make::<Array>(a[1])?.cursor = next.checked_sub(1);
        Ok(())
    }),
    ("ARRING", arring),
    ("ARSEEK", |s, a| {
        let index = unsigned(a[2])?;
        if let Some(array) = s.keys.write::<Array>(a[1])? {
            array.cursor = index.checked_sub(1);
        }
        Ok(())
    }),
    ("ARDEL", |s, a| {
        let all = a[2..]
            .iter()
            .map(|arg| index(arg))
            .collect::<Done<Vec<u64>>>()?;
        if let Some(array) = s.keys.write::<Array>(a[1])? {
            for index in all {
                array.items.remove(&index);
            }
            s.keys.tidy::<Array>(a[1]);
        }
        Ok(())
    }),
    ("ARDELRANGE", |s, a| {
        let pairs = a[2..].chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(Fail::Refused);
        }
        let ranges = pairs.map(|pair| Ok((index(pair[0])?, index(pair[1])?)));
        let ranges = ranges.collect::<Done<Vec<(u64, u64)>>>()?;
        if let Some(array) = s.keys.write::<Array>(a[1])? {
            for (one, other) in ranges {
                let range = one.min(other)..=one.max(other);
                array.items.retain(|index, _| !range.contains(index));
            }
            s.keys.tidy::<Array>(a[1]);
        }
        Ok(())
    }),
];

fn unsigned(arg: &[u8]) -> Done<u64> {
    let text = std::str::from_utf8(arg).map_err(|_| Fail::Refused)?;
    text.parse().map_err(|_| Fail::Refused)
}

fn index(arg: &[u8]) -> Done<u64> {
    let index = unsigned(arg)?;
    match index == u64::MAX {
        true => Err(Fail::Refused),
        false => Ok(index),
    }
}

/// The index that is inserted next.
fn next_of(array: &Array) -> Done<u64> {
    Ok(array.cursor.map_or(0, |cursor| cursor.saturating_add(1)))
}

fn set(state: &mut State, key: &[u8], items: Vec<(u64, &[u8])>) -> Done {
    let array = state.keys.make::<Array>(key)?;
    for (index, value) in items {
        array.items.insert(index, value.into());
    }
    Ok(())
}

fn arring(state: &mut State, args: &[&[u8]]) -> Done {
    let size = unsigned(at(args, 2)?)?;
    if size == 0 {
        return Err(Fail::Refused);
    }
    let array = state.keys.read::<Array>(args[1])?;
    let mut next = array.map_or(Ok(0), next_of)?;
    let last = array.and_then(|array| array.items.last_key_value());
    let len = last.map_or(0, |(index, _)| index + 1);
    // A ring that is full, or one that is being filled. Servers make a ring of anything else.
    if len != size && (next != len || len > size) {
        return Err(Fail::unknown(
            "it makes a ring of an array that is none, and what becomes of its elements is the server's to say",
        ));
    }
    if next > size {
        next = 0;
    }
    let mut items = Vec::new();
    for value in &args[3..] {
        let place = next % size;
        items.push((place, *value));
        next = place + 1;
    }
    set(state, args[1], items)?;
    state.keys.make::<Array>(args[1])?.cursor = next.checked_sub(1);
    Ok(())
}
