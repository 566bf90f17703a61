//! What a migration leaves behind: files that the other commands take, or none.

use super::{END, Live, SOON, bytes_of, fill, info, is_equal, source};
use crate::replay::Target;
use crate::support::cli::{convert, replay_at};
use crate::support::client::call;
use crate::support::data::{DataSet, diff, is_the_programs};
use crate::support::load::{Load, Mix};
use crate::support::server::Server;
use crate::support::text;

#[test]
fn a_run_until_it_has_caught_up() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 2000);
    let mut live = Live::new(source.port, target.port(), &["--until", "caught-up"]).started();
    let (code, said) = live.ends(2 * SOON);
    assert_eq!(code, 0, "{said}");
    is_equal(&live, &source, &target, 0);
    assert_eq!(live.files(), Vec::<String>::new(), "{said}");
}

#[test]
fn a_run_under_load_until_it_has_caught_up() {
    let (source, target) = (source("redis-7.0", &[]), Target::proxy(&[]));
    fill(&source, 2000);
    let load = Load::mixed(
        &source,
        Mix {
            per_second: 500,
            ..Mix::narrow()
        },
    );
    let mut live = Live::new(source.port, target.port(), &["--until", "caught-up"]).started();
    let (code, said) = live.ends(2 * SOON);
    assert_eq!(code, 0, "{said}");
    load.stop();
    assert!(target.keys() > 2000, "{} keys", target.keys());
}

/// What stays when it is asked for is a snapshot and a log, which make the same of another server.
#[test]
fn files_that_are_kept_are_good_for_everything() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 2000);
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::new(source.port, target.port(), &["--keep-spool"]).started();
    live.catches_up();
    load.does(2000);
    load.stop();
    super::ends_equal(&mut live, &source, &target);
    live.terminate();
    let (rdb, aof) = (live.path("dump.rdb"), live.path("appendonly.aof"));
    assert!(rdb.is_file() && aof.exists(), "{:?}", live.files());

    let run = convert(&[text(&rdb), text(&aof)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let converted = Server::start("redis-7.0");
    let piped = converted.client().pipe(&run.stdout, None);
    assert_eq!(piped.errors, Vec::<String>::new());
    let replayed = Server::start("redis-7.0");
    let run = replay_at(replayed.port, &[text(&rdb), text(&aof)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // By the server's own loader, and only the snapshot: it is the source's bytes.
    let loaded = Server::on_snapshot("redis-7.0", &rdb);
    assert!(call!(loaded.client(), "DBSIZE").int() >= 2000);

    let want = DataSet::read(&mut source.client()).without_minus_zero();
    for (server, how) in [(&converted, "converted"), (&replayed, "replayed")] {
        let mut got = DataSet::read(&mut server.client()).without_minus_zero();
        got.retain(|_, key, _| !is_the_programs(key));
        let mut want = want.clone();
        for side in [&mut want, &mut got] {
            side.forget_what_no_replica_hears_of();
        }
        let lines = diff(&want, &got);
        let first: Vec<&String> = lines.iter().take(5).collect();
        assert!(
            lines.is_empty(),
            "{how}: {} keys differ: {first:#?}",
            lines.len()
        );
    }
}

/// A manifest lists the segments of one generation. Those of the ones before are there by right, and so are those of
/// another migration.
#[test]
fn nothing_is_said_of_files_that_are_its_own() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 100);
    let other = Server::start("redis-7.0");
    let mut beside = Live::new(other.port, target.port(), &["--keep-spool"]);
    for (from, to) in [("dump.rdb", "other.rdb"), ("appendonly.aof", "other.aof")] {
        let word = beside.words.iter_mut().find(|word| *word == from);
        *word.expect("it is named") = to.to_owned();
    }
    let mut live = Live::new(source.port, target.port(), &["--keep-spool"]).beside(&beside);
    std::fs::write(live.path("foreign.aof.1.incr.aof"), "x").expect("a file");
    beside.start();
    beside.catches_up();
    live.start();
    live.catches_up();
    live.kill();
    call!(source.client(), "DEBUG", "CHANGE-REPL-ID");
    live.start();
    live.until("another snapshot", SOON, |_| {
        info(&source, "stats", "sync_full") == 2
    });
    live.acknowledges(&source);
    live.catches_up();
    let (rdb, aof) = (live.path("dump.rdb"), live.path("appendonly.aof"));
    let converted = convert(&[text(&rdb), text(&aof)]);
    assert_eq!(converted.code, 0, "{}", converted.stderr);
    assert!(live.path("appendonly.aof.1.incr.aof").exists());
    live.terminate();
    beside.terminate();
    for said in [&live.before, &beside.before, &converted.stderr] {
        assert!(!said.contains("waiting for"), "{said}");
        for line in said.lines().filter(|line| line.contains("not listed")) {
            assert!(line.contains("foreign.aof.1.incr.aof is not"), "{line}");
        }
        assert!(said.contains("foreign.aof.1.incr.aof is not"), "{said}");
    }
}

/// Only an end that was asked for by --until is one after which nobody comes back.
#[test]
fn files_stay_for_whoever_comes_back() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 500);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    live.terminate();
    assert!(!live.files().is_empty());
    live.start();
    live.catches_up();
    live.acknowledges(&source);
    assert_eq!(
        super::info(&source, "stats", "sync_full"),
        1,
        "{}",
        live.said()
    );
    live.kill();
    live.words
        .extend(["--until".to_owned(), "caught-up".to_owned()]);
    live.start();
    let (code, said) = live.ends(END);
    assert_eq!(code, 0, "{said}");
    is_equal(&live, &source, &target, 0);
}

#[test]
fn a_dry_run_leaves_nothing_anywhere() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 100);
    let words = ["--dry-run", "--summary-file", "summary.json"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    let (code, said) = live.ends(END);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("dry run") && said.contains("100 keys"),
        "{said}"
    );
    // But a summary, as of every run.
    assert_eq!(live.files(), ["summary.json"]);
    let bytes = bytes_of(&live.path("summary.json")).expect("a summary");
    let told: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(told["exit"], 0, "{told}");
    assert_eq!(target.keys(), 0);
    assert_eq!(info(&source, "stats", "sync_full"), 0);
}

/// Who changes over holds them against what the source says of itself.
#[test]
fn the_summary_tells_how_far_the_source_was_followed() {
    let (source, target) = (
        // A ping of the source counts as well, and one could be on its way when the run ends.
        source("redis-7.0", &["--repl-ping-replica-period", "3600"]),
        Target::server("redis-7.0"),
    );
    fill(&source, 500);
    let words = ["--summary-file", "summary.json"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    let figures = |live: &Live| {
        let text = std::fs::read(live.path("summary.json")).expect("a summary");
        let summary: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let live = summary["live"].clone();
        assert_eq!(live["source"], format!("127.0.0.1:{}", source.port));
        let replication = call!(source.client(), "INFO", "replication").text();
        let line = |name: &str| {
            let lines = &mut replication.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.expect("a line").to_owned()
        };
        assert_eq!(live["replid"], line("master_replid"), "{live}");
        let offset: u64 = line("master_repl_offset").parse().expect("a number");
        assert_eq!(live["source_offset"], offset, "{live}");
        assert_eq!(live["source_offset_on_disk"], offset, "{live}");
        assert_eq!(live["generation"], 1, "{live}");
        assert_eq!(live["behind_bytes"], 0, "{live}");
        assert_eq!(live["phase"], "ONLINE", "{live}");
        assert_eq!(live["connected"], true, "{live}");
        (live["full_syncs"].clone(), live["partial_syncs"].clone())
    };
    live.catches_up();
    for i in 0..100 {
        call!(source.client(), "SET", format!("k:{i}"), "v");
    }
    live.acknowledges(&source);
    live.terminate();
    assert_eq!(figures(&live), (1.into(), 0.into()));
    call!(source.client(), "SET", "between", "v");
    live.words
        .extend(["--until".to_owned(), "caught-up".to_owned()]);
    live.start();
    let (code, said) = live.ends(2 * END);
    assert_eq!(code, 0, "{said}");
    assert_eq!(figures(&live), (0.into(), 1.into()));
    let snapshot = live.path("dump.rdb");
    assert!(!snapshot.exists(), "{:?}", live.files());
}

#[test]
fn a_file_for_prometheus_tells_where_it_stands() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 100);
    let words = ["--metrics-file", "migration.prom"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    let gauge = |live: &Live, name: &str| {
        let text = std::fs::read_to_string(live.path("migration.prom")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("redis_migration_{name} ")));
        line.map(|number| number.parse::<f64>().expect("a number"))
    };
    live.until("ONLINE", SOON, |live| gauge(live, "phase") == Some(4.0));
    call!(source.client(), "SET", "k", "v");
    live.acknowledges(&source);
    let offset = info(&source, "replication", "master_repl_offset") as f64;
    live.until("an offset", SOON, |live| {
        gauge(live, "source_offset_on_disk").is_some_and(|at| at >= offset)
            && gauge(live, "behind_bytes") == Some(0.0)
    });
    assert_eq!(gauge(&live, "source_connected"), Some(1.0));
    assert_eq!(gauge(&live, "generation"), Some(1.0));
    let port = source.port;
    drop(source);
    live.until("a loss", SOON, |live| {
        gauge(live, "source_connected") == Some(0.0)
    });
    assert!(live.said().contains(&port.to_string()));
    live.terminate();
}
