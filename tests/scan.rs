//! A source that is read by SCAN and DUMP becomes a snapshot like any other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis_migration::pipeline::Progress;
use redis_migration::replica::removals::Limits;
use redis_migration::replica::scan::{ScanOptions, ScanReport, scan};
use redis_migration::server::endpoint::{Address, Endpoint, Secret};
use redis_migration::{Error, ErrorKind};

use crate::support::cli::converted;
use crate::support::client::{Client, call};
use crate::support::cluster::Cluster;
use crate::support::data::{DataSet, diff, held_by, loaded};
use crate::support::relay::Relay;
use crate::support::server::{Server, available};
use crate::support::{fixture, now_ms, rdb_version, resp, text};

fn endpoint(port: u16) -> Endpoint {
    Endpoint::new(Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    })
}

fn run(options: &ScanOptions) -> Result<(ScanReport, Vec<String>), Error> {
    let mut told = Vec::new();
    let report = scan(options, &Progress::default(), &mut |text| {
        told.push(text.to_owned());
    })?;
    Ok((report, told))
}

/// Some thousand keys more, in several databases, some with an expiry.
fn fill(client: &mut Client) {
    let mut bytes = Vec::new();
    let far = now_ms() + 3_600_000;
    for db in [0, 2, 9] {
        let db_text = format!("{db}");
        resp::append_command(&mut bytes, &[b"SELECT", db_text.as_bytes()]);
        for i in 0..1700 {
            let (key, value) = (format!("more:{i}"), format!("value {i} of {db}"));
            let at = format!("{}", far + i);
            match i % 3 {
                0 | 1 => {
                    resp::append_command(&mut bytes, &[b"SET", key.as_bytes(), value.as_bytes()]);
                    if i % 3 == 0 {
                        let args: [&[u8]; 3] = [b"PEXPIREAT", key.as_bytes(), at.as_bytes()];
                        resp::append_command(&mut bytes, &args);
                    }
                }
                _ => resp::append_command(
                    &mut bytes,
                    &[b"HSET", key.as_bytes(), b"field", value.as_bytes()],
                ),
            }
        }
    }
    assert_eq!(client.pipe(&bytes, None).errors, Vec::<String>::new());
}

/// Before 7.0 a source tells how long a key has left, so that its moment is known as exactly as the answer is fast.
fn with_expiries_of(got: &DataSet, mut want: DataSet) -> DataSet {
    for (db, keys) in &mut want.dbs {
        for (key, record) in keys {
            let there = got.dbs.get(db).and_then(|keys| keys.get(key));
            if let Some(at) = there.and_then(|there| there.expires_at_ms)
                && let Some(wanted) = record.expires_at_ms
                && (wanted..wanted + 1000).contains(&(at + 5))
            {
                record.expires_at_ms = Some(at);
            }
        }
    }
    want
}

#[test]
fn what_is_scanned_is_what_the_source_holds() {
    for name in [
        "redis-7.0",
        "valkey-9.1",
        "redis-5.0",
        "redis-6.2",
        "redis-8.10",
    ] {
        if !available(name) {
            continue;
        }
        let file = match name {
            "valkey-9.1" => "all_types_valkey-9.1_v80.rdb",
            "redis-8.10" => "all_types_redis-8.10_v15.rdb",
            "redis-5.0" => "all_types_redis-5.0_v9.rdb",
            "redis-6.2" => "all_types_redis-6.2_v9.rdb",
            _ => "all_types_redis-7.0_v10.rdb",
        };
        let source = Server::on_snapshot(name, &fixture(file));
        fill(&mut source.client());
        if name == "valkey-9.1" {
            let mut client = source.client();
            call!(client, "HSET", "fields", "a", "1", "b", "2");
            let at = (now_ms() + 3_600_000).to_string();
            call!(client, "HPEXPIREAT", "fields", at, "FIELDS", "1", "a");
        }
        let want = held_by(&source);
        assert!(
            want.len() > 5100 && want.dbs.len() >= 3,
            "{name}: {}",
            want.len()
        );

        let dir = tempfile::tempdir().expect("a directory");
        let rdb = dir.path().join("scanned.rdb");
        let options = ScanOptions {
            count: 100,
            limits: Limits {
                memory_bytes: 10_000,
            },
            ..ScanOptions::new(endpoint(source.port), &rdb)
        };
        let (report, told) = run(&options).expect("a snapshot");
        assert_eq!(told, Vec::<String>::new(), "{name}");
        assert_eq!(report.keys as usize, want.len(), "{name}");
        assert_eq!(report.gone, 0);
        let dbs: Vec<u64> = want.dbs.keys().copied().collect();
        assert_eq!(report.databases, dbs);
        assert_eq!(rdb_version(&rdb), rdb_version(&source.save()), "{name}");

        // By a server's own loader, and by this program's commands.
        let other = Server::on_snapshot(name, &rdb);
        let want = match name {
            "redis-5.0" | "redis-6.2" => with_expiries_of(&held_by(&other), want),
            _ => want,
        };
        assert_eq!(
            diff(&want, &held_by(&other)),
            Vec::<String>::new(),
            "{name}"
        );
        let bytes = converted(&[
            "--target-version",
            name.strip_prefix("redis-").unwrap_or(name),
            text(&rdb),
        ]);
        let got = loaded(&other, &bytes);
        assert_eq!(diff(&want, &got), Vec::<String>::new(), "{name}");

        // Some databases only.
        let options = ScanOptions {
            databases: Some(vec![9, 5]),
            force: true,
            ..options
        };
        let (report, _) = run(&options).expect("a snapshot");
        assert_eq!((report.keys, report.databases), (1700, vec![5, 9]));
    }
}

#[test]
fn large_values_pass_through_a_connection_that_is_cut() {
    if !available("redis-7.0") {
        return;
    }
    let source = Server::start("redis-7.0");
    let mut client = source.client();
    // Of a kind that servers cannot compress.
    let mut seed = 1u64;
    let large: Vec<u8> = (0..20 << 17)
        .flat_map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        })
        .collect();
    for i in 0..6 {
        call!(client, "SET", format!("large:{i}"), &large);
    }
    call!(client, "DEBUG", "POPULATE", "3000");
    let relay = Relay::start(source.port);
    let dir = tempfile::tempdir().expect("a directory");
    let rdb = dir.path().join("scanned.rdb");
    let options = ScanOptions::new(endpoint(relay.port), &rdb);
    let (report, told) = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&options));
        let mut cut = 0;
        let mut next = 10 << 20;
        while !run.is_finished() && cut < 5 {
            if relay.bytes_back() > next {
                relay.reset();
                cut += 1;
                next = relay.bytes_back() + (25 << 20);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let done = run.join().expect("no panic").expect("a snapshot");
        assert!(cut > 0, "it was over too soon");
        done
    });
    assert_eq!((report.keys, report.gone), (3006, 0));
    assert!(told[0].contains("trying again"), "{told:?}");
    let other = Server::on_snapshot("redis-7.0", &rdb);
    let want = DataSet::read(&mut source.client());
    assert_eq!(
        diff(&want, &DataSet::read(&mut other.client())),
        Vec::<String>::new()
    );
}

#[test]
fn users_without_a_permission_are_told_which() {
    if !available("redis-7.0") {
        return;
    }
    let source = Server::start("redis-7.0");
    let mut client = source.client();
    call!(client, "SET", "key", "value");
    let dir = tempfile::tempdir().expect("a directory");
    let rdb = dir.path().join("scanned.rdb");
    let with = |rights: &[&str]| {
        let mut args: Vec<&[u8]> = vec![b"ACL", b"SETUSER", b"reader", b"reset", b"on", b">pw"];
        args.extend(rights.iter().map(|right| right.as_bytes()));
        source.client().call(&args);
        let mut options = ScanOptions::new(endpoint(source.port), &rdb);
        options.force = true;
        options.endpoint.user = Some("reader".to_owned());
        options.endpoint.password = Some(Secret::new("pw"));
        run(&options)
    };
    for (rights, missing) in [
        (&["~*", "+ping", "+dump", "+pttl", "+select"][..], "SCAN"),
        (&["~*", "+ping", "+scan", "+pttl"], "DUMP"),
        (&["~other", "+ping", "+scan", "+pttl", "+dump"], "PTTL"),
    ] {
        let error = with(rights).expect_err("a permission is missing");
        assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
        assert!(error.to_string().contains(missing), "{error}");
    }
    assert!(!rdb.exists());
    // The least that does.
    let (report, told) = with(&["~*", "+ping", "+scan", "+pttl", "+dump"]).expect("a snapshot");
    assert_eq!((report.keys, report.databases), (1, vec![0]));
    assert!(told[0].contains("function libraries"), "{told:?}");
    let rights = "~* +ping +scan +dump +pttl +pexpiretime +select +info +function|dump";
    let rights: Vec<&str> = rights.split(' ').collect();
    let (report, told) = with(&rights).expect("a snapshot");
    assert_eq!((report.keys, told.len()), (1, 0));
}

#[test]
fn a_node_of_a_cluster_gives_its_own_keys_and_says_so() {
    if !available("redis-7.0") {
        return;
    }
    let cluster = Cluster::start("redis-7.0", 2);
    for i in 0..200 {
        let key = format!("key:{i}");
        call!(cluster.client_for(key.as_bytes()), "SET", key, "value");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut keys = 0;
    for port in cluster.ports() {
        let rdb = dir.path().join(format!("{port}.rdb"));
        let (report, told) = run(&ScanOptions::new(endpoint(port), &rdb)).expect("a snapshot");
        assert!(told[0].contains("a node of a cluster"), "{told:?}");
        assert_eq!((report.gone, report.databases), (0, vec![0]));
        keys += report.keys;
    }
    assert_eq!(keys, 200);
}

#[test]
fn it_stops_soon_and_leaves_nothing() {
    if !available("redis-7.0") {
        return;
    }
    let source = Server::start("redis-7.0");
    call!(source.client(), "DEBUG", "POPULATE", "1000");
    let relay = Relay::start(source.port);
    relay.delay(20, 20);
    let dir = tempfile::tempdir().expect("a directory");
    let options = ScanOptions::new(endpoint(relay.port), dir.path().join("scanned.rdb"));
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| scan(&options, &progress, &mut |_| {}));
        while progress.keys.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        relay.stop();
        let asked = Instant::now();
        progress.stop.store(true, Ordering::Relaxed);
        let error = run.join().expect("no panic").expect_err("it was stopped");
        assert!(matches!(error.kind(), ErrorKind::Stopped), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(2));
    });
    assert_eq!(std::fs::read_dir(dir.path()).expect("a list").count(), 0);
}
