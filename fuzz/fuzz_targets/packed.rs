//! What the targets for packed values share: a blob, put into a value of each type that can hold it.

use redis_migration::cursor::Cursor;
use redis_migration::encoding::length::write_length;
use redis_migration::value::{Room, Templates, TypeByte, check, skip};

/// Runs the deep check on a value of type `ty` that is `head`, then `blob` as a string, then `tail`.
/// Answers the number of elements, or `None` if the check finds it broken.
pub fn deep_check(ty: TypeByte, head: &[u8], blob: &[u8], tail: &[u8]) -> Option<u64> {
    let mut value = head.to_vec();
    write_length(&mut value, blob.len() as u64);
    value.extend_from_slice(blob);
    value.extend_from_slice(tail);
    let whole = Cursor::new(&value, 0);

    // The frame is whole, so it can be passed over whatever the blob is.
    let mut c = whole;
    skip(&mut c, ty, &Templates::default(), &mut Vec::new()).expect("a whole frame");
    assert!(c.is_empty());

    let mut c = whole;
    let (mut room, mut seen) = (Room::new(1 << 20), check::Seen::default());
    match check::check(&mut c, ty, &Templates::default(), &mut room, &mut seen) {
        Ok(found) => {
            assert!(c.is_empty());
            Some(found.elements)
        }
        Err(error) => {
            assert!(
                error.at().is_some_and(|at| at.offset <= value.len() as u64),
                "{error}"
            );
            None
        }
    }
}
