//! Manifests of append-only files: what servers load, the library reads alike, and what they refuse, it refuses.
//!
//! Each case is a manifest beside which all files lie that it may name. A server is started on it. It either gets
//! ready, and its log says which files it loaded in which order, or it ends.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis_migration::aof::manifest::Manifest;

use super::support::{server, text};

/// What becomes of a manifest.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Servers and library read it.
    Read,
    /// Servers and library refuse it.
    Refused,
    /// Redis and library read it, Valkey refuses it.
    RedisOnly,
    /// Servers read it and the library does not, on purpose: no server ever writes such a thing.
    Stricter,
}

use Fate::{Read, RedisOnly, Refused, Stricter};

/// Files that are there, each with a command in it. A server does not tell of files without any.
const FILES: [&str; 8] = ["a", "b", "c", "d e", "f'g", "h\"i", "ab c", "x4g"];

fn cases() -> Vec<(String, Fate)> {
    let mut cases: Vec<(String, Fate)> = [
        // As servers write them.
        ("file a seq 1 type b\nfile b seq 1 type i\n", Read),
        ("file a seq 1 type b\nfile b seq 1 type i startoffset 0\nfile c seq 2 type i startoffset 7 endoffset 9\n", Read),
        ("file a seq 2 type b\nfile c seq 1 type h\nfile b seq 1 type i\n", Read),
        ("file \"d e\" seq 1 type b\nfile \"h\\\"i\" seq 1 type i\n", Read),
        ("file a seq 1 type i\n", Read),
        // Line ends, blanks, comments, nothing.
        ("file a seq 1 type b\r\nfile b seq 1 type i\r\n", Read),
        (" \tfile  a\tseq 1 type b \t\n", Read),
        ("file a seq 1 type b", Refused),
        ("file a seq 1 type b\nfile b seq 1 type i", Refused),
        ("", Refused),
        ("\n", Refused),
        ("\r\n", Refused),
        ("file a seq 1 type b\n\nfile b seq 1 type i\n", Refused),
        ("file a seq 1 type b\n\n", Refused),
        ("# comment\nfile a seq 1 type b\n#\n# end", Read),
        ("#\n", Read),
        ("#", Read),
        (" # comment\nfile a seq 1 type b\n", Refused),
        ("file a seq 1 type b # comment\n", Read),
        ("file a seq 1 type b #\n", Refused),
        ("file a seq 1 type b\0\n", Refused),
        ("# \0\nfile a seq 1 type b\n", Read),
        // Keys and words.
        ("TYPE b Seq 1 fiLE a\n", Read),
        ("file a seq 1 type b later thing\n", Read),
        ("file a seq 1 type b later\n", Refused),
        ("file a seq 1\n", Refused),
        ("file a seq 1 x y\n", Refused),
        ("file a type b x y\n", Refused),
        ("type b seq 1 x y\n", Refused),
        ("file a seq 2 type h file b seq 1 type b\n", Read),
        ("file a seq 1 type base\nfile b seq 1 type incr\n", Read),
        ("file a seq 1 type B\n", Refused),
        ("file a seq 1 type x\n", Refused),
        ("file a seq 1 type \"\"\n", Refused),
        ("file a seq 1 type b startoffset 1 startoffset 2\n", Read),
        // Sequences.
        ("file a seq 0 type b\n", Refused),
        ("file a seq x type b\n", Refused),
        ("file a seq \"\" type b\n", Refused),
        ("file a seq 007 type i\n", Read),
        ("file a seq 9223372036854775807 type i\n", Read),
        ("file a seq -1 type i\n", Refused),
        ("file a seq -1 type b\n", Stricter),
        ("file a seq +1 type b\n", Stricter),
        ("file a seq 1x type b\n", Stricter),
        ("file a seq \" 1\" type b\n", Stricter),
        ("file a seq 9223372036854775808 type b\n", Stricter),
        ("file a seq 1 type i startoffset x\n", Stricter),
        ("file a seq 1 type b\nfile b seq 2 type b\n", Refused),
        ("file a seq 2 type i\nfile b seq 2 type i\n", Refused),
        ("file a seq 2 type i\nfile b seq 1 type i\n", Refused),
        ("file b seq 2 type i\nfile a seq 9 type b\nfile c seq 7 type i\n", Read),
        ("file a seq 1 type b\nfile a seq 1 type i\n", Read),
        // Quotes.
        ("file '\\x61' seq 1 type b\n", Refused),
        ("file \"\\x61\" seq 1 type b\n", Read),
        ("file \"\\x4g\" seq 1 type b\n", Read),
        ("file \"\\b\" seq 1 type b file \"b\" x y\n", Read),
        ("file 'f\\'g' seq 1 type b\n", Read),
        ("file \"f\\'g\" seq 1 type b\n", Read),
        ("file 'h\"i' seq 1 type b\n", Read),
        ("file a\"b c\" seq 1 type b\n", Read),
        ("file a'b c' seq 1 type b\n", Read),
        ("\"file\" a 'seq' \"1\" type 'b'\n", Read),
        ("file \"a\"\x0bseq 1 type b\n", RedisOnly),
        ("\x0bfile a seq 1 type b\n", Read),
        ("file \x0ca seq 1 type b\n", Read),
        ("file a\x0bseq 1 type b\n", Refused),
        ("file \"a\"b seq 1 type b\n", Refused),
        ("file 'a''b' seq 1 type b\n", Refused),
        ("seq 1 type b file \"a\n", Refused),
        ("seq 1 type b file 'a\n", Refused),
        ("seq 1 type b file \"a\\\"\n", Refused),
        // Names.
        ("file sub/a seq 1 type b\n", Refused),
        ("file ./a seq 1 type b\n", Refused),
        ("file sub\\a seq 1 type b\n", Refused),
        ("file \"sub\\x2fa\" seq 1 type b\n", Refused),
        ("file a/b seq 1 type b file a\n", Refused),
        ("file missing seq 1 type h\nfile a seq 1 type b\n", Read),
        // A server that reads what stands before the NUL loads the file a.
        ("file \"a\\x00b\" seq 1 type b\n", Stricter),
        ("file .. seq 1 type h\nfile a seq 1 type b\n", Stricter),
        ("file \"\" seq 1 type h\nfile a seq 1 type b\n", Stricter),
    ]
    .map(|(text, fate)| (text.to_owned(), fate))
    .into();
    // Lines as long as the servers' buffer, and a byte longer.
    let long = |len: usize| {
        let start = "file a seq 1 type b x ";
        format!("{start}{}\n", "y".repeat(len - start.len() - 1))
    };
    cases.push((long(1024), Read));
    cases.push((long(1025), Refused));
    let comment = format!("#{}", "-".repeat(1023));
    cases.push((format!("{comment}file a seq 1 type b\n"), Read));
    cases.push((format!("{comment}more\nfile a seq 1 type b\n"), Refused));
    cases.push((format!("{comment}{comment}#\nfile a seq 1 type b\n"), Read));
    cases
}

/// The files that a server loads for a manifest, in order; none if it refuses it.
fn loaded(name: &str, manifest: &str) -> Option<Vec<String>> {
    let dir = tempfile::tempdir().expect("a directory for the server");
    let parts = dir.path().join("appendonlydir");
    std::fs::create_dir_all(parts.join("sub")).expect("a directory");
    for file in FILES.iter().chain(&["sub/a"]) {
        let select = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n";
        std::fs::write(parts.join(file), select).expect("a part of a log");
    }
    std::fs::write(parts.join("appendonly.aof.manifest"), manifest).expect("a manifest");
    // It listens at a socket in its own directory, so that no other process can be in its way.
    let mut child = Command::new(server::starter(name))
        .args(["--dir", text(dir.path()), "--save", "", "--logfile", "log"])
        .args([
            "--port",
            "0",
            "--unixsocket",
            "socket",
            "--appendonly",
            "yes",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}; run tests/install-servers first"));
    let end = Instant::now() + Duration::from_secs(30);
    let read_log = |path: &Path| {
        let bytes = std::fs::read(path.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let ready = loop {
        // In this order: what a server that ended has logged is all there.
        let ended = child.try_wait().expect("the state of a child").is_some();
        if read_log(dir.path()).contains("eady to accept connections") {
            break true;
        }
        if ended {
            break false;
        }
        assert!(Instant::now() < end, "{name} neither starts nor ends");
        std::thread::sleep(Duration::from_millis(3));
    };
    let _ = child.kill();
    let _ = child.wait();
    let log = read_log(dir.path());
    if !ready {
        // It must have ended because of the log and not for some reason of the machine.
        assert!(
            log.contains("manifest") || log.contains("AOF"),
            "{name} did not start:\n{log}"
        );
        return None;
    }
    let mut files = Vec::new();
    for line in log.lines() {
        let after = ["DB loaded from base file ", "DB loaded from incr file "]
            .iter()
            .find_map(|start| line.split_once(start));
        if let Some((_, rest)) = after {
            let (file, _) = rest.rsplit_once(": ").expect("the time it took");
            files.push(file.to_owned());
        }
    }
    Some(files)
}

fn holds_against(name: &str) {
    if !server::available(name) {
        return;
    }
    let mut wrong = String::new();
    for (manifest, fate) in cases() {
        let ours = Manifest::parse(manifest.as_bytes());
        let theirs = loaded(name, &manifest);
        let valkey = name.starts_with("valkey");
        let alike = match (&ours, &theirs, fate) {
            (Ok(_), None, RedisOnly) => valkey,
            (Ok(_), Some(_), RedisOnly) => !valkey,
            (Ok(ours), Some(theirs), Read) => {
                let entries = ours.base.iter().chain(&ours.incr);
                let names: Vec<String> = entries
                    .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
                    .collect();
                &names == theirs
            }
            (Err(_), None, Refused) | (Err(_), Some(_), Stricter) => true,
            _ => false,
        };
        if !alike {
            wrong +=
                &format!("{manifest:?} should be {fate:?}; we: {ours:?}; {name}: {theirs:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn manifests_are_read_as_redis_7_0_reads_them() {
    holds_against("redis-7.0");
}

#[test]
fn manifests_are_read_as_redis_8_10_reads_them() {
    holds_against("redis-8.10");
}

#[test]
fn manifests_are_read_as_valkey_9_1_reads_them() {
    holds_against("valkey-9.1");
}
