//! Live migration: from a server that is written to, into another that ends with the same, whatever breaks meanwhile.
//!
//! Each test ends with the load stopped and both sides compared. Sources below 7.0 tell how long a key has still to
//! live, all others until when, so only with those may the ends of keys lie a little apart.

mod clusters;
mod faults;
mod files;
mod refusals;
mod resume;
mod scan;
mod targets;
mod times;
mod tls;
mod tools;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::replay::{Target, changes_in};
use crate::support::cli::{code, program, wait};
use crate::support::client::call;
use crate::support::data::differences_left;
use crate::support::load::rest;
use crate::support::resp::append_command;
use crate::support::server::Server;
use crate::support::text;

/// Time for what takes a second or two, on a machine that does much else.
const SOON: Duration = Duration::from_secs(30);

/// Time for a run to end that has nothing left to do.
const END: Duration = Duration::from_secs(15);

/// The program as a migration, which can be ended and started again with the same words in the same directory.
struct Live {
    words: Vec<String>,
    dir: Arc<tempfile::TempDir>,
    /// Kilobytes that no file may outgrow: what a disk that is full looks like, for one process.
    largest_file: Option<u64>,
    run: Option<Process>,
    /// What the runs before this one said.
    before: String,
}

/// One run of it.
struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Live {
    /// From a server into what listens on a port, with `dump.rdb` and `appendonly.aof` in a directory of its own. Not
    /// started yet.
    fn new(from: u16, to: u16, words: &[&str]) -> Live {
        Live::between(&uri(from), &uri(to), words)
    }

    /// As [`Live::new`], with addresses that may hold names and passwords.
    fn between(from: &str, to: &str, words: &[&str]) -> Live {
        let first = ["migrate", "--from", from, "--to", to];
        let named = ["--rdb", "dump.rdb", "--aof", "appendonly.aof"];
        Live::of(&[&first[..], &named, words].concat())
    }

    /// By the original's words.
    fn classic(from: u16, to: u16, words: &[&str]) -> Live {
        let (from, to) = (from.to_string(), to.to_string());
        let first = [
            "-sip",
            "127.0.0.1",
            "-sport",
            &from,
            "-dip",
            "127.0.0.1",
            "-dport",
            &to,
        ];
        Live::of(&[&first[..], words].concat())
    }

    fn of(words: &[&str]) -> Live {
        Live {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            dir: Arc::new(tempfile::tempdir().expect("a directory")),
            largest_file: None,
            run: None,
            before: String::new(),
        }
    }

    /// In the directory of another one.
    fn beside(mut self, other: &Live) -> Live {
        self.dir = Arc::clone(&other.dir);
        self
    }

    fn started(mut self) -> Live {
        self.start();
        self
    }

    fn start(&mut self) {
        assert!(self.run.is_none(), "it runs already");
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let mut command = program(&words);
        if let Some(largest) = self.largest_file {
            let mut shell = Command::new("bash");
            shell
                .args(["-c", "ulimit -f \"$1\"; shift; exec \"$@\"", "bash"])
                .arg(largest.to_string())
                .arg(command.get_program())
                .args(&words)
                .stdin(Stdio::null());
            command = shell;
        }
        let mut child = command
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let stderr = child.stderr.take().expect("stderr");
        let said = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            let mut from = BufReader::new(stderr);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                to.lock()
                    .expect("no other panic")
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        self.run = Some(Process {
            child,
            said,
            reader,
        });
    }

    fn process(&mut self) -> &mut Process {
        self.run.as_mut().expect("it was started")
    }

    /// What this run has said so far.
    fn said(&self) -> String {
        let run = self.run.as_ref().expect("it was started");
        run.said.lock().expect("no other panic").clone()
    }

    /// Whether it has not ended by itself.
    fn is_running(&mut self) -> bool {
        let child = &mut self.process().child;
        child.try_wait().expect("the state of a child").is_none()
    }

    /// Waits until something is so. A run that ends before fails the test.
    fn until(&mut self, what: &str, limit: Duration, mut so: impl FnMut(&Live) -> bool) {
        let end = Instant::now() + limit;
        while !so(self) {
            if !self.is_running() {
                // It may have said its last words only now.
                std::thread::sleep(Duration::from_millis(100));
                panic!("it has ended before {what}: {}{}", self.before, self.said());
            }
            assert!(
                Instant::now() < end,
                "no {what} in {limit:?}: {}{}",
                self.before,
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it says that it has caught up.
    fn catches_up(&mut self) {
        self.until("catching up", 2 * SOON, |live| {
            let said = live.said();
            said.contains("caught up") || said.contains("ONLINE:0/0-0")
        });
    }

    /// Waits until it has acknowledged to a source all there is.
    fn acknowledges(&mut self, source: &Server) {
        self.until("acknowledging", 2 * SOON, |_| {
            acknowledged(source, Duration::ZERO).is_ok()
        });
    }

    /// Waits for its end; its exit code and all it said.
    fn ends(&mut self, limit: Duration) -> (i32, String) {
        let mut run = self.run.take().expect("it was started");
        let said = Arc::clone(&run.said);
        let end = Instant::now() + limit;
        while run
            .child
            .try_wait()
            .expect("the state of a child")
            .is_none()
        {
            if Instant::now() > end {
                let _ = run.child.kill();
                let _ = run.child.wait();
                let said = said.lock().expect("no other panic");
                panic!("it was still running after {limit:?}: {said}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = code(wait(&mut run.child, limit));
        run.reader.join().expect("the reader of stderr");
        let said = said.lock().expect("no other panic").clone();
        self.before.push_str(&said);
        self.before
            .push_str(&format!("--- that run ended with {code}\n"));
        (code, said)
    }

    /// SIGTERM, after which it ends in order.
    fn terminate(&mut self) -> String {
        let (code, said) = self.is_told_to_end();
        assert_eq!(code, 143, "{said}");
        said
    }

    /// SIGTERM for a run that may have an end of its own just now.
    fn is_told_to_end(&mut self) -> (i32, String) {
        let pid = rustix::process::Pid::from_child(&self.process().child);
        if self.is_running() {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process");
        }
        self.ends(END)
    }

    /// SIGKILL. What it said.
    fn kill(&mut self) -> String {
        assert!(self.is_running(), "it has ended by itself: {}", self.said());
        let _ = self.process().child.kill();
        self.ends(END).1
    }

    /// The most memory it has had in use so far, in MiB.
    fn peak_mib(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.process().child.id());
        let status = std::fs::read_to_string(path).expect("the state of a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok())
            .expect("a peak")
            >> 10
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The files in its directory, by name.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("a directory");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(run) = &mut self.run {
            let _ = run.child.kill();
            let _ = run.child.wait();
        }
    }
}

fn uri(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// A server that begins a snapshot as soon as it is asked.
fn source(name: &str, options: &[&str]) -> Server {
    Server::with(
        name,
        &[&["--repl-diskless-sync-delay", "0"], options].concat(),
    )
}

/// Makes a server the replica of what listens on a port, and waits until it is.
fn replicates(replica: &Server, master: u16) {
    let port = master.to_string();
    call!(replica.client(), "REPLICAOF", "127.0.0.1", port);
    until(SOON, || {
        let info = call!(replica.client(), "INFO", "replication").text();
        info.contains("master_link_status:up")
    });
}

/// Writes so many keys of all types, and waits for the answers.
fn fill(server: &Server, keys: usize) {
    let mut bytes = Vec::new();
    let mut add = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        append_command(&mut bytes, &words);
    };
    for i in 0..keys {
        let (key, a) = (format!("filled:{i}"), i.to_string());
        let b = format!("value {}", i * 7919);
        match i % 8 {
            0 | 1 => add(&["SET", &key, &b]),
            2 => add(&["SET", &key, &a, "PX", "100000000"]),
            3 => add(&["RPUSH", &key, &a, &b, "c"]),
            4 => add(&["SADD", &key, &a, &b, "c"]),
            5 => add(&["ZADD", &key, &a, &b, "0.1", "c"]),
            6 => add(&["HSET", &key, "f", &a, "g", &b]),
            _ => {
                add(&["XADD", &key, "5-1", "f", &b]);
                add(&["XGROUP", "CREATE", &key, "g", "0"]);
            }
        }
    }
    let piped = server.client().pipe(&bytes, None);
    assert_eq!(piped.errors, Vec::<String>::new());
}

/// Waits until something is so.
fn until(limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "it did not come about in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A number of a server's INFO.
fn info(server: &Server, section: &str, name: &str) -> i64 {
    let info = call!(server.client(), "INFO", section).text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|number| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {info}"))
}

/// The offset of a source, and the largest that a replica of it has acknowledged.
fn offsets(source: &Server) -> (i64, Option<i64>) {
    let info = call!(source.client(), "INFO", "replication").text();
    let number = |text: &str| text.trim().parse::<i64>().expect("an offset");
    let own = info
        .lines()
        .find_map(|line| line.strip_prefix("master_repl_offset:"));
    let acknowledged = info
        .lines()
        .filter(|line| line.starts_with("slave") && line.contains("state=online"))
        .filter_map(|line| line.split("offset=").nth(1)?.split(',').next())
        .map(number);
    (number(own.expect("an offset")), acknowledged.max())
}

/// Waits until a source's replica has acknowledged all there is.
fn acknowledged(source: &Server, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    loop {
        let (own, acknowledged) = offsets(source);
        if acknowledged == Some(own) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{acknowledged:?} of {own} acknowledged"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end of most tests: nobody writes any more, and both sides become equal, and the offsets do. What is there is
/// acknowledged after two seconds at most, for that is done every second.
fn ends_equal(live: &mut Live, source: &Server, target: &Target) {
    ends_equal_within(live, source, target, 0);
}

/// As [`ends_equal`], where the ends of keys may lie so many milliseconds apart.
fn ends_equal_within(live: &mut Live, source: &Server, target: &Target, slack_ms: i64) {
    live.catches_up();
    // Until then, the source tells of keys whose lives end.
    rest();
    if let Err(lag) = acknowledged(source, Duration::from_secs(2)) {
        panic!("{lag}: {}", live.said());
    }
    is_equal(live, source, target, slack_ms);
}

/// Both sides become equal, whether the run goes on or has ended.
fn is_equal(live: &Live, source: &Server, target: &Target, slack_ms: i64) {
    rest();
    // A key must not vanish between two questions about it. What is received may still be on its way.
    let (end, mut changes) = (Instant::now() + SOON, None);
    while Instant::now() < end {
        let now = Some(changes_in(&target.servers()));
        if changes == now {
            break;
        }
        changes = now;
        std::thread::sleep(Duration::from_millis(400));
    }
    let left = differences_left(SOON, slack_ms, &[source], || target.data());
    let said = match &live.run {
        Some(_) => live.said(),
        None => String::new(),
    };
    let first: Vec<&String> = left.iter().take(8).collect();
    assert!(
        left.is_empty(),
        "{} keys differ: {first:#?}\n{said}",
        left.len()
    );
}

/// Whether a message names all of these.
fn names(said: &str, all: &[&str]) -> bool {
    let said = said.to_ascii_lowercase();
    all.iter()
        .all(|word| said.contains(&word.to_ascii_lowercase()))
}

/// The bytes of a file, none where there is no file.
fn bytes_of(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(path).ok()
}

/// A path for people.
fn shown(path: &Path) -> &str {
    text(path)
}
