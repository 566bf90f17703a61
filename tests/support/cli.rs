//! Runs the program and keeps what came out of it.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// As a shell tells it: the exit code, or 128 and the signal's number.
    pub(crate) code: i32,
}

/// The program with its arguments. Its environment is the test's, without the variables that change its output.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-migration"));
    command
        .args(args)
        .env_remove("NO_COLOR")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

/// `redis-migration convert ARGS`.
pub(crate) fn convert(args: &[&str]) -> Run {
    run(&[&["convert"], args].concat(), None)
}

/// As [`convert`], for runs that must do all they were asked.
pub(crate) fn converted(args: &[&str]) -> Vec<u8> {
    let run = convert(args);
    assert_eq!(run.code, 0, "convert {args:?}: {}", run.stderr);
    run.stdout
}

/// `redis-migration convert ARGS` of a log in a file of its own.
pub(crate) fn convert_log(bytes: &[u8], args: &[&str]) -> Run {
    let (_dir, path) = super::log_file(bytes);
    convert(&[args, &[super::text(&path)]].concat())
}

/// What the program makes of a log whose commands stand between `|`.
pub(crate) fn convert_lines(script: &str, args: &[&str]) -> Run {
    convert_log(&super::resp::log_of(script), args)
}

/// As [`convert_lines`], for runs that must do all they were asked; the commands in the same form.
pub(crate) fn becomes(script: &str, args: &[&str]) -> String {
    let run = convert_lines(script, args);
    assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
    super::resp::lines(&run.stdout).join("|")
}

/// As [`convert_log`], for runs that must do all they were asked.
pub(crate) fn converted_log(bytes: &[u8]) -> Vec<u8> {
    let run = convert_log(bytes, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout
}

/// `redis-migration replay ARGS`.
pub(crate) fn replay(args: &[&str]) -> Run {
    run(&[&["replay"], args].concat(), None)
}

/// `redis-migration replay ARGS` into what listens on a port of this machine.
pub(crate) fn replay_at(port: u16, args: &[&str]) -> Run {
    let port = port.to_string();
    replay(&[args, &["-h", "127.0.0.1", "-p", &port]].concat())
}

/// As [`replay_at`], for runs that must do all they were asked.
pub(crate) fn replayed_at(port: u16, args: &[&str]) -> Run {
    let run = replay_at(port, args);
    assert_eq!(run.code, 0, "replay {args:?}: {}", run.stderr);
    run
}

/// A run that has not ended. Nothing is left of it when it is dropped.
pub(crate) struct Running {
    child: std::process::Child,
    out: Option<std::thread::JoinHandle<Vec<u8>>>,
    err: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Starts `redis-migration ARGS`.
    pub(crate) fn start(args: &[&str]) -> Running {
        Running::of(program(args))
    }

    /// Starts `redis-migration replay ARGS` into what listens on a port of this machine.
    pub(crate) fn replay_at(port: u16, args: &[&str]) -> Running {
        let port = port.to_string();
        Running::start(&[&["replay"], args, &["-h", "127.0.0.1", "-p", &port]].concat())
    }

    /// Starts a command that was made ready.
    pub(crate) fn of(mut command: Command) -> Running {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        // Both are read as they come: a program whose output is not read would stop.
        let (out, err) = (child.stdout.take(), child.stderr.take());
        Running {
            child,
            out: out.map(|out| std::thread::spawn(move || read_all(out))),
            err: err.map(|err| std::thread::spawn(move || read_all(err))),
        }
    }

    /// Whether it has not ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the state of a child")
            .is_none()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&mut self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends SIGINT.
    pub(crate) fn interrupt(&mut self) {
        self.signal(rustix::process::Signal::INT);
    }

    fn signal(&mut self, signal: rustix::process::Signal) {
        // The number of one that has ended may be another's by now.
        if self.is_running() {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, signal).expect("a process that runs");
        }
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(mut self) -> Run {
        let _ = self.child.kill();
        self.end(Duration::from_secs(10))
    }

    /// Waits until something is so or the run has ended, whichever comes first. Tells whether it is so.
    pub(crate) fn until(&mut self, mut so: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if so() {
                return true;
            }
            if !self.is_running() {
                return false;
            }
            assert!(Instant::now() < end, "nothing came about in a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it ends by itself. One that takes longer fails the test.
    pub(crate) fn end(mut self, limit: Duration) -> Run {
        let code = code(wait(&mut self.child, limit));
        let text = |thread: Option<std::thread::JoinHandle<Vec<u8>>>| {
            thread.map_or_else(Vec::new, |thread| thread.join().expect("a reader"))
        };
        Run {
            stdout: text(self.out.take()),
            stderr: String::from_utf8_lossy(&text(self.err.take())).into_owned(),
            code,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// What Redis's own program says: the bytes up to which a log is good.
pub(crate) fn check_aof(path: &Path, args: &[&str]) -> (Option<u64>, String) {
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

/// `redis-migration ARGS`, with something on its stdin if wanted. A run of more than a minute fails the test.
pub(crate) fn run(args: &[&str], stdin: Option<&[u8]>) -> Run {
    let mut command = program(args);
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let (mut out, mut err) = (
        child.stdout.take().expect("stdout"),
        child.stderr.take().expect("stderr"),
    );
    let input = child.stdin.take();
    std::thread::scope(|scope| {
        if let (Some(mut input), Some(bytes)) = (input, stdin) {
            // A program that stops early does not read all of it, and need not.
            scope.spawn(move || input.write_all(bytes));
        }
        let out = scope.spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).map(|_| bytes)
        });
        let err = scope.spawn(move || {
            let mut bytes = Vec::new();
            err.read_to_end(&mut bytes).map(|_| bytes)
        });
        let code = code(wait(&mut child, Duration::from_secs(60)));
        let stdout = out.join().expect("the reader of stdout").expect("stdout");
        let stderr = err.join().expect("the reader of stderr").expect("stderr");
        Run {
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            code,
        }
    })
}

/// Waits for a child, and kills it when it takes too long.
pub(crate) fn wait(child: &mut std::process::Child, limit: Duration) -> ExitStatus {
    let end = Instant::now() + limit;
    let mut nap = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().expect("the state of a child") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the program was still running after {limit:?}");
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(10));
    }
}

/// An exit status as a shell tells it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().expect("a signal"))
}
