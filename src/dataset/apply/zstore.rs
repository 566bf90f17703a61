//! Sorted sets that are made of others.

use std::sync::Arc;

use super::args::{at, counted, float, int, is, option, range};
use super::zset::{Names, Scores, pairs};
use super::{Handler, State};
use crate::dataset::value::{Map, Zset};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("ZUNIONSTORE", |s, a| store(s, a, Of::Union)),
    ("ZINTERSTORE", |s, a| store(s, a, Of::Inter)),
    ("ZDIFFSTORE", |s, a| store(s, a, Of::Diff)),
    ("ZRANGESTORE", zrangestore),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Union,
    Inter,
    Diff,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
    /// Weights of the sets that have the member, without its scores (Redis 8.8).
    Count,
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        let made = match self {
            Aggregate::Sum | Aggregate::Count => one + other,
            Aggregate::Min => one.min(other),
            Aggregate::Max => one.max(other),
        };
        // Infinities of both signs cancel each other out.
        if made.is_nan() { 0.0 } else { made }
    }

    fn weighted(self, score: f64, weight: f64) -> f64 {
        let made = match self {
            Aggregate::Count => weight,
            Aggregate::Sum | Aggregate::Min | Aggregate::Max => score * weight,
        };
        if made.is_nan() { 0.0 } else { made }
    }
}

fn store(state: &mut State, args: &[&[u8]], of: Of) -> Done {
    let (keys, rest) = counted(args, 2)?;
    let mut weights = vec![1.0; keys.len()];
    let mut aggregate = Aggregate::Sum;
    let mut i = 0;
    while let Some(word) = rest.get(i) {
        if of != Of::Diff && is(word, "WEIGHTS") {
            for (n, weight) in weights.iter_mut().enumerate() {
                *weight = float(at(rest, i + 1 + n)?)?;
            }
            i += 1 + keys.len();
        } else if of != Of::Diff && is(word, "AGGREGATE") {
            let how = at(rest, i + 1)?;
            aggregate = match () {
                () if is(how, "SUM") => Aggregate::Sum,
                () if is(how, "MIN") => Aggregate::Min,
                () if is(how, "MAX") => Aggregate::Max,
                () if is(how, "COUNT") => Aggregate::Count,
                () => return Err(option(how)),
            };
            i += 2;
        } else {
            return Err(option(word));
        }
    }
    let mut sources = Vec::new();
    for (key, weight) in keys.iter().zip(weights) {
        sources.push((pairs(state, key)?, weight));
    }
    let mut made = Zset::default();
    if of == Of::Diff {
        let (first, rest) = sources.split_first().ok_or(Fail::Refused)?;
        let others: Map<&Arc<[u8]>, ()> = rest
            .iter()
            .flat_map(|(pairs, _)| pairs.iter().map(|(member, _)| (member, ())))
            .collect();
        for (member, score) in first.0.iter().filter(|(m, _)| !others.contains_key(m)) {
            made.set(member, *score);
        }
        state.keys.store(args[1], made);
        return Ok(());
    }
    // Servers begin with the smallest, and sums of doubles depend on their order.
    sources.sort_by_key(|(pairs, _)| pairs.len());
    let mut sums: Map<Arc<[u8]>, (f64, usize)> = Map::default();
    for (pairs, weight) in &sources {
        for (member, score) in pairs {
            let score = aggregate.weighted(*score, *weight);
            sums.entry(member.clone())
                .and_modify(|(sum, seen)| {
                    *sum = aggregate.of(*sum, score);
                    *seen += 1;
                })
                .or_insert((score, 1));
        }
    }
    for (member, (score, seen)) in sums {
        if of == Of::Union || seen == sources.len() {
            made.set(&member, score);
        }
    }
    state.keys.store(args[1], made);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

fn zrangestore(state: &mut State, args: &[&[u8]]) -> Done {
    let (mut by, mut reversed, mut limit) = (By::Rank, false, None);
    let mut i = 5;
    while let Some(word) = args.get(i) {
        match () {
            () if is(word, "BYSCORE") => by = By::Score,
            () if is(word, "BYLEX") => by = By::Lex,
            () if is(word, "REV") => reversed = true,
            () if is(word, "LIMIT") => {
                limit = Some((int(at(args, i + 1)?)?, int(at(args, i + 2)?)?));
                i += 2;
            }
            () => return Err(option(word)),
        }
        i += 1;
    }
    if limit.is_some() && by == By::Rank {
        return Err(Fail::Refused);
    }
    let (least, most) = match reversed && by != By::Rank {
        true => (args[4], args[3]),
        false => (args[3], args[4]),
    };
    let (scores, names) = match by {
        By::Rank => (None, None),
        By::Score => (Some(Scores::parse(least, most)?), None),
        By::Lex => (None, Some(Names::parse(least, most)?)),
    };
    let ranks = match by {
        By::Rank => Some((int(least)?, int(most)?)),
        By::Score | By::Lex => None,
    };
    let mut made = Zset::default();
    if let Some(zset) = state.keys.write::<Zset>(args[2])? {
        let len = zset.len();
        let mut all: Vec<(Arc<[u8]>, f64)> = zset
            .ordered()
            .map(|(m, score)| (m.clone(), score))
            .collect();
        if let Some(names) = &names {
            let range = match reversed {
                true => names.of_reversed(&all),
                false => names.of(&all),
            };
            all = all[range].to_vec();
        }
        if reversed {
            all.reverse();
        }
        let (mut skipped, mut left) = match limit {
            // A server finds nothing behind an offset below 0.
            Some((..0, _)) => (0, 0),
            Some((offset, ..0)) => (offset as usize, usize::MAX),
            Some((offset, n)) => (offset as usize, n as usize),
            None => (0, usize::MAX),
        };
        if let Some((start, stop)) = ranks {
            let range = range(start, stop, len);
            (skipped, left) = range.map_or((0, 0), |(start, stop)| (start, stop - start + 1));
        }
        let within = |(_, score): &(Arc<[u8]>, f64)| {
            scores.as_ref().is_none_or(|scores| scores.holds(*score))
        };
        for (member, score) in all.into_iter().filter(within).skip(skipped).take(left) {
            made.set(&member, score);
        }
    }
    state.keys.store(args[1], made);
    Ok(())
}
