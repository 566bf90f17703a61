//! Values in memory → the snapshot that is made of them.

use std::io::{self, Write};

use super::keyspace::Entry;
use super::stream::Stream;
use super::value::{Array, Bytes, Hash, Map, Value};
use crate::encoding::Element;
use crate::encoding::listpack::canonical_int;
use crate::rdb::values::{Counters, Nodes};
use crate::rdb::write::Writer;
use crate::rdb::{Attributes, opcode};
use crate::value::TypeByte;
use crate::value::stream::{Delivery, Id};

/// RDB versions from which on streams are written in a newer type.
const RDB_7_0: u16 = 10;
const RDB_7_2: u16 = 11;
const RDB_8_6: u16 = 13;
const RDB_8_8: u16 = 14;
/// From here on it is Valkey's numbering.
const VALKEY: u16 = 80;

/// Writes a key. Errors beside those of the file: the value is one that no snapshot of this version can hold.
pub(super) fn key<W: Write>(
    writer: &mut Writer<W>,
    version: u16,
    name: &[u8],
    entry: &Entry,
) -> io::Result<()> {
    if let Some(at) = entry.expire_at_ms {
        writer.raw(&[opcode::EXPIRETIME_MS])?;
        writer.raw(&at.to_le_bytes())?;
    }
    // Servers take nothing between these and the type.
    if let Some(meta) = &entry.meta {
        writer.raw(meta)?;
    }
    let ty = type_of(&entry.value, version);
    writer.key(&Attributes::default(), ty.byte(), name)?;
    match &entry.value {
        Value::String(text) => writer.string(text),
        Value::List(list) => {
            writer.length(list.len() as u64)?;
            list.iter().try_for_each(|element| writer.string(element))
        }
        Value::Set(set) => {
            writer.length(set.len() as u64)?;
            set.iter().try_for_each(|member| writer.string(member))
        }
        Value::Zset(zset) => {
            writer.length(zset.len() as u64)?;
            zset.iter()
                .try_for_each(|(member, score)| writer.member(member, score))
        }
        Value::Hash(hash) => write_hash(writer, ty, hash),
        Value::Stream(stream) => write_stream(writer, ty, stream),
        Value::Array(array) => write_array(writer, array),
        Value::Opaque { raw, .. } => writer.raw(raw),
    }
}

fn type_of(value: &Value, version: u16) -> TypeByte {
    match value {
        Value::String(_) => TypeByte::String,
        Value::List(_) => TypeByte::List,
        Value::Set(_) => TypeByte::Set,
        Value::Zset(_) => TypeByte::Zset2,
        Value::Hash(hash) if hash.values().all(|field| field.expire_at_ms.is_none()) => {
            TypeByte::Hash
        }
        Value::Hash(_) if version >= VALKEY => TypeByte::Hash2,
        Value::Hash(_) => TypeByte::HashMetadata,
        Value::Stream(_) => match version {
            VALKEY.. | RDB_7_2..RDB_8_6 => TypeByte::StreamListpacks3,
            RDB_8_8.. => TypeByte::StreamListpacks5,
            RDB_8_6.. => TypeByte::StreamListpacks4,
            RDB_7_0.. => TypeByte::StreamListpacks2,
            _ => TypeByte::StreamListpacks,
        },
        Value::Array(_) => TypeByte::Array,
        Value::Opaque { ty, .. } => *ty,
    }
}

/// Why a snapshot of this version cannot hold the value, if it cannot. Only inputs of different servers in one come to
/// that.
pub(super) fn misfit(entry: &Entry, version: u16) -> Option<&'static str> {
    let valkey = version >= VALKEY;
    match &entry.value {
        Value::Array(_) if valkey => Some("it is an array, which Valkey does not have"),
        Value::Opaque {
            ty: TypeByte::PathHash,
            ..
        } if !valkey => Some("it is a path hash, which Redis does not have"),
        Value::Opaque {
            ty: TypeByte::Gcra, ..
        } if valkey => Some("it is a rate limiter, which Valkey does not have"),
        Value::Stream(stream)
            if valkey && stream.groups.values().any(|g| !g.released.is_empty()) =>
        {
            Some("entries of it were released by XNACK, which Valkey does not have")
        }
        _ if valkey && entry.meta.is_some() => {
            Some("it carries metadata of a module, which Valkey does not have")
        }
        _ => None,
    }
}

fn write_hash<W: Write>(writer: &mut Writer<W>, ty: TypeByte, hash: &Hash) -> io::Result<()> {
    if ty == TypeByte::HashMetadata {
        let expiries = hash.values().filter_map(|field| field.expire_at_ms);
        let least = expiries.min().unwrap_or(0);
        writer.expiring_head(least, hash.len() as u64)?;
        return hash.iter().try_for_each(|(name, field)| {
            writer.expiring_field(least, field.expire_at_ms, name, &field.value)
        });
    }
    writer.length(hash.len() as u64)?;
    for (name, field) in hash {
        writer.string(name)?;
        writer.string(&field.value)?;
        if ty == TypeByte::Hash2 {
            writer.raw(&field.expire_at_ms.unwrap_or(-1).to_le_bytes())?;
        }
    }
    Ok(())
}

fn write_array<W: Write>(writer: &mut Writer<W>, array: &Array) -> io::Result<()> {
    use crate::value::array::Value::Element as Text;
    writer.array_head(array.items.len() as u64, array.cursor)?;
    for (index, text) in &array.items {
        let element = match canonical_int(text) {
            Some(n) => Element::Int(n),
            None => Element::Bytes(text),
        };
        writer.array_element(*index, Text(element))?;
    }
    Ok(())
}

fn write_stream<W: Write>(writer: &mut Writer<W>, ty: TypeByte, stream: &Stream) -> io::Result<()> {
    // Redis 8.8 and later pack some sizes in another way; their own type of stream is younger than that.
    let mut nodes = Nodes::new(Vec::new(), ty == TypeByte::StreamListpacks5);
    for (id, fields) in &stream.entries {
        for pair in fields.chunks_exact(2) {
            nodes.field(&pair[0], &pair[1]);
        }
        nodes.entry(*id)?;
    }
    nodes.finish()?;
    writer.length(nodes.nodes)?;
    writer.raw(nodes.finish()?)?;
    writer.stream_counters(
        ty,
        &Counters {
            length: stream.entries.len() as u64,
            first: stream.first(),
            last: stream.last,
            max_deleted: stream.max_deleted,
            entries_added: stream.entries_added,
            groups: stream.groups.len() as u64,
        },
    )?;
    for (name, group) in &stream.groups {
        let pending = &group.pending;
        writer.group(
            ty,
            name,
            group.last,
            group.entries_read,
            pending.len() as u64,
        )?;
        for (id, one) in pending {
            writer.delivery(&Delivery {
                id: *id,
                time_ms: one.time_ms,
                count: one.count,
            })?;
        }
        writer.length(group.consumers.len() as u64)?;
        let mut owners: Map<&Bytes, Vec<(Id, i64)>> = Map::default();
        for (id, one) in pending {
            if let Some(consumer) = &one.consumer {
                owners.entry(consumer).or_default().push((*id, one.time_ms));
            }
        }
        for name in &group.consumers {
            let own = owners.remove(name).unwrap_or_default();
            // No command says when a consumer was seen. What it was given last is the best that is known.
            let active = own.iter().map(|(_, time_ms)| *time_ms).max();
            writer.consumer(
                ty,
                name,
                active.unwrap_or(0),
                active.unwrap_or(-1),
                own.len() as u64,
            )?;
            own.into_iter().try_for_each(|(id, _)| writer.id(id))?;
        }
        if ty == TypeByte::StreamListpacks5 {
            writer.length(group.released.len() as u64)?;
            group.released.iter().try_for_each(|id| writer.id(*id))?;
        }
    }
    if matches!(ty, TypeByte::StreamListpacks4 | TypeByte::StreamListpacks5) {
        let none = super::stream::Idmp::default();
        let idmp = stream.idmp.as_ref().unwrap_or(&none);
        writer.idmp(
            idmp.duration_secs,
            idmp.max_size,
            idmp.producers.len() as u64,
        )?;
        for (producer, records) in &idmp.producers {
            writer.string(producer)?;
            writer.length(records.len() as u64)?;
            for (record, id) in records {
                writer.idmp_record(record, *id)?;
            }
        }
        writer.length(idmp.added)?;
        writer.length(idmp.duplicates)?;
    }
    Ok(())
}
