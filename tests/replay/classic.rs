//! The original's command line, and the lines of the manual word for word.

use super::{Sample, Target, log_of_increments, place, sample_of_log, scaled, snapshot};
use crate::support::cli::run;
use crate::support::server::Server;

/// A snapshot and a log that goes on from it, and what both make.
fn snapshot_and_log() -> (std::sync::Arc<Sample>, Sample, Sample) {
    let first = snapshot();
    let mut log = Vec::new();
    for i in 0..scaled(5000) {
        // Keys that the snapshot has, and new ones: only in this order is the result right.
        for words in [
            format!("RPUSH l:{} {i}", 5 + i % 50 * 10),
            format!("APPEND s:{} {i}", i % 50 * 10),
            format!("DEL u:{}", 6 + i % 50 * 10),
            format!("INCR count:{}", i % 10),
        ] {
            let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            crate::support::resp::append_command(&mut log, &words);
        }
    }
    let mut both = std::fs::read(&first.path).expect("the snapshot");
    both.extend(&log);
    (first, sample_of_log(&log), sample_of_log(&both))
}

#[test]
fn the_originals_options_send_the_snapshot_and_then_the_log() {
    let (first, log, both) = snapshot_and_log();
    for target in [
        Target::proxy(&[]),
        Target::proxy(&[("server_connections", "4")]),
        Target::server("redis-7.0"),
    ] {
        let port = target.port().to_string();
        let args = [
            "-dip",
            "127.0.0.1",
            "-dport",
            &port,
            "-rdb",
            first.path(),
            "-aof",
            log.path(),
            "-client",
            "10",
        ];
        let out = run(&args, None);
        assert_eq!(out.code, 0, "{}", out.stderr);
        both.assert_in(&target.servers(), "snapshot and log");
    }
}

#[test]
fn the_originals_options_stand_in_any_order_and_one_file_is_enough() {
    let (first, log) = (snapshot(), log_of_increments(scaled(5000)));
    let target = Target::proxy(&[]);
    let port = target.port().to_string();
    let out = run(
        &[
            "-rdb",
            first.path(),
            "-dport",
            &port,
            "-client",
            "3",
            "-dip",
            "127.0.0.1",
        ],
        None,
    );
    assert_eq!(out.code, 0, "{}", out.stderr);
    first.assert_in(&target.servers(), "only a snapshot");
    target.flush();
    let out = run(
        &["-aof", log.path(), "-dport", &port, "-dip", "127.0.0.1"],
        None,
    );
    assert_eq!(out.code, 0, "{}", out.stderr);
    log.assert_in(&target.servers(), "only a log");
    // The files are the user's.
    assert!(first.path.exists() && log.path.exists());
}

#[test]
fn the_originals_password_opens_the_destination() {
    let first = snapshot();
    let server = Server::start("redis-7.0");
    server.set("requirepass", "secret");
    let port = server.port.to_string();
    let args = ["-dip", "127.0.0.1", "-dport", &port, "-rdb", first.path()];
    assert_eq!(run(&args, None).code, 4);
    let out = run(&[&args[..], &["-dauth", "secret"]].concat(), None);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let mut client = server.client();
    crate::support::client::call!(client, "AUTH", "secret");
    crate::support::client::call!(client, "CONFIG", "SET", "requirepass", "");
    first.assert_in(&[&server], "with -dauth");
}

#[test]
fn the_originals_help_and_version_are_told_and_half_a_command_line_is_not_guessed() {
    for args in [&["-h"][..], &["-v"]] {
        let out = run(args, None);
        assert_eq!(out.code, 0, "{args:?}: {}", out.stderr);
        assert!(!out.stdout.is_empty());
    }
    for args in [
        &["-dip", "127.0.0.1"][..],
        &["-dport", "6379", "-rdb"],
        &["-dip", "127.0.0.1", "-dport", "x", "-rdb", "f"],
        &[
            "-dip",
            "127.0.0.1",
            "-dport",
            "6379",
            "-rdb",
            "f",
            "-client",
            "0",
        ],
    ] {
        assert_eq!(run(args, None).code, 2, "{args:?}");
    }
}

#[test]
fn a_line_of_cron_may_run_every_night() {
    let first = snapshot();
    for target in [Target::server("redis-7.0"), Target::proxy(&[])] {
        let (_dir, path) = place();
        let (lock, summary) = (path("rm.lock"), path("rm.json"));
        let uri = format!("redis://127.0.0.1:{}", target.port());
        for night in 0..2 {
            let args = [
                "replay",
                first.path(),
                "-u",
                &uri,
                "-q",
                "--on-exist",
                "replace",
                "--lock",
                &lock,
                "--summary-file",
                &summary,
            ];
            let out = run(&args, None);
            assert_eq!((out.code, out.stderr.as_str()), (0, ""), "night {night}");
            first.assert_in(&target.servers(), &format!("night {night}"));
            let bytes = std::fs::read(&summary).expect("a summary");
            let told: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(told["exit"], 0, "{told}");
            std::fs::remove_file(&summary).expect("its removal");
        }
    }
}
