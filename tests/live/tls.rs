//! A source that speaks TLS.

use super::refusals::is_refused;
use super::{Live, ends_equal, fill, info, uri};
use crate::replay::Target;
use crate::support::load::{Load, Mix};
use crate::support::relay::Relay;
use crate::support::text;
use crate::support::tls::{tls_server, tls_server_as};

fn tls_uri(port: u16) -> String {
    format!("rediss://127.0.0.1:{port}")
}

/// A snapshot of many records of TLS, commands as they come, acknowledgements the other way, and a link that is lost.
fn is_read_through_tls(diskless: &str) {
    let options = [
        "--tls-auth-clients",
        "no",
        "--repl-diskless-sync-delay",
        "0",
        "--repl-diskless-sync",
        diskless,
    ];
    let (source, certificates) = tls_server(&options);
    let target = Target::server("redis-7.0");
    fill(&source, 5000);
    let relay = Relay::start(certificates.tls_port);
    let load = Load::mixed(&source, Mix::wide());
    load.does(500);
    let ca = certificates.path("ca.crt");
    let words = ["--from-cacert", text(&ca)];
    let from = tls_uri(relay.port);
    let mut live = Live::between(&from, &uri(target.port()), &words).started();
    live.catches_up();
    let before = relay.connections();
    relay.reset();
    load.does(2000);
    load.stop();
    live.acknowledges(&source);
    ends_equal(&mut live, &source, &target);
    assert!(relay.connections() > before, "{}", live.said());
    assert_eq!(info(&source, "stats", "sync_full"), 1, "{}", live.said());
    live.terminate();
}

#[test]
fn a_snapshot_of_known_length_through_tls() {
    is_read_through_tls("no");
}

#[test]
fn a_snapshot_of_unknown_length_through_tls() {
    is_read_through_tls("yes");
}

/// A source that wants to see a certificate of whoever comes.
#[test]
fn a_source_that_asks_for_a_certificate_gets_ours() {
    let options = [
        "--tls-auth-clients",
        "yes",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let (source, certificates) = tls_server(&options);
    let target = Target::server("redis-7.0");
    fill(&source, 500);
    let path = |name: &str| text(&certificates.path(name)).to_owned();
    let (ca, cert, key) = (path("ca.crt"), path("ca-client.crt"), path("ca-client.key"));
    let (from, to) = (tls_uri(certificates.tls_port), uri(target.port()));
    let live = Live::between(&from, &to, &["--from-cacert", &ca]);
    is_refused(
        live,
        4,
        &["certificate of ours", "--from-tls-cert"],
        &target,
    );

    let words = [
        "--from-cacert",
        &ca,
        "--from-tls-cert",
        &cert,
        "--from-tls-key",
        &key,
    ];
    let load = Load::mixed(&source, Mix::wide());
    let mut live = Live::between(&from, &to, &words).started();
    live.catches_up();
    load.does(1000);
    load.stop();
    ends_equal(&mut live, &source, &target);
    live.terminate();
}

/// What is said names the flags of the source: those of the destination would not help.
#[test]
fn a_source_that_is_not_trusted_is_refused() {
    let target = Target::server("redis-7.0");
    let (source, certificates) = tls_server(&[]);
    let (_expired, of_expired) = tls_server_as("ca-expired", &[]);
    fill(&source, 10);
    let path = |name: &str| text(&certificates.path(name)).to_owned();
    let (ca, other) = (path("ca.crt"), path("other-ca.crt"));
    let expired_ca = text(&of_expired.path("ca.crt")).to_owned();
    let (port, expired) = (certificates.tls_port, of_expired.tls_port);
    let cases: [(String, &[&str], &[&str]); 7] = [
        (tls_uri(port), &[], &["--from-cacert"]),
        (
            tls_uri(port),
            &["--from-cacert", &other],
            &["signed by nobody who is trusted", "--from-cacert"],
        ),
        // A destination's authority is not the source's.
        (
            tls_uri(port),
            &["--cacert", &ca, "--tls"],
            &["--from-cacert"],
        ),
        (
            tls_uri(port),
            &["--from-cacert", &ca, "--from-sni", "db.example"],
            &["for another name", "db.example", "--from-sni"],
        ),
        (
            tls_uri(expired),
            &["--from-cacert", &expired_ca],
            &["has expired"],
        ),
        // Each port for the other.
        (uri(port), &[], &["--from-tls"]),
        (
            tls_uri(source.port),
            &["--from-cacert", &ca, "--timeout", "1500ms"],
            &["--from-tls"],
        ),
    ];
    for (from, words, said) in cases {
        let live = Live::between(&from, &uri(target.port()), words);
        let said = is_refused(live, 4, said, &target);
        assert!(
            !said.contains(" --cacert") && !said.contains(" --tls"),
            "{said}"
        );
        assert!(!said.contains(" --sni"), "{said}");
    }
    assert_eq!(info(&source, "stats", "sync_full"), 0);

    // Whoever wants to may trust it all the same.
    let to = uri(target.port());
    let mut live = Live::between(&tls_uri(port), &to, &["--from-insecure"]).started();
    ends_equal(&mut live, &source, &target);
    live.terminate();
}
