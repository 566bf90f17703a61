//! An intset: its members held against a plain reading of the bytes, and checked as the set that it is.
#![no_main]

mod packed;

use libfuzzer_sys::fuzz_target;
use packed::deep_check;
use redis_migration::cursor::Cursor;
use redis_migration::encoding::intset::Intset;
use redis_migration::value::TypeByte;

fuzz_target!(|data: &[u8]| {
    let intset = Intset::parse(Cursor::new(data, 0)).ok();
    let members = intset.map(|intset| intset.iter().collect::<Vec<_>>());
    assert_eq!(members, plain(data));

    let sorted = members
        .as_ref()
        .is_some_and(|members| members.is_sorted_by(|a, b| a < b));
    assert_eq!(intset.is_some_and(Intset::is_sorted), sorted);
    let whole = members
        .filter(|_| sorted)
        .map(|members| members.len() as u64);
    assert_eq!(deep_check(TypeByte::SetIntset, &[], data, &[]), whole);
});

fn plain(blob: &[u8]) -> Option<Vec<i64>> {
    let (width, rest) = blob.split_first_chunk()?;
    let (count, members) = rest.split_first_chunk()?;
    let (width, count) = (u32::from_le_bytes(*width), u32::from_le_bytes(*count));
    if ![2, 4, 8].contains(&width) || u64::from(width) * u64::from(count) != members.len() as u64 {
        return None;
    }
    let member = |bytes: &[u8]| match width {
        2 => i64::from(i16::from_le_bytes(bytes.try_into().expect("2 bytes"))),
        4 => i64::from(i32::from_le_bytes(bytes.try_into().expect("4 bytes"))),
        _ => i64::from_le_bytes(bytes.try_into().expect("8 bytes")),
    };
    Some(members.chunks_exact(width as usize).map(member).collect())
}
