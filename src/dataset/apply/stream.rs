//! Streams, as servers from 7.0 on understand their commands.

use super::args::{at, count, int, is, option};
use super::{Handler, State};
use crate::dataset::stream::{Group, Idmp, Pending, READ_UNKNOWN, Refs, Stream};
use crate::dataset::{Done, Fail};
use crate::value::stream::Id;

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("XADD", xadd),
    ("XTRIM", |s, a| {
        let (trim, end) = Trim::parse(a, 2)?;
        if let Some(more) = a.get(end) {
            return Err(option(more));
        }
        s.keys
            .write::<Stream>(a[1])?
            .map_or(Ok(()), |stream| trim.apply(stream))
    }),
    ("XDEL", |s, a| {
        let ids = ids(&a[2..])?;
        if let Some(stream) = s.keys.write::<Stream>(a[1])? {
            ids.into_iter().for_each(|id| stream.remove(id, Refs::Keep));
        }
        Ok(())
    }),
    ("XDELEX", |s, a| {
        let (refs, ids) = refs_and_ids(a, 2)?;
        if let Some(stream) = s.keys.write::<Stream>(a[1])? {
            ids.into_iter().for_each(|id| stream.remove(id, refs));
        }
        Ok(())
    }),
    ("XSETID", xsetid),
    ("XACK", |s, a| {
        let ids = ids(&a[3..])?;
        if let Some(group) = s
            .keys
            .write::<Stream>(a[1])?
            .and_then(|x| x.groups.get_mut(a[2]))
        {
            for id in ids {
                group.forget(id);
            }
        }
        Ok(())
    }),
    ("XACKDEL", |s, a| {
        let (refs, ids) = refs_and_ids(a, 3)?;
        let Some(stream) = s.keys.write::<Stream>(a[1])? else {
            return Ok(());
        };
        for id in ids {
            if stream
                .groups
                .get_mut(a[2])
                .is_some_and(|group| group.forget(id))
            {
                stream.remove(id, refs);
            }
        }
        Ok(())
    }),
    ("XNACK", xnack),
    ("XCLAIM", xclaim),
    ("XGROUP|CREATE", create),
    ("XGROUP|SETID", |s, a| {
        let (last, read) = position(s, a)?;
        let group = group(s, a[2], a[3])?;
        (group.last, group.entries_read) = (last, read);
        Ok(())
    }),
    ("XGROUP|DESTROY", |s, a| {
        let stream = s.keys.write::<Stream>(a[2])?.ok_or(Fail::Refused)?;
        stream.groups.remove(a[3]);
        Ok(())
    }),
    ("XGROUP|CREATECONSUMER", |s, a| {
        group(s, a[2], a[3])?.consumers.insert(a[4].into());
        Ok(())
    }),
    ("XGROUP|DELCONSUMER", |s, a| {
        let group = group(s, a[2], a[3])?;
        group.consumers.remove(a[4]);
        group
            .pending
            .retain(|_, one| one.consumer.as_deref() != Some(a[4]));
        Ok(())
    }),
    ("XCFGSET", xcfgset),
    ("XIDMPRECORD", |s, a| {
        let id = id(a[4])?;
        let stream = s.keys.write::<Stream>(a[1])?.ok_or(Fail::Refused)?;
        stream.idmp.get_or_insert_default().record(a[2], a[3], id);
        Ok(())
    }),
];

/// An id; one without a sequence has 0.
fn id(arg: &[u8]) -> Done<Id> {
    id_with(arg, 0)
}

fn id_with(arg: &[u8], seq: u64) -> Done<Id> {
    let text = std::str::from_utf8(arg).map_err(|_| Fail::Refused)?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| Fail::Refused),
        false => Err(Fail::Refused),
    };
    Ok(match text.split_once('-') {
        Some((ms, seq)) => Id {
            ms: number(ms)?,
            seq: number(seq)?,
        },
        None => Id {
            ms: number(text)?,
            seq,
        },
    })
}

fn ids(args: &[&[u8]]) -> Done<Vec<Id>> {
    args.iter().map(|arg| id(arg)).collect()
}

fn refs(word: &[u8]) -> Option<Refs> {
    match () {
        () if is(word, "KEEPREF") => Some(Refs::Keep),
        () if is(word, "DELREF") => Some(Refs::Delete),
        () if is(word, "ACKED") => Some(Refs::Acked),
        () => None,
    }
}

/// IDS, a number and so many ids, and the place behind them.
fn numbered_ids(args: &[&[u8]], place: usize) -> Done<(Vec<Id>, usize)> {
    let n = count(at(args, place + 1)?)?;
    let end = n.checked_add(place + 2);
    let end = end.filter(|end| n > 0 && *end <= args.len());
    let end = end.ok_or(Fail::Refused)?;
    Ok((ids(&args[place + 2..end])?, end))
}

fn refs_and_ids(args: &[&[u8]], mut i: usize) -> Done<(Refs, Vec<Id>)> {
    let (mut how, mut all) = (Refs::Keep, Vec::new());
    while let Some(word) = args.get(i) {
        if let Some(refs) = refs(word) {
            how = refs;
            i += 1;
        } else if is(word, "IDS") {
            (all, i) = numbered_ids(args, i)?;
        } else {
            return Err(option(word));
        }
    }
    Ok((how, all))
}

/// What a stream is trimmed to.
struct Trim {
    to: Option<To>,
    refs: Refs,
    nearly: bool,
}

enum To {
    Len(u64),
    Id(Id),
}

impl Trim {
    /// Reads the options of trimming from `i` on; gives the place of the first other argument.
    fn parse(args: &[&[u8]], mut i: usize) -> Done<(Trim, usize)> {
        let mut trim = Trim {
            to: None,
            refs: Refs::Keep,
            nearly: false,
        };
        while let Some(word) = args.get(i) {
            let by_len = is(word, "MAXLEN");
            if by_len || is(word, "MINID") {
                i += 1;
                let sign = at(args, i)?;
                if sign == b"~" || sign == b"=" {
                    trim.nearly = sign == b"~";
                    i += 1;
                }
                let arg = at(args, i)?;
                trim.to = Some(match by_len {
                    true => To::Len(u64::try_from(int(arg)?).map_err(|_| Fail::Refused)?),
                    false => To::Id(id(arg)?),
                });
                i += 1;
            } else if is(word, "LIMIT") {
                int(at(args, i + 1)?)?;
                i += 2;
            } else if let Some(refs) = refs(word) {
                trim.refs = refs;
                i += 1;
            } else {
                break;
            }
        }
        Ok((trim, i))
    }

    fn apply(&self, stream: &mut Stream) -> Done {
        let has_more = match &self.to {
            None => false,
            Some(To::Len(most)) => stream.entries.len() as u64 > *most,
            Some(To::Id(least)) => stream.first() < *least,
        };
        if self.nearly && has_more && !stream.entries.is_empty() {
            return Err(Fail::unknown(
                "how much it trims by '~' is the server's to say; servers log '=' in its place",
            ));
        }
        match &self.to {
            None => {}
            Some(To::Len(most)) => stream.trim_len(*most, self.refs),
            Some(To::Id(least)) => stream.trim_before(*least, self.refs),
        }
        Ok(())
    }
}

fn xadd(state: &mut State, args: &[&[u8]]) -> Done {
    let (mut makes, mut producer) = (true, None);
    let (mut trim, mut refs_given) = (None::<Trim>, None);
    let mut i = 2;
    loop {
        let word = at(args, i)?;
        if is(word, "NOMKSTREAM") {
            makes = false;
            i += 1;
        } else if is(word, "IDMP") {
            producer = Some((at(args, i + 1)?, Some(at(args, i + 2)?)));
            i += 3;
        } else if is(word, "IDMPAUTO") {
            producer = Some((at(args, i + 1)?, None));
            i += 2;
        } else {
            let (found, next) = Trim::parse(args, i)?;
            if next == i {
                break;
            }
            if found.to.is_some() {
                trim = Some(found);
            } else {
                refs_given = Some(found.refs);
            }
            i = next;
        }
    }
    if let (Some(trim), Some(refs)) = (&mut trim, refs_given) {
        trim.refs = refs;
    }
    let word = args[i];
    let fields = &args[i + 1..];
    if fields.is_empty() || fields.len() % 2 == 1 {
        return Err(Fail::Refused);
    }
    let there = state.keys.read::<Stream>(args[1])?;
    if there.is_none() && !makes {
        return Ok(());
    }
    if word.contains(&b'*') {
        // A server writes the id that it gave. With the record of a producer it kept the star where it gave none,
        // because the record was there.
        if producer.is_none() {
            return Err(Fail::unknown(
                "its id is the server's clock; servers log the id that they gave",
            ));
        }
        if let Some(stream) = state.keys.write::<Stream>(args[1])? {
            stream.idmp.get_or_insert_default().duplicates += 1;
        }
        return Ok(());
    }
    let id = id(word)?;
    if id == Id::ZERO || there.is_some_and(|stream| id <= stream.last) {
        return Err(Fail::Refused);
    }
    let stream = state.keys.make::<Stream>(args[1])?;
    let fields = fields.iter().map(|field| (*field).into()).collect();
    stream.entries.insert(id, fields);
    stream.last = id;
    stream.entries_added += 1;
    if let Some((producer, record)) = producer {
        let idmp = stream.idmp.get_or_insert_default();
        match record {
            Some(record) => idmp.record(producer, record, id),
            // The record is a digest of the fields, which is not made here: it is gone a while after.
            None => idmp.added += 1,
        }
    }
    trim.map_or(Ok(()), |trim| trim.apply(stream))
}

fn xsetid(state: &mut State, args: &[&[u8]]) -> Done {
    let last = id(args[2])?;
    let (mut added, mut deleted) = (None, None);
    let mut i = 3;
    while let Some(word) = args.get(i) {
        let value = at(args, i + 1)?;
        match () {
            () if is(word, "ENTRIESADDED") => {
                added = Some(u64::try_from(int(value)?).map_err(|_| Fail::Refused)?);
            }
            () if is(word, "MAXDELETEDID") => deleted = Some(id(value)?),
            () => return Err(option(word)),
        }
        i += 2;
    }
    let keeps = state.rules.keeps_above_deleted;
    let stream = state.keys.write::<Stream>(args[1])?.ok_or(Fail::Refused)?;
    let top = stream.entries.last_key_value().map(|(id, _)| *id);
    let refused = (keeps && last < stream.max_deleted)
        || deleted.is_some_and(|deleted| last < deleted)
        || top.is_some_and(|top| last < top)
        || added.is_some_and(|added| added < stream.entries.len() as u64);
    if refused {
        return Err(Fail::Refused);
    }
    stream.last = last;
    if let Some(added) = added {
        stream.entries_added = added;
    }
    if let Some(deleted) = deleted.filter(|deleted| *deleted != Id::ZERO) {
        stream.max_deleted = deleted;
    }
    Ok(())
}

fn group<'s>(state: &'s mut State, key: &[u8], name: &[u8]) -> Done<&'s mut Group> {
    let stream = state.keys.write::<Stream>(key)?.ok_or(Fail::Refused)?;
    stream.groups.get_mut(name).ok_or(Fail::Refused)
}

/// The id and the count of XGROUP CREATE and SETID.
fn position(state: &State, args: &[&[u8]]) -> Done<(Id, i64)> {
    let stream = state.keys.read::<Stream>(args[2])?;
    let last = match args[4] {
        b"$" => stream.map_or(Id::ZERO, |stream| stream.last),
        arg => id(arg)?,
    };
    let mut read = READ_UNKNOWN;
    let mut i = 5;
    while let Some(word) = args.get(i) {
        i += 1;
        if is(word, "ENTRIESREAD") {
            read = int(at(args, i)?)?;
            if read < READ_UNKNOWN {
                return Err(Fail::Refused);
            }
            if state.rules.caps_entries_read {
                let added = stream.map_or(0, |stream| stream.entries_added);
                read = read.min(i64::try_from(added).unwrap_or(i64::MAX));
            }
            i += 1;
        } else if !is(word, "MKSTREAM") {
            return Err(option(word));
        }
    }
    Ok((last, read))
}

fn create(state: &mut State, args: &[&[u8]]) -> Done {
    let makes = args.iter().skip(5).any(|word| is(word, "MKSTREAM"));
    let (last, entries_read) = position(state, args)?;
    if state.keys.read::<Stream>(args[2])?.is_none() && !makes {
        return Err(Fail::Refused);
    }
    let stream = state.keys.make::<Stream>(args[2])?;
    if stream.groups.contains_key(args[3]) {
        return Err(Fail::Refused);
    }
    let group = Group {
        last,
        entries_read,
        ..Group::default()
    };
    stream.groups.insert(args[3].into(), group);
    Ok(())
}

fn xclaim(state: &mut State, args: &[&[u8]]) -> Done {
    // Ids come first, then options.
    let options = args.iter().skip(5).position(|arg| id(arg).is_err());
    let first_option = options.map_or(args.len(), |place| 5 + place);
    let ids = ids(&args[5..first_option])?;
    if ids.is_empty() {
        return Err(Fail::Refused);
    }
    let (mut time_ms, mut retries, mut force, mut just_id, mut last) =
        (None, None, false, false, None);
    let mut i = first_option;
    while let Some(word) = args.get(i) {
        i += 1;
        let value = || at(args, i);
        match () {
            () if is(word, "FORCE") => force = true,
            () if is(word, "JUSTID") => just_id = true,
            () if is(word, "TIME") => time_ms = Some(int(value()?)?),
            () if is(word, "IDLE") => {
                return Err(Fail::unknown(
                    "it tells how long ago the delivery was, not when; servers log TIME in its place",
                ));
            }
            () if is(word, "RETRYCOUNT") => {
                retries = Some(u64::try_from(int(value()?)?).map_err(|_| Fail::Refused)?);
            }
            () if is(word, "LASTID") => last = Some(id(value()?)?),
            () => return Err(option(word)),
        }
        i += usize::from(!is(word, "FORCE") && !is(word, "JUSTID"));
    }
    if int(args[4])? > 0 {
        return Err(Fail::unknown(
            "it claims what has waited so long, and when that was tried is not in it; servers log 0 in its place",
        ));
    }
    let stream = state.keys.write::<Stream>(args[1])?.ok_or(Fail::Refused)?;
    let (entries, groups) = (&stream.entries, &mut stream.groups);
    let group = groups.get_mut(args[2]).ok_or(Fail::Refused)?;
    if let Some(last) = last {
        group.last = group.last.max(last);
    }
    let consumer: Box<[u8]> = args[3].into();
    let touched = ids.iter().any(|id| force || group.pending.contains_key(id));
    if touched && time_ms.is_none() {
        return Err(Fail::unknown(
            "the time of the delivery is not in it; servers log TIME",
        ));
    }
    group.consumers.insert(consumer.clone());
    for id in &ids {
        if !entries.contains_key(id) {
            // What was deleted is pending no longer.
            group.forget(*id);
            continue;
        }
        let old = group.pending.get(id);
        if old.is_none() && !force {
            continue;
        }
        if old.is_some_and(|old| old.consumer.is_none()) {
            group.released.retain(|released| released != id);
        }
        let before = old.map_or(0, |old| old.count);
        let count = match retries {
            Some(retries) => retries,
            None => before + u64::from(!just_id),
        };
        let one = Pending {
            consumer: Some(consumer.clone()),
            time_ms: time_ms.unwrap_or(0),
            count,
        };
        group.pending.insert(*id, one);
    }
    Ok(())
}

fn xnack(state: &mut State, args: &[&[u8]]) -> Done {
    enum How {
        Silent,
        Fail,
        Fatal,
    }
    let how = match args[3] {
        word if is(word, "SILENT") => How::Silent,
        word if is(word, "FAIL") => How::Fail,
        word if is(word, "FATAL") => How::Fatal,
        word => return Err(option(word)),
    };
    let (mut ids, mut retries, mut force) = (Vec::new(), None, false);
    let mut i = 4;
    while let Some(word) = args.get(i) {
        if is(word, "IDS") {
            (ids, i) = numbered_ids(args, i)?;
        } else if is(word, "RETRYCOUNT") {
            retries = Some(u64::try_from(int(at(args, i + 1)?)?).map_err(|_| Fail::Refused)?);
            i += 2;
        } else if is(word, "FORCE") {
            force = true;
            i += 1;
        } else {
            return Err(option(word));
        }
    }
    let stream = state.keys.write::<Stream>(args[1])?.ok_or(Fail::Refused)?;
    let (entries, groups) = (&stream.entries, &mut stream.groups);
    let group = groups.get_mut(args[2]).ok_or(Fail::Refused)?;
    for id in ids {
        let old = group.pending.get(&id);
        let made = old.is_none();
        if made && !(force && entries.contains_key(&id)) {
            continue;
        }
        let before = old.map_or(0, |old| old.count);
        let count = retries.unwrap_or(match how {
            How::Silent => before.saturating_sub(1),
            How::Fail => before,
            How::Fatal => i64::MAX as u64,
        });
        if made || old.is_some_and(|old| old.consumer.is_some()) {
            group.released.push_back(id);
        }
        let one = Pending {
            consumer: None,
            time_ms: 0,
            count,
        };
        group.pending.insert(id, one);
    }
    Ok(())
}

fn xcfgset(state: &mut State, args: &[&[u8]]) -> Done {
    let (mut duration, mut most) = (None, None);
    let mut i = 2;
    while let Some(word) = args.get(i) {
        let value = u64::try_from(int(at(args, i + 1)?)?).map_err(|_| Fail::Refused)?;
        match () {
            () if is(word, "IDMP-DURATION") => duration = Some(value),
            () if is(word, "IDMP-MAXSIZE") => most = Some(value),
            () => return Err(option(word)),
        }
        i += 2;
    }
    let valid = |value: Option<u64>, most: u64| value.is_none_or(|n| (1..=most).contains(&n));
    if !valid(duration, 86_400) || !valid(most, 10_000) {
        return Err(Fail::Refused);
    }
    let stream = state.keys.write::<Stream>(args[1])?.ok_or(Fail::Refused)?;
    let idmp: &mut Idmp = stream.idmp.get_or_insert_default();
    let duration = duration.unwrap_or(idmp.duration_secs);
    let most = most.unwrap_or(idmp.max_size);
    if (duration, most) != (idmp.duration_secs, idmp.max_size) {
        // What was recorded under other settings counts no longer.
        idmp.producers.clear();
        (idmp.duration_secs, idmp.max_size) = (duration, most);
    }
    Ok(())
}
