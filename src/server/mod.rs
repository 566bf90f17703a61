//! Connections to servers: where they are, how one is opened, what they answer, and whether they are fit to be loaded.

pub mod connection;
pub mod endpoint;
pub mod import;
pub mod preflight;
pub mod reply;
pub mod slots;
mod stats;
mod tls;
