//! A ziplist: walked, and checked as every type that it can be.
#![no_main]

mod packed;

use libfuzzer_sys::fuzz_target;
use packed::deep_check;
use redis_migration::Result;
use redis_migration::cursor::Cursor;
use redis_migration::encoding::ziplist::Ziplist;
use redis_migration::value::TypeByte;

fuzz_target!(|data: &[u8]| {
    let entries = walk(data).ok();
    // Lists may hold anything, any number of times.
    assert_eq!(deep_check(TypeByte::ListZiplist, &[], data, &[]), entries);
    assert_eq!(
        deep_check(TypeByte::ListQuicklist, &[1], data, &[]),
        entries
    );

    // The other types want more, but never take what the walk refuses or count differently.
    for ty in [TypeByte::HashZiplist, TypeByte::ZsetZiplist] {
        if let Some(pairs) = deep_check(ty, &[], data, &[]) {
            assert_eq!(Some(2 * pairs), entries);
        }
    }
});

fn walk(blob: &[u8]) -> Result<u64> {
    let mut ziplist = Ziplist::parse(Cursor::new(blob, 0))?;
    let remaining = ziplist.remaining();
    let (mut n, mut bytes) = (0, 0);
    while let Some(element) = ziplist.next()? {
        let mut digits = itoa::Buffer::new();
        assert_eq!(element.as_bytes(&mut digits).len(), element.len());
        n += 1;
        bytes += element.len();
    }
    assert!(ziplist.next()?.is_none(), "the end stays the end");
    assert_eq!(remaining.ok(), Some(n));
    // An integer of ten bytes prints as twenty characters at most; no other entry grows so much.
    assert!(bytes <= 2 * blob.len());
    Ok(n)
}
