//! Inputs that are cut or altered: always an error that names the place, never a panic, never exit 0.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use redis_migration::command::encode::{Mode, Settings};
use redis_migration::command::target::Target;
use redis_migration::pipeline::{Checksum, Options, Report, convert_bytes};

use crate::support::cli::{convert, run};
use crate::support::data::DataSet;
use crate::support::server::Server;
use crate::support::{fixture, resp, text};

/// What is done to a snapshot.
#[derive(Debug, Clone, Copy)]
enum Damage {
    CutAt(usize),
    Flip { offset: usize, with: u8 },
}

impl Damage {
    fn apply(self, whole: &[u8]) -> Vec<u8> {
        match self {
            Damage::CutAt(len) => whole[..len].to_vec(),
            Damage::Flip { offset, with } => {
                let mut bytes = whole.to_vec();
                bytes[offset] ^= with;
                bytes
            }
        }
    }
}

/// Every cut, and three flips of every byte.
fn every(len: usize) -> Vec<Damage> {
    let flips =
        (0..len).flat_map(|offset| [1, 0x80, 0xff].map(|with| Damage::Flip { offset, with }));
    (0..len).map(Damage::CutAt).chain(flips).collect()
}

/// Converts each damaged copy inside this process and collects what `judge` does not like. A panic fails the test by
/// itself, as does a copy that takes ten seconds.
fn over_each(
    snapshot: &str,
    settings: &Settings,
    checksum: Checksum,
    damages: &[Damage],
    judge: impl Fn(Damage, &Report) -> Result<(), String> + Sync,
) {
    let whole = std::fs::read(fixture(snapshot)).expect("a fixture");
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = damage.apply(&whole);
                    let begun = Instant::now();
                    let (out, report, _) = convert_bytes(
                        &bytes,
                        settings,
                        &Options {
                            threads: 1,
                            checksum,
                            from: 0,
                            replace_before: 0,
                        },
                    );
                    let seconds = begun.elapsed().as_secs();
                    // Whatever went wrong, what was written is whole commands.
                    resp::commands(&out);
                    let place = report.error.as_ref().and_then(|error| error.at());
                    let verdict = if seconds >= 10 {
                        Err(format!("it took {seconds} seconds"))
                    } else if place.is_some_and(|at| at.offset > whole.len() as u64) {
                        Err("the place is outside the file".to_owned())
                    } else {
                        judge(*damage, &report)
                    };
                    if let Err(what) = verdict {
                        let line = format!("{damage:?}: {what}: {:?}", report.error);
                        wrong.lock().expect("no other panic").push(line);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no other panic");
    let first = wrong.iter().take(8).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{snapshot}: {} of {}:\n{first}",
        wrong.len(),
        damages.len()
    );
}

/// What the program uses for a server, but for its name.
fn settings(mode: Mode) -> Settings {
    let target = Target {
        version: Some("8.10".parse().expect("a version")),
        ..Target::default()
    };
    Settings {
        target,
        mode,
        batch_elements: 500,
        batch_bytes: 256 << 10,
        ..Settings::default()
    }
}

fn must_fail_at_a_place(_: Damage, report: &Report) -> Result<(), String> {
    match &report.error {
        None => Err("it was not noticed".to_owned()),
        Some(error) if error.at().is_none() => Err("no byte is named".to_owned()),
        Some(_) => Ok(()),
    }
}

/// The small snapshot of every server.
const SMALL: [&str; 5] = [
    "all_types_small_redis-5.0_v9.rdb",
    "all_types_small_redis-6.2_v9.rdb",
    "all_types_small_redis-7.0_v10.rdb",
    "all_types_small_redis-8.10_v15.rdb",
    "all_types_small_valkey-9.1_v80.rdb",
];

fn len_of(snapshot: &str) -> usize {
    std::fs::metadata(fixture(snapshot))
        .expect("a fixture")
        .len() as usize
}

#[test]
fn every_cut_and_every_flip_of_a_checked_file_is_found() {
    for snapshot in SMALL {
        let damages = every(len_of(snapshot));
        over_each(
            snapshot,
            &settings(Mode::Commands),
            Checksum::First,
            &damages,
            must_fail_at_a_place,
        );
        // Decoding before the checksum is known takes longer, so every seventh has to do.
        let some: Vec<Damage> = damages.into_iter().step_by(7).collect();
        over_each(
            snapshot,
            &settings(Mode::Commands),
            Checksum::Along,
            &some,
            must_fail_at_a_place,
        );
    }
}

#[test]
fn without_the_checksum_every_cut_is_found_and_no_flip_makes_it_panic_or_hang() {
    for snapshot in SMALL {
        // The newest formats of both servers have all that the others have.
        let step = if snapshot.contains("8.10") || snapshot.contains("9.1") {
            1
        } else {
            5
        };
        for (mode, step) in [(Mode::Commands, step), (Mode::Restore, 5)] {
            let damages: Vec<Damage> = every(len_of(snapshot)).into_iter().step_by(step).collect();
            over_each(
                snapshot,
                &settings(mode),
                Checksum::Off,
                &damages,
                |damage, report| {
                    match (damage, &report.error) {
                        (Damage::CutAt(_), _) | (_, Some(_)) => {
                            must_fail_at_a_place(damage, report)
                        }
                        // A flip may make another valid value.
                        (Damage::Flip { .. }, None) => Ok(()),
                    }
                },
            );
        }
    }
}

#[test]
fn a_flip_that_passes_without_the_checksum_gives_only_payloads_that_pass_the_servers_deep_check() {
    let snapshot = "all_types_small_redis-7.0_v10.rdb";
    let whole = std::fs::read(fixture(snapshot)).expect("a fixture");
    let server = Server::with("redis-7.0", &["--sanitize-dump-payload", "yes"]);
    let mut client = server.client();
    let settings = Settings {
        target: Target {
            version: Some("7.0".parse().expect("a version")),
            ..Target::default()
        },
        ..settings(Mode::Restore)
    };
    let options = Options {
        threads: 1,
        checksum: Checksum::Off,
        from: 0,
        replace_before: 0,
    };
    let mut loaded = 0;
    for damage in every(whole.len()) {
        if matches!(damage, Damage::CutAt(_)) {
            continue;
        }
        let (out, report, _) = convert_bytes(&damage.apply(&whole), &settings, &options);
        // What stands before an error was signed too.
        let errors = client.pipe(&out, None).errors;
        let refused: Vec<&String> = errors
            .iter()
            .filter(|error| error.contains("Bad data format") || error.contains("checksum"))
            .collect();
        assert!(refused.is_empty(), "{damage:?}: {refused:?}");
        if report.error.is_none() {
            loaded += 1;
            if loaded % 20 == 0 {
                // Reading everything walks what was loaded; a value that is bad all the same would end the server.
                DataSet::read(&mut client);
            }
        }
        server.flush();
    }
    assert!(loaded > 500, "only {loaded} altered files were loaded");
}

#[test]
fn the_program_says_what_the_library_found() {
    let whole = std::fs::read(fixture(SMALL[2])).expect("a fixture");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("damaged.rdb");
    for damage in every(whole.len()).into_iter().step_by(61) {
        std::fs::write(&file, damage.apply(&whole)).expect("a damaged copy");
        for checksum in ["first", "along"] {
            let run = convert(&[
                "--checksum",
                checksum,
                "--target-version",
                "7.0",
                text(&file),
            ]);
            assert_eq!(
                run.code, 3,
                "{damage:?} --checksum {checksum}: {}",
                run.stderr
            );
            assert!(
                names_an_offset(&run.stderr),
                "{damage:?} --checksum {checksum}: {}",
                run.stderr
            );
            assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        }
    }
}

/// Whether a message has a number after the word for a place.
fn names_an_offset(stderr: &str) -> bool {
    ["byte ", "offset "].iter().any(|word| {
        let mut places = stderr.match_indices(word);
        places.any(|(at, _)| stderr[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// A fixture without its last bytes, in a directory of its own.
fn truncated(snapshot: &str, less: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cut.rdb");
    let whole = std::fs::read(fixture(snapshot)).expect("a fixture");
    std::fs::write(&file, &whole[..whole.len() - less]).expect("a cut copy");
    (dir, file)
}

#[test]
fn nothing_is_written_from_a_file_that_is_not_whole_unless_asked() {
    let (_dir, file) = truncated("mixed_redis-7.0_v10.rdb", 5000);
    let first = convert(&[text(&file)]);
    assert_eq!((first.code, first.stdout.len()), (3, 0), "{}", first.stderr);

    // Checking along the way writes what came before, in whole commands.
    let along = convert(&["--checksum", "along", text(&file)]);
    assert_eq!(along.code, 3, "{}", along.stderr);
    assert!(names_an_offset(&along.stderr), "{}", along.stderr);
    resp::commands(&along.stdout);
}

#[test]
fn a_packed_input_that_is_cut_is_found() {
    let packed = std::fs::read(fixture("mixed_redis-7.0_v10.rdb.gz")).expect("a fixture");
    for len in [1, 9, 100, packed.len() / 2, packed.len() - 1] {
        let run = run(&["convert", "-"], Some(&packed[..len]));
        assert_eq!(run.code, 3, "{len} bytes: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }
}

#[test]
fn what_is_no_snapshot_is_said_to_be_none() {
    for bytes in [
        &b""[..],
        b"REDIS",
        b"REDIS9999",
        b"hello, world, this is text\n",
        &[0; 4096],
    ] {
        let run = run(&["convert", "-"], Some(bytes));
        assert_eq!(
            run.code,
            3,
            "{:?}: {}",
            &bytes[..bytes.len().min(20)],
            run.stderr
        );
        assert!(
            run.stdout.is_empty() && !run.stderr.contains("panicked"),
            "{}",
            run.stderr
        );
    }
}
