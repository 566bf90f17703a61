//! From flags to the place where commands are sent.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use indicatif::HumanCount;
use redis_migration::command::target::Dialect;
use redis_migration::server::endpoint::{self, Address, Endpoint, Secret, Tls, Ways};
use redis_migration::server::preflight::Destination;

use crate::args::{ServerArgs, SourceArgs, TargetArgs};
use crate::classic;
use crate::outcome::Exit;
use crate::values::Password;

/// A longer first line is no password but the wrong file.
const PASSWORD_MAX: u64 = 64 << 10;

/// The destination that the flags name: flags win over the URI, and it over the environment.
///
/// May ask for a password on the terminal and read one from a file; connects to nothing. Errors come with their exit
/// code, and show no password.
pub fn endpoint(args: &TargetArgs) -> Result<Endpoint, (String, Exit)> {
    destination(&args.server, args.timeout.0)
}

/// As [`endpoint`], for who has flags of his own for what is done there.
pub fn destination(args: &ServerArgs, timeout_ms: i64) -> Result<Endpoint, (String, Exit)> {
    let ask = || rpassword::prompt_password("Password: ").map(String::into_bytes);
    let named = Named::destination(args, timeout_ms);
    resolve(&named, std::env::var_os("REDISCLI_AUTH"), ask)
}

/// The environment's password for the source of a live migration.
pub const SOURCE_AUTH: &str = "REDIS_MIGRATION_SOURCE_AUTH";

/// The source that the flags name, as [`endpoint`] otherwise.
pub fn source(args: &SourceArgs, timeout_ms: i64) -> Result<Endpoint, (String, Exit)> {
    let ask = || rpassword::prompt_password("Password of the source: ").map(String::into_bytes);
    let named = Named {
        uri: args.from.as_deref(),
        host: args.from_host.as_deref(),
        port: args.from_port,
        socket: None,
        pass: args.from_pass.as_ref(),
        user: args.from_user.as_deref(),
        askpass: args.from_askpass,
        password_file: args.from_password_file.as_deref(),
        tls: args.from_tls,
        cacert: args.from_cacert.as_deref(),
        tls_cert: args.from_tls_cert.as_deref(),
        tls_key: args.from_tls_key.as_deref(),
        sni: args.from_sni.as_deref(),
        insecure: args.from_insecure,
        timeout_ms,
        is_source: true,
    };
    resolve(&named, std::env::var_os(SOURCE_AUTH), ask)
}

/// What the destination is, and how much it holds, as a sentence.
pub fn introduced(endpoint: &Endpoint, destination: &Destination) -> String {
    let version = destination
        .version
        .map_or(String::new(), |version| format!(" of {version}"));
    let servers = destination.servers.len();
    let what = match destination.dialect {
        Dialect::Redis => destination
            .version
            .map_or("a server".to_owned(), |version| version.to_string()),
        Dialect::Cluster => format!("a cluster of {servers} masters{version}"),
        Dialect::Twemproxy => format!("a twemproxy over {servers} servers{version}"),
    };
    let keys = match (destination.keys_known, destination.keys) {
        (false, _) => "how many keys it holds is not told".to_owned(),
        (true, 0) => "empty".to_owned(),
        (true, 1) => "holds 1 key".to_owned(),
        (true, n) => format!("holds {} keys", HumanCount(n)),
    };
    format!("{}: {what}, {keys}", endpoint.address)
}

/// What the flags say of a server, of whichever side.
struct Named<'a> {
    uri: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<u16>,
    socket: Option<&'a Path>,
    pass: Option<&'a Password>,
    user: Option<&'a str>,
    askpass: bool,
    password_file: Option<&'a Path>,
    tls: bool,
    cacert: Option<&'a Path>,
    tls_cert: Option<&'a Path>,
    tls_key: Option<&'a Path>,
    sni: Option<&'a str>,
    insecure: bool,
    timeout_ms: i64,
    /// Its flags begin with --from.
    is_source: bool,
}

impl<'a> From<&'a TargetArgs> for Named<'a> {
    fn from(args: &'a TargetArgs) -> Named<'a> {
        Named::destination(&args.server, args.timeout.0)
    }
}

impl<'a> Named<'a> {
    fn destination(args: &'a ServerArgs, timeout_ms: i64) -> Named<'a> {
        Named {
            uri: args.uri.as_deref(),
            host: args.host.as_deref(),
            port: args.port,
            socket: args.socket.as_deref(),
            pass: args.pass.as_ref(),
            user: args.user.as_deref(),
            askpass: args.askpass,
            password_file: args.password_file.as_deref(),
            tls: args.tls,
            cacert: args.cacert.as_deref(),
            tls_cert: args.tls_cert.as_deref(),
            tls_key: args.tls_key.as_deref(),
            sni: args.sni.as_deref(),
            insecure: args.insecure,
            timeout_ms,
            is_source: false,
        }
    }
}

fn resolve(
    args: &Named<'_>,
    environment: Option<OsString>,
    ask: impl FnOnce() -> std::io::Result<Vec<u8>>,
) -> Result<Endpoint, (String, Exit)> {
    let usage = |text: &str| Err((text.to_owned(), Exit::Usage));
    // The flags of a source have names of their own.
    let flag = |own: &'static str, source: &'static str| if args.is_source { source } else { own };
    let long = |name: &str| match args.is_source {
        true => format!("--from-{name}"),
        false => format!("--{name}"),
    };
    let of_uri = flag("-u", "--from");
    let uri = match args.uri.map(endpoint::parse_uri).transpose() {
        Ok(uri) => uri,
        Err(text) => return usage(&format!("{of_uri}: {text}")),
    };
    if let Some(db) = uri.as_ref().and_then(|uri| uri.db)
        && db != 0
    {
        return usage(&match args.is_source {
            true => format!(
                "{of_uri}: the URI names database {db}, but a source gives all of its databases; --db {db} chooses one"
            ),
            false => format!(
                "{of_uri}: the URI names database {db}, but keys go to the database they were in; --db-map A={db} moves \
                 those of database A there"
            ),
        });
    }
    let (place, uri_user, uri_password, uri_tls) = match uri {
        Some(uri) => (Some(uri.address), uri.user, uri.password, uri.tls),
        None => (None, None, None, false),
    };
    let address = match (args.socket, place) {
        (Some(path), _) => Address::Unix(path.to_owned()),
        (None, Some(Address::Unix(path))) => {
            if args.host.is_some() || args.port.is_some() {
                return usage(&format!(
                    "{of_uri}: the URI is of a Unix socket, which has neither {} nor {}",
                    flag("-h", "--from-host"),
                    flag("-p", "--from-port")
                ));
            }
            Address::Unix(path)
        }
        (None, place) => {
            let (host, port) = match place {
                Some(Address::Tcp { host, port }) => (host, port),
                _ => ("127.0.0.1".to_owned(), 6379),
            };
            Address::Tcp {
                host: args.host.map_or(host, str::to_owned),
                port: args.port.unwrap_or(port),
            }
        }
    };
    if let Address::Tcp { host, .. } = &address
        && host.is_empty()
    {
        return usage(&format!("{}: the host is empty", flag("-h", "--from-host")));
    }

    let tls = if args.tls || uri_tls {
        if matches!(address, Address::Unix(_)) {
            return usage(&format!("{}: a Unix socket has none", long("tls")));
        }
        Some(Tls {
            ca_cert: args.cacert.map(Path::to_owned),
            cert: args.tls_cert.map(Path::to_owned),
            key: args.tls_key.map(Path::to_owned),
            sni: args.sni.map(str::to_owned),
            insecure: args.insecure,
        })
    } else {
        // Who names a certificate means to be safe, and would not be.
        for (given, flag) in [
            (args.cacert.is_some(), "cacert"),
            (args.tls_cert.is_some(), "tls-cert"),
            (args.sni.is_some(), "sni"),
            (args.insecure, "insecure"),
        ] {
            if given {
                return usage(&format!(
                    "{} needs {} or a rediss:// URI",
                    long(flag),
                    long("tls")
                ));
            }
        }
        None
    };

    let password = if args.askpass {
        let password = ask().map_err(|e| {
            (
                format!("{}: there is no terminal to ask on: {e}", long("askpass")),
                Exit::Usage,
            )
        })?;
        Some(Secret::new(password))
    } else if let Some(path) = args.password_file {
        Some(Secret::new(first_line(path, &long("password-file"))?))
    } else if let Some(password) = args.pass {
        Some(Secret::new(password.0.as_bytes().to_vec()))
    } else {
        let environment = environment.filter(|password| !password.is_empty());
        uri_password.or_else(|| environment.map(|password| Secret::new(password.into_vec())))
    };
    let user = args.user.map(str::to_owned).or(uri_user);
    if user.is_some() && password.is_none() {
        return usage(&format!(
            "there is a user but no password for it; {}, {}, {} or {} give one",
            flag("REDISCLI_AUTH", SOURCE_AUTH),
            long("password-file"),
            long("askpass"),
            flag("-a", "--from-pass")
        ));
    }
    Ok(Endpoint {
        address,
        user,
        password,
        tls,
        timeout: Duration::from_millis(args.timeout_ms.max(1).unsigned_abs()),
        ways: if args.is_source {
            &Ways::SOURCE
        } else {
            &Ways::DESTINATION
        },
    })
}

fn first_line(path: &Path, flag: &str) -> Result<Vec<u8>, (String, Exit)> {
    let wrong = |why: &dyn std::fmt::Display| {
        let text = format!("{flag} {}: {why}", path.display());
        (text, Exit::LocalFile)
    };
    let file = File::open(path).map_err(|e| wrong(&e))?;
    let mut line = Vec::new();
    BufReader::new(file.take(PASSWORD_MAX + 1))
        .read_until(b'\n', &mut line)
        .map_err(|e| wrong(&e))?;
    if line.len() as u64 > PASSWORD_MAX {
        return Err(wrong(&"its first line is too long to be a password"));
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    if line.is_empty() {
        return Err(wrong(&"its first line is empty"));
    }
    Ok(line)
}

/// A command line as it may be shown: `***` in the place of passwords, and whether there was one.
pub fn masked(words: &[OsString]) -> (Vec<String>, bool) {
    let original = classic::is_classic(words);
    let mut shown = Vec::with_capacity(words.len());
    let mut masked = false;
    let mut next = Holds::Flag;
    for word in words {
        let text = word.to_string_lossy();
        let now = std::mem::replace(&mut next, Holds::Flag);
        let text = match now {
            Holds::Plain => text.into_owned(),
            Holds::Password => HIDDEN.to_owned(),
            Holds::Uri => mask_uri(&text),
            Holds::Inputs => {
                next = Holds::Inputs;
                text.into_owned()
            }
            Holds::Flag if original && classic::is_word(word) => {
                next = match &*text {
                    "-dauth" | "-sauth" => Holds::Password,
                    _ => Holds::Plain,
                };
                text.into_owned()
            }
            Holds::Flag => {
                let (text, holds) = mask_flag(&text);
                next = holds;
                text
            }
        };
        masked |= text.contains(HIDDEN);
        shown.push(text);
    }
    (shown, masked)
}

const HIDDEN: &str = "***";

/// What a word is to the one before it.
pub enum Holds {
    /// Nothing: it stands for itself.
    Flag,
    /// The value of a flag.
    Plain,
    /// The value of -a.
    Password,
    /// The value of -u.
    Uri,
    /// An input, as all that come after it: `--` stood before.
    Inputs,
}

/// A word that may be a flag, with a value in the same word or in the next: as it may be shown, and what comes next.
pub fn mask_flag(text: &str) -> (String, Holds) {
    let same = |holds| (text.to_owned(), holds);
    match text {
        "--" => return same(Holds::Inputs),
        "--pass" | "--from-pass" => return same(Holds::Password),
        "--from" | "--to" => return same(Holds::Uri),
        _ if text.starts_with("--pass=") => return (format!("--pass={HIDDEN}"), Holds::Flag),
        _ if text.starts_with("--from-pass=") => {
            return (format!("--from-pass={HIDDEN}"), Holds::Flag);
        }
        _ if text.starts_with("--from=") || text.starts_with("--to=") => {
            let (name, uri) = text.split_once('=').expect("it is there");
            return (format!("{name}={}", mask_uri(uri)), Holds::Flag);
        }
        _ if text.starts_with("--") => return same(Holds::Flag),
        _ => {}
    }
    let Some(letters) = text.strip_prefix('-') else {
        return same(Holds::Flag);
    };
    // Letters may stand together: -qa PASSWORD, -qaPASSWORD.
    for (at, letter) in letters.char_indices() {
        let (value, last) = (&letters[at + 1..], letters.len() == at + 1);
        let upto = &text[..at + 2];
        match (letter, last) {
            ('q', _) => {}
            ('a', true) => return same(Holds::Password),
            ('a', false) => return (format!("{upto}{HIDDEN}"), Holds::Flag),
            ('u', true) => return same(Holds::Uri),
            ('u', false) => return (format!("{upto}{}", mask_uri(value)), Holds::Flag),
            ('h' | 'p' | 's' | 'o', true) => return same(Holds::Plain),
            _ => break,
        }
    }
    same(Holds::Flag)
}

/// Hides all that could be a password, also in what is no proper URI.
fn mask_uri(text: &str) -> String {
    let (text, query) = match text.split_once('?') {
        // That of a password that was not encoded is no query, and must not stay either.
        Some((text, query)) => match query.strip_prefix("db=") {
            Some(db) if db.bytes().all(|b| b.is_ascii_digit()) => (text, format!("?{query}")),
            _ => (text, format!("?{HIDDEN}")),
        },
        None => (text, String::new()),
    };
    let (scheme, rest) = match text.find("://") {
        Some(at) => text.split_at(at + 3),
        None => ("", text),
    };
    // The last @: an earlier one can be a part of the password.
    let Some((login, place)) = rest.rsplit_once('@') else {
        return format!("{text}{query}");
    };
    // Without a colon redis-cli takes the whole for the password.
    let user = login.split_once(':').map_or("", |(user, _)| user);
    let colon = if login.contains(':') { ":" } else { "" };
    format!("{scheme}{user}{colon}{HIDDEN}@{place}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &str) -> TargetArgs {
        let words = ["redis-migration", "replay", "dump.rdb"]
            .into_iter()
            .chain(line.split(' ').filter(|w| !w.is_empty()));
        match Cli::try_parse_from(words).expect(line).command {
            Command::Replay(args) => args.target,
            other => panic!("{other:?}"),
        }
    }

    fn nobody() -> std::io::Result<Vec<u8>> {
        panic!("nobody is to be asked")
    }

    fn found(line: &str, environment: Option<&str>) -> Endpoint {
        resolve(
            &(&args(line)).into(),
            environment.map(OsString::from),
            nobody,
        )
        .unwrap_or_else(|(text, _)| panic!("{line}: {text}"))
    }

    fn refused(line: &str) -> String {
        match resolve(&(&args(line)).into(), None, nobody) {
            Err((text, Exit::Usage)) => text,
            Err((text, exit)) => panic!("{line}: {text}, {exit:?}"),
            Ok(_) => panic!("{line}: accepted"),
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    fn password(endpoint: &Endpoint) -> Option<&[u8]> {
        endpoint.password.as_ref().map(Secret::expose)
    }

    #[test]
    fn flags_win_over_the_uri_and_it_over_the_environment() {
        let plain = found("", None);
        assert_eq!(plain.address, tcp("127.0.0.1", 6379));
        assert!(plain.user.is_none() && plain.password.is_none() && plain.tls.is_none());
        assert_eq!(plain.timeout, Duration::from_secs(5));

        assert_eq!(password(&found("", Some("env"))), Some(&b"env"[..]));
        assert_eq!(password(&found("", Some(""))), None);

        let uri = "-u rediss://bob:fromuri@10.0.0.1:7000";
        let endpoint = found(uri, Some("env"));
        assert_eq!(endpoint.address, tcp("10.0.0.1", 7000));
        assert_eq!(endpoint.user.as_deref(), Some("bob"));
        assert_eq!(password(&endpoint), Some(&b"fromuri"[..]));
        assert!(endpoint.tls.is_some());

        let endpoint = found(
            &format!("{uri} -h 10.0.0.2 -a flag --user eve --timeout 250ms --sni cache"),
            Some("env"),
        );
        assert_eq!(endpoint.address, tcp("10.0.0.2", 7000));
        assert_eq!(endpoint.user.as_deref(), Some("eve"));
        assert_eq!(password(&endpoint), Some(&b"flag"[..]));
        assert_eq!(endpoint.timeout, Duration::from_millis(250));
        assert_eq!(
            endpoint.tls.and_then(|tls| tls.sni).as_deref(),
            Some("cache")
        );

        let endpoint = found(&format!("{uri} -p 7001"), None);
        assert_eq!(endpoint.address, tcp("10.0.0.1", 7001));
        let endpoint = found("-s /run/redis.sock", Some("env"));
        assert_eq!(endpoint.address, Address::Unix("/run/redis.sock".into()));
        assert_eq!(password(&endpoint), Some(&b"env"[..]));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (line, word) in [
            ("-u redis://127.0.0.1/3", "--db-map"),
            ("-u unix:///run/redis.sock -p 1", "-p"),
            ("-u unix:///run/redis.sock --tls", "--tls"),
            ("--cacert ca.pem", "--cacert"),
            ("--sni cache", "--sni"),
            ("--insecure", "--insecure"),
            ("--user bob", "no password"),
            ("-u redis://bob@127.0.0.1", "no password"),
        ] {
            let said = refused(line);
            assert!(said.contains(word), "{line}: {said}");
        }
        let said = refused("-u redis://bob:hunter2@[::1:7000");
        assert!(
            said.starts_with("-u: ") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn passwords_are_asked_for_and_read_from_files() {
        let asked = resolve(&(&args("--askpass")).into(), Some("env".into()), || {
            Ok(b"typed".to_vec())
        });
        assert_eq!(
            password(&asked.expect("a destination")),
            Some(&b"typed"[..])
        );
        let no_terminal = resolve(&(&args("--askpass")).into(), None, || {
            Err(std::io::Error::other("none"))
        });
        assert!(matches!(no_terminal, Err((text, Exit::Usage)) if text.contains("--askpass")));

        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("password");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a file");
            let line = format!("--password-file {}", path.display());
            resolve(&(&args(&line)).into(), Some("env".into()), nobody)
        };
        for (bytes, want) in [
            (&b"secret"[..], &b"secret"[..]),
            (b"secret\nmore\n", b"secret"),
            (b" s\xff \r\n", b" s\xff "),
            (b"s\r", b"s\r"),
        ] {
            assert_eq!(password(&read(bytes).expect("a destination")), Some(want));
        }
        for bytes in [&b""[..], b"\n", &[b'x'; PASSWORD_MAX as usize + 1]] {
            assert!(matches!(read(bytes), Err((_, Exit::LocalFile))));
        }
        let missing = resolve(
            &(&args("--password-file /no/such/file")).into(),
            None,
            nobody,
        );
        assert!(matches!(missing, Err((text, Exit::LocalFile)) if text.contains("/no/such/file")));
    }

    #[test]
    fn no_password_is_shown() {
        let shown = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let (shown, masked) = masked(&words);
            assert_eq!(masked, shown.join(" ") != line, "{line}");
            shown.join(" ")
        };
        for (line, want) in [
            ("rm replay f -a hunter2 -q", "rm replay f -a *** -q"),
            ("rm replay f -ahunter2", "rm replay f -a***"),
            ("rm replay f -a=hunter2", "rm replay f -a***"),
            ("rm replay f -qa hunter2", "rm replay f -qa ***"),
            ("rm replay f -qahunter2", "rm replay f -qa***"),
            ("rm replay f --pass hunter2", "rm replay f --pass ***"),
            ("rm replay f --pass=hunter2", "rm replay f --pass=***"),
            ("rm replay f -a -a -q", "rm replay f -a *** -q"),
            ("rm replay f -h -a -a pw", "rm replay f -h -a -a ***"),
            (
                "rm replay f -u redis://bob:hunter2@h:1",
                "rm replay f -u redis://bob:***@h:1",
            ),
            (
                "rm replay f -uredis://:hun@ter2@h/0",
                "rm replay f -uredis://:***@h/0",
            ),
            (
                "rm replay f -u redis://hunter2@h",
                "rm replay f -u redis://***@h",
            ),
            ("rm replay f -u hunter2@h", "rm replay f -u ***@h"),
            (
                "rm migrate --from redis://:hunter2@h --to=redis://:hunter2@i --from-pass hunter2",
                "rm migrate --from redis://:***@h --to=redis://:***@i --from-pass ***",
            ),
            (
                "rm replay f -u redis://h?password=x",
                "rm replay f -u redis://h?***",
            ),
            // A password that was not encoded.
            (
                "rm replay f -u redis://b:12?hunter2@h",
                "rm replay f -u redis://b:12?***",
            ),
            (
                "rm -dip h -dport 1 -dauth hunter2 -aof f",
                "rm -dip h -dport 1 -dauth *** -aof f",
            ),
            ("rm -sip h -sauth -pw -rdb f", "rm -sip h -sauth *** -rdb f"),
        ] {
            assert_eq!(shown(line), want);
            assert!(!shown(line).contains("hunter2"));
        }
        for line in [
            "rm replay -h h -p 1 -s sock -u redis://h:1 --key a -- -a x",
            "rm convert --follow -o out f",
            "rm replay f -u redis://h?db=0",
            "rm -rdb a -aof -a -dip h -dport 1",
        ] {
            assert_eq!(shown(line), line);
        }
    }
}
