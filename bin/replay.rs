//! `replay`: snapshots and logs → a destination.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::aof::checkpoint::escape;
use redis_migration::command::encode::{Mode, OnExist, Settings};
use redis_migration::command::target::{Dialect, Target};
use redis_migration::error::show_key;
use redis_migration::pipeline::{Checksum, Options, Progress};
use redis_migration::replay::{Checkpoint, Keeper, KnownServer};
use redis_migration::server::endpoint::{Endpoint, Ways};
use redis_migration::server::import;
use redis_migration::server::preflight::{self, Destination, Role, ServerFound, Wish};
use redis_migration::sink::file::FileSink;
use redis_migration::sink::server::{self, Looked, Place, Policy, ServerSink};
use redis_migration::tally::Reject;
use redis_migration::{Error, ErrorKind};

use crate::args::{ModeArg, PresentArg, ReplayArgs};
use crate::job::{Ended, Inputs, Job, JobArgs, Live, Output, Server, lock};
use crate::outcome::{self, Exit};
use crate::rejects::Rejects;
use crate::run::{self, Finish};
use crate::summary::{Log, Summary};
use crate::target;

/// How long a server has to answer who it is, when a run ends before its end.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// After a signal the run waits for the answers of what is on its way.
const GRACE: Duration = Duration::from_secs(15);

/// So many strings are set by one MSET.
const GATHER: usize = 16;

/// Most keys that are listed because nobody answered for them.
const UNANSWERED: usize = 10_000;

pub fn run(args: &ReplayArgs) -> Exit {
    let log = Log::new(&args.manners);
    if let Err(text) = check(args) {
        log.failure(&text);
        return Exit::Usage;
    }
    let now_ms = Timestamp::now().as_millisecond();
    // What is wrong with the flags is said before anything is connected to.
    if let Err(text) = args.settings(now_ms, Target::default()) {
        log.failure(&text);
        return Exit::Usage;
    }
    let endpoint = match target::endpoint(&args.target) {
        Ok(mut endpoint) => {
            if args.classic {
                endpoint.ways = &Ways::ORIGINAL_DESTINATION;
            }
            endpoint
        }
        Err((text, exit)) => {
            log.failure(&text);
            return exit;
        }
    };
    let _lock = match run::prepare(&args.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let started = Instant::now();
    let progress = Progress::default();
    run::supervise(&args.manners, log, GRACE, run::watch(&progress), || {
        let run = Run {
            args,
            endpoint,
            log,
            progress: &progress,
            started,
            now_ms,
            live: None,
        };
        run.go()
    })
}

/// What cannot be asked for together.
pub fn check(args: &ReplayArgs) -> Result<(), String> {
    let stdin = args.input.inputs.iter().any(|p| p == Path::new("-"));
    if args.logs.follow && args.input.inputs.len() > 1 && stdin {
        return Err("--follow needs files or directories, not stdin".to_owned());
    }
    if args.logs.checkpoint.is_some() && stdin {
        return Err(
            "--checkpoint needs files or directories: stdin cannot be read again from where it was left".to_owned(),
        );
    }
    if args.on_exist() == PresentArg::Merge && args.target.mode == ModeArg::Restore {
        return Err(
            "--on-exist merge cannot go with --mode restore, which replaces whole keys".to_owned(),
        );
    }
    Ok(())
}

/// A replay under way.
pub struct Run<'a> {
    pub args: &'a ReplayArgs,
    pub endpoint: Endpoint,
    pub log: Log,
    pub progress: &'a Progress,
    pub started: Instant,
    pub now_ms: i64,
    /// Where the inputs are still being received from a live source.
    pub live: Option<LiveRun<'a>>,
}

/// What a live source changes in a replay.
pub struct LiveRun<'a> {
    /// Which of the source's snapshots this is, counted from 1.
    pub generation: u64,
    /// Whether the destination had no keys before the first of them, where that was one before this.
    pub was_empty: Option<bool>,
    /// Whether the destination has an import mode that is to be used.
    pub can_import: bool,
    /// What is done beside, for the settings of this run.
    pub hooks: Box<Hooks<'a>>,
    /// Told whenever it was written down how far all is acknowledged.
    pub saved: Arc<Saved<'a>>,
    /// Told of each key that the destination refused.
    pub refused: Arc<Refused<'a>>,
}

/// How inputs are written to a destination.
struct Way {
    settings: Settings,
    /// In import mode.
    imports: bool,
    /// Without what would keep a broken connection from doubling commands.
    at_least_once: bool,
}

/// Makes what is done beside, for settings, and whether the destination had no keys.
pub type Hooks<'a> = dyn Fn(&Settings, bool) -> Live<'a> + Send + 'a;

/// Told how far all is acknowledged.
pub type Saved<'a> = dyn Fn(&Keeper, &Place) + Send + Sync + 'a;

/// Told of a key that was refused.
pub type Refused<'a> = dyn Fn(&Reject) -> Result<(), Error> + Send + Sync + 'a;

/// How an attempt ended.
pub enum Attempt<'a> {
    /// With nothing but words.
    Said(Finish<'a>),
    /// In the middle or at its end.
    Sent(Box<Ending<'a>>),
}

impl<'a> Attempt<'a> {
    pub fn finish(self) -> Finish<'a> {
        match self {
            Attempt::Said(finish) => finish,
            Attempt::Sent(ending) => Box::new(move |signal| ending.say(signal)),
        }
    }
}

impl<'a> Run<'a> {
    fn go(self) -> Finish<'a> {
        match self.begin() {
            Ok(attempt) => attempt.finish(),
            Err(early) => self.finish(early),
        }
    }

    /// What is said of a run that did not begin.
    pub fn finish(&self, early: Early) -> Finish<'a> {
        let (args, log, started) = (self.args, self.log, self.started);
        match early {
            Early::Said(text, exit) => Box::new(move |_| {
                log.failure(&text);
                exit
            }),
            Early::Failed(name, error) => Box::new(move |signal| {
                let (failures, manners) = (&args.failures, &args.manners);
                run::not_opened(name, &error, signal, failures, manners, started, log)
            }),
        }
    }

    /// In what the servers are not those any more that were found before, and what they are now, as far as they answer. One
    /// that does not answer at once is asked again: a connection may break here as anywhere. A run that was broken off ends
    /// soon, and leaves those that are away to the next one.
    pub fn changes(
        &self,
        dialect: Dialect,
        before: &[ServerFound],
        broken_off: bool,
    ) -> (Vec<String>, Vec<ServerFound>) {
        let mut tries = 0;
        let mut endpoint = self.endpoint.clone();
        let most = if broken_off {
            endpoint.timeout = endpoint.timeout.min(LAST_LOOK);
            2
        } else {
            10
        };
        loop {
            tries += 1;
            let (changes, now) = match preflight::servers(&endpoint, dialect, before) {
                Ok(now) if broken_off => {
                    let is_there = |old: &&ServerFound| {
                        now.iter().any(|new| preflight::is_in_place_of(new, old))
                    };
                    let there: Vec<ServerFound> = before.iter().filter(is_there).cloned().collect();
                    (preflight::restarted(&there, &now), now)
                }
                Ok(now) => (preflight::restarted(before, &now), now),
                Err(_) if broken_off => (Vec::new(), Vec::new()),
                Err(error) => {
                    let why = format!(
                        "whether the servers are still those that were loaded cannot be found out: {error}"
                    );
                    (vec![why], Vec::new())
                }
            };
            if changes.is_empty() || tries >= most {
                return (changes, now);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether values may go as commands where their payloads are refused: the user left the form open, and the input can
    /// be read again.
    fn may_change_form(&self, settings: &Settings) -> bool {
        self.args.target.mode == ModeArg::Auto
            && settings.mode == Mode::Auto
            && !self.args.input.inputs.iter().any(|p| p == Path::new("-"))
    }

    /// Goes on from where the destination refused a payload, by plain commands.
    fn by_commands(
        &self,
        reached: Checkpoint,
        destination: &Destination,
        rejects: Arc<Mutex<Rejects>>,
    ) -> Result<Attempt<'a>, Early> {
        let inputs = Inputs::open(&self.args.input, &self.args.logs, self.progress, self.log)
            .map_err(|(name, error)| Early::Failed(name, error))?;
        self.attempt(
            Some(reached),
            inputs,
            destination,
            rejects,
            Some(Mode::Commands),
        )
    }

    fn begin(&self) -> Result<Attempt<'a>, Early> {
        let (args, log) = (self.args, self.log);
        let known = match &args.logs.checkpoint {
            Some(path) => Checkpoint::load(path)?,
            None => None,
        };
        let inputs = Inputs::open(&args.input, &args.logs, self.progress, log)
            .map_err(|(name, error)| Early::Failed(name, error))?;
        let destination = self.look(Some(inputs.bytes()))?;
        let rejects = self.rejects(known.as_ref())?;
        self.attempt(known, inputs, &destination, rejects, None)
    }

    /// Finds out what the destination is, and says so.
    pub fn look(&self, bytes: Option<u64>) -> Result<Destination, Error> {
        let args = self.args;
        let destination = preflight::look(
            &self.endpoint,
            &Wish {
                dialect: args
                    .target
                    .dialect
                    .map(Into::into)
                    .or(args.classic.then_some(Dialect::Twemproxy)),
                prefer_twemproxy: args.classic && args.target.dialect.is_none(),
                proxy_stats: args
                    .target
                    .proxy_stats
                    .as_ref()
                    .map(|stats| (stats.host.clone(), stats.port)),
                bytes,
                only_reads: false,
            },
        )?;
        self.introduce(&destination);
        Ok(destination)
    }

    /// Where what cannot be written is listed.
    pub fn rejects(&self, known: Option<&Checkpoint>) -> Result<Arc<Mutex<Rejects>>, Early> {
        let args = self.args;
        Rejects::create(
            args.failures.rejects.as_deref(),
            known.is_some_and(|known| !known.done),
            args.manners.hide_keys,
            self.log,
        )
        .map(|rejects| Arc::new(Mutex::new(rejects)))
        .map_err(|text| Early::Said(text, Exit::LocalFile))
    }

    /// A run into a destination that is known by now, in the form that was asked for or in `mode`.
    pub fn attempt(
        &self,
        known: Option<Checkpoint>,
        inputs: Inputs,
        destination: &Destination,
        rejects: Arc<Mutex<Rejects>>,
        mode: Option<Mode>,
    ) -> Result<Attempt<'a>, Early> {
        let named = self.args.input.inputs.iter();
        let names: Vec<String> = named.map(|path| escape(path.as_os_str())).collect();
        if let Some(known) = &known {
            self.is_same(known, &names, destination)?;
        }
        let was_empty = self.was_empty(known.as_ref(), destination)?;
        let way = self.way(known.as_ref(), was_empty, &inputs, destination, mode)?;
        if self.args.target.dry_run {
            return Ok(Attempt::Said(self.dry_run(
                way.settings,
                inputs,
                rejects,
                destination,
            )));
        }
        if let Some(known) = known
            .as_ref()
            .filter(|known| known.done && known.start.is_none())
        {
            return self.has_ended(known, &inputs, &names);
        }
        let checkpoint = self.checkpoint(known.as_ref(), names, was_empty, destination, &way);
        let keeper = Keeper::new(
            self.args.logs.checkpoint.as_deref(),
            checkpoint,
            inputs.holds,
        );
        // A checkpoint that cannot be written is found out before the first key is sent.
        if self.args.logs.checkpoint.is_some() && known.is_none() {
            lock_keeper(&keeper).save()?;
        }
        self.try_writing(destination)?;
        let policy = match way.settings.on_exist {
            OnExist::Replace => Policy::Replace,
            _ => self.policy(),
        };
        let ours = was_empty || policy == Policy::Replace;
        let unfinished = known.as_ref().filter(|known| !known.done);
        let options = server::Options {
            on_exist: policy,
            resume: unfinished.and_then(|known| known.place).map(|at| Place {
                piece: at.piece,
                in_log: at.in_log,
                offset: at.offset,
                db: at.db,
                ..Place::default()
            }),
            resumed: unfinished.is_some(),
            doubt_before: unfinished
                .filter(|_| !ours)
                .map(|known| (known.place.map_or(0, |at| at.piece), known.sent)),
            ..self.options_of_sink(destination, &way, &keeper, &rejects)
        };
        let sink = ServerSink::connect(options, self.progress)?;
        let servers = destination.servers.iter();
        let mut server = Server::new(
            sink,
            keeper,
            known.filter(|known| !known.done || known.start.is_some()),
            ours,
            servers
                .filter_map(|server| server.representative.clone())
                .collect(),
        );
        if self.args.classic && self.live.is_none() {
            server.tell = Some(self.original_lines());
        }
        let live = self.live.as_ref();
        server.live = live.map(|live| (live.hooks)(&way.settings, was_empty));
        Ok(self.send(way.settings, inputs, rejects, server, destination))
    }

    /// Whether the destination had no keys when the first run began. Errors: it has some, and nothing was said of them.
    fn was_empty(
        &self,
        known: Option<&Checkpoint>,
        destination: &Destination,
    ) -> Result<bool, Error> {
        let empty = destination.keys_known && destination.keys == 0;
        let live = self.live.as_ref();
        // Into one destination several sources may be brought at once: there each key is looked at.
        let unsaid = known.is_none() && live.is_none() && self.args.target.on_exist.is_none();
        if !empty && destination.keys_known && unsaid {
            return Err(Error::plain(ErrorKind::Unfit(format!(
                "{} holds {} keys already, and nothing was said of them: --on-exist fail stops at the first key that is \
                 there, skip leaves such keys as they are, replace replaces them, merge adds to them",
                self.endpoint.address,
                HumanCount(destination.keys)
            ))));
        }
        Ok(known
            .map(|known| known.was_empty)
            .or(live.and_then(|live| live.was_empty))
            .unwrap_or(empty))
    }

    /// How the inputs are written to the destination.
    fn way(
        &self,
        known: Option<&Checkpoint>,
        was_empty: bool,
        inputs: &Inputs,
        destination: &Destination,
        mode: Option<Mode>,
    ) -> Result<Way, Early> {
        let args = self.args;
        let mut settings = self.settings(destination, was_empty)?;
        let is_later = self.live.as_ref().is_some_and(|live| live.generation > 1);
        if is_later && settings.on_exist == OnExist::IfNone {
            // Keys of the snapshot before this one are there, and are ours.
            settings.on_exist = OnExist::Replace;
        }
        settings.mode = mode.unwrap_or(settings.mode);
        // What an earlier run held to be expired, or held back, stays so: else its commands would have other numbers.
        let unfinished = known.filter(|known| !known.done);
        if let Some(known) = unfinished {
            settings.filter.now_ms = known.now_ms;
        }
        run::hold(&mut settings, inputs, &args.logs)
            .map_err(|text| Early::Said(text, Exit::Usage))?;
        if let Some(known) = unfinished {
            settings.transform.hold_until_ms = known.hold_until_ms.filter(|_| inputs.holds);
        }
        let imports = self.imports(unfinished)?;
        if imports {
            // Nothing that has expired is gone there.
            settings.transform.hold_until_ms = None;
        }
        let cannot_guard = destination.dialect == Dialect::Twemproxy && !destination.can_eval;
        let at_least_once = args.target.at_least_once && cannot_guard;
        if cannot_guard && !at_least_once && inputs.holds {
            return Err(Error::plain(ErrorKind::Unfit(
                "the servers behind the proxy run no scripts, and without them a broken connection may apply commands of \
                 the log twice: allow EVAL, or accept that with --at-least-once, which lists the keys in question"
                    .to_owned(),
            ))
            .into());
        }
        settings.log.guarded = destination.dialect == Dialect::Twemproxy && !at_least_once;
        Ok(Way {
            settings,
            imports,
            at_least_once,
        })
    }

    /// A run that came to its end before this one.
    fn has_ended(
        &self,
        known: &Checkpoint,
        inputs: &Inputs,
        names: &[String],
    ) -> Result<Attempt<'a>, Early> {
        if !inputs.are_those_of(known) {
            return Err(Error::plain(ErrorKind::LogGone(
                "the checkpoint is of another file, all of which is acknowledged: remove it to begin with this one"
                    .to_owned(),
            ))
            .into());
        }
        let log = self.log;
        let text = format!(
            "{}: everything in it is acknowledged already; nothing was sent",
            names.join(", ")
        );
        Ok(Attempt::Said(Box::new(move |_| {
            log.info(&text);
            Exit::Done
        })))
    }

    /// What is remembered of this run, which goes on with an earlier one where that is known.
    fn checkpoint(
        &self,
        known: Option<&Checkpoint>,
        inputs: Vec<String>,
        was_empty: bool,
        destination: &Destination,
        way: &Way,
    ) -> Checkpoint {
        Checkpoint {
            program: Checkpoint::PROGRAM.to_owned(),
            format: Checkpoint::FORMAT,
            run: known.map_or_else(new_run, |known| known.run.clone()),
            generation: self.live.as_ref().map_or(0, |live| live.generation),
            inputs,
            destination: self.endpoint.address.to_string(),
            dialect: word(destination.dialect).to_owned(),
            servers: self.servers(known, destination),
            was_empty,
            now_ms: way.settings.filter.now_ms,
            hold_until_ms: way.settings.transform.hold_until_ms,
            imports: way.imports,
            start: known.and_then(|known| known.start.clone()),
            pieces: known.map_or_else(Vec::new, |known| known.pieces.clone()),
            place: known.and_then(|known| known.place),
            sent: known.map_or(0, |known| known.sent),
            rejected: known
                .filter(|known| !known.done)
                .map_or(0, |known| known.rejected),
            done: false,
            written_at: Timestamp::now(),
        }
    }

    /// The servers of the destination when the first run began. Warns where they are not those any more.
    fn servers(&self, known: Option<&Checkpoint>, destination: &Destination) -> Vec<KnownServer> {
        // The load of a live source has an end only where nothing of it may be lost.
        let goes_on = |known: &&Checkpoint| !known.done || self.live.is_some();
        let Some(known) = known
            .filter(goes_on)
            .filter(|known| !known.servers.is_empty())
        else {
            return destination.servers.iter().map(known_server).collect();
        };
        let before = found_before(&known.servers);
        for change in self.changes(destination.dialect, &before, false).0 {
            self.log.warning(&format!(
                "{change}, since an earlier run: what that had acknowledged there may be lost"
            ));
        }
        known.servers.clone()
    }

    /// How commands are sent, by a run that begins.
    fn options_of_sink(
        &self,
        destination: &Destination,
        way: &Way,
        keeper: &Arc<Mutex<Keeper>>,
        rejects: &Arc<Mutex<Rejects>>,
    ) -> server::Options<'a> {
        let target = &self.args.target;
        let is_proxy = destination.dialect == Dialect::Twemproxy;
        let run = lock_keeper(keeper).checkpoint.run.clone();
        let before = rejected_before(keeper, rejects);
        server::Options {
            endpoint: self.endpoint.clone(),
            dialect: destination.dialect,
            slots: destination.slots.clone(),
            connections: self.connections(destination.dialect),
            window: self.window(destination.dialect),
            window_bytes: match destination.dialect {
                Dialect::Redis | Dialect::Cluster => 4 << 20,
                Dialect::Twemproxy => 2 << 20,
            },
            on_exist: Policy::default(),
            on_error: self.args.failures.on_error.into(),
            retry_for: Duration::from_millis(target.retry_for.0.max(0) as u64),
            answer_within: self.endpoint.timeout * 12,
            proxy_timeout: Duration::from_millis(target.proxy_timeout.0.max(0) as u64),
            rate: target.rate.map(|rate| rate.0),
            rate_bytes: target.rate_bytes.map(|rate| rate.0),
            imports: way.imports,
            at_least_once: way.at_least_once,
            routes: destination
                .servers
                .iter()
                .filter(|server| is_proxy && !server.run_id.is_empty())
                .filter_map(|server| Some((server.representative.clone()?, server.run_id.clone())))
                .collect(),
            run,
            resume: None,
            resumed: false,
            reject: {
                let rejects = rejects.clone();
                let refused = self.live.as_ref().map(|live| live.refused.clone());
                Box::new(move |reject: &Reject| {
                    if let Some(refused) = &refused {
                        refused(reject)?;
                    }
                    lock(&rejects).add(reject)
                })
            },
            save: {
                let keeper = keeper.clone();
                let saved = self.live.as_ref().map(|live| live.saved.clone());
                let rejects = rejects.clone();
                Box::new(move |place: &Place| {
                    let mut keeper = lock_keeper(&keeper);
                    keeper.checkpoint.rejected = before + lock(&rejects).count();
                    keeper.reach(place)?;
                    if let Some(saved) = &saved {
                        saved(&keeper, place);
                    }
                    Ok(())
                })
            },
            ahead: {
                let keeper = keeper.clone();
                Box::new(move |offset: &u64| lock_keeper(&keeper).send_up_to(*offset))
            },
            doubt_before: None,
        }
    }

    /// Whether the destination is written to in import mode. What an earlier run had begun with stays so.
    fn imports(&self, unfinished: Option<&Checkpoint>) -> Result<bool, Error> {
        let can = self.live.as_ref().is_some_and(|live| live.can_import);
        let address = &self.endpoint.address;
        let Some(known) = unfinished else {
            if can {
                self.log.info(&format!(
                    "import mode of {address} is turned on until all is done: nothing there expires or is evicted meanwhile"
                ));
            }
            return Ok(can);
        };
        if known.imports && !can {
            return Err(Error::plain(ErrorKind::Unfit(format!(
                "{address} was written to in import mode, which cannot be turned on now: allow CONFIG GET and CONFIG SET \
                 of import-mode, and leave out --no-import-mode"
            ))));
        }
        if known.imports && import::state(&self.endpoint)? == Some(false) {
            self.log.warning(&format!(
                "import mode of {address} was off since the last run, and is turned on again: keys whose time came meanwhile, \
                 and which were renewed at the source, may be missing there"
            ));
        }
        Ok(known.imports)
    }

    /// Whether the destination can be written to, and writes to where it shall.
    pub fn try_writing(&self, destination: &Destination) -> Result<(), Error> {
        let database = preflight::probe_writes(&self.endpoint, destination)?;
        match (database, self.args.target.proxy_db) {
            (Some(found), Some(wanted)) if found != wanted => {
                return Err(Error::plain(ErrorKind::Unfit(format!(
                    "{} was to write to database {wanted} of its servers, and keys land in database {found}: nutcracker \
                     0.5.0 forgets its redis_db where redis_auth is set",
                    self.endpoint.address
                ))));
            }
            (Some(found), _) if found > 0 => {
                self.log
                    .info(&format!("keys land in database {found} of its servers"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a checkpoint is of this run. Errors: in what it differs.
    fn is_same(
        &self,
        known: &Checkpoint,
        inputs: &[String],
        destination: &Destination,
    ) -> Result<(), Error> {
        let mut differs = Vec::new();
        if known.inputs != inputs {
            differs.push(format!("its inputs are {}", known.inputs.join(", ")));
        }
        if known.destination != self.endpoint.address.to_string() {
            differs.push(format!("its destination is {}", known.destination));
        }
        if known.dialect != word(destination.dialect) {
            differs.push(format!("its destination was a {}", known.dialect));
        }
        if differs.is_empty() {
            return Ok(());
        }
        let path = self
            .args
            .logs
            .checkpoint
            .as_deref()
            .unwrap_or(Path::new(""));
        Err(Error::plain(ErrorKind::BadCheckpoint {
            path: path.display().to_string(),
            why: format!("it is of another run: {}", differs.join(", ")),
        }))
    }

    fn introduce(&self, destination: &Destination) {
        self.log
            .info(&target::introduced(&self.endpoint, destination));
        for warning in &destination.warnings {
            self.log.warning(warning);
        }
    }

    fn policy(&self) -> Policy {
        match self.args.on_exist() {
            PresentArg::Fail => Policy::Fail,
            PresentArg::Skip => Policy::Skip,
            PresentArg::Replace => Policy::Replace,
            PresentArg::Merge => Policy::Merge,
        }
    }

    fn settings(&self, destination: &Destination, empty: bool) -> Result<Settings, Early> {
        let args = self.args;
        let target = Target {
            dialect: destination.dialect,
            version: args.target.target_version.or(destination.version),
            key_bytes: destination
                .key_limit
                .filter(|_| destination.dialect == Dialect::Twemproxy),
        };
        let mut settings = args
            .settings(self.now_ms, target)
            .map_err(|text| Early::Said(text, Exit::Usage))?;
        run::warn_of_merging(&settings, self.log);
        settings.on_exist = match self.policy() {
            Policy::Fail | Policy::Skip if empty => OnExist::IfNone,
            Policy::Fail | Policy::Skip => OnExist::AskFirst,
            Policy::Replace => OnExist::Replace,
            Policy::Merge => OnExist::Merge,
        };
        if settings.on_exist == OnExist::Merge {
            // A payload replaces all of a key.
            settings.mode = Mode::Commands;
        }
        settings.big_key = usize::try_from(args.target.big_key.0).unwrap_or(usize::MAX);
        settings.log.places = true;
        settings.no_modules = !destination.takes_modules;
        let transform = &settings.transform;
        // Names that may become one have to stay in order, each by itself.
        if destination.dialect == Dialect::Redis
            && !transform.renames()
            && transform.db_map.is_empty()
            && settings.on_exist != OnExist::AskFirst
        {
            settings.gather = GATHER;
        }
        Ok(settings)
    }

    fn connections(&self, dialect: Dialect) -> usize {
        let usual = match dialect {
            Dialect::Redis => 2,
            Dialect::Cluster => 1,
            Dialect::Twemproxy => 4,
        };
        self.args.connections().map_or(usual, usize::from)
    }

    fn window(&self, dialect: Dialect) -> u32 {
        if let Some(window) = self.args.target.pipeline {
            return window;
        }
        match dialect {
            Dialect::Redis => 512,
            Dialect::Cluster => 256,
            // Each command on its way costs the proxy memory that it never gives back (`benches/README.md`).
            Dialect::Twemproxy => (1024 / self.connections(dialect).max(1)).clamp(1, 256) as u32,
        }
    }

    /// The lines of the C program, for who waits for them.
    fn original_lines(&self) -> Box<dyn FnMut(&'static str, bool) + Send + 'a> {
        let (log, address) = (self.log, self.endpoint.address.to_string());
        let mut begun = Instant::now();
        let mut said = HashSet::new();
        Box::new(move |what, ended| {
            if ended {
                if said.remove(what) {
                    log.plain(&format!(
                        "{address} -> {what} migrate OK! ({}ms)",
                        begun.elapsed().as_millis()
                    ));
                }
            } else if said.insert(what) {
                begun = Instant::now();
                log.plain(&format!("{address} -> {what} migrate ..."));
            }
        })
    }

    fn job_args(&self) -> JobArgs<'a> {
        JobArgs {
            input: &self.args.input,
            logs: &self.args.logs,
            output: None,
            hide_keys: self.args.manners.hide_keys,
        }
    }

    fn options(&self) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            threads: self.args.input.threads.map_or(cores, usize::from),
            checksum: self.args.input.checksum.map_or(Checksum::First, Into::into),
            from: 0,
            replace_before: 0,
        }
    }

    /// Everything but sending.
    fn dry_run(
        &self,
        mut settings: Settings,
        inputs: Inputs,
        rejects: Arc<Mutex<Rejects>>,
        destination: &Destination,
    ) -> Finish<'a> {
        let (args, log, started) = (self.args, self.log, self.started);
        settings.log.places = false;
        let null = match FileSink::create(Path::new("/dev/null"), false) {
            Ok(null) => null,
            Err(error) => {
                let text = error.to_string();
                return Box::new(move |_| {
                    log.failure(&text);
                    Exit::LocalFile
                });
            }
        };
        let mut job = Job::new(
            self.job_args(),
            &settings,
            self.options(),
            log,
            self.progress,
            Output::File(null, None),
            rejects.clone(),
        );
        job.run(inputs);
        let Ended {
            mut summary,
            failed,
            ..
        } = job.end();
        let rejected = lock(&rejects).finish();
        summary.output = format!("{} (dry run: nothing was sent)", self.endpoint.address);
        let estimate = estimate(&summary, destination.dialect);
        Box::new(move |signal| {
            let mut exit = Exit::Done;
            if let Some(error) = failed {
                exit = signal.map_or(Exit::of(&error), Exit::Signal);
                let name = summary.inputs.last().map_or("", |input| &input.name);
                let next = outcome::next(&error, args.failures.on_error.into());
                log.failure(&format!(
                    "{name}: {}. Nothing was sent.{next}",
                    error.describe(args.manners.hide_keys)
                ));
            } else {
                log.info(&estimate);
            }
            run::sum_up(
                &mut summary,
                rejected,
                &args.failures,
                &args.manners,
                exit,
                started,
                log,
            )
        })
    }

    fn send(
        &self,
        settings: Settings,
        inputs: Inputs,
        rejects: Arc<Mutex<Rejects>>,
        server: Server<'_>,
        destination: &Destination,
    ) -> Attempt<'a> {
        let rejected_before = rejected_before(&server.keeper, &rejects);
        let mut job = Job::new(
            self.job_args(),
            &settings,
            self.options(),
            self.log,
            self.progress,
            Output::Server(Box::new(server)),
            rejects.clone(),
        );
        job.run(inputs);
        let Ended {
            mut summary,
            output,
            failed,
            settled,
        } = job.end();
        let Output::Server(server) = output else {
            unreachable!("it is what it was")
        };
        if let Some(error) = &failed
            && matches!(error.kind(), ErrorKind::PayloadVersion { .. })
            && self.may_change_form(&settings)
        {
            log_of_change(self.log, error, self.args.manners.hide_keys);
            let reached = lock_keeper(&server.keeper).checkpoint.clone();
            drop(server);
            return self
                .by_commands(reached, destination, rejects)
                .unwrap_or_else(|early| Attempt::Said(self.finish(early)));
        }
        let counts = server.sink.counts;
        summary.sent = Some((counts, failed.is_none()));
        // What the encoder wrote, a server may have refused. Of several snapshots it was the last, as far as that goes.
        let (mut existing, mut rejected) = (counts.existing, counts.rejected);
        for input in summary.inputs.iter_mut().rev() {
            let tally = &mut input.report.tally;
            for (left, count) in [
                (&mut existing, &mut tally.existing),
                (&mut rejected, &mut tally.rejected),
            ] {
                let of_this = tally.written.min(*left);
                tally.written -= of_this;
                *count += of_this;
                *left -= of_this;
            }
        }
        if let Some(input) = summary.inputs.last_mut() {
            let tally = &mut input.report.tally;
            // A key may be refused while its block is still being counted.
            tally.existing += existing;
            tally.rejected += rejected;
            tally.log.rejected += counts.rejected_of_log;
            tally.log.written = tally.log.written.saturating_sub(counts.rejected_of_log);
        }
        let unanswered = match &failed {
            Some(_) => server.sink.unanswered(UNANSWERED),
            None => Vec::new(),
        };
        let mut lost = Vec::new();
        if server.sink.failed_over() > 0 {
            lost.push(
                "a master of the cluster was replaced while it was loaded: what it had acknowledged and not yet passed on \
                 to its replica is lost"
                    .to_owned(),
            );
        }
        // Who follows a source or a log is always interrupted, and a server that has lost what it held refuses what it
        // would take otherwise.
        if failed.as_ref().is_none_or(|error| {
            matches!(error.kind(), ErrorKind::Stopped | ErrorKind::Refused { .. })
        }) {
            let before = found_before(&lock_keeper(&server.keeper).checkpoint.servers);
            let (changes, _) = self.changes(destination.dialect, &before, failed.is_some());
            lost.extend(changes);
        }
        let place = server.sink.acknowledged();
        let looked = server.sink.looked();
        drop(server);
        for (db, key) in &unanswered {
            let reject = Reject {
                db: Some(u64::from(*db)),
                key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
                type_name: String::new(),
                command: String::new(),
                error: "sent, and not answered: whether it was applied is not known".to_owned(),
            };
            // What cannot be listed is at least counted below.
            let _ = lock(&rejects).list(&reject);
        }
        let rejected = lock(&rejects).finish();
        Attempt::Sent(Box::new(Ending {
            rejected_before,
            args: self.args,
            log: self.log,
            started: self.started,
            summary,
            failed,
            settled,
            looked,
            rejected,
            unanswered,
            lost,
            is_live: self.live.is_some(),
            place,
            address: self.endpoint.address.to_string(),
        }))
    }
}

/// Why a run did not begin.
pub enum Early {
    Said(String, Exit),
    Failed(String, Error),
}

impl From<Error> for Early {
    fn from(error: Error) -> Early {
        Early::Failed(String::new(), error)
    }
}

fn log_of_change(log: Log, error: &Error, hide_keys: bool) {
    log.warning(&format!(
        "{}: from here on values go as plain commands",
        error.describe(hide_keys)
    ));
}

/// How many earlier runs rejected. This process may have gone on with what it counts in the same list.
fn rejected_before(keeper: &Mutex<Keeper>, rejects: &Mutex<Rejects>) -> u64 {
    let in_all = lock_keeper(keeper).checkpoint.rejected;
    in_all.saturating_sub(lock(rejects).count())
}

/// What a checkpoint remembers of a server.
fn known_server(found: &ServerFound) -> KnownServer {
    let key = found.representative.as_deref();
    KnownServer {
        name: found.name.clone(),
        run_id: found.run_id.clone(),
        key: key.map(|key| String::from_utf8_lossy(key).into_owned()),
    }
}

/// The servers that a checkpoint remembers.
fn found_before(known: &[KnownServer]) -> Vec<ServerFound> {
    let found = |known: &KnownServer| ServerFound {
        name: known.name.clone(),
        run_id: known.run_id.clone(),
        role: Role::Master,
        representative: known.key.clone().map(String::into_bytes),
        ..ServerFound::default()
    };
    known.iter().map(found).collect()
}

fn lock_keeper(keeper: &Mutex<Keeper>) -> std::sync::MutexGuard<'_, Keeper> {
    keeper.lock().expect("nothing panics while it holds it")
}

/// A name that no other run has.
fn new_run() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_i128(Timestamp::now().as_nanosecond());
    format!("{:016x}", hasher.finish())
}

fn word(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Redis => "redis",
        Dialect::Cluster => "cluster",
        Dialect::Twemproxy => "twemproxy",
    }
}

/// How long it would take at what servers on one machine were seen to take.
fn estimate(summary: &Summary, dialect: Dialect) -> String {
    let (commands_a_second, bytes_a_second) = match dialect {
        Dialect::Redis => (500_000.0, 200e6),
        Dialect::Cluster => (800_000.0, 300e6),
        Dialect::Twemproxy => (250_000.0, 100e6),
    };
    let commands: u64 = summary
        .inputs
        .iter()
        .map(|input| input.report.tally.commands)
        .sum();
    let seconds = (commands as f64 / commands_a_second)
        .max(summary.bytes_out as f64 / bytes_a_second)
        .max(1.0);
    format!(
        "it would send {} commands, {}: {:.0} s or more",
        HumanCount(commands),
        HumanBytes(summary.bytes_out),
        seconds
    )
}

/// The last words.
pub struct Ending<'a> {
    args: &'a ReplayArgs,
    log: Log,
    started: Instant,
    pub summary: Summary,
    pub failed: Option<Error>,
    /// As [`Ended::settled`].
    pub settled: bool,
    /// Which keys of the snapshot were looked at before they were written.
    pub looked: Looked,
    rejected: Result<u64, String>,
    /// By earlier runs of the same load, those included that came again.
    rejected_before: u64,
    unanswered: Vec<(u32, Vec<u8>)>,
    lost: Vec<String>,
    is_live: bool,
    place: Place,
    address: String,
}

impl Ending<'_> {
    pub fn say(mut self, signal: Option<i32>) -> Exit {
        let (args, log) = (self.args, self.log);
        let hide = args.manners.hide_keys;
        let mut exit = if self.summary.torn {
            Exit::Rejected
        } else {
            Exit::Done
        };
        if let Some(error) = &self.failed {
            let acknowledged = self.acknowledged();
            let again = match &args.logs.checkpoint {
                // The same words would meet the same key, or the same command.
                Some(_) if matches!(error.kind(), ErrorKind::Exists { .. } | ErrorKind::Command { .. }) => {
                    format!(
                        "With one of them the same command goes on: {}",
                        run::command_line()
                    )
                }
                Some(_) => format!("Run the same command again to go on: {}", run::command_line()),
                None => "Nothing remembers how far it came: with --checkpoint FILE the next run could go on".to_owned(),
            };
            let name = self
                .summary
                .inputs
                .last()
                .map_or(String::new(), |i| i.name.clone());
            match (error.kind(), signal) {
                (ErrorKind::Stopped, Some(signal)) => {
                    exit = Exit::Signal(signal);
                    log.failure(&format!("{name}: interrupted; {acknowledged}. {again}"));
                }
                (kind, _) => {
                    exit = Exit::of(error);
                    let next = outcome::next(error, args.failures.on_error.into());
                    // Errors of the system and of servers name them themselves.
                    let name = match kind {
                        ErrorKind::Io { .. }
                        | ErrorKind::Unreachable { .. }
                        | ErrorKind::Login { .. }
                        | ErrorKind::Exists { .. }
                        | ErrorKind::PayloadVersion { .. }
                        | ErrorKind::Lost { .. }
                        | ErrorKind::Refused { .. }
                        | ErrorKind::Unfit(_) => String::new(),
                        _ => format!("{name}: "),
                    };
                    log.failure(&format!(
                        "{name}{}. {}.{next} {again}",
                        error.describe(hide),
                        run::capital(&acknowledged)
                    ));
                }
            }
            if !self.unanswered.is_empty() {
                let shown: Vec<String> = self
                    .unanswered
                    .iter()
                    .take(5)
                    .map(|(db, key)| format!("{} in db {db}", show_key(key, hide)))
                    .collect();
                let more = self.unanswered.len().saturating_sub(shown.len());
                let more = match more {
                    0 => String::new(),
                    n => format!(" and {} more", HumanCount(n as u64)),
                };
                log.failure(&format!(
                    "sent to {} and not answered, so that nobody knows whether they were applied: {}{more}",
                    self.address,
                    shown.join(", ")
                ));
            }
        }
        if self.rejected_before > 0 {
            log.failure(&format!(
                "up to {} could not be written by earlier runs of this load, which listed them",
                HumanCount(self.rejected_before)
            ));
            if exit == Exit::Done {
                exit = Exit::Rejected;
            }
        }
        for lost in &self.lost {
            log.failure(&match (&args.logs.checkpoint, self.is_live) {
                (_, true) => format!(
                    "{lost}. Compare it with the source, or empty it and begin anew with other names for --rdb and --aof: \
                     the same command only goes on"
                ),
                (Some(path), false) => format!(
                    "{lost}. Compare it with the file, or empty it and begin anew without {}: the same command only goes on",
                    path.display()
                ),
                (None, false) => format!(
                    "{lost}. Compare it with the file, or load it again with --on-exist replace"
                ),
            });
            if exit == Exit::Done {
                exit = Exit::Rejected;
            }
        }
        run::sum_up(
            &mut self.summary,
            self.rejected,
            &args.failures,
            &args.manners,
            exit,
            self.started,
            log,
        )
    }

    fn acknowledged(&self) -> String {
        let place = &self.place;
        match (place.in_log, place.keys) {
            (false, 0) => format!(
                "{} has acknowledged nothing that can be gone on from",
                self.address
            ),
            (false, keys) => format!(
                "{} has acknowledged the first {} keys, up to byte {:#x}",
                self.address,
                HumanCount(keys),
                place.offset
            ),
            (true, _) => format!(
                "{} has acknowledged the log up to byte {:#x}",
                self.address, place.offset
            ),
        }
    }
}
