//! What is found out about a destination before the first write.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis_migration::command::target::Dialect;
use redis_migration::server::connection::Connection;
use redis_migration::server::endpoint::{Address, Endpoint, Secret};
use redis_migration::server::preflight::{self, Destination, Role, Wish, look, probe_writes};
use redis_migration::{Error, ErrorKind};

use crate::support::cli::replay_at;
use crate::support::client::{Client, Reply, call};
use crate::support::server::{Server, available, starter};
use crate::support::text;

#[test]
fn a_server_of_each_version_is_found() {
    for (name, version) in [
        ("redis-5.0", "Redis 5.0"),
        ("redis-6.2", "Redis 6.2"),
        ("redis-7.0", "Redis 7.0"),
        ("redis-8.10", "Redis 8.10"),
        ("valkey-9.1", "Valkey 9.1"),
    ] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let mut client = server.client();
        call!(client, "SET", "a", "1");
        call!(client, "SELECT", "3");
        call!(client, "SET", "b", "1");
        call!(client, "SET", "c", "1");
        let found = look(&at(server.port), &Wish::default()).unwrap();
        assert_eq!(found.dialect, Dialect::Redis);
        let told = found.version.expect("a version").to_string();
        assert!(told.starts_with(version), "{name}: {told}");
        assert!(found.can_eval && found.slots.is_none() && found.key_limit.is_none());
        assert_eq!((found.keys, found.keys_known), (3, true));
        let [one] = found.servers.as_slice() else {
            panic!("{:?}", found.servers);
        };
        assert_eq!(one.name, format!("127.0.0.1:{}", server.port));
        assert_eq!(one.run_id, run_id(&server));
        assert_eq!(one.databases, [(0, 1), (3, 2)]);
        assert_eq!((&one.role, one.loading), (&Role::Master, false));
        assert_eq!(one.maxmemory_policy, "noeviction");
        assert!(one.used_memory > 0 && one.maxmemory == 0);
        assert_eq!(found.warnings, [""; 0], "{name}");

        // Looking has written nothing, and the probe takes back what it wrote.
        probe_writes(&at(server.port), &found).unwrap();
        assert_eq!(keyspace(&server), "db0:keys=1 db3:keys=2");
        let now = preflight::servers(&at(server.port), found.dialect, &found.servers).unwrap();
        assert_eq!(preflight::restarted(&found.servers, &now), [""; 0]);
    }
}

/// Redis 4.0 to 6.0 end when they are to restore a value whose module they do not have.
#[test]
fn servers_that_would_end_are_given_no_values_of_modules() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump.rdb");
    let snapshot = [
        &b"REDIS0009"[..],
        // A value of a module in its second form: key, the module's id, and the mark of its end.
        b"\x07\x06module\x81\x01\x02\x03\x04\x05\x06\x07\x08\x00",
        // A string.
        b"\x00\x06string\x05value",
        b"\xff\0\0\0\0\0\0\0\0",
    ];
    std::fs::write(&file, snapshot.concat()).unwrap();
    for (name, says) in [
        ("redis-5.0", "no module was found at the destination"),
        ("redis-6.2", "Bad data format"),
        ("redis-7.0", "Bad data format"),
    ] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let out = replay_at(server.port, &[text(&file), "--on-error", "continue"]);
        assert_eq!(out.code, 1, "{name}: {}", out.stderr);
        assert!(out.stderr.contains(says), "{name}: {}", out.stderr);
        assert!(server.is_alive(), "{name} has ended");
        let mut client = server.client();
        assert_eq!(call!(client, "GET", "string").bytes(), b"value");
        assert_eq!(call!(client, "DBSIZE").int(), 1);
    }
}

#[test]
fn a_dialect_that_contradicts_the_destination_is_refused() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::start("redis-7.0");
    let cluster = one_node_cluster("redis-7.0");
    let named = |port, dialect| {
        let wish = Wish {
            dialect: Some(dialect),
            ..Wish::default()
        };
        look(&at(port), &wish)
    };
    assert!(named(server.port, Dialect::Redis).is_ok());
    assert!(named(cluster.port, Dialect::Cluster).is_ok());
    let unfit = |port, dialect, words: &str| {
        let why = why_unfit(named(port, dialect).unwrap_err());
        assert!(why.contains(words), "{why}");
    };
    unfit(
        server.port,
        Dialect::Cluster,
        "--dialect redis instead of cluster",
    );
    unfit(
        server.port,
        Dialect::Twemproxy,
        "--dialect redis instead of twemproxy",
    );
    unfit(
        cluster.port,
        Dialect::Redis,
        "--dialect cluster instead of redis",
    );
    unfit(cluster.port, Dialect::Twemproxy, "a node of a cluster");
    if available("nutcracker") {
        let proxy = Proxy::over(&[&server], "", &[]);
        assert!(named(proxy.port, Dialect::Twemproxy).is_ok());
        unfit(
            proxy.port,
            Dialect::Redis,
            "--dialect twemproxy instead of redis",
        );
        unfit(proxy.port, Dialect::Cluster, "a twemproxy");
    }
    // The classic command line means a twemproxy, and takes a server where there is one.
    let classic = Wish {
        dialect: Some(Dialect::Twemproxy),
        prefer_twemproxy: true,
        ..Wish::default()
    };
    assert_eq!(
        look(&at(server.port), &classic).unwrap().dialect,
        Dialect::Redis
    );
}

#[test]
fn a_password_is_used_on_every_connection() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::start("redis-7.0");
    call!(server.client(), "CONFIG", "SET", "requirepass", "pw");
    let without = look(&at(server.port), &Wish::default()).unwrap_err();
    assert!(
        matches!(without.kind(), ErrorKind::Login { .. }),
        "{without}"
    );
    let mut endpoint = at(server.port);
    endpoint.password = Some(Secret::new("pw"));
    let found = look(&endpoint, &Wish::default()).unwrap();
    probe_writes(&endpoint, &found).unwrap();
    assert_eq!(
        preflight::servers(&endpoint, found.dialect, &found.servers)
            .unwrap()
            .len(),
        1
    );

    if !available("nutcracker") {
        return;
    }
    // A proxy that does not know the servers' password answers PING all the same.
    let proxy = Proxy::over(&[&server], "", &[]);
    let error = look(&at(proxy.port), &Wish::default()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
    assert!(error.to_string().contains("redis_auth"), "{error}");
    let proxy = Proxy::over(&[&server], "  redis_auth: pw\n", &[]);
    endpoint.address = at(proxy.port).address;
    let found = look(&endpoint, &Wish::default()).unwrap();
    assert_eq!(
        (found.dialect, found.servers.len()),
        (Dialect::Twemproxy, 1)
    );
    probe_writes(&endpoint, &found).unwrap();
}

#[test]
fn a_replica_is_refused_and_its_master_named() {
    if !available("redis-7.0") {
        return;
    }
    let master = Server::start("redis-7.0");
    let replica = Server::start("redis-7.0");
    let found = look(&at(replica.port), &Wish::default()).unwrap();
    let master_port = master.port.to_string();
    call!(replica.client(), "REPLICAOF", "127.0.0.1", master_port);
    let why = why_unfit(look(&at(replica.port), &Wish::default()).unwrap_err());
    assert!(
        why.contains("is a replica") && why.contains(&format!("master, 127.0.0.1:{}", master.port)),
        "{why}"
    );
    // A master that becomes one takes no writes, which is seen before and after.
    let why = why_unfit(probe_writes(&at(replica.port), &found).unwrap_err());
    assert!(why.contains("READONLY"), "{why}");
    let now = preflight::servers(&at(replica.port), found.dialect, &found.servers).unwrap();
    let told = preflight::restarted(&found.servers, &now);
    assert!(
        told.len() == 1 && told[0].contains("become a replica of"),
        "{told:?}"
    );

    // One that answers nothing for as long as it has no master.
    let mute = [
        "--replicaof",
        "127.0.0.1 1",
        "--replica-serve-stale-data",
        "no",
    ];
    let mute = Server::with("redis-7.0", &mute);
    let why = why_unfit(look(&at(mute.port), &Wish::default()).unwrap_err());
    assert!(why.contains("give its master, 127.0.0.1:1"), "{why}");

    if available("nutcracker") {
        let proxy = Proxy::over(&[&mute], "", &[]);
        let why = why_unfit(look(&at(proxy.port), &Wish::default()).unwrap_err());
        assert!(why.contains("is a replica (MASTERDOWN"), "{why}");
        let proxy = Proxy::over(&[&master, &replica], "", &[]);
        let why = why_unfit(look(&at(proxy.port), &Wish::default()).unwrap_err());
        assert!(
            why.contains("is a replica") && why.contains("behind"),
            "{why}"
        );
    }
}

#[test]
fn a_server_that_loads_is_waited_for() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::start("redis-7.0");
    let mut client = server.client();
    call!(client, "DEBUG", "POPULATE", "2000");
    call!(client, "SAVE");
    // A millisecond for each key, and a look at the clients after every kilobyte.
    let mut slow = |delay_us: &str| {
        let _ = client.try_call(&[
            b"CONFIG",
            b"SET",
            b"loading-process-events-interval-bytes",
            b"1024",
        ]);
        call!(client, "CONFIG", "SET", "key-load-delay", delay_us);
        let port = server.port;
        let reload = std::thread::spawn(move || {
            let mut client = Client::connect(port).unwrap();
            let _ = client.try_call(&[b"DEBUG", b"RELOAD", b"NOSAVE"]);
        });
        let end = Instant::now() + Duration::from_secs(10);
        let loading = |client: &mut Client| match client.try_call(&[b"INFO", b"persistence"]) {
            Ok(Reply::Bulk(Some(info))) => String::from_utf8_lossy(&info).contains("\nloading:1\r"),
            _ => false,
        };
        while !loading(&mut server.client()) {
            assert!(Instant::now() < end, "it did not begin to load");
        }
        reload
    };
    let reload = slow("1000");
    let found = look(&at(server.port), &Wish::default()).unwrap();
    reload.join().unwrap();
    assert_eq!((found.keys, found.servers[0].loading), (2000, false));

    let reload = slow("2000");
    let mut hasty = at(server.port);
    hasty.timeout = Duration::from_millis(500);
    let error = look(&hasty, &Wish::default()).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("LOADING"), "{error}");
    if available("nutcracker") {
        // Through a proxy it is seen as an argument that is not valid.
        let proxy = Proxy::over(&[&server], "", &[]);
        hasty.address = at(proxy.port).address;
        let error = look(&hasty, &Wish::default()).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("loading its data"), "{error}");
        let found = look(&at(proxy.port), &Wish::default()).unwrap();
        assert_eq!(found.keys, 2000);
    }
    reload.join().unwrap();
}

#[test]
fn a_cluster_is_found_with_its_slots() {
    for name in [
        "redis-5.0",
        "redis-6.2",
        "redis-7.0",
        "redis-8.10",
        "valkey-9.1",
    ] {
        if !available(name) {
            continue;
        }
        let server = one_node_cluster(name);
        let endpoint = at(server.port);
        // It is waited for until it takes commands.
        let found = look(&endpoint, &Wish::default()).unwrap();
        assert_eq!((found.dialect, found.keys), (Dialect::Cluster, 0), "{name}");
        call!(server.client(), "SET", "a", "1");
        assert_eq!(look(&endpoint, &Wish::default()).unwrap().keys, 1);
        assert!(
            found.can_eval && found.warnings.is_empty(),
            "{:?}",
            found.warnings
        );
        let slots = found.slots.as_ref().expect("slots");
        assert!(slots.covers_all() && slots.nodes().len() == 1);
        // Such a node does not know its own address.
        let node = slots.node(0).expect("a node");
        assert_eq!(
            (&*node.host, node.port, node.id.len()),
            ("127.0.0.1", server.port, 40)
        );
        assert_eq!(found.servers[0].run_id, run_id(&server));
        probe_writes(&endpoint, &found).unwrap();
        assert_eq!(keyspace(&server), "db0:keys=1");
        let now = preflight::servers(&endpoint, found.dialect, &found.servers).unwrap();
        assert_eq!(preflight::restarted(&found.servers, &now), [""; 0]);

        call!(server.client(), "CLUSTER", "DELSLOTS", "7", "8", "16383");
        let why = why_unfit(look(&endpoint, &Wish::default()).unwrap_err());
        assert!(
            why.contains("no node holds 3 of its 16384 slots (7-8, 16383)"),
            "{why}"
        );
    }
}

#[test]
fn a_cluster_of_two_has_its_writes_tried_on_both() {
    if !available("redis-7.0") {
        return;
    }
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let nodes = [
        Server::with("redis-7.0", &options),
        Server::with("redis-7.0", &options),
    ];
    for (i, (node, slots)) in nodes
        .iter()
        .zip([("0", "16000"), ("16001", "16383")])
        .enumerate()
    {
        let mut client = node.client();
        let epoch = (i + 1).to_string();
        call!(client, "CLUSTER", "SET-CONFIG-EPOCH", epoch);
        call!(client, "CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1);
    }
    let other = nodes[1].port.to_string();
    call!(nodes[0].client(), "CLUSTER", "MEET", "127.0.0.1", other);
    let end = Instant::now() + Duration::from_secs(40);
    let ready = |node: &Server| {
        let info = call!(node.client(), "CLUSTER", "INFO").text();
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
    };
    while !nodes.iter().all(ready) {
        assert!(Instant::now() < end, "the nodes did not find each other");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Either node tells of both.
    let endpoint = at(nodes[1].port);
    let found = look(&endpoint, &Wish::default()).unwrap();
    let slots = found.slots.as_ref().expect("slots");
    assert_eq!(slots.node(16000).map(|n| n.port), Some(nodes[0].port));
    assert_eq!(slots.node(16001).map(|n| n.port), Some(nodes[1].port));
    assert_eq!(
        sorted_ids(&found),
        sorted([run_id(&nodes[0]), run_id(&nodes[1])])
    );
    probe_writes(&endpoint, &found).unwrap();
    assert_eq!(
        (keyspace(&nodes[0]), keyspace(&nodes[1])),
        (String::new(), String::new())
    );
    for node in &nodes {
        // The key was in a slot of the node, or it would have been sent on to the other.
        let stats = call!(node.client(), "INFO", "commandstats").text();
        assert!(stats.contains("cmdstat_psetex:calls=1,"), "{stats}");
    }
    // It writes to each of them: one that does not take writes is noticed, whichever it is.
    for node in &nodes {
        call!(node.client(), "ACL", "SETUSER", "default", "-psetex");
        let why = why_unfit(probe_writes(&endpoint, &found).unwrap_err());
        assert!(
            why.contains(&node.port.to_string()) && why.contains("NOPERM"),
            "{why}"
        );
        call!(node.client(), "ACL", "SETUSER", "default", "+psetex");
    }

    // One of them is gone: it is named for as long as the other counts on it, and then the cluster is no use.
    let [first, second] = nodes;
    let gone = format!("127.0.0.1:{}", first.port);
    drop(first);
    let error = look(&endpoint, &Wish::default()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unreachable { server, .. } if *server == gone));
    assert!(
        error.to_string().contains("address that the cluster gives"),
        "{error}"
    );
    let told = preflight::restarted(
        &found.servers,
        &preflight::servers(&endpoint, found.dialect, &found.servers).unwrap(),
    );
    assert!(told.len() == 1 && told[0].starts_with(&gone), "{told:?}");
    let state = || call!(second.client(), "CLUSTER", "INFO").text();
    while !state().contains("cluster_state:fail") {
        assert!(Instant::now() < end, "the node does not miss the other");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut hasty = endpoint.clone();
    hasty.timeout = Duration::from_millis(300);
    let why = why_unfit(look(&hasty, &Wish::default()).unwrap_err());
    assert!(why.contains("cluster_state:fail"), "{why}");
}

#[test]
fn the_servers_behind_a_proxy_are_found() {
    if !available("nutcracker") {
        return;
    }
    let names = [
        "redis-5.0",
        "redis-6.2",
        "redis-7.0",
        "redis-8.10",
        "valkey-9.1",
    ];
    if !names.into_iter().all(available) {
        return;
    }
    let servers = names.map(Server::start);
    for server in &servers {
        call!(server.client(), "SET", "a", "1");
    }
    let all = sorted(servers.iter().map(run_id));
    for distribution in ["ketama", "modula"] {
        let extra = format!("  distribution: {distribution}\n");
        let proxy = Proxy::over(&servers.each_ref(), &extra, &[]);
        let endpoint = at(proxy.port);
        let found = look(&endpoint, &Wish::default()).unwrap();
        assert_eq!(found.dialect, Dialect::Twemproxy);
        assert_eq!(sorted_ids(&found), all);
        assert_eq!((found.keys, found.keys_known), (servers.len() as u64, true));
        assert!(found.version.unwrap().to_string().starts_with("Redis 5.0"));
        assert!(found.can_eval && found.slots.is_none());
        assert_eq!(found.key_limit, Some(16_335));
        assert_eq!(found.warnings, [""; 0]);
        assert!(found.servers.iter().all(|s| s.representative.is_some()));
        probe_writes(&endpoint, &found).unwrap();
        for server in &servers {
            assert_eq!(keyspace(server), "db0:keys=1");
        }
        let now = preflight::servers(&endpoint, found.dialect, &found.servers).unwrap();
        assert_eq!(preflight::restarted(&found.servers, &now), [""; 0]);
        // A key leads to each of them, so a server that takes no writes is noticed.
        call!(servers[2].client(), "ACL", "SETUSER", "default", "-psetex");
        let why = why_unfit(probe_writes(&endpoint, &found).unwrap_err());
        assert!(why.contains("NOPERM"), "{why}");
        call!(servers[2].client(), "ACL", "SETUSER", "default", "+psetex");
    }
}

#[test]
fn a_server_that_restarts_is_noticed() {
    if !available("redis-7.0") || !available("nutcracker") {
        return;
    }
    let servers = [Server::start("redis-7.0"), Server::start("redis-7.0")];
    let proxy = Proxy::over(&servers.each_ref(), "", &[]);
    let through = at(proxy.port);
    let behind = look(&through, &Wish::default()).unwrap();
    let direct = look(&at(servers[1].port), &Wish::default()).unwrap();
    let (port, id) = (servers[1].port, run_id(&servers[1]));
    let [_first, second] = servers;
    drop(second);
    let told = |endpoint: &Endpoint, found: &Destination| {
        let now = preflight::servers(endpoint, found.dialect, &found.servers).unwrap();
        preflight::restarted(&found.servers, &now)
    };
    for told in [told(&through, &behind), told(&at(port), &direct)] {
        assert!(
            told.len() == 1 && told[0].contains("does not answer any more"),
            "{told:?}"
        );
    }
    let started = Started::on(port);
    for told in [told(&through, &behind), told(&at(port), &direct)] {
        assert!(told.len() == 1, "{told:?}");
        assert!(
            told[0].contains("was started anew") && told[0].contains(&id),
            "{told:?}"
        );
    }
    drop(started);
}

#[test]
fn a_server_behind_a_proxy_that_is_down_stops_the_run() {
    if !available("redis-7.0") || !available("nutcracker") {
        return;
    }
    let servers = [Server::start("redis-7.0"), Server::start("redis-7.0")];
    let proxy = Proxy::over(&servers.each_ref(), "", &[]);
    let [_first, second] = servers;
    let port = second.port;
    drop(second);
    let mut endpoint = at(proxy.port);
    endpoint.timeout = Duration::from_millis(500);
    let error = look(&endpoint, &Wish::default()).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("Connection refused"), "{error}");
    // It is waited for as long as the timeout is.
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        Started::on(port)
    });
    let found = look(&at(proxy.port), &Wish::default()).unwrap();
    assert_eq!(found.servers.len(), 2);
    drop(later.join().unwrap());
}

#[test]
fn the_longest_key_of_a_proxy_is_measured() {
    if !available("redis-7.0") || !available("nutcracker") {
        return;
    }
    let server = Server::start("redis-7.0");
    for (mbuf, limit) in [("512", 463), ("1024", 975), ("65536", 65_487)] {
        let proxy = Proxy::over(&[&server], "", &["-m", mbuf]);
        let found = look(&at(proxy.port), &Wish::default()).unwrap();
        assert_eq!(found.key_limit, Some(limit), "-m {mbuf}");
        let mut connection = Connection::open(&at(proxy.port)).unwrap();
        let reply = connection
            .call(&[b"SET", &vec![b'k'; limit], b"v"])
            .unwrap();
        assert!(reply.is_ok());
        assert!(
            connection
                .call(&[b"SET", &vec![b'k'; limit + 1], b"v"])
                .is_err()
        );
    }
}

#[test]
fn a_proxy_that_spreads_one_key_is_refused() {
    if !available("redis-7.0") || !available("nutcracker") {
        return;
    }
    let servers = [Server::start("redis-7.0"), Server::start("redis-7.0")];
    let random = Proxy::over(&servers.each_ref(), "  distribution: random\n", &[]);
    let why = why_unfit(look(&at(random.port), &Wish::default()).unwrap_err());
    assert!(why.contains("distribution: random"), "{why}");
    // Where scripts are not allowed, it takes a write to see it.
    for server in &servers {
        call!(server.client(), "ACL", "SETUSER", "default", "-eval");
    }
    let found = look(&at(random.port), &Wish::default()).unwrap();
    let why = why_unfit(probe_writes(&at(random.port), &found).unwrap_err());
    assert!(why.contains("distribution: random"), "{why}");
    for server in &servers {
        assert_eq!(keyspace(server), "");
    }
}

#[test]
fn servers_that_forbid_scripts_are_warned_of() {
    if !available("redis-7.0") || !available("redis-5.0") || !available("nutcracker") {
        return;
    }
    let by_acl = Server::start("redis-7.0");
    call!(by_acl.client(), "ACL", "SETUSER", "default", "-eval");
    let renamed = Server::with("redis-5.0", &["--rename-command", "EVAL", ""]);
    for server in [&by_acl, &renamed] {
        let found = look(&at(server.port), &Wish::default()).unwrap();
        assert!(!found.can_eval);
        let proxy = Proxy::over(&[server], "", &[]);
        let found = look(&at(proxy.port), &Wish::default()).unwrap();
        assert!(!found.can_eval && !found.keys_known && found.servers.is_empty());
        assert_eq!((found.key_limit, found.version), (Some(16_335), None));
        let [warning] = found.warnings.as_slice() else {
            panic!("{:?}", found.warnings);
        };
        assert!(warning.contains("do not allow EVAL"), "{warning}");
        probe_writes(&at(proxy.port), &found).unwrap();
    }
    // Scripts without INFO guard writes as well, but tell nothing of the servers.
    let no_info = Server::start("redis-7.0");
    call!(no_info.client(), "ACL", "SETUSER", "default", "-info");
    let renamed = Server::with("redis-7.0", &["--rename-command", "CONFIG", ""]);
    let proxy = Proxy::over(&[&no_info, &renamed], "", &[]);
    let found = look(&at(proxy.port), &Wish::default()).unwrap();
    assert!(found.can_eval && !found.keys_known);
    assert!(
        found.warnings[0].contains("INFO in scripts"),
        "{:?}",
        found.warnings
    );
}

#[test]
fn a_server_that_forbids_info_is_taken_with_a_warning() {
    for name in ["redis-7.0", "valkey-9.1"] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let mut client = server.client();
        call!(client, "SET", "a", "1");
        call!(client, "ACL", "SETUSER", "default", "-info");
        let found = look(&at(server.port), &Wish::default()).unwrap();
        assert_eq!(
            (found.dialect, found.keys, found.keys_known),
            (Dialect::Redis, 1, true)
        );
        assert!(found.version.unwrap().to_string().ends_with(match name {
            "redis-7.0" => "Redis 7.0.15",
            _ => "Valkey 9.1.2",
        }));
        assert_eq!(found.servers[0].role, Role::Master);
        assert!(
            found.warnings[0].contains("INFO (NOPERM"),
            "{:?}",
            found.warnings
        );
        call!(client, "ACL", "SETUSER", "default", "-dbsize");
        let found = look(&at(server.port), &Wish::default()).unwrap();
        assert!(!found.keys_known && found.warnings[1].contains("DBSIZE"));
        // What is a cluster is one still.
        let cluster = one_node_cluster(name);
        call!(cluster.client(), "ACL", "SETUSER", "default", "-info");
        let found = look(&at(cluster.port), &Wish::default()).unwrap();
        assert_eq!(found.dialect, Dialect::Cluster);
    }
}

#[test]
fn a_server_that_evicts_is_warned_of() {
    if !available("redis-7.0") {
        return;
    }
    let options = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let server = Server::with("redis-7.0", &options);
    let wish = Wish {
        bytes: Some(1 << 30),
        ..Wish::default()
    };
    let found = look(&at(server.port), &wish).unwrap();
    assert_eq!(found.servers[0].maxmemory, 100 << 20);
    let [evicts, small] = found.warnings.as_slice() else {
        panic!("{:?}", found.warnings);
    };
    assert!(evicts.contains("maxmemory-policy allkeys-lru"), "{evicts}");
    assert!(
        small.contains("the input needs about 1073741824"),
        "{small}"
    );
}

#[test]
fn the_statistics_of_a_proxy_are_looked_at() {
    if !available("redis-7.0") || !available("nutcracker") {
        return;
    }
    let servers = [Server::start("redis-7.0"), Server::start("redis-7.0")];
    let wish = |port| Wish {
        proxy_stats: Some(("127.0.0.1".to_owned(), port)),
        ..Wish::default()
    };
    let good = Proxy::over(&servers.each_ref(), "", &[]);
    let found = look(&at(good.port), &wish(good.stats)).unwrap();
    assert_eq!(found.warnings, [""; 0]);

    let several = Proxy::over(&servers.each_ref(), "  server_connections: 4\n", &[]);
    let found = look(&at(several.port), &wish(several.stats)).unwrap();
    assert!(
        found.warnings.len() == 1 && found.warnings[0].contains("set server_connections: 1"),
        "{:?}",
        found.warnings
    );

    // The port of something else, and one that nobody listens on.
    let why = why_unfit(look(&at(good.port), &wish(http_port())).unwrap_err());
    assert!(why.contains("no statistics of twemproxy"), "{why}");
    let error = look(&at(good.port), &wish(1)).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable { .. }),
        "{error}"
    );

    let ejecting =
        "  auto_eject_hosts: true\n  server_retry_timeout: 60000\n  server_failure_limit: 1\n";
    let ejecting = Proxy::over(&servers.each_ref(), ejecting, &[]);
    let [_first, second] = servers;
    drop(second);
    // The first key that would go to the server that is gone has it ejected, and all then go to the other.
    let found = look(&at(ejecting.port), &wish(ejecting.stats)).unwrap();
    assert_eq!(found.servers.len(), 1);
    assert!(
        found.warnings[0].contains("auto_eject_hosts: false"),
        "{:?}",
        found.warnings
    );
    assert!(found.warnings[1].contains("lists 2 servers, and keys lead to 1"));
}

#[test]
fn a_sentinel_is_no_destination() {
    if !available("redis-7.0") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("sentinel.conf");
    let port = unused_port();
    std::fs::write(&config, format!("port {port}\nbind 127.0.0.1\n")).unwrap();
    let child = Command::new(starter("redis-7.0"))
        .args([text(&config), "--sentinel"])
        .stdout(Stdio::null())
        .spawn();
    let _sentinel = Started::wait(child.expect("a sentinel"), port);
    let why = why_unfit(look(&at(port), &Wish::default()).unwrap_err());
    assert!(why.contains("is a Sentinel"), "{why}");
}

/// The endpoint on a port, patient enough for a machine that is busy.
fn at(port: u16) -> Endpoint {
    let mut endpoint = Endpoint::new(Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    });
    endpoint.timeout = Duration::from_secs(20);
    endpoint
}

fn why_unfit(error: Error) -> String {
    match error.kind() {
        ErrorKind::Unfit(why) => why.clone(),
        _ => panic!("not unfit: {error}"),
    }
}

fn run_id(server: &Server) -> String {
    let info = call!(server.client(), "INFO", "server").text();
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    id.expect("a run_id").to_owned()
}

fn sorted(ids: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort();
    ids
}

fn sorted_ids(found: &Destination) -> Vec<String> {
    sorted(found.servers.iter().map(|server| server.run_id.clone()))
}

/// `db0:keys=1 db3:keys=2`
fn keyspace(server: &Server) -> String {
    let info = call!(server.client(), "INFO", "keyspace").text();
    let databases = info.lines().filter(|line| line.starts_with("db"));
    let keys: Vec<_> = databases
        .filter_map(|line| line.split(',').next())
        .collect();
    keys.join(" ")
}

/// A server that is a whole cluster. It needs two seconds until it says so.
fn one_node_cluster(name: &str) -> Server {
    let server = Server::with(name, &["--cluster-enabled", "yes"]);
    let mut client = server.client();
    if matches!(name, "redis-5.0" | "redis-6.2") {
        let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
        let slots = slots.iter().map(|slot| slot.as_bytes());
        let args: Vec<&[u8]> = [&b"CLUSTER"[..], b"ADDSLOTS"]
            .into_iter()
            .chain(slots)
            .collect();
        client.call(&args);
    } else {
        call!(client, "CLUSTER", "ADDSLOTSRANGE", "0", "16383");
    }
    server
}

/// A port on which something answers that is no proxy's statistics.
fn http_port() -> u16 {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    });
    port
}

/// A port that nobody listens on now. They are taken in turn from below those of the servers, which are below those
/// that the system gives to outgoing connections.
pub(crate) fn unused_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 14_000 + ((std::process::id() * 97 + turn) % 6_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A process that listens, ended when the test is.
pub(crate) struct Started(Child);

impl Started {
    /// An empty server on a port of one that is gone.
    fn on(port: u16) -> Started {
        let child = Command::new(starter("redis-7.0"))
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .stdout(Stdio::null())
            .spawn();
        Started::wait(child.expect("a server"), port)
    }

    pub(crate) fn wait(child: Child, port: u16) -> Started {
        let started = Started(child);
        let end = Instant::now() + Duration::from_secs(20);
        while !Client::connect(port).is_ok_and(|mut c| c.try_call(&[b"PING"]).is_ok()) {
            assert!(Instant::now() < end, "nothing answers on port {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
        started
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A twemproxy with settings and options of its own.
struct Proxy {
    port: u16,
    stats: u16,
    _started: Started,
    _dir: tempfile::TempDir,
}

impl Proxy {
    fn over(servers: &[&Server], settings: &str, options: &[&str]) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let (port, stats) = (unused_port(), unused_port());
        let mut config =
            format!("alpha:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  redis: true\n");
        if !settings.contains("distribution") {
            config += "  distribution: ketama\n";
        }
        config += settings;
        config += "  servers:\n";
        for (i, server) in servers.iter().enumerate() {
            config += &format!("   - 127.0.0.1:{}:1 s{i}\n", server.port);
        }
        let file = dir.path().join("nutcracker.yml");
        std::fs::write(&file, config).unwrap();
        let stats_port = stats.to_string();
        let child = Command::new(starter("nutcracker"))
            .args([
                "-c",
                text(&file),
                "-s",
                &stats_port,
                "-a",
                "127.0.0.1",
                "-i",
                "300",
            ])
            .args(["-o", text(&dir.path().join("log"))])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Proxy {
            port,
            stats,
            _started: Started::wait(child.expect("a proxy"), port),
            _dir: dir,
        }
    }
}
