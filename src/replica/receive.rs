//! Receives from a source until it is told to stop: the snapshot first, then everything the source writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::handshake::{Answer, Hello, PATIENCE, shake};
use super::spool::{Segment, Spool};
use super::stream::{Record, Splitter};
use super::sync::Syncer;
use super::transfer::{Check, Transfer};
use super::wire::{LOOK, Stop, Wire};
use crate::error::{Error, ErrorKind, Result};
use crate::server::connection::Connection;
use crate::server::endpoint::Endpoint;

/// A segment is followed by another one when it has so many bytes, where nothing else was said.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// An acknowledgement is sent this often, and a sign of life while the snapshot comes.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// What is new on the disk is acknowledged after so long.
const NEWS_AFTER: Duration = Duration::from_millis(200);

/// As long as the source waits for one before it sends the stream.
const FIRST_ACKS_EVERY: Duration = Duration::from_millis(100);

/// A snapshot is brought to the disk in steps of so many bytes, so that little is left to wait for at its end.
const SYNC_BYTES: u64 = 32 << 20;

/// Pauses before another connection is tried.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// How often one hears that the source is still away.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// So many snapshots in a row may come damaged, and so often may the stream break at the same place.
const DAMAGED_MOST: u32 = 3;

/// What is received, whither, and how.
pub struct Options {
    /// The source.
    pub endpoint: Endpoint,
    /// The files.
    pub spool: Spool,
    /// How long a lost source is tried to be reached again. One that loads its data is waited for until it has.
    pub retry_for: Duration,
    /// A segment is followed by another one when it has so many bytes: [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// Hears what happens. It must not wait for anything.
    pub tell: Box<dyn FnMut(Said) + Send>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

/// A sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Something went as it should.
    Info(String),
    /// Something did not.
    Warning(String),
}

/// What the receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It asks the source to be its replica, for the first time or again.
    #[default]
    Connecting,
    /// The snapshot comes.
    Snapshot,
    /// The delta comes.
    Stream,
}

/// How far the receiver is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Rises with every change of what stands here.
    pub changes: u64,
    /// What it does.
    pub phase: Phase,
    /// The generation of what it writes.
    pub generation: u64,
    /// Bytes of the snapshot that were written.
    pub snapshot_bytes: u64,
    /// Bytes that the snapshot has; none where the source does not say.
    pub snapshot_total: Option<u64>,
    /// Whether the snapshot of this generation is whole.
    pub snapshot_whole: bool,
    /// Number of the present segment; 0 before the first.
    pub segment: u64,
    /// Its length as far as it is written.
    pub segment_bytes: u64,
    /// Bytes of all segments of this generation, but for those that were released before this run.
    pub delta_bytes: u64,
    /// Replication offset up to which the delta was received, and is written.
    pub received: u64,
    /// Replication offset up to which it is on the disk; so much the source was told.
    pub synced: u64,
    /// The source's replication id.
    pub replid: String,
    /// Whether there is a connection to the source.
    pub connected: bool,
    /// When a byte came from the source last.
    pub heard: Option<Instant>,
    /// As `Redis 7.0.15`, where the source tells.
    pub source_version: Option<String>,
    /// How often the connection was lost and found again.
    pub reconnects: u64,
    /// How often the source gave another snapshot after a whole one.
    pub full_resyncs: u64,
    /// How often the source began to give a snapshot, the first one among them.
    pub full_syncs: u64,
    /// How often it went on where it was left.
    pub partial_syncs: u64,
    /// Whether the receiver has ended.
    pub ended: bool,
    /// What it ended with, unless it was told to.
    pub failure: Option<String>,
}

/// What the receiver and those who watch it share.
#[derive(Debug, Default)]
pub struct Live {
    progress: Mutex<Progress>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Live {
    /// Of a receiver that has not begun.
    pub fn new() -> Live {
        Live::default()
    }

    /// How far it is now.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Waits until it is further than when [`Progress::changes`] was this, or for so long.
    pub fn wait(&self, changes: u64, timeout: Duration) -> Progress {
        let same = |progress: &mut Progress| progress.changes == changes;
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, same);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Has the receiver end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.lock();
        change(&mut progress);
        progress.changes += 1;
        drop(progress);
        self.changed.notify_all();
    }
}

/// Receives until [`Live::stop`], or until something cannot be helped. What was received is on the disk then, and
/// another run goes on there.
///
/// Errors: the first connection fails (`Unreachable`, `Login`), the source does not let us be a replica (`Unfit`), it
/// was away for longer than [`Options::retry_for`], what it sends is damaged again and again (`Checksum`, `NotRdb`,
/// `BadLog`), or a file cannot be written (`Io`).
pub fn run(options: Options, live: &Live) -> Result<()> {
    let result = Receiver::new(options, live).and_then(|mut receiver| {
        let result = receiver.run();
        let synced = receiver.settle();
        result.and(synced)
    });
    live.set(|progress| {
        progress.connected = false;
        progress.ended = true;
        progress.failure = result.as_ref().err().map(Error::to_string);
    });
    result
}

struct Receiver<'a> {
    options: Options,
    live: &'a Live,
    syncer: Syncer,
    /// The delta that is written; none before the snapshot is whole.
    delta: Option<Delta>,
    /// Whether the source has served us once.
    served: bool,
    /// When it was lost, and from when on its absence counts.
    lost_at: Option<Instant>,
    counted_from: Instant,
    told_at: Instant,
    damaged: u32,
    /// Where the stream broke last.
    broken_at: Option<u64>,
    /// Since when the source has served us, and the pause after it is lost.
    served_at: Instant,
    pause: Duration,
}

/// The delta that is written.
struct Delta {
    segment: Segment,
    splitter: Splitter,
    replid: String,
    /// Replication offset of what was written.
    offset: u64,
    /// Bytes of the segments before the present one.
    before: u64,
    /// The time that the last `#MS:` line of this run tells.
    time_ms: Option<i64>,
}

impl Delta {
    /// Writes bytes of the source.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if !bytes.is_empty() {
            self.segment.append(bytes)?;
            self.offset += bytes.len() as u64;
        }
        Ok(())
    }
}

impl<'a> Receiver<'a> {
    fn new(options: Options, live: &'a Live) -> Result<Receiver<'a>> {
        let syncer =
            Syncer::start().map_err(|e| Error::io("no thread for writing to the disk", e))?;
        let mut receiver = Receiver {
            options,
            live,
            syncer,
            delta: None,
            served: false,
            lost_at: None,
            counted_from: Instant::now(),
            told_at: Instant::now(),
            damaged: 0,
            broken_at: None,
            served_at: Instant::now(),
            pause: PAUSE_FIRST,
        };
        receiver.go_on_with_spool()?;
        Ok(receiver)
    }

    /// Goes on where the files end, behind the last whole unit.
    fn go_on_with_spool(&mut self) -> Result<()> {
        let state = self.options.spool.state();
        self.delta = self.options.spool.resume()?.map(|resume| Delta {
            before: resume.bytes.saturating_sub(resume.segment.len),
            segment: resume.segment,
            splitter: Splitter::new(resume.db),
            replid: state.replid.clone(),
            offset: resume.offset,
            time_ms: None,
        });
        let offset = self.delta.as_ref().map_or(0, |delta| delta.offset);
        self.syncer.reset(offset).map_err(not_synced)?;
        if let Some(delta) = &self.delta {
            // An earlier run may have been killed before it was.
            self.syncer.wrote(&delta.segment.file, offset);
            self.syncer.flush().map_err(not_synced)?;
        }
        self.live.set(|progress| {
            progress.generation = state.generation;
            progress.snapshot_whole = state.snapshot_bytes.is_some();
            progress.snapshot_bytes = state.snapshot_bytes.unwrap_or(0);
            progress.snapshot_total = state.snapshot_bytes;
            progress.replid = state.replid;
        });
        self.show_delta();
        Ok(())
    }

    fn show_delta(&self) {
        let Some(delta) = &self.delta else { return };
        self.live.set(|progress| {
            progress.segment = delta.segment.seq;
            progress.segment_bytes = delta.segment.len;
            progress.delta_bytes = delta.before + delta.segment.len;
            progress.received = delta.offset;
        });
        self.show_synced();
    }

    fn show_synced(&self) {
        if let Ok(synced) = self.syncer.synced()
            && self.live.lock().synced != synced
        {
            self.live.set(|progress| progress.synced = synced);
        }
    }

    fn stopped(&self) -> bool {
        self.live.stop.load(Ordering::Relaxed)
    }

    fn tell(&mut self, said: Said) {
        (self.options.tell)(said);
    }

    /// Brings all that was written to the disk.
    fn settle(&mut self) -> Result<()> {
        let settled = self.syncer.flush().map_err(not_synced);
        if self.delta.is_some() {
            self.show_synced();
        }
        settled.and_then(|_| self.options.spool.set_settled())
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let stop = match self.serve() {
                Ok(()) | Err(Stop::Asked) => return Ok(()),
                Err(stop) => stop,
            };
            self.live.set(|progress| {
                progress.connected = false;
                progress.phase = Phase::Connecting;
            });
            let now = Instant::now();
            // It is there, and loading ends by itself, however long it takes.
            let loads = matches!(&stop, Stop::Later(said) if said.contains("LOADING"));
            let (error, why) = match stop {
                Stop::Fatal(error) if !self.served || !is_of_source(&error) => return Err(error),
                Stop::Lost(error) if !self.served => return Err(error),
                Stop::Lost(error) | Stop::Fatal(error) => {
                    let why = error.to_string();
                    (error, why)
                }
                Stop::Later(said) => {
                    let server = self.options.endpoint.address.to_string();
                    let why = format!("it cannot serve us for now; it answered {said}");
                    let error = Error::unreachable(server, why);
                    let why = error.to_string();
                    (error, why)
                }
                Stop::Asked => return Ok(()),
            };
            let lost_at = match self.lost_at {
                Some(at) => at,
                None => {
                    let span = self.options.retry_for.as_secs();
                    self.tell(Said::Warning(format!(
                        "{why}; it is tried again, for {span} s at most"
                    )));
                    self.told_at = now;
                    self.counted_from = now;
                    // A source that always throws us out again shall not be beset.
                    if self.served_at.elapsed() > ACK_EVERY {
                        self.pause = PAUSE_FIRST;
                    }
                    *self.lost_at.insert(now)
                }
            };
            if loads {
                self.counted_from = now;
            }
            let away = now.saturating_duration_since(self.counted_from);
            if away >= self.options.retry_for {
                return Err(match error.kind() {
                    ErrorKind::Unreachable { server, why } => Error::unreachable(
                        server,
                        format!("{why}; it was tried for {} s", away.as_secs()),
                    ),
                    _ => error,
                });
            }
            if self.told_at.elapsed() >= TELL_EVERY {
                self.told_at = now;
                self.tell(Said::Warning(format!(
                    "the source is away since {} s: {why}",
                    lost_at.elapsed().as_secs()
                )));
            }
            let until = now + self.pause.min(self.options.retry_for - away);
            while Instant::now() < until {
                if self.stopped() {
                    return Ok(());
                }
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
            self.pause = (self.pause * 2).min(PAUSE_MOST);
        }
    }

    /// One connection, from its beginning to its end.
    fn serve(&mut self) -> std::result::Result<(), Stop> {
        if self.stopped() {
            return Err(Stop::Asked);
        }
        let connection = Connection::open_unasked(&self.options.endpoint).map_err(|error| {
            match error.kind() {
                ErrorKind::Unreachable { .. } => Stop::Lost(error),
                _ => Stop::Fatal(error),
            }
        })?;
        let mut wire = Wire::new(connection);
        let have = self.delta.as_ref().filter(|delta| !delta.replid.is_empty());
        let have = have.map(|delta| (&delta.replid[..], delta.offset));
        let Hello { version, answer } =
            shake(&mut wire, &self.options.endpoint, have, &self.live.stop)?;
        let before = self.lost_at.take().map(|at| at.elapsed());
        let again = self.served;
        self.served = true;
        self.served_at = Instant::now();
        self.live.set(|progress| {
            progress.connected = true;
            progress.heard = Some(wire.heard);
            progress.reconnects += u64::from(again);
            if version.is_some() {
                progress.source_version = version;
            }
        });
        let back = match before {
            Some(away) if again => format!("the source is back after {} s: ", away.as_secs()),
            _ => String::new(),
        };
        let (replid, offset, announced) = match answer {
            Answer::Continue { replid } => {
                let at = match &mut self.delta {
                    Some(delta) => {
                        if let Some(replid) = replid.filter(|id| *id != delta.replid) {
                            self.options
                                .spool
                                .set_replid(&replid)
                                .map_err(Stop::Fatal)?;
                            self.live
                                .set(|progress| progress.replid.clone_from(&replid));
                            delta.replid = replid;
                        }
                        delta.offset
                    }
                    None => return Err(wire.lost("it goes on with what was not begun")),
                };
                self.live.set(|progress| progress.partial_syncs += 1);
                self.tell(Said::Info(format!(
                    "{back}it goes on at replication offset {at}"
                )));
                return self.stream(&mut wire, true, false);
            }
            Answer::Full { replid, offset } => (replid, offset, None),
            Answer::Sync { announced } => (String::new(), 0, Some(announced)),
        };
        let whole = self.options.spool.state().snapshot_bytes.is_some();
        if whole {
            self.tell(Said::Warning(format!(
                "{back}it cannot go on where it was left, and gives another snapshot"
            )));
        } else {
            self.tell(Said::Info(format!("{back}it gives a snapshot")));
        }
        self.begin(&replid, offset, whole)?;
        let acks = announced.is_none();
        let marked = self.snapshot(&mut wire, announced).inspect_err(|_| {
            // It comes whole or not at all, and a disk that is full has better use for the room.
            let _ = self.options.spool.drop_partial();
        })?;
        let segment = self
            .options
            .spool
            .create_segment(offset, 0)
            .map_err(Stop::Fatal)?;
        self.syncer
            .reset(offset)
            .map_err(not_synced)
            .map_err(Stop::Fatal)?;
        self.delta = Some(Delta {
            segment,
            splitter: Splitter::new(0),
            replid,
            offset,
            before: 0,
            time_ms: None,
        });
        self.show_delta();
        self.stream(&mut wire, acks, marked)
    }

    /// Another snapshot is on its way.
    fn begin(&mut self, replid: &str, offset: u64, whole: bool) -> std::result::Result<(), Stop> {
        self.delta = None;
        // What the source was told of is on the disk; the rest of the old history follows.
        self.syncer
            .reset(0)
            .map_err(not_synced)
            .map_err(Stop::Fatal)?;
        self.options
            .spool
            .begin(replid, offset)
            .map_err(Stop::Fatal)?;
        let generation = self.options.spool.state().generation;
        self.live.set(|progress| {
            progress.phase = Phase::Snapshot;
            progress.generation = generation;
            progress.snapshot_bytes = 0;
            progress.snapshot_total = None;
            progress.snapshot_whole = false;
            progress.segment = 0;
            progress.segment_bytes = 0;
            progress.delta_bytes = 0;
            progress.received = offset;
            progress.synced = offset;
            progress.replid = replid.to_owned();
            progress.full_resyncs += u64::from(whole);
            progress.full_syncs += 1;
        });
        Ok(())
    }

    /// Receives the snapshot. Whether a mark ended it.
    fn snapshot(
        &mut self,
        wire: &mut Wire,
        announced: Option<Vec<u8>>,
    ) -> std::result::Result<bool, Stop> {
        let signs = announced.is_none();
        let line = match announced {
            Some(line) => line,
            None => wire.line(PATIENCE, &self.live.stop)?,
        };
        let Some(mut transfer) = Transfer::announced(&line) else {
            let said = line[..line.len().min(64)].escape_ascii();
            return Err(wire.lost(&format!("a snapshot was expected, and it sent {said}")));
        };
        let marked = transfer.total().is_none();
        self.live
            .set(|progress| progress.snapshot_total = transfer.total());
        let partial = self.options.spool.names().partial();
        let file = Arc::new(self.options.spool.create_partial().map_err(Stop::Fatal)?);
        let mut check = Check::default();
        let mut synced = 0;
        let mut sign_at = Instant::now();
        wire.heard = sign_at;
        loop {
            if self.stopped() {
                return Err(Stop::Asked);
            }
            let came = !wire.bytes().is_empty() || wire.fill(None, LOOK)?;
            let now = Instant::now();
            if signs && now >= sign_at {
                wire.send_newline()?;
                sign_at = now + ACK_EVERY;
            }
            if !came {
                if wire.heard.elapsed() > PATIENCE {
                    return Err(wire.silent(PATIENCE));
                }
                continue;
            }
            let bytes = wire.bytes();
            let left = transfer
                .take(bytes, |bytes| {
                    use std::io::Write;
                    check.update(bytes);
                    (&*file).write_all(bytes).map_err(|e| {
                        Error::io(format!("{} cannot be written", partial.display()), e)
                    })
                })
                .map_err(Stop::Fatal)?;
            let used = bytes.len() - left.unwrap_or(0);
            wire.take(used);
            self.live.set(|progress| {
                progress.snapshot_bytes = check.len();
                progress.heard = Some(wire.heard);
            });
            if left.is_some() {
                break;
            }
            if check.len() - synced >= SYNC_BYTES {
                synced = check.len();
                self.syncer.wrote(&file, synced);
            }
        }
        if let Err(error) = check.finish() {
            self.damaged += 1;
            return Err(match self.damaged {
                DAMAGED_MOST.. => Stop::Fatal(error),
                _ => Stop::Lost(error),
            });
        }
        self.damaged = 0;
        // The source is told that we live, while the disk takes what is left.
        self.syncer.wrote(&file, check.len());
        while self
            .syncer
            .synced()
            .map_err(not_synced)
            .map_err(Stop::Fatal)?
            < check.len()
        {
            if self.stopped() {
                return Err(Stop::Asked);
            }
            self.syncer.urge();
            if signs && Instant::now() >= sign_at {
                wire.send_newline()?;
                sign_at = Instant::now() + ACK_EVERY;
            }
            self.syncer.pause(LOOK);
        }
        drop(file);
        self.options
            .spool
            .finish_snapshot(check.len())
            .map_err(Stop::Fatal)?;
        self.live.set(|progress| {
            progress.snapshot_whole = true;
            progress.snapshot_total = Some(check.len());
        });
        let bytes = check.len();
        self.tell(Said::Info(format!("the snapshot is whole: {bytes} bytes")));
        Ok(marked)
    }

    /// Receives the delta until the connection ends. A source that waits for our word before it sends anything is given
    /// it often.
    fn stream(
        &mut self,
        wire: &mut Wire,
        acks: bool,
        waits: bool,
    ) -> std::result::Result<(), Stop> {
        self.live.set(|progress| progress.phase = Phase::Stream);
        let mut waits = waits;
        let mut ack_at = Instant::now();
        let mut acked = (0, ack_at);
        // Where what the source wants to be told of ends.
        let mut owed: Option<u64> = None;
        wire.heard = ack_at;
        loop {
            if self.stopped() {
                return Err(Stop::Asked);
            }
            let synced = self
                .syncer
                .synced()
                .map_err(not_synced)
                .map_err(Stop::Fatal)?;
            self.show_synced();
            let now = Instant::now();
            let due = owed.is_some_and(|owed| synced >= owed);
            let news = synced > acked.0 && now >= acked.1 + NEWS_AFTER;
            if acks && (due || news || now >= ack_at) {
                wire.send(&[b"REPLCONF", b"ACK", synced.to_string().as_bytes()])?;
                acked = (synced, now);
                ack_at = now + if waits { FIRST_ACKS_EVERY } else { ACK_EVERY };
                if due {
                    owed = None;
                }
            }
            let left = ack_at
                .saturating_duration_since(now)
                .clamp(Duration::from_millis(1), LOOK);
            if wire.bytes().is_empty() && !wire.fill(Some(&self.syncer.wake), left)? {
                if wire.heard.elapsed() > PATIENCE {
                    return Err(wire.silent(PATIENCE));
                }
                continue;
            }
            waits = false;
            let getack = self.write(wire.bytes())?;
            let n = wire.bytes().len();
            wire.take(n);
            self.live.set(|progress| progress.heard = Some(wire.heard));
            if getack.is_some() {
                owed = getack;
                self.syncer.urge();
            }
        }
    }

    /// Writes bytes of the delta. Returns the replication offset behind the last GETACK in them.
    fn write(&mut self, bytes: &[u8]) -> std::result::Result<Option<u64>, Stop> {
        let now_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64);
        let Some(delta) = &mut self.delta else {
            return Ok(None);
        };
        // Between which units something of ours is written: what tells the time once, and the beginnings of segments.
        let (limit, from) = (self.options.segment_bytes, delta.offset);
        let (mut places, mut getack) = (Vec::new(), None);
        let (mut begun_at, mut len) = (0, delta.segment.len);
        let mut place = |at: usize, db: u64| {
            let full = len + (at - begun_at) as u64 >= limit;
            if full {
                (begun_at, len) = (at, 0);
            }
            if at < bytes.len() && (full || places.is_empty()) {
                places.push((at, full.then_some(db)));
            }
        };
        if delta.splitter.is_between_units() {
            place(0, delta.splitter.db());
        }
        let fed = delta.splitter.feed(bytes, |end, record, db, between| {
            if record == Record::GetAck {
                getack = Some(from + end as u64);
            }
            if between {
                place(end, db);
            }
        });
        if let Err(broken) = fed {
            let at = delta.offset;
            return Err(self.broken(at, &broken.what.to_string()));
        }
        let mut done = 0;
        for (at, full) in places {
            delta.append(&bytes[done..at]).map_err(Stop::Fatal)?;
            done = at;
            if let Some(db) = full {
                self.syncer.wrote(&delta.segment.file, delta.offset);
                let next = self.options.spool.create_segment(delta.offset, db);
                delta.before += delta.segment.len;
                delta.segment = next.map_err(Stop::Fatal)?;
                delta.time_ms = None;
            }
            // A clock that was set back is told of as well.
            if delta.time_ms != Some(now_ms) {
                let line = format!("#MS:{now_ms}\r\n");
                delta.segment.append(line.as_bytes()).map_err(Stop::Fatal)?;
                delta.time_ms = Some(now_ms);
            }
        }
        delta.append(&bytes[done..]).map_err(Stop::Fatal)?;
        self.syncer.wrote(&delta.segment.file, delta.offset);
        self.show_delta();
        Ok(getack)
    }

    /// What came is no command: what is whole stays, and the rest is asked for again.
    fn broken(&mut self, at: u64, what: &str) -> Stop {
        if let Err(error) = self.syncer.flush().map_err(not_synced) {
            return Stop::Fatal(error);
        }
        if let Err(error) = self.go_on_with_spool() {
            return Stop::Fatal(error);
        }
        let what = format!(
            "{}: what it sends behind replication offset {at} is no command: {what}",
            self.options.endpoint.address
        );
        let keeps = self.delta.as_ref().map_or(0, |delta| delta.segment.len);
        let whole = self.delta.as_ref().map(|delta| delta.offset);
        self.damaged = match self.broken_at == whole {
            true => self.damaged + 1,
            false => 1,
        };
        self.broken_at = whole;
        let error = Error::plain(ErrorKind::BadLog {
            what,
            before: None,
            keeps,
        });
        match self.damaged {
            DAMAGED_MOST.. => Stop::Fatal(error),
            _ => Stop::Lost(error),
        }
    }
}

/// Whether an error is one of the source, which may be another one after a while.
fn is_of_source(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unreachable { .. } | ErrorKind::Login { .. } | ErrorKind::Unfit(_)
    )
}

fn not_synced(error: std::io::Error) -> Error {
    Error::io("what was received cannot be brought to the disk", error)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread::JoinHandle;

    use super::super::spool::{Names, Opening};
    use super::*;
    use crate::encoding::crc64::crc64;
    use crate::resp::write::append_command;
    use crate::server::endpoint::Address;

    const ID: &str = "1111111111111111111111111111111111111111";
    const ID_2: &str = "2222222222222222222222222222222222222222";
    const MARK: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A connection to a source of which every word is written here.
    struct Fake {
        reader: BufReader<TcpStream>,
        stream: TcpStream,
        /// Send each byte by itself.
        drip: bool,
    }

    impl Fake {
        fn accept(listener: &TcpListener) -> Fake {
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("an option");
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .expect("an option");
            Fake {
                reader: BufReader::new(stream.try_clone().expect("a clone")),
                stream,
                drip: false,
            }
        }

        fn send(&mut self, bytes: impl AsRef<[u8]>) {
            let step = if self.drip { 1 } else { usize::MAX };
            for piece in bytes.as_ref().chunks(step) {
                self.stream.write_all(piece).expect("a connection");
                if self.drip {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        }

        /// The next command; signs of life are passed over.
        fn command(&mut self) -> Vec<String> {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                assert!(
                    self.reader.read_line(&mut line).expect("a line") > 0,
                    "it was closed"
                );
            }
            let argc = line
                .trim()
                .strip_prefix('*')
                .expect("a command")
                .parse()
                .expect("a number");
            let mut args = Vec::new();
            for _ in 0..argc {
                let mut line = String::new();
                self.reader.read_line(&mut line).expect("a line");
                let len: usize = line
                    .trim()
                    .strip_prefix('$')
                    .expect("a string")
                    .parse()
                    .expect("a number");
                let mut bytes = vec![0; len + 2];
                self.reader.read_exact(&mut bytes).expect("a string");
                args.push(String::from_utf8_lossy(&bytes[..len]).into_owned());
            }
            args
        }

        /// Answers all that comes before PSYNC, and gives that.
        fn greet(&mut self) -> String {
            loop {
                let command = self.command();
                match &command[0][..] {
                    "PING" => self.send("\n\n+PONG\r\n"),
                    "INFO" => {
                        self.send("\n$42\r\n# Server\r\nredis_version:7.2.4\r\nrun_id:abc\r\n\r\n")
                    }
                    "REPLCONF" => self.send("\n+OK\r\n"),
                    _ => return command.join(" "),
                }
            }
        }

        fn full_resync(&mut self, id: &str, offset: u64) {
            assert_eq!(self.greet(), "PSYNC ? -1");
            self.send(format!("\n+FULLRESYNC {id} {offset}\r\n"));
            self.send(format!("\n\n${}\r\n", snapshot().len()));
            self.send(snapshot());
        }

        /// Waits for an acknowledgement of at least so much.
        fn ack(&mut self, offset: u64) -> u64 {
            loop {
                let command = self.command();
                assert_eq!(command[..2], ["REPLCONF", "ACK"]);
                let acked = command[2].parse().expect("a number");
                if acked >= offset {
                    return acked;
                }
            }
        }
    }

    fn snapshot() -> Vec<u8> {
        let mut bytes = b"REDIS0011\xfa\x03key\x05value\xff".to_vec();
        let crc = crc64(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    fn commands(range: std::ops::Range<u32>) -> Vec<u8> {
        let mut bytes = Vec::new();
        append_command(&mut bytes, &[b"SELECT", b"0"]);
        for n in range {
            append_command(
                &mut bytes,
                &[b"SET", format!("key:{n}").as_bytes(), b"value"],
            );
        }
        bytes
    }

    /// A receiver of a source that plays a script.
    struct Scene {
        dir: tempfile::TempDir,
        live: Arc<Live>,
        spool: Spool,
        source: JoinHandle<()>,
        receiver: JoinHandle<Result<()>>,
        said: mpsc::Receiver<Said>,
    }

    fn play(script: impl FnOnce(&TcpListener) + Send + 'static) -> Scene {
        play_with(script, 1 << 20, Duration::from_secs(20))
    }

    fn play_with(
        script: impl FnOnce(&TcpListener) + Send + 'static,
        segment_bytes: u64,
        retry_for: Duration,
    ) -> Scene {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let dir = tempfile::tempdir().expect("a directory");
        let names = Names {
            rdb: dir.path().join("dump.rdb"),
            aof: dir.path().join("log.aof"),
        };
        let spool = Spool::open(names, "source:1", Opening::default()).expect("a spool");
        let live = Arc::new(Live::new());
        let (tell, said) = mpsc::channel();
        let options = Options {
            endpoint: Endpoint::new(Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port,
            }),
            spool: spool.clone(),
            retry_for,
            segment_bytes,
            tell: Box::new(move |what| drop(tell.send(what))),
        };
        let of_thread = Arc::clone(&live);
        Scene {
            dir,
            live,
            spool,
            source: std::thread::spawn(move || script(&listener)),
            receiver: std::thread::spawn(move || run(options, &of_thread)),
            said,
        }
    }

    impl Scene {
        fn until(&self, is: impl Fn(&Progress) -> bool) -> Progress {
            let end = Instant::now() + Duration::from_secs(20);
            let mut progress = self.live.progress();
            while !is(&progress) {
                assert!(Instant::now() < end, "{progress:?}");
                progress = self.live.wait(progress.changes, LOOK);
            }
            progress
        }

        /// Ends both, and gives what the receiver says and the source's bytes of this generation.
        fn end(self) -> (Result<()>, Progress, Vec<u8>, Vec<String>) {
            self.source.join().expect("the script was played");
            self.live.stop();
            let result = self.receiver.join().expect("no panic");
            let mut raw = Vec::new();
            for seq in self.spool.segments() {
                let bytes = std::fs::read(self.spool.names().segment(seq)).expect("a segment");
                let mut last = 0;
                let mut selected = false;
                let mut pieces = Vec::new();
                let fed = Splitter::with_lines(0).feed(&bytes, |end, record, _, _| {
                    let ours = record == Record::Line || !selected;
                    selected |= record != Record::Line;
                    pieces.push((last, end, ours));
                    last = end;
                });
                fed.expect("commands");
                for (from, to, ours) in pieces {
                    if !ours {
                        raw.extend(&bytes[from..to]);
                    }
                }
                raw.extend(&bytes[last..]);
            }
            let said = self
                .said
                .try_iter()
                .map(|(Said::Info(s) | Said::Warning(s))| s)
                .collect();
            drop(self.dir);
            (result, self.live.progress(), raw, said)
        }
    }

    #[test]
    fn newlines_and_single_bytes_make_no_difference() {
        let stream = commands(0..30);
        let sent = stream.clone();
        let scene = play_with(
            move |listener| {
                let mut fake = Fake::accept(listener);
                fake.drip = true;
                assert_eq!(fake.greet(), "PSYNC ? -1");
                fake.send(format!(
                    "\n\n\n+FULLRESYNC {ID} 1000\r\n\n\n$EOF:{MARK}\r\n"
                ));
                fake.send(snapshot());
                fake.send(MARK);
                assert_eq!(fake.ack(0), 1000, "a word that it is whole");
                fake.send(&sent);
                fake.ack(1000 + sent.len() as u64);
            },
            300,
            Duration::from_secs(20),
        );
        let progress = scene.until(|p| p.received == 1000 + stream.len() as u64);
        assert!(progress.segment > 3, "{progress:?}");
        assert_eq!(progress.source_version.as_deref(), Some("Redis 7.2.4"));
        assert_eq!(
            std::fs::read(&scene.spool.names().rdb).expect("it"),
            snapshot()
        );
        for seq in scene.spool.segments() {
            let text = std::fs::read(scene.spool.names().segment(seq)).expect("it");
            let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
            assert!(lines[0].starts_with(b"#redis-migration source=source:1 replid=1111"));
            assert!(lines[6].starts_with(b"#MS:1"), "{}", text.escape_ascii());
        }
        let (result, progress, raw, _) = scene.end();
        result.expect("it was told to end");
        assert!(raw == stream);
        assert_eq!(progress.received, 1000 + stream.len() as u64);
        assert_eq!(progress.synced, progress.received);
    }

    #[test]
    fn goes_on_in_the_middle_of_a_command_under_another_id() {
        let stream = commands(0..100);
        let sent = stream.clone();
        let scene = play(move |listener| {
            let mut fake = Fake::accept(listener);
            fake.full_resync(ID, 500);
            let cut = sent.len() / 2 + 3;
            fake.send(&sent[..cut]);
            fake.ack(500 + cut as u64);
            drop(fake);
            let mut fake = Fake::accept(listener);
            assert_eq!(fake.greet(), format!("PSYNC {ID} {}", 500 + cut + 1));
            fake.send(format!("\n+CONTINUE {ID_2}\r\n"));
            fake.send(&sent[cut..cut + 1]);
            fake.ack(500 + cut as u64 + 1);
            drop(fake);
            let mut fake = Fake::accept(listener);
            assert_eq!(fake.greet(), format!("PSYNC {ID_2} {}", 500 + cut + 2));
            fake.send("+CONTINUE\r\n");
            fake.send(&sent[cut + 1..]);
            fake.ack(500 + sent.len() as u64);
        });
        scene.until(|p| p.received == 500 + stream.len() as u64);
        assert_eq!(scene.spool.state().replid, ID_2);
        let (result, progress, raw, said) = scene.end();
        result.expect("it was told to end");
        assert!(raw == stream);
        assert_eq!((progress.reconnects, progress.generation), (2, 1));
        assert_eq!((progress.full_syncs, progress.partial_syncs), (1, 2));
        assert_eq!(progress.replid, ID_2);
        assert!(
            said.iter().any(|s| s.contains("the source is back")),
            "{said:?}"
        );
    }

    #[test]
    fn another_snapshot_is_another_generation() {
        let scene = play(|listener| {
            // One that is cut gives its number to the next.
            let mut fake = Fake::accept(listener);
            assert_eq!(fake.greet(), "PSYNC ? -1");
            fake.send(format!("+FULLRESYNC {ID_2} 7\r\n$100\r\nREDIS0011"));
            drop(fake);
            let mut fake = Fake::accept(listener);
            fake.full_resync(ID, 500);
            fake.send(commands(0..10));
            let at = fake.ack(501);
            drop(fake);
            let mut fake = Fake::accept(listener);
            assert_eq!(fake.greet(), format!("PSYNC {ID} {}", at + 1));
            fake.send(format!(
                "+FULLRESYNC {ID_2} 9000\r\n${}\r\n",
                snapshot().len()
            ));
            fake.send(snapshot());
            fake.send(commands(10..20));
            fake.ack(9001);
        });
        let progress = scene.until(|p| p.generation == 2 && p.received > 9000);
        assert_eq!((progress.segment, progress.full_resyncs), (3, 1));
        assert_eq!(progress.full_syncs, 3, "with the one that was cut");
        let state = scene.spool.state();
        assert_eq!(state.previous.len(), 1);
        assert_eq!(state.previous[0].segments, [1]);
        assert_eq!((&state.replid[..], state.delta_offset), (ID_2, 9000));
        let (result, _, raw, _) = scene.end();
        result.expect("it was told to end");
        assert!(raw == commands(10..20));
    }

    #[test]
    fn what_the_source_wants_to_be_told_of_is_told_at_once() {
        let (tell, told) = mpsc::channel();
        let scene = play(move |listener| {
            let mut fake = Fake::accept(listener);
            fake.full_resync(ID, 0);
            let mut offset = 0;
            let begun = Instant::now();
            for _ in 0..30 {
                let mut bytes = Vec::new();
                append_command(&mut bytes, &[b"SET", b"k", &[b'v'; 5000]]);
                append_command(&mut bytes, &[b"REPLCONF", b"GETACK", b"*"]);
                offset += bytes.len() as u64;
                fake.send(&bytes);
                fake.ack(offset);
            }
            tell.send(begun.elapsed()).expect("somebody waits");
        });
        let took = told
            .recv_timeout(Duration::from_secs(60))
            .expect("it was played");
        assert!(took < Duration::from_secs(6), "{took:?}");
        scene.end().0.expect("it was told to end");
    }

    #[test]
    fn a_source_that_is_not_ready_is_waited_for() {
        let scene = play(|listener| {
            for answer in [
                "-LOADING Redis is loading the dataset in memory\r\n",
                "-MASTERDOWN Link with MASTER is down\r\n",
            ] {
                let mut fake = Fake::accept(listener);
                assert_eq!(fake.command(), ["PING"]);
                fake.send(answer);
            }
            let mut fake = Fake::accept(listener);
            fake.greet();
            fake.send("\n-NOMASTERLINK Can't SYNC while not connected with my master\r\n");
            drop(fake);
            let mut fake = Fake::accept(listener);
            // Whoever may not ask, and whoever does not know.
            for answer in [
                "+PONG\r\n",
                "-NOPERM this user has no permissions to run the 'info' command\r\n",
            ] {
                fake.command();
                fake.send(answer);
            }
            fake.full_resync(ID, 0);
            fake.ack(0);
        });
        scene.until(|p| p.phase == Phase::Stream);
        let (result, progress, ..) = scene.end();
        result.expect("it was told to end");
        assert_eq!(progress.reconnects, 0);
    }

    /// What the receiver ends with, of a source that answers PING, INFO, REPLCONF and PSYNC like this.
    fn refused(ping: &'static str, psync: &'static [&'static str]) -> Error {
        let scene = play(move |listener| {
            let mut fake = Fake::accept(listener);
            if !ping.is_empty() {
                fake.command();
                return fake.send(ping);
            }
            fake.greet();
            for (i, answer) in psync.iter().enumerate() {
                if i > 0 {
                    assert_eq!(fake.command(), ["SYNC"]);
                }
                fake.send(answer);
            }
        });
        scene.until(|p| p.ended);
        let (result, progress, ..) = scene.end();
        let error = result.expect_err("it was refused");
        assert_eq!(progress.failure, Some(error.to_string()));
        error
    }

    #[test]
    fn refusals_end_it_at_once() {
        let error = refused("-NOAUTH Authentication required.\r\n", &[]);
        assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
        let error = refused(
            "-NOPERM this user has no permissions to run the 'ping' command\r\n",
            &[],
        );
        assert!(
            error
                .to_string()
                .contains("ACL SETUSER default +psync +replconf +ping"),
            "{error}"
        );
        let error = refused("", &["-NOPERM User x has no permissions\r\n"]);
        assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
        let error = refused("", &["-ERR command is not allowed\r\n"]);
        assert!(error.to_string().contains("--method scan"), "{error}");
        const UNKNOWN: &[&str] = &[
            "-ERR unknown command 'PSYNC'\r\n",
            "-ERR unknown command 'SYNC'\r\n",
        ];
        let error = refused("", UNKNOWN);
        assert!(matches!(error.kind(), ErrorKind::Unfit(_)), "{error}");
        let error = refused("HTTP/1.1 400 Bad Request\r\n", &[]);
        assert!(error.to_string().contains("is no Redis"), "{error}");
        let error = refused("", &["+WHAT\r\n"]);
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
        let error = refused("", &["+CONTINUE\r\n"]);
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_source_that_knows_only_sync() {
        let scene = play(|listener| {
            let mut fake = Fake::accept(listener);
            fake.greet();
            fake.send("-ERR unknown command 'PSYNC'\r\n");
            assert_eq!(fake.command(), ["SYNC"]);
            fake.send(format!("\n\n${}\r\n", snapshot().len()));
            fake.send(snapshot());
            fake.send(commands(0..10));
            // It would answer, and the answer would stand in the stream.
            fake.stream
                .set_read_timeout(Some(Duration::from_millis(1500)))
                .expect("an option");
            assert!(fake.reader.fill_buf().is_err(), "not a word");
        });
        scene.until(|p| p.received == commands(0..10).len() as u64);
        let (result, _, raw, _) = scene.end();
        result.expect("it was told to end");
        assert!(raw == commands(0..10));
    }

    #[test]
    fn a_damaged_snapshot_is_fetched_again() {
        let scene = play(|listener| {
            for times in [2, 3] {
                for _ in 0..times {
                    let mut bad = snapshot();
                    bad[12] ^= 1;
                    let mut fake = Fake::accept(listener);
                    let psync = fake.greet();
                    assert!(psync.starts_with("PSYNC"), "{psync}");
                    fake.send(format!("+FULLRESYNC {ID} 0\r\n${}\r\n", bad.len()));
                    fake.send(bad);
                }
                if times == 2 {
                    let mut fake = Fake::accept(listener);
                    fake.full_resync(ID, 10);
                    fake.ack(10);
                }
            }
        });
        scene.until(|p| p.ended);
        let (result, progress, ..) = scene.end();
        let error = result.expect_err("it gave up");
        assert!(
            matches!(error.kind(), ErrorKind::Checksum { .. }),
            "{error}"
        );
        assert!(!progress.snapshot_whole);
    }

    #[test]
    fn what_is_no_command_is_asked_for_again() {
        let scene = play(|listener| {
            let mut fake = Fake::accept(listener);
            fake.full_resync(ID, 0);
            let good = commands(0..3);
            fake.send(&good);
            fake.ack(good.len() as u64);
            fake.send("*2\r\n$3\r\nGET\r\n");
            fake.ack(good.len() as u64 + 13);
            fake.send("junk");
            for _ in 0..2 {
                drop(fake);
                fake = Fake::accept(listener);
                assert_eq!(fake.greet(), format!("PSYNC {ID} {}", good.len() + 1));
                fake.send("+CONTINUE\r\njunk");
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        scene.until(|p| p.ended);
        let (result, _, raw, _) = scene.end();
        let error = result.expect_err("it gave up");
        assert!(matches!(error.kind(), ErrorKind::BadLog { .. }), "{error}");
        assert!(raw == commands(0..3));
    }

    #[test]
    fn a_source_that_stays_away_is_given_up() {
        let scene = play_with(
            |listener| {
                let mut fake = Fake::accept(listener);
                fake.full_resync(ID, 0);
                fake.send(commands(0..3));
                fake.ack(1);
            },
            1 << 20,
            Duration::from_millis(700),
        );
        let progress = scene.until(|p| p.ended);
        assert!(progress.failure.is_some());
        let (result, _, raw, said) = scene.end();
        let error = result.expect_err("it gave up");
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
        assert!(raw == commands(0..3));
        let warned = said
            .iter()
            .filter(|s| s.contains("it is tried again"))
            .count();
        assert_eq!(warned, 1, "{said:?}");
    }

    #[test]
    fn a_source_that_is_not_there_ends_it_at_once() {
        let port = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = port.local_addr().expect("an address").port();
        let dir = tempfile::tempdir().expect("a directory");
        let names = Names {
            rdb: dir.path().join("r"),
            aof: dir.path().join("a"),
        };
        let options = Options {
            endpoint: Endpoint::new(Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port,
            }),
            spool: Spool::open(names, "s", Opening::default()).expect("a spool"),
            retry_for: Duration::from_secs(60),
            segment_bytes: SEGMENT_BYTES,
            tell: Box::new(|said| panic!("{said:?}")),
        };
        let error = run(options, &Live::new()).expect_err("nobody listens");
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_value_larger_than_the_buffer_is_written_through() {
        let mut stream = commands(0..1);
        append_command(&mut stream, &[b"SET", b"large", &vec![b'\n'; 5 << 20]]);
        stream.extend(commands(1..3));
        let sent = stream.clone();
        let scene = play(move |listener| {
            let mut fake = Fake::accept(listener);
            fake.full_resync(ID, 0);
            fake.send(&sent);
            fake.ack(sent.len() as u64);
        });
        let (result, progress, raw, _) = scene.end();
        result.expect("it was told to end");
        assert!(raw == stream);
        assert_eq!(progress.segment, 2);
    }
}
