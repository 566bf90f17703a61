//! Append-only files that end within something, and such as are broken in their middle.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::cli::{check_aof, convert, convert_log, converted, converted_log, run};
use crate::support::data::{diff, held_by, loaded};
use crate::support::resp::{boundaries, commands, lines, log, records};
use crate::support::server::Server;
use crate::support::{log_file, log_fixture, text};

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

// Torn logs.

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
            let (_dir, path) = log_file(&whole[..*cut]);
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
            let (_dir, path) = log_file(&whole[..*cut]);
            let run = convert(&["--target-version", "7.0", text(&path)]);
            if run.code > 1 {
                return Err(format!("{name} cut at {cut}: {}", run.stderr));
            }
            let own = Server::on_log("redis-7.0", &path, &["--aof-load-truncated", "yes"]);
            let want = held_by(&own);
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
        let (_dir, path) = log_file(&bytes);
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
            run.stdout == converted_log(&whole),
            "{what}: what stands before"
        );
        // Redis's program passes over a command of no arguments, which no server loads.
        if what != "no arguments" {
            let (good, said) = check_aof(&path, &[]);
            assert_eq!(good, Some(len as u64), "{what}: {said}");
        }
    }
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
        let (_dir, path) = log_file(&bytes);
        let run = convert(&[text(&path)]);
        assert_eq!(run.code, 3, "{what}: {}", run.stderr);
        let keeps = format!("the first {} bytes", head.len());
        assert!(run.stderr.contains(&keeps), "{what}: {}", run.stderr);
        assert!(run.stderr.contains("SET \"b\""), "{what}: {}", run.stderr);
        assert!(run.stdout == converted_log(&head), "{what}");
        let (good, said) = check_aof(&path, &[]);
        assert_eq!(good, Some(head.len() as u64), "{what}: {said}");
    }
}

#[test]
fn a_result_that_is_broken_keeps_its_partial_name() {
    let (dir, path) = log_file(&[log(&["SET a 1"]), b"x".to_vec()].concat());
    let out = dir.path().join("out.resp");
    let run = convert(&["-o", text(&out), text(&path)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(!out.exists());
    let partial = read(&dir.path().join("out.resp.partial"));
    assert_eq!(lines(&partial), ["SELECT 0", "SET a 1"]);
}

/// A server on a machine that went down: its log lost the end that was not on the disk, and has grown again since. What
/// it lost was written already, and where the next run would begin stands something else.
#[test]
fn a_log_that_lost_its_end_and_grew_again_is_not_gone_on_with() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, checkpoint) = (dir.path().join("a.aof"), dir.path().join("a.ckpt"));
    let counted: Vec<u8> = (100..600)
        .flat_map(|i| log(&[&format!("SET key:{i} a")]))
        .collect();
    std::fs::write(&path, &counted).expect("a log");
    let server = Server::start("redis-7.0");
    let to = server.port.to_string();
    for begin in [
        &["convert"][..],
        &["replay", "-p", &to, "--on-exist", "replace"],
    ] {
        let words = [begin, &["--checkpoint", text(&checkpoint), text(&path)]].concat();
        assert_eq!(run(&words, None).code, 0);
        // The last commands are others now, of the same lengths, and more came.
        let lost = counted.len() - 10 * (counted.len() / 500);
        let mut other = counted[..lost].to_vec();
        other.extend((0..20).flat_map(|i| log(&[&format!("SET kez:{} b", 200 + i)])));
        std::fs::write(&path, &other).expect("a log");
        let again = run(&words, None);
        assert_eq!(again.code, 5, "{}", again.stderr);
        assert!(
            again.stderr.contains("are not those that were read"),
            "{}",
            again.stderr
        );
        std::fs::write(&path, &counted).expect("a log");
        std::fs::remove_file(&checkpoint).expect("it");
    }
}
