//! JSON lines: everything that snapshots and logs hold, for people and for programs that know nothing of Redis, and
//! back without loss. `format.md` beside this file describes the lines, `schema.json` is their JSON Schema.
#![doc = include_str!("format.md")]

pub mod read;
pub mod text;

/// Version of the format, in the first line.
pub const VERSION: u64 = 1;
/// A value that takes more than about so many bytes is written in several lines, so that nobody has to hold it whole.
pub const LINE_BYTES: usize = 256 << 10;
