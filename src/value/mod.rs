//! Redis's data types, built from encodings: which type byte is which, and how to pass over a value
//! without decoding it.

pub mod array;
pub mod check;
pub mod hash;
pub mod list;
pub mod module;
pub mod set;
pub mod stream;
pub mod zset;

use std::collections::HashMap;

use crate::cursor::Cursor;
use crate::encoding::length::{count, length};
use crate::encoding::string::{Scratch, skip_string};
use crate::error::{ErrorKind, Result};

/// The first byte of a value, by Redis's names (`RDB_TYPE_…`), with FORMAT sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TypeByte {
    /// 0, RDB 1 (§4.1).
    String,
    /// 1, RDB 1 (§4.1).
    List,
    /// 2, RDB 1 (§4.1).
    Set,
    /// 3, RDB 1: scores as text (§4.1).
    Zset,
    /// 4, RDB 1 (§4.1).
    Hash,
    /// 5, RDB 8: scores as doubles (§4.1).
    Zset2,
    /// 7, RDB 8 (§4.10).
    Module2,
    /// 9, RDB 2 (§4.2).
    HashZipmap,
    /// 10, RDB 2 (§4.3).
    ListZiplist,
    /// 11, RDB 2 (§4.4).
    SetIntset,
    /// 12, RDB 2 (§4.3).
    ZsetZiplist,
    /// 13, RDB 4 (§4.3).
    HashZiplist,
    /// 14, RDB 7: nodes are ziplists (§4.5).
    ListQuicklist,
    /// 15, RDB 9 (§4.9).
    StreamListpacks,
    /// 16, RDB 10 (§4.6).
    HashListpack,
    /// 17, RDB 10 (§4.6).
    ZsetListpack,
    /// 18, RDB 10: nodes are listpacks or plain (§4.5).
    ListQuicklist2,
    /// 19, RDB 10 (§4.9).
    StreamListpacks2,
    /// 20, RDB 11 (§4.6).
    SetListpack,
    /// 21, RDB 11 (§4.9).
    StreamListpacks3,
    /// 22 of Redis, 7.4 before its release (§4.7).
    HashMetadataPreGa,
    /// 23 of Redis, 7.4 before its release (§4.7).
    HashListpackExPreGa,
    /// 24, RDB 12 (§4.7).
    HashMetadata,
    /// 25, RDB 12 (§4.7).
    HashListpackEx,
    /// 26, RDB 13 (§4.9).
    StreamListpacks4,
    /// 27, RDB 14 (§4.9).
    StreamListpacks5,
    /// 28, RDB 14 (§4.11).
    Array,
    /// 29, RDB 15: DUMP form (§4.11b).
    HashTemplateListpack,
    /// 30, RDB 15: file form (§4.11b).
    HashTemplateListpackRef,
    /// 31, RDB 15: DUMP form (§4.11b).
    HashTemplateArray,
    /// 32, RDB 15: file form (§4.11b).
    HashTemplateArrayRef,
    /// 33, builds with GCRA only (§4.12).
    Gcra,
    /// 22 of Valkey, RDB 80 (§4.8).
    Hash2,
    /// 23 of Valkey, RDB 81 (§4.8).
    PathHash,
}

/// What a value is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SET, GET.
    String,
    /// RPUSH.
    List,
    /// SADD.
    Set,
    /// ZADD.
    Zset,
    /// HSET.
    Hash,
    /// XADD.
    Stream,
    /// ARMSET, Redis 8.8.
    Array,
    /// A module's own type.
    Module,
    /// A rate limiter of builds with GCRA.
    Gcra,
    /// Valkey 9.2's path hash.
    PathHash,
}

impl Kind {
    /// As the TYPE command names it; modules have names of their own.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::Zset => "zset",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
            Kind::Array => "array",
            Kind::Module => "module",
            Kind::Gcra => "gcra",
            Kind::PathHash => "pathhash",
        }
    }
}

impl TypeByte {
    /// The type of a byte. Where numbers clash the file's magic decides (FORMAT §3.3).
    #[inline]
    pub fn from_byte(byte: u8, valkey: bool) -> Option<TypeByte> {
        use TypeByte::*;
        Some(match (byte, valkey) {
            (0, _) => String,
            (1, _) => List,
            (2, _) => Set,
            (3, _) => Zset,
            (4, _) => Hash,
            (5, _) => Zset2,
            (7, _) => Module2,
            (9, _) => HashZipmap,
            (10, _) => ListZiplist,
            (11, _) => SetIntset,
            (12, _) => ZsetZiplist,
            (13, _) => HashZiplist,
            (14, _) => ListQuicklist,
            (15, _) => StreamListpacks,
            (16, _) => HashListpack,
            (17, _) => ZsetListpack,
            (18, _) => ListQuicklist2,
            (19, _) => StreamListpacks2,
            (20, _) => SetListpack,
            (21, _) => StreamListpacks3,
            (22, false) => HashMetadataPreGa,
            (23, false) => HashListpackExPreGa,
            (22, true) => Hash2,
            (23, true) => PathHash,
            (24, false) => HashMetadata,
            (25, false) => HashListpackEx,
            (26, false) => StreamListpacks4,
            (27, false) => StreamListpacks5,
            (28, false) => Array,
            (29, false) => HashTemplateListpack,
            (30, false) => HashTemplateListpackRef,
            (31, false) => HashTemplateArray,
            (32, false) => HashTemplateArrayRef,
            (33, false) => Gcra,
            _ => return None,
        })
    }

    /// The number that stands in files and payloads.
    pub fn byte(self) -> u8 {
        use TypeByte::*;
        match self {
            String => 0,
            List => 1,
            Set => 2,
            Zset => 3,
            Hash => 4,
            Zset2 => 5,
            Module2 => 7,
            HashZipmap => 9,
            ListZiplist => 10,
            SetIntset => 11,
            ZsetZiplist => 12,
            HashZiplist => 13,
            ListQuicklist => 14,
            StreamListpacks => 15,
            HashListpack => 16,
            ZsetListpack => 17,
            ListQuicklist2 => 18,
            StreamListpacks2 => 19,
            SetListpack => 20,
            StreamListpacks3 => 21,
            HashMetadataPreGa => 22,
            HashListpackExPreGa => 23,
            HashMetadata => 24,
            HashListpackEx => 25,
            StreamListpacks4 => 26,
            StreamListpacks5 => 27,
            Array => 28,
            HashTemplateListpack => 29,
            HashTemplateListpackRef => 30,
            HashTemplateArray => 31,
            HashTemplateArrayRef => 32,
            Gcra => 33,
            Hash2 => 22,
            PathHash => 23,
        }
    }

    /// What the value is to a client.
    pub fn kind(self) -> Kind {
        use TypeByte::*;
        match self {
            String => Kind::String,
            List | ListZiplist | ListQuicklist | ListQuicklist2 => Kind::List,
            Set | SetIntset | SetListpack => Kind::Set,
            Zset | Zset2 | ZsetZiplist | ZsetListpack => Kind::Zset,
            Hash
            | HashZipmap
            | HashZiplist
            | HashListpack
            | HashMetadataPreGa
            | HashListpackExPreGa
            | HashMetadata
            | HashListpackEx
            | Hash2
            | HashTemplateListpack
            | HashTemplateListpackRef
            | HashTemplateArray
            | HashTemplateArrayRef => Kind::Hash,
            StreamListpacks | StreamListpacks2 | StreamListpacks3 | StreamListpacks4
            | StreamListpacks5 => Kind::Stream,
            Array => Kind::Array,
            Module2 => Kind::Module,
            Gcra => Kind::Gcra,
            PathHash => Kind::PathHash,
        }
    }

    /// The lowest RDB version whose servers take this value by RESTORE (FORMAT §1.4, §6.4). RESTORE
    /// came with version 6, so nothing is lower; from 80 on it is Valkey's numbering.
    pub fn restore_version(self) -> u16 {
        use TypeByte::*;
        match self {
            String | List | Set | Zset | Hash | HashZipmap | ListZiplist | SetIntset
            | ZsetZiplist | HashZiplist => 6,
            ListQuicklist => 7,
            Zset2 | Module2 => 8,
            StreamListpacks => 9,
            HashListpack | ZsetListpack | ListQuicklist2 | StreamListpacks2 => 10,
            SetListpack | StreamListpacks3 => 11,
            HashMetadataPreGa | HashListpackExPreGa | HashMetadata | HashListpackEx => 12,
            StreamListpacks4 => 13,
            StreamListpacks5 | Array => 14,
            HashTemplateListpack
            | HashTemplateListpackRef
            | HashTemplateArray
            | HashTemplateArrayRef
            | Gcra => 15,
            Hash2 => 80,
            PathHash => 81,
        }
    }

    /// Whether fields of this hash may have an expiry of their own.
    pub fn has_field_expiry(self) -> bool {
        use TypeByte::*;
        matches!(
            self,
            HashMetadataPreGa | HashListpackExPreGa | HashMetadata | HashListpackEx | Hash2
        )
    }

    /// Whether the value refers to, or carries, a template of field names.
    pub fn is_template(self) -> bool {
        use TypeByte::*;
        matches!(
            self,
            HashTemplateListpack
                | HashTemplateListpackRef
                | HashTemplateArray
                | HashTemplateArrayRef
        )
    }
}

/// The field names of a hash template: where they stand, to be read again for each hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Position of the first name (or of the blob that holds all).
    pub pos: usize,
    /// Number of names.
    pub count: u64,
    /// Whether they stand in one listpack.
    pub packed: bool,
}

/// The templates of a file, by id (opcode 242, FORMAT §4.11b).
#[derive(Debug, Clone, Default)]
pub struct Templates(HashMap<u64, Names>);

impl Templates {
    /// More than this many is refused: each costs memory, and a file that lies could name billions.
    pub const MOST: usize = 1_000_000;

    /// Adds one; `false` where the id is taken or there are too many.
    pub fn insert(&mut self, id: u64, names: Names) -> bool {
        self.0.len() < Self::MOST && self.0.insert(id, names).is_none()
    }

    /// Takes one away.
    pub(crate) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// The names of a template.
    pub fn get(&self, id: u64) -> Option<Names> {
        self.0.get(&id).copied()
    }
}

/// What stands before a value's items.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Number of top-level items: elements, pairs, nodes; 1 for a packed blob.
    pub items: u64,
    /// Smallest field expiry, which the others are counted from (type 24).
    pub min_expire_ms: i64,
    /// Insert cursor of an array.
    pub cursor: Option<u64>,
    /// Field names of a template hash, where they are known from the head.
    pub names: Option<Names>,
}

impl Head {
    /// Reads what stands before the items of a value of this type. Values without items (strings,
    /// modules, packed blobs) have no head: their one item is the rest.
    #[inline]
    pub fn parse(c: &mut Cursor<'_>, ty: TypeByte, templates: &Templates) -> Result<Head> {
        use TypeByte::*;
        let mut head = Head {
            items: 1,
            min_expire_ms: 0,
            cursor: None,
            names: None,
        };
        match ty {
            String
            | Module2
            | HashZipmap
            | ListZiplist
            | SetIntset
            | ZsetZiplist
            | HashZiplist
            | HashListpack
            | ZsetListpack
            | SetListpack
            | HashListpackExPreGa
            | HashTemplateListpackRef
            | Gcra => {}
            HashListpackEx => head.min_expire_ms = c.i64_le()?,
            List => head.items = count(c, 1, "elements")?,
            Set => head.items = count(c, 1, "members")?,
            Zset => head.items = count(c, 2, "members")?,
            Zset2 => head.items = count(c, 9, "members")?,
            Hash => head.items = count(c, 2, "fields")?,
            ListQuicklist => head.items = count(c, 1, "nodes")?,
            ListQuicklist2 => head.items = count(c, 2, "nodes")?,
            StreamListpacks | StreamListpacks2 | StreamListpacks3 | StreamListpacks4
            | StreamListpacks5 => {
                head.items = count(c, 18, "nodes")?;
            }
            HashMetadataPreGa => head.items = count(c, 3, "fields")?,
            HashMetadata => {
                head.min_expire_ms = c.i64_le()?;
                head.items = count(c, 3, "fields")?;
            }
            Hash2 => head.items = count(c, 10, "fields")?,
            PathHash => head.items = count(c, 2, "paths")?,
            Array => {
                let start = *c;
                head.items = count(c, 3, "elements")?;
                head.cursor = match length(c)? {
                    0 => None,
                    1 => Some(length(c)?),
                    _ => {
                        return Err(
                            start.error(ErrorKind::BadArray("cursor flag is neither 0 nor 1"))
                        );
                    }
                };
            }
            HashTemplateArrayRef => {
                let start = *c;
                let id = length(c)?;
                let names = templates.get(id).ok_or_else(|| {
                    start.error(ErrorKind::BadTemplate("of this hash is not in the file"))
                })?;
                head.items = names.count;
                head.names = Some(names);
            }
            HashTemplateListpack | HashTemplateArray => {
                let names = hash::inline_names(c)?;
                head.items = if ty == HashTemplateArray {
                    names.count
                } else {
                    1
                };
                head.names = Some(names);
            }
        }
        Ok(head)
    }
}

/// A place inside a value where it may be cut: before item number `item`, at `pos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Number of items before the cut.
    pub item: u64,
    /// Position of the item behind it.
    pub pos: usize,
}

/// A value is cut where this many bytes have passed since its start or the last cut.
pub const CUT_BYTES: usize = 1 << 20;

/// Passes over a value without decoding it, noting where a large one may be cut.
#[inline]
pub fn skip(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    templates: &Templates,
    cuts: &mut Vec<Cut>,
) -> Result<()> {
    use TypeByte::*;
    if ty == String {
        return skip_string(c);
    }
    let head = Head::parse(c, ty, templates)?;
    let n = head.items;
    match ty {
        String
        | HashZipmap
        | ListZiplist
        | SetIntset
        | ZsetZiplist
        | HashZiplist
        | HashListpack
        | ZsetListpack
        | SetListpack
        | HashListpackEx
        | HashListpackExPreGa
        | HashTemplateListpackRef
        | HashTemplateListpack => skip_string(c),
        List | Set | ListQuicklist => items(c, n, cuts, skip_string),
        HashTemplateArrayRef | HashTemplateArray => items(c, n, &mut Vec::new(), skip_string),
        Zset => items(c, n, cuts, |c| {
            skip_string(c)?;
            zset::skip_text_double(c)
        }),
        Zset2 => items(c, n, cuts, |c| {
            skip_string(c)?;
            c.skip(8)
        }),
        Hash => items(c, n, cuts, |c| {
            skip_string(c)?;
            skip_string(c)
        }),
        ListQuicklist2 => items(c, n, cuts, |c| {
            length(c)?;
            skip_string(c)
        }),
        HashMetadata | HashMetadataPreGa => items(c, n, cuts, |c| {
            length(c)?;
            skip_string(c)?;
            skip_string(c)
        }),
        Hash2 => items(c, n, cuts, |c| {
            skip_string(c)?;
            skip_string(c)?;
            c.skip(8)
        }),
        PathHash => items(c, n, &mut Vec::new(), |c| {
            skip_string(c)?;
            for _ in 0..count(c, 2, "fields")? {
                skip_string(c)?;
                skip_string(c)?;
            }
            Ok(())
        }),
        Array => items(c, n, cuts, array::skip_element),
        StreamListpacks | StreamListpacks2 | StreamListpacks3 | StreamListpacks4
        | StreamListpacks5 => {
            items(c, n, cuts, |c| {
                skip_string(c)?;
                skip_string(c)
            })?;
            stream::skip_tail(c, ty)
        }
        Module2 => {
            length(c)?;
            module::skip_items(c)
        }
        Gcra => length(c).map(drop),
    }
}

#[inline]
fn items(
    c: &mut Cursor<'_>,
    n: u64,
    cuts: &mut Vec<Cut>,
    mut skip_item: impl FnMut(&mut Cursor<'_>) -> Result<()>,
) -> Result<()> {
    let mut next_cut = c.pos() + CUT_BYTES;
    for item in 1..=n {
        skip_item(c)?;
        if c.pos() >= next_cut && item < n {
            cuts.push(Cut { item, pos: c.pos() });
            next_cut = c.pos() + CUT_BYTES;
        }
    }
    Ok(())
}

/// Room for unpacked strings that a walk needs: the first and the second string of a pair.
#[derive(Debug)]
pub struct Room {
    /// Packed blobs, elements, members, fields.
    pub one: Scratch,
    /// Values of pairs.
    pub two: Scratch,
}

impl Room {
    /// `limit`: the largest string that is unpacked in memory, in bytes.
    pub fn new(limit: usize) -> Room {
        Room {
            one: Scratch::new(limit),
            two: Scratch::new(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        for valkey in [false, true] {
            for byte in 0..=u8::MAX {
                if let Some(ty) = TypeByte::from_byte(byte, valkey) {
                    assert_eq!(ty.byte(), byte);
                }
            }
        }
    }
}
