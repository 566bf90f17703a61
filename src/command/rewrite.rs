//! Commands of a log → commands that mean the same at the destination.
//!
//! The selection and the changes that hold for the keys of a snapshot hold for every key of a command. What a dialect
//! or a version does not know is put in other words where those mean exactly the same, and refused where not. Relative
//! expiries become absolute, because the log may be replayed at any time.

use super::encode::Settings;
use super::held::Held;
use super::keys::{NoKeys, for_each_key, slot};
use super::table::{Expiry, Group, Spec, lookup};
use super::target::{Dialect, Feature, TWEMPROXY_KEY_BYTES};
use crate::cursor::At;
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName, Result};
use crate::resp::parse::{Command, time_of};
use crate::resp::write::Out;
use crate::tally::{Limit, Reject, Tally};

/// How commands are read that a snapshot does not hold.
#[derive(Debug, Clone, Default)]
pub struct LogRules {
    /// Pass on commands that no known server has, as they stand.
    pub pass_unknown: bool,
}

/// Commands with more arguments than this pass as they stand or not at all.
const MOST_ARGS: u64 = 2 << 20;
/// Memory for held expiries; more go to a temporary file.
const HELD_BYTES: usize = 24 << 20;
/// Lua's `unpack` takes no more than about 8,000.
const MOST_EVAL_ARGS: usize = 5000;

/// Runs a command whose key comes first, through a proxy that does not know its name.
const RUN_KEY_FIRST: &str = "return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2))";
/// Runs a command whose key comes behind a subcommand.
const RUN_KEY_SECOND: &str = "return redis.call(ARGV[1],ARGV[2],KEYS[1],unpack(ARGV,3))";
/// PEXPIREAT … XX for servers that do not know XX yet.
const EXPIRE_IF: &str = "if redis.call('PTTL',KEYS[1])>=0 then return redis.call('PEXPIREAT',KEYS[1],ARGV[1]) end return 0";

/// What becomes of a command.
#[derive(Debug)]
pub struct Decision<'a> {
    what: What<'a>,
    effect: Effect,
    /// What is not carried, or passes with a warning.
    limit: Option<Limit>,
}

#[derive(Debug)]
enum What<'a> {
    AsIs,
    Lines(Vec<Line<'a>>),
    /// SELECT of the source.
    Select(u64),
    Drop,
    Reject(String),
    /// It belongs to a database that the destination does not have.
    OtherDb,
}

/// A command to write.
#[derive(Debug, Default)]
struct Line<'a> {
    args: Vec<Arg<'a>>,
    /// The database at the destination in which it is written, where that is not the present one's.
    db: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Arg<'a> {
    Bytes(&'a [u8]),
    /// A key, not yet renamed.
    Key(&'a [u8]),
    Int(i64),
}

/// What a command does to expiries that are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    /// Its keys, or their fields, expire at this true time; `None`: never.
    Expires(Option<i64>),
    /// Its keys are gone.
    Gone,
    Rename,
    /// To this database of the destination.
    Copy(u64),
    /// To this database of the destination.
    Move(u64),
    Swap(u64, u64),
    FlushDb,
    FlushAll,
}

impl<'a> Decision<'a> {
    fn lines(lines: Vec<Line<'a>>) -> Self {
        What::Lines(lines).into()
    }

    fn with(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Why it cannot be written, if so.
    pub fn refusal(&self) -> Option<&str> {
        match &self.what {
            What::Reject(why) => Some(why),
            What::OtherDb => Some(
                "the destination has database 0 only; choose a database with --db N and bring it there with --db-map N=0",
            ),
            _ => None,
        }
    }

    /// Whether it belongs to a database that the destination does not have.
    pub fn is_of_other_db(&self) -> bool {
        matches!(self.what, What::OtherDb)
    }

    /// Whether it is a SELECT: where the commands behind it belong.
    pub fn selects(&self) -> Option<u64> {
        match self.what {
            What::Select(db) => Some(db),
            _ => None,
        }
    }

    /// Whether something is written for it.
    pub fn is_written(&self) -> bool {
        matches!(self.what, What::AsIs | What::Lines(_))
    }
}

impl<'a> From<What<'a>> for Decision<'a> {
    fn from(what: What<'a>) -> Self {
        Decision {
            what,
            effect: Effect::None,
            limit: None,
        }
    }
}

fn reject<'a>(why: impl Into<String>) -> Decision<'a> {
    What::Reject(why.into()).into()
}

impl<'a> Line<'a> {
    fn new(name: &'static str) -> Self {
        Line {
            args: vec![Arg::Bytes(name.as_bytes())],
            db: None,
        }
    }

    fn key(mut self, key: &'a [u8]) -> Self {
        self.args.push(Arg::Key(key));
        self
    }

    fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.args.push(Arg::Bytes(bytes));
        self
    }

    fn int(mut self, n: i64) -> Self {
        self.args.push(Arg::Int(n));
        self
    }

    fn all(mut self, args: impl Iterator<Item = &'a [u8]>) -> Self {
        self.args.extend(args.map(Arg::Bytes));
        self
    }
}

/// Turns the commands of one log into others.
pub struct Rewriter<'s> {
    settings: &'s Settings,
    /// Expiries that are written behind the log; `None` where none is held.
    held: Option<Held>,
    /// Whether times of hash fields were ever held: what makes a key another type's voids them.
    holds_fields: bool,
    /// The database selected in the log.
    pub db: u64,
    /// The time that the log told last, in Unix milliseconds.
    pub time_ms: Option<i64>,
    /// The time that relative expiries count from where the log does not tell its own.
    pub clock_ms: Option<i64>,
    /// Counts of commands.
    pub tally: Tally,
    /// Nothing is chosen, renamed or put in other words: most commands pass as they stand.
    open: bool,
    /// Expiries before this time wait, and are written as this time for now.
    hold_until_ms: Option<i64>,
    renamed: Vec<u8>,
}

/// An expiry in a command.
struct Timed {
    /// Index of the time; of the option word before it for options.
    at: usize,
    /// The true time at the destination; `None` where expiries are left out.
    true_ms: Option<i64>,
    /// Whether the time stands there in Unix milliseconds already.
    absolute_ms: bool,
}

impl<'s> Rewriter<'s> {
    /// For a destination as `settings` has it.
    /// With `transform.hold_until_ms`, expiries are held until [`settle`](Self::settle).
    pub fn new(settings: &'s Settings) -> Self {
        let dialect = settings.target.dialect;
        Rewriter {
            settings,
            held: settings
                .transform
                .hold_until_ms
                .map(|_| Held::new(HELD_BYTES)),
            holds_fields: false,
            hold_until_ms: settings.transform.hold_until_ms,
            db: 0,
            time_ms: None,
            clock_ms: None,
            tally: Tally::default(),
            open: dialect == Dialect::Redis
                && settings.filter.is_open()
                && !settings.transform.renames()
                && settings.target.version.is_none(),
            renamed: Vec::new(),
        }
    }

    /// Whether a command of this name and number of arguments passes as it stands, whatever its arguments are.
    #[inline]
    pub fn passes(&self, name: &[u8], argc: u64) -> bool {
        if !self.open {
            return false;
        }
        // The most common command, and the only one with options that most often comes without.
        if let [b's' | b'S', b'e' | b'E', b't' | b'T'] = name {
            return argc == 3 && !self.holds_fields;
        }
        lookup(name).is_some_and(|spec| {
            let held = || self.held.as_ref().is_some_and(|held| !held.is_empty());
            spec.write
                && spec.expiry == Expiry::None
                && !(self.holds_fields && of_other_type_than_hash(spec.group))
                && match spec.name {
                    "XADD" | "SPOP" | "SWAPDB" | "MOVE" | "COPY" | "RENAME" | "RENAMENX"
                    | "FLUSHALL" | "FLUSHDB" | "MIGRATE" | "FUNCTION" => false,
                    "DEL" | "UNLINK" | "GETDEL" | "PERSIST" => !held(),
                    _ => spec.subcommands.is_empty() || spec.name == "XGROUP",
                }
        })
    }

    /// What is written for a true expiry that has to wait.
    fn hold(&self, at_ms: i64) -> Option<i64> {
        self.hold_until_ms.filter(|until| at_ms < *until)
    }

    /// Whether expiries are held back at present.
    pub fn holds(&self) -> bool {
        self.hold_until_ms.is_some()
    }

    /// Takes note of a `#` line.
    pub fn hear(&mut self, line: &[u8]) {
        if let Some(seconds) = time_of(line) {
            self.time_ms = Some(seconds.saturating_mul(1000));
        }
    }

    /// Counts a command that is not written although it could be.
    pub fn drop_command(&mut self, decision: &Decision<'_>, rejected: bool) {
        match decision.what {
            What::Select(_) => {}
            _ if rejected => {
                self.tally.log.read += 1;
                self.tally.log.rejected += 1;
            }
            _ => {
                self.tally.log.read += 1;
                self.tally.log.filtered += 1;
            }
        }
    }

    /// The database at the destination in which commands now belong.
    pub fn target_db(&self) -> u64 {
        self.settings.transform.db(self.db)
    }

    /// What becomes of a command in database `db` of the source.
    pub fn decide<'a>(&self, command: &Command<'a>, db: u64) -> Decision<'a> {
        let name = command.name();
        let Some(spec) = lookup(name) else {
            let settings = self.settings;
            let chooses = settings.filter.chooses_keys() || settings.transform.renames();
            let shown = shown(name);
            return if !settings.log.pass_unknown {
                reject(format!(
                    "{shown} is no command of any known server; --unknown-commands pass lets such commands pass as they stand"
                ))
            } else if chooses || settings.target.dialect.single_db() {
                reject(format!(
                    "{shown} is no command of any known server, so its keys cannot be told"
                ))
            } else if !settings.filter.chooses_db(db) {
                What::Drop.into()
            } else {
                What::AsIs.into()
            };
        };
        let spec = if spec.subcommands.is_empty() {
            spec
        } else {
            command.arg(1).and_then(|arg| spec.sub(arg)).unwrap_or(spec)
        };
        let decision = match self.without_keys(spec, command, db) {
            Some(decision) => decision,
            None => self.with_keys(spec, command, db),
        };
        let settings = self.settings;
        if matches!(decision.what, What::AsIs | What::Lines(_))
            && settings.target.dialect.single_db()
            && settings.transform.db(db) != 0
        {
            return Decision {
                what: What::OtherDb,
                ..decision
            };
        }
        decision
    }

    /// Commands that are about no key, or about all of them.
    fn without_keys<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        db: u64,
    ) -> Option<Decision<'a>> {
        let settings = self.settings;
        let (target, filter) = (&settings.target, &settings.filter);
        let single = target.dialect.single_db();
        Some(match spec.name {
            "SELECT" => match command.arg(1).and_then(decimal) {
                Some(db) if db >= 0 => What::Select(db as u64).into(),
                // A loader ignores the error that a server answers.
                _ => What::Drop.into(),
            },
            // Keep-alive and replication's own words, and messages to clients that have long gone.
            "PING" | "REPLCONF" | "PUBLISH" | "SPUBLISH" => What::Drop.into(),
            _ if spec.name.starts_with("SCRIPT") => {
                if settings.no_functions {
                    What::Drop.into()
                } else if single {
                    Decision {
                        limit: Some(Limit::Scripts),
                        ..What::Drop.into()
                    }
                } else {
                    What::AsIs.into()
                }
            }
            _ if spec.name.starts_with("FUNCTION") => {
                if settings.no_functions {
                    What::Drop.into()
                } else if target.dialect == Dialect::Twemproxy {
                    reject("twemproxy forwards no FUNCTION: load it into each server directly")
                } else if !target.has(Feature::Functions) {
                    self.unknown_there(spec)
                } else {
                    What::AsIs.into()
                }
            }
            "FLUSHALL" | "FLUSHDB" => self.flush(spec, command, db),
            "SWAPDB" => {
                let dbs = command
                    .arg(1)
                    .and_then(decimal)
                    .zip(command.arg(2).and_then(decimal));
                if single {
                    reject(format!("{} knows no SWAPDB", dialect_name(target.dialect)))
                } else if filter.chooses_keys()
                    || filter.dbs.is_some()
                    || !filter.not_dbs.is_empty()
                    || !settings.transform.db_map.is_empty()
                    || settings.transform.renames()
                {
                    reject(
                        "SWAPDB concerns all keys of two databases, and only some keys are chosen or their names or databases change",
                    )
                } else if let Some((a, b)) = dbs {
                    Decision::from(What::AsIs).with(Effect::Swap(a as u64, b as u64))
                } else {
                    What::Drop.into()
                }
            }
            _ => return None,
        })
    }

    fn flush<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (filter, transform) = (&settings.filter, &settings.transform);
        let all = spec.name == "FLUSHALL";
        if !all && !filter.chooses_db(db) {
            return What::Drop.into();
        }
        if settings.target.dialect.single_db() {
            return reject(format!(
                "{} empties what other keys share with these, and {} cannot express it",
                spec.name,
                dialect_name(settings.target.dialect)
            ));
        }
        if filter.chooses_keys() || transform.renames() {
            return reject(format!(
                "{} concerns all keys, and only some are chosen or their names change",
                spec.name
            ));
        }
        let word = command.arg(1).filter(|word| {
            settings.target.version.is_none()
                && (word.eq_ignore_ascii_case(b"ASYNC") || word.eq_ignore_ascii_case(b"SYNC"))
        });
        let line = |name, db| {
            let line = Line {
                db,
                ..Line::new(name)
            };
            match word {
                Some(word) => line.bytes(word),
                None => line,
            }
        };
        if !all {
            return Decision::lines(vec![line("FLUSHDB", None)]).with(Effect::FlushDb);
        }
        if filter.dbs.is_none() && filter.not_dbs.is_empty() && transform.db_map.is_empty() {
            return Decision::lines(vec![line("FLUSHALL", None)]).with(Effect::FlushAll);
        }
        // Which databases there are is known only where they were named.
        let Some(dbs) = &filter.dbs else {
            return reject(
                "FLUSHALL concerns all databases, and only some are chosen or they change; name those that are wanted with --db",
            );
        };
        let mut to: Vec<u64> = dbs
            .iter()
            .filter(|db| filter.chooses_db(**db))
            .map(|db| transform.db(*db))
            .collect();
        to.sort_unstable();
        to.dedup();
        let lines = to.into_iter().map(|db| line("FLUSHDB", Some(db))).collect();
        Decision::lines(lines).with(Effect::FlushAll)
    }

    fn unknown_there<'a>(&self, spec: &Spec) -> Decision<'a> {
        let since = |name: &str, version: Option<(u16, u16, u16)>| {
            version.map(|(major, minor, _)| format!("{name} {major}.{minor}"))
        };
        let needs: Vec<String> = [since("Redis", spec.redis), since("Valkey", spec.valkey)]
            .into_iter()
            .flatten()
            .collect();
        reject(format!(
            "{} needs {}; the target is {}",
            spec.name.replace('|', " "),
            needs.join(" or "),
            self.settings.target.shown()
        ))
    }

    /// Commands that name their keys.
    fn with_keys<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (target, transform) = (&settings.target, &settings.transform);
        let mut seen = Seen::default();
        let type_name = type_name(spec.group);
        let counted = for_each_key(spec, command.args(), |_, key| {
            seen.count += 1;
            if settings.filter.chooses(db, key, type_name) {
                seen.chosen += 1;
            }
            seen.longest = seen.longest.max(key.len());
            if target.dialect.single_db() {
                seen.add_slot(&self.renamed_copy(key));
            }
        });
        if let Err(why) = counted {
            return reject(format!("{}: {why}", spec.name.replace('|', " ")));
        }
        if seen.count == 0 {
            return self.keyless(spec, command, db);
        }
        if seen.chosen == 0 {
            return What::Drop.into();
        }
        let acts = spec.write || is_script(spec.name) || spec.name == "PFCOUNT";
        if !acts {
            // Reading has no effect, and no server logs it.
            return What::Drop.into();
        }
        if transform.renames() && seen.longest > super::encode::RENAME_BYTES {
            return reject("its key is too long to be changed");
        }
        if target.dialect == Dialect::Twemproxy
            && seen.longest + transform.growth() > TWEMPROXY_KEY_BYTES
        {
            return reject(format!(
                "its key has {} bytes; twemproxy with its default mbuf size forwards {TWEMPROXY_KEY_BYTES}",
                seen.longest
            ));
        }
        let alone = match target.dialect {
            Dialect::Redis => true,
            Dialect::Cluster => seen.one_slot(),
            Dialect::Twemproxy => seen.one_key(),
        };
        let splits = matches!(
            spec.name,
            "DEL" | "UNLINK" | "TOUCH" | "MSET" | "MSETNX" | "MSETEX"
        );
        if splits
            && (seen.chosen < seen.count || !alone || spec.name == "MSETEX" || self.held.is_some())
        {
            return self.split(spec, command, db, type_name, alone);
        }
        if seen.chosen < seen.count {
            return reject(format!(
                "only {} of its {} keys are chosen, and {} cannot be split",
                seen.chosen, seen.count, spec.name
            ));
        }
        if !alone {
            return reject(format!(
                "{} with keys {} cannot be expressed for {}",
                spec.name,
                if target.dialect == Dialect::Cluster {
                    "of several slots"
                } else {
                    "that may be on several servers"
                },
                dialect_name(target.dialect)
            ));
        }
        self.one(spec, command, db)
    }

    /// Commands that could have keys and have none, or are about something else.
    fn keyless<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        if !is_script(spec.name) {
            // Whatever it is, it changes no key.
            return if spec.write {
                reject(format!("{} is not understood", spec.name))
            } else {
                What::Drop.into()
            };
        }
        let settings = self.settings;
        if settings.target.dialect.single_db() {
            return reject(format!(
                "{} without keys cannot be expressed for {}: where it belongs is not known",
                spec.name,
                dialect_name(settings.target.dialect)
            ));
        }
        if settings.filter.chooses_keys() || settings.transform.renames() {
            return reject(format!(
                "which keys {} uses cannot be told, and only some are chosen or their names change",
                spec.name
            ));
        }
        if !settings.filter.chooses_db(db) {
            return What::Drop.into();
        }
        let _ = command;
        Decision {
            limit: Some(Limit::Verbatim),
            ..What::AsIs.into()
        }
    }

    /// A command whose parts, one for each key, mean the same one after the other.
    fn split<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        db: u64,
        type_name: Option<&str>,
        alone: bool,
    ) -> Decision<'a> {
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let args: Vec<&'a [u8]> = command.args().collect();
        let mut keys: Vec<(usize, &'a [u8])> = Vec::new();
        let chosen = for_each_key(spec, args.iter().copied(), |i, key| {
            if self.settings.filter.chooses(db, key, type_name) {
                keys.push((i, key));
            }
        });
        if chosen.is_err() {
            return reject(NoKeys::Count.to_string());
        }
        match spec.name {
            "DEL" | "UNLINK" => {
                let name = if spec.name == "DEL" || !self.knows(spec) {
                    "DEL"
                } else {
                    "UNLINK"
                };
                let lines = if alone {
                    let mut line = Line::new(name);
                    line.args.extend(keys.iter().map(|(_, key)| Arg::Key(key)));
                    vec![line]
                } else {
                    keys.iter()
                        .map(|(_, key)| Line::new(name).key(key))
                        .collect()
                };
                Decision::lines(lines).with(Effect::Gone)
            }
            "TOUCH" => What::Drop.into(),
            // Both were logged because they did what they say, so no key is in the way.
            "MSET" | "MSETNX" => {
                let value = |i: usize| args.get(i + 1).copied().unwrap_or_default();
                let lines = if alone {
                    let mut line = Line::new("MSET");
                    for (i, key) in keys {
                        line = line.key(key).bytes(value(i));
                    }
                    vec![line]
                } else {
                    keys.into_iter()
                        .map(|(i, key)| Line::new("SET").key(key).bytes(value(i)))
                        .collect()
                };
                Decision::lines(lines).with(Effect::Gone)
            }
            _ => {
                let timed = match self.timed(spec, &args) {
                    Ok(timed) => timed,
                    Err(why) => return reject(why),
                };
                let keeps = args
                    .iter()
                    .rev()
                    .take(4)
                    .any(|word| word.eq_ignore_ascii_case(b"KEEPTTL"));
                let mut lines = Vec::new();
                for (i, key) in keys {
                    let value = args.get(i + 1).copied().unwrap_or_default();
                    let line = Line::new("SET").key(key).bytes(value);
                    match timed.as_ref().and_then(|timed| timed.true_ms) {
                        Some(at) => self.set_until(line, key, at, &mut lines),
                        None if keeps => {
                            if !self.settings.target.has(Feature::KeepTtl) {
                                return reject("SET … KEEPTTL needs Redis 6.0");
                            }
                            lines.push(line.bytes(b"KEEPTTL"));
                        }
                        None => lines.push(line),
                    }
                }
                let effect = match timed {
                    Some(timed) => Effect::Expires(timed.true_ms),
                    None if keeps => Effect::None,
                    None => Effect::Gone,
                };
                Decision::lines(lines).with(effect)
            }
        }
    }

    fn knows(&self, spec: &Spec) -> bool {
        self.settings.target.knows(spec.redis, spec.valkey)
    }

    /// A command that goes to one place, with all of its keys.
    fn one<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (target, transform) = (&settings.target, &settings.transform);
        let dialect = target.dialect;
        let mut effect = Effect::None;
        let mut limit = None;
        match spec.name {
            "DEL" | "UNLINK" | "GETDEL" | "PERSIST" => effect = Effect::Gone,
            "RENAME" | "RENAMENX" => effect = Effect::Rename,
            "MOVE" => {
                let to = command.arg(2).and_then(decimal).filter(|to| *to >= 0);
                return match to {
                    _ if dialect.single_db() => {
                        reject(format!("{} knows no MOVE", dialect_name(dialect)))
                    }
                    Some(to) if settings.filter.chooses_db(to as u64) => {
                        let to = transform.db(to as u64);
                        let key = command.arg(1).unwrap_or_default();
                        if to == transform.db(db) {
                            // Both databases are one at the destination, and the key is there already.
                            return What::Drop.into();
                        }
                        let line = Line::new("MOVE").key(key).int(to as i64);
                        Decision::lines(vec![line]).with(Effect::Move(to))
                    }
                    Some(_) => reject("MOVE leads to a database that is not chosen"),
                    None => What::Drop.into(),
                };
            }
            "COPY" => match self.copy(command, db) {
                Ok(decision) => return decision,
                Err(to) => effect = Effect::Copy(to),
            },
            "SPOP" => limit = Some(Limit::Verbatim),
            "XADD"
                if command
                    .arg(XaddWords::of(command).id)
                    .is_some_and(|id| id.ends_with(b"*")) =>
            {
                limit = Some(Limit::Verbatim);
            }
            _ if is_script(spec.name) => limit = Some(Limit::Verbatim),
            _ => {}
        }
        let mut decision = if spec.expiry == Expiry::None {
            self.untimed(spec, command)
        } else if command.argc() > MOST_ARGS {
            reject(TOO_MANY)
        } else {
            let args: Vec<&'a [u8]> = command.args().collect();
            match self.timed(spec, &args) {
                Ok(timed) => self.with_time(spec, command, args, timed),
                Err(why) => reject(why),
            }
        };
        if effect != Effect::None {
            decision.effect = effect;
        }
        decision.limit = decision.limit.or(limit);
        if dialect == Dialect::Twemproxy {
            self.forwarded(spec, command, decision)
        } else {
            decision
        }
    }

    /// COPY: its decision, or the database at the destination to which it copies as it stands.
    fn copy<'a>(&self, command: &Command<'a>, db: u64) -> std::result::Result<Decision<'a>, u64> {
        let transform = &self.settings.transform;
        let args: Vec<&'a [u8]> = command.args().take(8).collect();
        let place = args
            .iter()
            .skip(3)
            .position(|word| word.eq_ignore_ascii_case(b"DB"));
        let Some(place) = place.map(|i| i + 4) else {
            return Err(transform.db(db));
        };
        let to = args
            .get(place)
            .copied()
            .and_then(decimal)
            .filter(|to| *to >= 0);
        let Some(to) = to.map(|to| to as u64) else {
            return Ok(What::Drop.into());
        };
        if !self.settings.filter.chooses_db(to) {
            return Ok(reject("COPY leads to a database that is not chosen"));
        }
        let to = transform.db(to);
        if self.settings.target.dialect.single_db() && to != transform.db(db) {
            return Ok(reject(
                "COPY leads to another database, and the destination has one",
            ));
        }
        if !self.settings.target.has(Feature::SetPxat) {
            return Ok(reject("COPY needs Redis 6.2"));
        }
        let mut line = Line::new("COPY").key(args[1]).key(args[2]);
        line = line.bytes(b"DB").int(to as i64);
        if args
            .iter()
            .skip(3)
            .any(|word| word.eq_ignore_ascii_case(b"REPLACE"))
        {
            line = line.bytes(b"REPLACE");
        }
        Ok(Decision::lines(vec![line]).with(Effect::Copy(to)))
    }

    /// A command without an expiry, in the words of the target's version.
    fn untimed<'a>(&self, spec: &Spec, command: &Command<'a>) -> Decision<'a> {
        let target = &self.settings.target;
        let args = || command.args();
        let dropped = |words: &[(&[u8], usize)]| self.without_options(spec, command, words);
        match spec.name {
            "UNLINK" if !self.knows(spec) => self.renamed_to("DEL", spec, command),
            "GETDEL" if !self.knows(spec) => self.renamed_to("DEL", spec, command),
            "HSET" if command.argc() > 4 && !target.has(Feature::HsetMany) => {
                self.renamed_to("HMSET", spec, command)
            }
            "LMOVE" if !self.knows(spec) => match args().skip(3).collect::<Vec<_>>()[..] {
                [from, to]
                    if from.eq_ignore_ascii_case(b"RIGHT") && to.eq_ignore_ascii_case(b"LEFT") =>
                {
                    let mut keys = args().skip(1).take(2);
                    let mut line = Line::new("RPOPLPUSH");
                    for key in keys.by_ref() {
                        line = line.key(key);
                    }
                    Decision::lines(vec![line])
                }
                _ => self.unknown_there(spec),
            },
            _ if !self.knows(spec) => self.unknown_there(spec),
            "XGROUP|CREATE" | "XGROUP|SETID" if !target.has(Feature::StreamCounters) => {
                dropped(&[(b"ENTRIESREAD", 1)])
            }
            "XSETID" if !target.has(Feature::StreamCounters) => {
                dropped(&[(b"ENTRIESADDED", 1), (b"MAXDELETEDID", 1)])
            }
            "XADD" => self.xadd(spec, command),
            _ => What::AsIs.into(),
        }
    }

    /// The same command without options that the target does not know: each with so many arguments behind it.
    fn without_options<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        words: &[(&[u8], usize)],
    ) -> Decision<'a> {
        let find = |bytes: &[u8]| {
            words
                .iter()
                .find(|(word, _)| bytes.eq_ignore_ascii_case(word))
        };
        if !command
            .args()
            .skip(2)
            .take(16)
            .any(|arg| find(arg).is_some())
        {
            return What::AsIs.into();
        }
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut line = Line::default();
        let mut args = self.args(spec, command).into_iter();
        while let Some(arg) = args.next() {
            if let (Arg::Bytes(bytes), true) = (arg, line.args.len() >= 2)
                && let Some((_, n)) = find(bytes)
            {
                args.by_ref().take(*n).for_each(drop);
                continue;
            }
            line.args.push(arg);
        }
        Decision {
            limit: Some(Limit::StreamCounters),
            ..Decision::lines(vec![line])
        }
    }

    /// XADD. A log has IDMP together with the id that the server chose, which only loaders take: clients say one after
    /// the other. What IDMPAUTO made of the entry is not in the log.
    fn xadd<'a>(&self, spec: &Spec, command: &Command<'a>) -> Decision<'a> {
        let words = XaddWords::of(command);
        let Some((place, count)) = words.idmp else {
            return What::AsIs.into();
        };
        let id = command.arg(words.id).unwrap_or_default();
        let knows = self.settings.target.has(Feature::Idmp);
        if knows && id.ends_with(b"*") {
            return What::AsIs.into();
        }
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut args = self.args(spec, command);
        let idmp: Vec<Arg<'a>> = args.drain(place..place + count).collect();
        let line = Line { args, db: None };
        match idmp[..] {
            [_, producer, record] if knows => {
                let mut recorded = Line::new("XIDMPRECORD").key(command.arg(1).unwrap_or_default());
                recorded.args.extend([producer, record, Arg::Bytes(id)]);
                Decision::lines(vec![line, recorded])
            }
            _ => Decision {
                limit: Some(Limit::Idmp),
                ..Decision::lines(vec![line])
            },
        }
    }

    /// The same arguments under another name.
    fn renamed_to<'a>(
        &self,
        name: &'static str,
        spec: &Spec,
        command: &Command<'a>,
    ) -> Decision<'a> {
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut line = Line {
            args: self.args(spec, command),
            db: None,
        };
        line.args[0] = Arg::Bytes(name.as_bytes());
        Decision::lines(vec![line])
    }

    /// All arguments of a command, its keys marked.
    fn args<'a>(&self, spec: &Spec, command: &Command<'a>) -> Vec<Arg<'a>> {
        let mut args: Vec<Arg<'a>> = command.args().map(Arg::Bytes).collect();
        // Its keys were found before, so they can be found.
        let _ = for_each_key(spec, command.args(), |i, key| args[i] = Arg::Key(key));
        args
    }

    /// Finds the expiry of a command; `None` where it has none.
    fn timed(&self, spec: &Spec, args: &[&[u8]]) -> std::result::Result<Option<Timed>, String> {
        let number = |i: usize| {
            args.get(i)
                .copied()
                .and_then(decimal)
                .ok_or_else(|| format!("{}: its time is no number", spec.name))
        };
        let (at, unit_ms, relative) = match spec.expiry {
            Expiry::None => return Ok(None),
            Expiry::Secs(i) => (usize::from(i), 1000, true),
            Expiry::Millis(i) => (usize::from(i), 1, true),
            Expiry::UnixSecs(i) => (usize::from(i), 1000, false),
            Expiry::UnixMillis(i) => (usize::from(i), 1, false),
            Expiry::Restore => {
                if number(2)? == 0 {
                    return Ok(None);
                }
                let absolute = args
                    .iter()
                    .skip(4)
                    .any(|word| word.eq_ignore_ascii_case(b"ABSTTL"));
                (2, 1, !absolute)
            }
            Expiry::Options(first) => match option(args, usize::from(first), fields_step(spec)) {
                Some(found) => found,
                None => return Ok(None),
            },
            Expiry::OptionsAfterPairs(count) => {
                let pairs = number(usize::from(count))?.max(0) as usize;
                let first = pairs
                    .saturating_mul(2)
                    .saturating_add(usize::from(count) + 1);
                match option(args, first, 1) {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let time = match spec.expiry {
            Expiry::Options(_) | Expiry::OptionsAfterPairs(_) => number(at + 1)?,
            _ => number(at)?,
        };
        let time = time.saturating_mul(unit_ms);
        let at_ms = if relative {
            let Some(from) = self.time_ms.or(self.clock_ms) else {
                return Err(format!(
                    "{} expires a while after a moment that the log does not tell (it has no #TS lines); \
                     --log-time TIME says when it was written",
                    spec.name
                ));
            };
            from.saturating_add(time)
        } else {
            time
        };
        Ok(Some(Timed {
            at,
            true_ms: self.settings.transform.true_expiry(Some(at_ms)),
            absolute_ms: !relative && unit_ms == 1,
        }))
    }

    /// A command that may have an expiry, with that expiry absolute and changed as is wished.
    fn with_time<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let effect = match &timed {
            Some(timed) => Effect::Expires(timed.true_ms),
            None if has_word(spec, &args, b"PERSIST") => Effect::Expires(None),
            None => Effect::None,
        };
        let written = timed
            .as_ref()
            .and_then(|timed| timed.true_ms)
            .map(|at| self.hold(at).unwrap_or(at));
        // What stands there in milliseconds and is not to be changed can stay, if all of it is known there.
        let same = match &timed {
            Some(timed) => {
                timed.absolute_ms
                    && self.settings.transform.ttl_shift_ms == 0
                    && written.is_some()
                    && written == timed.true_ms
            }
            None => true,
        };
        let key = args.get(1).copied().unwrap_or_default();
        match spec.name {
            "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => {
                let Some(at) = written else {
                    return What::Drop.into();
                };
                let plain = args.len() == 3 || target.has(Feature::ExpireIf);
                if same && plain && self.settings.target.has(Feature::PExpireAt) {
                    return Decision::from(What::AsIs).with(effect);
                }
                // Its condition, if it has one, held when it was logged.
                Decision::lines(vec![self.expire(key, at)]).with(effect)
            }
            "SETEX" | "PSETEX" => {
                let line = Line::new("SET")
                    .key(key)
                    .bytes(args.get(3).copied().unwrap_or_default());
                let mut lines = Vec::new();
                match written {
                    Some(at) => self.set_until(line, key, at, &mut lines),
                    None => lines.push(line),
                }
                Decision::lines(lines).with(effect)
            }
            "SET" => {
                let effect = match effect {
                    Effect::None if !has_word(spec, &args, b"KEEPTTL") => Effect::Gone,
                    other => other,
                };
                self.set(args, timed, written, same).with(effect)
            }
            "GETEX" => match (timed, written) {
                (Some(_), Some(at)) => Decision::lines(vec![self.expire(key, at)]).with(effect),
                (None, _) if effect != Effect::None => {
                    Decision::lines(vec![Line::new("PERSIST").key(key)]).with(effect)
                }
                _ => What::Drop.into(),
            },
            "HEXPIRE" | "HPEXPIRE" | "HEXPIREAT" | "HPEXPIREAT" => {
                let Some(at) = written else {
                    return What::Drop.into();
                };
                if !target.has(Feature::FieldExpiry) {
                    return self.unknown_there(spec);
                }
                if same {
                    return Decision::from(What::AsIs).with(effect);
                }
                let fields = args
                    .iter()
                    .skip(3)
                    .position(|w| w.eq_ignore_ascii_case(b"FIELDS"));
                let Some(fields) = fields.map(|i| i + 3) else {
                    return reject(format!("{} without FIELDS", spec.name));
                };
                let line = Line::new("HPEXPIREAT").key(key).int(at);
                let line = line.all(fields_at(spec, &args, fields));
                Decision::lines(vec![line]).with(effect)
            }
            "HSETEX" => self.hsetex(spec, args, timed, written, same).with(effect),
            "HGETEX" => {
                let fields = args
                    .iter()
                    .skip(2)
                    .position(|w| w.eq_ignore_ascii_case(b"FIELDS"));
                let Some(fields) = fields.map(|i| i + 2) else {
                    return reject("HGETEX without FIELDS");
                };
                let line = match (timed, written) {
                    (Some(_), Some(at)) => Line::new("HPEXPIREAT").key(key).int(at),
                    (None, _) if effect != Effect::None => Line::new("HPERSIST").key(key),
                    _ => return What::Drop.into(),
                };
                if !target.has(Feature::FieldExpiry) {
                    return self.unknown_there(spec);
                }
                Decision::lines(vec![line.all(fields_at(spec, &args, fields))]).with(effect)
            }
            "RESTORE" | "RESTORE-ASKING" => self.restore(args, timed, written).with(match effect {
                Effect::None => Effect::Gone,
                other => other,
            }),
            _ => {
                if !self.knows(spec) {
                    return self.unknown_there(spec);
                }
                if same {
                    return Decision::from(What::AsIs).with(effect);
                }
                let mut line = Line {
                    args: self.args(spec, command),
                    db: None,
                };
                let at = timed.map_or(0, |timed| timed.at);
                match written {
                    Some(ms) if at + 1 < line.args.len() => {
                        line.args[at] = Arg::Bytes(b"PXAT");
                        line.args[at + 1] = Arg::Int(ms);
                    }
                    _ => drop(line.args.drain(at..(at + 2).min(line.args.len()))),
                }
                Decision::lines(vec![line]).with(effect)
            }
        }
    }

    /// The expiry of a key that is there.
    fn expire<'a>(&self, key: &'a [u8], at_ms: i64) -> Line<'a> {
        if self.settings.target.has(Feature::PExpireAt) {
            Line::new("PEXPIREAT").key(key).int(at_ms)
        } else {
            let secs = at_ms.div_euclid(1000) + i64::from(at_ms.rem_euclid(1000) > 0);
            Line::new("EXPIREAT").key(key).int(secs)
        }
    }

    /// A SET with its expiry, as one command or two.
    fn set_until<'a>(&self, set: Line<'a>, key: &'a [u8], true_ms: i64, lines: &mut Vec<Line<'a>>) {
        let at = self.hold(true_ms).unwrap_or(true_ms);
        if self.settings.target.has(Feature::SetPxat) {
            // SET takes no time before 1970; both are past.
            lines.push(set.bytes(b"PXAT").int(at.max(1)));
        } else {
            lines.push(set);
            lines.push(self.expire(key, at));
        }
    }

    fn set<'a>(
        &self,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
        same: bool,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let [_, key, value, options @ ..] = &args[..] else {
            return reject("SET without a value");
        };
        let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let unusual = options.iter().any(|word| {
            ["GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"]
                .iter()
                .any(|name| is(word, name))
        });
        let has_time = timed.is_some();
        if same && !unusual && (!has_time || target.has(Feature::SetPxat)) {
            let keeps = options.iter().any(|word| is(word, "KEEPTTL"));
            return if keeps && !target.has(Feature::KeepTtl) {
                reject("SET … KEEPTTL needs Redis 6.0")
            } else {
                What::AsIs.into()
            };
        }
        // A condition that the log has was met, so that only NX and XX, which every server knows, need be kept.
        let mut line = Line::new("SET").key(key).bytes(value);
        let mut options = options.iter().copied().enumerate();
        while let Some((i, word)) = options.next() {
            match timed.as_ref() {
                Some(timed) if timed.at == i + 3 => {
                    let _ = options.next();
                }
                _ if is(word, "GET") => {}
                _ if ["IFEQ", "IFNE", "IFDEQ", "IFDNE"]
                    .iter()
                    .any(|name| is(word, name)) =>
                {
                    let _ = options.next();
                }
                _ => line = line.bytes(word),
            }
        }
        let mut lines = Vec::new();
        match (written, timed.and_then(|timed| timed.true_ms)) {
            (Some(_), Some(at)) => self.set_until(line, key, at, &mut lines),
            _ => lines.push(line),
        }
        Decision::lines(lines)
    }

    fn hsetex<'a>(
        &self,
        spec: &Spec,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
        same: bool,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let fields = args
            .iter()
            .skip(2)
            .position(|w| w.eq_ignore_ascii_case(b"FIELDS"));
        let Some(fields) = fields.map(|i| i + 2) else {
            return reject("HSETEX without FIELDS");
        };
        let conditional = args[2..fields]
            .iter()
            .any(|w| w.eq_ignore_ascii_case(b"FNX") || w.eq_ignore_ascii_case(b"FXX"));
        let keeps = args[2..fields]
            .iter()
            .any(|w| w.eq_ignore_ascii_case(b"KEEPTTL"));
        if target.has(Feature::HashSetEx) && same && !conditional {
            return What::AsIs.into();
        }
        let key = args[1];
        if target.has(Feature::HashSetEx) {
            let mut line = Line::new("HSETEX").key(key);
            line = match written {
                Some(at) => line.bytes(b"PXAT").int(at),
                None if keeps => line.bytes(b"KEEPTTL"),
                None => line,
            };
            return Decision::lines(vec![line.all(fields_at(spec, &args, fields))]);
        }
        if keeps {
            return reject("HSETEX … KEEPTTL needs Redis 8.0 or Valkey 9.0");
        }
        let pairs: Vec<&'a [u8]> = fields_at(spec, &args, fields).skip(2).collect();
        let mut lines = Vec::new();
        if target.has(Feature::HsetMany) || pairs.len() == 2 {
            lines.push(Line::new("HSET").key(key).all(pairs.iter().copied()));
        } else {
            lines.push(Line::new("HMSET").key(key).all(pairs.iter().copied()));
        }
        if let (Some(_), Some(at)) = (timed, written) {
            if !target.has(Feature::FieldExpiry) {
                return reject(format!(
                    "HPEXPIREAT needs {}; the target is {}",
                    Feature::FieldExpiry.needs(),
                    target.shown()
                ));
            }
            let line = Line::new("HPEXPIREAT").key(key).int(at).bytes(b"FIELDS");
            let line = line.int(pairs.len() as i64 / 2);
            lines.push(line.all(pairs.iter().copied().step_by(2)));
        }
        Decision::lines(lines)
    }

    fn restore<'a>(
        &self,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let [_, key, _, payload, options @ ..] = &args[..] else {
            return reject("RESTORE without a payload");
        };
        let has = |name: &[u8]| options.iter().any(|word| word.eq_ignore_ascii_case(name));
        if let Some(version) = payload
            .len()
            .checked_sub(10)
            .and_then(|at| payload.get(at..at + 2))
            .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
            && !target.takes_payload(version)
        {
            return reject(format!(
                "its payload is of RDB version {version}, which {} does not take",
                target.shown()
            ));
        }
        let absolute = target.has(Feature::RestoreAbsTtl);
        let mut line = Line::new("RESTORE").key(key);
        line = line
            .int(written.filter(|_| absolute).unwrap_or(0))
            .bytes(payload);
        if has(b"REPLACE") {
            if !target.has(Feature::RestoreReplace) {
                return reject("RESTORE … REPLACE needs Redis 3.0");
            }
            line = line.bytes(b"REPLACE");
        }
        if timed.is_some() && written.is_some() && absolute {
            line = line.bytes(b"ABSTTL");
        }
        for name in [&b"IDLETIME"[..], b"FREQ"] {
            let place = options
                .iter()
                .position(|word| word.eq_ignore_ascii_case(name));
            if let (Some(value), true) = (place.and_then(|i| options.get(i + 1)), absolute) {
                line = line.bytes(name).bytes(value);
            }
        }
        let mut lines = vec![line];
        if let (Some(at), false) = (written, absolute) {
            lines.push(self.expire(key, at));
        }
        Decision::lines(lines)
    }

    /// A decision for a twemproxy: what it does not forward goes through EVAL, where its key's place allows.
    fn forwarded<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        mut decision: Decision<'a>,
    ) -> Decision<'a> {
        let forwards = |name: &[u8], argc: u64| {
            lookup(name)
                .and_then(|spec| spec.proxy)
                .is_some_and(|(least, most)| (u64::from(least)..=u64::from(most)).contains(&argc))
        };
        match &mut decision.what {
            What::AsIs if forwards(command.name(), command.argc()) => decision,
            What::AsIs => {
                if command.argc() > MOST_EVAL_ARGS as u64 {
                    return reject(format!(
                        "twemproxy forwards no {}, and it has too many arguments for a script",
                        spec.name.replace('|', " ")
                    ));
                }
                match wrapped(self.args(spec, command)) {
                    Some(line) => decision.what = What::Lines(vec![line]),
                    None => {
                        return reject(format!(
                            "twemproxy forwards no {}",
                            spec.name.replace('|', " ")
                        ));
                    }
                }
                decision
            }
            What::Lines(lines) => {
                for line in lines {
                    let name = match line.args.first() {
                        Some(Arg::Bytes(name)) => *name,
                        _ => b"",
                    };
                    if forwards(name, line.args.len() as u64) {
                        continue;
                    }
                    let shown = name.escape_ascii().to_string();
                    let args = std::mem::take(&mut line.args);
                    match (args.len() <= MOST_EVAL_ARGS)
                        .then(|| wrapped(args))
                        .flatten()
                    {
                        Some(wrapped) => *line = wrapped,
                        None => return reject(format!("twemproxy forwards no {shown}")),
                    }
                }
                decision
            }
            _ => decision,
        }
    }

    /// Writes a command as it was decided, and remembers what it does.
    ///
    /// Counts it by its fate. `selected` is the database selected at the destination.
    pub fn write(
        &mut self,
        command: &Command<'_>,
        decision: &Decision<'_>,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if let Some(limit) = decision.limit {
            self.tally.limit(limit, 1);
        }
        self.tally.log.read += u64::from(decision.selects().is_none());
        match &decision.what {
            What::Select(db) => self.db = *db,
            What::Drop => self.tally.log.filtered += 1,
            What::Reject(_) | What::OtherDb => self.tally.log.rejected += 1,
            What::AsIs => {
                self.tally.log.written += 1;
                self.select(None, selected, out)?;
                if command.shape.canonical && !self.settings.transform.renames() {
                    out.large(command.raw)?;
                    out.end()?;
                } else {
                    self.anew(command, out)?;
                }
            }
            What::Lines(lines) => {
                self.tally.log.written += 1;
                for line in lines {
                    self.select(line.db, selected, out)?;
                    out.array(line.args.len() as u64);
                    for arg in &line.args {
                        match arg {
                            Arg::Bytes(bytes) => out.bulk_any(bytes)?,
                            Arg::Int(n) => out.bulk_int(*n),
                            Arg::Key(key) if self.settings.transform.renames() => {
                                self.settings.transform.rename(key, &mut self.renamed);
                                out.bulk_any(&self.renamed)?;
                            }
                            Arg::Key(key) => out.bulk_any(key)?,
                        }
                    }
                    out.end()?;
                }
            }
        }
        if self.held.is_some() {
            self.remember(command, decision.effect)?;
        }
        Ok(())
    }

    /// Writes SELECT where the destination is in another database.
    pub fn select(
        &mut self,
        db: Option<u64>,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if self.settings.target.dialect.single_db() {
            return Ok(());
        }
        let db = db.unwrap_or_else(|| self.target_db());
        if *selected != Some(db) {
            let mut digits = itoa::Buffer::new();
            out.command(&[b"SELECT", digits.format(db).as_bytes()])?;
            *selected = Some(db);
        }
        Ok(())
    }

    /// Writes a command argument by argument.
    fn anew(&mut self, command: &Command<'_>, out: &mut Out<'_>) -> Result<()> {
        let renames = self.settings.transform.renames();
        let mut keys: Vec<usize> = Vec::new();
        if renames && let Some(spec) = lookup(command.name()) {
            let _ = for_each_key(spec, command.args(), |i, _| keys.push(i));
            // Some commands name them in another order.
            keys.sort_unstable();
        }
        let mut keys = keys.into_iter().peekable();
        out.array(command.argc());
        for (i, arg) in command.args().enumerate() {
            if keys.next_if_eq(&i).is_some() {
                self.settings.transform.rename(arg, &mut self.renamed);
                out.bulk_any(&self.renamed)?;
            } else {
                out.bulk_any(arg)?;
            }
        }
        out.end()
    }

    fn renamed_copy<'k>(&self, key: &'k [u8]) -> std::borrow::Cow<'k, [u8]> {
        if self.settings.transform.renames() {
            let mut renamed = Vec::new();
            self.settings.transform.rename(key, &mut renamed);
            renamed.into()
        } else {
            key.into()
        }
    }

    /// Keeps the held expiries true to what the command did.
    fn remember(&mut self, command: &Command<'_>, effect: Effect) -> Result<()> {
        let db = self.target_db();
        let settings = self.settings;
        let waits = matches!(effect, Effect::Expires(Some(at)) if self.hold(at).is_some());
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        if held.is_empty() && !waits {
            return Ok(());
        }
        let name = |key: &[u8], out: &mut Vec<u8>| settings.transform.rename(key, out);
        let spec = lookup(command.name());
        let voids_fields = |spec: &Spec| {
            of_other_type_than_hash(spec.group) || matches!(spec.name, "RESTORE" | "RESTORE-ASKING")
        };
        if self.holds_fields
            && let Some(spec) = spec.filter(|spec| voids_fields(spec))
        {
            let mut result = Ok(());
            let renamed = &mut self.renamed;
            let _ = for_each_key(spec, command.args(), |_, key| {
                if result.is_ok() && settings.filter.chooses(self.db, key, None) {
                    name(key, renamed);
                    result = held.clear_fields(db, renamed);
                }
            });
            result?;
        }
        match effect {
            Effect::None => {}
            Effect::FlushAll => held.flush_all(),
            Effect::FlushDb => held.flush(db),
            Effect::Swap(a, b) => held.swap(a, b),
            Effect::Gone | Effect::Expires(_) => {
                let Some(spec) = spec else { return Ok(()) };
                let fields = fields_of(spec, command);
                self.holds_fields |= waits && fields.is_some();
                let mut result = Ok(());
                let renamed = &mut self.renamed;
                let _ = for_each_key(spec, command.args(), |_, key| {
                    if result.is_err() || !settings.filter.chooses(self.db, key, None) {
                        return;
                    }
                    name(key, renamed);
                    result = match (effect, &fields) {
                        (Effect::Expires(at), Some(fields)) => {
                            fields.clone().try_for_each(|field| match at {
                                Some(at) if waits => held.set(db, renamed, Some(field), at),
                                _ => held.clear(db, renamed, Some(field)),
                            })
                        }
                        (Effect::Expires(Some(at)), None) if waits => {
                            held.set(db, renamed, None, at)
                        }
                        (Effect::Expires(_), None) => held.clear(db, renamed, None),
                        // PERSIST and SET leave fields of a hash alone, or there is no hash any more.
                        _ if spec.name == "PERSIST" => held.clear(db, renamed, None),
                        _ => held.clear_key(db, renamed),
                    };
                });
                result?;
            }
            Effect::Rename | Effect::Copy(_) => {
                let (mut from, mut to) = (Vec::new(), Vec::new());
                name(command.arg(1).unwrap_or_default(), &mut from);
                name(command.arg(2).unwrap_or_default(), &mut to);
                match effect {
                    Effect::Copy(to_db) => held.copy(db, &from, to_db, &to)?,
                    _ => held.rename(db, &from, &to)?,
                }
            }
            Effect::Move(to_db) => {
                name(command.arg(1).unwrap_or_default(), &mut self.renamed);
                held.mv(db, &self.renamed, to_db)?;
            }
        }
        Ok(())
    }

    /// Remembers the true time of a key of a snapshot, or of a field of it, that was written as held.
    pub fn hold_key(
        &mut self,
        db: u64,
        key: &[u8],
        field: Option<&[u8]>,
        at_ms: i64,
    ) -> Result<()> {
        let db = self.settings.transform.db(db);
        self.settings.transform.rename(key, &mut self.renamed);
        self.holds_fields |= field.is_some();
        match &mut self.held {
            Some(held) => held.set(db, &self.renamed, field, at_ms),
            None => Ok(()),
        }
    }

    /// Writes the true times of all expiries that were held back; from now on none is. The keys have their names at
    /// the destination.
    pub fn settle(&mut self, selected: &mut Option<u64>, out: &mut Out<'_>) -> Result<()> {
        self.hold_until_ms = None;
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        held.drain(|db, key, field, at_ms| {
            self.tally.settled += 1;
            self.select(Some(db), selected, out)?;
            let mut digits = itoa::Buffer::new();
            let at = digits.format(at_ms.max(0)).as_bytes();
            let target = &self.settings.target;
            match field {
                Some(field) if target.dialect == Dialect::Twemproxy => {
                    let run = RUN_KEY_FIRST.as_bytes();
                    let args: [&[u8]; 10] = [
                        b"EVAL",
                        run,
                        b"1",
                        key,
                        b"HPEXPIREAT",
                        at,
                        b"XX",
                        b"FIELDS",
                        b"1",
                        field,
                    ];
                    out.command(&args)
                }
                Some(field) => {
                    out.command(&[b"HPEXPIREAT", key, at, b"XX", b"FIELDS", b"1", field])
                }
                None if target.has(Feature::ExpireIf) && target.dialect != Dialect::Twemproxy => {
                    out.command(&[b"PEXPIREAT", key, at, b"XX"])
                }
                None => out.command(&[b"EVAL", EXPIRE_IF.as_bytes(), b"1", key, at]),
            }
        })
    }

    /// Passes commands on as they stand, of which [`passes`](Self::passes) was said.
    pub fn pass(
        &mut self,
        raw: &[u8],
        commands: u64,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        self.select(None, selected, out)?;
        self.tally.log.read += commands;
        self.tally.log.written += commands;
        out.large(raw)?;
        out.commands += commands - 1;
        out.end()
    }

    /// What is known of a command that could not be written, for the list of those.
    pub fn reject(command: &Command<'_>, db: u64, offset: u64, why: &str) -> Reject {
        let key = command.arg(1).unwrap_or_default();
        let type_name = lookup(command.name()).and_then(|spec| type_name(spec.group));
        let name = command.name();
        Reject {
            db: Some(db),
            key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
            type_name: type_name.unwrap_or("command").to_owned(),
            command: shown(name),
            error: format!("at byte {offset:#x}: {why}"),
        }
    }

    /// The error that stops the run at a command, which stands at byte `offset` and cannot be written.
    pub fn refused(command: &Command<'_>, offset: u64, db: u64, why: &str) -> Error {
        let name = shown(command.name());
        let type_name = lookup(command.name()).and_then(|spec| type_name(spec.group));
        let kind = ErrorKind::Command {
            command: name,
            why: why.to_owned(),
        };
        let error = Error::new(kind, At::file(offset));
        match command.arg(1) {
            Some(key) => error.in_key(|| KeyName {
                db,
                key: key[..key.len().min(KEY_SHOWN + 1)].to_vec(),
                type_name: type_name.unwrap_or("any type").to_owned(),
                rdb_version: None,
            }),
            None => error,
        }
    }
}

/// A command's name for messages.
fn shown(name: &[u8]) -> String {
    name[..name.len().min(64)].escape_ascii().to_string()
}

const TOO_MANY: &str = "it has more arguments than can be put in other words";

/// The words of XADD between its key and its fields.
struct XaddWords {
    /// Index of the entry's id.
    id: usize,
    /// Index of IDMP or IDMPAUTO, and its words.
    idmp: Option<(usize, usize)>,
}

impl XaddWords {
    fn of(command: &Command<'_>) -> XaddWords {
        let args: Vec<&[u8]> = command.args().take(20).collect();
        let mut words = XaddWords { id: 2, idmp: None };
        while let Some(word) = args.get(words.id) {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            let next = args.get(words.id + 1).copied().unwrap_or_default();
            let count = match () {
                () if is("MAXLEN") || is("MINID") => 2 + usize::from(next == b"=" || next == b"~"),
                () if is("LIMIT") => 2,
                () if is("NOMKSTREAM") || is("KEEPREF") || is("DELREF") || is("ACKED") => 1,
                () if is("IDMP") || is("IDMPAUTO") => {
                    let count = if is("IDMP") { 3 } else { 2 };
                    words.idmp = Some((words.id, count));
                    count
                }
                () => break,
            };
            words.id += count;
        }
        // Where words are missing nothing is known of them.
        if words.id >= args.len() {
            words.idmp = None;
        }
        words
    }
}

/// What is seen of a command's keys.
#[derive(Default)]
struct Seen {
    count: u64,
    chosen: u64,
    longest: usize,
    slot: Option<u16>,
    several_slots: bool,
    first: Option<Vec<u8>>,
    several_keys: bool,
}

impl Seen {
    fn add_slot(&mut self, key: &[u8]) {
        let slot = slot(key);
        self.several_slots |= self.slot.replace(slot).is_some_and(|other| other != slot);
        match &self.first {
            None => self.first = Some(key.to_vec()),
            Some(first) => self.several_keys |= first != key,
        }
    }

    fn one_slot(&self) -> bool {
        !self.several_slots
    }

    fn one_key(&self) -> bool {
        !self.several_keys
    }
}

/// The option word EX, PX, EXAT or PXAT from `first` on: its index, its unit in milliseconds, whether it is relative.
fn option(args: &[&[u8]], first: usize, fields_step: usize) -> Option<(usize, i64, bool)> {
    let mut i = first;
    while let Some(word) = args.get(i) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("FIELDS") {
            // Redis takes options behind the fields too.
            let fields = args.get(i + 1).copied().and_then(decimal)?.max(0) as usize;
            i = fields.saturating_mul(fields_step).saturating_add(i + 2);
            continue;
        }
        for (name, unit, relative) in [
            ("EX", 1000, true),
            ("PX", 1, true),
            ("EXAT", 1000, false),
            ("PXAT", 1, false),
        ] {
            if is(name) {
                return Some((i, unit, relative));
            }
        }
        let with_value = [
            "IFEQ", "IFNE", "IFDEQ", "IFDNE", "BYFLOAT", "BYINT", "LBOUND", "UBOUND",
        ];
        i += 1 + usize::from(with_value.iter().any(|name| is(name)));
    }
    None
}

/// FIELDS at index `at`, the number of fields, and the fields themselves; options behind them are left out.
fn fields_at<'a>(
    spec: &Spec,
    args: &[&'a [u8]],
    at: usize,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let count = args
        .get(at + 1)
        .copied()
        .and_then(decimal)
        .unwrap_or(0)
        .max(0) as usize;
    let end = count
        .saturating_mul(fields_step(spec))
        .saturating_add(at + 2);
    let fields = args[at..end.min(args.len())].to_vec();
    fields.into_iter()
}

/// Arguments that make up a field behind FIELDS.
fn fields_step(spec: &Spec) -> usize {
    if spec.name == "HSETEX" { 2 } else { 1 }
}

fn has_word(spec: &Spec, args: &[&[u8]], word: &[u8]) -> bool {
    let first = match spec.expiry {
        Expiry::Options(first) => usize::from(first),
        _ => return false,
    };
    args.iter()
        .skip(first)
        .take_while(|arg| !arg.eq_ignore_ascii_case(b"FIELDS"))
        .any(|arg| arg.eq_ignore_ascii_case(word))
}

/// The hash fields that a command names behind FIELDS; `None` where it is about whole keys.
fn fields_of<'a>(
    spec: &Spec,
    command: &Command<'a>,
) -> Option<impl Iterator<Item = &'a [u8]> + Clone> {
    if spec.group != Group::Hash {
        return None;
    }
    let mut args = command.args();
    args.find(|arg| arg.eq_ignore_ascii_case(b"FIELDS"))?;
    let count = args.next().and_then(decimal).unwrap_or(0).max(0) as usize;
    Some(args.step_by(fields_step(spec)).take(count))
}

/// The same command by EVAL, where its key stands first or second and is the only one.
fn wrapped<'a>(args: Vec<Arg<'a>>) -> Option<Line<'a>> {
    let mut keys = args
        .iter()
        .enumerate()
        .filter(|(_, arg)| matches!(arg, Arg::Key(_)));
    let script = match (keys.next()?, keys.next()) {
        ((1, _), None) => RUN_KEY_FIRST,
        ((2, _), None) => RUN_KEY_SECOND,
        _ => return None,
    };
    let mut line = Line::new("EVAL").bytes(script.as_bytes()).int(1);
    line.args
        .extend(args.iter().filter(|arg| matches!(arg, Arg::Key(_))));
    line.args
        .extend(args.iter().filter(|arg| !matches!(arg, Arg::Key(_))));
    Some(line)
}

/// Whether a key that such a command names is no hash once it is done.
fn of_other_type_than_hash(group: Group) -> bool {
    !matches!(group, Group::Hash | Group::Generic | Group::Other)
}

fn is_script(name: &str) -> bool {
    matches!(
        name,
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO"
    )
}

fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Redis => "a server",
        Dialect::Cluster => "a cluster",
        Dialect::Twemproxy => "twemproxy",
    }
}

/// A type as TYPE names it; `None` for commands that fit every type.
fn type_name(group: Group) -> Option<&'static str> {
    Some(match group {
        Group::String => "string",
        Group::List => "list",
        Group::Set => "set",
        Group::ZSet => "zset",
        Group::Hash => "hash",
        Group::Stream => "stream",
        Group::Array => "array",
        Group::VectorSet => "vectorset",
        Group::Generic | Group::Other => return None,
    })
}

fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::target::Target;
    use crate::filter::{Filter, patterns};
    use crate::resp::parse::{Commands, Record};
    use crate::resp::write::{Block, Blocks};
    use crate::transform::Transform;

    #[derive(Default)]
    struct Collect(Vec<u8>);

    impl Blocks for Collect {
        fn hand_on(&mut self, block: Block, _: Option<u64>) -> Result<()> {
            self.0.extend_from_slice(block.bytes());
            Ok(())
        }
        fn buffer(&mut self) -> Vec<u8> {
            vec![0; 64]
        }
    }

    fn resp(line: &str) -> Vec<u8> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut out = format!("*{}\r\n", words.len());
        for word in words {
            out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        out.into_bytes()
    }

    fn lines(resp: &[u8]) -> Vec<String> {
        Commands::new(resp, false)
            .map(|record| match record {
                Record::Command(command) => command
                    .args()
                    .map(|arg| String::from_utf8_lossy(arg).into_owned())
                    .collect::<Vec<_>>()
                    .join(" "),
                Record::Annotation(line) => panic!("{line:?}"),
            })
            .collect()
    }

    /// What is written for commands, one after the other; `!why` for one that is refused.
    fn rewritten(settings: &Settings, time_ms: Option<i64>, commands: &[&str]) -> Vec<String> {
        let mut rewriter = Rewriter::new(settings);
        rewriter.time_ms = time_ms;
        let mut selected = Some(0);
        let mut all = Vec::new();
        for command in commands {
            let raw = resp(command);
            let Some(Record::Command(command)) = Commands::new(&raw, false).next() else {
                panic!("{command} is a command");
            };
            let mut blocks = Collect::default();
            let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
            let name = command.name();
            if rewriter.passes(name, command.argc()) {
                rewriter
                    .pass(&raw, 1, &mut selected, &mut out)
                    .expect("memory");
            } else {
                let decision = rewriter.decide(&command, rewriter.db);
                if let Some(why) = decision.refusal() {
                    all.push(format!("!{why}"));
                }
                rewriter
                    .write(&command, &decision, &mut selected, &mut out)
                    .expect("memory");
            }
            out.flush().expect("memory");
            drop(out);
            all.extend(lines(&blocks.0));
        }
        assert!(rewriter.tally.log.adds_up());
        if settings.transform.hold_until_ms.is_some() {
            let mut blocks = Collect::default();
            let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
            rewriter.settle(&mut selected, &mut out).expect("memory");
            out.flush().expect("memory");
            drop(out);
            all.push("--".to_owned());
            all.extend(lines(&blocks.0));
        }
        all
    }

    fn target(dialect: Dialect, version: &str) -> Settings {
        Settings {
            target: Target {
                dialect,
                version: version.parse().ok(),
            },
            ..Settings::default()
        }
    }

    fn keys(glob: &str) -> Settings {
        Settings {
            filter: Filter {
                keys: patterns(&[glob.to_owned()], &[]).expect("a glob"),
                ..Filter::default()
            },
            ..Settings::default()
        }
    }

    /// Each command by itself: what is written, joined by `; `.
    fn each(settings: &Settings, cases: &[(&str, &str)]) {
        for (command, want) in cases {
            let got = rewritten(settings, None, &[command]).join("; ");
            if let Some(want) = want.strip_suffix('…') {
                assert!(got.starts_with(want), "{command}: {got}");
            } else {
                assert_eq!(&got, want, "{command}");
            }
        }
    }

    #[test]
    fn a_server_gets_what_stands_there() {
        each(
            &Settings::default(),
            &[
                ("set k v", "set k v"),
                ("SET k v PXAT 2000000000000", "SET k v PXAT 2000000000000"),
                ("SET k v KEEPTTL", "SET k v KEEPTTL"),
                ("SET k v IFEQ w GET", "SET k v"),
                (
                    "SET k v XX GET PXAT 2000000000000",
                    "SET k v XX PXAT 2000000000000",
                ),
                (
                    "PEXPIREAT k 2000000000000 XX",
                    "PEXPIREAT k 2000000000000 XX",
                ),
                ("zadd k 1 m", "zadd k 1 m"),
                (
                    "XGROUP CREATE k g 0 ENTRIESREAD 3",
                    "XGROUP CREATE k g 0 ENTRIESREAD 3",
                ),
                ("PING", ""),
                ("REPLCONF GETACK *", ""),
                ("PUBLISH c m", ""),
                ("GET k", ""),
                ("SELECT 3", ""),
                ("FLUSHALL ASYNC", "FLUSHALL ASYNC"),
                ("SWAPDB 0 1", "SWAPDB 0 1"),
                ("EVAL s 0", "EVAL s 0"),
                ("FUNCTION LOAD REPLACE code", "FUNCTION LOAD REPLACE code"),
                ("SCRIPT LOAD s", "SCRIPT LOAD s"),
                ("NOSUCH k", "!NOSUCH is no command of any known server…"),
                ("EXPIRE k 10", "!EXPIRE expires a while after…"),
                ("SET k v EX 10", "!SET expires a while after…"),
                ("SETEX k 10 v", "!SETEX expires a while after…"),
                (
                    "RESTORE k 10 payload-of-10",
                    "!RESTORE expires a while after…",
                ),
                ("RESTORE k 0 payload-of-10", "RESTORE k 0 payload-of-10"),
                ("EXPIREAT k 2000000000", "PEXPIREAT k 2000000000000"),
            ],
        );
        let unknown = Settings {
            log: LogRules { pass_unknown: true },
            ..Settings::default()
        };
        each(&unknown, &[("NOSUCH k", "NOSUCH k")]);
    }

    #[test]
    fn databases_are_selected_where_commands_need_them() {
        let commands = [
            "SELECT 1", "SELECT 2", "SET a 1", "SET b 1", "SELECT 0", "DEL a",
        ];
        assert_eq!(
            rewritten(&Settings::default(), None, &commands),
            ["SELECT 2", "SET a 1", "SET b 1", "SELECT 0", "DEL a"]
        );
        let mapped = Settings {
            transform: Transform {
                db_map: [(2, 0)].into(),
                ..Transform::default()
            },
            ..Settings::default()
        };
        assert_eq!(
            rewritten(&mapped, None, &commands),
            ["SET a 1", "SET b 1", "DEL a"]
        );
        let one = Settings {
            filter: Filter {
                dbs: Some(vec![2]),
                ..Filter::default()
            },
            ..Settings::default()
        };
        assert_eq!(
            rewritten(&one, None, &commands),
            ["SELECT 2", "SET a 1", "SET b 1"]
        );
        assert_eq!(
            rewritten(&one, None, &["FLUSHALL", "SELECT 2", "FLUSHDB", "MOVE k 0"]),
            [
                "SELECT 2",
                "FLUSHDB",
                "FLUSHDB",
                "!MOVE leads to a database that is not chosen"
            ]
        );
    }

    #[test]
    fn relative_times_become_absolute() {
        let at = Some(1_000_000);
        let all = rewritten(
            &Settings::default(),
            at,
            &[
                "EXPIRE k 10",
                "PEXPIRE k 10 GT",
                "SETEX k 10 v",
                "PSETEX k 10 v",
                "SET k v NX EX 10",
                "GETEX k EX 10",
                "GETEX k PERSIST",
                "GETEX k",
                "HEXPIRE k 10 NX FIELDS 1 f",
                "HSETEX k EX 10 FIELDS 1 f v",
                "HSETEX k FIELDS 1 EX v EX 10",
                "HGETEX k PX 10 FIELDS 1 f",
                "MSETEX 2 a 1 b 2 EX 10",
                "RESTORE k 10 payload-of-10 REPLACE IDLETIME 5",
                "SET k v IFEQ EX PX 10",
            ],
        );
        assert_eq!(
            all,
            [
                "PEXPIREAT k 1010000",
                "PEXPIREAT k 1000010",
                "SET k v PXAT 1010000",
                "SET k v PXAT 1000010",
                "SET k v NX PXAT 1010000",
                "PEXPIREAT k 1010000",
                "PERSIST k",
                "HPEXPIREAT k 1010000 FIELDS 1 f",
                "HSETEX k PXAT 1010000 FIELDS 1 f v",
                "HSETEX k PXAT 1010000 FIELDS 1 EX v",
                "HPEXPIREAT k 1000010 FIELDS 1 f",
                "SET a 1 PXAT 1010000",
                "SET b 2 PXAT 1010000",
                "RESTORE k 1000010 payload-of-10 REPLACE ABSTTL IDLETIME 5",
                "SET k v PXAT 1000010",
            ]
        );
    }

    #[test]
    fn only_chosen_keys_pass() {
        each(
            &keys("a*"),
            &[
                ("SET a1 v", "SET a1 v"),
                ("SET b1 v", ""),
                ("DEL b1 a1 a2 b2", "DEL a1 a2"),
                ("MSET b1 1 a1 2 a2 3", "MSET a1 2 a2 3"),
                ("MSETNX b1 1 a1 2", "MSET a1 2"),
                (
                    "MSETEX 2 b1 1 a1 2 PXAT 2000000000000",
                    "SET a1 2 PXAT 2000000000000",
                ),
                ("RENAME a1 a2", "RENAME a1 a2"),
                ("RENAME b1 b2", ""),
                (
                    "RENAME a1 b2",
                    "!only 1 of its 2 keys are chosen, and RENAME cannot be split",
                ),
                ("SUNIONSTORE a1 a2 b1", "!only 2 of its 3 keys…"),
                ("FLUSHDB", "!FLUSHDB concerns all keys…"),
                ("SWAPDB 0 1", "!SWAPDB concerns all keys…"),
                ("EVAL s 1 a1", "EVAL s 1 a1"),
                ("EVAL s 0", "!which keys EVAL uses cannot be told…"),
                ("XGROUP CREATE a1 g 0", "XGROUP CREATE a1 g 0"),
                ("XGROUP CREATE b1 g 0", ""),
            ],
        );
        let lists = Settings {
            filter: Filter {
                types: Some(vec!["list".into()]),
                ..Filter::default()
            },
            ..Settings::default()
        };
        each(
            &lists,
            &[
                ("RPUSH l 1", "RPUSH l 1"),
                ("SET s 1", ""),
                ("DEL s", "DEL s"),
                ("PEXPIREAT s 2000000000000", "PEXPIREAT s 2000000000000"),
            ],
        );
    }

    #[test]
    fn keys_get_their_new_names_wherever_they_stand() {
        let renames = Settings {
            transform: Transform {
                add_prefix: b"p:".to_vec(),
                ..Transform::default()
            },
            ..Settings::default()
        };
        each(
            &renames,
            &[
                ("SET k v", "SET p:k v"),
                ("MSET a a b b", "MSET p:a a p:b b"),
                ("EVAL s 2 a b a", "EVAL s 2 p:a p:b a"),
                (
                    "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
                    "ZUNIONSTORE p:d 2 p:a p:b WEIGHTS 1 2",
                ),
                ("SORT a BY x STORE d", "SORT p:a BY x STORE p:d"),
                ("XGROUP CREATE k g 0", "XGROUP CREATE p:k g 0"),
                ("SETEX k 10 v", "!SETEX…"),
                ("EXPIREAT k 5", "PEXPIREAT p:k 5000"),
                ("FLUSHALL", "!FLUSHALL…"),
                ("BITOP AND d a b", "BITOP AND p:d p:a p:b"),
            ],
        );
    }

    #[test]
    fn expiries_are_changed_or_left_out() {
        let shifted = Settings {
            transform: Transform {
                ttl_shift_ms: 1,
                ..Transform::default()
            },
            ..Settings::default()
        };
        each(
            &shifted,
            &[
                ("SET k v PXAT 5000", "SET k v PXAT 5001"),
                ("PEXPIREAT k 5000 GT", "PEXPIREAT k 5001"),
                (
                    "HPEXPIREAT k 5000 FIELDS 1 f",
                    "HPEXPIREAT k 5001 FIELDS 1 f",
                ),
            ],
        );
        let none = Settings {
            transform: Transform {
                no_ttl: true,
                ..Transform::default()
            },
            ..Settings::default()
        };
        each(
            &none,
            &[
                ("SET k v XX PXAT 5000", "SET k v XX"),
                ("PEXPIREAT k 5000", ""),
                ("HSETEX k PXAT 5000 FIELDS 1 f v", "HSETEX k FIELDS 1 f v"),
                (
                    "RESTORE k 5000 payload-of-10 ABSTTL",
                    "RESTORE k 0 payload-of-10",
                ),
                ("PERSIST k", "PERSIST k"),
            ],
        );
    }

    #[test]
    fn older_servers_get_their_own_words() {
        each(
            &target(Dialect::Redis, "6.0"),
            &[
                ("SET k v PXAT 5000", "SET k v; PEXPIREAT k 5000"),
                ("SET k v KEEPTTL", "SET k v KEEPTTL"),
                ("PEXPIREAT k 5000 XX", "PEXPIREAT k 5000"),
                (
                    "XGROUP CREATE k g 0 MKSTREAM ENTRIESREAD 3",
                    "XGROUP CREATE k g 0 MKSTREAM",
                ),
                (
                    "XSETID k 1-1 ENTRIESADDED 5 MAXDELETEDID 0-0",
                    "XSETID k 1-1",
                ),
                (
                    "XADD k MAXLEN = 5 1-1 ENTRIESADDED 2",
                    "XADD k MAXLEN = 5 1-1 ENTRIESADDED 2",
                ),
                ("XADD k IDMP p i 1-1 IDMP 2", "XADD k 1-1 IDMP 2"),
                ("LMOVE a b RIGHT LEFT", "RPOPLPUSH a b"),
                ("LMOVE a b LEFT LEFT", "!LMOVE needs Redis 6.2…"),
                (
                    "HSETEX k PXAT 5000 FIELDS 1 f v",
                    "!HPEXPIREAT needs Redis 7.4 or Valkey 9.0…",
                ),
                ("COPY a b", "!COPY needs Redis 6.2…"),
            ],
        );
        each(
            &target(Dialect::Redis, "3.2"),
            &[
                ("UNLINK a b", "DEL a b"),
                ("HSET k a 1 b 2", "HMSET k a 1 b 2"),
                ("HSET k a 1", "HSET k a 1"),
                ("SET k v KEEPTTL", "!SET … KEEPTTL needs Redis 6.0"),
                ("XADD k 1-1 f v", "!XADD needs Redis 5.0…"),
                ("FLUSHALL ASYNC", "FLUSHALL"),
            ],
        );
        each(
            &target(Dialect::Redis, "7.4"),
            &[(
                "HSETEX k PXAT 5000 FIELDS 2 f v g w",
                "HSET k f v g w; HPEXPIREAT k 5000 FIELDS 2 f g",
            )],
        );
    }

    #[test]
    fn a_cluster_gets_one_slot_a_command() {
        each(
            &target(Dialect::Cluster, ""),
            &[
                ("SELECT 0", ""),
                ("DEL a b", "DEL a; DEL b"),
                ("DEL {x}a {x}b", "DEL {x}a {x}b"),
                ("MSET a 1 b 2", "SET a 1; SET b 2"),
                ("RENAME {x}a {x}b", "RENAME {x}a {x}b"),
                ("RENAME a b", "!RENAME with keys of several slots…"),
                ("FLUSHALL", "!FLUSHALL empties…"),
                ("SWAPDB 0 1", "!a cluster knows no SWAPDB"),
                ("EVAL s 0", "!EVAL without keys…"),
                ("FUNCTION LOAD c", "FUNCTION LOAD c"),
                ("SCRIPT LOAD s", ""),
            ],
        );
        assert_eq!(
            rewritten(
                &target(Dialect::Cluster, ""),
                None,
                &["SELECT 1", "SET a 1"]
            ),
            [
                "!the destination has database 0 only; choose a database with --db N and bring it there with --db-map N=0"
            ]
        );
    }

    #[test]
    fn a_proxy_gets_what_it_forwards() {
        each(
            &target(Dialect::Twemproxy, ""),
            &[
                ("SET k v PXAT 5000", "SET k v PXAT 5000"),
                ("DEL a b", "DEL a; DEL b"),
                (
                    "PEXPIREAT k 5000 XX",
                    "EVAL return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2)) 1 k PEXPIREAT 5000 XX",
                ),
                (
                    "XADD k 1-1 f v",
                    "EVAL return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2)) 1 k XADD 1-1 f v",
                ),
                (
                    "XGROUP CREATE k g 0",
                    "EVAL return redis.call(ARGV[1],ARGV[2],KEYS[1],unpack(ARGV,3)) 1 k XGROUP CREATE g 0",
                ),
                (
                    "RENAME {x}a {x}b",
                    "!RENAME with keys that may be on several servers…",
                ),
                ("SINTERSTORE d a", "!SINTERSTORE with keys…"),
                ("EVAL s 1 k", "EVAL s 1 k"),
                ("FUNCTION LOAD c", "!twemproxy forwards no FUNCTION…"),
            ],
        );
    }

    #[test]
    fn near_expiries_wait_for_the_end() {
        let held = Settings {
            transform: Transform {
                hold_until_ms: Some(9000),
                ..Transform::default()
            },
            ..Settings::default()
        };
        let all = rewritten(
            &held,
            None,
            &[
                "SET a v PXAT 5000",
                "PEXPIREAT a 6000",
                "SET b v PXAT 5000",
                "PEXPIREAT b 9000",
                "SET c v PXAT 5000",
                "DEL c",
                "SET d v PXAT 5000",
                "RENAME d e",
                "SET f v PXAT 5000",
                "PERSIST f",
                "SELECT 1",
                "SET g v PXAT 7000",
                "MOVE g 2",
                "HSETEX h PXAT 5000 FIELDS 2 x 1 y 2",
                "HPEXPIREAT h 9999 FIELDS 1 y",
            ],
        );
        let end = all.iter().position(|line| line == "--").expect("an end");
        assert_eq!(all[0], "SET a v PXAT 9000");
        assert_eq!(all[1], "PEXPIREAT a 9000");
        assert_eq!(
            all[end + 1..],
            [
                "SELECT 0",
                "PEXPIREAT a 6000 XX",
                "PEXPIREAT e 5000 XX",
                "SELECT 1",
                "HPEXPIREAT h 5000 XX FIELDS 1 x",
                "SELECT 2",
                "PEXPIREAT g 7000 XX",
            ]
        );
        let old = Settings {
            target: Target {
                version: "6.2".parse().ok(),
                ..Target::default()
            },
            ..held
        };
        assert_eq!(
            rewritten(&old, None, &["SET a v PXAT 5000"])[2],
            format!("EVAL {EXPIRE_IF} 1 a 5000")
        );
    }
}
