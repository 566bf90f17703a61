//! Keys become commands, and commands become others.

pub mod encode;
pub mod held;
mod jsonl;
pub mod keys;
pub mod restore;
pub mod rewrite;
mod rows;
pub mod stream;
pub mod table;
pub mod target;
