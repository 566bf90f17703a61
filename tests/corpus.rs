//! A corpus of snapshots of every server release, each with what its server held. It is not part of the project:
//! `REDIS_MIGRATION_CORPUS` says where it is, and without it these tests have nothing to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::cli::convert;
use crate::support::server::{Server, available};
use crate::support::{rdb_version, text};

/// What a snapshot is converted for, and which server then holds it.
struct Way {
    server: &'static str,
    target: &'static str,
    mode: &'static str,
}

/// The snapshots below `dir` that have a truth beside them. Those inside the directory of an append-only file belong
/// to that file.
fn snapshots(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the corpus")
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            snapshots(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rdb")
            && path.with_extension("json").exists()
        {
            found.push(path);
        }
    }
}

/// Converts every snapshot that the server's kind can hold, loads it and lets the corpus's own program compare.
fn corpus(way: &Way, holds: impl Fn(&Path) -> bool + Sync) {
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        println!("SKIPPED: REDIS_MIGRATION_CORPUS is not set");
        return;
    };
    if !available(way.server) {
        return;
    }
    let corpus = PathBuf::from(corpus);
    let mut files = Vec::new();
    snapshots(&corpus, &mut files);
    files.retain(|path| holds(path));
    assert!(files.len() > 10, "{} snapshots in the corpus", files.len());

    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let options = ["--sanitize-dump-payload", "yes"];
                let usual = Server::with(way.server, &options);
                let mut comparer = Comparer::start(&corpus);
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // So many databases keep a server busy even when they are empty: only what needs them gets them.
                    let large = file.file_stem().is_some_and(|case| case == "dbs-large");
                    let wide = large.then(|| {
                        Server::with(
                            way.server,
                            &[&options[..], &["--databases", "20000"]].concat(),
                        )
                    });
                    let server = wide.as_ref().unwrap_or(&usual);
                    server.flush();
                    if let Err(what) = compare(&mut comparer, file, server, way) {
                        let name = file
                            .strip_prefix(&corpus)
                            .expect("a file of the corpus")
                            .display()
                            .to_string();
                        wrong
                            .lock()
                            .expect("no other panic")
                            .push(format!("{name}: {what}"));
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().expect("no other panic");
    wrong.sort();
    assert!(
        wrong.is_empty(),
        "{} of {} for {} --mode {}:\n{}",
        wrong.len(),
        files.len(),
        way.server,
        way.mode,
        wrong.join("\n")
    );
    println!(
        "{} snapshots for {} --mode {}",
        files.len(),
        way.server,
        way.mode
    );
}

fn compare(comparer: &mut Comparer, file: &Path, server: &Server, way: &Way) -> Result<(), String> {
    let run = convert(&[
        "--mode",
        way.mode,
        "--target-version",
        way.target,
        text(file),
    ]);
    if run.code != 0 {
        return Err(format!("exit {}: {}", run.code, run.stderr));
    }
    let piped = server.client().pipe(&run.stdout, None);
    let case = file.file_stem().expect("a name").to_string_lossy();
    if case == "module-type" {
        // No server here has the test's module; what is asked is that only its keys are refused.
        let others: Vec<&String> = piped
            .errors
            .iter()
            .filter(|error| !error.contains("Bad data format"))
            .collect();
        return if others.is_empty() && !piped.errors.is_empty() {
            Ok(())
        } else {
            Err(format!("{:?}", piped.errors))
        };
    }
    if let Some(error) = piped.errors.first() {
        return Err(format!("{} errors, the first: {error}", piped.errors.len()));
    }
    comparer.compare(&file.with_extension("json"), server.port)
}

/// The corpus's own comparing program, kept running: its start takes many times as long as a comparison.
struct Comparer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Comparer {
    /// Reads a truth and a port a line, and answers with what compare.py says and its exit code.
    ///
    /// The release candidates kept a library's name outside its code. Servers from 7.0.0 on want it as the code's first
    /// line, so that line is looked at by itself.
    ///
    /// Left out of the comparison: no command sets the times a consumer was seen, and not even a server keeps the
    /// entries of idempotent producers over a load once their time is over.
    const LOOP: &str = r##"
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import compare
sys.stderr = sys.stdout
as_loaded = compare.read_functions
def without_headers(server):
    libraries = as_loaded(server)
    for library in libraries:
        header, code = compare.unb64(library["code"]).split(b"\n", 1)
        assert header == b"#!lua name=" + compare.unb64(library["name"]), header
        library["code"] = compare.b64(code)
    return libraries
for line in sys.stdin:
    truth, port = line.rstrip("\n").split("\t")
    compare.read_functions = without_headers if "functions-prega" in truth else as_loaded
    code = compare.main([truth, "127.0.0.1", port, "--ignore", "stream-seen-time,stream-idmp"])
    print("exit", code, flush=True)
"##;

    fn start(corpus: &Path) -> Comparer {
        let mut child = Command::new("python3")
            .args(["-c", Comparer::LOOP, text(corpus)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let answers = BufReader::new(child.stdout.take().expect("its stdout"));
        Comparer { child, answers }
    }

    fn compare(&mut self, truth: &Path, port: u16) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("its stdin");
        writeln!(stdin, "{}\t{port}", truth.display()).map_err(|error| error.to_string())?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            let len = self
                .answers
                .read_line(&mut line)
                .map_err(|error| error.to_string())?;
            match line.trim_end() {
                "exit 0" => return Ok(()),
                _ if len == 0 || line.starts_with("exit ") => {
                    said.truncate(8);
                    return Err(said.join("\n    "));
                }
                other => said.push(other.to_owned()),
            }
        }
    }
}

impl Drop for Comparer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Valkey's own format, which Redis does not read.
fn of_valkey(path: &Path) -> bool {
    rdb_version(path) >= 80
}

#[test]
fn the_corpus_goes_into_redis_8_10_by_commands() {
    corpus(
        &Way {
            server: "redis-8.10",
            target: "8.10",
            mode: "commands",
        },
        |path| !of_valkey(path),
    );
}

#[test]
fn the_corpus_goes_into_redis_8_10_by_restore() {
    corpus(
        &Way {
            server: "redis-8.10",
            target: "8.10",
            mode: "restore",
        },
        |path| !of_valkey(path),
    );
}

#[test]
fn the_corpus_of_valkey_9_goes_into_valkey_9_1_by_commands() {
    corpus(
        &Way {
            server: "valkey-9.1",
            target: "valkey-9.1",
            mode: "commands",
        },
        of_valkey,
    );
}

#[test]
fn the_corpus_up_to_rdb_11_goes_into_valkey_9_1_by_restore() {
    corpus(
        &Way {
            server: "valkey-9.1",
            target: "valkey-9.1",
            mode: "restore",
        },
        |path| rdb_version(path) <= 11 || of_valkey(path),
    );
}

#[test]
fn the_corpus_up_to_rdb_10_goes_into_redis_7_0_by_commands() {
    corpus(
        &Way {
            server: "redis-7.0",
            target: "7.0",
            mode: "commands",
        },
        |path| rdb_version(path) <= 10,
    );
}
