//! Append-only files: one file, or the parts that a manifest lists, whole or still growing. `format.md` beside this
//! file is AOF, cited by section.

pub mod checkpoint;
pub mod convert;
pub mod follow;
pub mod manifest;
pub mod read;
pub mod set;
pub mod watch;
