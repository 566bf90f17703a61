//! Append-only files: of one part or many, whole, torn, broken, and read up to a place or a time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::cli::{
    check_aof, convert, convert_log, converted, converted_log, program, run,
};
use crate::support::client::{Client, call};
use crate::support::data::{diff, held_by, loaded};
use crate::support::resp::{append_command, boundaries, lines, log};
use crate::support::server::{Server, available, copy_dir};
use crate::support::{log_file, log_fixture, text};

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// Whole logs.

#[test]
fn a_log_becomes_what_a_server_makes_of_it() {
    let live = Server::start("redis-7.0");
    for name in [
        "multi_redis-2.4.18.aof",
        "preamble_redis-5.0.14.aof",
        "streams_redis-6.2.16.aof",
        "timestamps_redis-7.0.15.aof",
        "scripts_redis-7.0.15.aof",
        "multipart_redis-7.0.15",
        "names_valkey-9.1.2",
    ] {
        let path = log_fixture(name);
        let own = Server::on_log("redis-7.0", &path, &[]);
        let want = held_by(&own);
        assert!(want.len() >= 2, "{name}: {} keys", want.len());
        let bytes = converted(&["--target-version", "7.0", text(&path)]);
        let got = loaded(&live, &bytes);
        assert_eq!(diff(&want, &got), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_log_of_8_10_becomes_what_a_server_makes_of_it() {
    if !available("redis-8.10") {
        return;
    }
    let path = log_fixture("history_redis-8.10.2");
    let own = Server::on_log("redis-8.10", &path, &[]);
    let want = held_by(&own);
    let live = Server::start("redis-8.10");
    let got = loaded(
        &live,
        &converted(&["--target-version", "8.10", text(&path)]),
    );
    assert_eq!(diff(&want, &got), Vec::<String>::new());
    assert_eq!(got.len(), 3);
}

#[test]
fn packed_logs_and_stdin_become_the_same() {
    for name in ["multi_redis-2.4.18.aof", "preamble_redis-5.0.14.aof"] {
        let path = log_fixture(name);
        let (want, plain) = (converted(&[text(&path)]), read(&path));
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&plain).expect("gzip");
        let gzip = packer.finish().expect("gzip");
        let zstd = zstd::encode_all(&plain[..], 3).expect("zstd");
        for (kind, bytes) in [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd)] {
            let piped = run(&["convert", "-"], Some(bytes));
            assert_eq!(piped.code, 0, "{name} {kind}: {}", piped.stderr);
            assert!(piped.stdout == want, "{name} {kind} from stdin");
            let run = convert_log(bytes, &[]);
            assert_eq!(run.code, 0, "{name} {kind}: {}", run.stderr);
            assert!(run.stdout == want, "{name} {kind}");
        }
    }
}

#[test]
fn several_logs_each_begin_in_database_0() {
    let (_a, a) = log_file(&log(&["SELECT 3", "SET in3 1"]));
    let (_b, b) = log_file(&log(&["SET in0 1"]));
    let bytes = converted(&[text(&a), text(&b)]);
    assert_eq!(
        lines(&bytes),
        ["SELECT 3", "SET in3 1", "SELECT 0", "SET in0 1"]
    );
}

#[test]
fn an_empty_log_is_one_where_its_name_says_so() {
    let empty = convert_log(b"", &[]);
    assert_eq!((empty.code, empty.stdout.len()), (0, 0), "{}", empty.stderr);
    let (dir, path) = log_file(b"");
    let other = dir.path().join("other");
    std::fs::rename(&path, &other).expect("another name");
    assert_eq!(convert(&[text(&other)]).code, 3);
    assert_eq!(run(&["convert", "-"], Some(b"")).code, 3);
}

// Logs of many parts.

/// A copy of the fixture of four incremental files, to be changed.
fn multipart() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("appendonlydir");
    copy_dir(&log_fixture("multipart_redis-7.0.15"), &copy);
    (dir, copy)
}

const MANIFEST: &str = "appendonly.aof.manifest";

#[test]
fn a_directory_and_its_manifest_are_the_same_input() {
    let (_dir, parts) = multipart();
    let whole = converted(&[text(&parts)]);
    assert!(converted(&[text(&parts.join(MANIFEST))]) == whole);
    // A file that the manifest does not list is named, and left out.
    std::fs::copy(
        parts.join("appendonly.aof.3.incr.aof"),
        parts.join("appendonly.aof.9.incr.aof"),
    )
    .expect("a copy");
    let run = convert(&[text(&parts)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout == whole);
    assert!(
        run.stderr.contains("warning: appendonly.aof.9.incr.aof"),
        "{}",
        run.stderr
    );
    let quiet = convert(&["-q", text(&parts)]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
}

#[test]
fn a_part_that_is_missing_is_named() {
    for name in [
        "appendonly.aof.2.base.rdb",
        "appendonly.aof.2.incr.aof",
        "appendonly.aof.4.incr.aof",
    ] {
        let (_dir, parts) = multipart();
        std::fs::remove_file(parts.join(name)).expect("a part");
        let run = convert(&[text(&parts)]);
        assert_eq!(
            (run.code, run.stdout.len()),
            (3, 0),
            "{name}: {}",
            run.stderr
        );
        assert!(run.stderr.contains(name), "{}", run.stderr);
    }
}

#[test]
fn parts_that_are_obsolete_or_empty_add_nothing() {
    let run = convert(&[text(&log_fixture("history_redis-8.10.2"))]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // The obsolete files set `a` to 1; the last one sets it to 3.
    assert_eq!(
        lines(&run.stdout)
            .iter()
            .filter(|l| *l == "SET a 3")
            .count(),
        1
    );
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);

    let (_dir, parts) = multipart();
    std::fs::write(parts.join("appendonly.aof.3.incr.aof"), b"").expect("a part");
    let server = Server::on_log("redis-7.0", &parts, &[]);
    let want = held_by(&server);
    let live = Server::start("redis-7.0");
    let bytes = converted(&["--target-version", "7.0", text(&parts)]);
    let got = loaded(&live, &bytes);
    assert_eq!(diff(&want, &got), Vec::<String>::new());
}

#[test]
fn parts_may_have_any_name_that_can_be_quoted() {
    let dir = tempfile::tempdir().expect("a directory");
    let part = |name: &str, line: &str| {
        std::fs::write(dir.path().join(name), log(&["SELECT 0", line])).expect("a part");
    };
    part("a \"b\" c.1.base.aof", "SET a 1");
    part("it's.1.incr.aof", "SET b 2");
    part("tab\there.2.incr.aof", "SET c 3");
    let manifest = concat!(
        "# by hand\n",
        "type b seq 1 file \"a \\\"b\\\" c.1.base.aof\"\n",
        "file 'it\\'s.1.incr.aof' seq 1 type incr unknown thing\n",
        "FILE \"tab\\x09here.2.incr.aof\" SEQ 2 TYPE i startoffset 5\n",
    );
    std::fs::write(dir.path().join("x y.manifest"), manifest).expect("a manifest");
    assert_eq!(
        lines(&converted(&[text(dir.path())])),
        ["SELECT 0", "SET a 1", "SET b 2", "SET c 3"]
    );
}

#[test]
fn only_the_last_part_may_be_torn() {
    let cut = |name: &str| {
        let (dir, parts) = multipart();
        let path = parts.join(name);
        let bytes = read(&path);
        std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("a part");
        (dir, parts)
    };
    for name in ["appendonly.aof.2.incr.aof", "appendonly.aof.3.incr.aof"] {
        let (_dir, parts) = cut(name);
        let run = convert(&[text(&parts)]);
        assert_eq!(run.code, 3, "{name}: {}", run.stderr);
        assert!(run.stderr.contains(name), "{name}: {}", run.stderr);
    }
    let (_dir, parts) = cut("appendonly.aof.4.incr.aof");
    let run = convert(&[text(&parts)]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        run.stderr.contains("appendonly.aof.4.incr.aof"),
        "{}",
        run.stderr
    );
    let own = Server::on_log("redis-7.0", &parts, &[]);
    let want = held_by(&own);
    let live = Server::start("redis-7.0");
    let got = loaded(&live, &run.stdout);
    assert_eq!(diff(&want, &got), Vec::<String>::new());
}

#[test]
fn a_transaction_does_not_reach_from_one_part_into_the_next() {
    let (_dir, parts) = multipart();
    let mut bytes = read(&parts.join("appendonly.aof.3.incr.aof"));
    bytes.extend(log(&["MULTI", "SET half 1"]));
    std::fs::write(parts.join("appendonly.aof.3.incr.aof"), bytes).expect("a part");
    let mut bytes = log(&["EXEC"]);
    bytes.extend(read(&parts.join("appendonly.aof.4.incr.aof")));
    std::fs::write(parts.join("appendonly.aof.4.incr.aof"), bytes).expect("a part");
    let run = convert(&[text(&parts)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(
        run.stderr.contains("appendonly.aof.3.incr.aof") && run.stderr.contains("transaction"),
        "{}",
        run.stderr
    );
    assert!(!lines(&run.stdout).contains(&"SET half 1".to_owned()));
}

#[test]
fn a_directory_has_one_manifest() {
    let (_dir, parts) = multipart();
    std::fs::copy(parts.join(MANIFEST), parts.join("other.aof.manifest")).expect("a copy");
    let run = convert(&[text(&parts)]);
    assert_eq!((run.code, run.stdout.len()), (3, 0), "{}", run.stderr);
    assert!(
        run.stderr.contains(MANIFEST) && run.stderr.contains("other.aof.manifest"),
        "{}",
        run.stderr
    );
    // Named by itself, either will do.
    converted(&[text(&parts.join("other.aof.manifest"))]);
    for name in [MANIFEST, "other.aof.manifest"] {
        std::fs::remove_file(parts.join(name)).expect("a manifest");
    }
    let run = convert(&[text(&parts)]);
    assert_eq!((run.code, run.stdout.len()), (3, 0), "{}", run.stderr);
    assert!(
        run.stderr.contains("manifest") && run.stderr.contains("appendonly.aof.2.base.rdb"),
        "{}",
        run.stderr
    );
}

// Up to a place or a time.

#[test]
fn a_log_is_read_up_to_an_offset() {
    let path = log_fixture("multi_redis-2.4.18.aof");
    let whole = read(&path);
    let ends = boundaries(&whole);
    for (i, end) in ends.iter().enumerate() {
        let want = converted_log(&whole[..*end]);
        let next = ends.get(i + 1).copied().unwrap_or(whole.len() + 9);
        for until in [end.to_string(), format!("{end:#x}"), (next - 1).to_string()] {
            let got = converted(&["--until", &until, text(&path)]);
            assert!(got == want, "--until {until}, whole up to {end}");
        }
    }
    // An offset is one of the last part.
    let parts = log_fixture("multipart_redis-7.0.15");
    let all = lines(&converted(&[text(&parts)]));
    let some = lines(&converted(&["--until", "0", text(&parts)]));
    assert!(some.len() < all.len() && all[..some.len()] == some[..]);
    assert!(some.len() > 20, "{some:?}");
}

#[test]
fn a_log_is_read_up_to_a_time() {
    let server = Server::logging("redis-7.0", &["--aof-timestamp-enabled", "yes"]);
    let mut client = server.client();
    let now = |client: &mut Client| -> i64 {
        let time = call!(client, "TIME").all_bytes();
        String::from_utf8_lossy(&time[0]).parse().expect("seconds")
    };
    let begun = now(&mut client);
    for i in 0..3 {
        let (key, i) = (format!("k{i}"), i.to_string());
        call!(client, "SET", key, i);
        call!(client, "MULTI");
        call!(client, "RPUSH", "list", i);
        call!(client, "INCR", "n");
        call!(client, "EXEC");
        std::thread::sleep(Duration::from_millis(1100));
    }
    let parts = server.log();
    let all = converted(&[text(&parts)]);
    let mut seen = std::collections::BTreeSet::new();
    for time in begun..=now(&mut client) {
        let got = converted(&["--until", &format!("@{time}"), text(&parts)]);
        assert!(all.starts_with(&got), "up to {time}");
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path().join("appendonlydir");
        copy_dir(&parts, &copy);
        let time_arg = time.to_string();
        let args = ["--truncate-to-timestamp", &time_arg];
        let (_, said) = check_aof(&copy.join(MANIFEST), &args);
        let want = converted(&[text(&copy)]);
        assert!(got == want, "up to {time}; redis-check-aof: {said}");
        seen.insert(got.len());
    }
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.contains(&all.len()));
    // A time before the base was written is none that the log can be brought to.
    let run = convert(&["--until", "@1000000000", text(&parts)]);
    assert_eq!((run.code, run.stdout.len()), (5, 0), "{}", run.stderr);
}

#[test]
fn a_log_without_times_cannot_be_read_up_to_one() {
    let run = convert(&[
        "--until",
        "2026-11-23T00:00:00Z",
        text(&log_fixture("multi_redis-2.4.18.aof")),
    ]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("#TS"), "{}", run.stderr);
}

// What is sloppy, and what is large.

#[test]
fn sloppy_logs_are_read_when_asked_for() {
    let cases: &[(&str, &[u8])] = &[
        ("LF alone", b"*3\n$3\nSET\r\n$1\na\r\n$1\n1\r\n"),
        (
            "junk behind numbers",
            b"*3 x\r\n$3 \r\nSET\r\n$1;\r\na\r\n$1\r\n1\r\n",
        ),
        (
            "other line ends",
            b"*3\r\n$3\r\nSETxx$1\r\na\n\n$1\r\n1\0\0",
        ),
        (
            "zeros before numbers",
            b"*03\r\n$03\r\nSET\r\n$01\r\na\r\n$1\r\n1\r\n",
        ),
    ];
    let tail = log(&["MULTI", "SET b 2", "EXEC", "SET c 3"]);
    for (what, first) in cases {
        let bytes = [first, &tail[..]].concat();
        let strict = convert_log(&bytes, &[]);
        assert_eq!(strict.code, 3, "{what}: {}", strict.stderr);
        let run = convert_log(&bytes, &["--lenient"]);
        assert_eq!(run.code, 0, "{what}: {}", run.stderr);
        assert_eq!(
            run.stdout,
            log(&["SELECT 0", "SET a 1", "MULTI", "SET b 2", "EXEC", "SET c 3"]),
            "{what}"
        );
        // A server's loader is as tolerant.
        let (_dir, path) = log_file(&bytes);
        let own = Server::on_log("redis-7.0", &path, &[]);
        assert_eq!(held_by(&own).len(), 3, "{what}");
    }
}

/// The most memory that a run took, and its output. It is measured while the run waits for its last output to be
/// taken, because there is nothing to ask when it has ended.
fn measured(path: &Path, args: &[&str], expected: usize) -> (u64, Vec<u8>) {
    use std::io::Read;
    let mut child = program(&[&["convert"], args, &[text(path)]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program");
    let mut out = child.stdout.take().expect("its stdout");
    // The pipe takes a megabyte, and the program holds some more.
    let mut bytes = vec![0; expected - (3 << 20)];
    out.read_exact(&mut bytes).expect("most of the output");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let peak = status.expect("a run that waits").lines().find_map(|line| {
        let kb = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
        kb.parse::<u64>().ok()
    });
    out.read_to_end(&mut bytes).expect("the rest");
    let status = child.wait().expect("its end");
    assert!(status.success(), "{status}");
    (peak.expect("VmHWM"), bytes)
}

#[test]
fn a_log_may_hold_commands_of_any_size() {
    // So much behind it that the large one is written and done with when the output stands still.
    let small: Vec<String> = (0..150_000)
        .map(|i| format!("SET key:{i:06} {i}"))
        .collect();
    let small = [log(&["SELECT 0"]), log(&small)].concat();
    let (_dir, path) = log_file(&small);
    let (baseline, same) = measured(&path, &[], small.len());
    assert!(same == small);

    let value = vec![b'v'; 24 << 20];
    let mut one = log(&["SELECT 0"]);
    append_command(&mut one, &[b"SET", b"large", &value]);
    let mut transaction = log(&["SELECT 0", "MULTI"]);
    for i in 0..24 {
        let key = format!("large:{i}");
        append_command(
            &mut transaction,
            &[b"SET", key.as_bytes(), &value[..1 << 20]],
        );
    }
    transaction.extend(log(&["EXEC"]));
    let elements: Vec<String> = (0..200_000).map(|i| i.to_string()).collect();
    let many = log(&["SELECT 0", &format!("RPUSH list {}", elements.join(" "))]);
    for (what, large) in [
        ("one argument", one),
        ("one transaction", transaction),
        ("200,000 arguments", many),
    ] {
        let bytes = [&large[..], &small[log(&["SELECT 0"]).len()..]].concat();
        let (_dir, path) = log_file(&bytes);
        for args in [&[][..], &["--key", "*", "--target-version", "7.0"]] {
            let (peak, out) = measured(&path, args, bytes.len());
            assert!(out == bytes, "{what} {args:?}");
            assert!(
                peak < baseline + (64 << 10),
                "{what} {args:?}: {peak} kB, {baseline} kB without it"
            );
        }
    }
}
