//! Keys with short lives that somebody renews all the time: the source has them always, so the destination must, however
//! slowly it gets its snapshot.

use std::time::{Duration, Instant};

use super::{Live, SOON, acknowledged, ends_equal, fill, source};
use crate::replay::Target;
use crate::support::client::{Client, call};
use crate::support::load::Renewal;
use crate::support::relay::Relay;
use crate::support::server::available;

const RENEWED: usize = 40;

/// Which renewed keys are missing where they have been seen, though the source has them.
struct Watch {
    seen: Vec<bool>,
    missed: Vec<String>,
}

impl Watch {
    fn look(&mut self, renewal: &Renewal, destination: &mut Client, fields: bool) {
        for (i, key) in renewal.keys().enumerate() {
            let there = match fields {
                true => call!(destination, "HEXISTS", &key, "f"),
                false => call!(destination, "EXISTS", &key),
            };
            let there = there.int() == 1;
            if there {
                self.seen[i] = true;
            } else if self.seen[i] && !renewal.lost().contains(&key) {
                self.missed.push(key);
            }
        }
    }
}

fn renewed_keys_are_never_missed(name: &str, target: &Target) {
    are_never_missed(name, target, false);
}

fn are_never_missed(name: &str, target: &Target, fields: bool) {
    if !available(name) {
        return;
    }
    let source = source(name, &[]);
    fill(&source, 6000);
    let renewal = match fields {
        true => Renewal::of_fields(&source, RENEWED),
        false => Renewal::start(&source, RENEWED),
    };
    // Slower than the shortest lives are long, and than most of the others.
    let relay = Relay::start(target.port());
    relay.delay(4, 4);
    let slow = ["--connections", "2", "--pipeline", "8", "--rate", "1000"];
    let mut live = Live::new(source.port, relay.port, &slow).started();
    let mut client = Client::connect(target.port()).expect("a destination");
    let mut watch = Watch {
        seen: vec![false; RENEWED],
        missed: Vec::new(),
    };
    let begin = Instant::now();
    let mut caught_up = None;
    while caught_up.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(4)) {
        watch.look(&renewal, &mut client, fields);
        if caught_up.is_none() && live.said().contains("caught up") {
            caught_up = Some(Instant::now());
        }
        assert!(live.is_running(), "{}", live.said());
        assert!(begin.elapsed() < 2 * SOON, "{}", live.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        begin.elapsed() > Duration::from_secs(6),
        "it was too fast: {:?}",
        begin.elapsed()
    );
    assert_eq!(watch.missed, Vec::<String>::new(), "{}", live.said());
    let missing = watch.seen.iter().filter(|seen| !**seen).count();
    assert!(
        missing <= renewal.lost().len(),
        "{missing} were never there"
    );
    renewal.keep();
    acknowledged(&source, SOON).expect("its offset");
    let slack = if name == "redis-6.2" { 1500 } else { 0 };
    super::ends_equal_within(&mut live, &source, target, slack);
    live.terminate();
}

#[test]
fn renewed_keys_are_never_missed_in_a_server() {
    let target = Target::server("redis-7.0");
    renewed_keys_are_never_missed("redis-7.0", &target);
}

#[test]
fn renewed_keys_of_redis_6_2_are_never_missed() {
    let target = Target::server("redis-7.0");
    renewed_keys_are_never_missed("redis-6.2", &target);
}

#[test]
fn renewed_keys_are_never_missed_in_valkey() {
    if available("valkey-9.1") {
        let target = Target::server("valkey-9.1");
        renewed_keys_are_never_missed("valkey-9.1", &target);
        // Whatever was done to the server so that it keeps keys is undone.
        let mode = call!(target.servers()[0].client(), "CONFIG", "GET", "import-mode");
        assert_eq!(mode.all_bytes()[1], b"no");
    }
}

#[test]
fn renewed_fields_are_never_missed_in_valkey() {
    if available("valkey-9.1") {
        are_never_missed("valkey-9.1", &Target::server("valkey-9.1"), true);
    }
}

#[test]
fn renewed_keys_are_never_missed_behind_a_proxy() {
    let target = Target::proxy(&[]);
    renewed_keys_are_never_missed("redis-7.0", &target);
}

/// Keys whose end comes while the snapshot is on its way are gone at the destination too, at last.
#[test]
fn keys_that_end_meanwhile_are_gone() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 3000);
    let mut client = source.client();
    for i in 0..300 {
        call!(
            client,
            "SET",
            format!("short:{i}"),
            "x",
            "PX",
            (1000 + i * 10).to_string()
        );
        call!(
            client,
            "SET",
            format!("far:{i}"),
            "x",
            "PXAT",
            (4_102_444_800_123_i64 + i).to_string()
        );
    }
    let mut live = Live::new(source.port, target.port(), &["--rate", "1000"]).started();
    live.catches_up();
    // The last of them ends after four seconds, and as long the source has something to tell.
    std::thread::sleep(Duration::from_secs(4));
    ends_equal(&mut live, &source, &target);
    live.terminate();
}
