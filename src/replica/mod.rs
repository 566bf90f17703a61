//! The replica side of a live migration: a source's snapshot and everything it writes afterwards, on disk.
//!
//! ```text
//! source ─ PSYNC ─→ handshake ─→ transfer ─ snapshot ──→ R          ┐
//!                                stream ─── delta ─────→ A, segments ┴─→ whoever replays them
//! ```
//!
//! [`receive::run`] is the body of a thread that does so until it is told to stop. It never waits for a destination:
//! the files of [`spool::Spool`] are all that is between the two, and both are ordinary ones, a snapshot and a log in parts
//! with its manifest.

mod handshake;
pub mod receive;
pub mod removals;
pub mod scan;
pub mod source;
pub mod spool;
pub mod stream;
pub mod transfer;

mod sync;
mod wire;
