//! What a source sends: a snapshot up to its mark, and commands behind it, cut anywhere.
//!
//! The first byte says how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_migration::replica::stream::{Record, Splitter};
use redis_migration::replica::transfer::{Check, MARK_BYTES, Transfer};

const MARK: &[u8; MARK_BYTES] = b"0123456789abcdef0123456789abcdef01234567";

fuzz_target!(|data: &[u8]| {
    let [cuts, bytes @ ..] = data else { return };
    if bytes.is_empty() {
        return;
    }
    let cuts = *cuts;
    for lines in [false, true] {
        let whole = records(bytes, 0, lines);
        assert_eq!(records(bytes, cuts, lines), whole);
        let (all, _) = whole;
        let ends: Vec<usize> = all.iter().map(|record| record.0).collect();
        assert!(ends.is_sorted_by(|a, b| a < b));
        assert!(ends.last().is_none_or(|end| *end <= bytes.len()));
        assert!(lines || all.iter().all(|record| record.1 != Record::Line));
    }

    // Marks of other sources than a fuzzer have no reason to be in there; this one may be, and may be cut short.
    let mut announced = b"$EOF:".to_vec();
    announced.extend(MARK);
    let at = bytes.windows(MARK_BYTES).position(|window| window == MARK);
    let marked = taken(&announced, bytes, cuts);
    match at {
        Some(at) => assert_eq!(
            marked,
            (bytes[..at].to_vec(), Some(bytes.len() - at - MARK_BYTES))
        ),
        None => {
            assert_eq!(marked.1, None);
            assert!(bytes.starts_with(&marked.0));
            assert!(marked.0.len() + MARK_BYTES > bytes.len());
        }
    }
    let count = usize::from(cuts) * 3;
    let counted = taken(format!("${count}").as_bytes(), bytes, cuts);
    let n = count.min(bytes.len());
    assert_eq!(counted.0, bytes[..n]);
    assert_eq!(counted.1, (n == count).then(|| bytes.len() - n));

    let mut whole = Check::default();
    whole.update(bytes);
    let mut cut = Check::default();
    pieces(bytes, cuts).for_each(|piece| cut.update(piece));
    assert_eq!(cut.len(), whole.len());
    assert_eq!(
        format!("{:?}", cut.finish()),
        format!("{:?}", whole.finish())
    );

    // Whatever announces a snapshot.
    if let Some(mut transfer) = Transfer::announced(bytes) {
        assert!(
            transfer
                .total()
                .is_none_or(|total| total <= i64::MAX as u64)
        );
        let _ = transfer.take(bytes, |_| Ok(()));
    }
});

/// Pieces of lengths that change; 0 leaves it whole.
fn pieces(bytes: &[u8], cuts: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (bytes, u32::from(cuts));
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
        // Most are short, some longer than a line or a mark.
        let len = match state >> 16 & 7 {
            _ if cuts == 0 => rest.len(),
            0 => 1 + (state >> 20) as usize % 1500,
            1..4 => 1 + (state >> 20) as usize % 60,
            _ => 1 + (state >> 20) as usize % 5,
        };
        let piece;
        (piece, rest) = rest.split_at(len.min(rest.len()));
        Some(piece)
    })
}

/// The records that end in the bytes, and whether all of them are commands.
#[expect(clippy::type_complexity)]
fn records(bytes: &[u8], cuts: u8, lines: bool) -> (Vec<(usize, Record, u64, bool)>, bool) {
    let mut splitter = match lines {
        true => Splitter::with_lines(0),
        false => Splitter::new(0),
    };
    let (mut all, mut from) = (Vec::new(), 0);
    for piece in pieces(bytes, cuts) {
        let fed = splitter.feed(piece, |end, record, db, unit| {
            all.push((from + end, record, db, unit));
        });
        if fed.is_err() {
            return (all, false);
        }
        from += piece.len();
    }
    (all, true)
}

/// What a snapshot is, that was announced so, and how many bytes of all are behind it.
fn taken(announced: &[u8], bytes: &[u8], cuts: u8) -> (Vec<u8>, Option<usize>) {
    let mut transfer = Transfer::announced(announced).expect("a snapshot is announced");
    let (mut out, mut from) = (Vec::new(), 0);
    for piece in pieces(bytes, cuts) {
        from += piece.len();
        let end = transfer.take(piece, |bytes| {
            out.extend(bytes);
            Ok(())
        });
        if let Some(left) = end.expect("nothing fails") {
            return (out, Some(bytes.len() - from + left));
        }
    }
    (out, None)
}
