//! The report against the truth of the corpus, which `REDIS_MIGRATION_CORPUS` names. Without it there is nothing to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Row, adds_up, json_of, number, report, rows_of};
use crate::support::text;

/// Snapshots of the corpus, each with its truth.
fn corpus_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            corpus_files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rdb")
            && path.with_extension("json").exists()
        {
            found.push(path);
        }
    }
}

/// An expiry that the truth does not know to the millisecond.
const ABOUT: i64 = i64::MIN;

/// What a truth says of each key.
fn truth(path: &Path) -> BTreeMap<(u64, Vec<u8>), Row> {
    let bytes = std::fs::read(path.with_extension("json")).expect("a truth");
    let truth: Value = serde_json::from_slice(&bytes).expect("JSON");
    let decoded = |text: &Value| {
        STANDARD
            .decode(text.as_str().expect("text"))
            .expect("base64")
    };
    let mut rows = BTreeMap::new();
    for (db, records) in truth["dbs"].as_object().expect("databases") {
        for record in records.as_array().expect("records") {
            let value = &record["value"];
            let type_name = match record["type"].as_str().expect("a type") {
                "vectorset" => "vectorset",
                "module" => record["module_type"].as_str().expect("a module's type"),
                other => other,
            };
            let elements = match type_name {
                "list" | "set" | "zset" | "hash" => {
                    value.as_array().expect("elements").len() as u64
                }
                "stream" => number(value, "length"),
                "array" => number(value, "count"),
                _ => 1,
            };
            let mut row = Row {
                type_name: type_name.to_owned(),
                encoding: String::new(),
                elements,
                largest: 0,
                memory: 0,
                expires_at_ms: record["expires_at_ms"].as_i64(),
            };
            // Of the oldest servers only whole seconds can be asked for.
            let precision = record["expires_precision_ms"].as_i64();
            if precision.is_some_and(|ms| ms > 1) {
                row.expires_at_ms = row.expires_at_ms.map(|_| ABOUT);
            }
            rows.insert(
                (db.parse().expect("a number"), decoded(&record["key"])),
                row,
            );
        }
    }
    rows
}

/// What is wrong with the report of a file of the corpus.
fn compare(path: &Path) -> Option<String> {
    let want = truth(path);
    let run = report(&["--format", "csv", text(path)]);
    if run.code != 0 {
        return Some(run.stderr);
    }
    let mut found = rows_of(&run);
    for row in found.values_mut() {
        (row.largest, row.memory) = (0, 0);
        row.encoding.clear();
    }
    let of = |rows: &BTreeMap<(u64, Vec<u8>), Row>, key: &(u64, Vec<u8>)| rows.get(key).cloned();
    for key in want.keys().chain(found.keys()) {
        let (truth, mut told) = (of(&want, key), of(&found, key));
        if let (Some(truth), Some(told)) = (&truth, &mut told)
            && truth.expires_at_ms == Some(ABOUT)
        {
            told.expires_at_ms = told.expires_at_ms.map(|_| ABOUT);
        }
        if truth != told {
            return Some(format!(
                "{}: {truth:?} is told as {told:?}",
                key.1.escape_ascii()
            ));
        }
    }
    let whole = json_of(path, &[]);
    adds_up(&whole, text(path));
    let keys = number(&whole["totals"], "keys");
    let expiring = want.values().filter(|row| row.expires_at_ms.is_some());
    if keys < want.len() as u64 || number(&whole["totals"], "expiring") != expiring.count() as u64 {
        return Some(format!("totals {}", whole["totals"]));
    }
    None
}

#[test]
fn totals_are_the_truth_of_the_corpus() {
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        println!("SKIPPED: REDIS_MIGRATION_CORPUS is not set");
        return;
    };
    let mut files = Vec::new();
    corpus_files(Path::new(&corpus), &mut files);
    files.sort();
    assert!(files.len() > 100, "{} files of the corpus", files.len());
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(what) = compare(file) {
                        let line = format!("{}: {what}", file.display());
                        wrong.lock().expect("no other panic").push(line);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no other panic");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        files.len(),
        wrong.join("\n")
    );
}
