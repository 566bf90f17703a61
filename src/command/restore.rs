//! Keys of a snapshot → RESTORE, from their raw span (FORMAT §5.2).

use super::encode::{Encoder, OnExist, One, Outcome};
use super::stream::{count_what_is_lost, has_released};
use super::target::{Feature, Target};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::crc64::{Crc64, crc64};
use crate::encoding::length::write_length;
use crate::encoding::listpack::Boundary;
use crate::error::{ErrorKind, Result};
use crate::resp::write::{LARGE, Out};
use crate::tally::Tally;
use crate::value::hash::{self, Source};
use crate::value::stream::for_each_piece_as;
use crate::value::{Head, Kind, TypeByte, check};

/// The largest payload that one argument may hold by default.
const MOST_PAYLOAD: u64 = 512 << 20;
/// Version of the payload and its checksum.
const FOOTER: usize = 10;

pub(super) enum Done {
    Outcome(Outcome),
    /// The payload holds an entry that servers before and after 8.8 store differently.
    Boundary,
}

/// RDB version that the payload of this type is signed with. Template hashes, whose file form RESTORE
/// does not take, are written as plain hashes, which every server knows.
pub(super) fn version(ty: TypeByte) -> u16 {
    if ty.is_template() {
        TypeByte::Hash.restore_version()
    } else {
        ty.restore_version()
    }
}

/// The type under which a payload is written. A stream that is too new for the target is written as the newest type of
/// stream that it takes: each has only fields more than the one before it.
fn written_as(ty: TypeByte, target: &Target) -> TypeByte {
    use TypeByte::{Hash, StreamListpacks, StreamListpacks2, StreamListpacks3};
    if ty.is_template() {
        return Hash;
    }
    if ty.kind() != Kind::Stream || target.takes_payload(ty.restore_version()) {
        return ty;
    }
    [StreamListpacks3, StreamListpacks2, StreamListpacks]
        .into_iter()
        .find(|older| older.byte() < ty.byte() && target.takes_payload(older.restore_version()))
        .unwrap_or(ty)
}

impl Encoder<'_> {
    /// Writes a key as RESTORE. Its value, which ends at `value_end`, is checked deeply before: servers
    /// by default look at little more than the checksum, and stumble later.
    pub(super) fn restore(
        &mut self,
        one: &One<'_, '_>,
        value_end: usize,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<Done> {
        let settings = self.settings;
        let target = &settings.target;
        let ty = one.record.ty;
        let written = written_as(ty, target);
        let meta = one.record.attributes.meta.filter(|_| self.takes_meta());
        let version = if meta.is_some() {
            written.restore_version().max(13)
        } else {
            written.restore_version()
        };
        let rejected = |error| {
            Ok(Done::Outcome(Outcome::Rejected {
                command: "RESTORE",
                error,
            }))
        };
        if !target.has(Feature::Restore) || !target.takes_payload(version) {
            let numbering = if version >= 80 { "Valkey's " } else { "" };
            return rejected(format!(
                "RESTORE of type {} needs a server that reads {numbering}RDB version {version}; the target is {}",
                ty.byte(),
                target.shown()
            ));
        }
        let mut c = one.value;
        let found = check::check(&mut c, ty, one.templates, &mut self.room, &mut self.seen)?;
        if c.pos() != value_end {
            return Err(c.error(ErrorKind::BadCount {
                what: "bytes",
                count: value_end as u64,
                left: c.remaining() as u64,
            }));
        }
        if found.elements == 0 && ty.kind() != Kind::Stream {
            return Ok(Done::Outcome(Outcome::Empty));
        }
        let differs = match target.short_boundary() {
            Some(true) => found.boundary.long,
            Some(false) => found.boundary.short,
            None => found.boundary.any(),
        };
        if differs && !ty.is_template() && ty.kind() != Kind::Module {
            return Ok(Done::Boundary);
        }
        let meta = meta.map_or(&[][..], |(from, to)| one.value.slice(from, to));
        let body = one.value.slice(one.value.pos(), value_end);
        let other_len = if ty.is_template() {
            Some(self.template_hash(one, |_| Ok(()))?)
        } else if written != ty {
            if has_released(one)? {
                return Ok(Done::Outcome(Outcome::needs(
                    "XNACK",
                    Feature::Xnack,
                    target,
                )));
            }
            let mut len = 0;
            for_each_piece_as(one.value, ty, written, |piece| {
                len += piece.len() as u64;
                Ok(())
            })?;
            Some(len)
        } else {
            None
        };
        let payload = (meta.len() + 1 + FOOTER) as u64 + other_len.unwrap_or(body.len() as u64);
        if payload > MOST_PAYLOAD {
            return rejected(format!(
                "its payload of {payload} bytes is more than one argument may hold (512 MiB); --mode commands cuts it"
            ));
        }

        let replace = matches!(self.on_exist, OnExist::Replace | OnExist::AskFirst);
        if replace && !target.has(Feature::RestoreReplace) {
            out.command(&[b"DEL", one.key])?;
        }
        let replace = replace && target.has(Feature::RestoreReplace);
        let options = target.has(Feature::RestoreAbsTtl);
        let expiry = one.expire_at_ms.filter(|_| options);
        let (idle, freq) = if options {
            let freq = one.record.attributes.freq;
            (
                one.record.attributes.idle_secs.filter(|_| freq.is_none()),
                freq,
            )
        } else {
            (None, None)
        };
        let hint = idle.is_some() || freq.is_some();
        out.array(4 + u64::from(replace) + u64::from(expiry.is_some()) + 2 * u64::from(hint));
        out.bulk(b"RESTORE");
        out.bulk_any(one.key)?;
        // A time before 1970 is as past as one just after it, and 0 would mean none.
        out.bulk_int(expiry.map_or(0, |at| at.max(1)));
        out.bulk_head(payload);
        let type_byte = written.byte();
        if other_len.is_none() && payload < LARGE as u64 {
            let start = out.pos();
            out.raw(meta);
            out.raw(&[type_byte]);
            out.raw(body);
            out.raw(&version.to_le_bytes());
            let crc = crc64(out.since(start));
            out.raw(&crc.to_le_bytes());
        } else {
            let mut crc = Crc64::new();
            let mut put = |out: &mut Out<'_>, bytes: &[u8]| {
                crc.update(bytes);
                out.large(bytes)
            };
            put(out, meta)?;
            put(out, &[type_byte])?;
            if ty.is_template() {
                self.template_hash(one, |bytes| put(out, bytes))?;
            } else if written != ty {
                for_each_piece_as(one.value, ty, written, |piece| put(out, piece))?;
            } else {
                put(out, body)?;
            }
            put(out, &version.to_le_bytes())?;
            out.raw(&crc.value().to_le_bytes());
        }
        out.raw(b"\r\n");
        if replace {
            out.bulk(b"REPLACE");
        }
        if expiry.is_some() {
            out.bulk(b"ABSTTL");
        }
        if let Some(secs) = idle {
            out.bulk(b"IDLETIME");
            // More than a century is as idle as a century, and servers refuse what they cannot hold.
            out.bulk_int(secs.min(u64::from(u32::MAX)) as i64);
        }
        if let Some(n) = freq {
            out.bulk(b"FREQ");
            out.bulk_int(i64::from(n));
        }
        out.end()?;
        if ty.kind() == Kind::Stream && written != ty {
            count_what_is_lost(one, written, tally)?;
        }
        if let (Some(at), false) = (one.expire_at_ms, options) {
            self.expire(one.key, at, out)?;
        }
        Ok(Done::Outcome(Outcome::Written))
    }

    /// Pushes the bytes of a template hash as a plain one (type 4) and gives their number.
    fn template_hash(
        &mut self,
        one: &One<'_, '_>,
        mut put: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut c: Cursor<'_> = one.value;
        let head = Head::parse(&mut c, one.record.ty, one.templates)?;
        let source = Source {
            file: one.value,
            templates: one.templates,
            head,
        };
        let mut pairs = 0;
        let mut len = 0;
        let mut count = |field: Element<'_>, value: Element<'_>| {
            pairs += 1;
            len += (field.len() + value.len()) as u64;
            let mut heads = Vec::new();
            write_length(&mut heads, field.len() as u64);
            write_length(&mut heads, value.len() as u64);
            len += heads.len() as u64;
        };
        let mut boundary = Boundary::default();
        let mut walk = c;
        hash::for_each(
            &mut walk,
            one.record.ty,
            head.items,
            source,
            &mut self.room,
            &mut boundary,
            |f, v, _| {
                count(f, v);
                Ok(())
            },
        )?;
        let mut text = Vec::new();
        write_length(&mut text, pairs);
        len += text.len() as u64;
        put(&text)?;
        hash::for_each(
            &mut c,
            one.record.ty,
            head.items,
            source,
            &mut self.room,
            &mut boundary,
            |f, v, _| {
                for element in [f, v] {
                    let mut digits = itoa::Buffer::new();
                    let bytes = element.as_bytes(&mut digits);
                    text.clear();
                    write_length(&mut text, bytes.len() as u64);
                    put(&text)?;
                    put(bytes)?;
                }
                Ok(())
            },
        )?;
        Ok(len)
    }
}
