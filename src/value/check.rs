//! The deep check of a value before it is passed on as it stands, in a RESTORE payload: everything
//! that servers check under `sanitize-dump-payload yes`, and the order that they rely on unchecked.
//! FORMAT §7.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::hash::Source;
use super::stream::{Id, PendingIndex, Tail, for_each_entry};
use super::{Head, Kind, Room, Templates, TypeByte, array, hash, list, module, set, zset};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::intset::Intset;
use crate::encoding::length::length;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::{blob, string};
use crate::error::{Error, ErrorKind, Result};

/// What the deep check found out beside "whole".
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// Elements, members, fields or entries.
    pub elements: u64,
    /// Listpack entries whose form differs between servers.
    pub boundary: Boundary,
}

/// Checks the value at `c` to its last byte.
pub fn check(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    templates: &Templates,
    room: &mut Room,
    seen: &mut Seen,
) -> Result<Found> {
    let start = *c;
    let file = *c;
    let mut found = Found::default();
    let Found { elements, boundary } = &mut found;
    if ty == TypeByte::String {
        string(c)?.load(&mut room.one)?;
        return Ok(Found {
            elements: 1,
            ..found
        });
    }
    let head = Head::parse(c, ty, templates)?;
    let items = head.items;
    // Servers rely on packed values to have no duplicates, so these are always searched. In the others servers
    // find them while they load, whatever the settings; they are searched here too, so that the file is refused and
    // not the destination, but for huge ones, where that would take many walks.
    let packed = matches!(
        ty,
        TypeByte::SetListpack
            | TypeByte::ZsetZiplist
            | TypeByte::ZsetListpack
            | TypeByte::HashZipmap
            | TypeByte::HashZiplist
            | TypeByte::HashListpack
            | TypeByte::HashListpackEx
            | TypeByte::HashListpackExPreGa
    );
    let searched = packed || items <= Seen::MOST as u64;
    match ty.kind() {
        Kind::List => list::for_each(c, ty, items, room, boundary, |_| {
            *elements += 1;
            Ok(())
        })?,
        Kind::Set if ty == TypeByte::SetIntset => {
            let members = Intset::parse(blob(c, &mut room.one)?)?;
            if !members.is_sorted() {
                return Err(start.error(ErrorKind::BadIntset("its members are out of order")));
            }
            *elements = members.len() as u64;
        }
        Kind::Set => search(searched, seen, "a member", &start, c, |c, see| {
            *elements = 0;
            set::for_each(c, ty, items, room, boundary, |member| {
                *elements += 1;
                see(member)
            })
        })?,
        Kind::Zset => {
            let mut previous = f64::NEG_INFINITY;
            search(searched, seen, "a member", &start, c, |c, see| {
                *elements = 0;
                previous = f64::NEG_INFINITY;
                zset::for_each(c, ty, items, room, boundary, |member, score| {
                    *elements += 1;
                    if packed {
                        let score = score.value();
                        if score < previous {
                            return Err(start.error(ErrorKind::Unordered));
                        }
                        previous = score;
                    }
                    see(member)
                })
            })?;
        }
        Kind::Hash => {
            let source = Source {
                file,
                templates,
                head,
            };
            let mut last_expiry = 0;
            search(searched, seen, "a field", &start, c, |c, see| {
                *elements = 0;
                last_expiry = 0;
                hash::for_each(c, ty, items, source, room, boundary, |field, _, expiry| {
                    *elements += 1;
                    if packed && ty.has_field_expiry() {
                        // Sorted by expiry, those without one last.
                        let expiry = expiry.unwrap_or(i64::MAX);
                        if expiry < last_expiry {
                            return Err(start.error(ErrorKind::BadListpack(
                                "has its field expiries out of order",
                            )));
                        }
                        last_expiry = expiry;
                    }
                    see(field)
                })
            })?;
        }
        Kind::Stream => return check_stream(c, ty, items, room, seen),
        Kind::Array => array::for_each(c, items, &mut room.one, |_, _| {
            *elements += 1;
            Ok(())
        })?,
        Kind::String => unreachable!("strings are answered above"),
        Kind::Module => {
            length(c)?;
            module::check_items(c, &mut room.one)?;
            *elements = 1;
        }
        Kind::Gcra => {
            length(c)?;
            *elements = 1;
        }
        Kind::PathHash => {
            for _ in 0..items {
                string(c)?.load(&mut room.one)?;
                for _ in 0..length(c)? {
                    string(c)?.load(&mut room.one)?;
                    string(c)?.load(&mut room.one)?;
                    *elements += 1;
                }
            }
        }
    }
    Ok(found)
}

/// Runs a walk and, where `searched`, finds elements that occur twice. `walk` is called again where
/// there are so many elements that they are searched a part at a time.
fn search<'a>(
    searched: bool,
    seen: &mut Seen,
    what: &'static str,
    start: &Cursor<'_>,
    c: &mut Cursor<'a>,
    mut walk: impl FnMut(&mut Cursor<'a>, &mut dyn FnMut(Element<'_>) -> Result<()>) -> Result<()>,
) -> Result<()> {
    if !searched {
        return walk(c, &mut |_| Ok(()));
    }
    let from = *c;
    let mut parts = 1;
    let mut part = 0;
    while part < parts {
        *c = from;
        seen.clear();
        let mut full = false;
        walk(c, &mut |element| match seen.insert(element, part, parts) {
            _ if full => Ok(()),
            Insert::New => Ok(()),
            Insert::Twice => Err(start.error(ErrorKind::Duplicate(what))),
            Insert::Full => {
                full = true;
                Ok(())
            }
        })?;
        if full {
            // Too many for the memory that is given: search twice as many parts, each half as large.
            parts *= 2;
            part = 0;
        } else {
            part += 1;
        }
    }
    Ok(())
}

/// Elements met so far, by their hashes. A worker keeps it from one value to the next.
#[derive(Debug, Default)]
pub struct Seen {
    few: Vec<u64>,
    many: HashSet<u64, RandomState>,
    state: RandomState,
}

enum Insert {
    New,
    Twice,
    Full,
}

impl Seen {
    /// Small values, by far the most, are searched in a plain vector.
    const FEW: usize = 32;
    /// More hashes than this are not kept at once: 16 MiB.
    const MOST: usize = 1 << 20;

    fn clear(&mut self) {
        self.few.clear();
        self.many.clear();
    }

    fn insert(&mut self, element: Element<'_>, part: u64, parts: u64) -> Insert {
        let mut buffer = itoa::Buffer::new();
        let bytes = element.as_bytes(&mut buffer);
        let hash = self.state.hash_one(bytes);
        if parts > 1 && hash % parts != part {
            return Insert::New;
        }
        if self.many.is_empty() {
            if self.few.contains(&hash) {
                return Insert::Twice;
            }
            if self.few.len() < Self::FEW {
                self.few.push(hash);
                return Insert::New;
            }
            self.many.extend(self.few.drain(..));
        }
        if self.many.len() >= Self::MOST {
            return Insert::Full;
        }
        if self.many.insert(hash) {
            Insert::New
        } else {
            Insert::Twice
        }
    }
}

fn check_stream(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    nodes: u64,
    room: &mut Room,
    seen: &mut Seen,
) -> Result<Found> {
    let start = *c;
    let broken = |what| Error::new(ErrorKind::BadStream(what), start.at());
    let mut found = Found::default();
    let mut last = None;
    for_each_entry(
        c,
        nodes,
        &mut room.one,
        &mut last,
        &mut found.boundary,
        |_| {
            found.elements += 1;
            Ok(())
        },
    )?;
    let tail = Tail::parse(c, ty)?;
    if tail.length != found.elements {
        return Err(broken("holds another number of entries than it says"));
    }
    if last.is_some_and(|last| last > tail.last) {
        return Err(broken("has entries above its last id"));
    }
    if ty != TypeByte::StreamListpacks
        && (tail.entries_added < tail.length || tail.entries_added > i64::MAX as u64)
    {
        return Err(broken("counts fewer entries ever added than it holds"));
    }
    seen.clear();
    let mut names = HashSet::new();
    tail.groups.for_each(|group| {
        if !names.insert(hash_str(seen, &group.name.load(&mut room.one)?)) {
            return Err(broken("has two groups of one name"));
        }
        // Before 8.8 a client could set it to more; those after refuse such a stream where they wrote it themselves.
        let most = match ty {
            TypeByte::StreamListpacks5 => tail.entries_added,
            _ => i64::MAX as u64,
        };
        if group.entries_read < -1 || group.entries_read > most as i64 {
            return Err(broken("has a group that has read more than was ever added"));
        }
        check_group(&group, room, seen)
    })?;
    if let Some(idmp) = tail.idmp {
        idmp.for_each(room, |_, _, _| Ok(()))?;
    }
    if let Some(idmp) = tail.idmp
        && (!(1..=86_400).contains(&idmp.duration_secs) || !(1..=10_000).contains(&idmp.max_size))
    {
        return Err(broken("has idempotence settings out of range"));
    }
    Ok(found)
}

fn hash_str(seen: &Seen, element: &Element<'_>) -> u64 {
    seen.state
        .hash_one(element.as_bytes(&mut itoa::Buffer::new()))
}

/// Every pending entry has one owner: a consumer or, from type 27 on, the zone of released ones.
fn check_group(group: &super::stream::Group<'_>, room: &mut Room, seen: &Seen) -> Result<()> {
    let broken = |what| Error::new(ErrorKind::BadStream(what), group.start.at());
    let index = PendingIndex::new(group.pending)?;
    let mut owned = vec![0u64; (group.pending.count as usize).div_ceil(64)];
    let mut owners = 0;
    let mut own = |id: Id| -> Result<()> {
        let (n, _) = index
            .find(id)?
            .ok_or_else(|| broken("consumer owns an entry that is not pending in its group"))?;
        let (word, bit) = (n as usize / 64, 1 << (n % 64));
        if owned[word] & bit != 0 {
            return Err(broken("has a pending entry with two owners"));
        }
        owned[word] |= bit;
        owners += 1;
        Ok(())
    };
    let mut names = HashSet::new();
    group.consumers.for_each(|consumer| {
        if !names.insert(hash_str(seen, &consumer.name.load(&mut room.one)?)) {
            return Err(broken("has two consumers of one name"));
        }
        consumer.ids.iter().try_for_each(&mut own)
    })?;
    group.nacked.iter().try_for_each(&mut own)?;
    if owners != group.pending.count {
        return Err(broken("has a pending entry without an owner"));
    }
    Ok(())
}
