//! Snapshots with holes: all that does not touch a hole is saved, and nothing is made up in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use redis_migration::check::salvage::{Salvaged, Why, salvage};
use redis_migration::encoding::crc64::crc64;
use redis_migration::filter::Filter;
use redis_migration::pipeline::Progress;
use redis_migration::rdb::keys::{Keys, Met};
use redis_migration::rdb::scan::{Along, Scanner};

use crate::support::client::call;
use crate::support::fixture;
use crate::support::server::Server;

/// Where a key's record stands, and its bytes.
type Records = BTreeMap<(u64, Vec<u8>), (Range<usize>, Vec<u8>)>;

/// The records of a whole file, by database and name.
fn records(bytes: &[u8]) -> Records {
    let mut scanner = Scanner::new(bytes, Along::Check, false, false).expect("a snapshot");
    let mut keys = Keys::new(bytes, scanner.format(), 1 << 20);
    let mut records = Records::new();
    while let Some(task) = scanner.next_task().expect("a whole snapshot") {
        let read = keys.for_each(&task, &Filter::default(), |met| {
            if let Met::Key(seen) = met {
                let span = seen.record.start..seen.end;
                let record = bytes[span.clone()].to_vec();
                let before = records.insert((seen.db, seen.name.to_vec()), (span, record));
                assert!(
                    before.is_none(),
                    "{:?} stands twice",
                    seen.name.escape_ascii()
                );
            }
            Ok(())
        });
        read.expect("whole keys");
    }
    assert_eq!(scanner.info.trailing, 0);
    records
}

fn saved(bytes: &[u8]) -> (Salvaged, Vec<u8>) {
    salvage(bytes, Vec::new(), 1000, &Progress::default()).expect("memory can be written")
}

/// Zeroes a piece of a snapshot and holds what is saved of it against what touches the hole.
fn punch(whole: &[u8], truth: &Records, hole: Range<usize>) -> Result<(), String> {
    let mut bytes = whole.to_vec();
    bytes[hole.clone()].fill(0);
    let (report, out) = saved(&bytes);
    let Ok(found) = std::panic::catch_unwind(|| records(&out)) else {
        return Err(format!(
            "{hole:?}: no valid file: {:?} {:?}",
            report.holes, report.doubts
        ));
    };
    let touches = |span: &Range<usize>| span.start < hole.end && hole.start < span.end;
    if found.len() + 200 < truth.len() {
        return Err(format!(
            "{} of {} keys: {report:?}",
            found.len(),
            truth.len()
        ));
    }
    // Where a SELECTDB was hit too, keys behind it are in the database before.
    let inside: usize = truth
        .values()
        .map(|(span, _)| {
            span.end
                .min(hole.end)
                .saturating_sub(span.start.max(hole.start))
        })
        .sum();
    if inside < hole.len() {
        let kept: BTreeSet<(&[u8], &[u8])> = found
            .iter()
            .map(|((_, name), (_, record))| (&name[..], &record[..]))
            .collect();
        let doubled = |name: &[u8]| report.doubled > 0 && found.keys().any(|(_, now)| now == name);
        let lost = truth.iter().find(|((_, name), (span, record))| {
            !touches(span) && !kept.contains(&(&name[..], &record[..])) && !doubled(name)
        });
        return match lost {
            None => Ok(()),
            Some(((db, name), (span, _))) => Err(format!(
                "{} in db {db} at {span:?} does not touch {hole:?} and is in no database: {:?}",
                name.escape_ascii(),
                report.holes
            )),
        };
    }
    for ((db, name), (span, record)) in truth {
        let now = found.get(&(*db, name.clone()));
        if !touches(span) && now.map(|(_, record)| record) != Some(record) {
            return Err(format!(
                "{} in db {db} at {span:?} does not touch {hole:?} and is {}: {:?}",
                name.escape_ascii(),
                if now.is_some() { "altered" } else { "lost" },
                report.holes
            ));
        }
    }
    for ((db, name), (_, record)) in &found {
        if truth
            .get(&(*db, name.clone()))
            .is_none_or(|(_, was)| was != record)
        {
            let told = report
                .doubts
                .iter()
                .any(|d| d.key.db == *db && name.starts_with(&d.key.key));
            if !told {
                return Err(format!(
                    "{hole:?}: {} in db {db} is not what it was, and nothing tells: {:?} {:?}",
                    name.escape_ascii(),
                    report.holes,
                    report.doubts
                ));
            }
        }
    }
    if report.keys != found.len() as u64 {
        return Err(format!(
            "{} keys are told, {} are there",
            report.keys,
            found.len()
        ));
    }
    Ok(())
}

/// Numbers without pattern, always the same.
pub(crate) fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below.max(1)
    }
}

fn punch_often(whole: &[u8], holes: usize, seed: u64) {
    let truth = records(whole);
    let mut random = random(seed);
    let mut wrong = Vec::new();
    for _ in 0..holes {
        let from = 9 + random(whole.len() - 4096 - 9 - 9);
        if let Err(text) = punch(whole, &truth, from..from + 4096) {
            wrong.push(text);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {holes}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(4)].join("\n")
    );
}

#[test]
fn a_zeroed_block_costs_the_keys_that_touch_it() {
    for seed in 1..=3 {
        let whole = std::fs::read(fixture("mixed_redis-7.0_v10.rdb")).expect("a fixture");
        punch_often(&whole, 25, seed);
    }
}

#[test]
fn a_zeroed_block_in_a_large_file_costs_the_keys_that_touch_it() {
    let whole = large();
    punch_often(&whole, 4, 7);
}

/// Twenty megabytes of keys of all types, as a server writes them.
fn large() -> Vec<u8> {
    let server = Server::start("redis-7.0");
    let mut client = server.client();
    let script = "math.randomseed(7)
        local t = {}
        for i = 1, 65536 do t[i] = string.char(math.random(32, 126)) end
        local base = table.concat(t)
        local function text(n) local at = math.random(1, 65536 - n); return string.sub(base, at, at + n - 1) end
        for i = 1, 20000 do
            local k, t, n = 'key:' .. i, i % 8, math.random(1, 200)
            if t < 4 then redis.call('SET', k, text(math.random(10, 1200)))
            elseif t == 4 then for j = 1, n / 5 do redis.call('RPUSH', k, text(60)) end
            elseif t == 5 then for j = 1, n do redis.call('HSET', k, 'f' .. j, text(20)) end
            elseif t == 6 then for j = 1, n do redis.call('ZADD', k, math.random(), text(20)) end
            else for j = 1, n do redis.call('SADD', k, text(20)) end end
            if i % 5 == 0 then redis.call('PEXPIREAT', k, 4102444800000 + i) end
        end";
    call!(client, "EVAL", script, "0");
    std::fs::read(server.save()).expect("a snapshot")
}

/// A snapshot of so many plain strings, and where the record of each begins.
fn strings(count: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut starts) = (b"REDIS0010".to_vec(), Vec::new());
    for i in 0..count {
        starts.push(bytes.len());
        let (name, value) = (format!("key:{i:04}"), format!("the value of number {i:04}"));
        bytes.extend([0, name.len() as u8]);
        bytes.extend(name.bytes());
        bytes.push(value.len() as u8);
        bytes.extend(value.bytes());
    }
    bytes.push(0xff);
    let sum = crc64(&bytes);
    bytes.extend(sum.to_le_bytes());
    (bytes, starts)
}

#[test]
fn an_end_among_damage_is_none_because_a_star_stands_behind_it() {
    let (mut bytes, starts) = strings(40);
    let junk = [&[0x70, 0xff][..], b"12345678*and no command"].concat();
    bytes.splice(starts[10]..starts[11], junk);
    let (report, out) = saved(&bytes);
    assert_eq!((report.keys, report.has_end), (39, true), "{report:?}");
    assert_eq!(records(&out).len(), 39);
}

#[test]
fn a_type_that_became_eof_costs_its_key_only() {
    let (mut bytes, starts) = strings(40);
    bytes[starts[10]] = 0xff;
    let (report, _) = saved(&bytes);
    assert_eq!((report.keys, report.holes.len()), (39, 1), "{report:?}");
    assert!(report.has_end, "{report:?}");
    // Where the checksum vouches for all up to there, it is the end, whatever follows.
    let (mut bytes, _) = strings(40);
    bytes.extend(b"garbage");
    let (report, _) = saved(&bytes);
    assert_eq!((report.keys, report.holes.len()), (40, 0), "{report:?}");
}

/// Whether a key is among those that are known to be lost.
fn knows_lost(report: &Salvaged, name: &[u8]) -> bool {
    let mut keys = report.holes.iter().flat_map(|hole| &hole.keys);
    keys.any(|key| key.key == name)
}

#[test]
fn a_module_value_that_a_hole_cuts_short_is_lost() {
    let (mut bytes, starts) = strings(80);
    // A module's id, two strings, and the opcode that ends it.
    let head = b"\x07\x03mod\x81\x40\xe1\x4d\x18\x5c\x61\x00\x01\x05\x05first";
    let module = [&head[..], b"\x05\x06second\x00"].concat();
    bytes.splice(starts[10]..starts[10], module);
    let from = starts[10] + head.len();
    bytes[from..from + 600].fill(0);
    let (report, out) = saved(&bytes);
    assert!(knows_lost(&report, b"mod"), "{report:?}");
    assert!(!records(&out).contains_key(&(0, b"mod".to_vec())));
    assert_eq!(report.modules, 0);
}

#[test]
fn a_key_that_says_where_it_ends_is_not_given_up_for_one_that_is_none() {
    let (mut bytes, starts) = strings(40);
    let broken = b"\x70 what could not be read";
    // The value in its listpack looks like a string's record that reaches over all that is broken.
    let value = [b"\x00\x04name", &[2 + broken.len() as u8][..]].concat();
    let entries = [
        &b"\x81f\x02"[..],
        &[0x80 | value.len() as u8],
        &value,
        &[1 + value.len() as u8, 0xff],
    ]
    .concat();
    let size = 6 + entries.len() as u32;
    let listpack = [&size.to_le_bytes()[..], &2u16.to_le_bytes(), &entries].concat();
    let hash = [
        b"\x10\x04hash",
        &[listpack.len() as u8][..],
        &listpack,
        broken,
    ]
    .concat();
    bytes.splice(starts[10]..starts[10], hash);
    let (report, out) = saved(&bytes);
    assert_eq!((report.keys, report.lost), (41, 0), "{report:?}");
    assert!(records(&out).contains_key(&(0, b"hash".to_vec())));
}

#[test]
fn libraries_behind_damage_in_the_head_are_kept() {
    let (mut bytes, starts) = strings(40);
    let code = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    let library = [&[0xf5, 0x40, code.len() as u8][..], code].concat();
    let head = [b"\x70 what could not be read", &library[..]].concat();
    bytes.splice(starts[0]..starts[0], head);
    let (report, out) = saved(&bytes);
    assert_eq!((report.keys, report.libraries), (40, 1), "{report:?}");
    assert!(report.is_head_hit && out.windows(code.len()).any(|w| w == code));
}

#[test]
fn templates_behind_damage_in_the_head_are_kept_with_the_keys_that_refer_to_them() {
    let mut bytes = [&b"REDIS0015"[..], b"\x70 what could not be read"].concat();
    for id in [3, 4] {
        bytes.extend([0xf2, id, 2, 1, b'a', 1, b'b']);
    }
    for i in 0..20u8 {
        bytes.extend([32, 5]);
        bytes.extend(format!("key{i:02}").bytes());
        bytes.extend([3 + i % 2, 3]);
        bytes.extend(b"one\x03two");
    }
    bytes.push(0xff);
    bytes.extend([0; 8]);
    let (report, out) = saved(&bytes);
    assert_eq!((report.keys, report.lost), (20, 0), "{report:?}");
    assert_eq!(records(&out).len(), 20);
}

#[test]
fn the_key_behind_a_broken_value_is_doubtful() {
    let (mut bytes, starts) = strings(40);
    let broken = b"\x10\x04hash\x14no listpack, 20 byte";
    bytes.splice(starts[10]..starts[10], broken.iter().copied());
    let (report, _) = saved(&bytes);
    assert!(knows_lost(&report, b"hash"), "{report:?}");
    let mut doubts = report.doubts.iter();
    let is_told = doubts.any(|doubt| doubt.key.key == b"key:0010" && doubt.why == Why::Behind);
    assert!(is_told, "{report:?}");
}
