//! The tests' own instruments: if these see no difference, there is none.

use std::time::{Duration, Instant};

use crate::support::client::{Client, Reply, call};
use crate::support::cluster::{Cluster, until};
use crate::support::data::{DataSet, Value, diff, digest, expiries};
use crate::support::relay::Relay;
use crate::support::server::{Nutcracker, Server, available};
use crate::support::{fixture, resp};

#[test]
fn a_server_that_loaded_a_snapshot_twice_equals_itself_and_one_change_is_seen() {
    for name in ["redis-7.0", "valkey-9.1", "redis-8.10"] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let file = match name {
            "redis-8.10" => "all_types_redis-8.10_v15.rdb",
            "valkey-9.1" => "all_types_valkey-9.1_v80.rdb",
            _ => "all_types_redis-7.0_v10.rdb",
        };
        server.load(&fixture(file));
        let mut client = server.client();
        let first = DataSet::read(&mut client);
        assert!(first.len() > 30, "{name}: {} keys", first.len());
        assert_eq!(first.dbs.keys().copied().collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(first.functions.len(), 1);
        server.load(&fixture(file));
        assert_eq!(
            diff(&first, &DataSet::read(&mut client)),
            Vec::<String>::new()
        );

        call!(client, "SELECT", "0");
        call!(client, "XGROUP", "SETID", "stream:groups", "idle", "0");
        call!(client, "ZADD", "zset:skiplist", "1e-323", "h");
        call!(client, "PEXPIREAT", "expiring:list", "4102444800125");
        let changed = diff(&first, &DataSet::read(&mut client));
        assert_eq!(changed.len(), 3, "{changed:#?}");
    }
}

#[test]
fn the_reader_sees_what_only_some_servers_have() {
    if !available("redis-8.10") {
        return;
    }
    let server = Server::start("redis-8.10");
    server.load(&fixture("all_types_redis-8.10_v15.rdb"));
    let data = DataSet::read(&mut server.client());
    let value = |key: &str| &data.dbs[&0][key.as_bytes()].value;
    assert!(
        matches!(value("array:sparse"), Value::Array { items, .. } if items.len() == 5),
        "{:?}",
        value("array:sparse")
    );
    assert!(
        matches!(value("array:cursor"), Value::Array { next: Some(next), .. } if next == "3"),
        "{:?}",
        value("array:cursor")
    );
    let Value::Stream(stream) = value("stream:nack") else {
        panic!("{:?}", value("stream:nack"))
    };
    let released = stream.groups[&b"g"[..]]
        .pending
        .values()
        .filter(|entry| entry.consumer.is_empty())
        .count();
    assert_eq!(released, 2);
    let Value::Hash(hash) = value("hash:field-ttl") else {
        panic!("{:?}", value("hash:field-ttl"))
    };
    assert_eq!(hash[&b"a"[..]].expires_at_ms, Some(4102444800123));
}

#[test]
fn a_file_piped_through_the_proxy_reaches_both_servers() {
    let (a, b) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
    let proxy = Nutcracker::over(&[&a, &b]);
    let mut file = Vec::new();
    for i in 0..200 {
        resp::append_command(
            &mut file,
            &[b"SET", format!("key:{i}").as_bytes(), b"value"],
        );
    }
    let piped = proxy.client().pipe(&file, Some(200));
    assert_eq!((piped.replies, piped.errors.len()), (200, 0));
    let (a, b) = (
        DataSet::read(&mut a.client()),
        DataSet::read(&mut b.client()),
    );
    assert_eq!(a.len() + b.len(), 200);
    assert!(a.len() > 0 && b.len() > 0, "{} and {}", a.len(), b.len());
}

#[test]
fn a_relay_resets_cuts_delays_drips_and_loses_replies() {
    let server = Server::start("redis-7.0");
    let relay = Relay::start(server.port);
    let connect = || Client::connect(relay.port).expect("the relay");
    let mut client = connect();
    assert_eq!(call!(client, "PING").text(), "PONG");
    // They are counted once they are on their way.
    until(Duration::from_secs(5), || {
        (relay.bytes_to(), relay.bytes_back()) == (14, 7)
    });

    relay.reset();
    let error = client.try_call(&[b"PING"]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");

    let mut client = connect();
    call!(client, "PING");
    relay.cut();
    std::thread::sleep(Duration::from_millis(50));
    let error = client.read_reply().expect_err("the end");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");

    // A command that was given up arrives all the same, and behind a later one.
    relay.delay(200, 0);
    let mut client = connect();
    client.send(&[b"SET", b"key", b"late"]);
    std::thread::sleep(Duration::from_millis(20));
    drop(client);
    call!(server.client(), "SET", "key", "early");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(call!(server.client(), "GET", "key").text(), "late");
    let begin = Instant::now();
    call!(connect(), "PING");
    assert!(begin.elapsed() >= Duration::from_millis(200));
    relay.delay(0, 0);

    relay.drip(true);
    let mut client = connect();
    let long = "x".repeat(3000);
    call!(client, "SET", "long", long);
    assert_eq!(call!(client, "GET", "long").text(), long);
    relay.drip(false);

    let mut client = connect();
    call!(client, "PING");
    std::thread::scope(|scope| {
        scope.spawn(|| relay.lose_replies(Duration::from_millis(100)));
        std::thread::sleep(Duration::from_millis(30));
        client
            .try_call(&[b"INCR", b"counter"])
            .expect_err("no answer");
    });
    assert_eq!(call!(connect(), "GET", "counter").text(), "1");

    relay.stop();
    let mut client = connect();
    client.send(&[b"INCR", b"counter"]);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(call!(server.client(), "GET", "counter").text(), "1");
    relay.go_on();
    assert_eq!(client.read_reply().expect("an answer"), Reply::Int(2));
    assert_eq!(relay.connections(), 8);

    relay.refuse(true);
    let answer = Client::connect(relay.port).and_then(|mut client| client.try_call(&[b"PING"]));
    answer.expect_err("closed at once");
}

#[test]
fn a_cluster_keeps_its_keys_while_slots_move() {
    let cluster = Cluster::start("redis-7.0", 3);
    let single = Server::start("redis-7.0");
    let mut own = single.client();
    for i in 0..300 {
        let key = format!("key:{i}");
        let at = (4_102_444_800_000 + i64::from(i)).to_string();
        for client in [&mut own, &mut cluster.client_for(key.as_bytes())] {
            call!(client, "SET", key, "value");
            if i % 3 == 0 {
                call!(client, "PEXPIREAT", key, at);
            }
        }
    }
    // MIGRATE tells how long a key still has to live: it lives on for as long as it was under way.
    let same = |drift_ms: i64| {
        let (mut want, mut got) = (DataSet::read_all(&[&single]), cluster.data());
        for (key, record) in got.dbs.get_mut(&0).expect("keys") {
            let own = want.dbs.get_mut(&0).and_then(|keys| keys.get_mut(key));
            let own = own.expect("a key of both");
            let (a, b) = (own.expires_at_ms.take(), record.expires_at_ms.take());
            assert_eq!(a.is_some(), b.is_some());
            assert!(
                (0..=drift_ms).contains(&(b.unwrap_or(0) - a.unwrap_or(0))),
                "{a:?} {b:?}"
            );
        }
        assert_eq!(diff(&want, &got), Vec::<String>::new());
        assert_eq!(digest(&[&single]), digest(&cluster.masters()));
        assert!(drift_ms > 0 || expiries(&[&single]) == expiries(&cluster.masters()));
        assert_eq!(
            (cluster.keys(), expiries(&cluster.masters()).len()),
            (300, 100)
        );
    };
    same(0);
    let before: Vec<usize> = (0..3).map(|i| cluster.slots_of(i).len()).collect();
    assert_eq!(before, [5461, 5461, 5462]);
    cluster.move_slots(0, 2, 300);
    same(5000);
    let after: Vec<usize> = (0..3).map(|i| cluster.slots_of(i).len()).collect();
    assert_eq!(after, [5161, 5461, 5762]);

    let key = b"key:1";
    call!(cluster.client_for(key), "APPEND", key, "!");
    assert_ne!(digest(&[&single]), digest(&cluster.masters()));
    cluster.flush();
    assert_eq!(cluster.keys(), 0);
}

#[test]
fn the_master_of_a_cluster_is_followed_by_its_replica() {
    let cluster = Cluster::with_replicas("redis-7.0", 3, 1);
    let key = b"key";
    call!(cluster.client_for(key), "SET", key, "value");
    let before = cluster.data();
    cluster.failover(0);
    // The dead one does not answer, and its place is taken.
    assert_eq!(cluster.masters().len(), 3);
    assert_eq!(diff(&before, &cluster.data()), Vec::<String>::new());
    assert_eq!(cluster.slots_of(3).len(), 5461);
}

#[test]
fn servers_and_proxies_come_again_on_their_ports() {
    let log = ["--appendonly", "yes", "--appendfsync", "always"];
    let (durable, forgetful) = (Server::with("redis-7.0", &log), Server::start("redis-7.0"));
    let proxy = Nutcracker::with(
        &[&durable],
        &[("server_connections", "4"), ("timeout", "400")],
        &["-m", "512"],
    );
    call!(proxy.client(), "SET", "key", "value");
    call!(forgetful.client(), "SET", "key", "value");
    for server in [&durable, &forgetful] {
        let before = server.pid();
        server.kill();
        Client::connect(server.port).err().expect("nobody listens");
        server.restart();
        assert_ne!(before, server.pid());
    }
    assert_eq!(call!(durable.client(), "GET", "key").text(), "value");
    assert_eq!(call!(forgetful.client(), "DBSIZE").int(), 0);

    proxy.kill();
    Client::connect(proxy.port).err().expect("nobody listens");
    proxy.restart();
    assert_eq!(call!(proxy.client(), "GET", "key").text(), "value");

    durable.pause();
    let mut client = proxy.client();
    let begin = Instant::now();
    let reply = client
        .try_call(&[b"GET", b"key"])
        .expect("the proxy's answer");
    durable.resume();
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
}
