//! The tests' own instruments: if these see no difference, there is none.

use crate::support::client::call;
use crate::support::data::{DataSet, Value, diff};
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
