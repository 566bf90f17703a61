//! The command line itself: help, the original's words, and passwords, which nothing prints.

use crate::support::cli::{Run, program, run};
use crate::support::{fixture, text};

const MIXED: &str = "mixed_redis-7.0_v10.rdb";

fn stdout(run: &Run) -> String {
    String::from_utf8(run.stdout.clone()).expect("text")
}

/// A port at which nothing listens.
fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener
        .local_addr()
        .expect("its number")
        .port()
        .to_string()
}

#[test]
fn help_of_replay_names_every_flag_of_the_destination() {
    let help = run(&["replay", "--help"], None);
    assert_eq!(help.code, 0, "{}", help.stderr);
    let text = stdout(&help);
    for flag in [
        "-h <HOST>",
        "-p <PORT>",
        "-s <SOCKET>",
        "-u <URI>",
        "-a, --pass <PASSWORD>",
        "--user",
        "--askpass",
        "--password-file",
        "--tls",
        "--cacert",
        "--tls-cert",
        "--tls-key",
        "--sni",
        "--insecure",
        "--connections",
        "--pipeline",
        "--rate",
        "--rate-bytes",
        "--timeout",
        "--retry-for",
        "--proxy-timeout",
        "--proxy-stats",
        "--at-least-once",
        "--dry-run",
        "--big-key",
        "--dialect",
        "--target-version",
        "--mode",
        "--on-exist",
        "--checkpoint",
        "--batch-elements",
        "--on-error",
        "--rejects",
        "--db-map",
        "--follow",
        "--hide-keys",
    ] {
        assert!(text.contains(flag), "{flag} is not in:\n{text}");
    }
    // These belong to files that are written, or to nobody who types.
    for flag in ["--output", "--force", "--classic", "With -o"] {
        assert!(!text.contains(flag), "{flag} is in:\n{text}");
    }
}

#[test]
fn a_bare_h_at_the_end_is_help_and_before_a_word_it_is_the_host() {
    let file = fixture(MIXED);
    for args in [
        &["replay", "-h"][..],
        &["replay", text(&file), "-h"],
        &["replay", text(&file), "-p", "7000", "-h"],
    ] {
        let help = run(args, None);
        assert_eq!(help.code, 0, "{args:?}: {}", help.stderr);
        let text = stdout(&help);
        assert!(text.contains("Usage: redis-migration replay"), "{text}");
        assert!(text.len() < stdout(&run(&["replay", "--help"], None)).len());
    }
    for args in [
        &[
            "replay",
            text(&file),
            "-h",
            "127.0.0.1",
            "-p",
            &closed_port(),
        ][..],
        &[
            "replay",
            "-h",
            "127.0.0.1",
            "-p",
            &closed_port(),
            text(&file),
        ],
    ] {
        let tried = run(args, None);
        assert!(!matches!(tried.code, 0 | 2), "{args:?}: {tried:?}");
        assert!(!stdout(&tried).contains("Usage"), "{tried:?}");
    }
    // -h is help where it always was.
    let help = run(&["convert", text(&file), "-h"], None);
    assert_eq!(help.code, 0, "{}", help.stderr);
    assert!(stdout(&help).contains("Usage: redis-migration convert"));
}

#[test]
fn wrong_destinations_end_with_2() {
    let file = fixture(MIXED);
    for args in [
        &["-h", "a", "-s", "b"][..],
        &["-p", "0"],
        &["-p", "99999"],
        &["-s", "a", "-u", "redis://b"],
        &["-u", "http://127.0.0.1"],
        &["-u", "redis://127.0.0.1/3"],
        &["-a", "x", "--askpass"],
        &["-a", "x", "--password-file", "f"],
        &["--tls", "--tls-key", "f"],
        &["--cacert", "f"],
        &["--tls", "--cacert", "f", "--insecure"],
        &["--user", "bob"],
        &["--connections", "0"],
        &["--pipeline", "0"],
        &["--rate", "fast"],
        &["--rate-bytes", "0"],
        &["--timeout", "0"],
        &["--retry-for", "-1s"],
        &["--proxy-stats", "22222"],
        &["--on-exist", "shrug"],
        &["--dialect", "klingon"],
    ] {
        let run = run(&[&["replay", text(&file)], args].concat(), None);
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
        assert!(run.stdout.is_empty() && !run.stderr.is_empty());
    }
    assert_eq!(run(&["replay", "-p", "6379"], None).code, 2);
    // Two passwords are one too many, and with no terminal one of them would fail by itself.
    for args in [
        ["-a", "x", "--askpass"],
        ["--password-file=f", "-q", "--askpass"],
    ] {
        let run = run(&[&["replay", text(&file)], &args[..]].concat(), None);
        assert!(run.stderr.contains("cannot be used with"), "{}", run.stderr);
    }
    let unreadable = run(
        &["replay", text(&file), "--password-file", "/no/such/file"],
        None,
    );
    assert_eq!(unreadable.code, 74, "{}", unreadable.stderr);
    assert!(unreadable.stderr.contains("/no/such/file"));
}

#[test]
fn the_originals_command_line_is_understood() {
    for args in [
        &["-dip", "h", "-h"][..],
        &["-h", "-rdb", "f"],
        &["-aof", "f", "--help"],
    ] {
        let help = run(args, None);
        assert_eq!(help.code, 0, "{args:?}: {}", help.stderr);
        for word in [
            "-dip", "-dport", "-dauth", "-rdb", "-aof", "-client", "-sip",
        ] {
            assert!(stdout(&help).contains(word), "{word}");
        }
        assert!(!stdout(&help).contains("convert"));
    }
    // The help of the whole program shows the original's words too.
    assert!(stdout(&run(&["-h"], None)).contains("-dport PORT"));
    let version = stdout(&run(&["--version"], None));
    assert!(version.starts_with("redis-migration "), "{version}");
    for args in [&["-v"][..], &["-dip", "h", "-v"]] {
        let said = run(args, None);
        assert_eq!((said.code, stdout(&said)), (0, version.clone()), "{args:?}");
    }

    let file = fixture(MIXED);
    let port = closed_port();
    let to = ["-dip", "127.0.0.1", "-dport", &port];
    let tried = run(
        &[
            &[
                "-q",
                "--on-exist",
                "replace",
                "-rdb",
                text(&file),
                "-client",
                "2",
            ],
            &to[..],
        ]
        .concat(),
        None,
    );
    assert!(!matches!(tried.code, 0 | 2), "{tried:?}");
}

#[test]
fn what_the_originals_command_line_lacks_is_named() {
    for (line, word) in [
        ("-dip h -dport 99999 -rdb f", "-dport 99999"),
        ("-dip h -dport 1", "-rdb or -aof"),
        ("-dport 1 -aof f", "-dip"),
        ("-dip h -aof f", "-dport"),
        ("-dip h -dport 1 -rdb", "-rdb"),
        ("-dip h -dport 1 -rdb f -turbo", "-turbo"),
        ("-dip h -dport 1 -rdb f stray", "stray"),
        ("-sip h -dip h -dport 1", "-sport"),
        ("-sauth pw -sport 1 -dip h -dport 1", "-sip"),
        ("-sip h -sport 1 -dip h", "-dport"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let run = run(&words, None);
        assert_eq!(run.code, 2, "{line}: {}", run.stderr);
        assert!(
            run.stdout.is_empty() && run.stderr.contains(word),
            "{line}: {}",
            run.stderr
        );
    }
    let live = run(&["-sip", "h", "-sport", "1", "-sauth", "hunter2"], None);
    assert!(live.stderr.contains("-dip"), "{}", live.stderr);
    assert!(!live.stderr.contains("hunter2"), "{}", live.stderr);
}

#[test]
fn no_password_is_printed() {
    let file = fixture(MIXED);
    let port = closed_port();
    let at = ["-p", &port, "--timeout", "1s", "--retry-for", "0"];
    let uri = format!("redis://bob:hunter2@127.0.0.1:{port}");
    let runs: [&[&str]; 10] = [
        &["replay", text(&file), "-a", "hunter2"],
        &["replay", text(&file), "-ahunter2", "--db-map", "wrong"],
        &["replay", text(&file), "--pass=hunter2", "--askpass"],
        &["replay", text(&file), "-u", &uri],
        &["replay", text(&file), "-u", "redis://bob:hunter2@[::1"],
        &["replay", text(&file), "-u", "redis://bob:hunter2@h:port"],
        &["replay", text(&file), "-u", "http://bob:hunter2@h"],
        &[
            "-dip",
            "127.0.0.1",
            "-dport",
            &port,
            "-rdb",
            text(&file),
            "-dauth",
            "hunter2",
        ],
        &[
            "-dip",
            "127.0.0.1",
            "-rdb",
            text(&file),
            "-dauth",
            "hunter2",
        ],
        &[
            "-dip",
            "127.0.0.1",
            "-dport",
            "1",
            "-rdb",
            "f",
            "-dauth",
            "half",
            "hunter2",
        ],
    ];
    for args in runs {
        let wide: Vec<&str> = match args[0] {
            "replay" => [args, &at].concat(),
            _ => args.to_vec(),
        };
        let run = run(&wide, None);
        assert_ne!(run.code, 0, "{args:?}");
        for said in [&stdout(&run), &run.stderr] {
            assert!(!said.contains("hunter2"), "{args:?}: {said}");
        }
    }
    // The same from where nobody sees it.
    let out = program(&[&["replay", text(&file)], &at[..]].concat())
        .env("REDISCLI_AUTH", "hunter2")
        .output()
        .expect("the program");
    assert!(!String::from_utf8_lossy(&out.stderr).contains("hunter2"));
}

#[test]
fn completions_and_pages_know_replay() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(&["completions", shell], None));
        assert!(
            script.contains("replay") && script.contains("password-file"),
            "{shell}"
        );
    }
    assert!(stdout(&run(&["man"], None)).contains("replay"));
    let page = stdout(&run(&["man", "replay"], None));
    assert!(
        page.contains("password\\-file") && page.contains("proxy\\-stats"),
        "{page}"
    );
}
