//! Lists: types 1 (linked), 10 (ziplist), 14 (quicklist of ziplists), 18 (quicklist of listpacks and
//! plain nodes). FORMAT §4.1, §4.3, §4.5.

use super::{Room, TypeByte};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::length;
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{blob, string};
use crate::encoding::ziplist::Ziplist;
use crate::error::{ErrorKind, Result};

/// Pushes the elements of the next `items` items, head to tail. Errors are the encodings' own.
#[inline]
pub fn for_each(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    items: u64,
    room: &mut Room,
    boundary: &mut Boundary,
    mut f: impl FnMut(Element<'_>) -> Result<()>,
) -> Result<()> {
    match ty {
        TypeByte::List => {
            for _ in 0..items {
                f(string(c)?.load(&mut room.one)?)?;
            }
            Ok(())
        }
        TypeByte::ListZiplist | TypeByte::ListQuicklist => {
            for _ in 0..items {
                let mut node = Ziplist::parse(blob(c, &mut room.one)?)?;
                while let Some(element) = node.next()? {
                    f(element)?;
                }
            }
            Ok(())
        }
        TypeByte::ListQuicklist2 => {
            for _ in 0..items {
                let start = *c;
                match length(c)? {
                    PLAIN => f(string(c)?.load(&mut room.one)?)?,
                    PACKED => {
                        let mut node = Listpack::parse(blob(c, &mut room.one)?)?;
                        while let Some(element) = node.next()? {
                            f(element)?;
                        }
                        boundary.long |= node.boundary.long;
                        boundary.short |= node.boundary.short;
                    }
                    other => return Err(start.error(ErrorKind::BadContainer(other))),
                }
            }
            Ok(())
        }
        other => unreachable!("{other:?} is no list"),
    }
}

/// A node that is one element.
const PLAIN: u64 = 1;
/// A node that is a listpack of elements.
const PACKED: u64 = 2;
