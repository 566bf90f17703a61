//! A corpus of snapshots and logs of every server release, each with what its server held. It is not part of the
//! project: `REDIS_MIGRATION_CORPUS` says where it is, and without it these tests have nothing to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::cli::convert;
use crate::support::server::{Server, available};
use crate::support::{rdb_version, text};

/// What a file is converted for, and which server then holds it.
struct Way {
    /// Finds the files below a directory.
    files: fn(&Path, &mut Vec<PathBuf>),
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

/// The logs below `dir` that have a truth beside them: files, and directories of several.
fn logs(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the corpus")
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let has_truth = path.with_extension("json").exists();
        if path.is_dir() && !has_truth {
            logs(&path, found);
        } else if has_truth && (path.is_dir() || path.extension().is_some_and(|ext| ext == "aof")) {
            found.push(path);
        }
    }
}

/// Converts every file that the server's kind can hold, loads it and lets the corpus's own program compare.
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
    (way.files)(&corpus, &mut files);
    files.retain(|path| holds(path));
    assert!(files.len() > 10, "{} files of the corpus", files.len());

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
        "{} files for {} --mode {}",
        files.len(),
        way.server,
        way.mode
    );
}

fn compare(comparer: &mut Comparer, file: &Path, server: &Server, way: &Way) -> Result<(), String> {
    let case = file.file_stem().expect("a name").to_string_lossy();
    let mut args = vec!["--mode", way.mode, "--target-version", way.target];
    // 2.6 to 3.0 log SET with EX and PX as they came; these were written then, give or take a day.
    if case.starts_with("aof-expire") {
        args.extend(["--log-time", "2026-11-22T00:00:00Z"]);
    }
    args.push(text(file));
    let run = convert(&args);
    if run.code != expected_exit(&case) {
        return Err(format!("exit {}: {}", run.code, run.stderr));
    }
    let piped = server.client().pipe(&run.stdout, None);
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
    // Up to 4.0 scripts are logged and not their effects; one of them fails in its middle, at its own server too.
    let fails = |error: &String| case == "aof-eval" && error.contains("Unknown Redis command");
    let errors: Vec<&String> = piped.errors.iter().filter(|error| !fails(error)).collect();
    if let Some(error) = errors.first() {
        return Err(format!("{} errors, the first: {error}", errors.len()));
    }
    comparer.compare(&file.with_extension("json"), server.port)
}

/// A log that was cut within a command or a transaction is written up to there, and the exit code tells.
fn expected_exit(case: &str) -> i32 {
    i32::from(case.starts_with("aof-trunc-"))
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
            files: snapshots,
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
            files: snapshots,
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
            files: snapshots,
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
            files: snapshots,
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
            files: snapshots,
            server: "redis-7.0",
            target: "7.0",
            mode: "commands",
        },
        |path| rdb_version(path) <= 10,
    );
}

/// The server that wrote a file of the corpus, and its version.
fn label(path: &Path) -> (String, (u32, u32)) {
    let label = path
        .parent()
        .and_then(Path::file_name)
        .expect("the directory of a release")
        .to_string_lossy();
    let (name, version) = label.split_once('-').expect("NAME-VERSION");
    let mut numbers = version
        .split(['.', '-'])
        .map(|number| number.parse().expect("a number"));
    let major = numbers.next().expect("major");
    let minor = numbers.next().expect("minor");
    (name.to_owned(), (major, minor))
}

/// Written by Redis of this version or before.
fn up_to(path: &Path, version: (u32, u32)) -> bool {
    let (name, written_by) = label(path);
    name == "redis" && written_by <= version
}

fn valkey_9(path: &Path) -> bool {
    let (name, version) = label(path);
    name == "valkey" && version >= (9, 0)
}

#[test]
fn the_logs_of_the_corpus_go_into_redis_8_10() {
    corpus(
        &Way {
            files: logs,
            server: "redis-8.10",
            target: "8.10",
            mode: "commands",
        },
        |path| !valkey_9(path),
    );
}

#[test]
fn the_logs_of_valkey_9_go_into_valkey_9_1() {
    corpus(
        &Way {
            files: logs,
            server: "valkey-9.1",
            target: "valkey-9.1",
            mode: "commands",
        },
        valkey_9,
    );
}

#[test]
fn the_logs_up_to_7_0_go_into_redis_7_0() {
    corpus(
        &Way {
            files: logs,
            server: "redis-7.0",
            target: "7.0",
            mode: "commands",
        },
        |path| up_to(path, (7, 0)),
    );
}

#[test]
fn the_logs_up_to_6_2_go_into_redis_6_2() {
    corpus(
        &Way {
            files: logs,
            server: "redis-6.2",
            target: "6.2",
            mode: "commands",
        },
        |path| up_to(path, (6, 2)),
    );
}

/// The way that every operator knows, with the program that they use.
#[test]
fn logs_go_through_redis_cli() {
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        println!("SKIPPED: REDIS_MIGRATION_CORPUS is not set");
        return;
    };
    let corpus = PathBuf::from(corpus);
    if Command::new("redis-cli").arg("--version").output().is_err() {
        println!("SKIPPED: redis-cli is not installed");
        return;
    }
    let server = Server::start("redis-7.0");
    let mut comparer = Comparer::start(&corpus);
    for file in [
        "redis-3.2.13/aof-commands.aof",
        "redis-6.2.16/aof-preamble.aof",
        "redis-7.0.15/aof-multipart",
    ] {
        let file = corpus.join(file);
        let run = convert(&["--target-version", "7.0", text(&file)]);
        assert_eq!(run.code, 0, "{}: {}", file.display(), run.stderr);
        server.flush();
        let mut cli = Command::new("redis-cli")
            .args(["-p", &server.port.to_string(), "--pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli");
        let mut stdin = cli.stdin.take().expect("its stdin");
        stdin.write_all(&run.stdout).expect("the commands");
        drop(stdin);
        let said = cli.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("errors: 0,"), "{}: {said}", file.display());
        let same = comparer.compare(&file.with_extension("json"), server.port);
        assert_eq!(same, Ok(()), "{}", file.display());
    }
}
