//! Lists.

use super::args::{at, count, counted, int, is, option, range};
use super::{Handler, State};
use crate::dataset::value::List;
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("LPUSH", |s, a| push(s, a, End::Left, true)),
    ("RPUSH", |s, a| push(s, a, End::Right, true)),
    ("LPUSHX", |s, a| push(s, a, End::Left, false)),
    ("RPUSHX", |s, a| push(s, a, End::Right, false)),
    ("LPOP", |s, a| pop(s, a, End::Left)),
    ("RPOP", |s, a| pop(s, a, End::Right)),
    ("BLPOP", |s, a| {
        pop_first(s, &a[1..a.len() - 1], End::Left, 1).map(drop)
    }),
    ("BRPOP", |s, a| {
        pop_first(s, &a[1..a.len() - 1], End::Right, 1).map(drop)
    }),
    ("LMPOP", |s, a| mpop(s, a, 1)),
    ("BLMPOP", |s, a| mpop(s, a, 2)),
    ("LINSERT", linsert),
    ("LSET", |s, a| {
        let list = s.keys.write::<List>(a[1])?.ok_or(Fail::Refused)?;
        let i = int(a[2])?;
        let (i, _) = range(i, i, list.len()).ok_or(Fail::Refused)?;
        list[i] = a[3].into();
        Ok(())
    }),
    ("LREM", lrem),
    ("LTRIM", |s, a| {
        let (start, stop) = (int(a[2])?, int(a[3])?);
        if let Some(list) = s.keys.write::<List>(a[1])? {
            match range(start, stop, list.len()) {
                Some((start, stop)) => {
                    list.truncate(stop + 1);
                    list.drain(..start);
                }
                None => list.clear(),
            }
            s.keys.tidy::<List>(a[1]);
        }
        Ok(())
    }),
    ("RPOPLPUSH", |s, a| {
        shift(s, a[1], a[2], End::Right, End::Left)
    }),
    ("BRPOPLPUSH", |s, a| {
        shift(s, a[1], a[2], End::Right, End::Left)
    }),
    ("LMOVE", |s, a| {
        shift(s, a[1], a[2], End::parse(a[3])?, End::parse(a[4])?)
    }),
    ("BLMOVE", |s, a| {
        shift(s, a[1], a[2], End::parse(a[3])?, End::parse(a[4])?)
    }),
    ("LMOVEM", |s, a| shift_many(s, a, 5)),
    ("BLMOVEM", |s, a| shift_many(s, a, 6)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn parse(word: &[u8]) -> Done<End> {
        match () {
            () if is(word, "LEFT") => Ok(End::Left),
            () if is(word, "RIGHT") => Ok(End::Right),
            () => Err(Fail::Refused),
        }
    }

    fn push(self, list: &mut List, element: Box<[u8]>) {
        match self {
            End::Left => list.push_front(element),
            End::Right => list.push_back(element),
        }
    }

    fn pop(self, list: &mut List) -> Option<Box<[u8]>> {
        match self {
            End::Left => list.pop_front(),
            End::Right => list.pop_back(),
        }
    }
}

fn push(state: &mut State, args: &[&[u8]], end: End, makes: bool) -> Done {
    if !makes && state.keys.read::<List>(args[1])?.is_none() {
        return Ok(());
    }
    let list = state.keys.make::<List>(args[1])?;
    for element in &args[2..] {
        end.push(list, (*element).into());
    }
    Ok(())
}

fn pop(state: &mut State, args: &[&[u8]], end: End) -> Done {
    let n = args.get(2).map_or(Ok(1), |n| count(n))?;
    pop_first(state, &args[1..2], end, n).map(drop)
}

/// Takes from the first of several lists that is there.
fn pop_first(state: &mut State, keys: &[&[u8]], end: End, n: usize) -> Done {
    for key in keys {
        if let Some(list) = state.keys.write::<List>(key)? {
            for _ in 0..n.min(list.len()) {
                end.pop(list);
            }
            state.keys.tidy::<List>(key);
            return Ok(());
        }
    }
    Ok(())
}

fn mpop(state: &mut State, args: &[&[u8]], place: usize) -> Done {
    let (keys, rest) = counted(args, place)?;
    let end = End::parse(at(rest, 0)?)?;
    let n = match rest.get(1) {
        Some(word) if is(word, "COUNT") => count(at(rest, 2)?)?,
        Some(word) => return Err(option(word)),
        None => 1,
    };
    pop_first(state, keys, end, n)
}

fn linsert(state: &mut State, args: &[&[u8]]) -> Done {
    let after = match () {
        () if is(args[2], "AFTER") => 1,
        () if is(args[2], "BEFORE") => 0,
        () => return Err(Fail::Refused),
    };
    let Some(list) = state.keys.write::<List>(args[1])? else {
        return Ok(());
    };
    if let Some(i) = list.iter().position(|element| **element == *args[3]) {
        list.insert(i + after, args[4].into());
    }
    Ok(())
}

fn lrem(state: &mut State, args: &[&[u8]]) -> Done {
    let n = int(args[2])?;
    let Some(list) = state.keys.write::<List>(args[1])? else {
        return Ok(());
    };
    let mut left = match n {
        0 => u64::MAX,
        n => n.unsigned_abs(),
    };
    let mut stays = |element: &[u8]| {
        let goes = left > 0 && *element == *args[3];
        left -= u64::from(goes);
        !goes
    };
    if n >= 0 {
        list.retain(|element| stays(element));
    } else {
        let mut kept: List = List::with_capacity(list.len());
        for element in list.drain(..).rev() {
            if stays(&element) {
                kept.push_front(element);
            }
        }
        *list = kept;
    }
    state.keys.tidy::<List>(args[1]);
    Ok(())
}

/// Moves one element.
fn shift(state: &mut State, from: &[u8], to: &[u8], take: End, give: End) -> Done {
    if state.keys.read::<List>(from)?.is_none() {
        return Ok(());
    }
    state.keys.read::<List>(to)?;
    let taken = state
        .keys
        .write::<List>(from)?
        .and_then(|list| take.pop(list));
    if let Some(element) = taken {
        give.push(state.keys.make::<List>(to)?, element);
    }
    state.keys.tidy::<List>(from);
    Ok(())
}

/// Moves several, one by one or in the order in which they stand.
fn shift_many(state: &mut State, args: &[&[u8]], options: usize) -> Done {
    let (from, to) = (args[1], args[2]);
    let (take, give) = (End::parse(args[3])?, End::parse(args[4])?);
    let (n, exactly, one_by_one) = match args.get(options..) {
        None | Some([]) => (1, false, true),
        Some([word, n, order]) => {
            let exactly = is(word, "EXACTLY");
            if !exactly && !is(word, "COUNT") {
                return Err(option(word));
            }
            let one_by_one = is(order, "OBO");
            if !one_by_one && !is(order, "BULK") {
                return Err(option(order));
            }
            (count(n)?, exactly, one_by_one)
        }
        Some([word, ..]) => return Err(option(word)),
    };
    let there = state.keys.read::<List>(from)?.map_or(0, List::len);
    state.keys.read::<List>(to)?;
    if there == 0 || n == 0 || (exactly && there < n) {
        return Ok(());
    }
    let list = state.keys.make::<List>(from)?;
    let mut taken: Vec<Box<[u8]>> = (0..n.min(there)).filter_map(|_| take.pop(list)).collect();
    // In bulk they keep their order: what is pushed first to the left ends as the last of them.
    let ascending = take == End::Left;
    if !one_by_one && ascending != (give == End::Right) {
        taken.reverse();
    }
    let target = state.keys.make::<List>(to)?;
    for element in taken {
        give.push(target, element);
    }
    state.keys.tidy::<List>(from);
    Ok(())
}
