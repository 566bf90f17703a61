//! Append-only files: of one part or many, whole, torn, broken, and read up to a place or a time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::cli::{Run, convert, converted, run};
use crate::support::client::call;
use crate::support::data::{DataSet, diff};
use crate::support::resp::{append_command, commands, lines, log};
use crate::support::server::{Server, copy_dir};
use crate::support::{log_fixture, text};

/// A file in a directory of its own.
fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("appendonly.aof");
    std::fs::write(&path, bytes).expect("a log");
    (dir, path)
}

/// What the program makes of a log.
fn convert_log(bytes: &[u8], args: &[&str]) -> Run {
    let (_dir, path) = file_of(bytes);
    convert(&[args, &[text(&path)]].concat())
}

/// What a server holds after these commands, none of which it may refuse.
fn loaded(server: &Server, bytes: &[u8]) -> DataSet {
    server.flush();
    let errors = server.client().pipe(bytes, None).errors;
    assert_eq!(errors, Vec::<String>::new());
    DataSet::read(&mut server.client())
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Does one thing for each item, on two threads; collects what is wrong.
fn for_each<T: Sync>(items: &[T], judge: impl Fn(&T) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = judge(item) {
                        wrong.lock().expect("no other panic").push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no other panic");
    let first = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{first}",
        wrong.len(),
        items.len()
    );
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
        let want = DataSet::read(&mut own.client()).without_minus_zero();
        assert!(want.len() >= 2, "{name}: {} keys", want.len());
        let bytes = converted(&["--target-version", "7.0", text(&path)]);
        let got = loaded(&live, &bytes).without_minus_zero();
        assert_eq!(diff(&want, &got), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_log_of_8_10_becomes_what_a_server_makes_of_it() {
    if !crate::support::server::available("redis-8.10") {
        return;
    }
    let path = log_fixture("history_redis-8.10.2");
    let own = Server::on_log("redis-8.10", &path, &[]);
    let want = DataSet::read(&mut own.client());
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
    let (_a, a) = file_of(&log(&["SELECT 3", "SET in3 1"]));
    let (_b, b) = file_of(&log(&["SET in0 1"]));
    let bytes = converted(&[text(&a), text(&b)]);
    assert_eq!(
        lines(&bytes),
        ["SELECT 3", "SET in3 1", "SELECT 0", "SET in0 1"]
    );
}

// Torn logs.

/// The records of a whole log: where each ends, and a command's name; none for a `#` line. Read here by itself, so that
/// the program's own reading is held against something.
fn records(bytes: &[u8]) -> Vec<(usize, Option<Vec<u8>>)> {
    let line_end = |from: usize| {
        let lf = bytes[from..].iter().position(|b| *b == b'\n');
        from + lf.expect("a line end") + 1
    };
    let number = |from: usize, to: usize| -> usize {
        let digits = std::str::from_utf8(&bytes[from + 1..to - 2]).expect("digits");
        digits.parse().expect("a number")
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = line_end(at);
        if bytes[at] == b'#' {
            at = end;
            found.push((at, None));
            continue;
        }
        let argc = number(at, end);
        let mut name = None;
        at = end;
        for _ in 0..argc {
            let end = line_end(at);
            let len = number(at, end);
            name.get_or_insert_with(|| bytes[end..end + len].to_ascii_uppercase());
            at = end + len + 2;
        }
        found.push((at, name));
    }
    found
}

/// Where a log has nothing unfinished: its beginning, and behind every record that is in no transaction.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut found = vec![0];
    let mut inside = false;
    for (end, name) in records(bytes) {
        inside = match name.as_deref() {
            Some(b"MULTI") => true,
            Some(b"EXEC") => false,
            _ => inside,
        };
        if !inside {
            found.push(end);
        }
    }
    found
}

/// A log without its `#` lines.
fn without_times(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut begin = 0;
    for (end, name) in records(bytes) {
        if name.is_some() {
            out.extend_from_slice(&bytes[begin..end]);
        }
        begin = end;
    }
    out
}

/// Commands with their databases; SELECT, MULTI and EXEC are left out, and times are told alike.
fn flat(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut db = b"0".to_vec();
    let mut flat = Vec::new();
    for mut args in commands(bytes) {
        match args[0].to_ascii_uppercase().as_slice() {
            b"SELECT" => db = args[1].clone(),
            b"MULTI" | b"EXEC" => {}
            b"EXPIREAT" => {
                args[0] = b"PEXPIREAT".to_vec();
                args[2].extend_from_slice(b"000");
                flat.push((db.clone(), args));
            }
            _ => flat.push((db.clone(), args)),
        }
    }
    flat
}

#[test]
fn a_log_that_is_cut_anywhere_keeps_what_is_whole() {
    for name in ["multi_redis-2.4.18.aof", "timestamps_redis-7.0.15.aof"] {
        let whole = read(&log_fixture(name));
        let full = converted(&[text(&log_fixture(name))]);
        let ends = boundaries(&whole);
        // What stands before each of them, by runs of the program on what needs no repair.
        let mut kept = std::collections::BTreeMap::new();
        for end in &ends {
            let run = convert_log(&whole[..*end], &[]);
            assert_eq!(run.code, 0, "{name} up to {end}: {}", run.stderr);
            assert!(full.starts_with(&run.stdout), "{name} up to {end}");
            assert_eq!(
                flat(&run.stdout),
                flat(&without_times(&whole[..*end])),
                "{name} up to {end}"
            );
            kept.insert(*end, run.stdout);
        }
        assert!(kept[&whole.len()] == full);
        let cuts: Vec<usize> = (0..=whole.len()).collect();
        for_each(&cuts, |cut| {
            let (_dir, path) = file_of(&whole[..*cut]);
            let (end, want) = kept.range(..=*cut).next_back().expect("the beginning");
            let run = convert(&[text(&path)]);
            let offset = format!("from byte {end:#x} on");
            if run.stdout != *want {
                return Err(format!("{name} cut at {cut}: not what is before {end}"));
            }
            if run.code != i32::from(end != cut) || (end != cut) != run.stderr.contains(&offset) {
                return Err(format!("{name} cut at {cut}: {}: {}", run.code, run.stderr));
            }
            if cut % 7 == 0 || end == cut {
                let strict = convert(&["--strict", text(&path)]);
                let code = if end == cut { 0 } else { 3 };
                let told = strict.stderr.contains(&format!("{end} bytes"));
                if strict.code != code || (code == 3) != told || strict.stdout != *want {
                    return Err(format!(
                        "{name} cut at {cut} --strict: {}: {}",
                        strict.code, strict.stderr
                    ));
                }
            }
            Ok(())
        });
    }
}

#[test]
fn a_log_that_is_cut_keeps_what_a_server_keeps() {
    // The first step is prime to the lengths of the commands, the others spare time.
    for (name, from, step) in [
        ("multi_redis-2.4.18.aof", 0, 7),
        ("timestamps_redis-7.0.15.aof", 0, 61),
        ("preamble_redis-5.0.14.aof", end_of_preamble(), 17),
    ] {
        let whole = read(&log_fixture(name));
        let cuts: Vec<usize> = (from..whole.len()).step_by(step).collect();
        assert!(cuts.len() > 10, "{name}: {} cuts", cuts.len());
        let live: Vec<Mutex<Server>> = (0..2)
            .map(|_| Mutex::new(Server::start("redis-7.0")))
            .collect();
        for_each(&cuts, |cut| {
            let (_dir, path) = file_of(&whole[..*cut]);
            let run = convert(&["--target-version", "7.0", text(&path)]);
            if run.code > 1 {
                return Err(format!("{name} cut at {cut}: {}", run.stderr));
            }
            let own = Server::on_log("redis-7.0", &path, &["--aof-load-truncated", "yes"]);
            let want = DataSet::read(&mut own.client());
            let free = live.iter().find_map(|server| server.try_lock().ok());
            let got = loaded(&free.expect("one for each thread"), &run.stdout);
            match diff(&want.without_minus_zero(), &got.without_minus_zero()) {
                lines if lines.is_empty() => Ok(()),
                lines => Err(format!("{name} cut at {cut}: {}", lines.join("\n"))),
            }
        });
    }
}

/// Bytes of the snapshot with which the fixture of Redis 5.0 begins.
fn end_of_preamble() -> usize {
    let bytes = read(&log_fixture("preamble_redis-5.0.14.aof"));
    let first = b"*2\r\n$6\r\nSELECT";
    bytes
        .windows(first.len())
        .position(|window| window == first)
        .expect("commands behind the snapshot")
}

#[test]
fn a_snapshot_that_is_cut_is_an_error_although_commands_could_follow() {
    let whole = read(&log_fixture("preamble_redis-5.0.14.aof"));
    let cuts: Vec<usize> = (1..end_of_preamble()).step_by(97).collect();
    for_each(&cuts, |cut| {
        let run = convert_log(&whole[..*cut], &[]);
        if run.code == 3 {
            Ok(())
        } else {
            Err(format!("cut at {cut}: {}: {}", run.code, run.stderr))
        }
    });
    // Where the snapshot ends, all is well.
    let run = convert_log(&whole[..end_of_preamble()], &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

// Broken logs.

/// What Redis's own program says: the bytes up to which a log is good.
fn check_aof(path: &Path, args: &[&str]) -> (Option<u64>, String) {
    let out = Command::new("redis-check-aof")
        .args(args)
        .arg(path)
        .output()
        .expect("redis-check-aof, which comes with redis-7.0");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let good = said.split("ok_up_to=").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    (good, said)
}

#[test]
fn a_log_that_is_broken_is_written_up_to_there() {
    let head = [
        "SELECT 0", "SET a 1", "MULTI", "SET b 2", "SET c 3", "EXEC", "SET d 4",
    ];
    let tail = log(&["SET e 5", "SET f 6"]);
    let whole = log(&head);
    let len = whole.len();
    let with = |bytes: &[u8]| [&whole, bytes, &tail].concat();
    // What is wrong, the log, where it is wrong, and what must be said of it.
    let cases: Vec<(&str, Vec<u8>, usize, &str)> = vec![
        ("a byte between commands", with(b"x"), len, "'x'"),
        ("an empty line", with(b"\r\n"), len, "0x0d"),
        ("an inline command", with(b"SET e 5\r\n"), len, "'S'"),
        (
            "zeros at the end",
            [&whole[..], &[0; 300]].concat(),
            len,
            "the last 300 bytes are all zero",
        ),
        ("zeros in the middle", with(&[0; 300]), len, "0x00"),
        (
            "a length that is too small",
            with(b"*2\r\n$3\r\nDEL\r\n$1\r\nabc\r\n"),
            len + 18,
            "does not end in CR LF",
        ),
        (
            "a length that is too large",
            with(b"*2\r\n$3\r\nDEL\r\n$4\r\nab\r\n"),
            len + 21,
            "does not end in CR LF",
        ),
        (
            "a negative length",
            with(b"*2\r\n$3\r\nDEL\r\n$-1\r\n"),
            len + 13,
            "-1",
        ),
        (
            "no length",
            with(b"*2\r\n$3\r\nDEL\r\nx1\r\na\r\n"),
            len + 13,
            "'x'",
        ),
        ("no arguments", with(b"*0\r\n"), len, "0 arguments"),
        ("LF alone", with(b"*1\n$4\nPING\r\n"), len + 2, "CR LF"),
        (
            "EXEC alone",
            with(&log(&["EXEC"])),
            len,
            "EXEC without MULTI",
        ),
    ];
    for (what, bytes, at, why) in cases {
        let (_dir, path) = file_of(&bytes);
        let run = convert(&[text(&path)]);
        assert_eq!(run.code, 3, "{what}: {}", run.stderr);
        assert!(run.stderr.contains(why), "{what}: {}", run.stderr);
        assert!(
            run.stderr.contains(&format!("{at:#x}")),
            "{what}, which is at byte {at:#x}: {}",
            run.stderr
        );
        let keeps = format!("the first {len} bytes");
        assert!(run.stderr.contains(&keeps), "{what}: {}", run.stderr);
        assert!(
            run.stderr.contains("SET \"d\"") || run.stderr.contains("EXEC at byte"),
            "{what}: the command before: {}",
            run.stderr
        );
        assert!(
            run.stdout == converted_bytes(&whole),
            "{what}: what stands before"
        );
        // Redis's program passes over a command of no arguments, which no server loads.
        if what != "no arguments" {
            let (good, said) = check_aof(&path, &[]);
            assert_eq!(good, Some(len as u64), "{what}: {said}");
        }
    }
}

fn converted_bytes(bytes: &[u8]) -> Vec<u8> {
    let run = convert_log(bytes, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout
}

#[test]
fn a_log_that_is_broken_within_a_transaction_keeps_what_is_before_it() {
    let head = log(&["SELECT 0", "SET a 1"]);
    let open = log(&["MULTI", "SET b 2"]);
    let rest = log(&["SET c 3", "EXEC", "SET d 4"]);
    for (what, broken) in [
        ("MULTI in MULTI", log(&["MULTI"])),
        ("a byte", b"x".to_vec()),
        (
            "an argument's end",
            b"*2\r\n$3\r\nDEL\r\n$1\r\nabc\r\n".to_vec(),
        ),
    ] {
        let bytes = [&head[..], &open, &broken, &rest].concat();
        let (_dir, path) = file_of(&bytes);
        let run = convert(&[text(&path)]);
        assert_eq!(run.code, 3, "{what}: {}", run.stderr);
        let keeps = format!("the first {} bytes", head.len());
        assert!(run.stderr.contains(&keeps), "{what}: {}", run.stderr);
        assert!(run.stderr.contains("SET \"b\""), "{what}: {}", run.stderr);
        assert!(run.stdout == converted_bytes(&head), "{what}");
        let (good, said) = check_aof(&path, &[]);
        assert_eq!(good, Some(head.len() as u64), "{what}: {said}");
    }
}

#[test]
fn a_result_that_is_broken_keeps_its_partial_name() {
    let (dir, path) = file_of(&[log(&["SET a 1"]), b"x".to_vec()].concat());
    let out = dir.path().join("out.resp");
    let run = convert(&["-o", text(&out), text(&path)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(!out.exists());
    let partial = read(&dir.path().join("out.resp.partial"));
    assert_eq!(lines(&partial), ["SELECT 0", "SET a 1"]);
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
    let want = DataSet::read(&mut server.client()).without_minus_zero();
    let live = Server::start("redis-7.0");
    let bytes = converted(&["--target-version", "7.0", text(&parts)]);
    let got = loaded(&live, &bytes).without_minus_zero();
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
    let want = DataSet::read(&mut own.client()).without_minus_zero();
    let live = Server::start("redis-7.0");
    let got = loaded(&live, &run.stdout).without_minus_zero();
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
        let want = converted_bytes(&whole[..*end]);
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
    let server = Server::with(
        "redis-7.0",
        &["--appendonly", "yes", "--aof-timestamp-enabled", "yes"],
    );
    let mut client = server.client();
    let now = |client: &mut crate::support::client::Client| -> i64 {
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
        let (_dir, path) = file_of(&bytes);
        let own = Server::on_log("redis-7.0", &path, &[]);
        assert_eq!(DataSet::read(&mut own.client()).len(), 3, "{what}");
    }
}

/// The most memory that a run took, and its output. It is measured while the run waits for its last output to be
/// taken, because there is nothing to ask when it has ended.
fn measured(path: &Path, args: &[&str], expected: usize) -> (u64, Vec<u8>) {
    use std::io::Read;
    let mut child = crate::support::cli::program(&[&["convert"], args, &[text(path)]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program");
    let mut out = child.stdout.take().expect("its stdout");
    let mut bytes = vec![0; expected - (256 << 10)];
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
    let small: Vec<String> = (0..30_000).map(|i| format!("SET key:{i:05} {i}")).collect();
    let small = [log(&["SELECT 0"]), log(&small)].concat();
    let (_dir, path) = file_of(&small);
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
        let (_dir, path) = file_of(&bytes);
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
