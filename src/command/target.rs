//! What a destination understands: its dialect, its version.

use std::fmt;
use std::str::FromStr;

/// Which commands may be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// One server: SELECT between databases.
    #[default]
    Redis,
    /// Database 0 only, no SELECT, one key a command.
    Cluster,
    /// Database 0 only, and only what nutcracker forwards.
    Twemproxy,
}

impl Dialect {
    /// Whether the destination has one database only.
    pub fn single_db(self) -> bool {
        self != Dialect::Redis
    }
}

/// The longest key that nutcracker forwards with its default mbuf size of 16,384 bytes.
pub const TWEMPROXY_KEY_BYTES: usize = 16_335;

/// A server version; `valkey-9.0` or `7.0`. Where the patch is not named it is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    valkey: bool,
    number: Number,
}

impl Version {
    /// The version whose commands servers of both versions know.
    #[must_use]
    pub fn lowest(self, other: Version) -> Version {
        // Valkey began as Redis 7.2 and has all of it.
        let begun = Version {
            valkey: false,
            number: (7, 2, u16::MAX),
        };
        match (self.valkey, other.valkey) {
            (true, false) => begun.lowest(other),
            (false, true) => self.lowest(begun),
            _ if other.number < self.number => other,
            _ => self,
        }
    }

    fn reaches(&self, redis: Option<Number>, valkey: Option<Number>) -> bool {
        let since = if self.valkey { valkey } else { redis };
        since.is_some_and(|since| self.number >= since)
    }
}

/// Major, minor, patch.
pub type Number = (u16, u16, u16);

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (valkey, digits) = match lower.strip_prefix("valkey-") {
            Some(rest) => (true, rest),
            None => (false, lower.strip_prefix("redis-").unwrap_or(&lower)),
        };
        let mut parts = digits.split('.').map(str::parse::<u16>);
        let mut next = || parts.next().transpose().map_err(|_| ());
        let parsed = (|| Ok::<_, ()>((next()?.ok_or(())?, next()?, next()?, next()?)))();
        match parsed {
            Ok((major, Some(minor), patch, None)) => {
                let number = (major, minor, patch.unwrap_or(u16::MAX));
                let oldest = if valkey { (7, 2, 0) } else { (1, 0, 0) };
                if number < oldest {
                    return Err(format!("there is no {text}"));
                }
                Ok(Version { valkey, number })
            }
            _ => Err("a version is X.Y, X.Y.Z or valkey-X.Y".to_owned()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.number;
        write!(
            f,
            "{} {major}.{minor}",
            if self.valkey { "Valkey" } else { "Redis" }
        )?;
        if patch != u16::MAX {
            write!(f, ".{patch}")?;
        }
        Ok(())
    }
}

/// What a command form needs (FORMAT §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// RPUSH, SADD, ZADD with several elements.
    Variadic,
    /// PEXPIREAT.
    PExpireAt,
    /// RESTORE.
    Restore,
    /// RESTORE … REPLACE.
    RestoreReplace,
    /// HSET with several fields.
    HsetMany,
    /// RESTORE … ABSTTL, IDLETIME, FREQ.
    RestoreAbsTtl,
    /// Streams.
    Streams,
    /// SET … KEEPTTL.
    KeepTtl,
    /// SET … PXAT.
    SetPxat,
    /// RESTORE of a value whose module is not there is answered with an error. Older servers end.
    ForeignModules,
    /// XGROUP CREATECONSUMER.
    CreateConsumer,
    /// XSETID … ENTRIESADDED, XGROUP CREATE … ENTRIESREAD.
    StreamCounters,
    /// FUNCTION LOAD.
    Functions,
    /// PEXPIREAT … XX.
    ExpireIf,
    /// HPEXPIREAT.
    FieldExpiry,
    /// HSETEX, HGETEX.
    HashSetEx,
    /// RESTORE with leading key metadata.
    KeyMeta,
    /// XCFGSET, XIDMPRECORD.
    Idmp,
    /// XNACK.
    Xnack,
    /// ARMSET, ARSEEK.
    Arrays,
}

impl Feature {
    /// First Redis and, where it has it at all, first Valkey.
    fn since(self) -> (Number, Option<Number>) {
        const ANY: Option<Number> = Some((0, 0, 0));
        match self {
            Feature::Variadic => ((2, 4, 0), ANY),
            Feature::PExpireAt | Feature::Restore => ((2, 6, 0), ANY),
            Feature::RestoreReplace => ((3, 0, 0), ANY),
            Feature::HsetMany => ((4, 0, 0), ANY),
            Feature::RestoreAbsTtl | Feature::Streams => ((5, 0, 0), ANY),
            Feature::KeepTtl => ((6, 0, 0), ANY),
            Feature::SetPxat | Feature::ForeignModules | Feature::CreateConsumer => {
                ((6, 2, 0), ANY)
            }
            Feature::StreamCounters | Feature::Functions | Feature::ExpireIf => ((7, 0, 0), ANY),
            Feature::FieldExpiry => ((7, 4, 0), Some((9, 0, 0))),
            Feature::HashSetEx => ((8, 0, 0), Some((9, 0, 0))),
            Feature::KeyMeta => ((8, 6, 0), None),
            Feature::Idmp => ((8, 6, 2), None),
            Feature::Xnack | Feature::Arrays => ((8, 8, 0), None),
        }
    }

    /// As a person says it: "Redis 7.4 or Valkey 9.0".
    pub fn needs(self) -> String {
        let ((major, minor, patch), valkey) = self.since();
        let mut text = format!("Redis {major}.{minor}");
        if patch > 0 {
            text.push_str(&format!(".{patch}"));
        }
        if let Some((major, minor, _)) = valkey.filter(|v| *v > (7, 2, 0)) {
            text.push_str(&format!(" or Valkey {major}.{minor}"));
        }
        text
    }
}

/// What the destination understands. Without a version it is taken to know everything; what it does not
/// know, it will say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target {
    /// Which commands may be used.
    pub dialect: Dialect,
    /// Its version, where the user named it.
    pub version: Option<Version>,
    /// The longest key that a proxy was found to forward.
    pub key_bytes: Option<usize>,
}

impl Target {
    /// Whether a form may be used.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        let Some(version) = self.version else {
            return true;
        };
        let (redis, valkey) = feature.since();
        version.reaches(Some(redis), valkey)
    }

    /// The longest key that it takes, where there is a limit.
    #[inline]
    pub fn key_limit(&self) -> Option<usize> {
        (self.dialect == Dialect::Twemproxy).then(|| self.key_bytes.unwrap_or(TWEMPROXY_KEY_BYTES))
    }

    /// Whether the destination has a command that these versions brought.
    #[inline]
    pub fn knows(&self, redis: Option<Number>, valkey: Option<Number>) -> bool {
        self.version
            .is_none_or(|version| version.reaches(redis, valkey))
    }

    /// The version for messages.
    pub fn shown(&self) -> String {
        self.version
            .map_or_else(|| "the newest Redis".to_owned(), |v| v.to_string())
    }

    /// Whether RESTORE takes a payload of this RDB version (FORMAT §1.3, §6.4).
    pub fn takes_payload(&self, rdb_version: u16) -> bool {
        let Some(version) = self.version else {
            return true;
        };
        let newest = |table: &[((u16, u16), u16)]| {
            let (major, minor, _) = version.number;
            table
                .iter()
                .rev()
                .find(|(since, _)| (major, minor) >= *since)
                .map_or(0, |(_, rdb)| *rdb)
        };
        if version.valkey {
            rdb_version <= 11 || (80..=newest(&[((9, 0), 80), ((9, 2), 81)])).contains(&rdb_version)
        } else {
            rdb_version
                <= newest(&[
                    ((2, 6), 6),
                    ((3, 2), 7),
                    ((4, 0), 8),
                    ((5, 0), 9),
                    ((7, 0), 10),
                    ((7, 2), 11),
                    ((7, 4), 12),
                    ((8, 6), 13),
                    ((8, 8), 14),
                    ((8, 10), 15),
                ])
        }
    }

    /// Whether the server reads the shorter back length that Redis writes from 8.8 on; `None` where it
    /// is not known (FORMAT §4.6).
    pub fn short_boundary(&self) -> Option<bool> {
        self.version.map(|v| !v.valkey && v.number >= (8, 8, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(version: &str) -> Target {
        Target {
            version: Some(version.parse().unwrap()),
            ..Target::default()
        }
    }

    #[test]
    fn versions() {
        for bad in ["", "7", "7.x", "valkey-", "7.0.1.2", "valkey-6.2", "0.9"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert_eq!("7.0".parse::<Version>().unwrap().to_string(), "Redis 7.0");
        assert_eq!(
            "valkey-9.1.2".parse::<Version>().unwrap().to_string(),
            "Valkey 9.1.2"
        );
    }

    #[test]
    fn lowest_of_two() {
        for (one, other, lowest) in [
            ("7.0.15", "6.2.1", "6.2.1"),
            ("valkey-8.0", "valkey-9.1.2", "valkey-8.0"),
            ("valkey-9.1", "7.0.15", "7.0.15"),
            ("valkey-9.1", "8.6", "7.2"),
        ] {
            let read = |text: &str| text.parse::<Version>().unwrap();
            assert_eq!(read(one).lowest(read(other)), read(lowest), "{one} {other}");
            assert_eq!(read(other).lowest(read(one)), read(lowest), "{other} {one}");
        }
    }

    #[test]
    fn floors() {
        assert!(target("6.2").has(Feature::SetPxat) && !target("6.0").has(Feature::SetPxat));
        assert!(target("valkey-7.2").has(Feature::Functions));
        assert!(
            !target("valkey-8.1").has(Feature::FieldExpiry)
                && target("valkey-9.0").has(Feature::FieldExpiry)
        );
        assert!(!target("8.6.1").has(Feature::Idmp) && target("8.6").has(Feature::Idmp));
        assert!(
            !target("valkey-9.1").has(Feature::Arrays) && Target::default().has(Feature::Arrays)
        );
        assert_eq!(Feature::FieldExpiry.needs(), "Redis 7.4 or Valkey 9.0");
    }

    #[test]
    fn payloads() {
        assert!(target("7.0").takes_payload(10) && !target("7.0").takes_payload(11));
        assert!(target("8.4").takes_payload(12) && !target("8.4").takes_payload(13));
        assert!(target("8.10").takes_payload(15) && !target("8.10").takes_payload(80));
        let valkey = target("valkey-9.1");
        assert!(valkey.takes_payload(11) && !valkey.takes_payload(12) && valkey.takes_payload(80));
        assert!(!valkey.takes_payload(81) && !target("valkey-8.1").takes_payload(80));
        assert!(!target("2.4").takes_payload(6));
    }
}
