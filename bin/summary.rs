//! What a run says: log lines, progress, and the summary in its forms.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use redis_migration::file::{self, Disk};
use redis_migration::pipeline::{Progress, Report};
use redis_migration::sink::server::Counts;
use redis_migration::tally::{LogTally, Tally};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::{LogFormat, MannersArgs};
use crate::outcome::Exit;

/// Writes lines to stderr.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    format: LogFormat,
    quiet: bool,
}

impl Log {
    pub fn new(manners: &MannersArgs) -> Log {
        Log {
            format: manners.log_format,
            quiet: manners.quiet,
        }
    }

    /// Said even with -q.
    pub fn failure(self, text: &str) {
        self.line("error", text);
    }

    pub fn warning(self, text: &str) {
        if !self.quiet {
            self.line("warning", text);
        }
    }

    pub fn info(self, text: &str) {
        if !self.quiet {
            self.line("info", text);
        }
    }

    /// A line as it stands, for who waits for just that.
    pub fn plain(self, text: &str) {
        match self.format {
            LogFormat::Text if !self.quiet => drop(writeln!(std::io::stderr(), "{text}")),
            _ => self.info(text),
        }
    }

    fn line(self, level: &str, text: &str) {
        // A closed stderr is no reason to fail.
        let _ = match self.format {
            LogFormat::Text if level == "warning" => {
                writeln!(std::io::stderr(), "redis-migration: warning: {text}")
            }
            LogFormat::Text => writeln!(std::io::stderr(), "redis-migration: {text}"),
            LogFormat::Json => {
                let time = Timestamp::now().to_string();
                writeln!(
                    std::io::stderr(),
                    "{}",
                    json!({"time": time, "level": level, "message": text})
                )
            }
        };
    }
}

const BAR: &str =
    "{percent:>3}% [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta} {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}

/// A bar on a terminal, a line now and then elsewhere.
pub struct Shown {
    bar: Option<ProgressBar>,
    /// Whether the bar is words only: there is no end that it could be held against.
    endless: bool,
    log: Log,
    interval: Duration,
    last: Instant,
}

impl Shown {
    pub fn new(manners: &MannersArgs, log: Log) -> Shown {
        let terminal = std::io::stderr().is_terminal() && manners.log_format == LogFormat::Text;
        let bar = (terminal && !manners.quiet).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.set_style(style(BAR));
            bar
        });
        let interval = Duration::from_millis(manners.progress_interval.0.max(100) as u64);
        Shown {
            bar,
            endless: false,
            log,
            interval,
            last: Instant::now(),
        }
    }

    pub fn update(&mut self, progress: &Progress) {
        let (done, total) = (
            progress.done.load(Ordering::Relaxed),
            progress.total.load(Ordering::Relaxed),
        );
        let keys = HumanCount(progress.keys.load(Ordering::Relaxed));
        let commands = progress.commands.load(Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done.min(total));
            bar.set_message(match commands {
                0 => format!("{keys} keys"),
                some => format!("{keys} keys, {} commands", HumanCount(some)),
            });
        } else if self.last.elapsed() >= self.interval {
            self.last = Instant::now();
            let out = HumanBytes(progress.bytes_out.load(Ordering::Relaxed));
            let percent = (done * 100).checked_div(total).unwrap_or(0);
            let read = match commands {
                0 => format!("{keys} keys"),
                some => format!("{keys} keys and {} commands", HumanCount(some)),
            };
            self.log
                .info(&format!("{percent}%: {read} read, {out} written"));
        }
    }

    /// As [`update`](Self::update), for what has words of its own: so much of so much is done; of nothing where there is
    /// no end.
    pub fn tell(&mut self, (done, total): (u64, u64), text: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            if self.endless != (total == 0) {
                self.endless = total == 0;
                bar.set_style(style(if self.endless { "{msg}" } else { BAR }));
            }
            bar.set_length(total);
            bar.set_position(done.min(total));
            bar.set_message(text());
        } else if self.last.elapsed() >= self.interval {
            self.last = Instant::now();
            self.log.info(&text());
        }
    }

    /// Leaves the terminal clean for what is said next.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// All that a run did.
pub struct Summary {
    pub inputs: Vec<InputSummary>,
    pub bytes_out: u64,
    pub seconds: f64,
    pub output: String,
    /// Whether lines of JSON were written, and no commands.
    pub lines: bool,
    /// Whether a log ended within a command, which was left out.
    pub torn: bool,
    /// What a destination answered, and whether it acknowledged all of it.
    pub sent: Option<(Counts, bool)>,
    /// Where a live migration stands.
    pub live: Option<Value>,
    pub exit: Exit,
}

impl Summary {
    /// Of a run that did not begin because of an input, or of something that has no name here.
    pub fn of_failure(name: String, error: String) -> Summary {
        let mut input = InputSummary::new(name, 0);
        input.error = Some(error);
        Summary {
            inputs: vec![input],
            ..Summary::of_nothing(String::new())
        }
    }

    /// Of a run that only looked.
    pub fn of_nothing(output: String) -> Summary {
        Summary {
            inputs: Vec::new(),
            bytes_out: 0,
            seconds: 0.0,
            output,
            lines: false,
            torn: false,
            sent: None,
            live: None,
            exit: Exit::Done,
        }
    }
}

/// What was done with one input.
pub struct InputSummary {
    pub name: String,
    pub bytes: u64,
    pub report: Report,
    /// Whether commands of a log were read from it, if only behind a snapshot.
    pub is_log: bool,
    pub error: Option<String>,
}

impl InputSummary {
    /// Of an input of which nothing was read yet.
    pub fn new(name: String, bytes: u64) -> InputSummary {
        InputSummary {
            name,
            bytes,
            report: Report::default(),
            is_log: false,
            error: None,
        }
    }

    /// What it was found to be; empty where nothing was read.
    pub fn kind(&self) -> String {
        match (&self.report.magic[..], self.is_log) {
            (magic, false) => magic.to_owned(),
            ("", true) => "append-only commands".to_owned(),
            (magic, true) => format!("{magic} and append-only commands"),
        }
    }
}

#[derive(Serialize)]
struct Keys {
    read: u64,
    written: u64,
    filtered: u64,
    expired: u64,
    rejected: u64,
    existing: u64,
    as_restore: u64,
}

impl From<&Tally> for Keys {
    fn from(t: &Tally) -> Keys {
        Keys {
            read: t.read,
            written: t.written,
            filtered: t.filtered,
            expired: t.expired,
            rejected: t.rejected,
            existing: t.existing,
            as_restore: t.as_restore,
        }
    }
}

fn log_json(log: &LogTally) -> Value {
    json!({
        "read": log.read,
        "written": log.written,
        "filtered": log.filtered,
        "rejected": log.rejected,
        "transactions": log.transactions,
    })
}

impl Summary {
    fn total(&self) -> Tally {
        let mut total = Tally::default();
        for input in &self.inputs {
            total.add(&input.report.tally);
        }
        total
    }

    fn bytes_in(&self) -> u64 {
        self.inputs.iter().map(|i| i.bytes).sum()
    }

    /// What a run that failed leaves behind.
    pub fn left(&self) -> String {
        let total = self.total();
        let n = HumanCount;
        let mut what = Vec::new();
        if total.written > 0 || total.log.written == 0 {
            what.push(format!("{} keys", n(total.written)));
        }
        if total.log.written > 0 {
            what.push(format!("{} commands of the log", n(total.log.written)));
        }
        format!(
            "{} before it were written to {}",
            what.join(" and "),
            self.output
        )
    }

    pub fn text(&self, log: Log) {
        let total = self.total();
        let n = HumanCount;
        for input in &self.inputs {
            let info = &input.report.info;
            let by = info
                .server
                .as_ref()
                .map_or(String::new(), |s| format!(", written by {s}"));
            let trailing = match info.trailing {
                0 => String::new(),
                bytes => format!(", {} bytes behind its end ignored", n(bytes)),
            };
            let size = HumanBytes(input.bytes);
            log.info(&format!(
                "{}: {} {size}{by}{trailing}",
                input.name,
                input.kind()
            ));
        }
        // What was sent and not acknowledged may be written or not.
        let written = match self.sent {
            Some((_, false)) => "sent",
            _ => "written",
        };
        let logs = self.inputs.iter().any(|i| i.is_log);
        if total.read > 0 || !logs {
            let existing = match self.sent {
                Some(_) => format!(" + {} there already", n(total.existing)),
                None => String::new(),
            };
            log.info(&format!(
                "keys: {} read = {} {written} + {} filtered + {} expired + {} rejected{existing}",
                n(total.read),
                n(total.written),
                n(total.filtered),
                n(total.expired),
                n(total.rejected)
            ));
        }
        if logs {
            let counts = total.log;
            let transactions = match counts.transactions {
                0 => String::new(),
                1 => " (1 transaction)".to_owned(),
                some => format!(" ({} transactions)", n(some)),
            };
            log.info(&format!(
                "commands of the log: {} read = {} {written} + {} filtered + {} rejected{transactions}",
                n(counts.read),
                n(counts.written),
                n(counts.filtered),
                n(counts.rejected)
            ));
        }
        if total.settled > 0 {
            log.info(&format!(
                "near expiries, written behind the log with their true times: {}",
                n(total.settled)
            ));
        }
        if total.libraries + total.libraries_rejected > 0 {
            log.info(&format!(
                "function libraries and scripts: {} written, {} rejected",
                n(total.libraries),
                n(total.libraries_rejected)
            ));
        }
        let rate = |x: u64| {
            if self.seconds > 0.0 {
                (x as f64 / self.seconds) as u64
            } else {
                0
            }
        };
        let (what, things) = match total.read {
            0 if logs => ("commands", total.log.read),
            keys => ("keys", keys),
        };
        let written = if self.lines { "lines" } else { "commands" };
        log.info(&format!(
            "{} {written}, {} to {} in {:.2} s ({} in/s, {} {what}/s)",
            n(total.commands),
            HumanBytes(self.bytes_out),
            self.output,
            self.seconds,
            HumanBytes(rate(self.bytes_in())),
            n(rate(things)),
        ));
        if let Some((sent, _)) = &self.sent {
            let mut troubles = Vec::new();
            for (count, what) in [
                (sent.again, "sent again"),
                (sent.later, "put off by the server"),
                (sent.redirected, "redirected"),
                (sent.passed_over, "applied by an earlier run"),
                (sent.doubtful, "perhaps applied twice"),
                (
                    sent.libraries_there,
                    "function libraries were there already",
                ),
            ] {
                if count > 0 {
                    troubles.push(format!("{} {what}", n(count)));
                }
            }
            if sent.reconnected > 0 {
                troubles.push(format!("{} connections opened again", n(sent.reconnected)));
            }
            if !troubles.is_empty() {
                log.info(&format!("on the way: {}", troubles.join(", ")));
            }
        }
        for (limit, count) in &total.limits {
            log.warning(&format!("{} {}", n(*count), limit.sentence()));
        }
        if let Some((sent, _)) = &self.sent {
            // As redis-cli --pipe has it, for who looks for just that.
            log.plain(&format!(
                "errors: {}, replies: {}",
                sent.errors, sent.replies
            ));
        }
    }

    pub fn json(&self) -> Value {
        let total = self.total();
        let limits: Map<String, Value> = total
            .limits
            .iter()
            .map(|(limit, n)| (limit.name().to_owned(), json!(n)))
            .collect();
        let rate = |x: u64| {
            if self.seconds > 0.0 {
                x as f64 / self.seconds
            } else {
                0.0
            }
        };
        json!({
            "program": "redis-migration",
            "version": env!("CARGO_PKG_VERSION"),
            "time": Timestamp::now().to_string(),
            "exit": self.exit.code(),
            "output": self.output,
            "keys": Keys::from(&total),
            "libraries": {"written": total.libraries, "rejected": total.libraries_rejected},
            "commands": total.commands,
            "log": log_json(&total.log),
            "settled_expiries": total.settled,
            "torn": self.torn,
            "sent": self.sent.map(|(sent, whole)| json!({
                "all_acknowledged": whole,
                "replies": sent.replies,
                "errors": sent.errors,
                "again": sent.again,
                "later": sent.later,
                "redirected": sent.redirected,
                "reconnected": sent.reconnected,
                "passed_over": sent.passed_over,
                "doubtful": sent.doubtful,
            })),
            "live": self.live,
            "bytes_in": self.bytes_in(),
            "bytes_out": self.bytes_out,
            "seconds": self.seconds,
            "bytes_in_per_second": rate(self.bytes_in()),
            "keys_per_second": rate(total.read),
            "warnings": limits,
            "inputs": self.inputs.iter().map(|i| json!({
                "name": i.name,
                "magic": i.kind(),
                "server": i.report.info.server,
                "bytes": i.bytes,
                "bytes_behind_its_end": i.report.info.trailing,
                "checksum": i.report.info.has_checksum,
                "keys": Keys::from(&i.report.tally),
                "log": log_json(&i.report.tally.log),
                "error": i.error,
            })).collect::<Vec<_>>(),
        })
    }

    fn metrics(&self) -> String {
        use std::fmt::Write;
        let total = self.total();
        let mut out = String::new();
        let mut family = |name: &str, help: &str, kind: &str, samples: &[(&str, String)]| {
            let _ = writeln!(
                out,
                "# HELP redis_migration_{name} {help}\n# TYPE redis_migration_{name} {kind}"
            );
            for (labels, value) in samples {
                let _ = writeln!(out, "redis_migration_{name}{labels} {value}");
            }
        };
        family(
            "keys",
            "Keys of the last run by what became of them.",
            "gauge",
            &[
                ("{fate=\"written\"}", total.written.to_string()),
                ("{fate=\"filtered\"}", total.filtered.to_string()),
                ("{fate=\"expired\"}", total.expired.to_string()),
                ("{fate=\"rejected\"}", total.rejected.to_string()),
                ("{fate=\"existing\"}", total.existing.to_string()),
            ],
        );
        family(
            "keys_read",
            "Keys read by the last run.",
            "gauge",
            &[("", total.read.to_string())],
        );
        let log = &total.log;
        family(
            "log_commands",
            "Commands of logs of the last run by what became of them.",
            "gauge",
            &[
                ("{fate=\"written\"}", log.written.to_string()),
                ("{fate=\"filtered\"}", log.filtered.to_string()),
                ("{fate=\"rejected\"}", log.rejected.to_string()),
            ],
        );
        family(
            "commands",
            "Commands written by the last run.",
            "gauge",
            &[("", total.commands.to_string())],
        );
        family(
            "bytes_in",
            "Bytes of input of the last run.",
            "gauge",
            &[("", self.bytes_in().to_string())],
        );
        family(
            "bytes_out",
            "Bytes written by the last run.",
            "gauge",
            &[("", self.bytes_out.to_string())],
        );
        family(
            "seconds",
            "Duration of the last run.",
            "gauge",
            &[("", self.seconds.to_string())],
        );
        family(
            "exit_code",
            "Exit code of the last run.",
            "gauge",
            &[("", self.exit.code().to_string())],
        );
        let now = Timestamp::now().as_second().to_string();
        family(
            "end_time_seconds",
            "Unix time at which the last run ended.",
            "gauge",
            &[("", now)],
        );
        out
    }

    /// Writes the files that were asked for; an error names the file.
    pub fn files(&self, manners: &MannersArgs) -> Result<(), String> {
        if let Some(path) = &manners.summary_file {
            replace(path, &format!("{:#}\n", self.json()), Disk::Synced)?;
        }
        if let Some(path) = &manners.metrics_file {
            replace(path, &self.metrics(), Disk::Synced)?;
        }
        Ok(())
    }
}

/// Gauges for Prometheus: name, what it tells, value.
pub fn metrics(gauges: &[(&str, &str, f64)]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for (name, help, value) in gauges {
        let _ = writeln!(
            out,
            "# HELP redis_migration_{name} {help}\n# TYPE redis_migration_{name} gauge\nredis_migration_{name} {value}"
        );
    }
    out
}

/// Puts a small file in its place as a whole, so that no reader sees half of it. Devices and pipes are written as
/// they are.
pub fn replace(path: &Path, text: &str, disk: Disk) -> Result<(), String> {
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    }
    file::replace(path, text.as_bytes(), disk).map_err(|error| error.to_string())
}
