//! What passes: database, key pattern, type, size, expiry.

use regex::bytes::{RegexSet, RegexSetBuilder};

/// Which keys pass. The default lets everything pass but what has expired.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Databases that pass; `None` for all.
    pub dbs: Option<Vec<u64>>,
    /// Databases that do not.
    pub not_dbs: Vec<u64>,
    /// Patterns of which one must match, from `--key` and `--key-regex`.
    pub keys: Option<RegexSet>,
    /// Patterns of which none may match.
    pub not_keys: Option<RegexSet>,
    /// Types that pass, as TYPE names them, in lower case.
    pub types: Option<Vec<String>>,
    /// Types that do not.
    pub not_types: Vec<String>,
    /// Bytes that the value takes in the file, both ends included.
    pub size: Option<(u64, u64)>,
    /// Remaining time to live.
    pub ttl: Option<Ttl>,
    /// Whether keys and fields whose time has passed are kept.
    pub keep_expired: bool,
    /// Unix time in milliseconds that "expired" and `ttl` are held against.
    pub now_ms: i64,
}

/// A choice by remaining time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// Keys without expiry.
    None,
    /// Keys with one, this many milliseconds ahead; both ends included.
    Between(i64, i64),
}

/// What the filter says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It was not chosen.
    Filtered,
    /// It would pass, but its time has passed.
    Expired,
}

impl Filter {
    /// Whether a key passes. `type_name` and `size` are asked for only where they matter.
    #[inline]
    pub fn verdict(
        &self,
        db: u64,
        key: &[u8],
        expire_at_ms: Option<i64>,
        type_name: impl FnOnce() -> String,
        size: impl FnOnce() -> u64,
    ) -> Verdict {
        let expired = || match expire_at_ms {
            Some(at) if !self.keep_expired && at <= self.now_ms => Verdict::Expired,
            _ => Verdict::Pass,
        };
        if self.is_open() {
            return expired();
        }
        if !self.names(db, key) {
            return Verdict::Filtered;
        }
        if self.types.is_some() || !self.not_types.is_empty() {
            let name = type_name().to_ascii_lowercase();
            let named = |list: &[String]| list.contains(&name);
            if self.types.as_deref().is_some_and(|t| !named(t)) || named(&self.not_types) {
                return Verdict::Filtered;
            }
        }
        match (self.ttl, expire_at_ms) {
            (None, _) | (Some(Ttl::None), None) => {}
            (Some(Ttl::Between(from, to)), Some(at)) => {
                let left = at.saturating_sub(self.now_ms);
                if left < from || left > to {
                    return Verdict::Filtered;
                }
            }
            _ => return Verdict::Filtered,
        }
        if let Some((from, to)) = self.size
            && !(from..=to).contains(&size())
        {
            return Verdict::Filtered;
        }
        expired()
    }

    /// Whether a key that a command names passes. The command tells its type, or none where it fits every type;
    /// then only database and name count. Size and time to live cannot be seen.
    #[inline]
    pub fn chooses(&self, db: u64, key: &[u8], type_name: Option<&str>) -> bool {
        self.names(db, key)
            && type_name.is_none_or(|name| {
                let named = |list: &[String]| list.iter().any(|t| t == name);
                self.types.as_deref().is_none_or(named) && !named(&self.not_types)
            })
    }

    /// Whether database and name are chosen.
    #[inline]
    fn names(&self, db: u64, key: &[u8]) -> bool {
        self.chooses_db(db)
            && self.keys.as_ref().is_none_or(|set| set.is_match(key))
            && !self.not_keys.as_ref().is_some_and(|set| set.is_match(key))
    }

    /// Whether a database can hold keys that pass.
    #[inline]
    pub fn chooses_db(&self, db: u64) -> bool {
        self.dbs.as_ref().is_none_or(|dbs| dbs.contains(&db)) && !self.not_dbs.contains(&db)
    }

    /// Whether keys are chosen by anything but their database.
    pub fn chooses_keys(&self) -> bool {
        self.keys.is_some()
            || self.not_keys.is_some()
            || self.types.is_some()
            || !self.not_types.is_empty()
    }

    /// Whether everything passes but what has expired.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.dbs.is_none()
            && self.not_dbs.is_empty()
            && self.keys.is_none()
            && self.not_keys.is_none()
            && self.types.is_none()
            && self.not_types.is_empty()
            && self.size.is_none()
            && self.ttl.is_none()
    }
}

/// Builds the patterns of `--key` (globs) and `--key-regex` into one set; `None` where there are none.
/// Errors: the pattern and what is wrong with it.
pub fn patterns(globs: &[String], regexes: &[String]) -> Result<Option<RegexSet>, String> {
    if globs.is_empty() && regexes.is_empty() {
        return Ok(None);
    }
    let all = globs
        .iter()
        .map(|g| glob_to_regex(g))
        .chain(regexes.iter().cloned());
    // Keys are bytes: a dot must match any of them, and \w is ASCII.
    let set = RegexSetBuilder::new(all)
        .unicode(false)
        .dot_matches_new_line(true)
        .build();
    set.map(Some).map_err(|e| e.to_string())
}

/// A glob as Redis's KEYS and SCAN understand it: `*` and `?` match any byte, `[a-c]`, `[^a]`, and `\`
/// takes the next character as it is.
fn glob_to_regex(glob: &str) -> String {
    let literal = |out: &mut String, b: u8| out.push_str(&format!("\\x{b:02x}"));
    let mut out = String::from("^");
    let bytes = glob.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'*' => out.push_str(".*"),
            b'?' => out.push('.'),
            b'\\' if i + 1 < bytes.len() => {
                i += 1;
                literal(&mut out, bytes[i]);
            }
            b'[' => {
                i += 1;
                let negated = bytes.get(i) == Some(&b'^');
                i += usize::from(negated);
                let mut class = String::new();
                // A bracket that is never closed ends with the pattern, as in Redis.
                while i < bytes.len() && bytes[i] != b']' {
                    if bytes[i] == b'\\' && i + 1 < bytes.len() {
                        i += 1;
                        literal(&mut class, bytes[i]);
                    } else if i + 2 < bytes.len() && bytes[i + 1] == b'-' {
                        let (a, b) = (bytes[i].min(bytes[i + 2]), bytes[i].max(bytes[i + 2]));
                        class.push_str(&format!("\\x{a:02x}-\\x{b:02x}"));
                        i += 2;
                    } else {
                        literal(&mut class, bytes[i]);
                    }
                    i += 1;
                }
                match (class.is_empty(), negated) {
                    (true, true) => out.push('.'),
                    (true, false) => out.push_str("[^\\x00-\\xff]"),
                    (false, true) => out.push_str(&format!("[^{class}]")),
                    (false, false) => out.push_str(&format!("[{class}]")),
                }
            }
            b => literal(&mut out, b),
        }
        i += 1;
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, key: &[u8]) -> bool {
        patterns(&[glob.to_owned()], &[])
            .unwrap()
            .unwrap()
            .is_match(key)
    }

    #[test]
    fn globs_as_redis_reads_them() {
        assert!(matches("user:*", b"user:1/2\n\xff"));
        assert!(!matches("user:*", b"xuser:1"));
        assert!(matches("h?llo", b"h\xe9llo"));
        assert!(matches("h[ae]llo", b"hello") && !matches("h[ae]llo", b"hillo"));
        assert!(matches("h[^e]llo", b"hallo") && !matches("h[^e]llo", b"hello"));
        assert!(matches("h[a-c]llo", b"hbllo") && matches("h[c-a]llo", b"hbllo"));
        assert!(matches("h\\*llo", b"h*llo") && !matches("h\\*llo", b"hxllo"));
        assert!(matches("[[]", b"[") && matches("a.b", b"a.b") && !matches("a.b", b"axb"));
        assert!(matches("*", b"") && matches("ü*", "über".as_bytes()));
        assert!(matches("h[ab", b"ha"));
    }

    fn verdict(filter: &Filter, expire: Option<i64>) -> Verdict {
        filter.verdict(3, b"key", expire, || "string".into(), || 100)
    }

    #[test]
    fn each_rule() {
        let open = Filter {
            now_ms: 1000,
            ..Filter::default()
        };
        assert_eq!(verdict(&open, None), Verdict::Pass);
        assert_eq!(verdict(&open, Some(1000)), Verdict::Expired);
        assert_eq!(verdict(&open, Some(1001)), Verdict::Pass);
        let no = Verdict::Filtered;
        assert_eq!(
            verdict(
                &Filter {
                    keep_expired: true,
                    ..open.clone()
                },
                Some(1)
            ),
            Verdict::Pass
        );
        assert_eq!(
            verdict(
                &Filter {
                    dbs: Some(vec![0, 1]),
                    ..open.clone()
                },
                None
            ),
            no
        );
        assert_eq!(
            verdict(
                &Filter {
                    not_dbs: vec![3],
                    ..open.clone()
                },
                None
            ),
            no
        );
        assert_eq!(
            verdict(
                &Filter {
                    types: Some(vec!["list".into()]),
                    ..open.clone()
                },
                None
            ),
            no
        );
        assert_eq!(
            verdict(
                &Filter {
                    not_types: vec!["string".into()],
                    ..open.clone()
                },
                None
            ),
            no
        );
        assert_eq!(
            verdict(
                &Filter {
                    size: Some((0, 99)),
                    ..open.clone()
                },
                None
            ),
            no
        );
        assert_eq!(
            verdict(
                &Filter {
                    size: Some((100, 100)),
                    ..open.clone()
                },
                None
            ),
            Verdict::Pass
        );
        assert_eq!(
            verdict(
                &Filter {
                    ttl: Some(Ttl::None),
                    ..open.clone()
                },
                Some(5000)
            ),
            no
        );
        let between = Filter {
            ttl: Some(Ttl::Between(10, 20)),
            ..open.clone()
        };
        assert_eq!(verdict(&between, Some(1010)), Verdict::Pass);
        assert_eq!(verdict(&between, Some(1021)), no);
        assert_eq!(verdict(&between, None), no);
    }
}
