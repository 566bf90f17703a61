//! Reads a source by SCAN.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Progress;
use crate::server::endpoint::Endpoint;

/// What is to be read, and where it goes.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The source.
    pub endpoint: Endpoint,
    /// The file.
    pub rdb: PathBuf,
    /// Replace the file if it is there already.
    pub force: bool,
    /// Databases to read; `None` for all that the source says it has.
    pub databases: Option<Vec<u64>>,
}

impl ScanOptions {
    /// All of a source.
    pub fn new(endpoint: Endpoint, rdb: impl Into<PathBuf>) -> ScanOptions {
        ScanOptions {
            endpoint,
            rdb: rdb.into(),
            force: false,
            databases: None,
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// Bytes of the file.
    pub bytes: u64,
}

/// Reads a source into an RDB file.
pub fn scan(
    _options: &ScanOptions,
    _progress: &Progress,
    _tell: &mut dyn FnMut(&str),
) -> Result<ScanReport> {
    Err(Error::plain(ErrorKind::Unfit("not there yet".to_owned())))
}
