//! Answers of a server: found, found piece by piece, and taken apart.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_migration::server::reply::{BadReply, DEPTH, Finder, Found, Reply, Shape, find, parse};

fuzz_target!(|data: &[u8]| {
    let mut window = data;
    // One answer after the other, as they come from a socket.
    loop {
        let found = find(window);
        assert_eq!(in_pieces(window), found);
        match (found, parse(window)) {
            (Ok(Some(found)), Ok(Some((reply, len)))) => {
                assert_eq!(found.len, len);
                assert!(len > 0 && len <= window.len());
                assert_eq!(find(&window[..len]), Ok(Some(found)));
                assert_eq!(find(&window[..len - 1]), Ok(None));
                agrees(&reply, found.shape);
                // What a value takes is in proportion to what came.
                assert!(elements(&reply, 0) <= len / 3);
                window = &window[len..];
            }
            (Ok(None), Ok(None)) => return,
            (Err(bad), Err(again)) => {
                assert_eq!(bad, again);
                assert!(bad.pos <= window.len());
                assert!(!bad.to_string().is_empty());
                return;
            }
            (found, parsed) => panic!("{found:?}, but {parsed:?}"),
        }
    }
});

fn in_pieces(window: &[u8]) -> Result<Option<Found>, BadReply> {
    let mut finder = Finder::default();
    // Pieces grow, so that a large input does not take forever.
    let (mut end, mut step) = (0, 1);
    while end < window.len() {
        match finder.next(&window[..end]) {
            Ok(None) => {}
            // It may be found before all of the window is there, but not be another.
            done => return done,
        }
        end += step;
        step += step / 8 + usize::from(end > 64);
    }
    finder.next(window)
}

fn agrees(reply: &Reply, shape: Shape) {
    let agrees = match reply {
        Reply::Status(_) => shape == Shape::Status,
        Reply::Error(_) => shape == Shape::Error,
        Reply::Int(_) => shape == Shape::Int,
        Reply::Bulk(_) => shape == Shape::Bulk,
        Reply::Nil => shape == Shape::Nil,
        Reply::Array(items) => shape == Shape::Array(items.len()) || shape == Shape::Other,
    };
    assert!(agrees, "{reply:?} is no {shape:?}");
}

fn elements(reply: &Reply, depth: usize) -> usize {
    assert!(depth <= DEPTH);
    let inside = reply.array().unwrap_or_default();
    1 + inside
        .iter()
        .map(|item| elements(item, depth + 1))
        .sum::<usize>()
}
