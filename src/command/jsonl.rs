//! Keys of a snapshot → JSON lines (`src/jsonl/format.md`).
//!
//! Bytes of a line that is not ended stay in the block, so that a key that turns out to be broken can be taken back up
//! to a line's end. The exception are giant elements: behind one the line is ended at once.

use super::encode::{Encoder, One, Outcome};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::{Scratch, Str, string};
use crate::error::Result;
use crate::jsonl::text::{GIANT, base64, binary_name, double, element, int, name, text, uint};
use crate::jsonl::{LINE_BYTES, VERSION};
use crate::rdb::{Format, Reader, Record, type_name};
use crate::resp::write::Out;
use crate::tally::{Limit, Tally};
use crate::value::array::{self, Value};
use crate::value::hash::{self, Source};
use crate::value::{Head, Kind, list, set, zset};

mod stream;

/// Bytes of a string that go into one line.
const PIECE: usize = LINE_BYTES / 4 * 3;

/// Longer fields of the file's head are left out; servers write none.
const AUX_BYTES: u64 = 1024;

/// The line that stands before all others: what the lines are, and what the file says of itself.
pub(super) fn head(mut reader: Reader<'_>, format: Format, out: &mut Out<'_>) -> Result<()> {
    out.raw(b"{\"jsonl\":\"redis-migration\",\"version\":");
    uint(out, VERSION);
    out.raw(b",\"rdb\":\"");
    out.raw(format.magic().as_bytes());
    out.raw(b"\",\"aux\":[");
    let mut scratch = Scratch::new(1 << 16);
    let mut separator: &[u8] = b"[";
    // What is broken there is reported when it is converted.
    while let Ok(Record::Aux { name: field, value }) = reader.next() {
        if field.len() > AUX_BYTES || value.len() > AUX_BYTES || is_script(field) {
            continue;
        }
        out.raw(separator);
        separator = b",[";
        element(out, field.load(&mut scratch)?)?;
        out.raw(b",");
        element(out, value.load(&mut scratch)?)?;
        out.raw(b"]");
    }
    out.raw(b"]}\n");
    out.end()
}

/// Whether an AUX record holds a cached script.
pub(super) fn is_script(name: Str<'_>) -> bool {
    matches!(name, Str::Raw(b"lua"))
}

/// A line that holds one text.
pub(super) fn single(field: &str, bytes: &[u8], out: &mut Out<'_>) -> Result<()> {
    out.raw(b"{\"");
    out.raw(field.as_bytes());
    out.raw(b"\":");
    text(out, bytes)?;
    out.raw(b"}\n");
    out.end()
}

/// Data of a module that belongs to no key.
pub(super) fn module_aux(module: &str, record: &[u8], out: &mut Out<'_>) -> Result<()> {
    out.raw(b"{\"module_aux\":");
    name(out, module.as_bytes());
    out.raw(b",\"raw\":");
    base64(out, record)?;
    out.raw(b"}\n");
    out.end()
}

/// What stands of a key so far is not the whole of it, and no more comes.
pub(super) fn dropped(db: u64, key: &[u8], out: &mut Out<'_>) -> Result<()> {
    out.raw(b"{\"db\":");
    uint(out, db);
    out.raw(b",\"key\":");
    name(out, key);
    out.raw(b",\"dropped\":true}\n");
    out.end()
}

/// A string without attributes that is known to be short.
#[inline]
pub(super) fn plain_string(db: &[u8], key: &[u8], value: &[u8], out: &mut Out<'_>) -> Result<()> {
    out.raw(b"{\"db\":");
    out.raw(db);
    out.raw(b",\"key\":");
    text(out, key)?;
    out.raw(b",\"type\":\"string\",\"value\":");
    text(out, value)?;
    out.raw(b"}\n");
    out.end()
}

/// The lines of a key.
struct Lines<'k, 'a> {
    one: &'k One<'a, 'k>,
    type_name: &'k str,
    /// The array's insert cursor.
    cursor: Option<u64>,
    /// What opens the value, and again in each further line.
    opening: Vec<u8>,
    /// What closes it.
    closing: &'static [u8],
    part: u64,
    /// Where the present line begins in the block.
    from: usize,
    /// Elements of the innermost list in the present line.
    in_line: u64,
    /// The line was ended behind a giant, and no other was begun.
    ended: bool,
    /// Elements in all.
    total: u64,
}

impl<'k, 'a> Lines<'k, 'a> {
    fn begin(
        one: &'k One<'a, 'k>,
        type_name: &'k str,
        cursor: Option<u64>,
        opening: &[u8],
        closing: &'static [u8],
        out: &mut Out<'_>,
    ) -> Lines<'k, 'a> {
        let mut lines = Lines {
            one,
            type_name,
            cursor,
            opening: opening.to_vec(),
            closing,
            part: 0,
            from: 0,
            in_line: 0,
            ended: false,
            total: 0,
        };
        lines.begin_line(out);
        lines
    }

    fn begin_line(&mut self, out: &mut Out<'_>) {
        let one = self.one;
        self.from = out.pos();
        self.in_line = 0;
        self.ended = false;
        out.raw(b"{\"db\":");
        uint(out, one.db);
        out.raw(b",\"key\":");
        name(out, one.key);
        out.raw(b",\"type\":");
        name(out, self.type_name.as_bytes());
        if self.part > 0 {
            out.raw(b",\"part\":");
            uint(out, self.part);
        } else {
            self.attributes(out);
        }
        out.raw(&self.opening);
    }

    fn attributes(&self, out: &mut Out<'_>) {
        let record = &self.one.record;
        if let Some(at) = self.one.expire_at_ms {
            out.raw(b",\"expires_at_ms\":");
            int(out, at);
        }
        if let Some(idle) = record.attributes.idle_secs {
            out.raw(b",\"idle_secs\":");
            uint(out, idle);
        }
        if let Some(freq) = record.attributes.freq {
            out.raw(b",\"freq\":");
            uint(out, u64::from(freq));
        }
        if let Some((from, to)) = record.attributes.meta {
            out.raw(b",\"meta\":");
            binary_name(out, self.one.value.slice(from, to));
        }
        if let Some(cursor) = self.cursor {
            out.raw(b",\"cursor\":");
            uint(out, cursor);
        }
    }

    /// Ends the line before the key is at its end.
    fn interrupt(&mut self, out: &mut Out<'_>) -> Result<()> {
        out.raw(self.closing);
        out.raw(b",\"more\":true}\n");
        self.part += 1;
        self.ended = true;
        out.end()
    }

    /// Makes sure that there is a line to go on in.
    #[inline]
    fn go_on(&mut self, out: &mut Out<'_>) -> Result<()> {
        if !self.ended && self.in_line > 0 && out.pos() - self.from >= LINE_BYTES {
            self.interrupt(out)?;
        }
        if self.ended {
            self.begin_line(out);
        }
        Ok(())
    }

    /// Goes on, with a comma where one belongs.
    #[inline]
    fn next(&mut self, out: &mut Out<'_>) -> Result<()> {
        self.go_on(out)?;
        if self.in_line > 0 {
            out.raw(b",");
        }
        self.in_line += 1;
        Ok(())
    }

    /// Writes an element, of which `bytes` is the larger part's size.
    #[inline]
    fn push(
        &mut self,
        out: &mut Out<'_>,
        bytes: usize,
        write: impl FnOnce(&mut Out<'_>) -> Result<()>,
    ) -> Result<()> {
        self.next(out)?;
        write(out)?;
        self.total += 1;
        if bytes >= GIANT {
            self.interrupt(out)?;
        }
        Ok(())
    }

    /// Ends the key.
    fn finish(mut self, out: &mut Out<'_>) -> Result<()> {
        if self.ended {
            self.begin_line(out);
        }
        out.raw(self.closing);
        out.raw(b"}\n");
        out.end()
    }
}

const LIST: &[u8] = b",\"value\":[";

impl Encoder<'_> {
    /// Writes a key as lines; leaves `c` behind its value.
    pub(super) fn lines<'a>(
        &mut self,
        one: &One<'a, '_>,
        c: &mut Cursor<'a>,
        skip_value: &dyn Fn(&mut Cursor<'a>) -> Result<()>,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<Outcome> {
        let ty = one.record.ty;
        let kind = ty.kind();
        match kind {
            Kind::String => {
                let value = string(c)?;
                return self.string_lines(one, value, out);
            }
            Kind::Module | Kind::Gcra | Kind::PathHash => {
                skip_value(c)?;
                return raw_lines(one, c, out);
            }
            Kind::List | Kind::Set | Kind::Zset | Kind::Hash | Kind::Array | Kind::Stream => {}
        }
        let head = Head::parse(c, ty, one.templates)?;
        let items = head.items;
        if kind == Kind::Stream {
            self.stream_lines(one, c, items, out)?;
            return Ok(Outcome::Written);
        }
        let cursor = head.cursor;
        let mut lines = Lines::begin(one, kind.name(), cursor, LIST, b"]", out);
        let (room, mut boundary) = (&mut self.room, Boundary::default());
        let mut expired_fields = 0;
        match kind {
            Kind::List => list::for_each(c, ty, items, room, &mut boundary, |e| {
                lines.push(out, e.len(), |out| element(out, e))
            })?,
            Kind::Set => set::for_each(c, ty, items, room, &mut boundary, |e| {
                lines.push(out, e.len(), |out| element(out, e))
            })?,
            Kind::Zset => zset::for_each(c, ty, items, room, &mut boundary, |member, score| {
                lines.push(out, member.len(), |out| {
                    out.raw(b"[");
                    element(out, member)?;
                    out.raw(b",");
                    double(out, score.value());
                    out.raw(b"]");
                    Ok(())
                })
            })?,
            Kind::Hash => {
                let source = Source {
                    file: one.value,
                    templates: one.templates,
                    head,
                };
                let settings = self.settings;
                let filter = &settings.filter;
                hash::for_each(c, ty, items, source, room, &mut boundary, |f, v, expiry| {
                    if expiry.is_some_and(|at| at <= filter.now_ms) && !filter.keep_expired {
                        expired_fields += 1;
                        return Ok(());
                    }
                    let expiry = settings.transform.expiry(expiry);
                    lines.push(out, f.len().max(v.len()), |out| {
                        out.raw(b"[");
                        element(out, f)?;
                        out.raw(b",");
                        element(out, v)?;
                        if let Some(at) = expiry {
                            out.raw(b",");
                            // Nothing before 1970 can be stored; both are past.
                            int(out, at.max(1));
                        }
                        out.raw(b"]");
                        Ok(())
                    })
                })?;
            }
            Kind::Array => array::for_each(c, items, &mut room.one, |index, value| {
                let bytes = match value {
                    Value::Element(e) => e.len(),
                    Value::Double(_) => 0,
                };
                lines.push(out, bytes, |out| {
                    out.raw(b"[");
                    uint(out, index);
                    out.raw(b",");
                    match value {
                        Value::Element(e) => element(out, e)?,
                        Value::Double(n) => text(out, array::double_text(n).as_bytes())?,
                    }
                    out.raw(b"]");
                    Ok(())
                })
            })?,
            Kind::String | Kind::Stream | Kind::Module | Kind::Gcra | Kind::PathHash => {
                unreachable!("{kind:?} is written above")
            }
        }
        tally.limit(Limit::ExpiredFields, expired_fields);
        match (lines.total, expired_fields) {
            (0, 0) => Ok(Outcome::Empty),
            (0, _) => Ok(Outcome::Expired),
            _ => lines.finish(out).map(|()| Outcome::Written),
        }
    }

    fn string_lines(
        &mut self,
        one: &One<'_, '_>,
        value: Str<'_>,
        out: &mut Out<'_>,
    ) -> Result<Outcome> {
        let value = value.load(&mut self.room.one)?;
        let mut lines = Lines::begin(one, "string", None, b",\"value\":", b"", out);
        match value {
            Element::Bytes(bytes) if bytes.len() > PIECE => {
                let mut rest = bytes;
                while rest.len() > PIECE {
                    let (piece, behind) = rest.split_at(piece_end(rest));
                    text(out, piece)?;
                    lines.interrupt(out)?;
                    lines.begin_line(out);
                    rest = behind;
                }
                text(out, rest)?;
            }
            short => element(out, short)?,
        }
        lines.finish(out)?;
        Ok(Outcome::Written)
    }
}

/// Where a piece of text ends: not within a character, if it is UTF-8.
fn piece_end(bytes: &[u8]) -> usize {
    let is_inside = |at: usize| bytes[at] & 0xc0 == 0x80;
    (PIECE - 3..=PIECE)
        .rev()
        .find(|at| !is_inside(*at))
        .unwrap_or(PIECE)
}

/// A value that has no other form than its bytes in the snapshot.
fn raw_lines(one: &One<'_, '_>, c: &Cursor<'_>, out: &mut Out<'_>) -> Result<Outcome> {
    let ty = one.record.ty;
    let mut opening = b",\"rdb_type\":".to_vec();
    opening.extend_from_slice(ty.byte().to_string().as_bytes());
    opening.extend_from_slice(b",\"raw\":");
    let type_name = type_name(ty, one.value);
    let mut lines = Lines::begin(one, &type_name, None, &opening, b"", out);
    let mut pieces = c.slice(one.value.pos(), c.pos()).chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        base64(out, piece)?;
        if pieces.peek().is_some() {
            lines.interrupt(out)?;
            lines.begin_line(out);
        }
    }
    lines.finish(out)?;
    Ok(Outcome::Written)
}
