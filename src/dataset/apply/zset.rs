//! Sorted sets.

use std::ops::Bound;

use super::args::{at, count, counted, float, int, is, option, range};
use super::{Handler, State};
use crate::dataset::value::{Typed, Zset};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("ZADD", |s, a| zadd(s, a[1], &a[2..])),
    ("ZINCRBY", |s, a| {
        add(
            s,
            a[1],
            &[(float(a[2])?, a[3])],
            &Add {
                incr: true,
                ..Add::default()
            },
        )
    }),
    ("ZREM", |s, a| {
        if let Some(zset) = s.keys.write::<Zset>(a[1])? {
            for member in &a[2..] {
                zset.remove(member);
            }
            s.keys.tidy::<Zset>(a[1]);
        }
        Ok(())
    }),
    ("ZREMRANGEBYRANK", |s, a| {
        let (start, stop) = (int(a[2])?, int(a[3])?);
        remove(s, a[1], |zset| {
            let range = range(start, stop, zset.len());
            let (from, n) = range.map_or((0, 0), |(start, stop)| (start, stop - start + 1));
            names(zset.ordered().skip(from).take(n))
        })
    }),
    ("ZREMRANGEBYSCORE", |s, a| {
        let within = Scores::parse(a[2], a[3])?;
        remove(s, a[1], |zset| {
            names(zset.ordered().filter(|(_, score)| within.holds(*score)))
        })
    }),
    ("ZREMRANGEBYLEX", |s, a| {
        let within = Names::parse(a[2], a[3])?;
        remove(s, a[1], |zset| {
            let all: Vec<_> = zset
                .ordered()
                .map(|(m, score)| (m.clone(), score))
                .collect();
            all[within.of(&all)]
                .iter()
                .map(|(member, _)| member.clone())
                .collect()
        })
    }),
    ("ZPOPMIN", |s, a| pop(s, a, false)),
    ("ZPOPMAX", |s, a| pop(s, a, true)),
    ("BZPOPMIN", |s, a| {
        pop_first(s, &a[1..a.len() - 1], false, 1)
    }),
    ("BZPOPMAX", |s, a| pop_first(s, &a[1..a.len() - 1], true, 1)),
    ("ZMPOP", |s, a| mpop(s, a, 1)),
    ("BZMPOP", |s, a| mpop(s, a, 2)),
];

type Names_ = Vec<std::sync::Arc<[u8]>>;

fn names<'z>(pairs: impl Iterator<Item = (&'z std::sync::Arc<[u8]>, f64)>) -> Names_ {
    pairs.map(|(member, _)| member.clone()).collect()
}

fn remove(state: &mut State, key: &[u8], of: impl FnOnce(&mut Zset) -> Names_) -> Done {
    if let Some(zset) = state.keys.write::<Zset>(key)? {
        for member in of(zset) {
            zset.remove(&member);
        }
        state.keys.tidy::<Zset>(key);
    }
    Ok(())
}

/// The options of ZADD.
#[derive(Default)]
pub(super) struct Add {
    only_new: bool,
    only_there: bool,
    greater: bool,
    less: bool,
    incr: bool,
}

impl Add {
    /// Takes one of the options that GEOADD has too.
    pub(super) fn take(&mut self, word: &[u8]) -> bool {
        match () {
            () if is(word, "NX") => self.only_new = true,
            () if is(word, "XX") => self.only_there = true,
            () if is(word, "CH") => {}
            () => return false,
        }
        true
    }
}

/// ZADD with what follows its key.
fn zadd(state: &mut State, key: &[u8], args: &[&[u8]]) -> Done {
    let mut options = Add::default();
    let mut i = 0;
    while let Some(word) = args.get(i) {
        match () {
            () if options.take(word) => {}
            () if is(word, "GT") => options.greater = true,
            () if is(word, "LT") => options.less = true,
            () if is(word, "INCR") => options.incr = true,
            () => break,
        }
        i += 1;
    }
    let pairs = args[i..].chunks_exact(2);
    if !pairs.remainder().is_empty() || pairs.len() == 0 {
        return Err(Fail::Refused);
    }
    let pairs: Vec<(f64, &[u8])> = pairs
        .map(|pair| Ok((float(pair[0])?, pair[1])))
        .collect::<Done<_>>()?;
    add(state, key, &pairs, &options)
}

pub(super) fn add(state: &mut State, key: &[u8], pairs: &[(f64, &[u8])], options: &Add) -> Done {
    if state.keys.read::<Zset>(key)?.is_none() && options.only_there {
        return Ok(());
    }
    let zset = state.keys.make::<Zset>(key)?;
    let mut refused = false;
    for (score, member) in pairs {
        let old = zset.score(member);
        let mut new = *score;
        if let Some(old) = old {
            if options.only_new {
                continue;
            }
            if options.incr {
                new += old;
                if new.is_nan() {
                    refused = true;
                    break;
                }
            }
            if (options.greater && new <= old) || (options.less && new >= old) {
                continue;
            }
            // What compares equal is not written again, so that 0 stays 0 and -0 stays -0.
            if new != old {
                zset.set(member, new);
            }
        } else if !options.only_there {
            zset.set(member, new);
        }
    }
    state.keys.tidy::<Zset>(key);
    match refused {
        true => Err(Fail::Refused),
        false => Ok(()),
    }
}

fn pop(state: &mut State, args: &[&[u8]], highest: bool) -> Done {
    let n = args.get(2).map_or(Ok(1), |n| count(n))?;
    pop_first(state, &args[1..2], highest, n)
}

fn pop_first(state: &mut State, keys: &[&[u8]], highest: bool, n: usize) -> Done {
    for key in keys {
        if state.keys.read::<Zset>(key)?.is_some() {
            return remove(state, key, |zset| match highest {
                true => names(zset.ordered().rev().take(n)),
                false => names(zset.ordered().take(n)),
            });
        }
    }
    Ok(())
}

fn mpop(state: &mut State, args: &[&[u8]], place: usize) -> Done {
    let (keys, rest) = counted(args, place)?;
    let highest = match at(rest, 0)? {
        word if is(word, "MAX") => true,
        word if is(word, "MIN") => false,
        _ => return Err(Fail::Refused),
    };
    let n = match rest.get(1) {
        Some(word) if is(word, "COUNT") => count(at(rest, 2)?)?,
        Some(word) => return Err(option(word)),
        None => 1,
    };
    pop_first(state, keys, highest, n)
}

/// From a score to another, each included or not.
pub(super) struct Scores(Bound<f64>, Bound<f64>);

impl Scores {
    pub(super) fn parse(least: &[u8], most: &[u8]) -> Done<Scores> {
        let bound = |arg: &[u8]| {
            Ok(match arg.strip_prefix(b"(") {
                Some(arg) => Bound::Excluded(float(arg)?),
                None => Bound::Included(float(arg)?),
            })
        };
        Ok(Scores(bound(least)?, bound(most)?))
    }

    pub(super) fn holds(&self, score: f64) -> bool {
        let above = match self.0 {
            Bound::Included(least) => score >= least,
            Bound::Excluded(least) => score > least,
            Bound::Unbounded => true,
        };
        above
            && match self.1 {
                Bound::Included(most) => score <= most,
                Bound::Excluded(most) => score < most,
                Bound::Unbounded => true,
            }
    }
}

/// From a member to another, each included or not.
pub(super) struct Names<'a>(Option<Bound<&'a [u8]>>, Option<Bound<&'a [u8]>>);

impl<'a> Names<'a> {
    /// A bound that nothing meets, `+` below or `-` above, is `None`.
    pub(super) fn parse(least: &'a [u8], most: &'a [u8]) -> Done<Names<'a>> {
        let bound = |arg: &'a [u8], open: u8, none: u8| match arg.split_first() {
            Some((b'[', name)) => Ok(Some(Bound::Included(name))),
            Some((b'(', name)) => Ok(Some(Bound::Excluded(name))),
            Some((byte, [])) if *byte == open => Ok(Some(Bound::Unbounded)),
            Some((byte, [])) if *byte == none => Ok(None),
            _ => Err(Fail::Refused),
        };
        Ok(Names(bound(least, b'-', b'+')?, bound(most, b'+', b'-')?))
    }

    fn reaches(&self, member: &[u8]) -> bool {
        match self.0 {
            Some(Bound::Included(least)) => member >= least,
            Some(Bound::Excluded(least)) => member > least,
            Some(Bound::Unbounded) => true,
            None => false,
        }
    }

    fn stays(&self, member: &[u8]) -> bool {
        match self.1 {
            Some(Bound::Included(most)) => member <= most,
            Some(Bound::Excluded(most)) => member < most,
            Some(Bound::Unbounded) => true,
            None => false,
        }
    }

    /// The members within the bounds, of all in their order. Where scores differ names do not ascend, and a server finds
    /// what a search from the beginning finds, as long as the set is small.
    pub(super) fn of(&self, all: &[(std::sync::Arc<[u8]>, f64)]) -> std::ops::Range<usize> {
        if !self.meets(all) {
            return 0..0;
        }
        let start = all.iter().position(|(member, _)| self.reaches(member));
        let start = start.unwrap_or(all.len());
        let inside = all[start..]
            .iter()
            .take_while(|(member, _)| self.stays(member));
        start..start + inside.count()
    }

    /// The same for a search from the end.
    pub(super) fn of_reversed(
        &self,
        all: &[(std::sync::Arc<[u8]>, f64)],
    ) -> std::ops::Range<usize> {
        if !self.meets(all) {
            return 0..0;
        }
        let end = all.iter().rposition(|(member, _)| self.stays(member));
        let end = end.map_or(0, |last| last + 1);
        let inside = all[..end]
            .iter()
            .rev()
            .take_while(|(member, _)| self.reaches(member));
        end - inside.count()..end
    }

    fn meets(&self, all: &[(std::sync::Arc<[u8]>, f64)]) -> bool {
        let reaches = all.last().is_some_and(|(member, _)| self.reaches(member));
        reaches && all.first().is_some_and(|(member, _)| self.stays(member))
    }
}

/// Members and scores of a sorted set, or of a set, all of whose members have the score 1.
pub(super) fn pairs(state: &State, key: &[u8]) -> Done<Vec<(std::sync::Arc<[u8]>, f64)>> {
    use crate::dataset::value::Set;
    let Some(entry) = state.keys.get(key) else {
        return Ok(Vec::new());
    };
    if let Some(zset) = Zset::of(&entry.value) {
        return Ok(zset.iter().map(|(m, score)| (m.clone(), score)).collect());
    }
    let set = Set::of(&entry.value).ok_or(Fail::Refused)?;
    Ok(set.iter().map(|m| (m[..].into(), 1.0)).collect())
}
