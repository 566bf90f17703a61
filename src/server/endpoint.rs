//! Where a server is and how to log in there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::{Host, Url};

/// The port of a server of which none was named.
pub const DEFAULT_PORT: u16 = 6379;

/// How long a server may take, where nothing else was said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The place of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or an IP address, and a port.
    Tcp {
        /// Without the brackets that an IPv6 address wears elsewhere.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A password, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    /// The bytes, for the server only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How TLS is spoken. The default is what the system trusts, and no certificate of our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates in PEM form that are trusted in place of the system's.
    pub ca_cert: Option<PathBuf>,
    /// Our own certificate in PEM form, for servers that ask for one.
    pub cert: Option<PathBuf>,
    /// Its private key in PEM form; `None` where it stands in the same file.
    pub key: Option<PathBuf>,
    /// The name the server's certificate has to bear, if not that of the host.
    pub sni: Option<String>,
    /// Take any certificate: whoever sits in between can then read and change everything.
    pub insecure: bool,
}

/// A server, and what it takes to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// The ACL user; servers older than 6.0 and twemproxy know none.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Speak TLS.
    pub tls: Option<Tls>,
    /// For finding and connecting, for the TLS handshake, and for each answer that is waited for.
    pub timeout: Duration,
    /// How a person gives the login and what TLS needs.
    pub ways: &'static Ways,
}

/// How a person gives the login of a server and what TLS needs, for messages: a destination's flags are none of the
/// source's.
#[derive(Debug, PartialEq, Eq)]
pub struct Ways {
    /// The password.
    pub password: &'static str,
    /// The user.
    pub user: &'static str,
    /// That TLS is spoken.
    pub tls: &'static str,
    /// [`Tls::ca_cert`].
    pub ca_cert: &'static str,
    /// [`Tls::cert`].
    pub cert: &'static str,
    /// [`Tls::key`].
    pub key: &'static str,
    /// [`Tls::sni`].
    pub sni: &'static str,
    /// [`Tls::insecure`].
    pub insecure: &'static str,
}

impl Ways {
    /// Of a destination.
    pub const DESTINATION: Ways = Ways {
        password: "-a, --askpass or REDISCLI_AUTH",
        user: "--user",
        tls: "--tls",
        ca_cert: "--cacert",
        cert: "--tls-cert",
        key: "--tls-key",
        sni: "--sni",
        insecure: "--insecure",
    };
    /// Of the source of a live migration.
    pub const SOURCE: Ways = Ways {
        password: "--from-pass, --from-askpass or REDIS_MIGRATION_SOURCE_AUTH",
        user: "--from-user",
        tls: "--from-tls",
        ca_cert: "--from-cacert",
        cert: "--from-tls-cert",
        key: "--from-tls-key",
        sni: "--from-sni",
        insecure: "--from-insecure",
    };
    /// Of a destination, by the original's words.
    pub const ORIGINAL_DESTINATION: Ways = Ways {
        password: "-dauth, --askpass or REDISCLI_AUTH",
        ..Ways::DESTINATION
    };
    /// Of a source, by the original's words.
    pub const ORIGINAL_SOURCE: Ways = Ways {
        password: "-sauth, --from-askpass or REDIS_MIGRATION_SOURCE_AUTH",
        ..Ways::SOURCE
    };
}

impl Endpoint {
    /// A server without a login, in plain, with the default timeout.
    pub fn new(address: Address) -> Endpoint {
        Endpoint {
            address,
            user: None,
            password: None,
            tls: None,
            timeout: DEFAULT_TIMEOUT,
            ways: &Ways::DESTINATION,
        }
    }

    /// Another node, with the same login and TLS.
    pub fn at(&self, host: &str, port: u16) -> Endpoint {
        Endpoint {
            address: Address::Tcp {
                host: host.to_owned(),
                port,
            },
            ..self.clone()
        }
    }
}

/// What a URI tells of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// Where it is.
    pub address: Address,
    /// The ACL user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The database.
    pub db: Option<u64>,
}

/// Reads `redis://[[user][:password]@][host][:port][/db]`, `rediss://…` for TLS, the same with `valkey` and `valkeys`,
/// and `unix://[[user][:password]@]path` (also `redis+unix`, `redis-socket`, `valkey+unix`). `?db=N` names the database
/// too. User, password, host and path may be percent-encoded; a name without a colon is a user.
///
/// Errors are sentences that hold nothing of the text, because a password may stand anywhere in it.
pub fn parse_uri(text: &str) -> Result<Uri, String> {
    const SCHEMES: &str = "a URI begins with redis://, rediss:// or unix://";
    let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
    if text.contains('#') {
        return Err(encode_hint("a '#' has no meaning in the URI of a server"));
    }
    match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => parse_tcp(text, false),
        "rediss" | "valkeys" => parse_tcp(text, true),
        "unix" | "redis+unix" | "redis-socket" | "valkey+unix" => parse_unix(rest),
        _ => Err(SCHEMES.to_owned()),
    }
}

fn parse_tcp(text: &str, tls: bool) -> Result<Uri, String> {
    let url = Url::parse(text).map_err(|error| encode_hint(&format!("not a URI: {error}")))?;
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Domain(name)) if !name.is_empty() => decode_text(name, "host")?,
        Some(Host::Domain(_)) | None => "127.0.0.1".to_owned(),
    };
    let port = match url.port() {
        Some(0) => return Err("port 0 cannot be connected to".to_owned()),
        port => port.unwrap_or(DEFAULT_PORT),
    };
    let in_path = match url.path().strip_prefix('/').unwrap_or_default() {
        "" => None,
        digits => Some(db_number(digits)?),
    };
    let in_query = parse_query(url.query())?;
    if in_path.is_some() && in_query.is_some() && in_path != in_query {
        return Err("the URI names two databases".to_owned());
    }
    Ok(Uri {
        address: Address::Tcp { host, port },
        user: user_of(url.username())?,
        password: url.password().map(decode).transpose()?.map(Secret),
        tls,
        db: in_path.or(in_query),
    })
}

/// Paths are not for the `url` crate: it takes a relative one for a host, and no login without a host.
fn parse_unix(rest: &str) -> Result<Uri, String> {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    // A path may hold an '@' itself, but no login holds a '/'.
    let first = rest.split('/').next().unwrap_or_default();
    let (login, path) = match first.rfind('@') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => ("", rest),
    };
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let path = decode(path)?;
    if path.is_empty() || path.contains(&0) {
        return Err("the URI names no socket".to_owned());
    }
    use std::os::unix::ffi::OsStringExt;
    Ok(Uri {
        address: Address::Unix(std::ffi::OsString::from_vec(path).into()),
        user: user_of(user)?,
        password: password.map(decode).transpose()?.map(Secret),
        tls: false,
        db: parse_query(query)?,
    })
}

fn parse_query(query: Option<&str>) -> Result<Option<u64>, String> {
    let mut db = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name != "db" || db.is_some() {
            return Err(encode_hint(
                "all that may stand behind the '?' of a URI is db=N",
            ));
        }
        db = Some(db_number(&value)?);
    }
    Ok(db)
}

fn db_number(text: &str) -> Result<u64, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| encode_hint("the database in a URI is a number"))
}

/// What is meant for a password is taken for something else as soon as it holds a delimiter.
fn encode_hint(what: &str) -> String {
    format!(
        "{what}; in a user or password, write @ : / ? # [ ] % as %40 %3A %2F %3F %23 %5B %5D %25"
    )
}

fn user_of(encoded: &str) -> Result<Option<String>, String> {
    let user = decode_text(encoded, "user")?;
    Ok((!user.is_empty()).then_some(user))
}

fn decode_text(encoded: &str, what: &str) -> Result<String, String> {
    String::from_utf8(decode(encoded)?).map_err(|_| format!("the {what} of the URI is not UTF-8"))
}

/// Undoes percent-encoding. A '%' without two digits is an error rather than itself: a password that was not encoded
/// would otherwise be another one now and then.
fn decode(encoded: &str) -> Result<Vec<u8>, String> {
    let mut bytes = encoded.bytes();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                let pair = digit().zip(digit());
                let (high, low) =
                    pair.ok_or_else(|| encode_hint("a '%' in a URI is followed by two digits"))?;
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Uri {
        Uri {
            address: Address::Tcp {
                host: host.to_owned(),
                port,
            },
            user: None,
            password: None,
            tls: false,
            db: None,
        }
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    #[test]
    fn uris_of_ports() {
        let user = |name: &str| Some(name.to_owned());
        for (text, uri) in [
            ("redis://db.example", tcp("db.example", 6379)),
            ("redis://", tcp("127.0.0.1", 6379)),
            (
                "redis:///3",
                Uri {
                    db: Some(3),
                    ..tcp("127.0.0.1", 6379)
                },
            ),
            ("REDIS://db:7000/", tcp("db", 7000)),
            ("valkey://db", tcp("db", 6379)),
            (
                "valkeys://db",
                Uri {
                    tls: true,
                    ..tcp("db", 6379)
                },
            ),
            (
                "rediss://[::1]:7000/2",
                Uri {
                    tls: true,
                    db: Some(2),
                    ..tcp("::1", 7000)
                },
            ),
            (
                "redis://10.0.0.1:22121?db=0",
                Uri {
                    db: Some(0),
                    ..tcp("10.0.0.1", 22121)
                },
            ),
            (
                "redis://h/4?db=4",
                Uri {
                    db: Some(4),
                    ..tcp("h", 6379)
                },
            ),
            (
                "redis://alice@h",
                Uri {
                    user: user("alice"),
                    ..tcp("h", 6379)
                },
            ),
            (
                "redis://:pw@h",
                Uri {
                    password: secret("pw"),
                    ..tcp("h", 6379)
                },
            ),
            (
                "redis://al%40ice:p%3Aw%2f%C3%A4@h:1",
                Uri {
                    user: user("al@ice"),
                    password: secret("p:w/ä"),
                    ..tcp("h", 1)
                },
            ),
            (
                "redis://default:a:b@h",
                Uri {
                    user: user("default"),
                    password: secret("a:b"),
                    ..tcp("h", 6379)
                },
            ),
        ] {
            assert_eq!(parse_uri(text), Ok(uri), "{text}");
        }
    }

    #[test]
    fn uris_of_sockets() {
        let unix = |path: &str| Uri {
            address: Address::Unix(path.into()),
            ..tcp("", 1)
        };
        for (text, uri) in [
            ("unix:///tmp/s", unix("/tmp/s")),
            ("unix://run/s", unix("run/s")),
            (
                "redis+unix:///a%20b/s@1?db=5",
                Uri {
                    db: Some(5),
                    ..unix("/a b/s@1")
                },
            ),
            (
                "redis-socket://al:p%2Fw@/tmp/s",
                Uri {
                    user: Some("al".to_owned()),
                    password: secret("p/w"),
                    ..unix("/tmp/s")
                },
            ),
            (
                "unix://:pw@/tmp/s",
                Uri {
                    password: secret("pw"),
                    ..unix("/tmp/s")
                },
            ),
        ] {
            assert_eq!(parse_uri(text), Ok(uri), "{text}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_without_being_shown() {
        for text in [
            "pw-in-here",
            "http://pw-in-here",
            "redis://:pw-in-here/x@h",
            "redis://:pw-in-here#x@h",
            "redis://u:12#pw-in-here@h",
            "redis://u:12?pw-in-here@h",
            "redis://u:12/pw-in-here@h",
            "redis://:pw-in-here%@h",
            "redis://:pw-in-here%+1@h",
            "redis://u:pw-in-here@h:0",
            "redis://u:pw-in-here@h:70000",
            "redis://u:pw-in-here@",
            "redis://u:pw-in-here@h/-1",
            "redis://u:pw-in-here@h/+1",
            "redis://u:pw-in-here@h/1/2",
            "redis://u:pw-in-here@h/1?db=2",
            "redis://u:pw-in-here@h?timeout=2",
            "redis://u:pw-in-here@h?db=2&db=3",
            "redis://%ff:pw-in-here@h",
            "redis:pw-in-here",
            "unix://",
            "unix://:pw-in-here@",
            "unix:///tmp/%00pw-in-here",
            "unix:///tmp/s?pw-in-here",
        ] {
            let error = parse_uri(text).expect_err(text);
            assert!(!error.contains("pw-in-here"), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let uri = parse_uri("redis://u:pw-in-here@h").expect("a URI");
        assert!(format!("{uri:?}").contains("***"));
        assert!(!format!("{uri:?}").contains("pw-in-here"));
        let mut endpoint = Endpoint::new(uri.address);
        endpoint.password = uri.password;
        assert!(!format!("{:?}", endpoint.at("::1", 1)).contains("pw-in-here"));
        assert_eq!(endpoint.at("::1", 1).address.to_string(), "[::1]:1");
        assert_eq!(endpoint.at("::1", 1).password, endpoint.password);
    }
}
