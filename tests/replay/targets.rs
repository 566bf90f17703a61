//! What a file holds is what the destination holds afterwards, whatever the destination is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Target, log_of_increments, name, scaled, snapshot};
use crate::support::cli::{replay_at, replayed_at};
use crate::support::client::call;
use crate::support::data::{DataSet, Value, diff, held_by};
use crate::support::server::{Server, available};
use crate::support::{fixtures, log_fixture, rdb_version, text};

/// Whether a server's own loader takes this snapshot.
fn loads(server: &str, snapshot: &Path) -> bool {
    let version = rdb_version(snapshot);
    match server {
        "redis-8.10" => version <= 15,
        "redis-7.0" => version <= 10,
        "redis-6.2" | "redis-5.0" => version <= 9,
        "valkey-9.1" => version <= 11 || version == 80,
        other => panic!("{other}: which snapshots it loads is not known here"),
    }
}

/// The logs that a server of this name replays to what the first writer had: of their age or older, and without expiries
/// that count from the moment of loading.
fn logs(server: &str) -> Vec<PathBuf> {
    let names: &[&str] = match server {
        "redis-8.10" => &[
            "multi_redis-2.4.18.aof",
            "preamble_redis-5.0.14.aof",
            "streams_redis-6.2.16.aof",
            "timestamps_redis-7.0.15.aof",
            "scripts_redis-7.0.15.aof",
            "multipart_redis-7.0.15",
            "history_redis-8.10.2",
        ],
        "redis-7.0" => &[
            "multi_redis-2.4.18.aof",
            "preamble_redis-5.0.14.aof",
            "streams_redis-6.2.16.aof",
            "timestamps_redis-7.0.15.aof",
            "scripts_redis-7.0.15.aof",
            "multipart_redis-7.0.15",
            "names_valkey-9.1.2",
        ],
        "redis-6.2" => &[
            "multi_redis-2.4.18.aof",
            "preamble_redis-5.0.14.aof",
            "streams_redis-6.2.16.aof",
        ],
        "redis-5.0" => &["multi_redis-2.4.18.aof", "preamble_redis-5.0.14.aof"],
        _ => &[
            "multi_redis-2.4.18.aof",
            "preamble_redis-5.0.14.aof",
            "timestamps_redis-7.0.15.aof",
            "scripts_redis-7.0.15.aof",
            "names_valkey-9.1.2",
        ],
    };
    names.iter().map(|name| log_fixture(name)).collect()
}

/// Sends every fixture of a server's age into a target, and compares with what that server makes of the file itself.
/// `narrow` leaves of the data what the target can have.
fn every_fixture(server: &str, target: &Target, args: &[&str], narrow: impl Fn(&mut DataSet)) {
    let mut files: Vec<PathBuf> = fixtures()
        .into_iter()
        .filter(|p| loads(server, p))
        .collect();
    let snapshots = files.len();
    files.extend(logs(server));
    let mut wrong = Vec::new();
    for (i, file) in files.iter().enumerate() {
        let own = if i < snapshots {
            Server::on_snapshot(server, file)
        } else {
            Server::on_log(server, file, &[])
        };
        let mut want = held_by(&own);
        narrow(&mut want);
        target.flush();
        let run = replay_at(target.port(), &[args, &[text(file)]].concat());
        let mut lines = diff(&want, &target.data());
        if run.code != 0 {
            lines.push(format!("exit {}: {}", run.code, run.stderr));
        }
        if !lines.is_empty() {
            wrong.push(format!("{}:\n  {}", name(file), lines.join("\n  ")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        files.len(),
        wrong.join("\n")
    );
    assert!(snapshots >= 10, "{snapshots} snapshots");
}

/// Leaves what a destination of one database can have.
fn only_db_0(data: &mut DataSet) {
    data.retain(|db, _, _| db == 0);
}

/// Leaves what can pass through a proxy.
fn only_db_0_without_functions(data: &mut DataSet) {
    only_db_0(data);
    data.functions.clear();
}

fn into_server(server: &str) {
    if !available(server) {
        return;
    }
    let target = Target::Server(Server::with(server, &["--sanitize-dump-payload", "yes"]));
    every_fixture(server, &target, &[], |_| {});
}

#[test]
fn every_fixture_goes_into_redis_7_0() {
    into_server("redis-7.0");
}

#[test]
fn every_fixture_goes_into_valkey_9_1() {
    into_server("valkey-9.1");
}

#[test]
fn every_fixture_goes_into_redis_8_10() {
    into_server("redis-8.10");
}

#[test]
fn every_fixture_goes_into_redis_6_2() {
    into_server("redis-6.2");
}

#[test]
fn every_fixture_goes_into_redis_5_0() {
    if available("redis-5.0") {
        // Its payloads are not checked more deeply on demand: there is no such option yet.
        every_fixture("redis-5.0", &Target::server("redis-5.0"), &[], |_| {});
    }
}

#[test]
fn every_fixture_goes_into_a_cluster() {
    every_fixture("redis-7.0", &Target::cluster(), &["--db", "0"], only_db_0);
}

const THROUGH_A_PROXY: &[&str] = &["--db", "0", "--no-functions"];

#[test]
fn every_fixture_goes_through_a_proxy() {
    let target = Target::proxy(&[("hash_tag", "\"{}\"")]);
    every_fixture(
        "redis-7.0",
        &target,
        THROUGH_A_PROXY,
        only_db_0_without_functions,
    );
}

#[test]
fn every_fixture_goes_through_a_proxy_of_four_connections_that_shares_out_by_modulo() {
    let target = Target::proxy(&[("distribution", "modula"), ("server_connections", "4")]);
    every_fixture(
        "redis-7.0",
        &target,
        THROUGH_A_PROXY,
        only_db_0_without_functions,
    );
}

#[test]
fn both_forms_of_values_arrive() {
    let sample = snapshot();
    for target in [
        Target::server("redis-7.0"),
        Target::cluster(),
        Target::proxy(&[]),
    ] {
        for mode in ["commands", "restore"] {
            target.flush();
            replayed_at(target.port(), &["--mode", mode, sample.path()]);
            sample.assert_in(&target.servers(), mode);
        }
    }
}

/// Streams of a type that the destination does not know are written as an older type, with all that one has.
#[test]
fn payloads_of_streams_are_made_for_older_servers() {
    for from in ["redis-8.10", "valkey-9.1", "redis-7.0"] {
        if !available(from) {
            continue;
        }
        let source = Server::start(from);
        let mut client = source.client();
        for i in 1..=300 {
            let (id, text) = (format!("{i}-1"), "x".repeat(i));
            call!(client, "XADD", "large", id, "f", text);
        }
        call!(client, "XDEL", "large", "5-1", "250-1");
        call!(client, "XADD", "none", "7-7", "f", "v");
        call!(client, "XTRIM", "none", "MAXLEN", "0");
        for key in ["large", "none"] {
            for group in ["g", "h"] {
                call!(client, "XGROUP", "CREATE", key, group, "0");
                call!(client, "XGROUP", "CREATECONSUMER", key, group, "idle");
                for consumer in ["c", "d"] {
                    let read = ["XREADGROUP", "GROUP", group, consumer, "COUNT", "40"];
                    let read = [&read[..], &["STREAMS", key, ">"]].concat();
                    let read: Vec<&[u8]> = read.iter().map(|word| word.as_bytes()).collect();
                    client.call(&read);
                }
                call!(client, "XACK", key, group, "3-1", "60-1");
            }
        }
        call!(client, "XDEL", "large", "8-1");
        let path = source.save();
        let want = DataSet::read(&mut client);
        for to in ["redis-7.0", "redis-6.2", "redis-5.0"] {
            if !available(to) || from == to {
                continue;
            }
            let options: &[&str] = match to {
                "redis-5.0" => &[],
                _ => &["--sanitize-dump-payload", "yes"],
            };
            for target in [
                Target::Server(Server::with(to, options)),
                Target::proxy_over(to, &[], options),
            ] {
                let run = replay_at(target.port(), &["--mode", "restore", text(&path)]);
                assert_eq!(run.code, 0, "{from} {to}: {}", run.stderr);
                let lost = from != "redis-7.0";
                assert_eq!(run.stderr.contains("lose their active times"), lost);
                let lost = to != "redis-7.0";
                assert_eq!(run.stderr.contains("lose entries-added"), lost);
                let (mut want, mut got) = (want.clone(), target.data());
                for data in [&mut want, &mut got] {
                    let records = data.dbs.values_mut().flat_map(BTreeMap::values_mut);
                    for record in records {
                        let Value::Stream(stream) = &mut record.value else {
                            panic!("{record:?}");
                        };
                        stream
                            .extras
                            .retain(|name, _| !lost && !name.starts_with("idmp"));
                        for group in stream.groups.values_mut().filter(|_| lost) {
                            group.entries_read = None;
                            if to == "redis-5.0" {
                                // It tells less of its own.
                                group.consumers.clear();
                                let pending = group.pending.values_mut();
                                pending.for_each(|one| one.delivered_at_ms = None);
                            }
                        }
                    }
                }
                assert_eq!(diff(&want, &got), Vec::<String>::new(), "{from} {to}");
            }
        }
    }
}

/// Much data, with several numbers of connections and commands under way.
fn much(kind: &str, target: &Target) {
    let shared = snapshot();
    let sample = shared.held_by(kind);
    for (connections, pipeline) in [("1", "1000"), ("4", "16")] {
        target.flush();
        let args = ["--connections", connections, "--pipeline", pipeline];
        let run = replay_at(target.port(), &[&args[..], &[sample.path()]].concat());
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
        sample.assert_in(&target.servers(), &format!("{args:?}"));
    }
    let log = log_of_increments(scaled(20_000));
    let own = log.held_by(kind);
    target.flush();
    replayed_at(target.port(), &[log.path()]);
    own.assert_in(&target.servers(), "the log");
}

#[test]
fn much_goes_into_redis_7_0() {
    much("redis-7.0", &Target::server("redis-7.0"));
}

#[test]
fn much_goes_into_redis_8_10() {
    if available("redis-8.10") {
        much("redis-8.10", &Target::server("redis-8.10"));
    }
}

#[test]
fn much_goes_into_valkey_9_1() {
    if available("valkey-9.1") {
        much("valkey-9.1", &Target::server("valkey-9.1"));
    }
}

#[test]
fn much_goes_into_a_cluster() {
    much("redis-7.0", &Target::cluster());
}

#[test]
fn much_goes_through_a_proxy() {
    much("redis-7.0", &Target::proxy(&[]));
}

#[test]
fn much_goes_through_a_proxy_whose_connections_overtake_each_other() {
    much(
        "redis-7.0",
        &Target::proxy(&[("server_connections", "4"), ("distribution", "modula")]),
    );
}

#[test]
fn a_value_larger_than_what_is_sent_at_once_arrives_in_parts() {
    let sample = snapshot();
    for target in [
        Target::server("redis-7.0"),
        Target::cluster(),
        Target::proxy(&[]),
    ] {
        replayed_at(target.port(), &["--big-key", "64kb", sample.path()]);
        sample.assert_in(&target.servers(), "--big-key 64kb");
    }
}
