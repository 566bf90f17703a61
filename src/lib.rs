//! Moves Redis data that is in files.
//!
//! A snapshot (RDB) of any Redis or Valkey becomes RESP commands:
//!
//! ```text
//! input ─ mapped bytes ─→ rdb::scan ─ tasks ─→ command::encode (workers) ─ blocks ─→ sink
//!                          │ lengths only        │ filter, transform, encode            in order
//!                          └ checksum            └ straight from the mapped bytes
//! ```
//!
//! [`pipeline::convert`] runs the whole of it. The library never prints and never exits.

pub mod aof;
pub mod command;
pub mod cursor;
pub mod encoding;
pub mod error;
pub mod filter;
pub mod input;
pub mod pipeline;
pub mod rdb;
pub mod resp;
pub mod sink;
pub mod tally;
pub mod transform;
pub mod value;

pub use error::{Error, ErrorKind, Result};
