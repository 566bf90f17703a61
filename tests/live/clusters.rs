//! A cluster that changes its shape while it is a destination.

use std::time::{Duration, Instant};

use super::{Live, SOON, ends_equal_within, fill, is_equal, names, source};
use crate::replay::Target;
use crate::support::client::{Reply, call};
use crate::support::cluster::{self, Cluster};
use crate::support::load::{Load, Mix};

/// Keys that are moved by MIGRATE get their lives as how long they still have, so that their ends come later by as many
/// milliseconds as they were under way.
const MOVED_MS: i64 = 3000;

fn shape(target: &Target) -> &Cluster {
    match target {
        Target::Cluster(cluster) => cluster,
        _ => unreachable!("these tests have clusters only"),
    }
}

/// Slow enough for something to happen before it has caught up, and fast enough to catch up with [`slow`].
const SLOWLY: [&str; 2] = ["--rate", "2000"];

fn slow() -> Mix {
    Mix {
        per_second: 800,
        ..Mix::narrow()
    }
}

/// While the snapshot is loaded, while the delta is, and while it is online.
#[test]
fn slots_that_move_all_the_while() {
    let (source, target) = (source("redis-7.0", &[]), Target::cluster());
    let cluster = shape(&target);
    fill(&source, 5000);
    let load = Load::mixed(&source, slow());
    load.does(200);
    let mut live = Live::new(source.port, target.port(), &SLOWLY).started();
    live.until("keys", SOON, |_| target.keys() > 300);
    let (mut moves, mut after) = ([(0, 2), (2, 1), (1, 0)].into_iter().cycle(), 0);
    let mut before = 0;
    live.until("moves before and after catching up", 2 * SOON, |live| {
        let (from, to) = moves.next().expect("a cycle has no end");
        cluster.move_slots(from, to, 100);
        match live.said().contains("caught up") {
            true => after += 1,
            false => before += 1,
        }
        after == 6
    });
    assert!(before > 0, "{}", live.said());
    load.does(300);
    load.stop();
    ends_equal_within(&mut live, &source, &target, MOVED_MS);
    live.terminate();
}

/// A replica that takes the place of its master when all is well with both: the master waits for it.
#[test]
fn a_master_that_changes_places_with_its_replica() {
    let source = source("redis-7.0", &[]);
    let target = Target::Cluster(Cluster::with_replicas("redis-7.0", 3, 1));
    let cluster = shape(&target);
    fill(&source, 5000);
    let load = Load::mixed(&source, slow());
    load.does(200);
    let mut live = Live::new(source.port, target.port(), &SLOWLY).started();
    live.until("keys", SOON, |_| target.keys() > 300);
    changes_places(cluster, 1, 4);
    live.catches_up();
    changes_places(cluster, 0, 3);
    load.does(300);
    // And back again.
    changes_places(cluster, 4, 1);
    load.does(300);
    load.stop();
    ends_equal_within(&mut live, &source, &target, 0);
    live.terminate();
}

/// A clean failover: the replica becomes the master, and the master its replica.
fn changes_places(cluster: &Cluster, master: usize, replica: usize) {
    let is =
        |i: usize, role: &str| call!(cluster.client(i), "ROLE").array()[0].clone().text() == role;
    let mut asked: Option<Instant> = None;
    cluster::until(SOON, || {
        // It fails where the two are not in touch yet, and a replica gives it up after five seconds.
        if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(6)) {
            let answer = cluster.client(replica).try_call(&[b"CLUSTER", b"FAILOVER"]);
            if matches!(answer, Ok(Reply::Status(_))) {
                asked = Some(Instant::now());
            }
        }
        is(replica, "master")
    });
    // Which of the two is to be read, both must know.
    cluster::until(SOON, || is(master, "slave"));
}

/// All that was acknowledged is known to the replica when the master dies.
#[test]
fn a_master_that_dies_when_its_replica_knows_everything() {
    let source = source("redis-7.0", &[]);
    let target = Target::Cluster(Cluster::with_replicas("redis-7.0", 3, 1));
    let cluster = shape(&target);
    fill(&source, 3000);
    let load = Load::mixed(&source, Mix::narrow());
    let mut live = Live::new(source.port, target.port(), &[]).started();
    live.catches_up();
    load.does(1000);
    load.stop();
    is_equal(&live, &source, &target, 0);
    for master in 0..3 {
        assert_eq!(call!(cluster.client(master), "WAIT", "1", "10000").int(), 1);
    }
    let load = Load::mixed(
        &source,
        Mix {
            seed: 2,
            ..Mix::narrow()
        },
    );
    cluster.failover(1);
    load.does(1000);
    load.stop();
    ends_equal_within(&mut live, &source, &target, 0);
    // Whether it was so, the run cannot know.
    let said = live.terminate();
    assert!(
        names(&said, &["a master of the cluster was replaced"]),
        "{said}"
    );
}

/// A replica that does not know all that its master has acknowledged takes its place. That is lost, and said, by whoever
/// goes on with that load too; one that begins anew brings it.
#[test]
fn a_master_that_dies_before_its_replica_knows_everything() {
    let source = source("redis-7.0", &[]);
    let target = Target::Cluster(Cluster::with_replicas("redis-7.0", 3, 1));
    let cluster = shape(&target);
    fill(&source, 3000);
    let words = ["--until", "caught-up", "--rate", "1000"];
    let mut live = Live::new(source.port, target.port(), &words).started();
    live.until("keys", SOON, |_| target.keys() > 300);
    // From here on the replica cannot log in to its master.
    let mut replica = cluster.client(4);
    call!(replica, "CONFIG", "SET", "masterauth", "wrong");
    call!(replica, "CLIENT", "KILL", "TYPE", "master");
    live.until("keys", SOON, |_| target.keys() > 1500);
    cluster.failover(1);
    let load = Load::mixed(&source, Mix::narrow());
    load.does(1000);
    load.stop();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 1, "{said}");
    let why = ["a master of the cluster was replaced", "begin anew"];
    assert!(names(&said, &why), "{said}");
    assert!(target.keys() + 100 < call!(source.client(), "DBSIZE").int());
    live.start();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 1, "{said}");
    assert!(
        names(&said, &["does not answer any more", "begin anew"]),
        "{said}"
    );

    target.flush();
    let words = ["--until", "caught-up"];
    let mut anew = Live::new(source.port, target.port(), &words).started();
    let (code, said) = anew.ends(SOON);
    assert_eq!(code, 0, "{said}");
    is_equal(&anew, &source, &target, 0);
}
