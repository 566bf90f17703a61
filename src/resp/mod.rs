//! RESP, the protocol of Redis.

pub mod write;
