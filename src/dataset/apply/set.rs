//! Sets.

use super::args::{at, count};
use super::{Handler, State};
use crate::dataset::value::{Bytes, Set};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("SADD", |s, a| {
        let set = s.keys.make::<Set>(a[1])?;
        for member in &a[2..] {
            if !set.contains(*member) {
                set.insert((*member).into());
            }
        }
        Ok(())
    }),
    ("SREM", |s, a| {
        if let Some(set) = s.keys.write::<Set>(a[1])? {
            for member in &a[2..] {
                set.remove(*member);
            }
            s.keys.tidy::<Set>(a[1]);
        }
        Ok(())
    }),
    ("SPOP", spop),
    ("SMOVE", smove),
    ("SINTERSTORE", |s, a| store(s, a, Of::Inter)),
    ("SUNIONSTORE", |s, a| store(s, a, Of::Union)),
    ("SDIFFSTORE", |s, a| store(s, a, Of::Diff)),
];

fn spop(state: &mut State, args: &[&[u8]]) -> Done {
    let n = args.get(2).map_or(Ok(1), |n| count(n))?;
    let there = state.keys.read::<Set>(args[1])?.map_or(0, Set::len);
    if n >= there {
        state.keys.remove(args[1]);
    } else if n > 0 {
        return Err(Fail::unknown(
            "which members it took is not in it; servers log SREM in its place",
        ));
    }
    Ok(())
}

fn smove(state: &mut State, args: &[&[u8]]) -> Done {
    let (from, to, member) = (args[1], args[2], args[3]);
    let Some(source) = state.keys.read::<Set>(from)? else {
        return Ok(());
    };
    let found = source.contains(member);
    state.keys.read::<Set>(to)?;
    if !found || from == to {
        return Ok(());
    }
    state.keys.make::<Set>(from)?.remove(member);
    state.keys.tidy::<Set>(from);
    state.keys.make::<Set>(to)?.insert(member.into());
    Ok(())
}

enum Of {
    Inter,
    Union,
    Diff,
}

fn store(state: &mut State, args: &[&[u8]], of: Of) -> Done {
    let none = Set::default();
    let mut sources = Vec::new();
    for key in &args[2..] {
        sources.push(state.keys.read::<Set>(key)?.unwrap_or(&none));
    }
    let (first, rest) = sources.split_first().ok_or(Fail::Refused)?;
    let made: Set = match of {
        Of::Union => sources.iter().flat_map(|set| set.iter()).cloned().collect(),
        Of::Inter => {
            let in_all = |member: &&Bytes| rest.iter().all(|set| set.contains(*member));
            first.iter().filter(in_all).cloned().collect()
        }
        Of::Diff => {
            let in_none = |member: &&Bytes| !rest.iter().any(|set| set.contains(*member));
            first.iter().filter(in_none).cloned().collect()
        }
    };
    state.keys.store(at(args, 1)?, made);
    Ok(())
}
