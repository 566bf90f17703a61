//! Vector sets (module `vectorset`, Redis 8). After each load a server has its elements in another order, and finds the
//! links of each to its neighbours anew, so that the same set is never written twice in the same bytes. What is compared
//! is what stands before the elements (dimensions, number, quantization, projection), and of each element its name, its
//! vector and its attributes. The links are an index.

use std::collections::BTreeMap;

use super::items::Rows;
use super::{Kind, show};
use crate::cursor::Cursor;
use crate::encoding::length::length;
use crate::encoding::string::{self as encoding, skip_string};
use crate::error::{ErrorKind, Result};

/// The module's name.
pub(super) const NAME: &str = "vectorset";

/// Opcodes of module items (FORMAT §4.10).
const UINT: u64 = 2;
const STRING: u64 = 5;
/// Bits of the fourth number: a projection follows, elements have attributes.
const HAS_PROJECTION: u64 = 1;
const HAS_ATTRIBUTES: u64 = 2;

/// What stands before the elements, and each element's strings by its name.
type Parts<'a> = (&'a [u8], BTreeMap<&'a [u8], &'a [u8]>);

/// Compares two values from the module's id on; false where they are not of the form that is known.
pub(super) fn compare(want: Cursor<'_>, got: Cursor<'_>, rows: &mut Rows) -> bool {
    let (Ok(want), Ok(got)) = (parts(want), parts(got)) else {
        return false;
    };
    if want.0 != got.0 {
        rows.push(Kind::Value, show(want.0), show(got.0));
    }
    for (name, strings) in &want.1 {
        match got.1.get(name) {
            None => rows.push(Kind::Member, text(name), String::new()),
            Some(other) if other != strings => {
                rows.push(Kind::Member, show(strings), show(other));
            }
            Some(_) => {}
        }
    }
    for name in got.1.keys().filter(|name| !want.1.contains_key(*name)) {
        rows.push(Kind::Member, String::new(), text(name));
    }
    true
}

/// A name without its length.
fn text(name: &[u8]) -> String {
    match encoding::string(&mut Cursor::new(name, 0)) {
        Ok(encoding::Str::Raw(name)) => show(name),
        _ => show(name),
    }
}

fn parts(mut c: Cursor<'_>) -> Result<Parts<'_>> {
    let start = c.pos();
    length(&mut c)?;
    let (_dimensions, count, _quantization) = (uint(&mut c)?, uint(&mut c)?, uint(&mut c)?);
    let flags = uint(&mut c)?;
    if flags & HAS_PROJECTION != 0 {
        uint(&mut c)?;
        string(&mut c)?;
    }
    let head = c.slice(start, c.pos());
    let mut elements = BTreeMap::new();
    for _ in 0..count {
        let from = c.pos();
        let name = string(&mut c)?;
        if flags & HAS_ATTRIBUTES != 0 {
            string(&mut c)?;
        }
        string(&mut c)?;
        elements.insert(name, c.slice(from, c.pos()));
        for _ in 0..uint(&mut c)? {
            uint(&mut c)?;
        }
    }
    Ok((head, elements))
}

fn uint(c: &mut Cursor<'_>) -> Result<u64> {
    let at = *c;
    match length(c)? {
        UINT => length(c),
        other => Err(at.error(ErrorKind::BadModuleItem(other))),
    }
}

/// A string as it stands, with its length.
fn string<'a>(c: &mut Cursor<'a>) -> Result<&'a [u8]> {
    let at = *c;
    match length(c)? {
        STRING => {
            let from = c.pos();
            skip_string(c)?;
            Ok(c.slice(from, c.pos()))
        }
        other => Err(at.error(ErrorKind::BadModuleItem(other))),
    }
}
