//! Connections and logins, to real servers and to what only looks like one.

use std::io::{ErrorKind as Io, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use redis_migration::ErrorKind;
use redis_migration::pipeline::Progress;
use redis_migration::replica::scan::{ScanOptions, scan};
use redis_migration::server::connection::Connection;
use redis_migration::server::endpoint::{Address, Endpoint, Secret, Tls};
use redis_migration::server::reply::Reply;

use crate::support::client::call;
use crate::support::data::digest;
use crate::support::server::{Nutcracker, Server, available, free_port};
use crate::support::text;
use crate::support::tls::{Certificates, tls_server, tls_server_as};

const PASSWORD: &str = "nobody-shall-see-this";

fn endpoint(port: u16) -> Endpoint {
    let mut endpoint = Endpoint::new(Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    });
    endpoint.timeout = Duration::from_secs(10);
    endpoint
}

fn with_login(endpoint: &Endpoint, user: &str, password: &str) -> Endpoint {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Endpoint {
        user: some(user),
        password: some(password).map(Secret::new),
        ..endpoint.clone()
    }
}

fn with_tls(endpoint: &Endpoint, tls: Tls) -> Endpoint {
    Endpoint {
        tls: Some(tls),
        ..endpoint.clone()
    }
}

fn short(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        timeout: Duration::from_millis(300),
        ..endpoint
    }
}

/// How an endpoint fails, by kind and sentence. The sentence names the server and never the password.
fn failure(endpoint: &Endpoint) -> (&'static str, String) {
    let error = Connection::open(endpoint).expect_err("no such server should do");
    let kind = match error.kind() {
        ErrorKind::Unreachable { .. } => "unreachable",
        ErrorKind::Login { .. } => "login",
        ErrorKind::Io { .. } => "file",
        other => panic!("{other:?}"),
    };
    let sentence = error.to_string();
    assert!(
        kind == "file" || sentence.starts_with(&format!("{}: ", endpoint.address)),
        "{sentence}"
    );
    for shown in [&sentence, &format!("{error:?} {endpoint:?}")] {
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    (kind, sentence)
}

#[track_caller]
fn fails(endpoint: &Endpoint, kind: &str, parts: &[&str]) {
    let (found, sentence) = failure(endpoint);
    assert_eq!(found, kind, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

#[track_caller]
fn works(endpoint: &Endpoint) -> Connection {
    let mut connection = Connection::open(endpoint).expect("a server");
    assert!(
        connection
            .call(&[b"SET", b"key", b"value"])
            .expect("an answer")
            .is_ok()
    );
    let value = connection.call(&[b"GET", b"key"]).expect("an answer");
    assert_eq!(value, Reply::Bulk(b"value".to_vec()));
    assert!(!connection.has_buffered_input());
    connection
}

#[test]
fn commands_are_answered_in_their_order() {
    let server = Server::start("redis-7.0");
    let mut connection = works(&endpoint(server.port));
    assert_eq!(connection.name(), format!("127.0.0.1:{}", server.port));
    let error = connection.call(&[b"NONSENSE"]).expect("an answer");
    assert!(
        error
            .error()
            .is_some_and(|words| words.starts_with(b"ERR unknown"))
    );

    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let echoes: Vec<Vec<&[u8]>> = numbers
        .iter()
        .map(|n| vec![&b"ECHO"[..], n.as_bytes()])
        .collect();
    let answers = connection.calls(&echoes).expect("answers");
    let expected: Vec<Reply> = numbers
        .iter()
        .map(|n| Reply::Bulk(n.clone().into()))
        .collect();
    assert!(answers == expected);
    assert_eq!(connection.calls(&[]).expect("nothing"), []);
}

/// A server whose answers nobody reads stops reading commands.
#[test]
fn large_answers_are_read_while_large_commands_are_sent() {
    let (server, certificates) = tls_server(&[]);
    for endpoint in [endpoint(server.port), certificates.trusted("127.0.0.1")] {
        let mut connection = works(&endpoint);
        let value = vec![b'x'; 4 << 20];
        let answers = connection
            .calls(&vec![vec![&b"ECHO"[..], &value]; 16])
            .expect("answers");
        assert_eq!(answers.len(), 16);
        assert!(answers.iter().all(|answer| answer.bytes() == Some(&value)));
    }
}

#[test]
fn a_password_is_asked_for_and_checked() {
    let server = Server::start("redis-7.0");
    let open = endpoint(server.port);
    fails(
        &with_login(&open, "", PASSWORD),
        "login",
        &[
            "has no password set",
            "leave out -a, --askpass or REDISCLI_AUTH",
            "without any password",
        ],
    );
    call!(server.client(), "CONFIG", "SET", "requirepass", PASSWORD);
    works(&with_login(&open, "", PASSWORD));
    works(&with_login(&open, "default", PASSWORD));
    let wrong = format!("not {PASSWORD}");
    fails(
        &with_login(&open, "", &wrong),
        "login",
        &["the password is wrong", "REDISCLI_AUTH", "\"WRONGPASS "],
    );
    fails(
        &with_login(&open, "nobody", PASSWORD),
        "login",
        &["user or password is wrong", "--user"],
    );
    fails(
        &with_login(&open, "default", ""),
        "login",
        &["needs a password", "--askpass"],
    );
    fails(
        &open,
        "login",
        &["asks for a password", "-a", "REDISCLI_AUTH", "\"NOAUTH "],
    );
}

#[test]
fn users_are_let_in_as_far_as_they_may() {
    let server = Server::start("redis-7.0");
    let open = endpoint(server.port);
    let mut client = server.client();
    let password = format!(">{PASSWORD}");
    call!(
        client, "ACL", "SETUSER", "alice", "on", password, "+@all", "~*"
    );
    call!(
        client, "ACL", "SETUSER", "free", "on", "nopass", "+@all", "~*"
    );
    call!(
        client, "ACL", "SETUSER", "mute", "on", "nopass", "+set", "~*"
    );
    works(&with_login(&open, "alice", PASSWORD));
    works(&with_login(&open, "free", ""));
    fails(
        &with_login(&open, "alice", "wrong"),
        "login",
        &["user or password is wrong"],
    );
    let mute = with_login(&open, "mute", "");
    fails(
        &mute,
        "login",
        &["lacks a permission", "ACL SETUSER", "\"NOPERM "],
    );
    let mut unasked = Connection::open_unasked(&mute).expect("a login");
    assert!(
        unasked
            .call(&[b"SET", b"key", b"value"])
            .expect("an answer")
            .is_ok()
    );
}

#[test]
fn servers_of_every_age_are_logged_in_to() {
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
        let server = Server::start(name);
        works(&endpoint(server.port));
        call!(server.client(), "CONFIG", "SET", "requirepass", PASSWORD);
        works(&with_login(&endpoint(server.port), "", PASSWORD));
        fails(
            &with_login(&endpoint(server.port), "", "wrong"),
            "login",
            &["the password is wrong"],
        );
        fails(&endpoint(server.port), "login", &["asks for a password"]);
    }
}

#[test]
fn a_time_without_end_is_no_failure() {
    let server = Server::start("redis-7.0");
    works(&Endpoint {
        timeout: Duration::MAX,
        ..endpoint(server.port)
    });
}

#[test]
fn an_old_server_knows_no_users() {
    if !available("redis-5.0") {
        return;
    }
    let server = Server::start("redis-5.0");
    let open = endpoint(server.port);
    fails(
        &with_login(&open, "", PASSWORD),
        "login",
        &["has no password set"],
    );
    call!(server.client(), "CONFIG", "SET", "requirepass", PASSWORD);
    works(&with_login(&open, "", PASSWORD));
    fails(
        &with_login(&open, "", "wrong"),
        "login",
        &["the password is wrong", "invalid password"],
    );
    fails(
        &with_login(&open, "alice", PASSWORD),
        "login",
        &["knows no users", "--user"],
    );
}

#[test]
fn a_server_without_room_says_so() {
    let server = Server::start("redis-7.0");
    let mut held = server.client();
    call!(held, "CONFIG", "SET", "maxclients", "1");
    fails(
        &endpoint(server.port),
        "unreachable",
        &[
            "no more clients",
            "maxclients",
            "max number of clients reached",
        ],
    );
}

#[test]
fn a_socket_in_the_file_system() {
    let server = Server::with("redis-7.0", &["--unixsocket", "socket"]);
    let at = |path: PathBuf| Endpoint::new(Address::Unix(path));
    let path = server.dir().join("socket");
    let connection = works(&at(path.clone()));
    assert_eq!(connection.name(), text(&path));
    fails(
        &at(server.dir().join("other")),
        "unreachable",
        &["there is no such socket"],
    );
    fails(
        &at(server.dir().join("log")),
        "unreachable",
        &["no server listens on this socket"],
    );
    fails(
        &at(server.dir().join("x".repeat(200))),
        "unreachable",
        &["too long"],
    );
}

// TLS.

impl Certificates {
    /// The endpoint of the port for TLS, under this name.
    fn at(&self, host: &str, tls: Tls) -> Endpoint {
        with_tls(&endpoint(0).at(host, self.tls_port), tls)
    }

    fn trust(&self) -> Tls {
        Tls {
            ca_cert: Some(self.path("ca.crt")),
            ..Tls::default()
        }
    }

    fn trusted(&self, host: &str) -> Endpoint {
        self.at(host, self.trust())
    }
}

#[test]
fn values_of_a_source_are_read_through_tls() {
    let (server, certificates) = tls_server(&[]);
    let mut client = server.client();
    // Several records of TLS, and a value that no server compresses.
    let large: Vec<u8> = (0..300_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    call!(client, "SET", "large", &large);
    call!(client, "DEBUG", "POPULATE", "2000");
    let dir = tempfile::tempdir().expect("a directory");
    let rdb = dir.path().join("scanned.rdb");
    let options = ScanOptions::new(certificates.trusted("127.0.0.1"), &rdb);
    let report = scan(&options, &Progress::default(), &mut |text| panic!("{text}"));
    assert_eq!(report.expect("a snapshot").keys, 2001);
    let other = Server::on_snapshot("redis-7.0", &rdb);
    assert_eq!(digest(&[&other]), digest(&[&server]));
}

#[test]
fn a_server_is_trusted_by_its_certificate() {
    let (server, certificates) = tls_server(&[]);
    works(&certificates.trusted("127.0.0.1"));
    works(&certificates.trusted("localhost"));

    let other = Tls {
        ca_cert: Some(certificates.path("other-ca.crt")),
        ..Tls::default()
    };
    fails(
        &certificates.at("127.0.0.1", other.clone()),
        "unreachable",
        &["signed by nobody who is trusted", "--cacert"],
    );
    fails(
        &certificates.at("127.0.0.1", Tls::default()),
        "unreachable",
        &["--cacert"],
    );
    works(&certificates.at(
        "127.0.0.1",
        Tls {
            insecure: true,
            ..other
        },
    ));

    let named = |sni: &str| Tls {
        sni: Some(sni.to_owned()),
        ..certificates.trust()
    };
    fails(
        &certificates.at("127.0.0.1", named("db.example")),
        "unreachable",
        &["for another name", "db.example", "--sni"],
    );
    works(&certificates.at("127.0.0.1", named("localhost")));
    fails(
        &certificates.at("127.0.0.1", named("no name")),
        "unreachable",
        &["--sni"],
    );

    call!(server.client(), "CONFIG", "SET", "requirepass", PASSWORD);
    works(&with_login(
        &certificates.trusted("localhost"),
        "",
        PASSWORD,
    ));
    fails(
        &certificates.trusted("localhost"),
        "login",
        &["asks for a password"],
    );
}

#[test]
fn a_certificate_that_has_expired_is_not_trusted() {
    let (_server, certificates) = tls_server_as("ca-expired", &[]);
    fails(
        &certificates.trusted("localhost"),
        "unreachable",
        &["has expired"],
    );
}

#[test]
fn a_server_may_ask_for_a_certificate() {
    for (protocols, asks) in [
        (
            "TLSv1.2",
            "; if it asks for a certificate of ours, --tls-cert",
        ),
        ("TLSv1.3", ": it asks for a certificate of ours: --tls-cert"),
    ] {
        let (_server, certificates) =
            tls_server(&["--tls-auth-clients", "yes", "--tls-protocols", protocols]);
        let client = |name: &str| Tls {
            cert: Some(certificates.path(&format!("{name}.crt"))),
            key: Some(certificates.path(&format!("{name}.key"))),
            ..certificates.trust()
        };
        works(&certificates.at("localhost", client("ca-client")));
        fails(&certificates.trusted("localhost"), "unreachable", &[asks]);
        fails(
            &certificates.at("localhost", client("other-ca-client")),
            "unreachable",
            &["--tls-cert"],
        );
        let unfitting = Tls {
            key: Some(certificates.path("other-ca-client.key")),
            ..client("ca-client")
        };
        fails(
            &certificates.at("localhost", unfitting),
            "unreachable",
            &["does not fit the certificate"],
        );
    }
}

#[test]
fn files_of_certificates_that_hold_none() {
    let certificates = Certificates::make();
    for tls in [
        Tls {
            ca_cert: Some(certificates.path("no-such-file")),
            ..Tls::default()
        },
        Tls {
            ca_cert: Some(certificates.path("ca-server.key")),
            ..Tls::default()
        },
        Tls {
            cert: Some(certificates.path("ca-client.crt")),
            ..certificates.trust()
        },
        Tls {
            cert: Some(certificates.path("ca-client.key")),
            ..certificates.trust()
        },
    ] {
        let (kind, sentence) = failure(&certificates.at("localhost", tls));
        assert_eq!(kind, "file");
        assert!(
            sentence.contains(text(certificates.dir.path())),
            "{sentence}"
        );
    }
}

#[test]
fn plain_and_tls_are_told_apart() {
    let (server, certificates) = tls_server(&[]);
    let to_tls = endpoint(certificates.tls_port);
    fails(&short(to_tls.clone()), "unreachable", &["--tls"]);
    fails(
        &short(with_login(&to_tls, "", PASSWORD)),
        "unreachable",
        &["--tls"],
    );
    let to_plain = with_tls(&endpoint(server.port), certificates.trust());
    fails(&short(to_plain), "unreachable", &["--tls"]);
    let answered = pretender(b"-ERR Protocol error\r\n", Then::Close);
    fails(
        &with_tls(&answered, certificates.trust()),
        "unreachable",
        &["speaks no TLS", "Protocol error"],
    );
    let web = pretender(b"HTTP/1.1 400 Bad Request\r\n\r\n", Then::Close);
    fails(
        &with_tls(&web, certificates.trust()),
        "unreachable",
        &["is not TLS"],
    );
    let alert = pretender(b"\x15\x03\x03\x00\x02\x02\x0a", Then::Close);
    fails(&alert, "unreachable", &["speaks TLS", "rediss://"]);
    fails(
        &with_tls(&alert, certificates.trust()),
        "unreachable",
        &["refused the TLS handshake"],
    );
    let closing = pretender(b"", Then::Close);
    fails(
        &with_tls(&closing, certificates.trust()),
        "unreachable",
        &["closed", "check whether this port speaks TLS"],
    );
    let silent = pretender(b"", Then::Hold);
    fails(
        &short(with_tls(&silent, certificates.trust())),
        "unreachable",
        &["no answer to the TLS handshake within 0.3 s"],
    );
}

/// What was taken and not yet sent is bounded, and is not lost.
#[test]
fn writing_never_waits() {
    let (server, certificates) = tls_server(&[]);
    for endpoint in [endpoint(server.port), certificates.trusted("127.0.0.1")] {
        let mut connection = works(&endpoint);
        const LEN: usize = 64 << 20;
        let mut command = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${LEN}\r\n").into_bytes();
        command.resize(command.len() + LEN, b'x');
        command.extend_from_slice(b"\r\n");
        let mut sleeper = server.client();
        let sleep = std::thread::spawn(move || call!(sleeper, "DEBUG", "SLEEP", "2"));
        while server_answers(&server) {}
        let (mut sent, mut refused) = (0, 0);
        let end = Instant::now() + Duration::from_secs(30);
        while sent < command.len() {
            assert!(Instant::now() < end, "{sent} bytes sent");
            let (first, second) = command[sent..].split_at((command.len() - sent) / 2);
            match connection.write(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(n) => sent += n,
                Err(error) => {
                    assert_eq!(error.kind(), Io::WouldBlock);
                    assert_eq!(connection.wants_write(), endpoint.tls.is_some());
                    if !sleep.is_finished() {
                        assert!(sent < 32 << 20, "{sent} bytes are held somewhere");
                        refused += 1;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        assert!(refused > 0, "the server took 64 MiB in its sleep");
        sleep.join().expect("the sleeper");
        while !connection.flush().expect("an open connection") {}
        assert!(!connection.wants_write());
        loop {
            assert!(Instant::now() < end, "no answer");
            let mut buf = [0; 100];
            match connection.read(&mut buf) {
                Ok(n) => {
                    assert_eq!(&buf[..n], b"+OK\r\n");
                    break;
                }
                Err(error) => assert_eq!(error.kind(), Io::WouldBlock),
            }
        }
        let len = connection.call(&[b"STRLEN", b"big"]).expect("an answer");
        assert_eq!(len, Reply::Int(LEN as i64));
    }
}

fn server_answers(server: &Server) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
    let wait = Some(Duration::from_millis(100));
    stream.set_read_timeout(wait).expect("a socket");
    stream.write_all(b"PING\r\n").expect("a connection");
    stream.read(&mut [0; 7]).is_ok()
}

/// TLS unpacks a record at a time; what is not read of it does not wake who polls the socket.
#[test]
fn what_was_unpacked_and_not_read_is_told() {
    let (_server, certificates) = tls_server(&[]);
    let mut connection = works(&certificates.trusted("127.0.0.1"));
    connection
        .write(&[IoSlice::new(b"*2\r\n$4\r\nECHO\r\n$10\r\n0123456789\r\n")])
        .expect("an open connection");
    let mut answer = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while answer.len() < 17 {
        assert!(Instant::now() < end, "{answer:?}");
        let mut byte = [0; 1];
        match connection.read(&mut byte) {
            Ok(n) => answer.extend_from_slice(&byte[..n]),
            Err(error) => assert_eq!(error.kind(), Io::WouldBlock),
        }
        let begun = (1..17).contains(&answer.len());
        assert_eq!(connection.has_buffered_input(), begun, "{answer:?}");
    }
    assert_eq!(answer, b"$10\r\n0123456789\r\n");
}

// A twemproxy.

#[test]
fn a_proxy_is_logged_in_to_with_a_password_alone() {
    let server = Server::start("redis-7.0");
    let proxy = Nutcracker::over(&[&server]);
    works(&endpoint(proxy.port));
    fails(
        &with_login(&endpoint(proxy.port), "", PASSWORD),
        "login",
        &["has no password set"],
    );
    fails(
        &endpoint(proxy.stats_port),
        "unreachable",
        &["statistics of a twemproxy"],
    );

    call!(server.client(), "CONFIG", "SET", "requirepass", PASSWORD);
    let proxy = Nutcracker::with(&[&server], &[("redis_auth", PASSWORD)], &[]);
    let open = endpoint(proxy.port);
    works(&with_login(&open, "", PASSWORD));
    fails(
        &with_login(&open, "", "wrong"),
        "login",
        &["the password is wrong"],
    );
    fails(&open, "login", &["asks for a password"]);
    fails(
        &with_login(&open, "alice", PASSWORD),
        "unreachable",
        &["a twemproxy knows no users", "--user"],
    );
}

// What is no server.

enum Then {
    Close,
    Hold,
    /// Says a byte more every 50 ms, for five seconds.
    Drip,
}

/// A port on which every connection is told this as soon as it has said something, or at once if it is closed after.
fn pretender(says: &'static [u8], then: Then) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let begin = Instant::now();
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(says);
            match then {
                Then::Close => {}
                Then::Hold => held.push(stream),
                Then::Drip => {
                    while begin.elapsed() < Duration::from_secs(5) && stream.write_all(b"x").is_ok()
                    {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
    });
    endpoint(port)
}

#[test]
fn what_is_no_server_is_named() {
    for (says, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "an HTTP server"),
        (b"<html>", "a web server"),
        (b"{\"service\":1}", "JSON"),
        (b"SSH-2.0-OpenSSH\r\n", "an SSH server"),
        (b"ERROR\r\n", "a memcached"),
        (b"220 mail\r\n", "no Redis: it answers \"220 mail\\r\\n\""),
        (b"+OK\r\n", "its answer to PING is not PONG"),
        (b":zz\r\n", "is no RESP"),
    ] {
        fails(&pretender(says, Then::Close), "unreachable", &[part]);
    }
    let closing = pretender(b"", Then::Close);
    fails(
        &closing,
        "unreachable",
        &["closed without an answer", "--tls"],
    );
    fails(
        &with_login(&closing, "alice", PASSWORD),
        "unreachable",
        &["closed without an answer", "--user"],
    );
    fails(
        &endpoint(free_port()),
        "unreachable",
        &["nothing listens there", "host and port"],
    );
    let nowhere = endpoint(0).at("no-such-host.invalid", 6379);
    fails(
        &nowhere,
        "unreachable",
        &["no-such-host.invalid has no address"],
    );
}

#[test]
fn nobody_is_waited_for_longer_than_was_said() {
    for (says, then, part) in [
        (&b""[..], Then::Hold, "no answer within 0.3 s"),
        (b"+PON", Then::Hold, "did not go on within 0.3 s"),
        (b"+", Then::Drip, "did not go on within 0.3 s"),
    ] {
        let begin = Instant::now();
        fails(&short(pretender(says, then)), "unreachable", &[part]);
        assert!(begin.elapsed() < Duration::from_secs(3), "{part}");
    }
}

#[test]
fn a_server_that_does_not_serve_yet_is_there() {
    for says in [
        &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
        b"-BUSY Redis is busy running a script\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-MISCONF Redis is configured to save\r\n",
    ] {
        Connection::open(&pretender(says, Then::Hold)).expect("a server");
    }
    let denied =
        b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n";
    fails(
        &pretender(denied, Then::Close),
        "unreachable",
        &["in protected mode", "\"DENIED"],
    );
}

/// Servers repeat what they do not know, and so would a message.
#[test]
fn a_password_that_a_server_repeats_is_not_shown() {
    for says in [
        &b"-ERR unknown command 'AUTH', with args beginning with: 'nobody-shall-see-this' \r\n"[..],
        b"-ERR what is nobody-shall-see-this?\r\n",
        b"-WRONGPASS nobody-shall-see-thisnobody-shall-see-this\r\n",
    ] {
        let endpoint = with_login(&pretender(says, Then::Close), "", PASSWORD);
        fails(&endpoint, "login", &["it answered \""]);
    }
    // Not the user's name either, nor anything else that was sent.
    let says =
        b"-ERR unknown command 'AUTH', with args beginning with: 'alice' 'nobody-shall' \r\n";
    let endpoint = with_login(&pretender(says, Then::Close), "alice", PASSWORD);
    assert!(
        failure(&endpoint)
            .1
            .ends_with("it answered \"ERR unknown command 'AUTH'\"")
    );
    let says = b"you said: AUTH nobody-shall-see-this\r\n";
    let endpoint = with_login(&pretender(says, Then::Close), "", PASSWORD);
    fails(&endpoint, "unreachable", &["you said: AUTH ***"]);
}

#[test]
fn after_an_answer_that_did_not_come_nothing_is_asked() {
    let mut connection =
        Connection::open(&short(pretender(b"+PONG\r\n", Then::Hold))).expect("a server");
    let error = connection.call(&[b"GET", b"key"]).expect_err("silence");
    assert!(
        error.to_string().ends_with("no answer within 0.3 s"),
        "{error}"
    );
    let error = connection
        .call(&[b"GET", b"key"])
        .expect_err("an answer to which command?");
    assert!(error.to_string().contains("of no use any more"), "{error}");

    let server = Server::start("redis-7.0");
    let mut connection = works(&endpoint(server.port));
    drop(server);
    let error = connection
        .call(&[b"GET", b"key"])
        .expect_err("a closed connection");
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable { .. }),
        "{error}"
    );

    let (server, certificates) = tls_server(&[]);
    let mut connection = works(&certificates.trusted("localhost"));
    drop(server);
    // Killed, it takes no leave as TLS has it.
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = connection.read(&mut [0; 10]) {
        assert_eq!(error.kind(), Io::WouldBlock);
        assert!(Instant::now() < end, "still open");
    }
    let error = connection
        .call(&[b"GET", b"key"])
        .expect_err("a closed connection");
    assert!(
        matches!(error.kind(), ErrorKind::Unreachable { .. }),
        "{error}"
    );
}
