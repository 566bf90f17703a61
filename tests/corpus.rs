//! A corpus of snapshots and logs of every server release, each with what its server held. It is not part of the
//! project: `REDIS_MIGRATION_CORPUS` says where it is, and without it these tests have nothing to do.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis_migration::dataset::Clock;

use crate::dataset::snapshot_of;
use crate::replay::Target;
use crate::support::cli::{convert, replay_at};
use crate::support::server::{Server, available};
use crate::support::{rdb_version, text};

/// How files come into a server.
struct Way {
    /// Finds the files below a directory.
    files: fn(&Path, &mut Vec<PathBuf>),
    /// The server, or those of a cluster or behind a proxy.
    server: &'static str,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// `convert`, and then down a pipe into one server.
    Pipe {
        target: &'static str,
        mode: &'static str,
    },
    /// `replay`, which asks what is there.
    Replay(Destination),
    /// `convert` to JSON lines, through jq where it is there, and `replay` of those.
    Lines,
    /// As the snapshot that is made of a log's data set, by the server's own loader.
    Dataset { version: Option<u16> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Server,
    Cluster,
    Proxy,
}

impl Way {
    /// What the files arrive in.
    fn start(&self, options: &[&str]) -> Target {
        match self.by {
            By::Pipe { .. } | By::Lines | By::Dataset { .. } | By::Replay(Destination::Server) => {
                Target::Server(Server::with(self.server, options))
            }
            By::Replay(Destination::Cluster) => Target::cluster(),
            By::Replay(Destination::Proxy) => Target::proxy_over(self.server, &[], options),
        }
    }

    /// Clusters and proxies have database 0 alone.
    fn only_db_0(&self) -> bool {
        matches!(
            self.by,
            By::Replay(Destination::Cluster | Destination::Proxy)
        )
    }
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

/// Sends every file that the server's kind can hold, and lets the corpus's own program compare.
fn corpus(way: &Way, holds: impl Fn(&Path) -> bool + Sync) {
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        println!("SKIPPED: REDIS_MIGRATION_CORPUS is not set");
        return;
    };
    if !available(way.server)
        || (way.by == By::Replay(Destination::Proxy) && !available("nutcracker"))
    {
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
                // Servers before 6.2 do not know the option.
                let options = match way.server {
                    "redis-5.0" => &[][..],
                    _ => &options[..],
                };
                let usual = way.start(options);
                let mut comparer = Comparer::start(&corpus);
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // So many databases keep a server busy even when they are empty: only what needs them gets them.
                    let large = !way.only_db_0()
                        && file.file_stem().is_some_and(|case| case == "dbs-large");
                    let wide =
                        large.then(|| way.start(&[options, &["--databases", "20000"]].concat()));
                    let target = wide.as_ref().unwrap_or(&usual);
                    target.flush();
                    let name = file
                        .strip_prefix(&corpus)
                        .expect("a file of the corpus")
                        .display()
                        .to_string();
                    let came = match way.by {
                        By::Pipe { .. } => pipe(&mut comparer, file, target, way),
                        By::Replay(into) => send(&mut comparer, file, file, &name, target, into),
                        By::Lines => send_lines(&mut comparer, file, &name, target),
                        By::Dataset { version } => {
                            data_set(&mut comparer, file, &name, target, version)
                        }
                    };
                    if let Err(what) = came {
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
        "{} of {} for {} by {:?}:\n{}",
        wrong.len(),
        files.len(),
        way.server,
        way.by,
        wrong.join("\n")
    );
    println!("{} files for {} by {:?}", files.len(), way.server, way.by);
}

/// The flags that a file needs, whatever it is sent by.
fn flags(case: &str) -> &'static [&'static str] {
    // 2.6 to 3.0 log SET with EX and PX as they came; these were written then, give or take a day.
    if case.starts_with("aof-expire") {
        &["--log-time", "2026-11-22T00:00:00Z"]
    } else {
        &[]
    }
}

fn pipe(comparer: &mut Comparer, file: &Path, target: &Target, way: &Way) -> Result<(), String> {
    let By::Pipe {
        target: version,
        mode,
    } = way.by
    else {
        unreachable!("nothing else is piped");
    };
    let case = file.file_stem().expect("a name").to_string_lossy();
    let mut args = vec!["--mode", mode, "--target-version", version];
    args.extend(flags(&case));
    args.push(text(file));
    let run = convert(&args);
    if run.code != expected_exit(&case) {
        return Err(format!("exit {}: {}", run.code, run.stderr));
    }
    let server = target.servers()[0];
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
    comparer
        .compare(&file.with_extension("json"), server.port)
        .map(drop)
}

/// A file that does not arrive as it stands, and why.
struct Odd {
    files: &'static [&'static str],
    /// Where it is so.
    into: &'static [Destination],
    /// With which flag something arrives all the same.
    flags: &'static [&'static str],
    exit: i32,
    /// What is said of it.
    says: &'static str,
    arrives: Arrives,
}

/// What there is of a file afterwards.
#[derive(Debug, Clone, Copy)]
enum Arrives {
    Everything,
    /// Each difference has these words in it.
    AllBut(&'static str),
    /// The run ends early, and what arrived before is not looked at.
    Something,
}

const ANYWHERE: &[Destination] = &[
    Destination::Server,
    Destination::Cluster,
    Destination::Proxy,
];
const SEVERAL_SERVERS: &[Destination] = &[Destination::Cluster, Destination::Proxy];

/// Every file that does not simply arrive. Those torn at their ends are told by their names.
const ODD: &[Odd] = &[
    // No server here has the test's module.
    Odd {
        files: &[
            "redis-6.0.20/module-type.rdb",
            "redis-7.2.6/module-type.rdb",
            "valkey-8.0.1/module-type.rdb",
        ],
        into: ANYWHERE,
        flags: &["--on-error", "continue"],
        exit: 1,
        says: "Bad data format",
        arrives: Arrives::AllBut("'mod:"),
    },
    // Up to 4.0 scripts are logged and not their effects; one of them fails in its middle, at its own server too.
    Odd {
        files: &[
            "redis-2.6.17/aof-eval.aof",
            "redis-2.8.24/aof-eval.aof",
            "redis-3.0.7/aof-eval.aof",
            "redis-3.2.13/aof-eval.aof",
            "redis-4.0.14/aof-eval.aof",
        ],
        into: &[Destination::Server],
        flags: &["--on-error", "continue"],
        exit: 1,
        says: "rejected EVAL \"partial\" in db 0: ERR ",
        arrives: Arrives::Everything,
    },
    // The keys of the same scripts are on several masters.
    Odd {
        files: &[
            "redis-2.6.17/aof-eval.aof",
            "redis-2.8.24/aof-eval.aof",
            "redis-3.0.7/aof-eval.aof",
            "redis-3.2.13/aof-eval.aof",
            "redis-4.0.14/aof-eval.aof",
        ],
        into: &[Destination::Cluster],
        flags: &[],
        exit: 5,
        says: "EVAL with keys of several slots cannot be expressed for a cluster",
        arrives: Arrives::Something,
    },
    // A proxy has no transactions: what keeps commands from being applied twice is a script itself.
    Odd {
        files: &[
            "redis-2.6.17/aof-eval.aof",
            "redis-2.8.24/aof-eval.aof",
            "redis-3.0.7/aof-eval.aof",
            "redis-3.2.13/aof-eval.aof",
            "redis-4.0.14/aof-eval.aof",
        ],
        into: &[Destination::Proxy],
        flags: &[],
        exit: 5,
        says: "EVAL cannot be written",
        arrives: Arrives::Something,
    },
    // Commands that take from one key and write to another, which is on another server.
    Odd {
        files: &[
            "redis-2.2.15/aof-basic.aof",
            "redis-2.4.18/aof-basic.aof",
            "redis-2.6.17/aof-basic.aof",
            "redis-2.8.24/aof-basic.aof",
            "redis-3.0.7/aof-basic.aof",
            "redis-3.2.13/aof-basic.aof",
            "redis-4.0.14/aof-basic.aof",
            "redis-5.0.14/aof-basic.aof",
            "redis-6.0.20/aof-basic.aof",
            "redis-6.2.16/aof-basic.aof",
            "redis-7.0.15/aof-basic.aof",
            "redis-2.4.18/aof-expire.aof",
            "redis-2.6.17/aof-expire.aof",
            "redis-2.8.24/aof-expire.aof",
            "redis-3.0.7/aof-expire.aof",
            "redis-3.2.13/aof-expire.aof",
            "redis-4.0.14/aof-expire.aof",
            "redis-5.0.14/aof-expire.aof",
            "redis-6.0.20/aof-expire.aof",
            "redis-6.2.16/aof-expire.aof",
            "redis-7.0.15/aof-expire.aof",
        ],
        into: SEVERAL_SERVERS,
        flags: &[],
        exit: 5,
        says: "RENAME cannot be written",
        arrives: Arrives::Something,
    },
    Odd {
        files: &["redis-2.2.15/aof-commands.aof"],
        into: SEVERAL_SERVERS,
        flags: &[],
        exit: 5,
        says: "SUNIONSTORE cannot be written",
        arrives: Arrives::Something,
    },
    Odd {
        files: &["redis-2.4.18/aof-commands.aof"],
        into: SEVERAL_SERVERS,
        flags: &[],
        exit: 5,
        says: "RPOPLPUSH cannot be written",
        arrives: Arrives::Something,
    },
    Odd {
        files: &[
            "redis-2.6.17/aof-commands.aof",
            "redis-2.8.24/aof-commands.aof",
            "redis-3.0.7/aof-commands.aof",
            "redis-3.2.13/aof-commands.aof",
            "redis-4.0.14/aof-commands.aof",
            "redis-5.0.14/aof-commands.aof",
            "redis-6.0.20/aof-commands.aof",
            "redis-6.2.16/aof-commands.aof",
            "redis-7.0.15/aof-commands.aof",
        ],
        into: SEVERAL_SERVERS,
        flags: &[],
        exit: 5,
        says: "BITOP cannot be written",
        arrives: Arrives::Something,
    },
    // It would empty what database 0 shares with no others there.
    Odd {
        files: &[
            "redis-2.4.18/aof-flushall.aof",
            "redis-5.0.14/aof-flushall.aof",
        ],
        into: SEVERAL_SERVERS,
        flags: &[],
        exit: 5,
        says: "FLUSHALL cannot be written",
        arrives: Arrives::Something,
    },
    // A proxy does not forward FUNCTION: of a snapshot the libraries are left out by name, in a log they end the run.
    Odd {
        files: &[
            "redis-7.0-rc1/functions-prega.rdb",
            "redis-7.0.15/aof-preamble",
            "redis-7.0.15/functions-only.rdb",
            "redis-7.0.15/functions.rdb",
        ],
        into: &[Destination::Proxy],
        flags: &[],
        exit: 1,
        says: "twemproxy forwards no FUNCTION LOAD: load it into each server directly",
        arrives: Arrives::Everything,
    },
    Odd {
        files: &["redis-7.0.15/aof-eval.aof", "redis-7.0.15/aof-rewritten"],
        into: &[Destination::Proxy],
        flags: &[],
        exit: 5,
        says: "FUNCTION cannot be written",
        arrives: Arrives::Something,
    },
    // The longest name in the corpus, which nobody can ask a proxy for.
    Odd {
        files: &["redis-2.4.18/keys-names.rdb"],
        into: &[Destination::Proxy],
        flags: &["--on-error", "continue"],
        exit: 1,
        says: "its name has 16384 bytes; this twemproxy forwards 16335",
        arrives: Arrives::Something,
    },
];

/// Sends `input`, which is `file` or comes of it.
fn send(
    comparer: &mut Comparer,
    file: &Path,
    input: &Path,
    name: &str,
    target: &Target,
    into: Destination,
) -> Result<(), String> {
    let case = file.file_stem().expect("a name").to_string_lossy();
    let odd = ODD
        .iter()
        .find(|odd| odd.files.contains(&name) && odd.into.contains(&into));
    let mut args = vec!["--on-exist", "replace"];
    args.extend(flags(&case));
    args.extend(odd.map_or(&[][..], |odd| odd.flags));
    if into != Destination::Server {
        args.extend(["--db", "0"]);
    }
    args.push(text(input));
    let run = replay_at(target.port(), &args);
    let exit = match odd {
        Some(odd) => odd.exit,
        None if input == file => expected_exit(&case),
        // What was torn was left out when it was converted.
        None => 0,
    };
    if run.code != exit || odd.is_some_and(|odd| !run.stderr.contains(odd.says)) {
        return Err(format!("exit {}: {}", run.code, run.stderr));
    }
    let how: &[&str] = match into {
        Destination::Server => &[],
        Destination::Cluster => &["--cluster", "--only-db", "0"],
        Destination::Proxy => &["--proxy", "--only-db", "0"],
    };
    let misses = match odd.map_or(Arrives::Everything, |odd| odd.arrives) {
        Arrives::Everything => None,
        Arrives::AllBut(words) => Some(words),
        Arrives::Something => return Ok(()),
    };
    let keys = comparer
        .compare_but(&file.with_extension("json"), target.port(), how, misses)
        .map_err(|error| format!("{error}\n    {}", run.stderr))?;
    // Through a proxy nobody can ask for all keys: what the truth does not have is found by counting.
    let there = target.keys();
    if into == Destination::Proxy && there != keys {
        return Err(format!(
            "the servers hold {there} keys, of which {keys} are right"
        ));
    }
    Ok(())
}

fn send_lines(
    comparer: &mut Comparer,
    file: &Path,
    name: &str,
    target: &Target,
) -> Result<(), String> {
    let case = file.file_stem().expect("a name").to_string_lossy();
    let mut args = vec!["--format", "jsonl"];
    args.extend(flags(&case));
    args.push(text(file));
    let run = convert(&args);
    if run.code != expected_exit(&case) {
        return Err(format!("exit {}: {}", run.code, run.stderr));
    }
    if let Some(refused) = crate::jsonl::Schema::new().refuses(&run.stdout) {
        return Err(refused);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let lines = dir.path().join("lines.jsonl");
    std::fs::write(&lines, crate::jsonl::through_jq(run.stdout)).expect("the lines");
    send(comparer, file, &lines, name, target, Destination::Server)
}

/// Logs with commands whose effects only a server can tell: scripts as they came, vector sets.
const UNKNOWABLE: &[(&str, &str)] = &[
    ("redis-2.6.17/aof-eval.aof", "EVAL"),
    ("redis-2.8.24/aof-eval.aof", "EVAL"),
    ("redis-3.0.7/aof-eval.aof", "EVAL"),
    ("redis-3.2.13/aof-eval.aof", "EVAL"),
    ("redis-4.0.14/aof-eval.aof", "EVAL"),
    ("redis-8.0.6/aof-rewritten", "VADD"),
    ("redis-8.6.3/aof-rewritten", "VADD"),
    ("redis-8.10.2/aof-rewritten", "VADD"),
];

/// Makes the data set that a log leaves, and has a server load it.
fn data_set(
    comparer: &mut Comparer,
    file: &Path,
    name: &str,
    target: &Target,
    version: Option<u16>,
) -> Result<(), String> {
    let case = file.file_stem().expect("a name").to_string_lossy();
    // What `flags` says, as the library takes it.
    let clock = match case.starts_with("aof-expire") {
        true => Clock::At(1_795_305_600_000),
        false => Clock::Unknown,
    };
    let made = snapshot_of(file, version, clock);
    if let Some((_, command)) = UNKNOWABLE.iter().find(|(file, _)| *file == name) {
        let text = made.map_or_else(|error| error.to_string(), |_| "made".to_owned());
        return match text.contains(&format!("what {command} did cannot be told at byte")) {
            true => Ok(()),
            false => Err(text),
        };
    }
    let (_dir, snapshot) = made.map_err(|error| error.to_string())?;
    let Target::Server(server) = target else {
        return Err("a snapshot goes into a server".to_owned());
    };
    server.load(&snapshot);
    comparer
        .compare(&file.with_extension("json"), target.port())
        .map(drop)
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
    /// Reads a truth, a port and further options a line, and answers with the differences that compare.py finds, its
    /// exit code and how many keys there were.
    ///
    /// The release candidates kept a library's name outside its code. Servers from 7.0.0 on want it as the code's first
    /// line, so that line is looked at by itself.
    ///
    /// A proxy forwards no command of streams, but scripts.
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
    for library in libraries or []:
        header, code = compare.unb64(library["code"]).split(b"\n", 1)
        assert header == b"#!lua name=" + compare.unb64(library["name"]), header
        library["code"] = compare.b64(code)
    return libraries
class ByScript:
    version = (6, 2)
    def __init__(self, server):
        self.c, self.proxy = self, server.c
    def wrap(self, args):
        key = args[2] if args[0] == "XINFO" else args[1]
        return ("EVAL", "return redis.call(unpack(ARGV))", "1", key, *args)
    def cmd(self, *args):
        return self.proxy.cmd(*self.wrap(args))
    def try_cmd(self, *args):
        return self.proxy.try_cmd(*self.wrap(args))
read_stream = compare.read_stream
compare.read_stream = lambda server, key: \
    read_stream(ByScript(server) if server.name == "proxy" else server, key)
compare_all = compare.compare
def counting(*args, **options):
    global keys
    found = compare_all(*args, **options)
    keys = found.keys
    return found
compare.compare = counting
for line in sys.stdin:
    truth, port, *how = line.rstrip("\n").split("\t")
    compare.read_functions = without_headers if "functions-prega" in truth else as_loaded
    keys = 0
    code = compare.main([truth, "127.0.0.1", port, "--quiet", "--ignore", "stream-seen-time,stream-idmp", *how])
    print("exit", code, keys, flush=True)
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

    /// Holds what answers at a port against a truth. Errors: the first differences.
    fn compare(&mut self, truth: &Path, port: u16) -> Result<i64, String> {
        self.compare_but(truth, port, &[], None)
    }

    /// As [`Comparer::compare`], with further options of compare.py, where there have to be differences with these
    /// words in them, and no others. Tells how many keys there are.
    fn compare_but(
        &mut self,
        truth: &Path,
        port: u16,
        how: &[&str],
        misses: Option<&str>,
    ) -> Result<i64, String> {
        let stdin = self.child.stdin.as_mut().expect("its stdin");
        let how: String = how.iter().map(|option| format!("\t{option}")).collect();
        writeln!(stdin, "{}\t{port}{how}", truth.display()).map_err(|error| error.to_string())?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            let len = self
                .answers
                .read_line(&mut line)
                .map_err(|error| error.to_string())?;
            if let Some(end) = line.trim_end().strip_prefix("exit ") {
                let (code, keys) = end.split_once(' ').expect("a code and a number");
                let keys = keys.parse().expect("a number");
                let found = said.len();
                said.retain(|line: &String| !misses.is_some_and(|words| line.contains(words)));
                if misses.is_some() && found == said.len() {
                    said.push("nothing is missing that should be".to_owned());
                }
                if code == "2" || !said.is_empty() {
                    said.truncate(8);
                    return Err(said.join("\n    "));
                }
                return Ok(keys);
            }
            if len == 0 {
                return Err(format!("compare.py ended: {}", said.join("\n    ")));
            }
            said.push(line.trim_end().to_owned());
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
            by: By::Pipe {
                target: "8.10",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "8.10",
                mode: "restore",
            },
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
            by: By::Pipe {
                target: "valkey-9.1",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "valkey-9.1",
                mode: "restore",
            },
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
            by: By::Pipe {
                target: "7.0",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "8.10",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "valkey-9.1",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "7.0",
                mode: "commands",
            },
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
            by: By::Pipe {
                target: "6.2",
                mode: "commands",
            },
        },
        |path| up_to(path, (6, 2)),
    );
}

#[test]
fn the_data_sets_of_the_logs_are_what_their_servers_held() {
    let of_dataset = |server, version| Way {
        files: logs,
        server,
        by: By::Dataset { version },
    };
    corpus(&of_dataset("redis-8.10", None), |path| !valkey_9(path));
    corpus(&of_dataset("valkey-9.1", Some(80)), valkey_9);
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
        assert!(same.is_ok(), "{}: {same:?}", file.display());
    }
}

fn lines_into(
    files: fn(&Path, &mut Vec<PathBuf>),
    server: &'static str,
    holds: impl Fn(&Path) -> bool + Sync,
) {
    let by = By::Lines;
    corpus(&Way { files, server, by }, holds);
}

#[test]
fn the_corpus_goes_into_redis_8_10_by_json_lines() {
    lines_into(snapshots, "redis-8.10", |path| !of_valkey(path));
}

#[test]
fn the_corpus_of_valkey_9_goes_into_valkey_9_1_by_json_lines() {
    lines_into(snapshots, "valkey-9.1", of_valkey);
}

#[test]
fn the_logs_go_into_redis_8_10_by_json_lines() {
    lines_into(logs, "redis-8.10", |path| !valkey_9(path));
}

fn replay_into(
    files: fn(&Path, &mut Vec<PathBuf>),
    server: &'static str,
    into: Destination,
    holds: impl Fn(&Path) -> bool + Sync,
) {
    let by = By::Replay(into);
    corpus(&Way { files, server, by }, holds);
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_10_to_redis_7_0() {
    replay_into(snapshots, "redis-7.0", Destination::Server, |path| {
        rdb_version(path) <= 10
    });
}

#[test]
fn replay_sends_the_logs_up_to_7_0_to_redis_7_0() {
    replay_into(logs, "redis-7.0", Destination::Server, |path| {
        up_to(path, (7, 0))
    });
}

#[test]
fn replay_sends_the_snapshots_to_redis_8_10() {
    replay_into(snapshots, "redis-8.10", Destination::Server, |path| {
        !of_valkey(path)
    });
}

#[test]
fn replay_sends_the_logs_to_redis_8_10() {
    replay_into(logs, "redis-8.10", Destination::Server, |path| {
        !valkey_9(path)
    });
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_11_and_valkeys_to_valkey_9_1() {
    replay_into(snapshots, "valkey-9.1", Destination::Server, |path| {
        rdb_version(path) <= 11 || of_valkey(path)
    });
}

#[test]
fn replay_sends_the_logs_up_to_7_2_and_valkeys_to_valkey_9_1() {
    replay_into(logs, "valkey-9.1", Destination::Server, |path| {
        up_to(path, (7, 2)) || label(path).0 == "valkey"
    });
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_9_to_redis_6_2() {
    replay_into(snapshots, "redis-6.2", Destination::Server, |path| {
        rdb_version(path) <= 9
    });
}

#[test]
fn replay_sends_the_logs_up_to_6_2_to_redis_6_2() {
    replay_into(logs, "redis-6.2", Destination::Server, |path| {
        up_to(path, (6, 2))
    });
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_9_to_redis_5_0() {
    // Values of modules are another matter there, which tests/preflight.rs looks at.
    replay_into(snapshots, "redis-5.0", Destination::Server, |path| {
        rdb_version(path) <= 9 && !path.ends_with("module-type.rdb")
    });
}

#[test]
fn replay_sends_the_logs_up_to_5_0_to_redis_5_0() {
    replay_into(logs, "redis-5.0", Destination::Server, |path| {
        up_to(path, (5, 0))
    });
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_10_to_a_cluster() {
    replay_into(snapshots, "redis-7.0", Destination::Cluster, |path| {
        rdb_version(path) <= 10
    });
}

#[test]
fn replay_sends_the_logs_up_to_7_0_to_a_cluster() {
    replay_into(logs, "redis-7.0", Destination::Cluster, |path| {
        up_to(path, (7, 0))
    });
}

#[test]
fn replay_sends_the_snapshots_up_to_rdb_10_through_a_proxy() {
    replay_into(snapshots, "redis-7.0", Destination::Proxy, |path| {
        rdb_version(path) <= 10
    });
}

#[test]
fn replay_sends_the_logs_up_to_7_0_through_a_proxy() {
    replay_into(logs, "redis-7.0", Destination::Proxy, |path| {
        up_to(path, (7, 0))
    });
}
