//! A stream from its lines.

use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Wrong;
use super::body::Body;
use super::line::{IdText, Int, Text, for_each, whole};
use crate::input::Spool;
use crate::rdb::Attributes;
use crate::rdb::values::{Counters, Nodes};
use crate::rdb::write::Writer;
use crate::value::TypeByte;
use crate::value::stream::{Delivery, Id};

/// A larger entry no server holds: a node's bytes are counted in 30 bits.
const MOST_ENTRY: u64 = 1 << 30;

/// What a line has of a stream.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value<'a> {
    #[serde(borrow)]
    entries: Option<&'a RawValue>,
    length: Option<Int>,
    last_id: Option<IdText>,
    max_deleted_id: Option<IdText>,
    entries_added: Option<Int>,
    #[serde(borrow)]
    groups: Option<&'a RawValue>,
    #[serde(borrow)]
    idmp: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupValue<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    last_delivered_id: Option<IdText>,
    entries_read: Option<Int>,
    #[serde(borrow)]
    consumers: Option<&'a RawValue>,
    #[serde(borrow)]
    released: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsumerValue<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    seen_time_ms: Option<Int>,
    active_time_ms: Option<Int>,
    #[serde(borrow)]
    pending: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdmpValue<'a> {
    duration_secs: Option<Int>,
    max_size: Option<Int>,
    added: Option<Int>,
    duplicates: Option<Int>,
    #[serde(borrow)]
    producers: Option<&'a RawValue>,
}

/// What came of a stream so far.
pub(super) struct Stream {
    nodes: Nodes<Body>,
    tail: Option<Tail>,
    groups: Vec<Group>,
    idmp: Option<Idmp>,
}

struct Tail {
    length: u64,
    last: Id,
    /// Highest deleted id and entries added, where they are known.
    counters: Option<(Id, u64)>,
}

struct Group {
    name: Vec<u8>,
    last: Id,
    entries_read: i64,
    pending: Vec<Delivery>,
    consumers: Vec<Consumer>,
    released: Vec<Id>,
}

struct Consumer {
    name: Vec<u8>,
    seen_time_ms: i64,
    active_time_ms: Option<i64>,
    ids: Vec<Id>,
}

#[derive(Default)]
struct Idmp {
    duration_secs: u64,
    max_size: u64,
    added: u64,
    duplicates: u64,
    producers: Vec<Producer>,
}

struct Producer {
    name: Vec<u8>,
    records: Vec<(Vec<u8>, Id)>,
}

impl Stream {
    pub fn new(version: u16) -> Stream {
        // Redis 8.8, the first to write listpacks so, writes version 14.
        let short_boundary = (14..80).contains(&version);
        Stream {
            nodes: Nodes::new(Body::default(), short_boundary),
            tail: None,
            groups: Vec::new(),
            idmp: None,
        }
    }

    /// Takes what a line has.
    pub fn read(&mut self, value: &RawValue) -> Result<(), Wrong> {
        let value: Value<'_> = whole(value)?;
        if let Some(entries) = value.entries {
            if self.tail.is_some() {
                return Err(Wrong::what("entries: stand behind what follows them"));
            }
            for_each(entries, |(id, fields): (IdText, &RawValue)| {
                self.entry(id.0, fields)
            })
            .map_err(|wrong| wrong.in_field("entries"))?;
        }
        if let Some(last) = value.last_id {
            let length = value.length.ok_or_else(|| super::missing("length"))?;
            let counters = match (value.max_deleted_id, value.entries_added) {
                (Some(deleted), Some(added)) => Some((deleted.0, added.of("entries_added")?)),
                (None, None) => None,
                _ => {
                    return Err(Wrong::what(
                        "max_deleted_id and entries_added belong together",
                    ));
                }
            };
            let tail = Tail {
                length: length.of("length")?,
                last: last.0,
                counters,
            };
            if self.tail.replace(tail).is_some() {
                return Err(Wrong::what("last_id: stands in two lines"));
            }
        }
        if self.tail.is_none() && (value.groups.is_some() || value.idmp.is_some()) {
            return Err(super::missing("last_id"));
        }
        if let Some(groups) = value.groups {
            for_each(groups, |group| self.group(&group))
                .map_err(|wrong| wrong.in_field("groups"))?;
        }
        if let Some(idmp) = value.idmp {
            self.idmp(&whole(idmp)?)
                .map_err(|wrong| wrong.in_field("idmp"))?;
        }
        Ok(())
    }

    fn entry(&mut self, id: Id, fields: &RawValue) -> Result<(), Wrong> {
        if self.nodes.last.is_some_and(|last| last >= id) {
            return Err(Wrong::What(format!("{id} is out of order")));
        }
        let mut bytes = 0;
        for_each(fields, |(field, value): (Text<'_>, Text<'_>)| {
            bytes += field.len()? + value.len()?;
            if bytes > MOST_ENTRY {
                return Err(Wrong::What(format!(
                    "{id} has more than {MOST_ENTRY} bytes"
                )));
            }
            self.nodes.field(&field.bytes()?, &value.bytes()?);
            Ok(())
        })?;
        Ok(self.nodes.entry(id)?)
    }

    fn group(&mut self, value: &GroupValue<'_>) -> Result<(), Wrong> {
        let name = value.name.bytes()?;
        // A group goes on in the next line under the same name.
        if self.groups.last().is_none_or(|group| group.name != *name) {
            self.groups.push(Group {
                name: name.into_owned(),
                last: value
                    .last_delivered_id
                    .ok_or_else(|| super::missing("last_delivered_id"))?
                    .0,
                entries_read: value
                    .entries_read
                    .map_or(Ok(-1), |n| n.of("entries_read"))?,
                pending: Vec::new(),
                consumers: Vec::new(),
                released: Vec::new(),
            });
        } else if value.last_delivered_id.is_some() {
            return Err(Wrong::what("two groups have one name"));
        }
        let group = self.groups.last_mut().expect("it was pushed above");
        if let Some(consumers) = value.consumers {
            for_each(consumers, |consumer| group.consumer(&consumer))
                .map_err(|wrong| wrong.in_field("consumers"))?;
        }
        if let Some(released) = value.released {
            for_each(released, |pending| {
                let delivery = delivery(pending)?;
                group.released.push(delivery.id);
                group.pending.push(delivery);
                Ok(())
            })
            .map_err(|wrong| wrong.in_field("released"))?;
        }
        Ok(())
    }

    fn idmp(&mut self, value: &IdmpValue<'_>) -> Result<(), Wrong> {
        if let Some(duration) = value.duration_secs {
            let number = |n: Option<Int>, field: &str| {
                n.ok_or_else(|| super::missing(field))?.of::<u64>(field)
            };
            let idmp = Idmp {
                duration_secs: duration.of("duration_secs")?,
                max_size: number(value.max_size, "max_size")?,
                added: number(value.added, "added")?,
                duplicates: number(value.duplicates, "duplicates")?,
                producers: Vec::new(),
            };
            if self.idmp.replace(idmp).is_some() {
                return Err(Wrong::what("stands in two lines"));
            }
        }
        let idmp = self
            .idmp
            .as_mut()
            .ok_or_else(|| super::missing("duration_secs"))?;
        let Some(producers) = value.producers else {
            return Ok(());
        };
        for_each(producers, |(name, records): (Text<'_>, &RawValue)| {
            let name = name.bytes()?;
            if idmp.producers.last().is_none_or(|last| last.name != *name) {
                idmp.producers.push(Producer {
                    name: name.into_owned(),
                    records: Vec::new(),
                });
            }
            let producer = idmp.producers.last_mut().expect("it was pushed above");
            for_each(records, |(record, id): (Text<'_>, IdText)| {
                producer.records.push((record.bytes()?.into_owned(), id.0));
                Ok(())
            })
        })
    }

    /// Writes it, with its key.
    pub fn write(
        mut self,
        out: &mut Writer<Spool>,
        attributes: &Attributes,
        key: &[u8],
    ) -> Result<(), Wrong> {
        let tail = self.tail.take().ok_or_else(|| super::missing("last_id"))?;
        let entries = self.nodes.length;
        if tail.length != entries {
            return Err(Wrong::What(format!(
                "length: {} entries were to come, and {entries} did",
                tail.length
            )));
        }
        if self.nodes.last.unwrap_or(Id::ZERO) > tail.last {
            return Err(Wrong::what("last_id: is less than that of the last entry"));
        }
        for group in &mut self.groups {
            group.pending.sort_unstable_by_key(|delivery| delivery.id);
            if group.pending.windows(2).any(|two| two[0].id == two[1].id) {
                return Err(Wrong::what("groups: an entry is pending twice"));
            }
        }
        let ty = self.type_byte(&tail);
        out.key(attributes, ty.byte(), key)?;
        let body = self.nodes.finish()?;
        let packed = std::mem::take(body);
        out.length(self.nodes.nodes)?;
        let mut packed = packed;
        packed.with(|bytes| out.raw(bytes))??;
        let (max_deleted, entries_added) = tail.counters.unwrap_or((Id::ZERO, tail.length));
        let counters = Counters {
            length: entries,
            first: self.nodes.first.unwrap_or(Id::ZERO),
            last: tail.last,
            max_deleted,
            entries_added,
            groups: self.groups.len() as u64,
        };
        out.stream_counters(ty, &counters)?;
        for group in &self.groups {
            group.write(ty, out)?;
        }
        if let Some(idmp) = &self.idmp {
            idmp.write(out)?;
        }
        Ok(())
    }

    /// The oldest type that holds all of it: older servers take it.
    fn type_byte(&self, tail: &Tail) -> TypeByte {
        let groups = &self.groups;
        let mut consumers = groups.iter().flat_map(|group| &group.consumers);
        if groups.iter().any(|group| !group.released.is_empty()) {
            TypeByte::StreamListpacks5
        } else if self.idmp.is_some() {
            TypeByte::StreamListpacks4
        } else if tail.counters.is_none() {
            TypeByte::StreamListpacks
        } else if consumers.all(|consumer| consumer.active_time_ms.is_none()) {
            TypeByte::StreamListpacks2
        } else {
            TypeByte::StreamListpacks3
        }
    }
}

impl Group {
    fn consumer(&mut self, value: &ConsumerValue<'_>) -> Result<(), Wrong> {
        let name = value.name.bytes()?;
        if self.consumers.last().is_none_or(|last| last.name != *name) {
            self.consumers.push(Consumer {
                name: name.into_owned(),
                seen_time_ms: value
                    .seen_time_ms
                    .ok_or_else(|| super::missing("seen_time_ms"))?
                    .of("seen_time_ms")?,
                active_time_ms: value
                    .active_time_ms
                    .map(|at| at.of("active_time_ms"))
                    .transpose()?,
                ids: Vec::new(),
            });
        } else if value.seen_time_ms.is_some() {
            return Err(Wrong::what("two consumers have one name"));
        }
        let consumer = self.consumers.last_mut().expect("it was pushed above");
        let pending = &mut self.pending;
        let Some(listed) = value.pending else {
            return Ok(());
        };
        for_each(listed, |one| {
            let delivery = delivery(one)?;
            consumer.ids.push(delivery.id);
            pending.push(delivery);
            Ok(())
        })
        .map_err(|wrong| wrong.in_field("pending"))
    }

    fn write(&self, ty: TypeByte, out: &mut Writer<Spool>) -> io::Result<()> {
        let pending = self.pending.len() as u64;
        out.group(ty, &self.name, self.last, self.entries_read, pending)?;
        for delivery in &self.pending {
            out.delivery(delivery)?;
        }
        out.length(self.consumers.len() as u64)?;
        for consumer in &self.consumers {
            let (seen, active) = (consumer.seen_time_ms, consumer.active_time_ms);
            let owned = consumer.ids.len() as u64;
            out.consumer(ty, &consumer.name, seen, active.unwrap_or(seen), owned)?;
            for id in &consumer.ids {
                out.id(*id)?;
            }
        }
        if ty == TypeByte::StreamListpacks5 {
            out.length(self.released.len() as u64)?;
            for id in &self.released {
                out.id(*id)?;
            }
        }
        Ok(())
    }
}

impl Idmp {
    fn write(&self, out: &mut Writer<Spool>) -> io::Result<()> {
        let producers = self.producers.len() as u64;
        out.idmp(self.duration_secs, self.max_size, producers)?;
        for producer in &self.producers {
            out.string(&producer.name)?;
            out.length(producer.records.len() as u64)?;
            for (record, id) in &producer.records {
                out.idmp_record(record, *id)?;
            }
        }
        out.length(self.added)?;
        out.length(self.duplicates)
    }
}

fn delivery((id, time_ms, count): (IdText, Int, Int)) -> Result<Delivery, Wrong> {
    Ok(Delivery {
        id: id.0,
        time_ms: time_ms.of("a delivery's time")?,
        count: count.of("a delivery's count")?,
    })
}
