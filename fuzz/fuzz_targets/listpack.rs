//! A listpack: walked, and checked as every type that it can be.
#![no_main]

mod packed;

use libfuzzer_sys::fuzz_target;
use packed::deep_check;
use redis_migration::Result;
use redis_migration::cursor::Cursor;
use redis_migration::encoding::listpack::Listpack;
use redis_migration::value::TypeByte;

fuzz_target!(|data: &[u8]| {
    let entries = walk(data).ok();
    // Nodes of lists may hold anything, any number of times.
    assert_eq!(
        deep_check(TypeByte::ListQuicklist2, &[1, 2], data, &[]),
        entries
    );

    // The other types want more, but never take what the walk refuses or count differently.
    if let Some(members) = deep_check(TypeByte::SetListpack, &[], data, &[]) {
        assert_eq!(Some(members), entries);
    }
    for ty in [TypeByte::HashListpack, TypeByte::ZsetListpack] {
        if let Some(pairs) = deep_check(ty, &[], data, &[]) {
            assert_eq!(Some(2 * pairs), entries);
        }
    }
    let first_expiry = 1_700_000_000_000u64.to_le_bytes();
    for (ty, head) in [
        (TypeByte::HashListpackEx, &first_expiry[..]),
        (TypeByte::HashListpackExPreGa, &[]),
    ] {
        if let Some(triples) = deep_check(ty, head, data, &[]) {
            assert_eq!(Some(3 * triples), entries);
        }
    }

    // A stream of one node whose first id is 1-1, with one entry, the last id 9-9, and no groups.
    let id = [16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    let node = [&[1], &id[..]].concat();
    deep_check(TypeByte::StreamListpacks, &node, data, &[1, 9, 9, 0]);
});

fn walk(blob: &[u8]) -> Result<u64> {
    let mut listpack = Listpack::parse(Cursor::new(blob, 0))?;
    let announced = listpack.announced();
    let remaining = listpack.remaining();
    let (mut n, mut bytes) = (0, 0);
    while let Some(element) = listpack.next()? {
        let mut digits = itoa::Buffer::new();
        assert_eq!(element.as_bytes(&mut digits).len(), element.len());
        n += 1;
        bytes += element.len();
    }
    assert!(listpack.next()?.is_none(), "the end stays the end");
    assert!(announced.is_none_or(|announced| announced == n));
    assert_eq!(remaining.ok(), Some(n));
    // An integer of nine bytes prints as twenty characters at most; no other entry grows so much.
    assert!(bytes <= 3 * blob.len());
    Ok(n)
}
