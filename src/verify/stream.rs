//! Streams: entries, ids and counters, groups with their consumers and pending entries.
//!
//! Entries are compared from node to node, however many there are; of large streams the destination is asked by XRANGE.
//! The pending entries of one group are held in memory on both sides, one group after the other where the stream is
//! large.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{Items, Rows};
use super::reach::Reach;
use super::{Kind, show};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::write_length;
use crate::encoding::listpack::Boundary;
use crate::error::{Error, ErrorKind, Result};
use crate::server::preflight::now_ms;
use crate::server::reply::Reply;
use crate::value::stream::{Entry, Group, Id, PendingIndex, Tail, for_each_entry};
use crate::value::{Head, Room, Templates, TypeByte};

/// Entries of one XRANGE, and pending entries of one XPENDING.
const AT_ONCE: usize = 500;
/// Bytes of entries that are gathered before they are asked for.
const BYTES_AT_ONCE: usize = 512 << 10;

/// What stands behind the entries. What is not known is not compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ids {
    last: Id,
    /// Entries ever added, highest id ever deleted.
    counters: Option<(u64, Id)>,
    /// Duration and number of records of idempotent producers.
    idmp: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Facts {
    last: Id,
    read: Option<i64>,
    consumers: BTreeSet<Vec<u8>>,
    pending: BTreeMap<Id, Delivered>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivered {
    /// Empty: released by XNACK.
    owner: Vec<u8>,
    /// Between these, Unix time in milliseconds.
    time_ms: (i64, i64),
    count: u64,
}

/// How streams are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether the destination keeps consumers that have nothing pending.
    pub(super) keeps_idle_consumers: bool,
}

/// A stream that is not large, as it is on one side.
#[derive(Debug, Default)]
pub(super) struct Stream {
    entries: Items,
    ids: Ids,
    groups: BTreeMap<Vec<u8>, Facts>,
}

impl Stream {
    pub(super) fn read(
        mut c: Cursor<'_>,
        ty: TypeByte,
        templates: &Templates,
        room: &mut Room,
    ) -> Result<Stream> {
        let mut stream = Stream::default();
        let nodes = Head::parse(&mut c, ty, templates)?.items;
        let (mut previous, mut boundary) = (None, Boundary::default());
        let entries = &mut stream.entries;
        for_each_entry(
            &mut c,
            nodes,
            &mut room.one,
            &mut previous,
            &mut boundary,
            |entry| push_entry(entries, entry),
        )?;
        let tail = Tail::parse(&mut c, ty)?;
        stream.ids = ids(&tail, ty);
        tail.groups.for_each(|group| {
            let (name, facts) = facts(&group, ty, room)?;
            stream.groups.insert(name, facts);
            Ok(())
        })?;
        Ok(stream)
    }

    pub(super) fn compare(&mut self, got: &mut Stream, manner: Manner, rows: &mut Rows) {
        entries(&self.entries, &got.entries, rows);
        compare_ids(&self.ids, &got.ids, rows);
        let names: BTreeSet<&Vec<u8>> = self.groups.keys().chain(got.groups.keys()).collect();
        for name in names {
            group(
                name,
                self.groups.get(name),
                got.groups.get(name),
                manner,
                rows,
            );
        }
    }
}

fn id_bytes(id: Id) -> [u8; 16] {
    (u128::from(id.ms) << 64 | u128::from(id.seq)).to_be_bytes()
}

fn id_of(bytes: &[u8]) -> Id {
    let raw = bytes.try_into().map_or(0, u128::from_be_bytes);
    Id {
        ms: (raw >> 64) as u64,
        seq: raw as u64,
    }
}

/// Fields and values stand behind each other with their lengths.
fn push_entry(entries: &mut Items, entry: &Entry<'_>) -> Result<()> {
    let mut fields = Vec::new();
    let mut put = |element: Element<'_>| {
        let mut digits = itoa::Buffer::new();
        let bytes = element.as_bytes(&mut digits);
        write_length(&mut fields, bytes.len() as u64);
        fields.extend_from_slice(bytes);
    };
    entry.for_each(|field, value| {
        put(field);
        put(value);
        Ok(())
    })?;
    push(entries, entry.id, &fields);
    Ok(())
}

fn push(entries: &mut Items, id: Id, fields: &[u8]) {
    entries.push(
        Element::Bytes(&id_bytes(id)),
        Some(Element::Bytes(fields)),
        0,
    );
}

fn entry_text(one: super::items::One<'_>) -> String {
    // The lengths are told apart from the text by nobody: a hint at what it is must be enough.
    let mut c = Cursor::new(one.value, 0);
    let mut parts = Vec::new();
    while !c.is_empty() && parts.len() < 6 {
        match crate::encoding::length::length(&mut c).and_then(|len| c.take_len(len)) {
            Ok(part) => parts.push(show(part)),
            Err(_) => break,
        }
    }
    let more = if c.is_empty() { "" } else { " …" };
    format!("{} {}{more}", id_of(one.name), parts.join(" "))
}

/// Compares entries, which ascend by their ids on both sides.
fn entries(want: &Items, got: &Items, rows: &mut Rows) {
    let (mut w, mut g) = (0, 0);
    while w < want.len() || g < got.len() {
        let left = (w < want.len()).then(|| want.get(w));
        let right = (g < got.len()).then(|| got.get(g));
        let (left, right) = match (left, right) {
            (Some(l), Some(r)) if l.name < r.name => (Some(l), None),
            (Some(l), Some(r)) if l.name > r.name => (None, Some(r)),
            both => both,
        };
        w += usize::from(left.is_some());
        g += usize::from(right.is_some());
        let same = matches!((left, right), (Some(l), Some(r)) if l.value == r.value);
        if !same {
            let text = |one: Option<_>| one.map_or(String::new(), entry_text);
            rows.push(Kind::Entry, text(left), text(right));
        }
    }
}

fn ids(tail: &Tail<'_>, ty: TypeByte) -> Ids {
    Ids {
        last: tail.last,
        // Type 15 does not have them.
        counters: (ty != TypeByte::StreamListpacks)
            .then_some((tail.entries_added, tail.max_deleted)),
        idmp: tail.idmp.map(|idmp| (idmp.duration_secs, idmp.max_size)),
    }
}

fn compare_ids(want: &Ids, got: &Ids, rows: &mut Rows) {
    if want.last != got.last {
        rows.push(Kind::LastId, want.last.to_string(), got.last.to_string());
    }
    if let (Some(want), Some(got)) = (want.counters, got.counters) {
        if want.0 != got.0 {
            rows.push(Kind::EntriesAdded, want.0.to_string(), got.0.to_string());
        }
        if want.1 != got.1 {
            rows.push(Kind::MaxDeletedId, want.1.to_string(), got.1.to_string());
        }
    }
    if let (Some(want), Some(got)) = (want.idmp, got.idmp)
        && want != got
    {
        let text = |(secs, size): (u64, u64)| format!("duration {secs} s, {size} records");
        rows.push(Kind::Idmp, text(want), text(got));
    }
}

/// A group of a file or a payload.
fn facts(group: &Group<'_>, ty: TypeByte, room: &mut Room) -> Result<(Vec<u8>, Facts)> {
    let mut digits = itoa::Buffer::new();
    let name = group
        .name
        .load(&mut room.one)?
        .as_bytes(&mut digits)
        .to_vec();
    let mut facts = Facts {
        last: group.last,
        read: (ty != TypeByte::StreamListpacks).then_some(group.entries_read),
        ..Facts::default()
    };
    let index = PendingIndex::new(group.pending)?;
    let mut own = |id: Id, owner: &[u8]| -> Result<()> {
        let (_, delivery) = index.find(id)?.ok_or_else(|| {
            let what = "consumer owns an entry that is not pending in its group";
            Error::new(ErrorKind::BadStream(what), group.start.at())
        })?;
        // No command sets a time before 1970.
        let time = delivery.time_ms.max(0);
        facts.pending.insert(
            id,
            Delivered {
                owner: owner.to_vec(),
                time_ms: (time, time),
                count: delivery.count,
            },
        );
        Ok(())
    };
    let mut consumers = BTreeSet::new();
    group.consumers.for_each(|consumer| {
        let mut digits = itoa::Buffer::new();
        let owner = consumer.name.load(&mut room.one)?;
        let owner = owner.as_bytes(&mut digits);
        consumers.insert(owner.to_vec());
        consumer.ids.iter().try_for_each(|id| own(id, owner))
    })?;
    group.nacked.iter().try_for_each(|id| own(id, b""))?;
    facts.consumers = consumers;
    Ok((name, facts))
}

fn group(name: &[u8], want: Option<&Facts>, got: Option<&Facts>, manner: Manner, rows: &mut Rows) {
    let name = show(name);
    let text = |facts: Option<&Facts>| {
        facts.map_or(String::new(), |facts| {
            format!("{name} last id {}", facts.last)
        })
    };
    let (Some(w), Some(g)) = (want, got) else {
        rows.push(Kind::Group, text(want), text(got));
        return;
    };
    if w.last != g.last {
        rows.push(Kind::Group, text(want), text(got));
    }
    if let (Some(a), Some(b)) = (w.read, g.read)
        && a != b
    {
        let text = |n: i64| format!("{name} entries read {n}");
        rows.push(Kind::Group, text(a), text(b));
    }
    for consumer in w.consumers.symmetric_difference(&g.consumers) {
        let text = format!("{name} {}", show(consumer));
        let wanted = w.consumers.contains(consumer);
        let is_idle = !w.pending.values().any(|one| one.owner == *consumer);
        if wanted && is_idle && !manner.keeps_idle_consumers {
            continue;
        }
        match wanted {
            true => rows.push(Kind::Consumer, text, String::new()),
            false => rows.push(Kind::Consumer, String::new(), text),
        }
    }
    let ids: BTreeSet<&Id> = w.pending.keys().chain(g.pending.keys()).collect();
    for id in ids {
        let (a, b) = (w.pending.get(id), g.pending.get(id));
        let same = a.zip(b).is_some_and(|(a, b)| {
            let same_time = a.time_ms.0 <= b.time_ms.1 && b.time_ms.0 <= a.time_ms.1;
            // What was released is waiting since it was, and nobody knows when that was.
            (&a.owner, a.count) == (&b.owner, b.count) && (same_time || a.owner.is_empty())
        });
        if !same {
            let text = |one: Option<&Delivered>, other: Option<&Delivered>| {
                one.map_or(String::new(), |one| {
                    let (owner, count) = (show(&one.owner), one.count);
                    let (low, high) = one.time_ms;
                    // Of a time that was read as an age, what was expected is as good as any other within.
                    let expected = other.map(|other| other.time_ms.0);
                    let at = expected
                        .filter(|at| (low..=high).contains(at))
                        .unwrap_or(low);
                    format!("{name} {id} of {owner} at {at}, {count} times")
                })
            };
            rows.push(Kind::Pending, text(a, None), text(b, a));
        }
    }
}

/// A large stream, whose destination can be asked by XRANGE and XINFO.
pub(super) struct Large<'r, 's, 'k> {
    pub(super) reach: &'r mut Reach<'s>,
    pub(super) db: u64,
    pub(super) key: &'k [u8],
    pub(super) manner: Manner,
    /// The destination's clock is ahead of ours by at least and at most so much.
    pub(super) ahead_ms: (i64, i64),
}

impl Large<'_, '_, '_> {
    pub(super) fn compare(
        &mut self,
        mut c: Cursor<'_>,
        ty: TypeByte,
        templates: &Templates,
        room: &mut Room,
        rows: &mut Rows,
    ) -> Result<()> {
        let nodes = Head::parse(&mut c, ty, templates)?.items;
        let (mut previous, mut boundary) = (None, Boundary::default());
        let mut want = Items::default();
        let mut from = Id::ZERO;
        for_each_entry(
            &mut c,
            nodes,
            &mut room.one,
            &mut previous,
            &mut boundary,
            |entry| {
                push_entry(&mut want, entry)?;
                if want.len() >= AT_ONCE || want.bytes() >= BYTES_AT_ONCE {
                    self.part(&mut want, &mut from, Some(entry.id), rows)?;
                }
                Ok(())
            },
        )?;
        self.part(&mut want, &mut from, None, rows)?;
        let tail = Tail::parse(&mut c, ty)?;
        let (got, names) = self.info()?;
        compare_ids(&ids(&tail, ty), &got, rows);
        let mut known = BTreeSet::new();
        tail.groups.for_each(|one| {
            let (name, want) = facts(&one, ty, room)?;
            let got = match names.iter().find(|(other, _, _)| *other == name) {
                Some((_, last, read)) => Some(self.group(&name, *last, *read)?),
                None => None,
            };
            group(&name, Some(&want), got.as_ref(), self.manner, rows);
            known.insert(name);
            Ok(())
        })?;
        for (name, last, read) in names {
            if !known.contains(&name) {
                let got = Facts {
                    last,
                    read,
                    ..Facts::default()
                };
                group(&name, None, Some(&got), self.manner, rows);
            }
        }
        Ok(())
    }

    /// Compares the entries from `from` up to an id, or to the end.
    fn part(
        &mut self,
        want: &mut Items,
        from: &mut Id,
        to: Option<Id>,
        rows: &mut Rows,
    ) -> Result<()> {
        let mut got = Items::default();
        let (start, end) = (
            from.to_string(),
            to.map_or("+".to_owned(), |id| id.to_string()),
        );
        // A few more than there should be, to name them.
        let count = (want.len() + 16).to_string();
        let reply = self.reach.one(
            self.db,
            self.key,
            &[
                b"XRANGE",
                self.key,
                start.as_bytes(),
                end.as_bytes(),
                b"COUNT",
                count.as_bytes(),
            ],
        )?;
        let list = self.list("XRANGE", &reply)?;
        for entry in list {
            let parts = entry.array().unwrap_or_default();
            let (Some(id), Some(elements)) = (
                parts.first().and_then(reply_id),
                parts.get(1).and_then(Reply::array),
            ) else {
                return Err(super::odd_answer(&self.reach.name(), "XRANGE", &reply));
            };
            let mut fields = Vec::new();
            for element in elements {
                let bytes = element.bytes().unwrap_or_default();
                write_length(&mut fields, bytes.len() as u64);
                fields.extend_from_slice(bytes);
            }
            push(&mut got, id, &fields);
        }
        entries(want, &got, rows);
        if let Some(to) = to {
            *from = Id {
                ms: to.ms,
                seq: to.seq.wrapping_add(1),
            };
            if to.seq == u64::MAX {
                from.ms = to.ms.saturating_add(1);
            }
        }
        want.clear();
        Ok(())
    }

    fn list<'a>(&self, command: &str, reply: &'a Reply) -> Result<&'a [Reply]> {
        reply
            .array()
            .ok_or_else(|| super::odd_answer(&self.reach.name(), command, reply))
    }

    /// Ids and counters, and the groups by name with their last id and the number of entries they have read.
    #[allow(clippy::type_complexity)] // three words about a group, once
    fn info(&mut self) -> Result<(Ids, Vec<(Vec<u8>, Id, Option<i64>)>)> {
        let (db, key) = (self.db, self.key);
        let reply = self.reach.one(db, key, &[b"XINFO", b"STREAM", key])?;
        let fields = self.list("XINFO STREAM", &reply)?;
        let mut ids = Ids {
            last: field(fields, "last-generated-id")
                .and_then(reply_id)
                .unwrap_or_default(),
            ..Ids::default()
        };
        let number = |name: &str| {
            field(fields, name)
                .and_then(Reply::int)
                .and_then(|n| u64::try_from(n).ok())
        };
        ids.counters =
            number("entries-added").zip(field(fields, "max-deleted-entry-id").and_then(reply_id));
        ids.idmp = number("idmp-duration").zip(number("idmp-maxsize"));
        let reply = self.reach.one(db, key, &[b"XINFO", b"GROUPS", key])?;
        let mut groups = Vec::new();
        for one in self.list("XINFO GROUPS", &reply)? {
            let fields = one.array().unwrap_or_default();
            let name = field(fields, "name").and_then(Reply::bytes);
            let last = field(fields, "last-delivered-id").and_then(reply_id);
            let read = field(fields, "entries-read").map(|n| n.int().unwrap_or(-1));
            if let Some((name, last)) = name.zip(last) {
                groups.push((name.to_vec(), last, read));
            }
        }
        Ok((ids, groups))
    }

    fn group(&mut self, name: &[u8], last: Id, read: Option<i64>) -> Result<Facts> {
        let (db, key) = (self.db, self.key);
        let mut facts = Facts {
            last,
            read,
            ..Facts::default()
        };
        let reply = self
            .reach
            .one(db, key, &[b"XINFO", b"CONSUMERS", key, name])?;
        for one in self.list("XINFO CONSUMERS", &reply)? {
            let fields = one.array().unwrap_or_default();
            if let Some(name) = field(fields, "name").and_then(Reply::bytes) {
                facts.consumers.insert(name.to_vec());
            }
        }
        let count = AT_ONCE.to_string();
        let mut from = Id::ZERO;
        loop {
            let (start, began) = (from.to_string(), now_ms());
            let reply = self.reach.one(
                db,
                key,
                &[
                    b"XPENDING",
                    key,
                    name,
                    start.as_bytes(),
                    b"+",
                    count.as_bytes(),
                ],
            )?;
            let ended = now_ms();
            let list = self.list("XPENDING", &reply)?;
            for one in list {
                let parts = one.array().unwrap_or_default();
                let [id, owner, idle, deliveries] = parts else {
                    return Err(super::odd_answer(&self.reach.name(), "XPENDING", &reply));
                };
                let id = reply_id(id).unwrap_or_default();
                let idle = idle.int().unwrap_or_default();
                facts.pending.insert(
                    id,
                    Delivered {
                        owner: owner.bytes().unwrap_or_default().to_vec(),
                        time_ms: (
                            began + self.ahead_ms.0 - idle,
                            ended + self.ahead_ms.1 - idle,
                        ),
                        count: deliveries.int().unwrap_or_default() as u64,
                    },
                );
                from = Id {
                    ms: id.ms,
                    seq: id.seq.saturating_add(1),
                };
            }
            if list.len() < AT_ONCE {
                return Ok(facts);
            }
        }
    }
}

/// The value behind a name in a list of both.
fn field<'a>(fields: &'a [Reply], name: &str) -> Option<&'a Reply> {
    fields
        .chunks_exact(2)
        .find(|pair| pair[0].bytes() == Some(name.as_bytes()))
        .map(|pair| &pair[1])
}

fn reply_id(reply: &Reply) -> Option<Id> {
    let (ms, seq) = reply.text()?.split_once('-')?;
    Some(Id {
        ms: ms.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}
