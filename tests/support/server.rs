//! Real servers, each in a directory and on a port of its own, ended when the test is.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis_migration::aof::manifest::Manifest;
use rustix::process::{Pid, Signal};

use super::client::{Client, call};
use super::text;

/// A running Redis or Valkey.
pub(crate) struct Server {
    /// Behind a lock, so that a server that others borrow can be killed and started again.
    child: Mutex<Child>,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    name: String,
    options: Vec<String>,
}

/// Whether `tests/install-servers` could get this server. One that it could not get is skipped aloud.
pub(crate) fn available(name: &str) -> bool {
    let there = starter(name).exists();
    if !there {
        println!("SKIPPED: {name} is not installed");
    }
    there
}

/// The program that starts this server.
pub(crate) fn starter(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/servers/bin")
        .join(name)
}

impl Server {
    /// Starts `redis-7.0`, `valkey-9.1` or another of `target/servers/bin`.
    pub(crate) fn start(name: &str) -> Server {
        Server::with(name, &[])
    }

    /// As [`Server::start`], with further options of the server.
    pub(crate) fn with(name: &str, options: &[&str]) -> Server {
        Server::prepared(name, options, |_| {})
    }

    /// Starts a server that loads a snapshot, as its own or an older one's, by its own loader.
    pub(crate) fn on_snapshot(name: &str, snapshot: &Path) -> Server {
        Server::prepared(name, &[], |dir| {
            std::fs::copy(snapshot, dir.join("dump.rdb")).expect("a copy of the snapshot");
        })
    }

    /// Starts a server that loads a log, a file or a directory of several, and goes on with it.
    pub(crate) fn on_log(name: &str, log: &Path, options: &[&str]) -> Server {
        let file_name = if log.is_dir() {
            let manifest = Manifest::find(log).expect("a manifest");
            let name = manifest.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.strip_suffix(".manifest"))
                .expect("the name of a manifest")
                .to_owned()
        } else {
            "appendonly.aof".to_owned()
        };
        let options = [
            &["--appendonly", "yes", "--appendfilename", &file_name],
            options,
        ]
        .concat();
        Server::prepared(name, &options, |dir| {
            if log.is_dir() {
                copy_dir(log, &dir.join("appendonlydir"));
            } else {
                std::fs::copy(log, dir.join(&file_name)).expect("a copy of the log");
            }
        })
    }

    /// Starts a server that writes a log, in which everything is that it has answered: with `everysec` it would let
    /// commands wait while older ones are on their way to the disk.
    pub(crate) fn logging(name: &str, options: &[&str]) -> Server {
        let log = ["--appendonly", "yes", "--appendfsync", "no"];
        Server::with(name, &[&log, options].concat())
    }

    /// Has a log written anew, and waits until it is.
    pub(crate) fn rewrite_log(&self) {
        let mut client = self.client();
        call!(client, "BGREWRITEAOF");
        loop {
            let info = call!(client, "INFO", "persistence").text();
            if info.contains("aof_rewrite_in_progress:0")
                && info.contains("aof_rewrite_scheduled:0")
            {
                assert!(info.contains("aof_last_bgrewrite_status:ok"), "{info}");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The log of a server: its file, or the directory of its parts.
    pub(crate) fn log(&self) -> PathBuf {
        let dir = self.dir.path().join("appendonlydir");
        if dir.exists() {
            dir
        } else {
            self.dir.path().join("appendonly.aof")
        }
    }

    fn prepared(name: &str, options: &[&str], prepare: impl Fn(&Path)) -> Server {
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a directory for the server");
            prepare(dir.path());
            let port = free_port();
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            let server = Server {
                child: Mutex::new(spawn(name, port, dir.path(), &options)),
                dir,
                port,
                name: name.to_owned(),
                options,
            };
            if server.is_ready() {
                return server;
            }
        }
        panic!("{name} did not start");
    }

    /// Waits until the process that was started answers. Another process may have taken the port meanwhile, so the
    /// process id is asked for.
    fn is_ready(&self) -> bool {
        let end = Instant::now() + Duration::from_secs(30);
        let own = format!("process_id:{}\r", self.pid());
        while Instant::now() < end && is_alive(&self.child) {
            if let Ok(mut client) = Client::connect(self.port)
                && let Ok(reply) = client.try_call(&[b"INFO"])
                && let super::client::Reply::Bulk(Some(info)) = reply
            {
                let info = String::from_utf8_lossy(&info);
                if !info.contains(&own) {
                    return false;
                }
                // It answers while it loads a log, but not everything.
                if info.contains("\nloading:0\r") {
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().expect("no other panic").id()
    }

    /// Whether the process has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        is_alive(&self.child)
    }

    /// Ends the process as a power cut does: nothing is written any more.
    pub(crate) fn kill(&self) {
        kill(&self.child);
    }

    /// Starts a killed server again, on its port and in its directory, and waits until it has loaded what it finds
    /// there.
    pub(crate) fn restart(&self) {
        for _ in 0..20 {
            self.respawn(&[]);
            if self.is_ready() {
                return;
            }
            kill(&self.child);
        }
        panic!("{} did not start again on port {}", self.name, self.port);
    }

    /// Starts a killed server again with further options, and does not wait.
    pub(crate) fn respawn(&self, options: &[&str]) {
        let mut child = self.child.lock().expect("no other panic");
        let mut all = self.options.clone();
        all.extend(options.iter().map(|option| (*option).to_owned()));
        *child = spawn(&self.name, self.port, self.dir.path(), &all);
    }

    /// Stops the process as it stands: its connections stay, and nothing is answered.
    pub(crate) fn pause(&self) {
        signal(&self.child, Signal::STOP);
    }

    /// Lets a stopped process go on.
    pub(crate) fn resume(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Sets one of the server's options while it runs.
    pub(crate) fn set(&self, option: &str, value: &str) {
        call!(self.client(), "CONFIG", "SET", option, value);
    }

    /// Writes `dump.rdb` into the server's directory and tells where it is.
    pub(crate) fn save(&self) -> PathBuf {
        call!(self.client(), "SAVE");
        self.dir.path().join("dump.rdb")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).expect("a connection to a server that runs")
    }

    /// The server's working directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes the server hold what a snapshot holds, and nothing else, by its own loader (Redis 7.0 on).
    pub(crate) fn load(&self, snapshot: &Path) {
        self.flush();
        std::fs::copy(snapshot, self.dir.path().join("dump.rdb")).expect("a copy of the snapshot");
        let reply = self.client().try_call(&[b"DEBUG", b"RELOAD", b"NOSAVE"]);
        if !matches!(&reply, Ok(super::client::Reply::Status(ok)) if ok == "OK") {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(6).collect();
            panic!(
                "the server does not load {}: {reply:?}\n{}",
                snapshot.display(),
                tail.join("\n")
            );
        }
    }

    /// Forgets all keys and functions.
    pub(crate) fn flush(&self) {
        let mut client = self.client();
        call!(client, "FLUSHALL");
        // Servers older than 7.0 have no functions and say so.
        let _ = client.try_call(&[b"FUNCTION", b"FLUSH"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&self.child);
    }
}

/// Starts a server's process.
fn spawn(name: &str, port: u16, dir: &Path, options: &[String]) -> Child {
    let major: u32 = name
        .split(['-', '.'])
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a version in the name");
    let mut command = Command::new(starter(name));
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--dir",
        text(dir),
        "--save",
        "",
    ]);
    command.args(["--logfile", "log"]);
    if major >= 7 {
        command.args(["--enable-debug-command", "yes"]);
    }
    let child = command
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.unwrap_or_else(|error| panic!("{name}: {error}; run tests/install-servers first"))
}

/// Whether a process has not ended by itself.
fn is_alive(child: &Mutex<Child>) -> bool {
    let mut child = child.lock().expect("no other panic");
    child.try_wait().expect("the state of a child").is_none()
}

fn signal(child: &Mutex<Child>, signal: Signal) {
    let mut child = child.lock().expect("no other panic");
    // The number of a process that has ended may be another's by now.
    let ended = child.try_wait().expect("the state of a child");
    assert_eq!(ended, None, "the process has ended");
    rustix::process::kill_process(Pid::from_child(&child), signal).expect("a process that runs");
}

/// Ends a process and waits until it is gone. A panic elsewhere must not leave it behind.
fn kill(child: &Mutex<Child>) {
    let mut child = child
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let _ = child.kill();
    let _ = child.wait();
}

/// Copies a directory of files.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// A twemproxy in front of servers.
pub(crate) struct Nutcracker {
    child: Mutex<Child>,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) stats_port: u16,
    options: Vec<String>,
}

impl Nutcracker {
    pub(crate) fn over(servers: &[&Server]) -> Nutcracker {
        Nutcracker::with(servers, &[], &[])
    }

    /// As [`Nutcracker::over`], with further settings of the pool, such as `("server_connections", "4")`, and options
    /// of the program, such as `-m 512`.
    pub(crate) fn with(
        servers: &[&Server],
        settings: &[(&str, &str)],
        options: &[&str],
    ) -> Nutcracker {
        let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
        Nutcracker::over_ports(&ports, settings, options)
    }

    /// As [`Nutcracker::with`], in front of anything that listens, such as relays to servers.
    pub(crate) fn over_ports(
        ports: &[u16],
        settings: &[(&str, &str)],
        options: &[&str],
    ) -> Nutcracker {
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a directory for the proxy");
            let (port, stats_port) = (free_port(), free_port());
            let mut pool = vec![
                ("hash", "fnv1a_64"),
                ("distribution", "ketama"),
                ("redis", "true"),
            ];
            pool.retain(|(name, _)| settings.iter().all(|(other, _)| other != name));
            pool.extend(settings);
            let mut config = format!("alpha:\n  listen: 127.0.0.1:{port}\n");
            for (name, value) in pool {
                config += &format!("  {name}: {value}\n");
            }
            config += "  servers:\n";
            for (i, server) in ports.iter().enumerate() {
                config += &format!("   - 127.0.0.1:{server}:1 s{i}\n");
            }
            std::fs::write(dir.path().join("nutcracker.yml"), &config)
                .expect("the proxy's configuration");
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            let proxy = Nutcracker {
                child: Mutex::new(spawn_proxy(dir.path(), stats_port, &options)),
                dir,
                port,
                stats_port,
                options,
            };
            if proxy.is_ready() {
                return proxy;
            }
        }
        panic!("nutcracker did not start");
    }

    fn is_ready(&self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end && is_alive(&self.child) {
            // PING is answered by the proxy itself; with a password it says that it wants one.
            if let Ok(mut client) = Client::connect(self.port)
                && client.try_call(&[b"PING"]).is_ok()
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Ends the proxy at once; its clients see their connections reset or closed.
    pub(crate) fn kill(&self) {
        kill(&self.child);
    }

    /// Starts a killed proxy again on its port.
    pub(crate) fn restart(&self) {
        for _ in 0..20 {
            *self.child.lock().expect("no other panic") =
                spawn_proxy(self.dir.path(), self.stats_port, &self.options);
            if self.is_ready() {
                return;
            }
            kill(&self.child);
        }
        panic!("nutcracker did not start again on port {}", self.port);
    }

    /// Where the proxy tells its statistics.
    pub(crate) fn stats_address(&self) -> String {
        format!("127.0.0.1:{}", self.stats_port)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).expect("a connection to a proxy that runs")
    }
}

impl Drop for Nutcracker {
    fn drop(&mut self) {
        kill(&self.child);
    }
}

fn spawn_proxy(dir: &Path, stats_port: u16, options: &[String]) -> Child {
    let child = Command::new(starter("nutcracker"))
        .args(["-c", text(&dir.join("nutcracker.yml"))])
        .args(["-s", &stats_port.to_string(), "-a", "127.0.0.1"])
        .args(["-i", "1000", "-o", text(&dir.join("log")), "-v", "6"])
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.unwrap_or_else(|error| panic!("nutcracker: {error}; run tests/install-servers first"))
}

/// A port nobody listens on. They are taken in turn from below the range from which the system gives ports to
/// outgoing connections, because tests run beside one another and each opens many.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + ((std::process::id() * 97 + turn) % 12_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
