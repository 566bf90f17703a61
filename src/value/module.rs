//! Module values: find their end, keep them as they are for RESTORE. Type 7, MODULE_AUX, KEY_META.
//! FORMAT §4.10, §3.4.

use crate::cursor::Cursor;
use crate::encoding::length::length;
use crate::encoding::string::{Scratch, skip_string, string};
use crate::error::{ErrorKind, Result};

/// Passes over module items up to and including the end mark.
pub fn skip_items(c: &mut Cursor<'_>) -> Result<()> {
    items(c, skip_string)
}

/// The same, and unpacks the strings among them.
pub fn check_items(c: &mut Cursor<'_>, scratch: &mut Scratch) -> Result<()> {
    items(c, |c| string(c)?.load(scratch).map(drop))
}

fn items<'a>(
    c: &mut Cursor<'a>,
    mut take_string: impl FnMut(&mut Cursor<'a>) -> Result<()>,
) -> Result<()> {
    loop {
        let at = *c;
        match length(c)? {
            0 => return Ok(()),
            1 | 2 => length(c).map(drop)?, // SINT, UINT
            3 => c.skip(4)?,               // FLOAT
            4 => c.skip(8)?,               // DOUBLE
            5 => take_string(c)?,
            other => return Err(at.error(ErrorKind::BadModuleItem(other))),
        }
    }
}

/// The nine characters of a module type id.
pub fn type_name(id: u64) -> String {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9)
        .map(|i| CHARS[(id >> (10 + 6 * (8 - i))) as usize & 63] as char)
        .collect()
}

/// Passes over the body of MODULE_AUX and gives the module's name.
pub fn skip_aux(c: &mut Cursor<'_>) -> Result<String> {
    aux(c, skip_string)
}

/// The same, and unpacks the strings in it.
pub fn check_aux(c: &mut Cursor<'_>, scratch: &mut Scratch) -> Result<()> {
    aux(c, |c| string(c)?.load(scratch).map(drop)).map(drop)
}

fn aux<'a>(
    c: &mut Cursor<'a>,
    take_string: impl FnMut(&mut Cursor<'a>) -> Result<()>,
) -> Result<String> {
    let id = length(c)?;
    let at = *c;
    if length(c)? != 2 {
        return Err(at.error(ErrorKind::BadModuleAux("does not say when it belongs")));
    }
    length(c)?;
    items(c, take_string)?;
    Ok(type_name(id))
}

/// Passes over the body of KEY_META.
pub fn skip_key_meta(c: &mut Cursor<'_>) -> Result<()> {
    key_meta(c, skip_string)
}

/// The same, and unpacks the strings in it.
pub fn check_key_meta(c: &mut Cursor<'_>, scratch: &mut Scratch) -> Result<()> {
    key_meta(c, |c| string(c)?.load(scratch).map(drop))
}

fn key_meta<'a>(
    c: &mut Cursor<'a>,
    mut take_string: impl FnMut(&mut Cursor<'a>) -> Result<()>,
) -> Result<()> {
    let at = *c;
    let classes = length(c)?;
    if classes > 7 {
        return Err(at.error(ErrorKind::BadKeyMeta("has more than seven classes")));
    }
    for _ in 0..classes {
        c.skip(4)?;
        items(c, &mut take_string)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_the_example() {
        assert_eq!(type_name(0xB5EB_2DFF_FADD_6C01), "test__rdb");
    }

    #[test]
    fn items() {
        // SINT 5, FLOAT, DOUBLE, STRING "a", end.
        let value = b"\x01\x05\x03....\x04........\x05\x01a\x00rest";
        let mut c = Cursor::new(value, 0);
        skip_items(&mut c).unwrap();
        assert_eq!(c.rest(), b"rest");
        let error = skip_items(&mut Cursor::new(b"\x06", 7)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BadModuleItem(6)));
        assert_eq!(error.at().unwrap().offset, 7);
    }
}
