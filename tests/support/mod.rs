//! What the tests need around the program: real servers, a client to look into them, and a way to run the binary.

pub(crate) mod browser;
pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod data;
pub(crate) mod load;
pub(crate) mod relay;
pub(crate) mod reports;
pub(crate) mod resp;
pub(crate) mod script;
pub(crate) mod server;
pub(crate) mod tls;

use std::path::{Path, PathBuf};

/// A file of `testdata/rdb`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    testdata().join(name)
}

/// A log of `testdata/aof`: a file, or a directory of several.
pub(crate) fn log_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/aof")
        .join(name)
}

/// A log in a directory of its own.
pub(crate) fn log_file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("appendonly.aof");
    std::fs::write(&path, bytes).expect("a log");
    (dir, path)
}

/// The clock in Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock after 1970").as_millis() as i64
}

/// All snapshots of `testdata/rdb`, by name. Packed copies are left out.
pub(crate) fn fixtures() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(testdata())
        .expect("testdata/rdb")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rdb"))
        .collect();
    files.sort();
    files
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/rdb")
}

/// The file's name without its directory, for messages.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name()
        .expect("a file name")
        .to_string_lossy()
        .into_owned()
}

/// A path as an argument. Every path of the tests is UTF-8.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// The format a snapshot says it is in: 1…15 for Redis, 80 for Valkey 9.
pub(crate) fn rdb_version(path: &Path) -> u32 {
    let bytes = std::fs::read(path).expect("a snapshot");
    // The magic is nine bytes in all, whichever name it begins with.
    let digits = bytes
        .strip_prefix(b"REDIS")
        .or_else(|| bytes.strip_prefix(b"VALKEY"))
        .expect("a snapshot's magic");
    let digits = &digits[..9 - (bytes.len() - digits.len())];
    std::str::from_utf8(digits)
        .expect("digits")
        .parse()
        .expect("a version")
}
