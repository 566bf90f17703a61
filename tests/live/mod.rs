//! Live migration: from a server that is written to, into another that ends with the same, whatever breaks meanwhile.

mod tools;

use std::time::{Duration, Instant};

use crate::support::client::call;
use crate::support::load::SHORT;
use crate::support::server::Server;

/// Waits until something is so.
fn until(limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "it did not come about in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until short lives are over, so that what is left of a load stays while it is compared.
fn rests(source: &Server) {
    std::thread::sleep(SHORT);
    // Keys whose time is over are gone from the source when it has found them; then it says so to its replicas.
    until(Duration::from_secs(10), || {
        call!(source.client(), "INFO", "stats")
            .text()
            .contains("expired_keys:")
    });
}

/// The offset of a source, and the largest that a replica of it has acknowledged.
fn offsets(source: &Server) -> (i64, Option<i64>) {
    let info = call!(source.client(), "INFO", "replication").text();
    let number = |text: &str| text.trim().parse::<i64>().expect("an offset");
    let own = info
        .lines()
        .find_map(|line| line.strip_prefix("master_repl_offset:"));
    let acknowledged = info
        .lines()
        .filter(|line| line.starts_with("slave"))
        .filter_map(|line| line.split("offset=").nth(1)?.split(',').next())
        .map(number);
    (number(own.expect("an offset")), acknowledged.max())
}

/// Waits until a source's replica has acknowledged all there is: at most two seconds, for it does so every second.
fn follows_by_itself(source: &Server) {
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let (own, acknowledged) = offsets(source);
        if acknowledged == Some(own) {
            return;
        }
        assert!(
            Instant::now() < end,
            "{acknowledged:?} of {own} acknowledged"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
