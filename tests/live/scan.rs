//! Sources that let nobody be their replica.

use super::{Live, SOON, fill, info, is_equal, names, source, uri};
use crate::replay::Target;
use crate::support::client::call;

#[test]
fn a_source_that_refuses_psync_is_read_key_by_key() {
    let source = source("redis-7.0", &[]);
    fill(&source, 3000);
    let mut client = source.client();
    call!(
        client,
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "~*",
        "+@all",
        "-psync",
        "-sync",
        "-replconf"
    );
    for target in [Target::server("redis-7.0"), Target::proxy(&[])] {
        let from = format!("redis://reader:secret@127.0.0.1:{}", source.port);
        let to = uri(target.port());
        // It is offered, and not done by itself.
        let mut live = Live::between(&from, &to, &[]).started();
        let (code, said) = live.ends(SOON);
        assert_eq!(code, 4, "{said}");
        assert!(names(&said, &["--method scan"]), "{said}");

        let mut live = Live::between(&from, &to, &["--method", "scan"]).started();
        let (code, said) = live.ends(2 * SOON);
        assert_eq!(code, 0, "{said}");
        assert!(names(&said, &["snapshot"]), "{said}");
        is_equal(&live, &source, &target, 0);
        assert_eq!(info(&source, "stats", "sync_full"), 0);
    }
}

/// Keys that were read are not yet sent.
#[test]
fn progress_counts_what_is_sent() {
    let (source, target) = (source("redis-7.0", &[]), Target::server("redis-7.0"));
    fill(&source, 500);
    let words = [
        "--method",
        "scan",
        "--rate",
        "500",
        "--progress-interval",
        "200ms",
    ];
    let mut live = Live::new(source.port, target.port(), &words).started();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 0, "{said}");
    let sent = said.lines().find(|line| line.contains("RDB:"));
    assert!(sent.is_some_and(|line| line.ends_with(" 0 keys")), "{said}");
}

#[test]
fn all_databases_are_read_key_by_key() {
    let source = source("redis-7.0", &[]);
    let mut client = source.client();
    for db in 0..5 {
        call!(client, "SELECT", db.to_string());
        for i in 0..50 {
            call!(
                client,
                "RPUSH",
                format!("key:{i}"),
                db.to_string(),
                i.to_string()
            );
            call!(
                client,
                "SET",
                format!("ends:{i}"),
                "x",
                "PXAT",
                (4_102_444_800_123_i64 + i).to_string()
            );
        }
    }
    let target = Target::server("redis-7.0");
    let mut live = Live::new(source.port, target.port(), &["--method", "scan"]).started();
    let (code, said) = live.ends(SOON);
    assert_eq!(code, 0, "{said}");
    is_equal(&live, &source, &target, 0);
}
