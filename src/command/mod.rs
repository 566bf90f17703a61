//! Keys become commands.

pub mod encode;
pub mod restore;
pub mod stream;
pub mod target;
