//! RESP, the protocol of Redis.

pub mod parse;
pub mod write;
