//! How large a value is: its elements, and what Redis 7.0 with its default settings holds for it once it is loaded.
//!
//! Plain forms are walked by lengths alone, nothing is unpacked; of packed ones the head says it. Where 7.0 turns one
//! form into another while it loads, the other one is measured.

use super::memory::{self, Filling, OBJECT, allocated, buckets, listpack_entry, sds};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::intset::Intset;
use crate::encoding::length::length;
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{Str, blob, skip_string, string};
use crate::encoding::ziplist::Ziplist;
use crate::error::Result;
use crate::value::hash::Source;
use crate::value::stream::{Tail, for_each_entry};
use crate::value::{Head, Kind, Room, Templates, TypeByte, array, hash, list, set, zset};

/// How a value stands in memory, by the names of OBJECT ENCODING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// An integer in place of the text.
    Int,
    /// A short string in one allocation with its object.
    Embstr,
    /// A string of its own; also what servers call values of modules.
    Raw,
    /// All elements in one listpack.
    Listpack,
    /// A list of listpacks.
    Quicklist,
    /// Sorted integers.
    Intset,
    /// A hash table.
    Hashtable,
    /// A skip list with a hash table.
    Skiplist,
    /// A stream.
    Stream,
    /// An array of Redis 8.8, which 7.0 does not have.
    SlicedArray,
    /// A value that cannot be read.
    Unreadable,
}

impl Encoding {
    /// All, in the order of their numbers.
    pub const ALL: [Encoding; 11] = [
        Encoding::Int,
        Encoding::Embstr,
        Encoding::Raw,
        Encoding::Listpack,
        Encoding::Quicklist,
        Encoding::Intset,
        Encoding::Hashtable,
        Encoding::Skiplist,
        Encoding::Stream,
        Encoding::SlicedArray,
        Encoding::Unreadable,
    ];

    /// As OBJECT ENCODING names it.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Int => "int",
            Encoding::Embstr => "embstr",
            Encoding::Raw => "raw",
            Encoding::Listpack => "listpack",
            Encoding::Quicklist => "quicklist",
            Encoding::Intset => "intset",
            Encoding::Hashtable => "hashtable",
            Encoding::Skiplist => "skiplist",
            Encoding::Stream => "stream",
            Encoding::SlicedArray => "sliced-array",
            Encoding::Unreadable => "unreadable",
        }
    }
}

/// What a value is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// How it stands in memory.
    pub encoding: Encoding,
    /// Elements, members, fields or entries; a string is one.
    pub elements: u64,
    /// Bytes of its object and all that belongs to it, without the key.
    pub memory: u64,
}

impl Measure {
    fn new(encoding: Encoding, elements: u64, memory: u64) -> Measure {
        Measure {
            encoding,
            elements,
            memory,
        }
    }
}

/// Measures a value. Errors are the encodings' own.
pub fn measure(
    value: Cursor<'_>,
    end: usize,
    ty: TypeByte,
    templates: &Templates,
    room: &mut Room,
) -> Result<Measure> {
    let mut c = value;
    if ty == TypeByte::String {
        let (len, integer) = parts(string(&mut c)?);
        return Ok(Measure::new(
            string_encoding(len, integer),
            1,
            memory::string(len, integer),
        ));
    }
    let head = Head::parse(&mut c, ty, templates)?;
    match ty.kind() {
        Kind::String => unreachable!("strings are answered above"),
        Kind::List => a_list(&mut c, ty, head.items, room),
        Kind::Set => a_set(&mut c, ty, head.items, room),
        Kind::Zset => a_zset(&mut c, ty, head.items, room),
        Kind::Hash => {
            let source = Source {
                file: value,
                templates,
                head,
            };
            a_hash(&mut c, ty, source, room)
        }
        Kind::Stream => a_stream(&mut c, ty, head.items),
        // What 7.0 has no form for is taken to be as large as in the file.
        Kind::Array => {
            let bytes = OBJECT + allocated((end - value.pos()) as u64);
            Ok(Measure::new(Encoding::SlicedArray, head.items, bytes))
        }
        Kind::Module | Kind::Gcra | Kind::PathHash => {
            let bytes = OBJECT + allocated((end - value.pos()) as u64);
            let mut elements = 1;
            if ty.kind() == Kind::PathHash {
                elements = 0;
                for _ in 0..head.items {
                    skip_string(&mut c)?;
                    for _ in 0..length(&mut c)? {
                        skip_string(&mut c)?;
                        skip_string(&mut c)?;
                        elements += 1;
                    }
                }
            }
            Ok(Measure::new(Encoding::Raw, elements, bytes))
        }
    }
}

/// Bytes of the largest element: text of a string, element, member, field with its value, entry with all its fields.
pub fn largest_element(
    value: Cursor<'_>,
    end: usize,
    ty: TypeByte,
    templates: &Templates,
    room: &mut Room,
) -> Result<u64> {
    let mut c = value;
    if ty == TypeByte::String {
        return Ok(string(&mut c)?.len());
    }
    let head = Head::parse(&mut c, ty, templates)?;
    let items = head.items;
    let boundary = &mut Boundary::default();
    let mut most = 0;
    let mut see = |len: usize| {
        most = most.max(len as u64);
        Ok(())
    };
    match ty.kind() {
        Kind::String => unreachable!("strings are answered above"),
        Kind::List => list::for_each(&mut c, ty, items, room, boundary, |e| see(e.len()))?,
        Kind::Set => set::for_each(&mut c, ty, items, room, boundary, |e| see(e.len()))?,
        Kind::Zset => zset::for_each(&mut c, ty, items, room, boundary, |e, _| see(e.len()))?,
        Kind::Hash => {
            let source = Source {
                file: value,
                templates,
                head,
            };
            hash::for_each(&mut c, ty, items, source, room, boundary, |f, v, _| {
                see(f.len() + v.len())
            })?;
        }
        Kind::Stream => {
            for_each_entry(&mut c, items, &mut room.one, &mut None, boundary, |entry| {
                let mut bytes = 0;
                entry.for_each(|field, value| {
                    bytes += field.len() + value.len();
                    Ok(())
                })?;
                see(bytes)
            })?;
        }
        Kind::Array => array::for_each(&mut c, items, &mut room.one, |_, v| {
            see(match v {
                array::Value::Element(element) => element.len(),
                array::Value::Double(_) => 8,
            })
        })?,
        Kind::Module | Kind::Gcra | Kind::PathHash => see(end - value.pos())?,
    }
    Ok(most)
}

fn string_encoding(len: u64, integer: Option<i64>) -> Encoding {
    match integer {
        Some(_) => Encoding::Int,
        None if len <= memory::EMBSTR_MAX => Encoding::Embstr,
        None => Encoding::Raw,
    }
}

/// Length of the text, and the integer that it stands for.
#[inline]
fn parts(text: Str<'_>) -> (u64, Option<i64>) {
    match text {
        Str::Raw(bytes) => (bytes.len() as u64, integer(bytes)),
        Str::Int(n) => (text.len(), Some(n)),
        // What is short enough to be an integer is not worth compressing.
        Str::Lzf { len, .. } => (len, None),
    }
}

#[inline]
fn parts_of(element: Element<'_>) -> (u64, Option<i64>) {
    match element {
        Element::Bytes(bytes) => (bytes.len() as u64, integer(bytes)),
        Element::Int(n) => (element.len() as u64, Some(n)),
    }
}

/// The integer that servers would store in place of the text: one whose decimal text it is, to the byte.
#[inline]
fn integer(text: &[u8]) -> Option<i64> {
    match text {
        [b'0'..=b'9'] => Some(i64::from(text[0] - b'0')),
        [b'1'..=b'9', ..] | [b'-', b'1'..=b'9', ..] if text.len() <= 20 => {
            std::str::from_utf8(text).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// What a value would be in each of the forms that its type has.
#[derive(Debug, Default)]
struct Forms {
    items: u64,
    strings: u64,
    packed: u64,
    longest: u64,
}

impl Forms {
    #[inline]
    fn add(&mut self, (len, integer): (u64, Option<i64>)) {
        self.strings += sds(len);
        self.packed += listpack_entry(len, integer);
        self.longest = self.longest.max(len);
    }

    fn listpack(&self) -> u64 {
        OBJECT + allocated(memory::LISTPACK + self.packed)
    }

    fn hashtable(&self) -> u64 {
        OBJECT + memory::DICT + buckets(self.items) + self.items * memory::DICT_ENTRY + self.strings
    }

    fn skiplist(&self) -> u64 {
        self.hashtable() + memory::ZSET + memory::skiplist_nodes(self.items)
    }
}

fn a_list(c: &mut Cursor<'_>, ty: TypeByte, items: u64, room: &mut Room) -> Result<Measure> {
    let found = |elements, memory| Ok(Measure::new(Encoding::Quicklist, elements, memory));
    let mut filling = Filling::default();
    match ty {
        TypeByte::List => {
            for _ in 0..items {
                let (len, integer) = parts(string(c)?);
                filling.push(len, integer);
            }
            found(items, filling.memory())
        }
        TypeByte::ListZiplist => {
            let mut elements = 0;
            list::for_each(c, ty, items, room, &mut Boundary::default(), |element| {
                let (len, integer) = parts_of(element);
                filling.push(len, integer);
                elements += 1;
                Ok(())
            })?;
            found(elements, filling.memory())
        }
        // Nodes are kept as they are.
        _ => {
            let mut elements = 0;
            let mut memory = OBJECT + memory::QUICKLIST + items * memory::QUICKLIST;
            for _ in 0..items {
                if ty == TypeByte::ListQuicklist {
                    let (node, bytes) = ziplist(c, room)?;
                    elements += node;
                    memory += bytes;
                } else if length(c)? == PLAIN {
                    elements += 1;
                    memory += allocated(string(c)?.len());
                } else {
                    let (node, bytes) = listpack(c, room)?;
                    elements += node;
                    memory += bytes;
                }
            }
            found(elements, memory)
        }
    }
}

/// A node of a quicklist that is one element.
const PLAIN: u64 = 1;

/// Entries of a listpack, and what is allocated for it.
fn listpack(c: &mut Cursor<'_>, room: &mut Room) -> Result<(u64, u64)> {
    let blob = blob(c, &mut room.one)?;
    let bytes = allocated(blob.remaining() as u64);
    Ok((Listpack::parse(blob)?.remaining()?, bytes))
}

/// Entries of a ziplist, and what is allocated for the listpack that 7.0 makes of it: its head is 4 bytes shorter, and
/// entries differ by a byte now and then.
fn ziplist(c: &mut Cursor<'_>, room: &mut Room) -> Result<(u64, u64)> {
    let blob = blob(c, &mut room.one)?;
    let bytes = allocated((blob.remaining() as u64).saturating_sub(4));
    Ok((Ziplist::parse(blob)?.remaining()?, bytes))
}

fn a_set(c: &mut Cursor<'_>, ty: TypeByte, items: u64, room: &mut Room) -> Result<Measure> {
    if ty == TypeByte::SetIntset {
        let mut look = *c;
        let blob = blob(&mut look, &mut room.one)?;
        let bytes = blob.remaining() as u64;
        let members = Intset::parse(blob)?.len() as u64;
        if members <= memory::SET_MAX_INTSET_ENTRIES {
            let memory = OBJECT + allocated(bytes);
            return Ok(Measure::new(Encoding::Intset, members, memory));
        }
    }
    let mut forms = Forms::default();
    let (mut smallest, mut largest) = (i64::MAX, i64::MIN);
    let mut integers = true;
    let mut see = |(len, integer): (u64, Option<i64>)| {
        forms.strings += sds(len);
        forms.items += 1;
        match integer {
            Some(n) => {
                smallest = smallest.min(n);
                largest = largest.max(n);
            }
            None => integers = false,
        }
    };
    if ty == TypeByte::Set {
        for _ in 0..items {
            see(parts(string(c)?));
        }
    } else {
        set::for_each(c, ty, items, room, &mut Boundary::default(), |member| {
            see(parts_of(member));
            Ok(())
        })?;
    }
    let members = forms.items;
    Ok(
        if integers && members <= memory::SET_MAX_INTSET_ENTRIES && members > 0 {
            let memory = memory::intset(members, smallest, largest);
            Measure::new(Encoding::Intset, members, memory)
        } else {
            Measure::new(Encoding::Hashtable, members, forms.hashtable())
        },
    )
}

fn a_zset(c: &mut Cursor<'_>, ty: TypeByte, items: u64, room: &mut Room) -> Result<Measure> {
    let mut look = *c;
    let packed = match ty {
        TypeByte::ZsetZiplist => Some(ziplist(&mut look, room)?),
        TypeByte::ZsetListpack => Some(listpack(&mut look, room)?),
        _ => None,
    };
    if let Some((entries, bytes)) = packed
        && entries / 2 <= memory::ZSET_MAX_LISTPACK_ENTRIES
    {
        return Ok(Measure::new(
            Encoding::Listpack,
            entries / 2,
            OBJECT + bytes,
        ));
    }
    let mut forms = Forms::default();
    if packed.is_none() && items > memory::ZSET_MAX_LISTPACK_ENTRIES {
        forms.items = items;
        for _ in 0..items {
            forms.strings += sds(string(c)?.len());
            match ty {
                TypeByte::Zset2 => c.skip(8)?,
                _ => zset::skip_text_double(c)?,
            }
        }
    } else {
        zset::for_each(c, ty, items, room, &mut Boundary::default(), |m, score| {
            forms.items += 1;
            forms.add(parts_of(m));
            forms.packed += packed_score(score.value());
            Ok(())
        })?;
        if forms.items <= memory::ZSET_MAX_LISTPACK_ENTRIES
            && forms.longest <= memory::MAX_LISTPACK_VALUE
        {
            return Ok(Measure::new(
                Encoding::Listpack,
                forms.items,
                forms.listpack(),
            ));
        }
    }
    Ok(Measure::new(
        Encoding::Skiplist,
        forms.items,
        forms.skiplist(),
    ))
}

/// A score in a listpack: an integer where it is one, else its 17 digits.
fn packed_score(score: f64) -> u64 {
    let whole = score as i64;
    if whole as f64 == score {
        return listpack_entry(0, Some(whole));
    }
    // `%.17g` drops zeros at the end, the shortest text has none; but it rounds later, so that few scores are shorter
    // than 17 digits unless they are exact.
    let shortest = zmij::Buffer::new().format(score).len() as u64;
    let digits = if (score * 1024.0).fract() == 0.0 {
        shortest
    } else {
        shortest.max(18)
    };
    listpack_entry(digits, None)
}

fn a_hash(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    source: Source<'_, '_>,
    room: &mut Room,
) -> Result<Measure> {
    let items = source.head.items;
    let mut look = *c;
    let packed = match ty {
        TypeByte::HashZiplist => Some(ziplist(&mut look, room)?),
        TypeByte::HashListpack => Some(listpack(&mut look, room)?),
        _ => None,
    };
    if let Some((entries, bytes)) = packed
        && entries / 2 <= memory::HASH_MAX_LISTPACK_ENTRIES
    {
        return Ok(Measure::new(
            Encoding::Listpack,
            entries / 2,
            OBJECT + bytes,
        ));
    }
    let mut forms = Forms::default();
    if ty == TypeByte::Hash && items > memory::HASH_MAX_LISTPACK_ENTRIES {
        forms.items = items;
        for _ in 0..items {
            forms.strings += sds(string(c)?.len()) + sds(string(c)?.len());
        }
        return Ok(Measure::new(Encoding::Hashtable, items, forms.hashtable()));
    }
    if ty == TypeByte::Hash {
        forms.items = items;
        for _ in 0..items {
            forms.add(parts(string(c)?));
            forms.add(parts(string(c)?));
        }
    } else {
        let boundary = &mut Boundary::default();
        hash::for_each(c, ty, items, source, room, boundary, |field, value, _| {
            forms.items += 1;
            forms.add(parts_of(field));
            forms.add(parts_of(value));
            Ok(())
        })?;
    }
    Ok(
        if forms.items <= memory::HASH_MAX_LISTPACK_ENTRIES
            && forms.longest <= memory::MAX_LISTPACK_VALUE
        {
            Measure::new(Encoding::Listpack, forms.items, forms.listpack())
        } else {
            Measure::new(Encoding::Hashtable, forms.items, forms.hashtable())
        },
    )
}

fn a_stream(c: &mut Cursor<'_>, ty: TypeByte, nodes: u64) -> Result<Measure> {
    let mut memory = memory::STREAM + nodes * memory::RAX_NODE;
    for _ in 0..nodes {
        skip_string(c)?;
        memory += allocated(string(c)?.len());
    }
    let tail = Tail::parse(c, ty)?;
    if tail.groups.count > 0 {
        memory += memory::RAX;
    }
    tail.groups.for_each(|group| {
        memory += memory::GROUP + group.pending.count * memory::PENDING;
        group.consumers.for_each(|consumer| {
            memory += memory::CONSUMER + sds(consumer.name.len());
            Ok(())
        })
    })?;
    Ok(Measure::new(Encoding::Stream, tail.length, memory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_servers_take_them() {
        for (text, value) in [
            (&b"0"[..], Some(0)),
            (b"-1", Some(-1)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"9223372036854775808", None),
            (b"01", None),
            (b"-0", None),
            (b"+1", None),
            (b"1 ", None),
            (b"", None),
            (b"-", None),
        ] {
            assert_eq!(integer(text), value, "{}", text.escape_ascii());
        }
    }
}
