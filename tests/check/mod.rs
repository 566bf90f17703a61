//! `check`: agreement with the servers' own programs, and what is saved of damaged files.

mod agree;
mod files;
mod salvage;
