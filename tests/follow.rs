//! Append-only files that grow: followed live, and gone on with from a checkpoint. Nothing may be lost or doubled,
//! whatever the server or the follower does meanwhile; and where that cannot be had, the run must say so.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::cli::{Run, code, convert, program, run, wait};
use crate::support::client::{Client, call};
use crate::support::data::{DataSet, diff};
use crate::support::resp::{append_command, commands};
use crate::support::server::{Server, available};
use crate::support::{fixture, text};

/// Time for things that take a few milliseconds, on a machine that does much else.
const SOON: Duration = Duration::from_secs(10);

/// A run of the program beside the test.
struct Follower {
    child: Child,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Follower {
    fn start(args: &[&str], stdout: impl Into<Stdio>) -> Follower {
        Follower::spawn(program(&[&["convert"], args].concat()), stdout)
    }

    fn spawn(mut command: Command, stdout: impl Into<Stdio>) -> Follower {
        let mut child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let from = child.stderr.take().expect("stderr");
        let stderr = Arc::new(Mutex::new(String::new()));
        let to = stderr.clone();
        let reader = Some(std::thread::spawn(move || collect(from, &to)));
        Follower {
            child,
            stderr,
            reader,
        }
    }

    /// With a pipe for its stdout.
    fn piped(args: &[&str]) -> (Follower, ChildStdout) {
        let mut follower = Follower::start(args, Stdio::piped());
        let out = follower.child.stdout.take().expect("stdout");
        (follower, out)
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(status.success(), "the run has ended: {}", self.said());
    }

    /// Stops it until SIGCONT, and returns when all its threads have stopped.
    fn pause(&self) {
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        let rests = |task: std::io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(task.expect("a thread").path().join("stat"));
            // The state stands behind the name, which is in brackets.
            stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('T')))
        };
        until(
            SOON,
            || fs::read_dir(&tasks).expect("its threads").all(rests),
            || "it does not stop".to_owned(),
        );
    }

    /// What it has said so far.
    fn said(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    fn waits_to_say(&self, what: &str) {
        until(
            SOON,
            || self.said().contains(what),
            || format!("{what:?} is not in {:?}", self.said()),
        );
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// Waits for its end; its exit code and all it said.
    fn end(mut self) -> (i32, String) {
        let code = code(wait(&mut self.child, SOON));
        self.reader.take().expect("once").join().expect("stderr");
        (code, self.said())
    }

    /// SIGTERM, and its end within a second.
    fn stop(self) -> String {
        let start = Instant::now();
        self.signal("TERM");
        let (code, said) = self.end();
        assert_eq!(code, 143, "{said}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "it took {took:?}: {said}");
        said
    }

    fn kill(mut self) -> String {
        let _ = self.child.kill();
        self.end().1
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: ChildStderr, to: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        to.lock()
            .expect("no panic")
            .push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
}

/// Waits until something is so.
fn until(limit: Duration, mut so: impl FnMut() -> bool, why: impl FnOnce() -> String) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "after {limit:?}: {}", why());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What comes out of a pipe, and when.
struct Output {
    bytes: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

impl Output {
    fn of(mut from: ChildStdout) -> Output {
        let bytes = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let to = bytes.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.0.lock()
                    .expect("no panic")
                    .extend_from_slice(&buffer[..n]);
                to.1.notify_all();
            }
        });
        Output { bytes }
    }

    fn now(&self) -> Vec<u8> {
        self.bytes.0.lock().expect("no panic").clone()
    }

    /// Waits until there are so many bytes in all.
    fn reaches(&self, len: usize) {
        let guard = self.bytes.0.lock().expect("no panic");
        let (guard, _) = self
            .bytes
            .1
            .wait_timeout_while(guard, SOON, |bytes| bytes.len() < len)
            .expect("no panic");
        assert!(guard.len() >= len, "{:?}", String::from_utf8_lossy(&guard));
    }

    fn reaches_exactly(&self, want: &[u8]) {
        self.reaches(want.len());
        assert_eq!(lossy(&self.now()), lossy(want));
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command as it stands in a log: `"SET k v"`.
fn cmd(words: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    append_command(&mut bytes, &args);
    bytes
}

fn cmds(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|words| cmd(words)).collect()
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("a file");
    file.write_all(bytes).expect("an append");
}

/// A file that is appended to, as `>>` opens it.
fn appending(path: &Path) -> File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("an output")
}

/// A field of a checkpoint, by its path.
fn checkpoint(path: &Path, field: &str) -> serde_json::Value {
    let text = fs::read(path).expect("a checkpoint");
    let value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    value.pointer(field).expect(field).clone()
}

fn is_open(path: &Path) -> bool {
    checkpoint(path, "/open").as_bool().expect("a truth value")
}

/// Directories of a test: where the run's files are.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        text(&self.path(name)).to_owned()
    }
}

/// Clients that write all sorts of things, each number once, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

const EVAL: &str = "redis.call('INCR', KEYS[1]) redis.call('RPUSH', KEYS[2], ARGV[1]) \
    redis.call('SADD', KEYS[3], ARGV[1]) return 1";

impl Load {
    fn start(port: u16, clients: u64) -> Load {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| NEXT.fetch_add(1, Ordering::Relaxed))
            .map(|me| {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut client = Client::connect(port).expect("a connection");
                    let mut turn = 0;
                    while !stop.load(Ordering::Relaxed) {
                        Load::turn(&mut client, me, turn);
                        turn += 1;
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    turn
                })
            })
            .collect();
        Load { stop, clients }
    }

    fn turn(client: &mut Client, me: u64, turn: u64) {
        let list = format!("list:{me}");
        let unique = format!("{me}-{turn}");
        let (first, second) = (format!("{unique}-a"), format!("{unique}-b"));
        let key = format!("key:{}", turn % 31);
        let count = format!("count:{}", turn % 5);
        let once = format!("ephemeral:{unique}");
        let again = format!("ephemeral:{}", turn % 9);
        let time = (500 + turn * 37 % 4500).to_string();
        match turn % 8 {
            0 => drop(call!(client, "INCR", count)),
            1 => drop(call!(client, "RPUSH", list, unique)),
            2 => {
                call!(client, "MULTI");
                call!(client, "INCR", "count");
                call!(client, "RPUSH", list, first);
                call!(client, "SELECT", "1");
                call!(client, "RPUSH", list, second);
                call!(client, "INCR", "count");
                call!(client, "SELECT", "0");
                call!(client, "EXEC");
            }
            3 => drop(call!(
                client, "EVAL", EVAL, "3", "count", list, "set", unique
            )),
            4 => {
                call!(client, "SETEX", once, "1", "x");
                call!(client, "SET", key, unique);
            }
            5 => {
                call!(client, "INCR", again);
                call!(client, "PEXPIRE", again, time);
            }
            6 => {
                call!(client, "SELECT", "2");
                call!(client, "RPUSH", list, unique);
                call!(client, "HSET", "hash", key, unique);
                call!(client, "SELECT", "0");
            }
            _ => {
                call!(client, "DEL", key);
                call!(client, "ZINCRBY", "zset", "1.5", key);
            }
        }
    }

    /// How many turns there were.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .sum()
    }
}

/// All that does not go by itself; what does is removed first, because it may go while it is read.
fn data(server: &Server) -> DataSet {
    forget_ephemeral(server);
    DataSet::read(&mut server.client())
}

/// Removes the keys that expire.
fn forget_ephemeral(server: &Server) {
    let remove =
        "for _, key in ipairs(redis.call('KEYS', 'ephemeral*')) do redis.call('DEL', key) end";
    call!(server.client(), "EVAL", remove, "0");
}

/// Waits until all that was answered is in the log: while an earlier part is brought to disk a server holds it back.
fn logged(server: &Server) {
    let mut client = server.client();
    until(
        SOON,
        || {
            call!(client, "INFO", "persistence")
                .text()
                .contains("aof_buffer_length:0\r")
        },
        || "the log is not written".to_owned(),
    );
}

/// BGREWRITEAOF, from its beginning to its end.
fn rewrite(server: &Server) {
    let mut client = server.client();
    call!(client, "BGREWRITEAOF");
    rewritten(&mut client);
}

fn rewritten(client: &mut Client) {
    until(
        Duration::from_secs(30),
        || {
            let info = call!(client, "INFO", "persistence").text();
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
        },
        || "the log is still being rewritten".to_owned(),
    );
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Every number that was pushed to a list stands in the file once.
fn assert_pushed_once(file: &[u8]) {
    let mut db = Vec::new();
    let mut pushed: BTreeMap<[Vec<u8>; 3], u32> = BTreeMap::new();
    for args in commands(file) {
        match &args[0].to_ascii_uppercase()[..] {
            b"SELECT" => db = args[1].clone(),
            b"RPUSH" => {
                for value in &args[2..] {
                    *pushed
                        .entry([db.clone(), args[1].clone(), value.clone()])
                        .or_default() += 1;
                }
            }
            _ => {}
        }
    }
    let twice: Vec<_> = pushed.iter().filter(|(_, n)| **n > 1).take(5).collect();
    assert!(twice.is_empty(), "doubled: {twice:?}");
    assert!(pushed.len() > 20, "the load did not run");
}

/// A new server that got a command file holds what another one does.
fn assert_rebuilds(name: &str, file: &[u8], source: &Server) {
    let target = Server::start(name);
    let piped = target.client().pipe(file, None);
    assert_eq!(piped.errors, Vec::<String>::new());
    assert_same(source, &target);
}

fn assert_same(source: &Server, target: &Server) {
    let differences = diff(&data(source), &data(target));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn digest(client: &mut Client) -> String {
    call!(client, "DEBUG", "DIGEST").text()
}

/// Options of a server that keeps a log.
const LOGGED: [&str; 4] = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];

fn log_of(server: &Server, name: &str) -> PathBuf {
    let single = matches!(name, "redis-5.0" | "redis-6.2");
    server.dir().join(if single {
        "appendonly.aof"
    } else {
        "appendonlydir"
    })
}

/// The load of redis-benchmark, where there is one.
fn benchmark(port: u16) -> Option<Child> {
    Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-n", "1500", "-r", "50", "-c", "5"])
        .args(["-q", "-t", "set,incr,lpush,rpush,lpop,sadd,hset,spop,zadd"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .inspect_err(|error| println!("SKIPPED: redis-benchmark: {error}"))
        .ok()
}

fn is_followed_into_a_second_server(name: &str) {
    if !available(name) {
        return;
    }
    let source = Server::with(name, &LOGGED);
    let target = Server::start(name);
    // Keys that expire go when the log says so, and never by the target's own clock a moment before or after.
    call!(target.client(), "DEBUG", "SET-ACTIVE-EXPIRE", "0");
    let before = Load::start(source.port, 1);
    sleep(200);
    before.stop();
    let (mut follower, out) = Follower::piped(&["--follow", text(&log_of(&source, name))]);
    let mut client = target.client();
    let pump = std::thread::spawn(move || client.pump(out));
    let load = Load::start(source.port, 3);
    let benchmark = benchmark(source.port);
    for _ in 0..2 {
        sleep(800);
        rewrite(&source);
    }
    sleep(800);
    if let Some(mut benchmark) = benchmark {
        wait(&mut benchmark, Duration::from_secs(30));
    }
    load.stop();
    // A server may hold back for two seconds what it has answered; nobody can follow it before.
    logged(&source);
    let stopped = Instant::now();
    let (mut one, mut two) = (source.client(), target.client());
    until(
        Duration::from_secs(1),
        || digest(&mut one) == digest(&mut two),
        || {
            format!(
                "the servers differ: {}; {}",
                diff(&data(&source), &data(&target)).join("\n"),
                follower.said()
            )
        },
    );
    println!("{name}: alike after {:?}", stopped.elapsed());
    assert_same(&source, &target);
    assert!(follower.is_running());
    let said = follower.stop();
    assert_eq!(said.matches("goes on in").count(), 2, "{said}");
    let piped = pump.join().expect("the pump");
    assert_eq!(piped.errors, Vec::<String>::new());
    assert!(piped.replies > 1000, "{}", piped.replies);
}

#[test]
fn redis_7_0_is_followed_into_a_second_server() {
    is_followed_into_a_second_server("redis-7.0");
}

#[test]
fn redis_8_10_is_followed_into_a_second_server() {
    is_followed_into_a_second_server("redis-8.10");
}

#[test]
fn valkey_9_1_is_followed_into_a_second_server() {
    is_followed_into_a_second_server("valkey-9.1");
}

/// Numbers that look random, of which a test that fails can tell where they began.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a time")
            .as_nanos() as u64;
        println!("dice: {now}");
        Dice(now)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// Kills a follower twenty times while a server is under load.
fn survives_kills(name: &str, by_name: bool, options: &[&str], rewrites: &[usize]) {
    if !available(name) {
        return;
    }
    let source = Server::with(name, &[&LOGGED[..], options].concat());
    let place = Place::new();
    let (out, log) = (place.path("out.resp"), log_of(&source, name));
    let check = place.text("check");
    let version = name.strip_prefix("redis-").unwrap_or(name);
    let mut args = vec!["--follow", "--checkpoint", &check, text(&log)];
    args.extend(["--target-version", version]);
    if by_name {
        args.extend(["-o", text(&out)]);
    }
    let start = || {
        let stdout = if by_name {
            Stdio::null()
        } else {
            appending(&out).into()
        };
        Follower::start(&args, stdout)
    };
    let load = Load::start(source.port, 2);
    let mut dice = Dice::new();
    let mut follower = start();
    let mut taken_back = 0;
    for turn in 0..20 {
        sleep(10 + dice.below(250));
        if rewrites.contains(&turn) {
            rewrite(&source);
            sleep(dice.below(30));
        }
        assert!(follower.is_running(), "{turn}: {}", follower.said());
        let said = follower.kill();
        taken_back += said.matches("are taken back").count();
        follower = start();
    }
    println!("{name}: {taken_back} times something was taken back");
    load.stop();
    call!(source.client(), "SET", "the-end", "1");
    until(
        SOON,
        || fs::read(&out).is_ok_and(|bytes| bytes.windows(7).any(|w| w == b"the-end")),
        || follower.said(),
    );
    follower.stop();
    assert!(!is_open(Path::new(&check)));
    let file = fs::read(&out).expect("the output");
    assert_eq!(
        checkpoint(Path::new(&check), "/output/file/bytes"),
        file.len()
    );
    assert_eq!(
        checkpoint(Path::new(&check), "/commands"),
        commands(&file).len()
    );
    assert_pushed_once(&file);
    assert_rebuilds(name, &file, &source);
}

#[test]
fn twenty_kills_lose_and_double_nothing_with_redis_7_0() {
    survives_kills("redis-7.0", false, &[], &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_a_named_file() {
    survives_kills("valkey-9.1", true, &[], &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_over_rewrites() {
    // The server leaves the files of before in their place, as a slow removal would.
    let keeps = ["--aof-disable-auto-gc", "yes"];
    survives_kills("redis-7.0", false, &keeps, &[4, 9, 15]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_with_redis_8_10() {
    let keeps = ["--aof-disable-auto-gc", "yes"];
    survives_kills("redis-8.10", false, &keeps, &[7]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_with_one_file() {
    survives_kills("redis-6.2", false, &[], &[]);
}

#[test]
fn what_is_appended_comes_out_at_once() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    let first = cmds(&["SELECT 0", "SET a 1"]);
    fs::write(&log, &first).expect("a log");
    let (follower, out) = Follower::piped(&["--follow", text(&log)]);
    let out = Output::of(out);
    let mut want = first;
    out.reaches_exactly(&want);
    let mut times = Vec::new();
    for n in 0..20 {
        // Longer than the program looks by itself, or a multiple of it would do.
        sleep(35 + n);
        want.extend(cmd(&format!("SET key:{n} {n}")));
        let start = Instant::now();
        append(&log, &cmd(&format!("SET key:{n} {n}")));
        out.reaches(want.len());
        times.push(start.elapsed());
    }
    times.sort();
    println!("median {:?}, slowest {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    assert!(times[19] < Duration::from_millis(300), "{times:?}");
    out.reaches_exactly(&want);
    follower.stop();
}

#[test]
fn with_a_checkpoint_it_comes_out_as_soon() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    fs::write(&log, cmds(&["SELECT 0", "SET a 1"])).expect("a log");
    let (follower, out) =
        Follower::piped(&["--follow", "--checkpoint", &place.text("check"), text(&log)]);
    let out = Output::of(out);
    let mut len = cmds(&["SELECT 0", "SET a 1"]).len();
    out.reaches(len);
    let mut times = Vec::new();
    // Over more than two seconds, so that checkpoints come in between.
    for n in 10..30 {
        sleep(90 + n);
        let start = Instant::now();
        append(&log, &cmd(&format!("SET key:{n} {n}")));
        len += cmd(&format!("SET key:{n} {n}")).len();
        out.reaches(len);
        times.push(start.elapsed());
    }
    times.sort();
    println!("median {:?}, slowest {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    assert!(times[19] < Duration::from_millis(300), "{times:?}");
    follower.stop();
}

#[test]
fn half_a_command_and_half_a_transaction_wait_for_the_rest() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    let mut want = cmds(&["SELECT 0", "SET a 1"]);
    fs::write(&log, &want).expect("a log");
    let (follower, out) = Follower::piped(&["--follow", text(&log)]);
    let out = Output::of(out);
    out.reaches_exactly(&want);
    // A command in three writes, cut at every place.
    let whole = cmd("RPUSH list one two");
    for cut in [1, 3, 4, 9, 11, whole.len() - 2, whole.len() - 1] {
        let middle = cut + (whole.len() - cut) / 2;
        append(&log, &whole[..cut]);
        sleep(60);
        append(&log, &whole[cut..middle]);
        sleep(60);
        out.reaches_exactly(&want);
        append(&log, &whole[middle..]);
        want.extend(&whole);
        out.reaches_exactly(&want);
    }
    // A transaction, command by command, and its EXEC in two pieces.
    for words in ["MULTI", "INCR a", "SELECT 3", "RPUSH b x"] {
        append(&log, &cmd(words));
        sleep(60);
        out.reaches_exactly(&want);
    }
    append(&log, &cmd("EXEC")[..9]);
    sleep(120);
    out.reaches_exactly(&want);
    append(&log, &cmd("EXEC")[9..]);
    want.extend(cmds(&["MULTI", "INCR a", "SELECT 3", "RPUSH b x", "EXEC"]));
    out.reaches_exactly(&want);
    // What follows is in database 3 still.
    append(&log, &cmd("SET c 1"));
    want.extend(cmd("SET c 1"));
    out.reaches_exactly(&want);
    let said = follower.stop();
    assert!(said.contains("appendonly.aof"), "{said}");
}

/// Rewrites a log of one file ten times under load while it is followed.
fn rewrites_of_one_file_are_followed(name: &str) {
    if !available(name) {
        return;
    }
    let source = Server::with(name, &LOGGED);
    let place = Place::new();
    let (out, log) = (place.path("out.resp"), log_of(&source, name));
    let check = place.text("check");
    let load = Load::start(source.port, 2);
    sleep(300);
    let version = name.strip_prefix("redis-").expect("a Redis");
    let mut follower = Follower::start(
        &[
            "--follow",
            "--checkpoint",
            &check,
            "--target-version",
            version,
            text(&log),
        ],
        appending(&out),
    );
    let mut dice = Dice::new();
    for n in 1..=10 {
        sleep(dice.below(200));
        rewrite(&source);
        until(
            SOON,
            || follower.said().matches("goes on in").count() == n,
            || format!("rewrite {n}: {}", follower.said()),
        );
        assert!(follower.is_running(), "rewrite {n}: {}", follower.said());
    }
    load.stop();
    call!(source.client(), "SET", "the-end", "1");
    until(
        SOON,
        || fs::read(&out).is_ok_and(|bytes| bytes.windows(7).any(|w| w == b"the-end")),
        || follower.said(),
    );
    follower.stop();
    let file = fs::read(&out).expect("the output");
    assert_pushed_once(&file);
    assert_rebuilds(name, &file, &source);
}

#[test]
fn rewrites_of_redis_6_2_are_followed() {
    rewrites_of_one_file_are_followed("redis-6.2");
}

#[test]
fn rewrites_of_redis_5_0_are_followed() {
    rewrites_of_one_file_are_followed("redis-5.0");
}

#[test]
fn a_follower_may_be_killed_while_one_file_is_rewritten() {
    if !available("redis-6.2") {
        return;
    }
    let source = Server::with("redis-6.2", &LOGGED);
    let place = Place::new();
    let (out, log) = (place.path("out.resp"), log_of(&source, "redis-6.2"));
    let check = place.text("check");
    let args = [
        "--follow",
        "--checkpoint",
        &check,
        "--target-version",
        "6.2",
        text(&log),
    ];
    let mut client = source.client();
    for n in 0..300 {
        let key = format!("old:{n}");
        call!(client, "SET", key, "x");
    }
    let load = Load::start(source.port, 2);
    sleep(200);
    let follower = Follower::start(&args, appending(&out));
    follower.waits_to_say("caught up");
    // Six milliseconds a key.
    call!(client, "CONFIG", "SET", "rdb-key-save-delay", "6000");
    call!(client, "BGREWRITEAOF");
    // Long enough for a checkpoint behind the place from which on both files hold the same.
    sleep(900);
    follower.kill();
    // It begins in the middle of what both files will hold.
    let follower = Follower::start(&args, appending(&out));
    rewritten(&mut client);
    follower.waits_to_say("goes on in");
    load.stop();
    call!(client, "SET", "the-end", "1");
    until(
        SOON,
        || fs::read(&out).is_ok_and(|bytes| bytes.windows(7).any(|w| w == b"the-end")),
        || follower.said(),
    );
    follower.stop();
    let file = fs::read(&out).expect("the output");
    assert_pushed_once(&file);
    assert_rebuilds("redis-6.2", &file, &source);
}

/// A server whose log of one file begins with a snapshot and goes on with `SELECT 0` and `INCR n`, and its follower,
/// which does not see what the server does next.
fn rewritten_unseen(act: impl FnOnce(&Server, &mut Client)) -> Option<(Server, Follower, Output)> {
    if !available("redis-6.2") {
        return None;
    }
    let source = Server::with("redis-6.2", &LOGGED);
    rewrite(&source);
    let mut client = source.client();
    call!(client, "INCR", "n");
    let log = log_of(&source, "redis-6.2");
    let (follower, out) = Follower::piped(&["--follow", text(&log)]);
    let out = Output::of(out);
    until(
        SOON,
        || lossy(&out.now()).contains("INCR"),
        || follower.said(),
    );
    sleep(150);
    follower.pause();
    act(&source, &mut client);
    logged(&source);
    follower.signal("CONT");
    Some((source, follower, out))
}

#[test]
fn one_file_that_is_rewritten_at_rest_and_gets_more_is_followed() {
    let run = rewritten_unseen(|source, client| {
        rewrite(source);
        call!(client, "RPUSH", "list", "x");
    });
    if let Some((source, follower, out)) = run {
        until(
            SOON,
            || lossy(&out.now()).contains("RPUSH"),
            || follower.said(),
        );
        follower.stop();
        assert_rebuilds("redis-6.2", &out.now(), &source);
    }
}

#[test]
fn one_file_that_gets_the_same_again_after_a_rewrite_is_never_followed_wrongly() {
    // The old file ends with the very bytes with which the new one goes on, and they are not the same commands.
    let run = rewritten_unseen(|source, client| {
        rewrite(source);
        call!(client, "INCR", "n");
    });
    if let Some((source, mut follower, out)) = run {
        let before = out.now().len();
        until(
            SOON,
            || out.now().len() > before || !follower.is_running(),
            || "it neither goes on nor ends".to_owned(),
        );
        if follower.is_running() {
            follower.stop();
            assert_rebuilds("redis-6.2", &out.now(), &source);
        } else {
            let (code, said) = follower.end();
            assert_eq!(code, 5, "{said}");
            assert!(said.contains("cannot be told for certain"), "{said}");
        }
    }
}

/// A log of one file with this content, a follower that has caught up with it, and what that wrote.
struct Followed {
    place: Place,
    log: PathBuf,
    follower: Follower,
    out: Output,
    want: Vec<u8>,
}

impl Followed {
    fn new(first: &[&str]) -> Followed {
        let place = Place::new();
        let log = place.path("appendonly.aof");
        let want = cmds(first);
        fs::write(&log, &want).expect("a log");
        let (follower, out) = Follower::piped(&["--follow", text(&log)]);
        let out = Output::of(out);
        out.reaches_exactly(&want);
        Followed {
            place,
            log,
            follower,
            out,
            want,
        }
    }

    /// Appends to the log and sees it come out.
    fn goes_on(&mut self, words: &str) {
        append(&self.log, &cmd(words));
        self.want.extend(cmd(words));
        self.out.reaches_exactly(&self.want);
    }

    /// The run ends because the log cannot be followed; nothing but what was right is in the output.
    fn ends_refused(self, why: &str) {
        let (code, said) = self.follower.end();
        assert_eq!(code, 5, "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(lossy(&self.out.now()), lossy(&self.want));
    }

    fn cut(&self, len: usize) {
        let file = OpenOptions::new().write(true).open(&self.log).expect("it");
        file.set_len(len as u64).expect("a cut");
    }

    /// Does something while the follower does not look.
    fn unseen(&self, act: impl FnOnce()) {
        // Its output is here a moment before it has come to rest itself.
        sleep(500);
        self.follower.pause();
        act();
        self.follower.signal("CONT");
    }
}

#[test]
fn a_command_of_megabytes_is_followed_and_may_be_cut_off() {
    // Above four megabytes a unit goes through a temporary file.
    let mut run = Followed::new(&TWO);
    let large = cmd(&format!("SET large {}", "x".repeat(9 << 20)));
    for piece in large.chunks(2_000_000) {
        run.out.reaches_exactly(&run.want);
        append(&run.log, piece);
        sleep(20);
    }
    run.want.extend(&large);
    run.out.reaches_exactly(&run.want);
    run.goes_on("INCR b");
    // Half of it, which is cut off and replaced, seen and unseen.
    for seen in [true, false] {
        let whole = run.want.len();
        append(&run.log, &large[..6_000_000]);
        sleep(300);
        let other = cmd(&format!("SET other {}", "y".repeat(7 << 20)));
        if seen {
            run.cut(whole);
            sleep(200);
            append(&run.log, &other);
        } else {
            run.unseen(|| {
                run.cut(whole);
                append(&run.log, &other);
            });
        }
        run.want.extend(&other);
        run.out.reaches(run.want.len());
        assert!(run.out.now() == run.want, "seen: {seen}");
    }
    // A transaction of that size.
    let mut unit = cmd("MULTI");
    unit.extend(&large);
    append(&run.log, &unit);
    sleep(300);
    assert!(run.out.now() == run.want, "it is not whole yet");
    append(&run.log, &cmds(&["INCR b", "EXEC"]));
    run.want.extend(&unit);
    run.want.extend(cmds(&["INCR b", "EXEC"]));
    run.out.reaches(run.want.len());
    assert!(run.out.now() == run.want);
    run.goes_on("INCR b");
    run.follower.stop();
}

#[test]
fn a_reader_that_does_not_read_does_not_keep_a_signal_off() {
    let place = Place::new();
    let (log, check) = (place.path("appendonly.aof"), place.path("check"));
    let mut bytes = cmd("SELECT 0");
    for n in 0..4 {
        bytes.extend(cmd(&format!("SET key:{n} {}", "x".repeat(1 << 20))));
    }
    fs::write(&log, &bytes).expect("a log");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let (follower, out) = Follower::piped(&args);
    sleep(500);
    let start = Instant::now();
    follower.signal("TERM");
    let (code, said) = follower.end();
    assert_eq!(code, 143, "{said}");
    assert!(start.elapsed() < Duration::from_secs(4), "{said}");
    assert!(said.contains("waiting for"), "{said}");
    drop(out);
    // What did not get out is not told as written.
    let (follower, out) = Follower::piped(&args);
    let out = Output::of(out);
    out.reaches(bytes.len());
    assert!(out.now() == bytes, "{}", follower.said());
    follower.stop();
}

#[test]
fn a_log_at_rest_leaves_its_checkpoint_at_rest() {
    let place = Place::new();
    let (log, check) = (place.path("appendonly.aof"), place.path("check"));
    fs::write(&log, cmds(&TWO)).expect("a log");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let follower = Follower::start(&args, Stdio::null());
    follower.waits_to_say("caught up");
    sleep(700);
    let before = fs::read(&check).expect("a checkpoint");
    sleep(1300);
    // Each one is brought to disk: nobody shall be woken for nothing.
    assert!(fs::read(&check).expect("a checkpoint") == before);
    append(&log, &cmd("INCR b"));
    let len = fs::metadata(&log).expect("it").len();
    until(
        Duration::from_secs(2),
        || checkpoint(&check, "/log/offset") == len,
        || follower.said(),
    );
    follower.stop();
}

const TWO: [&str; 3] = ["SELECT 0", "SET a 1", "INCR b"];

#[test]
fn a_torn_part_that_is_cut_off_again_does_no_harm() {
    let mut run = Followed::new(&TWO);
    let whole = run.want.len();
    append(&run.log, &cmd("SET torn by-a-full-disk")[..20]);
    sleep(150);
    run.cut(whole);
    sleep(150);
    run.goes_on("SET c 1");
    // The same within a transaction, which is cut off as a whole.
    let whole = run.want.len();
    append(&run.log, &cmds(&["MULTI", "INCR x", "INCR y"]));
    sleep(150);
    run.cut(whole);
    sleep(150);
    run.goes_on("INCR d");
    run.follower.stop();
}

#[test]
fn a_torn_part_that_is_replaced_unseen_does_no_harm() {
    // A server that is started again cuts it off and appends; the follower may wait for its reader meanwhile.
    let mut run = Followed::new(&TWO);
    let whole = run.want.len();
    append(&run.log, &cmd("SET torn by-a-crash-of-the-server")[..31]);
    let words = ["SELECT 0", "SET c 1", "RPUSH list a b c d e"];
    // Database 0 is selected.
    let new = cmds(&words[1..]);
    run.unseen(|| {
        run.cut(whole);
        append(&run.log, &cmds(&words));
    });
    run.want.extend(&new);
    run.out.reaches_exactly(&run.want);
    run.goes_on("INCR d");
    // A transaction of which commands were whole.
    let whole = fs::metadata(&run.log).expect("it").len() as usize;
    append(&run.log, &cmds(&["MULTI", "INCR x"]));
    run.unseen(|| {
        run.cut(whole);
        append(&run.log, &cmds(&words));
    });
    run.want.extend(&new);
    run.out.reaches_exactly(&run.want);
    run.follower.stop();
}

#[test]
fn a_log_that_is_cut_into_what_was_taken_is_refused() {
    let run = Followed::new(&TWO);
    run.cut(run.want.len() - cmd("INCR b").len());
    run.ends_refused("was cut to");

    // It has grown again meanwhile, behind its first 4096 bytes: only the end of what was taken tells.
    let long = format!("SET long {}", "x".repeat(5000));
    let run = Followed::new(&["SELECT 0", &long, "SET a 1", "INCR b"]);
    run.unseen(|| {
        run.cut(run.want.len() - cmd("INCR b").len());
        append(&run.log, &cmds(&["INCR c", "INCR d"]));
    });
    run.ends_refused("other bytes");
}

#[test]
fn a_log_that_is_replaced_by_another_is_refused() {
    // Renamed into its place, and removed and created anew.
    let run = Followed::new(&TWO);
    let other = run.place.path("other");
    fs::write(
        &other,
        cmds(&["SELECT 0", "SET other 1", "SET log 2", "INCR b"]),
    )
    .expect("a file");
    fs::rename(&other, &run.log).expect("a rename");
    run.ends_refused("cannot be told for certain");

    // A snapshot, but not one that a server begins a log with.
    let run = Followed::new(&TWO);
    let other = run.place.path("other");
    fs::copy(fixture("mixed_redis-7.0_v10.rdb"), &other).expect("a copy");
    fs::rename(&other, &run.log).expect("a rename");
    run.ends_refused("does not begin with a snapshot as a log does");

    let run = Followed::new(&TWO);
    fs::remove_file(&run.log).expect("its end");
    sleep(100);
    fs::write(&run.log, cmds(&["SELECT 0", "SET other 1"])).expect("a file");
    run.ends_refused("cannot be told for certain");
}

#[test]
fn a_log_that_is_overwritten_in_its_place_is_refused() {
    // Longer than the one before, as `cp other.aof appendonly.aof` leaves it: only the bytes tell.
    let run = Followed::new(&TWO);
    run.unseen(|| {
        let mut other = cmds(&["SELECT 0", "SET x 9", "INCR z"]);
        assert_eq!(other.len(), run.want.len());
        other.extend(cmds(&["SET other 1", "SET log 2", "INCR b"]));
        fs::write(&run.log, other).expect("a file");
    });
    run.ends_refused("appendonly.aof");
}

#[test]
fn a_file_and_a_directory_may_appear_late() {
    let place = Place::new();
    let log = place.path("later/appendonly.aof");
    let (follower, out) = Follower::piped(&["--follow", text(&log)]);
    follower.waits_to_say("waiting for");
    fs::create_dir(place.path("later")).expect("a directory");
    sleep(100);
    // Empty at first, as a server creates it.
    fs::write(&log, "").expect("a file");
    sleep(100);
    append(&log, &cmds(&TWO));
    Output::of(out).reaches_exactly(&cmds(&TWO));
    follower.stop();

    // Half of its first command, so that not even its kind is clear.
    let log = place.path("half.aof");
    let (follower, out) = Follower::piped(&["--follow", text(&log)]);
    follower.waits_to_say("waiting for");
    append(&log, &cmds(&TWO)[..1]);
    sleep(150);
    append(&log, &cmds(&TWO)[1..]);
    Output::of(out).reaches_exactly(&cmds(&TWO));
    follower.stop();
}

#[test]
fn a_server_may_be_started_after_its_follower() {
    for name in ["redis-7.0", "redis-8.10", "valkey-9.1"] {
        if !available(name) {
            continue;
        }
        let source = Server::start(name);
        let log = log_of(&source, name);
        call!(source.client(), "SET", "before", "1");
        let (follower, out) = Follower::piped(&["--follow", text(&log)]);
        let out = Output::of(out);
        follower.waits_to_say("waiting for");
        // The directory appears, then the base, then the manifest.
        call!(source.client(), "CONFIG", "SET", "appendonly", "yes");
        call!(source.client(), "SET", "the-end", "1");
        until(
            SOON,
            || lossy(&out.now()).contains("the-end"),
            || follower.said(),
        );
        follower.stop();
        assert_rebuilds(name, &out.now(), &source);
    }
}

/// A directory with a manifest, a base and an incremental file, and its follower.
struct Parts {
    place: Place,
    want: Vec<u8>,
}

impl Parts {
    const MANIFEST: &str = "aof/a.aof.manifest";

    fn new() -> Parts {
        let place = Place::new();
        fs::create_dir(place.path("aof")).expect("a directory");
        let parts = Parts {
            place,
            want: [&cmds(&TWO)[..], &cmd("SET one 1")].concat(),
        };
        parts.write("a.aof.1.base.aof", &cmds(&TWO));
        parts.write("a.aof.1.incr.aof", &cmds(&["SELECT 0", "SET one 1"]));
        parts.list(&[
            "a.aof.1.base.aof seq 1 type b",
            "a.aof.1.incr.aof seq 1 type i",
        ]);
        parts
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a part");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path("aof").join(name)
    }

    /// Replaces the manifest as servers do.
    fn list(&self, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("file {line}\n")).collect();
        self.write("temp-a.aof.manifest", text.as_bytes());
        fs::rename(
            self.path("temp-a.aof.manifest"),
            self.place.path(Parts::MANIFEST),
        )
        .expect("a rename");
    }

    fn follow(&self) -> (Follower, Output) {
        let (follower, out) = Follower::piped(&["--follow", &self.place.text("aof")]);
        let out = Output::of(out);
        out.reaches_exactly(&self.want);
        (follower, out)
    }
}

#[test]
fn the_manifest_tells_what_comes_next() {
    let mut parts = Parts::new();
    let (follower, out) = parts.follow();
    // The end of the first file comes together with the second.
    append(&parts.path("a.aof.1.incr.aof"), &cmd("SET two 2"));
    parts.write("a.aof.2.incr.aof", b"");
    parts.list(&[
        "a.aof.1.base.aof seq 1 type b",
        "a.aof.1.incr.aof seq 1 type i",
        "a.aof.2.incr.aof seq 2 type i",
    ]);
    append(
        &parts.path("a.aof.2.incr.aof"),
        &cmds(&["SELECT 1", "SET three 3"]),
    );
    parts
        .want
        .extend(cmds(&["SET two 2", "SELECT 1", "SET three 3"]));
    out.reaches_exactly(&parts.want);
    // Its base, and an end of the old files; then another rewrite that fails and is tried again.
    parts.write(
        "a.aof.2.base.aof",
        &cmds(&["SELECT 0", "SET never-written 1"]),
    );
    parts.list(&[
        "a.aof.2.base.aof seq 2 type b",
        "a.aof.2.incr.aof seq 2 type i",
    ]);
    fs::remove_file(parts.path("a.aof.1.incr.aof")).expect("its end");
    fs::remove_file(parts.path("a.aof.1.base.aof")).expect("its end");
    sleep(100);
    parts.write("a.aof.3.incr.aof", b"");
    parts.write("a.aof.4.incr.aof", &cmds(&["SELECT 2", "SET four 4"]));
    parts.list(&[
        "a.aof.2.base.aof seq 2 type b",
        "a.aof.2.incr.aof seq 2 type i",
        "a.aof.3.incr.aof seq 3 type i",
        "a.aof.4.incr.aof seq 4 type i",
    ]);
    parts.want.extend(cmds(&["SELECT 2", "SET four 4"]));
    out.reaches_exactly(&parts.want);
    append(&parts.path("a.aof.4.incr.aof"), &cmd("SET five 5"));
    parts.want.extend(cmd("SET five 5"));
    out.reaches_exactly(&parts.want);
    follower.stop();
}

#[test]
fn parts_that_do_not_go_on_with_the_last_one_are_refused() {
    type Act = fn(&Parts);
    let cases: [(&str, i32, Act); 6] = [
        ("are missing", 5, |parts| {
            parts.write("a.aof.3.incr.aof", &cmds(&["SELECT 0", "SET x 1"]));
            parts.list(&[
                "a.aof.2.base.aof seq 2 type b",
                "a.aof.3.incr.aof seq 3 type i",
            ]);
        }),
        ("started anew", 5, |parts| {
            parts.list(&["a.aof.1.base.aof seq 1 type b"]);
        }),
        // A directory that was set up anew has files of the same names.
        ("a.aof.1.incr.aof", 5, |parts| {
            parts.write("new", &cmds(&["SELECT 0", "SET x 1"]));
            fs::rename(parts.path("new"), parts.path("a.aof.1.incr.aof")).expect("a rename");
        }),
        ("a.aof.1.incr.aof", 5, |parts| {
            fs::rename(parts.place.path("aof"), parts.place.path("old")).expect("a rename");
            fs::create_dir(parts.place.path("aof")).expect("a directory");
            parts.write("a.aof.1.base.aof", &cmds(&TWO));
            parts.write("a.aof.1.incr.aof", &cmds(&["SELECT 0", "SET x 1"]));
            parts.list(&[
                "a.aof.1.base.aof seq 1 type b",
                "a.aof.1.incr.aof seq 1 type i",
            ]);
        }),
        // The last command of a file that is not the last will never be whole.
        ("not the last file", 3, |parts| {
            append(&parts.path("a.aof.1.incr.aof"), &cmd("SET torn x")[..9]);
            parts.write("a.aof.2.incr.aof", b"");
            parts.list(&[
                "a.aof.1.incr.aof seq 1 type i",
                "a.aof.2.incr.aof seq 2 type i",
            ]);
        }),
        ("switched off", 5, |parts| {
            parts.list(&[
                "a.aof.1.base.aof seq 1 type b",
                "a.aof.1.incr.aof seq 1 type i startoffset 0 endoffset 70",
            ]);
            sleep(150);
            parts.write("a.aof.2.incr.aof", b"");
            // The server removed the old line together with its file.
            parts.list(&[
                "a.aof.2.base.aof seq 2 type b",
                "a.aof.2.incr.aof seq 2 type i startoffset 75",
            ]);
        }),
    ];
    for (why, exit, act) in cases {
        let parts = Parts::new();
        let (follower, out) = parts.follow();
        act(&parts);
        let (code, said) = follower.end();
        assert_eq!(code, exit, "{why}: {said}");
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(lossy(&out.now()), lossy(&parts.want));
    }
}

/// What becomes of a follower when its server's log is switched off and on again, and a key is written in between.
fn off_and_on_again(name: &str) -> Option<(i32, String)> {
    if !available(name) {
        return None;
    }
    let source = Server::with(name, &LOGGED);
    let mut client = source.client();
    call!(client, "SET", "before", "1");
    let (follower, out) = Follower::piped(&["--follow", text(&log_of(&source, name))]);
    let out = Output::of(out);
    until(
        SOON,
        || lossy(&out.now()).contains("before"),
        || follower.said(),
    );
    call!(client, "CONFIG", "SET", "appendonly", "no");
    sleep(100);
    call!(client, "SET", "between", "1");
    call!(client, "CONFIG", "SET", "appendonly", "yes");
    rewritten(&mut client);
    call!(client, "SET", "the-end", "1");
    let ended = follower.end();
    assert!(!lossy(&out.now()).contains("the-end"));
    Some(ended)
}

#[test]
fn a_log_that_was_switched_off_meanwhile_is_refused() {
    for name in ["redis-7.0", "redis-8.10", "valkey-9.1"] {
        if let Some((code, said)) = off_and_on_again(name) {
            assert_eq!(code, 5, "{name}: {said}");
            assert!(said.contains("switched off"), "{name}: {said}");
        }
    }
}

#[test]
fn signals_end_it_in_order_and_it_goes_on() {
    let place = Place::new();
    let (log, out) = (place.path("appendonly.aof"), place.path("out.resp"));
    let check = place.path("check");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let mut want = cmds(&["SELECT 3", "SET a 1"]);
    fs::write(&log, &want).expect("a log");
    for (signal, exit) in [("INT", 130), ("TERM", 143), ("INT", 130)] {
        let follower = Follower::start(&args, appending(&out));
        until(
            SOON,
            || fs::read(&out).expect("the output") == want,
            || follower.said(),
        );
        append(&log, &cmds(&["INCR n", "MULTI", "RPUSH list x"]));
        want.extend(cmd("INCR n"));
        until(
            SOON,
            || fs::read(&out).expect("the output") == want,
            || follower.said(),
        );
        let start = Instant::now();
        follower.signal(signal);
        let (code, said) = follower.end();
        assert!(start.elapsed() < Duration::from_secs(1), "{said}");
        assert_eq!(code, exit, "{said}");
        let line = format!(
            "convert --follow --checkpoint {} {}",
            text(&check),
            text(&log)
        );
        assert!(said.contains(&line), "{said}");
        assert!(!is_open(&check));
        assert_eq!(checkpoint(&check, "/log/db"), 3);
        // The half of a transaction is left to the next run, which sees its end.
        append(&log, &cmd("EXEC"));
        want.extend(cmds(&["MULTI", "RPUSH list x", "EXEC"]));
    }
    let follower = Follower::start(&args, appending(&out));
    until(
        SOON,
        || fs::read(&out).expect("the output") == want,
        || follower.said(),
    );
    follower.stop();
}

#[test]
fn a_signal_before_the_input_is_there_ends_it_too() {
    let place = Place::new();
    let follower = Follower::start(&["--follow", &place.text("none.aof")], Stdio::null());
    follower.waits_to_say("waiting for");
    follower.stop();
}

#[test]
fn a_signal_within_the_base_does_not_double_it() {
    // The base is in AOF form, of commands that must not be written twice.
    let parts = Parts::new();
    let mut base = cmd("SELECT 0");
    // The signal is looked for every tenth of a second.
    for n in 0..1_000_000 {
        base.extend(cmd(&format!("RPUSH list {n}")));
    }
    parts.write("a.aof.1.base.aof", &base);
    let (check, out) = (parts.place.path("check"), parts.place.path("out"));
    let log = parts.place.text("aof");
    let args = ["--follow", "--checkpoint", text(&check), &log];
    let mut follower = Follower::start(&args, appending(&out));
    until(
        SOON,
        || fs::metadata(&out).expect("it").len() > 0 || !follower.is_running(),
        || "nothing is written".to_owned(),
    );
    follower.stop();
    let written = fs::metadata(&out).expect("it").len();
    assert!(written < base.len() as u64, "it was too fast: {written}");
    let want = [&base[..], &cmd("SET one 1")].concat();
    let follower = Follower::start(&args, appending(&out));
    follower.waits_to_say("caught up");
    follower.stop();
    let got = fs::read(&out).expect("the output");
    assert!(got == want, "{} bytes, not {}", got.len(), want.len());
}

/// `sh -c` that redirects as a user would.
fn shell(script: &str, args: &[&str]) -> Run {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_redis-migration")])
        .args(args)
        .stdin(Stdio::null());
    let output = command.output().expect("a shell");
    Run {
        code: code(output.status),
        stdout: output.stdout,
        stderr: lossy(&output.stderr),
    }
}

#[test]
fn a_redirection_that_truncates_after_a_kill_is_refused_each_time() {
    let place = Place::new();
    let (log, out) = (place.path("appendonly.aof"), place.path("out.resp"));
    let check = place.path("check");
    fs::write(&log, cmds(&TWO)).expect("a log");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let follower = Follower::start(&args, File::create(&out).expect("an output"));
    until(
        SOON,
        || check.exists() && checkpoint(&check, "/output/bytes") == cmds(&TWO).len(),
        || follower.said(),
    );
    follower.kill();
    assert!(is_open(&check));
    let before = fs::read(&check).expect("a checkpoint");
    for follow in [true, true, false] {
        let flag = if follow { "--follow" } else { "--strict" };
        let run = shell(
            &format!("exec \"$0\" convert {flag} --checkpoint \"$1\" \"$2\" > \"$3\""),
            &[text(&check), text(&log), text(&out)],
        );
        assert_eq!(run.code, 5, "{}", run.stderr);
        assert!(run.stderr.contains(">>"), "{}", run.stderr);
        assert_eq!(fs::read(&out).expect("the output"), b"");
        assert!(fs::read(&check).expect("a checkpoint") == before);
    }
}

#[test]
fn a_pipe_after_a_kill_is_warned_of() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    let check = place.path("check");
    fs::write(&log, cmds(&TWO)).expect("a log");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let (follower, out) = Follower::piped(&args);
    Output::of(out).reaches_exactly(&cmds(&TWO));
    until(
        SOON,
        || check.exists() && checkpoint(&check, "/output/bytes") == cmds(&TWO).len(),
        || follower.said(),
    );
    follower.kill();
    append(&log, &cmd("INCR b"));
    let (follower, out) = Follower::piped(&args);
    // A new reader has nothing selected.
    Output::of(out).reaches_exactly(&cmds(&["SELECT 0", "INCR b"]));
    assert!(
        follower.said().contains("did not end in order"),
        "{}",
        follower.said()
    );
    follower.stop();
}

#[test]
fn a_command_that_is_refused_is_not_skipped_by_the_next_run() {
    for unit in [
        &["WHATEVER x"][..],
        &["MULTI", "INCR n", "WHATEVER x", "EXEC"],
    ] {
        let place = Place::new();
        let (log, out) = (place.path("appendonly.aof"), place.path("out.resp"));
        let check = place.path("check");
        let args = ["--follow", "--checkpoint", text(&check), text(&log)];
        fs::write(&log, cmds(&TWO)).expect("a log");
        let mut want = cmds(&TWO);
        let follower = Follower::start(&args, appending(&out));
        follower.waits_to_say("caught up");
        append(&log, &[cmd("INCR a"), cmds(unit), cmd("INCR z")].concat());
        want.extend(cmd("INCR a"));
        let (code, said) = follower.end();
        assert_eq!(code, 5, "{said}");
        assert!(said.contains("WHATEVER"), "{said}");
        assert_eq!(lossy(&fs::read(&out).expect("it")), lossy(&want));
        // Again, and the same: it is never passed over.
        let (code, said) = Follower::start(&args, appending(&out)).end();
        assert_eq!(code, 5, "{said}");
        assert!(said.contains("WHATEVER"), "{said}");
        assert_eq!(lossy(&fs::read(&out).expect("it")), lossy(&want));
        let pass = [&args[..], &["--unknown-commands", "pass"]].concat();
        let follower = Follower::start(&pass, appending(&out));
        want.extend(cmds(unit));
        want.extend(cmd("INCR z"));
        until(
            SOON,
            || fs::read(&out).expect("the output").len() >= want.len(),
            || follower.said(),
        );
        assert_eq!(lossy(&fs::read(&out).expect("it")), lossy(&want));
        follower.stop();
    }
}

#[test]
fn an_output_that_is_full_leaves_no_hole() {
    let place = Place::new();
    let (log, out) = (place.path("appendonly.aof"), place.path("out.resp"));
    let check = place.path("check");
    let mut bytes = cmd("SELECT 0");
    for n in 0..2000 {
        bytes.extend(cmd(&format!("RPUSH list {n}")));
    }
    fs::write(&log, &bytes).expect("a log");
    for flags in ["--follow", "--strict"] {
        let _ = fs::remove_file(&check);
        let _ = fs::remove_file(&out);
        // A limit of the shell stands for a disk that is full.
        let run = shell(
            "trap '' XFSZ; ulimit -f 16; exec \"$0\" convert \"$4\" --checkpoint \"$1\" \"$2\" >> \"$3\"",
            &[text(&check), text(&log), text(&out), flags],
        );
        assert_eq!(run.code, 74, "{flags}: {}", run.stderr);
        let args = ["--follow", "--checkpoint", text(&check), text(&log)];
        let follower = Follower::start(&args, appending(&out));
        until(
            SOON,
            || fs::metadata(&out).expect("it").len() >= bytes.len() as u64,
            || follower.said(),
        );
        follower.stop();
        assert!(fs::read(&out).expect("the output") == bytes, "{flags}");
    }
}

#[test]
fn a_reader_that_goes_away_leaves_no_hole() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    let check = place.path("check");
    fs::write(&log, cmds(&TWO)).expect("a log");
    let args = ["--follow", "--checkpoint", text(&check), text(&log)];
    let (follower, mut out) = Follower::piped(&args);
    let mut first = vec![0; cmds(&TWO).len()];
    out.read_exact(&mut first).expect("the first commands");
    follower.waits_to_say("caught up");
    drop(out);
    append(&log, &cmd("SET nobody reads"));
    let (code, said) = follower.end();
    assert_eq!(code, 141, "{said}");
    let (follower, out) = Follower::piped(&args);
    let out = Output::of(out);
    until(
        SOON,
        || lossy(&out.now()).contains("nobody"),
        || format!("it was lost: {}", follower.said()),
    );
    follower.stop();
}

/// Converts what is new into a part of its own.
fn delta(args: &[&str], part: &Path) -> (i32, String) {
    Follower::start(args, File::create(part).expect("a part")).end()
}

fn deltas_add_up(name: &str, by_name: bool) {
    if !available(name) {
        return;
    }
    let source = Server::with(name, &LOGGED);
    let place = Place::new();
    let (log, check) = (log_of(&source, name), place.text("check"));
    let version = name.strip_prefix("redis-").unwrap_or(name);
    let args = [
        "--checkpoint",
        &check,
        "--target-version",
        version,
        text(&log),
    ];
    let mut all = Vec::new();
    let part = place.path("part");
    let take = || {
        logged(&source);
        let (code, said) = if by_name {
            let named = [&args[..], &["-o", text(&part), "--force"]].concat();
            Follower::start(&named, Stdio::null()).end()
        } else {
            delta(&args, &part)
        };
        assert_eq!(code, 0, "{said}");
        assert!(!is_open(Path::new(&check)));
        fs::read(&part).expect("a part")
    };
    for n in 0..4 {
        let load = Load::start(source.port, 2);
        sleep(150);
        // While the server writes, and when it is at rest.
        if n % 2 == 0 {
            all.extend(take());
        }
        load.stop();
        // Keys that expire would be something new.
        forget_ephemeral(&source);
        all.extend(take());
        assert_eq!(lossy(&take()), "", "there is nothing new");
        // In the last database as well as in the first: a part begins with its own SELECT.
        let mut client = source.client();
        let db = (n % 3).to_string();
        call!(client, "SELECT", db);
        call!(client, "INCR", "a-part");
    }
    all.extend(take());
    assert_pushed_once(&all);
    assert_rebuilds(name, &all, &source);
}

#[test]
fn deltas_of_redis_7_0_add_up() {
    deltas_add_up("redis-7.0", false);
}

#[test]
fn deltas_into_a_named_file_add_up() {
    deltas_add_up("redis-8.10", true);
}

#[test]
fn deltas_of_one_file_add_up() {
    deltas_add_up("redis-6.2", false);
}

/// A rewrite, and then as many as are asked for, each waited for until the server has removed its old file.
fn rewrite_and_remove(source: &Server, old: &str) {
    rewrite(source);
    let old = source.dir().join("appendonlydir").join(old);
    until(SOON, || !old.exists(), || "the old file stays".to_owned());
}

#[test]
fn a_delta_bridges_a_rewrite() {
    let source = Server::with("redis-7.0", &LOGGED);
    let place = Place::new();
    let (log, check) = (log_of(&source, "redis-7.0"), place.text("check"));
    let args = ["--checkpoint", &check, text(&log)];
    let mut all = Vec::new();
    for n in 1..4 {
        for key in ["n", "m"] {
            call!(source.client(), "INCR", key);
        }
        let (code, said) = delta(&args, &place.path("part"));
        assert_eq!(code, 0, "{said}");
        all.extend(fs::read(place.path("part")).expect("a part"));
        // What comes now goes to a file that is gone before the next delta.
        call!(source.client(), "INCR", "n");
        rewrite_and_remove(&source, &format!("appendonly.aof.{n}.incr.aof"));
    }
    let (code, said) = delta(&args, &place.path("part"));
    assert_eq!(code, 0, "{said}");
    all.extend(fs::read(place.path("part")).expect("a part"));
    assert_eq!(lossy(&all).matches("INCR").count(), 9);
    assert_rebuilds("redis-7.0", &all, &source);
}

#[test]
fn a_delta_after_rewrites_that_took_its_place_away_is_refused() {
    for name in ["redis-7.0", "redis-6.2"] {
        if !available(name) {
            continue;
        }
        let source = Server::with(name, &LOGGED);
        let place = Place::new();
        let (log, check) = (log_of(&source, name), place.text("check"));
        let args = ["--checkpoint", &check, text(&log)];
        call!(source.client(), "INCR", "n");
        logged(&source);
        let (code, said) = delta(&args, &place.path("part"));
        assert_eq!(code, 0, "{said}");
        call!(source.client(), "INCR", "n");
        for old in [1, 2] {
            rewrite_and_remove(&source, &format!("appendonly.aof.{old}.incr.aof"));
        }
        for _ in 0..2 {
            let (code, said) = delta(&args, &place.path("part"));
            assert_eq!(code, 5, "{said}");
            assert!(said.contains("remove the checkpoint"), "{said}");
            assert_eq!(fs::read(place.path("part")).expect("it"), b"");
        }
    }
}

#[test]
fn a_torn_tail_is_left_to_the_next_delta() {
    let place = Place::new();
    let (log, part) = (place.path("appendonly.aof"), place.path("part"));
    let check = place.text("check");
    let args = ["--checkpoint", &check, text(&log)];
    let torn = cmds(&["MULTI", "INCR x", "INCR y", "EXEC"]);
    let mut bytes = cmds(&["SELECT 1", "SET a 1"]);
    let mut want = bytes.clone();
    let mut done = 0;
    for cut in (0..torn.len()).step_by(7) {
        bytes.truncate(done);
        bytes.extend(&want[done..]);
        bytes.extend(&torn[..cut]);
        fs::write(&log, &bytes).expect("a log");
        let (code, said) = delta(&args, &part);
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.contains("left to the next run"), cut > 0, "{said}");
        let got = fs::read(&part).expect("a part");
        let new = [&cmd("SELECT 1")[..], &want[done..]].concat();
        let new = if done == 0 { want.clone() } else { new };
        assert_eq!(lossy(&got), lossy(&new));
        done = want.len();
        want.extend(&torn);
    }
}

#[test]
fn what_is_not_the_same_any_more_is_refused_and_never_started_anew() {
    let first = cmds(&["SELECT 0", "SET a 1", "SET b 2"]);
    type Act = fn(&Path, &Path, &[u8]);
    let cases: [(&str, Act); 8] = [
        ("its inode is", |log, _, bytes| {
            let copy = log.with_extension("copy");
            fs::write(&copy, bytes).expect("a copy");
            fs::rename(&copy, log).expect("a rename");
        }),
        ("bytes differ", |log, _, bytes| {
            let mut other = bytes.to_vec();
            other.extend(cmd("SET c 3"));
            let place = other.len() - bytes.len();
            other[place] ^= 1;
            let end = other.windows(1).rposition(|w| w == b"2").expect("a digit");
            other[end] = b'9';
            fs::write(log, other).expect("other bytes");
        }),
        ("were read already", |log, _, bytes| {
            fs::write(log, &bytes[..bytes.len() - 4]).expect("a shorter file");
        }),
        ("not whole JSON", |_, check, _| {
            fs::write(check, "garbage").expect("garbage")
        }),
        ("is empty", |_, check, _| {
            fs::write(check, "").expect("garbage")
        }),
        ("not whole JSON", |_, check, _| {
            let text = fs::read(check).expect("a checkpoint");
            fs::write(check, &text[..text.len() / 2]).expect("half of it");
        }),
        ("was not written by", |_, check, _| {
            fs::write(check, "{}").expect("another")
        }),
        ("format", |_, check, _| {
            let text = fs::read_to_string(check).expect("a checkpoint");
            let later = text.replace("\"format\": 1", "\"format\": 2");
            assert_ne!(later, text);
            fs::write(check, later).expect("a later one");
        }),
    ];
    for (why, act) in cases {
        let place = Place::new();
        let (log, check) = (place.path("appendonly.aof"), place.path("check"));
        let args = ["--checkpoint", text(&check), text(&log)];
        fs::write(&log, &first).expect("a log");
        let (code, said) = delta(&args, &place.path("part"));
        assert_eq!(code, 0, "{said}");
        act(&log, &check, &first);
        let before = fs::read(&check).expect("a checkpoint");
        for follow in [&[][..], &["--follow"], &["--follow"]] {
            let (code, said) = delta(&[&args[..], follow].concat(), &place.path("part"));
            assert_eq!(code, 5, "{why} {follow:?}: {said}");
            assert!(said.contains(why), "{why}: {said}");
            assert_eq!(fs::read(place.path("part")).expect("it"), b"");
            let after = fs::read(&check).expect("a checkpoint");
            assert!(
                after == before,
                "{why} {follow:?}: the checkpoint was overwritten"
            );
        }
    }
}

#[test]
fn an_output_that_holds_something_else_gets_its_own_select() {
    // What another run, or another program, left in the output selects what it likes.
    let place = Place::new();
    let (log, check) = (place.path("appendonly.aof"), place.text("check"));
    let args = ["--checkpoint", &check, text(&log)];
    fs::write(&log, cmds(&["SELECT 2", "SET a 1"])).expect("a log");
    let (one, two) = (place.path("one"), place.path("two"));
    assert_eq!(Follower::start(&args, appending(&one)).end().0, 0);
    append(&log, &cmd("SET b 2"));
    let other = cmds(&["SELECT 7", "SET other 1"]);
    append(&two, &other);
    assert_eq!(Follower::start(&args, appending(&two)).end().0, 0);
    let want = [other.clone(), cmds(&["SELECT 2", "SET b 2"])].concat();
    assert_eq!(lossy(&fs::read(&two).expect("it")), lossy(&want));
    // The same file, with something behind what this program wrote.
    append(&log, &cmd("SET c 3"));
    append(&two, &other);
    assert_eq!(Follower::start(&args, appending(&two)).end().0, 0);
    let want = [want, other, cmds(&["SELECT 2", "SET c 3"])].concat();
    assert_eq!(lossy(&fs::read(&two).expect("it")), lossy(&want));
    // Nothing came between: none is needed.
    append(&log, &cmd("SET d 4"));
    assert_eq!(Follower::start(&args, appending(&two)).end().0, 0);
    let want = [want, cmd("SET d 4")].concat();
    assert_eq!(lossy(&fs::read(&two).expect("it")), lossy(&want));
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_with_74() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    fs::write(&log, cmds(&TWO)).expect("a log");
    let part = place.path("part");
    for check in [
        place.text("no/such/check"),
        "/dev/full".to_owned(),
        place.text(""),
    ] {
        let (code, said) = delta(&["--checkpoint", &check, text(&log)], &part);
        assert_eq!(
            code,
            if check == "/dev/full" { 5 } else { 74 },
            "{check}: {said}"
        );
        let (code, said) = delta(&["--follow", "--checkpoint", &check, text(&log)], &part);
        assert_eq!(
            code,
            if check == "/dev/full" { 5 } else { 74 },
            "{check}: {said}"
        );
    }
}

#[test]
fn a_disk_that_is_too_full_for_the_checkpoint_ends_with_74() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    fs::write(&log, cmds(&TWO)).expect("a log");
    fs::create_dir(place.path("tiny")).expect("a directory");
    let (tiny, part) = (place.text("tiny"), place.text("part"));
    let check = place.text("tiny/check");
    let args = [&tiny, &check, text(&log), &part];
    // A file system of the shell's own, which goes when that ends.
    let run = shell(
        "exec unshare -rm sh -c 'mount -t tmpfs -o size=8k tmpfs \"$1\" || exit 99
         head -c 9000 /dev/zero > \"$1/filler\" 2>&-
         \"$0\" convert --checkpoint \"$2\" \"$3\" > \"$4\"' \"$0\" \"$@\"",
        &args,
    );
    if run.code == 99 || run.stderr.contains("unshare") {
        println!(
            "SKIPPED: no file system can be mounted here: {}",
            run.stderr
        );
        return;
    }
    assert_eq!(run.code, 74, "{}", run.stderr);
    assert!(run.stderr.contains("check"), "{}", run.stderr);
    let out = fs::read(place.path("part")).expect("a part");
    assert!(cmds(&TWO).starts_with(&out), "{}", lossy(&out));
}

#[test]
fn a_snapshot_without_a_log_is_nothing_to_go_on_with() {
    let place = Place::new();
    let base = "appendonly.aof.1.base.rdb";
    fs::copy(fixture("mixed_redis-7.0_v10.rdb"), place.path(base)).expect("a copy");
    let manifest = place.text("appendonly.aof.manifest");
    fs::write(&manifest, format!("file {base} seq 1 type b\n")).expect("a manifest");
    let check = place.text("check");
    for flags in [&["--follow"][..], &["--checkpoint", &check]] {
        for input in [&place.text(base), &manifest] {
            let run = convert(&[flags, &[input]].concat());
            assert_eq!((run.code, run.stdout.len()), (3, 0), "{}", run.stderr);
            assert!(
                run.stderr.contains("nothing to go on with"),
                "{}",
                run.stderr
            );
            assert!(!place.path("check").exists());
        }
    }
}

#[test]
fn what_cannot_be_followed_is_wrong_usage() {
    let place = Place::new();
    let log = place.path("appendonly.aof");
    let whole = cmds(&TWO);
    fs::write(&log, &whole).expect("a log");
    let check = place.text("check");
    for flags in [&["--follow"][..], &["--checkpoint", &check]] {
        let twice = [text(&log), text(&log)];
        let two = [flags, &twice].concat();
        assert_eq!(convert(&two).code, 2);
        let stdin = [&["convert"][..], flags, &["-"]].concat();
        assert_eq!(run(&stdin, Some(&whole)).code, 2);
    }
    assert!(!place.path("check").exists());
}
