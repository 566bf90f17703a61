//! Values with units, as flags take them.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use jiff::{Span, SpanRelativeTo, Timestamp, Unit};
use redis_migration::filter::Ttl;

/// Bytes as redis.conf writes them: `1k` is 1000, `1kb` is 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &lower[digits.len()..] {
            "" | "b" => 1,
            "k" => 1000,
            "kb" => 1 << 10,
            "m" => 1_000_000,
            "mb" => 1 << 20,
            "g" => 1_000_000_000,
            "gb" => 1 << 30,
            _ => {
                return Err(
                    "a size is a number with b, k, kb, m, mb, g or gb, for example 64mb".to_owned(),
                );
            }
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("{digits:?} is no number"))?;
        number
            .checked_mul(unit)
            .map(Bytes)
            .ok_or_else(|| "too large".to_owned())
    }
}

/// A length of time in milliseconds: `30s`, `1h30m`, `7d`, `-5m`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub i64);

impl FromStr for Millis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time; write for example 30s, 1h30m or 7d");
        if let Ok(secs) = text.parse::<i64>() {
            return secs.checked_mul(1000).map(Millis).ok_or_else(wrong);
        }
        let span: Span = text.parse().map_err(|_| wrong())?;
        let ms = span
            .total((Unit::Millisecond, SpanRelativeTo::days_are_24_hours()))
            .map_err(|_| wrong())?;
        Ok(Millis(ms as i64))
    }
}

/// A moment: RFC 3339, or Unix time in seconds (in milliseconds from 10^11 on), also behind `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub i64);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MILLIS_FROM: i64 = 100_000_000_000;
        match text.strip_prefix('@').unwrap_or(text).parse::<i64>() {
            Ok(n) if n.abs() < MILLIS_FROM => Ok(Moment(n * 1000)),
            Ok(n) => Ok(Moment(n)),
            Err(_) => text.parse::<Timestamp>().map(|t| Moment(t.as_millisecond())).map_err(|_| {
                format!("{text:?} is no time; write for example 2026-11-23T03:00:00Z or Unix seconds")
            }),
        }
    }
}

/// Where a log is to be read no further: a byte offset as messages print it, or a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Decimal, or hexadecimal behind `0x`.
    Offset(u64),
    /// RFC 3339, or Unix seconds behind `@`.
    Time(Moment),
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let offset = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        if let Some(offset) = offset {
            return Ok(Limit::Offset(offset));
        }
        text.parse().map(Limit::Time).map_err(|_| {
            format!(
                "{text:?} is neither a byte offset nor a time; write for example 0x1f40, 2026-11-23T03:00:00Z or \
                 @1795392000"
            )
        })
    }
}

/// A moment, or `mtime`: when a file was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTime {
    At(Moment),
    Mtime,
}

impl FromStr for LogTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("mtime") {
            return Ok(LogTime::Mtime);
        }
        text.parse().map(LogTime::At)
    }
}

/// `A..B`, `A..`, `..B`; both ends included.
fn range<T: FromStr<Err = String>>(text: &str) -> Result<(Option<T>, Option<T>), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("a range is written A..B, A.. or ..B")?;
    let end = |text: &str| {
        if text.is_empty() {
            Ok(None)
        } else {
            text.parse().map(Some)
        }
    };
    Ok((end(from)?, end(to)?))
}

/// A range of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes(pub u64, pub u64);

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = range::<Bytes>(text)?;
        Ok(Sizes(from.map_or(0, |b| b.0), to.map_or(u64::MAX, |b| b.0)))
    }
}

/// A range of times to live, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttls(pub Ttl);

impl FromStr for Ttls {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Ttls(Ttl::None));
        }
        let (from, to) = range::<Millis>(text)?;
        Ok(Ttls(Ttl::Between(
            from.map_or(i64::MIN, |m| m.0),
            to.map_or(i64::MAX, |m| m.0),
        )))
    }
}

/// `A=B` with two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DbPair(pub u64, pub u64);

impl FromStr for DbPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |t: &str| {
            t.parse::<u32>()
                .map(u64::from)
                .map_err(|_| format!("{t:?} is no database"))
        };
        let (from, to) = text
            .split_once('=')
            .ok_or("write FROM=TO, for example 3=0")?;
        Ok(DbPair(number(from)?, number(to)?))
    }
}

/// `A=B` with two prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixPair(pub String, pub String);

impl FromStr for PrefixPair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once('=')
            .ok_or("write OLD=NEW, for example old:=new:")?;
        Ok(PrefixPair(from.to_owned(), to.to_owned()))
    }
}

/// Keys a second: `1000`, also `1000/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRate(pub u64);

impl FromStr for KeyRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/s").unwrap_or(text).parse() {
            Ok(rate) if rate > 0 => Ok(KeyRate(rate)),
            _ => Err("a rate is a number of keys a second, from 1 on".to_owned()),
        }
    }
}

/// Bytes a second: `20mb`, also `20mb/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate(pub u64);

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/s").unwrap_or(text).parse()? {
            Bytes(0) => Err("a rate is a size a second, from 1 byte on".to_owned()),
            Bytes(rate) => Ok(ByteRate(rate)),
        }
    }
}

/// `HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write HOST:PORT, for example 127.0.0.1:22222 or [::1]:22222".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        // Without brackets nobody can tell where an IPv6 address ends.
        if bare.is_none() && host.contains(':') {
            return Err(wrong());
        }
        let host = bare.unwrap_or(host);
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(HostPort {
                host: host.to_owned(),
                port,
            }),
            _ => Err(wrong()),
        }
    }
}

/// A password from the command line, of any bytes. Even its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub OsString);

impl From<OsString> for Password {
    fn from(word: OsString) -> Password {
        Password(word)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("64mb".parse(), Ok(Bytes(64 << 20)));
        assert_eq!("1k".parse(), Ok(Bytes(1000)));
        assert_eq!("7".parse(), Ok(Bytes(7)));
        assert!("x".parse::<Bytes>().is_err() && "1.5mb".parse::<Bytes>().is_err());
        assert_eq!("1kb..".parse(), Ok(Sizes(1024, u64::MAX)));
        assert_eq!("..10".parse(), Ok(Sizes(0, 10)));
        assert!("10".parse::<Sizes>().is_err());
    }

    #[test]
    fn rates_and_places() {
        assert_eq!("1000".parse(), Ok(KeyRate(1000)));
        assert_eq!("1000/s".parse(), Ok(KeyRate(1000)));
        assert!("0".parse::<KeyRate>().is_err() && "1k".parse::<KeyRate>().is_err());
        assert_eq!("20mb/s".parse(), Ok(ByteRate(20 << 20)));
        assert!("0/s".parse::<ByteRate>().is_err() && "/s".parse::<ByteRate>().is_err());
        let at = |host: &str, port| {
            Ok(HostPort {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!("proxy:22222".parse(), at("proxy", 22222));
        assert_eq!("[::1]:22222".parse(), at("::1", 22222));
        for wrong in ["proxy", ":1", "::1:22222", "a:0", "a:65536", "[]:1"] {
            assert!(wrong.parse::<HostPort>().is_err(), "{wrong}");
        }
        let secret = Password("hunter2".into());
        assert_eq!(format!("{secret:?}"), "Password(***)");
    }

    #[test]
    fn times() {
        assert_eq!("30s".parse(), Ok(Millis(30_000)));
        assert_eq!("1h30m".parse(), Ok(Millis(5_400_000)));
        assert_eq!("7d".parse(), Ok(Millis(604_800_000)));
        assert_eq!("-5m".parse(), Ok(Millis(-300_000)));
        assert_eq!("90".parse(), Ok(Millis(90_000)));
        assert!("soon".parse::<Millis>().is_err());
        assert_eq!(
            "2026-11-23T00:00:00Z".parse(),
            Ok(Moment(1_795_392_000_000))
        );
        assert_eq!("1795392000".parse(), Ok(Moment(1_795_392_000_000)));
        assert_eq!("1795392000123".parse(), Ok(Moment(1_795_392_000_123)));
        assert_eq!("@1795392000".parse(), Ok(Moment(1_795_392_000_000)));
        assert_eq!("0x1f40".parse(), Ok(Limit::Offset(8000)));
        assert_eq!("8000".parse(), Ok(Limit::Offset(8000)));
        assert_eq!("@5".parse(), Ok(Limit::Time(Moment(5000))));
        assert_eq!(
            "2026-11-23T00:00:00Z".parse(),
            Ok(Limit::Time(Moment(1_795_392_000_000)))
        );
        assert!("soon".parse::<Limit>().is_err() && "@x".parse::<Limit>().is_err());
        assert_eq!("mtime".parse(), Ok(LogTime::Mtime));
        assert_eq!("none".parse(), Ok(Ttls(Ttl::None)));
        assert_eq!(
            "1h..2h".parse(),
            Ok(Ttls(Ttl::Between(3_600_000, 7_200_000)))
        );
    }
}
