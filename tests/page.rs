//! The page of a report in a real browser.

use std::path::PathBuf;

use redis_migration::report::{Report, html};

use crate::support::browser::Browser;
use crate::support::reports;

/// A report as a file that a browser can open.
fn page(report: &Report) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("report.html");
    std::fs::write(&path, html::render(report).expect("a page")).expect("a file");
    (dir, path)
}

#[test]
fn pictures() {
    let mut browser = Browser::start();
    for (name, report) in [
        ("shop", reports::shop()),
        ("empty", reports::empty()),
        ("one", reports::one_key()),
        ("huge", reports::huge()),
    ] {
        let (_dir, path) = page(&report);
        println!("{name} {}", std::fs::metadata(&path).unwrap().len());
        browser.resize(1200, 900, false);
        browser.set_dark(false);
        browser.open(&path);
        println!("{:?}", browser.complaints());
        browser.picture(&format!("{name}-light"));
        browser.set_dark(true);
        browser.picture(&format!("{name}-dark"));
        browser.set_dark(false);
        browser.resize(360, 740, true);
        browser.open(&path);
        browser.picture(&format!("{name}-phone"));
    }
}
