//! The tools themselves, held against a replica that a server makes: what it cannot show, they would not either.

use std::time::Duration;

use super::acknowledged;
use crate::support::client::call;
use crate::support::data::{DataSet, differences_left};
use crate::support::load::{Load, Mix, Renewal, rest};
use crate::support::relay::Relay;
use crate::support::server::{Server, available};

/// A replica of the server's own, in place of the program.
fn replica(name: &str, master: u16) -> Server {
    let replica = Server::with(name, &["--repl-diskless-load", "disabled"]);
    call!(
        replica.client(),
        "REPLICAOF",
        "127.0.0.1",
        master.to_string()
    );
    replica
}

fn a_replica_has_what_the_load_has_written(name: &str, field_ttl: bool) {
    if !available(name) {
        return;
    }
    let source = Server::with(name, &["--repl-diskless-sync-delay", "0"]);
    let mix = Mix {
        field_ttl,
        ..Mix::wide()
    };
    let load = Load::mixed(&source, mix);
    load.does(2000);
    let replica = replica(name, source.port);
    load.does(5000);
    let (done, errors) = load.stop();
    println!("{name}: {done} commands, refused: {errors:?}");
    rest();
    acknowledged(&source, Duration::from_secs(2)).expect("its offset");
    let slack = if name == "redis-6.2" { 1500 } else { 0 };
    let got = || DataSet::read_all(&[&replica]).without_minus_zero();
    let left = differences_left(Duration::from_secs(5), slack, &[&source], got);
    assert_eq!(left, Vec::<String>::new());
    let data = DataSet::read_all(&[&source]);
    println!("{name}: {} keys", data.len());
    assert!(data.len() > 200, "{} keys", data.len());
}

#[test]
fn a_replica_of_6_2_has_what_the_load_has_written() {
    a_replica_has_what_the_load_has_written("redis-6.2", false);
}

#[test]
fn a_replica_of_7_0_has_what_the_load_has_written() {
    a_replica_has_what_the_load_has_written("redis-7.0", false);
}

#[test]
fn a_replica_of_valkey_9_1_has_what_the_load_has_written() {
    a_replica_has_what_the_load_has_written("valkey-9.1", true);
}

#[test]
fn a_replica_behind_a_relay_that_takes_the_mark_apart_has_everything() {
    let source = Server::with(
        "redis-7.0",
        &[
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ],
    );
    let relay = Relay::start(source.port);
    relay.split_eof();
    let load = Load::mixed(&source, Mix::narrow());
    let renewal = Renewal::start(&source, 20);
    load.does(1000);
    let replica = replica("redis-7.0", relay.port);
    // A replica of the server's own sends no pages to a relay that is not there yet.
    super::until(Duration::from_secs(20), || relay.eof_marks_split() == 1);
    {
        let _cutting = relay.cutting_every(Duration::from_millis(700));
        load.does(5000);
    }
    load.stop();
    renewal.keep();
    rest();
    acknowledged(&source, Duration::from_secs(2)).expect("its offset");
    let got = || DataSet::read_all(&[&replica]).without_minus_zero();
    let left = differences_left(Duration::from_secs(10), 0, &[&source], got);
    assert_eq!(left, Vec::<String>::new());
    assert!(relay.connections() > 2);
}
