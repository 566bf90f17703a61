//! Reports made by hand, so that what a page shows is held against figures that nothing has computed.

use redis_migration::report::*;

/// Sums of so many keys; bytes and memory are told apart by their factors.
pub(crate) fn sums(keys: u64, bytes: u64, memory: u64) -> Sums {
    Sums {
        keys,
        bytes,
        memory,
        elements: keys * 3,
    }
}

/// A prefix whose sums are given.
pub(crate) fn prefix(prefix: &str, sums: Sums, children: Vec<PrefixNode>) -> PrefixNode {
    PrefixNode {
        prefix: prefix.to_owned(),
        sums,
        children,
    }
}

/// A large key by its name and figures.
pub(crate) fn large(
    key: &str,
    type_name: &str,
    [bytes, memory, elements, largest_element]: [u64; 4],
    expires_at_ms: Option<i64>,
) -> LargeKey {
    LargeKey {
        db: u64::from(type_name == "list"),
        key: key.to_owned(),
        key_base64: None,
        type_name: type_name.to_owned(),
        encoding: match type_name {
            "string" => "raw",
            "list" => "quicklist",
            "zset" => "skiplist",
            "stream" => "stream",
            _ => "hashtable",
        }
        .to_owned(),
        bytes,
        memory,
        elements,
        largest_element,
        expires_at_ms,
    }
}

/// When the reports say they were made.
pub(crate) const NOW_MS: i64 = 1_764_000_000_000;

/// A report of no key at all.
pub(crate) fn empty() -> Report {
    Report {
        schema: 1,
        generator: "redis-migration 0.1.0".to_owned(),
        created: "2025-11-24T16:00:00Z".to_owned(),
        inputs: vec![InputFacts {
            name: "/var/lib/redis/dump.rdb".to_owned(),
            bytes: 92,
            magic: "REDIS0010".to_owned(),
            server: Some("redis 7.0.15".to_owned()),
            keys: 0,
            trailing_bytes: 0,
            has_log: false,
            log_commands: 0,
            damage: None,
        }],
        memory_model: MemoryModel {
            server: "Redis 7.0 (64 bit, jemalloc)".to_owned(),
            error_percent: 8.0,
            note:
                "what a server with default settings allocates for a key, its value and its expiry."
                    .to_owned(),
        },
        totals: Totals {
            file_bytes: 92,
            ..Totals::default()
        },
        types: vec![],
        encodings: vec![],
        dbs: vec![],
        prefixes: Prefixes {
            separator: ":".to_owned(),
            approximate: false,
            lost_error: 0,
            lost_bytes: 0,
            root: prefix("", Sums::default(), vec![]),
        },
        slots: slots(&Sums::default()),
        expiry: Expiry {
            now_ms: NOW_MS,
            none: Sums::default(),
            buckets: vec![],
        },
        idle: None,
        freq: None,
        sizes: Sizes { buckets: vec![] },
        largest_by_bytes: vec![],
        largest_by_memory: vec![],
        largest_by_elements: vec![],
        functions: 0,
    }
}

/// Keys spread over the ranges of slots by a wave, the first range with most.
fn slots(all: &Sums) -> Slots {
    let part = |at: u64| {
        let of = |sum: u64| sum / 64 * (40 + (at * 37) % 25) / 64;
        sums(of(all.keys), of(all.bytes), of(all.memory))
    };
    let row = |slot: u16| SlotRow {
        slot,
        sums: sums(all.keys / 16_000, all.bytes / 16_000, all.memory / 16_000),
    };
    Slots {
        used: all.keys.min(16_384),
        most: (all.keys > 0).then(|| row(866)),
        buckets: (0..64u16)
            .map(|at| SlotBucket {
                from: at * 256,
                to: at * 256 + 255,
                sums: part(at.into()),
            })
            .collect(),
        largest: if all.keys < 16_000 {
            vec![]
        } else {
            (0..20).map(|at| row(866 + at * 7)).collect()
        },
    }
}

/// One key in one database.
pub(crate) fn one_key() -> Report {
    let all = Sums {
        keys: 1,
        bytes: 48,
        memory: 96,
        elements: 1,
    };
    let key = LargeKey {
        elements: 1,
        ..large("greeting", "string", [48, 96, 1, 5], None)
    };
    Report {
        totals: Totals {
            sums: all,
            file_bytes: 140,
            ..Totals::default()
        },
        types: vec![TypeRow {
            type_name: "string".to_owned(),
            sums: all,
        }],
        encodings: vec![EncodingRow {
            type_name: "string".to_owned(),
            encoding: "embstr".to_owned(),
            sums: all,
        }],
        dbs: vec![DbRow {
            db: 0,
            expiring: 0,
            sums: all,
        }],
        prefixes: Prefixes {
            root: prefix("", all, vec![]),
            ..empty().prefixes
        },
        slots: Slots {
            used: 1,
            most: Some(SlotRow {
                slot: 13_000,
                sums: all,
            }),
            largest: vec![SlotRow {
                slot: 13_000,
                sums: all,
            }],
            ..slots(&Sums::default())
        },
        expiry: Expiry {
            none: all,
            ..empty().expiry
        },
        sizes: Sizes {
            buckets: vec![SizeBucket {
                label: "4-7 B".to_owned(),
                from: 4,
                to: 7,
                sums: all,
            }],
        },
        largest_by_bytes: vec![key.clone()],
        largest_by_memory: vec![key.clone()],
        largest_by_elements: vec![key],
        ..empty()
    }
}

/// A shop at night: 1.2 million keys, sessions above all, a few large lists, one file cut off.
pub(crate) fn shop() -> Report {
    let root = prefix(
        "",
        sums(1_200_000, 480_000_000, 900_000_000),
        vec![
            prefix(
                "session:",
                sums(800_000, 240_000_000, 450_000_000),
                vec![
                    prefix(
                        "session:web:",
                        sums(500_000, 150_000_000, 300_000_000),
                        vec![],
                    ),
                    prefix(
                        "session:app:",
                        sums(250_000, 80_000_000, 120_000_000),
                        vec![
                            prefix(
                                "session:app:ios:",
                                sums(150_000, 50_000_000, 70_000_000),
                                vec![],
                            ),
                            prefix(
                                "session:app:android:",
                                sums(100_000, 30_000_000, 50_000_000),
                                vec![],
                            ),
                        ],
                    ),
                    prefix("session:api:", sums(40_000, 8_000_000, 25_000_000), vec![]),
                    // 10,000 keys more end within session: itself.
                ],
            ),
            prefix(
                "queue:",
                sums(40, 120_000_000, 250_000_000),
                vec![
                    prefix("queue:mail:", sums(10, 100_000_000, 200_000_000), vec![]),
                    prefix("queue:billing:", sums(30, 20_000_000, 50_000_000), vec![]),
                ],
            ),
            prefix(
                "product:",
                sums(150_000, 80_000_000, 140_000_000),
                (0..30)
                    .map(|at| {
                        prefix(
                            &format!("product:{:02}:", at),
                            sums(5_000, 2_600_000, 4_600_000),
                            vec![],
                        )
                    })
                    .collect(),
            ),
            prefix("cart:", sums(200_000, 30_000_000, 45_000_000), vec![]),
            prefix("lock:", sums(30_000, 2_000_000, 5_000_000), vec![]),
            prefix(OTHER, sums(15_000, 6_000_000, 8_000_000), vec![]),
        ],
    );
    let all = root.sums;
    let by_type = [
        ("string", sums(650_000, 150_000_000, 260_000_000)),
        ("hash", sums(500_000, 190_000_000, 360_000_000)),
        ("list", sums(40, 120_000_000, 250_000_000)),
        ("zset", sums(49_000, 19_000_000, 28_000_000)),
        ("stream", sums(960, 1_000_000, 2_000_000)),
    ];
    let keys: Vec<LargeKey> = vec![
        large(
            "queue:mail:bulk",
            "list",
            [61_000_000, 90_000_000, 700_000, 4_096],
            None,
        ),
        large(
            "queue:mail:retry",
            "list",
            [30_000_000, 100_000_000, 900_000, 1_024],
            Some(NOW_MS + 86_400_000),
        ),
        large(
            "product:index",
            "zset",
            [9_000_000, 20_000_000, 120_000, 64],
            None,
        ),
        large(
            "audit",
            "stream",
            [800_000, 1_500_000, 40_000, 900],
            Some(NOW_MS - 5_000),
        ),
        large(
            "config:blob",
            "string",
            [700_000, 720_000, 1, 700_000],
            Some(NOW_MS + 60_000),
        ),
        large("Admins", "set", [650_000, 2_000_000, 30_000, 22], None),
    ];
    let sorted = |by: fn(&LargeKey) -> u64| {
        let mut keys = keys.clone();
        keys.sort_by_key(|key| std::cmp::Reverse(by(key)));
        keys
    };
    let expiry = [
        ("expired", 5_000),
        ("< 1 m", 12_000),
        ("1 m - 1 h", 120_000),
        ("1 h - 1 d", 430_000),
        ("1 d - 7 d", 210_000),
        ("7 d - 30 d", 60_000),
        ("30 d - 1 y", 3_000),
        ("≥ 1 y", 0),
    ];
    let sizes = [
        3_000, 20_000, 90_000, 250_000, 400_000, 300_000, 100_000, 30_000, 6_000, 900, 60, 40,
    ];
    let part = |keys: u64| sums(keys, keys * 400, keys * 750);
    Report {
        inputs: vec![
            InputFacts {
                name: "/backup/night/shard-1.rdb".to_owned(),
                bytes: 300_000_000,
                keys: 700_000,
                ..empty().inputs[0].clone()
            },
            InputFacts {
                name: "/backup/night/shard-2.rdb".to_owned(),
                bytes: 190_000_000,
                keys: 500_000,
                magic: "VALKEY080".to_owned(),
                server: Some("valkey 9.1.0".to_owned()),
                trailing_bytes: 0,
                has_log: false,
            log_commands: 0,
                damage: Some("length runs past the end of the file at byte 0xb532a41, key \"session:web:81\" in db 0".to_owned()),
            },
        ],
        totals: Totals { sums: all, expiring: 840_000, expired: 5_000, file_bytes: 490_000_000, filtered: 17, broken: 1, tables: 21_000_000 },
        types: by_type.iter().map(|&(name, sums)| TypeRow { type_name: name.to_owned(), sums }).collect(),
        encodings: [("hash", "listpack"), ("list", "quicklist"), ("string", "embstr"), ("string", "raw"), ("zset", "skiplist")]
            .iter()
            .map(|&(of, name)| EncodingRow { type_name: of.to_owned(), encoding: name.to_owned(), sums: part(240_000) })
            .collect(),
        dbs: vec![
            DbRow { db: 0, expiring: 800_000, sums: part(1_100_000) },
            DbRow { db: 1, expiring: 40_000, sums: part(99_999) },
            DbRow { db: 15, expiring: 0, sums: part(1) },
        ],
        prefixes: Prefixes { separator: ":".to_owned(), approximate: true, lost_error: 120, lost_bytes: 48_000, root },
        slots: slots(&all),
        expiry: Expiry {
            now_ms: NOW_MS,
            none: part(360_000),
            buckets: expiry
                .iter()
                .map(|&(label, keys)| ExpiryBucket { label: label.to_owned(), from_ms: None, to_ms: None, sums: part(keys) })
                .collect(),
        },
        idle: Some(Idle {
            buckets: [("< 1 h", 600_000), ("1 h - 1 d", 400_000), ("1 d - 7 d", 150_000), ("≥ 7 d", 50_000)]
                .iter()
                .map(|&(label, keys)| IdleBucket { label: label.to_owned(), from_secs: 0, to_secs: None, sums: part(keys) })
                .collect(),
        }),
        freq: Some(Freq {
            buckets: [("0-4", 300_000), ("5-9", 800_000), ("10-49", 90_000), ("50-255", 10_000)]
                .iter()
                .map(|&(label, keys)| FreqBucket { label: label.to_owned(), from: 0, to: 0, sums: part(keys) })
                .collect(),
        }),
        sizes: Sizes {
            buckets: (0..)
                .zip(sizes)
                .map(|(power, keys)| {
                    let (from, to) = (16u64 << power, (32u64 << power) - 1);
                    SizeBucket { label: format!("{from}-{to} B"), from, to, sums: part(keys) }
                })
                .collect(),
        },
        largest_by_bytes: sorted(|key| key.bytes),
        largest_by_memory: sorted(|key| key.memory),
        largest_by_elements: sorted(|key| key.elements),
        functions: 2,
        ..empty()
    }
}

/// More of everything than a page can hold, with names of 10 KB.
pub(crate) fn huge() -> Report {
    let shop = shop();
    let leaf = |at: u64, inner: u64| {
        let weight = 1 + at * 31 % 97 + inner;
        prefix(
            &format!("tenant-{at:05}:part-{inner}:"),
            sums(weight * 10, weight * 5_000, weight * 9_000),
            vec![],
        )
    };
    let add = |children: &[PrefixNode]| {
        children.iter().fold(Sums::default(), |mut all, child| {
            all.add(&child.sums);
            all
        })
    };
    let children: Vec<PrefixNode> = (0..8_000)
        .map(|at| {
            let inner: Vec<PrefixNode> = (0..6).map(|inner| leaf(at, inner)).collect();
            prefix(&format!("tenant-{at:05}:"), add(&inner), inner)
        })
        .collect();
    let name = |at: u64| format!("{at:05}:{}", "\"<&>'".repeat(2_000));
    let keys: Vec<LargeKey> = (0..5_000)
        .map(|at| {
            large(
                &name(at),
                "string",
                [9_000_000 - at, 9_100_000 - at, 1, 9_000_000 - at],
                None,
            )
        })
        .collect();
    let all = add(&children);
    Report {
        inputs: (0..3_000)
            .map(|at| InputFacts {
                name: format!("/backup/{}/{at}.rdb", "d".repeat(3_000)),
                ..shop.inputs[1].clone()
            })
            .collect(),
        totals: Totals {
            sums: all,
            ..shop.totals
        },
        dbs: (0..16_000)
            .map(|db| DbRow {
                db,
                expiring: 1,
                sums: sums(1, 100, 200),
            })
            .collect(),
        prefixes: Prefixes {
            root: prefix("", all, children),
            ..shop.prefixes.clone()
        },
        largest_by_bytes: keys.clone(),
        largest_by_memory: keys.clone(),
        largest_by_elements: keys,
        ..shop
    }
}
