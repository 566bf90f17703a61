//! What changes on the way: databases, key names, expiry.

use std::collections::BTreeMap;

/// Changes to every key that passes the filter.
#[derive(Debug, Clone, Default)]
pub struct Transform {
    /// Database in the file → database at the destination; others keep theirs.
    pub db_map: BTreeMap<u64, u64>,
    /// Prefixes and what takes their place; the first that fits.
    pub rename_prefix: Vec<(Vec<u8>, Vec<u8>)>,
    /// Put before every key, after renaming.
    pub add_prefix: Vec<u8>,
    /// Leave out every expiry, of keys and of hash fields.
    pub no_ttl: bool,
    /// Added to every expiry, of keys and of hash fields, in milliseconds.
    pub ttl_shift_ms: i64,
    /// Expiries before this Unix time in milliseconds are written as this time: nothing may expire while a log is
    /// replayed that holds what renews it. The true times are written behind the log.
    pub hold_until_ms: Option<i64>,
}

impl Transform {
    /// Database at the destination.
    #[inline]
    pub fn db(&self, db: u64) -> u64 {
        if self.db_map.is_empty() {
            db
        } else {
            self.db_map.get(&db).copied().unwrap_or(db)
        }
    }

    /// Whether keys change their names.
    #[inline]
    pub fn renames(&self) -> bool {
        !self.rename_prefix.is_empty() || !self.add_prefix.is_empty()
    }

    /// The most bytes that a name gains.
    pub fn growth(&self) -> usize {
        let longer = |(from, to): &(Vec<u8>, Vec<u8>)| to.len().saturating_sub(from.len());
        self.add_prefix.len() + self.rename_prefix.iter().map(longer).max().unwrap_or(0)
    }

    /// Writes the key's new name into `out`.
    pub fn rename(&self, key: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.add_prefix);
        let renamed = self
            .rename_prefix
            .iter()
            .find_map(|(from, to)| key.strip_prefix(&from[..]).map(|rest| (to, rest)));
        match renamed {
            Some((to, rest)) => {
                out.extend_from_slice(to);
                out.extend_from_slice(rest);
            }
            None => out.extend_from_slice(key),
        }
    }

    /// An expiry as it is written.
    #[inline]
    pub fn expiry(&self, at_ms: Option<i64>) -> Option<i64> {
        self.true_expiry(at_ms)
            .map(|at| self.held(at).unwrap_or(at))
    }

    /// An expiry as it shall be in the end.
    #[inline]
    pub fn true_expiry(&self, at_ms: Option<i64>) -> Option<i64> {
        match at_ms {
            Some(at) if !self.no_ttl => Some(at.saturating_add(self.ttl_shift_ms)),
            _ => None,
        }
    }

    /// What is written for a true expiry that has to wait.
    #[inline]
    pub fn held(&self, at_ms: i64) -> Option<i64> {
        self.hold_until_ms.filter(|until| at_ms < *until)
    }

    /// Whether expiry changes, so that a value that carries some inside cannot be passed on as it stands.
    pub fn changes_expiry(&self) -> bool {
        self.no_ttl || self.ttl_shift_ms != 0 || self.hold_until_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times() {
        let t = Transform {
            rename_prefix: vec![
                (b"a:".to_vec(), b"b:".to_vec()),
                (b"a".to_vec(), b"c".to_vec()),
            ],
            add_prefix: b"p/".to_vec(),
            ttl_shift_ms: 5,
            db_map: BTreeMap::from([(1, 0)]),
            ..Transform::default()
        };
        let name = |key: &[u8]| {
            let mut out = Vec::new();
            t.rename(key, &mut out);
            out
        };
        assert_eq!(name(b"a:1"), b"p/b:1");
        assert_eq!(name(b"ax"), b"p/cx");
        assert_eq!(name(b"z"), b"p/z");
        assert_eq!((t.db(1), t.db(2)), (0, 2));
        assert_eq!((t.expiry(Some(1)), t.expiry(None)), (Some(6), None));
        assert_eq!(
            Transform {
                no_ttl: true,
                ..t.clone()
            }
            .expiry(Some(1)),
            None
        );
    }
}
