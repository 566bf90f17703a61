//! A run that was ended, by whatever, and started again with the same words goes on and repeats nothing that counts.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis_migration::command::encode::OnError;
use redis_migration::command::target::Dialect;
use redis_migration::pipeline::Progress;
use redis_migration::server::endpoint::{Address, Endpoint};
use redis_migration::sink::server::{Options, Place, Policy, ServerSink};

use super::{
    Dice, Sample, Target, arrive, changes_in, log_of_increments, names, place, scaled, snapshot,
};
use crate::support::cli::{Running, program, replay_at, replayed_at};
use crate::support::client::call;
use crate::support::relay::Relay;
use crate::support::resp::log;
use crate::support::server::Server;
use crate::support::{log_file, text};

/// Makes a destination slow enough that there is time to break something.
fn slow(target: &Target) -> Relay {
    let relay = Relay::start(target.port());
    relay.delay(1, 1);
    relay
}

const SMALL_WINDOW: &[&str] = &["--connections", "2", "--pipeline", "16"];

/// Kills a run at twenty moments, lets the last one end, and starts it once more.
fn survives_kills(sample: &Sample, target: &Target, port: u16, args: &[&str]) {
    let (_dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    let args = [
        SMALL_WINDOW,
        args,
        &["--checkpoint", &checkpoint, sample.path()],
    ]
    .concat();
    let mut dice = Dice(0x5eed_0001);
    let mut kills = 0;
    while kills < 20 {
        let mut running = Running::replay_at(port, &args);
        // Every fourth one ends in its very beginning.
        if kills % 4 != 3 {
            arrive(&mut running, &target.servers(), 100);
        }
        std::thread::sleep(Duration::from_millis(dice.below(60)));
        if !running.is_running() {
            let run = running.end(Duration::from_secs(1));
            assert_eq!(run.code, 0, "after {kills} kills: {}", run.stderr);
            break;
        }
        running.kill();
        kills += 1;
        if std::fs::exists(&checkpoint).expect("a directory that can be read") {
            let len = std::fs::metadata(&checkpoint).expect("a file").len();
            assert!(len > 0, "a checkpoint is there whole or not at all");
        }
    }
    assert!(kills >= 8, "it had ended after {kills} kills");
    let run = replay_at(port, &args);
    assert_eq!(run.code, 0, "after {kills} kills: {}", run.stderr);
    forget_probes(&target.servers());
    sample.assert_in(&target.servers(), "after the kills");

    let before = changes_in(&target.servers());
    let run = replay_at(port, &args);
    assert_eq!(run.code, 0, "once more: {}", run.stderr);
    sample.assert_in(&target.servers(), "once more");
    let sent = changes_in(&target.servers()) - before;
    assert!(sent < 2000, "{sent} changes when all had been done");
}

/// A run that was killed while it tried whether writing is possible leaves the key that it tried it with; it goes by
/// itself within a minute, for which nobody waits here.
fn forget_probes(servers: &[&Server]) {
    for server in servers {
        let mut client = server.client();
        for key in call!(client, "KEYS", "__redis-migration:probe:*").all_bytes() {
            let left = call!(client, "PTTL", &key).int();
            assert!(left <= 60_000 && left != -1, "{left} ms left");
            call!(client, "DEL", &key);
        }
    }
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_a_snapshot() {
    let target = Target::server("redis-7.0");
    let relay = slow(&target);
    survives_kills(&snapshot(), &target, relay.port, &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_a_snapshot_by_plain_commands() {
    let target = Target::server("redis-7.0");
    let relay = slow(&target);
    survives_kills(&snapshot(), &target, relay.port, &["--mode", "commands"]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_a_log() {
    let target = Target::server("redis-7.0");
    let relay = slow(&target);
    let sample = log_of_increments(scaled(30_000));
    survives_kills(&sample, &target, relay.port, &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_a_snapshot_through_a_proxy() {
    let target = Target::proxy(&[("server_connections", "4")]);
    let relay = slow(&target);
    survives_kills(&snapshot(), &target, relay.port, &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_of_a_log_through_a_proxy() {
    let target = Target::proxy(&[]);
    let relay = slow(&target);
    let sample = log_of_increments(scaled(20_000));
    survives_kills(&sample, &target, relay.port, &[]);
}

#[test]
fn twenty_kills_lose_and_double_nothing_in_a_cluster() {
    let target = Target::cluster();
    // The nodes tell their own addresses, so a relay would be left aside.
    let rate = ["--rate", "10000"];
    survives_kills(&snapshot(), &target, target.port(), &rate);
    target.flush();
    let sample = log_of_increments(scaled(20_000));
    survives_kills(&sample, &target, target.port(), &rate);
}

/// Stops a run politely when a part has arrived, and lets another finish.
fn is_stopped_and_resumed(signal: fn(&mut Running), code: i32, sample: &Sample) {
    let target = Target::server("redis-7.0");
    let relay = slow(&target);
    let (_dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    let args = [SMALL_WINDOW, &["--checkpoint", &checkpoint, sample.path()]].concat();
    let mut running = Running::replay_at(relay.port, &args);
    assert!(arrive(&mut running, &target.servers(), 3000));
    let begin = Instant::now();
    signal(&mut running);
    let run = running.end(Duration::from_secs(12));
    assert_eq!(run.code, code, "{}", run.stderr);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "a destination that answers has answered soon: {:?}",
        begin.elapsed()
    );
    assert!(run.stderr.contains(&checkpoint), "{}", run.stderr);
    assert!(std::fs::exists(&checkpoint).expect("a directory"));
    replayed_at(relay.port, &args);
    sample.assert_in(&target.servers(), "resumed");
}

#[test]
fn sigterm_ends_a_snapshot_with_143_and_it_is_resumed() {
    is_stopped_and_resumed(Running::terminate, 143, &snapshot());
}

#[test]
fn sigterm_ends_a_log_with_143_and_it_is_resumed() {
    let sample = log_of_increments(scaled(20_000));
    is_stopped_and_resumed(Running::terminate, 143, &sample);
}

#[test]
fn sigint_ends_a_run_with_130_and_it_is_resumed() {
    is_stopped_and_resumed(Running::interrupt, 130, &snapshot());
}

#[test]
fn a_second_signal_ends_a_run_that_waits_for_its_destination() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let relay = slow(&target);
    let mut running = Running::replay_at(relay.port, &[SMALL_WINDOW, &[sample.path()]].concat());
    assert!(arrive(&mut running, &target.servers(), 1000));
    relay.stop();
    running.terminate();
    std::thread::sleep(Duration::from_millis(300));
    running.terminate();
    let run = running.end(Duration::from_secs(2));
    assert_eq!(run.code, 143, "{}", run.stderr);
}

#[test]
fn a_checkpoint_of_another_input_or_another_destination_is_refused() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let (_dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    let args = ["--checkpoint", checkpoint.as_str()];
    replayed_at(target.port(), &[&args[..], &[sample.path()]].concat());
    let before = std::fs::read(&checkpoint).expect("a checkpoint");

    let other = log_of_increments(100);
    let run = replay_at(target.port(), &[&args[..], &[other.path()]].concat());
    assert_ne!(run.code, 0, "{}", run.stderr);
    assert!(names(&run.stderr, &["checkpoint"]), "{}", run.stderr);
    sample.assert_in(&target.servers(), "another input");

    let elsewhere = Target::server("redis-7.0");
    let run = replay_at(elsewhere.port(), &[&args[..], &[sample.path()]].concat());
    assert_ne!(
        run.code, 0,
        "what is done there is not done here: {}",
        run.stderr
    );
    assert_eq!(elsewhere.keys(), 0);
    assert_eq!(std::fs::read(&checkpoint).expect("a checkpoint"), before);
}

#[test]
fn a_torn_checkpoint_is_refused_and_never_taken_for_none() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let (_dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    std::fs::write(&checkpoint, b"{\"torn").expect("a file");
    let run = replay_at(target.port(), &["--checkpoint", &checkpoint, sample.path()]);
    assert_ne!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains(&checkpoint), "{}", run.stderr);
    assert_eq!(target.keys(), 0);
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_a_run_before_its_first_write() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let (_dir, path) = place();
    let checkpoint = path("nowhere/replay.checkpoint");
    let run = replay_at(target.port(), &["--checkpoint", &checkpoint, sample.path()]);
    assert_eq!(run.code, 74, "{}", run.stderr);
    assert!(run.stderr.contains(&checkpoint), "{}", run.stderr);
    assert_eq!(target.keys(), 0);
}

#[test]
fn a_full_disk_ends_a_run_with_74_and_it_is_resumed_when_there_is_room() {
    let (sample, target) = (
        log_of_increments(scaled(10_000)),
        Target::server("redis-7.0"),
    );
    let (dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    let port = target.port().to_string();
    let args = [
        "replay",
        "--checkpoint",
        &checkpoint,
        sample.path(),
        "-h",
        "127.0.0.1",
        "-p",
        &port,
    ];
    // A shell lets no file grow, and the signal that would say so is not delivered: each write to a file fails, as
    // on a disk that is full.
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(program(&[]).get_program())
        .args(args)
        .stdin(std::process::Stdio::null());
    let run = Running::of(command).end(Duration::from_secs(30));
    assert_eq!(run.code, 74, "{}", run.stderr);
    let run = crate::support::cli::run(&args, None);
    assert_eq!(run.code, 0, "{}", run.stderr);
    sample.assert_in(&target.servers(), "with room");

    // The directory goes while it runs.
    target.flush();
    let relay = slow(&target);
    let checkpoint = path("gone/replay.checkpoint");
    std::fs::create_dir(dir.path().join("gone")).expect("a directory");
    let args = [SMALL_WINDOW, &["--checkpoint", &checkpoint, sample.path()]].concat();
    let mut running = Running::replay_at(relay.port, &args);
    assert!(arrive(&mut running, &target.servers(), 100));
    std::fs::remove_dir_all(dir.path().join("gone")).expect("its removal");
    let run = running.end(Duration::from_secs(30));
    assert_eq!(run.code, 74, "{}", run.stderr);
}

/// Who goes on in the log reads the snapshot once more, for the expiries that it holds. To be ended meanwhile is no step
/// back: the next run would load the snapshot over what the log has done, and pass over the log's commands as applied.
#[test]
fn what_is_only_read_again_is_no_way_back() {
    let server = Server::start("redis-7.0");
    let saved = Mutex::new(Vec::new());
    let in_log = Place {
        piece: 1,
        in_log: true,
        offset: 500,
        ..Place::default()
    };
    let options = Options {
        endpoint: Endpoint::new(Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: server.port,
        }),
        dialect: Dialect::Redis,
        slots: None,
        connections: 2,
        window: 16,
        window_bytes: 1 << 20,
        on_exist: Policy::Replace,
        on_error: OnError::Stop,
        retry_for: Duration::from_secs(5),
        answer_within: Duration::from_secs(5),
        proxy_timeout: Duration::from_secs(1),
        rate: None,
        rate_bytes: None,
        imports: false,
        at_least_once: false,
        routes: Vec::new(),
        run: "test".to_owned(),
        resume: Some(in_log),
        resumed: true,
        reject: Box::new(|_| Ok(())),
        save: Box::new(|place| {
            saved
                .lock()
                .expect("no panic")
                .push((place.piece, place.offset));
            Ok(())
        }),
        ahead: Box::new(|_| Ok(())),
        doubt_before: None,
    };
    let progress = Progress::default();
    let mut sink = ServerSink::connect(options, &progress).expect("a destination");
    let reached = |sink: &ServerSink<'_>| {
        let place = sink.acknowledged();
        (place.piece, place.in_log, place.offset)
    };
    sink.begin_snapshot(0).expect("a snapshot");
    sink.save_now().expect("a checkpoint");
    assert_eq!(reached(&sink), (1, true, 500));
    sink.begin_log(1, 9, 0, Some(0)).expect("a log");
    sink.reached_in_log(499, 0, None);
    sink.save_now().expect("a checkpoint");
    assert_eq!(reached(&sink), (1, true, 500));
    assert_eq!(*saved.lock().expect("no panic"), []);
    sink.reached_in_log(501, 0, None);
    sink.save_now().expect("a checkpoint");
    assert_eq!(reached(&sink), (1, true, 501));
    drop(sink);
    assert_eq!(*saved.lock().expect("no panic"), [(1, 501)]);
}

/// What a server forgot while no run was there is not there when the next one ends.
fn a_restart_between_two_runs_is_told(target: &Target) {
    let sample = snapshot();
    let (_dir, path) = place();
    let checkpoint = path("replay.checkpoint");
    let args = [
        "--rate",
        "10000",
        "--checkpoint",
        &checkpoint,
        sample.path(),
    ];
    let mut running = Running::replay_at(target.port(), &args);
    assert!(arrive(&mut running, &target.servers(), 8000));
    std::thread::sleep(Duration::from_millis(600));
    running.kill();
    let victim = target.servers()[0];
    victim.kill();
    victim.restart();
    let run = replay_at(target.port(), &args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let told = run.stderr.matches("started anew").count();
    assert_eq!(told, 2, "at its begin and its end: {}", run.stderr);
    assert!(names(&run.stderr, &["may be lost"]), "{}", run.stderr);
}

#[test]
fn a_server_that_was_restarted_between_two_runs_is_told() {
    a_restart_between_two_runs_is_told(&Target::server("redis-7.0"));
}

#[test]
fn a_server_behind_a_proxy_that_was_restarted_between_two_runs_is_told() {
    a_restart_between_two_runs_is_told(&Target::proxy(&[]));
}

#[test]
fn a_master_that_was_restarted_between_two_runs_is_told() {
    a_restart_between_two_runs_is_told(&Target::cluster());
}

/// What an earlier part of a run could not write is not forgotten by the one that comes to the end.
#[test]
fn what_was_rejected_before_a_kill_counts_at_the_end() {
    let target = Target::server("redis-7.0");
    let counts = (0..20_000).map(|i| format!("INCR count:{}", i % 7));
    let begin = ["SET text v", "LPUSH text x"].map(str::to_owned);
    let lines: Vec<String> = begin.into_iter().chain(counts).collect();
    let (_log_dir, file) = log_file(&log(&lines));
    let (_dir, path) = place();
    let (checkpoint, rejects) = (path("replay.checkpoint"), path("rejects.csv"));
    let continues = ["--on-error", "continue", "--rate", "10000"];
    let files = [
        "--checkpoint",
        &checkpoint,
        "--rejects",
        &rejects,
        text(&file),
    ];
    let args = [&continues[..], &files].concat();
    let mut running = Running::replay_at(target.port(), &args);
    assert!(arrive(&mut running, &target.servers(), 8000));
    running.terminate();
    let run = running.end(Duration::from_secs(20));
    assert_eq!(run.code, 143, "{}", run.stderr);
    let run = replay_at(target.port(), &args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("by earlier runs"), "{}", run.stderr);
    let csv = std::fs::read_to_string(&rejects).expect("the CSV");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines.len(),
        2,
        "a line of names and one of the command: {csv}"
    );
    assert!(lines[1].contains("WRONGTYPE"), "{csv}");
}
