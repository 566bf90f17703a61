//! Streams → JSON lines: entries, counters, groups, producers, each cut where a line has become long.

use super::{Lines, One, Out};
use crate::command::encode::Encoder;
use crate::cursor::Cursor;
use crate::encoding::listpack::Boundary;
use crate::error::{Error, ErrorKind, Result};
use crate::jsonl::text::{element, int, name, uint};
use crate::value::TypeByte;
use crate::value::stream::{
    Consumer, Delivery, Group, Id, Idmp, PendingIndex, Tail, for_each_entry, has_active_times,
};

impl Encoder<'_> {
    pub(super) fn stream_lines(
        &mut self,
        one: &One<'_, '_>,
        c: &mut Cursor<'_>,
        nodes: u64,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let ty = one.record.ty;
        let mut lines = Lines::begin(
            one,
            "stream",
            None,
            b",\"value\":{\"entries\":[",
            b"]}",
            out,
        );
        let mut boundary = Boundary::default();
        let mut last = None;
        for_each_entry(
            c,
            nodes,
            &mut self.room.one,
            &mut last,
            &mut boundary,
            |entry| {
                let mut largest = 0;
                entry.for_each(|field, value| {
                    largest = largest.max(field.len()).max(value.len());
                    Ok(())
                })?;
                lines.push(out, largest, |out| {
                    out.raw(b"[");
                    id(out, entry.id);
                    out.raw(b",[");
                    let mut first = true;
                    entry.for_each(|field, value| {
                        out.raw(if std::mem::take(&mut first) {
                            b"["
                        } else {
                            b",["
                        });
                        element(out, field)?;
                        out.raw(b",");
                        element(out, value)?;
                        out.raw(b"]");
                        Ok(())
                    })?;
                    out.raw(b"]]");
                    Ok(())
                })
            },
        )?;
        lines.go_on(out)?;
        let start = *c;
        let tail = Tail::parse(c, ty)?;
        if last.is_some_and(|last| last > tail.last) {
            return Err(start.error(ErrorKind::BadStream("has a last id below its last entry")));
        }
        // Servers before 8.8 take a length that is wrong; what counts is what is there.
        out.raw(b"],\"length\":");
        uint(out, lines.total);
        out.raw(b",\"last_id\":");
        id(out, tail.last);
        // What older types do not know is left out.
        if ty != TypeByte::StreamListpacks {
            out.raw(b",\"max_deleted_id\":");
            id(out, tail.max_deleted);
            out.raw(b",\"entries_added\":");
            uint(out, tail.entries_added);
        }
        out.raw(b",\"groups\":[");
        lines.in_line = 0;
        let groups = lines.nest(b",\"value\":{\"groups\":[", b"]}");
        let mut names = Names::default();
        tail.groups
            .for_each(|group| self.group_lines(&mut lines, ty, &group, &mut names, out))?;
        lines.leave(groups);
        if let Some(idmp) = tail.idmp {
            self.idmp_lines(&mut lines, idmp, out)?;
        }
        lines.finish(out)
    }

    fn group_lines(
        &mut self,
        lines: &mut Lines<'_, '_>,
        ty: TypeByte,
        group: &Group<'_>,
        names: &mut Names,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let broken = |what| Error::new(ErrorKind::BadStream(what), group.start.at());
        let mut own = b"{\"name\":".to_vec();
        element(&mut own, group.name.load(&mut self.room.one)?)?;
        if !names.is_next(&own) {
            return Err(broken("has two groups of one name"));
        }
        lines.next(out)?;
        out.raw(&own);
        out.raw(b",\"last_delivered_id\":");
        id(out, group.last);
        if ty != TypeByte::StreamListpacks {
            out.raw(b",\"entries_read\":");
            int(out, group.entries_read);
        }
        out.raw(b",\"consumers\":[");
        let index = PendingIndex::new(group.pending)?;
        let mut owned = Owned::new(group.pending.count);
        let mut names = Names::default();
        let outside = lines.opening.clone();
        let inner = |list: &[u8]| [&outside[..], &own, list].concat();
        let nested = lines.nest(&inner(b",\"consumers\":["), b"]}]}");
        group.consumers.for_each(|consumer| {
            self.consumer_lines(lines, ty, &consumer, (&index, &mut owned, &mut names), out)?
                .map_err(broken)
        })?;
        out.raw(b"]");
        if !group.nacked.is_empty() {
            out.raw(b",\"released\":[");
            lines.nest(&inner(b",\"released\":["), b"]}]}");
            for released in group.nacked.iter() {
                let found = index.find(released)?;
                let (n, delivery) =
                    found.ok_or_else(|| broken("has a released entry that is not pending"))?;
                owned.take(n).map_err(broken)?;
                pending(lines, &delivery, out)?;
            }
            out.raw(b"]");
        }
        if owned.count != group.pending.count {
            return Err(broken("has a pending entry without an owner"));
        }
        out.raw(b"}");
        lines.leave(nested);
        Ok(())
    }

    /// `Err` inside where it owns what it cannot.
    fn consumer_lines(
        &mut self,
        lines: &mut Lines<'_, '_>,
        ty: TypeByte,
        consumer: &Consumer<'_>,
        (index, taken, names): (&PendingIndex<'_>, &mut Owned, &mut Names),
        out: &mut Out<'_>,
    ) -> Result<std::result::Result<(), &'static str>> {
        let mut own = b"{\"name\":".to_vec();
        element(&mut own, consumer.name.load(&mut self.room.two)?)?;
        if !names.is_next(&own) {
            return Ok(Err("group has two consumers of one name"));
        }
        lines.next(out)?;
        out.raw(&own);
        out.raw(b",\"seen_time_ms\":");
        int(out, consumer.seen_time_ms);
        if has_active_times(ty) {
            out.raw(b",\"active_time_ms\":");
            int(out, consumer.active_time_ms.unwrap_or(-1));
        }
        out.raw(b",\"pending\":[");
        let opening = [&lines.opening[..], &own, b",\"pending\":["].concat();
        let nested = lines.nest(&opening, b"]}]}]}");
        for owned in consumer.ids.iter() {
            let Some((n, delivery)) = index.find(owned)? else {
                return Ok(Err(
                    "consumer owns an entry that is not pending in its group",
                ));
            };
            if let Err(what) = taken.take(n) {
                return Ok(Err(what));
            }
            pending(lines, &delivery, out)?;
        }
        out.raw(b"]}");
        lines.leave(nested);
        Ok(Ok(()))
    }

    fn idmp_lines(
        &mut self,
        lines: &mut Lines<'_, '_>,
        idmp: Idmp<'_>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        out.raw(b"],\"idmp\":{\"duration_secs\":");
        uint(out, idmp.duration_secs);
        out.raw(b",\"max_size\":");
        uint(out, idmp.max_size);
        out.raw(b",\"added\":");
        uint(out, idmp.added);
        out.raw(b",\"duplicates\":");
        uint(out, idmp.duplicates);
        out.raw(b",\"producers\":[");
        let outside = b",\"value\":{\"idmp\":{\"producers\":[";
        lines.in_line = 0;
        lines.nest(outside, b"]}}");
        let mut own: Vec<u8> = Vec::new();
        let mut next_own = Vec::new();
        idmp.for_each(&mut self.room, |producer, record, entry| {
            next_own.clear();
            next_own.push(b'[');
            element(&mut next_own, producer)?;
            if next_own != own {
                if !own.is_empty() {
                    out.raw(b"]]");
                    lines.nest(outside, b"]}}");
                    lines.in_line = 1;
                }
                lines.next(out)?;
                std::mem::swap(&mut own, &mut next_own);
                out.raw(&own);
                out.raw(b",[");
                lines.nest(&[&outside[..], &own, b",["].concat(), b"]]]}}");
            }
            lines.push(out, 0, |out| {
                out.raw(b"[");
                let mut digits = itoa::Buffer::new();
                name(out, record.as_bytes(&mut digits));
                out.raw(b",");
                id(out, entry);
                out.raw(b"]");
                Ok(())
            })
        })?;
        if own.is_empty() {
            lines.nest(outside, b"]}}");
        }
        Ok(())
    }
}

/// Which pending entries have an owner, a bit each.
struct Owned {
    bits: Vec<u64>,
    count: u64,
}

impl Owned {
    fn new(pending: u64) -> Owned {
        // Each takes 25 bytes of the file, so the file has paid for its bit.
        Owned {
            bits: vec![0; pending as usize / 64 + 1],
            count: 0,
        }
    }

    fn take(&mut self, n: u64) -> std::result::Result<(), &'static str> {
        let (word, bit) = (&mut self.bits[n as usize / 64], 1 << (n % 64));
        if *word & bit != 0 {
            return Err("has a pending entry with two owners");
        }
        *word |= bit;
        self.count += 1;
        Ok(())
    }
}

/// The names of groups or consumers: whoever reads the lines takes two in a row for one that goes on.
#[derive(Default)]
struct Names(Vec<u8>);

impl Names {
    fn is_next(&mut self, name: &[u8]) -> bool {
        let is = self.0 != name;
        self.0.clear();
        self.0.extend_from_slice(name);
        is
    }
}

/// What opened and closed the value outside of a nested list.
struct Outside(Vec<u8>, &'static [u8]);

impl Lines<'_, '_> {
    /// What follows stands in a list inside the present one.
    fn nest(&mut self, opening: &[u8], closing: &'static [u8]) -> Outside {
        self.in_line = 0;
        let outside = std::mem::replace(&mut self.opening, opening.to_vec());
        Outside(outside, std::mem::replace(&mut self.closing, closing))
    }

    /// The nested list is closed, and one more element of that around it stands.
    fn leave(&mut self, outside: Outside) {
        Outside(self.opening, self.closing) = outside;
        self.in_line = 1;
    }
}

fn pending(lines: &mut Lines<'_, '_>, delivery: &Delivery, out: &mut Out<'_>) -> Result<()> {
    lines.push(out, 0, |out| {
        out.raw(b"[");
        id(out, delivery.id);
        out.raw(b",");
        int(out, delivery.time_ms);
        out.raw(b",");
        uint(out, delivery.count);
        out.raw(b"]");
        Ok(())
    })
}

fn id(out: &mut Out<'_>, id: Id) {
    let mut digits = itoa::Buffer::new();
    out.raw(b"\"");
    out.raw(digits.format(id.ms).as_bytes());
    out.raw(b"-");
    out.raw(digits.format(id.seq).as_bytes());
    out.raw(b"\"");
}
