//! Speed of the parts that a log goes through: finding records, looking names up, deciding what becomes of a command,
//! holding expiries back.
//!
//!     cargo bench --bench log

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use redis_migration::command::encode::Settings;
use redis_migration::command::held::Held;
use redis_migration::command::rewrite::Rewriter;
use redis_migration::command::table::lookup;
use redis_migration::command::target::Target;
use redis_migration::filter::Filter;
use redis_migration::resp::parse::{Command, Commands, Found, Parser, Record};

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parser, names, decisions, held
}

/// The walk over records: a value's bytes are passed over, so that small commands cost the most by the byte.
fn parser(c: &mut Criterion) {
    for (name, value) in [("small", 3), ("64B", 64), ("1000B", 1000)] {
        let mut log = Vec::new();
        let mut n = 0;
        while log.len() < 4 << 20 {
            n += 1;
            let key = format!("key:{:06}", n * 7919 % 1_000_000);
            command(&mut log, &[b"SET", key.as_bytes(), &vec![b'v'; value]]);
        }
        let mut group = c.benchmark_group(format!("parser/{name}"));
        group
            .throughput(Throughput::Bytes(log.len() as u64))
            .sample_size(20);
        group.bench_function("find", |b| {
            b.iter(|| {
                let mut parser = Parser::new(false);
                let (mut rest, mut commands) = (&log[..], 0u64);
                while let Ok(Found::Command(shape)) = parser.next(rest, 0) {
                    rest = &rest[shape.len as usize..];
                    commands += 1;
                }
                commands
            })
        });
        group.bench_function("find_and_arguments", |b| {
            b.iter(|| {
                Commands::new(&log, false)
                    .map(|record| match record {
                        Record::Command(command) => command.args().map(<[u8]>::len).sum(),
                        Record::Annotation(_) => 0,
                    })
                    .sum::<usize>()
            })
        });
    }
}

fn names(c: &mut Criterion) {
    let log = mix();
    let names: Vec<&[u8]> = commands(&log).iter().map(Command::name).collect();
    let mut group = c.benchmark_group("names");
    group.throughput(Throughput::Elements(names.len() as u64));
    group.bench_function("lookup", |b| {
        b.iter(|| {
            names
                .iter()
                .filter(|name| lookup(black_box(name)).is_some())
                .count()
        })
    });
}

/// What a command costs that does not pass unseen.
fn decisions(c: &mut Criterion) {
    let log = mix();
    let commands = commands(&log);
    let chosen = Settings {
        filter: Filter {
            keys: regex::bytes::RegexSet::new(["^(user|item):"]).ok(),
            ..Filter::default()
        },
        ..Settings::default()
    };
    let old = Settings {
        target: Target {
            version: "4.0".parse().ok(),
            ..Target::default()
        },
        ..Settings::default()
    };
    let mut group = c.benchmark_group("decisions");
    group.throughput(Throughput::Elements(commands.len() as u64));
    for (name, settings) in [
        ("open", &Settings::default()),
        ("chosen_keys", &chosen),
        ("target_4.0", &old),
    ] {
        let rewriter = Rewriter::new(settings);
        group.bench_function(name, |b| {
            b.iter(|| {
                commands
                    .iter()
                    .filter(|command| {
                        rewriter.passes(command.name(), command.argc())
                            || rewriter.decide(command, 0).is_written()
                    })
                    .count()
            })
        });
    }
}

/// Expiries of distinct keys of 25 bytes in no order, set and drained; and what clears and renames cost while
/// so many are held.
fn held(c: &mut Criterion) {
    let mut group = c.benchmark_group("held");
    group.sample_size(10);
    let key = |n: u64| {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("session:{:017x}", mixed ^ mixed >> 29).into_bytes()
    };
    let keys: Vec<Vec<u8>> = (0..3_000_000).map(key).collect();
    let fill = |count: usize| {
        let mut held = Held::new(24 << 20);
        for (at_ms, key) in keys[..count].iter().enumerate() {
            held.set(0, key, None, at_ms as i64).unwrap();
        }
        held
    };
    let drain = |mut held: Held| {
        let mut count = 0;
        held.drain(|_, key, _, at_ms| {
            black_box((key, at_ms));
            count += 1;
            Ok(())
        })
        .unwrap();
        count
    };
    for (name, count) in [
        ("1 million distinct keys, 24 MiB", 1_000_000),
        ("3 million distinct keys, 24 MiB", 3_000_000),
    ] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |b| {
            b.iter(|| assert_eq!(drain(fill(count)), count));
        });
    }
    let others: Vec<Vec<u8>> = (3_000_000..4_000_000).map(key).collect();
    group.throughput(Throughput::Elements(others.len() as u64));
    for (name, count) in [("in memory", 50_000), ("in the file", 1_000_000)] {
        let mut held = fill(count);
        group.bench_function(format!("clearing what is not held, others {name}"), |b| {
            b.iter(|| {
                for key in &others {
                    held.clear_key(0, key).unwrap();
                }
            });
        });
    }
    let renamed = 100_000;
    group.throughput(Throughput::Elements(renamed as u64));
    group.bench_function("renames of the oldest of 1 million", |b| {
        let rename = |mut held: Held| {
            for (from, to) in keys[..renamed].iter().zip(&others) {
                held.rename(0, from, to).unwrap();
            }
            held
        };
        b.iter_batched(|| fill(1_000_000), rename, BatchSize::PerIteration);
    });
}

/// A shop's commands in no order that a branch predictor could learn.
fn mix() -> Vec<u8> {
    let (mut log, mut dice) = (Vec::new(), 1u64);
    for _ in 0..20_000 {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let n = (dice >> 20).to_string();
        let key = |prefix: &str| format!("{prefix}:{n}").into_bytes();
        let value = [b'v'; 100];
        let args: Vec<&[u8]> = match dice % 100 {
            0..30 => vec![b"SET", b"", &value],
            30..40 => vec![b"SET", b"", &value, b"PXAT", b"4102444800000"],
            40..53 => vec![b"INCR", b""],
            53..66 => vec![b"HSET", b"", b"field", &value],
            66..82 => vec![b"RPUSH", b"", &value],
            82..90 => vec![b"ZADD", b"", b"17", b"member"],
            90..95 => vec![b"DEL", b""],
            _ => vec![b"PEXPIREAT", b"", b"4102444800000"],
        };
        let key = key(if dice & 1 << 40 == 0 { "user" } else { "views" });
        let args: Vec<&[u8]> = args
            .into_iter()
            .map(|arg| if arg.is_empty() { &key[..] } else { arg })
            .collect();
        command(&mut log, &args);
    }
    log
}

fn command(log: &mut Vec<u8>, args: &[&[u8]]) {
    log.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        log.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        log.extend_from_slice(arg);
        log.extend_from_slice(b"\r\n");
    }
}

fn commands(log: &[u8]) -> Vec<Command<'_>> {
    Commands::new(log, false)
        .filter_map(|record| match record {
            Record::Command(command) => Some(command),
            Record::Annotation(_) => None,
        })
        .collect()
}
