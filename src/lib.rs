//! Moves Redis data that is in files or in live servers.
//!
//! A snapshot (RDB) of any Redis or Valkey becomes RESP commands:
//!
//! ```text
//! input ─ mapped bytes ─→ rdb::scan ─ tasks ─→ command::encode (workers) ─ blocks ─→ sink
//!                          │ lengths only        │ filter, transform, encode            in order
//!                          └ checksum            └ straight from the mapped bytes
//! ```
//!
//! An append-only file becomes commands too. Its snapshot, if it begins with one, goes the same way; then:
//!
//! ```text
//! log ─ buffer ─→ aof::read ─ units ─→ command::rewrite ─ blocks ─→ sink
//!                  │ commands, whole transactions │ filter, transform, dialect
//!                  └ aof::follow: where it goes on └ expiries held back until its end
//! ```
//!
//! A sink is a file, or a destination that acknowledges every command ([`sink::server`]), found out before by
//! [`server::preflight`]; [`replay`] remembers between two runs how far it has come.
//!
//! A server that still runs is copied to files first, by becoming its replica ([`replica`]); these then go both ways.
//!
//! Who only looks at a snapshot goes through the same tasks with workers of their own ([`walk`]): [`check`],
//! [`report`], and [`verify`], which asks a destination. Of a log the last two see the snapshot that [`dataset`] makes
//! of it, and JSON lines ([`jsonl`]) become a snapshot before anything reads them.
//!
//! [`pipeline::convert`] runs the first, [`aof::convert::Conversion`] both. The library never prints and never exits.

pub mod aof;
pub mod check;
pub mod command;
pub mod cursor;
pub mod dataset;
pub mod encoding;
pub mod error;
pub mod file;
pub mod filter;
pub mod input;
pub mod jsonl;
pub mod pipeline;
pub mod rdb;
pub mod replay;
pub mod replica;
pub mod report;
pub mod resp;
pub mod server;
pub mod sink;
pub mod tally;
pub mod transform;
pub mod value;
pub mod verify;
pub mod walk;

pub use error::{Error, ErrorKind, Result};
