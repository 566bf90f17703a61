//! Sets: types 2 (plain), 11 (intset), 20 (listpack). FORMAT §4.1, §4.4, §4.6.

use super::{Room, TypeByte};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::intset::Intset;
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{blob, string};
use crate::error::Result;

/// Pushes the members of the next `items` items.
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
        TypeByte::Set => {
            for _ in 0..items {
                f(string(c)?.load(&mut room.one)?)?;
            }
        }
        TypeByte::SetIntset => {
            for member in Intset::parse(blob(c, &mut room.one)?)?.iter() {
                f(Element::Int(member))?;
            }
        }
        TypeByte::SetListpack => {
            let mut members = Listpack::parse(blob(c, &mut room.one)?)?;
            while let Some(member) = members.next()? {
                f(member)?;
            }
            *boundary = members.boundary;
        }
        other => unreachable!("{other:?} is no set"),
    }
    Ok(())
}
