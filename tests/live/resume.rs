//! A migration that is ended at any moment, politely or not, and started again with the same words.

use std::time::Duration;

use super::{Live, SOON, ends_equal, fill, info, source, until};
use crate::replay::Target;
use crate::support::client::call;
use crate::support::load::{Load, Mix, Renewal};
use crate::support::relay::Relay;
use crate::support::script::Dice;
use crate::support::server::Server;

/// Phases of a migration, as far as they can be told from outside.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Sync,
    Rdb,
    Aof,
    Online,
}

const PHASES: [Phase; 4] = [Phase::Sync, Phase::Rdb, Phase::Aof, Phase::Online];

const KEYS: usize = 8000;

/// How often a run is ended in each phase. `tests/kills` asks for more than there is time for in every run of the tests.
fn ends_in_each_phase() -> u64 {
    let named = std::env::var("REDIS_MIGRATION_KILLS");
    named.map_or(2, |times| times.parse().expect("a number"))
}

/// A source whose snapshot takes its time, a destination that does, and a load on the former.
struct Scene {
    source: Server,
    target: Target,
    relay: Option<Relay>,
    live: Live,
}

impl Scene {
    fn new(target: Target) -> Scene {
        let source = source("redis-7.0", &["--rdb-key-save-delay", "150"]);
        fill(&source, KEYS);
        // The nodes of a cluster tell their own addresses, so a relay would be left aside.
        let relay = match &target {
            Target::Cluster(_) => None,
            _ => Some(Relay::start(target.port())),
        };
        if let Some(relay) = &relay {
            // Each phase has to last for all of them.
            relay.delay(ends_in_each_phase(), ends_in_each_phase());
        }
        let port = relay.as_ref().map_or(target.port(), |relay| relay.port);
        let slow = ["--connections", "2", "--pipeline", "16"];
        let live = Live::new(source.port, port, &slow);
        Scene {
            source,
            target,
            relay,
            live,
        }
    }

    /// Waits until a run that was just started is in a phase. One that is past it already is good enough.
    fn reaches(&mut self, phase: Phase) {
        let (source, target) = (&self.source, &self.target);
        self.live
            .until(&format!("{phase:?}"), 2 * SOON, |live| match phase {
                Phase::Sync => {
                    let info = call!(source.client(), "INFO", "replication").text();
                    info.contains("slave0:")
                }
                Phase::Rdb => target.keys() > 100,
                Phase::Aof => target.keys() > KEYS as i64,
                Phase::Online => live.said().contains("caught up"),
            });
    }

    /// What an ended run had under way never arrives. What happens where it does has a test of its own.
    fn forget(&self) {
        if let Some(relay) = &self.relay {
            relay.reset();
        }
    }

    fn ends(mut self) {
        if let Some(relay) = &self.relay {
            relay.delay(0, 0);
        }
        self.live.acknowledges(&self.source);
        ends_equal(&mut self.live, &self.source, &self.target);
        self.live.terminate();
    }
}

/// Ends a run in each phase, by a signal that it cannot hear or by one that it can.
fn is_ended_in_each_phase(target: Target, seed: u64, end: impl Fn(&mut Live, Phase)) {
    let mut scene = Scene::new(target);
    let load = Load::mixed(
        &scene.source,
        Mix {
            seed,
            ..Mix::narrow()
        },
    );
    let mut dice = Dice::new(seed);
    for phase in PHASES {
        for _ in 0..ends_in_each_phase() {
            scene.live.start();
            scene.reaches(phase);
            std::thread::sleep(Duration::from_millis(dice.below(250)));
            end(&mut scene.live, phase);
            scene.forget();
        }
    }
    scene.live.start();
    load.does(1000);
    load.stop();
    scene.ends();
}

fn kill(live: &mut Live, _: Phase) {
    live.kill();
}

fn terminate(live: &mut Live, phase: Phase) {
    // Before its first words it may not listen to signals yet.
    live.until("a word", SOON, |live| !live.said().is_empty());
    let said = live.terminate();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    assert!(
        said.contains("interrupted") && said.contains("same command"),
        "{phase:?}: {last:?}"
    );
    assert!(!said.contains(": :"), "a name is missing: {last:?}");
}

#[test]
fn kills_in_each_phase_on_the_way_to_a_server() {
    is_ended_in_each_phase(Target::server("redis-7.0"), 11, kill);
}

#[test]
fn kills_in_each_phase_on_the_way_to_a_proxy() {
    is_ended_in_each_phase(Target::proxy(&[]), 12, kill);
}

#[test]
fn kills_in_each_phase_on_the_way_to_a_cluster() {
    is_ended_in_each_phase(Target::cluster(), 13, kill);
}

#[test]
fn sigterm_in_each_phase() {
    is_ended_in_each_phase(Target::server("redis-7.0"), 14, terminate);
}

#[test]
fn kills_at_any_moment_while_online_lose_and_double_nothing() {
    let mut scene = Scene::new(Target::server("redis-7.0"));
    let load = Load::mixed(&scene.source, Mix::narrow());
    let mut dice = Dice::new(15);
    scene.live.start();
    scene.live.catches_up();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(dice.below(600)));
        scene.live.kill();
        scene.forget();
        scene.live.start();
    }
    load.stop();
    let source = &scene.source;
    scene.live.acknowledges(source);
    // What the source remembers was enough each time.
    assert_eq!(
        info(source, "stats", "sync_full"),
        1,
        "{}",
        scene.live.said()
    );
    scene.ends();
}

/// The source has forgotten where the last run stood, and the destination holds keys that are gone from it.
#[test]
fn a_run_that_comes_back_too_late_begins_with_a_new_snapshot() {
    let source = source("redis-7.0", &["--repl-backlog-size", "16kb"]);
    let target = Target::server("redis-7.0");
    fill(&source, 1000);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    live.kill();
    let load = Load::mixed(&source, Mix::wide());
    for i in (0..1000).step_by(5) {
        call!(source.client(), "DEL", format!("filled:{i}"));
    }
    load.does(2000);
    live.start();
    until(SOON, || info(&source, "stats", "sync_full") == 2);
    load.does(500);
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A power cut may take the end of the log, although the destination has it already. What the source would give once
/// more does not stand where it stood.
#[test]
fn a_machine_that_went_down_begins_with_a_new_snapshot() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 500);
    let load = Load::mixed(&source, Mix::narrow());
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    for snapshots in 2..5 {
        load.does(700);
        live.kill();
        let json = |name: &str| {
            let text = std::fs::read(live.path(name)).expect("a file");
            serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")
        };
        let acknowledged = json("appendonly.aof.checkpoint")["start"]["log"].clone();
        let segment = acknowledged["file"].as_str().expect("a segment").to_owned();
        let file = std::fs::File::options()
            .write(true)
            .open(live.path(&segment));
        let file = file.expect("a segment");
        let lost = file.metadata().expect("it").len() - 300;
        file.set_len(lost).expect("a cut");
        let mut state = json("appendonly.aof.spool");
        assert_ne!(state["boot"], "");
        state["boot"] = "another".into();
        let text = serde_json::to_vec(&state).expect("JSON");
        std::fs::write(live.path("appendonly.aof.spool"), text).expect("a state");
        live.start();
        live.catches_up();
        assert_eq!(info(&source, "stats", "sync_full"), snapshots);
    }
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// A source that is written to may renew what is about to end, while nobody brings that to the destination.
#[test]
fn keys_that_are_renewed_while_no_run_is_there_stay() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 200);
    let renewal = Renewal::start(&source, 40);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    std::thread::sleep(Duration::from_millis(1500));
    let said = live.terminate();
    assert!(said.contains("--until caught-up"), "{said}");
    // Longer than the lives of the keys.
    std::thread::sleep(Duration::from_secs(5));
    live.start();
    renewal.keep();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    // Nobody writes any more: after three seconds nothing is held back.
    let said = live.terminate();
    assert!(!said.contains("--until caught-up"), "{said}");
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 200);
    let relay = Relay::start(target.port());
    let mut live = Live::new(source.port, relay.port, &[]).started();
    live.catches_up();
    relay.stop();
    call!(source.client(), "SET", "never", "answered");
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&live.process().child);
    for _ in 0..2 {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process");
        std::thread::sleep(Duration::from_millis(500));
    }
    let (code, said) = live.ends(Duration::from_secs(2));
    assert_eq!(code, 143, "{said}");
}

/// What a killed run had sent arrives when another has sent the same again and what comes behind it. It must not be
/// applied then: the last value would be an old one.
fn what_comes_too_late_does_no_harm(target: &Target) {
    let source = source("redis-7.0", &[]);
    fill(&source, 200);
    let relay = Relay::start(target.port());
    let mut live = Live::new(source.port, relay.port, &[]).started();
    live.catches_up();
    // Other commands came before, so that the checkpoint is one of the log.
    let mut client = source.client();
    for i in 0..100 {
        call!(client, "INCR", format!("before:{}", i % 5));
        call!(client, "SET", format!("gone:{i}"), "there");
        call!(client, "SADD", format!("set:{i}"), "m", "n");
        call!(client, "HSET", format!("hash:{i}"), "f", "1", "g", "1");
    }
    std::thread::sleep(Duration::from_millis(2500));
    relay.delay(4000, 0);
    for i in 0..20 {
        call!(client, "SET", format!("late:{i}"), "old");
        call!(client, "INCR", format!("before:{}", i % 5));
        call!(client, "RPUSH", format!("list:{i}"), "a");
        call!(client, "HSET", format!("hash:{i}"), "f", "old", "g", "old");
        call!(client, "HDEL", format!("hash:{}", i + 20), "f");
        call!(client, "DEL", format!("gone:{i}"));
        call!(client, "SREM", format!("set:{i}"), "m");
    }
    // Time for it to be received and sent.
    std::thread::sleep(Duration::from_millis(700));
    live.kill();
    relay.delay(0, 0);
    for i in 0..20 {
        call!(client, "SET", format!("late:{i}"), "new");
        call!(client, "RPUSH", format!("list:{i}"), "b");
        call!(client, "HSET", format!("hash:{i}"), "f", "new");
        call!(client, "HINCRBY", format!("hash:{}", i + 20), "f", "7");
        call!(client, "SET", format!("gone:{i}"), "back");
        call!(client, "SADD", format!("set:{i}"), "m");
    }
    live.start();
    live.acknowledges(&source);
    // Until the last of it has arrived.
    std::thread::sleep(Duration::from_millis(4500));
    ends_equal(&mut live, &source, target);
    live.terminate();
}

#[test]
fn what_a_killed_run_had_sent_comes_too_late_to_a_server() {
    what_comes_too_late_does_no_harm(&Target::server("redis-7.0"));
}

#[test]
fn what_a_killed_run_had_sent_comes_too_late_to_a_proxy() {
    what_comes_too_late_does_no_harm(&Target::proxy(&[]));
}

/// What a run writes down at the destination is of no use behind its end, also where the last part of it had nothing
/// more to do.
fn leaves_no_records(target: &Target) {
    let source = source("redis-7.0", &[]);
    fill(&source, 200);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    for i in 0..100 {
        call!(source.client(), "INCR", format!("count:{i}"));
    }
    live.acknowledges(&source);
    let records = || {
        let of = |server: &&Server| {
            let found = call!(server.client(), "KEYS", "__redis-migration:*");
            found.all_bytes().len()
        };
        target.servers().iter().map(of).sum::<usize>()
    };
    until(SOON, || records() > 0);
    live.terminate();
    assert!(records() > 0, "they are for the next run");
    let words = ["--until", "caught-up"].map(str::to_owned);
    live.words.extend(words);
    live.start();
    let (code, said) = live.ends(SOON);
    assert_eq!((code, records()), (0, 0), "{said}");
}

#[test]
fn an_end_with_nothing_left_to_do_leaves_no_records() {
    leaves_no_records(&Target::server("redis-7.0"));
}

#[test]
fn an_end_with_nothing_left_to_do_leaves_no_records_behind_a_proxy() {
    leaves_no_records(&Target::proxy(&[]));
}

#[test]
fn an_end_with_nothing_left_to_do_leaves_no_records_in_a_cluster() {
    leaves_no_records(&Target::cluster());
}
