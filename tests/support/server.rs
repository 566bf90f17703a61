//! Real servers, each in a directory and on a port of its own, ended when the test is.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis_migration::aof::manifest::Manifest;

use super::client::{Client, call};
use super::text;

/// A running Redis or Valkey.
pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
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
        let major: u32 = name
            .split(['-', '.'])
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a version in the name");
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a directory for the server");
            prepare(dir.path());
            let port = free_port();
            let mut command = Command::new(starter(name));
            command.args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--dir",
                text(dir.path()),
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
            let child = child
                .unwrap_or_else(|error| panic!("{name}: {error}; run tests/install-servers first"));
            let mut server = Server { child, dir, port };
            if server.is_ready() {
                return server;
            }
        }
        panic!("{name} did not start");
    }

    /// Waits until the process that was started answers. Another process may have taken the port meanwhile, so the
    /// process id is asked for.
    fn is_ready(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(30);
        let own = format!("process_id:{}\r", self.child.id());
        while Instant::now() < end
            && self
                .child
                .try_wait()
                .expect("the state of a child")
                .is_none()
        {
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    child: Child,
    _dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) stats_port: u16,
}

impl Nutcracker {
    pub(crate) fn over(servers: &[&Server]) -> Nutcracker {
        Nutcracker::with(servers, "")
    }

    /// As [`Nutcracker::over`], with further lines of its pool's configuration.
    pub(crate) fn with(servers: &[&Server], lines: &str) -> Nutcracker {
        for _ in 0..5 {
            let dir = tempfile::tempdir().expect("a directory for the proxy");
            let (port, stats) = (free_port(), free_port());
            let mut config = format!(
                "alpha:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n{lines}  servers:\n"
            );
            for (i, server) in servers.iter().enumerate() {
                config += &format!("   - 127.0.0.1:{}:1 s{i}\n", server.port);
            }
            let file = dir.path().join("nutcracker.yml");
            std::fs::write(&file, config).expect("the proxy's configuration");
            let child = Command::new(starter("nutcracker"))
                .args([
                    "-c",
                    text(&file),
                    "-s",
                    &stats.to_string(),
                    "-a",
                    "127.0.0.1",
                    "-i",
                    "1000",
                ])
                .args(["-o", text(&dir.path().join("log")), "-v", "6"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let child = child.unwrap_or_else(|error| {
                panic!("nutcracker: {error}; run tests/install-servers first")
            });
            let mut proxy = Nutcracker {
                child,
                _dir: dir,
                port,
                stats_port: stats,
            };
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end
                && proxy
                    .child
                    .try_wait()
                    .expect("the state of a child")
                    .is_none()
            {
                // PING is answered by the proxy itself.
                if let Ok(mut client) = Client::connect(port)
                    && client.try_call(&[b"PING"]).is_ok()
                {
                    return proxy;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        panic!("nutcracker did not start");
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.port).expect("a connection to a proxy that runs")
    }
}

impl Drop for Nutcracker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
