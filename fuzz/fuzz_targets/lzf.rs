//! LZF: the first four bytes announce a length, the rest is a block. Our decoder, in both its forms,
//! must judge it as the `lzf` crate does and give the same bytes. (The crate's compressor is left alone:
//! it panics on some inputs.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_migration::encoding::lzf::{Broken, SLACK, decompress, decompress_pieces, max_len};

fuzz_target!(|data: &[u8]| {
    if let Some((len, block)) = data.split_first_chunk() {
        // What is above the bound is refused before the decoder is asked.
        let len = u64::from(u32::from_le_bytes(*len)) % (max_len(block.len()) + 1);
        judge(block, len as usize);
    }
});

fn judge(block: &[u8], len: usize) {
    let mut out = vec![0xAA; len + SLACK];
    let ours = decompress(block, &mut out, len).map(|()| out[..len].to_vec());

    let mut pieces = Vec::new();
    let outcome = decompress_pieces(block, len as u64, |piece| {
        pieces.extend_from_slice(piece);
        Ok::<(), Broken>(())
    });
    assert!(pieces.len() <= len);
    assert_eq!(outcome.map(|()| pieces), ours);

    // The crate takes output that is too short, and refuses a block of no bytes.
    let theirs = lzf::decompress(block, len)
        .ok()
        .filter(|out| out.len() == len);
    if !block.is_empty() {
        assert_eq!(ours.as_ref().ok(), theirs.as_ref());
    }
    if let Err(broken) = ours {
        assert!(broken.at <= block.len());
    }
}
