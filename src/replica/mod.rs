//! A live source: what is read from it, and what a second full resync asks of the destination.

pub mod removals;
pub mod scan;
