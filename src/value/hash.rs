//! Hashes: types 4 (plain), 9 (zipmap), 13 (ziplist), 16 (listpack), 22 to 25 (field expiry), Valkey's
//! 22 (HASH_2), 29 to 32 (templates). FORMAT §4.1, §4.2, §4.3, §4.6, §4.7, §4.8, §4.11b.

use super::{Head, Names, Room, Templates, TypeByte};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::{count, length};
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{Scratch, blob, skip_string, string};
use crate::encoding::ziplist::Ziplist;
use crate::encoding::zipmap::Zipmap;
use crate::error::{Error, ErrorKind, Result};

/// What a walk needs to know beside the position.
#[derive(Clone, Copy)]
pub struct Source<'a, 't> {
    /// A cursor anywhere in the file, for templates that stand elsewhere.
    pub file: Cursor<'a>,
    /// The file's templates.
    pub templates: &'t Templates,
    /// The value's head.
    pub head: Head,
}

/// The largest field expiry that servers store.
const MOST_EXPIRY_MS: u64 = (1 << 48) - 1;

/// Pushes field, value and the field's expiry (unix ms) of the next `items` items.
#[inline]
pub fn for_each(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    items: u64,
    source: Source<'_, '_>,
    room: &mut Room,
    boundary: &mut Boundary,
    mut f: impl FnMut(Element<'_>, Element<'_>, Option<i64>) -> Result<()>,
) -> Result<()> {
    match ty {
        TypeByte::Hash => {
            for _ in 0..items {
                let field = string(c)?.load(&mut room.one)?;
                let value = string(c)?.load(&mut room.two)?;
                f(field, value, None)?;
            }
        }
        TypeByte::HashZipmap => {
            let mut map = Zipmap::parse(blob(c, &mut room.one)?)?;
            while let Some((field, value)) = map.next()? {
                f(Element::Bytes(field), Element::Bytes(value), None)?;
            }
        }
        TypeByte::HashZiplist => {
            let mut pairs = Ziplist::parse(blob(c, &mut room.one)?)?;
            while let Some(field) = pairs.next()? {
                f(field, pairs.expect()?, None)?;
            }
        }
        TypeByte::HashListpack => {
            let mut pairs = Listpack::parse(blob(c, &mut room.one)?)?;
            while let Some(field) = pairs.next()? {
                f(field, pairs.expect()?, None)?;
            }
            *boundary = pairs.boundary;
        }
        TypeByte::HashListpackEx | TypeByte::HashListpackExPreGa => {
            let mut triples = Listpack::parse(blob(c, &mut room.one)?)?;
            while let Some(field) = triples.next()? {
                let value = triples.expect()?;
                let at = *triples.cursor();
                let expiry = absolute(triples.expect_int()?, &at)?;
                f(field, value, expiry)?;
            }
            *boundary = triples.boundary;
        }
        TypeByte::HashMetadata | TypeByte::HashMetadataPreGa => {
            for _ in 0..items {
                let at = *c;
                let ttl = length(c)?;
                let expiry = if ttl == 0 || ty == TypeByte::HashMetadataPreGa {
                    absolute(i64::try_from(ttl).unwrap_or(i64::MAX), &at)?
                } else {
                    // Counted from the smallest expiry, starting at 1.
                    let sum = source.head.min_expire_ms.checked_add_unsigned(ttl - 1);
                    absolute(sum.unwrap_or(i64::MAX), &at)?.or(Some(0))
                };
                let field = string(c)?.load(&mut room.one)?;
                let value = string(c)?.load(&mut room.two)?;
                f(field, value, expiry)?;
            }
        }
        TypeByte::Hash2 => {
            for _ in 0..items {
                let field = string(c)?.load(&mut room.one)?;
                let value = string(c)?.load(&mut room.two)?;
                let at = *c;
                let expiry = match c.i64_le()? {
                    -1 => None,
                    ms if ms < -1 => return Err(at.error(ErrorKind::BadFieldExpiry(ms))),
                    ms => Some(ms),
                };
                f(field, value, expiry)?;
            }
        }
        TypeByte::HashTemplateArrayRef | TypeByte::HashTemplateArray => {
            let names = source
                .head
                .names
                .expect("the head of a template array names its fields");
            let Room { one, two } = room;
            names.for_each(source.file, one, |field| {
                f(field, string(c)?.load(two)?, None)
            })?;
        }
        TypeByte::HashTemplateListpackRef | TypeByte::HashTemplateListpack => {
            let Room { one, two } = room;
            let at = *c;
            let mut values = Listpack::parse(blob(c, two)?)?;
            let id = values.expect_int()?;
            let names = match source.head.names {
                Some(names) => names,
                None => u64::try_from(id)
                    .ok()
                    .and_then(|id| source.templates.get(id))
                    .ok_or_else(|| {
                        at.error(ErrorKind::BadTemplate("of this hash is not in the file"))
                    })?,
            };
            names.for_each(source.file, one, |field| f(field, values.expect()?, None))?;
            if values.next()?.is_some() {
                return Err(at.error(ErrorKind::BadTemplate(
                    "has fewer fields than its hash has values",
                )));
            }
            *boundary = values.boundary;
        }
        other => unreachable!("{other:?} is no hash that is walked"),
    }
    Ok(())
}

fn absolute(ms: i64, at: &Cursor<'_>) -> Result<Option<i64>> {
    match ms {
        0 => Ok(None),
        _ if ms < 0 || ms as u64 > MOST_EXPIRY_MS => Err(at.error(ErrorKind::BadFieldExpiry(ms))),
        _ => Ok(Some(ms)),
    }
}

/// Reads where the field names of a DUMP-form template hash stand (types 29, 31).
pub(super) fn inline_names(c: &mut Cursor<'_>) -> Result<Names> {
    let start = *c;
    match length(c)? {
        0 => {
            let pos = c.pos();
            // The number of names is needed to pass over the values, so they are counted here.
            let mut scratch = Scratch::new(1 << 20);
            let count = Listpack::parse(blob(c, &mut scratch)?)?.remaining()?;
            Ok(Names {
                pos,
                count,
                packed: true,
            })
        }
        1 => {
            let count = count(c, 1, "fields")?;
            let pos = c.pos();
            for _ in 0..count {
                skip_string(c)?;
            }
            Ok(Names {
                pos,
                count,
                packed: false,
            })
        }
        _ => Err(start.error(ErrorKind::BadTemplate(
            "lists its field names in an unknown form",
        ))),
    }
}

impl Names {
    /// Pushes the names, which stand at `pos` of `file`.
    pub fn for_each(
        self,
        mut file: Cursor<'_>,
        scratch: &mut Scratch,
        mut f: impl FnMut(Element<'_>) -> Result<()>,
    ) -> Result<()> {
        file.seek(self.pos);
        if self.packed {
            let mut names = Listpack::parse(blob(&mut file, scratch)?)?;
            while let Some(name) = names.next()? {
                f(name)?;
            }
        } else {
            for _ in 0..self.count {
                f(string(&mut file)?.load(scratch)?)?;
            }
        }
        Ok(())
    }

    /// Checks that names ascend by length, then by bytes, as servers demand.
    pub fn check(self, file: Cursor<'_>, scratch: &mut Scratch) -> Result<()> {
        let mut previous: Option<Vec<u8>> = None;
        let mut buffer = itoa::Buffer::new();
        let broken = |what| Error::new(ErrorKind::BadTemplate(what), file.at());
        if self.count == 0 {
            return Err(broken("has no fields"));
        }
        self.for_each(file, scratch, |name| {
            let name = name.as_bytes(&mut buffer);
            if let Some(p) = &previous
                && (p.len(), &p[..]) >= (name.len(), name)
            {
                return Err(broken("has its fields out of order"));
            }
            let kept = previous.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(name);
            Ok(())
        })
    }
}
