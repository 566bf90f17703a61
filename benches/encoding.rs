//! The leaves, on synthetic bytes: GB/s of input (of output for LZF and printing), one thread.
//!
//!     cargo bench --bench encoding [-- lzf]
//!
//! `--save-baseline before` and `--baseline before` compare two commits. The machine's speed drifts;
//! where another crate is at hand it runs beside ours, and the ratio says more than the figure.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redis_migration::cursor::Cursor;
use redis_migration::encoding::crc64::crc64;
use redis_migration::encoding::intset::Intset;
use redis_migration::encoding::listpack::Listpack;
use redis_migration::encoding::lzf;
use redis_migration::encoding::ziplist::Ziplist;
use redis_migration::rdb::scan::{Along, Scanner};
use redis_migration::resp::write::DoubleBuffer;

criterion_main!(benches);
criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = lzf_block, crc, listpack, ziplist, intset, printing, scan
}

/// Values that compress, as Redis compresses them. What matters is how long the literal runs and
/// the matches are, for a decoder pays by the token: 5 and 8 bytes on average in the large ones.
fn lzf_block(c: &mut Criterion) {
    for (name, sizes) in [
        ("json_200_2000", 200..2000),
        ("json_1000_10000", 1000..10_000),
    ] {
        let mut dice = Dice(1);
        let mut blocks = Vec::new();
        let mut total = 0;
        // Many values, lest the branch predictor learn them by heart.
        while total < 8 << 20 {
            let len = sizes.start + dice.roll(sizes.end - sizes.start);
            let value = dice.json(len);
            if let Ok(block) = ::lzf::compress(&value) {
                total += value.len();
                blocks.push((block, value.len()));
            }
        }
        let mut group = c.benchmark_group(format!("lzf/{name}"));
        group
            .throughput(Throughput::Bytes(total as u64))
            .sample_size(20);
        let mut out = vec![0; 64 << 10];
        group.bench_function("ours", |b| {
            b.iter(|| {
                for (block, len) in &blocks {
                    lzf::decompress(block, &mut out, *len).unwrap();
                    black_box(&out);
                }
            })
        });
        group.bench_function("pieces", |b| {
            b.iter(|| {
                for (block, len) in &blocks {
                    let write = |piece: &[u8]| {
                        black_box(piece);
                        Ok::<(), lzf::Broken>(())
                    };
                    lzf::decompress_pieces(block, *len as u64, write).unwrap();
                }
            })
        });
        group.bench_function("lzf_crate", |b| {
            b.iter(|| {
                for (block, len) in &blocks {
                    black_box(::lzf::decompress(block, *len).unwrap());
                }
            })
        });
    }
}

fn crc(c: &mut Criterion) {
    for (name, len) in [("64B", 64), ("1KiB", 1 << 10), ("1MiB", 1 << 20)] {
        let bytes = Dice(2).bytes(len);
        let mut group = c.benchmark_group(format!("crc64/{name}"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("ours", |b| b.iter(|| crc64(black_box(&bytes))));
        group.bench_function("crc64_crate", |b| {
            b.iter(|| crc64::crc64(0, black_box(&bytes)))
        });
    }
}

/// A set's listpack: words and integers of every width.
fn listpack(c: &mut Criterion) {
    for (name, text_only) in [("text", true), ("mixed", false)] {
        let blob = Dice(3).listpack(text_only);
        walk(c, &format!("listpack/{name}"), &blob, |blob| {
            let mut listpack = Listpack::parse(Cursor::new(blob, 0)).unwrap();
            let mut bytes = 0;
            while let Some(element) = listpack.next().unwrap() {
                bytes += element.len();
            }
            bytes
        });
    }
}

fn ziplist(c: &mut Criterion) {
    for (name, text_only) in [("text", true), ("mixed", false)] {
        let blob = Dice(4).ziplist(text_only);
        walk(c, &format!("ziplist/{name}"), &blob, |blob| {
            let mut ziplist = Ziplist::parse(Cursor::new(blob, 0)).unwrap();
            let mut bytes = 0;
            while let Some(element) = ziplist.next().unwrap() {
                bytes += element.len();
            }
            bytes
        });
    }
}

fn intset(c: &mut Criterion) {
    for width in [2, 4, 8] {
        let blob = intset_blob(width);
        walk(c, &format!("intset/{width}_bytes"), &blob, |blob| {
            let intset = Intset::parse(Cursor::new(blob, 0)).unwrap();
            intset
                .iter()
                .fold(0i64, |sum, member| sum.wrapping_add(member)) as usize
        });
    }
}

fn walk(c: &mut Criterion, name: &str, blob: &[u8], f: impl Fn(&[u8]) -> usize) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(blob.len() as u64));
    group.bench_function("walk", |b| b.iter(|| f(black_box(blob))));
}

/// Numbers as text, in bytes of text.
fn printing(c: &mut Criterion) {
    let mut dice = Dice(5);
    let whole: Vec<f64> = (0..10_000).map(|_| dice.roll(1_000_000) as f64).collect();
    let prices: Vec<f64> = (0..10_000)
        .map(|_| dice.roll(1_000_000) as f64 / 100.0)
        .collect();
    let any: Vec<f64> = (0..10_000)
        .map(|_| dice.roll(1 << 50) as f64 / 3.0e9)
        .collect();
    for (name, numbers) in [("whole", whole), ("two_places", prices), ("any", any)] {
        let mut buffer = DoubleBuffer::new();
        let bytes: usize = numbers.iter().map(|&n| buffer.format(n).len()).sum();
        let mut group = c.benchmark_group(format!("double/{name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("print", |b| {
            b.iter(|| {
                numbers
                    .iter()
                    .map(|&n| black_box(buffer.format(n)).len())
                    .sum::<usize>()
            })
        });
    }
    for (name, bits) in [("small", 10), ("medium", 30), ("large", 62)] {
        let numbers: Vec<i64> = (0..10_000).map(|_| dice.roll(1 << bits) as i64).collect();
        let mut buffer = itoa::Buffer::new();
        let bytes: usize = numbers.iter().map(|&n| buffer.format(n).len()).sum();
        let mut group = c.benchmark_group(format!("integer/{name}"));
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function("print", |b| {
            b.iter(|| {
                numbers
                    .iter()
                    .map(|&n| black_box(buffer.format(n)).len())
                    .sum::<usize>()
            })
        });
    }
}

/// The walk that only cuts a file into tasks, with and without the checksum.
fn scan(c: &mut Criterion) {
    for (name, value_len) in [("64B", 64), ("1000B", 1000), ("10B", 10)] {
        let file = Dice(6).snapshot(16 << 20, value_len);
        let mut group = c.benchmark_group(format!("scan/strings_{name}"));
        group
            .throughput(Throughput::Bytes(file.len() as u64))
            .sample_size(20);
        for (name, along) in [("checked", Along::Check), ("unchecked", Along::Off)] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    let mut scanner = Scanner::new(&file, along, true, false).unwrap();
                    let mut tasks = 0;
                    while scanner.next_task().unwrap().is_some() {
                        tasks += 1;
                    }
                    tasks
                })
            });
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 1) as usize % sides
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.roll(256) as u8).collect()
    }

    fn word(&mut self) -> &'static str {
        const WORDS: [&str; 40] = [
            "alpha",
            "user",
            "order",
            "delivery",
            "paris",
            "london",
            "standard",
            "express",
            "invoice",
            "shipped",
            "pending",
            "green",
            "blue",
            "large",
            "medium",
            "cotton",
            "leather",
            "warehouse",
            "north",
            "south",
            "east",
            "customer",
            "guest",
            "premium",
            "basic",
            "monthly",
            "yearly",
            "monday",
            "friday",
            "january",
            "october",
            "visa",
            "paypal",
            "transfer",
            "gift",
            "return",
            "exchange",
            "refund",
            "discount",
            "coupon",
        ];
        WORDS[self.roll(WORDS.len())]
    }

    /// An order as a shop would keep it, of about `len` bytes.
    fn json(&mut self, len: usize) -> Vec<u8> {
        let mut text = format!(
            r#"{{"id":{},"uuid":"{:08x}-{:04x}-{:012x}","created":"2024-{:02}-{:02}T{:02}:{:02}Z","items":["#,
            self.roll(10_000_000),
            self.roll(1 << 32),
            self.roll(1 << 16),
            self.roll(1 << 48),
            1 + self.roll(12),
            1 + self.roll(28),
            self.roll(24),
            self.roll(60),
        );
        while text.len() < len {
            text += &format!(
                r#"{{"sku":"{}-{}","name":"{} {} {}","price":{}.{:02},"qty":{},"in_stock":{},"tags":["{}","{}"]}},"#,
                self.word().to_uppercase(),
                self.roll(100_000),
                self.word(),
                self.word(),
                self.word(),
                self.roll(500),
                self.roll(100),
                self.roll(20),
                self.roll(3) > 0,
                self.word(),
                self.word(),
            );
        }
        text.pop();
        text += "]}";
        text.into_bytes()
    }

    /// An integer of a random width.
    fn integer(&mut self) -> i64 {
        let bits = [6, 12, 15, 23, 31, 50][self.roll(6)];
        self.roll(1 << bits) as i64 * if self.roll(4) == 0 { -1 } else { 1 }
    }

    /// 512 entries: the most that servers pack by default in a hash of 256 fields.
    fn listpack(&mut self, text_only: bool) -> Vec<u8> {
        let mut blob = vec![0; 4];
        blob.extend_from_slice(&512u16.to_le_bytes());
        for _ in 0..512 {
            let start = blob.len();
            if text_only || self.roll(2) == 0 {
                let text = format!("{}:{}", self.word(), self.roll(100_000));
                blob.push(0x80 | text.len() as u8);
                blob.extend_from_slice(text.as_bytes());
            } else {
                match self.integer() {
                    n @ 0..=127 => blob.push(n as u8),
                    n @ -4096..=4095 => {
                        blob.extend_from_slice(&(0xc000 | n as u16 & 0x1fff).to_be_bytes())
                    }
                    n @ -0x8000..=0x7fff => {
                        blob.extend_from_slice(&[&[0xf1], &n.to_le_bytes()[..2]].concat())
                    }
                    n @ -0x80_0000..=0x7f_ffff => {
                        blob.extend_from_slice(&[&[0xf2], &n.to_le_bytes()[..3]].concat())
                    }
                    n @ -0x8000_0000..=0x7fff_ffff => {
                        blob.extend_from_slice(&[&[0xf3], &n.to_le_bytes()[..4]].concat())
                    }
                    n => blob.extend_from_slice(&[&[0xf4], &n.to_le_bytes()[..]].concat()),
                }
            }
            blob.push((blob.len() - start) as u8);
        }
        blob.push(0xff);
        let total = blob.len() as u32;
        blob[..4].copy_from_slice(&total.to_le_bytes());
        blob
    }

    fn ziplist(&mut self, text_only: bool) -> Vec<u8> {
        let mut blob = vec![0; 8];
        blob.extend_from_slice(&512u16.to_le_bytes());
        let mut previous = 0;
        for _ in 0..512 {
            let start = blob.len();
            blob.push(previous);
            if text_only || self.roll(2) == 0 {
                let text = format!("{}:{}", self.word(), self.roll(100_000));
                blob.push(text.len() as u8);
                blob.extend_from_slice(text.as_bytes());
            } else {
                match self.integer() {
                    n @ 0..=12 => blob.push(0xf1 + n as u8),
                    n @ -0x80..=0x7f => blob.extend_from_slice(&[0xfe, n as u8]),
                    n @ -0x8000..=0x7fff => {
                        blob.extend_from_slice(&[&[0xc0], &n.to_le_bytes()[..2]].concat())
                    }
                    n @ -0x80_0000..=0x7f_ffff => {
                        blob.extend_from_slice(&[&[0xf0], &n.to_le_bytes()[..3]].concat())
                    }
                    n @ -0x8000_0000..=0x7fff_ffff => {
                        blob.extend_from_slice(&[&[0xd0], &n.to_le_bytes()[..4]].concat())
                    }
                    n => blob.extend_from_slice(&[&[0xe0], &n.to_le_bytes()[..]].concat()),
                }
            }
            previous = (blob.len() - start) as u8;
        }
        let tail = (blob.len() - previous as usize) as u32;
        blob.push(0xff);
        let total = blob.len() as u32;
        blob[..4].copy_from_slice(&total.to_le_bytes());
        blob[4..8].copy_from_slice(&tail.to_le_bytes());
        blob
    }

    /// A snapshot of strings in database 0, with keys of 16 bytes.
    fn snapshot(&mut self, size: usize, value_len: usize) -> Vec<u8> {
        let mut file = b"REDIS0010\xfe\x00".to_vec();
        let mut key = 0;
        while file.len() < size {
            file.push(0);
            file.push(16);
            file.extend_from_slice(format!("key:{key:012}").as_bytes());
            file.extend_from_slice(&(0x4000 | value_len as u16).to_be_bytes());
            file.resize(file.len() + value_len, b'a' + self.roll(26) as u8);
            key += 1;
        }
        file.push(0xff);
        let crc = crc64(&file);
        file.extend_from_slice(&crc.to_le_bytes());
        file
    }
}

/// 512 members, the most that servers keep in an intset by default.
fn intset_blob(width: usize) -> Vec<u8> {
    let mut blob = (width as u32).to_le_bytes().to_vec();
    blob.extend_from_slice(&512u32.to_le_bytes());
    for member in 0..512i64 {
        let member = (member - 256) * [50, 1 << 22, 1 << 54][width.ilog2() as usize - 1];
        blob.extend_from_slice(&member.to_le_bytes()[..width]);
    }
    blob
}
