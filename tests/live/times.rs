//! Keys with short lives that somebody renews all the time: the source has them always, so the destination must, however
//! slowly it gets its snapshot.

use std::time::{Duration, Instant};

use super::{Live, SOON, acknowledged, ends_equal, fill, source};
use crate::replay::Target;
use crate::support::client::{Client, Reply, call};
use crate::support::load::Renewal;
use crate::support::relay::Relay;
use crate::support::server::{Server, available};

const RENEWED: usize = 40;

/// Which renewed keys are missing where they have been seen, though the source has them.
struct Watch {
    seen: Vec<bool>,
    missed: Vec<String>,
}

impl Watch {
    fn look(&mut self, renewal: &Renewal, destination: &mut Client, fields: bool) {
        for (i, key) in renewal.keys().enumerate() {
            let there = match fields {
                true => call!(destination, "HEXISTS", &key, "f"),
                false => call!(destination, "EXISTS", &key),
            };
            let there = there.int() == 1;
            if there {
                self.seen[i] = true;
            } else if self.seen[i] && !renewal.lost().contains(&key) {
                self.missed.push(key);
            }
        }
    }
}

fn renewed_keys_are_never_missed(name: &str, target: &Target) {
    are_never_missed(name, target, false);
}

fn are_never_missed(name: &str, target: &Target, fields: bool) {
    if !available(name) {
        return;
    }
    let source = source(name, &[]);
    fill(&source, 6000);
    let renewal = match fields {
        true => Renewal::of_fields(&source, RENEWED),
        false => Renewal::start(&source, RENEWED),
    };
    // Slower than the shortest lives are long, and than most of the others.
    let relay = Relay::start(target.port());
    relay.delay(4, 4);
    let slow = ["--connections", "2", "--pipeline", "8", "--rate", "1000"];
    let mut live = Live::new(source.port, relay.port, &slow).started();
    let mut client = Client::connect(target.port()).expect("a destination");
    let mut watch = Watch {
        seen: vec![false; RENEWED],
        missed: Vec::new(),
    };
    let begin = Instant::now();
    let mut caught_up = None;
    // Only who says so is shown by a Valkey in import mode what waits for a command that renews it.
    let mut sees_all = import_mode(target).is_none();
    while caught_up.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(4)) {
        sees_all = sees_all || is_shown_all(&mut client);
        if sees_all {
            watch.look(&renewal, &mut client, fields);
        }
        if caught_up.is_none() && live.said().contains("caught up") {
            caught_up = Some(Instant::now());
        }
        assert!(live.is_running(), "{}", live.said());
        assert!(begin.elapsed() < 2 * SOON, "{}", live.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        begin.elapsed() > Duration::from_secs(6),
        "it was too fast: {:?}",
        begin.elapsed()
    );
    assert_eq!(watch.missed, Vec::<String>::new(), "{}", live.said());
    let missing = watch.seen.iter().filter(|seen| !**seen).count();
    assert!(
        missing <= renewal.lost().len(),
        "{missing} were never there"
    );
    renewal.keep();
    acknowledged(&source, SOON).expect("its offset");
    assert!(sees_all, "{}", live.said());
    let slack = if name == "redis-6.2" { 1500 } else { 0 };
    super::ends_equal_within(&mut live, &source, target, slack);
    live.terminate();
}

/// Whether a connection is in import mode, as far as it can be by now.
fn is_shown_all(client: &mut Client) -> bool {
    let answer = client.try_call(&[b"CLIENT", b"IMPORT-SOURCE", b"ON"]);
    answer.expect("an answer") == Reply::Status("OK".to_owned())
}

/// Whether import mode is on, where a server has one.
fn import_mode(target: &Target) -> Option<bool> {
    let mode = call!(target.servers()[0].client(), "CONFIG", "GET", "import-mode");
    mode.all_bytes().get(1).map(|mode| mode == b"yes")
}

fn imports(target: &Target) -> bool {
    import_mode(target) == Some(true)
}

#[test]
fn renewed_keys_are_never_missed_in_a_server() {
    let target = Target::server("redis-7.0");
    renewed_keys_are_never_missed("redis-7.0", &target);
}

#[test]
fn renewed_keys_of_redis_6_2_are_never_missed() {
    let target = Target::server("redis-7.0");
    renewed_keys_are_never_missed("redis-6.2", &target);
}

#[test]
fn renewed_keys_are_never_missed_in_valkey() {
    if available("valkey-9.1") {
        let target = Target::server("valkey-9.1");
        renewed_keys_are_never_missed("valkey-9.1", &target);
        // Whatever was done to the server so that it keeps keys is undone.
        assert!(!imports(&target));
    }
}

/// A run that was killed leaves nothing ahead of its time, and what is renewed meanwhile stays nevertheless: in import
/// mode it waits for the next run. `--hold 0` takes away what else would keep it.
#[test]
fn import_mode_keeps_what_is_renewed_while_no_run_is_there() {
    if !available("valkey-9.1") {
        return;
    }
    let (source, target) = (source("valkey-9.1", &[]), Target::server("valkey-9.1"));
    fill(&source, 200);
    let renewal = Renewal::start(&source, RENEWED);
    let mut live = Live::new(source.port, target.port(), &["--hold", "0"]).started();
    live.catches_up();
    assert!(imports(&target));
    live.kill();
    // Longer than the lives of the keys.
    std::thread::sleep(Duration::from_secs(6));
    live.start();
    live.acknowledges(&source);
    // Ended in order while the source is written to, it leaves the mode to the next run, and says so.
    std::thread::sleep(Duration::from_secs(1));
    let said = live.terminate();
    assert!(said.contains("CONFIG SET import-mode no"), "{said}");
    assert!(imports(&target));
    std::thread::sleep(Duration::from_secs(6));
    live.start();
    live.acknowledges(&source);
    renewal.keep();
    ends_equal(&mut live, &source, &target);
    // Nobody writes any more.
    let said = live.terminate();
    assert!(!said.contains("CONFIG SET"), "{said}");
    assert!(!imports(&target));
}

/// The last of several runs turns it off.
#[test]
fn import_mode_is_left_on_for_another_run() {
    if !available("valkey-9.1") {
        return;
    }
    let (one, other) = (source("redis-7.0", &[]), source("valkey-9.1", &[]));
    call!(one.client(), "SET", "one", "1", "PX", "100000000");
    call!(other.client(), "SET", "other", "2");
    let target = Target::server("valkey-9.1");
    let mut stays = Live::new(one.port, target.port(), &[]).started();
    stays.catches_up();
    let mut ends = Live::new(other.port, target.port(), &["--until", "caught-up"]).started();
    let (code, said) = ends.ends(SOON);
    assert_eq!(code, 0, "{said}");
    assert!(imports(&target), "{said}");
    super::rest();
    stays.acknowledges(&one);
    let said = stays.terminate();
    assert!(!imports(&target), "{said}");
    assert_eq!(target.data().len(), 2);
}

/// A run that is not in import mode itself would never turn it off.
#[test]
fn import_mode_is_not_left_on_for_a_run_without_it() {
    if !available("valkey-9.1") {
        return;
    }
    let (one, other) = (source("redis-7.0", &[]), source("redis-7.0", &[]));
    call!(one.client(), "SET", "one", "1");
    call!(other.client(), "SET", "other", "2");
    let target = Target::server("valkey-9.1");
    let words = ["--no-import-mode"];
    let mut stays = Live::new(one.port, target.port(), &words).started();
    stays.catches_up();
    let mut ends = Live::new(other.port, target.port(), &["--until", "caught-up"]).started();
    let (code, said) = ends.ends(SOON);
    assert_eq!(code, 0, "{said}");
    assert!(!imports(&target), "{said}");
    stays.terminate();
}

/// That the source was quiet once is not known to be so any more while what it did since is still being sent.
#[test]
fn import_mode_stays_on_where_a_quiet_source_is_written_to_again() {
    if !available("valkey-9.1") {
        return;
    }
    let (source, target) = (source("redis-7.0", &[]), Target::server("valkey-9.1"));
    call!(source.client(), "SET", "a", "1");
    let mut live = Live::new(source.port, target.port(), &["--rate", "100"]).started();
    live.catches_up();
    // Longer than a source is silent that counts as quiet.
    std::thread::sleep(Duration::from_secs(5));
    fill(&source, 6000);
    std::thread::sleep(Duration::from_secs(1));
    let said = live.terminate();
    assert!(said.contains("CONFIG SET import-mode no"), "{said}");
    assert!(imports(&target), "{said}");
}

/// A run that came to its end has turned import mode off: whoever goes on later is told what may be missing, as where
/// there is no such mode.
#[test]
fn a_run_behind_the_end_of_one_in_import_mode_tells_of_the_time_between() {
    if !available("valkey-9.1") {
        return;
    }
    let (source, target) = (source("redis-7.0", &[]), Target::server("valkey-9.1"));
    fill(&source, 100);
    let words = ["--until", "caught-up", "--keep-spool"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    assert_eq!(live.ends(SOON).0, 0, "{}", live.before);
    assert!(!imports(&target));
    let path = live.path("appendonly.aof.checkpoint");
    let text = std::fs::read(&path).expect("a checkpoint");
    let mut checkpoint: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    checkpoint["written_at"] = "2026-01-01T00:00:00Z".into();
    let text = serde_json::to_vec(&checkpoint).expect("JSON");
    std::fs::write(&path, text).expect("a checkpoint");
    live.start();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the last run was here"), "{said}");
}

/// Who may not change the server's configuration, and who is not to, holds back.
#[test]
fn without_import_mode_expiries_are_held_back() {
    if !available("valkey-9.1") {
        return;
    }
    for words in [&[][..], &["--no-import-mode"]] {
        let (source, target) = (source("redis-7.0", &[]), Target::server("valkey-9.1"));
        let mut admin = target.servers()[0].client();
        if words.is_empty() {
            call!(admin, "ACL", "SETUSER", "default", "-config");
        }
        let renewal = Renewal::start(&source, RENEWED);
        let mut live = Live::new(source.port, target.port(), words).started();
        live.catches_up();
        assert!(!is_shown_all(&mut admin), "{}", live.said());
        live.kill();
        std::thread::sleep(Duration::from_secs(6));
        live.start();
        live.acknowledges(&source);
        renewal.keep();
        ends_equal(&mut live, &source, &target);
        live.terminate();
    }
}

/// A source that is silent from the beginning tells of no end of a key's life; it comes all the same.
#[test]
fn keys_of_a_silent_source_have_their_own_time() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    call!(source.client(), "SET", "near", "x", "PX", "50000");
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    let end = |server: &Server| call!(server.client(), "PEXPIRETIME", "near").int();
    super::until(Duration::from_secs(20), || {
        end(&source) == end(target.servers()[0])
    });
    live.terminate();
}

#[test]
fn renewed_fields_are_never_missed_in_valkey() {
    if available("valkey-9.1") {
        are_never_missed("valkey-9.1", &Target::server("valkey-9.1"), true);
    }
}

#[test]
fn renewed_keys_are_never_missed_behind_a_proxy() {
    let target = Target::proxy(&[]);
    renewed_keys_are_never_missed("redis-7.0", &target);
}

/// Keys whose end comes while the snapshot is on its way are gone at the destination too, at last.
#[test]
fn keys_that_end_meanwhile_are_gone() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 3000);
    let mut client = source.client();
    for i in 0..300 {
        call!(
            client,
            "SET",
            format!("short:{i}"),
            "x",
            "PX",
            (1000 + i * 10).to_string()
        );
        call!(
            client,
            "SET",
            format!("far:{i}"),
            "x",
            "PXAT",
            (4_102_444_800_123_i64 + i).to_string()
        );
    }
    let mut live = Live::new(source.port, target.port(), &["--rate", "1000"]).started();
    live.catches_up();
    // The last of them ends after four seconds, and as long the source has something to tell.
    std::thread::sleep(Duration::from_secs(4));
    ends_equal(&mut live, &source, &target);
    live.terminate();
}
