//! Values of a snapshot or of a payload → memory, by the decoders that everything else uses.

use super::stream::{Group, Idmp, Pending, Stream};
use super::value::{Array, Bytes, Field, Hash, List, Set, Value, Zset};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::string;
use crate::error::Result;
use crate::value::array::{double_text, for_each as for_each_element};
use crate::value::hash::Source;
use crate::value::stream::{Tail, for_each_entry};
use crate::value::{Head, Kind, Room, Templates, TypeByte, hash, list, set, skip, zset};

fn owned(element: Element<'_>) -> Bytes {
    element.as_bytes(&mut itoa::Buffer::new()).into()
}

/// Reads the value at `c`.
pub(super) fn value(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    templates: &Templates,
    room: &mut Room,
) -> Result<Value> {
    let file = *c;
    match ty.kind() {
        Kind::String => {
            let text = string(c)?.load(&mut room.one)?;
            return Ok(Value::String(owned(text).into()));
        }
        Kind::Module | Kind::Gcra | Kind::PathHash => {
            let start = c.pos();
            skip(c, ty, templates, &mut Vec::new())?;
            let raw = c.slice(start, c.pos()).into();
            return Ok(Value::Opaque { ty, raw });
        }
        Kind::List | Kind::Set | Kind::Zset | Kind::Hash | Kind::Stream | Kind::Array => {}
    }
    let head = Head::parse(c, ty, templates)?;
    let mut boundary = Boundary::default();
    let items = head.items;
    Ok(match ty.kind() {
        Kind::List => {
            let mut all = List::new();
            list::for_each(c, ty, items, room, &mut boundary, |element| {
                all.push_back(owned(element));
                Ok(())
            })?;
            Value::List(all)
        }
        Kind::Set => {
            let mut all = Set::default();
            set::for_each(c, ty, items, room, &mut boundary, |member| {
                all.insert(owned(member));
                Ok(())
            })?;
            Value::Set(all)
        }
        Kind::Zset => {
            let mut all = Zset::default();
            zset::for_each(c, ty, items, room, &mut boundary, |member, score| {
                let member = member.as_bytes(&mut itoa::Buffer::new()).into();
                all.load(member, score.value());
                Ok(())
            })?;
            Value::Zset(all)
        }
        Kind::Hash => {
            let source = Source {
                file,
                templates,
                head,
            };
            let mut all = Hash::default();
            hash::for_each(
                c,
                ty,
                items,
                source,
                room,
                &mut boundary,
                |field, value, expire_at_ms| {
                    let field = owned(field);
                    let value = owned(value);
                    all.insert(
                        field,
                        Field {
                            value,
                            expire_at_ms,
                        },
                    );
                    Ok(())
                },
            )?;
            Value::Hash(all)
        }
        Kind::Array => {
            let mut all = Array {
                cursor: head.cursor,
                ..Array::default()
            };
            for_each_element(c, items, &mut room.one, |index, element| {
                let text = match element {
                    crate::value::array::Value::Element(element) => owned(element),
                    crate::value::array::Value::Double(number) => {
                        double_text(number).into_bytes().into()
                    }
                };
                all.items.insert(index, text);
                Ok(())
            })?;
            Value::Array(all)
        }
        Kind::Stream => Value::Stream(Box::new(stream(c, ty, items, room)?)),
        Kind::String | Kind::Module | Kind::Gcra | Kind::PathHash => {
            unreachable!("these were read above")
        }
    })
}

fn stream(c: &mut Cursor<'_>, ty: TypeByte, nodes: u64, room: &mut Room) -> Result<Stream> {
    let mut stream = Stream::default();
    for_each_entry(
        c,
        nodes,
        &mut room.one,
        &mut None,
        &mut Boundary::default(),
        |entry| {
            let mut fields = Vec::new();
            entry.for_each(|field, value| {
                fields.push(owned(field));
                fields.push(owned(value));
                Ok(())
            })?;
            stream.entries.insert(entry.id, fields);
            Ok(())
        },
    )?;
    let tail = Tail::parse(c, ty)?;
    stream.last = tail.last;
    stream.max_deleted = tail.max_deleted;
    stream.entries_added = tail.entries_added;
    tail.groups.for_each(|from| {
        let mut group = Group {
            last: from.last,
            entries_read: from.entries_read,
            ..Group::default()
        };
        let mut pending = from.pending.walk();
        while let Some(delivery) = pending.next()? {
            group.pending.insert(
                delivery.id,
                Pending {
                    consumer: None,
                    time_ms: delivery.time_ms,
                    count: delivery.count,
                },
            );
        }
        from.consumers.for_each(|consumer| {
            let name = owned(consumer.name.load(&mut room.one)?);
            for id in consumer.ids.iter() {
                if let Some(pending) = group.pending.get_mut(&id) {
                    pending.consumer = Some(name.clone());
                }
            }
            group.consumers.insert(name);
            Ok(())
        })?;
        group.released = from.nacked.iter().collect();
        let name = owned(from.name.load(&mut room.one)?);
        stream.groups.insert(name, group);
        Ok(())
    })?;
    if let Some(from) = tail.idmp {
        let mut idmp = Idmp {
            duration_secs: from.duration_secs,
            max_size: from.max_size,
            ..Idmp::default()
        };
        from.for_each(room, |producer, record, id| {
            let (producer, record) = (owned(producer), owned(record));
            match idmp.producers.last_mut() {
                Some((last, records)) if *last == producer => records.push((record, id)),
                _ => idmp.producers.push((producer, vec![(record, id)])),
            }
            Ok(())
        })?;
        idmp.duplicates = from.duplicates;
        idmp.added = from.records;
        stream.idmp = Some(idmp);
    }
    Ok(stream)
}

/// Whether a value has no elements: servers leave such keys out.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::List(list) => list.is_empty(),
        Value::Set(set) => set.is_empty(),
        Value::Zset(zset) => zset.is_empty(),
        Value::Hash(hash) => hash.is_empty(),
        Value::Array(array) => array.is_empty(),
        Value::String(_) | Value::Stream(_) | Value::Opaque { .. } => false,
    }
}
