//! Ranges that keys are counted in: time to live, idle time, access frequency, size.

use super::{Expiry, ExpiryBucket, Freq, FreqBucket, Idle, IdleBucket, SizeBucket, Sizes, Sums};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// What the time to live is below, and the words for it.
const TTLS: [(i64, &str); 7] = [
    (MINUTE, "< 1 min"),
    (HOUR, "< 1 h"),
    (DAY, "< 1 d"),
    (7 * DAY, "< 7 d"),
    (30 * DAY, "< 30 d"),
    (90 * DAY, "< 90 d"),
    (365 * DAY, "< 1 y"),
];

/// What the idle time is below.
const IDLES: [(u64, &str); 6] = [
    (60, "< 1 min"),
    (3600, "< 1 h"),
    (86_400, "< 1 d"),
    (7 * 86_400, "< 7 d"),
    (30 * 86_400, "< 30 d"),
    (90 * 86_400, "< 90 d"),
];

/// Largest counter of each range. New keys begin at 5; the counter grows with the logarithm of uses.
const FREQS: [(u8, &str); 7] = [
    (0, "0"),
    (4, "1-4"),
    (5, "5 (new)"),
    (9, "6-9"),
    (49, "10-49"),
    (99, "50-99"),
    (255, "100-255"),
];

/// Counts in ranges.
#[derive(Debug, Clone, Default)]
pub(super) struct Buckets {
    forever: Sums,
    ttls: [Sums; TTLS.len() + 2],
    idles: [Sums; IDLES.len() + 1],
    freqs: [Sums; FREQS.len()],
    sizes: Vec<Sums>,
}

impl Buckets {
    /// Counts by time to live. Tells whether it is over.
    #[inline]
    pub fn expiry(&mut self, expire_at_ms: Option<i64>, now_ms: i64, sums: &Sums) -> bool {
        let Some(at) = expire_at_ms else {
            self.forever.add(sums);
            return false;
        };
        let bucket = if at <= now_ms {
            0
        } else {
            let left = at.saturating_sub(now_ms);
            1 + TTLS.iter().filter(|(below, _)| left >= *below).count()
        };
        self.ttls[bucket].add(sums);
        bucket == 0
    }

    #[inline]
    pub fn idle(&mut self, secs: u64, sums: &Sums) {
        self.idles[IDLES.iter().filter(|(below, _)| secs >= *below).count()].add(sums);
    }

    #[inline]
    pub fn freq(&mut self, counter: u8, sums: &Sums) {
        self.freqs[FREQS.iter().filter(|(to, _)| counter > *to).count()].add(sums);
    }

    /// Counts by bytes of the value.
    #[inline]
    pub fn size(&mut self, bytes: u64, sums: &Sums) {
        let bucket = bytes.checked_ilog2().unwrap_or(0) as usize;
        if self.sizes.len() <= bucket {
            self.sizes.resize(bucket + 1, Sums::default());
        }
        self.sizes[bucket].add(sums);
    }

    pub fn merge(&mut self, other: &Buckets) {
        let each = |into: &mut [Sums], from: &[Sums]| {
            for (into, from) in into.iter_mut().zip(from) {
                into.add(from);
            }
        };
        self.forever.add(&other.forever);
        each(&mut self.ttls, &other.ttls);
        each(&mut self.idles, &other.idles);
        each(&mut self.freqs, &other.freqs);
        if self.sizes.len() < other.sizes.len() {
            self.sizes.resize(other.sizes.len(), Sums::default());
        }
        each(&mut self.sizes, &other.sizes);
    }

    /// Keys by time to live.
    pub fn expiries(&self, now_ms: i64) -> Expiry {
        let mut buckets = vec![ExpiryBucket {
            label: "expired".to_owned(),
            from_ms: None,
            to_ms: Some(0),
            sums: self.ttls[0],
        }];
        let mut from = 0;
        for (sums, (below, label)) in self.ttls[1..].iter().zip(TTLS) {
            buckets.push(ExpiryBucket {
                label: label.to_owned(),
                from_ms: Some(from),
                to_ms: Some(below),
                sums: *sums,
            });
            from = below;
        }
        buckets.push(ExpiryBucket {
            label: "1 y and more".to_owned(),
            from_ms: Some(from),
            to_ms: None,
            sums: self.ttls[TTLS.len() + 1],
        });
        Expiry {
            now_ms,
            none: self.forever,
            buckets,
        }
    }

    /// Keys by idle time; `None` where no key has one.
    pub fn idles(&self) -> Option<Idle> {
        let mut from_secs = 0;
        let last = (u64::MAX, "90 d and more");
        let mut buckets = Vec::new();
        for (sums, (below, label)) in self.idles.iter().zip(IDLES.into_iter().chain([last])) {
            buckets.push(IdleBucket {
                label: label.to_owned(),
                from_secs,
                to_secs: (below != u64::MAX).then_some(below),
                sums: *sums,
            });
            from_secs = below;
        }
        let any = self.idles.iter().any(|sums| sums.keys > 0);
        any.then_some(Idle { buckets })
    }

    /// Keys by access frequency; `None` where no key has one.
    pub fn freqs(&self) -> Option<Freq> {
        let mut from = 0;
        let mut buckets = Vec::new();
        for (sums, (to, label)) in self.freqs.iter().zip(FREQS) {
            buckets.push(FreqBucket {
                label: label.to_owned(),
                from,
                to,
                sums: *sums,
            });
            from = to.saturating_add(1);
        }
        let any = self.freqs.iter().any(|sums| sums.keys > 0);
        any.then_some(Freq { buckets })
    }

    /// Keys by size, from the smallest to the largest that there is.
    pub fn sizes(&self) -> Sizes {
        let buckets = self.sizes.iter().enumerate();
        let buckets = buckets.skip_while(|(_, sums)| sums.keys == 0);
        Sizes {
            buckets: buckets
                .map(|(power, sums)| {
                    let from = if power == 0 { 0 } else { 1 << power };
                    let to = (2u64 << power).wrapping_sub(1);
                    SizeBucket {
                        label: size_label(from, to),
                        from,
                        to,
                        sums: *sums,
                    }
                })
                .collect(),
        }
    }
}

/// Two sizes with one unit, `64-127 B`, `1-2 KiB`.
fn size_label(from: u64, to: u64) -> String {
    match from {
        0..1024 => format!("{from}-{to} B"),
        _ => {
            let unit = (from.ilog2() / 10) as usize;
            let scaled = from >> (unit * 10);
            let name = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][unit];
            format!("{scaled}-{} {name}", scaled * 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet() {
        let one = Sums {
            keys: 1,
            ..Sums::default()
        };
        let mut buckets = Buckets::default();
        for ms in [-1, 0, 1, MINUTE - 1, MINUTE, 365 * DAY, i64::MAX - 1000] {
            assert_eq!(buckets.expiry(Some(1000 + ms), 1000, &one), ms <= 0);
        }
        let found = buckets.expiries(1000);
        let keys = |i: usize| found.buckets[i].sums.keys;
        assert_eq!((keys(0), keys(1), keys(2)), (2, 2, 1));
        assert_eq!(found.buckets[8].sums.keys, 2);
        for pair in found.buckets.windows(2) {
            assert_eq!(pair[0].to_ms, pair[1].from_ms);
        }
        for counter in [0, 1, 4, 5, 6, 255] {
            buckets.freq(counter, &one);
        }
        let freqs = buckets.freqs().expect("some");
        let keys: Vec<u64> = freqs.buckets.iter().map(|b| b.sums.keys).collect();
        assert_eq!(keys, [1, 2, 1, 1, 0, 0, 1]);
        for secs in [0, 59, 60, 90 * 86_400] {
            buckets.idle(secs, &one);
        }
        let idles = buckets.idles().expect("some");
        let keys: Vec<u64> = idles.buckets.iter().map(|b| b.sums.keys).collect();
        assert_eq!(keys, [2, 1, 0, 0, 0, 0, 1]);
        for bytes in [3, 64, 127, 128, 2048] {
            buckets.size(bytes, &one);
        }
        let sizes = buckets.sizes().buckets;
        assert_eq!((&sizes[0].label[..], sizes[0].sums.keys), ("2-3 B", 1));
        assert_eq!((&sizes[5].label[..], sizes[5].sums.keys), ("64-127 B", 2));
        assert_eq!(sizes[10].label, "2-4 KiB");
        assert_eq!(sizes.len(), 11);
    }
}
