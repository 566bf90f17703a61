//! What the program says and writes, and its exit codes.

use std::path::Path;

use serde_json::Value;

use crate::support::cli::{Run, check_aof, run};
use crate::support::data::{diff, held_by};
use crate::support::server::{Server, copy_dir};
use crate::support::{fixture, log_fixture, text};

/// `redis-migration check ARGS`.
fn check(args: &[&str]) -> Run {
    run(&[&["check"], args].concat(), None)
}

/// What it found, as JSON, one object an input.
fn found(args: &[&str]) -> (i32, Vec<Value>) {
    let run = check(&[&["--format", "json"], args].concat());
    let text = String::from_utf8(run.stdout).expect("JSON is UTF-8");
    let objects = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    (run.code, objects.collect())
}

/// A copy of a snapshot with a hole of zero bytes, in a directory of its own.
fn with_hole(snapshot: &str, at: usize, bytes: usize) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.rdb");
    let mut whole = std::fs::read(fixture(snapshot)).expect("a fixture");
    whole[at..at + bytes].fill(0);
    std::fs::write(&path, whole).expect("a damaged copy");
    let path = text(&path).to_owned();
    (dir, path)
}

#[test]
fn the_worst_of_several_inputs_decides_and_all_are_told_of() {
    let (_dir, damaged) = with_hole("mixed_redis-7.0_v10.rdb", 100_000, 100);
    let whole = fixture("empty_redis-7.0_v10.rdb");
    let whole = text(&whole);
    let dir = tempfile::tempdir().expect("a directory");
    let torn = dir.path().join("torn.aof");
    let log = std::fs::read(log_fixture("scripts_redis-7.0.15.aof")).expect("a log");
    std::fs::write(&torn, &log[..log.len() - 1]).expect("a torn copy");
    let torn = text(&torn);

    for (inputs, code) in [
        (&[whole][..], 0),
        (&[torn, whole], 1),
        (&[&damaged, torn, whole], 3),
        (&["/nowhere/dump.rdb", &damaged, whole], 74),
        (&[], 2),
        (&["--salvage", "out.rdb", whole, whole], 2),
    ] {
        let run = check(inputs);
        assert_eq!(run.code, code, "{inputs:?}: {}", run.stderr);
        let shown = String::from_utf8(run.stdout).expect("text");
        if code != 2 {
            for input in inputs.iter().filter(|input| !input.contains("nowhere")) {
                assert!(shown.contains(&format!("{input}\n")), "{shown}");
            }
        }
    }
    let quiet = check(&["-q", torn]);
    assert_eq!((quiet.code, &quiet.stderr[..]), (1, ""));
}

#[test]
fn a_screen_tells_what_the_server_wrote() {
    let run = check(&[
        text(&fixture("dbs_redis-2.5_v5.rdb")),
        text(&fixture("all_types_redis-7.0_v10.rdb")),
    ]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let shown = String::from_utf8(run.stdout).expect("text");
    for line in [
        "kind         snapshot, REDIS0005, RDB version 5",
        "kind         snapshot, REDIS0010, RDB version 10",
        "written by   Redis 7.0.15, 64 bits, at 2026-",
        "checksum     matches (",
        "verdict      whole, 44 keys",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
}

#[test]
fn without_a_checksum_every_broken_value_is_found_and_named() {
    // Two listpacks are given another size in their headers; the lengths of the strings around them are not altered.
    let mut bytes = std::fs::read(fixture("all_types_redis-7.0_v10.rdb")).expect("a fixture");
    let end = bytes.len();
    bytes[end - 8..].fill(0);
    let mut broken = vec!["hash:packed", "zset:geo"];
    for (name, ty) in broken.iter().zip([16, 17]) {
        let head = [&[ty, name.len() as u8], name.as_bytes()].concat();
        let at = bytes.windows(head.len()).position(|window| window == head);
        // Behind the name and the one byte of the string's length.
        let value = at.expect("a key of the fixture") + head.len() + 1;
        bytes[value] ^= 0x7f;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.rdb");
    std::fs::write(&path, &bytes).expect("a damaged copy");
    let (code, objects) = found(&[text(&path)]);
    assert_eq!(code, 3);
    let snapshot = &objects[0]["files"][0]["snapshot"];
    assert_eq!(snapshot["deep"], true);
    let faults = snapshot["faults"].as_array().expect("faults");
    let mut named: Vec<&str> = faults
        .iter()
        .map(|f| f["key"].as_str().expect("a key"))
        .collect();
    named.sort_unstable();
    broken.sort_unstable();
    assert_eq!(named, broken, "{faults:?}");
    assert!(faults.iter().all(|f| f["offset"].is_u64() && f["db"] == 0));
    let (code, objects) = found(&["--most", "0", text(&path)]);
    assert_eq!((code, &objects[0]["verdict"]), (3, &Value::from("damaged")));
    assert_eq!(
        objects[0]["files"][0]["snapshot"]["more_faults"],
        broken.len()
    );
    // Keys can be hidden.
    let hidden = check(&["--hide-keys", text(&path)]);
    let shown = String::from_utf8(hidden.stdout).expect("text");
    assert!(broken.iter().all(|name| !shown.contains(*name)), "{shown}");
}

#[test]
fn what_is_salvaged_is_what_a_server_holds_of_the_whole_file() {
    let snapshot = "mixed_redis-7.0_v10.rdb";
    let (dir, damaged) = with_hole(snapshot, 300_000, 4096);
    let out = dir.path().join("out.rdb");
    let out = text(&out);
    let (code, objects) = found(&["--salvage", out, &damaged]);
    assert_eq!(code, 3);
    let saved = &objects[0]["saved"];
    assert_eq!(
        (&saved["state"], &saved["whole"]),
        (&Value::from("salvaged"), &Value::from(true))
    );
    let lost: Vec<&str> = saved["holes"]
        .as_array()
        .expect("holes")
        .iter()
        .flat_map(|hole| hole["keys"].as_array().expect("keys"))
        .map(|key| key["key"].as_str().expect("a name"))
        .collect();
    let mut want = held_by(&Server::on_snapshot("redis-7.0", &fixture(snapshot)));
    let got = held_by(&Server::on_snapshot("redis-7.0", Path::new(out)));
    let before = want.len();
    // Of a hole in one value's middle its key is lost and no other.
    want.retain(|_, key, _| !lost.iter().any(|lost| lost.as_bytes() == key));
    assert_eq!((want.len(), lost.len()), (before - 1, 1), "{saved}");
    assert_eq!(diff(&want, &got), Vec::<String>::new());

    // Never over what is read, and never over what is there.
    assert_eq!(check(&["--salvage", out, &damaged]).code, 5);
    let before = std::fs::read(&damaged).expect("the input");
    assert_eq!(check(&["--force", "--salvage", &damaged, &damaged]).code, 5);
    assert_eq!(std::fs::read(&damaged).expect("the input"), before);
    assert_eq!(check(&["--force", "--salvage", out, &damaged]).code, 3);
    // A whole one is not written again.
    let other = dir.path().join("other.rdb");
    assert_eq!(check(&["--salvage", text(&other), out]).code, 0);
    assert!(!other.exists());
}

#[test]
fn a_time_cuts_a_log_where_redis_check_aof_cuts_it() {
    let log = log_fixture("timestamps_redis-7.0.15.aof");
    let bytes = std::fs::read(&log).expect("a log");
    let text_of = String::from_utf8_lossy(&bytes);
    let times: Vec<i64> = text_of
        .split("#TS:")
        .skip(1)
        .map(|rest| {
            rest.split('\r')
                .next()
                .and_then(|t| t.parse().ok())
                .expect("a time")
        })
        // Values look like such lines too.
        .filter(|time| *time > 1_700_000_000)
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let (theirs, ours) = (dir.path().join("theirs.aof"), dir.path().join("ours.aof"));
    let mut cuts = std::collections::BTreeSet::new();
    for time in [times[0], times[times.len() - 1] - 1, times[times.len() - 1]] {
        std::fs::write(&theirs, &bytes).expect("a copy");
        check_aof(&theirs, &["--truncate-to-timestamp", &time.to_string()]);
        let run = check(&[
            "--force",
            "--truncate-to",
            &format!("@{time}"),
            "--repair",
            text(&ours),
            text(&log),
        ]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let (theirs, ours) = (std::fs::read(&theirs), std::fs::read(&ours));
        let ours = ours.expect("a copy");
        cuts.insert(ours.len());
        assert_eq!(ours, theirs.expect("a log"), "to {time}");
    }
    assert!(cuts.len() > 1, "{times:?} are all the same");
    assert_eq!(std::fs::read(&log).expect("a log"), bytes);
    // A log without times cannot be cut by one.
    let run = check(&[
        "--truncate-to",
        "@1795346082",
        text(&log_fixture("scripts_redis-7.0.15.aof")),
    ]);
    assert_eq!(run.code, 5, "{}", run.stderr);
}

#[test]
fn a_repaired_copy_is_what_a_server_starts_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let (torn, out) = (dir.path().join("torn"), dir.path().join("out"));
    copy_dir(&log_fixture("multipart_redis-7.0.15"), &torn);
    let last = torn.join("appendonly.aof.4.incr.aof");
    let bytes = std::fs::read(&last).expect("a log");
    std::fs::write(&last, &bytes[..bytes.len() - 3]).expect("a torn copy");
    assert_eq!(check(&[text(&torn)]).code, 1);
    let run = check(&["--repair", text(&out), text(&torn)]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let (good, said) = check_aof(&out.join("appendonly.aof.manifest"), &[]);
    assert!(
        good.is_some() && said.contains("All AOF files and manifest are valid"),
        "{said}"
    );
    assert_eq!(check(&[text(&out)]).code, 0);
    // The server, which cuts the torn one itself, holds the same.
    let want = held_by(&Server::on_log("redis-7.0", &torn, &[]));
    let got = held_by(&Server::on_log(
        "redis-7.0",
        &out,
        &["--aof-load-truncated", "no"],
    ));
    assert_eq!(diff(&want, &got), Vec::<String>::new());
    assert_eq!(check(&["--repair", text(&out), text(&torn)]).code, 5);
    assert_eq!(
        check(&["--force", "--repair", text(&torn), text(&torn)]).code,
        5
    );

    // In the middle it is damage, and what follows is left out by name.
    let middle = torn.join("appendonly.aof.3.incr.aof");
    let bytes = std::fs::read(&middle).expect("a log");
    std::fs::write(&middle, &bytes[..bytes.len() - 3]).expect("a torn copy");
    let cut = dir.path().join("cut");
    let (code, objects) = found(&["--repair", text(&cut), text(&torn)]);
    assert_eq!(code, 3);
    let left_out = objects[0]["saved"]["files_left_out"]
        .as_array()
        .expect("names");
    assert!(
        left_out.len() == 1
            && left_out[0]
                .as_str()
                .expect("a name")
                .ends_with(".4.incr.aof")
    );
    assert_eq!(check(&[text(&cut)]).code, 0);
    std::fs::remove_file(&middle).expect("it was there");
    let run = check(&[text(&torn)]);
    assert!(
        run.code == 3 && run.stderr.contains("3.incr.aof, which is not there"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_repaired_copy_removes_nothing_that_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let torn = dir.path().join("torn");
    copy_dir(&log_fixture("multipart_redis-7.0.15"), &torn);
    let last = torn.join("appendonly.aof.4.incr.aof");
    let bytes = std::fs::read(&last).expect("a log");
    std::fs::write(&last, &bytes[..bytes.len() - 3]).expect("a torn copy");
    let out = dir.path().join("out");
    let partial = dir.path().join("out.partial");
    std::fs::create_dir(&partial).expect("a directory");
    std::fs::write(partial.join("mine"), "mine").expect("a file");
    let run = check(&["--repair", text(&out), text(&torn)]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("out.partial exists"), "{}", run.stderr);
    assert!(partial.join("mine").exists() && !out.exists());
}

#[test]
fn what_lies_behind_the_end_and_is_nothing_known_is_a_fault() {
    let whole = std::fs::read(fixture("all_types_redis-7.0_v10.rdb")).expect("a fixture");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.rdb");
    let mark = [b'a'; 40];
    let command = b"*1\r\n$4\r\nPING\r\n";
    for (behind, code) in [
        (&b""[..], 0),
        (&mark, 0),
        (command, 0),
        (b"garbage", 3),
        (&whole, 3),
    ] {
        std::fs::write(&path, [&whole[..], behind].concat()).expect("a copy");
        let run = check(&[text(&path)]);
        let shown = String::from_utf8(run.stdout).expect("text");
        assert_eq!(run.code, code, "{shown}");
        let words = format!("{} bytes that are neither commands", behind.len());
        assert_eq!(shown.contains(&words), code == 3, "{shown}");
        let place = format!("at byte {:#x}", whole.len());
        assert!(code == 0 || shown.contains(&place), "{shown}");
    }
}

#[test]
fn what_is_salvaged_of_a_log_says_which_commands_are_not_in_it() {
    let whole = std::fs::read(fixture("mixed_redis-7.0_v10.rdb")).expect("a fixture");
    let command = b"*1\r\n$4\r\nPING\r\n";
    let mut bytes = [&whole[..], command].concat();
    bytes[300_000..304_096].fill(0);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("appendonly.aof");
    std::fs::write(&path, &bytes).expect("a damaged copy");
    let out = dir.path().join("out.rdb");
    let run = check(&["--salvage", text(&out), text(&path)]);
    let shown = String::from_utf8(run.stdout).expect("text");
    let words = format!("NOT in it    {} bytes of commands behind", command.len());
    assert!(shown.contains(&words), "{shown}");
    let (_, objects) = found(&["--force", "--salvage", text(&out), text(&path)]);
    let left = &objects[0]["saved"]["commands_not_in_it"][0];
    assert_eq!(
        (&left["from"], &left["bytes"]),
        (&Value::from(whole.len()), &Value::from(command.len()))
    );
}

#[test]
fn an_empty_file_is_a_log_by_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, code) in [("empty.aof", 0), ("empty.rdb", 3)] {
        let path = dir.path().join(name);
        std::fs::write(&path, "").expect("a file");
        let run = check(&[text(&path)]);
        assert_eq!(run.code, code, "{name}: {}", run.stderr);
    }
}

#[test]
fn what_was_read_up_to_a_time_is_whole_up_to_there() {
    let log = log_fixture("timestamps_redis-7.0.15.aof");
    let bytes = std::fs::read(&log).expect("a log");
    let first = bytes.windows(4).position(|w| w == b"#TS:").expect("a time") + 4;
    let time = std::str::from_utf8(&bytes[first..first + 10]).expect("digits");
    let run = check(&["--truncate-to", &format!("@{time}"), text(&log)]);
    let shown = String::from_utf8(run.stdout).expect("text");
    assert!(shown.contains("whole up to the time asked for"), "{shown}");
}

#[test]
fn a_torn_log_behind_a_whole_snapshot_is_repaired_and_not_salvaged() {
    let whole = std::fs::read(fixture("mixed_redis-7.0_v10.rdb")).expect("a fixture");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("appendonly.aof");
    let torn = b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI";
    std::fs::write(&path, [&whole[..], torn].concat()).expect("a torn log");
    let out = dir.path().join("out.rdb");
    let run = check(&["--salvage", text(&out), text(&path)]);
    let shown = String::from_utf8(run.stdout).expect("text");
    assert_eq!(run.code, 1, "{shown}");
    for words in ["check --repair OUT", "nothing: the snapshot is whole"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
}
