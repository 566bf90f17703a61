//! The questions about a batch, and what their answers say: one round for every key, a second one for those that need it.

use super::values::value_texts;
use super::*;
use crate::verify::odd_answer;

/// What the first answer about a key can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// The string itself, or its place in the answer to MGET.
    Get(Option<usize>),
    /// The string's length.
    Length,
    /// The number of elements.
    Card,
    /// The type.
    Type,
}

/// What has to be read behind the first answers.
enum More {
    Dump(usize),
    TypeOf(usize),
    Pieces(u64),
}

/// What the first answer leaves to ask.
enum Next {
    Done,
    Missing,
    Dump,
    TypeOf,
    Pieces(u64),
}

impl<'a> Judge<'_, 'a> {
    fn first(&self, one: &One<'_>) -> First {
        match one.record.ty.kind() {
            Type::String if one.value_bytes <= self.v.options.big_key => First::Get(None),
            Type::String => First::Length,
            Type::List | Type::Set | Type::Zset | Type::Hash => First::Card,
            Type::Stream | Type::Array | Type::Module | Type::Gcra | Type::PathHash => First::Type,
        }
    }

    pub(super) fn values(
        &mut self,
        batch: &Batch<'a>,
        open: &[usize],
        most: usize,
        verdicts: &mut [Option<Verdict>],
    ) -> Result<()> {
        let (firsts, replies, began) = self.first_answers(batch, open)?;
        let mut all: Vec<Rows> = Vec::with_capacity(open.len());
        let mut more = Vec::new();
        for (i, &n) in open.iter().enumerate() {
            let one = &batch.keys[n];
            let (first, at, expiry) = firsts[i];
            let mut rows = Rows::new(most);
            let clock = &self.v.clock;
            let found = clock
                .read(
                    &replies[expiry],
                    one.expire_at_ms.is_some() || self.is_again,
                    began,
                )
                .ok_or_else(|| {
                    odd_answer(&self.reach.name(), "a time to live", &replies[expiry])
                })?;
            let mut missing = found == Expiry::NoKey;
            if !missing {
                match self.first_answer(one, first, &replies[at], &mut rows)? {
                    Next::Done => {}
                    Next::Missing => missing = true,
                    Next::Dump => more.push((i, More::Dump(0))),
                    Next::TypeOf => more.push((i, More::TypeOf(0))),
                    Next::Pieces(n) => more.push((i, More::Pieces(n))),
                }
            }
            if missing {
                more.retain(|(other, _)| *other != i);
                verdicts[n] = Some(self.missing(one)?);
            } else {
                self.expiry(one, found, &mut rows);
            }
            all.push(rows);
        }
        self.further_answers(batch, open, &mut more, &mut all, verdicts)?;
        for (&n, rows) in open.iter().zip(all) {
            if verdicts[n].is_none() {
                verdicts[n] = Some(match rows.is_empty() {
                    true => Verdict::Equal,
                    false => Verdict::Different(rows.finish()),
                });
            }
        }
        Ok(())
    }

    /// One question about the value of each key, and one about its expiry.
    #[allow(clippy::type_complexity)] // for each key: what was asked first, its answer, that about the expiry
    fn first_answers(
        &mut self,
        batch: &Batch<'a>,
        open: &[usize],
    ) -> Result<(Vec<(First, usize, usize)>, Vec<Reply>, i64)> {
        let gathers = self.v.options.destination.dialect == Dialect::Redis;
        let mut asks = std::mem::take(&mut self.asks);
        asks.clear();
        let mut firsts: Vec<(First, usize, usize)> = Vec::with_capacity(open.len());
        let mut i = 0;
        while i < open.len() {
            let one = &batch.keys[open[i]];
            let name = batch.name(open[i]);
            let first = self.first(one);
            if first == (First::Get(None)) && gathers {
                let mut args: Vec<&[u8]> = vec![b"MGET"];
                let from = i;
                while i < open.len()
                    && i - from < GATHER
                    && batch.keys[open[i]].db == one.db
                    && self.first(&batch.keys[open[i]]) == First::Get(None)
                {
                    args.push(batch.name(open[i]));
                    i += 1;
                }
                let at = asks.push(one.db, name, &args);
                firsts.extend((from..i).map(|n| (First::Get(Some(n - from)), at, 0)));
                continue;
            }
            let command: &[u8] = match (first, one.record.ty.kind()) {
                (First::Get(_), _) => b"GET",
                (First::Length, _) => b"STRLEN",
                (First::Card, Type::List) => b"LLEN",
                (First::Card, Type::Set) => b"SCARD",
                (First::Card, Type::Zset) => b"ZCARD",
                (First::Card, _) => b"HLEN",
                (First::Type, _) => b"TYPE",
            };
            firsts.push((first, asks.push(one.db, name, &[command, name]), 0));
            i += 1;
        }
        for (i, &n) in open.iter().enumerate() {
            let one = &batch.keys[n];
            let expected = one.expire_at_ms.is_some() || self.is_again;
            firsts[i].2 = self.v.clock.ask(&mut asks, one.db, batch.name(n), expected);
        }
        let began = now_ms();
        let mut replies = self.reach.ask(&asks)?;
        self.asks = asks;
        // The strings of an MGET become answers of their own.
        for (first, at, _) in &mut firsts {
            if let First::Get(Some(nth)) = *first {
                let one = match &mut replies[*at] {
                    Reply::Array(values) if nth < values.len() => {
                        std::mem::replace(&mut values[nth], Reply::Nil)
                    }
                    other => return Err(odd_answer(&self.reach.name(), "MGET", other)),
                };
                *at = replies.len();
                replies.push(one);
            }
        }
        Ok((firsts, replies, began))
    }

    /// What the first answer says, and what has to be asked next.
    fn first_answer(
        &mut self,
        one: &One<'a>,
        first: First,
        reply: &Reply,
        rows: &mut Rows,
    ) -> Result<Next> {
        let is_other_type = |words: &[u8]| words.starts_with(b"WRONGTYPE");
        if reply.error().is_some_and(is_other_type) {
            return Ok(Next::TypeOf);
        }
        match (first, reply) {
            (First::Get(_), Reply::Bulk(got)) => {
                let named = self.named(one);
                let mut c = one.value;
                let value = string(&mut c)
                    .and_then(|value| value.load(&mut self.room.one))
                    .map_err(&named)?;
                let mut digits = itoa::Buffer::new();
                let want = value.as_bytes(&mut digits);
                if want != got {
                    let (want, got) = value_texts(want, got);
                    rows.push(Kind::Value, want, got);
                }
                Ok(Next::Done)
            }
            // MGET gives nothing for a key of another type as for none; that there is one its expiry tells.
            (First::Get(Some(_)), Reply::Nil) => Ok(Next::TypeOf),
            (First::Get(None), Reply::Nil) => Ok(Next::Missing),
            (First::Length, Reply::Int(n)) => Ok(Next::Pieces(u64::try_from(*n).unwrap_or(0))),
            (First::Card, Reply::Int(0)) => Ok(Next::Missing),
            (First::Card, Reply::Int(n)) => {
                let n = u64::try_from(*n).unwrap_or(0);
                let (bytes, big) = (one.value_bytes, self.v.options.big_key);
                // Each element takes a byte at least, so that a value of many more is another one, and perhaps huge.
                match bytes <= big && n <= bytes as u64 + 1024 {
                    true => Ok(Next::Dump),
                    false => Ok(Next::Pieces(n)),
                }
            }
            (First::Type, Reply::Status(name)) if name == b"none" => Ok(Next::Missing),
            (First::Type, Reply::Status(name)) => {
                let want = type_name(one.record.ty, one.value);
                let same = match one.record.ty.kind() {
                    // A module's own name; what the file says of it is told in other letters by some.
                    Type::Module | Type::Gcra | Type::PathHash => true,
                    _ => want.as_bytes() == name,
                };
                if !same {
                    let got = String::from_utf8_lossy(name).into_owned();
                    rows.push(Kind::Type, want, got);
                    return Ok(Next::Done);
                }
                let has_ranges = self.v.options.destination.dialect != Dialect::Twemproxy;
                let large = one.value_bytes > self.v.options.big_key;
                match one.record.ty.kind() == Type::Stream && large && has_ranges {
                    true => Ok(Next::Pieces(0)),
                    false => Ok(Next::Dump),
                }
            }
            (_, other) => Err(odd_answer(&self.reach.name(), "a read", other)),
        }
    }

    /// Payloads, types of keys that are of another one, and large values.
    fn further_answers(
        &mut self,
        batch: &Batch<'a>,
        open: &[usize],
        more: &mut [(usize, More)],
        all: &mut [Rows],
        verdicts: &mut [Option<Verdict>],
    ) -> Result<()> {
        let mut asks = std::mem::take(&mut self.asks);
        asks.clear();
        for (i, more) in more.iter_mut() {
            let (one, name) = (&batch.keys[open[*i]], batch.name(open[*i]));
            match more {
                More::Dump(at) => *at = asks.push(one.db, name, &[b"DUMP", name]),
                More::TypeOf(at) => *at = asks.push(one.db, name, &[b"TYPE", name]),
                More::Pieces(_) => {}
            }
        }
        let replies = match asks.is_empty() {
            true => Vec::new(),
            false => self.reach.ask(&asks)?,
        };
        self.asks = asks;
        let gone_ms = self.v.clock.now_there_ms();
        for (i, more) in more.iter() {
            let n = open[*i];
            let (one, rows) = (&batch.keys[n], &mut all[*i]);
            match more {
                More::TypeOf(at) => {
                    let got = replies[*at].text().unwrap_or_default();
                    let want = type_name(one.record.ty, one.value);
                    if got == "none" {
                        verdicts[n] = Some(self.missing(one)?);
                    } else if got != want {
                        rows.push(Kind::Type, want, got.to_owned());
                    } else {
                        // It was removed and came again between two questions.
                        rows.push(Kind::Missing, want, String::new());
                    }
                }
                More::Dump(at) => match &replies[*at] {
                    Reply::Bulk(dump) => self.dumped(one, dump, gone_ms, rows)?,
                    Reply::Nil => verdicts[n] = Some(self.missing(one)?),
                    other => return Err(odd_answer(&self.reach.name(), "DUMP", other)),
                },
                More::Pieces(found) => {
                    let name = batch.name(n).to_vec();
                    match self.large(one, &name, *found, gone_ms, rows) {
                        // It was of the right type before: somebody writes it, which a second reading shows.
                        Err(error) if has_become_another(&error) => {
                            let want = type_name(one.record.ty, one.value);
                            rows.push(Kind::Type, want, "changed while it was read".to_owned());
                        }
                        other => other?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether an answer says that the key is gone or of another type than it was a moment before.
fn has_become_another(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Refused { reply, .. } => ["WRONGTYPE", "ERR no such key", "NOGROUP"]
            .iter()
            .any(|begin| reply.starts_with(begin)),
        _ => false,
    }
}
