//! How a run ends: exit codes, the summary, the files beside the output, and what is left of them.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::support::cli::{code, convert, converted, program, run, wait};
use crate::support::server::free_port;
use crate::support::{fixture, text};

const MIXED: &str = "mixed_redis-7.0_v10.rdb";

#[test]
fn wrong_usage_ends_with_2() {
    let file = fixture(MIXED);
    for args in [
        &["--no-such-flag"][..],
        &["--mode", "telepathy"],
        &["--dialect", "klingon"],
        &["--target-version", "seven"],
        &["--threads", "many"],
        &["--key-regex", "("],
        &["--db", "x"],
        &["--db-map", "1"],
        &["--ttl", "a..b"],
        &["--size", "10"],
        &["--now", "soon"],
        &["--batch-bytes", "1.5mb"],
        // Plain commands cannot refuse a key that is there.
        &["--on-exist", "fail"],
    ] {
        let run = convert(&[args, &[text(&file)]].concat());
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty());
    }
    assert_eq!(run(&["no-such-subcommand"], None).code, 2);
}

#[test]
fn a_truncated_input_ends_with_3_and_names_the_byte() {
    let whole = std::fs::read(fixture(MIXED)).expect("a fixture");
    let run = run(&["convert", "-"], Some(&whole[..whole.len() / 2]));
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(
        run.stderr.contains("byte") || run.stderr.contains("offset"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_missing_input_and_a_full_disk_end_with_74() {
    let missing = convert(&["/no/such/file.rdb"]);
    assert_eq!(missing.code, 74, "{}", missing.stderr);
    assert!(
        missing.stderr.contains("/no/such/file.rdb"),
        "{}",
        missing.stderr
    );

    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut child = program(&["convert", text(&fixture(MIXED))])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let status = wait(&mut child, Duration::from_secs(20));
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut stderr)
        .expect("stderr");
    assert_eq!(code(status), 74, "{stderr}");
    assert!(
        stderr.contains("space") && !stderr.contains("panicked"),
        "{stderr}"
    );

    let nowhere = convert(&[text(&fixture(MIXED)), "-o", "/no/such/directory/out.resp"]);
    assert_eq!(nowhere.code, 74, "{}", nowhere.stderr);
}

#[test]
fn an_output_that_exists_is_kept_unless_forced() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out.resp");
    std::fs::write(&out, "precious").expect("a file");
    let file = fixture(MIXED);
    let refused = convert(&[text(&file), "-o", text(&out)]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(std::fs::read(&out).expect("the file"), b"precious");

    let run = convert(&[text(&file), "-o", text(&out), "--force"]);
    assert_eq!((run.code, run.stdout.len()), (0, 0), "{}", run.stderr);
    assert!(std::fs::read(&out).expect("the file") == converted(&[text(&file)]));
    assert_eq!(
        std::fs::read_dir(dir.path())
            .expect("the directory")
            .count(),
        1,
        "something was left beside the output"
    );
}

#[test]
fn an_output_has_its_name_only_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let (out, partial) = (
        dir.path().join("out.resp"),
        dir.path().join("out.resp.partial"),
    );
    let mut bytes = std::fs::read(fixture(MIXED)).expect("a fixture");
    let len = bytes.len();
    bytes.truncate(len - 100);
    let file = dir.path().join("cut.rdb");
    std::fs::write(&file, &bytes).expect("a cut copy");
    let run = convert(&["--checksum", "along", text(&file), "-o", text(&out)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(!out.exists(), "half an output has the name of a whole one");
    assert!(
        partial.exists(),
        "what was written before the damage is gone"
    );
    assert!(run.stderr.contains("out.resp.partial"), "{}", run.stderr);
}

#[test]
fn a_lock_that_is_held_ends_with_75() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = dir.path().join("lock");
    let fifo = dir.path().join("fifo");
    make_fifo(&fifo);
    let file = fixture(MIXED);
    let mut first = program(&["convert", "--lock", text(&lock), text(&fifo)])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    // The first run takes the lock before it opens its input, and opening the other end waits for that.
    let _writer = std::fs::OpenOptions::new()
        .write(true)
        .open(&fifo)
        .expect("the fifo");
    let second = convert(&["--lock", text(&lock), text(&file)]);
    first.kill().expect("a kill");
    first.wait().expect("an end");
    assert_eq!(
        (second.code, second.stdout.len()),
        (75, 0),
        "{}",
        second.stderr
    );
    assert!(second.stderr.contains(text(&lock)), "{}", second.stderr);

    // The lock ends with the run that held it, however that ended.
    assert_eq!(convert(&["--lock", text(&lock), text(&file)]).code, 0);
}

#[test]
fn a_closed_reader_ends_it_as_sigpipe_does() {
    // More than any pipe holds, or the program would be done before it noticed.
    let file = fixture(MIXED);
    let args = [&["convert"][..], &[text(&file); 12]].concat();
    let mut child = program(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut first = [0; 10];
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut first).expect("the first bytes");
    drop(stdout);
    let status = wait(&mut child, Duration::from_secs(20));
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut stderr)
        .expect("stderr");
    assert_eq!(code(status), 141, "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn sigterm_and_sigint_end_it_with_143_and_130() {
    for (signal, want) in [("TERM", 143), ("INT", 130)] {
        let dir = tempfile::tempdir().expect("a directory");
        let (fifo, out) = (dir.path().join("fifo"), dir.path().join("out.resp"));
        make_fifo(&fifo);
        let mut child = program(&["convert", text(&fifo), "-o", text(&out)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        // Half a snapshot, and then a writer that neither goes on nor closes.
        let mut writer = std::fs::OpenOptions::new()
            .write(true)
            .open(&fifo)
            .expect("the fifo");
        let half = &std::fs::read(fixture(MIXED)).expect("a fixture")[..30_000];
        std::io::Write::write_all(&mut writer, half).expect("half a snapshot");
        std::thread::sleep(Duration::from_millis(200));
        kill(child.id(), signal);
        let status = wait(&mut child, Duration::from_secs(10));
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .expect("stderr")
            .read_to_string(&mut stderr)
            .expect("stderr");
        assert_eq!(code(status), want, "{stderr}");
        assert!(!out.exists());
        drop(writer);
    }
}

#[test]
fn the_summary_accounts_for_every_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let summary = dir.path().join("summary.json");
    let file = fixture("expired_redis-7.0_v10.rdb");
    let run = convert(&["--summary", "json", "--not-key", "lives:*", text(&file)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = run
        .stderr
        .lines()
        .find(|line| line.starts_with('{'))
        .unwrap_or(&run.stderr);
    let json: serde_json::Value = serde_json::from_str(line)
        .or_else(|_| serde_json::from_str(&run.stderr))
        .expect("JSON on stderr");
    let keys = |name: &str| {
        json["keys"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("keys.{name} in {json}"))
    };
    assert_eq!(
        [
            keys("read"),
            keys("written"),
            keys("filtered"),
            keys("expired"),
            keys("rejected")
        ],
        [5, 1, 1, 3, 0]
    );
    assert_eq!(
        json["bytes_in"],
        std::fs::metadata(&file).expect("a fixture").len()
    );
    assert_eq!(json["bytes_out"], run.stdout.len());
    assert_eq!(json["exit"], 0);
    assert!(
        json["commands"].as_u64().is_some_and(|n| n >= 1)
            && json["seconds"].as_f64().is_some_and(|s| s >= 0.0),
        "{json}"
    );

    // Into a file, whatever the ending is.
    let rejecting = fixture("streams_groups_redis-5.0.14_v9.rdb");
    let run = convert(&[
        "--summary",
        "json",
        "--summary-file",
        text(&summary),
        "--target-version",
        "4.0",
        "--on-error",
        "continue",
        text(&rejecting),
    ]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&summary).expect("the summary")).expect("JSON");
    let keys = |name: &str| {
        json["keys"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("keys.{name} in {json}"))
    };
    assert_eq!(
        keys("read"),
        keys("written") + keys("filtered") + keys("expired") + keys("rejected")
    );
    assert!(keys("rejected") > 0);
    assert_eq!(json["exit"], 1);

    // For people, the same numbers in words.
    let run = convert(&[text(&fixture(MIXED))]);
    assert!(
        run.stderr.contains("1,056 read = 1,056 written"),
        "{}",
        run.stderr
    );
}

#[test]
fn metrics_are_a_textfile_that_prometheus_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let metrics = dir.path().join("convert.prom");
    converted(&["--metrics-file", text(&metrics), text(&fixture(MIXED))]);
    let lines = std::fs::read_to_string(&metrics).expect("the metrics");
    assert!(
        lines
            .lines()
            .any(|line| line.starts_with("# TYPE redis_migration_")),
        "{lines}"
    );
    for line in lines
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(
            name.starts_with("redis_migration_") && value.parse::<f64>().is_ok(),
            "{line}"
        );
    }
    assert!(lines.contains("1056"), "{lines}");
}

#[test]
fn quiet_says_nothing_but_failures() {
    let run = convert(&["-q", text(&fixture(MIXED))]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let failed = convert(&["-q", "/no/such/file.rdb"]);
    assert!(failed.code == 74 && !failed.stderr.is_empty());
}

#[test]
fn log_lines_are_json_when_asked() {
    let run = convert(&[
        "--log-format",
        "json",
        "--summary",
        "json",
        "/no/such/file.rdb",
    ]);
    for line in run.stderr.lines() {
        let _: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn hidden_keys_appear_in_no_message() {
    let file = fixture("streams_groups_redis-5.0.14_v9.rdb");
    let dir = tempfile::tempdir().expect("a directory");
    let rejects = dir.path().join("rejects.csv");
    let args = [
        "--target-version",
        "4.0",
        "--on-error",
        "continue",
        text(&file),
    ];
    let shown = convert(&args);
    let keys: Vec<String> = {
        let open = convert(&[&["--rejects", text(&rejects)], &args[..]].concat());
        assert_eq!(open.code, 1, "{}", open.stderr);
        let mut lines = csv::Reader::from_path(&rejects).expect("the CSV");
        lines
            .records()
            .map(|line| line.expect("a line")[1].to_owned())
            .filter(|key| key.len() > 3)
            .collect()
    };
    let hidden = convert(&[&["--hide-keys"], &args[..]].concat());
    assert_eq!(hidden.code, shown.code);
    for key in keys {
        assert!(!hidden.stderr.contains(&key), "{key} in {}", hidden.stderr);
    }
}

#[test]
fn help_completions_and_the_manual_are_there() {
    for args in [
        &["--help"][..],
        &["-h"],
        &["convert", "--help"],
        &["convert", "-h"],
        &["--version"],
        &["man"],
    ] {
        let run = run(args, None);
        assert!(
            run.code == 0 && !run.stdout.is_empty(),
            "{args:?}: {}",
            run.stderr
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let run = run(&["completions", shell], None);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(String::from_utf8_lossy(&run.stdout).contains("redis-migration"));
    }
    let help = String::from_utf8(run(&["convert", "--help"], None).stdout).expect("text");
    for flag in [
        "--output",
        "--force",
        "--mode",
        "--dialect",
        "--target-version",
        "--on-exist",
        "--on-error",
        "--rejects",
        "--threads",
        "--checksum",
        "--batch-elements",
        "--batch-bytes",
        "--db",
        "--not-db",
        "--key",
        "--not-key",
        "--key-regex",
        "--not-key-regex",
        "--type",
        "--not-type",
        "--size",
        "--ttl",
        "--expired",
        "--now",
        "--db-map",
        "--rename-prefix",
        "--add-prefix",
        "--no-ttl",
        "--ttl-shift",
        "--summary",
        "--summary-file",
        "--metrics-file",
        "--lock",
        "--quiet",
        "--log-format",
        "--progress-interval",
        "--hide-keys",
        "--tmp-dir",
    ] {
        let at = help
            .find(&format!("{flag} "))
            .or_else(|| help.find(&format!("{flag}\n")));
        assert!(at.is_some(), "{flag} is not in the help");
    }
}

/// Whoever looks at the file by the clock must not take yesterday's for today's.
#[test]
fn a_run_that_did_not_begin_leaves_its_summary_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let (summary, metrics) = (dir.path().join("summary"), dir.path().join("metrics"));
    let file = fixture(MIXED);
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let migrate = ["migrate", "--from", &nobody, "--to", &nobody];
    for (words, exit, name, why) in [
        (
            &["convert", "not-there.rdb"][..],
            74,
            "not-there.rdb",
            "No such file",
        ),
        (&["replay", "-u", &nobody, text(&file)], 4, "", "refused"),
        (&migrate, 4, "", "refused"),
    ] {
        std::fs::write(&summary, "yesterday's").expect("a file");
        std::fs::write(&metrics, "yesterday's").expect("a file");
        let files = [
            "--summary-file",
            text(&summary),
            "--metrics-file",
            text(&metrics),
        ];
        let run = run(&[words, &files].concat(), None);
        assert_eq!(run.code, exit, "{words:?}: {}", run.stderr);
        let json = std::fs::read(&summary).expect("the summary");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["exit"], exit);
        let input = &json["inputs"][0];
        assert_eq!(input["name"], name);
        let error = input["error"].as_str().expect("a text");
        assert!(
            error.to_lowercase().contains(&why.to_lowercase()),
            "{error}"
        );
        let metrics = std::fs::read_to_string(&metrics).expect("the metrics");
        assert!(metrics.contains(&format!("exit_code {exit}")), "{metrics}");
    }
}

#[test]
fn a_text_that_nobody_reads_to_the_end_is_no_failure_to_speak_of() {
    for args in [
        &["convert", "--help"][..],
        &["completions", "bash"],
        &["man"],
    ] {
        // The reading end is closed before the program begins.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child = program(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program");
        let status = wait(&mut child, Duration::from_secs(10));
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .expect("stderr")
            .read_to_string(&mut stderr)
            .expect("stderr");
        assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
        assert!(
            matches!(code(status), 0 | 74 | 141),
            "{args:?}: exit {}",
            code(status)
        );
    }
}

fn make_fifo(path: &std::path::Path) {
    let status = std::process::Command::new("mkfifo")
        .arg(path)
        .status()
        .expect("mkfifo");
    assert!(status.success());
}

fn kill(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
}
