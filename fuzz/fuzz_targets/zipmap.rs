//! A zipmap: walked, and checked as the hash that it is.
#![no_main]

mod packed;

use libfuzzer_sys::fuzz_target;
use packed::deep_check;
use redis_migration::Result;
use redis_migration::cursor::Cursor;
use redis_migration::encoding::zipmap::Zipmap;
use redis_migration::value::TypeByte;

fuzz_target!(|data: &[u8]| {
    let pairs = walk(data).ok();
    // A hash has each field once.
    if let Some(fields) = deep_check(TypeByte::HashZipmap, &[], data, &[]) {
        assert_eq!(Some(fields), pairs);
    }
});

fn walk(blob: &[u8]) -> Result<u64> {
    let mut zipmap = Zipmap::parse(Cursor::new(blob, 0))?;
    let remaining = zipmap.remaining();
    let (mut n, mut bytes) = (0, 0);
    while let Some((field, value)) = zipmap.next()? {
        n += 1;
        bytes += field.len() + value.len();
    }
    assert!(zipmap.next()?.is_none(), "the end stays the end");
    assert_eq!(remaining.ok(), Some(n));
    assert!(bytes <= blob.len());
    Ok(n)
}
