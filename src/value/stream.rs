//! Streams: types 15, 19, 21, 26, 27. FORMAT §4.9.
//!
//! Entries come in listpacks; behind them stand the scalar fields, the consumer groups with their
//! pending entries (PEL), and from type 26 on the records of idempotent producers (IDMP).

use std::fmt;

use super::{Room, TypeByte};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::{count, length};
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{Scratch, Str, blob, skip_string, string};
use crate::error::{ErrorKind, Result};

/// A stream id: milliseconds and sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Id {
    /// Unix time in milliseconds.
    pub ms: u64,
    /// Sequence within the millisecond.
    pub seq: u64,
}

impl Id {
    /// 0-0, which no entry has.
    pub const ZERO: Id = Id { ms: 0, seq: 0 };

    fn raw(c: &mut Cursor<'_>) -> Result<Id> {
        Ok(Id {
            ms: u64::from_be_bytes(c.array()?),
            seq: u64::from_be_bytes(c.array()?),
        })
    }

    fn lengths(c: &mut Cursor<'_>) -> Result<Id> {
        Ok(Id {
            ms: length(c)?,
            seq: length(c)?,
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A live entry. `f` of [`for_each_entry`] gets it; fields are pushed by [`Entry::for_each`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its id.
    pub id: Id,
    /// Number of fields.
    pub fields: u64,
    names: Option<Listpack<'a>>, // of the node's first entry, where this one has the same
    body: Listpack<'a>,
}

impl Entry<'_> {
    /// Pushes field and value.
    #[inline]
    pub fn for_each(
        mut self,
        mut f: impl FnMut(Element<'_>, Element<'_>) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..self.fields {
            let name = match &mut self.names {
                Some(names) => names.expect()?,
                None => self.body.expect()?,
            };
            f(name, self.body.expect()?)?;
        }
        Ok(())
    }
}

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;

/// Pushes the live entries of the next `nodes` nodes, in order of their ids, which is checked;
/// `previous` carries the last id from one call to the next.
pub fn for_each_entry(
    c: &mut Cursor<'_>,
    nodes: u64,
    scratch: &mut Scratch,
    previous: &mut Option<Id>,
    boundary: &mut Boundary,
    mut f: impl FnMut(&Entry<'_>) -> Result<()>,
) -> Result<()> {
    for _ in 0..nodes {
        let at = *c;
        let Str::Raw(&[a, b, c_, d, e, f_, g, h, ref seq @ ..]) = string(c)? else {
            return Err(at.error(ErrorKind::BadStream("node has no 16-byte key")));
        };
        let Ok(seq) = <[u8; 8]>::try_from(seq) else {
            return Err(at.error(ErrorKind::BadStream("node has no 16-byte key")));
        };
        let master = Id {
            ms: u64::from_be_bytes([a, b, c_, d, e, f_, g, h]),
            seq: u64::from_be_bytes(seq),
        };
        let mut node = Listpack::parse(blob(c, scratch)?)?;
        let (live, deleted, nfields) = (node.expect_int()?, node.expect_int()?, node.expect_int()?);
        let names = node;
        if live < 0 || deleted < 0 || nfields < 0 {
            return Err(node
                .cursor()
                .error(ErrorKind::BadStream("node has a negative count")));
        }
        for _ in 0..nfields {
            node.expect()?;
        }
        if node.expect_int()? != 0 {
            return Err(node
                .cursor()
                .error(ErrorKind::BadStream("node's first entry has no end")));
        }
        let entries = live
            .checked_add(deleted)
            .ok_or_else(|| at.error(ErrorKind::BadStream("node has an impossible count")))?;
        let mut found_live = 0;
        for _ in 0..entries {
            let flags = node.expect_int()?;
            let (ms, seq) = (node.expect_int()?, node.expect_int()?);
            let id = Id {
                ms: master.ms.wrapping_add_signed(ms),
                seq: master.seq.wrapping_add_signed(seq),
            };
            if previous.is_some_and(|p| p >= id) {
                return Err(node
                    .cursor()
                    .error(ErrorKind::BadStream("has its entries out of order")));
            }
            *previous = Some(id);
            let same = flags & SAME_FIELDS != 0;
            let fields = if same { nfields } else { node.expect_int()? };
            let elements = if same {
                Some(fields)
            } else {
                fields.checked_mul(2)
            };
            let Some(elements) = elements.filter(|&n| n >= 0) else {
                return Err(node
                    .cursor()
                    .error(ErrorKind::BadStream("entry has an impossible count")));
            };
            let body = node;
            for _ in 0..elements {
                node.expect()?;
            }
            if node.expect_int()? != elements + if same { 3 } else { 4 } {
                return Err(node
                    .cursor()
                    .error(ErrorKind::BadStream("entry's element count is wrong")));
            }
            if flags & DELETED == 0 {
                found_live += 1;
                f(&Entry {
                    id,
                    fields: fields as u64,
                    names: same.then_some(names),
                    body,
                })?;
            }
        }
        if node.next()?.is_some() {
            return Err(node
                .cursor()
                .error(ErrorKind::BadStream("node holds more than its entries")));
        }
        if found_live != live {
            return Err(at.error(ErrorKind::BadStream(
                "node's count of live entries is wrong",
            )));
        }
        boundary.long |= node.boundary.long;
        boundary.short |= node.boundary.short;
    }
    Ok(())
}

/// What stands behind the nodes.
#[derive(Debug, Clone, Copy)]
pub struct Tail<'a> {
    /// Number of live entries.
    pub length: u64,
    /// Id of the last entry ever added.
    pub last: Id,
    /// Highest id ever deleted by XDEL; 0-0 for none.
    pub max_deleted: Id,
    /// Number of entries ever added.
    pub entries_added: u64,
    /// The consumer groups.
    pub groups: Groups<'a>,
    /// Idempotent producers, from type 26 on.
    pub idmp: Option<Idmp<'a>>,
}

/// The consumer groups, to be parsed one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    c: Cursor<'a>,
    ty: TypeByte,
    /// Number of groups.
    pub count: u64,
}

/// A consumer group.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// Its name.
    pub name: Str<'a>,
    /// Last delivered id.
    pub last: Id,
    /// Entries read, where it is known; -1 is unknown.
    pub entries_read: i64,
    /// Pending entries of all consumers.
    pub pending: Pending<'a>,
    /// The consumers.
    pub consumers: Consumers<'a>,
    /// Ids released by XNACK, in queue order (type 27).
    pub nacked: Ids<'a>,
    /// Where the group stands.
    pub start: Cursor<'a>,
}

/// The pending entries of a group: id, delivery time, delivery count; ascending by id.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    c: Cursor<'a>,
    /// Number of pending entries.
    pub count: u64,
}

/// One pending entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Id of the entry.
    pub id: Id,
    /// Unix time of the last delivery, in milliseconds.
    pub time_ms: i64,
    /// How often it was delivered.
    pub count: u64,
}

/// The consumers of a group.
#[derive(Debug, Clone, Copy)]
pub struct Consumers<'a> {
    c: Cursor<'a>,
    active_time: bool,
    /// Number of consumers.
    pub count: u64,
}

/// A consumer.
#[derive(Debug, Clone, Copy)]
pub struct Consumer<'a> {
    /// Its name.
    pub name: Str<'a>,
    /// When it was last heard of, in Unix milliseconds.
    pub seen_time_ms: i64,
    /// When it last got something, in Unix milliseconds; -1 for never. Unknown before type 21.
    pub active_time_ms: Option<i64>,
    /// Ids it owns.
    pub ids: Ids<'a>,
}

/// Raw ids, 16 bytes each.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    raw: &'a [u8],
}

impl<'a> Ids<'a> {
    fn parse(c: &mut Cursor<'a>) -> Result<Ids<'a>> {
        let n = count(c, 16, "ids")?;
        Ok(Ids {
            raw: c.take_len(n * 16)?,
        })
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.raw.len() / 16
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The ids in stored order.
    pub fn iter(self) -> impl Iterator<Item = Id> + 'a {
        self.raw.chunks_exact(16).map(|raw| {
            let mut c = Cursor::new(raw, 0);
            Id::raw(&mut c).expect("a chunk has the 16 bytes of an id")
        })
    }
}

/// Something is kept for each group and each consumer while a stream is read. No stream has so many; a file that
/// says so would decide how much memory a run takes.
const MOST_GROUPS: u64 = 1 << 20;
const MOST_CONSUMERS: u64 = 4 << 20;

impl<'a> Tail<'a> {
    /// Reads what stands behind the nodes.
    pub fn parse(c: &mut Cursor<'a>, ty: TypeByte) -> Result<Tail<'a>> {
        let length_ = length(c)?;
        let last = Id::lengths(c)?;
        let mut tail = Tail {
            length: length_,
            last,
            max_deleted: Id::ZERO,
            // Type 15 knows no more than what is there.
            entries_added: length_,
            groups: Groups {
                c: *c,
                ty,
                count: 0,
            },
            idmp: None,
        };
        if ty != TypeByte::StreamListpacks {
            Id::lengths(c)?; // first entry; servers work it out
            tail.max_deleted = Id::lengths(c)?;
            tail.entries_added = length(c)?;
        }
        let start = *c;
        tail.groups.count = count(c, 5, "groups")?;
        if tail.groups.count > MOST_GROUPS {
            return Err(start.error(ErrorKind::BadStream("has more than a million groups")));
        }
        tail.groups.c = *c;
        for _ in 0..tail.groups.count {
            Group::parse(c, ty)?;
        }
        if matches!(ty, TypeByte::StreamListpacks4 | TypeByte::StreamListpacks5) {
            tail.idmp = Some(Idmp::parse(c)?);
        }
        Ok(tail)
    }
}

pub(crate) fn has_active_times(ty: TypeByte) -> bool {
    matches!(
        ty,
        TypeByte::StreamListpacks3 | TypeByte::StreamListpacks4 | TypeByte::StreamListpacks5
    )
}

/// Pushes the bytes of a stream, at which `c` stands, as an older type has them: all but the fields that it does not
/// know. What the older type cannot be without has to be looked at before: whether entries were released by XNACK.
pub fn for_each_piece_as<'a>(
    mut c: Cursor<'a>,
    ty: TypeByte,
    older: TypeByte,
    mut put: impl FnMut(&'a [u8]) -> Result<()>,
) -> Result<()> {
    let mut kept = c.pos();
    // What stands between a place and the cursor is left out.
    let mut leave_out = |c: &Cursor<'a>, from: usize| {
        let piece = c.slice(kept, from);
        kept = c.pos();
        put(piece)
    };
    for _ in 0..length(&mut c)? {
        skip_string(&mut c)?;
        skip_string(&mut c)?;
    }
    length(&mut c)?;
    Id::lengths(&mut c)?;
    let has_counters = ty != TypeByte::StreamListpacks;
    let keeps_counters = older != TypeByte::StreamListpacks;
    if has_counters {
        let from = c.pos();
        Id::lengths(&mut c)?;
        Id::lengths(&mut c)?;
        length(&mut c)?;
        if !keeps_counters {
            leave_out(&c, from)?;
        }
    }
    for _ in 0..length(&mut c)? {
        skip_string(&mut c)?;
        Id::lengths(&mut c)?;
        if has_counters {
            let from = c.pos();
            length(&mut c)?;
            if !keeps_counters {
                leave_out(&c, from)?;
            }
        }
        for _ in 0..length(&mut c)? {
            c.skip(24)?;
            length(&mut c)?;
        }
        for _ in 0..length(&mut c)? {
            skip_string(&mut c)?;
            c.skip(8)?;
            if has_active_times(ty) {
                let from = c.pos();
                c.skip(8)?;
                if !has_active_times(older) {
                    leave_out(&c, from)?;
                }
            }
            Ids::parse(&mut c)?;
        }
        if ty == TypeByte::StreamListpacks5 {
            let from = c.pos();
            Ids::parse(&mut c)?;
            leave_out(&c, from)?;
        }
    }
    // Behind them stand the records of idempotent producers, which no older type has.
    let end = c.pos();
    leave_out(&c, end)
}

/// Passes over what stands behind the nodes.
pub(super) fn skip_tail(c: &mut Cursor<'_>, ty: TypeByte) -> Result<()> {
    Tail::parse(c, ty).map(drop)
}

impl<'a> Groups<'a> {
    /// Pushes the groups in stored order.
    pub fn for_each(self, mut f: impl FnMut(Group<'a>) -> Result<()>) -> Result<()> {
        let mut c = self.c;
        for _ in 0..self.count {
            f(Group::parse(&mut c, self.ty)?)?;
        }
        Ok(())
    }
}

impl<'a> Group<'a> {
    fn parse(c: &mut Cursor<'a>, ty: TypeByte) -> Result<Group<'a>> {
        let start = *c;
        let name = string(c)?;
        let last = Id::lengths(c)?;
        let entries_read = if ty == TypeByte::StreamListpacks {
            -1
        } else {
            length(c)? as i64
        };
        let npending = count(c, 25, "pending entries")?;
        let pending = Pending {
            c: *c,
            count: npending,
        };
        for _ in 0..npending {
            c.skip(24)?;
            length(c)?;
        }
        let at = *c;
        let nconsumers = count(c, 10, "consumers")?;
        if nconsumers > MOST_CONSUMERS {
            return Err(at.error(ErrorKind::BadStream(
                "group has more than four million consumers",
            )));
        }
        let active_time = has_active_times(ty);
        let consumers = Consumers {
            c: *c,
            active_time,
            count: nconsumers,
        };
        for _ in 0..nconsumers {
            Consumer::parse(c, active_time)?;
        }
        let nacked = if ty == TypeByte::StreamListpacks5 {
            Ids::parse(c)?
        } else {
            Ids { raw: &[] }
        };
        Ok(Group {
            name,
            last,
            entries_read,
            pending,
            consumers,
            nacked,
            start,
        })
    }
}

impl<'a> Consumer<'a> {
    fn parse(c: &mut Cursor<'a>, active_time: bool) -> Result<Consumer<'a>> {
        Ok(Consumer {
            name: string(c)?,
            seen_time_ms: c.i64_le()?,
            active_time_ms: active_time.then(|| c.i64_le()).transpose()?,
            ids: Ids::parse(c)?,
        })
    }
}

impl<'a> Consumers<'a> {
    /// Pushes the consumers in stored order.
    pub fn for_each(self, mut f: impl FnMut(Consumer<'a>) -> Result<()>) -> Result<()> {
        let mut c = self.c;
        for _ in 0..self.count {
            f(Consumer::parse(&mut c, self.active_time)?)?;
        }
        Ok(())
    }
}

impl<'a> Pending<'a> {
    /// The pending entries one by one; they must ascend, as every server writes them.
    pub fn walk(self) -> PendingWalk<'a> {
        PendingWalk {
            c: self.c,
            left: self.count,
            previous: None,
        }
    }
}

/// A position in the pending entries of a group.
#[derive(Debug, Clone, Copy)]
pub struct PendingWalk<'a> {
    c: Cursor<'a>,
    left: u64,
    previous: Option<Id>,
}

impl PendingWalk<'_> {
    /// The next pending entry, or `None` after the last one.
    #[allow(clippy::should_implement_trait)] // it fails, so it is no Iterator
    pub fn next(&mut self) -> Result<Option<Delivery>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let at = self.c;
        let id = Id::raw(&mut self.c)?;
        if self.previous.is_some_and(|p| p >= id) {
            return Err(at.error(ErrorKind::BadStream("has its pending entries out of order")));
        }
        self.previous = Some(id);
        Ok(Some(Delivery {
            id,
            time_ms: self.c.i64_le()?,
            count: length(&mut self.c)?,
        }))
    }
}

/// Finds pending entries by id in a group's list, whose entries differ in size: every 32nd is noted.
#[derive(Debug)]
pub struct PendingIndex<'a> {
    marks: Vec<(Id, PendingWalk<'a>, u64)>,
}

const MARK_EVERY: u64 = 32;

impl<'a> PendingIndex<'a> {
    /// Walks the list once, checking its order.
    pub fn new(pending: Pending<'a>) -> Result<Self> {
        let mut marks = Vec::new();
        let mut walk = pending.walk();
        let mut n = 0;
        loop {
            let here = walk;
            let Some(delivery) = walk.next()? else { break };
            if n % MARK_EVERY == 0 {
                marks.push((delivery.id, here, n));
            }
            n += 1;
        }
        Ok(PendingIndex { marks })
    }

    /// The pending entry of this id and its number in the list.
    pub fn find(&self, id: Id) -> Result<Option<(u64, Delivery)>> {
        let mark = self.marks.partition_point(|(first, _, _)| *first <= id);
        let Some(&(_, mut walk, mut n)) = mark.checked_sub(1).and_then(|i| self.marks.get(i))
        else {
            return Ok(None);
        };
        while let Some(delivery) = walk.next()? {
            if delivery.id >= id {
                return Ok((delivery.id == id).then_some((n, delivery)));
            }
            n += 1;
        }
        Ok(None)
    }
}

/// The records of idempotent producers (FORMAT §4.9.5).
#[derive(Debug, Clone, Copy)]
pub struct Idmp<'a> {
    c: Cursor<'a>,
    producers: u64,
    /// How long a record is kept, in seconds.
    pub duration_secs: u64,
    /// Most records of one producer.
    pub max_size: u64,
    /// Number of records.
    pub records: u64,
    /// How many records were ever added.
    pub added: u64,
    /// How often a duplicate was turned away since the stream began; no command sets it.
    pub duplicates: u64,
}

impl<'a> Idmp<'a> {
    fn parse(c: &mut Cursor<'a>) -> Result<Idmp<'a>> {
        let (duration_secs, max_size) = (length(c)?, length(c)?);
        let producers = count(c, 2, "producers")?;
        let mut idmp = Idmp {
            c: *c,
            producers,
            duration_secs,
            max_size,
            records: 0,
            added: 0,
            duplicates: 0,
        };
        for _ in 0..producers {
            skip_string(c)?;
            let n = count(c, 3, "records")?;
            for _ in 0..n {
                skip_string(c)?;
                Id::lengths(c)?;
            }
            idmp.records += n;
        }
        idmp.added = length(c)?;
        idmp.duplicates = length(c)?;
        Ok(idmp)
    }

    /// Pushes producer, record and the id of its entry, in stored order.
    pub fn for_each(
        self,
        room: &mut Room,
        mut f: impl FnMut(Element<'_>, Element<'_>, Id) -> Result<()>,
    ) -> Result<()> {
        let mut c = self.c;
        for _ in 0..self.producers {
            let producer = string(&mut c)?.load(&mut room.one)?;
            for _ in 0..length(&mut c)? {
                let record = string(&mut c)?.load(&mut room.two)?;
                f(producer, record, Id::lengths(&mut c)?)?;
            }
        }
        Ok(())
    }
}
