//! SORT … STORE.

use std::sync::Arc;

use super::args::{at, int, is, option};
use super::{Handler, State};
use crate::dataset::value::{Hash, List, Set, Typed, Zset};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[("SORT", sort)];

struct Sort<'a> {
    by: Option<&'a [u8]>,
    gets: Vec<&'a [u8]>,
    limit: Option<(i64, i64)>,
    alpha: bool,
    descending: bool,
    store: Option<&'a [u8]>,
}

impl<'a> Sort<'a> {
    fn parse(args: &[&'a [u8]]) -> Done<Sort<'a>> {
        let mut sort = Sort {
            by: None,
            gets: Vec::new(),
            limit: None,
            alpha: false,
            descending: false,
            store: None,
        };
        let mut i = 2;
        while let Some(word) = args.get(i) {
            i += 1;
            match () {
                () if is(word, "ASC") => sort.descending = false,
                () if is(word, "DESC") => sort.descending = true,
                () if is(word, "ALPHA") => sort.alpha = true,
                () if is(word, "LIMIT") => {
                    sort.limit = Some((int(at(args, i)?)?, int(at(args, i + 1)?)?));
                    i += 2;
                }
                () if is(word, "STORE") => {
                    sort.store = Some(at(args, i)?);
                    i += 1;
                }
                () if is(word, "BY") => {
                    sort.by = Some(at(args, i)?);
                    i += 1;
                }
                () if is(word, "GET") => {
                    sort.gets.push(at(args, i)?);
                    i += 1;
                }
                () => return Err(option(word)),
            }
        }
        Ok(sort)
    }
}

/// What stands before and behind the star of the patterns of a SORT, hash fields left out: it looks into keys of such
/// names.
pub(in crate::dataset) fn patterns<'a>(args: &[&'a [u8]]) -> Vec<(&'a [u8], &'a [u8])> {
    let Ok(sort) = Sort::parse(args) else {
        return Vec::new();
    };
    let all = sort.by.into_iter().chain(sort.gets);
    all.filter_map(Pattern::parse)
        .map(|pattern| (pattern.before, pattern.behind))
        .collect()
}

/// A pattern of names with a star, and a field if the keys are hashes.
struct Pattern<'a> {
    before: &'a [u8],
    behind: &'a [u8],
    field: Option<&'a [u8]>,
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a [u8]) -> Option<Pattern<'a>> {
        let star = pattern.iter().position(|byte| *byte == b'*')?;
        let (before, rest) = (&pattern[..star], &pattern[star + 1..]);
        let arrow = rest.windows(2).position(|pair| pair == b"->");
        // An arrow without a field behind it belongs to the name.
        let arrow = arrow.filter(|arrow| arrow + 2 < rest.len());
        Some(Pattern {
            before,
            behind: &rest[..arrow.unwrap_or(rest.len())],
            field: arrow.map(|arrow| &rest[arrow + 2..]),
        })
    }

    fn value(&self, state: &State, element: &[u8]) -> Option<Vec<u8>> {
        let name = [self.before, element, self.behind].concat();
        let entry = state.keys.get(&name)?;
        match self.field {
            Some(field) => {
                let hash = Hash::of(&entry.value)?;
                hash.get(field).map(|field| field.value.to_vec())
            }
            None => Vec::<u8>::of(&entry.value).cloned(),
        }
    }
}

/// A pattern's value for an element; the element itself for `#`.
fn look_up(state: &State, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    Pattern::parse(pattern)?.value(state, element)
}

fn sort(state: &mut State, args: &[&[u8]]) -> Done {
    let mut sort = Sort::parse(args)?;
    let Some(target) = sort.store else {
        return Ok(());
    };
    let mut unsorted = sort.by.is_some_and(|by| !by.contains(&b'*'));
    let mut is_set = false;
    let key = args[1];
    let mut elements: Vec<Arc<[u8]>> = match state.keys.get_mut(key).map(|e| &mut e.value) {
        None => Vec::new(),
        Some(value) => {
            if let Some(list) = List::of(value) {
                list.iter().map(|element| element[..].into()).collect()
            } else if let Some(set) = Set::of(value) {
                is_set = true;
                set.iter().map(|member| member[..].into()).collect()
            } else if let Some(zset) = Zset::of_mut(value) {
                zset.ordered().map(|(member, _)| member.clone()).collect()
            } else {
                return Err(Fail::Refused);
            }
        }
    };
    if unsorted && is_set {
        // A set has no order to keep, so that servers make one that all of them make.
        (unsorted, sort.alpha, sort.by) = (false, true, None);
    }
    if !unsorted {
        elements = sorted(state, &sort, elements)?;
    } else if sort.descending {
        elements.reverse();
    }
    let len = elements.len() as i64;
    let (offset, n) = sort.limit.unwrap_or((0, -1));
    let start = offset.clamp(0, len);
    let end = match n < 0 {
        true => len,
        false => start.saturating_add(n).min(len),
    };
    let chosen = &elements[start as usize..end as usize];
    let mut made = List::new();
    for element in chosen {
        if sort.gets.is_empty() {
            made.push_back(element[..].into());
        }
        for pattern in &sort.gets {
            let value = look_up(state, pattern, element).unwrap_or_default();
            made.push_back(value.into());
        }
    }
    state.keys.store(target, made);
    Ok(())
}

/// A number as SORT reads it: up to a zero byte, blanks before it left out, and nothing is 0.
fn number(text: &[u8]) -> Done<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    match text.is_empty() {
        true => Ok(0.0),
        false => super::args::float(text.trim_ascii_start()),
    }
}

/// Elements in their order, by bytes, by numbers, or by other keys.
fn sorted(state: &State, sort: &Sort<'_>, elements: Vec<Arc<[u8]>>) -> Done<Vec<Arc<[u8]>>> {
    let mut weighed = Vec::with_capacity(elements.len());
    for element in elements {
        let text = match sort.by {
            Some(by) => look_up(state, by, &element),
            None => Some(element.to_vec()),
        };
        let number = match (&text, sort.alpha) {
            (_, true) => 0.0,
            // What is not there counts as 0.
            (None, false) => 0.0,
            (Some(text), false) => number(text)?,
        };
        weighed.push((element, text, number));
    }
    let mut tied = false;
    weighed.sort_by(|a, b| {
        let order = match (sort.alpha, sort.by) {
            (false, _) => a.2.total_cmp(&b.2).then_with(|| a.0.cmp(&b.0)),
            (true, None) => a.0.cmp(&b.0),
            (true, Some(_)) => a.1.cmp(&b.1),
        };
        tied |= order.is_eq() && a.0 != b.0;
        if sort.descending {
            order.reverse()
        } else {
            order
        }
    });
    match tied {
        true => Err(Fail::unknown(
            "elements that it sorts by other keys tie, and their order is the server's",
        )),
        false => Ok(weighed.into_iter().map(|(element, ..)| element).collect()),
    }
}
