//! A source under mixed load, into everything that can be a destination.

use std::time::Duration;

use super::{Live, SOON, ends_equal_within, fill, source, until};
use crate::replay::Target;
use crate::support::client::call;
use crate::support::load::{Load, Mix};
use crate::support::server::available;

/// Writes before, during and after the snapshot, and compares when all is at rest.
fn moves(from: &str, options: &[&str], target: &Target, mix: Mix, words: &[&str]) {
    let source = source(from, options);
    fill(&source, 2000);
    let load = Load::mixed(&source, mix);
    load.does(1000);
    let mut live = Live::new(source.port, target.port(), words).started();
    live.catches_up();
    load.does(3000);
    load.stop();
    let slack = if from == "redis-6.2" { 1500 } else { 0 };
    ends_equal_within(&mut live, &source, target, slack);
    live.terminate();
}

/// Whether all of these servers are there.
fn all(names: &[&str]) -> bool {
    names.iter().all(|name| available(name))
}

#[test]
fn redis_6_2_into_a_server() {
    if all(&["redis-6.2"]) {
        moves(
            "redis-6.2",
            &[],
            &Target::server("redis-6.2"),
            Mix::wide(),
            &[],
        );
    }
}

#[test]
fn redis_7_0_into_a_server() {
    moves(
        "redis-7.0",
        &[],
        &Target::server("redis-7.0"),
        Mix::wide(),
        &[],
    );
}

#[test]
fn valkey_9_1_into_a_server() {
    if all(&["valkey-9.1"]) {
        let mix = Mix {
            field_ttl: true,
            ..Mix::wide()
        };
        moves("valkey-9.1", &[], &Target::server("valkey-9.1"), mix, &[]);
    }
}

/// With all that only it has: lives of fields that are set as they are read, references that are kept or not, ids that
/// are given once, arrays and vector sets.
#[test]
fn redis_8_10_into_a_server() {
    if all(&["redis-8.10"]) {
        let mix = Mix {
            field_ttl: true,
            newest: true,
            ..Mix::wide()
        };
        moves("redis-8.10", &[], &Target::server("redis-8.10"), mix, &[]);
    }
}

/// What both know: the snapshot is of a version that the destination cannot read, and its values go in another form.
#[test]
fn redis_8_10_into_an_older_server() {
    if all(&["redis-8.10"]) {
        let target = Target::server("redis-7.0");
        moves("redis-8.10", &[], &target, Mix::wide(), &[]);
    }
}

#[test]
fn redis_6_2_into_servers_behind_a_proxy() {
    if all(&["redis-6.2"]) {
        moves("redis-6.2", &[], &Target::proxy(&[]), Mix::narrow(), &[]);
    }
}

#[test]
fn redis_7_0_into_servers_behind_a_proxy() {
    moves("redis-7.0", &[], &Target::proxy(&[]), Mix::narrow(), &[]);
}

#[test]
fn valkey_9_1_into_servers_behind_a_proxy() {
    if all(&["valkey-9.1"]) {
        let target = Target::proxy_over("valkey-9.1", &[], &[]);
        moves("valkey-9.1", &[], &target, Mix::narrow(), &[]);
    }
}

/// The snapshot's streams are of a type that the servers behind the proxy do not know, and no command would make the
/// keys that the log goes on with.
#[test]
fn valkey_9_1_into_older_servers_behind_a_proxy() {
    if all(&["valkey-9.1"]) {
        moves("valkey-9.1", &[], &Target::proxy(&[]), Mix::narrow(), &[]);
    }
}

#[test]
fn redis_6_2_into_a_cluster() {
    if all(&["redis-6.2"]) {
        moves("redis-6.2", &[], &Target::cluster(), Mix::narrow(), &[]);
    }
}

#[test]
fn redis_7_0_into_a_cluster() {
    moves("redis-7.0", &[], &Target::cluster(), Mix::narrow(), &[]);
}

#[test]
fn valkey_9_1_into_a_cluster() {
    if all(&["valkey-9.1"]) {
        moves("valkey-9.1", &[], &Target::cluster(), Mix::narrow(), &[]);
    }
}

/// With a snapshot through the source's disk, and with one that comes as it is made.
#[test]
fn snapshots_of_known_and_of_unknown_length() {
    for diskless in ["no", "yes"] {
        let options = ["--repl-diskless-sync", diskless];
        moves(
            "redis-7.0",
            &options,
            &Target::server("redis-7.0"),
            Mix::narrow(),
            &[],
        );
    }
}

#[test]
fn the_originals_words_and_its_line_a_second() {
    let (source, target) = (source("redis-7.0", &[]), Target::proxy(&[]));
    fill(&source, 2000);
    let load = Load::mixed(&source, Mix::narrow());
    let words = [
        "-rdb",
        "dump.rdb",
        "-aof",
        "appendonly.aof",
        "-client",
        "20",
    ];
    let mut live = Live::classic(source.port, target.port(), &words).started();
    live.until("a line of its phase", SOON, |live| {
        live.said().contains("   -> ONLINE:")
    });
    load.does(2000);
    load.stop();
    ends_equal_within(&mut live, &source, &target, 0);
    let said = live.terminate();
    let line = regex::Regex::new(
        r"(?m)^   -> (SYNC:\d{12}/\d{12}|RDB:\d{12}/\d{12}|AOF:\d{12}/\d{12}|ONLINE:\d+/\d+-\d+)\r?$",
    )
    .expect("a pattern");
    assert!(line.is_match(&said), "{said}");
    assert!(said.contains("   -> ONLINE:0/0-0"), "{said}");
}

/// A source that asks for acknowledgements all the time, and waits for them.
#[test]
fn a_source_that_waits_for_acknowledgements() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    let mut client = source.client();
    for i in 0..50 {
        call!(client, "INCR", "waited");
        let begin = std::time::Instant::now();
        let heard = call!(client, "WAIT", "1", "5000").int();
        assert_eq!(
            heard,
            1,
            "{i}: nobody in {:?}: {}",
            begin.elapsed(),
            live.said()
        );
    }
    let mut end = target.servers()[0].client();
    until(Duration::from_secs(5), || {
        matches!(end.try_call(&[b"GET", b"waited"]),
            Ok(crate::support::client::Reply::Bulk(Some(n))) if n == b"50")
    });
    live.terminate();
}
