//! Connections to servers: where they are, how one is opened, and what they answer.

pub mod connection;
pub mod endpoint;
pub mod reply;
pub mod slots;
mod tls;
