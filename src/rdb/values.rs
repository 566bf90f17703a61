//! Values of a snapshot that is written: the plain form of each type, which every reader of that type knows.
//!
//! A value comes behind [`Writer::key`], piece by piece, so that its size does not decide how much memory that takes.
//! What is counted in the file is counted by the caller beforehand: strings are [`Writer::string`], lists and sets a
//! [`Writer::length`] and so many strings, hashes a length and so many pairs of strings.

use std::io::{self, Write};

use super::write::Writer;
use crate::encoding::Element;
use crate::encoding::length::write_length;
use crate::encoding::listpack::Packer;
use crate::value::TypeByte;
use crate::value::array::Value;
use crate::value::stream::{Delivery, Id};

/// Servers begin another node of a stream where one has so many bytes or entries.
const NODE_BYTES: usize = 4096;
const NODE_ENTRIES: i64 = 100;

impl<W: Write> Writer<W> {
    /// A member of a sorted set (type 5: number of members, then these).
    pub fn member(&mut self, member: &[u8], score: f64) -> io::Result<()> {
        self.string(member)?;
        self.raw(&score.to_le_bytes())
    }

    /// What stands before the fields of a hash of which some expire (type 24): the smallest of the expiries, or less.
    pub fn expiring_head(&mut self, min_expire_ms: i64, fields: u64) -> io::Result<()> {
        self.raw(&min_expire_ms.to_le_bytes())?;
        self.length(fields)
    }

    /// A field of such a hash. `min_expire_ms` is the head's, and above no expiry.
    pub fn expiring_field(
        &mut self,
        min_expire_ms: i64,
        expire_at_ms: Option<i64>,
        field: &[u8],
        value: &[u8],
    ) -> io::Result<()> {
        self.length(field_ttl(min_expire_ms, expire_at_ms))?;
        self.string(field)?;
        self.string(value)
    }

    /// What stands before the elements of an array (type 28): their number, and the index that was inserted last.
    pub fn array_head(&mut self, elements: u64, cursor: Option<u64>) -> io::Result<()> {
        self.length(elements)?;
        self.length(u64::from(cursor.is_some()))?;
        cursor.map_or(Ok(()), |cursor| self.length(cursor))
    }

    /// An element of an array, by ascending index.
    pub fn array_element(&mut self, index: u64, value: Value<'_>) -> io::Result<()> {
        self.length(index)?;
        match value {
            // A string of up to seven bytes stands in the pointer itself; 32-bit servers cannot load those above three.
            Value::Element(Element::Bytes(text)) => {
                self.length(if text.len() <= 7 { 3 } else { 0 })?;
                self.string(text)
            }
            Value::Element(Element::Int(n)) => {
                self.length(1)?;
                self.raw(&n.to_le_bytes())
            }
            Value::Double(number) => {
                self.length(2)?;
                self.raw(&number.to_le_bytes())
            }
        }
    }

    /// What stands behind the nodes of a stream: first its number of groups, then these by [`Writer::group`], then
    /// [`Writer::idmp`] for the types that have it.
    pub fn stream_counters(&mut self, ty: TypeByte, counters: &Counters) -> io::Result<()> {
        self.length(counters.length)?;
        self.lengths(counters.last)?;
        if ty != TypeByte::StreamListpacks {
            self.lengths(counters.first)?;
            self.lengths(counters.max_deleted)?;
            self.length(counters.entries_added)?;
        }
        self.length(counters.groups)
    }

    /// What stands before the pending entries of a group: then `pending` of these by [`Writer::delivery`], a length and
    /// so many consumers by [`Writer::consumer`], and for type 27 the released entries, as a length and so many
    /// [`Writer::id`]. Groups and consumers ascend by name, pending entries by id.
    pub fn group(
        &mut self,
        ty: TypeByte,
        name: &[u8],
        last: Id,
        entries_read: i64,
        pending: u64,
    ) -> io::Result<()> {
        self.string(name)?;
        self.lengths(last)?;
        if ty != TypeByte::StreamListpacks {
            self.length(entries_read as u64)?;
        }
        self.length(pending)
    }

    /// A pending entry of a group.
    pub fn delivery(&mut self, delivery: &Delivery) -> io::Result<()> {
        self.id(delivery.id)?;
        self.raw(&delivery.time_ms.to_le_bytes())?;
        self.length(delivery.count)
    }

    /// A consumer; the ids of its pending entries follow by [`Writer::id`]. `active_time_ms` is -1 for never.
    pub fn consumer(
        &mut self,
        ty: TypeByte,
        name: &[u8],
        seen_time_ms: i64,
        active_time_ms: i64,
        pending: u64,
    ) -> io::Result<()> {
        self.string(name)?;
        self.raw(&seen_time_ms.to_le_bytes())?;
        if crate::value::stream::has_active_times(ty) {
            self.raw(&active_time_ms.to_le_bytes())?;
        }
        self.length(pending)
    }

    /// An id as it stands in lists of pending entries.
    pub fn id(&mut self, id: Id) -> io::Result<()> {
        self.raw(&id.ms.to_be_bytes())?;
        self.raw(&id.seq.to_be_bytes())
    }

    /// What stands before the records of idempotent producers (types 26, 27). Each producer is a string, a length, and
    /// so many records by [`Writer::idmp_record`]; behind all of them stand two lengths, the number of records ever
    /// added and of duplicates ever turned away.
    pub fn idmp(&mut self, duration_secs: u64, max_size: u64, producers: u64) -> io::Result<()> {
        self.length(duration_secs)?;
        self.length(max_size)?;
        self.length(producers)
    }

    /// A record of a producer.
    pub fn idmp_record(&mut self, record: &[u8], id: Id) -> io::Result<()> {
        self.string(record)?;
        self.lengths(id)
    }

    fn lengths(&mut self, id: Id) -> io::Result<()> {
        self.length(id.ms)?;
        self.length(id.seq)
    }
}

/// The number that stands before a field of a hash of type 24.
pub fn field_ttl(min_expire_ms: i64, expire_at_ms: Option<i64>) -> u64 {
    // Counted from the smallest, starting at 1; 0 is none.
    expire_at_ms.map_or(0, |at| {
        (at as u64)
            .wrapping_sub(min_expire_ms as u64)
            .wrapping_add(1)
    })
}

/// The numbers behind a stream's nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Number of entries.
    pub length: u64,
    /// Id of the first entry; 0-0 where there is none.
    pub first: Id,
    /// Id of the last entry ever added.
    pub last: Id,
    /// Highest id ever deleted.
    pub max_deleted: Id,
    /// Number of entries ever added.
    pub entries_added: u64,
    /// Number of groups.
    pub groups: u64,
}

/// Packs the entries of a stream into nodes, as a server does. Their number stands before them in the file and is
/// known behind them, so they go to `out` first: a buffer, or a temporary file.
#[derive(Debug)]
pub struct Nodes<W: Write> {
    out: W,
    master: Id,
    names: Vec<Vec<u8>>,
    head: Packer,
    entries: Packer,
    in_node: i64,
    /// Where the id and the flags of the entry at hand go before its fields are known to be the node's.
    fields: Vec<(usize, usize, usize)>,
    text: Vec<u8>,
    record: Vec<u8>,
    /// Number of nodes that are finished.
    pub nodes: u64,
    /// Number of entries.
    pub length: u64,
    /// Id of the first entry.
    pub first: Option<Id>,
    /// Id of the last one.
    pub last: Option<Id>,
}

impl<W: Write> Nodes<W> {
    /// `short_boundary`: as for [`Packer::new`].
    pub fn new(out: W, short_boundary: bool) -> Nodes<W> {
        Nodes {
            out,
            master: Id::ZERO,
            names: Vec::new(),
            head: Packer::new(short_boundary),
            entries: Packer::new(short_boundary),
            in_node: 0,
            fields: Vec::new(),
            text: Vec::new(),
            record: Vec::new(),
            nodes: 0,
            length: 0,
            first: None,
            last: None,
        }
    }

    /// A field of the next entry.
    pub fn field(&mut self, field: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(field);
        self.text.extend_from_slice(value);
        self.fields
            .push((start, start + field.len(), self.text.len()));
    }

    /// The entry whose fields were given. Ids must ascend; the caller sees to it.
    pub fn entry(&mut self, id: Id) -> io::Result<()> {
        let Nodes { text, fields, .. } = self;
        let same = self.in_node > 0
            && fields.len() == self.names.len()
            && fields
                .iter()
                .zip(&self.names)
                .all(|(&(from, to, _), name)| text[from..to] == name[..]);
        let more: usize = text.len() + 11 * fields.len() + 30;
        if self.in_node > 0
            && (self.in_node >= NODE_ENTRIES
                || self.head.len() + self.entries.len() + more > NODE_BYTES)
        {
            self.close()?;
            return self.entry(id);
        }
        if self.in_node == 0 {
            self.master = id;
            self.names.clear();
            let names = self
                .fields
                .iter()
                .map(|&(from, to, _)| self.text[from..to].to_vec());
            self.names.extend(names);
        }
        let same = same || self.in_node == 0;
        let n = self.fields.len() as i64;
        let entries = &mut self.entries;
        entries.push_int(if same { SAME_FIELDS } else { 0 });
        entries.push_int(id.ms.wrapping_sub(self.master.ms) as i64);
        entries.push_int(id.seq.wrapping_sub(self.master.seq) as i64);
        if !same {
            entries.push_int(n);
        }
        for &(from, between, to) in &self.fields {
            if !same {
                entries.push(&self.text[from..between]);
            }
            entries.push(&self.text[between..to]);
        }
        entries.push_int(if same { n + 3 } else { 2 * n + 4 });
        self.text.clear();
        self.fields.clear();
        self.in_node += 1;
        self.length += 1;
        self.first.get_or_insert(id);
        self.last = Some(id);
        Ok(())
    }

    /// Writes the last node and gives back what all were written to.
    pub fn finish(&mut self) -> io::Result<&mut W> {
        self.close()?;
        Ok(&mut self.out)
    }

    fn close(&mut self) -> io::Result<()> {
        if self.in_node == 0 {
            return Ok(());
        }
        self.head.clear();
        self.head.push_int(self.in_node);
        self.head.push_int(0); // deleted
        self.head.push_int(self.names.len() as i64);
        for name in &self.names {
            self.head.push(name);
        }
        self.head.push_int(0);
        self.head.append(&self.entries);
        let blob = self.head.finish();
        self.record.clear();
        self.record.push(16);
        self.record.extend_from_slice(&self.master.ms.to_be_bytes());
        self.record
            .extend_from_slice(&self.master.seq.to_be_bytes());
        write_length(&mut self.record, blob.len() as u64);
        self.out.write_all(&self.record)?;
        self.out.write_all(&blob)?;
        drop(blob);
        self.entries.clear();
        self.in_node = 0;
        self.nodes += 1;
        Ok(())
    }
}

/// The entry has the fields of its node's first one.
const SAME_FIELDS: i64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::listpack::Boundary;
    use crate::encoding::string::Scratch;
    use crate::rdb::scan::{Along, Scanner, Span};
    use crate::rdb::{Attributes, Format, Reader, Record};
    use crate::value::stream::{Tail, for_each_entry};
    use crate::value::{Head, Room, Templates, check};

    fn id(ms: u64, seq: u64) -> Id {
        Id { ms, seq }
    }

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    /// 250 entries: fields alike, others, none at all, a large one; ids whose sequence falls.
    fn entries() -> Vec<(Id, Fields)> {
        (0..250u64)
            .map(|n| {
                let pair = |name: &str, value: Vec<u8>| (name.as_bytes().to_vec(), value);
                let fields = match n {
                    50..60 => vec![pair("other", b"12".to_vec())],
                    77 => vec![pair("temperature", vec![b'x'; 5000])],
                    99 => Vec::new(),
                    _ => vec![
                        pair("temperature", n.to_string().into()),
                        pair("", b"-0".to_vec()),
                    ],
                };
                (
                    id(1000 + n / 10 * 1_000_000_000, 100 - n / 10 + n % 10),
                    fields,
                )
            })
            .collect()
    }

    fn stream<W: Write>(writer: &mut Writer<W>, ty: TypeByte) {
        let mut nodes = Nodes::new(Vec::new(), false);
        for (id, fields) in entries() {
            for (field, value) in fields {
                nodes.field(&field, &value);
            }
            nodes.entry(id).unwrap();
        }
        let packed = nodes.finish().unwrap().clone();
        assert!(nodes.nodes > 3);
        writer.length(nodes.nodes).unwrap();
        writer.raw(&packed).unwrap();
        let (first, last) = (nodes.first.unwrap(), nodes.last.unwrap());
        let counters = Counters {
            length: nodes.length,
            first,
            last,
            max_deleted: id(999, 7),
            entries_added: 300,
            groups: 1,
        };
        writer.stream_counters(ty, &counters).unwrap();
        writer.group(ty, b"group", last, -1, 2).unwrap();
        for (id, time_ms) in [(first, 5), (last, 0)] {
            writer
                .delivery(&Delivery {
                    id,
                    time_ms,
                    count: 3,
                })
                .unwrap();
        }
        writer.length(1).unwrap();
        if ty == TypeByte::StreamListpacks5 {
            writer.consumer(ty, b"alice", 70, -1, 1).unwrap();
            writer.id(first).unwrap();
            writer.length(1).unwrap();
            writer.id(last).unwrap();
        } else {
            writer.consumer(ty, b"alice", 70, -1, 2).unwrap();
            writer.id(first).unwrap();
            writer.id(last).unwrap();
        }
        if matches!(ty, TypeByte::StreamListpacks4 | TypeByte::StreamListpacks5) {
            writer.idmp(100, 50, 1).unwrap();
            writer.string(b"producer").unwrap();
            writer.length(1).unwrap();
            writer.idmp_record(b"record", first).unwrap();
            writer.length(9).unwrap();
            writer.length(4).unwrap();
        }
    }

    const STREAMS: [TypeByte; 5] = [
        TypeByte::StreamListpacks,
        TypeByte::StreamListpacks2,
        TypeByte::StreamListpacks3,
        TypeByte::StreamListpacks4,
        TypeByte::StreamListpacks5,
    ];

    #[test]
    fn streams_come_back() {
        for ty in STREAMS {
            let mut writer = Writer::new(Vec::new(), 14).unwrap();
            writer.key(&Attributes::default(), ty.byte(), b"s").unwrap();
            stream(&mut writer, ty);
            let file = writer.finish().unwrap();
            let mut start = crate::cursor::Cursor::new(&file, 0);
            let format = Format::parse(&mut start, false).unwrap();
            let mut reader = Reader::new(start, format, start.pos());
            assert!(matches!(reader.next().unwrap(), Record::Key(_)));
            let mut c = reader.c;
            let head = Head::parse(&mut c, ty, &Templates::default()).unwrap();
            let mut found = Vec::new();
            for_each_entry(
                &mut c,
                head.items,
                &mut Scratch::new(1 << 20),
                &mut None,
                &mut Boundary::default(),
                |entry| {
                    let mut fields = Vec::new();
                    entry.for_each(|field, value| {
                        let text = |e: Element<'_>| e.as_bytes(&mut itoa::Buffer::new()).to_vec();
                        fields.push((text(field), text(value)));
                        Ok(())
                    })?;
                    found.push((entry.id, fields));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(found, entries());
            let tail = Tail::parse(&mut c, ty).unwrap();
            assert_eq!((tail.length, tail.groups.count), (250, 1));
            let knows_more = ty != TypeByte::StreamListpacks;
            assert_eq!(tail.entries_added, if knows_more { 300 } else { 250 });
            assert_eq!(tail.max_deleted == id(999, 7), knows_more);
            assert_eq!(c.u8().unwrap(), crate::rdb::opcode::EOF);
        }
    }

    #[test]
    fn what_is_written_passes_the_deep_check() {
        let mut writer = Writer::new(Vec::new(), 14).unwrap();
        let none = Attributes::default();
        writer.key(&none, 1, b"list").unwrap();
        writer.length(2).unwrap();
        writer.string(b"a").unwrap();
        writer.string(b"a").unwrap();
        writer.key(&none, 5, b"zset").unwrap();
        writer.length(2).unwrap();
        writer.member(b"a", -0.0).unwrap();
        writer.member(b"b", f64::INFINITY).unwrap();
        writer.key(&none, 24, b"hash").unwrap();
        writer.expiring_head(1_900_000_000_000, 2).unwrap();
        for at in [None, Some(1_900_000_000_005)] {
            let field = format!("{at:?}");
            writer
                .expiring_field(1_900_000_000_000, at, field.as_bytes(), b"v")
                .unwrap();
        }
        writer.key(&none, 28, b"array").unwrap();
        writer.array_head(3, Some(9)).unwrap();
        for (index, value) in [
            (0, Value::Element(Element::Bytes(b"longer than seven"))),
            (5, Value::Element(Element::Bytes(b"short"))),
            (9, Value::Double(3.25)),
        ] {
            writer.array_element(index, value).unwrap();
        }
        for ty in STREAMS {
            writer.key(&none, ty.byte(), &[ty.byte()]).unwrap();
            stream(&mut writer, ty);
        }
        let file = writer.finish().unwrap();
        let mut scanner = Scanner::new(&file, Along::Check, false, false).unwrap();
        let (mut room, mut seen) = (Room::new(1 << 20), check::Seen::default());
        let mut elements = Vec::new();
        while let Some(task) = scanner.next_task().unwrap() {
            let Span::Records { from, to } = task.span else {
                panic!("no key was to be cut")
            };
            let file = crate::cursor::Cursor::new(&file, 0);
            let mut reader = Reader::new(file, scanner.format(), from);
            while reader.c.pos() < to {
                let Record::Key(key) = reader.next().unwrap() else {
                    continue;
                };
                let c = &mut reader.c;
                let found = check::check(c, key.ty, &task.templates, &mut room, &mut seen).unwrap();
                elements.push(found.elements);
            }
        }
        assert_eq!(elements, [2, 2, 2, 3, 250, 250, 250, 250, 250]);
    }
}
