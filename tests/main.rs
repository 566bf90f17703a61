//! The program against real servers, old and new, and against inputs that are wrong in every way.
//!
//! `tests/install-servers` gets the servers; `tests/run` does everything in order.

mod aof;
mod check;
mod commands;
mod connecting;
mod convert;
mod corpus;
mod damage;
mod dataset;
mod ending;
mod expiring;
mod follow;
mod harness;
mod jsonl;
mod live;
mod manifest;
mod page;
mod preflight;
mod replay;
mod replica;
mod report;
mod rewriting;
mod scan;
mod selecting;
mod support;
mod torn;
mod usage;
mod verify;
