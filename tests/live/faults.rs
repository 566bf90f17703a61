//! What breaks while a migration goes on, on the source's side and on the destination's.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{END, Live, SOON, ends_equal, fill, info, is_equal, names, replicates, source, until};
use crate::replay::Target;
use crate::support::cli::converted;
use crate::support::client::{Client, Reply, call};
use crate::support::load::{Load, Mix};
use crate::support::relay::Relay;
use crate::support::server::Server;
use crate::support::text;

/// Cuts a link until more was done than the source's backlog holds, `meanwhile` among it, so that a new snapshot comes.
fn gives_a_new_snapshot(source: &Server, link: &Relay, meanwhile: impl FnOnce(&mut Client)) {
    link.refuse(true);
    link.reset();
    until(SOON, || {
        info(source, "replication", "connected_slaves") == 0
    });
    let mut client = source.client();
    meanwhile(&mut client);
    call!(client, "SET", "large", "x".repeat(1 << 20));
    link.refuse(false);
    until(SOON, || info(source, "stats", "sync_full") >= 2);
}

#[test]
fn a_link_that_is_cut_every_two_seconds() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 2000);
    let relay = Relay::start(source.port);
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    {
        let _cutting = relay.cutting_every(Duration::from_secs(2));
        std::thread::sleep(Duration::from_secs(30));
    }
    load.stop();
    assert!(relay.connections() > 10, "{}", relay.connections());
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    assert_eq!(info(&source, "stats", "sync_full"), 1, "{}", live.said());
    live.terminate();
}

/// Cuts that come while the snapshot is under way: it is asked for anew, and nothing of the half one is left.
#[test]
fn a_link_that_is_cut_inside_the_snapshot() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 20_000);
    let relay = Relay::start(source.port);
    relay.at_most(600_000);
    let load = Load::mixed(&source, Mix::narrow());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    for cuts in 1..=3 {
        let before = relay.bytes_back();
        live.until("a part of the snapshot", SOON, |_| {
            relay.bytes_back() > before + 150_000
        });
        if cuts == 2 {
            relay.cut();
        } else {
            relay.reset();
        }
    }
    relay.at_most(0);
    load.does(1000);
    live.catches_up();
    load.stop();
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// What waits for the next connection selects a database there, and what comes behind it is of another one.
#[test]
fn a_connection_that_is_lost_in_another_database() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let mut client = source.client();
    call!(client, "SELECT", "1");
    for i in 0..20 {
        call!(client, "SET", format!("key:{i}"), "1", "PX", "3600000");
    }
    let relay = Relay::start(target.port());
    relay.delay(0, 50);
    let words = ["--connections", "1"];
    let mut live = Live::new(source.port, relay.port, &words).started();
    let mut there = target.servers()[0].client();
    call!(there, "SELECT", "1");
    // The last that is sent before the log is gone on with: the true times, of which no answer comes.
    live.until("true times", SOON, |_| {
        (1..4_000_000).contains(&call!(there, "PTTL", "key:0").int())
    });
    relay.refuse(true);
    relay.reset();
    std::thread::sleep(Duration::from_millis(500));
    relay.refuse(false);
    call!(client, "SELECT", "0");
    for i in 0..20 {
        call!(client, "INCR", format!("key:{i}"));
    }
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A master dies, and what was its other replica takes its place, under the same address.
#[test]
fn a_replica_takes_the_place_of_the_master() {
    let (master, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let heir = source("redis-7.0", &[]);
    replicates(&heir, master.port);
    fill(&master, 1000);
    let relay = Relay::start(master.port);
    let load = Load::mixed(&master, Mix::wide());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    load.does(2000);
    load.stop();
    // Both have all of it: the heir must not be behind whoever goes on with it.
    until(SOON, || {
        let info = call!(master.client(), "INFO", "replication").text();
        let own = super::offsets(&master).0;
        info.matches(&format!("offset={own},")).count() == 2
    });
    let before = info(&heir, "stats", "sync_full");
    relay.lead_to(heir.port);
    master.kill();
    call!(heir.client(), "REPLICAOF", "NO", "ONE");
    let load = Load::mixed(
        &heir,
        Mix {
            seed: 2,
            ..Mix::wide()
        },
    );
    load.does(2000);
    load.stop();
    live.acknowledges(&heir);
    ends_equal(&mut live, &heir, &target);
    assert_eq!(info(&heir, "stats", "sync_full"), before, "{}", live.said());
    live.terminate();
}

/// As above, but the heir had not heard all of it, so that whoever listened knows more than there is now.
#[test]
fn a_replica_that_was_behind_takes_the_place_of_the_master() {
    let (master, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let heir = source("redis-7.0", &[]);
    let behind = Relay::start(master.port);
    replicates(&heir, behind.port);
    fill(&master, 1000);
    let relay = Relay::start(master.port);
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    until(SOON, || call!(heir.client(), "DBSIZE").int() >= 1000);
    behind.stop();
    let load = Load::mixed(&master, Mix::wide());
    load.does(1000);
    load.stop();
    until(SOON, || target.keys() > 1000);
    relay.lead_to(heir.port);
    master.kill();
    call!(heir.client(), "REPLICAOF", "NO", "ONE");
    let load = Load::mixed(
        &heir,
        Mix {
            seed: 2,
            ..Mix::wide()
        },
    );
    load.does(500);
    load.stop();
    live.acknowledges(&heir);
    ends_equal(&mut live, &heir, &target);
    live.terminate();
}

/// The source is itself a replica, and becomes a master of its own: the stream goes on under another name.
#[test]
fn a_source_that_is_a_replica_is_promoted() {
    let (master, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let source = source("redis-7.0", &[]);
    replicates(&source, master.port);
    fill(&master, 1000);
    let load = Load::mixed(&master, Mix::wide());
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    load.does(1000);
    load.stop();
    live.acknowledges(&master);
    master.kill();
    call!(source.client(), "REPLICAOF", "NO", "ONE");
    let load = Load::mixed(
        &source,
        Mix {
            seed: 2,
            ..Mix::wide()
        },
    );
    load.does(2000);
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    assert_eq!(info(&source, "stats", "sync_full"), 1, "{}", live.said());
    live.terminate();
}

/// Away for longer than the source remembers: a snapshot in the middle of it all. Keys that were removed meanwhile have
/// no command any more that would tell of them.
fn is_away_for_too_long(target: &Target) {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    fill(&source, 2000);
    let relay = Relay::start(source.port);
    let load = Load::mixed(&source, Mix::narrow());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    gives_a_new_snapshot(&source, &relay, |client| {
        for i in (0..2000).step_by(3) {
            call!(client, "DEL", format!("filled:{i}"));
        }
        // A key of another type under the same name, which no command of the old type could change.
        call!(client, "DEL", "filled:4");
        call!(client, "RPUSH", "filled:4", "a", "b");
        load.does(2000);
    });
    load.does(1000);
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, target);
    // Each thing that is said of the source has its name once.
    let doubled = format!("127.0.0.1:{0}: 127.0.0.1:{0}", relay.port);
    assert!(!live.said().contains(&doubled), "{}", live.said());
    live.terminate();
}

#[test]
fn a_backlog_that_was_too_short_for_a_server() {
    is_away_for_too_long(&Target::server("redis-7.0"));
}

#[test]
fn a_backlog_that_was_too_short_for_a_proxy() {
    is_away_for_too_long(&Target::proxy(&[]));
}

#[test]
fn a_backlog_that_was_too_short_for_a_cluster() {
    is_away_for_too_long(&Target::cluster());
}

/// As above, after so much was sent that the first of what was received is removed. What that wrote is remembered, and
/// nobody is in the way of whoever looks at it.
#[test]
fn a_backlog_that_was_too_short_when_much_was_removed_already() {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    let target = Target::server("redis-7.0");
    fill(&source, 100);
    let relay = Relay::start(source.port);
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    let mut client = source.client();
    for i in 0..100 {
        call!(client, "SET", format!("early:{i}"), "there");
    }
    let load = Load::flood(&source, 32 << 10, 50 << 20);
    live.until("a file that is removed", 2 * SOON, |live| {
        let first = live.path("appendonly.aof.1.incr.aof");
        let third = live.path("appendonly.aof.3.incr.aof");
        third.exists() && !first.exists()
    });
    load.stop();
    live.acknowledges(&source);
    gives_a_new_snapshot(&source, &relay, |client| {
        for i in (0..100).step_by(3) {
            call!(client, "DEL", format!("early:{i}"), format!("filled:{i}"));
        }
    });
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// What is sent can be removed only when it is known what it wrote. Where that cannot be noted for a while, it is removed
/// later.
#[test]
fn files_that_could_not_be_removed_are_removed_later() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    let in_the_way = live.path("appendonly.aof.keys");
    std::fs::create_dir(&in_the_way).expect("a directory");
    let load = Load::flood(&source, 32 << 10, 50 << 20);
    live.until("a warning", 2 * SOON, |live| {
        live.said().contains("is not removed until")
    });
    assert!(live.path("appendonly.aof.1.incr.aof").exists());
    std::fs::remove_dir(&in_the_way).expect("it is empty");
    live.until("a file that is removed", SOON, |live| {
        !live.path("appendonly.aof.1.incr.aof").exists()
    });
    load.stop();
    live.terminate();
}

/// Where others have keys, a new snapshot that comes while the one before it is under way: what was sent of that goes,
/// and what others have stays.
#[test]
fn a_new_snapshot_in_the_middle_of_one_where_others_have_keys() {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    let target = Target::server("redis-7.0");
    fill(&source, 4000);
    let mut theirs = target.servers()[0].client();
    call!(theirs, "SET", "theirs", "old");
    let (from, to) = (Relay::start(source.port), Relay::start(target.port()));
    to.delay(5, 5);
    let slow = ["--connections", "2", "--pipeline", "16"];
    let mut live = Live::new(from.port, to.port, &slow).started();
    live.until("a part of the snapshot", SOON, |_| target.keys() > 400);
    gives_a_new_snapshot(&source, &from, |client| {
        for i in (0..4000).step_by(3) {
            call!(client, "DEL", format!("filled:{i}"));
        }
        assert!(target.keys() < 4000);
    });
    to.delay(0, 0);
    live.acknowledges(&source);
    live.catches_up();
    assert_eq!(call!(theirs, "GETDEL", "theirs").text(), "old");
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A key of others that the run did not come to before the source began anew is still theirs.
#[test]
fn a_key_of_others_behind_what_was_sent_survives_a_new_snapshot() {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    let target = Target::server("redis-7.0");
    fill(&source, 4000);
    let mut theirs = target.servers()[0].client();
    call!(theirs, "SET", "theirs", "old");
    let (from, to) = (Relay::start(source.port), Relay::start(target.port()));
    to.delay(15, 15);
    let slow = ["--connections", "1", "--pipeline", "16"];
    let mut live = Live::new(from.port, to.port, &slow).started();
    live.until("a snapshot", SOON, |live| live.path("dump.rdb").exists());
    let last = last_key_of(&live.path("dump.rdb"));
    call!(theirs, "SET", &last, "theirs");
    live.until("a part of the snapshot", SOON, |_| target.keys() > 100);
    gives_a_new_snapshot(&source, &from, |client| {
        call!(client, "DEL", &last);
        assert!(target.keys() < 3000);
    });
    to.delay(0, 0);
    live.acknowledges(&source);
    live.catches_up();
    assert_eq!(
        call!(theirs, "GET", &last).text(),
        "theirs",
        "{}",
        live.said()
    );
    live.terminate();
}

/// The last key of a snapshot, of those that [`fill`] makes.
fn last_key_of(snapshot: &Path) -> String {
    let resp = converted(&[text(snapshot)]);
    let resp = String::from_utf8_lossy(&resp);
    let mut words = resp.lines().rev();
    let last = words.find(|word| word.starts_with("filled:"));
    last.expect("a key").to_owned()
}

/// A key of others that has ended a run is still theirs when the source has begun anew meanwhile.
#[test]
fn a_key_of_others_survives_a_new_snapshot() {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    let target = Target::server("redis-7.0");
    fill(&source, 200);
    let mut theirs = target.servers()[0].client();
    for how in ["fail", "skip", "merge"] {
        target.flush();
        call!(theirs, "RPUSH", "filled:3", "theirs");
        let words = ["--on-exist", how];
        let mut live = Live::new(source.port, target.port(), &words).started();
        if how == "fail" {
            assert_eq!(live.ends(SOON).0, 5);
        } else {
            live.catches_up();
            live.kill();
        }
        call!(source.client(), "SET", "large", "x".repeat(1 << 20));
        call!(source.client(), "DEL", "large");
        let syncs = info(&source, "stats", "sync_full");
        live.start();
        let (code, said) = live.ends(SOON);
        assert_eq!(code, 5, "{how}: {said}");
        assert_eq!(info(&source, "stats", "sync_full"), syncs + 1, "{how}");
        let there = call!(theirs, "LRANGE", "filled:3", "0", "0");
        assert_eq!(there.all_bytes(), [b"theirs"], "{how}: {said}");
        assert!(said.contains("--on-exist replace"), "{how}: {said}");
    }
}

/// A library of one function that answers with a word.
fn library(name: &str, word: &str) -> String {
    format!("#!lua name={name}\nredis.register_function('{name}', function() return '{word}' end)")
}

/// Function libraries are in no key, so none of the commands of a new snapshot would remove those that are gone from it.
/// `others`: whether the destination holds a key of others, so that nothing may be replaced.
fn libraries_that_are_gone_are_removed(target: &Target, others: bool) {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    fill(&source, 100);
    let mut client = source.client();
    for name in ["stays", "changes", "goes"] {
        call!(client, "FUNCTION", "LOAD", library(name, "old"));
    }
    for server in target.servers() {
        call!(
            server.client(),
            "FUNCTION",
            "LOAD",
            library("theirs", "old")
        );
    }
    let theirs = target.servers()[0];
    if others {
        call!(theirs.client(), "SET", "theirs", "old");
    }
    let relay = Relay::start(source.port);
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    call!(client, "FUNCTION", "LOAD", library("loaded", "old"));
    call!(client, "FUNCTION", "LOAD", library("restored", "old"));
    let payload = call!(client, "FUNCTION", "DUMP").bytes();
    call!(client, "FUNCTION", "DELETE", "restored");
    call!(client, "FUNCTION", "RESTORE", payload, "REPLACE");
    live.acknowledges(&source);
    gives_a_new_snapshot(&source, &relay, |client| {
        for name in ["goes", "loaded", "restored"] {
            call!(client, "FUNCTION", "DELETE", name);
        }
        let changed = library("changes", "new");
        call!(client, "FUNCTION", "LOAD", "REPLACE", changed);
    });
    live.acknowledges(&source);
    let names = |server: &Server| {
        let found = call!(server.client(), "FUNCTION", "LIST", "WITHCODE").array();
        let shown = |library: Reply| format!("{library:?}");
        let mut names: Vec<String> = found.into_iter().map(shown).collect();
        names.sort();
        names
    };
    for server in target.servers() {
        live.until("the libraries of the new snapshot", SOON, |_| {
            call!(server.client(), "FUNCTION", "LIST").array().len() == 3
        });
        call!(server.client(), "FUNCTION", "DELETE", "theirs");
        assert_eq!(names(server), names(&source), "{}", live.said());
    }
    if others {
        assert_eq!(call!(theirs.client(), "DEL", "theirs").int(), 1);
    }
    ends_equal(&mut live, &source, target);
    live.terminate();
}

#[test]
fn libraries_that_are_gone_from_a_new_snapshot_of_a_server() {
    libraries_that_are_gone_are_removed(&Target::server("redis-7.0"), false);
}

#[test]
fn libraries_that_are_gone_where_others_have_keys() {
    libraries_that_are_gone_are_removed(&Target::server("redis-7.0"), true);
}

#[test]
fn libraries_that_are_gone_from_a_new_snapshot_of_a_cluster() {
    libraries_that_are_gone_are_removed(&Target::cluster(), false);
}

/// A source that was restarted without its data and has another history.
#[test]
fn a_source_that_lost_everything() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 1000);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    source.kill();
    source.restart();
    fill(&source, 100);
    call!(source.client(), "SET", "after", "all");
    until(SOON, || {
        info(&source, "replication", "connected_slaves") == 1
    });
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

#[test]
fn one_byte_at_a_time() {
    for diskless in ["no", "yes"] {
        let source = source("redis-7.0", &["--repl-diskless-sync", diskless]);
        let target = Target::server("redis-7.0");
        fill(&source, 200);
        let relay = Relay::start(source.port);
        relay.drip(true);
        let load = Load::mixed(
            &source,
            Mix {
                per_second: 300,
                ..Mix::wide()
            },
        );
        let mut live = Live::new(relay.port, target.port(), &[]).started();
        live.catches_up();
        load.does(300);
        load.stop();
        live.acknowledges(&source);
        ends_equal(&mut live, &source, &target);
        live.terminate();
    }
}

#[test]
fn an_eof_mark_that_comes_in_pieces() {
    let source = source("redis-7.0", &["--repl-diskless-sync", "yes"]);
    let target = Target::server("redis-7.0");
    fill(&source, 2000);
    let relay = Relay::start(source.port);
    relay.split_eof();
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    load.does(500);
    load.stop();
    ends_equal(&mut live, &source, &target);
    assert_eq!(relay.eof_marks_split(), 1);
    live.terminate();
}

/// A network of seconds: acknowledgements come late, and nothing is given up for that.
#[test]
fn a_link_with_much_delay() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 2000);
    let relay = Relay::start(source.port);
    relay.delay(400, 400);
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    load.does(2000);
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A link that hangs: no byte, and no end either. Whoever listens must notice, as servers do.
#[test]
fn a_link_that_hangs_is_noticed() {
    let source = source(
        "redis-7.0",
        &["--repl-timeout", "4", "--repl-ping-replica-period", "1"],
    );
    let target = Target::server("redis-7.0");
    fill(&source, 200);
    let relay = Relay::start(source.port);
    let mut live = Live::new(relay.port, target.port(), &[]).started();
    live.catches_up();
    relay.stop();
    // The source gives it up; behind the relay, nobody hears of that.
    until(SOON, || {
        info(&source, "replication", "connected_slaves") == 0
    });
    for i in 0..300 {
        call!(
            source.client(),
            "RPUSH",
            format!("meanwhile:{}", i % 7),
            i.to_string()
        );
    }
    relay.go_on();
    until(SOON, || {
        info(&source, "replication", "connected_slaves") == 1
    });
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// The destination does nothing for twenty seconds while the source is written to as fast as the disk may take it. The
/// source must not notice, and the program keeps it all on the disk.
#[test]
fn a_destination_that_stands_still_for_twenty_seconds() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 1000);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    let begin = Instant::now();
    let load = Load::flood(&source, 32 << 10, 16 << 20);
    load.does(100);
    let destination = target.servers()[0];
    destination.pause();
    while begin.elapsed() < Duration::from_secs(20) {
        assert_eq!(info(&source, "replication", "connected_slaves"), 1);
        assert!(live.is_running(), "{}", live.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = info(&source, "replication", "master_repl_offset");
    destination.resume();
    load.stop();
    assert!(before > 100 << 20, "only {before} bytes in 20 s");
    ends_equal(&mut live, &source, &target);
    assert_eq!(info(&source, "stats", "sync_full"), 1);
    assert_eq!(info(&source, "stats", "sync_partial_ok"), 0);
    let peak = live.peak_mib();
    assert!(peak < 256, "{peak} MiB");
    live.terminate();
}

#[test]
fn a_destination_that_is_cut_off_again_and_again() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 2000);
    let relay = Relay::start(target.port());
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::new(source.port, relay.port, &[]).started();
    live.catches_up();
    {
        let _cutting = relay.cutting_every(Duration::from_millis(700));
        load.does(10_000);
    }
    load.stop();
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A server that forgets everything when it is started again: whoever was there names it at the end, and no run that goes
/// on with that load ends as if all were there.
fn comes_again_empty(target: &Target, is_told_of: bool) {
    let source = source("redis-7.0", &[]);
    fill(&source, 2000);
    let load = Load::mixed(&source, Mix::narrow());
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    load.does(500);
    let servers = target.servers();
    let again = || {
        let one = servers[servers.len() / 2];
        one.kill();
        one.restart();
    };
    if is_told_of {
        again();
        load.does(1000);
        load.stop();
        // What is not there cannot be changed, which may end it before.
        let (code, said) = live.is_told_to_end();
        assert!(matches!(code, 143 | 5), "{code}: {said}");
        assert!(names(&said, &["was started anew", "begin anew"]), "{said}");
    } else {
        load.stop();
        live.acknowledges(&source);
        live.kill();
        again();
    }
    live.words
        .extend(["--until", "caught-up"].map(str::to_owned));
    live.start();
    let (code, said) = live.ends(SOON);
    assert!(matches!(code, 1 | 5), "{code}: {said}");
    assert!(names(&said, &["was started anew", "begin anew"]), "{said}");
    assert!(
        live.files()
            .iter()
            .any(|name| name == "appendonly.aof.spool")
    );

    target.flush();
    let words = ["--until", "caught-up"];
    let mut anew = Live::new(source.port, target.port(), &words).started();
    let (code, said) = anew.ends(SOON);
    assert_eq!(code, 0, "{said}");
    is_equal(&anew, &source, target, 0);
}

#[test]
fn a_server_that_comes_again_empty_is_named() {
    comes_again_empty(&Target::server("redis-7.0"), true);
}

#[test]
fn a_server_behind_a_proxy_that_comes_again_empty_is_named() {
    comes_again_empty(&Target::proxy(&[]), true);
}

#[test]
fn a_master_that_comes_again_empty_is_named() {
    comes_again_empty(&Target::cluster(), true);
}

#[test]
fn a_server_that_comes_again_empty_between_two_runs_is_named() {
    comes_again_empty(&Target::server("redis-7.0"), false);
}

#[test]
fn a_server_behind_a_proxy_that_comes_again_empty_between_two_runs_is_named() {
    comes_again_empty(&Target::proxy(&[]), false);
}

/// A run that is online has no end at which it would tell that.
fn is_named_while_it_goes_on(target: &Target) {
    let source = source("redis-7.0", &[]);
    fill(&source, 200);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    for server in target.servers() {
        server.kill();
        server.restart();
    }
    let mut client = source.client();
    live.until("a word", SOON, |live| {
        // What needs nothing that was there before.
        call!(client, "SET", "another", "value");
        live.said().contains("was started anew")
    });
    // It looks every ten seconds, and says it once.
    std::thread::sleep(Duration::from_secs(13));
    let said = live.said();
    let times = said.matches("was started anew").count();
    assert_eq!(times, target.servers().len(), "{said}");
    live.terminate();
}

#[test]
fn a_server_that_comes_again_empty_is_named_while_the_run_goes_on() {
    is_named_while_it_goes_on(&Target::server("redis-7.0"));
}

#[test]
fn a_server_behind_a_proxy_that_comes_again_empty_is_named_while_the_run_goes_on() {
    is_named_while_it_goes_on(&Target::proxy(&[]));
}

/// What a server lost that was started anew comes again with a new snapshot of the source.
#[test]
fn a_server_that_was_started_anew_before_a_new_snapshot_has_lost_nothing() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 200);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    target.servers()[0].kill();
    target.servers()[0].restart();
    let mut client = source.client();
    live.until("a word", SOON, |live| {
        call!(client, "SET", "another", "value");
        live.said().contains("was started anew")
    });
    call!(client, "DEBUG", "CHANGE-REPL-ID");
    call!(client, "CLIENT", "KILL", "TYPE", "replica");
    until(SOON, || info(&source, "stats", "sync_full") >= 2);
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    let said = live.terminate();
    assert_eq!(said.matches("was started anew").count(), 1, "{said}");
}

/// A disk that is full, or rather files that may not grow: the run ends with the word of a local file, and goes on when
/// there is room.
fn runs_out_of_room(fill_keys: usize, kib: u64, flood: bool) {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, fill_keys);
    let mut live = Live::new(source.port, target.port(), &[]);
    live.largest_file = Some(kib);
    live.start();
    let load = flood.then(|| {
        live.catches_up();
        Load::flood(&source, 16 << 10, 4 << 20)
    });
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 74, "{said}");
    drop(load);
    live.largest_file = None;
    live.start();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

#[test]
fn a_disk_that_has_no_room_for_the_snapshot() {
    runs_out_of_room(20_000, 200, false);
}

#[test]
fn a_disk_that_has_no_room_for_the_delta() {
    runs_out_of_room(100, 4096, true);
}

/// A source that goes away for good: the run stays, and ends when it is told to.
#[test]
fn a_source_that_is_gone_is_waited_for() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 200);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    source.kill();
    std::thread::sleep(Duration::from_secs(3));
    assert!(live.is_running(), "{}", live.said());
    let begin = Instant::now();
    live.terminate();
    assert!(begin.elapsed() < END);
}

/// A source that is a replica without its master refuses with NOMASTERLINK until it has one; one that loads refuses with
/// LOADING. Both pass.
#[test]
fn a_source_that_has_lost_its_master_is_waited_for() {
    let (source, target): (Server, _) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 200);
    let closed = crate::support::server::free_port().to_string();
    call!(source.client(), "REPLICAOF", "127.0.0.1", closed);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    std::thread::sleep(Duration::from_secs(2));
    assert!(live.is_running(), "{}", live.said());
    assert!(live.said().contains("NOMASTERLINK"), "{}", live.said());
    call!(source.client(), "REPLICAOF", "NO", "ONE");
    ends_equal(&mut live, &source, &target);
    live.terminate();
}
