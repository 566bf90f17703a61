//! Speed of the parts that a log goes through: finding records, looking names up, deciding what becomes of a command.
//!
//!     cargo bench --bench log

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redis_migration::command::encode::Settings;
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
    targets = parser, names, decisions
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
