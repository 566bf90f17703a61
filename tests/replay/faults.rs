//! What must happen when something breaks: nothing is lost, nothing doubled, and no success is claimed that is none.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::{
    Dice, Sample, Target, arrive, log_of_increments, names, place, scaled, snapshot, while_running,
};
use crate::support::cli::{Run, Running, replay, replay_at, replayed_at};
use crate::support::client::{Client, Reply, call};
use crate::support::cluster::Cluster;
use crate::support::relay::Relay;
use crate::support::resp::append_command;
use crate::support::server::{Nutcracker, Server, free_port};
use crate::support::text;

const SMALL_WINDOW: &[&str] = &["--connections", "2", "--pipeline", "16"];

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn start(port: u16, args: &[&str], sample: &Sample) -> Running {
    Running::replay_at(port, &[SMALL_WINDOW, args, &[sample.path()]].concat())
}

fn assert_whole(run: &Run, times: usize, least: usize, sample: &Sample, servers: &[&Server]) {
    assert_eq!(run.code, 0, "after {times} faults: {}", run.stderr);
    assert!(times >= least, "it had ended after {times} faults");
    sample.assert_in(servers, &format!("after {times} faults"));
}

/// As [`assert_whole`], where a server was started again or has lost its rank: whatever it held was kept, but a run may
/// say that it cannot be sure, as long as it says why.
fn assert_whole_if_unsure(
    run: &Run,
    times: usize,
    least: usize,
    sample: &Sample,
    servers: &[&Server],
) {
    let sure = run.code == 0;
    let says_why =
        run.code == 1 && names(&run.stderr, &["was started anew", "has become a replica"]);
    assert!(
        sure || says_why,
        "exit {} after {times} faults: {}",
        run.code,
        run.stderr
    );
    assert!(times >= least, "it had ended after {times} faults");
    sample.assert_in(servers, &format!("after {times} faults"));
}

fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Sends both a snapshot and a log through a relay while `breaks` does its worst twenty times.
fn both(target: &Target, args: &[&str], mut breaks: impl FnMut(&Relay, usize)) {
    let relay = Relay::start(target.port());
    relay.delay(1, 1);
    for sample in [&*snapshot(), &log_of_increments(scaled(20_000))] {
        target.flush();
        let running = start(relay.port, args, sample);
        let (run, times) = while_running(running, &target.servers(), 20, 80, |i| breaks(&relay, i));
        assert_whole(&run, times, 10, sample, &target.servers());
    }
}

// Connections.

#[test]
fn twenty_resets_lose_and_double_nothing() {
    both(&Target::server("redis-7.0"), &[], |relay, _| relay.reset());
}

#[test]
fn twenty_resets_lose_and_double_nothing_of_plain_commands() {
    let args = ["--mode", "commands"];
    both(&Target::server("redis-7.0"), &args, |relay, i| {
        if i % 2 == 0 {
            relay.reset()
        } else {
            relay.cut()
        }
    });
}

#[test]
fn replies_that_are_lost_lose_and_double_nothing() {
    both(&Target::server("redis-7.0"), &[], |relay, _| {
        relay.lose_replies(Duration::from_millis(10));
    });
}

#[test]
fn twenty_resets_in_front_of_a_proxy_lose_and_double_nothing() {
    both(&Target::proxy(&[]), &[], |relay, _| relay.reset());
}

#[test]
fn replies_that_are_lost_in_front_of_a_proxy_lose_and_double_nothing() {
    both(
        &Target::proxy(&[("server_connections", "4")]),
        &[],
        |relay, _| relay.lose_replies(Duration::from_millis(10)),
    );
}

#[test]
fn a_link_of_single_bytes_and_stalls_carries_everything() {
    let (sample, target) = (log_of_increments(2000), Target::server("redis-7.0"));
    let relay = Relay::start(target.port());
    relay.drip(true);
    let running = start(relay.port, &[], &sample);
    let (run, _) = while_running(running, &target.servers(), 5, 50, |_| {
        relay.stop();
        sleep(50);
        relay.go_on();
    });
    assert_whole(&run, 0, 0, &sample, &target.servers());
}

#[test]
fn a_cluster_that_closes_connections_gets_everything_once() {
    let target = Target::cluster();
    for sample in [&*snapshot(), &log_of_increments(scaled(20_000))] {
        target.flush();
        let running = start(target.port(), &["--rate", "20000"], sample);
        let (run, times) = while_running(running, &target.servers(), 20, 60, |i| {
            let servers = target.servers();
            let mut client = servers[i % servers.len()].client();
            call!(client, "CLIENT", "KILL", "TYPE", "normal");
        });
        assert_whole(&run, times, 8, sample, &target.servers());
    }
}

/// A proxy with a relay in front of each of its servers.
fn proxy_over_relays(settings: &[(&str, &str)]) -> (Vec<Server>, Vec<Relay>, Nutcracker) {
    let servers: Vec<Server> = (0..3).map(|_| Server::start("redis-7.0")).collect();
    let relays: Vec<Relay> = servers.iter().map(|s| Relay::start(s.port)).collect();
    let ports: Vec<u16> = relays.iter().map(|relay| relay.port).collect();
    let proxy = Nutcracker::over_ports(&ports, settings, &[]);
    (servers, relays, proxy)
}

#[test]
fn resets_behind_a_proxy_lose_and_double_nothing() {
    let (servers, relays, proxy) = proxy_over_relays(&[("server_connections", "2")]);
    relays.iter().for_each(|relay| relay.delay(1, 1));
    let all: Vec<&Server> = servers.iter().collect();
    for sample in [&*snapshot(), &log_of_increments(scaled(20_000))] {
        servers.iter().for_each(Server::flush);
        let running = start(proxy.port, &[], sample);
        let (run, times) = while_running(running, &all, 20, 80, |i| {
            let relay = &relays[i % 3];
            if i % 2 == 0 {
                relay.reset();
            } else {
                relay.lose_replies(Duration::from_millis(10));
            }
        });
        assert_whole(&run, times, 10, sample, &all);
    }
}

// Time.

#[test]
fn a_command_that_comes_after_its_repetition_does_no_harm() {
    let target = Target::server("redis-7.0");
    let relay = Relay::start(target.port());
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        relay.delay(1, 1);
        let running = start(
            relay.port,
            &["--timeout", "300ms", "--rate", "6000"],
            sample,
        );
        let (run, times) = while_running(running, &target.servers(), 4, 200, |_| {
            // What is sent now arrives long after the program has given it up; what is sent later, at once.
            relay.delay(900, 1);
            sleep(60);
            relay.delay(1, 1);
        });
        assert_whole(&run, times, 2, sample, &target.servers());
    }
}

#[test]
fn a_command_that_comes_after_its_repetition_behind_a_proxy_does_no_harm() {
    let (servers, relays, proxy) = proxy_over_relays(&[("timeout", "300")]);
    let all: Vec<&Server> = servers.iter().collect();
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        servers.iter().for_each(Server::flush);
        relays.iter().for_each(|relay| relay.delay(1, 1));
        let running = start(
            proxy.port,
            &["--proxy-timeout", "300ms", "--rate", "6000"],
            sample,
        );
        let (run, times) = while_running(running, &all, 4, 200, |i| {
            relays[i % 3].delay(700, 1);
            sleep(60);
            relays[i % 3].delay(1, 1);
        });
        assert_whole(&run, times, 2, sample, &all);
    }
}

#[test]
fn a_proxy_that_gives_up_on_stalled_servers_gets_everything_once() {
    let target = Target::proxy(&[("timeout", "300")]);
    let relay = Relay::start(target.port());
    relay.delay(1, 1);
    for sample in [&*snapshot(), &log_of_increments(scaled(20_000))] {
        target.flush();
        let running = start(relay.port, &["--proxy-timeout", "300ms"], sample);
        let (run, times) = while_running(running, &target.servers(), 5, 300, |i| {
            let servers = target.servers();
            servers[i % 3].pause();
            sleep(500);
            servers[i % 3].resume();
        });
        assert_whole(&run, times, 2, sample, &target.servers());
    }
}

// Servers that end.

#[test]
fn a_durable_server_that_dies_and_comes_again_gets_everything_once() {
    let target = Target::Server(Server::with("redis-7.0", DURABLE));
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        let running = start(target.port(), &["--rate", "10000"], sample);
        let (run, times) = while_running(running, &target.servers(), 3, 400, |_| {
            target.servers()[0].kill();
            sleep(100);
            target.servers()[0].restart();
        });
        assert_whole_if_unsure(&run, times, 2, sample, &target.servers());
    }
}

#[test]
fn a_durable_server_that_dies_behind_a_proxy_gets_everything_once() {
    let target = Target::proxy_over("redis-7.0", &[], DURABLE);
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        let running = start(target.port(), &["--rate", "10000"], sample);
        let (run, times) = while_running(running, &target.servers(), 3, 400, |i| {
            target.servers()[i % 3].kill();
            sleep(100);
            target.servers()[i % 3].restart();
        });
        assert_whole_if_unsure(&run, times, 2, sample, &target.servers());
    }
}

/// A server that forgets everything when it is started again must not be reported as filled.
fn is_not_claimed(target: &Target) {
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        let mut running = start(target.port(), &["--rate", "10000"], sample);
        assert!(arrive(&mut running, &target.servers(), 3000));
        let victim = target.servers()[0];
        assert!(super::keys_in(&[victim]) > 0, "nothing would be lost");
        victim.kill();
        sleep(100);
        victim.restart();
        let run = running.end(Duration::from_secs(60));
        assert_ne!(run.code, 0, "{}", run.stderr);
        assert!(
            names(&run.stderr, &["restart", "started again", "run_id", "lost"]),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_server_that_came_again_empty_is_not_claimed_to_be_filled() {
    is_not_claimed(&Target::server("redis-7.0"));
}

#[test]
fn a_server_that_came_again_empty_behind_a_proxy_is_not_claimed_to_be_filled() {
    is_not_claimed(&Target::proxy(&[]));
}

#[test]
fn a_proxy_that_dies_and_comes_again_passes_everything_on_once() {
    let target = Target::proxy(&[]);
    let Target::Proxy(proxy, servers) = &target else {
        unreachable!("it was made a line above")
    };
    let all: Vec<&Server> = servers.iter().collect();
    for sample in [&*snapshot(), &log_of_increments(scaled(20_000))] {
        target.flush();
        let running = start(proxy.port, &["--rate", "15000"], sample);
        let (run, times) = while_running(running, &all, 6, 250, |i| {
            proxy.kill();
            sleep(if i % 2 == 0 { 0 } else { 300 });
            proxy.restart();
        });
        assert_whole(&run, times, 3, sample, &all);
    }
}

#[test]
fn a_destination_that_stays_away_is_given_up_in_time() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let mut running = start(
        target.port(),
        &["--rate", "5000", "--retry-for", "2s"],
        &sample,
    );
    assert!(arrive(&mut running, &target.servers(), 1000));
    target.servers()[0].kill();
    let begin = Instant::now();
    let run = running.end(Duration::from_secs(20));
    assert_eq!(run.code, 4, "{}", run.stderr);
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(1500) && took < Duration::from_secs(10),
        "{took:?}"
    );
}

/// Whether they were applied nobody can tell any more.
#[test]
fn keys_whose_answers_are_lost_for_good_are_listed() {
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        let target = Target::server("redis-7.0");
        let relay = Relay::start(target.port());
        // So that there always is something on its way.
        relay.delay(20, 20);
        let (_dir, path) = place();
        let rejects = path("rejects.csv");
        let args = ["--rate", "5000", "--retry-for", "1s", "--rejects", &rejects];
        let mut running = start(relay.port, &args, sample);
        assert!(arrive(&mut running, &target.servers(), 100));
        target.servers()[0].kill();
        let run = running.end(Duration::from_secs(20));
        assert_eq!(run.code, 4, "{}", run.stderr);
        assert!(names(&run.stderr, &["not answered"]), "{}", run.stderr);
        let mut lines = csv::Reader::from_path(&rejects).expect("the CSV");
        let listed = lines.records().count();
        assert!((1..=2 * 256).contains(&listed), "{listed} keys");
    }
}

// Servers that refuse.

/// Runs with a destination that refuses for a second in the middle, and from then on takes everything.
fn pauses(target: &Target, refuse: impl Fn(&Server), relent: impl Fn(&Server)) {
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        let mut running = start(
            target.port(),
            &["--rate", "8000", "--retry-for", "30s"],
            sample,
        );
        assert!(arrive(&mut running, &target.servers(), 2000));
        let victim = target.servers()[0];
        refuse(victim);
        sleep(1000);
        assert!(
            running.is_running(),
            "{}",
            running.end(Duration::ZERO).stderr
        );
        relent(victim);
        let run = running.end(Duration::from_secs(60));
        assert_whole(&run, 1, 1, sample, &target.servers());
    }
}

fn out_of_memory(target: &Target) {
    pauses(
        target,
        |server| server.set("maxmemory", "1"),
        |server| server.set("maxmemory", "0"),
    );
}

#[test]
fn a_server_without_memory_is_waited_for() {
    out_of_memory(&Target::server("redis-7.0"));
}

#[test]
fn a_server_without_memory_behind_a_proxy_is_waited_for() {
    out_of_memory(&Target::proxy(&[]));
}

#[test]
fn a_server_without_memory_in_a_cluster_is_waited_for() {
    out_of_memory(&Target::cluster());
}

fn read_only(target: &Target) {
    let nowhere = free_port().to_string();
    pauses(
        target,
        |server| {
            call!(server.client(), "REPLICAOF", "127.0.0.1", nowhere);
        },
        |server| {
            call!(server.client(), "REPLICAOF", "NO", "ONE");
        },
    );
}

#[test]
fn a_server_that_is_made_a_replica_for_a_second_is_waited_for() {
    read_only(&Target::server("redis-7.0"));
}

#[test]
fn a_server_behind_a_proxy_that_is_made_a_replica_for_a_second_is_waited_for() {
    read_only(&Target::proxy(&[]));
}

fn busy(target: &Target) {
    for server in target.servers() {
        server.set("busy-reply-threshold", "50");
    }
    pauses(
        target,
        |server| {
            let mut client = server.client();
            client.send(&[b"EVAL", b"while true do end", b"0"]);
            // Its answer, an error, nobody wants; but the connection must stay.
            std::mem::forget(client);
        },
        |server| {
            let reply = server.client().try_call(&[b"SCRIPT", b"KILL"]);
            assert!(matches!(reply, Ok(Reply::Status(_))), "{reply:?}");
        },
    );
}

#[test]
fn a_server_that_is_busy_with_a_script_is_waited_for() {
    busy(&Target::server("redis-7.0"));
}

#[test]
fn a_server_behind_a_proxy_that_is_busy_with_a_script_is_waited_for() {
    busy(&Target::proxy(&[]));
}

#[test]
fn a_server_that_wants_replicas_is_waited_for() {
    pauses(
        &Target::server("redis-7.0"),
        |server| server.set("min-replicas-to-write", "1"),
        |server| server.set("min-replicas-to-write", "0"),
    );
}

#[test]
fn a_server_that_cannot_save_is_waited_for() {
    // Each time there is a directory to take away.
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        let target = Target::server("redis-7.0");
        let server = target.servers()[0];
        let mut running = start(
            target.port(),
            &["--rate", "8000", "--retry-for", "30s"],
            sample,
        );
        assert!(arrive(&mut running, &[server], 2000));
        server.set("save", "3600 1");
        std::fs::remove_dir_all(server.dir()).expect("the removal of its directory");
        let mut client = server.client();
        call!(client, "BGSAVE");
        crate::support::cluster::until(Duration::from_secs(10), || {
            call!(client, "INFO", "persistence")
                .text()
                .contains("rdb_last_bgsave_status:err")
        });
        sleep(500);
        server.set("stop-writes-on-bgsave-error", "no");
        let run = running.end(Duration::from_secs(60));
        assert_whole(&run, 1, 1, sample, &[server]);
    }
}

/// A server that dies and loads for seconds, and says so to all that ask.
fn loading(target: &Target) {
    for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
        target.flush();
        let mut running = start(
            target.port(),
            &["--rate", "8000", "--retry-for", "30s"],
            sample,
        );
        let victim = target.servers()[0];
        // It looks at its clients once in a thousand commands.
        assert!(arrive(&mut running, &[victim], 2500));
        victim.kill();
        victim.respawn(&[
            "--key-load-delay",
            "1000",
            "--loading-process-events-interval-bytes",
            "1024",
        ]);
        let mut seen = false;
        crate::support::cluster::until(Duration::from_secs(30), || {
            let reply = Client::connect(victim.port)
                .and_then(|mut client| client.try_call(&[b"GET", b"any"]));
            match reply {
                Ok(Reply::Error(text)) => {
                    seen |= text.starts_with("LOADING");
                    false
                }
                Ok(_) => true,
                Err(_) => false,
            }
        });
        assert!(seen, "it had loaded before anyone asked");
        let run = running.end(Duration::from_secs(60));
        assert_whole_if_unsure(&run, 1, 1, sample, &target.servers());
    }
}

#[test]
fn a_server_that_loads_is_waited_for() {
    loading(&Target::Server(Server::with("redis-7.0", DURABLE)));
}

#[test]
fn a_server_that_loads_behind_a_proxy_is_waited_for() {
    loading(&Target::proxy_over("redis-7.0", &[], DURABLE));
}

#[test]
fn a_server_that_stays_without_memory_is_given_up_and_no_key_is_left_out() {
    for (kind, target) in [
        ("a server", Target::server("redis-7.0")),
        ("a cluster", Target::cluster()),
        ("a proxy", Target::proxy(&[])),
    ] {
        for sample in [&*snapshot(), &log_of_increments(scaled(10_000))] {
            target.flush();
            let (_dir, path) = place();
            let checkpoint = path("replay.checkpoint");
            let args = [
                "--rate",
                "8000",
                "--retry-for",
                "2s",
                "--checkpoint",
                &checkpoint,
            ];
            let mut running = start(target.port(), &args, sample);
            assert!(arrive(&mut running, &target.servers(), 2000));
            let victim = target.servers()[0];
            victim.set("maxmemory", "1");
            let begin = Instant::now();
            let run = running.end(Duration::from_secs(30));
            assert_ne!(run.code, 0, "{}", run.stderr);
            assert!(
                begin.elapsed() < Duration::from_secs(15),
                "{:?}",
                begin.elapsed()
            );
            victim.set("maxmemory", "0");
            // The same line goes on where it stopped: had it left out a key, it would be missing now.
            let run = start(target.port(), &args, sample).end(Duration::from_secs(60));
            assert_eq!(run.code, 0, "{kind}: {}", run.stderr);
            sample.assert_in(&target.servers(), kind);
        }
    }
}

// Wrong endpoints.

/// A run that must fail soon with this code and one of these words.
fn fails_with(code: i32, args: &[&str], why: &[&str]) {
    let sample = snapshot();
    let begin = Instant::now();
    let all = [args, &["--timeout", "2s", sample.path()]].concat();
    let run = replay(&all);
    assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
    assert!(names(&run.stderr, why), "{args:?}: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(8), "{args:?}: {took:?}");
}

#[test]
fn a_wrong_password_and_none_are_refused_before_anything_is_written() {
    let server = Server::start("redis-7.0");
    let port = server.port.to_string();
    let at = ["-h", "127.0.0.1", "-p", &port];
    server.set("requirepass", "the right one");
    let wrong = [&at[..], &["-a", "the wrong one"]].concat();
    fails_with(4, &wrong, &["WRONGPASS", "password"]);
    fails_with(4, &at, &["NOAUTH", "password", "authentication"]);
    let mut client = server.client();
    call!(client, "AUTH", "the right one");
    assert_eq!(call!(client, "DBSIZE").int(), 0);
    let sample = snapshot();
    let run = replay(&[&at[..], &["-a", "the right one", sample.path()]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!run.stderr.contains("the right one"), "{}", run.stderr);
    call!(client, "CONFIG", "SET", "requirepass", "");
    sample.assert_in(&[&server], "with the password");
}

#[test]
fn a_password_for_a_server_that_has_none_is_refused() {
    let old = Server::start("redis-5.0");
    let port = old.port.to_string();
    let args = ["-h", "127.0.0.1", "-p", &port, "-a", "secret"];
    fails_with(4, &args, &["password"]);
    assert_eq!(super::keys_in(&[&old]), 0);
}

#[test]
fn a_user_without_permission_is_refused_before_anything_is_written() {
    let server = Server::start("redis-7.0");
    let port = server.port.to_string();
    call!(
        server.client(),
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "~*",
        "+@read",
        "+@connection",
        "+info"
    );
    let sample = snapshot();
    let at = [
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "--user",
        "reader",
        "-a",
        "secret",
    ];
    let run = replay(&[&at[..], &[sample.path()]].concat());
    assert!(matches!(run.code, 4 | 5), "{}: {}", run.code, run.stderr);
    assert!(
        names(&run.stderr, &["NOPERM", "permission"]),
        "{}",
        run.stderr
    );
    assert_eq!(super::keys_in(&[&server]), 0);
}

#[test]
fn a_server_with_no_room_for_a_client_is_named() {
    let server = Server::start("redis-7.0");
    server.set("maxclients", "1");
    let client = server.client();
    let port = server.port.to_string();
    fails_with(
        4,
        &["-h", "127.0.0.1", "-p", &port],
        &["max number of clients"],
    );
    drop(client);
}

/// Listens and answers whatever comes with these bytes, or not at all.
fn stranger(answer: Option<&'static [u8]>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    // It ends with the tests.
    std::thread::spawn(move || {
        let mut all = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let Some(answer) = answer else {
                all.push(stream);
                continue;
            };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    port
}

#[test]
fn whatever_is_no_redis_server_is_told_so_in_time() {
    let nobody = free_port().to_string();
    fails_with(4, &["-h", "127.0.0.1", "-p", &nobody], &["refused"]);
    let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    for (answer, why) in [
        (Some(&http[..]), &["http", "not a redis"][..]),
        (
            Some(b"\x15\x03\x01\x00\x02\x02\x50"),
            &["TLS", "not a redis"],
        ),
        (
            Some(b"{\"service\":\"nutcracker\"}"),
            &["JSON", "not a redis"],
        ),
        (Some(b""), &["closed"]),
        (
            None,
            &["timed out", "no answer", "within", "did not answer"],
        ),
    ] {
        let port = stranger(answer).to_string();
        fails_with(4, &["-h", "127.0.0.1", "-p", &port], why);
    }
    let path = std::env::temp_dir().join("there-is-no-such-socket");
    fails_with(4, &["-s", crate::support::text(&path)], &["no such"]);
    fails_with(4, &["-h", "host.invalid", "-p", "6379"], &["host.invalid"]);
}

#[test]
fn tls_to_a_plain_port_is_told_so_in_time() {
    let server = Server::start("redis-7.0");
    let port = server.port.to_string();
    fails_with(
        4,
        &["-h", "127.0.0.1", "-p", &port, "--tls", "--insecure"],
        &["tls"],
    );
    assert_eq!(super::keys_in(&[&server]), 0);
    // A server that neither answers nor closes, as a proxy does with bytes it cannot read.
    let silent = stranger(None).to_string();
    fails_with(
        4,
        &["-h", "127.0.0.1", "-p", &silent, "--tls", "--insecure"],
        &["tls"],
    );
}

// Clusters in motion.

#[test]
fn slots_that_move_lose_and_double_nothing() {
    let target = Target::cluster();
    let Target::Cluster(cluster) = &target else {
        unreachable!("it was made a line above")
    };
    for (i, sample) in [&*snapshot(), &log_of_increments(scaled(20_000))]
        .into_iter()
        .enumerate()
    {
        target.flush();
        let mut running = start(target.port(), &["--rate", "8000"], sample);
        assert!(arrive(&mut running, &target.servers(), 2000));
        // In the second round back again.
        cluster.move_slots(if i == 0 { 0 } else { 2 }, if i == 0 { 2 } else { 0 }, 300);
        assert!(running.is_running(), "the slots moved too late");
        let run = running.end(Duration::from_secs(60));
        assert_eq!(run.code, 0, "{}", run.stderr);
        sample.assert_in_with_drift(&target.servers(), "after the move", 5000);
    }
}

/// Opens the slots of a third of the keys `{0}…` to `{59}…`.
fn half_moved(cluster: &Cluster) -> Vec<u16> {
    let mut moving = Vec::new();
    for tag in 0..60 {
        let key = format!("{{{tag}}}");
        let slot = call!(cluster.client(0), "CLUSTER", "KEYSLOT", key).int() as u16;
        if slot < 5461 && !moving.contains(&slot) {
            cluster.begin_move(0, 1, slot);
            moving.push(slot);
        }
    }
    assert!(moving.len() > 5, "{moving:?}");
    moving
}

#[test]
fn a_snapshot_goes_into_slots_that_are_half_moved() {
    let target = Target::cluster();
    let Target::Cluster(cluster) = &target else {
        unreachable!("it was made a line above")
    };
    let mut file = Vec::new();
    for i in 0..6000 {
        let list = format!("{{{}}}:{i}", i % 60);
        let element = i.to_string();
        let words: [&[u8]; 4] = [b"RPUSH", list.as_bytes(), b"a", element.as_bytes()];
        crate::support::resp::append_command(&mut file, &words);
    }
    let source = super::sample_of_log(&file);
    let sample = source.saved();
    let moving = half_moved(cluster);
    // What is asked of a moving slot is answered with ASK.
    let run = replay_at(target.port(), &[sample.path()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    // They must be closed to be read.
    for slot in moving {
        cluster.end_move(0, 1, slot);
    }
    sample.assert_in(&target.servers(), "into slots that were open");
}

#[test]
fn a_log_waits_for_slots_that_are_half_moved() {
    let target = Target::cluster();
    let Target::Cluster(cluster) = &target else {
        unreachable!("it was made a line above")
    };
    let mut log = Vec::new();
    for i in 0..6000 {
        let (counter, list) = (format!("{{{}}}:n", i % 60), format!("{{{}}}:l", i % 60));
        crate::support::resp::append_command(&mut log, &[b"INCR", counter.as_bytes()]);
        let element = i.to_string();
        let words: [&[u8]; 3] = [b"RPUSH", list.as_bytes(), element.as_bytes()];
        crate::support::resp::append_command(&mut log, &words);
    }
    let sample = super::sample_of_log(&log);
    let moving = half_moved(cluster);
    let running = start(target.port(), &["--retry-for", "30s"], &sample);
    // Whatever guards a command needs a second key, and two keys have to wait until their slot has moved.
    sleep(1500);
    for slot in moving {
        cluster.end_move(0, 1, slot);
    }
    let run = running.end(Duration::from_secs(60));
    assert_whole(&run, 1, 1, &sample, &target.servers());
}

#[test]
fn a_failover_that_waits_for_its_replica_loses_and_doubles_nothing() {
    for log in [false, true] {
        let target = Target::Cluster(Cluster::with_replicas("redis-7.0", 3, 1));
        let Target::Cluster(cluster) = &target else {
            unreachable!("it was made a line above")
        };
        let sample = if log { None } else { Some(snapshot()) };
        let made = log.then(|| log_of_increments(scaled(10_000)));
        let sample = made.as_ref().or(sample.as_deref()).expect("one of two");
        let mut running = start(target.port(), &["--rate", "5000"], sample);
        assert!(arrive(&mut running, &target.servers(), 1500));
        call!(cluster.client(4), "CLUSTER", "FAILOVER");
        let mut asked = Instant::now();
        crate::support::cluster::until(Duration::from_secs(60), || {
            if asked.elapsed() > Duration::from_secs(6) {
                // A replica gives a failover up after five seconds, on a busy machine too.
                let _ = cluster.client(4).try_call(&[b"CLUSTER", b"FAILOVER"]);
                asked = Instant::now();
            }
            call!(cluster.client(4), "ROLE").array()[0].clone().text() == "master"
        });
        let run = running.end(Duration::from_secs(60));
        // Which of the two is to be read, both must know.
        crate::support::cluster::until(Duration::from_secs(30), || {
            call!(cluster.client(1), "ROLE").array()[0].clone().text() == "slave"
        });
        assert_whole_if_unsure(&run, 1, 1, sample, &target.servers());
    }
}

/// The old master is a replica by then, and takes no library.
#[test]
fn a_library_of_a_log_goes_to_the_masters_that_there_are_after_a_failover() {
    let cluster = Cluster::with_replicas("redis-7.0", 3, 1);
    let library = "#!lua name=late\nredis.register_function('late', function() return 1 end)";
    let mut log = Vec::new();
    for i in 0..6_000 {
        append_command(&mut log, &[b"SET", format!("k:{i}").as_bytes(), b"1"]);
    }
    append_command(&mut log, &[b"FUNCTION", b"LOAD", library.as_bytes()]);
    let (_dir, path) = crate::support::log_file(&log);
    let args = ["--rate", "1000", "--retry-for", "5s", text(&path)];
    let mut running = Running::replay_at(cluster.ports()[0], &args);
    let nodes: Vec<u16> = cluster.ports();
    let keys = || {
        let size = |port: &u16| call!(Client::connect(*port).expect("a node"), "DBSIZE").int();
        nodes.iter().map(size).sum::<i64>()
    };
    assert!(running.until(|| keys() > 500));
    crate::support::cluster::until(Duration::from_secs(30), || {
        // It fails where replica and master are not in touch yet.
        let _ = cluster.client(4).try_call(&[b"CLUSTER", b"FAILOVER"]);
        std::thread::sleep(Duration::from_millis(500));
        call!(cluster.client(4), "ROLE").array()[0].clone().text() == "master"
    });
    let run = running.end(Duration::from_secs(60));
    assert!(matches!(run.code, 0 | 1), "{}", run.stderr);
    for i in [0, 4, 2] {
        let found = call!(cluster.client(i), "FUNCTION", "LIST", "LIBRARYNAME", "late");
        assert_eq!(found.array().len(), 1, "node {i}: {}", run.stderr);
    }
}

#[test]
fn a_master_that_dies_is_followed_by_its_replica_and_no_success_is_claimed_that_is_none() {
    let target = Target::Cluster(Cluster::with_replicas("redis-7.0", 3, 1));
    let Target::Cluster(cluster) = &target else {
        unreachable!("it was made a line above")
    };
    let sample = snapshot();
    let mut running = start(
        target.port(),
        &["--rate", "8000", "--retry-for", "40s"],
        &sample,
    );
    assert!(arrive(&mut running, &target.servers(), 2000));
    cluster.failover(1);
    let run = running.end(Duration::from_secs(90));
    // What a replica had not got yet is lost with its master. Either it was sent again, or the run says so.
    if run.code == 0 {
        sample.assert_in(&target.servers(), "after the failover");
    } else {
        assert!(
            names(
                &run.stderr,
                &["failover", "restart", "lost", "master", "replica"]
            ),
            "{}",
            run.stderr
        );
    }
}

// Proxies that are not fit.

#[test]
fn a_proxy_that_shares_out_at_random_is_refused() {
    let target = Target::proxy(&[("distribution", "random")]);
    let run = replay_at(target.port(), &[snapshot().path()]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(names(&run.stderr, &["random"]), "{}", run.stderr);
    assert_eq!(target.keys(), 0);
}

#[test]
fn a_proxy_that_ejects_servers_never_makes_a_success_of_half_the_data() {
    let settings = [
        ("auto_eject_hosts", "true"),
        ("server_retry_timeout", "2000"),
        ("server_failure_limit", "1"),
        ("timeout", "300"),
    ];
    let target = Target::proxy(&settings);
    let Target::Proxy(proxy, servers) = &target else {
        unreachable!("it was made a line above")
    };
    let stats = proxy.stats_address();
    let sample = snapshot();
    let args = ["--rate", "8000", "--proxy-stats", &stats];
    let mut running = start(target.port(), &args, &sample);
    if arrive(&mut running, &target.servers(), 2000) {
        servers[0].pause();
        sleep(1500);
        servers[0].resume();
    }
    let run = running.end(Duration::from_secs(60));
    assert_ne!(run.code, 0, "{}", run.stderr);
    assert!(names(&run.stderr, &["eject"]), "{}", run.stderr);
}

#[test]
fn a_proxy_that_writes_into_another_database_is_refused() {
    let servers: Vec<Server> = (0..3).map(|_| Server::start("redis-7.0")).collect();
    let all: Vec<&Server> = servers.iter().collect();
    for server in &all {
        server.set("requirepass", "secret");
    }
    let proxy = Nutcracker::with(&all, &[("redis_db", "1"), ("redis_auth", "secret")], &[]);
    let run = replay_at(
        proxy.port,
        &["-a", "secret", "--proxy-db", "1", snapshot().path()],
    );
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        names(&run.stderr, &["land in database 0"]),
        "{}",
        run.stderr
    );
    for server in &all {
        let mut client = server.client();
        call!(client, "AUTH", "secret");
        assert_eq!(call!(client, "DBSIZE").int(), 0, "keys in database 0");
    }
}

#[test]
fn keys_too_long_for_a_proxy_are_named_before_anything_is_written() {
    let servers: Vec<Server> = (0..3).map(|_| Server::start("redis-7.0")).collect();
    let all: Vec<&Server> = servers.iter().collect();
    let proxy = Nutcracker::with(&all, &[], &["-m", "512"]);
    let long = "k".repeat(600);
    let sample = super::sample_of_log(&crate::support::resp::log(&[
        "SET short 1".to_owned(),
        format!("SET {long} 1"),
        "SET other 1".to_owned(),
    ]));
    let run = replay_at(proxy.port, &[sample.path()]);
    assert_ne!(run.code, 0, "{}", run.stderr);
    assert!(names(&run.stderr, &["kkkkkkkkkkkkkkkk"]), "{}", run.stderr);
    assert_eq!(super::keys_in(&all), 0, "{}", run.stderr);
    // All the others can pass.
    let source = Server::start("redis-7.0");
    call!(source.client(), "SET", "short", "1");
    call!(source.client(), "RPUSH", &long[..400], "1");
    let snapshot = source.save();
    replayed_at(proxy.port, &[crate::support::text(&snapshot)]);
    assert_eq!(super::keys_in(&all), 2);
}

// Inputs that break off.

#[test]
fn a_snapshot_that_is_damaged_is_found_out_before_anything_is_written() {
    let (sample, target) = (snapshot(), Target::server("redis-7.0"));
    let whole = std::fs::read(&sample.path).expect("a snapshot");
    let (_dir, path) = place();
    let mut dice = Dice(7);
    for round in 0..6 {
        let at = dice.below(whole.len() as u64) as usize;
        let mut bytes = whole.clone();
        if round % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1;
        }
        let file = path("dump.rdb");
        std::fs::write(&file, &bytes).expect("a file");
        let run = replay_at(target.port(), &[&file]);
        assert_eq!(run.code, 3, "byte {at}: {}", run.stderr);
        assert_eq!(target.keys(), 0, "byte {at}");
    }
}
