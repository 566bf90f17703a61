//! What cannot be done is refused before anything is written, with a word about what to do.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{
    END, Live, SOON, acknowledged, bytes_of, ends_equal, fill, info, is_equal, names, replicates,
    source, until, uri,
};
use crate::preflight::{Started, unused_port};
use crate::replay::Target;
use crate::support::client::call;
use crate::support::load::{Load, Mix};
use crate::support::server::{Server, starter};
use crate::support::text;

/// A run that must end soon, with this code, and with the destination and the directory as they were.
pub(super) fn is_refused(mut live: Live, code: i32, words: &[&str], target: &Target) -> String {
    let before = live.files();
    let begin = Instant::now();
    live.start();
    let (ended, said) = live.ends(SOON);
    assert_eq!(ended, code, "{said}");
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    assert!(names(&said, words), "{words:?} are not in {said}");
    assert_eq!(target.keys(), 0, "{said}");
    assert_eq!(live.files(), before, "{said}");
    said
}

#[test]
fn a_wrong_password_of_the_source() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    fill(&source, 10);
    source.set("requirepass", "right");
    for from in ["", ":wrong@", "nobody:right@"] {
        let from = format!("redis://{from}127.0.0.1:{}", source.port);
        let live = Live::between(&from, &uri(target.port()), &[]);
        let said = is_refused(live, 4, &["--from-pass"], &target);
        assert!(!said.contains("wrong@"), "{said}");
    }
    let port = source.port.to_string();
    let live = Live::classic(source.port, target.port(), &["-sauth", "wrong"]);
    is_refused(live, 4, &[&port, "check -sauth"], &target);
}

#[test]
fn a_wrong_password_of_the_destination() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    fill(&source, 10);
    target.servers()[0].set("requirepass", "right");
    for to in ["", ":wrong@", "nobody:right@"] {
        let to = format!("redis://{to}127.0.0.1:{}", target.port());
        let mut live = Live::between(&uri(source.port), &to, &[]).started();
        let (code, said) = live.ends(END);
        assert_eq!(code, 4, "{said}");
        let port = target.port().to_string();
        assert!(names(&said, &[&port]), "{said}");
        assert_eq!(live.files(), Vec::<String>::new(), "{said}");
        // Nothing was asked of the source that costs it something.
        assert_eq!(info(&source, "stats", "sync_full"), 0, "{said}");
    }
    // In the words that were used.
    let mut live = Live::classic(source.port, target.port(), &["-dauth", "wrong"]).started();
    let (code, said) = live.ends(END);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("check -dauth"), "{said}");
}

#[test]
fn keys_that_were_only_looked_at_are_in_no_doubt() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 500);
    fill(target.servers()[0], 500);
    let mut live = Live::new(source.port, target.port(), &[]).started();
    let (code, said) = live.ends(END);
    assert_eq!(code, 5, "{said}");
    let words = [
        "is there already",
        "With one of them the same command goes on",
    ];
    assert!(names(&said, &words), "{said}");
    assert!(!said.contains("not answered"), "{said}");
}

/// The same words would end at the same command.
#[test]
fn a_command_that_a_proxy_has_no_words_for() {
    let (source, target) = (source("redis-7.0", &[]), Target::proxy(&[]));
    fill(&source, 10);
    let words = ["--rejects", "rejects.csv"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    live.catches_up();
    call!(source.client(), "RENAME", "filled:0", "renamed");
    let (code, said) = live.ends(END);
    assert_eq!(code, 5, "{said}");
    let words = [
        "RENAME",
        "filled:0",
        "With one of them the same command goes on",
    ];
    assert!(names(&said, &words), "{said}");
    for added in ["--on-error", "continue", "--until", "caught-up"] {
        live.words.push(added.to_owned());
    }
    live.start();
    let (code, said) = live.ends(END);
    assert_eq!(code, 1, "{said}");
    let listed = std::fs::read_to_string(live.path("rejects.csv")).expect("a list");
    assert!(listed.contains("filled:0"), "{listed}");
}

#[test]
fn a_source_says_what_it_is() {
    let master = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    call!(master.client(), "SET", "key", "value");
    let replica = source("redis-7.0", &[]);
    replicates(&replica, master.port);
    let node = source("redis-7.0", &["--cluster-enabled", "yes"]);
    let one = "Redis 7.0";
    let of = format!("a replica of 127.0.0.1:{}", master.port);
    for (port, words) in [
        (master.port, [one, "1 key in 1 database\n", ""]),
        (replica.port, [one, &of, "1 key in 1 database\n"]),
        (node.port, [one, "a node of a cluster", "empty\n"]),
    ] {
        let mut live = Live::new(port, target.port(), &["--dry-run"]).started();
        let (code, said) = live.ends(END);
        assert_eq!(code, 0, "{said}");
        assert!(names(&said, &words), "{words:?} are not in {said}");
    }
}

/// What received nothing leaves its names to whoever comes next.
#[test]
fn a_run_that_received_nothing_leaves_no_files() {
    let (one, other) = (source("redis-7.0", &[]), source("redis-7.0", &[]));
    let target = Target::server("redis-7.0");
    fill(&other, 10);
    let mut client = one.client();
    call!(
        client,
        "ACL",
        "SETUSER",
        "mover",
        "on",
        ">secret",
        "+ping",
        "+replconf"
    );
    let from = format!("redis://mover:secret@127.0.0.1:{}", one.port);
    let mut live = Live::between(&from, &uri(target.port()), &[]).started();
    let (code, said) = live.ends(END);
    assert_eq!(code, 4, "{said}");
    assert_eq!(live.files(), Vec::<String>::new(), "{said}");
    // Interrupted before the snapshot came.
    one.set("repl-diskless-sync-delay", "60");
    let mut live = Live::new(one.port, target.port(), &[])
        .beside(&live)
        .started();
    live.until("a file", SOON, |live| !live.files().is_empty());
    std::thread::sleep(Duration::from_millis(500));
    live.terminate();
    assert_eq!(live.files(), Vec::<String>::new(), "{}", live.before);
    let mut live = Live::new(other.port, target.port(), &["--until", "caught-up"])
        .beside(&live)
        .started();
    let (code, said) = live.ends(END);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_sentinel_is_no_source() {
    let target = Target::server("redis-7.0");
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("sentinel.conf");
    let port = unused_port();
    let text_of = format!("port {port}\nbind 127.0.0.1\n");
    std::fs::write(&config, text_of).expect("its configuration");
    let child = Command::new(starter("redis-7.0"))
        .args([text(&config), "--sentinel"])
        .stdout(Stdio::null())
        .spawn();
    let _sentinel = Started::wait(child.expect("a sentinel"), port);
    let live = Live::new(port, target.port(), &[]);
    is_refused(live, 5, &["is a Sentinel", "master"], &target);
}

#[test]
fn passwords_and_a_user_who_may_do_little_else() {
    let source = source("redis-7.0", &[]);
    fill(&source, 500);
    let mut client = source.client();
    call!(
        client,
        "ACL",
        "SETUSER",
        "mover",
        "on",
        ">secret",
        "resetkeys",
        "resetchannels",
        "-@all",
        "+psync",
        "+replconf",
        "+ping"
    );
    let target = Target::server("redis-7.0");
    let from = format!("redis://mover:secret@127.0.0.1:{}", source.port);
    let mut live = Live::between(&from, &uri(target.port()), &[]).started();
    live.catches_up();
    call!(client, "SET", "one", "more");
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

#[test]
fn the_originals_passwords() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    fill(&source, 500);
    source.set("requirepass", "one secret");
    target.servers()[0].set("requirepass", "other");
    let words = ["-sauth", "one secret", "-dauth", "other"];
    let mut live = Live::classic(source.port, target.port(), &words).started();
    live.catches_up();
    for (server, password) in [(&source, "one secret"), (target.servers()[0], "other")] {
        let mut client = server.client();
        call!(client, "AUTH", password);
        call!(client, "CONFIG", "SET", "requirepass", "");
    }
    ends_equal(&mut live, &source, &target);
    let said = live.terminate();
    assert!(
        !said.contains("one secret") && !said.contains("other"),
        "{said}"
    );
}

#[test]
fn nobody_listens() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    let closed = crate::support::server::free_port();
    is_refused(
        Live::new(closed, target.port(), &[]),
        4,
        &[&closed.to_string()],
        &target,
    );
    let mut live = Live::new(source.port, closed, &[]).started();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 4, "{said}");
}

/// What is not a server of data: a proxy, which cannot be a source.
#[test]
fn a_proxy_is_no_source() {
    let (behind, target) = (Target::proxy(&[]), Target::server("redis-7.0"));
    let live = Live::new(behind.port(), target.port(), &[]);
    is_refused(live, 4, &["twemproxy", "each server behind it"], &target);
}

#[test]
fn a_destination_that_is_the_source() {
    let source = source("redis-7.0", &[]);
    fill(&source, 100);
    let mut live = Live::new(source.port, source.port, &[]).started();
    let (code, said) = live.ends(SOON);
    assert!(code == 5 || code == 2, "{code}: {said}");
    assert_eq!(info(&source, "stats", "sync_full"), 0, "{said}");
}

#[test]
fn a_destination_that_is_not_empty() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    fill(&source, 100);
    call!(target.servers()[0].client(), "SET", "filled:3", "mine");
    let mut live = Live::new(source.port, target.port(), &[]).started();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 5, "{said}");
    assert!(names(&said, &["--on-exist"]), "{said}");
    let mine = call!(target.servers()[0].client(), "GET", "filled:3").text();
    assert_eq!(mine, "mine", "{said}");
    let mut live = Live::new(source.port, target.port(), &["--on-exist", "replace"]).started();
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

#[test]
fn databases_that_a_proxy_does_not_have() {
    let source = source("redis-7.0", &[]);
    let mut client = source.client();
    call!(client, "SET", "a", "0");
    call!(client, "SELECT", "3");
    call!(client, "SET", "b", "3");
    let target = Target::proxy(&[]);
    let live = Live::new(source.port, target.port(), &[]);
    is_refused(live, 5, &["--db", "--db-map"], &target);
    assert_eq!(info(&source, "stats", "sync_full"), 0);

    let mut live = Live::new(source.port, target.port(), &["--db-map", "3=0"]).started();
    live.catches_up();
    call!(client, "SET", "c", "3");
    let mut end = match &target {
        Target::Proxy(proxy, _) => proxy.client(),
        _ => unreachable!("a proxy was started"),
    };
    for (key, value) in [("a", "0"), ("b", "3"), ("c", "3")] {
        until(SOON, || {
            matches!(end.try_call(&[b"GET", key.as_bytes()]),
                Ok(crate::support::client::Reply::Bulk(Some(got))) if got == value.as_bytes())
        });
    }
    live.terminate();
    target.flush();

    let mut live = Live::new(source.port, target.port(), &["--db", "0"]).started();
    live.catches_up();
    live.terminate();
    assert_eq!(call!(end, "GET", "a").text(), "0");
    assert_eq!(
        end.try_call(&[b"GET", b"b"]).expect("an answer"),
        crate::support::client::Reply::Bulk(None)
    );
}

/// A file of somebody else under the name that the run would give its own.
#[test]
fn a_foreign_file_is_left_alone() {
    let source = source("redis-7.0", &[]);
    let target = Target::server("redis-7.0");
    fill(&source, 300);
    for name in ["dump.rdb", "appendonly.aof"] {
        let live = Live::new(source.port, target.port(), &[]);
        let path = live.path(name);
        std::fs::write(&path, "somebody's own").expect("a file");
        is_refused(live, 5, &["--force", name], &target);
    }
    let live = Live::new(source.port, target.port(), &[]);
    let path = live.path("dump.rdb");
    std::fs::write(&path, "somebody's own").expect("a file");
    let (before, name) = (bytes_of(&path), super::shown(&path).to_owned());
    let dir = std::sync::Arc::clone(&live.dir);
    is_refused(live, 5, &["--force"], &target);
    assert_eq!(bytes_of(&path), before, "{name}");

    let mut live = Live::new(source.port, target.port(), &["--force"]);
    live.dir = dir;
    live.start();
    ends_equal(&mut live, &source, &target);
    live.terminate();
    assert_ne!(bytes_of(&path), before, "{name}");
}

/// Two sources whose keys have nothing in common, so that what both made is what each made.
fn two_sources() -> (Server, Server) {
    let (one, two) = (source("redis-7.0", &[]), source("redis-7.0", &[]));
    for (server, name) in [(&one, "one"), (&two, "two")] {
        let mut client = server.client();
        for i in 0..2000 {
            call!(client, "RPUSH", format!("{name}:{i}"), i.to_string(), "x");
        }
    }
    (one, two)
}

/// Both sources' keys are at the destination, and no others.
fn has_both(sources: [&Server; 2], target: &Target) {
    let left = crate::support::data::differences_left(SOON, 0, &sources, || target.data());
    let first: Vec<&String> = left.iter().take(5).collect();
    assert!(left.is_empty(), "{} keys differ: {first:#?}", left.len());
}

#[test]
fn two_runs_into_one_proxy() {
    let (one, two) = two_sources();
    let target = Target::proxy(&[]);
    let own = |n: &str| [format!("dump{n}.rdb"), format!("appendonly{n}.aof")];
    let mut runs: Vec<Live> = Vec::new();
    for (source, n) in [(&one, "1"), (&two, "2")] {
        let [rdb, aof] = own(n);
        let words = ["-rdb", &rdb, "-aof", &aof, "--on-exist", "replace"];
        let live = Live::classic(source.port, target.port(), &words);
        let live = match runs.first() {
            Some(first) => live.beside(first),
            None => live,
        };
        runs.push(live.started());
    }
    let mut clients = [one.client(), two.client()];
    for i in 0..2000 {
        for (client, name) in clients.iter_mut().zip(["one", "two"]) {
            call!(client, "RPUSH", format!("{name}:{}", i % 50), "more");
            call!(client, "INCR", format!("{name}:count"));
        }
    }
    for (live, source) in runs.iter_mut().zip([&one, &two]) {
        live.catches_up();
        acknowledged(source, SOON).unwrap_or_else(|lag| panic!("{lag}: {}", live.said()));
    }
    has_both([&one, &two], &target);
    runs.iter_mut().for_each(|live| drop(live.terminate()));
}

#[test]
fn two_runs_in_one_directory_with_the_same_names() {
    let (one, two) = two_sources();
    let target = Target::proxy(&[]);
    let load = Load::mixed(
        &one,
        Mix {
            per_second: 300,
            ..Mix::narrow()
        },
    );
    let mut first = Live::classic(one.port, target.port(), &[]).started();
    first.until("a file", SOON, |live| !live.files().is_empty());
    let mut second = Live::classic(two.port, target.port(), &[])
        .beside(&first)
        .started();
    let (code, said) = second.ends(END);
    assert!(code == 75 || code == 5, "{code}: {said}");
    assert!(!said.is_empty());
    // Once more, when the files are whole.
    first.catches_up();
    second.start();
    let (code, said) = second.ends(END);
    assert!(code == 75 || code == 5, "{code}: {said}");
    load.stop();
    ends_equal(&mut first, &one, &target);
    first.terminate();

    // The files belong to the first one's source still when nobody runs.
    second.start();
    let (code, said) = second.ends(END);
    assert_eq!(code, 5, "{said}");
    first.start();
    first.catches_up();
    is_equal(&first, &one, &target, 0);
    first.terminate();
}
