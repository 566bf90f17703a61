//! `migrate`: a live source → a destination.
//!
//! ```text
//! source ─→ receiver ─→ R, A (files) ─→ replay ─→ destination
//!             │ a thread of its own       └ the same that sends files
//!             └ never waits for the replay
//! ```
//!
//! The files are all that is between both: what one of them has done survives the other, and the program.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::command::encode::{OnExist, Settings};
use redis_migration::command::target::{Dialect, Target};
use redis_migration::file::Disk;
use redis_migration::input::{OpenOptions, Source};
use redis_migration::pipeline::{Progress, Stream};
use redis_migration::replay::{Checkpoint, Keeper};
use redis_migration::replica::receive::{self, Live, Progress as Received, Said};
use redis_migration::replica::removals::{self, Behind, KeyLog, Removed, Written};
use redis_migration::replica::scan::{self, ScanOptions};
use redis_migration::replica::source::{self, SourceFound};
use redis_migration::replica::spool::{Names, Opening, Spool};
use redis_migration::server::endpoint::{Address, Endpoint, Ways};
use redis_migration::server::import;
use redis_migration::server::preflight::{self, Destination, ServerFound};
use redis_migration::sink::Sink;
use redis_migration::sink::server::{Looked, Place};
use redis_migration::tally::Reject;
use redis_migration::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{MethodArg, MigrateArgs, PresentArg, ReplayArgs, UntilArg};
use crate::job::{self, AtRest, Inputs, Wish};
use crate::outcome::Exit;
use crate::replay::{self, Attempt, Early, LiveRun, Run, Saved};
use crate::run::{self, Finish};
use crate::summary::{self, Log, Shown, Summary};
use crate::target;

/// After a signal a run that has caught up writes what it held back, and waits for the answers.
const GRACE: Duration = Duration::from_secs(20);

/// So long a run that has caught up may take to end by itself.
const WIND_DOWN: Duration = Duration::from_secs(8);

/// Between two writings of the metrics' file.
const METRICS_EVERY: Duration = Duration::from_secs(5);

/// A destination that has nothing to do is asked so often who its servers are.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Between two of the original's lines.
const SECOND: Duration = Duration::from_secs(1);

pub fn run(args: &MigrateArgs) -> Exit {
    let log = Log::new(&args.manners);
    let names = Names {
        rdb: args.spool.rdb.clone(),
        aof: args.spool.aof.clone(),
    };
    let replay = args.replay(names.checkpoint());
    let now_ms = Timestamp::now().as_millisecond();
    let usage = |text: String| {
        log.failure(&text);
        Exit::Usage
    };
    if let Err(text) = replay::check(&replay).and_then(|()| {
        // What is wrong with the flags is said before anything is connected to.
        replay.settings(now_ms, Target::default()).map(|_| ())
    }) {
        return usage(text);
    }
    if names.rdb == names.aof {
        return usage("--rdb and --aof name the same file".to_owned());
    }
    let endpoints = target::source(&args.source, args.target.timeout.0)
        .and_then(|from| target::endpoint(&args.target).map(|to| (from, to)));
    let (from, to) = match endpoints {
        Ok((mut from, mut to)) => {
            if args.classic {
                (from.ways, to.ways) = (&Ways::ORIGINAL_SOURCE, &Ways::ORIGINAL_DESTINATION);
            }
            (from, to)
        }
        Err((text, exit)) => {
            log.failure(&text);
            return exit;
        }
    };
    let _lock = match run::prepare(&replay.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let migration = Migration {
        args,
        replay: &replay,
        names,
        from,
        to,
        log,
        started: Instant::now(),
        now_ms,
        live: Live::new(),
        failure: Mutex::default(),
        sent: Arc::default(),
        ending: AtomicBool::new(false),
        generation: AtomicU64::new(0),
        keys: Mutex::default(),
    };
    let progress = Progress::default();
    let mut watch = Watch {
        migration: &migration,
        progress: &progress,
        signalled: None,
        last: Instant::now(),
        metrics: Instant::now(),
    };
    run::supervise(
        &args.manners,
        log,
        GRACE,
        |shown, signal| watch.look(shown, signal),
        || migration.go(&progress),
    )
}

struct Migration<'a> {
    args: &'a MigrateArgs,
    replay: &'a ReplayArgs,
    names: Names,
    from: Endpoint,
    to: Endpoint,
    log: Log,
    started: Instant,
    now_ms: i64,
    live: Live,
    /// What ended the receiver.
    failure: Mutex<Option<Error>>,
    sent: Arc<Mutex<Sent>>,
    /// A signal came: what is held back is to be written, where all else is.
    ending: AtomicBool,
    /// The source's snapshot that is being sent, counted from 1.
    generation: AtomicU64,
    /// The names of what was written, once somebody has asked for them. One thread adds those of what is removed, another
    /// looks at them, and the file cannot be opened twice.
    keys: Mutex<Option<KeyLog>>,
}

/// The servers of the destination, as they were found, or as they were told to be since.
#[derive(Debug, Clone)]
struct Servers {
    dialect: Dialect,
    found: Vec<ServerFound>,
    /// When they were looked at last, and how often something had come between until then.
    looked: Instant,
    troubles: u64,
}

impl Servers {
    fn of(destination: &Destination) -> Servers {
        Servers {
            dialect: destination.dialect,
            found: destination.servers.clone(),
            looked: Instant::now(),
            troubles: 0,
        }
    }
}

/// Takes servers for what they are now, where they answer.
fn take_for_found(found: &mut [ServerFound], now: &[ServerFound]) {
    for old in found {
        if let Some(new) = now.iter().find(|new| preflight::is_in_place_of(new, old)) {
            old.clone_from(new);
        }
    }
}

/// How far the destination has acknowledged the delta.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// Whether its snapshot is acknowledged.
    in_log: bool,
    /// Whether it had caught up.
    online: bool,
    /// The segment, and bytes of it.
    seq: u64,
    offset: u64,
    /// When what stands there was received, in Unix milliseconds.
    time_ms: Option<i64>,
}

impl Migration<'_> {
    fn go<'s>(&'s self, progress: &'s Progress) -> Finish<'s> {
        let run = self.run(progress, None);
        let (destination, spool) = match self.begin(&run) {
            Ok(begun) => begun,
            Err(early) => return run.finish(early),
        };
        if self.args.target.dry_run {
            return Box::new(move |_| {
                self.log.info("dry run: nothing was received or sent");
                let to = format!("{} (dry run: nothing was sent)", self.to.address);
                run::sum_up(
                    &mut Summary::of_nothing(to),
                    Ok(0),
                    &self.replay.failures,
                    &self.args.manners,
                    Exit::Done,
                    self.started,
                    self.log,
                )
            });
        }
        let spool = spool.expect("it is opened for every other run");
        match self.args.source.method {
            MethodArg::Psync => self.by_replication(progress, destination, spool),
            MethodArg::Scan => self.by_scan(progress, destination, spool),
        }
    }

    /// Looks at both sides, and takes the files.
    fn begin(&self, run: &Run<'_>) -> std::result::Result<(Destination, Option<Spool>), Early> {
        let found = source::look(&self.from)?;
        self.log.info(&format!("{}: {found}", self.from.address));
        for warning in &found.warnings {
            self.log.warning(warning);
        }
        let destination = run.look(None)?;
        let ids = destination.servers.iter().map(|server| &server.run_id);
        if !found.run_id.is_empty() && ids.into_iter().any(|id| *id == found.run_id) {
            return Err(Error::plain(ErrorKind::Unfit(format!(
                "{} and {} are the same server",
                self.from.address, self.to.address
            )))
            .into());
        }
        self.check_databases(run, &found, &destination)?;
        if self.args.target.dry_run {
            return Ok((destination, None));
        }
        run.try_writing(&destination)?;
        let spool = Spool::open(
            self.names.clone(),
            &self.from.address.to_string(),
            Opening {
                force: self.args.spool.force,
                keep: self.args.spool.keep_spool,
            },
        )?;
        Ok((destination, Some(spool)))
    }

    /// Refuses several databases for a destination that has one, before anything is received.
    fn check_databases(
        &self,
        run: &Run<'_>,
        found: &SourceFound,
        destination: &Destination,
    ) -> std::result::Result<(), Early> {
        if !destination.dialect.single_db() {
            return Ok(());
        }
        let settings = run
            .args
            .settings(self.now_ms, Target::default())
            .map_err(|text| Early::Said(text, Exit::Usage))?;
        let others: Vec<String> = found
            .databases
            .iter()
            .filter(|(db, _)| settings.filter.chooses_db(*db) && settings.transform.db(*db) != 0)
            .map(|(db, keys)| format!("{db} ({} keys)", HumanCount(*keys)))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(Error::plain(ErrorKind::Databases(format!(
            "{} has database 0 only, and {} has keys in database {}: choose with --db N, and bring another one there with \
             --db-map N=0",
            self.to.address,
            self.from.address,
            others.join(", ")
        )))
        .into())
    }

    fn run<'s>(&'s self, progress: &'s Progress, live: Option<LiveRun<'s>>) -> Run<'s> {
        Run {
            args: self.replay,
            endpoint: self.to.clone(),
            log: self.log,
            progress,
            started: self.started,
            now_ms: self.now_ms,
            live,
        }
    }

    /// A snapshot only, read key by key.
    fn by_scan<'s>(
        &'s self,
        progress: &'s Progress,
        destination: Destination,
        spool: Spool,
    ) -> Finish<'s> {
        let run = self.run(progress, None);
        self.log.warning(
            "--method scan brings a snapshot only, the keys as they are found; what changes meanwhile is not followed, and may be missing",
        );
        let made = (|| {
            if spool.state().snapshot_bytes.is_none() {
                let report = scan::scan(
                    &ScanOptions {
                        // The name is ours.
                        force: true,
                        databases: Some(self.args.filter.db.clone()).filter(|dbs| !dbs.is_empty()),
                        ..ScanOptions::new(self.from.clone(), self.names.partial())
                    },
                    progress,
                    &mut |said| {
                        let source = self.from.address.to_string();
                        self.log.warning(&by_name(&source, said));
                    },
                )?;
                spool.finish_snapshot(report.bytes)?;
            }
            Ok::<_, Error>(())
        })();
        if let Err(error) = made {
            return run.finish(error.into());
        }
        for count in [&progress.done, &progress.total, &progress.keys] {
            count.store(0, Ordering::Relaxed);
        }
        self.generation.store(1, Ordering::Relaxed);
        let attempt = (|| {
            let known = Checkpoint::load(&self.names.checkpoint())?;
            let inputs = Inputs::open(&self.replay.input, &self.replay.logs, progress, self.log)
                .map_err(|(name, error)| Early::Failed(name, error))?;
            let rejects = run.rejects(known.as_ref())?;
            run.attempt(known, inputs, &destination, rejects, None)
        })();
        match attempt {
            Ok(attempt) => self.end(attempt, spool, self.figures(progress, true)),
            Err(early) => run.finish(early),
        }
    }

    fn by_replication<'s>(
        &'s self,
        progress: &'s Progress,
        destination: Destination,
        spool: Spool,
    ) -> Finish<'s> {
        let can_import = match self.can_import(&destination) {
            Ok(can) => can,
            Err(error) => return self.run(progress, None).finish(error.into()),
        };
        let options = receive::Options {
            endpoint: self.from.clone(),
            spool: spool.clone(),
            retry_for: Duration::from_millis(self.args.source.from_retry_for.0.max(0) as u64),
            segment_bytes: receive::SEGMENT_BYTES,
            tell: {
                let (log, source) = (self.log, self.from.address.to_string());
                Box::new(move |said| say(log, &source, said))
            },
        };
        let mut connected = false;
        let attempt = std::thread::scope(|scope| {
            let receiver = std::thread::Builder::new()
                .name("receiver".to_owned())
                .spawn_scoped(scope, || {
                    if let Err(error) = receive::run(options, &self.live) {
                        *lock(&self.failure) = Some(error);
                    }
                });
            let (due, releasing) = channel();
            let janitor_spool = spool.clone();
            scope.spawn(move || self.release(&janitor_spool, &releasing));
            let attempt = match &receiver {
                Ok(_) => self.generations(progress, &destination, can_import, &spool, due),
                Err(e) => {
                    let error = std::io::Error::new(e.kind(), e.to_string());
                    Err(Error::io("threads cannot be started", error).into())
                }
            };
            connected = self.live.progress().connected;
            self.live.stop();
            if let Ok(receiver) = receiver {
                receiver.join().expect("the receiver does not panic");
            }
            attempt
        });
        if can_import {
            self.end_import_mode(&attempt);
        }
        match attempt {
            Ok(attempt) => self.end(attempt, spool, self.figures(progress, connected)),
            Err(early) => {
                if let Err(error) = spool.remove_unused() {
                    self.log
                        .warning(&format!("{}: files stay there", error.describe(false)));
                }
                self.run(progress, None).finish(early)
            }
        }
    }

    /// Whether the destination has an import mode that is to be used. Not in a cluster: whoever takes over from a master,
    /// or takes a slot, has it off.
    fn can_import(&self, destination: &Destination) -> Result<bool> {
        if destination.dialect != Dialect::Redis || self.args.no_import_mode {
            return Ok(false);
        }
        Ok(import::state(&self.to)?.is_some())
    }

    /// Turns import mode off where all is done, and says how it is left.
    fn end_import_mode(&self, attempt: &std::result::Result<Attempt<'_>, Early>) {
        let Ok(Some(checkpoint)) = Checkpoint::load(&self.names.checkpoint()) else {
            return;
        };
        if !checkpoint.imports {
            return;
        }
        let to = &self.to.address;
        let place = match to {
            Address::Tcp { host, port } => format!("-h {host} -p {port}"),
            Address::Unix(path) => format!("-s {}", path.display()),
        };
        let off = format!("redis-cli {place} CONFIG SET import-mode no");
        let is_done = match attempt {
            Ok(Attempt::Sent(ending)) => ending.failed.is_none() || ending.settled,
            Ok(Attempt::Said(_)) => checkpoint.done,
            Err(_) => false,
        };
        if !is_done {
            self.log.warning(&format!(
                "import mode of {to} stays on, so that nothing there expires or is evicted before the same command has \
                 gone on. To leave it at that: {off}"
            ));
            return;
        }
        match import::leave(&self.to, &checkpoint.run) {
            Ok(true) => self.log.info(&format!("import mode of {to} is off")),
            Ok(false) => self.log.info(&format!(
                "import mode of {to} stays on for another run of this program, which turns it off at its end"
            )),
            Err(error) => self.log.warning(&format!(
                "import mode of {to} is still on ({error}): {off}"
            )),
        }
    }

    /// Sends the source's snapshot and what follows; where the source begins anew, so does this.
    fn generations<'s>(
        &'s self,
        progress: &'s Progress,
        destination: &Destination,
        can_import: bool,
        spool: &Spool,
        due: Sender<u64>,
    ) -> std::result::Result<Attempt<'s>, Early> {
        let known = Checkpoint::load(&self.names.checkpoint())?;
        let rejects = self.run(progress, None).rejects(known.as_ref())?;
        let mut destination = destination.clone();
        // What the run before this one looked at, of the generation that it sent.
        let mut looked: Option<(u64, Looked)> = None;
        loop {
            let generation = self.wait_for_snapshot(progress)?;
            self.generation.store(generation, Ordering::Relaxed);
            for count in [
                &progress.done,
                &progress.total,
                &progress.keys,
                &progress.commands,
            ] {
                count.store(0, Ordering::Relaxed);
            }
            let known = Checkpoint::load(&self.names.checkpoint())?;
            let was_empty = known.as_ref().map(|known| known.was_empty);
            let before = known.clone();
            let earlier = known
                .as_ref()
                .filter(|known| known.generation != generation)
                .map(|known| known.run.clone());
            let known = known.filter(|known| known.generation == generation);
            self.note_keys_before(spool, before.as_ref(), looked.take().as_ref())?;
            self.warn_of_the_time_between(known.as_ref());
            if known.is_none() && before.is_some() {
                // What was lost of an earlier snapshot comes again with this one.
                let run = self.run(progress, None);
                let (_, now) = run.changes(destination.dialect, &destination.servers, true);
                take_for_found(&mut destination.servers, &now);
            }
            let hooks_spool = spool.clone();
            let servers = Servers::of(&destination);
            let live = LiveRun {
                generation,
                was_empty,
                can_import,
                hooks: Box::new(move |settings, was_empty| job::Live {
                    earlier: earlier.clone(),
                    ..self.hooks(
                        progress,
                        hooks_spool.clone(),
                        settings.clone(),
                        was_empty,
                        servers.clone(),
                    )
                }),
                saved: self.janitor(spool, &due),
                refused: Arc::new(|reject: &Reject| match (&reject.command[..], reject.db) {
                    // It was there, and may be of others. A name above 4 KiB is cut here, and known to nobody by that.
                    ("EXISTS", Some(db)) => self.with_keys(|log| log.add_others(db, &reject.key)),
                    _ => Ok(()),
                }),
            };
            let run = self.run(progress, Some(live));
            let attempt = Inputs::open(&self.replay.input, &self.replay.logs, progress, self.log)
                .map_err(|(name, error)| Early::Failed(name, error))
                .and_then(|inputs| run.attempt(known, inputs, &destination, rejects.clone(), None));
            let failed = match &attempt {
                Ok(Attempt::Sent(ending)) => ending.failed.as_ref(),
                Ok(Attempt::Said(_)) | Err(Early::Said(..)) => None,
                Err(Early::Failed(_, error)) => Some(error),
            };
            if !failed.is_some_and(|error| self.is_superseded(generation, error)) {
                return attempt;
            }
            if self.ending.load(Ordering::Relaxed) {
                return interrupted(attempt);
            }
            if let Ok(Attempt::Sent(ending)) = attempt {
                looked = Some((generation, ending.looked));
            }
            let mut sent = lock(&self.sent);
            *sent = Sent::default();
            self.generation.store(0, Ordering::Relaxed);
            progress.stop.store(false, Ordering::Relaxed);
        }
    }

    /// Expiries that are far are true once a run has caught up: what was renewed at the source while no run was there may
    /// have ended at the destination, unless import mode was on.
    fn warn_of_the_time_between(&self, known: Option<&Checkpoint>) {
        let is_far = |known: &&Checkpoint| known.place.is_none() && known.start.is_some();
        // At its end a run turns import mode off.
        let waits = |known: &&Checkpoint| known.imports && !known.done;
        let Some(known) = known.filter(is_far).filter(|known| !waits(known)) else {
            return;
        };
        let away_ms = Timestamp::now().as_millisecond() - known.written_at.as_millisecond();
        if away_ms > job::NEAR_MS {
            self.log.warning(&format!(
                "the last run was here {} ago: keys that had less to live than that, and were renewed at the source meanwhile, \
                 may be missing at {}. Where that matters, begin anew with other names for --rdb and --aof",
                indicatif::HumanDuration(Duration::from_millis(away_ms as u64)),
                self.to.address
            ));
        }
    }

    /// Whether a run ended because the source began anew meanwhile: its files went away, and it was stopped.
    fn is_superseded(&self, generation: u64, error: &Error) -> bool {
        let by_files = match error.kind() {
            // A signal stops it too.
            ErrorKind::Stopped => !self.ending.load(Ordering::Relaxed),
            ErrorKind::Changed | ErrorKind::LogGone(_) => true,
            ErrorKind::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        if !by_files {
            return false;
        }
        // The files go first.
        let end = Instant::now() + SECOND;
        while Instant::now() < end {
            let now = self.live.progress();
            if now.generation != generation || !now.snapshot_whole {
                return true;
            }
            self.live.wait(now.changes, Duration::from_millis(50));
        }
        false
    }

    /// Waits until the receiver has a snapshot whole, and a segment for what follows; gives its number.
    fn wait_for_snapshot(&self, progress: &Progress) -> Result<u64> {
        loop {
            progress.check_stop()?;
            let now = self.live.progress();
            if let Some(error) = lock(&self.failure).take() {
                return Err(error);
            }
            if now.snapshot_whole && now.segment > 0 {
                return Ok(now.generation);
            }
            self.live.wait(now.changes, Duration::from_millis(100));
        }
    }

    /// What was written of the source's earlier snapshots is remembered, so that what is gone from it can be removed.
    /// `known`: how far the last one was sent. `looked`: which of its keys this process looked at. Where others may have
    /// keys of the same names, what was not sent is not ours; nor is it known of what another process sent and nobody
    /// acknowledged, which ends the run where the new snapshot has it.
    fn note_keys_before(
        &self,
        spool: &Spool,
        known: Option<&Checkpoint>,
        looked: Option<&(u64, Looked)>,
    ) -> Result<()> {
        let state = spool.state();
        // Where everything is kept, there may be some of which all that is gone was removed long ago.
        let of_use = |generation: u64| generation >= state.reconciled;
        if !state
            .previous
            .iter()
            .any(|previous| of_use(previous.generation))
        {
            return Ok(());
        }
        self.with_keys(|log| {
            for previous in state.previous.iter().filter(|p| of_use(p.generation)) {
                let ours_before = match known {
                    _ if self.replay.on_exist() == PresentArg::Replace => None,
                    Some(known) => self.sent_of(known, previous.generation),
                    // It is written before the first key is sent.
                    None => Some(0),
                };
                if let Some(rdb) = spool.rdb_of_previous(previous.generation) {
                    let stop = AtomicBool::new(false);
                    let source = Source::open(&rdb, &OpenOptions::default(), &stop)?;
                    let end = ours_before.unwrap_or(u64::MAX);
                    let looked = looked.filter(|(of, _)| *of == previous.generation);
                    let mut behind = looked.and_then(|(_, looked)| self.written(looked));
                    let behind = behind.as_mut().map(|behind| behind as &mut Behind<'_>);
                    log.add_snapshot_before(&source.snapshot(true)?.data, end, behind)?;
                }
                if ours_before.is_some() {
                    continue;
                }
                for segment in spool.segments_of_previous(previous.generation) {
                    log.add_log(&segment)?;
                }
            }
            log.sync()
        })?;
        for previous in &state.previous {
            spool.forget_previous(previous.generation)?;
        }
        Ok(())
    }

    /// The byte of a generation's snapshot behind which nothing is known to be ours, where it is not acknowledged in
    /// whole and the destination held keys before.
    fn sent_of(&self, known: &Checkpoint, generation: u64) -> Option<u64> {
        if known.was_empty || known.done {
            return None;
        }
        if known.generation != generation {
            // Before the checkpoint was one of another generation all that is of use was noted. Behind it nothing was sent.
            return Some(0);
        }
        match (&known.place, &known.start) {
            (Some(place), _) if !place.in_log => Some(place.offset),
            (None, None) => Some(0),
            _ => None,
        }
    }

    /// Which keys of a snapshot were written, of those that are not known to be acknowledged: the ones that were not
    /// there when they were looked at, or the run would have ended. None where none was looked at.
    fn written<'l>(&'l self, looked: &'l Looked) -> Option<impl FnMut(u64, &[u8]) -> Written + 'l> {
        let last = looked.last.as_ref()?;
        let settings = self.replay.settings(self.now_ms, Target::default()).ok()?;
        let (mut at, mut name, mut ended) = ((0, Vec::new()), Vec::new(), false);
        Some(move |db: u64, key: &[u8]| {
            if ended {
                return Written::NoMore;
            }
            settings.transform.rename(key, &mut name);
            at.0 = u32::try_from(settings.transform.db(db)).unwrap_or(u32::MAX);
            std::mem::swap(&mut at.1, &mut name);
            ended = at == *last;
            match looked.open.contains(&at) {
                true => Written::No,
                false => Written::Yes,
            }
        })
    }

    /// Does something with the names of what was written.
    fn with_keys<T>(&self, act: impl FnOnce(&mut KeyLog) -> Result<T>) -> Result<T> {
        let mut keys = lock(&self.keys);
        match &mut *keys {
            Some(log) => act(log),
            none => act(none.insert(KeyLog::open(&self.names.keys())?)),
        }
    }

    /// What is done beside the sending.
    fn hooks<'s>(
        &'s self,
        progress: &'s Progress,
        spool: Spool,
        settings: Settings,
        was_empty: bool,
        mut servers: Servers,
    ) -> job::Live<'s> {
        let replaces = was_empty || settings.on_exist == OnExist::Replace;
        let on_exist = self.replay.on_exist();
        let settings = Arc::new(settings);
        let (spool_before, settings_before) = (spool.clone(), settings.clone());
        let spool_after = spool.clone();
        let generation = self.generation.load(Ordering::Relaxed);
        // The source may begin anew at any moment, and its files are others then.
        let is_due = move |spool: &Spool| {
            let state = spool.state();
            match state.generation == generation {
                true => Ok(state.reconciled < generation),
                false => Err(Error::plain(ErrorKind::Stopped)),
            }
        };
        let mut goal = None;
        job::Live {
            earlier: None,
            before: Box::new(move |sink: &mut dyn Sink, stream: &mut Stream| {
                if replaces || !is_due(&spool_before)? {
                    return Ok(());
                }
                if matches!(on_exist, PresentArg::Skip | PresentArg::Merge) {
                    return Err(Error::plain(ErrorKind::Unfit(format!(
                        "the source gave another snapshot, and {} held keys before the first one: which of the keys there \
                         are the source's is not known with --on-exist skip or merge. Go on with --on-exist replace, or \
                         remove them and begin anew with other names for --rdb and --aof",
                        self.to.address
                    ))));
                }
                // Keys of others may be there: ours go first, so that each of the new snapshot can be looked at.
                let gone = self.with_keys(|log| {
                    removals::write_all(log, &settings_before, stream, sink, progress)
                })?;
                self.log.info(&format!(
                    "{} of the source's earlier snapshot are removed before its new one is sent",
                    removed(gone)
                ));
                Ok(())
            }),
            between: Box::new(move |sink: &mut dyn Sink, stream: &mut Stream| {
                if !replaces || !is_due(&spool)? {
                    return Ok(());
                }
                let stop = AtomicBool::new(false);
                let new = Source::open(&self.names.rdb, &OpenOptions::default(), &stop)?;
                let new = new.snapshot(true)?;
                let gone = self.with_keys(|log| {
                    removals::write_removals(log, &new.data, &settings, stream, sink, progress)
                })?;
                self.log.info(&format!(
                    "removed, because the source does not hold them any more: {}",
                    removed(gone)
                ));
                Ok(())
            }),
            reconciled: Box::new(move || {
                if is_due(&spool_after)? {
                    spool_after.set_reconciled(generation)?;
                    // What is written from now on is in the new snapshot, or behind it.
                    self.with_keys(KeyLog::clear)?;
                }
                Ok(())
            }),
            is_heard: Box::new(|| self.live.progress().connected),
            at_rest: Box::new(move |rest: &AtRest| {
                self.look_at(&mut servers, progress, rest);
                self.at_rest(rest, &mut goal)
            }),
        }
    }

    /// Warns of servers that are not those any more that were found at the start, where something has come between. A
    /// run that is online has no end at which it would be told.
    fn look_at(&self, servers: &mut Servers, progress: &Progress, rest: &AtRest) {
        // Behind a proxy nothing shows that one was away while it was not asked.
        let is_due = servers.looked.elapsed() > LOOK_EVERY || rest.troubles != servers.troubles;
        if !rest.idle || !is_due {
            return;
        }
        (servers.looked, servers.troubles) = (Instant::now(), rest.troubles);
        let run = self.run(progress, None);
        let (changes, now) = run.changes(servers.dialect, &servers.found, true);
        if changes.is_empty() {
            return;
        }
        for change in changes {
            self.log.warning(&format!(
                "{change}: what it held may be lost. Compare it with the source, or empty it and begin anew with other \
                 names for --rdb and --aof"
            ));
        }
        // It is said once.
        take_for_found(&mut servers.found, &now);
    }

    /// What is to be done where all that was received is sent.
    fn at_rest(&self, rest: &AtRest, goal: &mut Option<u64>) -> Result<Wish> {
        if let Some(seq) = rest.seq {
            self.reached(&rest.place, seq, !rest.catching_up);
        }
        let now = self.live.progress();
        let sent = *lock(&self.sent);
        let all = rest.idle && self.behind(&now, &sent) == 0;
        if let Some(error) = lock(&self.failure).take() {
            // What came before is sent; whoever reads on would wait for nothing.
            return Err(error);
        }
        if self.ending.load(Ordering::Relaxed) {
            return Ok(Wish::Stop);
        }
        if self.args.until != Some(UntilArg::CaughtUp) || rest.catching_up || !all || !now.connected
        {
            return Ok(Wish::Wait);
        }
        // All that the source had done at one moment behind the catching up.
        let goal = *goal.get_or_insert_with(|| {
            source::offset(&self.from)
                .unwrap_or(now.received)
                .max(now.received)
        });
        Ok(if now.received >= goal {
            Wish::End
        } else {
            Wish::Wait
        })
    }

    /// Takes note of how far the delta is acknowledged.
    fn reached(&self, place: &Place, seq: u64, online: bool) {
        let mut sent = lock(&self.sent);
        *sent = Sent {
            in_log: place.in_log,
            online: sent.online || online,
            seq,
            offset: place.offset,
            time_ms: place.time_ms,
        };
    }

    /// Bytes of the delta that are received and not acknowledged.
    fn behind(&self, now: &Received, sent: &Sent) -> u64 {
        let mut bytes = now.segment_bytes;
        for seq in sent.seq..now.segment {
            let path = self.names.segment(seq);
            bytes += std::fs::metadata(path).map_or(0, |meta| meta.len());
        }
        bytes.saturating_sub(sent.offset)
    }

    /// Removes segments that are not needed any more, and takes note of what they wrote.
    fn janitor<'s>(&'s self, spool: &Spool, due: &Sender<u64>) -> Arc<Saved<'s>> {
        let (spool, due) = (spool.clone(), Mutex::new(due.clone()));
        Arc::new(move |keeper: &Keeper, place: &Place| {
            let piece = keeper.checkpoint.pieces.get(place.piece as usize);
            if let Some(seq) = piece.and_then(|piece| piece.file.seq) {
                self.reached(place, seq, false);
            }
            if self.args.spool.keep_spool {
                return;
            }
            // One more stays: who goes on reads once more what was sent last.
            if let Some(seq) = keeper.goes_on_in().and_then(|seq| seq.checked_sub(1))
                && spool.segments().first().is_some_and(|first| *first < seq)
            {
                // Nobody listens any more when the run ends.
                let _ = lock(&due).send(seq);
            }
        })
    }

    /// Removes what is due, until nobody is there any more who tells what is. What cannot be removed now is tried again
    /// with what comes next, and told of once.
    fn release(&self, spool: &Spool, due: &Receiver<u64>) {
        let mut said = String::new();
        for seq in due {
            if let Err(error) = self.release_before(spool, seq) {
                let text = error.describe(false);
                if said != text {
                    self.log.warning(&format!(
                        "{text}: what was sent is not removed until that is mended"
                    ));
                    said = text;
                }
            }
        }
    }

    fn release_before(&self, spool: &Spool, seq: u64) -> Result<()> {
        for before in spool.segments().into_iter().filter(|before| *before < seq) {
            let noted = self.with_keys(|log| {
                log.add_log(&self.names.segment(before))?;
                log.sync()
            });
            // Where the source began anew meanwhile, it is gone by right.
            if noted.is_err() && spool.segments().contains(&before) {
                return noted;
            }
        }
        spool.release_before(seq)
    }

    /// What the summary tells of the source, and of how far it was followed. The receiver has ended, and the files are
    /// still there.
    fn figures(&self, progress: &Progress, connected: bool) -> Value {
        let now = self.live.progress();
        let sent = *lock(&self.sent);
        let (phase, behind_bytes, behind_seconds) = self.stage(progress, &now, &sent).figures(&now);
        let source = self.from.address.to_string();
        if !self.is_followed() {
            return json!({"source": source, "phase": PHASES[phase - 1]});
        }
        json!({
            "source": source,
            "source_version": now.source_version,
            "phase": PHASES[phase - 1],
            "connected": connected,
            "replid": now.replid,
            "source_offset": now.received,
            "source_offset_on_disk": now.synced,
            "behind_bytes": behind_bytes,
            "behind_seconds": behind_seconds,
            "snapshot_bytes": now.snapshot_bytes,
            "delta_bytes": now.delta_bytes,
            "generation": now.generation,
            "full_syncs": now.full_syncs,
            "partial_syncs": now.partial_syncs,
            "reconnects": now.reconnects,
        })
    }

    /// The last words, and what becomes of the files.
    fn end<'s>(&'s self, mut attempt: Attempt<'s>, spool: Spool, figures: Value) -> Finish<'s> {
        if let Attempt::Sent(ending) = &mut attempt {
            ending.summary.live = Some(figures);
        }
        let finish = attempt.finish();
        Box::new(move |signal| {
            let exit = finish(signal);
            if exit == Exit::Done && !self.args.spool.keep_spool {
                if let Err(error) = spool.remove() {
                    self.log.warning(&error.describe(false));
                }
            } else if exit == Exit::Done {
                self.log.info(&format!(
                    "what was received is kept in {} and {}",
                    self.names.rdb.display(),
                    self.names.aof.display()
                ));
            }
            exit
        })
    }
}

/// What was removed, for people.
fn removed(gone: Removed) -> String {
    let keys = format!("{} keys", HumanCount(gone.keys));
    match gone.libraries {
        0 => keys,
        n => format!("{keys} and {} function libraries", HumanCount(n)),
    }
}

fn say(log: Log, source: &str, said: Said) {
    match said {
        Said::Info(text) => log.info(&by_name(source, &text)),
        Said::Warning(text) => log.warning(&by_name(source, &text)),
    }
}

/// What was said of a source, with its name in front. Errors have it already.
fn by_name(source: &str, text: &str) -> String {
    match text.starts_with(source) {
        true => text.to_owned(),
        false => format!("{source}: {text}"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds it")
}

/// A signal and a new snapshot came at once: that files went away is of no interest then.
fn interrupted(
    attempt: std::result::Result<Attempt<'_>, Early>,
) -> std::result::Result<Attempt<'_>, Early> {
    let stopped = Error::plain(ErrorKind::Stopped);
    match attempt {
        Ok(Attempt::Sent(mut ending)) => {
            ending.failed = Some(stopped);
            Ok(Attempt::Sent(ending))
        }
        Err(Early::Failed(name, _)) => Err(Early::Failed(name, stopped)),
        other => other,
    }
}

/// What is looked at ten times a second.
struct Watch<'a> {
    migration: &'a Migration<'a>,
    progress: &'a Progress,
    signalled: Option<Instant>,
    last: Instant,
    metrics: Instant,
}

impl Watch<'_> {
    fn look(&mut self, shown: &mut Shown, signal: Option<i32>) {
        let migration = self.migration;
        let now = migration.live.progress();
        let sent = lock(&migration.sent);
        if signal.is_some() {
            migration.ending.store(true, Ordering::Relaxed);
            let since = self.signalled.get_or_insert_with(Instant::now);
            // Who has caught up writes what it held back, and ends by itself.
            if !sent.online || since.elapsed() > WIND_DOWN {
                self.progress.stop.store(true, Ordering::Relaxed);
            }
        }
        let generation = migration.generation.load(Ordering::Relaxed);
        if generation != 0 && now.generation != generation && migration.is_followed() {
            // The source begins anew: what is sent of what was before is of no use any more.
            self.progress.stop.store(true, Ordering::Relaxed);
        }
        let sent = {
            let now = *sent;
            drop(sent);
            now
        };
        let stage = migration.stage(self.progress, &now, &sent);
        if migration.args.classic {
            if self.last.elapsed() >= SECOND {
                self.last = Instant::now();
                migration.log.plain(&stage.original());
            }
        } else {
            shown.tell(stage.done(), || stage.to_string());
        }
        if let Some(path) = &migration.args.manners.metrics_file
            && self.metrics.elapsed() >= METRICS_EVERY
        {
            self.metrics = Instant::now();
            if let Err(text) = summary::replace(path, &stage.metrics(&now), Disk::Unsynced) {
                migration.log.warning(&text);
            }
        }
    }
}

/// What the phases are called.
const PHASES: [&str; 4] = ["SYNC", "RDB", "AOF", "ONLINE"];

/// Where a migration stands.
enum Stage {
    /// The snapshot is received: bytes, and how many there will be, where that is known.
    Sync(u64, Option<u64>),
    /// It is sent: bytes done and in all, keys.
    Rdb(u64, u64, u64),
    /// What was done since is sent: bytes acknowledged and received.
    Aof(u64, u64),
    /// It has caught up: bytes behind, bytes not on disk yet, seconds behind.
    Online(u64, u64, f64),
}

impl Migration<'_> {
    /// Whether what the source does is followed.
    fn is_followed(&self) -> bool {
        self.args.source.method == MethodArg::Psync
    }

    fn stage(&self, progress: &Progress, now: &Received, sent: &Sent) -> Stage {
        let generation = self.generation.load(Ordering::Relaxed);
        if generation == 0 && !self.is_followed() {
            return Stage::Sync(progress.done.load(Ordering::Relaxed), None);
        }
        if generation == 0 || self.is_followed() && !now.snapshot_whole {
            return Stage::Sync(now.snapshot_bytes, now.snapshot_total);
        }
        if !sent.in_log {
            let (done, total) = (&progress.done, &progress.total);
            return Stage::Rdb(
                done.load(Ordering::Relaxed),
                total.load(Ordering::Relaxed),
                progress.keys.load(Ordering::Relaxed),
            );
        }
        let behind = self.behind(now, sent);
        if !sent.online {
            return Stage::Aof(now.delta_bytes.saturating_sub(behind), now.delta_bytes);
        }
        let late = match sent.time_ms {
            Some(time_ms) if behind > 0 => {
                (Timestamp::now().as_millisecond() - time_ms).max(0) as f64 / 1000.0
            }
            _ => 0.0,
        };
        Stage::Online(behind, now.received.saturating_sub(now.synced), late)
    }
}

impl Stage {
    /// The line of the C program. Its last numbers were of its own buffers; here they are what is not on disk yet, and
    /// the seconds that the destination is behind.
    fn original(&self) -> String {
        match self {
            Stage::Sync(done, total) => {
                format!("   -> SYNC:{done:012}/{:012}", total.unwrap_or(0))
            }
            Stage::Rdb(done, total, _) => format!("   -> RDB:{done:012}/{total:012}"),
            Stage::Aof(done, total) => format!("   -> AOF:{done:012}/{total:012}"),
            Stage::Online(behind, unsynced, late) => {
                format!("   -> ONLINE:{behind}/{unsynced}-{late:.0}")
            }
        }
    }

    /// How much is done of how much, for a bar; of nothing where that is not known, and where there is no end.
    fn done(&self) -> (u64, u64) {
        match *self {
            Stage::Sync(done, total) => (done, total.unwrap_or(0)),
            Stage::Rdb(done, total, _) | Stage::Aof(done, total) => (done, total),
            Stage::Online(..) => (0, 0),
        }
    }

    /// The number of the phase, bytes received and not acknowledged, and their age in seconds.
    fn figures(&self, now: &Received) -> (usize, u64, f64) {
        match self {
            Stage::Sync(..) => (1, now.delta_bytes, 0.0),
            Stage::Rdb(..) => (2, now.delta_bytes, 0.0),
            Stage::Aof(done, total) => (3, total - done, 0.0),
            Stage::Online(behind, _, late) => (4, *behind, *late),
        }
    }

    fn metrics(&self, now: &Received) -> String {
        let (number, behind, late) = self.figures(now);
        summary::metrics(&[
            (
                "phase",
                "Phase of the migration: 1 SYNC, 2 RDB, 3 AOF, 4 ONLINE.",
                number as f64,
            ),
            (
                "behind_bytes",
                "Bytes received and not acknowledged by the destination.",
                behind as f64,
            ),
            ("behind_seconds", "Age of the oldest of them.", late),
            (
                "source_offset",
                "Replication offset received.",
                now.received as f64,
            ),
            (
                "source_offset_on_disk",
                "Replication offset on disk and acknowledged.",
                now.synced as f64,
            ),
            (
                "source_connected",
                "Whether the source is connected.",
                f64::from(u8::from(now.connected)),
            ),
            (
                "generation",
                "Snapshots of the source so far.",
                now.generation as f64,
            ),
        ])
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Stage::Sync(done, Some(total)) => write!(
                f,
                "SYNC: {} of {} of the snapshot received",
                HumanBytes(done),
                HumanBytes(total)
            ),
            Stage::Sync(done, None) => {
                write!(f, "SYNC: {} of the snapshot received", HumanBytes(done))
            }
            Stage::Rdb(done, total, keys) => write!(
                f,
                "RDB: {} of {} sent, {} keys",
                HumanBytes(done),
                HumanBytes(total),
                HumanCount(keys)
            ),
            Stage::Aof(done, total) => write!(
                f,
                "AOF: {} of {} acknowledged, {} behind",
                HumanBytes(done),
                HumanBytes(total),
                HumanBytes(total - done)
            ),
            Stage::Online(behind, _, late) => {
                write!(f, "ONLINE: {} behind, {late:.1} s", HumanBytes(behind))
            }
        }
    }
}
