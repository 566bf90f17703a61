//! Streams → commands (FORMAT §6.2).
//!
//! The usual order is: XADD every entry, XSETID, then groups, consumers and pending entries. But XCLAIM
//! takes only entries that exist, so where a pending entry's message is gone another order is needed: the
//! ids of all pending entries are added as placeholders, claimed, and trimmed away again, which leaves them
//! pending; XSETID takes the empty stream back to 0-0, and only then the real entries come. Trimming, unlike
//! XDEL, leaves the max-deleted-id alone, so that it can be set to what the file says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::encode::{Encoder, Group as Staged, One};
use super::target::Feature;
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::length;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::skip_string;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::write::Out;
use crate::tally::{Limit, Tally};
use crate::value::TypeByte;
use crate::value::stream::{Group, Id, Idmp, PendingIndex, PendingWalk, Tail, for_each_entry};

/// Settings that servers have without being told; nothing is written where a stream has them.
const IDMP_DEFAULT: (u64, u64) = (100, 100);
/// Ids that are looked up at once.
const IDS_AT_ONCE: usize = 1 << 20;
/// Ids of one XCLAIM or XNACK.
const IDS_PER_COMMAND: u64 = 100;

impl Encoder<'_> {
    /// Writes a stream, or its next `items` nodes; with the last part also what stands behind them.
    pub(super) fn stream(
        &mut self,
        one: &One<'_, '_>,
        c: &mut Cursor<'_>,
        items: u64,
        nodes: u64,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let ty = one.record.ty;
        let mut early_groups = false;
        let first_node = {
            let mut first = one.value;
            length(&mut first)?;
            first
        };
        if one.part.first || one.part.last {
            let tail = tail_of(one)?;
            early_groups = self.pending_without_entry(first_node, nodes, &tail)?;
            if one.part.first {
                if early_groups {
                    self.placeholders(one.key, &tail, out)?;
                    self.groups(one, &tail, None, out, tally)?;
                    out.command(&[b"XTRIM", one.key, b"MAXLEN", b"0"])?;
                    out.command(&[b"XSETID", one.key, b"0-0"])?;
                } else if tail.length == 0 {
                    // An entry that is trimmed at once leaves the stream itself.
                    let id = tail.last.max(Id { ms: 0, seq: 1 }).to_string();
                    out.command(&[b"XADD", one.key, b"MAXLEN", b"0", id.as_bytes(), b"x", b"y"])?;
                }
            }
        }
        self.entries(one.key, c, items, out)?;
        if !one.part.last {
            return Ok(());
        }
        let tail = Tail::parse(c, ty)?;
        let target = &self.settings.target;
        let last = tail.last.to_string();
        if target.has(Feature::StreamCounters) {
            let (added, deleted) = (tail.entries_added.to_string(), tail.max_deleted.to_string());
            let (added, deleted) = (added.as_bytes(), deleted.as_bytes());
            let args: [&[u8]; 7] = [
                b"XSETID",
                one.key,
                last.as_bytes(),
                b"ENTRIESADDED",
                added,
                b"MAXDELETEDID",
                deleted,
            ];
            out.command(&args)?;
        } else {
            out.command(&[b"XSETID", one.key, last.as_bytes()])?;
            let known = ty != TypeByte::StreamListpacks;
            tally.limit(Limit::StreamCounters, u64::from(known));
        }
        let first = self.first_entry(first_node, nodes)?;
        if early_groups {
            // They were made while the stream was empty; a server may have cut their counters down to that.
            tail.groups.for_each(|group| {
                let name = group.name.load(&mut self.room.one)?;
                let mut digits = itoa::Buffer::new();
                let name = name.as_bytes(&mut digits);
                let last = group.last.to_string();
                let read = entries_read(&group, &tail, ty, first);
                match read.filter(|_| self.settings.target.has(Feature::StreamCounters)) {
                    Some(read) => {
                        let read = read.to_string();
                        let args: [&[u8]; 7] = [
                            b"XGROUP",
                            b"SETID",
                            one.key,
                            name,
                            last.as_bytes(),
                            b"ENTRIESREAD",
                            read.as_bytes(),
                        ];
                        out.command(&args)
                    }
                    None => out.command(&[b"XGROUP", b"SETID", one.key, name, last.as_bytes()]),
                }
            })?;
        } else {
            self.groups(one, &tail, Some(first), out, tally)?;
        }
        if let Some(idmp) = tail.idmp {
            self.idmp(one.key, first_node, nodes, idmp, out, tally)?;
        }
        Ok(())
    }

    fn entries(
        &mut self,
        key: &[u8],
        c: &mut Cursor<'_>,
        nodes: u64,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let mut boundary = Boundary::default();
        let mut previous = None;
        for_each_entry(
            c,
            nodes,
            &mut self.room.one,
            &mut previous,
            &mut boundary,
            |entry| {
                out.array(3 + 2 * entry.fields);
                out.bulk(b"XADD");
                out.bulk_any(key)?;
                bulk_id(out, entry.id);
                entry.for_each(|field, value| {
                    out.bulk_element_any(field)?;
                    out.bulk_element_any(value)
                })?;
                out.end()
            },
        )
    }

    /// Whether some pending entry's message is gone from the stream.
    fn pending_without_entry(
        &mut self,
        first_node: Cursor<'_>,
        nodes: u64,
        tail: &Tail<'_>,
    ) -> Result<bool> {
        let mut pending = AllPending::new(tail)?;
        let Some(mut next) = pending.next()? else {
            return Ok(false);
        };
        let mut gone = false;
        let mut all_seen = false;
        let mut previous = None;
        let mut c = first_node;
        let mut boundary = Boundary::default();
        for_each_entry(
            &mut c,
            nodes,
            &mut self.room.one,
            &mut previous,
            &mut boundary,
            |entry| {
                while !all_seen && !gone && next <= entry.id {
                    gone = next < entry.id;
                    match pending.next()? {
                        Some(id) => next = id,
                        None => all_seen = true,
                    }
                }
                Ok(())
            },
        )?;
        Ok(gone || !all_seen)
    }

    fn placeholders(&mut self, key: &[u8], tail: &Tail<'_>, out: &mut Out<'_>) -> Result<()> {
        let mut pending = AllPending::new(tail)?;
        while let Some(id) = pending.next()? {
            out.array(5);
            out.bulk(b"XADD");
            out.bulk_any(key)?;
            bulk_id(out, id);
            out.bulk(b"x");
            out.bulk(b"y");
            out.end()?;
        }
        Ok(())
    }

    /// Id of the first live entry.
    fn first_entry(&mut self, first_node: Cursor<'_>, nodes: u64) -> Result<Option<Id>> {
        let mut first = None;
        let mut previous = None;
        let mut c = first_node;
        let mut boundary = Boundary::default();
        // A node may hold deleted entries only, so the next one is asked until one answers.
        for _ in 0..nodes {
            for_each_entry(
                &mut c,
                1,
                &mut self.room.one,
                &mut previous,
                &mut boundary,
                |entry| {
                    first.get_or_insert(entry.id);
                    Ok(())
                },
            )?;
            if first.is_some() {
                break;
            }
        }
        Ok(first)
    }

    /// Groups, their consumers and pending entries. `first`: id of the first live entry, where the
    /// stream's entries stand already.
    fn groups(
        &mut self,
        one: &One<'_, '_>,
        tail: &Tail<'_>,
        first: Option<Option<Id>>,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let target = &self.settings.target;
        let (counters, idle_consumers) = (
            target.has(Feature::StreamCounters),
            target.has(Feature::CreateConsumer),
        );
        let key = one.key;
        tail.groups.for_each(|group| {
            let mut digits = itoa::Buffer::new();
            let name = group.name.load(&mut self.room.one)?;
            let name = name.as_bytes(&mut digits);
            let last = group.last.to_string();
            let read = first.and_then(|first| entries_read(&group, tail, one.record.ty, first));
            match read.filter(|_| counters) {
                Some(read) => {
                    let read = read.to_string();
                    let args: [&[u8]; 7] = [
                        b"XGROUP",
                        b"CREATE",
                        key,
                        name,
                        last.as_bytes(),
                        b"ENTRIESREAD",
                        read.as_bytes(),
                    ];
                    out.command(&args)?;
                }
                None => out.command(&[b"XGROUP", b"CREATE", key, name, last.as_bytes()])?,
            }
            let index = PendingIndex::new(group.pending)?;
            let broken = |what| Error::new(ErrorKind::BadStream(what), group.start.at());
            let mut owned = 0;
            group.consumers.for_each(|consumer| {
                let mut digits = itoa::Buffer::new();
                let owner = consumer.name.load(&mut self.room.two)?;
                let owner = owner.as_bytes(&mut digits);
                tally.limit(Limit::ConsumerTimes, 1);
                if consumer.ids.is_empty() {
                    if idle_consumers {
                        return out.command(&[b"XGROUP", b"CREATECONSUMER", key, name, owner]);
                    }
                    tally.limit(Limit::IdleConsumers, 1);
                    return Ok(());
                }
                let mut claims = Claims {
                    staged: Staged {
                        stage: &mut self.stage,
                        count: 0,
                        at: 0,
                    },
                    deliveries: 0,
                };
                claims.staged.stage.clear();
                for id in consumer.ids.iter() {
                    let (_, delivery) = index.find(id)?.ok_or_else(|| {
                        broken("consumer owns an entry that is not pending in its group")
                    })?;
                    owned += 1;
                    if !claims.takes(delivery.time_ms, delivery.count) {
                        claims.xclaim(key, name, owner, out)?;
                    }
                    claims.push(delivery.time_ms, delivery.count, id);
                }
                claims.xclaim(key, name, owner, out)
            })?;
            let mut claims = Claims {
                staged: Staged {
                    stage: &mut self.stage,
                    count: 0,
                    at: 0,
                },
                deliveries: 0,
            };
            claims.staged.stage.clear();
            for id in group.nacked.iter() {
                let (_, delivery) = index
                    .find(id)?
                    .ok_or_else(|| broken("has a released entry that is not pending"))?;
                owned += 1;
                if !claims.takes(0, delivery.count) {
                    claims.xnack(key, name, out)?;
                }
                claims.push(0, delivery.count, id);
            }
            claims.xnack(key, name, out)?;
            if owned != group.pending.count {
                return Err(broken("has a pending entry without an owner"));
            }
            Ok(())
        })
    }

    fn idmp(
        &mut self,
        key: &[u8],
        first_node: Cursor<'_>,
        nodes: u64,
        idmp: Idmp<'_>,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<()> {
        let settings_differ = (idmp.duration_secs, idmp.max_size) != IDMP_DEFAULT;
        if !self.settings.target.has(Feature::Idmp) {
            tally.limit(Limit::Idmp, u64::from(settings_differ || idmp.records > 0));
            return Ok(());
        }
        tally.limit(Limit::IdmpDuplicates, u64::from(idmp.duplicates > 0));
        if settings_differ {
            let (duration, size) = (idmp.duration_secs.to_string(), idmp.max_size.to_string());
            let (duration, size) = (duration.as_bytes(), size.as_bytes());
            out.command(&[
                b"XCFGSET",
                key,
                b"IDMP-DURATION",
                duration,
                b"IDMP-MAXSIZE",
                size,
            ])?;
        }
        // XIDMPRECORD wants the entry to exist. Records are in order of arrival, not of ids, so a lot of them
        // at a time is held against the entries.
        let mut skip = 0;
        while skip < idmp.records {
            let mut ids = Vec::new();
            let mut n = 0;
            idmp.for_each(&mut self.room, |_, _, id| {
                if n >= skip && ids.len() < IDS_AT_ONCE {
                    ids.push((id, false));
                }
                n += 1;
                Ok(())
            })?;
            ids.sort_unstable();
            let (mut c, mut previous, mut boundary) = (first_node, None, Boundary::default());
            for_each_entry(
                &mut c,
                nodes,
                &mut self.room.one,
                &mut previous,
                &mut boundary,
                |entry| {
                    let from = ids.partition_point(|(id, _)| *id < entry.id);
                    for (_, exists) in ids[from..].iter_mut().take_while(|(id, _)| *id == entry.id)
                    {
                        *exists = true;
                    }
                    Ok(())
                },
            )?;
            let mut n = 0;
            idmp.for_each(&mut self.room, |producer, record, id| {
                let here = n >= skip && n < skip + IDS_AT_ONCE as u64;
                n += 1;
                if !here {
                    return Ok(());
                }
                let at = ids.partition_point(|(other, _)| *other < id);
                if !ids
                    .get(at)
                    .is_some_and(|(other, exists)| *other == id && *exists)
                {
                    tally.limit(Limit::IdmpDeleted, 1);
                    return Ok(());
                }
                out.array(5);
                out.bulk(b"XIDMPRECORD");
                out.bulk_any(key)?;
                out.bulk_element_any(producer)?;
                out.bulk_element_any(record)?;
                bulk_id(out, id);
                out.end()
            })?;
            skip += IDS_AT_ONCE as u64;
        }
        Ok(())
    }
}

/// What stands behind the nodes of a stream, whichever part of it is at hand.
fn tail_of<'a>(one: &One<'a, '_>) -> Result<Tail<'a>> {
    let mut c = one.value;
    for _ in 0..length(&mut c)? {
        skip_string(&mut c)?;
        skip_string(&mut c)?;
    }
    Tail::parse(&mut c, one.record.ty)
}

/// Whether a group has entries released by XNACK.
pub(super) fn has_released(one: &One<'_, '_>) -> Result<bool> {
    let mut released = false;
    tail_of(one)?.groups.for_each(|group| {
        released |= !group.nacked.is_empty();
        Ok(())
    })?;
    Ok(released)
}

/// Counts what a stream does not have any more that is written as an older type.
pub(super) fn count_what_is_lost(
    one: &One<'_, '_>,
    older: TypeByte,
    tally: &mut Tally,
) -> Result<()> {
    let tail = tail_of(one)?;
    let mut consumers = 0;
    tail.groups.for_each(|group| {
        consumers += group.consumers.count;
        Ok(())
    })?;
    let ty = one.record.ty;
    let (before_7_2, before_7_0) = (
        older != TypeByte::StreamListpacks3,
        older == TypeByte::StreamListpacks,
    );
    if before_7_2 && ty != TypeByte::StreamListpacks2 {
        tally.limit(Limit::ActiveTimes, consumers);
    }
    tally.limit(Limit::StreamCounters, u64::from(before_7_0));
    let differs = tail.idmp.is_some_and(|idmp| {
        (idmp.duration_secs, idmp.max_size) != IDMP_DEFAULT || idmp.records > 0
    });
    tally.limit(Limit::Idmp, u64::from(differs));
    Ok(())
}

fn bulk_id(out: &mut Out<'_>, id: Id) {
    let mut text = [0; 41];
    let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (ms, seq) = (ms.format(id.ms).as_bytes(), seq.format(id.seq).as_bytes());
    let len = ms.len() + 1 + seq.len();
    text[..ms.len()].copy_from_slice(ms);
    text[ms.len()] = b'-';
    text[ms.len() + 1..len].copy_from_slice(seq);
    out.bulk(&text[..len]);
}

/// Number of entries a group has read, where the file says it or leaves no doubt. Before RDB 10 it was not
/// stored; servers then work it out from the ids alone, and so it is done here.
fn entries_read(
    group: &Group<'_>,
    tail: &Tail<'_>,
    ty: TypeByte,
    first: Option<Id>,
) -> Option<i64> {
    if ty != TypeByte::StreamListpacks {
        return Some(group.entries_read);
    }
    let added = i64::try_from(tail.entries_added).ok()?;
    match first {
        _ if added == 0 => Some(0),
        _ if group.last == tail.last => Some(added),
        Some(first) if group.last < first => Some(0),
        Some(first) if group.last == first => Some(1),
        _ => None,
    }
}

/// Neighbours among a consumer's pending entries that share time and count go into one command.
struct Claims<'a> {
    staged: Staged<'a>,
    deliveries: u64,
}

impl Claims<'_> {
    fn takes(&self, time_ms: i64, deliveries: u64) -> bool {
        self.staged.count == 0
            || (self.staged.count < IDS_PER_COMMAND
                && (self.staged.at, self.deliveries) == (time_ms, deliveries))
    }

    fn push(&mut self, time_ms: i64, deliveries: u64, id: Id) {
        (self.staged.at, self.deliveries) = (time_ms, deliveries);
        self.staged.push(Element::Bytes(id.to_string().as_bytes()));
    }

    fn xclaim(
        &mut self,
        key: &[u8],
        group: &[u8],
        consumer: &[u8],
        out: &mut Out<'_>,
    ) -> Result<()> {
        if self.staged.count == 0 {
            return Ok(());
        }
        out.array(5 + self.staged.count + 6);
        out.bulk(b"XCLAIM");
        out.bulk_any(key)?;
        out.bulk_any(group)?;
        out.bulk_any(consumer)?;
        out.bulk(b"0");
        out.large(self.staged.stage)?;
        out.bulk(b"TIME");
        out.bulk_int(self.staged.at.max(0));
        out.bulk(b"RETRYCOUNT");
        out.bulk_int(self.deliveries as i64);
        out.bulk(b"FORCE");
        out.bulk(b"JUSTID");
        self.clear();
        out.end()
    }

    fn xnack(&mut self, key: &[u8], group: &[u8], out: &mut Out<'_>) -> Result<()> {
        if self.staged.count == 0 {
            return Ok(());
        }
        out.array(6 + self.staged.count + 3);
        out.bulk(b"XNACK");
        out.bulk_any(key)?;
        out.bulk_any(group)?;
        out.bulk(b"FAIL");
        out.bulk(b"IDS");
        out.bulk_int(self.staged.count as i64);
        out.large(self.staged.stage)?;
        out.bulk(b"RETRYCOUNT");
        out.bulk_int(self.deliveries as i64);
        out.bulk(b"FORCE");
        self.clear();
        out.end()
    }

    fn clear(&mut self) {
        self.staged.stage.clear();
        self.staged.count = 0;
    }
}

/// The pending entries of all groups in order of their ids, each id once.
struct AllPending<'a> {
    walks: Vec<PendingWalk<'a>>,
    heads: BinaryHeap<Reverse<(Id, usize)>>,
}

impl<'a> AllPending<'a> {
    fn new(tail: &Tail<'a>) -> Result<Self> {
        let mut all = AllPending {
            walks: Vec::new(),
            heads: BinaryHeap::new(),
        };
        tail.groups.for_each(|group| {
            if group.pending.count > 0 {
                all.walks.push(group.pending.walk());
                all.advance(all.walks.len() - 1)?;
            }
            Ok(())
        })?;
        Ok(all)
    }

    fn advance(&mut self, walk: usize) -> Result<()> {
        if let Some(delivery) = self.walks[walk].next()? {
            self.heads.push(Reverse((delivery.id, walk)));
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Id>> {
        let Some(Reverse((id, walk))) = self.heads.pop() else {
            return Ok(None);
        };
        self.advance(walk)?;
        while let Some(&Reverse((other, walk))) = self.heads.peek() {
            if other != id {
                break;
            }
            self.heads.pop();
            self.advance(walk)?;
        }
        Ok(Some(id))
    }
}
